"""Reward models: transformers' own scores, files that it loads, and their use as a reward function."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers", reason="language models need surefoot[language]")

import transformers

import surefoot as sf
from surefoot.errors import UsageError
from surefoot.models.language.nano import Nano, characters, fresh
from surefoot.models.language.reward_model import RewardModel, load_reward_model

TINY = Nano(width=16, layers=1, heads=2, context=48, warmup=0)


def made(labels=1):
    tokenizer = characters()
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_labels=labels,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return RewardModel(transformers.LlamaForSequenceClassification(config), tokenizer)


def test_scores_are_those_of_the_network_alone_and_padding_changes_nothing():
    model = made()
    found = model(["1+1=", "22+3="], ["2", "25, I think"])
    for text, score in zip(["1+1=2", "22+3=25, I think"], found, strict=True):
        alone = model.network(torch.tensor([model.tokenizer(text).input_ids])).logits
        assert score == pytest.approx(float(alone), abs=1e-5)


def test_files_are_those_of_transformers_and_load_again(tmp_path):
    model = made()
    model.save(tmp_path)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert theirs.config.num_labels == 1
    again = load_reward_model(tmp_path, "cpu")
    assert again(["1+1="], ["2"]) == pytest.approx(model(["1+1="], ["2"]))


def test_a_run_is_rewarded_by_a_folder(tmp_path):
    folder = made().save(tmp_path / "judge")
    run = sf.train(
        "grpo",
        task="arithmetic:digits=1",
        model=fresh(TINY),
        reward=f"reward-model:{folder}",
        steps=1,
        prompts=2,
        samples=2,
        max_tokens=3,
        run_dir=tmp_path / "run",
    )
    assert run.metrics()[0]["return_mean"] != 0
    assert sf.evaluate(run.path, episodes=2, k=(1,))["examples"] == 2


def test_messages_go_through_the_chat_template():
    model = made()
    asked = [{"role": "user", "content": "1+1="}]
    with pytest.raises(UsageError, match="no chat template"):
        model([asked], ["2"])
    model.tokenizer.chat_template = "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}"
    whole = model([asked], [[{"role": "assistant", "content": "2"}]])
    assert model([asked], ["2"]) == whole


def test_mistakes_are_named(tmp_path):
    with pytest.raises(UsageError, match="this one has 2"):
        made(labels=2)
    with pytest.raises(UsageError, match="could not be loaded"):
        load_reward_model(tmp_path)
    with pytest.raises(UsageError, match=r"sf.language.RewardModel\(network, tokenizer\)"):
        sf.train("grpo", task="arithmetic", model=fresh(TINY), reward=made().network, steps=1)
