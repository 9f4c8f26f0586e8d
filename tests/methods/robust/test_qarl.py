"""QARL: quantal equilibria and the curriculum by the card's numbers, its losses beside SAC's, and who learns when."""

from __future__ import annotations

import math
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.claims.robust.qarl import PATH, PAYOFF, paced
from surefoot.data.replay import Replay
from surefoot.envs.adversary_game import JointActions
from surefoot.errors import UsageError
from surefoot.loops.common.run import make_learner
from surefoot.loops.networks.nets import Function, Weights
from surefoot.methods.control.sac import SAC
from surefoot.methods.robust.qarl import QARL
from surefoot.methods.robust.qarl.curriculum import advanced, divergence, importance
from surefoot.methods.robust.qarl.pairs import Pairs, ended_episodes
from surefoot.methods.robust.qarl.quantal import equilibrium

SIZE = 6
SPACES = gym.spaces.Box(-np.inf, np.inf, (3,)), JointActions(gym.spaces.Box(-1.0, 1.0, (2,)), 2, 1)

# --- matrix games and the curriculum ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("temperatures", "x", "y", "value", "guaranteed"),
    [
        ((1, 1), 0.488674, 0.390938, 0.195982, None),
        ((0.1, 0.1), 0.408727, None, None, 0.182547),
        ((0.02, 0.02), 0.401648, None, None, 0.196703),
        ((0.1, 10), 0.881396, None, None, -0.762792),
        ((1, 1e12), math.exp(0.5) / (math.exp(0.5) + 1), 0.5, None, None),
    ],
)
def test_quantal_response_equilibria(temperatures, x, y, value, guaranteed):
    found = equilibrium(PAYOFF, *temperatures)
    assert found.rows[0].item() == pytest.approx(x, abs=1e-6)
    for have, want in (
        (found.columns[0].item(), y), (found.value(PAYOFF), value), (found.guaranteed(PAYOFF), guaranteed),
    ):  # fmt: skip
        assert want is None or have == pytest.approx(want, abs=1e-6)
    answer = torch.softmax(PAYOFF @ found.columns / temperatures[0], 0)
    torch.testing.assert_close(answer, found.rows, rtol=0, atol=1e-9)


def test_the_path_of_the_curriculum_without_a_bound():
    assert divergence(50, 1) == pytest.approx(46.631750, abs=1e-6)
    path = paced([0])
    assert len(path) == 13 and path == pytest.approx(PATH, abs=1e-4)


def test_a_bound_that_is_missed_stops_it_and_one_on_the_way_is_where_it_ends():
    temperatures, ones = np.full(30, 0.05), np.ones(30)
    assert advanced(50.0, 1.0, 1000.0, 0.5, math.inf, temperatures, ones) == 50.0
    np.testing.assert_allclose(importance(50.0, 50.0, 1000.0, temperatures), ones)
    drawn = np.random.default_rng(0).gamma(50, 1e-3, 60)
    returns = 1000 * drawn  # lower temperatures, lower returns
    found = advanced(50.0, 1.0, 1000.0, 0.5, 47.0, drawn, returns)
    kept = [float(np.mean(importance(k, 50.0, 1000.0, drawn) * returns)) for k in (found, found - 0.02)]
    assert 43.3 < found < 50 and kept[0] >= 47.0 > kept[1]


@settings(max_examples=30)
@given(st.floats(1.5, 200), st.floats(0.05, 2))
def test_no_update_is_longer_than_its_divergence_or_leaves_the_way_to_the_target(old, step):
    new = advanced(old, 1.0, 1000.0, step, -math.inf, np.full(5, 0.01), np.ones(5))
    assert divergence(new, old) <= step + 1e-8 and 1.0 <= new < old


def test_importance_is_the_ratio_of_scipys_densities():
    from scipy.stats import gamma

    drawn = np.array([0.01, 0.05, 0.08])
    want = gamma.pdf(drawn, 30, scale=1e-3) / gamma.pdf(drawn, 50, scale=1e-3)
    np.testing.assert_allclose(importance(30.0, 50.0, 1000.0, drawn), want, rtol=1e-9)


