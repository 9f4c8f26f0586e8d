"""Reward functions of TRL's signature, their weights, and what is said of those that are wrong."""

from __future__ import annotations

import asyncio
import functools
import math
import time

import numpy as np
import pytest
import torch

from surefoot.envs.language import Example, resolve
from surefoot.envs.language.files import Rows
from surefoot.errors import UsageError
from surefoot.loops.group_rollout.rewards import Judged, make_rewards, successes
from surefoot.loops.group_rollout.rollout import Logged

TASK = resolve("arithmetic")
EXAMPLES = [Example("1+1=", "2", "2", {"level": "easy"}), Example("9+9=", "18", None, {"level": "hard", "by": "x"})]
WRITTEN = ["2", "17"]


def correct(prompts, completions, answer, **fields):
    return [float(a == c) for a, c in zip(answer, completions, strict=True)]


def short(completions, **fields):
    return [-len(c) for c in completions]


def test_without_a_function_the_task_itself_rewards():
    reward, parts = make_rewards(TASK, None, None)(EXAMPLES, WRITTEN)
    assert reward.tolist() == [1, 0] and parts["reward"] is reward


def test_functions_get_what_trls_get_and_are_weighted():
    seen = {}

    def look(**fields):
        seen.update(fields)
        return np.array([3, 4])

    reward, parts = make_rewards(TASK, [correct, short, look], [1, 0.1, 10])(EXAMPLES, WRITTEN)
    torch.testing.assert_close(reward, torch.tensor([1 - 0.1 + 30, 0 - 0.2 + 40]))
    assert {name: x.tolist() for name, x in parts.items()} == {"correct": [1, 0], "short": [-1, -2], "look": [3, 4]}
    assert callable(seen.pop("log_metric")) and callable(seen.pop("log_extra"))
    assert seen == {
        "completion_ids": [[50], [49, 55]],  # bytes, where no tokens are known
        "prompts": ["1+1=", "9+9="],
        "completions": WRITTEN,
        "answer": ["2", "18"],
        "level": ["easy", "hard"],
        "by": [None, "x"],
    }


def test_functions_get_tokens_and_log():
    def brief(completion_ids, log_metric=None, log_extra=None, **fields):
        log_metric("longest", max(map(len, completion_ids)))
        log_extra("length", [*map(len, completion_ids), "no number"])
        return [-len(ids) for ids in completion_ids]

    logged = Logged()
    reward, _ = make_rewards(TASK, brief, None)(EXAMPLES, WRITTEN, [[5, 6, 7], [8]], logged.add)
    assert reward.tolist() == [-3, -1]
    assert Logged.means([logged, Logged()]) == {"log/longest": 3, "log/extra/length": 2}


def test_a_function_is_offered_what_it_did_not_ask_for_only_if_it_takes_anything():
    reward, _ = make_rewards(TASK, lambda prompts, completions, answer, level, by: [1, 2], None)(EXAMPLES, WRITTEN)
    assert reward.tolist() == [1, 2]


def test_coroutines_are_awaited_together_even_where_a_loop_runs():
    waiting = []

    async def judged(completions, **fields):
        waiting.append("in")
        while len(waiting) < 2:  # for the other one
            await asyncio.sleep(0)
        return [1.0, 3.0]

    async def inside():
        return make_rewards(TASK, [judged, judged], None)(EXAMPLES, WRITTEN)[0].tolist()

    assert asyncio.run(inside()) == [2, 6]


@pytest.mark.parametrize("name", ["trainer_state", "environments"])
def test_what_only_trls_trainer_has_is_refused_before_anything_is_written(name):
    scope = {}
    exec(f"def f(completions, {name}=None, **fields): return [0.0 for _ in completions]", scope)
    with pytest.raises(UsageError, match=f"'f' takes {name}, which TRL's trainer passes"):
        make_rewards(TASK, scope["f"], None).check()
    with pytest.raises(UsageError, match="missing a required argument: 'colour'"):
        make_rewards(TASK, lambda completions, colour, **_: [0, 0], None).check()


@pytest.mark.parametrize(
    ("row", "wanted"),
    [({"answer": 4}, "4"), ({"solution": 4}, "4"), ({"answer": "", "solution": "4"}, "4"), ({"answer": "4"}, "4")],
)
def test_the_answer_is_text_and_columns_come_under_their_own_names(row, wanted):
    seen = {}
    task = Rows([{"prompt": "2+2=", **row}] * 2, "rows")
    make_rewards(task, lambda **columns: seen.update(columns) or [1.0], None)([task.example(0)], ["4"])
    assert seen["answer"] == [wanted] and seen.get("solution") == ([row["solution"]] if "solution" in row else None)


def test_a_sum_beyond_float32_is_named():
    with pytest.raises(UsageError, match=r"reward_weights=\[10.0\] is beyond the range of float32"):
        make_rewards(TASK, lambda **_: [1e38, 1.0], [10.0])(EXAMPLES, WRITTEN)


def test_one_function_alone_and_functions_of_one_name():
    assert list(make_rewards(TASK, correct, None)(EXAMPLES, WRITTEN)[1]) == ["correct"]
    assert list(make_rewards(TASK, [lambda **_: [0, 0]] * 2, None).functions) == ["<lambda>_0", "<lambda>_1"]
    assert list(make_rewards(TASK, functools.partial(correct), None).functions) == ["partial"]


def test_none_counts_nothing():
    reward, parts = make_rewards(TASK, [correct, lambda **_: [None, 5]], None)(EXAMPLES, WRITTEN)
    assert reward.tolist() == [1, 5]
    assert math.isnan(parts["<lambda>"][0]) and parts["<lambda>"][1] == 5


