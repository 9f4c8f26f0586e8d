"""A page says what its folder holds, and nothing of it becomes markup or a request."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from surefoot.errors import UsageError
from surefoot.evaluate.pages import made
from surefoot.evaluate.pages.folder import report as write_page
from surefoot.evaluate.pages.metrics import table_of
from surefoot.evaluate.pages.page import POLICY, Chart, Facts, Page, Section, Text
from surefoot.evaluate.plots import new, to_svg
from surefoot.evaluate.readable import duration, flat, number
from surefoot.evaluate.statistics import confidence_interval, mean
from surefoot.loops.common.final import OF_EPISODES, OF_ITERATIONS
from surefoot.loops.common.run import Run

KINDS = ("run", "comparison", "stress-1", "stress-2", "solution", "sweep", "language", "claim", "audit")


class Read(HTMLParser):
    """Collects what a page is made of, and fails on a tag that is not closed in order."""

    VOID = frozenset({"meta", "br", "img"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.parts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.parts.append(data)

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.parts))


def read(place: Path) -> Read:
    path = write_page(place)
    assert path == place / "report.html"
    return Read(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_fetched_and_nothing_runs(page_of, kind):
    text = page_of(kind).read_text(encoding="utf-8")
    page = Read(text)
    assert page.open == []
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe", "object", "form", "base"})
    policy = [about for tag, about in page.tags if tag == "meta" and "content-security-policy" in str(about).lower()]
    assert [about["content"] for about in policy] == [POLICY]
    for tag, about in page.tags:
        for name, value in ((n, v or "") for n, v in about.items()):
            assert not name.startswith("on") and "@import" not in value
            if name in ("src", "href", "xlink:href"):
                allowed = ("https://arxiv.org/abs/",) if tag == "a" else ("#", "data:image/")
                assert value.startswith(allowed), value
            assert all(place.startswith("#") for place in re.findall(r"url\(([^)]*)\)", value))


def test_what_is_given_does_not_become_markup(tmp_path):
    bad = '<script>alert(1)</script>&"'
    figure, _ = new(bad, bad, bad)
    blocks = [Text([bad]), Facts([(bad, bad)])]
    page = Read(Page(bad, [bad], (f"https://arxiv.org/{bad}", bad), sections=[Section(bad, blocks)]).html())
    assert page.words.count("<script>alert(1)</script>") == 8 and "script" not in {tag for tag, _ in page.tags}
    drawn = Read(to_svg(figure, bad))
    assert "script" not in {tag for tag, _ in drawn.tags} and drawn.words.count("alert(1)") == 3
    assert "script" not in {tag for tag, _ in Read(str(Chart(bad, figure).svg)).tags}


# --- runs ------------------------------------------------------------------------------------------------------------


def test_a_run_is_told_with_its_intervals_and_its_films(page_of):
    path = page_of("run")
    page = Read(path.read_text(encoding="utf-8"))
    rows = [json.loads(line) for line in (path.parent / "metrics.jsonl").read_text().splitlines()]
    last = [np.mean([r["return"] for r in rows if r["seed"] == s][-4:]) for s in range(3)]  # equally many episodes
    low, high = confidence_interval(last, mean)
    final = (
        f"Final return: {np.mean(last):.4g} [{low:.4g}, {high:.4g}]; mean of 3 seeds ({', '.join(map(number, last))})"
    )
    assert f"{final}. It is the {OF_EPISODES}." in page.words
    for words in (
        "Proximal Policy Optimization Algorithms (2017), arXiv:1707.06347",
        "Mean of 3 seeds, band: 95 % t-interval of the mean over seeds; thin: each seed.",
        "Truncated episodes: 0 throughout.",
        "A processor with a long name",
        "46.2 s",  # 80,000 steps of three seeds at 5,200 steps per second
        "under observation-noise:0.1",
        "Stress test: length and gravity",
        "ring: nominal point",
        "The same episode, seed 0.",
        "hyperparameter this run default gamma 0.98 0.99 num_envs 16 8",
    ):
        assert words in page.words, words
    assert "clip 0.2" not in page.words.split("All settings")[0]  # a default
    assert sum(tag == "img" for tag, _ in page.tags) == 2
    assert "environment steps" in page.words and "share" in page.words  # units of axes


def test_a_run_that_has_only_begun_has_a_page(tmp_path, made_up_run):
    run = made_up_run(tmp_path / "run", iterations=0)
    (run / "evaluation.json").unlink()
    (run / "stress-rrls-2d.json").unlink()
    words = read(run).words
    assert "How it was made" in words and "Learning" not in words and "Evaluation" not in words
    (run / "metrics.jsonl").write_text('{"step": 10, "seed": 0, "return_mean": 1.0}\n{"step": 20, "se')
    assert f"Final return: 1; one seed. It is the {OF_ITERATIONS}" in read(run).words
    (run / "metrics.jsonl").write_text('{"step": 1\n{"step": 20, "seed": 0}\n')
    with pytest.raises(UsageError, match=r"metrics.jsonl, line 1 is not valid JSON"):
        write_page(run)


def test_a_configuration_may_say_less_and_numbers_may_be_huge(tmp_path, made_up_run):
    run = made_up_run(tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    for name in ("versions", "objective", "command"):
        del config[name]
    config["hyperparameters"] = {"note": "\ud800"}
    (run / "config.json").write_text(json.dumps(config))
    values = [1.0, 1e308, -1e308, 5e-324, 1e149]
    lines = [json.dumps({"step": i, "seed": 0, "return_mean": x, "kl": x}) for i, x in enumerate(values)]
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    assert "spo on Hopper-v5" in read(run).words
    (run / "metrics.jsonl").write_text("[1, 2]\n{}\n")
    with pytest.raises(UsageError, match="metrics.jsonl, line 1 is not a row of metrics"):
        write_page(run)


def test_what_the_run_says_is_not_markup(tmp_path, made_up_run):
    page = read(made_up_run(tmp_path / "run"))
    assert "<script>alert(1)</script>" in page.words and "script" not in {tag for tag, _ in page.tags}
    assert "return.cvar" in page.words and "1200" in page.words  # an evaluation of another form is listed


@pytest.mark.parametrize("content", ['{"policy": "A', "{}", "[]"])
def test_a_damaged_stress_test_is_named(tmp_path, made_up_run, content):
    run = made_up_run(tmp_path / "run")
    (run / "stress-half.json").write_text(content)
    with pytest.raises(UsageError, match="stress-half.json is not a stress report .*run surefoot stress again"):
        write_page(run)


def test_stress_that_does_not_fit_together_is_refused(tmp_path, made_up_run):
    run = made_up_run(tmp_path / "run")
    path = run / "stress-rrls-2d.json"
    about = json.loads(path.read_text())
    changes = {
        "nominal_returns": [1.0],
        "returns": [[1e308, -1e308]] * 9,
        "coordinates": about["coordinates"][:-1],
        "seeds": [],
        "axes": ["friction"],
        "env": None,
        "policy": "\ud800",
        "nominal_point": ["x", 1.0],
        "units": [1, 2],
    }
    for name, value in changes.items():
        path.write_text(json.dumps({**about, name: value}))
        with pytest.raises(UsageError, match="stress-rrls-2d.json is not a stress report"):
            write_page(run)
    path.write_text(json.dumps({**about, "env": "$x^", "axes": ["\\frac{$", "y"]}))
    assert "in $x^ under param:friction" in read(run).words


def test_metrics_leave_out_what_is_missing_or_not_finite():
    rows = [
        {"step": 1, "seed": 0, "kl": 0.5},
        {"step": 2, "seed": 0, "kl": float("nan")},
        {"step": 2, "seed": 1, "kl": 0.25},
        {"step": 3, "seed": 1},
        {"seed": 1, "kl": 4.0},
    ]
    seeds, steps, table = table_of(rows, "kl")
    assert seeds == [0, 1] and steps.tolist() == [1, 2]
    np.testing.assert_array_equal(table, [[0.5, np.nan], [np.nan, 0.25]])


# --- how it was made -------------------------------------------------------------------------------------------------


def test_the_command_is_that_of_the_configuration(page_of):
    config = Run(page_of("run").parent).config
    assert made.section(config).blocks[0].text == config["command"]
    assert "cannot say all" in made.section({**config, "command": ""}).blocks[0].text


def test_training_time_counts_every_iteration_once():
    rows = [{"step": 100 * (i + 1), "seed": s, "steps_per_second": 50.0} for i in range(3) for s in (0, 1)]
    assert made.training_time(rows) == pytest.approx(600 / 50)
    assert np.isnan(made.training_time([]))


# --- other kinds -----------------------------------------------------------------------------------------------------

WORDS = {
    "comparison": ("P(better than ppo)", "Normalised by the mean of ppo in each environment", "over 5 seeds"),
    "stress-1": ("dashed: the nominal return", "band: 95 % t-interval over 6 episodes", "length=2", "Every cell (8)"),
    "stress-2": ("colour: mean of 6 episodes", "change (% of nominal)", "Every cell (56)"),
    "solution": ("gamma=0.99", "The price of robustness", "robust − nominal value", "goal", "l1:0.1,support=nominal"),
    "sweep": ("best in the nominal world", "kl:0..0.4", "nominal policy, worst world"),
    "language": ("<b>4</b> is 7", "iteration 60 · reward 1", "pass@4", "Reward component: correct", "tokens"),
    "claim": ("(primary)", "Run it again", "Effects"),
    "audit": ("Share of the return kept", "How to read this"),
}


@pytest.mark.parametrize("kind", WORDS)
def test_a_page_says_what_it_is_about(page_of, kind):
    page = Read(page_of(kind).read_text(encoding="utf-8"))
    for words in WORDS[kind]:
        assert words.casefold() in page.words.casefold(), words


@pytest.mark.parametrize("kind", ["comparison", "solution", "sweep", "claim"])
def test_a_page_is_made_again_from_its_folder(page_of, kind):
    path = page_of(kind)
    before = path.read_text(encoding="utf-8")
    path.unlink()
    assert write_page(path.parent) == path
    assert path.read_text(encoding="utf-8") == before


def test_a_slug_has_the_page_of_its_claim(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert write_page("ppo") == Path("claim-ppo.html") and "The claim of ppo" in Path("claim-ppo.html").read_text()


def test_a_damaged_solution_is_named(tmp_path, page_of):
    import shutil

    folder = shutil.copytree(page_of("solution").parent, tmp_path / "copy")
    (folder / "solution.npz").write_bytes(b"PK")
    with pytest.raises(UsageError, match="holds no whole solution"):
        write_page(folder)
    (folder / "solve.json").write_text("{}")
    with pytest.raises(UsageError, match="holds no whole solution"):
        write_page(folder)


def test_what_has_no_report_is_refused(tmp_path):
    with pytest.raises(UsageError, match="nothing that has a report. Give the folder of a run"):
        write_page(tmp_path)
    assert list(tmp_path.iterdir()) == []


# --- readable --------------------------------------------------------------------------------------------------------


def test_numbers_read_well():
    assert [number(x) for x in (0.0, 0.01234567, 999.96, 1234.5, 20000, 200000, 1.5e6, -3e6, 2e9, 1e15)] == [
        "0", "0.01235", "1000", "1234", "20k", "200k", "1.5M", "-3M", "2G", "1e+15",
    ]  # fmt: skip
    assert [duration(x) for x in (0.5, 61, 7200, float("nan"))] == ["0.5 s", "1 min 1 s", "2 h 0 min", "unknown"]


def test_nested_values_get_dotted_names():
    value = {"a": {"b": [1, 2], "c": None, "e": {}}, "d": 0.5, "s": "ü"}
    assert list(flat(value)) == [("a.b", "[1, 2]"), ("a.c", "null"), ("a.e", "{}"), ("d", "0.5"), ("s", "ü")]


def test_what_was_judged_without_a_simulator_is_on_the_page_of_a_run(page_of, tmp_path):
    folder = shutil.copytree(page_of("run").parent, tmp_path / "run")
    fitted = {"data": "held.hdf5", "episodes": 12, "value": 3.25, "value_interval": [2.5, 4.0]}
    (folder / "fitted-q.json").write_text(json.dumps(fitted | {"behaviour_value": 3.0, "distance": 0.4}))
    judged = {"judge": "task", "prompts": 20, "win_rate": 0.625, "win_rate_interval": [0.5, 0.75], "kl": 0.1}
    (folder / "judged-task.json").write_text(json.dumps(judged | {"kl_interval": None, "worst_group": "short"}))
    words = read(folder).words
    assert "Evaluation by data alone" in words and "held.hdf5 12 3.25 [2.5, 4] 3 0.4" in words
    assert "Against the model before training" in words and "task 20 0.625 [0.5, 0.75] 0.1" in words
    (folder / "fitted-q.json").write_text(json.dumps({"value": "much", "value_interval": 3}))
    (folder / "judged-task.json").write_text(json.dumps([1]))
    words = read(folder).words
    assert "Evaluation by data alone" not in words and "Against the model" not in words
