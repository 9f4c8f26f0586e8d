"""The hidden switch: its kernel, its reward's coin, and that the switch is the best of its class."""

from __future__ import annotations

import pytest

from surefoot.envs.tabular import resolve
from surefoot.errors import UsageError
from surefoot.methods.tabular.agnostic_rl.policy_classes import class_values, singletons


@pytest.mark.parametrize("seed", range(5))
def test_the_switch_is_the_best_singleton(seed):
    values = class_values(mdp := resolve(f"hidden-switch:seed={seed}"), singletons(8, 8, 2))
    assert int(values.argmax()) == 1 + 4 * 8 and 0.02 < float(values.max() - values.sort().values[-2]) < 0.12
    assert (mdp.horizon, mdp.states, mdp.actions) == (8, 8, 2)


def test_its_probabilities():
    mdp = resolve("hidden-switch:6,4,2,seed=3")
    assert float(mdp.rows[0, 0, 0, 0]) == pytest.approx(0.7 + 0.3 / 4)
    assert float(mdp.rows[2, 0, 1, 1]) == pytest.approx(0.9 + 0.1 / 4)
    assert [float(mdp.rows[h, 1, 0, 1]) for h in (3, 4)] == pytest.approx([0.925] * 2)
    paid = mdp.expected_reward()
    assert float(paid[:-1].abs().max()) == 0 and paid[-1, :2].tolist() == [[0.3, 0.3], [1.0, 0.3]]
    assert float(paid[-1, 2:].max()) <= 0.5


def test_what_is_refused():
    with pytest.raises(UsageError, match="layer=7"):
        resolve("hidden-switch:layer=7")
