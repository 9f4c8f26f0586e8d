"""Attacks on the observations of a batch of episodes, between the environments and the policy."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from surefoot.perturbations import Perturbation
from surefoot.perturbations.attacks import Attack, Target, aimed, divided
from surefoot.seeding import numpy_stream


class Attacked:
    """What a policy sees: every slot under the attacks of its own episode, with the episode's own random numbers."""

    def __init__(self, target: Target, slots: int) -> None:
        self.target = target
        self._slots: list[list[tuple[Attack, np.random.Generator]]] = [[] for _ in range(slots)]
        self._last: dict[int, dict[str, np.ndarray]] = {}  # changes of the step before, by place and key, [slots, ...]

    def begin(self, slot: int, perturbation: Perturbation | None, seed: int) -> Perturbation | None:
        """Start an episode; returns the part of its perturbation that acts inside the environment."""
        inside, attacks = divided(perturbation)
        rngs = [numpy_stream(seed, "attack", place) for place in range(len(attacks))]  # the same for every attack
        drawn: Any = [aimed(attack, self.target).draw(rng) for attack, rng in zip(attacks, rngs)]
        self._slots[slot] = list(zip(drawn, rngs))
        for changes in self._last.values():
            for change in changes.values():
                change[slot] = 0.0
        return inside

    def end(self, slot: int) -> None:
        """Stop attacking a slot that has no more episodes."""
        self._slots[slot] = []

    def __call__(self, observation: Any, state: Any, starts: np.ndarray) -> Any:
        """The batch of observations under attack; `state` and `starts` are those the policy is given with it."""
        for place in range(max(map(len, self._slots))):
            alike: dict[Attack, dict[int, tuple[float, np.random.Generator]]] = {}  # attacks that differ in strength
            for slot, attacks in enumerate(self._slots):
                if place < len(attacks) and not attacks[place][0].identity:
                    attack, rng = attacks[place]
                    kind = dataclasses.replace(attack, strength=attack.neutral)
                    alike.setdefault(kind, {})[slot] = attack.fixed, rng
            for kind, rows in alike.items():
                radius = np.zeros(len(self._slots))
                radius[list(rows)] = [strength for strength, _ in rows.values()]
                rngs = {slot: rng for slot, (_, rng) in rows.items()}
                last = self._last.setdefault(place, {})
                for key, space in kind.attacked(self.target.observation_space).items():
                    last.setdefault(key, np.zeros((len(self._slots), *space.shape)))
                observation = kind.strike(self.target, observation, state, starts, radius, rngs, last)
        return observation
