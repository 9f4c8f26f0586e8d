"""The gradient of an expectation over what was drawn, where nothing else is known of the reward: learned augmentations,
noise and other samplers of inputs.

    ∇ E_a r(a, x) = E (r − b(x))·∇ log p(a | x),   b(x) the mean over the draws for the same x

The draws for one x are a group, as the answers to one prompt are. A group of T that contains the draw itself shrinks
the gradient by (T − 1)/T.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def over_group(rewards: Float[Tensor, "draws ..."]) -> Float[Tensor, "draws ..."]:
    """Rewards less the mean over the draws for the same input. One draw has no other to be compared with, so that its
    advantage is 0."""
    return rewards - rewards.mean(0, keepdim=True)


def score_function_loss(log_probs: Float[Tensor, "draws ..."], advantages: Float[Tensor, "draws ..."]) -> Tensor:
    """The loss whose descent raises the expected reward: minus the mean of advantage·log p. The advantages are held
    constant."""
    return -(advantages.detach() * log_probs).mean()
