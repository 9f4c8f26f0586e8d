"""M2TD3: the card's numbers, losses worked out beside it, and its gradients against finite differences."""

from __future__ import annotations

import dataclasses

import gymnasium as gym
import numpy as np
import pytest
import torch

from surefoot.envs.parameter_game import ParameterGame
from surefoot.envs.rrls import UncertaintyBox
from surefoot.loops.networks.nets import Function, Weights
from surefoot.methods.robust.m2td3 import M2TD3
from surefoot.methods.robust.m2td3.candidates import Candidates, moved, redrawn, renewed

GAME = ParameterGame(
    gym.make("Pendulum-v1").unwrapped, UncertaintyBox({"m": (0.5, 2), "l": (1, 2)}, {"m": 1, "l": 1}), "episode"
)
SPACES = GAME.observation_space, GAME.action_space
METHOD = M2TD3(hidden=(8,), candidates=3)
SIZE = 6


def batch() -> dict:
    g = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    seen = [{"state": normal(SIZE, 3), "parameters": normal(SIZE, 2).tanh()} for _ in range(2)]
    return {
        "observation": seen[0], "next_observation": seen[1], "action": normal(SIZE, 3).tanh(), "reward": normal(SIZE),
        "discount": torch.full((SIZE,), 0.99, dtype=torch.float64), "weight": torch.ones(SIZE, dtype=torch.float64),
        "noise": {"target": normal(SIZE, 3)},
    }  # fmt: skip


def weights(**changes) -> Weights:
    nets = METHOD.networks(*SPACES)
    functions = {name: Function(net) for name, net in nets.items()}
    torch.manual_seed(1)
    now = {n: 0.5 * torch.randn(f.size, dtype=torch.float64) for n, f in functions.items()}
    now["chances"] = torch.tensor([0.2, 0.3, 0.5, 1000.0], dtype=torch.float64)
    targets = {n: x + 0.1 for n, x in now.items() if nets[n].target_rate is not None}
    return Weights(functions, {**now, **changes}, targets, now)


def test_probabilities_after_one_step():
    """K = 5 uniform, an episode of 1000 steps: .2008 for the worst, .1998 for the others."""
    after = moved(torch.full((5,), 0.2, dtype=torch.float64), torch.tensor(2), torch.tensor(1000.0))
    torch.testing.assert_close(after, torch.tensor([0.1998, 0.1998, 0.2008, 0.1998, 0.1998], dtype=torch.float64))


def test_which_candidates_are_drawn_anew():
    points = torch.tensor([[0.0, 0.0], [0.5, 0.5], [0.02, -0.02], [-0.9, 0.0]])
    chances = torch.tensor([0.3, 0.04, 0.36, 0.3])
    fresh = redrawn(points, chances, 0.05, 0.05)
    assert fresh.tolist() == [False, True, True, False]
    torch.testing.assert_close(renewed(chances, fresh), torch.full((4,), 0.25))
    assert redrawn(points, chances, 0.03, 0.01).tolist() == [False] * 4
    torch.testing.assert_close(renewed(chances, torch.ones(4, dtype=torch.bool)), torch.full((4,), 0.25))


def test_candidates_are_uniform_in_the_box_at_first():
    torch.manual_seed(0)
    points = Candidates(4000, 2)().detach()
    assert points.abs().max() <= 1 and points.mean(0).abs().max() < 0.03
    assert (points.std(0) - 3**-0.5).abs().max() < 0.02


def test_the_target_is_that_of_smoothed_actions_and_parameters():
    """Worked out from the card: the parameters are those of the observation after the step."""
    w, given = weights(), batch()
    noise = (0.2 * given["noise"]["target"]).clamp(-0.5, 0.5)
    state, omega = given["next_observation"]["state"], given["next_observation"]["parameters"]
    action = (w.target("actor", state) + noise[:, :1]).clamp(-1, 1)
    following = w.target("critic", state, torch.cat([action, (omega + noise[:, 1:]).clamp(-1, 1)], -1)).min(0).values
    target = given["reward"] + 0.99 * following
    values = w("critic", given["observation"]["state"], torch.cat([given["action"][:, :1], omega], -1))
    loss, _ = METHOD.critic_loss(w, given)
    torch.testing.assert_close(loss, ((values - target) ** 2).mean(1).sum())


def test_actor_and_worst_candidate_play_on_the_same_value():
    w, given = weights(), batch()
    state = given["observation"]["state"]
    points, action = w("candidates"), w("actor", state)
    each = torch.stack([w("critic", state, torch.cat([action, p.expand(SIZE, 2)], -1))[0].mean() for p in points])
    torch.testing.assert_close(METHOD.actor_loss(w, given)[0], -each.min())
    torch.testing.assert_close(METHOD.candidates_loss(w, given)[0], each.min())
    chances, metrics = METHOD.chances_rule(w, given)
    wanted = w.now["chances"][:-1] * 0.999
    wanted[each.argmin()] += 0.001
    torch.testing.assert_close(chances, torch.cat([wanted, torch.tensor([1000.0], dtype=torch.float64)]))
    assert metrics["largest_chance"] == wanted.max()


@pytest.mark.parametrize("name", ["critic", "actor", "candidates"])
def test_gradients_against_finite_differences(name):
    start, given = weights(), batch()
    loss = METHOD.networks(*SPACES)[name].loss
    vector = start.now[name].clone().requires_grad_()
    assert loss is not None
    value = loss(weights(**{name: vector}), given)[0]
    (gradient,) = torch.autograd.grad(value, vector)
    direction = torch.randn_like(gradient)
    ends = [loss(weights(**{name: start.now[name] + x * direction}), given)[0] for x in (1e-6, -1e-6)]
    torch.testing.assert_close(gradient @ direction, (ends[0] - ends[1]) / 2e-6, rtol=1e-6, atol=1e-8)
    if name == "candidates":
        assert (gradient.view(3, 2).abs().sum(1) > 0).sum() == 1  # only the worst one moves


def test_an_episodes_parameters_are_a_candidates_plus_noise_that_shrinks():
    w, count = weights(), 4000
    g = torch.Generator().manual_seed(0)
    noise = {k: x.double() for k, x in METHOD.exploration(count, SPACES[1], g).items()}
    observation = {"state": torch.zeros(count, 3, dtype=torch.float64)}
    points = w("candidates")
    quiet = dataclasses.replace(METHOD, spread=(1.0, 0.0))
    moves = quiet.play(w, observation, noise, torch.tensor(1.0))[:, 1:]
    shares = [(moves == p).all(1).double().mean().item() for p in points]
    np.testing.assert_allclose(shares, [0.2, 0.3, 0.5], atol=0.03)
    late = METHOD.play(w, observation, noise, torch.tensor(1.0))[:, 1:]
    torch.testing.assert_close(late, (moves + 0.1 * noise["action"][:, 1:]).clamp(-1, 1))
