"""Micro-environments with known answers. Each isolates one possible error of an implementation.

`optimal_return` is the mean undiscounted return of the best policy; `value(observation, gamma)` is the value of an
observation if it does not depend on the policy, or else under the best policy. Registered as
`surefoot/<Name>-v0`. Images are channel-first uint8, 36 x 36, the smallest that the Nature CNN accepts.
"""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces

Step = tuple[Any, float, bool, bool, dict[str, Any]]
IMAGE = (1, 36, 36)


def _vector(size: int) -> spaces.Box:
    return spaces.Box(-1.0, 1.0, (size,), np.float32)


class MicroEnv(gymnasium.Env):
    """Draws a sign at reset; a subclass defines observations and rewards."""

    optimal_return: ClassVar[float] = 1.0
    observation_space: spaces.Space = _vector(1)
    action_space: spaces.Space = spaces.Discrete(2)
    sign: int = 1
    time: int = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.sign = 1 if self.np_random.random() < 0.5 else -1
        self.time = 0
        return self.observe(), {}

    def observe(self) -> Any:
        """The current observation."""
        return np.array([self.sign], np.float32)


class Constant(MicroEnv):
    """One step, reward 1 for any action. Catches: a critic that does not learn at all, a bootstrap after the end."""

    def observe(self) -> Any:
        return np.zeros(1, np.float32)

    @staticmethod
    def value(observation: Any, gamma: float) -> float:
        return 1.0

    def step(self, action: Any) -> Step:
        return self.observe(), 1.0, True, False, {}


class ObservedReward(MicroEnv):
    """One step, the observation (-1 or 1) is the reward. Catches: a critic cut off from its input, a mixed-up batch."""

    optimal_return = 0.0

    @staticmethod
    def value(observation: Any, gamma: float) -> float:
        return float(observation[0])

    def step(self, action: Any) -> Step:
        return self.observe(), float(self.sign), True, False, {}


class DelayedReward(MicroEnv):
    """Two steps; the second pays the sign seen in the first. Observation: (sign, step). Catches: wrong discounting."""

    optimal_return = 0.0
    observation_space = _vector(2)

    def observe(self) -> Any:
        return np.array([self.sign, self.time], np.float32)

    @staticmethod
    def value(observation: Any, gamma: float) -> float:
        return float(observation[0]) * gamma ** (1 - float(observation[1]))

    def step(self, action: Any) -> Step:
        if self.time == 1:
            return self.observe(), float(self.sign), True, False, {}
        self.time = 1
        return self.observe(), 0.0, False, False, {}


class ActionReward(Constant):
    """One step, action 1 pays 1 and action 0 pays -1. Catches: the sign of the policy gradient."""

    def step(self, action: Any) -> Step:
        return self.observe(), 1.0 if int(action) == 1 else -1.0, True, False, {}


class ContextualAction(MicroEnv):
    """One step; action 1 is right if 1 is observed, action 0 if -1 is; reward 1 or -1. Catches: advantages of other
    rows."""

    @staticmethod
    def value(observation: Any, gamma: float) -> float:
        return 1.0

    def step(self, action: Any) -> Step:
        return self.observe(), float(self.sign * (2 * int(action) - 1)), True, False, {}


class ContinuousTarget(gymnasium.Env):
    """One step; the action a in [-1, 1] pays -(a - x/2)² for the observed x. Catches: log-probabilities of Box
    actions."""

    optimal_return = 0.0
    observation_space = _vector(1)
    action_space = _vector(1)

    @staticmethod
    def target(observation: Any) -> float:
        return 0.5 * float(observation[0])

    @staticmethod
    def value(observation: Any, gamma: float) -> float:
        return 0.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._seen = self.np_random.uniform(-1.0, 1.0, 1).astype(np.float32)
        return self._seen.copy(), {}

    def step(self, action: Any) -> Step:
        return self._seen.copy(), -((float(action[0]) - self.target(self._seen)) ** 2), True, False, {}


class MemoryCue(MicroEnv):
    """A sign is shown once, then `blanks` empty steps, then the action must repeat it (1 for 1, 0 for -1); reward 1 or
    -1.

    Observation: (cue or 0, whether the answer is due). Without memory the mean return is 0. Catches: recurrent
    state that is lost, not reset, or trained from the wrong start.
    """

    observation_space = _vector(2)

    def __init__(self, blanks: int = 3):
        self.blanks = blanks

    def observe(self) -> Any:
        return np.array([self.sign if self.time == 0 else 0, self.time == self.blanks + 1], np.float32)

    def step(self, action: Any) -> Step:
        if self.time == self.blanks + 1:
            return self.observe(), float(self.sign * (2 * int(action) - 1)), True, False, {}
        self.time += 1
        return self.observe(), 0.0, False, False, {}


