"""The claim of agnostic RL on a hidden switch: with a generative model the capacity of a class is its price.

Singletons have many members and little capacity, so trees judge them all with few transitions, while uniform
exploration pays A^H. Both arms have nothing to tune. POPLER, PSDP and CPI run beside them and decide nothing; nor do
the blind sequences, in whose class capacity is large.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from surefoot.claims.claim import Claim, Estimate, Measurements, Verdict, estimate
from surefoot.envs.tabular.instances_agnostic import hidden_switch
from surefoot.loops.tabular.learner import TabularLearner
from surefoot.methods.tabular.agnostic_rl import AgnosticRL
from surefoot.methods.tabular.agnostic_rl.policy_classes import capacity_bound, class_values, coverability, singletons
from surefoot.methods.tabular.agnostic_rl.trees import tree_returns
from surefoot.seeding import torch_stream

WORLDS, CLOSE = (0, 1, 2), 0.05  # seeds of the MDP; mean suboptimality to come to
BUDGETS = {"trees": (5, 60), "importance": (1000, 60)}  # a batch, iterations
BESIDE = {"popler": (200, 20), "psdp": (300, 16), "cpi": (50, 30)}
TREES, BIAS, BETTER, LEAST = 2000, 4.0, 10.0, 5.0


def curve(mdp: Any, seeds: Sequence[int], budget: tuple[int, int], **settings: Any) -> dict[str, list[float]]:
    """Mean suboptimality over the seeds after each iteration, and the mean transitions until then."""
    learner = TabularLearner(AgnosticRL(episodes=budget[0], **settings), mdp, seeds)
    history = [learner.iterate() for _ in range(budget[1])]
    names = ("suboptimality", "transitions")
    return {name: [float(np.mean([row[name] for row in rows])) for rows in history] for name in names}


def needed(found: dict[str, list[float]]) -> float:
    """Transitions from which on the suboptimality stays within `CLOSE`; all and infinity where it does not."""
    close = np.array(found["suboptimality"]) <= CLOSE
    stays = np.flip(np.logical_and.accumulate(np.flip(close)))
    return float(found["transitions"][int(stays.argmax())]) if stays[-1] else float("inf")


def measure(seeds: Sequence[int]) -> Measurements:
    found: dict[str, Any] = {"worlds": []}
    for world in WORLDS:
        mdp = hidden_switch(seed=world)
        policies = singletons(8, mdp.states, mdp.actions)
        values, capacity = class_values(mdp, policies), capacity_bound(policies)
        returns, taken = tree_returns(mdp, policies, TREES, torch_stream(world, "bias of trees"))
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
                runs = seeds if kind == "singletons" else seeds[:10]  # nothing is decided there, and it is slow
                seen[f"{learner}, {kind}"] = curve(mdp, runs, budget, learner=learner, policy_class=kind)
        for learner, budget in BESIDE.items():
            seen[f"{learner}, singletons"] = curve(mdp, seeds[:5], budget, learner=learner)
        found["worlds"].append(seen)
    return found


def judge(found: Measurements) -> tuple[Verdict, dict[str, Estimate]]:
    estimates: dict[str, Estimate] = {}
    ratios: dict[str, list[float]] = {}
    for kind in ("singletons", "open-loop"):
        need = {name: [needed(w[f"{name}, {kind}"]) for w in found["worlds"]] for name in BUDGETS}
        # Where exploration never comes close within its budget, that budget stands in: the ratio is at least this.
        spent = [w[f"importance, {kind}"]["transitions"][-1] for w in found["worlds"]]
        least = np.minimum(need["importance"], spent)
        ratios[kind] = [float(x) for x in least / np.array(need["trees"])]
        estimates[f"transitions of exploration for one of trees, {kind}"] = estimate(ratios[kind])
    for name in BESIDE:
        last = [w[f"{name}, singletons"]["suboptimality"][-1] for w in found["worlds"]]
        estimates[f"suboptimality at the end, {name}"] = estimate(last)
    ratio = ratios["singletons"]
    dear = any(w["most of a tree"] > w["bound of a tree"] for w in found["worlds"])
    biased = any(w["largest bias in standard errors"] > BIAS for w in found["worlds"])
    if dear or biased or min(ratio) < LEAST:
        return "refuted", estimates
    return "shown" if min(ratio) >= BETTER else "not shown", estimates


CLAIM = Claim(
    slug="agnostic-rl",
    sentence="With a generative model a class of small spanning capacity is learned from trees with at most H·C(Π) "
    "transitions each, at least ten times fewer in all than uniform exploration needs in episodes.",
    baseline="importance sampling of episodes of uniform actions, in the same class",
    metric="Transitions until the suboptimality of the chosen policy, mean over 50 runs, is at most 0.05 and stays so; "
    "hidden switch with H = 8, 8 states, 2 actions, 65 singletons, three MDPs; up to 300 trees and 60,000 episodes",
    supported_by="at least 10 times fewer transitions of trees in each of the three MDPs, and what refutes is not seen",
    refuted_by="less than 5 times fewer in one of them, a tree that takes more than H·C(Π) transitions, or a mean of "
    "2,000 trees more than 4 standard errors from a policy's value",
    measure=measure,
    judge=judge,
    seeds=50,
)
