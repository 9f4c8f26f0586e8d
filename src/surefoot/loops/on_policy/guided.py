"""On-policy methods that may ask other policies, the oracles, what to do. `surefoot train SLUG --oracles FOLDER`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from surefoot.errors import UsageError
from surefoot.hyperparameters import hyperparameter
from surefoot.loops.common.env_options import EnvOptions, environment_loop
from surefoot.loops.common.folder import Run
from surefoot.loops.on_policy.learner import Act, Learner
from surefoot.models.saved import holds_agent, load_agent

Oracle = Callable[[np.ndarray], np.ndarray]
"""From a batch of observations to actions as the environments take them."""


class GuidedLearner(Learner):
    """A learner with oracles, among whose state is what the method keeps of them (`method.beside`)."""

    def __init__(self, *given: Any, oracles: Sequence[tuple[str, Any]], **options: Any) -> None:
        super().__init__(*given, **options)
        if not isinstance(self.observation_space, gym.spaces.Box) or len(self.observation_space.shape) != 1:
            raise UsageError(
                f"observations of {self.observation_space} are not supported by this method, whose values need "
                "vectors; give wrappers=['flatten']."
            )
        self.oracles = [asked(name, policy, self.collector.observation, self.action_space) for name, policy in oracles]
        each: list[dict[str, Tensor]] = [self.method.beside(self, seed) for seed in self.seeds]  # type: ignore[attr-defined]
        self.extra |= {name: torch.stack([x[name] for x in each]).to(self.device) for name in each[0]}

    def acting(self, vectors: Tensor, steps: int) -> Act:
        return self.method.led(self, super().acting(vectors, steps), steps)  # type: ignore[attr-defined]


def asked(name: str, policy: Any, example: Any, space: gym.Space) -> Oracle:
    """The most likely actions of a policy: an agent, anything with `predict`, or a function of observations.

    Raises:
        UsageError: it fails on an example, remembers, or its actions are not those of the environment.
    """
    kind = np.float32 if isinstance(space, gym.spaces.Box) else np.int64

    def answer(observation: np.ndarray) -> np.ndarray:
        if not hasattr(policy, "predict"):
            return np.asarray(policy(observation), kind)
        action, state = policy.predict(observation, deterministic=True)
        if state is not None:
            raise UsageError(f"the oracle {name} has a memory, which is not supported; give one without.")
        return np.asarray(action, kind)

    try:
        found = answer(example)
    except UsageError as error:
        raise UsageError(f"the oracle {name} does not fit the environment: {error}") from error
    except Exception as error:
        raise UsageError(f"the oracle {name} fails on an observation: {type(error).__name__}: {error}") from error
    if found.shape != (len(example), *(space.shape or ())):
        raise UsageError(
            f"the oracle {name} gives actions of the shape {found.shape} for {len(example)} observations; the "
            f"environment needs {(len(example), *(space.shape or ()))}."
        )
    return answer


def opened(oracles: Any) -> list[tuple[str, Any]]:
    """Oracles by name: those of folders are read, all others are taken as they are."""
    return [(_name(one), _agent(one) if isinstance(one, str) else one) for one in listed(oracles)]


def listed(oracles: Any) -> list[Any]:
    """The oracles one by one; text names folders of runs or agents, separated by commas."""
    if oracles is None:
        return []
    if isinstance(oracles, str):
        oracles = [name.strip() for name in oracles.split(",") if name.strip()]
    each = list(oracles) if isinstance(oracles, (list, tuple)) else [oracles]
    each = [one.path if isinstance(one, Run) else one for one in each]
    each = [str(one) if isinstance(one, Path) else one for one in each]
    for one in each:
        if not isinstance(one, str) and not hasattr(one, "predict") and not callable(one):
            raise UsageError(
                f"oracles has {one!r}, which is no policy: give a run, an agent, the folder of one, anything with "
                "predict, or a function of observations."
            )
    return each


def _name(one: Any) -> str:
    return one if isinstance(one, str) else f"<{type(one).__name__}>"


def _agent(name: str) -> Any:
    if name.startswith("<"):
        raise UsageError(
            "the oracles of this run were given as objects; give them again: surefoot.resume(run, oracles=[…])."
        )
    if not Path(name).exists():
        raise UsageError(f"oracles has {name!r}, which is not there; give the folders of runs or agents.")
    return load_agent(name) if holds_agent(name) else Run(Path(name)).agent()


@dataclass(frozen=True)
class GuidedOptions(EnvOptions):
    """The options of a run in environments with oracles besides its method."""

    oracles: Any = hyperparameter(
        None, help="Policies to learn from: folders of runs or agents, separated by commas; none are needed."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        listed(self.oracles)


ENVIRONMENTS = environment_loop(Learner)


def _describe(env: Any, *, oracles: Any = None, **options: Any) -> dict[str, Any]:
    return ENVIRONMENTS.describe(env, **options) | {"oracles": ",".join(map(_name, listed(oracles))) or None}


def _learner(method: Any, env: Any, seeds: Sequence[int], steps: int, /, *, oracles: Any = None, **options: Any) -> Any:
    made = partial(GuidedLearner, oracles=opened(oracles))
    return environment_loop(made).learner(method, env, seeds, steps, **options)


LOOP = replace(ENVIRONMENTS, describe=_describe, learner=_learner, options=GuidedOptions)
