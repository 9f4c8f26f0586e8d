"""Writing completions of examples, or whole episodes, and rewarding them; a share of the prompts in every process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from surefoot.envs.language import Example
from surefoot.envs.language.episodes import Conversations
from surefoot.errors import UsageError
from surefoot.loops.common import distributed
from surefoot.loops.group_rollout import turns
from surefoot.loops.group_rollout.rewards import Rewards
from surefoot.loops.group_rollout.rollout import Logged, Progress, Rollout, gathered
from surefoot.models.language.generation import WHOLE, Completions, Engine
from surefoot.models.language.model import LanguageModel
from surefoot.models.language.sampling import Sampling
from surefoot.models.language.sequences import join


@dataclass(frozen=True)
class Writer:
    """A model with its engine, and the rewards of what it writes."""

    model: LanguageModel
    engine: Engine
    rewards: Rewards
    stop: tuple[str, ...] = ()
    sampling: Sampling = WHOLE

    def __call__(
        self,
        index: Int[Tensor, " prompts"],
        examples: Sequence[Example],
        uniform: Callable[[int], Float[Tensor, "prompts samples tokens"]],
        *,
        temperature: float,
        progress: Progress,
    ) -> Rollout:
        """Completions of examples, and their rewards: as many, and each turn of them as long, as there are uniform
        numbers of that turn."""
        if isinstance(self.rewards.task, Conversations):
            return self._episodes(self.rewards.task, index, examples, uniform, temperature, progress)
        drawn = uniform(0)
        samples = drawn.shape[1]
        prompts = self.model.encode([e.prompt for e in examples])
        taught = [e for e in examples if e.demonstration is not None]
        shown = self.model.encode_completions([e.demonstration or "" for e in taught], [e.prompt for e in taught])
        demonstrations = join(prompts, shown) if len(shown) == len(examples) else None
        found, mine = Completions([], [], []), distributed.block(len(prompts))
        if samples:
            found = self.engine(
                self.model.whole(),
                prompts[mine],
                drawn[mine],
                temperature=temperature,
                stop=self.stop,
                sampling=self.sampling,
            )
        texts = self.model.decode(found.tokens)
        logged = Logged()
        each = [e for e in examples[mine] for _ in range(samples)]
        reward, components = self.rewards(each, texts, found.tokens, logged.add)
        if distributed.world_size() > 1:
            found, texts = gathered(found), []
        sequences = join([p for p in prompts for _ in range(samples)], found.tokens)
        log_prob = torch.zeros(sequences.tokens.shape)
        log_prob[sequences.valid] = torch.tensor([x for row in found.log_prob for x in row])
        truncated = ~torch.tensor(found.finished, dtype=torch.bool)
        return Rollout(
            list(examples),
            index,
            sequences,
            texts or self.model.decode(found.tokens),
            log_prob,
            **_grouped((len(examples), samples), reward, components, truncated),
            demonstrations=demonstrations,
            logged=logged.gathered(),
            progress=progress,
        )

    def read(self, index: Int[Tensor, " prompts"], examples: Sequence[Example], progress: Progress) -> Rollout:
        """The scored completions of examples as a rollout, their scores as rewards. How likely they were for whoever
        wrote them is not known: their log-probabilities are NaN.

        Raises:
            UsageError: an example has fewer than two, or not as many as the others.
        """
        check_scored(examples)
        texts, scores = zip(*(pair for example in examples for pair in example.scored), strict=True)
        asked = [example.prompt for example in examples for _ in example.scored]
        sequences = join(self.model.encode(asked), self.model.encode_completions(texts, asked))
        reward = torch.tensor(scores).view(len(examples), -1)
        unknown = torch.full(sequences.tokens.shape, torch.nan)
        return Rollout(
            list(examples),
            index,
            sequences,
            list(texts),
            unknown,
            reward,
            {"score": reward},
            truncated=torch.zeros_like(reward, dtype=torch.bool),
            progress=progress,
        )

    def judged(
        self, examples: Sequence[Example], texts: Sequence[str]
    ) -> tuple[Float[Tensor, " texts"], dict[str, Float[Tensor, " texts"]]]:
        """The rewards of texts that somebody wrote, one for each example, and their components; a share of them in
        every process."""
        mine = distributed.block(len(texts))
        tokens = self.model.encode_completions(texts[mine], [example.prompt for example in examples[mine]])
        reward, components = self.rewards(examples[mine], texts[mine], tokens)
        return distributed.gather(reward), {name: distributed.gather(x) for name, x in components.items()}

    def _episodes(
        self,
        task: Conversations,
        index: Tensor,
        examples: Sequence[Example],
        uniform: Callable[[int], Tensor],
        temperature: float,
        progress: Progress,
    ) -> Rollout:
        """Episodes of several turns; see `turns`."""
        mine, samples, logged = distributed.block(len(examples)), uniform(0).shape[1], Logged()
        talks = turns.converse(
            task,
            self.model.whole(),
            self.engine,
            examples[mine],
            lambda turn: uniform(turn)[mine],
            temperature=temperature,
            stop=self.stop,
            sampling=self.sampling,
        )
        reward, components = turns.earned(self.rewards, examples[mine], samples, talks, logged.add)
        talks = turns.gathered(talks)
        sequences = join([t.prompt for t in talks], [t.tokens for t in talks])
        log_prob, turn = torch.zeros(sequences.tokens.shape), torch.full(sequences.tokens.shape, turns.SAID)
        log_prob[sequences.valid] = torch.tensor([x for t in talks for x in t.log_prob])
        turn[sequences.valid] = torch.tensor([x for t in talks for x in t.turn])
        gains = torch.zeros(len(talks), task.max_turns)
        for row, talk in zip(gains, talks, strict=True):
            row[: len(talk.rewards)] = torch.tensor(talk.rewards)
        return Rollout(
            list(examples),
            index,
            replace(sequences, valid=turn != turns.SAID),
            self.model.decode([t.tokens for t in talks]),
            log_prob,
            **_grouped((len(examples), samples), reward, components, torch.tensor([not t.finished for t in talks])),
            logged=logged.gathered(),
            turn=turn,
            turn_rewards=gains,
            progress=progress,
        )


def check_scored(examples: Sequence[Example]) -> None:
    """Raise `UsageError` for the first example with fewer than two scored completions, or not as many as the first."""
    for example in examples:
        if (count := len(example.scored)) < 2 or count != len(examples[0].scored):
            raise UsageError(
                f"the prompt {example.prompt!r} has {count} scored completions, the first one has "
                f"{len(examples[0].scored)}; with samples=0 every prompt needs the same number of them, at least two: "
                'give data with the columns "completions" and "scores", or generate with samples=2.'
            )


def _grouped(
    groups: tuple[int, int], reward: Tensor, components: Mapping[str, Tensor], truncated: Tensor
) -> dict[str, Any]:
    """The rewards of all processes and what was cut off, by prompt and sample."""
    reward, components = distributed.gather(reward), {name: distributed.gather(x) for name, x in components.items()}
    return {
        "reward": reward.view(groups),
        "components": {name: x.view(groups) for name, x in components.items()},
        "truncated": truncated.view(groups),
    }
