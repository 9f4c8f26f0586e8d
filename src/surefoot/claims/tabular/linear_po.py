"""The claim of PO-LinMDP: a bonus that is evaluated along the policy finds what a bonus on the spot does not.

In the loop that tempts (`myopic-loop`), walking on is best, but looks bad as long as the policy walks on at random.
All arms have the same blocks, step size and evaluation of costs; they differ in the bonus, or act ε-greedily. In
random low-rank MDPs, where nothing is hidden, the same bonus is compared with none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
    Share,
    Summary,
)
from surefoot.claims.training import metric_of, train_rows
from surefoot.envs.tabular import TabularMDP
from surefoot.envs.tabular.adversarial import adversarial, myopic_loop
from surefoot.envs.tabular.policies import greedy, uniform_policy
from surefoot.loops.tabular.episodes import episodic, forward
from surefoot.loops.tabular.least_squares import elliptical_width, evaluated
from surefoot.loops.tabular.method import State
from surefoot.methods.tabular.linear_po import LinearPO
from surefoot.seeding import numpy_stream

BLOCKS, LATE, EPSILON = 120, 24, 0.1


@dataclass(frozen=True)
class OnTheSpot(LinearPO):
    """The bonus is the uncertainty of a pair itself, not that of where it leads."""

    def bonus(self, mdp: TabularMDP, state: State, policy: Tensor, width_of_costs: Tensor) -> Tensor:
        return self.beta * (width_of_costs + (policy * width_of_costs).sum(-1, keepdim=True))


@dataclass(frozen=True)
class EpsilonGreedy(LinearPO):
    """The best action by all evaluations so far, and with probability ε any."""

    def policy(self, mdp: TabularMDP, state: State) -> Tensor:
        return (1 - EPSILON) * greedy(mdp, -state["exponent"]) + EPSILON * uniform_policy(mdp)


ARMS: dict[str, LinearPO] = {
    "evaluated bonus": LinearPO(),
    "no bonus": LinearPO(beta=0.0),
    "bonus on the spot": OnTheSpot(),
    "ε-greedy": EpsilonGreedy(beta=0.0),
}
OTHERS = [arm for arm in ARMS if arm != "evaluated bonus"]

# --- identities ----------------------------------------------------------------------------------------------------


def one_hot(seed: int, horizon: int = 3, states: int = 3, actions: int = 2) -> TabularMDP:
    """A random kernel and random rewards, with a feature for every pair."""
    draw = numpy_stream(seed, "one-hot")
    kernel, reward = draw.dirichlet([1.0] * states, (states, actions)), draw.random((states, actions))
    return TabularMDP(kernel, reward, 1.0, None, horizon, None, torch.eye(6, dtype=torch.float64).view(3, 2, 6))


def informed(method: LinearPO, mdp: TabularMDP, visits: float = 1e13) -> State:
    """The state after so many visits of each pair that the kernel is known."""
    state = method.start(mdp, 0)
    known = visits * torch.eye(mdp.features.shape[-1], dtype=torch.float64)
    return {**state, "gram": state["gram"] + known, "followed": visits * episodic(mdp).kernel.flatten(1, 2)}


def identities(seeds: Sequence[int]) -> dict[str, list[float]]:
    """Largest errors of the method's parts against what they are to be, a random MDP a seed."""
    found: dict[str, list[float]] = {"bonus": [], "bias": [], "exponential weights": []}
    for seed in seeds:
        draw, mdp = numpy_stream(seed, "policy"), one_hot(seed)
        policy, width = torch.tensor(draw.dirichlet([1, 1], (3, 3))), torch.tensor(2 * draw.random((3, 3, 2)))
        method = LinearPO(optimism=0.0, beta=0.2, cap=2.0)
        bonus = method.bonus(mdp, informed(method, mdp), policy, width)
        ahead, errors = torch.zeros(3, dtype=torch.float64), []
        for h in (2, 1, 0):
            u = method.beta * (width[h] + (policy[h] * width[h]).sum(-1, keepdim=True))
            errors.append(float((bonus[h] - u - (4 / 3) * (mdp.dense_rows @ ahead)).abs().max()))
            ahead = (policy[h] * bonus[h]).sum(-1)
        found["bonus"].append(max(errors))

        phi, theta = torch.tensor(draw.normal(size=(30, 1, 4))), torch.tensor(draw.normal(size=4))
        covariance = LinearPO(ridge=0.3).covariance(phi)
        bias = evaluated(covariance, phi, phi @ theta)[0] - theta
        found["bias"].append(float((bias + 0.3 * torch.linalg.solve(covariance[0], theta)).abs().max()))
        found["exponential weights"].append(hedge(seed))
    return found


