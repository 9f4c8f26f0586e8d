"""Environments: one function that makes them all, micro-environments with known answers, robust MuJoCo tasks."""

from surefoot.envs import comblock as _comblock
from surefoot.envs import micro as _micro
from surefoot.envs import rrls as _rrls
from surefoot.envs.backends import PoolEnvs, ProcessEnvs
from surefoot.envs.entrance import check_finite
from surefoot.envs.make import BACKENDS, describe, make, make_as, make_single
from surefoot.envs.robust_wrappers import DomainRandomization, DynamicAdversarial, ProbabilisticActionRobust
from surefoot.envs.rrls import RobustMujoco, UncertaintyBox, set_params, uncertainty
from surefoot.envs.vector import EnvError, Envs, SyncEnvs, env_seeds
from surefoot.envs.wrappers import register_wrapper, wrap

_comblock.register()
_micro.register()
_rrls.register()

__all__ = [
    "BACKENDS",
    "DomainRandomization",
    "DynamicAdversarial",
    "EnvError",
    "Envs",
    "PoolEnvs",
    "ProbabilisticActionRobust",
    "ProcessEnvs",
    "RobustMujoco",
    "SyncEnvs",
    "UncertaintyBox",
    "check_finite",
    "describe",
    "env_seeds",
    "make",
    "make_as",
    "make_single",
    "register_wrapper",
    "set_params",
    "uncertainty",
    "wrap",
]
