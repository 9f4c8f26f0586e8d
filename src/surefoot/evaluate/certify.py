"""A certificate of a smoothed policy: what its return is at least under every attack on its observations."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from surefoot.envs import make_single
from surefoot.errors import UsageError
from surefoot.evaluate import certificates
from surefoot.evaluate.acting import Smoothed, check_sigma, smoothing_of
from surefoot.evaluate.certificates import Survival
from surefoot.evaluate.periodic import env_name, keep
from surefoot.evaluate.player import player_of, refuse_language
from surefoot.evaluate.rollout import fitted, played
from surefoot.evaluate.statistics import numbers
from surefoot.evaluate.stress import called
from surefoot.loops.common.lock import evaluation
from surefoot.models.smoothing import Smoothing, noisy_keys

SHIFTS = (0.0, 0.25, 0.5, 1.0, 2.0)  # default budgets, in multiples of sigma
SHARES = (0.1, 0.5)  # quantiles of the returns at which probabilities are certified by default


@dataclasses.dataclass(frozen=True, eq=False)
class Certificate:
    """Returns of a smoothed policy without an attack, and the bounds that follow for every attack of a budget.

    Budgets bound √(Σ_t ‖ε_t‖₂²) over a whole episode, in the units of the environment's observations. All bounds of
    `mean`, `median` and `reached` hold together with probability `confidence`; `success` has its own.
    """

    policy: str  # its name
    env: str
    sigma: float  # standard deviation of the noise that the policy adds to its observations
    confidence: float
    bound: str  # how probabilities are bounded: one of `certificates.BOUNDS`
    grid: tuple[float, ...]  # values of the return fixed beforehand, at which they are; empty: at every observed one
    lowest: float  # no return is below, by assumption
    seed: int
    deterministic: bool
    size: int  # numbers in an observation that are noisy
    stacked: int  # frames in an observation
    returns: np.ndarray  # [episodes], undiscounted
    length: float  # mean steps of an episode
    successes: int | None  # episodes that ended in success, where the environment says so
    budgets: tuple[float, ...]
    at_least: tuple[float, ...]  # returns whose probability to be reached is certified
    draws: int = 1  # by which the agent decides otherwise; with one it is certified
    normalized: bool = False  # whether its noise is added to normalised observations

    @property
    def survival(self) -> Survival:
        """The bounds without an attack from which all others follow."""
        return certificates.survival(self.returns, self.confidence, self.bound, self.grid or None)

    @property
    def mean(self) -> list[float]:
        """Lower bounds of the mean return, one a budget."""
        found = self.survival
        return [certificates.certified_mean(found, b / self.sigma, self.lowest) for b in self.budgets]

    @property
    def median(self) -> list[float]:
        """Lower bounds of the median of the return, one a budget."""
        found = self.survival
        return [certificates.certified_quantile(found, b / self.sigma, 0.5, self.lowest) for b in self.budgets]

    @property
    def reached(self) -> list[list[float]]:
        """Lower bounds of the probability that the return is at least each of `at_least`, a row a budget."""
        found = self.survival
        return [
            [certificates.certified_probability(found, b / self.sigma, v) for v in self.at_least] for b in self.budgets
        ]

    @property
    def success(self) -> list[float] | None:
        """Lower bounds of the success rate, one a budget."""
        if self.successes is None:
            return None
        rate = certificates.lower_clopper_pearson(self.successes, len(self.returns), self.confidence)
        return [float(certificates.attacked(rate, b / self.sigma)) for b in self.budgets]

    @property
    def notes(self) -> list[str]:
        """What the numbers say, and what they do not."""
        bound = "at every observed return (Clopper-Pearson)" if self.bound == "clopper-pearson" else "by the DKW band"
        if self.bound == "clopper-pearson" and self.grid:
            bound = f"at {len(self.grid)} returns fixed beforehand (Clopper-Pearson)"
        per_step = 1 / np.sqrt(max(self.length, 1.0))
        notes = [
            f"With {self.confidence:.0%} confidence all bounds hold together, for every attacker that adds ε_t to what "
            "the environment returns, knows all that has happened but not the noise to come, and spends at most the "
            f"budget over the whole episode: sum of |ε_t|² <= budget². Probabilities are bounded {bound}, from "
            f"{len(self.returns)} episodes of seed {self.seed}.",
            f"A constant attack of {per_step:.3g} times the budget at each step spends it in {self.length:.4g} steps, "
            "the mean length here. Where every component may change by δ at every step, the budget is "
            f"δ·√(steps·{self.size}).",
            (
                "Budget and sigma are in deviations of the policy's normaliser, after which it adds its noise; "
                if self.normalized
                else "Budget and sigma are in the units of the environment's observations, before the policy "
                "normalises them; "
            )
            + "all components count alike.",
            f"Assumed: no return is below {self.lowest:g}, attacked or not; the return at a time limit is the return.",
            "Not said: anything about changes of dynamics, rewards or actions, about this policy without its noise or "
            "with another, or about a noise that the attacker can foresee.",
        ]
        if self.draws > 1:
            notes.insert(
                0,
                f"Certified is the agent that decides by one draw of its noise; the one that decides by {self.draws} "
                "is another policy, which sees every observation as often. Deploy the one that is certified.",
            )
        if self.stacked > 1:
            notes.insert(
                2,
                f"An observation is {self.stacked} stacked frames, each noised anew in every stack: a change of one "
                f"frame counts up to {self.stacked} times against the budget.",
            )
        return notes + ([] if self.success is None else ["The success rate has a confidence of its own."])

    def table(self) -> str:
        """The certificate as text."""
        columns = [("budget", self.budgets), ("mean >=", self.mean), ("median >=", self.median)]
        columns += [(f"P[R >= {v:.6g}] >=", [row[i] for row in self.reached]) for i, v in enumerate(self.at_least)]
        if self.success is not None:
            columns.append(("P[success] >=", self.success))
        widths = [max(10, len(name)) for name, _ in columns]
        lines = [
            f"{self.policy} on {self.env}, noise of sigma={self.sigma:g} on every observation",
            f"without an attack: mean return {self.returns.mean():.6g}, lowest {self.returns.min():.6g}",
            "",
            "  ".join(f"{name:>{width}}" for (name, _), width in zip(columns, widths)),
        ]
        for row in zip(*(values for _, values in columns)):
            lines.append("  ".join(f"{value:>{width}.5g}" for value, width in zip(row, widths)))
        return "\n".join([*lines, "", *self.notes])

    def to_json(self) -> str:
        """The fields and the bounds."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)} | {"returns": self.returns.tolist()}
        bounds = {name: getattr(self, name) for name in ("mean", "median", "reached", "success")}
        return json.dumps({**fields, "bounds": bounds}, indent=2)


