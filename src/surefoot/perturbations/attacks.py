"""Attacks on observations that need the policy under attack, and random changes within the same budget.

An attack acts between environment and policy: it changes what the policy sees, nearest to the policy of all
perturbations. The change δ of every attacked entry keeps `‖δ / unit‖ ≤ strength`, in the norm of its `law`, and with a
`rate` also `‖(δ − δ of the step before) / unit‖ ≤ rate·strength`; the last rounding goes towards the unattacked
observation. With a rate an attack goes as far as it may towards the change that it would make without one. Other
entries, such as masks of allowed actions, are never touched.

The policy offers what an attack needs as methods on tensors `[batch, ...]`:

- `respond(observation, state, episode_start)`: its action distribution (`models.distributions`) and that distribution's
  parameters `[batch, size]`, or one tensor: continuous actions `[batch, ...]`, or the logits of a discrete action;
- `criticise(observation, seen, state, episode_start)`: the value `[batch]`, by its critic, of acting on what it has
  `seen` instead of the observation;
- `respond_noisy(observation, draws, state, episode_start)`, of a policy that adds noise to what it sees: the same under
  draws of that noise `[draws, batch, size]`; and `intended(observation, state, episode_start)`, what it makes of many;
- `deviations`: the standard deviations by which it divides entries of the observation, by key ('' for a plain one).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, NoReturn

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from surefoot.errors import UsageError
from surefoot.hyperparameters import hyperparameter
from surefoot.models.distributions import Gaussian, for_space
from surefoot.models.networks import Observation
from surefoot.perturbations.ascent import Moves, ascend, divergence, followed, project, shift, spread
from surefoot.perturbations.core import Composition, Graded, Perturbation, register
from surefoot.perturbations.drift import RATE
from surefoot.perturbations.interval import Interval, number
from surefoot.perturbations.observation import KEYS, boxes, check_boxes, noise, within

Damage = Callable[[Observation], Tensor]  # from what the policy sees to the damage [batch] that this does
BLIND = "obs-search, obs-random, observation-noise, observation-dropout and observation-delay need no gradients."
START = 0.1  # gradients are taken at a random point in this share of the budget: where nothing moves, many are zero


class Target(NamedTuple):
    """A policy under attack, in its environment."""

    policy: Any
    observation_space: gymnasium.Space
    action_space: gymnasium.Space

    @property
    def name(self) -> str:
        return (self.policy if hasattr(self.policy, "__qualname__") else type(self.policy)).__qualname__

    def respond(self, observation: Observation, state: Any, starts: np.ndarray | None) -> tuple[Any, Tensor]:
        """The policy's distribution and its parameters `[batch, size]`; a plain action is a Gaussian's mean."""
        answer = self.policy.respond(observation, state, starts)
        if not isinstance(answer, Tensor):
            return answer
        distribution = for_space(self.action_space)
        flat = answer.flatten(1)
        if isinstance(distribution, Gaussian):
            flat = torch.cat([flat, torch.zeros_like(flat)], -1)
        return distribution, flat

    def respond_noisy(
        self, observation: Observation, draws: int, state: Any, starts: np.ndarray | None
    ) -> tuple[Any, Tensor]:
        """The same under draws of the policy's own noise, `[draws, batch, size]`."""
        return self.policy.respond_noisy(observation, draws, state, starts)

    def act(self, observation: Any, state: Any, starts: np.ndarray | None) -> np.ndarray:
        """The policy's actions `[batch, ...]` for a batch of arrays."""
        predict: Any = getattr(self.policy, "predict", None)
        if not callable(predict):
            return np.asarray(self.policy(observation))
        action: Any = predict(observation, state=state, episode_start=starts, deterministic=True)
        return np.asarray(action[0])

    def intended(self, observation: Observation, state: Any, starts: np.ndarray | None) -> tuple[Any, Tensor]:
        """What the policy makes of its noise, as `respond`."""
        return self.policy.intended(observation, state, starts)


UNIT = "unit of the budget: auto, normalized, raw, or the size of every dimension, such as 0.5/1/0.1"


