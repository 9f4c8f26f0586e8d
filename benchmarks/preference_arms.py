"""Methods on pairs in small worlds: the shipped losses, minimised by log-linear policies, expectations exact.

Each arm has the same number of settings to choose from. What needs a flip rate is told the true one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from preference_worlds import ANSWERS, F64, FEATURES, PEOPLE, PROMPTS, Pairs, World
from surefoot.claims.preference.tilted import aware, divergence, maxmin, plain
from surefoot.methods.preference.baselines import CDPO, CPO, DPO, IPO, ORPO, SimPO, SLiC
from surefoot.methods.preference.drpo import doubly_robust
from surefoot.methods.preference.group_robust_dpo import GroupRobustDPO, grown, mixed, of_groups
from surefoot.methods.preference.kto import KTO
from surefoot.methods.preference.rdpo import RDPO
from surefoot.methods.preference.reward_mixture import explained, grouped
from surefoot.methods.preference.rpo import RPO
from surefoot.methods.preference.self_play_po import win_rates
from surefoot.methods.preference.srpo import SRPO
from surefoot.objectives.ensembles import aligned, disagreement, relative
from surefoot.objectives.preferences import Compared, ScoreObjective
from surefoot.seeding import torch_stream

RIDGE, PRIOR = 1e-3, 0.5  # of a mean loss; of the summed loss of a reward model
STRENGTHS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0)
ROUNDS, MEMBERS, STARTS, MOST = 300, 8, 4, 10
Fit = Callable[..., Tensor]


@dataclass(frozen=True)
class Arm:
    """A way to a policy `[prompts, answers]`, and the settings that are tried."""

    fit: Fit
    settings: tuple[Mapping[str, Any], ...]
    plain: int | None = None  # the one whose strength of the reference is that of the value, where it means that


# --- minimising ------------------------------------------------------------------------------------------------------


def minimum(loss: Callable[[Tensor], Tensor], size: int, start: Tensor | None = None) -> Tensor:
    """Where a smooth loss is least."""

    def value(x: np.ndarray) -> tuple[float, np.ndarray]:
        leaf = torch.tensor(x, dtype=F64, requires_grad=True)
        found = loss(leaf)
        return float(found.detach()), torch.autograd.grad(found, leaf)[0].numpy()

    begin = np.zeros(size) if start is None else start.numpy()
    found = minimize(value, begin, jac=True, method="L-BFGS-B", bounds=[(-20, 20)] * size, options={"maxiter": 300})
    return torch.tensor(found.x, dtype=F64)


def log_linear(world: World, theta: Tensor) -> Tensor:
    """log π ∝ log π_ref + φ·θ."""
    return (world.reference.log() + world.features @ theta).log_softmax(-1)


def learned(world: World, loss: Callable[[Tensor], Tensor]) -> Tensor:
    """The log-linear policy that minimises a loss of its log-probabilities."""
    theta = minimum(lambda x: loss(log_linear(world, x)) + RIDGE * x.square().sum(), FEATURES)
    return log_linear(world, theta).exp()


def read(table: Tensor, cells: Tensor) -> Tensor:
    """A table `[prompts, answers]` at the chosen and the rejected answers, `[cells, 2]`."""
    prompt, won, lost = cells
    return torch.stack([table[prompt, won], table[prompt, lost]], 1)


def weighed(counts: Tensor) -> tuple[Tensor, Tensor]:
    """The pairs that occur, and how often."""
    cells = counts.nonzero().T
    return cells, counts[tuple(cells)]


# --- losses of pairs -------------------------------------------------------------------------------------------------


def by_pairs(kind: Any, world: World, pairs: Pairs, seed: int, **given: Any) -> Tensor:
    """A method whose loss is a `PairObjective`."""
    objective = kind(**given).pair_objective()
    cells, share = weighed(pairs.counts())
    reference, tokens = read(world.reference.log(), cells), torch.ones(len(share), 2, dtype=F64)
    return learned(world, lambda x: share @ objective.losses(Compared(read(x, cells), reference, tokens)))


def told(kind: Any, world: World, pairs: Pairs, seed: int, **given: Any) -> Tensor:
    """The same, for a method that takes the flip rate."""
    return by_pairs(partial(kind, label_noise=world.flips), world, pairs, seed, **given)


def kto(world: World, pairs: Pairs, seed: int, **given: Any) -> Tensor:
    """Both answers of a pair, one desirable; z₀ is the exact divergence from the reference, found by repetition."""
    objective, (cells, share) = KTO(**given).objective(), weighed(pairs.counts())
    reference, good = read(world.reference.log(), cells), torch.tensor([True, False]).expand(len(share), 2)
    theta = torch.zeros(FEATURES, dtype=F64)
    for _ in range(6):
        base = float(divergence(log_linear(world, theta).exp(), world.reference).mean())

        def loss(x: Tensor, base: float = base) -> Tensor:
            ratio = read(log_linear(world, x), cells) - reference
            return share @ objective.losses(ratio, good, base).mean(1) + RIDGE * x.square().sum()

        theta = minimum(loss, FEATURES, theta)
    return log_linear(world, theta).exp()


def srpo(world: World, pairs: Pairs, seed: int, **given: Any) -> Tensor:
    """A policy, and an improver whose logits are bilinear in the features of the answer to be improved and its own."""
    objective, (cells, share) = SRPO(**given).pair_objective(), weighed(pairs.counts())
    prompt, won, lost = cells
    features, log_reference = world.features, world.reference.log()

    def loss(x: Tensor) -> Tensor:
        own, bias, form = x[:FEATURES], x[FEATURES : 2 * FEATURES], x[2 * FEATURES :].view(FEATURES, FEATURES)
        policy = log_linear(world, own) - log_reference
        logits = (log_reference + features @ bias)[:, None] + features @ form @ features.mT
        improver = logits.log_softmax(-1) - log_reference[:, None]  # [prompts, given, answers]
        chosen = policy[prompt, won], improver[prompt, lost, won], improver[prompt, won, won]
        rejected = policy[prompt, lost], improver[prompt, won, lost], improver[prompt, lost, lost]
        values = torch.stack([torch.stack(chosen, -1), torch.stack(rejected, -1)], 1)
        return share @ objective.losses(Compared(values, torch.zeros_like(values))) + RIDGE * x.square().sum()

    return log_linear(world, minimum(loss, 2 * FEATURES + FEATURES**2)[:FEATURES]).exp()


def group_robust(world: World, pairs: Pairs, seed: int, **given: Any) -> Tensor:
    """The method's two steps, with all pairs in each."""
    method = GroupRobustDPO(link="logistic", **given)
    objective, sizes = method.pair_objective(), pairs.group.bincount()
    cells = torch.stack([pairs.prompt, pairs.chosen, pairs.rejected])
    reference, weights = read(world.reference.log(), cells), torch.full((2,), 0.5, dtype=F64).log()
    theta = torch.zeros(FEATURES, dtype=F64, requires_grad=True)
    optimizer = torch.optim.Adam([theta], lr=0.05)
    for _ in range(ROUNDS):
        losses = objective.losses(Compared(read(log_linear(world, theta), cells), reference))
        groups = of_groups(losses, pairs.group, sizes)
        weights = grown(weights, groups.detach(), method.group_rate, method.mix)
        optimizer.zero_grad()
        (mixed(weights, method.mix) @ groups + RIDGE * theta.square().sum()).backward()
        optimizer.step()
    return log_linear(world, theta.detach()).exp()


