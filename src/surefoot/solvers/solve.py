"""Exact solutions of robust and nominal MDPs: the best policy, or the value of a given one, with a certificate."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from surefoot.ambiguity import Ambiguity, parse
from surefoot.ambiguity.arrays import normalised, tensor
from surefoot.envs.tabular import Successors, TabularMDP
from surefoot.envs.tabular.policies import uniform_policy
from surefoot.envs.tabular.resolve import resolved
from surefoot.errors import UsageError, nearest
from surefoot.solvers.average import settle
from surefoot.solvers.backups import NATURES, Backup, check_monotone, make_backup
from surefoot.solvers.fixed_point import Stop, Sweep, bounds_in_place, iterate
from surefoot.solvers.gradient import ascend
from surefoot.solvers.pairs import Choice
from surefoot.solvers.solution import Progress, Solution, default_criterion
from surefoot.solvers.total import Total

CRITERIA = ("discounted", "finite", "average", "total")
METHODS = ("modified-policy-iteration", "value-iteration", "gauss-seidel", "policy-gradient")
STEPS = 200  # maximum steps of a policy between two sweeps
GROUPS = 32  # groups of states in a Gauss–Seidel sweep

Sets = Ambiguity | str | Sequence[Ambiguity | str] | None


def solve(
    mdp: TabularMDP | str,
    ambiguity: Sets = None,
    *,
    rectangular: str = "sa",
    criterion: str | None = None,
    nature: str = "worst",
    method: str = METHODS[0],
    tolerance: float = 1e-6,
    sweeps: int = 100_000,
    time_limit: float | None = None,
    factors: Any = None,
    progress: Callable[[Progress], None] | None = None,
) -> Solution:
    """The best policy in the worst world of an ambiguity set, its values, that world, and an error bound.

    mdp: a `TabularMDP`, or the text that `surefoot.envs.tabular.resolve` reads: a name of the zoo, a file, gym:ID.

    ambiguity: a set or risk measure around each nominal row (None: the nominal alone), or its text, such as "kl:0.1".
    Its radius or penalty may be `[S, A]`. With criterion "finite" also a list of H sets, one per step.

    rectangular: the units for which the adversary chooses independently. "sa": each pair of state and action; the best
    policy is deterministic. "s": each state, before the action is drawn, with one budget Σ_a D(q_a ‖ P(·|s,a)) ≤ radius
    for all its actions (or penalty·Σ_a D, for every policy); the best policy is randomised, and the radius may be
    `[S]`. "d": each factor of a linear MDP with features `[S, A, d]`, whose `factors` are `[d, S']` (`[H, d, S']` by
    step) and whose kernel is features @ factors; the radius may be `[d]`.

    criterion: "discounted" by mdp.gamma; "finite", the discounted sum over mdp.horizon steps, with a policy per step;
    "total", the sum without a discount, whatever gamma is, where it is finite: stochastic shortest paths, or with a
    reward of 1 on entering a goal the probability of reaching it; "average", the average reward per step,
    whatever gamma is. None is "finite" if there is a horizon, and "total" for a gamma of 1. A risk measure is nested:
    it is applied at each step to the risk of the following steps. With `Entropic` an average is the
    risk-sensitive gain of Howard and Matheson (1972), and a list of `Entropic(rate * gamma**h)` for h = 1 … H the
    exponential utility of a discounted sum.

    nature: "worst", or "best" for the most favourable world of the set; together they bound the value in any world.

    method: for infinite horizons. "modified-policy-iteration" evaluates each policy in its worst world for several
    steps before it improves it; "value-iteration" does not; "gauss-seidel" sweeps over groups of states and uses new
    values at once. "policy-gradient" follows the gradient of the policy's own robust values: a slow reference method,
    for tolerances of about 0.01.

    tolerance: the gap at which to stop, in the unit of the values, for averages in that of a reward. After `sweeps`
    sweeps, after `time_limit` seconds, or at the limit of rounding, a solution with a larger gap is returned with a
    warning; its gap is certified too. A sweep that has begun is always finished.

    For every set, the states `mdp.ended`, in which an episode is over, stay nominal and have the value 0.

    Raises `UsageError` for invalid input: sets that need missing rewards or sizes, risks that are not monotone, an
    average that differs between states, a total reward that is not finite.
    """
    mdp = resolved(mdp)
    sets, criterion = _asked(mdp, ambiguity, criterion, method, tolerance, nature)
    stop = Stop(tolerance, sweeps, progress, time_limit)
    if criterion == "finite":
        return _backward(mdp, sets, rectangular, factors, None, nature)
    backup = make_backup(mdp, sets, rectangular, mdp.gamma if criterion == "discounted" else 1.0, factors, nature)
    start = _start(mdp)

    def chain(sweep: Sweep) -> Any:
        return backup.follow(sweep.policy).chain(sweep.before)

    steps = STEPS if method == METHODS[0] else 0
    if criterion == "average":
        last = settle(backup.improve, chain, backup.kernel, start, stop, steps, mdp.allowed)
    elif criterion == "total":
        last = _total(mdp, sets, rectangular, factors, nature, backup, None).solve(stop)
    elif method == "policy-gradient":
        last = ascend(backup, uniform_policy(mdp), mdp.gamma, stop)
    elif method == "gauss-seidel":
        last = iterate(lambda v: _in_place(backup, v), start, mdp.gamma, stop, limits=bounds_in_place)
    else:
        last = iterate(backup.improve, start, mdp.gamma, stop, chain, steps)
    return _solution(last, backup, criterion, stop, mdp.ended)


def evaluate_policy(
    mdp: TabularMDP | str,
    policy: Any,
    ambiguity: Sets = None,
    *,
    rectangular: str = "sa",
    criterion: str | None = None,
    nature: str = "worst",
    tolerance: float = 1e-6,
    sweeps: int = 100_000,
    time_limit: float | None = None,
    factors: Any = None,
    progress: Callable[[Progress], None] | None = None,
) -> Solution:
    """The values of a policy in its worst (or best) world of the ambiguity set, and that world.

    policy: `[S, A]`, or `[S]` the indices of its actions; with criterion "finite" also `[H, S, A]` or `[H, S]`. The
    other arguments, and errors, are those of `solve`.
    """
    mdp = resolved(mdp)
    sets, criterion = _asked(mdp, ambiguity, criterion, METHODS[0], tolerance, nature)
    policy = as_policy(mdp, policy, criterion)
    stop = Stop(tolerance, sweeps, progress, time_limit)
    if criterion == "finite":
        return _backward(mdp, sets, rectangular, factors, policy, nature)
    backup = make_backup(mdp, sets, rectangular, mdp.gamma if criterion == "discounted" else 1.0, factors, nature)
    followed, start = backup.follow(policy), _start(mdp)

    def step(values: Tensor) -> tuple[Tensor, Choice]:
        return followed.backup(values), lambda: policy

    if criterion == "average":
        taken = policy > 0
        last = settle(step, lambda sweep: followed.chain(sweep.before), backup.kernel, start, stop, STEPS, taken)
    elif criterion == "total":
        last = _total(mdp, sets, rectangular, factors, nature, backup, policy).solve(stop)
    else:
        last = iterate(step, start, mdp.gamma, stop, lambda sweep: followed.chain(sweep.before), STEPS)
    return _solution(last, backup, criterion, stop, mdp.ended)


def as_policy(mdp: TabularMDP, given: Any, criterion: str) -> Tensor:
    """A policy as probabilities of actions, `[S, A]` or, with a horizon, `[H, S, A]`.

    Raises `UsageError` unless the MDP allows it.
    """
    policy = tensor(given, "policy")
    shapes = [(mdp.states,)] + ([(mdp.horizon, mdp.states)] if criterion == "finite" else [])
    if not policy.is_floating_point() and tuple(policy.shape) in shapes:
        if bool(((policy < 0) | (policy >= mdp.actions)).any()):
            raise UsageError(f"policy: actions must be numbers from 0 to {mdp.actions - 1}.")
        policy = torch.nn.functional.one_hot(policy.long(), mdp.actions)
    policy = normalised(policy)
    if tuple(policy.shape) not in [(*shape, mdp.actions) for shape in shapes]:
        raise UsageError(
            f"policy has shape {list(policy.shape)}; allowed are probabilities "
            f"{' or '.join(str([*shape, mdp.actions]) for shape in shapes)}, or whole numbers of actions without the "
            "last axis."
        )
    off = (policy.sum(-1) - 1).abs() > 1e-8
    if bool((off | (policy < 0).any(-1) | policy.isnan().any(-1)).any()):
        place = (off | (policy < 0).any(-1) | policy.isnan().any(-1)).nonzero()[0].tolist()
        raise UsageError(
            f"policy[{', '.join(map(str, place))}] is not a distribution over actions; make it sum to one."
        )
    if mdp.legal is not None and bool(((policy > 0) & ~mdp.legal).any()):
        *_, state, action = ((policy > 0) & ~mdp.legal).nonzero()[0].tolist()
        raise UsageError(f"policy takes action {action} in state {state}, which the MDP does not allow.")
    return policy


def _asked(
    mdp: TabularMDP, ambiguity: Any, criterion: Any, method: str, tolerance: float, nature: str
) -> tuple[Any, str]:
    """The set and the criterion, after checks."""
    criterion = default_criterion(mdp) if criterion is None else criterion
    for name, value, known in (
        ("criterion", criterion, CRITERIA),
        ("method", method, METHODS),
        ("nature", nature, NATURES),
    ):
        if value not in known:
            raise UsageError(f"{name}={value!r} is not allowed. {nearest(str(value), known)}")
    if not tolerance > 0:
        raise UsageError(f"tolerance={tolerance!r} is not allowed; it must be above 0.")
    if criterion == "finite" and mdp.horizon is None:
        raise UsageError("criterion='finite' needs the number of steps: make the MDP with horizon=H.")
    if criterion != "finite" and mdp.horizon is not None:
        raise UsageError(
            f"criterion={criterion!r} needs an infinite horizon, but the MDP has horizon={mdp.horizon}; use "
            "criterion='finite', or mdp.at(0), the MDP of the first step without a horizon."
        )
    if criterion == "discounted" and mdp.gamma >= 1:
        raise UsageError(
            f"criterion='discounted' with gamma={mdp.gamma:g} is an infinite sum; give gamma below 1, a horizon, "
            "criterion='total' if episodes end, or criterion='average'."
        )
    if criterion != "discounted" and method in METHODS[2:]:
        raise UsageError(f"method={method!r} is for criterion='discounted'; leave method out for {criterion!r}.")
    many = isinstance(ambiguity, Sequence) and not isinstance(ambiguity, str)
    if many and (criterion != "finite" or len(ambiguity) != mdp.horizon):
        raise UsageError(
            f"ambiguity is a list of {len(ambiguity)}; a list needs criterion='finite' and one set per step."
        )
    made = [parse(one) if isinstance(one, str) else one for one in (ambiguity if many else [ambiguity])]
    for one in made:
        if one is not None and not isinstance(one, Ambiguity):
            raise UsageError(f"ambiguity={one!r} is not allowed; give a set or risk measure, its text, or None.")
        if criterion != "finite":
            check_monotone(one, criterion)
    return made if many else made[0], criterion


def _start(mdp: TabularMDP) -> Tensor:
    return torch.zeros(mdp.states, dtype=torch.float64, device=mdp.rows.device)


def _in_place(backup: Backup, values: Tensor) -> tuple[Tensor, Choice]:
    """One Gauss–Seidel sweep over groups of states."""
    values, policies = values.clone(), []
    size = -(-len(values) // GROUPS)
    for first in range(0, len(values), size):
        states = slice(first, min(first + size, len(values)))
        values[states], choose = backup.improve(values, states)
        policies.append(choose)
    return values, lambda: torch.cat([choose() for choose in policies])


def _total(
    mdp: TabularMDP, sets: Any, rectangular: str, factors: Any, nature: str, backup: Backup, policy: Tensor | None
) -> Total:
    """The problem of a total reward, with that of its maximum episode length."""
    going = (~mdp.ended).double().unsqueeze(-1).expand(mdp.states, mdp.actions)
    steps = make_backup(replace(mdp, reward=going), sets, rectangular, 1.0, factors, "best", mdp.ended)
    return Total(mdp, backup, steps, policy, sets is None or (nature == "worst" and rectangular != "s"), sets is None)


def _backward(
    mdp: TabularMDP, ambiguity: Any, rectangular: str, factors: Any, policy: Tensor | None, nature: str
) -> Solution:
    """Backward induction from the last step, with a policy for each; exact."""
    assert mdp.horizon is not None
    backups: dict[int, Backup] = {}

    def at(h: int) -> Backup:
        one = ambiguity[h] if isinstance(ambiguity, list) else ambiguity
        kind = h if mdp.stepped or isinstance(ambiguity, list) else 0
        if kind not in backups:
            backups.clear()
            part = factors[h] if factors is not None and torch.as_tensor(factors).ndim == 3 else factors
            backups[kind] = make_backup(mdp.at(h), one, rectangular, mdp.gamma, part, nature, mdp.ended)
        return backups[kind]

    values, policies = [_start(mdp)], []
    for h in reversed(range(mdp.horizon)):
        if policy is None:
            value, choose = at(h).improve(values[0])
            best = choose()
        else:
            best = policy if policy.ndim == 2 else policy[h]
            value = at(h).follow(best).backup(values[0])
        values.insert(0, value)
        policies.insert(0, best)

    def kernel() -> Any:
        steps: list[Any] = [at(h).kernel(values[h + 1], policies[h]) for h in range(len(policies))]
        if isinstance(steps[0], Tensor):
            return torch.stack(steps)
        return Successors(*(torch.stack(parts) for parts in zip(*steps)))

    made = torch.stack(policies) if policy is None else policy
    return Solution(torch.stack(values[:-1]), made, 0.0, mdp.horizon, True, kernel, criterion="finite")


def _solution(last: Sweep, backup: Backup, criterion: str, stop: Stop, ended: Tensor) -> Solution:
    converged = last.gap <= stop.tolerance
    if not converged:
        warnings.warn(
            f"the gap is {last.gap:.3g} after {last.iteration} sweeps, above the tolerance {stop.tolerance:g}: more "
            "sweeps or time are needed, or this is the limit of rounding.",
            RuntimeWarning,
            stacklevel=3,
        )
    middle = 0.5 * (last.low + last.high)
    average = criterion == "average"
    return Solution(
        last.after - last.after[0] if average else torch.where(ended, 0.0, last.after + middle),
        last.policy,
        last.gap,
        last.iteration,
        converged,
        lambda: backup.kernel(last.before, last.policy),
        middle if average else None,
        criterion,
    )
