"""Surefoot from Python: what a run keeps, what its folder is enough for, and that a resumed run is the same run."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from dataclasses import dataclass

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv

import surefoot as sf
from surefoot import api, catalogue
from surefoot.envs import EnvError, make_single
from surefoot.errors import UsageError
from surefoot.evaluate.pages.folder import report as write_page
from surefoot.evaluate.rollout import returns
from surefoot.evaluate.statistics import confidence_interval, mean
from surefoot.evaluate.stress import StressReport
from surefoot.loops.common import checkpoint
from surefoot.loops.common.final import OF_EPISODES, final_returns
from surefoot.loops.common.run import Run
from surefoot.methods.control.ppo import PPO
from surefoot.perturbations.interval import Interval
from surefoot.perturbations.observation import ObservationNoise

SETTINGS = {"num_envs": 2, "num_steps": 32, "minibatch_size": 32, "epochs": 1, "hidden": (8,), "loggers": ()}
CLOCK = ("time", "steps_per_second")


def rows(run):
    return [{k: v for k, v in row.items() if k not in CLOCK} for row in run.metrics()]


def stop_at(iteration):
    return lambda learner, rows: learner.iteration == iteration


class Paid(gymnasium.Env):
    """Three steps, each worth `pay`."""

    observation_space, action_space = spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(2)

    def __init__(self, pay: float = 1.0, render_mode: str | None = None):
        self.pay, self.render_mode, self.metadata = pay, render_mode, {"render_modes": ["rgb_array"], "render_fps": 10}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.time += 1
        return np.zeros(2, np.float32), self.pay, self.time == 3, False, {}

    def render(self):
        return np.full((16, 16, 3), 80 * self.time, np.uint8)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return sf.train("ppo", "CartPole-v1", 256, seed=4, run_dir=tmp_path_factory.mktemp("api") / "run", **SETTINGS)


# --- train, load -----------------------------------------------------------------------------------------------------


def test_a_run_is_a_folder_that_says_what_was_asked(trained):
    assert isinstance(trained, Run) and trained.finished
    files = {p.name for p in trained.path.iterdir()}
    assert files == {"config.json", "metrics.jsonl", "actions.bin", "checkpoints", "agent"}
    config = trained.config
    wanted = {
        "method": "ppo",
        "steps": 256,
        "seeds": [4],
        "loggers": [],
        "evaluate_every": None,
        "checkpoint_every": 64,
    }
    assert {name: config[name] for name in wanted} == wanted
    assert config["hyperparameters"]["hidden"] == [8] and config["env"]["env"] == "CartPole-v1"
    assert "clip(ρ, 0.8, 1.2)" in config["objective"] and config["versions"]["torch"]
    steps, table = trained.curve("entropy")
    assert steps.tolist() == [64, 128, 192, 256] and table.shape == (1, 4) and np.isfinite(table).all()


def test_nothing_is_pickled(trained):
    for path in trained.path.rglob("*"):
        assert path.suffix in ("", ".json", ".jsonl", ".bin", ".safetensors", ".md"), path


def test_a_method_may_be_a_slug_or_an_instance(tmp_path, trained):
    ours = {k: v for k, v in SETTINGS.items() if k != "loggers"}
    run = sf.train(PPO(**ours), "CartPole-v1", 256, seed=4, run_dir=tmp_path / "run", loggers=())
    assert run.config["method"] == "ppo" and rows(run) == rows(trained)


def test_whole_numbers_may_be_floats(tmp_path):
    run = sf.train("ppo", "CartPole-v1", 6.4e1, run_dir=tmp_path / "run", **SETTINGS)
    assert run.config["steps"] == 64 and isinstance(run.config["steps"], int)


def test_the_default_folder_names_method_environment_and_seed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = sf.train("ppo", "surefoot/Constant-v0", 64, seed=9, **SETTINGS)
    assert str(run.path).startswith("runs/ppo-surefoot-Constant-v0-9-")


def test_runs_begun_in_one_second_have_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda *_: "20260101-000000")
    places = {sf.train("ppo", "CartPole-v1", 64, **SETTINGS).path for _ in range(3)}
    assert len(places) == 3 == len(list((tmp_path / "runs").iterdir()))


def test_of_two_runs_in_one_folder_the_first_one_has_it(tmp_path, monkeypatch):
    """The other may have looked when it was still empty; it closes what it opened and touches nothing."""
    made, closed, own = api.runs.make_learner, [], tmp_path / "run"

    def late(*arguments, **options):
        learner = made(*arguments, **options)
        monkeypatch.setattr(learner, "close", lambda close=learner.close: (closed.append(1), close()))
        own.mkdir()
        (own / "config.json").write_text("another's")
        return learner

    monkeypatch.setattr(api.runs, "make_learner", late)
    with pytest.raises(UsageError, match="exists and is not empty"):
        sf.train("ppo", "CartPole-v1", 64, run_dir=own, **SETTINGS)
    assert [p.name for p in own.iterdir()] == ["config.json"] and (own / "config.json").read_text() == "another's"
    assert closed == [1]


def test_an_empty_folder_may_be_given(tmp_path):
    assert sf.train("ppo", "CartPole-v1", 64, run_dir=tmp_path, **SETTINGS).finished


def test_load_takes_a_run_one_of_its_seeds_or_an_agent(tmp_path, trained):
    several = sf.train("ppo", "CartPole-v1", 64, seed=3, num_seeds=2, run_dir=tmp_path / "run", **SETTINGS)
    first, second = sf.load(several.path), sf.load(several.path, seed=4)
    assert (first.facts["seed"], second.facts["seed"]) == (3, 4)
    assert not np.array_equal(first.vector, second.vector)
    assert np.array_equal(sf.load(several.path / "agent" / "seed-4").vector, second.vector)
    with pytest.raises(UsageError, match="seed=5 is not in this run; its seeds are 3, 4"):
        sf.load(several.path, seed=5)
    with pytest.raises(UsageError, match="not the folder of a run"):
        sf.load(tmp_path / "nowhere")
    action, state = sf.load(trained.path).predict(np.zeros((3, 4), np.float32))
    assert action.shape == (3,) and state is None


# --- stop, resume ----------------------------------------------------------------------------------------------------


def test_a_time_limit_ends_early_with_an_agent_and_can_be_gone_on_with(tmp_path, trained):
    run = sf.train("ppo", "CartPole-v1", 256, seed=4, run_dir=tmp_path / "run", time_limit=1e-6, **SETTINGS)
    assert len(run.metrics()) == 1 and not run.finished and run.started
    assert sf.load(run.path).facts["ended"] == "stopped"
    sf.resume(run.path, time_limit=1e-6)
    assert len(run.metrics()) == 2
    assert sf.resume(run.path).finished
    assert rows(run) == rows(trained)
    assert sf.load(run.path).facts["ended"] == "finished"


def test_callbacks_see_every_iteration_also_after_resuming(tmp_path):
    seen = []
    options = {"run_dir": tmp_path / "run", **SETTINGS}
    sf.train(
        "ppo", "CartPole-v1", 256, callbacks=[lambda learner, _: seen.append(learner.steps), stop_at(2)], **options
    )
    sf.resume(tmp_path / "run", callbacks=[lambda learner, _: seen.append(learner.steps)])
    assert seen == [64, 128, 192, 256]


def test_one_callback_needs_no_list(tmp_path):
    seen = []
    run = sf.train(
        "ppo", "CartPole-v1", 128, run_dir=tmp_path / "run", callbacks=lambda _, rows: seen.extend(rows), **SETTINGS
    )
    assert len(seen) == 2 and run.finished
    with pytest.raises(UsageError, match="callbacks has 3, which is not callable; give functions of"):
        sf.train("ppo", "CartPole-v1", 64, run_dir=tmp_path / "other", callbacks=[print, 3], **SETTINGS)
    assert not (tmp_path / "other").exists()


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    run = sf.train("ppo", "CartPole-v1", 128, run_dir=tmp_path / "run", **SETTINGS)
    before = run.metrics(), sf.load(run.path).vector
    sf.resume(run.path)
    assert run.metrics() == before[0] and np.array_equal(sf.load(run.path).vector, before[1])


@dataclass(frozen=True)
class Mine(PPO):
    """A researcher's own method."""


