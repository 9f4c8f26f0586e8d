"""Policy gradients for regularised robust MDPs, which are risk-sensitive MDPs, and robust fitted-Z iteration.

For policies that should keep their value when the true transitions differ from the measured ones, with one parameter
for how much. An adversary chooses the next-state distribution of every pair of state and action, at a price:

    V(s) = Σ_a π(a|s) Q(s, a)        Q(s, a) = r(s, a) + γ min_q { E_q V + D(q ‖ P(·|s, a)) }

The minimum is −σ(V) for a convex risk measure σ, so this is a risk-sensitive MDP: for D = KL/β the entropic risk
−(1/β) log E_P exp(−βV). The risk is that of the next state for each action, averaged over actions, which makes every
stationary point of the gradient optimal: ∂V(ρ)/∂π(a|s) = d(s) Q(s, a), d being the discounted visits in the worst
world. A set without a price (a ball) is the standard robust MDP. β is a temperature: large is adversarial.

Reference: Zhang, Hu & Li, "Soft Robust MDPs and Risk-Sensitive MDPs: Equivalence, Policy Gradient, and Sample
Complexity", ICLR 2024 (arXiv:2306.11626).

Beyond the paper: `SampledGradient` estimates that gradient from episodes of the nominal world, weighing each transition
by exp(−βV(s'))/Z(s, a) (the weights of a step normalised over the episodes, or their variance would grow with its
number); `RFZI` keeps −(1/β) log Z, since Z vanishes for large βV, and gives pairs without data the worst next value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from surefoot.ambiguity import KL, Ambiguity
from surefoot.envs.tabular import TabularMDP, Transitions, offline, rollouts
from surefoot.envs.tabular.policies import greedy, uniform_policy
from surefoot.hyperparameters import hyperparameter
from surefoot.loops.tabular.gradient import direct_gradient, evaluate, project
from surefoot.loops.tabular.method import Metrics, State, Tabular, as_ambiguity
from surefoot.methods.tabular.regularized_rmdp.fitted_z import entropic_means
from surefoot.seeding import torch_stream


@dataclass(frozen=True)
class RegularizedRMDP(Tabular):
    """Projected ascent on the exact gradient; the parameters are the policy's probabilities."""

    needs: ClassVar = ("no horizon", "discount", "foresight")
    default_env: ClassVar[str | None] = "river-swim"
    default_steps: ClassVar[int] = 200

    ambiguity: str | Ambiguity = hyperparameter("kl-penalty:1", help="Ambiguity set or penalty of the adversary.")
    learning_rate: float = hyperparameter(0.1, above=0, help="Step size on the probabilities.")

    def start(self, mdp: TabularMDP, seed: int) -> State:
        policy = uniform_policy(mdp)
        found = evaluate(mdp, policy, as_ambiguity(self.ambiguity))
        return {"policy": policy, "q": found.q, "occupancy": found.occupancy}

    def step(self, mdp: TabularMDP, state: State, seed: int, iteration: int) -> tuple[State, Metrics]:
        gradient = direct_gradient(state["occupancy"], state["q"])
        policy = project(state["policy"] + self.learning_rate * gradient, mdp.legal)
        found = evaluate(mdp, policy, as_ambiguity(self.ambiguity))
        best = greedy(mdp, found.q)
        metrics = {
            "return_mean": mdp.initial @ evaluate(mdp, policy).value,
            "robust_mean": mdp.initial @ found.value,
            "stationarity": (direct_gradient(found.occupancy, found.q) * (best - policy)).sum(),
        }
        return {"policy": policy, "q": found.q, "occupancy": found.occupancy}, metrics

    def policy(self, mdp: TabularMDP, state: State) -> Tensor:
        return state["policy"]

    def objective(self) -> str:
        return f"max_π E_ρ[V],  V(s) = Σ_a π(a|s) (r(s, a) + γ · {as_ambiguity(self.ambiguity)}),  v = V(s')"

    def steps(self) -> list[str]:
        return [
            f"V, worst kernel P̂ of π under {as_ambiguity(self.ambiguity)}; Q = r + γ·(P̂·V + price paid)",
            "d(s) = Σ_t γ^t Pr(s_t = s) under π and P̂",
            f"π(·|s) ← nearest distribution to π(·|s) + {self.learning_rate:g}·d(s)·Q(s, ·)",
        ]


