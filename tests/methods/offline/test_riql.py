"""RIQL: the card's numbers, the limits in which it is IQL, and that a wrong row moves it less."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from micro_data import walk_data

import surefoot as sf
from surefoot.errors import UsageError
from surefoot.hyperparameters import presets
from surefoot.loops.common.run import make_learner
from surefoot.loops.networks.nets import Weights
from surefoot.methods.offline.baselines import IQL
from surefoot.methods.offline.riql import RIQL
from surefoot.objectives.bootstrap import low_quantile

SIZES = {"batch_size": 16, "log_every": 20, "hidden": (16,)}
ERRORS = torch.tensor([0.05, 0.5, 2.0, 10.0], dtype=torch.float64)


@pytest.mark.parametrize(
    ("sigma", "losses"),
    [
        (1.0, (0.00125, 0.125, 1.5, 9.5)),
        (0.5, (0.0003125, 0.03125, 0.5, 8.0)),
        (0.1, (0.0000125, 0.00125, 0.02, 0.5)),
        (3.0, (0.01125, 0.444444, 1.944444, 9.944444)),
    ],
)
def test_the_huber_loss_of_a_sigma(sigma, losses):
    method = RIQL(sigma=sigma)
    assert method.bellman(ERRORS).tolist() == pytest.approx(losses, rel=1e-5)
    assert method.bellman(-ERRORS).tolist() == pytest.approx(losses, rel=1e-5)
    width = sigma**-2
    smooth = torch.nn.functional.smooth_l1_loss(ERRORS, 0 * ERRORS, reduction="none", beta=width)
    np.testing.assert_allclose(method.bellman(ERRORS), smooth)
    edge = torch.tensor([width - 1e-7, width + 1e-7], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(method.bellman(edge).sum(), edge)
    np.testing.assert_allclose(slope, 1, atol=1e-5)  # continuous where it becomes linear, and never steeper
    assert torch.autograd.gradcheck(method.bellman, (ERRORS.clone().requires_grad_(),))


def test_the_limits_of_sigma():
    np.testing.assert_allclose(RIQL(sigma=1e-3).bellman(ERRORS) * 1e6, ERRORS**2 / 2)
    np.testing.assert_allclose(RIQL(sigma=1e4).bellman(ERRORS), ERRORS, rtol=1e-6)


def test_the_quantile_of_the_critics():
    values = torch.tensor([10.0, 2.0, 1.0, 4.0, 3.0], dtype=torch.float64)[:, None]
    wanted = {0.0: 1.0, 0.1: 1.4, 0.25: 2.0, 0.5: 3.0, 1.0: 10.0}
    for level, quantile in wanted.items():
        assert low_quantile(values, level).item() == pytest.approx(quantile)
        several = torch.randn(5, 7, generator=torch.manual_seed(0))
        torch.testing.assert_close(low_quantile(several, level), torch.quantile(several, level, dim=0))
    outlier = values.clone()
    outlier[0] = 1e6
    assert low_quantile(outlier, 0.25).item() == 2.0  # the mean would be 200,002
    assert low_quantile(values[:1], 0.25).item() == 10.0


@pytest.mark.parametrize(
    ("critics", "level", "below"), [(5, 0.25, 0.495), (5, 0.1, 0.895), (5, 0.5, 0), (3, 0.25, 0.423)]
)
def test_how_far_the_quantile_lies_below_the_mean_of_equal_critics(critics, level, below):
    """In standard deviations of a critic: the pessimism that the quantile stands for."""
    draws = torch.randn(critics, 400_000, generator=torch.manual_seed(0), dtype=torch.float64)
    assert -low_quantile(draws, level).mean().item() == pytest.approx(below, abs=4e-3)


def learner(method, data=None):
    return make_learner(method, "", [0], 1000, data=walk_data() if data is None else data)


def losses(run, of=None) -> dict[str, torch.Tensor]:
    """The losses of a run's method on its first batch, in the weights of a run."""
    source = run if of is None else of
    now = {name: x[0] for name, x in source.weights.items()}
    w = Weights(source.functions, now, {name: x[0] for name, x in source.targets.items()}, now)
    run.draw()
    found = run.batch()
    batch = {k: {} if isinstance(x, dict) else x[0] for k, x in found.items()}
    return {name: net.loss(w, batch)[0] for name, net in run.nets.items()}


