"""One run of a method on the rows of a table, for one seed or several at once; an iteration is an epoch.

The order of rows and all noise come from named streams by the number of the epoch, so a resumed run needs the table,
which must be the same one, and its counters. `surefoot train SLUG --data DATA --steps EPOCHS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surefoot.data.tables import Table
from surefoot.errors import UsageError
from surefoot.loops.common.kinds import Loop
from surefoot.loops.common.measures import by_group, measures
from surefoot.loops.common.schedule import scheduled
from surefoot.loops.common.tables import HELP, TableOptions, described, measured_on, parts, resolved
from surefoot.loops.networks.machine import Means, NamedNetworks
from surefoot.loops.networks.nets import Batch
from surefoot.loops.supervised.method import MODEL, Rows, Supervised, batches_of
from surefoot.models.device import chosen_device, computing_on, device_option
from surefoot.models.linear_model import encoded
from surefoot.models.row_network import row_losses
from surefoot.perturbations.ascent import Damage, Moves
from surefoot.seeding import numpy_stream, torch_stream


class SupervisedLearner(NamedNetworks):
    """The networks, the rows and what is kept of every sample; `iterate()` is an epoch of all seeds."""

    method: Supervised

    def __init__(
        self,
        method: Supervised,
        table: Table,
        seeds: Sequence[int],
        total_steps: int,
        *,
        held_out: Table | None = None,
        device: str = "cpu",
    ) -> None:
        self.table, self.held_out = table, held_out
        classes, count = method.classes_of(table), len(table)
        batches = batches_of(count, method.batch_size)
        self.rows = Rows(table.shape, classes, count, batches, total_steps, table.features)
        super().__init__(method, method.networks(self.rows), seeds, total_steps, device=device)
        self.scale = shift, factor = method.scaling(table)
        columns = {"x": ((table.X - shift) * factor).astype(np.float32).reshape(count, *table.shape)}
        middle, spread = self.target = method.target_scaling(table)
        y = (encoded(table, classes) - middle) / spread
        columns |= {"y": y.astype(np.float32), **method.columns(table)}
        self.columns = {name: torch.from_numpy(np.array(x)).to(self.device) for name, x in columns.items()}
        kept = method.memory(self.rows)
        self.memory = {name: x.to(self.device).repeat(self.num_seeds, *[1] * x.dim()) for name, x in kept.items()}
        self.places = torch.arange(self.num_seeds, device=self.device).unsqueeze(1)
        self.before = method.beforehand(self)
        if held_out is not None:
            measures(self.agent(), held_out)  # refuses a class that the rows to learn from do not have

    @property
    def steps(self) -> int:
        """Epochs so far."""
        return self.iteration

    # --- an epoch ----------------------------------------------------------------------------------------------------

    def iterate(self) -> list[dict[str, float]]:
        """One epoch of every seed; returns one row of metrics per seed."""
        self._means = Means()
        self._streams = [torch_stream(s, "losses", self.iteration) for s in self.seeds]
        self.method.epoch(self)
        rows = self.ended([{} for _ in self.seeds], self._means)
        with np.errstate(all="ignore"):  # `lost` finds what is not finite
            return [row | self._figures(place, row) for place, row in enumerate(rows)]

    def shuffled(self) -> Iterator[np.ndarray]:
        """The batches of an epoch, `[seeds, size]` places of rows: a permutation for every seed."""
        orders = [numpy_stream(s, "rows", self.iteration).permutation(len(self.table)) for s in self.seeds]
        size, together = self.method.batch_size, np.stack(orders)
        for start in range(0, len(self.table), size):
            yield together[:, start : start + size]

    def update(self, index: np.ndarray, weight: np.ndarray | None = None) -> None:
        """A gradient step of all networks that are due, on rows `[seeds, size]` of these weights."""
        batch = self.batch(index, weight)
        if self.before is not None:
            batch |= self.before(batch, self.due())
        metrics = self.step(batch)
        for name in [name for name in metrics if name.startswith("memory/")]:
            self.memory[name.removeprefix("memory/")][self.places, batch["index"]] = metrics.pop(name)
        self._means.add(metrics)

    def forget(self) -> None:
        """Begin all optimisers anew."""
        with computing_on(self.device):
            self.averages = {name: self.nets[name].averages.start(self.weights[name]) for name in self.averages}

    def batch(self, index: np.ndarray, weight: np.ndarray | None = None) -> Batch:
        """What losses see of rows `[seeds, size]`; the random numbers are the next ones of each seed's stream."""
        where = torch.from_numpy(index).to(self.device)
        batch: Batch = {name: x[where] for name, x in self.columns.items()}
        with computing_on(self.device):
            weights = torch.ones(where.shape) if weight is None else torch.from_numpy(weight.astype(np.float32))
            batch |= {"index": where, "weight": weights.to(self.device)}
            batch["memory"] = {name: x[self.places, where] for name, x in self.memory.items()}
            drawn = [self.method.noise(self.rows, index.shape[1], g) for g in self._streams]
            batch["noise"] = {k: torch.stack([x[k] for x in drawn]).to(self.device) for k in drawn[0]}
            if (factor := self.rate()) is not None:
                batch["rate"] = factor * torch.ones(self.num_seeds)
        return batch

    def rate(self) -> float | None:
        """The factor of all learning rates in this epoch; None if they are constant."""
        method = self.method
        if method.anneal == "none" and not method.warmup:
            return None
        return scheduled(1.0, method.anneal, method.warmup, self.iteration, 1, self.total_steps)

    def damage(self, batch: Batch, name: str = MODEL) -> tuple[Damage, Moves]:
        """The loss `[seeds·size]` that a network makes of the rows of a batch `[seeds, size, ...]` when they move, and
        moves of 0: all rows of all seeds as one batch, for `perturbations.ascent`."""
        x = batch["x"]

        def of(moves: Moves) -> Tensor:
            scores = self.differentiable(name, x + moves["x"].view_as(x))
            return row_losses(scores, batch["y"], self.rows.kinds).flatten()

        return of, {"x": torch.zeros_like(x.flatten(0, 1))}

    def attacked(self, batch: Batch, ascent: Callable[[Damage, Moves], Moves], name: str = MODEL) -> Tensor:
        """The rows of a batch after an `ascent` has moved them, from where they are, to greater losses of a network."""
        with computing_on(self.device):
            return batch["x"] + ascent(*self.damage(batch, name))["x"].view_as(batch["x"])

    # --- what is measured --------------------------------------------------------------------------------------------

    def _figures(self, place: int, row: Mapping[str, float]) -> dict[str, float]:
        """The metrics of the model after an epoch, on the rows learned from and on those held out. The return is minus
        the objective, so that more is better as everywhere."""
        model = self.agent(place)
        found = {"return_mean": -row["objective"]} if "objective" in row else {}
        found["passes"] = self.iteration * self.method.passes
        tables = {"": self.table} | ({} if self.held_out is None else {"held_out_": self.held_out})
        for prefix, table in tables.items():
            more = {**measures(model, table), **self.method.measured(model, table)}
            found |= {f"{prefix}{name}": x for name, x in more.items()}
        if self.table.groups is not None:
            found |= {f"loss/{group}": x for group, x in by_group(model.losses(self.table), self.table).items()}
        return found

    def agent(self, index: int = 0, **facts: Any) -> Any:
        """The model of one seed."""
        return self.method.model(self, index, facts)

    def results(self, index: int = 0) -> dict[str, Any]:
        """What an estimator shows after its fit, by name without the final underscore."""
        kept = {name: x[index].cpu().numpy() for name, x in self.memory.items()}
        return {"n_iter": self.iteration, **kept, **self.method.found(self, index)}

    # --- state -------------------------------------------------------------------------------------------------------

    def more_state(self) -> dict[str, Tensor]:
        return {f"memory/{name}": x for name, x in self.memory.items()}

    def load_more(self, state: Mapping[str, Tensor]) -> None:
        self.memory = {name: state[f"memory/{name}"] for name in self.memory}

    def flush(self) -> int:
        """Nothing is logged besides the checkpoints."""
        return 0

    def close(self) -> None:
        """Nothing is held open."""


