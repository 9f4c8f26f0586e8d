"""The claim on gradient subspaces: few directions of high curvature hold much of the gradient, and they turn slowly."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from surefoot.claims.claim import Claim, Estimate, Measurements, Verdict, estimate
from surefoot.loops.common.run import make_learner
from surefoot.methods.control.gradient_subspaces.subspaces import analyse, fresh_batches, overlap
from surefoot.methods.control.ppo import PPO

ENV, DATA, KS, HEADS = "Pendulum-v1", 8192, (10, 25, 50), ("actor", "critic")
CHECKPOINTS, WINDOW = (0, 20, 40, 60), 5
FRACTION = {"actor": 0.2, "critic": 0.9}  # at least, of the estimated gradient, k = 10
ALIGNED, STABLE, CHANCE = 10, 10, 2  # multiples of k/n
CRITIC_ABOVE, RISING = 2 / 3, 0.05
METHOD = PPO(hidden=(32, 32), learning_rate=1e-3, gamma=0.95, lam=0.9)


def measure(seeds: Sequence[int]) -> Measurements:
    """Every list under a name is `[checkpoints][seeds]`; fractions have a number for each k within."""
    learner = make_learner(
        METHOD, ENV, list(seeds), METHOD.num_envs * METHOD.num_steps * max(CHECKPOINTS), compile="on"
    )
    names = ("estimated", "true", "eigenvalues", "overlap")
    found: Measurements = {head: {name: [] for name in names} for head in HEADS}
    returns: list[list[float]] = []
    previous = None
    try:
        for iteration in range(max(CHECKPOINTS) + 1):
            if iteration in CHECKPOINTS:
                reports = analyse(learner, *fresh_batches(learner, ENV, DATA), max(KS))
                for head in HEADS:
                    mine, row = [seed[head] for seed in reports], found[head]
                    row["size"] = len(mine[0].gradient)
                    row["estimated"].append([report.estimated(KS).tolist() for report in mine])
                    row["true"].append([report.true(KS).tolist() for report in mine])
                    row["eigenvalues"].append(
                        [report.eigenvalues[[0, *(k - 1 for k in KS)]].tolist() for report in mine]
                    )
                    if previous is not None:
                        pairs = zip((seed[head].basis[:, : KS[0]] for seed in previous), mine, strict=True)
                        row["overlap"].append([float(overlap(old, new.basis[:, : KS[0]])) for old, new in pairs])
                previous = reports
            if iteration < max(CHECKPOINTS):
                returns.append([row.get("return", float("nan")) for row in learner.iterate()])
    finally:
        learner.collector.close()
    # An iteration in which no episode ends has no return.
    ends = [WINDOW, *CHECKPOINTS[1:]]
    found["return"] = [np.nanmean(returns[end - WINDOW : end], axis=0).tolist() for end in ends]
    return found


def judge(measurements: Measurements) -> tuple[Verdict, dict[str, Estimate]]:
    returns = np.mean(measurements["return"], axis=1)
    rising = np.diff(returns) > RISING * (returns.max() - returns[0])
    estimates, shown, refuted, after = {}, True, False, {}
    for head in HEADS:
        random = KS[0] / measurements[head]["size"]
        after[head] = np.array(measurements[head]["estimated"])[1:, :, 0]
        turning = np.array(measurements[head]["overlap"])[1:]
        fraction, stays = estimate(after[head].mean(0).tolist()), estimate(turning.mean(0).tolist())
        shown &= fraction.value >= FRACTION[head] and stays.value >= STABLE * random
        refuted |= bool((after[head].mean(1)[rising] < ALIGNED * random).any()) or stays.value < CHANCE * random
        estimates[f"{head}: fraction of the minibatch gradient, k = 10"] = fraction
        true = np.array(measurements[head]["true"])[1:, :, 0]
        estimates[f"{head}: fraction of the gradient on all data, k = 10"] = estimate(true.mean(0).tolist())
        estimates[f"{head}: overlap of neighbouring checkpoints, k = 10"] = stays
    above = (after["critic"] > after["actor"]).mean(0)
    estimates["checkpoints at which the critic's fraction is above the actor's"] = estimate(above.tolist())
    shown &= float(above.mean()) >= CRITIC_ABOVE
    return "refuted" if refuted else "shown" if shown else "not shown", estimates


CLAIM = Claim(
    slug="gradient-subspaces",
    sentence="A large share of actor's and critic's gradients lies in the small subspace of highest curvature, "
    "more of the critic's than of the actor's, and the subspace turns slowly.",
    baseline="A random subspace of k of n dimensions: fraction and overlap k/n = 0.0082 (k = 10, n = 1218 of "
    "the actor, 1217 of the critic).",
    metric="PPO on Pendulum-v1, 60 iterations of 2048 steps, networks of 32-32 units, observations and "
    "rewards normalised; top eigenvectors in float64 on 8192 fresh steps at iterations 0, 20, 40 and "
    "60; the mean over minibatches of 64 of another fresh rollout of the fraction of each one's "
    "gradient in the top 10, and the overlap of the top 10 between the checkpoints 20, 40 and 60. "
    "PPO's part of the paper's claim: SAC, which it finds to be aligned even more, is not measured "
    "here, as this library has no SAC yet.",
    supported_by="Averaged over iterations 20, 40 and 60, a fraction (interquartile mean over seeds) of at least "
    "0.9 for the critic and 0.2 for the actor, the critic's above the actor's at 2/3 of the "
    "checkpoints or more, and an overlap of at least 10·k/n for both.",
    refuted_by="A mean fraction below 10·k/n, of actor or critic, at a checkpoint up to which the mean return "
    "has risen by more than 5 % of its whole rise since the checkpoint before; or an overlap below "
    "2·k/n.",
    measure=measure,
    judge=judge,
    seeds=3,
)
