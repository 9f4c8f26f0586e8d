"""PEARL: offline learning without rewards, from preferences that were labelled in another task.

    align: T = argmin Σ (C_ik − D_jl)²·T_ij·T_kl        C, D: distances between segments of the source and target
           z(j, l) = Σ_{i≠k} T_ij·T_kl·z(i, k) / Σ_{i≠k} T_ij·T_kl
    reward: minimise  CE(z, m)  +  λ·CE(z, m + std·e)  +  α·max(0, η − entropy)        e ~ N(0, 1) for every step
    policy: IQL, with r = m(s, a), standardised

Use it for families of tasks of which one has been labelled. Segments of the two tasks are matched by their distances
within each task alone (Gromov–Wasserstein), and labels follow the matching. Some come out wrong: a reward with a
deviation of its own doubts them, and the last term keeps that deviation from vanishing. Where good and bad segments lie
alike within a task, a matching can swap them, and all labels with them; `coupling_gap` in the metrics says how close
the next best matching was. Against labels that are flipped at random the Gaussian reward gains nothing.

`data` are the target's, whose rewards are not read; `reward_data` are the source's, and the labels are those of the
returns of its segments. Without `reward_data` the labels are the target's own, an oracle to compare with. Two stages:
the reward, then the policy; counted together in `steps`.

Runze Liu et al., *PEARL: Zero-shot Cross-task Preference Alignment and Robust Reward Learning for Robotic Manipulation*
(2024), arXiv:2306.03615. A reconstruction: the form of the last term, λ, η and α are ours, as neither code nor the full
text could be read.

Differences: labels are divided by their mass, without which they vanish with the number of segments; a network of
single steps in place of a transformer; no grouping of segments before they are matched.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from surefoot.errors import UsageError
from surefoot.hyperparameters import Range, hyperparameter
from surefoot.loops.networks.nets import Batch, Net, Weights
from surefoot.loops.offline.learner import OfflineLearner
from surefoot.loops.offline.method import Beforehand
from surefoot.methods.offline.baselines import IQL
from surefoot.methods.offline.pearl.alignment import aligned, distances, preferences, segments, transported
from surefoot.methods.offline.pearl.reward import GaussianReward, robust_loss
from surefoot.models.actors import action_size
from surefoot.models.distributions import from_box
from surefoot.models.observations import normalize_observation
from surefoot.seeding import numpy_stream, torch_stream


@dataclass(frozen=True)
class PEARL(IQL):
    """Preference labels of another task, a reward that doubts them, and implicit Q-learning."""

    reads_reward_data: ClassVar[bool] = True

    segment: int = hyperparameter(20, low=1, help="Steps of a segment that is compared.")
    source_segments: int = hyperparameter(12, low=2, high=2000, help="Number N of segments with labels.")
    target_segments: int = hyperparameter(16, low=2, high=2000, help="Number M of segments that get labels.")
    starts: int = hyperparameter(8, low=1, high=1000, help="Starts of the matching, of which the best is kept.")
    reward_steps: int = hyperparameter(10_000, low=1, help="Gradient steps of the reward, before those of the policy.")
    pairs: int = hyperparameter(64, low=1, help="Pairs of segments per gradient step of the reward.")
    reward_hidden: tuple[int, ...] = hyperparameter((64, 64), low=1, high=2**16, help="Hidden layers of the reward.")
    reward_rate: float = hyperparameter(1e-3, above=0, help="Adam's learning rate for the reward.")
    sampled: float = hyperparameter(
        0.3, low=0, help="Weight λ of the noisy reward; 0 is Bradley-Terry.", tune=Range(0.0, 3)
    )
    level: float = hyperparameter(1.42, help="Entropy η below which the deviation costs; 1.42 is a deviation of 1.")
    uncertainty: float = hyperparameter(
        0.02, low=0, help="Weight α of entropy that is missing.", tune=Range(1e-3, 1, log=True)
    )

    # --- labels ------------------------------------------------------------------------------------------------------

    def labels(self, learner: OfflineLearner, seed: int) -> tuple[Any, Any, float]:
        """A seed's segments of the target `[M, steps]` as rows, their labels `[M, M]`, and the coupling's gap."""
        target, source = learner.given, learner.reward_data
        rows = segments(target, self.segment, self.target_segments, numpy_stream(seed, "segments of the target"))
        if source is None:
            return rows, preferences(target, rows), 0.0
        known = segments(source, self.segment, self.source_segments, numpy_stream(seed, "segments of the source"))
        costs = distances(source, known), distances(target, rows)
        found = aligned(*costs, self.starts, numpy_stream(seed, "starts of the matching"))
        return rows, transported(found.plan, preferences(source, known)), found.gap

    def beforehand(self, learner: OfflineLearner) -> Beforehand:
        if learner.total_steps <= self.reward_steps:
            raise UsageError(
                f"steps={learner.total_steps} is not allowed with reward_steps={self.reward_steps}: the policy learns "
                "after the reward. Give more steps, or fewer reward_steps."
            )
        rows, labels, gaps = zip(*(self.labels(learner, seed) for seed in learner.seeds))
        gap = torch.tensor(gaps).to(learner.device)
        first, second = np.triu_indices(self.target_segments, 1)
        box: Any = learner.distribution
        action = from_box(learner.columns["action"].flatten(1), box.low, box.high)
        paid: list[Tensor] = []  # the standardised rewards `[seeds, rows]`, once the reward is learned

        def draw(batch: Batch, due: tuple[str, ...]) -> dict[str, Any]:
            if "reward" not in due:
                if not paid:
                    paid.append(self.rewards(learner, action))
                return {"reward": paid[0].gather(1, batch["index"])}
            streams = [numpy_stream(seed, "pairs of segments", learner.updates) for seed in learner.seeds]
            drawn = [g.integers(0, len(first), self.pairs) for g in streams]
            which = np.stack([mine[np.stack([first[i], second[i]])] for mine, i in zip(rows, drawn)])
            label = np.stack([z[first[i], second[i]] for z, i in zip(labels, drawn)])
            index = torch.from_numpy(which).to(learner.device)
            noise = [
                torch.randn(index.shape[1:], generator=torch_stream(s, "rewards", learner.updates))
                for s in learner.seeds
            ]
            found = {"observation": learner.columns["observation"][index], "action": action[index]}
            if scales := learner.scales():
                wide = {k: tuple(x[:, None, None] for x in pair) for k, pair in scales.items()}
                found["observation"] = normalize_observation(found["observation"], wide)  # type: ignore[arg-type]
            more = {"label": torch.from_numpy(label).float(), "noise": torch.stack(noise)}
            return {"pairs": found | {k: x.to(learner.device) for k, x in more.items()}, "gap": gap}

        return draw

    def rewards(self, learner: OfflineLearner, action: Tensor) -> Tensor:
        """The mean rewards of all rows by each seed's network, standardised, `[seeds, rows]`."""
        said = learner.over_rows("reward", learner.columns["observation"], action)
        found = torch.cat([mean for mean, _ in said], 1)
        return (found - found.mean(1, keepdim=True)) / (found.std(1, keepdim=True) + 1e-6)

    # --- networks ----------------------------------------------------------------------------------------------------

    def networks(self, observation_space: gym.Space, action_space: gym.Space) -> dict[str, Net]:
        given = self.reward_hidden, self.activation, self.cnn
        make = partial(GaussianReward, observation_space, action_size(action_space), *given)
        reward = Net(make, self.reward_loss, self.reward_rate, ends=self.reward_steps, annealed=False)
        policy = super().networks(observation_space, action_space)
        return {"reward": reward} | {name: replace(net, starts=self.reward_steps) for name, net in policy.items()}

    def reward_loss(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The robust loss of pairs of segments."""
        pairs = batch["pairs"]
        weights = {"sampled": self.sampled, "level": self.level, "weight": self.uncertainty}
        mean, log_std = w("reward", pairs["observation"], pairs["action"])
        loss, entropy = robust_loss(mean, log_std, pairs["label"], pairs["noise"], **weights)
        right = ((mean[0].sum(-1) > mean[1].sum(-1)) == (pairs["label"] > 0.5)).to(loss.dtype).mean()
        found = {"reward_loss": loss, "reward_entropy": entropy, "labels_met": right, "coupling_gap": batch["gap"]}
        return loss, {name: x.detach() for name, x in found.items()}

    # --- in words ----------------------------------------------------------------------------------------------------

    def objective(self) -> str:
        noisy = f"  +  {self.sampled:g}·CE(z, m + std·e)" * (self.sampled > 0)
        doubt = f"  +  {self.uncertainty:g}·max(0, {self.level:g} − entropy)" * (self.uncertainty > 0)
        return f"reward: CE(z, m){noisy}{doubt}\n{super().objective()},  r = m(s, a) standardised"

    def steps(self) -> list[str]:
        return [
            f"once: match {self.source_segments} and {self.target_segments} segments of {self.segment} steps, the best "
            f"of {self.starts} starts, and transport labels",
            f"to step {self.reward_steps:,}: reward: one step of Adam({self.reward_rate:g}) on {self.pairs} pairs",
            *(f"then {line}" for line in super().steps()),
        ]


METHOD = PEARL
