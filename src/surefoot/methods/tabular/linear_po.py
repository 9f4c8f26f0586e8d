"""PO-LinMDP: policy optimisation in linear MDPs with adversarial costs, with exploration by an evaluated bonus.

    π_j(a|s) ∝ exp(−η·Σ_{i<j} (φ(s, a)ᵀθ_i − B̂_i(s, a)))

Episodes come in blocks. θ is the least-squares evaluation of the block's policy from the observed costs; the other
costs and the kernel are unknown. B̂ is the value of the same policy in an auxiliary MDP with the evaluation's own
uncertainty as reward, estimated by least squares from all transitions so far, optimistically: so a policy is drawn to
states where its evaluation is uncertain, even if the way there looks bad. Use it where costs shift and states share
features.

Uri Sherman, Tomer Koren and Yishay Mansour, *Improved Regret for Efficient Online Reinforcement Learning with Linear
Function Approximation* (2023), arXiv:2301.13087.

Differences: the paper's structure is kept (mirror descent, least-squares evaluation, a second one in
an auxiliary MDP), the concrete rates, widths and clips are derived. A block's covariance is estimated from its first
half and its costs from the second, so that the two are independent. The exponent is kept as a table, since the states
can be listed here. Losses are rewards scaled to [0, 1] in a step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from surefoot.envs.tabular import TabularMDP
from surefoot.envs.tabular.policies import greedy
from surefoot.hyperparameters import hyperparameter
from surefoot.loops.tabular.episodes import Known, dilated_bonus, episodic
from surefoot.loops.tabular.least_squares import added, elliptical_width, evaluated, expectation, nothing, remembered
from surefoot.loops.tabular.method import Metrics, State, Tabular


@dataclass(frozen=True)
class LinearPO(Tabular):
    """Policy optimisation in linear MDPs; an iteration is one block of episodes."""

    block: int = hyperparameter(50, low=2, help="N: episodes per block, in which the policy is fixed.")
    blocks: int = hyperparameter(120, low=1, help="J: number of blocks that sets the step size.")
    step_size: float = hyperparameter(4.0, above=0, help="c: scale of the step size η = c/(H·√J).")
    ridge: float | None = hyperparameter(None, above=0, help="λ: ridge of the costs' regression; None: 1/N.")
    beta: float = hyperparameter(0.05, low=0, help="β: reward per unit of width in the auxiliary MDP.")
    cap: float = hyperparameter(3.0, above=0, help="Maximum width that counts.")
    optimism: float = hyperparameter(0.1, low=0, help="Bonus for the unknown kernel, in units of 2β·cap·H.")
    cover: int = hyperparameter(0, low=0, help="Initial blocks that only explore and ignore costs.")
    dynamics: str = hyperparameter("learned", choices=("learned", "simulator"), help="Access to the kernel.")

    default_steps: ClassVar[int] = 120
    needs: ClassVar[tuple[str, ...]] = ("horizon", "features")
    default_env: ClassVar[str | None] = "simulated-linear"

    def start(self, mdp: TabularMDP, seed: int) -> State:
        exponent = torch.zeros(episodic(mdp).horizon, mdp.states, mdp.actions, dtype=torch.float64)
        return {
            "exponent": exponent if mdp.legal is None else exponent.masked_fill(~mdp.legal, torch.inf),
            **nothing(mdp)._asdict(),
            "met": torch.zeros_like(exponent),
            "suffered": exponent.new_zeros(()),
        }

    def policy(self, mdp: TabularMDP, state: State) -> Tensor:
        rate = self.step_size / (episodic(mdp).horizon * math.sqrt(self.blocks))
        return (-rate * state["exponent"]).softmax(-1)

    def step(self, mdp: TabularMDP, state: State, seed: int, iteration: int) -> tuple[State, Metrics]:
        world = episodic(mdp)
        exploring = iteration < self.cover
        policy = self.explorer(mdp, state) if exploring else self.policy(mdp, state)
        losses = world.losses(iteration * self.block, self.block)
        states, actions, felt = world.play(policy, losses, seed, iteration)
        phi = world.features[torch.arange(world.horizon), states, actions]  # [N, H, d]
        sums = added(remembered(state), phi[:, :-1], states[:, 1:])  # the last step leads nowhere
        state = {**state, **sums._asdict()}
        widest = bonus = torch.zeros_like(policy)
        if not exploring:
            first, second = self.halves(mdp, policy, phi, seed, iteration)
            covariance = self.covariance(first)
            theta = evaluated(covariance, phi[second], felt.flip(1).cumsum(1).flip(1)[second])
            widest = elliptical_width(world.features, covariance).clamp(max=self.cap)
            bonus = self.bonus(mdp, state, policy, widest)
            q = (world.features @ theta[:, None, :, None]).squeeze(-1)
            state["exponent"] = state["exponent"] + q - bonus
        mean = losses.mean(0)
        expected = world.expected(policy, mean)
        state["met"], state["suffered"] = state["met"] + self.block * mean, state["suffered"] + self.block * expected
        return state, {
            "return_mean": world.returns(expected),
            "regret": world.scale * (state["suffered"] - world.best(state["met"])),
            "width": widest.mean(),
            "bonus": world.expected(policy, bonus),
        }

    def halves(self, mdp: TabularMDP, policy: Tensor, phi: Tensor, seed: int, iteration: int) -> tuple[Tensor, slice]:
        """Features `[n, H, d]` for the covariance, and the episodes whose costs are regressed: independent of them.

        A simulator plays the former, which leaves the whole block for the latter.
        """
        if self.dynamics == "learned":
            half = len(phi) // 2
            return phi[:half], slice(half, None)
        world = episodic(mdp)
        states, actions, _ = world.play(policy, world.losses(0, self.block), seed, iteration, "simulator")
        return world.features[torch.arange(world.horizon), states, actions], slice(None)

    def covariance(self, phi: Tensor) -> Tensor:
        """Σ_h = mean of φφᵀ + λ·I `[H, d, d]`; phi `[n, H, d]`."""
        ridge = 1 / self.block if self.ridge is None else self.ridge
        return torch.einsum("nhi,nhj->hij", phi, phi) / len(phi) + ridge * torch.eye(phi.shape[-1], dtype=phi.dtype)

    def bonus(self, mdp: TabularMDP, state: State, policy: Tensor, width_of_costs: Tensor) -> Tensor:
        """B̂ `[H, S, A]`: the value of `policy` where u = β·(w + π·w) is the reward, optimistic about the kernel.

        B̂_h = u_h + clip(E[(1 + 1/H)·π·B̂_{h+1}] + bonus of the kernel, 0, 2β·cap·Σ_{i ≤ H−h} (1 + 1/H)^i)
        """
        world, horizon = episodic(mdp), len(policy)
        reward = self.beta * (width_of_costs + (policy * width_of_costs).sum(-1, keepdim=True))
        if self.dynamics == "simulator":
            return dilated_bonus(reward, policy, Known(world.kernel))
        dilation, most = 1 + 1 / horizon, 0.0
        unsure = self.optimism * 2 * self.beta * self.cap * horizon * elliptical_width(world.features, state["gram"])
        found = [reward[-1]]
        for h in reversed(range(horizon - 1)):
            most = dilation * (most + 2 * self.beta * self.cap)
            ahead = expectation(world.features, remembered(state), h, dilation * (policy[h + 1] * found[-1]).sum(-1))
            found.append(reward[h] + (ahead + unsure[h]).clamp(0, most))
        return torch.stack(found[::-1])

    def explorer(self, mdp: TabularMDP, state: State) -> Tensor:
        """The policy `[H, S, A]` that visits where transitions are least known: value iteration on widths."""
        world = episodic(mdp)
        reward, chosen = elliptical_width(world.features, state["gram"]).clamp(max=1), []
        value = torch.zeros(mdp.states, dtype=torch.float64)
        for h in reversed(range(world.horizon)):
            q = reward[h] + expectation(world.features, remembered(state), h, value).clamp(0, world.horizon)
            chosen.append(greedy(mdp, q))
            value = (chosen[-1] * q).sum(-1)
        return torch.stack(chosen[::-1])

    def objective(self) -> str:
        return "π_j(a|s) ∝ exp(−η·Σ_{i<j} (φ(s,a)ᵀθ_i − B̂_i(s,a))),  η = c/(H·√J)"

    def steps(self) -> list[str]:
        halves, ahead = {
            "learned": (
                ("the first half of the block", "the second"),
                "clip(φᵀv + bonus·‖φ‖ in the Gram matrix of all transitions so far), v = ridge regression of "
                "(1 + 1/H)·π·B̂_{h+1}",
            ),
            "simulator": (("as many episodes of a simulator", "the block"), "(1 + 1/H)·E[π·B̂_{h+1}] of the simulator"),
        }[self.dynamics]
        cover = [f"In the first {self.cover} blocks only explore: value iteration on widths."] if self.cover else []
        return [
            *cover,
            f"Play {self.block} episodes with π; L = cost to go from each step on.",
            f"Σ_h = mean of φφᵀ + λ·I over {halves[0]}; θ_h = Σ_h⁻¹·mean of φ·L over {halves[1]}.",
            f"w = min(‖φ‖ of Σ⁻¹, {self.cap:g}); u = {self.beta:g}·(w + π·w).",
            f"B̂_h = u_h + {ahead}, backward.",
            "Add φᵀθ − B̂ to the exponent.",
        ]


METHOD = LinearPO
