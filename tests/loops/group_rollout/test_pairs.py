"""Learning from pairs: data in every usual form, the loss of whole answers, a reference that is read once."""

from __future__ import annotations

import json

import pytest
import torch

pytest.importorskip("transformers", reason="language models need surefoot[language]")

import surefoot as sf
from surefoot.envs.language import resolve
from surefoot.envs.language.pairs import Pairs
from surefoot.errors import UsageError
from surefoot.loops.group_rollout.learner import LanguageLearner
from surefoot.loops.group_rollout.rewards import make_rewards
from surefoot.methods.language.baselines import GRPO
from surefoot.methods.preference.baselines import CPO, DPO, IPO, SimPO
from surefoot.methods.preference.rdpo import RDPO
from surefoot.models.language.generation import generate
from surefoot.models.language.nano import Nano, fresh
from surefoot.models.language.sequences import join

TINY = Nano(width=16, layers=1, heads=2, context=48, warmup=0)
ROWS = [{"prompt": f"{i}+1=", "chosen": f"{i + 1}", "rejected": f"{i * 7 % 10}, or so"} for i in range(20)]
TASK = resolve(ROWS)


def learner(method, task=TASK, **settings):
    model = settings.pop("model", None) or fresh(TINY, seed=1)
    return LanguageLearner(method, model, task, make_rewards(task, None, None), generate, **settings)


def test_a_step_lowers_the_loss_by_hand():
    run = learner(DPO(prompts=4, beta=0.5), learning_rate=1e-2)
    model, index = run.model, run.next_prompts(4)
    run.drawn = 0
    examples = [TASK.example(int(i)) for i in index]
    prompts = model.encode([e.prompt for e in examples for _ in range(2)])
    texts = [t for e in examples for t in (e.fields["chosen"], e.fields["rejected"])]
    pairs = join(prompts, model.encode_completions(texts))

    def by_hand():
        summed = model.statistics(pairs).log_prob.sum(1).view(4, 2)
        return summed

    reference = by_hand().detach()
    first = run.iterate()[0]
    assert first["loss"] == pytest.approx(0.693147, abs=1e-5)  # the model is its own reference
    now = by_hand() - reference
    expected = torch.nn.functional.softplus(-0.5 * (now[:, 0] - now[:, 1])).mean()
    run.drawn = 0  # the same pairs again
    second = run.iterate()[0]
    assert second["loss"] == pytest.approx(float(expected), abs=1e-5) and second["loss"] < first["loss"]
    assert second["margin"] == pytest.approx(0.5 * float((now[:, 0] - now[:, 1]).mean()), abs=1e-5)
    assert second["accuracy"] == pytest.approx(float((now[:, 0] > now[:, 1]).float().mean()))


@pytest.mark.parametrize("method", [DPO(prompts=6), IPO(prompts=6, per_token=True), SimPO(prompts=6), CPO(prompts=6)])
def test_gradients_do_not_depend_on_pieces(method):
    import dataclasses

    found = []
    for tokens in (None, 60, 1):
        run = learner(dataclasses.replace(method, micro_tokens=tokens, max_grad_norm=None))
        rollout, _ = run.collect()
        found.append(run.gradient(run.method.terms(rollout)))
    for other in found[1:]:
        for name, x in found[0].items():
            torch.testing.assert_close(other[name], x, rtol=1e-4, atol=1e-6)
    assert any(bool(x.any()) for x in found[0].values())


def test_the_reference_is_read_once_for_each_pair(monkeypatch):
    run, read = learner(DPO(prompts=9), learning_rate=1e-2), []
    statistics = type(run.model).statistics

    def counted(self, sequences, *, reference=False, **settings):
        read.extend([len(sequences)] if reference else [])
        return statistics(self, sequences, reference=reference, **settings)

    monkeypatch.setattr(type(run.model), "statistics", counted)
    for _ in range(6):
        run.iterate()
    assert sum(read) == 2 * TASK.size == 36
    assert not run.memory["reference"].isnan().any()


