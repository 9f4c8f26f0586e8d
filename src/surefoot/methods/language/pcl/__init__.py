"""PCL: a model of each prompt's chance of success chooses the next prompts, those that are solved half of the time.

    V_φ(x) ≈ P(a completion of x is right)      of k·m candidates take the m with the smallest |V_φ(x) − τ|
    minimise  mean_x (V_φ(x) − mean(R))²        on the prompts that were chosen, one step an iteration

With rewards 0 and 1 a prompt of success p has an expected squared advantage of p(1 − p), and its group shows a
difference with probability 1 − pⁿ − (1 − p)ⁿ: both are largest at ½. Such prompts can be found by writing completions
and throwing most away (DAPO); PCL learns to recognise them from the completions that it writes anyway, for one pass
over the prompts. Use it where prompts are many and differ in difficulty. Look at held-out prompts for progress: the
mean reward of the chosen ones stays near τ by construction.

Zhaolin Gao et al., *Prompt Curriculum Learning for Efficient LLM Post-Training* (2025), arXiv:2510.01135.

Differences: the candidates are the next ones in a random order of all prompts, so none is a candidate twice before all
have been; in the paper every iteration draws from all of them. V starts as the policy, as in the paper, but with an
adapter only the adapter is its own. Its step size is not published; it is a multiple of the policy's here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from surefoot.envs.language import Task
from surefoot.errors import UsageError
from surefoot.hyperparameters import Choices, hyperparameter
from surefoot.loops.common.optimizer import Adam
from surefoot.loops.group_rollout.iteration import Iteration
from surefoot.loops.group_rollout.method import Rollout
from surefoot.loops.group_rollout.rewards import in_unit
from surefoot.methods.language.baselines import ClippedGroups
from surefoot.methods.language.pcl.value import initial, slope, values
from surefoot.models.language.model import LanguageModel
from surefoot.objectives import PolicyObjective
from surefoot.objectives.advantages import group_standardized


@dataclass(frozen=True)
class PCL(ClippedGroups):
    """Rewards minus their group's mean on prompts that a value model expects to be solved half of the time."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "math-2025": {"prompts": 512, "max_tokens": 4096, "learning_rate": 1e-6},  # Qwen3-Base on MATH, DeepScaleR
    }

    samples: int = hyperparameter(16, low=2, help="Completions per prompt.", tune=Choices((8, 16)))
    minibatches: int = hyperparameter(1, low=1, help="Optimiser steps per pass.")
    candidates: int = hyperparameter(4, low=1, help="k: candidates for every prompt that is chosen.")
    target: float = hyperparameter(0.5, low=0, high=1, help="τ: the chance of success that is looked for.")
    explore: float = hyperparameter(
        0.0,
        low=0,
        high=1,
        help="Share of the prompts taken from the candidates at random, which corrects a wrong V.",
    )
    value_speed: float = hyperparameter(10.0, above=0, help="Learning rate of V as a multiple of the policy's.")
    norm_std: bool = hyperparameter(False, help="Divide by the group's standard deviation, as GRPO does.")
    sampler: str = hyperparameter("uniform", choices=("uniform",), help="Must be uniform: V chooses among candidates.")
    informative: float = hyperparameter(0.0, low=0, high=0, help="Must be 0: V chooses the prompts.")

    def objective(self) -> PolicyObjective:
        plain = super().objective()
        return dataclasses.replace(plain, advantage=group_standardized(1e-6)) if self.norm_std else plain

    def memory(self, model: LanguageModel, task: Task) -> dict[str, Tensor]:
        if model.sharded:
            raise UsageError(
                "PCL: sharding='full' is not allowed: its value model has a copy of the weights that learn; use "
                "sharding='none', with lora=16 if memory is short."
            )
        vector = initial(model)
        return {"value": vector, **Adam.start(vector)._asdict()}

    def collect(self, iteration: Iteration) -> Rollout:
        pool = iteration.choose(self.candidates * self.prompts).tolist()
        pool = torch.tensor([*dict.fromkeys(pool)])  # a small set was passed through more than once
        prompts = [iteration.task.example(int(i)).prompt for i in pool]
        vector = iteration.progress.memory["value"].to(iteration.model.device)
        value = values(iteration.model, vector, prompts, self.micro_tokens)
        chosen = nearest(value, self.target, self.prompts, round(self.explore * self.prompts))
        rollout = iteration.write(pool[chosen])
        error = value[chosen] - in_unit("total", rollout.reward, "PCL").mean(1)
        noise = rollout.reward.var(1) / self.samples  # what no model of the prompt could predict
        seen = {"value": value[chosen], "candidates": value, "value_error": error**2, "reward_noise": noise}
        for name, x in seen.items():
            rollout.logged.add(name, x.tolist())
        return rollout

    def remember(self, rollout: Rollout, iteration: Iteration) -> Mapping[str, Tensor]:
        kept = {name: x.to(iteration.model.device) for name, x in rollout.progress.memory.items()}
        vector, adam = kept["value"], Adam(kept["mean"], kept["square"], kept["count"])
        prompts, solved = [e.prompt for e in rollout.examples], rollout.reward.mean(1)
        gradient = slope(iteration.model, vector, prompts, solved, self.micro_tokens)
        vector, adam = adam.step(vector, gradient, self.value_speed * rollout.progress.learning_rate)
        return {"value": vector, **adam._asdict()}

    def steps(self) -> list[str]:
        write, learn = super().steps()
        some = f", {self.explore:.0%} of them at random" if self.explore else ""
        return [
            f"of {self.candidates * self.prompts} candidates choose the {self.prompts} prompts with the smallest "
            f"|V − {self.target:g}|{some}",
            write,
            learn,
            f"one step of Adam on V, at {self.value_speed:g} times the learning rate: minimise mean (V − mean(R))² of "
            "these prompts",
        ]


def nearest(value: Float[Tensor, " candidates"], target: float, count: int, random: int = 0) -> Int[Tensor, " chosen"]:
    """The places, in order, of the first `random` candidates and of those nearest to the target among the others,
    `count` in all. Of equally near ones the first are taken, which is at random if the order is."""
    distance = (value - target).abs()
    distance[:random] = -1
    return distance.argsort(stable=True)[:count].sort().values


METHOD = PCL
