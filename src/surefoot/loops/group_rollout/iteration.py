"""What a method may use during one iteration of a run: the next prompts, the engine, the model and its own memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from surefoot.envs.language import Example, Task
from surefoot.loops.group_rollout.rollout import Progress, Rollout, joined
from surefoot.models.language.model import LanguageModel, TokenStatistics
from surefoot.models.language.sequences import Sequences
from surefoot.seeding import torch_stream

if TYPE_CHECKING:
    from surefoot.loops.group_rollout.learner import LanguageLearner
    from surefoot.loops.group_rollout.method import Term


class Iteration:
    """One iteration; `written` are the rollouts that were generated in it for learning, which its metrics are of."""

    def __init__(self, learner: LanguageLearner) -> None:
        self._learner = learner
        self.written: list[Rollout] = []

    @property
    def scored(self) -> bool:
        """Whether anything was written in it, and rewarded."""
        return any(rollout.reward.numel() for rollout in self.written)

    @property
    def progress(self) -> Progress:
        """Where the run is, and the method's memory."""
        return self._learner.progress

    @property
    def model(self) -> LanguageModel:
        """The model that learns."""
        return self._learner.model

    @property
    def task(self) -> Task:
        """Where the examples come from."""
        return self._learner.task

    @property
    def reward_weights(self) -> Mapping[str, float]:
        """The weight of every component of the reward by name; 1 for the task's own."""
        rewards = self._learner.writer.rewards
        return dict(zip(rewards.functions, rewards.weights, strict=True)) or {"reward": 1.0}

    def stream(self, name: str, counter: int = 0) -> torch.Generator:
        """Random numbers of the run by name and a number, such as that of an example: the same in every iteration."""
        return torch_stream(self._learner.seeds[0], name, counter)

    def choose(self, count: int) -> Int[Tensor, " count"]:
        """The numbers of the next `count` prompts, as the method's `sampler` chooses them; those that are too long for
        the model are skipped."""
        return self._learner.next_prompts(count)

    def fits(self, example: Example) -> bool:
        """Whether an example, such as one whose prompt was changed, is short enough for the model."""
        return self._learner.fits(example)

    def write(self, index: Int[Tensor, " prompts"], examples: Sequence[Example] | None = None) -> Rollout:
        """Completions of the examples with these numbers, and their rewards. The examples may be given, if they are not
        the task's own: the same ones with another prompt."""
        self.written.append(self._learner.write(index, examples))
        return self.written[-1]

    def read(self, index: Int[Tensor, " prompts"]) -> Rollout:
        """The scored completions of the examples with these numbers, as if they had been written here."""
        return self._learner.writer.read(index, [self.task.example(int(i)) for i in index], self.progress)

    def judged(self, examples: Sequence[Example], texts: Sequence[str]) -> Float[Tensor, " texts"]:
        """The rewards of texts that somebody wrote, one for each of the examples."""
        return self._learner.writer.judged(examples, texts)[0]

    def score(self, examples: Sequence[Example], texts: Sequence[str]) -> dict[str, Float[Tensor, " texts"]]:
        """The components of the rewards of such texts, by name."""
        return self._learner.writer.judged(examples, texts)[1]

    def sample(self, index: Int[Tensor, " prompts"], samples: int) -> Rollout:
        """`samples` completions of each of the examples with these numbers, and their rewards, to measure something by:
        they are not learned from, and are in no metric."""
        examples = [self.task.example(int(i)) for i in index]
        return self._learner.complete(index, examples, samples, self._learner.method.temperature)

    def held_out(self, count: int) -> Rollout:
        """The likeliest completion of each of the first `count` held-out examples, and its reward; not learned from."""
        count = min(count, count if self.task.held_out_size is None else self.task.held_out_size)
        return self._learner.complete(torch.arange(count), [self.task.example(i, "test") for i in range(count)], 1, 0.0)

    def statistics(self, sequences: Sequences, reference: bool = False) -> TokenStatistics:
        """The statistics of tokens under the model as it is, or under the reference, without a gradient."""
        with self.model.evaluating():
            return self._learner.estimator.statistics(sequences, reference)

    def gradient(self, terms: Sequence[Term]) -> dict[str, Tensor]:
        """The gradient of the loss of some terms, all rows at once, in every weight that learns, by name. The weights
        stay as they are."""
        return self._learner.gradient(list(terms))

    def weights(self) -> dict[str, Tensor]:
        """A copy of the weights that learn, by name."""
        return {name: weight.detach().clone() for name, weight in self._learner.masters.items()}

    def restart(self, weights: Mapping[str, Tensor]) -> None:
        """Go on from these weights, with a fresh optimiser."""
        self._learner.restart(weights)


def until_informative(iteration: Iteration, prompts: int, share: float, batches: int) -> Rollout:
    """DAPO's dynamic sampling (arXiv:2503.14476): batches of prompts are sampled until at least `share` of `prompts`
    prompts have completions whose rewards differ, at most `batches` times; those prompts first, then others."""
    kept: list[Rollout] = []
    for number in range(batches):
        rollout = iteration.write(iteration.choose(prompts))
        kept.append(rollout.prompts(~rollout.degenerate))
        if sum(len(one.index) for one in kept) >= share * prompts or number + 1 == batches:
            kept.append(rollout.prompts(rollout.degenerate))
            break
    return joined(kept).prompts(torch.arange(prompts))
