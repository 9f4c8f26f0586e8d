"""The environment and device options of a run, how they are recorded, and the loops that take them."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from gymnasium.vector import VectorEnv

from surefoot.envs import describe, env_seeds, make, make_as
from surefoot.envs.make import PATIENCE
from surefoot.envs.names import check_origin, check_recorded
from surefoot.envs.perturbed import under
from surefoot.errors import UsageError
from surefoot.hyperparameters import check, hyperparameter
from surefoot.loops.common.kinds import Loop
from surefoot.loops.common.words import pairs, wrapper
from surefoot.models.device import chosen_device, device_option
from surefoot.perturbations import ObservationNoise, Perturbation


def described(env: Any, *, perturb: str | None = None, device: str = "cpu", **options: Any) -> dict[str, Any]:
    """The description of `envs.describe`, without the entries that the method and the run determine, and the device."""
    _, chosen = under(env, perturb, **options)
    description = describe(env, **{**options, "backend": chosen["backend"]})
    description |= {"device": device} if perturb is None else {"device": device, "perturb": perturb}
    return {name: value for name, value in description.items() if name not in ("num_envs", "seed")}


def single(
    env: Any, *, env_kwargs: Mapping[str, Any] | None = None, wrappers: Any = (), origin: Any = None, **_: Any
) -> Any:
    """What an agent is evaluated in: the environment's name, or a factory with its arguments and wrappers."""
    check_origin(env, origin)
    return partial(make_as, env, env_kwargs or {}, wrappers) if env_kwargs or wrappers else env


def worded(options: Any) -> None:
    """Replace `env_kwargs` and `wrappers` of an options dataclass that were written as words."""
    object.__setattr__(options, "env_kwargs", pairs(options.env_kwargs, "env_kwargs"))
    if isinstance(given := options.wrappers or (), (str, list, tuple)):
        given = [given] if isinstance(given, str) else given
        object.__setattr__(options, "wrappers", tuple(map(wrapper, given)))


@dataclass(frozen=True)
class EnvOptions:
    """The arguments of `envs.make` besides the environment, and the device of the method."""

    backend: str = hyperparameter(
        "auto", choices=("auto", "gymnasium", "process", "envpool"), help="Backend that steps the environments."
    )
    env_kwargs: Any = hyperparameter(None, help="Arguments of the environment, such as mass=2.", words="NAME=VALUE …")
    wrappers: Any = hyperparameter(
        (), help="Wrappers, the first one innermost, such as time_limit:steps=100 frame_stack.", words="WRAPPER …"
    )
    device: str = device_option("cpu")
    perturb: str | None = hyperparameter(
        None,
        help="Perturbation to train under, as for stress, such as observation-noise:0.1; a range such as 0..0.2 is "
        "sampled uniformly in every episode. Evaluations use the unperturbed environment.",
    )
    step_timeout: float = hyperparameter(
        PATIENCE, above=0, help="Timeout in seconds for a step of an environment with backend=process."
    )

    def __post_init__(self) -> None:
        if isinstance(self.perturb, Perturbation):
            object.__setattr__(self, "perturb", str(self.perturb))
        worded(self)
        check(self)
        chosen_device(self.device)


def under_smoothing(options: dict[str, Any], sigma: float) -> dict[str, Any]:
    """The options of training environments whose agent adds noise of deviation `sigma` to what it sees: the run's own
    perturbation, and after it the noise. EnvPool's, which cannot be perturbed, make way for Gymnasium's."""
    if not sigma:
        return options
    parts = [*filter(None, [options.get("perturb")]), str(ObservationNoise(sigma))]
    backend = {"backend": "gymnasium"} if options.get("backend") == "envpool" else {}
    return {**options, "perturb": " + ".join(parts), **backend}


def opened(env: Any, seeds: Sequence[int], compile: str, device: str, **options: Any) -> VectorEnv:
    """The environments of a run, one for each of the seeds; `options` are those of `EnvOptions`."""
    if device != "cpu" and compile == "on":
        raise UsageError(
            f"compile='on' is not allowed with device={device!r}: compiled code runs on the CPU. Leave compile out."
        )
    env, options = under(env, **options)
    masked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:  # worker processes inherit the mask: the loop, which still needs them, handles Ctrl-C
        return make(env, len(seeds), seed=seeds, **options)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, masked)


def environment_loop(learner: Callable[..., Any], training_env: Callable[..., Any] | None = None) -> Loop:
    """The kind of loop whose learner, `learner(method, envs, seeds, steps, …)`, trains in environments; a method's own
    `training_env(method, env, **options)` says in which, if not in the one that is given."""

    def placed(method: Any, env: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The environment that the method acts in while it learns, and the options with which it is made."""
        if training_env is not None:
            env, options = training_env(method, env, **options)
        return env, under_smoothing(options, method.smoothing)

    def check_method(method: Any, env: Any, **options: Any) -> None:
        """Refuse EnvPool where the method would act in Gymnasium's environments all the same."""
        if options.get("backend") == "envpool" and placed(method, env, options)[1].get("backend") != "envpool":
            raise UsageError(
                f"backend='envpool' is not allowed for {type(method).__name__}: it changes its environments as it "
                "learns (noise on observations, or other parameters), and EnvPool's, which are stepped in C++, cannot "
                "be changed. Use backend='auto' or 'gymnasium', or 'process' where a step is slow."
            )

    def start(
        method: Any,
        env: Any,
        seeds: Sequence[int],
        steps: int,
        *,
        compile: str = "off",
        log: Path | None = None,
        device: str = "cpu",
        **options: Any,
    ) -> Any:
        """`options` are those of `EnvOptions`. Each seed has the same environments as in a run of its own."""
        device = chosen_device(device)
        env, options = placed(method, env, options)
        envs = opened(env, [s for seed in seeds for s in env_seeds(seed, method.num_envs)], compile, device, **options)
        try:
            compile = compile if device == "cpu" else "off"
            made = learner(method, envs, seeds, steps, log=log, compile=compile, device=device)
            made.fresh = partial(opened, env, compile="off", device="cpu", **options)
            return made
        except BaseException:
            envs.close()
            raise

    return Loop(
        described,
        start,
        single,
        measured="steps",
        env_help="Environment: a Gymnasium or EnvPool id, or of your own such as my_env:MyCart-v0 or my_env:MyCart.",
        options=EnvOptions,
        check_recorded=check_recorded,
        check_method=check_method,
    )
