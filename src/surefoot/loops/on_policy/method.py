"""The base of on-policy methods: hyperparameters, and the steps that a method may replace."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import gymnasium as gym
import torch
from torch import Tensor

from surefoot.envs.make import MOST
from surefoot.errors import UsageError
from surefoot.hyperparameters import Choices, Range, check, hyperparameter
from surefoot.loops.common.optimizer import Adam, clip_norm
from surefoot.loops.common.schedule import annealing, warming, words
from surefoot.loops.on_policy.objective import check_objective
from surefoot.models.agent import WIDEST, Network
from surefoot.models.distributions import Distribution
from surefoot.models.functional import Model
from surefoot.models.networks import ACTIVATIONS, CORES, ActorCritic
from surefoot.models.smoothing import Smoothing
from surefoot.objectives import PolicyObjective, values
from surefoot.objectives.advantages import Advantage, gae, standardize
from surefoot.objectives.values import ValueLoss
from surefoot.seeding import torch_stream

if TYPE_CHECKING:
    from surefoot.loops.on_policy.learner import Learner

Batch = dict[str, Any]
"""The samples of an update: observation, action, old_params, old_log_prob, old_value, advantage, target, valid, each
`[samples, ...]`; for a recurrent network `[time, samples, ...]` with starts, and state `[samples, width]`."""

MULTIPLIER_FLOOR = 1e-8


@dataclass(frozen=True)
class OnPolicy:
    """The base of every on-policy method. Steps that a method may replace, from small to large: `objective`,
    `value_loss`, `loss`, `after_step`, `after_epoch`, `after_update`, `update`, `iterate`."""

    loop: ClassVar[str] = "on-policy"
    default_steps: ClassVar[int] = 100_000
    without_effect: ClassVar[tuple[str, ...]] = ()  # hyperparameters of the base class that this method does not use
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}  # hyperparameters by the name of their source
    over_time: ClassVar[bool] = False  # networks of their own for every step of an episode

    num_envs: int = hyperparameter(8, low=1, high=MOST, help="Number of parallel environments.")
    num_steps: int = hyperparameter(
        256, low=1, high=2**24, help="Steps per environment and update.", tune=Choices((64, 128, 256, 512))
    )
    gamma: float = hyperparameter(
        0.99, low=0, high=1, help="Discount factor.", tune=Choices((0.95, 0.98, 0.99, 0.995, 0.999))
    )
    lam: float = hyperparameter(
        0.95, low=0, high=1, help="GAE's λ; 0 relies on the critic, 1 on returns.", tune=Range(0.8, 1.0)
    )
    learning_rate: float = hyperparameter(3e-4, above=0, help="Adam's learning rate.", tune=Range(1e-5, 1e-2, log=True))
    anneal: str = annealing()
    warmup: int = warming("steps of the environment")
    epochs: int = hyperparameter(10, low=1, help="Passes over each batch.", tune=Range(1, 20))
    minibatch_size: int = hyperparameter(
        64, low=1, help="Samples per gradient step; must divide the batch size.", tune=Choices((32, 64, 128, 256))
    )
    standardize: bool = hyperparameter(True, help="Standardise advantages.")
    standardize_over: str = hyperparameter(
        "minibatch", choices=("minibatch", "batch"), help="Samples over which advantages are standardised."
    )
    entropy: float = hyperparameter(0.0, low=0, help="Weight of the entropy bonus.", tune=Range(1e-6, 0.1, log=True))
    value_coefficient: float = hyperparameter(0.5, low=0, help="Weight of the critic's loss.")
    value_clip: float | None = hyperparameter(
        None, above=0, help="Clip range of the change in value; None for no clipping."
    )
    max_grad_norm: float | None = hyperparameter(
        0.5, above=0, help="Maximum gradient norm.", tune=Choices((0.3, 0.5, 1.0, 2.0, None))
    )
    target_kl: float | None = hyperparameter(
        None, above=0, help="Stop the epochs once the mean KL divergence exceeds this."
    )
    normalize_observations: bool = hyperparameter(
        True, help="Normalise observations by their running mean and standard deviation."
    )
    normalize_rewards: bool = hyperparameter(
        True, help="Divide rewards by the running standard deviation of the discounted return."
    )
    hidden: tuple[int, ...] = hyperparameter((64, 64), low=1, high=WIDEST, help="Sizes of the hidden layers.")
    critic_hidden: tuple[int, ...] | None = hyperparameter(
        None, low=1, high=WIDEST, help="Critic's hidden sizes, if different."
    )
    activation: str = hyperparameter("tanh", choices=tuple(ACTIVATIONS), help="Activation between linear layers.")
    cnn: str = hyperparameter("nature", choices=("nature", "impala"), help="Image encoder.")
    core: str | None = hyperparameter(None, choices=tuple(CORES), help="Recurrent core, for partially observed tasks.")
    core_size: int = hyperparameter(64, low=1, high=WIDEST, help="Units of the recurrent core.")
    shared: bool = hyperparameter(False, help="Share one encoder between actor and critic.")
    log_std_init: float = hyperparameter(0.0, help="Initial log standard deviation of a Gaussian policy.")
    squash: bool = hyperparameter(False, help="Squash a Gaussian policy's actions into the action box by tanh.")
    parts: PolicyObjective | None = hyperparameter(None, help="Objective in place of the method's own.")

    def __post_init__(self) -> None:
        check(self)
        check_objective(self)
        if "minibatch_size" not in self.without_effect:
            self._check_minibatches()

    def _check_minibatches(self) -> None:
        if self.core is None and (self.num_envs * self.num_steps) % self.minibatch_size:
            batch = self.num_envs * self.num_steps
            raise UsageError(
                f"minibatch_size={self.minibatch_size} does not divide the batch size num_envs × num_steps = "
                f"{self.num_envs} × {self.num_steps} = {batch}; use a divisor "
                f"such as {_divisor(batch, self.minibatch_size)}."
            )
        if self.standardize and self.standardize_over == "minibatch" and self.core is None and self.minibatch_size == 1:
            raise UsageError(
                "minibatch_size=1 is not allowed with standardize=True: an advantage minus its own mean is 0, so "
                "nothing would be learned. Use a larger minibatch_size, standardize_over='batch' or standardize=False."
            )

    def network(self) -> Network:
        """The network described by these settings."""
        return Network(**{f.name: getattr(self, f.name) for f in dataclasses.fields(Network)})

    @property
    def smoothing(self) -> float:
        """Standard deviation of the noise that the agent adds to its observations, in training and ever after."""
        return 0.0

    rule: ClassVar[Smoothing | None] = None  # how the agent acts on several noisy copies of an observation, if it does

    def module(self, network: Network, observation_space: gym.Space, action_space: gym.Space) -> ActorCritic:
        """The actor-critic that learns."""
        return network.make(observation_space, action_space)

    def perception(
        self, observation_space: gym.Space, shape: tuple[int, ...], generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Random numbers `[*shape, ...]` with which the actor sees observations, by name. They are drawn for every
        action and anew in every epoch, and its module finds them among the entries of the observation."""
        return {}

    # --- what is optimised -------------------------------------------------------------------------------------------

    def objective(self) -> PolicyObjective:
        """What the policy maximises, including the advantage and its standardisation; nothing else defines them.

        A method returns `self.parts or PolicyObjective(…)`, so that a user's objective can take the place of its own.
        """
        raise NotImplementedError

    def target(self) -> Advantage:
        """The critic's regression target minus its old value."""
        return gae(self.gamma, self.lam)

    def estimates(self, reward: Tensor, **signals: Tensor) -> tuple[Tensor, Tensor]:
        """Advantages, and the critic's targets minus its old values, both of the shape of `reward`."""
        part, target = self.objective().advantage, self.target()
        advantage = part(reward, **signals)
        return advantage, advantage if target == part else target(reward, **signals)

    def divergence_weight(self, extra: dict[str, Tensor]) -> Tensor | None:
        """The weight of the divergence, if it changes during the run instead of being the objective's own."""
        return extra.get("divergence_weight")

    def value_loss(self) -> ValueLoss:
        """The critic's loss."""
        return values.within(self.value_clip)

    def policy_loss(
        self, model: Model, params: Tensor, batch: Batch, extra: dict[str, Tensor], *, standardized: bool = False
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of the policy with these distribution parameters, and its metrics: the negated objective. If the
        batch's advantages are `standardized` already, the objective does not standardise them again."""
        objective, distribution, weight = self.objective(), model.distribution, self.divergence_weight(extra)
        objective = dataclasses.replace(objective, standardize=objective.standardize and not standardized)
        penalized = objective.divergence > 0 or weight is not None
        return objective.loss(
            distribution.log_prob(params, batch["action"]),
            batch["old_log_prob"],
            batch["advantage"],
            valid=batch["valid"],
            entropy=distribution.entropy(params),
            divergence=distribution.kl(batch["old_params"], params) if penalized else None,
            divergence_weight=weight,
        )

    def critic_loss(self, value: Tensor, batch: Batch) -> Tensor:
        """The critic's loss, aggregated like the policy's."""
        error = self.value_loss()(value, batch["target"], batch["old_value"])
        return self.objective().aggregation(error, batch["valid"])

    def loss(
        self, model: Model, vector: Tensor, batch: Batch, extra: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of one minibatch of one seed, and its metrics; differentiated with respect to `vector`."""
        params, value = model.evaluate(vector, batch)
        loss, metrics = self.policy_loss(model, params, batch, extra, standardized=self.standardize_over == "batch")
        value_loss = self.critic_loss(value, batch)
        return loss + self.value_coefficient * value_loss, {**metrics, "value_loss": value_loss.detach()}

    # --- training ----------------------------------------------------------------------------------------------------

    def multipliers(self, distribution: Distribution) -> dict[str, float]:
        """Initial values of positive numbers learned with the weights: `multipliers.<name>` in `model.unflatten`. A
        step never reduces them below `MULTIPLIER_FLOOR`."""
        return {}

    def extra_state(self, model: Model) -> dict[str, Tensor]:
        """The state of the method for one seed besides weights and Adam's moments, as tensors by name."""
        return {}

    def after_step(self, learner: Learner, step: Tensor, names: list[str]) -> None:
        """Called after every gradient step with its metrics `[seeds, names]`; may change `learner.extra`."""

    def after_epoch(self, learner: Learner, batch: Batch, start: Tensor) -> dict[str, Tensor]:
        """Called after every epoch, `start` being the weights before the update; may change weights, optimiser and
        `learner.extra`. Returns more metrics, `[seeds]` each, to be averaged over the epochs."""
        return {}

    def after_update(self, learner: Learner, batch: Batch) -> dict[str, Tensor]:
        """Called after the last epoch; may change `learner.extra`. Returns more metrics, `[seeds]` each."""
        return {}

    def update(self, learner: Learner, batch: Batch) -> dict[str, Tensor]:
        """Epochs of minibatch gradient steps on all seeds at once. Metrics are means over the steps, `[seeds]` each."""
        if self.objective().standardize and self.standardize_over == "batch":
            batch = {**batch, "advantage": torch.vmap(standardize)(batch["advantage"], batch["valid"])}
        seeds, samples = learner.num_seeds, learner.samples(batch)
        size = self.minibatch_size if self.core is None else min(samples, max(1, self.minibatch_size // self.num_steps))
        minibatches = samples // size  # for sequences, the remainder of an epoch's order is unused
        streams = [torch_stream(seed, "minibatches", learner.iteration) for seed in learner.seeds]
        active = torch.ones(seeds)
        total, count, names = torch.zeros(()), torch.zeros(seeds, 1), learner.metric_names(batch)
        start, epochs = learner.vector, []
        for number in range(self.epochs):
            batch = learner.perceived(batch, number)
            order = torch.stack([torch.randperm(samples, generator=g) for g in streams])
            epoch = torch.zeros(seeds, len(names))
            for index in order[:, : minibatches * size].split(size, 1):
                step = learner.gradient_step(active, batch, index)
                self.after_step(learner, step, names)
                epoch = epoch + step
            epochs.append(self.after_epoch(learner, batch, start))
            total, count = total + epoch * active.unsqueeze(-1), count + active.unsqueeze(-1) * minibatches
            if self.target_kl is not None:
                kl = epoch[:, names.index("kl")] / minibatches
                active = active * (kl <= self.target_kl)
                if not active.any():
                    break
        metrics = dict(zip(names, (total / count).unbind(-1), strict=True))
        metrics["explained_variance"] = learner.explained_variance(batch)
        metrics |= {name: torch.stack([epoch[name] for epoch in epochs]).mean(0) for name in epochs[0]}
        return {**metrics, **self.after_update(learner, batch)}

    @property
    def pace(self) -> int:
        """Environment steps per iteration."""
        return self.num_envs * self.num_steps

    def scheduled(self) -> list[str]:
        """The hyperparameters that follow the length of the run."""
        return [] if self.anneal == "none" else ["anneal"]

    def gradient_steps(self, total_steps: int) -> float:
        """The number of gradient steps in a run."""
        return total_steps * self.epochs / self.minibatch_size

    def algorithm(self) -> list[str]:
        """The loop of this method, for `explain`; a method that replaces the steps describes its own."""
        collect = f"collect {self.num_envs} envs × {self.num_steps} steps = {self.pace} with the current policy"
        lines = [collect, f"Â = {self.objective().advantage};  G = V + {self.target()}", *self.steps()]
        if self.normalize_observations or self.normalize_rewards:
            parts = (("observation", self.normalize_observations), ("reward", self.normalize_rewards))
            which = " and ".join(name for name, on in parts if on)
            lines.append(f"update the running {which} statistics with the batch")
        return lines

    def steps(self) -> list[str]:
        """The update in words, for `explain`: one line per step."""
        where = "within the minibatch" if self.standardize_over == "minibatch" else "over the batch"
        standard = f"with Â standardised {where}, " if self.objective().standardize else ""
        return self.minibatch_steps(f"{standard}−objective + {self.value_coefficient:g}·mean {self.value_loss()}")

    def minibatch_steps(self, loss: str) -> list[str]:
        """Epochs of minibatch steps on a loss, in words."""
        limit = "" if self.max_grad_norm is None else f" on the gradient clipped to norm {self.max_grad_norm:g}"
        stop = "" if self.target_kl is None else f"; stop when the mean KL exceeds {self.target_kl:g}"
        anneal = words(self.anneal, self.warmup)
        return [
            f"for {self.epochs} epochs over shuffled minibatches of {self.minibatch_size}: minimise {loss}",
            f"    by Adam({self.learning_rate:g}{anneal}){limit}{stop}",
        ]

    def iterate(self, learner: Learner) -> dict[str, Tensor]:
        """One iteration: collect, estimate, update."""
        return self.update(learner, learner.estimate(learner.collect(learner.vector)))


def gradient_step(method: OnPolicy, model: Model, names: tuple[str, ...], epsilon: float = 1e-5) -> Any:
    """One Adam step of one seed as a pure function
    `(vector, adam, active, index, extra, batch, lr) -> (vector, adam, metrics)` on the samples `index` of the batch.

    Where `active` is 0 nothing moves. Metrics are one vector in the order of `names`.
    """

    def loss(vector: Tensor, batch: Batch, extra: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        return method.loss(model, vector, batch, extra)

    gradient_of = torch.func.grad(loss, has_aux=True)
    own = int((~model.mask(lambda name: name.startswith("multipliers."))).sum())  # the multipliers come after these

    def step(
        vector: Tensor,
        adam: Adam,
        active: Tensor,
        index: Tensor,
        extra: dict[str, Tensor],
        batch: Batch,
        lr: Tensor,
    ) -> tuple[Tensor, Adam, Tensor]:
        gradient, metrics = gradient_of(vector, take(batch, index), extra)
        gradient, metrics["grad_norm"] = clip_norm(gradient, method.max_grad_norm)
        moved, averages = adam.step(vector, gradient, lr, epsilon)
        if own < len(moved):
            moved = torch.cat([moved[:own], moved[own:].clamp(min=MULTIPLIER_FLOOR)])
        moving = active > 0
        kept = Adam(*(torch.where(moving, new, old) for new, old in zip(averages, adam, strict=True)))
        return torch.where(moving, moved, vector), kept, torch.stack([metrics[name] for name in names])

    return step


def in_turn(function: Any, learner: Learner, batch: Batch) -> dict[str, Tensor]:
    """For updates that are not a plain gradient step: `function(learner, vector, adam, extra, batch, seed_index)` for
    one seed after another, returning `(vector, adam, extra, metrics)`; the results are stored in the learner."""
    results = []
    for index in range(learner.num_seeds):
        adam = Adam(*(x[index] for x in learner.adam))
        extra = {name: x[index] for name, x in learner.extra.items()}
        results.append(function(learner, learner.vector[index], adam, extra, pick(batch, index), index))
    vectors, adams, extras, metrics = zip(*results, strict=True)
    learner.vector = torch.stack(vectors)
    learner.adam = Adam(*(torch.stack(parts) for parts in zip(*adams, strict=True)))
    learner.extra = _stack(extras)
    return _stack(metrics)


def take(batch: Batch, index: Tensor) -> Batch:
    """The samples `index` of a batch of one seed."""
    recurrent = "state" in batch

    def one(key: str, x: Any) -> Any:
        if isinstance(x, Mapping):
            return {name: one(key, part) for name, part in x.items()}
        return x[:, index] if recurrent and key != "state" else x[index]

    return {key: one(key, x) for key, x in batch.items()}


def pick(batch: Mapping[str, Any], index: int) -> Batch:
    """The batch of one seed."""
    return {k: pick(x, index) if isinstance(x, Mapping) else x[index] for k, x in batch.items()}


def _stack(rows: tuple[dict[str, Any], ...]) -> dict[str, Tensor]:
    return {name: torch.stack([torch.as_tensor(row[name]) for row in rows]) for name in rows[0]}


def _divisor(batch: int, near: int) -> int:
    small = [d for d in range(1, math.isqrt(batch) + 1) if batch % d == 0]
    return min([*small, *(batch // d for d in small)], key=lambda d: (abs(d - near), d))
