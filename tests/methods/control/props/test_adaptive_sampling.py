"""Adaptive sampling: the worked numbers of its push, torch's own optimisers as oracles, its bound, and two ways to
measure how far a sample is from its policy."""

from __future__ import annotations

import itertools
import math
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from surefoot.claims.control import sampling_bandit as bandit
from surefoot.errors import UsageError
from surefoot.loops.common.run import make_learner
from surefoot.loops.on_policy.learner import Learner
from surefoot.loops.on_policy.method import pick
from surefoot.methods.control.ppo import PPO
from surefoot.methods.control.props.adaptive_sampling import AdaptiveSampling, sampling_error, tabular_sampling_error
from surefoot.models.distributions import Categorical, Gaussian
from surefoot.models.functional import Model

TARGET = "surefoot/ContinuousTarget-v0"
POLICIES: dict[str, tuple[str, dict[str, Any]]] = {
    "gaussian": (TARGET, {}),
    "squashed gaussian": (TARGET, {"squash": True}),
    "categorical": ("CartPole-v1", {}),
    "masked categorical": ("surefoot/MaskedAction-v0", {}),
    "multi-discrete": ("surefoot/MultiDiscreteTarget-v0", {}),
    "recurrent": ("surefoot/MemoryCue-v0", {"core": "gru", "core_size": 8}),
    "shared encoder": (TARGET, {"shared": True}),
}
every_policy = pytest.mark.parametrize("policy", POLICIES)


class Constant(torch.nn.Module):
    """One distribution for all states: its parameters are the weights."""

    def __init__(self, distribution: Any) -> None:
        super().__init__()
        self.distribution, self.params = distribution, torch.nn.Parameter(torch.zeros(distribution.size))

    def forward(self, x: Tensor, state: None, starts: None) -> tuple[Tensor, Tensor, None]:
        return self.params.expand(*x.shape, -1), torch.zeros(x.shape, dtype=self.params.dtype), None


def constant(distribution: Any, params: Tensor, action: Tensor) -> tuple[Model, dict[str, Any]]:
    """The model of one distribution, and actions `[samples]` as a batch of the policy with these parameters."""
    model, old = Model(Constant(distribution)), params.expand(len(action), -1)
    log_prob, valid = distribution.log_prob(old, action), torch.ones(len(action), dtype=torch.bool)
    batch = {"observation": torch.zeros(len(action)), "action": action, "valid": valid}
    return model, {**batch, "old_params": old, "old_log_prob": log_prob}


def counted(counts: tuple[int, ...], probabilities: tuple[float, ...]) -> tuple[Model, Tensor, dict[str, Any]]:
    """A categorical policy and actions that occur so often."""
    logits = torch.tensor(probabilities, dtype=torch.float64).log()
    action = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return *constant(Categorical((len(counts),)), logits, action), logits  # type: ignore[return-value]


def gradient(sampling: AdaptiveSampling, model: Model, vector: Tensor, batch: dict[str, Any]) -> Tensor:
    return torch.func.grad(lambda v: sampling.loss(model, v, batch))(vector)


@cache
def ready(policy: str, seeds: tuple[int, ...] = (0,)) -> tuple[Learner, dict[str, Any]]:
    """A learner, and the batch of all its seeds that its weights collected."""
    env, options = POLICIES[policy]
    method = PPO(num_envs=4, num_steps=16, minibatch_size=64, hidden=(8,), **options)
    learner = make_learner(method, env, list(seeds), 10**6)
    return learner, learner.estimate(learner.collect(learner.vector))


