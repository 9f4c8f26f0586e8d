"""GAE's claim: an intermediate λ estimates advantages better, and learns faster, than TD errors or whole returns.

The walk of the mechanism has 11 states; left and right are equally likely, leaving it on the right pays 1, on the left
0. In the middle, the difference between the advantages of going right and of going left is known. The critic is the
true value shrunk by 40 % towards its mean, so that λ < 1 is biased.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surefoot.claims.control.cart_pole import PERIOD, WholeEpisodes
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
    NoWorse,
    Part,
    Share,
    Summary,
    Within,
)
from surefoot.claims.training import metric_of, train_rows
from surefoot.methods.control.gae import GAE
from surefoot.objectives.advantages import masked_mean, monte_carlo
from surefoot.seeding import numpy_stream

# --- the random walk -------------------------------------------------------------------------------------------------

STATES, GAMMA, SHRINK = 11, 0.99, 0.6
MIDDLE = STATES // 2 + 1  # states are 1 to 11; 0 and 12 are the exits
LAMBDAS = (0.0, 0.8, 0.9, 0.95, 0.98, 1.0)
WALKERS, LENGTH, TAIL = 400, 1400, 400  # walks that start in the tail may be cut off, and do not count
FEW, MANY = 64, 256


def true_values() -> np.ndarray:
    """Values of the states under the even walk, with a 0 on either side for the exits."""
    steps = 0.5 * (np.eye(STATES, k=1) + np.eye(STATES, k=-1))
    reward = np.zeros(STATES)
    reward[-1] = 0.5
    return np.pad(np.linalg.solve(np.eye(STATES) - GAMMA * steps, reward), 1)


def true_difference() -> float:
    """The advantage of going right in the middle less that of going left."""
    values = true_values()
    return GAMMA * float(values[MIDDLE + 1] - values[MIDDLE - 1])


def walk(seeds: Sequence[int]) -> dict[str, list[list[float]]]:
    """Bias of the difference as GAE estimates it from about 5,500 walks a side, and the deviation of one pair of walks,
    for each λ `[seeds, λ]`."""
    values = true_values()
    inner, critic = values[1:-1], values.copy()
    critic[1:-1] = SHRINK * inner + (1 - SHRINK) * inner.mean()
    found: dict[str, list[list[float]]] = {"bias": [], "deviation": []}
    for seed in seeds:
        moves = numpy_stream(seed, "random walk").choice([-1, 1], (LENGTH, WALKERS))
        places, following = np.empty((2, LENGTH, WALKERS), dtype=np.int64)
        place = np.full(WALKERS, MIDDLE)
        starts = np.ones((LENGTH + 1, WALKERS), dtype=bool)
        for t in range(LENGTH):
            places[t], following[t] = place, place + moves[t]
            starts[t + 1] = (following[t] == 0) | (following[t] == STATES + 1)
            place = np.where(starts[t + 1], MIDDLE, following[t])
        value = torch.tensor(critic, dtype=torch.float32)
        signals = {"values": value[torch.tensor(places)], "next_values": value[torch.tensor(following)]}
        signals |= {"terminated": torch.tensor(starts[1:]), "truncated": torch.zeros(LENGTH, WALKERS, dtype=torch.bool)}
        reward = torch.tensor(following == STATES + 1).float()
        first = starts[:-1] & (np.arange(LENGTH) < LENGTH - TAIL)[:, None]
        sides = [first & (moves == side) for side in (1, -1)]
        estimates = [GAE(gamma=GAMMA, lam=lam).estimates(reward, **signals)[0].numpy() for lam in LAMBDAS]
        right, left = ([one[side] for one in estimates] for side in sides)
        found["bias"].append([float(a.mean() - b.mean()) - true_difference() for a, b in zip(right, left, strict=True)])
        found["deviation"].append([float(np.hypot(a.std(), b.std())) for a, b in zip(right, left, strict=True)])
    return found


def of_walk(found: Measurements) -> Summary:
    """Biases, and root mean squared errors of the difference as estimated from 64 and 256 pairs of walks."""
    bias, deviation = (np.array(found["walk"][name]) for name in ("bias", "deviation"))
    few, many = (np.sqrt(bias**2 + deviation**2 / pairs) for pairs in (FEW, MANY))
    series = {f"error, λ={lam:g}": few[:, i] for i, lam in enumerate(LAMBDAS)}
    critic = (SHRINK - 1) * true_difference()  # the bias of the critic's own difference
    return series | {
        "bias, λ=1": bias[:, -1],
        "bias at λ=0 beside the critic's": np.abs(bias[:, 0] - critic).max(),
        "best λ rises": (many.argmin(1) > few.argmin(1)).astype(float),
    }


# --- the critic's trust region ---------------------------------------------------------------------------------------


def critic_steps(seeds: Sequence[int]) -> list[list[float]]:
    """How far the critic's first steps on CartPole moved it, as a share of ε."""
    method = GAE(num_steps=32, hidden=(16,))
    rows = train_rows(method, "CartPole-v1", 4 * method.pace, seeds)
    return (metric_of(rows, "critic_kl") / method.critic_radius).tolist()


