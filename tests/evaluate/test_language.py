"""Accuracy and pass@k of language models."""

from __future__ import annotations

import json
import math
import re
import warnings
from itertools import combinations

import numpy as np
import pytest

pytest.importorskip("transformers", reason="language models need surefoot[language]")

import surefoot as sf
from surefoot.envs.language import resolve
from surefoot.errors import UsageError
from surefoot.evaluate.language import evaluate_language, pass_at_k
from surefoot.loops.group_rollout.rewards import Judged, make_rewards
from surefoot.models.language.agent import LanguageAgent, _prompt
from surefoot.models.language.nano import Nano, fresh
from surefoot.seeding import MAX_SEED

TINY = Nano(width=16, layers=1, heads=2, context=64, warmup=0)


@pytest.fixture(scope="module")
def agent():
    return LanguageAgent(fresh(TINY), {"max_tokens": 4, "temperature": 1.0, "env": {"env": "arithmetic"}})


@pytest.mark.parametrize("k", [1, 2, 5, 6])
def test_pass_at_k_is_the_share_of_all_subsets_with_a_success(k):
    for solved in range(7):
        outcomes = [1] * solved + [0] * (6 - solved)
        wanted = np.mean([any(chosen) for chosen in combinations(outcomes, k)])
        assert pass_at_k(np.array([solved]), 6, k)[0] == pytest.approx(wanted)


def test_who_was_trained_for_judges_and_sees_tokens(agent):
    seen = []

    def brief(completion_ids, **_):
        seen.extend(completion_ids)
        return [1.0 if len(ids) < 4 else 0.25 for ids in completion_ids]

    task = Judged(make_rewards(resolve("arithmetic:digits=1"), [brief], None))
    report = evaluate_language(agent, task, 6, (2,))
    lengths = np.array([len(ids) for ids in seen])
    assert report.accuracy == pytest.approx(np.mean(lengths[:6] < 4))
    assert report.reward == pytest.approx(np.mean(np.where(lengths[6:] < 4, 1.0, 0.25)))
    assert report.length == pytest.approx(lengths[6:].mean())
    assert "judged by brief; a success is a reward of at least 1" in report.table()
    with pytest.warns(UserWarning, match=r"completion_ids.*k=\(1,\)"):
        assert task.reward(task.example(0), "12345") == 0.25
    assert "the verifier of arithmetic" in evaluate_language(agent, "arithmetic", 2, 1).table()


