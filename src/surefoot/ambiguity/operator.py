"""The worst case of an expectation over an ambiguity set: `min_q q·values`, with the q that attains it.

The sign is the same in the whole package: **values are rewards, and the worst case is the minimum**. For losses and
costs, where the worst case is the maximum, pass `maximise=True`: the result is `−worst_case(−values)`, with a penalty
subtracted.
"""

from __future__ import annotations

from typing import Any, Generic, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from surefoot.ambiguity.arrays import normalised, tensor
from surefoot.ambiguity.checks import checked
from surefoot.ambiguity.contract import Problem, Solution, T
from surefoot.ambiguity.rows import in_blocks, solve_rows
from surefoot.errors import UsageError


class WorstCase(NamedTuple, Generic[T]):
    """The worst value `[...]`, including the penalty, and the distribution `[..., n]` that attains it."""

    value: T
    distribution: T

    @property
    def weights(self) -> T:
        """The distribution, under its name for a risk measure of samples."""
        return self.distribution


def worst_case(values: T, nominal: T | None, ambiguity: Problem, *, maximise: bool = False) -> WorstCase[T]:
    """The minimum expectation of `values` over an ambiguity set around `nominal`, and the distribution that attains it.

    values: `[..., n]`; nominal: `[..., n]`, rows that sum to one (None: uniform). The leading axes broadcast, those of
    a radius or penalty too: `[n]` values are shared by a `[S, A, n]` nominal, radii `[R, 1, 1]` make a sweep of it.
    NumPy gives NumPy, torch gives torch; the work is done in float64 and returned in the dtype of `values`.
    `maximise=True` gives the greatest expectation instead (values are losses).

    The value is differentiable in `values`, with the distribution as its gradient, and in a penalty given as a tensor,
    with the divergence paid as its gradient; the distribution and the nominal are constants. `torch.func.vmap` works.

    Raises `UsageError` for a nominal that is not a distribution, shapes that do not fit, values that are not finite.
    """
    return WorstCase(*_applied(_WorstCase, values, nominal, ambiguity, maximise))


def worst_case_value(values: T, nominal: T | None, ambiguity: Problem, *, maximise: bool = False) -> T:
    """The value of `worst_case` alone, without computing the distribution unless a gradient needs it."""
    return _applied(_WorstValue, values, nominal, ambiguity, maximise)


def solve(values: Tensor, nominal: Tensor, ambiguity: Problem, strength: Any, maximise: bool = False) -> Solution:
    """The problem without checks, for solvers that have already made them: float64 in, float64 out, no gradient.

    strength: the radius or penalty over the leading axes, or None for a set that has none. Many rows are solved in
    blocks; where they share their values `[n]`, most sets read the nominal once (see `shared`).
    """
    if strength is not None:
        strength = torch.as_tensor(strength, dtype=values.dtype, device=values.device)[..., None]
    axes = max(len(ambiguity.leading) + 1, *(x.ndim for x in (values, nominal, strength) if x is not None))
    values, nominal, strength = (_with_axes(x, axes) for x in (values, nominal, strength))
    if maximise:
        values = -values
    worst = solve_rows if in_blocks(values, nominal, ambiguity, strength) else type(ambiguity).solve
    least, distribution = worst(ambiguity, values, nominal, strength)
    return Solution(-least if maximise else least, distribution)


def _with_axes(x: Any, axes: int) -> Any:
    return x if x is None else x.reshape((1,) * (axes - x.ndim) + x.shape)


def _applied(function: type[torch.autograd.Function], values: Any, nominal: Any, ambiguity: Any, maximise: bool) -> Any:
    """`function` on tensors, with results as NumPy arrays if no input was a tensor."""
    if not isinstance(ambiguity, Problem):
        raise UsageError(
            f"ambiguity={ambiguity!r} is not allowed; give an ambiguity set or risk measure, such as KL(0.1) or "
            "CVaR(0.1), or make one from text with surefoot.ambiguity.parse('kl:0.1')."
        )
    from_numpy = not isinstance(values, Tensor) and not isinstance(nominal, Tensor)
    device = next((x.device for x in (values, nominal) if isinstance(x, Tensor)), None)
    values = tensor(values, "values", device=device)
    if not values.is_floating_point():
        values = values.double()
    if nominal is None:
        nominal = values.new_full(values.shape[-1:], 1 / max(values.shape[-1], 1) if values.ndim else 1.0)
    nominal = tensor(nominal, "nominal", device=device)
    strength: Any = ambiguity.strength
    if isinstance(strength, Tensor) and strength.requires_grad:
        _refuse_a_gradient_in_the_radius(ambiguity)
    result = function.apply(values, nominal, strength, ambiguity, maximise)
    if not from_numpy:
        return result
    return tuple(x.numpy() for x in result) if isinstance(result, tuple) else result.numpy()


