"""HNPG: a trust-region natural gradient whose critic is fitted to a data set and to fresh steps at once.

    f_h ← argmin_f  (1 − α)·mean_on (f(s, a) − y)² + α·mean_off (f(s, a) − r − γ·f_{h+1}(s', a'))²    a' ~ π,  f_H = 0
    maximise  (1 − α)·mean_on[ ρÂ ] + α·mean_off[ ρÂ ]  subject to  the same mean of KL(π_old ‖ π) ≤ δ

Data that reach where the policy does not yet go show it the way; and since y are plain returns of the policy's own
steps, a fit that the data mislead is put right by them. Use it where a modest data set covers good behaviour and a
simulator is at hand. Episodes have a fixed length H; every step h has a policy and a critic of its own, chosen by the
observation's last entry, the number of the step (surefoot/Comblock5-v0 has it; elsewhere the wrapper
time_aware:normalize=false).

Yifei Zhou, Ayush Sekhari, Yuda Song, Wen Sun, *Offline Data Enhanced On-Policy Policy Gradient with Provable
Guarantees* (2024), arXiv:2311.08384, algorithms 4 and 5, and the authors' code. The tabular form, HAC, is in `tabular`.

Differences: the paper weighs the on-policy part by λ, here α = 1/(1 + λ), so that 0 is TRPO with networks for every
step and 1 fitted Q evaluation alone. In states of the data the actions are drawn from the policy, as in the code
(algorithm 3 takes those of the data, whose ratio to the policy's would be wrong). Both the surrogate and the KL are
checked in the line search; the code checks the first. Episodes that a batch cuts have no return and are left out of the
critic's fit. Single precision, orthogonal initialisation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from numpy.typing import NDArray
from torch import Tensor

from surefoot.data.transitions import Transitions
from surefoot.hyperparameters import hyperparameter
from surefoot.loops.common.collect import Rollout
from surefoot.loops.on_policy.method import Batch
from surefoot.methods.control.hnpg.critic import Fit, Judge, Targets, returns_to_go, set_weights
from surefoot.methods.control.hnpg.logged import Logged, by_step, drawn
from surefoot.methods.control.trpo import TRPO
from surefoot.models.functional import Model
from surefoot.objectives import aggregation
from surefoot.seeding import torch_stream

if TYPE_CHECKING:
    from surefoot.loops.on_policy.hybrid import HybridLearner


@dataclass(frozen=True)
class HNPG(TRPO):
    """Natural policy gradient whose critics learn from a data set and fresh steps; `epochs` are their Adam steps."""

    loop: ClassVar[str] = "hybrid"
    default_steps: ClassVar[int] = 1_000_000
    default_env: ClassVar[str] = "surefoot/Comblock5-v0"
    over_time: ClassVar[bool] = True
    presets: ClassVar[dict[str, Any]] = {}
    without_effect: ClassVar[tuple[str, ...]] = (
        *TRPO.without_effect,
        *("minibatch_size", "value_coefficient", "value_clip", "max_grad_norm", "fisher_every", "standardize"),
        *("normalize_observations", "normalize_rewards", "cnn", "core", "core_size", "shared", "squash", "target_kl"),
    )

    offline_share: float = hyperparameter(
        0.5, low=0, high=1, help="Weight α of the data; 0 needs none and is TRPO, 1 judges by the data alone."
    )
    action_samples: int = hyperparameter(10, low=1, help="Actions over which V(s) = mean f(s, a) is taken.")
    num_envs: int = hyperparameter(10, low=1, high=2**16, help="Number of parallel environments.")
    num_steps: int = hyperparameter(120, low=1, high=2**24, help="Steps per environment and update.")
    gamma: float = hyperparameter(1.0, low=0, high=1, help="Discount factor.")
    lam: float = hyperparameter(0.97, low=0, high=1, help="GAE's λ; 0 relies on the critic, 1 on returns.")
    epochs: int = hyperparameter(30, low=1, help="Adam steps, each on all its rows, of every critic and update.")
    backtrack_factor: float = hyperparameter(
        0.5, above=0, below=1, help="Factor by which a rejected step is shortened."
    )
    hidden: tuple[int, ...] = hyperparameter((16, 16), low=1, high=2**16, help="Sizes of a policy's hidden layers.")
    critic_hidden: tuple[int, ...] | None = hyperparameter((64, 64), low=1, high=2**16, help="Those of a critic.")
    standardize: bool = hyperparameter(False, help="Standardise advantages.")
    normalize_observations: bool = hyperparameter(False, help="Normalise observations.")
    normalize_rewards: bool = hyperparameter(False, help="Normalise rewards.")

    # --- the data ----------------------------------------------------------------------------------------------------

    @property
    def uses_data(self) -> bool:
        """Whether a data set is needed."""
        return self.offline_share > 0

    uses_no_data: ClassVar[str] = "offline_share=0"

    def columns(self, data: Transitions, steps: int) -> dict[str, NDArray[Any]]:
        """What it takes of the data, for episodes of so many steps."""
        return by_step(data, steps)

    # --- an iteration ------------------------------------------------------------------------------------------------

    def iterate(self, learner: HybridLearner) -> dict[str, Tensor]:  # type: ignore[override]
        rollout = learner.collect(learner.vector)
        vectors, rows = [], []
        for index, seed in enumerate(learner.seeds):
            vector, metrics = self.learned(learner, rollout, index, seed)
            vectors.append(vector)
            rows.append(metrics)
        learner.vector = torch.stack(vectors)
        return {name: torch.stack([torch.as_tensor(row[name]) for row in rows]) for name in rows[0]}

    def learned(
        self, learner: HybridLearner, rollout: Rollout, index: int, seed: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weights of one seed after the fit of its critics and its policy's step."""
        noise = torch_stream(seed, "actions of the critic", learner.iteration)
        seen, action = rollout.observation[:, index], rollout.action[:, index]  # type: ignore[index]
        reward, valid = rollout.reward[:, index], rollout.valid[:, index]
        ended = (rollout.terminated | rollout.truncated)[:, index]
        target, complete = returns_to_go(reward, ended, self.gamma)
        kept = complete & valid
        judge = Judge(learner.model, learner.vector[index])
        logged, losses = self.drawn(learner, seed), []
        with torch.no_grad():
            own = Targets(seen[:-1][kept], action[kept], target[kept])
            nothing, fit = Targets(*(x[:0] for x in own)), Fit(self.offline_share, self.epochs, learner.lr)
            for h in reversed(range(judge.net.steps)):
                here, theirs = judge.net.step(own.observation) == h, nothing
                if rows := logged.get(h):
                    theirs = Targets(rows.observation, rows.action, judge.backup(rows, noise, self.gamma))
                mine = nothing if self.offline_share == 1 else Targets(*(x[here] for x in own))
                losses.append(judge.fit(h, mine, theirs, fit))
            batch = self.joined(learner, judge, rollout, index, logged, noise)
        vector, _, _, metrics = self.policy_step(learner, judge.whole(), learner.adam, {}, batch, index)
        return vector, {**metrics, "value_loss": torch.stack(losses).mean()}

    def drawn(self, learner: HybridLearner, seed: int) -> dict[int, Logged]:
        """Rows of the data for every step, together as many as an iteration has own steps."""
        steps: Any = learner.model.module.critic.steps
        stream = torch_stream(seed, "rows of the data", learner.iteration)
        return drawn(learner.data, steps, max(1, self.pace // steps), stream)

    def joined(
        self, learner: HybridLearner, judge: Judge, rollout: Rollout, index: int, logged: dict[int, Logged], noise: Any
    ) -> Batch:
        """The batch of the policy's step: own steps, and states of the data with actions of the policy."""
        distribution, size = learner.model.distribution, rollout.observation.shape[-1]  # type: ignore[union-attr]
        seen, ended = rollout.observation[:, index], (rollout.terminated | rollout.truncated)[:, index]  # type: ignore[index]
        values = judge.state_value(seen.reshape(-1, size), self.action_samples, noise).view(seen.shape[:2])
        signals = {"terminated": ended, "truncated": torch.zeros_like(ended), "valid": rollout.valid[:, index]}
        advantage, _ = self.estimates(rollout.reward[:, index], values=values[:-1], next_values=values[1:], **signals)
        state, action = [seen[:-1].reshape(-1, size)], [rollout.action[:, index].flatten(0, 1)]
        advantages, valid = [advantage.flatten()], signals["valid"].flatten()
        extra = torch.zeros(0)
        if logged:
            extra = torch.cat([one.observation for one in logged.values()])
            own = judge.acted(extra, 1, noise)
            better = judge.value(extra, own)[0] - judge.state_value(extra, self.action_samples, noise)
            state, action, advantages = [*state, extra], [*action, own[0]], [*advantages, better]
        weights = set_weights(int(valid.sum()), len(extra), self.offline_share)
        weight = torch.cat([torch.full((len(x),), w) for x, w in zip((valid, extra), weights, strict=True)])
        observation, acted = torch.cat(state), torch.cat(action)
        params = judge.params(observation)
        return {
            "observation": observation,
            "action": acted,
            "old_params": params,
            "old_log_prob": distribution.log_prob(params, acted),
            "advantage": torch.cat(advantages) * weight,
            "weight": weight,
            "valid": torch.cat([valid, torch.ones(len(extra), dtype=torch.bool)]),
        }

    def mean_kl(self, model: Model, params: Tensor, batch: Batch) -> Tensor:
        kl = model.distribution.kl(batch["old_params"], params)
        return aggregation.mean()(batch["weight"] * kl, batch["valid"])

    # --- in words ----------------------------------------------------------------------------------------------------

    def gradient_steps(self, total_steps: int) -> float:
        """None that a compiler fuses."""
        return 0.0

    def algorithm(self) -> list[str]:
        share, own = self.offline_share, 1 - self.offline_share
        fit = f"{own:g}·mean (f_h(s, a) − return to go)²"
        if self.uses_data:
            fit += f" + {share:g}·mean over the data (f_h(s, a) − r − {self.gamma:g}·f_(h+1)(s', a'))², a' ~ π"
        where = ["    in as many states of the data Â = f_h(s, a) − V_h(s), a ~ π"] if self.uses_data else []
        return [
            f"collect {self.num_envs} envs × {self.num_steps} steps = {self.pace} with the current policy",
            f"for h = H−1 … 0: {self.epochs} steps of a fresh Adam({self.learning_rate:g}) on",
            f"    {fit}",
            f"V_h(s) = mean of f_h(s, a) over {self.action_samples} actions of π;  Â = {self.objective().advantage}",
            *where,
            *self.steps(),
        ]

    def critic_steps(self) -> list[str]:
        return []


METHOD = HNPG
