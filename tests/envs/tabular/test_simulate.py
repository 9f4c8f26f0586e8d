"""Simulators: what they draw has the probabilities, rewards and ends of the MDP that they are given."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from surefoot.envs.tabular import (
    Successors,
    TabularEnv,
    TabularMDP,
    offline,
    resolve,
    rollouts,
    sample_actions,
    sample_next,
)
from surefoot.errors import UsageError
from surefoot.seeding import torch_stream

TWO = resolve("two-state")
BIG = resolve("garnet:1000,5,3,seed=1")


def stream(counter: int = 0) -> torch.Generator:
    return torch_stream(0, "test", counter)


def uniform(mdp: TabularMDP) -> torch.Tensor:
    return torch.full((mdp.states, mdp.actions), 1 / mdp.actions, dtype=torch.float64)


def test_next_states_have_the_probabilities_of_their_rows():
    draws = 200_000
    pairs = torch.cartesian_prod(torch.arange(2), torch.arange(2))
    states, actions = (x.repeat_interleave(draws) for x in pairs.T)
    shares = sample_next(TWO, states, actions, stream()).double().view(4, draws).mean(1)
    wanted = TWO.rows[:, :, 1].flatten()
    assert bool(((shares - wanted).abs() < 5 * (wanted * (1 - wanted) / draws).sqrt()).all())


def test_a_sparse_kernel_gives_the_same_draws_as_its_dense_form():
    assert BIG.sparse
    states = torch.randint(1000, (4000, 2), generator=stream(1))
    actions = torch.randint(5, (4000, 2), generator=stream(2))
    after = sample_next(BIG, states, actions, stream())
    successors = BIG.transition.state[states, actions]
    assert after.shape == states.shape and bool((successors == after.unsqueeze(-1)).any(-1).all())
    order = BIG.transition.state.argsort(-1)  # the dense form has the successors in the order of their numbers
    ordered = Successors(*(x.gather(-1, order) for x in BIG.transition))
    small = TabularMDP(ordered, BIG.reward)
    full = torch.zeros(1000, 5, 1000, dtype=torch.float64).scatter_(-1, ordered.state, ordered.probability)
    dense = TabularMDP(full, BIG.reward)
    assert torch.equal(sample_next(small, states, actions, stream()), sample_next(dense, states, actions, stream()))


def test_what_is_impossible_is_never_drawn():
    kernel = np.zeros((3, 1, 3))
    kernel[:, 0, 1] = 1
    mdp = TabularMDP(kernel, np.zeros((3, 1)))
    states = torch.zeros(100_000, dtype=torch.int64)
    assert bool((sample_next(mdp, states, states, stream()) == 1).all())
    policy = torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64)
    assert bool((sample_actions(policy, states, stream()) == 1).all())


def exact_return(mdp: TabularMDP, policy: torch.Tensor, horizon: int) -> float:
    value = torch.zeros(mdp.states, dtype=torch.float64)
    for h in reversed(range(horizon)):
        step, row = mdp.at(h), policy if policy.ndim == 2 else policy[h]
        value = (row * (step.expected_reward() + step.expectation(value))).sum(-1)
    return float(mdp.initial @ value)


def changing() -> tuple[TabularMDP, torch.Tensor]:
    """Kernel, rewards (of next states) and policy that change with the step."""
    generator = torch.Generator().manual_seed(3)
    kernel = torch.rand(4, 3, 2, 3, generator=generator, dtype=torch.float64)
    policy = torch.rand(4, 3, 2, generator=generator, dtype=torch.float64)
    reward = torch.rand(4, 3, 2, 3, generator=generator, dtype=torch.float64)
    mdp = TabularMDP(kernel / kernel.sum(-1, keepdim=True), reward, gamma=1, horizon=4, initial=[0.5, 0.5, 0])
    return mdp, policy / policy.sum(-1, keepdim=True)


@pytest.mark.parametrize("case", ["steps", "stationary", "frozen lake"])
def test_returns_of_rollouts_have_the_exact_mean(case):
    mdp, policy = changing() if case == "steps" else (resolve("river-swim:4,horizon=9"), None)
    mdp = resolve("gym:FrozenLake-v1,horizon=12,is_slippery=true") if case == "frozen lake" else mdp
    policy = uniform(mdp) if policy is None else policy
    met = rollouts(mdp, policy, 50_000, None, stream())
    assert met.states.shape == met.next_states.shape == met.rewards.shape == (50_000, mdp.horizon)
    assert torch.equal(met.states[:, 1:], met.next_states[:, :-1])
    total = met.rewards.sum(1)
    assert abs(float(total.mean()) - exact_return(mdp, policy, mdp.horizon)) < 5 * float(total.std()) / 50_000**0.5


def test_rollouts_start_where_and_when_they_are_told():
    mdp, policy = changing()
    start = torch.full((20_000,), 2)
    met = rollouts(mdp, policy, 20_000, None, stream(), start=start, first_step=2)
    assert met.actions.shape == (20_000, 2) and bool((met.states[:, 0] == 2).all())
    share = met.actions[:, 0].double().mean()
    assert abs(float(share - policy[2, 2, 1])) < 0.02
    later = TabularMDP(mdp.transition[2:], mdp.reward[2:], gamma=1, horizon=2, initial=[0, 0, 1])
    assert abs(float(met.rewards.sum(1).mean()) - exact_return(later, policy[2:], 2)) < 0.02


def test_the_same_stream_gives_the_same_draws():
    again = [rollouts(TWO, uniform(TWO), 10, 7, stream()) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*again))
    assert not torch.equal(again[0].states, rollouts(TWO, uniform(TWO), 10, 7, stream(1)).states)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"policy": torch.ones(2, 3) / 3}, "policy has shape"),
        ({"policy": torch.ones(4, 2, 2).double() / 2}, "4 steps, but 5 are played"),
        ({"horizon": None}, "has an infinite horizon"),
        ({"horizon": 0}, "horizon=0"),
        ({"start": torch.zeros(3, dtype=torch.int64)}, "start has shape"),
        ({"generator": None}, "needs a generator"),
    ],
)
def test_rollouts_refuse_what_does_not_fit(arguments, message):
    given = {"policy": uniform(TWO), "episodes": 2, "horizon": 5, "generator": stream(), **arguments}
    with pytest.raises(UsageError, match=message):
        rollouts(TWO, **given)


def test_policies_that_are_not_legal_are_refused():
    mdp = resolve("inventory:horizon=3")
    with pytest.raises(UsageError, match="action 3 in state 1"):
        rollouts(mdp, torch.eye(4, dtype=torch.float64)[[0, 3, 0, 0]], 5, None, stream())


def test_pairs_that_are_not_legal_have_no_next_state():
    mdp = resolve("inventory")
    states, actions = torch.tensor([[0, 1], [2, 3]]), torch.tensor([[3, 2], [1, 1]])
    with pytest.raises(UsageError, match="action 1 is not legal in state 3"):
        sample_next(mdp, states, actions, stream())
    assert sample_next(mdp, states[:, 0], actions[:, 0], stream()).max() < 4


# --- offline data ----------------------------------------------------------------------------------------------------


def test_independent_offline_data_have_the_law_that_is_asked_for():
    law = torch.tensor([0.25, 0.75], dtype=torch.float64)
    policy = torch.tensor([[0.9, 0.1], [0.3, 0.7]], dtype=torch.float64)
    data = offline(TWO, policy, 100_000, stream(), states=law)
    code = (data.states * 2 + data.actions) * 2 + data.next_states
    shares = torch.bincount(code, minlength=8).double() / 100_000
    wanted = (law[:, None, None] * policy[:, :, None] * TWO.rows).flatten()
    assert bool(((shares - wanted).abs() < 5 * (wanted / 100_000).sqrt()).all())
    assert torch.equal(data.rewards, TWO.reward[data.states, data.actions])


def test_a_trajectory_goes_on_where_it_was_and_restarts_where_it_should():
    data = offline(TWO, uniform(TWO), 300, stream())
    assert torch.equal(data.states[1:], data.next_states[:-1])
    always = offline(resolve("river-swim"), uniform(resolve("river-swim")), 50, stream(), restart=1.0)
    assert bool((always.states == 0).all()) and bool((always.next_states > 0).any())
    episodes = offline(resolve("river-swim:horizon=5"), uniform(resolve("river-swim")), 52, stream())
    assert len(episodes.states) == 52 and bool((episodes.states[::5] == 0).all())


# --- the environment -------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
def test_the_environment_keeps_gymnasiums_law():
    check_env(TabularEnv(resolve("river-swim")), skip_render_check=True)


def play(env: TabularEnv, policy: torch.Tensor, episodes: int) -> np.ndarray:
    generator, returns = np.random.default_rng(0), []
    for seed in range(episodes):
        state, _ = env.reset(seed=seed)
        total, over = 0.0, False
        while not over:
            state, reward, terminated, truncated, _ = env.step(generator.choice(policy.shape[1], p=policy[state]))
            total, over = total + reward, terminated or truncated
        returns.append(total)
    return np.array(returns)


def test_the_environment_pays_the_exact_return():
    mdp = resolve("river-swim:4,horizon=9")
    returns = play(TabularEnv(mdp), uniform(mdp), 3000)
    assert abs(returns.mean() - exact_return(mdp, uniform(mdp), 9)) < 5 * returns.std() / 3000**0.5


def test_the_environment_draws_from_a_kernel_with_steps():
    mdp, _ = changing()
    env, seen = TabularEnv(mdp), []
    for seed in range(4000):
        env.reset(seed=seed, options={"state": 1})
        env.step(0)
        seen.append(env.step(0)[0] == 2)
    exact = mdp.rows[0, 1, 0] @ mdp.rows[1, :, 0, 2]
    assert abs(np.mean(seen) - float(exact)) < 0.04


def test_episodes_end_at_the_horizon_in_absorbing_states_and_at_the_limit():
    env = TabularEnv(resolve("river-swim:horizon=2"))
    env.reset(seed=0)
    assert [env.step(0)[2:4] for _ in range(2)] == [(False, False), (True, False)]
    env = TabularEnv(resolve("river-swim"), max_steps=2)
    env.reset(seed=0)
    assert [env.step(0)[2:4] for _ in range(2)] == [(False, False), (False, True)]
    lake = resolve("gym:FrozenLake-v1,is_slippery=false")
    env = TabularEnv(lake)
    env.reset(seed=0)
    path = [env.step(action) for action in (1, 1, 2, 2, 1, 2)]
    assert [step[2] for step in path] == [False] * 5 + [True] and path[-1][1] == 1
    assert lake.ended.nonzero().flatten().tolist() == [5, 7, 11, 12, 15]


def test_a_state_that_pays_is_no_end():
    stay = np.eye(2)[:, None, :]
    assert TabularMDP(stay, [[0], [1]]).ended.tolist() == [True, False]
    assert TabularMDP(stay, np.array([[[0, 5]], [[0, 1]]])).ended.tolist() == [True, False]


def test_actions_that_are_not_legal_do_not_keep_an_end_open():
    leaves = np.array([[[1, 0], [0, 1]], [[1, 0], [0, 1]]])
    legal = [[True, False], [True, True]]
    assert TabularMDP(leaves, np.zeros((2, 2)), legal=legal).ended.tolist() == [True, False]
    assert TabularMDP(leaves, np.zeros((2, 2))).ended.tolist() == [False, False]


def test_illegal_actions_are_refused_and_masked():
    env = TabularEnv(resolve("inventory"))
    state, info = env.reset(options={"state": 2})
    assert state == 2 and info["action_mask"].tolist() == [1, 1, 0, 0]
    for action in (2, -1, 4):
        with pytest.raises(UsageError, match=r"not legal in state 2; the legal ones are \[0, 1\]"):
            env.step(action)
    with pytest.raises(UsageError, match="before reset"):
        TabularEnv(TWO).step(0)
    with pytest.raises(UsageError, match="is not a state"):
        env.reset(options={"state": 9})


def test_a_sparse_kernel_that_is_shared_by_all_steps_is_sampled():
    state = torch.tensor([[[1, 0]], [[0, 1]]])
    mdp = TabularMDP(Successors(state, torch.full((2, 1, 2), 0.5)), torch.zeros(3, 2, 1), gamma=1.0, horizon=3)
    found = rollouts(mdp, torch.ones(2, 1), 50, 3, torch.Generator().manual_seed(0))
    assert found.states.shape == (50, 3) and 0 < found.states[:, 1:].double().mean() < 1
