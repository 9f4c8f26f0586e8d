"""ECRM's claim: policy gradients reach the least expected conditional risk, and weighing the tail buys fewer falls.

All arms minimise J for λ = 0, ½ and 1 on a cliff walk and are read by their final policies, exactly: J against its
least value, falls and cost of an episode without discount. λ = 0 is the risk-neutral learner.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from surefoot.claims.parts import (
    Claim,
    Exact,
    Experiment,
    Gate,
    Less,
    LogRatio,
    Measurements,
    More,
    Part,
    Summary,
)
from surefoot.envs.tabular.instances_risk import cliff_walk
from surefoot.loops.tabular.gradient import evaluate, softmax
from surefoot.loops.tabular.learner import TabularLearner
from surefoot.methods.tabular.ecrm import ECRM
from surefoot.methods.tabular.ecrm.conditional_risk import expected_conditional_risk, least_risk
from surefoot.seeding import torch_stream

MDP, ALPHA, LAMBDAS = cliff_walk(), 0.9, (0.0, 0.5, 1.0)
EXACT: dict[str, dict[str, Any]] = {"natural": {}, "projected": {"step_size": 30.0}}
ITERATIONS = {"natural": 40, "projected": 200, "reinforce": 300}  # of 10 episodes: 3,000


def episode(controller: torch.Tensor) -> dict[str, float]:
    """Falls and cost of an episode of a policy with memory, exactly: visits until the goal, without discount."""
    memories, states = controller.shape[:2]
    cost = -MDP.expected_reward()[:, 0]
    under_way = (cost > 0).repeat(memories)
    chain = torch.einsum("msan,sat->msnt", controller, MDP.rows).reshape(memories * states, -1)
    chain = torch.where(under_way, chain, 0.0)
    first = torch.cat([MDP.initial, torch.zeros((memories - 1) * states, dtype=torch.float64)])
    visits = torch.linalg.solve(torch.eye(len(chain), dtype=chain.dtype) - chain.T, first).view(memories, states).sum(0)
    return {"falls": float(visits[cost == 1].sum()), "cost": float(visits @ cost)}


def outcome(update: str, settings: Mapping[str, float], lam: float, seeds: Sequence[int]) -> dict[str, list[float]]:
    """Train an arm and look at its last policies, one number a seed; exact updates have only one."""
    method = ECRM(update=update, lam=lam, alpha=ALPHA, **settings)  # type: ignore[arg-type]
    learner = TabularLearner(method, MDP, seeds if update == "reinforce" else seeds[:1])
    for _ in range(ITERATIONS[update]):
        learner.iterate()
    last = [episode(learner.agent(i).policy) for i in range(len(learner.seeds))]
    risk = [row["risk"] for row in learner.iterate()]  # of the policies before this step
    return {"risk": risk, "falls": [e["falls"] for e in last], "cost": [e["cost"] for e in last]}


def least(seeds: Sequence[int]) -> dict[str, float]:
    """J* of each λ, by policy iteration."""
    worlds = {f"{lam:g}": ECRM(lam=lam, alpha=ALPHA).world(MDP) for lam in LAMBDAS}
    return {lam: float(world.initial @ least_risk(world)[1]) for lam, world in worlds.items()}


# --- what is exact -----------------------------------------------------------------------------------------------


def exact(update: str, seeds: Sequence[int]) -> dict[str, dict[str, list[float]]]:
    """An exact update for each λ."""
    return {f"{lam:g}": outcome(update, EXACT[update], lam, seeds) for lam in LAMBDAS}


def definition(seeds: Sequence[int]) -> list[float]:
    """How far, in any first state, J of a random policy by its definition is from the cost of the same policy in the
    augmented MDP with the best thresholds: these are improved, the actions kept, until nothing changes."""
    world, found = ECRM(lam=0.5, alpha=ALPHA).world(MDP), []
    grid = world.states // MDP.states, MDP.states, MDP.actions, world.actions // MDP.actions
    shut = torch.where(world.legal, 0.0, -torch.inf).view(grid)
    for seed in seeds:
        noise = torch.randn(MDP.states, MDP.actions, generator=torch_stream(seed, "policy"), dtype=torch.float64)
        policy, choice = softmax(noise), shut.argmax(-1)
        while True:
            chosen = torch.nn.functional.one_hot(choice, grid[-1]).double()
            value, q = (x := evaluate(world, (policy[..., None] * chosen).view(world.states, -1))).value, x.q
            better = (q.view(grid) + shut).argmax(-1)
            if bool((better == choice).all()):
                break
            choice = better
        off = -value[: MDP.states] - expected_conditional_risk(MDP, policy, 0.5, ALPHA)
        found.append(float(off.abs().max()))
    return found


def of_exact(found: Measurements) -> Summary:
    series: dict[str, Any] = {"distance from the definition": max(found["definition"])}
    for update in EXACT:
        arm = {lam: {name: x[0] for name, x in seen.items()} for lam, seen in found[update].items()}
        series |= {
            f"J above the least, {update}": max(seen["risk"] - found["least risk"][lam] for lam, seen in arm.items()),
            f"falls at λ = 0 by those at ½, {update}": arm["0"]["falls"] / arm["0.5"]["falls"],
            f"falls at λ = 0 by those at 1, {update}": arm["0"]["falls"] / arm["1"]["falls"],
            f"cost at λ = ½ by that at 0, {update}": arm["0.5"]["cost"] / arm["0"]["cost"],
            f"least growth of J with λ, {update}": min(np.diff([arm[f"{lam:g}"]["risk"] for lam in LAMBDAS])),
        }
    return series


# --- from samples ------------------------------------------------------------------------------------------------

STEP_SIZES, CRITIC_RATES, TUNING_SEEDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0), (0.1, 0.5), range(1000, 1003)


def sampled(lam: float, seeds: Sequence[int]) -> dict[str, Any]:
    """REINFORCE with the settings of the least mean J on other seeds."""
    grid = [{"step_size": beta, "critic_rate": rate} for beta in STEP_SIZES for rate in CRITIC_RATES]
    tried = [outcome("reinforce", settings, lam, TUNING_SEEDS)["risk"] for settings in grid]
    best = grid[int(np.argmin([np.mean(risk) for risk in tried]))]
    tuning = [{**settings, "risk": risk} for settings, risk in zip(grid, tried, strict=True)]
    return {**outcome("reinforce", best, lam, seeds), "settings": best, "tuning": tuning}


def of_samples(found: Measurements) -> Summary:
    arms = {f"{lam:g}": found[f"λ = {lam:g}"] for lam in LAMBDAS}
    above = {lam: np.log(np.array(arm["risk"]) / found["least risk"][lam]) for lam, arm in arms.items()}
    return {
        **{f"{name}, λ = {lam}": arm[name] for lam, arm in arms.items() for name in ("falls", "cost")},
        **{f"log J by the least, λ = {lam}": logs for lam, logs in above.items()},
        "J, mean of λ": np.exp(np.mean([np.log(arm["risk"]) for arm in arms.values()], 0)),
        "least J, mean of λ": np.full(len(above["0"]), np.exp(np.mean(np.log(list(found["least risk"].values()))))),
        "step sizes": [arm["settings"]["step_size"] for arm in arms.values()],
    }


def trained(summary: Summary) -> bool:
    """Whether both arms come within a tenth of the least J."""
    return all(np.mean(summary[f"log J by the least, λ = {lam}"]) <= np.log(1.1) for lam in ("0", "0.5"))


def inside(summary: Summary) -> bool:
    """Whether no arm's step size is at an end of the grid."""
    return all(STEP_SIZES[0] < size < STEP_SIZES[-1] for size in summary["step sizes"])


