"""ICPI's claim: greedy on imagined episodes improves a policy that is nothing but examples; without that it stays as it
was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

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
from surefoot.envs.tabular import TabularMDP, resolve
from surefoot.methods.language.icpi import ICPI, best
from surefoot.methods.language.icpi.imagination import ACTION, DONE, EPISODE, NEXT, REWARD, STATE, Imagination, balanced
from surefoot.methods.language.icpi.predictors import Lookup
from surefoot.seeding import numpy_stream
from surefoot.solvers import solve

# --- imagination with all experience -------------------------------------------------------------------------------


def experience(mdp: TabularMDP, policy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every step of a deterministic MDP, and those of a deterministic policy."""
    rows, after = [], mdp.dense_rows.argmax(-1).numpy()
    for state, action in np.ndindex(mdp.states - 1, mdp.actions):
        there, end = int(after[state, action]), mdp.states - 1
        rows.append((state, action, float(mdp.expected_reward()[state, action]), there == end, there, 0))
    every = np.array(rows, dtype=np.float64)
    return every, every[every[:, ACTION] == policy[every[:, STATE].astype(int)]]


def imagined(seeds: Sequence[int]) -> dict[str, list[float]]:
    """With every step of the chain and of the maze in the prompt, and an optimal policy: the largest error of Q(s, a), and
    how much less than optimal the greedy policy is worth. And how far a balanced prompt is from equal counts."""
    found: dict[str, list[float]] = {"q": [], "greedy": [], "uneven": []}
    for seed in seeds:
        rng, errors, losses = numpy_stream(seed, "imagined"), [], []
        for name in DOMAINS:
            mdp = resolve(name)
            solution = solve(mdp, tolerance=1e-10)
            value = solution.value.numpy()
            exact = mdp.expected_reward().numpy() + mdp.gamma * mdp.dense_rows.numpy() @ value
            every, recent = experience(mdp, exact[:-1].argmax(1))
            model = Imagination(every, recent, Lookup(), rng, mdp.states, mdp.actions)
            method = ICPI(longest=9)
            q = np.array([method.values(mdp, model, state) for state in range(mdp.states - 1)])
            errors.append(float(np.abs(q - exact[:-1]).max()))
            losses.append(max(float(value[s] - exact[s, best(row)].min()) for s, row in enumerate(q)))
        labels = rng.choice([0.0, 1.0, 2.0], 50, p=[0.8, 0.15, 0.05])
        counts = np.unique(labels[balanced(labels, rng)], return_counts=True)[1]
        found["q"].append(max(errors))
        found["greedy"].append(max(losses))
        found["uneven"].append(float(np.ptp(counts)))
    return found


def of_imagined(found: Measurements) -> Summary:
    return {f"worst: {name}": max(values) for name, values in found["all steps"].items()}


# --- learning from nothing -----------------------------------------------------------------------------------------

DOMAINS = ("goal-chain", "goal-maze")
DISTRACTED = "goal-chain:distractors=8"
EPISODES = 80


@dataclass(frozen=True)
class NoArgmax(ICPI):
    """What was done lately in such a state, and nothing imagined."""

    def act(self, mdp: TabularMDP, imagined: Imagination, state: int) -> int:
        found = imagined.action(state)
        return int(imagined.rng.integers(mdp.actions)) if found is None else found


@dataclass(frozen=True)
class TabularQ(ICPI):
    """Q-learning with step size 1 and initial values of 1, on the same schedule."""

    def act(self, mdp: TabularMDP, imagined: Imagination, state: int) -> int:
        q = np.ones((mdp.states, mdp.actions))
        for row in imagined.steps:
            here, action, there = int(row[STATE]), int(row[ACTION]), int(row[NEXT])
            q[here, action] = row[REWARD] + mdp.gamma * (0.0 if row[DONE] else q[there].max())
        return int(imagined.rng.choice(best(q[state])))


@dataclass(frozen=True)
class Random(ICPI):
    """Any action."""

    def act(self, mdp: TabularMDP, imagined: Imagination, state: int) -> int:
        return int(imagined.rng.integers(mdp.actions))


METHODS = {"icpi": ICPI(), "no argmax": NoArgmax(), "q-learning": TabularQ(), "random": Random()}


