"""Photograph every kind of page that Surefoot writes: docs/pictures/*.webp, desktop beside phone, light beside dark.

The pages come from the commands that the documentation shows, at sizes that take about five minutes in all. Needs
Chromium. `python docs/make_pictures.py run audit` makes those two alone.
"""

from __future__ import annotations

import html
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent
DESKTOP, PHONE, HEIGHT, GAP = 1280, 390, 1500, 24
SHOWN = 1100  # pixels across a picture
DARK = "(prefers-color-scheme: dark)"
PAGES = {
    "run": (
        "train ppo --env CartPole-v1 --steps 60000 --num-seeds 5 --evaluate-every 12000 --run-dir run --loggers",
        "stress run --perturb sticky-action:0..0.5 --episodes 10",
        "report run",
        "run/report.html",
    ),
    "comparison": (
        "compare ppo spo --env CartPole-v1 --seeds 5 --steps 40000 --out comparison",
        "comparison/report.html",
    ),
    "solution": (
        "solve gym:FrozenLake-v1 --gamma 0.99 --ambiguity l1:0.2,support=nominal --out solution",
        "solution/report.html",
    ),
    "audit": (
        "train ppo --env CartPole-v1 --steps 60000 --run-dir audited --loggers",
        "audit audited --out audit",
        "audit/audit.html",
    ),
    "language": (
        "train grpo --model nano --task sorting --steps 40 --run-dir language --loggers",
        "report language",
        "language/report.html",
    ),
    "claim": ("report prospect", "claim-prospect.html"),
}


def surefoot(folder: Path, command: str) -> None:
    """Run a command as a user types it."""
    print("surefoot", command, flush=True)
    subprocess.run([sys.executable, "-m", "surefoot.cli", *command.split()], cwd=folder, check=True)


def photograph(page: Path, picture: Path) -> None:
    """A page as a desktop shows it in its light scheme, and beside it as a phone shows it in its dark one."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or sys.exit("Chromium is needed.")
    text, frames = page.read_text(encoding="utf-8"), []
    for width, scheme in ((DESKTOP, "not all"), (PHONE, "all")):
        inside = html.escape(text.replace(DARK, scheme))
        frames.append(f'<iframe width="{width}" height="{HEIGHT}" style="border:0" srcdoc="{inside}"></iframe>')
    with tempfile.TemporaryDirectory() as folder:
        both, shot = Path(folder) / "both.html", Path(folder) / "shot.png"
        style = f"margin:0;display:flex;gap:{GAP}px;background:#888"
        both.write_text(f'<!doctype html><meta charset="utf-8"><body style="{style}">{"".join(frames)}')
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={folder}/p"]
        size = f"--window-size={DESKTOP + GAP + PHONE},{HEIGHT}"
        command = [chromium, *options, f"--screenshot={shot}", size, both.as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=240)
        with Image.open(shot) as image:
            height = round(image.height * SHOWN / image.width)
            image.convert("RGB").resize((SHOWN, height), Image.Resampling.LANCZOS).save(picture, quality=60, method=6)


def main(names: list[str]) -> None:
    for name in names or PAGES:
        *commands, page = PAGES[name]
        with tempfile.TemporaryDirectory() as folder:
            for command in commands:
                surefoot(Path(folder), command)
            photograph(Path(folder) / page, HERE / "pictures" / f"{name}.webp")


if __name__ == "__main__":
    main(sys.argv[1:])
