"""IWOCS with learned members: who acts, what a member learns from, the search, and one whose course is known."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils import seeding

import surefoot as sf
from surefoot.envs.parameter_game import make_game
from surefoot.errors import UsageError
from surefoot.loops.common.run import make_learner
from surefoot.loops.networks.nets import Function, Weights
from surefoot.methods.control.sac import SAC
from surefoot.methods.robust.iwocs.deep import DeepIWOCS
from surefoot.methods.robust.iwocs.search import cma_es, grid, played, worst
from surefoot.models.sequence import SequenceNetwork, mode

STATE, ACTION = gym.spaces.Box(-np.inf, np.inf, (3,)), gym.spaces.Box(-2.0, 2.0, (2,))
SMALL = {"hidden": (16,), "batch_size": 32, "learning_starts": 50, "log_every": 50, "train_every": 2}


class Tug(gym.Env):
    """Two steps; the action a pays −(a − ω)² − ω, so that a larger ω is worse even for its best action, ω itself."""

    observation_space, action_space = gym.spaces.Box(-1.0, 1.0, (1,)), gym.spaces.Box(-1.0, 1.0, (1,))

    def __init__(self, omega: float = 0.0):
        self.omega, self._np_random = omega, seeding.np_random(0)[0]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.time += 1
        reward = -((float(action[0]) - self.omega) ** 2) - self.omega
        return np.ones(1, np.float32), reward, self.time == 2, False, {}


def tug(**settings) -> DeepIWOCS:
    """A search from ω = 0 in [0, 1] on a grid whose last point is 0.9."""
    own = {"set": "param:omega=0..1", "search": "grid", "reaches": (50.0,), "members": 2, "gamma": 0.9}
    sizes = {"default_policy_steps": 100, "member_steps": 400, "learning_rate": 1e-2, "critic_learning_rate": 1e-2}
    return DeepIWOCS(**{**SMALL, **sizes, **own, **settings})


# --- who acts --------------------------------------------------------------------------------------------------------


@pytest.fixture
def policy():
    torch.manual_seed(0)
    made = SequenceNetwork(hidden=(8,), members=3).make(STATE, ACTION)
    with torch.no_grad():
        made.reach.copy_(torch.tensor([0.5, 0.5, -1.0]))  # the third member is not there
    return made


def told(policy, count=40):
    """Observations, their memories, and where an episode begins: nowhere."""
    now, before = torch.randn(count, 3), torch.randn(count, 3)
    return now, torch.cat([before, torch.rand(count, 2) * 2 - 1], -1), torch.zeros(1, count, dtype=torch.bool)


def by_hand(policy, now, usable) -> torch.Tensor:
    """Row by row: the pessimistic expert's own action, or the default's."""
    rows = []
    for x, which in zip(now, usable.T, strict=True):
        offers = []
        for member, there in zip(policy.members, which, strict=True):
            action = torch.tanh(member.actor.params(x[None]))[0, :2]
            value = min(float(critic(x[None], action[None])) for critic in member.critics)
            offers += [(value, action)] if there else []
        rows.append(min(offers, key=lambda one: one[0])[1] if offers else mode(policy.default, x[None])[0])
    return torch.stack(rows)


@torch.no_grad()
def test_the_most_pessimistic_of_those_that_predicted_the_state_plays_its_own_action(policy):
    now, memory, starts = told(policy)
    errors = torch.stack([(m.model(memory[:, :3], memory[:, 3:]) - now).abs().sum(-1) for m in policy.members])
    for reach in (torch.tensor([2.5, 3.0, -1.0]), torch.tensor([4.0, 1.0, 3.0])):
        policy.reach.copy_(reach)
        usable = errors <= reach[:, None]
        assert 0 < usable.any(0).sum() < len(now)  # the default acts somewhere, too
        chosen, after = policy.policy(now[None], memory, starts)
        torch.testing.assert_close(chosen[0], by_hand(policy, now, usable))
        torch.testing.assert_close(after, torch.cat([now, chosen[0]], -1))


@torch.no_grad()
def test_the_gate_between_the_default_and_the_lowest_of_all(policy):
    now, memory, starts = told(policy)
    policy.reach.copy_(torch.tensor([0.0, 0.0, -1.0]))  # every error is above ρ
    torch.testing.assert_close(policy.policy(now[None], memory, starts)[0][0], mode(policy.default, now))
    everyone = torch.tensor([True, True, False])[:, None].expand(3, len(now))
    policy.reach.copy_(torch.tensor([1e9, 1e9, -1.0]))  # no error is
    wanted = by_hand(policy, now, everyone)
    torch.testing.assert_close(policy.policy(now[None], memory, starts)[0][0], wanted)
    policy.reach.copy_(torch.tensor([0.0, 0.0, -1.0]))  # nothing is known in a first step
    torch.testing.assert_close(policy.policy(now[None], memory, ~starts)[0][0], wanted)
    torch.testing.assert_close(policy.params(now), wanted)
    values = torch.stack([m.value(now, m.action(now)) for m in policy.members[:2]])
    torch.testing.assert_close(policy.value(now), values.amin(0))
    policy.reach.fill_(-1.0)  # without any member the default acts from the first step on
    torch.testing.assert_close(policy.policy(now[None], memory, ~starts)[0][0], mode(policy.default, now))


# --- what a member learns from ---------------------------------------------------------------------------------------


def learnt(method: DeepIWOCS, count: int = 6):
    """Networks of a member in the world 0.25 of one parameter, and a batch of which the first half is from there."""
    torch.manual_seed(3)
    spaces = gym.spaces.Dict({"state": STATE, "parameters": gym.spaces.Box(-1, 1, (1,))}), gym.spaces.Box(-1, 1, (3,))
    nets = method.networks(*spaces)
    functions = {name: Function(net) for name, net in nets.items()}
    weights = {
        name: torch.cat([p.detach().double().reshape(-1) for _ in range(net.copies) for p in net.make().parameters()])
        for name, net in nets.items()
    }
    place = functions["worlds"].flat.unflatten(weights["worlds"])
    place["now"][:], place["count"][:] = 0.25, 1.0
    parameters = torch.full((count, 1), 0.25, dtype=torch.float64)
    parameters[count // 2 :] = 0.5
    seen = {"state": torch.randn(count, 3, dtype=torch.float64), "parameters": parameters}
    batch = {
        "observation": seen,
        "next_observation": {"state": torch.randn(count, 3, dtype=torch.float64), "parameters": parameters},
        "action": torch.rand(count, 3, dtype=torch.float64) * 2 - 1,
        "reward": torch.randn(count, dtype=torch.float64),
        "discount": torch.full((count,), 0.9, dtype=torch.float64),
        "weight": torch.ones(count, dtype=torch.float64),
        "noise": {name: torch.randn(count, 3, dtype=torch.float64) for name in ("now", "next")},
    }
    targets = {name: weights[name] + 0.1 for name in ("critic", "worth")}
    return Weights(functions, weights, targets, weights), batch


def test_the_losses_of_a_member_by_hand():
    method = tug()
    w, batch = learnt(method)
    (s, after), action, half = (batch[k]["state"] for k in ("observation", "next_observation")), batch["action"], 3
    params = w("actor", after)
    following = torch.tanh(params[:, :2] + params[:, 2:].exp() * batch["noise"]["next"][:, :2])
    target = batch["reward"] + 0.9 * w.target("worth", after, following).amin(0)  # no price of entropy
    errors = (w("worth", s, action[:, :2]) - target)[:, :half]
    torch.testing.assert_close(method.worth_loss(w, batch)[0], 0.5 * (errors**2).sum() / len(s))
    missed = (w("model", s, action[:, :2]) - after).abs().sum(-1)[:half]
    torch.testing.assert_close(method.model_loss(w, batch)[0], missed.sum() / len(s))


def test_without_a_price_of_entropy_both_critics_have_one_target():
    method = tug(temperature=1e-12)
    w, batch = learnt(method)
    weights, targets = ({**part, "critic": part["worth"]} for part in (w.now, w.targets))
    same = Weights(w.functions, weights, targets, weights)
    torch.testing.assert_close(method.critic_loss(same, batch)[0], method.worth_loss(same, batch)[0])
    dear = tug(temperature=0.5)
    priced = Weights(w.functions, {**weights, "temperature": torch.tensor([0.5]).log().double()}, targets, weights)
    priced.start = priced.now
    assert abs(float(dear.critic_loss(priced, batch)[0] - method.worth_loss(same, batch)[0])) > 1e-3


def test_the_default_policy_learns_from_all_and_a_member_as_sac_from_its_own_world():
    method = tug()
    w, batch = learnt(method)
    half = {name: x[:3] if torch.is_tensor(x) else {k: y[:3] for k, y in x.items()} for name, x in batch.items()}
    plain = {**half, "action": half["action"][:, :2], "noise": {k: x[:, :2] for k, x in half["noise"].items()}}
    plain |= {name: half[name]["state"] for name in ("observation", "next_observation")}
    alone = SAC.critic_loss(method, w, plain)[0]
    torch.testing.assert_close(method.critic_loss(w, batch)[0], alone / 2)
    w.functions["worlds"].flat.unflatten(w.now["worlds"])["count"][:] = 0.0
    everyone = method.critic_loss(w, batch)[0]
    assert abs(float(everyone - alone / 2)) > 1e-3


# --- the search ------------------------------------------------------------------------------------------------------


def test_cma_es_finds_the_bottom_of_a_long_valley_and_a_corner():
    turn = np.array([[np.cos(0.7), -np.sin(0.7)], [np.sin(0.7), np.cos(0.7)]])
    bottom = np.array([0.3, 0.6])

    def valley(points):
        return (((points - bottom) @ turn) ** 2 * [1.0, 1e4]).sum(1)

    found = cma_es(valley, 2, np.random.default_rng(0), population=20, generations=60)
    np.testing.assert_allclose(found, bottom, atol=1e-6)
    corner = cma_es(lambda x: x @ [1.0, -2.0, 0.5], 3, np.random.default_rng(1), population=30, generations=30)
    np.testing.assert_allclose(corner, [0, 1, 0], atol=1e-3)


def test_its_first_generation_by_hand():
    """Two parents of four, with weights ln 2.5 − ln 1 and ln 2.5 − ln 2 before they are normalised."""
    asked = []

    def fitness(points):
        asked.append(points)
        return points[:, 0]

    middle = cma_es(fitness, 1, np.random.default_rng(4), population=4, generations=1, deviation=0.01)
    drawn = 0.5 + 0.01 * np.random.default_rng(4).standard_normal(4)
    np.testing.assert_allclose(asked[0][:, 0], drawn)
    low, weights = np.sort(drawn)[:2], np.log(2.5) - np.log([1, 2])
    assert middle[0] == pytest.approx(low @ weights / weights.sum())


def test_the_grid_is_that_of_the_suite_and_the_worst_episode_is_the_lowest_of_all():
    np.testing.assert_allclose(grid(10, 1)[:, 0], np.arange(10) / 10)
    assert len(grid(3, 2)) == 9 and grid(3, 2)[1].tolist() == [0, 1 / 3]
    envs = sf.envs.make(lambda: make_game(Tug, {}, (), "param:omega=0..1", move="episode"), 4, seed=0)
    agent = type("Still", (), {"predict": lambda self, x, *_, **__: (np.full((len(x), 1), 0.2, np.float32), None)})()
    found = played(envs, agent, np.array([[-1.0], [-0.2], [0.4], [1.0], [-0.6]]), 0, 0.5)
    omega = np.array([0.0, 0.4, 0.7, 1.0, 0.2])
    np.testing.assert_allclose(found.total, 2 * (-((0.2 - omega) ** 2) - omega), atol=1e-6)
    np.testing.assert_allclose(found.discounted, 0.75 * found.total, atol=1e-6)
    assert found.worst == 3 and found.steps == 16  # two batches of four, the second filled up
    low = worst(lambda x: played(envs, agent, x, 0, 0.5), lambda fitness: fitness(grid(4, 1)))
    assert low.worlds.tolist() == [[0.5]] and low.total[0] == pytest.approx(2 * (-(0.55**2) - 0.75))


# --- a whole run -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def searched():
    method = tug()
    learner, rows = make_learner(method, Tug, [0], 900), []
    while not learner.finished:
        fresh = learner.weights["worth"].clone()
        rows += learner.iterate()
        if learner.iteration == 2:  # the default policy has ended
            assert method.begun(1) == 0 and method.begun(2) == 2 and learner.since == 0
            assert not torch.equal(fresh, learner.weights["worth"])
            assert learner.parts("worlds", 0)["known"][0].tolist() == [-1.0]  # ω = 0, nominal
    return learner, rows


def test_a_search_whose_course_is_known(searched):
    """The nominal member plays 0, worth −2·0.81 − 2·0.9 at ω = 0.9, the second one 0.9, and is the more pessimistic."""
    learner, rows = searched
    first, second = (row for row in rows if "worst_return" in row)
    assert learner.parts("worlds", 0)["known"][:, 0].tolist() == pytest.approx([-1.0, 0.8])
    assert first["worst_return"] == pytest.approx(-2 * 0.81 - 1.8, abs=0.5)
    assert second["worst_return"] > first["worst_return"] + 0.7
    assert learner.agent().predict(np.zeros((1, 1), np.float32), deterministic=True)[0][0, 0] > 0.6
    assert learner.finished and learner.steps == 900
    assert first["search_steps"] == 200 and "worst_return" not in rows[0]


def test_members_are_kept_as_they_were_trained(searched):
    learner, _ = searched
    policy, worth = learner.parts("policy", 0), learner.parts("worth", 0, 1)
    for name, x in worth.items():
        assert torch.equal(policy[f"members.1.critics.1.{name}"], x)
    for name, x in learner.parts("actor", 0).items():
        assert torch.equal(policy[f"members.1.actor.{name}"], x) and policy["reach"][1] == 50.0


def test_members_learn_from_their_own_steps_alone(searched):
    learner, _ = searched
    seen = learner.replay.store["observation"]["parameters"][:, 0, 0]
    learner.iteration -= 1  # as in the last iteration
    rows, _ = learner.replay.sample(0, 500, np.random.default_rng(0), learner.since)
    worlds = seen[(rows + 1) % learner.replay.rows]
    assert learner.since == 400 and min(np.abs(worlds - 0.8).min(), np.abs(worlds + 1.0).min()) < 1e-6
    assert (np.abs(worlds - 0.8) < 1e-6).mean() > 0.98  # all but the end of an episode that had begun before
    learner.iteration += 1


def test_the_sequence_ends_where_a_world_returns_or_the_gap_is_small():
    one = make_learner(tug(set="param:omega=0..0.0001", grid_points=1, member_steps=100), Tug, [0], 10**4)
    while not one.finished:
        row = one.iterate()[0]
    assert one.steps == 200 and "worst_return" in row  # of one world, the nominal one, there is nothing to find
    near = make_learner(tug(tolerance=100.0, member_steps=100), Tug, [0, 1], 10**4)
    while not near.finished:
        near.iterate()
    assert near.steps == 200 and (near.weights["policy"].shape[0], near.method.members) == (2, 2)


def test_bad_settings_are_refused():
    with pytest.raises(UsageError, match="learning_starts=50 is not allowed with member_steps=50"):
        tug(member_steps=50)
    with pytest.raises(UsageError, match=r"reaches=\(\) is not allowed"):
        tug(reaches=())
    with pytest.raises(UsageError, match="is not a box of parameters"):
        sf.train("iwocs-deep", "Pendulum-v1", 100, set="observation-noise:0.1")
    with pytest.raises(UsageError, match="has no effect on a policy of several members"):
        SequenceNetwork(kind="gaussian")
