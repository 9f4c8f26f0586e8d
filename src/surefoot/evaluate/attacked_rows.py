"""A stress test of a model of tables: its losses when every row is attacked, beside those on the rows as they are.

The model may be ours or any with scikit-learn's `predict`; the same rows are read at every strength, so differences are
paired.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surefoot.data.tables import Table, read
from surefoot.errors import UsageError
from surefoot.evaluate.agent_card import keep_result
from surefoot.evaluate.player import load, player_of
from surefoot.evaluate.statistics import ConfidenceInterval, confidence_interval, mean, share_interval
from surefoot.loops.common.measures import tail_mean
from surefoot.models.linear_model import LinearModel, encoded
from surefoot.models.row_network import RowModel, row_losses
from surefoot.models.saved import holds_agent
from surefoot.perturbations import Perturbation, parse
from surefoot.perturbations.inputs import InputAttack, InputPGD
from surefoot.seeding import torch_stream

LEAST = 1e-6  # chances below count as this one, so that no row has an infinite loss


@dataclass(frozen=True, eq=False)
class RowStressReport:
    """The losses of one model on the same rows under attacks of rising strength."""

    model: str  # its name
    data: str
    perturbation: str
    strengths: np.ndarray  # [cells]
    losses: np.ndarray  # [cells, rows]
    right: np.ndarray | None  # [cells, rows], of classes
    nominal_losses: np.ndarray  # [rows]
    nominal_right: np.ndarray | None  # [rows]
    by_gradient: bool  # whether the attack followed the model's gradient

    @property
    def worst(self) -> float:
        """The greatest mean loss of a cell."""
        return float(self.losses.mean(1).max())

    @property
    def nominal(self) -> float:
        """The mean loss of the rows as they are."""
        return float(self.nominal_losses.mean())

    def changes(self) -> list[ConfidenceInterval | None]:
        """The 95 % interval of the mean change of the loss in every cell, over rows; None where nothing changed."""
        found = self.losses - self.nominal_losses
        return [confidence_interval(x, mean) if len(x) > 1 and np.ptp(x) > 0 else None for x in found]

    def accuracies(self) -> list[tuple[float, ConfidenceInterval]]:
        """The accuracy and its exact 95 % interval in every cell, of a model of classes."""
        cells = [] if self.right is None else self.right
        return [(float(x.mean()), share_interval(x.astype(float))) for x in cells]

    def table(self) -> str:
        """The result as text."""
        way = "along its gradient" if self.by_gradient else "by search: it has no gradient"
        lines = [f"{self.model} on {self.data} · {len(self.nominal_losses):,} rows · {self.perturbation}, {way}", ""]
        head = f"{'strength':>9}{'loss':>10}  {'change, 95 %':<22}{'worst tenth':>12}"
        lines.append(head + (f"{'accuracy':>10}  95 % interval" if self.right is not None else ""))
        shares = self.accuracies()
        for i, (strength, ends) in enumerate(zip(self.strengths, self.changes(), strict=True)):
            said = "" if ends is None else f"[{ends[0]:+.4g}, {ends[1]:+.4g}]"
            line = f"{strength:>9.4g}{self.losses[i].mean():>10.4g}  {said:<22}{tail_mean(self.losses[i]):>12.4g}"
            if shares:
                line += f"{shares[i][0]:>10.3f}  [{shares[i][1][0]:.3f}, {shares[i][1][1]:.3f}]"
            lines.append(line)
        return "\n".join(lines)

    def to_json(self) -> str:
        """The report as JSON; `from_json` reads it."""
        return json.dumps({k: x.tolist() if isinstance(x, np.ndarray) else x for k, x in vars(self).items()})

    @classmethod
    def from_json(cls, text: str) -> RowStressReport:
        """The report that `to_json` wrote."""
        found: dict[str, Any] = {k: np.array(x) if isinstance(x, list) else x for k, x in json.loads(text).items()}
        return cls(**found)


def of_rows(perturb: Perturbation | str) -> bool:
    """Whether a perturbation is an attack on the rows of a table."""
    return isinstance(perturb, InputAttack) or (isinstance(perturb, str) and perturb.startswith("input-"))


def stressed_rows(policy: Any, data: Any, perturb: Perturbation | str, *, trust: bool = False, **settings: Any) -> Any:
    """The `RowStressReport` of a model, or of a run, in whose folder it is kept and whose own rows are read if no
    others are given: those held out, if there are any.

    Raises:
        UsageError: the perturbation is not of rows, or there are none.
    """
    attack = parse(perturb) if isinstance(perturb, str) else perturb
    if not isinstance(attack, InputAttack):
        raise UsageError(f"perturb={str(perturb)!r} is not allowed with data, whose rows are attacked: input-pgd:0.1.")
    if unknown := sorted(settings.keys() - {"points", "seed"}):
        raise UsageError(f"{unknown[0]} is not allowed for an attack on rows; it takes points and seed.")
    of_run = isinstance(path := getattr(policy, "path", policy), (str, Path))
    if not of_run:
        if data is None:
            raise UsageError("data is missing: give the rows to attack, data=(X, y), a frame, a file or sklearn:NAME.")
        return stress_rows(policy, read(data), attack, **settings)
    if data is None:
        model, table, folder = player_of(policy, None, None, trust)
    else:
        model, folder = load(policy), None if holds_agent(path) else Path(path)
        recorded = model.facts.get("env", {})
        table = read(data, **{name: recorded.get(name) for name in ("target", "groups", "clients")})
    report = stress_rows(model, table, attack, **settings)
    if folder is not None:
        keep_result(folder, f"attacked-{perturb}", report.to_json())
    return report


def stress_rows(model: Any, table: Table, attack: InputAttack, *, points: int = 5, seed: int = 0) -> RowStressReport:
    """Attack every row of a table at `points` strengths.

    model: one of ours or of our estimators, or anything with scikit-learn's `predict`; chances of classes
    (`predict_proba`) say more than classes, which an attack changes or not.

    Raises:
        UsageError: the model cannot predict these rows, or was trained on other targets.
    """
    model = getattr(model, "model_", model)
    if hasattr(model, "figures"):
        raise UsageError(
            f"a {type(model).__name__} does not predict the target of a row, so there is nothing to attack; measure it "
            "with surefoot.evaluate, data=…"
        )
    scores = _scores(model)
    losses, right = _figures(model, table, scores)
    units, X = attack.units(table.X), torch.from_numpy(table.X)
    chosen = attack.without_gradient() if scores is None and isinstance(attack, InputPGD) else attack

    def damage(moves: dict[str, Tensor]) -> Tensor:
        return losses(X + moves["x"] * torch.from_numpy(units))

    cells = chosen.grid(points)
    found, correct = [], []
    for cell in cells:
        moves = torch.zeros_like(X)
        if not cell.perturbation.identity:
            assert isinstance(cell.perturbation, InputAttack)
            generator = torch_stream(seed, "input attack", len(found))
            moves = cell.perturbation.moves(damage, {"x": moves}, generator)["x"]
        seen = X + moves * torch.from_numpy(units)
        found.append(losses(seen).detach().numpy())
        correct.append(None if right is None else right(seen.numpy()))
    still = losses(X).detach().numpy()
    return RowStressReport(
        model=type(model).__name__,
        data=table.name,
        perturbation=str(chosen),
        strengths=np.array([cell.coordinates[0][1] for cell in cells]),
        losses=np.array(found),
        right=None if right is None else np.array(correct),
        nominal_losses=still,
        nominal_right=None if right is None else right(table.X),
        by_gradient=scores is not None,
    )


def _scores(model: Any) -> Callable[[Tensor], Tensor] | None:
    """The scores `[n, k]` of a model of ours as a function of features `[n, d]` with a gradient; None for others."""
    if isinstance(model, LinearModel):
        coef, intercept = torch.from_numpy(model.coef), torch.from_numpy(model.intercept)
        return lambda X: X @ coef.T + intercept
    if isinstance(model, RowModel):
        shift, factor = (torch.from_numpy(x) for x in model.scale)
        return lambda X: model.target[0] + model.target[1] * model.answer(((X - shift) * factor).view(-1, *model.shape))
    return None


def _figures(model: Any, table: Table, scores: Any) -> tuple[Callable[[Tensor], Tensor], Any]:
    """From features to the loss of every row, and to whether its class is right (None for numbers)."""
    if not callable(getattr(model, "predict", None)):
        raise UsageError(f"a {type(model).__name__} has no predict; give a fitted model of the rows of a table.")
    classes = getattr(model, "classes", None) if scores is not None else getattr(model, "classes_", None)
    y = torch.from_numpy(encoded(table, classes))

    def right(X: np.ndarray) -> np.ndarray:
        return np.asarray(model.predict(X)) == table.y

    if scores is not None:
        kinds = None if classes is None else len(classes)
        return lambda X: row_losses(scores(X), y, kinds), None if classes is None else right
    _answer(model, "predict", table.X)  # refuses before any work
    if classes is None:
        return lambda X: 0.5 * (y - torch.from_numpy(np.ravel(_answer(model, "predict", X.numpy())))) ** 2, None
    rows, places = np.arange(len(table)), y.numpy().astype(int)
    if callable(getattr(model, "predict_proba", None)):
        return lambda X: torch.from_numpy(
            -np.log(np.maximum(_answer(model, "predict_proba", X.numpy())[rows, places], LEAST))
        ), right
    return lambda X: torch.from_numpy((~right(X.numpy())).astype(np.float64)), right


def _answer(model: Any, name: str, X: np.ndarray) -> np.ndarray:
    """What another library's model makes of rows, as float64 where it is numbers."""
    try:
        found = np.asarray(getattr(model, name)(X))
    except Exception as error:  # it may raise anything
        raise UsageError(
            f"a {type(model).__name__} cannot predict these rows ({type(error).__name__}: {error}). Fit it first, on "
            "the same features."
        ) from error
    return found.astype(np.float64) if found.dtype.kind in "fiub" else found
