"""Constraint generation with a learned second stage: choose, look for the ξ that the network fears most, repeat.

Both sub-problems have the network inside. They are solved by HiGHS, or for few items by listing all choices and for
ξ by projected ascent; every answer of the ascent is a lower bound of the greatest prediction.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from surefoot.ambiguity.budgeted import Array, ascend, worst_linear
from surefoot.envs.recourse.exact import subsets, table
from surefoot.envs.recourse.problem import Paid, Problem
from surefoot.methods.supervised.neur2ro.program import Affine, Program, stacked, value
from surefoot.models.set_value import SetValue


class Known(NamedTuple):
    """A network and an instance as it sees it, in float64."""

    network: SetValue
    problem: Problem
    items: Tensor  # [n, features], scaled

    def seen(self, xi: Tensor) -> Tensor:
        """What the network sees of ξ `[..., k]`."""
        return xi @ torch.as_tensor(self.problem.sight())

    def predicted(self, x: Tensor, xi: Tensor) -> Tensor:
        """The scaled second stage of choices `[..., n]` and ξ `[..., k]`."""
        return self.network(x, self.seen(xi), self.items)


def known(network: SetValue, problem: Problem) -> Known:
    """A network in float64 beside an instance."""
    return Known(network, problem, network.scaled(torch.as_tensor(problem.items())))


# --- the choice against some losses ------------------------------------------------------------------------------


def listed_choice(to: Known, scenarios: Array, formulation: str) -> Array:
    """The best choice `[n]` against some ξ `[s, k]`, from a list of all choices."""
    problem, choices = to.problem, subsets(len(to.problem))
    first = problem.first_stage(choices)
    if not len(scenarios):
        return choices[(first + table(problem, problem.nominal()[None])[0]).argmin()]
    with torch.no_grad():
        embedded = to.network.choice(torch.as_tensor(choices), to.items)
        of_losses = to.network.losses(to.seen(torch.as_tensor(scenarios)), to.items)
        predicted = to.network.joined(embedded[:, None], of_losses)  # [2^n, s]
    if formulation == "max":
        return choices[(first + to.network.unscaled(predicted.amax(-1)).numpy()).argmin()]
    worst = predicted.argmax(-1).numpy()
    return choices[(first + table(problem, scenarios)[worst, np.arange(len(choices))]).argmin()]


def solved_choice(to: Known, scenarios: Array, formulation: str, gap: float, time_limit: float) -> Array:
    """The best choice `[n]` against some ξ `[s, k]`, by HiGHS.

    Of the second stages only that of the scenario that the network ranks worst binds, and it is the true one.
    """
    problem, program = to.problem, Program()
    x, plan = program.variables(len(problem), whole=True), program.variables(problem.planned, whole=True)
    both, always = stacked([x, plan]), problem.rows()
    aim = x.times(problem.costs()[None])
    program.require(both.times(always.matrix), most=always.limits)
    if formulation == "max" and len(scenarios):
        worst = program.variables(1, -np.inf, np.inf)
        for one in _predicted(program, to, x, scenarios):
            program.require(worst.plus(one.times(-np.eye(1))), least=0.0)
        aim = aim.plus(worst.times(np.full((1, 1), float(to.network.spread))))
    elif len(scenarios) > 1:
        aim = aim.plus(_ranked(program, to, x, both, scenarios))
    else:
        paid = problem.paid(scenarios[0] if len(scenarios) else problem.nominal())
        program.require(both.times(paid.rows.matrix), most=paid.rows.limits)
        aim = aim.plus(_cost(both, paid))
    return value(x, program.minimise(aim, gap=gap, time_limit=time_limit)).round()


def _cost(both: Affine, paid: Paid) -> Affine:
    """What a choice and a plan cost at some ξ."""
    return both.times(np.concatenate([paid.of_choice, paid.of_plan])[None])


def _ranked(program: Program, to: Known, x: Affine, both: Affine, scenarios: Array) -> Affine:
    """The cost at the scenario of the greatest prediction: a variable above it, and above no other one. The plan keeps
    to what this scenario allows."""
    predicted = stacked(_predicted(program, to, x, scenarios))
    low, high = program.interval(predicted)
    chosen = program.variables(len(scenarios), whole=True)
    program.require(chosen.times(np.ones((1, len(scenarios)))), least=1.0, most=1.0)
    cost = program.variables(1, *to.problem.bounds())
    for place, xi in enumerate(scenarios):
        paid, is_chosen = to.problem.paid(xi), chosen.rows(slice(place, place + 1))

        def where_chosen(what: Affine, most: Array | float, room: Array, on: Affine = is_chosen) -> None:
            program.require(what.plus(on.times(room[:, None])), most=most + room)

        behind = predicted.plus(predicted.rows([place]).times(-np.ones((len(scenarios), 1))))
        where_chosen(behind, 0.0, np.full(len(scenarios), high.max() - low[place]))
        where_chosen(_cost(both, paid).plus(cost.times(-np.eye(1))), 0.0, np.array([paid.excess]))
        if len(paid.rows.limits):
            rows = both.times(paid.rows.matrix)
            where_chosen(rows, paid.rows.limits, (program.interval(rows)[1] - paid.rows.limits).clip(min=0.0))
    return cost


def _predicted(program: Program, to: Known, x: Affine, scenarios: Array) -> list[Affine]:
    """The network's prediction for every scenario; the embedding of the choice is there once."""
    item = to.network.choice.item
    with torch.no_grad():
        of = [item(torch.cat([torch.full_like(to.items[:, :1], on), to.items], -1)).numpy() for on in (0.0, 1.0)]
        losses = to.network.losses(to.seen(torch.as_tensor(scenarios)), to.items).numpy()
    summed = x.times((of[1] - of[0]).T).plus(of[0].sum(0))  # exact, because x is 0 or 1
    choice = program.through(to.network.choice.whole, summed)
    return [program.through(to.network.value, stacked([choice, _constant(one)])) for one in losses]


