"""IWOCS with learned members: SAC in one world after another, each the worst for the policy of all members so far.

For a simulator with a few uncertain parameters and an ordinary solver. No adversary is trained beside the agent: in
between, a black-box search finds the world that is worst for what there is. The policy π_i of the members j ≤ i is
`models.sequence`: the member whose critic values its own action lowest, if its model predicted the present state.

    default policy: SAC with parameters drawn for every episode;  T_0: the nominal world
    member j, in the world T_j:  Q'_j, π_j  by SAC;  model: minimise  ‖T̂_j(s, a) − s'‖₁
        Q_j, of rewards alone:  y = r + γ·min Q_j⁻(s', a'),  a' ~ π_j          (comparable between members)
    ρ_j = argmax_ρ min_T V_T(π_j; ρ)       T_{j+1} = argmin_T V_T(π_j; ρ_j)        V: one episode from s_0

Zouitine et al. 2024 (arXiv:2410.06212), as `iwocs`, the tabular form. No code was found; the method follows its text.

Differences: all parameters are set by the first action of an episode, so that the end of an episode begun in an earlier
world is left out of the losses; the three networks of a member share no layers; the first actions of a member are its
fresh actor's own, not uniformly random. The text gives no ε here: with `tolerance=None` all members are trained. A
search that finds a world that has had a member ends the sequence.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from surefoot.errors import UsageError
from surefoot.hyperparameters import hyperparameter
from surefoot.methods.robust.iwocs.members import TRAINED, Members, put
from surefoot.methods.robust.iwocs.search import Fitness, Played, cma_es, grid, played, worst
from surefoot.seeding import derive, numpy_stream

if TYPE_CHECKING:
    from surefoot.loops.off_policy.learner import Learner

SAME = 1e-6  # distance of worlds in [−1, 1]^k that are the same


@dataclass(frozen=True)
class DeepIWOCS(Members):
    """Incremental worst-case search with SAC members, their critics, and models that say where these hold."""

    default_steps: ClassVar[int] = 4_000_000

    default_policy_steps: int = hyperparameter(
        1_600_000, low=1, help="Steps of the default policy, before the members."
    )
    member_steps: int = hyperparameter(800_000, low=1, help="Steps of every member.")
    search: str = hyperparameter(
        "cma-es", choices=("cma-es", "grid"), help="Search for the worst world: CMA-ES, or a grid (IWOCS*)."
    )
    population: int = hyperparameter(100, low=4, high=10**4, help="Worlds of a generation of CMA-ES.")
    generations: int = hyperparameter(6, low=1, high=10**4, help="Generations of CMA-ES.")
    grid_points: int = hyperparameter(10, low=1, high=1000, help="Values of a parameter on the grid.")
    reaches: tuple[float, ...] = hyperparameter(
        tuple(round(0.1 * i, 1) for i in range(1, 11)), low=0, help="Errors ρ of a model, one of which it is held to."
    )
    tolerance: float | None = hyperparameter(
        None, low=0, help="Gap ε of value and lowest Q at which no member follows; all are trained if None."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.reaches:
            raise UsageError("reaches=() is not allowed; give at least one error of a model, such as (0.5,).")
        if self.learning_starts >= min(self.member_steps, self.default_policy_steps):
            raise UsageError(
                f"learning_starts={self.learning_starts} is not allowed with member_steps={self.member_steps} and "
                f"default_policy_steps={self.default_policy_steps}: each of them would end before it learns anything."
            )

    # --- stages: the default policy, then one member after another ---------------------------------------------------

    def _lengths(self) -> tuple[int, int]:
        """The iterations of the default policy and of a member."""
        return -(-self.default_policy_steps // self.pace), -(-self.member_steps // self.pace)

    def stage(self, iteration: int) -> int:
        """0 for the default policy, j for the j-th member, and one more when all is done."""
        first, each = self._lengths()
        return min(max(0, (iteration - first) // each + 1), self.members + 1)

    def begun(self, iteration: int) -> int:
        first, each = self._lengths()
        stage = min(self.stage(iteration), self.members)
        return 0 if stage == 0 else first + (stage - 1) * each

    def learns(self, name: str, iteration: int) -> bool:
        return self.stage(iteration) <= self.members and (self.stage(iteration) > 0 or name not in ("worth", "model"))

    def finished(self, learner: Learner) -> bool:
        over = [float(learner.parts("worlds", i)["over"]) > 0 for i in range(learner.num_seeds)]
        return self.stage(learner.iteration) > self.members or all(over)

    def after_iteration(self, learner: Learner) -> dict[str, Tensor]:
        """The agent holds what is trained so far; at the end of a member, the search for the next one's world."""
        stage, found = self.stage(learner.iteration - 1), []
        ended = self.stage(learner.iteration) > stage
        for i in range(learner.num_seeds):
            worlds, policy = learner.parts("worlds", i), learner.parts("policy", i)
            if stage == 0:
                put(policy, "default.", learner.parts("actor", i))
            elif ended and stage <= self.members and not worlds["over"]:
                self.join(learner, i, stage - 1)
                found.append(self.searched(learner, i, stage - 1))
                continue
            if ended and stage == 0:
                worlds["now"].copy_(self.nominal(learner).to(worlds["now"]))
                worlds["known"][0], worlds["count"][:] = worlds["now"], 1.0
            found.append({})
        if ended and stage < self.members:
            learner.restart(TRAINED, stage + 1)
        names = {name for one in found for name in one}
        return {name: torch.tensor([one.get(name, torch.nan) for one in found]) for name in sorted(names)}

    def join(self, learner: Learner, i: int, j: int) -> None:
        """Keep what was trained as the j-th member of a seed's policy."""
        policy = learner.parts("policy", i)
        put(policy, f"members.{j}.actor.", learner.parts("actor", i))
        put(policy, f"members.{j}.model.", learner.parts("model", i))
        for copy in range(self.critics):
            put(policy, f"members.{j}.critics.{copy}.", learner.parts("worth", i, copy))

    def nominal(self, learner: Learner) -> Tensor:
        """The world without any change, in [−1, 1]^k; its nearest point in the box."""
        with closing(learner.fresh([0])) as envs:
            return torch.as_tensor(envs.call("nominal")[0])  # type: ignore[attr-defined]

    def searched(self, learner: Learner, i: int, j: int) -> dict[str, float]:
        """Settle the reach of the j-th member and the world of the next one; what was found, for the metrics."""
        policy, worlds, seed = learner.parts("policy", i), learner.parts("worlds", i), learner.seeds[i]
        best: Played | None = None
        reach, steps, rows = 0.0, 0, self.population if self.search == "cma-es" else 100
        start, stream = derive(seed, "search", j), numpy_stream(seed, "search", j)
        with closing(learner.fresh([start] * rows)) as envs:
            for candidate in self.reaches:
                policy["reach"][j] = candidate
                play = partial(played, envs, learner.agent(i), seed=start, gamma=self.gamma)
                one = worst(play, partial(self.look, k=worlds["now"].numel(), stream=stream))
                steps += one.steps
                if best is None or one.total[0] > best.total[0]:
                    best, reach = one, candidate
            first = torch.as_tensor(envs.reset(seed=[start] * rows)[0]["state"][:1])  # type: ignore[arg-type]
        assert best is not None
        policy["reach"][j] = reach
        expected = float(learner.agent(i).flat.module.value(first)[0])  # type: ignore[operator]
        gap, world = abs(best.discounted[0] - expected), torch.as_tensor(best.worlds[0]).to(worlds["now"])
        again = bool(((worlds["known"][: j + 1] - world).abs().amax(-1) < SAME).any())
        worlds["now"].copy_(world)
        worlds["over"][:] = float(again or (self.tolerance is not None and gap <= self.tolerance))
        if j + 1 < self.members:
            worlds["known"][j + 1], worlds["count"][:] = world, j + 2.0
        return {"worst_return": best.total[0], "gap": gap, "reach": reach, "search_steps": float(steps)}

    def look(self, fitness: Fitness, k: int, stream: np.random.Generator) -> None:
        """Search the box `[0, 1]^k` for the lowest fitness."""
        if self.search == "grid":
            fitness(grid(self.grid_points, k))
        else:
            cma_es(fitness, k, stream, population=self.population, generations=self.generations)

    # --- in words ----------------------------------------------------------------------------------------------------

    def objective(self) -> str:
        return (
            "maximise  min_T V_T^π(s₀)  over the worlds T of the set, fixed in an episode\n"
            f"{super().objective()}\n"
            "of rewards alone: ½ mean (Q(s, a) − y)²,  y = r + γ·min Q⁻(s', a')\n"
            "model: mean ‖T̂(s, a) − s'‖₁"
        )

    def steps(self) -> list[str]:
        if self.search == "grid":
            how = f"on a grid with {self.grid_points} values of each parameter"
        else:
            how = f"CMA-ES, {self.generations} generations of {self.population}"
        names = [] if self.temperature is not None else ["temperature"]
        sac = f"SAC: {' and '.join([*names, 'actor'])} by Adam({self.learning_rate:g}), two critics Q' by"
        return [
            f"the default policy: {self.default_policy_steps} steps of SAC; parameters of {self.set} are "
            "drawn for each episode",
            f"then {self.members} members afresh, each with a replay of its own: {self.member_steps} steps of SAC in "
            "one world, the first in the nominal one",
            f"{sac.replace('two', str(self.critics))} Adam({self.critic_learning_rate:g}); their targets move by "
            f"τ = {self.tau:g}",
            f"members also: critics of rewards alone and a model of the world, by Adam({self.critic_learning_rate:g})",
            "exploration: a sample of π(·|s)",
            "the agent: the member whose critic values its own action lowest, of those whose model predicted the "
            "present state up to ρ; if there is none, the default policy",
            f"after each member, for every ρ in {', '.join(f'{x:g}' for x in self.reaches)}: the world with the lowest "
            f"return in one episode, {how}",
            "its ρ is the one whose lowest return is best, and the world of that return is the next member's",
        ]


METHOD = DeepIWOCS
