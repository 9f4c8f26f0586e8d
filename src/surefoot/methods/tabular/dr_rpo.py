"""DR-RPO: a softmax policy with a KL penalty to a reference, learned online in a robust linear MDP.

    V_h(s) = Σ_a π_h(a|s)·(Q_h(s, a) − log(π_h(a|s)/π_ref(a|s))/η),     Q_h = r_h + γ·φᵀw_h
    w_{h,i} = min_q { q·V_{h+1} : q in the set around μ_{h,i} }, or with a penalty;     π_h ∝ π_ref·exp(η·Q̂_h)

An adversary perturbs each factor of the kernel, and a KL penalty keeps the policy near a reference. Q̂ is regressed on
the transitions so far and raised by a bonus where they are few. Use it where only the nominal world can be sampled,
deployment will differ from it, and there is a sensible reference policy.

*Policy Regularized Distributionally Robust Markov Decision Processes with Linear Function Approximation* (2025),
arXiv:2510.14246.

The baselines are settings: RPO is ambiguity=None, the greedy DR-LSVI-UCB is eta=inf. Balls for each step and factor,
such as TotalVariation(radius `[H, d]`), are made in Python.

Differences: only the abstract of the paper could be read; the recursion is derived, and the duals are those
of R2PVI, whose regressions for TV and χ² are not clipped to their ranges (Q̂ is). Rewards are known as a table, and the
upper limit of Q̂ follows from their size. With kappa < 1 the policy takes steps of mirror descent and V̂ is the value of
the policy played. A reference that prefers one action gives all others positive probability. Only the metrics use the
true factors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from surefoot.ambiguity import KL, Ambiguity
from surefoot.envs.tabular import TabularMDP, rollouts
from surefoot.envs.tabular.policies import greedy, uniform_policy
from surefoot.errors import UsageError
from surefoot.hyperparameters import hyperparameter
from surefoot.loops.tabular import linear
from surefoot.loops.tabular.episodes import episodic
from surefoot.loops.tabular.gradient import evaluate, softmax
from surefoot.loops.tabular.least_squares import added, coordinate_width, nothing, remembered
from surefoot.loops.tabular.method import Metrics, State, Tabular, as_ambiguity
from surefoot.seeding import torch_stream


@dataclass(frozen=True)
class DRRPO(Tabular):
    """Robust policy optimisation with a KL penalty to a reference; an iteration is one episode."""

    ambiguity: str | Ambiguity | None = hyperparameter(
        "tv-penalty:0.1", help="Ambiguity set of each factor: tv, kl or chi2 penalty; tv or kl ball."
    )
    eta: float = hyperparameter(20.0, above=0, help="η: inverse weight of the KL to the reference; inf: no KL, greedy.")
    reference_action: int | None = hyperparameter(None, low=0, help="Action the reference prefers; None: uniform.")
    reference_share: float = hyperparameter(
        0.9, low=0, below=1, help="Probability mass on that action; the rest is uniform."
    )
    kappa: float = hyperparameter(1.0, above=0, high=1, help="κ: step size of mirror descent; 1 is the closed form.")
    beta: float = hyperparameter(0.05, low=0, help="β: weight of the optimism bonus.")
    ridge: float = hyperparameter(1.0, above=0, help="λ: multiple of the identity added to each Gram matrix.")

    default_steps: ClassVar[int] = 200
    needs: ClassVar[tuple[str, ...]] = ("horizon", "features", "rewards of pairs", "rewards of at least 0")
    default_env: ClassVar[str | None] = "simulated-linear"
    rectangular: ClassVar[str] = "d"

    def start(self, mdp: TabularMDP, seed: int) -> State:
        linear.check_set(as_ambiguity(self.ambiguity), mdp)
        return {
            **nothing(mdp, self.ridge)._asdict(),
            "scores": self.held(mdp).expand(episodic(mdp).reward.shape),
            "best": self.true_value(mdp),
            "lost": torch.zeros((), dtype=torch.float64),
        }

    def reference(self, mdp: TabularMDP) -> Tensor:
        """π_ref `[S, A]`."""
        uniform, action = uniform_policy(mdp), self.reference_action
        if action is None:
            return uniform
        legal = (uniform > 0).all(0).nonzero().flatten().tolist()
        if action not in legal:
            raise UsageError(f"reference_action={action} is not allowed; the actions legal in every state are {legal}.")
        leaning = (1 - self.reference_share) * uniform
        leaning[:, action] += self.reference_share
        return leaning

    def held(self, mdp: TabularMDP) -> Tensor:
        """The scores log(π_ref)/η `[S, A]` of the reference; those of illegal actions do not count."""
        reference = self.reference(mdp)
        return torch.where(reference > 0, reference, 1).log() / self.eta

    def acting(self, mdp: TabularMDP, scores: Tensor) -> Tensor:
        """The policy `[..., S, A]` of scores: ∝ exp(η·score), or the best where η is infinite."""
        return greedy(mdp, scores) if math.isinf(self.eta) else softmax(self.eta * scores, mdp.legal)

    def value(self, mdp: TabularMDP, policy: Tensor, q: Tensor) -> Tensor:
        """Σ_a π·Q − KL(π ‖ π_ref)/η `[S]`."""
        return (policy * q).sum(-1) - KL(0.0).divergence(policy, self.reference(mdp)) / self.eta

    def step(self, mdp: TabularMDP, state: State, seed: int, iteration: int) -> tuple[State, Metrics]:
        world, scores = episodic(mdp), self.improved(mdp, state)
        policy = self.acting(mdp, scores)
        met = rollouts(mdp, policy, 1, generator=torch_stream(seed, "episodes", iteration))
        phi = world.features[torch.arange(world.horizon), met.states, met.actions]
        sums, robust = added(remembered(state), phi, met.next_states), self.true_value(mdp, policy)
        lost = state["lost"] + state["best"] - robust
        return {**state, **sums._asdict(), "scores": scores, "lost": lost}, {
            "return_mean": mdp.initial @ evaluate(mdp, policy).value[0],
            "robust_value": robust,
            "regret": state["best"] - robust,
            "average_regret": lost / (iteration + 1),
        }

    def improved(self, mdp: TabularMDP, state: State) -> Tensor:
        """The scores `[H, S, A]` after a step of mirror descent on the optimistic Q̂: h = H … 1."""
        world, sums, held, most = episodic(mdp), remembered(state), self.held(mdp), linear.ceilings(mdp)
        bonus = self.beta * coordinate_width(world.features, sums.gram)
        values, found = torch.zeros(mdp.states, dtype=torch.float64), []
        for h in reversed(range(len(bonus))):
            q = linear.backup(mdp, sums, h, values, as_ambiguity(self.ambiguity)) + bonus[h]
            q = torch.where(world.over[:, None], 0.0, q.clamp(0, float(most[h])))
            found.append((1 - self.kappa) * state["scores"][h] + self.kappa * (q + held))
            values = self.value(mdp, self.acting(mdp, found[-1]), q)
        return torch.stack(found[::-1])

    def true_value(self, mdp: TabularMDP, policy: Tensor | None = None) -> Tensor:
        """The regularised value of a policy `[H, S, A]` in its worst world; None: that of the best policy."""
        held, values = self.held(mdp), torch.zeros(mdp.states, dtype=torch.float64)
        for h in reversed(range(episodic(mdp).horizon)):
            q = linear.true_backup(mdp, h, values, as_ambiguity(self.ambiguity))
            values = self.value(mdp, self.acting(mdp, q + held) if policy is None else policy[h], q)
        return mdp.initial @ values

    def policy(self, mdp: TabularMDP, state: State) -> Tensor:
        return self.acting(mdp, state["scores"])

    def objective(self) -> str:
        leash = "" if math.isinf(self.eta) else f" − log(π/π_ref)/{self.eta:g}"
        worst = "E_μ[v]" if self.ambiguity is None else str(as_ambiguity(self.ambiguity))
        return f"max_π E[V_1],  V_h = Σ_a π·(r_h + γ·Σ_i φ_i·w_i{leash}),  w_i = {worst},  p = μ_i, v = V_{{h+1}}"

    def steps(self) -> list[str]:
        lean = "" if self.reference_action is None else f", {self.reference_share:g} of it on {self.reference_action}"
        best = "the best action" if math.isinf(self.eta) else f"∝ exp({self.eta:g}·score)"
        return [
            f"Backward, h = H … 1: Λ = Σ φφᵀ + {self.ridge:g}·I over the episodes so far; μ̂ = Λ⁻¹ Σ φ·1{{s'}}.",
            "w_i = the dual of the worst case, its expectations regressed with μ̂_i.",
            f"Q̂ = r + γ·φᵀw + {self.beta:g}·Σ φ_i·√(Λ⁻¹)_ii, between 0 and its upper limit; 0 in ended states.",
            f"Score ← score + {self.kappa:g}·(Q̂ + log(π_ref)/η − score), π_ref uniform{lean}; π: {best}.",
            "V̂ = Σ_a π·Q̂ − KL(π ‖ π_ref)/η. After the last step back, play one episode with π in the nominal world.",
        ]


METHOD = DRRPO
