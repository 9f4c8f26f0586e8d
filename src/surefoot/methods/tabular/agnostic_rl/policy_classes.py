"""Finite classes of policies: spanning capacity, coverability, and the value of each policy.

A class is a tensor `[N, H, S]` of whole numbers: the action of each deterministic policy in every step and state. All
statements about a class alone hold in every MDP with its steps and states, whose layers are the steps.

    capacity     C(Π) = max over deterministic MDPs and layers of #{(s, a) reached by some policy of Π}
    coverability max_h Σ_s max_π d_h^π(s)  ≤  concentrability max_{π,h,s} d_h^π(s)/μ_h(s)  ≤  max P(s′|s,a)/μ(s′)

Sources: Jia, Li, Rakhlin, Sekhari and Srebro, "When is agnostic reinforcement learning statistically tractable?"
(2023), arXiv:2310.06113, for the capacity; Xie, Foster, Bai, Jiang and Kakade, "The role of coverage in online
reinforcement learning" (2022), arXiv:2210.04157, for coverability.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import product

import torch
from torch import Tensor

from surefoot.envs.tabular import TabularMDP
from surefoot.errors import UsageError

LARGEST = 1_000_000  # maximum number of entries of a class

# --- classes ---------------------------------------------------------------------------------------------------------


def singletons(horizon: int, states: int, actions: int) -> Tensor:
    """Play 0 everywhere, or another action in one step and state and 0 elsewhere; H·S·(A−1) + 1 policies."""
    places = horizon * states
    size = _affordable(places * (actions - 1) + 1, places, "singletons")
    table = torch.zeros(size, places, dtype=torch.int64)
    number = torch.arange(size - 1)
    table[1 + number, number // (actions - 1) if actions > 1 else number] = 1 + number % max(actions - 1, 1)
    return table.view(size, horizon, states)


def open_loop(horizon: int, states: int, actions: int) -> Tensor:
    """Every sequence of actions, independent of the state; A^H policies."""
    size = _affordable(actions**horizon, horizon * states, "open-loop")
    digits = torch.arange(size).unsqueeze(-1) // actions ** torch.arange(horizon) % actions
    return digits.unsqueeze(-1).expand(-1, -1, states).contiguous()


def one_state(horizon: int, states: int, actions: int) -> Tensor:
    """Any actions in one state (the same index in all steps), 0 in all other states; S·(A^H − 1) + 1 policies."""
    size = _affordable(states * (actions**horizon - 1) + 1, horizon * states, "one-state")
    free = open_loop(horizon, 1, actions)[1:, :, 0]  # without "always 0", which is the same in every state
    table = torch.zeros(states, len(free), horizon, states, dtype=torch.int64)
    for state in range(states):
        table[state, :, :, state] = free
    return torch.cat([torch.zeros(1, horizon, states, dtype=torch.int64), table.flatten(0, 1)]).view(size, horizon, -1)


def all_policies(horizon: int, states: int, actions: int) -> Tensor:
    """Every deterministic policy; A^(H·S)."""
    size = _affordable(actions ** (horizon * states), horizon * states, "all")
    digits = torch.arange(size).unsqueeze(-1) // actions ** torch.arange(horizon * states) % actions
    return digits.view(size, horizon, states)


CLASSES: dict[str, Callable[[int, int, int], Tensor]] = {
    "singletons": singletons, "open-loop": open_loop, "one-state": one_state, "all": all_policies,
}  # fmt: skip


def _affordable(size: int, places: int, name: str) -> int:
    if size * places > LARGEST:
        raise UsageError(
            f"the class {name!r} has {size:,} policies of {places} actions each here; at most {LARGEST:,} actions "
            "are allowed in all. Give a smaller class or a smaller MDP."
        )
    return size


def policy_table(chosen: Tensor, actions: int) -> Tensor:
    """Deterministic policies `[..., S]` as probabilities `[..., S, A]`."""
    return torch.nn.functional.one_hot(chosen, actions).double()


# --- capacity --------------------------------------------------------------------------------------------------------

Group = tuple[int, ...]  # policies in the same state, without those that are equal from there on


def spanning_capacity(policies: Tensor) -> int:
    """C(Π), exactly, by search over all deterministic MDPs that tell policies apart; for small classes.

    In each layer the policies in the same state form a group; an MDP sends each group to a state of the next layer,
    where groups that meet are merged, and the actions split them again. Branches that `capacity_bound` shows to be no
    better are pruned.
    """
    parted, most_alone = _parting(policies), _bound(policies)
    horizon, states = policies.shape[1:]

    @cache
    def most(h: int, groups: tuple[Group, ...]) -> int:
        options = set()
        for places in product(range(states), repeat=len(groups)):
            met: dict[int, set[int]] = {}
            for group, s in zip(groups, places, strict=True):
                met.setdefault(s, set()).update(group)
            options.add(tuple(sorted(part for s, group in met.items() for part in parted(h, s, tuple(group)))))
        best = max(map(len, options))
        for after in options if h + 1 < horizon else ():
            if sum(most_alone(h + 1, group) for group in after) > best:
                best = max(best, most(h + 1, after))
        return best

    return most(0, (tuple(range(len(policies))),))


def capacity_bound(policies: Tensor) -> int:
    """An upper bound on C(Π), at most min(|Π|, A^H): each group goes where it splits most, as if no two ever met.

        T(h, G) = max_s Σ_a T(h+1, {π ∈ G: π_h(s) = a}),   T(H, G) = 1

    Groups that meet split in no more ways than separately, so this is a bound. It is not tight where two groups split
    most in the same state.
    """
    return _bound(policies)(0, tuple(range(len(policies))))


def _parting(policies: Tensor) -> Callable[[int, int, Group], list[Group]]:
    """How a group splits in a state of a layer; of policies that are equal from the next layer on, one remains."""
    tables, (_, horizon, _) = policies.tolist(), policies.shape
    same = [policies[:, h:].flatten(1).unique(dim=0, return_inverse=True)[1].tolist() for h in range(1, horizon)]
    same.append([0] * len(policies))
    kept = [{key: i for i, key in enumerate(keys)} for keys in same]

    def parted(h: int, s: int, group: Group) -> list[Group]:
        parts: dict[int, set[int]] = {}
        for i in group:
            parts.setdefault(tables[i][h][s], set()).add(kept[h][same[h][i]])
        return [tuple(sorted(part)) for part in parts.values()]

    return parted


def _bound(policies: Tensor) -> Callable[[int, Group], int]:
    parted, (_, horizon, states) = _parting(policies), policies.shape

    @cache
    def most(h: int, group: Group) -> int:
        if h == horizon or len(group) == 1:
            return 1
        return max(sum(most(h + 1, part) for part in parted(h, s, group)) for s in range(states))

    return most


# --- visits and values -----------------------------------------------------------------------------------------------


def visits(mdp: TabularMDP, policies: Tensor) -> Tensor:
    """d_h^π(s) `[N, H, S]`: the probability that a policy is in a state at a step."""
    found = [mdp.initial.expand(len(policies), -1)]
    for h in range(policies.shape[1] - 1):
        rows, after = _chosen(mdp, policies, h)
        moved = found[-1].unsqueeze(-1) * rows
        if after is None:
            found.append(moved.sum(-2))
        else:
            found.append(torch.zeros_like(found[-1]).scatter_add(1, after.flatten(1), moved.flatten(1)))
    return torch.stack(found, 1)


def class_values(mdp: TabularMDP, policies: Tensor) -> Tensor:
    """V(π) `[N]`, exactly: the expected discounted return of each policy from `mdp.initial`."""
    reward, horizon = mdp.expected_reward(), policies.shape[1]
    gained = torch.stack([(reward[h] if mdp.stepped else reward).gather(1, policies[:, h].T).T for h in range(horizon)])
    discounts = mdp.gamma ** torch.arange(horizon, dtype=torch.float64)
    return torch.einsum("nhs,hns,h->n", visits(mdp, policies), gained, discounts)


def coverability(mdp: TabularMDP, policies: Tensor) -> float:
    """The least concentrability of any reset distribution."""
    return float(visits(mdp, policies).amax(0).sum(-1).max())


def concentrability(mdp: TabularMDP, policies: Tensor, resets: Tensor) -> float:
    """The largest ratio of a policy's visits to `resets [H, S]`; infinite where resets never occur."""
    return _ratio(visits(mdp, policies).amax(0), resets)


def pushforward(mdp: TabularMDP, resets: Tensor) -> float:
    """The largest ratio of transition and initial probabilities to `resets [H, S]`."""
    at = [mdp.at(h) for h in range(len(resets) - 1)]
    most = [mdp.initial]
    for step in at:
        most.append((step.dense_rows * step.allowed.unsqueeze(-1)).amax((0, 1)))
    return _ratio(torch.stack(most), resets)


def _ratio(most: Tensor, resets: Tensor) -> float:
    return float(torch.where(most > 0, most / resets, 0.0).max())


def _chosen(mdp: TabularMDP, policies: Tensor, h: int) -> tuple[Tensor, Tensor | None]:
    """The rows `[N, S, K]` of the actions that the policies take at a step, and the successors where sparse."""
    own = torch.arange(mdp.states)
    rows = mdp.rows[h] if mdp.stepped else mdp.rows
    if not mdp.sparse:
        return rows[own, policies[:, h]], None
    after = mdp.transition.state[h] if mdp.stepped else mdp.transition.state
    return rows[own, policies[:, h]], after[own, policies[:, h]]
