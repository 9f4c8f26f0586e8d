"""Action distributions against torch.distributions, large samples, and brute force over all choices."""

from __future__ import annotations

import itertools

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats
from torch import distributions as td

from surefoot.errors import UsageError
from surefoot.models.distributions import Categorical, Gaussian, MultiDiscrete, SquashedGaussian, for_space

F64 = torch.float64


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=F64)


def normal(params: torch.Tensor) -> td.Independent:
    mean, log_std = params.chunk(2, -1)
    return td.Independent(td.Normal(mean, log_std.exp()), 1)


def categoricals(params: torch.Tensor, choices: tuple[int, ...]) -> list[td.Categorical]:
    return [td.Categorical(logits=logits) for logits in params.split(choices, -1)]


# --- Gaussian --------------------------------------------------------------------------------------------------------


def test_gaussian_equals_torch():
    ours, p, q, action = Gaussian(3), randn(4, 5, 6), randn(4, 5, 6, seed=1), randn(4, 5, 3, seed=2)
    torch.testing.assert_close(ours.log_prob(p, action), normal(p).log_prob(action))
    torch.testing.assert_close(ours.entropy(p), normal(p).entropy())
    torch.testing.assert_close(ours.kl(p, q), td.kl_divergence(normal(p), normal(q)))
    assert torch.equal(ours.mode(p), p[..., :3]) and ours.size == 6
    assert torch.equal(ours.kl(p, p), torch.zeros(4, 5, dtype=F64))


def test_gaussian_sample_is_mean_plus_deviation_times_noise():
    ours, params = Gaussian(2), torch.tensor([1.0, -2.0, 0.0, float(np.log(3.0))])
    noise = ours.noise((7, 5), generator())
    assert noise.shape == (7, 5, 2) and torch.equal(noise, ours.noise((7, 5), generator()))
    torch.testing.assert_close(ours.sample(params, noise), torch.tensor([1.0, -2.0]) + noise * torch.tensor([1.0, 3.0]))


def test_gaussian_gives_the_environment_what_was_sampled():
    action = torch.tensor([[-1e6, 3.0]])
    assert Gaussian(2).to_env(action) is action


# --- Gaussian through tanh -------------------------------------------------------------------------------------------


def squashed(dim: int = 3) -> SquashedGaussian:
    return SquashedGaussian(dim, (-1.0,) * dim, (1.0,) * dim)


