"""Episodes under changing losses: values by enumeration, bounds of visits by linear programs, the dilated bonus."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from surefoot.envs.tabular import Successors, TabularMDP
from surefoot.errors import UsageError
from surefoot.loops.tabular.episodes import Known, Unknown, dilated_bonus, episodic

GENERATOR = np.random.default_rng(0)


def f64(x) -> torch.Tensor:
    return torch.as_tensor(x, dtype=torch.float64)


def random_mdp(horizon=3, states=3, actions=2, gamma=1.0, legal=None) -> TabularMDP:
    kernel = GENERATOR.dirichlet([1.0] * states, (horizon, states, actions))
    reward = GENERATOR.normal(size=(horizon, states, actions))
    return TabularMDP(kernel, reward, gamma, GENERATOR.dirichlet([1.0] * states), horizon, legal=legal)


def random_policy(horizon=3, states=3, actions=2) -> torch.Tensor:
    return f64(GENERATOR.dirichlet([1.0] * actions, (horizon, states)))


def paths(mdp, policy):
    """Every way through an episode with its probability: states, actions."""
    horizon = mdp.horizon
    for states in itertools.product(range(mdp.states), repeat=horizon):
        for actions in itertools.product(range(mdp.actions), repeat=horizon):
            chance = float(mdp.initial[states[0]])
            for h in range(horizon):
                chance *= float(policy[h, states[h], actions[h]])
                if h + 1 < horizon:
                    chance *= float(mdp.rows[h, states[h], actions[h], states[h + 1]])
            yield states, actions, chance


def test_expected_losses_and_returns_by_enumeration():
    mdp, policy = random_mdp(gamma=0.9), random_policy()
    world = episodic(mdp)
    losses = world.losses(17)[0]
    total = earned = 0.0
    for states, actions, chance in paths(mdp, policy):
        total += chance * sum(float(losses[h, s, a]) for h, (s, a) in enumerate(zip(states, actions)))
        earned += chance * sum(0.9**h * float(mdp.reward[h, s, a]) for h, (s, a) in enumerate(zip(states, actions)))
    assert float(world.expected(policy, losses)) == pytest.approx(total, rel=1e-12)
    assert float(world.returns(f64(total))) == pytest.approx(earned, rel=1e-12)
    assert float(losses.min()) >= 0 and float(losses.max()) <= 1


@pytest.mark.parametrize("legal", [None, [[True, True], [True, False], [False, True]]])
def test_the_best_in_hindsight_by_enumeration(legal):
    mdp = random_mdp(horizon=2, legal=legal)
    world, losses = episodic(mdp), f64(GENERATOR.normal(size=(2, 3, 2)))
    allowed = [[a for a in range(2) if legal is None or legal[s][a]] for s in range(3)] * 2
    best = min(
        float(world.expected(torch.nn.functional.one_hot(torch.tensor(choice).view(2, 3), 2).double(), losses))
        for choice in itertools.product(*allowed)
    )
    assert float(world.best(losses)) == pytest.approx(best, rel=1e-12)


def test_a_sparse_kernel_is_the_dense_one():
    state, probability = torch.tensor([[[0, 2], [1, 1]]] * 3), f64([[[0.25, 0.75], [0.5, 0.5]]] * 3)
    mdp = TabularMDP(Successors(state, probability), torch.zeros(3, 2), 1.0, horizon=2)
    expected = f64([[0.25, 0, 0.75], [0, 1, 0]]).expand(2, 3, 2, 3)
    assert torch.equal(episodic(mdp).kernel, expected)


def test_episodes_are_drawn_from_the_policy():
    mdp, policy = random_mdp(), random_policy()
    world = episodic(mdp)
    n = 20_000
    states, actions, felt = world.play(policy, world.losses(0, n), seed=3, iteration=0)
    visits = known_visits(mdp, policy)
    for h in range(3):
        seen = torch.bincount(states[:, h] * 2 + actions[:, h], minlength=6).double().view(3, 2) / n
        torch.testing.assert_close(seen, visits[h][:, None] * policy[h], rtol=0, atol=5 / math.sqrt(n))
    torch.testing.assert_close(felt, world.losses(0)[0][torch.arange(3), states, actions])
    again, _, _ = world.play(policy, world.losses(0, n), seed=3, iteration=0)
    other, _, _ = world.play(policy, world.losses(0, n), seed=3, iteration=1)
    assert torch.equal(states, again) and not torch.equal(states, other)


def known_visits(mdp, policy) -> list[torch.Tensor]:
    known, found, last = Known(episodic(mdp).kernel), [], None
    for h in range(mdp.horizon):
        last = known.visits(mdp.initial, list(policy[:h]), last)
        found.append(last.most)
    return found


def test_known_visits_by_enumeration():
    mdp, policy = random_mdp(), random_policy()
    expected = torch.zeros(3, 3, dtype=torch.float64)
    for states, _, chance in paths(mdp, policy):
        expected[torch.arange(3), list(states)] += chance
    torch.testing.assert_close(torch.stack(known_visits(mdp, policy)), expected)


# --- kernels that are not known --------------------------------------------------------------------------------------


def counts_of(mdp, n: float) -> torch.Tensor:
    return (episodic(mdp).kernel * n).round()


def test_the_greatest_expectation_is_that_of_a_linear_program():
    mdp = random_mdp()
    unknown, values = Unknown(counts_of(mdp, 30), 1.0), f64(GENERATOR.normal(size=3))
    for greatest in (True, False):
        found = unknown.most(1, values, greatest)
        box = unknown.boxes[1]
        for s, a in itertools.product(range(3), range(2)):
            sign = -1 if greatest else 1
            bounds = list(zip(box.lower[s, a].tolist(), box.upper[s, a].tolist()))
            best = linprog(sign * values.numpy(), A_eq=np.ones((1, 3)), b_eq=[1], bounds=bounds)
            assert float(found[s, a]) == pytest.approx(sign * best.fun, abs=1e-9)


def test_a_set_of_one_kernel_gives_its_expectation():
    mdp, values = random_mdp(), f64(GENERATOR.normal(size=3))
    kernel = episodic(mdp).kernel
    single = Unknown(kernel * 1e18, 1.0)
    torch.testing.assert_close(single.most(0, values), Known(kernel).most(0, values), rtol=0, atol=1e-7)


def test_bounds_around_frequencies_by_hand():
    counts = f64([6.0, 2.0]).view(1, 1, 1, 2).expand(1, 2, 1, 2)
    box = Unknown(counts, 0.05).boxes[0]
    width = math.sqrt(2 * 0.75 * 0.25 * 0.05 / 8) + 7 * 0.05 / (3 * 8)
    torch.testing.assert_close(box.lower[0, 0], f64([0.75 - width, 0.25 - width]), rtol=1e-12, atol=0)
    torch.testing.assert_close(box.upper[1, 0], f64([0.75 + width, 0.25 + width]), rtol=1e-12, atol=0)


def test_nothing_is_known_where_nothing_was_met():
    unknown, values = Unknown(torch.zeros(2, 3, 2, 3, dtype=torch.float64), 0.1), f64([1.0, 5.0, -2.0])
    assert bool((unknown.most(0, values) == 5).all()) and bool((unknown.most(0, values, False) == -2).all())


def test_bounds_of_visits_hold_those_of_every_kernel_in_the_set_and_are_reached():
    mdp, policy = random_mdp(), random_policy()
    unknown = Unknown(counts_of(mdp, 40), 0.3)
    bounds = [unknown.visits(mdp.initial, list(policy[:h]), None) for h in range(3)]
    torch.testing.assert_close(bounds[0].most, mdp.initial)
    torch.testing.assert_close(bounds[0].least, mdp.initial)
    for _ in range(100):
        inside = []
        for box in unknown.boxes:
            values = f64(GENERATOR.normal(size=(3, 2, 3)))
            order = values.argsort(-1)
            q, left = box.lower.clone(), 1 - box.lower.sum(-1)
            for k in range(3):  # a random corner of the set
                place = order[..., k : k + 1]
                room = torch.minimum((box.upper - box.lower).gather(-1, place).squeeze(-1), left)
                q.scatter_add_(-1, place, room[..., None])
                left = left - room
            inside.append(q)
        visits = mdp.initial
        for h in range(3):
            assert bool((visits <= bounds[h].most + 1e-12).all()) and bool((visits >= bounds[h].least - 1e-12).all())
            visits = torch.einsum("s,sa,sat->t", visits, policy[h], inside[h])
    # after one step the greatest visits are a linear program for each state
    for target in range(3):
        reached = unknown.most(0, torch.eye(3, dtype=torch.float64)[target])
        assert float(bounds[1].most[target]) == pytest.approx(float(mdp.initial @ (policy[0] * reached).sum(-1)))


# --- the bonus -------------------------------------------------------------------------------------------------------


def test_the_dilated_bonus_of_one_everywhere():
    mdp, policy = random_mdp(), random_policy()
    found = dilated_bonus(torch.ones(3, 3, dtype=torch.float64), policy, Known(episodic(mdp).kernel))
    for layer, expected in zip(found, (4 + 1 / 9, 2 + 1 / 3, 1.0)):
        torch.testing.assert_close(layer, torch.full_like(layer, expected), rtol=1e-13, atol=0)
    assert float(found.max()) <= 3 * (1 + 1 / 3) ** 3 <= math.e * 3


def test_the_dilated_bonus_is_optimistic_about_the_kernel():
    mdp, policy = random_mdp(), random_policy()
    bonus = f64(GENERATOR.random((3, 3)))
    sure = dilated_bonus(bonus, policy, Known(episodic(mdp).kernel))
    unsure = dilated_bonus(bonus, policy, Unknown(counts_of(mdp, 10_000), 1.0))
    assert bool((unsure >= sure - 1e-3).all()) and float((unsure - sure)[:2].min()) > 0


# --- linear MDPs -----------------------------------------------------------------------------------------------------


def linear_world(legal=None, horizon=2) -> tuple[TabularMDP, torch.Tensor]:
    """Three factors of each step; a fourth is in no pair, a fifth in none that is legal."""
    features = f64(np.zeros((5, 2, 5)))
    features[..., :3] = f64(GENERATOR.dirichlet([1.0] * 3, (5, 2)))
    if legal is not None:
        features[~legal] = torch.eye(5, dtype=torch.float64)[4]
    factors = f64(GENERATOR.dirichlet([1.0] * 5, (horizon, 5)))
    kernel = features @ factors.unsqueeze(1)
    return TabularMDP(kernel, f64(np.ones((5, 2))), 1.0, None, horizon, legal, features), factors


def test_factors_are_found_from_the_kernel():
    legal = torch.ones(5, 2, dtype=torch.bool)
    legal[3, 1] = False
    for where in (None, legal):
        mdp, factors = linear_world(where)
        found = episodic(mdp).factors
        torch.testing.assert_close(found[:, :3], factors[:, :3], rtol=0, atol=1e-10)
        assert bool((found[:, 3:] == 0.2).all())


def test_a_kernel_that_no_factors_make_has_none():
    mdp, _ = linear_world()
    bent = mdp.transition.clone()
    bent[1, 2, 0] = f64([1.0, 0, 0, 0, 0])
    signed = torch.eye(5, dtype=torch.float64)[:, None].expand(5, 2, 5).clone()
    signed[0] = f64([2.0, -1.0, 0, 0, 0])  # sums to one, but is no distribution
    ways = {"transition": bent}, {"features": 2 * mdp.features}, {"features": signed}
    for change in ways:
        with pytest.raises(UsageError, match="is no linear MDP"):
            _ = episodic(replace(mdp, **change)).factors
