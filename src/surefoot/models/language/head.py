"""Log-probabilities, entropies and normalisers of tokens from hidden states, a tile of the logits at a time.

The logits of a batch, `[tokens, vocabulary]`, take more memory than the model that computed them. Here only a tile of
them, some tokens by some of the vocabulary, exists at a time, in the forward pass and in the backward pass, which
recomputes it. A tile has as many tokens as possible: with few, the weights would be read from memory many times.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

TILE, CPU_TILE = 2**24, 2**20  # logits at a time: 64 MiB in float32; 4 MiB on a CPU, about the size of its cache
ROWS = 1024  # maximum number of tokens per tile


def token_log_probs(
    hidden: Float[Tensor, "tokens width"],
    weight: Float[Tensor, "vocabulary width"],
    target: Int[Tensor, " tokens"],
    *,
    bias: Float[Tensor, " vocabulary"] | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    tile: int | None = None,
) -> tuple[Float[Tensor, " tokens"], Float[Tensor, " tokens"], Float[Tensor, " tokens"]]:
    """log softmax(z)[target], the entropy of softmax(z) and log Σ exp(z), in float32, for
    z = softcap·tanh((W·h + b)/softcap)/T.

    Differentiable in `hidden`, `weight` and `bias`. `tile` is the maximum number of logits at a time.
    """
    if not len(target):
        none = hidden.new_zeros(0, dtype=torch.float32)
        return none, none, none
    tile = tile or (CPU_TILE if hidden.device.type == "cpu" else TILE)
    rows = min(len(target), ROWS, tile)
    return _TokenLogProbs.apply(hidden, weight, bias, target, _Tiles(rows, tile // rows, temperature, softcap))


@torch.no_grad()
def likeliest(
    hidden: Float[Tensor, "tokens width"],
    weight: Float[Tensor, "vocabulary width"],
    count: int,
    *,
    bias: Float[Tensor, " vocabulary"] | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    tile: int | None = None,
) -> tuple[Float[Tensor, "tokens count"], Int[Tensor, "tokens count"]]:
    """The `count` largest logits z, as `token_log_probs` defines them, in descending order, and their tokens."""
    tile = tile or (CPU_TILE if hidden.device.type == "cpu" else TILE)
    rows = max(1, min(len(hidden), ROWS, tile))
    tiles = _Tiles(rows, max(1, tile // rows), temperature, softcap)
    logits = hidden.new_empty(len(hidden), count, dtype=torch.float32)
    tokens = torch.empty(len(hidden), count, dtype=torch.int64, device=hidden.device)
    for some in _slices(len(hidden), tiles.rows):
        best, found = logits[some, :0], tokens[some, :0]
        for columns in _slices(len(weight), tiles.columns):
            here = tiles.logits(hidden[some], weight, bias, columns)
            place = torch.arange(columns.start, columns.stop, device=hidden.device).expand(len(here), -1)
            best, found = torch.cat([best, here], 1), torch.cat([found, place], 1)
            best, order = best.topk(min(count, best.shape[1]), 1)
            found = found.gather(1, order)
        logits[some], tokens[some] = best, found
    return logits, tokens


def logits_of(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float, softcap: float | None
) -> Float[Tensor, "tokens vocabulary"]:
    """The logits divided by the temperature, in float32."""
    logits = torch.nn.functional.linear(hidden, weight, bias).float()
    if softcap is not None:
        logits = logits.div_(softcap).tanh_().mul_(softcap)
    return logits if temperature == 1 else logits.div_(temperature)


class _Tiles(NamedTuple):
    """The sizes of a tile in tokens and logits, and how its logits are computed."""

    rows: int
    columns: int
    temperature: float
    softcap: float | None

    def logits(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, columns: slice) -> Tensor:
        some = None if bias is None else bias[columns]
        return logits_of(hidden, weight[columns], some, self.temperature, self.softcap)

    def slope(self, logits: Tensor) -> Tensor | None:
        """∂z/∂(W·h + b) up to the temperature: 1 − tanh² of the logits before capping."""
        return None if self.softcap is None else 1 - (logits * (self.temperature / self.softcap)) ** 2


def _slices(length: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


def _inside(target: Tensor, columns: slice) -> tuple[Tensor, Tensor]:
    """The rows whose target is among these columns, and which of them it is."""
    rows = ((target >= columns.start) & (target < columns.stop)).nonzero().squeeze(-1)
    return rows, target[rows] - columns.start


class _TokenLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, tiles: _Tiles
    ) -> tuple[Tensor, Tensor, Tensor]:
        chosen, normaliser, entropy = hidden.new_empty(3, len(target), dtype=torch.float32)
        for rows in _slices(len(target), tiles.rows):
            parts = []
            for columns in _slices(len(weight), tiles.columns):
                logits = tiles.logits(hidden[rows], weight, bias, columns)
                here, place = _inside(target[rows], columns)
                chosen[rows].index_put_((here,), logits[here, place])
                parts.append(_sums(logits))
            normaliser[rows], entropy[rows] = _joined(torch.stack(parts))
        ctx.save_for_backward(hidden, weight, bias, target, entropy, normaliser)
        ctx.tiles = tiles
        return chosen - normaliser, entropy.clone(), normaliser.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_log_prob: Tensor, by_entropy: Tensor, by_normaliser: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, target, entropy, normaliser = ctx.saved_tensors
        tiles, wanted = ctx.tiles, ctx.needs_input_grad
        by_hidden = torch.zeros_like(hidden, dtype=torch.float32) if wanted[0] else None
        by_weight = torch.empty_like(weight) if wanted[1] else None
        by_bias = torch.empty_like(bias) if bias is not None and wanted[2] else None
        with_entropy = bool(by_entropy.any())
        for columns in _slices(len(weight), tiles.columns):
            weight_sum, bias_sum = torch.zeros((), device=weight.device), torch.zeros((), device=weight.device)
            for rows in _slices(len(target), tiles.rows):
                logits = tiles.logits(hidden[rows], weight, bias, columns)
                slope = tiles.slope(logits)
                # ∂log π(y)/∂z = 1[y] − π, ∂H/∂z = −π(log π + H), ∂log Σ exp(z)/∂z = π; computed in place of the logits.
                by_logits = logits.sub_(normaliser[rows, None])
                scale = (by_log_prob - by_normaliser)[rows, None]
                if with_entropy:
                    pull = (by_logits + entropy[rows, None]).mul_(by_entropy[rows, None]).add_(scale)
                    by_logits = by_logits.exp_().mul_(pull).neg_()
                else:
                    by_logits = by_logits.exp_().mul_(-scale)
                here, place = _inside(target[rows], columns)
                by_logits[here, place] += by_log_prob[rows][here]
                if slope is not None:
                    by_logits.mul_(slope)
                if tiles.temperature != 1:
                    by_logits.div_(tiles.temperature)
                if by_bias is not None:
                    bias_sum = bias_sum + by_logits.sum(0)
                by_logits = by_logits.to(weight.dtype)
                if by_hidden is not None:
                    by_hidden[rows] += by_logits @ weight[columns]
                if by_weight is not None:
                    weight_sum = weight_sum + by_logits.T @ hidden[rows]
            if by_weight is not None:
                by_weight[columns] = weight_sum
            if by_bias is not None:
                by_bias[columns] = bias_sum
        return None if by_hidden is None else by_hidden.to(hidden.dtype), by_weight, by_bias, None, None


def _sums(logits: Tensor) -> Float[Tensor, "3 tokens"]:
    """m = max z, Σ exp(z − m) and Σ exp(z − m)·(z − m) of every row; in place. Impossible tokens add nothing."""
    least = torch.finfo(logits.dtype).min
    top = logits.amax(-1).clamp_(min=least)
    likely = logits.sub_(top[:, None]).exp()
    total = likely.sum(-1)
    return torch.stack([top, total, likely.mul_(logits.clamp_(min=least)).sum(-1)])


def _joined(parts: Float[Tensor, "parts 3 tokens"]) -> tuple[Float[Tensor, " tokens"], Float[Tensor, " tokens"]]:
    """log Σ exp(z) and the entropy of softmax(z) from those sums over parts of the vocabulary."""
    top, total, weighted = parts.unbind(1)
    most = top.amax(0)
    below = (top - most).clamp(min=torch.finfo(top.dtype).min)
    share = below.exp()
    whole = (share * total).sum(0)
    return most + whole.log(), whole.log() - (share * (weighted + below * total)).sum(0) / whole
