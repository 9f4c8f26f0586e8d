"""The law of devices: what is computed on another device never meets a tensor of the CPU, and gives its very bits."""

from __future__ import annotations

import dataclasses

import pytest
import test_laws
import test_tabular_laws
import torch
from pretended_device import Pretended, pretended
from torch.utils._pytree import tree_leaves

import surefoot as sf
from surefoot.cli import main
from surefoot.envs.tabular import Successors, resolve
from surefoot.errors import UsageError
from surefoot.loops.common.run import make_learner
from surefoot.loops.tabular.learner import TabularLearner
from surefoot.methods.control.gradient_subspaces import Subspaces
from surefoot.models.device import CPU, chosen_device, computing_on
from surefoot.seeding import torch_stream

SIZES = {"num_envs": 2, "num_steps": 6, "minibatch_size": 6, "hidden": (4,), "epochs": 1, "cg_iterations": 2}
SIZES |= {"analysis_every": 2, "subspaces": (2,), "behaviour_steps": 3, "behaviour_epochs": 1}
ITERATIONS = 2


def learner(slug: str, env: str = "CartPole-v1", seeds=(0,), device: str = "cpu", **changes):
    return make_learner(test_laws.small(slug, **{**SIZES, **changes}), env, list(seeds), 10**6, device=device)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    """All tensors are on the CPU and equal to the bit."""
    assert one.keys() == other.keys()
    for name, x in one.items():
        assert x.device == CPU and not isinstance(x, Pretended), name
        torch.testing.assert_close(x, other[name], rtol=0, atol=0, equal_nan=True)


def check_on_policy(slug: str, *args, **changes) -> None:
    """The first iterations, in which the buffer of `props` fills and `gradient-subspaces` analyses."""
    here = learner(slug, *args, **changes)
    rows = [here.iterate() for _ in range(ITERATIONS)]
    with pretended() as device:
        there = learner(slug, *args, device=device, **changes)
        assert [there.iterate() for _ in range(ITERATIONS)] == rows
        moved = there.vector, there.adam, there.extra, there.moments, there.reward_moments, there.discounted
        assert all(isinstance(x, Pretended) for x in tree_leaves(moved))
        state, agent = there.state(), there.agent()
    same(state, here.state())
    assert torch.equal(agent.vector, here.agent().vector) and not isinstance(agent.vector, Pretended)
    assert not any(isinstance(x, Pretended) for x in tree_leaves(agent.scales))


# --- what the pretended device refuses -------------------------------------------------------------------------------


def test_tensors_of_two_devices_do_not_meet():
    with pretended() as device:
        x = torch.arange(3.0, device=device)
        assert x.device.type == device and x.sum().item() == 3.0 and (x + torch.tensor(1.0)).tolist() == [1, 2, 3]
        for mixed in (
            lambda: x + torch.ones(3),
            lambda: torch.stack([x[0], torch.zeros(())]),
            lambda: x[torch.tensor([0])],
            lambda: torch.where(torch.ones(3, dtype=torch.bool), x, x),
        ):
            with pytest.raises(RuntimeError, match="two devices"):
                mixed()


def test_a_stream_draws_the_same_numbers_on_every_device():
    def drawn() -> list[torch.Tensor]:
        stream = torch_stream(0, "draws")
        chances = torch.tensor([0.2, 0.3, 0.5])
        return [
            torch.rand(3, generator=stream),
            torch.randn(2, 2, generator=stream),
            torch.randint(9, (4,), generator=stream),
            torch.randperm(5, generator=stream),
            torch.multinomial(chances, 6, replacement=True, generator=stream),
        ]

    here = drawn()
    with pretended() as device, computing_on(torch.device(device)):
        there = drawn()
        assert all(isinstance(x, Pretended) for x in [*there, torch.zeros(()), torch.tensor(1.0)])
        with computing_on(CPU):  # as when policies act
            assert all(torch.equal(x, y) for x, y in zip(drawn(), here, strict=True))
        there = [x.cpu() for x in there]
    assert all(torch.equal(x, y) for x, y in zip(there, here, strict=True))


# --- every method ----------------------------------------------------------------------------------------------------


@test_laws.every_method
def test_an_iteration_on_a_device_is_that_on_the_cpu(slug):
    check_on_policy(slug)


@pytest.mark.parametrize(
    ("slug", "env", "changes"),
    [
        ("ppo", "surefoot/MaskedAction-v0", {"core": "gru"}),
        ("ppo", "surefoot/MultiDiscreteTarget-v0", {"penalty": "adaptive", "target_kl": 0.01}),
        ("props", "surefoot/MaskedAction-v0", {"core": "gru", "normalize_observations": False}),
        ("definitive-guide", "surefoot/ContinuousTarget-v0", {"squash": True}),
        ("fixpo", "surefoot/ContinuousTarget-v0", {"max_kl": 1e-6, "fixup_sweeps": 1}),
        ("polyak-pg", "CartPole-v1", {"vstar": "best"}),
    ],
)
def test_so_it_is_in_every_kind_of_space_and_network(slug, env, changes):
    check_on_policy(slug, env, **changes)


def test_so_it_is_of_several_seeds():
    check_on_policy("ppo", seeds=(0, 1))


