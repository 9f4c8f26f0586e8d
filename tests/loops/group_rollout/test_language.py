"""Runs of language models through their folders: resumed to the bit, read by others, and what is refused."""

from __future__ import annotations

import io
import json
import shutil
import sys

import pytest
import torch

pytest.importorskip("transformers", reason="language models need surefoot[language]")

from forged import forge

import surefoot as sf
from surefoot import cli
from surefoot.envs.language.files import Rows
from surefoot.errors import UsageError
from surefoot.loops.common import checkpoint
from surefoot.loops.common.kinds import loop
from surefoot.loops.common.run import Run
from surefoot.loops.group_rollout.language import LanguageOptions, make_model
from surefoot.models.language.agent import LanguageAgent
from surefoot.models.language.loading import load_model, with_lora
from surefoot.models.language.model import LanguageModel
from surefoot.models.language.nano import Nano, fresh, imitate, nano

TINY = Nano(width=16, layers=1, heads=2, context=48, warmup=0)
SETTINGS = {
    "prompts": 4,
    "samples": 4,
    "max_tokens": 4,
    "learning_rate": 1e-2,
    "steps": 4,
    "checkpoint_every": 1,
    "loggers": (),
    "seed": 3,
}
CLOCK = ("time", "steps_per_second")


def digits(completions, **fields):
    """The share of digits, so that a model that writes at random has something to learn."""
    return [sum(x.isdigit() for x in c) / max(1, len(c)) - 0.01 * len(c) for c in completions]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return fresh(TINY, seed=1).save(tmp_path_factory.mktemp("model"))


def train(folder, run_dir, method="grpo", **changes):
    given = {"task": "arithmetic:digits=1", "model": folder, "reward": digits, **SETTINGS, **changes}
    return sf.train(method, run_dir=run_dir, **given)


def rows(run):
    return [{k: v for k, v in row.items() if k not in CLOCK} for row in Run(run).metrics()]


def same_bits(one, other):
    (a, _), (b, _) = (checkpoint.read(checkpoint.latest(run)) for run in (one, other))
    assert rows(one) == rows(other) and a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def stop_at(iteration):
    return lambda learner, rows: learner.iteration == iteration


def data(path, count=10):
    rows = [
        {"prompt": f"{i % 10}+1=", "answer": str(i % 10 + 1), "demonstration": str(i % 10 + 1)} for i in range(count)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("grpo", {"stop": ("=",), "kl": 0.1}),
        ("pspo", {"lora": 2}),
        ("ppo-critic", {"epochs": 2}),
        ("ppo-critic", {"lora": 2, "kl": 0.1}),
        ("gpg", {"sampler": "hard", "data": True, "informative": 0.5, "resamples": 3}),
        ("sft", {"reward": None, "samples": 0, "data": True}),
    ],
)
def test_stopped_and_resumed_equals_uninterrupted(method, options, folder, tmp_path):
    options = dict(options)
    if options.pop("data", False):
        options |= {"task": None, "data": data(tmp_path / "rows.jsonl")}
    train(folder, tmp_path / "whole", method, **options)
    train(folder, tmp_path / "cut", method, callbacks=[stop_at(2)], **options)
    assert len(rows(tmp_path / "cut")) == 2
    sf.resume(tmp_path / "cut")  # from config.json alone: stop texts, reward by its name, adapter
    same_bits(tmp_path / "whole", tmp_path / "cut")
    whole = sf.load(tmp_path / "whole")
    assert whole.texts(["1+1="], temperature=0) == sf.load(tmp_path / "cut").texts(["1+1="], temperature=0)
    assert tuple(whole.facts["stop"]) == options.get("stop", ())


def test_what_config_cannot_name_has_to_be_given_again(folder, tmp_path):
    train(folder, tmp_path / "run", reward=lambda completions, **_: digits(completions), callbacks=[stop_at(2)])
    with pytest.raises(UsageError, match=r"cannot be imported by name .*give that same factory again \(reward="):
        sf.resume(tmp_path / "run")
    sf.resume(tmp_path / "run", reward=lambda completions, **_: digits(completions))
    train(folder, tmp_path / "whole")
    state, other = (checkpoint.read(checkpoint.latest(tmp_path / run))[0] for run in ("run", "whole"))
    assert all(torch.equal(state[name], other[name]) for name in state)