@dataclass(frozen=True)
class SampledGradient(Tabular):
    """The same ascent for D = KL/β on a gradient estimated from episodes of the nominal world alone."""

    needs: ClassVar = RegularizedRMDP.needs
    default_env: ClassVar[str | None] = RegularizedRMDP.default_env
    default_steps: ClassVar[int] = 200

    beta: float = hyperparameter(1.0, above=0, help="β: temperature of the adversary; larger is more adversarial.")
    learning_rate: float = hyperparameter(0.1, above=0, help="Step size on the probabilities.")
    episodes: int = hyperparameter(64, low=1, help="Episodes per iteration.")
    length: int = hyperparameter(50, low=1, help="Steps per episode.")
    critic_sweeps: int = hyperparameter(10, low=1, help="Passes of the critic over the episodes.")
    critic_rate: float = hyperparameter(0.5, above=0, high=1, help="Step size of Z towards the mean of a pass.")

    def start(self, mdp: TabularMDP, seed: int) -> State:
        return {"policy": uniform_policy(mdp), "q": torch.zeros(mdp.states, mdp.actions, dtype=torch.float64)}

    def step(self, mdp: TabularMDP, state: State, seed: int, iteration: int) -> tuple[State, Metrics]:
        policy, q = state["policy"], state["q"]
        met = rollouts(mdp, policy, self.episodes, self.length, torch_stream(seed, "episodes", iteration))
        for _ in range(self.critic_sweeps):
            q = self.critic(mdp, policy, q, met)
        visits, weight = self.visits(mdp, policy, q, met)
        policy = project(policy + self.learning_rate * direct_gradient(visits, q), mdp.legal)
        metrics = {
            "return_mean": mdp.initial @ evaluate(mdp, policy).value,
            "robust_mean": mdp.initial @ evaluate(mdp, policy, KL(penalty=1 / self.beta)).value,
            "effective_sample_size": 1 / weight[:, -1].square().sum(),
        }
        return {"policy": policy, "q": q}, metrics

    def critic(self, mdp: TabularMDP, policy: Tensor, q: Tensor, met: Transitions) -> Tensor:
        """Q = r − (γ/β) log Z after Z has moved to the mean of exp(−βV(s')) over the observed transitions."""
        ahead = (policy * q).sum(-1)[met.next_states] + met.rewards / mdp.gamma
        pair, scale = (met.states * mdp.actions + met.actions).flatten(), -self.beta / mdp.gamma
        seen = mdp.gamma * entropic_means(ahead.flatten(), pair, q.numel(), self.beta).view_as(q)
        stay, move = torch.tensor([1 - self.critic_rate, self.critic_rate], dtype=q.dtype).log()
        moved = torch.logaddexp(stay + scale * q, move + scale * seen) / scale
        return torch.where(torch.bincount(pair, minlength=q.numel()).view_as(q) > 0, moved, q)

    def visits(self, mdp: TabularMDP, policy: Tensor, q: Tensor, met: Transitions) -> tuple[Tensor, Tensor]:
        """Discounted visits `[S]` of the worst world, and the importance weights `[N, T]` of nominal episodes."""
        ratios = self.log_ratio(mdp, policy, q, met)
        weight = (ratios.cumsum(1) - ratios).softmax(0)  # product over earlier steps, normalised over the episodes
        discounted = mdp.gamma ** torch.arange(weight.shape[1]) * weight
        return torch.bincount(met.states.flatten(), discounted.flatten(), minlength=mdp.states), weight

    def log_ratio(self, mdp: TabularMDP, policy: Tensor, q: Tensor, met: Transitions) -> Tensor:
        """log(exp(−βV(s'))/Z(s, a)) `[N, T]`: how much likelier the worst world makes each transition."""
        value = (policy * q).sum(-1)[met.next_states]
        return -self.beta * (value + (met.rewards - q[met.states, met.actions]) / mdp.gamma)

    def policy(self, mdp: TabularMDP, state: State) -> Tensor:
        return state["policy"]

    def objective(self) -> str:
        return (
            f"max_π E_ρ[V],  V(s) = Σ_a π(a|s) (r(s, a) − (γ/β) log Z(s, a)),  Z = E exp(−βV(s')),  β = {self.beta:g}"
        )

    def steps(self) -> list[str]:
        return [
            f"play {self.episodes} episodes of {self.length} steps in the nominal world",
            f"{self.critic_sweeps} times: Z(s, a) ← Z + {self.critic_rate:g}·(mean of exp(−βV(s')) − Z),  V = Σ_a π·Q",
            "weight step t of an episode by Π exp(−βV(s'))/Z(s, a) over earlier steps, normalised over the episodes",
            "d(s) = Σ_t γ^t · weight of the episodes that are in s at t;  Q = r − (γ/β) log Z",
            f"π(·|s) ← nearest distribution to π(·|s) + {self.learning_rate:g}·d(s)·Q(s, ·)",
        ]


