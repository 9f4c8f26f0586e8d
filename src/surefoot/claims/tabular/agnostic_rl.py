"""The claim of agnostic RL on a hidden switch: with a generative model the capacity of a class is its price.

Singletons have many members and little capacity, so trees judge them all with few transitions, while uniform
exploration pays A^H. Both arms have nothing to tune. POPLER, PSDP and CPI run beside them, and the blind sequences, in
whose class capacity is large.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surefoot.claims.parts import (
    Claim,
    Difference,
    Exact,
    Experiment,
    Gate,
    Less,
    LogRatio,
    Mean,
    Measurements,
    More,
    Part,
    Summary,
    Within,
)
from surefoot.envs.tabular import TabularMDP, Transitions
from surefoot.envs.tabular.instances_agnostic import hidden_switch
from surefoot.loops.tabular.learner import TabularLearner
from surefoot.methods.tabular.agnostic_rl import AgnosticRL
from surefoot.methods.tabular.agnostic_rl.policy_classes import (
    all_policies,
    capacity_bound,
    class_values,
    coverability,
    one_state,
    open_loop,
    singletons,
    spanning_capacity,
)
from surefoot.methods.tabular.agnostic_rl.sunflower import arrivals, chain_values, sunflower
from surefoot.methods.tabular.agnostic_rl.trees import importance_returns, tree_returns
from surefoot.seeding import torch_stream

CLOSE = 0.05  # mean suboptimality to come to
BUDGETS = {"trees": (5, 60), "importance": (1000, 60)}  # a batch, iterations
BESIDE = {"popler": (200, 20), "psdp": (300, 16), "cpi": (50, 30)}
TREES = 2000

# --- capacity, trees and POPLER in many worlds -----------------------------------------------------------------------

# C(Π) by brute force, with 2 actions: by class, horizon and states a layer.
CAPACITIES = {
    (singletons, 2, 3): 3, (singletons, 3, 3): 4, (singletons, 4, 4): 5, (one_state, 2, 3): 4, (one_state, 3, 4): 7,
    (open_loop, 2, 3): 4, (open_loop, 3, 3): 6, (all_policies, 2, 3): 4,
}  # fmt: skip
ONE_BATCH = {"trees": AgnosticRL(episodes=40), "importance": AgnosticRL(learner="importance", episodes=160)}


def capacities(_: Sequence[int]) -> list[int]:
    """The search's capacity of small classes less that by brute force."""
    return [spanning_capacity(kind(h, states, 2)) - known for (kind, h, states), known in CAPACITIES.items()]


def worlds(seeds: Sequence[int]) -> dict[str, list[float]]:
    """A hidden switch a seed: what trees take of their bound H·C(Π), the bias of their values (mean over policies), the
    variance of an episode of exploration and of a tree, and the suboptimality after about 1,250 transitions of each."""
    found: dict[str, list[float]] = {}
    for seed in seeds:
        mdp = hidden_switch(seed=seed)
        policies = singletons(8, mdp.states, mdp.actions)
        returns, taken = tree_returns(mdp, policies, TREES, torch_stream(seed, "trees"))
        explored = importance_returns(mdp, policies, TREES, torch_stream(seed, "exploration"))
        row = {
            "share of the bound": float(taken.max()) / (8 * capacity_bound(policies)),
            "bias": float((returns.mean(0) - class_values(mdp, policies)).mean()),
            "variance, trees": float(returns.var(0).mean()),
            "variance, importance": float(explored.var(0).mean()),
        }
        for name, method in ONE_BATCH.items():
            ends = TabularLearner(method, mdp, range(10)).iterate()
            row[f"suboptimality, {name}"] = float(np.mean([end["suboptimality"] for end in ends]))
        for key, x in row.items():
            found.setdefault(key, []).append(x)
    return found


