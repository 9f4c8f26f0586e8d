"""The expected conditional risk of an MDP, which is the plain return of a larger MDP.

Costs are negated rewards. Each cost but the first is measured by a risk ρ = (1−λ)·E + λ·CVaR_α, conditional on the
state and action before it; the expectations of these risks are added up:

    J(π) = E c(s₁, a₁) + Σ_{t≥2} γ^{t−1} E[ ρ(c(s_t, a_t) | s_{t−1}, a_{t−1}) ]

CVaR_α(c) = min_η η + E(c − η)₊/(1−α) is the mean of the highest share 1−α. Choosing η_{t+1} together with a_t turns
the minimum into a decision, and J into a sum of one-step costs:

    C(s, η; a, η′) = (1−λ)·c + λ/(1−α)·(c − η)₊ + γ·λ·η′          C₁(s; a, η′) = c + γ·λ·η′

Xian Yu and Lei Ying, *On the Global Convergence of Risk-Averse Policy Gradient Methods with Expected Conditional Risk
Measures* (2023), arXiv:2301.10932.
"""

from __future__ import annotations

import dataclasses
from functools import lru_cache

import torch
from torch import Tensor

from surefoot.ambiguity import MeanCVaR, worst_case_value
from surefoot.envs.tabular import Successors, TabularMDP
from surefoot.envs.tabular.mdp import distributions
from surefoot.envs.tabular.policies import greedy, uniform_policy
from surefoot.errors import UsageError
from surefoot.loops.tabular.gradient import evaluate

MOST_THRESHOLDS = 64


def thresholds(mdp: TabularMDP, points: int | None = None) -> Tensor:
    """The thresholds η `[E]`: every cost that occurs, or `points` of them, evenly from the least to the greatest.

    With all the costs the minimum over η is exact, since a quantile of the cost is one of them; an even grid gives an
    upper bound. Raises `UsageError` where more than 64 costs occur and no number of points is given.
    """
    costs = -mdp.expected_reward()
    costs = costs[mdp.allowed].unique()
    if points is not None:
        return torch.linspace(float(costs[0]), float(costs[-1]), points, dtype=torch.float64)
    if len(costs) > MOST_THRESHOLDS:
        raise UsageError(
            f"{mdp.name!r} has {len(costs)} costs, too many for a threshold each; give points=20, for example."
        )
    return costs


@lru_cache(maxsize=4)
def augmented(mdp: TabularMDP, lam: float, alpha: float, points: int | None = None) -> TabularMDP:
    """The MDP whose return is −J: states m·S + s, actions a·E + e, for E thresholds η.

    m = 0 is the first step, which has no η yet; m = 1 + j is any later step under η_j, chosen at the step before. Where
    an episode is over (`mdp.ended`), only η = 0 is legal: any other would only add a cost.
    """
    eta, cost = thresholds(mdp, points), -mdp.expected_reward()
    E, S, A = len(eta), mdp.states, mdp.actions
    excess = (cost - eta[:, None, None]).clamp(min=0)
    charged = torch.cat([cost[None], (1 - lam) * cost + lam / (1 - alpha) * excess])  # [1 + E, S, A]
    reward = -(charged[..., None] + mdp.gamma * lam * eta)  # [1 + E, S, A, E]
    state = _successors(mdp)[:, :, None] + S * (1 + torch.arange(E))[:, None]  # [S, A, E, K]
    rows = mdp.rows[:, :, None].expand(state.shape)
    kernel = Successors(*(x.expand(1 + E, *x.shape).flatten(0, 1).flatten(1, 2) for x in (state, rows)))
    useful = ~mdp.ended[:, None] | (eta == eta.abs().min())  # a grid may miss 0 itself
    legal = (mdp.allowed[..., None] & useful[:, None]).expand(1 + E, S, A, E)
    initial = torch.cat([mdp.initial, torch.zeros(E * S, dtype=torch.float64)])
    table = reward.flatten(0, 1).flatten(1), legal.flatten(0, 1).flatten(1)
    return TabularMDP(kernel, table[0], mdp.gamma, initial, legal=table[1], name=f"{mdp.name} with η")


def controller(mdp: TabularMDP, policy: Tensor) -> Tensor:
    """A policy `[M·S, A·E]` of the augmented MDP as one with memory `[M, S, A, M]`, which acts in `mdp` itself."""
    thresholds = policy.shape[-1] // mdp.actions
    table = policy.view(1 + thresholds, mdp.states, mdp.actions, thresholds)
    return torch.nn.functional.pad(table, (1, 0))  # no transition leads back to the first step


def conditional_risk(mdp: TabularMDP, policy: Tensor, lam: float, alpha: float) -> Tensor:
    """ρ of the next cost, given a state and an action `[S, A]`, while `policy [S, A]` chooses the next action."""
    state, rows = _successors(mdp), distributions(mdp.rows, mdp.legal)
    rewards = mdp.expected_reward()[state].flatten(-2)  # [S, A, K·A], the outcomes: next state and action
    nominal = (rows[..., None] * policy[state]).flatten(-2)
    return -worst_case_value(rewards, nominal, MeanCVaR(1 - alpha, lam))


def expected_conditional_risk(mdp: TabularMDP, policy: Tensor, lam: float, alpha: float) -> Tensor:
    """J `[S]` of a policy `[S, A]` of the MDP itself, by its definition: no η is chosen."""
    risks = dataclasses.replace(mdp, reward=-conditional_risk(mdp, policy, lam, alpha))
    ahead = -evaluate(risks, policy).q
    return (policy * (mdp.gamma * ahead - mdp.expected_reward())).sum(-1)


def least_risk(world: TabularMDP) -> tuple[Tensor, Tensor]:
    """The optimal policy of an augmented MDP and J* of each state and η, both exact, by policy iteration."""
    policy, before = uniform_policy(world), torch.full((world.states,), -torch.inf, dtype=torch.float64)
    while True:
        found = evaluate(world, policy)
        if float((found.value - before).max()) <= 1e-12 * (1 + float(found.value.abs().max())):
            return policy, -found.value
        policy, before = greedy(world, found.q), found.value


def _successors(mdp: TabularMDP) -> Tensor:
    """The states `[S, A, K]` that the rows belong to."""
    return mdp.transition.state if mdp.sparse else torch.arange(mdp.states).expand(mdp.rows.shape)
