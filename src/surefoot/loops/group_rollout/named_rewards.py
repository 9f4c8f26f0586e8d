"""Reward functions by name: how a run is given them, and how its `config.json` names them."""

from __future__ import annotations

import inspect
from typing import Any

from surefoot.envs.language.task import number
from surefoot.envs.names import imported, remembered
from surefoot.errors import UsageError
from surefoot.models.language.reward_model import load_reward_model

REWARD_MODEL = "reward-model:"  # before the folder or hub id of a reward model
REWARD_MODELS = "reward-models:"  # the same, with a reward function of each of its heads
MODELS = (REWARD_MODEL, REWARD_MODELS)


def listed(reward: Any) -> list[Any] | None:
    """Reward functions, or their names, as a list."""
    if isinstance(reward, str):
        return reward.split(",")
    return [reward] if callable(reward) else reward if reward is None else list(reward)


def weights_of(given: Any) -> list[Any] | None:
    """The weights of reward functions; on the command line they are given as text."""
    if isinstance(given, str):
        return [number(word) for word in given.split(",")]
    return None if given is None else list(given)


def name_of(function: Any) -> str:
    """`module:function`, or a name in angle brackets if the function cannot be found by its name."""
    if not hasattr(function, "__qualname__") or not inspect.isroutine(function) or inspect.ismethod(function):
        return f"<{getattr(function, '__qualname__', type(function).__qualname__)}>"
    return f"{function.__module__}:{function.__qualname__}"


def functions_of(reward: Any, device: str = "auto") -> Any:
    """Reward functions; those given by name are looked up."""
    given = listed(reward)
    if given is None:
        return None
    found = [_imported(f, device) if isinstance(f, str) else [f] for f in given]
    return [function for several in found for function in several]


def _imported(name: str, device: str) -> list[Any]:
    """The reward functions of this name: a reward model or each of its heads, the function that the user has given in
    this process, or an imported one."""
    if name.startswith(REWARD_MODEL):
        return [load_reward_model(name.removeprefix(REWARD_MODEL), device)]
    if name.startswith(REWARD_MODELS):
        return list(load_reward_model(name.removeprefix(REWARD_MODELS), device).members)
    found = imported(name, "reward") if (known := remembered(name)) is None or isinstance(known, str) else known
    if not callable(found):
        raise UsageError(f"reward={name!r} is a {type(found).__name__}, not a function; give a function.")
    return [found]
