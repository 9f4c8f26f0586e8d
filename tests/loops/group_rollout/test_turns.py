"""Episodes of several turns: who wrote which token, what is learned from, and environments that misbehave."""

from __future__ import annotations

import sys
import time
from dataclasses import replace

import pytest
import torch

pytest.importorskip("transformers", reason="language models need surefoot[language]")

from surefoot.envs.language import resolve
from surefoot.envs.language.episodes import Episodes, Retries, Tools, within
from surefoot.errors import UsageError
from surefoot.loops.group_rollout.learner import LanguageLearner
from surefoot.loops.group_rollout.rewards import make_rewards
from surefoot.methods.language.baselines import GRPO
from surefoot.models.language.generation import Completions, generate
from surefoot.models.language.nano import Nano, fresh
from surefoot.models.language.sampling import Sampling

TINY = Nano(width=16, layers=1, heads=2, context=160, warmup=0)
SMALL = {"prompts": 3, "samples": 2, "max_tokens": 4, "minibatches": 1, "max_grad_norm": None}


class Count:
    """Says how many turns there were; ends after three, or at once if the number of the episode is even."""

    def reset(self, seed):
        self.left = 1 if seed % 2 == 0 else 3
        return f"{seed % 7}:"

    def step(self, text):
        self.left -= 1
        return (f"[{self.left}]", 0.25 * len(text), self.left == 0)


def learner(task, reward=None, method=None, engine=generate, **settings):
    model = settings.pop("model", None) or fresh(TINY, seed=1)
    method = method or GRPO(**SMALL)
    run = LanguageLearner(method, model, task, make_rewards(task, reward, None), engine, **settings)
    run.trusted = engine is ending  # its likelihoods are made up
    return run


def ending(model, prompts, uniform, **settings):
    """Two of the tiny model's tokens and an end in every turn; an untrained model hardly ever ends by itself."""
    found = generate(model, prompts, uniform, **settings)
    tokens = [[token for token in [*row, 20, 20] if token not in model.ends][:2] for row in found.tokens]
    return Completions([[*row, *model.ends] for row in tokens], [[-1.0] * 3] * len(tokens), [True] * len(tokens))


TASK = Episodes(env=Count, max_turns=5)


