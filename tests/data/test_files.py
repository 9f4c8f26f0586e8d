"""Files of data sets: one set through every layout gives the same bits, and each layout's own rules and traps."""

from __future__ import annotations

import dataclasses
import json

import gymnasium as gym
import numpy as np
import pytest
from micro_data import made

from surefoot.data.files import LAYOUTS, dataset, write_dataset
from surefoot.data.transitions import COLUMNS, Transitions
from surefoot.errors import UsageError

h5py = pytest.importorskip("h5py", reason="HDF5 files need surefoot[offline]")
EVERY = ("own.npz", "d4rl.hdf5", "d3rlpy:d3rlpy.h5", "ogbench:ogbench.npz", "robomimic:robomimic.hdf5", "minari:x/y-v0")


def same(one: Transitions, other: Transitions) -> None:
    for column in COLUMNS:
        mine, theirs = getattr(one, column), getattr(other, column)
        assert mine.dtype == theirs.dtype and mine.shape == theirs.shape, column
        assert mine.tobytes() == theirs.tobytes(), column


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("space", [gym.spaces.Box(-2, 2, (2,), np.float32), gym.spaces.Discrete(3)], ids=str)
@pytest.mark.parametrize("name", EVERY)
def test_one_data_set_through_every_layout_gives_the_same_bits(name, space):
    data = made(space=space)
    place = write_dataset(data, name)
    again = dataset(name if name.startswith("minari") else str(place))  # without its layout, which is found
    same(data, again)
    assert again.action_space == space and again.digest() == data.digest()


def test_a_chain_through_all_layouts_ends_where_it_began():
    data = found = made((5, 2, 1, 6, 3), seed=3)
    for name in EVERY:
        write_dataset(found, name)
        found = dataset(name)
    same(data, found)


@pytest.mark.parametrize("name", ["d3rlpy:x.h5", "ogbench:x.npz", "minari:x/y-v0"])
def test_data_whose_states_do_not_follow_are_not_written_as_states(name):
    data = made()
    moved = data.next_observation.copy()
    moved[1] += 1
    with pytest.raises(UsageError, match="next observation of row 1 is not the observation of the row after it"):
        write_dataset(dataclasses.replace(data, next_observation=moved), name)
    write_dataset(dataclasses.replace(data, next_observation=moved), "d4rl.hdf5")
    assert (dataset("d4rl.hdf5").next_observation == moved).all()


# --- each layout's own rules -----------------------------------------------------------------------------------------


def flat(rows: int, **more) -> None:
    """A file of D4RL with these arrays besides the states 0, 1, 2, …"""
    arrays = {"observations": np.arange(rows)[:, None].astype(np.float32), "rewards": np.arange(rows, dtype=np.float32)}
    arrays |= {"actions": np.zeros((rows, 1), np.float32), "terminals": np.zeros(rows, bool), **more}
    with h5py.File("flat.hdf5", "w") as file:
        for name, x in arrays.items():
            file[name] = x


def marked(rows: int, *which: int) -> np.ndarray:
    return np.isin(np.arange(rows), which)


def test_d4rl_rows_without_next_observations_are_those_of_qlearning_dataset():
    flat(6, terminals=marked(6, 2), timeouts=marked(6, 5))
    data = dataset("flat.hdf5")
    assert len(data) == 5 and data.terminated.nonzero()[0].tolist() == [2]
    assert data.next_observation[:, 0].tolist() == [1, 2, 3, 4, 5] and data.truncated.nonzero()[0].tolist() == [4]


def test_d4rl_drops_the_row_of_a_cut_and_a_termination_wins():
    flat(7, terminals=marked(7, 5), timeouts=marked(7, 2, 5), rewards=np.arange(7, dtype=np.float32)[:, None])
    data = dataset("flat.hdf5")
    assert data.reward.tolist() == [0, 1, 3, 4, 5] and data.terminated.nonzero()[0].tolist() == [4]
    assert data.truncated.nonzero()[0].tolist() == [1]


def test_d4rl_without_timeouts_needs_the_step_limit():
    flat(8, terminals=marked(8, 1))
    with pytest.raises(UsageError, match="does not say where episodes were cut.*horizon=1000"):
        dataset("flat.hdf5")
    data = dataset("flat.hdf5", horizon=3)  # rows 2, 3, 4 are an episode of three steps
    assert data.reward.tolist() == [0, 1, 2, 3, 5, 6]
    assert data.terminated.nonzero()[0].tolist() == [1] and data.truncated.nonzero()[0].tolist() == [3, 5]
    with pytest.raises(UsageError, match="horizon=3 is not allowed for a file of surefoot"):
        write_dataset(data, "own.npz"), dataset("own.npz", horizon=3)


