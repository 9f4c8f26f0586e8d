"""An adversary's control over perturbations: what it sets is what MuJoCo uses, and no budget is exceeded."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.envs import make, make_single
from surefoot.envs.adversary_game import AdversaryGame, adversary_of, in_adversary_game, make_adversary_game
from surefoot.errors import UsageError
from surefoot.models.agent import Agent, Network
from surefoot.perturbations import Driven, parse, several

RNG = np.random.default_rng
HOPPER = make_single("Hopper-v5")
moves = st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3)


class Slide(gymnasium.Env):
    """A block of 2 kg that slides along x and z without gravity, friction or damping; a step is 4 of 0.005 s."""

    XML = """<mujoco><option timestep="0.005" gravity="0 0 0" integrator="Euler"/><worldbody><body name="block">
    <joint type="slide" axis="1 0 0"/><joint type="slide" axis="0 0 1"/><geom type="box" size=".1 .1 .1" mass="2"/>
    </body></worldbody></mujoco>"""
    observation_space, action_space = spaces.Box(-np.inf, np.inf, (4,)), spaces.Box(-1, 1, (1,))

    def __init__(self):
        import mujoco

        self.mujoco, self.model = mujoco, mujoco.MjModel.from_xml_string(self.XML)
        self.data = mujoco.MjData(self.model)

    def _seen(self):
        return np.concatenate([self.data.qpos, self.data.qvel]).astype(np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.mujoco.mj_resetData(self.model, self.data)
        return self._seen(), {}

    def step(self, action):
        self.mujoco.mj_step(self.model, self.data, nstep=4)
        return self._seen(), -float(self.data.qpos[0]), False, False, {}


def game(perturbation: str, env=Slide, fraction: float = 1.0) -> AdversaryGame:
    made = make_adversary_game(env, {}, (), perturbation, fraction)
    assert isinstance(made, AdversaryGame)
    return made


# --- forces ----------------------------------------------------------------------------------------------------------


def test_a_block_slides_as_the_force_says():
    """n steps of h under F on m from rest, semi-implicit: v = n·h·F/m, x = h²·F/m·n(n + 1)/2; then it coasts."""
    env, h, m = game("force:3,body=block,along=xz"), 0.005, 2.0
    env.reset(seed=0)
    for _ in range(5):
        seen, *_ = env.step(np.array([0.0, 1.0, -0.5], np.float32))
    n = 20
    for place, force in ((0, 3.0), (1, -1.5)):
        assert seen[place] == pytest.approx(h * h * force / m * n * (n + 1) / 2, rel=1e-5)
        assert seen[2 + place] == pytest.approx(n * h * force / m, rel=1e-5)
    after, *_ = env.step(np.zeros(3, np.float32))
    assert after[2:].tolist() == seen[2:].tolist(), "no force is left from the step before"


def test_a_reset_restores_and_the_fraction_scales():
    env = game("force:4,body=block", fraction=0.25)
    env.reset(seed=0)
    env.step(np.array([0.0, 1.0, 1.0], np.float32))
    assert env.unwrapped.data.xfrc_applied[1, [0, 2]].tolist() == [1.0, 1.0]
    still, _ = env.reset()
    assert not still.any() and not env.unwrapped.data.xfrc_applied.any()
    env.step(np.array([0.0, 1.0, 1.0], np.float32))
    env.close()
    assert not env.unwrapped.data.xfrc_applied.any()


@settings(max_examples=50)
@given(moves, st.floats(0, 10))
def test_no_component_of_a_force_exceeds_its_bound(move, strength):
    control = parse(f"force:{strength},body=foot,along=xyz").control(HOPPER)
    control.act(np.zeros(3), np.array(move), RNG(0))
    data = HOPPER.unwrapped.data
    assert np.abs(data.xfrc_applied[4, :3]).max() <= strength and not data.xfrc_applied[[0, 1, 2, 3]].any()
    control.undo()
    assert not data.xfrc_applied.any()


@pytest.mark.parametrize(
    ("env", "bodies", "size"),
    [
        ("InvertedPendulum-v5", [2], 2), ("HalfCheetah-v5", [1, 4, 7], 6), ("Swimmer-v5", [1], 3), ("Hopper-v5", [4],
        2), ("Walker2d-v5", [4, 7], 4), ("Ant-v5", [1, 2, 5], 9), ("HumanoidStandup-v5", [1, 4, 9], 9),
    ],
)  # fmt: skip
def test_the_bodies_of_the_papers(env, bodies, size):
    made = game("force", env)
    made.reset(seed=0)
    own = made.action_space.agent.shape[0]
    made.step(np.concatenate([np.zeros(own), np.ones(size)]).astype(np.float32))
    assert sorted({*np.nonzero(made.unwrapped.data.xfrc_applied)[0]}) == bodies
    assert made.action_space.adversary.shape == (size,) and np.abs(made.unwrapped.data.xfrc_applied).max() == 5.0


def test_parallel_environments_do_not_leak():
    """One is pushed; the other goes on as if it were alone."""
    factory, options = in_adversary_game(Slide, "force:3,body=block", 1.0, {})
    envs = make(factory, 2, seed=[0, 1], **options)
    envs.reset()
    for _ in range(3):
        seen, *_ = envs.step(np.array([[0, 1, 0], [0, 0, 0]], np.float32))
    assert seen[0, 0] > 0 and not seen[1].any()
    envs.close()


# --- actions ---------------------------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(st.lists(st.floats(-1, 1), min_size=3, max_size=3), moves, st.floats(0, 1), st.sampled_from(["linf", "l2"]))
def test_an_added_action_stays_within_the_budget_and_the_box(action, move, strength, law):
    action = np.array(action, np.float32)
    executed = parse(f"action-noise:{strength},law={law}").control(HOPPER).act(action, np.array(move), RNG(0))
    change = executed.astype(np.float64) - action
    size = np.linalg.norm(change) if law == "l2" else np.abs(change).max()
    assert size <= strength * (1 + 1e-12) and np.abs(executed).max() <= 1 and executed.dtype == np.float32


@settings(max_examples=30)
@given(st.lists(st.floats(-1, 1), min_size=3, max_size=3), moves, st.floats(0, 1))
def test_a_mixed_action_is_between_both(action, move, strength):
    action = np.array(action, np.float64)
    other = np.clip(move, -1, 1)
    executed = parse(f"action-mix:{strength}").control(HOPPER).act(action, np.array(move), RNG(0))
    np.testing.assert_allclose(executed, (1 - strength) * action + strength * other, atol=1e-12)


def test_mixing_none_is_the_environment_and_all_ignores_the_agent():
    action, move = np.array([0.3, -0.2, 1.0]), np.array([1.0, -1.0, 0.5])
    for name in ("action-mix", "action-random"):
        none, all_ = (parse(f"{name}:{x}").control(HOPPER).act(action, move, RNG(0)) for x in (0, 1))
        assert none.tolist() == action.tolist() and all_.tolist() == move.tolist()


def test_a_probabilistic_mix_is_the_adversarys_with_its_probability():
    control, rng = parse("action-random:0.3").control(make_single("CartPole-v1")), RNG(0)
    taken = [control.act(0, np.array([-1.0, 1.0]), rng) for _ in range(4000)]
    assert control.size == 2 and np.mean(taken) == pytest.approx(0.3, abs=0.03)


# --- parameters ------------------------------------------------------------------------------------------------------


def test_parameters_go_from_bound_to_bound_and_back_at_the_reset():
    env = game("param:m=0.5..2,l=1..3", "Pendulum-v1")
    env.reset(seed=0)
    env.step(np.array([0.0, -1.0, 0.5], np.float32))
    assert (env.unwrapped.m, env.unwrapped.l) == (0.5, 2.5)
    env.reset()
    assert (env.unwrapped.m, env.unwrapped.l) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("text", "env", "words"),
    [
        ("observation-noise:0.1", "Hopper-v5", "leaves an adversary nothing to choose"),
        ("action-noise:0.1", "Hopper-v5", "law=linf"),
        ("param:mass=0.5..2", "Hopper-v5", "not mass"),
        ("param:torso.mass=2", "Hopper-v5", "needs a range"),
        ("force:3,body=tail", "Hopper-v5", "no body 'tail'"),
        ("force", "Pendulum-v1", "name them: force:3,body=torso"),
        ("force:3", "Pendulum-v1", "needs a MuJoCo environment"),
        ("force:3 + action-mix:0.1", "Hopper-v5", "controls one perturbation"),
        ("action-mix:0.1", "CartPole-v1", "needs a Box"),
    ],
)
def test_what_an_adversary_cannot_control_is_refused(text, env, words):
    with pytest.raises(UsageError, match=words):
        made = make_single(env)
        adversary_of(text, env).control(made)


# --- a trained adversary in a perturbation ---------------------------------------------------------------------------


def adversary(folder, moves=2, seen=4):
    """The folder of an agent whose most likely move is about (1, …)."""
    network = Network(hidden=())
    boxes = spaces.Box(-np.inf, np.inf, (seen,)), spaces.Box(-1, 1, (moves,))
    flat = Agent(network, *boxes, _zeros(network, boxes), {})
    flat.flat.bind(flat.vector)
    with_bias = flat.flat.unflatten(flat.vector)
    for name, value in with_bias.items():
        if name.startswith("actor") and value.shape == (moves,) and "log_std" not in name:
            value += 3.0
    flat.save(folder)
    return str(folder)


def _zeros(network, boxes):
    import torch

    return torch.zeros(sum(p.numel() for p in network.make(*boxes).parameters()))


def test_a_driven_force_is_applied_at_every_step_and_undone(tmp_path):
    attack = parse(f"force:3,body=block,adversary={adversary(tmp_path / 'a')}")
    assert isinstance(attack, Driven) and parse(str(attack)) == attack and attack.channels == {"dynamics"}
    env = attack.wrap(Slide())
    env.reset(seed=0)
    env.step(np.zeros(1, np.float32))
    data = env.unwrapped.data
    assert data.xfrc_applied[1, [0, 2]].tolist() == [3.0, 3.0]
    assert [c.label for c in attack.grid(3)] == ["force=0", "force=1.5", "force=3"]
    env.restore()
    assert not data.xfrc_applied.any()


def test_an_adversary_of_another_game_is_refused(tmp_path):
    folder = adversary(tmp_path / "a")
    with pytest.raises(UsageError, match="moves in"):
        parse(f"force:3,body=block,along=x,adversary={folder}").wrap(Slide())
    with pytest.raises(UsageError, match="sees observations of shape"):
        parse(f"force:3,adversary={folder}").wrap(make_single("Hopper-v5"))
    with pytest.raises(UsageError, match="names no folder"):
        parse("force:3,adversary=")


def test_a_list_of_perturbations_is_cut_before_names():
    assert several("obs-pgd:0.05,force:3,body=foot, rrls:2d,friction_mode=all_geoms") == (
        "obs-pgd:0.05", "force:3,body=foot", "rrls:2d,friction_mode=all_geoms",
    )  # fmt: skip
