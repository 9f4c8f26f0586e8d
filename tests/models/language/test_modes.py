"""Learning in evaluation mode, with activations computed again, and in float16."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
import transformers
from torch import nn

from surefoot.errors import UsageError
from surefoot.loops.group_rollout.language import LanguageOptions, make_model
from surefoot.models.language.model import LanguageModel
from surefoot.models.language.nano import characters
from surefoot.models.language.sequences import join
from surefoot.models.language.states import checkpoint_activations, checkpoints_activations

TOKENIZER = characters()
TOKENS = {"vocab_size": len(TOKENIZER), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 64, **TOKENS}
MIXTURE = {"num_key_value_heads": 2, "intermediate_size": 24, "num_local_experts": 4, "num_experts_per_tok": 2}
RANDOM = {  # what is random while they train, besides modules of the type Dropout
    "falcon": lambda: transformers.FalconConfig(**SIZES, attention_dropout=0.5, hidden_dropout=0.5, alibi=True),
    "opt": lambda: transformers.OPTConfig(
        **SIZES, ffn_dim=24, word_embed_proj_dim=16, layerdrop=0.5, dropout=0.5, attention_dropout=0.5
    ),
    "mixtral": lambda: transformers.MixtralConfig(**SIZES, **MIXTURE, router_jitter_noise=0.5),
    "phimoe": lambda: transformers.PhimoeConfig(**SIZES, **MIXTURE, attention_dropout=0.5),
}
GROUPS = [[1, 30, 31, 32, 33]] * 3
SAMPLES = [[50, 51, 2], [60, 2], [61]]


def made(name: str) -> LanguageModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = transformers.AutoModelForCausalLM.from_config(RANDOM[name]())
        for weight in network.parameters():
            weight.data.add_(0.3 * torch.randn_like(weight))
    return LanguageModel(network, TOKENIZER)


@pytest.mark.parametrize("name", RANDOM)
@pytest.mark.parametrize("again", [False, True])
def test_nothing_is_random_while_a_model_learns(name, again):
    """Twice the same bits, with and without activations computed again, in whatever mode the network was put; and what
    is learned from is the likelihood of the plain forward pass."""
    model, batch = made(name), join(GROUPS, SAMPLES)
    plain = deepcopy(model.network)
    if again:
        checkpoint_activations(model.base)
    model.network.train()
    weights = list(model.parameters().values())
    found = []
    for seed in (1, 2):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            log_prob = model.statistics(batch).log_prob
            gradient = torch.autograd.grad(log_prob.sum(), weights, allow_unused=True)
        found.append([log_prob.detach(), *(g for g in gradient if g is not None)])
    assert model.network.training and all(map(torch.equal, *found))
    for i, (prompt, row) in enumerate(zip(GROUPS, SAMPLES, strict=True)):
        logits = plain(input_ids=torch.tensor([prompt + row])).logits[0].log_softmax(-1)[len(prompt) - 1 : -1]
        wanted = logits.gather(1, torch.tensor(row)[:, None]).squeeze(1)
        torch.testing.assert_close(found[0][0][i, 5 : 5 + len(row)], wanted, rtol=1e-4, atol=1e-4)


def test_activations_are_computed_again_for_gradients_only(tiny):
    """Where others asked for it in the way of transformers too, which would not be heard in evaluation mode."""
    tiny.network.activation_checkpointing_enable()
    model, _ = make_model(tiny, None, LanguageOptions(device="cpu"), 0)
    assert checkpoints_activations(model.base) and not checkpoints_activations(made("opt").base)
    calls, batch = [], join(GROUPS, SAMPLES)
    model.base.base_model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    with torch.no_grad():
        model.statistics(batch)
    assert calls == [False]
    model.statistics(batch).log_prob.sum().backward()
    assert calls == [False, True, True]
    copy = deepcopy(model)  # computes its own blocks again, not those of the first
    copy.base.base_model.layers[0].mlp.down_proj.weight.data.zero_()
    assert not torch.equal(copy.statistics(batch).log_prob, model.statistics(batch).log_prob)


def test_a_network_without_blocks_cannot_compute_them_again():
    with pytest.raises(UsageError, match="gradient_checkpointing=True is not allowed: Linear"):
        checkpoint_activations(nn.Linear(2, 2))


def test_float16_learns_with_tied_weights_and_a_shared_prompt(tiny):
    """The gradient is that of float32 to the precision of the numbers."""
    batch, found = join(GROUPS, SAMPLES), []
    for dtype in (torch.float32, torch.float16):
        model = deepcopy(tiny)
        model.network.to(dtype)
        assert model.network.get_input_embeddings().weight is model.head()[0]
        model.statistics(batch).log_prob.sum().backward()
        found.append(torch.cat([w.grad.float().flatten() for w in model.parameters().values()]))
    assert float((found[1] - found[0]).norm() / found[0].norm()) < 0.01


def test_the_gradient_scale_is_that_of_the_weights(tiny):
    assert tiny.gradient_scale == 1
    assert deepcopy(tiny).network.to(torch.bfloat16) is not None
    tiny.network.to(torch.float16)
    assert tiny.gradient_scale == 1024
