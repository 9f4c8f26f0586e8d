"""The report in a real browser, at the width of a phone: everything is drawn and nothing sticks out."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from matplotlib.image import imread

from surefoot.evaluate.report import write_report

WIDTH, HEIGHT = 390, 844
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium, then run this test again"),
]

# The frame is as wide as a phone whatever the smallest window of the browser; the script stands outside the report.
HARNESS = """<!doctype html><meta charset="utf-8"><body style="margin:0">
<iframe id="phone" style="border:0;display:block" width="{width}" height="{height}" srcdoc="{report}"></iframe>
<script>addEventListener("load", () => {{
  const page = document.getElementById("phone").contentDocument, root = page.documentElement;
  const lines = [...page.querySelectorAll("polyline")];
  const found = {{
    overflow: root.scrollWidth - root.clientWidth,
    outside: [...page.body.querySelectorAll("*")].filter(e => !e.closest(".wide"))
      .filter(e => e.getBoundingClientRect().right > {width} + 0.5).map(e => e.tagName),
    drawn: lines.filter(e => e.getBoundingClientRect().width > 100).length, lines: lines.length,
    ticks: [...page.querySelectorAll("text")].map(e => e.getBoundingClientRect().height),
    clipped: [...page.querySelectorAll("text")].filter(e => {{
      const t = e.getBoundingClientRect(), s = e.ownerSVGElement.getBoundingClientRect();
      return t.left < s.left - 1 || t.right > s.right + 1 || t.top < s.top - 1 || t.bottom > s.bottom + 1;
    }}).map(e => e.textContent),
    height: root.scrollHeight,
  }};
  document.body.dataset.found = JSON.stringify(found);
}});</script>"""


def browse(page: Path, profile: Path, *options: str) -> str:
    """What a headless Chromium prints for a local page, with everything that would reach for the network turned off."""
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--hide-scrollbars", "--disable-background-networking", "--disable-component-update",
        "--disable-sync", "--disable-dev-shm-usage",
        f"--user-data-dir={profile}", *options, page.as_uri(),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


@pytest.fixture(scope="module")
def phone(tmp_path_factory, made_up_run) -> tuple[Path, Path]:
    """A folder with the report of a made-up run inside a frame as wide as a phone, and a browser profile."""
    folder = tmp_path_factory.mktemp("phone")
    report = write_report(made_up_run(folder / "run"))
    text = html.escape(report.read_text(encoding="utf-8"))
    (folder / "harness.html").write_text(HARNESS.format(width=WIDTH, height=HEIGHT, report=text), encoding="utf-8")
    return folder / "harness.html", folder / "profile"


def test_everything_is_drawn_and_nothing_sticks_out(phone):
    dom = browse(*phone, "--dump-dom")
    found = json.loads(html.unescape(re.search(r'data-found="([^"]*)"', dom)[1]))  # type: ignore[index]
    assert found["overflow"] == 0 and found["outside"] == [] and found["clipped"] == []
    assert found["drawn"] == found["lines"] == 3 * (3 + 1)  # three charts of three seeds and their mean
    assert min(found["ticks"]) >= 10  # pixels: legible on a phone
    assert found["height"] > HEIGHT


def test_the_screen_shows_the_curve(phone):
    page, profile = phone
    shot = page.with_name("phone.png")
    browse(page, profile, f"--screenshot={shot}", f"--window-size={WIDTH},{HEIGHT}")
    pixels = imread(shot)[..., :3]
    background = pixels[-1, -1]
    line = abs(pixels - [0x0B / 255, 0x6E / 255, 0x6E / 255]).max(-1) < 0.1
    assert pixels.shape == (HEIGHT, WIDTH, 3)
    assert 0.02 < (abs(pixels - background).max(-1) > 0.2).mean() < 0.5, "text on an empty ground"
    assert line.sum() > 300 and line.any(0).sum() > 250, "the curve runs across the screen"
