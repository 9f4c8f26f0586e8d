"""One setting for the whole test run: one thread a worker, no deadlines, the same examples every time in CI, and
objectives whose annotations are checked at every call."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before anything imports torch

from beartype import BeartypeConf, beartype
from hypothesis import settings
from jaxtyping import install_import_hook

settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")

_typed = beartype(conf=BeartypeConf(is_pep484_tower=True))  # whole numbers pass as floats


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, its types and shapes held to the annotations; what a dataclass is given it checks itself."""
    return function if function.__name__ == "__init__" else _typed(function)


sys.modules["surefoot_tests"] = sys.modules[__name__]  # the hook finds the checker by name
install_import_hook("surefoot.objectives", "surefoot_tests.checked")
