"""The command `surefoot dataset`: show, make and convert data sets of transitions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Literal

from tyro.conf import arg

from surefoot.arguments import parsed
from surefoot.errors import UsageError, nearest, printable


def show(
    data: Annotated[str, arg(metavar="DATA")],
    /,
    horizon: int | None = None,
    low: float | None = None,
    high: float | None = None,
) -> None:
    """Describe DATA: episodes, returns, ends and cuts, ranges, and what is odd.

    Args:
        data: A .npz or .hdf5 file, a folder of Minari, minari:ID, or LAYOUT:FILE.
        horizon: Step limit of a D4RL file that does not say where episodes were cut.
        low: Lower bound of the actions, if the file does not hold it.
        high: Upper bound of the actions, if the file does not hold it.
    """
    from surefoot.data.described import described
    from surefoot.data.files import dataset

    print(printable(described(dataset(data, horizon=horizon, low=low, high=high))))


def make(
    env: Annotated[str, arg(metavar="ENV")],
    /,
    to: str,
    recipe: Literal["random", "demonstrated", "medium", "medium-replay", "expert"] = "medium-replay",
    steps: int = 100_000,
    method: str = "sac",
    agent: str | None = None,
    train_steps: int | None = None,
    seed: int = 0,
) -> None:
    """Make a data set of ENV by a policy, by random actions, or by all that a learner did.

    Args:
        env: Environment, as for train.
        to: Where to write: a .npz or .hdf5 file, minari:ID, or LAYOUT:FILE.
        recipe: random actions; demonstrated, those that the environment itself offers; medium or expert, sampled
            actions of a policy trained for a shorter or a longer time; medium-replay, everything that a learner did in
            its first steps.
        steps: Transitions, such as 300k.
        method: Off-policy method to train.
        agent: Run or policy to record instead of a trained one.
        train_steps: Steps of training for medium and expert; 50k and 500k by default.
        seed: Random seed.
    """
    from surefoot.data.described import described, suggested
    from surefoot.data.files import write_dataset
    from surefoot.recording import record

    data = record(env, recipe, steps, method=method, agent=agent, train_steps=train_steps, seed=seed)
    place = write_dataset(data, to)
    print(printable(f"{described(data)}\n\nwritten: {place}"))
    if (begin := suggested(data)) is None:
        print(f"next: surefoot train dqn --env {env}   (what learns from data alone needs continuous actions)")
    else:
        print(f"next: surefoot train {begin} --data {to} --env {env}")


def convert(
    data: Annotated[str, arg(metavar="DATA")],
    to: Annotated[str, arg(metavar="TO")],
    /,
    horizon: int | None = None,
    low: float | None = None,
    high: float | None = None,
    corrupt: str | None = None,
) -> None:
    """Write DATA in another layout, or corrupted.

    Args:
        data: A .npz or .hdf5 file, a folder of Minari, minari:ID, or LAYOUT:FILE.
        to: Where to write: a .npz or .hdf5 file, minari:ID, or LAYOUT:FILE such as d3rlpy:walk.h5.
        horizon: Step limit of a D4RL file that does not say where episodes were cut.
        low: Lower bound of the actions, if the file does not hold it.
        high: Upper bound of the actions, if the file does not hold it.
        corrupt: Corruption, such as dynamics:0.3,scale=1: observation, action, reward or dynamics.
    """
    from surefoot.data.files import dataset, write_dataset
    from surefoot.perturbations.data import corrupted

    place = write_dataset(corrupted(dataset(data, horizon=horizon, low=low, high=high), corrupt), to)
    print(f"written: {place}")


ACTIONS: dict[str, Callable[..., None]] = {"show": show, "make": make, "convert": convert}


def dataset(arguments: Sequence[str]) -> None:
    """Show, make or convert a data set: dataset show DATA, make ENV --to FILE, convert DATA TO."""
    name, *rest = arguments or ["--help"]
    if name in ("-h", "--help"):
        lines = [f"  {key:<9}{(f.__doc__ or '').splitlines()[0]}" for key, f in ACTIONS.items()]
        return print("\n".join(["usage: surefoot dataset ACTION …   (surefoot dataset ACTION --help)", "", *lines]))
    if name not in ACTIONS:
        raise UsageError(f"{name!r} is not an action of surefoot dataset. {nearest(name, ACTIONS)}")
    parsed(ACTIONS[name], rest, f"surefoot dataset {name}")
