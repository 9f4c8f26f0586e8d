"""IWOCS: a robust policy from a sequence of ordinary MDPs, each the world that is worst for the policy so far.

For a simulator with a few uncertain parameters and a good solver without any robustness: no game is played, and no
adversary is trained. Worlds T_j are fixed for all time ("static"). An iteration i solves one of them, and asks which is
worst for the policy that respects all those solved:

    Q_i(s, a) = min_{j ≤ i} Q*_{T_j}(s, a)      π_i(s) = argmax_a Q_i(s, a)      T_{i+1} = argmin_T V_T^{π_i}(s₀)

and stops when the policy's value in its worst world is that of its Q, |V − Q_i(s₀, π_i(s₀))| ≤ ε, or that world is
solved already. Q_i falls with i and stays above the robust Q of the sa-rectangular hull of the worlds, so that the
values in the worst world and under Q_i enclose the robust value of a rectangular set.

Reference: Zouitine, Bertoin, Clavier, Geist & Rachelson, "Solving robust MDPs as a sequence of static RL problems",
2024 (arXiv:2410.06212). No code was found; the method follows its text.

Departures: this is the tabular form; the deep one (SAC in every world, critics that a learned model declares valid,
CMA-ES for the worst world) is `iwocs-deep`. Policies are evaluated exactly; `episodes=300` estimates their values from
rollouts as the paper does. A stop because the worst world is solved already, with a gap above ε, is in the metrics.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from surefoot.envs.tabular import TabularMDP, UncertainMDP, rollouts
from surefoot.envs.tabular.policies import greedy
from surefoot.hyperparameters import hyperparameter
from surefoot.loops.tabular.method import Metrics, State, Tabular
from surefoot.seeding import torch_stream
from surefoot.solvers import evaluate_policy, solve
from surefoot.solvers.scenarios import q_values


@dataclass(frozen=True)
class IWOCS(Tabular):
    """Incremental worst-case search over the worlds of an `UncertainMDP`, the nominal one first."""

    needs: ClassVar[tuple[str, ...]] = ("worlds", "no horizon", "discount")
    default_env: ClassVar[str | None] = "windy-walk"
    default_steps: ClassVar[int] = 10

    tolerance: float = hyperparameter(1e-3, above=0, help="ε: gap between value and Q at which the search stops.")
    accuracy: float = hyperparameter(1e-6, above=0, help="Gap to which worlds are solved and policies evaluated.")
    episodes: int | None = hyperparameter(None, low=1, help="Rollouts per world to evaluate a policy; exact if None.")
    length: int = hyperparameter(1000, low=1, help="Steps at which a rollout is cut.")

    def start(self, mdp: TabularMDP, seed: int) -> State:
        assert isinstance(mdp, UncertainMDP)
        return {
            "q": torch.full((mdp.states, mdp.actions), torch.inf, dtype=torch.float64),
            "next": torch.zeros((), dtype=torch.int64),
            "solved": torch.zeros(len(mdp.worlds), dtype=torch.bool),
            "stopped": torch.zeros((), dtype=torch.bool),
        }

    def step(self, mdp: TabularMDP, state: State, seed: int, iteration: int) -> tuple[State, Metrics]:
        """Solve a world and find the next; once the search has stopped, nothing changes. `return_mean` is the return
        of the policy in its worst world, discounted."""
        assert isinstance(mdp, UncertainMDP)
        q, solved, stopped = state["q"], state["solved"].clone(), bool(state["stopped"])
        if not stopped:
            world = mdp.worlds[int(state["next"])]
            q = torch.minimum(q, q_values(world, solve(world, tolerance=self.accuracy)))
            solved[state["next"]] = True
        policy = greedy(mdp, q)
        returns = self.returns(mdp, policy, seed, iteration)
        worst, expected = returns.argmin(), mdp.initial @ (policy * q).sum(-1)
        gap = (returns[worst] - expected).abs()
        metrics = {
            "return_mean": returns[worst],
            "nominal_return": returns[0],
            "expected_return": expected,
            "gap": gap,
            "worst_world": worst,
            "solved": solved.sum(),
            "stopped_early": bool(solved[worst]) and bool(gap > self.tolerance),
        }
        stopped = stopped or bool(gap <= self.tolerance) or bool(solved[worst])
        return {"q": q, "next": worst, "solved": solved, "stopped": torch.tensor(stopped)}, metrics

    def returns(self, mdp: UncertainMDP, policy: Tensor, seed: int, iteration: int) -> Tensor:
        """The discounted return `[W]` from the start in every world; rollouts of all worlds share their draws."""
        if self.episodes is None:
            values = [evaluate_policy(world, policy, tolerance=self.accuracy).value for world in mdp.worlds]
            return torch.stack(values) @ mdp.initial
        discount, found = mdp.gamma ** torch.arange(self.length, dtype=torch.float64), []
        for world in mdp.worlds:
            stream = torch_stream(seed, "rollouts", iteration)
            found.append((rollouts(world, policy, self.episodes, self.length, stream).rewards @ discount).mean())
        return torch.stack(found)

    def policy(self, mdp: TabularMDP, state: State) -> Tensor:
        return greedy(mdp, state["q"])

    def objective(self) -> str:
        return "maximise  min_T V_T^π(s₀)  over stationary policies, T one of W worlds, fixed for all time"

    def steps(self) -> list[str]:
        how = "exactly" if self.episodes is None else f"from {self.episodes} rollouts of {self.length} steps"
        return [
            "solve the worst world found last, at first the nominal one: Q*_T",
            "Q ← min(Q, Q*_T), and in every state the action whose Q is largest",
            f"evaluate that policy in every world, {how}; the worst is the next to solve",
            f"stop if its value there differs from Q by at most {self.tolerance:g}, or if that world is solved already",
        ]


METHOD = IWOCS