# --- reward models ---------------------------------------------------------------------------------------------------

SCORES = ScoreObjective(centring=0.0)


def taste(world: World, counts: Tensor, size: int) -> Tensor:
    """The parameters of the linear reward that explains pairs best, from the features that reward models see."""
    cells, share = weighed(counts)
    seen = world.features[..., : world.judged]

    def loss(x: Tensor) -> Tensor:
        return share @ SCORES.losses(Compared(read(seen @ x, cells))) + PRIOR / size * x.square().sum()

    return minimum(loss, world.judged)


def scored(world: World, *tastes: Tensor) -> Tensor:
    """Rewards `[tastes, prompts, answers]`, each less its mean over answers of the reference."""
    found = world.features[..., : world.judged] @ torch.stack(tastes, -1)
    mean = (world.reference[..., None] * found).sum(1).mean(0)
    return aligned(found, mean).movedim(-1, 0)


def reward_model(world: World, pairs: Pairs, seed: int, beta: float) -> Tensor:
    """The best policy for one reward."""
    return plain(world.reference, scored(world, taste(world, pairs.counts(), len(pairs)))[0], beta)


def uncertain(world: World, pairs: Pairs, seed: int, beta: float) -> Tensor:
    """The best policy for an ensemble of rewards fitted to resampled pairs."""
    stream, count = torch_stream(seed, "ensemble"), len(pairs)
    drawn = (torch.randint(count, (count,), generator=stream) for _ in range(MEMBERS))
    rewards = scored(world, *(taste(world, pairs.counts(rows), count) for rows in drawn)).movedim(0, -1)
    spread = disagreement(rewards)
    weight = relative(spread, (world.reference * spread).sum(-1).mean(), 0.01)
    return aware(world.reference, rewards.mean(-1), weight, beta)


def for_groups(world: World, pairs: Pairs, group: Tensor, beta: float) -> Tensor:
    """The best policy for the group that is worst off, by a reward of each."""
    rows = [(group == one).nonzero().squeeze(1) for one in (0, 1)]
    rewards = scored(world, *(taste(world, pairs.counts(some), len(some)) for some in rows))
    return maxmin(world.reference, rewards, beta)[0]


def known_groups(world: World, pairs: Pairs, seed: int, beta: float) -> Tensor:
    """MaxMin-RLHF with a reward of each group, which the pairs name."""
    return for_groups(world, pairs, pairs.group, beta)