def shuffled(learner: Learner, batch: dict[str, Any], passes: int, parts: int, seed: int = 0) -> list[Tensor]:
    """The same minibatches for every seed of the learner."""
    samples, stream = learner.samples(batch), torch.Generator().manual_seed(seed)
    orders = [torch.randperm(samples, generator=stream).expand(learner.num_seeds, -1) for _ in range(passes)]
    return [index for order in orders for index in order.split(samples // parts, 1)]


def with_batch(one: dict[str, Any]) -> dict[str, Any]:
    """The batch of a single seed as one of all."""
    return {key: x.unsqueeze(0) for key, x in one.items()}


def mean_k3(learner: Learner, batch: dict[str, Any], vector: Tensor, index: Tensor) -> float:
    """In float64 and by the definition, for the first seed."""
    one = pick(batch, 0)
    with torch.no_grad():
        params = learner.model.evaluate(vector[0], one)[0]
    log_ratio = (learner.model.distribution.log_prob(params, one["action"]) - one["old_log_prob"]).double()
    dim = 1 if "state" in batch else 0
    k3 = (log_ratio.exp() - 1 - log_ratio).index_select(dim, index[0])
    return float(k3[one["valid"].index_select(dim, index[0])].mean())


# --- the push ------------------------------------------------------------------------------------------------------


def test_gradient_at_the_target_is_frequency_less_probability():
    model, batch, logits = counted((7, 2, 1), (0.5, 0.3, 0.2))
    found = gradient(AdaptiveSampling(), model, logits, batch)
    torch.testing.assert_close(found, torch.tensor([0.2, -0.1, -0.1], dtype=torch.float64))


def test_one_step_of_ros_by_hand():
    model, batch, logits = counted((7, 2, 1), (0.5, 0.3, 0.2))
    batch, target, index = with_batch(batch), logits.unsqueeze(0), torch.arange(10).unsqueeze(0)
    moved = AdaptiveSampling.ros(1.0)(model, target, batch, [index]).vector[0]
    assert moved.softmax(-1).tolist() == pytest.approx([0.425557, 0.344666, 0.229777], abs=1e-6)
    assert float(model.distribution.kl(logits, moved)) == pytest.approx(0.011208, abs=1e-6)


def test_a_sample_without_error_pushes_nowhere():
    model, batch, logits = counted((5, 3, 2), (0.5, 0.3, 0.2))
    for sampling in (AdaptiveSampling(), AdaptiveSampling.ros(1.0)):
        assert gradient(sampling, model, logits, batch).abs().max() < 1e-15
    index = torch.arange(10).unsqueeze(0)
    moved = AdaptiveSampling.ros(1.0)(model, logits.unsqueeze(0), with_batch(batch), [index] * 5)
    torch.testing.assert_close(moved.vector[0], logits)


@pytest.mark.parametrize(("ratio", "value", "slope"), [(1.2, 1.2, 1.0), (0.75, 0.75, 1.0), (0.6, 0.7, 0.0)])
def test_clip_by_hand(ratio, value, slope):
    """The loss of one sample at that ratio is max(q, clip(q, 0.7, 1.3)), and its slope in q."""
    log_prob = torch.tensor([math.log(ratio)], dtype=torch.float64, requires_grad=True)
    minus = torch.tensor([-1.0], dtype=torch.float64)
    loss, metrics = AdaptiveSampling(clip=0.3).objective().loss(log_prob, torch.zeros_like(minus), minus)
    (found,) = torch.autograd.grad(loss, log_prob)
    assert -float(metrics["surrogate"]) == pytest.approx(value)
    assert float(found) / ratio == pytest.approx(slope)


@every_policy
def test_at_the_target_every_push_is_the_gradient_of_the_mean_log_probability(policy):
    learner, batch = ready(policy)
    one, model, vector = pick(batch, 0), learner.model, learner.vector[0]

    def mean_log_prob(v: Tensor) -> Tensor:
        return model.distribution.log_prob(model.evaluate(v, one)[0], one["action"])[one["valid"]].mean()

    wanted = torch.func.grad(mean_log_prob)(vector)
    assert wanted.norm() > 1e-3
    for sampling in (AdaptiveSampling(), AdaptiveSampling(regularizer=3.0, clip=0.1), AdaptiveSampling.ros(1.0)):
        torch.testing.assert_close(gradient(sampling, model, vector, one), wanted, atol=1e-5, rtol=1e-4)


@given(
    seed=st.integers(0, 99),
    clip=st.sampled_from([0.05, 0.3, None]),
    regularizer=st.sampled_from([0.0, 0.1, 2.0]),
    gaussian=st.booleans(),
)
def test_the_loss_has_the_gradient_of_its_formula(seed, clip, regularizer, gaussian):
    """Written out in float64, away from the target, with padding that holds anything."""
    stream = torch.Generator().manual_seed(seed)
    distribution = Gaussian(2) if gaussian else Categorical((4,))
    old = torch.randn(distribution.size, generator=stream, dtype=torch.float64)
    action = distribution.sample(old.expand(12, -1), distribution.noise((12,), stream).double())
    model, batch = constant(distribution, old, action)
    batch["valid"] = torch.rand(12, generator=stream) < 0.7
    batch["valid"][0] = True
    batch["old_log_prob"] = torch.where(batch["valid"], batch["old_log_prob"], torch.nan)
    vector = old + 0.3 * torch.randn(old.shape, generator=stream, dtype=torch.float64)

    def log_ratio(v: Tensor) -> Tensor:
        return (distribution.log_prob(v.expand(12, -1), action) - batch["old_log_prob"])[batch["valid"]]

    assume(log_ratio(vector).abs().max() < 20)  # where ratios are held

    def by_hand(v: Tensor) -> Tensor:
        q = log_ratio(v).exp()
        push = q if clip is None else torch.maximum(q, q.clamp(1 - clip, 1 + clip))
        return push.mean() + regularizer * distribution.kl(old, v)

    sampling = AdaptiveSampling(clip=clip, regularizer=regularizer)
    found = gradient(sampling, model, vector, batch)
    torch.testing.assert_close(found, torch.func.grad(by_hand)(vector), atol=1e-10, rtol=1e-8)


def test_a_gaussian_moves_away_from_the_mean_of_the_sample():
    mean, log_std = torch.tensor([0.3, -1.0], dtype=torch.float64), torch.tensor([-0.5, 0.2], dtype=torch.float64)
    action = torch.randn(40, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    vector = torch.cat([mean, log_std])
    model, batch = constant(Gaussian(2), vector, action)
    index = torch.arange(40).unsqueeze(0)
    moved = AdaptiveSampling.ros(0.1)(model, vector.unsqueeze(0), with_batch(batch), [index]).vector[0]
    standard = (action - mean) * torch.exp(-log_std)
    torch.testing.assert_close((moved - vector)[:2], -0.1 * (action.mean(0) - mean) / torch.exp(2 * log_std))
    torch.testing.assert_close((moved - vector)[2:], -0.1 * (standard**2 - 1).mean(0))


@given(counts=st.tuples(*[st.integers(0, 9)] * 3).filter(any), seed=st.integers(0, 99))
def test_what_the_data_hold_most_too_often_loses_and_most_too_seldom_gains(counts, seed):
    policy = torch.rand(3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.1
    policy = policy / policy.sum()
    excess = torch.tensor(counts) / sum(counts) - policy
    model, batch, logits = counted(counts, tuple(policy.tolist()))
    index = torch.arange(sum(counts)).unsqueeze(0)
    moved = AdaptiveSampling.ros(0.01)(model, logits.unsqueeze(0), with_batch(batch), [index]).vector[0]
    change = moved.softmax(-1) - policy
    if excess.abs().max() > 1e-3:
        most, least = excess.argmax(), excess.argmin()
        assert (moved - logits)[most] < 0 < (moved - logits)[least]
        assert (change * excess).sum() < 0


# --- the steps -----------------------------------------------------------------------------------------------------


@every_policy
def test_ros_is_one_plain_step(policy):
    """It is also what is left without clip, regularizer, bound and Adam, on one minibatch that is the whole data."""
    learner, batch = ready(policy)
    one, model, vector = pick(batch, 0), learner.model, learner.vector[0]
    everything = shuffled(learner, batch, 1, 1)
    found = AdaptiveSampling.ros(0.5)(model, learner.vector, batch, everything)
    bare = AdaptiveSampling(0.5, None, math.inf, 0.0, None, "sgd")(model, learner.vector, batch, everything)
    assert torch.equal(found.vector, bare.vector)

    def mean_log_prob(v: Tensor) -> Tensor:
        return model.distribution.log_prob(model.evaluate(v, one)[0], one["action"])[one["valid"]].mean()

    wanted = vector - 0.5 * torch.func.grad(mean_log_prob)(vector)
    torch.testing.assert_close(found.vector[0], wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("policy", ["gaussian", "categorical", "masked categorical"])
@pytest.mark.parametrize("max_kl", [math.inf, 0.005])
def test_the_steps_are_those_of_torch(policy, max_kl):
    """The same with autograd, `torch.optim` and a module; the first step that exceeds the bound is taken back."""
    learner, batch = ready(policy)
    one, distribution = pick(batch, 0), learner.model.distribution
    sampling = AdaptiveSampling(learning_rate=0.01, clip=0.2, max_kl=max_kl, regularizer=0.5, max_grad_norm=0.1)
    minibatches = shuffled(learner, batch, passes=4, parts=4)
    found = sampling(learner.model, learner.vector, batch, minibatches)

    module = learner.network.make(learner.observation_space, learner.action_space)
    for name, x in learner.model.unflatten(learner.vector[0]).items():
        module.get_parameter(name).data = x.clone()
    optimizer, steps, reached = torch.optim.Adam(module.actor.parameters(), lr=0.01, eps=1e-5), 0, 0.0
    for (index,) in minibatches:
        part = {k: {n: y[index] for n, y in x.items()} if isinstance(x, dict) else x[index] for k, x in one.items()}
        before = [p.detach().clone() for p in module.parameters()]
        params = module.policy(part["observation"])[0]
        q = (distribution.log_prob(params, part["action"]) - part["old_log_prob"]).exp()[part["valid"]]
        kl = distribution.kl(part["old_params"], params)[part["valid"]]
        optimizer.zero_grad()
        (torch.maximum(q, q.clamp(0.8, 1.2)).mean() + 0.5 * kl.mean()).backward()
        torch.nn.utils.clip_grad_norm_(module.actor.parameters(), 0.1)
        optimizer.step()
        with torch.no_grad():
            params = module.policy(part["observation"])[0]
        q = (distribution.log_prob(params, part["action"]) - part["old_log_prob"]).exp()[part["valid"]]
        if float((q - 1 - q.log()).mean()) > max_kl:
            for p, x in zip(module.parameters(), before, strict=True):
                p.data = x
            break
        steps, reached = steps + 1, float((q - 1 - q.log()).mean())
    assert (steps == 16) == (max_kl == math.inf), "the bound is tested by a bound that binds"
    assert float(found.steps) == steps > 1
    assert float(found.kl) == pytest.approx(reached, rel=1e-3, abs=1e-6)
    wanted = torch.cat([p.detach().flatten() for p in module.parameters()])
    torch.testing.assert_close(found.vector[0], wanted, atol=1e-5, rtol=1e-4)


@every_policy
@settings(max_examples=4)
@given(
    learning_rate=st.sampled_from([1e-3, 0.03, 1.0]), max_kl=st.sampled_from([1e-4, 0.01, 0.3]), seed=st.integers(0, 9)
)
def test_no_step_leads_beyond_the_bound(policy, learning_rate, max_kl, seed):
    """Looked at after every minibatch: all that were taken ended within the bound, and the next one would not have."""
    learner, batch = ready(policy)
    sampling = AdaptiveSampling(learning_rate=learning_rate, max_kl=max_kl, clip=None, regularizer=0.0)
    minibatches = shuffled(learner, batch, passes=3, parts=2, seed=seed)
    found = sampling(learner.model, learner.vector, batch, minibatches)
    taken = int(found.steps)
    free = AdaptiveSampling(learning_rate=learning_rate, max_kl=math.inf, clip=None, regularizer=0.0)
    path = [free(learner.model, learner.vector, batch, minibatches[:n]).vector for n in range(1, taken + 2)]
    reached = [mean_k3(learner, batch, v, index) for v, index in zip(path, minibatches, strict=False)]
    assert all(kl <= max_kl * (1 + 1e-3) + 1e-7 for kl in reached[:taken])
    assert torch.equal(found.vector, path[taken - 1] if taken else learner.vector)
    assert float(found.kl) == pytest.approx(reached[taken - 1] if taken else 0.0, rel=1e-2, abs=1e-6)
    if taken < len(minibatches):
        assert not reached[taken] <= max_kl * (1 - 1e-3) - 1e-7


@every_policy
def test_without_a_step_size_or_a_bound_above_zero_it_is_the_target(policy):
    learner, batch = ready(policy)
    for still in (AdaptiveSampling(learning_rate=0.0), AdaptiveSampling(max_kl=0.0)):
        found = still(learner.model, learner.vector, batch, shuffled(learner, batch, 2, 2))
        assert torch.equal(found.vector, learner.vector)
        assert float(found.kl) == 0.0


def test_no_minibatch_is_asked_for_when_all_have_ended():
    learner, batch = ready("gaussian")
    asked = iter(shuffled(learner, batch, 8, 4))
    AdaptiveSampling(max_kl=0.0)(learner.model, learner.vector, batch, asked)
    assert len(list(asked)) == 31


@every_policy
def test_the_critic_is_left_alone(policy):
    learner, batch = ready(policy)
    found = AdaptiveSampling(learning_rate=0.01)(learner.model, learner.vector, batch, shuffled(learner, batch, 2, 2))
    policy_mask = learner.model.policy_mask
    assert torch.equal(found.vector[0, ~policy_mask], learner.vector[0, ~policy_mask])
    assert not torch.equal(found.vector[0, policy_mask], learner.vector[0, policy_mask])


def test_a_gaussian_that_nothing_holds_runs_away():
    """Density can be pushed down without end: the clip does not end it for the samples farthest out, the bound does."""
    stream = torch.Generator().manual_seed(0)
    action = torch.randn(64, 1, generator=stream, dtype=torch.float64)
    model, batch = constant(Gaussian(1), torch.zeros(2, dtype=torch.float64), action)
    target, index = torch.zeros(1, 2, dtype=torch.float64), torch.arange(64).unsqueeze(0)

    def distance(**changes: Any) -> float:
        bare: dict[str, Any] = {"learning_rate": 0.02, "clip": None, "max_kl": math.inf, "regularizer": 0.0}
        moved = AdaptiveSampling(**bare | changes)(model, target, with_batch(batch), [index] * 200).vector[0]
        return float(model.distribution.kl(target[0], moved))

    free = distance()
    assert free > 1.0
    assert distance(max_kl=0.1) < 0.15
    far, near = distance(regularizer=1.0), distance(regularizer=10.0)
    assert near < far < 0.2 * free
    assert distance(clip=0.1) < distance(clip=0.3) < distance(clip=0.9) < free


@pytest.mark.parametrize("policy", ["gaussian", "categorical", "recurrent"])
def test_seeds_together_are_seeds_alone(policy):
    learner, batch = ready(policy, (0, 1, 2))
    sampling = AdaptiveSampling(learning_rate=0.02, max_kl=0.002)
    minibatches = shuffled(learner, batch, 3, 2)
    together = sampling(learner.model, learner.vector, batch, minibatches)
    for seed in range(3):
        one = {k: x[seed : seed + 1] for k, x in batch.items()}
        alone = sampling(learner.model, learner.vector[seed : seed + 1], one, [i[:1] for i in minibatches])
        assert float(together.steps[seed]) == float(alone.steps[0])
        torch.testing.assert_close(together.vector[seed], alone.vector[0], atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(together.kl[seed], alone.kl[0], atol=1e-6, rtol=1e-3)
    assert len(set(together.steps.tolist())) > 1, "seeds that end at different steps are tested"


@pytest.mark.parametrize(
    "wrong",
    [
        {"clip": 1.0},
        {"clip": 0.0},
        {"max_kl": -0.1},
        {"regularizer": -1.0},
        {"learning_rate": -1},
        {"optimizer": "lion"},
    ],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        AdaptiveSampling(**wrong)


# --- the error of a sample -----------------------------------------------------------------------------------------


def test_tabular_error_by_hand():
    log_prob = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64).log()
    assert float(tabular_sampling_error(torch.tensor([[7.0, 2, 1]]), log_prob)) == pytest.approx(0.085123, abs=1e-6)
    assert float(tabular_sampling_error(torch.tensor([[5.0, 3, 2]]), log_prob)) == pytest.approx(0.0, abs=1e-7)


@given(st.lists(st.lists(st.integers(0, 5), min_size=3, max_size=3), min_size=1, max_size=4), st.integers(0, 99))
def test_tabular_error_is_the_mean_over_draws(rows, seed):
    """mean_D[log π_D − log π] draw by draw, states that were never visited left out."""
    counts = torch.tensor(rows, dtype=torch.float64)
    policy = torch.rand(counts.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.01
    policy = policy / policy.sum(-1, keepdim=True)
    draws = [
        math.log(n / sum(row)) - math.log(policy[s, a]) for s, row in enumerate(rows) for a, n in enumerate(row) if n
        for _ in range(n)
    ]  # fmt: skip
    wanted = sum(draws) / len(draws) if draws else 0.0
    assert float(tabular_sampling_error(counts, policy.log())) == pytest.approx(wanted, abs=1e-9)
    assert wanted >= -1e-12


def test_impossible_actions_add_no_error():
    log_prob = torch.tensor([[0.5, 0.5, 0.0]]).log()
    assert float(tabular_sampling_error(torch.tensor([[3.0, 1, 0]]), log_prob)) == pytest.approx(0.130812, abs=1e-6)
    assert float(tabular_sampling_error(torch.tensor([[3.0, 1, 1]]), log_prob)) == math.inf


def test_independent_samples_have_half_a_degree_of_freedom_each():
    """Every outcome of 100 draws of 3 actions, weighted by its probability: the error is (K − 1)/2N nearly, and the
    next term of its expansion is (Σ 1/π − 1)/12N²."""
    policy, n = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64), 100
    outcomes = [(a, b, n - a - b) for a, b in itertools.product(range(n + 1), repeat=2) if a + b <= n]
    counts = torch.tensor(outcomes, dtype=torch.float64)
    weight = (math.lgamma(n + 1) - torch.lgamma(counts + 1).sum(-1) + (counts * policy.log()).sum(-1)).exp()
    error = tabular_sampling_error(counts.unsqueeze(1), policy.log().expand(len(counts), 1, 3))
    assert float(weight.sum()) == pytest.approx(1.0)
    expected = float((weight * error).sum())
    assert expected == pytest.approx(0.01006, rel=0.005)
    assert expected == pytest.approx(2 / (2 * n) + float((1 / policy).sum() - 1) / (12 * n**2), abs=5e-6)


def test_a_last_layer_that_can_say_everything_fits_the_counts():
    """On a context with two values and no hidden layer, the fit has a free probability for each: the tabular error."""
    method = PPO(num_envs=4, num_steps=32, minibatch_size=32, hidden=(), normalize_observations=False)
    learner = make_learner(method, "surefoot/ContextualAction-v0", [0, 1], 10**6)
    batch = learner.estimate(learner.collect(learner.vector))
    found = sampling_error(learner.model, learner.vector, batch, steps=500, learning_rate=0.1)
    for seed in range(2):
        one = pick(batch, seed)
        kept = {k: one[k][one["valid"]] for k in ("observation", "action", "old_params")}
        context = (kept["observation"][:, 0] > 0).long()
        counts, log_prob = torch.zeros(2, 2), torch.zeros(2, 2)
        counts.index_put_((context, kept["action"]), torch.ones(len(context)), accumulate=True)
        log_prob[context] = kept["old_params"].log_softmax(-1)
        wanted = tabular_sampling_error(counts, log_prob)
        assert wanted > 1e-3
        torch.testing.assert_close(found[seed], wanted, atol=1e-5, rtol=1e-3)


def test_the_fit_moves_the_last_layer_alone():
    """Against a maximum-likelihood fit of mean and deviation on fixed features, by L-BFGS."""
    learner = make_learner(PPO(num_envs=4, num_steps=16, hidden=(2,)), TARGET, [0], 10**6)
    batch = learner.estimate(learner.collect(learner.vector))
    one, module = pick(batch, 0), learner.network.make(learner.observation_space, learner.action_space)
    for name, x in learner.model.unflatten(learner.vector[0]).items():
        module.get_parameter(name).data = x.clone()
    features = module.actor.encoder(one["observation"], torch.float32).detach()[one["valid"]].double()
    action, output = one["action"][one["valid"]].double(), module.actor.output.double()
    log_std = module.actor.log_std.detach().double().requires_grad_()
    free = [*output.parameters(), log_std]
    optimizer = torch.optim.LBFGS(free, max_iter=500, line_search_fn="strong_wolfe", tolerance_grad=1e-9)

    def log_likelihood() -> Tensor:
        return torch.distributions.Normal(output(features), log_std.exp()).log_prob(action).sum(-1).mean()

    def closure() -> Tensor:
        optimizer.zero_grad()
        (loss := -log_likelihood()).backward()
        return loss

    before = log_likelihood().item()
    optimizer.step(closure)
    best = log_likelihood().item() - before
    found = sampling_error(learner.model, learner.vector, batch, steps=1200, learning_rate=0.05)
    assert best > 0.01
    assert float(found) == pytest.approx(best, rel=0.02)
    assert float(found) <= best + 1e-5
    short = sampling_error(learner.model, learner.vector, batch, steps=20)
    assert 0 < float(short) < float(found)


def test_the_step_size_of_the_fit_goes_linearly_to_zero():
    """Ten steps of torch's Adam on one distribution."""
    start, action = torch.tensor([0.2, -0.3]), torch.tensor([[1.0], [0.5], [-0.7]])
    model, batch = constant(Gaussian(1), start, action)
    model.mask = lambda belongs: torch.ones(2, dtype=torch.bool)  # all of it is its last layer
    found = sampling_error(model, start.unsqueeze(0), with_batch(batch), steps=10, learning_rate=0.1)
    params = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([params], lr=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: 1 - done / 10)
    for _ in range(10):
        optimizer.zero_grad()
        (-Gaussian(1).log_prob(params, action).mean()).backward()
        optimizer.step()
        schedule.step()
    wanted = (Gaussian(1).log_prob(params, action) - batch["old_log_prob"]).mean().item()
    assert float(found) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("policy", ["multi-discrete", "masked categorical", "recurrent", "squashed gaussian"])
def test_the_error_of_every_policy_is_above_zero(policy):
    learner, batch = ready(policy)
    assert 0 < float(sampling_error(learner.model, learner.vector, batch, steps=50, learning_rate=0.01)) < 1


# --- what it is for ------------------------------------------------------------------------------------------------


def test_draws_are_a_better_sample_than_those_of_the_policy():
    seeds = range(100, 112)
    error = {arm: torch.tensor(bandit.fixed_policy(arm, seeds)["128"]) for arm in bandit.SAMPLERS}
    assert error["on-policy"].mean() == pytest.approx(6 / 128, rel=0.3)
    assert error["matching"].mean() < error["props"].mean() < 0.9 * error["on-policy"].mean()
    assert error["ros"].mean() < 0.9 * error["on-policy"].mean()


def test_the_bandit_counts():
    context, action = torch.tensor([[0, 3, 3, 3]]), torch.tensor([[1, 2, 2, 0]])
    wanted = torch.zeros(1, 4, 4)
    wanted[0, 0, 1], wanted[0, 3, 2], wanted[0, 3, 0] = 1, 2, 1
    assert torch.equal(bandit.counts(context, action), wanted)
