"""Max@k's claim: its gradient is that of the best of k, so the best of many attempts is better, and one is worse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from string import ascii_lowercase, digits
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from surefoot.claims.language.learning import held_out
from surefoot.claims.language.tiny import learner, tuned, warm
from surefoot.claims.parts import (
    Claim,
    Difference,
    Exact,
    Experiment,
    Gate,
    Less,
    LogRatio,
    Measurements,
    More,
    NoWorse,
    Part,
    Summary,
)
from surefoot.envs.language import Example, Task
from surefoot.loops.group_rollout.method import Batch, GroupRollout, Rollout
from surefoot.methods.language.baselines import GRPO
from surefoot.methods.language.max_at_k import MaxAtK, best_of
from surefoot.seeding import torch_stream

F64 = torch.float64


def best_without(reward: Tensor, k: int) -> Tensor:
    """PKPO's baseline (arXiv:2505.15201): R̃ less k/n times max@(k−1) of the other completions, `[prompts, samples]`."""
    samples = reward.shape[1]
    others = torch.stack([reward[:, [j for j in range(samples) if j != i]] for i in range(samples)], 1)
    return best_of(reward, k) - k / samples * best_of(others, k - 1).sum(-1) / (k - 1)


@dataclass(frozen=True)
class LeaveOneOut(MaxAtK):
    """R̃ less the best of the others, without a deviation ("BoN LOO-1"); on the policy that wrote."""

    def advantages(self, rollout: Rollout) -> Tensor:
        return best_without(rollout.reward, self.k)

    def loss(self, objective, batch, log_prob, entropy):  # type: ignore[override]
        return GroupRollout.loss(self, objective, batch, log_prob, entropy)


# --- all samples of a softmax ----------------------------------------------------------------------------------------

VALUES, SAMPLES, KS, SHIFT = torch.tensor([0.0, 0.5, 1.0], dtype=F64), 5, (2, 3, 4), 0.1


def enumeration(seeds: Sequence[int]) -> dict[str, list]:
    """Relative errors of the gradient of max@k, a column a k, by enumeration of all groups of 5 draws from 3 arms: on
    the policy that drew, and on one with logits 0.1 away, without and with the first-order weights. And how far ΣR̃/k
    is from the mean of the best of all sets."""
    names = ("on-policy", "uncorrected", "first order", "sum")
    found: dict[str, list] = {name: [] for name in names}
    arms = torch.tensor(list(product(range(3), repeat=SAMPLES)))
    for seed in seeds:
        stream = torch_stream(seed, "softmax")
        logits, moved = torch.randn(2, 3, generator=stream, dtype=F64)
        drawn, now = logits.softmax(-1), (logits + SHIFT * moved).softmax(-1)
        row: dict[str, list[float]] = {name: [] for name in names}
        for k in KS:
            row["on-policy"].append(error(drawn, drawn, arms, k, None))
            row["uncorrected"].append(error(drawn, now, arms, k, None))
            row["first order"].append(error(drawn, now, arms, k, (now / drawn)[arms] - 1))
            above = torch.combinations(torch.arange(SAMPLES), k)
            best = VALUES[arms][:, above].amax(-1).mean(-1)
            row["sum"].append(float((best_of(VALUES[arms], k).sum(-1) / k - best).abs().max()))
        for name in names:
            found[name].append(row[name])
    return found


def error(drawn: Tensor, policy: Tensor, arms: Tensor, k: int, delta: Tensor | None) -> float:
    """Of the expected estimate from groups of `drawn`, relative to the gradient of max@k of the policy in its logits."""
    logits = policy.log().requires_grad_()
    chance = logits.softmax(-1)
    below = torch.cumsum(chance, 0)  # the arms are sorted by value
    target = (VALUES * torch.diff(below**k, prepend=torch.zeros(1, dtype=F64))).sum()
    (wanted,) = torch.autograd.grad(target, logits)
    score = torch.eye(3, dtype=F64)[arms] - policy
    found = (drawn[arms].prod(1)[:, None, None] * best_of(VALUES[arms], k, delta)[..., None] * score).sum((0, 1))
    return float((found - wanted).norm() / wanted.norm())


