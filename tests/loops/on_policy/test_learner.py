"""The learner: what it estimates equals what brute force says, and it knows an end from a cut."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

import surefoot as sf
from surefoot.errors import UsageError
from surefoot.loops.common.compile import compiled
from surefoot.loops.common.optimizer import Adam, clip_norm
from surefoot.loops.common.run import make_learner
from surefoot.loops.on_policy.method import gradient_step
from surefoot.methods.control.ppo import PPO, adapted
from surefoot.models.functional import over_seeds


def learner(env: str, seeds=(0,), compile: str = "off", **settings):
    sizes = {"num_envs": 4, "num_steps": 32, "minibatch_size": 32, "hidden": (16,)}
    return make_learner(PPO(**(sizes | settings)), env, list(seeds), 10**6, compile=compile)


def test_adam_equals_torch():
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(50, generator=generator)
    theirs = vector.clone().requires_grad_()
    optimizer = torch.optim.Adam([theirs], lr=3e-3, eps=1e-5)
    ours, adam = vector, Adam.start(vector)
    for _ in range(20):
        gradient = torch.randn(50, generator=generator)
        ours, adam = adam.step(ours, gradient, 3e-3, 1e-5)
        theirs.grad = gradient.clone()
        optimizer.step()
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-5, atol=1e-6)


def test_clip_norm():
    gradient, norm = clip_norm(torch.tensor([3.0, 4.0]), 0.5)
    assert norm == 5 and gradient.norm() == pytest.approx(0.5, abs=1e-5)
    short = torch.tensor([0.03, 0.04])
    assert torch.equal(clip_norm(short, 0.5)[0], short)
    assert torch.equal(clip_norm(torch.tensor([3.0, 4.0]), None)[0], torch.tensor([3.0, 4.0]))


def test_log_probabilities_are_those_of_the_acting_weights_and_sampled_actions():
    run = learner("Pendulum-v1", normalize_observations=False)
    rollout = run.collect(run.vector)
    batch = run.estimate(rollout)
    params, _ = run.model.evaluate(run.vector[0], {"observation": rollout.observation[:-1, 0]})
    mean, log_std = params.chunk(2, -1)
    expected = torch.distributions.Normal(mean, log_std.exp()).log_prob(rollout.action[:, 0]).sum(-1)
    torch.testing.assert_close(batch["old_log_prob"][0], expected.flatten(), rtol=1e-4, atol=1e-5)
    assert (rollout.action.abs() > 2).any(), "stored actions are those sampled, not those clipped to the box"


def test_values_and_advantages_equal_brute_force_with_ends_and_cuts():
    run = learner("surefoot/DelayedReward-v0", normalize_rewards=False, normalize_observations=False)
    rollout = run.collect(run.vector)
    batch = run.estimate(rollout)
    _, value = run.model.evaluate(run.vector[0], {"observation": rollout.observation[:, 0]})
    method, time = run.method, rollout.reward.shape[0]
    for b in range(method.num_envs):
        advantage = 0.0
        for t in reversed(range(time)):
            ended, cut = bool(rollout.terminated[t, 0, b]), bool(rollout.truncated[t, 0, b])
            following = 0.0 if ended else float(value[t + 1, b])
            delta = float(rollout.reward[t, 0, b]) + method.gamma * following - float(value[t, b])
            advantage = delta + (0.0 if ended or cut else method.gamma * method.lam * advantage)
            if rollout.valid[t, 0, b]:
                got = batch["advantage"][0].view(time, -1)[t, b]
                assert float(got) == pytest.approx(advantage, abs=1e-5)
            else:
                advantage = 0.0  # the step in which the environment only reset itself is nobody's future


def test_truncation_bootstraps():
    """Reward 1 for ever, cut every few steps: with the true value known, every advantage is 0."""
    run = learner("surefoot/TruncatedConstant-v0", normalize_rewards=False, gamma=0.9)
    rollout = run.collect(run.vector)
    assert rollout.truncated.any() and not rollout.terminated.any()
    value = torch.full((33, 1, 4), 1 / (1 - 0.9))
    signals = {"values": value[:-1], "next_values": value[1:], "terminated": rollout.terminated}
    advantage = run.method.objective().advantage(
        rollout.reward, truncated=rollout.truncated, valid=rollout.valid, **signals
    )
    torch.testing.assert_close(advantage, torch.zeros_like(advantage), atol=1e-4, rtol=0)


def test_rows_of_a_reset_are_not_valid_and_starts_follow_them():
    run = learner("CartPole-v1", num_steps=64, minibatch_size=64)
    rollout = run.collect(run.vector)
    ended = (rollout.terminated | rollout.truncated)[:-1]
    assert ended.any()
    assert torch.equal(rollout.valid[1:], ~ended)
    assert torch.equal(rollout.starts[2:], ended)
    assert rollout.starts[0].all()


def test_episode_returns_equal_those_of_gymnasium():
    run = learner("CartPole-v1", num_steps=200, minibatch_size=50, epochs=1)
    seen = []
    for _ in range(3):
        rollout = run.collect(run.vector)
        seen.append(rollout)
        run.iteration += 1
    reward = torch.cat([r.reward[:, 0] for r in seen])
    ended = torch.cat([(r.terminated | r.truncated)[:, 0] for r in seen])
    valid = torch.cat([r.valid[:, 0] for r in seen])
    returns = []
    for t, b in ended.nonzero().tolist():
        before = ended[:t, b].nonzero()
        start = int(before[-1]) + 1 if len(before) else 0
        returns.append(float((reward[start : t + 1, b] * valid[start : t + 1, b]).sum()))
    kept = run.episodes.window[0, 0]
    assert sorted(kept[~kept.isnan()].tolist()) == sorted(returns[-100:])


def test_reward_scale_is_the_running_deviation_of_the_discounted_return():
    run = learner("Pendulum-v1", num_steps=50, minibatch_size=50)
    rollout = run.collect(run.vector)
    batch_reward = run._scaled_reward(rollout)
    running, returns = np.zeros(4), []
    for t in range(50):
        running = rollout.reward[t, 0].numpy() + run.method.gamma * running
        returns.append(running.copy())
    expected = (rollout.reward / np.std(returns)).clamp(-10, 10)
    torch.testing.assert_close(batch_reward, expected.float(), rtol=1e-4, atol=1e-5)


def rewarded(reward: torch.Tensor, ended: torch.Tensor, **settings):
    """A learner and a rollout with these rewards and terminations, `[time, envs]`, of one seed."""
    run = learner("Pendulum-v1", num_steps=len(reward), minibatch_size=len(reward), **settings)
    flags = {"terminated": ended[:, None], "truncated": torch.zeros_like(ended[:, None])}
    rollout = run.collect(run.vector)._replace(reward=reward[:, None], **flags)
    return run, rollout._replace(valid=torch.ones_like(flags["terminated"]))


def test_the_discounted_return_behind_the_reward_scale_starts_again_with_every_episode():
    generator = torch.Generator().manual_seed(0)
    reward, ended = torch.rand(40, 4, generator=generator) + 1, torch.rand(40, 4, generator=generator) < 0.2
    run, rollout = rewarded(reward, ended)
    running, returns = np.zeros(4), []
    for x, over in zip(reward.numpy(), ended.numpy()):
        running = x + run.method.gamma * running
        returns.append(running)
        running = np.where(over, 0.0, running)
    scaled = run._scaled_reward(rollout)
    torch.testing.assert_close(scaled[:, 0], (reward / np.std(returns)).float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(run.discounted[0], torch.as_tensor(running).float(), rtol=1e-5, atol=1e-5)


def test_scaled_rewards_are_clipped_at_ten():
    reward = torch.zeros(200, 4)
    reward[100, 0], reward[50, 1] = 1000.0, -1000.0
    run, rollout = rewarded(reward, torch.zeros(200, 4, dtype=torch.bool), gamma=0.0)
    scaled = run._scaled_reward(rollout)[:, 0]
    assert scaled[100, 0] == 10 and scaled[50, 1] == -10  # 20 standard deviations
    assert (scaled.abs() > 0).sum() == 2


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_compiled_and_eager_steps_give_the_same_numbers(seeds):
    run = learner("Pendulum-v1", seeds)
    batch = run.estimate(run.collect(run.vector))
    run.lr_tensor = torch.tensor(3e-4)
    names = tuple(run.metric_names(batch))
    index = torch.arange(32).repeat(len(seeds), 1)
    step = over_seeds(gradient_step(run.method, run.model, names), len(seeds), shared=1)
    arguments = (run.vector, run.adam, torch.ones(len(seeds)), index, run.extra, batch, run.lr_tensor)
    native = compiled(step, *arguments)
    vector, adam = run.vector, run.adam
    other, other_adam = run.vector, run.adam
    for _ in range(5):
        vector, adam, metrics = step(vector, adam, *arguments[2:])
        other, other_adam, other_metrics = native(other, other_adam, *arguments[2:])
    torch.testing.assert_close(vector, other, rtol=0, atol=1e-5)
    torch.testing.assert_close(metrics, other_metrics, rtol=1e-3, atol=1e-5)


def test_compiled_steps_see_what_the_method_changes_from_step_to_step():
    eager, native = (learner("CartPole-v1", penalty="adaptive", compile=compile) for compile in ("off", "on"))
    batch = eager.estimate(eager.collect(eager.vector))
    for weight in (1.0, 100.0, 10_000.0):
        for run in (eager, native):
            run.extra["divergence_weight"], run.lr_tensor = torch.tensor([weight]), torch.tensor(1e-2)
            run.metric_names(batch)
            run.gradient_step(torch.ones(1), batch, torch.arange(32)[None])
        torch.testing.assert_close(native.vector, eager.vector, rtol=0, atol=1e-5)


def test_where_compiling_fails_only_who_asked_for_it_stops(monkeypatch):
    def missing(*_):
        raise UsageError("No compiler.")

    monkeypatch.setattr("surefoot.loops.common.compile.compiled", missing)
    with pytest.raises(UsageError, match="No compiler."):
        learner("CartPole-v1", compile="on").iterate()
    eager, auto = learner("CartPole-v1"), learner("CartPole-v1", compile="auto")
    with pytest.warns(UserWarning, match="No compiler. The run continues without compiling."):
        assert auto.iterate() == eager.iterate()


def test_sequences_left_over_count_nowhere():
    """Of four sequences an epoch takes three in one minibatch: what it reports is of one step."""
    run = learner("CartPole-v1", core="gru", core_size=8, minibatch_size=96, epochs=1, learning_rate=1e-12)
    assert run.iterate()[0]["entropy"] == pytest.approx(np.log(2), rel=0.01)


def test_target_kl_ends_the_epochs_of_one_seed_and_not_of_another():
    run = learner("CartPole-v1", (0, 1), epochs=20, target_kl=1e-4, learning_rate=1e-2)
    before = run.vector.clone()
    run.iterate()
    free = learner("CartPole-v1", (0, 1), epochs=20, learning_rate=1e-2)
    free.iterate()
    assert ((run.vector - before).norm(dim=1) < (free.vector - before).norm(dim=1)).all()
    assert (run.adam.count < 20 * 4).all() and (run.adam.count >= 4).all()


def test_annealing_goes_linearly_to_zero():
    run = make_learner(PPO(num_envs=4, num_steps=32, minibatch_size=32, anneal=True), "CartPole-v1", [0], 512)
    rates = []
    for _ in range(4):
        rates.append(run.lr)
        run.iterate()
    assert rates == pytest.approx([3e-4, 2.25e-4, 1.5e-4, 0.75e-4])


def test_adaptive_penalty():
    got = adapted(torch.ones(3), torch.tensor([0.006, 0.016, 0.01]), 0.01)
    assert got.tolist() == [0.5, 2.0, 1.0]
    assert adapted(torch.tensor([1e-6, 1e6]), torch.tensor([0.0, 1.0]), 0.01).tolist() == pytest.approx([1e-6, 1e6])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"minibatch_size": 60}, "minibatch_size=60 does not divide.*64"),
        ({"gamma": 1.5}, r"gamma=1.5 is not allowed.*\[0, 1\]"),
        ({"learning_rate": float("nan")}, "learning_rate=nan"),
        ({"activation": "sine"}, "activation='sine'.*'tanh'"),
        ({"clip": 0}, "clip=0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        PPO(**settings)


def test_squash_needs_a_box():
    with pytest.raises(UsageError, match="squash=True.*Discrete"):
        learner("CartPole-v1", squash=True)


class Broken(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (2,))
    action_space = gym.spaces.Discrete(2)

    def __init__(self, what: str = "reward") -> None:
        self.what, self.t = what, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.t += 1
        bad = self.t == 200
        if bad and self.what == "raise":
            raise RuntimeError("the motor is hot")
        reward = float("nan") if bad and self.what == "reward" else 0.0
        observation = np.full(2, np.nan if bad and self.what == "observation" else 0.0, np.float32)
        return observation, reward, False, False, {}


@pytest.mark.parametrize("what", ["reward", "observation", "raise"])
def test_a_broken_environment_ends_the_run_with_a_message_and_its_checkpoint(tmp_path, what):
    sizes = {"num_envs": 4, "num_steps": 32, "minibatch_size": 32, "hidden": (8,)}
    message = {"reward": "reward.*nan", "observation": "observation.*nan", "raise": "the motor is hot"}[what]
    with pytest.raises((UsageError, RuntimeError), match=message):
        sf.train(
            "ppo", Broken, 10**5, run_dir=tmp_path / "run", env_kwargs={"what": what}, checkpoint_every=128, **sizes
        )
    from surefoot.loops.common import checkpoint

    _, facts = checkpoint.read(checkpoint.latest(tmp_path / "run"))
    assert facts["iteration"] == 6
