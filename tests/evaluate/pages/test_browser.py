"""Every kind of page in a real browser, in both schemes, on a desktop and on a phone: nothing sticks out, no label lies
on another, no chart is empty, and the console is silent."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess

import pytest
from matplotlib.image import imread

KINDS = ("run", "comparison", "stress-1", "stress-2", "solution", "sweep", "language", "claim", "audit")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
WIDTHS = {"desktop": 1280, "phone": 390}
DARK = "(prefers-color-scheme: dark)"
SMALLEST = 8.0  # pixels of a label on a phone

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium, then run this test again"),
]

# Frames are as wide as a phone whatever the smallest window of the browser; the script stands outside the pages.
HARNESS = """<!doctype html><meta charset="utf-8"><body style="margin:0">{frames}
<script>
const luminance = c => c.match(/[\\d.]+/g).slice(0, 3).map(v => (v /= 255) <= 0.03928 ? v / 12.92
  : ((v + 0.055) / 1.055) ** 2.4).reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const contrast = (a, b) => {{ const [x, y] = [luminance(a), luminance(b)].sort((p, q) => q - p);
  return (x + 0.05) / (y + 0.05); }};
const overlap = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
  && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1.5;
const look = frame => {{
  const page = frame.contentDocument, root = page.documentElement, body = page.body;
  page.querySelectorAll("details").forEach(e => e.open = true);
  const style = e => frame.contentWindow.getComputedStyle(e), ground = style(body).backgroundColor;
  const svgs = [...page.querySelectorAll("svg")], boxes = svg => [...svg.querySelectorAll("text")]
    .filter(e => e.textContent.trim()).map(e => [e.textContent.trim(), e.getBoundingClientRect()]);
  return {{
    overflow: root.scrollWidth - root.clientWidth,
    outside: [...body.querySelectorAll("*")].filter(e => !e.closest(".wide") && !e.closest("svg"))
      .filter(e => e.getBoundingClientRect().right > root.clientWidth + 0.5)
      .map(e => e.tagName + e.textContent.slice(0, 40)),
    charts: svgs.length,
    empty: svgs.filter(s => ![...s.querySelectorAll('[style*="--c"], [style*="fill: #"], image')]
      .some(e => e.getBoundingClientRect().width > 0)).map(s => s.getAttribute("aria-label")),
    narrow: svgs.filter(s => s.getBoundingClientRect().width < 250).length,
    clipped: svgs.flatMap(s => boxes(s).filter(([, t]) => {{ const b = s.getBoundingClientRect();
      return t.left < b.left - 1 || t.right > b.right + 1 || t.top < b.top - 1 || t.bottom > b.bottom + 1; }})
      .map(([text]) => text)),
    overlapping: svgs.flatMap(s => boxes(s).flatMap(([x, a], i, all) => all.slice(i + 1)
      .filter(([, b]) => overlap(a, b)).map(([y]) => x + " | " + y))),
    sizes: svgs.flatMap(s => [...s.querySelectorAll("text")].map(e =>
      parseFloat(style(e).fontSize) * s.getBoundingClientRect().width / s.viewBox.baseVal.width)),
    heading: Math.min(...[...page.querySelectorAll("h3")].map(e => parseFloat(style(e).fontSize))),
    contrast: Math.min(...[...page.querySelectorAll("p, td, th, dt, dd, a, figcaption, h1, summary")]
      .map(e => contrast(style(e).color, ground))),
    ground, images: [...page.querySelectorAll("img")].map(e => e.naturalWidth),
  }};
}};
addEventListener("load", () => {{
  document.body.dataset.found = JSON.stringify(Object.fromEntries([...document.querySelectorAll("iframe")]
    .map(frame => [frame.id, look(frame)])));
}});</script>"""


def browse(page, profile, *options):
    """What a headless Chromium prints for a local page and to its console, with everything that would reach for the
    network turned off."""
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--hide-scrollbars", "--disable-background-networking", "--disable-component-update", "--enable-logging=stderr",
        "--disable-sync", "--disable-dev-shm-usage", f"--user-data-dir={profile}", *options, page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=240)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.fixture(scope="module")
def seen(tmp_path_factory, page_of):
    """What the browser finds in a page, by scheme and width, and what its console said; each page is opened once."""
    folder, known = tmp_path_factory.mktemp("browser"), {}

    def look(kind):
        if kind not in known:
            text, frames = page_of(kind).read_text(encoding="utf-8"), []
            assert DARK in text
            for scheme, shown in (("light", "not all"), ("dark", "all")):
                for name, width in WIDTHS.items():
                    page = html.escape(text.replace(DARK, shown))
                    about = f'id="{scheme} {name}" width="{width}" height="900" style="border:0;display:block"'
                    frames.append(f'<iframe {about} srcdoc="{page}"></iframe>')
            harness = folder / f"{kind}.html"
            harness.write_text(HARNESS.format(frames="\n".join(frames)), encoding="utf-8")
            dom, console = browse(harness, folder / "profile", "--dump-dom")
            found = re.search(r'data-found="([^"]*)"', dom)
            assert found is not None
            known[kind] = json.loads(html.unescape(found[1])), console
        return known[kind]

    return look


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_a_page_is_whole(seen, kind, scheme, width):
    found = seen(kind)[0][f"{scheme} {width}"]
    assert found["overflow"] == 0 and found["outside"] == []
    assert found["charts"] > 0 and found["empty"] == [] and found["narrow"] == 0
    assert found["clipped"] == [] and found["overlapping"] == []
    assert min(found["sizes"]) >= SMALLEST, "labels are legible"
    assert max(found["sizes"]) <= found["heading"], "no label is larger than the heading of its chart"
    assert found["contrast"] >= 4.5
    assert all(found["images"])
    light = found["ground"] == "rgb(255, 255, 255)"
    assert light == (scheme == "light")


@pytest.mark.parametrize("kind", KINDS)
def test_the_console_is_silent(seen, kind):
    assert seen(kind)[1] == []


def test_the_screen_shows_the_curve(tmp_path, page_of):
    shot = tmp_path / "run.png"
    browse(page_of("run"), tmp_path / "profile", f"--screenshot={shot}", "--window-size=1280,900")
    pixels = imread(shot)[..., :3]
    background = pixels[-1, -1]
    line = abs(pixels - [0x00, 0x72 / 255, 0xB2 / 255]).max(-1) < 0.1
    assert 0.02 < (abs(pixels - background).max(-1) > 0.2).mean() < 0.5, "text on an empty ground"
    assert line.sum() > 300 and line.any(0).sum() > 250, "the curve runs across the screen"
