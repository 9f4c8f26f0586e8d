"""FixPO on MuJoCo, as in Figure 3 of the paper: its released setting against PPO's of the same authors."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from surefoot.claims.parts import (
    Difference,
    Exact,
    Experiment,
    Gate,
    Less,
    Mean,
    Measurements,
    More,
    Part,
    Published,
    Summary,
    Within,
)
from surefoot.claims.training import metric_of
from surefoot.loops.common.run import make_learner
from surefoot.loops.on_policy.method import OnPolicy
from surefoot.methods.control.fixpo import FixPO
from surefoot.methods.control.ppo import PPO

ROUNDING = 1e-6  # of float32, relative
FEW = 0.05  # share of extra gradient steps
INSIDE, CHEAP = Less(1 + ROUNDING, against=1 + ROUNDING), Less(FEW, against=FEW)
SAYS = {
    INSIDE: "abstract: a trust region is enforced on every policy update",
    CHEAP: "abstract: fewer than 5 % additional gradient steps",
}


def trust(history: Sequence[Sequence[dict[str, Any]]], steps: int) -> dict[str, list[float]]:
    """Each seed's largest KL of an update, and where there is a fixup phase, what it cost."""
    facts = {"largest_kl": metric_of(history, "bounded_kl").max(1).tolist()}
    if "fixup_steps" in history[0][0]:
        facts["fixup_share"] = (metric_of(history, "fixup_steps").mean(1) / steps).tolist()
        facts["violating_epochs"] = metric_of(history, "fixup_needed").mean(1).tolist()
        facts["retreats"] = (metric_of(history, "fixup_retreat") > 0).sum(1).astype(float).tolist()
    return facts


RELEASED: dict[str, OnPolicy] = {
    "fixpo": FixPO(**FixPO.presets["mujoco-2023"]),
    "ppo": PPO(num_envs=64, num_steps=32, anneal=True, standardize=False, log_std_init=-0.5),  # 0.25·(V − G)² is 0.5·½  # type: ignore[arg-type]
}
TEN_MILLION, MILLION = 10_000_000, 1_000_000
# Returns after 1M, 3M and 10M steps.
FIGURE = {
    "InvertedDoublePendulum-v4": {"fixpo": (8900.0, 8900.0, 9110.0), "ppo": (6560.0, 5710.0, 5360.0)},
    "Swimmer-v4": {"fixpo": (32.0, 93.0, 115.0), "ppo": (35.0, 56.0, 69.0)},
}
MARKS = {"1M": MILLION, "3M": 3 * MILLION, "10M": TEN_MILLION}


