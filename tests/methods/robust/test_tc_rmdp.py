"""TC-RMDP: the tabular recursion's numbers, what each player sees, and its losses worked out beside it."""

from __future__ import annotations

import dataclasses

import gymnasium as gym
import numpy as np
import pytest
import torch

import surefoot as sf
from surefoot.claims.robust.tc_rmdp import GAMMA, KERNELS, REWARD, START
from surefoot.envs.parameter_game import ParameterGame
from surefoot.envs.rrls import UncertaintyBox
from surefoot.errors import UsageError
from surefoot.loops.common.run import make_learner
from surefoot.loops.networks.nets import Function, Weights
from surefoot.loops.off_policy.game import agents_part
from surefoot.methods.robust.tc_rmdp import TCM2TD3, TCRARL
from surefoot.methods.robust.tc_rmdp.drift import drift_values
from surefoot.models.actors import ActorNetwork

BOX = UncertaintyBox({"m": (0.5, 2.0), "l": (1.0, 2.0)}, {"m": 1.0, "l": 1.0})
SET, SIZE = "param:m=0.5..2,l=1..2", 6
INFORMATION = ("vanilla", "stacked", "oracle")

# --- the windy walk ---------------------------------------------------------------------------------------------------

TABLE = {  # speed: V(S, k) at k = 0, 12, 24
    0: (-4.524381, -6.229623, -7.952147),
    1: (-5.028047, -7.620005, -7.952147),
    2: (-6.060232, -7.913594, -7.952147),
    4: (-7.881450, -7.952147, -7.952147),
    24: (-7.952147, -7.952147, -7.952147),
}


def test_values_on_the_windy_walk():
    values = {speed: drift_values(KERNELS, REWARD, GAMMA, speed).value for speed in TABLE}
    for speed, wanted in TABLE.items():
        assert values[speed][[0, 12, 24], START].tolist() == pytest.approx(wanted, abs=1e-6), speed
    for slow, fast in zip(list(TABLE)[:-1], list(TABLE)[1:]):
        assert (values[fast] <= values[slow] + 1e-9).all()


def iterated(backup) -> torch.Tensor:
    value = torch.zeros(36, dtype=torch.float64)
    for _ in range(450):
        value = backup(value)
    return value


def test_without_speed_each_kernel_is_its_own_problem_and_at_full_speed_all_are_the_robust_one():
    still = drift_values(KERNELS, REWARD, GAMMA, 0).value
    for k in (7, 24):
        alone = iterated(lambda v, k=k: (REWARD + GAMMA * KERNELS[k] @ v).amax(1))
        torch.testing.assert_close(still[k], alone, rtol=0, atol=1e-8)
    robust = iterated(lambda v: (REWARD + GAMMA * (KERNELS @ v).amin(0)).amax(1))
    torch.testing.assert_close(drift_values(KERNELS, REWARD, GAMMA, 24).value, robust.expand(25, 36), rtol=0, atol=1e-8)


def test_knowing_the_speed_beats_the_robust_policy_from_still_air():
    """Against the worst drift of one place a step from k = 0: −5.028047 beside −7.402688; from k = 12 equal."""
    robust = drift_values(KERNELS, REWARD, GAMMA, 24).action[0]
    against = drift_values(KERNELS, REWARD, GAMMA, 1, robust).value
    best = drift_values(KERNELS, REWARD, GAMMA, 1)
    assert against[0, START].item() == pytest.approx(-7.402688, abs=1e-6)
    assert against[12, START].item() == pytest.approx(best.value[12, START].item(), abs=1e-9)
    again = drift_values(KERNELS, REWARD, GAMMA, 1, best.action).value
    torch.testing.assert_close(again, best.value, rtol=0, atol=1e-9)
    with pytest.raises(UsageError, match="speed >= 0"):
        drift_values(KERNELS, REWARD, GAMMA, -1)


# --- the players ------------------------------------------------------------------------------------------------------


def spaces(information: str):
    made = ParameterGame(gym.make("Pendulum-v1").unwrapped, BOX, "drift", 0.1, information == "stacked")
    return made.observation_space, made.action_space


