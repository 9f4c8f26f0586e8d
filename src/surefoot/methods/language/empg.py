"""EMPG: the advantage of every step of an episode is scaled by how sure the agent was of it.

    Â(i,t) = A(i)·g(i,t) + ζ·f(i,t) − mean       g = exp(−k·h)/mean exp(−k·h),   f = exp(−k'·h of the next step)

for step t of episode i, with h ∈ [0, 1] the mean entropy of the step's tokens between the least and the greatest of all
steps of the batch, and means over steps. With one reward at the end all steps of an episode have the same advantage,
but the gradient of a softmax grows with its entropy: E‖∇_z log π‖² = 1 − Σ π². Sure steps hardly move, unsure ones
dominate. Here sure steps are rewarded and punished harder, unsure ones less, and a step that leads to a sure one gets a
bonus. Use it for agents of many turns (`sf.language.Episodes`); a turn is a step, and so is a single completion. The
bonus is paid whatever the reward: where no episode is better than another, it alone is learned from.

Jiawei Wang et al., *Harnessing Uncertainty: Entropy-Modulated Policy Gradients for Long-Horizon LLM Agents* (2025),
arXiv:2509.09265. The base is GRPO; with `clip_high=0.28, informative=1` it has DAPO's clip and filter.

Differences: ζ = 0.05 is that of a public implementation of others, since the paper's own is not known to us. Entropies
are those of the policy that wrote, at its temperature, before the first step on the batch. What the environment says is
in no step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from surefoot.hyperparameters import hyperparameter
from surefoot.loops.group_rollout.method import Rollout
from surefoot.methods.language.baselines import GRPO

EPSILON = 1e-8  # added to the range of entropies


@dataclass(frozen=True)
class EMPG(GRPO):
    """GRPO on advantages that are modulated step by step."""

    judges: ClassVar[bool] = True

    sharpness: float = hyperparameter(1.0, low=0, help="k: how much more sure steps weigh than unsure ones, up to e^k.")
    clarity: float = hyperparameter(0.05, low=0, help="ζ: weight of the bonus for steps that lead to a sure one.")
    clarity_sharpness: float = hyperparameter(1.0, low=0, help="k': how fast that bonus falls with the next entropy.")

    def advantages(self, rollout: Rollout) -> Float[Tensor, "prompts samples length"]:
        assert rollout.judged is not None, "the loop judges what a method with `judges` learns from"
        valid = rollout.sequences.valid
        step = valid.long() - 1 if rollout.turn is None else torch.where(valid, rollout.turn, -1)
        entropy, exists = by_step(rollout.judged.entropy.double(), step)
        whole = super().advantages(rollout).flatten().double()
        found = modulated(whole, entropy, exists, self.sharpness, self.clarity, self.clarity_sharpness)
        each = torch.where(valid, found.gather(1, step.clamp(min=0)), 0.0)
        return each.float().unflatten(0, rollout.reward.shape)

    def steps(self) -> list[str]:
        write, learn = super().steps()
        return [
            write,
            "for every step (a turn of the model) let h be its mean token entropy, between 0 and 1 in the batch",
            f"Â ← Â·exp(−{self.sharpness:g}·h)/mean exp(−{self.sharpness:g}·h) + {self.clarity:g}·"
            f"exp(−{self.clarity_sharpness:g}·h of the next step), minus the mean over steps",
            learn,
        ]


def by_step(
    x: Float[Tensor, "rows length"], step: Int[Tensor, "rows length"]
) -> tuple[Float[Tensor, "rows steps"], Bool[Tensor, "rows steps"]]:
    """The mean over the tokens of every step, and which steps there are; tokens with step −1 are in none."""
    count = max(1, int(step.max()) + 1)
    inside = step >= 0
    place = torch.where(inside, step, count)  # one more column for what is in no step
    sums, tokens = (
        torch.zeros(len(x), count + 1, dtype=x.dtype).scatter_add(1, place, torch.where(inside, values, 0.0))[:, :-1]
        for values in (x, torch.ones_like(x))
    )
    return sums / tokens.clamp(min=1), tokens > 0


def modulated(
    advantage: Float[Tensor, " rows"],
    entropy: Float[Tensor, "rows steps"],
    exists: Bool[Tensor, "rows steps"],
    sharpness: float,
    clarity: float,
    clarity_sharpness: float,
) -> Float[Tensor, "rows steps"]:
    """The advantage of every step from that of its episode; its mean over the steps that exist is 0."""
    least, most = entropy[exists].min(), entropy[exists].max()
    h = (entropy - least) / (most - least + EPSILON)
    scale = torch.exp(-sharpness * h)
    followed = torch.cat([exists[:, 1:], torch.zeros_like(exists[:, :1])], 1)
    bonus = torch.where(followed, torch.exp(-clarity_sharpness * h).roll(-1, 1), 0.0)
    found = advantage[:, None] * scale / scale[exists].mean() + clarity * bonus
    return torch.where(exists, found - found[exists].mean(), 0.0)


METHOD = EMPG
