"""HNPG's claim: a data set leads it through a lock that its own steps do not open, and a wrong one does not mislead it.

The miniature is HAC, its tabular form, in the lock whose hidden state is shown; the instance is the paper's own lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
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
    Published,
    Summary,
)
from surefoot.data.transitions import Transitions
from surefoot.envs.comblock import CombinationLock
from surefoot.loops.common.run import make_learner
from surefoot.methods.control.hnpg import HNPG
from surefoot.methods.control.hnpg.tabular import Steps, Table, evaluated, improved
from surefoot.seeding import numpy_stream

# --- exact pieces ------------------------------------------------------------------------------------------------------

GAMMA = 0.9


def small_world(seed: int) -> tuple[Table, Table, Steps]:
    """A deterministic MDP of four steps: a policy, its exact values, and every pair of every step once."""
    g = numpy_stream(seed, "a deterministic world")
    steps, states, actions = 4, 3, 2
    move, pay = g.integers(states, size=(steps, states, actions)), g.normal(size=(steps, states, actions))
    policy, q, value = g.dirichlet(np.ones(actions), size=(steps, states)), np.zeros_like(pay), np.zeros(states)
    for h in reversed(range(steps)):
        q[h] = pay[h] + GAMMA * value[move[h]]
        value = (policy[h] * q[h]).sum(-1)
    state, action = (x.reshape(-1, 1).repeat(steps, 1) for x in np.indices((states, actions)))
    hs = np.arange(steps)
    return policy, q, Steps(state, action, pay[hs, state, action], move[hs, state, action])


def beside_exact_values(seeds: Sequence[int]) -> float:
    """The largest error of the critic of data that cover everything."""
    worst = 0.0
    for seed in seeds:
        policy, q, data = small_world(seed)
        worst = max(worst, float(np.abs(evaluated(np.zeros_like(q), policy, None, data, 1.0, GAMMA) - q).max()))
    return worst


def beside_natural_gradient(seeds: Sequence[int]) -> float:
    """The largest difference between the exponentiated step and θ + η·F⁺∇J of a softmax policy."""
    worst = 0.0
    for seed in seeds:
        g = numpy_stream(seed, "a softmax policy")
        policy, f = g.dirichlet(np.ones(5)), g.normal(size=5)
        phi = np.eye(5) - policy
        direction = np.linalg.pinv((phi.T * policy) @ phi) @ phi.T @ (policy * (f - policy @ f))
        moved = policy * np.exp(0.5 * direction)
        worst = max(worst, float(np.abs(moved / moved.sum() - improved(policy, f, 0.5)).max()))
    return worst


# --- the lock with its state shown: HAC ----------------------------------------------------------------------------------

STEPS, ACTIONS, DEAD = 8, 10, 2
LOGGED, OWN, ETA, ITERATIONS = 500, 20, 3.0, 50
SHARES = {"own": 0.0, "data": 1.0, "both": 0.5}
WRONG = 0.3


def lock(g: np.random.Generator) -> NDArray[np.int64]:
    """The right actions `[H, 2]`."""
    return g.integers(0, ACTIONS, (STEPS, DEAD))


def episodes(right: NDArray[np.int64], policy: Table, count: int, g: np.random.Generator) -> Steps:
    """Episodes of a policy `[H, 3, A]`."""
    state, columns = g.integers(0, 2, count), list[list[NDArray[Any]]]()
    for h in range(STEPS):
        total = policy[h, state].cumsum(-1)
        action = np.minimum((g.random((count, 1)) > total).sum(-1), ACTIONS - 1)
        good = state != DEAD
        opened = good & (action == right[h, np.minimum(state, 1)])
        reward = np.where(opened, float(h == STEPS - 1), 0.1 * (good & ~opened & (g.random(count) < 0.5)))
        after = np.where(opened, g.integers(0, 2, count), DEAD)
        columns.append([state, action, reward, after])
        state = after
    return Steps(*(np.stack([column[k] for column in columns], 1) for k in range(4)))


def value_of(right: NDArray[np.int64], policy: Table) -> float:
    """The exact return of a policy."""
    value = np.zeros(3)
    for h in reversed(range(STEPS)):
        opens = policy[h, [0, 1], right[h]]
        value = np.append(opens * (float(h == STEPS - 1) + value[:2].mean()) + (1 - opens) * 0.05, 0.0)
    return float(value[:2].mean())


def behaviour(right: NDArray[np.int64]) -> Table:
    """The right action, or with probability 1/H any."""
    policy = np.full((STEPS, 3, ACTIONS), 1 / ACTIONS)
    policy[:, :2] /= STEPS
    for z in (0, 1):
        policy[np.arange(STEPS), z, right[:, z]] += 1 - 1 / STEPS
    return policy


def hac(arm: str, wrong: float, seeds: Sequence[int]) -> list[float]:
    """The exact return of HAC's policy after 50 iterations, on data of which a share of next states is replaced."""
    found = []
    for seed in seeds:
        g = numpy_stream(seed, "a lock")
        right = lock(g)
        data = episodes(right, behaviour(right), LOGGED, g)
        replaced = g.random(data.next_state.shape) < wrong
        data = data._replace(next_state=np.where(replaced, g.integers(0, 3, replaced.shape), data.next_state))
        g, f = numpy_stream(seed, "own episodes"), np.zeros((STEPS, 3, ACTIONS))
        policy = np.full_like(f, 1 / ACTIONS)
        for _ in range(ITERATIONS):
            own = episodes(right, policy, OWN, g) if arm != "data" else None
            f = evaluated(f, policy, own, data if arm != "own" else None, SHARES[arm])
            policy = improved(policy, f, ETA)
        found.append(value_of(right, policy))
    return found