def episodes(arm: str, name: str, seeds: Sequence[int]) -> dict[str, list[float]]:
    """The regret of an episode's discounted return, as a share of the optimal value of its first state: the mean over the
    first half of the episodes and over the second."""
    mdp, method = resolve(name), METHODS[arm]
    value = solve(mdp, tolerance=1e-10).value.numpy()
    found: dict[str, list[float]] = {"early": [], "late": []}
    for seed in seeds:
        state, returns = method.start(mdp, seed), []
        for iteration in range(EPISODES):
            state, metrics = method.step(mdp, state, seed, iteration)
            returns.append(metrics["return_mean"])
        steps = state["steps"].numpy()
        first = steps[np.unique(steps[:, EPISODE], return_index=True)[1], STATE].astype(int)
        early, late = np.split(1 - np.array(returns) / value[first], 2)
        found["early"].append(float(early.mean()))
        found["late"].append(float(late.mean()))
    return found


def of_episodes(found: Measurements) -> Summary:
    return {f"{name}, {place}": x for place, facts in found.items() for name, x in facts.items()}


def chance_fails(summary: Summary) -> bool:
    return all(float(np.mean(summary[f"late, random, {name}"])) > 0.5 for name in DOMAINS)


def q_learning_learns(summary: Summary) -> bool:
    return all(float(np.mean(summary[f"late, q-learning, {name}"])) < 0.1 for name in DOMAINS)


GATES = (
    Gate("room", chance_fails, "random actions have a regret above 0.5 in the second half"),
    Gate("control", q_learning_learns, "Q-learning on the same schedule ends with a regret below 0.1"),
)

CLAIM = Claim(
    slug="icpi",
    sentence="A sequence model that continues experience is a world and a policy; acting greedily on the episodes that it "
    "imagines improves the policy in its prompt, and continuing the prompt alone does not.",
    source="Brooks et al. 2022 (arXiv:2210.03821), §4 and the figure of algorithms",
    method=ICPI,
    experiments={
        "imagined": Experiment(
            "mechanism",
            {"all steps": imagined},
            seeds=4,
            minutes=0.01,
            setting="the chain and the maze with every step in the prompt and an optimal policy as the recent one; 50 labels, "
            "four in five of one kind",
            arms={"ICPI": ICPI(longest=9)},
            summary=of_imagined,
        ),
        "episodes": Experiment(
            "miniature",
            {f"{arm}, {name}": partial(episodes, arm, name) for arm in METHODS for name in (*DOMAINS, DISTRACTED)},
            seeds=20,
            minutes=0.6,
            setting="chain, maze and the chain with a distractor of eight values, γ = 0.8, 80 episodes of at most eight steps; "
            "regret as a share of the optimal value, in the second half of the episodes",
            arms=METHODS,
            summary=of_episodes,
            differs=(
                "a lookup of equal lines in place of Codex: the paper's control, not its model",
                "three of six domains; no hints in words",
                "no argmax continues all recent episodes, the paper's only those above a threshold",
                "80 episodes in place of 195 steps or so",
            ),
        ),
    },
    parts=(
        Part(
            "with all experience imagined returns are the optimal values",
            "primary",
            "imagined",
            Exact("worst: q"),
            Less(1e-9, against=1e-9),
        ),
        Part(
            "and the greedy policy is optimal",
            "primary",
            "imagined",
            Exact("worst: greedy"),
            Less(1e-9, against=1e-9),
        ),
        Part(
            "a balanced prompt has every label equally often",
            "secondary",
            "imagined",
            Exact("worst: uneven"),
            Less(0.5, against=0.5),
        ),
        *(
            part
            for name, place in zip(("goal-chain", "goal-maze"), ("the chain", "the maze"), strict=True)
            for part in (
                Part(
                    f"learns {place}",
                    "primary",
                    "episodes",
                    Mean(f"late, icpi, {name}"),
                    Less(0.1, against=0.1),
                    gates=GATES,
                    says="§4.1: learns good policies on all six domains",
                ),
                Part(
                    f"which continuing what was done lately does not, {place}",
                    "primary",
                    "episodes",
                    Difference(f"late, no argmax, {name}", f"late, icpi, {name}"),
                    More(0.2, against=0.0),
                    gates=GATES,
                ),
                Part(
                    f"as well as Q-learning on the same schedule, {place}",
                    "secondary",
                    "episodes",
                    Difference(f"late, q-learning, {name}", f"late, icpi, {name}"),
                    NoWorse(0.05),
                    gates=GATES,
                ),
            )
        ),
        Part(
            "a lookup does not see past a distractor",
            "secondary",
            "episodes",
            Difference(f"late, icpi, {DISTRACTED}", "late, icpi, goal-chain"),
            More(0.1, against=0.0),
            gates=GATES,
            says="§4.1: matching does not learn all domains, Codex does",
        ),
    ),
    not_run="Codex (code-davinci-002), which is no longer offered; a local code model of 1.5 billion weights would take half "
    "an hour of one H200 for six domains and four seeds, and no weights are at hand",
)
