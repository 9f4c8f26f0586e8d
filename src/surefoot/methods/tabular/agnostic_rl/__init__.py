"""Agnostic RL: the best policy of a given class, without assumptions about value functions.

    find π̂ ∈ Π with  V(π̂) ≥ max_{π ∈ Π} V(π) − ε

What is possible depends on the access to the environment, so there is a learner for each kind:

    trees       generative model   V̂(π) = mean return of π in random trees; a tree costs at most H·C(Π) transitions
    importance  episodes           V̂(π) = mean A^H·1{π takes all of the actions}·return, of uniform actions
    popler      episodes           V̂(π) from a reward process of the policy's own on the petals of a sunflower
    psdp        resets to μ        backward: π_h = argmax_{π ∈ Π} E_μ[Q(s, π_h(s))], given the policies of later steps
    cpi         resets to μ        π ← (1−α)·π + α·(the π′ ∈ Π that gains most where π goes from μ)

C(Π) is the class's spanning capacity (`policy_classes`, with coverability and related measures). Use it
to compare a few policies fairly; psdp and cpi leave the class and need it to be closed under policy improvement.

Gene Li, *Agnostic Reinforcement Learning: Foundations and Algorithms* (2025); Zeyu Jia, Gene Li, Alexander Rakhlin,
Ayush Sekhari and Nathan Srebro, *When is Agnostic Reinforcement Learning Statistically Tractable?* (2023),
arXiv:2310.06113. PSDP: Bagnell, Kakade, Ng and Schneider (2003). CPI: Kakade and Langford (2002).

Differences: samples accumulate over iterations, so the sample sizes of the theory do not appear. POPLER is rebuilt from
its outline: its petals are found with one batch per known petal and iteration, and the threshold ε/(6D) is a
hyperparameter here. Resets are uniform over the states of a step. For your own policy class, inherit and override
`policies`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from surefoot.envs.tabular import TabularMDP
from surefoot.errors import UsageError
from surefoot.hyperparameters import hyperparameter
from surefoot.loops.tabular.gradient import evaluate
from surefoot.loops.tabular.method import Metrics, State, Tabular
from surefoot.methods.tabular.agnostic_rl.policy_classes import CLASSES, class_values, policy_table
from surefoot.methods.tabular.agnostic_rl.sunflower import arrivals, chain_reach, chain_values, sunflower
from surefoot.methods.tabular.agnostic_rl.trees import deviations, gains, importance_returns, play, tree_returns
from surefoot.seeding import torch_stream


@dataclass(frozen=True)
class AgnosticRL(Tabular):
    """Agnostic policy learning in a finite class of policies."""

    learner: str = hyperparameter(
        "trees",
        choices=("trees", "importance", "popler", "psdp", "cpi"),
        help="Learner, by its kind of access.",
    )
    policy_class: str = hyperparameter("singletons", choices=tuple(CLASSES), help="Policy class Π to choose from.")
    episodes: int = hyperparameter(10, low=1, help="Trees, or episodes of each kind, per iteration.")
    accuracy: float = hyperparameter(0.1, above=0, help="ε: accuracy in POPLER's threshold, and CPI's minimum gain.")
    alpha: float = hyperparameter(0.1, above=0, high=1, help="α: CPI's step size in [0, 1].")

    needs: ClassVar[tuple[str, ...]] = ("horizon",)
    default_env: ClassVar[str | None] = "hidden-switch"

    def policies(self, mdp: TabularMDP) -> Tensor:
        """Π as actions `[N, H, S]`."""
        return CLASSES[self.policy_class](mdp.horizon or 1, mdp.states, mdp.actions)

    def admit(self, mdp: TabularMDP) -> None:
        super().admit(mdp)
        played = self.policies(mdp)
        if self.learner == "popler":
            played = torch.cat([played, sunflower(played, mdp.actions).core])
        if mdp.legal is not None and not bool(mdp.legal[torch.arange(mdp.states), played].all()):
            raise UsageError(
                f"policy_class={self.policy_class!r} takes actions that {mdp.name!r} does not allow. Inherit from "
                f"AgnosticRL and override `policies`; POPLER's core plays every action everywhere."
            )

    def start(self, mdp: TabularMDP, seed: int) -> State:
        policies = self.policies(mdp)
        zeros = torch.zeros(len(policies), dtype=torch.float64)
        state = {"transitions": zeros.new_zeros(()), "best": class_values(mdp, policies).max()}
        if self.learner in ("psdp", "cpi"):
            return state | {"policy": policy_table(policies[0], mdp.actions)}
        if self.learner == "popler":
            petals = sunflower(policies, mdp.actions).place.shape[1]
            places = 1 + policies[0].numel()
            state |= {
                "edges": zeros.new_zeros(len(policies), petals, petals + 1),
                "gained": zeros.new_zeros(len(policies), petals),
                "runs": zeros.new_zeros(places),  # episodes through each place
                "explorer": torch.full((places,), -1),  # a policy known to reach it, −1 if none is
            }
            state["explorer"][0] = 0  # every policy reaches the start
        return state | {"estimate": zeros, "iterations": zeros.new_zeros(())}

    def step(self, mdp: TabularMDP, state: State, seed: int, iteration: int) -> tuple[State, Metrics]:
        """One batch. The metrics are those of the policy after it; only they use the true values."""
        stream, policies = torch_stream(seed, "episodes", iteration), self.policies(mdp)
        if self.learner == "popler":
            after = self.popler(mdp, policies, state, stream)
        elif self.learner in ("psdp", "cpi"):
            after = self.improved(mdp, policies, state, stream, iteration)
        else:
            if self.learner == "trees":
                returns, taken = tree_returns(mdp, policies, self.episodes, stream)
                cost = int(taken.sum())
            else:
                returns = importance_returns(mdp, policies, self.episodes, stream)
                cost = self.episodes * policies.shape[1]
            many = state["iterations"] + 1
            estimate = state["estimate"] + (returns.mean(0) - state["estimate"]) / many
            after = {"estimate": estimate, "iterations": many, "transitions": state["transitions"] + cost}
        after = state | after
        value = mdp.initial @ evaluate(mdp, self.policy(mdp, after)).value[0]
        below = state["best"] - value
        return after, {"return_mean": value, "suboptimality": below, "transitions": after["transitions"]}

    def popler(self, mdp: TabularMDP, policies: Tensor, state: State, stream: torch.Generator) -> State:
        """A batch from every place that some policy is known to reach; then the newly reached places."""
        flower, (size, horizon, states) = sunflower(policies, mdp.actions), policies.shape
        known = (state["explorer"] >= 0).nonzero().flatten()
        source = known.repeat_interleave(self.episodes)
        layer = torch.where(source > 0, (source - 1) // states, 0)
        then = size + torch.randint(len(flower.core), (len(source),), generator=stream)
        rolled_in = torch.arange(horizon) < layer.unsqueeze(-1)
        followed = torch.where(rolled_in, state["explorer"][source].unsqueeze(-1), then.unsqueeze(-1))
        met = play(mdp, torch.cat([policies, flower.core]), followed, stream)
        met = met._replace(rewards=met.rewards * mdp.gamma ** torch.arange(horizon))
        there = (source == 0) | (met.states[torch.arange(len(source)), layer] == (source - 1) % states)
        edges, gained, runs = (state[name].clone() for name in ("edges", "gained", "runs"))
        for place in known.tolist():
            run = type(met)(*(x[(source == place) & there] for x in met))
            runs[place] += len(run.states)
            owner, node = (flower.place == place).nonzero(as_tuple=True)
            if place == 0:
                owner, node = torch.arange(size), torch.zeros(size, dtype=torch.int64)
            first = (place - 1) // states if place else -1
            seen = arrivals(policies[owner], flower.petal[owner], flower.core, run, first, edges.shape[1])
            edges[owner, node] += edges.new_zeros(len(owner), edges.shape[2]).scatter_add(1, seen.node, seen.weight)
            gained[owner, node] += seen.gained.sum(-1)
        through = runs[flower.place].clamp(min=1)
        chances = edges / through.unsqueeze(-1)
        reach = chain_reach(chances)[:, 1:-1]
        explorer = state["explorer"].clone()
        for owner, node in (reach >= self.accuracy / (6 * max(1, reach.shape[1]))).nonzero().tolist():
            place = flower.place[owner, node + 1]
            explorer[place] = owner if explorer[place] < 0 else explorer[place]
        return {
            "edges": edges, "gained": gained, "runs": runs, "explorer": explorer,
            "estimate": chain_values(chances, gained / through), "iterations": state["iterations"] + 1,
            "transitions": state["transitions"] + len(source) * horizon,
        }  # fmt: skip

    def improved(
        self, mdp: TabularMDP, policies: Tensor, state: State, stream: torch.Generator, iteration: int
    ) -> State:
        """PSDP: the next earlier step, starting over at the last after the first. CPI: a small step at all steps."""
        policy, horizon, cost = state["policy"].clone(), policies.shape[1], 0
        at = horizon - 1 - iteration % horizon
        pairs = [(at, at)] if self.learner == "psdp" else [(i, h) for i in range(horizon) for h in range(i, horizon)]
        gained, now = torch.zeros(len(policies), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        for first, step in pairs:
            start = torch.randint(mdp.states, (self.episodes,), generator=stream)
            seen = deviations(mdp, policy, start, first, step, stream)
            gained += gains(policies, step, *seen) / horizon
            now += (policy[step][seen[0], seen[1]] * seen[2]).mean() / horizon
            cost += self.episodes * (horizon - first)
        choice = policy_table(policies[gained.argmax()], mdp.actions)
        if self.learner == "psdp":
            policy[at] = choice[at]
        elif float(gained.max() - now) >= self.accuracy:
            policy = (1 - self.alpha) * policy + self.alpha * choice
        return {"policy": policy, "transitions": state["transitions"] + cost}

    def policy(self, mdp: TabularMDP, state: State) -> Tensor:
        if self.learner in ("psdp", "cpi"):
            return state["policy"]
        return policy_table(self.policies(mdp)[state["estimate"].argmax()], mdp.actions)

    def objective(self) -> str:
        return f"find π̂ with V(π̂) ≥ max_{{π ∈ Π}} V(π) − ε,  Π = {self.policy_class}"

    def steps(self) -> list[str]:
        n = self.episodes
        return {
            "trees": [
                f"Grow {n} trees: one draw for each pair that Π reaches.",
                "π̂ = argmax mean return in the trees.",
            ],
            "importance": [f"Play {n} episodes of uniform actions.", "π̂ = argmax mean A^H·1{π agrees}·return."],
            "popler": [
                f"For each known petal, {n} episodes with a policy that reaches it, then with a random core policy.",
                "Edges between start, petals and end of every π, weighted by K/m.",
                f"Petals that some π reaches with {self.accuracy:g}/(6D) become known; π̂ = argmax of values.",
            ],
            "psdp": [f"{n} resets to μ in the next earlier step, a uniform action, then π.", "π_h = argmax mean A·G."],
            "cpi": [f"{n} resets for each step to start and to deviate in.", f"π moves by {self.alpha:g} to the best."],
        }[self.learner]


METHOD = AgnosticRL
