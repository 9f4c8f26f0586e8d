"""The linear models and worst distributions of `dro` for `compare_dro.py`. Runs in its own environment, on one thread.

    python peer_dro.py IN.npz OUT.npz      every problem of IN.npz
    python peer_dro.py versions

IN.npz has arrays and `problems`, a JSON list. A linear problem {"kind": "cvar" | "chi2" | "kl" | "wasserstein",
"model": "ols" | "logistic" | "svm" | "lad", "settings": …} is fitted to X and y (or signs); OUT.npz gets its
`NUMBER/theta`, b, objective, and the worst distribution: points, targets, weights. {"kind": "attack", "gamma": γ,
"steps": …, "size": …} moves X to where the network of `layer0`, `bias0`, `layer1`, … loses most, net of γ·‖x' − x‖²,
for the classes `labels`.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from importlib.metadata import distribution, version
from types import ModuleType
from typing import Any

import numpy as np

MODELS = {
    "cvar": ("cvar_dro", "CVaRDRO"),
    "chi2": ("chi2_dro", "Chi2DRO"),
    "kl": ("kl_dro", "KLDRO"),
    "wasserstein": ("wasserstein_dro", "WassersteinDRO"),
}


def without_its_imports(*absent: str) -> None:
    """Let modules of `dro` be imported one by one: its packages would import nets, trees and downloads. `absent` are
    modules that are named at an import and never used here."""
    for package in ("dro", "dro.linear_model", "dro.neural_model"):
        sys.modules[package] = ModuleType(package)
        sys.modules[package].__path__ = [str(distribution("dro").locate_file(package.replace(".", "/")))]
    for name in absent:
        sys.modules[name] = ModuleType(name)


def linear(problem: dict[str, Any], X: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """The fit of a linear model, and its worst distribution."""
    module, name = MODELS[problem["kind"]]
    model = getattr(import_module(f"dro.linear_model.{module}"), name)(X.shape[1], problem["model"])
    model.update(problem["settings"])
    worst = model.worst_distribution(X, y)  # which fits the model first
    points, targets = worst["sample_pts"]
    found = {"theta": model.theta, "b": model.b, "objective": model.robust_obj}
    return {**found, "points": points, "targets": targets, "weights": worst["weight"]}


def attack(problem: dict[str, Any], given: dict[str, np.ndarray]) -> dict[str, Any]:
    """Rows after the ascent of its neural model with a price on transport."""
    import torch

    model = import_module("dro.neural_model.wdro_nn").WNNDRO
    layers: list[torch.nn.Module] = []
    for i in range(sum(name.startswith("layer") for name in given)):
        layer = torch.nn.Linear(*given[f"layer{i}"].shape[::-1], dtype=torch.float64)
        weights = {"weight": given[f"layer{i}"], "bias": given[f"bias{i}"]}
        layer.load_state_dict({name: torch.from_numpy(x) for name, x in weights.items()})
        layers += [torch.nn.Tanh()] * bool(layers) + [layer]
    peer = model.__new__(model)  # without its own network
    peer.__dict__ |= {"gamma": problem["gamma"], "adversarial_steps": problem["steps"], "task_type": "classification"}
    peer.__dict__ |= {"model": torch.nn.Sequential(*layers), "adversarial_step_size": problem["size"]}
    peer.__dict__ |= {"input_bounds": None}
    moved = peer._transport_attack(torch.from_numpy(given["X"]), torch.from_numpy(given["labels"]))
    return {"points": moved.numpy()}


def main() -> None:
    if sys.argv[1] == "versions":
        print(json.dumps({name: version(name) for name in ("dro", "cvxpy", "clarabel", "numpy", "scipy")}))
        return
    given, found = dict(np.load(sys.argv[1])), {}
    without_its_imports("torchvision", "torchvision.models", "torchattacks")
    for i, problem in enumerate(json.loads(str(given["problems"]))):
        if problem["kind"] == "attack":
            answer = attack(problem, given)
        else:
            answer = linear(problem, given["X"], given["y" if problem["model"] in ("ols", "lad") else "signs"])
        found |= {f"{i}/{name}": np.asarray(x) for name, x in answer.items()}
    np.savez(sys.argv[2], **found)


if __name__ == "__main__":
    main()
