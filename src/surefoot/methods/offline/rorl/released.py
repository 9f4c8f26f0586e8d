"""The settings of RORL's authors for MuJoCo tasks: `TASK` under attack, on medium data, and `TASK-DATA` without one."""

from __future__ import annotations

from typing import Any


def released() -> dict[str, dict[str, Any]]:
    """The settings of the authors' code by name."""
    found: dict[str, dict[str, Any]] = {
        "halfcheetah": {"policy_radius": 0.05, "policy_smoothing": 1.0, "ood_weight": 0.0},
        "hopper": _near(0.005, 0.1) | {"ood_radius": 0.02, "penalty": 2.0},
    }
    for data in ("random", "medium", "medium-replay", "medium-expert", "expert"):
        samples = 20 if data == "random" else 10
        radius = 0.005 if data == "expert" else 0.001
        found[f"halfcheetah-{data}"] = _near(radius, 0.1) | {"samples": samples, "ood_weight": 0.0}
    for data, first, last in (
        ("random", 1, 0.5),
        ("medium", 2, 0.1),
        ("medium-replay", 0.1, 0),
        ("medium-expert", 3, 1),
        ("expert", 4, 1),
    ):
        found[f"hopper-{data}"] = _near(0.005, 0.1) | _ood(0.5, first, last, 1e-6)
    for data, radius, weight, *penalty in (
        ("random", 0.005, 0.5, 5, 0.5, 1e-5),
        ("medium", 0.01, 0.1, 1, 0.1, 5e-7),
        ("medium-replay", 0.01, 0.1, 0.1, 0.1, 0),
        ("medium-expert", 0.01, 0.1, 0.1, 0.1, 0),
        ("expert", 0.005, 0.5, 1, 0.5, 1e-6),
    ):
        found[f"walker2d-{data}"] = _near(radius, 1.0) | _ood(weight, *penalty)
    return found


def _near(radius: float, weight: float) -> dict[str, Any]:
    return {"policy_radius": radius, "value_radius": radius, "policy_smoothing": weight}


def _ood(weight: float, first: float, last: float, decay: float) -> dict[str, Any]:
    numbers = {"penalty": float(first), "lowest_penalty": float(last), "penalty_decay": float(decay)}
    return {"ood_radius": 0.01, "ood_weight": weight, **numbers}
