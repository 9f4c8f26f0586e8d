"""Priorities of transitions as a binary tree of sums: drawing in proportion to them costs a walk from root to leaf.

Tom Schaul et al., *Prioritized Experience Replay* (2015), arXiv:1511.05952.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ALPHA, EPSILON = 0.6, 1e-6


class Priorities:
    """One priority a place; 0 for places that must not be drawn. Errors are raised to the power `alpha`."""

    def __init__(self, places: int, alpha: float = ALPHA, epsilon: float = EPSILON) -> None:
        self.leaves = 1 << max(1, (places - 1).bit_length())
        self.tree = np.zeros(2 * self.leaves)  # node i has the children 2i and 2i + 1; leaves come last
        self.alpha, self.epsilon, self.largest = alpha, epsilon, 1.0

    def add(self, places: np.ndarray, valid: np.ndarray) -> None:
        """New transitions get the largest priority so far, so that each is drawn soon; invalid ones get none."""
        self._write(places, np.where(valid, self.largest, 0.0))

    def remove(self, places: np.ndarray) -> None:
        """Places that hold no transition any more."""
        self._write(places, np.zeros(len(places)))

    def set(self, places: np.ndarray, errors: np.ndarray) -> None:
        """The priorities `(|error| + ε)^α`; of a place that is given twice, the last one stands."""
        values = (np.abs(errors.astype(float)) + self.epsilon) ** self.alpha
        self.largest = max(self.largest, float(values.max()))
        self._write(places, values)

    def sample(
        self, size: int, generator: np.random.Generator, beta: float
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Places drawn in proportion to their priorities, one from each of `size` equal parts of their sum, and
        importance weights `(n·p)^−β` divided by the largest of them."""
        total = self.tree[1]
        mass = (np.arange(size) + generator.random(size)) / size * total
        node = np.ones(size, np.int64)
        while node[0] < self.leaves:
            left = self.tree[2 * node]
            right = mass >= left
            right &= self.tree[2 * node + 1] > 0  # rounding must not lead to an empty place
            mass, node = np.where(right, mass - left, mass), 2 * node + right
        weights = (self.tree[node] / total) ** -beta
        return node - self.leaves, (weights / weights.max()).astype(np.float32)

    def state(self) -> NDArray[np.float64]:
        """All priorities, and the largest so far."""
        return np.append(self.tree[self.leaves :], self.largest)

    def load(self, state: NDArray[np.float64]) -> None:
        """Restore what `state` gave."""
        self.tree[self.leaves :], self.largest = state[:-1], float(state[-1])
        for node in range(self.leaves.bit_length() - 2, -1, -1):
            level = np.arange(1 << node, 2 << node)
            self.tree[level] = self.tree[2 * level] + self.tree[2 * level + 1]

    def _write(self, places: np.ndarray, values: np.ndarray) -> None:
        node = places + self.leaves
        self.tree[node] = values
        while (node := np.unique(node >> 1))[0] >= 1:
            self.tree[node] = self.tree[2 * node] + self.tree[2 * node + 1]
            if node[0] == 1:
                break