@evaluation
def certify(
    policy: Any,
    env: Any = None,
    *,
    sigma: float | None = None,
    episodes: int = 1000,
    budgets: Sequence[float] | None = None,
    confidence: float = 0.95,
    at_least: Sequence[float] | None = None,
    lowest: float = 0.0,
    bound: str = "clopper-pearson",
    grid: Sequence[float] | None = None,
    seed: int = 0,
    slots: int = 64,
    deterministic: bool = True,
    algo: str | None = None,
    trust: bool = False,
) -> Certificate:
    """Play a policy under its own noise, and bound its return under every attack on its observations.

    `policy`, `env`, `algo`, `trust`: as for `evaluate`; for the folder of a run the certificate is saved there.
    The certified policy is `Smoothed(policy, sigma)`, or the policy itself if it was trained to add its own noise. A
    policy that has not seen the noise in training usually loses return.

    Args:
        sigma: standard deviation of the noise, in the units of the observations; the policy's own if it adds noise.
        episodes: number of episodes; use seeds that chose neither the checkpoint nor sigma.
        budgets: l2 budgets over a whole episode; 0, 1/4, 1/2, 1 and 2 times sigma by default.
        at_least: returns whose probability to be reached is bounded; by default two of the observed quantiles.
        lowest: a value that no return falls below, attacked or not.
        bound: "clopper-pearson", good near 1, or "dkw", good in the middle; chosen before the episodes are seen.
        grid: all values that the return can take, if they are few (range(1, 201)): tighter with Clopper-Pearson.

    Raises:
        UsageError: sigma or a budget is not allowed, there are too few episodes for the confidence, the observations
            are discrete, or a return is below `lowest`.
    """
    if sigma is not None:
        check_sigma(sigma)
    if isinstance(episodes, int) and not isinstance(episodes, bool) and episodes > 0:
        certificates.check_episodes(episodes, confidence, bound, grid)
    given = [] if budgets is None else numbers("budgets", budgets).ravel().tolist()
    if wrong := [b for b in given if b < 0]:
        raise UsageError(f"budgets has {wrong[0]!r}; a budget is an l2 norm, a number of at least 0.")
    player, place, folder = player_of(policy, env, algo, trust)
    refuse_language(player, "sigma", "its observations are text, to which no Gaussian noise can be added")
    rule = getattr(player, "rule", None)
    player, sigma = smoothed(player, sigma)
    single = make_single(place)
    try:
        _, seen = fitted(player, single)
        keys, space = noisy_keys(seen.observation_space), seen.observation_space
        size, stacked = sum(_size(space[key]) for key in keys) if keys else _size(space), frames(single)  # type: ignore[index]
    finally:
        single.close()
    found = played(player, place, episodes, seed, slots=slots, deterministic=deterministic)
    if found.returns.min() < lowest:
        raise UsageError(
            f"lowest={lowest:g} is not allowed: an episode had a return of {found.returns.min():.6g}. Give a value "
            "that no return can fall below, also under attack: the least reward times the longest episode."
        )
    ended = [f.get("is_success", f.get("success")) for f in found.figures]
    default = np.unique(np.quantile(found.returns, SHARES, method="lower")).tolist()
    certificate = Certificate(
        policy=called(player),
        env=env_name(place),
        sigma=sigma,
        confidence=confidence,
        bound=bound,
        grid=() if grid is None else tuple(map(float, grid)),
        lowest=float(lowest),
        seed=int(seed),
        deterministic=deterministic,
        size=size,
        stacked=stacked,
        returns=found.returns,
        length=float(found.lengths.mean()),
        successes=None if None in ended else int(sum(x > 0 for x in ended if x is not None)),
        budgets=tuple(given) if budgets is not None else tuple(sigma * shift for shift in SHIFTS),
        at_least=tuple(default if at_least is None else map(float, at_least)),
        draws=rule.draws if isinstance(rule, Smoothing) else 1,
        normalized=isinstance(rule, Smoothing) and bool(player.scales),
    )
    if folder is not None:
        keep(Path(folder) / f"certificate-{sigma:g}.json", certificate.to_json())
    return certificate


