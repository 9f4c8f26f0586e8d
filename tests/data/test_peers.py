"""Files of data sets against the libraries whose layouts they are. SUREFOOT_D3RLPY, SUREFOOT_MINARI (with its extra
`create`), SUREFOOT_OGBENCH and SUREFOOT_ROBOMIMIC name the Pythons that have them. D4RL can no longer be installed and
is read here as its `qlearning_dataset` reads it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from micro_data import made

from surefoot.data.files import dataset, write_dataset
from surefoot.data.transitions import COLUMNS, Transitions

h5py = pytest.importorskip("h5py", reason="HDF5 files need surefoot[offline]")
SCRIPT = Path(__file__).with_name("peer_files.py")
LENGTHS = (4, 1, 3, 7, 2)
SPACES = pytest.mark.parametrize("space", [gym.spaces.Box(-2, 2, (2,), np.float32), gym.spaces.Discrete(3)], ids=str)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.chdir(tmp_path)


def asked(*words: str) -> None:
    """What a peer does with a file; a test is skipped where the peer is not there."""
    variable = f"SUREFOOT_{words[0].partition('_')[0].rstrip('1').upper()}"
    if (python := os.environ.get(variable)) is None:
        pytest.skip(f"{variable} names no Python with it")
    done = subprocess.run([python, SCRIPT, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def agree(mine: Transitions, theirs: dict[str, np.ndarray]) -> None:
    """Bit for bit, but for what follows an end of the task, which nobody looks at."""
    found = {column: getattr(mine, column) for column in COLUMNS} | {"ended": mine.ended}
    for name, x in theirs.items():
        rows = ~mine.terminated if name == "next_observation" else np.ones(len(mine), bool)
        x = x.reshape(found[name].shape) if name == "action" else x
        np.testing.assert_array_equal(found[name][rows], x.astype(found[name].dtype)[rows], err_msg=name)


@SPACES
@pytest.mark.parametrize("layout", ["d3rlpy", "minari", "ogbench", "robomimic"])
def test_a_peer_reads_what_we_write(layout, space):
    data = made(LENGTHS, space=space)
    place = write_dataset(data, f"{layout}:ours/file-v0")
    asked(layout, "read", str(place), "theirs.npz")
    agree(data, dict(np.load("theirs.npz")))


@SPACES
@pytest.mark.parametrize("layout", ["d3rlpy", "d3rlpy1", "minari", "ogbench", "robomimic", "robomimic_short"])
def test_we_read_what_a_peer_writes_as_it_does(layout, space):
    data = made(LENGTHS, space=space)
    np.savez("data.npz", **{column: getattr(data, column) for column in COLUMNS})
    place = "minari/theirs/file-v0" if layout == "minari" else "theirs.file"
    asked(layout, "write", "data.npz", place)
    found = dataset(f"{layout.partition('_')[0].rstrip('1')}:{place}")
    asked(layout, "read", place, "theirs.npz")
    theirs = dict(np.load("theirs.npz"))
    if layout == "robomimic_short":  # it gives the last row of a cut demonstration without an observation after it
        kept = ~data.truncated
        theirs = {name: x[kept] for name, x in theirs.items()}
    agree(found, theirs)
    assert len(found) == len(theirs["action"]) >= len(data) - 2


# --- Minari ----------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::UserWarning")
@SPACES
def test_minari_samples_filters_and_joins_what_we_write(space):
    minari = pytest.importorskip("minari", reason="needs surefoot[offline]")
    data = made(LENGTHS, space=space)
    for name in ("ours/one-v0", "ours/two-v0"):
        write_dataset(data, f"minari:{name}")
    one, two = (minari.load_dataset(name) for name in ("ours/one-v0", "ours/two-v0"))
    assert one.spec.total_steps == len(data) and one.spec.total_episodes == data.episodes
    assert one.spec.action_space == space and one.spec.observation_space == data.observation_space
    long = one.filter_episodes(lambda found: len(found.rewards) > 2)
    assert sorted(len(found.rewards) for found in long.sample_episodes(3)) == [3, 4, 7]
    minari.combine_datasets([one, two], "ours/both-v0")
    both = dataset("minari:ours/both-v0")
    assert both.episodes == 2 * data.episodes and both.reward.tolist() == 2 * data.reward.tolist()


# --- D4RL ------------------------------------------------------------------------------------------------------------


def qlearning_dataset(arrays: dict[str, np.ndarray], horizon: int | None = None) -> dict[str, np.ndarray]:
    """What D4RL gives of the arrays of a file: no next observations of their own, no step that was cut, not the last
    row. Where the file does not say what was cut, steps are counted; after an end of the task from 1, not 0."""
    rows, steps = [], 0
    for i in range(len(arrays["rewards"]) - 1):
        cut = arrays["timeouts"][i] if "timeouts" in arrays else steps == horizon - 1
        ended = bool(arrays["terminals"][i])
        if not cut:
            rows.append((arrays["observations"][i], arrays["actions"][i], arrays["rewards"][i]))
            rows[-1] += (arrays["observations"][i + 1], ended)
        steps = 0 if cut else 1 if ended else steps + 1
    names = ("observation", "action", "reward", "next_observation", "terminated")
    return {name: np.array(x) for name, x in zip(names, zip(*rows, strict=True), strict=True)}


def logged(seed: int, ends: float, cuts: float, rows: int = 200) -> dict[str, np.ndarray]:
    """Rows as D4RL keeps them, with ends and cuts at random."""
    g = np.random.default_rng(seed)
    terminals = g.random(rows) < ends
    arrays = {"observations": g.normal(size=(rows, 3)), "actions": g.uniform(-1, 1, (rows, 2))}
    arrays = {name: x.astype(np.float32) for name, x in arrays.items()}
    timeouts = (g.random(rows) < cuts) & ~terminals
    return arrays | {"rewards": g.normal(size=rows).astype(np.float32), "terminals": terminals, "timeouts": timeouts}


def put(arrays: dict[str, np.ndarray]) -> str:
    """The file of the arrays."""
    with h5py.File("theirs.hdf5", "w") as file:
        for name, x in arrays.items():
            file[name] = x
        file["infos/qpos"], file["metadata/policy"] = np.zeros((3, 2)), "none"
    return "theirs.hdf5"


@pytest.mark.parametrize("seed", range(5))
def test_we_read_d4rl_as_its_qlearning_dataset(seed):
    arrays = logged(seed, 0.05, 0.05)
    found, theirs = dataset(put(arrays)), qlearning_dataset(arrays)
    for name, x in theirs.items():
        np.testing.assert_array_equal(getattr(found, name), x, err_msg=name)
    cut = np.append(arrays["timeouts"][1:], False) | (np.arange(200) == 198)  # what has no successor in the file
    kept = (~arrays["timeouts"])[:-1].nonzero()[0]
    np.testing.assert_array_equal(found.truncated, cut[kept] & ~arrays["terminals"][kept])


def test_without_timeouts_the_step_limit_cuts_as_in_qlearning_dataset_but_for_its_miscount_after_an_end():
    arrays = logged(7, 0, 0)
    del arrays["timeouts"]
    found, theirs = dataset(put(arrays), horizon=17), qlearning_dataset(arrays, 17)
    for name, x in theirs.items():
        np.testing.assert_array_equal(getattr(found, name), x, err_msg=name)
    arrays = {name: x[:11] for name, x in arrays.items()} | {"terminals": np.arange(11) == 1}
    found, theirs = dataset(put(arrays), horizon=4), qlearning_dataset(arrays, 4)
    rows = arrays["rewards"].tolist()
    assert found.reward.tolist() == [rows[i] for i in (0, 1, 2, 3, 4, 6, 7, 8)]  # row 5 is the fourth after the end
    assert theirs["reward"].tolist() == [rows[i] for i in (0, 1, 2, 3, 5, 6, 7, 9)]


def test_d4rl_reads_what_we_write():
    """It loses the steps that were cut, and gives the next episode's first observation after an end of the task."""
    data = made(LENGTHS)
    with h5py.File(write_dataset(data, "ours.hdf5")) as file:
        theirs = qlearning_dataset({name: file[name][()] for name in file})
    kept = np.flatnonzero(~data.truncated & (np.arange(len(data)) < len(data) - 1))
    for name, x in theirs.items():
        rows = ~theirs["terminated"] if name == "next_observation" else slice(None)
        np.testing.assert_array_equal(x[rows], getattr(data, name)[kept][rows], err_msg=name)


