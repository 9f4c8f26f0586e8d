"""One run of a method on groups of completions: generate, reward, compare, learn, repeat.

A step of the run is one iteration. All randomness comes from streams named by the seed and a counter, so a resumed run
generates what it would have generated without interruption. Each of several processes generates and learns from its
share; all of them know the whole batch, so they take the same step as a single process would.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from surefoot.envs.language import Example, Task
from surefoot.errors import UsageError
from surefoot.loops.common import distributed
from surefoot.loops.common.distributed import Row
from surefoot.loops.common.logs import JsonLines
from surefoot.loops.common.schedule import scheduled
from surefoot.loops.group_rollout import guard
from surefoot.loops.group_rollout.estimator import PULL, LanguageEstimator
from surefoot.loops.group_rollout.iteration import Iteration
from surefoot.loops.group_rollout.lengths import check_length, fits, fitting
from surefoot.loops.group_rollout.method import Batch, GroupRollout, Term
from surefoot.loops.group_rollout.prompts import Solved, choose
from surefoot.loops.group_rollout.rewards import Rewards
from surefoot.loops.group_rollout.rollout import Progress, Rollout, measured, sample, shown
from surefoot.loops.group_rollout.separable import check_loss
from surefoot.loops.group_rollout.writing import Writer
from surefoot.models.language import quantized
from surefoot.models.language.agent import LanguageAgent
from surefoot.models.language.generation import WHOLE, Engine
from surefoot.models.language.model import LanguageModel
from surefoot.models.language.reward_model import RewardModel
from surefoot.models.language.sampling import Sampling
from surefoot.seeding import torch_stream

MAX_SKIPPED = 1000  # consecutive prompts that may be too long for the model
LARGEST_GAP = 1.0  # mean difference in nats between engine and model that rounding can explain


class LanguageLearner:
    """A model, its optimiser and its prompts; `iterate()` advances it by one batch of completions."""

    def __init__(
        self,
        method: GroupRollout,
        model: LanguageModel,
        task: Task,
        rewards: Rewards,
        engine: Engine,
        *,
        seed: int = 0,
        total_steps: int = 200,
        learning_rate: float = 1e-6,
        stop: Sequence[str] = (),
        sampling: Sampling = WHOLE,
        sharding: str = "none",
        optimizer: str = "adamw",
        patience: int | None = guard.PATIENCE,
        run: Path | None = None,
        log_completions: int = 0,
    ) -> None:
        if method.prompts < distributed.world_size():
            raise UsageError(
                f"prompts={method.prompts} is not enough for {distributed.world_size()} processes; each needs one."
            )
        self.method, self.task = method, task
        self.seeds, self.total_steps, self.learning_rate, self.stop = [seed], total_steps, learning_rate, tuple(stop)
        self.iteration = self.drawn = self.batches = 0
        self.solved = None if task.size is None else Solved.start(task.size)
        self.patience, self.run, self.log_completions = patience, run, log_completions
        self.diary: JsonLines | None = None  # of completions; opened in the first iteration, which may be a resumed one
        self.watch = guard.Watch.start()
        self.learned = 0  # iterations up to the last one in which there was something to learn from
        self.skipped = 0  # prompts that were too long
        self.checked = False  # whether the method's loss was checked
        # Whether the engine was found to generate with the model's weights; truncated distributions differ in any case.
        self.trusted = not sampling.whole
        with torch.random.fork_rng(devices=[]):  # what a method adds to the model is drawn from the run's seed
            torch.manual_seed(seed)
            method.prepare(model)
        distributed.agree(model.parameters().values())
        if method.refers:
            model.keep_reference()
        if model.adapted and model.reference is not None and sharding == "full":
            raise UsageError("sharding='full' is not allowed with kl above 0 and an adapter that is already trained.")
        if sharding == "full" and distributed.world_size() > 1:
            from surefoot.loops.group_rollout.sharding import shard  # it loads parts of torch, which takes seconds

            model = shard(model)
        self.model = model
        self.writer = Writer(model, engine, rewards, self.stop, sampling)
        self.short = fitting(model, task, method)
        self.memory: Mapping[str, Tensor] = method.memory(model, task)
        self.estimator = LanguageEstimator(method, model)
        self.weights = model.parameters()
        # A step is smaller than the spacing of half-precision numbers, so it is taken on a copy in float32.
        self.masters = {
            name: w if w.dtype == torch.float32 else torch.nn.Parameter(w.detach().float())
            for name, w in self.weights.items()
        }
        self.optimizer = quantized.optimizer(optimizer, self.masters.values(), learning_rate, method.weight_decay)

    @property
    def steps(self) -> int:
        """Iterations so far."""
        return self.iteration

    @property
    def progress(self) -> Progress:
        """Where the run is, and the method's memory."""
        return Progress(self.iteration, self.total_steps, self._learning_rate(), self.memory)

    # --- one iteration -----------------------------------------------------------------------------------------------

    def iterate(self) -> list[dict[str, Any]]:
        """Generate, reward and learn once; returns one row of metrics."""
        iteration = Iteration(self)
        rollout, row = self.collect(iteration)
        rollout = self.estimator.judged(rollout)
        terms = self.method.terms(rollout)
        self._check_advantages(terms, rollout)
        guard.check_learnable(self, terms, rollout)
        guard.before(self, iteration)
        learned = {"skipped": self.skipped} | self.update(terms)
        learned |= guard.after(self, iteration, learned)
        self.memory = self.method.remember(rollout, iteration)
        self.iteration += 1
        self._note(rollout)
        return [{**row, **learned, **sample(rollout)}]

    def _note(self, rollout: Rollout) -> None:
        """Write some of the completions into `completions.jsonl`."""
        if self.run is None or not self.log_completions or distributed.rank():
            return
        self.diary = self.diary or JsonLines(self.run / "completions.jsonl", self.iteration - 1)
        counters = {"iteration": self.iteration, "step": self.iteration, "seed": self.seeds[0]}
        self.diary([counters | row for row in shown(rollout, self.log_completions)])

    def collect(self, iteration: Iteration | None = None) -> tuple[Rollout, Row]:
        """The rollout to learn from, and metrics of all completions generated for it."""
        iteration = iteration or Iteration(self)
        rollout = self.method.collect(iteration)
        return rollout, measured(iteration.written)

    def next_prompts(self, count: int) -> Tensor:
        """The numbers of the next `count` prompts; those that are too long for the model are skipped."""
        method, found, left = self.method, list[int](), MAX_SKIPPED
        while len(found) < count:
            wanted = count - len(found)
            index = choose(method.sampler, wanted, self.seeds[0], self.drawn, self.task.size, self.solved)
            self.drawn += wanted
            short = [int(i) for i in index if self.short(int(i))]
            self.skipped += wanted - len(short)
            left = MAX_SKIPPED if short else left - wanted
            if left <= 0:
                check_length(self.model, self.task.example(int(index[-1])), method, f"{self.task}: ")
            found += short
        return torch.tensor(found)

    def fits(self, example: Example) -> bool:
        """Whether an example is short enough for the model."""
        return fits(self.model, example, self.method)

    def write(self, index: Tensor, examples: Sequence[Example] | None = None) -> Rollout:
        """Completions of the examples with these numbers, or of the given ones in their place, and their rewards."""
        own = [self.task.example(int(i)) for i in index] if examples is None else list(examples)
        rollout = self.complete(index, own, self.method.samples, self.method.temperature)
        if self.solved is not None and examples is None:  # rewards of other prompts say nothing about the task's
            self.solved = self.solved.update(index, rollout.reward)
        return rollout

    def complete(self, index: Tensor, examples: list[Example], samples: int, temperature: float) -> Rollout:
        """Completions of examples, and their rewards; 0 is the temperature of the likeliest one."""
        if (missing := distributed.world_size() - len(examples)) > 0:  # every process writes at least one
            padded = [*examples, *examples[:1] * missing]
            found = self.complete(torch.cat([index, index[:1].expand(missing)]), padded, samples, temperature)
            return found.prompts(torch.arange(len(examples)))
        batch, size = self.batches, (len(examples), samples, self.method.max_tokens)
        self.batches += 1

        def uniform(turn: int) -> Tensor:
            name = f"completions, turn {turn}" if turn else "completions"
            return torch.rand(size, generator=torch_stream(self.seeds[0], name, batch))

        return self.writer(index, examples, uniform, temperature=temperature, progress=self.progress)

    def _check_advantages(self, terms: list[Term], rollout: Rollout) -> None:
        if all(bool(term.advantage.isfinite().all()) for term in terms):
            return
        raise UsageError(
            f"The advantages of iteration {self.iteration} are not finite: its rewards are between "
            f"{float(rollout.reward.min()):.3g} and {float(rollout.reward.max()):.3g}; rescale them, such as to [0, 1]."
        )

    # --- learning ----------------------------------------------------------------------------------------------------

    def update(self, terms: list[Term]) -> Row:
        """The optimiser steps on a rollout; returns the means of their metrics."""
        method, rows = self.method, list[Row]()
        if not terms:
            return {}
        again = method.epochs * method.minibatches > 1
        terms = [term.standardized() for term in terms]
        batches = [self.estimator.batch(term, again) for term in terms]
        if not self.checked:
            judged = None if self.model.critic is None else self.model.critic.outputs
            self.checked = check_loss(method, terms, batches, self.model.device, judged)
        groups = torch.cat([term.group for term in terms]).unique()
        stream = torch_stream(self.seeds[0], "minibatches", self.iteration)
        for _ in range(method.epochs):
            order = groups[torch.randperm(len(groups), generator=stream)]
            for chosen in order.tensor_split(min(method.minibatches, len(groups))):
                rows.append(self.step(terms, batches, chosen, len(groups) / len(chosen)))
        names = {name for row in rows for name in row}
        return {n: sum(r[n] for r in rows if n in r) / sum(n in r for r in rows) for n in sorted(names)}

    def step(self, terms: list[Term], batches: list[Batch], groups: Tensor, scale: float) -> Row:
        """One step on the rows of some groups; `scale` compensates for the omitted groups."""
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        self._clear_gradients()
        row, pull = Row(), 0.0
        for term, batch in zip(terms, batches, strict=True):
            mine = torch.isin(batch.group, groups).nonzero().squeeze(-1)
            if not len(mine):
                continue
            sequences = term.sequences[mine]
            part = dataclasses.replace(batch[mine], weights=scale * batch.weights[mine])
            found = self.estimator.backward(term, part.trimmed(sequences.tokens.shape[1]), sequences)
            pull = max(pull, found.pop(PULL, 0.0))
            row |= {f"{term.name}/{name}" if term.name else name: value for name, value in found.items()}
        self._check_engine(row)
        self._gather_gradients()
        limit = self.method.max_grad_norm
        norm = torch.nn.utils.clip_grad_norm_(self.masters.values(), torch.inf if limit is None else limit)
        norm = distributed.whole(norm)
        if not bool(torch.isfinite(norm)):
            raise UsageError(
                f"The gradient of iteration {self.iteration} is not finite; a smaller learning_rate helps, or "
                "dtype='bfloat16' instead of float16, whose largest number is 65504."
            )
        if not norm and pull:
            raise UsageError(
                f"The loss of iteration {self.iteration} should move the model, but its gradient is 0 in all weights "
                f"that learn ({', '.join([*self.weights][:2])}, …): its outputs do not depend on them. Use "
                "a kind of adapter that changes the model's layers, such as LoRA."
            )
        self.optimizer.step()
        for name, weight in self.weights.items():
            if self.masters[name] is not weight:
                weight.data.copy_(self.masters[name].data)
        return {**row, "grad_norm": float(norm), "learning_rate": self.optimizer.param_groups[0]["lr"]}

    def _check_engine(self, row: Row) -> None:
        """Raise `UsageError` unless engine and model give the generated tokens nearly the same likelihoods."""
        if self.trusted or "engine_gap" not in row:
            return
        if not row["engine_gap"] <= LARGEST_GAP:
            raise UsageError(
                f"The engine did not generate with the model's weights: it finds the tokens that it generated "
                f"{row['engine_gap']:.2g} nats more or less likely than the model does, on average ({LARGEST_GAP:g} is "
                "allowed). Check the transfer of the weights, or use engine='own'."
            )
        self.trusted = True

    def gradient(self, terms: list[Term]) -> dict[str, Tensor]:
        """The gradient of the loss of some terms, all rows at once, by the name of the weight."""
        self._clear_gradients()
        for term in [term.standardized() for term in terms]:
            self.estimator.backward(term, self.estimator.batch(term, False), term.sequences)
        self._gather_gradients()
        found = {n: torch.zeros_like(w) if w.grad is None else w.grad.clone() for n, w in self.masters.items()}
        self._clear_gradients()
        return found

    def _clear_gradients(self) -> None:
        for weight in (*self.masters.values(), *self.weights.values()):
            weight.grad = None

    def _gather_gradients(self) -> None:
        """Add up the gradients of all processes, on the copies of the weights that are learned, without the scale."""
        if not self.model.sharded:  # a sharded model's passes have summed them
            distributed.add_gradients(self.weights.values())
        for name, weight in self.weights.items():
            if self.masters[name] is not weight and weight.grad is not None:
                self.masters[name].grad, weight.grad = weight.grad.float(), None
        if self.model.gradient_scale != 1:
            for weight in self.masters.values():
                weight.grad = None if weight.grad is None else weight.grad / self.model.gradient_scale

    def restart(self, weights: Mapping[str, Tensor]) -> None:
        """Go on from these weights, with a fresh optimiser."""
        for name, weight in self.masters.items():
            weight.data.copy_(weights[name])
            self.weights[name].data.copy_(weight.data)
        self.optimizer.state.clear()

    def _learning_rate(self) -> float:
        method, rate = self.method, self.learning_rate * self.method.speed(self.memory)
        return scheduled(rate, method.anneal, method.warmup, self.iteration, 1, self.total_steps)

    # --- checkpoints and agents --------------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """Weights, optimiser, prompts and counters as tensors by name, in process 0; to be called in all processes."""
        state = {"counters": torch.tensor([self.drawn, self.batches, self.learned, self.skipped])}
        if self.solved is not None:
            state |= {f"prompts/{name}": x for name, x in self.solved._asdict().items()}
        state |= {f"memory/{name}": x for name, x in self.memory.items()}
        state |= {f"watch/{name}": x for name, x in self.watch._asdict().items()}
        for name, weight in self.masters.items():
            state[f"weights/{name}"] = weight.detach()
            for kind, x in sorted(self.optimizer.state.get(weight, {}).items()):  # every process gathers in one order
                state[f"adam/{kind}/{name}"] = torch.as_tensor(x)
        whole = ((name, distributed.whole(x)) for name, x in state.items())
        return {name: x.cpu().clone() for name, x in whole if distributed.rank() == 0}

    def load(self, state: Mapping[str, Tensor], iteration: int, logged: int) -> None:
        """Load a saved state.

        Raises:
            UsageError: it belongs to another model, adapter or task.
        """
        mine = {f"weights/{name}": w.shape for name, w in self.weights.items()}
        other = {name: x.shape for name, x in state.items() if name.startswith("weights/")}
        if wrong := sorted(n for n in mine.keys() | other.keys() if mine.get(n) != other.get(n)):
            raise UsageError(
                f"the checkpoint does not fit this model: {', '.join(wrong[:3])} differ ({len(wrong)} tensors do). "
                "Resume with the model and adapter named in the run's config.json."
            )
        if self.solved is not None and (begun := len(state["prompts/mean"])) != self.task.size:
            raise UsageError(
                f"{self.task} has {self.task.size} training rows now, and had {begun} when the run began; restore "
                "the original rows, or start a new run."
            )
        self.iteration = iteration
        self.drawn, self.batches, *others = state["counters"].tolist()
        # Older runs have a flag in its place: whether there was ever something to learn from.
        self.learned, self.skipped = others if len(others) == 2 else (iteration * others[0], 0)
        if self.solved is not None:
            self.solved = Solved(*(state[f"prompts/{name}"].clone() for name in Solved._fields))
        if "watch/recent" in state:  # older runs were not watched
            self.watch = guard.Watch(*(state[f"watch/{name}"].clone() for name in guard.Watch._fields))
        self.memory = {n.removeprefix("memory/"): x.clone() for n, x in state.items() if n.startswith("memory/")}
        kept: dict[str, dict[str, Tensor]] = {}
        for _, kind, name in (key.split("/", 2) for key in state if key.startswith("adam/")):
            kept.setdefault(name, {})[kind] = state[f"adam/{kind}/{name}"]
        moments: dict[int, dict[str, Tensor | int]] = {}
        for i, (name, weight) in enumerate(self.masters.items()):
            weight.data.copy_(distributed.part(state[f"weights/{name}"], weight))
            self.weights[name].data.copy_(weight.data)
            for kind, x in kept.get(name, {}).items():
                moments.setdefault(i, {})[kind] = self._moment(kind, x.clone(), weight)
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})

    def _moment(self, kind: str, x: Tensor, weight: Tensor) -> Tensor | int:
        """What the optimiser keeps of a weight, as it keeps it: moments are sharded like the weight, counts are not."""
        if kind.startswith("exp_avg"):
            return distributed.part(x, weight)
        return int(x) if kind == "step" and not x.is_floating_point() else x

    def agent(self, index: int = 0, **facts: Any) -> LanguageAgent | RewardModel:
        """The current model with its sampling settings, or the reward model that it is."""
        settings = {"max_tokens": self.method.max_tokens, "temperature": self.method.temperature}
        settings |= {"stop": list(self.stop), "sampling": self.writer.sampling.named()}
        return self.method.agent(self.model.whole(), settings, facts)

    def lost(self) -> list[int]:
        """The seed, if a weight is not finite."""
        finite = [distributed.whole(torch.isfinite(w).all()) for w in self.weights.values()]
        return [] if all(map(bool, finite)) else self.seeds

    def flush(self) -> int:
        """Nothing is logged besides the checkpoints."""
        return 0

    def close(self) -> None:
        """Close `completions.jsonl`."""
        if self.diary is not None:
            self.diary.close()
