"""Nothing that a folder says imports, calls or runs what the user has not named; a name means what it meant."""

from __future__ import annotations

import functools
import json
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import surefoot as sf
from surefoot import cli
from surefoot.envs import names
from surefoot.errors import UsageError
from surefoot.loops.common import checkpoint

SETTINGS: dict[str, Any] = {"num_envs": 2, "num_steps": 16, "minibatch_size": 32, "epochs": 1, "hidden": (4,)}
SETTINGS |= {"loggers": (), "checkpoint_every": 32}
EVIL = """
import pathlib
pathlib.Path({marker!r}).write_text("imported")
def make(**kwargs):
    pathlib.Path({marker!r}).write_text("called")
"""


class Own(gymnasium.Env):
    """Pays what it was made to pay."""

    observation_space, action_space = spaces.Box(-1, 1, (2,)), spaces.Discrete(2)

    def __init__(self, pay: float = 1.0):
        self.pay = pay

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), self.pay, True, False, {"is_success": True}


class Other(Own):
    def step(self, action):
        return np.zeros(2, np.float32), -100.0, True, False, {}


@functools.cache
def trained(folder: Path, method: str, env: str) -> Path:
    settings = SETTINGS if method == "ppo" else {"checkpoint_every": 1, "loggers": ()}
    sf.train(method, env, 64 if method == "ppo" else 2, run_dir=folder / method, **settings)
    return folder / method


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


def altered(run: Path, **env: Any) -> None:
    """Every file of a run that describes its environment says something else, in one voice."""
    files = [run / "config.json", run / "agent" / "agent.json", *(p / "meta.json" for p in checkpoint.found(run))]
    for file in files:
        data = json.loads(file.read_text())
        data["env"] = {**data["env"], **env}
        if "steps" in data and file.name == "config.json":
            data["steps"] *= 2  # something is left to be done
        file.write_text(json.dumps(data))


