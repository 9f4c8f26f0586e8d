"""Rules of choice: EXP3's numbers and regret, explore-then-commit, mixtures, and their JSON."""

from __future__ import annotations

import numpy as np
import pytest

from surefoot.errors import UsageError
from surefoot.models.choosing import Bandit, BestOf, Mixture, from_json, to_json


def test_exp3_in_the_card_s_numbers():
    """K = 3, T = 100, lr = 2, arm 0 with 0.6: exact check 1 of PROTECTED."""
    rule = Bandit(rounds=100, rate=2.0)
    assert rule.eta(3) == pytest.approx(0.121030, abs=5e-7) and rule.eta(3) / 2 == pytest.approx(0.060515, abs=5e-7)
    memory = rule.told(rule.start(3), 0, 0.6)
    assert np.exp(memory[0]) == pytest.approx(1.202473, abs=5e-7) and memory[1:].tolist() == [0, 0]
    np.testing.assert_allclose(rule.chances(memory), [0.375483, 0.312259, 0.312259], atol=5e-7)


def test_returns_are_scaled_to_the_unit_interval_and_clipped():
    rule, unit = Bandit(low=-200.0, high=300.0, rounds=50), Bandit(rounds=50)
    for outcome, gain in ((-200, 0), (50, 0.5), (300, 1), (-1e9, 0), (1e9, 1)):
        np.testing.assert_allclose(rule.told(rule.start(2), 1, outcome), unit.told(unit.start(2), 1, gain))


def test_weights_of_long_deployments_stay_finite():
    rule = Bandit(rounds=1, rate=50.0)
    memory = rule.start(3)
    for _ in range(2000):
        memory = rule.told(memory, 2, 1.0)
    assert np.isfinite(rule.chances(memory)).all() and rule.chances(memory)[2] > 0.99


@pytest.mark.parametrize("switching", [False, True])
def test_regret_is_within_its_bound(switching):
    """At most 2√(2·T·K·ln K) against the best arm in hindsight, with a rate for which the bound is stated (√2)."""
    rounds, arms, draw = 2000, 4, np.random.default_rng(3)
    gains = np.clip(draw.normal([0.3, 0.5, 0.4, 0.2], 0.1, (rounds, arms)), 0, 1)
    gains = np.where((np.arange(rounds) // 500 % 2 == 1)[:, None] & switching, gains[:, ::-1], gains)
    rule = Bandit(rounds=rounds, rate=2**0.5)
    memory, got = rule.start(arms), 0.0
    for gain in gains:
        arm = draw.choice(arms, p=rule.chances(memory))
        memory, got = rule.told(memory, arm, gain[arm]), got + gain[arm]
    assert gains.sum(0).max() - got <= 2 * np.sqrt(2 * rounds * arms * np.log(arms))


def test_one_member_is_always_played():
    rule = Bandit()
    assert rule.eta(1) == 0 and rule.chances(rule.told(rule.start(1), 0, 0.7)).tolist() == [1]


def test_best_of_tries_each_in_turn_and_then_prefers_the_highest_mean():
    rule = BestOf(trials=2)
    memory, played = rule.start(3), []
    for outcome in (1, 5, 2, 1, -9, 2, 2, 2, 0, -8):
        played.append(int(rule.chances(memory).argmax()))
        memory = rule.told(memory, played[-1], outcome)
    assert played == [0, 1, 2, 0, 1, 2, 2, 2, 2, 2]  # means 1, −2, 2
    assert int(rule.chances(memory).argmax()) == 0  # the others' means are below 1 now: 2 + 2 + 2 + 2 + 0 − 8 over 6


def test_a_mixture_never_learns():
    rule = Mixture((0.25, 0.75))
    assert rule.chances(rule.told(rule.start(2), 0, 9.0)).tolist() == [0.25, 0.75]


@pytest.mark.parametrize("rule", [Mixture((0.5, 0.5)), BestOf(3), Bandit(-1.0, 2.0, 10, 0.5)])
def test_what_json_holds_is_read_back(rule):
    assert from_json(to_json(rule)) == rule


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Mixture((0.5, 0.4)), "sum to 1"),
        (lambda: Mixture((1.5, -0.5)), "weights"),
        (lambda: Mixture((1.0,)).start(2), "one for each"),
        (lambda: Bandit(2.0, 2.0), "low < high"),
        (lambda: Bandit(rounds=0), "rounds"),
        (lambda: BestOf(0), "trials"),
        (lambda: from_json({"name": "banditt"}), "bandit"),
        (lambda: from_json({"name": "bandit", "rate": "fast"}), "rate"),
        (lambda: from_json({"name": "best", "trails": 3}), "trials"),
        (lambda: from_json(3), "rule"),
    ],
)
def test_bad_rules_are_refused(make, words):
    with pytest.raises(UsageError, match=words):
        make()
