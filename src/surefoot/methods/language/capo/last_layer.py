"""What a step of the optimiser on one token alone would do to that token, seen from the last linear layer.

Logits z = W·h over a set of candidate tokens, π = softmax(z), and v = e_a − π for the token a that was written. Its
gradient of Â·log π in W is g = Â·v·hᵀ. D is the direction that the optimiser would take if g were the gradient of the
batch, and u = D·h the change of the logits per unit of the step size α. Then

    predicted change of Â·π_new(a)/π(a):    m_H = Â·(α·v·u + ½α²·((v·u)² − uᵀF u)),    uᵀF u = Σ π u² − (Σ π u)²
    predicted change of the policy, a KL:   m_F = ½α²·(v·u)²

m_H is the second-order Taylor polynomial; ⟨g, D⟩ = Â·v·u. (arXiv:2510.00819, §3 and the released code.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from surefoot.models.language.model import TokenStatistics
from surefoot.models.language.sequences import Sequences

BETA, BETA_SQUARE, EPSILON = 0.9, 0.999, 1e-8  # of Adam
AT_A_TIME = 2**22  # numbers of the tensors tokens × candidates × width


@dataclass(frozen=True)
class Written:
    """Tokens that were written, and what the last layer knew before each."""

    hidden: Float[Tensor, "tokens width"]
    row: Int[Tensor, "tokens candidates"]  # of the output layer
    policy: Float[Tensor, "tokens candidates"]  # renormalised over the candidates
    score: Float[Tensor, "tokens candidates"]  # v: one-hot of the token written, minus the policy
    advantage: Float[Tensor, " tokens"]

    @staticmethod
    def of(sequences: Sequences, judged: TokenStatistics, advantage: Float[Tensor, "rows length"]) -> Written:
        """The valid tokens. A token outside the likeliest ones takes the place of the last of them."""
        assert judged.hidden is not None and judged.candidate is not None and judged.candidate_log_prob is not None
        valid = sequences.valid
        row, log_prob = judged.candidate[valid].clone(), judged.candidate_log_prob[valid].clone()
        token = sequences.tokens[valid][:, None]
        outside = ~(row == token).any(1)
        row[outside, -1], log_prob[outside, -1] = token[outside, 0], judged.log_prob[valid][outside]
        policy = log_prob.softmax(-1)
        return Written(judged.hidden[valid], row, policy, (row == token).float() - policy, advantage[valid])

    def __getitem__(self, some: Tensor | slice) -> Written:
        return Written(self.hidden[some], self.row[some], self.policy[some], self.score[some], self.advantage[some])

    def pieces(self) -> list[slice]:
        """The tokens, as many at a time as their gradients in the output layer may take memory."""
        size = max(1, AT_A_TIME // max(1, self.row.shape[1] * self.hidden.shape[1]))
        return [slice(start, start + size) for start in range(0, len(self.hidden), size)]


@dataclass(frozen=True)
class Moments:
    """Adam's moments of those rows of the output layer that tokens have met so far, and the number of steps."""

    row: Int[Tensor, " rows"]  # ascending
    first: Float[Tensor, "rows width"]
    second: Float[Tensor, "rows width"]
    count: Int[Tensor, ""]

    @staticmethod
    def start(width: int) -> Moments:
        none = torch.zeros(0, width)
        return Moments(torch.zeros(0, dtype=torch.int64), none, none, torch.zeros((), dtype=torch.int64))

    def direction(self, written: Written) -> Float[Tensor, "tokens candidates width"]:
        """Adam's next direction in the rows of each token's candidates, if the token were alone in the batch; its own
        gradient if there are no moments yet."""
        gradient = (written.advantage[:, None] * written.score)[..., None] * written.hidden[:, None]
        if not len(self.row):
            return gradient
        first, second = (_found(self.row, x, written.row) for x in (self.first, self.second))
        first = BETA * first + (1 - BETA) * gradient
        second = BETA_SQUARE * second + (1 - BETA_SQUARE) * gradient**2
        return _adam(first, second, int(self.count) + 1)

    def after(self, written: Written) -> Moments:
        """The moments after a step on these tokens: of every row the mean gradient of the tokens among whose candidates
        it is; rows that no token met stay as they are."""
        if not len(written.hidden):
            return Moments(self.row, self.first, self.second, self.count + 1)
        row = torch.cat([self.row, written.row.flatten()]).unique()
        place = torch.searchsorted(row, written.row)
        token = torch.arange(len(place))[:, None].expand_as(place)
        pull = (written.advantage[:, None] * written.score).flatten()
        incidence = torch.sparse_coo_tensor(
            torch.stack([place.flatten(), token.flatten()]), pull, (len(row), len(place)), check_invariants=False
        )
        met = torch.bincount(place.flatten(), minlength=len(row))[:, None]
        gradient = torch.sparse.mm(incidence, written.hidden) / met.clamp(min=1)
        first, second = torch.zeros_like(gradient), torch.zeros_like(gradient)
        old = torch.searchsorted(row, self.row)
        first[old], second[old] = self.first.to(gradient), self.second.to(gradient)
        first = torch.where(met > 0, BETA * first + (1 - BETA) * gradient, first)
        second = torch.where(met > 0, BETA_SQUARE * second + (1 - BETA_SQUARE) * gradient**2, second)
        return Moments(row, first, second, self.count + 1)


def _adam(first: Tensor, second: Tensor, step: int) -> Tensor:
    """Adam's direction from moments after so many steps."""
    return first / (1 - BETA**step) / ((second / (1 - BETA_SQUARE**step)).sqrt() + EPSILON)


def _found(row: Tensor, values: Tensor, wanted: Tensor) -> Tensor:
    """The values of the wanted rows, 0 where there are none."""
    place = torch.searchsorted(row, wanted).clamp(max=len(row) - 1)
    return values[place] * (row[place] == wanted)[..., None]


def alone(written: Written, moments: Moments | None) -> Float[Tensor, "tokens candidates"]:
    """u of every token: the change of its logits by a step on it alone, by Adam with these moments, or by SGD."""
    if moments is None or not len(moments.row):
        size = written.hidden.square().sum(-1)
        return (written.advantage * size)[:, None] * written.score
    return _along(written, moments.direction)


def together(written: Written, moments: Moments) -> Float[Tensor, "tokens candidates"]:
    """u of every token by Adam's step on the batch, from the moments after it."""
    if not len(moments.row):
        return torch.zeros_like(written.policy)
    direction = _adam(moments.first, moments.second, int(moments.count))
    return _along(written, lambda some: _found(moments.row, direction, some.row))


def _along(written: Written, direction: Callable[[Written], Tensor]) -> Tensor:
    """D·h of every token, some tokens at a time."""
    some = [written[piece] for piece in written.pieces()]
    parts = [(direction(one) @ one.hidden[..., None]).squeeze(-1) for one in some]
    return torch.cat([written.policy[:0], *parts])


def shifts(
    written: Written, u: Float[Tensor, "tokens candidates"], rate: float
) -> tuple[Float[Tensor, " tokens"], Float[Tensor, " tokens"]]:
    """m_H and m_F of every token for a change u of its logits and a step size."""
    along = (written.score * u).sum(-1)
    mean = (written.policy * u).sum(-1)
    curvature = along**2 - ((written.policy * u**2).sum(-1) - mean**2)
    return written.advantage * (rate * along + rate**2 / 2 * curvature), (rate * along) ** 2 / 2
