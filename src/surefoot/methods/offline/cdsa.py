"""CDSA: a trained policy is left alone, and its actions are pulled towards dense data while it acts.

    a₁ = a + k_a·σ²·∂ log p_σ(s, a)/∂a        a = π(s)
    d = F(s, a₁),  d⁺ = d + k_s·σ²·∂ log p_σ(s, d)/∂d        d: change of the state, in units of its deviation
    act: clip(a₁ + w·(I(s, d⁺) − I(s, d)))
    ε: minimise  mean ‖ε(x + σe, σ) − e‖²        ∇ log p_σ = −ε/σ,  e ~ N(0, I),  x = (s, a) and (s, d)
    F, I: minimise  mean (F(s, a) − d)²  and  mean (I(s, d) − a)²

Use it where a policy from data leaves them when it acts, and cannot be trained again. One corrector serves all policies
on its data: `corrected(sf.load(td3_run), sf.load(cdsa_run))` is the other agent with the correction, and its knobs
turn: `agent.acting(action_gain=0.5)`. An agent of its own is a clone with the correction; `agent.ruled()` is without.
With gains of 1, a₁ is the mean of the actions of which a may be a noisy copy: choose σ as large as the deviations to be
corrected, and gains on data alone, the largest that move actions of the data by less than a tenth of their range. It
pulls towards what was done, good or bad, and assumes that a step has one outcome.

Zeyuan Liu, Kai Yang, Xiu Li, *CDSA: Conservative Denoising Score-based Algorithm for Offline Reinforcement Learning*
(2024), arXiv:2406.07541.

This is a reconstruction: of the paper only its abstract and a digest could be read. That the score is of the data, that
an inverse model turns pulls on states into actions, and that policies are not trained are the paper's; the formulas,
the forward model, and all settings are ours. `landing="state"` takes p(s') in place of p(s, d), which also pulls back
along the way.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from surefoot.data.transitions import Transitions
from surefoot.errors import UsageError
from surefoot.hyperparameters import hyperparameter
from surefoot.loops.networks.nets import Batch, Net, Weights
from surefoot.loops.offline.learner import SPREAD, OfflineLearner
from surefoot.methods.offline.baselines import BC
from surefoot.models.actors import action_size
from surefoot.models.agent import Agent
from surefoot.models.corrected import Corrected, Correction
from surefoot.models.functional import Flat
from surefoot.models.scores import DynamicsNetwork, ScaleNetwork, ScoreNetwork, state_size
from surefoot.objectives.scores import denoising, ladder


@dataclass(frozen=True)
class CDSA(Correction, BC):
    """Scores of the data that correct what any policy does, and a clone to be corrected."""

    default_steps: ClassVar[int] = 100_000
    without_effect = (*(name for name in BC.without_effect if name != "tau"), "share")

    score_hidden: tuple[int, ...] = hyperparameter(
        (256, 256, 256), low=1, high=2**16, help="Sizes of the scores' hidden layers."
    )
    largest_level: float = hyperparameter(1.0, above=0, high=100, help="Largest noise level in training.")
    smallest_level: float = hyperparameter(0.01, above=0, high=100, help="Smallest noise level in training.")
    levels: int = hyperparameter(10, low=1, high=10_000, help="Levels, in geometric steps.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.smallest_level <= self.level <= self.largest_level:
            raise UsageError(
                f"CDSA: level={self.level:g} is not allowed; it must be one that is trained, between "
                f"smallest_level={self.smallest_level:g} and largest_level={self.largest_level:g}."
            )

    @property
    def acting_rules(self) -> tuple[Corrected]:  # type: ignore[override]
        return (Corrected(**{f.name: getattr(self, f.name) for f in fields(Correction)}),)

    def networks(self, observation_space: gym.Space, action_space: gym.Space) -> dict[str, Net]:
        kept = {
            "action score": (ScoreNetwork("action", self.score_hidden), self.action_score_loss),
            f"{self.landing} score": (ScoreNetwork(self.landing, self.score_hidden), self.landing_score_loss),
            "inverse": (DynamicsNetwork(True, self.hidden), self.inverse_loss),
            "forward": (DynamicsNetwork(False, self.hidden), self.forward_loss),
            "units": (ScaleNetwork(), None),
        }
        step: dict[str, Any] = {"learning_rate": self.learning_rate, "max_grad_norm": self.max_grad_norm}

        def net(name: str) -> Net:
            network, loss = kept[name]
            average = None if loss is None else self.tau

            def make() -> Any:
                return network.make(observation_space, action_space)

            return Net(make, loss, kept=network, target_rate=average, averaged=average is not None, **step)

        return {**super().networks(observation_space, action_space), **{name: net(name) for name in kept}}

    def columns(self, data: Transitions) -> dict[str, Any]:
        mean, deviation, units = scale_of(data)
        state, after = (
            ((x.reshape(len(data), -1) - mean) / deviation).astype(np.float32)
            for x in (data.observation, data.next_observation)
        )
        return {"state": state, "after": after, "change": ((after - state) / units).astype(np.float32)}

    def beforehand(self, learner: OfflineLearner) -> None:
        flat: Flat = learner.functions["units"].flat
        numbers = dict(zip(flat.shapes, (torch.from_numpy(x).float() for x in scale_of(learner.data)), strict=True))
        learner.weights["units"].copy_(flat.flatten(numbers))

    def noise(self, size: int, action_space: gym.Space, generator: torch.Generator) -> dict[str, Tensor]:
        levels = {name: torch.rand(size, generator=generator) for name in ("level", "landing level")}
        return {**levels, "action": torch.randn(size, action_size(action_space), generator=generator)}

    def perception(self, observation_space: gym.Space, size: int, generator: torch.Generator) -> dict[str, Tensor]:
        shape = size, state_size(observation_space)
        names = ("state", "landing state", "landing")
        return {name: torch.randn(shape, generator=generator) for name in names}

    def denoised(self, w: Weights, name: str, x: Tensor, noise: Tensor, uniform: Tensor) -> Tensor:
        """The loss of a score on rows `[batch, dim]` with noise of random levels."""
        sigma = ladder(uniform, self.largest_level, self.smallest_level, self.levels)
        return denoising(w(name, x + sigma.unsqueeze(-1) * noise, sigma), noise)

    def action_score_loss(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """That of the score of (s, a)."""
        noise = batch["noise"]
        x, e = torch.cat([batch["state"], batch["action"]], -1), torch.cat([noise["state"], noise["action"]], -1)
        loss = self.denoised(w, "action score", x, e, noise["level"])
        return loss, {"action_score_loss": loss.detach()}

    def landing_score_loss(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """That of the score of (s, d), or of s'."""
        noise = batch["noise"]
        x, e = batch["after"], noise["landing"]
        if self.landing == "change":
            x, e = torch.cat([batch["state"], batch["change"]], -1), torch.cat([noise["landing state"], e], -1)
        loss = self.denoised(w, f"{self.landing} score", x, e, noise["landing level"])
        return loss, {"landing_score_loss": loss.detach()}

    def inverse_loss(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The squared error of the action that leads to the change."""
        loss = ((w("inverse", batch["state"], batch["change"]) - batch["action"]) ** 2).mean()
        return loss, {"inverse_loss": loss.detach()}

    def forward_loss(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The squared error of the change, in its units."""
        loss = ((w("forward", batch["state"], batch["action"]) - batch["change"]) ** 2).mean()
        return loss, {"forward_loss": loss.detach()}

    def objective(self) -> str:
        pair = "(s, d)" if self.landing == "change" else "s'"
        scores = f"scores: mean ‖ε(x + σe, σ) − e‖², x = (s, a) and {pair}"
        models = "forward: mean (F(s, a) − d)²\ninverse: mean (I(s, d) − a)²"
        act = f"act: σ = {self.level:g}, k_a = {self.action_gain:g}, k_s = {self.state_gain:g}, w = {self.weight:g}"
        again = "" if self.repeats == 1 else f", {self.repeats} times"
        return f"{super().objective()}\n{scores}\n{models}\n{act}{again}"

    def steps(self) -> list[str]:
        span = f"{self.largest_level:g} to {self.smallest_level:g}"
        return [
            *super().steps(),
            f"scores, forward and inverse model: one step of Adam({self.learning_rate:g}), σ one of {self.levels} "
            f"levels from {span}; acting takes averages of their weights, which move by {self.tau:g} of the way",
        ]


def scale_of(data: Transitions) -> tuple[Any, Any, Any]:
    """Means and deviations of states, and deviations of changes in units of these, `[size]` each."""
    state = data.observation.reshape(len(data), -1).astype(np.float64)
    after = data.next_observation.reshape(len(data), -1).astype(np.float64)
    deviation = state.std(0) + SPREAD
    return state.mean(0), deviation, ((after - state) / deviation).std(0) + SPREAD


def corrected(agent: Agent, corrector: Agent, **knobs: Any) -> Agent:
    """An agent with the correction that another one, of cdsa, has learned from data of the same environment.

    Raises:
        UsageError: the corrector has none, it is for other observations or actions, or there is no such knob.
    """
    rules = [rule for rule in corrector.acting_rules if isinstance(rule, Corrected)]
    if not rules:
        raise UsageError(f"corrector={corrector!r} is not allowed; it must be an agent of cdsa.")
    places = [(one.observation_space.shape, one.action_space) for one in (agent, corrector)]
    if places[0] != places[1]:
        raise UsageError(
            f"the corrector is for observations of the shape {places[1][0]} and actions of {places[1][1]}, but the "
            f"agent has {places[0][0]} and {places[0][1]}; train cdsa on data of the agent's own environment."
        )
    rule = replace(rules[0], allowance=None)
    beside = {name: corrector.companions[name] for name in rule.asks}
    others = [one for one in agent.acting_rules if not isinstance(one, Corrected)]
    made = agent.ruled(*others, rule, companions=beside)
    return made.acting(**knobs) if knobs else made


METHOD = CDSA
