"""Models of tables are measured on rows, and what is for policies says so."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import surefoot as sf
from surefoot.cli import main
from surefoot.data.tables import Table
from surefoot.errors import UsageError
from surefoot.evaluate.tables import measured
from surefoot.loops.common.measures import tail_mean
from surefoot.methods.supervised.prospect import Prospect
from surefoot.models.linear_model import LinearModel
from surefoot.models.tabular_agent import TabularAgent

MODEL = LinearModel(np.array([[1.0]]), np.zeros(1))


@pytest.fixture
def csv(tmp_path):
    stream = np.random.default_rng(0)
    rows = ["size,region,price,year"]
    for i in range(40):
        size = stream.normal()
        rows.append(f"{size},{'north' if i % 4 else 'south'},{3 * size + stream.normal()},{i % 3}")
    (tmp_path / "sales.csv").write_text("\n".join(rows))
    return tmp_path / "sales.csv"


def test_figures_by_hand():
    table = Table([[0.0], [1.0], [2.0], [3.0]], [2.0, 1.0, 0.0, 3.0], groups=["u", "u", "v", "v"])
    figures = measured(MODEL, table)
    assert figures["loss"] == 1.0 and figures["tail_loss"] == 2.0 and figures["groups"] == {"u": 1.0, "v": 1.0}
    assert (
        figures["r2"] == pytest.approx(1 - 2 / 1.25) and figures["loss_interval"][0] < 1 < figures["loss_interval"][1]
    )
    assert "mean loss of the worst 10%" in figures["table"] and "group u" in figures["table"]
    assert measured(MODEL, table.rows(np.array([1, 3])))["loss_interval"] is None
    assert tail_mean(np.array([1.0, 4.0, 2.0, 3.0]), 0.375) == pytest.approx((4 + 0.5 * 3) / 1.5)


def test_from_the_command_line(csv, tmp_path, capsys):
    run = tmp_path / "run"
    where = ["--data", str(csv), "--target", "price", "--groups", "region", "--held-out", "0.25"]
    main(["train", "prospect", *where, "--steps", "5", "--run-dir", str(run), "--loggers"])
    assert f"next: surefoot evaluate {run} · surefoot report {run}" in capsys.readouterr().out
    main(["evaluate", str(run)])
    said = capsys.readouterr().out
    assert "10 rows" in said and "group south" in said
    main(["evaluate", str(run), "--data", str(csv)])  # the target and the groups are those of the run
    assert "40 rows" in capsys.readouterr().out
    kept = json.loads((run / "measured.json").read_text())
    assert kept["samples"] == 40 and set(kept["groups"]) == {"north", "south"}
    main(["report", str(run)])
    assert "Mean loss of the group south" in (run / "report.html").read_text()
    main(["train", "--config", str(run), "--run-dir", str(tmp_path / "again"), "--loggers"])
    assert (sf.load(tmp_path / "again").coef == sf.load(run).coef).all()
    assert sf.Run(run).config["command"].endswith("--target price --groups region --held-out 0.25 --steps 5 --loggers")


def test_an_estimator_is_measured_as_its_run(csv):
    from surefoot.supervised import Prospect as Estimator

    table = Table(np.arange(8.0)[:, None], np.arange(8.0) ** 2)
    model = Estimator(max_iter=3).fit(table.X, table.y)
    assert sf.evaluate(model, data=(table.X, table.y))["loss"] == measured(model.model_, table)["loss"]
    with pytest.raises(UsageError, match="it was not trained on a table"):
        sf.evaluate(TabularAgent(torch.eye(2)), data=(table.X, table.y))


def test_objectives_that_differ_are_not_compared(tmp_path):
    data, options = (np.arange(8.0)[:, None], np.arange(8.0) ** 2), {"steps": 2, "seeds": 2, "loggers": ()}
    with pytest.raises(UsageError, match="one, two minimise different objectives"):
        sf.compare({"one": Prospect(), "two": Prospect(l2=2.0)}, data=Table(*data), out=tmp_path / "a", **options)
    same = {"lbfgs": Prospect(), "sgd": Prospect(solver="sgd", batch_size=4)}
    found = sf.compare(same, data=Table(*data), out=tmp_path / "b", **options)
    assert found.scores["lbfgs"].mean() > found.scores["sgd"].mean() and "minus the mean objective" in found.measured


@pytest.mark.parametrize("command", ["stress", "audit", "certify", "generalize", "diagnose"])
def test_what_is_for_policies_says_so(command, tmp_path, csv):
    run = sf.train("prospect", data=csv, target="price", groups="region", steps=1, run_dir=tmp_path / "run", loggers=())
    calls = {"certify": {"sigma": 0.1}, "generalize": {"train": ["param:length=0.3..0.7"]}, "diagnose": {"perturb": ()}}
    with pytest.raises(UsageError, match="it acts in no environment"):
        getattr(sf, command)(run, **calls.get(command, {}))


def test_solvers_are_compared_from_the_command_line(csv, tmp_path, capsys):
    where = ["--data", str(csv), "--target", "price", "--groups", "region", "--l2", "2.0"]
    main(["compare", "prospect", *where, "--seeds", "2", "--steps", "2", "--out", str(tmp_path / "out"), "--loggers"])
    assert "minus the mean objective" in capsys.readouterr().out
