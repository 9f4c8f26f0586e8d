"""KTO and ORPO: TRL's numbers through the shipped methods, labelled answers in every form, a batch by hand."""

from __future__ import annotations

import dataclasses

import pytest
import torch

pytest.importorskip("transformers", reason="language models need surefoot[language]")

import surefoot as sf
from surefoot.envs.language import resolve
from surefoot.envs.language.pairs import labelled
from surefoot.errors import UsageError
from surefoot.loops.group_rollout.learner import LanguageLearner
from surefoot.loops.group_rollout.rewards import make_rewards
from surefoot.methods.preference.baselines import ORPO
from surefoot.methods.preference.kto import KTO
from surefoot.models.language.generation import generate
from surefoot.models.language.nano import Nano, fresh
from surefoot.models.language.sequences import join
from surefoot.objectives.preferences import Compared, odds

F64 = torch.float64
TINY = Nano(width=16, layers=1, heads=2, context=48, warmup=0)
SINGLE = [{"prompt": f"{i}+1=", "completion": f"{i + 1 + i % 2}", "label": i % 2 == 0} for i in range(20)]
PAIRS = [{"prompt": f"{i}+1=", "chosen": f"{i + 1}", "rejected": f"{i * 7 % 10}, or so"} for i in range(20)]


def learner(method, rows=SINGLE, **settings):
    task = resolve(rows)
    return LanguageLearner(method, fresh(TINY, seed=1), task, make_rewards(task, None, None), generate, **settings)


def test_ktos_numbers_are_trls():
    ratio = torch.tensor([1.0, -1.0], dtype=F64, requires_grad=True)
    found = KTO().objective().losses(ratio, torch.tensor([True, False]), 0.4)
    assert found.tolist() == pytest.approx([0.485004, 0.465057], abs=1e-6)
    assert torch.autograd.grad(found.sum(), ratio)[0].tolist() == pytest.approx([-0.024978, 0.024878], abs=1e-6)
    weighted = KTO(desirable=2.0, undesirable=0.5).objective()
    assert weighted.losses(ratio, torch.tensor([True, False]), 0.4).tolist() == pytest.approx(
        [0.970009, 0.232529], abs=1e-6
    )
    assert torch.autograd.gradcheck(lambda x: weighted.losses(x, torch.tensor([True, False]), 0.4), (ratio,))


def test_orpos_numbers_are_trls():
    log_prob = torch.tensor([(-12.0, -15.0)], dtype=F64, requires_grad=True)
    pairs = Compared(log_prob, tokens=torch.tensor([(4.0, 6.0)], dtype=F64))
    loss = ORPO().pair_objective().losses(pairs)
    assert loss.item() == pytest.approx(12 / 4 + 0.099574, abs=1e-6)
    (slope,) = torch.autograd.grad(loss, log_prob)
    assert slope[0].tolist() == pytest.approx([-0.25 - 0.016590, 0.011449], abs=1e-6)


def test_the_odds_of_what_is_certain_are_finite():
    certain = torch.tensor([0.0, -1e-9, -30.0], requires_grad=True)
    loss = odds(certain, torch.tensor([-1.0, 0.0, 0.0]))
    assert loss.isfinite().all() and torch.autograd.grad(loss.sum(), certain)[0].isfinite().all()


@pytest.mark.parametrize("rows", [SINGLE, PAIRS], ids=["labelled answers", "pairs"])
def test_a_step_of_kto_by_hand(rows):
    run = learner(KTO(prompts=4, beta=0.5, undesirable=0.8), rows, learning_rate=0.01)
    run.iterate()
    index = run.next_prompts(4)
    run.drawn -= 4
    examples = [run.task.example(int(i)) for i in index]
    each = [labelled(example) for example in examples]
    answers = len(each[0])
    prompts = run.model.encode([e.prompt for e in examples for _ in range(answers)])
    said = run.model.encode_completions([text for several in each for text, _ in several])

    def ratio(said):
        rows = join(prompts, said)
        now, before = (run.model.statistics(rows, reference=x).log_prob.sum(1).detach() for x in (False, True))
        return now - before

    base = max(0.0, float(ratio(said[answers:] + said[:answers]).mean()))
    good, found = torch.tensor([g for several in each for _, g in several]), ratio(said)
    expected = torch.where(good, (-0.5 * (found - base)).sigmoid(), 0.8 * (-0.5 * (base - found)).sigmoid()).mean()
    row = run.iterate()[0]
    assert row["loss"] == pytest.approx(float(expected), abs=1e-5) and row["base"] == pytest.approx(base, abs=1e-5)
    gain = 0.5 * (found - base)
    assert row["desirable"] == pytest.approx(float((good * gain).mean()), abs=1e-5)


def test_the_reference_is_read_once_and_pieces_do_not_matter():
    found = []
    for tokens in (None, 40, 1):
        run = learner(KTO(prompts=6, micro_tokens=tokens))
        rollout, _ = run.collect()
        assert rollout.progress.memory["reference"].isnan().sum() == 18 - 6
        found.append(run.gradient(run.method.terms(rollout)))
    for other in found[1:]:
        for name, x in found[0].items():
            torch.testing.assert_close(other[name], x, rtol=1e-4, atol=1e-6)


def test_labels_are_read_in_the_forms_that_files_have():
    for said, good in ((True, True), ("false", False), ("True", True), (0, False), ("1", True)):
        task = resolve([{**SINGLE[0], "label": said, "annotator": "b"}, *SINGLE[1:3]])
        place = next(i for i in range(3) if "annotator" in task.rows[i])
        example = task._read(place)
        assert labelled(example) == [("1", good)] and example.fields["annotator"] == "b"
        assert example.demonstration is None


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"label": "perhaps"}, "row 2: label='perhaps' is not allowed; it must be true or false"),
        ({"label": None}, "row 2: label=None"),
        ({"completion": ""}, "row 2: the completion is empty"),
        ({"completion": 3}, "row 2: the completion must be a text"),
    ],
)
def test_damaged_rows_are_named_before_training(row, said):
    with pytest.raises(UsageError, match=said):
        resolve([SINGLE[0], {**SINGLE[1], **row}, *SINGLE[2:5]])


def test_mistakes_are_named():
    with pytest.raises(UsageError, match="learns from labelled answers, but the task has none"):
        sf.train("kto", task="arithmetic:digits=1", model=fresh(TINY), steps=1)
    for setting in ({"epochs": 2}, {"minibatches": 2}, {"desirable": 0.0}, {"prompts": 1}):
        with pytest.raises(UsageError, match=next(iter(setting))):
            dataclasses.replace(KTO(), **setting)
    with pytest.raises(UsageError, match="columns prompt, chosen and rejected"):
        learner(ORPO()).iterate()
