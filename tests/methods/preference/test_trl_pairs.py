"""The losses of pairs against those of TRL's trainer: the same numbers and gradients on the same random tensors."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from surefoot.objectives import preferences as P

PAIRS, LENGTH, BETA, FLIPS = 5, 9, 0.3, 0.2
OURS = {
    "sigmoid": P.PairObjective(P.logistic(BETA)),
    "sigmoid_norm": P.PairObjective(P.logistic(BETA), per_token=True),
    "hinge": P.PairObjective(P.hinge(BETA)),
    "ipo": P.PairObjective(P.square(BETA), per_token=True),
    "robust": P.PairObjective(P.logistic(BETA), labels=P.corrected(FLIPS)),
    "exo_pair": P.PairObjective(P.exo(BETA, FLIPS)),
    "nca_pair": P.PairObjective(P.nca(BETA)),
    "bco_pair": P.PairObjective(P.bco(BETA)),
    "sppo_hard": P.PairObjective(P.sppo(BETA)),
    "apo_zero": P.PairObjective(P.apo_zero(BETA)),
    "apo_down": P.PairObjective(P.apo_down(BETA)),
    "discopop": P.PairObjective(P.discopop(BETA)),
}


def tensors() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-probabilities of the tokens `[2, pairs, length]`, chosen first, their sums under the reference, and which
    tokens are of the answer."""
    g = torch.Generator().manual_seed(0)
    token = -torch.rand(2, PAIRS, LENGTH, generator=g, dtype=torch.float64)
    answer = torch.arange(LENGTH) < torch.randint(2, LENGTH + 1, (2, PAIRS, 1), generator=g)
    reference = (token * answer).sum(-1) + 0.5 * torch.randn(2, PAIRS, generator=g, dtype=torch.float64)
    return (token * answer).requires_grad_(), reference, answer


def theirs(loss_type: str, token: torch.Tensor, reference: torch.Tensor, answer: torch.Tensor) -> torch.Tensor:
    """The loss of TRL's trainer for a model that says these log-probabilities."""
    trainer = pytest.importorskip("trl").DPOTrainer
    accelerator = SimpleNamespace(device="cpu", gather=lambda x: x, gather_for_metrics=lambda x: x)
    itself = SimpleNamespace(
        model=SimpleNamespace(training=True), accelerator=accelerator, aux_loss_enabled=False, ld_alpha=None,
        precompute_ref_logps=True, f_divergence_type="reverse_kl", loss_types=[loss_type], loss_weights=[1.0],
        beta=BETA, label_smoothing=FLIPS, use_weighting=False, args=SimpleNamespace(discopop_tau=0.05),
        _metrics={"train": defaultdict(list)}, _total_train_tokens=0, _tp_size=1,
    )  # fmt: skip
    flat = token.reshape(2 * PAIRS, LENGTH)
    said = SimpleNamespace(log_probs=flat, entropy=flat * 0, mean_logits=flat * 0, is_top1=flat > 0)
    mask = torch.cat([torch.zeros(2 * PAIRS, 1), answer.reshape(2 * PAIRS, LENGTH)], 1).long()  # a prompt of one token
    inputs = {"input_ids": mask, "attention_mask": mask, "completion_mask": mask}
    inputs |= {"ref_chosen_logps": reference[0], "ref_rejected_logps": reference[1]}
    return trainer._compute_loss(itself, lambda **given: said, inputs, False)


@pytest.mark.parametrize("loss_type", OURS)
def test_losses_and_gradients_are_trls(loss_type):
    token, reference, answer = tensors()
    pairs = P.Compared(token.sum(-1).T, reference.T, answer.sum(-1).double().T)
    ours, peer = OURS[loss_type].losses(pairs).mean(), theirs(loss_type, token, reference, answer)
    torch.testing.assert_close(ours, peer, rtol=1e-6, atol=1e-6)
    slopes = [torch.autograd.grad(x, token, retain_graph=True)[0] * answer for x in (ours, peer)]
    torch.testing.assert_close(*slopes, rtol=1e-6, atol=1e-7)
    assert slopes[0].abs().max() > 1e-3


MARGIN = 0.7
WITHOUT_REFERENCE = {
    "cpo": ("sigmoid", 0.0, P.PairObjective(P.logistic(BETA), referenced=False)),
    "cpo, smoothed": ("sigmoid", FLIPS, P.PairObjective(P.logistic(BETA), P.smoothed(FLIPS), referenced=False)),
    "simpo": ("simpo", 0.0, P.PairObjective(P.logistic(BETA, margin=MARGIN), referenced=False, per_token=True)),
}


@pytest.mark.parametrize("name", WITHOUT_REFERENCE)
def test_losses_without_a_reference_are_trls(name):
    """SimPO's log-probabilities are means over tokens in TRL too."""
    trainer = pytest.importorskip("trl.experimental.cpo").CPOTrainer
    loss_type, smoothing, objective = WITHOUT_REFERENCE[name]
    token, reference, answer = tensors()
    log_prob, tokens = token.sum(-1), answer.sum(-1).double()
    itself = SimpleNamespace(alpha=0.0, beta=BETA, loss_type=loss_type, label_smoothing=smoothing, simpo_gamma=MARGIN)
    itself.accelerator = SimpleNamespace(device="cpu")
    said = log_prob / tokens if loss_type == "simpo" else log_prob
    peer = trainer.cpo_loss(itself, *said)[0]
    ours = objective.losses(P.Compared(log_prob.T, reference.T, tokens.T))
    torch.testing.assert_close(ours, peer)
    torch.testing.assert_close(*(torch.autograd.grad(x.sum(), token, retain_graph=True)[0] for x in (ours, peer)))
