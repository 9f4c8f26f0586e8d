"""The commands `surefoot train` and `surefoot resume`: start or continue a run, and print a summary of its result."""

from __future__ import annotations

import argparse
import dataclasses
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from surefoot.arguments import parsed, typed, whole
from surefoot.errors import UsageError
from surefoot.hyperparameters import check_threads


def train(arguments: Sequence[str]) -> None:
    """Train METHOD on an environment: train METHOD --env ENV …, or train --config FILE."""
    if arguments[:1] in (["-h"], ["--help"]):
        return print(_help())
    import torch

    from surefoot import api, catalogue
    from surefoot.configfile import Configuration, configuration
    from surefoot.configure import kind_of, method_class
    from surefoot.envs.names import remember

    if "--resume" in [word.partition("=")[0] for word in arguments]:
        return parsed(resume, _resumed(arguments), "surefoot train --resume")
    named = [*arguments[:1]] if arguments and not arguments[0].startswith("-") else []
    rest, early = [*arguments[len(named) :]], _early(arguments)
    if not named and not early["config"]:
        known = ", ".join(entry.slug for entry in catalogue.methods())
        raise UsageError(
            "train needs a method as its first argument: train METHOD --env ENV, or train --config FILE. Methods: "
            f"{known}."
        )
    remember(early["env"] or early["task"], early["reward"], *named)
    given = configuration(early["config"], (named or [None])[0], early, early["trust"]) if early["config"] else None
    given = given or Configuration(named[0], {})
    cls, kind = method_class(given.method), kind_of(given.method)
    typing = typed(cls, _defaults(cls, kind, given.values, early["preset"]))
    options = dataclasses.asdict(parsed(typing, rest, f"surefoot train {given.method}"))
    for name in ("preset", "config", "trust"):
        options.pop(name, None)
    check_threads(threads := options.pop("threads"))
    torch.set_num_threads(threads)
    place = options.pop(kind.env_argument)
    known = {*options, *early, kind.env_argument, "threads"}
    beside = {name: value for name, value in given.values.items() if name not in known}
    with _summary_after_signal():
        _print_summary(api.train(given.method, place, **options, **beside))


def _help() -> str:
    """What `surefoot train --help` prints: how to call it, and the methods."""
    from surefoot import catalogue

    lines = [train.__doc__ or "", "", "usage: surefoot train METHOD --env ENV [options]   --help lists those of METHOD"]
    lines += [
        "       surefoot train --config FILE [options]      FILE is .toml, .yaml, .json, or a run; options win",
        "       surefoot train own:Mine --env my_env:MyCart-v0      of your own, as module:Class and module:ID",
        "       surefoot train METHOD --env ENV --start RUN         from the weights of RUN",
        "       surefoot resume RUN [--steps +N]                    continue RUN",
        "",
        "methods:",
    ]
    known = [entry.slug for entry in catalogue.methods()]
    return "\n".join(
        [
            *lines,
            textwrap.fill(", ".join(known), 100, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False),
        ]
    )


def _early(arguments: Sequence[str]) -> dict[str, Any]:
    """The options on which the declaration of the others depends; None for what is not given."""
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False, allow_abbrev=False)
    for names in (("--preset",), ("--env",), ("--task", "--data"), ("--reward",)):
        parser.add_argument(*names)
    parser.add_argument("--config", nargs="+", type=Path, default=[])
    parser.add_argument("--trust", action="store_true")
    try:
        return vars(parser.parse_known_args(arguments)[0])
    except argparse.ArgumentError:  # a value is missing, as the parser of all options says
        return vars(parser.parse_args([]))


def _defaults(method: type, kind: Any, values: Mapping[str, Any], preset: str | None) -> dict[str, Any]:
    """Defaults of the options: a configuration's preset and values, then a preset given beside it."""
    from surefoot.configure import preset as of
    from surefoot.loops.common.words import as_words, pairs, wrapper, wrapper_words

    found = {**of(method, values.get("preset")), **values, **of(method, preset)}
    for field in dataclasses.fields(kind.options):
        if field.metadata.get("words") and field.name in found:
            value = found[field.name] or ()
            both = [one if isinstance(one, (list, tuple)) else [one, {}] for one in map(wrapper, value)]
            words = wrapper_words(both) if field.name == "wrappers" else as_words(pairs(value, field.name))
            found[field.name] = words
    for name in ("reward", "reward_weights"):
        if isinstance(found.get(name), (list, tuple)):
            found[name] = ",".join(map(str, found[name]))
    if "run_dir" in found:
        found["run_dir"] = Path(found["run_dir"])
    return found