@pytest.mark.parametrize(("critics", "changes"), [(1, {}), (2, {"quantile": 0.0})])
def test_without_its_parts_it_is_iql(critics, changes):
    """One critic, or the 0-quantile of two, and a Huber loss that is still square: σ²/2 times the loss of IQL."""
    plain = learner(IQL(**SIZES, critics=critics, policy="deterministic", normalize_observations=False))
    plain.iterate()
    robust = learner(RIQL(**SIZES, critics=critics, sigma=0.1, normalize_observations=False, **changes))
    robust.iteration = plain.iteration  # the same batch
    wanted, found = losses(plain), losses(robust, plain)
    torch.testing.assert_close(found["value"], wanted["value"])
    torch.testing.assert_close(found["actor"], wanted["actor"])
    torch.testing.assert_close(found["critic"], wanted["critic"] * 0.1**2 / 2)


def test_every_critic_learns_from_the_same_target_and_the_loss_is_a_mean():
    run = learner(RIQL(**SIZES, target_range=(-0.5, 0.25)))
    run.iterate()
    now = {name: x[0] for name, x in run.weights.items()}
    w = Weights(run.functions, now, {name: x[0] for name, x in run.targets.items()}, now)
    run.draw()
    batch = {k: {} if isinstance(x, dict) else x[0] for k, x in run.batch().items()}
    with torch.no_grad():
        values = w("critic", batch["observation"], batch["action"])
        y = (batch["reward"] + batch["discount"] * w("value", batch["next_observation"])).clamp(-0.5, 0.25)
        wanted = torch.nn.functional.smooth_l1_loss(values, y.expand(5, -1), beta=1.0)
    torch.testing.assert_close(run.nets["critic"].loss(w, batch)[0], wanted)
    assert values.shape == (5, 16) and (y == -0.5).any()


def test_the_normaliser_counts_both_states_of_the_data_as_given():
    from surefoot.perturbations.data import Corruption

    data = Corruption("dynamics", 0.5, 3.0)(walk_data())
    mean, inverse = learner(RIQL(**SIZES), data).agent().scales[""]
    both = np.concatenate([data.observation, data.next_observation])
    np.testing.assert_allclose(mean, both.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(1 / inverse, both.std(0) + 1e-3, rtol=1e-4)


def test_presets_are_the_released_settings():
    found = presets(RIQL)
    assert len(found) == 20 and "hopper-adversarial-action" not in found, "four of 24 are the defaults"
    assert found["walker2d-random-dynamics"] == {"sigma": 1.0, "quantile": 0.25, "critics": 3}
    assert found["hopper-adversarial-reward"] == {"sigma": 0.1, "quantile": 0.25, "critics": 5}
    assert found["halfcheetah-random-reward"] == {"sigma": 3.0, "quantile": 0.25, "critics": 5}
    assert found["walker2d-random-action"] == {"sigma": 0.5, "quantile": 0.1, "critics": 5}
    for values in found.values():
        RIQL(**values)


def test_settings_without_sense_are_refused_and_the_formula_says_what_runs():
    for values, said in (
        ({"quantile": 1.5}, "quantile=1.5"),
        ({"sigma": 0.0}, "sigma=0.0"),
        ({"critics": 0}, "critics=0"),
    ):
        with pytest.raises(UsageError, match=f"RIQL: {said} is not allowed"):
            RIQL(**values)
    with pytest.raises(UsageError, match="give the lower end first"):
        RIQL(target_range=(1.0, -1.0))
    text = RIQL(sigma=0.5, quantile=0.1, target_range=(-100.0, 1000.0)).objective()
    assert "0.1-quantile over 5 of Q⁻" in text and "linear beyond 4" in text and "clipped to [-100, 1000]" in text
    assert "‖π(s) − a‖²" in text and "min over" not in text and "quantile" in sf.explain("riql")
