"""ECRM: each update against its own definition, and where it must end."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from surefoot.envs.tabular import TabularMDP
from surefoot.envs.tabular.instances_risk import cliff_walk
from surefoot.errors import UsageError
from surefoot.loops.tabular.gradient import evaluate, softmax_gradient
from surefoot.loops.tabular.learner import TabularLearner
from surefoot.methods.tabular.ecrm import ECRM, barrier
from surefoot.methods.tabular.ecrm.conditional_risk import least_risk
from surefoot.seeding import torch_stream

UPDATES = ("natural", "projected", "softmax", "reinforce")

# From the first state a sure cost of 0.4 or a cost that is 1 with 30 %; both ways lead on to the first state.
GAMBLE = TabularMDP(
    [[[0, 1, 0, 0], [0, 0, 0.7, 0.3]], *[[[1, 0, 0, 0]] * 2] * 3],
    [0, -0.4, 0, -1],
    0.9,
    initial=[1, 0, 0, 0],
)


def least(method, mdp):
    world = method.world(mdp)
    return float(world.initial @ least_risk(world)[1])


def trained(method, mdp, iterations, seed=0):
    learner = TabularLearner(method, mdp, [seed])
    risks = [learner.iterate()[0]["risk"] for _ in range(iterations)]
    return learner, risks


def at_random(world, seed=0):
    g = torch_stream(seed, "logits")
    theta = torch.randn(world.states, world.actions, generator=g, dtype=torch.float64)
    return theta.masked_fill(~world.legal, -torch.inf).log_softmax(-1)


# --- updates ----------------------------------------------------------------------------------------------------------


def soft_q(world, policy, tau, sweeps=600):
    """Q_τ of cost + τ·log π by plain iteration, in costs as in the paper."""
    cost, log = -world.reward, torch.where(policy > 0, policy, 1.0).log()
    value = torch.zeros(world.states, dtype=torch.float64)
    for _ in range(sweeps):
        q = cost + world.gamma * (world.rows * value[world.transition.state]).sum(-1)
        value = (policy * (q + tau * log)).sum(-1)
    return q


def test_the_longest_natural_step_is_soft_policy_iteration():
    """β = (1−γ)/τ: π₂ ∝ exp(−Q_τ/τ), while the first step's policy moves by 1 − γ of the way."""
    method = ECRM(tau=0.05, alpha=0.8)
    world = method.world(GAMBLE)
    log_prob = at_random(world)
    after = method.natural(GAMBLE, world, log_prob).exp()
    q = soft_q(world, log_prob.exp(), 0.05)
    torch.testing.assert_close(after[4:], (-q / 0.05).softmax(-1)[4:], rtol=0, atol=1e-12)
    expected = (0.9 * log_prob - 0.1 / 0.05 * q).softmax(-1)
    torch.testing.assert_close(after[:4], expected[:4], rtol=0, atol=1e-12)


def test_a_shorter_natural_step_is_a_geometric_mixture():
    """π₂ ∝ π₂^{1−βτ/(1−γ)}·exp(−β·Q_τ/(1−γ)), with β = 0.4, τ = 0.05, γ = 0.9: exponent 0.8 and rate 4."""
    method = ECRM(tau=0.05, step_size=0.4)
    world = method.world(GAMBLE)
    log_prob = at_random(world, 1)
    after, q = method.natural(GAMBLE, world, log_prob).exp(), soft_q(world, log_prob.exp(), 0.05)
    torch.testing.assert_close(after[4:], (0.8 * log_prob - 4 * q).softmax(-1)[4:], rtol=0, atol=1e-12)


def test_the_barrier_is_the_gradient_of_the_mean_of_log_pi():
    legal = torch.tensor([[True, True, True], [True, False, True]])
    theta = torch.tensor([[0.3, -1.0, 0.5], [2.0, 0.0, -0.4]], dtype=torch.float64, requires_grad=True)
    log_prob = theta.masked_fill(~legal, -torch.inf).log_softmax(-1)
    (expected,) = torch.autograd.grad(log_prob[legal].mean(), theta)
    torch.testing.assert_close(barrier(log_prob.exp().detach(), legal), expected, rtol=0, atol=1e-15)


def test_softmax_steps_follow_the_gradient_of_minus_the_risk_and_the_barrier():
    """One step against central differences of −J + κ·mean log π in the logits."""
    method = ECRM(update="softmax", kappa=0.03, step_size=1e-3, alpha=0.7)
    world = method.world(GAMBLE)
    log_prob = at_random(world, 2)

    def goal(x):
        log = x.log_softmax(-1)
        return float(world.initial @ evaluate(world, log.exp()).value) + 0.03 * float(log[world.legal].mean())

    after = method.step(GAMBLE, {"log_prob": log_prob, "critic": torch.zeros(world.states)}, 0, 0)[0]["log_prob"]
    moved = (after - log_prob) / 1e-3
    for s, a in [(0, 1), (4, 2), (5, 0), (9, 3)]:
        small = torch.zeros_like(log_prob)
        small[s, a], small[s, 0 if a else 1] = 1e-5, -1e-5
        slope = (goal(log_prob + small) - goal(log_prob - small)) / 2e-5
        assert float(moved[s, a] - moved[s, 0 if a else 1]) == pytest.approx(slope, abs=1e-6)


