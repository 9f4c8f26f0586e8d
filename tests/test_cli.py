"""The command line from end to end, each command on a run of a few steps; what it refuses is in `test_bad_input.py`."""

from __future__ import annotations

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file

import surefoot as sf
from surefoot import __version__, api, catalogue, cli
from surefoot.claims import records
from surefoot.loops.common import checkpoint
from surefoot.loops.common.final import OF_EPISODES, final_returns
from surefoot.loops.common.run import Run
from surefoot.methods.control.ppo import PPO

TINY = ["--num-envs", "2", "--num-steps", "16", "--minibatch-size", "32", "--epochs", "1", "--hidden", "8"]
CLOCK = ("time", "steps_per_second")
ROOM = """
import gymnasium, numpy, pathlib, signal

class Paid(gymnasium.Env):
    '''Five steps; what is done is paid. With a file called `interrupt` it is as if Ctrl-C were pressed in step 60.'''
    observation_space, action_space = gymnasium.spaces.Box(-1, 1, (2,)), gymnasium.spaces.Discrete(2)
    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(self, render_mode=None):
        self.render_mode, self.total = render_mode, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self.np_random.uniform(-1, 1, 2).astype("float32"), {}

    def step(self, action):
        self.time, self.total = self.time + 1, self.total + 1
        if self.total == 60 and pathlib.Path("interrupt").exists():
            pathlib.Path("interrupt").unlink()  # a second one would end the run at once
            signal.raise_signal(signal.SIGINT)
        return self.np_random.uniform(-1, 1, 2).astype("float32"), float(action), self.time == 5, False, {}

    def render(self):
        return numpy.full((32, 32, 3), 50 * self.time, "uint8")
"""


def surefoot(capsys, *arguments) -> str:
    """What a command prints; it ends without an exit code and says nothing on stderr."""
    cli.main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    assert err == ""
    return out


def help_of(capsys, *arguments) -> str:
    """A command's --help in one line, without its frames."""
    with pytest.raises(SystemExit) as ended:
        cli.main([*arguments, "--help"])
    assert ended.value.code == 0
    return " ".join(re.sub("[╭╮╰╯│─]", " ", capsys.readouterr().out).split())


def rows(run) -> list[dict]:
    return [{k: v for k, v in row.items() if k not in CLOCK} for row in Run(run).metrics()]


def weights(run) -> bytes:
    return load_file(checkpoint.latest(run) / "state.safetensors")["weights"].numpy().tobytes()


