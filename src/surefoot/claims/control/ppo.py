"""PPO's claim: clipping makes many epochs on one batch safe, and beats no clipping, KL penalties and a single epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from surefoot.claims.claim import Claim, Estimate, Measurements, Verdict, area, estimate, final, metric_of, train_rows
from surefoot.methods.control.ppo import PPO

ENVS = {"CartPole-v1": 61_440, "Pendulum-v1": 122_880}
ARMS: dict[str, dict[str, Any]] = {
    "none": {"penalty": "none"},
    "clip 0.1": {"clip": 0.1},
    "clip 0.2": {"clip": 0.2},
    "clip 0.3": {"clip": 0.3},
    "adaptive KL 0.01": {"penalty": "adaptive"},
    "fixed KL 0.3": {"penalty": "fixed", "kl_coefficient": 0.3},
    "fixed KL 3": {"penalty": "fixed", "kl_coefficient": 3.0},
    "one epoch": {"penalty": "none", "epochs": 1},
}
FIRM = 10.0  # how many times farther an unclipped update must go


def measure(seeds: Sequence[int]) -> Measurements:
    found: Measurements = {}
    for env, steps in ENVS.items():
        for arm, settings in ARMS.items():
            history = train_rows(
                PPO(**settings), env, steps, seeds, compile="off" if settings.get("epochs") == 1 else "on"
            )
            returns = metric_of(history, "return")
            low = returns[:, :1]
            reached = np.maximum.accumulate(returns, axis=1)
            found.setdefault(env, {})[arm] = {
                "last": final(history),
                "area": area(history),
                "drops": (returns < reached - 0.1 * (reached - low)).mean(1).tolist(),
                "kl": metric_of(history, "kl").mean(1).tolist(),
                "ratio_deviation": metric_of(history, "ratio_deviation").mean(1).tolist(),
            }
    return found


def normalised(measurements: Measurements, key: str) -> dict[str, np.ndarray]:
    """Each arm's scores `[seeds]`: in every environment 0 is the worst and 1 the best run of any arm, then the mean."""
    scores: dict[str, list[np.ndarray]] = {arm: [] for arm in ARMS}
    for env in ENVS:
        every = np.concatenate([measurements[env][arm][key] for arm in ARMS])
        for arm in ARMS:
            scores[arm].append((np.array(measurements[env][arm][key]) - every.min()) / max(np.ptp(every), 1e-9))
    return {arm: np.mean(each, axis=0) for arm, each in scores.items()}


def judge(measurements: Measurements) -> tuple[Verdict, dict[str, Estimate]]:
    last, areas = normalised(measurements, "last"), normalised(measurements, "area")
    error = {arm: s.std(ddof=1) / len(s) ** 0.5 for arm, s in last.items()}
    best = max(last, key=lambda arm: float(last[arm].mean()))
    drops = {arm: float(np.mean([measurements[env][arm]["drops"] for env in ENVS])) for arm in ARMS}
    farther = min(np.mean(measurements[e]["none"]["kl"]) / np.mean(measurements[e]["clip 0.2"]["kl"]) for e in ENVS)
    estimates = {f"return, {arm}": estimate(s.tolist()) for arm, s in last.items()}
    estimates |= {f"area, {arm}": estimate(areas[arm].tolist()) for arm in ("clip 0.2", "one epoch")}
    clip, none = float(last["clip 0.2"].mean()), float(last["none"].mean())
    ahead = float(areas["clip 0.2"].mean()) > float(areas["one epoch"].mean())
    if (none >= clip and drops["none"] <= drops["clip 0.2"]) or not ahead:
        return "refuted", estimates
    near_best = clip >= float(last[best].mean()) - max(error[best], error["clip 0.2"])
    steadier = all(
        np.mean(measurements[e]["none"]["drops"]) > np.mean(measurements[e]["clip 0.2"]["drops"]) for e in ENVS
    )
    return ("shown" if near_best and none < clip and farther >= FIRM and steadier else "not shown"), estimates


CLAIM = Claim(
    slug="ppo",
    sentence="Clipping makes ten epochs on a batch safe: better returns than no clip, KL penalties or one epoch.",
    baseline="The unclipped surrogate; fixed and adaptive KL penalties; one epoch. Same batches, steps, seeds.",
    metric="CartPole-v1 (61k steps) and Pendulum-v1 (123k): return over the last fifth of training and over all of it, "
    "min–max normalised in each environment; KL and |ρ−1| averaged over the gradient steps; share of updates whose "
    "return lies more than a tenth below the best so far",
    supported_by="clip 0.2 within one standard error of the best arm; no clip: lower return, more drops in both "
    f"environments, and a KL at least {FIRM:g} times clip's; clip's area above one epoch's",
    refuted_by="no clip at least as good as clip 0.2 in return and drops, or one epoch at least as good in area",
    measure=measure,
    judge=judge,
)