def test_a_method_outside_the_catalogue_is_given_again(tmp_path, monkeypatch):
    mine = Mine(**{k: v for k, v in SETTINGS.items() if k != "loggers"})
    sf.train(mine, "CartPole-v1", 256, run_dir=tmp_path / "whole", loggers=())
    sf.train(mine, "CartPole-v1", 256, run_dir=tmp_path / "run", loggers=(), callbacks=[stop_at(2)])
    named = f"{Mine.__module__}:Mine"
    assert Run(tmp_path / "run").config["method"] == named
    monkeypatch.setattr("surefoot.envs.names._GIVEN", {})  # as in another process
    with pytest.raises(UsageError, match=f"method='{named}' is named by the files of the run and would have"):
        sf.resume(tmp_path / "run")
    assert rows(sf.resume(tmp_path / "run", method=mine)) == rows(Run(tmp_path / "whole"))


def test_a_factory_without_a_name_is_given_again(tmp_path):
    factory = lambda: make_single("CartPole-v1")  # noqa: E731
    sf.train("ppo", factory, 256, run_dir=tmp_path / "whole", **SETTINGS)
    sf.train("ppo", factory, 256, run_dir=tmp_path / "run", callbacks=[stop_at(2)], **SETTINGS)
    with pytest.raises(UsageError, match="give that same factory again"):
        sf.resume(tmp_path / "run")
    assert rows(sf.resume(tmp_path / "run", env=factory)) == rows(Run(tmp_path / "whole"))


