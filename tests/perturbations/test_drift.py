"""Perturbations that drift: their two limits, the card's numbers, and what they do in episodes."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from surefoot.envs import make_single
from surefoot.errors import UsageError
from surefoot.evaluate.adversary import adversary_env
from surefoot.evaluate.attacked import Attacked
from surefoot.evaluate.rollout import returns
from surefoot.perturbations import parse
from surefoot.perturbations.ascent import followed
from surefoot.perturbations.attacks import Target
from surefoot.perturbations.drift import drifted
from surefoot.seeding import numpy_stream

BOX = spaces.Box(-np.inf, np.inf, (3,), np.float64)
W = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)


class Linear:
    """The action wᵀs."""

    def respond(self, observation, state, starts):
        return (observation.double() @ W).unsqueeze(-1)

    def criticise(self, observation, seen, state, starts):
        return self.respond(seen, None, None).squeeze(-1)

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return (observation @ W.numpy())[:, None], state


class Still(gymnasium.Env):
    """Twenty times the state 0; the reward is what the action is."""

    observation_space = BOX
    action_space = spaces.Box(-99, 99, (1,), np.float64)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return np.zeros(3), {}

    def step(self, action):
        self.time += 1
        return np.zeros(3), float(action[0]), False, self.time == 20, {}


def test_the_card_s_numbers():
    """ε = 1, ε̄ = 0.2, from 0.9: check 1."""
    up, down = drifted(np.array([0.9]), np.array([1.0]), 1.0, 0.2), drifted(np.array([0.9]), np.array([-1.0]), 1.0, 0.2)
    assert (up.item(), down.item()) == (1.0, pytest.approx(0.7))
    for wanted, reached in ((-1.0, 0.7), (0.95, 0.95), (1.0, 1.0)):
        there = followed(torch.tensor([[0.9]]), torch.tensor([[wanted]]), torch.tensor([[0.2]]), "linf")
        assert there.item() == pytest.approx(reached)


def test_a_rate_of_two_is_no_limit_and_of_zero_no_attack():
    for command in (-1.0, -0.3, 0.4, 1.0):
        start = np.array([-0.5])
        assert drifted(start, np.array([command]), 0.5, 0.0) == start
        assert drifted(start, np.array([1.0]), 0.5, 2.0) == 0.5


@given(st.integers(0, 10**6), st.floats(1e-3, 10), st.floats(0, 3), st.sampled_from(["linf", "l2"]))
def test_neither_limit_is_ever_exceeded(seed, budget, rate, law):
    rng, size = np.random.default_rng(seed), torch.tensor([[budget]], dtype=torch.float64)
    norm = (lambda x: np.abs(x).max()) if law == "linf" else np.linalg.norm
    drifting, following = np.zeros(3), torch.zeros(1, 3, dtype=torch.float64)
    for _ in range(6):
        after = drifted(drifting, 3 * rng.standard_normal(3), budget, rate)
        assert np.abs(after).max() <= budget and np.abs(after - drifting).max() <= rate * budget * (1 + 1e-12)
        wanted = torch.from_numpy(rng.uniform(-1, 1, (1, 3)))
        wanted = budget * wanted / max(norm(wanted.numpy()), 1e-9)
        reached = followed(following, wanted, rate * size, law)
        assert norm(reached.numpy()) <= budget * (1 + 1e-12)
        assert norm((reached - following).numpy()) <= rate * budget * (1 + 1e-9) + 1e-15
        drifting, following = after, reached


@given(
    name=st.sampled_from(["obs-random", "obs-pgd", "obs-mad"]),
    law=st.sampled_from(["linf", "l2"]),
    strength=st.floats(1e-3, 5),
    rate=st.floats(0, 2.5),
    seed=st.integers(0, 10**6),
)
def test_attacks_keep_both_limits_through_episodes(name, law, strength, rate, seed):
    attacked = Attacked(Target(Linear(), BOX, Still.action_space), 2)
    text = f"{name}:{strength!r},{law},unit=2/1/0.5,rate={rate!r}"
    norm = (lambda x: np.abs(x).max(-1)) if law == "linf" else (lambda x: np.linalg.norm(x, axis=-1))
    last = np.zeros((2, 3))
    for slot in (0, 1):
        attacked.begin(slot, parse(text), seed + slot)
    for time in range(6):
        if time == 3:  # the second slot's episode ends
            attacked.begin(1, parse(text), seed + 2)
            last[1] = 0.0
        clean = np.random.default_rng(seed + time).normal(size=(2, 3))
        change = (attacked(clean, None, np.zeros(2, bool)) - clean) / [2, 1, 0.5]
        slack = 1e-12 + 1e-9 * strength
        assert (norm(change) <= strength + slack).all()
        assert (norm(change - last) <= rate * strength + slack).all()
        last = change


def test_without_a_limit_of_the_rate_the_attack_is_the_same_to_the_bit():
    clean = np.random.default_rng(0).normal(size=(4, 3))

    def seen(text):
        attacked = Attacked(Target(Linear(), BOX, Still.action_space), 4)
        for slot in range(4):
            attacked.begin(slot, parse(text), slot)
        return [attacked(clean, None, np.zeros(4, bool)) for _ in range(3)]

    for free, limited in zip(seen("obs-pgd:0.3"), seen("obs-pgd:0.3,rate=2")):
        np.testing.assert_allclose(limited, free, rtol=0, atol=1e-15)


def test_an_attack_arrives_after_one_over_rate_steps():
    """A linear policy loses 3.5 times what each component has drifted: 0.02, 0.04, … up to 0.1."""
    attacks = (f"obs-critic:0.1,unit=raw{more}" for more in ("", ",rate=0.2"))
    free, slow = (returns(Linear(), Still, 2, perturbation=attack) for attack in attacks)
    np.testing.assert_allclose(free, -20 * 0.35)
    np.testing.assert_allclose(slow, -0.35 * (0.2 + 0.4 + 0.6 + 0.8 + 16))


def test_a_learned_adversary_sees_what_it_did():
    env = adversary_env(Linear(), Still, "obs-sa-rl:0.1,unit=raw,rate=0.2")()
    assert env.observation_space.shape == (6,)
    seen, _ = env.reset(seed=0)
    np.testing.assert_array_equal(seen, np.zeros(6))
    for time in range(7):
        seen, reward, *_ = env.step(np.array([1.0, -1.0, 1.0]))
        reached = min(0.02 * (time + 1), 0.1)
        assert reward == pytest.approx(-3.5 * reached)
        np.testing.assert_allclose(seen, [0, 0, 0, reached, -reached, reached], atol=1e-7)
    np.testing.assert_array_equal(env.reset()[0], np.zeros(6))


@pytest.mark.parametrize("text", ["observation-drift:0.4,rate=0.1", "action-drift:0.5,rate=0.1"])
def test_random_drifts_keep_both_limits_and_start_anew(text):
    perturbation, rng, space = parse(text), numpy_stream(0, "drift"), spaces.Box(-2, 2, (2,), np.float64)
    zero, changes = np.zeros(2), []
    for _ in range(2):
        memory, last = [], np.zeros(2)
        for _ in range(200):
            if perturbation.channel == "observation":
                change = perturbation.observe(zero, space, rng, memory)
            else:
                change = perturbation.act(zero, space, rng, memory) / 2  # in halves of the range
            assert (np.abs(change - last) <= 0.1 * perturbation.fixed + 1e-12).all()
            changes.append(np.abs(change).max())
            last = change
    assert max(changes) <= perturbation.fixed and max(changes) > 0.8 * perturbation.fixed


@pytest.mark.parametrize(
    ("text", "env"), [("action-drift:0.1", "CartPole-v1"), ("observation-drift:0.1", "FrozenLake-v1")]
)
def test_what_cannot_drift_is_refused(text, env):
    with pytest.raises(UsageError, match="Box"):
        parse(text).wrap(make_single(env))


@pytest.mark.parametrize("text", ["obs-pgd:0.1,rate=-1", "observation-drift:0.1,rate=-0.5"])
def test_a_negative_rate_is_refused(text):
    with pytest.raises(UsageError, match="rate"):
        parse(text)
