"""Corruption of data sets: rows whose observation, action, reward or next observation is not what happened.

    corruption = part (" + " part)*
    part       = element [":" rate] ["," key "=" value]*

`dynamics:0.3`, `reward:0.3,scale=2,seed=1`, `observation:0.1,law=adversarial,agent=RUN + action:0.1`. The protocol is
RIQL's (arXiv:2310.12955), but for actions, which are clipped to their box. Ends are never changed, and an agent that
learns from the data is evaluated in the clean environment.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from surefoot.data.transitions import Transitions
from surefoot.errors import UsageError, nearest
from surefoot.hyperparameters import build, check, hyperparameter
from surefoot.models.saved import holds_agent, load_agent
from surefoot.seeding import numpy_stream, torch_stream

COLUMN = {"observation": "observation", "action": "action", "reward": "reward", "dynamics": "next_observation"}
REWARDS = 30.0  # random rewards are uniform within ± this many times the scale
STEPS, STEP, BLOCK = 100, 0.01, 4096  # of the search for the worst change: their number, their size, rows at once


@dataclass(frozen=True)
class Corruption:
    """A share of the rows in which one element is changed.

    Random changes are uniform within ± scale standard deviations of the clean data, in every coordinate; random rewards
    replace the reward by one within ±30·scale. Adversarial ones, in the same box, minimise the mean of an agent's
    critics by 100 steps along the sign of the gradient; adversarial rewards are −scale·r.
    """

    element: str = hyperparameter("dynamics", choices=tuple(COLUMN), help="What is changed; dynamics is s'.")
    rate: float = hyperparameter(0.3, low=0, high=1, help="Chance of every row to be changed.")
    scale: float = hyperparameter(1.0, low=0, help="Largest change in standard deviations of the clean data.")
    law: str = hyperparameter("random", choices=("random", "adversarial"), help="How the change is chosen.")
    seed: int = hyperparameter(0, low=0, help="Random seed of the rows and the changes.")
    agent: str | None = hyperparameter(None, help="Run or agent whose critics an adversarial change deceives.")

    def __post_init__(self) -> None:
        check(self)
        searched = self.law == "adversarial" and self.element != "reward"
        if searched and self.agent is None:
            raise UsageError(
                f"law='adversarial' of {self.element} needs critics to deceive: add agent=RUN, a run of an off-policy "
                "or offline method on the same task."
            )
        if self.agent is not None and not searched:
            raise UsageError(f"agent={self.agent!r} has no effect with {self.element}, law={self.law!r}; leave it out.")

    def __str__(self) -> str:
        fields = [f for f in dataclasses.fields(self) if f.name not in ("element", "rate")]
        named = [(f.name, getattr(self, f.name)) for f in fields if getattr(self, f.name) != f.default]
        words = [f"{self.rate:g}", *(f"{k}={x:g}" if isinstance(x, float) else f"{k}={x}" for k, x in named)]
        return f"{self.element}:{','.join(words)}"

    def rows(self, count: int) -> NDArray[np.bool_]:
        """Which rows are changed, each with the chance `rate`."""
        return numpy_stream(self.seed, f"corrupted rows, {self.element}").random(count) < self.rate

    def __call__(self, data: Transitions) -> Transitions:
        """The data with the element changed in a share of the rows; changed actions are clipped to their box."""
        column, chosen = COLUMN[self.element], np.flatnonzero(self.rows(len(data)))
        if self.element == "action" and data.discrete:
            raise UsageError("corrupt='action:…' is not allowed for discrete actions; change another element.")
        if not len(chosen):
            return data
        changed = getattr(data, column).copy()
        changed[chosen] = self._changed(data, chosen)
        if self.element == "action" and isinstance(space := data.action_space, gym.spaces.Box):
            changed = changed.clip(space.low.reshape(-1), space.high.reshape(-1))
        return replace(data, **{column: changed})

    def _changed(self, data: Transitions, chosen: NDArray[np.int64]) -> NDArray[Any]:
        """The new values of the element in the chosen rows."""
        generator = numpy_stream(self.seed, f"corruption, {self.element}")
        clean = getattr(data, COLUMN[self.element])
        if self.element == "reward":
            if self.law == "adversarial":
                return -self.scale * clean[chosen]
            return REWARDS * self.scale * generator.uniform(-1, 1, len(chosen))
        if clean.dtype == np.uint8:
            raise UsageError(f"corrupt='{self}' is not allowed for images; change rewards or actions.")
        deviation = clean.std(0, dtype=np.float64)
        if self.law == "random":
            return clean[chosen] + self.scale * deviation * generator.uniform(-1, 1, (len(chosen), *clean.shape[1:]))
        agent, blocks = _critic(str(self.agent)), np.array_split(chosen, -(-len(chosen) // BLOCK))
        noise = torch_stream(self.seed, f"corruption, {self.element}")
        return np.concatenate([self._worst(agent, data, rows, deviation, noise) for rows in blocks])

    def _worst(self, agent: Any, data: Transitions, rows: Any, deviation: Any, noise: torch.Generator) -> NDArray[Any]:
        """The change, in a box, that the critics value least."""
        s, a, after = (torch.from_numpy(x[rows]) for x in (data.observation, data.action, data.next_observation))
        spread = torch.from_numpy(deviation).float()
        start = {"observation": s, "action": a, "dynamics": after}[self.element]
        delta = self.scale * (2 * torch.rand(start.shape, generator=noise) - 1)

        def value(delta: Tensor) -> Tensor:
            x = start + delta * spread
            if self.element == "dynamics":
                return agent.judge(x, None).mean(0)
            return (agent.judge(x, a) if self.element == "observation" else agent.judge(s, x)).mean(0)

        for _ in range(STEPS if self.scale else 0):
            given = delta.clone().requires_grad_()
            (slope,) = torch.autograd.grad(value(given).sum(), given)
            delta = (delta - STEP * self.scale * slope.sign()).clamp(-self.scale, self.scale)
        return (start + delta * spread).numpy()


def _critic(name: str) -> Any:
    """The agent in a folder, which must keep critics of continuous actions."""
    folder = Path(name)
    place = next((p for p in (folder, folder / "agent", folder / "agent" / "seed-0") if holds_agent(p)), None)
    if place is None:
        raise UsageError(f"agent={name!r} is not the folder of a run or an agent.")
    found = load_agent(place)
    if "critic" not in getattr(found, "companions", {}):
        raise UsageError(f"agent={name!r} keeps no critics of actions; give a run of sac, td3, td3-bc or iql.")
    return found


def corruptions(text: str) -> tuple[Corruption, ...]:
    """The parts that a text names; see the grammar above."""
    return tuple(_part(part.strip()) for part in text.split(" + "))


def _part(text: str) -> Corruption:
    element, _, rest = text.partition(":")
    if element not in COLUMN:
        raise UsageError(f"corrupt={text!r} is not known. {nearest(element, COLUMN)} Write dynamics:0.3,scale=1.")
    values: dict[str, Any] = {"element": element}
    for place, word in enumerate(filter(None, rest.split(","))):
        key, equals, value = (part.strip() for part in word.partition("="))
        if not equals and place:
            raise UsageError(f"corrupt={text!r}: {word!r} has no name; write {element}:0.3,scale=1.")
        key, value = (key, value) if equals else ("rate", key)
        values[key] = value if key in ("law", "agent") else _number(key, value, text)
    return build(Corruption, values)


def _number(key: str, value: str, text: str) -> float | int:
    try:
        return int(value) if key == "seed" else float(value)
    except ValueError:
        raise UsageError(f"corrupt={text!r}: {key}={value!r} is not a number.") from None


def corrupted(data: Transitions, text: str | None) -> Transitions:
    """The data with all parts of a corruption, one after another; unchanged without one."""
    for part in () if text is None else corruptions(text):
        data = part(data)
    return data
