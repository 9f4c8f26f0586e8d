"""Along which directions of the observation a trained policy is unstable, and whether they are the same under a shift.

The diagnostic of arXiv:2406.16979 (`surefoot.models.directions`): states of the policy's own greedy episodes, once as
they are, once more from other episodes (the row that others are compared with), and as the policy sees them under each
perturbation. Of every set: how much one direction explains (λ₁/Σλ), the two candidates for Λ against the first set,
with gradients as they are and of length 1, and how the size of the gradients changes in time.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from surefoot.envs import make_single
from surefoot.envs.perturbed import settable
from surefoot.errors import UsageError
from surefoot.evaluate.foreign_modules import ModulePolicy
from surefoot.evaluate.player import player_of, refuse_language
from surefoot.evaluate.rollout import Episode, episode_seeds, fitted, play_all, resolve
from surefoot.evaluate.stress import called
from surefoot.models.agent import Agent
from surefoot.models.directions import (
    decision_gradients,
    explained_share,
    mean_gradients,
    oscillation,
    overlap,
    principal,
    rayleigh,
    spectral_entropy,
    unit,
)
from surefoot.perturbations import Perturbation
from surefoot.seeding import derive

BLOCK = 256  # states whose gradients are taken at once


class Recorder:
    """A policy that keeps what it sees, one list of observations an episode."""

    def __init__(self, policy: Agent) -> None:
        self.policy, self.episodes = policy, list[list[np.ndarray]]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.policy, name)

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> Any:
        if episode_start is None or bool(np.asarray(episode_start).all()):
            self.episodes.append([])
        self.episodes[-1].append(np.array(observation[0]))
        return self.policy.predict(observation, state, episode_start, deterministic)


@dataclasses.dataclass(frozen=True, eq=False)
class States:
    """The diagnostic of one set of states."""

    name: str
    states: int
    unique: int  # distinct ones: repeated states weigh more
    concentration: float  # λ₁/Σλ
    explained_share: float  # Gᵀ L(S') G / tr L(S') with the direction of the first set
    rayleigh: float  # Gᵀ L(S') G / λ_max(L(S'))
    unit_explained_share: float  # the same for gradients of length 1, with their own direction
    unit_rayleigh: float
    gradient: float  # mean of ‖g‖
    variation: float  # its standard deviation over its mean
    peak: float  # its maximum over its median
    oscillation: float  # mean |n_{t+1} − n_t| over mean n, within episodes
    output_spread: float  # mean standard deviation over actions: with large outputs a softmax has no gradient


@dataclasses.dataclass(frozen=True, eq=False)
class Diagnosis:
    """The unstable direction of a policy, and every set of states against it."""

    policy: str
    env: str
    direction: np.ndarray  # G_S in the observation's shape
    spectral_entropy: float  # of the direction: 0 for one frequency, 1 for a flat spectrum
    sets: tuple[States, ...]  # "base", "base again", then one a perturbation
    seeds: tuple[int, ...]

    def overlap(self, other: Diagnosis) -> tuple[float, float]:
        """Σ min(G², G'²) and |cos(G, G')| with the direction of another policy on the same observations."""
        if self.direction.shape != other.direction.shape:
            raise UsageError(
                f"the directions have shapes {self.direction.shape} and {other.direction.shape}; compare policies of "
                "the same observations."
            )
        one, two = (torch.as_tensor(each.direction).flatten() for each in (self, other))
        return overlap(one, two), float((one @ two).abs())

    def table(self) -> str:
        """The report as text."""
        wide = max(12, *(len(each.name) for each in self.sets))
        head = f"{'':<{wide}}{'states':>8}{'unique':>8}{'λ₁/Σλ':>8}"
        head += f"{'Λ share':>9}{'Λ Rayl.':>9}{'unit: share':>13}{'Rayl.':>7}"
        lines = [f"{self.policy} on {self.env}", "", f"{head}{'‖g‖':>9}{'s.d./mean':>11}{'osc.':>6}"]
        for s in self.sets:
            shares = f"{s.concentration:>8.3f}{s.explained_share:>9.3f}{s.rayleigh:>9.3f}"
            units = f"{s.unit_explained_share:>13.3f}{s.unit_rayleigh:>7.3f}"
            sizes = f"{s.gradient:>9.3g}{s.variation:>11.2f}{s.oscillation:>6.2f}"
            lines.append(f"{s.name:<{wide}}{s.states:>8}{s.unique:>8}{shares}{units}{sizes}")
        places = np.argsort(-np.abs(self.direction), axis=None)[:5]
        top = ", ".join(
            f"{'/'.join(map(str, np.unravel_index(i, self.direction.shape)))}: {self.direction.flat[i] ** 2:.0%}"
            for i in places
        )
        return "\n".join(
            [
                *lines,
                "",
                f"Largest squared entries of the direction: {top}. Spectral entropy {self.spectral_entropy:.2f}.",
                "Λ: how far the direction of base explains the gradients of a set, by two candidate formulas; compare "
                "with base again. Low means different, not better.",
                f"Outputs spread by {self.sets[0].output_spread:.3g} over actions: between policies of other spreads, "
                "‖g‖ does not compare.",
            ]
        )

    def to_json(self) -> str:
        """Everything, exactly."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        sets = [vars(each) for each in self.sets]
        return json.dumps({**fields, "direction": self.direction.tolist(), "sets": sets})


