"""Does hardening work: train, harden against what a policy fails, audit both; over several training seeds.

    python benchmarks/bench_harden.py --env Hopper-v5 --steps 300k --harden 300k --seeds 5 --against rrls:2d

For every seed a policy is trained, hardened, and audited before and after with the same episodes. Judged is the return
in the worst cell of what it was hardened against: its gain, with a 95 % t-interval over training seeds, which alone
tells about hardening (the intervals of one report are about one policy). The nominal return stands beside it. As a
control, each policy is also trained on for as long without a perturbation: more training may help by itself.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import surefoot as sf
from peer_sb3 import store
from surefoot.arguments import whole
from surefoot.evaluate.audit import audited
from surefoot.evaluate.hardened import AGAINST, worst_changed
from surefoot.evaluate.statistics import confidence_interval, mean


def one(arguments: argparse.Namespace, seed: int, folder: Path) -> dict[str, Any]:
    """The returns of one seed: nominal and worst, before, hardened, and merely trained on."""
    settings: Any = {"loggers": ()}
    old = sf.train(arguments.method, arguments.env, arguments.steps, seed=seed, run_dir=folder / "old", **settings)
    report = sf.harden(old, arguments.against, arguments.harden, families=(), episodes=arguments.episodes,
                       points=arguments.points, loggers=())  # fmt: skip
    longer: Any = {"seed": seed, "start": old, "run_dir": folder / "longer", **settings}
    control = sf.train(arguments.method, arguments.env, arguments.harden, **longer)
    battery = {AGAINST: report.against}
    trained, _ = audited(control.path, battery=battery, episodes=arguments.episodes, points=arguments.points)
    worst, beside = report.worst[AGAINST], worst_changed(report.before.returns, trained.returns)
    nominal = {"before": report.nominal.before, "after": report.nominal.after}
    return {
        "seed": seed,
        "nominal": {**nominal, "control": float(trained.nominal_returns.mean())},
        "worst": {"before": worst.before, "after": worst.after, "control": beside.after},
    }


def judged(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Gains with their intervals over seeds: of hardening, of training on, and of the one over the other."""
    found = {}
    for what in ("worst", "nominal"):
        for name, late, early in (("gain", "after", "before"), ("control", "control", "before"),
                                  ("over control", "after", "control")):  # fmt: skip
            gains = np.array([row[what][late] - row[what][early] for row in rows])
            interval = confidence_interval(gains, mean) if len(gains) > 1 else None
            found[f"{what} {name}"] = {"mean": float(gains.mean()), "interval": interval and list(interval)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="ppo")
    parser.add_argument("--env", default="Hopper-v5")
    parser.add_argument("--against", default="rrls:2d")
    parser.add_argument("--steps", type=whole, default=300_000)
    parser.add_argument("--harden", type=whole, default=300_000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--points", type=int, default=5)
    arguments = parser.parse_args()
    rows = []
    for seed in range(arguments.seeds):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(one(arguments, seed, Path(folder)))
        print(rows[-1], flush=True)
    found = judged(rows)
    for name, result in found.items():
        print(f"{name:<22} {result['mean']:+10.4g}  {result['interval']}")
    settings = vars(arguments)
    store(f"harden_{arguments.env}", {"settings": settings, "seeds": rows, "judged": found})


if __name__ == "__main__":
    main()
