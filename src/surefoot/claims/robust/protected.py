"""PROTECTED's claim: a few policies and a bandit do well under attacks of any strength, where one robust policy must choose.

Exact: random rings of eight states, whose attackers move what is seen by one place. The returns of policies under attackers
are computed by dynamic programming, members are found from the policy that is best in the worst case, and the shipped
bandit plays against attacks that it does not know. The miniature is a learned pendulum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surefoot.claims.parts import (
    Claim,
    Difference,
    Exact,
    Experiment,
    Gate,
    Less,
    Mean,
    Measurements,
    More,
    NoWorse,
    Part,
    Summary,
)
from surefoot.loops.common.run import make_learner
from surefoot.methods.robust.protected import Protected
from surefoot.methods.robust.protected.table import discover, mixture_gap
from surefoot.models.choosing import Bandit
from surefoot.seeding import numpy_stream

Array = NDArray[np.float64]
Whole = NDArray[np.int64]

# --- rings -----------------------------------------------------------------------------------------------------------

STATES, ACTIONS, LENGTH = 8, 3, 10
MAPS, WORST, RANDOM, ROBUST = 40, 6, 60, 3  # attackers and policies of each origin
ROUNDS, SWITCH, NOISE, SHARE = 2000, 250, 0.05, 0.1


def returns(kernel: Array, reward: Array, policies: Whole, maps: Whole) -> Array:
    """Returns `[policies, maps]` of ten steps from a uniform state: in state s the action is `policies[maps[s]]`."""
    action, place = policies[:, maps], np.arange(STATES)  # [policies, maps, states]
    gain, moves = reward[place, action], kernel[place, action]
    value = np.zeros(action.shape)
    for _ in range(LENGTH):
        value = gain + np.einsum("pmst,pmt->pms", moves, value)
    return value.mean(-1)


def climbed(score: Callable[[Whole], Array], start: Whole, choices: Whole) -> Whole:
    """A local maximum: entry i of a vector is one of `choices[i]`, and the best change of one entry is made until none
    helps. `score` takes vectors `[count, entries]`."""
    best, height = start, float(score(start[None])[0])
    while True:
        near = np.repeat(best[None], choices.size, 0)
        entries = np.repeat(np.arange(len(best)), choices.shape[1])
        near[np.arange(choices.size), entries] = choices.ravel()
        heights = score(near)
        if heights.max() <= height + 1e-12:
            return best
        best, height = near[heights.argmax()], float(heights.max())


def ring(seed: int) -> tuple[Array, int]:
    """Returns `[policies, attackers]` of a random ring, the first attacker being none, and the policy whose worst return
    is best."""
    draw = numpy_stream(seed, "ring")
    kernel = draw.dirichlet(np.full(STATES, 0.3), (STATES, ACTIONS))
    reward = draw.random((STATES, ACTIONS)) ** 2
    near = (np.arange(STATES)[:, None] + np.array([-1, 0, 1])) % STATES  # what may be shown in each state
    actions = np.tile(np.arange(ACTIONS), (STATES, 1))
    place = np.arange(STATES)
    maps = [place, *near[place, draw.integers(3, size=(MAPS, STATES))]]
    for _ in range(WORST):
        victim = draw.integers(ACTIONS, size=STATES)
        victim = climbed(lambda p, m=maps[0]: returns(kernel, reward, p, m[None])[:, 0], victim, actions)
        start = near[place, draw.integers(3, size=STATES)]
        maps.append(climbed(lambda m, p=victim: -returns(kernel, reward, p[None], m)[0], start, near))
    attackers = np.array(maps)
    policies = [*draw.integers(ACTIONS, size=(RANDOM, STATES))]
    for one in attackers:
        start = draw.integers(ACTIONS, size=STATES)
        policies.append(climbed(lambda p, m=one: returns(kernel, reward, p, m[None])[:, 0], start, actions))
    for _ in range(ROBUST):
        start = draw.integers(ACTIONS, size=STATES)
        policies.append(climbed(lambda p: returns(kernel, reward, p, attackers).min(1), start, actions))
    table = returns(kernel, reward, np.array(policies), attackers)
    return table, int(table.min(1).argmax())


def deployed(table: Array, members: Sequence[int], attacks: Whole, seed: int) -> tuple[float, Array]:
    """The mean return of the bandit's members against a sequence of attackers, and that of every policy, as shares of the
    range of all returns. The bandit knows the range of its members' returns, and sees them with noise."""
    low, high = table[members].min(), table[members].max() + 1e-9  # a member alone may have one return
    rule, draw = Bandit(low, high, len(attacks), 2.0), numpy_stream(seed, "deployment")
    memory, chosen = rule.start(len(members)), np.zeros(len(attacks), int)
    uniform, noise = draw.random(len(attacks)), NOISE * (high - low) * draw.standard_normal(len(attacks))
    for t, attack in enumerate(attacks):
        arm = int(np.searchsorted(rule.chances(memory).cumsum()[:-1], uniform[t], side="right"))
        chosen[t] = members[arm]
        memory = rule.told(memory, arm, table[chosen[t], attack] + noise[t])
    share = (table - table.min()) / np.ptp(table)
    return float(share[chosen, attacks].mean()), share[:, attacks].mean(1)


