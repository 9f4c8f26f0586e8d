"""The survey's interventions: targets by hand, and what they are where they are neutral."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

import surefoot as sf
from surefoot.claims.robust.generalization_survey import expected
from surefoot.errors import UsageError
from surefoot.methods.control.dqn import DQN
from surefoot.methods.robust.generalization_survey import GeneralizationSurvey, mixed
from surefoot.objectives.bootstrap import munchausen, soft_value


def f64(x) -> torch.Tensor:
    return torch.tensor(x, dtype=torch.float64)


def given():
    """Two transitions, with the values of both states by the target and by the network."""
    target = {"s": f64([[1.0, 2.0], [0.0, 0.5]]), "t": f64([[3.0, 1.0], [2.0, 2.5]])}
    network = {"s": f64([[0.0, 1.0], [0.0, 1.0]]), "t": f64([[0.0, 1.0], [1.0, 0.0]])}
    w = SimpleNamespace(target=lambda _, x: target[x], fixed=lambda _, x: network[x])
    batch = {"observation": "s", "next_observation": "t", "action": torch.tensor([0, 1])}
    return w, batch | {"reward": f64([1.0, -1.0]), "discount": f64([0.9, 0.0])}


def test_munchausen_by_hand():
    w, batch = given()
    tau, alpha = 0.5, 0.9
    target = GeneralizationSurvey(munchausen=alpha, temperature=tau).target(w, batch)
    log_pi = math.log(math.exp(1 / tau) / (math.exp(1 / tau) + math.exp(2 / tau)))
    soft = tau * math.log(math.exp(3 / tau) + math.exp(1 / tau))
    assert float(target[0]) == pytest.approx(1 + alpha * max(tau * log_pi, -1.0) + 0.9 * soft)
    second = tau * math.log(math.exp(0.5 / tau) / (1 + math.exp(0.5 / tau)))
    assert float(target[1]) == pytest.approx(-1 + alpha * second)  # nothing after an end


def test_the_clip_bounds_the_scaled_logarithm():
    values = f64([[0.0, 5.0]])
    assert float(munchausen(values, torch.tensor([0]), 0.03, -1.0)) == -1.0
    assert float(munchausen(values, torch.tensor([1]), 0.03, -1.0)) == pytest.approx(0.0, abs=1e-12)


def test_the_limits_are_soft_dqn_and_dqn():
    w, batch = given()
    soft = batch["reward"] + batch["discount"] * soft_value(w.target("", "t"), 0.03)
    assert torch.equal(GeneralizationSurvey(munchausen=0.0).target(w, batch), soft)
    hard = GeneralizationSurvey(munchausen=0.0, temperature=1e-8).target(w, batch)
    torch.testing.assert_close(hard, DQN().target(w, batch))
    assert torch.equal(GeneralizationSurvey(munchausen=None).target(w, batch), DQN().target(w, batch))
    double = GeneralizationSurvey(munchausen=None, double=True).target(w, batch)
    assert torch.equal(double, batch["reward"] + batch["discount"] * f64([1.0, 2.0]))


def test_the_soft_value_is_value_plus_entropy():
    q = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    log_pi = torch.log_softmax(q / 0.4, -1)
    torch.testing.assert_close(soft_value(q, 0.4), (log_pi.exp() * (q - 0.4 * log_pi)).sum(-1))


def test_mixing_is_linear_and_one_changes_nothing():
    x, y, partner = torch.rand(4, 2, 3), torch.rand(4), torch.tensor([1, 0, 3, 2])
    assert torch.equal(mixed(x, torch.ones(4), partner), x)
    lam = torch.tensor([0.5, 0.75, 1.0, 0.9])
    assert mixed(x, lam, partner)[1, 0, 2] == pytest.approx(float(0.75 * x[1, 0, 2] + 0.25 * x[0, 0, 2]))
    torch.testing.assert_close(mixed(2 * y + 1, lam, partner), 2 * mixed(y, lam, partner) + 1)


def test_the_larger_half_of_a_beta_weighs_a_sample():
    noise = GeneralizationSurvey(mixreg=0.2).noise(20_000, None, torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    weight = noise["weight"].double()
    assert bool((weight >= 0.5).all()) and sorted(noise["partner"].tolist()) == list(range(20_000))
    variance = 0.25 / (2 * 0.2 + 1)  # of Beta(b, b)
    assert float(((weight - 0.5) ** 2).mean()) == pytest.approx(variance, rel=0.02)


@pytest.mark.parametrize("actions, value", [(2, 0.333333), (4, 0.6), (10, 0.818182)])
def test_the_largest_of_uniform_errors(actions, value):
    assert expected(actions) == pytest.approx(value, abs=1e-6)
    draws = torch.rand(200_000, actions, generator=torch.Generator().manual_seed(actions)) * 2 - 1
    assert float(draws.amax(1).mean()) == pytest.approx(value, abs=0.005)


def test_what_does_not_go_together_is_refused():
    with pytest.raises(UsageError, match="double=True"):
        GeneralizationSurvey(double=True)
    assert "Beta" in sf.explain("generalization-survey", mixreg=0.2)


def test_it_trains(tmp_path):
    sizes = {"learning_starts": 50, "log_every": 100, "hidden": (8,), "mixreg": 0.2}
    run = sf.train("generalization-survey", "CartPole-v1", 200, run_dir=tmp_path, loggers=(), compile="off", **sizes)
    assert math.isfinite(run.metrics()[-1]["critic_loss"])