def of_critic_steps(found: Measurements) -> Summary:
    return {"largest share of ε": np.max(found["steps"]), "share of ε": np.mean(found["steps"], axis=1)}


# --- CartPole-v1 -----------------------------------------------------------------------------------------------------

STEPS, CLIMB = 60_000, 8  # updates up to which the better arms are between floor and ceiling, on seeds 1000 and 1001
POLES = {f"λ={lam:g}": GAE(lam=lam) for lam in (0.0, 0.9, 0.96, 1.0)}


def learning(arm: str, seeds: Sequence[int]) -> list[list[float]]:
    """Mean return of the episodes of every batch `[seeds, updates]`."""
    return metric_of(train_rows(POLES[arm], "CartPole-v1", STEPS, seeds), "return").tolist()


def of_learning(found: Measurements) -> Summary:
    curves = {arm: np.array(rows) for arm, rows in found.items()}
    early = {f"early, {arm}": rows[:, :CLIMB].mean(1) for arm, rows in curves.items()}
    reached = {f"reached, {arm}": rows[:, CLIMB - 1] for arm, rows in curves.items()}
    return early | reached | {f"area, {arm}": rows.mean(1) for arm, rows in curves.items()}


def climbs(summary: Summary) -> bool:
    return 50 < max(float(np.mean(summary[f"reached, {arm}"])) for arm in POLES) < 450


ROOM = Gate("room", climbs, f"after {CLIMB} updates the best arm's return is between 50 and 450")

# --- the paper's cart-pole -------------------------------------------------------------------------------------------

EPISODES, UPDATES = 20, 20
PAPER: dict[str, Any] = {**GAE.presets["cart-pole-2015"], "num_envs": EPISODES, "num_steps": PERIOD}


@dataclass(frozen=True)
class TimeBaseline(GAE):
    """Returns less the batch's mean return at the same time since the start, which the paper calls "no value function".
    Right only for batches of whole episodes that start together."""

    def estimates(self, reward: Tensor, **signals: Tensor) -> tuple[Tensor, Tensor]:
        returns, valid = monte_carlo(self.gamma)(reward, **signals), signals["valid"]
        advantage = torch.where(valid, returns - masked_mean(returns, valid, -1), 0.0)
        return advantage, self.target()(reward, **signals)


MIDDLES = (0.92, 0.95, 0.98)  # where the paper saw the fastest improvement
CART_POLES: dict[str, GAE] = {
    **{f"λ={lam:g}": GAE(**PAPER, lam=lam) for lam in (0.0, *MIDDLES, 1.0)},
    "time baseline": TimeBaseline(**PAPER),
    "λ=0.95, ε=0.1": GAE(**PAPER, lam=0.95, critic_radius=0.1),
}


def cart_pole(arm: str, seeds: Sequence[int]) -> list[list[float]]:
    """Mean return of the 20 episodes of every batch `[seeds, batches]`."""
    method = CART_POLES[arm]
    rows = train_rows(method, WholeEpisodes(seeds, EPISODES), UPDATES * method.pace, seeds)
    return metric_of(rows, "return").tolist()


def of_cart_pole(found: Measurements) -> Summary:
    curves = {arm: np.array(rows) for arm, rows in found.items()}
    series = {f"area, {arm}": rows.mean(1) for arm, rows in curves.items()}
    series |= {f"reached, {arm}": rows[:, -1] for arm, rows in curves.items()}
    for name in ("area", "reached"):
        series[f"{name}, middle"] = np.mean([series[f"{name}, λ={lam:g}"] for lam in MIDDLES], axis=0)
    return series


def not_all_at_the_top(summary: Summary) -> bool:
    areas = [float(np.mean(summary[f"area, {arm}"])) for arm in ("middle", "λ=0", "λ=1")]
    return 100 < max(areas) < 900


TOP = Gate("room", not_all_at_the_top, "the best mean return over the batches is between 100 and 900")

