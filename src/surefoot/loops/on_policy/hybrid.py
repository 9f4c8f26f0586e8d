"""On-policy methods that learn from a data set beside their own steps. `surefoot train SLUG --env ENV --data FILE`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from surefoot.data.transitions import Transitions
from surefoot.errors import UsageError
from surefoot.loops.common.datasets import DataOptions, fitting, learned_from, recorded
from surefoot.loops.common.env_options import EnvOptions, environment_loop
from surefoot.loops.on_policy.learner import Learner


class HybridLearner(Learner):
    """A learner with a data set, whose observations and actions are those of its environments.

    `data` holds what the method makes of it (`columns`), by name, `[rows, ...]` on the learner's device, once for all
    seeds; it is empty for a method that is set to use none.
    """

    def __init__(self, *given: Any, data: Transitions | None, **options: Any) -> None:
        super().__init__(*given, **options)
        self.data: dict[str, Tensor] = {}
        if data is not None:
            fitting(data, self.observation_space, self.action_space)
            columns = self.method.columns(data, self.model.module.critic.steps)  # type: ignore[attr-defined]
            self.data = {name: torch.from_numpy(x.copy()).to(self.device) for name, x in columns.items()}


@dataclass(frozen=True)
class HybridOptions(EnvOptions, DataOptions):
    """The options of a run in environments and on data besides its method."""

    def __post_init__(self) -> None:
        DataOptions.__post_init__(self)
        EnvOptions.__post_init__(self)


ENVIRONMENTS = environment_loop(Learner)


def _describe(
    env: Any, *, data: Any = None, fingerprint: str | None = None, rows: Any = None, corrupt: Any = None, **options: Any
) -> dict[str, Any]:
    about = {} if data is None else recorded(data, fingerprint, corrupt)
    return ENVIRONMENTS.describe(env, **options) | about


def _learner(
    method: Any,
    env: Any,
    seeds: Sequence[int],
    steps: int,
    /,
    *,
    data: Any = None,
    fingerprint: str | None = None,
    rows: Any = None,
    corrupt: str | None = None,
    **options: Any,
) -> Any:
    if data is not None and not method.uses_data:
        raise UsageError(f"data={data!r} has no effect with {method.uses_no_data}; leave it out.")
    found = learned_from(data, fingerprint, corrupt) if method.uses_data else None
    return environment_loop(partial(HybridLearner, data=found)).learner(method, env, seeds, steps, **options)


LOOP = replace(ENVIRONMENTS, describe=_describe, learner=_learner, options=HybridOptions)
