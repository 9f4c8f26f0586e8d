"""CDSA's claim: scores of the data keep a policy that leaves them on the way, without training it again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from surefoot.claims.parts import (
    Claim,
    Difference,
    Experiment,
    Gate,
    Less,
    LogRatio,
    Mean,
    Measurements,
    More,
    NoWorse,
    Part,
    Summary,
)
from surefoot.data.transitions import Transitions, joined
from surefoot.loops.offline.learner import OfflineLearner
from surefoot.methods.offline.baselines import TD3BC
from surefoot.methods.offline.cdsa import CDSA
from surefoot.models.acting import Said, box_of
from surefoot.models.corrected import Corrected
from surefoot.seeding import numpy_stream, torch_stream

# --- a corridor: along x from 0 to 3, and not beyond |y| = 0.5 --------------------------------------------------------

BOX, SPEED, GOAL, WALL, COST = gym.spaces.Box(-1, 1, (2,), np.float32), 0.1, 3.0, 0.5, 20.0
ROWS, TRAJECTORY, LONGEST, EPISODES = 5250, 35, 60, 500
States = NDArray[np.float64]


def behaved(state: States) -> States:
    """The mean of what the data did in a state."""
    return np.stack([np.full(len(state), 0.9), -1.5 * state[:, 1]], -1)


def steered(state: States, action: States) -> States:
    """An action with what an error in a value may add to it: a push to the side that depends on x."""
    return (action + np.stack([np.zeros(len(state)), np.sin(2.2 * state[:, 0] + 0.5)], -1)).clip(-1, 1)


def trajectories(seed: int) -> Transitions:
    """150 trajectories of 35 steps from (0, 0), none of which leaves the corridor."""
    g, count = numpy_stream(seed, "trajectories in a corridor"), ROWS // TRAJECTORY
    state, columns = np.zeros((count, 2)), []
    for t in range(TRAJECTORY):
        action = (behaved(state) + g.normal(size=state.shape) * [0.1, 0.5]).clip(-1, 1)
        after = state + SPEED * action
        columns.append((state, action, np.full(count, -0.1), after, np.full(count, t == TRAJECTORY - 1)))
        state = after
    each = [np.stack(x, 1).reshape(ROWS, *x[0].shape[1:]) for x in zip(*columns, strict=True)]
    cut = each.pop()
    return Transitions(*each, np.zeros_like(cut), cut, action_space=BOX, name="trajectories in a corridor")  # type: ignore[call-arg]


class OfEach(OfflineLearner):
    """A learner of several seeds, each with a data set of its own, all of the same size."""

    def rows(self) -> list[NDArray[np.int64]]:
        return [x % ROWS + i * ROWS for i, x in enumerate(super().rows())]


def trained(method: Any, seeds: Sequence[int], steps: int) -> OfEach:
    """A learner after so many gradient steps on every seed's trajectories."""
    every = joined([trajectories(seed) for seed in seeds])
    learner = OfEach(method, every, (every.observation_space, BOX), seeds, steps)
    while learner.steps < steps:
        learner.iterate()
    return learner


SIZES: dict[str, Any] = {"hidden": (64, 64), "learning_rate": 1e-3}
SHORT, LONG = 200, 2500
CORRECTOR = CDSA(**SIZES, score_hidden=(64, 64), log_every=100)
SMALL = replace(CORRECTOR, hidden=(32, 32), score_hidden=(32, 32), batch_size=128, learning_rate=3e-3, tau=0.02)
BASE = TD3BC(**SIZES, alpha=20.0, log_every=100)
RULES = {
    "corrected": Corrected(),
    "action score alone": Corrected(weight=0.0),
    "change score alone": Corrected(action_gain=0.0),
}


def pulled(corrector: Any, rule: Corrected, state: States, action: States) -> States:
    """The corrected actions."""
    x, a = (torch.from_numpy(one).float() for one in (state, action))
    box = box_of(BOX)
    with torch.no_grad():
        return rule(corrector.ask, x, Said(box, a, box, x)).double().numpy()


# --- one step --------------------------------------------------------------------------------------------------------


def one_step(seeds: Sequence[int]) -> dict[str, list[float]]:
    """How far actions are from what the data did in the mean, on the data's states, before and after corrections, and
    how far the mean's own actions are moved, as a share of their range."""
    learner, found = trained(SMALL, seeds, SHORT), dict[str, list[float]]()
    for index, seed in enumerate(seeds):
        corrector, state = learner.agent(index), trajectories(seed).observation[::5].astype(float)
        mean = behaved(state).clip(-1, 1)
        wrong = steered(state, mean)
        row = {"before": _apart(wrong, mean)}
        row |= {name: _apart(pulled(corrector, rule, state, wrong), mean) for name, rule in RULES.items()}
        noise = 0.3 * numpy_stream(seed, "random corrections").normal(size=wrong.shape)
        row |= {"random": _apart((wrong + noise).clip(-1, 1), mean)}
        row |= {"moved": _apart(pulled(corrector, RULES["corrected"], state, mean), mean) / 2}
        for name, x in row.items():
            found.setdefault(name, []).append(x)
    return found


def _apart(a: States, b: States) -> float:
    return float(np.linalg.norm(a - b, axis=-1).mean())


# --- the way through the corridor ------------------------------------------------------------------------------------

Act = Callable[[States], States]


