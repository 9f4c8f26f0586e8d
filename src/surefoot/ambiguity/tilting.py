"""The KL ball for many rows that share their values, by polynomials in the tilt.

The value of the ball is the maximum over tilts t > 0 of −(K(t) + radius)/t with K(t) = log E exp(−t·v). Over the tilts
that a sample of the rows needs, exp(−t·v) is for every v close to a polynomial in t, to any number of digits. So is
E exp(−t·v) for every row, with coefficients that are products of the nominal with a few columns; one more column bounds
the error.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.polynomial import chebyshev
from torch import Tensor

from surefoot.ambiguity.contract import Plan

TOLERANCE = 5e-11  # error of a value, in units of the span of the values
TERMS = (7, 9, 11, 13, 15)  # numbers of terms of the polynomials; the bound is one column more
STEPS = 8  # iterations of Newton's method


def tilt_plan(values: Tensor, sample: Tensor, tilts: Tensor) -> Plan | None:
    """The plan for rows like a sample `[s, n]` with the tilts `[s, 1]`; None if no polynomial fits."""
    weights = sample * torch.exp(-tilts * (values - values.min()))
    centre = ((weights @ values) / weights.sum(-1)).median()
    h = values - centre
    allowed = TOLERANCE * float(values.max() - values.min())
    share = (sample * torch.exp(-tilts * h)).sum(-1, keepdim=True) * tilts  # divisor of the error
    logs = tilts.log()
    low, middle, high = (float(x) for x in (logs.min(), logs.median(), logs.max()))
    low, high = low - 0.75 * (high - low) - 0.02, high + 0.75 * (high - low) + 0.02
    while high - low > 0.04:
        inside = ((logs > low) & (logs < high)).squeeze(-1)
        for terms in TERMS:
            columns = _polynomials(h, math.exp(low), math.exp(high), terms)
            if bool((sample @ columns[:, -1:] <= 0.5 * allowed * share)[inside].all()):
                return Plan(columns, _Finish(low, middle, high, float(centre), allowed))
        low, high = middle - 0.6 * (middle - low), middle + 0.6 * (high - middle)
    return None


def _polynomials(h: Tensor, low: float, high: float, terms: int) -> Tensor:
    """The coefficients of exp(−t·h) − 1 in powers of x, and the maximum error: `[n, terms + 1]`.

    x goes from −1 to 1 as t goes from `low` to `high`. The polynomials interpolate at Chebyshev nodes; their error is
    largest about half-way between nodes.
    """
    nodes = np.cos(np.pi * (np.arange(terms) + 0.5) / terms)
    basis = chebyshev.chebvander(nodes, terms - 1) * np.where(np.arange(terms) > 0, 2, 1) / terms
    powers = np.stack([np.pad(p := chebyshev.cheb2poly(row), (0, terms - len(p))) for row in np.eye(terms)])

    def exact(x: np.ndarray) -> Tensor:
        t = torch.as_tensor(0.5 * (low + high) + 0.5 * (high - low) * x, dtype=h.dtype, device=h.device)
        return torch.expm1(-t * h[:, None])

    coefficients = exact(nodes) @ torch.as_tensor(basis @ powers, dtype=h.dtype, device=h.device)
    farthest = np.cos(np.pi * np.arange(terms + 1) / terms)
    powers_there = torch.as_tensor(np.vander(farthest, terms, increasing=True).T, dtype=h.dtype, device=h.device)
    off = (coefficients @ powers_there - exact(farthest)).abs().amax(-1, keepdim=True)
    return torch.cat([coefficients, 2 * off], -1)


class _Finish:
    """Newton's method for the tilt of every row, in its logarithm, within the range of the polynomials."""

    def __init__(self, low: float, start: float, high: float, centre: float, allowed: float):
        self.low, self.start, self.high, self.centre, self.allowed = low, start, high, centre, allowed

    def __call__(self, products: Tensor, probabilities: Tensor, radius: Tensor | None) -> tuple[Tensor, Tensor]:
        assert radius is not None
        radius = radius[:, 0]
        *coefficients, off = products.T.contiguous()
        log_t = torch.full_like(off, self.start)
        for _ in range(STEPS):
            t, m, k, kl, slope, rounding = self._at(log_t, coefficients, off)
            surplus = torch.log(radius / kl)
            between = (log_t > self.low) & (log_t < self.high)
            lost = radius * (surplus.abs() + rounding / radius) ** 2 / (slope * t)  # loss from missing the maximum
            if not bool((between & (lost > 0.1 * self.allowed)).any()):
                break
            log_t = (log_t + surplus / slope).clamp(self.low, self.high)
        near = between & (surplus.abs() < 0.01) & (rounding < 0.01 * radius)
        certain = near & (lost <= self.allowed) & (off <= self.allowed * m * t)
        return self.centre - (k + radius) / t, certain

    def _at(self, log_t: Tensor, coefficients: list[Tensor], off: Tensor) -> tuple[Tensor, ...]:
        """t, E exp(−t·h), K, the KL divergence of the tilt t, the slope of its logarithm, and the error of the KL."""
        t = log_t.exp()
        centre, width = (0.5 * (math.exp(self.high) + sign * math.exp(self.low)) for sign in (1, -1))
        x = (t - centre) / width
        m, first, second = coefficients[-1], torch.zeros_like(x), torch.zeros_like(x)
        for c in reversed(coefficients[:-1]):
            second = torch.addcmul(first, second, x)
            first = torch.addcmul(m, first, x)
            m = torch.addcmul(c, m, x)
        k, m = torch.log1p(m), m + 1
        first, second = first / (width * m), 2 * second / (width * width * m)
        kl = t * first - k
        rounding = 1e-15 * k.abs() + len(coefficients) ** 2 * t / (width * m) * off  # Markov's bound of a derivative
        slope = t * t * (second - first * first).clamp(min=1e-300) / kl.clamp(min=1e-300)
        return t, m, k, kl.clamp(min=1e-300), slope, rounding
