"""What is taken a piece at a time is a sum over rows, what is set has an effect, and what should move weights does."""

from __future__ import annotations

import dataclasses
import string
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

pytest.importorskip("transformers", reason="language models need surefoot[language]")

import surefoot as sf
from surefoot.envs.language import resolve
from surefoot.errors import UsageError
from surefoot.loops.group_rollout.learner import LanguageLearner
from surefoot.loops.group_rollout.method import GroupRollout
from surefoot.loops.group_rollout.rewards import make_rewards
from surefoot.methods.language.baselines import GRPO
from surefoot.models.language.generation import generate
from surefoot.models.language.nano import Nano, fresh
from surefoot.objectives import PolicyObjective, ratios
from surefoot.objectives.advantages import group_mean

TASK = resolve("arithmetic:digits=1")
TINY = Nano(width=16, layers=1, heads=2, context=48, warmup=0)
SMALL = {"prompts": 4, "samples": 3, "max_tokens": 5, "max_grad_norm": None}


def spread(completions, **fields):
    return [sum(map(ord, c)) % 17 / 17 for c in completions]


def learner(method, reward=spread, model=None) -> LanguageLearner:
    model = model or fresh(TINY, seed=1)
    ends = tuple(string.ascii_letters[:40])  # so that completions differ in length
    return LanguageLearner(method, model, TASK, make_rewards(TASK, reward, None), generate, stop=ends)


def gradient(method) -> torch.Tensor:
    """Of the first iteration."""
    run = learner(method)
    run.optimizer = torch.optim.SGD(run.weights.values(), lr=0.0)
    run.iterate()
    return torch.cat([w.grad.flatten() for w in run.weights.values()])


@dataclass(frozen=True)
class Own(GroupRollout):
    """A loss of a user's own."""

    kind: str = "sum"

    def objective(self):
        return PolicyObjective(group_mean(), ratios.current())

    def loss(self, objective, batch, log_prob, entropy):
        pull = -batch.advantage * log_prob
        if self.kind == "mean over rows":
            return (batch.valid * pull).sum(1).mean(), {}
        if self.kind == "mean over padding":
            return (batch.weights.sum(1) * (batch.valid * pull).mean(1)).sum(), {}
        if self.kind == "standardised":
            rows = (batch.valid * pull).sum(1)
            return (batch.weights.sum(1) * rows / rows.detach().std()).sum(), {}
        if self.kind == "pairs":
            return (batch.weights * pull).sum(1).view(4, -1).amax(1).sum(), {}
        if self.kind == "metric":
            return (batch.weights * pull).sum(), {"pull": (batch.valid * pull).sum(1).mean().detach()}
        return (batch.weights * pull).sum(), {"pull": (batch.weights * pull).sum().detach()}


@dataclass(frozen=True)
class Whole(Own):
    separable: ClassVar[bool] = False


MIXED = ["mean over rows", "mean over padding", "standardised", "pairs"]


@pytest.mark.parametrize("kind", [*MIXED, "metric"])
def test_a_loss_that_mixes_rows_is_refused_before_a_step_and_the_way_out_is_named(kind):
    run = learner(Own(**SMALL, kind=kind))
    before = [w.detach().clone() for w in run.weights.values()]
    with pytest.raises(UsageError, match=r"Own is not the sum .*micro_tokens.*separable: ClassVar\[bool\] = False"):
        run.iterate()
    assert all(torch.equal(w, x) for w, x in zip(run.weights.values(), before, strict=True))


@pytest.mark.parametrize("method", [Own(**SMALL), *(Whole(**SMALL, kind=kind) for kind in MIXED)])
def test_any_number_of_tokens_at_a_time_gives_the_same_gradient(method):
    found = [gradient(dataclasses.replace(method, micro_tokens=n)) for n in (None, 60, 15)]
    assert found[0].any()
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-4, atol=1e-6)


def test_an_objective_that_standardises_does_so_once_over_all_tokens():
    def method(objective, **settings):
        return sf.language.GroupPolicyGradient(objective, **SMALL, **settings)

    asked = GRPO(minibatches=2, **SMALL)
    objective = dataclasses.replace(asked.objective(), advantage=group_mean(), standardize=True)
    found = [gradient(method(objective, micro_tokens=n)) for n in (None, 60, 15)]

    class ByHand(type(method(objective))):
        def terms(self, rollout):
            (term,) = super().terms(rollout)
            valid = term.sequences.valid
            each = term.advantage[:, None].expand(valid.shape)[valid].double()
            made = (term.advantage - each.mean()) / each.std(correction=0)
            return [dataclasses.replace(term, advantage=made.float())]

    plain = dataclasses.replace(objective, standardize=False)
    wanted = gradient(ByHand(**SMALL, parts=plain, micro_tokens=None))
    assert wanted.any()
    for each in found:
        torch.testing.assert_close(each, wanted, rtol=1e-3, atol=1e-6)


def test_kl_and_entropy_beside_an_objective_are_its_own():
    objective = GRPO().objective()
    made = sf.language.GroupPolicyGradient(objective, kl=0.1, entropy=0.2)
    assert (made.objective().divergence, made.objective().entropy, made.kl, made.entropy) == (0.1, 0.2, 0.1, 0.2)
    inside = dataclasses.replace(objective, divergence=0.1, entropy=0.2)
    assert sf.language.GroupPolicyGradient(inside) == sf.language.GroupPolicyGradient(inside, kl=0.1, entropy=0.2)
    assert sf.language.GroupPolicyGradient(inside).kl == 0.1
    for name, word in (("kl", "divergence=0.1"), ("entropy", "entropy=0.2")):
        with pytest.raises(UsageError, match=f"{name}=0.3 conflicts with an objective that has {word}"):
            sf.language.GroupPolicyGradient(inside, **{name: 0.3})


@dataclass(frozen=True)
class Divergent(GroupRollout):
    def objective(self):
        return PolicyObjective(group_mean(), ratios.current(), divergence=0.2)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (Own(**SMALL, kl=0.1), "kl=0.1 has no effect on the loss of Own; put divergence=self.kl"),
        (Own(**SMALL, entropy=0.1), "entropy=0.1 has no effect on the loss of Own; put entropy=self.entropy"),
        (Divergent(**SMALL), "divergence=0.2 while kl=0"),
    ],
)
def test_a_weight_that_does_nothing_is_refused(method, message):
    with pytest.raises(UsageError, match=message):
        learner(method).iterate()
    Divergent(**SMALL, kl=0.2)


def test_weights_that_the_model_does_not_read_are_refused():
    model = fresh(TINY, seed=1)
    model.network.requires_grad_(False)
    model.network.register_parameter("prompt", nn.Parameter(torch.zeros(3)))
    with pytest.raises(UsageError, match=r"gradient is 0 in all weights that learn \(prompt"):
        learner(GRPO(**SMALL), model=model).iterate()


def test_where_nothing_should_move_a_gradient_of_zero_is_none_of_an_error():
    run = learner(GRPO(**SMALL), reward=lambda completions, **_: [0.5] * len(completions))
    (row,) = run.iterate()
    assert row["grad_norm"] == 0
