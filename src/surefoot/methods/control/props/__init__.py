"""PROPS: PPO on a buffer of recent batches, collected so that the buffer resembles a sample of the current policy.

A finite sample of a policy has sampling error, and a buffer with data of older policies has more. Importance weights
would correct for it in theory; PROPS corrects the data instead: it acts with a behaviour policy π_φ that avoids
what the buffer D already holds too much of,

    minimise  mean_D[ max(q, clip(q, 1−ε_P, 1+ε_P)) ] + λ_P·mean_D KL(π_θ ‖ π_φ)        q = π_φ/π_θ,  φ from θ,

ended by a bound δ_P on the KL. PPO then takes D as a sample of π_θ. Use it where samples are expensive and computation
is not: the behaviour policy is refitted several times per batch.

Nicholas E. Corrado and Josiah P. Hanna, *On-Policy Policy Gradient Reinforcement Learning Without On-Policy Sampling*
(2023), arXiv:2311.08290. Defaults are those for discrete actions; `presets` has the authors' settings of six MuJoCo
tasks. For other continuous actions use behaviour_max_kl=0.1.

Differences: the regularizer is the exact KL, not its estimate from the buffer's actions. D leaves out the whole of the
batch that will have been dropped by the next update, not only the steps that will be dropped first. A step that would
exceed δ_P is undone, and Adam starts afresh with φ, so that δ_P = 0 collects with π_θ. The advantages of a batch
are its own, with its own bootstrap; released code estimates only those of the newest one, the others staying 0. The
variant that weighs the push by the size of the advantage is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from surefoot.errors import UsageError
from surefoot.hyperparameters import hyperparameter
from surefoot.loops.common.collect import Rollout, map_observation
from surefoot.loops.on_policy.learner import REWARD_CLIP
from surefoot.loops.on_policy.method import Batch
from surefoot.methods.control.ppo import PPO
from surefoot.methods.control.props import recent
from surefoot.methods.control.props.adaptive_sampling import AdaptiveSampling, Behaviour
from surefoot.models.functional import Model
from surefoot.seeding import torch_stream

if TYPE_CHECKING:
    from surefoot.loops.on_policy.learner import Learner

BUFFER = "buffer/"


def mujoco(n: int, m: int, lr: float, lr_p: float, kl: float, lam: float, minibatches: int) -> dict[str, Any]:
    """A setting of the authors' MuJoCo runs of 2023 (repository PPOROS, version 4 of the tasks): one environment,
    buffers of two batches, PPO with 10 epochs of 32 minibatches. Their λ_P weighs a mean over action dimensions."""
    shared: dict[str, Any] = {"num_envs": 1, "anneal": "linear", "epochs": 10, "value_clip": 0.2}
    behaviour = {"steps": m, "learning_rate": lr_p, "max_kl": kl, "regularizer": lam, "minibatches": minibatches}
    own = {"num_steps": n, "minibatch_size": n // 16, "learning_rate": lr}
    return {**shared, **own, **{f"behaviour_{name}": x for name, x in behaviour.items()}}


@dataclass(frozen=True)
class PROPS(PPO):
    """Proximal robust on-policy sampling."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "mujoco-hopper": mujoco(2048, 256, 1e-3, 1e-3, 0.05, 0.3 / 3, 16),
        "mujoco-swimmer": mujoco(2048, 1024, 1e-3, 1e-5, 0.03, 0.1 / 2, 16),
        "mujoco-halfcheetah": mujoco(1024, 512, 1e-4, 1e-3, 0.05, 0.3 / 6, 16),
        "mujoco-walker2d": mujoco(2048, 256, 1e-3, 1e-3, 0.1, 0.3 / 6, 32),
        "mujoco-ant": {**mujoco(2048, 256, 1e-4, 1e-3, 0.03, 0.1 / 8, 16), "behaviour_clip": 0.05},
        "mujoco-humanoid": mujoco(8192, 256, 1e-4, 1e-4, 0.1, 0.1 / 17, 32),
    }

    learning_rate: float = hyperparameter(1e-3, above=0, help="Adam's step size.")
    epochs: int = hyperparameter(16, low=1, help="Passes over each buffer.")
    minibatch_size: int = hyperparameter(256, low=1, help="Samples per gradient step; must divide the batch size.")
    entropy: float = hyperparameter(0.01, low=0, help="Weight of the entropy bonus.")
    target_kl: float | None = hyperparameter(0.03, above=0, help="Stop the epochs early once the mean KL exceeds this.")
    buffer_batches: int = hyperparameter(2, low=1, help="Number of batches per update, including the newest one.")
    behaviour_steps: int = hyperparameter(2, low=1, help="Steps of each environment per behaviour policy.")
    behaviour_learning_rate: float = hyperparameter(1e-3, low=0, help="Adam's step size for the behaviour policy.")
    behaviour_epochs: int = hyperparameter(16, low=1, help="Maximum passes over the buffer for a behaviour policy.")
    behaviour_minibatches: int = hyperparameter(4, low=1, help="Gradient steps per pass.")
    behaviour_clip: float = hyperparameter(
        0.3, above=0, below=1, help="Clip range ε_P: no gradient below the ratio 1 − ε_P."
    )
    behaviour_max_kl: float = hyperparameter(0.01, low=0, help="δ_P: maximum KL from the target policy.")
    behaviour_regularizer: float = hyperparameter(0.1, low=0, help="λ_P: weight of the KL from the target policy.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_steps % self.behaviour_steps:
            raise UsageError(
                f"PROPS: behaviour_steps={self.behaviour_steps} does not divide num_steps={self.num_steps}; a batch "
                "is collected by a whole number of behaviour policies. Use a divisor of num_steps, such as 1."
            )

    def sampling(self) -> AdaptiveSampling:
        """The procedure that fits the behaviour policy."""
        return AdaptiveSampling(
            learning_rate=self.behaviour_learning_rate,
            clip=self.behaviour_clip,
            max_kl=self.behaviour_max_kl,
            regularizer=self.behaviour_regularizer,
            max_grad_norm=self.max_grad_norm,
        )

    def extra_state(self, model: Model) -> dict[str, Tensor]:
        buffer = recent.empty(model, self.num_steps, self.buffer_batches * self.num_envs)
        return {**super().extra_state(model), **{BUFFER + name: x for name, x in buffer.items()}}

    def buffer(self, learner: Learner) -> dict[str, Tensor]:
        """The last batches of all seeds; the newest replaces the one that is dropped."""
        return {name.removeprefix(BUFFER): x for name, x in learner.extra.items() if name.startswith(BUFFER)}

    def iterate(self, learner: Learner) -> dict[str, Tensor]:
        """One update of the target policy: a batch by a sequence of behaviour policies, then PPO on the buffer."""
        buffer, column = self.buffer(learner), learner.iteration % self.buffer_batches * self.num_envs
        episodes = {name: x.clone() for name, x in learner.episodes.state().items()}
        buffer["state"][:, column : column + self.num_envs] = learner.core_state
        kl, steps = [], []
        for time in range(0, self.num_steps, self.behaviour_steps):
            behaviour = self.behaviour(learner, buffer, time)
            recent.write(buffer, learner.collect(behaviour.vector, self.behaviour_steps), time, column)
            kl.append(behaviour.kl)
            steps.append(behaviour.steps)
        new = recent.read(buffer, column, column + self.num_envs)
        learner.episodes.load(episodes)  # the pieces counted one by one: count them as the one rollout they are
        ended = new.terminated | new.truncated
        learner.episode_rows = learner.episodes.add(new.reward, ended, new.truncated, new.valid)
        if learner.iteration < self.buffer_batches:
            learner._step = None  # a compiled step takes batches of one size, and this one is larger than the last
        about = {"behaviour_kl": torch.stack(kl).mean(0), "behaviour_updates": torch.stack(steps).mean(0)}
        return {**self.update(learner, self.estimate(learner, buffer, new)), **about}

    def behaviour(self, learner: Learner, buffer: dict[str, Tensor], time: int) -> Behaviour:
        """The behaviour policy once `time` steps of the new batch have been collected."""
        rollout, state = self.filled(learner, buffer)
        newest = torch.arange(state.shape[1] // self.num_envs) == learner.iteration % self.buffer_batches
        held = (~newest | (torch.arange(self.num_steps) < time).unsqueeze(1)).repeat_interleave(self.num_envs, 1)
        if not held.any():
            return Behaviour(learner.vector, *torch.zeros(2, learner.num_seeds))
        batch, _ = recent.reread(learner, rollout, state)
        batch["valid"] = batch["valid"] & held
        batch = recent.flat(batch)
        samples = (held.any(0) if "state" in batch else held.flatten()).nonzero().squeeze(1)
        return self.sampling()(learner.model, learner.vector, batch, self.minibatches(learner, samples))

    def minibatches(self, learner: Learner, samples: Tensor) -> Iterator[Tensor]:
        """The samples' indices, shuffled for each seed and pass."""
        streams = [torch_stream(s, "behaviour minibatches", learner.collector.logged) for s in learner.seeds]
        size = max(1, len(samples) // self.behaviour_minibatches)
        for _ in range(self.behaviour_epochs):
            order = torch.stack([samples[torch.randperm(len(samples), generator=g)] for g in streams])
            yield from order[:, : len(samples) - len(samples) % size].split(size, 1)

    def filled(self, learner: Learner, buffer: dict[str, Tensor]) -> tuple[Rollout, Tensor]:
        """The batches collected so far, including the new one, and their first core states."""
        columns = min(learner.iteration + 1, self.buffer_batches) * self.num_envs
        return recent.read(buffer, 0, columns), buffer["state"][:, :columns]

    def estimate(self, learner: Learner, buffer: dict[str, Tensor], new: Rollout) -> Batch:
        """The whole buffer as a batch of the target policy; the normalisers are updated with the new batch only."""
        learner._scaled_reward(new)
        rollout, state = self.filled(learner, buffer)
        batch, value = recent.reread(learner, rollout, state)
        learner._observe(map_observation(lambda x: x[:-1].transpose(0, 1), new.observation))
        reward = rollout.reward
        if self.normalize_rewards:
            _, inverse_std = learner.reward_moments.scale()
            reward = (reward * inverse_std).clamp(-REWARD_CLIP, REWARD_CLIP)
        values = value.transpose(0, 1)
        signals = {name: getattr(rollout, name) for name in ("terminated", "truncated", "valid")}
        advantage, target = self.estimates(reward, values=values[:-1], next_values=values[1:], **signals)
        target = target.transpose(0, 1) + batch["old_value"]
        return recent.flat({**batch, "advantage": advantage.transpose(0, 1), "target": target})

    def steps(self) -> list[str]:
        return [
            f"every {self.behaviour_steps} steps φ ← θ, then for {self.behaviour_epochs} passes over the buffer in "
            f"{self.behaviour_minibatches} minibatches, up to a mean KL of {self.behaviour_max_kl:g}: minimise",
            f"    mean max(q, {1 - self.behaviour_clip:g}) + {self.behaviour_regularizer:g}·mean KL(π_θ ‖ π_φ),  "
            f"q = π_φ/π_θ,  by Adam({self.behaviour_learning_rate:g}); act with π_φ",
            f"treat the last {self.buffer_batches} batches as a sample of π_θ: V, log π_old, Â by the current weights",
            *super().steps(),
        ]


METHOD = PROPS
