"""Environments in which an adversary makes the random choices of a perturbation: its move is one more part of the
action.

The action is the agent's, followed by the adversary's b in [−1, 1]^k. Both players see what the environment returns; a
zero-sum game, in which the adversary's reward is the agent's, negated.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv

from surefoot.envs.constructed import EnvLike
from surefoot.envs.make import make_as, make_single
from surefoot.envs.names import check_origin
from surefoot.envs.perturbed import perturbation_for, settable
from surefoot.envs.robust_wrappers import Seeded
from surefoot.envs.wrappers import Wrappers
from surefoot.errors import UsageError
from surefoot.perturbations import Composition, Force, Perturbation

LIMIT = 5.0  # newtons of a component of the forces
# Bodies and axes on which the adversaries of RARL (arXiv:1703.02702) and of RRLS (arXiv:2406.08406) push.
PUSHED = {
    "InvertedPendulum-v5": ("pole", "xz"),
    "HalfCheetah-v5": ("torso/bfoot/ffoot", "xz"),
    "Swimmer-v5": ("torso", "xyz"),
    "Hopper-v5": ("foot", "xz"),
    "Walker2d-v5": ("foot/foot_left", "xz"),
    "Ant-v5": ("torso/front_left_leg/front_right_leg", "xyz"),
    "HumanoidStandup-v5": ("torso/right_thigh/left_foot", "xyz"),
}


def adversary_of(text: str, env: EnvLike) -> Perturbation:
    """What an adversary controls: "force" alone is up to 5 N along the axes and on the bodies of its paper, any other
    text is a perturbation whose random choices it makes. `UsageError` for what leaves it no choice."""
    single = env.args[0] if isinstance(env, functools.partial) and env.func is make_as else env
    task = single.removeprefix("rrls/") if isinstance(single, str) else None
    if text == "force":
        if task not in PUSHED:
            raise UsageError(
                f"adversary='force' stands for the bodies that are pushed in {', '.join(PUSHED)}; for {single!r} "
                "name them: "
                "force:3,body=torso, or another perturbation such as action-mix:0.1."
            )
        body, along = PUSHED[task]
        return Force(LIMIT, body, along)
    found = perturbation_for(text, env)
    if isinstance(found, Composition):
        raise UsageError(f"adversary={text!r} is not allowed; an adversary controls one perturbation.")
    return found


class JointActions(spaces.Box):
    """The actions of two players in one vector: the agent's, then the adversary's moves in [−1, 1]^k, then notes in
    [−1, 1]: what the players were told in the step, which changes nothing. A discrete action is a number of its own."""

    def __init__(self, agent: gymnasium.Space, size: int, notes: int = 0) -> None:
        if isinstance(agent, spaces.Discrete):
            low, high = (np.array([end], np.float32) for end in (agent.start, agent.start + agent.n - 1))
        elif isinstance(agent, spaces.Box) and len(agent.shape) == 1:
            low, high = agent.low, agent.high
        else:
            raise UsageError(f"An adversary needs a vector of continuous actions or one discrete action, not {agent}.")
        ones = np.ones(size + notes, np.float32)
        super().__init__(np.concatenate([low, -ones]), np.concatenate([high, ones]), dtype=np.float32)
        self.agent, self.adversary, self.notes = agent, spaces.Box(-1.0, 1.0, (size,), np.float32), notes


class AdversaryGame(Seeded):
    """An environment with an adversary's part in the action. Its moves are scaled by `fraction`; a reset undoes
    them."""

    def __init__(self, env: gymnasium.Env, perturbation: Perturbation, fraction: float = 1.0, notes: int = 0) -> None:
        super().__init__(env)
        if not 0 <= fraction <= 1:
            raise UsageError(f"fraction={fraction!r} is not allowed; it must be in [0, 1].")
        self.control, self.fraction = perturbation.control(env), fraction
        self.action_space = joint = JointActions(env.action_space, self.control.size, notes)
        self._own = len(joint.low) - self.control.size - notes

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._stream(seed)
        self.control.undo()
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        own, move = action[: self._own], np.asarray(action[self._own :][: self.control.size], np.float64)
        if isinstance(self.env.action_space, spaces.Discrete):
            own = int(np.rint(own[0]))
        executed = self.control.act(own, self.fraction * np.clip(move, -1.0, 1.0), self._stream(None))
        return self.env.step(executed)

    def close(self) -> None:
        self.control.undo()
        super().close()


def make_adversary_game(
    env: EnvLike, env_kwargs: Mapping[str, Any], wrappers: Wrappers, adversary: str, fraction: float, notes: int = 0
) -> gymnasium.Env:
    """One environment inside `AdversaryGame`."""
    made = functools.partial(make_as, env, env_kwargs, wrappers)
    perturbation = adversary_of(adversary, made)
    return AdversaryGame(make_single(settable(made, perturbation)), perturbation, fraction, notes)


def in_adversary_game(
    env: EnvLike | VectorEnv, adversary: str, fraction: float, options: Mapping[str, Any], notes: int = 0
) -> tuple[EnvLike, dict[str, Any]]:
    """The arguments of `envs.make` for training against an adversary: a factory, and the other options. It acts inside
    Gymnasium's environments, so "auto" never selects EnvPool's."""
    found = dict(options)
    if isinstance(env, VectorEnv) or found.pop("perturb", None) is not None:
        raise UsageError(
            f"adversary={adversary!r}: the method's own adversary acts in single environments; give the id or a "
            "factory of "
            "one, and no perturb=…."
        )
    kwargs, wrappers = found.pop("env_kwargs", None) or {}, found.pop("wrappers", ())
    check_origin(env, found.pop("origin", None))
    if found.get("backend") != "process":
        found["backend"] = "gymnasium"
    return functools.partial(make_adversary_game, env, kwargs, wrappers, adversary, fraction, notes), found
