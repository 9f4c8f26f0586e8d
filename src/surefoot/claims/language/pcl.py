"""PCL's claim: prompts that are solved half of the time teach most, and a model of the prompt finds them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import comb
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
    Mean,
    Measurements,
    More,
    NoWorse,
    Part,
    Summary,
)
from surefoot.loops.common.optimizer import Adam
from surefoot.methods.language.pcl import PCL, nearest
from surefoot.methods.language.pcl.value import equivalent_rollouts, initial, slope, values
from surefoot.models.language.nano import Nano, fresh
from surefoot.seeding import torch_stream

F64 = torch.float64

# --- what a prompt can teach, and what V knows of it ---------------------------------------------------------------

CHANCES, SAMPLES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99), 16
PROMPTS, STEPS, RATE = ("a=", "b=", "cc=", "d+d="), 150, 1e-2


def groups(seeds: Sequence[int]) -> dict[str, list[float]]:
    """By enumeration of the successes in a group: the largest error of E[Â²]·n/(n − 1) from p(1 − p), and the chance that
    the group has an advantage, at ½ less at any other p. For 20,000 prompts of chance Beta(.7, .7): how far the number of
    completions that predict as well as three others do is from 3. And on four prompts how far V is from their rewards
    after some steps, the largest error."""
    found: dict[str, list[float]] = {name: [] for name in ("variance", "lead of ½", "equivalent", "fit")}
    for seed in seeds:
        shares = {p: advantage_of(p) for p in CHANCES}
        found["variance"].append(max(abs(square - p * (1 - p)) for p, (square, _) in shares.items()))
        found["lead of ½"].append(shares[0.5][1] - max(rate for p, (_, rate) in shares.items() if p != 0.5))
        stream = np.random.default_rng(seed)
        chance = torch.from_numpy(stream.beta(0.7, 0.7, 20_000))
        seen, other = (torch.from_numpy(stream.random((20_000, n))) < chance[:, None] for n in (SAMPLES, 3))
        found["equivalent"].append(abs(equivalent_rollouts(other.double().mean(1), seen.double()) - 3))
        model = fresh(Nano(width=16, layers=1, heads=2, context=16), seed)
        target = torch.rand(len(PROMPTS), generator=torch_stream(seed, "chances"))
        vector = initial(model)
        adam = Adam.start(vector)
        for _ in range(STEPS):
            vector, adam = adam.step(vector, slope(model, vector, PROMPTS, target), RATE)
        found["fit"].append(float((values(model, vector, PROMPTS) - target).abs().max()))
    return found


def advantage_of(p: float) -> tuple[float, float]:
    """The expected squared advantage of a completion, unbiased, and the chance that a group has one."""
    square = rate = 0.0
    for hits in range(SAMPLES + 1):
        chance = comb(SAMPLES, hits) * p**hits * (1 - p) ** (SAMPLES - hits)
        advantage = PCL().objective().advantage((torch.arange(SAMPLES, dtype=F64) < hits).double()[None])
        square += chance * float((advantage**2).mean()) * SAMPLES / (SAMPLES - 1)
        rate += chance * bool(advantage.any())
    return square, rate


def of_groups(found: Measurements) -> Summary:
    facts = found["groups"]
    worst = {f"worst: {name}": max(facts[name]) for name in ("variance", "equivalent", "fit")}
    return {**worst, "least: lead of ½": min(facts["lead of ½"])}


# --- a contextual bandit of prompts --------------------------------------------------------------------------------

COUNT, FEATURES, ANSWERS, HIDDEN, BATCHES = 600, 24, 12, 64, 300
RATES, SMALL, TUNING = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1), 3e-3, range(2000, 2004)
CHOOSING = PCL(prompts=16, samples=8)
METHODS = {
    "uniform": PCL(prompts=16, samples=8, candidates=1),
    "pcl": CHOOSING,
    "oracle": CHOOSING,
    "resampling": CHOOSING,
}


def bandit(arm: str, seeds: Sequence[int]) -> dict[str, Any]:
    """An arm at that of the step sizes with the highest accuracy in tuning, and at a small one: the accuracy of the policy
    over all prompts after 300 batches of completions, the share of learned completions that have an advantage, and how
    many completions predict as well as V in the second half. "oracle" chooses by the true chances of success;
    "resampling" writes up to four batches for one of which all groups have an advantage."""
    scores = {rate: float(np.mean([play(arm, seed, rate)["accuracy"] for seed in TUNING])) for rate in RATES}
    rate = max(RATES, key=scores.__getitem__)
    best, small = ([play(arm, seed, one) for seed in seeds] for one in (rate, SMALL))
    tuning = {f"{rate:g}": score for rate, score in scores.items()}
    return {"tuning": tuning, "rate": rate} | {
        f"{name}{where}": [run[name] for run in runs]
        for where, runs in (("", best), (", small", small))
        for name in runs[0]
    }


def play(arm: str, seed: int, rate: float) -> dict[str, float]:
    method, start = METHODS[arm], torch_stream(seed, "prompts")
    features = torch.randn(COUNT, FEATURES + 1, generator=start)
    features[:, -1] = 2 * torch.rand(COUNT, generator=start) - 1
    right = torch.randint(ANSWERS, (COUNT,), generator=start)
    lean = torch.zeros(COUNT, ANSWERS).scatter(1, right[:, None], (4 * features[:, -1] - 1)[:, None])
    policy, value = layers(start, ANSWERS), layers(start, 1)
    moments = [Adam.start(policy), Adam.start(value)]
    effective, judged, written, solved = [], [], 0, torch.zeros(COUNT)
    while written < BATCHES:
        stream = torch_stream(seed, "bandit", written)
        pool = torch.randperm(COUNT, generator=stream)[: method.candidates * method.prompts]
        with torch.no_grad():
            now = (read(policy, features, ANSWERS) + lean).softmax(-1)
            solved = now.gather(1, right[:, None]).squeeze(1)
            known = solved[pool] if arm == "oracle" else read(value, features[pool], 1).squeeze(1).sigmoid()
        chosen = torch.arange(len(pool)) if arm == "resampling" else nearest(known, method.target, method.prompts)
        drawn = torch.multinomial(now[pool[chosen]], method.samples, True, generator=stream)
        reward = (drawn == right[pool[chosen], None]).float()
        if arm == "resampling":
            differ = reward.var(1) > 0
            enough = differ.view(-1, method.prompts).sum(1).cumsum(0) >= method.prompts
            batches = int(enough.int().argmax()) + 1 if bool(enough.any()) else method.candidates
            kept = (~differ[: batches * method.prompts]).int().argsort(stable=True)[: method.prompts]
            chosen, drawn, reward = chosen[kept], drawn[kept], reward[kept]
            written += batches - 1
        written += 1
        rows, advantage = pool[chosen], method.objective().advantage(reward)
        leaf = policy.clone().requires_grad_()
        log_prob = (read(leaf, features[rows], ANSWERS) + lean[rows]).log_softmax(-1).gather(1, drawn)
        (gradient,) = torch.autograd.grad(-(advantage * log_prob).mean(), leaf)
        policy, moments[0] = moments[0].step(policy, gradient, rate)
        leaf = value.clone().requires_grad_()
        guess = read(leaf, features[rows], 1).squeeze(1).sigmoid()
        (gradient,) = torch.autograd.grad((guess - reward.mean(1)).square().mean(), leaf)
        value, moments[1] = moments[1].step(value, gradient, method.value_speed * rate)
        effective.append(float((advantage != 0).any(1).float().mean()))
        judged.append((known[chosen], reward))
    guesses, rewards = (torch.cat(x) for x in zip(*judged[len(judged) // 2 :], strict=True))
    facts = {"accuracy": float(solved.mean()), "effective": float(np.mean(effective)), "steps": len(effective)}
    return {**facts, "equivalent": equivalent_rollouts(guesses, rewards) if arm in ("uniform", "pcl") else 0.0}


def layers(stream: torch.Generator, out: int) -> Tensor:
    """The weights of a network with one hidden layer, as a vector."""
    first, second = (FEATURES + 2) * HIDDEN, (HIDDEN + 1) * out
    spread = torch.cat([torch.full((first,), (FEATURES + 2) ** -0.5), torch.full((second,), HIDDEN**-0.5)])
    return (2 * torch.rand(first + second, generator=stream) - 1) * spread


def read(vector: Tensor, features: Tensor, out: int) -> Tensor:
    first, second = vector.split([(FEATURES + 2) * HIDDEN, (HIDDEN + 1) * out])
    hidden = (torch.nn.functional.pad(features, (0, 1), value=1.0) @ first.view(FEATURES + 2, HIDDEN)).relu()
    return torch.nn.functional.pad(hidden, (0, 1), value=1.0) @ second.view(HIDDEN + 1, out)


def of_bandit(found: Measurements) -> Summary:
    return {f"{name}, {arm}": x for arm, facts in found.items() for name, x in facts.items() if name != "tuning"}


def inside(summary: Summary) -> bool:
    return all(RATES[0] < summary[f"rate, {arm}"] < RATES[-1] for arm in METHODS)


def has_room(summary: Summary) -> bool:
    return 0.1 < float(np.mean(summary["accuracy, uniform"])) < 0.9


def choice_matters(summary: Summary) -> bool:
    return float(np.mean(np.subtract(summary["accuracy, oracle"], summary["accuracy, uniform"]))) > 0.02


GATES = (
    Gate("grid", inside, "the best step size of every arm lies inside the grid"),
    Gate("room", has_room, "uniform choice ends with an accuracy between 0.1 and 0.9"),
    Gate("control", choice_matters, "choosing by the true chances of success is better by more than 0.02"),
)

CLAIM = Claim(
    slug="pcl",
    sentence="Prompts that are solved half of the time have the largest advantages; a model that learns each prompt's "
    "chance of success from the completions made anyway finds them, so that fewer completions teach as much.",
    source="Gao et al. 2025 (arXiv:2510.01135), abstract, method and Table 1",
    method=PCL,
    experiments={
        "groups": Experiment(
            "mechanism",
            {"groups": groups},
            seeds=2,
            minutes=0.1,
            setting="groups of 16 completions by enumeration of their successes; 20,000 simulated prompts of chance "
            "Beta(.7, .7); V of a fresh model of 10,000 weights after 150 steps on four prompts",
            arms={"PCL": PCL()},
            summary=of_groups,
        ),
        "bandit": Experiment(
            "miniature",
            {arm: partial(bandit, arm) for arm in METHODS},
            seeds=20,
            minutes=1.7,
            setting="600 prompts of 25 features, one of them its difficulty, and 12 answers; policy and V are networks with "
            "one hidden layer of 64; 300 batches of 16 prompts × 8 completions of one token, four candidates for every "
            "prompt; Adam at each arm's best of five step sizes, and at 0.003; V's step size ten times the policy's",
            arms=METHODS,
            summary=of_bandit,
            differs=(
                "a bandit in place of Qwen3 on MATH and DeepScaleR, V a small network of its own",
                "every batch draws its candidates anew from all prompts, as in the paper and not as the method here",
                "accuracy over all prompts, which are trained on too; equal completions in place of equal time",
                "no Pre-filter, SPEED or GRESO among the arms",
            ),
        ),
    },
    parts=(
        Part(
            "the expected squared advantage is p(1 − p)",
            "primary",
            "groups",
            Exact("worst: variance"),
            Less(1e-9, against=1e-9),
        ),
        Part(
            "at p = ½ most groups have an advantage",
            "primary",
            "groups",
            Exact("least: lead of ½"),
            More(),
            says="prompts of intermediate difficulty are the most efficient",
        ),
        Part(
            "what predicts as well as three completions is counted as three",
            "secondary",
            "groups",
            Exact("worst: equivalent"),
            Less(0.2, against=0.2),
        ),
        Part(
            "V learns the chances of success of single prompts",
            "primary",
            "groups",
            Exact("worst: fit"),
            Less(0.05, against=0.05),
        ),
        Part(
            "more completions have an advantage than by uniform choice, step size 0.003",
            "primary",
            "bandit",
            Difference("effective, small, pcl", "effective, small, uniform"),
            More(0.1, against=0.0),
            gates=GATES,
            says="§4: a consistently higher effective ratio",
        ),
        Part(
            "is more accurate than uniform choice after the same completions",
            "primary",
            "bandit",
            Difference("accuracy, pcl", "accuracy, uniform"),
            More(),
            gates=GATES,
            says="Table 1, MATH, Qwen3-4B-Base: 83.0 to 83.4 in half of the time",
        ),
        Part(
            "is more accurate than resampling after the same completions",
            "primary",
            "bandit",
            Difference("accuracy, pcl", "accuracy, resampling"),
            More(),
            gates=GATES,
            says="Table 1, MATH, Qwen3-8B-Base: 87.8 to 88.2; DeepScaleR 51.5 to 52.0 in 0.6 of the time",
        ),
        Part(
            "is more accurate than uniform choice, step size 0.003",
            "secondary",
            "bandit",
            Difference("accuracy, small, pcl", "accuracy, small, uniform"),
            More(),
            gates=GATES,
        ),
        Part(
            "is as accurate as choosing by the true chances",
            "secondary",
            "bandit",
            Difference("accuracy, pcl", "accuracy, oracle"),
            NoWorse(0.02),
            gates=GATES,
        ),
        Part(
            "V predicts as well as more than one completion, step size 0.003",
            "secondary",
            "bandit",
            Mean("equivalent, small, pcl"),
            More(1.0),
            gates=GATES,
            says="V's explained variance is that of about three rollouts",
        ),
    ),
    not_run="Qwen3-8B-Base on MATH, updates of 8,192 completions of up to 4096 tokens for two to three days of many GPUs "
    "(about 100,000 A100-hours in all): no weights are at hand",
)
