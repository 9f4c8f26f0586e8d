"""Tables that act: the three shapes of policies, what is saved and loaded, what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from surefoot.errors import UsageError
from surefoot.models.saved import load_agent
from surefoot.models.tabular_agent import TabularAgent

STATIONARY = torch.tensor([[0.25, 0.75, 0.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
STEPS = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]], dtype=torch.float64)
# Memory 0 acts 0 and remembers; memory 1 acts 1 and forgets.
CONTROLLER = torch.zeros(2, 2, 2, 2, dtype=torch.float64)
CONTROLLER[0, :, 0, 1] = CONTROLLER[1, :, 1, 0] = 1.0


def test_the_likely_action_of_one_state_and_of_a_batch():
    agent = TabularAgent(STATIONARY)
    assert agent.observation_space.n == 2 and agent.action_space.n == 3
    action, memory = agent.predict(np.array([0, 1, 0]), deterministic=True)
    assert action.tolist() == [1, 0, 1] and memory is None
    action, _ = agent.predict(1, deterministic=True)
    assert action == 0 and np.ndim(action) == 0
    assert agent.predict(np.int64(0), deterministic=True)[0] == 1


def test_drawn_actions_have_their_probabilities():
    torch.manual_seed(0)
    action, _ = TabularAgent(STATIONARY).predict(np.zeros(10_000, int))
    counts = np.bincount(action, minlength=3)
    assert counts[2] == 0 and counts[0] == pytest.approx(2500, abs=5 * (10_000 * 0.25 * 0.75) ** 0.5)


def test_a_policy_of_steps_counts_them_from_each_start_and_keeps_the_last():
    agent, states = TabularAgent(STEPS), np.array([0, 1])
    first, memory = agent.predict(states, None, np.ones(2, bool), deterministic=True)
    second, memory = agent.predict(states, memory, np.zeros(2, bool), deterministic=True)
    third, memory = agent.predict(states, memory, np.zeros(2, bool), deterministic=True)
    assert [first.tolist(), second.tolist(), third.tolist()] == [[0, 1], [1, 0], [1, 0]]
    again, memory = agent.predict(states, memory, np.array([True, False]), deterministic=True)
    assert again.tolist() == [0, 0] and memory.tolist() == [1, 1]


def test_a_controller_carries_its_memory():
    agent, memory, actions = TabularAgent(CONTROLLER), None, []
    for start in (True, False, False, True):
        action, memory = agent.predict(np.array([1]), memory, np.array([start]), deterministic=True)
        actions.append(int(action[0]))
    assert actions == [0, 1, 0, 0] and agent.action_space.n == 2


@pytest.mark.parametrize("policy", [STATIONARY, STEPS, CONTROLLER], ids=["stationary", "steps", "controller"])
def test_it_is_loaded_as_it_was_saved(policy, tmp_path):
    TabularAgent(policy, {"method": "mine"}).save(tmp_path)
    agent = load_agent(tmp_path)
    assert isinstance(agent, TabularAgent) and torch.equal(agent.policy, policy) and agent.facts == {"method": "mine"}
    assert {p.name for p in tmp_path.iterdir()} == {"agent.json", "agent.safetensors"}


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (torch.ones(3), r"policy has shape \[3\]; it must be \[S, A\], \[H, S, A\] or \[M, S, A, M\]"),
        (torch.ones(2, 2, 2, 3) / 6, r"policy has shape \[2, 2, 2, 3\]"),
        (torch.ones(0, 2), r"policy has shape \[0, 2\]"),
        ([[0.5, 0.5], [0.5, 0.6]], r"policy\[1\] = \[0.5, 0.6\] is not a distribution .*\(1 such rows\)"),
        ([[1.5, -0.5]], r"policy\[0\] = \[1.5, -0.5\]"),
        ([[[0.5, 0.5]], [[float("nan"), 1.0]]], r"policy\[1, 0\] = \[nan, 1.0\]"),
        (torch.ones(2, 1, 2, 2) / 2, r"policy\[0, 0\] = \[0.5, 0.5, 0.5, 0.5\]"),
    ],
)
def test_what_is_no_policy_is_refused_with_its_place(policy, words):
    with pytest.raises(UsageError, match=words):
        TabularAgent(torch.as_tensor(policy, dtype=torch.float64))


@pytest.mark.parametrize("state", [2, -1, 0.5, np.zeros((2, 2), int), np.array([0, 7])])
def test_what_is_no_state_is_refused(state):
    with pytest.raises(
        UsageError, match="is neither a state nor a batch of states: this policy is a table for the states 0 … 1"
    ):
        TabularAgent(STATIONARY).predict(state)


def test_damaged_and_foreign_folders_are_refused(tmp_path):
    folder = TabularAgent(STATIONARY).save(tmp_path)
    about = json.loads((folder / "agent.json").read_text())

    def refused(words):
        with pytest.raises(UsageError, match=words):
            load_agent(folder)

    save_file({"policy": 2 * STATIONARY}, folder / "agent.safetensors")
    refused(r"agent.safetensors is damaged: policy\[0\]")
    save_file({"policy": STATIONARY[:1].clone()}, folder / "agent.safetensors")
    refused("is not the table described in agent.json")
    (folder / "agent.safetensors").unlink()
    refused("has no readable agent")
    (folder / "agent.json").write_text(json.dumps({**about, "format": "another"}))
    refused("has none of the known formats")
    (folder / "agent.json").write_text("[")
    refused("has no readable agent")
    (folder / "agent.json").write_text("[]")
    refused("has none of the known formats")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(5, 7), (3, 5, 7), (2, 5, 7, 2)])
def test_a_policy_of_lower_precision_sums_to_one(dtype, shape):
    axes = (-2, -1) if len(shape) == 4 else -1
    rows = torch.rand(*shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    rows = rows / rows.sum(axes, keepdim=True)
    table = TabularAgent(rows).policy
    assert table.shape == shape and table.dtype == torch.float64
    total = table.sum(axes)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-15)


def test_a_policy_may_run_backwards():
    given = np.array([[0.2, 0.8], [1.0, 0.0]])
    assert TabularAgent(given[::-1]).policy.tolist() == given[::-1].tolist()
