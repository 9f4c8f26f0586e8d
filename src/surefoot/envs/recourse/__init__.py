"""Two-stage robust problems with known answers: decide, learn what went wrong, and decide the rest.

`knapsack` and `budgeting` have problems and their random families, `problem` what all of them offer; `exact` the second
stage, the worst case of a choice and the best choice of few items, `packing` how a second stage is solved; `sampled`
tables of choices and ξ with the second stage's value, from which it can be learned.
"""

from surefoot.envs.recourse.budgeting import CapitalBudgeting, Projects
from surefoot.envs.recourse.knapsack import Family, Knapsack, read
from surefoot.envs.recourse.problem import Problem

__all__ = ["CapitalBudgeting", "Family", "Knapsack", "Problem", "Projects", "read"]
