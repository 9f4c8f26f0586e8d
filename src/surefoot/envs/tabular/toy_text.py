"""Gymnasium's toy-text environments as tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import gymnasium
import numpy as np

from surefoot.envs.tabular.mdp import TabularMDP
from surefoot.envs.tabular.transitions import from_transitions
from surefoot.errors import UsageError

ACTIONS = {  # by class, as the environments do not name them
    "FrozenLakeEnv": ("left", "down", "right", "up"),
    "CliffWalkingEnv": ("up", "right", "down", "left"),
    "TaxiEnv": ("down", "up", "right", "left", "pick up", "drop off"),
}


def tabular_from_gym(
    env: str | gymnasium.Env, *, gamma: float = 0.95, horizon: int | None = None, **kwargs: Any
) -> TabularMDP:
    """The MDP of a Gymnasium environment with its transitions in a table `P`, such as `"FrozenLake-v1"`.

    `P[state][action]` lists `(probability, next state, reward, terminated)`; `P` and its entries may be dicts or lists.
    States in which an episode ends become absorbing with reward 0, and need no entry. Time limits are ignored:
    `horizon` sets one. `kwargs` are passed to the environment (`map_name="8x8"`, `is_slippery=False`).

    Raises `UsageError` for an environment that does not exist or has no such table, or whose episodes may both end and
    continue in the same state.
    """
    made = _made(env, kwargs) if isinstance(env, str) else env
    name = env if isinstance(env, str) else str(made.spec.id if made.spec else type(made.unwrapped).__name__)
    table: Any = getattr(made.unwrapped, "P", None)
    if table is None or not isinstance(made.action_space, gymnasium.spaces.Discrete):
        raise UsageError(
            f"env={name!r} has no table P of its transitions, so it cannot be read as a finite MDP; FrozenLake-v1, "
            "CliffWalking-v1 and Taxi-v4 have one. Use a method that samples for others."
        )
    actions = int(made.action_space.n)
    entries = _entries(table, actions, name)
    states = 1 + int(entries[:, [0, 2]].max())
    if isinstance(space := made.observation_space, gymnasium.spaces.Discrete) and not hasattr(table, "keys"):
        states = max(states, int(space.n))
    ends = _absorbing(entries, initial := _initial(made.unwrapped, states), states, name)
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


def _entries(table: Any, actions: int, name: str) -> np.ndarray:
    """The rows (state, action, next state, probability, reward, terminated) of a table P.

    Raises `UsageError` for a table of another form, with the place of the error.
    """
    form = (
        f"env={name!r}: P[state][action] must list tuples (probability, next state, reward, terminated), with whole "
        f"numbers starting at 0 for states and for the {actions} actions"
    )
    if isinstance(table, np.ndarray) and table.dtype != object:
        raise UsageError(
            f"{form}, but P is an array of shape {list(table.shape)}. Give arrays to TabularMDP(transition, reward)."
        )
    found = []
    for state, by_action in _items(table, "P", form):
        for action, outcomes in _items(by_action, f"P[{state!r}]", form):
            place = f"P[{state!r}][{action!r}]"
            if not isinstance(outcomes, (list, tuple, np.ndarray)):
                raise UsageError(f"{form}, but {place} is {outcomes!r}.")
            for outcome in outcomes:
                try:
                    probability, after, reward, end = outcome
                    row = [float(x) for x in (state, action, after, probability, reward, end)]
                except (TypeError, ValueError):
                    raise UsageError(f"{form}, but {place} holds {outcome!r}.") from None
                if not all(x >= 0 and x.is_integer() for x in row[:3]) or row[1] >= actions:
                    raise UsageError(f"{form}, but {place} holds {outcome!r}.")
                found.append(row)
    if not found:
        raise UsageError(f"{form}, but P has no transitions.")
    return np.array(found)


def _items(table: Any, place: str, form: str) -> Iterable[tuple[Any, Any]]:
    """The entries of a dict or a list, with their keys."""
    if isinstance(table, Mapping):
        return table.items()
    if isinstance(table, (list, tuple, np.ndarray)):
        return enumerate(table)
    raise UsageError(f"{form}, but {place} is {table!r}.")


def _absorbing(entries: np.ndarray, initial: np.ndarray | None, states: int, name: str) -> np.ndarray:
    """Whether an episode is over in each state `[S]`: it ends there, or nothing leads to or from it."""
    state, after, end = entries[:, 0].astype(int), entries[:, 2].astype(int), entries[:, 5].astype(bool)
    possible = entries[:, 3] > 0
    ends = np.zeros(states, bool)
    ends[after[end & possible]] = True
    idle = ~np.isin(np.arange(states), state)
    if (dangling := possible & ~end & idle[after] & ~ends[state]).any():
        raise UsageError(
            f"env={name!r}: P leads from state {state[dangling][0]} to state {after[dangling][0]} without ending the "
            "episode, but has no entry for that state; give it one, or set terminated in the transitions to it."
        )
    ends |= idle
    reached, found = np.zeros(states, bool), (np.ones(states) if initial is None else initial) > 0
    while (found & ~reached).any():  # among the states that episodes visit, ended ones lead nowhere
        reached = found.copy()
        found[after[(reached & ~ends)[state] & possible]] = True
    both = ends[after] & ~end & possible & (reached & ~ends)[state]
    if both.any():
        raise UsageError(
            f"env={name!r} ends on one transition into state {after[both][0]}, but continues when it is entered from "
            f"state {state[both][0]}; such an end is not a property of the state. Use a separate state for each case."
        )
    return ends


def _grid(env: Any, states: int) -> tuple[int, int] | None:
    """Rows and columns of environments whose states are the cells of a map."""
    shape = getattr(env, "shape", None) or np.shape(getattr(env, "desc", ()))
    return (int(shape[0]), int(shape[1])) if len(shape) == 2 and shape[0] * shape[1] == states else None
