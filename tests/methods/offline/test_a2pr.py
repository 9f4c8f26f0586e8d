"""A2PR: the card's gates and divergences by hand, its limits, and what each of its losses moves."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from micro_data import walk_data

import surefoot as sf
from surefoot.errors import UsageError
from surefoot.hyperparameters import presets
from surefoot.loops.common.run import make_learner
from surefoot.loops.networks.nets import Weights
from surefoot.methods.offline.a2pr import A2PR, guided
from surefoot.methods.offline.a2pr.generator import divergence
from surefoot.methods.offline.baselines import TD3BC

SIZES: dict[str, Any] = {
    "batch_size": 16,
    "log_every": 20,
    "hidden": (16,),
    "actor_hidden": (16,),
    "generator_hidden": (16,),
}


# --- numbers by hand -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "made", "generated", "held"),
    [(1, 2, True, True), (2, 1, False, True), (1, 1, True, True), (-1, -2, False, False), (-1, 0, True, True)],
)
def test_which_action_is_the_target_and_whether_it_is_held(data, made, generated, held):
    """V = 0. Ties go to the generator, and it need only reach V, which the data's action has to exceed."""
    values = torch.tensor([float(data)]), torch.tensor([float(made)]), torch.zeros(1)
    assert [x.item() for x in guided(*values)] == [generated, held]
    assert [x.item() for x in guided(*(7 * x for x in values))] == [generated, held]
    assert guided(values[0], values[1], torch.full((1,), 50.0))[0].item() == generated  # V has no say in the choice
    assert guided(torch.zeros(1), torch.tensor([-1.0]), torch.zeros(1))[1].item() is False


def test_the_divergence_by_hand():
    one = torch.ones(3, 2, dtype=torch.float64)
    assert divergence(0 * one, 0 * one) == 0 and divergence(one, 0 * one) == 0.5
    assert divergence(0 * one, one).item() == pytest.approx(-0.5 * (3 - math.e**2)) == pytest.approx(2.194528)
    inputs = torch.randn(2, 3, 2, generator=torch.manual_seed(0), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: divergence(x[0], x[1]), (inputs,))


# --- losses of a learner against formulas ----------------------------------------------------------------------------


def learner(method):
    run = make_learner(method, "", [0], 1000, data=walk_data())
    run.iterate()
    return run


def seen(run) -> tuple[Weights, dict]:
    """All weights of the seed, and a batch."""
    now = {name: x[0] for name, x in run.weights.items()}
    run.draw()
    batch = {k: {n: y[0] for n, y in x.items()} if isinstance(x, dict) else x[0] for k, x in run.batch().items()}
    return Weights(run.functions, now, {name: x[0] for name, x in run.targets.items()}, now), batch


def with_value(run, w: Weights, value: float) -> Weights:
    """The same, V a constant."""
    constant = torch.zeros_like(w.now["value"])
    constant[-1] = value  # the bias of its last layer
    now = {**w.now, "value": constant}
    return Weights(run.functions, now, w.targets, now)


def test_the_losses_are_their_formulas():
    run = learner(A2PR(**SIZES, strength=0.4, reconstruction=1.5))
    w, one = seen(run)
    moved = torch.randn(w.targets["critic"].shape, generator=torch.manual_seed(0))
    w = Weights(run.functions, w.now, {**w.targets, "critic": w.targets["critic"] + 0.05 * moved}, w.start)
    s, a, after = one["observation"], one["action"], one["next_observation"]
    assert [*run.nets] == ["critic", "value", "generator", "actor"] and run.nets["actor"].every == 2
    with torch.no_grad():
        action = (w.target("actor", after) + (0.2 * one["noise"]["target"]).clamp(-0.5, 0.5)).clamp(-1, 1)
        y = one["reward"] + one["discount"] * w.target("critic", after, action).min(0).values
        y2 = one["reward"] + one["discount"] * w("critic", after, action).min(0).values
        assert (y2 < y).any() and (y < y2).any()
        value, q = w("value", s), w("critic", s, a)[0]
        wanted = ((value - torch.minimum(y, y2)) ** 2).mean()
        assert run.method.value_loss(w, one)[0].item() == pytest.approx(wanted.item(), rel=1e-5)
        made, mean, log_std = w("generator", s, a, one["noise"]["data latent"])
        kl = 0.5 * (mean**2 + (2 * log_std).exp() - 1 - 2 * log_std).mean()
        wanted = 1.5 * ((made - a)[q > value] ** 2).sum() / a.numel() + 0.5 * kl
        assert 0 < (q > value).sum() < 16 and mean.shape == (16, 4)
        assert run.method.generator_loss(w, one)[0].item() == pytest.approx(wanted.item(), rel=1e-5)
        p = w("actor", s)
        again = w("generator", s, p, one["noise"]["actor latent"])[0]
        q_again = w("critic", s, again)[0]
        target = torch.where((q_again >= q)[:, None], again, a)
        held = ((q_again >= value) | (q > value)).float()[:, None]
        q_own = w("critic", s, p)[0]
        wanted = -2.5 * q_own.mean() / q_own.abs().mean() + 0.4 * (held * (p - target) ** 2).mean()
        assert run.method.actor_loss(w, one)[0].item() == pytest.approx(wanted.item(), rel=1e-5)


