"""How a frozen policy generalises: its return in contexts of its training, like them, between, and beyond.

A context is a perturbation of fixed strength: CartPole with a pole of 0.7, noise of 0.1 on observations. What a policy
was trained in is one or several boxes of contexts; every other box is of one kind, which follows from the ranges:

    in-distribution   inside a box of training
    combination       every coordinate as in some box of training, together in none
    interpolation     in no box of training, but inside the box around all of them
    extrapolation     beyond that box in some coordinate

One component of the MDP at a time is changed (after the survey arXiv:2401.02349): the observation, the transition or
the policy's actions. The same episode seeds are played in every context. A gap is J_train − J_test; contexts are a
sample, so intervals are over contexts (Welch's t), for the one policy that was played.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from surefoot.envs import make_single
from surefoot.envs.perturbed import settable
from surefoot.errors import UsageError
from surefoot.evaluate.player import player_of, refuse_language
from surefoot.evaluate.rollout import Episode, episode_seeds, fitted, play_all, resolve
from surefoot.evaluate.statistics import ConfidenceInterval, cvar, in_brackets
from surefoot.evaluate.stress import StressReport, called
from surefoot.hyperparameters import check_count
from surefoot.perturbations import Composition, Interval, Parameters, Perturbation
from surefoot.seeding import numpy_stream

COMPONENT = {"dynamics": "transition", "observation": "state", "action": "policy"}
Box = Mapping[str, tuple[float, float]]


def box(perturbation: Perturbation) -> dict[str, tuple[float, float]]:
    """The range of every coordinate of the contexts that a perturbation may draw."""
    if isinstance(perturbation, Composition):
        parts = [box(part) for part in perturbation.parts]
        return {name: span for part in parts for name, span in part.items()}
    if isinstance(perturbation, Parameters):
        named: dict[str, float | Interval] = dict(perturbation.values)
    elif hasattr(perturbation, "strength"):
        named = {perturbation.name: getattr(perturbation, "strength")}  # noqa: B009
    else:
        raise UsageError(f"{perturbation} has no strength by which contexts could be told apart.")
    return {name: (x.low, x.high) if isinstance(x, Interval) else (float(x), float(x)) for name, x in named.items()}


def kind_of(test: Box, trained: Sequence[Box]) -> str:
    """How a box of contexts lies to those of training. Raises `UsageError` if it lies partly in one and partly not."""

    def inside(outer: tuple[float, float], inner: tuple[float, float]) -> bool:
        return outer[0] <= inner[0] and inner[1] <= outer[1]

    def apart(one: tuple[float, float], other: tuple[float, float]) -> bool:
        touching = one[1] <= other[0] or other[1] <= one[0]
        return touching and one != other if one[0] < one[1] and other[0] < other[1] else not inside(other, one)

    if any(each.keys() != test.keys() for each in trained):
        names = sorted({name for each in trained for name in each})
        raise UsageError(f"the contexts to test change {sorted(test)}, those of training {names}; change the same.")
    if any(all(inside(each[name], test[name]) for name in test) for each in trained):
        return "in-distribution"
    around = {name: (min(e[name][0] for e in trained), max(e[name][1] for e in trained)) for name in test}
    if any(not inside(around[name], test[name]) and apart(test[name], around[name]) for name in test):
        return "extrapolation"
    if all(any(apart(test[name], each[name]) for name in test) for each in trained):
        known = all(any(inside(each[name], test[name]) for each in trained) for name in test)
        return "combination" if known else "interpolation"
    raise UsageError(
        f"the contexts {dict(test)} lie partly inside those of training ({[dict(e) for e in trained]}) and partly not; "
        "split the range where training ends."
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Contexts:
    """The returns of one set of contexts."""

    name: str  # the perturbation
    kind: str  # "training" or one of the kinds of `kind_of`
    contexts: tuple[str, ...]
    returns: np.ndarray  # [contexts, episodes], undiscounted

    @property
    def means(self) -> np.ndarray:
        """Mean return of every context, `[contexts]`."""
        return self.returns.mean(1)

    @property
    def mean(self) -> float:
        return float(self.means.mean())


def gap(train: Contexts, test: Contexts, level: float = 0.95) -> tuple[float, ConfidenceInterval | None]:
    """J_train − J_test with Welch's interval over contexts; None where all contexts of both have the same return."""
    a, b = train.means, test.means
    difference = float(a.mean() - b.mean())
    if min(len(a), len(b)) < 2 or np.ptp(a) == np.ptp(b) == 0:
        return difference, None
    found = stats.ttest_ind(a, b, equal_var=False).confidence_interval(level)
    return difference, ConfidenceInterval(float(found.low), float(found.high))


