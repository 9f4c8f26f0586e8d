"""Finite Markov decision processes: the object, files, simulators, and a zoo with known answers."""

from surefoot.envs.tabular import (  # noqa: F401  (their entries)
    adversarial,
    grids,
    instances_agnostic,
    instances_deadline,
    instances_goal,
    instances_risk,
    linear,
)
from surefoot.envs.tabular.files import from_csv, from_npz, to_csv, to_npz
from surefoot.envs.tabular.mdp import Kernel, Successors, TabularMDP
from surefoot.envs.tabular.resolve import resolve
from surefoot.envs.tabular.simulate import TabularEnv, Transitions, offline, rollouts, sample_actions, sample_next
from surefoot.envs.tabular.toy_text import tabular_from_gym
from surefoot.envs.tabular.transitions import count_transitions, from_transitions
from surefoot.envs.tabular.uncertain import UncertainMDP, uncertain
from surefoot.envs.tabular.zoo import ZOO

__all__ = [
    "ZOO",
    "Kernel",
    "Successors",
    "TabularEnv",
    "TabularMDP",
    "Transitions",
    "UncertainMDP",
    "count_transitions",
    "from_csv",
    "from_npz",
    "from_transitions",
    "offline",
    "resolve",
    "rollouts",
    "sample_actions",
    "sample_next",
    "tabular_from_gym",
    "to_csv",
    "to_npz",
    "uncertain",
]
