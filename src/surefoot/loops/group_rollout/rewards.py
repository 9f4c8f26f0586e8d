"""Rewards of completions: the task's own verifier, or reward functions of the form used with TRL."""

from __future__ import annotations

import asyncio
import inspect
import math
import time
import warnings
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from surefoot.envs.language import Example, Task
from surefoot.envs.language.episodes import Conversations, within
from surefoot.errors import UsageError, message_of

RewardFunction = Callable[..., Any]
"""`f(prompts=…, completions=…, completion_ids=…, answer=…, log_metric=…, log_extra=…, **fields)`: lists with one entry
for each completion, giving one number for each, or None where it does not apply. It may be a coroutine function. Where
the prompt is a list of messages, so is the completion. `answer` is text, the columns of the data come under their own
names, and so do the `turn_rewards` of episodes of several turns. `log_metric(name, value)` adds `log/name` to the
metrics, `log_extra(column, values)` the mean of a column of numbers as `log/extra/column`."""

Log = Callable[[str, Sequence[Any]], None]
OFFERED = ("completion_ids", "log_metric", "log_extra")  # passed to a function that takes them
TRAINERS = ("trainer_state", "environments")  # what TRL's trainer passes as well, which does not exist here
PAUSE = 1.0  # seconds before a function that failed is called again; doubled each time
LARGEST = torch.finfo(torch.float32).max


@dataclass(frozen=True)
class Rewards:
    """The components of the reward by name, and their weights; without any function, the task's verifier."""

    task: Task
    functions: Mapping[str, RewardFunction]
    weights: tuple[float, ...]
    time_limit: float | None = None  # seconds that a function may take for a batch
    retries: int = 0  # how often a function that fails is called again

    def __call__(
        self,
        examples: Sequence[Example],
        completions: Sequence[Any],
        tokens: Sequence[Sequence[int]] | None = None,
        log: Log = lambda name, values: None,
    ) -> tuple[Float[Tensor, " rows"], dict[str, Float[Tensor, " rows"]]]:
        """The weighted sum for every completion, and its components. An episode of several turns is a completion too: a
        text, or all of its messages.

        `tokens` are the tokens of each completion, passed to functions as `completion_ids`; if only texts are known,
        they are their UTF-8 bytes. `log` receives what the functions log, by name.

        Raises:
            UsageError: a function returns the wrong number of rewards, or one that is not finite in float32.
        """
        if not self.functions:
            values = [self.task.reward(e, c) for e, c in zip(examples, completions, strict=True)]
            reward = torch.nan_to_num(_finite_numbers(f"the task {self.task}", values, completions))
            return reward, {"reward": reward}
        columns: dict[str, Any] = {
            "prompts": [e.prompt for e in examples],
            "completions": [_as_prompted(e.prompt, text) for e, text in zip(examples, completions, strict=True)],
            "completion_ids": [list(text.encode()) for text in completions] if tokens is None else list(tokens),
            "log_metric": lambda name, value: log(name, [value]),
            "log_extra": lambda column, values: log(f"extra/{column}", values),
        }
        for name in dict.fromkeys(name for e in examples for name in e.fields):
            columns.setdefault(name, [e.fields.get(name) for e in examples])
        columns["answer"] = [e.answer or e.fields.get("answer", "") for e in examples]
        calls = {name: partial(f, **_accepted(name, f, columns)) for name, f in self.functions.items()}
        given = {name: self._called(name, call) for name, call in calls.items()}
        waiting = {name: x for name, x in given.items() if inspect.isawaitable(x)}
        given |= _awaited({name: self._answered(name, x, calls[name]) for name, x in waiting.items()})
        found = {name: _numbers(name, x, columns["completions"]) for name, x in given.items()}
        total = sum(weight * torch.nan_to_num(x) for weight, x in zip(self.weights, found.values(), strict=True))
        assert isinstance(total, Tensor)
        if not bool(total.isfinite().all()):
            raise UsageError(
                f"the sum of the rewards with reward_weights={list(self.weights)} is beyond the range of float32 "
                f"(±{LARGEST:.2g}); use smaller weights."
            )
        return total, found

    def _called(self, name: str, call: Callable[[], Any]) -> Any:
        """The result of a function, or its coroutine."""
        for attempt in range(self.retries + 1):
            try:
                return call() if self.time_limit is None else within(self.time_limit, call)
            except Exception as error:
                self._failed(name, error, attempt)
            time.sleep(PAUSE * 2**attempt)

    async def _answered(self, name: str, found: Awaitable[Any], call: Callable[[], Any]) -> Any:
        """The result of a coroutine."""
        for attempt in range(self.retries + 1):
            try:
                return await asyncio.wait_for(found, self.time_limit)
            except Exception as error:
                self._failed(name, error, attempt)
            await asyncio.sleep(PAUSE * 2**attempt)
            found = call()

    def _failed(self, name: str, error: Exception, attempt: int) -> None:
        """Raise the error of the last attempt. A function that may be called once shows its own, unless it did not
        reach what it asks."""
        if isinstance(error, UsageError) or (not self.retries and not isinstance(error, OSError)):
            raise error
        if attempt == self.retries:
            late = f"took longer than judge_time_limit={self.time_limit} seconds"
            said = late if isinstance(error, TimeoutError) else f"failed ({message_of(error)})"
            times = f", {attempt + 1} times in a row" if attempt else ""
            raise UsageError(
                f"the reward function {name!r} {said}{times}. Once it answers again, resume the "
                "run; judge_retries and judge_time_limit allow it more."
            ) from error

    @property
    def ask_for_tokens(self) -> bool:
        """Whether a function takes `completion_ids` by name."""
        return any("completion_ids" in inspect.signature(f).parameters for f in self.functions.values())

    def check(self) -> Rewards:
        """The rewards; a `UsageError` if nothing defines the reward of a completion, or if a function takes an argument
        that it will not be passed."""
        columns = dict.fromkeys(("prompts", "completions", "answer", *OFFERED, *self.task.example(0).fields))
        columns |= {"turn_rewards": None} if isinstance(self.task, Conversations) else {}
        for name, function in self.functions.items():
            _accepted(name, function, columns)
        if not (self.task.verified or self.functions):
            raise UsageError(
                f"{self.task} has no answers to compare with, and no reward functions were given; train with "
                "reward=[…], or give a task with answers."
            )
        return self

    def __str__(self) -> str:
        """The source of the rewards, for reports."""
        if not self.functions:
            return self.task.judge
        weighted = [name if w == 1 else f"{w:g}·{name}" for name, w in zip(self.functions, self.weights, strict=True)]
        return " + ".join(weighted)


