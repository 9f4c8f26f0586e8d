"""The answer in a completion, and whether it is the known one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surefoot.envs.language import resolve
from surefoot.envs.language.answers import final_answer, mathematics


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("7", "7"),
        ("<think>3+4</think><answer>7</answer>", "7"),
        ("3+4</think>7", "7"),  # where the prompt began the thoughts
        ("<answer>1</answer> no, <answer> 7 </answer>.", "7"),
        ("<think><answer>1</answer></think><ANSWER>7</ANSWER>", "7"),
        ("<answer>7", "7"),  # where </answer> is a stop text
        (r"so \boxed{1}, or \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"<answer>\boxed{7}</answer>", "7"),
        (r"\boxed{7", r"\boxed{7"),
        ("<think>7", ""),
    ],
)
def test_the_answer_of_a_completion(completion, answer):
    assert final_answer(completion) == answer


@given(thought=st.text(), answer=st.integers().map(str))
def test_however_long_the_thought_the_answer_counts(thought, answer):
    thought = thought.replace("<answer>", "").replace("<think>", "").replace("</think>", "")
    assert mathematics(f"<think>{thought}</think><answer>{answer}</answer>", answer) == 1


@pytest.mark.parametrize("name", ["arithmetic", "sorting", "countdown", "reasoning_gym:chain_sum"])
def test_every_task_judges_the_answer_and_not_the_thought(name):
    if name.startswith("reasoning_gym"):
        pytest.importorskip("reasoning_gym")
    task = resolve(name)
    example = task.example(3)
    shown = example.demonstration
    for text in (shown, f"<think>{'so ' * 66}</think><answer>{shown}</answer>", rf"<think>1</think>\boxed{{{shown}}}"):
        assert task.reward(example, text) == 1, text
    assert task.reward(example, f"<think><answer>{shown}</answer>") < 1


WRONG = [
    ("12:45", "12:30"),
    ("45", "12:45"),
    ("12:45", "45"),
    ("It was 2024-01-03", "2024-01-02"),
    ("2021", "2024-1-2"),
    ("sorted: 3", "1 2 3"),
    ("1 2 3", "3"),
    ("0 1 2 3", "1 2 3"),
    ("The answer is 0 1 2 3", "1 2 3"),
    ("3", "[1, 2, 3]"),
    ("[1, 2, 3]", "3"),
    ("[3, 2, 1]", "[1, 2, 3]"),
    ("[1, 2]", "(1, 2)"),
    ("2", "3 apples and 2 pears"),
    ("2", "7 R 2"),
    ("7 R 2", "2"),
    ("7", "007"),
    ("A", "B"),
    ("The answer is not B", "B"),
    ("It isn't Paris", "Paris"),
    ("False", "True"),
    ("5 m", "5 km"),
    ("v1.2.4", "v1.2.3"),
    ("<think>7</think>8", "7"),
    ("5", "-5"),
]
RIGHT = [
    ("The answer is B", "B"),
    ("**(B)**", "B"),
    (r"\boxed{\text{B}}", "B"),
    ("The capital is Paris.", "Paris"),
    ("yes", "Yes"),
    ("The answer is True", "True"),
    ("It was 2024-01-02.", "2024-01-02"),
    ("sorted: 1 2 3", "1 2 3"),
    ("[1,2,3]", "[1, 2, 3]"),
    ("7 R 2", "7 R 2"),
]
VALUES = [
    ("- 5", "-5"),
    ("1000", "$1,000"),
    ("72", "so 3+69.\n#### 72"),
    (r"it is $\frac12$", r"thus \boxed{0.5}"),
    ("0.001", "1e-3"),
    ("x = 3", "3"),
    ("(1, 2)", "$(1,2)$"),
    ("step 1 2+3=5", "5"),
    (r"3\pi", r"$3\pi$"),
]


@pytest.mark.parametrize(("completion", "answer"), WRONG)
def test_a_part_of_an_answer_is_not_the_answer(completion, answer):
    assert mathematics(completion, answer) == 0


@pytest.mark.parametrize(("completion", "answer"), RIGHT)
def test_what_is_no_formula_is_compared_as_text(completion, answer):
    assert mathematics(completion, answer) == 1


@pytest.mark.parametrize(("completion", "answer"), VALUES)
def test_what_is_one_formula_is_compared_by_value(completion, answer):
    pytest.importorskip("math_verify")
    assert mathematics(completion, answer) == 1