def test_a_model_made_in_python_is_left_as_it_was_and_has_to_be_given_again(folder, tmp_path):
    model = fresh(TINY, seed=1)
    train(model, tmp_path / "run", kl=0.1, callbacks=[stop_at(2)])
    with pytest.raises(UsageError, match=r"surefoot.resume\(run, model="):
        sf.resume(tmp_path / "run")
    assert sf.resume(tmp_path / "run", model=model).finished
    train(folder, tmp_path / "whole", kl=0.1)
    same_bits(tmp_path / "whole", tmp_path / "run")


def test_a_run_with_relative_paths_is_found_from_everywhere(folder, tmp_path, monkeypatch):
    """Its model, the base of its adapter and its data, though another folder holds others of the same names."""
    away = tmp_path / "away"
    away.mkdir()
    shutil.copytree(folder, tmp_path / "model")
    fresh(TINY, seed=9).save(away / "model")
    data(away / "rows.jsonl", 30)
    data(tmp_path / "rows.jsonl")
    monkeypatch.chdir(tmp_path)
    settings = {"task": None, "data": "rows.jsonl", "lora": 2, "model_options": {"attn_implementation": "eager"}}
    train("model", "whole", **settings)
    train("model", "cut", callbacks=[stop_at(2)], **settings)
    monkeypatch.chdir(away)
    assert sf.resume(tmp_path / "cut").finished
    same_bits(tmp_path / "whole", tmp_path / "cut")
    assert sf.evaluate(tmp_path / "cut", k=(1,))["task"] == str(tmp_path / "rows.jsonl")
    loaded = sf.load(tmp_path / "cut").model.base
    assert torch.equal(loaded.model.embed_tokens.weight, load_model(folder).base.model.embed_tokens.weight)
    assert loaded.config._attn_implementation == "eager"


class Callable:
    def __call__(self, completions, **fields):
        return digits(completions)


def test_a_reward_object_is_not_taken_for_its_class(folder, tmp_path):
    run = train(folder, tmp_path / "run", reward=Callable(), callbacks=[stop_at(1)])
    assert run.config["env"]["reward"] == ["<Callable>"]
    with pytest.raises(UsageError, match="<Callable>"):
        sf.resume(run.path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"task": "arithmetic", "max_tokens": 46},
            "arithmetic.*, whose first 64 examples are all too long: the prompt .* max_tokens=46",
        ),
        (
            {"reward": lambda completions, **_: [0.5] * len(completions), "patience": 3},
            "first 3 iterations.*reward 0.5.*patience=3",
        ),
        ({"reward": None, "max_tokens": 1, "patience": 3}, "cut off after max_tokens=1; increase max_tokens"),
        ({"reward": lambda completions, colour, **_: digits(completions)}, "'colour'"),
        ({"reward": lambda completions, trainer_state, **_: digits(completions)}, "takes trainer_state"),
        ({"test_data": "a.jsonl"}, "test_data='a.jsonl' is not allowed with the task arithmetic"),
        ({"max_tokens": 47}, "max_tokens=47 more are asked for, but the model reads 48"),
        ({"num_seeds": 2}, "num_seeds=2"),
        ({"compile": "on"}, "compile='on'"),
        ({"lora": 0}, "lora=0"),
        ({"model": "<nothing>"}, "resume"),
        ({"reward": "nowhere:nothing"}, "nowhere:nothing"),
        ({"reward": "json:__doc__"}, "not a function"),
        (
            {"reward": [digits, "builtins:len"], "reward_weights": [1, 2], "method": "bnpo"},
            r"reward_weights=\[1.0, 2.0\]",
        ),
        ({"samples": 0}, "samples=0 is not allowed"),
    ],
)
def test_what_cannot_work_says_why_and_leaves_nothing(changes, message, folder, tmp_path):
    with pytest.raises(UsageError, match=message):
        train(folder, tmp_path / "run", **changes)