@dataclasses.dataclass(frozen=True, eq=False)
class GeneralizationReport:
    """One frozen policy in sets of contexts, the first that of its training."""

    policy: str
    env: str
    component: str  # of the MDP that is changed: "state", "transition" or "policy"
    sets: tuple[Contexts, ...]
    seeds: tuple[int, ...]
    regime: str = "zero-shot, frozen"

    def gaps(self, level: float = 0.95) -> dict[str, tuple[float, ConfidenceInterval | None]]:
        """The gap of every set but training's, by the name of the set."""
        return {each.name: gap(self.sets[0], each, level) for each in self.sets[1:]}

    def table(self) -> str:
        """The report as text."""
        lines = [f"{self.policy} on {self.env}: {self.component} changed, {self.regime}", ""]
        lines.append(f"{'kind':<16}{'mean':>10}{'worst':>10}{'cvar 10 %':>11}{'gap':>10}  {'95 %':<22} contexts")
        for each in self.sets:
            shift, interval = (0.0, None) if each.kind == "training" else gap(self.sets[0], each)
            numbers = f"{each.mean:>10.5g}{each.means.min():>10.5g}{cvar(each.means, 0.1):>11.5g}{shift:>10.4g}"
            lines.append(f"{each.kind:<16}{numbers}  {in_brackets(interval):<22} {len(each.means)} of {each.name}")
        notes = [
            "",
            f"{len(self.seeds)} episodes per context with deterministic actions, the same seeds in every context.",
            "gap: mean in training contexts less mean there. Intervals are over contexts, for this one policy, not "
            "over training seeds.",
        ]
        return "\n".join([*lines, *notes])

    def to_json(self) -> str:
        """Everything, exactly."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        sets = [{**vars(each), "returns": each.returns.tolist()} for each in self.sets]
        return json.dumps({**fields, "sets": sets})


def generalize(
    policy: Any,
    env: Any = None,
    *,
    train: str | Sequence[str],
    test: str | Sequence[str] = (),
    contexts: int = 20,
    episodes: int = 5,
    seed: int = 0,
    algo: str | None = None,
    trust: bool = False,
) -> GeneralizationReport:
    """Play a frozen policy in contexts of its training, in fresh ones of the same kind, and in others.

    Args:
        policy, env, algo, trust: as for `surefoot.evaluate`.
        train: the contexts of training as perturbations, one text a box, such as "param:length=0.3..0.7".
        test: further boxes of the same coordinates; each is named by its kind (see the module).
        contexts: number of contexts drawn from every box, at least 2.
        episodes: episodes per context.
        seed: of the contexts and the episodes.

    Raises `UsageError` before any work: boxes that change several components, other coordinates, or lie across the
    border of training.
    """
    player, place, _ = player_of(policy, env, algo, trust)
    refuse_language(player, "generalize", "contexts are those of environments")
    check_count("contexts", contexts)
    seeds = episode_seeds(seed, episodes)
    if contexts < 2:
        raise UsageError(f"contexts={contexts} is not allowed; an interval over contexts needs at least 2.")
    trained, tested = ([resolve(text, place) for text in _texts(given)] for given in (train, test))
    if not trained:
        raise UsageError("train is empty; give the contexts of training, such as param:length=0.3..0.7.")
    channels = frozenset().union(*(each.channels for each in trained + tested))
    if len(channels) != 1:
        raise UsageError(
            f"the contexts change {', '.join(sorted(channels))}; change one component of the MDP at a time, in a "
            "report each."
        )
    boxes = [box(each) for each in trained]
    kinds = [kind_of(box(each), boxes) for each in tested]
    named = " or ".join(map(str, trained))
    plan = [(named, "training", trained), (f"{named} (fresh)", "in-distribution", trained)]
    plan += [(str(each), kind, [each]) for each, kind in zip(tested, kinds, strict=True)]
    single = make_single(settable(place, trained[0]))
    try:
        _, single = fitted(player, single)
        for each in trained + tested:
            each.check_env(single)
        fit = {each: each.fitted(single) for each in trained + tested}
    finally:
        single.close()
    sets = []
    for index, (name, kind, source) in enumerate(plan):
        drawn = [fit[source[i % len(source)]].draw(numpy_stream(seed, f"contexts {index}", i)) for i in range(contexts)]
        jobs = [Episode(one, s) for one in drawn for s in seeds]
        played = play_all(player, settable(place, source[0]), jobs)
        sets.append(Contexts(name, kind, tuple(map(str, drawn)), played.returns.reshape(contexts, episodes)))
    called_env = place if isinstance(place, str) else getattr(place, "__qualname__", type(place).__qualname__)
    return GeneralizationReport(called(player), called_env, COMPONENT[min(channels)], tuple(sets), tuple(seeds))


def _texts(given: str | Sequence[str]) -> list[str]:
    return [given] if isinstance(given, str) else list(given)


def robustness_curve(report: StressReport) -> tuple[np.ndarray, np.ndarray, float]:
    """ρ(x) = J(x)/J(0) along the one axis of a stress test, and its mean over the axis (its area over its length).

    Returns the strengths `[cells]`, ρ `[cells]`, and the area. Raises `UsageError` for several axes, or a return
    without perturbation that is not above 0: raw returns say more there.
    """
    if report.coordinates.shape[1] != 1 or report.nominal <= 0:
        raise UsageError(
            f"a robustness curve needs one axis and a nominal return above 0; the report has {len(report.axes)} axes "
            f"and {report.nominal:g}. Look at its returns instead."
        )
    order = np.argsort(report.coordinates[:, 0])
    x, rho = report.coordinates[order, 0], report.cell_means[order] / report.nominal
    return x, rho, float(np.trapezoid(rho, x) / np.ptp(x)) if np.ptp(x) > 0 else float(rho.mean())
