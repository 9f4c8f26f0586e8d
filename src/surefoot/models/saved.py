"""Agents in their folders: `agent.json` says what they are, `agent.safetensors` holds their numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from surefoot.errors import UsageError

KINDS = {
    "surefoot-agent-1": ("surefoot.models.agent", "Agent"),
    "surefoot-tabular-agent-1": ("surefoot.models.tabular_agent", "TabularAgent"),
    "surefoot-language-agent-1": ("surefoot.models.language.agent", "LanguageAgent"),
}


def holds_agent(folder: str | Path) -> bool:
    """Whether a folder is that of an agent, and not that of a run."""
    return (Path(folder) / "agent.json").exists()


def load_agent(folder: str | Path) -> Any:
    """The agent that lies in a folder, of the kind that its `agent.json` names. No code is run.

    Raises:
        UsageError: the folder holds no agent, or one that is damaged or of another format.
    """
    kind = _description(Path(folder)).get("format")
    if kind not in KINDS:
        raise UsageError(
            f"{folder}/agent.json is of no format known here ({', '.join(KINDS)}); it was written by something else."
        )
    module, name = KINDS[kind]
    return getattr(import_module(module), name).load(folder)


def write_agent(folder: str | Path, description: Mapping[str, Any], tensors: dict[str, Tensor]) -> Path:
    """Write the two files into a folder, which is made."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "agent.safetensors")
    (folder / "agent.json").write_text(json.dumps(description, indent=2))
    return folder


def read_agent(folder: str | Path, format: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What the two files hold, without the format. No code is run.

    Raises:
        UsageError: a file is missing or damaged, or they are of another format.
    """
    folder = Path(folder)
    description = _description(folder)
    if description.pop("format", None) != format:
        raise UsageError(f"{folder}/agent.json is not a {format} file; it was written by something else.")
    try:
        return description, load_file(folder / "agent.safetensors")
    except Exception as error:
        raise _unreadable(folder, error) from error


def _description(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "agent.json").read_text())
    except (OSError, ValueError) as error:
        raise _unreadable(folder, error) from error
    return found if isinstance(found, dict) else {}


def _unreadable(folder: Path, error: Exception) -> UsageError:
    return UsageError(f"{folder} holds no readable agent ({error}); give the `agent` folder of a run.")
