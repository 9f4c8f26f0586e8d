"""Policy gradients for expected conditional risk: the mean and the tail of every cost, given the step before.

    minimise  J(π) = E c₁ + Σ_{t≥2} γ^{t−1} E[ (1−λ)·E[c_t | s_{t−1}, a_{t−1}] + λ·CVaR_α[c_t | s_{t−1}, a_{t−1}] ]

Costs are negated rewards. The policy chooses with each action a threshold η for the next cost, which makes J the plain
return of a larger MDP (`conditional_risk`) and its policy one with a memory of η. Use it where
rare bad steps must be avoided and a risk of the whole return, which is not time-consistent, is not suitable.

Four updates of the paper, all for the table of the larger MDP, d its discounted visits and Q its values of actions, as
returns:

    natural      π ← π^{1−bτ}·exp(b·Q_τ) / Z             b = β in the first step, β/(1−γ) after it; entropy of weight τ
    projected    π ← Proj(π + β·d·Q)
    softmax      θ ← θ + β·∇_θ(−J + κ·mean log π)          the log-barrier keeps every action alive
    reinforce    θ ← θ + β·mean Σ_t γ^t·Â_t·∇_θ log π(a_t, η_{t+1} | s_t, η_t),   Â with a critic of s and η

Xian Yu and Lei Ying, *On the Global Convergence of Risk-Averse Policy Gradient Methods with Expected Conditional Risk
Measures* (2023), arXiv:2301.10932.

Differences: where an episode is over the only η is 0, so that no further cost arises. Sampled episodes are truncated
after `length` steps and bootstrapped from the critic, several per update; `trace` = 1 is REINFORCE with that critic as
its baseline, 0 the actor-critic. Samples of a rare tail are few: on this library's cliff walk 3,000
episodes do not reach the risk-averse policies that the exact updates find.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from surefoot.envs.tabular import TabularMDP
from surefoot.envs.tabular.policies import uniform_policy
from surefoot.envs.tabular.simulate import rollouts
from surefoot.errors import UsageError
from surefoot.hyperparameters import hyperparameter
from surefoot.loops.tabular.gradient import (
    direct_gradient,
    evaluate,
    project,
    returns_to_go,
    score_gradient,
    softmax_gradient,
)
from surefoot.loops.tabular.method import Metrics, State, Tabular
from surefoot.methods.tabular.ecrm.conditional_risk import augmented, controller
from surefoot.seeding import torch_stream


@dataclass(frozen=True)
class ECRM(Tabular):
    """Risk-averse policy gradient with expected conditional risk measures."""

    needs: ClassVar[tuple[str, ...]] = ("no horizon", "discount", "rewards of pairs")
    default_env: ClassVar[str | None] = "cliff-walk"
    default_steps: ClassVar[int] = 500

    update: str = hyperparameter(
        "natural", choices=("natural", "projected", "softmax", "reinforce"), help="Form of the policy update."
    )
    lam: float = hyperparameter(0.5, low=0, high=1, help="λ: weight of the CVaR; 0 is the expected cost.")
    alpha: float = hyperparameter(0.95, low=0, below=1, help="α: the tail is the highest share 1 − α of a cost.")
    points: int | None = hyperparameter(
        None, low=2, help="Number of thresholds η on an even grid; None: every cost, exact."
    )
    step_size: float | None = hyperparameter(None, above=0, help="β: step size; None: (1−γ)/τ for natural, else 0.5.")
    tau: float = hyperparameter(1e-3, above=0, help="τ: weight of the entropy; natural only.")
    kappa: float = hyperparameter(0.0, low=0, help="κ: weight of the log-barrier; softmax only.")
    episodes: int = hyperparameter(10, low=1, help="Episodes per update; reinforce only.")
    length: int = hyperparameter(100, low=1, help="Maximum episode length; reinforce only.")
    critic_rate: float = hyperparameter(0.1, above=0, high=1, help="Step size of the critic; reinforce only.")
    trace: float = hyperparameter(1.0, low=0, high=1, help="λ of GAE; reinforce only.")

    def admit(self, mdp: TabularMDP) -> None:
        super().admit(mdp)
        world = self.world(mdp)
        most = (1 - world.gamma) / self.tau
        if self.update == "natural" and self.rate(mdp) > most * (1 + 1e-12):
            raise UsageError(
                f"ECRM: step_size={self.step_size:g} is too large for the natural update: with gamma={mdp.gamma:g} and "
                f"tau={self.tau:g} it may be at most (1−γ)/τ = {most:g}. Give a smaller one or a smaller tau."
            )

    def world(self, mdp: TabularMDP) -> TabularMDP:
        """The MDP augmented with η, whose return is −J."""
        return augmented(mdp, self.lam, self.alpha, self.points)

    def rate(self, mdp: TabularMDP) -> float:
        """β."""
        if self.step_size is not None:
            return self.step_size
        return (1 - mdp.gamma) / self.tau if self.update == "natural" else 0.5

    def start(self, mdp: TabularMDP, seed: int) -> State:
        world = self.world(mdp)
        log_prob = uniform_policy(world).log()
        return {"log_prob": log_prob, "critic": torch.zeros(world.states, dtype=log_prob.dtype)}

    def step(self, mdp: TabularMDP, state: State, seed: int, iteration: int) -> tuple[State, Metrics]:
        """One update. The metrics are those of the policy before it: the plain return, and J as "risk"."""
        world, policy = self.world(mdp), state["log_prob"].exp()
        found = evaluate(world, policy)
        plain = augmented(mdp, 0.0, self.alpha, self.points).reward
        metrics = {
            "return_mean": found.occupancy @ (policy * plain).sum(-1),
            "risk": -(world.initial @ found.value),
        }
        log_prob, critic = state["log_prob"], state["critic"]
        if self.update == "natural":
            log_prob = self.natural(mdp, world, log_prob)
        elif self.update == "projected":
            gradient = direct_gradient(found.occupancy, found.q)
            log_prob = project(policy + self.rate(mdp) * gradient, world.legal).log()
        elif self.update == "softmax":
            gradient = softmax_gradient(found.occupancy, policy, found.q) + self.kappa * barrier(policy, world.legal)
            log_prob = (log_prob + self.rate(mdp) * gradient).log_softmax(-1)
        else:
            gradient, critic = self.sampled(world, policy, critic, torch_stream(seed, "episodes", iteration))
            log_prob = (log_prob + self.rate(mdp) * gradient).log_softmax(-1)
        return {"log_prob": log_prob, "critic": critic}, metrics

    def natural(self, mdp: TabularMDP, world: TabularMDP, log_prob: Tensor) -> Tensor:
        """Natural gradient of the return with entropy: a step towards the softmax of Q_τ/τ."""
        policy = log_prob.exp()
        entropy = torch.special.entr(policy).sum(
            -1, keepdim=True
        )  # the same for all actions of a state, so it does not change the policy
        q = evaluate(dataclasses.replace(world, reward=world.reward + self.tau * entropy), policy).q
        b = torch.full((world.states, 1), self.rate(mdp) / (1 - mdp.gamma), dtype=q.dtype)
        b[: mdp.states] = self.rate(mdp)
        moved = (1 - b * self.tau) * log_prob.masked_fill(~world.legal, 0.0) + b * q
        return moved.masked_fill(~world.legal, -torch.inf).log_softmax(-1)

    def sampled(
        self, world: TabularMDP, policy: Tensor, critic: Tensor, stream: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """The gradient from episodes, and the critic moved towards the observed returns."""
        met = rollouts(world, policy, self.episodes, self.length, stream)
        surprise = met.rewards + world.gamma * critic[met.next_states] - critic[met.states]
        advantage = returns_to_go(surprise, world.gamma * self.trace)
        gradient = score_gradient(policy, met, world.gamma ** torch.arange(self.length) * advantage)
        visits = torch.bincount(met.states.flatten(), minlength=world.states).clamp(min=1)
        error = torch.bincount(met.states.flatten(), advantage.flatten(), world.states) / visits
        return gradient, critic + self.critic_rate * error

    def policy(self, mdp: TabularMDP, state: State) -> Tensor:
        return controller(mdp, state["log_prob"].exp())

    def objective(self) -> str:
        tail = f"{self.lam:g}·CVaR_{self.alpha:g}[c_t | s_{{t−1}}, a_{{t−1}}]"
        return f"minimise  E c_1 + Σ_{{t≥2}} γ^{{t−1}} E[ {1 - self.lam:g}·E[c_t | s_{{t−1}}, a_{{t−1}}] + {tail} ]"

    def steps(self) -> list[str]:
        move = {
            "natural": f"π ← π^(1−bτ)·exp(b·Q_τ)/Z, τ = {self.tau:g}; b = β in the first step, then β/(1−γ)",
            "projected": "π ← Proj(π + β·d·Q), row by row",
            "softmax": f"θ ← θ + β·(d·π·(Q − V) + {self.kappa:g}·∇ mean log π)",
            "reinforce": f"θ ← θ + β·mean Σ γ^t·Â_t·∇log π; V(s, η) moves by {self.critic_rate:g} of its error",
        }[self.update]
        see = f"play {self.episodes} episodes of {self.length} steps; Â by GAE with λ = {self.trace:g}"
        look = see if self.update == "reinforce" else "solve for Q and the discounted visits d of the policy, exactly"
        cost = "(1−λ)·c + λ/(1−α)·(c − η)₊ + γλη′, in the first step c + γλη′"
        return [f"states (s, η), actions (a, η′), costs {cost}", look, move]


def barrier(policy: Tensor, legal: Tensor) -> Tensor:
    """∂/∂θ of the mean of log π over all legal pairs."""
    allowed = legal.to(policy.dtype)
    return (allowed - allowed.sum(-1, keepdim=True) * policy) / allowed.sum()


METHOD = ECRM
