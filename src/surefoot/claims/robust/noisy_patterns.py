"""The worlds in which certificates and denoisers of smoothed agents are tried: linear policies, and patterns in noise.

The second shows one of two patterns, ±1 in all of eight numbers. A frozen Q-network looks at the first alone, and prefers
the action of a pattern only within ½ of it, elsewhere a third action, which is wrong. Under noise of deviation 1 most
copies lie elsewhere, so votes choose wrongly; what the eight numbers say together is still clear.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from scipy.special import ndtr, ndtri
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from surefoot.claims.parts import Measurements, Summary
from surefoot.evaluate.smoothing_certificates import median_bounds, quantile_levels, vote_radius
from surefoot.loops.common.optimizer import Adam
from surefoot.loops.networks.nets import Batch, Function, Net, Weights, gradient_step
from surefoot.methods.robust.smoothed_agents.denoised import SmoothedDQN
from surefoot.models.distributions import Categorical
from surefoot.models.functional import initial, over_seeds
from surefoot.models.smoothing import votes
from surefoot.perturbations.ascent import ascend, log_odds
from surefoot.seeding import numpy_stream, torch_stream

# --- certificates of a linear policy and of a threshold ---------------------------------------------------------------

WEIGHTS, SIGMA, BUDGET, DRAWS, TRIES = np.array([0.5, -1.0, 2.0]), 0.2, 0.15, 100, 400


def linear(seeds: Sequence[int]) -> dict[str, Any]:
    """For a linear policy under its strongest attack: how far the median moves, as a share of what the levels allow
    without Δ; how often the median of 100 draws is above its bound, and how often one with a budget of 0 would be. For a
    threshold: how often the radius of the votes is above the distance to it, and its share of that distance."""
    size, found = (
        float(np.linalg.norm(WEIGHTS)),
        {name: [] for name in ("beaten", "beaten, no budget", "above", "share")},
    )
    level = quantile_levels(BUDGET, SIGMA, 10**12)[1]
    moved = BUDGET * size / (SIGMA * size * float(ndtri(level)))
    for seed in seeds:
        rng = numpy_stream(seed, "linear")
        samples = SIGMA * size * rng.standard_normal((1000, TRIES))
        attacked = np.median(BUDGET * size + SIGMA * size * rng.standard_normal((DRAWS, TRIES)), 0)
        for name, budget in (("beaten", BUDGET), ("beaten, no budget", 0.0)):
            found[name].append(float((attacked > median_bounds(samples, budget, SIGMA, DRAWS)[1]).mean()))
        right = (SIGMA + SIGMA * rng.standard_normal((DRAWS, TRIES)) > 0).mean(0)
        radius = vote_radius(np.stack([1 - right, right], -1), SIGMA, DRAWS)
        found["above"].append(float((radius > SIGMA).mean()))
        found["share"].append(float((radius / SIGMA).mean()))
    return {"moved": moved, **found}


def of_linear(found: Measurements) -> Summary:
    one = found["linear"]
    return {
        "moved by the strongest attack / allowed − 1": one["moved"] - 1,
        "beaten": np.array(one["beaten"]),
        "beaten, no budget": np.array(one["beaten, no budget"]),
        "radius above the distance": np.array(one["above"]),
        "radius / distance": np.array(one["share"]),
    }


# --- patterns in noise -----------------------------------------------------------------------------------------------

WIDTH, NOISE, STEPS, BATCH, VOTES, STATES = 8, 1.0, 300, 64, 101, 100
HALF = WIDTH**0.5  # half the distance of the patterns
SPACE, ACTIONS = gym.spaces.Box(-np.inf, np.inf, (WIDTH,)), gym.spaces.Discrete(3)
METHOD = SmoothedDQN(sigma=NOISE, base_updates=0, denoiser_rate=3e-3, reconstruction=1.0 / BATCH)


class Windows(nn.Module):
    """Values 1 − 2·|s_1 ∓ 1| of the actions of the two patterns, and 0 of the third action."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        first = x[..., 0]
        return self.scale * torch.stack([1 - 2 * (first + 1).abs(), 1 - 2 * (first - 1).abs(), 0 * first], -1)


