"""What a run is told of its environments, and how it writes that down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from surefoot.envs import describe, make_as
from surefoot.envs.make import PATIENCE
from surefoot.envs.names import check_origin
from surefoot.envs.perturbed import under
from surefoot.hyperparameters import check, hyperparameter
from surefoot.perturbations import Perturbation


def described(env: Any, *, perturb: str | None = None, **options: Any) -> dict[str, Any]:
    """What `envs.describe` says of the environment and the options, without what the method and the run say."""
    _, chosen = under(env, perturb, **options)
    description = describe(env, **{**options, "backend": chosen["backend"]})
    description |= {} if perturb is None else {"perturb": perturb}
    return {name: value for name, value in description.items() if name not in ("num_envs", "seed")}


def single(
    env: Any, *, env_kwargs: Mapping[str, Any] | None = None, wrappers: Any = (), origin: Any = None, **_: Any
) -> Any:
    """What an agent is evaluated in: the environment's name, or a factory with its arguments and wrappers."""
    check_origin(env, origin)
    return partial(make_as, env, env_kwargs or {}, wrappers) if env_kwargs or wrappers else env


@dataclass(frozen=True)
class EnvOptions:
    """What `envs.make` is told besides the environment."""

    backend: str = hyperparameter(
        "auto", choices=("auto", "gymnasium", "process", "envpool"), help="Backend that steps the environments."
    )
    env_kwargs: Any = None
    wrappers: Any = ()
    perturb: str | None = hyperparameter(
        None,
        help="Perturbation to train under, as for stress: observation-noise:0.1; a range such as 0..0.2 is drawn from "
        "uniformly in every episode. Evaluations play the environment itself.",
    )
    step_timeout: float = hyperparameter(
        PATIENCE, above=0, help="Seconds that a process of backend=process may take for a step before it is given up."
    )

    def __post_init__(self) -> None:
        if isinstance(self.perturb, Perturbation):
            object.__setattr__(self, "perturb", str(self.perturb))
        check(self)
