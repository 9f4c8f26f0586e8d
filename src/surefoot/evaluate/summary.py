"""What is kept of a run when it ends, besides its agent; imports what that takes only where there is something."""

from __future__ import annotations

import warnings
from typing import Any

from surefoot.errors import UsageError
from surefoot.loops.common import distributed
from surefoot.loops.common.kinds import Method
from surefoot.loops.common.run import Run


def summed_up(run: Run, method: Method, env: Any) -> Run:
    """The run; if it is on a finite MDP, with exact figures of its policy in its folder (see `trained`)."""
    if method.loop == "tabular" and distributed.rank() == 0 and run.started:
        from surefoot.envs.tabular.resolve import assumes_gamma, resolved
        from surefoot.evaluate.trained import write

        assumed = isinstance(env, str) and assumes_gamma(env)
        try:
            write(run.path, resolved(env), run.agent(), method, assumed)  # type: ignore[arg-type]
        except UsageError as error:  # such as a sum that is not finite: the run is what it was
            warnings.warn(f"no exact figures of the policy: {error}", RuntimeWarning, stacklevel=3)
    return run


def exact_figures(player: Any, env: Any, deterministic: bool) -> dict[str, Any]:
    """`exact`: what a policy on a finite MDP is worth by the criterion of its MDP, beside the returns it was seen to
    have; nothing elsewhere. env: the factory of its environments."""
    if getattr(player, "loop", "") != "tabular":
        return {}
    from surefoot.evaluate.trained import exact

    return {"exact": exact(player, env().mdp, deterministic)}
