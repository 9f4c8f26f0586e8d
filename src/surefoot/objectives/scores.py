"""Scores of noisy data by denoising: Ψ(x, σ) ≈ ∇ log p_σ(x), p_σ the density of x + σ·e, e ~ N(0, I).

A network that predicts e from x + σe has the score −ε/σ. The loss of predicting it is σ² times that of the score, so
that all levels count alike. Pascal Vincent, *A Connection Between Score Matching and Denoising Autoencoders* (2011);
Yang Song, Stefano Ermon (2019), arXiv:1907.05600.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def ladder(uniform: Float[Tensor, "..."], largest: float, smallest: float, levels: int) -> Float[Tensor, "..."]:
    """Noise levels from uniform numbers in [0, 1): one of a geometric sequence from the largest to the smallest."""
    step = (uniform * levels).floor().clamp(max=levels - 1) / max(1, levels - 1)
    return largest * (smallest / largest) ** step


def denoising(predicted: Float[Tensor, "batch dim"], noise: Float[Tensor, "batch dim"]) -> Float[Tensor, ""]:
    """mean ‖ε(x + σe, σ) − e‖² over batch and dimensions; least where −ε/σ is the score."""
    return ((predicted - noise) ** 2).mean()


def pulled(predicted: Float[Tensor, "*axes dim"], sigma: float) -> Float[Tensor, "*axes dim"]:
    """σ²·Ψ = −σ·ε: the way from x to the mean of what it is a noisy copy of (Tweedie)."""
    return -sigma * predicted
