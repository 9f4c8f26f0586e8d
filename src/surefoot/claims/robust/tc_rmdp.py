"""TC-RMDP's claim: against physics that drifts slowly, knowing the speed is worth reward that full robustness gives away."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from surefoot.claims.parts import Claim, Exact, Experiment, Less, Measurements, More, Part, Summary, Within
from surefoot.envs.tabular.grids import MOVES, Cell, grid_kernel
from surefoot.methods.robust.tc_rmdp import TCM2TD3
from surefoot.methods.robust.tc_rmdp.drift import drift_values

# --- the windy walk: three corridors from west to east, the shortest with the strongest wind -----------------------

WORLDS, GAMMA, START, GOAL = 25, 0.95, 0, 5
WALLS = {(row, column) for row in (1, 3) for column in (2, 3, 4)}
POWERS = {0: 1, 2: 3, 4: 6, 5: 6}  # in columns 2 to 4 of these rows the wind blows west with α to this power


def windy_kernels() -> torch.Tensor:
    """`[25, 36, 4, 36]`, α from 0 to ½ in equal steps; nobody leaves the goal."""

    def after(cell: Cell, aim: Cell) -> Cell:
        return cell if aim in WALLS or cell in WALLS else aim

    still = torch.as_tensor(grid_kernel(6, 6, after), dtype=torch.float64)
    chance = torch.zeros(WORLDS, 6, 6, dtype=torch.float64)
    for row, power in POWERS.items():
        chance[:, row, 2:5] = torch.linspace(0, 0.5, WORLDS, dtype=torch.float64).unsqueeze(1) ** power
    chance = chance.view(WORLDS, 36, 1, 1)
    kernels = (1 - chance) * still + chance * still[:, [list(MOVES).index("left")]]
    kernels[:, GOAL] = torch.eye(36, dtype=torch.float64)[GOAL]
    return kernels


KERNELS = windy_kernels()
REWARD = torch.full((36, 4), -1.0, dtype=torch.float64)
REWARD[GOAL] = 0.0
CARD = {
    0: (-4.524381, -6.229623, -7.952147),
    1: (-5.028047, -7.620005, -7.952147),
    2: (-6.060232, -7.913594, -7.952147),
    4: (-7.881450, -7.952147, -7.952147),
    24: (-7.952147, -7.952147, -7.952147),
}


def windy(seeds: Sequence[int]) -> dict[str, list[float]]:
    """V(S, k) at α = 0, ¼, ½ for every speed, and the robust policy's value against a drift of one place a step."""
    found = {
        f"speed {speed}": drift_values(KERNELS, REWARD, GAMMA, speed).value[[0, 12, 24], START].tolist()
        for speed in CARD
    }
    robust = drift_values(KERNELS, REWARD, GAMMA, WORLDS - 1).action[0]
    against = drift_values(KERNELS, REWARD, GAMMA, 1, robust).value[[0, 12, 24], START].tolist()
    return found | {"robust policy": against}


def of_windy(found: Measurements) -> Summary:
    facts = found["windy walk"]
    errors = [abs(a - b) for speed, row in CARD.items() for a, b in zip(facts[f"speed {speed}"], row, strict=True)]
    rows = [facts[f"speed {speed}"] for speed in CARD]
    rises = [after - before for slow, fast in zip(rows, rows[1:]) for before, after in zip(slow, fast)]
    return {
        "largest error": max(errors),
        "largest rise with speed": max(rises),
        "gain from still air": facts["speed 1"][0] - facts["robust policy"][0],
        "gain from a quarter": facts["speed 1"][1] - facts["robust policy"][1],
        "full speed, spread over k": max(facts["speed 24"]) - min(facts["speed 24"]),
    }


CLAIM = Claim(
    slug="tc-rmdp",
    sentence="Against parameters that drift at a limited speed, agents trained for that speed earn more than agents made "
    "robust to arbitrary changes, and the more the more they know of the parameters.",
    source="Zouitine et al. 2024, abstract; captions of Table 1 and Figure 2",
    method=TCM2TD3,
    experiments={
        "windy walk": Experiment(
            "mechanism",
            {"windy walk": windy},
            seeds=1,
            minutes=0.02,
            setting="a 6 × 6 grid with three corridors and 25 strengths of wind, the discount 0.95; exact values of the game "
            "of agent and drift",
            arms={"tc-rmdp": TCM2TD3()},
            summary=of_windy,
        ),
    },
    parts=(
        Part(
            "the values are those of the recursion", "primary", "windy walk", Exact("largest error"), Less(1e-6, 1e-5)
        ),
        Part("no value rises with the speed", "primary", "windy walk", Exact("largest rise with speed"), Within(1e-9)),
        Part(
            "at full speed the start of the drift does not matter",
            "primary",
            "windy walk",
            Exact("full speed, spread over k"),
            Within(1e-9),
        ),
        Part(
            "knowing the speed beats the fully robust policy from still air",
            "primary",
            "windy walk",
            Exact("gain from still air"),
            More(2.0, 0.0),
        ),
        Part(
            "in the middle of the set both are the same policy",
            "secondary",
            "windy walk",
            Exact("gain from a quarter"),
            Within(1e-9),
        ),
    ),
    not_run="Five tasks with the 3D sets, six variants and four baselines, 5M steps each and 5M more for the adversary of the "
    "measurement, 10 seeds: about 10 hours a seed and agent on one core, 5000 core-hours. The tables are pictures whose "
    "values could not be read, so only signs could be compared.",
)
