"""What a user or the world does wrong: one paragraph that says what to do, exit code 2, and nothing lost.

More of it is tested where it belongs: environments, backends, seeds and wrappers in `envs/test_make.py`, ranges of
hyperparameters in `test_hyperparameters.py`, damaged checkpoints, logs and taken folders in
`loops/common/test_resume.py`, what the outer loop says in `loops/common/test_train.py`, loggers in
`loops/common/test_logs.py`, policies and perturbations in `evaluate/test_rollout.py` and `evaluate/test_stress.py`,
agents in `models/test_agent.py`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from forged import forge
from gymnasium import spaces
from safetensors.torch import load_file

import surefoot as sf
from surefoot import catalogue, cli
from surefoot.envs import EnvError
from surefoot.errors import UsageError
from surefoot.loops.common import checkpoint
from surefoot.loops.common.run import Run

SETTINGS = {"num_envs": 2, "num_steps": 16, "minibatch_size": 32, "epochs": 1, "hidden": (8,), "loggers": ()}
CLOCK = ("time", "steps_per_second")
FRAME = re.compile("[╭╮╰╯│─|+]|-{3,}")  # the box around a mistyped flag


class Fragile(gymnasium.Env):
    """Episodes of 5 steps; what is in `faults` happens in the step (or reset) after `at` steps were taken."""

    faults: frozenset[str] = frozenset()
    at = 40

    def __init__(self, discrete: bool = False):
        self.observation_space = spaces.Discrete(3) if discrete else spaces.Box(-1, 1, (2,), np.float32)
        self.action_space, self.discrete, self.steps = spaces.Discrete(2), discrete, 0

    def observe(self):
        seen = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return int(seen[0] > 0) if self.discrete else seen

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        if "nan in reset" in self.faults and self.steps >= self.at:
            return np.full(2, np.nan, np.float32), {}
        return self.observe(), {}

    def step(self, action):
        self.steps, self.time = self.steps + 1, self.time + 1
        observation, reward = self.observe(), float(action)
        if self.steps > self.at:
            for fault in self.faults:
                match fault:
                    case "raise":
                        raise ZeroDivisionError("the wheel came off")
                    case "die":
                        os._exit(7)
                    case "nan reward":
                        reward = float("nan")
                    case "infinite reward":
                        reward = float("inf")
                    case "nan observation":
                        observation = observation * np.float32("nan")
        return observation, reward, self.time == 5, False, {}


class Odd(gymnasium.Env):
    """Its action space is what a class attribute says."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, action_space):
        self.action_space = action_space

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}


@pytest.fixture
def faults(monkeypatch):
    """Sets what goes wrong with `Fragile`, in this process and in those forked from it."""
    return lambda *names: monkeypatch.setattr(Fragile, "faults", frozenset(names))


def rows(run):
    return [{k: v for k, v in row.items() if k not in CLOCK} for row in Run(run).metrics()]


def weights(run):
    return load_file(checkpoint.latest(run) / "state.safetensors")["weights"].numpy().tobytes()


def refused(capsys, *arguments):
    """The paragraph that the command line prints as it ends with exit code 2."""
    with pytest.raises(SystemExit) as ended:
        cli.main(list(arguments))
    out, err = capsys.readouterr()
    assert ended.value.code == 2 and out == ""
    return " ".join(FRAME.sub(" ", err).split())


# --- asked for wrongly -----------------------------------------------------------------------------------------------

