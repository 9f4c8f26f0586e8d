"""The command line: `surefoot COMMAND …`. Commands and options are derived from the same code as the Python API."""

from __future__ import annotations

import dataclasses
import itertools
import os
import shlex
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import arg

from surefoot.arguments import parsed, whole
from surefoot.auditing import audit, harden
from surefoot.certifying import certify
from surefoot.claiming import claim
from surefoot.comparing import Compared, compare
from surefoot.datasets import dataset
from surefoot.errors import UsageError, nearest, printable
from surefoot.examining import diagnose, generalize
from surefoot.sharing import export, push
from surefoot.speaking import align, chat, steer
from surefoot.stressing import stress
from surefoot.training import resume, train
from surefoot.tuning import tune


def methods(setting: str | None = None) -> None:
    """List the methods, the purpose of each, and how its paper's claim stands, tier by tier.

    Args:
        setting: List only the methods of one setting, such as control.
    """
    from surefoot import catalogue

    known = sorted({paper.setting for paper in catalogue.papers()})
    if setting is not None and setting not in known:
        raise UsageError(f"setting={setting!r} is unknown. {nearest(setting, known)}")
    built = [p for p in catalogue.papers() if p.built and setting in (None, p.setting)]
    rows = [(paper.slug, paper.summary, paper.standing) for paper in built]
    for baseline in catalogue.baselines():
        if baseline.built and setting in (None, baseline.module.split(".")[2]):
            rows.append((baseline.slug, baseline.title, "baseline"))
    rows += [(plugin.slug, plugin.title, "of another package") for plugin in catalogue.plugins() if setting is None]
    width = max((len(slug) for slug, *_ in rows), default=0)
    for slug, words, standing in rows:
        print(f"{slug:<{width}}  {words}\n{'':<{width}}  {standing}")
    planned = sum(not p.built for p in catalogue.papers() if setting in (None, p.setting))
    print(f"\n{len(built)} papers built, {planned} planned.  For details of one: surefoot explain SLUG")


def evaluate(
    run: Annotated[Path, arg(metavar="RUN")],
    /,
    episodes: int = 20,
    seed: int = 0,
    env: str | None = None,
    task: str | None = None,
    data: str | None = None,
    k: str = "",
    judge: str | None = None,
    perturb: str | None = None,
    video: bool = False,
    algo: str | None = None,
    trust: bool = False,
) -> None:
    """Play deterministic episodes with the agent of RUN; --video also films one.

    Args:
        run: Folder of a run or of an agent, hf:user/name, or a policy of another library, with --env: model.zip of
            Stable-Baselines3, policy.onnx, policy.pt, WEIGHTS@module:Class, module:function.
        episodes: Number of episodes.
        seed: Random seed; the same seed gives the same episodes in every evaluation.
        env: Environment, if not the one it was trained in.
        task: Task of a language model, if not the one it was trained on.
        data: Held-out data to judge an agent by instead of playing (fitted Q evaluation), or a table to measure a model
            of tables on, if not the one it was trained on.
        k: For a language model, values of k for pass@k, such as 1,4,16; adds lengths, entropy and sample completions.
        judge: For a language model, who compares its answers with those of the model before training: task,
            reward:FOLDER for a reward model, or module:function; gives win rate, worst group and KL.
        perturb: Perturbation to play under, as for stress, such as observation-noise:0.1 or obs-pgd:0.05.
        video: Film one episode, as video.mp4 in RUN.
        algo: Algorithm of a Stable-Baselines3 model file, such as ppo.
        trust: Import and call what RUN names as module:name, and unpickle a model file, which can run any code.
    """
    from surefoot import api

    film = (run if run.is_dir() else Path()) / "video.mp4" if video else None
    options: Any = {"seed": seed, "perturb": perturb, "video": film, "trust": trust}
    options |= {"k": [whole(part) for part in k.split(",")] if k else (), "judge": judge}
    figures = api.evaluate(run, env, episodes, task=task, data=data, algo=algo, **options)
    if "table" in figures:
        return print(printable(figures["table"]))
    agent = "" if figures["agent_seed"] is None else f" · agent of seed {figures['agent_seed']}"
    under = "" if perturb is None else f" under {perturb}"
    played = f"{figures['env']}{under} · {figures['episodes']} episodes from seed {seed}, deterministic actions{agent}"
    print(printable(played))
    interval, exact = figures["mean_interval"], figures.get("exact")
    said = figures["no_interval"] if interval is None else f"95 % interval [{interval[0]:.2f}, {interval[1]:.2f}]"
    print(f"mean return {figures['mean']:.2f}  {said}{'' if exact is None else '  (simulated, not discounted)'}")
    if exact is not None and exact["value"] is not None:
        print(f"exact {exact['measured']}: {exact['value']:.6g}")
    print(f"lowest {figures['min']:.2f}  highest {figures['max']:.2f}")
    if "success_rate" in figures:
        print(f"success rate {figures['success_rate']:.0%}")
    if film is not None:
        print(f"video: {figures['video']}")


