"""Episodes under attack: in the right rows, with the right state, without a trace where nothing is attacked."""

from __future__ import annotations

import functools
import warnings

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import surefoot as sf
from surefoot.errors import UsageError
from surefoot.evaluate.rollout import Episode, episode_seeds, play, returns
from surefoot.evaluate.stress import stress
from surefoot.loops.common.optimizer import Adam
from surefoot.models.agent import Agent, Network
from surefoot.models.functional import Flat
from surefoot.perturbations import parse
from surefoot.seeding import torch_stream

CART = functools.partial(gymnasium.make, "CartPole-v1", max_episode_steps=60)
SIDE = torch.tensor([0.1, 0.3, 1.0, 0.7])  # push towards the side to which the pole falls


@functools.cache
def victim() -> Agent:
    """A network trained to balance the pole: it imitates a linear controller."""
    with CART() as env:
        space, action = env.observation_space, env.action_space
    network = Network(hidden=(16,))
    flat = Flat(network.make(space, action))
    states = torch.randn(256, 4, generator=torch_stream(0, "states")) * torch.tensor([1.0, 1, 0.1, 1])
    vector = 0.5 * torch.randn(flat.size, generator=torch_stream(0, "weights"))
    adam = Adam.start(vector)

    for _ in range(60):
        weights = vector.requires_grad_()
        loss = torch.nn.functional.cross_entropy(flat(weights, states)[0], (states @ SIDE > 0).long())
        vector, adam = adam.step(vector.detach(), torch.autograd.grad(loss, weights)[0], 0.02, 1e-8)
    return Agent(network, space, action, vector, {})


def test_a_stronger_attack_does_more_damage_to_a_trained_policy():
    nominal, random, fgsm, pgd, mad = (
        returns(victim(), CART, 8, perturbation=f"{text}:0.25" if text else None).mean()
        for text in ("", "obs-random", "obs-fgsm", "obs-pgd", "obs-mad")
    )
    assert nominal == 60
    assert nominal >= random > 2 * fgsm
    assert fgsm >= pgd - 1
    assert mad < 0.8 * random


@pytest.mark.parametrize("deterministic", [True, False])
def test_no_strength_changes_no_bit(deterministic):
    plain, none = Spy(), Spy()
    both = [
        returns(spy, CART, 5, perturbation=p, deterministic=deterministic) for spy, p in ((plain, None), (none, ZERO))
    ]
    np.testing.assert_array_equal(*both)
    assert plain.trace == none.trace


ZERO = "obs-pgd:0 + obs-random:0"


class Spy:
    """The victim, with what it is given written down."""

    def __init__(self):
        self.trace, self.held, self.state = [], [], 0

    def respond(self, observation, state, episode_start):
        self.held.append((state, episode_start.copy()))
        return victim().respond(observation)

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        self.trace.append((observation.tobytes(), state, episode_start.tobytes()))
        self.given = (state, episode_start.copy())
        self.state += 1
        return victim().predict(observation, deterministic=deterministic)[0], self.state


def test_the_attack_is_given_the_state_and_the_starts_of_the_policy():
    spy = Spy()
    check = spy.predict

    def predict(observation, state=None, episode_start=None, deterministic=False):
        held = [h for h in spy.held if len(h[1]) == len(episode_start)]
        assert held  # the policy was attacked before it acted
        assert all(h[0] == state and np.array_equal(h[1], episode_start) for h in held)
        spy.held.clear()
        return check(observation, state, episode_start, deterministic)

    spy.predict = predict
    returns(spy, CART, 4, perturbation="obs-pgd:0.1,steps=3", slots=2)
    assert len(spy.trace) > 10


def test_attacked_episodes_are_the_same_alone_together_and_again():
    texts = ("obs-pgd:0.1,steps=2", "obs-pgd:0.3,steps=2", "obs-random:0.5", "obs-fgsm:0.3,l2")
    jobs = [Episode(attack, seed) for attack in (None, *map(parse, texts)) for seed in episode_seeds(0, 2)]
    together = play(victim(), CART, jobs, slots=7)
    np.testing.assert_array_equal(together, [play(victim(), CART, [job], slots=1).item() for job in jobs])
    np.testing.assert_array_equal(together, play(victim(), CART, jobs, slots=len(jobs)))
    assert len(set(together)) == 4
    drawn, again = (returns(victim(), CART, 3, 1, "obs-fgsm:0.1..0.5") for _ in range(2))
    np.testing.assert_array_equal(drawn, again)
    assert len(set(drawn)) == 3


