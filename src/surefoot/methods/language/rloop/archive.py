"""The successes of many iterations, and which of them to learn from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from surefoot.loops.group_rollout.rewards import successes
from surefoot.loops.group_rollout.rollout import Rollout
from surefoot.models.language.sequences import Sequences, concatenate


class Archive(NamedTuple):
    """Completions with a reward of at least 1 that ended by themselves, and how often their prompts were asked."""

    prompt: Int[Tensor, " rows"]  # the number of its example
    step: Int[Tensor, " rows"]  # the iteration in which it was written
    tokens: Int[Tensor, "rows length"]  # with its prompt
    valid: Bool[Tensor, "rows length"]
    lengths: Int[Tensor, " rows"]
    asked: Int[Tensor, " groups"]  # the number of a prompt, once for every time that it was asked
    solved: Float[Tensor, " groups"]  # the share of the completions that succeeded then

    @classmethod
    def empty(cls) -> Archive:
        none = torch.zeros(0, dtype=torch.int64)
        return cls(none, none, none.view(0, 0), none.view(0, 0).bool(), none, none, none.float())

    @property
    def sequences(self) -> Sequences:
        """The completions with their prompts."""
        return Sequences(self.tokens, self.valid, self.lengths)

    def added(self, rollouts: Iterable[Rollout], step: int) -> Archive:
        """The archive with what was written in an iteration."""
        found = self
        for rollout in rollouts:
            success = successes(rollout.reward, rollout.components, "RLoop")
            rows = (success & ~rollout.truncated).flatten().nonzero().squeeze(-1)
            both = concatenate([found.sequences, rollout.sequences[rows]])
            prompt = rollout.index.repeat_interleave(rollout.reward.shape[1])[rows]
            found = Archive(
                torch.cat([found.prompt, prompt]),
                torch.cat([found.step, torch.full_like(prompt, step)]),
                both.tokens,
                both.valid,
                both.lengths,
                torch.cat([found.asked, rollout.index]),
                torch.cat([found.solved, success.float().mean(1)]),
            )
        return found

    def chosen(self, rate: float, most: int, stream: torch.Generator) -> Int[Tensor, " chosen"]:
        """The rows to learn from: of every prompt that succeeded in at most a share `rate` of its completions at most
        `most` different ones, each drawn from an iteration at random that has any left."""
        numbers, place = self.asked.unique(return_inverse=True)
        times = torch.zeros(len(numbers)).index_add(0, place, torch.ones(len(place)))
        share = torch.zeros(len(numbers)).index_add(0, place, self.solved) / times
        hard = set(numbers[share <= rate].tolist())
        rows: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
        seen = set()
        for row, (prompt, step) in enumerate(zip(self.prompt.tolist(), self.step.tolist(), strict=True)):
            text = (prompt, *self.tokens[row, : self.lengths[row]].tolist())
            if prompt in hard and text not in seen:
                rows[prompt][step].append(row)
                seen.add(text)
        return torch.tensor([row for steps in rows.values() for row in drawn(steps, most, stream)], dtype=torch.int64)


def drawn(steps: Mapping[int, list[int]], most: int, stream: torch.Generator) -> list[int]:
    """At most `most` rows without repetition, each from a step at random that has rows left."""
    left, found = {step: list(rows) for step, rows in steps.items()}, []
    while left and len(found) < most:
        step = [*left][int(torch.randint(len(left), (), generator=stream))]
        found.append(left[step].pop(int(torch.randint(len(left[step]), (), generator=stream))))
        left = {step: rows for step, rows in left.items() if rows}
    return found
