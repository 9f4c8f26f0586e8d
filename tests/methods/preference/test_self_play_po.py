"""Self-play on preferences: win rates by hand, the game they play, and episodes as the learner sees them."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from surefoot.errors import UsageError
from surefoot.loops.common.collect import Rollout
from surefoot.loops.common.run import make_learner
from surefoot.methods.preference.self_play_po import SelfPlayPO, flipped, summed, win_rates
from surefoot.objectives.advantages import gae
from surefoot.solvers.matrix_game import equilibrium

F64 = torch.float64
CIRCLE = torch.tensor([[0, 1, -0.25], [-1, 0, 0.5], [0.25, -0.5, 0]], dtype=F64)


def rates(returns, before=()):
    own = torch.tensor(returns, dtype=F64)[:, None]
    pool = torch.cat([torch.tensor(before, dtype=F64).view(-1, 1), own])
    return win_rates(SelfPlayPO().payoff(own[:, None], pool[None])).tolist()


# --- win rates -------------------------------------------------------------------------------------------------------


def test_win_rates_by_hand():
    assert rates([3, 1, 2, 2]) == [1, -1, 0, 0]
    assert rates([5, 5, 5]) == [0, 0, 0] and rates([7]) == [0]
    assert rates([3, 1], before=[2, 4]) == pytest.approx([1 / 3, -1])


def test_they_depend_on_the_order_of_returns_alone_and_sum_to_nothing():
    returns = torch.randn(30, generator=torch.manual_seed(0), dtype=F64)
    found = rates(returns.tolist())
    assert rates(returns.exp().mul(100).tolist()) == found
    assert sum(found) == pytest.approx(0) and max(map(abs, found)) <= 1


def test_a_comparison_that_is_answered_wrongly_is_wrong_for_both():
    payoffs = torch.tensor([[1.0, 0, 1, -1], [1, -1, 0, -1], [-1, 1, 1, 0]])  # the first column is from before
    found = flipped(payoffs, torch.ones(3, 4, dtype=torch.bool))
    assert torch.equal(found, -payoffs)
    flips = torch.rand(3, 4, generator=torch.manual_seed(1)) < 0.5
    own = flipped(payoffs, flips)[:, 1:]
    assert torch.equal(own, -own.T) and not torch.equal(own, payoffs[:, 1:])


# --- the game --------------------------------------------------------------------------------------------------------


def test_the_minimax_winner_of_a_circle():
    wanted = torch.tensor([0.5, 0.25, 1.0], dtype=F64) / 1.75  # (b, c, a)/(a + b + c)
    assert equilibrium(CIRCLE.numpy()).row == pytest.approx(wanted.tolist(), abs=1e-6)
    assert wanted.tolist() == pytest.approx([0.285714, 0.142857, 0.571429], abs=1e-6)
    torch.testing.assert_close(CIRCLE @ wanted, torch.zeros(3, dtype=F64))


def test_only_the_average_of_self_play_comes_close_to_it():
    """Multiplicative weights against oneself, η = 0.1."""
    policy, total, found = torch.tensor([0.6, 0.3, 0.1], dtype=F64), torch.zeros(3, dtype=F64), {}
    for step in range(10_000):
        total += policy
        policy = (policy.log() + 0.1 * CIRCLE @ policy).softmax(-1)
        found[step + 1] = policy, total / (step + 1)
    assert found[1][0].tolist() == pytest.approx([0.616313, 0.283754, 0.099933], abs=1e-6)
    average = found[1000][1]
    assert average.tolist() == pytest.approx([0.337858, 0.123551, 0.538591], abs=1e-6)
    assert float((CIRCLE @ average).max()) == pytest.approx(0.022689, abs=1e-6)
    assert float((CIRCLE @ found[10_000][1]).max()) == pytest.approx(0.002422, abs=1e-6)
    assert float((CIRCLE @ policy).max()) == pytest.approx(0.828, abs=1e-3)


# --- episodes --------------------------------------------------------------------------------------------------------


class Stub:
    """A learner of one seed and two environments, as `judged` knows it."""

    def __init__(self, method):
        self.seeds, self.iteration = [0], 0
        self.extra = {name: x[None] for name, x in method.extra_state(None).items()}


def rollout(reward, terminated, truncated, valid=None):
    reward = torch.tensor(reward).unsqueeze(1)  # [time, 1 seed, envs]
    flags = [torch.tensor(x, dtype=torch.bool).unsqueeze(1) for x in (terminated, truncated)]
    valid = torch.ones_like(flags[0]) if valid is None else torch.tensor(valid, dtype=torch.bool).unsqueeze(1)
    return Rollout(torch.zeros(0), torch.zeros(0), reward, *flags, valid, torch.zeros(0))


METHOD = SelfPlayPO(num_envs=2, num_steps=3, minibatch_size=6, recent=2)


def test_episodes_are_summed_across_batches_and_judged_where_they_end():
    learner = Stub(METHOD)
    first = METHOD.judged(
        learner, rollout([[1.0, 2], [1, 2], [1, 0]], [[0, 0], [1, 0], [0, 0]], [[0, 0], [0, 1], [0, 0]])
    )
    assert first.reward[:, 0].tolist() == [[0, 0], [-1, 1], [0, 0]]  # 2 against 4, the second cut short
    assert first.terminated[:, 0].tolist() == [[False, False], [True, True], [False, False]]
    assert not first.truncated.any()
    assert learner.extra["running"][0].tolist() == [[1], [0]]
    assert learner.extra["recent"][0].tolist() == [[2], [4]]
    # The first goes on to 1 + 2 = 3, between the two before.
    second = METHOD.judged(learner, rollout([[2.0, 0], [9, 0], [9, 0]], [[1, 0], [0, 0], [0, 0]], [[0] * 2] * 3))
    assert second.reward[0, 0].tolist() == [0, 0] and not second.reward.any()
    assert learner.extra["recent"][0].tolist() == [[4], [3]]


def test_a_step_that_only_resets_counts_nowhere():
    learner = Stub(METHOD)
    given = rollout([[1.0, 1], [99, 1], [0, 1]], [[1, 0], [0, 0], [0, 1]], [[0] * 2] * 3, [[1, 1], [0, 1], [1, 1]])
    found = METHOD.judged(learner, given)
    assert found.reward[:, 0].tolist() == [[-1, 0], [0, 0], [0, 1]]
    assert learner.extra["running"][0].tolist() == [[0], [0]]


def test_sums_end_with_the_episode():
    tallies = torch.ones(4, 1, 1, 1)
    ended = torch.tensor([0, 1, 0, 0], dtype=torch.bool).view(4, 1, 1)
    found, running = summed(tallies, ended, torch.full((1, 1, 1), 10.0))
    assert found.flatten().tolist() == [11, 12, 1, 2] and running.item() == 2


def test_raters_of_ones_own_see_what_is_tallied():
    @dataclasses.dataclass(frozen=True)
    class Longer(SelfPlayPO):
        """Longer episodes win if their reward is at least 1, and lose otherwise."""

        compared = 2

        def tallied(self, rollout):
            return torch.stack([torch.ones_like(rollout.reward), rollout.reward], -1)

        def payoff(self, one, other):
            worth = [torch.where(x[..., 1] >= 1, x[..., 0], 0.0) for x in (one, other)]
            return (worth[0] - worth[1]).sign()

    method = Longer(num_envs=2, num_steps=3, minibatch_size=6)
    found = method.judged(Stub(method), rollout([[1.0, 0], [0, 0], [0, 0]], [[0, 0], [0, 0], [1, 1]], [[0] * 2] * 3))
    assert found.reward[-1, 0].tolist() == [1, -1]


def test_an_even_spread_would_halve_the_last_of_two_steps():
    """Rewards to go of a two-step episode worth W: (W, W) if it comes last, (W, W/2) if it is spread."""
    signals = {name: torch.zeros(2, dtype=F64) for name in ("values", "next_values")}
    part, ends = gae(1.0, 1.0), torch.tensor([False, True])
    found = [part(torch.tensor(x, dtype=F64), terminated=ends, **signals).tolist() for x in ([0.0, 0.8], [0.4, 0.4])]
    assert found == [pytest.approx([0.8, 0.8]), pytest.approx([0.8, 0.4])]


def test_it_learns_from_comparisons_alone():
    method = SelfPlayPO(num_steps=32, minibatch_size=64, hidden=(16,), learning_rate=1e-2, epochs=4)
    learner = make_learner(method, "surefoot/ContextualAction-v0", [0], 10**5)
    try:
        for _ in range(8):
            row = learner.iterate()[0]
        assert row["return"] > 0.9
    finally:
        learner.close()


@pytest.mark.parametrize("setting", [{"recent": -1}, {"label_noise": 0.5}, {"gamma": 1.1}])
def test_settings_that_are_not_allowed(setting):
    with pytest.raises(UsageError, match=f"{next(iter(setting))}="):
        SelfPlayPO(**setting)
