"""RRLS's claim: on a box of physics the best average and the best worst case are two policies, and TD3 has neither."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from surefoot.claims.parts import (
    Claim,
    Difference,
    Exact,
    Experiment,
    Gate,
    Measurements,
    More,
    NoWorse,
    Part,
    Summary,
    Within,
)
from surefoot.envs.rrls import uncertainty
from surefoot.evaluate.stress import stress
from surefoot.loops.common.optimizer import Adam
from surefoot.loops.common.run import make_learner
from surefoot.loops.networks.nets import Batch, Function, gradient_step
from surefoot.methods.control.td3 import TD3
from surefoot.methods.robust.m2td3 import M2TD3
from surefoot.methods.robust.rrls import DomainRandomization

# --- reward −(a − ω)², with exact critics --------------------------------------------------------------------------

OMEGAS = torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64)  # 0 and 3 bound the box; 1 is nominal
TOP, SIZE, UPDATES = 3.0, 4, 600


class Held(torch.nn.Module):
    """An actor with one action for every state."""

    def __init__(self) -> None:
        super().__init__()
        self.action = torch.nn.Parameter(torch.zeros(1))

    def forward(self, state: Tensor) -> Tensor:
        return self.action.expand(*state.shape[:-1], 1)


def exact_critic(method: Any, vector: Tensor, state: Tensor, judged: Tensor) -> Tensor:
    """The exact value of an action, both in units of [−1, 1]: under the ω beside it for M2TD3, under the nominal one for
    TD3, and the mean over all for domain randomisation."""
    action, *rest = ((judged + 1.0) * TOP / 2.0).unbind(-1)
    if isinstance(method, M2TD3):
        return -((action - rest[0]) ** 2)
    among = OMEGAS if isinstance(method, DomainRandomization) else OMEGAS[1:2]
    return -((action.unsqueeze(-1) - among) ** 2).mean(-1)


def squares(seeds: Sequence[int]) -> dict[str, dict[str, float]]:
    """Where each method's own actor steps (and M2TD3's candidates) end, with exact critics in place of learned ones."""
    box = gym.spaces.Box(-1, 1, (1,))
    state: dict[str, gym.Space] = {"state": box, "parameters": box}
    settings: dict[str, Any] = {"learning_rate": 3e-2, "policy_delay": 1}
    found = {}
    for name, method in {
        "td3": TD3(**settings), "randomised": DomainRandomization(**settings), "m2td3": M2TD3(**settings)
    }.items():  # fmt: skip
        game = isinstance(method, M2TD3)
        joint = gym.spaces.Box(-1, 1, (2,)) if game else box
        nets = method.networks(gym.spaces.Dict(state) if game else box, joint)
        del nets["critic"]
        nets["actor"] = type(nets["actor"])(Held, nets["actor"].loss, learning_rate=method.learning_rate)
        functions: dict[str, Any] = {n: Function(net) for n, net in nets.items()}
        torch.manual_seed(seeds[0])
        weights = {
            n: torch.cat([p.detach().double().reshape(-1) for p in net.make().parameters()]) for n, net in nets.items()
        }
        functions["critic"] = partial(exact_critic, method)
        weights["critic"] = torch.zeros(0, dtype=torch.float64)
        adams = {n: Adam(torch.zeros_like(x), torch.zeros_like(x), x.new_zeros(())) for n, x in weights.items()}
        seen = torch.zeros(SIZE, 1, dtype=torch.float64)
        batch: Batch = {"observation": {"state": seen} if game else seen, "reward": torch.zeros(SIZE)}
        step, path = gradient_step(nets, functions, tuple(nets)), []
        for _ in range(UPDATES):
            weights, adams, _ = step(weights, {}, adams, batch)
            path.append((weights["actor"][0] + 1.0) * TOP / 2.0)
        action = torch.stack(path[-100:]).mean()
        values = -((action - OMEGAS) ** 2)
        found[name] = {"action": float(action), "average": float(values.mean()), "worst": float(values.min())}
    return found


WANTED = {"td3": (1.0, -5 / 3, -4.0), "randomised": (4 / 3, -14 / 9, -25 / 9), "m2td3": (1.5, -19 / 12, -2.25)}


def of_squares(found: Measurements) -> Summary:
    """How far each ends from the solution that is worked out by hand."""
    facts = found["squares"]
    ends = {name: (x["action"], x["average"], x["worst"]) for name, x in facts.items()}
    return {f"distance, {name}": float(np.abs(np.subtract(ends[name], WANTED[name])).max()) for name in ends} | {
        "worst, m2td3 over randomised": facts["m2td3"]["worst"] - facts["randomised"]["worst"],
        "average, randomised over m2td3": facts["randomised"]["average"] - facts["m2td3"]["average"],
    }


# --- the pendulum in two dimensions --------------------------------------------------------------------------------

ENV, STEPS, POINTS, EPISODES = "InvertedPendulum-v5", 20_000, 6, 3
SMALL: dict[str, Any] = {"hidden": (64, 64), "batch_size": 100, "learning_starts": 2000, "learning_rate": 1e-3}
ARMS: dict[str, Any] = {
    "td3": TD3(**SMALL),
    "randomised": DomainRandomization(**SMALL),
    "m2td3": M2TD3(**SMALL),
}


def pendulum(arm: str, seeds: Sequence[int]) -> dict[str, list[float]]:
    """Nominal, average and worst return of each seed's final policy over the grid of the suite's 2D set."""
    learner = make_learner(ARMS[arm], ENV, list(seeds), STEPS)
    found: dict[str, list[float]] = {"nominal": [], "average": [], "worst": []}
    try:
        while learner.steps < STEPS:
            learner.iterate()
        for index in range(len(seeds)):
            report = stress(learner.agent(index), ENV, "rrls:2d", EPISODES, points=POINTS, grid="rrls", slots=36)
            for name, value in (("nominal", report.nominal), ("average", report.mean), ("worst", report.worst)):
                found[name].append(value)
    finally:
        learner.close()
    return found


def of_pendulum(found: Measurements) -> Summary:
    return {f"{name}, {arm}": values for arm, facts in found.items() for name, values in facts.items()}


@functools.cache
def cells() -> int:
    """Cells of the miniature's grid."""
    return len(list(uncertainty(ENV, "2d").grid(POINTS, "rrls")))


