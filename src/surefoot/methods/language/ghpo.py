"""GHPO: prompts that every completion failed are asked again with the beginning of the solution as a hint.

    maximise  GRPO's objective on q*     q* = q if a completion of q is right, else q + a share ω of its solution

Where all completions of a prompt are wrong, GRPO learns nothing from it. Here such a prompt is asked again with the
first quarter of the solution, then half, then three quarters, until a completion is right: imitation where the model
is lost, reinforcement everywhere else, without a second loss. The hint is part of the prompt: the update is on-policy,
and nothing is learned from the hint's own tokens. Use it where the data has solutions (column "demonstration") and many
prompts are too hard. A solution whose first three quarters contain the answer teaches copying; use fewer hints then.

Ziru Liu et al., *GHPO: Adaptive Guidance for Stable and Efficient LLM Reinforcement Learning* (2025), arXiv:2507.10628.
Shares are of characters, rounded, as in the released trainer. What decides whether a completion is right is the first
reward function, so that one for the format, given second, does not hide that all are wrong.

Differences: once a later stage runs, the released trainer takes the hints of earlier stages out of the prompts while it
learns from what was written with them; here a completion keeps its prompt. It cuts long prompts from the left, which
can cut the question; here a prompt without room for a hint is learned from without it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool
from torch import Tensor

from surefoot.envs.language import Example, Task
from surefoot.errors import UsageError
from surefoot.hyperparameters import Choices, hyperparameter
from surefoot.loops.group_rollout.iteration import Iteration
from surefoot.loops.group_rollout.method import Rollout
from surefoot.loops.group_rollout.rollout import joined
from surefoot.methods.language.baselines import GRPO
from surefoot.objectives import PolicyObjective, aggregation

MARK = "{hint}"


@dataclass(frozen=True)
class GHPO(GRPO):
    """GRPO in which prompts that nothing solved are asked again with a part of their solution."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "released-2025": {  # the released recipe for Qwen2.5-Math-7B; warm-up a tenth of its 160 steps
            "prompts": 196,
            "max_tokens": 2048,
            "learning_rate": 1e-6,
            "warmup": 16,
            "anneal": "cosine",
            "cold_start": 0,
        },
    }

    samples: int = hyperparameter(8, low=2, help="Completions per prompt.", tune=Choices((4, 8, 16)))
    minibatches: int = hyperparameter(1, low=1, help="Optimiser steps per pass.")
    unbiased: bool = hyperparameter(True, help="Standardise by the standard deviation with n − 1, as TRL and verl do.")
    hints: tuple[float, ...] = hyperparameter(
        (0.25, 0.5, 0.75), above=0, below=1, help="Shares ω of the solution that are shown, one stage after another."
    )
    hint_text: str = hyperparameter(
        f"\nThe answer begins like this: {MARK}\n", help=f"What is added to a prompt; must contain {MARK}."
    )
    cold_start: int = hyperparameter(
        20, low=0, help="Iterations at the beginning without hints, so that a wrong format is not taken for difficulty."
    )
    informative: float = hyperparameter(
        0.0, low=0, high=0, help="Must be 0: prompts that nothing solved are asked again, not replaced."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if list(self.hints) != sorted(set(self.hints)):
            raise UsageError(f"GHPO: hints={self.hints} is not allowed; every hint must be longer than the one before.")
        if MARK not in self.hint_text:
            raise UsageError(f"GHPO: hint_text={self.hint_text!r} is not allowed; it must contain {MARK}.")

    def objective(self) -> PolicyObjective:
        return dataclasses.replace(super().objective(), aggregation=aggregation.mean())

    def check_task(self, task: Task) -> None:
        if self.hints:
            self.check_demonstration(task.example(0))

    def collect(self, iteration: Iteration) -> Rollout:
        rollout = super().collect(iteration)
        own, share = rollout.examples, torch.zeros(len(rollout.index))  # of the solution that each prompt shows
        for hint in self.hints if iteration.progress.step >= self.cold_start else ():
            asked = {int(i): self.hinted(own[int(i)], hint) for i in all_wrong(rollout).nonzero()}
            asked = {i: example for i, example in asked.items() if iteration.fits(example)}
            if not asked:
                break
            again = torch.tensor([*asked])
            rollout = replaced(rollout, again, iteration.write(rollout.index[again], [*asked.values()]))
            share[again] = hint
        iteration.written[0].logged.add("hinted", (share > 0).float().tolist())
        iteration.written[0].logged.add("hint", share.tolist())
        return rollout

    def hinted(self, example: Example, share: float) -> Example:
        """The example with the first part of its solution in its prompt, at the end of the last message of a chat."""
        solution, prompt = example.demonstration or "", example.prompt
        text = self.hint_text.replace(MARK, solution[: round(share * len(solution))])
        if isinstance(prompt, str):
            return dataclasses.replace(example, prompt=prompt + text)
        *before, last = prompt
        return dataclasses.replace(example, prompt=[*before, {**last, "content": last["content"] + text}])

    def steps(self) -> list[str]:
        write, learn = super().steps()
        shares = ", ".join(f"{share:g}" for share in self.hints)
        later = f"from iteration {self.cold_start} on, " if self.cold_start else ""
        hint = [
            f"{later}ask again, with ω = {shares} of its solution in turn, every prompt whose completions are all wrong"
        ]
        return [write, *(hint if self.hints else []), learn]


def all_wrong(rollout: Rollout) -> Bool[Tensor, " prompts"]:
    """The prompts without a right completion: the first reward function gives none of them more than 0."""
    right = next(iter(rollout.components.values())) > 0
    return ~right.any(1)


def replaced(rollout: Rollout, places: Tensor, other: Rollout) -> Rollout:
    """The rollout with other groups of completions in some places."""
    kept = torch.ones(len(rollout.index), dtype=torch.bool).index_fill(0, places, False)
    order = torch.cat([kept.nonzero().squeeze(-1), places]).argsort()
    return joined([rollout.prompts(kept), other]).prompts(order)


METHOD = GHPO
