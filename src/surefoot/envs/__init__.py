"""Where a policy acts: one maker, micro-environments with known answers, robust MuJoCo tasks."""

from surefoot.envs import micro as _micro
from surefoot.envs.make import BACKENDS, describe, make, make_single
from surefoot.envs.vector import EnvError, Envs, PoolEnvs, ProcessEnvs, SyncEnvs, check_finite, env_seeds
from surefoot.envs.wrappers import register_wrapper, wrap

_micro.register()

__all__ = [
    "BACKENDS",
    "EnvError",
    "Envs",
    "PoolEnvs",
    "ProcessEnvs",
    "SyncEnvs",
    "check_finite",
    "describe",
    "env_seeds",
    "make",
    "make_single",
    "register_wrapper",
    "wrap",
]
