"""ICPI: the numbers of its card, what a prompt holds, and policies that improve by imagination."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import surefoot as sf
from surefoot.claims.language.icpi import experience
from surefoot.envs.tabular import resolve
from surefoot.errors import UsageError
from surefoot.methods.language.icpi import ICPI, absorbing, best, episodes
from surefoot.methods.language.icpi.imagination import DONE, Imagination, balanced
from surefoot.methods.language.icpi.predictors import Lookup
from surefoot.solvers import evaluate_policy, solve

LEFT, TRY, RIGHT = 0, 1, 2
LOOKUP = Lookup()
CHAIN = resolve("goal-chain")
OPTIMAL = np.array([RIGHT] * 4 + [TRY] + [LEFT] * 3)


def imagination(steps, recent, predictor=LOOKUP, tries=3):
    return Imagination(steps, recent, predictor, np.random.default_rng(0), 9, 3, tries)


def test_the_domains_are_worth_what_they_should_be():
    value = solve(CHAIN, tolerance=1e-12).value
    assert value.tolist() == pytest.approx([0.8 ** abs(s - 4) for s in range(8)] + [0])
    distracted = solve(resolve("goal-chain:distractors=3"), tolerance=1e-12).value
    assert distracted[:-1].view(8, 3).tolist() == [pytest.approx([float(v)] * 3) for v in value[:-1]]
    maze = solve(resolve("goal-maze"), tolerance=1e-12).value.log() / np.log(0.8)
    assert maze[:9].round().int().tolist() == [1, 2, 3, 0, 3, 4, 1, 2, 3]  # steps to the cell (1, 0)
    assert absorbing(CHAIN).nonzero()[0].tolist() == [8] and absorbing(resolve("goal-maze")).nonzero()[0].tolist() == [
        9
    ]


def test_with_all_steps_and_an_optimal_policy_q_is_exact():
    model = imagination(*experience(CHAIN, OPTIMAL))
    assert ICPI().values(CHAIN, model, 2).tolist() == pytest.approx([0.4096, 0, 0.64])
    assert model.ready() and [model.following(s, RIGHT) for s in range(8)] == [1, 2, 3, 4, 5, 6, 7, 7]
    assert [model.done(4, a) for a in range(3)] == [False, True, False]
    assert model.reward(4, TRY, True) == 1 and model.reward(3, TRY, True) == 0


def test_an_action_that_ends_the_episode_is_worth_its_reward():
    every, _ = experience(CHAIN, OPTIMAL)
    nothing = imagination(every, every[:0])
    assert nothing.value(4, TRY, 0.8, 6, lambda: RIGHT) == 1 and not nothing.ready()


def test_no_imagined_step_makes_all_actions_alike():
    model = imagination(*experience(CHAIN, OPTIMAL))
    assert best(ICPI(longest=0).values(CHAIN, model, 2)).tolist() == [0, 1, 2]
    taken = {ICPI(longest=0).act(CHAIN, model, 2) for _ in range(50)}
    assert taken == {0, 1, 2}


def test_how_often_it_is_greedy():
    for count, wanted in ((0, 0.002473), (1, 0.017986), (2, 0.119203), (3, 0.5), (4, 0.880797), (8, 0.999955)):
        assert ICPI().greedy(count) == ICPI().greedy(count + 8 * (count == 8)) == pytest.approx(wanted, abs=1e-6)
    method, guided = ICPI(min_successes=0, recent=1), []
    state = {"steps": torch.from_numpy(experience(CHAIN, OPTIMAL)[0])}
    for seed in range(200):
        guided.append(method.step(CHAIN, state, seed, 1)[1]["guided"])
    assert np.mean(guided) == pytest.approx(1 / (1 + np.exp(-2)), abs=0.04)  # one episode so far


def test_a_balanced_prompt():
    rng = np.random.default_rng(0)
    labels = np.array([0.0] * 9 + [1.0] * 3)
    shown = labels[balanced(labels, rng)]
    assert (shown == 0).sum() == (shown == 1).sum() == 9 and set(balanced(labels, rng)) == set(range(12))
    assert len(balanced(np.zeros(5), rng)) == 5
    assert not np.array_equal(balanced(labels, rng), balanced(labels, rng))


def test_prompts_hold_steps_with_the_same_action_and_end():
    asked = []

    def model(examples, query, rng):
        asked.append((list(examples), query))
        return None

    every, recent = experience(CHAIN, OPTIMAL)
    one = imagination(every, recent, model, tries=2)
    assert one.done(2, RIGHT) is None and one.reward(2, TRY, True) is None and one.action(2) is None
    assert len(asked) == 6  # each asked twice, as the answers make no sense
    assert {key[1] for key, _ in asked[0][0]} == {RIGHT} and asked[0][1] == (2, RIGHT)
    rewards = [target for _, target in asked[2][0]]
    assert rewards.count(1) == rewards.count(0) == 7  # one success of eight, shown as often as the failures
    assert {len(key) for key, _ in asked[4][0]} == {1} and {target for _, target in asked[4][0]} == {0, 1, 2}


@pytest.mark.parametrize("answer", [9.5, -1.0, 99.0])
def test_answers_without_sense_are_refused(answer):
    model = imagination(*experience(CHAIN, OPTIMAL), predictor=lambda *_: answer)
    assert model.following(2, RIGHT) is None and model.action(2) is None and model.done(2, TRY) is None
    assert model.reward(2, TRY, True) == answer
    assert model.value(2, TRY, 0.8, 6, lambda: TRY) == 0


def test_greedy_on_imagination_is_no_worse_than_the_policy_imagined():
    """With a random policy as the recent one, on the mean of many imagined episodes; far away they see nothing."""
    every, _ = experience(CHAIN, OPTIMAL)
    model, method = imagination(every, every), ICPI(longest=12)
    q = np.mean([[method.values(CHAIN, model, s) for s in range(8)] for _ in range(60)], 0)
    greedy = torch.zeros(9, 3, dtype=torch.float64)
    greedy[torch.arange(9), torch.from_numpy(np.append(q.argmax(1), 0))] = 1
    before = evaluate_policy(CHAIN, torch.full((9, 3), 1 / 3, dtype=torch.float64)).value
    after = evaluate_policy(CHAIN, greedy).value
    assert bool((after >= before - 1e-6)[1:].all()) and float((after - before).max()) > 0.1


def test_the_time_limit_is_no_end():
    method, state = ICPI(episode_steps=2), ICPI().start(CHAIN, 0)
    for iteration in range(20):
        state, _ = method.step(CHAIN, state, 0, iteration)
    steps = state["steps"].numpy()
    assert episodes(steps) == 20 and steps[steps[:, 1] != TRY, DONE].sum() == 0
    assert steps[steps[:, 1] == TRY, DONE].all() and np.bincount(steps[:, 5].astype(int)).max() == 2


def test_it_learns_the_chain(tmp_path):
    run = sf.train("icpi", env="goal-chain", steps=60, seed=1, run_dir=tmp_path / "run")
    assert np.mean([row["return_mean"] for row in run.metrics()[-20:]]) > 0.6
    found = sf.load(run.path).policy[:8]
    assert [int(found[s].argmax()) for s in (2, 3, 4, 5)] == [RIGHT, RIGHT, TRY, LEFT]


def test_a_language_model_continues_the_lines():
    pytest.importorskip("transformers", reason="language models need surefoot[language]")
    from surefoot.methods.language.icpi.continuation import Continuation
    from surefoot.models.language.generation import Completions
    from surefoot.models.language.nano import Nano, fresh

    model, seen = fresh(Nano(width=16, layers=1, heads=2, context=64)), []

    def engine(model, prompts, uniform, **settings):
        seen.extend(model.decode(prompts))
        return Completions(model.encode_completions([answers.pop(0)]), [[0.0]], [True])

    answers = [" 5\n7", "what"]
    ask = Continuation(model, answer=4, engine=engine)
    rng = np.random.default_rng(0)
    lines = [((s, 2.0), s + 1.0) for s in range(20)]
    assert ask(lines[:2], (4.0, 2.0), rng) == 5 and ask(lines, (4.0, 2.0), rng) is None
    assert seen[0] == "0 2: 1\n1 2: 2\n4 2:"
    assert len(seen[1]) == 60 and seen[1].endswith("19 2: 20\n4 2:")
    assert Continuation(model, answer=4)(lines, (4.0, 2.0), rng) is None  # an untrained model says no number


def test_worlds_that_change_from_step_to_step_are_refused():
    stepped = resolve("garnet:4,3,2,horizon=3")
    changing = dataclasses.replace(stepped, transition=stepped.dense_rows.expand(3, -1, -1, -1))
    with pytest.raises(UsageError, match="change from step to step"):
        ICPI().admit(changing)