# --- what stands in our files ----------------------------------------------------------------------------------------


def shapes(file: h5py.Group) -> dict[str, str]:
    """Shape and type of every array by its path."""
    found: dict[str, str] = {}
    file.visititems(lambda name, x: found.update({name: f"{x.shape} {x.dtype}"} if hasattr(x, "dtype") else {}))
    return found


def test_the_arrays_of_our_files_are_those_of_the_layouts():
    data = made((2, 1))
    with h5py.File(write_dataset(data, "d3rlpy:a.h5")) as file:
        found = shapes(file)
        assert {name: found[name] for name in found if "_1" in name} == {
            "observations_1": "(2, 3) float32",  # one row more than transitions, for the last state of a cut episode
            "actions_1": "(2, 2) float32",
            "rewards_1": "(2, 1) float32",
            "terminated_1": "() bool",
        }
        assert found["observations_0"] == "(2, 3) float32" and file["version"][()] == b"2.1"
        assert file["columns"][()].tolist() == [b"observations", b"actions", b"rewards", b"terminated"]
        assert file["num_episodes"][()] == 2
    with h5py.File(write_dataset(data, "robomimic:b.hdf5")) as file:
        assert {name for name in shapes(file) if name.startswith("data/demo_1")} == {
            f"data/demo_1/{name}" for name in ("actions", "rewards", "dones", "obs/flat", "next_obs/flat")
        }
        assert file["data"].attrs["total"] == 3 and file["data/demo_0"].attrs["num_samples"] == 2
        assert file["data/demo_0/dones"][()].tolist() == [0, 1] and file["data/demo_1/dones"][()].tolist() == [0]
    with h5py.File(write_dataset(data, "c.hdf5")) as file:
        names = {"observations", "actions", "rewards", "next_observations", "terminals", "timeouts"}
        assert set(file) == names and file["terminals"][()].tolist() == [False, True, False]
        assert file["timeouts"][()].tolist() == [False, False, True] and file["rewards"].shape == (3,)
    found = np.load(write_dataset(data, "ogbench:d.npz"))
    assert found["terminals"].tolist() == [0, 0, 1, 0, 1] and found["masks"].tolist() == [1, 0, 1, 1, 1]
    assert {name: found[name].shape for name in ("observations", "actions", "rewards")} == {
        "observations": (5, 3),
        "actions": (5, 2),
        "rewards": (5,),
    }
    with h5py.File(write_dataset(data, "minari:x/y-v0") / "data" / "main_data.hdf5") as file:
        assert shapes(file["episode_1"]) == {
            "observations": "(2, 3) float32",
            "actions": "(1, 2) float32",
            "rewards": "(1,) float32",
            "terminations": "(1,) bool",
            "truncations": "(1,) bool",
        }


def test_robomimic_without_next_observations_gives_those_of_the_next_rows():
    with h5py.File("short.hdf5", "w") as file:
        for number, done in enumerate((0, 1)):
            demo = file.create_group(f"data/demo_{number}")
            demo["obs/x"] = np.arange(3, dtype=np.float32)[:, None] + 10 * number
            demo["actions"], demo["rewards"], demo["dones"] = np.zeros((3, 1)), np.ones(3), np.array([0, 0, done])
    data = dataset("short.hdf5")
    assert data.observation[:, 0].tolist() == [0, 1, 10, 11, 12]
    assert data.next_observation[:4, 0].tolist() == [1, 2, 11, 12]
    assert data.truncated.nonzero()[0].tolist() == [1] and data.terminated.nonzero()[0].tolist() == [4]