# --- the losses against a choice ---------------------------------------------------------------------------------


def ascended_losses(to: Known, x: Array, starts: Array, steps: int, length: float) -> Array:
    """The ξ `[k]` of the greatest prediction that projected ascent from some starts `[s, k]` finds."""
    budget = to.problem.budget
    with torch.no_grad():
        embedded = to.network.choice(torch.as_tensor(x), to.items)
    heavy = worst_linear(torch.as_tensor(to.problem.slope(x)), budget)[1]
    begun = torch.cat([torch.as_tensor(starts), heavy[None]])

    def fear(xi: Tensor) -> Tensor:
        return to.network.joined(embedded, to.network.losses(to.seen(xi), to.items))

    found, points = ascend(fear, begun, budget, steps=steps, length=length)
    return points[found.argmax()].numpy()


def solved_losses(to: Known, x: Array, gap: float, time_limit: float) -> Array:
    """The ξ `[k]` of the greatest prediction, by HiGHS."""
    program, n, entries = Program(), len(to.problem), to.network.entries
    xi = program.variables(to.problem.uncertain)
    program.require(xi.times(np.ones((1, to.problem.uncertain))), most=to.problem.budget)
    weight, last = (to.network.losses.item.get_parameter(f"{layer}.weight").detach().numpy() for layer in (0, 2))
    own = np.kron(np.eye(n), weight[:, :entries]) @ to.problem.sight().T  # an item's hidden units see its own entries
    hidden = program.relu(xi.times(own).plus((to.items.numpy() @ weight[:, entries:].T).ravel()))
    losses = program.through(to.network.losses.whole, hidden.times(np.hstack([last] * n)))
    with torch.no_grad():
        choice = to.network.choice(torch.as_tensor(x), to.items).numpy()
    fear = program.through(to.network.value, stacked([_constant(choice), losses]))
    return value(xi, program.minimise(fear.times(-np.eye(1)), gap=gap, time_limit=time_limit)).clip(0.0, 1.0)


def _constant(vector: Array) -> Affine:
    """Functions that no variable moves."""
    return Affine(np.zeros((len(vector), 0)), vector)