def of_enumeration(found: Measurements) -> Summary:
    """The worst of all seeds and k of what is exact; per seed the error of the worst k."""
    facts = {name: np.array(rows) for name, rows in found["softmax"].items()}
    series: dict[str, Any] = {f"worst: {name}": float(facts[name].max()) for name in ("on-policy", "sum")}
    for i, k in enumerate(KS):
        series |= {f"{name}, k={k}": facts[name][:, i] for name in ("uncorrected", "first order")}
    return series


# --- a bandit with a hidden type -----------------------------------------------------------------------------------

TYPES, PAYS, PROMPTS, GROUP, STEPS, RATE = 8, 0.3, 16, 8, 600, 0.3
ONCE: dict[str, Any] = {"prompts": PROMPTS, "samples": GROUP, "epochs": 1, "kl": 0.0}
BANDIT: dict[str, GroupRollout] = {f"k={k}": MaxAtK(k=k, **ONCE) for k in (1, 4)}


def hidden(arm: str, seeds: Sequence[int]) -> dict[str, list[float]]:
    """After training: the expected best of 1 and of 8 draws, and the probability of the safe arm."""
    method, found = BANDIT[arm], dict[str, list[float]](one=[], eight=[], safe=[])
    for seed in seeds:
        logits = torch.zeros(TYPES + 1, dtype=F64, requires_grad=True)
        for step in range(STEPS):
            stream = torch_stream(seed, "types", step)
            log_policy = logits.log_softmax(-1)
            right = torch.randint(TYPES, (PROMPTS, 1), generator=stream)
            arms = torch.multinomial(log_policy.detach().exp(), PROMPTS * GROUP, True, generator=stream)
            arms = arms.view(PROMPTS, GROUP)
            reward = torch.where(arms == TYPES, PAYS, (arms == right).double())
            loss = bandit_loss(method, log_policy[arms].view(-1, 1), reward)
            (slope,) = torch.autograd.grad(loss, logits)
            logits = (logits - RATE * slope).detach().requires_grad_()
        policy = logits.detach().softmax(-1)
        for name, draws in (("one", 1), ("eight", 8)):
            miss = (1 - policy[:TYPES]) ** draws
            none = (1 - policy[:TYPES] - policy[TYPES]) ** draws  # neither the right arm nor the safe one
            found[name].append(float((1 - miss + PAYS * (miss - none)).mean()))
        found["safe"].append(float(policy[TYPES]))
    return found


def bandit_loss(method: GroupRollout, log_prob: Tensor, reward: Tensor) -> Tensor:
    """Of completions of one token by the policy that wrote them."""
    valid, objective = torch.ones(reward.numel(), 1, dtype=torch.bool), method.objective()
    group, blank = torch.arange(len(reward)).repeat_interleave(reward.shape[1]), torch.zeros_like(log_prob)
    weights = objective.aggregation.weights(valid, F64)
    batch = Batch(valid, log_prob.detach(), blank, weights, None, group, {"reward": reward.flatten()})
    return method.loss(objective, batch, log_prob, blank)[0]


def of_hidden(found: Measurements) -> Summary:
    return {f"{name}, {arm}": values for arm, facts in found.items() for name, values in facts.items()}


# --- a language model that cannot know the answer ------------------------------------------------------------------

ITERATIONS, RATES, TUNING, WARMUP, TOKENS, ATTEMPTS = 100, (1e-4, 3e-4, 1e-3, 3e-3), (2000, 2001), 100, 2, 64
SIZES: dict[str, Any] = {"prompts": 16, "samples": 8, "max_tokens": TOKENS}
METHODS: dict[str, GroupRollout] = {
    "grpo": GRPO(minibatches=1, **SIZES),
    "mean": MaxAtK(epochs=1, kl=0.0, **SIZES),
    "leave one out": LeaveOneOut(epochs=1, kl=0.0, **SIZES),
    "off-policy": MaxAtK(kl=0.0, **SIZES),
    "uncorrected": MaxAtK(kl=0.0, delta_max=0.0, **SIZES),
}


