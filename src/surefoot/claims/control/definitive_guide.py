"""The guide's claim: learners that hold back the change of the policy are better, and the holding back is why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from surefoot.claims.claim import Claim, Estimate, Measurements, Verdict, area, estimate, final, metric_of, train_rows
from surefoot.methods.control.baselines import A2C, REINFORCE
from surefoot.methods.control.definitive_guide import VMPO
from surefoot.methods.control.ppo import PPO
from surefoot.methods.control.trpo import TRPO

ENVS = {"CartPole-v1": 102_400, "Pendulum-v1": 102_400}
SHARED: dict[str, Any] = {"num_envs": 8, "num_steps": 256, "anneal": True}
MINIBATCHES: dict[str, Any] = {**SHARED, "minibatch_size": 256}


class Unconstrained(VMPO):
    """V-MPO without its trust region."""

    def constraints(self, *args: Any) -> dict[str, Tensor]:
        return {}


HELD: dict[str, Any] = {"PPO": PPO(**MINIBATCHES), "TRPO": TRPO(**SHARED), "V-MPO": VMPO(**MINIBATCHES)}
FREE: dict[str, Any] = {"A2C": A2C(**MINIBATCHES), "REINFORCE": REINFORCE(**SHARED)}
LOOSENED: dict[str, Any] = {
    "PPO without clip": PPO(**MINIBATCHES, penalty="none"),
    "V-MPO without KL": Unconstrained(**MINIBATCHES),
}
FIRM = 5.0


def measure(seeds: Sequence[int]) -> Measurements:
    found: Measurements = {}
    for env, steps in ENVS.items():
        found[env] = {}
        for name, method in (HELD | FREE | LOOSENED).items():
            history = train_rows(method, env, steps, seeds)
            kl = metric_of(history, "kl").mean(1).tolist()
            found[env][name] = {"area": area(history), "last": final(history), "kl": kl}
    return found


def judge(measurements: Measurements) -> tuple[Verdict, dict[str, Estimate]]:
    scores = normalised(measurements, "area")
    mean = {name: float(s.mean()) for name, s in scores.items()}
    held, free = (np.mean([scores[n] for n in group], axis=0).tolist() for group in (HELD, FREE))
    estimates = {"held back": estimate(held), "free": estimate(free)}
    estimates |= {name: estimate(s.tolist()) for name, s in scores.items()}
    beaten = any(sum(mean[f] > mean[h] for h in HELD) >= 2 for f in FREE)
    pairs = (("PPO", "PPO without clip"), ("V-MPO", "V-MPO without KL"))
    harmless = all(mean[loose] >= mean[tight] for tight, loose in pairs)
    if beaten or harmless:
        return "refuted", estimates
    farther = min(
        np.mean(measurements[env][loose]["kl"]) / np.mean(measurements[env][tight]["kl"])
        for env in ENVS
        for tight, loose in pairs
    )
    worse = all(mean[loose] < mean[tight] for tight, loose in pairs)
    apart = estimates["held back"].low > estimates["free"].high
    return ("shown" if apart and worse and farther >= FIRM else "not shown"), estimates


def normalised(measurements: Measurements, key: str) -> dict[str, np.ndarray]:
    """Each learner's scores `[seeds]`: 0 is the worst and 1 the best run in each environment, then the mean."""
    names = [*HELD, *FREE, *LOOSENED]
    scores: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for env in ENVS:
        every = np.concatenate([measurements[env][name][key] for name in names])
        for name in names:
            scores[name].append((np.array(measurements[env][name][key]) - every.min()) / max(np.ptp(every), 1e-9))
    return {name: np.mean(each, axis=0) for name, each in scores.items()}


CLAIM = Claim(
    slug="definitive-guide",
    sentence="Learners that bound the policy's change (PPO, TRPO, V-MPO) beat A2C and REINFORCE, because they do.",
    baseline="A2C and REINFORCE on the same harness; PPO without its clip and V-MPO without its KL terms",
    metric="CartPole-v1 and Pendulum-v1, 102k steps, 8 environments × 256 steps, step size going linearly to 0: area "
    "under the return curve, min–max normalised in each environment; KL averaged over the gradient steps",
    supported_by="the intervals of the two groups' means do not overlap, both loosened learners are worse, and their "
    f"KL is at least {FIRM:g} times as large in both environments",
    refuted_by="A2C or REINFORCE has a larger area than two of the bounded ones, or neither loosened learner is worse",
    measure=measure,
    judge=judge,
)
