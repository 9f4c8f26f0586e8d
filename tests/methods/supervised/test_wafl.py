"""WAFL: closed forms of the surrogate, its certificate, the envelope theorem, and FedAvg in the limit."""

from __future__ import annotations

import dataclasses
import math
import warnings

import numpy as np
import pytest
import torch

from surefoot.ambiguity.conventions import penalty_of_half
from surefoot.ambiguity.surrogate import Certificate, ascent_step, certificate
from surefoot.data.tables import Table
from surefoot.errors import UsageError
from surefoot.loops.common.run import make_learner
from surefoot.loops.networks.nets import Weights
from surefoot.methods.supervised.wafl import WAFL
from surefoot.methods.supervised.wafl.clients import in_clients, nearest_source
from surefoot.methods.supervised.wafl.worst import certified
from surefoot.models.row_network import RowModel, RowNetwork, row_losses
from surefoot.perturbations.ascent import ascend_priced, greatest_curvature
from surefoot.seeding import numpy_stream

STREAM = np.random.default_rng(3)
X = STREAM.normal(size=(48, 4))
Y = np.where(X @ [1.0, -1.0, 0.5, 0.0] + 0.5 * STREAM.normal(size=48) > 0, 1, 0)
TABLE = Table(X, Y, clients=np.arange(48) % 3)
SIZES = {"batch_size": 8, "local_epochs": 1}


def linear(w, classes=None) -> RowModel:
    """A linear model without an intercept, on features as they are."""
    vector = torch.tensor([*w, 0.0], dtype=torch.float64)
    still = (np.zeros(len(w)), np.ones(len(w)))
    return RowModel(RowNetwork(()), (len(w),), vector, still, "squared" if classes is None else "logistic", classes)


def run(rounds: int = 3, table: Table = TABLE, seeds=(0,), **changes):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "penalty=")
        learner = make_learner(WAFL(**{**SIZES, **changes}), table, list(seeds), rounds)
        for _ in range(rounds):
            learner.iterate()
        return learner


# --- closed forms (γ/2·‖x' − x‖²) ------------------------------------------------------------------------------------


def test_a_linear_loss_moves_by_its_gradient_and_the_ball_costs_its_norm():
    a, x, price = torch.tensor([3.0, -4.0], dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64), 2.5

    def damage(moves):
        return moves["x"] @ a

    moves = ascend_priced(damage, {"x": x}, price, 200, ascent_step(price, 0.0))["x"]
    torch.testing.assert_close(moves[0], a / price)
    assert float(damage({"x": moves}) - price / 2 * (moves**2).sum()) == pytest.approx(25 / (2 * price))
    assert float(greatest_curvature(damage, {"x": x})) == 0
    for rho in (0.1, 1.0):
        bounds = [
            certificate(g, np.array([25 / g]), np.array([25 / g**2]), 0.0).bound(rho) for g in (4.9 / rho, 5.1 / rho)
        ]
        best = certificate(5 / rho, np.array([5 * rho]), np.array([rho**2]), 0.0).bound(rho)
        assert best == pytest.approx(5 * rho) and best < min(bounds)


def test_least_squares_by_hand():
    model, table = linear([0.5, -1.0]), Table([[1.0, 2.0], [1.0, 2.0]], [0.3, 0.3])
    found = certified(model, table, 4.0)
    assert found.surrogate == pytest.approx(2.356364, abs=1e-6) and found.holds
    assert found.curvature == pytest.approx(1.25) and found.radius == pytest.approx(1.8 * math.sqrt(1.25) / 2.75)
    never = certified(model, table, 1.25)
    assert never.surrogate == math.inf and not never.holds and never.bound(1.0) == math.inf


def test_logistic_by_hand():
    model, table = linear([1.0, -0.5], np.array([0, 1])), Table([[0.4, 0.2]] * 2, [1, 1])
    assert model.losses(table) == pytest.approx([0.554355] * 2, abs=1e-6)
    found = certified(model, table, 2.0)
    assert found.surrogate == pytest.approx(0.621295, abs=1e-6)
    assert found.radius == pytest.approx(math.hypot(0.148148 - 0.4, 0.325926 - 0.2), abs=1e-6)
    assert found.bound() == pytest.approx(
        float(model.losses(Table([[0.148148, 0.325926]] * 2, [1, 1])).mean()), abs=1e-6
    )


def test_the_surrogate_is_above_the_loss_and_falls_with_the_penalty():
    model = linear([1.5, -1.0, 0.3, 0.0], np.array([0, 1]))
    values = [certified(model, TABLE, g).surrogate for g in (1.0, 2.0, 8.0, 100.0, math.inf)]
    assert values == sorted(values, reverse=True) and values[-1] == pytest.approx(model.losses(TABLE).mean())
    assert values[-2] == pytest.approx(values[-1], rel=0.01)


