"""A buffer of the last rollouts, stored raw, so that they can be re-evaluated with the current weights.

The buffer is a dict of tensors with fixed shapes, and so a part of a checkpoint. Batches lie side by side on the axis
of the environments, `[seeds, time, batches · envs, ...]`, each with its own last observation and its own first core
state: the batches are not consecutive in time, and no estimate crosses from one to the next.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from surefoot.loops.common.collect import Rollout, map_observation
from surefoot.loops.on_policy.method import Batch
from surefoot.models.functional import Model, over_seeds
from surefoot.models.observations import normalize_observation
from surefoot.models.spaces import MASK_KEY

if TYPE_CHECKING:
    from surefoot.loops.on_policy.learner import Learner

WHOLE = ""  # the key of an observation that is no dict


def empty(model: Model, steps: int, columns: int) -> dict[str, Tensor]:
    """An empty buffer for one seed's `columns` environments of `steps` steps, with no valid sample."""
    module, distribution = model.module, model.distribution
    observations = {key: _zeros(space) for key, space in module.actor.encoder.spaces.items()}
    if module.masked:
        observations[MASK_KEY] = torch.zeros(distribution.size, dtype=torch.int8)
    entries = {f"observation/{key}": (steps + 1, x) for key, x in observations.items()}
    entries["action"] = (steps, distribution.mode(torch.zeros(distribution.size)))
    entries["reward"] = (steps, torch.zeros(()))
    entries |= {name: (steps, torch.zeros((), dtype=torch.bool)) for name in ("terminated", "truncated", "valid")}
    entries["starts"] = (steps + 1, torch.zeros((), dtype=torch.bool))
    buffer = {name: x.new_zeros(rows, columns, *x.shape) for name, (rows, x) in entries.items()}
    return {**buffer, "state": torch.zeros(columns, module.state_size)}


def _zeros(space: Any) -> Tensor:
    return torch.from_numpy(space.dtype.type(0).reshape(1)).new_zeros(space.shape or ())


def write(buffer: Mapping[str, Tensor], rollout: Rollout, time: int, column: int) -> None:
    """Put a rollout `[time, seeds, envs, ...]` into the buffer of all seeds, its corner at that time and column."""
    observation = rollout.observation if isinstance(rollout.observation, dict) else {WHOLE: rollout.observation}
    named = {f"observation/{key}": x for key, x in observation.items()}
    named |= {name: getattr(rollout, name) for name in Rollout._fields if name != "observation"}
    for name, x in named.items():
        buffer[name][:, time : time + x.shape[0], column : column + x.shape[2]] = x.transpose(0, 1)


def read(buffer: Mapping[str, Tensor], first: int, last: int) -> Rollout:
    """The columns from `first` up to `last` as a rollout `[time, seeds, columns, ...]`."""
    rows = {name: x[:, :, first:last].transpose(0, 1) for name, x in buffer.items() if name != "state"}
    observation = {name.removeprefix("observation/"): rows.pop(name) for name in list(rows) if "/" in name}
    return Rollout(observation=observation.get(WHOLE, observation), **rows)  # type: ignore[arg-type]


def reread(learner: Learner, rollout: Rollout, state: Tensor) -> tuple[Batch, Tensor]:
    """A rollout re-evaluated with the learner's current weights and normalisers, from a core `state`
    `[seeds, envs, width]`.

    All of a `Batch` except advantage and target, as `[seeds, time, envs, ...]`, and the values of all observations
    `[seeds, time + 1, envs]`.
    """
    scales = {key: (mean.unsqueeze(1), scale.unsqueeze(1)) for key, (mean, scale) in learner.scales().items()}
    observation = map_observation(lambda x: x.transpose(0, 1), rollout.observation)
    batch: Batch = {"observation": normalize_observation(observation, scales)}
    if state.shape[-1]:
        batch |= {"starts": rollout.starts.transpose(0, 1), "state": state}
    with torch.no_grad():
        params, value = over_seeds(learner.model.evaluate, learner.num_seeds)(learner.vector, batch)
    batch = {k: x if k == "state" else map_observation(lambda part: part[:, :-1], x) for k, x in batch.items()}
    action = rollout.action.transpose(0, 1)
    batch |= {
        "action": action,
        "old_params": params[:, :-1],
        "old_log_prob": learner.model.distribution.log_prob(params[:, :-1], action),
        "old_value": value[:, :-1],
        "valid": rollout.valid.transpose(0, 1),
    }
    return batch, value


def flat(batch: Batch) -> Batch:
    """Time and environments as one axis of samples, unless the network is recurrent and needs whole sequences."""
    return batch if "state" in batch else {k: map_observation(lambda x: x.flatten(1, 2), x) for k, x in batch.items()}
