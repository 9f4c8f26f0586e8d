"""The command line: `surefoot COMMAND …`; every command and every flag is typed from the same code as Python's."""

from __future__ import annotations

import dataclasses
import json
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, get_type_hints

from surefoot.errors import UsageError, nearest

WHOLE = ("--steps", "--checkpoint-every", "--evaluate-every", "--episodes", "--seeds", "--num-seeds", "--num-envs")


def methods(setting: str | None = None) -> None:
    """List the methods, what each is for, and how its claim stands."""
    from surefoot import catalogue

    known = sorted({paper.setting for paper in catalogue.papers()})
    if setting is not None and setting not in known:
        raise UsageError(f"setting={setting!r} is unknown. {nearest(setting, known)}")
    built = [p for p in catalogue.papers() if p.built and setting in (None, p.setting)]
    for paper in built:
        print(f"{paper.slug:<20}{paper.status:<11}{paper.summary}")
    for baseline in catalogue.baselines():
        if baseline.built and setting in (None, baseline.module.split(".")[2]):
            print(f"{baseline.slug:<20}{'baseline':<11}{baseline.title}")
    planned = sum(not p.built for p in catalogue.papers() if setting in (None, p.setting))
    print(f"\n{len(built)} papers built, {planned} planned.  One of them in full: surefoot explain SLUG")


def evaluate(run: Path, /, episodes: int = 20, seed: int = 0, env: str | None = None, video: bool = False) -> None:
    """Play deterministic episodes with the agent of RUN; --video also films one."""
    from surefoot import api

    film = (run if run.is_dir() else Path()) / "video.mp4" if video else None
    figures = api.evaluate(run, env, episodes, seed=seed, video=film)
    low, high = figures["mean_interval"]
    print(f"{figures['env']} · {episodes} episodes from seed {seed}")
    print(f"mean return {figures['mean']:.2f}  95 % interval [{low:.2f}, {high:.2f}]")
    print(f"lowest {figures['min']:.2f}  highest {figures['max']:.2f}")
    if film is not None:
        print(f"video: {figures['video']}")


def stress(
    run: Path,
    /,
    perturb: str = "rrls:2d",
    episodes: int = 10,
    points: int = 10,
    grid: Literal["closed", "rrls"] = "closed",
    seed: int = 0,
    env: str | None = None,
) -> None:
    """Play the agent of RUN across a sweep of perturbations; worst, mean, CVaR and nominal returns."""
    from surefoot import api

    print(api.stress(run, env, perturb, episodes=episodes, points=points, grid=grid, seed=seed).table())


def compare(
    methods: Annotated[tuple[str, ...], "positional"],
    /,
    env: tuple[str, ...],
    seeds: int = 5,
    steps: int = 100_000,
    out: Path | None = None,
) -> None:
    """Train METHODS on the same environments and seeds, and compare what they reach."""
    from surefoot import api

    print(api.compare(methods, env, seeds=seeds, steps=steps, out=out).table())


def claim(slug: str = "", /, all: bool = False, seeds: int | None = None, workers: int = 1) -> None:
    """Run a paper's headline claim as an experiment; --all runs those without a result, in parallel WORKERS."""
    from surefoot.claims.claim import run_claim, run_missing

    if bool(slug) == all:
        raise UsageError("give either the slug of a paper or --all.")
    for result in run_missing(workers) if all else [run_claim(slug, seeds)]:
        print(f"{result['slug']}: {result['verdict'].upper()}\n  {result['claim']}")
        for name, e in result["estimates"].items():
            print(f"  {name:<44}{e['value']:>10.4g}  [{e['low']:.4g}, {e['high']:.4g}]")


def report(run: Path, /) -> None:
    """Write report.html into RUN: curves, stress results, configuration, one self-contained file."""
    from surefoot.evaluate.report import write_report

    print(write_report(run))


def explain(slug: str, /) -> None:
    """The method on one screen: purpose, formula, steps, hyperparameters."""
    from surefoot import api

    print(api.explain(slug))


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """What a run is besides its method."""

    env: str
    """Gymnasium or EnvPool id, or module:factory."""
    steps: int = 100_000
    """Environment steps of each seed."""
    seed: int = 0
    """The first seed."""
    num_seeds: int = 1
    """How many consecutive seeds to train at once, in one process."""
    run_dir: Path | None = None
    """Folder of the run; runs/METHOD-ENV-SEED-TIME if not given."""
    backend: Literal["auto", "gymnasium", "process", "envpool"] = "auto"
    """What steps the environments."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Whether the gradient step is compiled; auto: where it pays off."""
    loggers: tuple[str, ...] = ("tensorboard",)
    """Besides metrics.jsonl: tensorboard, wandb, trackio."""
    evaluate_every: int | None = None
    """Steps between deterministic evaluations."""
    evaluate_episodes: int = 10
    """Episodes of each evaluation."""
    checkpoint_every: int | None = None
    """Steps between checkpoints; a tenth of the run if not given."""
    time_limit: float | None = None
    """Seconds after which the run ends, with a checkpoint."""
    threads: int = 1
    """Threads of torch; small networks are fastest on one."""


