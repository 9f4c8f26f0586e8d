"""SPO with deep policies on MuJoCo, as in §6.2 of the paper: the released setting, where PPO differs in its loss alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from surefoot.claims.parts import (
    Difference,
    Experiment,
    Gate,
    Less,
    Mean,
    Measurements,
    More,
    Part,
    Published,
    Role,
    Summary,
    Within,
)
from surefoot.claims.training import final, metric_of
from surefoot.loops.common.run import make_learner
from surefoot.loops.on_policy.method import OnPolicy
from surefoot.methods.control.ppo import PPO
from surefoot.methods.control.spo import SPO

if TYPE_CHECKING:
    from surefoot.loops.on_policy.learner import Learner
    from surefoot.models.functional import Model

EPSILON = 0.2


class Watched(OnPolicy):
    """Keeps the largest mean |ρ−1| of any minibatch of the run, as Table 1 of the paper has it."""

    def extra_state(self, model: Model) -> dict[str, Tensor]:
        return super().extra_state(model) | {"largest_deviation": torch.zeros(())}

    def after_step(self, learner: Learner, step: Tensor, names: list[str]) -> None:
        deviation = step[:, names.index("ratio_deviation")]
        learner.extra["largest_deviation"] = torch.maximum(learner.extra["largest_deviation"], deviation)

    def after_update(self, learner: Learner, batch: Any) -> dict[str, Tensor]:
        return {**super().after_update(learner, batch), "largest_deviation": learner.extra["largest_deviation"]}


class WatchedSPO(Watched, SPO):
    pass


class WatchedPPO(Watched, PPO):
    pass


RELEASED = SPO.presets["mujoco-7-layers"]
DEPTH: dict[str, Any] = {"spo": WatchedSPO(**RELEASED), "ppo": WatchedPPO(**RELEASED)}
TEN_MILLION, MILLION = 10_000_000, 1_000_000
# Returns with 7 layers, SPO's and PPO's: means of the last tenth of the curves, and half-widths of their bands.
FIGURE = {"Walker2d-v4": ((3110.0, 1100.0), (1100.0, 500.0)), "HalfCheetah-v4": ((5100.0, 2000.0), (2150.0, 1100.0))}


def depth(arm: str, env: str, until: int, seeds: Sequence[int]) -> dict[str, list[float]]:
    """Of a schedule of 10M steps that is followed for `until` steps: mean return of the last tenth, and the largest mean
    |ρ−1| of any minibatch."""
    learner, history = make_learner(DEPTH[arm], env, list(seeds), TEN_MILLION, compile="on"), []
    try:
        while learner.steps < until:
            history.append(learner.iterate())
    finally:
        learner.close()
    return {"return": final(history), "largest_deviation": metric_of(history, "largest_deviation")[:, -1].tolist()}


def of_depth(found: Measurements) -> Summary:
    series = {}
    for piece, facts in found.items():
        series |= {f"return, {piece}": facts["return"], f"largest |ρ−1|, {piece}": facts["largest_deviation"]}
        if piece.startswith("spo"):
            level = FIGURE[piece.removeprefix("spo, ")][0][0]
            series[f"departure from the figure, {piece}"] = np.array(facts["return"]) / level - 1
    return series


def near_figure(env: str, summary: Summary) -> bool:
    """Whether PPO reaches half of the return that the paper's figure shows for it."""
    return float(np.mean(summary[f"return, ppo, {env}"])) >= FIGURE[env][1][0] / 2


def ratio_parts(name: str, experiment: str, env: str, role: Role) -> tuple[Part, ...]:
    return (
        Part(
            f"{name}: no minibatch with a mean |ρ−1| above ε",
            role,
            experiment,
            Mean(f"largest |ρ−1|, spo, {env}"),
            Less(EPSILON, against=EPSILON),
            says="§6.2 and Table 1: the ratio deviation stays within the trust region",
        ),
        Part(
            f"{name}: PPO has such a minibatch",
            "secondary",
            experiment,
            Mean(f"largest |ρ−1|, ppo, {env}"),
            More(EPSILON, against=EPSILON),
        ),
    )


def depth_parts(env: str) -> tuple[Part, ...]:
    (spo, spread), (ppo, other) = FIGURE[env]
    where = f"Figure 5, as in the repository's README, 7 layers: {spo:g} and {ppo:g}"
    half, name = f"±{spread:g} and ±{other:g}", f"{env}, 7 layers"
    return (
        Part(
            f"{name}: better returns than PPO",
            "primary",
            "depth",
            Difference(f"return, spo, {env}", f"return, ppo, {env}"),
            More(),
            gates=(Gate("reference", partial(near_figure, env), f"PPO reaches half of the figure's {ppo:g}"),),
            published=Published(spo - ppo, where, "digitised", half, 5),
            says="§6.2: SPO trains deep policies on which PPO fails",
        ),
        *ratio_parts(name, "depth", env, "primary"),
        Part(
            f"{name}: return within a third of the figure's",
            "secondary",
            "depth",
            Mean(f"departure from the figure, spo, {env}"),
            Within(1 / 3),
            published=Published(0.0, where, "digitised", half, 5),
        ),
    )


SETTING = (
    "policies of six hidden layers (256-256-128-128-64-64), the authors' released hyperparameters, PPO and SPO differing "
    "in the policy's loss alone; mean return of the episodes of the last tenth, and the largest mean |ρ−1| of any minibatch"
)
DIFFERS = (
    "7 layers only: the figure's 3 layers, where PPO wins in these environments, are left out",
    "seeds 0 to 4 in place of 1 to 5",
    "a truncated episode bootstraps in place of ending with value 0",
    "statistics for normalisation are shared by the 8 environments and change between batches only",
    "advantages are divided by the population's standard deviation (0.1 % larger), Adam's ε is 1e-5",
)
CUT = "depth, 1M steps of 10M"
EXPERIMENTS = {
    CUT: Experiment(
        "miniature",
        {f"{arm}, Walker2d-v4": partial(depth, arm, "Walker2d-v4", MILLION) for arm in DEPTH},
        seeds=5,
        minutes=20,
        setting=f"Walker2d-v4, the first 1M steps of a schedule of 10M, {SETTING}",
        arms=DEPTH,
        summary=of_depth,
        differs=("the run stops after a tenth of its steps", "1 of 6 environments", *DIFFERS),
    ),
    "depth": Experiment(
        "instance",
        {f"{arm}, {env}": partial(depth, arm, env, TEN_MILLION) for env in FIGURE for arm in DEPTH},
        seeds=5,
        minutes=600,
        setting=f"Walker2d-v4 and HalfCheetah-v4, 10M steps, {SETTING}",
        arms=DEPTH,
        summary=of_depth,
        differs=("2 of 6 environments", *DIFFERS),
    ),
}
PARTS = (
    *ratio_parts("first million of Walker2d-v4, 7 layers", CUT, "Walker2d-v4", "primary"),
    Part(
        "first million of Walker2d-v4, 7 layers: better returns than PPO",
        "secondary",
        CUT,
        Difference("return, spo, Walker2d-v4", "return, ppo, Walker2d-v4"),
        More(),
    ),
    *(part for env in FIGURE for part in depth_parts(env)),
)
