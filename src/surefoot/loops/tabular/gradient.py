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
from surefoot.ambiguity.arrays import normalised
from surefoot.ambiguity.operator import solve
from surefoot.envs.tabular import Kernel, Successors, TabularMDP, Transitions
from surefoot.envs.tabular.mdp import distributions
from surefoot.errors import UsageError
from surefoot.solvers.outcomes import check_pairs, reach

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


class Backup(NamedTuple):
    """One step back from a value in the world that is worst for it."""

    q: Tensor  # [S, A]
    rows: Tensor  # the worst kernel, in the shape of `mdp.rows`
    paid: Tensor  # [S, A] what the adversary pays for it: 0 but for penalties


class Evaluation(NamedTuple):
    """A policy in the world that is worst for it."""

    value: Tensor  # [S], or [H + 1, S] with zeros last
    q: Tensor  # [S, A], or [H, S, A]
    rows: Tensor  # the worst kernel, in the shape of `mdp.rows`, with a horizon always by step
    paid: Tensor  # [S, A] or [H, S, A] what the adversary pays for it: 0 but for penalties
    occupancy: Tensor  # [S] Σ_t γ^t Pr(s_t = s) from `mdp.initial`; [H, S] γ^h Pr(s_h = s) with a horizon
    mdp: TabularMDP  # the nominal one, its kernel dense where a set moves mass beyond the successors

    def world(self) -> TabularMDP:
        """The worst world as an MDP, what the adversary pays in its rewards."""
        mdp, paid = self.mdp, self.mdp.gamma * self.paid
        kernel: Kernel = self.rows
        if mdp.sparse:
            kernel = Successors(mdp.transition.state.expand(self.rows.shape), self.rows)
        by_outcome = mdp.reward.ndim == mdp.rows.ndim
        return replace(mdp, transition=kernel, reward=mdp.reward + (paid[..., None] if by_outcome else paid))


def evaluate(mdp: TabularMDP, policy: Tensor, ambiguity: Ambiguity | None = None) -> Evaluation:
    """The policy's value, worst world and occupancy, exact up to rounding.

    Without a horizon the adversary's policy iteration is run to its fixed point: each round solves the linear system of
    the kernel that was worst for the last value, which converges from above. With one it is backward induction.
    The set is (s, a)-rectangular and its penalty is paid with the next state: Q = r + γ·min_q (q·V + penalty), where a
    reward that depends on the next state stands beside its value as r/γ. A sparse kernel becomes dense for sets that
    move mass beyond the successors.

    Raises `UsageError` for gamma = 1 without a horizon, a set beside such rewards where gamma is 0, or beside such
    rewards of a sparse kernel if it moves mass where there are none.
    """
    if mdp.gamma == 1 and mdp.horizon is None:
        raise UsageError(f"{mdp.name!r} has gamma=1 and no horizon, so returns need not be finite; set one of them.")
    mdp = mdp if ambiguity is None else _reachable(mdp, ambiguity)
    policy = normalised(policy)
    return (_endless if mdp.horizon is None else _stepwise)(mdp, policy, ambiguity)


def backup(mdp: TabularMDP, value: Tensor, ambiguity: Ambiguity | None, step: int = 0) -> Backup:
    """The worst Q-values of a step from the value `[S]` of the next one; of a sparse kernel among its successors.

    States in which an episode is over keep their rows.
    """
    rows, state, reward = _parts(mdp, step)
    by_outcome = reward.ndim == rows.ndim
    ahead = value if state is None else value[state]
    if ambiguity is None:
        expected = rows @ ahead if state is None else (rows * ahead).sum(-1)
        return Backup(_mean(rows, reward) + mdp.gamma * expected, rows, torch.zeros_like(expected))
    if by_outcome:
        ahead = ahead + reward / mdp.gamma
    rows = distributions(rows, mdp.legal)
    least, distribution = solve(ahead, rows, ambiguity, ambiguity.strength)
    worst = distribution().expand(rows.shape)
    if bool(mdp.ended.any()):
        worst = torch.where(mdp.ended[:, None, None], rows, worst)
        least = torch.where(mdp.ended[:, None], value[:, None], least)
    q = mdp.gamma * least if by_outcome else reward + mdp.gamma * least
    return Backup(q, worst, least - (worst * ahead).sum(-1))