@contextmanager
def _summary_after_signal() -> Iterator[None]:
    """If a signal ends the run, print its summary and the next commands; the exit code is 130 or 143."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as ended:
        if not hasattr(ended, "run"):
            raise
        from surefoot.loops.common.folder import Run

        _print_summary(Run(ended.run))  # type: ignore[union-attr]
        code = ended.code if isinstance(ended, SystemExit) else 130
        raise SystemExit(code) from None  # so that a command after && runs only if the run finished


def _resumed(arguments: Sequence[str]) -> list[str]:
    """The arguments of `resume` in `train --resume RUN …`, wherever the option stands."""
    words = [part for word in arguments for part in (word.split("=", 1) if word.startswith("--resume=") else [word])]
    place = words.index("--resume")
    if place + 1 == len(words) or words[0] != "--resume" and not words[0].startswith("-"):
        raise UsageError(
            "train --resume takes the folder of a run, which holds its method and settings: train --resume RUN, and "
            "train --resume RUN --steps +100000 to train for longer."
        )
    return [words[place + 1], *words[:place], *words[place + 2 :]]


def resume(
    run: Annotated[Path, arg(metavar="RUN")],
    /,
    steps: str | None = None,
    method: str | None = None,
    env: str | None = None,
    task: str | None = None,
    data: str | None = None,
    time_limit: float | None = None,
    trust: bool = False,
) -> None:
    """Resume RUN, bit for bit as if it had not been interrupted; --steps +N trains it for longer, finished or not.

    Args:
        run: Folder of the run, which holds its settings.
        steps: Steps (or iterations) to add to those of the run, with a plus sign, such as +100000.
        method: Method of your own as module:Class, which the folder may only name.
        env: Environment as module:name, which the folder may only name.
        task: Task of a language model, where the folder may only name it.
        data: Data set of an offline run, where it is no longer at its place.
        time_limit: Time limit in seconds; the run then ends with a checkpoint.
        trust: Import and call what RUN names as module:name.
    """
    from surefoot import api

    if steps is not None and not steps.startswith("+"):
        raise UsageError(f"steps={steps!r} is not allowed; write the steps to add, such as --steps +100000.")
    more = None if steps is None else whole(steps[1:])
    options: dict[str, Any] = {"method": method, "env": env or task, "time_limit": time_limit, "trust": trust}
    options |= {"data": data} if data else {}
    with _summary_after_signal():
        _print_summary(api.resume(run, steps=more, **options))


def _print_summary(run: Any) -> None:
    from surefoot.loops.common import distributed
    from surefoot.loops.common.best import CRITERION, REWARD
    from surefoot.loops.common.final import definition, final_returns
    from surefoot.loops.common.folder import BEST, agent_folder
    from surefoot.loops.common.kinds import loop
    from surefoot.models.saved import holds_agent, read_facts

    if distributed.rank() > 0:
        return
    rows, agent, solved = run.metrics(), run.agent(), None
    if agent.loop == "tabular":
        from surefoot.evaluate.trained import read

        solved = read(run.path)
    finals = (
        ", ".join(f"{x:.6g}" for x in final_returns(rows).values() if math.isfinite(x))
        or "none: no episode ended, no evaluation"
    )
    said = definition(rows) if solved is None else f"{definition(rows)}; {solved.measured}"
    done = rows[-1]["step"] if rows else 0
    print(f"{run.path}: {done:,} {loop(agent.loop).measured}, final return {finals} ({said})")
    if solved is not None:
        print("\n" + "\n".join([solved.table, "", *solved.lines()]))
    for seed in run.config["seeds"]:
        folder = agent_folder(run.path, run.config["seeds"], seed, BEST)
        if holds_agent(folder):
            facts = read_facts(folder)
            name, value = ("evaluation", facts[CRITERION]) if CRITERION in facts else ("reward", facts[REWARD])
            print(f"best: {folder}, after {facts['steps']:,}, {name} {value:.6g} (chosen by it: too good)")
    again = f"{run.path}{_trust(run)}"
    resume = "" if run.finished else f"surefoot resume {again} · "
    more = [f"surefoot {command} · " for command in _to_play(run, agent)]
    held_out = " --data HELD-OUT" if _by_data_alone(run) else ""
    print(f"next: {resume}surefoot evaluate {again}{held_out} · {''.join(more)}surefoot report {run.path}")


def _by_data_alone(run: Any) -> bool:
    """Whether a run learned from data, and no environment was named beside them."""
    return run.config["env"].get("env") == ""


def _to_play(run: Any, agent: Any) -> list[str]:
    """What to do next with an agent: what it does when it acts, or what a model that does not act is for."""
    if _by_data_alone(run):
        return []  # there is nothing to play in
    writes = agent.loop == "group-rollout"
    if agent.loop in ("finite-sum", "supervised"):
        return []
    if hasattr(agent, "scores"):
        return [f"train grpo --reward reward-model:{run.path} …"]
    return [f"chat {run.path}" if writes else f"stress {run.path}{_perturb_option(run)}{_trust(run)}"]


def _trust(run: Any) -> str:
    """The `--trust` that later commands need where the run's files name code of the user's own."""
    from surefoot.loops.group_rollout.named_rewards import MODELS

    place = run.config["env"]
    rewards = place.get("reward") or []
    named = rewards if isinstance(rewards, list) else [rewards]
    named = [name for name in named if not name.startswith(MODELS)]  # weights, which run no code
    if "wrappers" in place or place["env"].startswith("episodes:"):
        named += [place["env"], *place.get("wrappers", ())]
    return " --trust" if any(":" in str(name) for name in named) else ""


def _perturb_option(run: Any) -> str:
    """The `--perturb` option to suggest for a run; empty for the six robust MuJoCo tasks, whose default applies."""
    from surefoot.envs.rrls import TASKS

    return "" if run.config["env"]["env"].removeprefix("rrls/") in TASKS else " --perturb sticky-action:0..0.5"