def test_a_perturbation_inside_the_environment_comes_first():
    seen = {}

    class Zero:
        def predict(self, observation, state=None, episode_start=None, deterministic=False):
            seen["last"] = observation.copy()
            return np.zeros(len(observation), np.int64), None

    for text in ("obs-random:0.5 + observation-dropout:1", "observation-dropout:1 + obs-random:0.5"):
        returns(Zero(), CART, 2, perturbation=text)
        np.testing.assert_array_equal(np.abs(seen["last"]), 0.5)


class Masked(gymnasium.Env):
    """A vector, a number and a mask that forbids one action at a time; the reward is the chosen action."""

    observation_space = spaces.Dict(
        x=spaces.Box(-9, 9, (2,), np.float32), n=spaces.Discrete(3), action_mask=spaces.MultiBinary(3)
    )
    action_space = spaces.Discrete(3)

    def _see(self):
        mask = np.ones(3, np.int8)
        mask[self.time % 3] = 0
        return {"x": self.np_random.normal(size=2).astype(np.float32), "n": self.time % 3, "action_mask": mask}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self._see(), {}

    def step(self, action):
        assert action != self.time % 3
        self.time += 1
        return self._see(), float(action), self.time == 12, False, {}


def test_masks_and_discrete_entries_reach_the_policy_as_they_are():
    network = Network(hidden=(8,))
    size = sum(p.numel() for p in network.make(Masked.observation_space, Masked.action_space).parameters())
    vector = torch.randn(size, generator=torch_stream(0, "weights"))
    agent = Agent(network, Masked.observation_space, Masked.action_space, vector, {})
    given: list = []

    class Noted(Spy):
        observation_space, action_space = Masked.observation_space, Masked.action_space

        def respond(self, observation, state, episode_start):
            return agent.respond(observation)

        def predict(self, observation, state=None, episode_start=None, deterministic=False):
            given.append({key: x.copy() for key, x in observation.items()})
            return agent.predict(observation, deterministic=deterministic)

    plain = returns(Noted(), Masked, 6)
    clean, given[:] = given[:], []
    attacked = returns(Noted(), Masked, 6, perturbation="obs-pgd:0.8")
    assert plain.tolist() != attacked.tolist()
    for before, after in zip(clean, given):
        for key in ("n", "action_mask"):
            assert before[key].tobytes() == after[key].tobytes()
        assert 0 < np.abs(before["x"] - after["x"]).max() <= 0.8


def test_a_sweep_says_in_which_unit_the_budget_is():
    report = stress(victim(), CART, "obs-pgd:0..0.4,steps=2", episodes=3, points=3)
    assert report.perturbation == "obs-pgd:0..0.4,unit=raw,steps=2"
    assert report.units == ("linf radius in the observation's own units",)
    assert report.nominal_point == (0.0,)
    np.testing.assert_array_equal(report.returns[0], report.nominal_returns)
    assert report.worst_cell == {"obs-pgd": 0.4}
    scaled = Agent(
        victim().network, victim().observation_space, victim().action_space, victim().vector,
        {"": (torch.zeros(4), torch.full((4,), 2.0))},
    )  # fmt: skip
    other = stress(scaled, CART, "obs-random:0.1,l2", episodes=2, points=2)
    assert other.units == ("l2 radius in standard deviations of the policy's normaliser",)
    assert "standard deviations" in other.table()


def test_training_under_an_attack_is_refused_at_once(tmp_path):
    with pytest.raises(UsageError, match="stress and evaluate"):
        sf.train("ppo", env="CartPole-v1", steps=100, perturb="obs-pgd:0.1", run_dir=tmp_path / "run")


def test_a_function_without_gradients_is_offered_the_black_boxes():
    for run in (stress, returns):
        with pytest.raises(UsageError, match="obs-random, observation-noise"):
            run(
                lambda x: np.zeros(len(x), np.int64),
                CART,
                **{"perturb" if run is stress else "perturbation": "obs-mad:0.1"},
            )


# --- Stable-Baselines3 ---

sb3 = pytest.importorskip("stable_baselines3")
from stable_baselines3.common import vec_env  # noqa: E402

from surefoot.evaluate.foreign import as_policy  # noqa: E402

MODELS = {
    "ppo": (sb3.PPO, "CartPole-v1", {}),
    "a2c": (sb3.A2C, "Pendulum-v1", {}),
    "gsde": (sb3.PPO, "Pendulum-v1", {"use_sde": True}),
    "sac": (sb3.SAC, "Pendulum-v1", {}),
    "td3": (sb3.TD3, "Pendulum-v1", {}),
    "dqn": (sb3.DQN, "CartPole-v1", {}),
}


