"""Films on a page: videos as animated pictures inside it, since a page makes no requests."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np

from surefoot.evaluate.pages.page import Film

SIDE = 280  # pixels of the longer side
FRAMES = 150  # maximum number of frames; longer films are sped up
SECONDS = 12.0  # maximum duration


def film(source: Path | bytes, title: str, caption: str = "") -> Film | None:
    """The film of an `.mp4` or `.gif` file, or of the contents of an `.mp4`, small and silent; None if there is no such
    file or it cannot be read here."""
    if isinstance(source, Path) and not source.is_file():
        return None
    try:
        import imageio.v2 as imageio
        from PIL import Image

        reader: Any
        with imageio.get_reader(source, None if isinstance(source, Path) else ".mp4") as reader:
            about = reader.get_meta_data()
            frames = [np.asarray(frame) for frame in reader]
        found = _smaller(frames, Image)
    except (ImportError, OSError, ValueError, RuntimeError, IndexError):
        return None
    rate = float(about.get("fps") or 1000 / float(about.get("duration") or 40))
    length = min(len(frames) / rate, SECONDS)
    file = io.BytesIO()
    options: Any = {"save_all": True, "append_images": found[1:], "loop": 0, "quality": 60, "method": 2}
    found[0].save(file, format="WEBP", duration=round(1000 * length / len(found)), **options)
    faster = len(frames) / rate / length
    speed = f" {faster:.3g} times as fast." if faster > 1.05 else ""
    return Film(title, f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}", f"{caption}{speed}")


def _smaller(frames: list[np.ndarray], Image: Any) -> list[Any]:
    chosen = [frames[round(i)] for i in np.linspace(0, len(frames) - 1, min(len(frames), FRAMES))]
    found = []
    for frame in chosen:
        picture = Image.fromarray(frame).convert("RGB")
        picture.thumbnail((SIDE, SIDE))
        found.append(picture)
    return found
