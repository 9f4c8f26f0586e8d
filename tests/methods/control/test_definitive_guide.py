"""V-MPO against a plain restatement and its duals; REINFORCE and A2C against the policy gradient theorem."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from surefoot.loops.common.run import make_learner
from surefoot.loops.on_policy.learner import Learner
from surefoot.loops.on_policy.method import MULTIPLIER_FLOOR, pick
from surefoot.methods.control.baselines import A2C, REINFORCE
from surefoot.methods.control.definitive_guide import VMPO
from surefoot.methods.control.ppo import PPO
from surefoot.methods.control.trpo import TRPO
from surefoot.models.agent import Agent
from surefoot.models.distributions import Categorical
from surefoot.objectives.advantages import gae
from surefoot.objectives.divergences import decoupled_gaussian_kl, gaussian_kl

F64 = torch.float64
DISCRETE, CONTINUOUS = "surefoot/ContextualAction-v0", "surefoot/ContinuousTarget-v0"


def small(cls, **changes):
    return cls(**{"num_steps": 16, "minibatch_size": 32, "hidden": (16,), "anneal": False, **changes})


def learner(method, env, seed=0) -> Learner:
    return make_learner(method, env, [seed], 10**6)


# --- V-MPO -----------------------------------------------------------------------------------------------------------


def moved(env):
    """A method, its model, weights a little away from those that collected, and the batch (half of it not valid)."""
    method = small(VMPO)
    run = learner(method, env)
    batch = pick(run.estimate(run.collect(run.vector)), 0)
    noise = torch.randn(run.vector[0].shape, generator=torch.Generator().manual_seed(1))
    vector = run.vector[0] + 0.1 * noise * (~run.model.mask(lambda name: name.startswith("multipliers.")))
    assert 0 < batch["valid"].sum() < len(batch["valid"])
    return method, run.model, vector, batch


def gradient(method, model, vector, batch):
    def loss(v):
        return method.loss(model, v, batch, {})

    slope, (_, metrics) = torch.func.grad_and_value(loss, has_aux=True)(vector)
    return model.unflatten(slope), metrics


@pytest.mark.parametrize("env", [DISCRETE, CONTINUOUS])
def test_the_loss_is_the_algorithm_box(env):
    method, model, vector, batch = moved(env)
    valid = batch["valid"]
    params, value = (x[valid] for x in model.evaluate(vector, batch))
    advantage, old = batch["advantage"][valid], batch["old_params"][valid]
    kept = advantage >= advantage.quantile(0.5)
    psi = torch.softmax(advantage[kept], 0)  # the first temperature is 1
    log_prob = model.distribution.log_prob(params, batch["action"][valid])[kept]

    # The policy's loss has the right gradient; its value is a constant away from −Σψ·log π.
    parts, metrics = gradient(method, model, vector, batch)

    def box(v):
        params, value = (x[valid] for x in model.evaluate(v, batch))
        log_prob = model.distribution.log_prob(params, batch["action"][valid])[kept]
        if env == DISCRETE:
            penalty = 5.0 * torch.nn.functional.kl_div(
                params.log_softmax(-1), old.log_softmax(-1), reduction="batchmean", log_target=True
            )
        else:
            (m, s), (m0, s0) = params.chunk(2, -1), old.chunk(2, -1)
            normal = torch.distributions.Normal
            kl = torch.distributions.kl_divergence
            penalty = kl(normal(m0, s0.exp()), normal(m, s0.exp())).sum(-1).mean()
            penalty = penalty + kl(normal(m0, s0.exp()), normal(m0, s.exp())).sum(-1).mean()
        return -(psi * log_prob).sum() + penalty + 0.5 * ((value - batch["target"][valid]) ** 2).mean()

    expected = model.unflatten(torch.func.grad(box)(vector))
    assert (expected["actor.output.weight"] != 0).any() and (expected["critic.output.weight"] != 0).any()
    for name, slope in expected.items():
        if not name.startswith("multipliers."):
            torch.testing.assert_close(parts[name], slope, rtol=1e-3, atol=1e-6)
    surrogate = (psi * (1 + log_prob - batch["old_log_prob"][valid][kept])).sum()
    torch.testing.assert_close(metrics["surrogate"], surrogate)
    torch.testing.assert_close(metrics["value_loss"], 0.5 * ((value - batch["target"][valid]) ** 2).mean())


@pytest.mark.parametrize("env", [DISCRETE, CONTINUOUS])
def test_slopes_of_the_duals_are_what_is_left_of_their_bounds(env):
    method, model, vector, batch = moved(env)
    valid = batch["valid"]
    parts, metrics = gradient(method, model, vector, batch)
    advantage = batch["advantage"][valid]
    psi = torch.softmax(advantage[advantage >= advantage.quantile(0.5)], 0)
    spent = (psi * torch.log(psi * len(psi))).sum()
    torch.testing.assert_close(parts["multipliers.eta"], 0.01 - spent, rtol=1e-4, atol=1e-6)

    params, old = model.evaluate(vector, batch)[0][valid], batch["old_params"][valid]
    if env == DISCRETE:
        bounds = {"alpha": (model.distribution.kl(old, params), 0.01)}
    else:
        mean, covariance = decoupled_gaussian_kl(*old.chunk(2, -1), *params.chunk(2, -1))
        bounds = {"alpha_mean": (mean, 0.01), "alpha_covariance": (covariance, 5e-5)}
    assert {f"multipliers.{name}" for name in bounds} | {"multipliers.eta"} == {n for n in parts if "multipliers" in n}
    for name, (kl, bound) in bounds.items():
        assert kl.mean() > 0
        torch.testing.assert_close(parts[f"multipliers.{name}"], bound - kl.mean())
        torch.testing.assert_close(metrics[name.replace("alpha", "divergence")], kl.mean())


def test_decoupled_divergences_of_the_worked_example():
    old = (torch.zeros(2, dtype=F64), torch.tensor([1, 0.5], dtype=F64).log())
    new = (torch.tensor([0.1, -0.1], dtype=F64), torch.tensor([1.1, 0.45], dtype=F64).log())
    mean, covariance = decoupled_gaussian_kl(*old, *new)
    assert float(mean) == pytest.approx(0.025, abs=1e-12)
    assert float(covariance) == pytest.approx(0.020457, abs=5e-7)
    assert float(gaussian_kl(*old, *new)) == pytest.approx(0.049280, abs=5e-7)


def test_the_trust_region_holds_the_policy():
    """The stronger the KL's weight, the smaller the move from the policy that collected."""
    moves = []
    for alpha in (1e-6, 5.0, 500.0):
        run = learner(small(VMPO, alpha=alpha, learning_rate=3e-3), DISCRETE)
        (row,) = run.iterate()
        moves.append(row["divergence"])
    assert moves[0] > 2 * moves[1] > 20 * moves[2] > 0