@dataclass(frozen=True)
class Judged(Task):
    """A task whose completions are rewarded by reward functions, for evaluating a run that was trained with them."""

    rewards: Rewards

    @property
    def size(self) -> int | None:  # type: ignore[override]
        return self.rewards.task.size

    @property
    def held_out_size(self) -> int | None:  # type: ignore[override]
        return self.rewards.task.held_out_size

    @property
    def judge(self) -> str:
        return str(self.rewards)

    def example(self, index: int, split: str = "train") -> Example:
        return self.rewards.task.example(index, split)

    def reward(self, example: Example, completion: str) -> float:
        if self.rewards.ask_for_tokens:
            warnings.warn(
                "A reward function takes completion_ids, but an environment has only texts: it is passed the bytes of "
                "the text. evaluate(…, k=(1,)) passes it the tokens.",
                stacklevel=2,
            )
        return float(self.rewards([example], [completion])[0])

    def __str__(self) -> str:
        return str(self.rewards.task)


def make_rewards(
    task: Task, functions: Any, weights: Sequence[float] | None, time_limit: float | None = None, retries: int = 0
) -> Rewards:
    """From one function, a list of them, or None, and their weights (1 each if not given)."""
    given: list[Any] = [] if functions is None else [functions] if callable(functions) else list(functions)
    if wrong := [f for f in given if not callable(f)]:
        raise UsageError(f"reward={wrong[0]!r} is not a function; give functions f(completions=…, **fields).")
    if wrong := [f for f in given if isinstance(f, torch.nn.Module)]:
        raise UsageError(
            f"reward={type(wrong[0]).__name__} is a network without a tokenizer; give "
            "sf.language.RewardModel(network, tokenizer), or reward-model:FOLDER."
        )
    names = [getattr(f, "__name__", type(f).__name__) for f in given]
    if len(set(names)) < len(names):
        names = [f"{name}_{i}" for i, name in enumerate(names)]
    chosen = [1.0 for _ in given] if weights is None else list(weights)
    if wrong := [w for w in chosen if not _finite(w)]:
        raise UsageError(f"reward_weights has {wrong[0]!r}; it must be finite numbers.")
    if len(chosen) != len(given):
        raise UsageError(f"reward_weights has {len(chosen)} numbers for {len(given)} reward functions; give one each.")
    return Rewards(task, dict(zip(names, given)), tuple(map(float, chosen)), time_limit, retries)