@dataclasses.dataclass(frozen=True)
class Attack(Graded):
    """Base of attacks. `unit="normalized"` measures the budget in standard deviations of the policy's normaliser,
    "raw" in the observation's own units, "auto" in the former if the policy has one; a list of numbers, separated by /,
    is the size of one unit in every dimension of a plain vector."""

    channel: ClassVar[str] = "attack"
    strength: float | Interval = hyperparameter(0.05, low=0, help="radius of the budget")
    law: str = hyperparameter("linf", choices=("linf", "l2"), help="norm of the budget")
    _: dataclasses.KW_ONLY
    unit: str = hyperparameter("auto", help=UNIT)
    rate: float | None = hyperparameter(None, low=0, help=RATE)
    keys: str = hyperparameter("", help=KEYS)

    def __post_init__(self) -> None:
        if isinstance(self.unit, float):  # a single number in the text form
            object.__setattr__(self, "unit", number(self.unit))
        super().__post_init__()
        if self.unit not in ("auto", "normalized", "raw") and not (
            re.fullmatch(r"[\d.eE+\-/]+", self.unit) and all(_positive(part) for part in self.unit.split("/"))
        ):
            raise UsageError(
                f"{self.name}: unit={self.unit!r} is not allowed; it must be auto, normalized, raw, or positive "
                "numbers separated by /, such as 0.5/1/0.1."
            )

    def wrap(self, env: gymnasium.Env, seed: int = 0) -> NoReturn:
        raise UsageError(
            f"{self} acts between an environment and the policy that it attacks, so it cannot wrap an environment: use "
            "it in stress and evaluate. To train under noise of the same size, use observation-noise with law=linf."
        )

    def on_batch(self, array: Any, rng: np.random.Generator) -> NoReturn:
        raise UsageError(f"{self} needs a policy to attack, not a batch of data: use it in stress and evaluate.")

    def check_env(self, env: gymnasium.Env) -> None:
        check_boxes(self, self.keys, env.observation_space)

    def attacked(self, space: gymnasium.Space) -> dict[str, spaces.Box]:
        """The attacked entries of an observation space by key."""
        if not isinstance(space, spaces.Dict):
            return {"": space}  # type: ignore[dict-item]
        return {key: space[key] for key in (self.keys.split("/") if self.keys else boxes(space))}  # type: ignore[misc]

    def aimed(self, target: Target) -> Attack:
        """This attack on this policy: its unit decided, and all it needs found. Raises `UsageError` if it is not."""
        own, known = self.attacked(target.observation_space), getattr(target.policy, "deviations", {})
        if self.unit == "normalized" and not own.keys() & known.keys():
            raise UsageError(
                f"{self}: the policy normalises no observation that is attacked, so its budget has no such unit; use "
                "unit=raw, or the size of every dimension, such as unit=0.5/1/0.1."
            )
        if self.unit in ("normalized", "raw"):
            return self
        if self.unit == "auto":
            return dataclasses.replace(self, unit="normalized" if own.keys() & known.keys() else "raw")
        sizes = self.unit.count("/") + 1
        if len(own) > 1 or (shape := next(iter(own.values())).shape) != (sizes,):
            shapes = shape if len(own) == 1 else {key: one.shape for key, one in own.items()}
            raise UsageError(
                f"{self}: unit has {sizes} number{'s'[: sizes > 1]}, but what is attacked has the shape {shapes}; "
                "give one number for every dimension of one vector."
            )
        return self

    def units(self, target: Target) -> dict[str, np.ndarray]:
        """The size of one unit in every attacked entry."""
        own, known = self.attacked(target.observation_space), getattr(target.policy, "deviations", {})
        if self.unit == "raw":
            return {key: np.ones(one.shape) for key, one in own.items()}
        if self.unit == "normalized":
            return {k: np.asarray(known.get(k, np.ones(one.shape)), np.float64) for k, one in own.items()}
        return {key: np.array([float(x) for x in self.unit.split("/")]) for key in own}

    def strike(
        self,
        target: Target,
        observation: Any,
        state: Any,
        starts: np.ndarray,
        radius: np.ndarray,
        rngs: Mapping[int, np.random.Generator],
        last: dict[str, np.ndarray] | None = None,
        **more: Any,
    ) -> Any:
        """What the policy sees instead of a batch of observations: the rows of `rngs` within their `radius [batch]`.

        `state` and `starts` are what the policy is given with the batch, `more` goes to `moves`. The other rows and
        entries are unchanged. `last`: the changes `[batch, ...]` of the step before by key, in units, float64; those of
        the rows are read and replaced where there is a `rate`. Without it the step before had none.
        """
        entries = observation if isinstance(observation, dict) else {"": observation}
        units = {key: torch.from_numpy(x) for key, x in self.units(target).items()}
        fixed = {key: torch.as_tensor(x) for key, x in entries.items()}
        clean = {key: fixed[key].double() for key in units}
        drawn = {key: torch.zeros_like(x) for key, x in clean.items()}
        for row, rng in rngs.items():
            for x in drawn.values():
                x[row] = torch.from_numpy(noise((1, *x.shape[1:]), 1.0, self.law, rng)[0])

        def see(moves: Moves) -> Observation:
            seen = {**fixed, **{key: clean[key] + units[key] * x for key, x in moves.items()}}
            return seen if isinstance(observation, dict) else seen[""]

        moves = self.moves(target, see, drawn, torch.from_numpy(radius), state, starts, **more)
        changed, rows = {}, list(rngs)
        for key, x in moves.items():
            if self.rate is not None:
                before = torch.zeros_like(x) if last is None else torch.from_numpy(last[key])
                most = spread(torch.from_numpy(radius), x)
                x = project(followed(before, x.detach(), self.rate * most, self.law), most, self.law)
                if last is not None:
                    last[key][rows] = x[rows].numpy()
            changed[key] = entries[key].copy()
            changed[key][rows] = within(entries[key][rows], (units[key] * x.detach())[rows].numpy())
        return {**observation, **changed} if isinstance(observation, dict) else changed[""]

    def moves(
        self, target: Target, see: Callable[[Moves], Observation], drawn: Moves, radius: Tensor, state: Any, starts: Any
    ) -> Moves:
        """The changes; `drawn` is uniform in the unit ball, and `see` is what the policy sees under a change."""
        raise NotImplementedError