class MaskedAction(gymnasium.Env):
    """Four steps; each pays 1/4 for a legal action, and an illegal one ends the episode with -1.

    The legal actions are drawn anew at every step and appear only in the mask, so that only a policy that respects the
    mask gets 1, and does so untrained. Catches: masks dropped, shifted by a step, or ignored in the update.
    """

    optimal_return = 1.0
    steps, actions = 4, 5
    observation_space = spaces.Dict({"observation": _vector(1), "action_mask": spaces.MultiBinary(5)})
    action_space = spaces.Discrete(5)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._time = 0
        return self._observe(), {}

    def _observe(self) -> dict[str, Any]:
        legal = self.np_random.permutation(self.actions)[: self.np_random.integers(1, self.actions)]
        self._mask = np.zeros(self.actions, np.int8)
        self._mask[legal] = 1
        return {"observation": np.zeros(1, np.float32), "action_mask": self._mask.copy()}

    def action_masks(self) -> np.ndarray:
        """The currently legal actions: int8 `[5]`."""
        return self._mask

    def step(self, action: Any) -> Step:
        legal = bool(self._mask[int(action)])
        self._time += 1
        reward = 1.0 / self.steps if legal else -1.0
        return self._observe(), reward, not legal or self._time == self.steps, False, {}


class DictContext(MicroEnv):
    """One step; the right action is 1 if the sign of the vector equals the brightness of the image; reward 1 or -1.

    Neither part is informative alone. Catches: a part of a dict observation that is dropped or not scaled.
    """

    observation_space = spaces.Dict({"vector": _vector(1), "image": spaces.Box(0, 255, IMAGE, np.uint8)})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._bright = bool(self.np_random.random() < 0.5)
        return self.observe(), {}

    def observe(self) -> Any:
        bright = getattr(self, "_bright", False)
        return {"vector": np.array([self.sign], np.float32), "image": np.full(IMAGE, 255 * bright, np.uint8)}

    def step(self, action: Any) -> Step:
        right = int((self.sign == 1) == self._bright)
        return self.observe(), 1.0 if int(action) == right else -1.0, True, False, {}


class ImageTarget(gymnasium.Env):
    """One step; the action names the bright quadrant of a noisy image; reward 1 or 0. Catches: image layout and
    scaling."""

    optimal_return = 1.0
    observation_space = spaces.Box(0, 255, IMAGE, np.uint8)
    action_space = spaces.Discrete(4)

    @staticmethod
    def value(observation: Any, gamma: float) -> float:
        return 1.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._quadrant = int(self.np_random.integers(4))
        self._image = self.np_random.integers(0, 64, IMAGE, dtype=np.uint8)
        row, column = 18 * (self._quadrant // 2), 18 * (self._quadrant % 2)
        self._image[:, row : row + 18, column : column + 18] += np.uint8(128)
        return self._image.copy(), {}

    def step(self, action: Any) -> Step:
        return self._image.copy(), float(int(action) == self._quadrant), True, False, {}


class TruncatedConstant(Constant):
    """Reward 1 per step, never terminates, truncated after `steps`. Catches: treating truncation as termination.

    The value of the process is 1/(1 - gamma) everywhere; an implementation that does not bootstrap at the truncation
    gets less.
    """

    optimal_return = 10.0

    def __init__(self, steps: int = 10):
        self.steps = steps
        self.optimal_return = float(steps)  # type: ignore[misc]

    @staticmethod
    def value(observation: Any, gamma: float) -> float:
        return 1.0 / (1.0 - gamma)

    def step(self, action: Any) -> Step:
        self.time += 1
        return self.observe(), 1.0, False, self.time >= self.steps, {}


class MultiDiscreteTarget(gymnasium.Env):
    """One step; pays the share of the action's two components that are right. Catches: sums over action parts.

    The observation is the one-hot code of the targets, of 3 and of 2 values.
    """

    optimal_return = 1.0
    observation_space = _vector(5)
    action_space = spaces.MultiDiscrete([3, 2])

    @staticmethod
    def value(observation: Any, gamma: float) -> float:
        return 1.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._target = self.np_random.integers([3, 2])
        self._seen = np.zeros(5, np.float32)
        self._seen[[self._target[0], 3 + self._target[1]]] = 1.0
        return self._seen.copy(), {}

    def step(self, action: Any) -> Step:
        return self._seen.copy(), float(np.mean(np.asarray(action) == self._target)), True, False, {}


MICRO_ENVS: tuple[type[gymnasium.Env], ...] = (
    Constant,
    ObservedReward,
    DelayedReward,
    ActionReward,
    ContextualAction,
    ContinuousTarget,
    MemoryCue,
    MaskedAction,
    DictContext,
    ImageTarget,
    TruncatedConstant,
    MultiDiscreteTarget,
)


def register() -> None:
    """Make the micro-environments known to Gymnasium."""
    for cls in MICRO_ENVS:
        if f"surefoot/{cls.__name__}-v0" not in gymnasium.registry:
            gymnasium.register(f"surefoot/{cls.__name__}-v0", entry_point=cls)
