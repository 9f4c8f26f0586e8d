"""RLoop's claim: the successes of all iterations hold more answers than the last policy; a policy that imitates them from
the start keeps more of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
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
    Measurements,
    More,
    NoWorse,
    Part,
    Summary,
)
from surefoot.envs.language import Example
from surefoot.loops.group_rollout.rollout import Rollout
from surefoot.methods.language.rloop import RLoop
from surefoot.methods.language.rloop.archive import Archive
from surefoot.models.language.sequences import join
from surefoot.seeding import torch_stream

F64 = torch.float64


def forgetting_rate(before: Sequence[float], after: Sequence[float]) -> float:
    """The share of the problems solved before that are not solved after; 0 if none was solved."""
    had = np.asarray(before) > 0
    return float((had & ~(np.asarray(after) > 0)).sum() / max(1, had.sum()))


def entropy(p: Tensor) -> float:
    """In nats."""
    return float(-torch.special.xlogy(p, p).sum())


# --- what is imitated ----------------------------------------------------------------------------------------------

ANSWERS, VISITS, RATE = 6, 12, 4.0


def mixtures(seeds: Sequence[int]) -> dict[str, list[float]]:
    """Exact policy gradient on the success of six answers, three of them right: of the mixture of all policies on the
    way, conditioned on success, the entropy less that of the last policy, conditioned on success; how far the gradient of
    imitation at the start is from the policy gradient weighted by π_mix/π_0 over the chance of success; and how far the
    answers drawn from an archive with one success of every answer and iteration are from evenly many of each iteration."""
    found: dict[str, list[float]] = {"entropy": [], "gradient": [], "uneven": []}
    right = torch.tensor([0, 1, 0, 1, 0, 1], dtype=F64)
    for seed in seeds:
        logits = torch.randn(ANSWERS, generator=torch_stream(seed, "answers"), dtype=F64)
        first, policies = logits.softmax(-1), []
        for _ in range(VISITS):
            p = logits.softmax(-1)
            policies.append(p)
            logits = logits + RATE * p * (right - (p * right).sum())
        mixed = torch.stack(policies).mean(0)
        target, last = (p * right / (p * right).sum() for p in (mixed, policies[-1]))
        found["entropy"].append(entropy(target) - entropy(last))
        leaf = first.log().requires_grad_()
        log_prob = leaf.log_softmax(-1)[:, None]
        loss, _ = (
            RLoop()
            .imitation_objective()
            .loss(log_prob, log_prob.detach(), torch.ones(ANSWERS, 1, dtype=F64), weights=target[:, None])
        )
        (imitated,) = torch.autograd.grad(-loss, leaf, retain_graph=True)
        weight = (mixed / first * right / (mixed * right).sum()).detach()
        (wanted,) = torch.autograd.grad((first * weight * log_prob[:, 0]).sum(), leaf)
        found["gradient"].append(float((imitated - wanted).abs().max()))
        found["uneven"].append(uneven(seed))
    return found


def uneven(seed: int) -> float:
    """The share of iterations with the fewest successes among what an archive draws, less what is their due."""
    archive = Archive.empty()
    for step, count in enumerate((1, 9)):
        reward = torch.ones(200, count)
        archive = archive.added(
            [written(torch.arange(200), reward, 100 * step + torch.arange(count).expand(200, -1))], step
        )
    rows = archive.chosen(1.0, 1, torch_stream(seed, "archive"))
    return abs(float((archive.step[rows] == 0).double().mean()) - 0.5)


def written(index: Tensor, reward: Tensor, answers: Tensor) -> Rollout:
    """Completions of one token with these rewards."""
    rows = reward.numel()
    sequences = join([[1]] * rows, [[int(token)] for token in answers.flatten()])
    blank, known = torch.zeros(rows, 2), {"reward": reward}
    examples = [Example("a=") for _ in index]
    return Rollout(examples, index, sequences, ["1"] * rows, blank, reward, known, torch.zeros_like(reward).bool())


def of_mixtures(found: Measurements) -> Summary:
    facts = found["softmax"]
    worst = {f"worst: {name}": max(facts[name]) for name in ("gradient", "uneven")}
    return {**worst, "least: entropy": min(facts["entropy"])}


# --- prompts with several right answers ----------------------------------------------------------------------------

TYPES, FEATURES, CHOICES, RIGHT, TRAIN, TEST, HIDDEN = 24, 16, 40, 4, 64, 256, 64
TAUGHT, NOISE, PHASES, LEARNING_RATE, ATTEMPTS = 200, 0.75, 3, 1e-3, 16
SIZES: dict[str, Any] = {"prompts": 32, "samples": 8, "informative": 0.0}
METHOD = RLoop(**SIZES)
ARMS = dict.fromkeys(("vanilla", "rloop", "from the last", "without rl"), METHOD) | {
    "all prompts": RLoop(**SIZES, hard=1.0)
}


class World:
    """Prompts of eight types, seen with noise; four of 24 answers are right for a type."""

    def __init__(self, seed: int) -> None:
        stream = torch_stream(seed, "world")
        centre = torch.randn(TYPES, FEATURES, generator=stream)
        kind = torch.randint(TYPES, (TRAIN + TEST,), generator=stream)
        self.features = centre[kind] + NOISE * torch.randn(TRAIN + TEST, FEATURES, generator=stream)
        best = torch.rand(TYPES, CHOICES, generator=stream).argsort(1)[:, :RIGHT]
        self.right = torch.zeros(TYPES, CHOICES).scatter(1, best, 1.0)[kind]
        shape = [(FEATURES, HIDDEN), (HIDDEN, CHOICES)]
        self.weights = [torch.randn(s, generator=stream) / s[0] ** 0.5 for s in shape]
        shown = torch.randint(TRAIN, (TAUGHT,), generator=stream)
        answers = torch.multinomial(self.right[shown], 1, generator=stream)
        self.weights = imitated(self.weights, self.features[shown], answers, 4, stream)

    def policy(self, weights: Sequence[Tensor], rows: Any) -> Tensor:
        return log_policy(weights, self.features[rows])

    def measured(self, weights: Sequence[Tensor]) -> dict[str, float]:
        """On held-out prompts: the chance of success, and the expected number of different right answers in 16."""
        p = self.policy(weights, slice(TRAIN, None)).exp() * self.right[TRAIN:]
        distinct = (1 - (1 - p) ** ATTEMPTS).sum(1).mean()
        solved = (1 - (1 - p.sum(1)) ** ATTEMPTS).mean()
        return {"mean": float(p.sum(1).mean()), "pass": float(solved), "distinct": float(distinct)}

    def solved(self, weights: Sequence[Tensor], stream: torch.Generator) -> Tensor:
        """Which held-out prompts have a success in eight draws."""
        p = self.policy(weights, slice(TRAIN, None)).exp()
        return self.right[TRAIN:].gather(1, torch.multinomial(p, 8, True, generator=stream)).amax(1)


def log_policy(weights: Sequence[Tensor], features: Tensor) -> Tensor:
    return (torch.tanh(features @ weights[0]) @ weights[1]).log_softmax(-1)


def imitated(
    weights: Sequence[Tensor], features: Tensor, answers: Tensor, passes: int, stream: torch.Generator, rows: int = 32
) -> list[Tensor]:
    """The weights after some passes over answers, from a fresh optimiser."""
    made = [w.clone().requires_grad_() for w in weights]
    adam, objective = torch.optim.Adam(made, lr=METHOD.exploit_speed * LEARNING_RATE), METHOD.imitation_objective()
    for _ in range(passes):
        for chosen in torch.randperm(len(answers), generator=stream).split(rows):
            log_prob = log_policy(made, features[chosen]).gather(1, answers[chosen])
            loss, _ = objective.loss(log_prob, log_prob.detach(), torch.ones_like(log_prob))
            adam.zero_grad()
            loss.backward()
            adam.step()
    return [w.detach() for w in made]


def explored(
    world: World, weights: Sequence[Tensor], seed: int, steps: range, rate: float
) -> tuple[list[Tensor], Archive, float]:
    """The weights after some iterations of RL, the archive of all their completions, and the reward of the last ones."""
    made, archive, reward = [w.clone().requires_grad_() for w in weights], Archive.empty(), torch.zeros(1)
    adam, objective = torch.optim.Adam(made, lr=rate), METHOD.objective()
    for step in steps:
        stream = torch_stream(seed, "completions", step)
        rows = torch.randperm(TRAIN, generator=stream)[: METHOD.prompts]
        log_policy = world.policy(made, rows)
        drawn = torch.multinomial(log_policy.detach().exp(), METHOD.samples, True, generator=stream)
        reward = world.right[rows].gather(1, drawn)
        archive = archive.added([written(rows, reward, drawn)], step)
        log_prob = log_policy.gather(1, drawn).reshape(-1, 1)
        loss, _ = objective.loss(log_prob, log_prob.detach(), objective.advantage(reward).reshape(-1, 1))
        adam.zero_grad()
        loss.backward()
        adam.step()
    return [w.detach() for w in made], archive, float(reward.mean())


def answers(arm: str, seeds: Sequence[int]) -> dict[str, list[float]]:
    """What an arm can do in the end on held-out prompts, the reward of its last completions in training, and the rate at
    which held-out prompts are forgotten from phase to phase."""
    runs = [play(arm, seed) for seed in seeds]
    return {name: [run[name] for run in runs] for name in runs[0]}


def play(arm: str, seed: int) -> dict[str, float]:
    world, method = World(seed), ARMS[arm]
    weights, known, reward = world.weights, [], 0.0
    for phase in range(PHASES):
        steps = range(phase * METHOD.explore_steps, (phase + 1) * METHOD.explore_steps)
        after, archive, reward = explored(world, weights, seed, steps, 0.0 if arm == "without rl" else LEARNING_RATE)
        stream = torch_stream(seed, "archive", phase)
        if arm == "vanilla":
            weights = after
        else:
            rows = archive.chosen(method.hard, method.most, stream)
            start, shown = after if arm == "from the last" else weights, archive.tokens[rows, 1:2]
            weights = imitated(start, world.features[archive.prompt[rows]], shown, method.exploit_epochs, stream)
        known.append(world.solved(weights, torch_stream(seed, "solved", phase)))
    lost = [forgetting_rate(a.tolist(), b.tolist()) for a, b in zip(known, known[1:])]
    return {**world.measured(weights), "reward": reward, "forgotten": float(np.mean(lost))}


def before(seeds: Sequence[int]) -> dict[str, list[float]]:
    """What the policy can do that training starts from."""
    runs = [world.measured(world.weights) for world in map(World, seeds)]
    return {name: [run[name] for run in runs] for name in runs[0]}


def of_answers(found: Measurements) -> Summary:
    return {f"{name}, {arm}": x for arm, facts in found.items() for name, x in facts.items()}


def rl_learns(summary: Summary) -> bool:
    return float(np.mean(summary["reward, vanilla"])) > 0.8


def rl_forgets(summary: Summary) -> bool:
    return float(np.mean(np.subtract(summary["pass, vanilla"], summary["pass, before"]))) <= 0


GATES = (
    Gate("control", rl_learns, "RL alone ends with a mean reward above 0.8 on the prompts of training"),
    Gate("room", rl_forgets, "RL alone does not raise pass@16 on held-out prompts"),
)

CLAIM = Claim(
    slug="rloop",
    sentence="The successes of all policies on the way hold more different answers than the last policy; a policy that "
    "starts again and imitates them generalises better and forgets less than one that goes on learning from rewards.",
    source="Zeng et al. 2025 (arXiv:2511.04285), abstract and Figure 1",
    method=RLoop,
    experiments={
        "mixtures": Experiment(
            "mechanism",
            {"softmax": mixtures},
            seeds=8,
            minutes=0.01,
            setting="exact policy gradient on six answers, three of them right, from random policies; an archive of one early "
            "and nine late successes for each of 200 prompts",
            arms={"RLoop": RLoop()},
            summary=of_mixtures,
        ),
        "answers": Experiment(
            "miniature",
            {"before": before} | {arm: partial(answers, arm) for arm in ARMS},
            seeds=12,
            minutes=0.9,
            setting="64 prompts of 24 types seen with noise, four of 40 answers right for a type; a network with one hidden "
            "layer of 64 that imitated 200 right answers; three phases of 60 iterations of 32 prompts × 8 completions of one "
            "token, Adam at 0.001 for rewards and 0.01 for imitation; exact chances on 256 held-out prompts",
            arms=ARMS,
            summary=of_answers,
            differs=(
                "answers of one token in place of Qwen-2.5-7B-Math on mathematics",
                "no resampling, one step per batch; one step size for all arms",
                "schedule, threshold and cap are ours, the paper's are not known",
            ),
        ),
    },
    parts=(
        Part(
            "the mixture of all policies holds more right answers than the last one",
            "primary",
            "mixtures",
            Exact("least: entropy"),
            More(0.01),
            says="§3: RL forgets solutions that it found at earlier steps",
        ),
        Part(
            "imitation is importance-weighted policy gradient",
            "primary",
            "mixtures",
            Exact("worst: gradient"),
            Less(1e-9, against=1e-9),
            says="§3: rejection-sampling fine-tuning as importance-weighted maximum likelihood",
        ),
        Part(
            "one early success is drawn as often as nine late ones",
            "secondary",
            "mixtures",
            Exact("worst: uneven"),
            Less(0.15, against=0.15),
        ),
        Part(
            "solves more held-out prompts in 16 attempts than RL alone",
            "primary",
            "answers",
            Difference("pass, rloop", "pass, vanilla"),
            More(),
            gates=GATES,
            says="abstract: more than 15 % better at pass@32",
        ),
        Part(
            "and as many in one",
            "primary",
            "answers",
            Difference("mean, rloop", "mean, vanilla"),
            NoWorse(0.01),
            gates=GATES,
            says="abstract: 9 % better on average",
        ),
        Part(
            "gives more different right answers",
            "primary",
            "answers",
            Difference("distinct, rloop", "distinct, vanilla"),
            More(0.2, against=0.0),
            gates=GATES,
            says="completions of different steps are less alike",
        ),
        Part(
            "forgets less from phase to phase",
            "secondary",
            "answers",
            Difference("forgotten, rloop", "forgotten, vanilla"),
            Less(),
            gates=GATES,
            says="lower forgetting between iterations",
        ),
        Part(
            "solves more in 16 attempts than if imitation starts from the last policy",
            "secondary",
            "answers",
            Difference("pass, rloop", "pass, from the last"),
            More(),
            gates=GATES,
        ),
        Part(
            "and more than imitation of successes without RL",
            "secondary",
            "answers",
            Difference("pass, rloop", "pass, without rl"),
            More(),
            gates=GATES,
        ),
        Part(
            "imitating all prompts and not the hard ones alone solves more in one attempt",
            "secondary",
            "answers",
            Difference("mean, all prompts", "mean, rloop"),
            More(),
            gates=GATES,
        ),
    ),
    not_run="Qwen-2.5-Math-7B under DAPO for an unpublished schedule, evaluated by 32 attempts on four sets: days of eight "
    "GPUs, and no weights are at hand",
)