def rows_of(path, *rows, times=20):
    path.write_text("\n".join(json.dumps(row) for row in rows * (times // len(rows))))
    return path


@pytest.mark.parametrize(
    ("method", "row", "message"),
    [
        ("grpo", {"prompt": "x" * 45, "answer": "1"}, r"row 1: the prompt 'x{40}…' has 46 tokens .* use max_tokens=2"),
        ("grpo", {"prompt": "x" * 50, "answer": "1"}, "model reads 48; shorten or remove it"),
        ("grpo", {"prompt": "x"}, "no answers to compare with, and no reward functions"),
        ("sft", {"prompt": "x", "completion": "1" * 48}, "row 1: the prompt 'x' and its demonstration have 51 tokens"),
        ("hpt", {"prompt": "x", "answer": "1", "completion": "1" * 48}, "row 1: the prompt 'x' and its demonstration"),
    ],
)
def test_a_file_that_cannot_work_says_so_before_anything_is_learned(method, row, message, folder, tmp_path):
    data, wanted = rows_of(tmp_path / "a.jsonl", row), {"samples": 0} if method == "sft" else {}
    with pytest.raises(UsageError, match=message):
        train(folder, tmp_path / "run", method, task=None, data=data, reward=None, **wanted)


def test_a_row_held_out_that_is_too_long_says_so_as_early(folder, tmp_path):
    data = tmp_path / "a.jsonl"
    data.write_text("\n".join(json.dumps({"prompt": p, "answer": "1"}) for p in ["1="] * 19 + ["x" * 45]))
    with pytest.raises(UsageError, match=r"a.jsonl, row 20: the prompt 'x{40}…' has 46 tokens"):
        train(folder, tmp_path / "run", task=None, data=data, reward=None, held_out="last")


def test_long_prompts_of_an_endless_task_are_passed_over_and_counted(folder, tmp_path):
    run = train(folder, tmp_path / "run", task="sorting:50", prompts=3, max_tokens=8)
    assert [row["tokens"] > 0 for row in run.metrics()] == [True] * 4
    counts = [row["skipped"] for row in run.metrics()]
    assert counts == sorted(counts) and counts[-1] > 0
    train(folder, tmp_path / "cut", task="sorting:50", prompts=3, max_tokens=8, callbacks=[stop_at(2)])
    sf.resume(tmp_path / "cut")
    same_bits(tmp_path / "run", tmp_path / "cut")


def test_a_run_that_collapses_warns_and_ends_naming_its_best_weights(folder, tmp_path):
    batches = []

    def once(completions, **_):
        batches.append(0)
        return [float(i == 0 and len(batches) < 3) for i in range(len(completions))]

    with (
        pytest.warns(UserWarning, match="last 2 iterations.*patience=5"),
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(
            UsageError, match=r"in the last 5 iterations: .*until iteration 2.*learning_rate \(it is 0.01\)"
        ) as e,
    ):
        patch.setattr("surefoot.loops.group_rollout.guard.WARN_AFTER", 2)
        train(folder, tmp_path / "run", steps=20, reward=once, patience=5, checkpoint_every=6)
    assert len(batches) == 7 and f"of iteration 1, are kept in {tmp_path / 'run' / 'best'}" in str(e.value)
    with pytest.raises(UsageError, match="in the last 5 iterations"):
        sf.resume(tmp_path / "run", reward=once)
    assert sf.resume(tmp_path / "run", reward=once, patience=None).finished


def test_rewards_that_come_late_are_waited_for(folder, tmp_path):
    batches = []

    def rare(completions, **_):
        batches.append(0)
        return [float(len(batches) >= 12 and i == 0) for i in range(len(completions))]

    with pytest.warns(UserWarning, match="first 5 iterations"):
        run = train(folder, tmp_path / "run", steps=13, reward=rare)
    assert run.metrics()[-1]["return_mean"] > 0


def test_an_old_run_keeps_the_rows_that_it_held_out(folder, tmp_path):
    path = data(tmp_path / "rows.jsonl", 20)
    run = train(folder, tmp_path / "run", task=None, data=path, steps=2, callbacks=[stop_at(1)])
    config = json.loads((run.path / "config.json").read_text())
    assert config["env"]["held_out"] == "random"
    single = loop("group-rollout").single
    assert single(**config["env"])().task.example(0, "test").prompt != "8+1="
    for name in ("held_out", "test_data", "patience"):
        del config["env"][name]
    (run.path / "config.json").write_text(json.dumps(config))
    for place in run.path.glob("checkpoints/*"):
        forge(place, env=config["env"], meta_sha256="")
    assert single(**config["env"])().task.example(0, "test").prompt == "8+1="
    seen = []
    sf.resume(run.path, callbacks=[lambda learner, rows: seen.append(learner.task.held_out_rows)])
    assert seen == ["last"]


def test_a_file_of_its_own_and_rows_in_memory_are_learned_from_and_tested_on(folder, tmp_path):
    test = rows_of(tmp_path / "test.jsonl", {"prompt": "7"}, times=3)
    rows_given = [{"prompt": f"{i}"} for i in range(8)]
    run = train(folder, tmp_path / "run", task=rows_given, test_data=test, steps=2, callbacks=[stop_at(1)])
    assert run.config["env"]["env"] == "<8 rows>" and run.config["env"]["test_data"] == str(test)
    with pytest.raises(UsageError, match="8 rows given in Python; give them again"):
        sf.resume(run.path)
    assert sf.resume(run.path, env=rows_given).finished
    described = {name: x for name, x in run.config["env"].items() if name != "env"}
    task = loop("group-rollout").single(rows_given, **described)().task
    assert (task.size, task.held_out_size, task.example(2, "test").prompt) == (8, 3, "7")


def test_without_answers_the_reward_functions_judge_what_is_held_out(folder, tmp_path):
    data = rows_of(tmp_path / "a.jsonl", {"prompt": "1"}, {"prompt": "2"})
    run = train(folder, tmp_path / "run", task=None, data=data, evaluate_every=2, evaluate_episodes=9, steps=2)
    found = sf.evaluate(run.path, episodes=9)
    assert found["episodes"] == 2 and found["mean"] == pytest.approx(run.metrics()[-1]["evaluation_mean"])
    assert sf.evaluate(run.path, episodes=9, k=(1,))["examples"] == 2


def test_a_file_that_has_grown_is_not_gone_on_with(folder, tmp_path):
    data = rows_of(tmp_path / "a.jsonl", {"prompt": "1"})
    train(folder, tmp_path / "run", task=None, data=data, callbacks=[stop_at(1)])
    rows_of(data, {"prompt": "1"}, times=40)
    with pytest.raises(UsageError, match="a.jsonl has 36 training rows now, and had 18 when the run began"):
        sf.resume(tmp_path / "run")


def test_rewards_that_differ_between_prompts_only_teach_nothing(folder, tmp_path):
    with pytest.raises(UsageError, match="completions of a prompt all had the same reward"):
        train(folder, tmp_path / "run", reward=lambda prompts, **_: [float(p[0]) for p in prompts], patience=3)


def test_tokenizer_and_model_must_agree_on_the_end(folder):
    model = fresh(TINY)
    model.network.config.eos_token_id = 77
    model.network.generation_config.eos_token_id = 77
    with pytest.raises(UsageError, match="tokenizer.eos_token"):
        LanguageModel(model.network, model.tokenizer)
    model.network.config.eos_token_id = [77, model.tokenizer.eos_token_id]
    LanguageModel(model.network, model.tokenizer)


def test_others_load_what_a_run_leaves(folder, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run = train(folder, tmp_path / "run", steps=2)
    agent = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "agent")
    for name, weight in run.agent().model.network.state_dict().items():
        assert torch.equal(agent.state_dict()[name], weight), name
    assert AutoTokenizer.from_pretrained(tmp_path / "run" / "agent")("1+1=").input_ids[0] == 1


def test_peft_loads_the_adapter_that_a_run_leaves(folder, tmp_path):
    peft = pytest.importorskip("peft")
    run = train(folder, tmp_path / "run", steps=2, lora=2)
    found = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "run" / "agent")
    ours = {n: w for n, w in run.agent().model.network.named_parameters() if "lora" in n}
    theirs = dict(found.named_parameters())
    assert ours and all(torch.equal(theirs[name], w) for name, w in ours.items())


def test_an_adapter_on_a_model_made_in_python_is_loaded_again(tmp_path):
    pytest.importorskip("peft")
    model = fresh(TINY, seed=1)
    wrote = train(model, tmp_path / "run", steps=2, lora=2).agent().texts(["1+1="], temperature=0)
    (tmp_path / "run").rename(tmp_path / "moved")
    found = sf.load(tmp_path / "moved")
    assert found.texts(["1+1="], temperature=0) == wrote
    state, _ = checkpoint.read(checkpoint.latest(tmp_path / "moved"))
    learned = {name.removeprefix("weights/"): weight for name, weight in state.items() if name.startswith("weights/")}
    loaded = found.model.network.state_dict()
    assert learned and all(torch.equal(loaded[name], weight) for name, weight in learned.items())
    bare = {name.replace(".base_layer", ""): weight for name, weight in loaded.items()}
    for name, weight in model.network.state_dict().items():
        assert torch.equal(bare[f"base_model.model.{name}"], weight), name


def test_an_adapter_that_names_no_base_says_so(tmp_path):
    pytest.importorskip("peft")
    made = fresh(TINY)
    LanguageModel(with_lora(made.network, 2), made.tokenizer).save(tmp_path)
    shutil.rmtree(tmp_path / "base")
    with pytest.raises(UsageError, match="base_model_name_or_path"):
        load_model(tmp_path)


def test_nano_from_the_shell_to_evaluation_chat_and_report(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SUREFOOT_CACHE", str(tmp_path / "cache"))
    run = str(tmp_path / "run")
    flags = ["--nano-warmup", "2", "--steps", "2", "--prompts", "2", "--samples", "2", "--max-tokens", "8"]
    cli.main(["train", "pspo", "--model", "nano", "--task", "arithmetic", *flags, "--run-dir", run])
    assert list((tmp_path / "cache" / "nano").iterdir())
    assert f"surefoot chat {run}" in capsys.readouterr().out
    cli.main(["evaluate", run, "--task", "arithmetic", "--k", "1,2", "--episodes", "4"])
    assert "pass@2" in capsys.readouterr().out
    monkeypatch.setattr(sys, "stdin", io.StringIO("1+1=\n\n"))
    cli.main(["chat", run, "--max-tokens", "4", "--temperature", "0"])
    assert capsys.readouterr().out.endswith("\n")


def test_rewards_and_test_data_come_from_the_shell(folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "judges.py").write_text("def short(completions, **_): return [-len(c) for c in completions]\n")
    monkeypatch.syspath_prepend(tmp_path)
    files = [str(data(tmp_path / "a.jsonl")), str(data(tmp_path / "b.jsonl", 3))]
    flags = [
        "--steps",
        "1",
        "--prompts",
        "2",
        "--samples",
        "4",
        "--max-tokens",
        "4",
        "--run-dir",
        str(tmp_path / "run"),
    ]
    judges = ["--reward", f"judges:short,{__name__}:digits", "--reward-weights", "0.5,2"]
    place = ["--task", files[0], "--test-data", files[1], "--model", str(folder)]
    cli.main(["train", "grpo", *place, *judges, *flags])
    env = Run(tmp_path / "run").config["env"]
    assert (env["reward_weights"], env["test_data"]) == ([0.5, 2], files[1])
    assert env["reward"] == ["judges:short", f"{__name__}:digits"]
    capsys.readouterr()
    cli.main(["evaluate", str(tmp_path / "run"), "--k", "1", "--episodes", "9"])
    said = capsys.readouterr().out
    assert (
        "3 held-out examples" in said and "judged by 0.5·short + 2·digits; a success is a reward of at least 1" in said
    )


def test_chat_speaks_through_the_template_of_the_tokenizer(tmp_path, monkeypatch, capsys):
    model = fresh(TINY)
    model.tokenizer.chat_template = "{{ messages[0]['role'] }}"
    LanguageAgent(model).save(tmp_path)
    seen = []
    monkeypatch.setattr(LanguageAgent, "texts", lambda self, prompts, **_: seen.extend(prompts) or ["yes"])
    monkeypatch.setattr(sys, "stdin", io.StringIO("1+1=\n\n"))
    cli.main(["chat", str(tmp_path)])
    assert seen == [[{"role": "user", "content": "1+1="}]] and capsys.readouterr().out == "yes\n"


def test_chat_answers_as_the_run_sampled_and_shows_control_characters(tmp_path, monkeypatch, capsys):
    LanguageAgent(fresh(TINY), {"max_tokens": 7, "temperature": 0.3}).save(tmp_path)
    wrote = LanguageAgent.write
    seen = []

    def written(self, prompts, samples=1, **settings):
        found = wrote(self, prompts, samples, **settings)
        seen.append((len(found.tokens[0]), settings))
        return found

    monkeypatch.setattr(LanguageAgent, "write", written)
    monkeypatch.setattr(LanguageModel, "decode", lambda self, tokens: ["\x1b[2J"])
    monkeypatch.setattr(sys, "stdin", io.StringIO("1+1=\n\n"))
    cli.main(["chat", str(tmp_path)])
    assert capsys.readouterr().out == "\\x1b[2J\n"
    ((length, settings),) = seen
    assert length <= 7 and settings["max_tokens"] is None and settings["temperature"] is None


def test_an_agent_that_names_no_length_writes_as_much_as_the_model_reads(tmp_path):
    agent = LanguageAgent(fresh(TINY, seed=1))
    (found,) = agent.write(["1+1="], temperature=0).tokens
    assert len(found) == TINY.context - len(agent.model.encode(["1+1="])[0])


def test_report(folder, tmp_path):
    from surefoot.evaluate.pages.folder import report as write_page

    page = write_page(train(folder, tmp_path / "run", steps=2)).read_text()
    assert "Training reward" in page and page.count("<svg") >= 4
    assert "Completions as they were learned" in page and "environment" not in page


SMALL = Nano(width=16, layers=1, heads=2, context=48, warmup=3, batch=4)


def pairs(index):
    return f"{index % 10}+1=", str(index % 10 + 1)


def test_a_nano_model_is_made_once(tmp_path, monkeypatch):
    monkeypatch.setenv("SUREFOOT_CACHE", str(tmp_path / "one"))
    first = nano(pairs, "pairs", size=SMALL).network.state_dict()
    again = nano(lambda index: 1 / 0, "pairs", size=SMALL).network.state_dict()  # nothing is taught again
    monkeypatch.setenv("SUREFOOT_CACHE", str(tmp_path / "two"))
    elsewhere = nano(pairs, "pairs", size=SMALL).network.state_dict()
    for name, weight in first.items():
        assert torch.equal(weight, again[name]) and torch.equal(weight, elsewhere[name])
    other = nano(pairs, "pairs", size=SMALL, seed=1).network.state_dict()
    assert any(not torch.equal(other[name], weight) for name, weight in first.items())
    with pytest.raises(UsageError, match="no demonstrations"):
        nano(None, "silent", size=SMALL)


def test_an_adapter_on_a_nano_model_that_was_taught_nothing_is_loaded_again(tmp_path, monkeypatch):
    monkeypatch.setenv("SUREFOOT_CACHE", str(tmp_path / "cache"))
    settings = {"prompts": 2, "samples": 4, "max_tokens": 4, "loggers": (), "reward": digits}
    run = sf.train("grpo", task="arithmetic", steps=1, run_dir=tmp_path / "run", nano_warmup=0, lora=2, **settings)
    assert sf.evaluate(run.path, episodes=2)["episodes"] == 2


def test_what_is_longer_than_a_nano_model_reads_is_not_taught():
    with pytest.raises(UsageError, match="'1=' and its demonstration have 64 tokens, but the model reads 48"):
        imitate(fresh(SMALL), lambda index: ("1=", "1" * 60), SMALL)


def test_two_may_make_the_same_nano_model_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("SUREFOOT_CACHE", str(tmp_path))
    second = []

    def on_step(step, loss):
        if step == SMALL.warmup:  # the other one is faster
            second.append(nano(pairs, "pairs", size=SMALL).network.state_dict())

    first = nano(pairs, "pairs", size=SMALL, on_step=on_step).network.state_dict()
    assert all(torch.equal(first[name], weight) for name, weight in second[0].items())
    assert len(list((tmp_path / "nano").iterdir())) == 1  # and no draft is left


def test_a_file_that_changed_under_its_name_is_taught_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("SUREFOOT_CACHE", str(tmp_path))
    options = LanguageOptions(nano_warmup=1)
    for answer in ("1", "9"):
        task = Rows([{"prompt": f"{i}=", "demonstration": answer} for i in range(20)], "data.jsonl")
        make_model("nano", task, options, 0)
        make_model("nano", task, options, 0)
    assert len(list((tmp_path / "nano").iterdir())) == 2


def test_completions_are_logged_as_they_are_learned_and_not_twice_after_resuming(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = {"task": "arithmetic:digits=1", "model": fresh(TINY), "prompts": 4, "samples": 2, "max_tokens": 4}
    run = sf.train("grpo", **settings, steps=2, run_dir=tmp_path / "run", checkpoint_every=1, log_completions=3)
    table = [json.loads(line) for line in (run.path / "completions.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in table] == [1, 1, 1, 2, 2, 2]
    assert {"prompt", "completion", "reward", "tokens"} <= table[0].keys()
    first = run.metrics()[0]
    assert (first["sample/prompt"], first["sample/completion"]) == (table[0]["prompt"], table[0]["completion"])
    events = EventAccumulator(str(run.path / "tensorboard")).Reload()
    said = [one.tensor_proto.string_val[0].decode() for one in events.Tensors("sample/completion")]
    assert said[0] == first["sample/completion"]
    shutil.rmtree(run.path / "checkpoints" / "00000002")
    again = sf.resume(run.path, model=fresh(TINY))
    assert [json.loads(line) for line in (again.path / "completions.jsonl").read_text().splitlines()] == table
