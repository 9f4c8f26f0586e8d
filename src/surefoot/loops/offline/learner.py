"""One run of an offline method, for one seed or several at once: batches of a data set in place of a replay.

Rows are drawn from named streams by the number of the iteration, so a resumed run needs the data, which must be the
same ones, and its counters. `surefoot train SLUG --data FILE`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from surefoot.data.transitions import Transitions
from surefoot.envs import make_single
from surefoot.envs.names import check_recorded
from surefoot.errors import UsageError
from surefoot.hyperparameters import check, hyperparameter
from surefoot.loops.common.datasets import DataOptions, fitting, learned_from, named, opened, recorded
from surefoot.loops.common.env_options import described as described_env
from surefoot.loops.common.env_options import single, worded
from surefoot.loops.common.kinds import Loop
from surefoot.loops.common.schedule import scheduled
from surefoot.loops.networks.learner import NetworkLearner
from surefoot.loops.networks.machine import Means
from surefoot.loops.networks.nets import Batch
from surefoot.loops.offline.method import Offline
from surefoot.models.device import chosen_device, computing_on, device_option
from surefoot.models.normalizers import Moments
from surefoot.models.observations import normalize_observation
from surefoot.seeding import numpy_stream, torch_stream

ROWS = 2**16  # of the data that a network sees at once
SPREAD = 1e-3  # added to the standard deviation of an observation, so that one that never changes stays near 0


class OfflineLearner(NetworkLearner):
    """Networks and data of a run; `iterate()` advances it by `method.pace` gradient steps.

    The data are on `device` once, for all seeds. On the CPU those that are mapped from a file stay there, and a batch
    reads its rows.
    """

    method: Offline

    def __init__(
        self,
        method: Offline,
        data: Transitions,
        spaces: tuple[gym.Space, gym.Space],
        seeds: Sequence[int],
        total_steps: int,
        *,
        reward_data: Transitions | None = None,
        compile: str = "off",
        device: str = "cpu",
    ) -> None:
        super().__init__(method, *spaces, seeds, total_steps, compile=compile, device=device)
        self.given, self.reward_data = data, reward_data
        self.data = data = method.learned(data, reward_data)
        columns = {
            "observation": data.observation,
            "next_observation": data.next_observation,
            "action": data.action,
            "reward": data.reward,
            "discount": np.where(data.terminated, np.float32(0), np.float32(method.gamma)),
            **method.columns(data),
        }
        own = {name: x if isinstance(x, np.memmap) else np.array(x) for name, x in columns.items()}
        self.columns = {name: torch.from_numpy(x).to(self.device) for name, x in own.items()}
        with computing_on(self.device):
            for key in self.moments:
                mean, deviation = (torch.from_numpy(x).to(self.device) for x in method.fitted(data))
                self.moments[key] = _over(Moments.of_scale(mean, 1 / (deviation + SPREAD), len(data)), self.num_seeds)
        self._before = method.beforehand(self)

    @property
    def steps(self) -> int:
        """Gradient steps so far."""
        return self.updates

    def iterate(self) -> list[dict[str, float]]:
        """Learn for `method.pace` gradient steps; returns one row of metrics per seed."""
        means = Means()
        self.draw()
        for _ in range(self.method.pace):
            means.add(self.update())
        return self.ended([{} for _ in self.seeds], means)

    def draw(self) -> None:
        """Begin the random streams of an iteration, which depend on its number alone."""
        self._index_streams = [numpy_stream(s, "rows of the data", self.iteration) for s in self.seeds]
        self._noise_streams = [torch_stream(s, "losses", self.iteration) for s in self.seeds]

    def update(self) -> dict[str, Tensor]:
        """One gradient step of all networks that are due, and of the targets; metrics `[seeds]` by name."""
        batch = self.batch()
        if self._before is not None:
            batch |= self._before(batch, self.due())
        metrics = self.step(batch)
        metrics.pop("td_errors", None)  # of off-policy losses, for a replay by priority
        return metrics

    def rows(self) -> list[NDArray[np.int64]]:
        """The rows of the data in the next batch of every seed: uniformly drawn, with replacement."""
        return [g.integers(0, len(self.data), self.method.batch_size) for g in self._index_streams]

    def batch(self) -> Batch:
        """A batch of every seed, `[seeds, size, ...]`."""
        index = torch.from_numpy(np.stack(self.rows())).to(self.device)
        taken: Batch = {name: x[index] for name, x in self.columns.items()}
        return self.completed({**taken, "index": index}, self._noise_streams)

    def over_rows(self, name: str, observation: Tensor, *others: Tensor) -> Iterator[Any]:
        """What each seed's network says of rows of the data, `[seeds, size, ...]` of one block of them after another.

        observation, others: `[rows, ...]`; the observation is normalised.
        """
        for seen, *rest in zip(*(x.split(ROWS) for x in (observation, *others)), strict=True):
            each, *more = (x.expand(self.num_seeds, *x.shape) for x in (seen, *rest))
            yield self.output(name, normalize_observation(each, self.scales()), *more)

    def rate(self) -> float | None:
        method = self.method
        if method.anneal == "none" and not method.warmup:
            return None
        return scheduled(1.0, method.anneal, method.warmup, self.updates, 1, self.total_steps)

    def flush(self) -> int:
        """Nothing is logged besides the checkpoints."""
        return 0

    def close(self) -> None:
        """Nothing is held open."""


def _over(moments: Moments, seeds: int) -> Moments:
    """One normaliser for each of several seeds."""
    return Moments(*(x.expand(seeds, *x.shape[1:]).clone() for x in moments))


# --- connecting a run and its data -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class OfflineOptions(DataOptions):
    """The options of a run on data besides its method."""

    reward_data: Any = hyperparameter(
        None, help="Second data set, whose rewards are known, for methods that take those of data to be unknown."
    )
    env_kwargs: Any = hyperparameter(None, help="Arguments of the environment, such as mass=2.", words="NAME=VALUE …")
    wrappers: Any = hyperparameter(
        (), help="Wrappers of the environment, the first one innermost, such as frame_stack.", words="WRAPPER …"
    )
    device: str = device_option("cpu")

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.reward_data, Path):
            object.__setattr__(self, "reward_data", str(self.reward_data))
        worded(self)
        check(self)
        chosen_device(self.device)


def _describe(
    env: Any,
    *,
    data: Any = None,
    fingerprint: str | None = None,
    rows: int | None = None,
    reward_data: Any = None,
    reward_fingerprint: str | None = None,
    corrupt: str | None = None,
    device: str = "cpu",
    **options: Any,
) -> dict[str, Any]:
    about = recorded(data, fingerprint, corrupt)
    place = {"env": "", "device": device}
    if env != "":
        place = described_env(env, backend="gymnasium", device=device, **options)
        place.pop("backend")
    place |= about
    if reward_data is None:
        return place
    second = opened(reward_data, reward_fingerprint, "reward_data")
    return place | {"reward_data": named(reward_data), "reward_fingerprint": second.digest()}


def _single(env: Any, **options: Any) -> Any:
    if env == "":
        raise UsageError(
            "this run learns from data alone, so there is nothing to evaluate it in. Give env=… (--env), or leave out "
            "evaluate_every and keep_best."
        )
    return single(env, **options)


def _spaces(env: Any, data: Transitions, **options: Any) -> tuple[gym.Space, gym.Space]:
    """What the agent sees and does: the environment's spaces, which the data must fit, or the data's own."""
    if data.discrete:
        raise UsageError(
            f"{data.name} has discrete actions. This method needs continuous actions, as all do that learn from data "
            "alone; dqn and sac-discrete learn discrete ones in an environment."
        )
    if env == "":
        return data.observation_space, data.actions_in()
    made = make_single(_single(env, **options))
    seen, acted = made.observation_space, made.action_space
    made.close()
    return fitting(data, seen, acted)


def _learner(
    method: Offline,
    env: Any,
    seeds: Sequence[int],
    steps: int,
    /,
    *,
    data: Any = None,
    fingerprint: str | None = None,
    rows: int | None = None,
    reward_data: Any = None,
    reward_fingerprint: str | None = None,
    corrupt: str | None = None,
    device: str = "cpu",
    compile: str = "off",
    log: Path | None = None,
    **options: Any,
) -> OfflineLearner:
    device = chosen_device(device)
    if device != "cpu" and compile == "on":
        raise UsageError(
            f"compile='on' is not allowed with device={device!r}: compiled code runs on the CPU. Leave compile out."
        )
    found = learned_from(data, fingerprint, corrupt)
    if reward_data is not None and not method.reads_reward_data:
        raise UsageError(
            "reward_data has no effect on this method, which learns from the rewards of data alone; leave it out."
        )
    second = None if reward_data is None else opened(reward_data, reward_fingerprint, "reward_data")
    compile, spaces = compile if device == "cpu" else "off", _spaces(env, found, **options)
    return OfflineLearner(method, found, spaces, seeds, steps, reward_data=second, compile=compile, device=device)


def _check_recorded(env: Any, **options: Any) -> None:
    """Files of data are read, not run; the environment is as that of any run."""
    if env:
        check_recorded(env, **{name: x for name, x in options.items() if name == "origin"})


LOOP = Loop(
    _describe,
    _learner,
    _single,
    measured="gradient steps",
    env_help="Environment for evaluations, if there is one; its actions and observations must be those of the data.",
    options=OfflineOptions,
    check_recorded=_check_recorded,
)
