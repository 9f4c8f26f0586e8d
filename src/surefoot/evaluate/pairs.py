"""How well a model that learned from pairs orders those that were held out, and what wrong labels or other people would
cost it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surefoot.envs.language.pairs import answers
from surefoot.errors import UsageError, nearest
from surefoot.evaluate.agent_card import keep_result
from surefoot.evaluate.statistics import confidence_interval, in_brackets, mean, share_interval
from surefoot.evaluate.stress import StressReport
from surefoot.loops.common.kinds import Method, check_trust, loop
from surefoot.loops.common.run import Run, make_learner
from surefoot.models.language.sequences import join
from surefoot.objectives.preferences import Compared
from surefoot.perturbations import REGISTRY, GroupShift, LabelFlip, Perturbation, parse

Train = Callable[..., Run]
Make = Callable[..., tuple[Method, str]]


@dataclass(frozen=True, eq=False)
class PairsReport(StressReport):
    """Held-out pairs, whose labels are as given, ordered by the implicit reward of a model in every cell.

    A pair is an episode. Its return is 1 if the chosen answer has the higher implicit reward, 0 if the other one has
    it, ½ for a tie; under a shift of groups it is weighted, so that a cell's mean is the accuracy there.
    """

    margins: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 0)))  # [cells, pairs]
    groups: tuple[str, ...] = ()  # of every pair, if the data name them
    runs: tuple[str, ...] = ()  # the folder of every cell's model

    def groupwise(self, cell: int) -> dict[str, NDArray[np.float64]]:
        """Whether each pair is in order in a cell, by group: 1, 0 or ½."""
        right, group = in_order(self.margins[cell]), np.array(self.groups)
        return {name: right[group == name] for name in sorted({*self.groups})}

    def table(self, tail: float = 0.1) -> str:
        """The report as text: the accuracy of every cell, and that of every group."""
        (axis,), names = self.axes, sorted({*self.groups})
        lines = [f"{self.policy} on {self.env} · {len(self.seeds)} held-out pairs, their labels as given", ""]
        head = f"{axis:>12}{'accuracy':>10}  {'95 % interval':<16}{'margin':>9}"
        lines.append(head + "".join(f"{f'group {name}':>12}" for name in names))
        for i, (at,) in enumerate(self.coordinates):
            plain = set(self.returns[i]) <= {0.0, 0.5, 1.0}
            ends = in_brackets(share_interval(self.returns[i]) if plain else _weighed(self.returns[i]), ".3f")
            row = f"{at:>12.3g}{self.cell_means[i]:>10.3f}  {ends:<16}{self.margins[i].mean():>9.3g}"
            lines.append(row + "".join(f"{right.mean():>12.3f}" for right in self.groupwise(i).values()))
        if names:
            found = self.groupwise(0)
            low = min(names, key=lambda name: found[name].mean())
            lines += ["", f"worst group at {self.place(self.coordinates[0])}: {low}, {found[low].mean():.3f} "]
            lines[-1] += f"{in_brackets(share_interval(found[low]), '.3f')} of {len(found[low])} pairs"
        if len({*self.runs}) > 1:
            lines += ["", f"a run was trained for every row; the last one is {self.runs[-1]}"]
        return "\n".join(lines)


def in_order(margins: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 for a positive margin, 0 for a negative one, ½ for a tie."""
    return 0.5 + 0.5 * np.sign(margins)


def _weighed(values: NDArray[np.float64]) -> Any:
    return confidence_interval(values, mean) if len(values) > 1 else None


def is_of_labels(perturb: Any) -> bool:
    """Whether a perturbation is of labelled pairs, not of environments."""
    if isinstance(perturb, Perturbation):
        return perturb.channels == {"label"}
    kind = REGISTRY.get(perturb.partition(":")[0]) if isinstance(perturb, str) else None
    return kind is not None and kind.channel == "label"


@dataclass(frozen=True)
class Begun:
    """What a run of a language model was started with: enough to make its model as it was before training."""

    run: Run
    name: str  # of the method
    method: Any
    task: Any
    options: dict[str, Any]

    @classmethod
    def of(cls, run: Run, make: Make, *, task: Any = None, trust: bool = False) -> Begun:
        """Read from the run's folder; `task` takes the place of its own."""
        config = run.config_with("method", "hyperparameters", "seeds", "steps")
        method: Any = make(config["method"], **config["hyperparameters"])[0]
        if method.loop != "group-rollout":
            raise UsageError(f"{run.path} was trained with {config['method']!r}, which is not for language models.")
        options = dict(config["env"])
        recorded = options.pop("env")
        place = recorded if task is None else task
        options["stop"] = tuple(options.get("stop") or ())
        check_trust(loop(method.loop), {"env": place if task is None else None, **options}, trust)
        return cls(run, config["method"], method, place, options)

    def learner(self) -> Any:
        """The learner before its first step; its model is the reference."""
        config = self.run.config_with("seeds", "steps")
        return make_learner(self.method, self.task, config["seeds"][:1], config["steps"], **self.options)