# --- periodic evaluation ---------------------------------------------------------------------------------------------


def test_evaluations_come_at_their_intervals_and_are_plain_rollouts(tmp_path):
    agents = []

    def keep(learner, rows):
        agents.append((learner.steps, learner.agent(0), rows[0].get("evaluation_mean")))

    options = {"evaluate_every": 100, "evaluate_episodes": 3, **SETTINGS}
    run = sf.train("ppo", "CartPole-v1", 384, run_dir=tmp_path / "run", callbacks=[keep], **options)
    found = {row["step"]: row.get("evaluation_mean") for row in run.metrics()}
    assert [step for step, value in found.items() if value is not None] == [128, 256, 320]  # past 100, 200 and 300
    for step, agent, value in agents:
        assert value == found[step]  # a callback sees the evaluation, and may stop on it
        if value is not None:
            assert value == returns(agent, "CartPole-v1", 3).mean()


def test_evaluating_does_not_change_training_and_survives_a_kill(tmp_path):
    plain = sf.train("ppo", "CartPole-v1", 384, num_seeds=2, run_dir=tmp_path / "plain", **SETTINGS)
    options = {"evaluate_every": 128, "evaluate_episodes": 2, "num_seeds": 2, **SETTINGS}
    whole = sf.train("ppo", "CartPole-v1", 384, run_dir=tmp_path / "whole", **options)
    sf.train("ppo", "CartPole-v1", 384, run_dir=tmp_path / "cut", callbacks=[stop_at(3)], **options)
    cut = sf.resume(tmp_path / "cut")
    assert rows(cut) == rows(whole)
    evaluated = [row.pop("evaluation_mean") for row in rows(whole) if "evaluation_mean" in row]
    assert len(evaluated) == 6
    without = [{k: v for k, v in row.items() if k != "evaluation_mean"} for row in rows(whole)]
    assert without == rows(plain)


def test_evaluations_are_in_the_same_environment_as_training(tmp_path):
    options = {"evaluate_every": 64, "env_kwargs": {"pay": 7.0}, "run_dir": tmp_path / "run", **SETTINGS}
    run = sf.train("ppo", Paid, 64, wrappers=[("time_limit", {"steps": 2})], **options)
    assert run.metrics()[0]["evaluation_mean"] == 14.0


