"""Exact solvers for finite MDPs: nominal, robust and risk-averse, with certified gaps.

    solve(mdp, KL(0.1), rectangular="sa")                      # value, policy, worst_kernel, gap
    evaluate_policy(mdp, policy, CVaR(0.1))

`solve` has both functions. Backups, one step back in time against the worst world: `pairs` (s,a), `states` (s) with the
divergences under a shared budget (`budgets`), `factors` (d); `backups` chooses among them, `outcomes` has their rows.
Criteria: `fixed_point` (discounted, with the bounds), `average`; finite horizons are backward induction, in `solve`.
`gradient` is a reference method by policy gradient, `scenarios` a search for static uncertainty.
"""

from surefoot.solvers.scenarios import ScenarioSolution, solve_scenarios
from surefoot.solvers.solution import Progress, Solution
from surefoot.solvers.solve import evaluate_policy, solve

__all__ = ["Progress", "ScenarioSolution", "Solution", "evaluate_policy", "solve", "solve_scenarios"]