@pytest.mark.parametrize("kind", ["REINFORCE", "a perfect critic"])
def test_sampled_gradients_are_unbiased(kind):
    """Within five standard errors of the exact one; only a perfect critic may stand for the rest of the costs."""
    chance = dataclasses.replace(GAMBLE, gamma=0.5)
    method = ECRM(update="reinforce", episodes=400, length=24, trace=1.0 if kind == "REINFORCE" else 0.0, alpha=0.8)
    world = method.world(chance)
    policy = at_random(world, 3).exp()
    found = evaluate(world, policy)
    critic = torch.zeros(world.states, dtype=torch.float64) if kind == "REINFORCE" else found.value
    parts = torch.stack([method.sampled(world, policy, critic, torch_stream(i, "e"))[0] for i in range(40)])
    error = (parts.mean(0) - softmax_gradient(found.occupancy, policy, found.q)).abs()
    assert bool((error <= 5 * parts.std(0) / 40**0.5 + 1e-6).all())
    assert float(error.max()) < 0.02 < float(softmax_gradient(found.occupancy, policy, found.q).abs().max())


def test_the_critic_finds_the_value():
    method = ECRM(update="reinforce", episodes=200, length=60, critic_rate=0.2)
    world = method.world(GAMBLE)
    policy = at_random(world, 4).exp()
    critic = torch.zeros(world.states, dtype=torch.float64)
    for i in range(40):
        critic = method.sampled(world, policy, critic, torch_stream(i, "e"))[1]
    found = evaluate(world, policy)
    often = found.occupancy > 0.3
    assert int(often.sum()) > 5
    np.testing.assert_allclose(critic[often], found.value[often], rtol=0.1)


# --- where they end ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("update", "iterations", "gap"), [("natural", 60, 1e-2), ("projected", 300, 1e-2)])
def test_exact_updates_reach_the_least_risk_of_the_gamble(update, iterations, gap, lam):
    method = ECRM(update=update, lam=lam, alpha=0.9)
    _, risks = trained(method, GAMBLE, iterations)
    assert risks[-1] == pytest.approx(least(method, GAMBLE), abs=gap)
    assert risks[-1] >= least(method, GAMBLE) - 1e-9


def test_natural_updates_reach_the_least_risk_of_the_cliff():
    method = ECRM(lam=0.5, alpha=0.9)
    learner, risks = trained(method, cliff_walk(), 60)
    assert risks[-1] == pytest.approx(1.1121, abs=1e-3)
    assert learner.agent().policy.shape == (4, 24, 4, 4)


@pytest.mark.parametrize("update", UPDATES)
def test_who_minds_the_tail_takes_the_sure_cost(update):
    """The gamble costs 0.3 on average and its tail 1; the sure cost is 0.4."""
    settings = {"update": update, "alpha": 0.9, "episodes": 20, "length": 20}
    settings["step_size"] = 2.0 if update in ("softmax", "reinforce") else None
    chosen = []
    for lam in (0.0, 1.0):
        learner, _ = trained(ECRM(lam=lam, **settings), GAMBLE, 150)
        chosen.append(float(learner.agent().policy[0, 0, 1].sum()))
    assert chosen[0] > 0.8 and chosen[1] < 0.2


@pytest.mark.parametrize("update", ["projected", "softmax"])
def test_short_exact_steps_never_raise_the_risk(update):
    _, risks = trained(ECRM(update=update, step_size=0.02), GAMBLE, 60)
    assert bool((np.diff(risks) <= 1e-12).all()) and risks[-1] < risks[0] - 0.1


def test_the_metrics_of_the_policy_are_its_plain_return_and_its_risk():
    """At λ = 0 they are one; the tail of the gamble makes the risk larger."""
    for lam in (0.0, 1.0):
        method = ECRM(lam=lam)
        state = method.start(GAMBLE, 0)
        metrics = method.step(GAMBLE, state, 0, 0)[1]
        uniform = torch.full((4, 2), 0.5, dtype=torch.float64)
        plain = float(evaluate(GAMBLE, uniform).value[0])
        assert float(metrics["return_mean"]) == pytest.approx(plain)
        assert float(metrics["risk"]) > -plain + 0.1 if lam else float(metrics["risk"]) == pytest.approx(-plain)


def test_samples_come_from_seed_and_iteration_alone():
    method = ECRM(update="reinforce", episodes=2, length=5)
    one, other, third = (trained(method, GAMBLE, 3, seed)[0].states[0] for seed in (1, 1, 2))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not torch.equal(one["log_prob"], third["log_prob"])


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_natural_step_that_is_too_long_is_refused():
    with pytest.raises(UsageError, match=r"step_size=0.2 is too large.*at most \(1−γ\)/τ = 0.1"):
        ECRM(step_size=0.2, tau=1.0).admit(GAMBLE)
    ECRM(step_size=0.2, tau=1.0, update="softmax").admit(GAMBLE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"horizon": 3}, "leave horizon out"),
        ({"gamma": 1.0}, "set gamma below 1"),
        ({"reward": torch.zeros(4, 2, 4)}, "expected_reward"),
    ],
)
def test_mdps_of_another_kind_are_refused(changes, message):
    with pytest.raises(UsageError, match=message):
        ECRM().admit(dataclasses.replace(GAMBLE, **changes))
