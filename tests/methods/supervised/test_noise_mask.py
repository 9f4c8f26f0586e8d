"""Noise mask: densities by hand and by torch, the released product, REINFORCE, painting, and the stages of a run."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Beta
from torch.nn import functional as F

from surefoot.claims.supervised import noise_mask as claim
from surefoot.data.tables import Table
from surefoot.errors import UsageError
from surefoot.loops.common.run import make_learner
from surefoot.loops.networks.nets import Weights
from surefoot.loops.supervised.method import Supervised
from surefoot.methods.supervised.noise_mask import MASKS, NoiseMask
from surefoot.methods.supervised.noise_mask.masks import EDGE, cells_of, drawn, painted, random_numbers, spread
from surefoot.methods.supervised.noise_mask.policy import entropy, log_density, log_parameters
from surefoot.objectives.score_function import score_function_loss

STREAM = np.random.default_rng(1)
X = STREAM.normal(size=(48, 2, 4, 6))
Y = X[:, 0].sum((1, 2)) > 0
IMAGES = Table(X, Y)
SIZES = {"batch_size": 16, "hidden": (8,), "policy_hidden": (8,), "grid": 2}
GENERATOR = torch.Generator().manual_seed(0)


def made(epochs: int = 2, table: Table = IMAGES, **changes):
    return make_learner(NoiseMask(**{**SIZES, **changes}), table, [0], epochs)


def run(epochs: int = 2, **changes):
    learner = made(epochs, **changes)
    for _ in range(epochs):
        learner.iterate()
    return learner


def of_batch(learner, **changes):
    """The weights of a learner in float64 and a painted batch of one seed; changes to what was painted."""
    learner._streams = [torch.Generator().manual_seed(3)]
    batch = learner.batch(np.arange(16)[None])
    batch |= learner.method.painted(learner, batch)
    one = {k: x[0].double() for k, x in batch.items() if isinstance(x, torch.Tensor)} | changes
    net = {k: x[0].double().requires_grad_() for k, x in learner.weights.items()}
    return Weights(learner.functions, net, {}, net), one


# --- by hand -----------------------------------------------------------------------------------------------------


def test_the_released_loss_by_hand():
    mask, logs = torch.tensor([0.3, 0.7, 0.5, 0.9]).double(), torch.tensor([[0.5], [0.2]]).double()
    assert logs.exp().flatten().tolist() == pytest.approx([1.648721, 1.221403], abs=1e-6)
    found = log_density(mask, *logs)
    assert found.tolist() == pytest.approx([-0.086606, 0.275460, 0.170282, 0.195257], abs=1e-6)
    assert float(found.sum()) == pytest.approx(0.554393, abs=2e-6)
    assert float(found.logsumexp(0)) == pytest.approx(1.533731, abs=1e-6)
    loss = score_function_loss(found.logsumexp(0, keepdim=True), torch.tensor([-0.8]))
    assert float(loss) == pytest.approx(1.226985, abs=1e-6)


@pytest.mark.parametrize(("cells", "value"), [(4, 1.386294), (4096, 8.317766)])
def test_a_uniform_mask_gives_the_log_of_the_number_of_cells(cells, value):
    even = torch.zeros(cells).double()
    assert float(log_density(torch.full((cells,), 0.4).double(), even, even).logsumexp(0)) == pytest.approx(value)


def test_the_base_by_hand():
    a, b = log_parameters(torch.tensor([0.5, 7.0]), torch.tensor([1.2, 7.0]))
    assert float(a) == pytest.approx(0.57) and float(b) == 5
    learner = made(batch_size=48, policy_rate=50.0)
    learner.weights["base"] = torch.full((1, 8), 0.5)
    learner.weights["policy"] = torch.zeros_like(learner.weights["policy"])
    learner.weights["policy"][0, -8:] = 1.2  # biases of the head: 4 cells of A and of B
    learner.iterate()  # one step, by the head as it was before
    assert learner.weights["base"][0].tolist() == pytest.approx([0.507] * 8, abs=1e-6)


def test_densities_entropies_and_slopes_are_those_of_torch_and_scipy():
    logs = (torch.rand(2, 50, generator=GENERATOR, dtype=torch.float64) * 4 - 2).requires_grad_()
    mask = torch.rand(50, generator=GENERATOR, dtype=torch.float64).clamp(EDGE, 1 - EDGE)
    a, b = logs.exp()
    found = log_density(mask, *logs)
    torch.testing.assert_close(found, Beta(a, b).log_prob(mask))
    wanted = stats.beta(a.detach().numpy(), b.detach().numpy()).entropy()
    np.testing.assert_allclose(entropy(*logs).detach().numpy(), wanted, rtol=1e-9, atol=1e-9)
    slope = torch.autograd.grad(found.sum(), logs)[0][0]
    torch.testing.assert_close(slope, (a * (mask.log() - torch.digamma(a) + torch.digamma(a + b))).detach())
    assert torch.autograd.gradcheck(lambda x: (log_density(mask, *x), entropy(*x)), logs)
    each = found.detach().requires_grad_()
    torch.testing.assert_close(torch.autograd.grad(each.logsumexp(0), each)[0], each.softmax(0).detach())


@pytest.mark.parametrize(("a", "b"), [(1.0, 1.0), (0.1, 0.3), (1.65, 1.65), (0.5, 20.0), (148.0, 90.0)])
def test_masks_are_drawn_from_their_betas(a, b):
    noise = random_numbers((20_000,), torch.Generator().manual_seed(1))
    mask = drawn(torch.full((20_000,), math.log(a)), torch.full((20_000,), math.log(b)), **noise)
    inside = mask[(mask > EDGE) & (mask < 1 - EDGE)].double().numpy()
    law = stats.beta(a, b)
    low, high = law.cdf([EDGE, 1 - EDGE])
    assert len(inside) / 20_000 == pytest.approx(high - low, abs=0.015)
    assert stats.kstest((law.cdf(inside) - low) / (high - low), "uniform").pvalue > 1e-3
    assert mask.min() >= EDGE * 0.999 and mask.max() <= 1 - EDGE * 0.999


@pytest.mark.parametrize(("blur", "sigma"), [(1, 1.0), (3, 1.5), (7, 3.0)])
def test_painting_is_nearest_upsampling_and_a_reflected_blur(blur, sigma):
    mask, side = torch.rand(5, 16, generator=GENERATOR, dtype=torch.float64), blur // 2
    weight = torch.exp(-0.5 * (torch.arange(-side, side + 1).double() / sigma) ** 2)
    weight = torch.outer(weight, weight) / weight.sum() ** 2
    larger = F.interpolate(mask.view(5, 1, 4, 4), (12, 10), mode="nearest")
    wanted = F.conv2d(F.pad(larger, (side,) * 4, mode="reflect"), weight[None, None])
    torch.testing.assert_close(painted(mask, (3, 12, 10), 4, blur, sigma), wanted)


def test_a_row_that_is_no_image_is_painted_feature_by_feature():
    mask = torch.rand(5, 6)
    assert torch.equal(painted(mask, (6,), 2, 3, 1.0), mask) and cells_of((6,), 2) == (6,)
    assert cells_of((1, 8, 5), 6) == (6, 5)
    assert torch.equal(spread(4, 4, 1, 1.0), torch.eye(4).double())
    assert spread(1, 1, 5, 1.0).tolist() == [[pytest.approx(1)]]


# --- the two losses ----------------------------------------------------------------------------------------------


def test_both_gradients_are_those_of_the_released_product():
    assert claim.of_one_product([0]) < 1e-6


def test_the_policy_gradient_is_that_of_the_mean_log_densities_and_none_comes_through_the_mask():
    for mask, sign in (("cooperative", 1), ("adversarial", -1)):
        learner = made(mask=mask)
        w, batch = of_batch(learner)
        assert float(batch["factor"]) == 1 and not batch["mask"].requires_grad
        losses = {
            name: F.binary_cross_entropy_with_logits(
                w("model", batch[name]).squeeze(-1), batch["y"], reduction="none"
            ).detach()
            for name in ("x", "masked")
        }
        gained = losses["x"] - losses["masked"]
        torch.testing.assert_close(batch["advantage"], sign * (gained - gained.mean()), atol=1e-6, rtol=1e-5)
        loss = learner.method.policy_loss(w, batch)[0]
        a, b = (0.9 * w("base").detach() + 0.1 * w("policy", batch["x"])).exp().chunk(2, -1)
        wanted = -(batch["advantage"] * Beta(a, b).log_prob(batch["mask"]).mean(-1)).mean()
        grads = [torch.autograd.grad(x, w.now["policy"])[0] for x in (loss, wanted)]
        torch.testing.assert_close(*grads)
        more = NoiseMask(**SIZES, mask=mask, entropy=0.3).policy_loss(w, batch)[0]
        torch.testing.assert_close(more, loss - 0.3 * Beta(a, b).entropy().mean())


def test_a_negative_factor_is_none():
    """With few cells whose masks are unlikely the classifier would ascend."""
    learner = made(grid=1, blur=1)
    learner.weights["base"] = torch.full_like(learner.weights["base"], 5.0)
    learner.weights["policy"] = torch.zeros_like(learner.weights["policy"])
    learner._streams = [torch.Generator().manual_seed(3)]
    batch = learner.batch(np.arange(16)[None])
    noise = {name: torch.zeros_like(x) for name, x in batch["noise"].items()}
    noise["normal"][:, 0, 0], noise["normal"][:, 1, 0] = 3.0, -3.0  # two variates far apart: a mask that is unlikely
    assert float(learner.method.painted(learner, batch | {"noise": noise})["factor"]) == 0
    assert float(learner.method.painted(learner, batch)["factor"]) > 0


def test_the_mean_log_density_has_no_drift_and_the_log_sum_has():
    found = claim.drift(range(100, 104))
    assert np.abs(found["mean of logs"]).max() < 0.01 and min(found["log-sum"]) > 0.05


def test_policies_paint_where_their_rewards_say():
    for mask, sign in (("cooperative", 1), ("adversarial", -1)):
        assert min(sign * x for x in claim.spared(mask, [100, 101])) > 0.1


# --- a run -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("masked", [1.0, 0.5])
def test_without_masks_it_is_plain_training(masked):
    sizes = {k: v for k, v in SIZES.items() if k in ("batch_size", "hidden")}
    plain = make_learner(Supervised(**sizes, momentum=0.0), IMAGES, [0], 4)
    same = {**SIZES, "momentum": 0.0, "masked": masked, "learning_rate": 0.05, "tuning_rate": 0.05}
    ones = make_learner(claim.Unmasked(**same, mask="cooperative"), IMAGES, [0], 4)
    for _ in range(4):
        plain.iterate(), ones.iterate()
    assert torch.equal(plain.agent().vector, ones.agent().vector)
    assert not torch.equal(
        run(4, momentum=0.0, learning_rate=0.05, mask="cooperative").agent().vector, plain.agent().vector
    )


def test_the_policy_stands_still_in_the_second_stage_and_is_not_deployed():
    learner = made(4, masked=0.5)
    seen = []
    for _ in range(4):
        row = learner.iterate()[0]
        seen.append({k: x.clone() for k, x in learner.weights.items()})
        assert ("mask_mean" in row) == (learner.iteration <= 2)
    for name in ("policy", "base"):
        assert torch.equal(seen[1][name], seen[3][name]) and not torch.equal(seen[0][name], seen[1][name])
    assert not torch.equal(seen[1]["model"], seen[3]["model"])
    assert learner.agent().size == make_learner(Supervised(hidden=(8,)), IMAGES, [0], 1).agent().size
    mean = learner.results()["mean_mask"]
    assert mean.shape == (2, 2) and ((mean > 0) & (mean < 1)).all()


def test_fixed_noise_has_no_policy():
    learner = run(3, mask="fixed")
    assert list(learner.weights) == ["model"] and "mean_mask" not in learner.results()
    _, batch = of_batch(made(mask="fixed", batch_size=48))
    assert batch["mask"].shape == (16, 4) and float(batch["mask"].mean()) == pytest.approx(0.5, abs=0.12)


def test_all_channels_meet_the_same_mask():
    _, batch = of_batch(made())
    ratio = batch["masked"] / batch["x"]
    torch.testing.assert_close(ratio[:, 0], ratio[:, 1], rtol=1e-4, atol=1e-5)
    assert ratio.min() > 0 and ratio.max() < 1


def test_mistakes_and_words():
    with pytest.raises(UsageError, match=r"blur=4 is not allowed.*odd"):
        NoiseMask(blur=4)
    with pytest.raises(UsageError, match="entropy=0.1 is not allowed with mask='paper'"):
        NoiseMask(entropy=0.1)
    said = {mask: NoiseMask(mask=mask).objective() for mask in MASKS}
    assert "log Σ_d" in said["paper"] and "policy" not in said["fixed"] and "e^0.5" in said["fixed"]
    assert said["cooperative"].endswith("r = ℓ(f(x)) − ℓ(f(x·m))")
    assert said["adversarial"].endswith("r = ℓ(f(x·m)) − ℓ(f(x))")
    assert "policy" not in " ".join(NoiseMask(mask="fixed").steps())
    assert not any("clean" in line for line in NoiseMask(masked=1.0).steps())
