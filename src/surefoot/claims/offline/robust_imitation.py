"""Robust imitation's claim: cloning by a median-of-means tournament survives a share of wrong demonstrations."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from surefoot.claims.offline import points
from surefoot.claims.parts import (
    Claim,
    Exact,
    Experiment,
    Gate,
    Less,
    LogRatio,
    Measurements,
    More,
    NoWorse,
    Part,
    Summary,
)
from surefoot.data.transitions import Transitions
from surefoot.loops.networks.nets import Batch, Weights
from surefoot.methods.offline.baselines import BC
from surefoot.methods.offline.robust_imitation import RobustImitation, in_blocks, median_block
from surefoot.seeding import numpy_stream, torch_stream

HUBER = 0.1  # errors beyond this enter a Huber loss linearly

# --- the tournament by itself: policies of one number ----------------------------------------------------------------

ROWS, ROUNDS, TURNS, STEP = 603, 8, 200, 0.1  # blocks of 3 or 1: 201 or 603 of them, all rows in every round
TRUTH, SPREAD = {"state": 0.3, "line": 0.5}, 0.05


def demonstrations(kind: str, seed: int) -> tuple[Tensor, Tensor, float]:
    """States and actions `[rows]` of an expert a = truth·s, a share of them wrong, and that share. Of one state, s = 1,
    20 % have a = 1; on a line, s ~ N(0, 1), 10 % are (10, −10)."""
    g, share = torch_stream(seed, f"demonstrations, {kind}"), {"state": 0.2, "line": 0.1}[kind]
    s = torch.ones(ROWS).double() if kind == "state" else torch.randn(ROWS, generator=g, dtype=torch.float64)
    a = TRUTH[kind] * s + SPREAD * torch.randn(ROWS, generator=g, dtype=torch.float64)
    wrong = torch.rand(ROWS, generator=g) < share
    bad_state, bad_action = {"state": (1.0, 1.0), "line": (10.0, -10.0)}[kind]
    return s.masked_fill(wrong, bad_state), a.masked_fill(wrong, bad_action), share


def tournament(s: Tensor, a: Tensor, size: int, seed: int) -> float:
    """The policy after steps of both players, whose size falls to 0, each on the median blocks of all the rows."""
    g = torch_stream(seed, "rounds")
    players = torch.randn(2, generator=g, dtype=torch.float64)
    for turn in range(TURNS):
        order = torch.cat([torch.randperm(ROWS, generator=g) for _ in range(ROUNDS)])
        errors = players[:, None] * s[order] - a[order]
        losses = [in_blocks(x**2, ROWS // size, size) for x in errors]
        index = median_block(losses[0] - losses[1])
        slopes = [in_blocks(2 * x * s[order], ROWS // size, size).gather(-1, index).mean() for x in errors]
        players = players - STEP * (1 - turn / TURNS) * torch.stack(slopes)
    return float(players[0])


def by_huber(s: Tensor, a: Tensor) -> float:
    """The policy of the least Huber loss, whose slope changes its sign once."""
    low, high = -20.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        slope = float(((middle * s - a).clamp(-HUBER, HUBER) * s).sum())
        low, high = (low, middle) if slope > 0 else (middle, high)
    return low


def estimated(kind: str, seeds: Sequence[int]) -> dict[str, list[float]]:
    """The distance of every arm's policy from the expert's."""
    found: dict[str, list[float]] = {"BC": [], "Huber": [], "tournament": []}
    for seed in seeds:
        s, a, share = demonstrations(kind, seed)
        size = RobustImitation(contamination=share).size
        policies = float((s * a).sum() / (s * s).sum()), by_huber(s, a), tournament(s, a, size, seed)
        for name, policy in zip(found, policies, strict=True):
            found[name].append(abs(policy - TRUTH[kind]))
    return found


def outside(more: int, seeds: Sequence[int]) -> float:
    """How far the chosen loss lies outside the clean ones at most, where half of the blocks less ½, and `more`, are
    wrong by up to 10⁶ either way."""
    worst = 0.0
    for seed in seeds:
        g = torch_stream(seed, "wrong blocks")
        for blocks in (3, 9, 31):
            losses = torch.rand(200, blocks, generator=g, dtype=torch.float64)
            losses[:, : blocks // 2 + more] = 10 ** (6 * torch.rand(200, blocks // 2 + more, generator=g).double())
            losses[::2, : blocks // 2 + more] *= -1  # in every other round they lie below the clean ones
            chosen = losses.gather(-1, median_block(losses)).squeeze(-1)
            clean = losses[:, blocks // 2 + more :]
            away = torch.maximum(chosen - clean.max(-1).values, clean.min(-1).values - chosen)
            worst = max(worst, float(away.max()))
    return worst


def of_parts(found: Measurements) -> Summary:
    errors = {f"{name}, {kind}": x for kind in TRUTH for name, x in found[kind].items()}
    return errors | {"distance from clean losses": found["minority"], "the same with one more": found["majority"]}


# --- a nonlinear expert ----------------------------------------------------------------------------------------------

EXPERT = np.random.default_rng(0).normal(size=(4, 2)) / 2
DATA, UPDATES, FRESH, GRADIENT, BLOCKS = 3000, 2000, 4000, 64, 31
KINDS = {"clean": 0.0, "signs": 0.1, "corner": 0.2}  # the share that is wrong
SETTING: dict[str, Any] = {"hidden": (64, 64), "learning_rate": 1e-3, "anneal": "cosine", "log_every": 500}


@dataclasses.dataclass(frozen=True)
class HuberBC(BC):
    """Behaviour cloning by a Huber loss."""

    def actor_loss(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        loss = F.huber_loss(w("actor", batch["observation"]), batch["action"], delta=HUBER) / HUBER
        return loss, {"actor_loss": loss.detach()}


def robust(kind: str) -> RobustImitation:
    """As many rows with a gradient as the other arms have, up to a part of a block."""
    method = RobustImitation(contamination=KINDS[kind] or 0.1)
    rounds = GRADIENT // method.size
    return dataclasses.replace(method, **SETTING, blocks=BLOCKS, batch_size=rounds * BLOCKS * method.size)


ARMS: dict[str, Any] = {
    "BC": BC(**SETTING, batch_size=GRADIENT),
    "Huber": HuberBC(**SETTING, batch_size=GRADIENT),
    **{f"RBC, {kind}": robust(kind) for kind in KINDS},
}


def acted(state: np.ndarray) -> np.ndarray:
    """What the expert does in states `[rows, 4]`."""
    return np.tanh(1.5 * np.sin(state @ EXPERT))


def shown(kind: str, seed: int) -> Transitions:
    """The expert's actions with noise of 0.05, a share of them replaced by random corners of the box or by one."""
    g = numpy_stream(seed, "demonstrations")
    state = g.normal(size=(DATA, 4))
    action = (acted(state) + 0.05 * g.normal(size=(DATA, 2))).clip(-1, 1)
    wrong = g.random((DATA, 1)) < KINDS[kind]
    signs = g.choice([-1.0, 1.0], size=(DATA, 2))
    action = np.where(wrong, signs if kind == "signs" else 1.0, action)
    cut = np.ones(DATA, bool)
    parts = state.astype(np.float32), action.astype(np.float32), np.zeros(DATA, np.float32), state.astype(np.float32)
    return Transitions(*parts, ~cut, cut, action_space=points.BOX, name="demonstrations")


