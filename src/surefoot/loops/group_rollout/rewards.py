"""What completions are worth: the task's own verifier, or reward functions of the form that TRL's users write."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from surefoot.envs.language import Example, Task
from surefoot.errors import UsageError

RewardFunction = Callable[..., Sequence[float | None]]
"""`f(prompts=…, completions=…, answer=…, **fields)`, lists with one entry a completion, giving one number for each;
None where it does not apply. Where the prompt is a list of messages, so is the completion."""


@dataclass(frozen=True)
class Rewards:
    """The components of the reward by name, and their weights. No function at all: the verifier of the task."""

    task: Task
    functions: Mapping[str, RewardFunction]
    weights: tuple[float, ...]

    def __call__(
        self, examples: Sequence[Example], completions: Sequence[str]
    ) -> tuple[Float[Tensor, " rows"], dict[str, Float[Tensor, " rows"]]]:
        """The weighted sum for every completion, and its components.

        Raises:
            UsageError: a function gives another number of rewards, or one that is not finite.
        """
        if not self.functions:
            values = [self.task.reward(e, c) for e, c in zip(examples, completions, strict=True)]
            reward = torch.nan_to_num(_finite_numbers(f"the task {self.task}", values, completions))
            return reward, {"reward": reward}
        columns: dict[str, list[Any]] = {
            "prompts": [e.prompt for e in examples],
            "completions": [_as_prompted(e.prompt, text) for e, text in zip(examples, completions, strict=True)],
            "answer": [e.answer for e in examples],
        }
        for name in dict.fromkeys(name for e in examples for name in e.fields):
            columns[name] = [e.fields.get(name) for e in examples]
        found = {name: self._called(name, f, columns, len(completions)) for name, f in self.functions.items()}
        total = sum(weight * torch.nan_to_num(x) for weight, x in zip(self.weights, found.values(), strict=True))
        return total, found  # type: ignore[return-value]

    def _called(self, name: str, function: RewardFunction, columns: dict[str, list[Any]], rows: int) -> Tensor:
        try:
            inspect.signature(function).bind(**columns)
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"the reward function {name!r} cannot be called with {', '.join(columns)} ({error}); let it take "
                "**fields."
            ) from error
        values = function(**columns)
        if not isinstance(values, Iterable) or isinstance(values, str):
            raise UsageError(f"the reward function {name!r} gave {values!r}; give a list of {rows} numbers.")
        values = list(values)
        if len(values) != rows:
            raise UsageError(
                f"the reward function {name!r} gave {len(values)} numbers for {rows} completions; give one for each."
            )
        return _finite_numbers(f"the reward function {name!r}", values, columns["completions"])

    def check(self) -> Rewards:
        """The rewards; a `UsageError` where nothing says what a completion is worth."""
        if not (self.task.verified or self.functions):
            raise UsageError(
                f"{self.task} has no answers to compare with, and no reward functions were given; train with "
                "reward=[…], or give a task with answers."
            )
        return self


@dataclass(frozen=True)
class Judged(Task):
    """A task without answers, as it is evaluated: completions are worth what the reward functions say."""

    rewards: Rewards

    @property
    def size(self) -> int | None:  # type: ignore[override]
        return self.rewards.task.size

    @property
    def held_out_size(self) -> int | None:  # type: ignore[override]
        return self.rewards.task.held_out_size

    def example(self, index: int, split: str = "train") -> Example:
        return self.rewards.task.example(index, split)

    def reward(self, example: Example, completion: str) -> float:
        return float(self.rewards([example], [completion])[0])

    def __str__(self) -> str:
        return str(self.rewards.task)


def make_rewards(task: Task, functions: Any, weights: Sequence[float] | None) -> Rewards:
    """From one function, a list of them, or None, and their weights (1 each if not given)."""
    given: list[Any] = [] if functions is None else [functions] if callable(functions) else list(functions)
    if wrong := [f for f in given if not callable(f)]:
        raise UsageError(f"reward={wrong[0]!r} is not a function; give functions f(completions=…, **fields).")
    names = [getattr(f, "__name__", type(f).__name__) for f in given]
    if len(set(names)) < len(names):
        names = [f"{name}_{i}" for i, name in enumerate(names)]
    chosen = [1.0 for _ in given] if weights is None else list(weights)
    if wrong := [w for w in chosen if not _finite(w)]:
        raise UsageError(f"reward_weights has {wrong[0]!r}; it must be finite numbers.")
    if len(chosen) != len(given):
        raise UsageError(f"reward_weights has {len(chosen)} numbers for {len(given)} reward functions; give one each.")
    return Rewards(task, dict(zip(names, given)), tuple(map(float, chosen)))


def _as_prompted(prompt: Any, text: str) -> Any:
    """A completion in the form of its prompt: text, or a message."""
    return text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]


def _finite_numbers(who: str, values: Sequence[Any], completions: Sequence[Any]) -> Float[Tensor, " rows"]:
    """Rewards as numbers, NaN for None; a `UsageError` names one that is not finite."""
    for value, completion in zip(values, completions, strict=True):
        if value is not None and not _finite(value):
            raise UsageError(
                f"{who} gave {value!r} for the completion {completion!r}; rewards must be finite numbers, or None "
                "where it does not apply."
            )
    return torch.tensor([math.nan if value is None else float(value) for value in values])


def _finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except TypeError:
        return False