def hedge(seed: int) -> float:
    """One state and step, no bonus: how far the policies of six blocks are from exponential weights on the losses."""
    one = TabularMDP(torch.ones(1, 3, 1), torch.zeros(1, 3), 1.0, None, 1, None, torch.eye(3).view(1, 3, 3))
    losses = torch.tensor([[[0.9, 0.5, 0.1]]], dtype=torch.float64)
    mdp = adversarial(one, -losses, noise="bernoulli", bounds=(-1.0, 0.0))
    method, total, error = LinearPO(block=20, blocks=16, step_size=2.0, beta=0.0, ridge=0.01), np.zeros(3), 0.0
    state, world = method.start(mdp, seed), episodic(mdp)
    for block in range(6):
        policy = method.policy(mdp, state)
        error = max(
            error, float(np.abs(policy[0, 0].numpy() - np.exp(-0.5 * total) / np.exp(-0.5 * total).sum()).max())
        )
        _, actions, felt = world.play(policy, world.losses(0, 20), seed, block)
        first, second, felt = actions[:10, 0].numpy(), actions[10:, 0].numpy(), felt[10:, 0].numpy()
        total += [(felt * (second == a)).mean() / ((first == a).mean() + 0.01) for a in range(3)]
        state, _ = method.step(mdp, state, seed, block)
    return error


def pull(_: Sequence[int]) -> dict[str, float]:
    """At the start of the loop, under uniform play and with all expectations exact: by how much turning off looks
    cheaper than walking on, and by how much each bonus speaks for walking on."""
    mdp = myopic_loop()
    world, policy = episodic(mdp), uniform_policy(mdp).expand(6, -1, -1)
    visits, mass = mdp.initial, []
    for h in range(world.horizon):
        mass.append(visits[:, None] * policy[h])
        visits = forward(world.kernel[h], mass[-1])
    phi, method = world.features.flatten(1, 2), LinearPO(dynamics="simulator")
    covariance = torch.einsum("hk,hki,hkj->hij", torch.stack(mass).flatten(1), phi, phi)
    covariance = covariance + torch.eye(phi.shape[-1], dtype=torch.float64) / method.block
    width = elliptical_width(world.features, covariance).clamp(max=method.cap)
    value, loss = torch.zeros(mdp.states, dtype=torch.float64), world.losses(0)[0]
    q = torch.zeros(mdp.states, 2, dtype=torch.float64)
    for h in reversed(range(world.horizon)):
        q = loss[h] + world.kernel[h] @ value
        value = (policy[h] * q).sum(-1)
    bonuses = {
        "evaluated": method.bonus(mdp, {}, policy, width),
        "on the spot": OnTheSpot().bonus(mdp, {}, policy, width),
    }
    return {"temptation": float(q[0, 0] - q[0, 1])} | {k: float(b[0, 0, 0] - b[0, 0, 1]) for k, b in bonuses.items()}


def of_identities(found: Measurements) -> Summary:
    errors = {f"error, {name}": max(values) for name, values in found["identities"].items()}
    tempting = found["pull"]["temptation"]
    return errors | {f"net pull, {name}": found["pull"][name] - tempting for name in ("evaluated", "on the spot")}


# --- learning ------------------------------------------------------------------------------------------------------


def low_rank(seed: int, states: int = 8, actions: int = 3, rank: int = 5, horizon: int = 4) -> TabularMDP:
    """Kernel and rewards in [−1, 0] linear in random mixtures of `rank` factors."""
    draw = numpy_stream(seed, "low rank")
    features, factors = draw.dirichlet([0.4] * rank, (states, actions)), draw.dirichlet([0.5] * states, rank)
    return TabularMDP(features @ factors, -features @ draw.random(rank), 1.0, None, horizon, None, features)


def learned(method: LinearPO, mdp: TabularMDP, seeds: Sequence[int]) -> dict[str, list[float]]:
    """Mean cost of the last fifth of the blocks, and the regret after all of them, one number a seed."""
    history = train_rows(method, mdp, BLOCKS, seeds)
    cost, regret = -metric_of(history, "return_mean"), metric_of(history, "regret")
    return {"cost": cost[:, -LATE:].mean(1).tolist(), "regret": regret[:, -1].tolist()}


def in_the_loop(arm: str, seeds: Sequence[int]) -> dict[str, list[float]]:
    """All seeds in the one loop."""
    return learned(ARMS[arm], myopic_loop(), seeds)


def at_low_rank(arm: str, seeds: Sequence[int]) -> list[float]:
    """A random MDP a seed: the late cost, 0 that of the best and 1 that of the uniform policy."""
    found = []
    for seed in seeds:
        mdp = low_rank(seed)
        world, uniform = episodic(mdp), uniform_policy(mdp).expand(4, -1, -1)
        losses = world.losses(0)[0]
        best, worst = (-float(world.returns(x)) for x in (world.best(losses), world.expected(uniform, losses)))
        found.append((learned(ARMS[arm], mdp, [seed])["cost"][0] - best) / (worst - best))
    return found


