"""Environments whose physical parameters an adversary moves: its move is one more part of the action.

The action is the agent's, followed by the adversary's b in [−1, 1]^k; parameters are set before the inner environment
steps, so that the transition to an observation is that of the parameters in it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv

from surefoot.envs.constructed import EnvLike
from surefoot.envs.make import make_as, make_single
from surefoot.envs.names import check_origin
from surefoot.envs.perturbed import perturbation_for
from surefoot.envs.robust_wrappers import Seeded, agent_box
from surefoot.envs.rrls import TASKS, UncertaintyBox
from surefoot.envs.wrappers import Wrappers
from surefoot.errors import UsageError, nearest
from surefoot.perturbations import Parameters, parameters
from surefoot.perturbations.interval import Interval
from surefoot.perturbations.parameters import Constructor, places

MOVES = ("drift", "jump", "episode")


def box_of(env: EnvLike, set: str) -> UncertaintyBox:
    """The box that a set names for an environment: `rrls:2d` or `param:length=0.25..2,m=0.5..2`; its middle is taken
    for the nominal value. `UsageError` for any other perturbation, and for values without a range."""
    found = perturbation_for(set, env)
    ranges = found.values if isinstance(found, Parameters) else ()
    if not ranges or not all(isinstance(x, Interval) and x.low < x.high for _, x in ranges):
        raise UsageError(
            f"set={set!r} is not a box of parameters; give rrls:1d, rrls:2d or rrls:3d (the six robust MuJoCo tasks) "
            "or ranges such as param:length=0.25..2,m=0.5..2."
        )
    bounds = {name: (x.low, x.high) for name, x in ranges if isinstance(x, Interval)}
    return UncertaintyBox(bounds, {name: (low + high) / 2 for name, (low, high) in bounds.items()})


class ParameterGame(Seeded):
    """An environment with parameters ψ in a box, and an adversary's part in the action.

    `move="drift"`: ψ ← clip(ψ + speed·(high − low)·b, low, high) before every step, from a uniform ψ at every reset
    (time-constrained robust MDPs, arXiv:2406.08395). `"jump"`: b is ψ itself, −1 the lower bound and 1 the upper one.
    `"episode"`: so is the b of an episode's first step, and ψ stays (arXiv:2211.03413).

    `nominal` is the point of [−1, 1]^k that is nearest to the environment's own parameters.

    Observations are a dict: `state` is the inner environment's, `parameters` is ψ scaled to [−1, 1], and with
    `previous=True` also `previous_state` and `previous_action` (scaled to [−1, 1]; at a reset the first state and 0).
    """

    def __init__(self, env: gymnasium.Env, box: UncertaintyBox, move: str, speed: float = 1.0, previous: bool = False):
        super().__init__(env)
        state, action = env.observation_space, agent_box(env)
        if move not in MOVES or not 0 <= speed <= 1:
            raise UsageError(f"move={move!r}, speed={speed}: move must be one of {MOVES}, speed in [0, 1].")
        if not isinstance(state, spaces.Box) or len(state.shape) != 1:
            raise UsageError(f"An adversary of parameters needs a vector of observations, not {state}.")
        where = places(env, box.bounds)
        if missing := [n for n in box.bounds if n not in where or isinstance(where[n], Constructor)]:
            raise UsageError(
                f"{env.unwrapped} has no parameter {missing[0]!r} that can be moved in an episode. "
                f"{nearest(missing[0], parameters(env))}"
            )
        self.box, self.move, self.speed, self.previous = box, move, speed, previous
        self._places = [(p, [n for n in where if where[n] is p]) for p in dict.fromkeys(where.values())]
        now = {name: value for p, _ in self._places for name, value in p.values().items()}
        raw = np.array([now[name] for name in box.bounds])
        self.nominal = np.clip(2.0 * (raw - box.low) / (box.high - box.low) - 1.0, -1.0, 1.0)
        self.low, self.high, k = action.low.astype(np.float64), action.high.astype(np.float64), len(box)
        ones = np.ones(k, np.float32)
        self.action_space = spaces.Box(np.concatenate([action.low, -ones]), np.concatenate([action.high, ones]))
        seen = {"state": state, "parameters": spaces.Box(-1.0, 1.0, (k,), np.float32)}
        if previous:
            seen |= {"previous_state": state, "previous_action": spaces.Box(-1.0, 1.0, action.shape, np.float32)}
        self.observation_space = spaces.Dict(seen)

    def set_unit(self, unit: np.ndarray) -> None:
        """Set the parameters to a point of the box scaled to [−1, 1]."""
        self.unit = np.clip(unit, -1.0, 1.0)
        values = self.box.scaled(self.unit)
        for place, names in self._places:
            place.put({name: values[name] for name in names})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        drawn = self._stream(seed).uniform(-1.0, 1.0, len(self.box))
        self.set_unit(drawn if self.move == "drift" else getattr(self, "unit", drawn))
        self._first = True
        state, info = self.env.reset(seed=seed, options=options)
        self._before, self._action = state, np.zeros(len(self.low), np.float32)
        return self._seen(state, state), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        own, b = action[: len(self.low)], np.asarray(action[len(self.low) :], np.float64)
        if self.move == "drift":
            b = self.unit + 2.0 * self.speed * np.clip(b, -1.0, 1.0)
        if self.move != "episode" or self._first:
            self.set_unit(b)
        self._first = False
        state, reward, terminated, truncated, info = self.env.step(own)
        self._action = (2.0 * (own - self.low) / (self.high - self.low) - 1.0).astype(np.float32)
        before, self._before = self._before, state
        return self._seen(state, before), reward, terminated, truncated, info

    def _seen(self, state: Any, before: Any) -> dict[str, Any]:
        seen = {"state": state, "parameters": self.unit.astype(np.float32)}
        return seen | ({"previous_state": before, "previous_action": self._action} if self.previous else {})


def make_game(env: EnvLike, env_kwargs: Mapping[str, Any], wrappers: Wrappers, set: str, **game: Any) -> gymnasium.Env:
    """One environment inside `ParameterGame`; a robust MuJoCo task in its form with settable parameters."""
    box = box_of(functools.partial(make_as, env, env_kwargs, wrappers), set)
    return ParameterGame(make_single(_settable(env), env_kwargs, wrappers), box, **game)


def in_game(
    env: EnvLike | VectorEnv, set: str, options: Mapping[str, Any], **game: Any
) -> tuple[EnvLike, dict[str, Any]]:
    """The arguments of `envs.make` for training against an adversary of the parameters: a factory, and the other
    options. EnvPool's environments have no settable parameters, so Gymnasium's are used in their place."""
    found = dict(options)
    if isinstance(env, VectorEnv) or found.pop("perturb", None) is not None:
        raise UsageError(
            f"set={set!r}: the method's own adversary moves the parameters of single environments; give the id or a "
            "factory of one, and no perturb=…."
        )
    kwargs, wrappers = found.pop("env_kwargs", None) or {}, found.pop("wrappers", ())
    check_origin(env, found.pop("origin", None))
    if found.get("backend") != "process":
        found["backend"] = "gymnasium"
    return functools.partial(make_game, env, kwargs, wrappers, set, **game), found


def randomised(
    env: EnvLike | VectorEnv, set: str, options: Mapping[str, Any]
) -> tuple[EnvLike | VectorEnv, dict[str, Any]]:
    """The same for training with parameters drawn from the set at every reset, besides what else perturbs."""
    found = dict(options)
    if not isinstance(env, VectorEnv):
        box_of(functools.partial(make_as, env, found.get("env_kwargs") or {}, found.get("wrappers", ())), set)
    more = found.get("perturb")
    found["perturb"] = set if more is None else f"{set} + {more}"
    if found.get("backend") == "envpool":
        found["backend"] = "gymnasium"
    return env, found


def _settable(env: EnvLike) -> EnvLike:
    return f"rrls/{env}" if isinstance(env, str) and env in TASKS else env