def _solved(values: Tensor, nominal: Tensor, strength: Any, ambiguity: Problem, maximise: bool) -> Solution:
    values, nominal = values.detach(), nominal.detach()
    checked(values, nominal, ambiguity, strength)
    return solve(values.double(), normalised(nominal), ambiguity, strength, maximise)


def _refuse_a_gradient_in_the_radius(ambiguity: Problem) -> None:
    if not ambiguity.priced:
        raise UsageError(
            f"{type(ambiguity).__name__}: the radius requires a gradient, which only a penalty has; use penalty=… or "
            "radius.detach()."
        )


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients in values and penalty, by the envelope theorem: the worst distribution, and the divergence paid."""
    values, nominal, strength, *made = ctx.saved_tensors
    value, distribution = None, made[0] if made else None
    if distribution is None or ctx.needs_input_grad[2]:
        given = strength.detach() if isinstance(ctx.ambiguity.strength, Tensor) else ctx.ambiguity.strength
        inputs = values.detach().double(), nominal.detach().double(), given, ctx.ambiguity, ctx.maximise
        value, distribution = _WorstCase.apply(*inputs)
    by_values = by_strength = None
    if ctx.needs_input_grad[0]:
        by_values = (grad[..., None] * distribution).sum_to_size(values.shape).to(values.dtype)
    if ctx.needs_input_grad[2]:
        _refuse_a_gradient_in_the_radius(ctx.ambiguity)
        paid = (value - (distribution * values).sum(-1)) / strength
        by_strength = (grad * paid).sum_to_size(strength.shape).to(strength.dtype)
    return by_values, None, by_strength, None, None


def _remember(ctx: Any, inputs: tuple[Any, ...], *outputs: Tensor) -> None:
    values, nominal, strength, ctx.ambiguity, ctx.maximise = inputs
    ctx.save_for_backward(values, nominal, torch.as_tensor(0.0 if strength is None else strength), *outputs)


def _batched(function: type[torch.autograd.Function], in_dims: tuple[Any, ...], inputs: tuple[Any, ...]) -> Any:
    """One call for a whole vmapped axis, which becomes the first of the leading axes."""
    values, nominal, strength, *settings = inputs  # the set and the sign
    axes = [x.ndim - (d is not None) for x, d in zip((values, nominal), in_dims)]
    leading = max(*axes, len(settings[0].leading) + 1) - 1
    if isinstance(strength, Tensor):
        leading = max(leading, strength.ndim - (in_dims[2] is not None))

    def front(x: Any, dim: int | None, wanted: int) -> Any:
        if dim is None:
            return x
        x = x.movedim(dim, 0)
        return x.reshape(x.shape[:1] + (1,) * (wanted - x.ndim + 1) + x.shape[1:])

    values, nominal = (front(x, d, leading + 1) for x, d in zip((values, nominal), in_dims))
    result = function.apply(values, nominal, front(strength, in_dims[2], leading), *settings)
    return result, (0, 0) if isinstance(result, tuple) else 0


class _WorstCase(torch.autograd.Function):
    @staticmethod
    def forward(
        values: Tensor, nominal: Tensor, strength: Any, ambiguity: Any, maximise: bool
    ) -> tuple[Tensor, Tensor]:
        value, distribution = _solved(values, nominal, strength, ambiguity, maximise)
        made = distribution()
        return value.to(values.dtype), made.expand(value.shape + made.shape[-1:]).to(values.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        _remember(ctx, inputs, output[1])
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        return _backward(ctx, grad)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> Any:
        return _batched(_WorstCase, in_dims, inputs)


class _WorstValue(torch.autograd.Function):
    @staticmethod
    def forward(values: Tensor, nominal: Tensor, strength: Any, ambiguity: Any, maximise: bool) -> Tensor:
        return _solved(values, nominal, strength, ambiguity, maximise).value.to(values.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _remember(ctx, inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _backward(ctx, grad)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> Any:
        return _batched(_WorstValue, in_dims, inputs)
