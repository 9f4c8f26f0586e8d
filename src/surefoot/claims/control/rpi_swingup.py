"""RPI on dm_control's cartpole-swingup, as EnvPool has it, with oracles of our own: the instance of its claim."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from surefoot.claims.parts import (
    Difference,
    Experiment,
    Gate,
    Mean,
    Measurements,
    More,
    NoWorse,
    Part,
    Published,
    Summary,
)
from surefoot.claims.training import train_rows
from surefoot.envs.make import make_single
from surefoot.envs.names import pool_ids
from surefoot.errors import UsageError
from surefoot.evaluate.rollout import returns
from surefoot.methods.control.ppo import PPO
from surefoot.methods.control.rpi import RPI

SWINGUP, WRAPPERS = (
    "CartpoleSwingup-v1",
    ("flatten", ("time_limit", {"steps": 1000}), "time_aware"),
)  # 1000 steps, a reward in [0, 1] each
TEACHER = PPO(learning_rate=1e-3, minibatch_size=256)
TAUGHT, LEVELS, LOOKS, EPISODES = 1_000_000, (0.2, 0.45, 0.7), 10, 10  # steps; shares of the final return; iterations
BATCH = 8 * 256
BUDGET = 100 * BATCH + 512 * 8  # 100 rounds, and the roll-outs of the oracles before them
BLENDED: dict[str, RPI] = {
    "RPI": RPI(horizon=1000, reward_scale=100.0),
    "RPI, one oracle": RPI(horizon=1000, reward_scale=100.0),
    "MAMBA": RPI(horizon=1000, reward_scale=100.0, baseline="oracles", selection="uniform"),
    "Max-Aggregation": RPI(horizon=1000, reward_scale=100.0, baseline="oracles", lam=0.0),
    "PPO-GAE": RPI(horizon=1000, reward_scale=100.0),
}
ASKED = {"RPI, one oracle": slice(2, 3), "PPO-GAE": slice(0, 0)}  # which of the three oracles; all if not given


def played_return(agent: Any, seed: int) -> float:
    """The mean return of an agent's likeliest actions."""
    place = partial(make_single, SWINGUP, None, WRAPPERS)
    return float(returns(agent, place, EPISODES, seed, slots=EPISODES).mean())


def oracles_of_ppo(seed: int) -> tuple[list[Any], list[float]]:
    """Three agents of one run of PPO, the first that reach 20, 45 and 70 % of its final return, and their returns."""
    if SWINGUP not in pool_ids():
        raise UsageError(f"{SWINGUP} is a task of EnvPool, which has no wheel here: pip install envpool.")
    kept: list[tuple[float, Any]] = []

    def keep(learner: Any, rows: list[dict[str, Any]]) -> None:
        if learner.iteration % LOOKS == 0 or learner.steps >= TAUGHT:
            kept.append((played_return(agent := learner.agent(0), seed), agent))

    train_rows(TEACHER, SWINGUP, TAUGHT, [seed], keep, wrappers=WRAPPERS)
    last = kept[-1][0]
    chosen = [next(one for one in kept if one[0] >= share * last) for share in LEVELS]
    return [agent for _, agent in chosen], [score for score, _ in chosen]


def best_so_far(seed: int, best: list[float], learner: Any, rows: list[dict[str, Any]]) -> None:
    """Append the largest return of the learner's looks until now."""
    if learner.iteration % LOOKS == 0:
        best.append(max([played_return(learner.agent(0), seed), *best[-1:]]))


def swinging(arms: Sequence[str], seeds: Sequence[int]) -> dict[str, list[Any]]:
    """The best return so far at the half and at the end of every arm's budget, and the returns of the oracles."""
    found: dict[str, list[Any]] = {"oracles": [], **{f"{arm}, {when}": [] for arm in arms for when in ("half", "end")}}
    for seed in seeds:
        oracles, scores = oracles_of_ppo(seed)
        found["oracles"].append(scores)
        for arm in arms:
            best, asked = list[float](), oracles[ASKED.get(arm, slice(None))]
            look = partial(best_so_far, seed, best)
            train_rows(BLENDED[arm], SWINGUP, BUDGET, [seed], look, wrappers=WRAPPERS, oracles=asked)
            found[f"{arm}, half"].append(best[len(best) // 2 - 1])
            found[f"{arm}, end"].append(best[-1])
    return found


def of_swinging(found: Measurements) -> Summary:
    """The arms' returns, and that of the best oracle."""
    each = dict(found["arms"])
    return {**{name: x for name, x in each.items() if name != "oracles"}, "oracle": np.max(each["oracles"], axis=1)}


TAUGHT_WELL = Gate("control", lambda s: float(np.mean(s["oracle"])) > 200, "the best oracle returns more than 200")

EXPERIMENT = Experiment(
    "instance",
    {"arms": partial(swinging, tuple(BLENDED))},
    seeds=8,
    minutes=150,
    setting="dm_control's cartpole-swingup of EnvPool, 100 rounds of 2,048 steps after 4,096 of the oracles; three "
    "oracles from one run of PPO, 1M steps, at 20, 45 and 70 % of its final return; best mean return so far of 10 "
    "episodes without noise, every tenth round",
    arms=BLENDED,
    summary=of_swinging,
    differs=(
        "oracles, rounds, networks and learning rates are ours: the paper's are not known",
        "one of eight tasks, 8 seeds",
        "MAMBA and Max-Aggregation are baselines of oracles alone in the same code",
        "rewards are divided by 100, so that Γ = 0.5 is 50 of return; the time left is observed",
    ),
)

PARTS: tuple[Part, ...] = (
    Part(
        "returns more than its best oracle on cartpole-swingup",
        "primary",
        "cartpole-swingup",
        Difference("RPI, end", "oracle"),
        More(),
        gates=(TAUGHT_WELL,),
        says="surpasses all of its oracles",
    ),
    Part(
        "returns more with three oracles than with the best one alone",
        "primary",
        "cartpole-swingup",
        Difference("RPI, end", "RPI, one oracle, end"),
        More(),
        gates=(TAUGHT_WELL,),
        published=Published(45.0, "cartpole with three oracles and with the best one: 645 and below 600", "recalled"),
        says="three oracles are better than the best one",
    ),
    Part(
        "returns no less than PPO with GAE by half of the rounds",
        "primary",
        "cartpole-swingup",
        Difference("RPI, half", "PPO-GAE, half"),
        NoWorse(25.0),
        gates=(TAUGHT_WELL,),
        says="beats PPO with GAE on all eight tasks",
    ),
    Part(
        "returns more than MAMBA after all rounds",
        "secondary",
        "cartpole-swingup",
        Difference("RPI, end", "MAMBA, end"),
        More(),
        gates=(TAUGHT_WELL,),
    ),
    Part(
        "returns more than Max-Aggregation after all rounds",
        "secondary",
        "cartpole-swingup",
        Difference("RPI, end", "Max-Aggregation, end"),
        More(),
        gates=(TAUGHT_WELL,),
    ),
    Part("RPI's return, 645 in the paper", "exploratory", "cartpole-swingup", Mean("RPI, end"), More(600.0)),
)
