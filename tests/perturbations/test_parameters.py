"""Parameters: MuJoCo against physics by hand, constructors, what an environment does not keep, what is not offered."""

from __future__ import annotations

import functools
import warnings

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium import spaces

from surefoot.envs import make_single
from surefoot.envs.constructed import Constructed, constructor_numbers
from surefoot.envs.perturbed import settable
from surefoot.errors import UsageError
from surefoot.evaluate.rollout import returns
from surefoot.perturbations import parameters, parse, unwrap

XML = """
<mujoco><option timestep="0.001" gravity="0 0 {gravity}" cone="elliptic"/>
<worldbody>
  <geom name="floor" type="plane" size="50 50 1" friction="0.4 0.005 0.0001"/>
  <body name="ball" pos="0 0 9"><joint name="drop" type="slide" axis="0 0 1"/>
    <geom size="0.1" mass="1" contype="0" conaffinity="0"/></body>
  <body name="cart" pos="0 3 1"><joint name="rail" type="slide" axis="1 0 0" damping="{damping}"/>
    <geom name="box" type="box" size="0.1 0.1 0.1" mass="{cart}" contype="0" conaffinity="0"/>
    <body name="pole"><joint name="hinge" type="hinge" axis="0 1 0"/>
      <geom type="capsule" fromto="0 0 0 0 0 0.6" size="0.02" mass="{pole}" contype="0" conaffinity="0"/></body></body>
  <body name="block" pos="0 -3 0.1"><freejoint/>
    <geom name="sole" type="box" size="0.3 0.3 0.1" mass="2" friction="0.4 0.005 0.0001"/></body>
</worldbody>
<actuator><motor name="push" joint="rail" gear="2"/></actuator></mujoco>"""


def compiled(gravity: float = -9.81, damping: float = 0.5, cart: float = 2.0, pole: float = 0.25):
    return mujoco.MjModel.from_xml_string(XML.format(gravity=gravity, damping=damping, cart=cart, pole=pole))


class Bench(gymnasium.Env):
    """A ball that falls, a cart with a pole that is pushed along a rail, a block that slides on the floor."""

    observation_space, action_space = spaces.Box(-np.inf, np.inf, (3,)), spaces.Box(-10, 10, (1,))

    def __init__(self):
        self.model = compiled()
        self.data = mujoco.MjData(self.model)

    def reset(self, *, seed=None, options=None):
        mujoco.mj_resetData(self.model, self.data)
        self.data.qvel[-6] = 3.0  # of the block, along x
        return np.zeros(3, np.float32), {}

    def step(self, action):
        self.data.ctrl[:] = action
        mujoco.mj_step(self.model, self.data)
        ball, cart = self.data.qacc[:2]
        return np.array([ball, cart, self.data.qvel[-6]]), 0.0, False, False, {}


def measured(text: str, push: float = 1.0, steps: int = 1) -> np.ndarray:
    """Acceleration of ball and cart, and the block's speed, after some steps."""
    env = parse(text).wrap(Bench())
    env.reset(seed=0)
    for _ in range(steps):
        seen = env.step(np.array([push]))[0]
    return seen


def test_the_named_and_the_common_parameters_are_offered():
    known = parameters(Bench())
    expected = {"gravity": 9.81, "mass": 1, "friction": 1, "damping": 1, "gear": 1, "ball.mass": 1, "cart.mass": 2}
    expected |= {"floor.friction": 0.4, "rail.damping": 0.5, "push.gear": 2, "drop.damping": 0, "pole.mass": 0.25}
    assert {name: known[name] for name in expected} == expected
    assert "world.mass" not in known


@pytest.mark.parametrize(("text", "ball"), [("gravity=3", -3.0), ("gravity=-2", 2.0), ("gravity=0", 0.0)])
def test_gravity_is_what_a_free_fall_shows(text, ball):
    assert measured(f"param:{text}")[0] == pytest.approx(ball, abs=1e-9)


