"""The claim of self-play on preferences: win rates against itself lead to what nothing beats, even if tastes are cyclic."""

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
    Mean,
    Measurements,
    More,
    Part,
    Share,
    Summary,
    Within,
)
from surefoot.claims.training import final, train_rows
from surefoot.methods.preference.self_play_po import SelfPlayPO, flipped, win_rates
from surefoot.seeding import torch_stream
from surefoot.solvers.matrix_game import equilibrium

F64 = torch.float64
SHIPPED = SelfPlayPO()

# --- games without sampling ------------------------------------------------------------------------------------------

OPTIONS, ROUNDS, ETA = 6, 4000, 0.1


def exploited(payoffs: Tensor, policy: Tensor) -> Tensor:
    """What the best option wins against a policy, `[...]` of payoffs `[..., options, options]`; 0 at a minimax
    winner."""
    return (payoffs @ policy[..., None]).squeeze(-1).amax(-1)


def cyclic(edges: Tensor) -> Tensor:
    """Payoffs of three options of which 1 beats 2 by edges[0], 2 beats 3 by edges[1], and 3 beats 1 by edges[2]."""
    a, b, c = edges.unbind(-1)
    zero = torch.zeros_like(a)
    rows = [torch.stack(row, -1) for row in ((zero, a, -c), (-a, zero, b), (c, -b, zero))]
    return torch.stack(rows, -2)


def winner(edges: Tensor) -> Tensor:
    """The minimax winner of these payoffs."""
    return edges.roll(-1, -1) / edges.sum(-1, keepdim=True)


def games(seeds: Sequence[int]) -> dict[str, list[float]]:
    """Per seed: how far multiplicative weights against themselves are above the bound on what exploits their average,
    what exploits it and the last policy, how far the closed form of a circle is from the linear program's, and how far
    the expected policy gradient on win rates is from that of the game."""
    names = ("above the bound", "average", "last", "closed form", "gradient", "order")
    found: dict[str, list[float]] = {name: [] for name in names}
    for seed in seeds:
        stream = torch_stream(seed, "game")
        drawn = 2 * torch.rand(OPTIONS, OPTIONS, generator=stream, dtype=F64) - 1
        payoffs = drawn.triu(1) - drawn.triu(1).T
        log_policy = torch.full((OPTIONS,), 1 / OPTIONS, dtype=F64).log()
        average = torch.zeros(OPTIONS, dtype=F64)
        for _ in range(ROUNDS):
            average += log_policy.exp() / ROUNDS
            log_policy = (log_policy + ETA * payoffs @ log_policy.exp()).log_softmax(-1)
        found["average"].append(float(exploited(payoffs, average)))
        found["last"].append(float(exploited(payoffs, log_policy.exp())))
        bound = np.log(OPTIONS) / (ETA * ROUNDS) + ETA / 2
        found["above the bound"].append(found["average"][-1] - bound)
        edges = 0.1 + 0.9 * torch.rand(3, generator=stream, dtype=F64)
        exact = torch.tensor(equilibrium(cyclic(edges).numpy()).row)
        found["closed form"].append(float((winner(edges) - exact).abs().max()))
        found["gradient"].append(gradient_gap(payoffs, torch.randn(OPTIONS, generator=stream, dtype=F64)))
        returns = torch.randn(20, 1, generator=stream, dtype=F64)
        rates = [win_rates(SHIPPED.payoff(x[:, None], x[None])) for x in (returns, (3 * returns).exp())]
        found["order"].append(float((rates[0] - rates[1]).abs().max() + rates[0].sum().abs()))
    return found


def gradient_gap(payoffs: Tensor, logits: Tensor) -> float:
    """Over all draws of three options: the mean of W·∇log π against the gradient of the payoff against the policy."""
    logits = logits.requires_grad_()
    log_policy = logits.log_softmax(-1)
    draws = torch.cartesian_prod(*[torch.arange(OPTIONS)] * 3)
    rates = win_rates(payoffs[draws[:, :, None], draws[:, None, :]])
    chance = log_policy.detach().exp()[draws].prod(1)
    (found,) = torch.autograd.grad((chance * (rates * log_policy[draws]).mean(1)).sum(), logits, retain_graph=True)
    (wanted,) = torch.autograd.grad(log_policy.exp() @ payoffs @ log_policy.detach().exp(), logits)
    return float((found - wanted).abs().max())


def of_games(found: Measurements) -> Summary:
    series = found["games"]
    return series | {f"worst: {name}": max(series[name]) for name in ("above the bound", *list(series)[3:])}


# --- comparisons by lot ----------------------------------------------------------------------------------------------

DRAWN, ITERATIONS, RATE, FLOOR = 16, 5000, 0.05, 0.01


