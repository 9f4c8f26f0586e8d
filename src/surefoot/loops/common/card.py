"""The card of an agent: a README next to its weights that says what it is, how it was trained and how to use it. Its
header is the one of the Hugging Face Hub."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from surefoot.errors import printable
from surefoot.loops.common.final import definition, final_returns, over_rows
from surefoot.loops.common.folder import Run
from surefoot.loops.common.settings import env_name

TAGS = ("reinforcement-learning", "deep-reinforcement-learning", "surefoot")


def card(
    run: Run,
    facts: Mapping[str, Any],
    unit: str,
    *,
    place: str | None = None,
    license: str | None = None,
    evaluation: Mapping[str, Any] | None = None,
    stress: str = "",
) -> str:
    """The card of one seed's agent, in Markdown.

    unit: of the steps. place: where the agent is loaded from, if not the run's folder. license: stated if given.
    evaluation: figures of `surefoot evaluate`, and stress: a table of stress tests, where there are any.
    """
    config = run.config_with("seeds", "steps", "versions")
    rows = run.metrics()
    value = final_returns(rows).get(facts["seed"], math.nan)
    final = f"{value:.6g}" if math.isfinite(value) else "none: no episode ended, no evaluation"
    planned = "" if facts["steps"] >= config["steps"] else f" of {config['steps']:,} planned ({facts['ended']})"
    others = "" if len(config["seeds"]) == 1 else f", one of {len(config['seeds'])} of the run"
    packages = ", ".join(f"{name} {version}" for name, version in config["versions"].items())
    env = printable(env_name(config["env"]["env"])).replace("|", "\\|")
    again = "" if len(config["seeds"]) == 1 or place else f", seed={facts['seed']}"
    place = str(run.path) if place is None else place
    return f"""{header(config["method"], env_name(config["env"]["env"]), license, evaluation)}
# {config["method"]} on {env}

An agent trained by Surefoot.

| | |
|---|---|
| method | {config["method"]} |
| environment | {env} |
| training | {facts["steps"]:,} {unit}{planned} |
| random seed | {facts["seed"]}{others} |
| {_return(evaluation, place)} |
| final return | {final} ({definition(rows)}) |
| versions | {packages} |

{_of_rows(place, again) if over_rows(rows) else _acting(place, again, stress)}
## Licence

{f"{license}." if license else "None is stated; that is for whoever trained the agent to decide."}

The method's hyperparameters are in `config.json` of the run.
"""


def _acting(place: str, again: str, stress: str) -> str:
    """How a policy is used and measured."""
    return f"""The final return is that of the policy as it acted during training. To measure the agent: `surefoot \
evaluate {place}`.

```python
import surefoot as sf

agent = sf.load({place!r}{again})
action, state = agent.predict(observation, deterministic=True)
```

It is also a file for other runtimes: `surefoot export {place} policy.onnx`.

## Under perturbations

{stress or f"Not measured: `surefoot stress {place}`, or `surefoot audit {place}`."}
"""


def _of_rows(place: str, again: str) -> str:
    """How a model of tables is used and measured."""
    return f"""To measure the model on other rows: `surefoot evaluate {place} --data FILE`.

```python
import surefoot as sf

model = sf.load({place!r}{again})
predicted = model.predict(X)
```
"""


def header(method: str, env: str, license: str | None, evaluation: Mapping[str, Any] | None) -> str:
    """The YAML header; texts are quoted as in JSON, which is YAML too."""
    tags = "\n".join(f"- {json.dumps(tag)}" for tag in (*TAGS, method, env))
    stated = f"license: {json.dumps(license)}\n" if license else ""
    return f"---\nlibrary_name: surefoot\n{stated}tags:\n{tags}\n{_index(method, env, evaluation)}---\n"


def _index(method: str, env: str, evaluation: Mapping[str, Any] | None) -> str:
    """The results in the header, in the hub's form: mean +/- standard deviation over episodes."""
    if evaluation is None:
        return ""
    returns = [float(x) for x in evaluation["returns"]]
    mean = math.fsum(returns) / len(returns)
    deviation = math.sqrt(math.fsum((x - mean) ** 2 for x in returns) / len(returns))
    reward = {"type": "mean_reward", "name": "mean_reward", "value": f"{mean:.2f} +/- {deviation:.2f}"}
    result = {
        "task": {"type": "reinforcement-learning", "name": "reinforcement-learning"},
        "dataset": {"name": env, "type": env},
        "metrics": [{**reward, "verified": False}],
    }
    return f"model-index: {json.dumps([{'name': method, 'results': [result]}])}\n"


def _return(evaluation: Mapping[str, Any] | None, place: str) -> str:
    """The row of the table about the evaluated return."""
    if evaluation is None:
        return f"return | not measured yet: `surefoot evaluate {place}`"
    interval = evaluation["mean_interval"]
    ends = "" if interval is None else f", 95 % interval [{interval[0]:.6g}, {interval[1]:.6g}]"
    acted = "deterministic actions" if evaluation["deterministic"] else "sampled actions"
    return f"return | {evaluation['mean']:.6g}{ends} ({evaluation['episodes']} episodes, {acted})"
