"""Likelihoods, references, adapters and files of language models."""

from __future__ import annotations

import functools
from types import SimpleNamespace

import pytest
import torch
import transformers

from surefoot.errors import UsageError
from surefoot.loops.group_rollout.language import LanguageOptions, make_model
from surefoot.models.language.loading import load_model, with_lora
from surefoot.models.language.model import LanguageModel
from surefoot.models.language.sequences import join

PROMPTS, WRITTEN = [[1, 30, 31, 32], [1, 40]], [[50, 51, 2], [60, 2]]


def test_likelihoods_are_those_of_transformers_logits(tiny):
    batch = join(PROMPTS, WRITTEN)
    found = tiny.statistics(batch, temperature=0.8)
    logits = tiny.network(input_ids=batch.tokens).logits[:, :-1] / 0.8
    log_p = logits.log_softmax(-1)
    wanted = log_p.gather(-1, batch.tokens[:, 1:, None]).squeeze(-1)
    written = batch.valid[:, 1:]
    torch.testing.assert_close(found.log_prob[:, 1:][written], wanted[written], rtol=1e-5, atol=1e-5)
    entropy = -(log_p.exp() * log_p).sum(-1)
    torch.testing.assert_close(found.entropy[:, 1:][written], entropy[written], rtol=1e-5, atol=1e-5)
    assert not found.log_prob[~batch.valid].any() and not found.entropy[~batch.valid].any()


def test_gradients_are_those_of_transformers_logits(tiny):
    batch = join(PROMPTS, WRITTEN)
    weights = list(tiny.parameters().values())
    pull = torch.randn(batch.valid.shape, generator=torch.Generator().manual_seed(0)) * batch.valid
    mine = torch.autograd.grad((tiny.statistics(batch).log_prob * pull).sum(), weights)
    log_p = tiny.network(input_ids=batch.tokens).logits[:, :-1].log_softmax(-1)
    full = log_p.gather(-1, batch.tokens[:, 1:, None]).squeeze(-1)
    theirs = torch.autograd.grad((full * pull[:, 1:]).sum(), weights)
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


GROUPS = [p for p in ([1, *range(30, 40)], [1, 40, 41, 42, 43]) for _ in range(3)]
SAMPLES = [[50, 51, 2], [60, 2], [61], [70, 71, 72, 73, 2], [50, 51, 2], [2]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_of_a_weight_that_is_read_and_written_with_is_a_plain_one(tiny, dtype):
    tiny.network.to(dtype)
    embedding = tiny.network.get_input_embeddings()
    own = embedding.weight
    assert own is tiny.head()[0]
    batch = join(PROMPTS, WRITTEN)
    for _ in range(2):
        tiny.statistics(batch).log_prob.sum().backward()
    assert embedding.weight is own and not embedding.sparse
    assert own.grad.layout == torch.strided and own.grad.dtype == dtype
    with pytest.raises(IndexError):
        tiny.statistics(join([[1, 10**6]], [[2]]))
    assert embedding.weight is own and not embedding.sparse
    apart = torch.nn.Parameter(own.detach().clone())
    tiny.network.get_output_embeddings().weight = apart
    tiny.network.zero_grad()
    tiny.statistics(batch).log_prob.sum().backward()
    tiny.statistics(batch).log_prob.sum().backward()
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 0.1}[dtype]
    both = own.grad + apart.grad
    tiny.network.get_output_embeddings().weight = own
    own.grad = None
    for _ in range(2):
        tiny.statistics(batch).log_prob.sum().backward()
    torch.testing.assert_close(own.grad, both, rtol=tolerance, atol=tolerance)


def test_a_shared_prompt_is_read_once_and_changes_nothing(tiny, monkeypatch):
    """Likelihoods and gradients, against reading every row as a whole."""
    batch = join(GROUPS, SAMPLES)
    weights = list(tiny.parameters().values())
    pull = torch.randn(batch.valid.shape, generator=torch.Generator().manual_seed(0)) * batch.valid
    read = []
    inner = tiny.network.base_model.forward

    @functools.wraps(inner)
    def counted(**given):
        read.append(given["input_ids"].numel())
        return inner(**given)

    monkeypatch.setattr(tiny.network.base_model, "forward", counted)
    found = []
    for shared in (2, 10**9):
        monkeypatch.setattr("surefoot.models.language.states.SHARED", shared)
        read.clear()
        log_prob, entropy, *_ = tiny.statistics(batch, temperature=0.9)
        gradient = torch.autograd.grad((pull * (log_prob + 0.3 * entropy)).sum(), weights)
        found.append((log_prob, entropy, torch.cat([g.flatten() for g in gradient]), sum(read)))
    for mine, whole in zip(found[0][:3], found[1][:3], strict=True):
        torch.testing.assert_close(mine, whole, rtol=1e-4, atol=1e-5)
    assert found[0][3] < found[1][3]


