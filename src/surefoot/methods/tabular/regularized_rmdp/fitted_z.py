"""Robust fitted-Z iteration: offline values under an adversary that pays KL(q ‖ p)/β for the next state.

    Z(s, a) = E exp(−β V(s'))        Q = r − (γ/β) log Z        V = max_a Q

One ordinary regression of exp(−β V(s')) on state and action per iteration, without a dual variable. Where β·V is large
Z underflows, so the robust expectation of the next value, −(1/β) log Z, is stored instead. In the limit β = 0 it is the
expectation, and the iteration is fitted-Q iteration.
Source: Zhang, Hu & Li, "Soft Robust MDPs and Risk-Sensitive MDPs" (arXiv:2306.11626).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from surefoot.models.functional import Flat, initial
from surefoot.models.networks import mlp
from surefoot.seeding import torch_stream


class Data(NamedTuple):
    """Transitions under any behaviour that covers the pairs of interest."""

    state: Tensor  # [N, ...]
    action: Tensor  # [N] whole numbers
    next_state: Tensor  # [N, ...]
    terminated: Tensor  # [N] whether the episode is over in the next state, whose value is then 0


ByAction = Callable[[Tensor], Tensor]
"""States `[N, ...]` -> a number for each action `[N, A]`."""

Fit = Callable[[Data, Tensor, int, ByAction], ByAction]
"""Data, next values `[N]`, iteration index and last fit -> robust expectations of the next value."""


@dataclass(frozen=True)
class FittedZ:
    """The result: Q-values of a state, and a policy as evaluations take it (observations `[N, ...]` -> actions)."""

    reward: ByAction
    ahead: ByAction
    gamma: float

    def q(self, state: Tensor) -> Tensor:
        """Robust action values `[N, A]`."""
        with torch.no_grad():
            return self.reward(state) + self.gamma * self.ahead(state)

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        return self.q(torch.as_tensor(observation)).argmax(-1).numpy()


def fitted_z(data: Data, reward: ByAction, fit: Fit, *, gamma: float, iterations: int) -> FittedZ:
    """`iterations` regressions, from a next value of 0 (Z = 1) on. `reward` is known, or fitted beforehand."""
    found = FittedZ(reward, lambda state: torch.zeros_like(reward(state)), gamma)
    for iteration in range(iterations):
        value = found.q(data.next_state).amax(-1).masked_fill(data.terminated, 0.0)
        found = FittedZ(reward, fit(data, value, iteration, found.ahead), gamma)
    return found


# --- regressions -----------------------------------------------------------------------------------------------------


def entropic_means(value: Tensor, pair: Tensor, pairs: int, beta: float) -> Tensor:
    """−(1/β) log of the mean of exp(−βV) `[pairs]` over the values `[N]` of each pair; the least of all V where there
    are none. The mean minimises the squared error on Z."""
    count, least = torch.bincount(pair, minlength=pairs), value.min()
    lowest = torch.full((pairs,), torch.inf, dtype=value.dtype).scatter_reduce(0, pair, value, "amin")
    above = value - lowest[pair]  # exact, and no pair's Z vanishes beside another's
    total = torch.bincount(pair, weights=above if beta == 0 else torch.exp(-beta * above), minlength=pairs)
    mean = total / count
    return torch.where(count > 0, lowest + (mean if beta == 0 else -mean.log() / beta), least)


@dataclass(frozen=True)
class Network:
    """A network of the state with one output h an action, fitted by Adam, starting from the last weights.

    The squared error on Z says nothing where V is far above its least. The loss here depends on the ratio of
    Z and exp(−βh), (exp(β(h − V)) − β(h − V) − 1)/β², which has the same minimiser, h = −(1/β) log E exp(−βV), at every
    scale, and is half the squared error at β = 0 (Varian's LINEX loss, 1975).
    """

    inputs: int
    actions: int
    beta: float
    seed: int
    hidden: Sequence[int] = (64, 64)
    learning_rate: float = 1e-3
    epochs: int = 5
    minibatch_size: int = 256

    def __call__(self, data: Data, value: Tensor, iteration: int, last: ByAction) -> ByAction:
        known = last.weights if isinstance(last, Fitted) else initial(self._module, torch_stream(self.seed, "weights"))
        flat, weights, value = Flat(self._module()), known.clone().requires_grad_(), value.to(known.dtype)
        adam = torch.optim.Adam([weights], lr=self.learning_rate)
        stream = torch_stream(self.seed, "minibatches", iteration)
        for _ in range(self.epochs):
            for rows in torch.randperm(len(value), generator=stream).split(self.minibatch_size):
                guess = flat(weights, data.state[rows].to(known.dtype)).gather(-1, data.action[rows, None]).squeeze(-1)
                adam.zero_grad()
                linex(guess - value[rows], self.beta).mean().backward()
                adam.step()
        return Fitted(flat, weights.detach())

    def _module(self) -> nn.Module:
        return nn.Sequential(mlp(self.inputs, self.hidden), nn.Linear(self.hidden[-1], self.actions))


@dataclass(frozen=True)
class Fitted:
    """A network with its weights."""

    flat: Flat
    weights: Tensor

    def __call__(self, state: Tensor) -> Tensor:
        return self.flat(self.weights, state.to(self.weights.dtype))


def linex(error: Tensor, beta: float) -> Tensor:
    """(exp(βe) − βe − 1)/β², continued by its tangent above βe = 5, so that a bad initial fit does not derail Adam."""
    if beta == 0:
        return error.square() / 2
    scaled = beta * error
    curved = scaled.clamp(max=5.0)
    return (torch.expm1(curved) + curved.exp() * (scaled - curved) - scaled) / beta**2
