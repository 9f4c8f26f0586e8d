"""vLLM as an engine, by a stand-in that records what it is asked and writes with the weights that it is handed."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

import surefoot as sf
from surefoot.errors import UsageError
from surefoot.models.language.generation import generate
from surefoot.models.language.loading import with_lora
from surefoot.models.language.model import LanguageModel
from surefoot.models.language.nano import Nano, fresh
from surefoot.models.language.sequences import join
from surefoot.models.language.vllm_engine import VLLM, weights

PROMPTS = [[1, 30, 31, 32], [1, 40]]
TINY = Nano(width=16, layers=2, heads=2, context=64, warmup=0)


class StandIn(ModuleType):
    """A module `vllm` whose model is a random one of our own; it writes by our own engine."""

    def __init__(self, version: str = "0.31.0", reason: str | None = None) -> None:
        super().__init__("vllm")
        self.__version__, self.reason, self.said = version, reason, list[str]()
        self.model = fresh(TINY, seed=9)
        self.SamplingParams = lambda **given: SimpleNamespace(**given)

    def LLM(self, **given):  # noqa: N802 (vLLM's name)
        from transformers import AutoConfig, AutoTokenizer

        self.given = given
        assert AutoConfig.from_pretrained(given["model"]).architectures == ["LlamaForCausalLM"]
        assert AutoTokenizer.from_pretrained(given["model"]).eos_token_id == 2
        runner = SimpleNamespace(model=SimpleNamespace(load_weights=self.load))
        executor = SimpleNamespace(driver_worker=SimpleNamespace(model_runner=runner))
        self.llm_engine = SimpleNamespace(model_executor=executor)
        return self

    def load(self, handed):
        self.said.append("weights")
        mine = dict(self.model.network.named_parameters())
        for name, weight in handed:
            mine.pop(name).data.copy_(weight)
        assert not mine

    def reset_prefix_cache(self):
        self.said.append("cache")

    def generate(self, prompts, params, use_tqdm):
        self.said.append("writing")
        self.params = params
        return [self.answer(prompt["prompt_token_ids"], one) for prompt, one in zip(prompts, params, strict=True)]

    def answer(self, prompt, asked):
        uniform = torch.rand(1, 1, asked.max_tokens, generator=torch.Generator().manual_seed(asked.seed))
        found = generate(self.model, [prompt], uniform, temperature=asked.temperature, stop=asked.stop)
        (tokens,), (log_prob,), (finished,) = found.tokens, found.log_prob, found.finished
        places = [{token: SimpleNamespace(logprob=x)} for token, x in zip(tokens, log_prob)]
        reason = self.reason or ("stop" if finished else "length")
        return SimpleNamespace(
            outputs=[SimpleNamespace(token_ids=tuple(tokens), logprobs=places, finish_reason=reason)]
        )


@pytest.fixture
def stand_in(monkeypatch):
    def install(**given):
        made = StandIn(**given)
        monkeypatch.setitem(sys.modules, "vllm", made)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            monkeypatch.setenv(name, "0")  # taken back afterwards
            monkeypatch.delenv(name)
        return made

    return install


def numbers(seed=0, samples=3):
    return torch.rand(2, samples, 8, generator=torch.Generator().manual_seed(seed))


def test_it_is_handed_the_weights_before_each_writing(stand_in, tiny):
    vllm, engine = stand_in(), VLLM()
    for seed in (1, 5):  # the weights change between the writings
        tiny.network.load_state_dict(fresh(TINY, seed=seed).network.state_dict())
        found = engine(tiny, PROMPTS, numbers(), temperature=0.7)
        batch = join([p for p in PROMPTS for _ in range(3)], found.tokens)
        learned = tiny.statistics(batch, temperature=0.7).log_prob[batch.valid]
        written = torch.tensor([x for row in found.log_prob for x in row])
        torch.testing.assert_close(written, learned, rtol=1e-5, atol=1e-5)
    assert vllm.said == ["weights", "cache", "writing"] * 2


def test_finished_and_cut_off_are_told_apart(stand_in, tiny):
    stand_in()
    with torch.no_grad():
        tiny.network.get_output_embeddings().weight[2] *= 3  # some rows end, some do not
    found = VLLM()(tiny, PROMPTS, numbers(samples=16), temperature=1.5)
    assert {True, False} == {*found.finished}
    assert all(end == (row[-1] == 2) for row, end in zip(found.tokens, found.finished, strict=True))


def test_what_it_is_asked(stand_in, tiny):
    vllm, engine = stand_in(), VLLM()
    tiny.base.generation_config.eos_token_id = [9, 2]
    first = engine(tiny, PROMPTS, numbers(), temperature=0.7, stop=("!",))
    for asked in vllm.params:
        assert (asked.temperature, asked.max_tokens, asked.logprobs, asked.stop) == (0.7, 8, 0, ["!"])
        assert asked.ignore_eos and asked.stop_token_ids == [2, 9]
    assert len({asked.seed for asked in vllm.params}) == 6
    assert first == engine(tiny, PROMPTS, numbers(), temperature=0.7, stop=("!",))
    assert first.tokens != engine(tiny, PROMPTS, numbers(1), temperature=0.7, stop=("!",)).tokens
    assert vllm.given["load_format"] == "dummy" and vllm.given["dtype"] == "float32"
    assert vllm.given["logprobs_mode"] == "processed_logprobs"
    assert vllm.given["distributed_executor_backend"] == "external_launcher"


def test_an_adapter_is_handed_over_inside_the_weights():
    pytest.importorskip("peft")
    made = fresh(TINY, seed=1)
    model = LanguageModel(with_lora(made.network, 2), made.tokenizer)
    with torch.no_grad():
        for weight in model.parameters().values():
            weight.normal_()
    handed = {name: weight.clone() for name, weight in weights(model)}
    merged = dict(model.network.merge_and_unload().named_parameters())
    assert handed.keys() == merged.keys()
    for name, weight in merged.items():
        torch.testing.assert_close(handed[name], weight)
    name = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(handed[name], dict(weights(fresh(TINY, seed=1)))[name])


def test_completions_that_were_not_written_are_an_error(stand_in, tiny):
    stand_in(reason="abort")
    with pytest.raises(UsageError, match=r"failed to generate 6 of 6 completions \(abort\)"):
        VLLM()(tiny, PROMPTS, numbers(), temperature=1.0)


def refused(tmp_path) -> str:
    """What a run says that asks for it; no model is looked for."""
    with pytest.raises(UsageError) as told:
        sf.train("grpo", task="arithmetic", engine="vllm", model=tmp_path / "nothing", run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    return str(told.value)


def test_it_is_refused_before_any_work(stand_in, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "vllm", None)
    assert "pip install vllm, or use engine='own'" in refused(tmp_path)
    for version in ("0.21.3", "0.32.0", "1.0.0"):
        stand_in(version=version)
        assert f"vLLM 0.22 to 0.31, but {version} is installed" in refused(tmp_path)
    stand_in(version="0.22.0+cu129")
    assert "could not be loaded" in refused(tmp_path)  # it would do, so the model is looked for
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "needs a GPU, and torch finds none here" in refused(tmp_path)


def test_a_run_learns_from_what_it_writes(stand_in, tmp_path):
    vllm = stand_in()
    run = sf.train(
        "grpo",
        task="arithmetic",
        model=fresh(TINY, seed=1),
        engine="vllm",
        device="cpu",
        reward=lambda completions, **_: [sum(map(ord, text)) % 7 / 7 for text in completions],
        steps=2,
        prompts=2,
        samples=4,
        max_tokens=4,
        learning_rate=1e-2,
        loggers=(),
        run_dir=tmp_path / "run",
    )
    assert vllm.said == ["weights", "cache", "writing"] * 2
    assert all(row["engine_gap"] < 1e-4 for row in run.metrics())
