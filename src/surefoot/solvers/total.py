"""The total reward without a discount: stochastic shortest paths, reachability, rewards until an episode is over.

    V(s) = max over π of min over worlds of E Σ_t r_t

Sweeps continue until they hardly change the values v. Then two functions are verified to bound the answer: u with
T u ≤ u, and l with T_π l ≤ l for the policy found (optimistic value iteration; Hartmanns and Kaminski 2020). Such
inequalities alone prove nothing if episodes may never end, so one of these must hold as well:

    rewards ≤ 0     u = Tⁿ 0, which lies above V;       l ≤ 0 makes the lower one valid in every world
    rewards ≥ 0     l = T_πⁿ 0, which lies below V;     u ≥ 0 makes the upper one valid in every world
    of both signs   the policy ends in every world, and any that never ends has return −∞ in the world of u
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from surefoot.envs.tabular import Kernel, Successors, TabularMDP
from surefoot.errors import UsageError
from surefoot.solvers.average import NONE, listed, recurrent_classes
from surefoot.solvers.backups import Backup
from surefoot.solvers.fixed_point import FLOOR, Stop, Sweep
from surefoot.solvers.solution import Progress

FIRST = 0.01  # relative to the tolerance: change of a sweep below which bounds are tried
PATIENCE = 100  # sweeps between checks that the sum is finite
TIE = 1e-9  # relative to the largest value: actions this close to the best one are ties
ENDLESS = (
    "criterion='total' with gamma=1 is an infinite sum; give gamma below 1, a horizon, or criterion='average'. Here"
)

Step = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Total:
    """A problem: the backups of an MDP at gamma 1, a policy to evaluate (None: the best one), and the adversary.

    steps: the backups of the number of steps until an episode is over, in the world where it is the largest.
    fixed: whether the worst world is one kernel, the same for every policy. nominal: whether there is only one world.
    """

    mdp: TabularMDP
    backup: Backup
    steps: Backup
    policy: Tensor | None
    fixed: bool
    nominal: bool

    def sweep(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """One step back, and the policy `[S, A]` of it."""
        if self.policy is not None:
            return self.backup.follow(self.policy).backup(values), self.policy
        after, choose = self.backup.improve(values)
        return after, choose()

    @property
    def taken(self) -> Tensor:
        """The pairs `[S, A]` that a policy may take during an episode."""
        return (self.mdp.allowed if self.policy is None else self.policy > 0) & ~self.mdp.ended.unsqueeze(-1)

    @property
    def most(self) -> Tensor:
        """The greatest possible reward `[S, A]` of a pair."""
        reward = self.mdp.reward
        return reward.amax(-1) if reward.ndim == 3 else reward

    def earned(self, kernel: Kernel) -> Tensor:
        """The rewards `[S, A]` in a world."""
        if self.mdp.reward.ndim == 2:
            return self.mdp.reward
        return ((kernel if isinstance(kernel, Tensor) else kernel.probability) * self.mdp.reward).sum(-1)

    def solve(self, stop: Stop) -> Sweep:
        """Bounds on the total reward within the tolerance, if the sweeps suffice.

        Raises `UsageError` if the sum is not finite, or cannot be shown to be finite.
        """
        rewards = self.mdp.reward[self.taken]
        sign = int((rewards > 0).any()) - int((rewards < 0).any())
        mixed = sign == 0 and bool((rewards != 0).any())
        began, values, rest = time.perf_counter(), torch.zeros_like(self.mdp.initial), FIRST * stop.tolerance
        spent = 0
        while True:
            after, policy = self.sweep(values)
            spent += 1
            change = float((after - values).abs().max())
            if stop.progress is not None:
                stop.progress(Progress(spent, change, time.perf_counter() - began))
            if spent % PATIENCE == 0 or (spent == 1 and not bool(self.mdp.ended.any())):
                self.check_finite(values, policy)
            least = FLOOR * float(after.abs().max())
            if change <= max(rest, least) or stop.over(spent, began):
                chosen = policy if self.policy is not None or sign < 0 else self.progressing(after, policy)
                found, more = self.bounds(after, chosen, -1 if sign < 0 else 1 if not mixed else 0, stop, began, spent)
                spent += more
                if found is not None:
                    if mixed:
                        self.check_proper(found, chosen)
                    return found
                if rest <= least or stop.over(spent, began):
                    return Sweep(after, after, lambda last=chosen: last, -torch.inf, torch.inf, spent)
                rest *= 0.1
            values = after

    def bounds(
        self, values: Tensor, policy: Tensor, sign: int, stop: Stop, began: float, spent: int
    ) -> tuple[Sweep | None, int]:
        """Verified bounds around values, or None if they are not within the tolerance; the number of sweeps."""
        ended, margin = self.mdp.ended, 0.25 * stop.tolerance
        rounding = FLOOR * float(values.abs().max())
        high = values if sign < 0 else torch.where(ended, 0.0, values + margin)
        low = torch.zeros_like(values) if sign > 0 else torch.where(ended, 0.0, values - margin)
        followed = self.backup.follow(policy).backup
        for n in range(1, 10 * spent + 10 * PATIENCE):
            above, below = self.sweep(high)[0], followed(low)
            moved = float((below - low).abs().max())
            sure = (sign < 0 or bool((above <= high + rounding).all())) and (
                sign > 0 or bool((below >= low - rounding).all())
            )
            high, low = above, below
            gap = float((high - low).max())
            if sure and gap <= stop.tolerance:
                middle = torch.where(ended, 0.0, 0.5 * (high + low))
                return Sweep(middle, middle, lambda: policy, -0.5 * gap, 0.5 * gap, spent + n), n
            if stop.over(spent + n, began) or (moved <= rounding and sign > 0 and gap > 4 * stop.tolerance):
                return None, n
        return None, n

    def progressing(self, values: Tensor, policy: Tensor) -> Tensor:
        """The policy, with ties broken in favour of actions that bring an episode nearer to its end."""
        if not self.fixed:
            return policy
        q = self.backup.marginal(values, policy).masked_fill(~self.mdp.allowed, -torch.inf)
        good = q >= q.amax(-1, keepdim=True) - TIE * float(values.abs().max())
        kernel = self.backup.kernel(values, policy)
        earns = self.earned(kernel) != 0
        done = self.mdp.ended | (values == 0)
        policy = policy.clone()
        while True:
            near = good & (earns | (mean(kernel, done.double()) > NONE)) & ~done.unsqueeze(-1)
            new = near.any(-1)
            if not bool(new.any()):
                return policy
            first = near[new].to(torch.int8).argmax(-1)
            policy[new] = torch.nn.functional.one_hot(first, policy.shape[-1]).to(policy.dtype)
            done = done | new

    # --- is the sum finite? ------------------------------------------------------------------------------------------

    def check_finite(self, values: Tensor, policy: Tensor) -> None:
        """Raise `UsageError` if a world of the set is found in which the sum is not finite."""
        kernel = self.backup.kernel(values, policy)
        costs = ((self.most < 0) | ~self.taken).all(-1) & ~self.mdp.ended
        lost = ~surely(kernel, self.taken, ~costs, joint=self.policy is not None)
        if bool(lost.any()):
            raise UsageError(
                f"{ENDLESS}, from the states {listed(lost.nonzero().flatten().tolist())}, no policy is sure to reach "
                "an end in the worst world, and every step has a cost, so the sum is −∞."
            )
        if not self.nominal:  # another world may be the worst one once values have grown
            return
        reward = (policy * self.earned(kernel)).sum(-1)
        for states in recurrent_classes(kernel, policy):
            if bool((reward[states] >= 0).all()) and bool((reward[states] > 0).any()):
                raise UsageError(
                    f"{ENDLESS}, a policy can stay in the states {listed(states)} forever and earn rewards, so the "
                    "sum is infinite."
                )

    def check_proper(self, found: Sweep, policy: Tensor) -> None:
        """Raise `UsageError` unless the bounds for rewards of both signs are shown to be valid."""
        if not self.ends(policy):
            raise UsageError(
                f"{ENDLESS}, rewards have both signs, and episodes of the best policy found are not shown to end in "
                "every world of the set."
            )
        if self.policy is None and not self.ends(None):
            high = torch.where(self.mdp.ended, 0.0, found.after + found.high)
            if not self.fixed or not self.losing(high, policy):
                raise UsageError(
                    f"{ENDLESS}, rewards have both signs, and a policy that never ends is not shown to have the "
                    "return −∞, so there may be no best value."
                )

    def ends(self, policy: Tensor | None) -> bool:
        """Whether episodes of a policy, or of every policy, end in every world: their expected length is bounded."""
        length = torch.zeros_like(self.mdp.initial)
        followed = None if policy is None else self.steps.follow(policy)
        slack, n = 0.5, 0
        while True:
            if followed is None:
                after, choose = self.steps.improve(length)
            else:
                after, choose = followed.backup(length), lambda: policy
            if bool((after - length <= slack).all()):  # then length / (1 − slack) bounds the expected length
                return True
            n += 1
            if n % PATIENCE == 0:
                own = choose()
                assert own is not None
                world = self.steps.kernel(length, own)
                if any(not bool(self.mdp.ended[states].all()) for states in recurrent_classes(world, own)):
                    return False
            if n >= 100 * PATIENCE:
                return False
            length = after

    def losing(self, high: Tensor, policy: Tensor) -> bool:
        """Whether every policy that never ends has return −∞ in the world of an upper bound.

        In an end component of negative rewards it has; if all rewards of one are 0 its return is 0, which must not
        exceed the bound; others are not decided.
        """
        kernel, most = self.backup.kernel(high, policy), self.most
        for pairs in end_components(kernel, self.taken):
            states = pairs.any(-1)
            if bool((high[states] >= 0).all()):
                continue
            if bool((most[pairs] > 0).any()):
                return False
            for free in end_components(kernel, pairs & (most == 0)):
                if bool((high[free.any(-1)] < 0).any()):
                    return False
        return True


def mean(kernel: Kernel, x: Tensor) -> Tensor:
    """Σ P(s'|s,a) x(s') `[S, A]`."""
    if isinstance(kernel, Successors):
        return (kernel.probability * x[kernel.state]).sum(-1)
    return kernel @ x


def surely(kernel: Kernel, allowed: Tensor, target: Tensor, joint: bool = False) -> Tensor:
    """The states `[S]` from which some policy of allowed pairs reaches the target with probability one.

    joint: all allowed pairs of a state are taken with positive probability.
    """
    inside = torch.ones_like(target)
    while True:
        stays = mean(kernel, (~inside).double()) <= NONE
        safe = ((stays | ~allowed).all(-1, keepdim=True) if joint else stays) & allowed
        reached = target & inside
        while True:
            more = reached | (inside & (safe & (mean(kernel, reached.double()) > NONE)).any(-1))
            if bool((more == reached).all()):
                break
            reached = more
        if bool((reached == inside).all()):
            return inside
        inside = reached


def end_components(kernel: Kernel, allowed: Tensor) -> list[Tensor]:
    """The maximal end components: pairs `[S, A]` in which a policy can stay forever and visit all of them."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    probability = kernel.probability if isinstance(kernel, Successors) else kernel
    pairs = allowed.clone()
    while True:
        where = ((probability > NONE) & pairs.unsqueeze(-1)).nonzero(as_tuple=True)
        there = where[-1] if isinstance(kernel, Tensor) else kernel.state[where]
        here = where[0]
        edges = torch.ones(len(here)).numpy(), (here.numpy(), there.numpy())
        _, part = connected_components(coo_array(edges, shape=(len(pairs),) * 2), connection="strong")
        part = torch.from_numpy(part)
        leaves = (part[here] != part[there.long()]) | ~pairs.any(-1)[there.long()]
        if not bool(leaves.any()):
            break
        pairs[here[leaves], where[1][leaves]] = False
    within = pairs.any(-1)
    return [pairs & (part == one).unsqueeze(-1) for one in part[within].unique()]
