"""The acting rule that pulls an agent's actions towards dense data, by scores of the data that are kept beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from surefoot.hyperparameters import Range, hyperparameter
from surefoot.models.acting import Ask, Rule, Said
from surefoot.models.distributions import Deterministic, Gaussian
from surefoot.models.networks import Observation
from surefoot.objectives.scores import pulled


@dataclass(frozen=True)
class Correction:
    """How far actions are pulled towards the data: the knobs that may be turned after training."""

    level: float = hyperparameter(
        0.4,
        above=0,
        high=10,
        help="σ_e: noise level of the scores, as large as the deviations to be corrected.",
        tune=Range(0.1, 0.6),
    )
    action_gain: float = hyperparameter(1.0, low=0, high=10, help="k_a: gain of the action's own pull.")
    state_gain: float = hyperparameter(1.0, low=0, high=10, help="k_s: gain of the pull on where it leads.")
    weight: float = hyperparameter(
        1.0, low=0, high=10, help="w: weight of the action that leads there; with action_gain=0 too, none is corrected."
    )
    repeats: int = hyperparameter(1, low=1, high=100, help="J: corrections one after another.")
    landing: str = hyperparameter(
        "change",
        choices=("change", "state"),
        help="Density of where it leads: of the change given the state, or of the next state alone.",
    )


@dataclass(frozen=True)
class Corrected(Correction, Rule):
    """a₁ = a − k_a·σ·ε_a(s, a);  d = F(s, a₁);  d⁺ = d − k_s·σ·ε_d(s, d);  a ← clip(a₁ + w·(I(s, d⁺) − I(s, d)))."""

    allowance: float | None = hyperparameter(
        None, low=0, help="ξ: most that the lowest critic may lose by a correction, for agents that keep critics."
    )

    @property
    def asks(self) -> tuple[str, ...]:  # type: ignore[override]
        judge = () if self.allowance is None else ("critic",)
        return ("units", "action score", f"{self.landing} score", "inverse", "forward", *judge)

    def fits(self, distribution: Any) -> str:
        if isinstance(distribution, Deterministic | Gaussian):
            return ""
        return f"it acts by {type(distribution).__name__}, not by continuous actions."

    def __call__(self, ask: Ask, observation: Observation, said: Said) -> Tensor:
        state, units = ask("units", said.seen)[0].chunk(2, -1)
        before = action = said.action()
        for _ in range(self.repeats):
            action = self.corrected(ask, state, units, action)
        if self.allowance is None:
            return action
        was, now = (ask("critic", observation, a).min(0).values for a in (before, action))
        return torch.where((now >= was - self.allowance).unsqueeze(-1), action, before)

    def corrected(self, ask: Ask, state: Tensor, units: Tensor, action: Tensor) -> Tensor:
        """One correction of actions `[batch, dim]` in states `[batch, size]`, in units of the data."""
        sigma = torch.full_like(state[..., 0], self.level)
        noise = ask("action score", torch.cat([state, action], -1), sigma)[0]
        action = action + self.action_gain * pulled(noise[..., state.shape[-1] :], self.level)
        if self.weight == 0:
            return action.clamp(-1, 1)
        change = ask("forward", state, action)[0]
        if self.landing == "change":
            noise = ask("change score", torch.cat([state, change], -1), sigma)[0][..., state.shape[-1] :]
        else:
            noise = ask("state score", state + units * change, sigma)[0] / units
        better = change + self.state_gain * pulled(noise, self.level)
        also = ask("inverse", state, better)[0] - ask("inverse", state, change)[0]
        return (action + self.weight * also).clamp(-1, 1)
