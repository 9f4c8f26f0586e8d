"""Data sets larger than memory: large arrays are mapped, hold the same bits, and are never copied whole."""

from __future__ import annotations

import dataclasses
import tracemalloc
import zipfile

import gymnasium as gym
import numpy as np
import pytest
from micro_data import made, walk_data

import surefoot as sf
from surefoot.data.files import dataset, write_dataset
from surefoot.data.formats import hdf5, mapped, own
from surefoot.data.transitions import COLUMNS, Transitions, joined
from surefoot.errors import UsageError
from surefoot.loops.common.run import make_learner
from surefoot.methods.offline.baselines import IQL

h5py = pytest.importorskip("h5py", reason="HDF5 files need surefoot[offline]")
FLAT = ("large.npz", "large.hdf5")
PIECES = ("pressed.npz", "chunks.hdf5", "minari:a/b-v0", "d3rlpy:large.h5", "robomimic:demos.hdf5", "ogbench:og.npz")
EVERY = pytest.mark.parametrize("name", [*FLAT, *PIECES])
STATES = ("observation", "next_observation")


def large(rows: int = 200_000, seen: int = 24) -> Transitions:
    """Transitions of 41 MB, most of them states."""
    rng = np.random.default_rng(0)
    states = rng.normal(size=(rows + 1, seen)).astype(np.float32)
    action = rng.uniform(-1, 1, (rows, 1)).astype(np.float32)
    cut = np.arange(1, rows + 1) % 1000 == 0
    return Transitions(
        states[:-1],
        action,
        action[:, 0],
        states[1:],
        np.zeros(rows, bool),
        cut,
        gym.spaces.Box(-1, 1, (1,), np.float32),
    )


def columns(data: Transitions) -> dict[str, np.ndarray]:
    """The arrays of a .npz of Surefoot."""
    return {column: getattr(data, column) for column in COLUMNS} | own.space_arrays(data.action_space)


def written(data: Transitions, name: str) -> None:
    """A file of this name: compressed, in compressed chunks without next observations, or by our writers."""
    arrays = columns(data)
    if name == "pressed.npz":
        np.savez_compressed(name, **arrays)
        return
    if name != "chunks.hdf5":
        write_dataset(data, name)
        return
    last = data.bounds[:, 1]
    with h5py.File(name, "w") as file:  # a row of the last state after every episode, which is cut there
        for key, column in {"observations": "observation", "actions": "action", "rewards": "reward"}.items():
            ends = data.next_observation[last - 1] if column == "observation" else arrays[column][last - 1]
            file.create_dataset(key, data=np.insert(arrays[column], last, ends, axis=0), chunks=True, compression=1)
        file["terminals"] = np.zeros(len(data) + len(last), bool)
        file["timeouts"] = np.insert(np.zeros(len(data), bool), last, True)
        hdf5.note(file, data.action_space, {})


@pytest.fixture(autouse=True)
def small_is_large(tmp_path, monkeypatch):
    monkeypatch.setattr(mapped, "LARGE", 2**20)
    monkeypatch.setattr(mapped, "BLOCK", 2**16)
    monkeypatch.setattr(mapped, "SPILL", 2**16)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)


