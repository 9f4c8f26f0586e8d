"""The networks of a run, for one seed or several at once: their gradient step and their checkpoints.

Weights, targets and optimisers are tensors with a leading seed axis. What the networks are for and where batches come
from is up to the learners that extend this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from surefoot.errors import UsageError
from surefoot.loops.common.compile import as_set
from surefoot.loops.networks.nets import Batch, Function, Net, gradient_step
from surefoot.models.device import computing_on
from surefoot.models.functional import initial, over_seeds
from surefoot.seeding import torch_stream


class Means:
    """The mean of every metric over the gradient steps that have it. Sums are kept, not the metrics: small tensors that
    outlive a step would lie between its large ones, and keep their memory from being used again."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, found: dict[str, Tensor]) -> None:
        """Add the metrics of a step."""
        for name, value in found.items():
            if name not in self.sums:
                self.sums[name], self.counts[name] = torch.zeros_like(value, dtype=torch.float64), 0
            self.sums[name] += value
            self.counts[name] += 1

    def values(self) -> dict[str, Tensor]:
        """The means so far."""
        return {name: total / self.counts[name] for name, total in self.sums.items()}


class NamedNetworks:
    """Networks by name, their targets and optimisers.

    `method` says in `learns(name, iteration)` whether a network moves in an iteration, and in
    `after_iteration(learner)` what is done after one.
    """

    def __init__(
        self,
        method: Any,
        nets: Mapping[str, Net],
        seeds: Sequence[int],
        total_steps: int,
        *,
        compile: str = "off",
        device: str = "cpu",
    ) -> None:
        self.device = torch.device(device)
        self.method, self.seeds, self.num_seeds, self.total_steps = method, list(seeds), len(seeds), total_steps
        self.nets = dict(nets)
        own = {name: net for name, net in self.nets.items() if net.of is None}
        self.functions = {name: Function(net) for name, net in own.items()}
        self.weights = {name: self._initial(name).to(self.device) for name in own}
        self.targets = {n: self.weights[n].clone() for n, net in own.items() if net.target_rate is not None}
        with computing_on(self.device):
            nets_with_loss = {n: net for n, net in self.nets.items() if net.loss is not None}
            self.averages = {n: net.averages.start(self.weights[net.of or n]) for n, net in nets_with_loss.items()}
        self.iteration, self.updates, self.compile = 0, 0, compile
        self._steps: dict[tuple[str, ...], Any] = {}

    def _initial(self, name: str, after: str = "") -> Tensor:
        net = self.nets[name]
        streams = [[torch_stream(s, f"weights {name}{after}", copy) for copy in range(net.copies)] for s in self.seeds]
        return torch.stack([torch.cat([initial(net.make, g) for g in each]) for each in streams])

    def restart(self, names: Sequence[str], number: int) -> None:
        """Networks that begin anew: fresh weights and targets, from streams of this number, and fresh optimisers."""
        for name in names:
            self.weights[name] = self._initial(name, f" {number}").to(self.device)
            if name in self.targets:
                self.targets[name] = self.weights[name].clone()
        with computing_on(self.device):
            for stage, net in self.nets.items():
                if stage in self.averages and (net.of or stage) in names:
                    self.averages[stage] = net.averages.start(self.weights[net.of or stage])

    def parts(self, name: str, seed: int, copy: int = 0) -> dict[str, Tensor]:
        """The parameters of a seed's network by name, as views of its weights."""
        function = self.functions[name]
        return function.flat.unflatten(self.weights[name][seed].view(function.copies, -1)[copy])

    # --- learning ----------------------------------------------------------------------------------------------------

    def due(self) -> tuple[str, ...]:
        """The networks that the next gradient step changes."""
        nets = self.nets.items()
        return tuple(n for n, net in nets if self.method.learns(n, self.iteration) and net.due(self.updates + 1))

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """One gradient step of all networks that are due, and of the targets; metrics `[seeds, ...]` by name."""
        due, arguments = self.due(), (self.weights, self.targets, self.averages, batch)
        with torch.no_grad(), computing_on(self.device):
            if due not in self._steps:
                step = over_seeds(gradient_step(self.nets, self.functions, due), self.num_seeds)
                self._steps[due] = as_set(self.compile, step, *arguments)
            self.weights, self.averages, metrics = self._steps[due](*arguments)
            self.updates += 1
            for name, target in self.targets.items():
                net = self.nets[name]
                if self.method.learns(name, self.iteration) and self.updates % net.target_every == 0:
                    assert net.target_rate is not None
                    target.lerp_(self.weights[name], net.target_rate)
        return metrics

    def output(self, name: str, *inputs: Any) -> Any:
        """What a network makes of inputs `[seeds, ...]` with each seed's weights, without a gradient."""
        with torch.no_grad(), computing_on(self.device):
            return self.differentiable(name, *inputs)

    def differentiable(self, name: str, *inputs: Any) -> Any:
        """The same with gradients in the inputs."""
        return over_seeds(self.functions[name], self.num_seeds)(self.weights[name].detach(), *inputs)

    def ended(self, rows: list[dict[str, float]], means: Means) -> list[dict[str, float]]:
        """Count an iteration, and add its metrics to its rows, one a seed."""
        self.iteration += 1
        with torch.no_grad():
            metrics = means.values() | self.method.after_iteration(self)
        for name, values in metrics.items():
            for row, value in zip(rows, values.tolist(), strict=True):
                row[name] = value
        for row in rows:
            row["updates"] = self.updates
        return rows

    # --- checkpoints -------------------------------------------------------------------------------------------------

    def more_state(self) -> dict[str, Tensor]:
        """What a learner keeps besides its networks, by name."""
        return {}

    def load_more(self, state: Mapping[str, Tensor]) -> None:
        """Load what `more_state` gave; the tensors are on the learner's device."""

    def state(self) -> dict[str, Tensor]:
        """All tensors of the state by name."""
        parts: dict[str, Tensor] = {
            **{f"weights/{k}": x for k, x in self.weights.items()},
            **{f"targets/{k}": x for k, x in self.targets.items()},
            **{f"adam/{k}/{part}": x for k, mine in self.averages.items() for part, x in mine._asdict().items()},
            **self.more_state(),
            "updates": torch.tensor(self.updates),
        }
        return {name: x.detach().cpu().contiguous().clone() for name, x in parts.items()}

    def load(self, state: Mapping[str, Tensor], iteration: int, logged: int) -> None:
        """Load a saved state.

        Raises:
            UsageError: tensors are missing, unknown, or of another type or shape.
        """
        mine = self.state()
        kinds = [{name: (x.dtype, x.shape) for name, x in tensors.items()} for tensors in (mine, state)]
        wrong = sorted(name for name in mine.keys() | state.keys() if kinds[0].get(name) != kinds[1].get(name))
        wrong = [name for name in wrong if not name.startswith("priorities/")]
        if wrong:
            raise UsageError(
                f"the checkpoint does not fit this method, network or number of seeds: {', '.join(wrong)} differ. "
                "Resume with the configuration in the run's config.json."
            )
        here = {name: x.to(self.device, copy=True) for name, x in state.items()}
        self.weights = {name: here[f"weights/{name}"] for name in self.weights}
        self.targets = {name: here[f"targets/{name}"] for name in self.targets}
        self.averages = {
            n: type(one)(*(here[f"adam/{n}/{k}"] for k in one._fields)) for n, one in self.averages.items()
        }
        self.load_more(here)
        self.updates, self.iteration = int(state["updates"]), iteration

    def lost(self) -> list[int]:
        """The seeds whose weights are not finite."""
        fine = torch.stack([torch.isfinite(x).all(1) for x in self.weights.values()]).all(0)
        return [seed for seed, ok in zip(self.seeds, fine.tolist(), strict=True) if not ok]
