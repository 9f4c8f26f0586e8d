"""PROPS: its limits, what its behaviour policies avoid, that its estimates stay inside each batch and do not ask who
acted, and that its data are a better sample of a policy than the policy's own."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from surefoot.errors import UsageError
from surefoot.loops.common.collect import Rollout, map_observation
from surefoot.loops.common.run import make_learner
from surefoot.loops.on_policy.learner import Learner
from surefoot.loops.on_policy.method import pick
from surefoot.methods.control.ppo import PPO
from surefoot.methods.control.props import PROPS, recent
from surefoot.methods.control.props.adaptive_sampling import AdaptiveSampling, Behaviour, tabular_sampling_error
from surefoot.models.normalizers import Moments

CONTEXT, TARGET = "surefoot/ContextualAction-v0", "surefoot/ContinuousTarget-v0"
CARTPOLE, TRUNCATED = "CartPole-v1", "surefoot/TruncatedConstant-v0"
SMALL: dict[str, Any] = {"num_envs": 4, "num_steps": 16, "minibatch_size": 32, "epochs": 2, "hidden": (8,)}
QUICK: dict[str, Any] = {**SMALL, "behaviour_steps": 4, "behaviour_epochs": 2, "behaviour_minibatches": 2}
PLAIN: dict[str, Any] = {"normalize_rewards": False, "normalize_observations": False}


def ready(method: Any, env: str, seeds: tuple[int, ...] = (0,), **options: Any) -> Learner:
    return make_learner(method, env, list(seeds), 10**6, **options)


def ppo(method: PROPS) -> PPO:
    """PPO with the same settings."""
    return PPO(**{f.name: getattr(method, f.name) for f in dataclasses.fields(PPO)})


def joined(rollouts: list[Rollout], axis: int) -> Rollout:
    """Rollouts one after the other in time (axis 0; the last observation of all but the last is left out) or side by
    side (axis 2)."""

    def join(parts: tuple[Any, ...], ends: bool) -> Any:
        if isinstance(parts[0], dict):
            return {key: join(tuple(part[key] for part in parts), ends) for key in parts[0]}
        cut = [*(part[:-1] for part in parts[:-1]), parts[-1]] if ends and axis == 0 else parts
        return torch.cat(list(cut), axis)

    fields = zip(Rollout._fields, zip(*rollouts, strict=True), strict=True)
    return Rollout(**{name: join(parts, name in ("observation", "starts")) for name, parts in fields})


def recorded(learner: Learner) -> tuple[list[Rollout], list[Tensor]]:
    """All that the learner will collect, and by which weights."""
    pieces, vectors, collect = [], [], learner.collect

    def spy(vector: Tensor, steps: int | None = None) -> Rollout:
        rollout = collect(vector, steps)
        pieces.append(Rollout(*(map_observation(torch.clone, x) for x in rollout)))
        vectors.append(vector.clone())
        return rollout

    learner.collect = spy  # type: ignore[method-assign]
    return pieces, vectors


def estimated(patch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The batches of all updates to come."""
    batches, update = [], PPO.update

    def spy(self: Any, learner: Learner, batch: dict[str, Any]) -> dict[str, Tensor]:
        batches.append(batch)
        return update(self, learner, batch)

    patch.setattr(PROPS, "update", spy)
    return batches