def smoothed(policy: Any, sigma: float | None) -> tuple[Any, float]:
    """The policy with one draw of noise of `sigma` on its observations, and the sigma; its own noise is never added
    to."""
    own = smoothing_of(policy)
    if sigma is None and not own:
        raise UsageError(
            "sigma is missing: the policy adds no noise to its observations, and without noise nothing is certified. "
            "Give the standard deviation of the noise, in the units of the observations, such as sigma=0.2."
        )
    if own and sigma not in (None, own):
        raise UsageError(
            f"sigma={sigma:g} is not allowed: the policy adds noise of sigma={own:g} itself. Leave sigma out, or train "
            "one for the other noise."
        )
    if isinstance(getattr(policy, "rule", None), Smoothing):
        return policy.with_draws(1), own
    return (policy, own) if own else (Smoothed(policy, check_sigma(sigma)), check_sigma(sigma))


def frames(env: gymnasium.Env) -> int:
    """How many frames the wrappers of an environment stack into one observation."""
    count = 1
    while isinstance(env, gymnasium.Wrapper):
        count *= env.stack_size if isinstance(env, gymnasium.wrappers.FrameStackObservation) else 1
        env = env.env
    return count


def _size(space: gymnasium.Space) -> int:
    return int(np.prod(space.shape or ()))
