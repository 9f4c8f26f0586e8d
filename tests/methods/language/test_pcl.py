"""PCL: the numbers of its card, which prompts are chosen, and what V learns."""

from __future__ import annotations

from math import comb
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch

pytest.importorskip("transformers", reason="language models need surefoot[language]")

import language_micro as micro

from surefoot.errors import UsageError
from surefoot.loops.common.optimizer import Adam
from surefoot.loops.group_rollout.iteration import Iteration
from surefoot.methods.language.baselines import ClippedGroups
from surefoot.methods.language.pcl import PCL, nearest
from surefoot.methods.language.pcl.value import equivalent_rollouts, initial, slope, values
from surefoot.models.language.lora import with_lora
from surefoot.models.language.nano import Nano, fresh
from surefoot.objectives.advantages import group_mean, group_standardized

F64 = torch.float64
TINY = Nano(width=16, layers=1, heads=2, context=32, warmup=0)
SMALL = {"prompts": 4, "samples": 4, "max_tokens": 3}
PROMPTS = ["a=", "b=", "cc=", "d+d="]


def groups(n):
    """Every number of successes of a group, and the advantages."""
    hits = torch.arange(n + 1)
    reward = (torch.arange(n, dtype=F64) < hits[:, None]).double()
    return reward, PCL().objective().advantage(reward), [comb(n, h) for h in hits.tolist()]


@pytest.mark.parametrize(
    ("n", "wanted"),
    [(16, (0.148542, 0.559873, 0.814698, 0.989977, 0.999969)), (8, (0.077255, 0.33658, 0.569533, 0.899872, 0.992188))],
)
def test_how_often_a_group_has_an_advantage_and_how_large_it_is(n, wanted):
    _, advantage, ways = groups(n)
    for p, rate in zip((0.01, 0.05, 0.1, 0.25, 0.5), wanted, strict=True):
        chance = torch.tensor([w * p**h * (1 - p) ** (n - h) for h, w in enumerate(ways)], dtype=F64)
        assert float(chance @ advantage.any(1).double()) == pytest.approx(rate, abs=1e-6)
        assert float(chance @ (advantage**2).sum(1)) / (n - 1) == pytest.approx(p * (1 - p))


def test_the_advantage_is_the_papers_or_grpos():
    assert PCL().objective().advantage == group_mean()
    assert PCL(norm_std=True).objective().advantage == group_standardized(1e-6)


def test_the_nearest_to_the_target_are_chosen_in_their_order():
    value = torch.tensor([0.1, 0.9, 0.45, 0.6, 0.5])
    assert nearest(value, 0.5, 3).tolist() == [2, 3, 4] and nearest(value, 0.0, 2).tolist() == [0, 2]
    assert nearest(1 - value, 0.5, 3).tolist() == nearest(value, 0.5, 3).tolist()
    assert nearest(value, 0.5, 3, random=2).tolist() == [0, 1, 4]
    assert nearest(torch.full((6,), 0.3), 0.5, 2).tolist() == [0, 1]  # the order of candidates is random


def test_equivalent_rollouts():
    stream = torch.Generator().manual_seed(0)
    gamma = torch.distributions.Beta(torch.tensor(0.7, dtype=F64), torch.tensor(0.7, dtype=F64))
    torch.manual_seed(0)
    p = gamma.sample((20_000,))[:, None]
    seen, other = ((torch.rand(20_000, n, generator=stream, dtype=F64) < p).double() for n in (16, 3))
    assert equivalent_rollouts(other.mean(1), seen) == pytest.approx(3, abs=0.15)


@pytest.fixture(scope="module")
def model():
    return fresh(TINY, seed=1)


def test_at_first_every_prompt_is_worth_a_half(model):
    assert values(model, initial(model), PROMPTS).tolist() == [0.5] * 4


def test_v_reads_the_whole_prompt_and_no_more(model):
    """The value of a prompt depends neither on those beside it, padding included, nor on how many are read."""
    vector = initial(model) + 0.05 * torch.randn(len(initial(model)), generator=torch.Generator().manual_seed(0))
    together = values(model, vector, PROMPTS)
    alone = torch.cat([values(model, vector, [prompt]) for prompt in PROMPTS])
    torch.testing.assert_close(together, alone)
    torch.testing.assert_close(together, values(model, vector, PROMPTS, tokens=3))
    assert len(set(values(model, vector, ["ab=", "bb=", "ba="]).tolist())) == 3