@pytest.fixture
def room(tmp_path, monkeypatch):
    """The working directory, with an environment of the user's own in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "room.py").write_text(ROOM)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("room", None)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    run = tmp_path_factory.mktemp("cli") / "run"
    cli.main(["train", "ppo", "--env", "CartPole-v1", "--steps", "9.6e1", "--run-dir", str(run), "--loggers", *TINY])
    return run


@pytest.fixture
def run(made, tmp_path):
    return shutil.copytree(made, tmp_path / "run")


# --- what is written about itself ------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]])
def test_without_a_command_all_commands_are_listed(arguments, capsys):
    page = surefoot(capsys, *arguments)
    assert page.startswith("usage: surefoot COMMAND")
    lines = {line.split()[0]: line for line in page.splitlines()[2:]}
    assert set(lines) == set(cli.COMMANDS) and all(len(line) < 130 and line.endswith(".") for line in lines.values())


def test_the_version(capsys):
    assert surefoot(capsys, "--version") == f"{__version__}\n"


@pytest.mark.parametrize("command", [name for name in cli.COMMANDS if name not in ("train", "compare", "dataset")])
def test_help_explains_every_argument_by_its_name(command, capsys):
    page = help_of(capsys, command)
    function = cli.COMMANDS[command]
    assert (inspect.getdoc(function) or "").splitlines()[0] in page
    told = dict(re.findall(r"^    (\w+): (.+?)$", inspect.getdoc(function) or "", re.MULTILINE))
    parameters = inspect.signature(function).parameters
    assert set(told) == set(parameters), "every argument has its sentence"
    for name, parameter in parameters.items():
        positional = parameter.kind is parameter.POSITIONAL_ONLY
        assert (name.removesuffix("s").upper() if positional else f"--{name.replace('_', '-')}") in page
        assert told[name].split(".")[0][:40] in page


def test_help_of_comparing_explains_every_option(capsys):
    page = help_of(capsys, "compare")
    for name, words in (("env", "One or more environments"), ("seeds", "are trained and added"), ("out", "table.tex")):
        assert f"--{name}" in page and words in page
    assert "All options that `surefoot train` takes" in page


def test_help_of_training_has_every_setting_and_its_range(capsys):
    assert "usage: surefoot train METHOD --env ENV" in surefoot(capsys, "train", "--help")
    page = help_of(capsys, "train", "ppo")
    for name in (
        "env",
        "seed",
        "num-seeds",
        "run-dir",
        "steps",
        "checkpoint-every",
        *(f.name for f in fields(PPO) if f.name != "parts"),
    ):
        assert f"--{name.replace('_', '-')} " in page or f"--{name.replace('_', '-')}," in page
    assert "--clip FLOAT Clip range ε of the probability ratio. More than 0 and less than 1. (default: 0.2)" in page
    assert f"(default: {PPO.default_steps})" in page
    assert "{None}" not in page and "STR" not in page and "--run-dir PATH" in page and "--hidden [INT …]" in page
    assert "--core {gru,lstm} Recurrent core" in page and "--env-kwargs NAME=VALUE …" in page


def test_help_of_a_tabular_method_asks_for_an_mdp(capsys):
    page = help_of(capsys, "train", "ecrm")
    assert "--env TEXT A built-in MDP with its parameters" in page and "--num-envs" not in page


def test_methods_are_listed_in_columns(capsys):
    page = surefoot(capsys, "methods")
    built = {entry.slug for entry in catalogue.methods()}
    lines = page.splitlines()[:-2]
    assert [line.split()[0] for line in lines[::2]] and {line.split()[0] for line in lines[::2]} == built
    assert all(re.search(r"baseline|mechanism .* · paper's instance|no claim yet", line) for line in lines[1::2])
    assert len({re.search(r"\S", line).start() for line in lines[1::2]}) == 1
    control = surefoot(capsys, "methods", "--setting", "control")
    assert "ppo " in control and "a2c " in control and "ecrm" not in control


def test_explain_prints_the_page(capsys):
    assert surefoot(capsys, "explain", "ppo") == sf.explain("ppo") + "\n"


def test_a_reader_that_leaves_early_is_no_error(tmp_path):
    ours, theirs = os.pipe()
    os.close(ours)
    done = subprocess.run([sys.executable, "-m", "surefoot.cli", "zoo"], stdout=theirs, stderr=subprocess.PIPE)
    os.close(theirs)
    assert done.returncode == 141 and done.stderr == b""


# --- train, resume ---------------------------------------------------------------------------------------------------


def test_training_says_what_came_out_and_what_to_do_next(run, made, tmp_path, capsys):
    place = tmp_path / "again"
    flags = ["--steps", "96", "--run-dir", place, "--loggers", *TINY]
    out = surefoot(capsys, "train", "ppo", "--env", "CartPole-v1", *flags).splitlines()
    (last,) = final_returns(Run(place).metrics()).values()
    assert out[0] == f"{place}: 96 steps, final return {last:.6g} ({OF_EPISODES})"
    attack = f"stress {place} --perturb sticky-action:0..0.5"
    assert out[1] == f"next: surefoot evaluate {place} · surefoot {attack} · surefoot report {place}"
    assert Run(place).finished
    assert rows(place) == rows(made) and weights(place) == weights(made)  # 9.6e1 is 96, and the same seed the same run


def test_every_kind_of_flag_reaches_the_run(tmp_path, capsys):
    flags = [
        "--seed",
        "3",
        "--num-seeds",
        "2",
        "--steps",
        "6_4",
        "--checkpoint-every",
        "3.2e1",
        "--evaluate-every",
        "32",
    ]
    flags += ["--evaluate-episodes", "1", "--no-normalize-rewards", "--clip-high", "0.4", "--hidden", "8", "4"]
    flags += ["--target-kl", "None", "--activation", "relu", "--backend", "gymnasium", "--time-limit", "1e3"]
    place = tmp_path / "run"
    base = ["--env", "surefoot/Constant-v0", "--run-dir", place, *TINY[:-2], "--loggers", "tensorboard"]
    out = surefoot(capsys, "train", "ppo", *base, *flags)
    config = Run(place).config
    assert config["steps"] == 64 and config["seeds"] == [3, 4] and config["checkpoint_every"] == 32
    assert config["loggers"] == ["tensorboard"] and len(list((place / "tensorboard").rglob("*tfevents*"))) == 2
    asked = {"normalize_rewards": False, "clip_high": 0.4, "hidden": [8, 4], "target_kl": None, "activation": "relu"}
    assert {name: config["hyperparameters"][name] for name in asked} == asked
    asked = {"env": "surefoot/Constant-v0", "backend": "gymnasium", "env_kwargs": {}, "wrappers": [], "device": "cpu"}
    assert config["env"] == asked
    assert {(row["step"], row["seed"], row["evaluation_mean"]) for row in Run(place).metrics()} == {
        (32, 3, 1.0), (32, 4, 1.0), (64, 3, 1.0), (64, 4, 1.0)
    }  # fmt: skip
    assert out.splitlines()[0] == f"{place}: 64 steps, final return 1, 1 ({OF_EPISODES})"  # the return of each seed


def test_a_million_may_be_written_in_any_way(tmp_path, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr("surefoot.api.train", lambda slug, env, **given: asked.append(given["steps"]))
    monkeypatch.setattr("surefoot.training._print_summary", lambda run: None)
    for steps in ("1e6", "1000000", "1_000_000", "1.0E6", "10e5"):
        surefoot(capsys, "train", "ppo", "--env", "CartPole-v1", "--steps", steps)
    surefoot(capsys, "train", "ppo", "--env", "CartPole-v1")
    assert asked == [1_000_000] * 5 + [PPO.default_steps] and all(isinstance(n, int) for n in asked)


def test_training_ended_by_its_time_limit_is_gone_on_with(run, made, tmp_path, capsys):
    place = tmp_path / "cut"
    flags = ["--steps", "96", "--run-dir", place, "--time-limit", "1e-6", "--loggers", *TINY]
    out = surefoot(capsys, "train", "ppo", "--env", "CartPole-v1", *flags)
    assert f"next: surefoot resume {place} · surefoot evaluate" in out
    out = surefoot(capsys, "train", "--resume", place)
    assert out.startswith(f"{place}: 96 steps") and "resume" not in out
    assert rows(place) == rows(made) and weights(place) == weights(made)
    assert surefoot(capsys, "train", f"--resume={place}").startswith(f"{place}: 96 steps")


def test_a_tabular_method_and_its_run(tmp_path, capsys):
    place = tmp_path / "run"
    out = surefoot(capsys, "train", "dynamic-pg", "--env", "garnet:4,2,2,horizon=3", "--steps", "3", "--run-dir", place)
    assert "3 iterations, final return " in out
    assert "mean return" in surefoot(capsys, "evaluate", place, "--episodes", "2")


def test_no_ambiguity_is_written_as_none(tmp_path, capsys):
    for text, kept in (("None", None), ("tv:0.2", "tv:0.2")):
        place = tmp_path / text.replace(":", "-")
        flags = ["--env", "simulated-linear", "--steps", "2", "--ambiguity", text, "--eta", "inf", "--run-dir", place]
        assert "2 iterations, final return " in surefoot(capsys, "train", "dr-rpo", *flags)
        assert Run(place).config["hyperparameters"]["ambiguity"] == kept


def test_control_c_ends_with_a_checkpoint_and_the_run_goes_on_to_the_bit(room, capsys):
    """Ctrl-C comes in the middle of a batch; what is made of it is the uninterrupted run."""
    flags = ["--env", "room:Paid", "--steps", "192", "--backend", "gymnasium", "--loggers", *TINY]
    (room / "interrupt").touch()
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", "ppo", "--run-dir", "cut", *flags])
    out, err = capsys.readouterr()
    assert ended.value.code == 130 and err == "" and "next: surefoot resume cut --trust · " in out
    assert sf.load("cut").facts["ended"] == "interrupted" and not Run(Path("cut")).finished
    _, facts = checkpoint.read(checkpoint.latest(Path("cut")))
    assert facts["iteration"] == len(rows(Path("cut"))) == 5  # 60 steps and 12 resets, in batches of 16
    surefoot(capsys, "train", "--resume", "cut")
    surefoot(capsys, "train", "ppo", "--run-dir", "whole", *flags)
    assert len(rows(Path("whole"))) == 6
    assert rows(Path("cut")) == rows(Path("whole")) and weights(Path("cut")) == weights(Path("whole"))
    assert (sf.load("cut").vector == sf.load("whole").vector).all()


def test_control_c_before_there_is_anything_to_keep(capsys, monkeypatch):
    def pressed(slug):
        raise KeyboardInterrupt

    monkeypatch.setattr("surefoot.api.explain", pressed)
    with pytest.raises(SystemExit) as ended:
        cli.main(["explain", "ppo"])
    assert ended.value.code == 130 and capsys.readouterr() == ("", "surefoot: interrupted.\n")


# --- what is done with a run -----------------------------------------------------------------------------------------


def test_evaluate_prints_the_figures_that_it_keeps(run, capsys):
    out = surefoot(capsys, "evaluate", run, "--episodes", "3", "--seed", "5")
    kept = json.loads((run / "evaluation.json").read_text())
    assert kept["episodes"] == 3 and kept["seed"] == 5
    low, high = kept["mean_interval"]
    assert out.splitlines() == [
        "CartPole-v1 · 3 episodes from seed 5, deterministic actions · agent of seed 0",
        f"mean return {kept['mean']:.2f}  95 % interval [{low:.2f}, {high:.2f}]",
        f"lowest {kept['min']:.2f}  highest {kept['max']:.2f}",
    ]


def test_evaluate_says_why_there_is_no_interval(run, capsys):
    out = surefoot(capsys, "evaluate", run, "--episodes", "1").splitlines()
    assert out[1].endswith("  no interval from one episode") and "[" not in out[1]
    assert json.loads((run / "evaluation.json").read_text())["mean_interval"] is None


def test_a_film_lies_in_the_run(room, capsys):
    imageio = pytest.importorskip("imageio.v2")
    pytest.importorskip("imageio_ffmpeg")
    flags = ["--env", "room:Paid", "--steps", "32", "--loggers", *TINY]
    surefoot(capsys, "train", "ppo", "--run-dir", "run", *flags)
    out = surefoot(capsys, "evaluate", "run", "--episodes", "1", "--video")
    assert out.splitlines()[-1] == "video: run/video.mp4"
    with imageio.get_reader("run/video.mp4") as reader:
        assert reader.get_meta_data()["fps"] == 10 and sum(1 for _ in reader) == 6  # the reset and five steps


def test_stress_prints_the_table_and_keeps_the_report(run, capsys):
    flags = ["--perturb", "observation-noise:0..0.3", "--episodes", "2", "--points", "3", "--seed", "1"]
    out = surefoot(capsys, "stress", run, *flags)
    report = sf.stress(run, perturb="observation-noise:0..0.3", episodes=2, points=3, seed=1)
    assert out == report.table() + "\n" and report.returns.shape == (3, 2)
    assert (run / "stress-observation-noise-0..0.3.json").exists()


def test_compare_trains_both_and_prints_the_table(tmp_path, capsys):
    out = tmp_path / "out"
    flags = ["compare", "a2c", "reinforce", "--env", "surefoot/ActionReward-v0", "--seeds", "2", "--steps", "64"]
    cli.main([*flags, "--out", str(out)])
    words, told = capsys.readouterr()
    assert told.splitlines()[0].startswith("a2c-surefoot-ActionReward-v0: 64 of 64 steps · return ")
    lines = words.splitlines()
    assert lines[0].startswith("surefoot/ActionReward-v0 · 2 seeds · final return, 95 % intervals over seeds")
    assert [line.split()[0] for line in lines[1:]] == ["learner", "a2c", "reinforce", "Final"]
    kept = json.loads((out / "comparison.json").read_text())
    assert kept["seeds"] == [0, 1] and set(kept["scores"]) == {"a2c", "reinforce"}
    assert {p.name for p in out.iterdir()} == {
        "comparison.json", "report.html", "scores.csv", "table.tex",
        "a2c-surefoot-ActionReward-v0", "reinforce-surefoot-ActionReward-v0",
    }  # fmt: skip
    before = {p: p.stat().st_mtime_ns for p in out.rglob("metrics.jsonl")}
    again = surefoot(capsys, *flags, "--out", out)
    assert again == words and before == {p: p.stat().st_mtime_ns for p in out.rglob("metrics.jsonl")}


def test_compare_takes_tasks_of_language_models(monkeypatch, capsys):
    asked = {}

    def compare(*given, **options):
        asked.update(options, given=given)
        return SimpleNamespace(table=lambda: "the table")

    monkeypatch.setattr(api, "compare", compare)
    words = surefoot(capsys, "compare", "grpo", "rloo", "--task", "arithmetic", "--seeds", "3", "--steps", "5")
    assert words == "the table\n" and asked.pop("given") == (("grpo", "rloo"),)
    assert asked.pop("progress") is not None
    assert asked == {"env": None, "task": ("arithmetic",), "seed": 0, "seeds": 3, "steps": 5, "out": None, "on": ""}
    surefoot(capsys, "compare", "grpo", "rloo", "--task", "arithmetic", "--model", "folder")
    assert asked["model"] == "folder"


def test_compare_takes_the_hyperparameters_of_its_methods(monkeypatch, capsys):
    asked = {}
    table = SimpleNamespace(table=lambda: "the table")
    monkeypatch.setattr(api, "compare", lambda *given, **options: asked.update(options) or table)
    given = ["--num-envs", "4", "--hidden", "8", "16", "--learning-rate=1e-2", "--no-standardize"]
    surefoot(capsys, "compare", "ppo", "spo", *given, "--env", "CartPole-v1", "--seeds", "3")
    wanted = {"num_envs": 4, "hidden": (8, 16), "learning_rate": 0.01, "standardize": False, "seeds": 3}
    assert {name: asked[name] for name in wanted} == wanted and asked["env"] == ("CartPole-v1",)
    with pytest.raises(SystemExit):
        surefoot(capsys, "compare", "ppo", "spo", "--env", "CartPole-v1", "--num-seeds", "3")


def test_report_prints_where_it_is(run, capsys):
    assert surefoot(capsys, "report", run) == f"{run}/report.html\n"
    assert "CartPole-v1" in (run / "report.html").read_text()


def test_solve_and_zoo(tmp_path, capsys):
    assert "two-state " in surefoot(capsys, "zoo")
    out = surefoot(capsys, "solve", "two-state", "--ambiguity", "kl:0.1", "--out", tmp_path / "out")
    assert "where the worst world differs most" in out and (tmp_path / "out" / "solution.npz").exists()


# --- claims ----------------------------------------------------------------------------------------------------------


def test_a_claim_is_shown_from_its_records(capsys):
    page = surefoot(capsys, "claim", "ppo")
    assert "miniature 3 of 3" in page and "beats no clipping " in page and "run it again" in page


def test_a_claim_is_run_on_other_seeds(capsys, tmp_path):
    page = surefoot(capsys, "claim", "ppo", "--tier", "mechanism", "--seeds", "100:103", "--out", tmp_path)
    assert "mechanism 1 of 1" in page and "seeds 100-102" in page and str(tmp_path) in page
    assert "mechanism 1 of 1" in surefoot(capsys, "claim", "ppo", "--out", tmp_path)


def test_all_claims_of_a_tier_run_where_no_record_covers_them(capsys, monkeypatch, tmp_path):
    made, asked = records.claim("ppo"), []
    monkeypatch.setattr(records, "claimed", lambda: ["spo", "ppo"])

    def run(claim, folder, *, tier, experiment, seeds, on):
        asked.append((claim.slug, tier))
        if claim.slug == "spo":
            raise RuntimeError("torn")
        return []

    monkeypatch.setattr("surefoot.claims.running.run", run)
    with pytest.raises(SystemExit) as ended:
        cli.main(["claim", "--tier", "mechanism", "--out", str(tmp_path)])
    assert ended.value.code == 2 and asked == [("spo", "mechanism"), ("ppo", "mechanism")]
    assert "1 claims broke off: spo (RuntimeError: torn)" in capsys.readouterr().err
    for name, experiment in made.experiments.items():
        if experiment.tier == "mechanism":
            keep = records.Record(name, tuple(range(experiment.seeds)), "2026-01-01", 0.0, {}, "")
            records.keep(keep, made, tmp_path)
    monkeypatch.setattr(records, "claimed", lambda: ["ppo"])
    surefoot(capsys, "claim", "--tier", "mechanism", "--out", tmp_path)
    assert len(asked) == 2


def test_the_status_of_claims(capsys, tmp_path):
    page = surefoot(capsys, "claim", "ppo", "--status")
    assert page.startswith("ppo  mechanism") and page.endswith("1 claims, 0 to mend.\n")
    (tmp_path / "ppo" / "0000").mkdir(parents=True)
    (tmp_path / "ppo" / "0000" / "2026-01-01-old-0-1.json").write_text("{}")
    with pytest.raises(SystemExit) as ended:
        cli.main(["claim", "ppo", "--status", "--out", str(tmp_path)])
    assert ended.value.code == 1 and "MEND 1 records are stale" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give the slug of a paper, or --tier for all papers, or --status"),
        (["ppo", "--status", "--tier", "mechanism"], "--status shows records and runs nothing"),
        (["ppo", "--seeds", "0"], "seeds='0' is not allowed"),
        (["ppo", "--experiment", "table"], "experiment='table' is unknown. Did you mean 'table 1'"),
        (["--experiment", "table 1", "--tier", "instance"], "--experiment table 1 needs the slug of its paper"),
        (["spp"], "No paper is called 'spp'. Did you mean"),
    ],
)
def test_claims_asked_for_wrongly(arguments, words, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["claim", *arguments])
    out, err = capsys.readouterr()
    assert ended.value.code == 2 and out == "" and words in err