GATES = (
    Gate("reference", trained, "J of both arms comes within a tenth of its least value"),
    Gate("grid", inside, "the step size of every λ lies inside its grid"),
)


def exact_parts(update: str) -> tuple[Part, ...]:
    """What an exact update is to come to."""
    return (
        Part(
            f"{update} updates reach the least risk",
            "primary",
            "exact updates",
            Exact(f"J above the least, {update}"),
            Less(0.01, against=0.1),
            says="abstract: global convergence",
        ),
        Part(
            f"{update} updates: under a third of the falls at λ = ½",
            "primary",
            "exact updates",
            Exact(f"falls at λ = 0 by those at ½, {update}"),
            More(3.0, against=1.0),
        ),
        Part(
            f"{update} updates: under a third of the falls at λ = 1",
            "secondary",
            "exact updates",
            Exact(f"falls at λ = 0 by those at 1, {update}"),
            More(3.0, against=1.0),
        ),
        Part(
            f"{update} updates: an episode costs under a tenth more at λ = ½",
            "secondary",
            "exact updates",
            Exact(f"cost at λ = ½ by that at 0, {update}"),
            Less(1.1, against=1.5),
        ),
        Part(
            f"{update} updates: J grows with λ",
            "secondary",
            "exact updates",
            Exact(f"least growth of J with λ, {update}"),
            More(),
        ),
    )


