"""Chains of symbols as the smallest language with hints: a table in place of a model, so that all is known exactly.

32 keys, each with a solution of 2 or of 8 symbols out of 8, evenly; the whole of it must be right. A table has the logits
of the symbol at every position of every key, at first a half for the right one: a short chain is right one time in four,
a long one one time in 256. The beginning of a chain in its prompt is the same to the policy as if it had written it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from surefoot.envs.language import Example
from surefoot.loops.group_rollout.method import GroupRollout
from surefoot.loops.group_rollout.rollout import Progress, Rollout
from surefoot.models.language.sequences import join
from surefoot.seeding import torch_stream

KEYS, SHORT, LONG, SYMBOLS = 32, 2, 8, "abcdefgh"
LENGTHS = torch.tensor([SHORT, LONG]).repeat(KEYS // 2)


class ChainIteration:
    """What a method may use in an iteration (`loops.group_rollout.iteration`), with a table as the policy."""

    def __init__(self, table: Tensor, right: Tensor, seed: int, step: int, samples: int) -> None:
        self.policy, self.right, self.samples = table.softmax(-1), right, samples
        self.progress = Progress(step)
        self.written: list[Rollout] = []
        self._keys = torch_stream(seed, "keys", step)
        self._draws = torch_stream(seed, "symbols", step)

    @property
    def task(self) -> ChainIteration:
        """Where the examples come from."""
        return self

    def choose(self, count: int) -> Tensor:
        """Different keys, at random."""
        return torch.randperm(KEYS, generator=self._keys)[:count]

    def fits(self, example: Example) -> bool:
        return True

    def write(self, index: Tensor, examples: Sequence[Example] | None = None) -> Rollout:
        """Chains from where the prompts end; 1 for one that is right with its prompt."""
        examples = [self.example(int(key)) for key in index] if examples is None else list(examples)
        asked, written, hits = [], [], []
        for key, example in zip(index.tolist(), examples, strict=True):
            known, length = len(example.prompt) - 1, int(LENGTHS[key])
            places = self.policy[key, known:length]
            drawn = torch.multinomial(places, self.samples, True, generator=self._draws).T
            asked += [[0] * len(example.prompt)] * self.samples
            written += drawn.tolist()
            hits.append((drawn == self.right[key, known:length]).all(1).float())
        sequences, reward = join(asked, written), torch.stack(hits)
        texts = ["".join(SYMBOLS[i] for i in row) for row in written]
        shape, known = torch.zeros(sequences.tokens.shape), {"reward": reward}
        finished = torch.zeros_like(reward).bool()
        self.written.append(
            Rollout(list(examples), index, sequences, texts, shape, reward, known, finished, progress=self.progress)
        )
        return self.written[-1]

    def example(self, key: int) -> Example:
        solution = "".join(SYMBOLS[i] for i in self.right[key, : LENGTHS[key]])
        return Example("=", solution, solution)


def start(seed: int) -> tuple[Tensor, Tensor]:
    """The table, and the right symbol at every position of every key."""
    right = torch.randint(len(SYMBOLS), (KEYS, LONG), generator=torch_stream(seed, "chains"))
    return torch.zeros(KEYS, LONG, len(SYMBOLS)).scatter(2, right[..., None], float(torch.tensor(7.0).log())), right


def solved(table: Tensor, right: Tensor) -> dict[str, float]:
    """The probability of the whole chain without a hint, for short and for long ones."""
    p = table.softmax(-1).gather(2, right[..., None]).squeeze(-1)
    return {"easy": float(p[::2, :SHORT].prod(1).mean()), "hard": float(p[1::2].prod(1).mean())}


def step(method: GroupRollout, table: Tensor, rollout: Rollout, rate: float) -> Tensor:
    """The table after gradient ascent on a rollout."""
    (term,) = method.terms(rollout)
    tokens, valid = term.sequences.tokens, term.sequences.valid
    leaf = table.clone().requires_grad_()
    owner = rollout.index.repeat_interleave(rollout.reward.shape[1])[:, None]
    place = (torch.arange(tokens.shape[1]) - 1).clamp(min=0)  # the first token is the key's
    log_prob = leaf.log_softmax(-1)[owner, place, tokens]
    advantage = term.advantage[:, None].expand(valid.shape)
    weights = term.objective.aggregation.weights(valid)
    loss, _ = term.objective.loss(log_prob, log_prob.detach(), advantage, valid=valid, weights=weights)
    return table - rate * torch.autograd.grad(loss, leaf)[0]