@pytest.mark.parametrize(
    ("rewards", "said"),
    [
        ((-3.0, -1.5), "between -3 and -1.5: none of them is at least 1"),
        ((5.0, 9.0), "between 5 and 9: all of them are at least 1"),
        ((-1.0, 1.0), None),
        ((0.0, 0.5), None),
    ],
)
def test_rewards_on_a_scale_that_the_threshold_does_not_fit_are_warned_of(rewards, said, agent):
    given = [float(x) for x in rewards]
    task = Judged(
        make_rewards(resolve("arithmetic"), [lambda completions, **_: (given * 99)[: len(completions)]], None)
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        evaluate_language(agent, task, 4, 2)
    found = [str(w.message) for w in caught if "pass@k say nothing" in str(w.message)]
    assert len(found) == (said is not None) and all(said in one for one in found)


def test_examples_of_an_endless_task_that_are_too_long_are_passed_over(agent):
    task = resolve("sorting:50")
    long = [len(agent.model.encode([task.example(i, "test").prompt])[0]) + 4 > TINY.context for i in range(20)]
    assert any(long[:3]) and not all(long)
    assert evaluate_language(agent, task, 3, 1).examples == 3
    with pytest.raises(UsageError, match="the model reads 64"):
        evaluate_language(LanguageAgent(agent.model, {"max_tokens": 63}), "arithmetic", 3, 1)


def test_a_report_is_the_same_for_the_same_seed_and_grows_with_k(agent):
    one, again = (evaluate_language(agent, "arithmetic:digits=1", 12, (1, 4), seed=3) for _ in range(2))
    assert one == again and one.pass_at[4] >= one.pass_at[1]
    assert one.length <= 4 and 0 < one.entropy < np.log(100) and 0 <= one.truncated <= 1
    assert "pass@4" in one.table() and len(one.samples) == 5


def test_evaluation_as_episodes_sees_the_same_task(agent):
    figures = sf.evaluate(agent, "arithmetic:digits=1", 8)
    assert figures["env"] == "arithmetic:digits=1,terms=3" and figures["episodes"] == 8 and 0 <= figures["mean"] <= 1
    assert "pass@2" in sf.evaluate(agent, task="arithmetic:digits=1", episodes=8, k=(2,))["table"]


def test_wrong_numbers_are_refused_before_anything_is_written(agent):
    for wrong in ((0,), (), (True,), (1.5,), "1,4", -1, 2.5, None):
        with pytest.raises(UsageError, match=re.escape(f"k={wrong!r}, examples=4 is not allowed")):
            evaluate_language(agent, "arithmetic", 4, wrong)
    with pytest.raises(UsageError, match="seed=-1 is not allowed"):
        evaluate_language(agent, "arithmetic", 4, seed=-1)
    assert evaluate_language(agent, "arithmetic", 4, 2) == evaluate_language(agent, "arithmetic", 4, (2,))
    for wrong in (0, True, "", 2.5, None):
        with pytest.raises(UsageError, match=re.escape(f"k={wrong!r}, examples=4 is not allowed")):
            sf.evaluate(agent, "arithmetic", 4, k=wrong)
    with pytest.raises(UsageError, match="language models"):
        sf.evaluate(lambda observations: observations, "CartPole-v1", k=(1,))


def test_the_last_seed_is_enough_for_many_batches(agent, monkeypatch):
    monkeypatch.setattr("surefoot.evaluate.language.BATCH", 1)
    assert evaluate_language(agent, "arithmetic", 3, seed=MAX_SEED).examples == 3


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_tokens": 0},
        {"max_tokens": 2.5},
        {"temperature": -0.5},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"temperature": "hot"},
        {"samples": 0},
        {"seed": -1},
        {"prompts": []},
        {"prompts": "1+1="},
    ],
    ids=str,
)
def test_what_cannot_be_written_is_refused(agent, wrong):
    with pytest.raises(UsageError, match=re.escape("{}={!r} is not allowed".format(*next(iter(wrong.items()))))):
        agent.texts(**{"prompts": ["1+1="], **wrong})


def test_what_only_environments_have_is_refused(agent, tmp_path):
    with pytest.raises(UsageError, match="perturb is not allowed for a language model: .* evaluate it on another task"):
        sf.stress(agent, "arithmetic", perturb="observation-noise:0.1")
    with pytest.raises(UsageError, match="video is not allowed for a language model: there is nothing to film"):
        sf.evaluate(agent, "arithmetic", 1, video=tmp_path / "film.gif")
    with pytest.raises(UsageError, match="video is not allowed with k"):
        sf.evaluate(agent, "arithmetic", 1, k=1, video=tmp_path / "film.gif")


def test_an_agent_survives_its_folder(agent, tmp_path):
    agent.save(tmp_path)
    loaded = sf.load(tmp_path)
    assert loaded.texts(["1+1="], temperature=0.0) == agent.texts(["1+1="], temperature=0.0)
    assert loaded.facts["max_tokens"] == 4


def test_no_held_out_example_counts_twice(agent, tmp_path):
    rows = [{"prompt": f"{i}+0=", "answer": str(i)} for i in range(20)]
    (tmp_path / "sums.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = evaluate_language(agent, str(tmp_path / "sums.jsonl"), examples=100, k=(1,))
    assert found.examples == 2


def test_more_attempts_than_samples_are_refused():
    with pytest.raises(UsageError, match=r"k=4 is not allowed with 2 samples per problem; it must be in \[1, 2\]"):
        pass_at_k(np.array([0, 1, 2]), 2, 4)


@pytest.mark.parametrize("messages", [[{"content": "hi", "role": "user"}], [{"role": "user", "content": "hi"}]])
def test_messages_are_prompts_in_whatever_order_they_are_written(messages):
    assert _prompt(json.dumps(messages)) == messages
    for text in ('[{"role" is what?', "[{}]", "1+1="):
        assert _prompt(text) == text
