"""The pages of the documentation run as they stand."""

from __future__ import annotations

import dataclasses
import inspect
import json
import pkgutil
import re
import runpy
import sys
import types
from pathlib import Path

import fake_hub
import pytest

from surefoot import catalogue, cli
from surefoot.loops.group_rollout.language import LanguageOptions

PAGES = Path(__file__).parents[1] / "docs"


def run(page: str) -> dict:
    """What the names of a page stand for once all its code has run."""
    names: dict = {"__name__": "page"}
    for block in re.findall(r"```python\n(.*?)```", (PAGES / page).read_text(), re.DOTALL):
        exec(compile(block, page, "exec"), names)
    return names


def test_choosing_an_ambiguity_set():
    names = run("ambiguity.md")
    assert names["value"] < names["nominal"] @ names["values"]


def test_the_figure_of_sets_is_what_its_caption_says():
    script = runpy.run_path(str(PAGES / "ambiguity_figure.py"))
    for make, low, high in script["SETS"].values():
        _, distribution = script["fitted"](make, low, high)
        assert distribution.min() >= 0 and distribution.sum() == pytest.approx(1)
        assert distribution @ script["VALUES"] == pytest.approx(script["NOMINAL"] @ script["VALUES"] - 1, abs=1e-6)
    assert len(script["draw"]().axes) == len(script["SETS"])


def test_audit_your_own_policy():
    assert run("audit.md")["report"].families["physics"].kept > 0.9


def test_certificates():
    certificate = run("certificates.md")["certificate"]
    assert certificate.mean[0] > certificate.mean[-1] and certificate.size == 4


@pytest.mark.slow  # the exporter takes seconds to start
def test_take_a_policy_out_and_bring_one_in(tmp_path, monkeypatch):
    for library in ("onnxruntime", "onnxscript", "huggingface_hub"):
        pytest.importorskip(library, reason="this page needs surefoot[export,hub]")
    monkeypatch.chdir(tmp_path)
    with fake_hub.serving() as (hub, address):
        fake_hub.connected(monkeypatch, address, tmp_path)
        names = run("deploy.md")
        assert hub.repositories["user/pole"]["README.md"].startswith(b"---")
    assert names["exported"].differences.other_actions == 0 and names["action"].shape == (1,)
    assert names["report"].returns.shape == (2, 5) and names["agent"].facts["method"] == "ppo"


def test_write_your_own_loss(tmp_path, monkeypatch, capsys):
    pytest.importorskip("transformers", reason="language models need surefoot[language]")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SUREFOOT_CACHE", str(tmp_path / "cache"))
    names = run("language.md")
    said = capsys.readouterr().out
    assert "0.5·(R − mean(R)) + 0.5·(R − mean_{others}(R))" in said and "reward/short" in said
    assert len(names["run"].metrics()) == 2


