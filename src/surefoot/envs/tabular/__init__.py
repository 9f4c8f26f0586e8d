"""Finite Markov decision processes: the object, files, simulators, and a zoo with known answers."""

from surefoot.envs.tabular.mdp import Kernel, Successors, TabularMDP

__all__ = ["Kernel", "Successors", "TabularMDP"]
