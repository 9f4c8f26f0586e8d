"""Prompts from files: what is read, when, and what is said of rows that are damaged."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from surefoot.envs import make_single
from surefoot.envs.language import resolve
from surefoot.envs.language.files import Lines, Rows, mathematics
from surefoot.envs.language.prompt_env import PromptEnv
from surefoot.errors import UsageError

ROWS = [{"prompt": f"{i}+1=", "answer": str(i + 1), "demonstration": str(i + 1), "level": str(i)} for i in range(20)]


def lines(path, rows):
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows) + "\n")
    return path


def written(path, rows):
    if path.suffix == ".jsonl":
        lines(path, rows)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".csv":
        cells = [list(rows[0]), *(list(row.values()) for row in rows)]
        path.write_text("\n".join(",".join(row) for row in cells))
    else:
        pytest.importorskip("datasets").Dataset.from_list(rows).to_parquet(str(path))
    return path


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    if datasets := __import__("sys").modules.get("datasets"):
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_every_kind_of_file_gives_the_same_examples(suffix, tmp_path):
    path = written(tmp_path / f"rows{suffix}", ROWS)
    task = resolve(path)
    assert str(task) == str(path) and resolve(str(task)).source == task.source
    assert task.size == 18 and task.held_out_size == 2  # a tenth is held out
    shown, held_out = ({task.example(i, split).prompt for i in range(100)} for split in ("train", "test"))
    assert len(shown) == 18 and len(held_out) == 2 and shown | held_out == {r["prompt"] for r in ROWS}
    again = resolve(path)
    assert [again.example(i, "test") for i in range(2)] == [task.example(i, "test") for i in range(2)]
    task = resolve(path, held_out="last")  # as all runs did once
    shown, held_out = ({task.example(i, split).prompt for i in range(100)} for split in ("train", "test"))
    assert shown == {r["prompt"] for r in ROWS[:18]} and held_out == {r["prompt"] for r in ROWS[18:]}
    assert task.label(0) == f"{path}, row 1" and task.label(1, "test") == f"{path}, row 20"
    example = task.example(3)
    assert (example.prompt, example.answer, example.demonstration) == ("3+1=", "4", "4")
    assert example.fields == {"answer": "4", "demonstration": "4", "level": "3"}
    assert task.reward(example, "4") == 1 and task.reward(example, "5") == 0


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", '{"prompt": "1"}\n\n{"prompt"\n{"prompt": "2"}', "line 3 is not JSON"),
        ("a.jsonl", '{"prompt": "1"}\n[1]\n', "line 2 is a list"),
        ("a.jsonl", '{"prompt": "1"}\n{"prompt": ""}\n', "row 2: the prompt is empty"),
        ("a.jsonl", '{"prompt": "1"}\n{"answer": "1"}\n', "row 2: the prompt is empty"),
        ("a.jsonl", '{"prompt": "1"}\n{"prompt": 7}\n', "row 2: the prompt 7 is not allowed"),
        ("a.jsonl", '{"prompt": "1"}\n{"prompt": [{"content": "x"}]}\n', "row 2: the prompt .* messages"),
        ("a.jsonl", '{"prompt": "1", "answer": 0}\n{"prompt": "2"}\n', "row 2: the answer is missing, in row 1"),
        ("a.jsonl", '{"prompt": "1"}\n{"prompt": "2", "solution": "1"}\n', "row 2: the answer is there, in row 1"),
        ("a.csv", "prompt,completion\n1,2\n3,\n", "row 2: the demonstration is missing.* or 'completion'"),
        ("a.jsonl", '{"prompt": "1", "completion": 7}\n{"prompt": "2"}\n', "row 1: the demonstration 7 is not allowed"),
        ("a.jsonl", '{"text": "1"}\n{"text": "2"}\n', "no column 'prompt' or 'question'; its columns are 'text'"),
        ("a.jsonl", '{"prompt": "1"}\n', "has 1 rows"),
        ("a.jsonl", "", "has 0 rows"),
        ("a.json", "{", "not JSON"),
        ("a.json", "{}", "is a dict; it must be a list"),
        ("a.json", '[{"prompt": "1"}, 2]', "row 2 is a int"),
        ("a.csv", "prompt,answer\n1,2\n3,4,5\n", "row 2 has more cells than the 2 columns"),
        ("a.csv", "prompt,answer\n1,2\n,4\n", "row 2: the prompt is empty"),
        ("a.csv", "prompt\n1\n" + "x" * 200_000 + "\n", "row 2 cannot be read"),
        ("a.parquet", "nothing of the kind", "not a Parquet file"),
    ],
)
def test_what_is_damaged_is_named_with_its_row(name, text, message, tmp_path):
    if name.endswith("parquet"):
        pytest.importorskip("datasets")
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=message):
        resolve(tmp_path / name)


def test_bytes_that_are_no_text_are_named_with_their_row(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"prompt": "1"}\n{"prompt": "\xff"}\n')
    with pytest.raises(UsageError, match="line 2"):
        resolve(tmp_path / "a.jsonl")
    (tmp_path / "a.csv").write_bytes(b"prompt\n\xff\n")
    with pytest.raises(UsageError, match="cannot be read"):
        resolve(tmp_path / "a.csv")


def test_a_file_that_is_not_there_says_so(tmp_path):
    for suffix in ("jsonl", "json", "csv", "parquet"):
        with pytest.raises(UsageError, match="cannot be read"):
            resolve(tmp_path / f"nothing.{suffix}")


def test_of_json_lines_only_the_places_are_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("surefoot.envs.language.files.LOOKED_AT", 10)
    rows = [{"prompt": f"{i} " + "é" * 200} for i in range(20_000)]
    path = lines(tmp_path / "big.jsonl", [*rows[:15_000], "damaged", *rows[15_000:]])
    task = resolve(path)
    kept = task.rows
    assert isinstance(kept, Lines) and len(kept) == 20_001
    assert sum(x.itemsize * len(x) for x in (kept.starts, kept.numbers)) < path.stat().st_size / 20
    assert kept[14_999] == rows[14_999] and kept[-1] == rows[-1]
    with pytest.raises(UsageError, match="line 15001 is not JSON"):
        resolve(path, held_out="last").example(15_000)


def test_parquet_stays_on_the_disk(tmp_path):
    datasets = pytest.importorskip("datasets")
    assert isinstance(resolve(written(tmp_path / "a.parquet", ROWS)).rows, datasets.Dataset)


def test_rows_of_other_libraries_are_those_of_a_list():
    datasets, pandas = pytest.importorskip("datasets"), pytest.importorskip("pandas")
    whole, wanted = datasets.Dataset.from_list(ROWS), resolve(ROWS)
    for given in (whole, pandas.DataFrame(ROWS), whole.to_iterable_dataset(), tuple(ROWS)):
        found = resolve(given)
        assert [found.example(i) for i in range(found.size)] == [wanted.example(i) for i in range(wanted.size)]
    with pytest.raises(UsageError, match="a generator, which can be read only once; give a list"):
        resolve(row for row in ROWS)
    with pytest.raises(UsageError, match="task=7 is not allowed"):
        resolve(7)


def test_a_stream_without_an_end_is_refused(monkeypatch):
    monkeypatch.setattr("surefoot.envs.language.sources.MOST", 1000)

    class Endless:
        def __iter__(self):
            while True:
                yield ROWS[0]

    with pytest.raises(UsageError, match=r"a stream of more than 1,000; give a part of it.*take"):
        resolve(Endless())


def test_splits_are_learned_from_and_held_out(monkeypatch):
    datasets = pytest.importorskip("datasets")
    other = [{**row, "prompt": "other: " + row["prompt"]} for row in ROWS]
    both = datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS), test=datasets.Dataset.from_list(other))
    asked = []

    def load(*given):
        asked.append(given)
        return both

    monkeypatch.setattr(datasets, "load_dataset", load)
    for task in (resolve(both), resolve("hf:some/set,main")):
        assert task.size == task.held_out_size == len(ROWS)
        assert task.example(0, "test").prompt == "other: " + task.example(0).prompt
    assert asked == [("some/set", "main")] and str(task) == "hf:some/set,main"
    three = datasets.DatasetDict(**both, validation=both["train"])
    assert resolve(three).example(0, "test").prompt == ROWS[0]["prompt"]
    assert resolve(both, test_data=ROWS[:2]).held_out_size == 2
    with pytest.raises(UsageError, match="no split 'train' .they have 'test'."):
        resolve(datasets.DatasetDict(test=both["test"]))


def test_a_set_of_the_hub_that_cannot_be_loaded_is_named(monkeypatch):
    datasets = pytest.importorskip("datasets")

    def load(*given):
        raise ConnectionError("no route to the hub")

    monkeypatch.setattr(datasets, "load_dataset", load)
    for given in ({"given": "hf:some/set"}, {"given": ROWS, "test_data": "hf:some/set"}):
        with pytest.raises(UsageError, match=r"hf:some/set cannot be loaded \(no route to the hub\); check the name"):
            resolve(**given)


def test_the_rows_held_out_are_a_sample_of_a_sorted_set():
    task = Rows([{"prompt": str(i)} for i in range(2000)], "sorted")
    places = np.array([int(task.example(i, "test").prompt) for i in range(200)])
    assert len({*places}) == 200 and abs(places.mean() - 1000) < 150  # three deviations of the mean are 122
    assert len({task.example(i).prompt for i in range(1800)} | {*map(str, places)}) == 2000
    with pytest.raises(UsageError, match="held_out='first'"):
        Rows(ROWS, "rows", "first")


@pytest.mark.parametrize("name", ["a.jsonl", "a.JSONL", "a.ndjson", "a.json", "a.JSON", "a.csv", "a.CSV"])
@pytest.mark.parametrize("mark", [b"", "\ufeff".encode()])
def test_endings_and_encodings_are_the_same_for_every_kind_of_file(name, mark, tmp_path):
    rows, kind = [{"prompt": "1é", "answer": "2"}, {"prompt": "2", "answer": "3"}], name.rpartition(".")[2].lower()
    text = {"csv": "prompt,answer\n1é,2\n2,3\n", "json": json.dumps(rows, ensure_ascii=False)}
    lines_ = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / name).write_bytes(mark + text.get(kind, lines_).encode())
    task = resolve(tmp_path / name, held_out="last")
    assert [task.example(0).prompt, task.example(0, "test").prompt] == ["1é", "2"]


def test_rows_in_memory_and_a_file_to_test_on(tmp_path):
    path = lines(tmp_path / "test.jsonl", ROWS[:3])
    task = resolve(ROWS[3:], test_data=path)
    assert (task.size, task.held_out_size, str(task)) == (17, 3, "<17 rows>")
    assert {task.example(i).prompt for i in range(17)} == {r["prompt"] for r in ROWS[3:]}
    assert [task.example(i, "test").prompt for i in range(3)] == [r["prompt"] for r in ROWS[:3]]
    assert task.label(1, "test") == f"{path}, row 2"
    with pytest.raises(UsageError, match="test.jsonl has no answers, but <17 rows> has"):
        resolve(ROWS[3:], test_data=lines(path, [{"prompt": "1"}] * 2))
    with pytest.raises(UsageError, match="row 2 of the task is a str"):
        resolve([ROWS[0], "text"])
    with pytest.raises(UsageError, match="must be a file: .jsonl, .ndjson"):
        resolve(ROWS, test_data="test.txt")


CHAT = [{"role": "user", "content": "1+1?"}]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_chat_messages_are_prompts(suffix, tmp_path):
    path = written(tmp_path / f"chat{suffix}", [{"prompt": CHAT, "answer": "2"}] * 4)
    assert resolve(path).example(0).prompt == CHAT


def test_without_answers_the_error_asks_for_reward_functions(tmp_path):
    task = resolve(lines(tmp_path / "a.jsonl", [{"prompt": "1"}] * 2))
    with pytest.raises(UsageError, match="reward="):
        task.reward(task.example(0), "1")


@pytest.mark.parametrize(
    ("completion", "answer", "reward"),
    [
        ("0.5", "1/2", 1),
        (r"so it is $\frac{1}{2}$", "0.5", 1),
        (r"\boxed{2}", "2", 1),
        ("$x$", "x", 1),
        ("$2x$", "x+x", 1),
        ("$3$", "2", 0),
        ("", "2", 0),
        ("(" * 3000, "2", 0),
        ("two", "2", 0),
    ],
)
def test_formulas_are_compared_by_value(completion, answer, reward):
    pytest.importorskip("math_verify")
    assert mathematics(completion, answer) == reward


def test_formulas_are_compared_in_any_thread():
    pytest.importorskip("math_verify")
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(mathematics, "the answer is 0.5", "1/2").result() == 1


def test_a_task_is_an_environment():
    env = make_single(lambda: PromptEnv(resolve("arithmetic")))
    prompt, _ = env.reset(seed=3)
    assert prompt == env.reset(seed=3)[0] and env.observation_space.contains(prompt)
    assert len({env.reset(seed=s)[0] for s in range(20)}) > 10
    answer = env.unwrapped.example.answer
    assert env.step(answer)[1:4] == (1.0, True, False)
    env.reset(seed=3)
    assert env.step(np.str_("no"))[1] == 0


def test_messages_go_through_an_environment_as_json():
    env = PromptEnv(Rows([{"prompt": CHAT, "answer": "2"}] * 2, "two"))
    assert json.loads(env.reset(seed=0)[0]) == CHAT and env.step("2")[1] == 1


def test_of_a_finite_set_the_seed_is_the_number_of_the_example():
    env = PromptEnv(Rows(ROWS, "rows", "last"))
    assert [env.reset(seed=s)[0] for s in (0, 1, 2)] == ["18+1=", "19+1=", "18+1="]
