"""Exact results of a policy learned on a finite MDP: its value, the optimum, and both in the worst world."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surefoot.envs.tabular import TabularMDP
from surefoot.envs.tabular.files import to_npz
from surefoot.errors import UsageError
from surefoot.evaluate import solutions
from surefoot.evaluate.grids import picture
from surefoot.evaluate.named import first_step
from surefoot.loops.tabular.episodes import episodic
from surefoot.loops.tabular.method import Tabular, as_ambiguity
from surefoot.models.tabular_agent import TabularAgent
from surefoot.solvers import Solution, evaluate_policy, solve
from surefoot.solvers.solution import default_criterion, measure

FILE = "solution.json"
ARRAYS = "policy.npz"  # value and policy on a grid, beside mdp.npz
SMALL = 4_000_000  # maximum entries of a kernel for which exact results are computed at the end of a run
SECONDS = 10.0  # time limit of each


@dataclass(frozen=True)
class Outcome:
    """Exact results of a policy: the measure, its value, that of the best policy, and both in the worst world."""

    measured: str
    worth: float
    best: float | None = None
    ambiguity: str | None = None
    robust: float | None = None
    robust_best: float | None = None
    table: str = ""

    def lines(self) -> list[str]:
        """The results in words."""
        best = "" if self.best is None else f" · best policy {self.best:.6g}"
        found = [f"exact {self.measured}: {self.worth:.6g}{best}"]
        if self.robust is not None:
            best = "" if self.robust_best is None else f" · best policy {self.robust_best:.6g}"
            found.append(f"in the worst world of {self.ambiguity}: {self.robust:.6g}{best}")
        return found


def outcome(mdp: TabularMDP, agent: TabularAgent, method: Tabular | None = None, assumed: bool = False) -> Outcome:
    """The exact results of an agent on the MDP, and in the worst world of its method's ambiguity set, if it has one.

    Results that take too long are omitted. assumed: whether the discount is a default.
    """
    criterion = getattr(method, "criterion", None) or default_criterion(mdp)
    measured = measure(mdp, criterion, assumed)
    if agent.policy.ndim == 4 or not _fits(mdp, agent.policy):
        worth, value = controller_worth(mdp, agent.policy)
        shown = agent.policy[0].sum(-1) if agent.policy.ndim == 4 else agent.policy
        shown = Solution(value, shown, 0.0, 0, True, lambda: mdp.transition, criterion=criterion)
        return Outcome(measured, worth, best(mdp, criterion), table=solutions.table(mdp, shown))
    own = evaluate_policy(mdp, agent.policy, criterion=criterion, time_limit=SECONDS)
    found = {"worth": solutions.worth(mdp, own), "best": best(mdp, criterion), "table": solutions.table(mdp, own)}
    return Outcome(measured, **found, **_robust(mdp, agent.policy, method, criterion))


def exact(agent: TabularAgent, mdp: TabularMDP, deterministic: bool = True) -> dict[str, Any]:
    """The exact value of the agent by the criterion of the MDP, with the actions of an evaluation; None if it may be
    infinite."""
    policy = agent.policy
    if deterministic:
        rows = policy.flatten(-2) if policy.ndim == 4 else policy
        policy = torch.nn.functional.one_hot(rows.argmax(-1), rows.shape[-1]).to(policy.dtype).view(policy.shape)
    try:
        worth = outcome(mdp, TabularAgent(policy)).worth
    except UsageError:
        worth = None
    return {"measured": measure(mdp, default_criterion(mdp)), "value": worth}


def best(mdp: TabularMDP, criterion: str) -> float | None:
    """The exact optimum, if it can be computed quickly."""
    if mdp.rows.numel() > SMALL:
        return None
    return solutions.worth(mdp, solve(mdp, criterion=criterion, time_limit=SECONDS))


def controller_worth(mdp: TabularMDP, policy: Tensor) -> tuple[float, Tensor]:
    """The return from the start, and from each state in memory 0 `[S]`, of a controller `[M, S, A, M]` or of a policy
    by step.

    Backward over the horizon, or one linear system without one.
    """
    if policy.ndim != 4:
        policy = _as_controller(policy)
    M, S = policy.shape[:2]
    chain, reward = [], []
    for h in range(mdp.horizon if mdp.stepped and mdp.horizon else 1):
        one = mdp.at(h) if mdp.horizon is not None else mdp
        chain.append(torch.einsum("msan,sat->msnt", policy, one.dense_rows).reshape(M * S, M * S))
        reward.append((policy.sum(-1) * one.expected_reward()).sum(-1).flatten())
    if mdp.horizon is None:
        if mdp.gamma >= 1:
            raise UsageError(f"{mdp.name!r} has gamma=1 and no horizon, so the return of a controller may be infinite.")
        value = torch.linalg.solve(torch.eye(M * S, dtype=chain[0].dtype) - mdp.gamma * chain[0], reward[0])
    else:
        value = torch.zeros(M * S, dtype=torch.float64)
        for h in reversed(range(mdp.horizon)):
            value = reward[h % len(reward)] + mdp.gamma * chain[h % len(chain)] @ value
    value = value.view(M, S)[0]
    return float(mdp.initial @ value), value


def write(folder: Path, mdp: TabularMDP, agent: TabularAgent, method: Tabular, assumed: bool = False) -> Outcome:
    """Write the results of a run to its folder: `solution.json`, `policy.csv` and, for a grid, `grid.png`."""
    made = outcome(mdp, agent, method, assumed)
    (folder / FILE).write_text(json.dumps(vars(made), indent=2, ensure_ascii=False), encoding="utf-8")
    if agent.policy.ndim == 4:
        return made
    criterion = getattr(method, "criterion", None) or default_criterion(mdp)
    if not _fits(mdp, agent.policy):
        return made
    own = evaluate_policy(mdp, agent.policy, criterion=criterion, time_limit=SECONDS)
    solutions.save_policy(mdp, own.value, agent.policy, folder / "policy.csv")
    if mdp.grid is not None:
        picture(mdp, own).savefig(folder / "grid.png", dpi=150)
        with suppress(UsageError):  # an MDP of more than its tables is not drawn in the report
            to_npz(mdp, folder / "mdp.npz")
            value, policy = first_step(mdp, own)
            np.savez(folder / ARRAYS, value=value.numpy(), policy=policy.numpy())
    return made


def read(folder: Path) -> Outcome | None:
    """The results that `write` stored, or None."""
    try:
        found = Outcome(**json.loads((folder / FILE).read_text(encoding="utf-8")))
        "\n".join([found.table, *found.lines()])  # raises if it is damaged
    except (OSError, ValueError, TypeError):
        return None
    return found


def _fits(mdp: TabularMDP, policy: Tensor) -> bool:
    """Whether a policy fits the MDP: stationary, or with one table per step."""
    return policy.ndim == 2 or (mdp.horizon is not None and len(policy) == mdp.horizon)


def _as_controller(policy: Tensor) -> Tensor:
    """A policy `[H, S, A]` as a controller that counts steps and stays at the last one."""
    steps = len(policy)
    after = torch.nn.functional.one_hot((torch.arange(steps) + 1).clamp(max=steps - 1), steps)
    return policy.unsqueeze(-1) * after.to(policy.dtype)[:, None, None, :]


def _robust(mdp: TabularMDP, policy: Tensor, method: Tabular | None, criterion: str) -> dict[str, Any]:
    """The worst case of the policy and of the best one, where the set fits the MDP and is small."""
    given = getattr(method, "ambiguity", None)
    if given is None or mdp.states * mdp.actions * mdp.states > SMALL:
        return {}
    ambiguity, rectangular = as_ambiguity(given), getattr(method, "rectangular", "sa")
    options: dict[str, Any] = {"rectangular": rectangular, "criterion": criterion}
    try:
        if rectangular == "d":
            options["factors"] = episodic(mdp).factors
        own = evaluate_policy(mdp, policy, ambiguity, **options)
        top = solve(mdp, ambiguity, **options)
    except UsageError:
        return {}  # such as a radius per step, which only the method knows
    found = {"robust": solutions.worth(mdp, own), "robust_best": solutions.worth(mdp, top)}
    return {"ambiguity": given if isinstance(given, str) else str(ambiguity), **found}
