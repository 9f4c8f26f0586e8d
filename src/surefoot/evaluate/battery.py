"""The battery of an audit: families of sweeps, and their cells that a policy's environment can take.

Strengths are probabilities, steps, or in units of what is perturbed (a component's own standard deviation, the width of
an action's range, the nominal value of a parameter), so that they make sense for any environment. Only attacks on a
policy without a normaliser have no such unit: their strengths are in the observation's own. No sweep has a cell at its
neutral strength, which is the nominal one.
"""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium

from surefoot.envs import make_single
from surefoot.envs.perturbed import EnvLike, settable, settable_parameters
from surefoot.envs.rrls import TASKS
from surefoot.errors import UsageError, message_of
from surefoot.evaluate.effects import axis_facts
from surefoot.evaluate.rollout import fitted, resolve
from surefoot.perturbations import Composition, Interval, Parameters, Perturbation, unwrap
from surefoot.perturbations.attacks import Target, aimed, divided
from surefoot.perturbations.core import Graded
from surefoot.perturbations.mujoco import FACTORS, simulator

SWEEPS: dict[str, tuple[str, ...]] = {
    "sensors": ("relative-noise:0.1..0.5", "observation-dropout:0.05..0.25", "frame-drop:0.05..0.25"),
    "actuators": ("action-mix:0.1..0.5", "action-scale:0.5..0.9", "action-random:0.05..0.25", "sticky-action:0.1..0.5"),
    "timing": (
        "speed:2..6",
        "speed-jitter:1..5",
        "speed-spike:0.01..0.05",
        "frame-repeat:0.1..0.5",
        "observation-delay:1..5",
        "observation-delay-jitter:1..5",
        "action-delay:1..5",
        "action-delay-jitter:1..5",
    ),
    "adversarial": tuple(f"obs-{name}:0.02..0.1" for name in ("random", "search", "fgsm", "pgd", "mad", "critic")),
}
FAMILIES = ("sensors", "actuators", "timing", "physics", "adversarial")
FACTOR = Interval(0.5, 2.0)  # by which physics is multiplied
MOST = 10  # parameters that are swept without being named
# Parts of names of parameters that say what the task is, not what the world is like.
RULES = re.compile("reward|return|cost|bonus|penalty|goal|threshold|limit|position|action|step|noise")


@dataclasses.dataclass(frozen=True)
class Cell:
    """One perturbation of fixed strength in a sweep of a family."""

    family: str
    sweep: str  # its text, of which `points` values are played
    name: str  # what is perturbed: "action-delay", or a parameter
    label: str  # the coordinates: "action-delay=2"
    at: tuple[float, ...]  # the same as numbers
    perturbation: Perturbation
    neutral: float | None = None  # the unperturbed value of a sweep of one dimension

    @property
    def text(self) -> str:
        """The text of a perturbation whose only cell this is."""
        return str(pinned(self.perturbation))


@dataclasses.dataclass(frozen=True)
class NotRun:
    """A sweep, or one of its cells, that was not played."""

    family: str
    sweep: str
    what: str  # the sweep, or the one cell
    reason: str


def sweeps(env: EnvLike, families: Sequence[str] = FAMILIES) -> dict[str, tuple[str, ...]]:
    """The texts of the sweeps of each family for an environment."""
    if not families or (unknown := sorted({*families} - {*FAMILIES})):
        given = unknown[0] if families else ()
        raise UsageError(f"families={given!r} is not allowed; name one or more of {', '.join(FAMILIES)}.")
    return {name: SWEEPS[name] if name in SWEEPS else _physics(env) for name in FAMILIES if name in families}


