"""Exact results stored with a finished run on a finite MDP; imports what they need only when there are some."""

from __future__ import annotations

import warnings
from typing import Any

from surefoot.errors import UsageError
from surefoot.loops.common import distributed
from surefoot.loops.common.kinds import Method
from surefoot.loops.common.run import Run


def summed_up(run: Run, method: Method, env: Any) -> Run:
    """The run; if it is on a finite MDP, exact results of its policy are written to its folder (see `trained`)."""
    if method.loop == "tabular" and distributed.rank() == 0 and run.started:
        from surefoot.envs.tabular.resolve import assumes_gamma, resolved
        from surefoot.evaluate.trained import write

        assumed = isinstance(env, str) and assumes_gamma(env)
        try:
            write(run.path, resolved(env), run.agent(), method, assumed)  # type: ignore[arg-type]
        except UsageError as error:  # such as a sum that is not finite; the run itself is complete
            warnings.warn(f"no exact results for the policy: {error}", RuntimeWarning, stacklevel=3)
    return run


def exact_figures(player: Any, env: Any, deterministic: bool) -> dict[str, Any]:
    """`exact`: the exact value of a policy on a finite MDP by the MDP's criterion, beside its observed returns; empty
    elsewhere. env: the factory of its environments."""
    if getattr(player, "loop", "") != "tabular":
        return {}
    from surefoot.evaluate.trained import exact
    from surefoot.models.tabular_agent import TabularAgent

    if not isinstance(player, TabularAgent):  # such as an exported file, whose table is out of sight
        return {}

    return {"exact": exact(player, env().mdp, deterministic)}
