"""RLoop: the numbers of its card, what the archive keeps, and the phases of a run."""

from __future__ import annotations

from copy import deepcopy
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("transformers", reason="language models need surefoot[language]")

import language_micro as micro

from surefoot.claims.language.rloop import entropy, forgetting_rate
from surefoot.envs.language import Example
from surefoot.errors import UsageError
from surefoot.evaluate.language import pass_at_k
from surefoot.loops.group_rollout.rollout import Rollout
from surefoot.methods.language.baselines import DAPO, SFT
from surefoot.methods.language.rloop import RLoop, archived
from surefoot.methods.language.rloop.archive import Archive, drawn
from surefoot.models.language.sequences import join

F64 = torch.float64
SMALL = {"prompts": 4, "samples": 4, "max_tokens": 4, "explore_steps": 2, "resamples": 1, "hard": 1.0}


def test_pass_at_k():
    found = [float(pass_at_k(np.array([c]), n, k)[0]) for n, c, k in ((64, 1, 32), (64, 4, 32), (32, 3, 8))]
    assert found == pytest.approx([0.5, 0.943404, 0.591935], abs=1e-6)


def test_what_one_policy_knew_at_any_time_and_what_the_last_one_knows():
    policies = torch.tensor([[0.5, 0.2, 0.2, 0.1], [0.2, 0.7, 0.05, 0.05], [0.1, 0.05, 0.8, 0.05]], dtype=F64)
    right = torch.tensor([0, 1, 1, 1], dtype=F64)
    mixed, last = (x * right / (x * right).sum() for x in (policies.mean(0), policies[-1]))
    assert mixed.tolist() == pytest.approx([0, 0.431818, 0.477273, 0.090909], abs=1e-6)
    assert last.tolist() == pytest.approx([0, 0.055556, 0.888889, 0.055556], abs=1e-6)
    assert (entropy(mixed), entropy(last)) == (pytest.approx(0.933633, abs=1e-6), pytest.approx(0.425848, abs=1e-6))


def test_one_step_of_imitation_is_the_policy_gradient_over_the_chance_of_success():
    policy, right = torch.tensor([0.5, 0.2, 0.2, 0.1], dtype=F64), torch.tensor([0, 1, 1, 1], dtype=F64)
    target = policy * right / (policy * right).sum()
    assert target.tolist() == pytest.approx([0, 0.4, 0.4, 0.2])
    logits = policy.log().requires_grad_()
    log_prob = logits.log_softmax(-1)[:, None]
    loss, _ = (
        RLoop()
        .imitation_objective()
        .loss(log_prob, log_prob.detach(), torch.ones(4, 1, dtype=F64), weights=target[:, None])
    )
    found = -torch.autograd.grad(loss, logits, retain_graph=True)[0]
    assert found.tolist() == pytest.approx([-0.5, 0.2, 0.2, 0.1])
    rewarded = torch.autograd.grad((log_prob.exp()[:, 0] * right).sum(), logits)[0]
    torch.testing.assert_close(found, rewarded / (policy * right).sum())


def test_the_forgetting_rate():
    assert forgetting_rate([1, 1, 0, 1, 0], [1, 0, 1, 1, 0]) == pytest.approx(1 / 3)
    assert forgetting_rate([0, 0], [1, 0]) == 0


def written(index, reward, texts, truncated=None):
    """A rollout whose completions are these rows of tokens."""
    reward = torch.tensor(reward)
    prompts = [[1, 10 + i] for i in index for _ in range(reward.shape[1])]
    cut = torch.zeros_like(reward).bool() if truncated is None else torch.tensor(truncated)
    sequences = join(prompts, texts)
    blank = torch.zeros(sequences.tokens.shape)
    examples = [Example(f"p{i}") for i in index]
    return Rollout(examples, torch.tensor(index), sequences, [""] * len(texts), blank, reward, {"r": reward}, cut)


def test_the_archive_keeps_what_succeeded_and_ended():
    first = written([3, 7], [[1.0, 0.0], [1.0, 1.0]], [[4], [5, 5], [6, 6, 6], [7]], [[False] * 2, [True, False]])
    archive = Archive.empty().added([first], 0).added([written([3], [[0.0, 1.0]], [[8], [9, 9]])], 1)
    assert archive.prompt.tolist() == [3, 7, 3] and archive.step.tolist() == [0, 0, 1]
    assert archive.asked.tolist() == [3, 7, 3] and archive.solved.tolist() == [0.5, 1.0, 0.5]
    rows = [archive.tokens[i, : archive.lengths[i]].tolist() for i in range(3)]
    assert rows == [[1, 13, 4], [1, 17, 7], [1, 13, 9, 9]]
    assert archive.valid.sum(1).tolist() == [1, 1, 2] and not archive.valid[:, :2].any()


