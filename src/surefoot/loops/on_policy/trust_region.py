"""The constrained second-order step on flat vectors: minimise a slope subject to a quadratic bound, then check it.

    minimise gᵀs  subject to  ½ sᵀAs ≤ radius        s = −β A⁻¹g,  β = sqrt(2·radius / gᵀA⁻¹g)

A is never formed: conjugate gradient needs only its products with vectors. It is the curvature JᵀMJ of a distance
between old and new outputs of a network, J being the outputs' Jacobian and M the Hessian of the distance in the outputs
(the Fisher matrix, where the distance is the mean KL between action distributions). A backtracking line search
then checks the step against the true distance and the true improvement.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

Product = Callable[[Tensor], Tensor]
"""A symmetric matrix, as its product with a vector."""


def hessian_product(function: Callable[[Tensor], Tensor], at: Float[Tensor, "..."]) -> Product:
    """v ↦ ∇²f(at)·v of a scalar function, by double backward; `v` has the shape of `at`."""
    point = at.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(function(point), point, create_graph=True)
    return lambda v: torch.autograd.grad(gradient, point, v, retain_graph=True)[0]


def gauss_newton_product(
    outputs: Callable[[Tensor], Tensor], vector: Float[Tensor, "size"], metric: Product, damping: float = 0.0
) -> Product:
    """v ↦ (JᵀMJ + damping·I)·v with J the Jacobian of `outputs` at `vector` and `metric` the product t ↦ Mt.

    Jv is the derivative of the pullback Jᵀw in w (twice backward, once forward), so the graph is built once for all
    products. Where M is the Hessian of a distance that is 0 at `vector`, this is the Hessian of the distance itself.
    """
    point = vector.detach().requires_grad_()
    out = outputs(point)
    cotangent = torch.zeros_like(out, requires_grad=True)
    (pullback,) = torch.autograd.grad(out, point, cotangent, create_graph=True)

    def product(v: Tensor) -> Tensor:
        (tangent,) = torch.autograd.grad(pullback, cotangent, v, retain_graph=True)
        (curved,) = torch.autograd.grad(out, point, metric(tangent), retain_graph=True)
        return curved + damping * v

    return product


def conjugate_gradient(
    matvec: Product, b: Float[Tensor, "size"], iterations: int = 10, tolerance: float = 1e-10
) -> tuple[Float[Tensor, "size"], Float[Tensor, ""]]:
    """An approximate solution of Ax = b from x = 0 for a positive semidefinite A, and ‖b − Ax‖ (by the recursion).

    Ends after `iterations`, or when ‖b − Ax‖² ≤ tolerance·‖b‖², or at a direction in which A is not positive (rounding
    does that to a nearly singular A); x = 0 if b = 0 or if already the first direction is such.
    """
    x, residual, direction = torch.zeros_like(b), b, b
    square = start = b @ b
    for _ in range(iterations):
        if square <= tolerance * start:
            break
        image = matvec(direction)
        curvature = direction @ image
        if not curvature > 0:
            break
        alpha = square / curvature
        x, residual = x + alpha * direction, residual - alpha * image
        previous, square = square, residual @ residual
        direction = residual + (square / previous) * direction
    return x, square.sqrt()


def step_length(curvature: Float[Tensor, ""], radius: float | Tensor) -> Float[Tensor, ""]:
    """β with ½β²·xᵀAx = radius, given xᵀAx; 0 where that is not positive (no step)."""
    return torch.where(curvature > 0, (2 * radius / curvature).sqrt(), torch.zeros_like(curvature))


def backtrack(
    start: Float[Tensor, "size"],
    step: Float[Tensor, "size"],
    acceptable: Callable[[Tensor], bool],
    factor: float = 0.5,
    tries: int = 10,
) -> tuple[Float[Tensor, "size"], float]:
    """The first acceptable of start + factor^j·step (j < tries) with its factor^j; `start` itself and 0 if none is."""
    if step.any():
        for fraction in (factor**j for j in range(tries)):
            if acceptable(candidate := start + fraction * step):
                return candidate, fraction
    return start, 0.0
