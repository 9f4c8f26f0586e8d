"""SPO's claim: the ratio stays near its band where PPO's escapes, and deep policies are the better for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from surefoot.claims.control import spo_mujoco
from surefoot.claims.one_batch import update_on_one_batch
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
    Summary,
    Within,
)
from surefoot.claims.training import last_fifth, metric_of, train_rows
from surefoot.methods.control.ppo import PPO
from surefoot.methods.control.spo import SPO

if TYPE_CHECKING:
    pass

EPSILON = 0.2
DEEP = (256, 256, 128, 128, 64, 64)
ARMS: dict[str, Any] = {"ppo": PPO, "spo": SPO}

# --- a ratio by itself ---------------------------------------------------------------------------------------------

STARTS = (0.1, 0.5, 0.79, 1.0, 1.21, 1.5, 3.0)


def free_ratio(seeds: Sequence[int]) -> dict[str, float]:
    """Gradient ascent on a ratio itself, from several starts and for advantages of both signs: where SPO's ends, and
    how far PPO's moves that starts beyond the edge on the side of its advantage."""
    ratio, advantage = (x.flatten() for x in torch.meshgrid(*_float64(STARTS, (-2, -0.5, 0.5, 2)), indexing="ij"))
    ends = {}
    for arm, method in ARMS.items():
        stabilizer, ends[arm] = method().objective().stabilizer, ratio
        for _ in range(2000):
            ends[arm] = ends[arm] + 0.02 * stabilizer.weight(ends[arm], advantage)
    beyond = (ratio - 1) * advantage.sign() > EPSILON
    return {
        "distance from the edge, spo": float((ends["spo"] - (1 + EPSILON * advantage.sign())).abs().max()),
        "way back, ppo": float((ends["ppo"] - ratio)[beyond].abs().max()),
    }


def of_free_ratio(found: Measurements) -> Summary:
    return found["free ratio"]


def _float64(*values: Sequence[float]) -> list[Tensor]:
    return [torch.tensor(each, dtype=torch.float64) for each in values]


# --- one batch, and CartPole and Pendulum with a deep policy -------------------------------------------------------

BATCH = {f"{depth} layers, lr {lr:g}": (depth, lr) for depth in (2, 6) for lr in (3e-4, 1e-3)}
STEPS = {"CartPole-v1": 40_960, "Pendulum-v1": 61_440}
HARD: dict[str, Any] = {
    "learning_rate": 1e-3,
    "epochs": 20,
    "minibatch_size": 128,
    "hidden": DEEP,
    "critic_hidden": (64, 64),
}


def one_batch(label: str, seeds: Sequence[int]) -> dict[str, dict[str, list[float]]]:
    """What ten epochs on one synthetic batch do to either policy."""
    depth, lr = BATCH[label]
    settings = {"hidden": (64,) * depth, "learning_rate": lr, "critic_hidden": (64, 64)}
    return {arm: update_on_one_batch(method(**settings), seeds, EPSILON) for arm, method in ARMS.items()}


def of_one_batch(found: Measurements) -> Summary:
    """Per seed, each fact of both arms in the setting that speaks most against SPO: where its share of PPO's is largest
    (of the gain, smallest)."""
    series, labels = {}, [label for label in BATCH if label in found]
    for fact in ("ratio_deviation", "outside", "kl", "gain"):
        spo, ppo = (np.array([found[label][arm][fact] for label in labels]) for arm in ("spo", "ppo"))
        worst = ((spo / ppo).argmin if fact == "gain" else (spo / ppo).argmax)(0)[None]
        for arm, table in (("spo", spo), ("ppo", ppo)):
            series[f"{fact}, {arm}"] = np.take_along_axis(table, worst, 0)[0]
        series[f"largest {fact}, spo"] = spo.max(0)
    return series


def learning(env: str, seeds: Sequence[int]) -> dict[str, dict[str, list[float]]]:
    """Mean return of the last fifth of training and mean |ρ−1| of the gradient steps, of either method with a deep policy
    at a high step size."""
    found = {}
    for arm, method in ARMS.items():
        history = train_rows(method(**HARD), env, STEPS[env], seeds, compile="on")
        deviation = metric_of(history, "ratio_deviation").mean(1).tolist()
        found[arm] = {"last": last_fifth(history), "ratio_deviation": deviation}
    return found


def of_miniature(found: Measurements) -> Summary:
    series = dict(of_one_batch(found))
    for env in STEPS:
        series |= {f"return, {arm}, {env}": found[env][arm]["last"] for arm in ARMS}
        series |= {f"|ρ−1|, {arm}, {env}": found[env][arm]["ratio_deviation"] for arm in ARMS}
    return series


def room(env: str, floor: float, ceiling: float, summary: Summary) -> bool:
    """Whether PPO's mean return lies between 20 and 80 % of the way from floor to ceiling."""
    return 0.2 <= (float(np.mean(summary[f"return, ppo, {env}"])) - floor) / (ceiling - floor) <= 0.8


ROOM = {
    "CartPole-v1": Gate(
        "room", partial(room, "CartPole-v1", 0.0, 500.0), "PPO's mean return lies between 100 and 400 of 500"
    ),
    "Pendulum-v1": Gate(
        "room",
        partial(room, "Pendulum-v1", -1200.0, -150.0),
        "PPO's mean return lies between −990 and −360 (random actions: about −1200, solved: about −150)",
    ),
}

