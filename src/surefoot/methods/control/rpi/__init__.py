"""RPI: imitates whichever oracle is better than the learner in a state, and learns by itself everywhere else.

    f⁺(s) = max_k V_k(s) over K oracles and the learner; the learner's own where the largest is uncertain, σ_k(s) > Γ
    Â = Σ (γλ)^l δ[t+l]        δ = r + γf⁺(s') − f⁺(s)
    maximise  mean[ min(ρÂ, clip(ρ, 1−ε, 1+ε)Â) ]  on the learner's own steps

With λ = 0 and γ = 1 it imitates the best of the oracles step by step; where the learner's value is the largest it is
PPO with GAE, and so without oracles everywhere. V_k and σ_k are those of an ensemble for each policy, fitted to returns
of its own roll-outs: in a few exploring environments the learner rolls in for a random time and hands over to the
policy of the largest upper bound V_k + σ_k, its own value counting by its lower bound. Use it for rewards that are
rare, with scripted or old policies at hand that are each good at something. Oracles are only asked what they would do.

Xuefeng Liu, Takuma Yoneda, Rick Stevens, Matthew Walter, Yuxin Chen, *Blending Imitation and Reinforcement Learning for
Robust Policy Improvement* (2024), arXiv:2310.01737. Reconstructed from accounts of the paper: its numbers of steps and
sizes of networks are not known, and those of PPO and of the ensembles here are ours.

Differences: Γ is in units of the return after rewards are divided by `reward_scale`. A roll-out that a batch cuts goes
on with its policy's own value. With γ = 1 a time limit ends the task, so that observations should hold the time
(wrapper time_aware); with a smaller γ it bootstraps. Before the first batch random oracles roll in and out in all
environments; these steps count, and so do the exploring environments in the returns of the metrics. PPO's own critic is
fitted too, and kept in the agent, but advantages ignore it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from surefoot.errors import UsageError
from surefoot.hyperparameters import Range, hyperparameter
from surefoot.loops.common.collect import Rollout
from surefoot.loops.common.optimizer import Adam
from surefoot.loops.on_policy.learner import Act
from surefoot.methods.control.ppo import PPO
from surefoot.methods.control.rpi.blending import BASELINES, SELECTIONS, baseline, selected
from surefoot.methods.control.rpi.judges import Judges, State
from surefoot.methods.control.rpi.judging import judge, signals
from surefoot.methods.control.rpi.leading import Lead, begun
from surefoot.models.functional import Flat, initial
from surefoot.models.normalizers import normalize
from surefoot.seeding import torch_stream

if TYPE_CHECKING:
    from surefoot.loops.on_policy.guided import GuidedLearner


@dataclass(frozen=True)
class RPI(PPO):
    """PPO whose baseline is the largest value of several oracles and of the learner, trusted where it is certain."""

    loop: ClassVar[str] = "guided"
    presets: ClassVar[dict[str, Any]] = {}
    without_effect: ClassVar[tuple[str, ...]] = ("normalize_rewards", "core", "core_size")

    gamma: float = hyperparameter(1.0, low=0, high=1, help="Discount factor; with 1 a time limit ends the task.")
    lam: float = hyperparameter(0.9, low=0, high=1, help="GAE's λ; 0 relies on f⁺, 1 on returns.")
    normalize_rewards: bool = hyperparameter(False, help="Normalise rewards.")
    reward_scale: float = hyperparameter(1.0, above=0, help="Rewards are divided by this: about a typical return.")
    threshold: float = hyperparameter(
        0.5, low=0, help="Γ: deviation of a value above which the learner's is taken.", tune=Range(0.1, 5.0, log=True)
    )
    members: int = hyperparameter(5, low=2, help="Networks in the ensemble of each policy.")
    baseline: str = hyperparameter("all", choices=BASELINES, help="Whose values f⁺ is the largest of.")
    selection: str = hyperparameter("bounds", choices=SELECTIONS, help="How it is decided who goes on after a roll-in.")
    exploring_envs: int = hyperparameter(2, low=1, help="Environments with roll-ins and roll-outs, of all.")
    horizon: int = hyperparameter(200, low=1, help="A roll-in takes fewer steps than this: about an episode's length.")
    pretrain_steps: int = hyperparameter(512, low=0, help="Steps per environment of random oracles before all others.")
    oracle_memory: int = hyperparameter(20_000, low=1, help="Steps of each oracle that are kept.")
    value_steps: int = hyperparameter(100, low=1, help="Gradient steps of the ensembles per update.")
    value_batch: int = hyperparameter(64, low=1, help="Rows of each network in such a step.")
    value_hidden: tuple[int, ...] = hyperparameter((64, 64), low=1, high=2**16, help="Hidden layers of the ensembles.")
    value_learning_rate: float = hyperparameter(1e-3, above=0, help="Adam's learning rate of the ensembles.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.exploring_envs >= self.num_envs:
            raise UsageError(
                f"exploring_envs={self.exploring_envs} is not allowed with num_envs={self.num_envs}: the learner acts "
                "alone in the others, of which it needs one at least."
            )

    # --- who acts ----------------------------------------------------------------------------------------------------

    def judges(self, learner: GuidedLearner) -> Judges:
        """The ensembles for the oracles of a run."""
        inputs = learner.observation_space.shape[0]  # type: ignore[index]
        return Judges(len(learner.oracles) + 1, self.members, inputs, self.value_hidden, self.oracle_memory)

    def beside(self, learner: GuidedLearner, seed: int) -> State:
        """The state of one seed besides that of PPO: ensembles, their optimiser, what is stored, and who acts where."""
        judges = self.judges(learner)
        vector = initial(judges.module, torch_stream(seed, "ensembles"))
        adam = {f"ensembles_{name}": x for name, x in Adam.start(vector)._asdict().items()}
        return {"ensembles": vector, **adam, **judges.empty(), **begun(self.num_envs)}

    def led(self, learner: GuidedLearner, act: Act, steps: int) -> Act:
        """The policies act, and in exploring environments also the oracles."""
        pretraining = (
            learner.iteration == 0 and learner.collector.logged < self.pretrain_steps and bool(learner.oracles)
        )
        exploring = np.arange(self.num_envs) >= (0 if pretraining else self.num_envs - self.exploring_envs)

        def select(index: int, observation: np.ndarray, chance: np.ndarray) -> np.ndarray:
            mean, deviation = self.values(learner, index, torch.from_numpy(observation))
            return selected(mean, deviation, self.selection, torch.from_numpy(chance)).numpy()

        learner.lead = Lead(learner, act, steps, exploring, self.horizon, select, pretraining)  # type: ignore[attr-defined]
        return learner.lead  # type: ignore[attr-defined]

    def values(self, learner: GuidedLearner, index: int, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Means and deviations `[K + 1, rows]` of what all policies are worth in observations `[rows, size]`."""
        judges, where = self.judges(learner), observation.device
        with torch.no_grad():
            vector = learner.extra["ensembles"][index].to(where)
            return judges.values(Flat(judges.module()), vector, self.seen(learner, index, observation))

    def seen(self, learner: GuidedLearner, index: int, observation: Tensor) -> Tensor:
        """Observations as the networks see them now."""
        scales = learner.scales()
        if not scales:
            return observation
        mean, inverse = (x[index, 0].to(observation.device) for x in scales[""])
        return normalize(observation, mean, inverse)

    # --- an iteration ------------------------------------------------------------------------------------------------

    def iterate(self, learner: GuidedLearner) -> dict[str, Tensor]:  # type: ignore[override]
        if learner.iteration == 0 and learner.oracles and self.pretrain_steps:
            judge(self, learner, *self.collected(learner, self.pretrain_steps))
        rollout, record = self.collected(learner, self.num_steps)
        metrics = judge(self, learner, rollout, record)
        batch = learner.estimate(rollout)
        own = record == len(learner.oracles)
        own[..., self.num_envs - self.exploring_envs :] &= not learner.oracles
        batch["valid"] = batch["valid"] & own.transpose(0, 1).flatten(1)
        advantages = [self.advantage(learner, rollout, index) for index in range(learner.num_seeds)]
        batch["advantage"] = torch.stack([x.flatten() for x in advantages])
        return {**self.update(learner, batch), **metrics}

    def collected(self, learner: GuidedLearner, steps: int) -> tuple[Rollout, Tensor]:
        """A rollout with rewards to scale, and whose roll-out each of its steps belongs to."""
        rollout = learner.collect(learner.vector, steps)
        lead: Lead = learner.lead  # type: ignore[attr-defined]
        lead.store(learner)
        rollout = rollout._replace(reward=rollout.reward / self.reward_scale)
        if self.gamma == 1:
            ended = rollout.terminated | rollout.truncated
            rollout = rollout._replace(terminated=ended, truncated=torch.zeros_like(ended))
        return rollout, torch.from_numpy(lead.record).to(learner.device)

    def advantage(self, learner: GuidedLearner, rollout: Rollout, index: int) -> Tensor:
        """GAE with the baseline f⁺, `[time, envs]`."""
        seen = rollout.observation[:, index]  # type: ignore[index]
        mean, deviation = self.values(learner, index, seen.flatten(0, 1))
        f = baseline(mean, deviation, self.threshold, self.baseline).view(seen.shape[:2])
        return self.objective().advantage(
            rollout.reward[:, index], values=f[:-1], next_values=f[1:], **signals(rollout, index)
        )

    # --- in words ----------------------------------------------------------------------------------------------------

    def algorithm(self) -> list[str]:
        own, among = self.num_envs - self.exploring_envs, {"all": "oracles and π", "oracles": "oracles"}[self.baseline]
        by = {"bounds": "V + σ of an oracle, V − σ of π", "means": "V", "uniform": "any oracle"}[self.selection]
        unsure = f"; V_π where the largest one's σ > {self.threshold:g}" if self.baseline == "all" else ""
        return [
            f"first, {self.pretrain_steps} steps per environment of random oracles",
            f"collect {self.num_steps} steps with π in {own} environments; in {self.exploring_envs} more π rolls in "
            f"for fewer than {self.horizon} steps and hands over to the policy of the largest: {by}",
            f"fit {self.members} networks V a policy to its own returns: {self.value_steps} steps of "
            f"Adam({self.value_learning_rate:g}) on {self.value_batch} rows each",
            f"f⁺ = largest mean V of {among}{unsure};  Â = {self.objective().advantage} with f⁺ for V",
            *self.steps(),
        ]


METHOD = RPI