HOSTILE = {
    "a function of the standard library": ("ppo", {"env": "os:system", "env_kwargs": {"command": "touch {marker}"}}),
    "a module beside it": ("ppo", {"env": "evil:make"}),
    "an id of a module beside it": ("ppo", {"env": "evil:Env-v0"}),
    "an id of a module beside it, kept by Gymnasium": ("ppo", {"env": "evil:CartPole-v1"}),
    "a name that is no text": ("ppo", {"env": ["evil:make"]}),
    "a maker of old environments": ("ppo", {"env": "GymV26Environment-v0", "env_kwargs": {"env_id": "evil:Env-v0"}}),
    "an unknown id": ("ppo", {"env": "Evil-v0", "origin": {"package": "evil", "version": None}}),
    "a table of a module beside it": ("robust-average-reward", {"env": "gym:evil:Env-v0"}),
    "the same with a blank": ("robust-average-reward", {"env": " gym:evil:Env-v0,a=1"}),
}
COMMANDS = {
    "evaluate": ["evaluate", "{run}", "--episodes", "1"],
    "stress": ["stress", "{run}", "--perturb", "action-delay:0..1", "--episodes", "1", "--points", "2"],
    "harden": ["harden", "{run}", "--against", "action-delay:0..1", "--steps", "8", "--families", ""],
    "resume": ["train", "--resume", "{run}"],
    "report": ["report", "{run}"],
    "chat": ["chat", "{run}"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_folder_runs_nothing(folder, tmp_path, monkeypatch, capsys, case, command):
    method, says = HOSTILE[case]
    run, marker = tmp_path / "run", tmp_path / "marker"
    shutil.copytree(trained(folder, method, "CartPole-v1" if method == "ppo" else "river-swim"), run)
    says = {"backend": "gymnasium", **says} if method == "ppo" else says
    altered(run, **json.loads(json.dumps(says).replace("{marker}", str(marker))))
    (run / "evil.py").write_text(EVIL.format(marker=str(marker)))
    monkeypatch.chdir(run)  # as after `cd RUN`
    monkeypatch.setattr("sys.path", [p for p in sys.path if p])
    code = 0
    try:
        cli.main([word.format(run=".") for word in COMMANDS[command]])
    except SystemExit as end:
        code = end.code
    assert not marker.exists() and "evil" not in sys.modules
    assert code == 2 or (code == 0 and command == "report"), capsys.readouterr().err
    assert str(run) not in sys.path


def test_a_hostile_reward_is_not_imported(tmp_path, monkeypatch):
    from surefoot.loops.common.kinds import loop

    marker = tmp_path / "marker"
    (tmp_path / "evil.py").write_text(EVIL.format(marker=str(marker)))
    monkeypatch.syspath_prepend(str(tmp_path))
    check = loop("group-rollout").check_recorded
    for reward in (["evil:make"], "evil:make", [7], ["os:system"]):
        with pytest.raises(UsageError, match="reward="):
            check("arithmetic", reward=reward)
    for option in ("trust_remote_code", "attn_implementation"):
        with pytest.raises(UsageError, match=f"model_options=.*{option} can run code"):
            check("arithmetic", model_options={option: True})
    check("arithmetic", reward=None, model_options={"max_tokens": 3})
    assert not marker.exists() and "evil" not in sys.modules


# --- what the user names is used ---


@pytest.fixture
def module(tmp_path, monkeypatch) -> str:
    """A module of the user's, and a process that has not named anything yet."""
    monkeypatch.setitem(sys.modules, "mine", sys.modules[__name__])
    monkeypatch.setattr(names, "_GIVEN", {})
    return "mine:Own"


def test_what_was_given_in_this_process_needs_no_second_naming(tmp_path, module):
    run = sf.train("ppo", Own, 64, run_dir=tmp_path / "run", env_kwargs={"pay": 3.0}, **SETTINGS)
    figures = sf.evaluate(run.path, episodes=2)
    assert figures["mean"] == 3.0 and figures["success_rate"] == 1.0 and figures["lengths"] == [1, 1]


def test_another_process_names_it_again_or_trusts(tmp_path, module, monkeypatch):
    run = sf.train("ppo", module, 64, run_dir=tmp_path / "run", env_kwargs={"pay": 3.0}, **SETTINGS)
    names._GIVEN.clear()  # what another process is like
    with pytest.raises(UsageError, match="env='mine:Own' is named by the files .* --env mine:Own, or pass trust=True"):
        sf.evaluate(run.path, episodes=1)
    with pytest.raises(UsageError, match="trust=True"):
        sf.stress(run.path, perturb="action-delay:0..1", episodes=1, points=2)
    with pytest.raises(UsageError, match="trust=True"):
        sf.resume(run.path)
    assert sf.evaluate(run.path, episodes=1, trust=True)["mean"] == 3.0
    assert sf.resume(run.path, trust=True).finished
    with pytest.raises(UsageError, match="trust=True"):
        sf.evaluate(run.path, episodes=1)  # trust is of the call
    assert sf.evaluate(run.path, Own, episodes=1)["mean"] == 1.0


def test_trust_still_wants_an_environment(tmp_path, folder):
    run = tmp_path / "run"
    shutil.copytree(trained(folder, "ppo", "CartPole-v1"), run)
    altered(run, env="operator:add", env_kwargs={})
    with pytest.raises(UsageError, match="operator:add"):
        sf.evaluate(run, episodes=1, trust=True)
    altered(run, env="builtins:dict")
    with pytest.raises(UsageError, match="must return a gymnasium.Env"):
        sf.evaluate(run, episodes=1, trust=True)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["RUN", "--env", "mine:Own"], True),
        (["RUN", "--env=mine:Own"], True),
        (["RUN", "--trust"], True),
        (["RUN", "--perturb", "param:length=1..2"], False),
        (["RUN", "--env", "CartPole-v1"], False),
        (["mine:Own"], False),
        (["grpo", "--task", "episodes:mine:Own,max_turns=2"], True),
        (["grpo", "--task", "reasoning_gym:chain_sum"], False),
    ],
)
def test_the_current_folder_is_importable_only_where_this_command_names_a_module(words, named):
    assert cli._names_a_module("evaluate", words) == named


# --- a name means what it meant ---