def room(summary: Summary) -> bool:
    """Whether TD3's mean average lies between 5 and 80 % of the largest return, 1000."""
    return 50 <= float(np.mean(summary["average, td3"])) <= 800


ROOM = Gate("room", room, "TD3's average over the grid lies between 50 and 800 of 1000")

CLAIM = Claim(
    slug="rrls",
    sentence="On a box of physical parameters TD3 falls far below its nominal return, domain randomisation has the best "
    "average, and max-min training (M2TD3) the best worst case.",
    source="Zouitine et al. 2024, abstract; tables of the same set-up in arXiv:2410.06212 (Tables 8 and 9)",
    method=DomainRandomization,
    experiments={
        "squares": Experiment(
            "mechanism",
            {"squares": squares},
            seeds=1,
            minutes=0.06,
            setting="reward −(a − ω)², ω in {0, 1, 3}, nominal 1, box [0, 3]; the methods' own actor and candidate steps "
            "on exact critics, 600 of them",
            arms={"randomised": DomainRandomization(), "m2td3": M2TD3(), "td3": TD3()},
            summary=of_squares,
        ),
        "pendulum": Experiment(
            "miniature",
            {arm: partial(pendulum, arm) for arm in ARMS},
            seeds=8,
            minutes=8.0,
            setting="InvertedPendulum-v5, the suite's 2D set, 20k steps, 64×64 networks; the final policy on the suite's "
            "grid with 6 values per parameter, 3 episodes a cell",
            arms=ARMS,
            summary=of_pendulum,
            differs=(
                "20k steps in place of 4M; 64×64 networks, learning rate 1e-3",
                "one task of six; 36 cells in place of 100",
                "Gymnasium's v5 tasks in place of v2 ones",
            ),
        ),
    },
    parts=(
        Part("TD3 ends at the nominal optimum", "primary", "squares", Exact("distance, td3"), Within(0.02)),
        Part(
            "domain randomisation ends at the mean's", "primary", "squares", Exact("distance, randomised"), Within(0.02)
        ),
        Part("M2TD3 ends at the max-min solution", "primary", "squares", Exact("distance, m2td3"), Within(0.05)),
        Part(
            "max-min has the better worst case",
            "primary",
            "squares",
            Exact("worst, m2td3 over randomised"),
            More(0.4, 0.0),
        ),
        Part(
            "domain randomisation has the better average",
            "secondary",
            "squares",
            Exact("average, randomised over m2td3"),
            More(0.01, 0.0),
        ),
        Part(
            "TD3's average falls below its nominal return",
            "primary",
            "pendulum",
            Difference("nominal, td3", "average, td3"),
            More(100.0, 0.0),
        ),
        Part(
            "domain randomisation raises the average",
            "primary",
            "pendulum",
            Difference("average, randomised", "average, td3"),
            More(),
            gates=(ROOM,),
            says="2410.06212, Table 9: pendulum 2D, 918 against 400",
        ),
        Part(
            "M2TD3 has a better worst case than TD3",
            "primary",
            "pendulum",
            Difference("worst, m2td3", "worst, td3"),
            More(),
            gates=(ROOM,),
            says="2410.06212, Table 8: pendulum 2D, 356 against 2",
        ),
        Part(
            "M2TD3 has a better worst case than domain randomisation",
            "secondary",
            "pendulum",
            Difference("worst, m2td3", "worst, randomised"),
            More(),
            gates=(ROOM,),
            says="2410.06212, Table 8: pendulum 2D, 356 against 57",
        ),
        Part(
            "domain randomisation's average is as good as M2TD3's",
            "secondary",
            "pendulum",
            Difference("average, randomised", "average, m2td3"),
            NoWorse(50.0),
            gates=(ROOM,),
        ),
    ),
    amended=(
        "The exact critics' experiment ran with learning rates of 3e-3 at first, at which M2TD3's part was contradicted "
        "twice (0.121, then 0.067 from the max-min action): its candidates had not reached the ends of the box. Since then "
        "it has 3e-2, and 600 updates in place of 1,200.",
    ),
    not_run="Six tasks with TD3, domain randomisation and M2TD3 at 2M, 4M and 5M steps for the 1D, 2D and 3D sets, 10 "
    "seeds: about 4 to 5 hours a seed of 4M steps and method on one core, 1500 and more core-hours for the 2D sets alone. "
    "The smallest faithful piece, HalfCheetah 2D with 5 seeds, is 60 to 75 core-hours.",
)