def batch(information: str) -> dict:
    g = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    widths = {"state": 3, "parameters": 2}
    widths |= {"previous_state": 3, "previous_action": 1} if information == "stacked" else {}
    seen = [{name: normal(SIZE, width).tanh() for name, width in widths.items()} for _ in range(2)]
    return {
        "observation": seen[0], "next_observation": seen[1], "action": normal(SIZE, 3).tanh(), "reward": normal(SIZE),
        "discount": torch.full((SIZE,), 0.9, dtype=torch.float64), "weight": torch.ones(SIZE, dtype=torch.float64),
        "noise": {"target": normal(SIZE, 3)},
    }  # fmt: skip


def weights(method, **changes) -> Weights:
    nets = method.networks(*spaces(method.information))
    functions = {name: Function(net) for name, net in nets.items()}
    torch.manual_seed(1)
    now = {n: 0.5 * torch.randn(f.size, dtype=torch.float64) for n, f in functions.items()}
    targets = {n: x + 0.1 for n, x in now.items() if nets[n].target_rate is not None}
    return Weights(functions, {**now, **changes}, targets, now)


def view(information: str, seen: dict) -> torch.Tensor:
    parts = {"vanilla": ("state",), "stacked": ("previous_state", "state", "previous_action")}
    return torch.cat([seen[k] for k in parts.get(information, ("state", "parameters"))], -1)


@pytest.mark.parametrize("information", INFORMATION)
def test_the_shared_critic_knows_the_parameters_in_force(information):
    method = TCM2TD3(set=SET, information=information, hidden=(8,), speed=0.1)
    w, given = weights(method), batch(information)
    now, after = (view(information, given[name]) for name in ("observation", "next_observation"))
    force, noise = given["next_observation"]["parameters"], (0.2 * given["noise"]["target"][:, :1]).clamp(-0.5, 0.5)
    following = (w.target("actor", after) + noise).clamp(-1, 1)
    target = given["reward"] + 0.9 * w.target("critic", after, torch.cat([following, force], -1)).min(0).values
    values = w("critic", now, torch.cat([given["action"][:, :1], force], -1))
    torch.testing.assert_close(method.critic_loss(w, given)[0], ((values - target) ** 2).mean(1).sum())
    acted = w("critic", now, torch.cat([w("actor", now), force], -1))[0].mean()
    torch.testing.assert_close(method.actor_loss(w, given)[0], -acted)
    seen, state, action = given["observation"]["parameters"], given["observation"]["state"], given["action"][:, :1]
    moved = (seen + 0.2 * w("adversary", torch.cat([seen, state, action], -1))).clamp(-1, 1)
    value = w("critic", now, torch.cat([action, moved], -1))[0].mean()
    torch.testing.assert_close(method.adversary_loss(w, given)[0], value)


def test_two_learners_have_opposite_rewards_and_views_of_their_own():
    method = TCRARL(set=SET, hidden=(8,))
    w, given = weights(method), batch("vanilla")
    now, after, action = given["observation"], given["next_observation"], given["action"][:, :1]
    its = torch.cat([now["parameters"], now["state"], action], -1)
    next_ = torch.cat([after["parameters"], after["state"], w("actor", after["state"])], -1)
    noise = (0.2 * given["noise"]["target"][:, 1:]).clamp(-0.5, 0.5)
    following = (w.target("adversary", next_) + noise).clamp(-1, 1)
    target = -given["reward"] + 0.9 * w.target("adversary_critic", next_, following).min(0).values
    values = w("adversary_critic", its, given["action"][:, 1:])
    torch.testing.assert_close(method.adversary_critic_loss(w, given)[0], ((values - target) ** 2).mean(1).sum())
    value = w("adversary_critic", its, w("adversary", its))[0].mean()
    torch.testing.assert_close(method.adversary_loss(w, given)[0], -value)
    own = dataclasses.replace(method)
    following = w.target("actor", after["state"]) + (0.2 * given["noise"]["target"][:, :1]).clamp(-0.5, 0.5)
    target = given["reward"] + 0.9 * w.target("critic", after["state"], following.clamp(-1, 1)).min(0).values
    values = w("critic", now["state"], action)
    torch.testing.assert_close(own.critic_loss(w, given)[0], ((values - target) ** 2).mean(1).sum())
    assert list(method.networks(*spaces("vanilla"))) == ["critic", "actor", "adversary_critic", "adversary"]


