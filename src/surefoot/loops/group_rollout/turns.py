"""Episodes of several turns: the model writes, the environment answers, until either of them ends it.

The tokens of an episode are one sequence. `turn` says of each of them in which turn the model wrote it, or −1 if the
environment said it: such tokens are read, and never learned from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from surefoot.envs.language import Example
from surefoot.envs.language.episodes import Conversations, Episode
from surefoot.loops.common import distributed
from surefoot.loops.group_rollout.rewards import Log, Rewards
from surefoot.models.language.generation import WHOLE, Engine, conversing
from surefoot.models.language.model import LanguageModel
from surefoot.models.language.room import room_of
from surefoot.models.language.sampling import Sampling

SAID = -1  # the turn of tokens of the environment


@dataclass
class Talk:
    """One episode: its tokens after the prompt with the log-probability and the turn of each, the rewards by turn, and
    how it ended. `messages` are what reward functions see: the model's and the environment's."""

    prompt: list[int]
    episode: Episode | None = None
    tokens: list[int] = field(default_factory=list)
    log_prob: list[float] = field(default_factory=list)
    turn: list[int] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    messages: list[Any] = field(default_factory=list)
    finished: bool = False  # the environment ended it
    cut: bool = False  # a turn reached max_tokens, or there was no room in the model's context for another one

    @property
    def open(self) -> bool:
        """Whether the model writes on."""
        return not (self.finished or self.cut)

    def add(self, tokens: Sequence[int], log_prob: Sequence[float], turn: int) -> None:
        self.tokens += tokens
        self.log_prob += log_prob
        self.turn += [turn] * len(tokens)


def converse(
    task: Conversations,
    model: LanguageModel,
    engine: Engine,
    examples: Sequence[Example],
    uniform: Callable[[int], Tensor],
    *,
    temperature: float,
    stop: Sequence[str] = (),
    sampling: Sampling = WHOLE,
) -> list[Talk]:
    """Episodes of examples, the samples of an example adjacent.

    `uniform` gives the uniform numbers `[examples, samples, tokens]` of a turn, whose last size is the maximum number
    of tokens of a turn.

    Raises:
        UsageError: the environment fails (see `envs.language.episodes`).
    """
    drawn, settings = uniform(0), {"temperature": temperature, "stop": stop, "sampling": sampling}
    _, samples, limit = drawn.shape
    prompts = model.encode([e.prompt for e in examples])
    engine = conversing(engine)
    talks = [Talk(list(prompt)) for prompt in prompts for _ in range(samples)]
    found = engine(model, prompts, drawn, **settings)  # a group's prompt is read once
    waiting = list(range(len(talks)))
    for talk, example in zip(talks, [e for e in examples for _ in range(samples)], strict=True):
        talk.episode = task.start(example)
    for turn in range(task.max_turns):
        if turn:
            numbers = uniform(turn).flatten(0, 1)[waiting][:, None]
            found = engine(model, [talks[i].prompt + talks[i].tokens for i in waiting], numbers, **settings)
        texts = model.decode(found.tokens)
        for i, tokens, log_prob, whole, text in zip(
            waiting, found.tokens, found.log_prob, found.finished, texts, strict=True
        ):
            _take(model, talks[i], turn, tokens, log_prob, whole, text, limit)
        waiting = [i for i in waiting if talks[i].open]
        if not waiting:
            break
    return talks


def _take(
    model: LanguageModel,
    talk: Talk,
    turn: int,
    tokens: list[int],
    log_prob: list[float],
    whole: bool,
    text: str,
    limit: int,
) -> None:
    """Add what the model wrote in a turn, and the environment's answer if there is another turn."""
    assert talk.episode is not None, "an episode was started"
    talk.add(tokens, log_prob, turn)
    chat = not isinstance(talk.episode.prompt, str)
    talk.messages.append({"role": "assistant", "content": text} if chat else text)
    answer = talk.episode.step(text)
    talk.rewards.append(answer.reward)
    talk.finished, talk.cut = answer.done, not whole and not answer.done
    if not talk.open:
        return
    said = model.encode_answer(answer.said, chat, after=tokens[-1])
    if len(talk.prompt) + len(talk.tokens) + len(said) + limit > room_of(model):
        talk.cut = True
        return
    talk.add(said, [0.0] * len(said), SAID)
    talk.messages += [answer.said] if isinstance(answer.said, str) and not chat else _as_messages(answer.said)


def _as_messages(said: Any) -> list[Any]:
    return [{"role": "user", "content": said}] if isinstance(said, str) else list(said)


def earned(
    rewards: Rewards, examples: Sequence[Example], samples: int, talks: Sequence[Talk], log: Log = lambda *_: None
) -> tuple[Tensor, dict[str, Tensor]]:
    """The reward of every episode and its components: those of the reward functions if there are any, otherwise the sum
    of the environment's rewards."""
    total = torch.tensor([sum(talk.rewards) for talk in talks])
    if not rewards.functions:
        return total, {"environment": total}
    each = [example for example in examples for _ in range(samples)]
    gained = [{**e.fields, "turn_rewards": t.rewards} for e, t in zip(each, talks, strict=True)]
    each = [replace(e, fields=fields) for e, fields in zip(each, gained, strict=True)]
    return rewards(each, [as_completion(t) for t in talks], [t.tokens for t in talks], log)


def as_completion(talk: Talk) -> Any:
    """What reward functions see of an episode: its messages, or its whole text if the prompt is text."""
    texts = [one for one in talk.messages if isinstance(one, str)]
    return "".join(texts) if len(texts) == len(talk.messages) else talk.messages


def gathered(talks: Sequence[Talk]) -> list[Talk]:
    """The episodes of all processes, in the order of the prompts; without their texts."""
    if distributed.world_size() == 1:
        return list(talks)

    def every(name: str, kind: torch.dtype) -> list[list[Any]]:
        rows = [getattr(talk, name) for talk in talks]
        flat = torch.tensor([x for row in rows for x in row], dtype=kind)
        sizes = distributed.gather(torch.tensor([len(row) for row in rows], dtype=torch.int64)).tolist()
        return [row.tolist() for row in distributed.gather(flat).split(sizes)]

    ends = torch.tensor([[t.finished, t.cut] for t in talks], dtype=torch.int64).view(-1, 2)
    kinds = {"prompt": torch.int64, "tokens": torch.int64, "log_prob": torch.float32, "turn": torch.int64}
    columns = {name: every(name, kind) for name, kind in {**kinds, "rewards": torch.float32}.items()}
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return [
        Talk(**row, finished=bool(e), cut=bool(c))
        for row, (e, c) in zip(rows, distributed.gather(ends).tolist(), strict=True)
    ]
