"""RPS: for a direction of preference, answers are generated from its neighbours, and the best one along it is kept.

    v_1 … v_k  the k directions nearest to the target v, at most θ_max away
    y_i ~ π(·|x, v_i)        y* = argmax_i vᵀr(x, y_i)

A model that takes a trade-off in its prompt ("helpful*71 + brief*71") writes well only for those that it was trained
on. A rare one is better served by its neighbours' answers, as many as best-of-k would draw from the target itself.
Where the model has no such gap the neighbours only cost: `surefoot steer RUN --direction 10..45` measures both.

Ruochen Mao et al., *Robust Preference Alignment via Directional Neighborhood Consensus* (2025), arXiv:2510.20498. The
rule is an agent's way of answering (`sf.steer`), for any model with directions in its prompt. The paper takes its
models as they are; what is trained under this name makes one: GRPO on the reward along a direction drawn for every
prompt, from the cap of half-angle `spread` around `centre`, outside of which there is the gap.

Differences: a grid with fewer than k directions within θ_max uses them again, so that there are always k answers; with
more than two attributes neighbours are drawn uniformly from the cap; `include_target` adds the target itself, which the
paper's grid of −40° to 40° leaves out beyond 40°. In training reward functions see the prompt with its direction, when
answers are chosen the plain one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import numpy as np
import torch

from surefoot.hyperparameters import hyperparameter
from surefoot.loops.group_rollout.iteration import Iteration
from surefoot.loops.group_rollout.method import Rollout
from surefoot.methods.language.baselines import GRPO
from surefoot.models.language.model import LanguageModel
from surefoot.models.language.steering import Steering, cap, check_template, unit


@dataclass(frozen=True)
class RPS(GRPO, Steering):
    """A model that is asked for directions of preference, and answers from the neighbours of each."""

    weighs: ClassVar[bool] = False
    judged_by: ClassVar[int] = 2

    centre: tuple[float, ...] = hyperparameter(
        (), help="Centre of the directions of training, a weight per reward function; by default equal ones."
    )
    spread: float = hyperparameter(
        25.0, low=0, high=180, help="Largest angle between a direction of training and the centre, in degrees."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_template(self.template)
        if self.centre:
            unit(self.centre)

    def agent(self, model: LanguageModel, settings: Mapping[str, Any], facts: Mapping[str, Any]) -> Any:
        rule = {field.name: getattr(self, field.name) for field in fields(Steering)}
        return super().agent(model, {**settings, "steering": rule}, facts)

    def collect(self, iteration: Iteration) -> Rollout:
        index = iteration.choose(self.prompts)
        names = list(iteration.reward_weights)
        examples = [iteration.task.example(int(i)) for i in index]
        if len(names) < 2:
            return iteration.write(index)
        centre = unit(self.centre or np.ones(len(names)), len(names))
        drawn = int(torch.randint(2**31 - 1, (), generator=iteration.stream("directions", iteration.progress.step)))
        directions = cap(centre, self.spread, len(index), np.random.default_rng(drawn))
        asked = [
            replace(example, prompt=self.ask(example.prompt, direction, names))
            for example, direction in zip(examples, directions, strict=True)
        ]
        found = iteration.write(index, asked)
        weights = torch.tensor(directions.T, dtype=torch.float32)[:, :, None]
        reward = (weights * torch.stack([torch.nan_to_num(x) for x in found.components.values()])).sum(0)
        iteration.written[-1] = replace(found, reward=reward)
        return iteration.written[-1]

    def steps(self) -> list[str]:
        _, step = super().steps()
        return [
            f"draw a direction v for each of {self.prompts} prompts, up to {self.spread:g}° from the centre, and ask "
            "for it in the prompt",
            f"write {self.samples} completions for each at temperature {self.temperature:g}; R = vᵀr",
            step,
            f"when asked for a direction: one answer from each of its {self.candidates} nearest neighbours, at most "
            f"{self.max_angle:g}° away; keep the one with the highest score along it",
        ]


METHOD = RPS
