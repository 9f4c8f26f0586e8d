"""RORL: the card's numbers, that without its terms it is SAC-N to the bit, and what each term does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from micro_data import walk_data

import surefoot as sf
from surefoot.ambiguity.divergences import ChiSquare
from surefoot.errors import UsageError
from surefoot.hyperparameters import presets
from surefoot.loops.common.run import make_learner
from surefoot.loops.networks.nets import Weights
from surefoot.methods.offline.rorl import RORL
from surefoot.methods.offline.rorl.around import apart, disputed, rough
from surefoot.methods.offline.sac_n import SACN
from surefoot.models.distributions import SquashedGaussian

SIZES = {"batch_size": 16, "log_every": 10, "hidden": (16,), "critics": 3}
OFF = {"policy_smoothing": 0.0, "value_smoothing": 0.0, "ood_weight": 0.0}
ONE = SquashedGaussian(1, (-1.0,), (1.0,))


def gaussian(mean: float, deviation: float) -> torch.Tensor:
    return torch.tensor([[mean, np.log(deviation)]], dtype=torch.float64)


def learner(method, seeds=(0,)):
    return make_learner(method, "", list(seeds), 1000, data=walk_data())


def seen(run) -> tuple[Weights, dict]:
    """The weights and first batch of a run of one seed."""
    now = {name: x[0] for name, x in run.weights.items()}
    w = Weights(run.functions, now, {name: x[0] for name, x in run.targets.items()}, now)
    run.draw()
    found = run.batch()
    found |= run.method.beforehand(run)(found, run.due())
    return w, {k: {n: y[0] for n, y in x.items()} if isinstance(x, dict) else x[0] for k, x in found.items()}


def test_how_far_a_policy_changes():
    assert apart(ONE, gaussian(0, 0.5), gaussian(0.2, 0.8)[None]).item() == pytest.approx(0.586563, abs=1e-6)
    assert apart(ONE, gaussian(0, 0.5), gaussian(0.2, 0.5)[None]).item() == pytest.approx(0.16)
    assert apart(ONE, gaussian(0.3, 0.5), gaussian(0.3, 0.5)[None]).item() == 0
    several = torch.stack([gaussian(x, 0.5) for x in (0.1, -0.3, 0.2)])
    assert apart(ONE, gaussian(0, 0.5), several).item() == pytest.approx(0.36)  # the farthest
    inputs = gaussian(0, 0.5).requires_grad_(), several.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda p, q: apart(ONE, p, q), inputs)  # through both


def test_the_tanh_does_not_change_it():
    p, q = gaussian(0, 0.5), gaussian(0.2, 0.8)
    noise = torch.randn(400_000, 1, generator=torch.manual_seed(0), dtype=torch.float64)
    found = 0.0
    for one, other in ((p, q), (q, p)):
        raw = ONE.sample(one, noise)
        found += (ONE.log_prob(one, raw) - ONE.log_prob(other, raw)).mean().item()
    assert found == pytest.approx(apart(ONE, p, q[None]).item(), abs=1e-2)


@pytest.mark.parametrize(
    ("change", "tau", "loss"),
    [(0.5, 0.2, 0.2), (-0.5, 0.2, 0.05), (0.5, 0.5, 0.125), (-0.5, 0.5, 0.125), (0.5, 1e-12, 0.25), (-0.5, 1e-12, 0)],
)
def test_values_that_rise_around_a_state_cost_more(change, tau, loss):
    values = torch.full((3, 2), 1.0, dtype=torch.float64)
    assert rough(values, (values + change)[:, None], tau).tolist() == pytest.approx([loss] * 2, abs=1e-7)


def test_it_is_the_largest_over_points_of_the_mean_over_critics():
    values = torch.zeros(2, 1, dtype=torch.float64)
    around = torch.tensor(
        [[[1.0], [0.0], [-2.0]], [[1.0], [1.5], [0.0]]], dtype=torch.float64
    )  # critics, points, batch
    assert rough(values, around, 0.2).item() == pytest.approx(max(0.8, 0.8 * 2.25 / 2, 0.2 * 4 / 2))
    assert rough(values, 0 * around, 0.2).item() == 0
    inputs = (values + 0.1).requires_grad_(), around.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda v, a: rough(v, a, 0.2), inputs)
    steps = [float(rough(values, around[:, : n + 1], 0.2)) for n in range(3)]
    assert steps == sorted(steps)


def test_disagreement_lowers_all_critics_alike():
    values = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64, requires_grad=True)
    spread = values.std(0).item()
    assert spread == pytest.approx(1.527525, abs=1e-6)
    loss = disputed(values[:, None], 0.5)
    (slope,) = torch.autograd.grad(loss, values)
    assert loss.item() == pytest.approx(0.583333, abs=1e-6)
    assert slope.tolist() == pytest.approx([0.509175] * 3, abs=1e-6)  # positive: a step of descent goes down
    equal = torch.ones(3, 1, requires_grad=True)
    loss = disputed(equal, 0.5)
    assert loss.item() == 0 and torch.autograd.grad(loss, equal)[0].abs().max() == 0


@pytest.mark.parametrize("penalty", [0.1, 0.3, 0.5])
def test_the_mean_target_is_the_worst_case_over_the_ensemble(penalty):
    values = torch.tensor([1.0, 2.0, 2.5, 4.0], dtype=torch.float64)
    worst = ChiSquare(penalty**2 * 4 / 3)(values)
    assert worst.distribution.min() > 0
    assert float(values.mean() - penalty * values.std()) == pytest.approx(float(worst.value))


@pytest.mark.parametrize("critics", [2, 3])
def test_without_its_terms_it_is_sac_n_to_the_bit(critics):
    plain, robust = SACN(**SIZES | {"critics": critics}), RORL(**SIZES | {"critics": critics}, **OFF)
    runs = [learner(one) for one in (SACN(**{**vars(plain), "normalize_observations": True}), robust)]
    for _ in range(2):
        wanted, found = (run.iterate()[0] for run in runs)
        assert wanted == found
    for name in runs[0].weights:
        assert torch.equal(runs[0].weights[name], runs[1].weights[name]), name
    whole = learner(RORL(**SIZES | {"critics": critics}))
    whole.iterate()
    assert not torch.equal(whole.weights["actor"], learner(robust).weights["actor"])


def test_in_a_ball_of_radius_0_nothing_changes():
    row = learner(RORL(**SIZES, policy_radius=0.0, value_radius=0.0)).iterate()[0]
    assert row["policy_change"] == pytest.approx(0, abs=1e-10) and row["value_change"] == pytest.approx(0, abs=1e-10)
    assert row["disagreement"] > 0


def test_the_losses_are_those_of_the_formula():
    method = RORL(**SIZES, samples=4, value_smoothing=0.3)
    run = learner(method)
    run.iterate()
    w, batch = seen(run)
    plain = SACN(**SIZES)
    state, action, moves = batch["observation"], batch["action"], batch["moves"]
    assert moves.shape == (4, 1, 2) and moves.abs().max() <= 1
    actor, critic, distribution = w.functions["actor"], w.functions["critic"], w.module("actor").distribution
    with torch.no_grad():
        params = w("actor", state)
        changes, rises, lowered = [], [], []
        for j in range(4):
            other = actor(w.now["actor"], state + 0.07 * moves[j])
            changes.append(distribution.kl(params, other) + distribution.kl(other, params))
            rise = critic(w.now["critic"], state + 0.03 * moves[j], action) - w("critic", state, action)
            rises.append((0.8 * rise.clamp(min=0) ** 2 + 0.2 * rise.clamp(max=0) ** 2).mean(0))
            near = state + 0.03 * moves[j]
            acted = torch.tanh(distribution.sample(w("actor", near), batch["around"][16 * j : 16 * (j + 1)]))
            lowered.append(w("critic", near, acted).std(0) ** 2)
        smooth = 0.5 * torch.stack(changes).amax(0).mean()
        cost = 0.3 * torch.stack(rises).amax(0).mean() + 0.5 * batch["penalty"] ** 2 * torch.stack(lowered).mean()
        found = method.actor_loss(w, batch)[0] - plain.actor_loss(w, batch)[0]
        torch.testing.assert_close(found, smooth, rtol=1e-3, atol=1e-6)
        found = method.critic_loss(w, batch)[0] - plain.critic_loss(w, batch)[0]
        torch.testing.assert_close(found, cost / 2, rtol=1e-3, atol=1e-6)


def test_more_points_and_larger_balls_never_cost_less():
    """For a policy whose mean is linear in the state, with the same directions."""
    state, g = torch.randn(8, 2, dtype=torch.float64, generator=torch.manual_seed(0)), torch.manual_seed(1)
    moves = 2 * torch.rand(20, 1, 2, dtype=torch.float64, generator=g) - 1
    slope = torch.tensor([[1.0, -2.0]], dtype=torch.float64)

    def policy(x):
        mean = x @ slope.T
        return torch.cat([mean, 0 * mean - 1], -1)

    def cost(samples: int, radius: float) -> torch.Tensor:
        return apart(ONE, policy(state), policy(state + radius * moves[:samples]))

    assert all((cost(n + 1, 0.1) >= cost(n, 0.1)).all() for n in range(1, 20))
    assert all((cost(20, 0.1 * (i + 1)) > cost(20, 0.1 * i)).all() for i in range(4))


def test_the_penalty_falls_to_its_lowest():
    method = RORL(**SIZES, penalty=1.0, lowest_penalty=0.4, penalty_decay=0.05)
    assert [method.penalty_after(t) for t in (0, 4, 12, 100)] == pytest.approx([1.0, 0.8, 0.4, 0.4])
    run = learner(method)
    assert run.iterate()[0]["penalty"] == pytest.approx(np.mean([1 - 0.05 * t for t in range(10)]))
    run.iterate()
    assert run.iterate()[0]["penalty"] == pytest.approx(0.4)


def test_a_smoothed_policy_moves_less_within_the_ball():
    changes = {}
    for weight in (1e-6, 10.0):
        run = learner(RORL(**SIZES, policy_radius=0.3, policy_smoothing=weight, learning_rate=1e-2, samples=5))
        for _ in range(6):
            row = run.iterate()[0]
        changes[weight] = row["policy_change"]
    assert changes[10.0] < changes[1e-6] / 2


def test_presets_are_the_released_settings():
    found = presets(RORL)
    assert len(found) == 17
    for values in found.values():
        RORL(**values)
    assert found["hopper"]["ood_radius"] == 0.02 and found["hopper"]["penalty"] == 2.0
    assert found["halfcheetah"] == {"policy_radius": 0.05, "policy_smoothing": 1.0, "ood_weight": 0.0}
    assert found["walker2d-random"]["penalty_decay"] == 1e-5 and found["walker2d-medium"]["penalty_decay"] == 5e-7
    assert found["halfcheetah-expert"]["policy_radius"] == 0.005 and found["halfcheetah-random"]["samples"] == 20


def test_settings_without_sense_are_refused_and_the_formula_says_what_runs():
    for values, said in (
        ({"critics": 1}, "critics=1 is not allowed"),
        ({"samples": 0}, "samples=0 is not allowed"),
        ({"policy_radius": -0.1}, "policy_radius=-0.1 is not allowed"),
        ({"asymmetry": 1.0}, "asymmetry=1.0 is not allowed"),
        ({"penalty": 0.05}, "lowest_penalty=0.1 is not allowed: λ falls from penalty=0.05"),
    ):
        with pytest.raises(UsageError, match=said):
            RORL(**values)
    text = RORL(policy_smoothing=0.25).objective()
    assert "0.25·mean max_j J(s, s_j)" in text and "0.8·max(Δ, 0)²" in text and "std_k" in text
    assert RORL(**OFF).objective() == SACN().objective()
    assert "|s_j − s| ≤ 0.07" in sf.explain("rorl")
