"""The s-rectangular backup against linear and conic programmes, and what its policies guarantee."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from surefoot.ambiguity import (
    KL,
    L1,
    Box,
    ChiSquare,
    Contamination,
    Ellipsoid,
    Hellinger,
    LInfinity,
    ReverseKL,
    TotalVariation,
    Wasserstein,
    moves,
)
from surefoot.envs.tabular import TabularMDP
from surefoot.solvers.backups import make_backup
from surefoot.solvers.budgets import Priced, family
from surefoot.solvers.solve import evaluate_policy

N, A = 5, 3


def random_state(seed: int, zeros: bool = True):
    """Rows `[A, N]` of one state, rewards `[A]` and values `[N]`; every other seed has zeros and ties."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(N, 0.7), A)
    values = rng.normal(size=N) * 3
    if zeros and seed % 2:
        p[rng.random((A, N)) < 0.3] = 0
        p[:, 0] += 1e-3
        values = np.round(values)
    return p / p.sum(-1, keepdims=True), rng.normal(size=A), values


def one_state(p, reward, gamma=0.9):
    """An MDP of N states whose first state has the given rows; the others stay where they are."""
    kernel = np.tile(np.eye(N)[:, None], (1, A, 1))
    kernel[0] = p
    rewards = np.zeros((N, A))
    rewards[0] = reward
    return TabularMDP(kernel, rewards, gamma=gamma)


def divergences(name, q, p, cost, box):
    """The divergence of each action in the words of cvxpy, and what else holds."""
    inside = p > 0
    held = [q[~inside] == 0] if (~inside).any() else []
    if name == "kl":
        return cp.sum(cp.kl_div(q[inside], p[inside])), held
    if name == "chi2":
        return cp.sum(cp.multiply(cp.square(q[inside] - p[inside]), 1 / p[inside])), held
    if name == "tv":
        return 0.5 * cp.norm1(q - p), []
    if name == "l1":
        return cp.norm1(q - p), []
    if name == "linf":
        return cp.norm_inf(q - p), []
    if name == "reverse-kl":
        return cp.sum(cp.kl_div(p[inside], q[inside])) + (p.sum() - cp.sum(q[inside])), []
    if name == "hellinger":
        return 1 - cp.sum(cp.multiply(np.sqrt(p[inside]), cp.sqrt(q[inside]))), []
    if name == "ellipsoid":
        return cp.sum_squares(q - p), []
    r = cp.Variable(nonneg=True)
    if name == "wasserstein":
        plan = cp.Variable((N, N), nonneg=True)
        return cp.sum(cp.multiply(plan, cost)), [cp.sum(plan, 1) == p, cp.sum(plan, 0) == q]
    if name == "contamination":
        return r, [q >= cp.multiply(1 - r, p), r <= 1]
    if name == "box":
        c = cp.Variable(N, nonneg=True)
        return r, [q == (1 - r) * p + c, c >= r * box[0], c <= r * box[1], r <= 1]
    raise AssertionError(name)


COST = np.abs(np.subtract.outer(np.arange(N), np.arange(N))).astype(float)
BOX = np.full(N, 0.05), np.full(N, 0.6)
SETS = {
    "kl": KL,
    "chi2": ChiSquare,
    "tv": TotalVariation,
    "l1": L1,
    "linf": LInfinity,
    "reverse-kl": ReverseKL,
    "hellinger": Hellinger,
    "ellipsoid": Ellipsoid,
    "contamination": Contamination,
    "wasserstein": lambda **size: Wasserstein(cost=torch.tensor(COST), **size),
    "box": lambda **size: Box(lower=torch.tensor(BOX[0]), upper=torch.tensor(BOX[1]), **size),
}


def programme(name, p, reward, values, gamma, radius=None, penalty=None, policy=None):
    """The least value that the adversary reaches: of the best action if there is no policy."""
    q = [cp.Variable(N, nonneg=True) for _ in range(A)]
    parts = [divergences(name, q[a], p[a], COST, BOX) for a in range(A)]
    held = [cp.sum(one) == 1 for one in q] + [c for _, more in parts for c in more]
    worth = [reward[a] + gamma * (q[a] @ values) for a in range(A)]
    total = sum(d for d, _ in parts)
    if radius is not None:
        held.append(total <= radius)
    u = cp.Variable()
    if policy is None:
        held += [u >= w for w in worth]
    else:
        held.append(u >= sum(policy[a] * worth[a] for a in range(A)))
    problem = cp.Problem(cp.Minimize(u + (0 if penalty is None else gamma * penalty * total)), held)
    problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10)
    return problem.value


