"""Transitions that a learner needs, and what stands in where it never comes close."""

from __future__ import annotations

from surefoot.claims.tabular.agnostic_rl import all_come_close, needed, of_three

CURVE = {"suboptimality": [0.04, 0.2, 0.05, 0.01], "transitions": [10, 20, 30, 40]}


def test_transitions_count_from_where_on_it_stays_close():
    assert needed(CURVE) == 30
    assert needed({**CURVE, "suboptimality": [0.04, 0.2, 0.05, 0.06]}) == float("inf")
    assert needed({**CURVE, "suboptimality": [0.0] * 4}) == 10


def test_the_budget_stands_in_where_a_learner_never_comes_close():
    far = {"suboptimality": [0.2] * 4, "transitions": [100, 200, 300, 400]}
    world = {f"{learner}, {kind}": CURVE for learner in ("trees", "importance") for kind in ("singletons", "open-loop")}
    facts = {"most of a tree": 36, "bound of a tree": 72, "largest bias in standard errors": 1.5}
    seen = of_three({"world 0": {**world, **facts}, "world 1": {**world, **facts, "importance, singletons": far}})
    assert seen["transitions, importance, singletons"] == [30, 400] and seen["end, importance, singletons"] == [
        0.01,
        0.2,
    ]
    assert seen["largest share of the bound"] == 0.5
    assert all_come_close(seen)  # one of eight
    assert not all_come_close({**seen, "censored": [1.0, 0, 0, 0]})