def report(place: Annotated[Path, arg(metavar="PLACE")], /) -> None:
    """Write a page about PLACE: a run, a comparison, an audit, a stress test, a solution, or a paper's claim.

    The page is one self-contained file: report.html in the folder, or beside the file.

    Args:
        place: Folder of a run, of a comparison (compare --out), of a solution (solve --out) or of an audit, the .json
            of a stress test, a folder with the records of a claim, or the slug of a paper.
    """
    from surefoot.evaluate.pages import folder

    print(folder.report(place))


def solve(
    mdp: Annotated[str, arg(metavar="MDP")],
    /,
    ambiguity: str | None = None,
    rectangular: str = "sa",
    criterion: Literal["discounted", "finite", "total", "average"] | None = None,
    nature: Literal["worst", "best"] = "worst",
    gamma: float | None = None,
    horizon: int | None = None,
    tolerance: float = 1e-6,
    time_limit: float | None = None,
    points: int = 11,
    states: int = 20,
    top: int = 10,
    out: Path | None = None,
) -> None:
    """Solve MDP exactly against the worst case of an ambiguity set: value, policy, and worst-case transitions.

    Args:
        mdp: A built-in MDP with its parameters, such as garnet:50,4,8 (surefoot zoo lists them), a .npz or .csv file,
            or gym:FrozenLake-v1.
        ambiguity: An ambiguity set or risk measure, such as kl:0.1, l1:0.2,support=nominal or cvar:0.05; by default
            only the nominal MDP is solved. A range of radii, such as kl:0..1, gives a sweep: the price of robustness.
        rectangular: Rectangularity: sa, one set per state-action pair; s, one set shared by the actions of a state.
        criterion: Optimality criterion; by default finite with a horizon, total with gamma 1, otherwise discounted.
        nature: worst for an adversary; best for the most favourable model of the set, an upper bound.
        gamma: Discount factor, if not the MDP's own.
        horizon: Number of steps, if not the MDP's own; gamma is then 1 by default.
        tolerance: Stop when the gap between the bounds on the value is at most this.
        time_limit: Time limit in seconds; the bounds found so far are then reported.
        points: Number of radii in a sweep.
        states: Number of states in the table; 0 shows all.
        top: Number of changes to show between the nominal and the worst-case transitions.
        out: Folder for the page report.html, solution.npz, policy.csv, worst_case.csv and, for a grid, grid.png; for a
            sweep, for the page, sweep.csv and price.png.
    """
    from surefoot.envs.tabular import resolve
    from surefoot.envs.tabular.resolve import assumes_gamma
    from surefoot.evaluate import solutions
    from surefoot.evaluate.sweeps import price_of_robustness, swept
    from surefoot.solvers import solve

    for name, number in (("top", top), ("states", states)):
        if number < 0:
            raise UsageError(f"{name}={number} is not allowed; it must be a whole number of at least 0.")
    made = resolve(mdp, gamma=gamma, horizon=horizon)
    assumed = gamma is None and horizon is None and assumes_gamma(mdp)
    options: Any = {"rectangular": rectangular, "criterion": criterion, "nature": nature, "tolerance": tolerance}
    options["time_limit"] = time_limit
    if swept(ambiguity):
        found = price_of_robustness(made, str(ambiguity), points, assumed=assumed, **options)
        print(f"{mdp} · {made.states:,} states, {made.actions:,} actions · {ambiguity}\n\n{found.table()}")
        found = dataclasses.replace(found, command=_command())
        return print("\n" + "\n".join(map(str, found.save(out))) if out else "\n--out FOLDER saves the result.")
    with solutions.watched(tolerance) as progress:
        solution = solve(made, ambiguity, **options, progress=progress)
    shown: Any = {"nature": nature, "states": states or None, "assumed": assumed}
    print(solutions.report(made, solution, mdp, ambiguity, top, **shown))
    if out is not None:
        from surefoot.evaluate.pages.solution import Solved, write

        paths = solutions.save(made, solution, out, ambiguity)
        about = Solved(mdp, ambiguity, rectangular, nature, assumed, _command())
        print("\n" + "\n".join(map(str, [*paths, write(out, made, solution, about)])))