ASKED = {
    "unknown method": (["ppoo", "--env", "CartPole-v1"], "No method is called 'ppoo'. Did you mean 'ppo'"),
    "planned method": (["maddpg", "--env", "CartPole-v1"], "its method is not built yet. Built: "),
    "no method": (["--env", "CartPole-v1"], "train needs a method as its first argument: train METHOD --env ENV"),
    "no environment": (["ppo"], "--env TEXT"),
    "unknown environment": (["ppo", "--env", "CartPol-v1"], "'CartPol-v1' is not a known id. Did you mean 'CartPole"),
    "unknown module": (["ppo", "--env", "no.such:Thing"], "the module 'no.such' cannot be imported"),
    "misspelled": (["ppo", "--env", "CartPole-v1", "--learning-rat", "1"], "Perhaps you meant: --learning-rate"),
    "out of range": (["ppo", "--env", "CartPole-v1", "--clip", "2"], "clip=2.0 is not allowed; it must be a number in"),
    "not a number": (["ppo", "--env", "CartPole-v1", "--steps", "many"], "'many' is not a whole number such as 1000"),
    "not whole": (["ppo", "--env", "CartPole-v1", "--epochs", "1.5"], "'1.5' is not a whole number"),
    "infinite": (["ppo", "--env", "CartPole-v1", "--steps", "inf"], "'inf' is not a whole number"),
    "no steps": (["ppo", "--env", "CartPole-v1", "--steps", "0"], "steps=0 is not allowed; it must be a whole number"),
    "not a divisor": (["ppo", "--env", "CartPole-v1", "--minibatch-size", "60"], "use a divisor such as 64"),
    "no threads": (["ppo", "--env", "CartPole-v1", "--threads", "0"], "threads=0 is not allowed"),
    "threads": (["ppo", "--env", "CartPole-v1", "--threads", "1e18"], "threads=1000000000000000000 is not allowed"),
    "environments": (["ppo", "--env", "CartPole-v1", "--num-envs", "1e18"], "num_envs=1000000000000000000 is not"),
    "batch": (["ppo", "--env", "CartPole-v1", "--num-steps", "1e18"], "num_steps=1000000000000000000 is not allowed"),
    "width": (["ppo", "--env", "CartPole-v1", "--hidden", "1e12"], "hidden=(1000000000000,) is not allowed"),
    "horizon": (["dynamic-pg", "--env", "garnet:4,2,2,horizon=1000000000"], "horizon=1000000000 is not allowed"),
    "many seeds": (["ppo", "--env", "CartPole-v1", "--num-seeds", "1e18"], "num_seeds=1000000000000000000 is not"),
    "no seeds": (["ppo", "--env", "CartPole-v1", "--num-seeds", "0"], "num_seeds=0 is not allowed"),
    "interval": (["ppo", "--env", "CartPole-v1", "--checkpoint-every", "-1"], "checkpoint_every=-1 is not allowed"),
    "time": (["ppo", "--env", "CartPole-v1", "--time-limit", "0"], "time_limit=0.0 is not allowed"),
    "episodes": (["ppo", "--env", "CartPole-v1", "--evaluate-episodes", "0"], "evaluate_episodes=0 is not allowed"),
    "backend": (["ppo", "--env", "rrls/Hopper-v5", "--backend", "envpool"], "use 'auto' or 'gymnasium'"),
    "pool under noise": (
        ["policy-smoothing", "--env", "CartPole-v1", "--backend", "envpool"],
        "backend='envpool' is not allowed for PolicySmoothing",
    ),
    "pool in a game": (
        ["m2td3", "--env", "Hopper-v5", "--backend", "envpool"],
        "backend='envpool' is not allowed for M2TD3",
    ),
    "pool of parameters": (
        ["domain-randomization", "--env", "Hopper-v5", "--backend", "envpool"],
        "backend='envpool' is not allowed for DomainRandomization",
    ),
    "squash": (["ppo", "--env", "CartPole-v1", "--squash"], "squash=True is for continuous actions"),
    "resume a method": (["ppo", "--resume", "here"], "takes the folder of a run, which holds its method and settings"),
    "resume so": (["ppo", "--resume=here"], "takes the folder of a run, which holds its method and settings"),
    "resume no folder": (["--resume"], "takes the folder of a run, which holds its method and settings"),
    "resume and more": (["--resume", "here", "--clip", "1"], "Unrecognized options: --clip"),
    "resume in all": (["--resume", "here", "--steps", "7"], "steps='7' is not allowed; write the steps to add"),
    "resume nothing": (["--resume", "nowhere"], "nowhere is not the folder of a run"),
}  # fmt: skip


