"""MDPs from text: the zoo with its numbers, Gymnasium's tables, and errors that teach."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch

import surefoot as sf
from surefoot.envs.tabular import ZOO, resolve, tabular_from_gym, to_csv, to_npz
from surefoot.envs.tabular.zoo import garnet, river_swim
from surefoot.errors import UsageError


def test_numbers_are_given_by_place_or_by_name():
    wanted = garnet(50, 3, 7, seed=4)
    for text in ("garnet:50,3,7,4", "garnet:50, 3, branching=7, seed=4", " garnet:5e1,3,7,seed=4 "):
        made = resolve(text)
        assert torch.equal(made.rows, wanted.rows) and torch.equal(made.reward, wanted.reward)


def test_discount_and_horizon_are_anybodys():
    assert (resolve("chain:gamma=0.5", gamma=0.7).gamma, resolve("chain", horizon=4).gamma) == (0.7, 1)
    assert resolve("river-swim").gamma == river_swim().gamma
    assert resolve("river-swim:8,gamma=0.5").gamma == 0.5
    episodic = resolve("river-swim:horizon=20")
    assert (episodic.horizon, episodic.gamma) == (20, 1)
    assert resolve("gym:FrozenLake-v1,horizon=5,gamma=0.9").gamma == 0.9


def test_rewards_are_averaged_on_demand():
    mdp = resolve("chain:4,rewards=expected")
    assert torch.equal(mdp.reward, resolve("chain:4").expected_reward()) and mdp.reward.shape == (4, 2)
    assert resolve("gym:FrozenLake-v1,rewards=expected").reward.shape == (16, 4)


def test_files_are_found_by_the_end_of_their_name(tmp_path):
    mdp = river_swim(4)
    for path in (to_npz(mdp, tmp_path / "a, b.npz"), to_csv(mdp, tmp_path / "model.csv")):
        read = resolve(f"{path},gamma=0.5,horizon=3")
        assert torch.equal(read.rows, mdp.rows) and (read.gamma, read.horizon) == (0.5, 3)
        assert resolve(f"{path},gamma=0.5").horizon is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "env='' is not allowed"),
        (3, "env=3 is not allowed"),
        ("rivr-swim", "Did you mean 'river-swim'"),
        ("chain:5,0.2,0.9,1", "too many arguments; it takes states, slip, gamma"),
        ("chain:5,states=5", "gives 'states' twice"),
        ("chain:slip=0.1,5", "'5' must come before"),
        ("chain:slip=0.1,slip=0.2", "gives 'slip' twice"),
        ("chain:slop=0.1", "'slop' is not an argument of it. Did you mean 'slip'"),
        ("chain:2.5", "states='2.5' is not allowed; it must be a whole number"),
        ("chain:inf", "it must be a whole number"),
        ("chain:slip=much", "it must be a number"),
        ("chain:gamma=2", "gamma=2.0 is not allowed"),
        ("chain:rewards=mean", "rewards='mean' is not allowed; it must be expected"),
        ("chain:horizon=0", "horizon=0 is not allowed"),
        ("nowhere.npz", "nowhere.npz does not exist"),
        ("gym:FrozenLak-v1", "cannot be made"),
        ("gym:FrozenLake-v1,8", "'8' has no name"),
        ("gym:FrozenLake-v1,map_nam=8x8", "cannot be made"),
        ("gym:Blackjack-v1", "no table P"),
    ],
)
def test_errors_teach(text, message):
    with pytest.raises(UsageError, match=message):
        resolve(text)


def test_a_file_takes_no_other_argument(tmp_path):
    path = to_npz(river_swim(3), tmp_path / "a.npz")
    with pytest.raises(UsageError, match="takes gamma, horizon, rewards, not 'slip'"):
        resolve(f"{path},slip=0.1")


def test_the_package_names_them():
    assert sf.TabularMDP is type(resolve("chain")) and sf.tabular_from_gym is tabular_from_gym
    assert {"river-swim", "machine-replacement", "garnet", "cliff", "windy"} <= ZOO.keys()


# --- Gymnasium's tables ----------------------------------------------------------------------------------------------


def optimum(mdp: sf.TabularMDP, sweeps: int = 400) -> torch.Tensor:
    value = torch.zeros(mdp.states, dtype=torch.float64)
    for _ in range(sweeps):
        value = (mdp.expected_reward() + mdp.gamma * mdp.expectation(value)).max(-1).values
    return value


def test_frozen_lake_is_won_14_times_out_of_17():
    lake = tabular_from_gym("FrozenLake-v1", gamma=1.0)
    assert float(optimum(lake, 3000)[0]) == pytest.approx(14 / 17, abs=1e-9)
    assert lake.grid == (4, 4) and lake.actions_named == ("left", "down", "right", "up")
    assert lake.reward.shape == (4 * 4, 4, 4 * 4)  # the reward is that of the next state
    assert lake.rows[15, :, 15].tolist() == [1] * 4 and float(lake.reward[15].abs().sum()) == 0
    assert lake.initial.tolist() == [1] + [0] * 15


def test_taxi_earns_793_and_its_ends_absorb():
    """The mean optimal return over its first states, which its community knows as 7.93."""
    taxi = tabular_from_gym("Taxi-v4", gamma=1.0)
    assert float(taxi.initial @ optimum(taxi)) == pytest.approx(7.93, abs=1e-9)
    at_goal = [s for s in (0, 85, 410, 475) if taxi.rows[s, :, s].min() == 1]
    assert at_goal == [0, 85, 410, 475] and float(taxi.reward[at_goal].abs().sum()) == 0


def test_cliff_walking_takes_13_steps():
    mdp = resolve("gym:CliffWalking-v1,gamma=1")
    assert float(optimum(mdp)[36]) == -13 and mdp.grid == (4, 12)
    again = resolve("cliff")  # numbers its actions in the same way
    reachable = [s for s in range(48) if not 37 <= s < 47]
    np.testing.assert_array_equal(mdp.rows[reachable], again.rows[reachable])
    np.testing.assert_array_equal(mdp.reward[reachable], again.expected_reward()[reachable])


def test_a_made_environment_is_read_as_well():
    made = gymnasium.make("FrozenLake-v1", desc=["SF", "HG"], is_slippery=False)
    mdp = tabular_from_gym(made, gamma=0.5)
    assert mdp.name == "FrozenLake-v1" and mdp.grid == (2, 2)
    assert optimum(mdp).tolist() == [0.5, 1, 0, 0]


def with_table(table: dict):
    class Own(gymnasium.Env):
        observation_space, action_space, P = gymnasium.spaces.Discrete(len(table)), gymnasium.spaces.Discrete(1), table

    return Own()


def test_an_end_that_is_no_state_is_refused():
    loop = {0: {0: [(0.5, 1, 1.0, True), (0.5, 1, 1.0, False)]}, 1: {0: [(1.0, 0, 0.0, False)]}}
    with pytest.raises(UsageError, match="ends on one transition into state 1, but continues"):
        tabular_from_gym(with_table(loop))


def test_rewards_of_entries_that_agree_in_the_next_state_are_averaged():
    table = {0: {0: [(0.25, 1, 4.0, True), (0.25, 1, 0.0, True), (0.5, 0, 3.0, False)]}, 1: {0: [(1.0, 1, 0.0, True)]}}
    mdp = tabular_from_gym(with_table(table))
    assert mdp.rows[0, 0].tolist() == [0.5, 0.5] and mdp.reward[0, 0].tolist() == [3, 2] and mdp.name == "Own"
