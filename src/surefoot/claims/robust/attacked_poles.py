"""Cart-poles side by side, whose policy adds noise to what it sees and whose observations are attacked.

The task is CartPole-v0: two forces, 200 steps, a reward of 1 a step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surefoot.claims.control.cart_pole import ANGLE, EDGE, FORCE, moved
from surefoot.models.agent import Agent, normalize_observation
from surefoot.seeding import numpy_stream, torch_stream

STEPS = 200


@dataclass(frozen=True)
class Push:
    """An attack: while the pole leans by at least `danger`, move the observation by `share` of the budget, as long as the
    budget lasts: towards pushing right if `steady`, else against the action that the policy prefers there. Preference is
    the mean over `draws` of the noise.
    """

    share: float
    danger: float = 0.0
    steady: bool = False
    draws: int = 8


ATTACKS = {
    "against, 5 steps": Push(5**-0.5),
    "against, all steps": Push(STEPS**-0.5),
    "against, once when it leans": Push(1.0, danger=0.05),
    "steady, 20 steps": Push(20**-0.5, steady=True),
    "steady, 50 steps": Push(50**-0.5, steady=True),
    "steady, all steps": Push(STEPS**-0.5, steady=True),
}


def gap(agent: Agent, observation: Tensor) -> Tensor:
    """The logit of pushing right less that of pushing left `[...]`."""
    params: Any = agent.module.policy(normalize_observation(observation, agent.scales))[0]
    return params[..., 1] - params[..., 0]


def returns(
    agent: Agent, sigma: float, count: int, seed: int, push: Push | None = None, budget: float = 0.0
) -> np.ndarray:
    """Returns `[count]` of the greedy policy with noise of `sigma`, under an attack of this l2 budget an episode."""
    state = numpy_stream(seed, "poles").uniform(-0.05, 0.05, (count, 4))
    noise, draws = torch_stream(seed, "noise"), torch_stream(seed, "draws of the attacker")
    playing, total, left = np.ones(count, bool), np.zeros(count), np.full(count, budget**2)
    for _ in range(STEPS):
        seen = torch.as_tensor(state, dtype=torch.float32)
        if push is not None:
            size = np.minimum(push.share * budget, np.sqrt(np.maximum(left, 0.0)))
            size = np.where(playing & (np.abs(state[:, 2]) >= push.danger), size, 0.0)
            left = left - size**2
            seen = seen + torch.as_tensor(size, dtype=torch.float32)[:, None] * against(agent, seen, sigma, push, draws)
        seen = seen + sigma * torch.randn(seen.shape, generator=noise)
        with torch.no_grad():
            right = (gap(agent, seen) > 0).numpy()
        state = np.where(playing[:, None], moved(state, np.where(right, FORCE, -FORCE)), state)
        total += playing
        playing = playing & (np.abs(state[:, 0]) <= EDGE) & (np.abs(state[:, 2]) <= ANGLE)
    return total


def against(agent: Agent, seen: Tensor, sigma: float, push: Push, generator: torch.Generator) -> Tensor:
    """Unit vectors `[count, 4]` along which the preferred action loses most, or pushing right gains most."""
    place = seen.clone().requires_grad_()
    noise = sigma * torch.randn((push.draws, *seen.shape), generator=generator)
    preference = gap(agent, place + noise).mean(0)
    (slope,) = torch.autograd.grad((preference if push.steady else -preference.abs()).sum(), place)
    return slope / slope.norm(dim=1, keepdim=True).clamp(min=1e-12)
