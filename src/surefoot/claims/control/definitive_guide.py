"""The guide's claim: learners that hold the new policy near the old one are better, and the holding is what allows them
many epochs on a batch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
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
    Published,
    Role,
    Summary,
    Within,
)
from surefoot.claims.training import area, last_fifth, metric_of, train_rows
from surefoot.evaluate.rollout import returns
from surefoot.loops.common.run import make_learner
from surefoot.loops.on_policy.learner import Learner
from surefoot.loops.on_policy.method import OnPolicy, pick
from surefoot.methods.control.baselines import A2C, REINFORCE
from surefoot.methods.control.definitive_guide import VMPO
from surefoot.methods.control.ppo import PPO
from surefoot.methods.control.trpo import TRPO
from surefoot.objectives import estep


class Unconstrained(VMPO):
    """V-MPO without its trust region."""

    def constraints(self, *args: Any) -> dict[str, Tensor]:
        return {}


# --- one batch -----------------------------------------------------------------------------------------------------

ONE: dict[str, Any] = {"num_envs": 8, "num_steps": 16, "minibatch_size": 128, "hidden": (16,)}
SETTLING: dict[str, VMPO] = {
    "V-MPO": VMPO(**ONE, learning_rate=0.1),
    "V-MPO without KL": Unconstrained(**ONE, learning_rate=0.1),
}
DESCENT, READ = 200, 100  # steps, and how many of the last are averaged


def on_one_batch(method: OnPolicy, env: str, seeds: Sequence[int]) -> tuple[Learner, Any]:
    """A learner and its first batch."""
    learner = make_learner(method, env, list(seeds), 10**6)
    batch = learner.estimate(learner.collect(learner.vector))
    learner.close()
    learner.lr_tensor = torch.tensor(method.learning_rate)
    learner.metric_names(batch)
    return learner, batch


def settled(arm: str, seeds: Sequence[int]) -> dict[str, list[float]]:
    """Steps of all variables on the whole of one batch from CartPole-v1: KL(ψ ‖ uniform) at the last temperature, and
    KL(π_old ‖ π), mean over the last half of the steps."""
    learner, batch = on_one_batch(SETTLING[arm], "CartPole-v1", seeds)
    everything = torch.arange(batch["valid"].shape[1]).expand(len(seeds), -1)
    names, rows = learner.metric_names(batch), []
    for _ in range(DESCENT):
        rows.append(learner.gradient_step(torch.ones(len(seeds)), batch, everything))
    spent = []
    for eta, advantage, valid in zip(rows[-1][:, names.index("eta")], batch["advantage"], batch["valid"], strict=True):
        kept = estep.top_half(advantage, valid)
        weights = estep.weights(advantage, eta, kept)[kept]
        spent.append(float((weights * torch.log(weights * len(weights))).sum()))
    kl = torch.stack(rows[-READ:])[:, :, names.index("kl")].mean(0)
    return {"weights": spent, "kl": kl.tolist()}


def first_gradients(seeds: Sequence[int]) -> list[float]:
    """How far PPO's and TRPO's gradients at the policy that collected are from A2C's without entropy, relative to it."""
    learner, batch = on_one_batch(PPO(**ONE), "Pendulum-v1", seeds)
    model, policy, distances = learner.model, learner.model.policy_mask, []
    ppo, a2c, trpo = PPO(**ONE), A2C(**ONE, entropy=0.0), TRPO(**ONE)
    for index, vector in enumerate(learner.vector):
        one = pick(batch, index)
        wanted = torch.func.grad(lambda v, b: a2c.loss(model, v, b, {})[0])(vector, one)[policy]
        clipped = torch.func.grad(lambda v, b: ppo.loss(model, v, b, {})[0])(vector, one)[policy]
        natural = torch.func.grad(lambda v, b: trpo.improvement(model, v, b)[0])(vector, one)[policy]
        distances.append(max(float((g - wanted).norm() / wanted.norm()) for g in (clipped, natural)))
    return distances


def of_one_batch(found: Measurements) -> Summary:
    held, free = found["V-MPO"], found["V-MPO without KL"]
    return {
        "KL of the weights": held["weights"],
        "its bound ε_η": np.full(len(held["weights"]), VMPO.epsilon_eta),
        "KL of the policy": held["kl"],
        "its bound ε_α": np.full(len(held["kl"]), VMPO.epsilon_alpha),
        "KL without bound": free["kl"],
        "distance": max(found["first gradients"]),
    }


# --- CartPole and Pendulum -----------------------------------------------------------------------------------------

