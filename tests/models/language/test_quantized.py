"""Bases in 4 and 8 bits, moments in 8: what learns, what is saved, and what is refused before anything is loaded."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch

import surefoot as sf
from surefoot.errors import UsageError
from surefoot.loops.common import checkpoint
from surefoot.models.language.loading import load_model
from surefoot.models.language.nano import Nano, fresh
from surefoot.models.language.quantized import optimizer, quantization
from surefoot.models.language.sequences import join

SIZES = {"prompts": 3, "samples": 4, "max_tokens": 4, "steps": 4, "loggers": (), "learning_rate": 1e-2, "device": "cpu"}


def digits(completions, **_):
    return [sum(x.isdigit() for x in text) / 4 - 0.1 * len(text) for text in completions]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return fresh(Nano(width=192, layers=1, heads=2, context=48, warmup=0), seed=1).save(tmp_path_factory.mktemp("m"))


def train(folder, run_dir, **changes):
    return sf.train(
        "grpo", **{"task": "arithmetic", "model": folder, "reward": digits, "run_dir": run_dir, **SIZES, **changes}
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"load_in_4bit": True, "load_in_8bit": True, "lora": 2}, "are both True; give one"),
        ({"load_in_4bit": True}, "needs an adapter.*give lora=16"),
        ({"load_in_8bit": True, "lora": 2, "model": "nano"}, "for a model from a folder"),
        ({"load_in_4bit": True, "lora": 2, "engine": "transformers"}, "not allowed with engine='transformers'"),
        ({"load_in_4bit": True, "lora": 2, "sharding": "full"}, "not allowed with sharding='full'"),
        ({"load_in_4bit": True, "lora": 2, "model_options": {"gguf_file": "x"}}, "not allowed with gguf_file"),
        ({"load_in_4bit": True, "lora": 2}, "needs a GPU to learn.*load_in_8bit=True"),
        ({"optimizer": "adamw-8bit", "sharding": "full"}, "use optimizer='adamw'"),
        ({"optimizer": "adam"}, "optimizer='adam' is not allowed.*adamw-8bit"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(changes, said, folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", SimpleNamespace())
    with pytest.raises(UsageError, match=said):
        train(folder, tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "changes", [{"load_in_4bit": True, "lora": 2}, {"load_in_8bit": True, "lora": 2}, {"optimizer": "adamw-8bit"}]
)
def test_without_bitsandbytes_it_is_said_what_to_install(changes, folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UsageError, match=r'needs bitsandbytes.*pip install "surefoot\[quantized\]", or'):
        train(folder, tmp_path / "run", **changes)


def test_what_is_asked_for_reaches_transformers(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", SimpleNamespace())
    assert quantization({"revision": "a", "load_in_4bit": False}, torch.float32, "cpu") == {"revision": "a"}
    four = quantization({"load_in_4bit": True}, torch.bfloat16, "cuda")
    made = four["quantization_config"]
    assert (made.load_in_4bit, made.load_in_8bit, made.bnb_4bit_quant_type) == (True, False, "nf4")
    assert made.bnb_4bit_compute_dtype == torch.bfloat16 and four["device_map"] == {"": "cuda"}
    assert quantization({"load_in_8bit": True}, torch.float32, "cpu")["quantization_config"].load_in_8bit


def test_the_optimiser_is_the_one_that_is_named(monkeypatch):
    seen = {}
    made = SimpleNamespace(AdamW8bit=lambda weights, **settings: seen.update(settings, weights=weights) or "eight")
    monkeypatch.setitem(sys.modules, "bitsandbytes", SimpleNamespace(optim=made))
    weights = [torch.nn.Parameter(torch.zeros(2))]
    assert optimizer("adamw-8bit", weights, 0.1, 0.2) == "eight"
    assert seen == {"lr": 0.1, "weight_decay": 0.2, "weights": weights}
    plain = optimizer("adamw", weights, 0.1, 0.2)
    assert type(plain) is torch.optim.AdamW and plain.defaults["lr"] == 0.1 and plain.defaults["weight_decay"] == 0.2


@pytest.mark.parametrize("changes", [{"load_in_8bit": True, "lora": 2, "kl": 0.1}, {"optimizer": "adamw-8bit"}])
def test_a_quantised_run_learns_resumes_to_the_bit_and_is_loaded_as_it_was(changes, folder, tmp_path):
    pytest.importorskip("bitsandbytes", reason="quantised weights need surefoot[quantized]")
    whole = train(folder, tmp_path / "whole", **changes)
    train(folder, tmp_path / "cut", callbacks=[lambda learner, _: learner.iteration == 2], **changes)
    sf.resume(tmp_path / "cut", reward=digits)
    (a, _), (b, _) = (checkpoint.read(checkpoint.latest(tmp_path / name)) for name in ("whole", "cut"))
    assert a.keys() == b.keys() and all(torch.equal(x, b[name]) for name, x in a.items())
    assert any(row["grad_norm"] > 0 for row in whole.metrics())
    stored = {str(x.dtype) for name, x in a.items() if name.startswith("adam/")}
    assert ("torch.uint8" in stored) == ("optimizer" in changes)
    kinds = {type(layer).__name__ for layer in sf.load(whole.path).model.base.modules()}
    assert ("load_in_8bit" in changes) == ("Linear8bitLt" in kinds)


def test_an_adapter_on_8_bits_has_nearly_the_gradient_of_the_whole_weights(folder):
    pytest.importorskip("bitsandbytes", reason="quantised weights need surefoot[quantized]")
    found = []
    for options in ({}, {"load_in_8bit": True}):
        model = load_model(folder, lora=2, device="cpu", **options)
        for name, weight in model.parameters().items():
            generator = torch.Generator().manual_seed(len(name))
            weight.data = 0.1 * torch.randn(weight.shape, generator=generator)
        batch = join(model.encode(["1+2=", "3-4="]), model.encode_completions(["33", "a"]))
        model.statistics(batch).log_prob.sum().backward()
        found.append(torch.cat([w.grad.flatten() for w in model.parameters().values()]))
    assert torch.nn.functional.cosine_similarity(*found, dim=0) > 0.99
    assert not torch.equal(*found)
