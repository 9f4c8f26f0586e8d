"""Acting rules: knobs, files, gradients of critics while acting, attacks through them, exports, and refusals."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch
from micro_data import walk_data

import surefoot as sf
from surefoot.errors import UsageError
from surefoot.hyperparameters import hyperparameter
from surefoot.loops.common.run import make_learner
from surefoot.methods.offline.baselines import TD3BC
from surefoot.models import acting
from surefoot.models.acting import Rule
from surefoot.models.agent import Agent, Network
from surefoot.models.functional import initial
from surefoot.seeding import torch_stream

SMALL = {"batch_size": 16, "log_every": 20, "hidden": (16,)}


@dataclass(frozen=True)
class Climbing(Rule):
    """A step up the first critic."""

    asks: ClassVar[tuple[str, ...]] = ("critic",)
    climb: float = hyperparameter(0.1, low=0, help="Step.")

    def __call__(self, ask, observation, said):
        action = said.action()
        slope = torch.func.grad(lambda a: ask("critic", observation, a)[0].sum())(action)
        return (action + self.climb * slope / slope.norm(dim=-1, keepdim=True).clamp(min=1e-6)).clamp(-1, 1)


@dataclass(frozen=True)
class Halved(Rule):
    """A share of the action."""

    share: float = hyperparameter(0.5, low=0, high=1, help="Share.")

    def __call__(self, ask, observation, said):
        return self.share * said.action()


@pytest.fixture(autouse=True)
def known(monkeypatch):
    for kind in (Climbing, Halved):
        monkeypatch.setitem(acting.KINDS, kind.__name__.lower(), f"{kind.__module__}:{kind.__qualname__}")


@pytest.fixture
def agent() -> Agent:
    run = make_learner(TD3BC(**SMALL), "", [0], 1000, data=walk_data())
    run.iterate()
    return run.agent()


SEEN = walk_data().observation[:6]


def test_a_rule_may_take_gradients_and_its_knobs_turn(agent, tmp_path):
    plain = agent.predict(SEEN, deterministic=True)[0]
    ruled = agent.ruled(Climbing(0.3))
    moved = ruled.predict(SEEN, deterministic=True)[0]
    x = torch.from_numpy(SEEN)
    assert (ruled.judge(x, torch.from_numpy(moved))[0] > agent.judge(x, torch.from_numpy(plain))[0]).all()
    assert ruled.knobs == {"climb": 0.3} and agent.knobs == {}
    again = sf.load(ruled.save(tmp_path))
    np.testing.assert_array_equal(again.predict(SEEN, deterministic=True)[0], moved)
    np.testing.assert_array_equal(again.acting(climb=0.0).predict(SEEN, deterministic=True)[0], plain)
    np.testing.assert_array_equal(again.ruled().predict(SEEN, deterministic=True)[0], plain)
    assert json.loads((tmp_path / "agent.json").read_text())["acting"] == [{"rule": "climbing", "climb": 0.3}]
    assert "acting" not in again.ruled().facts
    one, state = ruled.predict(SEEN[0], deterministic=True)
    np.testing.assert_allclose(one, moved[0], atol=1e-6)
    assert state is None


def test_rules_follow_one_another(agent):
    ruled = agent.ruled(Climbing(0.3), Halved())
    first = agent.ruled(Climbing(0.3)).predict(SEEN, deterministic=True)[0]
    np.testing.assert_allclose(ruled.predict(SEEN, deterministic=True)[0], first / 2, atol=1e-6)
    np.testing.assert_allclose(ruled.acting(share=1.0).predict(SEEN, deterministic=True)[0], first, atol=1e-6)


def test_wrong_knobs_and_damaged_files_are_refused(agent, tmp_path):
    with pytest.raises(UsageError, match=r"guidance=3 is not allowed: this agent .* has no acting rule"):
        agent.acting(guidance=3)
    ruled = agent.ruled(Climbing())
    with pytest.raises(UsageError, match=r"no such knob. Known: climb"):
        ruled.acting(guidance=3)
    with pytest.raises(UsageError, match=r"Climbing: climb=-1 is not allowed"):
        ruled.acting(climb=-1)
    place = ruled.save(tmp_path) / "agent.json"
    for wrong, said in (
        ([{"rule": "os:system"}], "rule='os:system' is not known"),
        ({"rule": "climbing"}, "acting=.*is not allowed"),
        ([{"rule": "climbing", "climb": "x"}], "climb='x' is not allowed"),
        ([{"rule": "climbing", "up": 1}], "no hyperparameter 'up'"),
    ):
        place.write_text(json.dumps({**json.loads(place.read_text()), "acting": wrong}))
        with pytest.raises(UsageError, match=said):
            sf.load(tmp_path)


def test_an_agent_that_cannot_follow_a_rule_is_refused():
    def made(space: gym.Space) -> Agent:
        seen, net = gym.spaces.Box(-1, 1, (2,), np.float32), Network(hidden=(4,))
        return Agent(net, seen, space, initial(lambda: net.make(seen, space), torch_stream(0, "w")), {})

    with pytest.raises(UsageError, match="asks networks that the agent does not keep"):
        made(gym.spaces.Box(-1, 1, (1,))).ruled(Climbing())
    with pytest.raises(UsageError, match="continuous actions within bounds"):
        made(gym.spaces.Discrete(2)).ruled(Halved())
    with pytest.raises(UsageError, match="continuous actions within bounds"):
        made(gym.spaces.Box(-np.inf, np.inf, (1,))).ruled(Halved())


def test_a_gaussian_of_the_environment_s_units_is_clipped_into_its_box_and_keeps_its_noise():
    seen, space, net = gym.spaces.Box(-1, 1, (2,), np.float32), gym.spaces.Box(-1, 3, (1,), np.float32), Network((4,))
    agent = Agent(net, seen, space, initial(lambda: net.make(seen, space), torch_stream(0, "w")), {})
    same = agent.ruled(Halved(1.0))
    np.testing.assert_allclose(*(a.predict(SEEN, deterministic=True)[0] for a in (agent, same)), atol=1e-6)
    torch.manual_seed(0)
    drawn = agent.predict(SEEN)[0]
    torch.manual_seed(0)
    np.testing.assert_allclose(same.predict(SEEN)[0], drawn, atol=1e-6)


def test_attacks_go_through_the_rule(agent):
    ruled = agent.ruled(Halved(0.0))
    x = torch.from_numpy(SEEN).requires_grad_()
    moved = agent.ruled(Climbing(0.3)).respond(x)[1].square().sum()
    assert torch.autograd.grad(moved, x)[0].abs().sum() > 0
    assert torch.equal(ruled.respond(x)[1], torch.zeros(6, 2))
    x64 = x.detach().double()
    own = agent.ruled(Climbing(0.3))
    assert own.criticise(x64, x64, None, None).shape == (6,)


@pytest.mark.parametrize("suffix", [".pt", pytest.param(".onnx", marks=pytest.mark.slow)])
def test_a_rule_with_gradients_is_exported(agent, suffix, tmp_path):
    found = sf.export(agent.ruled(Climbing(0.3), Halved()), tmp_path / f"policy{suffix}", states=40)
    assert found.differences.action < 1e-4


def test_what_no_file_can_hold_is_not_exported(agent, monkeypatch, tmp_path):
    monkeypatch.setattr(Halved, "exported", False)
    with pytest.raises(UsageError, match="its rule Halved draws random numbers or takes"):
        sf.export(agent.ruled(Halved()), tmp_path / "policy.pt")
