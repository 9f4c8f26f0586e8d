"""Dynamic policy gradient's claim: trained backwards, an early epoch is not held up by a future that is still bad.

Exact: two epochs of which the last begins badly, the same number of updates and steps of 1/2 for both arms. Sampled: sell
once within ten days while the price drifts upwards, from uniform policies; what is spent counts every step played, those
of the frozen future and those that lead to epoch h among them. The authors' follow-up: one choice that looks bad at first.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

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
    Published,
    Role,
    ShareDifference,
    Summary,
    Within,
)
from surefoot.envs.tabular import resolve
from surefoot.envs.tabular.instances_deadline import delayed_trust, optimal_stopping
from surefoot.envs.tabular.policies import greedy, uniform_policy
from surefoot.loops.tabular.gradient import evaluate
from surefoot.loops.tabular.learner import TabularLearner
from surefoot.loops.tabular.method import State
from surefoot.methods.tabular.dynamic_pg import DynamicPG, SimultaneousPG
from surefoot.seeding import numpy_stream

# --- exact gradients -------------------------------------------------------------------------------------------------

STARTS, UPDATES, ACCURACY = (-4.0, -2.0, 0.0), 400, 0.4


def exact_gaps(start: float, seeds: Sequence[int]) -> dict[str, float]:
    """1 − V on the two epochs after all updates, where the gate's first action begins with a logit of `start`."""
    mdp, state = delayed_trust(), SimultaneousPG().start(delayed_trust(), 0)
    state["theta"][1, 1, 0] = start

    def go(method: SimultaneousPG, state: State, updates: int, first: int = 0) -> State:
        for i in range(first, first + updates):
            state, _ = method.step(mdp, state, 0, i)
        return state

    half = UPDATES // 2  # in both epochs 1/2 in the one state that counts of the three that are drawn
    last, first = DynamicPG(scale=3, updates=(half,)), DynamicPG(scale=6, updates=(half,))
    ends = {
        "dynamic": go(first, go(last, state, half), half, half),
        "simultaneous": go(SimultaneousPG(scale=10), state, UPDATES),
    }
    return {arm: 1 - float(evaluate(mdp, last.policy(mdp, end)).value[0, 0]) for arm, end in ends.items()}


def stages(seeds: Sequence[int]) -> list[float]:
    """The largest error of a stage, J_h* − J_h with the trained future, relative to what the theorem allows after its
    number of exact steps of its size from a uniform start: one random MDP of two epochs a seed."""
    found = []
    for seed in seeds:
        mdp = resolve(f"garnet:3,2,2,seed={seed}")
        mdp = dataclasses.replace(mdp, horizon=2, gamma=1.0, reward=mdp.expected_reward().clamp(min=0))
        most, left = float(mdp.reward.max()), np.array([2, 1])
        counts = tuple(math.ceil(4 * h * most * mdp.actions**2 * mdp.states / ACCURACY) for h in left.tolist())
        method = DynamicPG(updates=counts)
        state = method.start(mdp, seed)
        for iteration in range(sum(counts)):
            state, _ = method.step(mdp, state, seed, iteration)
        world = evaluate(mdp, method.policy(mdp, state))
        errors = [float((world.q[h].amax(-1) - world.value[h]).mean()) for h in range(2)]
        found.append(max(errors) / ACCURACY)
    return found


def of_exact(found: Measurements) -> Summary:
    series = {"largest stage error, relative to the bound": max(found["stages"])}
    for start in STARTS:
        gaps = found[f"z={start:g}"]
        series[f"z={start:g}: log(gap, simultaneous / gap, dynamic)"] = math.log(gaps["simultaneous"] / gaps["dynamic"])
    return series


# --- optimal stopping ------------------------------------------------------------------------------------------------

MDP, HORIZON, BATCH = optimal_stopping(), 10, 100
BUDGETS, TUNING_SEEDS = (100_000, 300_000), range(2000, 2003)
SCALES = (100.0, 300.0, 1000.0, 3000.0, 10_000.0, 30_000.0, 100_000.0)


