"""Tasks made here and those of reasoning-gym: examples, demonstrations, and verifiers that nothing fools."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.envs.language import Example, resolve, tasks
from surefoot.envs.language.reasoning import ReasoningGym
from surefoot.envs.language.synthetic import Arithmetic, Countdown, Sorting, evaluated
from surefoot.errors import UsageError

MADE = st.one_of(
    st.builds(Arithmetic, digits=st.integers(1, 9), terms=st.integers(2, 20)),
    st.builds(Sorting, count=st.integers(2, 50), below=st.integers(2, 10**9)),
    st.builds(Countdown, numbers=st.integers(2, 8), below=st.integers(3, 10**9)),
)


@given(task=MADE, index=st.integers(0, 2**41), split=st.sampled_from(["train", "test"]))
@settings(max_examples=60)
def test_a_demonstration_always_solves_its_example(task, index, split):
    example = task.example(index, split)
    assert task.reward(example, example.demonstration) == 1
    assert task.example(index, split) == example


@given(task=MADE)
@settings(max_examples=30)
def test_a_task_survives_its_text(task):
    assert resolve(str(task)) == task and resolve(task) is task


@pytest.mark.parametrize("name", ["arithmetic", "sorting", "countdown"])
def test_what_is_held_out_comes_from_another_stream(name):
    task = resolve(name)
    shown, held_out = ([task.example(i, split).prompt for i in range(100)] for split in ("train", "test"))
    assert sum(a == b for a, b in zip(shown, held_out, strict=True)) < 5
    with pytest.raises(UsageError, match="split='dev'"):
        task.example(0, "dev")


def test_arithmetic_adds():
    for i in range(200):
        example = Arithmetic(2, 4).example(i)
        assert evaluated(example.prompt.removesuffix("="))[0] == int(example.answer)


@pytest.mark.parametrize(
    ("written", "reward"),
    [("4 15 31", 1), (" 4  15 31\n", 1), ("15 4 31", 1 / 3), ("4 15", 0), ("4 15 31 31", 0), ("04 15 31", 0), ("", 0)],
)
def test_sorting_counts_right_places(written, reward):
    assert Sorting().reward(Example("sort 31 4 15:", "4 15 31"), written) == pytest.approx(reward)


SIX = Example("make 24 from 3 4 6 2:", "24", None, {"numbers": [3, 4, 6, 2], "target": 24})


@pytest.mark.parametrize("written", ["4*6", " 6*4 ", "(3*4)*2", "3*(6+2)", "6/(3-2)*4", "--4*6"])
def test_countdown_takes_any_expression_with_the_value(written):
    assert Countdown().reward(SIX, written) == 1


FOUL = [
    *("24", "4*6+0", "4*4+4+4", "6*6-6-6", "2**4+6+2", "6//2*4*2", "4*6=24", "4*6;4*6", "lambda:24", "numbers", "6 4"),
    *(
        "3/(2-2)",
        "1/0",
        "6(4)",
        "()",
        "",
        "   ",
        "٤*٦",
        "４*6",
        "4×6",
        "4*6\x00",
        "4*6\n4*6",
        "0x18",
        "2_4",
        "24.0",
        "04*06",
    ),
    *(
        "(" * 150,
        "(" * 5000 + "4*6",
        "4*6" + "+0" * 5000,
        "9**9**9**9",
        "9" * 5000,
        "-" * 199 + "4*6",
        "__import__('os')",
    ),
]


@pytest.mark.parametrize("written", FOUL, ids=range(len(FOUL)))
def test_countdown_is_not_fooled(written):
    assert Countdown().reward(SIX, written) == 0


@given(text=st.text(alphabet="0123456789+-*/() ", max_size=30))
def test_an_expression_has_pythons_value_or_none(text):
    found = evaluated(text)
    if found is not None:
        value, used = found
        wanted = eval("".join(f"Fraction({c})" if c.isdigit() else c for c in _tokens(text)), {"Fraction": Fraction})
        assert value == wanted and sorted(used) == sorted(int(c) for c in _tokens(text) if c.isdigit())


def _tokens(text):
    import re

    return re.findall(r"\d+|.", text.replace(" ", ""))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("arithmetik", "arithmetic"),
        ("arithmetic:digits=0", "digits=0"),
        ("arithmetic:colour=2", "colour"),
        ("arithmetic:1,2,3", "'3'"),
        (f"countdown:below={10**30}", "below="),
        (f"sorting:below={10**30}", "below="),
        (12, "task=12"),
    ],
)
def test_a_task_that_cannot_be_says_why(text, message):
    with pytest.raises(UsageError, match=message):
        resolve(text)
    assert {"arithmetic", "countdown", "sorting", "reasoning_gym"} <= set(tasks())


class TestReasoningGym:
    @pytest.fixture(autouse=True)
    def _installed(self):
        pytest.importorskip("reasoning_gym")

    def test_settings_arrive_and_survive_the_text(self):
        task = resolve("reasoning_gym:chain_sum,max_terms=3,allow_negation=False")
        assert task._made[0].config.allow_negation is False and task._made[0].config.max_terms == 3
        assert resolve(str(task)) == task

    @pytest.mark.parametrize("name", ["chain_sum", "number_sorting", "leg_counting", "gcd"])
    def test_the_answer_solves_the_example(self, name):
        task = resolve(f"reasoning_gym:{name}")
        shown, held_out = ([task.example(i, split) for i in range(5)] for split in ("train", "test"))
        for example in (*shown, *held_out):
            assert task.reward(example, example.demonstration) == 1 and task.reward(example, "nothing") < 1
        assert not {e.prompt for e in shown} & {e.prompt for e in held_out}

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("chain_summ", "chain_sum"),
            ("chain_sum,colour=2", "colour"),
            ("chain_sum,colour", "colour"),
            ("chain_sum,max_terms=many", "max_terms=many"),
            ("chain_sum,max_terms=2.5", "max_terms=2.5"),
            ("chain_sum,max_terms=-1", "max_terms=-1"),
        ],
    )
    def test_what_it_does_not_know_is_refused_at_once(self, text, message):
        with pytest.raises(UsageError, match=message):
            resolve(f"reasoning_gym:{text}")

    def test_a_setting_that_a_text_cannot_hold_is_refused(self):
        with pytest.raises(UsageError, match="without a comma"):
            ReasoningGym("chain_sum", (("operators", ("+", "-")),))


def test_an_answer_that_a_verifier_breaks_on_is_wrong():
    task = resolve("reasoning_gym:prime_factorization")
    example = task.example(0)
    assert task.reward(example, "Ht#5") == 0.0 and task.reward(example, example.answer) == 1.0


def test_pairs_are_labelled_by_known_utilities():
    task = resolve("preferences:below=50,scale=8,pairs=4000")
    assert (task.size, task.held_out_size) == (4000, 400) and str(resolve(str(task))) == str(task)
    examples = [task.example(i) for i in range(4000)]
    gaps, right = [], []
    for example in examples:
        number = int(example.answer)
        given = [-abs(int(example.fields[name]) - number) / 8 for name in ("chosen", "rejected")]
        assert example.fields["utilities"] == pytest.approx(given) and example.demonstration == example.fields["chosen"]
        assert example.fields["chosen"] != example.fields["rejected"]
        assert np.log(task.reward(example, example.fields["chosen"])) == pytest.approx(given[0])
        gaps.append(abs(given[0] - given[1]))
        right.append(given[0] >= given[1])
    gaps, right = np.array(gaps), np.array(right)
    for low, high in ((0, 0.5), (0.5, 1.5), (1.5, 6)):
        some = (gaps > low) & (gaps <= high)
        wanted = (1 / (1 + np.exp(-gaps[some]))).mean()
        assert right[some].mean() == pytest.approx(wanted, abs=3 * (0.25 / some.sum()) ** 0.5)
    assert task.example(7, "test") != task.example(7) == task.example(7)
    assert [task.reward(examples[0], text) for text in ("near", "", "-3", "1.5")] == [0.0] * 4
    assert task.reward(examples[0], examples[0].answer) == 1.0