# --- pairs ------------------------------------------------------------------------------------------------------------


def test_episodes_that_ended_are_found_with_their_temperatures():
    """Two environments of one seed; the first ends at steps 2 and 6 (3 is its reset), the second never."""
    replay = Replay(50, 1, 2)
    for t in range(8):
        ended = np.array([t in (2, 6), False])
        action = np.array([[0.1, 0.01 * (1 + (t > 2))], [0.2, 0.05]], np.float32)
        fields = {"action": action, "reward": np.array([1.0 * (t != 3), 1.0], np.float32), "terminated": ended}
        valid = np.array([t != 3, True])
        seen = np.zeros((2, 1), np.float32)
        replay.add(seen, seen, **fields, truncated=np.zeros(2, bool), valid=valid)
    every = ended_episodes(replay, 0, 8, 0.5)
    assert every == [pytest.approx((0.01, 1.75)), pytest.approx((0.02, 1.75))]
    assert ended_episodes(replay, 0, 3, 0.5) == [every[1]]
    pairs = Pairs().extended(every * 60)
    again = Pairs.read(pairs.written(7.0))
    assert len(pairs) == 100 and again.temperatures == pytest.approx(pairs.temperatures)


# --- losses -----------------------------------------------------------------------------------------------------------


def batch(temperature: float | None = None) -> dict:
    g = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    told = torch.rand(SIZE, 1, generator=g, dtype=torch.float64) * 0.1
    told = told if temperature is None else torch.full_like(told, temperature)
    return {
        "observation": normal(SIZE, 3), "next_observation": normal(SIZE, 3), "reward": normal(SIZE), "action":
        torch.cat([normal(SIZE, 4).tanh(), told], -1), "weight": torch.ones(SIZE, dtype=torch.float64), "discount":
        torch.full((SIZE,), 0.9, dtype=torch.float64), "noise": {"now": normal(SIZE, 5), "next": normal(SIZE, 5)},
    }  # fmt: skip


def weights(method: QARL, **changes) -> Weights:
    nets = method.networks(*SPACES)
    functions = {name: Function(net) for name, net in nets.items()}
    torch.manual_seed(1)
    now = {n: 0.3 * torch.randn(f.size, dtype=torch.float64) for n, f in functions.items()}
    targets = {n: x + 0.1 for n, x in now.items() if nets[n].target_rate is not None}
    return Weights(functions, {**now, **changes}, targets, now)


def seen_by(given: dict) -> dict:
    """Both observations with the temperature beside them, in units of its first mean."""
    told = given["action"][:, -1:] / 0.05
    return {k: torch.cat([given[k], told], -1) for k in ("observation", "next_observation")}


@pytest.mark.parametrize("temperature", [0.04, 0.0])
def test_with_one_temperature_the_adversarys_losses_are_sacs_of_the_negated_reward(temperature):
    """At 0 there is no entropy term, and no logarithm of 0."""
    method, given = QARL(hidden=(8,)), batch(temperature)
    w = weights(method)
    noise = {k: x[:, 2:4] for k, x in given["noise"].items()}
    own = {**given, **seen_by(given), "reward": -given["reward"], "action": given["action"][:, 2:4], "noise": noise}
    fixed = SAC(hidden=(8,), temperature=temperature or 1e-300)
    alpha = torch.tensor([math.log(temperature or 1e-300)], dtype=torch.float64)
    plain = w.renamed(actor="adversary", critic="adversary_critic")
    plain = Weights(plain.functions, plain.now, plain.targets, {**plain.start, "temperature": alpha})
    for mine, theirs in ((method.adversary_critic_loss, fixed.critic_loss), (method.adversary_loss, fixed.actor_loss)):
        torch.testing.assert_close(mine(w, given)[0], theirs(plain, own)[0])


def test_the_protagonist_is_sac_of_its_own_part():
    method, given = QARL(hidden=(8,)), batch()
    w, noise = weights(method), {k: x[:, :2] for k, x in given["noise"].items()}
    own = {**given, **seen_by(given), "action": given["action"][:, :2], "noise": noise}
    for name in ("critic_loss", "actor_loss"):
        torch.testing.assert_close(getattr(method, name)(w, given)[0], getattr(SAC(hidden=(8,)), name)(w, own)[0])


