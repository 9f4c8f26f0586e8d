"""Linear MDPs: the kernel is P_h(s'|s,a) = Σ_i φ_i(s,a)·μ_{h,i}(s'), features that mix factors.

The two environments of Tang, Liu and Xu, *Robust Offline Reinforcement Learning with Linearly Structured f-Divergence
Regularization* (2024), arXiv:2411.18612.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from surefoot.ambiguity.arrays import normalised, tensor
from surefoot.envs.tabular.mdp import Successors, TabularMDP
from surefoot.envs.tabular.zoo import entry, share, whole
from surefoot.errors import UsageError

SURVIVING = 0.999  # of the mass that survives each step in the nominal MDP; the rest fails


def linear_mdp(features: Any, factors: Any, reward: Any, **settings: Any) -> TabularMDP:
    """The MDP of features `[S, A, d]` and factors `[d, S']` (or `[H, d, S']`); `settings` are those of `TabularMDP`."""
    features, factors = normalised(tensor(features, "features")), normalised(tensor(factors, "factors"))
    if features.shape[-1] != factors.shape[-2]:
        raise UsageError(
            f"features {list(features.shape)} and factors {list(factors.shape)} do not fit; they must be [S, A, d] and "
            "[d, S'] or [H, d, S'] of one d."
        )
    return TabularMDP(features @ factors.unsqueeze(-3), reward, features=features, **settings)


def shifted_factors(shift: float | None = None) -> Tensor:
    """The factors `[3, 4, 5]` of `simulated_linear`; see there."""
    factors = torch.zeros(3, 4, 5, dtype=torch.float64)
    factors[:, 0, 1] = factors[:, 1, 2] = SURVIVING
    factors[:, 0, 3] = factors[:, 1, 3] = 1 - SURVIVING
    factors[:, 2, 3] = factors[:, 3, 4] = 1
    if shift is not None:
        share("shift", shift)
        factors[0, 0] = torch.tensor([0, 1, 0, 0, 0], dtype=torch.float64)
        factors[0, 3] = torch.tensor([0, 0, 0, shift, 1 - shift], dtype=torch.float64)
    return factors


@entry
def simulated_linear(shift: float | None = None, delta: float = 0.3, xi: float = 0.2) -> TabularMDP:
    """Three steps, five states, 16 actions: heading for the good state x5 pays off, unless that becomes a way to fail.

    Action a ∈ {−1, 1}⁴ leads with probability u = delta + xi·mean(a) to x5, which pays 1 per step, else one state
    further; x4 is failure. In x2 and x3 an action pays u. shift: None for the nominal MDP; q for the test MDP, where
    the first step reaches the failed state instead of x5 with probability q.
    """
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=4)), dtype=torch.float64)
    u = delta + xi * signs.mean(-1)
    if not bool(((u >= 0) & (u <= 1)).all()):
        raise UsageError(f"delta={delta!r}, xi={xi!r}: delta ± xi must stay within [0, 1], as features do.")
    features = torch.zeros(5, 16, 4, dtype=torch.float64)
    for state in range(3):
        features[state, :, state], features[state, :, 3] = 1 - u, u
    features[3, :, 2] = features[4, :, 3] = 1
    reward = torch.stack([torch.zeros_like(features[..., 3]), features[..., 3], features[..., 3]])
    return linear_mdp(
        features, shifted_factors(shift), reward, gamma=1.0, horizon=3, initial=[1, 0, 0, 0, 0],
        name="simulated-linear", states_named=("x1", "x2", "x3", "x4", "x5"),
    )  # fmt: skip


@entry
def american_put(up: float = 0.5, horizon: int = 20, starts: int = 20, dimension: int = 30) -> TabularMDP:
    """Sell at the strike 100 or wait, while the price goes up or down by 2 % per step; a linear method learns the value
    of waiting.

    up: the probability of a rise. The first price is one of `starts` midpoints of [95, 105] (the source draws it from
    the whole interval). Action 0 waits and has `dimension` hat functions of the price as features, action 1 exercises
    and has none: its reward max(0, 100 − price) is known, and the episode is over. States are pairs of a start and a
    number of rises; the last one is the end. Prices below 76.7 have no feature either, as in the source.
    """
    share("up", up)
    for name, value in (("horizon", horizon), ("starts", starts), ("dimension", dimension)):
        whole(name, value, 1)
    return put_from(95 + 10 * (torch.arange(starts, dtype=torch.float64) + 0.5) / starts, up, horizon, dimension)


def put_from(prices: Tensor, up: float = 0.5, horizon: int = 20, dimension: int = 30) -> TabularMDP:
    """The American put whose first price is one of `prices`, each as likely; state i·(horizon + 1) is the i-th."""
    starts = len(prices)
    rises = torch.arange(horizon + 1, dtype=torch.float64).repeat(starts)
    first = prices.double().repeat_interleave(horizon + 1)
    end, place = len(rises), torch.arange(len(rises))
    after = torch.full((end + 1, 2, 2), end)
    after[:end, 0, 0], after[:end, 0, 1] = torch.where(rises < horizon, place + 1, place), place
    odds = torch.tensor([up, 1 - up], dtype=torch.float64).expand(end + 1, 2, 2)
    price = torch.stack([first * 1.02**rises * 0.98 ** (step - rises) for step in range(horizon)])
    width = 100 / dimension
    anchors = 80 + width * torch.arange(dimension, dtype=torch.float64)
    hats = (1 - (price[..., None] - anchors).abs() / width).clamp(min=0)
    features = torch.zeros(horizon, end + 1, 2, dimension, dtype=torch.float64)
    reward = torch.zeros(horizon, end + 1, 2, dtype=torch.float64)
    features[:, :end, 0], reward[:, :end, 1] = hats, (100 - price).clamp(min=0)
    kernel = Successors(after.repeat(horizon, 1, 1, 1), odds.repeat(horizon, 1, 1, 1))
    initial = torch.zeros(end + 1, dtype=torch.float64)
    initial[:end][rises == 0] = 1 / starts
    return TabularMDP(
        kernel, reward, 1.0, initial=initial, horizon=horizon, features=features, name="american-put",
        actions_named=("wait", "exercise"),
    )  # fmt: skip
