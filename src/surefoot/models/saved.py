"""Agents from their folders, whatever kind they are."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

from surefoot.errors import UsageError

KINDS = {
    "surefoot-agent-1": ("surefoot.models.agent", "Agent"),
    "surefoot-tabular-agent-1": ("surefoot.models.tabular_agent", "TabularAgent"),
    "surefoot-language-agent-1": ("surefoot.models.language.agent", "LanguageAgent"),
}


def load_agent(folder: str | Path) -> Any:
    """The agent that lies in a folder, of the kind that its `agent.json` names. No code is run.

    Raises:
        UsageError: the folder holds no agent, or one that is damaged or of another format.
    """
    place = Path(folder) / "agent.json"
    try:
        kind = json.loads(place.read_text()).get("format")
    except (OSError, ValueError, AttributeError) as error:
        raise UsageError(f"{folder} holds no readable agent ({error}); give the `agent` folder of a run.") from error
    if kind not in KINDS:
        raise UsageError(f"{place} is of no format known here ({', '.join(KINDS)}); it was written by something else.")
    module, name = KINDS[kind]
    return getattr(import_module(module), name).load(folder)
