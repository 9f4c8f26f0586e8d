"""Credit by windows: a step is credited with the rewards of its neighbourhood, between its own reward and the return.

    L = −(1/Z) Σ_i (Σ_{t∈W_i} r_t)·(Σ_{t∈W_i} log π_t),   W_i = {i·s − p, …, i·s − p + k − 1} within the steps

Each window multiplies its rewards by its log-probabilities, as a convolution of ones with kernel k, stride s and
padding p would; as a matrix C of windows and steps this credits step t with (CᵀC r)_t. k = s = 1 is every step's own
reward, one window over all steps the return. Only credit that includes all later rewards is unbiased for the return:
what a window adds from earlier steps has expectation 0, what it leaves out of later ones has not.

Luo, Yang, Shan, Chen, *Pseudo-Convolutional Policy Gradient for Sequence-to-Sequence Lip-Reading* (FG 2020),
arXiv:2003.03983; the formula is our reading of its text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from surefoot.errors import UsageError
from surefoot.hyperparameters import check, hyperparameter
from surefoot.objectives.advantages import Advantage


@dataclass(frozen=True)
class Windows:
    """Where the windows are."""

    kernel: int = hyperparameter(5, low=1, help="k: steps of a window.")
    stride: int = hyperparameter(2, low=1, help="s: steps from one window to the next.")
    padding: int | None = hyperparameter(None, low=0, help="p: steps before the first one; by default k // 2.")
    average: bool = hyperparameter(False, help="Means over the steps of a window in place of sums.")

    def __post_init__(self) -> None:
        check(self)
        self.check_windows()

    def check_windows(self) -> None:
        """Raise `UsageError` for windows that leave steps out."""
        if self.stride > self.kernel:
            raise UsageError(
                f"stride={self.stride} is not allowed with kernel={self.kernel}: steps between two windows would get "
                "no credit. Give a stride of at most the kernel."
            )
        if not self.stride - 1 <= self.pad < self.kernel:
            raise UsageError(
                f"padding={self.padding!r} is not allowed with kernel={self.kernel} and stride={self.stride}: it "
                f"must be in [{self.stride - 1}, {self.kernel - 1}], so that every step gets credit."
            )

    @property
    def pad(self) -> int:
        """p."""
        return self.kernel // 2 if self.padding is None else self.padding

    def credit(self, rewards: Tensor, valid: Tensor) -> Tensor:
        """(CᵀC r)_t, in the shape of the rewards `[time, ...]`; the steps of a sequence are `valid`, and none after."""
        paid = torch.where(valid, rewards, 0.0)
        windows = self.windows_of(len(rewards)).to(rewards.dtype)
        place = torch.arange(len(windows)).view(-1, *[1] * (rewards.ndim - 1))
        summed = torch.einsum("nt,t...->n...", windows, paid) * (place < self.windows_in(valid))
        if self.average:
            summed = summed / torch.einsum("nt,t...->n...", windows, valid.to(rewards.dtype)).clamp(min=1) ** 2
        return torch.einsum("nt,n...->t...", windows, summed) * valid

    def windows_of(self, steps: int) -> Tensor:
        """C `[windows, steps]`: which steps lie in which window of a sequence."""
        first = torch.arange(int(self.windows_in(torch.ones(steps, 1))[0]))[:, None] * self.stride - self.pad
        step = torch.arange(steps)
        return (step >= first) & (step < first + self.kernel)

    def windows_in(self, valid: Tensor) -> Tensor:
        """The number of windows `[...]` in sequences whose steps are `valid [time, ...]`: at least one."""
        return ((valid.sum(0) + 2 * self.pad - self.kernel).div(self.stride, rounding_mode="floor") + 1).clamp(min=1)

    def in_words(self) -> str:
        """The credit as a formula."""
        kind = "means" if self.average else "sums"
        return f"CᵀC r, windows of {kind} over {self.kernel} steps every {self.stride}, padded by {self.pad}"


@dataclass(frozen=True)
class windowed(Windows, Advantage):
    """Rewards summed over sliding windows of steps, and given to every step of the window."""

    def __call__(self, rewards: Tensor, **signals: Any) -> Tensor:
        valid = signals.get("valid")
        return self.credit(rewards, torch.ones_like(rewards, dtype=torch.bool) if valid is None else valid)

    def __str__(self) -> str:
        return self.in_words()