def test_a_ready_environment_is_seeded_as_one_by_name(tmp_path):
    ready = SyncVectorEnv([lambda: gymnasium.make("Pendulum-v1")] * 4, autoreset_mode="NextStep")
    agents = [
        sf.train("ppo", env, 128, run_dir=tmp_path / name, seed=4, num_seeds=2, backend="gymnasium", **SETTINGS).agent(
            5
        )
        for name, env in (("named", "Pendulum-v1"), ("ready", ready))
    ]
    assert torch.equal(agents[0].vector, agents[1].vector)


def test_a_ready_environment_cannot_be_evaluated_in(tmp_path):
    ready = SyncVectorEnv([Paid] * 2, autoreset_mode=gymnasium.vector.AutoresetMode.NEXT_STEP)
    with pytest.raises(UsageError, match="evaluate_every needs an id or a factory"):
        sf.train("ppo", ready, 64, evaluate_every=32, run_dir=tmp_path / "run", **SETTINGS)
    assert sf.train("ppo", ready, 64, run_dir=tmp_path / "run", **SETTINGS).finished


# --- evaluate, stress ------------------------------------------------------------------------------------------------


def test_evaluate_a_run_keeps_the_figures_there(trained):
    figures = sf.evaluate(trained.path, episodes=5, seed=2)
    expected = returns(sf.load(trained.path), "CartPole-v1", 5, 2)
    assert figures["returns"] == expected.tolist()
    assert figures["mean"] == pytest.approx(expected.mean()) and figures["max"] == expected.max()
    low, high = figures["mean_interval"]
    assert (low, high) == pytest.approx(confidence_interval(expected, mean))
    assert figures["env"] == "CartPole-v1"
    assert json.loads((trained.path / "evaluation.json").read_text()) == figures


def test_evaluate_is_a_function_before_and_after_its_room_is_imported(trained):
    code = f"import surefoot as sf; print(sf.evaluate({str(trained.path)!r}, episodes=1)['episodes']); "
    code += f"import surefoot.evaluate.stress; print(sf.evaluate({str(trained.path)!r}, episodes=1)['episodes'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["1", "1"], done.stderr


def test_evaluate_takes_any_policy_with_its_environment(trained, tmp_path):
    agent = sf.load(trained.path)
    assert sf.evaluate(agent, "CartPole-v1", 3)["returns"] == sf.evaluate(trained.path, episodes=3)["returns"]
    assert sf.evaluate(lambda o: np.zeros(len(o), int), Paid, 2)["returns"] == [3.0, 3.0]
    assert sf.evaluate(trained.path / "agent", episodes=1)["env"] == "CartPole-v1"  # the agent knows its environment
    with pytest.raises(UsageError, match="env is missing; only a run folder"):
        sf.evaluate(agent)
    agent.facts = {}
    agent.save(tmp_path / "agent")
    with pytest.raises(UsageError, match="does not say what it was trained in; give env="):
        sf.evaluate(tmp_path / "agent")


def test_a_run_is_evaluated_and_stressed_with_its_arguments_and_wrappers(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "paid", sys.modules[__name__])
    options = {"env_kwargs": {"pay": 5.0}, "wrappers": [("time_limit", {"steps": 2})], **SETTINGS}
    run = sf.train("ppo", "paid:Paid", 64, run_dir=tmp_path / "run", **options)
    figures = sf.evaluate(run.path, episodes=2)
    assert figures["returns"] == [10.0, 10.0] and figures["env"] == "paid:Paid"
    report = sf.stress(run.path, perturb="observation-noise:0..1", episodes=2, points=2)
    assert report.worst == report.nominal == 10.0 and report.env == "paid:Paid"
    assert sf.evaluate(run.path, "paid:Paid", episodes=1)["returns"] == [3.0]  # asked for plainly, played plainly


def test_stress_of_a_run_keeps_the_report_there(trained):
    report = sf.stress(trained.path, perturb="observation-noise:0..0.2", episodes=2, points=2)
    kept = StressReport.from_json((trained.path / "stress-observation-noise-0..0.2.json").read_text())
    assert kept.table() == report.table() and report.env == "CartPole-v1" and report.policy == "ppo (seed 4)"
    np.testing.assert_array_equal(kept.returns, report.returns)


