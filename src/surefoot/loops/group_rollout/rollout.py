"""Completions of some prompts, their rewards, and metrics of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from surefoot.envs.language import Example
from surefoot.envs.language.task import as_text
from surefoot.loops.common import distributed
from surefoot.models.language.generation import Completions
from surefoot.models.language.model import TokenStatistics
from surefoot.models.language.sequences import Sequences, concatenate


@dataclass(frozen=True)
class Logged:
    """The numbers that reward functions log for a batch: sum and count by name."""

    numbers: dict[str, tuple[float, int]] = field(default_factory=dict)

    def add(self, name: str, values: Sequence[Any]) -> None:
        """Add some values; those that are not numbers are ignored."""
        known = [float(x) for x in values if isinstance(x, Real)]
        total, count = self.numbers.get(name, (0.0, 0))
        if known:
            self.numbers[name] = total + sum(known), count + len(known)

    def gathered(self) -> Logged:
        """The sums and counts over all processes."""
        mine = {f"{place} {name}": x for name, pair in self.numbers.items() for place, x in enumerate(pair)}
        together = Logged()
        for row in distributed.gather_row(mine):
            for name in [key[2:] for key in row if key.startswith("0 ")]:
                total, count = together.numbers.get(name, (0.0, 0))
                together.numbers[name] = total + row[f"0 {name}"], count + int(row[f"1 {name}"])
        return together

    @staticmethod
    def means(several: Sequence[Logged]) -> dict[str, float]:
        """The mean of what was logged under each name."""
        names = sorted({name for one in several for name in one.numbers})
        pairs = {name: [one.numbers[name] for one in several if name in one.numbers] for name in names}
        return {f"log/{name}": sum(t for t, _ in found) / sum(n for _, n in found) for name, found in pairs.items()}


@dataclass(frozen=True)
class Progress:
    """Where a run is, and what its method remembers."""

    step: int = 0  # iterations before this one
    total: int = 1  # iterations of the whole run
    learning_rate: float = 0.0  # of this iteration
    memory: Mapping[str, Tensor] = field(default_factory=dict)  # the method's own tensors, which checkpoints contain

    @property
    def share(self) -> float:
        """The share of the run that is behind, in [0, 1]."""
        return min(1.0, self.step / max(1, self.total))


@dataclass(frozen=True)
class Rollout:
    """Completions of some prompts, and their rewards."""

    examples: list[Example]  # one per prompt
    index: Int[Tensor, " prompts"]  # their numbers in the task
    sequences: Sequences  # prompts · samples rows, the samples of a prompt adjacent
    texts: list[str]  # one per row
    log_prob: Float[Tensor, "rows length"]  # by the engine that generated them
    reward: Float[Tensor, "prompts samples"]  # the weighted sum of the components
    components: dict[str, Float[Tensor, "prompts samples"]]
    truncated: Bool[Tensor, "prompts samples"]  # stopped by the limit, not finished
    demonstrations: Sequences | None = None  # one row per prompt, if all prompts have one
    judged: TokenStatistics | None = None  # the model's statistics before the update, if the method reads them
    logged: Logged = field(default_factory=Logged)  # by the reward functions
    turn: Int[Tensor, "rows length"] | None = None  # in which turn the model wrote each token, −1 if it did not
    turn_rewards: Float[Tensor, "rows turns"] | None = None  # of the environment; 0 after the end of an episode
    progress: Progress = field(default_factory=Progress)

    @property
    def lengths(self) -> Int[Tensor, "prompts samples"]:
        """Tokens of each completion."""
        return self.sequences.written.view_as(self.reward)

    @property
    def degenerate(self) -> Bool[Tensor, " prompts"]:
        """The prompts whose completions all have the same reward: they do not show what is better."""
        return (self.reward == self.reward[:, :1]).all(1)

    @property
    def value(self) -> Float[Tensor, "rows length"]:
        """The critic's value of the state before every token."""
        assert self.judged is not None and self.judged.value is not None, "only a model with a critic has values"
        return self.judged.value

    def prompts(self, keep: Tensor) -> Rollout:
        """The rollout of some prompts, given by their numbers or a mask."""
        keep = keep.nonzero().squeeze(-1) if keep.dtype == torch.bool else keep
        samples = self.reward.shape[1]
        rows = (keep[:, None] * samples + torch.arange(samples)).flatten()
        sequences = self.sequences[rows]
        width = sequences.tokens.shape[1]
        return Rollout(
            [self.examples[i] for i in keep.tolist()],
            self.index[keep],
            sequences,
            [self.texts[i] for i in rows.tolist()],
            self.log_prob[rows, :width],
            self.reward[keep],
            {name: x[keep] for name, x in self.components.items()},
            self.truncated[keep],
            None if self.demonstrations is None else self.demonstrations[keep],
            None if self.judged is None else self.judged.each(lambda x: x[rows, :width]),
            turn=None if self.turn is None else self.turn[rows, :width],
            turn_rewards=None if self.turn_rewards is None else self.turn_rewards[rows],
            progress=self.progress,
        )


