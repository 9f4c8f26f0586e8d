"""A model of how likely the policy is to solve a prompt: the policy's network with weights of its own, and a linear
head on the last token of the prompt.

Its weights are one vector in float32, so that they can be the memory of a method: those of the network that learn (with
an adapter only the adapter's), then those of the head and its bias.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from surefoot.loops.group_rollout.method import micro_batches
from surefoot.models.language.model import LanguageModel


class PromptReader(nn.Module):
    """The last hidden state of every prompt, by the network of a model."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.model, self.network = model, model.network  # the network's weights are those of this module

    def forward(self, tokens: Tensor, last: Tensor) -> Float[Tensor, "prompts width"]:
        hidden = self.model.base.base_model(input_ids=tokens, use_cache=False).last_hidden_state
        return hidden[torch.arange(len(tokens), device=tokens.device), last]


def initial(model: LanguageModel) -> Float[Tensor, " size"]:
    """The policy's weights and a head of 0: every prompt has the value ½."""
    width = model.head()[0].shape[1]
    learned = [w.detach().flatten().float() for w in model.parameters().values()]
    return torch.cat([*learned, torch.zeros(width + 1, device=model.device)])


def values(
    model: LanguageModel, vector: Float[Tensor, " size"], prompts: Sequence[Any], tokens: int | None = None
) -> Float[Tensor, " prompts"]:
    """V of prompts, in (0, 1), without a gradient; at most `tokens` tokens are read at a time."""
    with torch.no_grad():
        encoded = model.encode(prompts)
        found = torch.zeros(len(encoded), device=model.device)
        for rows in _pieces(encoded, tokens):
            found[rows] = _logits(model, vector, [encoded[i] for i in rows]).sigmoid()
    return found.cpu()


def slope(
    model: LanguageModel,
    vector: Float[Tensor, " size"],
    prompts: Sequence[Any],
    target: Float[Tensor, " prompts"],
    tokens: int | None = None,
) -> Float[Tensor, " size"]:
    """The gradient of mean (V − target)² in the vector."""
    encoded, total = model.encode(prompts), torch.zeros_like(vector)
    for rows in _pieces(encoded, tokens):
        leaf = vector.detach().requires_grad_()
        value = _logits(model, leaf, [encoded[i] for i in rows]).sigmoid()
        loss = (value - target[rows].to(value.device)).square().sum() / len(encoded)
        total += torch.autograd.grad(loss, leaf)[0]
    return total


def _pieces(encoded: Sequence[Sequence[int]], tokens: int | None) -> list[list[int]]:
    return [rows.tolist() for rows in micro_batches(torch.tensor([len(row) for row in encoded]), tokens)]


def _logits(model: LanguageModel, vector: Tensor, encoded: Sequence[Sequence[int]]) -> Float[Tensor, " prompts"]:
    """The logits of V, by the model's network with the vector's weights."""
    learned = model.parameters()
    *parts, head, bias = vector.split([*(w.numel() for w in learned.values()), model.head()[0].shape[1], 1])
    weights = {
        f"network.{name}": part.view_as(w).to(w.dtype) for (name, w), part in zip(learned.items(), parts, strict=True)
    }
    last = torch.tensor([len(row) - 1 for row in encoded])
    tokens = torch.zeros(len(encoded), int(last.max()) + 1, dtype=torch.int64)
    for row, ids in zip(tokens, encoded, strict=True):
        row[: len(ids)] = torch.tensor(ids)
    with model.evaluating():
        hidden = functional_call(PromptReader(model), weights, (tokens.to(model.device), last.to(model.device)))
    return hidden.float() @ head + bias


def equivalent_rollouts(value: Float[Tensor, " prompts"], reward: Float[Tensor, "prompts samples"]) -> float:
    """The number of completions per prompt whose mean reward would predict the chance of success as well as V does; for
    rewards 0 and 1. With q the mean variance of a reward it is q/(mean (V − mean R)² − q/n)."""
    noise = reward.double().var(1).mean()
    error = (value - reward.double().mean(1)).square().mean() - noise / reward.shape[1]
    return float(noise / error)
