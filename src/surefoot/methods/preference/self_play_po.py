"""Self-play preference optimisation: the reward of a trajectory is how many recent ones it beats.

    maximise over π  E_{ξ ~ π} W(ξ)        W(ξ) = mean over recent trajectories ξ' of P(ξ, ξ'),  P = 2·Pr(ξ ≻ ξ') − 1

A preference between trajectories need not come from a reward: raters may disagree in a circle, err, or look at what
no sum over steps can say. There is still a policy that no other is preferred to, the minimax winner of the zero-sum
game that P is, and by symmetry one player against its own recent self finds it, without a reward model. Here PPO plays,
and the whole reward W comes with the last step of an episode. Trajectories are compared by what `tallied` adds up over
their steps, and by `payoff`: the return, and whose is higher. A subclass replaces either for raters of its own.

If no policy beats all others, the last policy runs in circles, and only the mixture of all policies of a run is sure to
come close to a minimax winner. The reward is 0 on average however good the policy is: watch returns.

Gokul Swamy et al., *A Minimaximalist Approach to Reinforcement Learning from Human Feedback* (2024), arXiv:2401.04056.
Differences: PPO in place of SAC, and therefore W at the last step. Spread evenly over the steps, as in the paper, whose
critic learns off-policy, what a step could still earn would shrink with time. An episode that is cut short is over too,
and W is all of its reward: a bootstrap would count its comparisons twice. λ is 1, as a critic that cannot see how long
an episode has lasted cannot tell what it will be worth. The recent trajectories are those of the same batch, and
`recent` of the batches before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from surefoot.hyperparameters import Range, hyperparameter
from surefoot.loops.common.collect import Rollout
from surefoot.methods.control.ppo import PPO
from surefoot.models.functional import Model
from surefoot.seeding import torch_stream

if TYPE_CHECKING:
    from surefoot.loops.on_policy.learner import Learner


def win_rates(payoffs: Float[Tensor, "... own pool"]) -> Float[Tensor, "... own"]:
    """The mean payoff of each trajectory against all others of a pool that contains it; 0 if it is alone."""
    return payoffs.sum(-1) / max(1, payoffs.shape[-1] - 1)


def flipped(
    payoffs: Float[Tensor, "... own pool"], flips: Bool[Tensor, "... own pool"]
) -> Float[Tensor, "... own pool"]:
    """The payoffs, some comparisons answered wrongly. The last trajectories of the pool are the own ones, and two of
    them are compared only once."""
    own, pool = payoffs.shape[-2:]
    mutual = flips[..., pool - own :].triu(1)
    once = torch.cat([flips[..., : pool - own], mutual | mutual.mT], -1)
    return torch.where(once, -payoffs, payoffs)


def summed(
    tallies: Float[Tensor, "time seeds envs k"], ended: Bool[Tensor, "time seeds envs"], running: Tensor
) -> tuple[Float[Tensor, "time seeds envs k"], Float[Tensor, "seeds envs k"]]:
    """The sums over every episode up to each step, and those of the episodes that go on, given those that went on."""
    found = []
    for tally, end in zip(tallies, ended, strict=True):
        found.append(running + tally)
        running = torch.where(end[..., None], 0.0, found[-1])
    return torch.stack(found), running


@dataclass(frozen=True)
class SelfPlayPO(PPO):
    """PPO on the share of recent trajectories that a trajectory beats."""

    compared: ClassVar[int] = 1  # numbers that `tallied` gives of a step

    gamma: float = hyperparameter(1.0, low=0, high=1, help="Discount factor; the reward comes with the last step.")
    lam: float = hyperparameter(
        1.0, low=0, high=1, help="GAE's λ; at 1 all of an episode's reward counts at every step.", tune=Range(0.8, 1.0)
    )
    normalize_rewards: bool = hyperparameter(
        False, help="Divide rewards by the running standard deviation of the discounted return."
    )
    recent: int = hyperparameter(
        16, low=0, high=10_000, help="Trajectories of earlier batches that those of a batch are compared with too."
    )
    label_noise: float = hyperparameter(
        0.0, low=0, below=0.5, help="Probability that a comparison is answered wrongly, to try out raters that err."
    )

    # --- the raters --------------------------------------------------------------------------------------------------

    def tallied(self, rollout: Rollout) -> Float[Tensor, "time seeds envs k"]:
        """What is added up over the steps of an episode, and all that raters know of it: the reward."""
        return rollout.reward[..., None]

    def payoff(self, one: Float[Tensor, "... k"], other: Float[Tensor, "... k"]) -> Float[Tensor, "..."]:
        """2·Pr(one ≻ other) − 1 of trajectories with these sums; the same with the other sign if they are swapped."""
        return (one - other).squeeze(-1).sign()

    # --- the game ----------------------------------------------------------------------------------------------------

    def extra_state(self, model: Model) -> dict[str, Tensor]:
        running, pool = torch.zeros(self.num_envs, self.compared), torch.full((self.recent, self.compared), torch.nan)
        return {**super().extra_state(model), "running": running, "recent": pool}

    def judged(self, learner: Learner, rollout: Rollout) -> Rollout:
        """The rollout with win rates as rewards, at the last step of every episode, where all of it ends. What the
        learner remembers of trajectories is brought up to date."""
        ended = (rollout.terminated | rollout.truncated) & rollout.valid
        tallies = torch.where(rollout.valid[..., None], self.tallied(rollout), 0.0)
        sums, learner.extra["running"] = summed(tallies, ended, learner.extra["running"])
        reward, pools = torch.zeros_like(rollout.reward), []
        for i, seed in enumerate(learner.seeds):
            known = learner.extra["recent"][i]
            own = sums[:, i][ended[:, i]]
            pool = torch.cat([known[~known.isnan().any(-1)], own])
            payoffs = self.payoff(own[:, None], pool[None])
            stream = torch_stream(seed, "labels", learner.iteration)
            flips = torch.rand(payoffs.shape, generator=stream) < self.label_noise
            reward[:, i][ended[:, i]] = win_rates(flipped(payoffs, flips))
            pools.append(torch.cat([known, pool])[len(pool) :])
        learner.extra["recent"] = torch.stack(pools)
        return rollout._replace(reward=reward, terminated=ended, truncated=torch.zeros_like(ended))

    def iterate(self, learner: Learner) -> dict[str, Tensor]:
        rollout = self.judged(learner, learner.collect(learner.vector))
        return self.update(learner, learner.estimate(rollout))

    def steps(self) -> list[str]:
        pool = f"the others of the batch and {self.recent} before" if self.recent else "the others of the batch"
        noise = f", answered wrongly with probability {self.label_noise:g}" if self.label_noise else ""
        reward = f"its mean payoff against {pool}{noise}"
        return [f"    whose rewards are 0, and at the end of an episode {reward}", *super().steps()]


METHOD = SelfPlayPO