ENVS = {"CartPole-v1": 102_400, "Pendulum-v1": 102_400}
SHARED: dict[str, Any] = {"num_envs": 8, "num_steps": 256, "anneal": True}
MINIBATCHES: dict[str, Any] = {**SHARED, "minibatch_size": 256}
HELD: dict[str, Any] = {"PPO": PPO(**MINIBATCHES), "TRPO": TRPO(**SHARED), "V-MPO": VMPO(**MINIBATCHES)}
FREE: dict[str, Any] = {"A2C": A2C(**MINIBATCHES), "REINFORCE": REINFORCE(**SHARED)}
LOOSENED: dict[str, Any] = {
    "PPO without clip": PPO(**MINIBATCHES, penalty="none"),
    "V-MPO without KL": Unconstrained(**MINIBATCHES),
}
ARMS = {**HELD, **FREE, **LOOSENED}


def learning(arm: str, env: str, seeds: Sequence[int]) -> dict[str, list[float]]:
    """Return over all of training and at its end, and the KL from the old policy before each gradient step, mean over
    the steps (0 by definition for REINFORCE, which makes one step a batch)."""
    history = train_rows(ARMS[arm], env, ENVS[env], seeds)
    kl = metric_of(history, "kl").mean(1).tolist()
    return {"area": area(history), "last": last_fifth(history), "kl": kl}


def of_learning(found: Measurements) -> Summary:
    """Returns by environment, and their mean over both with 0 for the worst and 1 for the best run of any arm; the
    geometric mean of KLs, and the smaller of both environments' ratios of KLs."""
    series: dict[str, Any] = {}
    for key in ("area", "last"):
        table = np.array([[found[f"{arm}, {env}"][key] for arm in ARMS] for env in ENVS])  # [environments, arms, seeds]
        low, high = table.min((1, 2), keepdims=True), table.max((1, 2), keepdims=True)
        series |= {f"{key}, {arm}, {env}": table[j, i] for j, env in enumerate(ENVS) for i, arm in enumerate(ARMS)}
        scores = dict(zip(ARMS, ((table - low) / (high - low)).mean(0), strict=True))
        series |= {f"{key}, {arm}": score for arm, score in scores.items()}
        series |= {f"{key}, held": np.mean([scores[arm] for arm in HELD], axis=0)}
        series |= {f"{key}, free": np.mean([scores[arm] for arm in FREE], axis=0)}
    kl = {(arm, env): np.array(found[f"{arm}, {env}"]["kl"]) for arm in ARMS for env in ENVS}
    series |= {f"kl, {arm}": np.exp(np.mean([np.log(kl[arm, env]) for env in ENVS], axis=0)) for arm in ("PPO", "A2C")}
    for loose, tight in PAIRS.items():
        ratios = {env: float(kl[loose, env].mean() / kl[tight, env].mean()) for env in ENVS}
        series |= {f"loosened, {loose}, {env}": ratio for env, ratio in ratios.items()}
        series[f"loosened, {loose}"] = min(ratios.values())
    return series


PAIRS = {"PPO without clip": "PPO", "V-MPO without KL": "V-MPO"}


def loosened(name: str) -> Gate:
    """A learner without its constraint must go farther, or nothing was taken away."""
    says = "without the constraint the KL is at least 5 times as large"
    return Gate("control", lambda series: series[f"loosened, {name}"] >= 5, says)


def worse_without(loose: str) -> tuple[Part, ...]:
    """The parts that a learner is worse without its constraint: over both environments, and in each."""
    tight, constraint = PAIRS[loose], loose.split(" without ")[1]
    both = Difference(f"area, {tight}", f"area, {loose}")
    each = {env: Difference(f"area, {tight}, {env}", f"area, {loose}, {env}") for env in ENVS}
    name, says = (
        f"{tight} learns more slowly without its {constraint}",
        "§6: regularisation allows many epochs on a batch",
    )
    return (
        Part(name, "primary", "learning", both, More(), gates=(loosened(loose),), says=says),
        *(
            Part(f"{env}: {name}", "secondary", "learning", contrast, More(), gates=(loosened(f"{loose}, {env}"),))
            for env, contrast in each.items()
        ),
    )


# --- the guide's HalfCheetah ---------------------------------------------------------------------------------------

HARNESS = VMPO.presets["mujoco-2024"]
RUNNERS: dict[str, Any] = {
    "PPO": PPO(**HARNESS, anneal=True),  # type: ignore[arg-type]
    "TRPO": TRPO(**HARNESS, anneal=True, value_coefficient=1.0),  # type: ignore[arg-type]
    "V-MPO": VMPO(**HARNESS),
    "A2C": A2C(**HARNESS),
}
CHEETAH, BUDGET, EVERY, EPISODES = "HalfCheetah-v4", 8_000_000, 10, 10
MARKS = {"1M": 1e6, "4M": 4e6, "8M": 8e6}
FIGURES = {"PPO": (4150, 5770, 6430), "TRPO": (3420, 4310, 4790), "V-MPO": (2810, 4700, 5200), "A2C": (10, 2990, 4140)}
FIGURE = "figures of the guide's repository, HalfCheetah-v4"


