"""The claim of the Polyak policy gradient: a step that no scale of rewards changes, and what it costs in speed.

Whole runs of the method and paths in closed form; then random tabular MDPs, and the chain on which the twins lock in,
where everything is exact but the sampling: softmax policies on logits `[seeds, states, actions]`, values by dynamic
programming. There all arms use the same objective (entropy included), MDPs, first weights, random numbers and number of
trajectories.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import gymnasium as gym
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
from surefoot.loops.common.run import make_learner
from surefoot.methods.control.polyak_pg import PolyakPG
from surefoot.methods.control.polyak_pg.polyak import Point, step, twin_step
from surefoot.objectives.gpomdp import gpomdp, trajectory_returns
from surefoot.seeding import numpy_stream, torch_stream

# --- whole runs, and paths in closed form ----------------------------------------------------------------------------

FACTOR = 64.0  # a power of two, so that floating point scales exactly
RUNS = {
    "twin": PolyakPG(num_envs=4, num_steps=32),
    "best": PolyakPG(num_envs=4, num_steps=32, vstar="best", c=5.0),
    "known": PolyakPG(num_envs=4, num_steps=32, vstar="known", optimum=30.0),
}


def cart_pole(factor: float) -> gym.Env:
    """CartPole-v1 with rewards times a factor."""
    return gym.wrappers.TransformReward(gym.make("CartPole-v1"), lambda reward: factor * float(reward))


def whole_run(vstar: str, seeds: Sequence[int]) -> dict[str, list[float]]:
    """The largest difference that it makes to any weight (of either twin) in six iterations when rewards, τ and V* are
    times 64 and the cap is divided by it; and the largest change of any weight after the first iteration."""
    plain, paths = RUNS[vstar], []
    optimum = None if plain.optimum is None else FACTOR * plain.optimum
    scaled = replace(plain, cap=plain.cap / FACTOR, entropy=plain.entropy * FACTOR, optimum=optimum)
    for method, factor in ((plain, 1.0), (scaled, FACTOR)):
        learner = make_learner(method, partial(cart_pole, factor), list(seeds), 10**6)
        path = []
        for _ in range(6):
            learner.iterate()
            path.append(torch.cat([learner.vector, learner.extra.get("twin", learner.vector)], 1))
        learner.close()
        paths.append(torch.stack(path))
    first, second = paths
    return {
        "difference": (first - second).abs().amax((0, 2)).tolist(),
        "change": (first - first[0]).abs().amax((0, 2)).tolist(),
    }


def paths(seeds: Sequence[int]) -> dict[str, list[float]]:
    """Five steps on f = ½(x₁² + 10x₂²), minimised from (1, 1), and on a bandit of two arms that pay 1 and 0 (exact
    gradient, V* = 1): the values and the sizes of the steps."""
    curvature, x, quadratic = torch.tensor([1.0, 10.0]).double(), torch.ones(2).double(), []
    theta, shares, steps = torch.zeros(2).double(), [], []
    for _ in range(5):
        x = step(x, -curvature * x, 0.5 * (curvature * x * x).sum())[0]
        quadratic.append(float(0.5 * (curvature * x * x).sum()))
        p = theta.softmax(0)[0]
        theta, size = step(theta, p * (1 - p) * torch.tensor([1.0, -1.0]).double(), 1 - p)
        shares.append(float(theta.softmax(0)[0]))
        steps.append(float(size))
    return {"quadratic": quadratic, "share": shares, "step": steps}


# By hand: f after the first and the fourth step, the share of the better arm after each.
QUADRATIC, SHARES = {0: 1.484180, 3: 0.221879}, (0.880797, 0.958327, 0.984914, 0.994482)


def of_mechanism(found: Measurements) -> Summary:
    quadratic, share, size = (found["paths"][name] for name in ("quadratic", "share", "step"))
    runs = [found[vstar] for vstar in RUNS]
    return {
        "difference": max(max(run["difference"]) for run in runs),
        "change": min(min(run["change"]) for run in runs),
        "error": max(
            *(abs(quadratic[i] - value) for i, value in QUADRATIC.items()),
            *(abs(a - b) for a, b in zip(share, SHARES, strict=False)),
        ),
        "growth of the step": size[-1] / size[0],
    }


def moves(summary: Summary) -> bool:
    """Whether the weights of every run and seed change at all."""
    return summary["change"] > 1e-3


MOVES = Gate("control", moves, "some weight of every run changes by 0.001 or more")

# --- tabular MDPs ----------------------------------------------------------------------------------------------------

TWIN = PolyakPG(gamma=0.95, cap=50.0)
STATES, ACTIONS, TRAJECTORIES, ITERATIONS, LAST = 5, 3, 32, 100, 15
GAMMA, ENTROPY, CAP, SCALE = TWIN.gamma, TWIN.entropy, TWIN.cap, 100.0
SGD, ADAM = (0.1, 1.0, 10.0, 100.0), (0.001, 0.01, 0.1, 1.0, 10.0)
ARMS: dict[str, tuple[str, float]] = {
    **{f"sgd {lr:g}": ("sgd", lr) for lr in SGD},
    **{f"adam {lr:g}": ("adam", lr) for lr in ADAM},
    **{f"known {c:g}": ("known", c) for c in (1.0, 5.0)},
    **{f"best {c:g}": ("best", c) for c in (5.0, 20.0)},
    **{f"twin {c:g}": ("twin", c) for c in (TWIN.c, 5.0)},
}
POLYAK = [name for name, (kind, _) in ARMS.items() if kind in ("known", "best", "twin")]


class MDP(NamedTuple):
    """One MDP a seed; an episode starts in state 0 and takes `horizon` steps."""

    kernel: Tensor  # [seeds, states, actions, next states]
    reward: Tensor  # [seeds, states, actions]
    horizon: int


def random_mdps(seeds: Sequence[int]) -> MDP:
    """Next states from Dirichlet(½), rewards uniform on (0, 1)."""
    streams = [numpy_stream(seed, "random MDP") for seed in seeds]
    kernel = np.stack([g.dirichlet([0.5] * STATES, (STATES, ACTIONS)) for g in streams])
    return MDP(torch.tensor(kernel), torch.tensor(np.stack([g.random((STATES, ACTIONS)) for g in streams])), 20)


def chains(seeds: Sequence[int]) -> MDP:
    """Six states in a row. Action 0 goes back by one and pays 0.02; action 1 goes on, and pays 1 in the last state."""
    kernel, reward = torch.zeros(6, 2, 6, dtype=torch.float64), torch.zeros(6, 2, dtype=torch.float64)
    for state in range(6):
        kernel[state, 0, max(state - 1, 0)] = kernel[state, 1, min(state + 1, 5)] = 1.0
    reward[:, 0], reward[5, 1] = 0.02, 1.0
    return MDP(kernel.expand(len(seeds), -1, -1, -1), reward.expand(len(seeds), -1, -1), 12)


def value(mdp: MDP, logits: Tensor | None = None) -> Tensor:
    """Exact discounted value of state 0, `[seeds]`: of the softmax policy, or of the best (time-dependent) one."""
    v = torch.zeros_like(mdp.reward[..., 0])
    for _ in range(mdp.horizon):
        q = mdp.reward + GAMMA * torch.einsum("ksat,kt->ksa", mdp.kernel, v)
        v = q.amax(-1) if logits is None else (logits.softmax(-1) * q).sum(-1)
    return v[:, 0]


def look(mdp: MDP, logits: Tensor, noise: Tensor, scale: float) -> tuple[Point, Tensor]:
    """F and ∇F at the logits from the trajectories that uniform noise `[time, seeds, trajectories, 2]` makes, and the
    highest return among them."""
    rows, policy = torch.arange(len(logits)).unsqueeze(-1), logits.softmax(-1)
    state, path = torch.zeros(noise.shape[1:3], dtype=torch.int64), []
    for u in noise:
        action = _draw(policy[rows, state], u[..., 0])
        path.append((state, action, scale * mdp.reward[rows, state, action]))
        state = _draw(mdp.kernel[rows, state, action], u[..., 1])
    states, actions, rewards = (torch.stack(x) for x in zip(*path, strict=True))
    advantage = gpomdp(GAMMA)(rewards)
    free = logits.detach().requires_grad_()
    logs = free.log_softmax(-1)[rows, states]
    entropy = -(logs.exp() * logs).sum(-1).mean((0, -1))
    surrogate = (advantage * logs.gather(-1, actions.unsqueeze(-1)).squeeze(-1)).mean((0, -1))
    (gradient,) = torch.autograd.grad((surrogate + scale * ENTROPY * entropy).sum(), free)
    mean, highest = trajectory_returns(rewards, GAMMA)
    point = Point(logits.flatten(1), mean + scale * ENTROPY * entropy.detach(), gradient.flatten(1))
    return point, highest


def _draw(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Indices drawn by inverting the cumulative distribution on the last axis."""
    below = uniform.unsqueeze(-1) > probabilities.cumsum(-1)[..., :-1]
    return below.sum(-1)


