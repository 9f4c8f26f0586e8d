"""Completions of some prompts, their rewards, and metrics of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from surefoot.envs.language import Example
from surefoot.loops.common import distributed
from surefoot.models.language.generation import Completions
from surefoot.models.language.model import TokenStatistics
from surefoot.models.language.sequences import Sequences, concatenate

SHOWN = 2000  # characters of a logged completion


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
    judged: TokenStatistics | None = None  # the model's statistics before the update, if it has a critic
    logged: Logged = field(default_factory=Logged)  # by the reward functions

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
        )


def joined(rollouts: Sequence[Rollout]) -> Rollout:
    """Several rollouts as one, before a critic has judged them."""
    sequences = concatenate([r.sequences for r in rollouts])
    shown = [r.demonstrations for r in rollouts if r.demonstrations is not None]
    shown = shown if len(shown) == len(rollouts) else []
    width = sequences.tokens.shape[1]
    return Rollout(
        [e for r in rollouts for e in r.examples],
        torch.cat([r.index for r in rollouts]),
        sequences,
        [text for r in rollouts for text in r.texts],
        torch.cat([torch.nn.functional.pad(r.log_prob, (0, width - r.log_prob.shape[1])) for r in rollouts]),
        torch.cat([r.reward for r in rollouts]),
        {name: torch.cat([r.components[name] for r in rollouts]) for name in rollouts[0].components},
        torch.cat([r.truncated for r in rollouts]),
        None if not shown else concatenate(shown),
    )


def measured(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Metrics of rollouts."""
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
    if len(every.components) > 1:
        row |= {f"reward/{name}": float(x.nanmean()) for name, x in every.components.items()}
    return row | Logged.means([rollout.logged for rollout in rollouts])


def sample(rollout: Rollout) -> dict[str, Any]:
    """The first completion of the first prompt with its reward, for the log."""
    if not rollout.texts:
        return {}
    texts = {"sample/prompt": as_text(rollout.examples[0].prompt), "sample/completion": rollout.texts[0]}
    kept = {name: text[:SHOWN].encode(errors="replace").decode() for name, text in texts.items()}
    return {**kept, "sample/reward": float(rollout.reward.flatten()[0])}


def as_text(prompt: Any) -> str:
    """A prompt as text; of messages, each after its role."""
    if not isinstance(prompt, list):
        return str(prompt)
    return "\n".join(f"{m.get('role')}: {m.get('content')}" if isinstance(m, dict) else str(m) for m in prompt)


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
