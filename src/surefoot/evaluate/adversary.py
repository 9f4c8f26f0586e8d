"""The environment in which an adversary of a frozen policy is trained: by any method, as any other environment.

env = adversary_env(victim, "Hopper-v5", "obs-sa-rl:0.075")  # or "force:3", "action-mix:0.1", "rrls:2d"
run = sf.train("ppo", env=env, steps=1_000_000)
sf.stress(victim, "Hopper-v5", f"obs-sa-rl:0..0.075,adversary={run.path}/agent")

`trained` does that, keeps the adversary beside the policy, and finds it there again: `surefoot stress --attack-budget`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from surefoot import catalogue
from surefoot.envs import make_single
from surefoot.envs.entrance import rounded
from surefoot.envs.perturbed import perturbation_for, settable
from surefoot.errors import UsageError
from surefoot.evaluate.deployed import Deployment
from surefoot.evaluate.periodic import result_file
from surefoot.evaluate.rollout import EnvLike, actor, decide, fitted
from surefoot.evaluate.statistics import confidence_interval, in_brackets, mean
from surefoot.evaluate.stress import StressReport
from surefoot.hyperparameters import check_count
from surefoot.models.ensemble import Ensemble
from surefoot.models.saved import holds_agent
from surefoot.perturbations import Driven, Interval, Perturbation
from surefoot.perturbations.attacks import Attack, Target
from surefoot.perturbations.learned import LearnedAttack
from surefoot.seeding import numpy_stream


class AdversaryEnv(gymnasium.Wrapper):
    """An environment as the adversary of a policy knows it: it sees the true observation, and the last change where the
    attack has a rate; its action commands the change of what the policy sees, and its reward is the negative of the
    policy's."""

    def __init__(self, env: gymnasium.Env, target: Target, attack: LearnedAttack) -> None:
        super().__init__(env)
        self.target, self.attack, self._act = target, attack, actor(target.policy)
        self._inner: Any = env.observation_space
        self.action_space, self.observation_space = attack.commands(target), attack.sees(self._inner)
        self._rng = numpy_stream(0, "attack", 0)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        if seed is not None:
            self._rng = numpy_stream(seed, "attack", 0)
        self._true, self._state, self._starts = observation, None, np.ones(1, bool)
        self._last = {"": np.zeros((1, *self._inner.shape))}
        if isinstance(self.target.policy, Deployment):
            self.target.policy.begin(0, int(self._rng.integers(2**31)), fresh=True)
        return self._seen(), info

    def _seen(self) -> Any:
        """What the adversary sees now."""
        return self._true if self.attack.rate is None else self.attack.seen(self._batch(), self._last)[0]

    def _batch(self) -> np.ndarray:
        return np.asarray(self._true, rounded(self._inner).dtype)[None]

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """The policy takes its most likely action on what it sees."""
        told = torch.as_tensor(np.asarray(action, np.float64))[None]
        radius, space = np.array([self.attack.fixed]), self.env.action_space
        now, rngs = (self._batch(), self._state, self._starts), {0: self._rng}
        seen = self.attack.strike(self.target, *now, radius, rngs, self._last, command=told)
        (chosen,), self._state = decide(self._act, seen, self._state, self._starts, True, space, False)
        self._starts = np.zeros(1, bool)
        chosen = int(chosen) if isinstance(space, gymnasium.spaces.Discrete) else np.asarray(chosen)
        self._true, reward, terminated, truncated, info = self.env.step(chosen)
        return self._seen(), -float(reward), terminated, truncated, info


class ControlEnv(gymnasium.Wrapper):
    """An environment as an adversary that has control over it knows it: it sees what the policy sees, its moves in
    [−1, 1]^k are the random choices of a perturbation, and its reward is the negative of the policy's."""

    def __init__(self, env: gymnasium.Env, policy: Any, perturbation: Perturbation) -> None:
        super().__init__(env)
        self.policy, self._act, self.control = policy, actor(policy), perturbation.control(env)
        self.action_space = spaces.Box(-1.0, 1.0, (self.control.size,), np.float32)
        self._rng = numpy_stream(0, "adversary", 0)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.control.undo()
        observation, info = self.env.reset(seed=seed, options=options)
        if seed is not None:
            self._rng = numpy_stream(seed, "adversary", 0)
        self._true, self._state, self._starts = observation, None, np.ones(1, bool)
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """The policy takes its most likely action."""
        batch, space = np.asarray(self._true, rounded(self.observation_space).dtype)[None], self.env.action_space
        (chosen,), self._state = decide(self._act, batch, self._state, self._starts, True, space, False)
        self._starts = np.zeros(1, bool)
        chosen = int(chosen) if isinstance(space, spaces.Discrete) else np.asarray(chosen)
        executed = self.control.act(chosen, np.asarray(action, np.float64), self._rng)
        self._true, reward, terminated, truncated, info = self.env.step(executed)
        return self._true, -float(reward), terminated, truncated, info

    def close(self) -> None:
        self.control.undo()
        super().close()


