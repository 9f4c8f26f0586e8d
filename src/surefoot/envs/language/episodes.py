"""Tasks of several turns: what the model writes is answered by an environment or a tool, until the episode ends.

An environment is any object with `reset` and `step`:

    class Guess:
        def reset(self, seed): return "guess a number from 1 to 9:"                    # or a list of messages
        def step(self, text): return "too low", 0.0, False                              # what is said, reward, done

`reset` may also return Gymnasium's pair and `step` Gymnasium's five values, or objects with `observation`, `reward` and
`done` (the protocol of OpenEnv). What the environment says is part of the conversation and is never learned from.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, ClassVar, NamedTuple, Protocol

from surefoot.envs.language.task import Example, OfAnother, Task, messages, number
from surefoot.envs.names import imported, name_of, remember, remembered
from surefoot.errors import UsageError, message_of
from surefoot.hyperparameters import build, hyperparameter

FAR = 2**30  # number of the first held-out episode
CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)


class Turn(NamedTuple):
    """The answer of an environment: text or messages, the reward of what was written, whether the episode is over."""

    said: Any
    reward: float
    done: bool


class Episode(Protocol):
    """A conversation that has begun."""

    prompt: Any

    def step(self, text: str) -> Turn:
        """The answer to what the model wrote."""
        ...


@dataclass(frozen=True)
class Conversations(Task):
    """The base of tasks of several turns: `start` begins the episode of an example. A completion ends after `max_turns`
    turns at the latest; each has at most the method's `max_tokens` tokens."""

    _: KW_ONLY
    max_turns: int = hyperparameter(8, low=1, help="Maximum number of turns that the model writes in an episode.")
    time_limit: float = hyperparameter(60.0, above=0, help="Seconds that an environment or a tool may take for a turn.")

    def start(self, example: Example) -> Episode:
        """A new episode of an example; several episodes of the same example begin alike."""
        raise NotImplementedError

    @property
    def schemas(self) -> list[dict[str, Any]]:
        """What the chat template is told about tools."""
        return []


@dataclass(frozen=True, eq=False)
class Episodes(Conversations):
    """Episodes of an environment, made by calling `env` once for each; `reset` is called with the number of the episode
    as `seed` if it takes one. The reward is the sum of the turns' rewards."""

    name: ClassVar[str] = "episodes"

    env: Any  # makes an environment; or module:name

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.env, str):
            known = remembered(self.env)
            object.__setattr__(self, "env", imported(self.env, "env") if known in (None, self.env) else known)
        else:
            remember(self.env)
        if not callable(self.env):
            raise UsageError(f"env={self.env!r} is not allowed; give a class, or a function that makes an environment.")

    @classmethod
    def from_text(cls, text: str) -> Episodes:
        """From `module:Class,max_turns=6`."""
        env, _, rest = text.partition(",")
        pairs = [part.partition("=") for part in rest.split(",") if part]
        return build(cls, {"env": env, **{name: number(value) for name, _, value in pairs}})

    def example(self, index: int, split: str = "train") -> Example:
        seed = index + (FAR if self.held_out(split) else 0)
        return Example(_Played(self, seed).prompt, fields={"seed": seed})

    def start(self, example: Example) -> Episode:
        return _Played(self, example.fields["seed"])

    def reward(self, example: Example, completion: str) -> float:
        raise UsageError(f"{self} rewards episodes of several turns, not a single text.")

    @property
    def judge(self) -> str:
        return f"the environment {self}"

    def __str__(self) -> str:
        """The text that `resolve` reads, or a name in angle brackets if the environment cannot be found by its name."""
        named = name_of(self.env)
        if "<" in named:
            return f"<episodes of {named.partition(':')[2].strip('<>')}>"
        return f"episodes:{named},max_turns={self.max_turns},time_limit={self.time_limit:g}"


