"""BNPO's claim: less variance of the gradient than a fixed normaliser, and a steadier gradient norm in training."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surefoot.claims.language.learning import TOKENS, late, learn
from surefoot.claims.parts import (
    Claim,
    Experiment,
    Gate,
    Less,
    LogRatio,
    Mean,
    Measurements,
    NoWorse,
    Part,
    Summary,
    Within,
)
from surefoot.loops.group_rollout.method import Batch, GroupRollout
from surefoot.methods.language.baselines import GRPO, DrGRPO
from surefoot.methods.language.bnpo import BNPO
from surefoot.objectives.advantages import group_mean
from surefoot.objectives.beta import normalizer
from surefoot.seeding import numpy_stream, torch_stream

PROMPTS, SAMPLES, BATCHES = 32, 16, 400
DISTRIBUTIONS = ((1.0, 4.0), (2.0, 2.0), (6.0, 1.0))
SIZES: dict[str, Any] = {"prompts": PROMPTS, "samples": SAMPLES}
ARMS: dict[str, GroupRollout] = {
    "reinforce": DrGRPO(**SIZES),
    "grpo": GRPO(**SIZES),
    "bnpo": BNPO(**SIZES, weight_cap=100.0),
}

# --- success rates from known densities ----------------------------------------------------------------------------


def variances(arm: str, seeds: Sequence[int]) -> dict[str, list[list[float]]]:
    """E[Â²], and E[Â²]/E[Â(R − p)]², which a multiple of Â does not change; a row a seed, a column a density."""
    found: dict[str, list[list[float]]] = {"raw": [], "equal step": []}
    for seed in seeds:
        raw, equal = [], []
        for a, b in DISTRIBUTIONS:
            rng = numpy_stream(seed, f"success rates {a} {b}")
            p = rng.beta(a, b, (BATCHES, PROMPTS, 1))
            reward = torch.from_numpy((rng.random((BATCHES, PROMPTS, SAMPLES)) < p).astype(float))
            advantage = ARMS[arm].objective().advantage(reward)
            raw.append(float((advantage**2).mean()))
            equal.append(raw[-1] / float((advantage * group_mean()(reward)).mean()) ** 2)
        found["raw"].append(raw)
        found["equal step"].append(equal)
    return found


KNOWN, LEAST, MANY = (3.0, 1.5), 0.124444, 65_536  # E[p(1−p)/f²] for p ~ Beta(3, 1.5) is least at f = Beta(2, 1.5)


def fit(seeds: Sequence[int]) -> list[float]:
    """E[p(1−p)/f(p)²] with the fitted f over the least that a Beta density can have, success rates of many prompts drawn
    from Beta(3, 1.5)."""
    found = []
    for seed in seeds:
        p = torch.from_numpy(numpy_stream(seed, "success rates").beta(*KNOWN, MANY))
        weight = normalizer(p, BNPO().weight_cap)
        found.append(float((p * (1 - p) * weight**2).mean()) / LEAST)
    return found


def of_variances(found: Measurements) -> Summary:
    """Per seed the largest log ratio over the three densities."""
    series: dict[str, Any] = {"log variance over the least": np.log(found["fit"])}
    for what in ("raw", "equal step"):
        logs = {arm: np.log(found[arm][what]) for arm in ARMS}
        for a, b in (("bnpo", "reinforce"), ("bnpo", "grpo"), ("reinforce", "grpo"), ("reinforce", "bnpo")):
            series[f"{what}, {a} over {b}"] = (logs[a] - logs[b]).max(1)
        series[f"{what}, bnpo off grpo"] = np.abs(logs["bnpo"] - logs["grpo"]).max(1)
    return series


# --- a bandit ------------------------------------------------------------------------------------------------------

INPUTS, HIDDEN, CHOICES, STEPS, RATES, SKIPPED = 6, 32, 10, 300, (1e-3, 3e-3), 5


def bandit(arm: str, rate: float, seeds: Sequence[int]) -> dict[str, list[float]]:
    """Of training on a contextual bandit whose right arms pay with probabilities of their own: standard deviation of the
    gradient norm over its mean, mean change from step to step over its mean, and in the second half the reward as a
    share of the best."""
    rows = [play(ARMS[arm], rate, seed) for seed in seeds]
    return {key: [row[key] for row in rows] for key in rows[0]}


def play(method: GroupRollout, rate: float, seed: int) -> dict[str, float]:
    """One run: a step of Adam on every batch of all contexts."""
    start = torch_stream(seed, "bandit")
    contexts, right = torch.randn(PROMPTS, INPUTS, generator=start), torch.randint(CHOICES, (PROMPTS,), generator=start)
    pays = 0.2 + 0.8 * torch.rand(PROMPTS, generator=start)
    weights = [
        (torch.randn(INPUTS, HIDDEN, generator=start) / INPUTS**0.5).requires_grad_(),
        (torch.randn(HIDDEN, CHOICES, generator=start) / HIDDEN**0.5).requires_grad_(),
    ]
    adam, objective = torch.optim.Adam(weights, lr=rate), method.objective()
    norms, rewards = [], []
    for step in range(STEPS):
        log_policy = (torch.tanh(contexts @ weights[0]) @ weights[1]).log_softmax(-1)
        draw = torch_stream(seed, "arms", step)
        arms = torch.multinomial(log_policy.detach().exp(), SAMPLES, replacement=True, generator=draw)
        paid = torch.rand(arms.shape, generator=draw) < pays[:, None]
        reward = ((arms == right[:, None]) & paid).float()
        log_prob = log_policy.gather(1, arms).reshape(-1, 1)
        loss, _ = method.loss(
            objective, rolled(method, log_prob.detach(), reward), log_prob, torch.zeros_like(log_prob)
        )
        adam.zero_grad()
        loss.backward()
        norms.append(float(torch.sqrt(sum(((w.grad**2).sum() for w in weights), torch.zeros(())))))
        adam.step()
        chance = log_policy.detach().exp().gather(1, right[:, None]).squeeze(1)
        rewards.append(float((chance * pays).mean() / pays.mean()))
    norm = np.array(norms[SKIPPED:])
    return {
        "unsteadiness": float(norm.std() / norm.mean()),
        "change": float(np.abs(np.diff(norm)).mean() / norm.mean()),
        "reward": float(np.mean(rewards[STEPS // 2 :])),
    }


def rolled(method: GroupRollout, old: Tensor, reward: Tensor) -> Batch:
    """A batch of completions of one token."""
    valid, objective = torch.ones(reward.numel(), 1, dtype=torch.bool), method.objective()
    group = torch.arange(len(reward)).repeat_interleave(reward.shape[1])
    advantage = objective.advantage(reward).reshape(-1, 1)
    return Batch(valid, old, advantage, objective.aggregation.weights(valid), None, group, {})


def of_bandit(found: Measurements) -> Summary:
    return {f"{what}, {key}": values for key, one in found.items() for what, values in one.items()}


def has_room(rate: float, summary: Summary) -> bool:
    """Whether GRPO's reward is neither at the floor nor at the ceiling."""
    return 0.2 < float(np.mean(summary[f"reward, grpo, {rate:g}"])) < 0.9


