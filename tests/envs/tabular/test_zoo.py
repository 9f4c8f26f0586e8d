"""The zoo: each instance has the optimal value that its source or an independent computation gives."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from surefoot.envs.tabular import ZOO, Successors, TabularMDP, resolve
from surefoot.envs.tabular.transitions import kernel_of
from surefoot.errors import UsageError


def dense(mdp: TabularMDP) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Kernel [S, A, S'], expected rewards [S, A] and legal pairs [S, A] of an MDP without steps."""
    kernel = mdp.rows.numpy()
    if mdp.sparse:
        kernel = np.zeros((mdp.states, mdp.actions, mdp.states))
        np.put_along_axis(kernel, mdp.transition.state.numpy(), mdp.rows.numpy(), -1)
    legal = np.ones(kernel.shape[:2], bool) if mdp.legal is None else mdp.legal.numpy()
    return kernel, mdp.expected_reward().numpy(), legal


def discounted(mdp: TabularMDP) -> np.ndarray:
    """The optimal values [S] by linear programming: the smallest v ≥ r + γ P v."""
    kernel, reward, legal = dense(mdp)
    rows = (mdp.gamma * kernel - np.eye(mdp.states)[:, None])[legal]
    solved = linprog(np.ones(mdp.states), A_ub=rows, b_ub=-reward[legal], bounds=(None, None))
    assert solved.status == 0
    return solved.x


def average(mdp: TabularMDP) -> float:
    """The optimal average reward by linear programming over the frequencies of legal pairs."""
    kernel, reward, legal = dense(mdp)
    flow = (np.eye(mdp.states)[:, None] - kernel)[legal].T
    rows = np.vstack([flow, np.ones(legal.sum())])
    solved = linprog(-reward[legal], A_eq=rows, b_eq=[*np.zeros(mdp.states), 1])
    assert solved.status == 0
    return -solved.fun


def backwards(mdp: TabularMDP, horizon: int) -> np.ndarray:
    """The optimal undiscounted values [S] with so many steps to go."""
    kernel, reward, legal = dense(mdp)
    value = np.zeros(mdp.states)
    for _ in range(horizon):
        value = np.where(legal, reward + kernel @ value, -np.inf).max(1)
    return value


@pytest.mark.parametrize("name", ZOO)
def test_every_entry_is_an_mdp_with_a_name_and_a_docstring(name):
    mdp = resolve(name)
    assert mdp.name == name and mdp.gamma == ZOO[name]().gamma
    assert len(mdp.actions_named) in (0, mdp.actions) and len(mdp.states_named) in (0, mdp.states)
    assert mdp.grid is None or mdp.grid[0] * mdp.grid[1] == mdp.states
    assert ZOO[name].__doc__


def test_two_states_at_radius_zero():
    """The risk-neutral values that the literature on robust policy gradients prints for it."""
    np.testing.assert_allclose(discounted(resolve("two-state")), [9.084746, 8.745763], atol=5e-7)
    assert average(resolve("two-state")) == pytest.approx(0.9)


def test_the_trap():
    mdp = resolve("trap")
    assert average(mdp) == pytest.approx(0.8)  # 0.2 / (0.2 + 0.05) of the time at work
    safe = TabularMDP(mdp.rows[:, 1:], mdp.reward[:, 1:])
    assert average(safe) == pytest.approx(0.7)


def test_the_chain():
    """3,677 in a thousand steps, as Strens prints."""
    assert average(resolve("chain")) == pytest.approx(3.677, abs=5e-4)
    assert average(resolve("chain:3,slip=0")) == pytest.approx(10)


@pytest.mark.parametrize("states", [3, 6, 9])
def test_the_river_in_closed_form(states):
    """Always right is a birth and death chain: neighbours are as frequent as their rates balance."""
    up, down = [0.6] + [0.35] * (states - 2), [0.05] * (states - 2) + [0.4]
    weights = np.cumprod([1, *(u / d for u, d in zip(up, down, strict=True))])
    mdp = resolve(f"river-swim:{states}")
    assert average(mdp) == pytest.approx(weights[-1] / weights.sum())


