"""Truncated distributions: those of transformers' own processors, and the likelihoods of what is drawn from them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from surefoot.errors import UsageError
from surefoot.loops.group_rollout.language import sampling
from surefoot.models.language.agent import LanguageAgent
from surefoot.models.language.generation import generate
from surefoot.models.language.sampling import Sampling
from surefoot.models.language.sequences import join

PROMPTS = [[1, 30, 31, 32], [1, 40], [1, 50, 51, 52, 53, 54]]
EACH = [Sampling(top_k=3), Sampling(top_p=0.6), Sampling(min_p=0.2), Sampling(repetition_penalty=1.7)]
EVERY = Sampling(repetition_penalty=1.3, top_k=20, top_p=0.9, min_p=0.05)


def theirs(one: Sampling, logits: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """The same settings by transformers' processors, in its order."""
    steps = [RepetitionPenaltyLogitsProcessor(one.repetition_penalty)] if one.repetition_penalty != 1 else []
    steps += [TopKLogitsWarper(one.top_k)] if one.top_k else []
    steps += [TopPLogitsWarper(one.top_p)] if one.top_p < 1 else []
    steps += [MinPLogitsWarper(one.min_p)] if one.min_p else []
    for step in steps:
        logits = step(seen, logits)
    return logits


@pytest.mark.parametrize("one", [*EACH, EVERY], ids=lambda s: ",".join(s.named()))
@given(seed=st.integers(0, 2**20))
@settings(max_examples=15)
def test_the_distribution_is_that_of_transformers(one, seed):
    g = torch.Generator().manual_seed(seed)
    logits, seen = 3 * torch.randn(4, 30, generator=g), torch.randint(30, (4, 6), generator=g)
    mine = one.logits(logits, seen, torch.ones_like(seen, dtype=torch.bool))
    torch.testing.assert_close(mine.softmax(-1), theirs(one, logits, seen).softmax(-1))


def test_tokens_that_pad_do_not_count_as_seen():
    logits, seen = torch.tensor([[2.0, 1.0, -1.0]]), torch.tensor([[0, 1]])
    found = Sampling(repetition_penalty=2.0).logits(logits, seen, torch.tensor([[False, True]]))
    assert found.tolist() == [[2.0, 0.5, -1.0]]


@pytest.mark.parametrize("one", [*EACH, EVERY], ids=lambda s: ",".join(s.named()))
def test_likelihoods_are_those_of_the_distribution_that_was_sampled_from(tiny, one):
    uniform = torch.rand(3, 4, 6, generator=torch.Generator().manual_seed(0))
    found = generate(tiny, PROMPTS, uniform, temperature=0.8, sampling=one)
    rows = [p for p in PROMPTS for _ in range(4)]
    for prompt, tokens, said in zip(rows, found.tokens, found.log_prob, strict=True):
        for t, token in enumerate(tokens):
            before = torch.tensor([[*prompt, *tokens[:t]]])
            with torch.no_grad():
                logits = tiny.network(before).logits[:, -1].float() / 0.8
            wanted = theirs(one, logits, before).log_softmax(-1)[0, token]
            assert said[t] == pytest.approx(float(wanted), abs=1e-4)


def test_one_token_to_draw_from_is_greedy_decoding(tiny):
    uniform = torch.rand(3, 2, 6, generator=torch.Generator().manual_seed(0))
    greedy = generate(tiny, PROMPTS, uniform, temperature=0)
    one = generate(tiny, PROMPTS, uniform, temperature=1.0, sampling=Sampling(top_k=1))
    assert one.tokens == greedy.tokens and all(x == 0 for row in one.log_prob for x in row)


def test_the_whole_distribution_is_the_models(tiny):
    uniform = torch.rand(3, 2, 6, generator=torch.Generator().manual_seed(0))
    found = generate(tiny, PROMPTS, uniform, temperature=1.0, sampling=Sampling())
    batch = join([p for p in PROMPTS for _ in range(2)], found.tokens)
    said = torch.tensor([x for row in found.log_prob for x in row])
    torch.testing.assert_close(said, tiny.statistics(batch).log_prob[batch.valid].detach(), rtol=1e-5, atol=1e-5)


def test_an_agent_keeps_the_sampling_of_its_training(tiny, tmp_path):
    agent = LanguageAgent(tiny, {"max_tokens": 6, "sampling": {"top_k": 1}})
    greedy = agent.write(PROMPTS_TEXT := ["12+3=", "4+4="], temperature=0).tokens
    assert agent.write(PROMPTS_TEXT).tokens == greedy
    assert LanguageAgent.load(agent.save(tmp_path)).write(PROMPTS_TEXT).tokens == greedy


def test_settings_are_read_from_text_and_checked():
    assert sampling("top_p=0.95, top_k=50") == Sampling(top_p=0.95, top_k=50) == sampling({"top_p": 0.95, "top_k": 50})
    assert sampling(None) == Sampling() and Sampling().whole
    for wrong, said in [
        ("top_q=1", "no hyperparameter 'top_q'.*top_p"),
        ({"top_p": 0}, "top_p=0"),
        ({"top_k": 0}, "top_k=0"),
        ([0.9], r"dict\(top_p=0.95\)"),
        ("top_p", "top_p"),
    ]:
        with pytest.raises(UsageError, match=said):
            sampling(wrong)
