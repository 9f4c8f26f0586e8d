"""Acting rules: what an agent makes of what its networks say, as a frozen rule in its JSON whose knobs may be turned
after training.

`agent.json` lists the rules under `acting`, in the order in which they are followed, and `agent.acting(log_tau=1.0)` is
the same agent with a knob turned. A rule gets the normalised observation, what was said before (by the network that
acts, or by the rule before it), and the other networks by name; it gives actions in [−1, 1]. Gradients that it takes
are those of `torch.func.grad`, so that attacks can follow them and exports can trace them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

import gymnasium as gym
import torch
from torch import Tensor

from surefoot.errors import UsageError, nearest
from surefoot.hyperparameters import build, check
from surefoot.models.distributions import Deterministic, Gaussian, SquashedGaussian, for_space, from_box
from surefoot.models.networks import Observation

KINDS = {
    "closed-form": "surefoot.models.improved:ClosedForm",
    "corrected": "surefoot.models.corrected:Corrected",
    "guided": "surefoot.models.flow:Guided",
}  # by the name in `agent.json`: the rule, as module:Class
MOST = 8  # rules of an agent

Ask = Callable[..., Tensor]
"""From the name of a companion and its inputs to its outputs, with a leading axis of copies."""


@dataclass(frozen=True)
class Said:
    """What the network that acts says, or the rule before.

    Args:
        distribution: of actions.
        params: its parameters `[batch, size]`.
        box: actions in [−1, 1] of the agent's box.
        seen: the observation before it is normalised.
        sample: whether an action is to be drawn, from torch's global generator; the most likely one otherwise.
    """

    distribution: Any
    params: Tensor
    box: Deterministic
    seen: Observation
    sample: bool = False

    def action(self) -> Tensor:
        """The action `[batch, dim]` in [−1, 1]."""
        own = self.distribution
        noise = own.noise(self.params.shape[:-1], torch.default_generator) if self.sample else None
        action = own.mode(self.params) if noise is None else own.sample(self.params, noise)
        if isinstance(own, SquashedGaussian):
            return action.tanh()
        if type(own) is Gaussian:  # in units of the environment, which clips it
            return from_box(action, self.box.low, self.box.high).clamp(-1, 1)
        return action


@dataclass(frozen=True)
class Rule:
    """Base of acting rules; a rule has a name in `KINDS`."""

    asks: ClassVar[tuple[str, ...]] = ()  # the companions that it asks
    exported: ClassVar[bool] = True  # whether one graph of tensors can hold it

    def __post_init__(self) -> None:
        check(self)

    def fits(self, distribution: Any) -> str:
        """Why it cannot act on what is said in this distribution; empty if it can."""
        return ""

    def __call__(self, ask: Ask, observation: Observation, said: Said) -> Tensor:
        """Actions `[batch, dim]` in [−1, 1] for normalised observations `[batch, ...]`."""
        raise NotImplementedError


def box_of(space: gym.Space) -> Deterministic:
    """Actions in [−1, 1] for a space. Raises `UsageError` if it is no bounded Box."""
    if not isinstance(space, gym.spaces.Box) or not space.is_bounded():
        raise UsageError(f"an acting rule gives continuous actions within bounds, but this agent's space is {space}.")
    made: Any = for_space(space, squash=True)
    return Deterministic(made.dim, made.low, made.high, shape=made.shape)


def followed(rules: Sequence[Rule], ask: Ask, observation: Observation, said: Said) -> Said:
    """What is said after all rules: an action."""
    for rule in rules:
        said = dataclasses.replace(said, params=rule(ask, observation, said), distribution=said.box)
    return said


# --- in JSON ---------------------------------------------------------------------------------------------------------


def to_json(rules: Iterable[Rule]) -> list[dict[str, Any]]:
    """The rules as entries of `agent.json`."""
    names = {place: name for name, place in KINDS.items()}
    return [{"rule": names[f"{type(r).__module__}:{type(r).__qualname__}"], **dataclasses.asdict(r)} for r in rules]


def from_json(entries: Any) -> tuple[Rule, ...]:
    """The rules of entries that `to_json` made.

    Raises:
        UsageError: an entry is damaged.
    """
    found = []
    if not isinstance(entries, list) or len(entries) > MOST:
        raise UsageError(f"acting={entries!r} is not allowed; it must be a list of at most {MOST} rules.")
    for entry in entries:
        name = entry.get("rule") if isinstance(entry, dict) else None
        if not isinstance(name, str) or name not in KINDS:
            raise UsageError(f"acting: rule={name!r} is not known. Known: {', '.join(KINDS)}.")
        module, kind = KINDS[name].split(":")
        given = {k: tuple(x) if isinstance(x, list) else x for k, x in entry.items() if k != "rule"}
        found.append(build(getattr(import_module(module), kind), given))
    return tuple(found)


def check_rules(rules: Sequence[Rule], companions: Iterable[str], said: Any) -> None:
    """Raise `UsageError` for a rule that asks networks which the agent does not keep, or does not fit what is said."""
    for rule in rules:
        kind = type(rule).__name__
        if missing := [name for name in rule.asks if name not in companions]:
            raise UsageError(f"the acting rule {kind} asks networks that the agent does not keep: {missing}.")
        if why := rule.fits(said):
            raise UsageError(f"the acting rule {kind} does not fit this agent: {why}")
        said = Deterministic(0, (), ())


def turned(rules: Sequence[Rule], changes: Mapping[str, Any], who: str) -> tuple[Rule, ...]:
    """The rules with knobs turned: every name must be a field of exactly one.

    Raises:
        UsageError: there is no such knob, or a value is not allowed.
    """
    knobs = [f.name for rule in rules for f in dataclasses.fields(rule)]
    for name, value in changes.items():
        if not rules:
            raise UsageError(
                f"{name}={value!r} is not allowed: {who} has no acting rule, it acts as its network says. Agents of "
                "methods such as cfpi and cdsa have one."
            )
        if knobs.count(name) != 1:
            raise UsageError(f"{name}={value!r} is not allowed: {who} has no such knob. {nearest(name, knobs)}")
    return tuple(
        dataclasses.replace(rule, **{f.name: changes[f.name] for f in dataclasses.fields(rule) if f.name in changes})
        for rule in rules
    )
