"""Learned adversaries: the environment they are trained in, and the attack that they become."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import surefoot as sf
from surefoot.cli import main
from surefoot.errors import UsageError
from surefoot.evaluate.adversary import adversary_env, exploitability, trained
from surefoot.evaluate.rollout import returns
from surefoot.models.agent import Agent, Network
from surefoot.models.distributions import Deterministic
from surefoot.models.functional import Flat
from surefoot.perturbations import Driven
from surefoot.perturbations.attacks import Target, aimed
from surefoot.perturbations.grammar import parse

W = np.array([0.5, -1, 2])


class Guess(gymnasium.Env):
    """The right action is wᵀs; the reward is minus the distance from it. Ten states an episode."""

    observation_space = spaces.Box(-9, 9, (3,), np.float32)
    action_space = spaces.Box(-99, 99, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self._next(), {}

    def _next(self):
        self.state = self.np_random.normal(size=3).astype(np.float32)
        return self.state

    def step(self, action):
        self.time += 1
        reward = -abs(float(action[0]) - float(W @ self.state))
        return self._next(), reward, False, self.time == 10, {}


class Right:
    """It takes the right action."""

    def respond(self, observation, state, starts):
        return (observation.double() @ torch.from_numpy(W)).unsqueeze(-1)

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return (observation @ W)[:, None], state


def commanding(mean, actions, folder):
    """The folder of an adversary that always gives one command."""
    space = spaces.Box(-1, 1, (actions,), np.float32)
    network = Network(hidden=(2,))
    flat = Flat(network.make(Guess.observation_space, space))
    parts = flat.unflatten(torch.zeros(flat.size))
    parts["actor.output.bias"][:] = torch.tensor(mean, dtype=torch.float32)
    return Agent(network, Guess.observation_space, space, flat.flatten(parts), {}).save(folder)


def test_the_reward_is_the_victim_s_loss_and_the_best_command_shifts_by_the_one_norm():
    env = adversary_env(Right(), Guess, "obs-sa-rl:0.1")()
    assert env.action_space.shape == (3,)
    env.reset(seed=0)
    for command, loss in (([1, -1, 1], 0.35), ([-9, 9, -9], 0.35), ([0, 0, 0], 0), ([1, 1, 0], 0.05)):
        assert env.step(np.array(command))[1] == pytest.approx(loss, abs=1e-6)
    ball = adversary_env(Right(), Guess, "obs-sa-rl:0.1,l2")()
    ball.reset(seed=0)
    assert ball.step(np.array([1, 1, 1]))[1] == pytest.approx(0.1 * 1.5 / 3**0.5, abs=1e-6)


def test_the_adversary_s_environment_plays_the_victim_s_episodes():
    env, plain = adversary_env(Right(), Guess, "obs-pa-ad:0.1")(), Guess()
    seen, own = env.reset(seed=3)[0], plain.reset(seed=3)[0]
    for _ in range(10):
        np.testing.assert_array_equal(seen, own)
        seen, reward, _, truncated, _ = env.step(np.ones(1))
        own = plain.step(np.zeros(1))[0]
        assert reward == pytest.approx(0.35, abs=1e-6)
    assert truncated


def test_an_adversary_attacks_as_it_was_trained(tmp_path):
    folder = commanding([1.0, -1, 1], 3, tmp_path / "agent")
    np.testing.assert_allclose(
        returns(Right(), Guess, 3, perturbation=f"obs-sa-rl:0.1,adversary={folder}"), -3.5, rtol=1e-5
    )
    report = sf.stress(Right(), Guess, f"obs-sa-rl:0..0.2,adversary={folder}", episodes=2, points=3)
    np.testing.assert_allclose(report.cell_means, [0, -3.5, -7], atol=1e-4)


def test_a_director_names_the_direction_of_the_action():
    class Two:
        """Two actions, each of which follows an input of its own."""

        def respond(self, observation, state, starts):
            return Deterministic(2, (-1, -1), (1, 1)), observation.double()[:, :2]

    box = spaces.Box(-1, 1, (2,), np.float32)
    target = Target(Two(), Guess.observation_space, box)
    attack = parse("obs-pa-ad:0.1,unit=raw")
    clean, rngs = np.zeros((1, 3), np.float32), {0: np.random.default_rng(0)}
    for direction in ((1, 1), (1, -1), (-1, -1), (1, 0)):
        told = torch.tensor([direction], dtype=torch.float64)
        seen = attack.strike(target, clean, None, np.ones(1, bool), np.array([0.1]), rngs, command=told)
        np.testing.assert_allclose(seen, [[0.1 * direction[0], 0.1 * direction[1], 0]], atol=1e-6)
    one = Target(Right(), Guess.observation_space, Guess.action_space)
    for direction in (-1, 1):  # of a single action, up or down
        told = torch.tensor([[direction]], dtype=torch.float64)
        seen = attack.strike(one, clean, None, np.ones(1, bool), np.array([0.1]), rngs, command=told)
        assert (seen @ W).item() == pytest.approx(0.35 * direction, rel=1e-5)


def test_it_is_learned_by_ppo(tmp_path):
    env = adversary_env(Right(), Guess, "obs-sa-rl:0.1")
    run = sf.train("ppo", env=env, steps=2400, num_envs=4, num_steps=50, minibatch_size=50, learning_rate=1e-2, gamma=0,
                   log_std_init=-0.5, hidden=(8,), run_dir=tmp_path / "run", compile="off", loggers=())  # fmt: skip
    learned = returns(Right(), Guess, 5, perturbation=f"obs-sa-rl:0.1,adversary={run.path}/agent").mean()
    random = returns(Right(), Guess, 5, perturbation="obs-random:0.1").mean()
    assert -3.5 - 1e-4 <= learned < -3
    assert learned < random - 0.5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("obs-sa-rl:0.1", "train one in surefoot.evaluate.adversary"),
        ("obs-sa-rl:0.1,adversary=nowhere", "nowhere"),
        ("obs-sa-rl:0.1,adversary=TWO", "trained against another policy"),
    ],
)
def test_a_wrong_adversary_is_refused(text, words, tmp_path):
    text = text.replace("TWO", str(commanding([0.0, 0], 2, tmp_path / "agent")))
    with pytest.raises(UsageError, match=words):
        aimed(parse(text), Target(Right(), Guess.observation_space, Guess.action_space))


@pytest.mark.parametrize("attack", ["obs-pgd:0.1", "obs-sa-rl:0", "obs-sa-rl:0..0.1"])
def test_only_learned_attacks_of_one_strength_are_trained(attack):
    with pytest.raises(UsageError, match="fixed strength"):
        adversary_env(Right(), Guess, attack)


# --- adversaries with control over a perturbation ---------------------------------------------------------------------


def test_control_over_actions_is_the_victims_loss_and_a_frozen_one_is_driven_alike(tmp_path):
    """Half a unit beside the right action costs half a unit of reward, in training and in the stress test."""
    env = adversary_env(Right(), Guess, "action-noise:0.5,law=linf")()
    env.reset(seed=0)
    assert [env.step(np.array([b]))[1] for b in (1.0, -1.0, 3.0, 0.0)] == pytest.approx([0.5, 0.5, 0.5, 0.0], abs=1e-5)
    folder = commanding([1.0], 1, tmp_path / "adversary")
    driven = f"action-noise:0.5,law=linf,adversary={folder}"
    np.testing.assert_allclose(returns(Right(), Guess, 2, perturbation=driven), -5.0, rtol=1e-4)
    report = sf.stress(Right(), Guess, driven, episodes=2, points=3)
    assert report.cell_means.tolist() == pytest.approx([0.0, -2.5, -5.0], abs=1e-3) and report.axes == ("action-noise",)
    assert exploitability(report).startswith("exploitability: 5")


def test_an_adversary_is_trained_once_for_the_same_weights_and_at_the_greatest_strength(tmp_path):
    text = "action-noise:0.1..0.5,law=linf"
    first = trained(Right(), Guess, text, 100, tmp_path, kept="weights")
    (run,) = tmp_path.iterdir()
    before = (run / "metrics.jsonl").stat().st_mtime_ns
    assert isinstance(first, Driven) and str(first.inner) == text and "-0.5-" in run.name
    assert trained(Right(), Guess, text, 100, tmp_path, kept="weights") == first
    assert (run / "metrics.jsonl").stat().st_mtime_ns == before
    assert trained(Right(), Guess, "obs-random:0.1", 100, tmp_path) == parse("obs-random:0.1")
    with pytest.raises(UsageError, match="attack_budget=0"):
        trained(Right(), Guess, text, 0, tmp_path)


def test_from_the_shell_an_adversary_lies_beside_the_stress_report(tmp_path, capsys):
    sizes = {"num_envs": 2, "num_steps": 16, "minibatch_size": 16, "hidden": (4,), "loggers": ()}
    run = sf.train("ppo", "Pendulum-v1", 32, run_dir=tmp_path / "run", **sizes)
    words = ["stress", str(run.path), "--perturb", "obs-pgd:0.05,action-mix:0.5", "--attack-budget", "1k"]
    main([*words, "--episodes", "2", "--points", "2"])
    said = capsys.readouterr().out
    assert "under obs-pgd:0.05" in said and said.count("exploitability") == 1 and "at action-mix=0.5" in said
    there = sorted(path.name for path in (run.path / "attacks").iterdir())
    assert len(there) == 2 and there[0].startswith("action-mix-0.5-1000-0-") and there[1].endswith(".json")
