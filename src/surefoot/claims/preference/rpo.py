"""RPO's claim: imitating the chosen answers is pessimism about rewards that the pairs do not cover, and DPO has none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
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
    Part,
    Summary,
    Within,
)
from surefoot.loops.group_rollout.pairs import Pairwise
from surefoot.methods.preference.baselines import DPO
from surefoot.methods.preference.rpo import RPO
from surefoot.objectives.preferences import Compared
from surefoot.seeding import torch_stream

F64 = torch.float64

# --- one prompt, solved both ways round ------------------------------------------------------------------------------

ANSWERS, LABELS, BETA, ETA = 5, 8, 0.5, 0.3


def maximin(seeds: Sequence[int]) -> dict[str, list[float]]:
    """On random problems of one prompt: the value of the minimum over rewards of the best policy, less that of the
    worst reward for this policy; and the gradient of RPO's shipped loss at this policy."""
    found: dict[str, list[float]] = {"gap": [], "gradient": []}
    for seed in seeds:
        stream = torch_stream(seed, "one prompt")
        reference, base = torch.rand(2, ANSWERS, generator=stream, dtype=F64).softmax(1)
        won = torch.randint(ANSWERS, (LABELS,), generator=stream)
        lost = (won + torch.randint(1, ANSWERS, (LABELS,), generator=stream)) % ANSWERS

        def evidence(reward: Tensor, won: Tensor = won, lost: Tensor = lost) -> Tensor:
            return torch.nn.functional.softplus(reward[lost] - reward[won]).mean()

        def best(reward: Tensor, reference: Tensor = reference, base: Tensor = base) -> Tensor:
            gain = BETA * (reference.log() + reward / BETA).logsumexp(0) - base @ reward
            return ETA * gain + evidence(reward)

        reward = minimised(best, torch.zeros(ANSWERS, dtype=F64))
        log_policy = (reference.log() + reward / BETA).log_softmax(0)
        policy, divergence = log_policy.exp(), log_policy.exp() @ (log_policy - reference.log())

        def against(reward: Tensor, policy: Tensor = policy, base: Tensor = base) -> Tensor:
            return ETA * (policy @ reward - base @ reward - BETA * divergence) + evidence(reward)  # noqa: B023

        worst = against(minimised(against, torch.zeros(ANSWERS, dtype=F64)))
        found["gap"].append(float((best(reward) - worst).abs()))
        found["gradient"].append(loss_gradient(log_policy, reference, base, won, lost))
    return found


def loss_gradient(log_policy: Tensor, reference: Tensor, base: Tensor, won: Tensor, lost: Tensor) -> float:
    """The largest entry of the gradient in the logits: DPO's shipped loss of the pairs, and the imitation of the
    baseline with RPO's weight ηβ."""
    logits = log_policy.clone().requires_grad_()
    now, chosen = logits.log_softmax(0), torch.stack([won, lost], 1)
    pairs = Compared(now[chosen], reference.log()[chosen])
    weight = RPO(beta=BETA, eta=ETA).pair_objective().imitation
    loss = DPO(beta=BETA).pair_objective().losses(pairs).mean() - weight * base @ now
    return float(torch.autograd.grad(loss, logits)[0].abs().max())