def processes(seeds: Sequence[int]) -> list[float]:
    """POPLER's reward processes with exact expectations over its core: the largest difference of their values from the
    policies', in a random MDP of 3 states, actions 2 and steps 3 a seed."""
    errors = []
    for seed in seeds:
        stream = torch_stream(seed, "world")
        rows = torch.rand(3, 3, 2, 3, generator=stream, dtype=torch.float64)
        reward = torch.rand(3, 3, 2, generator=stream, dtype=torch.float64)
        initial = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
        mdp = TabularMDP(rows / rows.sum(-1, keepdim=True), reward, 1.0, initial, 3)
        policies = singletons(3, 3, 2)
        flower = sunflower(policies, 2)
        nodes = flower.place.shape[1]
        edges = torch.zeros(len(policies), nodes, nodes + 1, dtype=torch.float64)
        gained = torch.zeros(len(policies), nodes, dtype=torch.float64)
        for i, node in product(range(len(policies)), range(nodes)):
            place = int(flower.place[i, node])
            if place or not node:
                first, state = ((place - 1) // 3, (place - 1) % 3) if place else (-1, None)
                chance, met = everything(mdp, flower.core, max(first, 0), state)
                seen = arrivals(policies[i : i + 1], flower.petal[i : i + 1], flower.core, met, first, nodes)
                edges[i, node].scatter_add_(0, seen.node[0], seen.weight[0] * chance)
                gained[i, node] = seen.gained[0] @ chance
        errors.append(float((chain_values(edges, gained) - class_values(mdp, policies)).abs().max()))
    return errors


def everything(mdp: TabularMDP, core: Tensor, first: int, state: int | None) -> tuple[Tensor, Transitions]:
    """All runs from a state of step `first` (None: from the start) and their probabilities under the core's mixture;
    what comes before is filled with zeros."""
    steps, pad = torch.arange(first, 3), torch.nn.functional.pad
    runs = torch.tensor(list(product(range(3), repeat=len(steps) + 1)))
    runs = runs if state is None else runs[runs[:, 0] == state]
    chances, states, actions = [], [], []
    for played in product(range(2), repeat=len(steps)):
        taken = torch.tensor(played).expand(len(runs), -1)
        follows = (core[:, steps, runs[:, :-1]] == taken).all(-1).double().mean(0)
        moved = mdp.rows[steps, runs[:, :-1], taken, runs[:, 1:]].prod(-1)
        chances.append(follows * moved * (mdp.initial[runs[:, 0]] if state is None else 1))
        states.append(runs)
        actions.append(taken)
    chance, s, a = torch.cat(chances), pad(torch.cat(states), (first, 0)), pad(torch.cat(actions), (first, 0))
    s, a = s[chance > 0], a[chance > 0]
    return chance[chance > 0], Transitions(s[:, :-1], a, mdp.reward[torch.arange(3), s[:, :-1], a], s[:, 1:])


def of_worlds(found: Measurements) -> Summary:
    return {
        **found["worlds"],
        "largest share of the bound": max(found["worlds"]["share of the bound"]),
        "error of capacities": float(np.abs(found["capacities"]).max()),
        "error of processes": max(found["processes"]),
    }


# --- three worlds, to the end ----------------------------------------------------------------------------------------


def curve(mdp: Any, seeds: Sequence[int], budget: tuple[int, int], **settings: Any) -> dict[str, list[float]]:
    """Mean suboptimality over the seeds after each iteration, and the mean transitions until then."""
    learner = TabularLearner(AgnosticRL(episodes=budget[0], **settings), mdp, seeds)
    history = [learner.iterate() for _ in range(budget[1])]
    names = ("suboptimality", "transitions")
    return {name: [float(np.mean([row[name] for row in rows])) for rows in history] for name in names}


def needed(found: dict[str, list[float]]) -> float:
    """Transitions from which on the suboptimality stays within `CLOSE`; infinity where it does not."""
    close = np.array(found["suboptimality"]) <= CLOSE
    stays = np.flip(np.logical_and.accumulate(np.flip(close)))
    return float(found["transitions"][int(stays.argmax())]) if stays[-1] else float("inf")


def world(seed: int, seeds: Sequence[int]) -> dict[str, Any]:
    """Every learner in one hidden switch."""
    mdp = hidden_switch(seed=seed)
    policies = singletons(8, mdp.states, mdp.actions)
    values, capacity = class_values(mdp, policies), capacity_bound(policies)
    returns, taken = tree_returns(mdp, policies, TREES, torch_stream(seed, "bias of trees"))
    error = (returns.mean(0) - values).abs() / (returns.std(0) / TREES**0.5)
    best = values.sort(descending=True).values
    seen: dict[str, Any] = {
        "best": float(best[0]), "second best": float(best[1]), "capacity": capacity,
        "coverability": coverability(mdp, policies), "most of a tree": int(taken.max()),
        "mean of a tree": float(taken.double().mean()), "bound of a tree": 8 * capacity,
        "largest bias in standard errors": float(error.max()),
    }  # fmt: skip
    for kind in ("singletons", "open-loop"):
        for learner, budget in BUDGETS.items():
            runs = seeds if kind == "singletons" else seeds[:10]  # slow, and a side result
            seen[f"{learner}, {kind}"] = curve(mdp, runs, budget, learner=learner, policy_class=kind)
    for learner, budget in BESIDE.items():
        seen[f"{learner}, singletons"] = curve(mdp, seeds[:5], budget, learner=learner)
    return seen


def of_three(found: Measurements) -> Summary:
    """One number a world. Where a learner does not come close, its whole budget stands in."""
    series: dict[str, list[float]] = {"censored": []}
    for seen in found.values():
        for run in ("trees, singletons", "importance, singletons", "trees, open-loop", "importance, open-loop"):
            series["censored"].append(float(needed(seen[run]) == float("inf")))
        for run in (name for name, curves in seen.items() if isinstance(curves, dict)):
            spent = seen[run]["transitions"][-1]
            series.setdefault(f"transitions, {run}", []).append(min(needed(seen[run]), spent))
            series.setdefault(f"end, {run}", []).append(seen[run]["suboptimality"][-1])
    for kind in ("singletons", "open-loop"):
        trees, importance = (series[f"transitions, {learner}, {kind}"] for learner in BUDGETS)
        series[f"log ratio, {kind}"] = np.log(np.divide(importance, trees)).tolist()
    dear = max(seen["most of a tree"] / seen["bound of a tree"] for seen in found.values())
    biased = max(seen["largest bias in standard errors"] for seen in found.values())
    return {**series, "largest share of the bound": dear, "largest bias": biased}


def all_come_close(summary: Summary) -> bool:
    """Whether trees and exploration come close in over 80 % of their runs."""
    return float(np.mean(summary["censored"])) < 0.2


UNCENSORED = Gate("uncensored", all_come_close, "under 20 % of the runs of trees and exploration end at their budget")

CLAIM = Claim(
    slug="agnostic-rl",
    sentence="With a generative model a class of small spanning capacity is learned from trees with at most H·C(Π) "
    "transitions each, at least ten times fewer in all than uniform exploration needs in episodes.",
    source="Li 2025 (thesis), after Jia et al. 2023: bounded spanning capacity characterises agnostic learning with a "
    "generative model",
    method=AgnosticRL,
    experiments={
        "worlds": Experiment(
            "mechanism",
            {"capacities": capacities, "worlds": worlds, "processes": processes},
            seeds=16,
            minutes=0.05,
            setting="classes of up to 64 policies; hidden switches of 8 steps, 8 states and 2 actions with 65 "
            "singletons, a world a seed; random MDPs of 3 steps and states",
            arms=ONE_BATCH,
            summary=of_worlds,
        ),
        "three worlds": Experiment(
            "miniature",
            {f"world {seed}": partial(world, seed) for seed in (0, 1, 2)},
            seeds=50,
            minutes=6.1,
            setting="three hidden switches (8 steps, 8 states, 2 actions; 65 singletons or 256 open-loop sequences): "
            "transitions from which on the suboptimality, mean over 50 runs (10 open-loop, 5 of POPLER, PSDP and CPI), "
            "stays within 0.05; up to 300 trees and 60,000 episodes. n counts worlds",
            arms={name: AgnosticRL(learner=name) for name in (*BUDGETS, *BESIDE)},
            summary=of_three,
            differs=(
                "the thesis has no experiment: its theorems hold for all MDPs, three are shown",
                "samples accumulate over iterations; the sample sizes of the theorems do not appear",
                "POPLER is rebuilt from its outline, with a threshold of its own",
            ),
        ),
    },
    parts=(
        Part(
            "the capacity of small classes is that by brute force",
            "primary",
            "worlds",
            Exact("error of capacities"),
            Less(0.5, 0.5),
        ),
        Part(
            "a tree takes at most H·C(Π) transitions",
            "primary",
            "worlds",
            Exact("largest share of the bound"),
            Less(1.0, 1.0),
            says="NeurIPS 2023, abstract: bounded spanning capacity characterises learnability with a generative model",
        ),
        Part("trees are unbiased", "primary", "worlds", Mean("bias"), Within(0.02)),
        Part(
            "a tree has a tenth of the variance of an episode of exploration",
            "primary",
            "worlds",
            LogRatio("variance, importance", "variance, trees"),
            More(float(np.log(10))),
        ),
        Part(
            "after as many transitions trees choose better policies",
            "primary",
            "worlds",
            Difference("suboptimality, importance", "suboptimality, trees"),
            More(),
        ),
        Part(
            "POPLER's reward processes are worth what their policies are",
            "primary",
            "worlds",
            Exact("error of processes"),
            Less(1e-9, 1e-9),
        ),
        Part(
            "trees need ten times fewer transitions than uniform exploration",
            "primary",
            "three worlds",
            LogRatio("transitions, importance, singletons", "transitions, trees, singletons"),
            More(float(np.log(10)), float(np.log(5))),
            (UNCENSORED,),
        ),
        Part(
            "their advantage is smaller in a class of large capacity",
            "secondary",
            "three worlds",
            Difference("log ratio, singletons", "log ratio, open-loop"),
            More(),
            (UNCENSORED,),
        ),
        Part(
            "no tree of 6,000 takes more than H·C(Π)",
            "secondary",
            "three worlds",
            Exact("largest share of the bound"),
            Less(1.0, 1.0),
        ),
        Part(
            "no policy's value is biased by four standard errors",
            "secondary",
            "three worlds",
            Exact("largest bias"),
            Less(4.0, 4.0),
        ),
        Part(
            "POPLER ends within 0.05", "secondary", "three worlds", Mean("end, popler, singletons"), Less(CLOSE, CLOSE)
        ),
        Part(
            "POPLER needs at most ten times the transitions of exploration",
            "secondary",
            "three worlds",
            LogRatio("transitions, popler, singletons", "transitions, importance, singletons"),
            Less(float(np.log(10)), float(np.log(10))),
        ),
        Part("PSDP ends within 0.05", "exploratory", "three worlds", Mean("end, psdp, singletons"), Less(CLOSE, CLOSE)),
        Part("CPI ends within 0.05", "exploratory", "three worlds", Mean("end, cpi, singletons"), Less(CLOSE, CLOSE)),
    ),
    not_run="a theory thesis without an experiment of its own",
    amended=(
        "The parts of the miniature were declared on 2026-11-30 over measurements of 2026-11-26, which an earlier judge "
        "had summed up in one word. POPLER, PSDP, CPI and the open-loop sequences had no say in it.",
    ),
)
