"""Robust behaviour cloning: a median-of-means tournament between a policy and a rival.

    min_π max_π'  median_j (l_j(π) − l_j(π'))        l_j(π) = mean over the b rows of block j of ‖π(s) − a‖²/dim

Use it to clone demonstrations of which a share ε is arbitrary, where nothing says which, and no reward or environment
helps. Behaviour cloning is a mean, which a few far rows move anywhere. Here rows are put into M blocks at random, and
policy and rival both take a step on the one block whose difference of losses is the median. With b·ε ≤ 1/3 more than
two thirds of the blocks are expected to be clean, (1 − ε)^b ≥ 1 − b·ε, so wrong blocks lie above or below the median.
Differences, not losses, since some clean states are harder than others.

Liu Liu et al., *Robust Imitation Learning from Corrupted Demonstrations* (2022), arXiv:2201.12594.

Differences: the paper puts all data into blocks and steps on one; here a batch holds R rounds of M blocks, each with a
median of its own, and the step is on the mean of these R blocks, since one block of about three rows is a noisy
gradient. With few blocks most of a round may be wrong by chance (at ε = 0.1, b = 3, about 7 % of rounds of 9 blocks and
0.3 % of those of 31), so M is 31. Rows are drawn with replacement. The loss is that of a Gaussian policy of fixed
deviation, up to a factor that changes no median. Networks, Adam and its schedule are ours: its own were not at hand.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import gymnasium as gym
from jaxtyping import Float, Int
from torch import Tensor

from surefoot.errors import UsageError
from surefoot.hyperparameters import Choices, Range, hyperparameter
from surefoot.loops.common.schedule import annealing
from surefoot.loops.networks.nets import Batch, Net, Weights
from surefoot.methods.offline.baselines import BC

LARGEST = 1 / 3  # of b·ε
ROUNDING = 1e-9


def in_blocks(losses: Float[Tensor, "rows"], blocks: int, size: int) -> Float[Tensor, "rounds blocks"]:
    """The mean loss of every block, in as many whole rounds as there are rows for."""
    rounds = len(losses) // (blocks * size)
    return losses[: rounds * blocks * size].view(rounds, blocks, size).mean(-1)


def median_block(differences: Float[Tensor, "rounds blocks"]) -> Int[Tensor, "rounds 1"]:
    """The block of each round whose difference is the median, the lower of two: a block, not a mean of blocks."""
    return differences.median(-1, keepdim=True).indices


@dataclass(frozen=True)
class RobustImitation(BC):
    """Behaviour cloning that ignores a share of wrong demonstrations, by a median-of-means tournament."""

    default_steps: ClassVar[int] = 100_000  # of large batches

    contamination: float = hyperparameter(
        0.1,
        above=0,
        high=LARGEST,
        help="Bound ε on the share of wrong rows.",
        tune=Range(0.01, 0.3, log=True),
    )
    block: int | None = hyperparameter(
        None, low=1, help="Rows b of a block, at most 1/(3ε), which is taken if none is given."
    )
    blocks: int = hyperparameter(
        31, low=1, help="Blocks M of a round, an odd number; 1 is plain cloning.", tune=Choices((9, 15, 31, 61))
    )
    batch_size: int = hyperparameter(2232, low=1, help="Rows drawn per gradient step: R rounds of M blocks of b rows.")
    learning_rate: float = hyperparameter(
        1e-3, above=0, help="Adam's learning rate of both players.", tune=Range(1e-5, 1e-2, log=True)
    )
    anneal: str = annealing("cosine")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size * self.contamination > LARGEST + ROUNDING:
            most = replace(self, block=None).size
            raise UsageError(
                f"block={self.block} is not allowed with contamination={self.contamination:g}: too many blocks would "
                f"hold a wrong row for their median to be clean. block·contamination may be 1/3 at most: give "
                f"block={most} or fewer, or contamination={LARGEST / self.size:.3g} or less if the data are that clean."
            )
        if self.blocks % 2 == 0:
            raise UsageError(f"blocks={self.blocks} has no middle one; give an odd number, such as {self.blocks + 1}.")
        if not self.rounds:
            raise UsageError(
                f"batch_size={self.batch_size} holds no round of {self.blocks} blocks of {self.size}; give "
                f"batch_size={self.blocks * self.size} or more, or fewer blocks."
            )

    @property
    def size(self) -> int:
        """Rows b of a block."""
        return int(LARGEST / self.contamination + ROUNDING) if self.block is None else self.block

    @property
    def rounds(self) -> int:
        """Rounds R of a batch; rows beyond them are left out."""
        return self.batch_size // (self.blocks * self.size)

    def networks(self, observation_space: gym.Space, action_space: gym.Space) -> dict[str, Net]:
        (actor,) = super().networks(observation_space, action_space).values()
        return {"actor": actor, "rival": replace(actor, loss=self.rival_loss)}

    def by_block(self, action: Tensor, batch: Batch) -> Float[Tensor, "rounds blocks"]:
        """The losses of blocks for the actions of a policy."""
        return in_blocks(((action - batch["action"]) ** 2).mean(-1), self.blocks, self.size)

    def learned_from(self, w: Weights, batch: Batch) -> tuple[Tensor, Tensor]:
        """The median block of every round `[rounds, 1]` and its difference, with both players as before the step."""
        seen = batch["observation"]
        apart = self.by_block(w.before("actor", seen), batch) - self.by_block(w.before("rival", seen), batch)
        index = median_block(apart)
        return index, apart.gather(-1, index)

    def actor_loss(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The policy's loss on the median blocks, a mean over rounds."""
        index, apart = self.learned_from(w, batch)
        loss = self.by_block(w("actor", batch["observation"]), batch).gather(-1, index).mean()
        return loss, {"actor_loss": loss.detach(), "median_difference": apart.mean()}

    def rival_loss(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The rival's loss on the same blocks: to raise the difference is to lower this."""
        index, _ = self.learned_from(w, batch)
        loss = self.by_block(w("rival", batch["observation"]), batch).gather(-1, index).mean()
        return loss, {"rival_loss": loss.detach()}

    def objective(self) -> str:
        median = (
            "actor: mean over rounds of l_j(π),  j = argmedian_j (l_j(π) − l_j(rival))\nrival: the same of l_j(rival)"
        )
        return f"{median};  l_j(π) = mean of (π(s) − a)² over the {self.size} rows of block j"

    def steps(self) -> list[str]:
        (actor,) = super().steps()
        return [
            f"put them into {self.rounds} rounds of {self.blocks} blocks of {self.size}; find the median block of each",
            f"{actor}, on the median blocks",
            f"rival: one step of Adam({self.learning_rate:g}) on the same blocks",
        ]


METHOD = RobustImitation
