"""One run of a game between populations, for one seed or several at once.

The state is two learners, the policies found so far, and what they pay to each other; every rollout begins with fresh
episodes, so nothing is replayed when a run is resumed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from surefoot.envs import env_seeds
from surefoot.errors import UsageError
from surefoot.loops.common.env_options import environment_loop
from surefoot.loops.population.method import Population
from surefoot.loops.population.player import Player, frozen
from surefoot.loops.population.seats import AdversarySeat, AgentSeat, Opponents
from surefoot.seeding import derive

Side = Literal["agent", "adversary"]
LONGEST_EPISODE = 100_000


class PopulationLearner:
    """Both players of a game, and the populations of what they have been."""

    def __init__(
        self,
        method: Population,
        envs: VectorEnv,
        seeds: Sequence[int],
        total_steps: int,
        *,
        log: Path | None = None,
        compile: str = "off",
        device: str = "cpu",
    ) -> None:
        self.method, self.seeds, self.num_seeds, self.envs = method, list(seeds), len(seeds), envs
        threat, options = method.threat(), {"compile": compile, "device": device}
        adversaries = [derive(seed, "adversary") for seed in seeds]
        self.protagonist = Player(method, AgentSeat(envs, threat), seeds, total_steps, **options)
        self.adversary = Player(method.adversary(), AdversarySeat(envs, threat), adversaries, total_steps, **options)
        self.agents = torch.empty(self.num_seeds, 0, self.protagonist.model.size)  # [seeds, members, weights]
        self.adversaries = torch.empty(self.num_seeds, 0, self.adversary.model.size)
        self.payoffs = torch.empty(
            self.num_seeds, 0, 0, dtype=torch.float64
        )  # mean returns of agents against adversaries
        self.best = torch.zeros(
            self.num_seeds, dtype=torch.int64
        )  # a member of the agents, for methods that prefer one
        self.taken = self.iteration = 0

    @property
    def steps(self) -> int:
        """Environment steps per seed so far: both players', and those in which payoffs were measured."""
        return self.taken

    def iterate(self) -> list[dict[str, float]]:
        """One iteration of the method; returns one row of metrics per seed."""
        self.protagonist.frozen = self.iteration >= self.method.response  # before that nobody attacks
        rows = self.method.advance(self)
        self.iteration += 1
        return rows

    # --- for methods -------------------------------------------------------------------------------------------------

    def learn(
        self, side: Side, opponents: Tensor | None = None, chances: np.ndarray | None = None
    ) -> list[dict[str, float]]:
        """One rollout and update of a side against frozen opponents `[seeds, members, weights]`, of which one is drawn
        for every episode by the `chances [seeds, members]` or `[seeds, rows, members]`; the agent may have none."""
        player, other = self.protagonist, self.adversary
        if side == "adversary":
            player, other = other, player
        self._look()
        if opponents is None:
            player.seat.face(None, np.ones((self.envs.num_envs, 1)))
        else:
            player.seat.face(self._acting(other, opponents), self._each_row(chances, opponents))
        rows = player.iterate()
        self.taken += self.method.pace
        if side == "adversary":
            rows = [_as_agents(row) for row in rows]
        counts = self.protagonist.episodes.count + self.adversary.episodes.count
        return [row | {"episodes": count} for row, count in zip(rows, counts.tolist(), strict=True)]

    def join(self, idle: bool = False) -> None:
        """Add both players as they are to their populations, and measure the payoffs that are new; `idle` adds an
        adversary that does nothing in place of the one that learns: all its weights are zero, and so are its
        commands."""
        theirs = self.adversary.vector.detach().cpu()
        self.agents = torch.cat([self.agents, self.protagonist.vector.detach().cpu().unsqueeze(1)], 1)
        self.adversaries = torch.cat([self.adversaries, (theirs * (not idle)).unsqueeze(1)], 1)
        known, table = self.payoffs, torch.empty(self.num_seeds, self.agents.shape[1], self.adversaries.shape[1])
        self.payoffs = table.double()
        for i, j in np.ndindex(*table.shape[1:]):
            old = i < known.shape[1] and j < known.shape[2]
            self.payoffs[:, i, j] = known[:, i, j] if old else self.returns(self.agents[:, i], self.adversaries[:, j])

    def returns(self, agent: Tensor, adversary: Tensor) -> Tensor:
        """Mean returns `[seeds]` of agents `[seeds, weights]` against adversaries, by common random numbers."""
        each, seat = self.method.num_envs, self.adversary.seat
        episodes = -(-self.method.payoff_episodes // each)  # in every environment
        self._look()
        seat.face(self._acting(self.protagonist, agent.unsqueeze(1)), np.ones((self.envs.num_envs, 1)))
        seat.seeds = [s for seed in self.seeds for s in env_seeds(derive(seed, "payoff"), each)]
        commands = self._acting(self.adversary, adversary.unsqueeze(1))
        nobody, count = np.zeros(self.envs.num_envs, int), np.zeros(self.envs.num_envs, int)
        observation, total, length = seat.reset()[0], np.zeros(self.envs.num_envs), 0
        while (count < episodes).any():
            observation, reward, terminated, truncated, _ = seat.step(commands(observation, nobody))
            total -= np.where(count < episodes, reward, 0.0)
            count += terminated | truncated
            length += 1
            if length > LONGEST_EPISODE * episodes:
                raise UsageError(f"an episode has not ended after {LONGEST_EPISODE} steps; add a time limit.")
        self.taken += length * each
        return torch.from_numpy(total.reshape(self.num_seeds, each).mean(1) / episodes)

    def _look(self) -> None:
        """Give both seats the units of the agent's normaliser."""
        for mean, inverse in self.protagonist.scales().values():
            for seat in (self.protagonist.seat, self.adversary.seat):
                each = [x.cpu().squeeze(1).repeat_interleave(self.method.num_envs, 0).numpy() for x in (mean, inverse)]
                seat.mean, seat.deviation = each[0], 1.0 / each[1]

    def _acting(self, player: Player, vectors: Tensor) -> Opponents:
        scales = next(iter(player.scales().values()), None)
        width = int(np.prod(player.observation_space.shape))  # type: ignore[arg-type]
        return frozen(player.model, vectors, scales, self.method.num_envs, width)

    def _each_row(self, chances: np.ndarray | None, opponents: Tensor) -> np.ndarray:
        """Chances `[seeds·rows, members]`."""
        members = opponents.shape[1]
        given = np.full((self.num_seeds, members), 1 / members) if chances is None else np.asarray(chances, float)
        if given.ndim == 2:
            given = np.broadcast_to(given[:, None], (self.num_seeds, self.method.num_envs, members))
        return given.reshape(-1, members)

    # --- checkpoints and agents --------------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """Everything but the counter of iterations, as tensors by name."""
        own = {name: getattr(self, name).clone() for name in ("agents", "adversaries", "payoffs", "best")}
        counters = torch.tensor([self.taken, self.protagonist.collector.logged, self.adversary.collector.logged])
        sides = {"agent": self.protagonist, "adversary": self.adversary}
        parts = {f"{side}/{name}": x for side, one in sides.items() for name, x in one.state().items()}
        return {**parts, **{f"game/{name}": x for name, x in own.items()}, "game/counters": counters}

    def load(self, state: Mapping[str, Tensor], iteration: int, logged: int) -> None:
        """Load a saved state.

        Raises:
            UsageError: tensors are missing, unknown, or of another type or shape.
        """
        mine, names = self.state(), ("agents", "adversaries", "payoffs", "best", "counters")
        game = {name: state[f"game/{name}"] for name in names if f"game/{name}" in state}
        found = [game[n].shape[1] if n in game and game[n].dim() == 3 else 0 for n in ("agents", "adversaries")]
        wanted = {name: (mine[f"game/{name}"].dtype, mine[f"game/{name}"].shape) for name in names}
        for name, sizes in (("agents", found[:1]), ("adversaries", found[1:]), ("payoffs", found)):
            kind, shape = wanted[name]
            wanted[name] = kind, torch.Size((shape[0], *sizes, *shape[1 + len(sizes) :]))
        wrong = [name for name in names if name not in game or (game[name].dtype, game[name].shape) != wanted[name]]
        wrong += [name for name in state if name.partition("/")[0] not in ("game", "agent", "adversary")]
        if wrong:
            raise UsageError(
                f"the checkpoint does not fit this method, network or number of seeds: {', '.join(wrong)} differ. "
                "Resume with the configuration in the run's config.json."
            )
        for name in names[:-1]:
            setattr(self, name, game[name].clone())
        self.taken, first, second = (int(x) for x in game["counters"])
        for side, player, logged in (("agent", self.protagonist, first), ("adversary", self.adversary, second)):
            own = {name.partition("/")[2]: x for name, x in state.items() if name.startswith(f"{side}/")}
            player.load(own, logged // self.method.num_steps, logged)
        self.iteration = iteration

    def lost(self) -> list[int]:
        """The seeds with weights that are not finite."""
        pairs = zip(self.seeds, self.protagonist.vector, self.adversary.vector, strict=True)
        return [seed for seed, one, other in pairs if not (torch.isfinite(one).all() and torch.isfinite(other).all())]

    def flush(self) -> int:
        """Nothing is logged."""
        return 0

    def close(self) -> None:
        self.envs.close()

    def agent(self, index: int = 0, **facts: Any) -> Any:
        """The agent of one seed: as it is deployed, or as it learns while there is no population."""
        if not self.agents.shape[1]:
            return self.protagonist.agent_of(self.protagonist.vector[index], index, facts)
        return self.method.deployed(self, index, facts)


def _as_agents(row: dict[str, float]) -> dict[str, float]:
    """An adversary's metrics under names of their own, and the agents' returns, which are its own negated."""
    named = {f"adversary_{name}": value for name, value in row.items()}
    return named | {name: -row[name] for name in ("return", "return_mean") if name in row}


def _in_process(method: Any, env: Any, **options: Any) -> tuple[Any, dict[str, Any]]:
    """Episodes begin anew with every rollout, for which EnvPool would make its environments again."""
    return env, options if options.get("backend") == "process" else {**options, "backend": "gymnasium"}


LOOP = environment_loop(PopulationLearner, _in_process)
