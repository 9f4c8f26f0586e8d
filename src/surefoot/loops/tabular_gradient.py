"""Policy gradients on tables: softmax and direct policies, exact gradients through occupancies, and sampled ones.

Policies are `[S, A]`, or `[H, S, A]` for the steps of a finite horizon. Values are rewards, gradients point upwards.
By the envelope theorem the gradient under an ambiguity set is the plain one in the world that is worst for the policy:

    ∂J/∂π(a|s) = occupancy(s) · Q(s, a)          ∂J/∂θ(s, a) = occupancy(s) · π(a|s) · (Q(s, a) − V(s))
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from surefoot.ambiguity import Ambiguity
from surefoot.ambiguity.operator import solve
from surefoot.envs.tabular import TabularMDP, Transitions
from surefoot.errors import UsageError

# --- policies --------------------------------------------------------------------------------------------------------


def softmax(logits: Tensor, legal: Tensor | None = None) -> Tensor:
    """The policy `[..., S, A]` of logits; actions that are not legal have probability 0."""
    return (logits if legal is None else logits.masked_fill(~legal, -torch.inf)).softmax(-1)


def project(points: Tensor, legal: Tensor | None = None) -> Tensor:
    """The nearest distributions `[..., A]` to given points, over the legal actions (Held, Wolfe & Crowder 1974)."""
    shown = points if legal is None else points.masked_fill(~legal, -torch.inf)
    ordered = shown.sort(-1, descending=True).values
    surplus = (ordered.masked_fill(ordered == -torch.inf, 0.0).cumsum(-1) - 1) / torch.arange(
        1, points.shape[-1] + 1, dtype=points.dtype
    )
    size = (ordered > surplus).sum(-1, keepdim=True)
    return (shown - surplus.gather(-1, size - 1)).clamp(min=0)


# --- exact gradients -------------------------------------------------------------------------------------------------


class Evaluation(NamedTuple):
    """A policy in the world that is worst for it."""

    value: Tensor  # [S], or [H + 1, S] with zeros last
    q: Tensor  # [S, A], or [H, S, A]
    rows: Tensor  # the worst kernel, in the shape of `mdp.rows`
    paid: Tensor  # [S, A] or [H, S, A] what the adversary pays for it: 0 but for penalties
    occupancy: Tensor  # [S] Σ_t γ^t Pr(s_t = s) from `mdp.initial`; [H, S] γ^h Pr(s_h = s) with a horizon


def evaluate(mdp: TabularMDP, policy: Tensor, ambiguity: Ambiguity | None = None) -> Evaluation:
    """The policy's value, worst kernel and occupancy, exact up to rounding.

    Without a horizon the adversary's policy iteration is run to its fixed point: each round solves the linear system of
    the kernel that was worst for the last value, which converges from above. With one it is backward induction.
    The set is (s, a)-rectangular and its penalty is paid with the next state: Q = r + γ·min_q (q·V + penalty).

    Raises `UsageError` for rewards that depend on the next state beside a set, or gamma = 1 without a horizon.
    """
    if ambiguity is not None and mdp.reward.ndim == mdp.rows.ndim:
        raise UsageError(f"{mdp.name!r} has rewards that depend on the next state; give reward=mdp.expected_reward().")
    return _endless(mdp, policy, ambiguity) if mdp.horizon is None else _stepwise(mdp, policy, ambiguity)


def worst_rows(
    mdp: TabularMDP, value: Tensor, ambiguity: Ambiguity | None, step: int | None = None
) -> tuple[Tensor, ...]:
    """The worst expectation of `value [S]` over the next state `[S, A]`, its kernel, and the penalty paid `[S, A]`."""
    rows, state = _kernel(mdp, step)
    ahead = value if state is None else value[state]
    if ambiguity is None:
        expected = rows @ ahead if state is None else (rows * ahead).sum(-1)
        return expected, rows, torch.zeros_like(expected)
    if mdp.legal is not None:  # rows of pairs that do not exist need not be distributions
        rows = torch.where(mdp.legal[..., None], rows, 1 / rows.shape[-1])
    solution = solve(ahead, rows, ambiguity, ambiguity.strength)
    worst = solution.distribution().expand(rows.shape)
    return solution.value, worst, solution.value - (worst * ahead).sum(-1)


def occupancy(mdp: TabularMDP, policy: Tensor, rows: Tensor | None = None) -> Tensor:
    """Discounted visits `[S]` (or `[H, S]`, by step) from `mdp.initial`, in the kernel `rows` or the nominal one."""
    rows = mdp.rows if rows is None else rows
    if mdp.horizon is None:
        chain = _chain(rows, _kernel(mdp)[1], policy)
        return torch.linalg.solve(torch.eye(mdp.states, dtype=chain.dtype) - mdp.gamma * chain.T, mdp.initial)
    visits = [mdp.initial]
    for h in range(mdp.horizon - 1):
        here = rows[h] if rows.ndim == 4 else rows
        visits.append(mdp.gamma * visits[-1] @ _chain(here, _kernel(mdp, h)[1], at(policy, h)))
    return torch.stack(visits)


def direct_gradient(occupancy: Tensor, q: Tensor) -> Tensor:
    """∂J/∂π `[..., S, A]` of a policy whose probabilities are the parameters."""
    return occupancy[..., None] * q


def softmax_gradient(occupancy: Tensor, policy: Tensor, q: Tensor) -> Tensor:
    """∂J/∂θ `[..., S, A]` of a softmax policy's logits."""
    return occupancy[..., None] * policy * (q - (policy * q).sum(-1, keepdim=True))


