"""Reward functions as users name them: functions, `module:function`, or `reward-model:FOLDER`."""

from __future__ import annotations

import inspect
from typing import Any

from surefoot.envs.language.task import number
from surefoot.envs.names import imported, remembered
from surefoot.errors import UsageError
from surefoot.models.language.reward_model import load_reward_model

REWARD_MODEL = "reward-model:"  # before the folder or hub id of a reward model


def listed(reward: Any) -> list[Any] | None:
    """Reward functions, or their names, as a list."""
    if isinstance(reward, str):
        return reward.split(",")
    return [reward] if callable(reward) else reward if reward is None else list(reward)


def weights(given: Any) -> list[Any] | None:
    """The weights of reward functions; on the command line they are given as text."""
    if isinstance(given, str):
        return [number(word) for word in given.split(",")]
    return None if given is None else list(given)


def named(function: Any) -> str:
    """`module:function`, or a name in angle brackets if the function cannot be found by its name."""
    if not hasattr(function, "__qualname__") or not inspect.isroutine(function) or inspect.ismethod(function):
        return f"<{getattr(function, '__qualname__', type(function).__qualname__)}>"
    return f"{function.__module__}:{function.__qualname__}"


def functions_of(reward: Any, device: str = "auto") -> Any:
    """Reward functions; those given by name are looked up."""
    found = listed(reward)
    return None if found is None else [_imported(f, device) if isinstance(f, str) else f for f in found]


def _imported(name: str, device: str) -> Any:
    """The reward function of this name: a reward model, the function that the user has given in this process, or an
    imported one."""
    if name.startswith(REWARD_MODEL):
        return load_reward_model(name.removeprefix(REWARD_MODEL), device)
    found = imported(name, "reward") if (known := remembered(name)) is None or isinstance(known, str) else known
    if not callable(found):
        raise UsageError(f"reward={name!r} is a {type(found).__name__}, not a function; give a function.")
    return found