def zoo() -> None:
    """List the built-in MDPs and their parameters."""
    from surefoot.evaluate import solutions

    print(f"{solutions.zoo()}\n\nTo solve one: surefoot solve NAME:number,…,key=number --ambiguity kl:0.1")


def explain(slug: Annotated[str, arg(metavar="SLUG")], /) -> None:
    """Describe a method on one screen: purpose, formula, steps, hyperparameters.

    Args:
        slug: Slug of the method, which surefoot methods lists, or module:Class of your own.
    """
    from surefoot import api

    print(api.explain(slug))


COMMANDS: dict[str, Callable[..., None]] = {
    "methods": methods,
    "explain": explain,
    "train": train,
    "resume": resume,
    "tune": tune,
    "dataset": dataset,
    "evaluate": evaluate,
    "chat": chat,
    "stress": stress,
    "audit": audit,
    "harden": harden,
    "certify": certify,
    "generalize": generalize,
    "diagnose": diagnose,
    "export": export,
    "push": push,
    "compare": compare,
    "claim": claim,
    "report": report,
    "solve": solve,
    "zoo": zoo,
    "align": align,
    "steer": steer,
}

PLAYING = ("evaluate", "stress", "audit", "certify", "generalize", "diagnose")  # commands that take any policy


def _command() -> str:
    """The command that is running."""
    return shlex.join(["surefoot", *sys.argv[1:]])


def _help() -> str:
    lines = ["usage: surefoot COMMAND …   (surefoot COMMAND --help for details)", ""]
    return "\n".join(lines + [f"  {name:<11}{(f.__doc__ or '').splitlines()[0]}" for name, f in COMMANDS.items()])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; a mistake ends with one paragraph on stderr and exit code 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    name, *rest = arguments or ["--help"]
    try:
        try:
            _run(name, rest)
        finally:
            sys.stdout.flush()  # here, where a reader that has left can still be told from a mistake
    except BrokenPipeError:  # the reader, such as head, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
    except KeyboardInterrupt:
        print("surefoot: interrupted.", file=sys.stderr)
        raise SystemExit(130) from None
    except (UsageError, OSError, MemoryError, _env_error()) as error:
        words = textwrap.fill(printable(f"surefoot: {error}"), 100, break_long_words=False, break_on_hyphens=False)
        print(words, file=sys.stderr)  # paths and commands stay on one line for copying
        raise SystemExit(2) from None


def _run(name: str, rest: Sequence[str]) -> None:
    """Run the command of this name."""
    if (_names_a_module(name, rest) or (name in PLAYING and _is_named(rest))) and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last, so that it shadows no installed package
    if name in ("-h", "--help", "help"):
        print(_help())
    elif name in ("--version", "version"):
        from surefoot import __version__

        print(__version__)
    elif name not in COMMANDS:
        raise UsageError(f"{name!r} is not a command. {nearest(name, COMMANDS)}")
    elif name in ("train", "dataset"):
        COMMANDS[name](rest)
    elif name == "compare" and rest[:1] not in (["-h"], ["--help"]):
        compare(rest)
    else:
        parsed(COMMANDS[name] if name != "compare" else Compared, rest, f"surefoot {name}")


def _names_a_module(command: str, words: Sequence[str]) -> bool:
    """Whether the command names a module, which may be in the current folder, or trusts a run's folder to name one."""
    pairs = [(w.partition("=")[0], w.partition("=")[2] or after) for w, after in zip(words, [*words[1:], ""])]
    given = [value for name, value in pairs if name in ("--env", "--reward", "--method", "--constraint", "--judge")]
    given += [value for name, value in pairs if name in ("--task", "--data") and value.startswith("episodes:")]
    if command in ("train", "tune", "explain", "compare", "claim"):
        given += itertools.takewhile(lambda word: not word.startswith("-"), words)  # methods and claims
    return "--trust" in words or any(":" in value for value in given)


def _is_named(words: Sequence[str]) -> bool:
    """Whether the policy to play is module:name, or weights of such a module."""
    return bool(words) and ":" in words[0] and not words[0].startswith("hf:")


def _env_error() -> type[Exception]:
    """`EnvError` if its module has been imported; otherwise a class that nothing raises."""
    module = sys.modules.get("surefoot.envs.vector")
    return module.EnvError if module is not None else UsageError


if __name__ == "__main__":
    sys.path[:] = [path for path in sys.path if path not in ("", os.getcwd())]  # python -m puts it first
    main()
