from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from surefoot.errors import UsageError
from surefoot.evaluate.report import chart, curves, flat, number, ticks, write_report
from surefoot.evaluate.statistics import confidence_interval, mean
from surefoot.loops.common.final import OF_EPISODES, OF_ITERATIONS


class Page(HTMLParser):
    """Collects what a page is made of, and fails on a tag that is not closed in order."""

    VOID = frozenset({"meta", "br", "line", "polyline", "rect"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
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
        self.words.append(data)


def read(folder: Path) -> Page:
    path = write_report(folder)
    assert path == folder / "report.html"
    return Page(path.read_text(encoding="utf-8"))


def test_the_page_says_what_the_run_was_and_what_it_did(tmp_path, made_up_run):
    page = read(made_up_run(tmp_path / "run"))
    text = " ".join(page.words)
    assert page.open == []
    wanted = ("spo on Hopper-v5", "E[ ρÂ", "Simple Policy Optimization", "hyperparameters.gamma", "0.99", "[64, 64]")
    for words in (*wanted, "torch", "2.13.0", "--note a&b", "return.cvar", "1200", "Explained variance"):
        assert words in text, words
    last = [np.mean([2900 * (1 - 0.9**i) + 100 * seed for i in range(45, 50)]) for seed in range(3)]
    low, high = confidence_interval(last, mean)
    final = f"{number(sum(last) / 3)} [{low:.4g}, {high:.4g}], mean of 3 seeds ({', '.join(map(number, last))})."
    assert f"Final return ({OF_ITERATIONS}): {final}" in text
    assert sum(tag == "svg" for tag, _ in page.tags) == 4  # the return, the KL, the explained variance, the stress
    assert "Gradient norm" not in text  # not logged, not shown


@pytest.mark.parametrize("content", ['{"policy": "A', "{}", "[]"])
def test_a_damaged_stress_report_is_named(tmp_path, made_up_run, content):
    run = made_up_run(tmp_path / "run")
    (tmp_path / "run" / "stress-half.json").write_text(content)
    with pytest.raises(
        UsageError, match="stress-half.json is not a stress report .*remove it, and run surefoot stress again"
    ):
        write_report(run)


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
    }
    for name, value in changes.items():
        path.write_text(json.dumps({**about, name: value}))
        with pytest.raises(UsageError, match="stress-rrls-2d.json is not a stress report"):
            write_report(run)
    path.write_text(json.dumps({**about, "env": "$x^", "perturbation": "\\frac{$"}))
    assert "Under stress on $x^" in " ".join(read(run).words)


def test_a_configuration_may_say_less_and_numbers_may_be_huge(tmp_path, made_up_run):
    run = made_up_run(tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    for name in ("versions", "objective", "command"):
        del config[name]
    config["hyperparameters"] = {"note": "\ud800"}
    (run / "config.json").write_text(json.dumps(config))
    values = [1.0, 1e308, -1e308, 5e-324]
    lines = [json.dumps({"step": i, "seed": 0, "return_mean": x, "kl": x}) for i, x in enumerate(values)]
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    assert "spo on Hopper-v5" in " ".join(read(run).words)
    (run / "metrics.jsonl").write_text("[1, 2]\n{}\n")
    with pytest.raises(UsageError, match="metrics.jsonl, line 1 is not a row of metrics"):
        write_report(run)


def test_stress_is_told_by_its_worst_cell(tmp_path, made_up_run):
    words = " ".join(read(made_up_run(tmp_path / "run")).words)
    assert "Under stress on Hopper-v5: param:friction=0.1..3,torsomass=0.1..3" in words
    away, far = (scipy.stats.t.ppf(1 - 0.025 / cells, 1) for cells in (1, 9))  # of ±1 the standard error is 1
    assert f"worst, at friction=0.1, torsomass=0.1 0 [{-away:.6g}, {far:.6g}]" in words
    assert f"nominal 3000 [{3000 - away:.6g}, {3000 + away:.6g}]" in words
    assert f"mean, over all cells 400 [{400 - away:.6g}, {400 + away:.6g}]" in words
    assert "worst change, worst - nominal, paired by seed -3000" in words
    assert "9 cells (closed grid), 2 episodes per cell" in words


def test_nothing_from_the_run_becomes_markup_and_nothing_is_fetched(tmp_path, made_up_run):
    page = read(made_up_run(tmp_path / "run"))
    assert "<script>alert(1)</script>" in "".join(page.words)
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "img", "link", "a", "iframe", "object"})
    values = [(name, value or "") for _, attributes in page.tags for name, value in attributes.items()]
    links = [value for name, value in values if name in {"src", "href", "xlink:href", "onload"}]
    assert all(value.startswith(("#", "data:image/png;base64,")) for value in links)
    assert all(value.startswith("#") for value in re.findall(r"url\((.*?)\)", " ".join(v for _, v in values)))
    assert "@import" not in "".join(page.words)


