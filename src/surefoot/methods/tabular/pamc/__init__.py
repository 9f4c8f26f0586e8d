"""PAMC: rarely observed rewards, completed as a low-rank matrix and used only where the completion can be trusted.

For sparse feedback: a visit of (s, a) reveals its reward with probability `reveal`. If the matrix of rewards has low
rank except for a few spikes, few entries determine the others. Which entries are seen depends on the policy, so the
loss is weighted by the probability P(s, a) of having been seen, and a conformal interval of half-width w bounds the
error of an unseen entry:

    R̂ = U Vᵀ,   min Σ_seen ((r − U Vᵀ − E)² + λ₁|E|)/P + λ(‖U‖² + ‖V‖²)
    r̃ = mean reward where seen,  otherwise  c·R̂ + (1 − c)·β/√(1 + n),   c = max(0, 1 − w/τ)

The policy is the best one for r̃ in the learned model; c = 0 is abstention, which leaves a count bonus. All entries
abstain if completion predicts held-out rewards no better than their mean, and a row abstains if none of its entries
has been seen. Error to regret: V* − V^π̂ ≤ (E_{d^π*}|R − R̂| + E_{d^π̂}|R − R̂|)/(1 − γ) for the greedy policy π̂ of R̂.

Reference: "What Fundamental Structure in Reward Functions Enables Efficient Sparse-Reward Learning?" (2025),
arXiv:2509.03790. Its abstract names the parts (completion, inverse propensities, conformal sets, abstention); every
formula here is derived to have these properties.

Differences: tables instead of networks, no representation learnt beforehand, so a row that is never seen stays unknown.
The penalty on spikes is weighted by 1/P like the loss: otherwise rare entries would be explained away as spikes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from surefoot.envs.tabular import TabularMDP, Transitions, rollouts
from surefoot.envs.tabular.memory import check_memory
from surefoot.envs.tabular.policies import uniform_policy
from surefoot.hyperparameters import hyperparameter
from surefoot.loops.tabular.gradient import evaluate, occupancy
from surefoot.loops.tabular.method import Metrics, State, Tabular
from surefoot.methods.tabular.pamc.completion import complete, conformal_width, leverage
from surefoot.seeding import torch_stream
from surefoot.solvers import solve


class Completed(NamedTuple):
    """Estimates of the unseen rewards, all `[S, A]`; an entry's own reward is not used."""

    reward: Tensor
    width: Tensor  # half-width of its interval, infinite where too little is known
    confidence: Tensor