def test_every_distribution_in_the_ball_is_below_the_bound():
    """Rows moved at random within the radius, in the root of the mean square; labels stay."""
    model = linear([1.5, -1.0, 0.3, 0.0], np.array([0, 1]))
    found = certified(model, TABLE, 2.0)
    for _ in range(50):
        step = STREAM.normal(size=X.shape) * STREAM.exponential(size=(len(X), 1))
        step *= found.radius / math.sqrt((step**2).sum(1).mean())
        assert model.losses(Table(X + step, Y)).mean() <= found.bound()
    moved = X + found.radius * np.where(Y == 1, -1, 1)[:, None] * np.array([1.5, -1.0, 0.3, 0.0]) / math.sqrt(3.34)
    assert 0.9 * found.bound() < model.losses(Table(moved, Y)).mean() <= found.bound()


def test_the_envelope_theorem_and_stationarity():
    """The gradient in the weights is that at the moved rows; at the maximum the slope is the price of the distance."""
    w, x, y, price = (
        torch.tensor([1.0, -0.7, 0.2, 0.4]).double(),
        torch.from_numpy(X),
        torch.from_numpy(Y).double(),
        2.0,
    )

    def phi(v, *, moved=False):
        def damage(moves):
            return row_losses(((x + moves["x"]) @ v).unsqueeze(-1), y, 2)

        moves = ascend_priced(damage, {"x": torch.zeros_like(x)}, price, 200, ascent_step(price, 1.0))["x"]
        return moves if moved else (damage({"x": moves}) - price / 2 * (moves**2).sum(1)).mean()

    moves, v = phi(w, moved=True), w.clone().requires_grad_()
    seen = (x + moves).requires_grad_()
    (gradient,) = torch.autograd.grad(row_losses((seen.detach() @ v).unsqueeze(-1), y, 2).mean(), v)
    ends = [torch.eye(4).double() * 1e-5 * sign for sign in (1, -1)]
    numeric = torch.stack([(phi(w + a) - phi(w + b)) / 2e-5 for a, b in zip(*ends, strict=True)])
    torch.testing.assert_close(gradient, numeric, atol=1e-5, rtol=0)
    (slope,) = torch.autograd.grad(row_losses((seen @ w).unsqueeze(-1), y, 2).sum(), seen)
    torch.testing.assert_close(slope, price * moves, atol=1e-7, rtol=0)


def test_the_curvature_is_the_greatest_eigenvalue():
    W = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).double()
    x, y = torch.from_numpy(X), torch.from_numpy(np.arange(48) % 3)

    def damage(moves):
        return row_losses((x + moves["x"]) @ W.T, y, 3)

    p = (x @ W.T).softmax(-1)
    hessian = torch.einsum("ca,nc,cb->nab", W, p, W) - torch.einsum("nc,ca,nd,db->nab", p, W, p, W)
    found = greatest_curvature(damage, {"x": torch.zeros_like(x)}, rounds=60)
    torch.testing.assert_close(found, torch.linalg.eigvalsh(hessian)[:, -1], rtol=1e-3, atol=1e-6)


def test_the_loss_of_a_batch_is_the_surrogate_and_has_no_gradient_through_the_rows():
    learner = run(1, hidden=(5,), penalty=3.0)
    batch = learner.batch(np.arange(8)[None])
    batch |= learner.before(batch, ("model",))
    one = {k: x[0] for k, x in batch.items() if k not in ("noise", "memory")}
    v = learner.weights["model"][0].requires_grad_()
    loss, metrics = learner.method.model_loss(Weights(learner.functions, {"model": v}, {}, {}), one, learner.rows)
    squared = ((one["moved"] - one["x"]) ** 2).sum(1)
    at = row_losses(learner.functions["model"](v, one["moved"]), one["y"], 2)
    assert float(loss.detach()) == pytest.approx(float((at - 1.5 * squared).mean().detach()))
    assert float(metrics["moved_squared"]) > 0 and not one["moved"].requires_grad


# --- federated averaging ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"hidden": (6,), "momentum": 0.5}, {"participation": 0.5}])
def test_an_infinite_penalty_or_no_ascent_is_fedavg_to_the_bit(changes):
    weights = [run(**changes, **how).weights["model"] for how in ({"penalty": math.inf}, {"ascent_steps": 0})]
    assert torch.equal(*weights) and not torch.equal(weights[0], run(**changes).weights["model"])


def test_fedavg_against_a_plain_loop():
    learner = run(2, penalty=math.inf, learning_rate=0.3)
    w = make_learner(WAFL(**SIZES), TABLE, [0], 1).weights["model"][0].double()
    x = torch.from_numpy((X - X.mean(0)) / X.std(0))
    y = torch.from_numpy(Y).double()
    for iteration in range(2):
        made = []
        for client in range(3):
            mine, v = np.flatnonzero(np.arange(48) % 3 == client), w.clone()
            order = mine[numpy_stream(0, f"rows of client {client}", iteration).permutation(16)]
            for rows in (order[:8], order[8:]):
                v = v.requires_grad_()
                loss = torch.nn.functional.softplus((1 - 2 * y[rows]) * (x[rows] @ v[:4] + v[4])).mean()
                v = (v - 0.3 * torch.autograd.grad(loss, v)[0]).detach()
            made.append(v)
        w = torch.stack(made).mean(0)
    torch.testing.assert_close(learner.weights["model"][0].double(), w, atol=1e-5, rtol=0)