@pytest.mark.parametrize("form", ["radius", "penalty"])
@pytest.mark.parametrize("name", SETS)
def test_the_best_policy_and_any_other_against_a_conic_programme(name, form):
    for seed in range(3):
        p, reward, values = random_state(seed)
        size = {"radius": [0.02, 0.2, 0.8], "penalty": [0.1, 1.0, 8.0]}[form][seed % 3]
        mdp = one_state(p, reward)
        backup = make_backup(mdp, SETS[name](**{form: size}), "s", mdp.gamma)
        v = torch.tensor(values)
        value, choose = backup.improve(v)
        policy = choose()
        assert value[0].item() == pytest.approx(programme(name, p, reward, values, 0.9, **{form: size}), abs=2e-6)
        assert policy.sum(-1).numpy() == pytest.approx(1, abs=1e-12)
        assert backup.follow(policy).backup(v).numpy() == pytest.approx(value.numpy(), abs=1e-9)
        other = np.random.default_rng(seed).dirichlet(np.ones(A))
        reached = backup.follow(torch.tensor(np.tile(other, (N, 1)))).backup(v)[0].item()
        assert reached == pytest.approx(programme(name, p, reward, values, 0.9, policy=other, **{form: size}), abs=2e-6)


@pytest.mark.parametrize("zeros", [False, True], ids=["dense", "zeros"])
@pytest.mark.parametrize(
    "divergence",
    [KL(0.1), *(kind(0.1, support=support) for kind in (ReverseKL, Hellinger) for support in ("all", "nominal"))],
    ids=lambda one: f"{one.name}-{getattr(one, 'support', 'nominal')}",
)
def test_tilts_cost_what_a_search_for_the_price_says(divergence, zeros):
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.full(N, 0.7), (20, A))
    values = torch.tensor(3 * rng.normal(size=(20, 1, N)))
    if zeros:  # and ties
        p[rng.random(p.shape) < 0.3] = 0
        p[..., 1] += 1e-3
        p, values = p / p.sum(-1, keepdims=True), values.round()
    mine, other = (made(divergence, values, torch.tensor(p)) for made in (family, Priced))
    torch.testing.assert_close(mine.mean, other.mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(mine.least, other.least, rtol=0, atol=1e-12)
    least, top = mine.least.amax(-1, keepdim=True), mine.mean.amax(-1, keepdim=True)
    for share in (1e-6, 0.01, 0.5, 0.9, 0.999):
        u, h = least + share * (top - least), 1e-5 * share * (1 - share) * (top - least)
        (spent, price, bend), found = (one.at_value(u) for one in (mine, other))
        torch.testing.assert_close(spent, found.spent, rtol=1e-9, atol=1e-15)
        torch.testing.assert_close(price, found.price, rtol=1e-9, atol=1e-12)
        fall = (mine.at_value(u - h).price - mine.at_value(u + h).price) / (2 * h)
        torch.testing.assert_close(bend, torch.where(price > 0, fall, 0.0), rtol=1e-4, atol=1e-8)
    for price in (1e-6, 0.01, 1.0, 100.0):
        price, h = price * torch.tensor(rng.random((20, A))), 1e-5
        (spent, slope), (found, _) = (one.at_price(price) for one in (mine, other))
        torch.testing.assert_close(spent, found, rtol=1e-9, atol=1e-15)
        rise = (mine.at_price(price * (1 + h))[0] - mine.at_price(price * (1 - h))[0]) / (2 * h)
        torch.testing.assert_close(slope, rise, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("support", ["all", "nominal"])
def test_distances_cost_what_a_linear_programme_says(support):
    """ξ(u) of L∞ by HiGHS: the least t with |q − p| ≤ t and q·z ≤ u, of rows with zeros and ties and without."""
    rng = np.random.default_rng(0)
    for trial in range(40):
        n = int(rng.integers(2, 9))
        p, z = rng.dirichlet(np.full(n, 0.6)), rng.normal(size=n)
        if trial % 2:
            p[rng.random(n) < 0.4] = 0
            p[rng.integers(n)] += 0.01
            p, z = p / p.sum(), z.round()
        if trial % 5 == 0:
            p = np.full(n, 1 / n)
        allowed = np.ones(n, bool) if support == "all" else p > 0
        row = family(LInfinity(0.1, support=support), torch.tensor(z)[None, None], torch.tensor(p)[None, None])
        least, mean = float(row.least), float(row.mean)
        assert (least, mean) == pytest.approx((z[allowed].min(), p @ z), abs=1e-12)
        eye, one = np.eye(n), np.ones((n, 1))
        rows = np.block([[eye, -one], [-eye, -one], [z, np.zeros(1)]])
        bounds = [(0, None if may else 0) for may in allowed] + [(0, None)]
        for share in (0.001, 0.1, 0.5, 0.9, 0.999, 1.1):
            u = least + share * (mean - least)
            limit = np.concatenate([p, -p, [u]])
            total = np.append(np.ones(n), 0)[None]
            found = linprog(np.eye(n + 1)[n], rows, limit, total, [1], bounds, method="highs")
            spent = float(row.at_value(torch.tensor([[u]], dtype=torch.float64)).spent)
            assert spent == pytest.approx(found.fun, abs=1e-9)


def test_distances_are_not_searched_for(monkeypatch):
    """All pieces of an L∞ row are known at once, so that a backup looks at them once and not once a guess."""
    seen = []
    monkeypatch.setattr(moves, "within_distance", lambda *x, of=moves.within_distance: seen.append(0) or of(*x))
    p, reward, values = random_state(0)
    make_backup(one_state(p, reward), LInfinity(0.1), "s", 0.9).improve(torch.tensor(values))
    assert len(seen) == 1


@pytest.mark.parametrize("name", sorted(SETS))
def test_touching_nothing_is_free(name):
    """At the last step all outcomes of an action are worth its reward; and no price is too high to be refused."""
    rng = np.random.default_rng(0)
    p, reward = rng.dirichlet(np.ones(N), (N, A)), rng.uniform(size=(N, A))
    last = make_backup(TabularMDP(p, reward, 1.0), SETS[name](penalty=1.0), "s", 1.0)
    torch.testing.assert_close(last.improve(torch.zeros(N).double())[0], torch.tensor(reward).amax(1))
    values = torch.tensor(1e3 * rng.normal(size=N))
    dear = make_backup(TabularMDP(p, reward, 1.0), SETS[name](penalty=1e12), "s", 1.0)
    nominal = (torch.tensor(reward) + torch.tensor(p) @ values).amax(1)
    torch.testing.assert_close(dear.improve(values)[0], nominal, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("ambiguity", [TotalVariation(penalty=5.0), KL(0.1)], ids=str)
@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_where_values_lie_does_not_matter(ambiguity, shift):
    p, reward, values = random_state(0)
    mdp = one_state(p, reward)
    here, there = (make_backup(mdp, ambiguity, "s", 1.0).improve(torch.tensor(values) + c)[0] for c in (0.0, shift))
    torch.testing.assert_close(there - shift, here, rtol=0, atol=1e-14 * (1 + 100 * shift))


@pytest.mark.parametrize("chance", [1e-10, 3e-11, 1e-12])
def test_a_rare_catastrophe_counts_for_a_given_policy(chance):
    mdp = TabularMDP([[[1 - chance, chance]], [[0.0, 1.0]]], [[1.0], [-1000.0]], 0.9)
    alone, shared = (evaluate_policy(mdp, [0, 0], KL(0.1), rectangular=r).value[0].item() for r in ("sa", "s"))
    assert shared == pytest.approx(alone, rel=1e-6) and alone < -300


@pytest.mark.parametrize("radius", [1e-10, 1e-15, 1e-17, 1e-20, 0.0])
def test_a_tiny_chi_square_budget_takes_as_little(radius):
    """Where all outcomes are kept, a policy loses √(κ·Σ_a π_a²·Var_a), far below the rounding of its masses."""
    rng = np.random.default_rng(0)
    p, values, policy = rng.dirichlet(np.ones(7), (7, A)), rng.normal(size=7), rng.dirichlet(np.ones(A), 7)
    backup = make_backup(TabularMDP(p, np.zeros((7, A)), 0.9), ChiSquare(radius), "s", 0.9)
    mean = 0.9 * p @ values
    variance = (p * (0.9 * values - mean[..., None]) ** 2).sum(-1)
    lost = (policy * mean).sum(-1) - backup.follow(torch.tensor(policy)).backup(torch.tensor(values)).numpy()
    assert lost == pytest.approx(np.sqrt(radius * (policy**2 * variance).sum(-1)), rel=1e-6, abs=1e-12)
    value, choose = backup.improve(torch.tensor(values))
    assert backup.follow(choose()).backup(torch.tensor(values)).numpy() == pytest.approx(value.numpy(), abs=1e-11)