def minimised(value: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """The minimum of a smooth convex function."""

    def with_slope(x: np.ndarray) -> tuple[float, np.ndarray]:
        leaf = torch.tensor(x, dtype=F64, requires_grad=True)
        found = value(leaf) + 1e-9 * leaf.square().sum()  # a shift of all rewards changes nothing
        return float(found), torch.autograd.grad(found, leaf)[0].numpy()

    options = {"ftol": 1e-15, "gtol": 1e-10, "maxiter": 5000}
    return torch.tensor(minimize(with_slope, start.numpy(), jac=True, method="L-BFGS-B", options=options).x, dtype=F64)


# --- a bandit with a hole in its data --------------------------------------------------------------------------------

ACTIONS, COVERED, FEATURES, PAIRS, SCALE, STEPS = 60, 8, 12, 60, 2.0, 4000
ETAS = (0.005, 0.05, 0.2, 1.0)
ARMS: dict[str, Pairwise] = {"DPO": DPO(), **{f"RPO, η = {eta:g}": RPO(eta=eta) for eta in ETAS}}


def hole(arm: str, seeds: Sequence[int]) -> dict[str, list[float]]:
    """Per seed: the true reward of an arm's policy and of the reference, the probability of actions that no pair covers,
    and by how much the log-probability of chosen actions rose."""
    objective = ARMS[arm].pair_objective()
    found: dict[str, list[float]] = {"reward": [], "reference": [], "outside": [], "chosen": []}
    for seed in seeds:
        features, reward, log_reference = world(seed)
        won, lost = labelled(seed, reward)
        theta, rate = torch.zeros(FEATURES, dtype=F64, requires_grad=True), 5 / ARMS[arm].beta
        for _ in range(STEPS):
            log_policy = (log_reference + features @ theta).log_softmax(0)
            chosen = torch.stack([won, lost], 1)
            loss = objective.losses(Compared(log_policy[chosen], log_reference[chosen])).mean()
            (slope,) = torch.autograd.grad(loss, theta)
            theta = (theta.detach() - rate * slope).requires_grad_()
        log_policy = (log_reference + features @ theta.detach()).log_softmax(0)
        found["reward"].append(float(log_policy.exp() @ reward))
        found["reference"].append(float(log_reference.exp() @ reward))
        found["outside"].append(float(log_policy[COVERED:].exp().sum()))
        found["chosen"].append(float((log_policy - log_reference)[won].mean()))
    return found


def world(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Features, true rewards and the reference: 8 covered actions have 0.9 of its mass and linear rewards; all others
    have larger features, and rewards below the worst covered one."""
    stream = torch_stream(seed, "world")
    features = torch.randn(ACTIONS, FEATURES, generator=stream, dtype=F64) / FEATURES**0.5
    features[COVERED:] *= 2
    truth = torch.randn(FEATURES, generator=stream, dtype=F64) * SCALE
    reward = features @ truth
    below = reward[:COVERED].min() - 1 - torch.rand(ACTIONS - COVERED, generator=stream, dtype=F64)
    reward = torch.cat([reward[:COVERED], torch.minimum(reward[COVERED:], below)])
    mass = torch.cat(
        [torch.full((COVERED,), 0.9 / COVERED), torch.full((ACTIONS - COVERED,), 0.1 / (ACTIONS - COVERED))]
    )
    return features, reward, mass.to(F64).log()


def labelled(seed: int, reward: Tensor) -> tuple[Tensor, Tensor]:
    """Bradley-Terry pairs of distinct covered actions: the chosen and the rejected ones."""
    stream = torch_stream(seed, "pairs")
    first = torch.randint(COVERED, (PAIRS,), generator=stream)
    second = (first + torch.randint(1, COVERED, (PAIRS,), generator=stream)) % COVERED
    wins = torch.rand(PAIRS, generator=stream, dtype=F64) < (reward[first] - reward[second]).sigmoid()
    return torch.where(wins, first, second), torch.where(wins, second, first)


def of_hole(found: Measurements) -> Summary:
    """Every figure of every arm, by name, and whether an arm beats DPO by seed."""
    series: dict[str, Any] = {f"{name}, {arm}": values for arm, part in found.items() for name, values in part.items()}
    return series | {"reference": found["DPO"]["reference"]}


def overreaches(summary: Summary) -> bool:
    return float(np.mean(summary["outside, DPO"])) > 0.5


GATES = (Gate("control", overreaches, "DPO gives more than half of its mass to actions that no pair covers"),)

CLAIM = Claim(
    slug="rpo",
    sentence="DPO plus the scaled likelihood of a baseline's answers is the best policy against the worst reward that "
    "explains the pairs, and does not chase rewards outside the data.",
    source="Liu et al. 2024 (arXiv:2405.16436), abstract, §4 and Figure 1",
    method=RPO,
    experiments={
        "one prompt": Experiment(
            "mechanism",
            {"maximin": maximin},
            seeds=8,
            minutes=0.05,
            setting="random problems of one prompt with 5 answers and 8 pairs, β = 0.5, η = 0.3, solved over rewards and over "
            "policies; no sampling",
            arms={"RPO": RPO(beta=BETA, eta=ETA)},
            summary=lambda found: {f"worst {name}": max(values) for name, values in found["maximin"].items()},
        ),
        "hole": Experiment(
            "miniature",
            {arm: partial(hole, arm) for arm in ARMS},
            seeds=20,
            minutes=4,
            setting="60 actions with 12 features, 60 Bradley-Terry pairs of the 8 actions that have 0.9 of the reference; the "
            "linear rewards of the others are lies; β = 0.1, 4000 gradient steps on the log-linear policy",
            arms=ARMS,
            summary=of_hole,
            differs=(
                "a bandit whose uncovered actions are bad by construction in place of language models and a judge",
                "the paper's η of 0.005 is for summed likelihoods of hundreds of tokens; here an answer is one action",
            ),
        ),
    },
    parts=(
        Part(
            "the best policy against the worst reward has the same value either way round",
            "primary",
            "one prompt",
            Exact("worst gap"),
            Within(1e-5),
            says="§4: the maximin and minimax problems have the same value",
        ),
        Part(
            "and it is where the shipped loss is stationary",
            "primary",
            "one prompt",
            Exact("worst gradient"),
            Within(1e-5),
            says="§4.2: the objective is DPO and an SFT loss with weight ηβ",
        ),
        Part(
            "DPO ends below the reference",
            "primary",
            "hole",
            Difference("reward, DPO", "reference"),
            Less(),
            gates=GATES,
        ),
        Part(
            "RPO with η = 0.2 has more reward than DPO",
            "primary",
            "hole",
            Difference("reward, RPO, η = 0.2", "reward, DPO"),
            More(),
            gates=GATES,
            says="abstract: consistently outperforms DPO",
        ),
        Part(
            "RPO with η = 1 has more reward than DPO",
            "primary",
            "hole",
            Difference("reward, RPO, η = 1", "reward, DPO"),
            More(),
            gates=GATES,
        ),
        Part(
            "DPO lowers the probability of chosen actions",
            "secondary",
            "hole",
            Mean("chosen, DPO"),
            Less(),
            says="Figure 1: the log-probability of chosen answers falls",
        ),
        Part(
            "RPO with η = 1 lowers it less",
            "secondary",
            "hole",
            Difference("chosen, RPO, η = 1", "chosen, DPO"),
            More(),
            says="Figure 1: RPO alleviates it",
        ),
        Part(
            "more imitation, less outside the data: η = 1 against 0.05",
            "secondary",
            "hole",
            Difference("outside, RPO, η = 1", "outside, RPO, η = 0.05"),
            Less(),
        ),
        Part(
            "RPO with η = 0.005 is DPO, up to 0.5",
            "exploratory",
            "hole",
            Difference("reward, RPO, η = 0.005", "reward, DPO"),
            Within(0.5),
        ),
    ),
    not_run="Zephyr-7B on UltraFeedback and 7B Gemma on dpo-mix-7k, with GPT-4 as judge (52.0 % against DPO on AlpacaEval "
    "2): neither weights nor judge are at hand",
)