def test_a_run_that_has_only_begun_has_a_report(tmp_path, made_up_run):
    run = made_up_run(tmp_path / "run", iterations=0)
    (run / "evaluation.json").unlink()
    (run / "stress-rrls-2d.json").unlink()
    text = "".join(read(run).words)
    assert "Configuration" in text and "Learning curve" not in text and "Evaluation" not in text
    (run / "metrics.jsonl").write_text('{"step": 10, "seed": 0, "return_mean": 1.0}\n{"step": 20, "se')
    assert "last tenth of the iterations): 1." in "".join(read(run).words)
    (run / "metrics.jsonl").write_text('{"step": 1\n{"step": 20, "seed": 0}\n')
    with pytest.raises(UsageError, match=r"metrics.jsonl, line 1 is not valid JSON"):
        write_report(run)


def test_the_curve_ends_where_the_final_return_is(tmp_path, made_up_run):
    """Not at a mean that still remembers the first episodes: of 20 iterations the last two count."""
    run = made_up_run(tmp_path / "run", seeds=1, iterations=20)
    rows = [
        {"iteration": i, "step": i, "seed": 0, "episodes": 3 * i, "return": 10.0 * i, "return_mean": 5.0 * i}
        for i in range(1, 21)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = read(run)
    assert f"Final return ({OF_EPISODES}): 195." in "".join(page.words)
    svg = run.joinpath("report.html").read_text().split("<svg")[1]
    ((*_, end),) = points(svg, "mean")
    low, high = (float(text) for text in re.findall(r'text-anchor="end">([^<]*)<', svg)[:: len(ticks(10, 195)) - 1])
    assert end[1] == pytest.approx(166 - (195 - low) / (high - low) * 158, abs=0.06)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(UsageError, match="is not the folder of a run"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_curves_leave_out_what_is_missing_or_not_finite():
    rows = [
        {"step": 1, "seed": 0, "kl": 0.5},
        {"step": 2, "seed": 0, "kl": float("nan")},
        {"step": 2, "seed": 1, "kl": 0.25},
        {"step": 3, "seed": 1},
        {"seed": 1, "kl": 4.0},
    ]
    assert curves(rows, "kl") == {0: [(1.0, 0.5)], 1: [(2.0, 0.25)]}


def points(svg: str, kind: str) -> list[list[tuple[float, float]]]:
    found = re.findall(rf'class="{kind}" points="([^"]*)"', svg)
    return [[tuple(map(float, p.split(","))) for p in line.split()] for line in found]


def test_a_chart_is_drawn_to_scale():
    svg = chart([[(0, 0), (50, 40), (100, 100)]], "label")
    ((start, middle, end),) = points(svg, "mean")
    assert start == (46, 166) and end == (344, 8)  # the corners of the drawing area: ticks are 0 and 100
    assert middle == (195, pytest.approx(166 - 0.4 * 158, abs=0.06))


def test_the_mean_of_several_seeds_is_over_the_steps_they_share():
    svg = chart([[(0, 0), (1, 100)], [(0, 100), (1, 0), (2, 100)]], "label")
    ((a, b),) = points(svg, "mean")
    assert a[1] == b[1] == pytest.approx((166 + 8) / 2)
    assert len(points(svg, "run")) == 2


def test_a_long_curve_is_thinned_and_keeps_its_end():
    ((*_, last),) = lines = points(chart([[(i, i) for i in range(10_001)]], "label"), "mean")
    assert len(lines[0]) <= 300 and last == (344, 8)


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9))
def test_ticks_cover_the_range_with_a_few_even_steps(low, spread):
    high = low + spread
    marks = ticks(low, high)
    steps = {round(b - a, 12) for a, b in zip(marks, marks[1:], strict=False)}
    slack = 1e-6 * max(abs(low), abs(high), spread)
    assert marks[0] <= low + slack and marks[-1] >= high - slack
    assert 2 <= len(marks) <= 9 or spread < 1e-6 * abs(low)
    assert max(steps) - min(steps) <= slack


@given(st.floats(-1e5, 1e5), st.integers(1, 5))
def test_a_flat_curve_is_drawn_inside(level, n):
    for x, y in points(chart([[(i, level) for i in range(n)]], "label"), "mean")[0]:
        assert 46 <= x <= 344 and 8 <= y <= 166


def test_numbers_read_well():
    assert [number(x) for x in (0.0, 0.01234567, 999.96, 1234.5, 20000, 200000, 1.5e6, -3e6)] == [
        "0", "0.01235", "1000", "1234", "20k", "200k", "1.5M", "-3M",
    ]  # fmt: skip


def test_nested_values_get_dotted_names():
    value = {"a": {"b": [1, 2], "c": None, "e": {}}, "d": 0.5, "s": "ü"}
    assert list(flat(value)) == [("a.b", "[1, 2]"), ("a.c", "null"), ("a.e", "{}"), ("d", "0.5"), ("s", "ü")]
