"""S-DQN's and S-PPO's claim: an agent that is trained for the noise that certifies it still acts well under it."""

from __future__ import annotations

from functools import partial

import numpy as np

from surefoot.claims.parts import (
    Claim,
    Difference,
    Exact,
    Experiment,
    Gate,
    Less,
    LogRatio,
    Mean,
    More,
    Part,
    Share,
    Summary,
    Within,
)
from surefoot.claims.robust.noisy_patterns import METHOD, SIGMA, linear, of_linear, of_patterns, patterns
from surefoot.claims.robust.smoothed_training import DENOISED, PPOS, medians, of_medians, of_poles, poles
from surefoot.methods.robust.smoothed_agents import SmoothedPPO


def swings(summary: Summary) -> bool:
    return float(np.mean(summary["S-PPO, clean"])) >= -500


def hops(summary: Summary) -> bool:
    return float(np.mean(summary["PPO, clean"])) >= 300


def balances(summary: Summary) -> bool:
    return float(np.mean(summary["DQN, clean"])) >= 400


def costs(summary: Summary) -> bool:
    return float(np.mean(summary["DQN, smoothed at test, clean"] / summary["DQN, clean"])) <= 0.7


LEARNS = Gate("control", balances, "DQN without noise reaches 400 of 500")
ROOM = Gate("room", costs, "smoothing DQN at test costs at least 30 % of its return")
SWINGS = Gate("control", swings, "S-PPO reaches −500 on Pendulum")
HOPS = Gate("control", hops, "PPO smoothed at test reaches 300 on Hopper")
POLE_ARMS = ("DQN", "DQN, smoothed at test", "noisy DQN", *DENOISED)