@dataclass(frozen=True)
class PAMC(Tabular):
    """Policy-aware matrix completion with a conformal gate; an iteration is `episodes` episodes and one completion."""

    needs: ClassVar[tuple[str, ...]] = ("no horizon", "discount", "rewards of pairs")
    default_env: ClassVar[str | None] = "garnet"
    default_steps: ClassVar[int] = 40

    reveal: float = hyperparameter(0.1, above=0, high=1, help="Probability that a visit reveals its reward.")
    episodes: int = hyperparameter(10, low=1, help="Episodes between completions.")
    length: int = hyperparameter(30, low=1, help="Steps per episode.")
    rank: int = hyperparameter(3, low=1, help="k: rank of the completion.")
    ridge: float = hyperparameter(0.1, above=0, help="λ: ridge of the factors, for rewards of size 1.")
    sparse: float = hyperparameter(0.5, low=0, help="λ₁: penalty on spikes; residuals above λ₁/2 are spikes.")
    least: float = hyperparameter(0.05, above=0, high=1, help="Lower bound of the propensities P.")
    alpha: float = hyperparameter(0.1, above=0, below=1, help="α: share of unseen rewards that the intervals may miss.")
    tau: float = hyperparameter(0.5, above=0, help="τ: half-width at which trust is 0, as a share of the range.")
    beta: float = hyperparameter(0.3, low=0, help="β: bonus of a pair never visited, for rewards of size 1.")
    trusted: int = hyperparameter(1, low=1, help="Number of observed rewards from which a pair's mean is used.")

    def start(self, mdp: TabularMDP, seed: int) -> State:
        shape = (mdp.states, mdp.actions)
        check_memory(
            24 * mdp.states * mdp.states * mdp.actions, f"a learned model of {mdp.name!r}", "Take fewer states."
        )
        zeros = torch.zeros(shape, dtype=torch.float64)
        return {
            "starts": zeros[:, 0],
            "followed": zeros.new_zeros(*shape, mdp.states),
            "seen": zeros,
            "earned": zeros,
            "hidden": zeros,  # log of the probability of not having been seen
            "policy": uniform_policy(mdp),
            "explorer": uniform_policy(mdp),
        }

    def step(self, mdp: TabularMDP, state: State, seed: int, iteration: int) -> tuple[State, Metrics]:
        met = rollouts(mdp, state["explorer"], self.episodes, self.length, torch_stream(seed, "episodes", iteration))
        shown = torch.rand(met.states.shape, generator=torch_stream(seed, "revealed", iteration)) < self.reveal
        state = self.remember(mdp, state, met, shown)
        found = self.completed(state, torch_stream(seed, "completion", iteration))
        known, bonus = self.rewards(state, found)
        state["policy"] = solve(self.model(mdp, state, known), tolerance=1e-6).policy
        state["explorer"] = solve(self.model(mdp, state, known + bonus), tolerance=1e-6).policy
        unseen = state["seen"] < self.trusted
        return state, {
            "return_mean": mdp.initial @ evaluate(mdp, state["policy"]).value,
            "online_mean": mdp.initial @ evaluate(mdp, state["explorer"]).value,
            "seen": 1 - unseen.double().mean(),
            "confidence": found.confidence[unseen].mean() if bool(unseen.any()) else 1.0,
        }

    def remember(self, mdp: TabularMDP, state: State, met: Transitions, shown: Tensor) -> State:
        """The counts after more episodes, and the updated probability that a reward has been seen."""
        pair = (met.states * mdp.actions + met.actions).flatten()
        followed = torch.bincount(pair * mdp.states + met.next_states.flatten(), minlength=state["followed"].numel())
        shape, shown = state["seen"].shape, shown.flatten().double()
        state = {
            **state,
            "starts": state["starts"] + torch.bincount(met.states[:, 0], minlength=mdp.states),
            "followed": state["followed"] + followed.view(state["followed"].shape),
            "seen": state["seen"] + torch.bincount(pair, shown, minlength=shape.numel()).view(shape),
            "earned": state["earned"] + torch.bincount(pair, shown * met.rewards.flatten(), shape.numel()).view(shape),
        }
        visits = occupancy(self.model(mdp, state, state["seen"], self.length), state["explorer"])
        chance = self.reveal * visits[..., None] * state["explorer"]
        return {**state, "hidden": state["hidden"] + self.episodes * torch.log1p(-chance.clamp(max=1 - 1e-12)).sum(0)}

    def model(self, mdp: TabularMDP, state: State, reward: Tensor, horizon: int | None = None) -> TabularMDP:
        """The learned model with these rewards; transitions of unvisited pairs are uniform."""
        times = state["followed"].sum(-1, keepdim=True)
        kernel = torch.where(times > 0, state["followed"] / times.clamp(min=1), 1 / mdp.states)
        starts = state["starts"] / state["starts"].sum()
        return TabularMDP(kernel, reward, 1.0 if horizon else mdp.gamma, starts, horizon, mdp.legal)

    def propensity(self, state: State) -> Tensor:
        """P `[S, A]`: the probability that a reward has been seen, from the visits that the model predicts."""
        return (-torch.expm1(state["hidden"])).clamp(self.least, 1.0)

    def completed(self, state: State, stream: torch.Generator) -> Completed:
        """The completion from four fifths of the seen entries, its width from the others."""
        observed, chance = state["seen"] > 0, self.propensity(state)
        mean = state["earned"] / state["seen"].clamp(min=1)
        scale = size(mean)
        held = observed & (torch.rand(mean.shape, generator=stream) < 0.2)
        weight = torch.where(observed & ~held, 1 / chance, 0.0)
        made = complete(mean / scale, weight, self.rank, self.ridge, self.sparse, stream)
        spread = leverage(weight, made.right, self.ridge).clamp(min=1e-12)
        odds, error = (1 - chance) / chance, (mean / scale - made.matrix).abs()
        unit = conformal_width((error / spread)[held], odds[held], odds, self.alpha)
        width = scale * unit * spread
        usual = (weight * mean).sum() / weight.sum().clamp(min=1e-12) / scale
        plain = (odds * (mean / scale - usual) ** 2)[held].sum()
        row = (weight > 0).any(-1, keepdim=True) & bool((odds * error**2)[held].sum() < plain)
        return Completed(scale * made.matrix, width, row * self.confidence(width / spreads(mean, observed)))

    def confidence(self, width: Tensor) -> Tensor:
        """c in [0, 1] of half-widths in units of the rewards' range."""
        return (1 - width / self.tau).clamp(min=0)

    def rewards(self, state: State, found: Completed) -> tuple[Tensor, Tensor]:
        """The estimated rewards and the exploration bonus, whose sum is r̃."""
        mean, unseen = state["earned"] / state["seen"].clamp(min=1), state["seen"] < self.trusted
        bonus = self.beta * size(mean) * (1 - found.confidence) / (1 + state["followed"].sum(-1)).sqrt()
        return torch.where(unseen, found.confidence * found.reward, mean), torch.where(unseen, bonus, 0.0)

    def policy(self, mdp: TabularMDP, state: State) -> Tensor:
        return state["policy"]

    def objective(self) -> str:
        return f"max_π E Σ γ^t r̃(s_t, a_t),  r̃ = mean where seen, else c·R̂ + (1 − c)·{self.beta:g}/√(1 + n)"

    def steps(self) -> list[str]:
        return [
            f"play {self.episodes} episodes of {self.length} steps, best for r̃; rewards seen with p = {self.reveal:g}",
            f"P(s, a) = 1 − Π (1 − p·Pr(s_t = s, a_t = a)) over all steps so far, by the model; ≥ {self.least:g}",
            f"R̂ = U·Vᵀ of rank {self.rank} by least squares with weights 1/P on four fifths of the seen entries",
            f"w = quantile {1 - self.alpha:g} of the errors of the others, relative to leverage, weights (1 − P)/P",
            f"c = max(0, 1 − w/({self.tau:g}·range)); 0 in rows with nothing seen, or if R̂ is no better than a mean",
            "π = best policy for the mean or c·R̂ in the learned model (without the bonus, which is for exploring)",
        ]


def size(mean: Tensor) -> Tensor:
    """The size of the rewards seen so far, 1 before there are any."""
    most = mean.abs().max()
    return torch.where(most > 0, most, 1.0)


def spreads(mean: Tensor, observed: Tensor) -> Tensor:
    """The range of the rewards seen so far, or their size if all are equal."""
    if not bool(observed.any()):
        return size(mean)
    least, most = mean[observed].aminmax()
    return torch.where(most > least, most - least, size(mean))


METHOD = PAMC
