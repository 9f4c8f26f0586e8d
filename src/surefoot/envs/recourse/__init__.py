"""Two-stage robust problems with known answers: decide, learn what went wrong, and decide the rest.

`knapsack` has the problem, its random families and the public files; `exact` the second stage, the worst case of a
choice and the best choice of few items; `sampled` tables of choices and losses with the second stage's value, from
which it can be learned.
"""

from surefoot.envs.recourse.knapsack import Family, Knapsack, read

__all__ = ["Family", "Knapsack", "read"]