def test_a_run_from_a_device_resumes_on_the_cpu_and_back():
    whole = learner("ppo")
    rows = [whole.iterate() for _ in range(3)]
    with pretended() as device:
        first = learner("ppo", device=device)
        found = [first.iterate()]
        second = learner("ppo")
        second.load(first.state(), first.iteration, 0)
        second.collector = first.collector  # there is no log to play back
        found.append(second.iterate())
        third = learner("ppo", device=device)
        third.load(second.state(), second.iteration, 0)
        third.collector = second.collector
        found.append(third.iterate())
        assert isinstance(third.vector, Pretended)
        same(third.state(), whole.state())
    assert found == rows


def test_the_callback_analyses_on_the_device():
    def analysed(device: str) -> list[dict]:
        run = learner("spo", device=device)
        rows = run.iterate()
        Subspaces("CartPole-v1", every=1, steps=32, subspaces=(1, 2))(run, rows)
        return rows

    with pretended() as device:
        there = analysed(device)
    assert there == analysed("cpu") and "actor/subspace_fraction_2" in there[0]


def check_tabular(method, mdp) -> None:
    here = TabularLearner(method, mdp, [0])
    rows = [here.iterate() for _ in range(ITERATIONS)]
    with pretended() as device:
        there = TabularLearner(method, mdp, [0], device)
        assert [there.iterate() for _ in range(ITERATIONS)] == rows
        assert all(isinstance(x, Pretended) for x in tree_leaves(there.states))
        state, policy = there.state(), there.agent().policy
        again = TabularLearner(method, mdp, [0], device)
        again.load(state, ITERATIONS, 0)
        assert again.iterate() == there.iterate()
    same(state, here.state())
    same({"policy": policy}, {"policy": here.agent().policy})
    resumed = TabularLearner(method, mdp, [0])
    resumed.load(state, ITERATIONS, 0)
    assert resumed.iterate() == here.iterate()


@test_tabular_laws.every_method
def test_a_tabular_step_on_a_device_is_that_on_the_cpu(slug):
    method = test_tabular_laws.made(slug)
    check_tabular(method, test_tabular_laws.admitted(method)[-1])


def test_all_that_an_mdp_holds_is_moved():
    """The tables of changing rewards, and where the pairs of a sparse kernel lead."""
    check_tabular(test_tabular_laws.made("best-of-both-worlds"), resolve("layers"))
    dense = resolve("garnet:4,3,2,seed=1,gamma=0.8")
    sparse = Successors(torch.arange(4).expand(4, 3, 4), dense.transition)
    check_tabular(test_tabular_laws.made("pamc"), dataclasses.replace(dense, transition=sparse))


# --- the option ------------------------------------------------------------------------------------------------------


def test_auto_is_a_gpu_where_there_is_one(monkeypatch):
    for found, name in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda found=found: found)
        assert chosen_device("auto") == name and chosen_device("cpu") == "cpu"


@pytest.mark.parametrize(("slug", "env"), [("ppo", "CartPole-v1"), ("rfzi", "two-state")])
def test_a_device_that_is_not_there_is_refused_before_anything_is_made(slug, env, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    place = tmp_path / "run"
    for device, said in (("cuda", "device='auto' or 'cpu'"), ("gpu", "'cuda'")):
        with pytest.raises(UsageError, match=said):
            sf.train(slug, env, 1, run_dir=place, device=device)
    with pytest.raises(SystemExit, match="2"):
        main(["train", slug, "--env", env, "--steps", "1", "--run-dir", str(place), "--device", "cuda"])
    assert "PyTorch sees no GPU here" in capsys.readouterr().err and not place.exists()


@pytest.mark.parametrize(("slug", "env", "steps"), [("reinforce", "CartPole-v1", 4096), ("rfzi", "two-state", 4)])
def test_a_run_says_its_device_and_resumes_on_another(slug, env, steps, tmp_path, monkeypatch):
    begun, whole = ({"run_dir": tmp_path / name, "loggers": ()} for name in ("begun", "whole"))
    with monkeypatch.context() as there, pretended() as device:
        there.setattr(torch.cuda, "is_available", lambda: True)
        for module in ("common.env_options", "tabular.learner"):
            there.setattr(f"surefoot.loops.{module}.chosen_device", lambda name: device)
        run = sf.train(slug, env, steps, device="cuda", callbacks=lambda learner, _: True, **begun)
    assert run.config["env"]["device"] == "cuda" and not run.finished
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match=r"surefoot.resume\(run, device='cpu'\)"):
        sf.resume(run.path)
    with pytest.raises(UsageError, match="device='gpu' is not allowed"):
        sf.resume(run.path, device="gpu")
    assert sf.resume(run.path, device="cpu").finished
    other = sf.train(slug, env, steps, **whole)
    assert other.config["env"]["device"] == "cpu"
    assert test_laws.numbers([run.metrics()]) == test_laws.numbers([other.metrics()])


def test_what_is_compiled_runs_on_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(UsageError, match="compile='on' is not allowed with device='cuda'"):
        make_learner(test_laws.small("ppo"), "CartPole-v1", [0], 100, compile="on", device="auto")
    with pretended() as device:
        run = make_learner(test_laws.small("ppo"), "CartPole-v1", [0], 100, compile="auto", device=device)
    assert run.compile == "off"