@dataclass(frozen=True)
class Guess(Task):
    """`a=` → one of eight digits that the prompt does not tell, for a reward of 1; or 9, which is always worth .3. Before
    training any letter or digit is as likely as another."""

    name: ClassVar[str] = "blind guess"

    def make(self, rng: np.random.Generator) -> Example:
        digit, shown = str(rng.integers(8)), str(rng.choice(list(ascii_lowercase + digits)))
        return Example("abc"[int(rng.integers(3))] + "=", digit, shown)

    def reward(self, example: Example, completion: str) -> float:
        text = completion.strip()
        return 1.0 if text == example.answer else PAYS if text == "9" else 0.0


def guesses(arm: str, seeds: Sequence[int]) -> dict[str, Any]:
    """An arm at that of the step sizes with the highest max@8 in tuning: max@1, 8 and 64 on held-out prompts."""
    rate, scores = tuned(lambda seed, rate: learn(METHODS[arm], seed, rate)["8"], RATES, TUNING)
    runs = [learn(METHODS[arm], seed, rate) for seed in seeds]
    return {"tuning": scores, "rate": rate} | {k: [run[k] for run in runs] for k in runs[0]}


def learn(method: GroupRollout, seed: int, rate: float) -> dict[str, float]:
    made = learner(method, warm(Guess(), seed, WARMUP), Guess(), seed, ITERATIONS, rate)
    for _ in range(ITERATIONS):
        made.iterate()
    return measured(made.model)


def before(seeds: Sequence[int]) -> dict[str, list[float]]:
    runs = [measured(warm(Guess(), seed, WARMUP)) for seed in seeds]
    return {k: [run[k] for run in runs] for k in runs[0]}


def measured(model: Any) -> dict[str, float]:
    rewards = torch.from_numpy(held_out(model, Guess(), 128, ATTEMPTS, TOKENS))
    return {str(k): float(best_of(rewards, k).sum(-1).mean()) / k for k in (1, 8, ATTEMPTS)}


def of_guesses(found: Measurements) -> Summary:
    series = {f"max@{k}, {arm}": facts[k] for arm, facts in found.items() for k in ("1", "8", str(ATTEMPTS))}
    return series | {f"rate, {arm}": found[arm]["rate"] for arm in METHODS}


def inside(summary: Summary) -> bool:
    return all(RATES[0] < summary[f"rate, {arm}"] < RATES[-1] for arm in METHODS)


def grpo_learns(summary: Summary) -> bool:
    gain = np.subtract(summary["max@1, grpo"], summary["max@1, before"])
    return len(gain) > 1 and float(gain.mean()) >= 5 * float(gain.std(ddof=1)) / len(gain) ** 0.5


GATES = (
    Gate("control", grpo_learns, "GRPO's mean reward on held-out prompts rises by at least five standard errors"),
    Gate("grid", inside, "the best step size of every arm lies inside the grid"),
)

