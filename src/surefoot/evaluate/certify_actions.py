"""What no attack on a single observation can make of a policy's action: bounds in the states that it visits, and a
check of them under the attacks of this library.

A network that sees observations as they are has interval bounds and Lipschitz constants, which hold for certain. One
that decides by several noisy draws has bounds with a confidence. The attacks can only do less; where one does more,
that is counted and said.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from surefoot.envs import make_single
from surefoot.errors import UsageError
from surefoot.evaluate.diagnose import Recorder
from surefoot.evaluate.periodic import env_name, keep
from surefoot.evaluate.player import player_of, refuse_language
from surefoot.evaluate.rollout import Episode, episode_seeds, fitted, play_all
from surefoot.evaluate.smoothing_certificates import action_divergence, median_bounds, quantile_levels, vote_radius
from surefoot.evaluate.statistics import fraction, numbers
from surefoot.evaluate.stress import called
from surefoot.loops.common.lock import evaluation
from surefoot.models import bounds
from surefoot.models.agent import Agent
from surefoot.models.distributions import (
    BoundedGaussian,
    Deterministic,
    Gaussian,
    MultiDiscrete,
    SquashedGaussian,
    into_box,
)
from surefoot.models.observations import normalize_observation
from surefoot.perturbations import parse
from surefoot.perturbations.attacks import Target, aimed
from surefoot.seeding import numpy_stream

ATTACKS = ("obs-random", "obs-fgsm", "obs-pgd", "obs-mad")
SLACK = 1e-5  # of the numbers in an action: the policy computes in single precision
SAMPLES = 1000  # noisy answers in a state from which votes and medians are bounded


@dataclasses.dataclass(frozen=True, eq=False)
class ActionCertificate:
    """Bounds on the actions of a policy in the states of its own episodes, one row a budget.

    For discrete actions `certified` is the share of states in which no attack can change the action, `attacked` that
    in which an attack does. For continuous ones `certified` is the mean bound of an action's change in the largest
    coordinate, in units of the action, and `attacked` the mean change under the strongest attack. `broken` counts
    states in which an attack did more than the bound allows: 0 of those that hold for certain.
    """

    policy: str
    env: str
    by: str  # "intervals and Lipschitz constants", "votes" or "medians"
    law: str
    unit: str
    confidence: float  # of a bound in a state; 1 for those that hold for certain
    sigma: float | None
    draws: int | None
    states: int
    seed: int
    discrete: bool
    attacks: tuple[str, ...]
    budgets: tuple[float, ...]
    certified: tuple[float, ...]
    attacked: tuple[float, ...]
    broken: tuple[int, ...]
    radius: float | None  # mean l2 radius within which a discrete action cannot change, 0 where none is certified
    lipschitz: tuple[float, float] | None  # product of norms, and the tighter constant, of the outputs
    end_to_end: float | None  # Lipschitz constant of a continuous action in its units, by the observation as it is
    divergence: float | None  # ADIV of medians

    @property
    def notes(self) -> list[str]:
        """What the numbers say, and what they do not."""
        sure = (
            "The bounds hold for certain, up to rounding, for every attack within the budget."
            if self.confidence == 1
            else f"A bound holds in its state with {self.confidence:.0%} confidence, from {SAMPLES} noisy answers, for "
            "every attack within the budget that does not know the noise to come."
        )
        notes = [
            f"{sure} Budgets are {self.law} norms of the change of one observation, {self.unit}.",
            f"States: the first {self.states} of the policy's own episodes, seed {self.seed}; elsewhere there are "
            "other bounds.",
            f"Attacks: {'; '.join(self.attacks)}. broken counts states in which one did more than the bound allows.",
        ]
        if self.radius is not None:
            notes.append(
                f"Mean l2 radius within which the action cannot change, 0 where none is certified: {self.radius:.4g}."
            )
        if self.lipschitz is not None:
            notes.append(
                f"Lipschitz constant of the outputs: {self.lipschitz[1]:.4g} (product of spectral norms: "
                f"{self.lipschitz[0]:.4g})."
            )
        if self.end_to_end is not None:
            notes.append(
                f"Of the whole map, from the observation as it is to the action in its units: {self.end_to_end:.4g}."
            )
        if self.divergence is not None:
            notes.append(f"Action divergence ‖high − low‖₂/(2ε), mean over states and budgets: {self.divergence:.4g}.")
        return [*notes, "Not said: anything about the return, or about changes of dynamics, rewards or actions."]

    def table(self) -> str:
        """The certificate as text."""
        names = ("action kept >=", "changed by attack") if self.discrete else ("change <=", "change by attack")
        columns = (("budget", self.budgets), *zip(names, (self.certified, self.attacked)), ("broken", self.broken))
        lines = [f"{self.policy} on {self.env}, bounds by {self.by}", ""]
        widths = [max(10, len(name)) for name, _ in columns]
        lines.append("  ".join(f"{name:>{w}}" for (name, _), w in zip(columns, widths)))
        for row in zip(*(values for _, values in columns)):
            lines.append("  ".join(f"{value:>{w}.5g}" for value, w in zip(row, widths)))
        return "\n".join([*lines, "", *self.notes])

    def to_json(self) -> str:
        """The fields."""
        return json.dumps(dataclasses.asdict(self), indent=2)


@evaluation
def certify_actions(
    policy: Any,
    env: Any = None,
    *,
    budgets: Sequence[float] | None = None,
    law: str = "l2",
    states: int = 200,
    confidence: float = 0.95,
    seed: int = 0,
    trust: bool = False,
) -> ActionCertificate:
    """Bound what an attack on one observation can make of the action, in the first `states` of a policy's own episodes.

    `policy`, `env`, `trust`: as for `evaluate`; an agent of this library whose observations are one vector. For the
    folder of a run the certificate is saved there.

    Args:
        budgets: norms of the change of one observation; 0.01, 0.03 and 0.1 by default, or 1/4, 1/2 and 1 times sigma
            for an agent that decides by noisy draws.
        law: "l2" or "linf"; noisy draws certify l2 only.
        confidence: probability of a bound by noisy draws, in each state.

    Raises:
        UsageError: the policy has no such bounds, or an argument is not allowed.
    """
    if law not in ("l2", "linf"):
        raise UsageError(f"law={law!r} is not allowed; it must be l2 or linf.")
    if isinstance(states, bool) or not isinstance(states, int) or not 1 <= states <= 100_000:
        raise UsageError(f"states={states!r} is not allowed; it must be a whole number in [1, 100000] (200 is usual).")
    fraction("confidence", confidence)
    given = None if budgets is None else numbers("budgets", budgets).ravel().tolist()
    if given is not None and (wrong := [b for b in given if b <= 0]):
        raise UsageError(f"budgets has {wrong[0]!r}; the budget of an attack on one observation is a number above 0.")
    player, place, folder = player_of(policy, env, None, trust)
    refuse_language(player, "what=action", "bounds are about observations that are vectors")
    if not isinstance(player, Agent):
        raise UsageError(
            f"{called(player)} has no bounds of its actions: they need the network of an agent of this library. "
            "Certify its return under noise instead: surefoot certify … --sigma 0.2."
        )
    rule, distribution = player.rule, player.module.distribution
    if isinstance(distribution, MultiDiscrete) and len(distribution.choices) > 1:
        raise UsageError(
            f"the actions of {called(player)} are {player.action_space}; there are no bounds for several choices."
        )
    if rule is None:
        bounds.layers_of(player)  # refuses what has no bounds
    elif law != "l2" or not isinstance(player.observation_space, gymnasium.spaces.Box):
        raise UsageError(
            f"law={law!r} is not allowed for {called(player)}: its noise certifies l2 norms of one vector."
        )
    if given is None:
        given = [0.01, 0.03, 0.1] if rule is None else [rule.sigma * share for share in (0.25, 0.5, 1.0)]
    seen = visited(player, place, states, seed)
    found = by_layers(player, seen, given, law) if rule is None else by_draws(player, seen, given, confidence, seed)
    made = ActionCertificate(
        policy=called(player), env=env_name(place), law=law, unit=unit_of(player), states=len(seen), seed=int(seed),
        discrete=isinstance(player.module.distribution, MultiDiscrete), budgets=tuple(given),
        sigma=None if rule is None else rule.sigma, draws=None if rule is None else rule.draws,
        confidence=1.0 if rule is None else float(confidence), **found,
    )  # fmt: skip
    if folder is not None:
        keep(Path(folder) / f"certificate-actions-{law}.json", made.to_json())
    return made


def visited(player: Agent, place: Any, states: int, seed: int) -> Tensor:
    """The first observations `[states, ...]` of the policy's own episodes."""
    single = make_single(place)
    try:
        fitted(player, single)
    finally:
        single.close()
    found, number = list[np.ndarray](), 0
    while len(found) < states:
        recorder = Recorder(player)
        play_all(recorder, place, [Episode(None, episode_seeds(seed, number + 1)[number])], slots=1)
        found += [x for each in recorder.episodes for x in each]
        number += 1
    return torch.as_tensor(np.array(found[:states])).float()


