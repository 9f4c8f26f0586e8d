"""Sequential policy gradient: episodes and losses by hand, replicas that begin as dropout, plain training without."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from surefoot.data.tables import Table
from surefoot.errors import UsageError
from surefoot.loops.common.run import make_learner
from surefoot.loops.networks.nets import Weights
from surefoot.loops.supervised.method import Supervised
from surefoot.methods.supervised.sequential_pg import SequentialPG
from surefoot.methods.supervised.sequential_pg.replicas import (
    Replicas,
    as_large_as,
    average_over_live,
    live,
    observed,
    weighted_by_return,
)
from surefoot.models.row_network import RowNetwork, row_losses

STREAM = np.random.default_rng(1)
X = STREAM.normal(size=(60, 5))
Y = (X @ STREAM.normal(size=(5, 3))).argmax(1)
TABLE = Table(X, Y)
SIZES = {"batch_size": 16, "hidden": (12,), "plain": 0.0}


def run(epochs: int = 2, **changes):
    learner = make_learner(SequentialPG(**{**SIZES, **changes}), TABLE, [0], epochs)
    for _ in range(epochs):
        learner.iterate()
    return learner


def of_batch(learner, size: int = 16, on: float = 1.0):
    """The weights of a learner and the batch of one seed."""
    batch = learner.batch(np.arange(size)[None]) | {"replicas": torch.full((1,), on)}
    one = {k: x[0] for k, x in batch.items() if k not in ("noise", "memory")}
    return learner.weights["model"][0].clone(), one | {"noise": {"keep": batch["noise"]["keep"][0]}}


def loss_at(learner, vector, batch):
    w = Weights(learner.functions, {"model": vector}, {}, {})
    return learner.method.model_loss(w, batch, learner.rows)


# --- by hand -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("right", "states"),
    [
        ((1, 1, 1, 1), (1, 1, 1, 1, 1)),
        ((1, 0, 1, 1), (1, 1, 0, -1, -1)),
        ((0, 0, 1, 0), (1, 0, -1, -1, 0)),
        ((1, 1, 0, 0), (1, 1, 1, 0, -1)),
    ],
)
def test_the_states_of_an_episode(right, states):
    found = observed(torch.tensor(right, dtype=torch.bool).unsqueeze(1))[:, 0]
    assert found.tolist() == list(states)
    assert live(torch.tensor(right, dtype=torch.bool).unsqueeze(1))[:, 0].tolist() == [
        float(s == 1) for s in states[:-1]
    ]


def test_both_losses_by_hand():
    right = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 1]], dtype=torch.bool).T
    losses = torch.tensor([[0.2, 0.3, 0.5], [0.4, 1.2, 0.6], [1.5, 0.7, 0.8]]).T
    alive, weights, base = live(right), torch.tensor([1.0, 0.4, 0.2]), losses[0].mean()
    assert alive.T.tolist() == [[1, 1, 1], [1, 1, 0], [1, 0, 0]]
    for over, value, scaled in ((average_over_live, 1.1, 0.737352), (weighted_by_return, 1.78, 0.604480)):
        found = over(losses, alive, weights)
        assert float(found) == pytest.approx(value, abs=1e-5)
        assert float(as_large_as(found, base)) == pytest.approx(scaled, abs=1e-5)
    assert math.exp(-0.4) == pytest.approx(0.670320, abs=1e-6)


def test_dropout_adds_up_and_keeps_the_mean():
    """At the start the features after the replicas are those of dropout with the rates 0.1, 0.19, …, in the mean."""
    method = SequentialPG(dropout=0.1, weights=(0.4, 0.2, 0.1))
    net, x = Replicas(RowNetwork((8,)), (5,), 3, 3, "linear"), torch.from_numpy(X[:1]).float()
    keep = method.kept(torch.rand(3, 100_000, 8, generator=torch.Generator().manual_seed(0)))
    survived = (keep > 0).float().cumprod(0).mean((1, 2))
    torch.testing.assert_close(1 - survived, torch.tensor([0.1, 0.19, 0.271]), atol=3e-3, rtol=0)
    with torch.no_grad():
        found = net(x.expand(100_000, 5), "chain", keep)
        spread = 3 * found.std(1) / math.sqrt(100_000)
        assert ((found[1:].mean(1) - found[0, 0]).abs() <= spread[1:] + 1e-6).all()


# --- in training -------------------------------------------------------------------------------------------------


def test_without_dropout_replicas_begin_as_the_model():
    learner = make_learner(SequentialPG(**SIZES, dropout=0.0, normalise=False), TABLE, [0], 1)
    learner._streams = [torch.Generator().manual_seed(0)]
    vector, batch = of_batch(learner)
    module = learner.functions["model"]
    chain = module(vector, batch["x"], "chain", batch["noise"]["keep"])
    for scores in chain[1:]:
        torch.testing.assert_close(scores, chain[0], atol=1e-7, rtol=0)
    batch["y"] = chain[0].argmax(-1).float()  # all predictions are right
    loss, metrics = loss_at(learner, vector, batch)
    assert float(loss) == pytest.approx(1.7 * float(row_losses(chain[0], batch["y"], 3).mean()), rel=1e-5)
    assert float(metrics["episode_length"]) == 4 and (metrics["memory/tolerated"] == 4).all()


def test_without_replicas_it_is_plain_training():
    sizes = {k: v for k, v in SIZES.items() if k != "plain"}
    plain = make_learner(Supervised(**sizes), TABLE, [0], 2)
    for _ in range(2):
        plain.iterate()
    wanted = plain.agent().vector
    assert torch.equal(run(weights=()).agent().vector, wanted)
    torch.testing.assert_close(run(weights=(0.4, 0.2), plain=1.0).agent().vector, wanted, atol=1e-5, rtol=0)
    assert (run(weights=(0.4, 0.2)).agent().vector - wanted).abs().max() > 1e-3


def test_the_model_without_replicas_is_what_it_was_with_them():
    learner = run(4)
    with torch.no_grad():
        seen = learner.columns["x"].unsqueeze(0)
        scores = learner.output("model", seen)[0]
    model = learner.agent()
    np.testing.assert_allclose(model.scores(X), scores.numpy(), atol=1e-5)
    blocks = 3 * (12 * 12 + 12)
    assert len(learner.weights["model"][0]) == model.size + blocks


@pytest.mark.parametrize("block", ["linear", "residual"])
def test_predictions_after_the_end_of_an_episode_are_not_learned_from(block):
    learner = run(1, block=block, dropout=0.5)
    vector, batch = of_batch(learner, 60)
    vector = vector + 0.3 * torch.randn(vector.shape, generator=torch.Generator().manual_seed(0))
    loss, _ = loss_at(learner, vector, batch)
    scores = learner.functions["model"](vector, batch["x"], "chain", batch["noise"]["keep"])
    alive = live(scores.argmax(-1) == batch["y"])
    assert 0 < alive[1:].mean() < 1
    leaf = scores.detach().requires_grad_()

    class Given(Weights):
        def __call__(self, name, *inputs):
            return leaf

    again, _ = learner.method.model_loss(Given({}, {}, {}, {}), batch, learner.rows)
    assert float(again.detach()) == pytest.approx(float(loss), rel=1e-6)
    (gradient,) = torch.autograd.grad(again, leaf)
    assert (gradient[alive == 0] == 0).all() and (gradient[alive == 1].abs().amax(-1) > 0).all()


def test_the_released_block_never_moves_and_the_formulas_does():
    for block, moves in (("released", False), ("linear", True), ("residual", True)):
        learner = run(3, block=block, dropout=0.1, weight_decay=0.0)
        size = learner.agent().size
        outer = learner.weights["model"][0, size:]
        start = make_learner(learner.method, TABLE, [0], 3).weights["model"][0, size:]
        assert torch.equal(outer, start) != moves


def test_without_stopping_all_replicas_learn_from_all_samples():
    assert not torch.equal(run(stop=False).agent().vector, run().agent().vector)
    learner = run(stop=False, normalise=False, dropout=0.5)
    vector, batch = of_batch(learner)
    losses = row_losses(
        learner.functions["model"](vector, batch["x"], "chain", batch["noise"]["keep"]), batch["y"].expand(4, -1), 3
    )
    wanted = (torch.tensor([1.0, 0.4, 0.2, 0.1]) * losses.mean(1)).sum()
    assert float(loss_at(learner, vector, batch)[0]) == pytest.approx(float(wanted), rel=1e-5)


def test_what_every_sample_tolerated_is_kept():
    found = run(30, plain=0.5).results()["tolerated"]
    assert found.shape == (60,) and found.min() >= 0 and found.max() == 4 and 0 < found.mean() < 4


def test_mistakes_and_words():
    with pytest.raises(UsageError, match="loss='squared'"):
        SequentialPG(loss="squared")
    with pytest.raises(UsageError, match="stop=False is not allowed with block='residual'"):
        SequentialPG(stop=False, block="residual")
    assert SequentialPG(weights=()).objective() == "minimise mean CE" and not SequentialPG(weights=()).steps()
    assert "R_i" in SequentialPG(block="residual").objective() and "live" not in SequentialPG(stop=False).objective()