def test_the_machine_by_trying_every_policy():
    mdp = resolve("machine-replacement:5")
    kernel, reward, _ = dense(mdp)
    every, S = np.array(list(product((0, 1), repeat=7))), np.arange(7)
    values = np.linalg.solve(np.eye(7) - mdp.gamma * kernel[S, every], reward[S, every][..., None])[..., 0]
    np.testing.assert_allclose(discounted(mdp), values.max(0), atol=1e-7)
    *worn, short, long = every[values.sum(1).argmax()]
    assert list(worn) == sorted(worn) and {0, 1} == set(worn)  # run while it is new, repair from some wear on
    assert (short, long) == (0, 1)


def test_the_machine_in_short_repair_and_broken_by_hand():
    """Broken, it stays so with 0.3 and costs 20 until a repair takes it; the short one takes 1 / 0.8 steps."""
    value = discounted(resolve("machine-replacement"))
    short = (-2 + 0.8 * 0.8 * value[0]) / (1 - 0.8 * 0.2)
    long = (-10 + 0.8 * 0.6 * short) / (1 - 0.8 * 0.4)
    broken = (-20 + 0.8 * (0.6 * short + 0.1 * long)) / (1 - 0.8 * 0.3)
    np.testing.assert_allclose(value[[8, 9, 7]], [short, long, broken], atol=1e-7)


def test_the_forest():
    """The values that the toolbox's manual prints for it."""
    np.testing.assert_allclose(discounted(resolve("forest")), [26.244, 29.484, 33.484], atol=1e-7)


def test_the_inventory():
    """Puterman's values with three steps to go, and with fewer."""
    mdp = resolve("inventory")
    for horizon, values in [
        (1, [0, 5, 6, 5]), (2, [2, Fraction(25, 4), 10, Fraction(21, 2)]),
        (3, [Fraction(n, 16) for n in (67, 129, 194, 227)]),
    ]:  # fmt: skip
        np.testing.assert_allclose(backwards(mdp, horizon), [float(v) for v in values], atol=1e-12)
    assert mdp.legal is not None and mdp.legal.sum(1).tolist() == [4, 3, 2, 1]


def bold(capital: Fraction, heads: Fraction, depth: int = 60) -> Fraction:
    """The probability that bold play reaches 1 from a share of it (Dubins and Savage)."""
    if capital <= 0 or capital >= 1 or depth == 0:
        return Fraction(int(capital >= 1))
    if 2 * capital <= 1:
        return heads * bold(2 * capital, heads, depth - 1)
    return heads + (1 - heads) * bold(2 * capital - 1, heads, depth - 1)


@pytest.mark.parametrize(("goal", "heads"), [(100, 0.4), (16, 0.25), (10, 0.5)])
def test_the_gambler_plays_boldly(goal, heads):
    value = backwards(resolve(f"gambler:{goal},{heads}"), 600)
    exact = [float(bold(Fraction(c, goal), Fraction(str(heads)))) for c in range(goal)]
    np.testing.assert_allclose(value[:goal], [0, *exact[1:]], atol=1e-7)


def test_the_cliff_and_the_wind():
    """13 and 15 steps, as Sutton and Barto say."""
    assert backwards(resolve("cliff"), 60)[36] == -13
    assert backwards(resolve("windy"), 60)[30] == -15


def test_a_fall_costs_100_and_ends_at_the_start():
    mdp, right, up, down = resolve("cliff"), 1, 0, 2
    pairs = mdp.expected_reward()
    assert pairs[36].tolist() == [-1, -100, -1, -1] and mdp.rows[36, right, 36] == 1
    assert pairs[24 + 5].tolist() == [-1, -1, -100, -1] and mdp.rows[24 + 5, down, 36] == 1
    assert mdp.rows[36, up, 24] == 1 and mdp.rows[35, down, 47] == 1 and pairs[47].tolist() == [0] * 4
    slips = resolve("cliff:slip=0.2")
    assert slips.expected_reward()[36, up] == pytest.approx(-1 - 99 * 0.05)
    assert slips.rows[36, up, 24] == pytest.approx(0.85)


