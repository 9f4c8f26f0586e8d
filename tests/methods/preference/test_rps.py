"""RPS: the card's neighbours, scores and order statistics; a model that is asked for directions; the command."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

pytest.importorskip("transformers", reason="language models need surefoot[language]")

import surefoot as sf
from surefoot.cli import main
from surefoot.envs.language import resolve
from surefoot.errors import UsageError
from surefoot.loops.group_rollout.learner import LanguageLearner
from surefoot.loops.group_rollout.rewards import make_rewards
from surefoot.methods.preference.rps import RPS
from surefoot.models.language.agent import LanguageAgent
from surefoot.models.language.generation import Completions, generate
from surefoot.models.language.nano import Nano, fresh
from surefoot.models.language.steering import Steering, angle, best, cap, of_angle, unit
from surefoot.seeding import numpy_stream

NOTHING = numpy_stream(0, "no neighbours are drawn")
SIZE = Nano(width=16, layers=1, heads=2, context=128, warmup=0)


def degrees(rule: Steering, target: float) -> list[int]:
    found = rule.neighbours(of_angle(target), NOTHING)
    return [round(float(x)) for x in np.degrees(np.arctan2(found[:, 1], found[:, 0]))]


# --- the rule --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "wanted"),
    [
        (10, [10, 5, 15, 0, 20]),
        (20, [20, 15, 25, 10, 30]),
        (30, [30, 25, 35, 20, 40]),
        (35, [35, 30, 40, 25, 20]),
        (40, [40, 35, 30, 25, 20]),
        (45, [40, 35, 30, 25, 20]),
    ],
)
def test_the_neighbours_of_the_papers_grid(target, wanted):
    assert degrees(Steering(), target) == wanted
    inside = degrees(Steering(include_target=True), target)
    assert inside == (wanted if target < 45 else [45, 40, 35, 30, 25])


def test_other_neighbourhoods():
    assert degrees(Steering(grid="relative"), 45) == [45, 40, 50, 35, 55]
    assert degrees(Steering(max_angle=0.0, candidates=1), 30) == [30]
    assert degrees(Steering(max_angle=0.0), 30) == [30] * 5  # best-of-k
    assert degrees(Steering(max_angle=5.0), 45) == [40] * 5
    assert degrees(Steering(max_angle=7.0), 40) == [40, 35, 40, 35, 40]


def test_a_cap_is_drawn_uniformly():
    """Of a cap of the sphere the part within an angle has the share (1 − cos φ)/(1 − cos θ), of an arc φ/θ."""
    for centre, share in ((unit([1.0, 2.0, 2.0]), lambda x: 1 - np.cos(x)), (of_angle(20.0), lambda x: x)):
        found = cap(centre, 40.0, 20_000, numpy_stream(1, "cap"))
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1)
        away = angle(found, centre)
        assert away.max() <= 40.0 + 1e-6
        for part in (10, 25, 35):
            expected = share(np.radians(part)) / share(np.radians(40))
            assert (away <= part).mean() == pytest.approx(expected, abs=0.012)
        assert found.mean(0) / np.linalg.norm(found.mean(0)) == pytest.approx(centre, abs=0.02)
    rule = Steering(grid="cap", candidates=8)
    near = rule.neighbours(unit([1.0, 1.0, 1.0]), numpy_stream(2, "cap"))
    away = angle(near, unit([1.0, 1.0, 1.0]))
    assert near.shape == (8, 3) and (np.diff(away) >= 0).all() and away.max() <= 30


@pytest.mark.parametrize(
    ("target", "said"), [(10, "98 17"), (20, "94 34"), (30, "87 50"), (45, "71 71"), (-10, "98 -17")]
)
def test_a_prompt_asks_for_a_direction(target, said):
    high, low = said.split()
    wanted = f"maximize weighted rating = helpful*{high} + brief*{low}: why?"
    rule, names = Steering(), ["helpful", "brief"]
    assert rule.ask("why?", of_angle(target), names) == wanted
    chat = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "why?"}]
    assert rule.ask(chat, of_angle(target), names) == [chat[0], {"role": "user", "content": wanted}]


def test_the_target_scores_whatever_was_generated_from():
    rewards = np.array([[80, 20], [70, 45], [62, 50], [90, 5], [55, 58]], float)
    target = of_angle(45.0)
    np.testing.assert_allclose(rewards @ target, [70.710678, 81.317280, 79.195959, 67.175144, 79.903066], atol=1e-6)
    assert best(rewards, target)[0] == 1 and best(rewards, target)[1] == pytest.approx(81.317280)
    assert best(rewards, 3.0 * target)[0] == 1 and best(rewards + [100, -7], target)[0] == 1
    own = Steering().neighbours(target, NOTHING)
    assert (rewards * own).sum(1).argmax() != 1  # by the directions of their generation another one would win
    drawn = np.random.default_rng(0).normal(size=(50, 5, 2))
    assert (best(drawn, target)[1][:, None] >= drawn @ target).all()


def test_the_gain_where_the_neighbours_are_better_and_the_loss_where_they_are_not():
    def largest(means) -> float:
        def density(x):
            at = norm.cdf(x - means)
            return x * sum(norm.pdf(x - m) * np.prod(np.delete(at, i)) for i, m in enumerate(means))

        return quad(density, -10, 10)[0]

    assert largest(np.zeros(5)) == pytest.approx(1.162964, abs=1e-5)
    assert largest(np.array([0, 0.2, 0.4, 0.6, 0.8])) == pytest.approx(1.620073, abs=1e-5)
    assert largest(np.array([0.5, 0.25, 0.25, -0.5, -0.5])) == pytest.approx(1.279921, abs=1e-5)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda: Steering(template="{prompt}"), "it must have {weights} and {prompt}"),
        (lambda: Steering(template="{weights} {prompt} {other}"), "no other braces"),
        (lambda: RPS(template="no"), "template='no'"),
        (lambda: Steering(candidates=0), "candidates=0"),
        (lambda: RPS(centre=(0.0, 0.0)), "weights that are not all 0"),
        (lambda: unit([1.0, 2.0], 3), "for 2 attributes, but there are 3"),
        (lambda: Steering(max_angle=3.0).neighbours(of_angle(80.0), NOTHING), "no direction of the absolute grid"),
        (lambda: Steering().neighbours(unit([1, 1, 1]), NOTHING), "use grid='cap'"),
    ],
)
def test_bad_input_is_refused(made, words):
    with pytest.raises(UsageError, match=words.replace("{", r"\{").replace("}", r"\}")):
        made()


# --- a model ---------------------------------------------------------------------------------------------------------


def long(completions, **_):
    return [len(text) / 4 for text in completions]


def digits(completions, **_):
    return [sum(c.isdigit() for c in text) / 4 for text in completions]


def learner(method, rows=None):
    task = resolve([{"prompt": f"{i}="} for i in range(20)] if rows is None else rows)
    rewards = make_rewards(task, [long, digits], None)
    return LanguageLearner(method, fresh(SIZE, seed=0), task, rewards, generate, learning_rate=3e-3)


def test_in_training_every_prompt_asks_for_a_direction_of_the_cap():
    method = RPS(prompts=6, samples=4, max_tokens=4, centre=(1.0, 0.0), spread=20.0)
    run = learner(method)
    rollout, row = run.collect()
    for i, example in enumerate(rollout.examples):
        weights = example.prompt.partition(" = ")[2].partition(":")[0].split(" + ")
        found = np.array([int(part.partition("*")[2]) for part in weights]) / 100
        assert weights[0].startswith("long*") and angle(unit(found), of_angle(0.0)) <= 20.6
        components = np.array([x[i].tolist() for x in rollout.components.values()])
        np.testing.assert_allclose(found @ components, rollout.reward[i].tolist(), atol=0.02)
    assert row["return_mean"] == pytest.approx(float(rollout.reward.mean()))
    assert len({example.prompt.partition(":")[0] for example in rollout.examples}) > 3


def test_the_agent_says_how_it_is_asked():
    facts = learner(RPS(candidates=3, template="{weights}|{prompt}")).agent().facts
    assert facts["steering"] == {
        "candidates": 3,
        "max_angle": 30.0,
        "grid": "absolute",
        "include_target": False,
        "template": "{weights}|{prompt}",
    }


class Scripted(LanguageAgent):
    """Answers as long as the first weight of its prompt says, with digits for the second."""

    def __init__(self, **facts):
        super().__init__(SimpleNamespace(decode=lambda rows: ["".join(map(chr, row)) for row in rows]), facts)
        self.asked = []

    def write(self, prompts, samples=1, **_):
        self.asked += prompts
        texts = []
        for prompt in prompts:
            first, second = (
                int(part.partition("*")[2]) for part in prompt.partition(": ")[0].split(" = ")[1].split(" + ")
            )
            texts.append("x" * (first // 10) + "1" * max(0, second // 10 if second < 60 else 0))
        rows = [[ord(c) for c in text] for text in texts]
        return Completions(rows, [[0.0] * len(row) for row in rows], [True] * len(rows))


def test_answers_are_chosen_for_the_target_and_compared_with_best_of_k():
    """A model that fails for directions beyond its training: at 45° its own answers have no digits."""
    agent = Scripted()
    found = sf.steer(agent, 45, ["a", "b"], reward=[long, digits])
    assert len(agent.asked) == 2 * 2 * 5 and agent.asked[0] == "maximize weighted rating = long*77 + digits*64: a"
    assert found.texts == ["x" * 8 + "1" * 5] * 2  # that of 35°: 82 and 57
    own = np.array([7, 0]) / 4 @ of_angle(45.0)
    np.testing.assert_allclose(found.scores[:, 1:], own)
    assert found.wins.tolist() == [1.0, 1.0] and (found.scores[:, 0] > own).all()
    judged = sf.steer(
        agent, 45, ["a", "b"], reward=[long, digits], judge=[lambda completions, **_: [0.0] * len(completions), long]
    )
    np.testing.assert_allclose(judged.scores[:, 0], 13 / 4 * of_angle(45.0)[1])
    same = sf.steer(agent, 10, ["a"], reward=[long, digits], max_angle=0.0)
    assert same.wins.tolist() == [0.5]


def test_what_cannot_be_steered_is_refused():
    for policy, direction, given, words in (
        (object(), 30, {"reward": [long, digits]}, "is not a language model"),
        (Scripted(), 30, {"reward": [long]}, "between two or more attributes"),
        (Scripted(), 30, {}, "between two or more attributes"),
        (Scripted(), [1, 2, 3], {"reward": [long, digits]}, "for 3 attributes, but there are 2"),
        (Scripted(), 30, {"reward": [long, digits], "judge": [long]}, "judge=.* has 1 attributes, reward has 2"),
    ):
        with pytest.raises(UsageError, match=words):
            sf.steer(policy, direction, ["a"], **given)
    with pytest.raises(UsageError, match="does not record its task"):
        sf.steer(Scripted(), 30, reward=[long, digits])
    with pytest.raises(UsageError, match="RPS compares at least 2 rewards and has 1"):
        sf.train("rps", [{"prompt": "a"}] * 4, 1, reward=long)


def test_from_the_shell(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "attributes_of_rps.py").write_text(
        "def long(completions, **_):\n    return [len(t) / 4 for t in completions]\n\n"
        "def digits(completions, **_):\n    return [sum(c.isdigit() for c in t) / 4 for t in completions]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"prompt": "{i}="}}\n' for i in range(20)))
    sizes = ["--steps", "1", "--prompts", "2", "--samples", "2", "--max-tokens", "3", "--nano-warmup", "0"]
    reward = "attributes_of_rps:long,attributes_of_rps:digits"
    main(["train", "rps", "--task", str(rows), "--reward", reward, *sizes, "--run-dir", "run"])
    capsys.readouterr()
    main(["steer", "run", "--direction", "10..45", "--points", "2", "--candidates", "2", "--trust"])
    said = capsys.readouterr().out
    assert "10°" in said and "45°" in said and "win rate" in said and "2 prompts" in said
    with pytest.raises(SystemExit, match="2"):
        main(["steer", "run", "--direction", "north", "--trust"])
    assert "write an angle in degrees such as 30" in " ".join(capsys.readouterr().err.split())