@EVERY
def test_the_peak_of_memory_is_a_small_part_of_the_data_and_the_bits_are_the_same(name):
    data = large()
    written(data, name)
    make_learner(IQL(hidden=(8,), log_every=5), "", [0], 100, data=walk_data()).iterate()  # imports are no data
    tracemalloc.start()
    found = dataset(name)
    digest, (mean, deviation) = found.digest(), found.scale()
    learner = make_learner(IQL(hidden=(8,), log_every=5), "", [0], 100, data=found)
    learner.iterate()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12e6 < 38e6 < sum(getattr(data, column).nbytes for column in COLUMNS)
    assert digest == data.digest()
    for mine, theirs in zip((mean, deviation), data.scale(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    for column in STATES:
        assert isinstance(getattr(found, column), np.memmap)
        assert np.shares_memory(learner.columns[column].numpy(), getattr(found, column))


@EVERY
def test_a_run_on_mapped_data_is_that_on_the_same_data_in_memory(name):
    data = large(20_000)
    written(data, name)
    each = [make_learner(IQL(hidden=(8,), log_every=10), "", [0], 100, data=x) for x in (data, dataset(name))]
    assert isinstance(each[1].data.observation, np.memmap) and each[0].iterate() == each[1].iterate()


@pytest.mark.parametrize("name", FLAT)
def test_the_file_stays_as_it_is(name):
    write_dataset(large(20_000), name)
    found = dataset(name)
    found.observation[:] = 0
    assert dataset(f"{'surefoot' if name.endswith('npz') else 'd4rl'}:{name}").observation.any()


def test_what_is_small_or_by_columns_is_read():
    data = large(20_000)
    arrays = columns(data)
    np.savez("columns.npz", **arrays | {"observation": np.asfortranarray(data.observation)})
    found = dataset("columns.npz")
    assert not isinstance(found.observation, np.memmap) and found.digest() == data.digest()
    assert isinstance(found.next_observation, np.memmap)
    write_dataset(made(), "small.npz")
    assert not isinstance(dataset("small.npz").observation, np.memmap)


def test_numbers_of_another_type_are_converted_and_wrong_ones_named():
    data = large(20_000)
    arrays = columns(data)
    np.savez("double.npz", **arrays | {"observation": data.observation.astype(np.float64)})
    found = dataset("double.npz")
    assert isinstance(found.observation, np.memmap) and found.digest() == data.digest()
    wrong = data.observation.copy()
    wrong[15_000, 3] = np.nan
    np.savez("wrong.npz", **arrays | {"observation": wrong})
    with pytest.raises(UsageError, match="observation is not finite in row 15,000"):
        dataset("wrong.npz")


def test_an_array_that_is_cut_off_is_refused():
    data = large(20_000)
    write_dataset(data, "whole.npz")
    with zipfile.ZipFile("whole.npz") as file:
        parts = {name: file.read(name) for name in file.namelist()}
    parts["observation.npy"] = parts["observation.npy"][:-400]
    with zipfile.ZipFile("cut.npz", "w") as file:
        for name, part in parts.items():
            file.writestr(name, part)
    with pytest.raises(UsageError, match=r"cut.npz cannot be read as a .npz file of arrays"):
        dataset("cut.npz")


def test_arrays_of_the_user_that_are_mapped_stay_so():
    data = large(20_000)
    np.save("states.npy", data.observation)
    states = np.load("states.npy", mmap_mode="r")
    found = dataclasses.replace(data, observation=states)
    assert np.shares_memory(found.observation, states) and found.digest() == data.digest()
    assert sf.dataset(found) is found


# --- pieces -----------------------------------------------------------------------------------------------------------


def test_parts_of_mapped_data_and_several_sets_together_are_mapped():
    data = large(20_000)
    write_dataset(data, "large.npz")
    found = dataset("large.npz")
    for mine, theirs in (
        (found.of_episodes(np.array([7, 3, 5] * 5)), data.of_episodes(np.array([7, 3, 5] * 5))),
        (joined([found, found]), joined([data, data])),
    ):
        assert isinstance(mine.observation, np.memmap) and mine.digest() == theirs.digest()
    assert found.of_episodes(np.array([7, 3])).reward.tolist() == [*data.reward[7000:8000], *data.reward[3000:4000]]


def test_no_scratch_file_is_left_and_a_disk_without_room_is_told(tmp_path, monkeypatch):
    write_dataset(large(20_000), "d3rlpy:large.h5")
    before = sorted(tmp_path.iterdir())
    assert isinstance(dataset("large.h5").observation, np.memmap) and sorted(tmp_path.iterdir()) == before
    monkeypatch.setenv("TMPDIR", "/dev/full")
    write_dataset(large(20_000), "d3rlpy:other.h5")
    with pytest.raises(UsageError, match="cannot be written to /dev/full: .* Set TMPDIR to a folder on a disk"):
        dataset("other.h5")


def test_episodes_of_other_shapes_are_refused_with_their_row():
    write_dataset(made(), "d3rlpy:x.h5")
    with h5py.File("x.h5", "a") as file:
        del file["observations_1"]
        file["observations_1"] = np.zeros((2, 4), np.float32)
    with pytest.raises(UsageError, match=r"x.h5: observation: row 4 has the shape \(4,\).*before it have \(3,\)"):
        dataset("x.h5")
    write_dataset(made(), "robomimic:y.hdf5")
    with h5py.File("y.hdf5", "a") as file:
        del file["data/demo_1/rewards"]
        file["data/demo_1/rewards"] = np.zeros(2)
    with pytest.raises(UsageError, match=r"y.hdf5: the episode from row 4 has .*'reward': 2"):
        dataset("y.hdf5")