def fitting(
    battery: Mapping[str, Sequence[str]], env: EnvLike, policy: Any, points: int
) -> tuple[EnvLike, list[Cell], list[NotRun]]:
    """`env` in a form that takes all of the sweeps, their cells, and what the environment cannot take.

    An environment is reset under every cell, and every attack is aimed at the policy. Raises `UsageError` for a text
    that no environment can take, and for a policy that does not fit.
    """
    attacks = [(family, text, resolve(text, env)) for family, texts in battery.items() for text in texts]
    ready = _ready(env, [attack for *_, attack in attacks])
    cells: list[Cell] = []
    refused = [NotRun(f, "", "all", "there is nothing to set") for f, texts in battery.items() if not texts]
    single = make_single(ready)
    try:
        player, single = fitted(policy, single)
        target = Target(player, single.observation_space, single.action_space)
        for family, text, attack in attacks:
            try:
                attack.check_env(single)
                attack = aimed(attack, target)
                found = [c for c in attack.fitted(single).grid(points) if not c.perturbation.identity]
            except UsageError as error:
                refused.append(NotRun(family, text, text, str(error)))
                continue
            facts = axis_facts(attack, single)
            neutral = facts[0][0] if len(facts) == 1 else None
            problems = [_problem(cell.perturbation, single) for cell in found]
            if found and all(problems):
                refused.append(NotRun(family, text, text, str(problems[0])))
                continue
            for cell, problem in zip(found, problems):
                at = tuple(value for _, value in cell.coordinates)
                made = Cell(family, text, _name(text, attack), cell.label, at, cell.perturbation, neutral)
                if problem is None:
                    cells.append(made)
                else:
                    refused.append(NotRun(family, text, made.text, problem))
    finally:
        single.close()
    return ready, cells, refused


def _ready(env: EnvLike, attacks: Sequence[Perturbation]) -> EnvLike:
    """`env` in a form that any one of the attacks can be applied to."""
    parts = [p for attack in attacks for p in (attack.parts if isinstance(attack, Composition) else (attack,))]
    values = {name: value for part in parts if isinstance(part, Parameters) for name, value in part.values}
    inside = next((part for part in parts if part.channel == "dynamics"), None)
    return settable(env, Parameters(tuple(values.items())) if values else inside)


def pinned(perturbation: Perturbation) -> Perturbation:
    """The same perturbation with a grid of this one cell: a fixed strength as a range of no width."""
    if isinstance(perturbation, Composition):
        return Composition(tuple(map(pinned, perturbation.parts)))
    if isinstance(perturbation, Graded) and not isinstance(perturbation.strength, Interval):
        return dataclasses.replace(perturbation, strength=Interval(perturbation.fixed, perturbation.fixed))
    return perturbation


def _physics(env: EnvLike) -> tuple[str, ...]:
    """Sweeps of the simulator's parameters, from half to double; for a robust task also of its published set."""
    found, single = settable_parameters(env), make_single(env)
    single.close()
    if simulator(single) is not None:
        known = {name: found[name] for name in ("gravity", *FACTORS) if name in found}
        task = getattr(single.unwrapped.spec, "id", "")
        more = ("force:1..5", *(("rrls:2d",) if task.removeprefix("rrls/") in TASKS else ()))
    else:
        known, more = {k: v for k, v in found.items() if not RULES.search(k.lower())}, ()
    swept = [name for name, value in known.items() if value != 0][:MOST]
    texts = [
        f"param:{name}={Interval(*sorted((known[name] * FACTOR.low, known[name] * FACTOR.high)))}" for name in swept
    ]
    return (*texts, *more)


def _name(text: str, attack: Perturbation) -> str:
    """What a sweep is called: the parameter, if it is of one only, and otherwise the perturbation."""
    if isinstance(attack, Parameters) and len(attack.values) == 1:
        return attack.values[0][0]
    return text if isinstance(attack, (Parameters, Composition)) else attack.name


def _problem(perturbation: Perturbation, single: gymnasium.Env) -> str | None:
    """Why an environment cannot be reset under a perturbation; None if it can, or if none acts inside it."""
    wrapped, (inside, _) = single, divided(perturbation)
    if inside is None:
        return None
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="param:")  # nothing reads what is set
            wrapped = inside.wrap(single)
            wrapped.reset(seed=0)
    except Exception as error:
        return message_of(error)
    finally:
        unwrap(wrapped, single)
    return None