def rings(seeds: Sequence[int]) -> dict[str, list[Any]]:
    """By seed and by scenario (no attack, the one worst for the robust policy, both in turns): normalised returns of the
    bandit, of the robust policy and of the best member; and what discovery found."""
    found: dict[str, list[Any]] = {
        name: [] for name in ("bandit", "robust", "best", "gap", "dominated", "regret", "members")
    }
    for seed in seeds:
        table, robust = ring(seed)
        spread = float(np.ptp(table))
        members, gaps = discover(table, robust, SHARE * spread)
        worst = int(table[robust].argmin())
        turns = np.where(np.arange(ROUNDS) // SWITCH % 2 == 0, 0, worst)
        rows = [
            deployed(table, members, attacks, seed)
            for attacks in (np.zeros(ROUNDS, int), np.full(ROUNDS, worst), turns)
        ]
        found["bandit"].append([got for got, _ in rows])
        found["robust"].append([float(every[robust]) for _, every in rows])
        found["best"].append([float(every[members].max()) for _, every in rows])
        lost = []
        for _, every in rows:
            size, _ = mixture_gap(table, members, int(every.argmax()))
            lost.append(float(every.max() - every[members].max()) - max(size, 0.0) / spread)
        found["regret"].append(max(lost))
        found["gap"].append(gaps[0] / spread)
        others = [[m for m in members if m != one] for one in members[1:]]
        found["dominated"].append(
            sum(bool((table[rest] >= table[one]).all(1).any()) for one, rest in zip(members[1:], others))
        )
        found["members"].append(len(members))
    return found


def of_rings(found: Measurements) -> Summary:
    one = {name: np.array(values, float) for name, values in found["rings"].items()}
    behind, ahead = one["bandit"] - one["best"], one["bandit"] - one["robust"]  # [seeds, scenarios]
    return {
        "bandit − best member, worst scenario": behind.min(1),
        "bandit, mean of scenarios": one["bandit"].mean(1),
        "robust policy, mean of scenarios": one["robust"].mean(1),
        "bandit − robust policy, no attack": ahead[:, 0],
        "bandit − robust policy, its worst attack": ahead[:, 1],
        "most dominated members": float(one["dominated"].max()),
        "largest regret beyond the gap": float(one["regret"].max()),
        "first gap": one["gap"],
        "members": one["members"],
    }


def has_room(summary: Summary) -> bool:
    return float(np.mean(summary["first gap"])) > 0.1


ROOM = Gate("room", has_room, "the robust policy leaves a gap of more than a tenth of the range of returns")

# --- a learned pendulum ----------------------------------------------------------------------------------------------

TRAINED = 740_000
LEARNED = Protected(num_envs=8, num_steps=200, minibatch_size=160, gamma=0.95, learning_rate=1e-3, budget=0.15,
                    response_steps=60_000, payoff_episodes=24, rounds=200)  # fmt: skip


def pendulum(seeds: Sequence[int]) -> dict[str, list[Any]]:
    """The returns of all members against no adversary and against those of discovery, one table a seed."""
    tables = []
    for seed in seeds:
        learner = make_learner(LEARNED, "Pendulum-v1", [seed], TRAINED)
        try:
            while learner.steps < TRAINED:
                learner.iterate()
            tables.append(learner.payoffs[0].tolist())
        finally:
            learner.close()
    return {"tables": tables}


def of_pendulum(found: Measurements) -> Summary:
    tables = [np.array(table) for table in found["pendulum"]["tables"]]
    return {
        "best member, natural": np.array([table[:, 0].max() for table in tables]),
        "first member, natural": np.array([table[0, 0] for table in tables]),
        "members' best against every adversary": np.array([table.max(0).mean() for table in tables]),
        "first member against every adversary": np.array([table[0].mean() for table in tables]),
    }


def swings(summary: Summary) -> bool:
    return float(np.mean(summary["first member, natural"])) > -600


CONTROL = Gate("control", swings, "the first member reaches −600 without an attack")

CLAIM = Claim(
    slug="protected",
    sentence="A few non-dominated policies and a bandit that chooses among them do well under unknown and changing attacks, "
    "where the policy of the best worst case gives return away.",
    source="Liu et al. 2024, abstract, and the authors' code; tables of the paper were not readable",
    method=Protected,
    experiments={
        "rings": Experiment(
            "mechanism",
            {"rings": rings},
            seeds=12,
            minutes=0.12,
            setting="random rings of eight states and three actions, ten steps; 47 attackers that move what is seen by one "
            "place, 110 policies; discovery to a tenth of the range of returns, EXP3 (rate 2) over 2000 episodes",
            arms={"PROTECTED": Protected()},
            summary=of_rings,
        ),
        "pendulum": Experiment(
            "miniature",
            {"pendulum": pendulum},
            seeds=8,
            minutes=28,
            setting="Pendulum-v1, observations attacked within 0.15 standard deviations; one robust member and three "
            "discoveries of 60k steps a side, 740k steps in all",
            arms={"PROTECTED": LEARNED},
            summary=of_pendulum,
            differs=(
                "Pendulum in place of four MuJoCo tasks",
                "60k steps a discovery in place of 15 million",
                "SA-RL in place of PA-AD adversaries",
            ),
        ),
    },
    parts=(
        Part(
            "the bandit is close to the best member in every scenario",
            "primary",
            "rings",
            Mean("bandit − best member, worst scenario"),
            NoWorse(0.12),
            says="abstract: adapts at test time, with sublinear regret over a finite set",
        ),
        Part(
            "its mean over the scenarios is above that of the robust policy",
            "primary",
            "rings",
            Difference("bandit, mean of scenarios", "robust policy, mean of scenarios"),
            More(),
            gates=(ROOM,),
            says="abstract: beyond worst-case attacks",
        ),
        Part(
            "without an attack it gains",
            "secondary",
            "rings",
            Mean("bandit − robust policy, no attack"),
            More(),
            gates=(ROOM,),
        ),
        Part(
            "under the attack that is worst for the robust policy it loses little",
            "secondary",
            "rings",
            Mean("bandit − robust policy, its worst attack"),
            NoWorse(0.1),
        ),
        Part(
            "no member that is found is dominated", "primary", "rings", Exact("most dominated members"), Less(0.5, 0.5)
        ),
        Part(
            "the best policy leads the best member by at most its gap under mixtures of attackers",
            "primary",
            "rings",
            Exact("largest regret beyond the gap"),
            Less(1e-9, 1e-9),
        ),
        Part(
            "the best member does as well as the first without an attack",
            "primary",
            "pendulum",
            Difference("best member, natural", "first member, natural"),
            NoWorse(20.0),
            gates=(CONTROL,),
        ),
        Part(
            "against the adversaries of discovery the best member is above the first",
            "primary",
            "pendulum",
            Difference("members' best against every adversary", "first member against every adversary"),
            More(),
            gates=(CONTROL,),
        ),
    ),
    amended=(
        "The regret beyond the gap was measured with the gap under single attackers at first, and was 0.039 on the seeds that "
        "are judged: that gap bounds the regret under one attacker only. The gap under mixtures bounds it where they change.",
    ),
    not_run="The paper's setting is 10 discoveries of about 20 million steps a seed; a smaller one on Hopper, with 2 of one "
    "million steps and 300 episodes of EXP3, would take about 40 core-minutes a seed.",
)
