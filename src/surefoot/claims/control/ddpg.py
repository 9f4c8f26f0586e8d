"""DDPG's claim: target networks and replay make a deterministic actor learn from a critic."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from surefoot.claims.parts import (
    Claim,
    Difference,
    Exact,
    Experiment,
    Gate,
    Less,
    LogRatio,
    Mean,
    Measurements,
    More,
    Part,
    Summary,
)
from surefoot.claims.training import train_rows
from surefoot.evaluate.rollout import returns
from surefoot.loops.common.optimizer import Adam
from surefoot.loops.networks.nets import Function, Net, Weights, gradient_step
from surefoot.methods.control.ddpg import DDPG
from surefoot.models.functional import initial, over_seeds
from surefoot.seeding import derive, torch_stream

# --- the deterministic policy gradient -----------------------------------------------------------------------------


def chain_rule(seeds: Sequence[int]) -> float:
    """Largest distance of the actor's gradient from −mean ∇_a Q(s, a)|_{a=μ(s)} ∇_θ μ_θ(s), over random networks."""
    spaces = gym.spaces.Box(-1, 1, (3,)), gym.spaces.Box(-1, 1, (2,))
    method, worst = DDPG(hidden=(16, 12), output_bound=0.5), 0.0
    nets = method.networks(*spaces)
    functions = {name: Function(net) for name, net in nets.items()}
    for seed in seeds:
        g = torch_stream(seed, "networks")
        now = {name: initial(net.make, g).double() for name, net in nets.items()}
        observation = torch.randn(32, 3, generator=g, dtype=torch.float64)
        batch = {"observation": observation}

        def loss(theta: Tensor, now: dict[str, Tensor] = now, batch: dict[str, Tensor] = batch) -> Tensor:
            return method.actor_loss(Weights(functions, {**now, "actor": theta}, {}, now), batch)[0]

        action = functions["actor"](now["actor"], observation).detach().requires_grad_()
        (slope,) = torch.autograd.grad(functions["critic"](now["critic"], observation, action).sum(), action)
        moves = torch.func.jacrev(lambda theta, x=observation: functions["actor"](theta, x))(now["actor"])
        wanted = -torch.einsum("sa,sap->p", slope, moves) / len(observation)
        worst = max(worst, float((torch.func.grad(loss)(now["actor"]) - wanted).abs().max()))
    return worst


# --- a linear-quadratic problem whose solution is known --------------------------------------------------------------

GAMMA, UPDATES, LAST, BATCH = 0.98, 900, 200, 64
GAIN, CRITIC = -1.355302, (-1.987451, -1.097168, -0.404769)  # of the discounted Riccati equation
QUADRATIC: dict[str, DDPG] = {
    name: DDPG(gamma=GAMMA, learning_rate=0.01, actor_learning_rate=0.01, l2=0.0, tau=tau)
    for name, tau in (("full", 0.05), ("no targets", 1.0))
}


class Gain(nn.Module):
    """μ(s) = w·s."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1))

    def forward(self, s: Tensor) -> Tensor:
        return self.w * s


class Form(nn.Module):
    """Q(s, a), linear in s², s·a and a²."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(3))

    def forward(self, s: Tensor, a: Tensor) -> Tensor:
        return torch.stack([s * s, s * a, a * a], -1) @ self.w


def quadratic(arm: str, seeds: Sequence[int]) -> dict[str, list[float]]:
    """Relative error of the actor's gain and of the critic's coefficients over the last updates: s' = 0.9s + 0.5a,
    r = −(s² + 0.1a²), on transitions with s in ±1 and a in ±2."""
    method, count = QUADRATIC[arm], len(seeds)
    nets = {
        "critic": Net(Form, method.critic_loss, method.learning_rate, target_rate=method.tau),
        "actor": Net(Gain, method.actor_loss, method.actor_learning_rate, target_rate=method.tau),
    }
    functions = {name: Function(net) for name, net in nets.items()}
    weights = {name: torch.zeros(count, f.size) for name, f in functions.items()}
    targets, adams = {n: x.clone() for n, x in weights.items()}, {n: Adam.start(x) for n, x in weights.items()}
    step = over_seeds(gradient_step(nets, functions, ("critic", "actor")), count)
    draws = [torch.rand(UPDATES, BATCH, 2, generator=torch_stream(seed, "transitions")) for seed in seeds]
    drawn = (torch.stack(draws, 1) * 2 - 1) * torch.tensor([1.0, 2.0])
    gain, critic = torch.zeros(count), torch.zeros(count)
    for number, pairs in enumerate(drawn):
        s, a = pairs.unbind(-1)
        batch: dict[str, Any] = {"observation": s, "action": a, "reward": -(s**2 + 0.1 * a**2)}
        batch |= {"next_observation": 0.9 * s + 0.5 * a, "discount": torch.full_like(s, GAMMA)}
        weights, adams, _ = step(weights, targets, adams, batch | {"weight": torch.ones_like(s)})
        for name, target in targets.items():
            target.lerp_(weights[name], method.tau)
        if number >= UPDATES - LAST:
            gain += (weights["actor"][:, 0] / GAIN - 1).abs() / LAST
            critic += (weights["critic"] / torch.tensor(CRITIC) - 1).abs().amax(1) / LAST
    return {"gain": gain.tolist(), "critic": critic.tolist()}


# --- Pendulum ------------------------------------------------------------------------------------------------------

