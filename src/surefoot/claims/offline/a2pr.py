"""A2PR's claim: clone good actions only, and a policy learns from data of which a small part is good."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surefoot.claims.offline import points
from surefoot.claims.parts import (
    Claim,
    Difference,
    Experiment,
    Gate,
    LogRatio,
    Measurements,
    More,
    Part,
    Published,
    Summary,
)
from surefoot.loops.networks.nets import Batch, Weights
from surefoot.methods.offline.a2pr import A2PR, guided
from surefoot.methods.offline.baselines import TD3BC
from surefoot.methods.offline.prdc import PRDC
from surefoot.seeding import numpy_stream, torch_stream

ROWS = 4000
SETTING: dict[str, Any] = {"hidden": (64, 64), "batch_size": 128, "learning_rate": 1e-3, "alpha": 0.5, "tau": 0.05}
OWN: dict[str, Any] = {"actor_hidden": (64, 64), "generator_hidden": (128, 128), "strength": 1.0}


@dataclass(frozen=True)
class Filtered(A2PR):
    """Without a generator: the data's action, where it is good."""

    def generated(self, w: Weights, batch: Batch, action: Tensor) -> Tensor:
        return batch["action"]


LONG: dict[str, Any] = {
    "TD3+BC": TD3BC(**SETTING, gamma=points.GAMMA, log_every=500),
    "PRDC": PRDC(**SETTING, gamma=points.GAMMA, log_every=500),
    "A2PR": A2PR(**SETTING, **OWN, gamma=points.GAMMA, log_every=500),
    "no generator": Filtered(**SETTING, **OWN, gamma=points.GAMMA, log_every=500),
}
SHORT_STEPS, LONG_STEPS = 120, 3000
SHORT = {
    name: replace(
        LONG[name],
        gamma=0.0,
        batch_size=64,
        log_every=SHORT_STEPS,
        learning_rate=3e-3,
        hidden=(32, 32),
        policy_delay=1,
    )
    for name in ("TD3+BC", "A2PR")
}
SHORT["A2PR"] = replace(SHORT["A2PR"], actor_hidden=(32, 32), generator_hidden=(32, 32), generator_rate=3e-3)


def behave(good: float, state: np.ndarray, g: np.random.Generator) -> np.ndarray:
    """Towards the goal in a share of the steps, to the left in the others, whatever the state."""
    best = points.towards_goal(state) + 0.15 * g.normal(size=state.shape)
    return np.where(g.random((len(state), 1)) < good, best, [-0.8, 0.0] + 0.25 * g.normal(size=state.shape))


def sets(good: float, seeds: Sequence[int]) -> list[Any]:
    return [points.steps(partial(behave, good), ROWS, seed) for seed in seeds]


# --- one step --------------------------------------------------------------------------------------------------------


def one_step(seeds: Sequence[int]) -> dict[str, list[float]]:
    """What actors, data and targets are paid in truth for a step, and the generator's errors, a number a seed."""
    data = sets(0.15, seeds)
    learners = {arm: points.trained(method, data, seeds, SHORT_STEPS) for arm, method in SHORT.items()}
    found = {f"paid, {arm}": [acted(one, i) for i in range(len(seeds))] for arm, one in learners.items()}
    each = [targets(learners["A2PR"], i, one) for i, one in enumerate(data)]
    return found | {name: [x[name] for x in each] for name in each[0]}


def acted(learner: points.Seedwise, index: int) -> float:
    """The mean reward of a seed's actor for one step."""
    state = numpy_stream(learner.seeds[index], "starts of a step").uniform(-1, 1, (1000, 2))
    action = learner.agent(index).predict(state.astype(np.float32), deterministic=True)[0]
    return float(points.moved(state, np.asarray(action, float))[1].mean())


def targets(learner: points.Seedwise, index: int, data: Any) -> dict[str, float]:
    """Of a seed's targets that are held and of the data's actions in the same states: what they are paid in truth, and
    the generator's squared error on actions that its critic calls good, and on others."""
    method, g = learner.method, torch_stream(learner.seeds[index], "latent numbers")
    assert isinstance(method, A2PR)
    mean, inverse = learner.scales()[""]
    batch: Batch = {"observation": (torch.from_numpy(data.observation) - mean[index]) * inverse[index]}
    batch |= {"action": torch.from_numpy(data.action)}
    batch["noise"] = {"actor latent": torch.randn(ROWS, 4, generator=g)}
    now = {name: x[index] for name, x in learner.weights.items()}
    w = Weights(learner.functions, now, {}, now)
    with torch.no_grad():
        made = method.generated(w, batch, w("actor", batch["observation"]))
        own, value = method.valued(w, batch, batch["action"]), w("value", batch["observation"])
        better, held = guided(own, method.valued(w, batch, made), value)
        target = torch.where(better.unsqueeze(-1), made, batch["action"])
        again = method.generated(w, batch, batch["action"])
    error, good = ((again - batch["action"]) ** 2).mean(-1), own > value
    rows, state = held.numpy(), data.observation.astype(float)
    return {
        "paid, targets": float(points.moved(state[rows], target.double().numpy()[rows])[1].mean()),
        "paid, data": float(points.moved(state[rows], data.action.astype(float)[rows])[1].mean()),
        "error, good": float(error[good].mean()),
        "error, others": float(error[~good].mean()),
        "held": float(held.double().mean()),
        "generated": float((better & held).double().mean()),
    }


