"""Sampling from a finite MDP: single steps of many pairs, many episodes at once, offline data, a Gymnasium
environment."""

from __future__ import annotations

from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from surefoot.envs.tabular.mdp import TabularMDP
from surefoot.errors import UsageError

_cumulated: WeakKeyDictionary[TabularMDP, Tensor] = WeakKeyDictionary()


class Transitions(NamedTuple):
    """Sampled transitions, all of one shape: `[N, T]` in episodes, `[N]` in offline data."""

    states: Tensor
    actions: Tensor
    rewards: Tensor
    next_states: Tensor


def sample_next(
    mdp: TabularMDP, states: Tensor, actions: Tensor, generator: torch.Generator, *, step: int | Tensor = 0
) -> Tensor:
    """A sampled next state for each legal pair; `states`, `actions` and the result have the same shape.

    `step` counts from 0 and matters if the kernel has steps. The first call for an MDP makes a table as large as its
    kernel, which is stored as long as the MDP exists. Raises `UsageError` for a pair that is not legal.
    """
    if mdp.legal is not None and not bool(mdp.legal[states, actions].all()):
        place = (~mdp.legal[states, actions]).nonzero()[0]
        state, action = int(states[tuple(place)]), int(actions[tuple(place)])
        raise UsageError(f"action {action} is not legal in state {state}, so it has no next state.")
    return _next(mdp, states, actions, generator, step)[0]


def sample_actions(policy: Tensor, states: Tensor, generator: torch.Generator) -> Tensor:
    """An action sampled from `policy [S, A]` for each of the states, in their shape."""
    return _draw(_cumulate(policy), states, generator)


def rollouts(
    mdp: TabularMDP,
    policy: Tensor,
    episodes: int,
    horizon: int | None = None,
    generator: torch.Generator | None = None,
    *,
    start: Tensor | None = None,
    first_step: int = 0,
) -> Transitions:
    """`[N, T]` transitions of `N` episodes of `T = horizon` steps (None: the remaining steps of the MDP's horizon).

    `policy`: `[S, A]`, or `[H, S, A]` with one policy per step. `start`: first states `[N]`; None samples them
    from `mdp.initial`. `first_step`: the step of policy and MDP, counting from 0, at which the episodes start.

    Raises `UsageError` for a policy of another shape, illegal actions, or too few steps.
    """
    if generator is None:
        raise UsageError("rollouts needs a generator; give surefoot.seeding.torch_stream(seed, name, counter).")
    steps = _steps(mdp, horizon, first_step)
    check_policy(mdp, policy, first_step + steps)
    table = _cumulate(policy)
    state = start
    if state is None:
        state = _draw(_cumulate(mdp.initial), torch.zeros(episodes, dtype=torch.int64), generator)
    elif state.shape != (episodes,):
        raise UsageError(f"start has shape {list(state.shape)}; it must be [episodes] = [{episodes}].")
    seen = torch.empty(steps + 1, episodes, dtype=torch.int64)
    taken = torch.empty(steps, episodes, dtype=torch.int64)
    gained = torch.empty(steps, episodes, dtype=torch.float64)
    seen[0] = state
    for t, step in enumerate(range(first_step, first_step + steps)):
        taken[t] = _draw(table if table.ndim == 2 else table[step], seen[t], generator)
        seen[t + 1], which = _next(mdp, seen[t], taken[t], generator, step)
        gained[t] = _reward(mdp, seen[t], taken[t], which, step)
    return Transitions(seen[:-1].T, taken.T, gained.T, seen[1:].T)


