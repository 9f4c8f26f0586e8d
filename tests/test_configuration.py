"""Configuration files, methods and environments of one's own, and going on with a run, from the command line."""

from __future__ import annotations

import importlib.metadata
import json
import re
import shlex
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

import surefoot as sf
from surefoot import catalogue, cli
from surefoot.configfile import read
from surefoot.envs import names
from surefoot.errors import UsageError
from surefoot.loops.common import checkpoint
from surefoot.loops.common.folder import short_name
from surefoot.loops.common.run import Run
from surefoot.loops.common.words import as_words, pairs, wrapper, wrapper_words

TINY = ["--num-envs", "2", "--num-steps", "16", "--minibatch-size", "32", "--epochs", "1", "--hidden", "8"]
QUIET = ["--loggers", *TINY]
CLOCK = ("time", "steps_per_second")
OWN = '''
"""My method: PPO with a number of its own."""
from dataclasses import dataclass
import gymnasium
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from surefoot.hyperparameters import hyperparameter
from surefoot.methods.control.ppo import PPO

@dataclass(frozen=True)
class Mine(PPO):
    """My method."""
    extra: float = hyperparameter(0.5, low=0, high=1, help="A number of its own.")

class NoMethod:
    pass

class MyCart(CartPoleEnv):
    def __init__(self, mass=0.1, render_mode=None):
        super().__init__(render_mode=render_mode)
        self.masspole = mass

gymnasium.register("MyCart-v0", MyCart, max_episode_steps=20)
'''


