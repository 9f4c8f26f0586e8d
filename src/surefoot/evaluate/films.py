"""Films of an audit: the same episode in the nominal environment and in the worst cell."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from surefoot.envs import make_single
from surefoot.evaluate.rollout import frame_rate, record

if TYPE_CHECKING:
    from surefoot.evaluate.audit import AuditReport


class Film(NamedTuple):
    """One filmed episode."""

    name: str  # "nominal" or "worst"
    caption: str
    data: bytes  # of an .mp4 file

    @property
    def file(self) -> str:
        """The name of its file in the folder of an audit."""
        return f"audit-{self.name}.mp4"


def check_filmable(env: Any) -> None:
    """Raise `UsageError` if an environment cannot be filmed here: before the work, not after it."""
    frame_rate(env, functools.partial(make_single, env, {"render_mode": "rgb_array"}))


def films(player: Any, env: Any, report: AuditReport) -> tuple[Film, Film]:
    """The policy in the nominal environment and in the worst cell, in the episode whose return there is nearest to the
    mean of the cell."""
    worst = report.worst.cell
    returns = report.returns[report.cells.index(worst)]
    place = int(np.abs(returns - returns.mean()).argmin())
    seed, made = report.seeds[place], []
    with tempfile.TemporaryDirectory() as folder:
        for name, label, cell in (("nominal", "nominal", None), ("worst", worst.label, worst.perturbation)):
            path = Path(folder) / f"{name}.mp4"
            (total,) = record(player, env, path, 1, [seed], cell, deterministic=report.deterministic)
            made.append(Film(name, f"{label}: return {total:.6g} in the episode with seed {seed}", path.read_bytes()))
    return made[0], made[1]
