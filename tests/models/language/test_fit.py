"""What cannot be read and written with as is done here is refused before anything is learned, and says why."""

from __future__ import annotations

import functools

import pytest
import torch
import transformers

from surefoot.errors import UsageError
from surefoot.models.language.loading import load_model
from surefoot.models.language.model import LanguageModel
from surefoot.models.language.nano import characters
from surefoot.models.language.room import room_of

TOKENIZER = characters()
TOKENS = {"vocab_size": len(TOKENIZER), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 64, **TOKENS}
SHAPE = {**SIZES, "num_key_value_heads": 2, "intermediate_size": 24, "head_dim": 8}
PICTURES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
BART = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
BART |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, **TOKENS}
CONFIGS = {
    "llama4": lambda: transformers.Llama4TextConfig(**SHAPE, intermediate_size_mlp=24, num_local_experts=2),
    "bart": lambda: transformers.BartConfig(**BART),
    "gpt": lambda: transformers.OpenAIGPTConfig(n_embd=16, n_layer=1, n_head=2, n_positions=64, **TOKENS),
    "xlnet": lambda: transformers.XLNetConfig(d_model=16, n_layer=1, n_head=2, d_inner=16, **TOKENS),
    "mpt": lambda: transformers.MptConfig(d_model=16, n_heads=2, n_layers=1, max_seq_len=48, **TOKENS),
    "bloom": lambda: transformers.BloomConfig(hidden_size=16, n_layer=1, n_head=2, **TOKENS),
    "gemma3": lambda: transformers.Gemma3Config(
        text_config={**SHAPE, "sliding_window": 4},
        vision_config={**PICTURES, "image_size": 28, "patch_size": 14},
    ),
}


def made(name: str) -> LanguageModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = transformers.AutoModelForCausalLM.from_config(CONFIGS[name]())
        for weight in network.parameters():
            weight.data.add_(0.3 * torch.randn_like(weight))
    return LanguageModel(network, TOKENIZER)


@pytest.mark.filterwarnings("ignore:.past_key_values. is deprecated")
@pytest.mark.parametrize(
    ("name", "kind"),
    [("llama4", "Llama4ForCausalLM"), ("bart", "BartForCausalLM"), ("gpt", "OpenAIGPT"), ("xlnet", "XLNetLMHead")],
)
def test_an_architecture_that_does_not_fit_is_named(name, kind):
    with pytest.raises(UsageError, match=f"{kind}.*Give another"):
        made(name).check()


@pytest.mark.parametrize(("name", "room"), [("mpt", 48), ("bloom", float("inf")), ("gemma3", 64)])
def test_how_much_a_model_reads_is_found_wherever_its_configuration_says_it(name, room):
    assert room_of(made(name).check()) == room


def test_a_fault_in_writing_alone_is_found(tiny):
    """As of an architecture that ignores which tokens are padding, which only shows behind a shorter prompt."""
    inner = tiny.base.base_model.forward

    @functools.wraps(inner)
    def ignorant(*given, attention_mask=None, **named):
        return inner(*given, **named)

    tiny.check()
    tiny.base.base_model.forward = ignorant
    with torch.no_grad():
        for weight in tiny.parameters().values():
            weight.add_(0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(UsageError, match="LlamaForCausalLM changes its logits"):
        tiny.check()


@pytest.mark.parametrize("kind", ["PromptTuningConfig", "PrefixTuningConfig", "PromptEncoderConfig"])
def test_adapters_that_put_vectors_before_the_text_are_refused_as_a_kind(tiny, kind, tmp_path):
    peft = pytest.importorskip("peft")
    tiny.save(tmp_path / "base")
    network = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    config = getattr(peft, kind)(num_virtual_tokens=3, task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(network, config)
    with pytest.raises(UsageError, match="prepends learned vectors to the text"):
        LanguageModel(adapted, tiny.tokenizer)
    adapted.save_pretrained(tmp_path / "adapter")
    with pytest.raises(UsageError, match="prepends learned vectors to the text"):
        load_model(tmp_path / "adapter")
