"""RPI's claim: oracles that are each good somewhere teach it at once, and bad ones do no harm.

The miniature is a corridor of 12 positions that no random policy passes within 40 steps, with tables in place of
networks. Two oracles are good in one half each, a third nowhere. The instance is dm_control's cartpole-swingup, as EnvPool
has it, with oracles of our own.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from surefoot.claims.control.rpi_swingup import EXPERIMENT, PARTS
from surefoot.claims.parts import (
    Claim,
    Difference,
    Exact,
    Experiment,
    Gate,
    Less,
    Measurements,
    More,
    NoWorse,
    Part,
    Summary,
)
from surefoot.methods.control.rpi import RPI
from surefoot.methods.control.rpi.blending import baseline, selected
from surefoot.seeding import numpy_stream

Table = NDArray[np.float64]

# --- exact pieces ----------------------------------------------------------------------------------------------------


def shortfall(seeds: Sequence[int]) -> dict[str, float]:
    """The largest amount by which a policy made of f⁺ falls short of it in a state, over random MDPs."""
    worst = {"following": 0.0, "improving": 0.0}
    for seed in seeds:
        g = numpy_stream(seed, "a random MDP")
        kernel, reward = g.dirichlet(np.ones(6), (6, 3)), g.normal(size=(6, 3))
        policies = g.dirichlet(np.ones(3), (3, 6))
        values = np.stack([value_of(kernel, reward, policy) for policy in policies])
        f = baseline(torch.from_numpy(values), torch.zeros(values.shape), torch.inf).numpy()
        made = {
            "following": policies[values.argmax(0), np.arange(6)],
            "improving": np.eye(3)[(reward + 0.9 * kernel @ f).argmax(-1)],
        }
        for name, policy in made.items():
            worst[name] = max(worst[name], float((f - value_of(kernel, reward, policy)).max()))
    return worst


def value_of(kernel: Table, reward: Table, policy: Table) -> Table:
    """The discounted value of a policy."""
    matrix = np.einsum("sa,sat->st", policy, kernel)
    return np.linalg.solve(np.eye(len(matrix)) - 0.9 * matrix, (policy * reward).sum(-1))


def of_pieces(found: Measurements) -> Summary:
    return dict(found["shortfall"])


# --- a corridor ------------------------------------------------------------------------------------------------------

ACTIONS, ROUNDS, OWN, EXPLORING, WARM = 4, 100, 20, 10, 60
LAM, THRESHOLD, MEMBERS, DECAY = 0.9, 0.5, 5, 0.7
LONG = {"length": 12, "horizon": 40}
SHORT = {"length": 5, "horizon": 40}
ARMS = {"RL": (False, "all", "bounds"), "MAMBA": (True, "oracles", "uniform"), "RPI": (True, "all", "bounds")}


class Corridor(NamedTuple):
    """The right action of each position moves on, all others back; 1 for passing the last position."""

    right: NDArray[np.int64]
    horizon: int

    def step(self, position: int, action: int) -> int:
        return position + 1 if action == self.right[position] else max(position - 1, 0)


class Statistics:
    """Poisson-weighted sums of returns by position, of one policy: [members, positions]."""

    def __init__(self, length: int) -> None:
        self.total, self.count, self.visits = np.zeros((MEMBERS, length)), np.zeros((MEMBERS, length)), np.zeros(length)

    def add(self, position: int, target: float, g: np.random.Generator) -> None:
        weight = g.poisson(1.0, MEMBERS)
        self.total[:, position] += weight * target
        self.count[:, position] += weight
        self.visits[position] += 1

    def values(self) -> tuple[Table, Table]:
        """Mean and deviation; a position seen fewer than three times is uncertain by 1."""
        each = self.total / np.maximum(self.count, 1)
        deviation = np.where(self.visits < 3, 1.0, each.std(0) + 0.3 / np.sqrt(np.maximum(self.visits, 1)))
        return each.mean(0), deviation


def played(
    world: Corridor, policy: Table, start: int, steps: int, g: np.random.Generator
) -> tuple[list[int], list[int], float, int]:
    """Positions, actions and the return of so many steps of a policy from a position, and where they end."""
    position, seen, acts = start, list[int](), list[int]()
    for _ in range(steps):
        seen.append(position)
        acts.append(int(g.choice(ACTIONS, p=policy[position])))
        position = world.step(position, acts[-1])
        if position == len(world.right):
            return seen, acts, 1.0, position
    return seen, acts, 0.0, position


def passing(world: Corridor, policy: Table) -> float:
    """The exact chance to pass within the horizon."""
    length = len(world.right)
    where, passed = np.eye(length)[0], 0.0
    for _ in range(world.horizon):
        ahead = where * policy[np.arange(length), world.right]
        back = where - ahead
        where, passed = np.zeros(length), passed + ahead[-1]
        where[1:] += ahead[:-1]
        where[:-1] += back[1:]
        where[0] += back[0]
    return float(passed)


def oracles_of(world: Corridor, bad: bool) -> list[Table]:
    """One good (0.9) in the first half, one in the second, one nowhere; or three that are nowhere."""
    length, half = len(world.right), len(world.right) // 2
    made = [np.full((length, ACTIONS), 1 / ACTIONS) for _ in range(3)]
    for number, part in enumerate((slice(0, half), slice(half, length)) if not bad else ()):
        made[number][part] = 0.1 / (ACTIONS - 1)
        made[number][np.arange(length)[part], world.right[part]] = 0.9
    return made


def corridor(
    arm: str, place: dict[str, int], bad: bool, seeds: Sequence[int], rounds: int = ROUNDS, warm: int = WARM
) -> dict[str, list[float]]:
    """The exact chance to pass, at half of the rounds and after all of them."""
    guided, among, rule = ARMS[arm]
    found: dict[str, list[float]] = {"half": [], "end": []}
    for seed in seeds:
        g = numpy_stream(seed, "a corridor")
        world = Corridor(g.integers(0, ACTIONS, place["length"]), place["horizon"])
        oracles = oracles_of(world, bad) if guided else []
        statistics = [Statistics(place["length"]) for _ in range(len(oracles) + 1)]
        for number, oracle in enumerate(oracles):
            for _ in range(warm):
                first = oracles[int(g.integers(len(oracles)))]
                at = int(g.integers(world.horizon))
                *_, position = played(world, first, 0, at, g)
                if position < place["length"]:
                    follow(world, oracle, statistics[number], position, world.horizon - at, g)
        logits = np.zeros((place["length"], ACTIONS))
        for turn in range(rounds):
            logits = improved(world, logits, oracles, statistics, among, rule, g)
            if turn + 1 == rounds // 2:
                found["half"].append(passing(world, soft(logits)))
        found["end"].append(passing(world, soft(logits)))
    return found


def soft(logits: Table) -> Table:
    """The policy of logits."""
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def follow(
    world: Corridor, policy: Table, statistics: Statistics, start: int, steps: int, g: np.random.Generator
) -> tuple[list[int], list[int], float]:
    """An episode of a policy from a position, counted in its statistics."""
    seen, acts, outcome, _ = played(world, policy, start, steps, g)
    for position in seen:
        statistics.add(position, outcome, g)
    return seen, acts, outcome


def judged(statistics: Sequence[Statistics]) -> tuple[torch.Tensor, torch.Tensor]:
    """Means and deviations of all policies, `[K + 1, positions]`."""
    mean, deviation = zip(*(one.values() for one in statistics), strict=True)
    return torch.from_numpy(np.stack(mean)), torch.from_numpy(np.stack(deviation))


def improved(
    world: Corridor,
    logits: Table,
    oracles: Sequence[Table],
    statistics: Sequence[Statistics],
    among: str,
    rule: str,
    g: np.random.Generator,
) -> Table:
    """One round: roll-ins and roll-outs, own episodes, and a step along the normalised gradient."""
    policy, learner = soft(logits), len(oracles)
    own = statistics[-1]
    for x in (own.total, own.count, own.visits):
        x *= DECAY
    for _ in range(EXPLORING if oracles else 0):
        at = int(g.integers(world.horizon))
        *_, position = played(world, policy, 0, at, g)
        if position < len(world.right):
            mean, deviation = (x[:, position : position + 1] for x in judged(statistics))
            who = int(selected(mean, deviation, rule, torch.tensor([g.random()]))[0])
            acting = policy if who == learner else oracles[who]
            follow(world, acting, statistics[who], position, world.horizon - at, g)
    episodes = [follow(world, policy, own, 0, world.horizon, g) for _ in range(OWN if oracles else OWN + EXPLORING)]
    f = np.append(baseline(*judged(statistics), THRESHOLD, among).numpy(), 0.0)
    slope = np.zeros_like(logits)
    for seen, acts, outcome in episodes:
        path = [*seen, len(world.right) if outcome else world.step(seen[-1], acts[-1])]
        advantage = 0.0
        for t in reversed(range(len(acts))):
            last = t == len(acts) - 1
            advantage = outcome * last + f[path[t + 1]] - f[path[t]] + LAM * advantage
            slope[path[t]] += advantage * (np.eye(ACTIONS)[acts[t]] - policy[path[t]])
    largest = np.abs(slope).max()
    return logits + (slope / largest if largest > 0 else 0.0)


def of_corridor(found: Measurements) -> Summary:
    return {f"{name}, {when}": x for name, one in found.items() for when, x in one.items()}


STUCK = Gate(
    "room", lambda s: float(np.mean(s["RL, long, half"])) < 0.2, "RL passes less than 0.2 by half of the rounds"
)

CLAIM = Claim(
    slug="rpi",
    sentence="Imitating whichever oracle is better in a state, and learning alone where none is, beats both imitation and "
    "learning alone, and bad oracles do no harm.",
    source="Liu et al. 2023, abstract (read in accounts of it)",
    method=RPI,
    experiments={
        "pieces": Experiment(
            "mechanism",
            {"shortfall": shortfall},
            seeds=100,
            minutes=0.02,
            setting="random MDPs of six states and three actions, γ = 0.9, two oracles and a learner with exact values",
            arms={"RPI": RPI()},
            summary=of_pieces,
        ),
        "corridor": Experiment(
            "miniature",
            {f"{arm}, long": partial(corridor, arm, LONG, False) for arm in ARMS}
            | {f"{arm}, bad": partial(corridor, arm, SHORT, True) for arm in ARMS},
            seeds=10,
            minutes=4.0,
            setting="a corridor of 12 positions and 4 actions, 40 steps, 1 for passing; 20 own episodes and 10 of roll-in "
            "and roll-out in each of 100 rounds; two oracles right with 0.9 in one half each, one uniform. Bad: three "
            "uniform oracles, 5 positions. Exact chances to pass",
            arms={"RPI": RPI()},
            summary=of_corridor,
            differs=(
                "tables and a normalised gradient step in place of networks and PPO",
                "MAMBA is its baseline of oracles alone and uniform selection in the same code",
                "RL gets the steps of the roll-ins as own episodes, but not those of the 180 roll-outs before",
            ),
        ),
        "cartpole-swingup": EXPERIMENT,
    },
    parts=(
        Part(
            "following the largest value is never worse than it",
            "secondary",
            "pieces",
            Exact("following"),
            Less(1e-9, against=1e-6),
            says="the max+-following policy is at least f⁺",
        ),
        Part(
            "improving on the largest value is never worse than it",
            "primary",
            "pieces",
            Exact("improving"),
            Less(1e-9, against=1e-6),
            says="the max+-aggregation policy is at least f⁺",
        ),
        Part(
            "passes the corridor 0.3 more often than RL alone, by half of the rounds",
            "primary",
            "corridor",
            Difference("RPI, long, half", "RL, long, half"),
            More(0.3),
            gates=(STUCK,),
            says="beats PPO with GAE on all eight tasks",
        ),
        Part(
            "passes it as often as MAMBA after all rounds, within 0.1",
            "primary",
            "corridor",
            Difference("RPI, long, end", "MAMBA, long, end"),
            NoWorse(0.1),
            says="beats MAMBA on all eight tasks",
        ),
        Part(
            "passes it more often than MAMBA after all rounds",
            "exploratory",
            "corridor",
            Difference("RPI, long, end", "MAMBA, long, end"),
            More(),
        ),
        Part(
            "with bad oracles it passes as often as RL alone, within 0.1",
            "primary",
            "corridor",
            Difference("RPI, bad, end", "RL, bad, end"),
            NoWorse(0.1),
            says="robust to bad oracles: it falls back to learning alone",
        ),
        *PARTS,
    ),
    not_run="The paper's own oracles, checkpoints of PPO and SAC of three stages, are not published, and its numbers of "
    "rounds, steps and networks are not known; the instance has oracles of our own on one of its eight tasks. Meta-World "
    "needs another version of MuJoCo.",
)