@pytest.mark.parametrize("case", ASKED)
def test_what_is_asked_for_wrongly_is_refused_before_any_work(case, capsys, tmp_path, monkeypatch):
    arguments, words = ASKED[case]
    monkeypatch.chdir(tmp_path)
    assert words in refused(capsys, "train", *arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_the_run_should_be_is_kept(capsys, tmp_path):
    (tmp_path / "file").write_text("mine")
    for place, words in (("file", "is a file; a run needs a folder"), ("file/run", "could not be written: ")):
        flags = ["--env", "CartPole-v1", "--run-dir", str(tmp_path / place)]
        assert words in refused(capsys, "train", "ppo", *flags)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("steps", [0, -5, 1.5, float("nan"), float("inf"), "many", True])
def test_steps_that_are_no_number_of_steps(steps, tmp_path):
    with pytest.raises(UsageError, match="steps=.* is not allowed; it must be a whole number in"):
        sf.train("ppo", "CartPole-v1", steps, run_dir=tmp_path / "run", **SETTINGS)
    assert not (tmp_path / "run").exists()


def test_hyperparameters_beside_a_ready_method(tmp_path):
    ppo = catalogue.method_class("ppo")()
    with pytest.raises(UsageError, match=r"\['clip'\] must be set in the PPO instance"):
        sf.train(ppo, "CartPole-v1", 32, run_dir=tmp_path / "run", clip=0.3)
    with pytest.raises(UsageError, match="no hyperparameter 'clp'. Did you mean 'clip'"):
        sf.train("ppo", "CartPole-v1", 32, run_dir=tmp_path / "run", clp=0.3)


def test_minibatches_of_one_have_nothing_to_be_standardised_by(tmp_path):
    with pytest.raises(UsageError, match="minibatch_size=1 is not allowed with standardize=True"):
        sf.train("ppo", "CartPole-v1", 64, run_dir=tmp_path / "run", minibatch_size=1)
    assert catalogue.method_class("ppo")(minibatch_size=1, standardize=False).minibatch_size == 1


ACTIONS = {
    "a dict": spaces.Dict({"a": spaces.Discrete(2)}),
    "a tuple": spaces.Tuple([spaces.Discrete(2)]),
    "text": spaces.Text(3),
    "bits in two dimensions": spaces.MultiBinary((2, 2)),
}


ON_POLICY = [m.slug for m in catalogue.methods() if getattr(catalogue.method_class(m.slug), "loop") == "on-policy"]  # noqa: B009


@pytest.mark.parametrize("kind", ACTIONS)
@pytest.mark.parametrize("method", ON_POLICY)
def test_an_action_space_that_a_method_cannot_act_in(method, kind, tmp_path):
    with pytest.raises(UsageError, match="(?i)(space|flatten).*(supported|wrapper|flatten)"):
        sf.train(method, lambda: Odd(ACTIONS[kind]), 64, run_dir=tmp_path / "run", loggers=())
    assert not (tmp_path / "run").exists()


# --- environments that break in training -----------------------------------------------------------------------------

BROKEN = {
    "nan reward": (UsageError, r"reward is nan in environment 0 at step 48: .*Clip or scale it"),
    "infinite reward": (UsageError, r"reward is inf in environment 0 at step 48: "),
    "nan observation": (UsageError, r"observation\[0\] is nan in environment 0 at step 48: .*ObservationWrapper"),
    "nan in reset": (UsageError, r"observation\[0\] is nan in environment 0 at step"),
    "raise": (
        EnvError,
        r"Environment 0 failed in step\(\): ZeroDivisionError: the wheel came off at step 48\. The fault",
    ),
}


def broken_off(run, kind, words, **options):
    """Train until it breaks; the message says what is kept, and that is there."""
    with pytest.raises(kind, match=words) as raised:
        sf.train("ppo", Fragile, 32 * 6, run_dir=run, **{**SETTINGS, "checkpoint_every": 32, **options})
    last, told = checkpoint.latest(run), str(raised.value)
    died = "worker process" in told and "process of the environments died" in told
    assert (
        f"Nothing before the checkpoint {last} is lost" in told if died else f"The last checkpoint is {last}." in told
    )
    assert ("--resume" in told) == (kind is EnvError)  # what was not finite would not be finite again
    assert "\n" not in told
    _, facts = checkpoint.read(last)
    return facts["iteration"]


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_environment_costs_no_more_than_the_batch_under_way(fault, faults, tmp_path):
    whole, run = tmp_path / "whole", tmp_path / "run"
    sf.train("ppo", Fragile, 32 * 6, run_dir=whole, **SETTINGS)
    faults(fault)
    batches = 2 if fault == "nan in reset" else 3  # 40 steps and 8 resets make three batches of 16
    assert broken_off(run, *BROKEN[fault]) == batches
    faults()
    sf.resume(run, env=Fragile)  # mended
    assert rows(run) == rows(whole) and weights(run) == weights(whole)


def test_rewards_are_looked_at_where_observations_are_whole_numbers(faults, tmp_path):
    faults("nan reward")
    kind, words = BROKEN["nan reward"]
    assert broken_off(tmp_path / "run", kind, words, env_kwargs={"discrete": True}) == 3


def test_the_very_first_observation_is_looked_at(faults, tmp_path, monkeypatch):
    faults("nan in reset")
    monkeypatch.setattr(Fragile, "at", 0)
    with pytest.raises(UsageError, match=r"observation\[0\] is nan in environment 0 at step 0"):
        sf.train("ppo", Fragile, 64, run_dir=tmp_path / "run", **SETTINGS)
    assert not (tmp_path / "run").exists()


def test_a_run_that_is_there_is_not_written_over(capsys, runs):
    before = {p: p.read_bytes() for p in runs.rglob("*") if p.is_file()}
    words = refused(capsys, "train", "ppo", "--env", "CartPole-v1", "--run-dir", str(runs / "ppo"))
    assert f"exists and is not empty. Resume the run in it with `surefoot train --resume {runs / 'ppo'}`" in words
    assert before == {p: p.read_bytes() for p in runs.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("raise", r"Environment \d failed in step\(\): ZeroDivisionError: the wheel came off"),
        ("die", r"A worker process (of the environments )?died.*backend='gymnasium'"),
    ],
)
def test_a_worker_that_breaks_is_named_and_the_checkpoint_kept(fault, words, faults, tmp_path):
    faults(fault)
    assert broken_off(tmp_path / "run", EnvError, words, backend="process") == 3
    faults()
    assert sf.resume(tmp_path / "run", env=Fragile).finished