def unit_of(player: Agent) -> str:
    """The unit of budgets: that in which the noise, or the network, sees observations."""
    return "normalized" if player.scales else "raw"


def acts(player: Agent, params: Tensor) -> Tensor:
    """The actions `[..., dim]` of continuous policies in the environment's units, from their parameters."""
    distribution = player.module.distribution
    action = distribution.mode(params)
    if isinstance(distribution, Deterministic | SquashedGaussian | BoundedGaussian):
        squashed = action.tanh() if isinstance(distribution, SquashedGaussian) else action
        return into_box(squashed, distribution.low, distribution.high)
    box: Any = player.action_space
    low, high = (torch.as_tensor(x.reshape(-1)).to(action) for x in (box.low, box.high))
    return torch.maximum(torch.minimum(action, high), low)


def struck(player: Agent, seen: Tensor, budget: float, law: str, names: Sequence[str]) -> list[Tensor]:
    """The observations under each attack of this budget."""
    target = Target(player, player.observation_space, player.action_space)
    count, found = len(seen), []
    for name in names:
        kind, _, more = name.partition(",")
        attack: Any = aimed(parse(f"{kind}:{budget!r},{law}" + (f",{more}" if more else "")), target)
        rngs = {row: numpy_stream(row, "attack") for row in range(count)}
        array = attack.strike(target, seen.numpy(), None, np.ones(count, bool), np.full(count, budget), rngs)
        found.append(torch.as_tensor(array))
    return found