def test_d4rl_with_next_observations_finds_the_cuts_by_itself():
    after = np.array([1, 2, 9, 4, 5, 6], np.float32)[:, None]
    flat(6, next_observations=after)
    assert dataset("flat.hdf5").truncated.nonzero()[0].tolist() == [2, 5]


def test_ogbench_has_a_void_action_at_the_end_of_a_trajectory():
    ends = marked(10, 4, 9).astype(np.float32)
    states = np.arange(10, dtype=np.float32)[:, None]
    np.savez("og.npz", observations=states, actions=np.ones((10, 2), np.float32), terminals=ends)
    data = dataset("og.npz")
    assert len(data) == 8 and data.truncated.nonzero()[0].tolist() == [3, 7] and not data.terminated.any()
    assert data.next_observation[:, 0].tolist() == [1, 2, 3, 4, 6, 7, 8, 9] and not data.reward.any()


def test_d3rlpy_has_no_state_after_the_last_row():
    with h5py.File("three.h5", "w") as file:
        file["columns"] = ["observations", "actions", "rewards", "terminated"]
        for i, end in enumerate((True, False)):
            file[f"observations_{i}"] = np.arange(3, dtype=np.float32)[:, None] + 10 * i
            file[f"actions_{i}"], file[f"rewards_{i}"] = np.zeros((3, 1), np.float32), np.ones((3, 1), np.float32)
            file[f"terminated_{i}"] = end
    data = dataset("three.h5")
    assert data.next_observation[:, 0].tolist() == [1, 2, 0, 11, 12]
    assert data.terminated.nonzero()[0].tolist() == [2] and data.truncated.nonzero()[0].tolist() == [4]


def test_d3rlpy_version_1_is_flat():
    columns = {"terminals": marked(5, 1), "episode_terminals": marked(5, 1, 4)}
    flat(5, **columns)
    data = dataset("flat.hdf5")
    assert data.reward.tolist() == [0, 1, 2, 3] and data.terminated.nonzero()[0].tolist() == [1]


def test_episodes_are_read_in_the_order_of_their_numbers():
    data = made(tuple(range(1, 13)))
    for name in ("d3rlpy:x.h5", "minari:x/y-v0", "robomimic:x.hdf5"):
        write_dataset(data, name)
        assert np.diff(dataset(name).bounds, axis=1)[:, 0].tolist() == [*range(1, 13)], name


def test_robomimic_joins_the_observations_that_are_asked_for():
    with h5py.File("demos.hdf5", "w") as file:
        demo = file.create_group("data/demo_0")
        for part in ("obs", "next_obs"):
            demo[f"{part}/b"], demo[f"{part}/a"] = np.ones((3, 2)), np.zeros((3, 1))
            demo[f"{part}/image"] = np.zeros((3, 4, 4, 3), np.uint8)
        demo["actions"], demo["rewards"], demo["dones"] = np.zeros((3, 1)), np.ones(3), np.array([0, 1, 1])
    data = dataset("demos.hdf5")
    assert data.observation[0].tolist() == [0, 1, 1] and data.terminated.tolist() == [False, False, True]
    assert dataset("demos.hdf5", keys=["b"]).observation.shape == (3, 2)
    with pytest.raises(UsageError, match="no observations c; it has a, b, image"):
        dataset("demos.hdf5", keys=["c"])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_minari_itself_reads_and_writes_the_same(tmp_path):
    minari = pytest.importorskip("minari", reason="needs surefoot[offline]")
    data = made()
    write_dataset(data, "minari:ours/made-v0")
    theirs = list(minari.load_dataset("ours/made-v0").iterate_episodes())
    assert [len(one.rewards) for one in theirs] == [4, 1, 3]
    for one, (first, past) in zip(theirs, data.bounds, strict=True):
        assert (one.observations[:-1] == data.observation[first:past]).all()
        assert (one.observations[1:] == data.next_observation[first:past]).all()
        assert (one.actions == data.action[first:past]).all() and (one.rewards == data.reward[first:past]).all()
        assert one.terminations[-1] == data.terminated[past - 1] and one.truncations[-1] == data.truncated[past - 1]

    from minari.data_collector import EpisodeBuffer

    t = np.arange(4, dtype=np.float32)[:, None]
    episode = EpisodeBuffer(
        observations={"b": np.concatenate([t, t], 1), "a": -t},
        actions=np.full((3, 1), 0.5, np.float32),
        rewards=[1.0, 2.0, 3.0],
        terminations=[False, False, True],
        truncations=[False] * 3,
    )
    spaces = {"b": gym.spaces.Box(-9, 9, (2,)), "a": gym.spaces.Box(-9, 9, (1,))}
    minari.create_dataset_from_buffers(
        "theirs/walk-v0",
        [episode, episode],
        observation_space=gym.spaces.Dict(spaces),
        action_space=gym.spaces.Box(-2, 2, (1,)),
    )
    found = dataset("minari:theirs/walk-v0")
    assert found.observation.tolist() == [[-t, t, t] for t in (0, 1, 2)] * 2 and found.reward.tolist() == [1, 2, 3] * 2
    assert found.next_observation[2].tolist() == [-3, 3, 3] and found.terminated.nonzero()[0].tolist() == [2, 5]
    assert found.action_space == gym.spaces.Box(-2, 2, (1,))


