"""How good, how sure, how sturdy: evaluation, stress tests, statistics, comparisons, reports.

Of one name with the function `surefoot.evaluate(policy, …)`. Python puts a package that is imported in the place of
what its parent calls by that name, so the package can be called as the function.
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
