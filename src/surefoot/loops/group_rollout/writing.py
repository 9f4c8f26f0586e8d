"""Writing completions of examples and rewarding them, a share of the prompts in every process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from surefoot.envs.language import Example
from surefoot.loops.common import distributed
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
        uniform: Float[Tensor, "prompts samples tokens"],
        *,
        temperature: float,
        progress: Progress,
    ) -> Rollout:
        """Completions of examples, as many and as long as there are uniform numbers for, and their rewards."""
        samples = uniform.shape[1]
        prompts = self.model.encode([e.prompt for e in examples])
        taught = [e for e in examples if e.demonstration is not None]
        shown = self.model.encode_completions([e.demonstration or "" for e in taught], [e.prompt for e in taught])
        demonstrations = join(prompts, shown) if len(shown) == len(examples) else None
        found, mine = Completions([], [], []), distributed.block(len(prompts))
        if samples:
            found = self.engine(
                self.model.whole(),
                prompts[mine],
                uniform[mine],
                temperature=temperature,
                stop=self.stop,
                sampling=self.sampling,
            )
        texts = self.model.decode(found.tokens)
        logged = Logged()
        each = [e for e in examples[mine] for _ in range(samples)]
        reward, components = self.rewards(each, texts, found.tokens, logged.add)
        if distributed.world_size() > 1:
            found, reward, logged = gathered(found), distributed.gather(reward), logged.gathered()
            components = {name: distributed.gather(x) for name, x in components.items()}
            texts = self.model.decode(found.tokens)
        sequences = join([p for p in prompts for _ in range(samples)], found.tokens)
        log_prob = torch.zeros(sequences.tokens.shape)
        log_prob[sequences.valid] = torch.tensor([x for row in found.log_prob for x in row])
        groups = (len(prompts), samples)
        return Rollout(
            list(examples),
            index,
            sequences,
            texts,
            log_prob,
            reward.view(groups),
            {name: x.view(groups) for name, x in components.items()},
            ~torch.tensor(found.finished, dtype=torch.bool).view(groups),
            demonstrations,
            logged=logged,
            progress=progress,
        )