def policies(mdp: MDP, seeds: Sequence[int], arm: str, scale: float) -> Iterator[Tensor]:
    """The logits that an arm would act with after each iteration."""
    kind, rate = ARMS[arm]
    shape, cap = mdp.reward.shape[1:], CAP / scale
    draws = [torch_stream(seed, "trajectories") for seed in seeds]
    start = torch.stack([torch.randn(2, *shape, generator=g, dtype=torch.float64) for g in draws], 1) * 0.1
    logits, other = start
    best, optimum = torch.full((len(seeds),), -torch.inf, dtype=torch.float64), scale * value(mdp)
    zeros = torch.zeros_like(logits.flatten(1))
    adam = Adam(zeros, zeros, zeros[:, :1])
    for _ in range(ITERATIONS):
        size = (mdp.horizon, TRAJECTORIES, 2)
        noise = torch.stack([torch.rand(size, generator=g, dtype=torch.float64) for g in draws], 1)
        if kind == "twin":
            first, _ = look(mdp, logits, noise[:, :, : TRAJECTORIES // 2], scale)
            second, _ = look(mdp, other, noise[:, :, TRAJECTORIES // 2 :], scale)
            moved = twin_step(first, second, rate, cap)
            logits, other = (x.unflatten(1, shape) for x in (moved.better, moved.worse))
        else:
            here, highest = look(mdp, logits, noise, scale)
            best = torch.maximum(best, highest)
            if kind == "sgd":
                weights = here.weights + rate * here.gradient
            elif kind == "adam":
                weights, adam = adam.step(here.weights, -here.gradient, rate)
            else:
                weights, _ = step(
                    here.weights, here.gradient, (best if kind == "best" else optimum) - here.value, rate, cap
                )
            logits = weights.unflatten(1, shape)
        yield logits


def curve(mdp: MDP, seeds: Sequence[int], arm: str, scale: float = 1.0) -> Tensor:
    """Exact value over the optimal one, `[seeds, iterations]`."""
    return torch.stack([value(mdp, logits) for logits in policies(mdp, seeds, arm, scale)], 1) / value(mdp).unsqueeze(1)


def _scores(curves: Tensor) -> dict[str, list[float]]:
    return {"area": curves.mean(1).tolist(), "end": curves[:, -LAST:].mean(1).tolist()}


def tabular(arm: str, seeds: Sequence[int]) -> dict[str, Any]:
    """Area and end of an arm's curves on random MDPs (at both reward scales) and on the chain, and the largest change
    that the scale makes at any iteration."""
    mdp = random_mdps(seeds)
    plain, scaled = curve(mdp, seeds, arm), curve(mdp, seeds, arm, SCALE)
    return {
        "random": _scores(plain),
        "scaled": _scores(scaled),
        "change": (plain - scaled).abs().amax(1).tolist(),
        "chain": _scores(curve(chains(seeds), seeds, arm)),
    }


def of_tabular(found: Measurements) -> Summary:
    series: dict[str, Any] = {"change": max(max(found[arm]["change"]) for arm in POLYAK)}
    for arm, seen in found.items():
        series |= {f"{key}, {arm}": values for key, values in seen["random"].items()}
        series |= {f"{key} on the chain, {arm}": values for key, values in seen["chain"].items()}
    grid = [f"{kind} {rate}" for kind, rates in (("sgd", (0.1, 1, 10)), ("adam", (0.01, 0.1, 1))) for rate in rates]
    series["area, mean of six rates"] = np.mean([series[f"area, {arm}"] for arm in grid], axis=0)
    series["end, Adam's median rate"] = np.median([series[f"end, {arm}"] for arm in grid[3:]], axis=0)
    series["largest change, adam 0.1"] = max(found["adam 0.1"]["change"])
    return series


def inside(kind: str, summary: Summary) -> bool:
    """Whether the rate with the largest mean area lies inside the grid."""
    rates = [arm for arm, (sort, _) in ARMS.items() if sort == kind]
    return max(rates, key=lambda arm: float(np.mean(summary[f"area, {arm}"]))) not in (rates[0], rates[-1])


GRIDS = {
    kind: Gate("grid", partial(inside, kind), f"the best rate of {name} lies inside its grid")
    for kind, name in (("sgd", "SGD"), ("adam", "Adam"))
}
ABOUT = {"adam 0.001": ", its default", "adam 1": ", its best", "sgd 10": ", its best"}  # best on seeds 2000 to 2029


def faster(arm: str) -> Part:
    """The twins' area against that of one rate of SGD or Adam."""
    kind, rate = ARMS[arm]
    name = f"{'SGD' if kind == 'sgd' else 'Adam'} at {rate:g}{ABOUT.get(arm, '')}"
    gates = (GRIDS[kind],) if "best" in ABOUT.get(arm, "") else ()
    contrast = Difference("area, twin 1", f"area, {arm}")
    return Part(f"faster than {name}", "secondary", "tabular", contrast, More(), gates)


CLAIM = Claim(
    slug="polyak-pg",
    sentence="The Polyak step with twin policies does not depend on the scale of the rewards, reaches the optimum "
    "without a tuned step size, and does so faster than SGD and Adam.",
    source="Li et al. 2024, abstract: a step size that adapts itself, with faster convergence and more stable policies",
    method=PolyakPG,
    experiments={
        "whole runs": Experiment(
            "mechanism",
            {vstar: partial(whole_run, vstar) for vstar in RUNS} | {"paths": paths},
            seeds=8,
            minutes=0.03,
            setting="six iterations on CartPole-v1 with rewards, τ and V* times 64 and the cap divided by it; a "
            "quadratic and a bandit of two arms with exact gradients",
            arms=RUNS,
            summary=of_mechanism,
        ),
        "tabular": Experiment(
            "miniature",
            {arm: partial(tabular, arm) for arm in ARMS},
            seeds=30,
            minutes=5,
            setting="random MDPs (5 states, 3 actions, 20 steps), 100 iterations of 32 trajectories; exact value over "
            "the optimal one, mean over all iterations (area) and over the last 15 (end). The same on a chain of 6 "
            "states whose way back pays 0.02 a step and whose end pays 1",
            arms={"twin 1": TWIN},
            summary=of_tabular,
            differs=(
                "random tabular MDPs in place of Gym's control tasks",
                "the twins' bookkeeping is our reading: no code was released",
                "softmax policies in tables in place of networks",
            ),
        ),
    },
    parts=(
        Part(
            "the scale of rewards changes no weight",
            "primary",
            "whole runs",
            Exact("difference"),
            Less(1e-6, 1e-6),
            (MOVES,),
        ),
        Part(
            "steps on a quadratic and on a bandit are those of the formula",
            "primary",
            "whole runs",
            Exact("error"),
            Less(1e-6, 1e-6),
        ),
        Part(
            "without entropy the step explodes near determinism",
            "secondary",
            "whole runs",
            Exact("growth of the step"),
            More(10.0, 1.0),
            says="as others summarise it: explosive steps occur without the entropy term",
        ),
        Part("ends at 98 % of the optimum or more", "primary", "tabular", Mean("end, twin 1"), More(0.98, 0.98)),
        Part(
            "rewards times 100 change no value by a millionth", "primary", "tabular", Exact("change"), Less(1e-6, 1e-6)
        ),
        *(faster(arm) for arm, (kind, _) in ARMS.items() if kind in GRIDS),
        Part(
            "faster than SGD and Adam on average over six rates",
            "secondary",
            "tabular",
            Difference("area, twin 1", "area, mean of six rates"),
            More(),
        ),
        Part(
            "ends above Adam's median rate",
            "secondary",
            "tabular",
            Difference("end, twin 1", "end, Adam's median rate"),
            More(),
        ),
        *(
            Part(
                f"as good on the chain as {name}",
                "secondary",
                "tabular",
                Difference("end on the chain, twin 1", f"end on the chain, {arm}"),
                NoWorse(0.05),
            )
            for arm, name in (("sgd 1", "SGD at 1"), ("adam 0.1", "Adam at 0.1"))
        ),
        *(
            Part(f"{name} ends at 98 % or more", "exploratory", "tabular", Mean(f"end, {arm}"), More(0.98, 0.98))
            for arm, name in {
                "known 1": "a known V*",
                "known 5": "a known V* with c = 5",
                "best 5": "the best return as V*, c = 5,",
                "best 20": "the best return as V*, c = 20,",
                "twin 5": "the twins with c = 5",
            }.items()
        ),
        Part(
            "Adam at 0.1 does not depend on the scale either",
            "exploratory",
            "tabular",
            Exact("largest change, adam 0.1"),
            Less(0.01, 0.01),
        ),
    ),
    not_run="no experiment of the paper could be read: it compares with Adam on Gym's control tasks, but tasks, "
    "networks, batch, constants, Adam's step sizes and numbers were not to be had. Tasks of CartPole's size would run "
    "in minutes",
    amended=(
        "Declared on 2026-11-30 after a run of 10 seeds on 2026-11-24, which an earlier judge had summed up in one word "
        "by the mean over six rates, without the chain. Since then 30 seeds, every rate by itself, Adam's default, and "
        "grids that hold their best rate inside.",
    ),
)
