"""The command `surefoot train`: start a run or resume one, and print a summary of its result."""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from surefoot.arguments import parsed, typed
from surefoot.errors import UsageError
from surefoot.hyperparameters import check_threads


def train(arguments: Sequence[str]) -> None:
    """Train METHOD on an environment, or resume a run: train METHOD --env ENV …, train --resume RUN."""
    import torch

    from surefoot import api, catalogue
    from surefoot.loops.common.kinds import loop

    if "--resume" in [word.partition("=")[0] for word in arguments]:
        return _resume(arguments)
    if not arguments or arguments[0].startswith("-"):
        known = ", ".join(entry.slug for entry in catalogue.methods())
        raise UsageError(f"train needs a method as its first argument: train METHOD --env ENV. Methods: {known}.")
    slug, *rest = arguments
    found = catalogue.method_class(slug)
    given = dataclasses.asdict(parsed(typed(found, _preset(found, rest)), rest, f"surefoot train {slug}"))
    given.pop("preset", None)
    check_threads(threads := given.pop("threads"))
    torch.set_num_threads(threads)
    place = given.pop(loop(found.loop).env_argument)
    with _summary_after_signal():
        _print_summary(api.train(slug, place, **given))


def _preset(method: type, arguments: Sequence[str]) -> dict[str, Any]:
    """The hyperparameters of `--preset`: the defaults of the other options."""
    from surefoot.configure import preset

    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--preset")
    try:
        return preset(method, parser.parse_known_args(arguments)[0].preset)
    except argparse.ArgumentError:  # the value is missing, as the parser of all options says
        return {}


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


def _resume(arguments: Sequence[str]) -> None:
    """Resume the run of `--resume RUN`; `--env`, `--task` and `--trust` are the only other options."""
    from surefoot import api

    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False, allow_abbrev=False)
    _ = [parser.add_argument(name) for name in ("--resume", "--env", "--task")]
    parser.add_argument("--trust", action="store_true")
    try:
        given, others = parser.parse_known_args(arguments)
    except argparse.ArgumentError:  # a value is missing
        given, others = None, arguments
    if others or given is None or not given.resume:
        raise UsageError(
            "train --resume takes the folder of a run, which holds the settings, and no options but --env, --task "
            "and --trust."
        )
    with _summary_after_signal():
        _print_summary(api.resume(given.resume, env=given.env or given.task, trust=given.trust))


def _print_summary(run: Any) -> None:
    from surefoot.loops.common import distributed
    from surefoot.loops.common.final import definition, final_returns
    from surefoot.loops.common.kinds import loop

    if distributed.rank() > 0:
        return
    rows, agent, solved = run.metrics(), run.agent(), None
    if agent.loop == "tabular":
        from surefoot.evaluate.trained import read

        solved = read(run.path)
    finals = ", ".join(f"{x:.6g}" for x in final_returns(rows).values() if math.isfinite(x)) or "none: no episode ended"
    said = definition(rows) if solved is None else f"{definition(rows)}; {solved.measured}"
    print(f"{run.path}: {rows[-1]['step']:,} {loop(agent.loop).measured}, final return {finals} ({said})")
    if solved is not None:
        print("\n" + "\n".join([solved.table, "", *solved.lines()]))
    resume = "" if run.finished else f"surefoot train --resume {run.path} · "
    also = f"chat {run.path}" if agent.loop == "group-rollout" else f"stress {run.path}{_perturb_option(run)}"
    print(f"next: {resume}surefoot evaluate {run.path} · surefoot {also} · surefoot report {run.path}")


def _perturb_option(run: Any) -> str:
    """The `--perturb` option to suggest for a run; empty for the six robust MuJoCo tasks, whose default applies."""
    from surefoot.envs.rrls import TASKS

    return "" if run.config["env"]["env"].removeprefix("rrls/") in TASKS else " --perturb sticky-action:0..0.5"