def test_an_environment_that_breaks_at_once_leaves_no_folder(faults, tmp_path, monkeypatch):
    faults("raise")
    monkeypatch.setattr(Fragile, "reset", lambda self, **kwargs: 1 / 0)
    with pytest.raises(EnvError, match=r"Environment 0 failed in reset\(\): ZeroDivisionError"):
        sf.train("ppo", Fragile, 64, run_dir=tmp_path / "run", **SETTINGS)
    assert not (tmp_path / "run").exists()


def test_the_command_line_prints_what_an_environment_broke_of(faults, tmp_path, capsys, monkeypatch):
    faults("raise")
    monkeypatch.setitem(sys.modules, "fragile", sys.modules[__name__])
    flags = ["--num-envs", "2", "--num-steps", "16", "--minibatch-size", "32", "--loggers", "--steps", "1e3"]
    words = refused(capsys, "train", "ppo", "--env", "fragile:Fragile", "--run-dir", str(tmp_path / "run"), *flags)
    assert words.startswith("surefoot: Environment 0 failed in step(): ZeroDivisionError: the wheel came off")
    assert words.endswith(f"surefoot train --resume {tmp_path / 'run'}")


def test_weights_that_run_away_end_the_run(tmp_path):
    with pytest.raises(UsageError, match=r"weights of seed 0 are no longer finite.*A smaller learning_rate"):
        sf.train("ppo", "CartPole-v1", 32 * 40, run_dir=tmp_path / "run", learning_rate=1e38, **SETTINGS)
    state, _ = checkpoint.read(checkpoint.latest(tmp_path / "run"))
    assert np.isfinite(state["weights"]).all()