# --- limits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env", "options"),
    [
        (CARTPOLE, {}),
        (TARGET, {"squash": True}),
        (TRUNCATED, {}),
        ("surefoot/MaskedAction-v0", {}),
        ("surefoot/MemoryCue-v0", {"core": "gru", "core_size": 4}),
        (CARTPOLE, {"penalty": "adaptive", "anneal": True}),
    ],
)
@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_one_batch_and_one_behaviour_policy_is_ppo(env, options, seeds):
    method = PROPS(**QUICK | options | {"buffer_batches": 1, "behaviour_steps": 16, "behaviour_learning_rate": 1.0})
    one, other = ready(method, env, seeds), ready(ppo(method), env, seeds)
    for _ in range(3):
        rows, wanted = one.iterate(), other.iterate()
        for row, plain in zip(rows, wanted, strict=True):
            assert row.pop("behaviour_kl") == row.pop("behaviour_updates") == 0.0
            assert row == pytest.approx(plain, rel=1e-4, abs=1e-6, nan_ok=True)
    torch.testing.assert_close(one.vector, other.vector, rtol=0, atol=1e-6)
    for name in one.episodes.state():
        torch.testing.assert_close(one.state()[name], other.state()[name], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("env", [CARTPOLE, TARGET])
@pytest.mark.parametrize("batches", [1, 3])
@pytest.mark.parametrize("still", [{"behaviour_max_kl": 0.0}, {"behaviour_learning_rate": 0.0}])
def test_a_behaviour_policy_that_cannot_move_leaves_ppo_on_a_buffer(env, batches, still):
    """The oracle keeps whole rollouts of the policy, has them estimated by the learner side by side, and updates."""
    method = PROPS(**QUICK, **PLAIN, buffer_batches=batches, **still)
    learner, oracle, kept = ready(method, env), ready(ppo(method), env), {}
    for iteration in range(4):
        (row,) = learner.iterate()
        assert row["behaviour_kl"] == 0.0
        oracle.iteration, oracle.lr_tensor = iteration, torch.tensor(oracle.lr)
        pieces = [oracle.collect(oracle.vector, 4) for _ in range(4)]
        kept[iteration % batches] = joined(pieces, 0)
        batch = oracle.estimate(joined([kept[place] for place in sorted(kept)], 2))
        metrics = oracle.method.update(oracle, batch)
        assert batch["valid"].shape[1] == 64 * min(iteration + 1, batches)
        assert row["kl"] == pytest.approx(float(metrics["kl"]), rel=1e-3, abs=1e-7)
        torch.testing.assert_close(learner.vector, oracle.vector, rtol=0, atol=1e-6)


def test_one_batch_with_several_behaviour_policies_is_not_ppo():
    settings = {**QUICK, "buffer_batches": 1, "behaviour_learning_rate": 0.05}
    moving, still = (ready(PROPS(**settings, behaviour_max_kl=kl), CARTPOLE) for kl in (0.1, 0.0))
    for _ in range(2):
        assert moving.iterate()[0]["behaviour_kl"] > 0.0 == still.iterate()[0]["behaviour_kl"]
    assert not torch.equal(moving.vector, still.vector)


# --- the behaviour policies ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("env", [CARTPOLE, TARGET])
def test_every_behaviour_policy_starts_from_the_target_and_acts(env, monkeypatch):
    learner, made, call = (
        ready(PROPS(**QUICK, behaviour_learning_rate=0.01), env, (0, 1)),
        [],
        AdaptiveSampling.__call__,
    )

    def spy(self: AdaptiveSampling, model: Any, target: Tensor, batch: Any, minibatches: Any) -> Behaviour:
        assert torch.equal(target, learner.vector)
        assert (self.learning_rate, self.clip, self.max_kl, self.regularizer) == (0.01, 0.3, 0.01, 0.1)
        made.append(call(self, model, target, batch, minibatches))
        return made[-1]

    monkeypatch.setattr(AdaptiveSampling, "__call__", spy)
    _, acted = recorded(learner)
    for iteration in range(3):
        target, before = learner.vector, len(made)
        rows = learner.iterate()
        policies = made[before:]
        assert len(policies) == (3 if iteration == 0 else 4), "the first steps of all have no data to avoid"
        vectors = [target] * (iteration == 0) + [behaviour.vector for behaviour in policies]
        assert all(torch.equal(x, y) for x, y in zip(acted[4 * iteration :], vectors, strict=True))
        assert all((behaviour.kl <= 0.01).all() for behaviour in policies)
        assert any((behaviour.vector != target).any(1).all() for behaviour in policies)
        for name, values in {"kl": [b.kl for b in policies], "updates": [b.steps for b in policies]}.items():
            wanted = torch.stack(values).sum(0) / 4
            assert [row[f"behaviour_{name}"] for row in rows] == pytest.approx(wanted.tolist())


@pytest.mark.parametrize("batches", [1, 2, 3])
def test_behaviour_policies_avoid_the_steps_that_the_next_update_will_learn_from(batches, monkeypatch):
    """Those are the last batches but the one that is being replaced, and the steps of the new one so far."""
    learner = ready(PROPS(**QUICK, buffer_batches=batches, normalize_observations=False), "Pendulum-v1")
    seen, call = [], AdaptiveSampling.__call__

    def spy(self: AdaptiveSampling, model: Any, target: Tensor, batch: Any, minibatches: Any) -> Behaviour:
        minibatches = list(minibatches)
        passes = [torch.cat([index[0] for index in minibatches[n : n + 2]]).sort().values for n in (0, 2)]
        assert len(minibatches) == 4
        assert torch.equal(passes[0], passes[1])
        one = pick(batch, 0)
        with torch.no_grad():
            params = model.evaluate(target[0], one)[0]
        log_prob = model.distribution.log_prob(params, one["action"])
        torch.testing.assert_close(one["old_log_prob"], log_prob, atol=1e-5, rtol=1e-5)
        seen.append({k: one[k][passes[0]] for k in ("observation", "action", "valid")})
        assert not one["valid"][[i for i in range(len(one["valid"])) if i not in passes[0]]].any()
        return call(self, model, target, batch, minibatches)

    monkeypatch.setattr(AdaptiveSampling, "__call__", spy)
    pieces, _ = recorded(learner)
    for _ in range(4):
        learner.iterate()
    assert len(seen) == 16 - (4 if batches == 1 else 1)
    times = [t for t in range(16) if (t % 4 if batches == 1 else t)]
    for time, data in zip(times, seen, strict=True):
        held = joined(pieces[max(0, time // 4 + 1 - batches) * 4 : time], 0)
        wanted = torch.cat([held.observation[:-1, 0], held.action[:, 0]], -1).flatten(0, 1)
        found = torch.cat([data["observation"], data["action"]], -1)
        assert sorted(found.tolist()) == sorted(wanted.tolist())
        assert data["valid"].sum() == held.valid.sum()


def test_sequences_of_a_recurrent_policy_end_where_the_data_do(monkeypatch):
    learner = ready(PROPS(**QUICK, core="gru", core_size=4), "surefoot/MemoryCue-v0")
    seen, call = [], AdaptiveSampling.__call__

    def spy(self: AdaptiveSampling, model: Any, target: Tensor, batch: Any, minibatches: Any) -> Behaviour:
        minibatches = list(minibatches)
        seen.append((batch["valid"][0], torch.cat([index[0] for index in minibatches[:2]]).sort().values.tolist()))
        return call(self, model, target, batch, minibatches)

    monkeypatch.setattr(AdaptiveSampling, "__call__", spy)
    for _ in range(3):
        learner.iterate()
    assert [sequences for _, sequences in seen[:3]] == [[0, 1, 2, 3]] * 3
    assert seen[3][1] == [0, 1, 2, 3], "nothing of the second batch is there"
    assert seen[4][1] == list(range(8))
    assert seen[7][1] == [4, 5, 6, 7], "the first batch will have been dropped"
    for number, (valid, _) in enumerate(seen):
        iteration, time = divmod(number + 1, 4)
        new = slice(4 * (iteration % 2), 4 * (iteration % 2) + 4)
        assert not valid[4 * time :, new].any()
        assert valid[: 4 * time, new].any() == (time > 0)


# --- the estimates -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("env", [CARTPOLE, TRUNCATED, "Pendulum-v1"])
def test_advantages_are_those_of_each_batch_alone(env, monkeypatch):
    """Step by step in Python: each environment of each batch bootstraps from its own last observation."""
    learner = ready(PROPS(**QUICK, **PLAIN, buffer_batches=3, behaviour_learning_rate=0.01), env)
    (pieces, _), batches = recorded(learner), estimated(monkeypatch)
    for _ in range(5):
        weights = learner.vector
        learner.iterate()
    whole = [joined(pieces[4 * i : 4 * i + 4], 0) for i in range(5)]
    module = learner.network.make(learner.observation_space, learner.action_space)
    for name, x in learner.model.unflatten(weights[0]).items():
        module.get_parameter(name).data = x.clone()
    advantage = batches[-1]["advantage"].unflatten(1, (16, 12))[0]
    target, valid = (batches[-1][name].unflatten(1, (16, 12))[0] for name in ("target", "valid"))
    for iteration in (2, 3, 4):
        rollout, columns = whole[iteration], slice(4 * (iteration % 3), 4 * (iteration % 3) + 4)
        assert torch.equal(valid[:, columns], rollout.valid[:, 0])
        with torch.no_grad():
            values = module(rollout.observation[:, 0])[1].double()
        for env_index in range(4):
            carried, value = 0.0, values[:, env_index].tolist()
            for t in reversed(range(16)):
                terminated = float(rollout.terminated[t, 0, env_index])
                ended = terminated or float(rollout.truncated[t, 0, env_index])
                error = float(rollout.reward[t, 0, env_index]) + 0.99 * value[t + 1] * (1 - terminated) - value[t]
                carried = error + 0.99 * 0.95 * carried * (1 - ended)
                if not rollout.valid[t, 0, env_index]:
                    carried = 0.0  # nothing of the next episode flows back through its reset
                    continue
                assert float(advantage[t, columns][env_index]) == pytest.approx(carried, rel=1e-3, abs=1e-4)
                assert float(target[t, columns][env_index]) == pytest.approx(carried + value[t], rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("env", [CARTPOLE, TARGET])
def test_who_acted_is_not_asked(env, monkeypatch):
    """Data of a wild policy count as the target's: ratios start at 1, and nothing stored could tell."""
    learner = ready(PROPS(**QUICK), env)
    wild = learner.vector + torch.randn(learner.vector.shape, generator=torch.Generator().manual_seed(0))
    nothing = torch.zeros(1)
    monkeypatch.setattr(PROPS, "behaviour", lambda *_: Behaviour(wild, nothing, nothing))
    batches, method, model, vector = estimated(monkeypatch), learner.method, learner.model, learner.vector[0]
    learner.iterate()
    one = pick(batches[0], 0)
    params = model.evaluate(vector, one)[0]
    torch.testing.assert_close(one["old_params"], params)
    torch.testing.assert_close(one["old_log_prob"], model.distribution.log_prob(params, one["action"]))
    acted = model.distribution.log_prob(model.evaluate(wild[0], one)[0], one["action"])
    assert (one["old_log_prob"] - acted).abs().max() > 0.1
    for keys in (one, method.buffer(learner)):
        assert not [key for key in keys if "log_prob" in key and key != "old_log_prob" or "behaviour" in key]

    def plain(v: Tensor) -> Tensor:
        log_prob = model.distribution.log_prob(model.evaluate(v, one)[0], one["action"])[one["valid"]]
        advantage = one["advantage"][one["valid"]]
        standard = (advantage - advantage.mean()) / (advantage.std(correction=0) + 1e-8)
        return -(standard * log_prob).mean()

    still = dataclasses.replace(method, entropy=0.0)
    policy = model.policy_mask
    found = torch.func.grad(lambda v: still.loss(model, v, one, {})[0])(vector)[policy]
    torch.testing.assert_close(found, torch.func.grad(plain)(vector)[policy], atol=1e-4, rtol=1e-2)


def test_normalisers_stand_still_within_an_iteration_and_take_in_each_batch_once(monkeypatch):
    learner = ready(PROPS(**QUICK, buffer_batches=3), "Pendulum-v1")
    (pieces, _), batches = recorded(learner), estimated(monkeypatch)
    scales, behaviour = [], PROPS.behaviour

    def spy(self: Any, learner: Learner, *rest: Any) -> Behaviour:
        scales.append(torch.stack(learner.scales()[""]))
        return behaviour(self, learner, *rest)

    monkeypatch.setattr(PROPS, "behaviour", spy)
    observations, rewards = Moments.start(1, 3), Moments.start(1, 1)
    discounted, raw = torch.zeros(4), {}
    for iteration in range(5):
        learner.iterate()
        new = joined(pieces[4 * iteration : 4 * iteration + 4], 0)
        raw[iteration % 3] = new
        mean, inverse_std = observations.scale()
        assert all(torch.equal(x[:, 0, 0], torch.cat([mean, inverse_std])) for x in scales[4 * iteration :])
        held = joined([raw[place] for place in sorted(raw)], 2)
        normal = ((held.observation[:-1, 0] - mean[0]) * inverse_std[0]).clamp(-10, 10).flatten(0, 1)
        torch.testing.assert_close(batches[-1]["observation"][0], normal)
        observations = observations.update(new.observation[:-1].transpose(0, 1).flatten(1, 2), torch.ones(1, 64) > 0)
        torch.testing.assert_close(learner.moments[""].mean, observations.mean)
        torch.testing.assert_close(learner.moments[""].variance, observations.variance)
        returns = []
        for t in range(16):
            discounted = new.reward[t, 0] + 0.99 * discounted
            returns.append(discounted)
            discounted = discounted * ~(new.terminated | new.truncated)[t, 0]
        rewards = rewards.update(torch.stack(returns).flatten()[None, :, None], new.valid.flatten(0)[None])
        torch.testing.assert_close(learner.reward_moments.variance, rewards.variance, rtol=1e-4, atol=1e-5)


def test_all_rewards_of_the_buffer_are_scaled_by_the_newest_deviation(monkeypatch):
    """With λ = γ = 0 the advantage is the scaled reward less the value."""
    learner = ready(PROPS(**QUICK, buffer_batches=3, gamma=0.0, lam=0.0), "Pendulum-v1")
    (pieces, _), batches = recorded(learner), estimated(monkeypatch)
    for _ in range(3):
        learner.iterate()
    rewards = torch.cat([p.reward for p in pieces])[:, 0]
    standard = (rewards / rewards.std(correction=0)).unflatten(0, (3, 16)).transpose(0, 1).flatten(1)
    found = (batches[-1]["advantage"] + batches[-1]["old_value"])[0].unflatten(0, (16, 12))
    torch.testing.assert_close(found, standard.clamp(-10, 10), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found, batches[-1]["target"][0].unflatten(0, (16, 12)))


# --- a run ---------------------------------------------------------------------------------------------------------


def test_episodes_are_counted_once_whatever_the_pieces():
    learner = ready(PROPS(**QUICK), CARTPOLE, (0, 1))
    pieces, _ = recorded(learner)
    for iteration in range(3):
        rows = learner.iterate()
        for seed, row in enumerate(rows):
            ended = sum(int((p.terminated | p.truncated)[:, seed].sum()) for p in pieces)
            assert row["episodes"] == ended
        new = joined(pieces[4 * iteration :], 0)
        first = 4 * (iteration % 2)
        assert torch.equal(recent.read(learner.method.buffer(learner), first, first + 4).reward, new.reward)


def test_a_compiled_step_is_given_batches_of_the_size_it_was_made_for(monkeypatch):
    """The buffer grows in the first iterations, and the compiler stands for one set of shapes."""
    made = []

    def compiled(function: Any, *example: Any) -> Any:
        made.append(example[5]["valid"].shape)

        def call(*arguments: Any) -> Any:
            assert [x.shape for x in tree_leaves(arguments)] == [x.shape for x in tree_leaves(example)]
            return function(*arguments)

        return call

    monkeypatch.setattr("surefoot.loops.common.compile.compiled", compiled)
    eager, native = (ready(PROPS(**QUICK, buffer_batches=3), CARTPOLE, compile=on) for on in ("off", "on"))
    for _ in range(5):
        assert eager.iterate() == native.iterate()
    assert made == [(1, 64), (1, 128), (1, 192)]


@pytest.mark.parametrize(("env", "goal"), [(CONTEXT, 0.9), (TARGET, -0.1)])
def test_it_learns(env, goal):
    settings = {**QUICK, "epochs": 4, "learning_rate": 0.03, "target_kl": None}
    learner = ready(PROPS(**settings), env)
    rows = [learner.iterate()[0] for _ in range(12)]
    assert rows[-1]["return"] > goal


def test_its_buffer_is_a_better_sample_of_a_policy_than_the_policy_gives():
    """The policy all but stands still, so that the error can be counted: 2 contexts and 2 actions."""

    def errors(**changes: Any) -> Tensor:
        settings = {"learning_rate": 1e-9, "hidden": (), "behaviour_learning_rate": 0.02, "behaviour_minibatches": 1}
        method = PROPS(**SMALL | PLAIN | settings | changes)
        learner, found = ready(method, CONTEXT, tuple(range(8))), []
        for iteration in range(6):
            learner.iterate()
            if iteration:
                found.append(tabular_error(learner, recent.read(method.buffer(learner), 0, 8)))
        return torch.stack(found).mean(0)

    plain, props = errors(behaviour_max_kl=0.0), errors()
    assert plain.mean() == pytest.approx(2 / (2 * 64), rel=0.4), "half of the 128 steps only reset"
    assert props.mean() < 0.7 * plain.mean()


def tabular_error(learner: Learner, held: Rollout) -> Tensor:
    """Of every seed."""
    context = (held.observation[:-1, ..., 0] > 0).long()
    counts = torch.stack(
        [((context == s) & (held.action == a) & held.valid).sum((0, 2)) for s in (0, 1) for a in (0, 1)], -1
    ).float()
    cues = torch.tensor([[-1.0], [1.0]])
    logits = torch.stack([learner.model(vector, cues)[0] for vector in learner.vector])
    return tabular_sampling_error(counts.unflatten(-1, (2, 2)), logits.log_softmax(-1).detach())


def test_a_batch_is_a_whole_number_of_behaviour_policies():
    with pytest.raises(UsageError, match="behaviour_steps=3 does not divide num_steps=16.*such as 1"):
        PROPS(**SMALL, behaviour_steps=3)


@pytest.mark.parametrize(
    "wrong", [{"behaviour_max_kl": -1.0}, {"behaviour_clip": 1.0}, {"buffer_batches": 0}, {"behaviour_steps": 0}]
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        PROPS(**SMALL | wrong)