@pytest.mark.parametrize(
    ("text", "mass", "gear"),
    [("cart.mass=5", 5.25, 2), ("mass=3", 6.75, 2), ("mass=2,cart.mass=1", 1.5, 2), ("push.gear=7", 2.25, 7)]
    + [("gear=0.5", 2.25, 1), ("pole.mass=1.5", 3.5, 2), ("gear=0.5,mass=2", 4.5, 1)],
)
def test_the_cart_moves_off_as_newton_says(text, mass, gear):
    """From rest, with the pole upright: (M + m) a + m c ϕ'' = F and m c a + (I + m c²) ϕ'' = 0, solved for a."""
    pole = {"pole.mass=1.5": 1.5}.get(text, 0.25) * (3 if text == "mass=3" else 2 if "mass=2" in text else 1)
    centre, radius, length = 0.3, 0.02, 0.6
    cylinder, cap = np.pi * radius**2 * length, 4 / 3 * np.pi * radius**3
    share = cylinder / (cylinder + cap)
    about = pole * share * (length**2 / 12 + radius**2 / 4)  # of a capsule about its centre
    about += pole * (1 - share) * (2 / 5 * radius**2 + length**2 / 4 + 3 / 8 * length * radius)
    expected = gear / (mass - (pole * centre) ** 2 / (about + pole * centre**2))
    assert measured(f"param:{text}")[1] == pytest.approx(expected, rel=2e-3)


def test_damping_brakes_in_proportion_to_speed():
    plain, braked = measured("param:damping=1", 0.0)[1], 0.0
    assert plain == pytest.approx(0, abs=1e-9)
    for text, damping in (("damping=6", 3.0), ("rail.damping=4", 4.0)):
        env = parse(f"param:{text}").wrap(Bench())
        env.reset(seed=0)
        inner = env.unwrapped
        mujoco.mj_forward(inner.model, inner.data)
        inner.data.qvel[1] = 2.0
        mujoco.mj_forward(inner.model, inner.data)
        assert inner.data.qfrc_passive[1] == pytest.approx(-damping * 2.0)
        braked = inner.data.qacc[1]
    assert braked < 0


def test_a_block_slides_by_friction_times_gravity():
    for factor in (0.5, 1.0, 1.5):
        speed = measured(f"param:friction={factor}", steps=200)[2]
        assert speed == pytest.approx(3 - 0.4 * factor * 9.81 * 0.2, abs=0.03), factor
    assert measured("param:friction=1,gravity=4", steps=200)[2] == pytest.approx(3 - 0.4 * 4 * 0.2, abs=0.03)
    assert measured("param:sole.friction=0.9", steps=200)[2] == pytest.approx(3 - 0.9 * 9.81 * 0.2, abs=0.05)


def arrays(model) -> dict[str, bytes]:
    found = {name: getattr(model, name, None) for name in dir(model)}
    return {k: v.tobytes() for k, v in found.items() if isinstance(v, np.ndarray)} | {"g": model.opt.gravity.tobytes()}


def test_what_mujoco_derives_is_what_it_derives_of_a_model_made_so():
    """Inertias in proportion to masses, as for a body of another density."""
    env = parse("param:cart.mass=5,pole.mass=0.75,rail.damping=2,gravity=3").wrap(Bench())
    env.reset(seed=0)
    mine, made = env.unwrapped.model, compiled(-3, 2, 5, 0.75)
    for name in ("body_mass", "body_inertia", "body_subtreemass", "body_invweight0", "dof_invweight0", "dof_M0"):
        np.testing.assert_allclose(getattr(mine, name), getattr(made, name), rtol=1e-9, err_msg=name)
    np.testing.assert_allclose(mine.actuator_acc0, made.actuator_acc0, rtol=1e-9)
    assert not np.allclose(mine.dof_invweight0, compiled().dof_invweight0)


EVERYWHERE = "param:mass=0.5..2,friction=2,gear=0.7,gravity=3..5"


