"""Exact solvers for finite MDPs: nominal, robust and risk-averse, with certified gaps."""

from surefoot.loops.dynamic_programming.solution import Progress, Solution
from surefoot.loops.dynamic_programming.solve import evaluate_policy, solve

__all__ = ["Progress", "Solution", "evaluate_policy", "solve"]