def played(act: Act, seed: int, kicks: bool) -> dict[str, float]:
    """Of 500 episodes the share that leave the corridor, the mean return, and the mean of the lowest 5 %."""
    g = numpy_stream(seed, "kicks")
    state, total = np.zeros((EPISODES, 2)), np.zeros(EPISODES)
    here, failed = np.ones(EPISODES, bool), np.zeros(EPISODES, bool)
    for _ in range(LONGEST):
        kick = 0.15 * g.normal(size=EPISODES) * (g.random(EPISODES) < 0.15) * kicks
        state = np.where(here[:, None], state + SPEED * act(state), state)
        state[:, 1] += kick * here
        left = here & (np.abs(state[:, 1]) > WALL)
        total -= 0.1 * here + COST * left
        failed |= left
        here &= ~left & (state[:, 0] < GOAL)
    lowest = np.sort(total)[: EPISODES // 20]
    return {"failures": float(failed.mean()), "return": float(total.mean()), "lowest": float(lowest.mean())}


def through(seeds: Sequence[int]) -> dict[str, list[float]]:
    """Failures, returns and lowest returns by base policy and correction, a number a seed."""
    learner, actor = trained(CORRECTOR, seeds, LONG), trained(BASE, seeds, LONG)
    found: dict[str, list[float]] = {}
    for index, seed in enumerate(seeds):
        corrector, td3 = learner.agent(index), actor.agent(index)
        clone = said(corrector.ruled())
        bases = {"clone": clone, "misled": lambda s, act=clone: steered(s, act(s)), "TD3+BC": said(td3)}
        for base, act in bases.items():
            arms: dict[str, Act] = {"alone": act}
            for name, rule in RULES.items():
                arms[name] = lambda s, act=act, rule=rule: pulled(corrector, rule, s, act(s))  # noqa: B023
            g = torch_stream(seed, f"random corrections of {base}")
            arms["random"] = lambda s, act=act, g=g: (act(s) + 0.3 * _normal(s, g)).clip(-1, 1)
            for name, one in arms.items():
                for key, x in played(one, seed, kicks=True).items():
                    found.setdefault(f"{base}, {name}: {key}", []).append(x)
            for name in ("alone", "corrected"):
                calm = played(arms[name], seed, kicks=False)["return"]
                found.setdefault(f"{base}, {name}: calm return", []).append(calm)
    return found


def said(agent: Any) -> Act:
    """What an agent does."""
    return lambda state: np.asarray(agent.predict(state.astype(np.float32), deterministic=True)[0], float)


def _normal(state: States, generator: torch.Generator) -> States:
    drawn: Tensor = torch.randn(state.shape, generator=generator, dtype=torch.float64)
    return drawn.numpy()


def of_step(found: Measurements) -> Summary:
    return found["one step"]


def of_corridor(found: Measurements) -> Summary:
    return found["corridor"]


FAILS = Gate("room", lambda s: float(np.mean(s["misled, alone: failures"])) > 0.3, "the misled policy fails often")

CLAIM = Claim(
    slug="cdsa",
    sentence="One corrector made of scores of the data makes policies that are not trained again more averse to risk.",
    source="Liu et al. 2024, abstract; the corrector is a reconstruction",
    method=CDSA,
    experiments={
        "step": Experiment(
            "mechanism",
            {"one step": one_step},
            seeds=8,
            minutes=0.1,
            setting="a corridor, 150 trajectories a seed, 200 gradient steps; actions that a wrong value pushes aside, on "
            "the data's states",
            arms={"corrector": SMALL},
            summary=of_step,
        ),
        "corridor": Experiment(
            "miniature",
            {"corridor": through},
            seeds=8,
            minutes=4.0,
            setting="a corridor whose walls end an episode and cost 20, sideways kicks in 15 % of the steps; 2,500 "
            "gradient steps; a clone, the same with a push to the side, and TD3+BC with α = 20; 500 episodes",
            arms={"corrector": CORRECTOR, "TD3+BC": BASE},
            summary=of_corridor,
            differs=("one task of ours in place of D4RL's, 2,500 gradient steps, two layers of 64",),
        ),
    },
    parts=(
        Part(
            "brings actions that were pushed aside nearer to the data",
            "primary",
            "step",
            LogRatio("corrected", "before"),
            Less(),
            says="abstract: uses the gradient field of the dataset density to adjust actions",
        ),
        Part(
            "moves the behaviour's own actions by less than a tenth of their range",
            "secondary",
            "step",
            Mean("moved"),
            Less(0.1, against=0.1),
        ),
        Part(
            "a random correction does not bring them nearer",
            "exploratory",
            "step",
            LogRatio("random", "before"),
            More(),
        ),
        Part(
            "a misled policy fails less often",
            "primary",
            "corridor",
            Difference("misled, corrected: failures", "misled, alone: failures"),
            Less(),
            gates=(FAILS,),
            says="abstract: enhances risk-averse behaviour",
        ),
        Part(
            "its lowest returns are no worse",
            "primary",
            "corridor",
            Difference("misled, corrected: lowest", "misled, alone: lowest"),
            NoWorse(1.0),
            gates=(FAILS,),
        ),
        Part(
            "better than a random correction of it",
            "primary",
            "corridor",
            Difference("misled, corrected: failures", "misled, random: failures"),
            Less(),
            gates=(FAILS,),
        ),
        Part(
            "a clone that is not kicked loses at most a twentieth of its return",
            "secondary",
            "corridor",
            Difference("clone, corrected: calm return", "clone, alone: calm return"),
            NoWorse(0.17),
        ),
        Part(
            "with the change score too it fails less often than with the action score alone",
            "exploratory",
            "corridor",
            Difference("misled, corrected: failures", "misled, action score alone: failures"),
            Less(),
        ),
        Part(
            "TD3+BC returns more with it",
            "exploratory",
            "corridor",
            Difference("TD3+BC, corrected: return", "TD3+BC, alone: return"),
            More(),
            says="abstract: improves several baseline policies",
        ),
    ),
    not_run="No published number, recipe or code of the paper could be read, so there is nothing to repeat; and D4RL's "
    "files do not come with the package.",
)
