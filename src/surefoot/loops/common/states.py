"""Whether a saved state fits a learner."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from surefoot.errors import UsageError


def check_fits(mine: Mapping[str, Tensor], given: Mapping[str, Tensor], form: Callable[[Tensor], Any]) -> None:
    """Raise `UsageError` unless two states have the same names, and for each the same form, such as type and shape."""
    ours, theirs = ({name: form(x) for name, x in state.items()} for state in (mine, given))
    if wrong := sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)):
        raise UsageError(
            f"the checkpoint does not fit this method or number of seeds: {', '.join(wrong)} differ. Resume with "
            "the configuration in the run's config.json."
        )
