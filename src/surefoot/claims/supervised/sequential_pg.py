"""Sequential policy gradient's claim: retraining with replicas that stop at the first error makes a better classifier.

The paper compares with the checkpoint before retraining, which further plain training would pass too. Here all arms are
trained alike and as long. The controls are plain training, a fixed dropout tuned on other seeds, and the replicas
without stopping, which alone says what the episodes do.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
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
    Measurements,
    More,
    NoWorse,
    Part,
    Summary,
)
from surefoot.data.tables import Table, read
from surefoot.loops.common.measures import calibration_error
from surefoot.loops.networks.nets import Batch, Weights
from surefoot.loops.supervised.learner import SupervisedLearner
from surefoot.loops.supervised.method import MODEL, Rows, mean_loss
from surefoot.methods.supervised.sequential_pg import SequentialPG
from surefoot.methods.supervised.sequential_pg.replicas import as_large_as, average_over_live, live, weighted_by_return
from surefoot.models.row_network import row_losses
from surefoot.seeding import numpy_stream

TRAIN, WRONG, EPOCHS = 300, 0.15, 64
SETTING: dict[str, Any] = {"hidden": (128, 128), "plain": 0.625, "dropout": 0.15, "weights": (0.4, 0.2, 0.1, 0.05)}
RATES, TUNING = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7), range(2000, 2004)


class FixedDropout(SequentialPG):
    """Retraining with one rate of dropout before the head, for every sample."""

    def model_loss(self, w: Weights, batch: Batch, rows: Rows) -> tuple[Tensor, dict[str, Tensor]]:
        scores = w(MODEL, batch["x"], "chain", batch["noise"]["keep"])
        losses = row_losses(scores, batch["y"].expand(scores.shape[:-1]), rows.kinds)
        kept = torch.zeros_like(losses[0])
        return mean_loss(torch.where(batch["replicas"] > 0, losses[1], losses[0]), batch), {"memory/tolerated": kept}


ARMS: dict[str, SequentialPG] = {
    "SPG": SequentialPG(**SETTING),
    "plain": SequentialPG(**{**SETTING, "weights": ()}),
    "no stop": SequentialPG(**SETTING, stop=False),
    "released": SequentialPG(**SETTING, block="released", normalise=False),
}


def fixed(rate: float) -> FixedDropout:
    return FixedDropout(**{**SETTING, "weights": (1.0,), "dropout": rate}, block="released", normalise=False)


# --- what is exact -----------------------------------------------------------------------------------------------


def by_hand(seeds: Sequence[int]) -> float:
    """The greatest error of the losses of one batch against the sums written out, for drawn losses and errors."""
    errors = []
    for seed in seeds:
        stream = numpy_stream(seed, "episodes")
        right, losses = stream.random((4, 50)) < 0.7, stream.exponential(size=(4, 50))
        weights, a, b = [1.0, 0.4, 0.2, 0.1], 0.0, 0.0
        ends = [next((t for t in range(4) if not right[t, i]), 3) for i in range(50)]
        for t in range(4):
            alive = [losses[t, i] for i in range(50) if t <= ends[i]]
            a += weights[t] * float(np.mean(alive)) if alive else 0.0
        for i in range(50):
            b += sum(weights[: ends[i] + 1]) * losses[: ends[i] + 1, i].sum() / 50
        given = torch.from_numpy(losses), live(torch.from_numpy(right)).double(), torch.tensor(weights).double()
        found = float(average_over_live(*given)), float(weighted_by_return(*given))
        errors += [abs(found[0] - a), abs(found[1] - b)]
        base = torch.from_numpy(losses[0]).mean()
        errors.append(abs(float(as_large_as(average_over_live(*given), base)) - a * float(np.exp(float(base) - a))))
    return max(errors)


def moved(block: str, seeds: Sequence[int]) -> float:
    """How far the blocks of replicas are from their start after five epochs, the greatest entry of all seeds."""
    found = []
    for seed in seeds:
        table, method = split(seed)[0].rows(np.arange(100)), SequentialPG(**{**SETTING, "plain": 0.0}, block=block)
        before = SupervisedLearner(method, table, [seed], 5).weights[MODEL]
        learner = trained(method, table, seed, 5)
        found.append(float((learner.weights[MODEL] - before)[0, learner.agent().size :].abs().max()))
    return max(found)


def of_exact(found: Measurements) -> Summary:
    return {
        "error of the losses": found["losses"],
        "how far the released block moves": found["released"],
        "how far the formula's block moves": found["linear"],
    }


# --- digits with wrong labels ------------------------------------------------------------------------------------


@cache
def digits() -> Table:
    return read("sklearn:digits")


def split(seed: int) -> tuple[Table, Table]:
    """300 rows, of whose labels 15 % are wrong, and the others."""
    table, stream = digits(), numpy_stream(seed, "split")
    order = stream.permutation(len(table))
    train, test = table.rows(order[:TRAIN]), table.rows(order[TRAIN:])
    wrong = stream.random(TRAIN) < WRONG
    y = np.where(wrong, (train.y + stream.integers(1, 10, size=TRAIN)) % 10, train.y)
    return Table(train.X, y), Table(test.X, test.y)


def trained(method: SequentialPG, table: Table, seed: int, epochs: int = EPOCHS) -> SupervisedLearner:
    learner = SupervisedLearner(method, table, [seed], epochs)
    for _ in range(epochs):
        learner.iterate()
    return learner


def figures(method: SequentialPG, seeds: Sequence[int]) -> dict[str, list[float]]:
    """Accuracy and calibration on the rows held out, and the share of wrong labels among the samples that tolerated no
    replica, seed by seed."""
    found: dict[str, list[float]] = {"accuracy": [], "calibration": []}
    for seed in seeds:
        table, test = split(seed)
        model = trained(method, table, seed).agent()
        right = model.predict(test.X) == test.y
        found["accuracy"].append(float(right.mean()))
        found["calibration"].append(calibration_error(model.probabilities(test.X), right))
    return found


def arm(name: str, seeds: Sequence[int]) -> dict[str, list[float]]:
    return figures(ARMS[name], seeds)


def tuned(seeds: Sequence[int]) -> dict[str, Any]:
    """The fixed rate of dropout with the best accuracy on other seeds."""
    tried = [float(np.mean(figures(fixed(rate), TUNING)["accuracy"])) for rate in RATES]
    best = RATES[int(np.argmax(tried))]
    return {"rate": best, "tried": tried, **figures(fixed(best), seeds)}


def of_digits(found: Measurements) -> Summary:
    series = {f"{figure}, {name}": found[name][figure] for name in found for figure in ("accuracy", "calibration")}
    return series | {"rate": found["fixed dropout"]["rate"]}


def inside(summary: Summary) -> bool:
    return RATES[0] < summary["rate"] < RATES[-1]


def room(summary: Summary) -> bool:
    return 0.6 < float(np.mean(summary["accuracy, plain"])) < 0.95


ROOM = Gate("room", room, "plain training is right on 60 to 95 % of the rows")
GRID = Gate("grid", inside, "the fixed rate of dropout lies inside its grid")


def apart(name: str, role: Any, figure: str, better: str, other: str, test: Any) -> Part:
    """A part: a figure of one arm less that of another."""
    gates = (ROOM, GRID) if other == "fixed dropout" else (ROOM,)
    return Part(name, role, "digits", Difference(f"{figure}, {better}", f"{figure}, {other}"), test, gates=gates)


CLAIM = Claim(
    slug="sequential-pg",
    sentence="Retraining with replicas that meet more dropout until they are wrong makes a better classifier than plain "
    "training, at the inference cost of the model.",
    source="2025, abstract",
    method=SequentialPG,
    experiments={
        "episodes": Experiment(
            "mechanism",
            {"losses": by_hand, "released": partial(moved, "released"), "linear": partial(moved, "linear")},
            seeds=4,
            minutes=0.04,
            setting="drawn losses and errors; five epochs on 100 digits for the blocks",
            arms={"SPG": ARMS["SPG"]},
            summary=of_exact,
        ),
        "digits": Experiment(
            "miniature",
            {name: partial(arm, name) for name in ARMS} | {"fixed dropout": tuned},
            seeds=20,
            minutes=5.0,
            setting="digits of scikit-learn, 300 to learn from with 15 % wrong labels and 1,497 held out; two layers of "
            "128 units; 40 plain epochs and 24 of every arm's own; four replicas of 0.15 more dropout each",
            arms=dict(ARMS),
            summary=of_digits,
            differs=("digits in place of ImageNet", "a small network trained here in place of a published checkpoint"),
        ),
    },
    parts=(
        Part(
            "the losses are the sums over episodes",
            "primary",
            "episodes",
            Exact("error of the losses"),
            Less(1e-6, 1e-3),
        ),
        Part(
            "the released block is dropout and nothing else",
            "secondary",
            "episodes",
            Exact("how far the released block moves"),
            Less(1e-12, against=1e-6),
        ),
        Part(
            "the formula's block learns",
            "secondary",
            "episodes",
            Exact("how far the formula's block moves"),
            More(1e-3, against=1e-6),
        ),
        apart("half a point more than plain training", "primary", "accuracy", "SPG", "plain", More(0.005, against=0.0)),
        apart("more than replicas without stopping", "primary", "accuracy", "SPG", "no stop", More()),
        apart("as good as a tuned fixed dropout", "primary", "accuracy", "SPG", "fixed dropout", NoWorse(0.003)),
        apart("the formula's block beats the released", "secondary", "accuracy", "SPG", "released", More()),
        apart("better calibrated than plain training", "secondary", "calibration", "SPG", "plain", Less()),
        apart("better calibrated than without stopping", "secondary", "calibration", "SPG", "no stop", Less()),
    ),
    not_run="the paper retrains ImageNet classifiers from published checkpoints, which are not here, and compares with "
    "the checkpoint before its 40 epochs",
)
