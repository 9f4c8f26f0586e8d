"""Environments in Gymnasium's registry, made without MuJoCo's deprecation warnings about their model files."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec


def make_registered(env: str | EnvSpec, **kwargs: Any) -> gymnasium.Env:
    """`gymnasium.make` without the checking wrapper; for MuJoCo environments without deprecation warnings."""
    spec = gymnasium.spec(env) if isinstance(env, str) else env
    with _undeprecated() if str(spec.entry_point).startswith("gymnasium.envs.mujoco.") else nullcontext():
        return gymnasium.make(env, disable_env_checker=True, **kwargs)


@contextmanager
def _undeprecated() -> Iterator[None]:
    """Suppress MuJoCo's deprecation warnings, which otherwise appear for every environment that is made, and in a log
    file as well."""
    mujoco: Any = importlib.import_module("mujoco")  # its stubs lack the functions used here
    before = mujoco.get_mju_user_warning()

    say = before or (lambda text: print(f"WARNING: {text}", file=sys.stderr))

    mujoco.set_mju_user_warning(lambda text: None if "deprecated" in text else say(text))
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(before)
