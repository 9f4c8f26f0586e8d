"""AROID: diversity and the policy's gradient by hand, augmentations against other code, rewards in their limits."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.ndimage import rotate

from surefoot.data.tables import Table
from surefoot.errors import UsageError
from surefoot.loops.common.run import make_learner
from surefoot.loops.supervised.method import Supervised
from surefoot.methods.supervised.aroid import AROID
from surefoot.methods.supervised.aroid.augmentations import (
    ANGLES,
    CONTRASTS,
    augmented,
    draws_of,
    dropped,
    erased,
    groups_of,
    rotated,
    shifted,
    sizes_of,
)
from surefoot.methods.supervised.aroid.augmenting import small_steps
from surefoot.methods.supervised.aroid.choices import diversity, drawn, entropy_share, log_probability
from surefoot.objectives.score_function import over_group, score_function_loss

STREAM = np.random.default_rng(1)
Y = np.arange(60) % 3
X = 0.3 * STREAM.random((60, 1, 8, 8))
X[np.arange(60), 0, 2 * Y + 1, 1:7] += 0.7  # every class is a bright line at a height of its own
TABLE = Table(X, Y)
SHAPE, SIZES = (1, 8, 8), [5, 5, 5, 3]
SMALL = {"batch_size": 32, "hidden": (16,), "policy_hidden": (16,), "every": 1}


def run(epochs: int = 4, seeds=(0,), table: Table = TABLE, **changes):
    learner = make_learner(AROID(**{**SMALL, **changes}), table, list(seeds), epochs)
    for _ in range(epochs):
        learner.iterate()
    return learner


# --- choices -----------------------------------------------------------------------------------------------------


def test_the_diversity_by_hand():
    def of(p, l=0.1, u=0.3):  # noqa: E741
        return float(diversity(torch.tensor([p], dtype=torch.float64).log(), [len(p)], (l, u)))

    assert of([0.7, 0.2, 0.06, 0.04]) == pytest.approx(1.821262, abs=1e-6)
    assert of([0.25] * 4) == 0 and of([0.24, 0.26, 0.23, 0.27]) == 0
    assert of([0.7, 0.2, 0.06, 0.04], 0.9, 2.0) == 0


def test_the_diversity_is_its_sums_and_pushes_towards_the_band():
    logits = torch.from_numpy(STREAM.normal(size=(7, 8))).requires_grad_()
    loss, found = diversity(logits, [5, 3], (0.1, 0.3)), []
    for part, n in ((logits[:, :5], 5), (logits[:, 5:], 3)):
        over, under = [], []
        for row in part.detach().softmax(-1).numpy():
            over += [math.log(p) for p in row if p > 1.3 / n]
            under += [math.log(p) for p in row if p < 0.9 / n]
        found.append((sum(over) - sum(under)) / (len(over) + len(under)))
    assert float(loss.detach()) == pytest.approx(np.mean(found), abs=1e-12)
    assert torch.autograd.gradcheck(lambda x: diversity(x, [5, 3], (0.1, 0.3)), logits)
    moved = logits - 0.5 * torch.autograd.grad(loss, logits)[0]
    assert entropy_share(moved, [5, 3]) > entropy_share(logits, [5, 3])
    within = (torch.tensor([[0.24, 0.26, 0.23, 0.27]]).log()).requires_grad_()
    assert (torch.autograd.grad(diversity(within, [4], (0.1, 0.3)), within)[0] == 0).all()


def test_choices_come_as_often_as_the_policy_says():
    logits = torch.from_numpy(STREAM.normal(size=5)).float()
    uniform = torch.rand(200_000, 5, generator=torch.Generator().manual_seed(0)).clamp(1e-9, 1 - 1e-7)
    choice = drawn(logits.expand(200_000, 5), -(-uniform.log()).log(), [3, 2])
    for group, part in enumerate(logits.split([3, 2])):
        often = torch.bincount(choice[:, group]) / 200_000
        torch.testing.assert_close(often, part.softmax(-1), atol=5e-3, rtol=0)
    both = torch.tensor([[2, 1]])
    chance = logits[:3].softmax(-1)[2] * logits[3:].softmax(-1)[1]
    assert float(log_probability(logits[None], both, [3, 2])) == pytest.approx(math.log(chance), abs=1e-6)


def test_the_gradient_of_a_bandit_with_two_arms():
    """Over all draws of 8 from two arms with the rewards 1 and 0, each of them 1/2: −p(1 − p)·7/8."""
    logits, sizes = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True), [2]
    total = torch.zeros(1, 2, dtype=torch.float64)
    for arms in itertools.product((0, 1), repeat=8):
        choice = torch.tensor(arms).view(8, 1, 1)
        advantage = over_group((choice[..., 0] == 0).double())
        assert abs(float(advantage.sum())) < 1e-12
        loss = score_function_loss(log_probability(logits.expand(8, 1, 2), choice, sizes), advantage)
        total += torch.autograd.grad(loss, logits)[0] / 2**8
    torch.testing.assert_close(total, torch.tensor([[-0.21875, 0.21875]], dtype=torch.float64), atol=1e-12, rtol=0)


def test_only_differences_of_rewards_move_the_policy():
    learner = run(1)
    method, rows = learner.method, learner.rows
    logits = torch.from_numpy(STREAM.normal(size=(6, 18))).requires_grad_()
    choice = torch.stack([torch.from_numpy(STREAM.integers(n, size=(8, 6))) for n in SIZES], -1)
    rewards = torch.from_numpy(STREAM.normal(size=(8, 6)))

    def slope(rewards, method=method):
        none = {name: torch.zeros(8, 6) for name in ("vulnerability", "affinity")}
        tried = {"choice": choice, "advantage": over_group(rewards), **none}
        return torch.autograd.grad(method.policy_loss(logits, tried, rows)[0], logits)[0]

    of_rows = torch.from_numpy(STREAM.normal(size=6))
    torch.testing.assert_close(slope(rewards), slope(rewards + of_rows), atol=1e-12, rtol=0)
    assert (slope(of_rows.expand(8, 6), AROID(diversity=0.0)).abs() < 1e-12).all()
    only = 0.8 * torch.autograd.grad(diversity(logits, SIZES, method.band), logits)[0]
    torch.testing.assert_close(slope(of_rows.expand(8, 6)), only, atol=1e-12, rtol=0)
    assert (slope(rewards) - only).abs().max() > 1e-3


# --- augmentations -----------------------------------------------------------------------------------------------


def every(count: int, apply, x, uniform):
    return [apply(x, torch.full((len(x),), i), uniform) for i in range(count)]


def test_the_first_option_of_every_group_changes_nothing():
    for shape in (SHAPE, (3, 6, 9), (7,), (1, 1, 1)):
        x = torch.from_numpy(STREAM.normal(size=(5, *shape)))
        uniform = torch.rand(5, draws_of(shape), dtype=torch.float64)
        sizes = sizes_of(shape)
        assert torch.equal(augmented(x, torch.zeros(5, len(sizes), dtype=torch.long), uniform), x)
        for choice in itertools.product(*map(range, sizes)):
            found = augmented(x, torch.tensor(choice).expand(5, -1), uniform)
            assert found.shape == x.shape and torch.isfinite(found).all()
    assert sizes_of(SHAPE) == SIZES and [len(g.options) for g in groups_of((7,))] == [5, 3]


def test_shifts_and_rotations_are_those_of_other_code():
    x, uniform = torch.from_numpy(STREAM.normal(size=(3, 2, 8, 8))), torch.zeros(3, 2)
    _, up, down, left, right = (one.numpy() for one in every(5, shifted, x, uniform))
    for found, axis, by in ((up, 2, -1), (down, 2, 1), (left, 3, -1), (right, 3, 1)):
        wanted = np.roll(x.numpy(), by, axis)
        edge = [slice(None)] * 4
        edge[axis] = slice(-1, None) if by < 0 else slice(0, 1)
        wanted[tuple(edge)] = 0
        assert (found == wanted).all()
    for seen in (x, torch.from_numpy(STREAM.normal(size=(2, 1, 6, 9)))):
        for angle, found in zip(ANGLES, every(5, rotated, seen, uniform), strict=True):
            wanted = rotate(seen.numpy(), angle, axes=(3, 2), reshape=False, order=1, mode="grid-constant")
            np.testing.assert_allclose(found.numpy(), wanted, atol=1e-6)


def test_contrasts_patches_and_dropped_features():
    x = torch.from_numpy(STREAM.random((200, 1, 8, 8))) + 0.1
    for factor, apart in zip(CONTRASTS, every(5, groups_of(SHAPE)[2].apply, x, x), strict=True):
        torch.testing.assert_close(apart.flatten(1).std(1), factor * x.flatten(1).std(1))
        torch.testing.assert_close(apart.flatten(1).mean(1), x.flatten(1).mean(1))
    uniform = torch.rand(200, 2, generator=torch.Generator().manual_seed(0))
    for side, found in zip((0, 2, 3), every(3, erased, x, uniform), strict=True):
        gone = found == 0
        assert (gone.flatten(1).sum(1) == side**2).all() and torch.equal(found[~gone], x[~gone])
        assert side == 0 or gone[:, 0].any(0).all()  # no place is spared
    flat, uniform = torch.ones(500, 64), torch.rand(500, 64, generator=torch.Generator().manual_seed(0))
    shares = [float((found == 0).float().mean()) for found in every(3, dropped, flat, uniform)]
    assert shares == pytest.approx([0, 1 / 16, 9 / 64], abs=6e-3)


# --- attacks and rewards -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("steps", "reach"), [(0, 0.0), (1, 1.0), (2, 0.5), (3, 0.75), (10, 1.0)])
def test_an_attack_takes_quarter_steps_to_its_radius(steps, reach):
    slope = torch.tensor([[1.0, -2.0, 0.5]])
    found = small_steps(0.2, steps)(lambda m: (m["x"] * slope).sum(1), {"x": torch.zeros(1, 3)})["x"]
    torch.testing.assert_close(found, 0.2 * reach * slope.sign())


def tried(learner, **changes):
    learner._streams = [torch.Generator().manual_seed(s) for s in learner.seeds]
    learner.before.method = AROID(**{**SMALL, **changes})
    return learner.before.tried(0)


def test_rewards_and_their_limits():
    learner = run(4, seeds=(0, 1))
    found = tried(learner)
    assert found["choice"].shape == (2, 8, 32, 4) and found["x"].shape == (2, 32, *SHAPE)
    assert (found["vulnerability"] >= 0).all() and found["vulnerability"].mean() > 0
    assert (found["affinity"] >= 0).all() and found["affinity"].mean() > 0
    reward = found["vulnerability"] - 0.4 * found["affinity"]
    torch.testing.assert_close(found["advantage"], reward - reward.mean(1, keepdim=True))
    assert (found["advantage"].sum(1).abs() < 1e-5).all()
    assert (tried(learner, vulnerability_steps=0)["vulnerability"] == 0).all()
    harm = tried(learner, affinity=(0.0,))
    torch.testing.assert_close(harm["advantage"], over_group(harm["vulnerability"].movedim(1, 0)).movedim(0, 1))
    still = torch.cat([100.0 * (torch.arange(n) == 0) for n in SIZES])
    learner.before.logits = lambda x: still.expand(*x.shape[:2], 18)
    found = tried(learner)
    assert (found["choice"] == 0).all() and (found["affinity"] == 0).all() and found["vulnerability"].mean() > 0


def test_a_policy_that_is_paid_for_affinity_leaves_rows_alone():
    found = run(30, vulnerability=0.0, affinity=(1.0,), diversity=0.0, policy_learning_rate=0.5).results()
    chances = found["augmentations"]
    assert chances["shift"]["none"] > 0.4 and chances["contrast"].keys() == {f"×{c:g}" for c in CONTRASTS}
    assert all(sum(group.values()) == pytest.approx(1, abs=1e-5) for group in chances.values())


# --- in training -------------------------------------------------------------------------------------------------


def test_without_attack_and_augmentations_it_is_plain_training():
    same = {"batch_size": 32, "hidden": (16,), "learning_rate": 0.1, "weight_decay": 5e-4}
    plain = make_learner(Supervised(**same, scale="unit"), TABLE, [0], 3)
    for _ in range(3):
        plain.iterate()
    wanted = plain.agent().vector
    assert torch.equal(run(3, plain=1.0, attack_steps=0, stages=(), affinity=(0.4,)).agent().vector, wanted)
    assert not torch.equal(run(3, plain=1.0, stages=(), affinity=(0.4,)).agent().vector, wanted)


def test_the_judge_learns_first_and_the_policy_after_it():
    learner = make_learner(AROID(**SMALL, plain=0.5), TABLE, [0], 4)
    policy = learner.weights["policy"]
    for _ in range(2):
        learner.iterate()
    judge = learner.weights["judge"]
    assert torch.equal(learner.weights["policy"], policy)
    for _ in range(2):
        learner.iterate()
    assert torch.equal(learner.weights["judge"], judge) and not torch.equal(learner.weights["policy"], policy)


def test_a_policy_that_is_never_due_stays_as_it_began():
    learner = run(3, every=10**6)
    assert torch.equal(learner.weights["policy"], make_learner(learner.method, TABLE, [0], 3).weights["policy"])
    chances = learner.results()["augmentations"]["rotate"]
    assert all(p == pytest.approx(0.2, abs=0.02) for p in chances.values())


def test_stages_change_the_price_and_the_step():
    learner = run(1, stages=(0.5, 0.75))
    learner.total_steps = 4
    factors = []
    for epoch in range(4):
        learner.iteration = epoch
        factors.append(float(learner.before(learner.batch(np.arange(8)[None]), ())["rate"]))
    assert factors == pytest.approx([1, 1, 0.1, 0.01])


def test_mistakes_and_words():
    with pytest.raises(UsageError, match=r"affinity=\(0.4, 0.2\) is not allowed with stages"):
        AROID(affinity=(0.4, 0.2))
    with pytest.raises(UsageError, match="must rise"):
        AROID(stages=(0.75, 0.5))
    with pytest.raises(UsageError, match="loss='squared'"):
        AROID(loss="squared")
    assert "the step falls" not in "".join(AROID(stages=(), affinity=(0.3,)).steps())
