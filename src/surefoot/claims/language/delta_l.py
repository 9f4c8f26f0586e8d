"""The claim of ΔL: of all fixed weights by length, L^−1 gives the gradient with the least variance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from surefoot.claims.claim import Claim, Estimate, Measurements, Verdict, estimate
from surefoot.claims.language.learning import start
from surefoot.methods.language.baselines import DrGRPO
from surefoot.objectives.aggregation import Aggregation, constant_length, delta_l, mean, per_sequence
from surefoot.seeding import numpy_stream

TASK, WARMUP, LONGEST, PROMPTS, SAMPLES = "sorting:count=8,below=30", 300, 40, 40, 8
RESAMPLES, BATCH = 400, 64
PARTS: dict[str, Aggregation] = {
    "grpo": per_sequence(),
    "dapo": mean(),
    "dr-grpo": constant_length(LONGEST),
    "delta-l 1": delta_l(1.0, LONGEST),
    "delta-l .75": delta_l(0.75, LONGEST),
    "delta-l .5": delta_l(0.5, LONGEST),
}


def per_token(part: Aggregation, lengths: Tensor) -> np.ndarray:
    """The weight of one token of each row."""
    valid = torch.arange(int(lengths.max())) < lengths[:, None]
    return part.weights(valid, torch.float64)[:, 0].numpy()


def noise_to_signal(gradients: np.ndarray, lengths: np.ndarray, seed: int) -> dict[str, float]:
    """Trace of the covariance over the squared mean, of every estimator, over batches drawn with replacement."""
    rng = numpy_stream(seed, "batches")
    draws = rng.integers(0, len(lengths), (RESAMPLES, BATCH))
    found = {}
    for name, part in PARTS.items():
        sums = np.stack([per_token(part, torch.from_numpy(lengths[d])) @ gradients[d] for d in draws])
        found[name] = float(sums.var(0).sum() / (sums.mean(0) ** 2).sum())
    return found


def synthetic(seed: int) -> dict[str, float]:
    """The same for gradients with one mean and a variance proportional to a lognormal length."""
    rng = numpy_stream(seed, "synthetic lengths")
    lengths = np.maximum(1, np.round(100 * rng.lognormal(-0.35, 0.83, 4000))).astype(int)
    signal = rng.normal(size=20)
    return noise_to_signal(signal + np.sqrt(lengths)[:, None] * rng.normal(size=(len(lengths), 20)), lengths, seed)


def collected(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Token-summed gradients `[rows, weights]` of the last block's output of a nano model that sorts, and lengths."""
    method = DrGRPO(prompts=PROMPTS, samples=SAMPLES, max_tokens=LONGEST)
    learner = start(method, seed, 1, task=TASK, warmup=WARMUP)
    rollout, _ = learner.collect()
    advantage = method.advantages(rollout).flatten()
    rows = advantage.abs().gt(1e-6).nonzero().squeeze(-1)
    weight = learner.weights["model.layers.2.mlp.down_proj.weight"]
    gradients = []
    for row in rows.tolist():
        sequence = rollout.sequences[torch.tensor([row])]
        total = advantage[row] * learner.model.statistics(sequence).log_prob.sum()
        (found,) = torch.autograd.grad(total, weight)
        gradients.append(found.flatten().numpy()[::16])
    return np.stack(gradients), rollout.sequences.written[rows].numpy()


def slope(gradients: np.ndarray, lengths: np.ndarray) -> float:
    """Of the logarithm of the squared distance from the mean, in the logarithm of the length: 1 where the variance is
    proportional to the length."""
    distance = ((gradients - gradients.mean(0)) ** 2).sum(1)
    return float(np.polyfit(np.log(lengths), np.log(distance), 1)[0])


def measure(seeds: Sequence[int]) -> Measurements:
    found: Measurements = {"synthetic": [synthetic(seed) for seed in seeds], "real": [], "slope": [], "lengths": []}
    for seed in seeds:
        gradients, lengths = collected(seed)
        found["real"].append(noise_to_signal(gradients, lengths, seed))
        found["slope"].append(slope(gradients, lengths))
        found["lengths"].append([int(lengths.min()), float(lengths.mean()), int(lengths.max())])
    return found


def judge(found: Measurements) -> tuple[Verdict, dict[str, Estimate]]:
    estimates = {"slope of log variance in log length": estimate(found["slope"])}
    means: dict[str, dict[str, float]] = {}
    for kind in ("synthetic", "real"):
        for name in PARTS:
            values = [one[name] for one in found[kind]]
            estimates[f"{kind} noise over signal, {name}"] = estimate(values)
            means.setdefault(kind, {})[name] = float(np.mean(values))
    order = ("delta-l 1", "delta-l .75", "delta-l .5", "dr-grpo")
    ordered = all(means["synthetic"][a] <= means["synthetic"][b] for a, b in zip(order, order[1:]))
    lower = means["real"]["delta-l 1"] < means["real"]["dr-grpo"]
    assumed = 0.7 <= float(np.mean(found["slope"])) <= 1.3
    if (assumed and not lower) or not ordered:
        return "refuted", estimates
    return "shown" if lower and assumed else "not shown", estimates


CLAIM = Claim(
    slug="delta-l",
    sentence="The variance of a completion's gradient grows in proportion to its length, so that weights L^−1 give a "
    "gradient of less variance, relative to its mean, than the constant weights of Dr.GRPO.",
    baseline="the aggregations of GRPO, DAPO and Dr.GRPO on the same gradients",
    metric="trace of the covariance over the squared mean of the estimator, batches of 64 drawn from a pool: synthetic "
    "gradients with variance L and lognormal lengths; and gradients of one layer of a nano model that sorts up to 8 "
    "numbers, its completions with an advantage among 40 × 8. Learning curves are not part of this experiment.",
    supported_by="synthetic: in the order α = 1 ≤ .75 ≤ .5 ≤ Dr.GRPO; real: α = 1 below Dr.GRPO, with a slope of log "
    "variance in log length within [.7, 1.3]",
    refuted_by="another order of the synthetic ones; or α = 1 not below Dr.GRPO although the slope is within [.7, 1.3]",
    measure=measure,
    judge=judge,
    seeds=4,
)
