"""Gymnasium's toy-text environments as tables."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from surefoot.envs.tabular.mdp import TabularMDP
from surefoot.envs.tabular.transitions import from_transitions
from surefoot.errors import UsageError

ACTIONS = {  # by class, since the environments do not name them
    "FrozenLakeEnv": ("left", "down", "right", "up"),
    "CliffWalkingEnv": ("up", "right", "down", "left"),
    "TaxiEnv": ("down", "up", "right", "left", "pick up", "drop off"),
}


def tabular_from_gym(
    env: str | gymnasium.Env, *, gamma: float = 0.95, horizon: int | None = None, **kwargs: Any
) -> TabularMDP:
    """The MDP of a Gymnasium environment that has its transitions in a dict `P`, such as `"FrozenLake-v1"`.

    States in which an episode ends become absorbing with reward 0. Time limits are left out: `horizon` sets one.
    `kwargs` go to the environment (`map_name="8x8"`, `is_slippery=False`).

    Raises `UsageError` for an environment that does not exist or has no such table, or whose episodes may both end and
    go on in the same state.
    """
    made = _made(env, kwargs) if isinstance(env, str) else env
    name = env if isinstance(env, str) else str(made.spec.id if made.spec else type(made.unwrapped).__name__)
    table: Any = getattr(made.unwrapped, "P", None)
    if not table or not isinstance(made.action_space, gymnasium.spaces.Discrete):
        raise UsageError(
            f"env={name!r} has no table P of its transitions, so it is no finite MDP that can be read; FrozenLake-v1, "
            "CliffWalking-v1 and Taxi-v4 have one. Others are learned in by methods that sample."
        )
    states, actions = len(table), int(made.action_space.n)
    entries = np.array(
        [(s, a, n, p, r, end) for s in table for a in table[s] for p, n, r, end in table[s][a]], dtype=np.float64
    )
    ends = _absorbing(entries, initial := _initial(made.unwrapped, states), name)
    entries = entries[~ends[entries[:, 0].astype(int)]]
    stay = np.array([(s, a, s, 1, 0, 1) for s in np.flatnonzero(ends) for a in range(actions)]).reshape(-1, 6)
    state, action, next_state, probability, reward, _ = np.concatenate([entries, stay]).T
    return from_transitions(
        state.astype(int),
        action.astype(int),
        next_state.astype(int),
        probability,
        reward,
        states=states,
        actions=actions,
        gamma=gamma,
        horizon=horizon,
        initial=initial,
        name=name,
        grid=_grid(made.unwrapped, states),
        actions_named=ACTIONS.get(type(made.unwrapped).__name__, ()),
    )


def _made(env: str, kwargs: dict[str, Any]) -> gymnasium.Env:
    try:
        return gymnasium.make(env, **kwargs)
    except (gymnasium.error.Error, TypeError, ValueError, KeyError, ImportError) as error:
        raise UsageError(f"env={env!r} cannot be made with {kwargs!r}: {error}") from error


def _initial(env: Any, states: int) -> np.ndarray | None:
    given = getattr(env, "initial_state_distrib", None)
    return None if given is None or len(given) != states else np.asarray(given) / np.sum(given)


def _absorbing(entries: np.ndarray, initial: np.ndarray | None, name: str) -> np.ndarray:
    """Whether an episode is over in each state `[S]`."""
    state, after, end = entries[:, 0].astype(int), entries[:, 2].astype(int), entries[:, 5].astype(bool)
    possible = entries[:, 3] > 0
    states = int(state.max()) + 1
    ends = np.zeros(states, bool)
    ends[after[end & possible]] = True
    reached, found = np.zeros(states, bool), (np.ones(states) if initial is None else initial) > 0
    while (found & ~reached).any():  # of the states that episodes pass through, ended ones lead nowhere
        reached = found.copy()
        found[after[(reached & ~ends)[state] & possible]] = True
    both = ends[after] & ~end & possible & (reached & ~ends)[state]
    if both.any():
        raise UsageError(
            f"env={name!r} ends when it enters state {after[both][0]} in one way, but goes on when it enters it from "
            f"state {state[both][0]}; such an end cannot be written as a state. Give the two ways a state each."
        )
    return ends


def _grid(env: Any, states: int) -> tuple[int, int] | None:
    """Rows and columns of environments whose states are the cells of a map."""
    shape = getattr(env, "shape", None) or np.shape(getattr(env, "desc", ()))
    return (int(shape[0]), int(shape[1])) if len(shape) == 2 and shape[0] * shape[1] == states else None
