"""What a learner makes of the engine that writes for it: a canary for its weights, a correction for its rounding."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

pytest.importorskip("transformers", reason="language models need surefoot[language]")

from surefoot.envs.language import resolve
from surefoot.errors import UsageError
from surefoot.loops.group_rollout.learner import LanguageLearner
from surefoot.loops.group_rollout.rewards import make_rewards
from surefoot.methods.language.baselines import GRPO
from surefoot.models.language.generation import generate
from surefoot.models.language.nano import Nano, fresh

SIZE = Nano(width=16, layers=1, heads=2, context=64, warmup=0)


def varied(completions, **fields):
    """Rewards that differ, whatever is written."""
    return [sum(map(ord, text)) % 7 / 7 for text in completions]


def learner(engine, **settings) -> LanguageLearner:
    method = GRPO(prompts=3, samples=4, max_tokens=6, max_grad_norm=None, minibatches=1, **settings)
    task = resolve("arithmetic")
    run = LanguageLearner(method, fresh(SIZE, seed=1), task, make_rewards(task, varied, None), engine)
    run.optimizer = torch.optim.SGD(run.weights.values(), lr=1.0)
    run.learning_rate = 1.0
    return run


def off_by(nats: float):
    """An engine whose log-probabilities are those of the model less so many nats."""

    def write(model, prompts, uniform, **settings):
        found = generate(model, prompts, uniform, **settings)
        return dataclasses.replace(found, log_prob=[[x - nats for x in row] for row in found.log_prob])

    return write


def step(run: LanguageLearner) -> tuple[torch.Tensor, dict[str, float]]:
    before = torch.cat([w.detach().flatten() for w in run.weights.values()])
    (row,) = run.iterate()
    return torch.cat([w.detach().flatten() for w in run.weights.values()]) - before, row


@pytest.mark.parametrize("micro_tokens", [None, 30])
def test_the_gap_between_engine_and_model_is_measured(micro_tokens):
    _, row = step(learner(off_by(0.25), micro_tokens=micro_tokens))
    assert row["engine_gap"] == pytest.approx(0.25, abs=1e-5)
    assert row["engine_gap_max"] == pytest.approx(0.25, abs=1e-5)


def test_one_token_that_is_off_shows_in_the_largest_gap():
    def write(model, prompts, uniform, **settings):
        found = generate(model, prompts, uniform, **settings)
        found.log_prob[1][0] -= 3.0
        return found

    _, row = step(learner(write))
    tokens = row["tokens"]
    assert row["engine_gap_max"] == pytest.approx(3.0, abs=1e-4)
    assert row["engine_gap"] == pytest.approx(3.0 / tokens, abs=1e-5)


def test_an_engine_with_other_weights_is_found_out_before_a_step_is_taken():
    other = fresh(SIZE, seed=2)
    with torch.no_grad():
        other.network.get_output_embeddings().weight.mul_(100)

    def write(model, prompts, uniform, **settings):
        return generate(other, prompts, uniform, **settings)

    run = learner(write)
    before = [w.detach().clone() for w in run.weights.values()]
    with pytest.raises(UsageError, match="did not generate with the model's weights"):
        run.iterate()
    assert all(torch.equal(w, x) for w, x in zip(run.weights.values(), before, strict=True))


def test_a_gap_that_grows_later_does_not_end_the_run():
    run = learner(generate)
    run.iterate()
    run.writer = dataclasses.replace(run.writer, engine=off_by(2.0))
    (row,) = run.iterate()
    assert row["engine_gap"] == pytest.approx(2.0, abs=1e-4)


@pytest.mark.parametrize("micro_tokens", [None, 30])
@pytest.mark.parametrize(
    ("correction", "nats", "factor"),
    [
        ("none", 0.5, 1.0),
        ("truncate", 0.5, math.exp(0.5)),
        ("truncate", 0.9, 2.0),
        ("mask", 0.5, math.exp(0.5)),
        ("mask", 0.9, 0.0),
        ("truncate", -0.9, math.exp(-0.9)),
    ],
)
def test_a_correction_multiplies_by_the_importance_weight_up_to_its_cap(correction, nats, factor, micro_tokens):
    plain, _ = step(learner(generate, micro_tokens=micro_tokens))
    corrected, _ = step(learner(off_by(nats), correction=correction, correction_cap=2.0, micro_tokens=micro_tokens))
    assert plain.abs().max() > 1e-3
    torch.testing.assert_close(corrected, factor * plain, rtol=1e-3, atol=1e-5)
