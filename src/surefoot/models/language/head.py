"""Log-probabilities and entropies of tokens from hidden states, a few rows at a time.

The logits of a batch, `[tokens, vocabulary]`, weigh more than the model that made them. Here no more than `CHUNK` of
them exist at once, in the forward pass and in the backward pass, which computes them again.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 2**23  # logits at a time: 32 MiB in float32


def token_log_probs(
    hidden: Float[Tensor, "tokens width"],
    weight: Float[Tensor, "vocabulary width"],
    target: Int[Tensor, " tokens"],
    *,
    bias: Float[Tensor, " vocabulary"] | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    chunk: int = CHUNK,
) -> tuple[Float[Tensor, " tokens"], Float[Tensor, " tokens"]]:
    """log softmax(z)[target] and the entropy of softmax(z), in float32, for z = softcap·tanh((W·h + b)/softcap)/T.

    Differentiable in `hidden`, `weight` and `bias`. `chunk` is how many logits there may be at once.
    """
    rows = max(1, chunk // len(weight))
    return _TokenLogProbs.apply(hidden, weight, bias, target, temperature, softcap, rows)


def logits_of(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float, softcap: float | None
) -> Float[Tensor, "tokens vocabulary"]:
    """The logits over the temperature, in float32."""
    logits = torch.nn.functional.linear(hidden, weight, bias).float()
    if softcap is not None:
        logits = logits.div_(softcap).tanh_().mul_(softcap)
    return logits if temperature == 1 else logits.div_(temperature)


class _TokenLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Tensor,
        temperature: float,
        softcap: float | None,
        rows: int,
    ) -> tuple[Tensor, Tensor]:
        found = []
        for h, y in zip(hidden.split(rows), target.split(rows)):
            logits = logits_of(h, weight, bias, temperature, softcap)
            normaliser = logits.logsumexp(-1)
            chosen = logits.gather(-1, y[:, None]).squeeze(-1)
            found.append(torch.stack([chosen - normaliser, _entropy(logits.sub_(normaliser[:, None])), normaliser]))
        log_prob, entropy, normaliser = torch.cat(found, 1) if found else hidden.new_zeros(3, 0, dtype=torch.float32)
        ctx.save_for_backward(hidden, weight, bias, target, entropy, normaliser)
        ctx.settings = temperature, softcap, rows
        return log_prob, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_log_prob: Tensor, by_entropy: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, target, entropy, normaliser = ctx.saved_tensors
        temperature, softcap, rows = ctx.settings
        wanted = ctx.needs_input_grad
        by_hidden = torch.empty_like(hidden) if wanted[0] else None
        by_weight = torch.zeros_like(weight, dtype=torch.float32) if wanted[1] else None
        by_bias = torch.zeros_like(bias, dtype=torch.float32) if bias is not None and wanted[2] else None
        with_entropy = bool(by_entropy.any())
        for start in range(0, len(hidden), rows):
            part = slice(start, start + rows)
            logits = logits_of(hidden[part], weight, bias, temperature, softcap)
            slope = _softcap_slope(logits, temperature, softcap)
            # ∂log π(y)/∂z = 1[y] − π and ∂H/∂z = −π(log π + H), both in place of the logits.
            by_logits = logits.sub_(normaliser[part, None])
            scale = by_log_prob[part, None]
            if with_entropy:
                pull = by_logits + entropy[part, None]
                by_logits = by_logits.exp_().mul_(pull.mul_(by_entropy[part, None]).add_(scale)).neg_()
            else:
                by_logits = by_logits.exp_().mul_(-scale)
            by_logits.scatter_add_(1, target[part, None], scale)
            if slope is not None:
                by_logits.mul_(slope)
            if temperature != 1:
                by_logits.div_(temperature)
            if by_bias is not None:
                by_bias += by_logits.sum(0)
            by_logits = by_logits.to(weight.dtype)
            if by_hidden is not None:
                by_hidden[part] = by_logits @ weight
            if by_weight is not None:
                by_weight += by_logits.T @ hidden[part]
        return (
            by_hidden,
            None if by_weight is None else by_weight.to(weight.dtype),
            None if by_bias is None or bias is None else by_bias.to(bias.dtype),
            *(None,) * 4,
        )


def _entropy(log_probs: Tensor) -> Tensor:
    """−Σ π log π of every row; what is impossible adds nothing."""
    return -(log_probs.exp() * log_probs.clamp_(min=torch.finfo(log_probs.dtype).min)).sum(-1)


def _softcap_slope(logits: Tensor, temperature: float, softcap: float | None) -> Tensor | None:
    """1 − tanh² of the uncapped logits."""
    return None if softcap is None else 1 - (logits * (temperature / softcap)) ** 2