def model_of(name, env=None, **more):
    cls, own, options = MODELS[name]
    if name in ("sac", "td3", "dqn"):
        options = {**options, "buffer_size": 10}
    model = cls("MlpPolicy", env or own, policy_kwargs={"net_arch": [16]}, seed=0, device="cpu", **options, **more)
    with torch.no_grad():
        for x in model.policy.parameters():
            x.add_(0.4 * torch.randn(x.shape, generator=torch_stream(1, "weights")))
    return model


@pytest.mark.parametrize("name", MODELS)
def test_their_answer_is_the_action_that_they_predict_and_has_its_gradient(name):
    model = model_of(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        policy = as_policy(model, gymnasium.make(MODELS[name][1]))
    x = torch.randn(6, *policy.observation_space.shape, generator=torch_stream(0, "states"))
    distribution, params = policy.respond(x)
    ours = distribution.to_env(distribution.mode(params)).detach().numpy()
    low, high = getattr(policy.action_space, "low", 0), getattr(policy.action_space, "high", 1)
    if name in ("sac", "td3"):
        ours = low + (high - low) * (ours + 1) / 2
    theirs = policy.predict(x.numpy(), deterministic=True)[0]
    np.testing.assert_allclose(np.clip(ours, low, high), theirs, atol=1e-5)
    leaf = x.double().requires_grad_()
    (gradient,) = torch.autograd.grad(policy.respond(leaf)[1][:, 0].sum(), leaf)
    step = 1e-2 * torch.eye(x.shape[1], dtype=torch.float64)
    with torch.no_grad():
        slopes = [(policy.respond(leaf + d)[1] - policy.respond(leaf - d)[1])[:, 0] / 2e-2 for d in step]
    near = (torch.stack(slopes, -1) - gradient).abs() < 0.02 + 0.02 * gradient.abs()
    assert near.double().mean() > 0.9  # but for kinks
    value = policy.criticise(x, x + 0.1, None, None)
    assert value.shape == (6,)


@pytest.mark.parametrize("frames", [1, 3])
def test_normalised_and_stacked_models_are_attacked_in_the_newest_observation(frames):
    inner = vec_env.VecNormalize(vec_env.DummyVecEnv([CART] * 2), norm_reward=False)
    venv = vec_env.VecFrameStack(inner, frames) if frames > 1 else inner
    venv.reset()
    for _ in range(60):
        venv.step(np.array([0, 1]))
    model = model_of("ppo", venv, n_steps=8, batch_size=8)
    policy = as_policy(model, CART())
    np.testing.assert_allclose(policy.deviations[""], np.sqrt(inner.obs_rms.var + inner.epsilon))
    given = []
    inner_predict = model.predict
    model.predict = lambda observation, **more: (given.append(observation.copy()), inner_predict(observation, **more))[
        1
    ]
    returns(model, CART, 3, perturbation="obs-random:0.2", slots=3)
    attacked, given[:] = given[:], []
    returns(model, CART, 3, slots=3)
    np.testing.assert_allclose(np.abs(attacked[0] - given[0])[:, -4:], 0.2, rtol=1e-3)
    assert (attacked[0][:, :-4] == 0).all()
    report = stress(model, CART, "obs-pgd:0.2,steps=2", episodes=2, points=2)
    assert report.perturbation == "obs-pgd:0.2,unit=normalized,steps=2"


@pytest.mark.filterwarnings("ignore:The model in")
def test_a_model_file_is_attacked_from_the_shell(tmp_path, capsys, monkeypatch):
    from surefoot.cli import main

    monkeypatch.chdir(tmp_path)
    model_of("ppo").save(tmp_path / "model.zip")
    file = ["model.zip", "--env", "CartPole-v1", "--algo", "ppo"]
    main(["evaluate", *file, "--episodes", "3", "--perturb", "obs-fgsm:0.05"])
    assert "CartPole-v1 under obs-fgsm:0.05 · 3 episodes" in capsys.readouterr().out
    main(["stress", *file, "--episodes", "2", "--points", "2", "--perturb", "obs-pgd:0.05"])
    assert "obs-pgd (linf radius in the observation's own units)" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:This")
def test_the_same_numbers_from_python_and_beside_the_plain_ones(tmp_path):
    run = sf.train("ppo", env="CartPole-v1", steps=64, num_envs=2, num_steps=32, run_dir=tmp_path / "run")
    figures = sf.evaluate(run.path, episodes=3, perturb="obs-pgd:0.05,steps=2")
    assert figures["perturb"] == "obs-pgd:0.05,steps=2"
    assert not (run.path / "evaluation.json").exists()
    assert (run.path / "evaluation-obs-pgd-0.05-steps-2.json").exists()
