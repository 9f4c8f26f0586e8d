"""Linear models of tables: what they predict, and files that are damaged."""

from __future__ import annotations

import json

import numpy as np
import pytest

from surefoot.data.tables import Table
from surefoot.errors import UsageError
from surefoot.models.linear_model import LinearModel
from surefoot.models.saved import load_agent

THREE = LinearModel(np.eye(3), np.array([0.0, 0.5, 0.0]), "logistic", np.array(["a", "b", "c"]))
TWO = LinearModel(np.array([[1.0, -1.0]]), np.zeros(1), "logistic", np.array([3, 7]))
NUMBER = LinearModel(np.array([[2.0, 1.0]]), np.array([0.5]))
ROWS = np.array([[1.0, 0.0], [0.0, 1.0]])


def test_predictions():
    assert NUMBER.predict(ROWS).tolist() == [2.5, 1.5]
    assert TWO.predict(ROWS).tolist() == [7, 3] and THREE.predict(np.eye(3)).tolist() == ["a", "b", "c"]
    np.testing.assert_allclose(TWO.probabilities(ROWS)[:, 1], 1 / (1 + np.exp([-1.0, 1.0])))
    assert THREE.predict(np.zeros((1, 3))).tolist() == ["b"]
    with pytest.raises(UsageError, match="train it with loss='logistic'"):
        NUMBER.probabilities(ROWS)


def test_losses():
    assert NUMBER.losses(Table(ROWS, [2.5, 0.5])).tolist() == [0.0, 0.5]
    np.testing.assert_allclose(
        THREE.losses(Table(np.eye(3), ["a", "b", "c"])), -np.log(np.diag(THREE.probabilities(np.eye(3))))
    )
    with pytest.raises(UsageError, match="class 'd' of row 1 was not seen in training, which had 'a', 'b', 'c'"):
        THREE.losses(Table(np.eye(3), ["a", "d", "c"]))
    with pytest.raises(UsageError, match="class 'x' of row 0 was not seen"):
        TWO.losses(Table(ROWS, ["x", "y"]))


@pytest.mark.parametrize("model", [THREE, TWO, NUMBER], ids=["three", "two", "number"])
def test_saved_and_loaded(model, tmp_path):
    model.save(tmp_path)
    for again in (load_agent(tmp_path), LinearModel.from_dict(json.loads(json.dumps(model.to_dict())))):
        X = np.arange(model.coef.shape[1] * 2.0).reshape(2, -1)
        assert (again.predict(X) == model.predict(X)).all() and again.loss == model.loss


@pytest.mark.parametrize(
    "damage",
    [
        {"loss": "hinge"},
        {"loss": "squared"},
        {"classes": ["a", "b"]},
        {"classes": None},
        {"classes": ["a"]},
        {"classes": [["a"], ["b"], ["c"]]},
        {"classes": "abc"},
    ],
    ids=str,
)
def test_a_damaged_file_is_refused(damage, tmp_path):
    THREE.save(tmp_path)
    text = json.loads((tmp_path / "agent.json").read_text())
    (tmp_path / "agent.json").write_text(json.dumps(text | damage))
    with pytest.raises(UsageError, match="damaged"):
        load_agent(tmp_path)
    with pytest.raises(UsageError, match="is not a linear model"):
        LinearModel.from_dict(THREE.to_dict() | damage)


def test_weights_that_are_no_numbers_are_refused():
    for wrong in ({"coef": [[float("nan")] * 3] * 3}, {"coef": "x"}, {"intercept": [1.0]}, {"coef": [1.0]}):
        with pytest.raises(UsageError, match="is not a linear model"):
            LinearModel.from_dict(THREE.to_dict() | wrong)
    with pytest.raises(UsageError, match="is not a linear model"):
        LinearModel.from_dict({"coef": []})
