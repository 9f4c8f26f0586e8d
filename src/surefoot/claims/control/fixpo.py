"""FixPO's claim: every update ends inside the trust region, at little cost, and learns as well as PPO."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, Normal, kl_divergence

from surefoot.claims.contextual_target import ContextualTarget, look, untrained_return
from surefoot.claims.control import fixpo_mujoco
from surefoot.claims.control.fixpo_mujoco import CHEAP, INSIDE, SAYS, trust
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
from surefoot.claims.training import area, metric_of, train_rows
from surefoot.loops.common.run import make_learner
from surefoot.loops.on_policy.method import Batch, OnPolicy, pick
from surefoot.methods.control.fixpo import FixPO
from surefoot.methods.control.fixpo.fixup import Fixup, Penalty
from surefoot.methods.control.ppo import PPO
from surefoot.models.distributions import Gaussian

if TYPE_CHECKING:
    from surefoot.loops.on_policy.learner import Learner

MARGIN = 0.05  # of what can be gained over the untrained policy


class Unrepaired(FixPO):
    """FixPO without its fixup phase; with `penalty_lr=0`, a fixed penalty."""

    def after_epoch(self, learner: Learner, batch: Batch, start: Tensor) -> dict[str, Tensor]:
        return {}


class Observed(PPO):
    """PPO that also says how far its updates go."""

    def after_update(self, learner: Learner, batch: Batch) -> dict[str, Tensor]:
        vectors = enumerate(learner.vector)
        return {"bounded_kl": torch.stack([Fixup().distance(learner.model, v, pick(batch, i)) for i, v in vectors])}


# --- a few updates at a step size that leaves the region, and exact numbers ----------------------------------------

TINY: dict[str, Any] = {"num_envs": 4, "num_steps": 32, "minibatch_size": 32, "epochs": 3, "hidden": (8,)} | {
    "learning_rate": 0.03,
    "max_kl": 0.05,
}
ENVS = ("surefoot/ContinuousTarget-v0", "surefoot/ContextualAction-v0")
UPDATED: dict[str, FixPO] = {"fixpo": FixPO(**TINY), "no fixup": Unrepaired(**TINY)}
TRACE = {0.05: 0.99, 0.1: 0.980490, 0.2: 0.974894, 0.4: 0.977557, 0.6: 0.983375}  # β after each largest KL


def tiny(arm: str, seeds: Sequence[int]) -> dict[str, dict[str, list[float]]]:
    """Three updates with a Gaussian and with a categorical policy: the largest KL over the states of any update's batch
    in units of the bound, by torch's own distributions, and the share of epochs that violated it before the fixup."""
    method, found = UPDATED[arm], {}
    for env in ENVS:
        learner = make_learner(method, env, list(seeds), 10**6)
        largest, needed = torch.zeros(len(seeds)), torch.zeros(len(seeds))
        for learner.iteration in range(3):
            learner.lr_tensor = torch.tensor(learner.lr)
            batch = learner.estimate(learner.collect(learner.vector))
            metrics = method.update(learner, batch)
            largest = torch.maximum(largest, torch.stack([_largest_kl(learner, batch, i) for i in range(len(seeds))]))
            needed += metrics.get("fixup_needed", torch.zeros(())) / 3
        learner.close()
        found[env] = {"largest": (largest / method.max_kl).tolist(), "needed": needed.tolist()}
    return found


def _largest_kl(learner: Learner, batch: Batch, seed: int) -> Tensor:
    one = pick(batch, seed)
    with torch.no_grad():
        old, new = one["old_params"], learner.model.evaluate(learner.vector[seed], one)[0]
    return kl_divergence(_distribution(learner, old), _distribution(learner, new))[one["valid"]].max()


def _distribution(learner: Learner, params: Tensor) -> Any:
    distribution = learner.model.distribution
    if not isinstance(distribution, Gaussian):
        return Categorical(logits=params)
    mean, log_std = distribution.split(params)
    return Independent(Normal(mean, log_std.exp()), 1)


def exact_numbers(seeds: Sequence[int]) -> dict[str, float]:
    """How far β departs from Adam's trace by hand, and how far a fixup moves a policy that violates nothing."""
    method = FixPO(**TINY, margin=3.0, penalty_lr=0.01)
    penalty, departures = Penalty.start(method.penalty), []
    fixup = Fixup(radius=0.5, margin=method.margin, weight_lr=method.penalty_lr)
    for kl, wanted in TRACE.items():
        penalty = fixup.next_penalty(penalty, torch.tensor(kl))
        departures.append(abs(float(penalty.weight) - wanted))
    learner = make_learner(method, ENVS[0], [seeds[0]], 10**6)
    learner.lr_tensor = torch.tensor(learner.lr)
    batch, before = learner.estimate(learner.collect(learner.vector)), learner.vector
    learner.vector = before + 1e-3 * torch.randn(before.shape, generator=torch.Generator().manual_seed(0))
    inside = learner.vector.clone()
    steps = method.after_epoch(learner, batch, before)["fixup_steps"]
    learner.close()
    moved = float((learner.vector - inside).abs().max())
    return {"β": max(departures), "feasible": max(moved, float(steps.max()))}