@pytest.mark.parametrize(
    ("env", "options", "perturb", "axes"),
    [
        ("rrls/Hopper-v5", {"wrappers": [("domain_randomization", {"set": "2d"})]}, "rrls:2d", 2),
        ("Hopper-v5", {"env_kwargs": {"max_episode_steps": 9}}, "rrls:1d", 1),
        ("Hopper-v5", {"wrappers": [("time_limit", {"steps": 5})]}, "param:torsomass=1..5", 1),
    ],
)
def test_a_run_with_arguments_is_stressed_as_the_task_that_it_is(env, options, perturb, axes, tmp_path):
    run = sf.train("ppo", env, 64, run_dir=tmp_path / "run", **options, **SETTINGS)
    report = sf.stress(run.path, perturb=perturb, points=2, episodes=1)
    assert len(report.axes) == axes and len(report.returns) == 2**axes and report.env == env


def test_a_whole_number_is_swept_in_whole_numbers(trained):
    report = sf.stress(lambda o: np.sign(o[:, 2:]), "Pendulum-v1", "param:max_speed=2..4", points=5, episodes=1)
    assert report.coordinates.ravel().tolist() == [2, 3, 4]


def test_a_long_perturbation_has_a_short_file(trained):
    text = " + ".join(["observation-noise:0.123456789,law=linf"] * 5)
    report = sf.stress(trained.path, perturb=text, points=2, grid="rrls", episodes=np.int64(1))
    (file,) = trained.path.glob("stress-observation-noise-0.123456789-law-linf---*.json")
    assert len(file.name) < 200 and StressReport.from_json(file.read_text()).perturbation == report.perturbation
    file.unlink()


def test_a_run_in_what_envpool_alone_has_is_evaluated_and_stressed(tmp_path):
    settings = {"num_envs": 2, "num_steps": 8, "minibatch_size": 16, "epochs": 1, "loggers": ()}
    run = sf.train("ppo", "Catch-v0", 32, run_dir=tmp_path / "run", evaluate_every=16, **settings)
    assert run.config["env"]["backend"] == "envpool" and run.metrics()[-1]["evaluation_mean"] in np.arange(-10, 11) / 10
    assert set(sf.evaluate(run.path, episodes=3)["returns"]) <= {-1.0, 0.0, 1.0}
    assert sf.stress(run.path, perturb="action-delay:0..1", episodes=2, points=2).returns.shape == (2, 2)


def test_what_was_measured_is_told_where_it_cannot_be_kept(trained, monkeypatch):
    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.warns(UserWarning, match="evaluation.json could not be written: No space left.*Free disk space"):
        assert len(sf.evaluate(trained.path, episodes=np.int64(2), seed=np.int64(1))["returns"]) == 2
    assert not list(trained.path.glob("*.part"))


def test_an_evaluation_names_the_agent(tmp_path):
    run = sf.train("ppo", "CartPole-v1", 64, run_dir=tmp_path / "run", seed=3, num_seeds=2, **SETTINGS)
    assert sf.evaluate(run.path, episodes=1)["agent_seed"] == 3
    assert sf.evaluate(run.path / "agent" / "seed-4", episodes=1)["agent_seed"] == 4
    assert sf.evaluate(lambda o: np.zeros(len(o), int), "CartPole-v1", 1)["agent_seed"] is None


def test_a_run_goes_on_only_with_the_options_that_it_began_with(tmp_path):
    run = sf.train("ppo", Paid, 256, run_dir=tmp_path / "run", callbacks=lambda li, _: li.iteration == 1, **SETTINGS)
    with pytest.raises(UsageError, match=r"env_kwargs=\{'pay': 7.0\} differs from this run's own \{\}; leave it out"):
        sf.resume(run.path, env_kwargs={"pay": 7.0})
    with pytest.raises(
        UsageError, match="learning_rate is not allowed: a run is resumed with .* backend, env_kwargs, wrappers"
    ):
        sf.resume(run.path, learning_rate=1.0)
    for steps in (0, 1.5, -1, "many", True):
        with pytest.raises(UsageError, match="steps=.* is not allowed"):
            sf.resume(run.path, steps=steps)
    assert sf.resume(run.path, env_kwargs={}, wrappers=()).finished


