"""RLoop: explore by reinforcement learning, keep what succeeded on the way, imitate it from where exploring began.

    explore   DAPO from θ_i for some iterations; all its successes go into an archive, the weights are dropped
    exploit   θ_{i+1} = the policy θ_i after some passes of   maximise  mean over D[ mean_t log π(y_t) ]
              D: up to M different successes of every prompt that succeeded in at most a share p of its completions

In a long run the reward on training prompts goes on rising while answers that were found earlier are forgotten. The
archive has them still, and maximum likelihood covers all of them: it projects the mixture of all policies of the phase,
conditioned on success. So one gets the discoveries of RL without its collapse. Use it where the number of different
right answers (pass@k) or other skills must survive. A run may end anywhere: while it explores, the agent is DAPO's.

Zhiyuan Zeng et al., *RLoop: An Self-Improving Framework for Reinforcement Learning with Iterative Policy
Initialization* (2025), arXiv:2511.04285. The paper's schedule, threshold and cap are in no text at hand; those here are
ours, as is drawing from iterations evenly. Completions that were cut off are not kept: they never learned where to end.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from surefoot.envs.language import Task
from surefoot.errors import UsageError
from surefoot.hyperparameters import hyperparameter
from surefoot.loops.group_rollout.iteration import Iteration
from surefoot.loops.group_rollout.method import Term
from surefoot.loops.group_rollout.rollout import Rollout, unwritten
from surefoot.methods.language.baselines import DAPO
from surefoot.methods.language.rloop.archive import Archive
from surefoot.models.language.model import LanguageModel
from surefoot.objectives import PolicyObjective, aggregation, ratios, stabilizers
from surefoot.objectives.advantages import unit

Memory = Mapping[str, Tensor]
START = "start/"  # before the names of the weights that exploring began with


@dataclass(frozen=True)
class RLoop(DAPO):
    """DAPO that starts again and again from a policy which has imitated the successes of the phase before."""

    explore_steps: int = hyperparameter(60, low=1, help="Iterations of a phase of reinforcement learning.")
    exploit_epochs: int = hyperparameter(2, low=0, help="Passes over the successes in the phase of imitation.")
    hard: float = hyperparameter(
        0.5, above=0, high=1, help="Highest success rate of a prompt whose completions are imitated; 1: all are."
    )
    most: int = hyperparameter(4, low=1, help="Maximum number of completions imitated per prompt.")
    exploit_speed: float = hyperparameter(10.0, above=0, help="Learning rate of imitation as a multiple of the usual.")

    def imitation_objective(self) -> PolicyObjective:
        """Maximum likelihood, equal weight for every completion."""
        parts = {"advantage": unit(), "ratio": ratios.current(), "stabilizer": stabilizers.none()}
        return dataclasses.replace(self.objective(), **parts, aggregation=aggregation.per_sequence())

    def memory(self, model: LanguageModel, task: Task) -> dict[str, Tensor]:
        if model.sharded:
            raise UsageError(
                "RLoop: sharding='full' is not allowed: it keeps a copy of the weights that learn; use "
                "sharding='none', with lora=16 if memory is short."
            )
        return exploring({name: w.detach().float().clone() for name, w in model.parameters().items()})

    def speed(self, memory: Memory) -> float:
        return self.exploit_speed if len(memory["left"]) else 1.0

    def collect(self, iteration: Iteration) -> Rollout:
        if not len(iteration.progress.memory["left"]):
            return super().collect(iteration)
        return Rollout(**unwritten([], torch.zeros(0, dtype=torch.int64)), progress=iteration.progress)

    def terms(self, rollout: Rollout) -> list[Term]:
        memory = rollout.progress.memory
        rows = memory["left"][: self.prompts * self.samples]
        if not len(rows):
            return super().terms(rollout)
        archive = archived(memory)
        ones = torch.ones(len(rows))
        return [Term(archive.sequences[rows], ones, self.imitation_objective(), archive.prompt[rows], name="imitation")]

    def remember(self, rollout: Rollout, iteration: Iteration) -> Memory:
        memory = rollout.progress.memory
        start = {name.removeprefix(START): x for name, x in memory.items() if name.startswith(START)}
        if len(left := memory["left"]):
            left = left[self.prompts * self.samples :]
            if len(left):
                return {**memory, "left": left}
            start = iteration.weights()
            iteration.restart(start)  # its optimiser has seen imitation only
            return exploring(start)
        step = int(memory["explored"])
        archive = archived(memory).added(iteration.written, step)
        memory = {**memory, **archive._asdict(), "explored": torch.tensor(step + 1)}
        if step + 1 < self.explore_steps:
            return memory
        iteration.restart(start)
        stream = iteration.stream("archive", rollout.progress.step)
        rows = archive.chosen(self.hard, self.most, stream)
        passes = [rows[torch.randperm(len(rows), generator=stream)] for _ in range(self.exploit_epochs)]
        left = torch.cat([rows[:0], *passes])
        return {**memory, "left": left} if len(left) else exploring(start)

    def steps(self) -> list[str]:
        write, learn = super().steps()
        size = self.prompts * self.samples
        return [
            f"explore, {self.explore_steps} iterations: {write}; keep all that succeeded",
            learn,
            f"go back to the weights before; choose, of every prompt with a success rate up to {self.hard:g}, up to "
            f"{self.most} different successes from different iterations",
            f"exploit: {self.exploit_epochs} passes over them, {size} an iteration, at {self.exploit_speed:g} times "
            "the learning rate: minimise their mean NLL per token; explore again from there",
        ]


def exploring(start: Memory) -> dict[str, Tensor]:
    """The memory at the beginning of a phase that explores from these weights."""
    none = {"left": torch.zeros(0, dtype=torch.int64), "explored": torch.tensor(0)}
    return {**none, **Archive.empty()._asdict(), **{START + name: x for name, x in start.items()}}


def archived(memory: Memory) -> Archive:
    """The archive in a memory."""
    return Archive(*(memory[name] for name in Archive._fields))


METHOD = RLoop