def test_the_gradient_is_that_of_the_mean_squared_error(model):
    """Against finite differences along random directions, and 0 where V is right."""
    stream = torch.Generator().manual_seed(0)
    vector = initial(model) + 0.05 * torch.randn(len(initial(model)), generator=stream)
    target = torch.tensor([0.0, 1.0, 0.25, 0.7])
    found = slope(model, vector, PROMPTS, target)
    torch.testing.assert_close(found, slope(model, vector, PROMPTS, target, tokens=3), rtol=1e-4, atol=1e-6)
    for _ in range(3):
        way = torch.randn(len(vector), generator=stream)
        ends = [(values(model, vector + h * way, PROMPTS) - target).double().square().mean() for h in (2e-3, -2e-3)]
        assert float(found @ way) == pytest.approx(float(ends[0] - ends[1]) / 4e-3, rel=0.02, abs=1e-4)
    assert slope(model, vector, PROMPTS, values(model, vector, PROMPTS)).abs().max() < 1e-6


def test_v_learns_and_the_policy_does_not_move(model):
    before = [w.clone() for w in model.parameters().values()]
    vector, target = initial(model), torch.tensor([0.1, 0.9, 0.4, 0.6])
    adam = Adam.start(vector)
    for _ in range(60):
        vector, adam = adam.step(vector, slope(model, vector, PROMPTS, target), 1e-2)
    torch.testing.assert_close(values(model, vector, PROMPTS), target, atol=0.05, rtol=0)
    assert all(torch.equal(a, b) and b.grad is None for a, b in zip(before, model.parameters().values(), strict=True))


def test_with_an_adapter_only_the_adapter_is_vs_own():
    model = fresh(TINY, seed=1)
    model.network = with_lora(model.network, 2)
    learned = sum(w.numel() for w in model.parameters().values())
    assert len(initial(model)) == learned + 16 + 1
    assert slope(model, initial(model) + 0.01, PROMPTS, torch.ones(4)).abs().sum() > 0


class Few(micro.Bits):
    size: ClassVar[int | None] = 6  # type: ignore[override]


def test_candidates_are_different_and_the_chosen_are_asked():
    run = micro.learner(PCL(**SMALL), Few(3), fresh(micro.SIZE, seed=0), seed=1)
    iteration = Iteration(run)
    rollout = run.method.collect(iteration)
    assert len(set(rollout.index.tolist())) == 4 and run.drawn == 16
    (row,) = run.iterate()
    assert row["log/candidates"] == row["log/value"] == 0.5 and row["log/value_error"] >= 0
    before = run.memory["value"]
    run.iterate()
    assert not torch.equal(before, run.memory["value"]) and int(run.memory["count"]) == 2


def test_one_candidate_a_prompt_is_uniform_choice_to_the_bit():
    weights = []
    for method in (PCL(**SMALL, candidates=1), ClippedGroups(**SMALL, minibatches=1)):
        run = micro.learner(method, micro.Bits(3), fresh(micro.SIZE, seed=0), seed=1)
        run.iterate(), run.iterate()
        weights.append(torch.cat([w.detach().flatten() for w in run.weights.values()]))
    assert torch.equal(*weights)


def test_what_cannot_be_is_refused():
    with pytest.raises(UsageError, match="Must be uniform"):
        PCL(sampler="hard")
    with pytest.raises(UsageError, match="sharding='full'"):
        PCL().memory(SimpleNamespace(sharded=True), micro.Bits(3))  # type: ignore[arg-type]


class Doubled(micro.Bits):
    def reward(self, example, completion):
        return 2.0


def test_rewards_beyond_one_are_no_chance_of_success():
    run = micro.learner(PCL(**SMALL), Doubled(3), fresh(micro.SIZE, seed=0))
    with pytest.raises(UsageError, match=r"in \[0, 1\]"):
        run.iterate()