CLAIM = Claim(
    slug="smoothed-agents",
    sentence="An agent trained for the noise that certifies it keeps its return under that noise, where an ordinary one "
    "smoothed at test time loses it, and attacks must go through the noise.",
    source="Sun, Gao and Weng 2024, abstract and the project's figure",
    method=SmoothedPPO,
    experiments={
        "linear": Experiment(
            "mechanism",
            {"linear": linear},
            seeds=20,
            minutes=0.02,
            setting="a linear policy under its strongest attack of 0.15 at σ = 0.2, 400 medians of 100 draws a seed; a "
            "threshold one σ away, 400 votes of 100 draws a seed",
            arms={"S-PPO": SmoothedPPO(sigma=SIGMA)},
            summary=of_linear,
        ),
        "patterns": Experiment(
            "mechanism",
            {"patterns": patterns},
            seeds=8,
            minutes=0.06,
            setting="two patterns of eight numbers in noise of deviation 1, a frozen Q-network that looks at the first; "
            "300 steps of S-DQN's loss, 101 votes in each of 100 states, attacks of √8 in ten steps",
            arms={"S-DQN": METHOD},
            summary=of_patterns,
        ),
        "cart-pole": Experiment(
            "miniature",
            {arm: partial(poles, arm) for arm in POLE_ARMS},
            seeds=8,
            minutes=30,
            setting="CartPole-v1, 120k steps, of which the first 51k train the base (the noisy DQN learns in all); noise "
            "of 0.3 in units of the observations, 50 votes; 50 episodes an attack",
            arms=DENOISED,
            summary=of_poles,
            differs=("CartPole and a denoiser of two layers in place of Atari and DnCNN",),
        ),
        "pendulum": Experiment(
            "miniature",
            {arm: partial(medians, "Pendulum-v1", arm) for arm in PPOS["Pendulum-v1"]},
            seeds=8,
            minutes=30,
            setting="Pendulum-v1, 300k steps, σ = 0.3, 8 draws in training and 50 at test; 50 episodes",
            arms=PPOS["Pendulum-v1"],
            summary=of_medians,
            differs=("Pendulum in place of Hopper and Walker", "8 draws in training in place of 20"),
        ),
        "hopper": Experiment(
            "instance",
            {arm: partial(medians, "Hopper-v5", arm) for arm in PPOS["Hopper-v5"]},
            seeds=8,
            minutes=1100,
            setting="Hopper-v5, 976 iterations of 2048 steps, σ = 0.2, 20 draws in training and 100 at test",
            arms=PPOS["Hopper-v5"],
            summary=of_medians,
            differs=(
                "version 5 of the environment",
                "8 seeds and their mean in place of the median agent of 15",
                "MAD through the noise in place of the strongest of four attacks, two of them learned",
                "our PPO's critic and normalisation; the regulariser by sign steps, without a warm-up",
            ),
        ),
    },
    parts=(
        Part(
            "the bound of the median is attained",
            "primary",
            "linear",
            Exact("moved by the strongest attack / allowed − 1"),
            Within(1e-4),
        ),
        Part(
            "the strongest attack beats the bound no oftener than its confidence allows",
            "primary",
            "linear",
            Mean("beaten"),
            Less(0.05, against=0.05),
        ),
        Part(
            "a bound for no attack would be beaten",
            "secondary",
            "linear",
            Mean("beaten, no budget"),
            More(0.5, against=0.5),
        ),
        Part(
            "a radius is beyond the true one no oftener than its confidence allows",
            "primary",
            "linear",
            Mean("radius above the distance"),
            Less(0.05, against=0.05),
        ),
        Part(
            "a radius is most of the true one",
            "secondary",
            "linear",
            Mean("radius / distance"),
            More(0.5, against=0.25),
        ),
        Part(
            "smoothing a network that never saw the noise destroys its votes",
            "secondary",
            "patterns",
            Mean("plain"),
            Less(0.1, against=0.5),
            says="abstract: existing smoothed agents have a low clean reward",
        ),
        Part(
            "a denoiser restores them",
            "primary",
            "patterns",
            Difference("denoised", "plain"),
            More(0.9, against=0.1),
            says="section on S-DQN",
        ),
        Part(
            "and their certificates",
            "secondary",
            "patterns",
            Difference("radius, denoised", "radius, plain"),
            More(0.2),
        ),
        Part(
            "an attack through the noise is stronger",
            "primary",
            "patterns",
            Difference("denoised, PGD", "denoised, S-PGD"),
            More(),
            says="section on the smoothed attack",
        ),
        Part(
            "S-DQN keeps most of DQN's return",
            "primary",
            "cart-pole",
            Mean("S-DQN / DQN, clean"),
            More(0.9, against=0.5),
            gates=(LEARNS, ROOM),
        ),
        Part(
            "S-DQN's return is at least 1.3 times that of DQN smoothed at test",
            "primary",
            "cart-pole",
            LogRatio("S-DQN, clean", "DQN, smoothed at test, clean"),
            More(float(np.log(1.3)), against=float(np.log(1.1))),
            gates=(LEARNS, ROOM),
        ),
        Part(
            "S-DQN's return under the strongest attack is higher than that of DQN smoothed at test",
            "primary",
            "cart-pole",
            LogRatio("S-DQN, strongest attack", "DQN, smoothed at test, strongest attack"),
            More(),
            gates=(LEARNS, ROOM),
            says="abstract: 2.16 times, mean over environments",
        ),
        Part(
            "S-PGD is at least as strong as PGD",
            "secondary",
            "cart-pole",
            Share("S-PGD at least as strong"),
            More(0.5, against=0.5),
            gates=(LEARNS,),
        ),
        Part(
            "adversarial batches help under attack",
            "exploratory",
            "cart-pole",
            Difference("S-DQN (S-PGD), strongest attack", "S-DQN, strongest attack"),
            More(),
            gates=(LEARNS,),
        ),
        Part(
            "a denoiser does better than training DQN under the noise",
            "exploratory",
            "cart-pole",
            Difference("S-DQN, clean", "noisy DQN, clean"),
            More(),
            gates=(LEARNS,),
        ),
        *(
            part
            for place, gate in (("pendulum", SWINGS), ("hopper", HOPS))
            for part in (
                Part(
                    f"S-PPO's return is higher than PPO's smoothed at test, {place}",
                    "primary",
                    place,
                    Difference("S-PPO, clean", "PPO, clean"),
                    More(),
                    gates=(gate,),
                ),
                Part(
                    f"and its actions diverge less, {place}",
                    "secondary",
                    place,
                    LogRatio("S-PPO, divergence", "PPO, divergence"),
                    Less(float(np.log(0.8))),
                    gates=(gate,),
                ),
                Part(
                    f"also under attack, {place}",
                    "secondary",
                    place,
                    Difference("S-PPO, attacked", "PPO, attacked"),
                    More(),
                    gates=(gate,),
                ),
            )
        ),
        Part(
            "the regulariser helps under attack",
            "secondary",
            "hopper",
            Difference("S-PPO (regularised), attacked", "S-PPO, attacked"),
            More(),
            gates=(HOPS,),
        ),
    ),
    not_run="S-DQN on Pong, Freeway and RoadRunner needs base networks of 6M frames and a GPU for the denoiser; Walker2d "
    "is as long as Hopper, about 40 core-minutes a seed and arm; learned attackers take 216 settings of 1M steps each.",
)