def mujoco(arm: str, env: str, until: int, seeds: Sequence[int]) -> dict[str, Any]:
    """Mean return of the last 100 training episodes after 1M, 3M and 10M steps, as far as `until`, of a schedule of
    10M; how far the updates went; and the share of fixup steps."""
    learner, history = make_learner(RELEASED[arm], env, list(seeds), TEN_MILLION, compile="on"), []
    found: dict[str, Any] = {}
    try:
        for mark, steps in MARKS.items():
            while learner.steps < min(steps, until):
                history.append(learner.iterate())
            if steps <= until:
                found[f"return at {mark}"] = metric_of(history, "return_mean")[:, -1].tolist()
    finally:
        learner.close()
    method = RELEASED[arm]
    return found | (trust(history, method.pace // method.minibatch_size) if arm == "fixpo" else {})


def of_mujoco(found: Measurements) -> Summary:
    series: dict[str, Any] = {}
    for piece, facts in found.items():
        arm, env = piece.split(", ")
        series |= {f"{name}, {piece}": np.array(values) for name, values in facts.items()}
        for (mark, _), level in zip(MARKS.items(), FIGURE[env][arm], strict=True):
            if f"return at {mark}" in facts:
                series[f"departure from the figure at {mark}, {piece}"] = (
                    np.array(facts[f"return at {mark}"]) / level - 1
                )
        if arm == "fixpo":
            series[f"largest KL/bound, {env}"] = max(facts["largest_kl"]) / FixPO().max_kl
    return series


def near_figure(env: str, mark: str, summary: Summary) -> bool:
    """Whether PPO reaches half of the return that the figure shows for it."""
    return float(np.mean(summary[f"departure from the figure at {mark}, ppo, {env}"])) >= -0.5


def figure_parts(experiment: str, env: str, mark: str) -> tuple[Part, ...]:
    ours, theirs = (FIGURE[env][arm][list(MARKS).index(mark)] for arm in ("fixpo", "ppo"))
    where = f"Figure 3, from the authors' notebook, {mark} steps: {ours:g} and {theirs:g}"
    gate = Gate("reference", partial(near_figure, env, mark), f"PPO reaches half of the figure's {theirs:g}")
    name = f"{env}, {mark} steps"
    return (
        Part(
            f"{name}: better returns than PPO",
            "primary",
            experiment,
            Difference(f"return at {mark}, fixpo, {env}", f"return at {mark}, ppo, {env}"),
            More(),
            gates=(gate,),
            published=Published(ours - theirs, where, "digitised", n=10),
        ),
        Part(
            f"{name}: every update ends inside the trust region",
            "primary",
            experiment,
            Exact(f"largest KL/bound, {env}"),
            INSIDE,
            says=SAYS[INSIDE],
        ),
        Part(
            f"{name}: less than 5 % extra gradient steps",
            "primary",
            experiment,
            Mean(f"fixup_share, fixpo, {env}"),
            CHEAP,
            says=SAYS[CHEAP],
        ),
        Part(
            f"{name}: return within a fifth of the figure's",
            "secondary",
            experiment,
            Mean(f"departure from the figure at {mark}, fixpo, {env}"),
            Within(0.2),
            published=Published(0.0, where, "digitised", n=10),
        ),
    )


DIFFERS = (
    "v4 environments in place of v2 (InvertedDoublePendulum) and v3 (Swimmer)",
    "5 seeds in place of 10; returns of the last 100 training episodes in place of 10 test episodes, both with sampled "
    "actions",
    "rewards are scaled, so that advantages are too; the released code scales the critic's targets and leaves advantages "
    "in the rewards' own units",
    "PPO's advantages are estimated once a batch in place of once an epoch",
    "Adam's ε is 1e-5 in place of 1e-8; statistics for normalisation change between batches only",
    "FixPO and PPO only: TRPO, KL projection layers and the ablations are left out, as are the other environments, among "
    "them HalfCheetah, where the figure has FixPO behind PPO",
)
SETTING = (
    "the authors' released hyperparameters: FixPO 64 environments, batches of 8192, minibatches of 512, KL at most 0.5; "
    "PPO batches of 2048, minibatches of 64, clip range 0.2; step size decaying to 0 over 10M steps"
)

EXPERIMENTS = {
    "first million": Experiment(
        "instance",
        {
            f"{arm}, InvertedDoublePendulum-v4": partial(mujoco, arm, "InvertedDoublePendulum-v4", MILLION)
            for arm in RELEASED
        },
        seeds=5,
        minutes=15,
        setting=f"InvertedDoublePendulum-v4, the first 1M steps; {SETTING}",
        arms=RELEASED,
        summary=of_mujoco,
        differs=("the run stops after a tenth of its steps", *DIFFERS),
    ),
    "10M steps": Experiment(
        "instance",
        {f"{arm}, {env}": partial(mujoco, arm, env, TEN_MILLION) for env in FIGURE for arm in RELEASED},
        seeds=5,
        minutes=280,
        setting=f"InvertedDoublePendulum-v4 and Swimmer-v4; {SETTING}",
        arms=RELEASED,
        summary=of_mujoco,
        differs=DIFFERS,
    ),
}
PARTS = (
    *figure_parts("first million", "InvertedDoublePendulum-v4", "1M"),
    *(part for env in FIGURE for part in figure_parts("10M steps", env, "10M")),
)
