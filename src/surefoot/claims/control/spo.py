"""SPO's claim: the ratio stays near its band where PPO's escapes, and deep policies are the better for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from surefoot.claims.claim import Claim, Estimate, Measurements, Verdict, difference, final, metric_of, train_rows
from surefoot.claims.one_batch import update_on_one_batch
from surefoot.methods.control.ppo import PPO
from surefoot.methods.control.spo import SPO

EPSILON = 0.2
DEEP = (256, 256, 128, 128, 64, 64)
ARMS: dict[str, Any] = {"ppo": PPO, "spo": SPO}
BATCH = {f"{depth} layers, lr {lr:g}": (depth, lr) for depth in (2, 6) for lr in (3e-4, 1e-3)}
LEARNING = {"CartPole-v1": 40_960, "Pendulum-v1": 61_440}
HARD: dict[str, Any] = {
    "learning_rate": 1e-3,
    "epochs": 20,
    "minibatch_size": 128,
    "hidden": DEEP,
    "critic_hidden": (64, 64),
}


def measure(seeds: Sequence[int]) -> Measurements:
    found: Measurements = {"one batch": {}, "learning": {}}
    for label, (depth, lr) in BATCH.items():
        settings = {"hidden": (64,) * depth, "learning_rate": lr, "critic_hidden": (64, 64)}
        found["one batch"][label] = {
            arm: update_on_one_batch(method(**settings), seeds, EPSILON) for arm, method in ARMS.items()
        }
    for env, steps in LEARNING.items():
        found["learning"][env] = {}
        for arm, method in ARMS.items():
            history = train_rows(method(**HARD), env, steps, seeds, compile="on")
            deviation = metric_of(history, "ratio_deviation").mean(1).tolist()
            found["learning"][env][arm] = {"last": final(history), "ratio_deviation": deviation}
    return found


def judge(measurements: Measurements) -> tuple[Verdict, dict[str, Estimate]]:
    estimates, held = {}, True
    for label, arms in measurements["one batch"].items():
        spo, ppo = arms["spo"]["ratio_deviation"], arms["ppo"]["ratio_deviation"]
        held &= float(np.mean(spo)) < EPSILON and float(np.mean(ppo)) >= 2 * float(np.mean(spo))
        estimates[f"|ρ−1|, spo − ppo, {label}"] = difference(spo, ppo)
    worse, better = False, True
    for env, arms in measurements["learning"].items():
        spo, ppo = np.array(arms["spo"]["last"]), np.array(arms["ppo"]["last"])
        gap = spo - ppo
        error = float(gap.std(ddof=1)) / len(gap) ** 0.5
        worse |= float(gap.mean()) < -error
        better &= float(gap.mean()) >= 0
        estimates[f"return, spo − ppo, {env}"] = difference(spo.tolist(), ppo.tolist())
    if not held or worse:
        return "refuted", estimates
    return ("shown" if better else "not shown"), estimates


CLAIM = Claim(
    slug="spo",
    sentence="SPO keeps ratios inside a band that PPO's leave, and a deep policy at a high step size learns no worse.",
    baseline="PPO with the same ε, advantages, network, step size, batches and seeds",
    metric="one synthetic batch, 10 epochs of 32 minibatches, 2 or 6 tanh layers of 64, step size 3e-4 or 1e-3: mean "
    "|ρ−1| afterwards; six-layer policies (256-256-128-128-64-64) at step size 1e-3 and 20 epochs of 16 minibatches on "
    "CartPole-v1 (41k steps) and Pendulum-v1 (61k): return over the last fifth of training",
    supported_by="in every one-batch arm SPO's mean |ρ−1| is below ε = 0.2 and at most half of PPO's, and SPO's mean "
    "return is at least PPO's in both environments",
    refuted_by="an arm where it is not, or PPO's return higher by over one standard error of the paired difference",
    measure=measure,
    judge=judge,
    seeds=5,
)
