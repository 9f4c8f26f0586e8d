"""Dynamic reward weighting: the numbers of its card, and runs with three rewards on a model of a few weights."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("transformers", reason="language models need surefoot[language]")

from surefoot.envs.language import resolve
from surefoot.errors import UsageError
from surefoot.loops.group_rollout.iteration import Iteration
from surefoot.loops.group_rollout.learner import LanguageLearner
from surefoot.loops.group_rollout.rewards import make_rewards
from surefoot.methods.language.baselines import GRPO
from surefoot.methods.language.dynamic_reward_weighting import ADVANTAGES, DynamicRewardWeighting
from surefoot.methods.language.dynamic_reward_weighting.gradients import influence, inner, probe, reweighted
from surefoot.methods.language.dynamic_reward_weighting.pareto import extended, growth, hypervolume, nondominated
from surefoot.models.language.generation import generate
from surefoot.models.language.nano import Nano, fresh

F64 = torch.float64


def points(*rows):
    return torch.tensor(rows, dtype=F64)


# --- fronts --------------------------------------------------------------------------------------------------------


def test_the_volume_of_points_in_a_plane():
    reference, front = points(0.2, 0.3), points((0.5, 0.6))
    assert hypervolume(front, reference) == pytest.approx(0.09)
    front, gain = extended(front, points(0.4, 0.8), reference)
    assert gain == pytest.approx(0.04) and growth(gain) == pytest.approx(0.559968, abs=1e-6)
    same, gain = extended(front, points(0.45, 0.5), reference)
    assert gain == 0 and same is front and growth(gain) == 0.5


def test_how_far_steps_grow():
    found = [growth(x) for x in (0, 0.01, 0.05, 0.1, 0.3, 1)]
    assert found == pytest.approx([0.5, 0.515, 0.574938, 0.649502, 0.936969, 1.642391], abs=1e-6)


def test_lengths_in_tokens_drown_the_other_objectives():
    reference, better = points(0.40, -600, 0.50), points((0.46, -450, 0.62))
    gain = hypervolume(better, reference)
    assert gain == pytest.approx(1.08) and growth(gain) == pytest.approx(1.689799, abs=1e-6)
    worse = points((0.5, -450, 0.4))
    assert hypervolume(worse, reference) == 0  # what is worse than the reference counts as equal to it


coordinates = st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=0, max_size=6)


@given(front=coordinates, more=st.tuples(*[st.integers(0, 4)] * 3))
def test_the_volume_counts_unit_cubes_and_never_falls(front, more):
    """On integers: the cubes below at least one of the points."""
    reference = torch.zeros(3, dtype=F64)
    cubes = {(x, y, z) for a, b, c in front for x in range(a) for y in range(b) for z in range(c)}
    made = points(*front) if front else reference[None][:0]
    assert hypervolume(made, reference) == len(cubes)
    more = torch.tensor(more, dtype=F64)
    both, gain = extended(made, more, reference)
    assert gain >= 0 and hypervolume(both, reference) == pytest.approx(len(cubes) + gain)
    if any(all(x >= y for x, y in zip(point, more.tolist())) for point in front):
        assert gain == 0


def test_no_fixed_weights_choose_a_point_in_a_dent():
    front = points((0, 1), (0.45, 0.45), (1, 0))
    for w in torch.linspace(0, 1, 101, dtype=F64):
        assert int((front @ torch.stack([w, 1 - w])).argmax()) != 1
    assert len(nondominated(front)) == 3 and hypervolume(front, points(0, 0)) == pytest.approx(0.45**2)
    assert nondominated(points((1, 1), (0, 1), (1, 1))).tolist() == [[1, 1]]


# --- weights by gradients ------------------------------------------------------------------------------------------

ROWS = [[1, 0, 0.5], [0, 1, 0.5], [-0.6, 0.2, 0]]


def gradients(*rows):
    return [{"a": torch.tensor(row[:1], dtype=F64), "b": torch.tensor(row[1:], dtype=F64)} for row in rows]


def test_influences_and_a_step_of_the_weights():
    found = influence(gradients(*ROWS))
    assert found.tolist() == pytest.approx([0.9, 1.7, 0])
    after = reweighted(torch.full((3,), 1 / 3, dtype=F64).log(), found, 0.1).exp()
    assert after.tolist() == pytest.approx([0.333643, 0.361431, 0.304926], abs=1e-6)
    assert reweighted(after.log(), found, 0.0).exp().tolist() == pytest.approx(after.tolist())  # μ → ∞


def test_weights_stay_a_distribution_and_equal_gradients_leave_them():
    start = torch.tensor([0.5, 0.5, 0.0], dtype=F64)
    after = reweighted(start.log(), influence(gradients(*ROWS)), 3.0).exp()
    assert after.sum().item() == pytest.approx(1) and after[2] == 0 and (after[:2] > 0).all()
    alike = influence(gradients(ROWS[0], ROWS[0], ROWS[0]))
    torch.testing.assert_close(reweighted(start.log(), alike, 0.7).exp(), start)
    assert reweighted(torch.zeros(1, dtype=F64), torch.tensor([9.0], dtype=F64), 1.0).exp().item() == 1


def test_a_probe_is_clipped_by_the_norm_of_all_and_keeps_the_middle():
    gradient = {name: torch.full((2,), x, dtype=F64) for name, x in zip("abcd", (3.0, 1.0, 1.0, 3.0))}
    whole = probe(gradient, 1.0)
    assert inner(whole, whole) == pytest.approx(1) and list(whole) == list("abcd")
    middle = probe(gradient, 1.0, 0.5)
    assert list(middle) == ["b", "c"] and middle["b"][0].item() == pytest.approx(1 / 40**0.5)
    assert torch.equal(probe(gradient, None)["a"], gradient["a"])


# --- advantages ----------------------------------------------------------------------------------------------------


def test_a_factor_of_the_reward_is_lost_in_a_standardised_advantage():
    reward = torch.tensor([[1, 0, 0.333, 0.667]])
    for factor in (1, 2, 0.5):
        found = ADVANTAGES["standardized"](factor * reward)[0]
        assert found.tolist() == pytest.approx([1.16166, -1.16166, -0.38799, 0.38799], abs=1e-5)
        torch.testing.assert_close(
            ADVANTAGES["leave-one-out"](factor * reward), factor * ADVANTAGES["leave-one-out"](reward)
        )


# --- runs ----------------------------------------------------------------------------------------------------------

TASK = resolve("arithmetic:digits=1")
SMALL = {"prompts": 4, "samples": 4, "max_tokens": 5, "minibatches": 1}


def digits(completions, **fields):
    return [sum(c.isdigit() for c in text) / 5 for text in completions]


def letters(completions, **fields):
    return [sum(c.isalpha() for c in text) / 5 for text in completions]


def nothing(completions, **fields):
    return [0.0 for _ in completions]


@dataclass(frozen=True)
class Plain(GRPO):
    """GRPO with the same ε, so that only rounding differs."""

    clip: float = 100.0

    def objective(self):
        return dataclasses.replace(super().objective(), advantage=ADVANTAGES["standardized"])


def learner(method, rewards=(digits, letters, nothing), weights=None, **settings):
    made = make_rewards(TASK, list(rewards), weights)
    model = fresh(Nano(width=16, layers=1, heads=2, context=48, warmup=0), seed=1)
    return LanguageLearner(method, model, TASK, made, generate, **{"learning_rate": 0.01, "patience": None, **settings})


def weights(run):
    return torch.cat([w.detach().flatten() for w in run.weights.values()])


def test_the_weights_follow_the_influences_before_the_update():
    run = learner(DynamicRewardWeighting(**SMALL, weight_rate=0.5))
    iteration = Iteration(run)
    rollout = run.method.collect(iteration)
    plain = dataclasses.replace(rollout, reward=sum(rollout.components.values()) / 3)
    grads = []
    for reward in rollout.components.values():
        terms = Plain(**SMALL).terms(dataclasses.replace(rollout, reward=reward))
        gradient = torch.cat([x.flatten() for x in iteration.gradient(terms).values()]).double()
        grads.append(gradient / max(1, gradient.norm()))
    influences = torch.stack(grads) @ sum(grads)
    wanted = (0.5 * influences).softmax(0)
    torch.testing.assert_close(rollout.progress.memory["log_weights"].exp(), wanted, rtol=1e-3, atol=1e-4)
    assert wanted[2] < wanted[:2].min()  # the reward that is always 0 has no gradient
    new = sum(w * x for w, x in zip(wanted.tolist(), rollout.components.values()))
    torch.testing.assert_close(rollout.reward, new, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(rollout.reward, plain.reward)
    assert rollout.logged.means([rollout.logged])["log/weight/digits"] == pytest.approx(wanted[0].item(), abs=1e-3)


def test_without_steps_of_the_weights_it_is_grpo_on_the_weighted_reward():
    runs = [
        learner(DynamicRewardWeighting(**SMALL, weight_rate=0.0), weights=[0.5, 0.25, 0.25]),
        learner(DynamicRewardWeighting(**SMALL), rewards=(digits,)),
        learner(Plain(**SMALL), weights=[0.5, 0.25, 0.25]),
        learner(Plain(**SMALL), rewards=(digits,)),
    ]
    for run in runs:
        for _ in range(3):
            run.iterate()
    for found, wanted in zip(map(weights, runs[:2]), map(weights, runs[2:])):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


def test_influences_are_averaged_over_several_iterations():
    run = learner(DynamicRewardWeighting(**SMALL, weight_every=2), learning_rate=1e-12)
    seen = []
    for _ in range(3):
        run.iterate()
        seen.append((run.memory["log_weights"].exp(), run.memory["influence"]))
    uniform = torch.full((3,), 1 / 3, dtype=F64)
    torch.testing.assert_close(seen[0][0], uniform)
    assert seen[0][1].abs().sum() > 0 and seen[1][1].abs().sum() == 0
    assert not torch.allclose(seen[1][0], uniform) and torch.equal(seen[1][0], seen[2][0])


def hypervolume_run(**changes):
    return learner(DynamicRewardWeighting(scheme="hypervolume", validation=6, **SMALL, **changes))


def test_the_first_step_is_whole_and_the_reference_is_from_before_it():
    run = hypervolume_run()
    reference = Iteration(run).held_out(6).components
    run.iterate()
    wanted = torch.stack([x.double().mean() for x in reference.values()])
    torch.testing.assert_close(run.memory["reference"], wanted)
    after = torch.stack([x.double().mean() for x in Iteration(run).held_out(6).components.values()])
    gain = hypervolume(after[None], wanted)
    assert run.memory["scale"].item() == pytest.approx(growth(gain))
    assert len(run.memory["front"]) == (gain > 0)
    row = run.iterate()[0]
    assert row["log/scale"] == pytest.approx(growth(gain))


def test_on_the_reward_the_scale_does_nothing_to_grpo_and_on_the_advantage_it_does():
    runs = [
        hypervolume_run(scaled="reward"),
        hypervolume_run(),
        hypervolume_run(scaled="reward", advantage="leave-one-out"),
        hypervolume_run(advantage="leave-one-out"),
        learner(Plain(**SMALL)),
    ]
    moves = []
    for run in runs:
        run.optimizer = torch.optim.SGD(run.masters.values(), lr=0.05)
        run.memory = {**run.memory, "scale": torch.tensor(0.5), "reference": torch.zeros(3, dtype=F64)}
        run.memory["front"] = torch.zeros(0, 3, dtype=F64)
        before = weights(run)
        terms = run.method.terms(run.collect()[0])
        run.method = dataclasses.replace(run.method, max_grad_norm=None)
        run.update(terms)
        moves.append(weights(run) - before)
    reward, advantage, loo_reward, loo_advantage, grpo = moves
    assert (reward - grpo).norm() < 1e-4 * grpo.norm()
    torch.testing.assert_close(advantage, grpo / 2, rtol=1e-2, atol=1e-6)
    torch.testing.assert_close(loo_reward, loo_advantage, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("scheme", ["gradient", "hypervolume"])
def test_what_it_remembers_is_in_checkpoints(scheme):
    settings = {"validation": 4} if scheme == "hypervolume" else {}
    make = lambda: learner(DynamicRewardWeighting(scheme=scheme, **SMALL, **settings), total_steps=4)  # noqa: E731
    whole, cut = make(), make()
    for _ in range(2):
        whole.iterate()
    cut.load(whole.state(), 2, 0)
    for run in (whole, cut):
        run.iterate()
    assert torch.equal(weights(whole), weights(cut))
    for name, x in whole.memory.items():
        assert torch.equal(x, cut.memory[name]), name


def test_rewards_that_do_not_apply_count_as_none():
    def sometimes(completions, **fields):
        return [None if i % 2 else 1.0 for i, _ in enumerate(completions)]

    for scheme in ("gradient", "hypervolume"):
        run = learner(DynamicRewardWeighting(scheme=scheme, **SMALL), rewards=(digits, sometimes))
        run.iterate()
        assert weights(run).isfinite().all() and all(x.isfinite().all() for x in run.memory.values())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"validation": 5}, "validation=5 has no effect with scheme='gradient'"),
        ({"scheme": "hypervolume", "probed": 0.5}, "probed=0.5 has no effect with scheme='hypervolume'"),
        ({"scheme": "fixed"}, "scheme='fixed'"),
    ],
)
def test_what_cannot_be_is_refused(given, words):
    with pytest.raises(UsageError, match=words):
        DynamicRewardWeighting(**given)


@pytest.mark.parametrize("given", [[1.0, -0.5, 1.0], [0.0, 0.0, 0.0]])
def test_weights_that_are_no_distribution_are_refused(given):
    with pytest.raises(UsageError, match="reward_weights="):
        learner(DynamicRewardWeighting(**SMALL), weights=given).iterate()