def shown(rollout: Rollout, count: int) -> list[dict[str, Any]]:
    """The first completion of each of the first `count` prompts as rows of a table: texts, reward, components, and how
    many tokens were written. Chat messages are given as JSON."""
    samples = rollout.reward.shape[1]
    rows = []
    for i, example in enumerate(rollout.examples[:count] if samples else []):
        row = {"prompt": as_text(example.prompt), "completion": rollout.texts[i * samples]}
        row |= {"reward": float(rollout.reward[i, 0]), "tokens": int(rollout.lengths[i, 0])}
        if len(rollout.components) > 1:
            row |= {f"reward/{name}": float(x[i, 0]) for name, x in rollout.components.items()}
        rows.append(row)
    return rows


def unwritten(examples: list[Example], index: Int[Tensor, " prompts"]) -> dict[str, Any]:
    """The fields of a rollout without completions."""
    none = torch.zeros(len(index), 0)
    sequences = Sequences(torch.zeros(0, 0, dtype=torch.int64), torch.zeros(0, 0, dtype=torch.bool), torch.zeros(0))
    known = {"examples": examples, "index": index, "sequences": sequences, "texts": [], "log_prob": torch.zeros(0, 0)}
    return {**known, "reward": none, "components": {}, "truncated": none.bool()}


def joined(rollouts: Sequence[Rollout]) -> Rollout:
    """Several rollouts as one, before a critic has judged them."""
    sequences = concatenate([r.sequences for r in rollouts])
    shown = [r.demonstrations for r in rollouts if r.demonstrations is not None]
    shown = shown if len(shown) == len(rollouts) else []
    width = sequences.tokens.shape[1]

    def padded(x: Tensor, value: float = 0) -> Tensor:
        return torch.nn.functional.pad(x, (0, width - x.shape[1]), value=value)

    turns = [r.turn for r in rollouts if r.turn is not None]
    gains = [r.turn_rewards for r in rollouts if r.turn_rewards is not None]
    return Rollout(
        [e for r in rollouts for e in r.examples],
        torch.cat([r.index for r in rollouts]),
        sequences,
        [text for r in rollouts for text in r.texts],
        torch.cat([padded(r.log_prob) for r in rollouts]),
        torch.cat([r.reward for r in rollouts]),
        {name: torch.cat([r.components[name] for r in rollouts]) for name in rollouts[0].components},
        torch.cat([r.truncated for r in rollouts]),
        None if not shown else concatenate(shown),
        turn=torch.cat([padded(x, -1) for x in turns]) if turns else None,
        turn_rewards=torch.cat(gains) if gains else None,
        progress=rollouts[0].progress,
    )


def measured(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Metrics of rollouts."""
    if not rollouts:
        return {"batches": 0}
    every = joined(rollouts)
    if not every.texts:
        return {"batches": len(rollouts)}
    lengths = every.lengths.float()
    row = {
        "return_mean": float(every.reward.mean()),
        "best_of_group": float(every.reward.amax(1).mean()),
        "length": float(lengths.mean()),
        "length_max": float(lengths.max()),
        "truncated": float(every.truncated.float().mean()),
        "degenerate": float(every.degenerate.float().mean()),
        "batches": len(rollouts),
        "tokens": int(lengths.sum()),
    }
    if every.turn is not None:
        turns = every.turn.amax(1) + 1
        row |= {"turns": float(turns.float().mean()), "turns_max": float(turns.max())}
    if len(every.components) > 1:
        row |= {f"reward/{name}": float(x.nanmean()) for name, x in every.components.items()}
    return row | Logged.means([rollout.logged for rollout in rollouts])


def gathered(found: Completions) -> Completions:
    """The completions that all processes wrote, in the order of the prompts."""
    lengths = torch.tensor([len(row) for row in found.tokens], dtype=torch.int64)
    tokens = torch.tensor([x for row in found.tokens for x in row], dtype=torch.int64)
    log_prob = torch.tensor([x for row in found.log_prob for x in row], dtype=torch.float32)
    finished = torch.tensor(found.finished, dtype=torch.int64)
    lengths, tokens, log_prob, finished = (distributed.gather(x) for x in (lengths, tokens, log_prob, finished))
    sizes = lengths.tolist()
    return Completions(
        [row.tolist() for row in tokens.split(sizes)],
        [row.tolist() for row in log_prob.split(sizes)],
        finished.bool().tolist(),
    )
