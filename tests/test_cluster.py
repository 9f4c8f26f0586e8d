"""Work on a Ray cluster of two workers gives the bits that this process gives, also where a worker is killed."""

from __future__ import annotations

import os
import signal
import sys

import numpy as np
import pytest
import torch

import surefoot as sf
from surefoot import cluster
from surefoot.errors import UsageError
from surefoot.evaluate.stress import stress

TINY = {"num_envs": 2, "num_steps": 32, "minibatch_size": 32, "epochs": 2}


@pytest.fixture(scope="module")
def ray():
    """A cluster of two workers on this machine."""
    ray = pytest.importorskip("ray", reason="clusters need surefoot[scale]")
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # however the tests are imported
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR", object_store_memory=10**8)
    yield ray
    ray.shutdown()
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    torch.set_num_threads(threads)


def worth(seed: int) -> float:
    return float(torch.randn(50, 50, generator=torch.Generator().manual_seed(seed)).matrix_exp().sum())


def dies_once(seed: int, mark: str) -> float:
    """Kills its worker the first time."""
    if not os.path.exists(mark):
        open(mark, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return worth(seed)


def refuses(seed: int) -> float:
    raise UsageError(f"seed={seed} is refused.")


def pushed(observation: np.ndarray) -> np.ndarray:
    return (observation[:, 2] > 0).astype(np.int64)


@pytest.mark.slow  # a cluster takes seconds to start
def test_a_cluster_computes_the_same_bits_and_replaces_a_killed_worker(ray, tmp_path):
    mark = str(tmp_path / "mark")
    assert cluster.spread(dies_once, [(seed, mark) for seed in range(3)], "ray") == [worth(seed) for seed in range(3)]
    assert os.path.exists(mark) and cluster.width("ray") == 2
    with pytest.raises(UsageError, match="seed=1 is refused"):
        cluster.spread(refuses, [(1,)], "ray")


@pytest.mark.slow
def test_comparisons_and_stress_tests_are_those_of_this_process(ray, tmp_path):
    here, there = (
        sf.compare(["ppo", "spo"], "CartPole-v1", seeds=2, steps=256, out=tmp_path / (on or "here"), on=on, **TINY)
        for on in ("", "ray")
    )
    assert here.to_json() == there.to_json()
    found = [stress(pushed, "CartPole-v1", "observation-noise:0..0.2", 2, points=3, on=on) for on in ("", "ray")]
    assert np.array_equal(found[0].returns, found[1].returns) and found[0].worst == found[1].worst


@pytest.mark.slow
def test_a_claim_is_measured_on_a_cluster(ray, tmp_path):
    one, other = (sf.claim("max-at-k", tier="mechanism", out=tmp_path / (on or "here"), on=on) for on in ("", "ray"))
    assert {name: found.word for name, found in one.items()} == {name: found.word for name, found in other.items()}


@pytest.mark.slow
def test_a_study_on_a_cluster_is_that_of_this_process(ray, tmp_path):
    pytest.importorskip("optuna", reason="tuning needs surefoot[tune]")
    given = {"trials": 4, "steps": 64, "seeds": 1, "evaluations": 2, "evaluate_episodes": 1, "final_seeds": 2, **TINY}
    here, there = (
        sf.tune("ppo", "CartPole-v1", at_once=2, out=tmp_path / (on or "here"), on=on, only=["clip"], **given)
        for on in ("", "ray")
    )
    assert here.trials == there.trials and here.final == there.final


def test_without_a_cluster_pieces_are_computed_here():
    assert cluster.spread(worth, [(1,), (2,)]) == [worth(1), worth(2)] and cluster.width("") == 1


def test_other_clusters_and_a_missing_ray_are_refused(monkeypatch):
    with pytest.raises(UsageError, match="on='dask' is not allowed; it must be 'ray'"):
        cluster.spread(worth, [(1,)], "dask")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"pip install 'surefoot\[scale\]'"):
        cluster.spread(worth, [(1,)], "ray")