def of_hac(found: Measurements) -> Summary:
    return dict(found)


# --- the paper's lock ----------------------------------------------------------------------------------------------------

CAP, WINDOW, EPISODES = 300_000, 20, 50_000
INSTANCE: dict[str, HNPG] = {"HNPG": HNPG(), "TRPO": HNPG(offline_share=0.0)}


def demonstrations(horizon: int) -> Transitions:
    """The episodes of the lock's offline policy."""
    env, g, rows = CombinationLock(horizon), numpy_stream(0, "demonstrations"), list[tuple[Any, ...]]()
    for episode in range(EPISODES):
        seen, _ = env.reset(seed=episode)
        for _ in range(horizon):
            action = env.demonstrate(seen[None], g)[0]
            after, reward, ended, cut, _ = env.step(action)
            rows.append((seen, action, reward, after, ended, cut))
            seen = after
    return Transitions(*(np.array(column) for column in zip(*rows, strict=True)), action_space=env.action_space)


def comblock(arm: str, horizon: int, seeds: Sequence[int]) -> dict[str, list[float]]:
    """Own steps until the mean return of 20 iterations passed 0.5, or of the whole run; and the mean return of the 20
    iterations after that, or of the last ones."""
    env, method = f"surefoot/Comblock{horizon}-v0", INSTANCE[arm]
    data = demonstrations(horizon) if method.uses_data else None
    steps, means = [], []
    for seed in seeds:
        learner = make_learner(method, env, [seed], CAP, **({} if data is None else {"data": data}))
        returns = list[float]()
        while learner.steps < CAP and (len(returns) < WINDOW or np.mean(returns[-WINDOW:]) <= 0.5):
            returns.append(learner.iterate()[0]["return_mean"])
        steps.append(float(learner.steps))
        if learner.steps < CAP:
            returns += [learner.iterate()[0]["return_mean"] for _ in range(WINDOW)]
        learner.close()
        means.append(float(np.mean(returns[-WINDOW:])))
    return {"steps": steps, "return": means}


def of_comblock(found: Measurements) -> Summary:
    return {f"{name}, {arm}": x[name] for arm, x in found.items() for name in ("steps", "return")}


STUCK = Gate("room", lambda s: float(np.mean(s["own, clean"])) < 0.5, "own steps alone return less than 0.5")
SHOWN = Gate("control", lambda s: float(np.mean(s["data, clean"])) > 0.5, "clean data alone return more than 0.5")
LOST = Gate("room", lambda s: float(np.mean(s["data, wrong"])) < 0.5, "wrong data alone return less than 0.5")