def ordered(begun: Begun) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """The margins of the held-out pairs under the model of a run, and their groups if all have one."""
    learner, method = begun.learner(), begun.method
    count, model = learner.task.held_out_size, begun.run.agent().model
    if count is None:
        raise UsageError(f"{learner.task} has no finite set of held-out pairs to order; give a file of pairs.")
    examples, margins = [learner.task.example(i, "test") for i in range(count)], []
    for start in range(0, count, 64):
        some = examples[start : start + 64]
        asked = [example.prompt for example in some for _ in range(2)]
        texts = [text for example in some for text in answers(example)]
        pairs = join(model.encode(asked), model.encode_completions(texts, asked))
        sums = []
        for one in (model, learner.model):
            learner.estimator = type(learner.estimator)(method, one)
            sums.append(learner.estimator.statistics(pairs).log_prob.double().sum(1).view(-1, 2))
        compared = Compared(sums[0], sums[1], pairs.written.double().view(-1, 2))
        values = method.pair_objective().values(compared)
        margins.append((method.beta * (values[:, 0] - values[:, 1])).numpy())
    groups = [example.fields.get("group") for example in examples]
    return np.concatenate(margins), () if None in groups else tuple(map(str, groups))


def stressed(
    policy: Any, perturb: Any, train: Train, make: Make, points: int, *, task: Any = None, trust: bool = False
) -> PairsReport:
    """A model that learned from pairs under `label-flip` or `group-shift`, on the held-out ones.

    Wrong labels act in training: the run's method is trained again on its data at every strength; the new runs are kept
    in the folder of the run, and used again. Other groups act on what is held out, and nothing is trained. The report
    is kept in the folder too.

    Raises:
        UsageError: before any work, for a run that did not learn from labels.
    """
    run = policy if isinstance(policy, Run) else Run(Path(policy))
    perturbation = parse(perturb) if isinstance(perturb, str) else perturb
    begun = Begun.of(run, make, task=task, trust=trust)
    if not getattr(begun.method, "compares", False):
        raise UsageError(f"{run.path} was trained with {begun.name!r}, which learns from no labels of pairs.")
    found: list[tuple[float, Begun, NDArray[np.float64], NDArray[np.float64]]] = []
    groups: tuple[str, ...] = ()
    if isinstance(perturbation, LabelFlip):
        for cell in perturbation.grid(points):
            one = _trained(begun, cell.perturbation, train)
            margins, groups = ordered(one)
            found.append((cell.coordinates[0][1], one, margins, in_order(margins)))
    elif isinstance(perturbation, GroupShift):
        margins, groups = ordered(begun)
        inside = np.array(groups) == _group(perturbation, margins, groups, str(begun.task))
        for cell in perturbation.grid(points):
            assert isinstance(cell.perturbation, GroupShift)
            weighed = in_order(margins) * cell.perturbation.weights(inside)
            found.append((cell.coordinates[0][1], begun, margins, weighed))
    else:
        raise UsageError(f"perturb={str(perturbation)!r} is not allowed; pairs are stressed by one kind at a time.")
    at, runs, margins, returns = zip(*found, strict=True)
    report = PairsReport(
        begun.name,
        str(begun.task),
        str(perturbation),
        "closed",
        (perturbation.name,),
        np.array(at)[:, None],
        np.stack(returns),
        _undisturbed(perturbation, at, returns, margins),
        tuple(range(len(returns[0]))),
        nominal_point=(0.0,),
        margins=np.stack(margins),
        groups=groups,
        runs=tuple(str(one.run.path) for one in runs),
    )
    keep_result(run.path, f"stress-{perturb}", report.to_json())
    return report


def _undisturbed(perturbation: Perturbation, at: Any, returns: Any, margins: Any) -> NDArray[np.float64]:
    """What is compared with: all pairs counted alike, or the cell with the fewest wrong labels."""
    return in_order(margins[0]) if isinstance(perturbation, GroupShift) else returns[int(np.argmin(at))]


def _trained(begun: Begun, flip: Perturbation, train: Train) -> Begun:
    """The run at one strength of wrong labels: the original one, one that was trained before, or a new one. A nano
    model is warmed up on the labels that it is given, so each run has its own reference."""
    corrupt = None if flip.identity else str(flip)
    if corrupt == begun.options.get("corrupt"):
        return begun
    found, options = Run(begun.run.path / "labels" / str(flip)), {**begun.options, "corrupt": corrupt}
    if not (found.started and found.finished):
        config = begun.run.config_with("seeds", "steps")
        given = {"seed": config["seeds"][0], "run_dir": found.path, "loggers": ()}
        found = train(begun.method, begun.task, config["steps"], **given, **options)
    return replace(begun, run=found, options=options)


def _group(shift: GroupShift, margins: NDArray[np.float64], groups: tuple[str, ...], task: str) -> str:
    """The group that a shift is towards."""
    names = sorted({*groups})
    if len(names) < 2:
        why = "name no group" if not names else f"are all of the group {names[0]!r}"
        raise UsageError(f'the held-out pairs of {task} {why}; {shift} needs several, in a column "group".')
    if shift.group and shift.group not in names:
        raise UsageError(f"group={shift.group!r} is not among the held-out pairs. {nearest(shift.group, names)}")
    right = in_order(margins)
    return shift.group or min(names, key=lambda name: float(right[np.array(groups) == name].mean()))
