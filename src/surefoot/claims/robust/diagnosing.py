"""The diagnostic's claim: gradients of a decision find what a network hangs on, and a shift of states moves them.

The mechanism is exact, on random networks and on one with a planted input. The miniature trains value networks on
Acrobot and asks whether Λ falls under perturbations of the observation, by both candidate formulas.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

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
    Part,
    Summary,
)
from surefoot.evaluate.diagnose import diagnose
from surefoot.evaluate.rollout import returns
from surefoot.loops.common.run import make_learner
from surefoot.methods.robust.diagnosing import Diagnosing
from surefoot.models.directions import decision_gradients, explained_share, principal, rayleigh
from surefoot.seeding import numpy_stream

SIZE, ACTIONS, STATES = 12, 4, 200

# --- exact ---------------------------------------------------------------------------------------------------------


def network(seed: int, planted: bool = False) -> Any:
    """A random network of one hidden layer; with a planted input, the last one enters an action's value with weight 5."""
    draw = numpy_stream(seed, "network")
    first, second = (torch.as_tensor(draw.normal(size=shape)) / 4 for shape in ((32, SIZE), (ACTIONS, 32)))

    def values(states: Tensor) -> Tensor:
        made = torch.tanh(states @ first.T) @ second.T
        return made + 5 * states[:, -1:] * torch.eye(ACTIONS, dtype=states.dtype)[0] if planted else made

    return values


def identities(seeds: Sequence[int]) -> dict[str, float]:
    """Largest errors of what must hold for any network: a finite difference along g, Λ's identity, and a turn of the
    coordinates; the least squared mass on a planted input."""
    found = {"slope": 0.0, "identity": 0.0, "turn": 0.0, "order": 0.0}
    mass, step = 1.0, 1e-6
    for seed in seeds:
        draw, q = numpy_stream(seed, "states"), network(seed)
        states, others = torch.as_tensor(draw.normal(size=(2, STATES, SIZE)))
        rows, far = decision_gradients(q, states)[:, 0], decision_gradients(q, others + 1)[:, 0]
        greedy, length = q(states).argmax(-1), rows.norm(dim=-1)

        def escape(s: Tensor, q: Any = q, greedy: Tensor = greedy) -> Tensor:
            return -torch.log_softmax(q(s), -1)[torch.arange(STATES), greedy]

        ahead = (escape(states + step * rows / length[:, None]) - escape(states)) / step
        found["slope"] = max(found["slope"], float((ahead - length).abs().max()))
        direction = principal(rows).direction
        share, ratio = explained_share(direction, far), rayleigh(direction, far)
        found["identity"] = max(found["identity"], abs(share - ratio * principal(far).concentration))
        found["order"] = max(found["order"], share - ratio, ratio - 1, -share)
        turn = torch.linalg.qr(torch.as_tensor(draw.normal(size=(SIZE, SIZE))))[0]
        turned = decision_gradients(lambda s, q=q, turn=turn: q(s @ turn), others @ turn.T + turn.sum(1))[:, 0]
        found["turn"] = max(found["turn"], abs(explained_share(turn @ direction, turned) - share))
        planted = principal(decision_gradients(network(seed, planted=True), states)[:, 0]).direction
        mass = min(mass, float(planted[-1] ** 2))
    return {**found, "planted": mass}


def of_exact(found: Measurements) -> Summary:
    return found["identities"]


# --- Acrobot -------------------------------------------------------------------------------------------------------

ENV, STEPS, EPISODES = "Acrobot-v1", 40_000, 5
TRAINED = Diagnosing(
    learning_starts=1000, learning_rate=1e-3, target_every=100, hidden=(64, 64), epsilon_fraction=0.5, batch_size=64
)
SHIFTS = {"noise": "observation-noise:0.5", "dropout": "observation-dropout:0.5"}
FORMS = ("explained_share", "rayleigh", "unit_explained_share", "unit_rayleigh")


def trained(seeds: Sequence[int]) -> dict[str, Any]:
    """Both candidates for Λ of every set of states, by form, and the return; a number a seed."""
    learner = make_learner(TRAINED, ENV, list(seeds), STEPS)
    while learner.steps < STEPS:
        learner.iterate()
    agents = [learner.agent(index) for index in range(len(seeds))]
    learner.close()
    found: dict[str, Any] = {"return": [float(returns(agent, ENV, EPISODES).mean()) for agent in agents]}
    reports = [diagnose(agent, ENV, list(SHIFTS.values()), episodes=EPISODES) for agent in agents]
    for index, name in enumerate(("base again", *SHIFTS), 1):
        for form in FORMS:
            found[f"{form}, {name}"] = [getattr(report.sets[index], form) for report in reports]
    return found


def of_trained(found: Measurements) -> Summary:
    return {name: np.array(values) for name, values in found["trained"].items()}


CONTROL = Gate(
    "control", lambda summary: float(np.mean(summary["return"])) > -250, "the mean return is above −250, −500 at random"
)

CLAIM = Claim(
    slug="diagnosing",
    sentence="The first direction of a decision's gradients finds the inputs that a value network hangs on; shifted "
    "observations have other such directions.",
    source="Korkmaz 2024, the definition of the diagnostic, and the table of Λ under attacks and shifts",
    method=Diagnosing,
    experiments={
        "exact": Experiment(
            "mechanism",
            {"identities": identities},
            seeds=8,
            minutes=0.01,
            setting=f"random networks of {SIZE} inputs and {ACTIONS} actions, {STATES} states, float64; and the same with the "
            "last input added to one action's value with weight 5",
            summary=of_exact,
        ),
        "acrobot": Experiment(
            "miniature",
            {"trained": trained},
            seeds=8,
            minutes=6,
            setting=f"{ENV}, {STEPS:,} steps of double duelling DQN with priorities; states of {EPISODES} greedy episodes, Λ "
            "against other episodes without perturbation, under noise of 0.5 and with half of the frames lost",
            arms={"vanilla": TRAINED},
            summary=of_trained,
            differs=(
                "six numbers of Acrobot in place of Atari frames, 40,000 steps",
                "noise and lost entries in place of attacks and image transforms",
                "Λ by two candidate formulas: that of the paper was not found",
                "no robustly trained agent beside it",
            ),
        ),
    },
    parts=(
        Part("g is the slope of the decision's loss", "primary", "exact", Exact("slope"), Less(1e-4, 1e-4)),
        Part("share = Rayleigh · concentration", "primary", "exact", Exact("identity"), Less(1e-9, 1e-9)),
        Part("both candidates lie in [0, 1], in order", "primary", "exact", Exact("order"), Less(1e-9, 1e-9)),
        Part("Λ does not depend on the coordinates", "primary", "exact", Exact("turn"), Less(1e-9, 1e-9)),
        Part("a planted input has 0.9 of the direction", "primary", "exact", Exact("planted"), More(0.9, 0.9)),
        *(
            Part(
                f"Λ falls under {shift} ({form.replace('_', ' ')})",
                "primary" if form == "rayleigh" else "secondary",
                "acrobot",
                Difference(f"{form}, base again", f"{form}, {shift}"),
                More(),
                (CONTROL,),
                says="Λ falls under every attack and shift" if form == "rayleigh" else "",
            )
            for form in FORMS
            for shift in SHIFTS
        ),
        Part("Λ of other episodes (Rayleigh)", "exploratory", "acrobot", Mean("rayleigh, base again"), More(0.5)),
    ),
    not_run="Four Atari games, two agents of at least 6 million frames each; on two cores days, and the formula of Λ was not "
    "found.",
)