def gradients_of(agent: Any) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """The outputs of an agent `[batch, actions]` and its gradients `[batch, k, size]`, as functions of states.

    Raises `UsageError` for policies without gradients, with memory, or with other spaces.
    """
    if not isinstance(agent, (Agent, ModulePolicy)):
        raise UsageError(
            f"{called(agent)} cannot be diagnosed: gradients are taken through the network of a policy trained by this "
            "library, or through a PyTorch module. Attacks without gradients are in surefoot stress."
        )
    space, actions = agent.observation_space, agent.action_space
    if getattr(agent.module, "core_state", 0) or not isinstance(space, gym.spaces.Box):
        raise UsageError(f"a policy with memory or with observations {space} cannot be diagnosed; arrays only.")
    if isinstance(actions, gym.spaces.Discrete):
        return agent.outputs, lambda states: decision_gradients(agent.outputs, states)
    if isinstance(actions, gym.spaces.Box):
        size = math.prod(actions.shape)

        def means(states: Tensor) -> Tensor:
            return agent.outputs(states)[..., :size]

        return means, lambda states: mean_gradients(means, states)
    raise UsageError(f"a policy with actions {actions} cannot be diagnosed; Discrete and Box only.")


def diagnose(
    policy: Any,
    env: Any = None,
    perturb: Perturbation | str | Sequence[Perturbation | str] = ("observation-noise:0.1",),
    *,
    episodes: int = 10,
    seed: int = 0,
    trust: bool = False,
) -> Diagnosis:
    """The unstable directions of a trained policy, on its own states and under perturbations.

    Args:
        policy, env, trust: as for `surefoot.evaluate`; a policy with a network of this library.
        perturb: perturbations, or their texts, under each of which the policy is played and diagnosed.
        episodes: greedy episodes of every set.
        seed: of the episodes; "base again" has others.

    Raises `UsageError` before any work, see `gradients_of`.
    """
    player, place, _ = player_of(policy, env, None, trust)
    refuse_language(player, "diagnose", "gradients are taken in arrays")
    player, single = fitted(player, make_single(place))
    single.close()
    outputs, gradients = gradients_of(player)
    given = [perturb] if isinstance(perturb, (str, Perturbation)) else list(perturb)
    attacks = [resolve(each, place) for each in given]
    seeds, others = episode_seeds(seed, episodes), episode_seeds(derive(seed, "base again") % 2**31, episodes)
    plan = [("base", None, seeds), ("base again", None, others), *((str(a), a, seeds) for a in attacks)]
    found, base, base_unit = [], None, None
    for name, attack, chosen in plan:
        recorder = Recorder(player)
        play_all(recorder, settable(place, attack), [Episode(attack, s) for s in chosen], slots=1)
        lengths = [len(each) for each in recorder.episodes]
        states = torch.as_tensor(np.array([x for each in recorder.episodes for x in each])).float()
        blocks = torch.cat([gradients(part) for part in states.split(BLOCK)]).double()
        rows, norms = blocks.flatten(0, 1), blocks.flatten(1).norm(dim=-1)
        own, own_unit = principal(rows), principal(unit(rows))
        base, base_unit = base or own, base_unit or own_unit
        mean = float(norms.mean())
        with torch.no_grad():
            spread = torch.cat([outputs(part).std(-1, correction=0) for part in states.split(BLOCK)]).mean()
        found.append(
            States(
                name,
                len(states),
                len(states.flatten(1).unique(dim=0)),
                own.concentration,
                explained_share(base.direction, rows),
                rayleigh(base.direction, rows),
                explained_share(base_unit.direction, unit(rows)),
                rayleigh(base_unit.direction, unit(rows)),
                mean,
                float(norms.std(correction=0)) / mean if mean > 0 else 0.0,
                float(norms.max() / norms.median()) if float(norms.median()) > 0 else 0.0,
                float(np.average([oscillation(part) for part in norms.split(lengths)], weights=lengths)),
                float(spread),
            )
        )
    assert base is not None
    image = base.direction.view(player.observation_space.shape)
    where = place if isinstance(place, str) else getattr(place, "__qualname__", type(place).__qualname__)
    return Diagnosis(called(player), where, image.numpy(), spectral_entropy(image), tuple(found), tuple(seeds))