ENV, STEPS, EPISODES = "Pendulum-v1", 12_000, 10
SETTING: dict[str, Any] = {
    "hidden": (64, 64),
    "gamma": GAMMA,
    "tau": 0.005,
    "l2": 0.0,
    "exploration_noise": 0.1,
    "reversion": 1.0,
    "learning_rate": 1e-3,
    "actor_learning_rate": 1e-3,
    "learning_starts": 1000,
}
PENDULUM: dict[str, DDPG] = {
    "full": DDPG(**SETTING),
    "no targets": DDPG(**{**SETTING, "tau": 1.0}),
    "replay of 64": DDPG(**SETTING, buffer_size=64),
}


def score(policy: Any, seed: int) -> float:
    """Mean return of a policy on the evaluation episodes of a seed."""
    return float(returns(policy, ENV, EPISODES, derive(seed, "evaluation")).mean())


def pendulum(arm: str, seeds: Sequence[int]) -> list[float]:
    """Mean return of each seed's last actor."""
    found: list[float] = []

    def look(learner: Any, _: Any) -> None:
        if learner.steps >= STEPS:
            found.extend(score(learner.agent(index), seed) for index, seed in enumerate(seeds))

    train_rows(PENDULUM[arm], ENV, STEPS, seeds, look)
    return found


def random_policy(seeds: Sequence[int]) -> list[float]:
    """Mean return of uniformly random actions."""
    found = []
    for seed in seeds:
        g = np.random.default_rng(seed)
        found.append(score(lambda x, g=g: g.uniform(-2, 2, (len(x), 1)).astype(np.float32), seed))
    return found


LEARNS = Gate("control", lambda s: float(np.mean(s["full"])) > -400, "the full method's mean return is above −400")
ROOM = Gate("room", lambda s: float(np.mean(s["random policy"])) < -900, "random actions return less than −900")


def of_quadratic(found: Measurements) -> Summary:
    errors = {f"{what}, {arm}": found[arm][what] for arm in QUADRATIC for what in ("gain", "critic")}
    return {"distance from the chain rule": found["chain rule"], **errors}


CLAIM = Claim(
    slug="ddpg",
    sentence="Target networks and replay make a deterministic actor learn continuous control from its critic's action "
    "gradient.",
    source="Lillicrap et al. 2015, abstract, §3, §4 and Table 1",
    method=DDPG,
    experiments={
        "linear-quadratic": Experiment(
            "mechanism",
            {"chain rule": chain_rule} | {arm: partial(quadratic, arm) for arm in QUADRATIC},
            seeds=8,
            minutes=0.1,
            setting="random networks in float64; s' = 0.9s + 0.5a with a linear actor and a quadratic critic, 900 "
            "gradient steps on fresh batches of 64 transitions with random actions, errors over the last 200",
            arms=QUADRATIC,
            summary=of_quadratic,
        ),
        "pendulum": Experiment(
            "miniature",
            {"random policy": random_policy} | {arm: partial(pendulum, arm) for arm in PENDULUM},
            seeds=8,
            minutes=8.0,
            setting="Pendulum-v1, 12k steps; mean return of 10 episodes of the last actor without noise",
            arms=PENDULUM,
            differs=(
                "one task of ours in place of 26, 12k steps in place of up to 2.5M",
                "two layers of 64, γ = 0.98, τ = 0.005, learning rates of 1e-3, no L2 penalty, Gaussian noise of 0.1",
                "no batch normalisation",
            ),
        ),
    },
    parts=(
        Part(
            "the actor's step is the deterministic policy gradient",
            "primary",
            "linear-quadratic",
            Exact("distance from the chain rule"),
            Less(1e-12, against=1e-9),
            says="§3: applying the chain rule to the expected return … with respect to the actor parameters",
        ),
        Part(
            "the actor finds the optimal gain within 5 %",
            "primary",
            "linear-quadratic",
            Mean("gain, full"),
            Less(0.05, against=0.05),
        ),
        Part(
            "the critic finds the optimal values within 5 %",
            "secondary",
            "linear-quadratic",
            Mean("critic, full"),
            Less(0.05, against=0.05),
        ),
        Part(
            "without target networks the critic stays further from them",
            "primary",
            "linear-quadratic",
            LogRatio("critic, no targets", "critic, full"),
            More(float(np.log(2)), against=0.0),
            says="§3: the target values are constrained to change slowly, greatly improving the stability of learning",
        ),
        Part(
            "beats learning without target networks",
            "primary",
            "pendulum",
            Difference("full", "no targets"),
            More(),
            gates=(LEARNS, ROOM),
            says="§4: learning without a target network … is very poor in many environments",
        ),
        Part(
            "beats learning from a replay of 64",
            "primary",
            "pendulum",
            Difference("full", "replay of 64"),
            More(),
            gates=(LEARNS, ROOM),
        ),
    ),
    not_run="The paper's 26 tasks are private models. The Gym form, HalfCheetah-v5 and Hopper-v5 with the preset "
    "`retuned` with and without target networks, 8 seeds of 1M steps, takes an hour a seed and arm on a core: 32 hours.",
    amended=(
        "2026-11-30: the linear-quadratic problem had 600 gradient steps at first, after which the full method had not yet "
        "settled (0.5 % from the optimal values, against 0.9 % without targets); it has 900, of which the last 200 count.",
    ),
)