# --- a point on mixed data -------------------------------------------------------------------------------------------

GOOD = (0.05, 0.15)


def on_point(arm: str, good: float, seeds: Sequence[int]) -> list[float]:
    """Every seed's return."""
    each = [
        points.trained(LONG[arm], [one], [seed], LONG_STEPS) for one, seed in zip(sets(good, seeds), seeds, strict=True)
    ]
    return [points.scores(one)[0] for one in each]


ROOM = Gate("room", lambda s: float(np.mean(s["TD3+BC, 0.15"])) < -25, "TD3+BC returns less than −25")


def of_step(found: Measurements) -> Summary:
    return found["one step"]


CLAIM = Claim(
    slug="a2pr",
    sentence="Staying near actions of high advantage only, of the data or of a generator, learns more than cloning from "
    "data of which a small part is good.",
    source="Liu et al. 2024, abstract",
    method=A2PR,
    experiments={
        "step": Experiment(
            "mechanism",
            {"one step": one_step},
            seeds=8,
            minutes=0.1,
            setting="one step of a point in a square, 4,000 steps a seed, 15 % towards the goal, the others to the left; "
            "120 gradient steps on batches of 64, two layers of 32, α = 0.5",
            arms=SHORT,
            summary=of_step,
        ),
        "point": Experiment(
            "miniature",
            {f"{arm}, {good:g}": partial(on_point, arm, good) for good in GOOD for arm in LONG},
            seeds=8,
            minutes=24.0,
            setting="a point in a square, 4,000 steps a seed, 5 or 15 % towards the goal, the others to the left; "
            "3,000 gradient steps, α = 0.5; mean return of 200 episodes",
            arms=LONG,
            differs=(
                "one task of ours in place of D4RL's, 3,000 gradient steps in place of a million",
                "two layers of 64 for all, of 128 in the generator, γ = 0.95, batches of 128, learning rates of 1e-3, τ = 0.05",
            ),
        ),
    },
    parts=(
        Part(
            "its targets are paid more in truth than the actions of the data",
            "primary",
            "step",
            Difference("paid, targets", "paid, data"),
            More(),
            says="abstract: high-advantage actions from an augmented behavior policy",
        ),
        Part(
            "is paid more than TD3+BC for a step, where 15 % of the actions are good",
            "primary",
            "step",
            Difference("paid, A2PR", "paid, TD3+BC"),
            More(),
        ),
        Part(
            "the generator errs less on good actions than on others",
            "secondary",
            "step",
            LogRatio("error, others", "error, good"),
            More(),
        ),
        Part(
            "beats TD3+BC with 15 % of good actions",
            "primary",
            "point",
            Difference("A2PR, 0.15", "TD3+BC, 0.15"),
            More(),
            gates=(ROOM,),
            published=Published(
                17.7,
                "Table 1 of DOSER, second hand: mean of nine D4RL sets, TD3+BC 75.3 → 93.0; RAPO has 80.8 → 88.0",
                "read",
            ),
            says="abstract: state-of-the-art performance, and on mixed datasets",
        ),
        Part(
            "beats TD3+BC with 5 % of good actions",
            "secondary",
            "point",
            Difference("A2PR, 0.05", "TD3+BC, 0.05"),
            More(),
        ),
        Part(
            "beats PRDC with 15 % of good actions",
            "exploratory",
            "point",
            Difference("A2PR, 0.15", "PRDC, 0.15"),
            More(),
        ),
        Part(
            "the generator matters with 5 % of good actions",
            "exploratory",
            "point",
            Difference("A2PR, 0.05", "no generator, 0.05"),
            More(),
        ),
    ),
    not_run="D4RL's files do not come with the package. With one, a million steps take 3 to 4 hours on two cores; the "
    "smallest subset is halfcheetah-medium-v2 and walker2d-medium-v2, A2PR, TD3+BC, and TD3+BC with α = 40 and A2PR's "
    "networks, 4 seeds: surefoot train a2pr --data FILE --preset halfcheetah-medium.",
)
