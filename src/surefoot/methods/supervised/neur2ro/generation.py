"""Constraint generation with a learned second stage: choose, look for the losses that the network fears most, repeat.

Both sub-problems have the network inside. They are solved by HiGHS, or for few items by listing all choices and for
losses by projected ascent; every answer of the ascent is a lower bound of the greatest prediction.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from surefoot.ambiguity.budgeted import Array, ascend, worst_linear
from surefoot.envs.recourse import Knapsack
from surefoot.envs.recourse.exact import subsets, table
from surefoot.methods.supervised.neur2ro.program import Affine, Program, stacked, value
from surefoot.models.set_value import SetValue


class Known(NamedTuple):
    """A network and an instance as it sees it, in float64."""

    network: SetValue
    problem: Knapsack
    items: Tensor  # [n, features], scaled

    def predicted(self, x: Tensor, xi: Tensor) -> Tensor:
        """The scaled second stage of choices and losses `[..., n]`."""
        return self.network(x, xi, self.items)


def known(network: SetValue, problem: Knapsack) -> Known:
    """A network in float64 beside an instance."""
    return Known(network, problem, network.scaled(torch.as_tensor(problem.items())))


# --- the choice against some losses ------------------------------------------------------------------------------


def listed_choice(to: Known, scenarios: Array, formulation: str) -> Array:
    """The best choice `[n]` against losses `[s, n]`, from a list of all choices."""
    problem, choices = to.problem, subsets(len(to.problem))
    first = problem.first_stage(choices)
    if not len(scenarios):
        return choices[(first + table(problem, np.zeros((1, len(problem))))[0]).argmin()]
    with torch.no_grad():
        embedded = to.network.choice(torch.as_tensor(choices), to.items)
        of_losses = to.network.losses(torch.as_tensor(scenarios), to.items)
        predicted = to.network.joined(embedded[:, None], of_losses)  # [2^n, s]
    if formulation == "max":
        return choices[(first + to.network.unscaled(predicted.amax(-1)).numpy()).argmin()]
    worst = predicted.argmax(-1).numpy()
    return choices[(first + table(problem, scenarios)[worst, np.arange(len(choices))]).argmin()]


def solved_choice(to: Known, scenarios: Array, formulation: str, gap: float, time_limit: float) -> Array:
    """The best choice `[n]` against losses `[s, n]`, by HiGHS.

    Of the second stages only that of the scenario that the network ranks worst binds, and it is the true one.
    """
    problem, n, program = to.problem, len(to.problem), Program()
    x, y, r = (program.variables(n, whole=True) for _ in range(3))
    first = x.times((problem.handback - problem.profit)[None])
    if formulation == "max" and len(scenarios):
        worst = program.variables(1, -np.inf, np.inf)
        for one in _predicted(program, to, x, scenarios):
            program.require(worst.plus(one.times(-np.eye(1))), least=0.0)
        aim = first.plus(worst.times(np.full((1, 1), float(to.network.spread))))
    else:
        program.require(y.plus(x.times(-np.eye(n))), most=0.0)
        program.require(r.plus(y.times(-np.eye(n))), most=0.0)
        program.require(y.times(problem.weight[None]).plus(r.times(problem.repair[None])), most=problem.capacity)
        losses = scenarios if len(scenarios) else np.zeros((1, n))
        costs = [_second(problem, y, r, xi) for xi in losses]
        aim = first.plus(costs[0] if len(costs) == 1 else _ranked(program, to, x, losses, costs))
    return value(x, program.minimise(aim, gap=gap, time_limit=time_limit)).round()


def _second(problem: Knapsack, y: Affine, r: Affine, xi: Array) -> Affine:
    """The second stage's cost of a plan at given losses."""
    loss = problem.loss * xi
    return y.times((loss - problem.handback)[None]).plus(r.times(-loss[None]))