def test_multipliers_stop_at_the_floor_and_are_no_part_of_the_agent(tmp_path):
    run = learner(small(VMPO, alpha=0.1, epsilon_alpha=10.0, learning_rate=0.05), DISCRETE)
    run.iterate()
    assert float(run.model.unflatten(run.vector[0])["multipliers.alpha"]) == pytest.approx(MULTIPLIER_FLOOR)
    agent = run.agent()
    assert agent.vector.numel() == run.vector.shape[1] - 2
    assert torch.equal(Agent.load(agent.save(tmp_path)).vector, agent.vector)
    for name, x in agent.flat.unflatten(agent.vector).items():
        assert torch.equal(x, run.model.unflatten(run.vector[0])[name])


# --- REINFORCE and A2C -----------------------------------------------------------------------------------------------


def test_reinforce_sums_rewards_to_the_end_of_the_unroll_and_steps_once_without_a_critic():
    method = REINFORCE(num_envs=2, num_steps=4, minibatch_size=8, gamma=0.9, normalize_rewards=False, hidden=(8,))
    run = learner(method, "surefoot/TruncatedConstant-v0")
    batch = run.estimate(run.collect(run.vector))
    expected = torch.tensor([3.439, 2.71, 1.9, 1.0]).repeat_interleave(2)
    torch.testing.assert_close(batch["advantage"][0], expected)
    before = run.model.unflatten(run.vector[0])
    run.iterate()
    after = run.model.unflatten(run.vector[0])
    assert int(run.adam.count[0]) == 1
    assert torch.equal(before["critic.output.weight"], after["critic.output.weight"])
    assert not torch.equal(before["actor.output.bias"], after["actor.output.bias"])


def test_a2c_passes_once_over_eight_minibatches():
    run = learner(A2C(num_steps=8, minibatch_size=8, hidden=(8,)), "CartPole-v1")
    run.iterate()
    assert int(run.adam.count[0]) == 8
    assert A2C().num_envs * A2C().num_steps // A2C().minibatch_size == VMPO().epochs - 2 == 8


@pytest.mark.parametrize("other", [PPO(), TRPO(standardize=True)], ids=lambda m: type(m).__name__)
def test_a2c_without_entropy_is_the_first_step_of_the_others(other):
    g = torch.Generator().manual_seed(0)
    old, advantage = -torch.rand(64, generator=g, dtype=F64), torch.randn(64, generator=g, dtype=F64)
    valid = torch.rand(64, generator=g) < 0.8

    def slope(method):
        log_prob = old.clone().requires_grad_()
        loss, _ = method.objective().loss(log_prob, old, advantage, valid=valid)
        return torch.autograd.grad(loss, log_prob)[0]

    inside = advantage[valid]
    standard = (advantage - inside.mean()) / inside.std(correction=0)
    torch.testing.assert_close(slope(A2C(entropy=0.0)), -standard * valid / valid.sum())
    torch.testing.assert_close(slope(other), slope(A2C(entropy=0.0)))