# --- a full disk -----------------------------------------------------------------------------------------------------


def fill(path: Path) -> None:
    """From now on the disk is full for this file, whether it is open or will be opened."""
    full = os.open("/dev/full", os.O_WRONLY)
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            if Path(os.readlink(f"/proc/self/fd/{number}")) == path.resolve():
                os.dup2(full, int(number))
    os.close(full)
    path.rename(path.with_suffix(".before"))
    path.symlink_to("/dev/full")


def empty(path: Path) -> None:
    """There is room again."""
    path.unlink()
    path.with_suffix(".before").rename(path)


needs_dev_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full and /proc")


@needs_dev_full
@pytest.mark.parametrize("name", ["metrics.jsonl", "actions.bin", "tensorboard"])
def test_a_disk_that_is_full_for_one_file(name, tmp_path):
    run, options = tmp_path / "run", {**SETTINGS, "loggers": ("tensorboard",), "checkpoint_every": 32}

    def files():
        return [run / name] if name != "tensorboard" else list((run / name).glob("*tfevents*"))

    def full(learner, rows):
        if learner.iteration == 3:
            for path in files():
                fill(path)

    with pytest.raises(
        UsageError, match=r"could not be written: .*No space left.*Free disk space.* --resume"
    ) as raised:
        sf.train("ppo", "CartPole-v1", 32 * 6, run_dir=run, callbacks=[full], **options)
    assert str(checkpoint.latest(run)) in str(raised.value)
    for path in files():
        if path.is_symlink():
            empty(path)
    assert sf.resume(run).finished
    whole = sf.train("ppo", "CartPole-v1", 32 * 6, run_dir=tmp_path / "whole", **options)
    assert rows(run) == rows(whole.path) and weights(run) == weights(whole.path)


def test_an_agent_that_cannot_be_kept_can_be_made_again(tmp_path):
    def obstruct(learner, rows):
        (tmp_path / "run" / "agent").write_text("in the way")

    with pytest.raises(UsageError, match=r"/agent could not be written: .*00000002 is lost.*--resume"):
        sf.train("ppo", "CartPole-v1", 64, run_dir=tmp_path / "run", callbacks=[obstruct], **SETTINGS)
    (tmp_path / "run" / "agent").unlink()
    assert sf.resume(tmp_path / "run").finished
    assert sf.load(tmp_path / "run").facts["steps"] == 64