# --- arithmetic ----------------------------------------------------------------------------------------------------

ITERATIONS, SMALL_RATES = 50, (3e-5, 1e-4)
LANGUAGE: dict[str, GroupRollout] = {
    "grpo": GRPO(**SIZES, max_tokens=TOKENS, minibatches=2),
    "bnpo": BNPO(**SIZES, max_tokens=TOKENS, minibatches=2, weight_cap=100.0),
}


def arithmetic(arm: str, rate: float, seeds: Sequence[int]) -> dict[str, list[Any]]:
    """Gradient norm and reward of every iteration of a nano model that learns sums, and its accuracy in the end."""
    runs = [learn(LANGUAGE[arm], seed, ITERATIONS, learning_rate=rate) for seed in seeds]
    return {
        "gradient norm": [run["grad_norm"] for run in runs],
        "reward": [run["return_mean"] for run in runs],
        "accuracy": [run["accuracy"][0] for run in runs],
    }


def of_arithmetic(found: Measurements) -> Summary:
    series: dict[str, Any] = {}
    for key, one in found.items():
        norms = [np.array(curve[SKIPPED:]) for curve in one["gradient norm"]]
        series[f"unsteadiness, {key}"] = [float(norm.std() / norm.mean()) for norm in norms]
        series[f"reward, {key}"] = [late(curve, 0.5) for curve in one["reward"]]
        series[f"accuracy, {key}"] = one["accuracy"]
    return series


STEADIER = Less(float(np.log(0.8)), against=0.0)  # a fifth steadier; contradicted where it is less steady at all
AS_GOOD = NoWorse(0.05)


def ratio(series: str, rate: float, other: str = "grpo") -> LogRatio:
    return LogRatio(f"{series}, bnpo, {rate:g}", f"{series}, {other}, {rate:g}")


def room(rate: float) -> tuple[Gate, ...]:
    return (Gate("room", partial(has_room, rate), "GRPO's reward is between 20 % and 90 % of the best"),)


