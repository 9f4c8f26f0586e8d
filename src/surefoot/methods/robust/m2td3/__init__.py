"""M2TD3: TD3 against the worst parameters of an uncertainty set, which several candidates search for.

    y = r + γ·min_i Q_i⁻(s', ã', ω̃)      ã' as in TD3,  ω̃ = clip(ω + clip(σ̃·N(0, 1), ±c), Ω)
    critics: minimise  Σ_i mean[ (Q_i(s, a, ω) − y)² ]
    every second step:  J_k = mean[ Q_1(s, μ(s), ω̂_k) ],  k* = argmin_k J_k
        actor: maximise J_{k*}      candidate ω̂_{k*}: minimise J_{k*}      p ← (1 − c)·p + c·onehot(k*)

An episode has the parameters ω = ω̂_k + N(0, σ_ω), k ~ p; c is one over the length of recent episodes.

Takumi Tanabe et al., *Max-Min Off-Policy Actor-Critic Method Focusing on Worst-Case Robustness to Model
Misspecification* (2022), arXiv:2211.03413; settings of the authors' code.

Differences: parameters are scaled to [−1, 1], where the distance of 0.1 in raw units below which a candidate is drawn
anew is 0.05; that happens between rows of metrics in place of episodes; one Adam moves all candidates, so that those
that are no longer the worst coast on their momentum; only a termination, not a time limit, ends the bootstrap.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import gymnasium as gym
import torch
from torch import Tensor

from surefoot.envs.parameter_game import in_game
from surefoot.hyperparameters import hyperparameter
from surefoot.loops.networks.nets import Batch, Net, Weights
from surefoot.loops.off_policy.game import agents_part, own_actions, sizes
from surefoot.loops.off_policy.method import RECURRENCE
from surefoot.methods.control.td3 import TD3
from surefoot.methods.robust.m2td3.candidates import Candidates, Chances, draw, moved, redrawn, renewed
from surefoot.models.actors import ActionValue, action_size
from surefoot.objectives.bootstrap import smoothed
from surefoot.seeding import torch_stream

if TYPE_CHECKING:
    from surefoot.loops.off_policy.learner import Learner


@dataclass(frozen=True)
class M2TD3(TD3):
    """Max-min TD3."""

    without_effect: ClassVar[tuple[str, ...]] = ("normalize_observations", "cnn", "n_step", *RECURRENCE)
    others: ClassVar[tuple[str, ...]] = ("candidates", "chances")
    default_steps: ClassVar[int] = 2_000_000

    batch_size: int = hyperparameter(100, low=1, help="Transitions per gradient step.")
    learning_starts: int = hyperparameter(100_000, low=1, help="Steps of uniform actions and parameters at first.")
    set: str = hyperparameter("rrls:2d", help="Box of parameters: rrls:1d|2d|3d, or param:name=low..high,….")
    candidates: int = hyperparameter(5, low=1, high=1000, help="Number of candidates for the worst parameters.")
    parameter_noise: float = hyperparameter(0.2, low=0, help="Standard deviation of the target's parameters, box ±1.")
    parameter_clip: float = hyperparameter(0.5, low=0, help="Limit of the noise of the target's parameters.")
    spread: tuple[float, float] = hyperparameter(
        (1.0, 0.1), low=0, help="Deviation of an episode's parameters from a candidate, first and last; box ±1."
    )
    least_distance: float = hyperparameter(0.05, low=0, help="ℓ1 distance below which a candidate is drawn anew.")
    least_chance: float = hyperparameter(
        0.05, low=0, below=1, help="Probability below which a candidate is drawn anew."
    )

    def training_env(self, env: Any, **options: Any) -> tuple[Any, dict[str, Any]]:
        return in_game(env, self.set, options, move="episode")

    def agent_spaces(self, observation_space: gym.Space, action_space: gym.Space) -> tuple[gym.Space, gym.Space]:
        return observation_space["state"], own_actions(observation_space, action_space)  # type: ignore[index]

    def networks(self, observation_space: gym.Space, action_space: gym.Space) -> dict[str, Net]:
        own, k = self.agent_spaces(observation_space, action_space), sizes(observation_space)[1]
        seen = action_size(own[1]) + k
        nets = super().networks(*own)
        critic = Net(
            lambda: ActionValue(own[0], seen, self.hidden, self.activation, self.cnn), self.critic_loss,
            copies=self.critics, target_rate=self.tau, target_every=self.policy_delay,
            learning_rate=self.learning_rate, max_grad_norm=self.max_grad_norm,
        )  # fmt: skip
        step: Any = {"learning_rate": self.learning_rate, "every": self.policy_delay}
        return {
            **nets,
            "critic": critic,
            "candidates": Net(lambda: Candidates(self.candidates, k), self.candidates_loss, **step),
            "chances": Net(lambda: Chances(self.candidates), rule=self.chances_rule, every=self.policy_delay),
        }

    # --- one gradient step -------------------------------------------------------------------------------------------

    def critic_loss(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return super().critic_loss(w, agents_part(batch, state))

    def following(self, w: Weights, batch: Batch) -> Tensor:
        noise = batch["parameter_noise"]
        parameters = smoothed(batch["parameters"], noise, self.parameter_noise, self.parameter_clip)
        return super().following(w, {**batch, "parameters": parameters})

    def judged(self, action: Tensor, batch: Batch) -> Tensor:
        return torch.cat([action, batch["parameters"]], -1)

    def candidate_values(self, w: Weights, batch: Batch, action: Tensor, points: Tensor) -> Tensor:
        """J_k, the mean value of the actor's actions `[batch, dim]` under each candidate `[K, k]`."""
        count, size = len(points), len(action)
        seen = state(batch["observation"]).expand(count, size, -1)
        judged = torch.cat([action.expand(count, size, -1), points.unsqueeze(1).expand(count, size, -1)], -1)
        return w.fixed("critic", seen, judged).reshape(-1, count, size)[0].mean(-1)

    def actor_loss(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The value under the worst candidate, negated."""
        action = w("actor", state(batch["observation"]))
        loss = -self.candidate_values(w, batch, action, w.before("candidates")).min()
        return loss, {"actor_loss": loss.detach()}

    def candidates_loss(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The value under the worst candidate."""
        action = w.before("actor", state(batch["observation"]))
        values = self.candidate_values(w, batch, action, w("candidates"))
        return values.min(), {"candidates_gap": (values.max() - values.min()).detach()}

    def chances_rule(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The probabilities move towards the worst candidate."""
        action = w.before("actor", state(batch["observation"]))
        worst = self.candidate_values(w, batch, action, w.before("candidates")).argmin()
        chances = w("chances")
        after = moved(chances[:-1], worst, chances[-1])
        return torch.cat([after, chances[-1:]]), {"largest_chance": after.max()}

    # --- acting ------------------------------------------------------------------------------------------------------

    def exploration(self, count: int, action_space: gym.Space, generator: torch.Generator) -> dict[str, Tensor]:
        return super().exploration(count, action_space, generator) | {"chosen": torch.rand(count, generator=generator)}

    def scheduled(self) -> list[str]:
        return [*super().scheduled(), "spread"]

    def play(self, w: Weights, observation: Any, noise: dict[str, Tensor], progress: Tensor) -> Tensor:
        points, chances = w("candidates"), w("chances")[:-1]
        own = noise["action"].shape[-1] - points.shape[-1]
        action = w("actor", observation["state"]) + self.exploration_noise * noise["action"][..., :own]
        chosen = (noise["chosen"].unsqueeze(-1) > chances.cumsum(0)).sum(-1).clamp(max=self.candidates - 1)
        spread = self.spread[0] + progress * (self.spread[1] - self.spread[0])
        return torch.cat([action, points[chosen] + spread * noise["action"][..., own:]], -1).clamp(-1, 1)

    def after_iteration(self, learner: Learner) -> dict[str, Tensor]:
        """Candidates that lie together or are never the worst are drawn anew."""
        found, adam = [], learner.averages["candidates"]
        for i, seed in enumerate(learner.seeds):
            length = learner.episodes.window[1, i].nanmean()
            points = learner.functions["candidates"](learner.weights["candidates"][i])
            chances = learner.weights["chances"][i]
            fresh = redrawn(points, chances[:-1], self.least_distance, self.least_chance)
            chances[:-1] = renewed(chances[:-1], fresh) if fresh.any() else chances[:-1]
            chances[-1] = length if torch.isfinite(length) else chances[-1]
            rows = fresh.repeat_interleave(points.shape[1])
            new = draw(self.candidates, points.shape[1], torch_stream(seed, "candidates", learner.iteration))
            moments = [(moment, 0.0) for moment in adam[:2]]
            for part, value in ((learner.weights["candidates"], new.reshape(-1).to(rows.device)), *moments):
                part[i] = torch.where(rows, value, part[i])
            found.append(fresh.sum().float())
        return {"redrawn": torch.stack(found)}

    def objective(self) -> str:
        return (
            f"critic: mean (Q(s, a, ω) − y)²,  y = r + γ·min over {self.critics} of Q⁻(s', ã', ω̃)\n"
            "actor: −min_k mean Q_1(s, μ(s), ω̂_k)\n"
            f"candidates: min_k mean Q_1(s, μ(s), ω̂_k),  {self.candidates} in {self.set}"
        )

    def steps(self) -> list[str]:
        critics, actor, explored = super().steps()
        return [
            critics,
            actor,
            "with the actor: the worst candidate takes a step; the probabilities move towards it by 1/episode length",
            f"{explored}; an episode's parameters: a candidate's, plus Gaussian noise that shrinks from "
            f"{self.spread[0]:g} to {self.spread[1]:g} of half the box",
            f"between rows of metrics, a candidate within {self.least_distance:g} of another or with a probability "
            f"below {self.least_chance:g} is drawn anew",
        ]


def state(observation: dict[str, Tensor]) -> Tensor:
    """What the agent sees."""
    return observation["state"]


METHOD = M2TD3
