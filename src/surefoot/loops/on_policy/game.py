"""Games of two on-policy learners in the same environments: a protagonist and its adversary, each its own learner.

Both act at every step, by samples of their policies. A turn is one batch, on which one of them learns (alternating best
responses) or both do (simultaneous steps); the other is a part of the environment. The adversary's reward is the
negated one. Each has its own weights, critic, optimiser and normalisers; the environments, their log and the episodes
are common.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from surefoot.envs.adversary_game import JointActions
from surefoot.errors import UsageError
from surefoot.hyperparameters import hyperparameter
from surefoot.loops.common.collect import Arrays, Collector, Episodes, Rollout
from surefoot.loops.common.env_options import environment_loop
from surefoot.loops.common.game import ADVERSARY, PROTAGONIST, AgainstAdversary
from surefoot.loops.on_policy.learner import Learner
from surefoot.models.agent import Agent
from surefoot.models.device import CPU, computing_on

SIGNS = {PROTAGONIST: 1.0, ADVERSARY: -1.0}


@dataclass(frozen=True)
class OnPolicyGame(AgainstAdversary):
    """Both players of a game learn by one on-policy method, which it is combined with: `class RARL(OnPolicyGame,
    TRPO)`."""

    loop: ClassVar[str] = "on-policy-game"

    protagonist_turns: int = hyperparameter(1, low=1, help="Batches of the protagonist in an iteration.")
    adversary_turns: int = hyperparameter(1, low=0, help="Batches of the adversary in an iteration; 0 freezes it.")
    updates: str = hyperparameter(
        "alternate", choices=("alternate", "simultaneous"), help="Who learns from a batch: one player, or both."
    )

    if TYPE_CHECKING:  # of the on-policy method
        num_envs: int = 0
        num_steps: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[misc]
        if self.updates == "simultaneous" and self.adversary_turns != self.protagonist_turns:
            raise UsageError(
                f"adversary_turns={self.adversary_turns} is not allowed with updates='simultaneous' and "
                "protagonist_turns="
                f"{self.protagonist_turns}: both learn from every batch. Give the same number, or updates='alternate'."
            )

    def turns(self) -> list[tuple[str, ...]]:
        """Who learns from each batch of an iteration."""
        if self.updates == "simultaneous":
            return [(PROTAGONIST, ADVERSARY)] * self.protagonist_turns
        return [(PROTAGONIST,)] * self.protagonist_turns + [(ADVERSARY,)] * self.adversary_turns

    @property
    def pace(self) -> int:
        return len(self.turns()) * self.num_envs * self.num_steps

    def algorithm(self) -> list[str]:
        """One iteration in words: the protagonist's batches, then the adversary's."""
        _, *rest = super().algorithm()  # type: ignore[misc]
        both = f"{self.num_envs} envs × {self.num_steps} steps"
        moves = f"the adversary's moves, scaled by {self.fraction:g}, are the random choices of {self.adversary}"
        n, m = self.protagonist_turns, self.adversary_turns
        if self.updates == "simultaneous":
            return [moves, f"{n} times: collect {both} with both policies; both learn, from r and from −r:", *rest]
        who = f"{n} times the protagonist, from r, then {m} times the adversary, from −r"
        return [moves, f"{who}: collect a new {both} with both policies, and of the learning one:", *rest]


class Player(Learner):
    """The learner of one player."""

    def learn(self, rollout: Rollout) -> dict[str, Tensor]:
        """One update from a rollout in which it acted; metrics `[seeds]` by name."""
        self.lr_tensor = torch.tensor(self.lr)
        metrics = self.method.update(self, self.estimate(rollout))
        self.iteration += 1
        return metrics


class Game:
    """A run of a game, for one seed or several at once; `iterate()` advances it by the turns of both players."""

    def __init__(
        self,
        method: Any,  # an OnPolicyGame and an OnPolicy
        envs: VectorEnv,
        seeds: Sequence[int],
        total_steps: int,
        *,
        log: Path | None = None,
        compile: str = "off",
        device: str = "cpu",
    ) -> None:
        self.method, self.seeds, self.iteration = method, list(seeds), 0
        self.collector, self.episodes = Collector(envs, log), Episodes(len(seeds), method.num_envs)
        joint = envs.single_action_space
        assert isinstance(joint, JointActions)
        self.players = {
            name: Player(
                method, envs, seeds, total_steps, compile=compile, device=device, collector=self.collector,
                name="" if name == PROTAGONIST else name, spaces=(envs.single_observation_space, space),
            )
            for name, space in ((PROTAGONIST, joint.agent), (ADVERSARY, joint.adversary))
        }  # fmt: skip
        self.device = torch.device(device)

    @property
    def steps(self) -> int:
        """Environment steps per seed so far, of all turns."""
        return self.collector.logged * self.method.num_envs

    def iterate(self) -> list[dict[str, float]]:
        """The turns of an iteration; one row of metrics per seed, in which the adversary's have its name."""
        found: dict[str, list[Tensor]] = {}
        rows: list[dict[str, float]] = []
        for turn in self.method.turns():
            rollouts = self.collect()
            rows = [{**before, **now} for before, now in zip(rows or [{} for _ in self.seeds], self.episode_rows)]
            for name in turn:
                with computing_on(self.device):
                    metrics = self.players[name].learn(rollouts[name])
                for key, value in metrics.items():
                    found.setdefault(key if name == PROTAGONIST else f"{name}_{key}", []).append(value)
        for key, values in found.items():
            for row, value in zip(rows, torch.stack(values).mean(0).tolist(), strict=True):
                row[key] = value
        self.iteration += 1
        return rows

    @computing_on(CPU)
    def collect(self) -> dict[str, Rollout]:
        """A batch in which all players act: for each of them its own actions and its own reward."""
        steps = self.method.num_steps
        policies = {name: player.acting(player.vector, steps) for name, player in self.players.items()}
        sampled: dict[str, list[np.ndarray]] = {name: [] for name in policies}

        def act(t: int, observation: Arrays, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            parts = []
            for name, policy in policies.items():
                action, executed = policy(t, observation, starts)
                sampled[name].append(action)
                parts.append(executed.reshape(len(starts), -1).astype(np.float32))
            joint = np.concatenate(parts, -1)
            return joint, joint

        rollout = self.collector.collect(steps, act)
        common = {name: player.received(rollout) for name, player in self.players.items()}
        first = common[PROTAGONIST]
        ended = first.terminated | first.truncated
        rows = self.episodes.add(first.reward, ended, first.truncated, first.valid)
        self.episode_rows = [row | own for row, own in zip(rows, self.collector.figures(len(self.seeds)), strict=True)]
        return {
            name: whole._replace(
                action=torch.from_numpy(np.stack(sampled[name])).to(self.device), reward=SIGNS[name] * whole.reward
            )
            for name, whole in common.items()
        }

    # --- checkpoints and agents --------------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """The players' states under their names, and the episodes."""
        each = {f"{name}/{k}": x for name, player in self.players.items() for k, x in player.state().items()}
        return each | {k: x.clone() for k, x in self.episodes.state().items()}

    def load(self, state: Mapping[str, Tensor], iteration: int, logged: int) -> None:
        """Load a saved state of all players, and replay the environments to their state at that time.

        Raises:
            UsageError: tensors are missing, unknown, or of another type or shape.
        """
        for name, player in self.players.items():
            mine = {k.removeprefix(f"{name}/"): x for k, x in state.items() if k.startswith(f"{name}/")}
            player.restore(mine, iteration * sum(name in turn for turn in self.method.turns()))
        self.episodes.load(state)
        self.iteration = iteration
        self.collector.replay(logged, state[f"{PROTAGONIST}/replay/sums"])

    def lost(self) -> list[int]:
        """The seeds of which a player's weights are not finite."""
        return sorted({seed for player in self.players.values() for seed in player.lost()})

    def flush(self) -> int:
        """Flush the log of actions to disk, and return the number of steps in it."""
        return self.collector.flush()

    def close(self) -> None:
        """Close environments and log."""
        self.collector.close()

    def agent(self, index: int = 0, **facts: Any) -> Agent:
        """The protagonist of one seed."""
        return self.players[PROTAGONIST].agent(index, **facts)

    def opponents(self, index: int = 0, **facts: Any) -> dict[str, Agent]:
        """The adversary of one seed: it sees what the protagonist sees, and moves in [−1, 1]^k."""
        return {ADVERSARY: self.players[ADVERSARY].agent(index, **facts)}


LOOP = environment_loop(Game, lambda method, env, **options: method.training_env(env, **options))
