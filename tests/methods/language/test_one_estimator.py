"""The one estimator: the gradient of every composition's loss is −c·m·Â·π/d, element by element.

Each part is written here a second time, plainly and for one row at a time. Padding holds NaN; one group is all alike,
one answer is a single token, one row is empty.
"""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

pytest.importorskip("transformers", reason="language models need surefoot[language]")

from surefoot import catalogue
from surefoot.loops.group_rollout.method import GroupRollout
from surefoot.objectives import PolicyObjective, advantages, aggregation, beta, estep, ratios, regularized, stabilizers
from surefoot.objectives.tokens import token_advantages

LENGTH, LENGTHS = 6, [6, 1, 3, 2, 4, 1, 5, 0]
REWARD = torch.tensor([[1.0, 0.0, 0.25, 1.0], [0.5, 0.5, 0.5, 0.5]], dtype=torch.float64)
VALID = torch.arange(LENGTH) < torch.tensor(LENGTHS)[:, None]
VALUE = torch.rand(VALID.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
METHODS = [
    entry.slug
    for entry in catalogue.methods()
    if issubclass(found := catalogue.method_class(entry.slug), GroupRollout)
    and isinstance(found().objective(), PolicyObjective)
]
VARIANTS = {
    "gpg": [{"standardized": True}, {"corrected": False}],
    "pspo": [{"form": "clip"}, {"form": "log"}],
    "cpgd": [{"advantage": "centred"}, {"advantage": "filtered"}],
    "delta-l": [{"alpha": 0.5}],
    "grpo": [{"clip_high": 0.05}],
    "ppo-critic": [{"gamma": 0.9, "lam": 0.5}],
    "rpg-kl": [{"form": "differentiable", "divergence": name, "beta": 0.3} for name in regularized.DIVERGENCES],
}
CASES = [(slug, changes) for slug in METHODS for changes in ({}, *VARIANTS.get(slug, []))]


def advantage(part, reward: list[list[float]]) -> list[list[float]]:
    """Of a table of groups."""
    match part:
        case advantages.unit():
            return [[1.0 for _ in group] for group in reward]
        case advantages.outcome():
            return reward
        case advantages.group_mean():
            return [[r - sum(group) / len(group) for r in group] for group in reward]
        case advantages.leave_one_out():
            return [[r - (sum(group) - r) / (len(group) - 1) for r in group] for group in reward]
        case advantages.group_standardized(epsilon, unbiased):
            found = []
            for group in advantage(advantages.group_mean(), reward):
                deviation = math.sqrt(sum(x * x for x in group) / (len(group) - unbiased))
                found.append([x / (deviation + epsilon) for x in group])
            return found
        case advantages.among_informative(term, cap):
            informative = sum(max(group) != min(group) for group in reward)
            factor = len(reward) / informative if informative else 1.0
            factor = factor if cap is None else min(factor, cap)
            return [[factor * x for x in group] for group in advantage(term, reward)]
        case beta.beta_normalized():
            return part(torch.tensor(reward, dtype=torch.float64)).tolist()  # has its own exact tests
    raise NotImplementedError(part)


def of_tokens(part) -> tuple[torch.Tensor, list[list[float]]]:
    """What the loss is given for every token, and the numbers it should have been given, row by row."""
    if isinstance(part, advantages.gae):
        given, found = token_advantages(part, REWARD.flatten(), VALUE, VALID), []
        for value, length, reward in zip(VALUE.tolist(), LENGTHS, REWARD.flatten().tolist()):
            value = [*value[:length], 0.0]
            errors = [part.gamma * value[t + 1] - value[t] + reward * (t + 1 == length) for t in range(length)]
            decay = part.gamma * part.lam
            found.append([sum(decay ** (u - t) * errors[u] for u in range(t, length)) for t in range(length)])
        return given, found
    numbers = [a for group in advantage(part, REWARD.tolist()) for a in group]
    return part(REWARD).flatten()[:, None].expand(VALID.shape), [[a] * LENGTH for a in numbers]


def denominator(part, new: list[float], old: list[float]) -> list[float]:
    """d of every token of a row."""
    match part:
        case ratios.old():
            return [math.exp(y) for y in old]
        case ratios.current():
            return [math.exp(x) for x in new]
        case ratios.sequence():
            mean = sum(x - y for x, y in zip(new, old)) / len(new)
            return [math.exp(x) / math.exp(mean) for x in new]
        case ratios.truncated(low, high):
            return [math.exp(x) / min(max(math.exp(x - y), 1 - low), 1 + high) for x, y in zip(new, old)]
    raise NotImplementedError(part)


def slope(part, ratio: float, a: float) -> float:
    """m·Â, the slope of f(ρ, Â) in ρ."""
    match part:
        case stabilizers.none():
            return a
        case stabilizers.smoothed(alpha, inner):
            return (1 - alpha) * slope(inner, (1 - alpha) * ratio + alpha, a)
        case estep.weighted_likelihood():
            return a / ratio
        case regularized.regularized(kind, beta, inner):
            log = math.log(ratio)
            slopes = {
                "forward": -1 / ratio,
                "reverse": log + 1,
                "forward-unnormalised": 1 - 1 / ratio,
                "reverse-unnormalised": log,
                "jeffreys": (log + 1 - 1 / ratio) / 2,
            }
            return slope(inner, ratio, a) - beta * slopes[kind]
        case stabilizers.dual_clip(low, high, bound):
            return 0.0 if a < 0 and ratio > bound else slope(stabilizers.clip(low, high), ratio, a)
        case stabilizers.log_clip(low, high):
            return slope(stabilizers.clip(low, high), ratio, a) / ratio
        case stabilizers.clip(low, high):
            stopped = (a > 0 and ratio > 1 + (low if high is None else high)) or (a < 0 and ratio < 1 - low)
            return 0.0 if stopped else a
    raise NotImplementedError(part)


def weights(part, lengths: list[int]) -> list[float]:
    """c of the tokens of every row."""
    written = [n for n in lengths if n]
    match part:
        case aggregation.mean():
            return [1 / sum(written) for _ in lengths]
        case aggregation.per_sequence():
            return [1 / (n * len(written)) if n else 0.0 for n in lengths]
        case aggregation.constant_length(length):
            return [1 / (length * len(written)) for _ in lengths]
        case aggregation.delta_l(power, length):
            total = sum(n**-power for n in written)
            return [n**-power / total / length if n else 0.0 for n in lengths]
    raise NotImplementedError(part)


@pytest.mark.parametrize(("slug", "changes"), CASES)
def test_the_gradient_is_the_closed_form(slug, changes):
    method = dataclasses.replace(catalogue.method_class(slug)(), kl=0.0, entropy=0.0, **changes)
    objective = method.objective()
    g = torch.Generator().manual_seed(1)
    old = -0.2 - torch.rand(VALID.shape, generator=g, dtype=torch.float64)
    new = old + 0.5 * torch.randn(VALID.shape, generator=g, dtype=torch.float64)
    new, old = (torch.where(VALID, x, torch.nan) for x in (new, old))
    given, numbers = of_tokens(objective.advantage)
    given = torch.where(VALID, given, torch.nan)
    leaf = new.clone().requires_grad_()
    loss, _ = objective.loss(leaf, old, given, valid=VALID)
    (found,) = torch.autograd.grad(loss, leaf)

    wanted = torch.zeros_like(found)
    shares = weights(objective.aggregation, LENGTHS)
    for row, length in enumerate(LENGTHS):
        if not length:
            continue
        x, y = new[row, :length].tolist(), old[row, :length].tolist()
        for t, d in enumerate(denominator(objective.ratio, x, y)):
            ratio = math.exp(x[t]) / d
            wanted[row, t] = -shares[row] * slope(objective.stabilizer, ratio, numbers[row][t]) * ratio
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    assert torch.isfinite(loss) and wanted.any()


def test_every_composition_is_here():
    assert {"grpo", "dr-grpo", "dapo", "gspo", "cispo", "rloo", "rft", "sft"} <= set(METHODS)
    assert {"gpg", "bnpo", "pspo", "cpgd", "delta-l", "hpt", "ppo-critic"} <= set(METHODS)
    assert {"max-at-k", "lens", "psft"} <= set(METHODS)