def test_a_baseline_leaves_the_expected_gradient_alone():
    params = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=F64).requires_grad_()
    actions, distribution = torch.arange(4).expand(5, 4), Categorical((4,))
    log_prob = distribution.log_prob(params.unsqueeze(1).expand(5, 4, 4), actions)
    baseline = torch.linspace(-3, 7, 5, dtype=F64).unsqueeze(1)
    (slope,) = torch.autograd.grad((log_prob.exp().detach() * log_prob * baseline).sum(), params)
    torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-14)


def test_returns_and_advantages_have_the_gradient_of_the_objective_and_advantages_less_variance():
    """All trajectories of a random two-step, three-state, two-action decision process, with their probabilities."""
    g = torch.Generator().manual_seed(3)
    start, kernel = torch.rand(3, generator=g, dtype=F64), torch.rand(3, 2, 3, generator=g, dtype=F64)
    start, kernel = start / start.sum(), kernel / kernel.sum(-1, keepdim=True)
    reward = torch.randn(3, 2, generator=g, dtype=F64)
    theta = torch.randn(3, 2, generator=g, dtype=F64).requires_grad_()

    def expected_return(theta):
        pi = theta.softmax(-1)
        last = (pi * reward).sum(-1)
        first = (pi * (reward + kernel @ last)).sum(-1)
        return start @ first, first, last

    total, first, last = expected_return(theta)
    (truth,) = torch.autograd.grad(total, theta, retain_graph=True)
    pi, first, last = theta.softmax(-1).detach(), first.detach(), last.detach()

    s0, a0, s1, a1 = torch.tensor(list(itertools.product(range(3), range(2), range(3), range(2)))).T
    probability = start[s0] * pi[s0, a0] * kernel[s0, a0, s1] * pi[s1, a1]
    assert float(probability.sum()) == pytest.approx(1)
    rewards = torch.stack([reward[s0, a0], reward[s1, a1]])
    signals = {
        "values": torch.stack([first[s0], last[s1]]),
        "next_values": torch.stack([last[s1], torch.zeros(36, dtype=F64)]),
        "terminated": torch.tensor([[False], [True]]).expand(2, 36),
        "truncated": torch.zeros(2, 36, dtype=torch.bool),
        "valid": torch.ones(2, 36, dtype=torch.bool),
    }
    scores = torch.zeros(2, 36, 3, 2, dtype=F64)  # ∇log π(a|s) of a softmax is 1[s]·(1[a] − π(·|s))
    for t, (s, a) in enumerate([(s0, a0), (s1, a1)]):
        scores[t, torch.arange(36), s] = torch.nn.functional.one_hot(a, 2).to(F64) - pi[s]

    def moments(advantage):
        log_prob = torch.stack([pi[s0, a0].log(), pi[s1, a1].log()])
        _, coefficient = REINFORCE().objective().coefficient(log_prob, log_prob, advantage)
        each = (coefficient[..., None, None] * scores).sum(0)
        mean = (probability[:, None, None] * each).sum(0)
        return mean, float((probability[:, None, None] * (each - mean) ** 2).sum())

    mean_of_returns, variance_of_returns = moments(REINFORCE(gamma=1.0).objective().advantage(rewards, **signals))
    mean_of_advantages, variance_of_advantages = moments(gae(1.0, 1.0)(rewards, **signals))
    torch.testing.assert_close(mean_of_returns, truth)
    torch.testing.assert_close(mean_of_advantages, truth)
    assert variance_of_advantages < variance_of_returns


# --- all three -------------------------------------------------------------------------------------------------------

FAST = {
    VMPO: {"learning_rate": 1e-2, "epochs": 4},
    A2C: {"learning_rate": 1e-2},
    REINFORCE: {"learning_rate": 3e-2, "minibatch_size": 128},
}


each_learner = pytest.mark.parametrize("cls", FAST, ids=lambda cls: cls.__name__)


@each_learner
def test_learns_which_action_is_right_and_the_same_for_the_same_seed(cls):
    run, again = (learner(small(cls, **FAST[cls]), DISCRETE) for _ in range(2))
    for _ in range(3):
        run.iterate(), again.iterate()
    assert torch.equal(run.vector, again.vector)
    (row,) = [run.iterate() for _ in range(20)][-1]
    assert row["return_mean"] > 0.95


@each_learner
def test_learns_a_continuous_action(cls):
    run = learner(small(cls, **FAST[cls]), CONTINUOUS)
    for _ in range(25 if cls is VMPO else 60):
        run.iterate()
    seen = np.linspace(-1, 1, 21, dtype=np.float32)[:, None]
    action, _ = run.agent().predict(seen, deterministic=True)
    assert np.mean((action - seen / 2) ** 2) < 0.02  # an action that is always 0 has 0.092
