"""The claim of FixPO, on a contextual task with a known best action and on CartPole.

The task: contexts s ~ N(0, I₈), actions a ∈ R³, reward −‖a − tanh(2s₁..₃)‖² + ½·N(0, 1), every step a task of its own
(γ = 0). So the expected return and the error of a policy's mean are known without playing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from surefoot.claims.claim import Claim, Estimate, Measurements, Verdict, difference, estimate, metric_of, train_rows
from surefoot.loops.on_policy.method import Batch, OnPolicy, pick
from surefoot.methods.control.fixpo import FixPO
from surefoot.methods.control.fixpo.fixup import Fixup
from surefoot.methods.control.ppo import PPO
from surefoot.models.distributions import Gaussian

if TYPE_CHECKING:
    from surefoot.loops.on_policy.learner import Learner

RADIUS, UPDATES, EPOCHS, MINIBATCHES = 0.2, 30, 10, 32
MOST_FIXUP, WORSE, SHARE_OF_GAIN = 0.05, 1.2, 0.95
COMMON: dict[str, Any] = {
    "epochs": EPOCHS,
    "minibatch_size": 64,
    "learning_rate": 3e-4,
    "anneal": False,
    "value_coefficient": 0.1,
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
CARTPOLE_STEPS = 60_000
CONTEXTS = 4096


class ContextualTarget(gymnasium.Env):
    """A new context every step; the best action is a function of it. It never ends."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (8,), np.float32)
    action_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._context = self.np_random.standard_normal(8, np.float32)
        return self._context, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        missed = action - np.tanh(2 * self._context[:3])
        reward = -float(missed @ missed) + 0.5 * self.np_random.standard_normal()
        self._context = self.np_random.standard_normal(8, np.float32)
        return self._context, reward, False, False, {}


class Unrepaired(FixPO):
    """FixPO without its fixup phase; with `penalty_lr=0`, a fixed penalty."""

    def after_epoch(self, learner: Learner, batch: Batch, start: Tensor) -> dict[str, Tensor]:
        return {}


class Observed(PPO):
    """PPO that also says how far its updates go."""

    def after_update(self, learner: Learner, batch: Batch) -> dict[str, Tensor]:
        vectors = enumerate(learner.vector)
        return {"bounded_kl": torch.stack([Fixup().distance(learner.model, v, pick(batch, i)) for i, v in vectors])}


def _contexts() -> tuple[Tensor, Tensor]:
    """Contexts to judge by, the same for all, and their best actions."""
    contexts = torch.randn(CONTEXTS, 8, generator=torch.Generator().manual_seed(0))
    return contexts, torch.tanh(2 * contexts[:, :3])


def look(learner: Learner, rows: list[dict[str, Any]]) -> None:
    """Add the error of each seed's mean action and its expected return."""
    (contexts, best), distribution = _contexts(), learner.model.distribution
    assert isinstance(distribution, Gaussian)
    for vector, row in zip(learner.vector, rows, strict=True):
        with torch.no_grad():
            mean, log_std = distribution.split(learner.model(vector, contexts)[0])
        row["error"] = float(((mean - best) ** 2).sum(-1).mean())
        row["expected_return"] = -row["error"] - float((2 * log_std[0]).exp().sum())


def measure(seeds: Sequence[int]) -> Measurements:
    bound: dict[str, Any] = {"max_kl": RADIUS, "margin": 3.0}
    task: dict[str, OnPolicy] = {
        "fixpo": FixPO(**TASK, **bound),
        "no_fixup": Unrepaired(**TASK, **bound),
        "fixed_penalty": Unrepaired(**TASK, **bound, penalty_lr=0.0),
        "ppo": Observed(**TASK),
    }
    cartpole: dict[str, OnPolicy] = {"fixpo": FixPO(**CARTPOLE, **bound), "ppo": Observed(**CARTPOLE)}
    best = _contexts()[1]
    untrained = -float((best**2).sum(-1).mean()) - 3 * math.exp(2 * COMMON["log_std_init"])
    found: Measurements = {"untrained_return": untrained, "task": {}, "cartpole": {}}
    for name, method in task.items():
        steps = UPDATES * method.num_envs * method.num_steps
        history = train_rows(method, ContextualTarget, steps, seeds, look, compile="on")
        last = {key: metric_of(history, key)[:, -1].tolist() for key in ("error", "expected_return")}
        found["task"][name] = last | _trust(history)
    for name, method in cartpole.items():
        history = train_rows(method, "CartPole-v1", CARTPOLE_STEPS, seeds, compile="on")
        found["cartpole"][name] = {"return_mean": metric_of(history, "return_mean")[:, -1].tolist(), **_trust(history)}
    return found