def optimum() -> float:
    """The value of the best policy: improved H times, the last epoch is right after the first, and so on backwards."""
    policy = uniform_policy(MDP)
    for _ in range(HORIZON):
        policy = greedy(MDP, evaluate(MDP, policy).q)
    return float(MDP.initial @ evaluate(MDP, policy).value[0])


def simultaneous(scale: float, budget: int) -> tuple[SimultaneousPG, int]:
    """The arm, and as many updates as the budget of steps allows."""
    return SimultaneousPG(scale, BATCH, baseline=True), budget // (BATCH * HORIZON)


def dynamic(sampling: str, scale: float, budget: int) -> tuple[DynamicPG, int]:
    """The same, with updates of each epoch in proportion to the steps that are left, as its smoothness asks for."""
    left = np.arange(HORIZON, 0, -1)
    price = BATCH * (left if sampling == "uniform" else np.full(HORIZON, HORIZON))
    updates = np.maximum(left * (budget / float(left @ price)), 1).astype(int)
    return DynamicPG(scale, BATCH, True, tuple(updates.tolist()), sampling), int(updates.sum())


ARMS: dict[str, Callable[[float, int], tuple[SimultaneousPG, int]]] = {
    "dynamic": partial(dynamic, "uniform"),
    "dynamic, visited states": partial(dynamic, "visited"),
    "simultaneous": simultaneous,
}


def gaps(arm: str, scale: float, budget: int, seeds: Sequence[int]) -> list[float]:
    """V* − V of the last policy, exactly, one number a seed."""
    method, updates = ARMS[arm](scale, budget)
    learner = TabularLearner(method, MDP, seeds)
    for _ in range(updates):
        learner.iterate()
    assert all(int(state["env_steps"]) <= budget for state in learner.states)
    best = optimum()
    return [best - float(MDP.initial @ evaluate(MDP, method.policy(MDP, s)).value[0]) for s in learner.states]


def tuned(arm: str, budget: int, seeds: Sequence[int]) -> dict[str, Any]:
    """The gaps at the step size with the least mean gap on the tuning seeds."""
    tried = {scale: gaps(arm, scale, budget, TUNING_SEEDS) for scale in SCALES}
    best = min(tried, key=lambda scale: float(np.mean(tried[scale])))
    tuning = {f"{scale:g}": x for scale, x in tried.items()}
    return {"scale": best, "gap": gaps(arm, best, budget, seeds), "tuning": tuning}


def of_stopping(found: Measurements) -> Summary:
    series: dict[str, Any] = {}
    for name, run in found.items():
        series |= {f"gap, {name}": run["gap"], f"scale, {name}": run["scale"]}
    return series


def inside(budget: int, summary: Summary) -> bool:
    """Whether the best step size of every arm lies inside the grid."""
    return all(SCALES[0] < summary[f"scale, {arm}, {budget:,} steps"] < SCALES[-1] for arm in ARMS)


def learns(budget: int, summary: Summary) -> bool:
    """Whether simultaneous gradients close half of a uniform policy's gap of 0.152, and not all of it."""
    return 0.001 <= float(np.mean(summary[f"gap, simultaneous, {budget:,} steps"])) <= 0.076


# --- the follow-up's example -----------------------------------------------------------------------------------------

GAMMA, RUNS, INTERACTIONS, CLOSE = 0.99, 2000, 1200, 0.01
TRAP, DETOUR, LAST = (-0.75, 10.0), (1.25, 1.25), (1.25, 1.25)  # mean and standard deviation of rewards
VALUES = np.array([GAMMA * TRAP[0], 0.0, GAMMA * (DETOUR[0] + GAMMA * LAST[0])])  # of the three actions in state 2