# --- what is refused -------------------------------------------------------------------------------------------------


def test_what_is_not_there_or_no_data_set_is_refused():
    for name, said in {
        "nowhere.npz": "is not there",
        "minari:a/b-v0": "Minari's data sets on this machine are in",
        "d4rk:x.h5": "Did you mean 'd4rl'",
    }.items():
        with pytest.raises(UsageError, match=said):
            dataset(name)
    with open("text.npz", "w") as file:
        file.write("no arrays")
    with pytest.raises(UsageError, match="neither a .npz nor an HDF5 file"):
        dataset("text.npz")
    with pytest.raises(UsageError, match="does not say in which layout to write"):
        write_dataset(made(), "data.csv")
    with pytest.raises(UsageError, match="data=3 is not a data set"):
        dataset(3)
    np.savez("part.npz", observation=np.zeros(3))
    with pytest.raises(UsageError, match="lacks the arrays action, reward"):
        dataset("part.npz")
    write_dataset(made(), "minari:x/y-v0")
    with pytest.raises(UsageError, match="exists already"):
        write_dataset(made(), "minari:x/y-v0")


def test_a_file_cannot_name_another_file():
    flat(6, timeouts=marked(6, 5))
    with h5py.File("linked.hdf5", "w") as file:
        file["actions"], file["rewards"] = np.zeros((6, 1)), np.zeros(6)
        file["terminals"], file["timeouts"] = np.zeros(6, bool), marked(6, 5)
        file["observations"] = h5py.ExternalLink("flat.hdf5", "observations")
    with pytest.raises(UsageError, match="'observations' in / lies in another file"):
        dataset("linked.hdf5")
    with h5py.File("linked.hdf5", "a") as file:
        del file["observations"]
        layout = h5py.VirtualLayout((6, 1), dtype="f4")
        layout[:] = h5py.VirtualSource("flat.hdf5", "observations", (6, 1), dtype="f4")
        file.create_virtual_dataset("observations", layout)
    with pytest.raises(UsageError, match="lies in another file"):
        dataset("linked.hdf5")


def test_bounds_of_actions_can_be_given_where_a_file_has_none():
    with h5py.File("wide.hdf5", "w") as file:
        file["observations"], file["actions"] = np.zeros((3, 1)), np.full((3, 2), 1.5)
        file["rewards"] = np.zeros(3)
        file["terminals"], file["timeouts"] = np.zeros(3, bool), marked(3, 2)
    data = dataset("wide.hdf5", low=-2, high=[2, 3])
    assert data.action_space.high.tolist() == [2, 3]
    with pytest.raises(UsageError, match="must be given together"):
        dataset("wide.hdf5", low=-2)
    with pytest.raises(UsageError, match="outside of Box"):
        dataset("wide.hdf5", low=-1, high=1)


def test_a_damaged_space_in_the_metadata_of_minari_is_refused(tmp_path):
    place = write_dataset(made(), "minari:x/y-v0")
    about = json.loads((place / "data" / "metadata.json").read_text())
    (place / "data" / "metadata.json").write_text(json.dumps({**about, "action_space": '{"type": "Box"}'}))
    with pytest.raises(UsageError, match="the action space in metadata.json is damaged"):
        dataset("minari:x/y-v0")


def test_every_layout_is_tried():
    assert {name.partition(":")[0] for name in EVERY if ":" in name} | {"surefoot", "d4rl"} == {*LAYOUTS}