def test_a_longer_run_is_the_one_that_was_begun_longer(tmp_path, trained):
    run = sf.train("ppo", "CartPole-v1", 128, seed=4, run_dir=tmp_path / "run", **SETTINGS)
    longer = sf.resume(run.path, steps=+128.0)
    assert longer.finished and longer.config["steps"] == 256 and rows(longer) == rows(trained)
    assert np.array_equal(sf.load(longer.path).vector, sf.load(trained.path).vector)


def test_the_card_of_an_agent_says_what_it_is(tmp_path):
    run = sf.train("ppo", "CartPole-v1", 128, seed=4, num_seeds=2, run_dir=tmp_path / "run", **SETTINGS)
    last = final_returns(run.metrics())[5]
    card = (run.path / "agent" / "seed-5" / "README.md").read_text()
    wanted = ("# ppo on CartPole-v1", "| training | 128 steps |", "| random seed | 5, one of 2 of the run |")
    wanted += (f"| final return | {last:.6g} ({OF_EPISODES})", f"torch {torch.__version__}")
    for words in (*wanted, f"agent = sf.load({str(run.path)!r}, seed=5)"):
        assert words in card


def test_stress_elsewhere_is_kept_beside_that_of_the_run_and_named(trained):
    noise = ObservationNoise(Interval(0, 0.2))  # a perturbation is as good as its text
    own = sf.stress(trained.path, perturb=noise, episodes=2, points=2)
    other = sf.stress(trained.path, "CartPole-v0", noise, episodes=2, points=2)
    for name, report in (("", own), ("CartPole-v0-", other)):
        text = (trained.path / f"stress-{name}observation-noise-0..0.2.json").read_text()
        assert StressReport.from_json(text).table() == report.table()
    page = write_page(trained.path).read_text()
    assert page.count(" in CartPole-v1 under ") == page.count(" in CartPole-v0 under ") == 1


def test_the_seed_is_that_of_a_drawing_agent_too(trained):
    drawn = [sf.evaluate(trained.path, episodes=3, seed=s, deterministic=False)["returns"] for s in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    sweep = {"perturb": "observation-noise:0.2", "episodes": 2, "points": 2, "deterministic": False}
    one, again = (sf.stress(trained.path, **sweep) for _ in range(2))
    np.testing.assert_array_equal(one.returns, again.returns)


def test_a_video_is_written_with_the_run_as_it_was_trained(tmp_path, monkeypatch):
    import imageio.v2 as imageio

    monkeypatch.setitem(sys.modules, "paid", sys.modules[__name__])
    options = {"wrappers": [("time_limit", {"steps": 2})], **SETTINGS}
    run = sf.train("ppo", "paid:Paid", 64, run_dir=tmp_path / "run", **options)
    figures = sf.evaluate(run.path, episodes=1, video=tmp_path / "film.gif")
    assert figures["video"] == str(tmp_path / "film.gif")
    assert len(imageio.mimread(tmp_path / "film.gif")) == 3  # the reset and two steps
    assert sorted(p.name for p in tmp_path.iterdir()) == ["film.gif", "run"]


def film(env, path):
    return sf.evaluate(lambda o: np.zeros(len(o), int), env, episodes=1, video=path)


def test_what_cannot_be_filmed_says_what_to_do_before_an_episode_is_played(tmp_path, monkeypatch):
    monkeypatch.setattr("surefoot.evaluate.rollout.play", lambda *a, **k: pytest.fail("an episode was played"))
    blind = type("Blind", (Paid,), {"render": lambda self: None})
    broken = type("Broken", (Paid,), {"render": lambda self: 1 / 0})
    for env, words in ((blind, "returned a NoneType"), (broken, "ZeroDivisionError")):
        with pytest.raises(UsageError, match=f"cannot be filmed here .*{words}.*pygame.*apt-get install libegl1"):
            film(env, tmp_path / "film.gif")
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(UsageError, match="A .mp4 video needs imageio_ffmpeg: pip install imageio imageio-ffmpeg"):
        film(Paid, tmp_path / "film.mp4")
    assert list(tmp_path.iterdir()) == []


def test_a_film_that_breaks_off_leaves_no_file(tmp_path):
    def step(self, action):
        raise RuntimeError("mine")

    with pytest.raises(EnvError, match="RuntimeError: mine"):
        film(type("Broken", (Paid,), {"step": step}), tmp_path / "film.gif")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["CartPole-v1", "Hopper-v5"])
