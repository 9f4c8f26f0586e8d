"""A bandit that shows the sampling error of adaptive sampling exactly: KL(π_D ‖ π) by counts.

4 contexts and 4 actions; the policies are softmax tables. Draws of all arms use the same contexts, the same drift of the
policy and the same noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from surefoot.claims.parts import Measurements, Summary
from surefoot.loops.on_policy.method import Batch
from surefoot.methods.control.props import PROPS
from surefoot.methods.control.props.adaptive_sampling import AdaptiveSampling, tabular_sampling_error
from surefoot.models.distributions import Categorical
from surefoot.models.functional import Model
from surefoot.seeding import torch_stream

CONTEXTS, ACTIONS, REFRESH = 4, 4, 8
DRAWS, LOOKS = 256, (32, 64, 128, 256)
MOVING_BATCHES, MOVING_DRAWS, DRIFT = 32, 64, 0.1
SAMPLING = PROPS(behaviour_learning_rate=0.05, behaviour_clip=0.3, behaviour_max_kl=0.03, behaviour_regularizer=0.1)


class Table(nn.Module):
    """A softmax policy with a logit for every context and action, in the form of an actor-critic."""

    distribution = Categorical((ACTIONS,))

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(CONTEXTS, ACTIONS))

    def forward(self, context: Tensor, state: None = None, starts: None = None) -> tuple[Tensor, Tensor, None]:
        return self.logits[context], torch.zeros(context.shape), None


TABLE = Model(Table())
Sampler = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From the target's logits `[seeds, contexts, actions]` and the contexts and actions held `[seeds, held]` to the
logits of the behaviour policy."""


def table_batch(logits: Tensor, context: Tensor, action: Tensor) -> Batch:
    """Contexts and actions `[seeds, held]` as a batch of the target policy."""
    params = torch.stack([table[rows] for table, rows in zip(logits, context, strict=True)])
    log_prob = TABLE.distribution.log_prob(params, action)
    valid = torch.ones(action.shape, dtype=torch.bool)
    return {
        "observation": context,
        "action": action,
        "old_params": params,
        "old_log_prob": log_prob,
        "valid": valid,
    }


def adaptive(sampling: AdaptiveSampling, steps: int) -> Sampler:
    """So many steps on the whole data."""

    def sampler(logits: Tensor, context: Tensor, action: Tensor) -> Tensor:
        everything = torch.arange(context.shape[1]).expand(context.shape)
        behaviour = sampling(TABLE, logits.flatten(1), table_batch(logits, context, action), [everything] * steps)
        return behaviour.vector.view_as(logits)

    return sampler


def matching(logits: Tensor, context: Tensor, action: Tensor) -> Tensor:
    """Always the action that the data lack most: what no smooth policy can do better."""
    held = counts(context, action)
    lack = logits.softmax(-1) * (held.sum(-1, keepdim=True) + 1) - held
    return one_hot(lack.argmax(-1), ACTIONS).log()


def counts(context: Tensor, action: Tensor) -> Tensor:
    """How often each context and action stand in the data, `[seeds, contexts, actions]`."""
    return one_hot(context * ACTIONS + action, CONTEXTS * ACTIONS).sum(1).unflatten(1, (CONTEXTS, ACTIONS)).float()


SAMPLERS: dict[str, tuple[int, Sampler]] = {
    "on-policy": (REFRESH, lambda logits, context, action: logits),
    "props": (REFRESH, adaptive(SAMPLING.sampling(), SAMPLING.behaviour_epochs)),
    "ros": (1, adaptive(AdaptiveSampling.ros(10.0), 1)),
    "matching": (1, matching),
}


@dataclass(frozen=True)
class Draws:
    """What an arm drew, and the target's logits in each batch."""

    logits: Tensor  # [batches, seeds, contexts, actions]
    context: Tensor  # [seeds, batches · size]
    action: Tensor  # [seeds, batches · size]

    def error(self, first: int, last: int, batch: int) -> Tensor:
        """Sampling error of a stretch of the draws for the target policy of a batch, one number a seed."""
        held = counts(self.context[:, first:last], self.action[:, first:last])
        return tabular_sampling_error(held, self.logits[batch].log_softmax(-1))


def draw(seeds: Sequence[int], arm: str, batches: int, size: int, keep: int) -> Draws:
    """Batches of draws; the policy drifts between them, and the behaviour policy knows the last `keep` of them, the one
    that is being drawn included."""
    refresh, sampler = SAMPLERS[arm]
    streams = [torch_stream(seed, "bandit") for seed in seeds]
    policy = torch.stack([torch.randn(CONTEXTS, ACTIONS, generator=g) for g in streams])
    drift = DRIFT * torch.stack([torch.randn(batches - 1, CONTEXTS, ACTIONS, generator=g) for g in streams], 1)
    logits = torch.cat([policy[None], drift]).cumsum(0)
    context = torch.stack([torch.randint(CONTEXTS, (batches * size,), generator=g) for g in streams])
    noise = torch.stack([TABLE.distribution.noise((batches * size,), g) for g in streams])
    action, rows = torch.zeros_like(context), torch.arange(len(seeds)).unsqueeze(1)
    for t in range(0, batches * size, refresh):
        batch = t // size
        known, new = slice(max(0, batch + 1 - keep) * size, t), slice(t, t + refresh)
        target = logits[batch]
        behaviour = target if known.start == t else sampler(target, context[:, known], action[:, known])
        action[:, new] = TABLE.distribution.sample(behaviour[rows, context[:, new]], noise[:, new])
    return Draws(logits, context, action)


def fixed_policy(arm: str, seeds: Sequence[int]) -> dict[str, list[float]]:
    """The error of the first draws of a policy that stays as it is."""
    drawn = draw(seeds, arm, batches=1, size=DRAWS, keep=1)
    return {str(n): drawn.error(0, n, 0).tolist() for n in LOOKS}


def drifting_policy(arm: str, seeds: Sequence[int]) -> list[float]:
    """The error of the last two batches for the newest policy, over all batches but the first."""
    drawn = draw(seeds, arm, batches=MOVING_BATCHES, size=MOVING_DRAWS, keep=2)
    ends = [(batch, (batch + 1) * MOVING_DRAWS) for batch in range(1, MOVING_BATCHES)]
    return torch.stack([drawn.error(end - 2 * MOVING_DRAWS, end, batch) for batch, end in ends]).mean(0).tolist()


def of_fixed_policy(found: Measurements) -> Summary:
    """Errors by number of draws; for the policy's own also relative to what independent draws have in theory."""
    series = {f"{n}, {arm}": values for arm, looks in found.items() for n, values in looks.items()}
    theory = CONTEXTS * (ACTIONS - 1) / (2 * DRAWS)
    return {**series, "excess": np.array(series[f"{DRAWS}, on-policy"]) / theory - 1}
