"""HPT: its gate, and its gradient as that of the common objective."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers", reason="language models need surefoot[language]")

from surefoot.envs.language import Example
from surefoot.errors import UsageError
from surefoot.loops.group_rollout.method import Rollout
from surefoot.methods.language.baselines import DrGRPO
from surefoot.methods.language.hpt import HPT
from surefoot.models.language.sequences import join
from surefoot.objectives import PolicyObjective, advantages, ratios, stabilizers

F64 = torch.float64
REWARD = torch.tensor([[0.0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 1], [1, 1, 1, 1]])


def rollout(shown=True):
    prompts = [[1, 5 + i] for i in range(4)]
    sequences = join([p for p in prompts for _ in range(4)], [[9] * (1 + i % 4) for i in range(16)])
    return Rollout(
        [Example(f"p{i}") for i in range(4)],
        torch.arange(4),
        sequences,
        ["9"] * 16,
        torch.zeros(sequences.tokens.shape),
        REWARD,
        {"reward": REWARD},
        torch.zeros(4, 4, dtype=torch.bool),
        join(prompts, [[8, 8, 2]] * 4) if shown else None,
    )


def test_the_gate_sends_each_prompt_to_one_of_two_terms():
    kept, shown = HPT(gate=0.25).terms(rollout())
    assert kept.group.unique().tolist() == [2, 3] and shown.group.tolist() == [0, 1]
    assert (kept.name, shown.name) == ("", "imitation")
    assert len(kept.sequences) == 8 and len(shown.sequences) == 2
    torch.testing.assert_close(kept.advantage, (REWARD - REWARD.mean(1, keepdim=True))[2:].flatten())


def test_a_prompt_counts_the_same_however_many_others_are_imitated():
    """A token's weight is 1/(N·T) for N completions of the whole batch and T tokens at most."""
    found = []
    for gate, kept in ((-1.0, 4), (0.0, 3), (0.25, 2), (0.75, 1)):
        term = HPT(gate=gate, max_tokens=10).terms(rollout())[0]
        weights = term.coefficient * term.objective.aggregation.weights(term.sequences.valid)
        assert len(term.group.unique()) == kept
        found.append(weights[term.group == 3])
        torch.testing.assert_close(weights[term.sequences.valid], torch.full((weights.count_nonzero(),), 1 / (16 * 10)))
    assert all(torch.equal(x > 0, found[0] > 0) for x in found)


def test_a_gate_of_zero_imitates_what_is_never_solved():
    assert HPT(gate=0.0).imitated(rollout()).tolist() == [True, False, False, False]


def test_a_closed_gate_is_dr_grpo_without_a_clip():
    (term,) = HPT(gate=-1.0, max_tokens=10).terms(rollout())
    wide = DrGRPO(max_tokens=10, clip=0.999, clip_high=1e6)
    (other,) = wide.terms(rollout())
    torch.testing.assert_close(term.advantage, other.advantage)
    g = torch.Generator().manual_seed(0)
    valid = term.sequences.valid
    old = -torch.rand(valid.shape, generator=g)
    new = (old + 0.5 * torch.randn(valid.shape, generator=g)).requires_grad_()
    pull = term.advantage[:, None].expand(valid.shape)
    mine, theirs = (
        torch.autograd.grad(o.loss(new, old, pull, valid=valid)[0], new)[0] for o in (term.objective, other.objective)
    )
    torch.testing.assert_close(mine, theirs)
    assert mine.abs().sum() > 0


def test_an_open_gate_only_imitates():
    (term,) = HPT(gate=1.0).terms(rollout())
    assert term.name == "imitation" and len(term.sequences) == 4


def test_imitation_is_the_gradient_of_the_mean_log_likelihood():
    (term,) = HPT(gate=1.0).terms(rollout())
    valid = term.sequences.valid
    log_prob = (-torch.rand(valid.shape, generator=torch.Generator().manual_seed(0))).requires_grad_()
    loss, _ = term.objective.loss(
        log_prob, torch.zeros(valid.shape), term.advantage[:, None].expand(valid.shape), valid=valid
    )
    torch.testing.assert_close(torch.autograd.grad(loss, log_prob)[0], -valid.float() / valid.sum())


def test_without_demonstrations_the_error_says_what_is_missing():
    with pytest.raises(UsageError, match="demonstration"):
        HPT().terms(rollout(shown=False))


def test_the_common_objective():
    """J = E_π[r] − μ·KL(π_β ‖ π) on three arms: its gradient as policy gradient plus imitation, as E_π[Â·score] with
    Â = r + μ·π_β/π, and by autograd."""
    policy, reward = torch.tensor([0.6, 0.25, 0.15], dtype=F64), torch.tensor([1.0, 0, 0.5], dtype=F64)
    shown, mu = torch.tensor([0.1, 0.2, 0.7], dtype=F64), 0.3
    united = reward + mu * shown / policy
    assert united.tolist() == pytest.approx([1.05, 0.24, 1.9])
    logits = policy.log().requires_grad_()
    log_prob = logits.log_softmax(-1)
    value = (log_prob.exp() * reward).sum() - mu * (shown * (shown.log() - log_prob)).sum()
    (wanted,) = torch.autograd.grad(value, logits, retain_graph=True)
    assert wanted.tolist() == pytest.approx([0.045, -0.18375, 0.13875])

    def gradient(weights, advantage, ratio):
        objective = PolicyObjective(advantages.unit(), ratio, stabilizers.none())
        loss, _ = objective.loss(log_prob, policy.log(), advantage, weights=weights)
        return -torch.autograd.grad(loss, logits, retain_graph=True)[0]

    one = torch.ones(3, dtype=F64)
    apart = gradient(policy, reward, ratios.old()) + mu * gradient(shown, one, ratios.current())
    torch.testing.assert_close(apart, wanted)
    torch.testing.assert_close(gradient(policy, united, ratios.old()), wanted)