@dataclass(frozen=True)
class RFZI(Tabular):
    """Robust fitted-Z iteration on transitions of uniformly drawn pairs, with a table for Z (see `fitted_z`)."""

    needs: ClassVar = RegularizedRMDP.needs
    default_env: ClassVar[str | None] = RegularizedRMDP.default_env
    default_steps: ClassVar[int] = 200

    beta: float = hyperparameter(1.0, low=0, help="β: temperature of the adversary; 0 is fitted-Q iteration.")
    samples: int = hyperparameter(20_000, low=1, help="Number of transitions in the data set.")

    def start(self, mdp: TabularMDP, seed: int) -> State:
        every = torch.full((mdp.states,), 1 / mdp.states, dtype=torch.float64)
        stream = torch_stream(seed, "data set")
        met = offline(mdp, uniform_policy(mdp), self.samples, stream, states=every)
        pair = met.states * mdp.actions + met.actions
        q = torch.zeros(mdp.states, mdp.actions, dtype=torch.float64)
        return {"pair": pair, "reward": met.rewards, "next_state": met.next_states, "q": q}

    def step(self, mdp: TabularMDP, state: State, seed: int, iteration: int) -> tuple[State, Metrics]:
        value = (greedy(mdp, state["q"]) * state["q"]).sum(-1)[state["next_state"]] + state["reward"] / mdp.gamma
        q = mdp.gamma * entropic_means(value, state["pair"], state["q"].numel(), self.beta).view_as(state["q"])
        q = torch.where(mdp.ended[:, None], 0.0, q)  # also without data
        policy, set_ = greedy(mdp, q), None if self.beta == 0 else KL(penalty=1 / self.beta)
        metrics = {
            "return_mean": mdp.initial @ evaluate(mdp, policy).value,
            "robust_mean": mdp.initial @ evaluate(mdp, policy, set_).value,
            "change": (q - state["q"]).abs().max(),
        }
        return {**state, "q": q}, metrics

    def policy(self, mdp: TabularMDP, state: State) -> Tensor:
        return greedy(mdp, state["q"])

    def objective(self) -> str:
        return "min_Z mean (Z(s, a) − exp(−β V(s')))²,  V(s) = max_a Q(s, a),  Q = r − (γ/β) log Z"

    def steps(self) -> list[str]:
        return [
            f"V = max_a Q at the next states of {self.samples} transitions",
            f"Z(s, a) = mean of exp(−{self.beta:g}·V) over those of (s, a), or its largest where there are none",
            "Q = r − (γ/β) log Z",
        ]


METHOD = RegularizedRMDP
