"""BoBW-PO's claim: small regret where losses are random, and order √T where an adversary chooses them.

Against exponential weights at a fixed rate, which is what the worst case asks for. Both have the same estimates, the
same dilated recursion and the same share of their own cost as bonus. The fixed rate is a multiple of the worst-case
one, 2·√(log A/(H²·S·A·T)), which has to know T.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

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
    NoWorse,
    Part,
    Slope,
    Summary,
    Within,
)
from surefoot.claims.tabular.regret_arms import Optimist, WorstCase, alternation, last, regrets, thinned
from surefoot.envs.tabular.adversarial import layers, shifting_trap
from surefoot.loops.tabular.learner import TabularLearner
from surefoot.loops.tabular.method import Tabular
from surefoot.methods.tabular.best_of_both_worlds import BestOfBothWorlds

SETTINGS: dict[str, Any] = {"offset": 0.25, "growth": 0.25, "bonus": 0.2}
BANDIT: dict[str, Any] = {"offset": 0.5 / math.sqrt(2), "growth": 0.25, "bonus": 0.0}

# --- what is exact -----------------------------------------------------------------------------------------------

EARLY, FOOLED, DOUBTS = 30, 150, (1e-2, 1e-4, 1e-6, 1e-8)


def leaders(seeds: Sequence[int]) -> dict[str, float]:
    """How far the policies after 30 episodes are from the minimum of their objective: the largest spread over actions
    of its derivative, relative to the losses."""
    found = {}
    for name in ("tsallis", "shannon", "log-barrier"):
        method = BestOfBothWorlds(regularizer=name)
        learner = TabularLearner(method, layers(), list(seeds)[:1])
        for _ in range(EARLY):
            learner.iterate()
        state = learner.states[0]
        plan, losses = method.plan(learner.mdp, state), state["losses"]
        rate = plan.rate if method.rule(learner.mdp).per_action else plan.rate[..., None]
        slope = {
            "tsallis": -rate / plan.policy.sqrt(),
            "shannon": rate * plan.policy.log(),
            "log-barrier": -rate / plan.policy,
        }[name]
        total = losses + slope
        found[name] = float(((total.amax(-1) - total.amin(-1)) / losses.abs().amax(-1).clamp(min=1)).max())
    return found


def paid(seeds: Sequence[int]) -> dict[str, list[float]]:
    """The cost that a bonus pays for where two actions have probabilities ε and 1 − ε."""
    epsilon = torch.tensor(DOUBTS, dtype=torch.float64)
    policy, growth = torch.stack([epsilon, 1 - epsilon], -1), torch.ones_like(epsilon)
    arms = {"tsallis": BestOfBothWorlds(), "fixed rate": WorstCase()}
    late = 10**15
    return {name: arm.rule(layers()).cost(growth, policy, growth, late).tolist() for name, arm in arms.items()}


def fooled(seeds: Sequence[int]) -> dict[str, list[float]]:
    """Regret in 150 episodes of the alternation in one step."""
    arms = {"tsallis": BestOfBothWorlds(**BANDIT), "optimist": Optimist()}
    return {name: regrets(arm, alternation(1), FOOLED, seeds)[:, -1].tolist() for name, arm in arms.items()}


def of_exact(found: Measurements) -> Summary:
    logs = np.log(DOUBTS)
    return {
        "distance from the minimum": max(found["leaders"].values()),
        "power of ε, tsallis, less ½": np.polyfit(logs, np.log(found["paid"]["tsallis"]), 1)[0] - 0.5,
        "power of ε, fixed rate": np.polyfit(logs, np.log(found["paid"]["fixed rate"]), 1)[0],
        **{f"regret per episode, {arm}": np.array(x) / FOOLED for arm, x in found["fooled"].items()},
    }


# --- random losses -------------------------------------------------------------------------------------------------

EPISODES, MULTIPLES, TUNING = 6_000, (1.0, 2.0, 4.0, 8.0, 16.0), (2000, 2001)


def random_losses(multiple: float | None, seeds: Sequence[int]) -> dict[str, Any]:
    """Regret where losses are random; `multiple` None is the method."""
    arm = BestOfBothWorlds(**SETTINGS) if multiple is None else fixed(multiple)
    return thinned(regrets(arm, layers(), EPISODES, seeds))


def fixed(multiple: float) -> WorstCase:
    return WorstCase(multiple=multiple, episodes=EPISODES, bonus=SETTINGS["bonus"])


def tuned(seeds: Sequence[int]) -> dict[str, Any]:
    """The same at the fixed rate with the least mean final regret on other seeds; and how each one did there."""
    tried = {m: regrets(fixed(m), layers(), EPISODES, TUNING)[:, -1] for m in MULTIPLES}
    best = min(tried, key=lambda m: tried[m].mean())
    return {"multiple": best, "tried": {f"{m:g}": x.tolist() for m, x in tried.items()}} | random_losses(best, seeds)


def of_random_losses(found: Measurements) -> Summary:
    final = {f"regret, {arm}": last(curve) for arm, curve in found.items()}
    return final | {"multiple": found["best fixed rate"]["multiple"], "grid": MULTIPLES}


def inside(summary: Summary) -> bool:
    """Whether the best fixed rate is not at an end of its grid."""
    return summary["grid"][0] < summary["multiple"] < summary["grid"][-1]


# --- one state -----------------------------------------------------------------------------------------------------

HORIZONS = (2_500, 10_000, 40_000)


def one_state(seeds: Sequence[int]) -> dict[str, Any]:
    """Final regrets after each number of episodes; the worst-case rate is made for each."""
    bandit = layers(depth=1, states=1)
    growing = regrets(BestOfBothWorlds(**BANDIT), bandit, HORIZONS[-1], seeds)
    arms = [regrets(WorstCase(episodes=t, **BANDIT), bandit, t, seeds) for t in HORIZONS]
    return {
        "episodes": list(HORIZONS),
        "tsallis": growing[:, np.array(HORIZONS) - 1].tolist(),
        "fixed rate": np.stack([curves[:, -1] for curves in arms], 1).tolist(),
        "curves": {"tsallis": thinned(growing), "fixed rate": thinned(arms[-1])},
    }


def of_one_state(found: Measurements) -> Summary:
    series = found["regret"]
    logs = {arm: np.log(series[arm]) for arm in ("tsallis", "fixed rate")}
    at = np.log(series["episodes"])
    powers = {f"power of T, {arm}": np.polyfit(at, y.T, 1)[0] for arm, y in logs.items()}
    return {"log T": at} | {f"log regret, {arm}": y for arm, y in logs.items()} | powers


# --- an adversary ----------------------------------------------------------------------------------------------------

ALTERNATIONS, TIMES = 8_000, (500, 1_000, 2_000, 4_000, 8_000)
ADVERSE: dict[str, Tabular] = {
    "tsallis": BestOfBothWorlds(**SETTINGS),
    "worst-case rate": WorstCase(episodes=ALTERNATIONS, bonus=SETTINGS["bonus"]),
    "optimist": Optimist(),
}


def alternating(arm: str, seeds: Sequence[int]) -> list[list[float]]:
    """Regret in the alternation in three steps after each of TIMES episodes."""
    curves = regrets(ADVERSE[arm], alternation(3), ALTERNATIONS, seeds)
    return curves[:, np.array(TIMES) - 1].tolist()


def of_alternating(found: Measurements) -> Summary:
    series = {arm: np.array(values) for arm, values in found.items()}
    return {
        "log T": np.log(TIMES),
        "log regret, tsallis": np.log(series["tsallis"]),
        **{f"regret per episode, {arm}": values[:, -1] / ALTERNATIONS for arm, values in series.items()},
    }


# --- the shifting trap -------------------------------------------------------------------------------------------

TRAPPED, TRIED = 8_000, (0.5, 1.0, 2.0, 4.0)


def trap(seeds: Sequence[int]) -> dict[str, Any]:
    """Regret in the layers where action 1 is better by 0.1 up to T/2 and action 0 by 0.3 from there on."""
    world = shifting_trap(length=TRAPPED // 2)
    rates = {m: WorstCase(multiple=m, episodes=TRAPPED, bonus=SETTINGS["bonus"]) for m in TRIED}
    return {
        "tsallis": regrets(BestOfBothWorlds(**SETTINGS), world, TRAPPED, seeds)[:, -1].tolist(),
        "optimist": regrets(Optimist(), world, TRAPPED, seeds)[:, -1].tolist(),
        "fixed rates": {f"{m:g}": regrets(arm, world, TRAPPED, seeds)[:, -1].tolist() for m, arm in rates.items()},
    }


def of_trap(found: Measurements) -> Summary:
    seen = found["regret"]
    rates = seen["fixed rates"]
    best = min(rates, key=lambda m: np.mean(rates[m]))
    regret = {"tsallis": seen["tsallis"], "optimist": seen["optimist"]}
    regret |= {"worst-case rate": rates["1"], "best fixed rate": rates[best]}
    per_episode = {f"regret per episode, {arm}": np.array(x) / TRAPPED for arm, x in regret.items()}
    return per_episode | {"multiple": float(best), "grid": TRIED}


def optimist_loses(summary: Summary) -> bool:
    """Whether the losses change enough to cost the optimist more than 0.1 an episode in every run."""
    return float(np.min(summary["regret per episode, optimist"])) > 0.1


def learns(summary: Summary) -> bool:
    """Whether the worst-case rate has less than three quarters of the regret of the uniform policy."""
    return float(np.mean(summary["regret, worst-case rate"])) < 0.75 * EPISODES * 3 * 0.2 / 2


ROOT_TWO = math.log(2) / 2  # what rates that follow √t cost, in bounds, over the rate that is best in hindsight
DIFFERS = ("practical constants in place of the theory's, under which a policy stays uniform for millions of episodes",)
LOSES = Gate("control", optimist_loses, "the changing losses cost the optimist more than 0.1 an episode in every run")

CLAIM = Claim(
    slug="best-of-both-worlds",
    sentence="One algorithm has regret of order √T against an adversary and polylog(T) where losses are random, "
    "without knowing which is the case.",
    source="Dann, Wei and Zimmert 2023, abstract",
    method=BestOfBothWorlds,
    experiments={
        "exact": Experiment(
            "mechanism",
            {"leaders": leaders, "paid": paid, "fooled": fooled},
            seeds=8,
            minutes=0.04,
            setting="policies after 30 episodes in the layers; costs of ε-decided policies; 150 episodes of a bandit "
            "whose better action alternates",
            arms={"tsallis": BestOfBothWorlds(**BANDIT), "fixed rate": WorstCase(), "optimist": Optimist()},
            summary=of_exact,
        ),
        "random losses": Experiment(
            "miniature",
            {
                "tsallis": partial(random_losses, None),
                "worst-case rate": partial(random_losses, 1.0),
                "best fixed rate": tuned,
            },
            seeds=8,
            minutes=8,
            setting="3 layers of 3 states, 2 actions, Bernoulli losses with a gap of 0.2; regret after 6,000 episodes; "
            "the best fixed rate is that of 1, 2, 4, 8 and 16 times the worst-case one on seeds 2000 and 2001",
            arms={"tsallis": BestOfBothWorlds(**SETTINGS)} | {f"fixed {m:g}": fixed(m) for m in MULTIPLES},
            summary=of_random_losses,
            differs=DIFFERS,
        ),
        "one state": Experiment(
            "miniature",
            {"regret": one_state},
            seeds=4,
            minutes=6.8,
            setting="a bandit of two actions, Bernoulli losses with a gap of 0.2; regret after 2,500, 10,000 and 40,000 "
            "episodes; the worst-case rate is made for each",
            arms={"tsallis": BestOfBothWorlds(**BANDIT)}
            | {f"fixed rate, T = {t}": WorstCase(episodes=t, **BANDIT) for t in HORIZONS},
            summary=of_one_state,
            differs=(*DIFFERS, "the reduction to one state, without a bonus"),
        ),
        "alternation": Experiment(
            "miniature",
            {arm: partial(alternating, arm) for arm in ADVERSE},
            seeds=8,
            minutes=4.5,
            setting="3 steps of one state; action 0 loses 1 in even episodes, action 1 in odd ones; 8,000 episodes",
            arms=ADVERSE,
            summary=of_alternating,
            differs=DIFFERS,
        ),
        "shifting trap": Experiment(
            "miniature",
            {"regret": trap},
            seeds=4,
            minutes=5.4,
            setting="the layers, where action 1 is better by 0.1 for 4,000 episodes, then action 0 by 0.3 for as many; "
            "fixed rates of ½, 1, 2 and 4 times the worst-case one, the best of them on the same seeds",
            arms={"tsallis": BestOfBothWorlds(**SETTINGS), "optimist": Optimist()}
            | {f"fixed {m:g}": WorstCase(multiple=m, episodes=TRAPPED, bonus=SETTINGS["bonus"]) for m in TRIED},
            summary=of_trap,
            differs=DIFFERS,
        ),
    },
    parts=(
        Part(
            "policies minimise their regularised objective",
            "primary",
            "exact",
            Exact("distance from the minimum"),
            Less(1e-9, against=1e-6),
        ),
        Part(
            "a policy that has nearly decided pays like the root of its doubt",
            "primary",
            "exact",
            Exact("power of ε, tsallis, less ½"),
            Within(0.05),
        ),
        Part(
            "at a fixed rate it pays as much as any other",
            "secondary",
            "exact",
            Exact("power of ε, fixed rate"),
            Within(0.01),
        ),
        Part(
            "alternating losses, which fool the optimist every time, do not fool it",
            "primary",
            "exact",
            Mean("regret per episode, tsallis"),
            Less(0.25, against=0.5),
            gates=(LOSES,),
        ),
        Part(
            "random losses: less regret than the worst-case rate",
            "primary",
            "random losses",
            LogRatio("regret, tsallis", "regret, worst-case rate"),
            Less(),
            gates=(Gate("control", learns, "the worst-case rate has under ¾ of the regret of the uniform policy"),),
        ),
        Part(
            "random losses: as good as the best fixed rate in hindsight",
            "secondary",
            "random losses",
            LogRatio("regret, best fixed rate", "regret, tsallis"),
            NoWorse(ROOT_TWO),
            gates=(Gate("grid", inside, "the best fixed rate lies inside its grid"),),
        ),
        Part(
            "random losses: regret grows slower than √T",
            "primary",
            "one state",
            Slope("log regret, tsallis", "log T"),
            Less(0.5, against=0.5),
        ),
        Part(
            "random losses: regret grows slower than at worst-case rates",
            "secondary",
            "one state",
            Difference("power of T, tsallis", "power of T, fixed rate"),
            Less(),
        ),
        Part(
            "adversary: less regret than the optimist",
            "primary",
            "alternation",
            Difference("regret per episode, tsallis", "regret per episode, optimist"),
            Less(),
            gates=(LOSES,),
        ),
        Part(
            "adversary: regret grows more like √T than like T",
            "primary",
            "alternation",
            Slope("log regret, tsallis", "log T"),
            Less(0.75, against=1.0),
            gates=(LOSES,),
        ),
        Part(
            "adversary: as good as the worst-case rate",
            "secondary",
            "alternation",
            LogRatio("regret per episode, worst-case rate", "regret per episode, tsallis"),
            NoWorse(ROOT_TWO),
            gates=(LOSES,),
        ),
        Part(
            "shifting trap: less regret than the worst-case rate",
            "secondary",
            "shifting trap",
            Difference("regret per episode, tsallis", "regret per episode, worst-case rate"),
            Less(),
        ),
        Part(
            "shifting trap: as good as the best fixed rate in hindsight",
            "secondary",
            "shifting trap",
            Difference("regret per episode, best fixed rate", "regret per episode, tsallis"),
            NoWorse(0.03),
            gates=(Gate("grid", inside, "the best fixed rate lies inside its grid"),),
        ),
        Part(
            "shifting trap: less regret than the optimist",
            "secondary",
            "shifting trap",
            Difference("regret per episode, tsallis", "regret per episode, optimist"),
            Less(),
            gates=(LOSES,),
        ),
    ),
    not_run="a theory paper without experiments",
    amended=(
        "The parts of one state and of the shifting trap were declared on 2026-11-30 over measurements of 2026-11-26, "
        "which an earlier judge had summed up in one word.",
        "Random losses are measured anew: the best of the earlier fixed rates, up to 4 times the worst-case one, was "
        "the last of its grid. In the shifting trap the optimist did not lose; the alternation was added, where it does.",
    ),
)
