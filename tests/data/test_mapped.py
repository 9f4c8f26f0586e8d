"""Data sets larger than memory: large arrays are mapped, hold the same bits, and are never copied whole."""

from __future__ import annotations

import dataclasses
import tracemalloc
import zipfile

import numpy as np
import pytest
from micro_data import made, walk_data

import surefoot as sf
from surefoot.data import transitions
from surefoot.data.files import dataset, write_dataset
from surefoot.data.formats import mapped
from surefoot.data.transitions import COLUMNS, Transitions
from surefoot.errors import UsageError
from surefoot.loops.common.run import make_learner
from surefoot.methods.offline.baselines import IQL

pytest.importorskip("h5py", reason="HDF5 files need surefoot[offline]")
BOTH = pytest.mark.parametrize("name", ["large.npz", "large.hdf5"])
STATES = ("observation", "next_observation")


def large(rows: int = 200_000, seen: int = 24) -> Transitions:
    """Transitions of 41 MB, most of them states."""
    rng = np.random.default_rng(0)
    states = rng.normal(size=(rows + 1, seen)).astype(np.float32)
    action = rng.uniform(-1, 1, (rows, 1)).astype(np.float32)
    cut = np.arange(1, rows + 1) % 1000 == 0
    return Transitions(states[:-1], action, action[:, 0], states[1:], np.zeros(rows, bool), cut)


@pytest.fixture(autouse=True)
def small_is_large(tmp_path, monkeypatch):
    monkeypatch.setattr(mapped, "LARGE", 2**20)
    monkeypatch.setattr(transitions, "BLOCK", 2**13)
    monkeypatch.chdir(tmp_path)


@BOTH
def test_the_peak_of_memory_is_a_small_part_of_the_data_and_the_bits_are_the_same(name):
    data = large()
    write_dataset(data, name)
    make_learner(IQL(hidden=(8,), log_every=5), "", [0], 100, data=walk_data()).iterate()  # imports are no data
    tracemalloc.start()
    found = dataset(name)
    digest, (mean, deviation) = found.digest(), found.scale()
    learner = make_learner(IQL(hidden=(8,), log_every=5), "", [0], 100, data=found)
    learner.iterate()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8e6 < 38e6 < sum(getattr(data, column).nbytes for column in COLUMNS)
    assert digest == data.digest()
    for mine, theirs in zip((mean, deviation), data.scale(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    for column in STATES:
        assert isinstance(getattr(found, column), np.memmap)
        assert np.shares_memory(learner.columns[column].numpy(), getattr(found, column))


@BOTH
def test_a_run_on_mapped_data_is_that_on_the_same_data_in_memory(name):
    data = large(20_000)
    write_dataset(data, name)
    each = [make_learner(IQL(hidden=(8,), log_every=10), "", [0], 100, data=x) for x in (data, dataset(name))]
    assert isinstance(each[1].data.observation, np.memmap) and each[0].iterate() == each[1].iterate()


@BOTH
def test_the_file_stays_as_it_is(name):
    write_dataset(large(20_000), name)
    found = dataset(name)
    found.observation[:] = 0
    assert dataset(f"{'surefoot' if name.endswith('npz') else 'd4rl'}:{name}").observation.any()


def test_what_is_small_compressed_or_by_columns_is_read():
    data = large(20_000)
    arrays = {column: getattr(data, column) for column in COLUMNS}
    np.savez_compressed("pressed.npz", **arrays)
    np.savez("columns.npz", **arrays | {"observation": np.asfortranarray(data.observation)})
    for name in ("pressed.npz", "columns.npz"):
        found = dataset(name)
        assert not isinstance(found.observation, np.memmap) and found.digest() == data.digest()
    assert isinstance(dataset("columns.npz").next_observation, np.memmap)
    write_dataset(made(), "small.npz")
    assert not isinstance(dataset("small.npz").observation, np.memmap)


def test_numbers_of_another_type_are_converted_and_wrong_ones_named():
    data = large(20_000)
    arrays = {column: getattr(data, column) for column in COLUMNS}
    np.savez("double.npz", **arrays | {"observation": data.observation.astype(np.float64)})
    assert dataset("double.npz").digest() == data.digest()
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