def test_an_adversary_who_changes_what_happens_changes_what_is_paid():
    for name, (state, action, after), paid in [
        ("chain", (0, 0, 0), 2), ("chain", (4, 1, 4), 10), ("gambler", (99, 1, 100), 1), ("gambler", (99, 1, 98), 0),
        ("inventory", (1, 2, 1), 2 * 8 - 4 - 2 * 2 - 3), ("inventory", (3, 0, 3), -3), ("cliff", (30, 2, 36), -100),
        ("cliff", (24, 2, 36), -1),
    ]:  # fmt: skip
        mdp = resolve(name)
        assert mdp.reward[state, action, after] == paid and mdp.rows[state, action, after] > 0, name


def test_the_wind_carries_upwards():
    mdp = resolve("windy")
    assert mdp.rows[33, 1, 24] == 1  # right from row 3, column 3, with a wind of 1
    assert mdp.rows[6, 1, 7] == 1  # no further than the upper edge
    assert mdp.rows[36, 2, 26] == 1  # down by one, up by two


@pytest.mark.parametrize(("states", "actions", "branching"), [(12, 3, 4), (5, 2, 5), (7, 1, 1), (3000, 2, 3)])
def test_garnets_have_their_branches(states, actions, branching):
    mdp = resolve(f"garnet:{states},{actions},{branching},seed=2")
    assert (mdp.states, mdp.actions, mdp.sparse) == (states, actions, states == 3000)
    assert bool(((mdp.rows > 0).sum(-1) == branching).all())
    assert not mdp.sparse or bool((mdp.transition.state.sort(-1).values.diff(dim=-1) > 0).all())
    assert float(mdp.reward.min()) >= 0 and float(mdp.reward.max()) <= 1


def test_successors_of_garnets_are_uniform():
    """Each state is drawn as often as any other, and the shares of a row are exchangeable."""
    mdp = resolve("garnet:6,20000,3")
    counts = (mdp.rows > 0).double().mean(dim=(0, 1))
    np.testing.assert_allclose(counts, 0.5, atol=5 * 0.5 / 120_000**0.5)
    np.testing.assert_allclose(mdp.rows.mean(dim=(0, 1)), 1 / 6, atol=0.004)


def test_garnets_depend_on_their_seed_alone():
    one, same, other = (resolve(f"garnet:seed={seed}") for seed in (1, 1, 2))
    assert torch.equal(one.rows, same.rows) and torch.equal(one.reward, same.reward)
    assert not torch.equal(one.rows, other.rows)
    np.testing.assert_allclose(discounted(one), value_iteration(one), atol=1e-6)


def value_iteration(mdp: TabularMDP) -> np.ndarray:
    value = torch.zeros(mdp.states, dtype=torch.float64)
    for _ in range(600):
        value = (mdp.reward + mdp.gamma * mdp.expectation(value)).max(-1).values
    return value.numpy()


def test_dense_and_sparse_garnets_are_the_same():
    state = torch.tensor([[[2, 0]], [[1, 2]], [[0, 1]]])
    kernel = kernel_of(Successors(state, torch.tensor([0.25, 0.75], dtype=torch.float64).expand(3, 1, 2)))
    assert isinstance(kernel, torch.Tensor)
    assert kernel[:, 0].tolist() == [[0.75, 0, 0.25], [0, 0.25, 0.75], [0.25, 0.75, 0]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("chain:1", "states=1"), ("chain:slip=1.5", "slip=1.5"), ("river-swim:1", "states=1"),
        ("machine-replacement:1", "wear=1"), ("forest:fire=-0.1", "fire=-0.1"), ("inventory:0", "capacity=0"),
        ("gambler:1", "goal=1"), ("gambler:heads=2", "heads=2"), ("garnet:5,2,6", "branching=6"),
        ("garnet:seed=-1", "seed=-1"), ("cliff:1", "rows=1"), ("cliff:columns=2", "columns=2"),
        ("windy:slip=7", "slip=7"), ("garnet:100000000,100,100", "GiB are free"),
    ],
)  # fmt: skip
def test_numbers_that_make_no_sense_are_refused(text, message):
    with pytest.raises(UsageError, match=message):
        resolve(text)