CLAIM = Claim(
    slug="ecrm",
    sentence="Policy gradients with a threshold beside each action reach the least expected conditional risk, and the "
    "policies that they find for it keep away from the cliff.",
    source="Yu and Ying 2023, abstracts of all versions",
    method=ECRM,
    experiments={
        "exact updates": Experiment(
            "mechanism",
            {"least risk": least, "definition": definition} | {update: partial(exact, update) for update in EXACT},
            seeds=8,
            minutes=0.05,
            setting="stochastic cliff walk of 4 x 6 cells, slip 0.1, α = 0.9, λ = 0, ½, 1; 40 natural updates or 200 "
            "projected ones of step size 30; 8 random policies for the definition of J",
            arms={
                f"{update}, λ = {lam:g}": ECRM(update=update, lam=lam, alpha=ALPHA, **settings)
                for update, settings in EXACT.items()
                for lam in LAMBDAS
            },
            summary=of_exact,
        ),
        "samples": Experiment(
            "miniature",
            {"least risk": least} | {f"λ = {lam:g}": partial(sampled, lam) for lam in LAMBDAS},
            seeds=5,
            minutes=18,
            setting="the same cliff walk; REINFORCE with a critic, 300 updates of 10 episodes of up to 100 steps; for "
            "each λ the best of six step sizes from 0.01 to 3 and two critic rates on seeds 1000 to 1002",
            arms={f"λ = {lam:g}": ECRM(update="reinforce", lam=lam, alpha=ALPHA) for lam in LAMBDAS},
            summary=of_samples,
            differs=(
                "our own cliff walk: the paper's grid, slip, costs, λ and α are not known to us",
                "episodes are truncated after 100 steps and bootstrapped from the critic",
                "5 seeds",
            ),
        ),
    },
    parts=(
        Part(
            "with the best thresholds the risk is an ordinary return",
            "primary",
            "exact updates",
            Exact("distance from the definition"),
            Less(1e-9, against=1e-6),
        ),
        *exact_parts("natural"),
        *exact_parts("projected"),
        Part(
            "REINFORCE falls less often at λ = ½",
            "primary",
            "samples",
            LogRatio("falls, λ = 0", "falls, λ = 0.5"),
            More(float(np.log(1.5)), against=0.0),
            gates=GATES,
        ),
        Part(
            "REINFORCE: an episode costs less than 1.5 times as much at λ = ½",
            "secondary",
            "samples",
            LogRatio("cost, λ = 0.5", "cost, λ = 0"),
            Less(float(np.log(1.5)), against=float(np.log(1.5))),
            gates=GATES,
        ),
        Part(
            "3,000 episodes of REINFORCE come within a tenth of the least risk",
            "secondary",
            "samples",
            LogRatio("J, mean of λ", "least J, mean of λ"),
            Less(float(np.log(1.1)), against=float(np.log(1.1))),
        ),
    ),
    not_run="the paper's cliff walk (grid, slip, costs, λ, α, steps, seeds) and its numbers are not known to us, and no "
    "code is public; with them it would take minutes",
    amended=(
        "The first of three runs took the step size that is best at λ = ½ for all λ; in the second REINFORCE was best "
        "at the edge of its grid; the third, kept here, has a wider grid for every λ.",
        "The parts of the miniature were declared on 2026-11-30 over measurements of 2026-11-26, which an earlier judge "
        "had summed up in one word.",
    ),
)
