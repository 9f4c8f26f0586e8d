"""`label-flip`: pairs that are turned, in training and in a stress test of a method."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import surefoot as sf
from surefoot.envs import make_single
from surefoot.envs.language import resolve
from surefoot.envs.language.corrupted import Mislabelled, of_data, under
from surefoot.envs.language.pairs import answers, turned
from surefoot.errors import UsageError
from surefoot.evaluate.pairs import PairsReport, in_order
from surefoot.evaluate.read_back import stress_report
from surefoot.evaluate.stress import StressReport
from surefoot.perturbations import GroupShift, Interval, LabelFlip, parse, several

ROWS = [{"prompt": f"{i}+1=", "chosen": f"{i + 1}", "rejected": f"{i + 2}", "group": "a"} for i in range(200)]


def test_a_share_of_the_pairs_is_turned_always_the_same():
    flips = [LabelFlip(rate) for rate in (0.1, 0.3)]
    few, many = ([flip.turned(i) for i in range(20_000)] for flip in flips)
    assert np.mean(few) == pytest.approx(0.1, abs=0.01) and np.mean(many) == pytest.approx(0.3, abs=0.01)
    assert all(b for a, b in zip(few, many, strict=True) if a)  # what is turned at 0.1 is turned at 0.3
    assert [LabelFlip(0.1).turned(i) for i in range(100)] == few[:100]
    other = [LabelFlip(0.1, seed=1).turned(i) for i in range(20_000)]
    assert np.mean(np.logical_and(few, other)) == pytest.approx(0.01, abs=0.005)


def test_it_is_written_and_swept_as_others_are():
    for text in ("label-flip:0.2", "label-flip:0..0.4", "label-flip:0.2,seed=3"):
        assert str(parse(text)) == text
    cells = parse("label-flip:0..0.4").grid(3)
    assert [cell.coordinates for cell in cells] == [(("label-flip", x),) for x in (0.0, 0.2, 0.4)]
    assert cells[0].perturbation.identity and parse("label-flip:0.2,seed=3").grid(2)[1].perturbation.seed == 3
    for text in ("label-flip:1.5", "label-flip:0.1,seed=-1"):
        with pytest.raises(UsageError):
            parse(text)


def test_training_pairs_are_turned_and_held_out_ones_are_not():
    clean = resolve(ROWS)
    task = under(clean, "label-flip:0.25", "DPO")
    pairs = [(task.example(i), clean.example(i)) for i in range(clean.size)]
    changed = [a != b for a, b in pairs]
    assert np.mean(changed) == pytest.approx(0.25, abs=0.09)
    assert changed == [LabelFlip(0.25).turned(i) for i in range(clean.size)]
    for a, b in pairs:
        assert set(answers(a)) == set(answers(b)) and a.demonstration == answers(a)[0] and a.fields["group"] == "a"
        assert turned(turned(b)) == b
    assert all(task.example(i, "test") == clean.example(i, "test") for i in range(clean.held_out_size))
    assert isinstance(task, Mislabelled) and (task.size, task.held_out_size) == (clean.size, clean.held_out_size)
    assert under(clean, None, None) is clean and under(clean, "label-flip:0", "DPO") is clean


def test_what_it_does_not_apply_to_is_refused():
    for made, words in (
        (lambda: of_data("observation-noise:0.1"), "can be corrupted by a fixed share of turned pairs"),
        (lambda: of_data(LabelFlip(Interval(0, 0.1))), "by a fixed share"),
        (lambda: under(resolve(ROWS), "label-flip:0.1", None), "does not learn which of two answers was chosen"),
        (lambda: parse("label-flip:0.1").wrap(make_single("CartPole-v1")), "there are none in an environment"),
        (lambda: sf.train("grpo", ROWS, 1, reward=len, corrupt="label-flip:0.1"), "does not learn which"),
        (lambda: sf.train("dpo", ROWS, 1, corrupt="reward-flip:0.1"), "is not allowed for a language model"),
        (lambda: under(resolve("arithmetic"), "label-flip:1", "DPO").example(0), "the task has none"),
    ):
        with pytest.raises(UsageError, match=words):
            made()


@pytest.mark.slow
def test_a_method_is_stressed_by_training_it_again(tmp_path, capsys):
    pytest.importorskip("transformers", reason="language models need surefoot[language]")
    file = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"{i % 10}=", "chosen": "1" * (1 + i % 3), "rejected": "2" * (1 + i % 2)} for i in range(60)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"nano_warmup": 20, "learning_rate": 1e-3, "loggers": (), "steps": 12, "prompts": 8}
    run = sf.train("dpo", file, run_dir=tmp_path / "run", **settings)
    report = sf.stress(run, perturb="label-flip:0..1", points=3)
    assert isinstance(report, PairsReport) and isinstance(report, StressReport)
    assert report.coordinates[:, 0].tolist() == [0.0, 0.5, 1.0] and report.margins.shape == report.returns.shape == (
        3,
        6,
    )
    assert report.runs[0] == str(run.path) and report.nominal == 1.0 and report.worst_cell == {"label-flip": 1.0}
    assert report.cell_means[-1] == 0.0  # all labels are wrong
    assert np.all(np.diff(report.margins.mean(1)) < 0)
    before = [(Path(one) / "metrics.jsonl").stat().st_mtime_ns for one in report.runs]
    again = sf.stress(run.path, perturb="label-flip:0..1", points=3)
    assert isinstance(again, PairsReport)
    assert [(Path(one) / "metrics.jsonl").stat().st_mtime_ns for one in again.runs] == before
    assert "6 held-out pairs, their labels as given" in again.table()
    kept = stress_report(run.path / "stress-label-flip-0..1.json")
    assert np.array_equal(kept.returns, report.returns) and "label-flip" in sf.report(run.path).read_text()
    with pytest.raises(UsageError, match="learns from no labels of pairs"):
        sf.stress(sf.train("sft", file, run_dir=tmp_path / "sft", **settings), perturb="label-flip:0..1")


def test_a_shift_counts_one_group_for_more_and_the_others_as_before():
    inside = np.array([True, False, False, False])
    assert GroupShift(0.0).weights(inside).tolist() == [1, 1, 1, 1]
    assert GroupShift(1.0).weights(inside).tolist() == [4, 0, 0, 0]
    half = GroupShift(0.5).weights(inside)
    assert half.mean() == 1 and half[0] == 2.5 and np.all(half[1:] == 0.5)
    assert (
        parse("group-shift") == GroupShift(1.0) and str(parse("group-shift:0..1,group=a")) == "group-shift:0..1,group=a"
    )
    assert several("label-flip:0.0..0.4,group-shift") == ("label-flip:0.0..0.4", "group-shift")
    assert several("group-shift,obs-pgd:0.05,force:3,body=foot") == ("group-shift", "obs-pgd:0.05", "force:3,body=foot")
    assert in_order(np.array([2.0, -1.0, 0.0])).tolist() == [1, 0, 0.5]
    with pytest.raises(UsageError, match="there are none in an environment"):
        parse("group-shift").wrap(make_single("CartPole-v1"))


@pytest.mark.slow
def test_a_run_is_stressed_by_groups_without_training_again(tmp_path, capsys):
    """Groups that disagree: the smaller one is served worse, and the more of it there is, the lower the accuracy."""
    pytest.importorskip("transformers", reason="language models need surefoot[language]")
    from surefoot.cli import main

    file = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"{i % 10}=", "chosen": "1", "rejected": "2", "group": "many"} for i in range(90)]
    rows += [{"prompt": f"{i % 10}=", "chosen": "2", "rejected": "1", "group": "few"} for i in range(30)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"nano_warmup": 20, "learning_rate": 1e-3, "loggers": (), "steps": 12, "prompts": 8}
    run = sf.train("dpo", file, run_dir=tmp_path / "run", **settings)
    report = sf.stress(run, perturb="group-shift", points=3)
    assert isinstance(report, PairsReport) and set(report.groups) == {"few", "many"}
    few = report.groups.count("few") / len(report.groups)
    assert report.cell_means == pytest.approx([1 - few, (1 - few) / 2, 0.0]) and report.nominal == report.cell_means[0]
    assert report.runs == (str(run.path),) * 3 and not (run.path / "labels").exists()
    assert {name: x.mean() for name, x in report.groupwise(0).items()} == {"few": 0.0, "many": 1.0}
    towards = sf.stress(run, perturb="group-shift:1,group=many", points=2)
    assert towards.cell_means[-1] == pytest.approx(1.0)
    main(["stress", str(run.path), "--perturb", "group-shift,group-shift:0.5,group=many", "--points", "2"])
    said = capsys.readouterr().out
    assert "worst group at group-shift=0: few, 0.000 [0.000," in said and said.count("held-out pairs") == 2
    with pytest.raises(UsageError, match="'some' is not among the held-out pairs"):
        sf.stress(run, perturb="group-shift:1,group=some")
    plain = tmp_path / "plain.jsonl"
    plain.write_text("".join(json.dumps({k: x for k, x in row.items() if k != "group"}) + "\n" for row in rows))
    with pytest.raises(UsageError, match='name no group; group-shift:1 needs several, in a column "group"'):
        sf.stress(run, plain, "group-shift")