CLAIM = Claim(
    slug="max-at-k",
    sentence="Rewards replaced by their part of the best of k have the gradient of max@k, also for several steps on a "
    "batch; trained on them the best of many attempts is better, at the expense of one.",
    source="Bagirov et al. 2025 (arXiv:2510.23393), §3, §4, Tables 2, 3 and 6",
    method=MaxAtK,
    experiments={
        "enumeration": Experiment(
            "mechanism",
            {"softmax": enumeration},
            seeds=8,
            minutes=0.01,
            setting="a random softmax over three arms worth 0, ½ and 1, all 243 groups of five draws, k = 2, 3, 4; the "
            "policy that drew, and one with normal shifts of 0.1 in its logits; no sampling",
            arms={"max@k": MaxAtK()},
            summary=of_enumeration,
        ),
        "hidden": Experiment(
            "miniature",
            {arm: partial(hidden, arm) for arm in BANDIT},
            seeds=30,
            minutes=2.2,
            setting="a bandit of eight equally likely hidden types: the arm of the type pays 1, a ninth always 0.3; 16 "
            "prompts × 8 draws, 600 steps of gradient descent at 0.3; exact expectations",
            arms=BANDIT,
            summary=of_hidden,
            differs=(
                "a bandit in place of Qwen2.5-Coder-7B on CodeContests",
                "one step per batch, no KL, one step size",
            ),
        ),
        "guesses": Experiment(
            "miniature",
            {"before": before} | {arm: partial(guesses, arm) for arm in METHODS},
            seeds=10,
            minutes=22,
            setting="a model of 100,000 weights that guesses one of eight digits that no prompt tells, or takes the "
            "safe answer worth 0.3; k = 4; 100 iterations of 16 prompts × 8 completions, AdamW at each arm's best of "
            "four step sizes; max@k of 64 completions of 128 held-out prompts",
            arms=METHODS,
            summary=of_guesses,
            differs=(
                "guessing in place of CodeContests, a model of 100,000 weights in place of 7 billion",
                "no KL; k = 4, which the paper does not state",
                "of the paper's four baselines the two weakest (the best less the mean, and less the second) are left out",
            ),
        ),
    },
    parts=(
        Part(
            "on the policy that drew the gradient is that of max@k",
            "primary",
            "enumeration",
            Exact("worst: on-policy"),
            Less(1e-9, against=1e-9),
            says="§3: an unbiased estimate of the gradient",
        ),
        *(
            Part(
                f"beside it first-order weights leave less than a fifth of the error, k = {k}",
                "primary",
                "enumeration",
                LogRatio(f"first order, k={k}", f"uncorrected, k={k}"),
                Less(float(np.log(0.2)), against=0.0),
                says="§3.3: a first-order correction for off-policy updates",
            )
            for k in KS
        ),
        Part(
            "the sum of R̃ over k is the mean of the best of all sets",
            "secondary",
            "enumeration",
            Exact("worst: sum"),
            Less(1e-9, against=1e-9),
        ),
        Part(
            "the best of eight is better by at least a tenth with k = 4 than with one",
            "primary",
            "hidden",
            Difference("eight, k=4", "eight, k=1"),
            More(0.1, against=0.0),
        ),
        Part(
            "a single draw is worse with k = 4 than with one",
            "secondary",
            "hidden",
            Difference("one, k=4", "one, k=1"),
            Less(),
            says="Table 6: base models keep the best of many, trained ones win at one",
        ),
        Part(
            "the best of 64 attempts is better than GRPO's",
            "primary",
            "guesses",
            Difference("max@64, off-policy", "max@64, grpo"),
            More(),
            gates=GATES,
            says="Table 1: GRPO loses pass@128, .541 to .516; Table 2: max@128 .710 to .718",
        ),
        Part(
            "three corrected steps are better at 64 attempts than one",
            "primary",
            "guesses",
            Difference("max@64, off-policy", "max@64, mean"),
            More(),
            gates=GATES,
            says="Table 2, max@128 on CodeContests: off-policy .718, BoN mean .693",
        ),
        Part(
            "and no worse than three uncorrected ones",
            "secondary",
            "guesses",
            Difference("max@64, off-policy", "max@64, uncorrected"),
            NoWorse(0.02),
            gates=GATES,
        ),
        Part(
            "standardised it is better than less the best of the others",
            "secondary",
            "guesses",
            Difference("max@8, mean", "max@8, leave one out"),
            More(),
            gates=GATES,
            says="Table 2: the mean as baseline beats LOO-1 on all five sets",
        ),
        Part(
            "one attempt is worse than GRPO's",
            "secondary",
            "guesses",
            Difference("max@1, off-policy", "max@1, grpo"),
            Less(),
            gates=GATES,
        ),
    ),
    not_run="Qwen2.5-Coder-7B-Instruct on CodeContests, one epoch of 2,490 problems with sandboxed tests: neither weights "
    "nor sandbox are at hand, and it is many hours of one H200",
)
