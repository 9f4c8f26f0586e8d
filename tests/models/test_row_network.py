"""Networks of rows: what they compute, their files, and what is refused."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from surefoot.data.tables import Table, read
from surefoot.errors import UsageError
from surefoot.models.functional import Flat, initial
from surefoot.models.row_network import RowModel, RowNetwork, row_losses
from surefoot.models.saved import load_agent

IMAGES = np.random.default_rng(0).normal(size=(6, 8, 8))
NETWORK = RowNetwork((5,), "tanh", (3, 4))
SCALE = (np.full(64, 0.5), np.full(64, 2.0))


def model(classes=None, target=(0.0, 1.0)) -> RowModel:
    outputs = 1 if classes is None or len(classes) == 2 else len(classes)
    vector = initial(lambda: NETWORK.make((1, 8, 8), outputs), torch.Generator().manual_seed(1))
    vector = vector + 0.1 * torch.randn(len(vector), generator=torch.Generator().manual_seed(2))
    return RowModel(
        NETWORK, (1, 8, 8), vector, SCALE, "squared" if classes is None else "logistic", classes, {}, target
    )


def test_it_scales_rows_and_is_the_network():
    made = model(np.array(["a", "b", "c"]))
    module = NETWORK.make((1, 8, 8), 3)
    scores = Flat(module)(made.vector, torch.from_numpy(2 * (IMAGES - 0.5)).float().unsqueeze(1))
    np.testing.assert_allclose(made.scores(IMAGES), scores.detach().numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(made.scores(IMAGES.reshape(6, 64)), made.scores(IMAGES))
    body = module(torch.zeros(2, 1, 8, 8), "body")
    torch.testing.assert_close(module(body, "head"), module(torch.zeros(2, 1, 8, 8)))
    assert body.shape == (2, 5) and made.probabilities(IMAGES).sum(1) == pytest.approx(1)


@pytest.mark.parametrize("classes", [None, np.array([0, 1]), np.array([3, 5, 9])])
def test_losses_of_every_kind(classes):
    target = (4.0, 2.0) if classes is None else (0.0, 1.0)
    made = model(classes, target)
    y = np.arange(6.0) if classes is None else np.resize(classes, 6)
    table = Table(IMAGES, y)
    if classes is None:
        wanted = 0.5 * (y - made.predict(IMAGES)) ** 2
    else:
        wanted = -np.log(made.probabilities(IMAGES)[np.arange(6), np.searchsorted(classes, y)])
    np.testing.assert_allclose(made.losses(table), wanted, rtol=1e-9)
    X = made.scaled(table.X).requires_grad_()
    (gradient,) = torch.autograd.grad(made.damage(X, torch.from_numpy(made.encoded(table))).sum(), X)
    assert gradient.shape == (6, 1, 8, 8) and (gradient != 0).any()


def test_its_files_hold_it(tmp_path):
    for number, made in enumerate((model(), model(np.array(["x", "y"]), (0.0, 1.0)))):
        made.save(tmp_path / str(number))
        again = load_agent(tmp_path / str(number))
        np.testing.assert_array_equal(again.scores(IMAGES), made.scores(IMAGES))
        assert again.network == NETWORK and again.target == made.target and repr(again) == repr(made)


@pytest.mark.parametrize(
    "damage",
    [
        {"shape": [1, 8, 9]},
        {"shape": [0]},
        {"shape": "8"},
        {"network": {"hidden": [6], "activation": "tanh", "channels": [3, 4]}},
        {"network": {"hidden": [10**9], "activation": "tanh", "channels": []}},
        {"network": {"width": 3}},
        {"network": None},
        {"loss": "hinge"},
        {"loss": "logistic"},
        {"classes": ["a", "b"]},
    ],
)
def test_damaged_files_are_refused(damage, tmp_path):
    model().save(tmp_path)
    path = tmp_path / "agent.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | damage))
    with pytest.raises(UsageError):
        load_agent(tmp_path)


def test_mistakes_are_refused():
    with pytest.raises(UsageError, match="the rows are vectors of 7 features, not images"):
        NETWORK.make((7,), 1)
    with pytest.raises(UsageError, match="trained on 64 features"):
        model().predict(np.zeros((2, 63)))
    with pytest.raises(UsageError, match="no probabilities"):
        model().probabilities(IMAGES)


def test_tables_of_images():
    assert Table(IMAGES, np.arange(6)).shape == (1, 8, 8) and Table(IMAGES, np.arange(6)).X.shape == (6, 64)
    assert Table(np.zeros((2, 3, 4, 5)), [0, 1]).shape == (3, 4, 5)
    digits = read("sklearn:digits")
    assert digits.shape == (1, 8, 8) and digits.rows(digits.index[:3]).shape == (1, 8, 8)
    flat = Table(digits.X, digits.y, shape=(1, 8, 8))
    plain = dataclasses.replace(flat, shape=(64,))
    assert flat.shape == (1, 8, 8) and plain.digest() != flat.digest()
    with pytest.raises(UsageError, match="the rows of X have 64 features"):
        Table(digits.X, digits.y, shape=(1, 7, 8))


def test_two_scores_or_one_are_the_same_loss():
    one = torch.randn(5, 1)
    both = torch.cat([torch.zeros(5, 1), one], 1)
    y = torch.tensor([0.0, 1, 1, 0, 1])
    torch.testing.assert_close(row_losses(one, y, 2), row_losses(both, y, 3))
