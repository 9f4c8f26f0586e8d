"""Robust relative value iteration without a model: the best average reward in the worst world, from nominal samples.

For continuing tasks whose transitions differ somewhat from those that can be sampled. An adversary chooses the
next-state distribution of every pair of state and action from a set around the nominal one, σ(V) = min_q E_q V:

    Q(s, a) = r(s, a) + σ_{s,a}(V) − g,   V(s) = max_a Q(s, a)

The solution has g = g*, the best worst-case average reward, which its greedy policy attains. g is unknown; the offset
f(Q), any shift-equivariant and homogeneous function of the table, takes its place and converges to it:

    Q_{n+1} = Q_n + α_n (r + σ̂(V_n) − f(Q_n) − Q_n),   α_n = c/(n+1)^power

for every pair at once, σ̂ being an unbiased estimate from samples of the nominal kernel (`multilevel`).
`RobustRVITD` is the same for the values of a given policy.

Reference: Wang, Velasquez, Atia, Prater-Bennette & Zou, "Model-Free Robust Average-Reward Reinforcement Learning", ICML
2023 (arXiv:2305.10504). It assumes one recurrent class of states under every policy and every kernel of the set; with
several recurrent classes there is no single g, and f(Q) is meaningless.

Differences: levels are capped, because the uncapped estimate needs infinitely many samples on average for the Ψ < 1/2
of the paper; the remaining bias is that of 2^{cap+1} samples. Contamination needs no estimator of its own: it is linear
in the distribution, so the levels above the first sample add nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from surefoot.ambiguity import Ambiguity
from surefoot.envs.tabular import TabularMDP
from surefoot.envs.tabular.policies import greedy, uniform_policy
from surefoot.hyperparameters import hyperparameter
from surefoot.loops.tabular.gradient import occupancy
from surefoot.loops.tabular.method import Metrics, State, Tabular, as_ambiguity
from surefoot.methods.tabular.robust_average_reward.multilevel import Draws, Levels, worst
from surefoot.seeding import numpy_stream
from surefoot.solvers.backups import check_monotone
from surefoot.solvers.outcomes import Rows, check_pairs, nominal_rows, reach
from surefoot.solvers.solve import as_policy

OFFSETS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda entries: entries.mean(-1),
    "first": lambda entries: entries[..., 0],
    "largest": lambda entries: entries.amax(-1),
}
ENDLESS = 1 - 1e-7  # the discount used to compute long-run visits


@dataclass(frozen=True)
class RobustRVI(Tabular):
    """Robust RVI Q-learning with a simulator of the nominal world; an iteration is a batch of updates of all pairs."""

    needs: ClassVar[tuple[str, ...]] = ("no horizon",)
    default_env: ClassVar[str | None] = "trap"
    criterion: ClassVar[str | None] = "average"
    default_steps: ClassVar[int] = 200

    ambiguity: str | Ambiguity = hyperparameter("kl:0.05", help="Ambiguity set around each nominal row.")
    offset: str = hyperparameter("mean", choices=tuple(OFFSETS), help="f: the offset that estimates the gain.")
    rate: float = hyperparameter(1.0, above=0, high=1, help="c: initial step size.")
    power: float = hyperparameter(0.7, above=0.5, high=1, help="Exponent of the step size c/(n+1)^power.")
    psi: float = hyperparameter(
        0.5, above=0, below=1, help="Ψ: probability of level 0; each further level is 1 − Ψ times as likely."
    )
    cap: int = hyperparameter(8, low=0, high=30, help="Highest level: at most 2^(cap+1) samples per pair.")
    batch: int = hyperparameter(100, low=1, help="Updates of every pair per iteration.")

    def admit(self, mdp: TabularMDP) -> None:
        super().admit(mdp)
        check_monotone(as_ambiguity(self.ambiguity), "average")
        check_pairs(as_ambiguity(self.ambiguity), mdp)

    def start(self, mdp: TabularMDP, seed: int) -> State:
        return {"table": torch.zeros(mdp.states, mdp.actions, dtype=torch.float64)}

    def step(self, mdp: TabularMDP, state: State, seed: int, iteration: int) -> tuple[State, Metrics]:
        rows, table, samples = self.rows(mdp), state["table"], 0.0
        stream = numpy_stream(seed, "next states", iteration)
        for n in range(iteration * self.batch, (iteration + 1) * self.batch):
            draws = Levels(self.psi, self.cap).draw(rows.probability, stream)
            table = self.update(mdp, rows, table, draws, n)
            samples += float(draws.samples.double().mean())
        state = {"table": table}
        return state, {
            "return_mean": mean_reward(mdp, self.policy(mdp, state)),
            "gain": self.gain(mdp, table),
            "samples": samples / self.batch,
        }

    def rows(self, mdp: TabularMDP) -> Rows:
        """The rows to sample: an entry for every state that the set may move mass to."""
        near = reach(as_ambiguity(self.ambiguity)) == "successors"
        return nominal_rows(mdp).widened(mdp.initial, "successors" if near else "all")

    def update(self, mdp: TabularMDP, rows: Rows, table: Tensor, draws: Draws, n: int) -> Tensor:
        """The table after update n = 0, 1, …; tables and draws may have a leading axis of seeds."""
        value = self.value(mdp, table)
        ahead = value[..., None, None, :] if rows.state is None else value[..., rows.state]
        worst_ahead = worst(ahead + rows.reward if rows.by_outcome else ahead, draws, as_ambiguity(self.ambiguity))
        if bool(mdp.ended.any()):  # no adversary moves an episode out of them
            worst_ahead = torch.where(mdp.ended[:, None], value[..., None], worst_ahead)
        target = self.target(mdp, worst_ahead if rows.by_outcome else rows.reward + worst_ahead)
        gain = self.gain(mdp, table)
        gain = gain.reshape(gain.shape + (1,) * (table.ndim - gain.ndim))
        return table + self.rate * (n + 1) ** -self.power * (target - gain - table)

    def value(self, mdp: TabularMDP, table: Tensor) -> Tensor:
        """V `[..., S]`: the best legal entry of each state."""
        return (table if mdp.legal is None else table.masked_fill(~mdp.legal, -torch.inf)).amax(-1)

    def target(self, mdp: TabularMDP, backup: Tensor) -> Tensor:
        """The targets of the table before f is subtracted, from the backups r + σ̂ `[..., S, A]`."""
        return backup

    def gain(self, mdp: TabularMDP, table: Tensor) -> Tensor:
        """f `[...]` of the legal entries."""
        legal = slice(None) if mdp.legal is None else mdp.legal.flatten()
        return OFFSETS[self.offset](table.flatten(-2)[..., legal])

    def policy(self, mdp: TabularMDP, state: State) -> Tensor:
        return greedy(mdp, state["table"])

    def objective(self) -> str:
        return f"max_π min_P lim (1/T) E Σ_t r_t,  rows of P in {as_ambiguity(self.ambiguity)},  v = V(s')"

    def steps(self) -> list[str]:
        return [
            f"{self.batch} times, n counting all of them, for every pair (s, a):",
            f"N = level with Pr(n) = {self.psi:g}·{1 - self.psi:g}^n, at most {self.cap}; draw 2^(N+1) next states",
            "σ̂ = σ(first one) + (σ(all) − σ(even)/2 − σ(odd)/2) / Pr(N), σ of the empirical distributions, V = max_a Q",
            f"Q ← Q + {self.rate:g}·(n+1)^−{self.power:g}·(r + σ̂ − f(Q) − Q),  f: {self.offset}",
        ]


@dataclass(frozen=True)
class RobustRVITD(RobustRVI):
    """Robust RVI TD: the worst-case average reward and relative values of one policy."""

    followed: Any = hyperparameter(None, help="Policy [S, A] to evaluate; None: uniform over legal actions.")

    def admit(self, mdp: TabularMDP) -> None:
        super().admit(mdp)
        self.policy(mdp, {})  # raises now for a policy that the MDP does not allow

    def start(self, mdp: TabularMDP, seed: int) -> State:
        return {"table": torch.zeros(mdp.states, dtype=torch.float64)}

    def value(self, mdp: TabularMDP, table: Tensor) -> Tensor:
        return table

    def target(self, mdp: TabularMDP, backup: Tensor) -> Tensor:
        return (self.policy(mdp, {}) * backup).sum(-1)

    def gain(self, mdp: TabularMDP, table: Tensor) -> Tensor:
        return OFFSETS[self.offset](table)

    def policy(self, mdp: TabularMDP, state: State) -> Tensor:
        return uniform_policy(mdp) if self.followed is None else as_policy(mdp, self.followed, "average")

    def objective(self) -> str:
        return f"min_P lim (1/T) E_π Σ_t r_t,  rows of P in {as_ambiguity(self.ambiguity)},  v = V(s')"

    def steps(self) -> list[str]:
        *before, estimate, _ = super().steps()
        move = f"V ← V + {self.rate:g}·(n+1)^−{self.power:g}·(Σ_a π·(r + σ̂) − f(V) − V),  f: {self.offset}"
        return [*before, estimate.replace("V = max_a Q", "V"), move]


def mean_reward(mdp: TabularMDP, policy: Tensor) -> Tensor:
    """The average reward per step from `mdp.initial` in the nominal world."""
    visits = occupancy(dataclasses.replace(mdp, gamma=ENDLESS), policy).clamp(min=0)
    return visits @ (policy * mdp.expected_reward()).sum(-1) / visits.sum()


METHOD = RobustRVI