def played(payoffs: Tensor, seeds: Sequence[int], noise: float) -> tuple[Tensor, Tensor]:
    """The mean of the policies and the last one, `[seeds, options]`, of a softmax policy that learns from the win rates
    of 16 options an iteration against each other and the 16 before; each pair is compared once, by a rater who errs
    with probability `noise`."""
    count, options = payoffs.shape[:2]
    logits, average = torch.zeros(count, options, dtype=F64), torch.zeros(count, options, dtype=F64)
    stream = torch_stream(seeds[0], "self-play of options", len(seeds))
    before = torch.empty(count, 0, dtype=torch.int64)
    which = torch.arange(count)[:, None, None]
    for _ in range(ITERATIONS):
        policy = logits.softmax(-1)
        average += policy / ITERATIONS
        own = torch.multinomial(policy, DRAWN, True, generator=stream)
        pool = torch.cat([before, own], 1)
        real = payoffs[which, own[:, :, None], pool[:, None, :]]
        wrong = torch.rand(real.shape, generator=stream, dtype=F64) < 0.5 * (1 - (1 - 2 * noise) * real.abs())
        rates = win_rates(flipped(real.sign(), wrong))
        chance = policy.gather(1, own).clamp(min=FLOOR)
        logits = logits.scatter_add(1, own, RATE * rates / (DRAWN * chance))
        before = own
    return average, logits.softmax(-1)


def shares(seeds: Sequence[int]) -> Tensor:
    """The shares `[seeds, 3]` of three populations, each below a half, who prefer 1≻2≻3, 2≻3≻1 and 3≻1≻2."""
    rows = []
    for seed in seeds:
        stream, found = torch_stream(seed, "populations"), torch.ones(3, dtype=F64)
        while found.max() > 0.48:
            found = torch.rand(3, generator=stream, dtype=F64).log()
            found = found / found.sum()
        rows.append(found)
    return torch.stack(rows)


def populations(seeds: Sequence[int]) -> dict[str, list[float]]:
    """Per seed: what exploits the mixture, the last policy and the favourite of a reward model, and how far the mixture
    is from the minimax winner."""
    w = shares(seeds)
    edges = 1 - 2 * w[:, [1, 2, 0]]
    payoffs = cyclic(edges)
    average, last = played(payoffs, seeds, 0.0)
    found = {"mixture": average, "last": last, "reward model": favourite(payoffs)}
    return {
        **{name: exploited(payoffs, policy).tolist() for name, policy in found.items()},
        "distance": (average - winner(edges)).abs().sum(1).tolist(),
    }


def favourite(payoffs: Tensor) -> Tensor:
    """The best option by a Bradley-Terry reward fitted to as many comparisons of every pair as one likes: the one that
    wins most of them."""
    return torch.nn.functional.one_hot(payoffs.mean(-1).argmax(-1), payoffs.shape[-1]).to(F64)


def binned(count: int) -> Tensor:
    """Payoffs of nine options in three bins that beat each other in a circle; within a bin the better one wins."""
    value = torch.arange(9, dtype=F64)
    bins = (value / 3).floor()
    within = (value[:, None] - value).sign()
    circle = torch.where((bins[:, None] - bins) % 3 == 1, 1.0, -1.0).to(F64)
    return torch.where(bins[:, None] == bins, within, circle).expand(count, -1, -1)


def bins(noise: float, seeds: Sequence[int]) -> dict[str, list[float]]:
    payoffs = binned(len(seeds))
    average, last = played(payoffs, seeds, noise)
    found = {"mixture": average, "last": last, "reward model": favourite(payoffs)}
    return {name: exploited(payoffs, policy).tolist() for name, policy in found.items()}


def ranked(seeds: Sequence[int]) -> list[float]:
    """Per seed: the last policy's probability of the best of nine options that are in one order, with noise."""
    value = torch.arange(9, dtype=F64)
    _, last = played((value[:, None] - value).sign().expand(len(seeds), -1, -1), seeds, 0.2)
    return last[:, -1].tolist()


# --- a cart and a pole -----------------------------------------------------------------------------------------------

STEPS = 30_000
PLAYERS = {"all right": SHIPPED, "20 % wrong": SelfPlayPO(label_noise=0.2)}


def balanced(player: str, seeds: Sequence[int]) -> list[float]:
    """The final return of each seed, of which the learner sees only which of two episodes had the higher one."""
    return final(train_rows(PLAYERS[player], "CartPole-v1", STEPS, seeds))


def of_lots(found: Measurements) -> Summary:
    series: dict[str, Any] = {}
    for piece, part in found.items():
        series |= {piece: part} if isinstance(part, list) else {f"{k}, {piece}": v for k, v in part.items()}
    series["best found"] = (np.asarray(found["ranked"]) > 0.9).astype(float)
    return series


def model_exploited(summary: Summary) -> bool:
    """The favourite of a reward model is beaten clearly, as tastes are cyclic."""
    names = ("populations", "bins", "bins, noisy")
    return all(float(np.mean(summary[f"reward model, {name}"])) > 0.1 for name in names)


GATES = (
    Gate("room", model_exploited, "the favourite of a reward model loses to some option by more than 0.1 on average"),
)