def test_training(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run("training.md")
    assert names["run"].config["steps"] == 960 and names["run"].finished
    assert names["other"].config["start"]["from"] == "a"
    assert names["best"].facts["evaluation_mean"] >= names["last"].facts.get("evaluation_mean", 0)


def test_learning_from_preferences(tmp_path, monkeypatch, capsys):
    pytest.importorskip("transformers", reason="language models need surefoot[language]")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SUREFOOT_CACHE", str(tmp_path / "cache"))
    names = run("preferences.md")
    assert len(names["run"].metrics()) == 4 and "1 − 2·0.2" in capsys.readouterr().out
    assert names["agent"].scores(["1+1="], ["2"]).shape == (1, 3)
    assert names["careful"].metrics()[-1]["reward/reward_model_2"] and "weight_1" in names["fair"].metrics()[-1]


@pytest.mark.slow
def test_my_labels_are_noisy(tmp_path, monkeypatch, capsys):
    pytest.importorskip("transformers", reason="language models need surefoot[language]")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SUREFOOT_CACHE", str(tmp_path / "cache"))
    names = run("noisy-labels.md")
    assert names["report"].coordinates[:, 0].tolist() == [0.0, 0.4] and names["rate"] == pytest.approx(0.2)
    assert 2 * names["rate"] * (1 - names["rate"]) == pytest.approx(names["differing"])
    assert "group-shift" in capsys.readouterr().out and 0 <= names["found"]["win_rate"] <= 1


def test_what_noisy_labels_says_is_what_the_league_found():
    """Every figure of its table, in its place."""
    stored = json.loads((PAGES.parent / "benchmarks/results/preference_league.json").read_text())
    text, league = (PAGES / "noisy-labels.md").read_text(), stored["table"]
    rows = {
        "may be fine": ("clean", {"rdpo": "regret", "dpo": "regret", "rpo": "regret", "reward-model": "regret"}),
        "a fifth turned": ("20 % flipped", {"rdpo": "regret, untuned", "dpo": "regret, untuned"}),
        "two fifths": ("40 % flipped", {"rdpo": "regret", "dpo": "regret", "kto": "regret"}),
        "turned, the rate unknown": ("20 % flipped", {"cdpo": "regret, untuned"}),
        "of a minority": ("minority", dict.fromkeys(("dpo", "maxmin-rlhf", "group-robust-dpo"), "worst-group regret")),
        "fine, but": ("wrong reward", dict.fromkeys(("reward-model", "drpo", "dpo"), "regret")),
        "circular": ("circular", {"self-play-po": "regret"}),
    }
    for begins, (world, figures) in rows.items():
        (line,) = [line for line in text.splitlines() if line.startswith(f"| {begins}")]
        for slug, measure in figures.items():
            assert f"{league[world][slug][measure][0]:.3f}" in line, (line, slug)
    assert f"{stored['unavoidable']['minority']:.3f}" in text
    assert league["20 % flipped"]["dpo"]["regret, setting"] == {"beta": 0.5}
    assert f"β halved: {league['20 % flipped']['dpo']['regret'][0]:.3f}" in text
    assert league["40 % flipped"]["dpo"]["regret, setting"] == {"beta": 0.25}
    others = [x["regret"][0] for slug, x in league["circular"].items() if slug != "self-play-po"]
    assert f"all others {min(others):.3f} and more" in text


def test_my_worst_tenth_is_badly_served(tmp_path, monkeypatch, capsys):
    pytest.importorskip("sklearn", reason="estimators need surefoot[supervised]")
    monkeypatch.chdir(tmp_path)
    names = run("tail.md")
    assert "mean loss of the worst 10%" in capsys.readouterr().out and names["run"].finished


def test_coming_from_trl(tmp_path, monkeypatch):
    """The page runs, and what it calls an argument or a default is one, here and in TRL."""
    pytest.importorskip("transformers", reason="language models need surefoot[language]")
    trl = pytest.importorskip("trl")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SUREFOOT_CACHE", str(tmp_path / "cache"))
    assert len(run("coming-from-trl.md")["run"].metrics()) == 2
    method = catalogue.method_class("grpo")()
    theirs = {field.name: field.default for field in dataclasses.fields(trl.GRPOConfig)}
    known = ("learning_rate", "weight_decay", "max_grad_norm", "num_generations", "max_completion_length", "epsilon")
    assert [theirs[name] for name in known] == [1e-6, 0.0, 1.0, 8, 512, 0.2]
    assert (theirs["lr_scheduler_type"], theirs["beta"], theirs["loss_type"]) == ("linear", 0.0, "dapo")
    assert theirs["vllm_importance_sampling_mode"] == "sequence_mask" and not theirs["disable_dropout"]
    ours = ("weight_decay", "max_grad_norm", "samples", "prompts", "max_tokens", "temperature", "clip", "kl", "anneal")
    assert [getattr(method, name) for name in ours] == [0.0, 1.0, 8, 16, 64, 1.0, 0.2, 0.0, "none"]
    for name in re.findall(r"`(\w+)`", (PAGES / "coming-from-trl.md").read_text().partition("## Defaults")[0]):
        kinds = (type(method), LanguageOptions, trl.GRPOConfig, trl.DPOConfig)
        there = any(name in {f.name for f in dataclasses.fields(kind)} for kind in kinds)
        there = there or name in inspect.signature(trl.GRPOTrainer.__init__).parameters
        assert (
            there
            or name in ("grpo", "dapo", "cispo", "gspo", "dpo", "kto", "orpo", "torchrun", "datasets", "reward")
            or name[0].isupper()
        ), name


@pytest.mark.parametrize("page", ["environments.md", "tabular.md", "methods.md", "reproducibility.md"])
def test_pages_whose_code_says_itself_what_it_shows(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "page", types.ModuleType("page"))  # where classes of the page are defined
    run(page)


def test_the_pages_of_papers_and_the_reference_are_made_of_what_runs(tmp_path, monkeypatch):
    pages = runpy.run_path(str(PAGES / "make_pages.py"))
    text = "\n".join(pages["page"](catalogue.paper("spo"), tmp_path))
    assert '<pre class="formula">maximise  mean[ ρÂ' in text and "| `epsilon` | `0.2` |" in text and "## Claim" in text
    assert "surefoot explain spo" in text and "--preset mujoco-3-layers" in text
    assert "Planned: " in "\n".join(pages["index"]()) or all(p.built for p in catalogue.papers())
    reference = runpy.run_path(str(PAGES / "make_reference.py"))
    text = "\n".join(reference["commands"]())
    assert all(f"## {name}\n" in text for name in cli.COMMANDS) and "--families" in text
    for file, text in reference["names"]():
        for entry in re.findall(r"::: (\S+)", text):
            assert pkgutil.resolve_name(entry) is not None, (file, entry)


def test_i_have_logs_and_no_simulator(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run("offline.md")
    assert names["mine"].episodes == names["data"].episodes and names["action"].shape == (5, 1)
    assert len(list((tmp_path / "runs").iterdir())) == 6
    assert names["careful"].knobs["action_gain"] == 0.5 and names["bolder"].knobs["log_tau"] == 2
