"""The machine of methods made of named networks, each with its loss (or rule), step size, period and target.

One gradient step updates the networks in the order in which a method names them, each by the gradient of its own loss
in its own weights, on one batch. It is a pure function, which is mapped over seeds and compiled as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from surefoot.loops.common.optimizer import Adam, Momentum, clip_norm
from surefoot.models.functional import Flat

Batch = dict[str, Any]
"""What a loss is made of: observation, next_observation, action (continuous ones in [−1, 1]), reward, discount, weight
(importance weights, 1 if uniform), and noise, the random numbers of the method by name; rate, the factor of all
learning rates, where they are scheduled."""
Loss = Callable[["Weights", Batch], tuple[Tensor, dict[str, Tensor]]]


@dataclass(frozen=True)
class Net:
    """One network of a method.

    Args:
        make: makes the module.
        loss: what its weights minimise, and metrics; None for weights that no gradient moves.
        learning_rate: of its optimiser.
        momentum: of stochastic gradient descent, 0 for plain one; None for Adam.
        every: gradient steps from one of its own to the next.
        starts: gradient steps before its first.
        ends: gradient steps after which it is frozen; None for never.
        copies: number of independent copies, whose outputs have a leading axis.
        target_rate: τ of the target's step towards the weights; None without a target.
        target_every: gradient steps from one step of the target to the next.
        max_grad_norm: limit of the gradient's norm.
        epsilon: Adam's ε.
        l2: λ of the penalty λ/2·‖weights‖², whose gradient the optimiser sees.
        decay: η of decoupled decay: a step also takes off `learning_rate·η·weights`.
        rule: what its weights become in place of a step of the optimiser, and metrics; only without a loss.
        project: the weights in place of those after each step of the optimiser, such as the nearest that are allowed.
        of: name of the network, listed elsewhere, whose weights it moves: another stage of that network, with a loss
            and an optimiser of its own.
        annealed: whether the run's schedule of learning rates is followed.
        averaged: whether what the agent keeps is the target, an average of the weights, in place of these.
        kept: its description, if the agent keeps it beside the network that acts (`models.companions`).
    """

    make: Callable[[], nn.Module]
    loss: Loss | None = None
    learning_rate: float = 3e-4
    momentum: float | None = None
    every: int = 1
    starts: int = 0
    ends: int | None = None
    copies: int = 1
    target_rate: float | None = None
    target_every: int = 1
    max_grad_norm: float | None = None
    epsilon: float = 1e-8
    l2: float = 0.0
    decay: float = 0.0
    rule: Loss | None = None
    project: Callable[[Weights, Batch], Tensor] | None = None
    of: str | None = None
    annealed: bool = True
    averaged: bool = False
    kept: Any = None

    @property
    def averages(self) -> type[Adam] | type[Momentum]:
        """What its optimiser remembers."""
        return Adam if self.momentum is None else Momentum

    @property
    def trained(self) -> bool:
        """Whether gradient steps change it."""
        return self.loss is not None or self.rule is not None

    def due(self, step: int) -> bool:
        """Whether the gradient step of this number, from 1, changes it."""
        within = self.starts < step and (self.ends is None or step <= self.ends)
        return self.trained and within and step % self.every == 0


class Function:
    """A network as a function of its weights: one vector, or `copies` of them in a row."""

    def __init__(self, net: Net) -> None:
        self.flat, self.copies = Flat(net.make()), net.copies
        self.size = self.flat.size * net.copies

    def __call__(self, vector: Tensor, *inputs: Any) -> Any:
        """The network's output; with copies, `[copies, ...]`."""
        if self.copies == 1:
            return self.flat(vector, *inputs)
        vectors = vector.view(self.copies, self.flat.size)
        each = torch.func.vmap(lambda one, *given: self.flat(one, *given), (0,) + (None,) * len(inputs))
        return each(vectors, *inputs)


class Weights:
    """All weights of one seed, as a loss sees them: `w("critic", …)` calls a network, `w.target("critic", …)` its
    target, `w.fixed("critic", …)` a network whose weights get no gradient, `w.before("critic", …)` one as it was before
    the gradient step."""

    def __init__(
        self,
        functions: Mapping[str, Function],
        now: Mapping[str, Tensor],
        targets: Mapping[str, Tensor],
        start: Mapping[str, Tensor],
    ) -> None:
        self.functions, self.now, self.targets, self.start = functions, now, targets, start

    def __call__(self, name: str, *inputs: Any) -> Any:
        return self.functions[name](self.now[name], *inputs)

    def target(self, name: str, *inputs: Any) -> Any:
        """The output of a network's target, without a gradient."""
        return self.functions[name](self.targets[name].detach(), *inputs)

    def fixed(self, name: str, *inputs: Any) -> Any:
        """The output of a network as it is; gradients reach the inputs, not its weights."""
        return self.functions[name](self.now[name].detach(), *inputs)

    def before(self, name: str, *inputs: Any) -> Any:
        """The output of a network before this gradient step changed it, without a gradient."""
        return self.functions[name](self.start[name].detach(), *inputs)

    def renamed(self, **names: str) -> Weights:
        """The same with networks under other names too, for losses that use those: `w.renamed(actor="adversary")`."""

        def also(part: Mapping[str, Any]) -> dict[str, Any]:
            return {**part, **{new: part[old] for new, old in names.items() if old in part}}

        return Weights(also(self.functions), also(self.now), also(self.targets), also(self.start))

    def module(self, name: str) -> Any:
        """The module of a network, for what is not its weights."""
        return self.functions[name].flat.module


def gradient_step(
    nets: Mapping[str, Net], functions: Mapping[str, Function], due: tuple[str, ...]
) -> Callable[..., tuple[dict[str, Tensor], dict[str, Any], dict[str, Tensor]]]:
    """One step of the networks that are due, for one seed:
    `(weights, targets, averages, batch) -> (weights, averages, metrics)`, each by name; averages are what optimisers
    remember."""

    def step(
        weights: dict[str, Tensor], targets: dict[str, Tensor], averages: dict[str, Any], batch: Batch
    ) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Tensor]]:
        now, averages, metrics, batch = dict(weights), dict(averages), {}, dict(batch)
        factor = batch.pop("rate", None)
        for stage in due:
            net = nets[stage]
            name = net.of or stage
            if net.rule is not None:
                now[name], found = net.rule(Weights(functions, now, targets, weights), batch)
                metrics |= found
                continue

            def loss(vector: Tensor, name: str = name, net: Net = net) -> tuple[Tensor, dict[str, Tensor]]:
                assert net.loss is not None
                return net.loss(Weights(functions, {**now, name: vector}, targets, weights), batch)

            gradient, found = torch.func.grad(loss, has_aux=True)(now[name])
            gradient, found[f"{stage}_grad_norm"] = clip_norm(gradient, net.max_grad_norm)
            vector = now[name]
            gradient = gradient + net.l2 * vector if net.l2 else gradient
            rate = net.learning_rate if factor is None or not net.annealed else net.learning_rate * factor
            vector = vector - rate * net.decay * vector if net.decay else vector
            now[name], averages[stage] = averages[stage].step(
                vector, gradient, rate, net.epsilon if net.momentum is None else net.momentum
            )
            if net.project is not None:
                now[name] = net.project(Weights(functions, now, targets, weights), batch)
            metrics |= found
        return now, averages, metrics

    return step