@pytest.fixture
def catch(monkeypatch):
    """An environment of ours under an id that EnvPool has besides."""
    monkeypatch.setattr(gymnasium, "registry", gymnasium.registry)
    gymnasium.register("Catch-v0", Own)
    yield "Catch-v0"
    gymnasium.registry.pop("Catch-v0", None)


def test_another_simulator_is_never_played_instead(tmp_path, catch):
    run = sf.train("ppo", catch, 64, run_dir=tmp_path / "run", **SETTINGS)
    package = __name__.partition(".")[0]
    assert run.config["env"]["origin"] == {"package": package, "version": None}
    assert run.agent().facts["env"] == run.config["env"] and run.config["env"]["backend"] == "gymnasium"
    assert sf.evaluate(run.path, episodes=2)["mean"] == 1.0
    gymnasium.registry.pop(catch)  # what a process is like in which nobody imported the package
    for call in (sf.evaluate, sf.resume, functools.partial(sf.stress, perturb="action-delay:0..1", episodes=1)):
        with pytest.raises(UsageError, match=f"env='Catch-v0' came from the package '{package}'.*belongs to envpool"):
            call(run.path)
    gymnasium.register(catch, "operator:add")
    with pytest.raises(UsageError, match="belongs to operator"):
        sf.evaluate(run.path, episodes=1)


def test_old_runs_do_not_take_envpool_s_for_what_it_did_not_step(tmp_path, catch):
    run = sf.train("ppo", catch, 64, run_dir=tmp_path / "run", **SETTINGS)
    for file in (run.path / "config.json", run.path / "agent" / "agent.json"):
        data = json.loads(file.read_text())
        del data["env"]["origin"]
        file.write_text(json.dumps(data))
    assert sf.evaluate(run.path, episodes=2)["mean"] == 1.0
    gymnasium.registry.pop(catch)
    with pytest.raises(UsageError, match="came from a package that was not recorded"):
        sf.evaluate(run.path, episodes=1)


def test_envpool_s_environment_is_not_replaced_either(tmp_path):
    run = sf.train("ppo", "Catch-v0", 64, run_dir=tmp_path / "run", **SETTINGS)
    assert run.config["env"]["backend"] == "envpool" and sf.evaluate(run.path, episodes=1)["mean"] in (-1, 1)
    gymnasium.register("Catch-v0", Other)
    try:
        with pytest.raises(UsageError, match="came from the package 'envpool'"):
            sf.evaluate(run.path, episodes=1)
    finally:
        gymnasium.registry.pop("Catch-v0")


def test_another_version_is_told(monkeypatch):
    monkeypatch.setattr(names, "_package", lambda env: "thing")
    monkeypatch.setattr(names, "_version", lambda package: "2.0")
    with pytest.warns(UserWarning, match="comes from thing 2.0 here; the run was made with 1.0"):
        names.check_origin("CartPole-v1", {"package": "thing", "version": "1.0"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        names.check_origin("CartPole-v1", {"package": "thing", "version": "2.0"})
        names.check_origin("CartPole-v1", None)


def test_a_class_of_a_script_gets_advice_that_helps():
    with pytest.raises(UsageError, match="env='__main__:Env' is .*give it again by env=….*move it into a module"):
        names.check_named("__main__:Env")


def test_a_misspelled_hyperparameter_is_named_whatever_its_value():
    with pytest.raises(UsageError, match="PPO has no hyperparameter 'policy_kwargs'"):
        sf.train("ppo", "CartPole-v1", 64, policy_kwargs={"net_arch": [64]})


def test_a_stress_report_holds_lengths_and_success_rates(tmp_path, module):
    report = sf.stress(lambda o: np.zeros(len(o), int), Own, "action-delay:0..1", episodes=2, points=2)
    assert report.lengths is not None and report.lengths.tolist() == [1, 1, 1]
    assert report.infos == {"success_rate": [1.0, 1.0, 1.0]}
    again = type(report).from_json(report.to_json())
    assert again.lengths is not None and again.lengths.tolist() == [1, 1, 1] and again.infos == report.infos
