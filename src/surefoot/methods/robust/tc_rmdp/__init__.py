"""TC-RMDP: TD3 against parameters that drift at a limited speed, moved at every step by a learned adversary.

    ψ_{t+1} = clip(ψ_t + L·b_t, Ψ),  b_t = π̂(ψ_t, s_t, a_t) in [−1, 1]^k,  ψ_0 ~ U(Ψ);  s_{t+1} ~ P_{ψ_{t+1}}
    max_π min_π̂ E[Σ γ^t r_t]

The agent sees o: s (vanilla), [s_{t−1}, s_t, a_{t−1}] (stacked), or [s, ψ] (oracle, an upper bound: nobody measures ψ).

    TC-M2TD3: one pair of critics knows ψ.    y = r + γ·min_i Q_i⁻(o', ã', ψ_{t+1}),  for Q_i(o, a, ψ_{t+1})
        agent: maximise mean Q_1(o, π(o), ψ_{t+1})      adversary: minimise mean Q_1(o, a, clip(ψ_t + L·π̂(ψ_t, s, a)))
    TC-RARL: two TD3 learners, the agent's on (o, a, r), the adversary's on ((ψ, s, a), b, −r).

Adil Zouitine et al., *Time-Constrained Robust MDPs* (2024), arXiv:2406.08395; settings of the authors' code.

Differences: L is a share of the range of each parameter per step, not raw units; ψ is scaled to [−1, 1] for every
network (the released vanilla adversary sees raw ψ); the adversary's loss is the intended one, with the move inside
(the released code feeds the network's output as ψ); targets use the agent's next action without exploration noise.
`tc-rmdp` is TC-M2TD3, `tc-rarl` the other. A stacked agent remembers what it needs, and acts in the plain task.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import gymnasium as gym
import torch
from torch import Tensor

from surefoot.envs.parameter_game import in_game
from surefoot.hyperparameters import hyperparameter
from surefoot.loops.networks.nets import Batch, Net, Weights
from surefoot.loops.off_policy.game import Observed, agents_part, own_actions, sizes, unbounded
from surefoot.loops.off_policy.method import RECURRENCE
from surefoot.methods.control.td3 import TD3
from surefoot.models.actors import ActionValue, ActorNetwork, action_size


@dataclass(frozen=True)
class TCM2TD3(TD3):
    """TD3 and an adversary of the parameters, with critics that know them for both."""

    without_effect: ClassVar[tuple[str, ...]] = ("normalize_observations", "cnn", "n_step", *RECURRENCE)
    others: ClassVar[tuple[str, ...]] = ("adversary",)
    default_steps: ClassVar[int] = 5_000_000

    set: str = hyperparameter("rrls:3d", help="Box of parameters: rrls:1d|2d|3d, or param:name=low..high,….")
    information: str = hyperparameter(
        "vanilla", choices=("vanilla", "stacked", "oracle"), help="What the agent sees of the parameters."
    )
    speed: float = hyperparameter(0.001, low=0, high=1, help="Fastest drift: share of a parameter's range per step.")

    def training_env(self, env: Any, **options: Any) -> tuple[Any, dict[str, Any]]:
        stacked = self.information == "stacked"
        return in_game(env, self.set, options, move="drift", speed=self.speed, previous=stacked)

    def agent_spaces(self, observation_space: gym.Space, action_space: gym.Space) -> tuple[gym.Space, gym.Space]:
        own = own_actions(observation_space, action_space)
        if self.information == "oracle":
            return unbounded(sum(sizes(observation_space))), own
        return observation_space["state"], own  # type: ignore[index]

    def actor_network(self) -> ActorNetwork:
        parts, remembers = (self.hidden, self.activation, self.cnn), self.information == "stacked"
        return ActorNetwork("deterministic", *parts, remembers=remembers)

    # --- what each player sees ---------------------------------------------------------------------------------------

    def seen(self, observation: Observed) -> Tensor:
        """The agent's view o."""
        state = observation["state"]
        if self.information == "stacked":
            return torch.cat([observation["previous_state"], state, observation["previous_action"]], -1)
        return torch.cat([state, observation["parameters"]], -1) if self.information == "oracle" else state

    def seen_by_adversary(self, observation: Observed, action: Tensor) -> Tensor:
        """The adversary's view: the parameters, the state, and the agent's action."""
        return torch.cat([observation["parameters"], observation["state"], action], -1)

    def play(self, w: Weights, observation: Any, noise: dict[str, Tensor], progress: Tensor) -> Tensor:
        k = observation["parameters"].shape[-1]
        own, its = noise["action"][..., :-k], noise["action"][..., -k:]
        action = (w("actor", self.seen(observation)) + self.exploration_noise * own).clamp(-1, 1)
        move = w("adversary", self.seen_by_adversary(observation, action)) + self.exploration_noise * its
        return torch.cat([action, move.clamp(-1, 1)], -1)

    # --- networks and losses -----------------------------------------------------------------------------------------

    def networks(self, observation_space: gym.Space, action_space: gym.Space) -> dict[str, Net]:
        (states, k), actions = sizes(observation_space), own_actions(observation_space, action_space)
        own = action_size(actions)
        views = {"vanilla": states, "stacked": 2 * states + own, "oracle": states + k}
        seen, its = unbounded(views[self.information]), unbounded(k + states + own)
        agent = super().networks(*self.agent_spaces(observation_space, action_space))
        plain, unit = replace(self.actor_network(), remembers=False), gym.spaces.Box(-1.0, 1.0, (k,))
        return {
            "critic": replace(agent["critic"], make=self.critic_of(seen, own + self.critic_sees(k))),
            "actor": agent["actor"],
            "adversary": replace(agent["actor"], make=lambda: plain.make(its, unit), loss=self.adversary_loss),
        }

    def critic_of(self, seen: gym.Space, judged: int) -> Callable[[], ActionValue]:
        """A function that makes a critic of a view and a vector of this size."""
        return lambda: ActionValue(seen, judged, self.hidden, self.activation, self.cnn)

    def critic_sees(self, k: int) -> int:
        """The number of parameters that the agent's critics see."""
        return k

    def judged(self, action: Tensor, batch: Batch) -> Tensor:
        return torch.cat([action, batch["parameters"]], -1)

    def critic_loss(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return super().critic_loss(w, agents_part(batch, self.seen))

    def actor_loss(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return super().actor_loss(w, agents_part(batch, self.seen))

    def adversary_loss(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The first critic's value of the agent's action under the parameters that the adversary moves to."""
        own, now = agents_part(batch, self.seen), batch["observation"]["parameters"]
        move = w("adversary", self.seen_by_adversary(batch["observation"], own["action"]))
        moved = (now + 2.0 * self.speed * move).clamp(-1, 1)
        values = w.fixed("critic", own["observation"], self.judged(own["action"], {**own, "parameters": moved}))
        loss = values.reshape(-1, len(move))[0].mean()
        return loss, {"adversary_loss": loss.detach()}

    # --- in words ----------------------------------------------------------------------------------------------------

    def objective(self) -> str:
        critic = f"critic: mean (Q(o, a, ψ') − y)²,  y = r + γ·min over {self.critics} of Q⁻(o', ã', ψ')"
        return f"{critic}\nactor: −mean Q_1(o, π(o), ψ')\nadversary: mean Q_1(o, a, clip(ψ + L·π̂(ψ, s, a)))"

    def steps(self) -> list[str]:
        critics, actor, explored = super().steps()
        return [
            f"the adversary moves the parameters of {self.set} by at most {self.speed:g} of their range before every "
            f"step; the agent's view is {self.information}",
            critics,
            actor,
            self.adversarys_step(),
            f"{explored}, the adversary's moves alike",
        ]

    def adversarys_step(self) -> str:
        return "with the actor, the adversary: one step down the first critic, through its move"


@dataclass(frozen=True)
class TCRARL(TCM2TD3):
    """Two TD3 learners, of which one moves the parameters."""

    def networks(self, observation_space: gym.Space, action_space: gym.Space) -> dict[str, Net]:
        nets, (states, k) = super().networks(observation_space, action_space), sizes(observation_space)
        view = unbounded(k + states + action_size(own_actions(observation_space, action_space)))
        adversary = nets.pop("adversary")
        critic = replace(nets["critic"], make=self.critic_of(view, k), loss=self.adversary_critic_loss)
        return {**nets, "adversary_critic": critic, "adversary": adversary}

    def critic_sees(self, k: int) -> int:
        return 0

    def judged(self, action: Tensor, batch: Batch) -> Tensor:
        return action

    def adversarys_part(self, w: Weights, batch: Batch) -> tuple[Weights, Batch]:
        """The game as the adversary's own TD3 learns it."""
        own = agents_part(batch, self.seen)
        following = w.fixed("actor", own["next_observation"])
        its = {
            **own,
            "observation": self.seen_by_adversary(batch["observation"], own["action"]),
            "next_observation": self.seen_by_adversary(batch["next_observation"], following),
            "action": own["move"],
            "reward": -batch["reward"],
            "noise": {"target": own["parameter_noise"]},
        }
        return w.renamed(actor="adversary", critic="adversary_critic"), its

    def adversary_critic_loss(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """TD3's loss of critics, of the negated reward."""
        loss, found = TD3.critic_loss(self, *self.adversarys_part(w, batch))
        return loss, {"adversary_critic_loss": found["critic_loss"], "adversary_q": found["q"]}

    def adversary_loss(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """TD3's loss of actors."""
        loss, found = TD3.actor_loss(self, *self.adversarys_part(w, batch))
        return loss, {"adversary_loss": found["actor_loss"]}

    def adversarys_step(self) -> str:
        return "the adversary's critics and actor: the same of −r, on the parameters, the state and the agent's action"

    def objective(self) -> str:
        return TD3.objective(self) + "\nadversary: the same of −r, for its moves b = π̂(ψ, s, a)"


METHOD = TCM2TD3