def test_the_order_of_clients_and_rows_of_others_do_not_matter():
    order = np.argsort(-TABLE.clients, kind="stable")
    one, other = (run(table=t).weights["model"] for t in (TABLE, TABLE.rows(order)))
    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_seeds_whose_clients_differ_in_size_compute_what_they_compute_alone():
    table = Table(X, Y, clients=np.repeat([0, 1, 2, 3], [5, 9, 14, 20]))
    together = run(table=table, seeds=(0, 1, 2), participation=0.25, momentum=0.5, weight_decay=0.1)
    for place, seed in enumerate((0, 1, 2)):
        alone = run(table=table, seeds=(seed,), participation=0.25, momentum=0.5, weight_decay=0.1)
        torch.testing.assert_close(together.weights["model"][place], alone.weights["model"][0], atol=1e-5, rtol=1e-4)


def test_a_mixture_weighs_clients_and_the_certificate():
    alone = run(table=TABLE.rows(TABLE.clients == 1), scale="none").weights["model"]
    learner = run(mixture=(0.0, 1.0, 0.0), scale="none")
    found = learner.results()["certificate"]
    clients = in_clients(TABLE, (0.0, 1.0, 0.0))
    assert clients.of_rows().sum() == pytest.approx(1) and (clients.of_rows() > 0).sum() == 16
    only = certified(learner.agent(), TABLE.rows(TABLE.clients == 1), 2.0)
    assert found.surrogate == pytest.approx(only.surrogate) and alone.shape == learner.weights["model"].shape
    assert nearest_source(np.array([3.0, 1.0, 2.0])).tolist() == [0, 1, 0]


def test_a_smaller_penalty_gives_smaller_weights_and_a_flatter_model():
    sizes = [run(8, penalty=g, learning_rate=0.5).weights["model"].norm() for g in (0.5, 2.0, 10.0, math.inf)]
    assert sizes == sorted(sizes)


# --- what is told ----------------------------------------------------------------------------------------------------


def test_a_penalty_below_the_curvature_is_told():
    numbers = Table(X, 10 * X[:, 0])
    with pytest.raises(UsageError, match=r"penalty=0.1 is below the curvature of the loss.*diverges. Give penalty="):
        learner = make_learner(WAFL(**SIZES, loss="squared", penalty=0.1), numbers, [0], 3)
        learner.weights["model"] += 1.0  # a step too long, after which no worst place is the farthest
        learner.iterate()
    steep = make_learner(WAFL(**SIZES, loss="squared", penalty=0.1, learning_rate=0.3), numbers, [0], 3)
    with pytest.raises(UsageError, match=r"penalty=0.1 is below the curvature of the loss.*diverges. Give penalty="):
        steep.iterate()  # the weights pass the price within the first round
    learner.weights["model"] += 1e30  # too great to compute
    with pytest.raises(UsageError, match="Give a greater penalty, weight_decay=… or a smaller learning_rate"):
        learner.iterate()
    learner = make_learner(WAFL(**SIZES, penalty=0.01, learning_rate=0.5), TABLE, [0], 3)
    with pytest.warns(UserWarning, match=r"penalty=0.01 is below the curvature.*certificate.holds"):
        for _ in range(3):
            learner.iterate()
    assert not learner.results()["certificate"].holds


def test_clients_of_one_class_each_learn_what_none_of_them_sees():
    learner = run(20, dataclasses.replace(TABLE, clients=Y), learning_rate=0.5)
    found = learner.agent()
    assert (found.predict(X) == Y).mean() > 0.8 and math.isfinite(learner.results()["certificate"].surrogate)


def test_mistakes_are_refused():
    with pytest.raises(UsageError, match=r"penalty=0"):
        WAFL(penalty=0.0)
    with pytest.raises(UsageError, match="all clients take part"):
        WAFL(mixture=(0.5, 0.5), participation=0.5)
    with pytest.raises(UsageError, match="has 2 weights, but arrays has 3 clients"):
        run(1, mixture=(0.5, 0.5))
    with pytest.raises(UsageError, match="radius=-1"):
        Certificate(1.0, 0.0, 0.0, 0.0).bound(-1)


def test_conventions_and_words():
    assert penalty_of_half(1.5) == 3.0
    plain, moved = WAFL(penalty=math.inf), WAFL()
    assert "max" not in plain.objective() and "1·‖x' − x‖²" in moved.objective()
    assert not any("ascent" in line for line in plain.algorithm()) and any("1/(γ + L)" in x for x in moved.algorithm())
    assert all(dataclasses.replace(moved, **x) != moved for x in WAFL.presets.values())