CLAIM = Claim(
    slug="spo",
    sentence="SPO keeps probability ratios within a band that PPO's leave, and so trains deep policies better than PPO.",
    source="Xie et al. 2025, abstract, §6.2, Figure 5 and Table 1",
    method=SPO,
    experiments={
        "free ratio": Experiment(
            "mechanism",
            {"free ratio": free_ratio},
            seeds=1,
            minutes=0.01,
            setting="gradient ascent on a single ratio from 7 starts for 4 advantages; nothing is random",
            arms={arm: method() for arm, method in ARMS.items()},
            summary=of_free_ratio,
        ),
        "one batch": Experiment(
            "mechanism",
            {label: partial(one_batch, label) for label in ("2 layers, lr 0.0003",)},
            seeds=8,
            minutes=0.06,
            setting="2048 random states, a Gaussian policy of two tanh layers of 64, 10 epochs of 32 minibatches at "
            "step size 3e-4; no environment",
            arms={arm: method() for arm, method in ARMS.items()},
            summary=of_one_batch,
        ),
        "deep and fast": Experiment(
            "miniature",
            {label: partial(one_batch, label) for label in BATCH} | {env: partial(learning, env) for env in STEPS},
            seeds=5,
            minutes=19.9,
            setting="one synthetic batch as above with 2 or 6 layers of 64 at step size 3e-4 or 1e-3, in the least "
            "favourable of the four; CartPole-v1 (41k steps) and Pendulum-v1 (61k) with policies of six hidden layers "
            "at a constant step size of 1e-3, 20 epochs of 16 minibatches: return of the last fifth of training",
            arms={arm: method(**HARD) for arm, method in ARMS.items()},
            summary=of_miniature,
            differs=(
                "a synthetic batch and two classic-control environments in place of six MuJoCo tasks",
                "41k and 61k steps in place of 10M",
                "step size 1e-3 throughout in place of 3e-4 decaying to 0, and 20 epochs in place of 10",
            ),
        ),
    }
    | spo_mujoco.EXPERIMENTS,
    parts=(
        Part(
            "a ratio's optimum is the edge of its band, from either side",
            "primary",
            "free ratio",
            Exact("distance from the edge, spo"),
            Less(1e-6, against=1e-6),
            says="§5: the maximum is at 1 + ε·sign(Â)",
        ),
        Part(
            "PPO's clip leaves a ratio beyond the edge where it is",
            "secondary",
            "free ratio",
            Exact("way back, ppo"),
            Within(1e-12),
        ),
        Part(
            "ten epochs on one batch keep the mean |ρ−1| below ε",
            "primary",
            "one batch",
            Mean("ratio_deviation, spo"),
            Less(EPSILON, against=EPSILON),
        ),
        Part(
            "they keep it at most half of PPO's",
            "primary",
            "one batch",
            LogRatio("ratio_deviation, ppo", "ratio_deviation, spo"),
            More(math.log(2), against=0.0),
        ),
        Part(
            "no bound sample by sample: ratios leave the band",
            "secondary",
            "one batch",
            Mean("outside, spo"),
            More(0.05, against=0.0),
        ),
        Part(
            "one batch, any depth and step size: mean |ρ−1| below ε",
            "primary",
            "deep and fast",
            Mean("largest ratio_deviation, spo"),
            Less(EPSILON, against=EPSILON),
        ),
        Part(
            "one batch, any depth and step size: at most half of PPO's |ρ−1|",
            "primary",
            "deep and fast",
            LogRatio("ratio_deviation, ppo", "ratio_deviation, spo"),
            More(math.log(2), against=0.0),
        ),
        Part(
            "one batch: at most a third of PPO's share of ratios outside the band",
            "secondary",
            "deep and fast",
            LogRatio("outside, ppo", "outside, spo"),
            More(math.log(3), against=0.0),
        ),
        Part(
            "one batch: a smaller KL than PPO's", "secondary", "deep and fast", LogRatio("kl, ppo", "kl, spo"), More()
        ),
        Part(
            "one batch: gains as much of the surrogate as PPO, up to a tenth",
            "secondary",
            "deep and fast",
            LogRatio("gain, spo", "gain, ppo"),
            NoWorse(-math.log(0.9)),
        ),
        *(
            Part(
                f"{env}, deep policy at a high step size: smaller |ρ−1| than PPO",
                "secondary",
                "deep and fast",
                LogRatio(f"|ρ−1|, ppo, {env}", f"|ρ−1|, spo, {env}"),
                More(),
                says="§6.2: the ratio deviation stays within the trust region where PPO's grows",
            )
            for env in STEPS
        ),
        *(
            Part(
                f"{env}, deep policy at a high step size: better returns than PPO",
                "secondary",
                "deep and fast",
                Difference(f"return, spo, {env}", f"return, ppo, {env}"),
                More(),
                gates=(ROOM[env],),
            )
            for env in STEPS
        ),
        *spo_mujoco.PARTS,
    ),
    amended=(
        "The parts of the miniature were declared on 2026-11-30 over measurements of 2026-11-24, which an earlier judge "
        "had summed up in one word. That judge asked for returns no worse than PPO's; these parts ask for better ones, "
        "as the paper does.",
    ),
)