def running(arm: str, steps: int, seeds: Sequence[int]) -> dict[str, Any]:
    """The first steps of runs of 8M: curves of the mean return of ten episodes without noise after every tenth update,
    and the mean KL."""
    learner, history = make_learner(RUNNERS[arm], CHEETAH, list(seeds), BUDGET, compile="on"), []
    marks: list[int] = []
    curves: list[list[float]] = [[] for _ in seeds]
    while learner.steps < steps:
        history.append(learner.iterate())
        if learner.iteration % EVERY == 0:
            marks.append(learner.steps)
            for index, (seed, curve) in enumerate(zip(seeds, curves, strict=True)):
                scores = returns(learner.agent(index), CHEETAH, EPISODES, seed, slots=EPISODES)
                curve.append(float(scores.mean()))
    learner.close()
    return {"steps": marks, "evaluated": curves, "kl": metric_of(history, "kl").mean(1).tolist()}


def of_running(found: Measurements) -> Summary:
    """Mean return over the evaluations within 250,000 steps of each mark, and PPO's relative to the figures."""
    series = {f"kl, {arm}": one["kl"] for arm, one in found.items()}
    for arm, one in found.items():
        for name, mark in MARKS.items():
            if mark > one["steps"][-1] + 250_000:
                continue
            near = np.abs(np.array(one["steps"]) - mark) <= 250_000
            series[f"{arm} at {name}"] = np.array(one["evaluated"])[:, near].mean(1)
    reached = {n: x for n, x in zip(MARKS, FIGURES["PPO"], strict=True) if f"PPO at {n}" in series}
    return {**series, **{f"level at {n}": series[f"PPO at {n}"] / x - 1 for n, x in reached.items()}}


def reference(mark: str) -> Gate:
    """PPO must reach half of the guide's return."""
    known = FIGURES["PPO"][list(MARKS).index(mark)]
    says = f"PPO reaches half of the guide's {known} at {mark} steps"
    return Gate("reference", lambda series: bool(np.mean(series[f"PPO at {mark}"]) >= 0.5 * known), says)


def ahead(a: str, b: str, role: Role, experiment: str = "HalfCheetah", mark: str = "4M") -> Part:
    """The part that a learner is ahead."""
    ours, theirs = (FIGURES[name][list(MARKS).index(mark)] for name in (a, b))
    published = Published(ours - theirs, f"{FIGURE}, {mark} steps: {ours} and {theirs}", "digitised", n=3)
    contrast, name = Difference(f"{a} at {mark}", f"{b} at {mark}"), f"HalfCheetah, {mark} steps: {a} is ahead of {b}"
    return Part(name, role, experiment, contrast, More(), (reference(mark),), published)


def little(experiment: str, where: str, gates: tuple[Gate, ...] = ()) -> Part:
    """The part that A2C, with one pass over a batch, changes the policy little."""
    name, contrast = (
        f"{where}A2C's steps move the policy less than a tenth as far as PPO's",
        LogRatio("kl, A2C", "kl, PPO"),
    )
    test, says = Less(float(np.log(0.1)), against=0.0), "§6, Fig. 5: orders of magnitude lower"
    return Part(name, "secondary", experiment, contrast, test, gates, says=says)


def level(mark: str, experiment: str = "HalfCheetah") -> Part:
    """The part that PPO has the guide's return."""
    known = FIGURES["PPO"][list(MARKS).index(mark)]
    name = f"{experiment}: PPO has the guide's {known} at {mark} steps up to 25 %"
    return Part(name, "exploratory", experiment, Mean(f"level at {mark}"), Within(0.25))


DIFFERS = (
    "one of four tasks",
    "the policy's deviation does not depend on the state",
    "orthogonal initialisation in place of LeCun's uniform one",
    "minibatches are shuffled samples in place of whole unrolls",
    "V-MPO, TRPO and GAE as derived; the guide's code leaves V-MPO's KL without a gradient, bounds TRPO's per action "
    "dimension and drops a factor λ from GAE",
)