@pytest.mark.parametrize("kind", [TCM2TD3, TCRARL])
def test_the_adversarys_gradient_against_finite_differences(kind):
    method = kind(set=SET, hidden=(8,), speed=0.05)
    start, given = weights(method), batch("vanilla")
    vector = start.now["adversary"].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(method.adversary_loss(weights(method, adversary=vector), given)[0], vector)
    direction = torch.randn_like(gradient)
    ends = [
        method.adversary_loss(weights(method, adversary=start.now["adversary"] + x * direction), given)[0]
        for x in (1e-6, -1e-6)
    ]
    torch.testing.assert_close(gradient @ direction, (ends[0] - ends[1]) / 2e-6, rtol=1e-5, atol=1e-8)
    assert gradient.abs().max() > 0


def test_the_agents_part_holds_the_parameters_after_the_move():
    given = batch("vanilla")
    own = agents_part(given, lambda seen: seen["state"])
    assert own["parameters"] is given["next_observation"]["parameters"]
    assert own["action"].shape == (SIZE, 1) and own["move"].shape == (SIZE, 2)


def test_a_stacked_agent_remembers_what_it_saw_in_training():
    """In the plain task with its memory it acts as in the game, where the environment gives it what came before."""
    settings = {"set": SET, "learning_starts": 20, "log_every": 40, "hidden": (8,), "batch_size": 8}
    learner = make_learner(TCM2TD3(information="stacked", **settings), "Pendulum-v1", [0], 1000)
    learner.iterate()
    agent, game = learner.agent(), ParameterGame(gym.make("Pendulum-v1").unwrapped, BOX, "drift", 0.1, True)
    seen, _ = game.reset(seed=0)
    np.testing.assert_array_equal(seen["previous_state"], seen["state"])
    state, start = None, np.ones(1, bool)
    for t in range(6):
        action, state = agent.predict(seen["state"][None], state, start, deterministic=True)
        stacked = np.concatenate([seen["previous_state"], seen["state"], seen["previous_action"]])
        wanted = learner.actor(learner.weights["actor"][0], torch.from_numpy(stacked)).detach().numpy()
        np.testing.assert_allclose(action[0], 2 * wanted, atol=1e-6)
        seen, *_ = game.step(np.concatenate([action[0], [0.3, -0.7]]).astype(np.float32))
        start = np.array([t == 2])
        if t == 2:
            seen, _ = game.reset()
    learner.close()
    with pytest.raises(UsageError, match="must be 'deterministic'"):
        ActorNetwork("gaussian", remembers=True)


def test_vanilla_and_stacked_runs_are_stressed_in_the_plain_task_and_an_oracle_is_refused(tmp_path):
    settings = {"set": SET, "learning_starts": 100, "log_every": 40, "hidden": (8,), "batch_size": 8, "loggers": ()}
    for information in INFORMATION:
        run = sf.train(
            "tc-rmdp", "Pendulum-v1", 40, run_dir=tmp_path / information, information=information, **settings
        )
        if information == "oracle":
            with pytest.raises(UsageError, match="The policy was made for observation_space"):
                sf.evaluate(run.path, episodes=1)
        else:
            assert np.isfinite(sf.stress(run.path, None, "param:m=0.5..2", episodes=1, points=2).worst)


@pytest.mark.parametrize(
    ("changes", "words"), [({"speed": 1.5}, "speed=1.5"), ({"information": "all"}, "information=")]
)
def test_bad_settings_are_refused(changes, words):
    with pytest.raises(UsageError, match=words):
        sf.train("tc-rmdp", "Hopper-v5", 100, **changes)
