"""What an iteration gives the ensembles: the returns of roll-outs, and the fit to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from surefoot.loops.common.collect import Rollout
from surefoot.loops.common.optimizer import Adam
from surefoot.methods.control.rpi.judges import Rows, poisson
from surefoot.models.functional import Flat
from surefoot.objectives.advantages import gae
from surefoot.seeding import torch_stream

if TYPE_CHECKING:
    from surefoot.loops.on_policy.guided import GuidedLearner
    from surefoot.methods.control.rpi import RPI

VECTORS = ("ensembles", *(f"ensembles_{name}" for name in Adam._fields))


def judge(method: RPI, learner: GuidedLearner, rollout: Rollout, record: Tensor) -> dict[str, Tensor]:
    """Store the roll-outs of the oracles, and fit all ensembles to theirs and to the learner's new ones; metrics
    `[seeds]`. `record` says whose roll-out a step belongs to (see `leading.Lead`)."""
    judges, errors, oracles = method.judges(learner), [], len(learner.oracles)
    flat = Flat(judges.module())
    for index, seed in enumerate(learner.seeds):
        stream = torch_stream(seed, "ensembles", learner.collector.logged)
        ring = {name: learner.extra[name][index] for name in judges.empty()}
        *theirs, own = roll_outs(method, learner, rollout, record[:, index], index, stream)
        for number, rows in enumerate(theirs):
            ring = judges.kept(ring, number, rows)
        sets = [*(judges.of(ring, number) for number in range(oracles)), own]
        sets = [rows._replace(observation=method.seen(learner, index, rows.observation)) for rows in sets]
        vector, *moments = (learner.extra[name][index] for name in VECTORS)
        setting = method.value_steps, method.value_batch, method.value_learning_rate
        vector, adam, error = judges.fitted(flat, vector, Adam(*moments), sets, *setting, stream)
        errors.append(error)
        for name, x in {**ring, **dict(zip(VECTORS, (vector, *adam), strict=True))}.items():
            learner.extra[name] = torch.cat([learner.extra[name][:index], x[None], learner.extra[name][index + 1 :]])
    made = record[..., method.num_envs - method.exploring_envs :]
    share = ((made >= 0) & (made < oracles)).sum((0, 2)) / (made >= 0).sum((0, 2)).clamp(min=1)
    return {"ensemble_error": torch.stack(errors), "oracles_share": share}


def roll_outs(
    method: RPI, learner: GuidedLearner, rollout: Rollout, who: Tensor, index: int, stream: Any
) -> list[Rows]:
    """The new rows of every policy: its own steps with the returns that followed, continued by its value where the
    rollout cuts them. Rows of a roll-in (`who` −1) belong to nobody."""
    seen, found = rollout.observation[:, index], signals(rollout, index)  # type: ignore[index]
    mean = method.values(learner, index, seen.flatten(0, 1))[0].unflatten(1, seen.shape[:2])
    now, following = (x.gather(0, who.clamp(min=0)[None])[0] for x in (mean[:, :-1], mean[:, 1:]))
    target = now + gae(method.gamma, 1.0)(rollout.reward[:, index], values=now, next_values=following, **found)
    count = poisson(torch.rand(*who.shape, method.members, generator=stream))
    of = [(who == number) & found["valid"] for number in range(len(learner.oracles) + 1)]
    return [Rows(seen[:-1][mask], target[mask], count[mask]) for mask in of]


def signals(rollout: Rollout, index: int) -> dict[str, Tensor]:
    """Ends and validity of the steps of one seed."""
    return {name: getattr(rollout, name)[:, index] for name in ("terminated", "truncated", "valid")}