CLAIM = Claim(
    slug="definitive-guide",
    sentence="PPO, TRPO and V-MPO, which hold the new policy near the old one, learn faster than A2C and REINFORCE, and "
    "holding it is what allows them many epochs on a batch.",
    source="Lehmann 2024, §6",
    method=VMPO,
    experiments={
        "one batch": Experiment(
            "mechanism",
            {arm: partial(settled, arm) for arm in SETTLING} | {"first gradients": first_gradients},
            seeds=8,
            minutes=0.1,
            setting=f"128 samples from CartPole-v1, {DESCENT} steps on all of them at step size 0.1; gradients on 128 "
            "samples from Pendulum-v1",
            arms=SETTLING,
            summary=of_one_batch,
        ),
        "learning": Experiment(
            "miniature",
            {f"{arm}, {env}": partial(learning, arm, env) for arm in ARMS for env in ENVS},
            seeds=5,
            minutes=13.5,
            setting="CartPole-v1 and Pendulum-v1, 102k steps, 8 environments of 256 steps, step size going linearly to "
            "0; returns over all of training, 0 for the worst and 1 for the best run of any arm, mean of both",
            arms=ARMS,
            summary=of_learning,
            differs=(
                "two classic-control environments in place of four MuJoCo tasks",
                "102k in place of 8M steps",
                "networks of two tanh layers of 64, and a deviation that does not depend on the state",
                "returns of training in place of evaluations without noise",
            ),
        ),
        "HalfCheetah, the first eighth": Experiment(
            "instance",
            {arm: partial(running, arm, 1_000_000) for arm in ("PPO", "A2C")},
            seeds=3,
            minutes=20,
            setting="HalfCheetah-v4, the first 1M of 8M steps, the guide's batches, network sizes and number of seeds; "
            "mean return of 10 episodes without noise",
            arms={arm: RUNNERS[arm] for arm in ("PPO", "A2C")},
            summary=of_running,
            differs=("two of five learners", *DIFFERS),
        ),
        "HalfCheetah": Experiment(
            "instance",
            {arm: partial(running, arm, BUDGET) for arm in RUNNERS},
            seeds=5,
            minutes=900,
            setting="HalfCheetah-v4, 8M steps, the guide's batches and network sizes; mean return of 10 episodes without "
            "noise around 1M, 4M and 8M steps",
            arms=RUNNERS,
            summary=of_running,
            differs=("no REINFORCE", *DIFFERS),
        ),
    },
    parts=(
        Part(
            "V-MPO's temperature settles where the weights' KL is its bound",
            "primary",
            "one batch",
            LogRatio("KL of the weights", "its bound ε_η"),
            Within(0.05),
            says="§4.5: the dual of the temperature",
        ),
        Part(
            "V-MPO's multiplier holds the KL of the policy at its bound",
            "primary",
            "one batch",
            LogRatio("KL of the policy", "its bound ε_α"),
            Within(float(np.log(1.25))),
            says="§4.5: the dual of the KL constraint",
        ),
        Part(
            "without its KL term V-MPO goes 5 times as far",
            "secondary",
            "one batch",
            LogRatio("KL without bound", "KL of the policy"),
            More(float(np.log(5)), against=0.0),
        ),
        Part(
            "PPO and TRPO start with A2C's gradient",
            "primary",
            "one batch",
            Exact("distance"),
            Less(1e-4, against=1e-4),
        ),
        Part(
            "PPO, TRPO and V-MPO learn faster than A2C and REINFORCE",
            "primary",
            "learning",
            Difference("area, held", "area, free"),
            More(),
            says="§6: A2C slower, REINFORCE worst",
        ),
        Part(
            "PPO, TRPO and V-MPO end above A2C and REINFORCE",
            "secondary",
            "learning",
            Difference("last, held", "last, free"),
            More(),
        ),
        *(
            Part(
                f"{held} learns faster than {free}",
                "secondary",
                "learning",
                Difference(f"area, {held}", f"area, {free}"),
                More(),
            )
            for held in HELD
            for free in FREE
        ),
        *worse_without("PPO without clip"),
        *worse_without("V-MPO without KL"),
        little("learning", ""),
        ahead("PPO", "A2C", "primary", "HalfCheetah, the first eighth", "1M"),
        little("HalfCheetah, the first eighth", "HalfCheetah, the first eighth: ", (reference("1M"),)),
        level("1M", "HalfCheetah, the first eighth"),
        *(ahead(a, "A2C", "primary") for a in ("PPO", "TRPO", "V-MPO")),
        *(ahead("PPO", b, "secondary") for b in ("TRPO", "V-MPO")),
        little("HalfCheetah", "HalfCheetah: ", (reference("4M"),)),
        *(level(mark) for mark in MARKS),
    ),
    amended=(
        "The parts of the miniature were declared on 2026-11-30 over measurements of 2026-11-24, which an earlier judge "
        "had summed up in one word.",
    ),
)
