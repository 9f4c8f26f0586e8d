"""Surefoot: policy optimization that holds when the world shifts.

```python
import surefoot as sf

run = sf.train("spo", env="Hopper-v5", steps=200_000, seed=0)
agent = sf.load(run.path)
report = sf.stress(agent, "Hopper-v5", perturb="rrls:2d", episodes=10)
```
Importing the package imports nothing heavy: what is named here is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from surefoot.alignment import align
    from surefoot.api import Run, compare, evaluate, explain, load, resume, stress, train
    from surefoot.catalogue import paper, papers
    from surefoot.claims.running import claim
    from surefoot.data.files import dataset, write_dataset
    from surefoot.envs.tabular import TabularMDP, tabular_from_gym
    from surefoot.errors import UsageError
    from surefoot.evaluate.acting import Smoothed
    from surefoot.evaluate.audit import audit
    from surefoot.evaluate.certify import certify
    from surefoot.evaluate.certify_actions import certify_actions
    from surefoot.evaluate.diagnose import diagnose
    from surefoot.evaluate.export import export
    from surefoot.evaluate.generalization import generalize
    from surefoot.evaluate.hub import push
    from surefoot.evaluate.pages.folder import report
    from surefoot.evaluate.steering import steer
    from surefoot.hardening import harden
    from surefoot.objectives import PolicyObjective
    from surefoot.recording import record
    from surefoot.solvers import evaluate_policy, solve
    from surefoot.study import tune

_WHERE = {
    **dict.fromkeys(["Run", "compare", "evaluate", "explain", "load", "resume", "stress", "train"], "surefoot.api"),
    **dict.fromkeys(["paper", "papers"], "surefoot.catalogue"),
    **dict.fromkeys(["TabularMDP", "tabular_from_gym"], "surefoot.envs.tabular"),
    "UsageError": "surefoot.errors",
    **dict.fromkeys(["dataset", "write_dataset"], "surefoot.data.files"),
    "record": "surefoot.recording",
    "audit": "surefoot.evaluate.audit",
    "claim": "surefoot.claims.running",
    "harden": "surefoot.hardening",
    "Smoothed": "surefoot.evaluate.acting",
    "certify": "surefoot.evaluate.certify",
    "certify_actions": "surefoot.evaluate.certify_actions",
    "diagnose": "surefoot.evaluate.diagnose",
    "export": "surefoot.evaluate.export",
    "generalize": "surefoot.evaluate.generalization",
    "push": "surefoot.evaluate.hub",
    "report": "surefoot.evaluate.pages.folder",
    **dict.fromkeys(["evaluate_policy", "solve"], "surefoot.solvers"),
    "PolicyObjective": "surefoot.objectives",
    "tune": "surefoot.study",
    "align": "surefoot.alignment",
    "steer": "surefoot.evaluate.steering",
}
_ROOMS = ("supervised", "objectives", "ambiguity", "models", "envs", "loops", "methods", "perturbations", "claims")
_SHORT = {"language": "surefoot.methods.language"}

__all__ = [
    "audit",
    "PolicyObjective",
    "Run",
    "Smoothed",
    "TabularMDP",
    "UsageError",
    "certify",
    "certify_actions",
    "claim",
    "compare",
    "dataset",
    "diagnose",
    "evaluate",
    "evaluate_policy",
    "explain",
    "export",
    "generalize",
    "harden",
    "load",
    "paper",
    "papers",
    "push",
    "record",
    "report",
    "resume",
    "solve",
    "stress",
    "tabular_from_gym",
    "train",
    "tune",
    "write_dataset",
    "align",
    "steer",
]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    if name in _ROOMS or name in _SHORT:
        return import_module(_SHORT.get(name, f"surefoot.{name}"))
    raise AttributeError(f"module 'surefoot' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_ROOMS, *_SHORT, "__version__"])
