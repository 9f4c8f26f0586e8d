"""Watching a run: whether it has collapsed, or has nothing to learn from, and which of its weights were the best.

The weights that wrote with the highest reward so far are in the run's `best/`, where those of the best evaluation are
if a run is evaluated and keeps them. They are saved before they learn, since one step too large can ruin them: at the
beginning, and whenever the mean reward of the last iterations is higher than theirs by more than its standard error
explains.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from surefoot.errors import UsageError
from surefoot.loops.common import checkpoint, distributed
from surefoot.loops.common.best import CRITERION, REWARD
from surefoot.loops.common.distributed import Row
from surefoot.loops.common.folder import BEST, Run, agent_folder
from surefoot.loops.group_rollout.rollout import Rollout
from surefoot.models.saved import holds_agent, read_facts

if TYPE_CHECKING:
    from surefoot.loops.group_rollout.iteration import Iteration
    from surefoot.loops.group_rollout.learner import LanguageLearner
    from surefoot.loops.group_rollout.method import Term

PATIENCE = 20  # consecutive iterations in which there may be nothing to learn from
WARN_AFTER = 5  # such iterations, before a warning
WINDOW = 5  # iterations that are averaged
HIGHER, LOWER = 2.0, 4.0  # standard errors by which a reward must be higher to be kept, or lower to be a collapse
RIGID, FAR = 0.02, 1.0  # share of the first entropy, and divergence in nats, beyond which a policy has degenerated
MEAN, VARIANCE, ENTROPY, KL = range(4)


class Watch(NamedTuple):
    """What is known of a run, as tensors in float64, which checkpoints contain; −∞ where nothing is known."""

    recent: Float[Tensor, "iterations 4"]  # the last ones: mean reward, its variance, entropy, KL divergence
    first: Float[Tensor, " 4"]  # the same of the first iterations
    kept: Float[Tensor, " 3"]  # mean reward and its variance of the weights that are kept, and their iteration
    lowest: Float[Tensor, ""]  # reward of any completion
    collapsed: Float[Tensor, ""]  # the iteration in which that was found

    @classmethod
    def start(cls) -> Watch:
        unknown = torch.full((), -torch.inf, dtype=torch.float64)
        return cls(unknown.new_zeros(0, 4), unknown.expand(4), unknown.expand(3), -unknown, unknown)

    def rewarded(self, written: Sequence[Rollout]) -> Watch:
        """With the rewards of what was written in a new iteration. The variance of their mean is that over prompts."""
        groups = torch.cat([rollout.reward for rollout in written]).double()
        each = groups.mean(1) if len(groups) > 1 else groups.flatten()
        variance = each.var() / len(each) if len(each) > 1 else each.new_tensor(0.0)
        row = torch.stack([groups.mean(), variance, *groups.new_full((2,), -torch.inf)])
        recent = torch.cat([self.recent, row[None]])[-WINDOW:]
        return self._replace(recent=recent, lowest=torch.minimum(self.lowest, groups.min()))

    def learned(self, row: Row) -> Watch:
        """With the metrics of the step on them. The divergence is that from the reference, or of the step."""
        recent = self.recent.clone()
        recent[-1, ENTROPY] = row.get("entropy", -math.inf)
        recent[-1, KL] = row.get("divergence", row.get("kl", -math.inf))
        begun = len(recent) == WINDOW and not self.first[MEAN].isfinite()
        return self._replace(recent=recent, first=_mean(recent) if begun else self.first)

    @property
    def better(self) -> bool:
        """Whether the weights that wrote last are better than those that are kept."""
        now = _mean(self.recent)
        gain = now[MEAN] - self.kept[0]
        return bool(self.kept[0].isinf() | (gain > HIGHER * (now[VARIANCE] + self.kept[1]).sqrt()))

    def keeping(self, iteration: int) -> Watch:
        """With the weights of this iteration as those that are kept."""
        now = _mean(self.recent)
        return self._replace(kept=torch.stack([now[MEAN], now[VARIANCE], now.new_tensor(float(iteration))]))

    @property
    def found(self) -> bool:
        """Whether the run has collapsed: its reward fell by more than half of what lay above the lowest one, or it is
        lower than at first and the policy either has no entropy left or is far from its reference."""
        if len(self.recent) < WINDOW or not self.first[MEAN].isfinite():
            return False
        now = _mean(self.recent)
        fall, error = self.kept[0] - now[MEAN], (self.kept[1] + now[VARIANCE]).sqrt()
        fallen = fall > torch.maximum(LOWER * error, (self.kept[0] - self.lowest) / 2)
        lower = self.first[MEAN] - now[MEAN] > HIGHER * (self.first[VARIANCE] + now[VARIANCE]).sqrt()
        rigid = now[ENTROPY].isfinite() & (now[ENTROPY] < RIGID * self.first[ENTROPY])
        return bool(fallen | (lower & (rigid | (now[KL] > FAR))))


def _mean(rows: Tensor) -> Tensor:
    """The means over iterations; the variance is that of the mean reward."""
    mean = rows.mean(0)
    return mean.index_fill(0, torch.tensor(VARIANCE), float(mean[VARIANCE]) / len(rows))


def before(learner: LanguageLearner, iteration: Iteration) -> None:
    """To be called before weights learn from what they wrote: keep them if they are the best so far."""
    if not iteration.scored:
        return
    learner.watch = learner.watch.rewarded(iteration.written)
    if learner.watch.better:
        learner.watch = learner.watch.keeping(learner.iteration)
        _save(learner)


def after(learner: LanguageLearner, iteration: Iteration, row: Row) -> Row:
    """To be called with the metrics of an update: warn if the run has collapsed, once. From then on the metric
    `collapsed` says in which iteration that was found."""
    watch = learner.watch.learned(row) if iteration.scored else learner.watch
    if watch.collapsed.isinf() and watch.found:
        watch = watch._replace(collapsed=watch.lowest.new_tensor(learner.iteration + 1.0))
        warnings.warn(_collapse(watch, _rate(learner), learner.run), stacklevel=4)
    learner.watch = watch
    return {} if watch.collapsed.isinf() else {"collapsed": float(watch.collapsed)}


def check_learnable(learner: LanguageLearner, terms: Sequence[Term], rollout: Rollout) -> None:
    """Warn, and finally stop, if no completion is better than another, so that nothing can be learned."""
    if any(bool((term.advantage != 0).any()) for term in terms):
        learner.learned = learner.iteration + 1
        return
    silent, patience = learner.iteration + 1 - learner.learned, learner.patience
    ends = patience is not None and silent >= patience
    uneasy = silent == min(WARN_AFTER, patience or WARN_AFTER)
    if not (ends or uneasy):
        return
    said = _nothing_to_learn(learner, rollout, silent)
    if ends:
        raise UsageError(
            f"{said} The run stops here, after patience={silent} such iterations; increase patience to wait longer."
        )
    ending = "" if patience is None else f" The run will stop after patience={patience} such iterations."
    warnings.warn(f"{said}{ending}", stacklevel=3)


def _rate(learner: LanguageLearner) -> float:
    return learner.optimizer.param_groups[0]["lr"]


def _save(learner: LanguageLearner) -> None:
    """Save the model as it is in `best/`, unless an evaluation has chosen the agent there."""
    if learner.run is None:
        return
    folder = agent_folder(learner.run, learner.seeds, learner.seeds[0], BEST)
    writes, about = distributed.rank() == 0, dict[str, Any]()
    if distributed.anywhere(writes and holds_agent(folder) and CRITERION in read_facts(folder)):
        return
    if writes:
        config = Run(learner.run).config
        about = {name: config[name] for name in ("method", "env")}
        about |= {"steps": learner.steps, "seed": learner.seeds[0], "ended": "best"}
        about[REWARD] = float(_mean(learner.watch.recent)[MEAN])
    agent = learner.agent(**about)  # made in all processes
    if writes:
        with checkpoint.writing(folder, learner.run):
            agent.save(folder)


def _collapse(watch: Watch, learning_rate: float, run: Path | None) -> str:
    """What has happened to a run that has collapsed, and what to do."""
    now, (reward, _, iteration) = _mean(watch.recent), watch.kept.tolist()
    figures = [f"its mean reward is {float(now[MEAN]):.3g} and was {reward:.3g} in iteration {int(iteration) + 1}"]
    for index, name in ((ENTROPY, "its entropy"), (KL, "the KL divergence")):
        if math.isfinite(now[index]) and math.isfinite(watch.first[index]):
            figures.append(f"{name} {float(now[index]):.2g} and was {float(watch.first[index]):.2g} at first")
    return (
        f"The run has collapsed: over the last {len(watch.recent)} iterations {', '.join(figures)}. A collapsed policy "
        f"does not recover by itself{_best(run)}. {_cause(learning_rate)}"
    )


def _best(run: Path | None) -> str:
    """Where the best weights of a run are, as the end of a sentence; empty if it keeps none."""
    folder = None if run is None else run / BEST
    if folder is None or not holds_agent(folder):
        return ""
    return f"; the best weights, of iteration {read_facts(folder)['steps'] + 1}, are kept in {folder}"


def _cause(learning_rate: float) -> str:
    return (
        f"The usual cause is too large a learning_rate (it is {learning_rate:.3g}): start again with a smaller one, "
        "with warmup, or with kl above 0, from the first model or from the best weights (model=…/best)."
    )


def _nothing_to_learn(learner: LanguageLearner, rollout: Rollout, silent: int) -> str:
    """Why there was nothing to learn from in the last `silent` iterations, and what to do."""
    first, learned, limit = float(rollout.reward.flatten()[0]), learner.learned, learner.method.max_tokens
    cause = f"every completion had the reward {first:g}"
    if bool((rollout.reward != first).any()):
        cause = "the completions of a prompt all had the same reward, or cancelled out"
    if bool(rollout.truncated.all()):
        cause += f", and every one was cut off after max_tokens={limit}"
    advice = "use an easier task, a longer warm-up or more samples, and check the values of the reward function."
    if learned:
        advice = f"until iteration {learned} there was{_best(learner.run)}. {_cause(_rate(learner))}"
    elif bool(rollout.truncated.all()):
        advice = "increase max_tokens, or set a stop string."
    return (
        f"There has been nothing to learn from in the {'last' if learned else 'first'} {silent} iterations: {cause}; "
        f"{advice} The last one was {rollout.texts[-1]!r}, for the prompt {rollout.examples[-1].prompt!r}."
    )
