"""Stress tests of models of tables: by gradient where there is one, by search elsewhere, always on the same rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression

import surefoot as sf
from surefoot.cli import main
from surefoot.envs import make_single
from surefoot.errors import UsageError
from surefoot.evaluate.attacked_rows import RowStressReport
from surefoot.models.linear_model import LinearModel
from surefoot.perturbations import InputPGD, InputSearch, parse
from surefoot.supervised import Prospect

STREAM = np.random.default_rng(2)
X = STREAM.normal(size=(80, 3)) * [1.0, 5.0, 0.2]
Y = np.where(X @ [1.0, -0.3, 4.0] + STREAM.normal(size=80) > 0, "yes", "no")


@pytest.mark.parametrize(("law", "dual"), [("linf", 1), ("l2", 2)])
def test_a_linear_model_loses_by_the_dual_norm(law, dual):
    """The worst move of a row is known: the margin falls by ε·‖units·w‖."""
    w = np.array([[0.7, -0.1, 2.0]])
    model = LinearModel(w, np.zeros(1), "logistic", np.array(["no", "yes"]))
    sign, size = np.where(Y == "yes", 1, -1), np.linalg.norm(X.std(0) * w[0], dual)
    for attack in (InputPGD(0.2, law), InputSearch(0.2, law, tries=400)):
        report = sf.stress(model, data=(X, Y), perturb=attack, points=2)
        wanted = np.logaddexp(0, -(sign * (X @ w[0]) - 0.2 * size))
        slack = 1e-6 if isinstance(attack, InputPGD) else 0.05
        assert (report.losses[1] <= wanted + 1e-9).all() and report.losses[1].mean() > (1 - slack) * wanted.mean()
        assert (report.losses[0] == report.nominal_losses).all() and report.by_gradient


def test_a_ball_is_kept_in_the_units_of_the_features():
    moves = {"x": torch.zeros(4, 3, dtype=torch.float64)}
    for attack in (InputPGD(0.5), InputSearch(0.5, "l2", tries=20)):
        found = attack.moves(lambda m: m["x"] @ torch.arange(3.0).double(), moves, torch.Generator().manual_seed(0))
        sizes = found["x"].norm(dim=1) if attack.law == "l2" else found["x"].abs().amax(1)
        assert (sizes <= 0.5 + 1e-9).all() and (sizes > 0.4).all()
    assert InputPGD(1.0, unit="one").units(X).tolist() == [1, 1, 1]
    assert InputPGD(1.0).units(np.ones((5, 2))).tolist() == [0, 0]  # what never changes is not attacked
    for text in ("input-pgd:0.1", "input-search:0..0.3,law=l2", "input-pgd:0.2,unit=range,steps=5"):
        assert str(parse(text)) == text


@pytest.mark.parametrize("model", [LogisticRegression(), RandomForestClassifier(10, random_state=0)])
def test_anybodys_classifier_is_searched(model):
    report = sf.stress(model.fit(X, Y), data=(X, Y), perturb="input-pgd:0.3", points=3)
    assert not report.by_gradient and "by search" in report.table() and report.perturbation == "input-search:0.3"
    assert (np.diff(report.losses.mean(1)) > 0).all() and report.right.shape == (3, 80)
    assert report.accuracies()[2][0] < report.accuracies()[0][0] == (model.predict(X) == Y).mean()
    low, high = report.changes()[2]
    assert low < report.worst - report.nominal < high and report.changes()[0] is None
    again = RowStressReport.from_json(report.to_json())
    assert again.table() == report.table()


def test_numbers_and_estimators_of_ours():
    y = X @ [1.0, 0.2, 0.0]
    report = sf.stress(LinearRegression().fit(X, y + 1), data=(X, y), perturb="input-search:0.1", points=2)
    assert report.right is None and report.nominal == pytest.approx(0.5)
    ours = sf.stress(Prospect(max_iter=20).fit(X, y), data=(X, y), perturb="input-pgd:0.1", points=2)
    assert ours.by_gradient and ours.worst > ours.nominal


def test_a_run_from_the_command_line(tmp_path, capsys):
    place = tmp_path / "rows.csv"
    place.write_text("\n".join(["a,b,c,y", *(f"{a},{b},{c},{y}" for (a, b, c), y in zip(X, Y, strict=True))]))
    run = str(tmp_path / "run")
    options = ["--loss", "logistic", "--held-out", "0.25", "--steps", "20", "--loggers", "--run-dir", run]
    main(["train", "prospect", "--data", str(place), *options])
    capsys.readouterr()
    main(["stress", run, "--perturb", "input-pgd:0.2", "--points", "2"])
    assert "20 rows · input-pgd:0.2, along its gradient" in capsys.readouterr().out
    assert len(list((tmp_path / "run").glob("attacked-input-pgd*.json"))) == 1
    main(["stress", run, "--perturb", "input-pgd:0.2", "--points", "2", "--data", str(place)])
    assert "80 rows" in capsys.readouterr().out


def test_mistakes_are_refused():
    model = LogisticRegression().fit(X, Y)
    for arguments, said in (
        ({"perturb": "input-pgd:0.1"}, "data is missing"),
        ({"data": (X, Y), "perturb": "obs-pgd:0.1"}, "not allowed with data"),
        ({"data": (X, Y), "perturb": "input-pgd:0.1", "episodes": 3}, "episodes is not allowed"),
        ({"data": (X[:, :2], Y), "perturb": "input-pgd:0.1"}, "cannot predict these rows"),
    ):
        with pytest.raises(UsageError, match=said):
            sf.stress(model, **arguments)
    with pytest.raises(UsageError, match="there are none in an environment"):
        parse("input-pgd:0.1").wrap(make_single("CartPole-v1"))
