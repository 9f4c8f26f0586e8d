"""BoBW-PO: policy optimisation with small regret whether losses are random or chosen by an adversary.

    π_t(·|s) = argmin_p  Σ_a p(a)·Σ_{k<t} (Q̂_k(s, a) − B_k(s, a)) + ψ_t(p; s)

Every state and step follows the regularised leader, with Tsallis entropy, Shannon entropy or a log-barrier. Q̂ weights
the loss to go by the inverse probability of having reached the pair; the bonus B pays in advance for the regret that
falling rates cause in later steps. Because rates fall with the visits of their own state, and a policy that has become
deterministic pays no more, regret grows like √T against an adversary and like a power of log T where losses are random
and one action is best, without knowing which case holds. Use it in small MDPs that may shift while one learns.

Christoph Dann, Chen-Yu Wei and Julian Zimmert, *Best of Both Worlds Policy Optimization* (2023), arXiv:2302.09408.

Differences: the paper's constants would leave the policy uniform for millions of episodes, so the
practical ones below stand in their place (`offset` in units of H√A, `growth` in units of H). The rates of Shannon and
of the log-barrier, and the rule for virtual episodes, are derived in the paper's style; the log-barrier has none of
the latter. Discounts and any range of rewards are allowed: losses are scaled to [0, 1].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from surefoot.envs.tabular import TabularMDP
from surefoot.hyperparameters import hyperparameter
from surefoot.loops.tabular.episodes import Known, Unknown, Visits, dilated_bonus, episodic
from surefoot.loops.tabular.method import Metrics, State, Tabular
from surefoot.methods.tabular.best_of_both_worlds.ftrl import REGULARIZERS, Regularizer


class Plan(NamedTuple):
    """The plan of an episode."""

    policy: Tensor  # [H, S, A]
    rate: Tensor  # [H, S] or [H, S, A] the inverse rates 1/η
    visits: Visits  # [H, S] each


@dataclass(frozen=True)
class BestOfBothWorlds(Tabular):
    """Best-of-both-worlds policy optimisation; an iteration is one episode."""

    regularizer: str = hyperparameter("tsallis", choices=tuple(REGULARIZERS), help="Regularizer of follow-the-leader.")
    offset: float = hyperparameter(1.0, above=0, help="Initial inverse rate 1/η, in units of H√A.")
    growth: float = hyperparameter(0.5, above=0, help="Growth of the inverse rate 1/η, in units of H.")
    bonus: float = hyperparameter(0.2, low=0, help="Share of a state's regret that its bonus covers.")
    transitions: str = hyperparameter(
        "known", choices=("known", "unknown"), help="Whether the learner knows the kernel."
    )
    confidence: float = hyperparameter(
        1.0, above=0, help="ι: width of an unknown kernel's bounds; log(SAT/δ) in theory."
    )
    least_visit: float = hyperparameter(
        1e-8, above=0, high=1, help="Minimum visit probability that counts; 1/T² in theory."
    )

    default_steps: ClassVar[int] = 10_000
    needs: ClassVar[tuple[str, ...]] = ("horizon",)
    default_env: ClassVar[str | None] = "layers"

    def start(self, mdp: TabularMDP, seed: int) -> State:
        world, rule = episodic(mdp), self.rule(mdp)
        shape = (world.horizon, mdp.states, mdp.actions)
        losses = torch.zeros(shape, dtype=torch.float64)
        state = {
            "losses": losses if mdp.legal is None else losses.masked_fill(~mdp.legal, torch.inf),
            "rate": losses.new_full(shape if rule.per_action else shape[:2], rule.offset),
            "seen": losses.new_zeros(2, *shape[:2]),
            "met": torch.zeros_like(losses),
            "suffered": losses.new_zeros(()),
            "virtual": losses.new_zeros(()),
        }
        if self.transitions == "unknown":
            state["counts"] = state["epoch"] = losses.new_zeros(*shape, mdp.states)
        return state

    def rule(self, mdp: TabularMDP) -> Regularizer:
        """The regulariser with its rates."""
        horizon = episodic(mdp).horizon
        return REGULARIZERS[self.regularizer](self.offset * horizon * math.sqrt(mdp.actions), self.growth * horizon)

    def kernel(self, mdp: TabularMDP, state: State) -> Known | Unknown:
        """The known kernel, or the confidence set of this epoch."""
        known = self.transitions == "known"
        return Known(episodic(mdp).kernel) if known else Unknown(state["epoch"], self.confidence)

    def plan(self, mdp: TabularMDP, state: State) -> Plan:
        """Policy, rates and visits of the next episode, layer by layer: the rate of a state may need its visits.

        No rate grows by more than its H-th part in an episode.
        """
        rule, kernel, horizon = self.rule(mdp), self.kernel(mdp, state), episodic(mdp).horizon
        policies: list[Tensor] = []
        rates, visits, last = [], [], None
        for losses, rate in zip(state["losses"], state["rate"], strict=True):
            last = kernel.visits(mdp.initial, policies, last)
            visits.append(Visits(last.most.clamp(min=self.least_visit), last.least))
            rates.append(torch.minimum(rule.entered(rate, visits[-1].most), (1 + 1 / horizon) * rate))
            policies.append(rule.policy(losses, rates[-1]))
        return Plan(torch.stack(policies), torch.stack(rates), Visits(*map(torch.stack, zip(*visits))))

    def step(self, mdp: TabularMDP, state: State, seed: int, iteration: int) -> tuple[State, Metrics]:
        world, rule = episodic(mdp), self.rule(mdp)
        plan, state = self.settled(mdp, state, iteration)
        losses = world.losses(iteration)
        states, actions, felt = world.play(plan.policy, losses, seed, iteration)
        steps = torch.arange(world.horizon)
        place = steps, states[0], actions[0]
        to_go = felt[0].flip(0).cumsum(0).flip(0)
        estimate = torch.zeros_like(plan.policy)
        estimate[place] = to_go / (plan.visits.most[steps, states[0]] * plan.policy[place])

        rate, seen = rule.left(plan.rate, state["seen"], plan.policy, plan.visits.most, estimate, iteration)
        expected = world.expected(plan.policy, losses[0])
        after = {
            **state,
            "losses": state["losses"] + estimate - self.advance(mdp, state, plan, rate, iteration),
            "rate": rate,
            "seen": seen,
            "met": state["met"] + losses[0],
            "suffered": state["suffered"] + expected,
        }
        if self.transitions == "unknown":
            after |= self.counted(state, states[0], actions[0])
        regret = world.scale * (after["suffered"] - world.best(after["met"]))
        return after, {
            "return_mean": world.returns(expected),
            "regret": regret,
            "entropy": torch.special.entr(plan.policy).sum(-1).mean(),
            "virtual_episodes": state["virtual"],
        }

    def settled(self, mdp: TabularMDP, state: State, iteration: int) -> tuple[Plan, State]:
        """The plan of the next episode, after as many virtual ones as it takes until no rate grows too fast.

        A virtual episode is not played and has no loss: the rates that would grow too fast grow by the maximum allowed,
        which a bonus pays for.
        """
        rule, horizon = self.rule(mdp), episodic(mdp).horizon
        while True:
            plan, most = self.plan(mdp, state), (1 + 1 / horizon) * state["rate"]
            nothing = torch.zeros_like(plan.policy)
            rate, _ = rule.left(plan.rate, state["seen"], plan.policy, plan.visits.most, nothing, iteration)
            too_fast = rate >= most
            if not bool(too_fast.any()):
                return plan, state
            rate = torch.where(too_fast, most, state["rate"])
            paid = self.advance(mdp, state, plan, rate, iteration)
            state = {**state, "losses": state["losses"] - paid, "rate": rate, "virtual": state["virtual"] + 1}

    def advance(self, mdp: TabularMDP, state: State, plan: Plan, rate: Tensor, iteration: int) -> Tensor:
        """The dilated bonus `[H, S, A]` for inverse rates that become `rate`, and for the uncertainty of visits."""
        most, least = plan.visits
        cost = self.rule(mdp).cost(rate - state["rate"], plan.policy, most, iteration)
        unsure = (1 - least / most).clamp(min=0) if self.transitions == "unknown" else 0.0
        bonus = self.bonus * cost + episodic(mdp).horizon * unsure
        return dilated_bonus(bonus, plan.policy, self.kernel(mdp, state))

    def counted(self, state: State, states: Tensor, actions: Tensor) -> State:
        """The counts after an episode; an epoch ends when the visits of a pair have doubled since its start."""
        counts = state["counts"].clone()
        steps = torch.arange(len(states) - 1)
        counts[steps, states[:-1], actions[:-1], states[1:]] += 1
        doubled = bool((counts.sum(-1) >= 2 * state["epoch"].sum(-1).clamp(min=0.5)).any())
        return {"counts": counts, "epoch": counts if doubled else state["epoch"]}

    def policy(self, mdp: TabularMDP, state: State) -> Tensor:
        return self.plan(mdp, state).policy

    def objective(self) -> str:
        psi = REGULARIZERS[self.regularizer].formula
        return f"π_t(·|s) = argmin_p Σ_a p(a)·Σ_{{k<t}} (Q̂_k(s,a) − B_k(s,a)) + ψ_t(p),  ψ_t(p) = {psi}"

    def steps(self) -> list[str]:
        rule, known = REGULARIZERS[self.regularizer], self.transitions == "known"
        kernels = "the known kernel" if known else f"all kernels within Bernstein bounds, ι = {self.confidence:g}"
        return [
            f"Layer by layer: visits q(s) under {kernels}; the rate {rule.growing}; the policy π(·|s) = argmin.",
            "While a rate would grow by more than its H-th part: a virtual episode, which only raises it and pays B.",
            "Play one episode with π; L = loss to go from each step on.",
            "Q̂(s, a) = L/(q(s)·π(a|s)) in the pairs met, 0 elsewhere.",
            f"b(s) = {self.bonus:g}·(growth of 1/η)·({rule.costing}){'' if known else ' + H·(q − q_low)/q'}.",
            "B(s, a) = b(s) + (1 + 1/H)·max_P E[π·B(s′, ·)], backward; add Q̂ − B to the losses.",
        ]


METHOD = BestOfBothWorlds