def found_groups(world: World, pairs: Pairs, seed: int, beta: float) -> Tensor:
    """The same, with groups of people found by EM, the best of several starts."""
    stream, best, kept = torch_stream(seed, "groups"), -np.inf, pairs.person % 2
    seen = world.features[..., : world.judged]
    gaps = seen[pairs.prompt, pairs.chosen] - seen[pairs.prompt, pairs.rejected]
    for _ in range(STARTS):
        group = torch.randperm(PEOPLE, generator=stream) % 2
        for _ in range(MOST):
            rows = [(group[pairs.person] == one).nonzero().squeeze(1) for one in (0, 1)]
            tastes = torch.stack([taste(world, pairs.counts(some), len(some)) for some in rows], 1)
            likelihood = explained(gaps @ tastes, pairs.person, PEOPLE)
            before, group = group, grouped(likelihood)
            if torch.equal(before, group):
                break
        if (value := float(likelihood.amax(1).sum())) > best:
            best, kept = value, group
    return for_groups(world, pairs, kept[pairs.person], beta)


def drpo(world: World, pairs: Pairs, seed: int, kl: float) -> Tensor:
    """The doubly robust value, its expectation over the policy exact, without clipping; the judge is a reward model of
    the same pairs."""
    reward = scored(world, taste(world, pairs.counts(), len(pairs)))[0]
    judge = (reward[:, :, None] - reward[:, None, :]).sigmoid()
    cells, share = weighed(pairs.counts())
    prompt, won, lost = cells
    judged, reference = judge[prompt, won, lost], read(world.reference.log(), cells)

    def loss(log_policy: Tensor) -> Tensor:
        policy = log_policy.exp()
        direct = read((policy[:, None] @ judge).squeeze(1), cells).mean(1)
        ratio = (read(log_policy, cells) - reference).clamp(max=10.0).exp()
        value = share @ doubly_robust(direct, ratio, torch.ones_like(judged), judged)
        return kl * divergence(policy, world.reference).mean() - value

    return learned(world, loss)


def self_play(world: World, pairs: Pairs, seed: int, rounds: int) -> Tensor:
    """The mean of the policies that learn from their win rates against themselves, by a preference model that need not
    be a reward's: σ(u_a − u_b + φ_aᵀSφ_b) with S antisymmetric."""
    cells, share = weighed(pairs.counts())
    prompt, won, lost = cells
    size = FEATURES + FEATURES**2

    def logits(x: Tensor) -> Tensor:
        utility, form = world.features @ x[:FEATURES], x[FEATURES:].view(FEATURES, FEATURES)
        return utility[:, :, None] - utility[:, None] + world.features @ (form - form.T) @ world.features.mT

    def loss(x: Tensor) -> Tensor:
        return -(share @ logits(x)[prompt, won, lost].sigmoid().log()) + PRIOR / len(pairs) * x.square().sum()

    payoffs = 2 * logits(minimum(loss, size)).sigmoid() - 1
    log_policy, total = world.reference.log(), torch.zeros(PROMPTS, ANSWERS, dtype=F64)
    for _ in range(rounds):
        log_policy = (log_policy + 0.5 * win_rates(payoffs * log_policy.exp()[:, None] * ANSWERS)).log_softmax(-1)
        total += log_policy.exp() / rounds
    return total


# --- the league ------------------------------------------------------------------------------------------------------


def strengths(fit: Fit, plain: int | None = None, name: str = "beta", factor: float = 1.0) -> Arm:
    return Arm(fit, tuple({name: factor * x} for x in STRENGTHS), plain)


def grid(fit: Fit, plain: int | None = None, **choices: tuple[Any, ...]) -> Arm:
    rows = np.stack(np.meshgrid(*choices.values(), indexing="ij"), -1).reshape(-1, len(choices)).tolist()
    return Arm(fit, tuple(dict(zip(choices, row, strict=True)) for row in rows), plain)


AT = STRENGTHS.index(1.0)
ARMS: dict[str, Arm] = {
    "dpo": strengths(partial(by_pairs, DPO), AT),
    "ipo": strengths(partial(by_pairs, IPO), factor=0.25),
    "slic": strengths(partial(by_pairs, SLiC)),
    "simpo": Arm(partial(by_pairs, SimPO), tuple({"beta": 2 * x, "margin": x} for x in STRENGTHS)),
    "cpo": strengths(partial(by_pairs, CPO)),
    "orpo": strengths(partial(by_pairs, ORPO), factor=8.0),
    "kto": strengths(kto),
    "cdpo": strengths(partial(told, CDPO), AT),
    "rdpo": strengths(partial(told, RDPO), AT),
    "rpo": grid(partial(by_pairs, RPO), 2, beta=(0.5, 1.0, 2.0), eta=(0.005, 0.1)),
    "srpo": strengths(srpo, factor=0.125),
    "group-robust-dpo": grid(group_robust, 3, beta=(0.5, 1.0, 2.0), group_rate=(0.03, 0.3)),
    "reward-model": strengths(reward_model, AT),
    "uncertainty-rlhf": strengths(uncertain, AT),
    "maxmin-rlhf": strengths(known_groups, AT),
    "reward-mixture + maxmin-rlhf": strengths(found_groups, AT),
    "drpo": strengths(drpo, name="kl", factor=0.125),
    "self-play-po": Arm(self_play, tuple({"rounds": n} for n in (2, 4, 8, 16, 64, 400))),
}
