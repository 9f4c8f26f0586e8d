"""Models of other makers: what is read of their layers is what they say themselves, or they are refused."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
import transformers

from surefoot.envs.language import resolve
from surefoot.errors import UsageError
from surefoot.loops.group_rollout.language import LanguageOptions, make_model
from surefoot.loops.group_rollout.learner import LanguageLearner
from surefoot.loops.group_rollout.rewards import make_rewards
from surefoot.methods.language.baselines import GRPO
from surefoot.models.language.generation import conversing, generate
from surefoot.models.language.loading import with_lora
from surefoot.models.language.model import LanguageModel
from surefoot.models.language.nano import characters
from surefoot.models.language.sequences import join

TOKENIZER = characters()
SIZES = {
    "vocab_size": len(TOKENIZER),
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": TOKENIZER.pad_token_id,
    "bos_token_id": TOKENIZER.bos_token_id,
    "eos_token_id": TOKENIZER.eos_token_id,
}
GPT2 = {"vocab_size": len(TOKENIZER), "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64, "eos_token_id": 2}
CONFIGS = {
    "granite": lambda: transformers.GraniteConfig(**SIZES, logits_scaling=8.0),
    "cohere": lambda: transformers.CohereConfig(**SIZES, logit_scale=0.0625),
    "gemma2": lambda: transformers.Gemma2Config(**SIZES, head_dim=8, sliding_window=5, final_logit_softcapping=2.0),
    "gpt2": lambda: transformers.GPT2Config(**GPT2, bos_token_id=1),
}


def made(name: str) -> LanguageModel:
    """A model of that kind whose likelihoods are far from even."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = transformers.AutoModelForCausalLM.from_config(CONFIGS[name]())
        for weight in network.parameters():
            weight.data.add_(0.3 * torch.randn_like(weight))
    return LanguageModel(network.eval(), TOKENIZER)


