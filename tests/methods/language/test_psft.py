"""PSFT: the numbers of its card."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("transformers", reason="language models need surefoot[language]")

from surefoot.envs.language import Example
from surefoot.errors import UsageError
from surefoot.loops.group_rollout.rollout import Progress
from surefoot.methods.language.baselines import SFT
from surefoot.methods.language.psft import PSFT
from surefoot.models.language.sequences import join
from surefoot.objectives import ratios, stabilizers

F64 = torch.float64
OLD, TARGET = torch.tensor([0.5, 0.3, 0.2], dtype=F64), 2


def one_token(policy, objective=None):
    """−min(ρ, 1 + ε) of the target, and the gradient of the loss in the logits."""
    objective = PSFT().objective() if objective is None else objective
    logits = torch.tensor(policy, dtype=F64).log().requires_grad_()
    log_prob = logits.log_softmax(-1)[TARGET, None]
    loss, metrics = objective.loss(log_prob, OLD.log()[TARGET, None], torch.ones(1, dtype=F64))
    return -metrics["surrogate"].item(), torch.autograd.grad(loss, logits)[0].tolist()


@pytest.mark.parametrize(
    ("policy", "loss", "gradient"),
    [
        ((0.5, 0.3, 0.2), -1, (0.5, 0.3, -0.8)),
        ((0.45, 0.3, 0.25), -1.25, (0.5625, 0.375, -0.9375)),
        ((0.44, 0.3, 0.26), -1.28, (0, 0, 0)),
        ((0.7, 0.2, 0.1), -0.5, (0.35, 0.1, -0.45)),
    ],
)
def test_one_token(policy, loss, gradient):
    found, slope = one_token(policy)
    assert found == pytest.approx(loss) and slope == pytest.approx(gradient, abs=1e-12)


def test_the_first_step_on_a_snapshot_is_sfts_whatever_the_clip():
    wanted = one_token(OLD.tolist(), SFT().objective())[1]
    for clip in (0.01, 0.28, 5.0):
        assert one_token(OLD.tolist(), PSFT(clip_high=clip).objective())[1] == pytest.approx(wanted)


def test_without_a_clip_it_is_the_ratio_itself():
    policy = (0.1, 0.1, 0.8)
    found = one_token(policy, PSFT(clip_high=1e6).objective())[1]
    assert found == pytest.approx([-4 * (a - p) for a, p in zip((0, 0, 1), policy)])  # ρ = 4


def test_the_lower_clip_does_nothing():
    policies = (0.3, 0.3, 0.4), (0.95, 0.04, 0.01)
    for policy in policies:
        found = [
            one_token(policy, dataclasses.replace(PSFT().objective(), stabilizer=stabilizers.clip(low, 0.28)))
            for low in (0.01, 0.2, 0.9)
        ]
        assert found[0] == found[1] == found[2]


def test_a_rare_token_needs_a_snapshot_for_every_factor():
    """From .001 to nearly 1 as far as each snapshot lets it: ln 1000/ln 1.28 = 27.98, so 28."""
    objective, p, snapshots = PSFT().objective(), 0.001, 0
    one = torch.ones(1, dtype=F64)
    while p < 1:
        old, snapshots = p, snapshots + 1
        while p < 1 and objective.coefficient(math.log(p) * one, math.log(old) * one, one)[1].item() > 0:
            p = min(1.0, p * 1.002)
    assert snapshots == 28


def rollout(step=0, shown=True):
    taught = join([[1, 5], [1, 6]], [[8, 8, 2], [8, 2]]) if shown else None
    examples, index = [Example("a"), Example("b")], torch.arange(2)
    return SimpleNamespace(demonstrations=taught, examples=examples, index=index, progress=Progress(step))


def test_the_warm_up_is_maximum_likelihood():
    for step, ratio in ((0, ratios.current()), (1, ratios.current()), (2, ratios.old())):
        (term,) = PSFT(sft_steps=2).terms(rollout(step))
        assert term.objective.ratio == ratio
    assert isinstance(PSFT().terms(rollout())[0].objective.stabilizer, stabilizers.clip)
    assert PSFT(sft_steps=2).terms(rollout())[0].objective == SFT().objective()


def test_without_demonstrations_the_error_says_what_is_missing():
    with pytest.raises(UsageError, match="demonstration"):
        PSFT().terms(rollout(shown=False))
