"""The claim of CPGD: fewer collapses under aggressive reuse, and nothing lost where training is calm."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from surefoot.claims.claim import Claim, Estimate, Measurements, Verdict, difference, estimate
from surefoot.claims.language.bandit import at_best_rate, last, play
from surefoot.loops.group_rollout.method import GroupRollout
from surefoot.methods.language.baselines import GRPO
from surefoot.methods.language.cpgd import CPGD
from surefoot.methods.language.pspo import PSPO
from surefoot.objectives import PolicyObjective
from surefoot.objectives.stabilizers import dual_clip

STEPS, RATES, CALM, WILD, FASTER = 150, (0.3, 1.0, 3.0), 4, 16, 3.0
COLLAPSED = 0.5  # of the best accuracy that a run has had
DRIFTS = (0.0, 0.001, 0.01, 0.1)
MARGIN = 0.03


@dataclass(frozen=True)
class DualClip(GRPO):
    """GRPO that stops counting a bad arm more at three times its old probability."""

    def objective(self) -> PolicyObjective:
        return dataclasses.replace(super().objective(), stabilizer=dual_clip(self.clip, bound=3.0))


def arms(epochs: int) -> dict[str, GroupRollout]:
    return {
        "clip": GRPO(epochs=epochs),
        "dual clip": DualClip(epochs=epochs),
        "unclipped": PSPO(alpha=0.0, epochs=epochs),
        **{f"cpgd {drift:g}": CPGD(drift=drift, epochs=epochs) for drift in DRIFTS},
    }


def collapsed(curve: Sequence[float]) -> float:
    """1 if the accuracy ever fell below half of the best so far."""
    best = np.maximum.accumulate(curve)
    return float((np.array(curve) < COLLAPSED * best).any())


def measure(seeds: Sequence[int]) -> Measurements:
    found: Measurements = {name: {} for name in ("calm", "rate", "wild", "collapsed", "ratio", "kl")}
    for name, method in arms(CALM).items():
        found["rate"][name], runs = at_best_rate(method, seeds, STEPS, RATES)
        found["calm"][name] = [last(run["accuracy"]) for run in runs]
    for name, method in arms(WILD).items():
        runs = [play(method, seed, STEPS, learning_rate=FASTER * found["rate"][name]) for seed in seeds]
        found["wild"][name] = [last(run["accuracy"]) for run in runs]
        found["collapsed"][name] = [collapsed(run["accuracy"]) for run in runs]
        found["ratio"][name] = [max(run["ratio"]) for run in runs]
        found["kl"][name] = [max(run["kl"]) for run in runs]
    return found


def judge(found: Measurements) -> tuple[Verdict, dict[str, Estimate]]:
    drifting = [f"cpgd {drift:g}" for drift in DRIFTS if drift]
    share = {name: float(np.mean(x)) for name, x in found["collapsed"].items()}
    best = min(drifting, key=lambda name: share[name])
    calm = difference(found["calm"][best], found["calm"]["clip"])
    estimates = {
        **{f"share of collapsed runs, {name}": Estimate(x, x, x) for name, x in share.items()},
        **{f"calm accuracy, {name}": estimate(x) for name, x in found["calm"].items()},
        **{f"wild accuracy, {name}": estimate(x) for name, x in found["wild"].items()},
        f"calm accuracy of {best} less clip's": calm,
    }
    if share[best] >= share["dual clip"] or calm.value < -MARGIN:
        return "refuted", estimates
    fewer = share[best] < min(share["clip"], share["unclipped"])
    return "shown" if fewer and calm.value >= -MARGIN else "not shown", estimates


CLAIM = Claim(
    slug="cpgd",
    sentence="With many steps on each batch and large ones, CPGD with a drift collapses less often than GRPO and the "
    "unclipped surrogate, and where training is calm it loses nothing.",
    baseline="GRPO with clip 0.2, with a dual clip at 3, and without a clip",
    metric="share of runs whose accuracy ever falls below half of its running maximum, at 16 passes and three times the "
    "best rate of each method; accuracy in the last tenth at 4 passes and the best of three rates; contextual bandit, "
    "150 batches",
    supported_by="some drift in {.001, .01, .1} with fewer collapses than the clip, the dual clip and no clip, and a "
    "calm accuracy at most .03 below the clip's",
    refuted_by="no drift with fewer collapses than the dual clip, or a calm accuracy more than .03 below the clip's",
    measure=measure,
    judge=judge,
    seeds=8,
)
