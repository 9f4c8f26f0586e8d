"""The law every offline method is held to: it learns what the data say, to the same bits, and from those data alone."""

from __future__ import annotations

import dataclasses

import gymnasium as gym
import numpy as np
import pytest
import torch
from micro_data import made, target_data, walk_data
from network_laws import first_pass, numbers, the_seed_decides, together_as_alone
from pretended_device import Pretended, pretended
from torch.utils._pytree import tree_leaves

import surefoot as sf
from surefoot import catalogue
from surefoot.arguments import typed
from surefoot.cli import main
from surefoot.errors import UsageError
from surefoot.loops.common.run import Run, make_learner
from surefoot.loops.offline.method import Offline

CLASSES = {catalogue.method_class(e.slug): e.slug for e in reversed(catalogue.methods())}
METHODS = [slug for method, slug in CLASSES.items() if method.loop == "offline"]
TARGET = "surefoot/ContinuousTarget-v0"
every_method = pytest.mark.parametrize("slug", METHODS)


def small(slug: str, **changes) -> Offline:
    """The method at a size for tests. A method whose own sizes are large adds them here by name."""
    method = catalogue.method_class(slug)
    names = {f.name for f in dataclasses.fields(method)} - {*method.without_effect}
    sizes = {"batch_size": 16, "log_every": 20, "hidden": (16,), "policy_delay": 2}
    sizes |= {"actor_hidden": (16,), "generator_hidden": (16,), "flow_hidden": (16,), "flow_steps": 4, "samples": 4}
    sizes |= {"blocks": 3}  # a round fits into the batch
    sizes |= {"segment": 1, "target_segments": 40, "reward_steps": 10, "reward_hidden": (16,), "pairs": 8}
    sizes |= {"refresh": 20}
    sizes |= {"warm_start": 10, "slow_rate": 1e-3, "rewarded_share": 0.5, "remove_terminals": False}
    sizes |= {"components": 2, "cloning_steps": 20, "score_hidden": (16,)}
    return method(**{k: v for k, v in {**sizes, **changes}.items() if k in names})


# Of methods that learn in stages, and act near the data.
LABELLED = {"target_segments": 300, "reward_steps": 200, "pairs": 64, "reward_rate": 1e-2}
LONGER = {"cloning_steps": 400, "cloning_rate": 3e-3, "log_tau": 0.01, "warm_start": 200, **LABELLED}


def learner(slug: str, seeds=(0,), data=None, env: str = "", steps: int = 1000, device: str = "cpu", **changes):
    given = walk_data() if data is None else data
    return make_learner(small(slug, **changes), env, list(seeds), steps, data=given, device=device)


@every_method
def test_same_seed_same_bits_and_another_seed_others(slug):
    the_seed_decides(lambda seeds: learner(slug, seeds))


@every_method
def test_a_seed_among_several_computes_what_it_computes_alone(slug):
    together_as_alone(lambda seeds: learner(slug, seeds))


@every_method
def test_its_gradient_step_can_be_compiled(slug, monkeypatch):
    monkeypatch.setattr("surefoot.loops.common.compile.compiled", first_pass)
    data = walk_data()
    eager, native = (make_learner(small(slug), "", [0], 1000, data=data, compile=one) for one in ("off", "on"))
    for _ in range(2):
        assert native.iterate()[0] == pytest.approx(eager.iterate()[0], rel=1e-4, abs=1e-5)


@every_method
def test_stopped_and_resumed_is_the_same_run_to_the_bit(slug, tmp_path):
    sf.write_dataset(walk_data(), place := tmp_path / "walk.npz")
    settings = {"data": place, "steps": 100, "loggers": (), "seed": 7, "num_seeds": 2}
    sf.train(small(slug), run_dir=tmp_path / "whole", **settings)
    sf.train(small(slug), run_dir=tmp_path / "cut", callbacks=[lambda one, _: one.iteration == 3], **settings)
    sf.resume(tmp_path / "cut")
    whole, cut = (Run(tmp_path / name) for name in ("whole", "cut"))
    assert numbers([whole.metrics()]) == numbers([cut.metrics()])
    assert torch.equal(whole.agent(8).vector, cut.agent(8).vector)


@every_method
def test_every_network_learns_or_stays_and_all_stay_finite(slug):
    run = learner(slug)
    before = {name: x.clone() for name, x in run.weights.items()}
    for _ in range(2):
        run.iterate()
    own = {name: net for name, net in run.nets.items() if net.of is None}  # others are stages of these
    for name, net in own.items():
        assert torch.isfinite(run.weights[name]).all(), name
        idle = net.starts >= run.updates  # a stage that has not begun
        assert torch.equal(before[name], run.weights[name]) != (net.trained and not idle), name


