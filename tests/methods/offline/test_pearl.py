"""PEARL: the card's labels and couplings by hand, its loss and the deviation that it keeps, and its two stages."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from micro_data import walk_data
from network_laws import numbers

import surefoot as sf
from surefoot.errors import UsageError
from surefoot.loops.common.run import Run, make_learner
from surefoot.methods.offline.baselines import IQL
from surefoot.methods.offline.pearl import PEARL
from surefoot.methods.offline.pearl.alignment import aligned, distances, preferences, segments, transported
from surefoot.methods.offline.pearl.reward import ENTROPY, robust_loss, soft_cross_entropy

SIZES = {"batch_size": 16, "log_every": 5, "hidden": (16,), "reward_hidden": (16,), "segment": 5, "reward_steps": 7}


def complete(pairs: dict[tuple[int, int], float], size: int) -> np.ndarray:
    """Labels of all ordered pairs from those of some."""
    z = np.full((size, size), 0.5)
    for (i, k), label in pairs.items():
        z[i, k], z[k, i] = label, 1 - label
    return z


# --- labels ----------------------------------------------------------------------------------------------------------


def test_the_identity_gives_the_labels_themselves_and_a_blurred_coupling_their_mean():
    z = complete({(0, 1): 0.0, (0, 2): 0.0, (1, 2): 1.0}, 3)
    off = ~np.eye(3, dtype=bool)
    np.testing.assert_array_equal(transported(np.eye(3) / 3, z)[off], z[off])
    assert ((np.eye(3) / 3).T @ z @ (np.eye(3) / 3))[1, 2] == pytest.approx(1 / 9)  # the sum that is not divided
    plan = np.array([[1 / 6, 1 / 6, 0], [1 / 6, 1 / 6, 0], [0, 0, 1 / 3]])
    found = transported(plan, complete({(0, 1): 1.0, (0, 2): 0.0, (1, 2): 0.0}, 3))
    assert (found[0, 1], found[0, 2], found[2, 0]) == pytest.approx((0.5, 0.0, 1.0))


def test_labels_of_a_pair_and_of_its_reverse_add_to_one_and_those_of_a_uniform_coupling_say_nothing():
    g = np.random.default_rng(0)
    plan, returns = g.random((6, 4)), g.normal(size=6)
    z = 0.5 * (1 + np.sign(returns[:, None] - returns))
    found = transported(plan, z)
    np.testing.assert_allclose(found + found.T, 1)
    np.testing.assert_allclose(transported(np.full((6, 4), 1 / 24), z), 0.5)
    by_hand = sum(plan[i, 1] * plan[k, 2] * z[i, k] for i in range(6) for k in range(6) if i != k)
    mass = sum(plan[i, 1] * plan[k, 2] for i in range(6) for k in range(6) if i != k)
    assert found[1, 2] == pytest.approx(by_hand / mass)
    alone = np.zeros((6, 4))
    alone[0, :] = 1  # all from one segment, which says nothing of pairs
    np.testing.assert_array_equal(transported(alone, z), 0.5)


def test_the_objective_of_two_points_and_that_a_moved_and_permuted_copy_is_matched():
    pytest.importorskip("ot")
    one, two = (x * (1 - np.eye(2)) for x in (1.0, 2.0))
    found = aligned(one, two, 8, np.random.default_rng(0))
    assert found.objective == pytest.approx(0.5) and sorted(found.plan.ravel()) == pytest.approx([0, 0, 0.5, 0.5])
    assert aligned(one, two, 8, np.random.default_rng(0)).gap == pytest.approx(0, abs=1e-9)  # the swap is as good
    g = np.random.default_rng(1)
    x, order = g.normal(size=(8, 3)), g.permutation(8)
    turn = np.linalg.qr(g.normal(size=(3, 3)))[0]
    y = (x @ turn + 5)[order]
    apart = [np.linalg.norm(p[:, None] - p, axis=-1) for p in (x, y)]
    found = aligned(*apart, 20, g)
    assert found.objective == pytest.approx(0, abs=1e-9) and (found.plan.argmax(0) == order).all()


def test_segments_lie_within_episodes_and_labels_are_those_of_returns():
    data = walk_data()
    rows = segments(data, 4, 50, np.random.default_rng(0))
    assert rows.shape == (50, 4) and (np.diff(rows) == 1).all() and not data.ended[rows[:, :-1]].any()
    assert len({*rows[:, 0]}) == 50
    z, returns = preferences(data, rows), data.reward[rows].sum(1)
    assert all(z[i, k] == (returns[i] > returns[k]) for i in range(50) for k in range(i))
    apart = distances(data, rows)
    assert apart.max() == 1 and (apart == apart.T).all() and (np.diag(apart) == 0).all()
    with pytest.raises(UsageError, match="segment=11 is not allowed for walk: its longest episode has 10 steps"):
        segments(data, 11, 4, np.random.default_rng(0))


# --- the reward ------------------------------------------------------------------------------------------------------


def test_noise_alone_raises_the_loss_so_that_the_deviation_would_shrink():
    g = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 400_000, 1, generator=g, dtype=torch.float64)
    label, mean = torch.ones(400_000), torch.zeros(2, 400_000, 1, dtype=torch.float64)
    mean[0] = 1
    found = [soft_cross_entropy(mean + std * noise, label).item() for std in (0, 0.5, 1, 2)]
    assert found == pytest.approx([0.3133, 0.3610, 0.4918, 0.8926], abs=3e-3)
    std = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(soft_cross_entropy(mean + std * noise, label), std)
    assert slope > 0


def test_without_noise_it_is_bradley_terry_and_missing_entropy_costs_the_same_at_every_step():
    g = torch.Generator().manual_seed(0)
    mean, noise = torch.randn(2, 2, 6, 4, generator=g, dtype=torch.float64)
    label = torch.rand(6, generator=g, dtype=torch.float64)
    total = mean.sum(-1)
    p = torch.sigmoid(total[0] - total[1])
    plain = -(label * p.log() + (1 - label) * (1 - p).log()).mean()
    nothing = torch.full_like(mean, -1e3)
    found = robust_loss(mean, nothing, label, noise, sampled=0.3, level=0.0, weight=0.0)[0]
    torch.testing.assert_close(found, 1.3 * plain)
    torch.testing.assert_close(robust_loss(mean, mean, label, noise, sampled=0.0, level=0.0, weight=0.0)[0], plain)
    assert pytest.approx(1.418939, abs=1e-6) == ENTROPY and pytest.approx(0.725791, abs=1e-6) == ENTROPY + np.log(0.5)
    for start, wanted in ((-1.0, -0.02 / 48), (1.0, 0.0)):
        log_std = torch.full_like(mean, start).requires_grad_()
        loss, _ = robust_loss(mean, log_std, label, noise, sampled=0.0, level=1.42, weight=0.02)
        torch.testing.assert_close(torch.autograd.grad(loss, log_std)[0], torch.full_like(mean, wanted))


def test_a_label_of_one_half_is_met_by_equal_returns():
    mean = torch.zeros(2, 1, 3, dtype=torch.float64, requires_grad=True)
    loss = soft_cross_entropy(mean, torch.tensor([0.5]))
    assert loss.item() == pytest.approx(np.log(2)) and (torch.autograd.grad(loss, mean)[0] == 0).all()


# --- a learner -------------------------------------------------------------------------------------------------------


def test_rewards_of_the_data_are_not_read_and_those_of_iql_are_the_learned_ones_standardised():
    pytest.importorskip("ot")
    method = PEARL(**SIZES)
    target, source = walk_data(), walk_data(seed=3)
    runs = [
        make_learner(method, "", [0, 1], 100, data=one, reward_data=source)
        for one in (target, dataclasses.replace(target, reward=0 * target.reward + 9))
    ]
    for run in runs:
        for _ in range(4):
            run.iterate()
    for name in runs[0].weights:
        assert torch.equal(runs[0].weights[name], runs[1].weights[name]), name
    run = runs[0]
    run.draw()
    batch = run.batch()
    batch |= method.beforehand(run)(batch, ("value",))
    every = method.rewards(run, torch.from_numpy(target.action))
    torch.testing.assert_close(every.mean(1), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(every.std(1), torch.ones(2), atol=1e-3, rtol=0)
    torch.testing.assert_close(batch["reward"], every.gather(1, batch["index"]))
    mean, _ = run.output("reward", batch["observation"], batch["action"])
    for seed in range(2):
        found = np.corrcoef(mean[seed].numpy(), batch["reward"][seed].numpy())[0, 1]
        assert found == pytest.approx(1, abs=1e-4)


def test_stages_and_refusals(tmp_path):
    run = make_learner(PEARL(**{**SIZES, "reward_steps": 5}), "", [0], 100, data=walk_data())
    moved = []
    for _ in range(2):
        before = {name: x.clone() for name, x in run.weights.items()}
        run.iterate()
        moved.append({name for name, x in run.weights.items() if not torch.equal(x, before[name])})
    assert moved == [{"reward"}, {"value", "critic", "actor"}]
    for changed, said in (({"reward_steps": 40}, "steps=40 is not allowed"), ({"segment": 11}, "segment=11")):
        with pytest.raises(UsageError, match=said):
            sf.train(PEARL(**{**SIZES, **changed}), data=walk_data(), steps=40, run_dir=tmp_path / "run", loggers=())
        assert not (tmp_path / "run").exists()
    text = PEARL(sampled=0.0, uncertainty=0.0).objective()
    assert text.splitlines()[0] == "reward: CE(z, m)" and IQL().objective().splitlines()[0] in text


@pytest.mark.parametrize("at", [1, 2])
def test_a_stop_in_every_stage_changes_no_bit(at, tmp_path):
    pytest.importorskip("ot")
    sf.write_dataset(walk_data(), place := tmp_path / "walk.npz")
    sf.write_dataset(walk_data(seed=5), source := tmp_path / "source.npz")
    settings = {"data": place, "reward_data": source, "steps": 20, "loggers": (), "num_seeds": 2}
    sf.train(PEARL(**SIZES), run_dir=tmp_path / "whole", **settings)
    sf.train(PEARL(**SIZES), run_dir=tmp_path / "cut", callbacks=[lambda one, _: one.iteration == at], **settings)
    sf.resume(tmp_path / "cut")
    whole, cut = (Run(tmp_path / name) for name in ("whole", "cut"))
    assert numbers([whole.metrics()]) == numbers([cut.metrics()])
    assert torch.equal(whole.agent(1).vector, cut.agent(1).vector)