def of_learning(found: Measurements) -> Summary:
    series: dict[str, Any] = {}
    for arm in ARMS:
        series |= {f"{key}, {arm}": values for key, values in found[f"loop, {arm}"].items()}
    series |= {f"low rank, {arm}": found[f"low rank, {arm}"] for arm in ("evaluated bonus", "no bonus")}
    return series | {"walks on": [float(cost <= 2.66) for cost in series["cost, evaluated bonus"]]}


def stays_in_the_loop(summary: Summary) -> bool:
    """Whether the cost without bonus is nearer 2.7, turning off at once, than 2.5, walking on."""
    return float(np.mean(summary["cost, no bonus"])) > 2.6


ROOM = Gate("room", stays_in_the_loop, "without bonus the cost stays above 2.6, half way between the two ways")

CLAIM = Claim(
    slug="linear-po",
    sentence="With a bonus evaluated in an auxiliary MDP, mirror descent finds the better way that no bonus, a bonus on "
    "the spot and ε-greedy acting miss: the mechanism, in one constructed loop.",
    source="Sherman, Koren and Mansour 2023, abstract: mirror descent with least-squares policy evaluation in an "
    "auxiliary MDP that computes exploration bonuses",
    method=LinearPO,
    experiments={
        "identities": Experiment(
            "mechanism",
            {"identities": identities, "pull": pull},
            seeds=8,
            minutes=0.01,
            setting="random MDPs of 3 states, 2 actions and 3 steps with one-hot features, and the loop with all "
            "expectations exact",
            arms={"evaluated bonus": LinearPO(), "bonus on the spot": OnTheSpot()},
            summary=of_identities,
        ),
        "learning": Experiment(
            "miniature",
            {f"loop, {arm}": partial(in_the_loop, arm) for arm in ARMS}
            | {f"low rank, {arm}": partial(at_low_rank, arm) for arm in ("evaluated bonus", "no bonus")},
            seeds=60,
            minutes=1.9,
            setting="120 blocks of 50 episodes. The loop that tempts (6 steps; always walking on costs 2.5, turning off "
            "at once 2.7): expected cost of an episode, mean of the last 24 blocks, and regret. A random linear MDP a "
            "seed (8 states, 3 actions, rank 5, 4 steps): that cost, 0 for the best and 1 for the uniform policy",
            arms=ARMS,
            summary=of_learning,
            differs=(
                "the paper has no experiment; its claim is a regret of K^{6/7}, which 6,000 episodes cannot tell from "
                "other powers",
                "rates, widths and clips are derived, as the paper's exact procedure was not to be had",
                "costs shift in the loop only, by a sine of 0.05",
            ),
        ),
    },
    parts=(
        Part(
            "the bonus solves the Bellman equation of its auxiliary MDP",
            "primary",
            "identities",
            Exact("error, bonus"),
            Less(1e-6, 1e-6),
            says="abstract: least-squares policy evaluation in an auxiliary MDP used to compute exploration bonuses",
        ),
        Part(
            "the policy is exponential weights on the evaluations",
            "primary",
            "identities",
            Exact("error, exponential weights"),
            Less(1e-9, 1e-9),
            says="abstract: mirror descent",
        ),
        Part(
            "the evaluated bonus outweighs what tempts", "primary", "identities", Exact("net pull, evaluated"), More()
        ),
        Part("the bonus on the spot does not", "secondary", "identities", Exact("net pull, on the spot"), Less()),
        Part("the bias of the ridge is −λΣ⁻¹θ", "secondary", "identities", Exact("error, bias"), Less(1e-9, 1e-9)),
        *(
            Part(
                f"beats {arm} in the loop",
                "primary",
                "learning",
                Difference(f"cost, {arm}", "cost, evaluated bonus"),
                More(0.05, 0.0),
                (ROOM,),
            )
            for arm in OTHERS
        ),
        Part("walks on in most seeds (cost at most 2.66)", "secondary", "learning", Share("walks on"), More(0.5, 0.5)),
        *(
            Part(
                f"less regret than {arm} in the loop",
                "secondary",
                "learning",
                Difference(f"regret, {arm}", "regret, evaluated bonus"),
                More(),
                (ROOM,),
            )
            for arm in OTHERS
        ),
        Part(
            "beats no bonus in random low-rank MDPs",
            "secondary",
            "learning",
            Difference("low rank, no bonus", "low rank, evaluated bonus"),
            More(),
        ),
        Part(
            "loses at most 5 % to no bonus in random low-rank MDPs",
            "secondary",
            "learning",
            Difference("low rank, no bonus", "low rank, evaluated bonus"),
            NoWorse(0.05),
        ),
    ),
    not_run="a theory paper without an experiment of its own: it bounds the regret by K^{6/7}, and by K^{2/3} with a "
    "simulator",
    amended=(
        "Declared on 2026-11-30 after a run of 10 seeds on 2026-11-26, which an earlier judge had summed up in one word "
        "without the low-rank MDP. Since then 60 seeds, and a random low-rank MDP of each seed's own in place of one.",
    ),
)