@pytest.mark.parametrize("lora", [None, 2])
def test_activations_that_are_computed_again_change_nothing(tiny, lora, tmp_path):
    """The gradient with gradient checkpointing is that without it, and every block is computed twice for it."""
    batch, calls, found = join(GROUPS, SAMPLES), [], []
    folder = tiny.save(tmp_path / "base")
    for on in (False, True):
        options = LanguageOptions(model=str(folder), lora=lora, gradient_checkpointing=on, device="cpu")
        model, _ = make_model(str(folder), None, options, seed=0)
        model.network.train()
        model.base.base_model.layers[0].mlp.register_forward_pre_hook(lambda *_, on=on: calls.append(on))
        log_prob = model.statistics(batch).log_prob
        found.append((log_prob, *torch.autograd.grad(log_prob.sum(), list(model.parameters().values()))))
    assert calls.count(True) == 2 and False in calls
    for plain, again in zip(*found, strict=True):
        torch.testing.assert_close(plain, again, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused_before_anything_is_loaded(tiny):
    for use in (tiny.to, lambda device: load_model("nothing", device=device), lambda d: LanguageOptions(device=d)):
        with pytest.raises(UsageError, match="device='auto' or 'cpu'"):
            use("cuda")
    assert tiny.to("auto").device.type == "cpu"


def test_padding_changes_nothing(tiny):
    alone = tiny.statistics(join(PROMPTS[1:], WRITTEN[1:])).log_prob
    beside = tiny.statistics(join(PROMPTS, WRITTEN)).log_prob[1:, : alone.shape[1]]
    torch.testing.assert_close(alone, beside, rtol=1e-5, atol=1e-6)


def test_the_reference_stays_while_the_model_moves(tiny):
    batch = join(PROMPTS, WRITTEN)
    tiny.keep_reference()
    before = tiny.statistics(batch).log_prob.detach()
    with torch.no_grad():
        for weight in tiny.parameters().values():
            weight.add_(0.1)
    torch.testing.assert_close(tiny.statistics(batch, reference=True).log_prob, before)
    assert not torch.allclose(tiny.statistics(batch).log_prob, before)


def test_without_a_reference_the_error_says_how_to_keep_one(tiny):
    with pytest.raises(UsageError, match="keep_reference"):
        tiny.statistics(join(PROMPTS, WRITTEN), reference=True)


def test_an_adapter_is_its_own_reference_and_all_that_is_learned(tiny, tmp_path):
    pytest.importorskip("peft")
    batch = join(PROMPTS, WRITTEN)
    before = tiny.statistics(batch).log_prob.detach()
    tiny.save(tmp_path / "base")
    model = LanguageModel(with_lora(load_model(tmp_path / "base").network, 4), tiny.tokenizer)
    assert model.parameters() and all("lora" in name for name in model.parameters())
    with torch.no_grad():
        for weight in model.parameters().values():
            weight.add_(0.1)
    moved = model.statistics(batch).log_prob.detach()
    assert not torch.allclose(moved, before)
    torch.testing.assert_close(model.statistics(batch, reference=True).log_prob, before)
    model.save(tmp_path / "adapter")
    torch.testing.assert_close(load_model(tmp_path / "adapter").statistics(batch).log_prob, moved)


def test_an_adapter_of_another_base_is_refused(tiny, tmp_path):
    pytest.importorskip("peft")
    from surefoot.models.language.nano import Nano, fresh

    tiny.save(tmp_path / "base")
    LanguageModel(with_lora(load_model(tmp_path / "base").network, 4), tiny.tokenizer).save(tmp_path / "adapter")
    fresh(Nano(width=32, layers=2, heads=2, context=64, warmup=0)).save(tmp_path / "base")
    with pytest.raises(UsageError, match="does not fit its base"):
        load_model(tmp_path / "adapter")


def test_what_cannot_be_loaded_says_what_can(tmp_path):
    with pytest.raises(UsageError, match="'nano'"):
        load_model(tmp_path / "nothing")


def test_what_was_read_from_a_gguf_file_can_be_saved(tiny, tmp_path, monkeypatch):
    tiny.save(tmp_path / "base")
    quantizer = SimpleNamespace(quantization_config=SimpleNamespace(quant_method="gguf"))

    def read(name, gguf_file, **options):  # which leaves the network marked, as transformers does
        network = original(name, **options)
        network.hf_quantizer = quantizer
        return network

    models = transformers.AutoModelForCausalLM
    original = models.from_pretrained
    monkeypatch.setattr(models, "from_pretrained", read)
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda *_, **__: tiny.tokenizer)
    marked = read(tmp_path / "base", "weights.gguf")
    with pytest.raises(ValueError, match="quantized"):
        marked.save_pretrained(tmp_path / "refused")
    found = load_model(tmp_path / "base", gguf_file="weights.gguf")
    again = original(found.save(tmp_path / "saved"))
    for one, other in zip(again.parameters(), tiny.network.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_tokenizer_without_an_end_is_refused(tiny):
    tiny.tokenizer.eos_token = None
    with pytest.raises(UsageError, match="end-of-sequence"):
        LanguageModel(tiny.network, tiny.tokenizer)


def test_a_tokenizer_beyond_the_vocabulary_is_refused(tiny):
    tiny.tokenizer.add_special_tokens({"eos_token": "<another end>"})
    with pytest.raises(UsageError, match="outside the model's vocabulary"):
        LanguageModel(tiny.network, tiny.tokenizer)


def test_text_survives_the_tokenizer(tiny):
    text = "make 24 from 3 4: (3+4)*2!\n ~end "
    assert tiny.decode([tiny.encode([text])[0]]) == [text]
    (written,) = tiny.encode_completions(["12"])
    assert written[-1] == tiny.tokenizer.eos_token_id and tiny.decode([written]) == ["12"]