@pytest.mark.parametrize("name", ["Reacher-v5", "Swimmer-v5", "Pusher-v5", "Hopper-v5", "rrls/Hopper-v5", "Ant-v5"])
def test_any_mujoco_task_is_reached_and_given_back_to_the_bit(name):
    single, other = make_single(name), make_single(name)
    for env in (single, other):
        env.reset(seed=0)
    before, total = arrays(single.unwrapped.model), single.unwrapped.model.body_mass.sum()
    env = parse(EVERYWHERE).wrap(single)
    for _ in range(3):
        factor = float(env.reset(seed=1)[1]["perturbation"].split("mass=")[1].split(",")[0])
        model = single.unwrapped.model
        assert model.body_mass.sum() == pytest.approx(factor * total)
        assert model.body_subtreemass[0] == pytest.approx(factor * total)
        assert 3 <= -model.opt.gravity[2] <= 5
    assert arrays(other.unwrapped.model) == before, "another environment is as it was"
    assert arrays(model) != before
    assert unwrap(env) is single and arrays(model) == before


def test_neutral_factors_change_no_bit():
    single = make_single("Pusher-v5")
    before = arrays(single.unwrapped.model)
    parse("param:mass=1,friction=1,damping=1,gear=1,gravity=0").wrap(single).reset(seed=0)
    assert arrays(single.unwrapped.model) == before


@pytest.mark.parametrize("text", ["cart.mass=0", "mass=-1", "friction=-0.1", "rail.damping=-1"])
def test_impossible_physics_is_refused(text):
    env = Bench()
    before = arrays(env.model)
    with pytest.raises(UsageError, match="masses are above 0"):
        parse(f"param:gravity=1,{text}").wrap(env).reset(seed=0)
    assert arrays(env.model) == before


class Holder(gymnasium.Env):
    """An environment that plays in another one, as the mazes of gymnasium-robotics do."""

    observation_space, action_space = Bench.observation_space, Bench.action_space

    def __init__(self):
        self.bench = Bench()
        self.reset, self.step = self.bench.reset, self.bench.step


def test_the_model_of_an_environment_that_is_held_is_found():
    env = parse("param:gravity=3 + force:2,body=ball,along=z").wrap(Holder())
    env.reset(seed=0)
    assert env.step(np.zeros(1))[0][0] == pytest.approx(2 - 3)


# --- constructors and attributes -------------------------------------------------------------------------------------


class Cart(gymnasium.Env):
    """The return is minus the mass that the constructor was given, for every step of the episode."""

    observation_space, action_space = spaces.Box(-np.inf, np.inf, (2,)), spaces.Discrete(2)
    made = {"times": 0}

    def __init__(self, mass: float = 1.0, length: int = 3, height: int = 48, width: int = 64, colour: str = "red"):
        Cart.made["times"] += 1
        self.mass, self.gain, self.length, self.friction = mass, 1 / mass, length, 0.5
        self.width, self.height = width, height
        self.t, self.x = 0, 0.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._begin()
        return np.array([0, self.np_random.random()], np.float32), {}

    def _begin(self):
        self.t = 0

    def step(self, action):
        self.t += 1
        self.x = self.friction * self.gain
        return np.array([self.t, 0], np.float32), -1 / self.gain, self.t >= self.length, False, {}


def idle(observations):
    return np.zeros(len(observations), np.int64)


def test_an_argument_of_the_constructor_makes_the_environment_anew():
    for mass in (0.5, 3.0):
        for env in (Cart, functools.partial(Cart, length=3), lambda mass=1.0, length=3: Cart(mass, length)):
            assert returns(idle, env, 2, perturbation=f"param:mass={mass}") == pytest.approx([-3 * mass] * 2)
    assert returns(idle, Cart, 2, perturbation="param:mass=2,length=5") == pytest.approx([-10, -10])
    gymnasium.register("Cart-v0", entry_point=Cart, kwargs={"length": 4}, max_episode_steps=3)
    assert returns(idle, "Cart-v0", 1, perturbation="param:mass=2") == pytest.approx([-6])
    assert returns(idle, "Cart-v0", 1, perturbation="param:mass=2,length=2") == pytest.approx([-4])
    del gymnasium.registry["Cart-v0"]