def offline(
    mdp: TabularMDP,
    policy: Tensor,
    count: int,
    generator: torch.Generator,
    *,
    states: Tensor | None = None,
    restart: float = 0.0,
) -> Transitions:
    """`count` transitions `[N]` under a behaviour `policy [S, A]`, independent or along one trajectory.

    `states`: a distribution `[S]` from which the state of each transition is sampled independently. None: one
    trajectory from `mdp.initial`, restarted with probability `restart` after each step, or every `mdp.horizon` steps.
    """
    check_policy(mdp, policy, 1)
    if states is not None:
        state = _draw(_cumulate(torch.as_tensor(states).double()), torch.zeros(count, dtype=torch.int64), generator)
        action = sample_actions(policy, state, generator)
        after, which = _next(mdp, state, action, generator, 0)
        return Transitions(state, action, _reward(mdp, state, action, which, 0), after)
    if mdp.horizon is not None:
        episodes = -(-count // mdp.horizon)
        return Transitions(*(x.reshape(-1)[:count] for x in rollouts(mdp, policy, episodes, None, generator)))
    table, initial, none = _cumulate(policy), _cumulate(mdp.initial), torch.zeros(1, dtype=torch.int64)
    state, met = _draw(initial, none, generator), []
    for _ in range(count):
        action = _draw(table, state, generator)
        after, which = _next(mdp, state, action, generator, 0)
        met.append((state, action, _reward(mdp, state, action, which, 0), after))
        again = restart > 0 and float(torch.rand((), generator=generator)) < restart
        state = _draw(initial, none, generator) if again else after
    return Transitions(*(torch.cat(column) for column in zip(*met)))


def check_policy(mdp: TabularMDP, policy: Tensor, steps: int) -> None:
    """Raise `UsageError` unless `policy` fits the MDP, has an entry for each of the steps and takes only legal
    actions."""
    if policy.shape[-2:] != (mdp.states, mdp.actions) or policy.ndim not in (2, 3):
        raise UsageError(
            f"policy has shape {list(policy.shape)}; it must be [S, A] = {[mdp.states, mdp.actions]}, or [H, S, A]."
        )
    if policy.ndim == 3 and len(policy) < steps:
        raise UsageError(f"policy has {len(policy)} steps, but {steps} are played; give one per step, or [S, A].")
    if mdp.legal is not None and bool((policy * ~mdp.legal > 0).any()):
        *_, state, action = (policy * ~mdp.legal > 0).nonzero()[0].tolist()
        raise UsageError(f"policy takes action {action} in state {state}, which is not legal there.")


def _steps(mdp: TabularMDP, horizon: int | None, first_step: int) -> int:
    left = None if mdp.horizon is None else mdp.horizon - first_step
    steps = left if horizon is None else horizon
    if steps is None:
        raise UsageError(f"{mdp.name!r} has an infinite horizon; give horizon, the number of steps of an episode.")
    if steps < 1 or (mdp.stepped and left is not None and steps > left):
        raise UsageError(
            f"horizon={horizon} is not allowed starting at step {first_step}; {mdp.name!r} has {mdp.horizon} steps."
        )
    return steps


def _cumulate(rows: Tensor) -> Tensor:
    """Cumulative distribution functions along the last axis, the last entry exactly 1."""
    sums = rows.double().cumsum(-1)
    return sums / sums[..., -1:]


def _draw(table: Tensor, row: Tensor, generator: torch.Generator) -> Tensor:
    """For each entry of `row` the index of a column, sampled from that row of `table [R, K]` by inversion.

    A uniform number below 1 selects an entry that is larger than its predecessor: entries of probability 0 are never
    sampled.
    """
    level = torch.rand(row.shape, generator=generator, dtype=torch.float64)
    return torch.searchsorted(table.reshape(-1, table.shape[-1])[row], level.unsqueeze(-1), right=True).squeeze(-1)


def _next(
    mdp: TabularMDP, states: Tensor, actions: Tensor, generator: torch.Generator, step: int | Tensor
) -> tuple[Tensor, Tensor]:
    """The next states, and their indices in `mdp.rows`."""
    table = cumulated(mdp)
    row = (step * mdp.states + states if mdp.stepped else states) * mdp.actions + actions
    which = _draw(table, row, generator)
    if not mdp.sparse:
        return which, which
    return mdp.transition.state.reshape(-1, table.shape[-1])[row, which], which


def _reward(mdp: TabularMDP, states: Tensor, actions: Tensor, which: Tensor, step: int) -> Tensor:
    reward = mdp.reward[step] if mdp.stepped else mdp.reward
    return reward[states, actions, which] if reward.ndim == 3 else reward[states, actions]


def cumulated(mdp: TabularMDP) -> Tensor:
    """The cumulative distribution functions of the next states, in the shape of `mdp.rows`, computed once per MDP."""
    if mdp not in _cumulated:
        _cumulated[mdp] = _cumulate(mdp.rows).contiguous()
    return _cumulated[mdp]


class TabularEnv(gymnasium.Env):
    """A finite MDP as an environment: observations are states, actions are numbers.

    An episode terminates at the MDP's horizon, or in a state that no action leaves and that has no reward; otherwise it
    is truncated after `max_steps`. If not all actions are legal, `info["action_mask"]` (int8 `[A]`) says which are; an
    illegal one raises `UsageError`.
    """

    metadata = {"render_modes": []}

    def __init__(self, mdp: TabularMDP, *, max_steps: int = 1000) -> None:
        self.mdp, self.max_steps = mdp, max_steps
        self.observation_space, self.action_space = spaces.Discrete(mdp.states), spaces.Discrete(mdp.actions)
        self._rows, self._initial = cumulated(mdp).numpy(), _cumulate(mdp.initial).numpy()
        self._over = mdp.ended.numpy()
        self._state, self._time = -1, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """A first state sampled from `mdp.initial`, or given by `options={"state": s}`."""
        super().reset(seed=seed)
        given = (options or {}).get("state")
        self._state = self._drawn(self._initial) if given is None else int(given)
        if not 0 <= self._state < self.mdp.states:
            raise UsageError(f"options['state']={given!r} is not a state; states are 0 … {self.mdp.states - 1}.")
        self._time = 0
        return self._state, self._info()

    def step(self, action: Any) -> tuple[int, float, bool, bool, dict[str, Any]]:
        mdp, state, action = self.mdp, self._state, int(action)
        if state < 0:
            raise UsageError("step was called before reset; call reset first.")
        if not 0 <= action < mdp.actions or not (mdp.legal is None or mdp.legal[state, action]):
            allowed = range(mdp.actions) if mdp.legal is None else mdp.legal[state].nonzero().flatten().tolist()
            raise UsageError(f"action={action} is not legal in state {state}; the legal ones are {list(allowed)}.")
        step = min(self._time, (mdp.horizon or 1) - 1)
        place = (step, state, action) if mdp.stepped else (state, action)
        which = self._drawn(self._rows[place])
        reward = mdp.reward[(*place, which)] if mdp.reward.ndim == mdp.rows.ndim else mdp.reward[place]
        self._state = int(mdp.transition.state[(*place, which)]) if mdp.sparse else which
        self._time += 1
        terminated = bool(self._over[self._state]) or self._time == mdp.horizon
        return self._state, float(reward), terminated, not terminated and self._time >= self.max_steps, self._info()

    def _drawn(self, sums: np.ndarray) -> int:
        return int(np.searchsorted(sums, self.np_random.random(), side="right"))

    def _info(self) -> dict[str, Any]:
        return {} if self.mdp.legal is None else {"action_mask": self.mdp.legal[self._state].to(torch.int8).numpy()}
