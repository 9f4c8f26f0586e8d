"""Which prompts come next."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.errors import UsageError
from surefoot.loops.group_rollout.prompts import Solved, choose

# Solved in none, half, all of their completions, and not seen yet.
MEAN, COUNT = torch.tensor([0.0, 0.5, 1.0, 0.0]), torch.tensor([3, 3, 3, 0])
SOLVED = Solved(MEAN, COUNT)


@given(size=st.integers(1, 12), count=st.integers(1, 30), seed=st.integers(0, 9), cut=st.integers(0, 30))
@settings(max_examples=60)
def test_uniform_is_a_permutation_each_time_and_goes_on_where_it_was(size, count, seed, cut):
    whole = choose("uniform", 3 * size, seed, 0, size, None)
    for epoch in whole.split(size):
        assert sorted(epoch.tolist()) == list(range(size))
    begun, rest = choose("uniform", cut, seed, 0, size, None), choose("uniform", count, seed, cut, size, None)
    assert torch.equal(torch.cat([begun, rest]), choose("uniform", cut + count, seed, 0, size, None))


def test_another_time_another_order():
    orders = {tuple(e.tolist()) for e in choose("uniform", 200, 0, 0, 20, None).split(20)}
    assert len(orders) == 10
    assert not torch.equal(choose("uniform", 20, 0, 0, 20, None), choose("uniform", 20, 1, 0, 20, None))


def test_an_endless_set_is_gone_along():
    assert choose("uniform", 3, 5, 7, None, None).tolist() == [7, 8, 9]


@pytest.mark.parametrize(
    ("sampler", "weights"), [("hard", [1, 0.5, 0, 0.5]), ("soft", [0, 0.5, 0, 0.5]), ("medium", [0, 1, 0, 1])]
)
def test_the_others_draw_by_their_weights(sampler, weights):
    draws = 3000
    found = Counter(int(choose(sampler, 1, 0, i, 4, SOLVED)) for i in range(draws))
    for prompt, weight in enumerate(weights):
        share = weight / sum(weights)
        assert abs(found[prompt] / draws - share) <= 4 * (share * (1 - share) / draws) ** 0.5


def test_without_replacement_as_long_as_there_are_enough():
    for i in range(50):
        assert sorted(choose("medium", 2, 0, i, 4, SOLVED).tolist()) == [1, 3]
        assert {1, 3} < set(choose("medium", 3, 0, i, 4, SOLVED).tolist())  # the others fill up
        assert len(choose("hard", 9, 0, i, 4, SOLVED)) == 9
    done = Solved(torch.ones(4), COUNT + 1)
    assert sorted(choose("medium", 4, 0, 0, 4, done).tolist()) == [0, 1, 2, 3]  # all solved: any


def test_the_same_place_gives_the_same_prompts():
    assert torch.equal(choose("hard", 3, 2, 8, 4, SOLVED), choose("hard", 3, 2, 8, 4, SOLVED))


@pytest.mark.parametrize("sampler", ["hard", "soft", "medium"])
def test_of_an_endless_set_only_uniform_can_choose(sampler):
    with pytest.raises(UsageError, match=f"sampler='{sampler}' needs a finite set"):
        choose(sampler, 2, 0, 0, None, None)


def test_the_means_are_running():
    solved = Solved.start(3)
    for reward in ([1.0, 0.0], [1.0, 1.0], [0.0, 0.0]):
        solved = solved.update(torch.tensor([1]), torch.tensor([reward]))
    assert solved.count.tolist() == [0, 3, 0]
    torch.testing.assert_close(solved.mean, torch.tensor([0.0, 0.5, 0.0]))


def test_a_prompt_that_comes_twice_in_a_batch_counts_twice():
    solved = Solved.start(2).update(torch.tensor([1, 1]), torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
    assert solved.count.tolist() == [0, 2] and solved.mean.tolist() == [0, 0.5]


def test_rewards_above_one_are_solved_prompts():
    """As the sum of two functions may be."""
    solved = Solved(torch.tensor([2.0, 0.0]), torch.tensor([1.0, 1.0]))
    assert set(choose("hard", 1, 0, 0, 2, solved).tolist()) == {1}
