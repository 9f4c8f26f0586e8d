"""No adversary, and no luck, resurrects an episode that has ended: every solver, rectangularity, criterion and set."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import surefoot as sf
from surefoot.ambiguity import L1, Box, Scenarios, Wasserstein, parse
from surefoot.envs.tabular import Successors, TabularMDP, resolve
from surefoot.loops.tabular.gradient import evaluate
from surefoot.methods.tabular.regularized_rmdp import RFZI
from surefoot.methods.tabular.robust_average_reward import RobustRVI
from surefoot.solvers import evaluate_policy, solve

SETS = [
    "tv:0.1", "l1:0.2", "linf:0.1", "contamination:0.1", "hellinger:0.05", "reverse-kl:0.05", "ellipsoid:0.1", "kl:0.1",
    "tv-penalty:0.5", "cvar:0.4", "mean-cvar:0.3,weight=0.5",
]  # fmt: skip
METHODS = ("modified-policy-iteration", "value-iteration", "gauss-seidel")
ONE = TabularMDP([[[0.0, 1.0]], [[0.0, 1.0]]], [[-1.0], [0.0]], gamma=0.9)  # 0 -> 1, where all is over


def costs(seed: int, *, sparse: bool = False, by_next: bool = False, **fields) -> TabularMDP:
    """Five states, the last two of which are over; every step costs something."""
    rng = np.random.default_rng(seed)
    kernel, reward = rng.dirichlet(np.ones(5), (5, 2)), -rng.uniform(0.5, 1, (5, 2))
    kernel[3:] = np.eye(5)[3:, None]
    reward[3:] = 0
    if by_next:
        reward = reward[..., None] * rng.uniform(0.5, 1, (5, 2, 5)) - (kernel == 0)  # what never happens costs too
    made = TabularMDP(kernel, reward, **{"gamma": 0.9, **fields})
    if not sparse:
        return made
    state = torch.arange(5).expand(5, 2, 5).flip(-1)
    return dataclasses.replace(made, transition=Successors(state, made.rows.flip(-1)))


def kernel_of(solution, states: int = 5) -> torch.Tensor:
    kernel = solution.worst_kernel
    return kernel.dense(states) if isinstance(kernel, Successors) else kernel


def test_the_value_after_the_end_is_zero_and_before_it_what_is_left_to_pay():
    for rectangular in ("sa", "s"):
        found = solve(ONE, "tv:0.1", rectangular=rectangular, tolerance=1e-9)
        assert found.value.tolist() == pytest.approx([-1 / 0.91, 0], abs=1e-8) and found.value[1] == 0
        best = solve(ONE, "tv:0.1", rectangular=rectangular, nature="best", tolerance=1e-9)
        assert best.value.tolist() == pytest.approx([-1, 0], abs=1e-8)


def test_the_goal_of_cliff_walking_is_worth_nothing():
    cliff = sf.tabular_from_gym("CliffWalking-v1")
    found = solve(cliff, "tv:0.05")
    everywhere = torch.full((48, 4), 0.05, dtype=torch.float64)
    everywhere[47] = 0
    wanted = solve(cliff, sf.ambiguity.TotalVariation(everywhere))
    assert found.value[47] == 0 and float(found.value[36]) == pytest.approx(float(wanted.value[36]), abs=2e-6)
    assert float(found.value[36]) == pytest.approx(-12.015, abs=1e-3)


@pytest.mark.parametrize("text", SETS)
@settings(deadline=None, max_examples=2)
@given(st.integers(0, 10**6), st.booleans(), st.sampled_from(["worst", "best"]), st.sampled_from(METHODS))
def test_ended_states_are_certain_in_every_solver(text, seed, sparse, nature, method):
    mdp, ambiguity = costs(seed, sparse=sparse), parse(text)
    assert mdp.ended.tolist() == [False] * 3 + [True] * 2
    kinds = ["sa", "s"] if hasattr(ambiguity, "penalty") else ["sa"]
    for rectangular in kinds:
        options = {"rectangular": rectangular, "nature": nature}
        found = solve(mdp, ambiguity, method=method, **options)
        own = evaluate_policy(mdp, torch.full((5, 2), 0.5), ambiguity, **options)
        finite = solve(dataclasses.replace(mdp, horizon=3), ambiguity, **options)
        for one in (found, own):
            assert one.value[3:].tolist() == [0, 0]
            assert torch.equal(kernel_of(one)[3:], torch.eye(5, dtype=torch.float64)[3:, None].expand(2, 2, 5))
        assert bool((finite.value[:, 3:] == 0).all())
        kernel = finite.worst_kernel
        last = kernel.state.shape[-1] if isinstance(kernel, Successors) else 5
        rows = kernel.dense(5) if isinstance(kernel, Successors) else kernel
        assert last >= 5 and bool((rows[:, [3, 4], :, [3, 4]] == 1).all())


@pytest.mark.parametrize("by_next", [False, True])
def test_the_world_found_gives_the_values(by_next):
    mdp = costs(3, by_next=by_next)
    for nature in ("worst", "best"):
        found = solve(mdp, "tv:0.1", nature=nature, tolerance=1e-10)
        again = evaluate_policy(dataclasses.replace(mdp, transition=found.worst_kernel), found.policy, tolerance=1e-10)
        assert found.value.numpy() == pytest.approx(again.value.numpy(), abs=1e-8)


@pytest.mark.parametrize(
    "ambiguity",
    [
        L1(torch.full((5, 2), 0.3)),
        Box(lower=torch.full((5, 2, 5), 0.05), upper=torch.full((5, 2, 5), 0.6)),
        Scenarios(distributions=torch.full((1, 5), 0.2)),
        Wasserstein(0.5, cost=1 - torch.eye(5)),
    ],
    ids=["l1 of pairs", "box", "scenarios", "wasserstein"],
)
def test_sets_that_hold_arrays(ambiguity):
    found = solve(costs(1), ambiguity)
    assert found.value[3:].tolist() == [0, 0] and float(found.value[:3].max()) < 0


def test_factors_of_a_linear_mdp_and_averages():
    mdp = costs(2)
    one_hot = np.eye(10).reshape(5, 2, 10)
    linear = dataclasses.replace(mdp, features=one_hot)
    found = solve(linear, "tv:0.1", rectangular="d", factors=mdp.rows.reshape(10, 5), tolerance=1e-9)
    assert found.value.numpy() == pytest.approx(solve(mdp, "tv:0.1", tolerance=1e-9).value.numpy(), abs=1e-8)
    cut = dataclasses.replace(mdp, transition=mdp.rows[[0, 1, 2, 3, 3]], reward=mdp.reward[[0, 1, 2, 3, 3]])
    assert solve(cut, "tv:0.1", criterion="average").gain == pytest.approx(0, abs=1e-6)  # all comes to an end


def test_what_ends_in_every_step_of_a_changing_kernel_is_over_and_no_more():
    stay, go = torch.eye(2).double()[:, None], torch.tensor([[[0.0, 1.0]], [[1.0, 0.0]]]).double()
    mdp = TabularMDP(torch.stack([stay, go]), torch.tensor([[[0.0], [0.0]], [[-1.0], [-1.0]]]), 1.0, horizon=2)
    assert not mdp.ended.any()
    assert solve(mdp, "tv:0.5").value[0].tolist() == [-1, -1]


@pytest.mark.parametrize("text", ["tv:0.1", "linf:0.1", "kl-penalty:1"])
def test_the_exact_gradient_agrees_with_the_solver(text):
    for mdp in (costs(5), costs(5, sparse=True), costs(5, by_next=True), costs(5, horizon=3)):
        policy = torch.tensor([0.3, 0.7], dtype=torch.float64).expand(5, 2)
        found, wanted = evaluate(mdp, policy, parse(text)), evaluate_policy(mdp, policy, text, tolerance=1e-10)
        value = found.value if mdp.horizon is None else found.value[:-1]
        assert value.numpy() == pytest.approx(wanted.value.numpy(), abs=1e-8)
        assert bool((found.value[..., 3:] == 0).all())


def test_methods_that_sample_leave_ended_states_alone():
    mdp = costs(4)
    method = RobustRVI(ambiguity="tv:0.2", batch=5)
    state = method.start(mdp, 0)
    for n in range(3):
        table, before = method.step(mdp, state, 0, n)[0]["table"], state["table"]
        gain = before.flatten().mean() if n == 0 else None
        state = {"table": table}
        if gain is not None:
            assert float(gain) == 0
    value = state["table"][3:]
    assert torch.allclose(value, value[:1, :1].expand(2, 2))  # nothing but the offset moves them, and all alike
    few = RFZI(samples=1)
    state = few.start(mdp, 0)
    assert bool((few.step(mdp, {**state, "q": -torch.ones(5, 2).double()}, 0, 0)[0]["q"][3:] == 0).all())


def test_policy_gradients_leave_ended_states_alone():
    with pytest.warns(RuntimeWarning, match="after 5 sweeps"):
        found = solve(costs(0), "tv:0.1", method="policy-gradient", sweeps=5)
    assert found.value[3:].tolist() == [0, 0]


def test_mdps_without_an_end_are_solved_as_before():
    garnet = resolve("garnet:30,3,4")
    assert not garnet.ended.any()
    from surefoot.solvers.backups import make_backup
    from surefoot.solvers.pairs import Pairs

    assert isinstance(make_backup(garnet, parse("tv:0.1"), "sa", 0.9), Pairs)
