"""The claim of group-robust preferences: weights that grow with the losses lower the worst group's loss."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from surefoot.claims.parts import (
    Claim,
    Difference,
    Exact,
    Experiment,
    Gate,
    Less,
    Measurements,
    Part,
    Summary,
    Within,
)
from surefoot.methods.preference.group_robust_dpo import GroupRobustDPO, grown, mixed
from surefoot.objectives.preferences import Compared, PairObjective
from surefoot.seeding import torch_stream

F64 = torch.float64

# --- the minimax of a convex problem ---------------------------------------------------------------------------------

GROUPS, SIZE, ROUNDS = 3, 30, 2000


def minimax(seeds: Sequence[int]) -> dict[str, list[float]]:
    """On random logistic problems of three groups: the worst group's loss at the mean of the iterates, less the exact
    minimax."""
    method, found = GroupRobustDPO(link="logistic", beta=1.0, group_rate=0.1), list[float]()
    for seed in seeds:
        stream = torch_stream(seed, "groups")
        centres = torch.randn(GROUPS, 1, 4, generator=stream, dtype=F64)
        gaps = centres + torch.randn(GROUPS, SIZE, 4, generator=stream, dtype=F64)
        found.append(float(losses(method, gaps, descended(method, gaps)).max()) - exact(method, gaps))
    return {"gap": found}


def losses(method: GroupRobustDPO, gaps: Tensor, theta: Tensor) -> Tensor:
    """The mean loss of every group, by the shipped objective."""
    ratios = torch.stack([gaps @ theta, torch.zeros(gaps.shape[:2], dtype=F64)], -1)
    each = method.pair_objective().losses(Compared(ratios.view(-1, 2), torch.zeros(ratios.numel() // 2, 2, dtype=F64)))
    return each.view(GROUPS, SIZE).mean(1)


def descended(method: GroupRobustDPO, gaps: Tensor) -> Tensor:
    """The mean over the second half of the iterates of the method's two steps."""
    theta, log_weights = torch.zeros(4, dtype=F64), torch.full((GROUPS,), 1 / GROUPS, dtype=F64).log()
    total = torch.zeros(4, dtype=F64)
    for step in range(ROUNDS):
        leaf = theta.requires_grad_()
        now = losses(method, gaps, leaf)
        log_weights = grown(log_weights, now.detach(), method.group_rate, method.mix)
        (slope,) = torch.autograd.grad(mixed(log_weights, method.mix) @ now, leaf)
        theta = theta.detach() - 0.3 * slope
        total += theta * (step >= ROUNDS // 2)
    return total / (ROUNDS // 2)


def exact(method: GroupRobustDPO, gaps: Tensor) -> float:
    """min over θ of the largest of the groups' losses, as a smooth problem with one more variable."""

    def above(x: np.ndarray) -> np.ndarray:
        return x[4] - losses(method, gaps, torch.tensor(x[:4])).numpy()

    def slopes(x: np.ndarray) -> np.ndarray:
        jacobian = torch.autograd.functional.jacobian(lambda theta: losses(method, gaps, theta), torch.tensor(x[:4]))
        return np.concatenate([-np.asarray(jacobian), np.ones((GROUPS, 1))], 1)

    limits = {"type": "ineq", "fun": above, "jac": slopes}
    last = np.array([0.0, 0, 0, 0, 1])
    found = minimize(
        lambda x: x[4], np.array([0.0, 0, 0, 0, 1]), jac=lambda _: last, constraints=[limits], options={"ftol": 1e-12}
    )
    return float(found.x[4])


# --- the paper's bandit ----------------------------------------------------------------------------------------------

ACTIONS, TRAINED, TESTED = 8, 300, 500
TRUTHS = torch.tensor([[1.0, 3, 1, 3], [3.0, 1, 3, 1]], dtype=F64)
SCENARIOS = {"even, imbalanced": (False, 0.2), "uneven, balanced": (True, 0.5), "uneven, imbalanced": (True, 0.2)}
DPO_STEPS, RATE, IPO_STEPS = 10_000, 0.9, 100
BY_DPO = GroupRobustDPO(link="logistic", beta=1.0, group_rate=0.5)
BY_IPO = GroupRobustDPO(link="square", beta=0.1, group_rate=0.01)


def features(states: Tensor, actions: Tensor, group: Tensor) -> Tensor:
    """u·cos(πs) and sin(πs)/u of both coordinates, with u = 1 + action/8; swapped in group 1."""
    u = (1 + actions / ACTIONS)[..., None]
    cosine, sine = u * (torch.pi * states).cos(), (torch.pi * states).sin() / u
    first, second = torch.stack([cosine, sine], -1), torch.stack([sine, cosine], -1)
    return torch.where(group[..., None, None] == 0, first, second).flatten(-2)


def drawn(seed: int, name: str, counts: tuple[int, int], uneven: bool) -> tuple[Tensor, Tensor]:
    """Pairs of a scenario: the features of the preferred action less those of the other one, and the groups. Uneven:
    group 0 compares neighbours, which is hard, and group 1 actions that are four apart."""
    stream = torch_stream(seed, name)
    group = torch.arange(2).repeat_interleave(torch.tensor(counts))
    count = len(group)
    states = torch.rand(count, 2, generator=stream, dtype=F64)
    first = torch.randint(ACTIONS, (count,), generator=stream)
    other = (first + torch.randint(1, ACTIONS, (count,), generator=stream)) % ACTIONS
    if uneven:
        beside = first + 2 * torch.randint(2, (count,), generator=stream) - 1
        beside = torch.where(beside < 0, 1, torch.where(beside >= ACTIONS, ACTIONS - 2, beside))
        other = torch.where(group == 0, beside, (first + ACTIONS // 2) % ACTIONS)
    gap = features(states, first, group) - features(states, other, group)
    wins = (gap * TRUTHS[group]).sum(-1) > 0
    return torch.where(wins[:, None], gap, -gap), group


def bandit(scenario: str, arm: str, seeds: Sequence[int]) -> dict[str, list[float]]:
    """Per seed: the worst group's loss on fresh pairs, the mean over groups, and the final weight of group 0."""
    uneven, share = SCENARIOS[scenario]
    first = round(share * TRAINED)
    made = [drawn(seed, "pairs", (first, TRAINED - first), uneven) for seed in seeds]
    gaps, group = torch.stack([gap for gap, _ in made]), made[0][1]
    method = BY_DPO if arm.endswith("DPO") else BY_IPO
    kind = {"GR": 1.0, "IS": 0.0}.get(arm.split("-")[0])
    start = torch.stack([5 * torch.rand(4, generator=torch_stream(seed, "start"), dtype=F64) for seed in seeds])
    train = by_gradient if method is BY_DPO else by_least_squares
    theta, weight = train(method, gaps, group, start, kind)
    fresh = [drawn(seed, "fresh pairs", (TESTED, TESTED), uneven) for seed in seeds]
    tested = torch.stack([gap for gap, _ in fresh])
    each = pair_losses(method.pair_objective(), tested, theta).view(len(made), 2, TESTED).mean(-1)
    return {"worst": each.amax(1).tolist(), "mean": each.mean(1).tolist(), "weight": weight.tolist()}


def pair_losses(objective: PairObjective, gaps: Tensor, theta: Tensor) -> Tensor:
    """The loss of every pair of every seed, `[seeds, pairs]`."""
    ratio = (gaps @ theta[..., None]).squeeze(-1)
    pairs = torch.stack([ratio, torch.zeros_like(ratio)], -1).view(-1, 2)
    return objective.losses(Compared(pairs, torch.zeros_like(pairs))).view(ratio.shape)


def weights_of(group: Tensor, by_group: Tensor) -> Tensor:
    """Weights of groups `[seeds, 2]` as weights of pairs whose sum is that of the groups' means."""
    return by_group[:, group] / group.bincount()[group]


def by_gradient(method: GroupRobustDPO, gaps: Tensor, group: Tensor, theta: Tensor, mix: float | None) -> Any:
    """Gradient descent of all seeds at once; `mix` is None for the mean over all pairs."""
    count = len(gaps)
    log_weights = torch.full((count, 2), 0.5, dtype=F64).log()
    sizes = group.bincount()
    for _ in range(DPO_STEPS):
        leaf = theta.requires_grad_()
        each = pair_losses(method.pair_objective(), gaps, leaf)
        if mix is None:
            loss = each.mean(1).sum()
        else:
            by_group = torch.zeros(count, 2, dtype=F64).index_add(1, group, each.detach()) / sizes
            log_weights = grown(log_weights, by_group, method.group_rate, mix)
            used = mixed(log_weights, mix)
            loss = (weights_of(group, used) * each).sum()
        (slope,) = torch.autograd.grad(loss, leaf)
        theta = theta.detach() - RATE * slope
    return theta, log_weights.softmax(1)[:, 0]


def by_least_squares(method: GroupRobustDPO, gaps: Tensor, group: Tensor, theta: Tensor, mix: float | None) -> Any:
    """IPO's weighted least squares, solved after every step of the weights."""
    count, target = len(gaps), 1 / (2 * method.beta)
    log_weights = torch.full((count, 2), 0.5, dtype=F64).log()
    sizes = group.bincount()
    for _ in range(IPO_STEPS if mix else 1):
        used = mixed(log_weights, mix or 0.0)
        weight = torch.full(gaps.shape[:2], 1.0, dtype=F64) if mix is None else weights_of(group, used)
        square = gaps.transpose(1, 2) @ (weight[..., None] * gaps)
        theta = target * torch.linalg.solve(square, (weight[..., None] * gaps).sum(1))
        each = pair_losses(method.pair_objective(), gaps, theta)
        by_group = torch.zeros(count, 2, dtype=F64).index_add(1, group, each) / sizes
        if mix:
            log_weights = grown(log_weights, by_group, method.group_rate, mix)
    return theta, log_weights.softmax(1)[:, 0]


ARMS = ("DPO", "IS-DPO", "GR-DPO", "IPO", "IS-IPO", "GR-IPO")


def of_bandit(found: Measurements) -> Summary:
    return {f"{name}, {piece}": values for piece, part in found.items() for name, values in part.items()}


def better(name: str, role: Any, scenario: str, arm: str, than: str, says: str = "") -> Part:
    """A part: the worst group's loss of an arm is below another's."""
    series = (f"worst, {scenario}: {arm}", f"worst, {scenario}: {than}")
    return Part(name, role, "bandit", Difference(*series), Less(), gates=GATES, says=says)


def hard_groups(summary: Summary) -> bool:
    """Without robustness the worst group is well above the mean."""
    scenario = "uneven, imbalanced: DPO"
    return float(np.mean(summary[f"worst, {scenario}"])) > 1.2 * float(np.mean(summary[f"mean, {scenario}"]))


GATES = (Gate("room", hard_groups, "DPO's worst group has a loss at least a fifth above the mean of the groups"),)

CLAIM = Claim(
    slug="group-robust-dpo",
    sentence="Weights on groups that grow with their losses lead DPO and IPO to a lower loss of the worst group than the "
    "mean over pairs, and than equal weights of groups where their difficulty differs.",
    source="Ramesh et al. 2024 (arXiv:2405.20304), abstract, §5.1 and Figure 2",
    method=GroupRobustDPO,
    experiments={
        "minimax": Experiment(
            "mechanism",
            {"minimax": minimax},
            seeds=2,
            minutes=0.1,
            setting="random logistic problems of 3 groups of 30 pairs in 4 dimensions, 2000 steps of η = 0.1; the exact "
            "minimax by sequential quadratic programming",
            arms={"GR-DPO": GroupRobustDPO(link="logistic", beta=1.0, group_rate=0.1)},
            summary=lambda found: {"worst gap": max(found["minimax"]["gap"])},
        ),
        "bandit": Experiment(
            "instance",
            {f"{scenario}: {arm}": partial(bandit, scenario, arm) for scenario in SCENARIOS for arm in ARMS},
            seeds=20,
            minutes=5,
            setting="the paper's bandit: two groups with swapped features and truths (1, 3, 1, 3) and (3, 1, 3, 1), 8 actions, "
            "300 pairs, log-linear policies with a uniform reference; DPO with β = 1, 10,000 full steps of 0.9, η = 0.5; "
            "IPO with β = 0.1 by least squares, η = 0.01, 100 steps; losses of 500 fresh pairs a group",
            arms={"GR-DPO": BY_DPO, "GR-IPO": BY_IPO},
            summary=of_bandit,
            differs=(
                "the weight of a pair in IPO's least squares is its group's divided by the group's size",
                "the published losses are figures without digits, so only signs are compared",
            ),
        ),
    },
    parts=(
        Part(
            "the mean of the iterates has the minimax loss, up to 0.01",
            "primary",
            "minimax",
            Exact("worst gap"),
            Within(0.01),
            says="Proposition 4.1: the averaged iterates converge to the minimax",
        ),
        better("uneven, imbalanced: GR-DPO below DPO", "primary", "uneven, imbalanced", "GR-DPO", "DPO", "Figure 2"),
        better(
            "uneven, imbalanced: GR-DPO below equal weights",
            "primary",
            "uneven, imbalanced",
            "GR-DPO",
            "IS-DPO",
            "Figure 2",
        ),
        better("uneven, imbalanced: GR-IPO below IPO", "primary", "uneven, imbalanced", "GR-IPO", "IPO", "Figure 2"),
        better("uneven, balanced: GR-DPO below DPO", "primary", "uneven, balanced", "GR-DPO", "DPO", "Figure 5"),
        better("even, imbalanced: GR-DPO below DPO", "secondary", "even, imbalanced", "GR-DPO", "DPO", "Figure 4"),
        better(
            "even, imbalanced: GR-DPO below equal weights",
            "secondary",
            "even, imbalanced",
            "GR-DPO",
            "IS-DPO",
            "Figure 4",
        ),
        better("uneven, imbalanced: GR-IPO below equal weights", "secondary", "uneven, imbalanced", "GR-IPO", "IS-IPO"),
        better("uneven, balanced: GR-IPO below IPO", "secondary", "uneven, balanced", "GR-IPO", "IPO"),
        better("even, imbalanced: GR-IPO below IPO", "secondary", "even, imbalanced", "GR-IPO", "IPO"),
    ),
    not_run="GlobalOpinionQA with Gemma-2B and LoRA, five countries, five seeds of three to five hours on an A100: neither "
    "weights nor data are at hand",
)