def _ranked(program: Program, to: Known, x: Affine, scenarios: Array, costs: list[Affine]) -> Affine:
    """The cost at the scenario of the greatest prediction: a variable above it, and above no other one."""
    predicted = stacked(_predicted(program, to, x, scenarios))
    low, high = program.interval(predicted)
    chosen = program.variables(len(scenarios), whole=True)
    program.require(chosen.times(np.ones((1, len(scenarios)))), least=1.0, most=1.0)
    total = to.problem.loss.sum()
    cost = program.variables(1, -to.problem.handback.sum(), total)
    for place, own in enumerate(costs):
        is_chosen = chosen.rows(slice(place, place + 1))
        room = high.max() - low[place]
        behind = predicted.plus(predicted.rows([place]).times(-np.ones((len(costs), 1))))
        program.require(behind.plus(is_chosen.times(np.full((len(costs), 1), room))), most=room)
        most = float(to.problem.loss @ scenarios[place])  # by which another scenario's cost can be less
        program.require(cost.plus(own.times(-np.eye(1))).plus(is_chosen.times(np.full((1, 1), -most))), least=-most)
    return cost


def _predicted(program: Program, to: Known, x: Affine, scenarios: Array) -> list[Affine]:
    """The network's prediction for every scenario; the embedding of the choice is there once."""
    item = to.network.choice.item
    with torch.no_grad():
        of = [item(torch.cat([torch.full_like(to.items[:, :1], on), to.items], -1)).numpy() for on in (0.0, 1.0)]
        losses = to.network.losses(torch.as_tensor(scenarios), to.items).numpy()
    summed = x.times((of[1] - of[0]).T).plus(of[0].sum(0))  # exact, because x is 0 or 1
    choice = program.through(to.network.choice.whole, summed)
    return [program.through(to.network.value, stacked([choice, _constant(one)])) for one in losses]


# --- the losses against a choice ---------------------------------------------------------------------------------


def ascended_losses(to: Known, x: Array, starts: Array, steps: int, length: float) -> Array:
    """The losses `[n]` of the greatest prediction that projected ascent from some starts `[s, n]` finds."""
    budget, choice = to.problem.budget, torch.as_tensor(x)
    with torch.no_grad():
        embedded = to.network.choice(choice, to.items)
    heavy = worst_linear(choice * torch.as_tensor(to.problem.loss), budget)[1]
    begun = torch.cat([torch.as_tensor(starts), heavy[None]])

    def fear(xi: Tensor) -> Tensor:
        return to.network.joined(embedded, to.network.losses(xi, to.items))

    found, points = ascend(fear, begun, budget, steps=steps, length=length)
    return points[found.argmax()].numpy()


def solved_losses(to: Known, x: Array, gap: float, time_limit: float) -> Array:
    """The losses `[n]` of the greatest prediction, by HiGHS."""
    program, n = Program(), len(to.problem)
    xi = program.variables(n)
    program.require(xi.times(np.ones((1, n))), most=to.problem.budget)
    weight, last = (to.network.losses.item.get_parameter(f"{layer}.weight").detach().numpy() for layer in (0, 2))
    entries = np.asarray(np.kron(np.eye(n), weight[:, :1]), float)  # every item's hidden units see its own entry
    hidden = program.relu(xi.times(entries).plus((to.items.numpy() @ weight[:, 1:].T).ravel()))
    losses = program.through(to.network.losses.whole, hidden.times(np.hstack([last] * n)))
    with torch.no_grad():
        choice = to.network.choice(torch.as_tensor(x), to.items).numpy()
    fear = program.through(to.network.value, stacked([_constant(choice), losses]))
    return value(xi, program.minimise(fear.times(-np.eye(1)), gap=gap, time_limit=time_limit)).clip(0.0, 1.0)


def _constant(vector: Array) -> Affine:
    """Functions that no variable moves."""
    return Affine(np.zeros((len(vector), 0)), vector)
