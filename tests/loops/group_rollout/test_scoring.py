"""Training reward models: the loss of scores by hand, ensembles, files for transformers, and the runs they reward."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

pytest.importorskip("transformers", reason="language models need surefoot[language]")

import transformers

import surefoot as sf
from surefoot import cli, training
from surefoot.envs.language import resolve
from surefoot.errors import UsageError
from surefoot.loops.group_rollout.learner import LanguageLearner
from surefoot.loops.group_rollout.rewards import make_rewards
from surefoot.methods.preference.reward_model import RewardModelling
from surefoot.models.language.generation import generate
from surefoot.models.language.lora import LoRA, with_lora
from surefoot.models.language.model import LanguageModel
from surefoot.models.language.nano import Nano, characters, fresh
from surefoot.models.language.reward_model import RewardModel, load_reward_model

TINY = Nano(width=16, layers=1, heads=2, context=48, warmup=0)
ROWS = [{"prompt": f"{i}+1=", "chosen": f"{i + 1}", "rejected": f"{i * 7 % 10}, or so"} for i in range(20)]
TASK = resolve(ROWS)


def learner(method, task=TASK, **settings):
    model = settings.pop("model", None) or fresh(TINY, seed=1)
    return LanguageLearner(method, model, task, make_rewards(task, None, None), generate, **settings)


def scored(run, index):
    """The scores of the chosen and the rejected answers, by the agent that would be saved."""
    examples = [run.task.example(int(i)) for i in index]
    texts = [[e.fields[name] for e in examples] for name in ("chosen", "rejected")]
    return torch.stack([run.agent().scores([e.prompt for e in examples], text) for text in texts], 1)


@pytest.mark.parametrize("margins", [False, True])
def test_the_loss_is_bradley_terrys_with_margins_and_a_pull_towards_0(margins):
    rows = [{**row, "margin": 0.1 * i} for i, row in enumerate(ROWS)] if margins else ROWS
    run = learner(RewardModelling(prompts=5, centring=0.3), resolve(rows))
    index = run.next_prompts(5)
    run.drawn = 0
    won, lost = scored(run, index).squeeze(2).unbind(1)
    margin = torch.tensor([run.task.example(int(i)).fields.get("margin", 0.0) for i in index])
    expected = torch.nn.functional.softplus(margin - (won - lost)) + 0.3 * (won + lost) ** 2
    row = run.iterate()[0]
    assert row["loss"] == pytest.approx(float(expected.mean()), abs=1e-5)
    assert row["accuracy"] == pytest.approx(float((won > lost).float().mean()))
    assert row["margin"] == pytest.approx(float((won - lost).mean()), abs=1e-5)


def test_several_heads_weigh_the_pairs_differently_and_always_the_same():
    run = learner(RewardModelling(prompts=6, heads=3, centring=0.0))
    rollout, _ = run.collect()
    run.drawn = 0
    again, _ = run.collect()
    assert torch.equal(rollout.weight, again.weight) and rollout.weight.std(1).min() > 0
    scores = scored(run, rollout.index)
    losses = torch.nn.functional.softplus(scores[:, 1] - scores[:, 0])
    run.drawn = 0
    row = run.iterate()[0]
    assert row["loss"] == pytest.approx(float((rollout.weight * losses).mean()), abs=1e-5)
    assert row["disagreement"] == pytest.approx(float((scores[:, 0] - scores[:, 1]).std(1).mean()), abs=1e-5)


def test_seeds_give_other_heads_and_the_same_seed_the_same():
    heads = [learner(RewardModelling(heads=2), seed=seed).model.critic.weight for seed in (0, 0, 1)]
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])


@pytest.mark.parametrize("heads", [1, 3])
def test_gradients_do_not_depend_on_pieces(heads):
    found = []
    for tokens in (None, 60, 1):
        run = learner(RewardModelling(prompts=6, heads=heads, micro_tokens=tokens, minibatches=2))
        rollout, _ = run.collect()
        found.append(run.gradient(run.method.terms(rollout)))
    assert found[0]["critic.weight"].any()
    for other in found[1:]:
        for name, x in found[0].items():
            torch.testing.assert_close(other[name], x, rtol=1e-4, atol=1e-6)


def test_a_reward_model_is_trained_saved_read_by_transformers_and_rewards_a_run(tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(map(json.dumps, ROWS)))
    settings = {"steps": 30, "learning_rate": 0.01, "heads": 2, "run_dir": tmp_path / "run"}
    run = sf.train("reward-model", data=file, model=fresh(TINY), **settings)
    assert run.metrics()[-1]["accuracy"] == 1 and run.metrics()[-1]["loss"] < 0.2
    agent = sf.load(run)
    assert agent.facts["method"] == "reward-model" and "2 scores" in repr(agent)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(run.path / "agent")
    tokenizer = transformers.AutoTokenizer.from_pretrained(run.path / "agent")
    assert theirs.config.num_labels == 1 and type(theirs).__name__ == "LlamaForSequenceClassification"
    with torch.no_grad():
        logit = float(theirs(**tokenizer("3+1=4", return_tensors="pt")).logits)
    assert agent(["3+1="], ["4"]) == pytest.approx([logit], abs=1e-4)
    assert agent.scores(["3+1="], ["4"]).mean(1).item() == pytest.approx(logit, abs=1e-4)
    figures = sf.evaluate(run.path)
    assert figures["pairs"] == 2 and figures["pair_accuracy"] == 1 and "accuracy 1.000" in figures["table"]
    common = {"task": "arithmetic:digits=1", "model": fresh(TINY), "steps": 1, "prompts": 2, "samples": 2}
    given = {f"reward-model:{run.path}": 1, f"reward-models:{run.path / 'agent'}": 2, agent: 1, agent.members: 2}
    for number, (reward, components) in enumerate(given.items()):
        rewarded = sf.train("grpo", **common, max_tokens=3, reward=reward, run_dir=tmp_path / f"grpo {number}")
        row, several = rewarded.metrics()[0], components > 1
        assert ("reward/reward_model_1" in row) == several and row["return_mean"] != 0


def test_from_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SUREFOOT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    given = ["--data", str(tmp_path / "pairs.jsonl"), "--nano-warmup", "0", "--run-dir", str(tmp_path / "run")]
    training.train(["reward-model", "--model", "nano", "--steps", "2", "--prompts", "4", *given])
    assert f"surefoot train grpo --reward reward-model:{tmp_path / 'run'}" in capsys.readouterr().out
    cli.evaluate(tmp_path / "run")
    assert "2 held-out pairs\naccuracy" in capsys.readouterr().out
    with pytest.raises(UsageError, match="not a language model that writes"):
        cli.chat(tmp_path / "run")


def test_the_members_of_an_ensemble_read_a_text_once():
    model = RewardModel.of(learner(RewardModelling(heads=3)).model)
    read, whole = [], model.network.base_model.forward

    def counted(*args, **named):
        read.append(len(named["input_ids"]))
        return whole(*args, **named)

    model.network.base_model.forward = counted
    members = model.members
    found = torch.tensor([member(prompts=["1+", "2+"], completions=["1", "2"], answer="3") for member in members])
    assert read == [2] and torch.equal(found.T, model.scores(["1+", "2+"], ["1", "2"]))
    assert [member.__name__ for member in members] == ["reward_model_0", "reward_model_1", "reward_model_2"]


def test_an_adapter_becomes_part_of_the_saved_weights(tmp_path):
    pytest.importorskip("peft", reason="adapters need surefoot[language]")
    model = fresh(TINY, seed=1)
    model.network = with_lora(model.network, LoRA(rank=2), 0)
    run = learner(RewardModelling(prompts=6), model=model, learning_rate=0.03)
    for _ in range(3):
        run.iterate()
    run.agent().save(tmp_path)
    assert not (tmp_path / "adapter_config.json").exists()
    assert load_reward_model(tmp_path, "cpu")(["1+1="], ["2"]) == pytest.approx(run.agent()(["1+1="], ["2"]), abs=1e-5)


def test_gpt2_becomes_a_reward_model_and_what_has_no_classifier_is_refused():
    tokenizer = characters()
    sizes = {"vocab_size": len(tokenizer), "n_positions": 32, "n_embd": 16, "n_layer": 1, "n_head": 2}
    ends = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    network = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **ends))
    run = learner(RewardModelling(prompts=2), model=LanguageModel(network, tokenizer))
    assert run.agent()(["1+"], ["1"]) != run.agent()(["1+"], ["2"])
    small = {"vocab_size": len(tokenizer), "hidden_size": 16, "num_hidden_layers": 1, "state_size": 4, **ends}
    other = LanguageModel(transformers.MambaForCausalLM(transformers.MambaConfig(**small)), tokenizer)
    with pytest.raises(UsageError, match="no sequence classifier for Mamba"):
        learner(RewardModelling(prompts=2), model=other)


def test_mistakes_are_named(tmp_path):
    with pytest.raises(UsageError, match="margin='much'"):
        learner(RewardModelling(), resolve([{**row, "margin": "much"} for row in ROWS])).iterate()
    for setting in ({"beta": 2.0}, {"heads": 0}, {"centring": -1.0}, {"temperature": 0.5}):
        with pytest.raises(UsageError, match=next(iter(setting))):
            dataclasses.replace(RewardModelling(), **setting)
    with pytest.raises(UsageError, match="plays no episodes"):
        sf.train("reward-model", data=ROWS, model=fresh(TINY), steps=1, evaluate_every=1, run_dir=tmp_path / "run")
    RewardModel.of(learner(RewardModelling(heads=2)).model).save(tmp_path / "judge")
    with pytest.raises(UsageError, match="scores answers and plays nothing"):
        sf.stress(tmp_path / "judge", "CartPole-v1", "sticky-action:0..0.5")
    with pytest.raises(UsageError, match="task is missing"):
        sf.evaluate(tmp_path / "judge")
    (tmp_path / "judge" / "heads.safetensors").write_bytes(b"damaged")
    with pytest.raises(UsageError, match="could not be loaded"):
        load_reward_model(tmp_path / "judge")