def train(arguments: Sequence[str]) -> None:
    """Train METHOD on an environment, or go on with a run: train METHOD --env ENV …, train --resume RUN."""
    import torch
    import tyro

    from surefoot import api, catalogue

    if arguments and arguments[0] == "--resume":
        if len(arguments) != 2:
            raise UsageError("train --resume takes the folder of a run and nothing else; the run's settings are in it.")
        return _finished(api.resume(arguments[1]))
    if not arguments or arguments[0].startswith("-"):
        known = ", ".join(entry.slug for entry in catalogue.methods())
        raise UsageError(f"train needs a method first: train METHOD --env ENV. Methods: {known}.")
    slug, *rest = arguments
    method = catalogue.method_class(slug)
    given = dataclasses.asdict(tyro.cli(_typed(method), args=rest, prog=f"surefoot train {slug}"))
    torch.set_num_threads(given.pop("threads"))
    return _finished(api.train(slug, **given))


def _typed(method: type) -> type:
    """One dataclass with the settings of a run and the hyperparameters of a method, as tyro reads it."""
    import tyro

    hints, fields = get_type_hints(method), []
    for field in dataclasses.fields(TrainSettings):
        fields.append((field.name, get_type_hints(TrainSettings)[field.name], field))
    for field in dataclasses.fields(method):
        choices = field.metadata.get("choices")
        kind = Literal[choices] if choices else hints[field.name]  # type: ignore[valid-type]
        kind = Optional[kind] if choices and field.default is None else kind  # noqa: UP045 (a Literal made at run time)
        text = field.metadata.get("help", "").replace("%", "%%")
        fields.append((field.name, Annotated[kind, tyro.conf.arg(help=text)], dataclasses.field(default=field.default)))
    made = dataclasses.make_dataclass(method.__name__, fields, frozen=True)
    made.__doc__ = (method.__doc__ or "").splitlines()[0]
    return made


def _finished(run: Any) -> None:
    last = run.metrics()[-len(run.config["seeds"]) :]
    returns = [f"{row['return_mean']:.1f}" for row in last if "return_mean" in row]
    means = ", ".join(returns) or "none ended"
    print(f"{run.path}: {last[0]['step']:,} steps, mean return of the last 100 episodes {means}")
    print(f"next: surefoot stress {run.path} · surefoot report {run.path}")


COMMANDS: dict[str, Callable[..., None]] = {
    "methods": methods,
    "explain": explain,
    "train": train,
    "evaluate": evaluate,
    "stress": stress,
    "compare": compare,
    "claim": claim,
    "report": report,
}


def _help() -> str:
    lines = ["usage: surefoot COMMAND …   (surefoot COMMAND --help tells more)", ""]
    return "\n".join(lines + [f"  {name:<10}{(f.__doc__ or '').splitlines()[0]}" for name, f in COMMANDS.items()])


def _whole_numbers(arguments: Sequence[str]) -> list[str]:
    """1e6 and 200_000 as whole numbers where one is wanted."""
    out = list(arguments)
    for i, (flag, value) in enumerate(zip(arguments, arguments[1:], strict=False)):
        if flag in WHOLE:
            try:
                number = float(value.replace("_", ""))
            except ValueError:
                continue
            out[i + 1] = str(int(number)) if number == int(number) else value
    return out


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; a mistake ends with one paragraph on stderr and exit code 2."""
    arguments = _whole_numbers(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return
    name, *rest = arguments
    try:
        if name == "--version":
            from surefoot import __version__

            print(__version__)
        elif name not in COMMANDS:
            raise UsageError(f"{name!r} is not a command. {nearest(name, COMMANDS)}")
        elif name == "train" and rest[:1] not in (["-h"], ["--help"]):
            train(rest)
        elif name == "train":
            print(f"usage: surefoot train METHOD --env ENV [options]\n\n{train.__doc__}")
            print("surefoot train METHOD --help lists all.")
        else:
            import tyro

            tyro.cli(COMMANDS[name], args=rest, prog=f"surefoot {name}")
    except (UsageError, _env_error()) as error:
        print(textwrap.fill(f"surefoot: {error}", 100, break_long_words=False), file=sys.stderr)
        raise SystemExit(2) from None
    except json.JSONDecodeError as error:
        print(f"surefoot: a file is damaged: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _env_error() -> type[Exception]:
    """`EnvError` if environments were ever imported; nothing to catch otherwise."""
    module = sys.modules.get("surefoot.envs.vector")
    return module.EnvError if module is not None else UsageError


if __name__ == "__main__":
    main()
