"""The card of an agent: a README next to its weights that says what it is, how it was trained and how to use it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from surefoot.errors import printable
from surefoot.loops.common.final import definition, final_returns
from surefoot.loops.common.folder import Run


def card(run: Run, facts: Mapping[str, Any], unit: str) -> str:
    """The card of one seed's agent, in Markdown; `unit` is the unit of the steps."""
    config = run.config_with("seeds", "steps", "versions")
    rows = run.metrics()
    value = final_returns(rows).get(facts["seed"], math.nan)
    final = f"{value:.6g}" if math.isfinite(value) else "none: no episode ended"
    planned = "" if facts["steps"] >= config["steps"] else f" of {config['steps']:,} planned ({facts['ended']})"
    others = "" if len(config["seeds"]) == 1 else f", one of {len(config['seeds'])} of the run"
    packages = ", ".join(f"{name} {version}" for name, version in config["versions"].items())
    env, place = printable(config["env"]["env"]).replace("|", "\\|"), run.path
    again = "" if len(config["seeds"]) == 1 else f", seed={facts['seed']}"
    return f"""# {config["method"]} on {env}

An agent trained by Surefoot.

| | |
|---|---|
| method | {config["method"]} |
| environment | {env} |
| training | {facts["steps"]:,} {unit}{planned} |
| random seed | {facts["seed"]}{others} |
| final return | {final} ({definition(rows)}) |
| versions | {packages} |

The final return is that of the policy as it acted during training. To measure the agent: `surefoot evaluate {place}`.

```python
import surefoot as sf

agent = sf.load({str(place)!r}{again})
action, state = agent.predict(observation, deterministic=True)
```

The method's hyperparameters are in `config.json` of the run.
"""
