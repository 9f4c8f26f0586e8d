"""A language task as a Gymnasium environment: the observation is a prompt, the action a completion, which ends the
episode.

Thus everything that evaluates policies can evaluate language models too.
"""

from __future__ import annotations

import string
from typing import Any

import gymnasium
from gymnasium import spaces

from surefoot.envs.language.task import Example, Task, as_text

LONGEST = 1_000_000  # characters
CHARACTERS = string.printable


class PromptEnv(gymnasium.Env):
    """One held-out example per episode, chosen by the seed; the reward is the task's.

    For a finite set the seed is the number of the example, so that distinct ones can be selected.
    """

    def __init__(self, task: Task) -> None:
        text = spaces.Text(LONGEST, min_length=0, charset=CHARACTERS)
        self.task, self.observation_space, self.action_space = task, text, text
        self.example: Example | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        drawn = int(self.np_random.integers(2**31))
        chosen = drawn if seed is None or self.task.held_out_size is None else seed
        self.example = self.task.example(chosen, "test")
        return as_text(self.example.prompt), {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        assert self.example is not None, "call reset first"
        return as_text(self.example.prompt), self.task.reward(self.example, str(action)), True, False, {}