@every_method
def test_the_agent_acts_as_the_network_says_and_holds_the_normaliser(slug, tmp_path):
    run = learner(slug)
    run.iterate()
    agent, data = run.agent().ruled(), walk_data()  # without acting rules
    if run.method.normalize_observations:
        mean, inverse = (x.numpy() for x in agent.scales[""])
        np.testing.assert_allclose(mean, run.method.fitted(data)[0], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(1 / inverse, run.method.fitted(data)[1] + 1e-3, rtol=1e-5)
    seen = data.observation[:5]
    action, state = agent.predict(seen, deterministic=True)
    plain = agent.ruled().predict(seen, deterministic=True)[0]  # without what the agent makes of what the network says
    with torch.no_grad():
        scale = {key: tuple(x[0] for x in pair) for key, pair in run.scales().items()}
        mean, inverse = scale.get("", (torch.zeros(2), torch.ones(2)))
        params = run.actor(run.weights[run.method.actor][0], (torch.from_numpy(seen) - mean) * inverse)
        wanted = run.distribution.to_env(run.distribution.mode(params)).numpy()
    np.testing.assert_allclose(plain, wanted, rtol=1e-4, atol=1e-5)
    agent.save(tmp_path)
    again = sf.load(tmp_path)
    np.testing.assert_array_equal(again.predict(seen, deterministic=True)[0], action)
    assert state is None and all(agent.action_space.contains(a) for a in action)


@every_method
def test_it_learns_what_the_data_say(slug):
    """The best action of every state is known; the data's own deviate from it by half the box."""
    data = target_data()
    run = learner(slug, data=data, env=TARGET, steps=800, learning_rate=3e-3, batch_size=64, log_every=200, **LONGER)
    for _ in range(4):
        run.iterate()
    found = sf.evaluate(run.agent(), TARGET, 50)["mean"]
    assert data.reward.mean() < -0.15 and found > -0.05


@every_method
def test_an_iteration_on_a_device_is_that_on_the_cpu(slug):
    here = learner(slug)
    rows = [here.iterate() for _ in range(2)]
    with pretended() as device:
        there = learner(slug, device=device)
        assert [there.iterate() for _ in range(2)] == rows
        assert all(isinstance(x, Pretended) for x in tree_leaves((there.weights, there.averages, there.columns)))
        state, agent = there.state(), there.agent()
    assert all(torch.equal(x, state[name]) for name, x in here.state().items())
    assert torch.equal(agent.vector, here.agent().vector) and not isinstance(agent.vector, Pretended)


@every_method
def test_explain_shows_formula_steps_and_every_hyperparameter(slug):
    text = sf.explain(slug)
    method = catalogue.method_class(slug)
    table = text.partition("HYPERPARAMETERS")[2].partition("\nCLAIM")[0].partition("\nPRESETS")[0]
    named = [line.split()[0] for line in table.splitlines() if line.startswith("  ")]
    for field in dataclasses.fields(method):
        assert (field.name in named) == (field.name not in method.without_effect), field.name
    assert "learning_rate" in named and "transitions of the data uniformly" in text


@every_method
def test_no_hyperparameter_has_the_name_of_an_option_of_runs(slug):
    names = {f.name for f in dataclasses.fields(typed(catalogue.method_class(slug)))}
    assert {"data", "trust", "start", "batch_size"} <= names


@every_method
def test_discrete_actions_are_refused(slug):
    with pytest.raises(UsageError, match="needs continuous actions"):
        learner(slug, data=made(space=gym.spaces.Discrete(3)))


# --- the loop itself -------------------------------------------------------------------------------------------------


def test_data_that_have_changed_are_refused(tmp_path):
    sf.write_dataset(walk_data(), place := tmp_path / "walk.hdf5")
    settings = {"data": str(place), "steps": 60, "loggers": (), "run_dir": tmp_path / "run"}
    sf.train(small("bc"), callbacks=[lambda one, _: one.iteration == 1], **settings)
    recorded = Run(tmp_path / "run").config["env"]
    assert recorded["data"] == str(place) and recorded["rows"] == 200 and recorded["env"] == ""
    assert recorded["fingerprint"] == walk_data().digest()
    sf.write_dataset(walk_data(seed=1), place)
    with pytest.raises(UsageError, match=r"walk.hdf5' have changed since this run was started"):
        sf.resume(tmp_path / "run")
    sf.write_dataset(walk_data(), moved := tmp_path / "moved.npz")
    assert sf.resume(tmp_path / "run", data=str(moved)).finished


def test_data_given_as_an_object_are_given_again(tmp_path):
    stop = [lambda one, _: one.iteration == 1]
    sf.train(small("bc"), data=walk_data(), steps=60, loggers=(), run_dir=tmp_path / "run", callbacks=stop)
    with pytest.raises(UsageError, match=r"given as an object; give them again: surefoot.resume\(run, data=…\)"):
        sf.resume(tmp_path / "run")
    assert sf.resume(tmp_path / "run", data=walk_data()).finished


def test_what_cannot_be_learned_from_is_refused_before_any_work(tmp_path):
    place = tmp_path / "run"
    for arguments, said in (
        ({}, "data is missing: the method learns from a data set"),
        ({"data": "nowhere.npz"}, "data='nowhere.npz' is not there"),
        ({"data": made(), "env": "Pendulum-v1"}, r"continuous actions of the shape \(2,\), but the action space is"),
        (
            {"data": walk_data(), "env": "CartPole-v1"},
            r"observations of the shape \(2,\), but those of the environment",
        ),
        ({"data": walk_data(), "evaluate_every": 10}, "learns from data alone, so there is nothing to evaluate it in"),
        ({"data": walk_data(), "keep_best": True}, "learns from data alone"),
        ({"data": dataclasses.replace(made(), action_space=None, action=3 * made().action)}, r"outside of \[-1, 1\]"),
    ):
        with pytest.raises(UsageError, match=said):
            sf.train("bc", steps=10, run_dir=place, **arguments)
    assert not place.exists()


def test_a_run_without_an_environment_is_evaluated_where_one_is_given(tmp_path, capsys):
    sf.write_dataset(target_data(), data := tmp_path / "target.npz")
    place = str(tmp_path / "run")
    options = ["--steps", "40", "--log-every", "20", "--hidden", "8", "--loggers"]
    main(["train", "bc", "--data", str(data), *options, "--run-dir", place])
    assert f"next: surefoot evaluate {place}" in capsys.readouterr().out
    assert "--env" not in Run(tmp_path / "run").config["command"]
    with pytest.raises(SystemExit):
        main(["evaluate", place])
    assert "was trained on data alone; give env=… (--env)" in " ".join(capsys.readouterr().err.split())
    main(["evaluate", place, "--env", TARGET, "--episodes", "3"])
    assert "mean return" in capsys.readouterr().out
    assert (tmp_path / "run" / "agent" / "README.md").read_text().splitlines()[-1]


def test_evaluations_in_training_are_the_final_return(tmp_path, capsys):
    sf.write_dataset(target_data(), data := tmp_path / "target.npz")
    options = ["--steps", "60", "--log-every", "20", "--hidden", "8", "--evaluate-every", "20", "--loggers"]
    main(["train", "iql", "--env", TARGET, "--data", str(data), *options, "--run-dir", str(tmp_path / "run")])
    assert "mean return of the evaluations in the last tenth" in capsys.readouterr().out
    run = Run(tmp_path / "run")
    assert all("evaluation_mean" in row for row in run.metrics()) and run.config["env"]["env"] == TARGET
    main(["evaluate", str(run.path), "--episodes", "2"])
    assert TARGET in capsys.readouterr().out


@dataclasses.dataclass(frozen=True)
class Nearest(catalogue.method_class("td3-bc")):
    """TD3+BC towards what is looked up before the step: here, the mean of the actor's own and the data's action."""

    def columns(self, data):
        return {"twice": 2 * data.reward}

    def beforehand(self, learner):
        seen = []

        def look_up(batch, due):
            assert torch.equal(batch["twice"], 2 * batch["reward"])
            rows = torch.from_numpy(learner.data.reward)[batch["index"]]
            assert torch.equal(rows, batch["reward"])
            if "actor" not in due:
                return {}
            seen.append(due)
            return {"near": (learner.output("actor", batch["observation"]) + batch["action"]) / 2}

        look_up.seen = seen
        return look_up

    def target_action(self, w, batch, action):
        return batch["near"]


def test_a_method_can_look_up_what_its_step_needs():
    sizes = {"batch_size": 16, "log_every": 20, "hidden": (16,), "alpha": 0.0}
    run = make_learner(Nearest(**sizes), "", [0, 1], 1000, data=walk_data())
    plain = make_learner(catalogue.method_class("td3-bc")(**sizes), "", [0, 1], 1000, data=walk_data())
    rows, usual = run.iterate(), plain.iterate()
    assert rows[0]["cloning"] == pytest.approx(usual[0]["cloning"] / 4, rel=0.2)  # half as far away


def test_schedules_may_leave_out_networks():
    """IQL anneals its actor alone: without steps left, only that stands still."""
    run = learner("iql", steps=20, log_every=20)
    run.iterate()
    before = {name: x.clone() for name, x in run.weights.items()}
    run.update()
    assert [name for name in run.weights if torch.equal(before[name], run.weights[name])] == ["actor"]
