"""Saved agents: `agent.json` describes an agent, `agent.safetensors` holds its tensors."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from surefoot.errors import UsageError, printable
from surefoot.files import read_bytes, read_json, write_whole

KINDS = {
    "surefoot-agent-1": ("surefoot.models.agent", "Agent"),
    "surefoot-ensemble-1": ("surefoot.models.ensemble", "Ensemble"),
    "surefoot-tabular-agent-1": ("surefoot.models.tabular_agent", "TabularAgent"),
    "surefoot-linear-model-1": ("surefoot.models.linear_model", "LinearModel"),
    "surefoot-set-value-1": ("surefoot.models.set_model", "SetModel"),
    "surefoot-sequence-model-1": ("surefoot.models.seq2seq", "SequenceModel"),
    "surefoot-row-network-1": ("surefoot.models.row_network", "RowModel"),
    "surefoot-two-views-1": ("surefoot.models.two_views", "PairModel"),
    "surefoot-language-agent-1": ("surefoot.models.language.agent", "LanguageAgent"),
    "surefoot-reward-model-1": ("surefoot.models.language.reward_model", "RewardModel"),
}
FACTS: dict[str, type] = {  # where present
    "method": str,
    "env": dict,
    "steps": int,
    "seed": int,
    "ended": str,
    "smoothing": float,  # standard deviation of the noise that the agent adds to its observations
    "acting": list,  # its acting rules, in their order: the fields of each, and its name under `rule`
    "smoothed": dict,  # how it acts on several noisy copies of them: the fields of `models.smoothing.Smoothing`
}


def holds_agent(folder: str | Path) -> bool:
    """Whether a folder is that of an agent, not of a run."""
    return (Path(folder) / "agent.json").exists()


def load_agent(folder: str | Path) -> Any:
    """The agent in a folder, of the kind named in its `agent.json`. No code is run.

    Raises:
        UsageError: the folder has no agent, or one that is damaged or has another format.
    """
    kind = read_facts(folder).get("format")
    if not isinstance(kind, str) or kind not in KINDS:
        raise UsageError(
            f"{folder}/agent.json has none of the known formats ({', '.join(KINDS)}); another program wrote it."
        )
    module, name = KINDS[kind]
    return getattr(import_module(module), name).load(folder)


def write_agent(folder: str | Path, description: Mapping[str, Any], tensors: dict[str, Tensor]) -> Path:
    """Write the two files into a folder, which is created."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "agent.safetensors", save(tensors))
    write_whole(folder / "agent.json", json.dumps(description, indent=2))
    return folder


def read_agent(folder: str | Path, format: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The content of the two files, without the format. No code is run.

    Raises:
        UsageError: a file is missing or damaged, or has another format.
    """
    folder = Path(folder)
    description = read_facts(folder)
    if description.pop("format", None) != format:
        raise UsageError(f"{folder}/agent.json is not a {format} file; another program wrote it.")
    try:
        return description, load(read_bytes(folder / "agent.safetensors"))
    except Exception as error:  # safetensors may raise anything on bytes that it did not write
        raise _unreadable(folder, error) from error


def described(agent: Any, about: str) -> str:
    """One line about an agent for the prompt: its kind, what it was trained on, and `about`."""
    facts = agent.facts
    trained = [facts["method"] + (f" on {facts['env']['env']}" if "env" in facts else "")] if "method" in facts else []
    trained += [f"{facts['steps']:,} steps"] if "steps" in facts else []
    trained += [f"seed {facts['seed']}"] if "seed" in facts else []
    return f"{type(agent).__name__}({printable(' · '.join([*trained, about]))})"


def read_facts(folder: str | Path) -> dict[str, Any]:
    """The content of `agent.json`; the types of the `FACTS` that any agent may have are checked.

    Raises:
        UsageError: it is missing or damaged.
    """
    folder = Path(folder)
    try:
        found = read_json(folder / "agent.json")
    except (OSError, ValueError) as error:
        raise _unreadable(folder, error) from error
    found = found if isinstance(found, dict) else {}
    if (name := wrong_fact(found)) is not None:
        raise _damaged(folder, name, found[name])
    return found


def wrong_fact(found: Mapping[str, Any]) -> str | None:
    """The name of one of the `FACTS` that has a wrong type or size; None if there is none."""
    for name, kind in FACTS.items():
        if name in found and type(found[name]) is not kind:
            return name
    for name in ("steps", "seed"):
        if not 0 <= found.get(name, 0) < 2**63:
            return name
    if not 0 <= found.get("smoothing", 0.0) < math.inf:
        return "smoothing"
    return None if isinstance(found.get("env", {"env": ""}).get("env"), str) else "env"


def _damaged(folder: Path, name: str, value: Any) -> UsageError:
    return UsageError(f"{folder}/agent.json is damaged: {name}={value!r} is not allowed; save the agent again.")


def _unreadable(folder: Path, error: Exception) -> UsageError:
    return UsageError(f"{folder} has no readable agent ({error}); give the `agent` folder of a run.")