# --- connecting a run and its table ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class SupervisedOptions(TableOptions):
    """How a table is read, and where a run computes."""

    device: str = device_option("cpu")

    def __post_init__(self) -> None:
        super().__post_init__()
        chosen_device(self.device)


def _describe(data: Any, *, fingerprint: str | None = None, device: str = "cpu", **options: Any) -> dict[str, Any]:
    return described(data, fingerprint, **options) | {"device": device}


def _learner(
    method: Supervised,
    env: Any,
    seeds: Sequence[int],
    steps: int,
    *,
    compile: str = "off",
    log: Path | None = None,
    fingerprint: str | None = None,
    device: str = "cpu",
    **options: Any,
) -> SupervisedLearner:
    if compile == "on":
        raise UsageError("compile='on' is not allowed: the last batch of an epoch is smaller than the others.")
    given = TableOptions(**options)
    table, held_out = parts(resolved(env, fingerprint, given), given)
    return SupervisedLearner(method, table, seeds, steps, held_out=held_out, device=chosen_device(device))


def _single(env: Any, *, device: str = "cpu", **options: Any) -> Table:
    return measured_on(env, **options)


LOOP = Loop(
    _describe,
    _learner,
    _single,
    measured="epochs",
    env_argument="data",
    env_help=HELP,
    options=SupervisedOptions,
)
