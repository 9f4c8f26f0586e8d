"""Rewards that change with the episode, and the instances with their known values."""

from __future__ import annotations

import pytest
import torch

from surefoot.envs.tabular import ZOO, TabularMDP, resolve
from surefoot.envs.tabular.adversarial import adversarial, layers, myopic_loop, shifting_trap
from surefoot.errors import UsageError
from surefoot.loops.tabular.episodes import episodic


def f64(x) -> torch.Tensor:
    return torch.as_tensor(x, dtype=torch.float64)


PLAIN = TabularMDP(torch.full((2, 2, 2), 0.5), torch.zeros(2, 2), gamma=1.0, horizon=2)


def test_stages_last_their_length_and_come_again():
    mdp = adversarial(PLAIN, f64([[[0.0, 1.0]] * 2, [[2.0, 4.0]] * 2]), length=3)
    world = episodic(mdp)
    assert (world.bounds, world.scale) == ((0.0, 4.0), 4.0)
    expected = [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 1.0]  # (4 − reward)/4 of action 0
    assert world.losses(0, 7)[:, 1, 0, 0].tolist() == expected
    assert [float(world.losses(k)[0, 0, 0, 0]) for k in range(7)] == expected
    torch.testing.assert_close(mdp.reward, f64([[1.0, 2.5]] * 2))


@pytest.mark.parametrize(
    "stages", [torch.zeros(2, 2), torch.zeros(0, 2, 2), torch.zeros(3, 2, 3), torch.zeros(1, 3, 2, 2)]
)
def test_stages_of_another_shape_are_refused(stages):
    with pytest.raises(UsageError, match=r"stages has shape|reward has shape|reward\["):
        adversarial(PLAIN, stages)


def test_bounds_hold_the_stages_and_a_horizon_is_needed():
    with pytest.raises(UsageError, match="bounds="):
        adversarial(PLAIN, torch.ones(1, 2, 2), bounds=(0.0, 0.5))
    with pytest.raises(UsageError, match="horizon"):
        adversarial(TabularMDP(torch.full((2, 2, 2), 0.5), torch.zeros(2, 2)), torch.ones(1, 2, 2))
    with pytest.raises(UsageError, match="noise"):
        adversarial(PLAIN, torch.ones(1, 2, 2), noise="gauss")


def test_bernoulli_rewards_are_ends_of_the_range_with_the_mean_of_the_stage():
    world = episodic(layers(gap=0.2))
    policy = torch.zeros(3, 3, 2, dtype=torch.float64)
    policy[..., 1] = 1
    losses = world.losses(0, 4000)
    assert losses[..., 1].unique().tolist() == pytest.approx([0.3])
    _, actions, felt = world.play(policy, losses, seed=0, iteration=0)
    assert set(felt.unique().tolist()) == {0.0, 1.0} and bool((actions == 1).all())
    assert float(felt.mean()) == pytest.approx(0.3, abs=0.015)


def test_regret_of_the_layers_is_the_gap_times_the_other_actions():
    mdp = layers(depth=4, states=3, actions=3, gap=0.25, seed=5)
    world = episodic(mdp)
    policy = torch.tensor([0.3, 0.2, 0.5], dtype=torch.float64).expand(4, 3, 3)
    losses = world.losses(0)[0]
    assert float(world.expected(policy, losses) - world.best(losses)) == pytest.approx(4 * 0.25 * 0.5, rel=1e-12)


def test_the_trap_turns_once_and_action_0_wins_in_hindsight():
    world = episodic(shifting_trap(length=50))
    total = world.losses(0, 100).sum(0)
    fixed = [float(world.expected(torch.eye(2, dtype=torch.float64)[a].expand(3, 3, 2), total)) for a in (0, 1)]
    assert fixed == pytest.approx([3 * 50 * (0.5 + 0.2), 3 * 50 * (0.4 + 0.5)])
    assert float(world.best(total)) == pytest.approx(fixed[0])
    first = world.losses(0, 50).sum(0)
    assert float(world.best(first)) == pytest.approx(3 * 50 * 0.4)


def test_the_loop_tempts_and_the_chain_is_best():
    world = episodic(myopic_loop(swing=0.0))
    losses = world.losses(0)[0]
    always = [torch.eye(2, dtype=torch.float64)[a].expand(6, 7, 2) for a in (0, 1)]
    costs = [-float(world.returns(world.expected(policy, losses))) for policy in always]
    assert costs == pytest.approx([2.5, 2.7])
    assert -float(world.returns(world.best(losses))) == pytest.approx(2.5)
    uniform = torch.full((6, 7, 2), 0.5, dtype=torch.float64)
    after = [torch.cat([policy[:1], uniform[1:]]) for policy in always]  # who acts at random later …
    assert float(world.expected(after[1], losses)) < float(world.expected(after[0], losses))  # … had better turn off


def test_the_costs_of_the_chain_swing_around_their_mean():
    mdp = myopic_loop(period=8)
    assert -float(mdp.stages[2, 3, 0]) == pytest.approx(0.55)
    assert -float(mdp.stages[6, 0, 1]) == pytest.approx(0.40)
    torch.testing.assert_close(mdp.reward[:5], f64([[-0.5, -0.45]] * 5))
    assert bool((mdp.stages[:, 5:] == mdp.stages[0, 5:]).all())


@pytest.mark.parametrize("name", ["layers", "shifting-trap", "myopic-loop"])
def test_the_zoo_has_them(name):
    assert ZOO[name]().horizon in (3, 6)
    assert ZOO[name]().at(0).horizon is None


def test_from_text_with_numbers():
    mdp = resolve("layers:4,2,gap=0.3")
    assert tuple(mdp.rows.shape) == (4, 2, 2, 2) and float(mdp.reward[0, 0, 1]) == pytest.approx(-0.2)
    assert resolve("myopic-loop:4,swing=0.0").horizon == 4
    assert resolve("shifting-trap:length=7").length == 7
