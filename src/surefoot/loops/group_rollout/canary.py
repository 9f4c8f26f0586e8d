"""The warning about a run with nothing to learn from, at its start or once its policy has collapsed."""

from __future__ import annotations

from pathlib import Path

from surefoot.loops.common import checkpoint
from surefoot.loops.group_rollout.rollout import Rollout


def nothing_to_learn(
    rollout: Rollout, silent: int, learned: int, learning_rate: float, max_tokens: int, run: Path | None
) -> str:
    """Why there was nothing to learn from in the last `silent` iterations, and what to do; `learned` is the number of
    iterations up to the last one in which there was something."""
    first = float(rollout.reward.flatten()[0])
    cause = f"every completion had the reward {first:g}"
    if bool((rollout.reward != first).any()):
        cause = "the completions of a prompt all had the same reward, or cancelled out"
    if bool(rollout.truncated.all()):
        cause += f", and every one was cut off after max_tokens={max_tokens}"
    return (
        f"There has been nothing to learn from in the {'last' if learned else 'first'} {silent} iterations: {cause}; "
        f"{_advice(rollout, learned, learning_rate, run)}. The last one was {rollout.texts[-1]!r}, for the prompt "
        f"{rollout.examples[-1].prompt!r}."
    )


def _advice(rollout: Rollout, learned: int, learning_rate: float, run: Path | None) -> str:
    if learned:
        earlier = [] if run is None else [place for place in checkpoint.found(run) if int(place.name) <= learned]
        before = f", whose last checkpoint here is {earlier[-1]}" if earlier else ""
        return (
            f"until iteration {learned}{before}, there was. The usual cause of such a collapse is "
            f"too large a learning_rate (it is {learning_rate:g}): start again with a smaller one"
        )
    if bool(rollout.truncated.all()):
        return "increase max_tokens, or set a stop string"
    return "use an easier task, a longer warm-up or more samples, and check the values of the reward function"
