"""MAHALO: offline learning where rewards and actions are known in different data, by an adversarial reward and critic.

    g: minimise  Σ_i mean (Q_i − g − γ·v')²  +  w·mean (g(s_r, s_r') − r)²        (s_r, s_r', r) rows with rewards
    Q: minimise  Σ_i mean [Q_i(s, π) − Q_i(s, a)]  +  β·Σ_i mean (Q_i(s, a) − g(s, s') − γ·v')²
    π: maximise  mean Q_1(s, π) + α·entropy,  far more slowly

Use it for offline reinforcement learning with few rewards, for imitation, and for both from observations alone. A
reward fitted by regression is trusted everywhere, also where nothing was labelled. Here reward and critics are the
worst for the policy, relative to the behaviour, that agree with the data: g explains critics that pessimism lowers,
and is tied to the labels by w. The policy then avoids states whose reward or dynamics nobody knows.

`data` hold the actions; rewards are those of `reward_data`, in the scenarios
    ilfo: others' states, which count as 1        rlfo: others' states and rewards
    il, rl-expert: the same, and their actions join `data`
    rl-sample: no second data set; a share of the episodes of `data` have rewards

Half of the Bellman error has v' from the target critics, the lowest one, and half from the critic itself, with its
gradient. v' is clipped, and for Q so is g. Three stages: g alone, by regression; besides, a cloned policy and its
critics; the game. Counted together in `steps`. `tabular.pessimistic_mdp` is the game on a finite MDP, exactly.

Terminations are removed on purpose: the last row of an episode that terminated is dropped and the episode counts as
cut, since an end would tell something of rewards that are unknown. Rows with rewards keep theirs.

Anqi Li et al., *MAHALO: Unifying Offline Reinforcement Learning and Imitation Learning from Observations* (2023),
arXiv:2303.17156. Defaults are the settings of the authors' code; for short runs raise `slow_rate` to a tenth of
`learning_rate`.

Differences: `reward_data` are used whole, where the authors' code samples 1 % of an expert's. g, Q and π have
optimisers of their own, which begin anew with the game. Q_1 is the first critic; the code has the last. Networks are
initialised as torch does, observations are normalised.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from surefoot.data.transitions import Transitions
from surefoot.errors import UsageError
from surefoot.hyperparameters import Range, hyperparameter
from surefoot.loops.networks.nets import Batch, Net, Weights
from surefoot.loops.offline.learner import OfflineLearner
from surefoot.loops.offline.method import Beforehand
from surefoot.methods.offline.mahalo.game import Game, shrunk
from surefoot.methods.offline.mahalo.rewards import (
    SCENARIOS,
    SEEN,
    TransitionReward,
    acted_data,
    bounds,
    labelled,
    without_terminals,
)
from surefoot.models.observations import normalize_observation
from surefoot.seeding import numpy_stream


@dataclass(frozen=True)
class MAHALO(Game):
    """Offline learning from actions and rewards in different data, with an adversarial reward and critic."""

    default_steps: ClassVar[int] = 1_200_000
    reads_reward_data: ClassVar[bool] = True

    scenario: str = hyperparameter(
        "rl-sample", choices=tuple(SCENARIOS), help="What is known: which data have rewards, and of whose actions."
    )
    rewarded_share: float = hyperparameter(
        0.01, above=0, high=1, help="Share of data with rewards in rl-sample, in whole episodes."
    )
    remove_terminals: bool = hyperparameter(True, help="Drop the last row of episodes of data that terminated.")
    hidden: tuple[int, ...] = hyperparameter((256, 256, 256), low=1, high=2**16, help="Sizes of the hidden layers.")
    learning_rate: float = hyperparameter(
        5e-4, above=0, help="Adam's learning rate, of all but the actor in the game.", tune=Range(1e-5, 1e-2, log=True)
    )
    slow_rate: float = hyperparameter(
        5e-7, above=0, help="Adam's learning rate for the actor in the game.", tune=Range(1e-7, 1e-3, log=True)
    )
    largest_norm: float = hyperparameter(100.0, above=0, help="Limit of the norm of a critic's weight matrix.")
    warm_start: int = hyperparameter(100_000, low=0, help="Gradient steps in each of the two stages before the game.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gamma == 1:
            raise UsageError("gamma=1.0 is not allowed: values are clipped to multiples of 1/(1 − gamma). Give less.")

    # --- the data ----------------------------------------------------------------------------------------------------

    def learned(self, data: Transitions, reward_data: Transitions | None = None) -> Transitions:
        acted = acted_data(data, reward_data, self.scenario)
        return without_terminals(acted) if self.remove_terminals else acted

    def columns(self, data: Transitions) -> dict[str, NDArray[Any]]:
        return {"terminated": data.terminated.astype(np.float32)}

    def beforehand(self, learner: OfflineLearner) -> Beforehand:
        if learner.total_steps <= 2 * self.warm_start:
            raise UsageError(
                f"steps={learner.total_steps} is not allowed with warm_start={self.warm_start}: the game begins after "
                f"{2 * self.warm_start} steps. Give more steps, or a smaller warm_start."
            )
        given = learner.given, learner.reward_data, self.scenario, self.rewarded_share
        sets = [labelled(*given, seed) for seed in learner.seeds]
        limits = torch.tensor([bounds(one, self.scenario, self.gamma) for one in sets]).to(learner.device)

        def draw(batch: Batch, due: tuple[str, ...]) -> dict[str, Any]:
            """A batch of the rows with rewards, from streams of their own, and the ranges of rewards and values."""
            streams = [numpy_stream(seed, "rows with rewards", learner.updates) for seed in learner.seeds]
            rows = [g.integers(0, len(one), self.batch_size) for g, one in zip(streams, sets)]
            found: dict[str, Any] = {
                name: torch.from_numpy(np.stack([getattr(one, name)[i] for one, i in zip(sets, rows)]))
                for name in ("reward", *SEEN)
            }
            found = {name: x.to(learner.device) for name, x in found.items()}
            if scales := learner.scales():
                found |= {name: normalize_observation(found[name], scales) for name in SEEN[:2]}
            return {"labelled": {**found, "terminated": found["terminated"].float()}, "limits": limits}

        return draw

    # --- networks and stages -----------------------------------------------------------------------------------------

    def networks(self, observation_space: gym.Space, action_space: gym.Space) -> dict[str, Net]:
        nets, one, two = super().networks(observation_space, action_space), self.warm_start, 2 * self.warm_start
        make = partial(TransitionReward, observation_space, self.hidden, self.activation, self.cnn)
        reward = Net(make, self.reward_loss, self.learning_rate, starts=two, max_grad_norm=self.max_grad_norm)
        critic = replace(nets["critic"], starts=two, project=self.limited)
        actor = replace(nets["actor"], learning_rate=self.slow_rate, starts=two)
        warm: dict[str, Any] = {"learning_rate": self.learning_rate, "ends": two}
        judged = {**warm, "kept": None, "target_rate": None, "project": None}
        return {
            "reward_start": replace(reward, loss=self.regression, of="reward", starts=0, **warm),
            "critic_start": replace(critic, loss=self.evaluation, of="critic", starts=one, **judged),
            "temperature": replace(nets["temperature"], starts=one),
            "actor_start": replace(actor, loss=self.cloning, of="actor", starts=one, **warm),
            "reward": reward,
            "critic": critic,
            "actor": actor,
        }

    def limited(self, w: Weights, batch: Batch) -> Tensor:
        """The critics' weights with matrices of limited norm."""
        return shrunk(w.functions["critic"], w.now["critic"], self.largest_norm)

    # --- in words ----------------------------------------------------------------------------------------------------

    def objective(self) -> str:
        share, against = self.residual_share, " − Q(s, a)" * (self.pessimism == "relative")
        clip = "clipped to a range around all returns"
        return "\n".join(
            [
                f"reward: E(g)  +  {self.reward_weight:g}·mean (g(s_r, s_r') − r)²  on rows with rewards",
                f"critic: mean [Q(s, π){against}]  +  {self.bellman_weight:g}·E(clipped g)",
                f"  E(g) = mean (Q(s, a) − g(s, s') − γ·v')²,  v' {clip}:",
                f"  {share:g} of it with Q(s', π), {1 - share:g} with min Q⁻(s', π)",
                "actor: −mean Q_1(s, π)  −  α·entropy",
            ]
        )

    def steps(self) -> list[str]:
        one, two, rate = self.warm_start, 2 * self.warm_start, f"Adam({self.learning_rate:g})"
        return [
            f"draw {self.batch_size} rows with rewards ({self.scenario})",
            f"to step {two:,}: fit g to rewards by {rate}",
            f"from step {one:,} to {two:,}: clone the policy, and learn its values with g as the reward, by {rate}",
            f"then reward and critics: one step of {rate}; each weight matrix of norm at most {self.largest_norm:g}",
            f"actor: one step of Adam({self.slow_rate:g})",
            f"the critics' targets move by τ = {self.tau:g} towards them",
        ]


METHOD = MAHALO