def on_expert(arm: str, kind: str, seeds: Sequence[int]) -> list[float]:
    """The mean squared distance of every seed's actions from the expert's, in fresh states."""
    method = ARMS[arm] if arm in ARMS else ARMS[f"{arm}, {kind}"]
    learner = points.trained(method, [shown(kind, seed) for seed in seeds], seeds, UPDATES)
    found = []
    for index, seed in enumerate(seeds):
        state = numpy_stream(seed, "fresh states").normal(size=(FRESH, 4)).astype(np.float32)
        action, _ = learner.agent(index).predict(state, deterministic=True)
        found.append(float(((np.asarray(action, float) - acted(state)) ** 2).mean()))
    return found


RUN = [(arm, kind) for kind in KINDS for arm in ("BC", "Huber", "RBC")]
LEARNS = Gate("control", lambda s: float(np.mean(s["BC, clean"])) < 0.02, "BC errs by less than 0.02 on clean data")
HURT = Gate(
    "room",
    lambda s: float(np.mean(s["BC, corner"])) > 3 * float(np.mean(s["BC, clean"])),
    "wrong actions in one corner make BC's error more than three times as large",
)

CLAIM = Claim(
    slug="robust-imitation",
    sentence="A median-of-means tournament between a policy and a rival clones demonstrations nearly as well as if a "
    "constant share of them were not wrong.",
    source="Liu et al. 2022, abstract",
    method=RobustImitation,
    experiments={
        "parts": Experiment(
            "mechanism",
            {
                "minority": partial(outside, 0),
                "majority": partial(outside, 1),
                **{kind: partial(estimated, kind) for kind in TRUTH},
            },
            seeds=8,
            minutes=0.05,
            setting="losses of 3 to 31 blocks, a minority of them wrong by up to 10⁶; a policy of one number from 603 rows, "
            "with the expert's action 0.3 in one state and 20 % of actions 1, or 0.5·s on a line and 10 % of rows "
            "(10, −10); 200 steps on 8 rounds of all rows; a Huber loss that is linear beyond 0.1",
            arms={"tournament": RobustImitation()},
            summary=of_parts,
        ),
        "expert": Experiment(
            "miniature",
            {f"{arm}, {kind}": partial(on_expert, arm, kind) for arm, kind in RUN},
            seeds=8,
            minutes=8.0,
            setting="3,000 actions of an expert tanh(1.5·sin(sW)) in two dimensions with noise of 0.05; none wrong, 10 % "
            "random corners of the box, or 20 % the corner (1, 1); 2,000 gradient steps of 64 rows; mean squared "
            "distance from the expert in 4,000 fresh states",
            arms=ARMS,
            summary=dict,
            differs=(
                "one synthetic expert in place of PyBullet's Hopper, Walker2d, HalfCheetah and Ant; no returns",
                "the paper's network, blocks, optimizer and number of demonstrations were not found; ours are two layers of "
                "64, 31 blocks a round, Adam with 1e-3 that decays along a cosine",
                "ε is given: the true share, and 0.1 for clean data",
                "a Huber loss is an arm of ours, not of the paper; in a trial of two seeds with 9 blocks a round it beat the "
                "tournament on wrong actions, so the parts about it are controls that may well fail",
            ),
        ),
    },
    parts=(
        Part(
            "a minority of wrong blocks cannot move the chosen loss out of the clean ones",
            "primary",
            "parts",
            Exact("distance from clean losses"),
            Less(1e-12, against=1e-9),
        ),
        Part(
            "a majority can",
            "secondary",
            "parts",
            Exact("the same with one more"),
            More(1.0, against=0.0),
        ),
        Part(
            "errs less than a third as much as least squares, where actions are wrong",
            "primary",
            "parts",
            LogRatio("BC, state", "tournament, state"),
            More(math.log(3), against=0.0),
            says="recalled, abstract: accurate estimation of the policy, even with a constant fraction of outliers",
        ),
        Part(
            "errs less than a third as much as least squares, where states are wrong too",
            "primary",
            "parts",
            LogRatio("BC, line", "tournament, line"),
            More(math.log(3), against=0.0),
        ),
        Part(
            "errs less than a third as much as a Huber loss, where states are wrong too",
            "secondary",
            "parts",
            LogRatio("Huber, line", "tournament, line"),
            More(math.log(3), against=0.0),
        ),
        Part(
            "errs less than a Huber loss, where only actions are wrong",
            "exploratory",
            "parts",
            LogRatio("Huber, state", "tournament, state"),
            More(),
        ),
        Part(
            "errs less than a third as much as BC, with wrong actions in one corner",
            "primary",
            "expert",
            LogRatio("BC, corner", "RBC, corner"),
            More(math.log(3), against=0.0),
            gates=(LEARNS, HURT),
            says="recalled, abstract: behaviour cloning may fail drastically on corrupted demonstrations",
        ),
        Part(
            "errs at most twice as much as BC on clean data",
            "primary",
            "expert",
            LogRatio("BC, clean", "RBC, clean"),
            NoWorse(math.log(2)),
            gates=(LEARNS,),
            says="recalled, abstract: nearly the error scaling and sample complexity of cloning an expert",
        ),
        Part(
            "errs less than a Huber loss, with wrong actions in one corner",
            "secondary",
            "expert",
            LogRatio("Huber, corner", "RBC, corner"),
            More(),
            gates=(LEARNS, HURT),
        ),
        Part(
            "errs less than BC, with wrong actions in random corners",
            "exploratory",
            "expert",
            LogRatio("BC, signs", "RBC, signs"),
            More(),
            gates=(LEARNS,),
        ),
        Part(
            "errs less than a Huber loss, with wrong actions in random corners",
            "exploratory",
            "expert",
            LogRatio("Huber, signs", "RBC, signs"),
            More(),
            gates=(LEARNS,),
        ),
        Part(
            "errs less than a Huber loss on clean data",
            "exploratory",
            "expert",
            LogRatio("Huber, clean", "RBC, clean"),
            More(),
            gates=(LEARNS,),
        ),
    ),
    not_run="The paper's numbers, networks and numbers of demonstrations were not at hand, so there is nothing to repeat. "
    "Its setting is PyBullet's Hopper, Walker2d, HalfCheetah and Ant with actions of a trained agent, of which a share is "
    "replaced by random corners: surefoot train robust-imitation --data FILE --env ENV.",
    amended=(
        "Before the first run a pilot of the mechanism on seeds 1000 to 1007 added the exploratory part about a Huber loss "
        "where only actions are wrong, whose numbers were measured already.",
    ),
)