def test_completions_of_messages_are_messages():
    example = Example([{"role": "user", "content": "1+1?"}], "2")
    reward, _ = make_rewards(TASK, lambda completions, **_: [len(c[0]["content"]) for c in completions], None)(
        [example], ["two"]
    )
    assert reward.tolist() == [3]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda **_: [1], r"'<lambda>' returned 1 numbers for 2 completions"),
        (lambda **_: [], "returned 0 numbers"),
        (lambda **_: 1.0, "returned 1.0; return a list of 2 numbers"),
        (lambda **_: None, "returned None; return a list"),
        (lambda **_: [1, math.nan], "gave nan for the completion '17'"),
        (lambda **_: [math.inf, 1], "gave inf for the completion '2'"),
        (lambda **_: [1e39, 1], r"gave 1e\+39 for the completion '2'; .* of at most 3.4e\+38"),
        (lambda **_: [1, 10**400], "for the completion '17'"),
        (lambda **_: [1, "good"], "gave 'good' for the completion '17'"),
        (lambda completions: [0, 0], r"cannot be called with prompts, .*\*\*fields"),
        (lambda completions, colour, **_: [0, 0], "'colour'"),
    ],
)
def test_a_function_that_is_wrong_is_named(function, message):
    with pytest.raises(UsageError, match=message):
        make_rewards(TASK, function, None)(EXAMPLES, WRITTEN)


@pytest.mark.parametrize(
    ("functions", "weights", "message"),
    [
        ([correct, short], [1.0], "1 numbers for 2 reward functions"),
        (None, [1.0], "1 numbers for 0"),
        ([correct], [math.nan], "reward_weights has nan"),
        ([correct], ["much"], "reward_weights has 'much'"),
        (["correct"], None, "reward='correct' is not a function"),
    ],
)
def test_what_cannot_be_weighted_is_refused(functions, weights, message):
    with pytest.raises(UsageError, match=message):
        make_rewards(TASK, functions, weights)


@pytest.mark.parametrize("given, wanted", [(1, 1.0), (0.5, 0.5), (True, 1.0), (None, 0.0)])
def test_a_task_may_reward_with_any_number(given, wanted, monkeypatch):
    task = resolve("arithmetic")
    monkeypatch.setattr(type(task), "reward", lambda *_: given)
    reward, _ = make_rewards(task, None, None)([task.example(0)], ["1"])
    assert reward.dtype == torch.float32 and reward.tolist() == [wanted]
    monkeypatch.setattr(type(task), "reward", lambda *_: math.nan)
    with pytest.raises(UsageError, match="the task arithmetic.* gave nan for the completion '1'"):
        make_rewards(task, None, None)([task.example(0)], ["1"])


def test_a_task_without_answers_is_judged_by_the_functions():
    task = Rows([{"prompt": f"{i}="} for i in range(20)], "sums")
    with pytest.raises(UsageError, match="sums has no answers to compare with, and no reward functions were given"):
        make_rewards(task, None, None).check()
    judged = Judged(make_rewards(task, [short], [2.0]).check())
    assert (judged.size, judged.held_out_size, str(judged)) == (18, 2, "sums")
    assert judged.reward(judged.example(1, "test"), "abc") == -6 and judged.judge == "2·short"
    assert judged.example(1, "test") == task.example(1, "test") and make_rewards(task, None, None).task.judge


def test_a_judge_that_fails_is_asked_again_and_named_in_the_end(monkeypatch):
    monkeypatch.setattr("surefoot.loops.group_rollout.rewards.PAUSE", 0.0)
    calls = []

    def flaky(completions, **fields):
        calls.append(1)
        if len(calls) < 3:
            raise ConnectionError("no route")
        return [1.0] * len(completions)

    async def flaky_too(completions, **fields):
        return flaky(completions)

    for judge in (flaky, flaky_too):
        calls.clear()
        rewards = make_rewards(TASK, judge, None, retries=2)
        assert rewards([TASK.example(0)], ["1"])[0].tolist() == [1.0] and len(calls) == 3
        calls.clear()
        with pytest.raises(UsageError, match=rf"{judge.__name__}' failed \(no route\), 2 times in a row.*resume"):
            make_rewards(TASK, judge, None, retries=1)([TASK.example(0)], ["1"])
        calls.clear()
        with pytest.raises(UsageError, match=rf"{judge.__name__}' failed \(no route\). Once it answers again, resume"):
            make_rewards(TASK, judge, None)([TASK.example(0)], ["1"])

    def wrong(completions, **fields):
        raise KeyError("solution")

    with pytest.raises(KeyError):  # a mistake in a function that is asked once shows itself
        make_rewards(TASK, wrong, None)([TASK.example(0)], ["1"])


def test_a_scale_on_which_no_threshold_tells_a_success_is_refused():
    reward = torch.tensor([[1.0, 0.25], [-1.0, 1.0]])
    known = {"right": reward, "short": torch.tensor([[0.0, torch.nan], [1.0, 0.0]])}
    assert successes(reward, known, "HPT").tolist() == [[True, False], [False, True]]
    assert successes(1.5 * reward, known, "HPT").tolist() == [[True, False], [False, True]]  # weights are no scale
    with pytest.raises(UsageError, match="HPT.*'percent' was up to 100; rescale"):
        successes(reward, {**known, "percent": 100 * reward}, "HPT")


def test_a_judge_that_hangs_is_named():
    def slow(completions, **fields):
        time.sleep(0.5)
        return [1.0] * len(completions)

    async def slow_too(completions, **fields):
        await asyncio.sleep(0.5)
        return [1.0] * len(completions)

    for judge in (slow, slow_too):
        with pytest.raises(UsageError, match=f"{judge.__name__}' took longer than judge_time_limit=0.05"):
            make_rewards(TASK, judge, None, time_limit=0.05)([TASK.example(0)], ["1"])
