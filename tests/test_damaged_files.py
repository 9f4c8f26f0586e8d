"""Every file of a run, damaged at random: whatever reads it succeeds or says in one paragraph what is wrong.

It takes neither long nor much memory. `SUREFOOT_FUZZ=1000` tries more.
"""

from __future__ import annotations

import copy
import json
import os
import random
import resource
import shutil
import signal
import warnings

import numpy as np
import pytest

import surefoot as sf
from surefoot.envs import EnvError
from surefoot.errors import UsageError
from surefoot.evaluate.pages.folder import report as write_page
from surefoot.loops.common.run import Run

SMALL = {"num_envs": 2, "num_steps": 16, "minibatch_size": 32, "epochs": 1, "hidden": (4,), "loggers": ()}
ATTACK = {"perturb": "sticky-action:0..0.5", "points": 2, "episodes": 1}
ODD = [
    None, True, False, -1, 0, 1, 3, 0.5, -1e308, 1e308, float("nan"), float("inf"), 2**31, 10**12, 10**30, "", "x",
    "1e6", "\ud800", "\x1b[2J", "\x00", "../..", [], {}, [[]], [None], ["a", 1], [-1], [10**9, 10**9], {"a": {}},
    {"kind": "Box"}, [0.1] * 300, "y" * 5000,
]  # fmt: skip
LONGEST = 30  # seconds until a reader is taken to hang; the machine may be busy


def loads(run):
    agent = sf.load(run)
    space = agent.observation_space
    agent.predict(space.sample() if space.shape else np.int64(space.sample()), deterministic=True)


def curves(run):
    Run(run).curve()
    assert Run(run).finished in (True, False)


READERS = {
    "config.json": (sf.resume, write_page, loads, curves),
    "agent/agent.json": (loads, lambda run: sf.evaluate(run, episodes=1), curves),
    "agent/agent.safetensors": (loads,),
    "meta.json": (sf.resume, curves),
    "state.safetensors": (sf.resume,),
    "metrics.jsonl": (sf.resume, write_page, curves),
    "actions.bin": (sf.resume,),
    "stress-sticky-action-0..0.5.json": (write_page,),
    "evaluation.json": (write_page,),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    place = tmp_path_factory.mktemp("whole")
    runs = {
        "control": sf.train("ppo", "CartPole-v1", 64, run_dir=place / "control", backend="gymnasium", **SMALL),
        "tabular": sf.train("dynamic-pg", "garnet:4,2,2,horizon=3", 2, run_dir=place / "tabular", loggers=()),
    }
    for run in runs.values():
        sf.evaluate(run.path, episodes=2)
        sf.stress(run.path, **ATTACK)
    return {name: run.path for name, run in runs.items()}


def at(run, name):
    """The file of that name; of checkpoints that of the newest."""
    if name in ("meta.json", "state.safetensors"):
        return max((run / "checkpoints").iterdir()) / name
    return run / name


def outcome(reader, run):
    """What came of reading: None, or the paragraph that says what is wrong. Anything else fails."""

    def late(*_):
        pytest.fail(f"{reader} hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(LONGEST)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader(run)
    except (UsageError, EnvError) as error:  # an environment says what it makes of actions that are none
        assert "\n" not in str(error).strip() and len(str(error)) > 20
        return str(error)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def places(value, path=()):
    """The paths of all that a JSON value holds."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield (*path, key)
        yield from places(one, (*path, key))


def swapped(data: bytes, rng: random.Random) -> bytes:
    """JSON (or one line of JSON lines) in which something is replaced by something odd, removed, or added."""
    lines = data.decode().splitlines()
    number = rng.randrange(len(lines)) if lines[0].endswith("}") else None
    value = json.loads(data if number is None else lines[number])
    where = rng.choice([*places(value)])
    holder = value
    for key in where[:-1]:
        holder = holder[key]
    match rng.randrange(8):
        case 0:
            del holder[where[-1]]
        case 1 if isinstance(holder, dict):
            holder[rng.choice(["x", "format", "kind", "", "env"])] = rng.choice(ODD)
        case 2:
            holder[where[-1]] = [copy.deepcopy(holder[where[-1]])]
        case _:
            holder[where[-1]] = rng.choice(ODD)
    text = json.dumps(value)
    if number is None:
        return text.encode()
    return "".join(f"{text if i == number else line}\n" for i, line in enumerate(lines)).encode()


def flipped(data: bytes, rng: random.Random) -> bytes:
    """A few bytes are others."""
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def cut(data: bytes, rng: random.Random) -> bytes:
    """Its end is missing, or there is more."""
    return data[: rng.randrange(len(data))] if rng.random() < 0.8 else data + rng.randbytes(20)


def damages(name: str, count: int, seed: int):
    rng = random.Random(f"{name} {seed}")
    kinds = [flipped, cut] + [swapped] * (6 if ".json" in name else 0)
    for _ in range(count):
        yield rng.choice(kinds), rng


@pytest.mark.parametrize("name", READERS)
def test_random_damage(name, whole, tmp_path):
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = []
    for kind, run in whole.items():
        if name == "actions.bin" and kind == "tabular":
            continue
        slow = kind == "control" and sf.resume in READERS[name]
        for number, (damage, rng) in enumerate(damages(name, COUNT // 5 if slow else COUNT, len(kind))):
            work = shutil.copytree(run, tmp_path / "work")
            file = at(work, name)
            file.write_bytes(damage(file.read_bytes(), rng))
            reader = READERS[name][number % len(READERS[name])]
            found.append(outcome(reader, work))
            shutil.rmtree(work)
    assert any(found) or name in ("meta.json", "state.safetensors")  # for which there is an older checkpoint
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 300_000  # kilobytes


COUNT = int(os.environ.get("SUREFOOT_FUZZ", "12"))


def bomb(length: int) -> bytes:
    """The header of a safetensors file that promises more than there is."""
    header = json.dumps({"x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    return (len(header) + length).to_bytes(8, "little") + header


WHOLLY = {
    "empty": b"",
    "deep": b"[" * 100_000,
    "deep object": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "deep but whole": b'{"format":' + b"[" * 600 + b"]" * 600 + b"}",
    "number": b"7",
    "zeros": bytes(4096),
    "digits": b"9" * 5000,
    "huge header": bomb(0),
    "longer than the file": bomb(2**50),
    "pickle": b"\x80\x04K\x01.",
    "other encoding": '{"format": "ä"}'.encode("utf-16"),
}


@pytest.mark.parametrize("name", READERS)
def test_another_content_altogether(name, whole, tmp_path):
    for content in WHOLLY.values():
        work = shutil.copytree(whole["tabular" if name != "actions.bin" else "control"], tmp_path / "work")
        at(work, name).write_bytes(content)
        for reader in READERS[name]:
            outcome(reader, work)
        shutil.rmtree(work)


@pytest.mark.parametrize("kind", ["pipe", "folder", "link"])
@pytest.mark.parametrize("name", READERS)
def test_what_is_no_file(name, kind, whole, tmp_path):
    work = shutil.copytree(whole["tabular" if name != "actions.bin" else "control"], tmp_path / "work")
    file = at(work, name)
    file.unlink()
    {"pipe": os.mkfifo, "folder": os.mkdir, "link": lambda path: os.symlink("/dev/zero", path)}[kind](file)
    for reader in READERS[name]:
        outcome(reader, work)
