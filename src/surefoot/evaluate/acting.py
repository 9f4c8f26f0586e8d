"""How policies act: any of them as one function, and the rule that smooths one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

from surefoot.errors import UsageError
from surefoot.models.ensemble import Ensemble
from surefoot.models.smoothing import Smoothing, noisy, noisy_keys

Actor = Callable[[Any, Any, np.ndarray | None, bool], tuple[Any, Any]]


def actor(policy: Any) -> Actor:
    """A policy of either form as one function `(observations, state, starts, deterministic) -> (actions, state)`."""
    if isinstance(policy, type):
        raise UsageError(f"policy={policy!r} is a class; give an instance of it.")
    if callable(getattr(policy, "predict", None)):
        return lambda observations, state, starts, deterministic: policy.predict(
            observations, state=state, episode_start=starts, deterministic=deterministic
        )
    if callable(policy):
        return lambda observations, state, starts, deterministic: (policy(observations), None)
    raise UsageError(
        f"policy={policy!r} cannot act: it has no predict(observation, state, episode_start, deterministic) and is not"
        " a callable observations -> actions."
    )


@dataclasses.dataclass(frozen=True)
class Smoothed:
    """A policy that adds N(0, sigma²) noise to every observation before it acts: one fresh draw a step.

    The noise comes from torch's global generator, so `torch.manual_seed` reproduces it, and evaluations and stress
    tests do from their seed. It is in the units of the environment's observations, before whatever the policy does to
    them (normalisation, stacked frames). The entries `keys` of a dict observation are noisy; `around` finds them.
    """

    policy: Any
    sigma: float
    keys: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_sigma(self.sigma)
        actor(self.policy)
        if isinstance(self.policy, Ensemble):
            raise UsageError(
                "an agent of several members chooses among them from one episode to the next, so that its returns are "
                "not those of one policy, which smoothing and its certificates need; smooth one of its members."
            )
        if own := smoothing_of(self.policy):
            raise UsageError(f"the policy adds noise of sigma={own:g} itself; smoothing it again would add more.")

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[Any, Any]:
        """The policy's actions for the noisy observations, and its new state. `deterministic` is about the policy: the
        noise is always drawn."""
        return actor(self.policy)(noisy(observation, self.sigma, self.keys), state, episode_start, deterministic)

    def around(self, policy: Any, space: gymnasium.Space) -> Smoothed:
        """The same rule around another form of the policy, for observations of this space."""
        return Smoothed(policy, self.sigma, noisy_keys(space))


def smoothing_of(policy: Any) -> float:
    """The standard deviation of the noise that a policy adds to what it sees; 0 for most."""
    if isinstance(policy, Smoothed):
        return policy.sigma
    if isinstance(rule := getattr(policy, "rule", None), Smoothing):
        return rule.sigma
    return float((getattr(policy, "facts", None) or {}).get("smoothing", 0.0))


def check_sigma(sigma: Any) -> float:
    """The standard deviation, if it is a positive number; a `UsageError` otherwise."""
    if isinstance(sigma, bool) or not isinstance(sigma, (int, float, np.number)) or not 0 < sigma < math.inf:
        raise UsageError(
            f"sigma={sigma!r} is not allowed; it must be a positive number, the standard deviation of the noise in the "
            "units of the observations. Without noise nothing is certified: the bound depends on budget/sigma."
        )
    return float(sigma)
