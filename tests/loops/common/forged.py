"""Checkpoints whose facts were changed, with or without the checksum that belongs to them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def forge(place: Path, **changes: Any) -> None:
    """Change entries of a checkpoint's meta.json; None removes one, and `meta_sha256=""` computes the checksum anew."""
    facts = json.loads((place / "meta.json").read_text())
    facts = {k: v for k, v in {**facts, **changes}.items() if v is not None}
    if facts.get("meta_sha256") == "":
        del facts["meta_sha256"]
        facts["meta_sha256"] = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    (place / "meta.json").write_text(json.dumps(facts))