def of_updates(found: Measurements) -> Summary:
    series: dict[str, Any] = {"departure of β": found["exact"]["β"], "feasible, moved": found["exact"]["feasible"]}
    for arm in UPDATED:
        series[f"KL/bound, {arm}"] = np.array([found[arm][env]["largest"] for env in ENVS]).max(0)
    series["largest KL/bound"] = series["KL/bound, fixpo"].max()
    series["violating epochs"] = np.array([found["fixpo"][env]["needed"] for env in ENVS]).mean(0)
    return series


def bound_tested(summary: Summary) -> bool:
    return float(np.mean(summary["violating epochs"])) > 0.1


# --- the contextual task and CartPole ------------------------------------------------------------------------------

RADIUS, UPDATES, MINIBATCHES = 0.2, 30, 32
COMMON: dict[str, Any] = {  # all arms alike, critics too
    "epochs": 10,
    "minibatch_size": 64,
    "learning_rate": 3e-4,
    "anneal": False,
    "value_coefficient": 0.2,
    "value_clip": 0.2,
    "log_std_init": -0.5,
}
TASK: dict[str, Any] = COMMON | {
    "num_envs": 32,
    "num_steps": 64,
    "gamma": 0.0,
    "normalize_observations": False,
    "normalize_rewards": False,
}
CARTPOLE: dict[str, Any] = COMMON | {"num_envs": 8, "num_steps": 256}
CARTPOLE_STEPS = UPDATES * 2048
BOUND: dict[str, Any] = {"max_kl": RADIUS, "margin": 3.0}
ON_TASK: dict[str, OnPolicy] = {
    "fixpo": FixPO(**TASK, **BOUND),
    "no fixup": Unrepaired(**TASK, **BOUND),
    "fixed penalty": Unrepaired(**TASK, **BOUND, penalty_lr=0.0),
    "ppo": Observed(**TASK),
}
ON_CARTPOLE: dict[str, OnPolicy] = {"fixpo": FixPO(**CARTPOLE, **BOUND), "ppo": Observed(**CARTPOLE)}


def on_task(arm: str, seeds: Sequence[int]) -> dict[str, list[float]]:
    """Final error and expected return on the contextual task, and how far and at what cost the updates went."""
    history = train_rows(ON_TASK[arm], ContextualTarget, UPDATES * 2048, seeds, look, compile="on")
    return {key: metric_of(history, key)[:, -1].tolist() for key in ("error", "expected_return")} | trust(
        history, MINIBATCHES
    )


def on_cartpole(arm: str, seeds: Sequence[int]) -> dict[str, list[float]]:
    """Mean return of the last 100 episodes and of all of training on CartPole, and the same of the updates."""
    history = train_rows(ON_CARTPOLE[arm], "CartPole-v1", CARTPOLE_STEPS, seeds, compile="on")
    return {"last": metric_of(history, "return_mean")[:, -1].tolist(), "area": area(history)} | trust(
        history, MINIBATCHES
    )


def of_learning(found: Measurements) -> Summary:
    """Scores: on the contextual task 0 for the untrained policy and 1 for the best one, on CartPole return/500."""
    untrained = untrained_return(COMMON["log_std_init"])
    series: dict[str, Any] = {}
    for piece, facts in found.items():
        series |= {f"{name}, {piece}": np.array(values) for name, values in facts.items()}
        if "expected_return" in facts:
            series[f"score, {piece}"] = 1 - np.array(facts["expected_return"]) / untrained
        else:
            series |= {
                f"{name}, {piece}": np.array(facts[key]) / 500 for name, key in (("score", "last"), ("area", "area"))
            }
    trained = [found[f"fixpo, {where}"] for where in ("task", "CartPole")]
    series["largest KL/bound"] = max(max(facts["largest_kl"]) for facts in trained) / RADIUS
    series["retreats"] = sum(sum(facts["retreats"]) for facts in trained)
    return series


def ceiling_afar(where: str, summary: Summary) -> bool:
    return float(np.mean(summary[f"score, ppo, {where}"])) <= 1 - MARGIN


ROOM = Gate("room", partial(ceiling_afar, "CartPole"), "PPO's mean return is at most 475 of 500, less than the margin")