def shown(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Patterns `[count, 8]` and their actions."""
    right = torch.randint(2, (count,), generator=generator)
    return (2.0 * right - 1).unsqueeze(-1).expand(count, WIDTH), right


def patterns(seeds: Sequence[int]) -> dict[str, list[float]]:
    """The share of patterns whose votes are right: without a denoiser, with the one that S-DQN learns, and of that under
    attacks of half the distance of the patterns (l2), along the network without noise and through the noise; and the
    mean certified radius."""
    nets = {"critic": Net(Windows), "denoiser": METHOD.networks(SPACE, ACTIONS)["denoiser"]}
    functions = {name: Function(net) for name, net in nets.items()}
    step = over_seeds(gradient_step(nets, functions, ("denoiser",)), len(seeds))
    first = torch.stack([initial(nets["denoiser"].make, torch_stream(seed, "weights")) for seed in seeds])
    weights, adams = {"critic": torch.ones(len(seeds), 1), "denoiser": first}, {"denoiser": Adam.start(first)}
    streams = [torch_stream(seed, "patterns") for seed in seeds]
    for _ in range(STEPS):
        batch = tree_map(lambda *parts: torch.stack(parts), *[batch_of(g) for g in streams])
        with torch.no_grad():
            weights, adams, _ = step(weights, {}, adams, batch)
    found: dict[str, list[float]] = {}
    for index, seed in enumerate(seeds):
        w = Weights(functions, {name: x[index] for name, x in weights.items()}, {}, {})
        for name, value in judged(w, seed).items():
            found.setdefault(name, []).append(value)
    return found


def batch_of(generator: torch.Generator) -> Batch:
    """Patterns, random actions, what they pay, and noise."""
    s, right = shown(BATCH, generator)
    action = torch.randint(3, (BATCH,), generator=generator)
    return {
        "observation": s,
        "next_observation": s,
        "action": action,
        "reward": (action == right).float(),
        "discount": torch.zeros(BATCH),
        "weight": torch.ones(BATCH),
        "noise": {"observation": torch.randn(BATCH, WIDTH, generator=generator)},
    }


def judged(w: Weights, seed: int) -> dict[str, float]:
    """The shares and radii of `patterns` for one denoiser."""
    torch.manual_seed(seed)
    s, right = shown(STATES, torch_stream(seed, "judged"))
    right = right.clone()

    def plain(x: Tensor) -> Tensor:
        return w("critic", x)

    def denoised(x: Tensor) -> Tensor:
        return w("critic", w("denoiser", x))

    def shares(values: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            return votes(values(x + NOISE * torch.randn(VOTES, *x.shape)), Categorical((3,)))

    def right_under(values: Any, x: Tensor) -> float:
        return float((shares(values, x).argmax(-1) == right).double().mean())

    def moved(noise: float) -> Tensor:
        start = {"": 0.1 * torch.randn(STATES, WIDTH)}
        radius = torch.full((STATES,), HALF)
        return s + ascend(lambda m: log_odds(denoised(s + m[""] + noise * torch.randn(s.shape)), right), start, radius,
                          "l2", 10)[""]  # fmt: skip

    return {
        "plain": right_under(plain, s),
        "denoised": right_under(denoised, s),
        "denoised, PGD": right_under(denoised, moved(0.0)),
        "denoised, S-PGD": right_under(denoised, moved(NOISE)),
        "radius, plain": float(vote_radius(shares(plain, s).double().numpy(), NOISE, VOTES).mean()),
        "radius, denoised": float(vote_radius(shares(denoised, s).double().numpy(), NOISE, VOTES).mean()),
    }


def of_patterns(found: Measurements) -> Summary:
    one = {name: np.array(values) for name, values in found["patterns"].items()}
    elsewhere = 1 - (ndtr(0.5) - ndtr(-0.5)) - (ndtr(-1.5) - ndtr(-2.5))  # of the third action, without a denoiser
    return {**one, "votes for the third action": float(elsewhere)}
