"""The named objectives against the losses of TRL's trainers: the same gradient on the same random tensors."""

from __future__ import annotations

from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch

pytest.importorskip("transformers", reason="language models need surefoot[language]")

from surefoot.errors import UsageError
from surefoot.loops.group_rollout.method import Batch
from surefoot.methods.language.baselines import CISPO, DAPO, GRPO, GSPO, RLOO, DrGRPO

trl = pytest.importorskip("trl")

ROWS, LENGTH = 8, 11
LENGTHS = torch.tensor([11, 1, 5, 3, 7, 2, 11, 4])


def tensors():
    g = torch.Generator().manual_seed(0)
    old = -torch.rand(ROWS, LENGTH, generator=g, dtype=torch.float64) - 0.2
    new = old + 0.3 * torch.randn(ROWS, LENGTH, generator=g, dtype=torch.float64)
    reference = old + 0.2 * torch.randn(ROWS, LENGTH, generator=g, dtype=torch.float64)
    reward = torch.tensor([[1.0, 0, 0, 1], [0.5, 0.5, 1, 0]], dtype=torch.float64)
    return new.requires_grad_(), old, reference, reward, torch.arange(LENGTH) < LENGTHS[:, None]


def theirs(new, old, reference, advantage, valid, *, trainer=trl.GRPOTrainer, **settings):
    accelerator = MagicMock(num_processes=1)
    accelerator.gather.side_effect = accelerator.reduce.side_effect = lambda x, **_: x
    corrected = settings.pop("use_bias_correction_kl", False)
    arguments = SimpleNamespace(delta=None, use_bias_correction_kl=corrected, steps_per_generation=1)
    usual = {
        "aux_loss_enabled": False,
        "top_entropy_quantile": 1.0,
        "off_policy_mask_threshold": None,
        "importance_sampling_level": "token",
        "epsilon_low": 0.2,
        "epsilon_high": 0.2,
        "beta": 0.0,
        "use_vllm": False,
        "_entropy_bonus_enabled": False,
        "max_completion_length": 20,
        "current_gradient_accumulation_steps": 1,
    }
    stub = SimpleNamespace(
        **{**usual, **settings},
        args=arguments,
        accelerator=accelerator,
        model=SimpleNamespace(training=True),
        _metrics=MagicMock(),
        _get_per_token_logps_and_entropies=lambda *_, **__: (new, torch.zeros_like(new), None),
    )
    prompt = torch.zeros(ROWS, 1, dtype=torch.int64)
    inputs = {
        "prompt_ids": prompt,
        "prompt_mask": prompt + 1,
        "completion_ids": torch.zeros(ROWS, LENGTH, dtype=torch.int64),
        "completion_mask": valid.double(),
        "advantages": advantage,
        "old_per_token_logps": old,
        "ref_per_token_logps": reference,
        "old_logps": (old * valid).sum(1),
        "num_items_in_batch": valid.sum(),
    }
    loss = trainer._compute_loss(stub, None, inputs)
    return torch.autograd.grad(loss, new)[0]


def ours(method, new, old, reference, reward, valid):
    objective = method.objective()
    advantage = objective.advantage(reward).flatten()[:, None].expand(old.shape)
    divergence = torch.expm1(reference - new) - (reference - new) if method.kl else None
    loss, _ = objective.loss(new, old, advantage, valid=valid, divergence=divergence)
    return torch.autograd.grad(loss, new)[0], advantage[:, 0]


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        (GRPO(), {"loss_type": "grpo"}),
        (GRPO(kl=0.05), {"loss_type": "grpo", "beta": 0.05}),
        (GRPO(clip=0.1, clip_high=0.3), {"loss_type": "grpo", "epsilon_low": 0.1, "epsilon_high": 0.3}),
        (DrGRPO(max_tokens=20), {"loss_type": "dr_grpo"}),
        (DAPO(), {"loss_type": "dapo", "epsilon_high": 0.28}),
        (
            GSPO(),
            {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon_low": 3e-4, "epsilon_high": 4e-4},
        ),
        (
            GSPO(clip=0.3),
            {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon_low": 0.3} | {"epsilon_high": 4e-4},
        ),
        (CISPO(), {"loss_type": "cispo", "epsilon_high": 1.28}),
    ],
    ids=lambda x: repr(x)[:60],
)
def test_group_methods(method, settings):
    new, old, reference, reward, valid = tensors()
    mine, advantage = ours(method, new, old, reference, reward, valid)
    assert mine.abs().sum() > 0
    torch.testing.assert_close(mine, theirs(new, old, reference, advantage, valid, **settings))


