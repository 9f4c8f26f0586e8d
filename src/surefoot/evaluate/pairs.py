"""How well a model that learned from pairs orders those that were held out, and how much wrong labels would cost it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surefoot.envs.language.pairs import answers
from surefoot.errors import UsageError
from surefoot.evaluate.statistics import in_brackets, share_interval
from surefoot.loops.common.kinds import Method, check_trust, loop
from surefoot.loops.common.run import Run, make_learner
from surefoot.models.language.sequences import join
from surefoot.objectives.preferences import Compared
from surefoot.perturbations import LabelFlip, parse

Train = Callable[..., Run]
Make = Callable[..., tuple[Method, str]]


@dataclass(frozen=True, eq=False)
class Ordered:
    """The order of held-out pairs by the implicit reward of a model."""

    flipped: float  # share of the training pairs that were turned
    margins: NDArray[np.float64]  # [pairs], of the chosen answer over the rejected one
    run: Path  # of the model

    @property
    def accuracy(self) -> float:
        """The share of the pairs whose chosen answer has the higher implicit reward; a tie counts as one half."""
        return float((0.5 + 0.5 * np.sign(self.margins)).mean())


@dataclass(frozen=True)
class NoiseReport:
    """Held-out pairs, whose labels are as given, ordered by models that were trained on ever more wrong labels."""

    method: str
    task: str
    cells: tuple[Ordered, ...]

    def table(self) -> str:
        """The result as text."""
        count = len(self.cells[0].margins)
        lines = [f"{self.method} on {self.task} · {count} held-out pairs, their labels as given", ""]
        lines.append(f"{'turned':>8}{'accuracy':>10}  {'95 % interval':<16}{'margin':>9}")
        for one in self.cells:
            ends = in_brackets(share_interval(one.margins > 0), ".3f")
            lines.append(f"{one.flipped:>8.3g}{one.accuracy:>10.3f}  {ends:<16}{one.margins.mean():>9.3g}")
        return "\n".join([*lines, "", f"a run was trained for every row: {self.cells[-1].run.parent}"])


def is_of_labels(perturb: Any) -> bool:
    """Whether a perturbation is of labels, which nothing that is already trained can meet."""
    return isinstance(perturb, LabelFlip) or (isinstance(perturb, str) and perturb.partition(":")[0] == LabelFlip.name)


def ordered(run: Run, method: Any, task: Any, options: dict[str, Any], flipped: float) -> Ordered:
    """The held-out pairs under the model of a run; its reference is made again, as it was before training."""
    config = run.config_with("seeds", "steps")
    learner = make_learner(method, task, config["seeds"][:1], config["steps"], **options)
    count, model = learner.task.held_out_size, run.agent().model
    if count is None:
        raise UsageError(f"{learner.task} has no finite set of held-out pairs to order; give a file of pairs.")
    margins = []
    for start in range(0, count, 64):
        examples = [learner.task.example(i, "test") for i in range(start, min(count, start + 64))]
        asked = [example.prompt for example in examples for _ in range(2)]
        texts = [text for example in examples for text in answers(example)]
        pairs = join(model.encode(asked), model.encode_completions(texts, asked))
        sums = []
        for one in (model, learner.model):
            learner.estimator = type(learner.estimator)(method, one)
            sums.append(learner.estimator.statistics(pairs).log_prob.double().sum(1).view(-1, 2))
        compared = Compared(sums[0], sums[1], pairs.written.double().view(-1, 2))
        values = method.pair_objective().values(compared)
        margins.append((method.beta * (values[:, 0] - values[:, 1])).numpy())
    return Ordered(flipped, np.concatenate(margins), run.path)


def stressed(
    run: Run, perturb: Any, train: Train, make: Make, points: int, *, task: Any = None, trust: bool = False
) -> NoiseReport:
    """The method of a run trained again on its data under every strength of `label-flip`, and what each model makes of
    the held-out pairs. The new runs are kept in the folder of the run, and used again.

    Raises:
        UsageError: before any work, for a run that did not learn from labels.
    """
    flip = parse(perturb) if isinstance(perturb, str) else perturb
    config = run.config_with("method", "hyperparameters", "seeds", "steps")
    method: Any = make(config["method"], **config["hyperparameters"])[0]
    if not getattr(method, "compares", False):
        raise UsageError(f"{run.path} was trained with {config['method']!r}, which learns from no labels of pairs.")
    described = dict(config["env"])
    place = described.pop("env") if task is None else task
    described["stop"] = tuple(described.get("stop") or ())
    check_trust(loop(method.loop), {"env": place if task is None else None, **described}, trust)
    own, cells = described.pop("corrupt", None), []
    for cell in flip.grid(points):
        text = str(cell.perturbation)
        found = run if text == own or (own is None and cell.perturbation.identity) else Run(run.path / "labels" / text)
        options = {**described, "corrupt": None if cell.perturbation.identity else text}
        if found is not run and not (found.started and found.finished):
            given = {"seed": config["seeds"][0], "run_dir": found.path, "loggers": ()}
            found = train(method, place, config["steps"], **given, **options)
        cells.append(ordered(found, method, place, described, cell.coordinates[0][1]))
    return NoiseReport(config["method"], str(place), tuple(cells))