def adversary_env(policy: Any, env: EnvLike, attack: Perturbation | str) -> Callable[[], gymnasium.Env]:
    """A factory of environments for training an adversary of `policy` in `env`.

    `attack` is obs-sa-rl or obs-pa-ad with a fixed strength, or a perturbation whose random choices an adversary can
    make. Raises `UsageError` for anything else, and for a policy that the attack does not fit.
    """
    found = perturbation_for(attack, env)
    ranged = isinstance(getattr(found, "strength", None), Interval)
    if ranged or (isinstance(found, Attack) and (not isinstance(found, LearnedAttack) or found.identity)):
        raise UsageError(
            f"attack={str(attack)!r} is not allowed; give one fixed strength of obs-sa-rl or obs-pa-ad, or of a "
            "perturbation whose random choices an adversary can make, such as force:3 or action-mix:0.1."
        )
    make_one = functools.partial(_made, policy, env, found)
    make_one().close()
    return make_one


def _made(policy: Any, env: EnvLike, attack: Perturbation) -> gymnasium.Env:
    policy, single = fitted(policy, make_single(settable(env, attack)))
    policy = Deployment(policy, 1) if isinstance(policy, Ensemble) else policy
    if not isinstance(attack, LearnedAttack):
        return ControlEnv(single, policy, attack)
    target = Target(policy, single.observation_space, single.action_space)
    return AdversaryEnv(single, target, attack.opposed(target))  # type: ignore[arg-type]


# --- trained on demand ------------------------------------------------------------------------------------------------


def learns(perturbation: Perturbation) -> bool:
    """Whether there is something for an adversary to learn: it is one of `adversary_env`, and has no adversary yet."""
    if isinstance(perturbation, LearnedAttack):
        return not perturbation.adversary and not perturbation.identity
    free = not isinstance(perturbation, Driven | Attack) and not perturbation.identity
    return free and type(perturbation).control is not Perturbation.control


def trained(
    policy: Any, env: EnvLike, attack: Perturbation | str, steps: int, folder: Path, *, seed: int = 0, kept: str = ""
) -> Perturbation:
    """A perturbation in the hands of an adversary that PPO has trained for `steps` steps against `policy`, at the
    greatest strength of a range; unchanged where an adversary has nothing to learn.

    The run of the adversary is a subfolder of `folder`. One that is there is used again if it has the same `kept`, a
    name of the policy's weights (see `fingerprint`); with an empty one, every call trains anew.
    """
    from surefoot.loops.common import run as runs

    check_count("attack_budget", steps)
    found = perturbation_for(attack, env)
    if not learns(found):
        return found
    span = getattr(found, "strength", None)
    strongest: Any = dataclasses.replace(found, strength=span.high) if isinstance(span, Interval) else found  # type: ignore[type-var]
    game = adversary_env(policy, env, strongest)
    name = result_file(folder, f"{strongest}-{steps}-{seed}-{kept or uuid.uuid4().hex[:8]}").stem
    run = runs.Run(folder / name)
    if "," in str(run.path):
        raise UsageError(f"{run.path} has a comma, which the text of a perturbation cannot have; use another folder.")
    if not (run.path.exists() and run.finished):
        settings = runs.Settings(steps=steps, loggers=())
        runs.start(catalogue.method_class("ppo")(), "ppo", game, settings, seeds=[seed], run_dir=run.path)
    adversary = str(run.path / "agent")
    if isinstance(found, LearnedAttack):
        return dataclasses.replace(found, adversary=adversary)  # type: ignore[type-var]
    return Driven(found, adversary)


def fingerprint(policy: str | Path) -> str:
    """Eight digits that depend on the weights of an agent in a folder, of a run, or of a model file."""
    path = Path(policy)
    files = [path] if path.is_file() else sorted((path if holds_agent(path) else path / "agent").rglob("*.safetensors"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:8]


def beside(policy: str | Path) -> Path:
    """The folder of the adversaries of a policy: `attacks` in that of its run or agent, `NAME-attacks` by a file."""
    path = Path(policy)
    return path.with_name(f"{path.stem}-attacks") if path.is_file() else path / "attacks"


def exploitability(report: StressReport) -> str:
    """What the trained adversary takes at full strength, with its interval over episodes, as text."""
    taken = -report.changes[-1]
    interval = confidence_interval(taken, mean) if len(taken) > 1 else None
    return (
        f"exploitability: {taken.mean():.6g} {in_brackets(interval)}".rstrip()
        + f", the return that the trained adversary takes at {report.axes[-1]}={report.coordinates[-1, -1]:g}; a lower "
        "bound, as a better adversary may take more."
    )
