"""HNPG: its critic against least squares, its step, its limits, its data, and that it opens a lock."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from pretended_device import pretended

import surefoot as sf
from surefoot.data.files import write_dataset
from surefoot.data.transitions import Transitions
from surefoot.envs.comblock import CombinationLock
from surefoot.errors import UsageError
from surefoot.loops.common.run import make_learner
from surefoot.methods.control.hnpg import HNPG
from surefoot.methods.control.hnpg.critic import Fit, Judge, Targets, returns_to_go, row_weights
from surefoot.recording import record

LOCK = "surefoot/Comblock5-v0"


@pytest.fixture(scope="module")
def data() -> Transitions:
    return record(LOCK, "demonstrated", 2000)


@pytest.fixture(scope="module")
def short() -> Transitions:
    return record(_short, "demonstrated", 4000)


def _short():
    return CombinationLock(4)


def small(**settings) -> HNPG:
    return HNPG(**{"num_envs": 4, "num_steps": 24, "epochs": 3, "hidden": (8,), "critic_hidden": (8,), **settings})


def ready(method, data, seeds=(0,), env=LOCK, **options):
    learner = make_learner(method, env, list(seeds), 10**6, **({"data": data} if method.uses_data else {}), **options)
    learner.lr_tensor = torch.tensor(learner.lr)
    return learner


@pytest.mark.parametrize(("lam", "answer"), [(0.0, 2.0), (0.1, 1.909091), (1.0, 1.5), (10.0, 1.090909), (1e9, 1.0)])
@pytest.mark.parametrize(("own", "logged"), [(1, 1), (3, 50)])
def test_a_pair_in_both_sets_gets_the_weighted_mean(lam, answer, own, logged):
    weight = row_weights(own, logged, 1 / (1 + lam)).double()
    target = torch.tensor([1.0] * own + [2.0] * logged).double()
    assert float((weight * target).sum() / weight.sum()) == pytest.approx(answer, abs=1e-6)


def test_where_one_set_is_empty_the_other_has_all_the_weight():
    assert torch.equal(row_weights(2, 0, 0.5), torch.tensor([0.5, 0.5]))
    assert torch.equal(row_weights(0, 4, 0.5), torch.full((4,), 0.25))


def test_returns_to_go_stop_at_ends_and_are_known_only_before_one():
    reward = torch.tensor([1.0, 2.0, 4.0, 0.0, 8.0])[:, None]
    ended = torch.tensor([False, True, False, True, False])[:, None]
    target, seen = returns_to_go(reward, ended, 0.5)
    assert target[:4, 0].tolist() == [2.0, 2.0, 4.0, 0.0]
    assert seen[:, 0].tolist() == [True, True, True, True, False]


def test_a_linear_critic_is_fitted_to_the_least_squares_solution():
    learner = ready(small(critic_hidden=()), record(LOCK, "demonstrated", 100))
    judge, g = Judge(learner.model, learner.vector[0]), np.random.default_rng(0)

    def rows(n: int) -> Targets:
        seen = g.normal(size=(n, 17))
        seen[:, -1] = 3
        return Targets(
            *(torch.from_numpy(x.astype(np.float32)) for x in (seen, g.normal(size=(n, 10)), g.normal(size=n)))
        )

    own, logged, share = rows(40), rows(90), 0.3
    others = [x[[0, 1, 2, 4]].clone() for x in judge.layers]
    judge.fit(3, own, logged, Fit(share, 1500, 1e-2))
    inputs = np.concatenate([np.c_[x.observation[:, :-1], x.action, np.ones(len(x.target))] for x in (own, logged)])
    target, root = np.concatenate([own.target, logged.target]), np.sqrt(row_weights(40, 90, share).numpy())
    best = np.linalg.lstsq(root[:, None] * inputs, root * target, rcond=None)[0]
    found = torch.cat([x[3].reshape(-1) for x in judge.layers])
    np.testing.assert_allclose(found, best, atol=2e-3)
    assert all(torch.equal(x[[0, 1, 2, 4]], y) for x, y in zip(judge.layers, others, strict=True))  # of other steps
    assert torch.equal(judge.whole()[learner.model.policy_mask], learner.vector[0][learner.model.policy_mask])


def test_the_networks_of_all_steps_at_once_are_those_of_each_alone():
    learner = ready(small(), record(LOCK, "demonstrated", 100))
    model, vector = learner.model, torch.randn(learner.model.size)
    seen, action = torch.randn(50, 17), torch.randn(3, 50, 10)
    seen[:, -1] = torch.arange(50) % 6  # the 6th is what follows the end
    judge = Judge(model, vector)
    params, value = model.evaluate(vector, {"observation": seen})
    torch.testing.assert_close(params, judge.params(seen))
    torch.testing.assert_close(value, judge.value(seen, model.distribution.mode(params)[None])[0])
    other = seen.clone()
    other[:, -1] = (seen[:, -1] + 1).clamp(max=4)
    assert not torch.allclose(judge.params(other)[0], params[0])
    assert judge.value(seen, action).shape == (3, 50)


def test_the_backup_takes_the_policys_action_and_stops_at_the_end(data):
    learner = ready(small(), data)
    judge, logged = Judge(learner.model, learner.vector[0]), HNPG.drawn(learner.method, learner, 0)
    noise = learner.model.distribution.noise((1, len(logged[3].reward)), torch.Generator().manual_seed(7))
    action = learner.model.distribution.sample(judge.params(logged[3].next_observation), noise)
    after = judge.value(logged[3].next_observation, action)[0]
    found = [judge.backup(logged[h], torch.Generator().manual_seed(7), 0.9) for h in (3, 4)]
    torch.testing.assert_close(found[0], logged[3].reward + 0.9 * after)
    assert bool(logged[4].ended.all()) and torch.equal(found[1], logged[4].reward)


def batch_of(learner):
    """The batch of the first iteration, after the fit of no critic."""
    method, rollout = learner.method, learner.collect(learner.vector)
    judge, generator = Judge(learner.model, learner.vector[0]), torch.Generator().manual_seed(0)
    with torch.no_grad():
        return method.joined(learner, judge, rollout, 0, method.drawn(learner, 0), generator), rollout, judge


def test_actions_in_states_of_the_data_are_the_policys_own_and_all_ratios_begin_at_1(data):
    learner = ready(small(), data)
    batch, rollout, judge = batch_of(learner)
    params = learner.model.evaluate(learner.vector[0], batch)[0]
    assert torch.equal(learner.model.distribution.log_prob(params, batch["action"]), batch["old_log_prob"])
    own = rollout.valid.numel()
    extra = batch["observation"][own:]
    assert len(extra) == 5 * (96 // 5) and bool(batch["valid"][own:].all())
    assert not bool(np.isin(batch["action"][own:].numpy(), learner.data["action"].numpy()).any())


@pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
def test_both_sets_have_their_share_of_the_policys_step_whatever_their_sizes(data, share):
    learner = ready(small(offline_share=share), data)
    batch, rollout, _ = batch_of(learner)
    own, valid = rollout.valid.numel(), batch["valid"]
    weight = torch.where(valid, batch["weight"], 0.0) / valid.sum()
    assert float(weight[:own].sum()) == pytest.approx(1 - share, abs=1e-6)
    assert float(weight[own:].sum()) == pytest.approx(share, abs=1e-6)


def test_without_data_the_step_is_trpos():
    """The same batch and the same vector: the step of HNPG at α = 0 and of TRPO on the same networks."""
    from surefoot.methods.control.trpo import TRPO

    learner = ready(small(offline_share=0.0), None)
    batch, _, _ = batch_of(learner)
    assert bool((batch["weight"] == 1).all())
    theirs = TRPO(standardize=False, gamma=1.0, lam=0.97, backtrack_factor=0.5)
    step = learner.method.natural_step(learner.model, learner.vector[0], batch)[0]
    torch.testing.assert_close(step, theirs.natural_step(learner.model, learner.vector[0], batch)[0])
    assert float(step[~learner.model.policy_mask].abs().max()) == 0


def test_a_step_stays_in_the_trust_region_and_improves(data):
    learner = ready(small(), data, seeds=(0, 1))
    for _ in range(4):
        before = learner.vector.clone()
        for index, row in enumerate(learner.iterate()):
            assert row["kl"] <= 0.01
            moved = not torch.equal(before[index], learner.vector[index])
            assert row["improvement"] > 0 if row["accepted"] else moved  # critics move in any case


def test_a_seed_among_several_computes_what_it_computes_alone(data):
    together, alone = ready(small(), data, seeds=(4, 5)), ready(small(), data, seeds=(5,))
    for _ in range(2):
        assert together.iterate()[1]["kl"] == pytest.approx(alone.iterate()[0]["kl"], rel=1e-2, abs=1e-5)
    torch.testing.assert_close(together.vector[1], alone.vector[0], rtol=0, atol=1e-3)


def test_it_opens_a_short_lock_that_its_own_steps_do_not_open(short):
    returns = {}
    for share in (0.5, 0.0):
        learner = ready(HNPG(num_envs=8, num_steps=60, offline_share=share, max_kl=0.05), short, env=_short)
        returns[share] = [learner.iterate()[0]["return_mean"] for _ in range(18)][-1]
    assert returns[0.5] > 0.5
    assert returns[0.0] < 0.1  # the reward for giving up is 0.05


def test_an_iteration_on_another_device_is_that_on_the_cpu(data):
    here = ready(small(), data)
    rows = [here.iterate() for _ in range(2)]
    with pretended() as device:
        there = ready(small(), data, device=device)
        assert [there.iterate() for _ in range(2)] == rows
    assert torch.equal(there.agent().vector, here.agent().vector)


# --- as a user meets it ----------------------------------------------------------------------------------------------


def test_a_killed_run_goes_on_bit_for_bit_on_the_same_data_only(data, tmp_path):
    file = write_dataset(data, tmp_path / "demos.npz")
    settings = {f.name: getattr(small(), f.name) for f in dataclasses.fields(HNPG) if f.name in ("num_envs", "epochs")}
    given = {**settings, "num_steps": 24, "env": LOCK, "data": str(file), "loggers": ()}
    whole = sf.train("hnpg", steps=4 * 96, run_dir=tmp_path / "whole", **given)
    sf.train("hnpg", steps=4 * 96, run_dir=tmp_path / "cut", callbacks=lambda learner, rows: True, **given)
    again = sf.resume(tmp_path / "cut")
    assert torch.equal(sf.load(whole.path).vector, sf.load(again.path).vector)
    action, _ = sf.load(whole.path).predict(data.observation[:7])
    assert action.shape == (7, 10)
    sf.train("hnpg", steps=4 * 96, run_dir=tmp_path / "third", callbacks=lambda learner, rows: True, **given)
    write_dataset(dataclasses.replace(data, reward=data.reward + 1), file)
    with pytest.raises(UsageError, match="have changed since this run was started"):
        sf.resume(tmp_path / "third")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "data is missing: the method learns from a data set"),
        ({"data": "nowhere.npz"}, "nowhere.npz"),
        ({"data": "DATA", "offline_share": 0.0}, "has no effect with offline_share=0"),
        ({"data": "DATA", "env": "surefoot/ContinuousTarget-v0"}, "end with the number of the step"),
        ({"data": "DATA", "env": "surefoot/Comblock15-v0"}, "observations of the shape"),
        ({"data": "TEN"}, "must be the number of the step, from 0 to 4"),
        ({"data": "DATA", "normalize_observations": True}, "has no effect in this method"),
        ({"data": "DATA", "corrupt": "reward:2"}, "rate=2.0 is not allowed"),
    ],
)
def test_what_it_refuses(data, given, says, tmp_path):
    given = {"env": LOCK, **given, "steps": 96, "run_dir": tmp_path / "run"}
    sets = {"DATA": data, "TEN": record("surefoot/Comblock10-v0", "demonstrated", 100)}
    given = {name: sets.get(x, x) if isinstance(x, str) else x for name, x in given.items()}
    with pytest.raises(UsageError, match=says):
        sf.train("hnpg", **given)
    assert not (tmp_path / "run").exists()
