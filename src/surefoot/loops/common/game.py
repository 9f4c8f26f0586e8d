"""What games against an adversary have in common, whatever learns in them: what the adversary controls, and how
much."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from surefoot.envs.adversary_game import in_adversary_game
from surefoot.hyperparameters import hyperparameter

PROTAGONIST, ADVERSARY = "protagonist", "adversary"


@dataclass(frozen=True)
class AgainstAdversary:
    """Hyperparameters of a zero-sum game in the environment `envs.adversary_game.AdversaryGame`."""

    adversary: str = hyperparameter(
        "force",
        help="What the adversary controls: force, up to 5 N on the bodies of the paper, or the random choices of a "
        "perturbation: force:3,body=torso, action-mix:0.1, action-random:0.1, action-noise:0.1,law=linf, rrls:2d.",
    )
    notes: ClassVar[int] = 0  # numbers that the players are told at every step, logged with their actions

    fraction: float = hyperparameter(0.25, low=0, high=1, help="Share of its range that the adversary has in training.")

    def training_env(self, env: Any, **options: Any) -> tuple[Any, dict[str, Any]]:
        """The environment with both players' actions, and the options with which it is made."""
        return in_adversary_game(env, self.adversary, self.fraction, options, self.notes)


def opponents(learner: Any, index: int = 0, **facts: Any) -> dict[str, Any]:
    """The agents of the other players of a learner's game, by name; none where there is no game."""
    found = getattr(learner, "opponents", None)
    return {} if found is None else found(index, **facts)
