"""Log-probabilities in tiles are those of the full logits, and so are their gradients."""

from __future__ import annotations

import pytest
import torch

from surefoot.models.language.head import likeliest, token_log_probs

VOCABULARY, WIDTH, TOKENS = 50, 8, 13


def inputs():
    g = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(TOKENS, WIDTH, generator=g), torch.randn(VOCABULARY, WIDTH, generator=g)
    bias, target = torch.randn(VOCABULARY, generator=g), torch.randint(VOCABULARY, (TOKENS,), generator=g)
    return hidden.requires_grad_(), weight.requires_grad_(), bias.requires_grad_(), target


def full(hidden, weight, bias, target, temperature, softcap):
    logits = hidden @ weight.T + bias
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    log_p = (logits / temperature).log_softmax(-1)
    chosen = log_p.gather(1, target[:, None]).squeeze(1)
    return chosen, -(log_p.exp() * log_p).sum(-1), (logits / temperature).logsumexp(-1)


@pytest.mark.parametrize(("temperature", "softcap"), [(1.0, None), (0.7, None), (1.3, 5.0)])
@pytest.mark.parametrize("tile", [1, 7, 3 * VOCABULARY, 10**9])
def test_values_and_gradients_are_those_of_the_full_logits(temperature, softcap, tile):
    hidden, weight, bias, target = inputs()
    found = token_log_probs(hidden, weight, target, bias=bias, temperature=temperature, softcap=softcap, tile=tile)
    wanted = full(hidden, weight, bias, target, temperature, softcap)
    g = torch.Generator().manual_seed(1)
    pulls, none = torch.randn(3, TOKENS, generator=g), torch.zeros(TOKENS)
    for pull in (pulls, (pulls[0], none, none), (none, none, pulls[2])):  # with and without the entropy's gradient
        for mine, theirs in zip(found, wanted, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
        leaves = (hidden, weight, bias)
        mine = torch.autograd.grad(sum((p * x).sum() for p, x in zip(pull, found)), leaves, retain_graph=True)
        theirs = torch.autograd.grad(sum((p * x).sum() for p, x in zip(pull, wanted)), leaves, retain_graph=True)
        for one, other in zip(mine, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_a_certain_token_has_no_entropy_and_no_gradient():
    weight = torch.tensor([[1e4], [0.0], [-1e4]], requires_grad=True)
    hidden = torch.ones(1, 1, requires_grad=True)
    log_prob, entropy, _ = token_log_probs(hidden, weight, torch.tensor([0]))
    (log_prob + entropy).sum().backward()
    assert log_prob.item() == entropy.item() == 0
    assert hidden.grad.item() == 0


def test_no_tokens_give_nothing():
    log_prob, entropy, _ = token_log_probs(torch.zeros(0, 4), torch.zeros(9, 4), torch.zeros(0, dtype=torch.int64))
    assert log_prob.shape == entropy.shape == (0,)


@pytest.mark.parametrize(("temperature", "softcap"), [(1.0, None), (0.7, 5.0)])
@pytest.mark.parametrize("tile", [1, 7, 3 * VOCABULARY, None])
@pytest.mark.parametrize("count", [1, 6, VOCABULARY])
def test_the_likeliest_tokens_are_those_of_the_full_logits(temperature, softcap, tile, count):
    hidden, weight, bias, _ = (x.detach() for x in inputs())
    logits = hidden @ weight.T + bias
    logits = (logits if softcap is None else softcap * torch.tanh(logits / softcap)) / temperature
    wanted = logits.topk(count)
    found, tokens = likeliest(hidden, weight, count, bias=bias, temperature=temperature, softcap=softcap, tile=tile)
    torch.testing.assert_close(found, wanted.values)
    assert torch.equal(tokens, wanted.indices)
