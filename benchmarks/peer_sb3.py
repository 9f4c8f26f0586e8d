"""Stable-Baselines3's PPO and ours with the same hyperparameters, for the benchmarks beside this file."""

from __future__ import annotations

import json
import os
import platform
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

from surefoot.files import write_whole

# What both run: their loss is mse, ours ½ mse, hence value_coefficient 1 for their vf_coef 0.5.
OURS: dict[str, Any] = {
    "num_envs": 8,
    "num_steps": 256,
    "minibatch_size": 64,
    "epochs": 10,
    "learning_rate": 3e-4,
    "gamma": 0.99,
    "lam": 0.95,
    "clip": 0.2,
    "value_coefficient": 1.0,
    "max_grad_norm": 0.5,
    "hidden": (64, 64),
    "activation": "tanh",
}
RESULTS = Path(__file__).parent / "results"


def pin(core: int | None = None) -> None:
    """Keep this process on one core, and every library in it on one thread."""
    import torch

    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[-1] if core is None else core})


def sb3(env: str, seed: int, num_envs: int = 8, num_steps: int = 256) -> Any:
    """Their PPO on their vector environment, observations and rewards normalised."""
    warnings.filterwarnings("ignore")
    import gymnasium as gym
    from stable_baselines3 import PPO
    from stable_baselines3.common.monitor import Monitor
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    envs = VecNormalize(DummyVecEnv([lambda: Monitor(gym.make(env)) for _ in range(num_envs)]), gamma=0.99)
    settings = {"n_steps": num_steps, "batch_size": 64, "n_epochs": 10, "learning_rate": 3e-4, "device": "cpu"}
    return PPO("MlpPolicy", envs, gamma=0.99, gae_lambda=0.95, clip_range=0.2, vf_coef=0.5, seed=seed, **settings)


def machine() -> dict[str, str]:
    """What the figures depend on."""
    packages = ("torch", "stable-baselines3", "gymnasium", "mujoco", "envpool")
    return {"python": platform.python_version(), **{p: version(p) for p in packages}, "cores": str(os.cpu_count())}


def store(name: str, result: dict[str, Any]) -> None:
    """Keep a result beside the scripts."""
    RESULTS.mkdir(exist_ok=True)
    write_whole(RESULTS / f"{name}.json", json.dumps({**result, "versions": machine()}, indent=1) + "\n")
