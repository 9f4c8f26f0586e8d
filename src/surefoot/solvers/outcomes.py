"""The next states to which an ambiguity set may move mass, and the rows that a solver therefore needs.

A dense row has an entry for every state. A sparse one has its successors only, so it is unchanged for sets that keep to
them, gets one more entry for sets that move mass to the lowest outcome, and becomes dense for the others.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from surefoot.ambiguity import Ambiguity, Contamination, Hellinger, Mixed, ReverseKL, TotalVariation
from surefoot.ambiguity.contract import Array, Problem
from surefoot.ambiguity.moves import Supported
from surefoot.envs.tabular import Kernel, Successors, TabularMDP
from surefoot.envs.tabular.mdp import distributions
from surefoot.envs.tabular.memory import check_memory
from surefoot.errors import UsageError

Reach = Literal["successors", "lowest", "all"]
DENSE_WORK = 10**9  # numbers per sweep from which dense work on a sparse MDP raises a warning
SECONDS = 7e-8  # time per number for L∞, the slowest set
BLOCK = 1 << 17  # entries per block, so that intermediate results stay in cache


def reach(ambiguity: Ambiguity | Problem) -> Reach:
    """Where the worst case of a set may have mass: on successors, on successors and the lowest state, or anywhere."""
    if isinstance(ambiguity, Mixed):
        return max((reach(part) for part in ambiguity.parts), key=["successors", "lowest", "all"].index)
    if ambiguity.outcomes is not None:
        return "all"
    if not isinstance(ambiguity, Supported) or ambiguity.support == "nominal":
        return "successors"
    return "lowest" if isinstance(ambiguity, (TotalVariation, Contamination, ReverseKL, Hellinger)) else "all"


@dataclass(frozen=True, eq=False)
class Rows:
    """Nominal rows of some states with their outcomes and rewards.

    probability: `[S, A, K]`; state: `[S, A, K]`, the outcomes' states, or None if K counts all states; reward:
    `[S, A]` or, where it depends on the next state, `[S, A, K]`.
    """

    probability: Tensor
    state: Tensor | None
    reward: Tensor

    def __getitem__(self, which: Any) -> Rows:
        state = None if self.state is None else self.state[which]
        return Rows(self.probability[which], state, self.reward[which])

    @property
    def by_outcome(self) -> bool:
        """Whether rewards depend on the next state."""
        return self.reward.ndim == self.probability.ndim

    def expected_reward(self) -> Tensor:
        return (self.probability * self.reward).sum(-1) if self.by_outcome else self.reward

    def flat(self) -> Kernel:
        """The probabilities with one axis of pairs."""
        flat = self.probability.flatten(0, 1)
        return flat if self.state is None else Successors(self.state.flatten(0, 1), flat)

    def blocks(self, within: slice = slice(None)) -> Iterator[slice]:
        """Slices of states whose rows form a block."""
        states, actions, width = self.probability.shape
        first, last, _ = within.indices(states)
        size = max(1, BLOCK // (actions * width))
        return (slice(start, min(start + size, last)) for start in range(first, last, size))

    def targets(self, values: Tensor, gamma: float) -> Tensor:
        """The value of each outcome before discounting: its next value, plus its reward over gamma if it has one."""
        there = values if self.state is None else gathered(values, self.state)
        return there + self.reward / gamma if self.by_outcome else there

    def widened(self, values: Tensor, reached: Reach) -> Rows:
        """Sparse rows with the further outcomes that a set may move mass to."""
        if self.state is None or reached == "successors":
            return self
        if reached == "lowest":
            lowest = values.argmin().to(self.state.dtype).expand(*self.state.shape[:-1], 1)
            probability = torch.nn.functional.pad(self.probability, (0, 1))
            return dataclasses.replace(self, probability=probability, state=torch.cat([self.state, lowest], -1))
        dense = Successors(self.state, self.probability).dense(len(values))
        return dataclasses.replace(self, probability=dense, state=None)


_PRODUCTS: WeakKeyDictionary[TabularMDP, tuple[Rows, Callable[[Tensor], Tensor]]] = WeakKeyDictionary()


def prepared(mdp: TabularMDP) -> tuple[Rows, Callable[[Tensor], Tensor]]:
    """The rows of an MDP with short indices, and the product of all of them with values.

    They are cached as long as the MDP exists, because an MDP is solved repeatedly: for radii, policies, criteria.
    """
    if mdp not in _PRODUCTS:
        rows = nominal_rows(mdp)
        if rows.state is not None and rows.state.numel() < 1 << 31:
            rows = dataclasses.replace(rows, state=rows.state.to(torch.int32))
        _PRODUCTS[mdp] = rows, linear(rows.flat(), mdp.states)
    return _PRODUCTS[mdp]


def nominal_rows(mdp: TabularMDP) -> Rows:
    """The rows of an MDP, all of them distributions."""
    state = mdp.transition.state if isinstance(mdp.transition, Successors) else None
    return Rows(distributions(mdp.rows, mdp.legal), state, mdp.reward)


def check_fits(shape: Sequence[int], what: str) -> None:
    """Raise `UsageError` if a kernel of this shape does not fit into memory."""
    remedy = "Use fewer states, or a set that keeps to the successors, such as one with support='nominal'."
    check_memory(8 * math.prod(shape), f"{what}, {list(shape)} numbers,", remedy)


def gathered(values: Tensor, state: Tensor) -> Tensor:
    """`values[state]`, for a large `state`."""
    return values.index_select(0, state.reshape(-1)).view(state.shape)


def linear(kernel: Kernel, states: int) -> Callable[[Tensor], Tensor]:
    """x -> Σ P(s'|…) x(s') for rows `[N, S']` or `[N, K]`, prepared for repeated calls."""
    if isinstance(kernel, Tensor):
        if kernel.device.type != "cpu":
            return lambda x: kernel @ x
        matrix = kernel.numpy()  # NumPy's product with one vector is faster
        return lambda x: torch.from_numpy(matrix @ x.numpy())
    N, K = kernel.state.shape
    kind = torch.int32 if N * K < 1 << 31 else torch.int64  # half of the data that a product reads is indices
    ends = torch.arange(0, N * K + 1, K, dtype=kind, device=kernel.state.device)
    parts = ends, kernel.state.to(kind).flatten(), kernel.probability.flatten()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse", UserWarning)  # torch warns that its CSR format is new
        matrix = torch.sparse_csr_tensor(*parts, (N, states), check_invariants=False)
    return lambda x: matrix @ x


def check_outcomes(ambiguity: Ambiguity, rows: Rows) -> None:
    """Raise `UsageError` if a set moves mass to states without a reward in a sparse MDP, or has other pairs."""
    pairs = rows.probability.shape[:2]
    for part in ambiguity.parts:
        if not _fits(part.leading, pairs):
            raise UsageError(
                f"{part} holds arrays with leading axes {list(part.leading)}; they must be those of the pairs, "
                f"{list(pairs)}, with length 1 where all entries are the same, or none."
            )
    if rows.state is not None and rows.by_outcome and reach(ambiguity) != "successors":
        raise UsageError(
            f"{ambiguity} may move mass to any state, but the rewards of a sparse MDP that depend on the next state "
            "are known for its successors only. Give the set support='nominal', the MDP reward=mdp.expected_reward(), "
            "or a dense kernel and reward [S, A, S']."
        )


def warn_of_dense_work(ambiguity: Ambiguity, rows: Rows) -> None:
    """Warn, before any work, if a set makes all states successors of every pair of a large sparse MDP."""
    states, actions, width = rows.probability.shape
    entries = states * actions * states
    if rows.state is None or reach(ambiguity) != "all" or entries < DENSE_WORK:
        return
    remedy = "support='nominal' (or support=nominal in its text) keeps it to the successors"
    if not all(isinstance(part, Supported) for part in ambiguity.parts):
        remedy = "sets that keep to the successors, such as KL, and total variation are fast here"
    warnings.warn(
        f"{type(ambiguity).__name__} may move mass to any state, so each sweep processes {states:,} × {actions:,} × "
        f"{states:,} = {entries:.2g} numbers instead of {states:,} × {actions:,} × {width:,}, which takes up to about "
        f"{entries * SECONDS / 60:,.0f} minutes; {remedy}, and time_limit= stops after a sweep with the bounds so far.",
        RuntimeWarning,
        stacklevel=5,
    )


def strength_of(ambiguity: Ambiguity, mdp: TabularMDP, shape: tuple[int, ...]) -> Any:
    """The radius or penalty of a set, for rows of this shape: a number, a float64 tensor, or None.

    Raises `UsageError` if it, or that of a part, is out of range, has another shape, or was made for other outcomes.
    """
    for part in ambiguity.parts:
        if part.outcomes not in (None, mdp.states):
            raise UsageError(f"{part} was made for {part.outcomes} outcomes, but there are {mdp.states} states.")
        if isinstance(part.strength, Array):
            strength = torch.as_tensor(part.strength, dtype=torch.float64)
            part.check_strength(strength)
            if not _fits(strength.shape, shape):
                raise UsageError(
                    f"{part}: the radius or penalty has shape {list(strength.shape)}; it must be a number or "
                    f"{list(shape)}, with axes of length 1 where it is constant."
                )
    strength: Any = ambiguity.strength
    if not isinstance(strength, Array):
        return strength
    strength = torch.as_tensor(strength, dtype=torch.float64)
    return strength.expand(shape) if strength.ndim else strength


def _fits(given: Sequence[int], shape: Sequence[int]) -> bool:
    """Whether there are no axes, or as many as in the shape, each of equal length or 1."""
    return not given or (len(given) == len(shape) and all(n in (1, m) for n, m in zip(given, shape)))


def check_pairs(ambiguity: Ambiguity, mdp: TabularMDP) -> None:
    """Raise `UsageError` unless a set can be around the row of each pair of state and action."""
    check_outcomes(ambiguity, nominal_rows(mdp))
    strength_of(ambiguity, mdp, (mdp.states, mdp.actions))
