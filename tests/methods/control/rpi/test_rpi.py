"""RPI: its baseline and its selection in numbers, their limits and guarantees, its data, and that oracles help it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pretended_device import pretended

import surefoot as sf
from surefoot.errors import UsageError
from surefoot.loops.common.optimizer import Adam
from surefoot.loops.common.run import make_learner
from surefoot.loops.on_policy.learner import Learner
from surefoot.methods.control.rpi import RPI
from surefoot.methods.control.rpi.blending import baseline, selected
from surefoot.methods.control.rpi.judges import Judges, Rows, poisson
from surefoot.methods.control.rpi.judging import roll_outs
from surefoot.models.functional import Flat
from surefoot.objectives.advantages import gae

MEAN = torch.tensor([[0.5, 0.4, 0.2, 0.0], [0.1, 0.6, 0.3, 0.0], [0.2, 0.1, 0.9, 0.0]], dtype=torch.float64)
DEVIATION = torch.tensor([[0.1, 0.7, 0.1, 0.0], [0.2, 0.6, 0.1, 0.0], [0.05, 0.05, 0.2, 0.0]], dtype=torch.float64)
REWARD = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
POLE = "CartPole-v1"


def upright(observation: np.ndarray) -> np.ndarray:
    return (observation[:, 2] + 0.5 * observation[:, 3] > 0).astype(int)


def left(observation: np.ndarray) -> np.ndarray:
    return np.zeros(len(observation), int)


def small(**settings) -> RPI:
    sizes = {"num_envs": 4, "num_steps": 16, "minibatch_size": 16, "epochs": 1, "hidden": (8,), "value_hidden": (8,)}
    return RPI(**{**sizes, "exploring_envs": 2, "horizon": 8, "pretrain_steps": 12, "value_steps": 3, **settings})


def ready(method: RPI, oracles=(upright, left), seeds=(0,), env=POLE, **options):
    return make_learner(method, env, list(seeds), 10**6, oracles=list(oracles), **options)


def advantages(f: torch.Tensor, lam: float = 0.9) -> torch.Tensor:
    no = torch.zeros(3, dtype=torch.bool)
    return gae(1.0, lam)(REWARD, values=f[:-1], next_values=f[1:], terminated=no, truncated=no, valid=~no)


# --- in numbers ------------------------------------------------------------------------------------------------------


def test_the_largest_value_and_its_advantages_in_numbers():
    f = baseline(MEAN, torch.zeros_like(MEAN), 0.5)
    torch.testing.assert_close(f, torch.tensor([0.5, 0.6, 0.9, 0.0], dtype=torch.float64))
    torch.testing.assert_close(advantages(f), torch.tensor([0.451, 0.39, 0.1], dtype=torch.float64))


def test_an_uncertain_winner_makes_way_for_the_learner():
    f = baseline(MEAN, DEVIATION, 0.5)
    torch.testing.assert_close(f, torch.tensor([0.5, 0.1, 0.9, 0.0], dtype=torch.float64))
    torch.testing.assert_close(advantages(f), torch.tensor([0.401, 0.89, 0.1], dtype=torch.float64))


def test_who_goes_on_in_numbers():
    chance = torch.tensor([0.0, 0.6, 0.999], dtype=torch.float64)
    assert selected(MEAN[:, :3], DEVIATION[:, :3], "bounds", chance).tolist() == [0, 1, 2]
    assert selected(MEAN[:, :3], DEVIATION[:, :3], "means", chance).tolist() == [0, 1, 2]
    assert selected(MEAN[:, :3], DEVIATION[:, :3], "uniform", chance).tolist() == [0, 1, 1]  # never the learner
    sure, unsure = torch.full((2, 1), 0.5), torch.tensor([[0.4], [0.4]])
    assert selected(sure, unsure, "bounds", chance[:1]).tolist() == [0]  # optimistic of oracles, not of the learner


# --- limits and guarantees -------------------------------------------------------------------------------------------


def test_a_threshold_of_0_is_the_learners_own_baseline_and_of_infinity_the_plain_largest():
    deviation = DEVIATION + 1e-6
    assert torch.equal(baseline(MEAN, deviation, 0.0), MEAN[-1])
    assert torch.equal(baseline(MEAN, deviation, torch.inf), MEAN.max(0).values)


def test_another_oracle_never_lowers_the_largest():
    few, many = baseline(MEAN[1:], DEVIATION[1:], torch.inf), baseline(MEAN, DEVIATION, torch.inf)
    assert bool((many >= few).all()) and bool((many > few).any())
    assert torch.equal(baseline(MEAN, DEVIATION, 0.5, "oracles"), MEAN[:2].max(0).values)


def test_without_oracles_it_is_gae_of_the_learners_own_values():
    learner = ready(small(), ())
    rollout, record = learner.method.collected(learner, 16)
    assert bool((record == 0).all())
    seen = rollout.observation[:, 0]
    value = learner.method.values(learner, 0, seen.flatten(0, 1))[0][0].view(17, 4)
    signals = {name: getattr(rollout, name)[:, 0] for name in ("terminated", "truncated", "valid")}
    wanted = gae(1.0, 0.9)(rollout.reward[:, 0], values=value[:-1], next_values=value[1:], **signals)
    assert torch.equal(learner.method.advantage(learner, rollout, 0), wanted)


def test_at_lambda_1_advantages_are_the_return_to_go_less_the_baseline():
    f = baseline(MEAN, DEVIATION, 0.5)
    torch.testing.assert_close(advantages(f, 1.0), REWARD.flip(0).cumsum(0).flip(0) - f[:-1])


def test_following_the_largest_value_and_improving_on_it_are_never_worse():
    """200 random MDPs: both policies have values of at least f⁺ in every state."""
    g, followed, improved = np.random.default_rng(0), [], []
    for _ in range(200):
        kernel, reward = g.dirichlet(np.ones(6), (6, 3)), g.normal(size=(6, 3))
        policies = g.dirichlet(np.ones(3), (3, 6))

        def value(policy, kernel=kernel, reward=reward):
            matrix = np.einsum("sa,sat->st", policy, kernel)
            return np.linalg.solve(np.eye(6) - 0.9 * matrix, (policy * reward).sum(-1))

        values = np.stack([value(policy) for policy in policies])
        f = baseline(torch.from_numpy(values), torch.zeros(3, 6), torch.inf).numpy()
        best = np.eye(3)[(reward + 0.9 * kernel @ f).argmax(-1)]
        improved.append(value(best) - f)
        followed.append(value(policies[values.argmax(0), np.arange(6)]) - f)
    assert np.min(improved) > -1e-10 and np.min(followed) > -1e-10
    assert np.mean(improved) > 5 * np.mean(followed) > 0.5


# --- ensembles -------------------------------------------------------------------------------------------------------


def test_members_agree_on_what_they_saw_often_and_differ_elsewhere():
    judges = Judges(policies=2, members=5, inputs=1, hidden=(16,), memory=1000)
    g = torch.Generator().manual_seed(0)
    flat, x = Flat(judges.module()), torch.rand(500, 1, generator=g)
    vector = torch.cat([p.detach().reshape(-1) for p in flat.module.parameters()])
    rows = Rows(x, torch.sin(3 * x[:, 0]), poisson(torch.rand(500, 5, generator=g)))
    none = Rows(torch.zeros(0, 1), torch.zeros(0), torch.zeros(0, 5))
    adam = Adam.start(vector)
    vector, _, error = judges.fitted(flat, vector, adam, [rows, none], 800, 64, 1e-2, g)
    mean, deviation = judges.values(flat, vector, torch.tensor([[0.5], [6.0]]))
    assert error < 1e-2 and float(mean[0, 0]) == pytest.approx(np.sin(1.5), abs=0.05)
    assert float(deviation[0, 1]) > 5 * float(deviation[0, 0])


def test_the_ring_keeps_the_newest_rows():
    judges = Judges(policies=3, members=2, inputs=1, hidden=(), memory=5)
    ring = judges.empty()
    for first in (0, 3, 6):
        target = torch.arange(first, first + 3.0)
        ring = judges.kept(ring, 1, Rows(target[:, None], target, torch.ones(3, 2)))
    assert sorted(judges.of(ring, 1).target.tolist()) == [4, 5, 6, 7, 8]
    assert len(judges.of(ring, 0).target) == 0


def test_poisson_numbers_have_mean_and_variance_1():
    drawn = poisson(torch.rand(200_000, generator=torch.Generator().manual_seed(0)))
    assert drawn.mean() == pytest.approx(1.0, abs=0.01) and drawn.var() == pytest.approx(1.0, abs=0.02)


# --- roll-ins and roll-outs ------------------------------------------------------------------------------------------


def test_only_what_an_oracle_does_after_the_hand_over_counts_as_its_own():
    learner = ready(small(num_steps=64))
    learner.iterate()
    rollout, record = learner.method.collected(learner, 64)
    record, observation = record[:, 0], rollout.observation[:-1, 0]
    assert bool((record[:, :2] == 2).all()) and set(record[:, 2:].unique().tolist()) <= {-1, 0, 1, 2}
    executed = learner.lead.record  # the record is by step, so an oracle's own actions can be checked below
    assert executed.shape == (64, 1, 4)
    for env in (2, 3):
        for t in range(1, 64):
            inside = not bool(rollout.starts[t, 0, env]) and bool(rollout.valid[t, 0, env])
            if inside and record[t - 1, env] >= 0:
                assert record[t, env] == record[t - 1, env]  # who goes on goes on to the end
    *theirs, own = roll_outs(learner.method, learner, rollout, record, 0, torch.Generator().manual_seed(0))
    valid = rollout.valid[:, 0]
    for number, rows in enumerate(theirs):
        assert torch.equal(rows.observation, observation[(record == number) & valid])
    assert len(own.target) == int(((record == 2) & valid).sum())


def test_an_oracle_acts_where_it_has_taken_over():
    asked: list[np.ndarray] = []

    def watched(observation: np.ndarray) -> np.ndarray:
        asked.append(observation)
        return left(observation)

    learner = ready(small(selection="uniform"), (watched,))
    learner.method.collected(learner, 12)  # of the pretraining: it rolls in as well
    count = sum(len(x) for x in asked)
    assert count >= 12 * 4
    learner.iteration, learner.collector.logged = 1, 100
    asked.clear()
    _, record = learner.method.collected(learner, 32)
    assert sum(len(x) for x in asked) == int((record == 0).sum()) > 0


def test_returns_of_roll_outs_go_on_with_the_policys_own_value_where_the_batch_cuts_them():
    learner = ready(small(gamma=0.9), ())
    rollout, record = learner.method.collected(learner, 8)
    (own,) = roll_outs(learner.method, learner, rollout, record[:, 0], 0, torch.Generator().manual_seed(0))
    if bool(rollout.terminated.any()):
        pytest.skip("an episode ended")
    last = learner.method.values(learner, 0, rollout.observation[-1, 0])[0][0]
    weights = 0.9 ** torch.arange(8.0)
    wanted = weights @ rollout.reward[:, 0] + 0.9**8 * last
    torch.testing.assert_close(own.target.view(8, 4)[0], wanted)


# --- as a learner ----------------------------------------------------------------------------------------------------


def test_same_seed_same_bits_alone_and_among_others():
    one, other, many = ready(small()), ready(small()), ready(small(), seeds=(1, 0))
    for _ in range(2):
        assert one.iterate() == other.iterate()
        many.iterate()
    torch.testing.assert_close(many.vector[1], one.vector[0], rtol=0, atol=1e-4)


def test_an_iteration_on_another_device_is_that_on_the_cpu():
    here = ready(small())
    rows = [here.iterate() for _ in range(2)]
    with pretended() as device:
        there = ready(small(), device=device)
        assert [there.iterate() for _ in range(2)] == rows
    assert torch.equal(there.agent().vector, here.agent().vector)


def test_a_killed_run_goes_on_bit_for_bit(tmp_path):
    names = ("num_envs", "num_steps", "minibatch_size", "epochs", "hidden", "horizon", "pretrain_steps", "value_steps")
    given = {name: getattr(small(), name) for name in names} | {"env": POLE, "loggers": (), "steps": 4 * 64}
    first = sf.train("ppo", env=POLE, steps=512, num_envs=2, num_steps=64, run_dir=tmp_path / "oracle", loggers=())
    folders = f"{first.path}, {first.path / 'agent'}"
    whole = sf.train("rpi", oracles=folders, run_dir=tmp_path / "whole", **given)
    sf.train("rpi", oracles=folders, run_dir=tmp_path / "cut", callbacks=lambda learner, rows: True, **given)
    again = sf.resume(tmp_path / "cut")
    assert torch.equal(sf.load(whole.path).vector, sf.load(again.path).vector)
    sf.train("rpi", oracles=[left], run_dir=tmp_path / "own", callbacks=lambda learner, rows: True, **given)
    with pytest.raises(UsageError, match="give them again"):
        sf.resume(tmp_path / "own")
    sf.resume(tmp_path / "own", oracles=[left])


class Remembers:
    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return left(observation), observation


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"oracles": "nowhere"}, "is not there"),
        ({"oracles": [3]}, "which is no policy"),
        ({"oracles": [lambda x: np.zeros((len(x), 2), int)]}, "actions of the shape"),
        ({"oracles": [lambda x: x @ np.ones(9)]}, "fails on an observation"),
        ({"oracles": [Remembers()]}, "has a memory"),
        ({"env": "surefoot/ImageTarget-v0"}, "whose values need vectors"),
        ({"exploring_envs": 8}, "exploring_envs=8 is not allowed with num_envs=8"),
        ({"core": "gru"}, "has no effect in this method"),
    ],
)
def test_what_it_refuses(given, says, tmp_path):
    with pytest.raises(UsageError, match=says):
        sf.train("rpi", **{"env": POLE, "steps": 64, "run_dir": tmp_path / "run", **given})
    assert not (tmp_path / "run").exists()


def test_ppo_goes_by_its_baseline_and_not_by_its_critic():
    """The same rollout, and ensembles that differ: other advantages; the wrong sign of f⁺ would be seen here."""
    learner = ready(small(), ())
    rollout, _ = learner.method.collected(learner, 16)
    before = learner.method.advantage(learner, rollout, 0)
    learner.extra["ensembles"] = learner.extra["ensembles"] * 2
    assert not torch.allclose(before, learner.method.advantage(learner, rollout, 0))
    assert isinstance(learner, Learner)
