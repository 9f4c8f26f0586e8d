"""Damage to a policy's actions, and ascent on it within a ball: the pure parts of attacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from surefoot.models.distributions import Deterministic, Gaussian, SquashedGaussian
from surefoot.models.networks import one_hot

Moves = dict[str, Tensor]  # changes of the attacked entries by key, [batch, ...] each, in units of the budget


def log_odds(logits: Tensor, choice: Tensor) -> Tensor:
    """Log odds `[...]` against `choice [...]` under `logits [..., n]`. They rise with the cross-entropy and have its
    direction of steepest ascent, but their gradient does not vanish where the policy is sure."""
    chosen = one_hot(choice, logits.shape[-1])
    return logits.masked_fill(chosen, -torch.inf).logsumexp(-1) - logits.gather(-1, choice.unsqueeze(-1)).squeeze(-1)


def action(distribution: Any, params: Tensor) -> Tensor:
    """The most likely action as a vector `[batch, dim]`, in units in which the box is [−1, 1] if the actor squashes its
    actions into it; for discrete actions the probabilities of all choices."""
    match distribution:
        case Deterministic():
            return params
        case SquashedGaussian():
            return distribution.mode(params).tanh()
        case Gaussian():
            return distribution.mode(params)
    return torch.cat([logits.softmax(-1) for logits in params.split(distribution.choices, -1)], -1)


def shift(distribution: Any, clean: Tensor, seen: Tensor) -> Tensor:
    """How far the most likely action moves, `[batch]`: for continuous actions the squared distance, for discrete ones
    the log odds against the action without an attack, summed over choices."""
    if isinstance(distribution, Deterministic | Gaussian):
        return ((action(distribution, seen) - action(distribution, clean)) ** 2).sum(-1)
    parts = zip(seen.split(distribution.choices, -1), clean.split(distribution.choices, -1), strict=True)
    return torch.stack([log_odds(logits, before.argmax(-1)) for logits, before in parts]).sum(0)


def divergence(distribution: Any, clean: Tensor, seen: Tensor) -> Tensor:
    """KL(π(clean) ‖ π(seen)), `[batch]`; values of actions act by their softmax, deterministic actors by `shift`."""
    return shift(distribution, clean, seen) if isinstance(distribution, Deterministic) else distribution.kl(clean, seen)


def alignment(direction: Tensor, distribution: Any, clean: Tensor, seen: Tensor) -> Tensor:
    """The cosine of the change of the action with `direction [batch, dim]`, plus its length, `[batch]` (PA-AD)."""
    change = action(distribution, seen) - action(distribution, clean)
    return torch.cosine_similarity(change, direction, -1) + change.norm(dim=-1)


def spread(values: Tensor, x: Tensor) -> Tensor:
    """Values `[batch]` as `[batch, 1, ...]`, with as many axes as `x`."""
    return values.view(-1, *[1] * (x.dim() - 1))


def norms(x: Tensor, law: str) -> Tensor:
    """Norms over all axes but the first, `[batch, 1, ...]`."""
    flat = x.flatten(1)
    return spread(flat.abs().amax(1) if law == "linf" else flat.norm(dim=1), x)


def steepest(gradient: Tensor, law: str) -> Tensor:
    """The point of the unit ball in which a linear function with this gradient is largest; 0 for no gradient."""
    return gradient.sign() if law == "linf" else gradient / norms(gradient, law).clamp(min=1e-300)


def project(x: Tensor, radius: Tensor, law: str) -> Tensor:
    """The nearest point in the ball; `radius [batch, 1, ...]`."""
    if law == "linf":
        return torch.minimum(torch.maximum(x, -radius), radius)
    return x * (radius / norms(x, law).clamp(min=1e-300)).clamp(max=1)


def followed(previous: Tensor, wanted: Tensor, reach: Tensor, law: str) -> Tensor:
    """The point within `reach [batch, 1, ...]` of the previous change on the way to the one that is wanted. Where both
    are in a ball around 0, so is the result."""
    return previous + project(wanted - previous, reach, law)


Damage = Callable[[Moves], Tensor]  # of moves, [batch]


def slopes(damage: Damage, moves: Moves) -> tuple[Tensor, Moves]:
    """The damage `[batch]` of moves, and its gradient in them; 0 where there is none."""
    leaves = [x.detach().requires_grad_() for x in moves.values()]
    with torch.enable_grad():
        found = damage(dict(zip(moves, leaves)))
        gradients = torch.autograd.grad(found.sum(), leaves, materialize_grads=True)
    return found.detach(), {key: x.nan_to_num() for key, x in zip(moves, gradients)}


def climb(damage: Damage, moves: Moves, steps: int, advance: Callable[[Moves, Moves], Moves]) -> Moves:
    """The moves `[batch, ...]` that do the most damage of those on a path from given ones, each row for itself.

    advance: (moves, gradients) -> the next moves.
    """
    highest, gradient = slopes(damage, moves)
    best = moves
    for _ in range(steps):
        moves = advance(moves, gradient)
        found, gradient = slopes(damage, moves)
        better = found > highest
        highest = torch.where(better, found, highest)
        best = {key: torch.where(spread(better, x), x, best[key]) for key, x in moves.items()}
    return best


def greatest_curvature(damage: Damage, moves: Moves, rounds: int = 8) -> Tensor:
    """An estimate, from below, of the greatest upward curvature `[batch]` of the damage in each row's moves: the
    largest eigenvalue of its Hessian, by power iterations that begin along the gradient. 0 where it curves downwards.
    """
    leaves = [x.detach().requires_grad_() for x in moves.values()]
    with torch.enable_grad():
        first = torch.autograd.grad(damage(dict(zip(moves, leaves))).sum(), leaves, create_graph=True)
    if not any(x.requires_grad for x in first):  # a linear function
        return torch.zeros(len(leaves[0]))

    def unit(parts: list[Tensor]) -> list[Tensor]:
        size = torch.stack([(x.flatten(1) ** 2).sum(1) for x in parts]).sum(0).sqrt().clamp(min=1e-30)
        return [x / spread(size, x) for x in parts]

    along, found = unit([x.detach() + 1e-3 * x.detach().abs().mean() for x in first]), torch.zeros(len(leaves[0]))
    for _ in range(rounds):
        turned = torch.autograd.grad(first, leaves, along, retain_graph=True, materialize_grads=True)
        found = torch.stack([(x * v).flatten(1).sum(1) for x, v in zip(turned, along)]).sum(0)
        along = unit([x.detach() for x in turned])
    return found.clamp(min=0)


def ascend(damage: Damage, start: Moves, radius: Tensor, law: str, steps: int) -> Moves:
    """The moves within the radius `[batch]` that do the most damage of those on a path of projected ascent.

    The first step goes from the gradient at `start` to the boundary, as in FGSM; the others have 2.5 radii among them.
    Without a gradient it goes in the direction of `start`.
    """
    radii = {key: spread(radius, x) for key, x in start.items()}
    _, gradient = slopes(damage, start)
    flat = {key: norms(x, law) == 0 for key, x in gradient.items()}
    moves = {key: radii[key] * steepest(torch.where(flat[key], start[key], x), law) for key, x in gradient.items()}
    if steps == 1:
        return moves
    size = 2.5 / (steps - 1)

    def advance(moves: Moves, gradient: Moves) -> Moves:
        return {k: project(x + size * radii[k] * steepest(gradient[k], law), radii[k], law) for k, x in moves.items()}

    return climb(damage, moves, steps - 1, advance)


def ascend_priced(damage: Damage, start: Moves, price: float, steps: int, size: Tensor | float) -> Moves:
    """The moves with the greatest damage − price/2·‖moves‖², of those on a path of plain gradient ascent: in place of a
    ball, distance has a quadratic price.

    size: of a step, a number or `[batch]`. Where the damage curves upwards by at most L < price, 1/(price + L) leads to
    the only maximum; where it curves more than the price there may be none.
    """

    def net(moves: Moves) -> Tensor:
        paid = torch.stack([(x.flatten(1) ** 2).sum(1) for x in moves.values()]).sum(0)
        return damage(moves) - price / 2 * paid

    def advance(moves: Moves, gradient: Moves) -> Moves:
        each = {k: spread(size, x) if isinstance(size, Tensor) else size for k, x in moves.items()}
        return {k: x + each[k] * gradient[k] for k, x in moves.items()}

    return climb(net, start, steps, advance)