def occupancy(mdp: TabularMDP, policy: Tensor, rows: Tensor | None = None) -> Tensor:
    """Discounted visits `[S]` (or `[H, S]`, by step) from `mdp.initial`, in the kernel `rows` or the nominal one."""
    rows = mdp.rows if rows is None else rows
    if mdp.horizon is None:
        chain = _chain(mdp, rows, policy)
        return torch.linalg.solve(torch.eye(mdp.states, dtype=chain.dtype) - mdp.gamma * chain.T, mdp.initial)
    visits = [mdp.initial]
    for h in range(mdp.horizon - 1):
        visits.append(mdp.gamma * visits[-1] @ _chain(mdp, rows[h] if rows.ndim == 4 else rows, at(policy, h), h))
    return torch.stack(visits)


def direct_gradient(occupancy: Tensor, q: Tensor) -> Tensor:
    """∂J/∂π `[..., S, A]` of a policy whose probabilities are the parameters."""
    return occupancy[..., None] * q


def softmax_gradient(occupancy: Tensor, policy: Tensor, q: Tensor) -> Tensor:
    """∂J/∂θ `[..., S, A]` of a softmax policy's logits."""
    return occupancy[..., None] * policy * (q - (policy * q).sum(-1, keepdim=True))


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


# --- how -------------------------------------------------------------------------------------------------------------


def _endless(mdp: TabularMDP, policy: Tensor, ambiguity: Ambiguity | None, rounds: int = 100) -> Evaluation:
    eye, reward = torch.eye(mdp.states, dtype=torch.float64), mdp.reward
    value = torch.full((mdp.states,), torch.inf, dtype=torch.float64)
    worst = backup(mdp, torch.zeros_like(value), ambiguity)
    for _ in range(rounds):
        gained = (policy * (_mean(worst.rows, reward) + mdp.gamma * worst.paid)).sum(-1)
        before, value = value, torch.linalg.solve(eye - mdp.gamma * _chain(mdp, worst.rows, policy), gained)
        worst = backup(mdp, value, ambiguity)
        if ambiguity is None or float((before - value).max()) <= 1e-13 * (1 + float(value.abs().max())):
            break
    return Evaluation(value, *worst, occupancy(mdp, policy, worst.rows), mdp)


def _stepwise(mdp: TabularMDP, policy: Tensor, ambiguity: Ambiguity | None) -> Evaluation:
    assert mdp.horizon is not None
    value, backups = [torch.zeros(mdp.states, dtype=torch.float64)], list[Backup]()
    for h in reversed(range(mdp.horizon)):
        backups.append(backup(mdp, value[-1], ambiguity, h))
        value.append((at(policy, h) * backups[-1].q).sum(-1))
    q, rows, paid = (torch.stack(x) for x in zip(*backups[::-1], strict=True))
    return Evaluation(torch.stack(value[::-1]), q, rows, paid, occupancy(mdp, policy, rows), mdp)


def _reachable(mdp: TabularMDP, ambiguity: Ambiguity) -> TabularMDP:
    """The MDP with a row for every state that the set may move mass to."""
    check_pairs(ambiguity, mdp)
    if mdp.gamma == 0 and mdp.reward.ndim == mdp.rows.ndim:
        raise UsageError(f"{mdp.name!r} has gamma=0 and rewards that depend on the next state; set gamma above 0.")
    if not mdp.sparse or reach(ambiguity) == "successors":
        return mdp
    return replace(mdp, transition=mdp.dense_rows)


def _parts(mdp: TabularMDP, step: int) -> tuple[Tensor, Tensor | None, Tensor]:
    """The probabilities of a step, of a sparse kernel the states that they belong to, and the rewards."""
    state = mdp.transition.state if mdp.sparse else None
    if not mdp.stepped:
        return mdp.rows, state, mdp.reward
    return mdp.rows[step], None if state is None else state[step], mdp.reward[step]


def _mean(rows: Tensor, reward: Tensor) -> Tensor:
    """The rewards `[S, A]`, averaged over the next state where they depend on it."""
    return (rows * reward).sum(-1) if reward.ndim == rows.ndim else reward


def _chain(mdp: TabularMDP, rows: Tensor, policy: Tensor, step: int = 0) -> Tensor:
    """The Markov chain `[S, S']` of a policy `[S, A]` in a kernel on the MDP's successors."""
    if not mdp.sparse:
        return torch.einsum("sa,sat->st", policy, rows)
    state = mdp.transition.state[step] if mdp.stepped else mdp.transition.state
    chain = torch.zeros(mdp.states, mdp.states, dtype=rows.dtype)
    return chain.scatter_add_(1, state.flatten(1), (policy[..., None] * rows).flatten(1))


def at(policy: Tensor, step: int) -> Tensor:
    """The policy `[S, A]` of a step."""
    return policy if policy.ndim == 2 else policy[step]
