"""The command `surefoot tune`: tune the hyperparameters of a method with Optuna."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from surefoot.errors import UsageError, printable


def tune(
    method: Annotated[str, arg(metavar="METHOD")],
    /,
    env: str | None = None,
    task: str | None = None,
    trials: int = 50,
    steps: int | None = None,
    seeds: int = 3,
    seed: int = 0,
    evaluations: int = 10,
    evaluate_episodes: int = 10,
    final_seeds: int = 5,
    only: tuple[str, ...] = (),
    space: Annotated[tuple[str, ...], arg(metavar="NAME=RANGE …")] = (),
    set: Annotated[tuple[str, ...], arg(metavar="NAME=VALUE …")] = (),
    at_once: int = 1,
    out: Path | None = None,
    on: str = "",
) -> None:
    """Tune the hyperparameters of METHOD on an environment with Optuna, and measure the result on fresh seeds.

    Args:
        method: Slug of the method, or module:Class of your own.
        env: Environment, such as CartPole-v1 or my_env:MyCart-v0.
        task: Task of a language model.
        trials: Number of trials in all; a study found in OUT is continued up to it.
        steps: Steps of every trial; by default the method's own number.
        seeds: Random seeds of every trial, the same for all.
        seed: First random seed.
        evaluations: Evaluations in a trial, at which it may be pruned.
        evaluate_episodes: Episodes per evaluation and seed.
        final_seeds: Fresh seeds on which the best and the default hyperparameters are compared; 0 for none.
        only: Names of hyperparameters to tune; by default all that declare a range.
        space: Ranges of your own, such as learning_rate=1e-5..1e-3:log clip=0.1..0.3 epochs=4,10.
        set: Hyperparameters and options that are fixed, such as num_envs=4 env_kwargs={"mass":2}.
        at_once: Trials that are drawn together, before any of them is run; the result depends on it.
        out: Folder of the study, which also resumes it; runs/tune-METHOD-ENV-TIME by default.
        on: Where to compute: ray for a Ray cluster on this machine, ray:ADDRESS for another; else in this process.
    """
    from surefoot.loops.common.words import pairs
    from surefoot.search import from_words
    from surefoot.study import tune as tuned

    fixed: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in pairs(set, "set").items()}
    if clash := sorted(signature(tuned).parameters.keys() & fixed.keys()):
        option = clash[0].replace("_", "-")
        raise UsageError(f"--set {clash[0]}=… is not allowed; it is an option of its own: --{option}.")
    beside: Any = {"task": task, "seeds": seeds, "seed": seed, "evaluations": evaluations, "only": only, "out": out}
    beside |= {"at_once": at_once, "on": on, "evaluate_episodes": evaluate_episodes, "final_seeds": final_seeds}
    given = from_words(pairs(space, "space"))
    found = tuned(method, env, trials, steps, space=given, progress=_say, **beside, **fixed)
    print(printable(found.table()))


def _say(line: str) -> None:
    print(printable(line), flush=True)