CLAIM = Claim(
    slug="gae",
    sentence="A mixture λ strictly between 0 and 1 estimates advantages better, and learns faster, than the TD error "
    "(λ = 0) and than the whole return (λ = 1).",
    source="Schulman et al. 2015, §3 and §6.3.1",
    method=GAE,
    experiments={
        "random walk": Experiment(
            "mechanism",
            {"walk": walk},
            seeds=16,
            minutes=0.06,
            setting="a known difference of advantages on a random walk of 11 states with a biased critic, about 5,500 "
            "walks a side and seed; root mean squared error as estimated from 64 and 256 pairs of walks",
            arms={f"λ={lam:g}": GAE(gamma=GAMMA, lam=lam) for lam in LAMBDAS},
            summary=of_walk,
        ),
        "critic steps": Experiment(
            "mechanism",
            {"steps": critic_steps},
            seeds=8,
            minutes=0.03,
            setting="the first 4 updates on CartPole-v1, 256 steps each",
            arms={"gae": GAE()},
            summary=of_critic_steps,
        ),
        "learning": Experiment(
            "miniature",
            {arm: partial(learning, arm) for arm in POLES},
            seeds=10,
            minutes=5.0,
            setting=f"CartPole-v1, 60,000 steps, 30 updates; mean return of training over the first {CLIMB} updates, and "
            "over all",
            arms=POLES,
            summary=of_learning,
            differs=(
                "CartPole-v1 with two actions, 500 steps at most and networks of two layers of 64",
                "batches of 2048 steps in place of 20 whole episodes",
            ),
        ),
        "cart-pole": Experiment(
            "instance",
            {arm: partial(cart_pole, arm) for arm in CART_POLES},
            seeds=21,
            minutes=6.0,
            setting="the paper's cart-pole: linear policy, critic of 20 tanh units, batches of 20 whole episodes of at "
            "most 1000 steps, 20 batches, γ = 0.99, 21 seeds; mean return over the batches",
            arms=CART_POLES,
            summary=of_cart_pole,
            differs=(
                "a Gaussian force of at most 10 N, a reward of 1 a step and δ = ε = 0.01, which the paper does not state",
                "five of its values of λ, and one of γ",
                "the critic's step may end inside its bound",
            ),
        ),
    },
    parts=(
        *(
            Part(
                f"λ = 0.95 estimates better than λ = {lam}",
                "primary",
                "random walk",
                LogRatio("error, λ=0.95", f"error, λ={lam}"),
                Less(),
            )
            for lam in (0, 1)
        ),
        Part(
            "λ = 1 is unbiased with a wrong critic",
            "primary",
            "random walk",
            Mean("bias, λ=1"),
            Within(0.01),
            says="§3: the estimator at λ = 1 is γ-just regardless of the accuracy of V",
        ),
        Part(
            "λ = 0 has the bias of its critic",
            "primary",
            "random walk",
            Exact("bias at λ=0 beside the critic's"),
            Less(1e-6, against=1e-6),
        ),
        Part(
            "more walks want a larger λ",
            "secondary",
            "random walk",
            Share("best λ rises"),
            More(0.5, against=0.5),
        ),
        Part(
            "every step of the critic stays within its trust region",
            "primary",
            "critic steps",
            Exact("largest share of ε"),
            Less(1 + 1e-6, against=1 + 1e-6),
            says="§5: the average KL between the previous and the new value function is at most ε",
        ),
        *(
            Part(
                f"λ = 0.96 learns faster than λ = {lam}",
                "primary",
                "learning",
                Difference("early, λ=0.96", f"early, λ={lam}"),
                More(),
                gates=(ROOM,),
                says="§6.3.1: the fastest improvement at λ in [0.92, 0.98]",
            )
            for lam in (0, 1)
        ),
        Part(
            "λ = 0.96 learns faster than λ = 0.9",
            "secondary",
            "learning",
            Difference("early, λ=0.96", "early, λ=0.9"),
            More(),
            gates=(ROOM,),
        ),
        Part(
            "over all 30 updates, λ = 0.96 is as good as λ = 1",
            "secondary",
            "learning",
            Difference("area, λ=0.96", "area, λ=1"),
            NoWorse(25.0),
        ),
        *(
            Part(
                f"cart-pole: λ of 0.92 to 0.98 learns faster than λ = {lam}",
                "primary",
                "cart-pole",
                Difference("area, middle", f"area, λ={lam}"),
                More(),
                gates=(TOP,),
                says="§6.3.1: the fastest improvement at λ in [0.92, 0.98]",
            )
            for lam in (0, 1)
        ),
        *(
            Part(
                f"cart-pole: λ of 0.92 to 0.98 ends higher than λ = {lam}",
                "secondary",
                "cart-pole",
                Difference("reached, middle", f"reached, λ={lam}"),
                More(),
                gates=(TOP,),
                says="§6.3.1: after 20 iterations, best at λ in [0.92, 0.99]",
            )
            for lam in (0, 1)
        ),
        Part(
            "cart-pole: a critic beats a baseline that depends on time alone",
            "secondary",
            "cart-pole",
            Difference("area, λ=0.95", "area, time baseline"),
            More(),
            gates=(TOP,),
        ),
        Part(
            "cart-pole: a critic's region of ε = 0.1 is as good as 0.01",
            "exploratory",
            "cart-pole",
            Difference("area, λ=0.95, ε=0.1", "area, λ=0.95"),
            NoWorse(25.0),
            gates=(TOP,),
        ),
    ),
    amended=(
        "The miniature was mended on 2026-11-30: an earlier one, of 2026-11-25, trained TRPO with Adam's critic, and read "
        "returns at their ceiling. The walk was drawn anew, with longer walks in place of padded ones.",
    ),
)