def test_hard_prompts_alone_once_for_each_text_and_never_too_many():
    stream = torch.Generator().manual_seed(0)
    rollout = written([1, 2, 3], [[1.0, 1.0], [1.0, 0.0], [0.0, 0.0]], [[4], [5], [6], [7], [8], [9]])
    archive = Archive.empty().added([rollout, rollout], 0)
    assert archive.chosen(0.5, 4, stream).tolist() == [2]  # of prompt 2; the second time it is the same text
    assert sorted(archive.chosen(1.0, 4, stream).tolist()) == [0, 1, 2]
    assert len(archive.chosen(1.0, 1, stream)) == 2
    assert archive.chosen(0.4, 4, stream).tolist() == [] == Archive.empty().chosen(1.0, 4, stream).tolist()


def test_early_iterations_are_drawn_as_often_as_late_ones():
    """A hundred late successes do not drown the one that came early."""
    stream = torch.Generator().manual_seed(0)
    steps = {0: [0], 9: list(range(1, 101))}
    assert sum(drawn(steps, 1, stream) == [0] for _ in range(400)) / 400 == pytest.approx(0.5, abs=0.1)
    assert sorted(drawn(steps, 200, stream)) == list(range(101)) and 0 in drawn(steps, 8, stream)


TASK = micro.Bits(2)


class Ends(micro.Bits):
    """Anything that ends before it is cut off succeeds, on two prompts in three."""

    def reward(self, example, completion):
        return float(example.prompt != "c=" and len(completion) < 4) if "1" in completion[:1] else 0.0


@pytest.fixture(scope="module")
def model():
    return micro.at_random(TASK)


def begun(model, **settings):
    return micro.learner(RLoop(**{**SMALL, **settings}), Ends(2), deepcopy(model), seed=2)


def vector(weights):
    return torch.cat([w.detach().flatten() for w in weights])


def test_imitation_starts_from_where_exploring_did_with_a_fresh_optimiser(model):
    run = begun(model)
    start = vector(run.weights.values())
    run.iterate()
    assert not torch.equal(vector(run.weights.values()), start) and len(run.memory["prompt"]) and run.optimizer.state
    run.iterate()
    assert torch.equal(vector(run.weights.values()), start) and not run.optimizer.state
    left, archive = run.memory["left"], archived(run.memory)
    assert len(left) == 2 * len(left.unique()) and run.learning_rate * 10 == pytest.approx(run._learning_rate())
    assert set(archive.prompt[left].tolist()) <= set(archive.asked[archive.solved > 0].tolist())
    drawn, count = run.drawn, 0
    while len(run.memory["left"]):
        (row,) = run.iterate()
        count += 1
        assert row["batches"] == 0 and row["imitation/surrogate"] == pytest.approx(1)
    assert run.drawn == drawn and count == -(-len(left) // 16)
    begins = [x for name, x in run.memory.items() if name.startswith("start/")]
    assert torch.equal(vector(begins), vector(run.weights.values())) and not torch.equal(vector(begins), start)
    assert run.memory["explored"] == 0 and not len(run.memory["prompt"]) and not run.optimizer.state
    assert run.iterate()[0]["batches"] == 1


def test_imitation_is_the_mean_over_completions_of_the_mean_over_tokens(model):
    run = begun(model)
    run.iterate(), run.iterate()
    rollout, _ = run.collect()
    (term,) = run.method.terms(rollout)
    weights = term.objective.aggregation.weights(term.sequences.valid)
    torch.testing.assert_close(weights.sum(1), torch.full((len(weights),), 1 / len(weights)))
    assert (term.advantage == 1).all() and term.objective.ratio == SFT().objective().ratio
    assert len(term.sequences) == min(16, len(run.memory["left"]))


@pytest.mark.parametrize("settings", [{"exploit_epochs": 0}, {"hard": 1e-6}])
def test_with_nothing_to_imitate_the_policy_is_the_one_before(model, settings):
    run = begun(model, **settings)
    start = vector(run.weights.values())
    run.iterate(), run.iterate()
    assert torch.equal(vector(run.weights.values()), start)
    assert not len(run.memory["left"]) and run.memory["explored"] == 0


def test_while_it_explores_it_is_dapo(model):
    mine = begun(model, explore_steps=9)
    sizes = {name: SMALL[name] for name in ("prompts", "samples", "max_tokens", "resamples")}
    theirs = micro.learner(DAPO(**sizes), Ends(2), deepcopy(model), seed=2)
    for run in (mine, theirs):
        run.iterate(), run.iterate()
    assert torch.equal(vector(mine.weights.values()), vector(theirs.weights.values()))


def test_a_run_goes_on_in_the_middle_of_imitation(model):
    whole, on = begun(model, exploit_epochs=9), begun(model, exploit_epochs=9)
    for _ in range(3):
        whole.iterate()
    assert len(whole.memory["left"])
    on.load(whole.state(), 3, 0)
    rows = [[run.iterate() for _ in range(3)] for run in (whole, on)]
    assert rows[0] == rows[1] and torch.equal(vector(whole.weights.values()), vector(on.weights.values()))


def test_what_cannot_be_is_refused():
    with pytest.raises(UsageError, match="sharding='full'"):
        RLoop().memory(SimpleNamespace(sharded=True), TASK)  # type: ignore[arg-type]
    for wrong in ({"explore_steps": 0}, {"hard": 0.0}, {"most": 0}, {"exploit_speed": 0.0}):
        with pytest.raises(UsageError, match=next(iter(wrong))):
            RLoop(**wrong)
