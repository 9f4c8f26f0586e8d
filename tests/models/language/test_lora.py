"""Settings of adapters: PEFT gets them, text and dictionaries mean the same, mistakes are named."""

from __future__ import annotations

import pytest

pytest.importorskip("peft", reason="adapters need surefoot[language]")

from surefoot.errors import UsageError
from surefoot.loops.group_rollout.language import adapter
from surefoot.models.language.lora import LoRA, with_lora


def test_peft_gets_the_settings(tiny):
    with pytest.warns(UserWarning, match=r"dropout=0.05.*not applied"):
        network = with_lora(tiny.network, LoRA(4, alpha=12, target_modules=["q_proj"], dropout=0.05, rslora=True))
    (config,) = network.peft_config.values()
    assert (config.r, config.lora_alpha, config.lora_dropout, config.use_rslora) == (4, 12, 0.05, True)
    names = [name for name, w in network.named_parameters() if w.requires_grad]
    assert names and all("q_proj" in name for name in names)


def test_a_rank_alone_adapts_all_linear_layers_at_scale_two(tiny):
    (config,) = with_lora(tiny.network, 3).peft_config.values()
    layers = {name.rpartition(".")[2] for name in config.target_modules}
    assert config.r == 3 and config.lora_alpha == 6 and {"q_proj", "down_proj"} <= layers and "lm_head" not in layers


def test_numbers_texts_and_dictionaries_mean_the_same():
    assert adapter(8) == adapter("8") == adapter({"rank": 8}) == adapter("rank=8") == LoRA(8)
    assert adapter("rank=16,alpha=32,dropout=0.05") == LoRA(16, alpha=32, dropout=0.05)
    assert adapter(None) is None and adapter(LoRA(16, alpha=32).named()) == LoRA(16, alpha=32)
    for wrong, said in [
        (0, "lora=0"),
        (True, "lora=True"),
        ("rank=0", "rank=0"),
        ("ranks=4", "no hyperparameter 'ranks'.*rank"),
        ({"target_modules": []}, r"target_modules=\[\]"),
        ({"dropout": 2}, "dropout=2"),
    ]:
        with pytest.raises(UsageError, match=said):
            adapter(wrong)


def test_layers_that_the_model_lacks_are_named(tiny):
    with pytest.raises(UsageError, match=r"target_modules=\['gate'\] does not fit LlamaForCausalLM"):
        with_lora(tiny.network, LoRA(2, target_modules=["gate"]))