def below(name: str, margin: float) -> tuple[Part, Part]:
    """Two parts: the mixture can hardly be exploited, and less than the favourite of a reward model."""
    says = "Figure 5a: recovers the minimax winner almost exactly, a reward model ends in a corner"
    series = f"mixture, {name}"
    return (
        Part(
            f"{name}: what exploits the mixture wins less than {margin:g}",
            "primary",
            "lots",
            Mean(series),
            Less(margin, against=margin),
            gates=GATES,
            says=says,
        ),
        Part(
            f"{name}: less than what exploits a reward model's favourite",
            "primary",
            "lots",
            Difference(series, f"reward model, {name}"),
            Less(),
            gates=GATES,
            says=says,
        ),
    )


CLAIM = Claim(
    slug="self-play-po",
    sentence="Rewarding options by how often they beat one's own recent ones leads, on average over the run, to what no "
    "option is preferred to, even if preferences are cyclic and noisy, where a reward model picks something that is beaten.",
    source="Swamy et al. 2024 (arXiv:2401.04056), abstract and Figure 5a",
    method=SelfPlayPO,
    experiments={
        "games": Experiment(
            "mechanism",
            {"games": games},
            seeds=6,
            minutes=0.03,
            setting="random antisymmetric payoffs over 6 options, 4000 rounds of multiplicative weights with step 0.1, no "
            "sampling; the linear program as oracle for circles of three; all draws of three options; 20 random returns",
            arms={"self-play": SHIPPED},
            summary=of_games,
        ),
        "lots": Experiment(
            "miniature",
            {
                "populations": populations,
                "bins": partial(bins, 0.0),
                "bins, noisy": partial(bins, 0.2),
                "ranked": ranked,
            },
            seeds=30,
            minutes=0.5,
            setting="a softmax policy with importance-weighted steps of 0.05 on the shipped win rates, 5000 iterations of 16 "
            "options, each comparison answered once by lot; three options and three populations of random shares below a "
            "half; nine options in three bins in a circle, without and with 20 % of wrong answers; nine options in one "
            "order, 20 % wrong; the reward model has exact comparisons of all pairs",
            arms={"self-play": SHIPPED},
            summary=of_lots,
            differs=(
                "the update of the policy and its step size are ours: the paper leaves the no-regret learner open",
                "the paper's numbers are a figure without digits",
            ),
        ),
        "cart pole": Experiment(
            "miniature",
            {player: partial(balanced, player) for player in PLAYERS},
            seeds=8,
            minutes=4,
            setting="CartPole-v1, 30,000 steps; comparisons of the returns of episodes, all right or 20 % wrong; nothing tuned "
            "but λ, on other seeds",
            arms=PLAYERS,
            differs=("PPO and one easy environment in place of SAC and MuJoCo", "no reward model beside it"),
        ),
    },
    parts=(
        Part(
            "what exploits the average is below the bound ln A/(ηT) + η/2",
            "primary",
            "games",
            Exact("worst: above the bound"),
            Less(),
            says="§3: self-play with a no-regret learner converges to an approximate minimax winner",
        ),
        Part(
            "the expected policy gradient on win rates is that of the game against oneself",
            "primary",
            "games",
            Exact("worst: gradient"),
            Within(1e-12),
        ),
        Part(
            "win rates depend on the order of returns alone, and their sum is 0",
            "primary",
            "games",
            Exact("worst: order"),
            Within(1e-12),
        ),
        Part(
            "the minimax winner of a circle a, b, c is (b, c, a)/(a + b + c), as by linear programming",
            "secondary",
            "games",
            Exact("worst: closed form"),
            Within(1e-9),
        ),
        Part(
            "the last policy is exploited more than the average: it runs in circles",
            "secondary",
            "games",
            Difference("last", "average"),
            More(),
        ),
        *below("populations", 0.05),
        *below("bins", 0.15),
        *below("bins, noisy", 0.15),
        Part(
            "populations: the mixture is the minimax winner, up to 0.1 in the sum of absolute differences",
            "secondary",
            "lots",
            Mean("distance, populations"),
            Less(0.1, against=0.1),
            gates=GATES,
        ),
        Part(
            "bins: the last policy is exploited more than the mixture",
            "secondary",
            "lots",
            Difference("last, bins", "mixture, bins"),
            More(),
        ),
        Part(
            "where options are in one order the last policy finds the best, in over 80 % of the seeds",
            "secondary",
            "lots",
            Share("best found"),
            More(0.8, against=0.5),
        ),
        Part(
            "cart pole: from comparisons alone episodes come to last 200 steps on average",
            "primary",
            "cart pole",
            Mean("all right"),
            More(200, against=100),
            says="abstract: learns from preferences over trajectories, without a reward model",
        ),
        Part(
            "cart pole: with 20 % of wrong answers, 150 steps",
            "secondary",
            "cart pole",
            Mean("20 % wrong"),
            More(150, against=75),
            says="abstract: robust to stochastic preferences",
        ),
    ),
    not_run="continuous control with SAC against iterated reward models: neither environments, settings nor figures of the "
    "paper are known to us",
)
