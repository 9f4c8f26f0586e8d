"""Advantages of tokens against a loop over each completion alone."""

from __future__ import annotations

import pytest
import torch

from surefoot.objectives.advantages import gae, monte_carlo, n_step
from surefoot.objectives.tokens import token_advantages

F64 = torch.float64
STARTS, ENDS, LENGTH = [2, 1, 3, 1, 0], [4, 7, 4, 2, 3], 7  # of the valid tokens of five rows of seven
PLACE = torch.arange(LENGTH)
VALID = (torch.tensor(STARTS)[:, None] <= PLACE) & (torch.tensor(ENDS)[:, None] > PLACE)
REWARD = torch.tensor([1.0, -0.5, 2.0, 0.25, 0.0], dtype=F64)


def values() -> torch.Tensor:
    """Random where a token is valid, NaN elsewhere."""
    found = torch.randn(VALID.shape, generator=torch.Generator().manual_seed(0), dtype=F64)
    return torch.where(VALID, found, torch.nan)


def by_hand(value: list[float], reward: float, gamma: float, lam: float) -> list[float]:
    """Of one completion of which only the valid tokens are given, backwards."""
    found, following, ahead = [], 0.0, 0.0
    for t in reversed(range(len(value))):
        error = (reward if t + 1 == len(value) else 0.0) + gamma * following - value[t]
        ahead = error + gamma * lam * ahead
        following = value[t]
        found.append(ahead)
    return found[::-1]


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 0.0), (0.8, 1.0), (0.0, 0.95)])
def test_every_completion_is_an_episode_of_its_own(gamma, lam):
    value = values()
    found = token_advantages(gae(gamma, lam), REWARD, value, VALID)
    for row, (start, end) in enumerate(zip(STARTS, ENDS)):
        wanted = by_hand(value[row, start:end].tolist(), REWARD[row].item(), gamma, lam)
        assert found[row, start:end].tolist() == pytest.approx(wanted, rel=1e-12)
    assert not found[~VALID].any()


def test_two_tokens_by_hand():
    """V = (.5, .2), R = 1: δ = (−.3, .8), so Â = (−.3 + .95·.8, .8)."""
    value, valid = torch.tensor([[9.0, 0.5, 0.2, 9.0]], dtype=F64), torch.tensor([[False, True, True, False]])
    found = token_advantages(gae(1.0, 0.95), torch.ones(1, dtype=F64), value, valid)
    assert found[0].tolist() == pytest.approx([0, 0.46, 0.8, 0])


def test_other_estimators_take_tokens_the_same_way():
    value = values()
    returns = token_advantages(monte_carlo(1.0), REWARD, value, VALID)
    assert torch.equal(returns, torch.where(VALID, REWARD[:, None], 0.0))
    torch.testing.assert_close(
        token_advantages(gae(1.0, 1.0), REWARD, value, VALID), torch.where(VALID, returns - value, 0.0)
    )
    torch.testing.assert_close(
        token_advantages(n_step(1, 0.9), REWARD, value, VALID), token_advantages(gae(0.9, 0.0), REWARD, value, VALID)
    )
