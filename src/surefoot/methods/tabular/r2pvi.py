"""R2PVI: robust offline policies for linear MDPs, against an adversary with a penalty on each factor.

    Q_h = r_h + γ·φᵀw_h,   w_{h,i} = min_q { q·V_{h+1} + λ·D(q ‖ μ_{h,i}) },   Q̂_h = min(r_h + γ·φᵀŵ_h − Γ_h, ceiling)

w is regressed on the data, and Γ is subtracted where they give little coverage. A penalty in place of a ball avoids a
search for each factor and step where D is total variation or KL. Use it where states share features, a data set is
given, and deployment will differ from it.

Cheng Tang, Zhishuai Liu and Pan Xu, *Robust Offline Reinforcement Learning with Linearly Structured f-Divergence
Regularization* (2024), arXiv:2411.18612.

The baselines are settings: PEVI is ambiguity=None with pessimism="elliptical", DRPVI and DRVI-L have the balls "tv:ρ"
and "kl:ρ"; `variance_aware=True` gives the VA versions of both.

Differences: rewards are known as a table, for PEVI too. The dual of χ² is maximised exactly; the
released code of the simulated MDP minimises it. KL regressions are also held below one. The lowest value is over the
observed next states and those known to have ended, whose value is 0; the released code takes that of the data alone
(`known_ends=False`), which changes what λ means from step to step. The upper limit of Q̂ follows from the size of the
rewards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from surefoot.ambiguity import Ambiguity
from surefoot.envs.tabular import TabularMDP, rollouts
from surefoot.envs.tabular.policies import greedy, uniform_policy
from surefoot.errors import UsageError
from surefoot.hyperparameters import hyperparameter
from surefoot.loops.tabular import least_squares, linear
from surefoot.loops.tabular.episodes import episodic
from surefoot.loops.tabular.gradient import evaluate
from surefoot.loops.tabular.least_squares import Sums
from surefoot.loops.tabular.method import Metrics, State, Tabular, as_ambiguity
from surefoot.seeding import torch_stream

WIDTHS = {
    "sum": least_squares.coordinate_width,
    "diag_norm": least_squares.diagonal_width,
    "elliptical": least_squares.elliptical_width,
}


@dataclass(frozen=True)
class R2PVI(Tabular):
    """Robust regularised pessimistic value iteration; an iteration is one backward pass over the same data."""

    ambiguity: str | Ambiguity | None = hyperparameter(
        "tv-penalty:0.1", help="Ambiguity set of each factor: tv, kl or chi2 penalty; tv or kl ball."
    )
    beta: float = hyperparameter(1.0, low=0, help="β: weight of the width Γ that is subtracted.")
    pessimism: str = hyperparameter("diag_norm", choices=tuple(WIDTHS), help="Form of the width Γ.")
    ridge: float = hyperparameter(0.1, above=0, help="λ: multiple of the identity added to each Gram matrix.")
    variance_aware: bool = hyperparameter(False, help="Weight transitions by the inverse variance from a first pass.")
    episodes: int = hyperparameter(100, low=1, help="K: number of episodes in the data set.")
    known_ends: bool = hyperparameter(
        True, help="Whether the lowest value counts states known to have ended, whose value is 0, though never met."
    )
    data_action: int | None = hyperparameter(None, low=0, help="The only action in the data; None: uniform actions.")

    default_steps: ClassVar[int] = 1
    needs: ClassVar[tuple[str, ...]] = ("horizon", "features")
    default_env: ClassVar[str | None] = "simulated-linear"
    rectangular: ClassVar[str] = "d"

    def start(self, mdp: TabularMDP, seed: int) -> State:
        linear.check_set(as_ambiguity(self.ambiguity), mdp)
        behaviour = uniform_policy(mdp)
        if self.data_action is not None:
            if self.data_action >= mdp.actions:
                raise UsageError(f"data_action={self.data_action} is not allowed; actions are 0 … {mdp.actions - 1}.")
            behaviour = torch.zeros_like(behaviour)
            behaviour[:, self.data_action] = 1
        met = rollouts(mdp, behaviour, self.episodes, generator=torch_stream(seed, "offline data"))
        q = torch.zeros_like(episodic(mdp).reward)
        return {"states": met.states, "actions": met.actions, "next_states": met.next_states, "q": q}

    def step(self, mdp: TabularMDP, state: State, seed: int, iteration: int) -> tuple[State, Metrics]:
        data = self.sums(mdp, state)
        q = self.backward(mdp, data)
        if self.variance_aware:
            q = self.backward(mdp, self.sums(mdp, state, 1 / self.variance(mdp, state, data, q)))
        state = {**state, "q": q}
        policy = self.policy(mdp, state)
        return state, {
            "return_mean": mdp.initial @ evaluate(mdp, policy).value[0],
            "pessimistic_value": mdp.initial @ self.values(mdp, q[0]),
        }

    def met(self, mdp: TabularMDP, state: State) -> Tensor:
        """The features `[K, H, d]` of the data."""
        features = episodic(mdp).features
        return features[torch.arange(len(features)), state["states"], state["actions"]]

    def sums(self, mdp: TabularMDP, state: State, weight: Tensor | None = None) -> Sums:
        """The regressions of the data, with weights `[K, H]` of its transitions."""
        nothing = least_squares.nothing(mdp, self.ridge)
        return least_squares.added(nothing, self.met(mdp, state), state["next_states"], weight)

    def backward(self, mdp: TabularMDP, data: Sums) -> Tensor:
        """Q̂ `[H, S, A]`: h = H … 1."""
        width = WIDTHS[self.pessimism](episodic(mdp).features, data.gram)
        ceiling, found = linear.ceilings(mdp), []
        values = torch.zeros(mdp.states, dtype=torch.float64)
        for h in reversed(range(len(width))):
            q = linear.backup(mdp, data, h, values, as_ambiguity(self.ambiguity), self.known_ends)
            q = q - self.beta * width[h]
            found.append(q.clamp(max=float(ceiling[h])))
            values = self.values(mdp, found[-1])
        return torch.stack(found[::-1])

    def values(self, mdp: TabularMDP, q: Tensor) -> Tensor:
        """V̂ `[S]` of the greedy policy; 0 where the episode is known to have ended."""
        return torch.where(episodic(mdp).over, 0.0, (greedy(mdp, q) * q).sum(-1))

    def variance(self, mdp: TabularMDP, state: State, data: Sums, q: Tensor) -> Tensor:
        """max(1, φᵀz₂ − (φᵀz₁)²) `[K, H]`, regressed moments of the next value of a first pass, in their ranges.

        Values are measured from their lower limit, so that adding a constant to all rewards changes nothing.
        """
        (least, most), phi = linear.limits(mdp), self.met(mdp, state)
        result = torch.ones(phi.shape[:2], dtype=phi.dtype)
        for h in range(len(q) - 1):
            estimate, values = least_squares.factors(data, h), self.values(mdp, q[h + 1]) - least[h + 1]
            mean, second = (phi[:, h] @ (estimate @ x) for x in (values, values**2))
            span = float(most[h] - least[h])
            result[:, h] = (second.clamp(0, span**2) - mean.clamp(0, span) ** 2).clamp(min=1)
        return result

    def policy(self, mdp: TabularMDP, state: State) -> Tensor:
        return greedy(mdp, state["q"])

    def objective(self) -> str:
        inner = "E_μ̂[V_{h+1}]" if self.ambiguity is None else str(as_ambiguity(self.ambiguity))
        return f"Q̂_h = min(r_h + γ·Σ_i φ_i·w_i − {self.beta:g}·Γ_h, ceiling),  w_i = {inner},  p = μ̂_i, v = V̂_{{h+1}}"

    def steps(self) -> list[str]:
        width = {"sum": "Σ φ_i·√(Λ⁻¹)_ii", "diag_norm": "√(Σ φ_i²·(Λ⁻¹)_ii)", "elliptical": "√(φᵀΛ⁻¹φ)"}
        actions = "random actions" if self.data_action is None else f"action {self.data_action} alone"
        again = ["Weight each transition by 1/max(1, regressed variance of V̂), and repeat the backward pass."]
        return [
            f"At the start: {self.episodes} episodes of {actions}.",
            f"Backward, h = H … 1: Λ = Σ φφᵀ + {self.ridge:g}·I; μ̂ = Λ⁻¹ Σ φ·1{{s'}}.",
            "w_i = the dual of the worst case, its expectations regressed with μ̂_i.",
            f"Q̂ = min(r + γ·φᵀw − {self.beta:g}·{width[self.pessimism]}, ceiling); V̂ = max_a Q̂, 0 in ended states.",
            *(again if self.variance_aware else []),
        ]


METHOD = R2PVI