def test_the_weighted_divergence_is_trls_corrected_one():
    new, old, reference, reward, valid = tensors()
    method = GRPO(kl=0.05, kl_estimator="weighted")
    objective = method.objective()
    advantage = objective.advantage(reward).flatten()
    every = advantage[:, None].expand(old.shape)
    weights, group = objective.aggregation.weights(valid, old.dtype), torch.arange(2).repeat_interleave(4)
    loss, _ = method.loss(
        objective, Batch(valid, old, every, weights, reference, group, {}), new, torch.zeros_like(new)
    )
    mine = torch.autograd.grad(loss, new)[0]
    settings = {"loss_type": "grpo", "beta": 0.05}
    wanted = theirs(new, old, reference, advantage, valid, use_bias_correction_kl=True, **settings)
    torch.testing.assert_close(mine, wanted)
    assert not torch.allclose(wanted, theirs(new, old, reference, advantage, valid, **settings))


def test_the_unbiased_deviation_is_the_one_that_trl_divides_by():
    reward = torch.tensor([[1.0, 0, 0, 1], [0.5, 0.5, 1, 0]], dtype=torch.float64)
    wanted = (reward - reward.mean(1, keepdim=True)) / (reward.std(1, keepdim=True) + 1e-4)
    for method in (GRPO, DAPO, GSPO, CISPO):
        torch.testing.assert_close(method(unbiased=True).objective().advantage(reward), wanted)


@pytest.mark.parametrize("again", ["epochs", "minibatches"])
def test_leave_one_out_takes_one_step_a_batch(again):
    with pytest.raises(UsageError, match=f"{again}=2"):
        RLOO(**{again: 2})


def test_leave_one_out_on_the_policy_that_wrote():
    """TRL's RLOO clips the ratio of the whole sequence; where it is 1 that is REINFORCE, which is what is done here."""
    _, old, reference, reward, valid = tensors()
    new = old.clone().requires_grad_()
    mine, advantage = ours(RLOO(), new, old, reference, reward, valid)
    torch.testing.assert_close(mine, theirs(new, old, reference, advantage, valid, trainer=trl.RLOOTrainer))


def test_advantages_of_the_card():
    reward = torch.tensor([[1.0, 0, 0, 1]], dtype=torch.float64)
    for method, wanted in ((DrGRPO(), 0.5), (RLOO(), 2 / 3)):
        assert method.objective().advantage(reward)[0].tolist() == pytest.approx([wanted, -wanted, -wanted, wanted])
    assert GRPO().objective().advantage(reward)[0].tolist() == pytest.approx([1, -1, -1, 1], abs=3e-4)


@pytest.mark.parametrize(
    ("method", "sign", "wanted"),
    [
        (RLOO(), 1, (1, 1)),
        (GRPO(), 1, (0, 0.5)),
        (DAPO(), 1, (1.25, 0.5)),
        (CISPO(), 1, (1.25, 0.5)),
        (GRPO(), -1, (-1.25, 0)),
        (CISPO(), -1, (-1.25, -0.5)),
    ],
    ids=lambda x: repr(x)[:20],
)
def test_coefficients_of_the_card(method, sign, wanted):
    """π = (.5, .1), π_old = (.4, .2): what multiplies ∇log π for an advantage of ±1."""
    new, old = torch.tensor([[0.5, 0.1]]).log().double(), torch.tensor([[0.4, 0.2]]).log().double()
    _, found = method.objective().coefficient(new, old, torch.full((1, 2), float(sign), dtype=torch.float64))
    assert found[0].tolist() == pytest.approx(wanted, abs=1e-6)


def test_the_sequence_ratio_of_the_card():
    new, old = torch.tensor([[0.5, 0.1]]).log().double(), torch.tensor([[0.4, 0.2]]).log().double()
    objective = GSPO(clip=0.9, clip_high=0.9).objective()
    _, found = objective.coefficient(new, old, torch.ones(1, 2, dtype=torch.float64))
    assert found[0].tolist() == pytest.approx([0.790569] * 2, abs=1e-6)