def test_the_adversarys_gradient_against_finite_differences():
    method, given = QARL(hidden=(8,)), batch()
    start = weights(method).now["adversary"]
    vector = start.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(method.adversary_loss(weights(method, adversary=vector), given)[0], vector)
    direction = torch.randn_like(gradient)
    ends = [method.adversary_loss(weights(method, adversary=start + x * direction), given)[0] for x in (1e-6, -1e-6)]
    torch.testing.assert_close(gradient @ direction, (ends[0] - ends[1]) / 2e-6, rtol=1e-5, atol=1e-8)


# --- the run ----------------------------------------------------------------------------------------------------------


def test_players_take_turns_and_an_episode_keeps_its_temperature():
    settings_ = {"hidden": (8,), "batch_size": 8, "learning_starts": 20, "log_every": 100, "train_every": 2}
    learner = make_learner(QARL(**settings_, bound=math.inf), "InvertedPendulum-v5", [0], 10**4)
    before = {name: x.clone() for name, x in learner.weights.items()}
    learner.iterate()
    moved = {name for name, x in learner.weights.items() if not torch.equal(x, before[name])}
    assert moved == {"adversary", "adversary_critic"}
    assert torch.equal(learner.targets["critic"], before["critic"])
    before = {name: x.clone() for name, x in learner.weights.items()}
    learner.iterate()
    moved = {name for name, x in learner.weights.items() if not torch.equal(x, before[name])}
    assert moved == {"temperature", "critic", "actor", "curriculum"}  # its pairs
    assert learner.weights["curriculum"][0, 0] == 50.0
    rows = np.arange(60, learner.replay.filled)
    notes = learner.replay.store["action"][rows, 0, -1]
    begins = np.flatnonzero(~learner.replay.store["valid"][rows, 0]) + 1
    parts = [part for part in np.split(notes, begins)[1:-1] if len(part) > 1]
    assert len(parts) > 3 and all(np.ptp(part[:-1]) < 1e-6 for part in parts)
    assert np.ptp([part[0] for part in parts]) > 1e-3 and 0.02 < np.mean([part[0] for part in parts]) < 0.09
    agent, seen = learner.agent(), np.ones((1, 4), np.float32)
    told = torch.cat([torch.ones(1, 4), torch.zeros(1, 1)], -1)
    with torch.no_grad():
        torch.testing.assert_close(agent.module.params(torch.ones(1, 4)), agent.module.params(told))
    assert agent.predict(seen)[0].shape == (1, 1) and learner.opponents()["adversary"].predict(seen)[0].shape == (1, 2)
    learner.close()


def test_by_time_the_temperature_falls_linearly_and_a_fixed_one_is_the_last():
    for curriculum, want in (("linear", 50 - 49 * 0.25), ("fixed", 1.0)):
        method = QARL(hidden=(8,), curriculum=curriculum)
        known = torch.cat([torch.tensor([method.concentrations[curriculum == "fixed"], 0.0]), torch.zeros(200)])[None]
        made = SimpleNamespace(
            num_seeds=1, weights={"curriculum": known}, _progress=lambda: torch.tensor([0.25]), updates=9, iteration=2
        )
        assert method.after_iteration(made)["mean_temperature"].item() == pytest.approx(want / 1000)


@pytest.mark.parametrize(
    ("env", "changes", "words"),
    [
        ("CartPole-v1", {"adversary": "param:length=0.3..0.7"}, "needs continuous actions"),
        ("Hopper-v5", {"temperature": 0.1}, "temperature=0.1 has no effect"),
        ("Hopper-v5", {"curriculum": "steep"}, "curriculum='steep'"),
        ("Pendulum-v1", {}, "name them: force:3,body=torso"),
    ],
)
def test_bad_settings_are_refused(env, changes, words):
    import surefoot as sf

    with pytest.raises(UsageError, match=words):
        sf.train("qarl", env, 100, **changes)