class _Played:
    """One episode of an environment, whose answers are checked."""

    def __init__(self, task: Episodes, seed: int) -> None:
        self.task, self.env, self.turn = task, task.env(), 0
        if missing := [name for name in ("reset", "step") if not callable(getattr(self.env, name, None))]:
            raise UsageError(
                f"env={task.env!r} makes a {type(self.env).__name__} without {missing[0]}(); an environment has "
                "reset() and step(text)."
            )
        takes = _takes(self.env.reset, "seed")
        found = self._call("reset", self.env.reset, **({"seed": seed} if takes else {}))
        found = found[0] if isinstance(found, tuple) else getattr(found, "observation", found)
        self.prompt = self._said("reset", found)

    def step(self, text: str) -> Turn:
        self.turn += 1
        found: Any = self._call("step", self.env.step, text)
        if isinstance(found, tuple) and len(found) in (3, 4, 5):
            said, reward, done = found[0], found[1], found[2] or (len(found) == 5 and found[3])
        elif not isinstance(found, tuple) and hasattr(found, "reward"):
            said, reward, done = getattr(found, "observation", ""), found.reward, getattr(found, "done", False)
        else:
            raise self._wrong("step", f"returned {found!r}", "return what is said, the reward and whether it is done")
        try:
            number = 0.0 if reward is None else float(reward)
        except (TypeError, ValueError):
            number = float("nan")
        if not abs(number) < float("inf"):
            raise self._wrong("step", f"gave the reward {reward!r}", "give a finite number")
        return Turn("" if done and said is None else self._said("step", said), number, bool(done))

    def _call(self, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return within(self.task.time_limit, function, *args, **kwargs)
        except TimeoutError:
            raise self._wrong(
                name, f"took longer than time_limit={self.task.time_limit:g} seconds", "make it faster, or raise it"
            ) from None
        except (Exception, SystemExit) as error:
            raise self._wrong(name, f"raised {message_of(error)}", "mend it, or catch the error and tell it") from error

    def _said(self, name: str, said: Any) -> Any:
        if isinstance(said, str) or messages(said):
            return said
        if isinstance(said, Mapping) and {"role", "content"} <= said.keys():
            return [said]
        raise self._wrong(name, f"said {said!r}", "say a text, or a list of messages")

    def _wrong(self, name: str, what: str, cure: str) -> UsageError:
        turn = f" (turn {self.turn})" if self.turn else ""
        return UsageError(f"{type(self.env).__name__}.{name}{turn} {what}; {cure}.")


@dataclass(frozen=True, eq=False)
class Around(OfAnother, Conversations):
    """The base of conversations about the examples of another task, which rewards the last text."""

    task: Task = field(kw_only=True)


@dataclass(frozen=True, eq=False)
class Tools(Around):
    """A task whose answers may call tools: functions with type annotations and a docstring.

    The model calls one by `<tool_call>{"name": …, "arguments": {…}}</tool_call>`; it is told the result, or the error,
    and goes on. The episode ends with a text without a call, which the task rewards.
    """

    name: ClassVar[str] = "tools"

    functions: Sequence[Callable[..., Any]] = field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if wrong := [f for f in self.functions if not inspect.isroutine(f)]:
            raise UsageError(f"the tool {wrong[0]!r} is not a function; give functions with annotated arguments.")

    @property
    def schemas(self) -> list[dict[str, Any]]:
        from transformers.utils.chat_template_utils import get_json_schema

        try:
            return [get_json_schema(f) for f in self.functions]
        except Exception as error:
            raise UsageError(
                f"a tool cannot be described to the model ({message_of(error)}); annotate its arguments, and describe "
                "them in a docstring of Google's style."
            ) from error

    def start(self, example: Example) -> Episode:
        return _Called(self, example)

    def __str__(self) -> str:
        return f"<{self.task} with {', '.join(f.__name__ for f in self.functions)}>"


class _Called:
    """One episode of a task with tools."""

    def __init__(self, task: Tools, example: Example) -> None:
        self.task, self.example, self.prompt = task, example, example.prompt

    def step(self, text: str) -> Turn:
        calls = CALL.findall(text)
        if not calls:
            return Turn("", self.task.task.reward(self.example, text) if self.task.verified else 0.0, True)
        said = [self._result(call) for call in calls]
        if isinstance(self.prompt, str):
            return Turn("".join(f"<tool_response>{x}</tool_response>" for x in said), 0.0, False)
        return Turn([{"role": "tool", "content": x} for x in said], 0.0, False)

    def _result(self, call: str) -> str:
        """The result of a call as text, or what is wrong with it: the model can only learn from what it is told."""
        functions = {f.__name__: f for f in self.task.functions}
        try:
            asked = json.loads(call)
            name, given = asked["name"], dict(asked.get("arguments", {}))
            function = functions[name]
        except (ValueError, TypeError, KeyError, AttributeError):
            return f"error: a call is JSON with a name ({', '.join(functions)}) and arguments"
        try:
            return str(within(self.task.time_limit, function, **given))
        except TimeoutError:
            return f"error: {name} took longer than {self.task.time_limit:g} seconds"
        except (Exception, SystemExit) as error:  # a tool may even call exit()
            return f"error: {message_of(error)}"


@dataclass(frozen=True, eq=False)
class Retries(Around):
    """A task whose wrong answers may be corrected: after an answer that is not rewarded in full the model is told
    `feedback` and may try again, `max_turns` times in all. The reward is that of the last answer."""

    name: ClassVar[str] = "retries"

    max_turns: int = hyperparameter(2, low=1, help="Maximum number of answers.")
    feedback: str = hyperparameter("\nThat is wrong. Try again: ", help="What is said after a wrong answer.")

    def start(self, example: Example) -> Episode:
        return _Tried(self, example)

    def __str__(self) -> str:
        return f"<{self.task} with {self.max_turns} tries>"


class _Tried:
    """One episode of a task with several tries."""

    def __init__(self, task: Retries, example: Example) -> None:
        self.task, self.example, self.prompt, self.left = task, example, example.prompt, task.max_turns

    def step(self, text: str) -> Turn:
        self.left -= 1
        worth = self.task.task.reward(self.example, text)
        if worth >= 1 or not self.left:
            return Turn("", worth, True)
        feedback = self.task.feedback
        return Turn(feedback if isinstance(self.prompt, str) else feedback.strip(), 0.0, False)


def within(seconds: float, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """The result of a function, which runs in a thread; `TimeoutError` if it takes longer. Python cannot stop a thread,
    so the function goes on, but it does not keep the process alive."""
    found: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()

    def run() -> None:
        try:
            found.put((function(*args, **kwargs), None))
        except BaseException as error:  # handed to the caller
            found.put((None, error))

    Thread(target=run, daemon=True).start()
    try:
        result, error = found.get(timeout=seconds)
    except Empty:
        raise TimeoutError from None
    if error is not None:
        raise error
    return result


def _takes(function: Callable[..., Any], name: str) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(p.name == name or p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
