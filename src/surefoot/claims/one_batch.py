"""One synthetic batch, updated on for many epochs: how far does a method let the policy go, with no environment around?

2048 random states in R⁸, a Gaussian policy over R³, advantages standardised from Σ_j a_j·tanh(2 s_j) plus unit noise,
10 epochs of 32 minibatches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor

from surefoot.loops.common.optimizer import Adam
from surefoot.loops.on_policy.method import Batch, OnPolicy, gradient_step, pick
from surefoot.models.functional import Model, initial, over_seeds
from surefoot.objectives.advantages import standardize
from surefoot.seeding import torch_stream

SAMPLES, STATES, ACTIONS, EPOCHS, MINIBATCHES = 2048, 8, 3, 10, 32


def update_on_one_batch(method: OnPolicy, seeds: Sequence[int], radius: float) -> dict[str, list[float]]:
    """What the update did, one number a seed: mean |ρ−1|, the share of ratios farther than `radius` from 1, mean and
    largest exact KL over the states, and the surrogate's gain mean[ρÂ]."""
    spaces = gym.spaces.Box(-10, 10, (STATES,)), gym.spaces.Box(-10, 10, (ACTIONS,))
    model = Model(method.network().make(*spaces))
    vector = torch.stack([initial(lambda: method.network().make(*spaces), torch_stream(s, "weights")) for s in seeds])
    batch = _stack([_batch(model, v, seed) for v, seed in zip(vector, seeds, strict=True)])
    extra = {name: torch.stack([x] * len(seeds)) for name, x in method.extra_state(model).items()}
    with torch.no_grad():
        _, metrics = method.loss(model, vector[0], pick(batch, 0), {k: x[0] for k, x in extra.items()})
    step = over_seeds(gradient_step(method, model, (*metrics, "grad_norm")), len(seeds), shared=1)
    adam, active, lr = Adam.start(vector), torch.ones(len(seeds)), torch.tensor(method.learning_rate)
    streams = [torch_stream(seed, "minibatches") for seed in seeds]
    with torch.no_grad():
        for _ in range(EPOCHS):
            order = torch.stack([torch.randperm(SAMPLES, generator=g) for g in streams])
            for index in order.split(SAMPLES // MINIBATCHES, 1):
                vector, adam, _ = step(vector, adam, active, index, extra, batch, lr)
        return _moved(model, vector, batch, radius)


def _batch(model: Model, vector: Tensor, seed: int) -> Batch:
    stream = torch_stream(seed, "batch")
    observation = torch.randn(SAMPLES, STATES, generator=stream)
    with torch.no_grad():
        params, value = model.evaluate(vector, {"observation": observation})
    action = model.distribution.sample(params, model.distribution.noise((SAMPLES,), stream))
    reward = (action * torch.tanh(2 * observation[:, :ACTIONS])).sum(-1) + torch.randn(SAMPLES, generator=stream)
    return {
        "observation": observation,
        "action": action,
        "old_params": params,
        "old_log_prob": model.distribution.log_prob(params, action),
        "old_value": value,
        "advantage": standardize(reward),
        "target": value,
        "valid": torch.ones(SAMPLES, dtype=torch.bool),
    }


def _moved(model: Model, vector: Tensor, batch: Batch, radius: float) -> dict[str, list[float]]:
    params, _ = over_seeds(model.evaluate, len(vector))(vector, batch)
    log_prob = model.distribution.log_prob(params, batch["action"])
    ratio = torch.exp(log_prob - batch["old_log_prob"])
    kl = model.distribution.kl(batch["old_params"], params)
    facts: dict[str, Any] = {
        "ratio_deviation": (ratio - 1).abs().mean(1),
        "outside": ((ratio - 1).abs() > radius).float().mean(1),
        "kl": kl.mean(1),
        "largest_kl": kl.max(1).values,
        "gain": (ratio * batch["advantage"]).mean(1),
    }
    return {name: x.tolist() for name, x in facts.items()}


def _stack(batches: Sequence[Batch]) -> Batch:
    return {key: torch.stack([b[key] for b in batches]) for key in batches[0]}