@pytest.mark.parametrize("name", CONFIGS)
def test_likelihoods_are_those_of_its_own_logits(name):
    model = made(name).check()
    prompts, texts = model.encode(["abcdefghijklmno="] * 2 + ["xy="]), model.encode_completions(["hello", "a", "zzz"])
    batch = join(prompts, texts)
    found = model.statistics(batch, temperature=0.7).log_prob[batch.valid]
    logits = [model.network(input_ids=torch.tensor([p + t])).logits[0] / 0.7 for p, t in zip(prompts, texts)]
    wanted = [x.log_softmax(-1)[len(p) - 1 : -1].gather(1, torch.tensor(t)[:, None])
              for x, p, t in zip(logits, prompts, texts)]  # fmt: skip
    torch.testing.assert_close(found, torch.cat(wanted).flatten(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_second_turn_is_written_on_what_is_remembered_or_where_a_window_forgets_on_what_is_read_again(name):
    model, uniform = made(name), torch.rand(2, 2, 6)
    prompts, said = model.encode(["abc:", "what is it?"]), model.encode(["!", "[no, again]"] * 2)
    found = []
    for engine in (conversing(generate), generate):
        first = engine(model, prompts, uniform, temperature=1.0)
        rows = [[*prompts[i // 2], *first.tokens[i], *said[i]] for i in range(4)]
        found.append(engine(model, rows, uniform.flatten(0, 1)[:, None], temperature=1.0))
    one, other = found
    assert one.tokens == other.tokens
    for x, y in zip(one.log_prob, other.log_prob, strict=True):
        assert x == pytest.approx(y, abs=1e-4)


def test_logits_that_are_changed_in_an_unknown_way_are_refused():
    model = made("gemma2")
    model.network.lm_head.register_forward_hook(lambda layer, given, logits: 3 * logits)
    with pytest.raises(UsageError, match="changes its logits in an unsupported way"):
        make_model(model, None, LanguageOptions(device="cpu"), 0)


def test_a_running_state_is_refused():
    sizes = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8}
    sizes |= {"linear_value_head_dim": 8, "head_dim": 8, "num_experts": 2, "num_experts_per_tok": 1}
    sizes |= {"moe_intermediate_size": 16, "shared_expert_intermediate_size": 16}
    network = transformers.AutoModelForCausalLM.from_config(transformers.Qwen3NextConfig(**SIZES, **sizes))
    with pytest.raises(UsageError, match="give a model with attention in all layers"):
        LanguageModel(network, TOKENIZER).check()


def varied(completions, **fields):
    return [sum(map(ord, text)) % 7 / 7 for text in completions]


def learner(model: LanguageModel, **settings) -> LanguageLearner:
    method, task = GRPO(prompts=2, samples=4, max_tokens=6, **settings), resolve("arithmetic")
    return LanguageLearner(method, model, task, make_rewards(task, varied, None), generate, learning_rate=1e-3)


def test_learning_is_without_dropout():
    """So it repeats itself, and before the first step nothing has moved."""
    found = []
    for seed in (1, 2):
        model = made("gpt2")
        assert model.network.config.attn_pdrop == 0.1
        run = learner(model, kl=0.1, minibatches=2)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            (row,) = run.iterate()
        found.append([w.detach().clone() for w in run.weights.values()])
    assert all(map(torch.equal, *found))
    still = learner(made("gpt2"), kl=0.1, minibatches=2)
    still.learning_rate = 0.0
    (row,) = still.iterate()
    assert row["kl"] == pytest.approx(0, abs=1e-6) and row["clip_fraction"] == 0


def test_steps_smaller_than_the_spacing_of_half_precision_add_up():
    model = made("gpt2")
    model.network.to(torch.bfloat16)
    run = learner(model)
    run.learning_rate = 1e-5
    first = {name: w.detach().clone() for name, w in run.weights.items()}
    for _ in range(3):
        run.iterate()
    for name, weight in run.weights.items():
        assert weight.dtype == torch.bfloat16 and torch.equal(weight, run.masters[name].bfloat16())
    moved = [(run.masters[name] != first[name].float()).float().mean() for name in first if ".h." in name]
    assert min(moved) > 0.9  # of what every token meets
    other = learner(deepcopy(model))
    other.load(run.state(), run.iteration, 0)
    assert all(torch.equal(other.masters[name], w) for name, w in run.masters.items())
    other.learning_rate = run.learning_rate
    assert run.iterate() == other.iterate()
    assert all(map(torch.equal, run.weights.values(), other.weights.values()))


def test_an_adapter_that_has_learned_is_compared_with_as_it_was():
    pytest.importorskip("peft")
    model = made("gemma2")
    model.network = with_lora(model.network, 2)
    for name, weight in model.parameters().items():
        weight.data.add_(0.1 if "lora_B" in name else 0.0)
    batch = join(model.encode(["ab="]), model.encode_completions(["cd"]))
    before = model.statistics(batch).log_prob.detach()
    model.keep_reference()
    for weight in model.parameters().values():
        weight.data.add_(0.1)
    torch.testing.assert_close(model.statistics(batch, reference=True).log_prob, before)
    assert not torch.allclose(model.statistics(batch).log_prob, before)
    shared = {id(w) for w in model.base.parameters()} & {id(w) for w in model.reference.parameters()}
    assert len(shared) == sum(not w.requires_grad for w in model.network.parameters())


def test_one_adapter_is_enough_and_leaves_the_output_layer_alone():
    peft = pytest.importorskip("peft")
    plain = made("gemma2")
    given, rate = make_model(plain, None, LanguageOptions(lora=2, device="cpu"), 0)
    assert given.adapted and not plain.adapted and rate == 1e-5
    with pytest.raises(UsageError, match="the model already has an adapter"):
        make_model(given, None, LanguageOptions(lora=2, device="cpu"), 0)
    targets = peft.LoraConfig(r=2, target_modules=["q_proj", "lm_head"], task_type="CAUSAL_LM")
    with pytest.raises(UsageError, match="leave the output layer out of its target_modules"):
        LanguageModel(peft.get_peft_model(plain.network, targets), TOKENIZER)