SMALL_DISK = """
import subprocess, sys
from surefoot import cli

def ends(*arguments):
    try:
        cli.main([*arguments])
    except SystemExit as end:
        return end.code
    return 0

if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", "disk"]).returncode:
    sys.exit(77)
print("first", ends(*sys.argv[1:]))
subprocess.run(["mount", "-o", "remount,size=8m", "tmpfs", "disk"], check=True)
print("second", ends("train", "--resume", "disk/run"))
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
def test_a_small_disk(tmp_path):
    """A real file system of 64 kB: training ends on it, and goes on once it is larger."""
    (tmp_path / "disk").mkdir()
    flags = ["--num-envs", "2", "--num-steps", "16", "--minibatch-size", "32", "--hidden", "8", "--steps", "800"]
    flags += ["--env", "CartPole-v1", "--backend", "gymnasium", "--epochs", "1", "--checkpoint-every", "64"]
    done = subprocess.run(
        ["unshare", "-rm", sys.executable, "-c", SMALL_DISK, "train", "ppo", *flags, "--run-dir", "disk/run"],
        cwd=tmp_path, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    assert "first 2" in done.stdout and "second 0" in done.stdout, done.stderr
    told = " ".join(done.stderr.split())
    assert "No space left on device" in told and "surefoot train --resume disk/run" in told
    assert "Traceback" not in told


# --- files that are not what they should be --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    place = tmp_path_factory.mktemp("runs")
    for method in ("ppo", "spo"):
        sf.train(method, "CartPole-v1", 96, run_dir=place / method, checkpoint_every=32, **SETTINGS)
    return place


@pytest.fixture
def runs(two_runs, tmp_path):
    return shutil.copytree(two_runs, tmp_path / "runs")


def test_a_checkpoint_of_another_method(runs, capsys):
    """PPO and SPO have the same tensors, so only what is written beside them tells them apart."""
    shutil.rmtree(runs / "ppo" / "checkpoints")
    shutil.copytree(runs / "spo" / "checkpoints", runs / "ppo" / "checkpoints")
    before = {p: p.read_bytes() for p in runs.rglob("*") if p.is_file()}
    words = refused(capsys, "train", "--resume", str(runs / "ppo"))
    assert "00000003 is not a checkpoint of this run: it was written for method='spo'" in words
    assert "config.json says method='ppo'. Restore the original files of the run, or start" in words
    assert before == {p: p.read_bytes() for p in runs.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("entry", "value"),
    [("seeds", [1]), ("env", {"env": "Acrobot-v1", "backend": "gymnasium", "env_kwargs": {}, "wrappers": []})],
)
def test_a_checkpoint_of_another_run(runs, entry, value):
    config = json.loads((runs / "ppo" / "config.json").read_text())
    (runs / "ppo" / "config.json").write_text(json.dumps({**config, entry: value}))
    with pytest.raises(UsageError, match=f"not a checkpoint of this run: it was written for {entry}="):
        sf.resume(runs / "ppo")


@pytest.mark.parametrize("entry", ["sha256", "meta_sha256", "iteration", "logged", "seeds"])
def test_a_checkpoint_without_its_checksum_or_counters_is_passed_over(runs, entry):
    forge(checkpoint.latest(runs / "ppo"), **{entry: None})
    with pytest.warns(UserWarning, match=f"meta.json is damaged: it lacks {entry}.* resumed from .*00000002"):
        sf.resume(runs / "ppo")


@pytest.mark.parametrize("change", [{"iteration": 10**6}, {"iteration": -1}, {"iteration": "3"}, {"logged": 3}])
def test_a_checkpoint_with_other_counters_is_passed_over(runs, change):
    forge(checkpoint.latest(runs / "ppo"), **change)
    with pytest.warns(UserWarning, match="meta.json is damaged: its checksum is not the recorded one"):
        sf.resume(runs / "ppo")
    assert rows(runs / "ppo")[-1]["iteration"] == 3


@pytest.mark.parametrize("content", [b"", b"\x80\x04K\x01.", b"PK\x03\x04", b"x" * 100])
def test_a_checkpoint_of_another_kind_even_with_its_checksum(runs, content):
    """What pickle and other formats begin with is neither loaded nor run."""
    last = checkpoint.latest(runs / "ppo")
    (last / "state.safetensors").write_bytes(content)
    forge(last, sha256=hashlib.sha256(content).hexdigest(), meta_sha256="")
    with pytest.warns(UserWarning, match=r"00000003/.* is damaged: .*resumed from .*00000002"):
        sf.resume(runs / "ppo")


@pytest.mark.parametrize("entry", ["method", "hyperparameters", "loggers", "evaluate_every", "compile"])
def test_a_config_that_lacks_something(runs, entry, capsys):
    path = runs / "ppo" / "config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != entry}))
    assert f"config.json lacks {entry}; restore the original file" in refused(
        capsys, "train", "--resume", str(runs / "ppo")
    )


EDITED = {
    "a hyperparameter": ({"hyperparameters": {"learning_rate": 0.5}}, "was written with learning_rate=0.0003, config"),
    "one out of range": ({"hyperparameters": {"gamma": 1.5}}, "gamma=1.5 is not allowed"),
    "one of another type": ({"hyperparameters": {"epochs": "1"}}, "epochs='1' is not allowed"),
    "one unknown": ({"hyperparameters": {"evil": 1}}, "no hyperparameter 'evil'"),
    "a part": ({"hyperparameters": {"parts": {"advantage": {"part": []}}}}, "advantage part [] is unknown"),
    "no hyperparameters": ({"hyperparameters": []}, "hyperparameters=[] is not allowed"),
    "steps": ({"steps": -1}, "steps=-1 is not allowed"),
    "steps as text": ({"steps": "1e6"}, "steps='1e6' is not allowed"),
    "no steps": ({"steps": None}, "steps=None is not allowed"),
    "compile": ({"compile": "evil"}, "compile='evil' is not allowed"),
    "checkpoints": ({"checkpoint_every": 0}, "checkpoint_every=0 is not allowed"),
    "evaluations": ({"evaluate_every": "x"}, "evaluate_every='x' is not allowed"),
    "threads": ({"threads": 0}, "threads=0 is not allowed"),
    "many threads": ({"threads": 10**6}, "threads=1000000 is not allowed"),
    "seeds": ({"seeds": [0, 0]}, "seeds=[0, 0] is not allowed"),
    "environment": ({"env": []}, "env=[] is not allowed"),
    "method": ({"method": {}}, "method={} is not allowed"),
    "loggers": ({"loggers": [1]}, "loggers=[1] is not allowed"),
    "a name that steers the terminal": ({"method": "\x1b[2Jppo"}, r"trained with '\x1b[2Jppo'"),
}  # fmt: skip


@pytest.mark.parametrize("case", EDITED)
def test_a_config_that_was_edited_is_checked_as_what_is_asked_for(case, runs, capsys):
    changes, words = EDITED[case]
    path = runs / "ppo" / "config.json"
    config = json.loads(path.read_text())
    for name, value in changes.items():
        config[name] = {**config[name], **value} if isinstance(value, dict) and value else value
    path.write_text(json.dumps(config))
    before = {p: p.read_bytes() for p in runs.rglob("*") if p.is_file()}
    assert words in refused(capsys, "train", "--resume", str(runs / "ppo"))
    assert before == {p: p.read_bytes() for p in runs.rglob("*") if p.is_file()}


def test_names_from_files_do_not_steer_the_terminal(runs, capsys):
    path = runs / "ppo" / "agent" / "agent.json"
    about = json.loads(path.read_text())
    about["env"]["env"] = "Cart\x1b[2JPole\x9b1;31m\u202e"
    path.write_text(json.dumps(about))
    words = refused(capsys, "evaluate", str(runs / "ppo"))
    assert "Cart" in words and not {"\x1b", "\x9b", "\u202e"} & {*words}


@pytest.mark.parametrize("command", ["evaluate", "stress", "report"])
@pytest.mark.parametrize("content", [None, "{broken", "[]", '{"format": "something"}'])
def test_commands_on_what_is_no_run(command, content, tmp_path, capsys):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    words = refused(capsys, command, str(tmp_path))
    assert re_any(words, "not the folder of a run", "does not have the format", "nothing that has a report")


def re_any(text, *words):
    return any(word in text for word in words)