def worst_world(mdp: TabularMDP, found: Evaluation) -> TabularMDP:
    """The world that is worst for a policy as an MDP of its own, what the adversary pays among the rewards."""
    kernel = found.rows if not mdp.sparse else mdp.transition._replace(probability=found.rows)
    return replace(mdp, transition=kernel, reward=mdp.expected_reward() + mdp.gamma * found.paid)


# --- sampled gradients -----------------------------------------------------------------------------------------------


def returns_to_go(reward: Tensor, gamma: float) -> Tensor:
    """Σ_{k ≥ t} γ^{k−t} r_k `[N, T]` of the rewards of episodes."""
    out, running = torch.empty_like(reward), torch.zeros_like(reward[:, 0])
    for t in reversed(range(reward.shape[1])):
        running = reward[:, t] + gamma * running
        out[:, t] = running
    return out


def score_gradient(policy: Tensor, met: Transitions, weight: Tensor, first_step: int = 0) -> Tensor:
    """The mean over episodes of Σ_t weight_t · ∂log π(a_t|s_t)/∂θ, for a softmax policy's logits in its own shape.

    weight: `[N, T]`, such as γ^t·(return to go − baseline). `first_step`: the step of the policy that t = 0 is.
    """
    states, actions = policy.shape[-2:]
    time = torch.arange(first_step, first_step + weight.shape[1]).expand(weight.shape)
    pair = (time if policy.ndim == 3 else 0) * states + met.states
    taken = torch.zeros(policy.numel(), dtype=policy.dtype)
    taken.scatter_add_(0, (pair * actions + met.actions).flatten(), weight.flatten())
    taken = taken.view(policy.shape)
    return (taken - taken.sum(-1, keepdim=True) * policy) / len(weight)


# ---------------------------------------------------------------------------------------------------------------------


def _endless(mdp: TabularMDP, policy: Tensor, ambiguity: Ambiguity | None, rounds: int = 100) -> Evaluation:
    if mdp.gamma == 1:
        raise UsageError(f"{mdp.name!r} has gamma=1 and no horizon, so returns need not be finite; set one of them.")
    reward, state, eye = mdp.expected_reward(), _kernel(mdp)[1], torch.eye(mdp.states, dtype=torch.float64)
    value = torch.full((mdp.states,), torch.inf, dtype=torch.float64)
    _, rows, paid = worst_rows(mdp, torch.zeros_like(value), ambiguity)
    for _ in range(rounds):
        gained = (policy * (reward + mdp.gamma * paid)).sum(-1)
        before, value = value, torch.linalg.solve(eye - mdp.gamma * _chain(rows, state, policy), gained)
        expected, rows, paid = worst_rows(mdp, value, ambiguity)
        if float((before - value).max()) <= 1e-13 * (1 + float(value.abs().max())):
            break
    return Evaluation(value, reward + mdp.gamma * expected, rows, paid, occupancy(mdp, policy, rows))


def _stepwise(mdp: TabularMDP, policy: Tensor, ambiguity: Ambiguity | None) -> Evaluation:
    assert mdp.horizon is not None
    value, reward = [torch.zeros(mdp.states, dtype=torch.float64)], mdp.expected_reward()
    q, kernels, prices = [], [], []
    for h in reversed(range(mdp.horizon)):
        expected, rows, paid = worst_rows(mdp, value[-1], ambiguity, h)
        q.append((reward[h] if mdp.stepped else reward) + mdp.gamma * expected)
        value.append((at(policy, h) * q[-1]).sum(-1))
        kernels.append(rows)
        prices.append(paid)
    value, q, rows, paid = (torch.stack(x[::-1]) for x in (value, q, kernels, prices))
    return Evaluation(value, q, rows, paid, occupancy(mdp, policy, rows))


def _kernel(mdp: TabularMDP, step: int | None = None) -> tuple[Tensor, Tensor | None]:
    """The probabilities of a step and, of a sparse kernel, the states that they belong to."""
    state = mdp.transition.state if mdp.sparse else None
    if not mdp.stepped:
        return mdp.rows, state
    return mdp.rows[step], None if state is None else state[step]


def _chain(rows: Tensor, state: Tensor | None, policy: Tensor) -> Tensor:
    """The Markov chain `[S, S']` of a policy `[S, A]`."""
    if state is None:
        return torch.einsum("sa,sat->st", policy, rows)
    chain = torch.zeros(len(rows), len(rows), dtype=rows.dtype)
    return chain.scatter_add_(1, state.flatten(1), (policy[..., None] * rows).flatten(1))


def at(policy: Tensor, step: int) -> Tensor:
    """The policy `[S, A]` of a step."""
    return policy if policy.ndim == 2 else policy[step]