def test_a_real_environment_makes_a_playable_video_without_a_screen(name, tmp_path, monkeypatch):
    """Where its renderer and the encoder are installed; the error that teaches is tested above."""
    import imageio.v2 as imageio

    pytest.importorskip("imageio_ffmpeg")
    for variable in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(variable, raising=False)
    env, shape = functools.partial(gymnasium.make, name, max_episode_steps=12), make_single(name).action_space.shape
    still = lambda o: np.zeros((len(o), *shape), np.float32 if shape else int)  # noqa: E731
    try:
        played = sf.evaluate(still, env, episodes=1, video=tmp_path / "film.mp4")
    except UsageError as error:
        pytest.skip(f"no renderer here: {error}")
    with imageio.get_reader(tmp_path / "film.mp4") as reader:
        frames = [frame for frame in reader]  # noqa: C416 (list() asks for a length first, which a film has not)
        facts = reader.get_meta_data()
    assert facts["codec"] == "h264" and facts["fps"] == make_single(name).metadata["render_fps"]
    assert len(frames) > 5 and frames[0].std() > 5
    assert np.abs(frames[0].astype(int) - frames[-1]).mean() > 0.1  # something moves
    assert np.isfinite(played["mean"])


# --- explain, claim --------------------------------------------------------------------------------------------------


def test_explain_takes_hyperparameters_and_instances():
    page = sf.explain("ppo", clip=0.1)
    assert "clip(ρ, 0.9, 1.1)" in page and "(default 0.2)" in page
    assert page == sf.explain(PPO(clip=0.1))
    assert all(f"  {field} " in page for field in ("gamma", "clip", "kl_target"))


@pytest.mark.parametrize("entry", catalogue.methods(), ids=lambda entry: entry.slug)
def test_every_method_explains_itself_on_one_screen(entry):
    page = sf.explain(entry.slug)
    assert "HYPERPARAMETERS" in page and 20 < len(page.partition("\nCLAIM\n")[0].splitlines()) < 100


def test_a_claim_is_run_and_judged(tmp_path):
    found = sf.claim("ppo", tier="mechanism", seeds=range(100, 103), out=tmp_path)
    assert {one.word for one in found.values()} == {"supported"} and all(one.n == 3 for one in found.values())
    assert list(tmp_path.glob("ppo/*/*-100-102.json"))


def test_presets():
    assert api.make_method("ppo", preset="mujoco-2017")[0] == PPO(**PPO.presets["mujoco-2017"])
    assert api.make_method("ppo", preset="mujoco-2017", num_envs=2)[0].num_envs == 2
    with pytest.raises(UsageError, match="preset='mujoco' is unknown. .*mujoco-2017"):
        api.make_method("ppo", preset="mujoco")
    with pytest.raises(UsageError, match="preset='fast' is unknown. A2C has none"):
        api.make_method("a2c", preset="fast")


def test_what_the_package_names_is_there():
    assert sf.Run is Run and sf.train is api.train and sf.UsageError is UsageError
    for name in sf.__all__:
        assert getattr(sf, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = sf.trian  # type: ignore[attr-defined]


def test_a_run_without_a_checkpoint_is_not_started(tmp_path, trained):
    assert trained.started and checkpoint.latest(trained.path) is not None
    assert not Run(tmp_path).started and Run(str(tmp_path)).path == tmp_path


def test_a_run_is_taken_wherever_its_folder_is(trained):
    run = Run(trained.path)
    assert sf.evaluate(run, episodes=2)["returns"] == sf.evaluate(run.path, episodes=2)["returns"]
    assert sf.stress(run, perturb="observation-noise:0..0.2", episodes=2, points=2).nominal is not None
    assert torch.equal(sf.load(run).vector, sf.load(run.path).vector)
    assert sf.resume(run).path == run.path