def in_unit(name: str, reward: Float[Tensor, "..."], method: str) -> Float[Tensor, "..."]:
    """The rewards themselves; a `UsageError` where one is outside [0, 1]."""
    if bool(((reward < 0) | (reward > 1)).any()):
        raise UsageError(
            f"{method}: the reward {name!r} was {float(reward.min()):g} … {float(reward.max()):g}; it is a probability "
            "of success here and must be in [0, 1]: rescale it to (R − least)/(most − least)."
        )
    return reward


def successes(reward: Float[Tensor, "..."], parts: Mapping[str, Tensor], method: str) -> Bool[Tensor, "..."]:
    """Which completions succeeded: those with a reward of at least 1. A `UsageError` where one of its parts is above 1:
    on such a scale that threshold tells nothing."""
    for name, part in parts.items():
        if bool((part > 1).any()):
            raise UsageError(
                f"{method} takes a reward of at least 1 for a success, but the reward {name!r} was up to "
                f"{float(part.nan_to_num().max()):g}; rescale it so that 1 is a right answer and nothing is above it."
            )
    return reward >= 1


def _as_prompted(prompt: Any, completion: Any) -> Any:
    """A completion in the form of its prompt: text, or messages."""
    if isinstance(prompt, str) or not isinstance(completion, str):
        return completion
    return [{"role": "assistant", "content": completion}]


def _accepted(name: str, function: RewardFunction, columns: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a function: all columns, and those of `OFFERED` that it takes; a `UsageError` if it cannot be
    called with them."""
    try:
        signature = inspect.signature(function)
        parameters = signature.parameters
        every = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
        accepted = {n: x for n, x in columns.items() if every or n in parameters or n not in OFFERED}
        if foreign := [n for n in TRAINERS if n in parameters]:
            raise UsageError(
                f"the reward function {name!r} takes {foreign[0]}, which TRL's trainer passes but does not exist "
                "here; leave it out. What changes over a run can be done in a callback: train(callbacks=…)."
            )
        signature.bind(**accepted)
    except UsageError:
        raise
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"the reward function {name!r} cannot be called with {', '.join(columns)} ({error}); let it take **fields."
        ) from error
    return accepted


def _awaited(given: Mapping[str, Awaitable[Any]]) -> dict[str, Any]:
    """The results of coroutines, run concurrently; in a thread, as an event loop may be running in this one."""
    if not given:
        return {}

    async def together() -> list[Any]:
        return list(await asyncio.gather(*given.values()))

    with ThreadPoolExecutor(1) as pool:
        return dict(zip(given, pool.submit(asyncio.run, together()).result(), strict=True))


def _numbers(name: str, values: Any, completions: Sequence[Any]) -> Tensor:
    """The values of a function, as one number per completion."""
    rows = len(completions)
    if not isinstance(values, Iterable) or isinstance(values, str):
        raise UsageError(f"the reward function {name!r} returned {values!r}; return a list of {rows} numbers.")
    values = list(values)
    if len(values) != rows:
        raise UsageError(
            f"the reward function {name!r} returned {len(values)} numbers for {rows} completions; return one for each."
        )
    return _finite_numbers(f"the reward function {name!r}", values, completions)


def _finite_numbers(who: str, values: Sequence[Any], completions: Sequence[Any]) -> Float[Tensor, " rows"]:
    """Rewards as numbers, NaN for None; a `UsageError` names one that is not finite in float32."""
    for value, completion in zip(values, completions, strict=True):
        if value is not None and not _finite(value):
            raise UsageError(
                f"{who} gave {value!r} for the completion {completion!r}; rewards must be finite numbers of at most "
                f"{LARGEST:.2g} in size, which float32 can represent, or None where they do not apply."
            )
    return torch.tensor([math.nan if value is None else float(value) for value in values], dtype=torch.float32)


def _finite(value: Any) -> bool:
    try:
        return abs(float(value)) <= LARGEST
    except (TypeError, ValueError, OverflowError):
        return False
