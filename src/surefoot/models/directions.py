"""The directions of observations along which a policy is unstable, and how two sets of states share them.

A row is the gradient, in one state, of what changes a decision most; with L(S) = Σ gᵀg over the rows of a set of
states, G_S is its first eigenvector: the first uncentred principal component. Centring would remove what is looked for.
All functions are pure and compute in the rows' type. Source: Korkmaz, "Understanding and Diagnosing Deep Reinforcement
Learning", ICML 2024 (arXiv:2406.16979); what its text leaves open is said where it is decided.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


def decision_gradients(outputs: Callable[[Tensor], Tensor], states: Tensor) -> Float[Tensor, "states 1 size"]:
    """g(s) = ∇_{s'} −log π(a*|s') at s' = s, with π = softmax of `outputs` and a* = argmax held fixed:
    Σ_a π(a|s) ∇Q(s, a) − ∇Q(s, a*).

    `outputs(states [batch, ...])`: logits or values `[batch, actions]`.
    """
    states = states.detach().requires_grad_()
    with torch.enable_grad():
        values = outputs(states)
        escape = torch.logsumexp(values, -1) - values.gather(-1, values.detach().argmax(-1, keepdim=True)).squeeze(-1)
        (gradient,) = torch.autograd.grad(escape.sum(), states)
    return gradient.flatten(1).unsqueeze(1)


def mean_gradients(outputs: Callable[[Tensor], Tensor], states: Tensor) -> Float[Tensor, "states actions size"]:
    """The gradients of every component of a continuous action: ½‖μ(s') − μ(s)‖² has the Hessian JᵀJ at s' = s.

    Not in the source, which has values of discrete actions only.
    """
    states = states.detach().requires_grad_()
    with torch.enable_grad():
        means = outputs(states)
        found = [torch.autograd.grad(one.sum(), states, retain_graph=True)[0].flatten(1) for one in means.unbind(-1)]
    return torch.stack(found, 1)


def unit(rows: Float[Tensor, "*rows size"]) -> Float[Tensor, "*rows size"]:
    """Rows of length 1, so that every state counts the same; rows of zeros stay."""
    length = rows.norm(dim=-1, keepdim=True)
    return torch.where(length > 0, rows / length.clamp(min=torch.finfo(rows.dtype).tiny), 0.0)


class Principal(NamedTuple):
    """The first eigenvector of L, its eigenvalue, and the trace of L."""

    direction: Float[Tensor, "size"]  # of length 1, its largest entry positive
    largest: Tensor
    total: Tensor

    @property
    def concentration(self) -> float:
        """λ₁/Σλ: 1 if all rows lie on one line; 0 where all rows are 0."""
        return float(self.largest / self.total) if self.total > 0 else 0.0


def principal(rows: Float[Tensor, "rows size"]) -> Principal:
    """G_S, through the smaller of `rowsᵀ rows` and the Gram matrix `rows rowsᵀ`, whose eigenvalues are the same."""
    gram = len(rows) < rows.shape[1]
    values, vectors = torch.linalg.eigh(rows @ rows.T if gram else rows.T @ rows)
    direction = rows.T @ vectors[:, -1] if gram else vectors[:, -1]
    direction = unit(direction)
    direction = direction * torch.where(direction[direction.abs().argmax()] < 0, -1.0, 1.0)
    return Principal(direction, values[-1].clamp(min=0), rows.square().sum())


def along(direction: Float[Tensor, "size"], rows: Float[Tensor, "rows size"]) -> Tensor:
    """Gᵀ L G: the squared length of the rows along a direction."""
    return (rows @ direction).square().sum()


def explained_share(direction: Float[Tensor, "size"], rows: Float[Tensor, "rows size"]) -> float:
    """Λ, first candidate: Gᵀ L(S') G / tr L(S'). Of a set with itself it is the concentration."""
    total = rows.square().sum()
    return float(along(direction, rows) / total) if total > 0 else 0.0


def rayleigh(direction: Float[Tensor, "size"], rows: Float[Tensor, "rows size"]) -> float:
    """Λ, second candidate: Gᵀ L(S') G / λ_max(L(S')). Of a set with itself it is 1."""
    largest = principal(rows).largest
    return float(along(direction, rows) / largest) if largest > 0 else 0.0


def overlap(one: Float[Tensor, "size"], other: Float[Tensor, "size"]) -> float:
    """Σ_j min(G_j², G'_j²): 1 for the same coordinates, 0 for disjoint ones."""
    return float(torch.minimum(one.square(), other.square()).sum())


def oscillation(norms: Float[Tensor, "steps"]) -> float:
    """Mean |n_{t+1} − n_t| over mean n, of the norms along an episode; 0 where nothing moves."""
    mean = norms.mean()
    return float(norms.diff().abs().mean() / mean) if len(norms) > 1 and mean > 0 else 0.0


def spectral_entropy(image: Tensor) -> float:
    """Entropy of the energy over the frequencies of G_S in the observation's shape, from 0 for one to 1 for a flat
    spectrum."""
    energy = torch.fft.fftn(image).abs().square().flatten()
    if len(energy) < 2 or energy.sum() <= 0:
        return 0.0
    share = energy / energy.sum()
    return float(-torch.special.xlogy(share, share).sum() / torch.log(torch.tensor(float(len(energy)))))
