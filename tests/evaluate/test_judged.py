"""A model judged against what it was before training."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("transformers", reason="language models need surefoot[language]")

import surefoot as sf
from surefoot.cli import main
from surefoot.errors import UsageError
from surefoot.evaluate.judged import Judged
from surefoot.models.language.sequences import join

ROWS = [{"prompt": f"{i % 10}=", "chosen": "11", "rejected": "2", "group": "ab"[i % 2]} for i in range(80)]
SETTINGS = {
    "nano_warmup": 2,  # hardly a word of it
    "loggers": (),
    "prompts": 8,
    "max_tokens": 4,
}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    found = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    found.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return found


@pytest.fixture(scope="module")
def run(file, tmp_path_factory):
    return sf.train(
        "dpo", file, 12, run_dir=tmp_path_factory.mktemp("run") / "dpo", learning_rate=3e-3, beta=0.3, **SETTINGS
    )


def ones(completions, **_):
    return [float(text.count("1")) for text in completions]


def test_the_figures_are_those_of_the_scores():
    scores = np.array([[1.0, 0.0], [2.0, 2.0], [0.0, 3.0], [5.0, 1.0]])
    found = Judged("t", "j", 0, scores, np.array([0.5, 1.5, 1.0, 1.0]), ("x", "x", "y", "y")).figures()
    assert (
        found["win_rate"] == 0.625 and found["kl"] == 1.0 and (found["score"], found["reference_score"]) == (2.0, 1.5)
    )
    assert {name: one["win_rate"] for name, one in found["groups"].items()} == {"x": 0.75, "y": 0.5}
    assert found["worst_group"] == "y" and "group y            0.500" in found["table"]
    assert (
        found["kl_interval"][0] < 1.0 < found["kl_interval"][1]
        and "groups" not in Judged("t", "j", 0, scores, scores[:, 0]).figures()
    )


def test_a_model_that_has_learned_wins_where_the_judge_likes_what_it_learned(run):
    found = sf.evaluate(run, judge=ones, episodes=100, seed=1)
    assert found["prompts"] == 8  # each held-out prompt once
    assert found["win_rate"] > 0.6 and found["kl"] > 0.1 and found["score"] > found["reference_score"]
    assert set(found["groups"]) == {"a", "b"} and sum(one["prompts"] for one in found["groups"].values()) == 8
    kept = json.loads((run.path / "judged-function.json").read_text())
    assert kept == json.loads(json.dumps(found)) and sf.evaluate(run, judge=ones, episodes=100, seed=1) == found


def test_the_divergence_is_the_log_ratio_of_the_answers(run):
    """Of what the model wrote, under itself and under the model before training."""
    seen = []

    def judge(completion_ids, **_):
        seen.append(completion_ids)
        return [0.0] * len(completion_ids)

    found = sf.evaluate(run, judge=judge, episodes=3)
    assert found["win_rate"] == 0.5 and len(seen) == 2  # all ties; once for each model
    from surefoot.configure import make_method
    from surefoot.evaluate.pairs import Begun
    from surefoot.evaluate.periodic import seeds_in

    learner = Begun.of(run, make_method).learner()
    asked = [learner.task.example(i, "test").prompt for i in seeds_in(learner.task, 3, 0)]
    rows, sums = join(learner.model.encode(asked), seen[0]), []
    for model in (run.agent().model, learner.model):
        sums.append(model.statistics(rows).log_prob.sum().item())
    assert found["kl"] == pytest.approx((sums[0] - sums[1]) / 3, abs=1e-5)


def test_a_model_that_has_not_moved_wins_half_of_the_time(file, tmp_path):
    still = sf.train("dpo", file, 1, run_dir=tmp_path / "still", learning_rate=1e-12, **SETTINGS)
    found = sf.evaluate(still, judge=ones, episodes=8)
    assert found["win_rate"] == 0.5 and abs(found["kl"]) < 1e-4


@pytest.mark.slow
def test_a_reward_model_and_the_verifier_of_a_task_judge(file, run, tmp_path, capsys):
    scorer = sf.train(
        "reward-model", file, 20, run_dir=tmp_path / "scores", nano_warmup=20, learning_rate=1e-3, loggers=(), prompts=8
    )
    main(["evaluate", str(run.path), "--judge", f"reward:{scorer.path}", "--episodes", "8"])
    said = capsys.readouterr().out
    assert "8 held-out prompts" in said and "against the model before training" in said and "group a" in said
    verified = sf.train("dpo", "preferences:pairs=40", 1, run_dir=tmp_path / "known", **SETTINGS)
    assert sf.evaluate(verified, judge="task", episodes=4)["judge"].startswith("the verifier of preferences")


@pytest.mark.parametrize(
    "given, words",
    (
        ({"judge": "task"}, "has no verifier; give judge='reward:FOLDER'"),
        ({"judge": "best"}, "it is task, reward:FOLDER"),
        ({"judge": ones, "k": (1,)}, "k is not allowed with judge"),
        ({"judge": ones, "video": "film.mp4"}, "video is not allowed with judge"),
        ({"judge": ones, "episodes": 0}, "episodes=0"),
    ),
)
def test_what_cannot_be_judged_is_refused(run, given, words):
    with pytest.raises(UsageError, match=words):
        sf.evaluate(run, **given)


def test_an_agent_alone_does_not_know_what_it_was(run):
    with pytest.raises(UsageError, match="needs the folder of a run"):
        sf.evaluate(run.agent(), judge=ones)