CLAIM = Claim(
    slug="bnpo",
    sentence="Dividing the advantage by a Beta density that follows the success rates gives a gradient of less variance "
    "and a steadier norm in training than GRPO's division by the deviation, at no loss of reward.",
    source="Xiao et al. 2025, abstract, and its figure of gradient norms",
    method=BNPO,
    experiments={
        "variance": Experiment(
            "mechanism",
            {arm: partial(variances, arm) for arm in ARMS} | {"fit": fit},
            seeds=8,
            minutes=0.03,
            setting="success rates from Beta(1,4), (2,2) and (6,1), 400 batches of 32 prompts × 16 rewards; the worst of "
            "the three densities for BNPO",
            arms=ARMS,
            summary=of_variances,
        ),
        "bandit": Experiment(
            "miniature",
            {f"{arm}, {rate:g}": partial(bandit, arm, rate) for arm in ARMS for rate in RATES},
            seeds=20,
            minutes=1.5,
            setting="contextual bandit of 32 contexts and 10 arms, 16 draws of each, the right arm pays with a "
            "probability between 0.2 and 1; 300 steps of Adam at 0.001 and 0.003",
            arms=ARMS,
            summary=of_bandit,
            differs=(
                "a bandit in place of Qwen2.5-Math on MATH: completions of one token, the same contexts in every batch",
                "REINFORCE with the group's mean and GRPO as baselines; ReMax and REINFORCE++ are missing",
                "weights 1/f(p) are capped at 100 in place of 1e6; no gradient clipping",
            ),
        ),
        "arithmetic": Experiment(
            "miniature",
            {f"{arm}, {rate:g}": partial(arithmetic, arm, rate) for arm in LANGUAGE for rate in SMALL_RATES},
            seeds=3,
            minutes=31.3,
            setting="a nano model on one-digit sums of up to three terms, 32 prompts × 16 completions, 50 iterations",
            arms=LANGUAGE,
            summary=of_arithmetic,
            differs=(
                "a model of a million weights on sums in place of Qwen2.5-Math on MATH",
                "50 iterations of two steps in place of 1,170 of one",
                "weights 1/f(p) are capped at 100 in place of 1e6",
                "3 seeds",
            ),
        ),
    },
    parts=(
        Part(
            "less variance than REINFORCE for all success rates",
            "primary",
            "variance",
            Mean("raw, bnpo over reinforce"),
            Less(),
            says="abstract: reduces the variance of the gradient estimate",
        ),
        Part(
            "less variance than GRPO for all success rates", "primary", "variance", Mean("raw, bnpo over grpo"), Less()
        ),
        Part(
            "the density fitted from moments has the least variance",
            "primary",
            "variance",
            Mean("log variance over the least"),
            Within(0.02),
        ),
        Part(
            "REINFORCE has less variance than GRPO",
            "secondary",
            "variance",
            Mean("raw, reinforce over grpo"),
            Less(),
        ),
        Part(
            "raw variance depends on scale: at equal step it is GRPO's",
            "secondary",
            "variance",
            Mean("equal step, bnpo off grpo"),
            Within(0.02),
        ),
        Part(
            "at equal step a constant divisor has less",
            "secondary",
            "variance",
            Mean("equal step, reinforce over bnpo"),
            Less(),
        ),
        *(
            part
            for rate in RATES
            for part in (
                Part(
                    f"gradient norm a fifth steadier than GRPO's, step size {rate:g}",
                    "primary",
                    "bandit",
                    ratio("unsteadiness", rate),
                    STEADIER,
                    gates=room(rate),
                    says="a steadier gradient norm than the baselines, in its figure",
                ),
                Part(
                    f"as much reward as GRPO, step size {rate:g}",
                    "primary",
                    "bandit",
                    ratio("reward", rate),
                    AS_GOOD,
                    gates=room(rate),
                ),
                Part(
                    f"changes less from step to step than GRPO's, step size {rate:g}",
                    "secondary",
                    "bandit",
                    ratio("change", rate),
                    Less(),
                    gates=room(rate),
                ),
                Part(
                    f"gradient norm a fifth steadier than REINFORCE's, step size {rate:g}",
                    "secondary",
                    "bandit",
                    ratio("unsteadiness", rate, "reinforce"),
                    STEADIER,
                    gates=room(rate),
                ),
                Part(
                    f"as much reward as REINFORCE, step size {rate:g}",
                    "secondary",
                    "bandit",
                    ratio("reward", rate, "reinforce"),
                    AS_GOOD,
                    gates=room(rate),
                ),
            )
        ),
        *(
            Part(f"sums: {what}, step size {rate:g}", "secondary", "arithmetic", ratio(series, rate), test)
            for rate in SMALL_RATES
            for what, series, test in (
                ("gradient norm a fifth steadier than GRPO's", "unsteadiness", STEADIER),
                ("as much reward as GRPO", "reward", AS_GOOD),
                ("as accurate as GRPO", "accuracy", AS_GOOD),
            )
        ),
    ),
    not_run="Qwen2.5-Math-1.5B on MATH, five epochs with 3072 tokens, needs its weights and about ten hours of one H200 an "
    "arm and seed.",
    amended=(
        "The first form judged 3 seeds of a nano model on sums; its measurements of 2026-11-26 are kept as secondary parts, "
        "declared on 2026-11-30, without its third arm, Dr.GRPO. The bandit was added on 2026-11-30 for enough seeds, its step sizes and number of seeds "
        "chosen on development seeds.",
    ),
)