def _positive(text: str) -> bool:
    try:
        return 0 < float(text) < float("inf")
    except ValueError:
        return False


class GradientAttack(Attack):
    """Base of attacks along the gradient of a damage."""

    steps: int = 1
    draws: int = 0

    def aimed(self, target: Target) -> Attack:
        attack = super().aimed(target)
        self.check_gradients(target)
        return attack

    def check_gradients(self, target: Target) -> None:
        """Raise `UsageError` for a policy that does not offer what the attack needs."""
        if not callable(getattr(target.policy, "respond", None)):
            raise UsageError(
                f"{self} follows the gradient of the policy, and {target.name} offers none: it has no "
                f"respond(observation, state, episode_start) on tensors (surefoot.perturbations.attacks). {BLIND}"
            )
        if self.draws and not getattr(target.policy, "noisy", False):
            raise UsageError(
                f"{self}: draws={self.draws} is not allowed, because {target.name} adds no noise to what it sees; "
                "leave it out. Agents of policy-smoothing, smoothed-agents and smoothed-dqn do."
            )
        self._try(target)

    def _try(self, target: Target) -> None:
        """The attack's damage on an empty observation; `UsageError` where it cannot be computed or has no gradient."""
        space = target.observation_space
        entries = space.spaces if isinstance(space, spaces.Dict) else {"": space}
        empty: Any = {k: torch.from_numpy(np.zeros((1, *one.shape), one.dtype)) for k, one in entries.items()}  # type: ignore[misc]
        attacked = {key: empty[key].double().requires_grad_() for key in self.attacked(space)}

        def whole(parts: Mapping[str, Tensor]) -> Any:
            return {**empty, **parts} if isinstance(space, spaces.Dict) else parts[""]

        try:
            with torch.enable_grad():
                clean = whole({key: x.detach() for key, x in attacked.items()})
                damage = self.damage(target, clean, None, np.ones(1, bool))(whole(attacked))
        except UsageError:
            raise
        except Exception as error:
            raise UsageError(
                f"{self}: {target.name} failed on a batch of tensors: {type(error).__name__}: {error}. {BLIND}"
            ) from error
        if not damage.requires_grad:
            raise UsageError(
                f"{self} follows the gradient of the policy, but what {target.name} returns does not depend on the "
                f"observation by PyTorch operations. {BLIND}"
            )

    def damage(self, target: Target, clean: Observation, state: Any, starts: Any) -> Damage:
        """What is maximised: by default how far the most likely action moves."""
        return compared(shift, target, clean, state, starts, self.draws)

    def moves(self, target: Target, see: Any, drawn: Moves, radius: Tensor, state: Any, starts: Any) -> Moves:
        start = {key: START * spread(radius, x) * x for key, x in drawn.items()}
        damage = self.damage(target, see({key: torch.zeros_like(x) for key, x in drawn.items()}), state, starts)
        return ascend(lambda moves: damage(see(moves)), start, radius, self.law, self.steps)