def test_every_token_is_the_models_or_the_environments_and_only_the_models_are_valid():
    run = learner(TASK, engine=ending)
    rollout, row = run.collect()
    decode = run.model.tokenizer.batch_decode
    for i, (tokens, turn, valid) in enumerate(
        zip(rollout.sequences.tokens, rollout.turn, rollout.sequences.valid, strict=True)
    ):
        turns = 1 if int(rollout.index[i // 2]) % 2 == 0 else 3
        assert torch.equal(valid, turn >= 0) and turn.max() == turns - 1
        assert [int((turn == t).sum()) for t in range(turns)] == [3] * turns
        prompt = int(valid.int().argmax())
        between = (turn < 0) & (torch.arange(len(turn)) >= prompt) & (torch.arange(len(turn)) < valid.nonzero().max())
        assert decode([tokens[between].tolist()]) == ["".join(f"[{k}]" for k in range(turns - 1, 0, -1))]
    assert rollout.turn_rewards.shape == (6, 5)
    torch.testing.assert_close(rollout.reward.flatten(), rollout.turn_rewards.sum(1))
    assert not rollout.truncated.any() and row["turns_max"] == 3 and list(rollout.components) == ["environment"]


def test_what_the_environment_says_gets_exactly_no_gradient():
    """Whatever the advantage of the environment's tokens is."""
    run = learner(TASK, engine=ending)
    rollout, _ = run.collect()
    (term,) = run.method.terms(rollout)
    wild = torch.where(term.sequences.valid, 1.0, 1e6)
    plain = run.gradient([term])
    odd = replace(term, advantage=term.advantage[:, None] * wild)
    for name, x in run.gradient([odd]).items():
        assert torch.equal(x, plain[name]), name
    assert any(bool(x.any()) for x in plain.values())


def test_likelihoods_are_those_that_learning_sees_with_the_environments_words_read():
    run = learner(TASK, method=GRPO(**{**SMALL, "max_tokens": 3}))
    rollout, row = run.collect()
    valid = rollout.sequences.valid
    learned = run.estimator.statistics(rollout.sequences).log_prob[valid]
    torch.testing.assert_close(rollout.log_prob[valid], learned, rtol=1e-4, atol=1e-4)
    assert row["truncated"] > 0  # an untrained model's turns are cut off


@pytest.mark.parametrize("micro_tokens", [None, 40])
def test_gradients_do_not_depend_on_pieces(micro_tokens):
    run = learner(TASK, engine=ending, method=GRPO(**SMALL, micro_tokens=micro_tokens))
    found = run.gradient(run.method.terms(run.collect()[0]))
    whole = learner(TASK, engine=ending, method=GRPO(**SMALL, micro_tokens=8192))
    for name, x in whole.gradient(whole.method.terms(whole.collect()[0])).items():
        torch.testing.assert_close(found[name], x, rtol=1e-4, atol=1e-6)


def test_a_run_of_episodes_resumes_to_the_bit():
    runs = [learner(TASK, engine=ending, learning_rate=1e-3) for _ in range(2)]
    for _ in range(2):
        runs[0].iterate()
    runs[1].load(runs[0].state(), 2, 0)
    rows = [run.iterate() for run in runs]
    assert rows[0] == rows[1]
    assert all(torch.equal(x, runs[1].state()[name]) for name, x in runs[0].state().items())


def test_prompts_of_a_rollout_take_their_turns_along():
    rollout, _ = learner(TASK, engine=ending).collect()
    part = rollout.prompts(torch.tensor([2, 0]))
    for row, i in enumerate([4, 5, 0, 1]):
        width = part.turn.shape[1]
        assert torch.equal(part.turn[row], rollout.turn[i, :width])
        assert torch.equal(part.turn_rewards[row], rollout.turn_rewards[i])


def test_reward_functions_see_the_whole_episode_in_place_of_its_reward():
    seen = {}

    def judge(prompts, completions, turn_rewards, **fields):
        seen.update(completions=completions, turn_rewards=turn_rewards)
        return [float(len(x)) for x in turn_rewards]

    rollout, _ = learner(TASK, judge, engine=ending).collect()
    assert rollout.reward.flatten().tolist() == [float(len(x)) for x in seen["turn_rewards"]]
    assert list(rollout.components) == ["judge"]
    assert [text.count("[") for text in seen["completions"]] >= [len(x) - 1 for x in seen["turn_rewards"]]


CHAT = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


class Chat(Count):
    def reset(self, seed):
        return [{"role": "user", "content": super().reset(seed)}]


def test_messages_are_joined_as_the_template_writes_the_whole_conversation():
    model = fresh(TINY, seed=1)
    model.tokenizer.chat_template = CHAT
    run = learner(Episodes(env=Chat, max_turns=5), engine=ending, model=model)
    rollout, _ = run.collect()
    row = next(i for i in range(6) if int(rollout.index[i // 2]) % 2)
    length = int(rollout.sequences.lengths[row])
    (text,) = model.tokenizer.batch_decode([rollout.sequences.tokens[row, :length].tolist()])
    prompt, *turns = text.split("<assistant>")
    assert len(turns) == 3 and prompt.startswith("<user>") and "<user>[2]<eos>" in turns[0]
    assert text.count("<eos>") == 3 + 3  # one after each message: no end is written twice


def add(a: int, b: int) -> int:
    """Adds.

    Args:
        a: A number.
        b: Another.
    """
    return a + b


def odd(kind: str) -> object:
    """Returns what is no text, or ends the program.

    Args:
        kind: Which.
    """
    return {"none": None, "list": [1, {"a": 2}], "bytes": b"x"}[kind] if kind != "exit" else sys.exit("bye")


def slow(seconds: float) -> str:
    """Sleeps.

    Args:
        seconds: How long.
    """
    time.sleep(seconds)
    return "done"


ARITHMETIC = resolve("arithmetic:digits=1,terms=2")
TOOLS = Tools(task=ARITHMETIC, functions=[add, slow, odd], time_limit=0.05)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ('{"name": "add", "arguments": {"a": 2, "b": 3}}', "5"),
        ('{"name": "add", "arguments": {"a": 2}}', "error: TypeError"),
        ('{"name": "sub"}', r"error: a call is JSON with a name (add, slow, odd)"),
        ("{", "error: a call is JSON"),
        ('{"name": "odd", "arguments": {"kind": "none"}}', "None"),
        ('{"name": "odd", "arguments": {"kind": "list"}}', "[1, {'a': 2}]"),
        ('{"name": "odd", "arguments": {"kind": "bytes"}}', "b'x'"),
        ('{"name": "odd", "arguments": {"kind": "exit"}}', "error: bye"),
        ('{"name": "slow", "arguments": {"seconds": 1}}', "error: slow took longer than 0.05 seconds"),
    ],
)
def test_a_tool_tells_its_result_or_what_is_wrong(call, said):
    episode = TOOLS.start(ARITHMETIC.example(0))
    turn = episode.step(f"let me see <tool_call>{call}</tool_call>")
    assert turn.said.removeprefix("<tool_response>").startswith(said) and not turn.done and turn.reward == 0
    answer = episode.step(ARITHMETIC.example(0).answer)
    assert answer.done and answer.reward == 1


def test_tools_are_described_to_the_chat_template():
    assert [one["function"]["name"] for one in TOOLS.schemas] == ["add", "slow", "odd"]
    with pytest.raises(UsageError, match="annotate"):
        _ = Tools(task=ARITHMETIC, functions=[lambda x: x]).schemas


def test_a_second_try_is_rewarded_and_a_right_answer_ends_it():
    task, example = Retries(task=ARITHMETIC, max_turns=3), ARITHMETIC.example(0)
    episode = task.start(example)
    assert not episode.step("?").done and "again" in episode.step("!").said
    assert episode.step(example.answer) == ("", 1.0, True)
    assert task.start(example).step(example.answer).done


class Bad:
    def __init__(self, kind):
        self.kind = kind

    def reset(self):
        return 7 if self.kind == "prompt" else "go:"

    def step(self, text):
        if self.kind == "exits":
            sys.exit(3)
        if self.kind == "raises":
            raise ValueError("no such door")
        if self.kind == "hangs":
            time.sleep(0.5)
        return {"silent": (3, 0.0, False), "nan": ("x", float("nan"), False), "shape": "x"}.get(
            self.kind, ("", 0, True)
        )


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("prompt", r"Bad.reset said 7; say a text"),
        ("raises", r"Bad.step \(turn 1\) raised no such door; mend it"),
        ("exits", r"Bad.step \(turn 1\) raised .*3"),
        ("hangs", r"Bad.step \(turn 1\) took longer than time_limit=0.1 seconds"),
        ("silent", r"Bad.step \(turn 1\) said 3"),
        ("nan", r"Bad.step \(turn 1\) gave the reward nan"),
        ("shape", r"Bad.step \(turn 1\) returned 'x'"),
    ],
)
def test_an_environment_that_misbehaves_is_named(kind, said):
    with pytest.raises(UsageError, match=said):
        learner(Episodes(env=lambda: Bad(kind), time_limit=0.1)).iterate()


def test_an_environment_without_step_is_refused():
    with pytest.raises(UsageError, match=r"without step\(\); an environment has reset"):
        Episodes(env=type("Half", (), {"reset": lambda self: "x"})).example(0)


class Endless(Count):
    def step(self, text):
        return "more", 0.0, False


def test_an_episode_that_never_ends_is_cut_off_by_turns_and_by_room():
    run = learner(Episodes(env=Endless, max_turns=3), engine=ending)
    rollout, row = run.collect()
    assert rollout.truncated.all() and row["turns"] == 3
    long, _ = learner(Episodes(env=Endless, max_turns=100), engine=ending).collect()
    assert long.truncated.all() and long.sequences.lengths.max() <= TINY.context


def test_a_time_limit_stops_waiting_and_passes_errors_on():
    assert within(5, lambda: 3) == 3
    with pytest.raises(TimeoutError):
        within(0.01, time.sleep, 0.3)
    with pytest.raises(ZeroDivisionError):
        within(5, lambda: 1 / 0)


def test_other_protocols_are_understood():
    class OpenEnv:
        def reset(self, **options):
            return type("R", (), {"observation": "x:", "reward": None, "done": False})()

        def step(self, action):
            return type("R", (), {"observation": "y", "reward": 1.0, "done": True})()

    class Gym:
        def reset(self, *, seed=None, options=None):
            return f"{seed}:", {}

        def step(self, action):
            return "y", 0.5, False, True, {}

    for env, prompt, reward in ((OpenEnv, "x:", 1.0), (Gym, "4:", 0.5)):
        task = Episodes(env=env)
        example = task.example(4)
        assert example.prompt == prompt
        assert task.start(example).step("a") == ("y", reward, True)
    assert Episodes(env=Gym).example(4, "test").prompt != "4:"


def test_sampling_reaches_every_turn():
    method = GRPO(**{**SMALL, "max_tokens": 3})
    run = learner(TASK, method=method, sampling=Sampling(top_k=1))
    rollout, _ = run.collect()
    assert torch.equal(rollout.log_prob, torch.zeros_like(rollout.log_prob))


def test_a_named_environment_is_written_and_read_by_its_name():
    task = Episodes(env=Count, max_turns=5)
    assert str(task) == f"episodes:{Count.__module__}:Count,max_turns=5,time_limit=60"
    again = resolve(str(task))
    assert again.env is Count and again.max_turns == 5 and str(again) == str(task)
    assert str(Episodes(env=lambda: Count())).startswith("<episodes of ")
    with pytest.raises(UsageError, match="cannot be imported"):
        resolve("episodes:nowhere:Env")


def test_a_run_from_the_shells_words_is_evaluated_by_whole_episodes(tmp_path):
    import surefoot as sf

    run = sf.train(
        "grpo",
        task=f"episodes:{Count.__module__}:Count,max_turns=4",
        model=fresh(TINY, seed=1),
        steps=1,
        prompts=2,
        samples=2,
        max_tokens=4,
        sampling={"top_k": 40},
        run_dir=tmp_path / "run",
    )
    (row,) = run.metrics()
    assert row["turns"] >= 1 and row["return_mean"] > 0
    report = sf.evaluate(run.path, k=(1, 2), episodes=4)
    assert report["examples"] == 4 and report["reward"] > 0 and report["length"] > 0
