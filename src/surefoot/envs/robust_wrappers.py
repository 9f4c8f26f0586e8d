"""The training wrappers of RRLS (arXiv:2406.08406): random dynamics, a dynamics adversary, an action adversary.

An adversary acts through the action: the vector is the agent's action followed by the adversary's, and
`info["adversarial_reward"]` is the negated reward.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from surefoot.envs.rrls import UncertaintyBox, uncertainty
from surefoot.envs.wrappers import register_wrapper
from surefoot.errors import UsageError
from surefoot.seeding import numpy_stream


def _uncertainty(env: gymnasium.Env, set: str | UncertaintyBox) -> UncertaintyBox:
    if isinstance(set, UncertaintyBox):
        return set
    if not env.has_wrapper_attr("task_id"):
        raise UsageError(f"{env} is not a robust task; make one, such as 'rrls/Hopper-v5', or give an UncertaintyBox.")
    return uncertainty(env.get_wrapper_attr("task_id"), set)


def agent_box(env: gymnasium.Env) -> spaces.Box:
    if not isinstance(env.action_space, spaces.Box) or len(env.action_space.shape) != 1:
        raise UsageError(
            f"An adversary needs a vector of continuous actions, not this environment's {env.action_space}."
        )
    return env.action_space


class Seeded(gymnasium.Wrapper):
    """A wrapper with its own random stream, derived from the seed of the reset, so that the inner one is unchanged."""

    _rng: np.random.Generator | None = None

    def _stream(self, seed: int | None) -> np.random.Generator:
        stream = self._rng
        if seed is not None:
            stream = numpy_stream(seed, type(self).__name__)
        elif stream is None:
            stream = self.np_random.spawn(1)[0]
        self._rng = stream
        return stream


@register_wrapper("domain_randomization")
class DomainRandomization(Seeded):
    """Parameters drawn uniformly from the set at every reset, constant within an episode (arXiv:1703.06907)."""

    def __init__(self, env: gymnasium.Env, set: str | UncertaintyBox = "2d"):
        super().__init__(env)
        self.uncertainty = _uncertainty(env, set)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        drawn = self.uncertainty.sample(self._stream(seed))
        return self.env.reset(seed=seed, options={**drawn, **(options or {})})


@register_wrapper("dynamic_adversary")
class DynamicAdversarial(gymnasium.Wrapper):
    """An adversary that sets the parameters before every step: its action in [-1, 1]^k spans the set.

    A reset restores the nominal task.
    """

    def __init__(self, env: gymnasium.Env, set: str | UncertaintyBox = "2d"):
        super().__init__(env)
        self.uncertainty = _uncertainty(env, set)
        box, ones = agent_box(env), np.ones(len(self.uncertainty), np.float32)
        self.agent_size = box.shape[0]
        self.action_space = spaces.Box(np.concatenate([box.low, -ones]), np.concatenate([box.high, ones]))
        self._set_params = env.get_wrapper_attr("set_params")
        self._restore = env.get_wrapper_attr("restore")

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._restore()
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self._set_params(**self.uncertainty.scaled(action[self.agent_size :]))
        observation, reward, terminated, truncated, info = self.env.step(action[: self.agent_size])
        info["adversarial_reward"] = -reward  # type: ignore[operator]
        return observation, reward, terminated, truncated, info


@register_wrapper("action_adversary")
class ProbabilisticActionRobust(Seeded):
    """An adversary with a share `alpha` in the executed action (action-robust MDPs, arXiv:1901.09184).

    `mode="mix"` executes (1 - alpha) a + alpha b, the noisy-action MDP, which is what the suite implements under this
    name; `mode="probability"` executes b with probability alpha and a otherwise, the probabilistic-action MDP.
    """

    def __init__(self, env: gymnasium.Env, alpha: float = 0.15, mode: str = "mix"):
        super().__init__(env)
        if not 0 <= alpha <= 1 or mode not in ("mix", "probability"):
            raise UsageError(f"alpha={alpha}, mode={mode!r}: alpha must be in [0, 1], mode 'mix' or 'probability'.")
        self.alpha, self.mode = alpha, mode
        box = agent_box(env)
        self.agent_size = box.shape[0]
        self.action_space = spaces.Box(np.tile(box.low, 2), np.tile(box.high, 2))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._stream(seed)
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        agent, adversary = action[: self.agent_size], action[self.agent_size :]
        if self.mode == "mix":
            executed = (1 - self.alpha) * agent + self.alpha * adversary
        else:
            executed = adversary if self._stream(None).random() < self.alpha else agent
        observation, reward, terminated, truncated, info = self.env.step(executed)
        info["adversarial_reward"] = -reward  # type: ignore[operator]
        return observation, reward, terminated, truncated, info
