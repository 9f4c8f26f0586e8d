"""Returns of a whole class of policies from shared data: trees, uniform exploration, resets.

A class is `[N, H, S]` (see `policy_classes`). Nothing is assumed about value functions: each estimate is unbiased
for the return of each policy, or for its gain at one step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from surefoot.envs.tabular import TabularMDP, Transitions
from surefoot.envs.tabular.policies import uniform_policy
from surefoot.envs.tabular.simulate import rollouts, sample_next


def rewards_met(mdp: TabularMDP, states: Tensor, actions: Tensor, next_states: Tensor, step: int) -> Tensor:
    """The rewards of transitions, all of one shape; the mean where a state follows a pair more than once."""
    reward = mdp.reward[step] if mdp.stepped else mdp.reward
    if reward.ndim == 2:
        return reward[states, actions]
    if not mdp.sparse:
        return reward[states, actions, next_states]
    rows, after = (x[step] if mdp.stepped else x for x in (mdp.rows, mdp.transition.state))
    ways = rows[states, actions] * (after[states, actions] == next_states.unsqueeze(-1))
    return (ways * reward[states, actions]).sum(-1) / ways.sum(-1)


def first_states(mdp: TabularMDP, count: int, generator: torch.Generator) -> Tensor:
    """The initial states of `count` episodes."""
    return torch.multinomial(mdp.initial, count, replacement=True, generator=generator)


def tree_returns(mdp: TabularMDP, policies: Tensor, trees: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The return `[trees, N]` of every policy in every tree, and how many transitions each tree took `[trees]`.

    A tree draws one transition for each step, state and action that some policy reaches in it, and none for others:
    it is a deterministic MDP, so it takes at most H·C(Π). Policies on the same path share its samples. An episode
    meets no pair of a step twice, so each return is a sample of the policy's return. Needs a generative model.
    """
    tree, own = torch.arange(trees).unsqueeze(-1), torch.arange(len(policies))
    state = first_states(mdp, trees, generator).unsqueeze(-1).expand(-1, len(policies))
    gained = torch.zeros(trees, len(policies), dtype=torch.float64)
    taken = torch.zeros(trees, dtype=torch.int64)
    for h in range(policies.shape[1]):
        pair = (tree * mdp.states + state) * mdp.actions + policies[own, h, state]
        reached, which = pair.unique(return_inverse=True)
        s, a = reached // mdp.actions % mdp.states, reached % mdp.actions
        after = sample_next(mdp, s, a, generator, step=h)
        gained += mdp.gamma**h * rewards_met(mdp, s, a, after, h)[which]
        taken += torch.bincount(reached // (mdp.states * mdp.actions), minlength=trees)
        state = after[which]
    return gained, taken


def importance_returns(mdp: TabularMDP, policies: Tensor, episodes: int, generator: torch.Generator) -> Tensor:
    """Estimates `[episodes, N]`: the return of an episode of uniform actions, for the policies that took all of them.

        A^H · 1{a_h = π_h(s_h) for all h} · Σ_h γ^h r_h

    A is the number of legal actions where not all are.
    """
    behaviour, horizon = uniform_policy(mdp), policies.shape[1]
    met = rollouts(mdp, behaviour, episodes, horizon, generator)
    steps = torch.arange(horizon)
    agree = (policies[:, steps, met.states] == met.actions).all(-1)
    weight = 1 / behaviour[met.states, met.actions].prod(-1)
    return (agree * weight * (met.rewards @ mdp.gamma ** steps.double())).T


def deviations(
    mdp: TabularMDP, policy: Tensor, start: Tensor, first: int, step: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Episodes that follow `policy [H, S, A]` except for one uniform action: its state, the action, and the return.

    The episodes start at step `first` in the states `start [n]`. Answers are `[n]`: the states and actions of the
    `step`, and the return from there on times the number of actions, A·G, discounted from step 0.
    """
    behaviour, uniform = policy.clone(), uniform_policy(mdp)
    behaviour[step] = uniform
    met = rollouts(mdp, behaviour, len(start), len(policy) - first, generator, start=start, first_step=first)
    late = slice(step - first, None)
    states, actions = met.states[:, step - first], met.actions[:, step - first]
    discounts = mdp.gamma ** torch.arange(step, len(policy), dtype=torch.float64)
    return states, actions, met.rewards[:, late] @ discounts / uniform[states, actions]


def gains(policies: Tensor, step: int, states: Tensor, actions: Tensor, weighted: Tensor) -> Tensor:
    """The gain of each policy at a step `[N]`, from `deviations`: the mean of A·G where it would take the action."""
    return ((policies[:, step, states] == actions) * weighted).mean(-1)


def play(mdp: TabularMDP, policies: Tensor, followed: Tensor, generator: torch.Generator) -> Transitions:
    """Episodes `[n, H]`, each of which follows the policy `followed [n, H]` of the class at each step."""
    state, met = first_states(mdp, len(followed), generator), []
    for h in range(policies.shape[1]):
        action = policies[followed[:, h], h, state]
        after = sample_next(mdp, state, action, generator, step=h)
        met.append((state, action, rewards_met(mdp, state, action, after, h), after))
        state = after
    return Transitions(*(torch.stack(column, 1) for column in zip(*met)))