CLAIM = Claim(
    slug="fixpo",
    sentence="FixPO ends every update inside its trust region, with less than 5 % extra gradient steps, and learns as "
    "well as PPO, up to 5 % of what can be gained.",
    source="Zentner et al. 2023, abstract and Figure 3",
    method=FixPO,
    experiments={
        "few updates": Experiment(
            "mechanism",
            {"exact": exact_numbers} | {arm: partial(tiny, arm) for arm in UPDATED},
            seeds=8,
            minutes=0.05,
            setting="three updates of a Gaussian policy in a continuous task and of a categorical one in a discrete task, "
            "at a step size of 0.03 with a bound of 0.05, KL by torch.distributions; worked numbers",
            arms=UPDATED,
            summary=of_updates,
        ),
        "learning": Experiment(
            "miniature",
            {f"{arm}, task": partial(on_task, arm) for arm in ON_TASK}
            | {f"{arm}, CartPole": partial(on_cartpole, arm) for arm in ON_CARTPOLE},
            seeds=8,
            minutes=11,
            setting="a contextual task with 8 inputs and 3 actions, and CartPole-v1: 30 updates of 2048 steps each, KL at "
            "most 0.2 on every state, critics alike; scores are 0 for the untrained and 1 for the best policy of the "
            "contextual task, and return/500 on CartPole",
            arms=ON_TASK | {f"{arm}, CartPole": method for arm, method in ON_CARTPOLE.items()},
            summary=of_learning,
            differs=(
                "two small tasks in place of seven MuJoCo tasks; 61k steps in place of 10M",
                "minibatches of 64 in place of 512, and no decay of the step size",
                "KL at most 0.2 in place of 0.5",
                "advantages are standardised",
            ),
        ),
    }
    | fixpo_mujoco.EXPERIMENTS,
    parts=(
        Part(
            "every update ends inside the trust region",
            "primary",
            "few updates",
            Exact("largest KL/bound"),
            INSIDE,
            gates=(Gate("room", bound_tested, "over a tenth of the epochs violate the bound before the fixup"),),
            says=SAYS[INSIDE],
        ),
        Part(
            "without the fixup they end outside",
            "primary",
            "few updates",
            Mean("KL/bound, no fixup"),
            More(1.0, against=1.0),
        ),
        Part(
            "the penalty follows Adam's worked numbers",
            "secondary",
            "few updates",
            Exact("departure of β"),
            Less(1e-5, against=1e-5),
        ),
        Part(
            "a fixup leaves a policy inside the region as it is",
            "secondary",
            "few updates",
            Exact("feasible, moved"),
            Within(0.0),
        ),
        Part(
            "no update of a whole run leaves the trust region",
            "primary",
            "learning",
            Exact("largest KL/bound"),
            INSIDE,
            says=SAYS[INSIDE],
        ),
        *(
            Part(
                f"{where}: less than 5 % extra gradient steps",
                "primary",
                "learning",
                Mean(f"fixup_share, fixpo, {piece}"),
                CHEAP,
                says=SAYS[CHEAP],
            )
            for where, piece in (("contextual task", "task"), ("CartPole-v1", "CartPole"))
        ),
        Part(
            "contextual task: as good as PPO, up to 5 % of what can be gained",
            "primary",
            "learning",
            Difference("score, fixpo, task", "score, ppo, task"),
            NoWorse(MARGIN),
        ),
        Part(
            "CartPole-v1: as good as PPO, up to 5 % of the largest return",
            "primary",
            "learning",
            Difference("score, fixpo, CartPole", "score, ppo, CartPole"),
            NoWorse(MARGIN),
            gates=(ROOM,),
        ),
        Part(
            "CartPole-v1: learns as fast as PPO, up to 5 % of the largest return",
            "secondary",
            "learning",
            Difference("area, fixpo, CartPole", "area, ppo, CartPole"),
            NoWorse(MARGIN),
        ),
        Part(
            "contextual task: final error at most 1.2 times PPO's",
            "secondary",
            "learning",
            LogRatio("error, fixpo, task", "error, ppo, task"),
            Less(math.log(1.2), against=math.log(1.2)),
        ),
        Part(
            "the fixup costs nothing: as good as the penalty alone, up to 1 % of what can be gained",
            "secondary",
            "learning",
            Difference("score, fixpo, task", "score, no fixup, task"),
            NoWorse(0.01),
        ),
        *(
            Part(
                f"{name}'s largest KL lies outside the trust region",
                "secondary",
                "learning",
                Mean(f"largest_kl, {arm}"),
                More(RADIUS, against=RADIUS),
            )
            for name, arm in (
                ("the penalty without fixup", "no fixup, task"),
                ("a fixed penalty", "fixed penalty, task"),
                ("PPO", "ppo, task"),
                ("PPO on CartPole-v1", "ppo, CartPole"),
            )
        ),
        Part(
            "no fixup ends by moving back to the old policy", "exploratory", "learning", Exact("retreats"), Within(0.0)
        ),
        *fixpo_mujoco.PARTS,
    ),
    amended=(
        "The first measurements, of 2026-11-24 with 3 seeds, weighted FixPO's critic half as much as the released code. "
        "They left CartPole's returns unjudged, in which FixPO was behind PPO by 0.05 of the largest return.",
        "The parts of the miniature were declared on 2026-11-30, before its measurements with 8 seeds and equal critics.",
    ),
)