# --- networks that see observations as they are ----------------------------------------------------------------------


def by_layers(player: Agent, seen: Tensor, budgets: Sequence[float], law: str) -> dict[str, Any]:
    """The fields of a certificate by interval bounds and Lipschitz constants, the better in every state."""
    layers = bounds.layers_of(player)
    x = normalize_observation(seen, player.scales).flatten(1).double()  # type: ignore[union-attr]
    discrete = isinstance(player.module.distribution, MultiDiscrete)
    rows = []
    for budget in budgets:
        tried = struck(player, seen, budget, law, ATTACKS)
        with torch.no_grad():
            answers = [player.respond(one)[1] for one in tried]
            if discrete:
                sure = kept(layers, x, budget, law)
                own = player.respond(seen)[1].argmax(-1)
                changed = torch.stack([answer.argmax(-1) != own for answer in answers]).any(0)
                rows.append((share(sure), share(changed), int((sure & changed).sum())))
            else:
                low, high = ranges(player, layers, x, budget, law)
                rows.append(
                    continuous(acts(player, player.respond(seen)[1]), [acts(player, a) for a in answers], low, high)
                )
    return {
        "by": "intervals and Lipschitz constants",
        "attacks": ATTACKS,
        **dict(zip(("certified", "attacked", "broken"), map(tuple, zip(*rows)))),
        "radius": float(radii(layers, x).mean()) if discrete else None,
        "lipschitz": (bounds.product_of_norms(layers), float(bounds.whole(layers))),
        "end_to_end": None if discrete else float(bounds.whole(bounds.end_to_end(player))),
        "divergence": None,
    }


def share(flags: Tensor) -> float:
    """The share of states for which it is so."""
    return float(flags.double().mean())


def continuous(own: Tensor, answers: Sequence[Tensor], low: Tensor, high: Tensor) -> tuple[float, float, int]:
    """The largest change that bounds allow, that of the strongest attack, and the states in which it is beyond."""
    widest = torch.maximum(high - own, own - low).amax(-1).mean()
    after = torch.stack(list(answers))
    slack = SLACK * (1 + own.abs())
    beyond = ((after > high + slack) | (after < low - slack)).any(-1).any(0)
    return float(widest), float((after - own).abs().amax(-1).amax(0).mean()), int(beyond.sum())


def rivals(layers: bounds.Layers, x: Tensor) -> list[tuple[Tensor, Tensor]]:
    """For every action that is the best somewhere: those states, and the rows that take other outputs off its own."""
    best, eye = layers(x).argmax(-1), torch.eye(len(layers.biases[-1]), dtype=x.dtype)
    return [(best == a, torch.cat([eye[a] - eye[:a], eye[a] - eye[a + 1 :]])) for a in sorted(set(best.tolist()))]


def kept(layers: bounds.Layers, x: Tensor, budget: float, law: str) -> Tensor:
    """Whether the best of all outputs `[batch]` stays the best for every input within the budget."""
    sure = torch.ones(len(x), dtype=torch.bool)
    size = budget * (1.0 if law == "l2" else x.shape[1] ** 0.5)
    for where, rows in rivals(layers, x):
        place = x[where]
        margin = layers(place) @ rows.mT
        slack = SLACK * (1 + layers(place).abs().amax(-1, keepdim=True))
        slope = bounds.lipschitz(layers, rows, bounds.boxes(layers, place, budget, law))
        by_interval = bounds.intervals(layers, place, budget, law, rows)[0] > slack
        sure[where] = (by_interval | (margin - size * slope > slack)).all(-1)
    return sure


