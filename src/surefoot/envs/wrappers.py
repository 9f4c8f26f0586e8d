"""Single-environment wrappers by name, so that a list of them can be stored in `config.json`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium import wrappers as gw

from surefoot.envs.entrance import converted, flattenable
from surefoot.envs.vector import cause
from surefoot.errors import UsageError, nearest

Wrapping = Callable[..., gymnasium.Env]
Wrappers = Sequence[str | tuple[str, dict[str, Any]] | list[Any]]  # JSON turns a pair into a list

_REGISTRY: dict[str, Wrapping] = {}


def register_wrapper(name: str) -> Callable[[Wrapping], Wrapping]:
    """A decorator that makes `wrapping(env, **kwargs) -> env` known to `make(wrappers=…)` as `name`."""

    def register(wrapping: Wrapping) -> Wrapping:
        if _REGISTRY.setdefault(name, wrapping) is not wrapping:
            raise UsageError(f"A wrapper named {name!r} already exists ({_REGISTRY[name]!r}); choose another name.")
        return wrapping

    return register


def normalised(wrappers: Wrappers) -> list[list[Any]]:
    """`wrappers` as `[[name, kwargs], …]`, the form stored in JSON; unknown names are refused."""
    if isinstance(wrappers, str):
        wrappers = (wrappers,)
    pairs = []
    for item in wrappers:
        match [item] if isinstance(item, str) else item:
            case [str(name)]:
                kwargs: dict[str, Any] = {}
            case [str(name), dict(kwargs)]:
                pass
            case _:
                raise UsageError(f"wrappers has the entry {item!r}; give a name, or a pair (name, keyword arguments).")
        if name not in _REGISTRY:
            raise UsageError(f"wrapper {name!r} is not known. {nearest(name, _REGISTRY)}")
        pairs.append([name, kwargs])
    return pairs


def wrap(env: gymnasium.Env, wrappers: Wrappers) -> gymnasium.Env:
    """`env` inside the named wrappers, the first one innermost."""
    for name, kwargs in normalised(wrappers):
        try:
            env = _REGISTRY[name](env, **kwargs)
        except UsageError:
            raise
        except Exception as error:
            raise UsageError(
                f"wrapper {name!r} with {kwargs!r} does not apply to the environment {env}: {cause(error)}."
            ) from error
    return env


@register_wrapper("time_limit")
def time_limit(env: gymnasium.Env, steps: int) -> gymnasium.Env:
    """Truncate an episode after `steps` steps."""
    return gw.TimeLimit(env, steps)


@register_wrapper("frame_stack")
def frame_stack(env: gymnasium.Env, n: int = 4) -> gymnasium.Env:
    """The last `n` observations: vectors concatenated into one, which is normalised like any other, images with three
    axes along their channel axis, all others along a new first axis; the first one is repeated at the start of an
    episode."""
    stacked, space = gw.FrameStackObservation(env, n, padding_type="reset"), env.observation_space
    if isinstance(space, spaces.Box) and len(space.shape) == 1:
        axis = 0
    elif isinstance(space, spaces.Box) and len(space.shape) == 3 and space.dtype == np.uint8:
        axis = 0 if space.shape[0] < space.shape[-1] else 2
    else:
        return stacked
    low, high = (np.concatenate([bound] * n, axis) for bound in (space.low, space.high))
    joined = spaces.Box(low, high, dtype=space.dtype.type)
    return gw.TransformObservation(stacked, lambda frames: np.concatenate(list(frames), axis), joined)


@register_wrapper("atari")
def atari(env: gymnasium.Env, **kwargs: Any) -> gymnasium.Env:
    """Gymnasium's Atari preprocessing (arXiv:1709.06009); the environment must be made with `frameskip=1`."""
    return gw.AtariPreprocessing(env, **kwargs)


@register_wrapper("flatten")
def flatten(env: gymnasium.Env) -> gymnasium.Env:
    """Every observation as one vector."""
    space = env.observation_space
    if not flattenable(space):
        parts = space.spaces if isinstance(space, spaces.Dict) else {}
        wrong = [name for name, part in parts.items() if not flattenable(part)]
        raise UsageError(
            f"wrapper 'flatten' cannot make a vector of {f'the entries {wrong} of ' if wrong else ''}the observation "
            f"space {space}: remove them first with gymnasium.wrappers.FilterObservation, or convert them with a "
            "gymnasium.ObservationWrapper."
        )
    return gw.FlattenObservation(env)


@register_wrapper("time_aware")
def time_aware(env: gymnasium.Env, normalize: bool = True) -> gymnasium.Env:
    """The fraction of the time limit that has passed, or with `normalize=False` the number of steps, appended to a
    vector observation (arXiv:1712.00378)."""
    return gw.TimeAwareObservation(env, normalize_time=normalize)


@register_wrapper("action_mask")
class ActionMask(gymnasium.Wrapper):
    """The legal actions as part of the observation: `{"observation": …, "action_mask": int8 [n]}`.

    The mask is what `env.action_masks()` returns, or else `info["action_mask"]`. A policy receives it only by this key.
    """

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        if not isinstance(env.action_space, spaces.Discrete):
            raise UsageError(
                f"An action mask needs a Discrete action space, not this environment's {env.action_space}."
            )
        self._mask = spaces.MultiBinary(int(env.action_space.n))
        self.observation_space = spaces.Dict({"observation": env.observation_space, "action_mask": self._mask})

    def _masked(self, observation: Any, info: dict[str, Any]) -> dict[str, Any]:
        if self.env.has_wrapper_attr("action_masks"):
            mask = self.env.get_wrapper_attr("action_masks")()
        elif "action_mask" in info:
            mask = info["action_mask"]
        else:
            raise UsageError(
                "The wrapper 'action_mask' found no mask: the environment has no method action_masks() and its info "
                "has no key 'action_mask'. Add one of the two, or leave the wrapper out."
            )
        return {"observation": observation, "action_mask": converted(mask, self._mask)}

    def reset(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        observation, info = self.env.reset(**kwargs)
        return self._masked(observation, info), info

    def step(self, action: Any) -> tuple[dict[str, Any], Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._masked(observation, info), reward, terminated, truncated, info
