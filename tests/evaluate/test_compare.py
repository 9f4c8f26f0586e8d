"""Learners are compared on the same environments and seeds, by figures worked out by hand and an independent oracle."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import surefoot as sf
from surefoot.configure import make_method
from surefoot.errors import UsageError
from surefoot.evaluate.compare import Comparison, check_same, compare_runs, read
from surefoot.evaluate.statistics import clopper_pearson, confidence_interval
from surefoot.loops.common.final import OF_EPISODES
from surefoot.loops.common.run import Run
from surefoot.methods.control.ppo import PPO

TINY = {"num_envs": 2, "num_steps": 16, "minibatch_size": 32, "epochs": 1, "hidden": (8,)}


def comparison(**scores) -> Comparison:
    tables = {name: np.array(each, dtype=float) for name, each in scores.items()}
    envs = tuple(f"E{i}" for i in range(next(iter(tables.values())).shape[1]))
    seeds = tuple(range(len(next(iter(tables.values())))))
    return Comparison(envs, seeds, tables, {name: table / 2 for name, table in tables.items()})


def run_of(folder: Path, curves: list[list[float | None]], env: str = "CartPole-v1", seeds=None) -> Run:
    """A run with the given mean returns `[seeds][iterations]`; None where no episode has ended."""
    folder.mkdir()
    seeds = list(range(len(curves))) if seeds is None else seeds
    config = {"format": "surefoot-run-1", "method": "ppo", "env": {"env": env}, "seeds": seeds, "steps": 7}
    (folder / "config.json").write_text(json.dumps(config))
    rows = []
    for i, values in enumerate(zip(*curves)):
        for seed, value in zip(seeds, values):
            rows.append({"iteration": i, "step": 10 * (i + 1), "seed": seed})
            rows[-1] |= {} if value is None else {"return_mean": value}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Run(folder)


# --- scores of runs -----------------------------------------------------------------------------------------------


def test_the_score_is_the_last_tenth_and_the_area_all_of_training(tmp_path):
    """Twenty iterations: the last two count. Where no episode had ended there is nothing to average."""
    rising, flat = [None, *range(1, 20)], [None, None, *[5.0] * 18]
    made = compare_runs({"a": [run_of(tmp_path / "a", [rising, flat])], "b": [run_of(tmp_path / "b", [flat, rising])]})
    assert made.envs == ("CartPole-v1",) and made.seeds == (0, 1)
    np.testing.assert_array_equal(made.scores["a"], [[18.5], [5.0]])
    np.testing.assert_array_equal(made.areas["a"], [[10.0], [5.0]])
    np.testing.assert_array_equal(made.scores["b"], [[5.0], [18.5]])


def test_a_short_run_counts_its_last_iteration(tmp_path):
    made = compare_runs({"a": [run_of(tmp_path / "a", [[1.0, 2.0, 9.0]])]})
    assert made.scores["a"] == 9.0


def test_several_environments_are_columns(tmp_path):
    runs = [run_of(tmp_path / env, [[value], [value + 1]], env) for env, value in (("X", 1.0), ("Y", 10.0))]
    made = compare_runs({"a": runs})
    assert made.envs == ("X", "Y")
    np.testing.assert_array_equal(made.scores["a"], [[1, 10], [2, 11]])


def test_runs_that_differ_are_not_compared(tmp_path):
    one = run_of(tmp_path / "one", [[1.0]])
    with pytest.raises(UsageError, match="differ in environments .*'Other'.*needs them equal"):
        compare_runs({"a": [one], "b": [run_of(tmp_path / "two", [[1.0]], "Other")]})
    with pytest.raises(UsageError, match=r"differ in .*seeds \[\(0,\), \(3,\)\]"):
        compare_runs({"a": [one], "b": [run_of(tmp_path / "three", [[1.0]], seeds=[3])]})


def test_a_seed_without_an_episode_has_no_score(tmp_path):
    with pytest.raises(
        UsageError, match="a seed finished no episode in the last tenth of training.*train for more steps"
    ):
        compare_runs({"a": [run_of(tmp_path / "a", [[1.0, 2.0], [None, None]])]})


# --- figures ------------------------------------------------------------------------------------------------------

FOUR = {"base": [[0], [1], [2], [3]], "other": [[2], [3], [4], [5]]}


def test_figures_worked_out_by_hand():
    base, other = comparison(**FOUR).rows()
    assert base == {"learner": "base", "iqm": 1.5, "low": base["low"], "high": base["high"], "area": 0.75}
    low, high = confidence_interval([0, 1, 2, 3])
    assert (base["low"], base["high"]) == (low, high) and low < 1.5 < high
    assert other["iqm"] == 3.5 and other["area"] == 1.75
    # of 16 pairs 13 are better, and (2, 2), (3, 3) are even: (13 + 2/2) / 16 = 14/16
    assert other["improves"] == 14 / 16
    assert (other["improves_low"], other["improves_high"]) == clopper_pearson(3.5, 4)  # four runs on each side


def test_intervals_are_those_of_the_statistics_module():
    rliable = pytest.importorskip("rliable.metrics")
    scores = {name: np.random.default_rng(seed).normal(seed, 1, (5, 3)) for seed, name in enumerate(("a", "b"))}
    made = comparison(**scores)
    scaled = made.normalised()
    rows = {row["learner"]: row for row in made.rows()}
    for name in scores:
        assert rows[name]["iqm"] == pytest.approx(rliable.aggregate_iqm(scaled[name]))
    assert rows["b"]["improves"] == pytest.approx(rliable.probability_of_improvement(scaled["b"], scaled["a"]))


def test_several_environments_are_brought_to_one_scale():
    made = comparison(a=[[0, 1000], [10, 1000]], b=[[5, 3000], [10, 2000]])
    scaled = made.normalised()
    np.testing.assert_array_equal(scaled["a"], [[0, 1], [2, 1]])  # the means of a are 5 and 1000
    np.testing.assert_array_equal(scaled["b"], [[1, 3], [2, 2]])
    worse = comparison(a=[[0, 1000], [10, 1000]], b=[[5, 3000], [10, 2000]], bad=[[-900, 0], [-900, 0]])
    np.testing.assert_array_equal(worse.normalised()["b"], scaled["b"])  # whoever else takes part
    costs = comparison(a=[[-10, 0], [-10, 0]], b=[[-15, 3], [-5, -3]]).normalised()
    np.testing.assert_array_equal(costs["b"], [[0.5, 4], [1.5, -2]])  # half as much again, and half
    assert all(row["area"] is None for row in made.rows())
    assert "normalised final return" in made.table()
    assert "Normalised by the mean of a in each environment" in made.table()


def test_scores_that_are_all_equal_are_no_division_by_zero():
    made = comparison(a=[[7, 1], [7, 2]], b=[[7, 3], [7, 4]])
    assert np.isfinite(np.concatenate(list(made.normalised().values()))).all()
    assert np.isfinite([row["iqm"] for row in made.rows()]).all()


def test_one_learner_alone_has_its_interval():
    (row,) = comparison(only=[[1], [2], [3]]).rows()
    assert row["iqm"] == 2.0 and "improves" not in row


def test_the_table_has_a_line_a_learner():
    lines = comparison(**FOUR).table().splitlines()
    assert lines[0] == "E0 · 4 seeds · final return, 95 % intervals over seeds"
    assert lines[1].split() == ["learner", "IQM", "interval", "P(better", "than", "base)"]
    assert lines[2].startswith("base    ") and lines[2].split()[1] == "1.5" and "0.88" not in lines[2]
    assert lines[3].startswith("other   ") and lines[3].split()[1] == "3.5" and " 0.88 [" in lines[3]
    assert lines[4] == f"Final return: {OF_EPISODES}." and len(lines) == 5


def test_runs_that_do_not_differ_have_no_interval_and_prove_little():
    made = comparison(base=[[1], [1], [1]], other=[[2], [2], [2]])
    base, other = made.rows()
    assert (base["low"], base["high"]) == (None, None) and "none: scores do not differ" in made.table()
    assert other["improves"] == 1 and (other["improves_low"], other["improves_high"]) == clopper_pearson(3, 3)
    assert "1.00 [0.29, 1.00]" in made.table()


def test_long_names_stay_in_their_column():
    name = "a-learner-with-a-very-long-name"
    _, head, first, second, _ = comparison(**{name: [[1.0], [2.0]], "b": [[1.0], [2.0]]}).table().splitlines()
    assert first.startswith(f"{name} ")
    assert head.index("interval") == first.index("[") == second.index("[")


def test_what_is_saved_is_all_of_it(tmp_path):
    made = comparison(**FOUR)
    assert made.save(tmp_path) == tmp_path / "report.html"
    kept = json.loads((tmp_path / "comparison.json").read_text())
    assert kept["scores"] == {name: np.array(s).tolist() for name, s in FOUR.items()} and kept["seeds"] == [0, 1, 2, 3]
    assert kept["rows"] == made.rows() and kept["envs"] == ["E0"]
    again = read(tmp_path / "comparison.json")
    assert again.to_json() == made.to_json() and again.seeds == made.seeds
    lines = (tmp_path / "scores.csv").read_text().splitlines()
    assert lines[0].startswith("learner,environment,seed,final_return") and len(lines) == 1 + 2 * 4
    assert lines[1] == "base,E0,0,0.0,0.0" and lines[-1] == "other,E0,3,5.0,2.5"
    table = (tmp_path / "table.tex").read_text()
    assert table.count(r"\\") == 3 and "base & 1.5 [$-$" in table


DAMAGES = [{"seeds": [0]}, {"scores": {}}, {"envs": None}, {"areas": {"x": [[1]]}}, {"measured": 0}]


@pytest.mark.parametrize("change", DAMAGES)
def test_a_damaged_comparison_is_named(tmp_path, change):
    path = tmp_path / "comparison.json"
    comparison(**FOUR).save(tmp_path)
    data = json.loads(path.read_text())
    data.pop("measured") if "measured" in change else data.update(change)
    path.write_text(json.dumps(data))
    with pytest.raises(UsageError, match="comparison.json is not a comparison .*finished runs are reused"):
        read(path)


def test_curves_are_those_of_the_runs(tmp_path):
    made = compare_runs({"a": [run_of(tmp_path / "a", [[1.0, 2.0, 9.0], [3.0, 4.0, 5.0]])]})
    steps, returns = made.curves["a"]["CartPole-v1"]
    np.testing.assert_array_equal(steps, [10, 20, 30])
    np.testing.assert_array_equal(returns, [[1, 2, 9], [3, 4, 5]])
    np.testing.assert_array_equal(returns[:, -1:], made.scores["a"])


# --- training what is compared ------------------------------------------------------------------------------------


def compared(out: Path, **changes):
    given = {"methods": {"small": PPO(**TINY), "large": PPO(**{**TINY, "clip": 0.4})}, "env": "CartPole-v1"}
    given |= {"seeds": 2, "steps": 64, "out": out, "loggers": (), **changes}
    return sf.compare(given.pop("methods"), given.pop("env"), **given)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare") / "out"
    compared(folder)
    return folder


def test_every_seed_of_every_method_is_what_it_is_alone(out, tmp_path):
    made = compared(out)  # found again
    assert list(made.scores) == ["small", "large"] and made.seeds == (0, 1)
    alone = sf.train(PPO(**TINY), "CartPole-v1", 64, num_seeds=2, run_dir=tmp_path / "alone", loggers=())
    np.testing.assert_array_equal(made.scores["small"][:, 0], alone.curve("return_mean")[1][:, -1])
    assert json.loads((out / "comparison.json").read_text())["rows"] == made.rows()


def test_what_is_there_is_used_again_and_what_is_unfinished_gone_on_with(out, tmp_path):
    cut = tmp_path / "out"
    with pytest.raises(UsageError, match=r"small-CartPole-v1 ended before its 64 steps.*the same comparison with out="):
        compared(cut, time_limit=1e-6)
    seen = []
    with pytest.raises(UsageError, match="large-CartPole-v1 ended before its 64 steps"):
        compared(cut, time_limit=1e-6, callbacks=[lambda learner, rows: seen.append(learner.steps)])
    assert seen == [64, 32]  # that of what is gone on with, and of what is begun
    assert compared(cut).rows() == compared(out).rows()


OTHER = [{"steps": 96}, {"seeds": 1}, {"seed": 1}, {"methods": {"small": PPO(**TINY, gamma=0.5)}}]


@pytest.mark.parametrize("changes", [*OTHER, {"env_kwargs": {"max_episode_steps": 9}}])
def test_runs_of_other_settings_are_not_taken_for_these(changes, out):
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    with pytest.raises(UsageError, match="small-CartPole-v1 holds a run with .*Give another out, or remove it"):
        compared(out, **changes)
    assert before == {p: p.stat().st_mtime_ns for p in out.rglob("*")}


def test_more_seeds_are_added_to_those_that_are_there(tmp_path):
    given = {"out": tmp_path, "env": "surefoot/ActionReward-v0"}
    two = compared(**given)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/metrics.jsonl")}
    four = compared(**given, seeds=4)
    assert four.seeds == (0, 1, 2, 3) and len(before) == 2
    for name in ("small", "large"):
        np.testing.assert_array_equal(four.scores[name][:2], two.scores[name])
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert Run(tmp_path / "small-surefoot-ActionReward-v0-from-seed-2").config["seeds"] == [2, 3]
    assert compared(**given, seeds=4).rows() == four.rows()  # found again
    assert compared(**given, seeds=5).seeds == (0, 1, 2, 3, 4)


def test_tuples_are_the_lists_that_json_has(out):
    run = Run(out / "small-CartPole-v1")
    check_same(run, {"seeds": (0, 1)})
    with pytest.raises(
        UsageError, match=r"holds a run with \{'seeds': \[0, 1\]\}; this comparison needs \{'seeds': \[0\]\}"
    ):
        check_same(run, {"seeds": (0,)})


BAD = {
    "no method": ({"methods": []}, "needs methods and environments without repeats"),
    "a method twice": ({"methods": ["ppo", "ppo"]}, "without repeats; got the methods \\['ppo', 'ppo'\\]"),
    "no environment": ({"env": []}, "needs methods and environments"),
    "no place at all": ({"env": None}, "give env=…, and only that, for PPO to train in"),
    "two places": ({"task": "arithmetic"}, r"not \['env', 'task'\]"),
    "an environment twice": ({"env": ["CartPole-v1"] * 2}, "needs methods and environments without repeats"),
    "an unknown method": ({"methods": ["ppi"]}, "No method is called 'ppi'"),
    "an unknown environment": ({"env": ["CartPole-v1", "CartPol-v1"]}, "'CartPol-v1' is not a known id"),
    "no seeds": ({"seeds": 0}, "num_seeds=0 is not allowed"),
    "a method that writes nothing": (
        {"methods": ["grpo", "sft"], "env": None, "task": "arithmetic"},
        r"sft generates no completions in training \(samples=0\).*leave it out",
    ),
    "no steps": ({"steps": 0}, "steps=0 is not allowed"),
    "an unknown option": ({"logger": ()}, "logger"),
    "an unknown hyperparameter": ({"methods": ["ppo", "spo"], "clipp": 1}, "PPO has no hyperparameter 'clipp'"),
    "a hyperparameter beside an instance": ({"gamma": 0.5}, r"\['gamma'\] must be set in the PPO instance itself"),
    "what a comparison sets": ({"num_seeds": 2}, "num_seeds=2 is not allowed: compare sets it; use seeds="),
    "where it puts runs": ({"run_dir": "x"}, "run_dir='x' is not allowed: compare sets it; use out="),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_compared_is_refused_before_any_work(case, tmp_path):
    changes, words = BAD[case]
    with pytest.raises(UsageError, match=words):
        compared(tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_hyperparameters_are_of_all_methods_that_are_named(tmp_path):
    found = sf.compare(["ppo", "spo"], "CartPole-v1", seeds=1, steps=64, out=tmp_path, loggers=(), gamma=0.5, **TINY)
    assert list(found.scores) == ["ppo", "spo"]
    for name in ("ppo", "spo"):
        asked = Run(tmp_path / f"{name}-CartPole-v1").config["hyperparameters"]
        assert asked["gamma"] == 0.5 and asked["num_envs"] == 2


# --- language models: a run of each seed --------------------------------------------------------------------------

TOKENS = {"prompts": 2, "samples": 4, "max_tokens": 4, "learning_rate": 1e-2}


def digits(completions, **fields):
    """The share of digits, so that a model that writes at random has something to learn."""
    return [sum(x.isdigit() for x in c) / max(1, len(c)) - 0.01 * len(c) for c in completions]


@pytest.fixture(scope="module")
def tokens():
    """What the runs of language models start from: a reward that has no name, and a model made here."""
    pytest.importorskip("transformers", reason="language models need surefoot[language]")
    from surefoot.models.language.nano import Nano, fresh

    model = fresh(Nano(width=16, layers=1, heads=2, context=48, warmup=0), seed=1)
    return {"task": "arithmetic:digits=1", "model": model, "reward": lambda completions, **_: digits(completions)}


def written(out: Path, tokens, **changes):
    methods = {slug: make_method(slug, **TOKENS)[0] for slug in ("grpo", "gpg")}
    return sf.compare(methods, **{"seeds": 2, "steps": 3, "out": out, "loggers": (), **tokens, **changes})


@pytest.fixture(scope="module")
def texts(tokens, tmp_path_factory):
    """A comparison that was cut in its second iteration, and gone on with."""
    folder = tmp_path_factory.mktemp("compare") / "texts"
    with pytest.raises(UsageError, match="grpo-arithmetic:digits=1-0 ended before its 3 steps"):
        written(folder, tokens, callbacks=[lambda learner, rows: learner.iteration == 2])
    written(folder, tokens)
    return folder


def test_a_language_model_has_a_run_of_each_seed(texts, tokens, tmp_path):
    made = written(texts, tokens)  # found again
    assert list(made.scores) == ["grpo", "gpg"] and made.seeds == (0, 1) and made.scores["gpg"].shape == (2, 1)
    assert {path.name for path in texts.iterdir() if path.is_dir()} == {
        f"{slug}-arithmetic:digits=1-{seed}" for slug in ("grpo", "gpg") for seed in (0, 1)
    }
    for slug in ("grpo", "gpg"):
        run = sf.train(slug, steps=3, seed=1, run_dir=tmp_path / slug, loggers=(), **TOKENS, **tokens)
        curve = run.curve("return_mean")[1][0]
        assert made.scores[slug][1, 0] == curve[-1] and made.areas[slug][1, 0] == pytest.approx(curve.mean())


def test_more_seeds_of_a_language_model_are_added_to_those_that_are_there(texts, tokens):
    before = {path: path.stat().st_mtime_ns for path in texts.glob("*/metrics.jsonl")}
    two, three = written(texts, tokens), written(texts, tokens, seeds=3)
    assert three.seeds == (0, 1, 2) and (three.scores["gpg"][:2] == two.scores["gpg"]).all()
    assert len(before) == 4 and before == {path: path.stat().st_mtime_ns for path in before}


@pytest.mark.parametrize("changes", [{"steps": 4}, {"model": "nano"}, {"reward": None}, {"stop": ("=",)}])
def test_a_language_model_of_other_settings_is_not_taken_for_this(changes, texts, tokens):
    with pytest.raises(UsageError, match="grpo-arithmetic:digits=1-0 holds a run with .*Give another out"):
        written(texts, tokens, **changes)


def test_the_score_is_of_the_episodes_that_ended_there(tmp_path, monkeypatch):
    """Not of those that a running mean still remembers."""
    rows = [{"seed": 0, "step": i, "episodes": 2 * i, "return": float(i), "return_mean": 0.5 * i} for i in range(1, 21)]
    run = Run(tmp_path)
    monkeypatch.setattr(Run, "config", {"seeds": [0], "env": {"env": "some"}})
    monkeypatch.setattr(Run, "metrics", lambda self: rows)
    found = compare_runs({"one": [run]})
    assert found.scores["one"].tolist() == [[19.5]] and found.areas["one"].tolist() == [[10.5]]
    (row,) = found.rows()
    assert row["low"] is None and "needs 2 seeds" in found.table()