def test_it_is_made_once_for_each_value():
    Cart.made["times"] = 0
    single = make_single(settable(Cart, parse("param:mass=2")))
    for _ in range(4):
        env = parse("param:mass=2").wrap(single)
        env.reset(seed=0)
        assert env.unwrapped.gain == 0.5
        assert unwrap(env).unwrapped.gain == 1
    assert Cart.made["times"] == 2
    env = parse("param:mass=1..2").wrap(single)
    gains = {env.unwrapped.gain for seed in range(5) if env.reset(seed=seed)}
    assert len(gains) == 5 and Cart.made["times"] == 7


def test_episodes_that_are_not_seeded_follow_from_the_last_seed_when_made_anew():
    def seen():
        env = parse("param:mass=1..2").wrap(make_single(settable(Cart, parse("param:mass=2"))))
        return [float(env.reset(seed=4 if i == 0 else None)[0][1]) for i in range(4)]

    assert seen() == seen() and len(set(seen())) == 4


def test_constructor_numbers():
    assert constructor_numbers(Cart, {"mass": 2.5}) == {"mass": 2.5, "length": 3, "height": 48, "width": 64}
    assert constructor_numbers("Pendulum-v1", {}) == {"g": 10.0}
    assert "g" in parameters(make_single(settable("Pendulum-v1", parse("param:g=1"))))


def test_a_number_that_changes_the_spaces_is_refused():
    class Wide(Cart):
        def __init__(self, size: int = 2):
            super().__init__()
            self.observation_space = spaces.Box(-1, 1, (size,))

    class High(Cart):
        def __init__(self, top: float = 1.0):
            super().__init__()
            self.observation_space = spaces.Box(-top, top, (2,))

    parse("param:top=5").wrap(Constructed(High, {"top": 1.0})).reset(seed=0)
    with pytest.raises(UsageError, match="'size': 5} changes the observation_space"):
        parse("param:size=5").wrap(Constructed(Wide, {"size": 2})).reset(seed=0)


def test_state_and_pictures_are_not_offered():
    assert set(parameters(Cart())) == {"mass", "gain", "length", "friction"}
    known = parameters(make_single("CartPole-v1"))
    assert not {"screen_width", "screen_height", "steps_beyond_terminated"} & set(known)
    assert {"gravity", "length", "force_mag", "tau"} <= set(known)
    assert not {"height", "width"} & set(parameters(make_single("Hopper-v5")))


class Forgetful(Cart):
    """Its reset sets the mass back, whatever the constructor was given."""

    def reset(self, *, seed=None, options=None):
        self.mass = 1.0
        return super().reset(seed=seed)


@pytest.mark.filterwarnings("ignore:param")
@pytest.mark.parametrize("env", [Forgetful, lambda: Forgetful(), lambda: gymnasium.wrappers.TimeLimit(Forgetful(), 9)])
def test_what_the_reset_sets_back_is_an_error(env):
    with pytest.raises(UsageError, match="does not keep mass: its reset, .* nothing would be perturbed"):
        returns(idle, env, 1, perturbation="param:mass=2")
    with pytest.raises(UsageError, match="does not keep t"):
        returns(idle, lambda: Cart(), 1, perturbation="param:t=2")


def test_an_attribute_that_only_the_constructor_reads_is_told():
    with pytest.warns(UserWarning, match="nothing but the constructor of Cart reads mass"):
        returns(idle, lambda: Cart(), 1, perturbation="param:mass=2")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert returns(idle, lambda: Cart(), 1, perturbation="param:gain=0.5") == pytest.approx([-6])
        returns(idle, lambda: Cart(), 1, perturbation="param:mass=1")


def test_two_sets_of_parameters_are_one():
    both = parse("param:mass=2 + observation-delay:1 + param:length=5")
    assert str(both) == "param:mass=2,length=5 + observation-delay:1"
    assert returns(idle, Cart, 1, perturbation=both) == pytest.approx([-10])
    with pytest.raises(UsageError, match="each once"):
        parse("param:mass=2 + param:mass=3")


def test_an_environment_without_parameters_says_so():
    class Bare(Cart):
        def __init__(self):
            pass

    with pytest.raises(UsageError, match="no parameter 'mass'. There are none."):
        parse("param:mass=2").wrap(Bare())
