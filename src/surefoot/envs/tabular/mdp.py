"""Finite Markov decision processes: kernel, rewards and the rest, dense or sparse, validated once."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from surefoot.ambiguity.arrays import TOLERANCE as ROUNDING
from surefoot.ambiguity.arrays import normalised, tensor
from surefoot.envs.tabular.memory import check_memory
from surefoot.errors import UsageError
from surefoot.hyperparameters import check, hyperparameter

TOLERANCE = 1e-8  # largest deviation from one of a row's total probability


class Successors(NamedTuple):
    """A sparse kernel: the successors of each state-action pair, padded by entries of probability 0."""

    state: Tensor  # [..., S, A, K] whole numbers
    probability: Tensor  # [..., S, A, K] float64

    def dense(self, states: int) -> Tensor:
        """The same probabilities `[..., S, A, S']`, over all states."""
        none = self.probability.new_zeros(*self.probability.shape[:-1], states)
        return none.scatter_add_(-1, self.state.long(), self.probability)


Kernel = Tensor | Successors


@dataclass(frozen=True, eq=False, repr=False)
class TabularMDP:
    """States 0 … S−1, actions 0 … A−1, the probabilities of the next state and the rewards of each pair.

    `transition`: `[S, A, S']`, a `Successors`, a scipy.sparse matrix `[S·A, S']` (rows s·A + a), or a list (or object
    array) of matrices `[S, S']`, dense or sparse, one per action. One array `[A, S, S']` needs `np.moveaxis(P, 0, 1)`:
    with as many actions as states it could not be told from `[S, A, S']`. `reward`: `[S]`, `[S, A]` or, where
    it depends on the next state, `[S, A, S']`, a list of `[S, S']` as well (`[S, A, K]` beside a sparse kernel of K
    successors). Probabilities that rounding made negative become 0. `features`: `[S, A, d]`. With a
    `horizon` H each of the three may have a first axis of H steps (the reward then `[H, S, A]` or `[H, S, A, S']`);
    once one has it, all get it. All become float64.

    Raises `UsageError` for anything that is not an MDP, with the place of the error.
    """

    transition: Any
    reward: Any
    gamma: float = hyperparameter(
        0.95, low=0, high=1, help="Discount factor; 1 for finite horizons, average and total reward."
    )
    initial: Any = None  # [S] the distribution of the first state; None: uniform
    horizon: int | None = hyperparameter(None, low=1, high=10**6, help="Steps of an episode; infinite if None.")
    legal: Any = None  # [S, A] whether a state allows an action; None: all are allowed
    features: Any = None  # [S, A, d] (with a horizon also [H, S, A, d]) for linear methods
    name: str = "mdp"
    grid: tuple[int, int] | None = None  # rows and columns, if the states are the cells of a grid
    states_named: Sequence[str] = field(default=())
    actions_named: Sequence[str] = field(default=())

    def __post_init__(self) -> None:
        check(self)
        kernel = _kernel(self.transition)
        legal = None if self.legal is None else tensor(self.legal, "legal", torch.bool)
        _check_kernel(kernel, legal, self.horizon)
        rows = _rows(kernel)
        reward, features = _reward(self.reward, rows, self.horizon), self.features
        features = None if features is None else _features(features, rows, self.horizon)
        initial = _initial(self.initial, rows.shape[-3])
        pairs, shape = tuple(rows.shape[-3:-1]), tuple(reward.shape)
        # [S, A, S'] and [H, S, A] may coincide: a reward has steps if the kernel has, or if nothing else fits.
        by_step = reward.ndim == 4 or (shape == (self.horizon, *pairs) and (rows.ndim == 4 or shape != rows.shape))
        if self.horizon is not None and (rows.ndim == 4 or by_step or (features is not None and features.ndim == 4)):
            kernel = each_step(kernel, 3, self.horizon)
            reward = each_step(reward, 2 if reward.ndim == 2 or (reward.ndim == 3 and by_step) else 3, self.horizon)
            features = each_step(features, 3, self.horizon)
        made = {"transition": kernel, "reward": reward, "features": features, "initial": initial, "legal": legal}
        for name, value in made.items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        ends = f"gamma={self.gamma:g}" if self.horizon is None else f"horizon={self.horizon}"
        return f"<TabularMDP {self.name!r}: {self.states} states, {self.actions} actions, {ends}>"

    # --- sizes -------------------------------------------------------------------------------------------------------

    @property
    def rows(self) -> Tensor:
        """The probabilities of the next states, `[S, A, S']` or, for a sparse kernel, `[S, A, K]`."""
        return self.transition.probability if self.sparse else self.transition

    @property
    def dense_rows(self) -> Tensor:
        """The probabilities `[S, A, S']`, also for a sparse kernel."""
        return self.transition.dense(self.states) if self.sparse else self.transition

    @property
    def sparse(self) -> bool:
        return isinstance(self.transition, Successors)

    @property
    def stepped(self) -> bool:
        """Whether kernel, rewards and features have a first axis of steps."""
        return self.rows.ndim == 4

    @property
    def states(self) -> int:
        return self.rows.shape[-3]

    @property
    def actions(self) -> int:
        return self.rows.shape[-2]

    @property
    def allowed(self) -> Tensor:
        """Whether a state allows an action, `[S, A]`: `legal`, or all of them."""
        every = torch.ones(self.states, self.actions, dtype=torch.bool, device=self.rows.device)
        return every if self.legal is None else self.legal

    @cached_property
    def ended(self) -> Tensor:
        """The states `[S]` in which an episode is over: no legal action leaves them or earns anything, at any step.

        Their value is 0 in every model, so no ambiguity set is put around their rows, and simulators stop there.
        """
        rows, reward = self.rows, self.reward
        unpaid = reward == 0 if reward.ndim < rows.ndim else ((reward == 0) | (rows == 0)).all(-1)
        found = (unpaid | ~self.allowed).all(-1)
        found = found.all(0) if self.stepped else found
        which = found.nonzero().flatten()  # few; in most MDPs none
        after = self.transition.state[..., which, :, :] if self.sparse else torch.arange(self.states).to(which)
        stays = (rows[..., which, :, :] * (after != which.view(-1, 1, 1))).sum(-1) == 0
        stays = (stays | ~self.allowed[which]).all(-1)
        found[which] = stays.all(0) if self.stepped else stays
        return found

    # --- derived quantities ------------------------------------------------------------------------------------------

    def at(self, step: int) -> TabularMDP:
        """The MDP of one step of the horizon, without a horizon; `step` counts from 0."""
        if not self.stepped:
            return dataclasses.replace(self, horizon=None)
        cut = {name: getattr(self, name) for name in ("reward", "features", "transition")}
        kernel = cut.pop("transition")
        kernel = Successors(*(x[step] for x in kernel)) if self.sparse else kernel[step]
        return dataclasses.replace(
            self, transition=kernel, horizon=None, **{k: None if x is None else x[step] for k, x in cut.items()}
        )

    def successors(self, values: Tensor) -> Tensor:
        """The values `[S]` of the next states, aligned with `rows`: shared `[S']`, or `[S, A, K]` if sparse."""
        return values[self.transition.state] if self.sparse else values

    def expectation(self, values: Tensor) -> Tensor:
        """Σ P(s'|s,a) values(s') `[S, A]`."""
        return (self.rows * self.successors(values)).sum(-1) if self.sparse else self.rows @ values

    def expected_reward(self) -> Tensor:
        """The rewards `[S, A]`, averaged over the next state if they depend on it."""
        return self.reward if self.reward.ndim < self.rows.ndim else (self.rows * self.reward).sum(-1)


def distributions(rows: Tensor, legal: Tensor | None) -> Tensor:
    """Rows `[..., S, A, K]` that are distributions also for illegal pairs, as the ambiguity sets expect."""
    if legal is None or not bool((off := ~legal & ((rows.sum(-1) - 1).abs() > TOLERANCE)).any()):
        return rows
    return torch.where(off[..., None], 1 / rows.shape[-1], rows)


def _rows(kernel: Kernel) -> Tensor:
    return kernel.probability if isinstance(kernel, Successors) else kernel


def each_step(x: Any, axes: int, horizon: int) -> Any:
    """`x` with a first axis of steps, if it has only `axes` axes."""
    if isinstance(x, Successors):
        return Successors(*(each_step(part, axes, horizon) for part in x))
    return x if x is None or x.ndim > axes else x.expand(horizon, *x.shape)


def _kernel(given: Any) -> Kernel:
    if isinstance(given, Successors):
        state, probability = (tensor(x, f"transition.{name}") for name, x in given._asdict().items())
        return Successors(state.long(), _probabilities(probability))
    parts = _parts(given)
    if all(hasattr(part, "tocsr") for part in parts):
        return _from_sparse(parts)
    return _probabilities(tensor(_by_action(given), "transition"))


def _parts(given: Any) -> Sequence[Any]:
    """The elements of a container; a single object as a sequence of one."""
    if isinstance(given, np.ndarray) and given.dtype == object and given.ndim == 1:
        return list(given)
    return given if isinstance(given, (list, tuple)) else [given]


def _by_action(given: Any) -> Any:
    """`[S, A, S']` of a list of square matrices, one per action; anything else unchanged."""
    parts = _parts(given)
    if parts is not given and not (isinstance(given, np.ndarray) and given.dtype == object):
        return given
    arrays = [x for x in parts if isinstance(x, (np.ndarray, Tensor)) and x.ndim == 2 and x.shape[0] == x.shape[1]]
    if len(arrays) == len(parts) and len({tuple(x.shape) for x in arrays}) == 1:
        return np.stack([np.asarray(x) for x in arrays], axis=1)
    return parts


def _probabilities(given: Tensor) -> Tensor:
    """Rows in float64, in which entries just below 0 through rounding are 0."""
    slight = (given < 0) & (given >= -ROUNDING.get(given.dtype, TOLERANCE))
    return normalised(torch.where(slight, 0, given) if bool(slight.any()) else given)


def _from_sparse(parts: Sequence[Any]) -> Successors:
    """scipy.sparse matrices, one per action or one for all pairs, as successors padded to the longest row."""
    from scipy import sparse

    states = parts[0].shape[1]
    if len(parts) == 1 and states and parts[0].shape[0] % states == 0:
        rows, actions = parts[0].tocsr(), parts[0].shape[0] // states
    elif all(part.shape == (states, states) for part in parts):
        actions = len(parts)
        order = np.arange(states * actions).reshape(actions, states).T.ravel()
        rows = sparse.vstack([part.tocsr() for part in parts]).tocsr()[order]
    else:
        raise UsageError(
            f"transition is made of sparse matrices of shapes {[part.shape for part in parts]}; give one [S·A, S'] "
            "whose row s·A + a belongs to state s and action a, or one [S, S'] for each action."
        )
    rows.sum_duplicates()
    counts = np.diff(rows.indptr)
    width = max(1, int(counts.max(initial=1)))
    check_memory(
        17 * len(counts) * width,
        f"a sparse kernel of {len(counts):,} rows, of which the longest has {width:,} entries,",
        "All rows are padded to the longest: give that row fewer successors, or use a smaller MDP.",
    )
    where = np.arange(width) < counts[:, None]
    state, probability = np.zeros(where.shape, np.int64), np.zeros(where.shape, rows.dtype)
    state[where], probability[where] = rows.indices, rows.data
    shape = (states, actions, width)
    return Successors(torch.from_numpy(state).view(shape), _probabilities(torch.from_numpy(probability)).view(shape))


def _check_kernel(kernel: Kernel, legal: Tensor | None, horizon: int | None) -> None:
    rows = _rows(kernel)
    if rows.ndim != 3 and (rows.ndim != 4 or rows.shape[0] != horizon):
        raise UsageError(
            f"transition has shape {list(rows.shape)}; it must be [S, A, S'], or [H, S, A, S'] with horizon=H (horizon "
            f"is {horizon})."
        )
    if 0 in rows.shape:
        raise UsageError(f"transition has shape {list(rows.shape)}; it needs at least one state and one action.")
    if not isinstance(kernel, Successors) and rows.shape[-1] != rows.shape[-3]:
        hint = ""
        if rows.ndim == 3 and rows.shape[1] == rows.shape[2]:
            hint = "For stacked matrices [S, S'], one per action, give np.moveaxis(P, 0, 1), or a list of the matrices."
        raise UsageError(f"transition has shape {list(rows.shape)}; its first and last state axes must agree.{hint}")
    if legal is not None:
        if legal.shape != rows.shape[-3:-1]:
            raise UsageError(f"legal has shape {list(legal.shape)}; it must be [S, A] = {list(rows.shape[-3:-1])}.")
        if not bool(legal.any(-1).all()):
            state = int((~legal.any(-1)).nonzero()[0])
            raise UsageError(f"state {state} has no legal action; give it one, such as staying there.")
    if isinstance(kernel, Successors):
        outside = (kernel.state < 0) | (kernel.state >= rows.shape[-3])
        if bool(outside.any()):
            raise UsageError(
                f"the successors include state {int(kernel.state[outside][0])}, but there are {rows.shape[-3]} states."
            )
    wrong = ~(torch.isfinite(rows) & (rows >= 0))
    if bool(wrong.any()):
        place = tuple(int(i) for i in wrong.nonzero()[0])
        raise UsageError(
            f"transition[{', '.join(map(str, place))}] = {float(rows[place]):g} is not a probability "
            f"({int(wrong.sum())} such entries); probabilities must be finite and at least 0."
        )
    off = (rows.sum(-1) - 1).abs()
    if legal is not None:
        off = torch.where(legal, off, 0.0)
    if bool((off > TOLERANCE).any()):
        *lead, state, action = (int(i) for i in (off == off.max()).nonzero()[0])
        total = float(rows[(*lead, state, action)].sum())
        step = f"step {lead[0]}, " if lead else ""
        raise UsageError(
            f"the probabilities of {step}state {state}, action {action} sum to {total:.9g}, {total - 1:+.3g} from one "
            f"({int((off > TOLERANCE).sum())} rows do not sum to one). Divide each row by its sum if only the scale is "
            "wrong; mark pairs that do not exist as not legal."
        )


def _reward(given: Any, rows: Tensor, horizon: int | None) -> Tensor:
    reward, (S, A, K) = tensor(_by_action(given), "reward", torch.float64), rows.shape[-3:]
    allowed = [(S,), (S, A), (S, A, K)]
    if horizon is not None:
        allowed += [(horizon, S, A), (horizon, S, A, K)]
    shape = tuple(reward.shape)
    if shape not in allowed:
        hint = "Transpose it with reward.T." if shape == (A, S) else ""
        hint = "Transpose it with np.moveaxis(R, 0, 1)." if shape == (A, S, S) else hint
        raise UsageError(
            f"reward has shape {list(shape)}, which does not fit S={S} states and A={A} actions; allowed are "
            f"{', '.join(str(list(a)) for a in allowed)}.{hint}"
        )
    _check_finite("reward", reward, "rewards")
    return reward.unsqueeze(-1).expand(S, A) if shape == (S,) else reward


def _features(given: Any, rows: Tensor, horizon: int | None) -> Tensor:
    features, pairs = tensor(given, "features", torch.float64), list(rows.shape[-3:-1])
    leading = list(features.shape[:-1])
    if leading not in ([pairs] if horizon is None else [pairs, [horizon, *pairs]]) or features.shape[-1] == 0:
        steps = "with horizon=H" if horizon is None else f"[{horizon}, {', '.join(map(str, pairs))}, d]"
        raise UsageError(
            f"features has shape {list(features.shape)}; it must be [S, A, d] = [{', '.join(map(str, pairs))}, d], or "
            f"[H, S, A, d] {'' if horizon is None else '= '}{steps}."
        )
    _check_finite("features", features, "features")
    return features


def _check_finite(name: str, x: Tensor, entries: str) -> None:
    if not bool(torch.isfinite(x).all()):
        place = tuple(int(i) for i in (~torch.isfinite(x)).nonzero()[0])
        raise UsageError(f"{name}[{', '.join(map(str, place))}] = {float(x[place])}; {entries} must be finite.")


def _initial(given: Any, states: int) -> Tensor:
    if given is None:
        return torch.full((states,), 1 / states, dtype=torch.float64)
    initial = normalised(tensor(given, "initial"))
    if initial.shape != (states,) or bool((initial < 0).any()) or not abs(float(initial.sum()) - 1) <= TOLERANCE:
        raise UsageError(
            f"initial has shape {list(initial.shape)} and sums to {float(initial.sum()):.9g}; it must be a "
            f"distribution over the {states} states."
        )
    return initial
