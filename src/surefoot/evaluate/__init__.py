"""Evaluation, stress tests, statistics, comparisons and reports.

The package has the same name as the function `surefoot.evaluate(policy, …)`. When Python imports a package, it replaces
its parent's attribute of that name, so the package can be called like the function.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _Evaluate(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """See `surefoot.api.evaluate`."""
        return import_module("surefoot.api").evaluate(*args, **kwargs)


sys.modules[__name__].__class__ = _Evaluate