def example(arm: str, seeds: Sequence[int]) -> list[int]:
    """After how many interactions the policy was first within 0.01 of the optimum, 0 for never; a number a run.

    All arms of a state but the second have the same rewards, so its three logits are all that can be learnt: starts in
    the others are paid for, one interaction each and two where the episode goes on. Runs advance together.
    """
    streams = [numpy_stream(seed, f"extended maximisation bias, {arm}") for seed in seeds]
    uniforms = np.stack([stream.random((INTERACTIONS, 2)) for stream in streams], 1)
    normals = np.stack([stream.standard_normal((INTERACTIONS, 2)) for stream in streams], 1)
    rows = np.arange(len(seeds))
    logits, spent, first = np.zeros((len(seeds), 3)), np.zeros(len(seeds), int), np.zeros(len(seeds), int)
    stage, left = 0, _updates(0)
    for (begins, acts), noise in zip(uniforms.swapaxes(1, 2), normals, strict=True):
        if left == 0 and arm != "plain":
            stage, left, logits = stage + 1, _updates(stage + 1), np.zeros_like(logits)
        left -= 1
        steps = stage + 1 if arm == "dynamic" else 100
        policy = _softmax(logits)
        action = (acts[:, None] > policy.cumsum(1)).sum(1).clip(max=2)
        trap, detour = TRAP[0] + TRAP[1] * noise[:, 0], DETOUR[0] + DETOUR[1] * noise[:, 0]
        rest = GAMMA * (LAST[0] + LAST[1] * noise[:, 1]) if steps > 2 else 0.0
        ahead = np.where(action == 0, trap, np.where(action == 2, detour + rest, 0.0))
        gain = GAMMA * ahead if steps > 1 else np.zeros(len(seeds))
        start = (begins * 4).astype(int)  # states 1, 2, 4, 5
        rate = 2 * (1 - GAMMA) / (1 - GAMMA ** (6 if arm == "plain" else stage + 1))
        step = np.eye(3)[action] - policy
        logits = logits + np.where(start == 1, rate * gain, 0.0)[:, None] * step
        played = np.where(start == 1, 1 + np.array([1, 0, 2])[action], np.array([1, 0, 2, 1])[start]).clip(max=steps)
        spent += played
        short = (VALUES.max() - _softmax(logits) @ VALUES) / 4  # the other three starts cost nothing
        reached = (short < CLOSE) & (first == 0) & (spent <= INTERACTIONS)
        first[rows[reached]] = spent[reached]
    return first.tolist()


def _updates(stage: int) -> int:
    """N_h of stage h, with h + 1 steps to go."""
    return math.ceil(45 * (1 - GAMMA ** (stage + 1)) / (1 - GAMMA))


def _softmax(logits: np.ndarray) -> np.ndarray:
    exp = np.exp(logits - logits.max(1, keepdims=True))
    return exp / exp.sum(1, keepdims=True)


EXAMPLE_ARMS, READ = ("dynamic", "plain", "plain, restarted"), (200, 400, 600, 800, 1200)


def of_example(found: Measurements) -> Summary:
    series = {}
    for arm in EXAMPLE_ARMS:
        first = np.array(found[arm])
        series |= {f"success of {arm} by {n}": ((first > 0) & (first <= n)).astype(float) for n in READ}
    return series


def as_published(summary: Summary) -> bool:
    return 0.7 <= float(np.mean(summary["success of plain by 1200"])) <= 0.9


# --- the claim -------------------------------------------------------------------------------------------------------


def _ahead(name: str, role: Role, budget: int, arm: str) -> Part:
    gates = (
        Gate("grid", partial(inside, budget), "the best step size of every arm is inside the grid"),
        Gate("room", partial(learns, budget), "simultaneous gradients close half of a uniform policy's gap, not all"),
    )
    contrast = LogRatio(f"gap, {arm}, {budget:,} steps", f"gap, simultaneous, {budget:,} steps")
    return Part(name, role, "stopping", contrast, Less(), gates)


def _example(name: str, role: Role, n: int, other: str, test: More | Within, published: float | None = None) -> Part:
    gate = Gate("reference", as_published, "plain policy gradient succeeds in 0.7 to 0.9 of the runs")
    told = None if published is None else Published(published, "follow-up, Figure 2: text, about", "read", n=RUNS)
    contrast = ShareDifference(f"success of dynamic by {n}", f"success of {other} by {n}")
    return Part(name, role, "follow-up's example", contrast, test, (gate,), published=told)


BAD = [Exact(f"z={start:g}: log(gap, simultaneous / gap, dynamic)") for start in STARTS]
BOUND = Exact("largest stage error, relative to the bound")

