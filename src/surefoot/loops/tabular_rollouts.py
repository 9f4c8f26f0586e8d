"""Episodes of a policy in a finite MDP, many at once, and the policy gradients that are estimated from them.

What is drawn comes from the generator alone, so a step that asks `surefoot.seeding` for it can be taken again.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from surefoot.envs.tabular import TabularMDP
from surefoot.loops.tabular_gradient import at


class Rollouts(NamedTuple):
    """N trajectories of T steps."""

    state: Tensor  # [N, T + 1] whole numbers
    action: Tensor  # [N, T] whole numbers
    reward: Tensor  # [N, T] float64


def rollouts(
    mdp: TabularMDP,
    policy: Tensor,
    episodes: int,
    length: int,
    generator: torch.Generator,
    *,
    start: Tensor | None = None,
    first: int = 0,
    rows: Tensor | None = None,
) -> Rollouts:
    """Play `policy`, `[S, A]` or `[H, S, A]`, for `length` steps, from step `first` of the horizon on.

    start: a distribution `[S]`, or one state an episode `[N]` of whole numbers; `mdp.initial` if not given.
    rows: the probabilities of another kernel on the same successors, such as the worst one; the nominal if not given.
    """
    rows = mdp.rows if rows is None else rows
    begin: Tensor = mdp.initial if start is None else start
    states = [draw(begin.expand(episodes, -1), generator) if begin.is_floating_point() else begin]
    actions, rewards = [], []
    for h in range(first, first + length):
        s = states[-1]
        a = draw(at(policy, h)[s], generator)
        drawn = draw((rows[h] if rows.ndim == 4 else rows)[s, a], generator)
        reward = mdp.reward[h] if mdp.stepped else mdp.reward
        rewards.append(reward[s, a, drawn] if reward.ndim == 3 else reward[s, a])
        actions.append(a)
        if mdp.sparse:
            state = mdp.transition.state
            drawn = (state[h] if mdp.stepped else state)[s, a, drawn]
        states.append(drawn)
    return Rollouts(torch.stack(states, 1), torch.stack(actions, 1), torch.stack(rewards, 1))


def draw(probabilities: Tensor, generator: torch.Generator) -> Tensor:
    """One index `[N]` from each row of probabilities `[N, n]`, by the inverse of its distribution function."""
    ladder = probabilities.cumsum(-1)
    height = torch.rand(len(ladder), 1, generator=generator, dtype=ladder.dtype) * ladder[:, -1:]
    return (ladder <= height).sum(-1).clamp(max=probabilities.shape[-1] - 1)


def returns_to_go(reward: Tensor, gamma: float) -> Tensor:
    """Σ_{k ≥ t} γ^{k−t} r_k `[N, T]`."""
    out, running = torch.empty_like(reward), torch.zeros_like(reward[:, 0])
    for t in reversed(range(reward.shape[1])):
        running = reward[:, t] + gamma * running
        out[:, t] = running
    return out


def score_gradient(policy: Tensor, sampled: Rollouts, weight: Tensor, first: int = 0) -> Tensor:
    """The mean over episodes of Σ_t weight_t · ∂log π(a_t|s_t)/∂θ, for a softmax policy's logits in its own shape.

    weight: `[N, T]`, such as γ^t·(return to go − baseline). `first` is the step of the horizon that t = 0 is.
    """
    states, actions = policy.shape[-2:]
    time = torch.arange(first, first + weight.shape[1]).expand(weight.shape)
    pair = (time if policy.ndim == 3 else 0) * states + sampled.state[:, :-1]
    taken = torch.zeros(policy.numel(), dtype=policy.dtype)
    taken.scatter_add_(0, (pair * actions + sampled.action).flatten(), weight.flatten())
    taken = taken.view(policy.shape)
    return (taken - taken.sum(-1, keepdim=True) * policy) / len(weight)
