"""Ambiguity sets from data: counts of outcomes -> a nominal distribution and a set that contains the true one.

    nominal, ambiguity = from_counts(counts, "l1-weissman", confidence=0.95)      # counts [S, A, S']
    solve(TabularMDP(nominal, reward, gamma=0.9), ambiguity)

The confidence holds for all rows together: the error probability is split among them (union bound), and among the
outcomes of a row if each has its own interval. Below, n is the number of samples of a row, k the number of its possible
outcomes, p̂ its frequencies and δ its share of 1 − confidence.

| set | what it is | source |
|---|---|---|
| l1-weissman | ‖q − p̂‖₁ ≤ √(2·ln((2^k − 2)/δ)/n) | Weissman et al. (2003) |
| box-hoeffding | abs(q_i − p̂_i) ≤ √(ln(2k/δ)/2n) | Hoeffding (1963) |
| box-bernstein | the same ≤ √(2·p̂_i(1 − p̂_i)·ln(4k/δ)/(n − 1)) + 7·ln(4k/δ)/(3(n − 1)) | Maurer and Pontil (2009) |
| reverse-kl | KL(p̂ ‖ q) ≤ ε with e^{−nε}·(e·nε/(k − 1))^{k−1} = δ | Agrawal (2020) |
| kl | KL(q ‖ p̂) ≤ χ²_{k−1}(1 − δ)/2n; for large n; unseen outcomes stay impossible | Ben-Tal et al. (2013) |
| l1-dirichlet | ‖q − mean‖₁ ≤ its quantile under the posterior, from samples of it | Petrik and Russel (2019) |
| box-dirichlet | each q_i between quantiles δ/2k and 1 − δ/2k of its posterior | exact Beta quantiles |

The first four hold with the confidence for every true distribution and every n. The posterior is that of a Dirichlet
prior with `prior` for each outcome; its mean is the nominal of the last two.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from surefoot.ambiguity.core import Ambiguity
from surefoot.ambiguity.divergences import KL
from surefoot.ambiguity.mixtures import Box
from surefoot.ambiguity.moves import L1
from surefoot.ambiguity.tilts import ReverseKL
from surefoot.errors import UsageError, nearest
from surefoot.seeding import numpy_stream

SETS = ("l1-weissman", "box-hoeffding", "box-bernstein", "reverse-kl", "kl", "l1-dirichlet", "box-dirichlet")
SAMPLES = 2000  # samples of a posterior


class Estimated(NamedTuple):
    """A nominal distribution `[..., n]` and the set around it, whose radius or bounds have the same leading axes."""

    nominal: Tensor
    ambiguity: Ambiguity


def from_counts(
    counts: Any,
    set: str = "l1-weissman",
    confidence: float = 0.95,
    *,
    outcomes: int | None = None,
    prior: float = 1.0,
    seed: int = 0,
) -> Estimated:
    """A nominal and an ambiguity set that contains all true rows with the given confidence, from counts `[..., n]`.

    set: one of `SETS`, described in the module. outcomes: the maximum number of outcomes of a row (None: all n); fewer
    make sets smaller. prior: parameter of the Dirichlet prior. seed: random seed of the posterior samples. Rows without
    a sample are uniform with a set that contains every distribution; those of Dirichlet sets follow the prior.

    Raises `UsageError` for counts that are not whole numbers of at least 0, or numbers out of their range.
    """
    n_of = np.asarray(counts, dtype=np.float64)
    _check(n_of, set, confidence, outcomes, prior)
    size = n_of.shape[-1]
    k = size if outcomes is None else outcomes
    n = n_of.sum(-1, keepdims=True)
    share = np.divide(n_of, n, out=np.full_like(n_of, 1 / size), where=n > 0)
    delta = (1 - confidence) / max(1, n[..., 0].size)
    if set.endswith("dirichlet"):
        return _credible(n_of + prior, set, delta, k, seed)
    if set.startswith("box"):
        width = _hoeffding(n, k, delta) if set == "box-hoeffding" else _bernstein(n, share, k, delta)
        lower, upper = np.maximum(share - width, 0), np.minimum(share + width, 1)
        return Estimated(torch.from_numpy(share), Box(lower=torch.from_numpy(lower), upper=torch.from_numpy(upper)))
    make, radius = {
        "l1-weissman": (L1, _weissman),
        "reverse-kl": (ReverseKL, _agrawal),
        "kl": (KL, _asymptotic),
    }[set]
    return Estimated(torch.from_numpy(share), make(torch.as_tensor(radius(n[..., 0], k, delta))))


def _check(counts: np.ndarray, set: str, confidence: float, outcomes: int | None, prior: float) -> None:
    if set not in SETS:
        raise UsageError(f"set={set!r} is not allowed. {nearest(str(set), SETS)}")
    if not 0 < confidence < 1:
        raise UsageError(f"confidence={confidence!r} is not allowed; it must be above 0 and below 1, such as 0.95.")
    if counts.ndim == 0 or not counts.size:
        raise UsageError(f"counts has shape {list(counts.shape)}; it must be [..., n], the counts of the outcomes.")
    wrong = ~(np.isfinite(counts) & (counts >= 0) & (counts == np.floor(counts)))
    if wrong.any():
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise UsageError(
            f"counts[{', '.join(map(str, place))}] = {counts[place]:g} is not a count; give whole numbers >= 0, "
            "not frequencies: the number of samples determines the size of the set."
        )
    seen = int((counts > 0).sum(-1).max())
    if outcomes is not None and not max(1, seen) <= outcomes <= counts.shape[-1]:
        raise UsageError(
            f"outcomes={outcomes!r} is not allowed; it must be a whole number from {max(1, seen)}, the most outcomes "
            f"seen in a row, to {counts.shape[-1]}."
        )
    if not prior > 0:
        raise UsageError(f"prior={prior!r} is not allowed; it must be above 0, such as 1 for a uniform prior.")


def _weissman(n: np.ndarray, k: int, delta: float) -> np.ndarray:
    """`[...]`; with one outcome there is no uncertainty."""
    if k == 1:
        return np.where(n > 0, 0.0, 2.0)
    log_events = k * np.log(2) + np.log1p(-(2.0 ** (1 - k)))
    return np.minimum(np.sqrt(2 * (log_events - np.log(delta)) / np.maximum(n, 1e-300)), 2.0)


def _hoeffding(n: np.ndarray, k: int, delta: float) -> np.ndarray:
    return np.sqrt(np.log(2 * k / delta) / (2 * np.maximum(n, 1e-300)))


def _bernstein(n: np.ndarray, share: np.ndarray, k: int, delta: float) -> np.ndarray:
    """`[..., n]`: the sample variance n/(n − 1)·p̂(1 − p̂) in its place, 4 for two sides."""
    log, more = np.log(4 * k / delta), np.maximum(n - 1, 1e-300)
    return np.sqrt(2 * share * (1 - share) * log / more) + 7 * log / (3 * more)


def _agrawal(n: np.ndarray, k: int, delta: float) -> np.ndarray:
    """`[...]`, by bisection on x = nε above k − 1: x − (k − 1)·(1 + ln(x/(k − 1))) = ln(1/δ)."""
    if k == 1:
        return np.where(n > 0, 0.0, np.inf)
    low, high, wanted = k - 1.0, k - 1.0 + 1.0, -np.log(delta)

    def excess(x: float) -> float:
        return x - (k - 1) * (1 + np.log(x / (k - 1))) - wanted

    while excess(high) < 0:
        high *= 2
    for _ in range(200):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if excess(middle) >= 0 else (middle, high)
    return np.divide(high, n, out=np.full_like(n, np.inf), where=n > 0)


def _asymptotic(n: np.ndarray, k: int, delta: float) -> np.ndarray:
    """`[...]`; without samples, large enough to contain every distribution around the uniform one."""
    from scipy.stats import chi2

    quantile = float(chi2.isf(delta, k - 1)) if k > 1 else 0.0
    return np.divide(quantile, 2 * n, out=np.full_like(n, np.inf), where=n > 0)


def _credible(posterior: np.ndarray, set: str, delta: float, k: int, seed: int) -> Estimated:
    """Sets that contain the given share of a Dirichlet posterior `[..., n]`."""
    total = posterior.sum(-1, keepdims=True)
    mean = posterior / total
    if set == "box-dirichlet":
        from scipy.stats import beta

        share = delta / (2 * k)
        lower, upper = (np.asarray(q(share, posterior, total - posterior)) for q in (beta.ppf, beta.isf))
        if posterior.shape[-1] == 1:
            lower = upper = mean
        lower, upper = np.minimum(lower, mean), np.maximum(upper, mean)
        return Estimated(torch.from_numpy(mean), Box(lower=torch.from_numpy(lower), upper=torch.from_numpy(upper)))
    stream, flat = numpy_stream(seed, "posterior"), posterior.reshape(-1, posterior.shape[-1])
    count = max(SAMPLES, int(np.ceil(10 / delta)))
    radius = np.array([np.quantile(np.abs(stream.dirichlet(a, count) - a / a.sum()).sum(-1), 1 - delta) for a in flat])
    radius = torch.as_tensor(radius.reshape(posterior.shape[:-1])).clamp(max=2)
    return Estimated(torch.from_numpy(mean), L1(radius))
