"""Clients that hold few digits each, and models that they train together."""

from __future__ import annotations

import warnings

from surefoot.data.tables import Table
from surefoot.loops.supervised.learner import SupervisedLearner
from surefoot.methods.supervised.wafl import WAFL
from surefoot.models.row_network import RowModel

KINDS = 3  # digits of a client


def holders(digit: int, clients: int) -> list[int]:
    """Who may hold a digit: client u has u, u + 1 and u + 2 (mod 10)."""
    return [u for u in range(clients) if (digit - u) % 10 < KINDS]


def trained(method: WAFL, table: Table, seed: int, rounds: int) -> RowModel:
    learner = SupervisedLearner(method, table, [seed], rounds)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "penalty=")  # a worst case that may not be the only one
        for _ in range(rounds):
            learner.iterate()
    return learner.agent()