def compared(measure: Any, target: Target, clean: Observation, state: Any, starts: Any, draws: int = 0) -> Damage:
    """A measure of the distance between the policy's answers with and without the attack; with `draws`, its mean over
    fresh draws of the noise of a smoothed policy, from what that intends (the smoothed attack, arXiv:2406.18062)."""
    with torch.no_grad():
        distribution, before = (target.intended if draws else target.respond)(clean, state, starts)
    if not draws:
        return lambda seen: measure(distribution, before, target.respond(seen, state, starts)[1])

    def damage(seen: Observation) -> Tensor:
        answers = target.respond_noisy(seen, draws, state, starts)[1]
        return torch.stack([measure(distribution, before, answer) for answer in answers]).mean(0)

    return damage


DRAWS = "draws of a smoothed policy's own noise in every gradient, 1 is S-PGD's; 0: of its network without noise"
STEPS = "steps of ascent; with 1 it is FGSM's"


@register
@dataclasses.dataclass(frozen=True)
class FGSM(GradientAttack):
    """One step along the gradient to the boundary of the budget (arXiv:1412.6572; on policies arXiv:1702.02284).

    It maximises `shift`. Its gradient is taken at a random point within a tenth of the budget, because that of a
    squared distance is zero without a change.
    """

    name = "obs-fgsm"
    draws: int = hyperparameter(0, low=0, high=10_000, help=DRAWS)


@register
@dataclasses.dataclass(frozen=True)
class PGD(GradientAttack):
    """Projected ascent on `shift` (arXiv:1706.06083). Its first step is FGSM's and it keeps the best of its points, so
    it never does less damage to an action than FGSM with the same seed."""

    name = "obs-pgd"
    steps: int = hyperparameter(10, low=1, high=10_000, help=STEPS)
    draws: int = hyperparameter(0, low=0, high=10_000, help=DRAWS)


@register
@dataclasses.dataclass(frozen=True)
class MAD(GradientAttack):
    """Maximal action difference (arXiv:2003.08938): projected ascent on KL(π(·|s) ‖ π(·|s̃)), for a Gaussian policy the
    distance of the mean actions in units of their standard deviations."""

    name = "obs-mad"
    steps: int = hyperparameter(10, low=1, high=10_000, help=STEPS)
    draws: int = hyperparameter(0, low=0, high=10_000, help=DRAWS)

    def damage(self, target: Target, clean: Observation, state: Any, starts: Any) -> Damage:
        return compared(divergence, target, clean, state, starts, self.draws)


@register
@dataclasses.dataclass(frozen=True)
class CriticAttack(GradientAttack):
    """Projected descent on the critic's value of the action that the policy takes on what it sees, Q(s, μ(s̃))
    (arXiv:1712.03632), or, where it has only state values, on V(s̃)."""

    name = "obs-critic"
    steps: int = hyperparameter(10, low=1, high=10_000, help=STEPS)

    def check_gradients(self, target: Target) -> None:
        if not callable(getattr(target.policy, "criticise", None)):
            raise UsageError(
                f"{self} needs a critic, and {target.name} offers none: it has no criticise(observation, seen, state, "
                f"episode_start) on tensors. obs-pgd and obs-mad need only the policy's gradients; {BLIND}"
            )
        self._try(target)

    def damage(self, target: Target, clean: Observation, state: Any, starts: Any) -> Damage:
        return lambda seen: -target.policy.criticise(clean, seen, state, starts)


# --- attacks of episodes ------------------------------------------------------------------------------------------


def divided(perturbation: Perturbation | None) -> tuple[Perturbation | None, tuple[Attack, ...]]:
    """What acts inside an environment, and the attacks on the policy in their order."""
    parts = perturbation.parts if isinstance(perturbation, Composition) else (perturbation,)
    attacks = tuple(part for part in parts if isinstance(part, Attack))
    inside = tuple(part for part in parts if part is not None and not isinstance(part, Attack))
    return (Composition(inside) if len(inside) > 1 else inside[0] if inside else None), attacks


def aimed(perturbation: Perturbation, target: Target) -> Perturbation:
    """The perturbation with its attacks aimed at a policy; see `Attack.aimed`."""
    if isinstance(perturbation, Composition):
        return Composition(tuple(aimed(part, target) for part in perturbation.parts))
    return perturbation.aimed(target) if isinstance(perturbation, Attack) else perturbation