def radii(layers: bounds.Layers, x: Tensor) -> Tensor:
    """The l2 radius `[batch]` within which the best output stays the best, by the constants that hold anywhere."""
    found = torch.zeros(len(x), dtype=x.dtype)
    for where, rows in rivals(layers, x):
        if len(rows):
            found[where] = (layers(x[where]) @ rows.mT / bounds.lipschitz(layers, rows).clamp(min=1e-30)).amin(-1)
    return found


def ranges(player: Agent, layers: bounds.Layers, x: Tensor, budget: float, law: str) -> tuple[Tensor, Tensor]:
    """The range `[batch, dim]` of every coordinate of the action for inputs within the budget."""
    low, high = bounds.intervals(layers, x, budget, law)
    size = budget * (1.0 if law == "l2" else x.shape[1] ** 0.5)
    change = size * bounds.lipschitz(layers, None, bounds.boxes(layers, x, budget, law))
    middle = layers(x)
    low, high = torch.maximum(low, middle - change), torch.minimum(high, middle + change)
    distribution = player.module.distribution
    if isinstance(distribution, Deterministic | BoundedGaussian):
        low, high = low.tanh(), high.tanh()
    if isinstance(distribution, Gaussian):  # its parameters are means, then log standard deviations
        low, high = (torch.cat([part, torch.zeros_like(part)], -1) for part in (low, high))
    return acts(player, low), acts(player, high)


# --- several noisy draws ---------------------------------------------------------------------------------------------

NOISY_ATTACKS = ("obs-random", "obs-pgd", "obs-pgd,draws=1", "obs-mad,draws=1")
BLOCK = 50  # states whose noisy answers are held at once


def by_draws(player: Agent, seen: Tensor, budgets: Sequence[float], confidence: float, seed: int) -> dict[str, Any]:
    """The fields of a certificate by votes or medians of noisy answers."""
    rule, distribution = player.rule, player.module.distribution
    assert rule is not None
    discrete, many = isinstance(distribution, MultiDiscrete), player.with_draws(SAMPLES)
    torch.manual_seed(seed)
    with torch.no_grad():
        answers = torch.cat([player.respond_noisy(one, SAMPLES)[1] for one in seen.split(BLOCK)], 1)
        own = rule(answers, distribution)
    samples = (answers if discrete else acts(player, answers)).numpy()
    alpha, rows, spread = 1 - confidence, [], []
    low = high = own  # of medians, below; votes have a radius instead
    radius = None
    if rule.by == "vote":
        shares = own.double().numpy()
        radius = torch.as_tensor(vote_radius(shares, rule.sigma, SAMPLES, 1 - alpha / shares.shape[-1]))
    for budget in budgets:
        tried = struck(player, seen, budget, "l2", NOISY_ATTACKS)
        with torch.no_grad():  # votes and logits of many draws, where bounds are about those; else as the policy acts
            judge = many if rule.by == "vote" else player
            after = [torch.cat([judge.intended(part)[1] for part in one.split(BLOCK)]) for one in tried]
        if radius is None:
            each = 1 - alpha / (2 * samples.shape[-1])
            low, high = (torch.as_tensor(b) for b in median_bounds(samples, budget, rule.sigma, rule.draws, each))
            levels = quantile_levels(budget, rule.sigma, rule.draws)
            spread.append(float(action_divergence(*np.quantile(samples, levels, axis=0), budget).mean()))
        if discrete:
            best = own.argmax(-1)
            if radius is not None:
                sure = radius >= budget
            else:
                others = high.masked_fill(torch.nn.functional.one_hot(best, high.shape[-1]).bool(), -torch.inf)
                sure = low.gather(-1, best.unsqueeze(-1)).squeeze(-1) > others.amax(-1)
            changed = torch.stack([x.argmax(-1) != best for x in after]).any(0)
            rows.append((share(sure), share(changed), int((sure & changed).sum())))
        else:
            rows.append(continuous(acts(player, own), [acts(player, x) for x in after], low, high))
    return {
        "by": "votes" if rule.by == "vote" else "medians",
        "attacks": NOISY_ATTACKS,
        **dict(zip(("certified", "attacked", "broken"), map(tuple, zip(*rows)))),
        "radius": None if radius is None else float(radius.mean()),
        "lipschitz": None,
        "end_to_end": None,
        "divergence": float(np.mean(spread)) if spread else None,
    }
