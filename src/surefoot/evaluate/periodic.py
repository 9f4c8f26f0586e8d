"""Periodic evaluation during a run: the episodes, the callback that plays them, and the stored results."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from gymnasium.vector import VectorEnv

from surefoot.envs import make_single
from surefoot.envs.language import Task
from surefoot.errors import UsageError
from surefoot.files import write_whole
from surefoot.loops.common import run as runs
from surefoot.loops.common.kinds import Method, loop
from surefoot.loops.common.train import Callback
from surefoot.seeding import numpy_stream

LONGEST_NAME = 150  # characters of a file name; file systems allow 255 bytes


def evaluations(
    method: Method, env: Any, options: Mapping[str, Any], every: int | None, episodes: int
) -> list[Callback]:
    """A callback that plays deterministic episodes with every seed's agent every `every` steps; none for None."""
    if every is None:
        return []
    if isinstance(env, VectorEnv):
        raise UsageError("evaluate_every needs an id or a factory as env: a ready environment is in use for training.")
    if not getattr(method, "acts", True):
        raise UsageError(
            f"evaluate_every={every} is not allowed for {type(method).__name__}: a reward model plays no episodes; "
            "evaluate it when it is trained."
        )
    from surefoot.evaluate.rollout import returns

    if loop(method.loop).env_argument == "data":
        raise UsageError(
            "evaluate_every and keep_best are not allowed with data: no episodes are played. held_out=0.2 holds out a "
            "fifth of the rows, on which the model is measured after every epoch; scikit-learn's GridSearchCV "
            "tunes the estimators of surefoot.supervised."
        )
    inner = loop(method.loop).single(env, **options)
    single, seeds = partial(make_single, inner), seeds_in(inner, episodes, 0)
    single().close()  # fail now if it cannot be made, not at the first evaluation

    def evaluate(learner: Any, rows: list[dict[str, Any]]) -> None:
        pace = learner.steps // learner.iteration
        if learner.steps // every > (learner.steps - pace) // every:
            for index, row in enumerate(rows):
                row["evaluation_mean"] = float(returns(learner.agent(index), single, len(seeds), seeds).mean())

    return [evaluate]


def seeds_in(env: Any, episodes: int, seed: int) -> list[int]:
    """The seed of each episode. In a finite set of held-out examples none is played twice, as it would count twice."""
    from surefoot.evaluate.rollout import episode_seeds

    seeds = episode_seeds(seed, episodes)
    few = getattr(_inner(env), "held_out_size", None)
    return seeds if few is None else numpy_stream(seed, "held-out examples").permutation(few)[:episodes].tolist()


def env_name(env: Any) -> str:
    """The name in reports of an environment prepared by `Loop.single`; a task is named by its text."""
    inner = _inner(env)
    return str(inner) if isinstance(inner, Task) else runs.env_name(inner)


def _inner(env: Any) -> Any:
    """The argument from which `Loop.single` made an environment."""
    return env.args[0] if isinstance(env, partial) and env.args else env


def result_file(folder: Path, name: str) -> Path:
    """The file of a run's folder for results of this name, in letters and lengths that file systems allow."""
    safe = "".join(c if c.isalnum() or c in "-." else "-" for c in name)
    if len(safe) > LONGEST_NAME:
        safe = f"{safe[:LONGEST_NAME]}-{sha256(name.encode()).hexdigest()[:8]}"
    return folder / f"{safe}.json"


def keep(file: Path, text: str | bytes) -> None:
    """Write atomically. The results matter more than their file, so a full disk only raises a warning."""
    try:
        write_whole(file, text)
    except OSError as error:
        warnings.warn(f"{file} could not be written: {error}. Free disk space or fix the permissions.", stacklevel=3)