def _trust(history: Sequence[Sequence[dict[str, Any]]]) -> dict[str, list[float]]:
    """Each seed's largest KL of an update, and where there is a fixup phase, what it cost."""
    facts = {"largest_kl": metric_of(history, "bounded_kl").max(1).tolist()}
    if "fixup_steps" in history[0][0]:
        facts["fixup_ratio"] = (metric_of(history, "fixup_steps").mean(1) / MINIBATCHES).tolist()
        facts["violating_epochs"] = metric_of(history, "fixup_needed").mean(1).tolist()
        facts["retreats"] = (metric_of(history, "fixup_retreat") > 0).sum(1).astype(float).tolist()
    return facts


def judge(found: Measurements) -> tuple[Verdict, dict[str, Estimate]]:
    task, runs = found["task"], (found["task"]["fixpo"], found["cartpole"]["fixpo"])
    estimates = {
        "largest KL of an update, FixPO": estimate(task["fixpo"]["largest_kl"]),
        "largest KL of an update, penalty without fixup": estimate(task["no_fixup"]["largest_kl"]),
        "largest KL of an update, PPO": estimate(task["ppo"]["largest_kl"]),
        "fixup steps per primary step": estimate(task["fixpo"]["fixup_ratio"]),
        "fixup steps per primary step, CartPole": estimate(found["cartpole"]["fixpo"]["fixup_ratio"]),
        "final error, FixPO": estimate(task["fixpo"]["error"]),
        "final error, PPO": estimate(task["ppo"]["error"]),
        "expected return, FixPO less PPO": difference(task["fixpo"]["expected_return"], task["ppo"]["expected_return"]),
    }
    held = all(kl <= RADIUS for run in runs for kl in run["largest_kl"])
    cheap = all(ratio < MOST_FIXUP for run in runs for ratio in run["fixup_ratio"])
    others = min(np.mean(task[name]["error"]) for name in ("no_fixup", "fixed_penalty", "ppo"))
    if not held or not cheap or np.mean(task["fixpo"]["error"]) > WORSE * others:
        return "refuted", estimates
    fixpo, ppo = (np.mean(task[name]["expected_return"]) - found["untrained_return"] for name in ("fixpo", "ppo"))
    return ("shown" if fixpo >= SHARE_OF_GAIN * ppo else "not shown"), estimates


CLAIM = Claim(
    slug="fixpo",
    sentence="FixPO ends every update inside its trust region, with less than 5 % extra gradient steps, and learns as "
    "well as PPO.",
    baseline="PPO with the clip; the self-tuned KL penalty without the fixup phase; a fixed KL penalty (β = 1)",
    metric="Largest KL(π_old ‖ π) over the states of a batch after each of 30 updates, fixup steps per primary step "
    "over a run, final ‖mean action − best action‖² and expected return on fresh contexts of a contextual task with 8 "
    "inputs and 3 actions; KL and steps also on CartPole-v1, 60,000 steps (its returns are reported, not judged)",
    supported_by="no update of any seed above max_kl = 0.2 on either task, fixup steps under 5 % of the primary steps "
    "in every run, and on the contextual task at least 95 % of PPO's gain in expected return over the untrained policy",
    refuted_by="an update above max_kl, or a run with 5 % fixup steps or more, on either task; or a final error on the "
    "contextual task above 1.2 times that of the best other arm",
    measure=measure,
    judge=judge,
    seeds=3,
)
