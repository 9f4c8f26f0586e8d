"""Agnostic RL: each learner finds the best of its class, in a world where the switch is worth pressing."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from surefoot.envs.tabular import resolve
from surefoot.errors import UsageError
from surefoot.loops.tabular.learner import TabularLearner
from surefoot.methods.tabular.agnostic_rl import AgnosticRL
from surefoot.methods.tabular.agnostic_rl import policy_classes as pc

SWITCH = resolve("hidden-switch:4,3,1,seed=1")


def trained(method, iterations, mdp=SWITCH):
    learner = TabularLearner(method, mdp, [0])
    rows = [learner.iterate()[0] for _ in range(iterations)]
    return learner, rows


@pytest.mark.parametrize(
    ("learner", "episodes", "iterations"), [("trees", 2000, 2), ("importance", 20_000, 2), ("popler", 4000, 4)]
)
def test_the_best_of_the_class_is_found(learner, episodes, iterations):
    policies = pc.singletons(4, 3, 2)
    values = pc.class_values(SWITCH, policies)
    found, rows = trained(AgnosticRL(learner=learner, episodes=episodes), iterations)
    assert rows[-1]["suboptimality"] == pytest.approx(0, abs=0.01)
    estimate = found.states[0]["estimate"]
    torch.testing.assert_close(estimate, values, rtol=0, atol=0.06)
    assert rows[-1]["return_mean"] == pytest.approx(float(values[estimate.argmax()]))


def test_popler_finds_the_petals_that_can_be_reached():
    found, _ = trained(AgnosticRL(learner="popler", episodes=2000), 3)
    explorer, runs = found.states[0]["explorer"], found.states[0]["runs"]
    assert int(explorer[0]) == 0 and int(explorer[1]) >= 0  # the start, and state 0 of step 0
    assert explorer[2:4].tolist() == [-1, -1]  # where no episode starts
    assert bool((explorer[4:] >= 0).all()) and runs[2:4].tolist() == [0, 0]


def test_psdp_with_all_policies_is_backward_induction():
    """With every policy in the class and all states reset to, each step's choice is the best one."""
    mdp = resolve("garnet:2,2,2,seed=2,horizon=3")
    found, rows = trained(AgnosticRL(learner="psdp", policy_class="all", episodes=20_000), 3, mdp)
    value, policy, clear = torch.zeros(2, dtype=torch.float64), found.agent().policy, 0
    for h in reversed(range(3)):
        q = mdp.at(h).expected_reward() + mdp.at(h).expectation(value)
        value = q.max(-1).values
        plain = (q[:, 0] - q[:, 1]).abs() > 0.1  # beyond the noise of 20,000 episodes
        assert torch.equal(policy[h].argmax(-1)[plain], q.argmax(-1)[plain])
        clear += int(plain.sum())
    assert clear == 6 and rows[-1]["return_mean"] == pytest.approx(float(mdp.initial @ value))


def test_cpi_climbs_in_a_class_that_holds_its_improvements_and_stops():
    mdp = resolve("hidden-switch:3,2,0,seed=2")
    method = AgnosticRL(learner="cpi", policy_class="all", episodes=500, alpha=0.3, accuracy=0.05)
    found, rows = trained(method, 25, mdp)
    assert rows[-1]["suboptimality"] < 0.05 and rows[0]["suboptimality"] > 0.2
    patient = dataclasses.replace(method, accuracy=2.0)
    still, _ = trained(patient, 2, mdp)
    assert torch.equal(still.agent().policy, pc.policy_table(pc.all_policies(3, 2, 2)[0], 2))
    assert float(found.agent().policy[:, 0].max()) > 0.9


def test_transitions_are_counted():
    assert trained(AgnosticRL(learner="importance", episodes=7), 2)[1][-1]["transitions"] == 7 * 4 * 2
    assert trained(AgnosticRL(learner="psdp", episodes=7), 4)[1][-1]["transitions"] == 7 * (1 + 2 + 3 + 4)
    assert trained(AgnosticRL(learner="popler", episodes=7), 1)[1][-1]["transitions"] == 7 * 4
    assert trained(AgnosticRL(episodes=7), 1)[1][-1]["transitions"] <= 7 * 4 * 5


@dataclasses.dataclass(frozen=True)
class Two(AgnosticRL):
    """Always 0 and always 1."""

    def policies(self, mdp):
        return torch.stack([torch.full((mdp.horizon, mdp.states), a) for a in (0, 1)])


@pytest.mark.parametrize("learner", ["trees", "importance", "popler", "psdp", "cpi"])
def test_a_class_of_ones_own(learner):
    found, rows = trained(Two(learner=learner, episodes=50), 3)
    assert found.agent().policy.shape == (4, 3, 2) and -1 <= rows[-1]["suboptimality"] <= 1


def test_what_is_refused():
    with pytest.raises(UsageError, match="set horizon=H"):
        AgnosticRL().admit(resolve("two-state"))
    legal = torch.ones(3, 2, dtype=torch.bool)
    legal[1, 1] = False
    forbidden = dataclasses.replace(SWITCH, legal=legal)
    with pytest.raises(UsageError, match="'singletons' takes actions that 'hidden-switch:4,3,1,seed=1' does not allow"):
        AgnosticRL().admit(forbidden)
    with pytest.raises(UsageError, match="learner='tree'"):
        AgnosticRL(learner="tree")