def test_stopped_and_loaded_it_goes_on_to_the_same_bits_with_what_it_knows():
    runs = [learner(RDPO(prompts=5), learning_rate=1e-3) for _ in range(2)]
    for _ in range(3):
        runs[0].iterate()
    runs[1].load(runs[0].state(), 3, 0)
    assert [runs[0].iterate() for _ in range(2)] == [runs[1].iterate() for _ in range(2)]
    assert all(torch.equal(x, runs[1].state()[name]) for name, x in runs[0].state().items())


def test_no_completion_is_generated():
    def never(*_, **__):
        raise AssertionError

    run = LanguageLearner(DPO(prompts=4), fresh(TINY), TASK, make_rewards(TASK, None, None), never)
    assert "return_mean" not in run.iterate()[0]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "2+2=", "chosen": "4", "rejected": "5"},
        {"chosen": "2+2=4", "rejected": "2+2=5"},
        {
            "prompt": [{"role": "user", "content": "2+2="}],
            "chosen": [{"role": "assistant", "content": "4"}],
            "rejected": [{"role": "assistant", "content": "5"}],
        },
        {
            "chosen": [{"role": "user", "content": "2+2="}, {"role": "assistant", "content": "4"}],
            "rejected": [{"role": "user", "content": "2+2="}, {"role": "assistant", "content": "5"}],
        },
    ],
)
def test_pairs_in_all_forms_that_people_have(row):
    found = Pairs([{**row, "group": "b"}], "rows")[0]
    prompt = found["prompt"] if isinstance(found["prompt"], str) else found["prompt"][-1]["content"]
    assert (prompt, found["chosen"], found["rejected"], found["group"]) == ("2+2=", "4", "5", "b")
    assert found["demonstration"] == "4"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "a", "chosen": "x", "rejected": "x"}, "row 2: chosen and rejected are identical"),
        ({"prompt": "a", "chosen": "", "rejected": "x"}, "row 2: the chosen answer is empty"),
        ({"prompt": "a", "chosen": "x", "rejected": ""}, "row 2: the rejected answer is empty"),
        ({"prompt": "a", "chosen": "x", "rejected": 3}, "row 2: chosen and rejected must both be texts"),
        ({"chosen": "x", "rejected": "y"}, "row 2 has no prompt, and its answers begin differently"),
        ({"chosen": "x", "rejected": [{"role": "user", "content": "x"}]}, "row 2: one answer is text"),
        (
            {"prompt": "a", "chosen": "x", "rejected": [{"role": "user", "content": "y"}]},
            "row 2: an answer must be one message of the assistant",
        ),
    ],
)
def test_damaged_pairs_are_named_before_training(row, said):
    with pytest.raises(UsageError, match=said):
        resolve([ROWS[0], row, *ROWS[1:4]])


def test_a_task_without_pairs_is_refused():
    with pytest.raises(UsageError, match="learns from pairs, but the task has none"):
        sf.train("dpo", task="arithmetic:digits=1", model=fresh(TINY), steps=1)


def test_a_run_from_a_file_and_its_evaluation(tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(map(json.dumps, ROWS)))
    run = sf.train("rdpo", data=file, model=fresh(TINY), steps=3, label_noise=0.2, run_dir=tmp_path / "run")
    rows = run.metrics()
    assert [round(row["loss"], 3) for row in rows][0] == pytest.approx(0.693, abs=2e-3)
    assert {"accuracy", "margin", "chosen", "rejected"} <= rows[0].keys()
    assert "1 − 2·0.2" in json.loads((run.path / "config.json").read_text())["objective"]


def test_pairs_longer_than_the_model_reads_are_named():
    long = [{"prompt": "a", "chosen": "x" * 60, "rejected": "y"}, *ROWS[:3]]
    with pytest.raises(UsageError, match="row 1: .*61|63|62"):
        sf.train("dpo", data=long, model=fresh(TINY), steps=1)


def test_methods_on_completions_take_the_chosen_answers_as_demonstrations():
    assert TASK.example(0).demonstration == TASK.example(0).fields["chosen"]
    assert GRPO().learned(TASK.example(0)) == []
