"""One side of a game as a learner, and frozen policies of a side that act for many rows at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surefoot.envs import env_seeds
from surefoot.loops.common.collect import Collector, Rollout
from surefoot.loops.common.optimizer import Adam
from surefoot.loops.common.staging import staged
from surefoot.loops.on_policy.learner import Learner
from surefoot.loops.on_policy.method import OnPolicy
from surefoot.loops.population.seats import Opponents, Seat
from surefoot.models.agent import Agent
from surefoot.models.device import CPU, computing_on
from surefoot.models.functional import Model, initial, over_seeds
from surefoot.models.normalizers import normalize
from surefoot.seeding import derive, torch_stream


class Player(Learner):
    """A learner whose every rollout begins with fresh episodes, so that its tensors and its counters are all its state:
    a resumed run has nothing to replay. Once `frozen`, its normaliser of observations stays as it is."""

    def __init__(
        self, method: OnPolicy, seat: Seat, seeds: Sequence[int], total_steps: int, *, compile: str, device: str
    ) -> None:
        self.seat, self.frozen = seat, False
        super().__init__(method, seat, seeds, total_steps, compile=compile, device=device)

    @computing_on(CPU)
    def collect(self, vectors: Tensor, num_steps: int | None = None) -> Rollout:
        logged, each = self.collector.logged, self.method.num_envs
        self.seat.seeds = [s for seed in self.seeds for s in env_seeds(derive(seed, "rollout", logged), each)]
        self.collector = Collector(self.seat)
        self.collector.logged = logged
        self.core_state = torch.zeros_like(self.core_state)
        self.episodes.running = torch.zeros_like(self.episodes.running)
        self.discounted = torch.zeros_like(self.discounted)
        return super().collect(vectors, num_steps)

    def _observe(self, observation: Any) -> None:
        if not self.frozen:
            super()._observe(observation)

    def state(self) -> dict[str, Tensor]:
        return {name: x for name, x in super().state().items() if name != "replay/sums"}

    def load(self, state: Mapping[str, Tensor], iteration: int, logged: int) -> None:
        super().load(state, iteration, logged)
        self.collector.logged = logged

    def start_anew(self, counter: int | None = None) -> None:
        """A fresh optimiser, and with a counter also fresh weights."""
        if counter is not None:
            fresh = [initial(self._module, torch_stream(seed, "weights", counter)) for seed in self.seeds]
            self.vector = torch.stack(fresh).to(self.device)
        with computing_on(self.device):
            self.adam = Adam.start(self.vector)

    def agent_of(self, vector: Tensor, index: int, facts: dict[str, Any]) -> Agent:
        """The policy with these weights `[size]` of one seed."""
        scales = {key: tuple(x[index, 0].cpu() for x in pair) for key, pair in self.scales().items()}
        own = vector.cpu()[self.model.mask(lambda name: not name.startswith("multipliers."))]
        return Agent(self.network, self.observation_space, self.action_space, own, scales, facts)  # type: ignore[arg-type]


def frozen(model: Model, vectors: Tensor, scales: tuple[Tensor, Tensor] | None, rows: int, width: int) -> Opponents:
    """The most likely actions of frozen policies, as environments take them.

    `vectors [seeds, members, size]`; `scales` are means and inverse deviations `[seeds, 1, n]` of observations, if they
    are normalised; there are `rows` rows for each seed, `width` is n. The function takes observations `[seeds·rows, n]`
    and which member acts in every row.
    """
    seeds, members = vectors.shape[:2]
    distribution = model.distribution

    def one(vector: Tensor, x: Tensor) -> Tensor:
        return distribution.to_env(distribution.mode(model(vector, x)[0]))

    def act(early: Any, late: Any) -> tuple[Tensor]:
        (weights, *scale), (x,) = early, late
        x = x.unflatten(0, (seeds, rows))
        x = normalize(x, *scale) if scale else x
        x = x.unsqueeze(1).expand(-1, members, -1, -1).flatten(0, 1)
        return (over_seeds(one, seeds * members)(weights.flatten(0, 1), x),)

    early = (vectors.cpu(), *(() if scales is None else (x.cpu() for x in scales)))
    prepare, run = staged(act, early, (torch.zeros(seeds * rows, width),))
    prepared, place = prepare(early), np.arange(seeds * rows)

    def opponents(observation: np.ndarray, member: np.ndarray) -> np.ndarray:
        (actions,) = run(prepared, np.asarray(observation, np.float32))
        each = actions.reshape(seeds, members, rows, *actions.shape[2:])
        return each[place // rows, member, place % rows]

    return opponents
