"""The card of an agent: a README beside its weights that says what it is, how it was made, and how to use it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from surefoot.errors import printable
from surefoot.loops.common.folder import Run


def card(run: Run, facts: Mapping[str, Any], measured: str) -> str:
    """The card of the agent of one seed, in Markdown; `measured` says what the steps and the return are."""
    config = run.config_with("seeds", "steps", "versions")
    returns = [r["return_mean"] for r in run.metrics() if r["seed"] == facts["seed"] and "return_mean" in r]
    unit, _, meaning = measured.partition(", ")
    final = f"{returns[-1]:.6g}" if returns else "none was logged"
    planned = "" if facts["steps"] >= config["steps"] else f" of {config['steps']:,} planned ({facts['ended']})"
    others = "" if len(config["seeds"]) == 1 else f", one of {len(config['seeds'])} of the run"
    packages = ", ".join(f"{name} {version}" for name, version in config["versions"].items())
    env, place = printable(config["env"]["env"]).replace("|", "\\|"), run.path
    again = "" if len(config["seeds"]) == 1 else f", seed={facts['seed']}"
    return f"""# {config["method"]} on {env}

An agent that Surefoot trained.

| | |
|---|---|
| method | {config["method"]} |
| environment | {env} |
| training | {facts["steps"]:,} {unit}{planned} |
| random seed | {facts["seed"]}{others} |
| final return | {final}: {meaning}, as logged last in training |
| versions | {packages} |

The final return is that of the policy as it acted while it learned. To measure the agent: `surefoot evaluate {place}`.

```python
import surefoot as sf

agent = sf.load({str(place)!r}{again})
action, state = agent.predict(observation, deterministic=True)
```

The method's hyperparameters are in `config.json` of the run.
"""
