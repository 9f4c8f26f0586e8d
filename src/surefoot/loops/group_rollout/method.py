"""The base of methods on groups of completions: several per prompt, rewarded and compared with one another.

`GroupRollout` has the hyperparameters that all of them share and the steps that a method may replace. A method learns
from a list of `Term`s, each with its own objective: usually one, the completions; a method that also imitates
demonstrations has two. Tokens are `[batch, length]` (see `models.language.sequences`), groups `[prompts, samples]`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from surefoot.envs.language import Example, Task
from surefoot.errors import UsageError
from surefoot.hyperparameters import Choices, Range, check, hyperparameter
from surefoot.loops.common.schedule import annealing, warming
from surefoot.loops.group_rollout.iteration import Iteration, until_informative
from surefoot.loops.group_rollout.rewards import Rewards
from surefoot.loops.group_rollout.rollout import Rollout
from surefoot.models.language.agent import LanguageAgent
from surefoot.models.language.model import LanguageModel, TokenStatistics
from surefoot.models.language.sequences import Sequences
from surefoot.objectives import PolicyObjective, advantages, ratios, stabilizers
from surefoot.objectives.advantages import standardize
from surefoot.objectives.aggregation import mean
from surefoot.objectives.divergences import k3, k3_weighted

Metrics = dict[str, Tensor]


@dataclass(frozen=True)
class Term:
    """Sequences to learn from, and their objective."""

    sequences: Sequences
    advantage: Float[Tensor, "rows *length"]  # per row, or per token
    objective: PolicyObjective
    group: Int[Tensor, " rows"]  # the rows of a group are in the same minibatch
    name: str = ""  # prefix of the names of its metrics
    coefficient: float = 1.0
    sampled: Float[Tensor, "rows length"] | None = None  # log-probabilities of the engine, if it generated the rows
    extra: dict[str, Tensor] = field(default_factory=dict)  # more data per row or token, for a loss that needs it
    judged: TokenStatistics | None = None  # of the model before the update, if already computed
    kept: Bool[Tensor, "rows length"] | None = None  # the valid tokens to learn from, if not all; others are only read

    def __getitem__(self, rows: Int[Tensor, " some"]) -> Term:
        """Some of the rows, trimmed to the longest of them; the term then has no others."""
        sequences = self.sequences[rows]
        width, changed = sequences.tokens.shape[1], dict[str, Any]()
        for name in ("advantage", "group", "sampled", "kept"):
            if (x := getattr(self, name)) is not None:
                changed[name] = x[rows, :width] if x.ndim > 1 else x[rows]
        changed["extra"] = {name: x[rows, :width] if x.ndim > 1 else x[rows] for name, x in self.extra.items()}
        if self.judged is not None:
            changed["judged"] = self.judged.each(lambda x: x[rows, :width])
        return dataclasses.replace(self, sequences=sequences, **changed)

    def standardized(self) -> Term:
        """The term with the advantages of all its tokens standardised, if its objective asks for that: once, before the
        rows are divided among minibatches, pieces and processes."""
        if not self.objective.standardize:
            return self
        valid = self.sequences.valid
        each = standardize(per_token(self.advantage, valid).double(), valid).float()
        return dataclasses.replace(
            self, advantage=each, objective=dataclasses.replace(self.objective, standardize=False)
        )


def per_token(advantage: Float[Tensor, "rows *length"], valid: Bool[Tensor, "rows length"]) -> Tensor:
    """The advantage of every token, `[rows, length]`, from advantages per row or per token."""
    return advantage if advantage.ndim == 2 else advantage[:, None].expand(valid.shape)


@dataclass(frozen=True)
class Batch:
    """The rows of a term as inputs of its loss, `[rows, length]` each, without gradients."""

    valid: Bool[Tensor, "rows length"]
    old_log_prob: Float[Tensor, "rows length"]
    advantage: Float[Tensor, "rows length"]
    weights: Float[Tensor, "rows length"]  # for the aggregation over all rows of the term
    reference: Float[Tensor, "rows length"] | None
    group: Int[Tensor, " rows"]
    extra: dict[str, Tensor]
    sampled: Float[Tensor, "rows length"] | None = None  # by the engine, if it generated the rows
    now: TokenStatistics | None = None  # of the model in this step, with gradients; the estimator adds them

    def __getitem__(self, rows: Tensor) -> Batch:
        """Some of the rows."""
        return self._each(lambda x: x[rows])

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        return self._each(lambda x: x.to(device))

    def trimmed(self, length: int) -> Batch:
        """The first `length` tokens of every row."""
        return self._each(lambda x: x[:, :length] if x.ndim > 1 else x)

    def padded(self) -> Batch:
        """The batch with one more token, not valid, at the end of every row."""
        return self._each(lambda x: torch.nn.functional.pad(x, (0, 1)) if x.ndim > 1 else x)

    def _each(self, function: Callable[[Tensor], Tensor]) -> Batch:
        changed: dict[str, Any] = {"extra": {name: function(x) for name, x in self.extra.items()}}
        for field_ in dataclasses.fields(self):
            if isinstance(x := getattr(self, field_.name), Tensor):
                changed[field_.name] = function(x)
        return dataclasses.replace(self, **changed)


@dataclass(frozen=True)
class GroupRollout:
    """The base of every method on groups of completions. Steps that a method may replace, from small to large:
    `objective`, `advantages`, `terms`, `loss`, `collect`; with a critic `prepare` and `critic_loss` too, and `memory`
    and `remember` if it keeps something from one iteration to the next (`rollout.progress` has it)."""

    loop: ClassVar[str] = "group-rollout"
    pace: ClassVar[int] = 1
    default_steps: ClassVar[int] = 200
    separable: ClassVar[bool] = True  # the loss of a batch is the sum of its units' losses; checked when a run starts
    unit: ClassVar[int] = 1  # rows of a unit, adjacent in a term: 2 for a loss of pairs
    imitates: ClassVar[bool] = False  # whether it learns from demonstrations
    compares: ClassVar[bool] = False  # whether it learns which of two answers was chosen
    weighs: ClassVar[bool] = True  # whether reward functions are weighted
    acts: ClassVar[bool] = True  # whether what it trains writes; a reward model scores what others write
    judged_by: ClassVar[int] = 1  # the fewest reward functions that it needs
    judges: ClassVar[bool] = False  # whether it reads `rollout.judged`, the model's statistics before the update

    prompts: int = hyperparameter(16, low=1, help="Prompts per step.")
    samples: int = hyperparameter(8, low=1, help="Completions per prompt.", tune=Choices((4, 8, 16)))
    max_tokens: int = hyperparameter(64, low=1, help="Maximum number of tokens per completion.")
    temperature: float = hyperparameter(
        1.0, above=0, help="Sampling temperature; likelihoods are computed at the same temperature."
    )
    epochs: int = hyperparameter(1, low=1, help="Passes over each batch of completions.")
    minibatches: int = hyperparameter(1, low=1, help="Optimiser steps per pass.")
    learning_rate: float | None = hyperparameter(
        None,
        above=0,
        help="AdamW's learning rate; by default 1e-6, with LoRA 1e-5, for nano 3e-4.",
        tune=Range(1e-7, 1e-3, log=True),
    )
    warmup: int = warming("iterations")
    anneal: str = annealing()
    weight_decay: float = hyperparameter(0.0, low=0, help="AdamW's weight decay.")
    max_grad_norm: float | None = hyperparameter(1.0, above=0, help="Maximum gradient norm.")
    kl: float = hyperparameter(
        0.0, low=0, help="Weight of the KL divergence from the reference, the model before training."
    )
    kl_estimator: str = hyperparameter(
        "k3",
        choices=("k3", "weighted"),
        help="KL estimator: k3 as in the GRPO paper, or weighted by the ratio, which is also unbiased off-policy.",
    )
    entropy: float = hyperparameter(
        0.0,
        help="Weight of the entropy bonus; aggregated over tokens as the objective is (a sum in RLOO, a mean in DAPO).",
    )
    informative: float = hyperparameter(
        0.0, low=0, high=1, help="Minimum share of prompts whose rewards differ; below it, more prompts are sampled."
    )
    resamples: int = hyperparameter(20, low=1, help="Maximum number of batches sampled per step.")
    sampler: str = hyperparameter(
        "uniform", choices=("uniform", "hard", "soft", "medium"), help="How prompts are chosen from a finite set."
    )
    mask_truncated: bool = hyperparameter(
        False, help="Do not learn from completions that were cut off; in their group they count all the same."
    )
    correction: str = hyperparameter(
        "none",
        choices=("none", "truncate", "mask"),
        help="Importance correction where engine and model give a token different likelihoods.",
    )
    correction_cap: float = hyperparameter(2.0, above=0, help="Maximum weight of that correction.")
    micro_tokens: int | None = hyperparameter(
        8192, low=1, help="Tokens (padding included) processed at a time; the gradient does not depend on it."
    )

    def __post_init__(self) -> None:
        check(self)
        if self.mask_truncated and not self.samples:
            raise UsageError(f"mask_truncated=True has no effect: {type(self).__name__} writes no completions.")

    @property
    def refers(self) -> bool:
        """Whether the model before training is kept as the reference."""
        return self.kl > 0

    @property
    def likeliest(self) -> int:
        """How many of the likeliest tokens `rollout.judged` has in the place of every token, with the last hidden state
        there; 0: neither."""
        return 0

    @property
    def reads(self) -> bool:
        """Whether it learns from the scored completions of the data, and neither generates nor imitates any."""
        return not self.samples and not self.imitates

    def learned(self, example: Example) -> list[tuple[Any, str]]:
        """What the method learns from an example: prompts and texts, each of which must fit the model together."""
        if self.reads:
            return [(example.prompt, text) for text, _ in example.scored]
        shown = example.demonstration if self.imitates else None
        return [] if shown is None else [(example.prompt, shown)]

    # --- what is collected and kept ----------------------------------------------------------------------------------

    def collect(self, iteration: Iteration) -> Rollout:
        """The completions to learn from: those of the next prompts; with `informative`, prompts are sampled until
        enough of them have completions whose rewards differ."""
        if not self.informative:
            return iteration.write(iteration.choose(self.prompts))
        return until_informative(iteration, self.prompts, self.informative, self.resamples)

    def memory(self, model: LanguageModel, task: Task) -> dict[str, Tensor]:
        """The tensors by name that the method keeps from one iteration to the next, as they are when a run starts.
        Checkpoints contain them."""
        return {}

    def remember(self, rollout: Rollout, iteration: Iteration) -> Mapping[str, Tensor]:
        """The method's memory after an iteration; called when the weights have been updated."""
        return rollout.progress.memory

    def speed(self, memory: Mapping[str, Tensor]) -> float:
        """The factor of the learning rate in the next iteration, which may depend on the memory."""
        return 1.0

    # --- what is optimised -------------------------------------------------------------------------------------------

    def prepare(self, model: LanguageModel) -> None:
        """Called once before training; gives the model a critic if the method needs one."""
        model.critic = None

    def objective(self) -> PolicyObjective:
        """The objective of the completions."""
        raise NotImplementedError

    def advantages(self, rollout: Rollout) -> Float[Tensor, "prompts samples *length"]:
        """How much better each completion, or each token, is than expected."""
        return self.objective().advantage(rollout.reward)

    def terms(self, rollout: Rollout) -> list[Term]:
        """The terms to learn from. If there are none, the step is skipped."""
        return [self.completions(rollout)]

    def completions(self, rollout: Rollout, **changes: Any) -> Term:
        """The completions as a term of the objective."""
        prompts, samples = rollout.reward.shape
        group = torch.arange(prompts).repeat_interleave(samples)
        advantage = self.advantages(rollout).flatten(0, 1)
        known = {"sampled": rollout.log_prob, "judged": rollout.judged}
        term = dataclasses.replace(Term(rollout.sequences, advantage, self.objective(), group, **known), **changes)
        if not self.mask_truncated:
            return term
        kept = term.sequences.valid if term.kept is None else term.kept
        return dataclasses.replace(term, kept=kept & ~rollout.truncated.flatten()[:, None])

    def imitation(self, rollout: Rollout, keep: Tensor | None = None, **changes: Any) -> Term:
        """The demonstrations (of the prompts selected by a mask) as a maximum-likelihood term.

        Raises:
            UsageError: the task has no demonstrations.
        """
        if rollout.demonstrations is None:
            self.check_demonstration(rollout.examples[0])
        assert rollout.demonstrations is not None, "all examples of a task have one, or none has"
        group = torch.arange(len(rollout.index)) if keep is None else keep.nonzero().squeeze(-1)
        objective = PolicyObjective(advantages.unit(), ratios.current(), stabilizers.none(), aggregation=mean())
        term = Term(rollout.demonstrations[group], torch.ones(len(group)), objective, group, name="imitation")
        return dataclasses.replace(term, **changes)

    def loss(
        self, objective: PolicyObjective, batch: Batch, log_prob: Tensor, entropy: Tensor
    ) -> tuple[Float[Tensor, ""], Metrics]:
        """The loss of some rows, differentiated with respect to `log_prob` and `entropy` `[rows, length]`, or to any of
        the statistics `batch.now`, and metrics, which are weighted sums as well (`…_max`: maxima).

        It is called with some rows at a time, so it must be a sum over rows (over units of `unit` adjacent rows) and
        valid tokens, weighted by `batch.weights`; a mean over rows, or anything else in which rows depend on one
        another, needs `separable = False` in the class.
        """
        divergence = None if batch.reference is None else k3(batch.reference - log_prob)
        if batch.reference is not None and self.kl_estimator == "weighted":
            divergence = k3_weighted(batch.reference - log_prob, log_prob - batch.old_log_prob)
        return objective.loss(
            log_prob,
            batch.old_log_prob,
            batch.advantage,
            valid=batch.valid,
            entropy=entropy,
            divergence=divergence,
            weights=batch.weights,
        )

    def critic_loss(self, batch: Batch, value: Tensor) -> tuple[Float[Tensor, ""], Metrics]:
        """The term added to the loss of some rows if the model has a critic; differentiated with respect to its `value`
        `[rows, length]`. Like `loss`, a sum over the rows if that is `separable`."""
        return torch.zeros(()), {}

    # --- what is kept -------------------------------------------------------------------------------------------------

    def agent(self, model: LanguageModel, settings: Mapping[str, Any], facts: Mapping[str, Any]) -> Any:
        """The agent of a model, with the settings of its sampling and facts about its run."""
        return LanguageAgent(model, {**settings, **facts})

    # --- for running a method ----------------------------------------------------------------------------------------

    def check_task(self, task: Task) -> None:
        """Called before anything is loaded; raises `UsageError` if the task lacks what the method needs."""
        if self.imitates:
            self.check_demonstration(task.example(0))

    def check_rewards(self, rewards: Rewards) -> None:
        """Called before a model is loaded; raises `UsageError` for rewards that the method cannot learn from."""

    def check_demonstration(self, example: Example) -> None:
        """Raise `UsageError` for an example without a demonstration."""
        if example.demonstration is None:
            raise UsageError(
                f"{type(self).__name__} learns from demonstrations, but the task has none for {example.prompt!r}; give "
                'data with a column "demonstration".'
            )

    def steps(self) -> list[str]:
        """One iteration in words, for `explain`: one line per step."""
        again = (
            f", repeated until {self.informative:g} of the prompts have rewards that differ" if self.informative else ""
        )
        limit = "" if self.max_grad_norm is None else f" on the gradient clipped to norm {self.max_grad_norm:g}"
        return [
            f"generate {self.samples} completions for each of {self.prompts} prompts at temperature "
            f"{self.temperature:g}{again}; reward them",
            f"{self.epochs} × {self.minibatches} steps of AdamW{limit}: minimise −objective"
            + (" of the completions that ended" if self.mask_truncated else ""),
        ]

    def algorithm(self) -> list[str]:
        """The lines of `explain`."""
        return self.steps()

    def scheduled(self) -> list[str]:
        """The hyperparameters that follow the length of the run."""
        return [] if self.anneal == "none" else ["anneal"]

    def gradient_steps(self, total_steps: int) -> float:
        """Gradient steps that a compiler could fuse: there are none."""
        return 0.0


def unit_batches(lengths: Int[Tensor, " rows"], tokens: int | None, unit: int) -> list[Tensor]:
    """`micro_batches` of units of adjacent rows, which stay together."""
    if unit == 1:
        return micro_batches(lengths, tokens)
    longest = lengths.view(-1, unit).amax(1)
    pieces = micro_batches(longest, None if tokens is None else max(1, tokens // unit))
    return [(unit * piece[:, None] + torch.arange(unit)).flatten() for piece in pieces]


def micro_batches(lengths: Int[Tensor, " rows"], tokens: int | None) -> list[Tensor]:
    """The rows in pieces of at most `tokens` tokens including padding (or of one longer row), short rows first."""
    if tokens is None:
        return [torch.arange(len(lengths))]
    order = lengths.argsort(stable=True)
    pieces, piece = [], list[int]()
    for row, length in zip(order.tolist(), lengths[order].tolist(), strict=True):
        if piece and (len(piece) + 1) * length > tokens:
            pieces.append(torch.tensor(piece))
            piece = []
        piece.append(row)
    return [*pieces, torch.tensor(piece)]
