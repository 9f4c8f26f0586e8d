"""Starting a fresh run from what another one has learned: its weights, and the statistics that normalise with them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from surefoot.errors import UsageError
from surefoot.loops.common import checkpoint
from surefoot.loops.common.folder import Run, agent_folder
from surefoot.models.saved import holds_agent, load_agent

# Entries of a learner's state that a fresh run takes over: not its optimiser, its counters or its episodes.
CARRIED = ("weights", "targets/", "observations/", "rewards/count", "rewards/mean", "rewards/variance")


def begin(learner: Any, source: Any) -> dict[str, str]:
    """Give a fresh learner the weights and normalisers of `source`; returns a description for `config.json`.

    `source`: a run or its folder, of which the newest checkpoint is taken (all networks); or an agent or its folder,
    which holds the acting network, and for an on-policy method the critic. One seed serves all seeds of the learner.

    Raises:
        UsageError: another kind of method, another network, other spaces, or another number of seeds.
    """
    if not hasattr(learner, "carried"):
        raise UsageError(
            "start is not allowed for this method: only methods that act in environments start from another run."
        )
    path = source.path if isinstance(source, Run) else Path(source) if isinstance(source, (str, Path)) else None
    run = None if path is None or holds_agent(path) else Run(path)
    agent = run.agent() if run else source if path is None else load_agent(path)
    name = type(agent).__name__ if path is None else str(path)
    _check_alike(learner.agent(), agent, name)
    fresh = learner.state()
    given = learner.carried(agent) if run is None else _newest(run, fresh)
    state = {**fresh, **{key: _for_seeds(x, fresh[key], key, name) for key, x in given.items()}}
    learner.load(state, 0, 0)
    digest = hashlib.sha256(b"".join(given[key].contiguous().numpy().tobytes() for key in sorted(given)))
    return {"from": name, "sha256": digest.hexdigest()}


def _newest(run: Run, fresh: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the newest checkpoint of a run holds of a fresh learner's state."""
    found = checkpoint.newest(run.path)
    if found is None:
        raise UsageError(f"{run.path} has no checkpoint to start from; give the folder of its agent.")
    wanted = [name for name in fresh if name.startswith(CARRIED)]
    if missing := [name for name in wanted if name.startswith("weights") and name not in found.state]:
        raise UsageError(
            f"{run.path} was trained by another kind of method: it has no {', '.join(missing)}. Start from its agent, "
            f"{agent_folder(run.path, run.config['seeds'], run.config['seeds'][0])}, whose acting network is taken."
        )
    return {name: found.state[name] for name in wanted if name in found.state}


def _check_alike(mine: Any, given: Any, name: str) -> None:
    """Raise `UsageError` if an agent has another network, normaliser or space than a learner."""
    for part, form in FORMS.items():
        ours, theirs = form(mine), form(given)
        if ours != theirs:
            raise UsageError(
                f"start={name!r} does not fit: its {part} is {theirs}, this run's is {ours}. Give the method the same "
                "options and environment, or start without it."
            )


def _network(agent: Any) -> Any:
    """The architecture of an agent's network, without the values that it started from."""
    network = getattr(agent, "network", None)
    if network is None:
        return type(agent).__name__
    return {"kind": type(network).__name__, **vars(network)} | {"log_std_init": None}


def _shapes(space: Any) -> Any:
    """The shapes of the entries of a space; bounds of observations do not matter to a network."""
    entries = getattr(space, "spaces", None)
    if isinstance(entries, dict):
        return {key: _shapes(one) for key, one in entries.items()}
    return type(space), getattr(space, "shape", None), getattr(space, "n", None)


FORMS: dict[str, Callable[[Any], Any]] = {  # what must be the same, as it is compared and shown
    "network": _network,
    "observation space": lambda agent: _shapes(agent.observation_space),
    "action space": lambda agent: agent.action_space,
    "normalised observation": lambda agent: sorted(agent.scales),
}


def _for_seeds(given: Tensor, fresh: Tensor, key: str, name: str) -> Tensor:
    """A tensor for as many seeds as the fresh one has: one seed's for all of them."""
    if given.shape[1:] != fresh.shape[1:] or len(given) not in (1, len(fresh)):
        raise UsageError(
            f"start={name!r} does not fit: its {key} has the shape {[*given.shape]}, this run's {[*fresh.shape]}. A "
            "run of several seeds starts as many; to start from one of them, give the folder of its agent."
        )
    return given.expand(fresh.shape).to(fresh.dtype).clone()