@pytest.fixture
def room(tmp_path, monkeypatch):
    """A working directory with a module of the user's own, as a newly started command finds it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(names, "_GIVEN", {})
    yield tmp_path
    sys.modules.pop("own", None)
    names.gymnasium.registry.pop("MyCart-v0", None)


def fresh(monkeypatch) -> None:
    """Forget what this process was given, like another process."""
    monkeypatch.setattr(names, "_GIVEN", {})


def surefoot(capsys, *arguments) -> str:
    cli.main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    assert err == ""
    return out


def refused(capsys, *arguments) -> str:
    with pytest.raises(SystemExit) as ended:
        cli.main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    assert ended.value.code == 2 and out == ""
    return " ".join(re.sub("[╭╮╰╯│─]", " ", err).split())


def rows(run) -> list[dict]:
    return [{k: v for k, v in row.items() if k not in CLOCK} for row in Run(Path(run)).metrics()]


def weights(run) -> bytes:
    return load_file(checkpoint.latest(Path(run)) / "state.safetensors")["weights"].numpy().tobytes()


# --- files -----------------------------------------------------------------------------------------------------------


def test_the_configuration_of_a_run_repeats_it(room, capsys):
    surefoot(capsys, "train", "ppo", "--env", "CartPole-v1", "--steps", "64", "--seed", "3", "--clip", "0.1",
             "--run-dir", "a", *QUIET)  # fmt: skip
    for number, given in enumerate(("a/config.json", "a")):
        surefoot(capsys, "train", "--config", given, "--run-dir", f"b{number}")
        assert rows(f"b{number}") == rows("a") and weights(f"b{number}") == weights("a")
    surefoot(capsys, "train", "--config", "a/config.json", "--seed", "4", "--clip", "0.3", "--run-dir", "c")
    config = Run(Path("c")).config
    assert config["seeds"] == [4] and config["hyperparameters"]["clip"] == 0.3, "options win over the file"
    assert config["hyperparameters"]["hidden"] == [8] and config["steps"] == 64 and config["loggers"] == []


FLAT = {
    "a.toml": 'method = "ppo"\nenv = "CartPole-v1"\nsteps = 64\nnum_envs = 2\nnum_steps = 16\nminibatch_size = 32\n'
    'epochs = 1\nhidden = [8]\nloggers = []\nclip = 0.1\nseed = 3\nwrappers = ["flatten"]\n[env_kwargs]\n',
    "a.yaml": "method: ppo\nenv: CartPole-v1\nsteps: 64\nnum_envs: 2\nnum_steps: 16\nminibatch_size: 32\nepochs: 1\n"
    "hidden: [8]\nloggers: []\nclip: 0.1\nseed: 3\nwrappers: [flatten]\n",
    "a.json": json.dumps(
        {"method": "ppo", "env": "CartPole-v1", "steps": 64, "num_envs": 2, "num_steps": 16, "minibatch_size": 32,
         "epochs": 1, "hidden": [8], "loggers": [], "clip": 0.1, "seed": 3, "wrappers": ["flatten"]}
    ),
}  # fmt: skip


def test_toml_yaml_and_json_say_the_same(room, capsys):
    made = []
    for name, text in FLAT.items():
        (room / name).write_text(text)
        surefoot(capsys, "train", "--config", name, "--run-dir", f"run-{name}")
        config = Run(room / f"run-{name}").config
        made.append({k: config[k] for k in ("hyperparameters", "env", "steps", "seeds", "loggers")})
    assert made[0] == made[1] == made[2] and made[0]["env"]["wrappers"] == [["flatten", {}]]


def test_later_files_win_and_a_method_given_beside_them(room, capsys):
    (room / "base.toml").write_text('method = "ppo"\nsteps = 32\nenv = "CartPole-v1"\nhidden = [8]\nnum_envs = 2\n')
    (room / "more.toml").write_text("num_steps = 16\nminibatch_size = 32\nhidden = [4]\nloggers = []\n")
    surefoot(capsys, "train", "--config", "base.toml", "more.toml", "--run-dir", "run", "--epochs", "1")
    assert Run(room / "run").config["hyperparameters"]["hidden"] == [4]
    surefoot(capsys, "train", "spo", "--config", "base.toml", "more.toml", "--run-dir", "spo", "--epochs", "1")
    assert Run(room / "spo").config["method"] == "spo"


REFUSED = {
    "unknown": (
        "learning_rte = 1",
        "the configuration has 'learning_rte', which train ppo does not know. Did you mean",
    ),
    "out of range": ("clip = 2.0", "clip=2.0 is not allowed; it must be a number in (0, 1)"),
    "another type": ('epochs = "many"', "epochs='many' is not allowed; it must be a whole number"),
    "a setting": ("steps = 0", "steps=0 is not allowed"),
    "an option": ('backend = "cloud"', "backend='cloud' is not allowed; it must be one of 'auto'"),
    "seeds": ("seeds = [1, 3]", "seeds=[1, 3] is not allowed; consecutive numbers"),
    "two places": ('task = "x"', "the configuration gives env and task"),
    "no table": ("=", "cannot be read"),
    "code": ('reward = "os:system"', "the configuration has 'reward'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_file_says_wrongly_is_refused_by_name(case, room, capsys):
    text, words = REFUSED[case]
    (room / "a.toml").write_text(f'method = "ppo"\nenv = "CartPole-v1"\n{text}\n')
    assert words in refused(capsys, "train", "--config", "a.toml", *QUIET)
    assert {p.name for p in room.iterdir()} <= {"a.toml", "own.py", "__pycache__"}


def test_a_file_that_is_missing_or_without_a_method(room, capsys):
    assert "cannot be read" in refused(capsys, "train", "--config", "nothing.toml")
    (room / "a.toml").write_text("steps = 1\n")
    assert "method=None is not allowed; name a method" in refused(capsys, "train", "--config", "a.toml")
    with pytest.raises(UsageError, match="is not a table"):
        (room / "a.json").write_text("[1]")
        read([room / "a.json"])


EVIL = 'import pathlib\npathlib.Path("ran").touch()\ndef make(**kwargs):\n    pathlib.Path("ran").touch()\n'


@pytest.mark.parametrize("entry", ['env = "evil:make"', 'method = "evil:make"', 'env = "CartPole-v1"\norigin = 1'])
def test_code_that_only_a_file_names_is_not_run(entry, room, capsys):
    (room / "evil.py").write_text(EVIL)
    first = "" if entry.startswith("method") else 'method = "ppo"\n'
    (room / "a.toml").write_text(f"{first}{entry}\nnum_envs = 2\nnum_steps = 16\nminibatch_size = 32\nsteps = 32\n")
    if "evil" in entry:
        words = refused(capsys, "train", "--config", "a.toml")
        assert "would have to be imported and called" in words and "--trust" in words
    assert not (room / "ran").exists()


def test_what_a_file_names_is_used_if_it_is_given_again_or_trusted(room, capsys, monkeypatch):
    text = 'method = "own:Mine"\nenv = "own:MyCart"\nsteps = 32\nextra = 0.25\n'
    (room / "a.toml").write_text(text + "num_envs = 2\nnum_steps = 16\nminibatch_size = 32\nepochs = 1\nloggers = []\n")
    assert "method='own:Mine' is named by" in refused(capsys, "train", "--config", "a.toml")
    assert "env='own:MyCart' is named by" in refused(capsys, "train", "own:Mine", "--config", "a.toml")
    surefoot(capsys, "train", "own:Mine", "--config", "a.toml", "--env", "own:MyCart", "--run-dir", "given")
    fresh(monkeypatch)
    surefoot(capsys, "train", "--config", "a.toml", "--trust", "--run-dir", "trusted")
    assert rows("given") == rows("trusted")


# --- methods and environments of one's own ---------------------------------------------------------------------------


def test_a_method_of_ones_own_is_trained_explained_and_resumed(room, capsys, monkeypatch):
    flags = ["--env", "own:MyCart-v0", "--env-kwargs", "mass=2", "--wrappers", "time_limit:steps=5", "flatten"]
    flags += ["--extra", "0.25", "--steps", "64", *QUIET]
    surefoot(capsys, "train", "own:Mine", *flags, "--run-dir", "whole")
    config = Run(Path("whole")).config
    assert config["method"] == "own:Mine" and config["hyperparameters"]["extra"] == 0.25
    assert config["env"]["env_kwargs"] == {"mass": 2}
    assert config["env"]["wrappers"] == [["time_limit", {"steps": 5}], ["flatten", {}]]
    assert max(row.get("return_mean", 0) for row in rows("whole")) <= 5
    surefoot(capsys, "train", "own:Mine", *flags, "--run-dir", "cut", "--time-limit", "1e-9")
    again = ["--env", "own:MyCart-v0"]
    fresh(monkeypatch)
    assert "method='own:Mine' is named by the files" in refused(capsys, "resume", "cut", *again)
    surefoot(capsys, "resume", "cut", "--method", "own:Mine", *again)
    assert rows("cut") == rows("whole") and weights("cut") == weights("whole")
    page = surefoot(capsys, "explain", "own:Mine")
    assert "My method: PPO with a number of its own." in page and "A number of its own." in page


def test_the_command_in_the_configuration_repeats_the_run(room, capsys, monkeypatch):
    monkeypatch.syspath_prepend(str(room))
    sf.train("own:Mine", "own:MyCart-v0", 64, seed=2, env_kwargs={"mass": 2}, run_dir="a", num_envs=2, num_steps=16,
             minibatch_size=32, epochs=1, hidden=(8, 4), loggers=(), extra=0.25, anneal=True, normalize_rewards=False,
             wrappers=[("time_limit", {"steps": 7})])  # fmt: skip
    program, *arguments = shlex.split(Run(Path("a")).config["command"])
    assert program == "surefoot" and "--no-normalize-rewards" in arguments and "--clip" not in arguments
    surefoot(capsys, *arguments, "--run-dir", "b")
    assert rows("b") == rows("a") and weights("b") == weights("a")


def test_what_has_no_name_has_the_script_as_its_command(room, monkeypatch):
    from surefoot.envs import make_single

    monkeypatch.setattr(sys, "argv", ["train it.py", "--fast"])
    tiny = {"num_envs": 2, "num_steps": 16, "minibatch_size": 32, "epochs": 1, "hidden": (8,), "loggers": ()}
    run = sf.train("ppo", lambda: make_single("CartPole-v1"), 32, run_dir="a", **tiny)
    assert run.config["command"] == "python 'train it.py' --fast"
    monkeypatch.setattr(sys, "argv", ["ipykernel_launcher"])
    assert sf.train("ppo", lambda: make_single("CartPole-v1"), 32, run_dir="b", **tiny).config["command"] == ""


def test_a_method_made_in_python_is_recorded_by_its_class(room, monkeypatch):
    sys.path.append(str(room))
    from own import Mine

    tiny = {"num_envs": 2, "num_steps": 16, "minibatch_size": 32, "epochs": 1, "hidden": (8,)}
    run = sf.train(Mine(**tiny), "CartPole-v1", 64, run_dir="a", loggers=(), time_limit=1e-9)
    assert run.config["method"] == "own:Mine" and sf.resume(run).finished
    assert short_name("own:Outer.Mine") == "mine" and short_name("robust-value-losses") == "robust-value-losses"


def test_methods_of_other_packages_are_found_by_their_entry_points(room, capsys, monkeypatch):
    point = importlib.metadata.EntryPoint("mine", "own:Mine", catalogue.GROUP)
    taken = importlib.metadata.EntryPoint("ppo", "own:Mine", catalogue.GROUP)
    offered = {catalogue.GROUP: [point, taken]}
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: offered.get(group, []))
    catalogue.plugins.cache_clear()
    monkeypatch.syspath_prepend(str(room))
    try:
        assert re.search(r"^mine +Mine of the package own$", surefoot(capsys, "methods"), re.MULTILINE)
        surefoot(
            capsys, "train", "mine", "--env", "CartPole-v1", "--steps", "32", "--extra", "1", "--run-dir", "a", *QUIET
        )
        assert Run(Path("a")).config["method"] == "mine"
        assert Run(Path("a")).config["hyperparameters"]["extra"] == 1.0
        assert catalogue.method_class("ppo").__module__ == "surefoot.methods.control.ppo"
        sf.resume("a", steps=32)
    finally:
        catalogue.plugins.cache_clear()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "own:Nothing", "--env", "CartPole-v1"], "method='own:Nothing' cannot be imported (AttributeError"),
        (["train", "owm:Mine", "--env", "CartPole-v1"], "method='owm:Mine' cannot be imported (ModuleNotFoundError"),
        (["train", "own:NoMethod", "--env", "CartPole-v1"], "method='own:NoMethod' is no method: name a class that"),
        (["train", "mine", "--env", "CartPole-v1"], "A method of your own is named module:Class."),
        (["train", "ppo", "--env", "MyCart-v0"], "(--env my_env:MyCart-v0)"),
        (
            ["train", "ppo", "--env", "CartPole-v1", "--env-kwargs", "mass"],
            "is not allowed; give a dictionary, or words",
        ),
        (["train", "ppo", "--env", "CartPole-v1", "--wrappers", "frame"], "wrapper 'frame' is not known. Did you mean"),
        (["claim", "own:Mine"], "'own:Mine' is a type; name a surefoot.claims.parts.Claim"),
    ],
)
def test_names_that_do_not_work_say_what_would(arguments, words, room, capsys):
    assert words in refused(capsys, *arguments)


def test_words_and_back():
    values = {"mass": 2, "name": "left", "flag": True, "sizes": [1, 2], "text": "2", "none": None, "deep": {"a": 1.5}}
    assert pairs(as_words(values), "env_kwargs") == values
    assert pairs(None, "x") == {} and pairs(values, "x") == values
    given = [["time_limit", {"steps": 5}], ["flatten", {}]]
    assert [wrapper(word) for word in wrapper_words(given)] == [("time_limit", {"steps": 5}), "flatten"]
    assert wrapper("frame_stack:n=4") == ("frame_stack", {"n": 4})


# --- going on --------------------------------------------------------------------------------------------------------


def test_a_finished_run_goes_on_as_a_longer_one(room, capsys):
    start = ["train", "ppo", "--env", "CartPole-v1", *QUIET]
    surefoot(capsys, *start, "--steps", "160", "--run-dir", "long")
    surefoot(capsys, *start, "--steps", "64", "--run-dir", "a")
    assert surefoot(capsys, "train", "--resume", "a", "--steps", "+6.4e1").startswith("a: 128 steps")
    assert surefoot(capsys, "resume", "a", "--steps", "+32").startswith("a: 160 steps")
    assert rows("a") == rows("long") and weights("a") == weights("long")
    program, *again = shlex.split(Run(Path("a")).config["command"])
    surefoot(capsys, *again, "--run-dir", "b")
    assert rows("b") == rows("long")
    assert "write the steps to add, such as --steps +100000" in refused(capsys, "resume", "a", "--steps", "200")
    assert "'many' is not a whole number" in refused(capsys, "resume", "a", "--steps", "+many")


def test_a_run_starts_from_the_weights_of_another(room, capsys):
    flags = ["--env", "CartPole-v1", "--steps", "32", *QUIET]
    surefoot(capsys, "train", "ppo", *flags, "--run-dir", "a")
    surefoot(capsys, "train", "ppo", *flags, "--run-dir", "b", "--start", "a", "--seed", "5")
    config = Run(Path("b")).config
    assert config["start"]["from"] == "a" and "--start a" in config["command"]
    first = load_file(checkpoint.found(Path("b"))[0] / "state.safetensors")["weights"].numpy().tobytes()
    assert first == weights("a")
    surefoot(capsys, "train", "--config", "b", "--run-dir", "c")
    assert rows("c") == rows("b")


def test_the_words_of_the_commands(room, capsys):
    from surefoot import __version__

    assert surefoot(capsys, "version") == f"{__version__}\n" and "usage: surefoot" in surefoot(capsys, "help")
    page = surefoot(capsys, "train", "--help")
    assert "spo" in page and "robust-value-losses" in page and "surefoot resume RUN" in page
