"""A data set in words: its episodes, returns, ends and ranges, and what is odd about it."""

from __future__ import annotations

from collections.abc import Iterator

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from surefoot.data.transitions import Transitions

SHOWN = 8  # coordinates of observations and actions
STILL = 1e-6  # a standard deviation below which a coordinate does not change
EDGE = 1e-3  # share of the box within which an action is at its bound
MOST_ODD = 0.05  # share of actions at a bound, or of equal rows, that is worth a line


def described(data: Transitions) -> str:
    """The data on one screen."""
    lengths, kind = np.diff(data.bounds, axis=1)[:, 0], "actions are numbers of choices"
    space = data.action_space
    if not data.discrete:
        kind = f"actions {data.action.shape[1:]} in " + (
            "an unknown box" if space is None else f"[{_ends(space.low)}, {_ends(space.high)}]"  # type: ignore[attr-defined]
        )
    elif isinstance(space, gym.spaces.Discrete):
        kind = f"actions {space}"
    terminated, truncated = int(data.terminated.sum()), int(data.truncated.sum())
    facts = ", ".join(f"{name}={value}" for name, value in data.facts.items())
    lines = [
        f"{data.name}: {len(data):,} transitions in {data.episodes:,} episodes" + (f" ({facts})" if facts else ""),
        f"observations {data.observation.shape[1:]} {data.observation.dtype}, {kind}",
        f"ends      {terminated:,} terminated, {truncated:,} cut",
        f"lengths   {_range(lengths)}",
        f"returns   {_range(data.returns)}",
        f"rewards   {_range(data.reward)}",
    ]
    lines += _table("observation", data.observation) + ([] if data.discrete else _table("action", data.action))
    found = [*odd(data)]
    return "\n".join([*lines, "", *(f"odd: {one}" for one in found)] if found else [*lines, "", "nothing is odd"])


def odd(data: Transitions) -> Iterator[str]:
    """What may be a mistake in the data, or needs care in learning from them."""
    if data.episodes == 1:
        yield "there is a single episode: no interval over episodes can be given"
    if (jumps := int((~data.follows).sum())) > 0:
        first = int((~data.follows).argmax())
        yield (
            f"in {jumps:,} rows (the first is {first:,}) the next observation is not that of the row after it: rows "
            "are shuffled, left out or corrupted, or cuts are missing"
        )
    if not data.terminated.any():
        yield "no episode terminated: all ends are cuts, after which critics bootstrap"
    if len(np.unique(data.reward)) == 1:
        yield f"all rewards are {data.reward[0]:g}: only cloning can learn from them"
    still = np.flatnonzero(data.observation.reshape(len(data), -1).std(0, dtype=np.float64) < STILL)
    if len(still):
        yield f"coordinates {_some(still)} of the observations never change"
    space = data.action_space
    if not data.discrete and space is None and np.abs(data.action).max() > 1:
        yield "actions lie outside of [-1, 1], and the data do not say their box: give env=…, or low=… and high=…"
    if isinstance(space, gym.spaces.Box):
        low, high = space.low.reshape(-1), space.high.reshape(-1)
        spare = EDGE * (high - low)
        share = float(((data.action <= low + spare) | (data.action >= high - spare)).mean())
        if share > MOST_ODD:
            yield f"{share:.0%} of the actions are at a bound of their box"
    rows = np.concatenate([data.observation.reshape(len(data), -1), data.action.reshape(len(data), -1)], 1)
    same = 1 - len(np.unique(rows, axis=0)) / len(rows)
    if same > MOST_ODD:
        yield f"{same:.0%} of the rows repeat the observation and action of another"


def suggested(data: Transitions) -> str | None:
    """The method to begin with: cloning where the data are good or have no rewards to tell actions apart, `iql`
    otherwise; None for discrete actions, from which nothing here learns by data alone."""
    if data.discrete:
        return None
    good = data.facts.get("recipe") in ("expert", "demonstrated")
    return "bc" if good or len(np.unique(data.reward)) == 1 else "iql"


def _range(x: NDArray) -> str:
    """Least, quartiles, greatest and mean."""
    quartiles = np.quantile(x.astype(np.float64), [0, 0.25, 0.5, 0.75, 1])
    return f"{' · '.join(f'{q:.6g}' for q in quartiles)}   (least, quartiles, greatest; mean {x.mean():.6g})"


def _table(name: str, x: NDArray) -> list[str]:
    """Least, mean, deviation and greatest of the first coordinates."""
    flat = x.reshape(len(x), -1).astype(np.float64)
    rows = [f"{'':<4}{name:<12}{'least':>10}{'mean':>10}{'deviation':>11}{'greatest':>10}"]
    for i in range(min(SHOWN, flat.shape[1])):
        one = flat[:, i]
        rows.append(f"{'':<4}{i:<12}{one.min():>10.4g}{one.mean():>10.4g}{one.std():>11.4g}{one.max():>10.4g}")
    more = flat.shape[1] - SHOWN
    return rows + ([f"{'':<4}… and {more:,} more"] if more > 0 else [])


def _ends(x: NDArray) -> str:
    each = np.unique(x)
    return f"{each[0]:g}" if len(each) == 1 else ", ".join(f"{one:g}" for one in x.reshape(-1)[:SHOWN])


def _some(x: NDArray) -> str:
    return ", ".join(map(str, x[:SHOWN])) + (f" and {len(x) - SHOWN} more" if len(x) > SHOWN else "")