CLAIM = Claim(
    slug="dynamic-pg",
    sentence="In a problem with a deadline, softmax policy gradient trained backwards in time, each epoch against a "
    "finished future, reaches a given accuracy with fewer steps than all epochs at once.",
    source="Klein, Weissmann and Döring 2023, abstract; the same authors' arXiv:2411.04913, Theorem 4.6 and Figure 2",
    method=DynamicPG,
    experiments={
        "exact": Experiment(
            "mechanism",
            {"stages": stages} | {f"z={start:g}": partial(exact_gaps, start) for start in STARTS},
            seeds=8,
            minutes=0.08,
            setting=f"two epochs, {UPDATES} updates in all, steps of 1/2; the last epoch's good action begins with logit z = "
            f"−4, −2 and 0; the theorem on random MDPs of two epochs with an accuracy of {ACCURACY:g}",
            arms={"dynamic": DynamicPG(), "simultaneous": SimultaneousPG()},
            summary=of_exact,
        ),
        "stopping": Experiment(
            "miniature",
            {f"{arm}, {budget:,} steps": partial(tuned, arm, budget) for arm in ARMS for budget in BUDGETS},
            seeds=30,
            minutes=4,
            setting=f"optimal stopping, 11 prices, 10 days, batches of {BATCH}, with a running mean of returns as baseline; "
            "step sizes of 100 to 100,000 times the theory's, the best of each arm and budget on three other seeds",
            arms={"dynamic": dynamic("uniform", 1.0, 10**5)[0], "simultaneous": simultaneous(1.0, 10**5)[0]},
            summary=of_stopping,
            differs=(
                "a stopping problem of ours; the environment of the paper's experiment was not found",
                "step sizes are tuned multiples of the theory's, as those of the theory move nothing within the budget",
            ),
        ),
        "follow-up's example": Experiment(
            "instance",
            {arm: partial(example, arm) for arm in EXAMPLE_ARMS},
            seeds=RUNS,
            minutes=0.3,
            setting="extended maximisation-bias MDP, γ = 0.99, 1200 interactions, success within 0.01 of the optimum; "
            '"plain, restarted" plays whole episodes, but starts at zero logits and lowers its rate as dynamic PG does',
            arms={"dynamic": DynamicPG(batch=1)},
            summary=of_example,
            differs=(
                "the experiment of the follow-up on discounted problems, not of this paper, whose own was not found",
                "written out for many runs at once, as the shipped class takes no random rewards below 0",
                "arms with the same rewards are one arm: their choice changes no value",
            ),
        ),
    },
    parts=(
        Part("every stage ends within the theorem's error", "primary", "exact", BOUND, Less(1.0, against=1.0)),
        Part("a very bad future (z = −4): half the gap or less", "primary", "exact", BAD[0], More(math.log(2))),
        Part("a bad future (z = −2): less of a gap", "primary", "exact", BAD[1], More()),
        Part("no gain where the future is good (z = 0)", "primary", "exact", BAD[2], Less()),
        _ahead("closer to the optimum after 300,000 steps", "primary", 300_000, "dynamic"),
        _ahead("closer to the optimum after 100,000 steps", "secondary", 100_000, "dynamic"),
        _ahead("closer after 300,000 steps without a simulator", "secondary", 300_000, "dynamic, visited states"),
        _ahead("closer after 100,000 steps without a simulator", "secondary", 100_000, "dynamic, visited states"),
        _example("succeeds oftener than plain policy gradient", "primary", 1200, "plain", More(), 0.2),
        _example("alike up to 400 interactions", "secondary", 400, "plain", Within(0.1)),
        _example(
            "succeeds oftener than plain with its restarts and rates", "secondary", 1200, "plain, restarted", More()
        ),
    ),
    not_run="the paper's own example exists, but its environment and numbers were not found",
    amended=(
        "An earlier form of 2026-11-26 sampled without a baseline up to 100,000 steps: no arm closed half of the gap, and "
        "3 of 9 step sizes lay at the edge of their grid. Baseline, budget and grid were changed for all arms on "
        "2026-11-30, by runs on seeds 1000 and 1001.",
    ),
)