def instance(horizon: int) -> Experiment:
    return Experiment(
        "instance",
        {arm: partial(comblock, arm, horizon) for arm in INSTANCE},
        seeds=3,
        minutes={5: 9.0, 10: 25.0}[horizon],
        setting=f"the paper's continuous lock of {horizon} steps, 50,000 episodes of its offline policy, batches of "
        "1,200 steps; stopped 20 iterations after the mean return of 20 passed 0.5, or after 300,000 steps",
        arms=INSTANCE,
        summary=of_comblock,
        differs=(
            "3 seeds in place of 5, and 300,000 steps at most in place of 10⁸: not solved by then is no failure",
            "1,200 steps an iteration, a sixth or an eleventh of which only reset an environment, in place of 1,000",
            "single precision, orthogonal initialisation, the KL checked in the line search",
            "the anti-shaped reward is paid in every step, as the text says; the code pays it in the last one only",
        ),
    )


def solves(horizon: int, published: str) -> tuple[Part, ...]:
    return (
        Part(
            f"opens the lock of {horizon} steps, with a mean return above 0.5",
            "primary",
            f"comblock {horizon}",
            Mean("return, HNPG"),
            More(0.5),
            published=Published(0.5, published, "read"),
            says="§6.1: HNPG solves the continuous comblock up to H = 50",
        ),
        Part(
            f"returns 0.4 more than TRPO within 300,000 steps of the lock of {horizon} steps",
            "primary",
            f"comblock {horizon}",
            Difference("return, HNPG", "return, TRPO"),
            More(0.4),
            says="§6.1: TRPO fails at H = 5",
        ),
    )


CLAIM = Claim(
    slug="hnpg",
    sentence="A critic fitted to data and fresh returns together finds what on-policy steps alone do not, and stays right "
    "where the data are wrong.",
    source="Zhou et al. 2023, theorem 1 and §6.1",
    method=HNPG,
    experiments={
        "pieces": Experiment(
            "mechanism",
            {"values": beside_exact_values, "natural gradient": beside_natural_gradient},
            seeds=50,
            minutes=0.02,
            setting="random deterministic MDPs of four steps whose every pair is in the data; random softmax policies",
            arms={"HNPG": HNPG()},
        ),
        "lock": Experiment(
            "miniature",
            {
                f"{arm}, {kind}": partial(hac, arm, wrong)
                for kind, wrong in (("clean", 0.0), ("wrong", WRONG))
                for arm in SHARES
            },
            seeds=12,
            minutes=0.1,
            setting="HAC in the lock of 8 steps with its state shown, 500 offline episodes (ε = 1/8), 20 own episodes in "
            "each of 50 iterations, η = 3; wrong data: 30 % of next states replaced by any; exact returns",
            arms={"HNPG": HNPG()},
            summary=of_hac,
            differs=("the tabular form in place of the networks", "the hidden state is shown"),
        ),
        "comblock 5": instance(5),
        "comblock 10": instance(10),
    },
    parts=(
        Part(
            "the critic of data that cover everything is exact",
            "secondary",
            "pieces",
            Exact("values"),
            Less(1e-9, against=1e-6),
        ),
        Part(
            "the exponentiated step is the natural gradient of a softmax",
            "primary",
            "pieces",
            Exact("natural gradient"),
            Less(1e-9, against=1e-6),
        ),
        Part(
            "with clean data both together return 0.5 more than own steps alone",
            "primary",
            "lock",
            Difference("both, clean", "own, clean"),
            More(0.5),
            gates=(STUCK, SHOWN),
            says="theorem 1: C_off in place of C_npg where Bellman completeness holds",
        ),
        Part(
            "with clean data both together are as good as the data alone, within 0.05",
            "secondary",
            "lock",
            Difference("both, clean", "data, clean"),
            NoWorse(0.05),
            gates=(SHOWN,),
        ),
        Part(
            "with wrong data both together return 0.3 more than the data alone",
            "primary",
            "lock",
            Difference("both, wrong", "data, wrong"),
            More(0.3),
            gates=(LOST, SHOWN),
            says="theorem 1: the guarantee of on-policy NPG without Bellman completeness",
        ),
        Part(
            "with wrong data both together return 0.3 more than own steps alone",
            "exploratory",
            "lock",
            Difference("both, wrong", "own, wrong"),
            More(0.3),
            gates=(STUCK,),
        ),
        *solves(5, "Fig. 2, H = 5: solved, that is above 0.5"),
        *solves(10, "§6.1: solved up to H = 50, that is above 0.5"),
    ),
)