def test_squashed_log_prob_equals_the_change_of_variables_of_torch():
    params, action = randn(50, 6), 2 * randn(50, 3, seed=1)
    theirs = td.TransformedDistribution(normal(params), td.TanhTransform(cache_size=1))
    expected = theirs.log_prob(theirs.transforms[0](action))
    torch.testing.assert_close(squashed().log_prob(params, action), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("size", [5.0, 20.0, 100.0, 1e4])
def test_squashed_log_prob_of_extreme_actions_is_exact_and_has_finite_gradients(size, dtype):
    """log(1 − tanh²x) = log 4 − 2|x| − 2 log(1 + e^(−2|x|)); the naive form is −∞ from |x| = 20 on."""
    params = torch.tensor([0.0, 10.0], dtype=dtype, requires_grad=True)
    for sign in (-1, 1):
        action = torch.tensor([sign * size], dtype=dtype, requires_grad=True)
        log_prob = squashed(1).log_prob(params, action)
        slope = np.log(4) - 2 * size - 2 * np.log1p(np.exp(-2 * size))
        expected = stats.norm(0, np.exp(10)).logpdf(size) - slope
        assert log_prob.item() == pytest.approx(expected, rel=1e-6)
        gradients = torch.autograd.grad(log_prob, (params, action))
        assert all(g.isfinite().all() for g in gradients)
        assert gradients[1].item() == pytest.approx(2 * np.tanh(sign * size) - sign * size / np.exp(20), rel=1e-5)


@pytest.mark.parametrize("mean", [0.0, 0.7, -2.0])
@pytest.mark.parametrize("log_std", [-2.0, -0.5, 0.0])
def test_squashed_entropy_equals_a_large_sample(mean, log_std):
    ours, params = squashed(1), torch.tensor([mean, log_std], dtype=F64)
    action = ours.sample(params, torch.randn(400_000, 1, generator=generator(), dtype=F64))
    sample = -ours.log_prob(params, action)
    error = float(sample.std()) / len(sample) ** 0.5
    assert float(ours.entropy(params)) == pytest.approx(float(sample.mean()), abs=4.5 * error + 1e-4)


@pytest.mark.parametrize("log_std", [0.5, 1.0, 2.0])
def test_squashed_entropy_of_wide_gaussians_is_near_dense_integration(log_std):
    """Wider than the bend of tanh the sixteen nodes are coarse; the loss stays below a twentieth of the deviation."""
    x = np.linspace(-12, 12, 200_001) * np.exp(log_std)
    slope = np.log(4) - 2 * np.abs(x) - 2 * np.log1p(np.exp(-2 * np.abs(x)))
    exact = stats.norm(0, np.exp(log_std)).entropy() + np.trapezoid(stats.norm(0, np.exp(log_std)).pdf(x) * slope, x)
    got = float(squashed(1).entropy(torch.tensor([0.0, log_std], dtype=F64)))
    assert got == pytest.approx(exact, abs=0.05 * np.exp(log_std))


def test_squashed_kl_is_that_of_the_gaussians():
    """A bijection changes no KL."""
    p, q = randn(5, 6), randn(5, 6, seed=1)
    torch.testing.assert_close(squashed().kl(p, q), td.kl_divergence(normal(p), normal(q)))


@given(
    hnp.arrays(np.float32, 4, elements=st.floats(-100, 100, width=32)),
    st.floats(-1000, 1000, width=32),
    st.floats(0, 1000, width=32),
)
def test_squashed_actions_are_never_outside_the_box(action, low, span):
    low32, high32 = np.float32(low), np.float32(low) + np.float32(span)
    ours = SquashedGaussian(4, (float(low32),) * 4, (float(high32),) * 4)
    env_action = ours.to_env(torch.from_numpy(action)).numpy()
    assert ((low32 <= env_action) & (env_action <= high32)).all()


def test_squashed_to_env_hits_both_ends_and_the_middle():
    ours = SquashedGaussian(2, (-2.0, 0.1), (2.0, 0.3))
    got = ours.to_env(torch.tensor([[-50.0, -50.0], [0.0, 0.0], [50.0, 50.0]]))
    torch.testing.assert_close(got, torch.tensor([[-2.0, 0.1], [0.0, 0.2], [2.0, 0.3]]))


# --- discrete --------------------------------------------------------------------------------------------------------

CHOICES = (2, 4, 3)


def test_multi_discrete_equals_the_sum_of_torch_categoricals():
    ours, p, q = MultiDiscrete(CHOICES), randn(6, 5, 9), randn(6, 5, 9, seed=1)
    action = ours.sample(p, ours.noise((6, 5), generator()))
    theirs, others = categoricals(p, CHOICES), categoricals(q, CHOICES)
    expected = sum(d.log_prob(a) for d, a in zip(theirs, action.unbind(-1), strict=True))
    torch.testing.assert_close(ours.log_prob(p, action), expected)
    torch.testing.assert_close(ours.entropy(p), sum(d.entropy() for d in theirs))
    torch.testing.assert_close(ours.kl(p, q), sum(map(td.kl_divergence, theirs, others)))
    assert ours.size == 9 and action.shape == (6, 5, 3) and ours.log_prob(p, action).shape == (6, 5)


def test_multi_discrete_probabilities_of_all_actions_sum_to_one():
    ours, params = MultiDiscrete(CHOICES), randn(9)
    every = torch.tensor(list(itertools.product(*map(range, CHOICES))))
    log_probs = ours.log_prob(params.expand(len(every), 9), every)
    assert float(log_probs.exp().sum()) == pytest.approx(1)
    assert torch.equal(every[log_probs.argmax()], ours.mode(params))
    assert float(-(log_probs.exp() * log_probs).sum()) == pytest.approx(float(ours.entropy(params)))


def test_categorical_equals_torch_and_has_no_last_axis():
    ours, p, q = Categorical((5,)), randn(3, 4, 5), randn(3, 4, 5, seed=1)
    action = ours.sample(p, ours.noise((3, 4), generator()))
    assert action.shape == (3, 4)
    (theirs,), (other,) = categoricals(p, (5,)), categoricals(q, (5,))
    torch.testing.assert_close(ours.log_prob(p, action), theirs.log_prob(action))
    torch.testing.assert_close(ours.entropy(p), theirs.entropy())
    torch.testing.assert_close(ours.kl(p, q), td.kl_divergence(theirs, other))


@pytest.mark.parametrize("seed", range(3))
def test_gumbel_sampling_has_the_right_frequencies(seed):
    count, logits = 200_000, torch.tensor([0.0, 1.0, -2.0, 3.0, -4.0])
    ours = Categorical((5,))
    drawn = ours.sample(logits, ours.noise((count,), generator(seed)))
    observed = torch.bincount(drawn, minlength=5).numpy()
    assert stats.chisquare(observed, count * logits.double().softmax(0).numpy()).pvalue > 1e-3


def test_gumbel_sampling_of_several_choices_is_independent():
    count, logits = 100_000, torch.tensor([0.3, -0.5, 1.0, 0.0, -1.0])
    ours = MultiDiscrete((2, 3))
    drawn = ours.sample(logits, ours.noise((count,), generator()))
    observed = torch.bincount(drawn[:, 0] * 3 + drawn[:, 1], minlength=6).numpy()
    joint = torch.outer(logits[:2].double().softmax(0), logits[2:].double().softmax(0)).flatten().numpy()
    assert stats.chisquare(observed, count * joint).pvalue > 1e-3


def test_gumbel_noise_is_finite_even_where_the_uniform_is_zero(monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda *shape, generator: torch.zeros(*shape))
    assert Categorical((4,)).noise((2,), generator()).isfinite().all()


@pytest.mark.parametrize("ours", [Categorical((4,)), MultiDiscrete((2, 2))], ids=type)
def test_masked_choices_have_probability_zero_and_finite_gradients(ours):
    logits = randn(100, 4).float().requires_grad_()
    mask = torch.tensor([True, False, True, True])
    params = ours.masked(logits, mask)
    noise = ours.noise((100,), generator())
    action = ours.sample(params, noise)
    parts = params.split(ours.choices, -1)
    probabilities = torch.cat([part.softmax(-1) for part in parts], -1)
    assert (probabilities[:, ~mask] == 0).all()
    allowed = mask.split(ours.choices)
    columns = action.unsqueeze(-1) if action.dim() == 1 else action
    assert all(allowed[i][columns[:, i]].all() for i in range(len(allowed)))
    outputs = (
        ours.log_prob(params, action).sum() + ours.entropy(params).sum() + ours.kl(params, params.roll(1, 0)).sum()
    )
    outputs.backward()
    assert outputs.isfinite() and logits.grad.isfinite().all()
    assert (logits.grad[:, ~mask] == 0).all() and (logits.grad[:, mask] != 0).any()


def test_masks_may_be_bytes_and_entropy_is_that_of_what_is_left():
    ours = Categorical((4,))
    params = ours.masked(torch.zeros(4), torch.tensor([1, 0, 1, 1], dtype=torch.int8))
    assert float(ours.entropy(params)) == pytest.approx(np.log(3))


def test_start_offsets_what_the_environment_gets_and_not_what_is_stored():
    assert torch.equal(Categorical((3,), (5,)).to_env(torch.tensor([0, 2])), torch.tensor([5, 7]))
    got = MultiDiscrete((2, 3), (1, -1)).to_env(torch.tensor([[0, 0], [1, 2]]))
    assert torch.equal(got, torch.tensor([[1, -1], [2, 1]]))
    stored = torch.tensor([[0, 1]])
    assert MultiDiscrete((2, 3), (0, 0)).to_env(stored) is stored


# --- which distribution for which space ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "squash", "expected"),
    [
        (gym.spaces.Box(-1, 1, (3,)), False, Gaussian(3)),
        (gym.spaces.Box(-np.inf, np.inf, (3,)), False, Gaussian(3)),
        (gym.spaces.Box(-1, 2, (2,)), True, SquashedGaussian(2, (-1.0, -1.0), (2.0, 2.0))),
        (gym.spaces.Box(-1, 1, (2, 3)), False, Gaussian(6, shape=(2, 3))),
        (gym.spaces.Box(-1, 2, ()), True, SquashedGaussian(1, (-1.0,), (2.0,), shape=())),
        (gym.spaces.Discrete(4, start=-1), False, Categorical((4,), (-1,))),
        (gym.spaces.MultiDiscrete([2, 3], start=[0, 7]), False, MultiDiscrete((2, 3), (0, 7))),
        (gym.spaces.MultiBinary(3), False, MultiDiscrete((2, 2, 2))),
    ],
    ids=str,
)
def test_for_space(space, squash, expected):
    made = for_space(space, squash)
    assert made == expected and type(made) is type(expected) and hash(made) == hash(expected)


@pytest.mark.parametrize(
    ("space", "squash", "message"),
    [
        (gym.spaces.Box(0, np.inf, (2,)), True, "squash=True needs a bounded .*use squash=False"),
        (gym.spaces.Discrete(3), True, "squash=True is for continuous actions.*Discrete.3.*use squash=False"),
        (gym.spaces.MultiBinary((2, 2)), False, "not supported; use Box, Discrete"),
        (gym.spaces.MultiDiscrete(np.array([[2, 3]])), False, "not supported; use Box, Discrete"),
        (gym.spaces.Dict(a=gym.spaces.Discrete(2)), False, "not supported; use Box, Discrete"),
        (gym.spaces.Text(3), False, "not supported; use Box, Discrete"),
    ],
    ids=str,
)
def test_for_space_refuses(space, squash, message):
    with pytest.raises(UsageError, match=message):
        for_space(space, squash)