def test_its_limits_are_td3_and_td3_bc():
    run = learner(A2PR(**SIZES, strength=1.0))
    w, one = seen(run)
    free = dataclasses.replace(run.method, strength=0.0)
    assert free.distance(w, one, w("actor", one["observation"])) == 0
    assert run.method.actor_loss(with_value(run, w, 1e6), one)[0] == free.actor_loss(w, one)[0]  # nothing beats V

    class Data(A2PR):
        def generated(self, w, batch, action):
            return batch["action"]

    low = with_value(run, w, -1e6)
    torch.testing.assert_close(Data(**SIZES, strength=1.0).actor_loss(low, one)[0], TD3BC().actor_loss(w, one)[0])


def test_the_generator_learns_nothing_to_make_where_no_action_is_good():
    run = learner(A2PR(**SIZES))
    w, one = seen(run)
    high = with_value(run, w, 1e6)
    vector = high.now["generator"].clone().requires_grad_()
    loss, found = run.method.generator_loss(
        Weights(run.functions, {**high.now, "generator": vector}, w.targets, high.now), one
    )
    _, mean, log_std = w("generator", one["observation"], one["action"], one["noise"]["data latent"])
    torch.testing.assert_close(loss, 0.5 * divergence(mean, log_std))
    assert found["good"] == 0
    (slope,) = torch.autograd.grad(loss, vector)
    decoder = sum(x.numel() for x in run.nets["generator"].make().decode.parameters())
    assert (slope[-decoder:] == 0).all() and (slope[:-decoder] != 0).any()


def test_the_target_gets_no_gradient_and_the_pull_is_its_slope():
    run = learner(A2PR(**SIZES, strength=1.0))
    w, one = seen(run)
    low = with_value(run, w, -1e6)
    p = w("actor", one["observation"]).detach().requires_grad_()
    made = run.method.generated(w, one, p)
    values = [run.method.valued(w, one, x) for x in (one["action"], made)]
    target = torch.where((values[1] >= values[0])[:, None], made, one["action"])
    (slope,) = torch.autograd.grad(run.method.distance(low, one, p), p)
    torch.testing.assert_close(slope, 2 * (p - target).detach() / 32)
    assert not made.requires_grad


# --- settings --------------------------------------------------------------------------------------------------------


def test_presets_are_the_released_settings():
    found = {name: A2PR(**values) for name, values in presets(A2PR).items()}
    assert [(x.alpha, x.strength, x.reconstruction, x.gamma) for x in found.values()] == [
        (40.0, 1.0, 1.0, 0.99),
        (2.5, 0.4, 1.0, 0.995),
        (2.5, 1.0, 1.5, 0.99),
    ]
    assert A2PR().hidden == (256,) * 4 and A2PR().actor_network().hidden == (256,) * 3


def test_settings_without_sense_are_refused_and_the_formula_says_what_runs():
    wrong: dict[str, Any] = {"strength": -1.0, "reconstruction": -1.0, "generator_rate": 0.0}
    for name, value in wrong.items():
        with pytest.raises(UsageError, match=f"A2PR: {name}={value} is not allowed"):
            A2PR(**{name: value})
    text = A2PR(strength=0.4).objective()
    assert "0.4·mean 1[max(Q_1(s, a), Q_1(s, a_v)) > V(s)]·(π(s) − ā)²" in text and "(π(s) − a)²" not in text
    assert "generator: one step of Adam(0.001)" in sf.explain("a2pr") and np.isfinite(A2PR().strength)
