"""CoPG: the numbers of its card, and learning from a file of scored completions."""

from __future__ import annotations

import json
from copy import deepcopy
from math import log

import language_micro as micro
import pytest
import torch

pytest.importorskip("transformers", reason="language models need surefoot[language]")

import surefoot as sf
from surefoot.envs.language import resolve
from surefoot.errors import UsageError
from surefoot.loops.group_rollout.method import Batch
from surefoot.methods.language.baselines import RLOO
from surefoot.methods.language.copg import CoPG
from surefoot.objectives import PolicyObjective, advantages, aggregation, ratios, stabilizers

F64 = torch.float64
POLICY, REWARD, BETA = torch.tensor([0.5, 0.3, 0.2], dtype=F64), torch.tensor([1.0, 0.5, 0.0], dtype=F64), 0.5
UNIFORM = torch.full((3,), log(1 / 3), dtype=F64)
PAIR = torch.tensor([[0, 2]])


def loss(log_prob, arms, *, reward=REWARD, beta=BETA, reference=UNIFORM):
    """Form (a) of groups of arms `[prompts, samples]`, each arm a completion of one token; padding holds NaN."""
    rows = arms.flatten()
    valid = torch.tensor([[True, False]]).expand(len(rows), 2)

    def padded(x):
        return torch.stack([x[rows], torch.full_like(x[rows], torch.nan)], 1)

    group = torch.arange(len(arms)).repeat_interleave(arms.shape[1])
    near, kept = padded(reference) if beta else None, {"reward": reward[rows]}
    batch = Batch(valid, padded(log_prob.detach()), torch.ones(len(rows), 2), valid / len(rows), near, group, kept)
    return CoPG(kl=beta).loss(None, batch, padded(log_prob), torch.zeros(len(rows), 2))[0]


def gradient(arms, logits=None, **changes):
    logits = (POLICY.log() if logits is None else logits).clone().requires_grad_()
    return torch.autograd.grad(loss(logits.log_softmax(-1), arms, **changes), logits)[0]


def squares(logits, beta=BETA):
    """Form (b) of the pair."""
    gain = REWARD - beta * (logits.log_softmax(-1) - UNIFORM)
    return (gain[0] - gain[2]) ** 2 / (2 * beta)


def test_one_pair_in_both_forms():
    logits = POLICY.log().requires_grad_()
    assert loss(POLICY.log(), PAIR).item() == pytest.approx(-0.706394, abs=1e-6)
    assert squares(logits).item() == pytest.approx(0.293606, abs=1e-6)
    torch.testing.assert_close(gradient(PAIR), torch.autograd.grad(squares(logits), logits)[0])
    score = torch.tensor([1.0, 0, -1], dtype=F64)  # ∇log π(y) − ∇log π(y')
    torch.testing.assert_close(gradient(PAIR), -0.541855 * score, atol=1e-6, rtol=0)


def test_with_rewards_of_a_quarter_it_is_ipo():
    reward, gain = torch.tensor([0.25, 0, -0.25], dtype=F64), 0.916291
    constant = 0.5**2 / (2 * BETA)
    ipo = (gain - 1 / (2 * BETA)) ** 2
    assert (loss(POLICY.log(), PAIR, reward=reward).item() + constant) * 2 / BETA == pytest.approx(ipo, abs=1e-5)


def test_several_samples_are_rloo_on_the_regularised_reward():
    """In the slots of the common estimator: mask 1, d = π, Â = R^β less the mean of the others'."""
    arms = torch.tensor([[0, 1, 2, 1], [2, 2, 0, 1]])
    gain = (REWARD - BETA * (POLICY.log() - UNIFORM))[arms]
    objective = PolicyObjective(
        RLOO().objective().advantage, ratios.current(), stabilizers.none(), aggregation=aggregation.constant_length(1.0)
    )
    logits = POLICY.log().requires_grad_()
    log_prob = logits.log_softmax(-1)[arms.flatten(), None]
    value, _ = objective.loss(log_prob, log_prob.detach(), advantages.leave_one_out()(gain).view(-1, 1))
    (wanted,) = torch.autograd.grad(4 * value, logits)  # a sum over the four of a prompt
    torch.testing.assert_close(gradient(arms), wanted)


def test_what_changes_nothing():
    wanted = gradient(PAIR)
    torch.testing.assert_close(gradient(PAIR, reward=REWARD + 7), wanted)
    torch.testing.assert_close(gradient(PAIR.flip(1)), wanted)
    torch.testing.assert_close(gradient(PAIR, reference=UNIFORM + 3), wanted)
    assert gradient(torch.tensor([[1, 1]])).abs().max() == 0


def test_at_the_optimum_every_pair_is_content():
    best = UNIFORM + REWARD / BETA
    for pair in torch.cartesian_prod(torch.arange(3), torch.arange(3)):
        assert gradient(pair[None], best).abs().max() < 1e-12


def test_without_divergence_it_is_a_plain_contrast():
    torch.testing.assert_close(gradient(PAIR, beta=0.0), torch.tensor([-1.0, 0, 1], dtype=F64))


@pytest.mark.parametrize("drawn", [(0.1, 0.2, 0.7), (0.05, 0.05, 0.9), (0.6, 0.3, 0.1)])
def test_whoever_wrote_the_completions_the_optimum_is_the_same(drawn):
    pairs, drawn = torch.cartesian_prod(torch.arange(3), torch.arange(3)), torch.tensor(drawn, dtype=F64)
    logits = UNIFORM.clone().requires_grad_()
    newton = torch.optim.LBFGS(
        [logits], max_iter=50, tolerance_grad=1e-10, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure():
        newton.zero_grad()
        log_prob = logits.log_softmax(-1)
        value = sum(drawn[pair].prod() * loss(log_prob, pair[None]) for pair in pairs)
        value.backward()
        return value

    newton.step(closure)
    torch.testing.assert_close(logits.softmax(-1).detach(), (REWARD / BETA).softmax(-1), atol=1e-6, rtol=0)


# --- a file of scored completions ----------------------------------------------------------------------------------

ONE = micro.Bits(1)
ROWS = [{"prompt": f"{x}=", "completions": ["1", "0"], "scores": [1.0, 0.0]} for x in "abc"] * 4


def test_rows_are_read_as_a_rollout():
    run = micro.learner(CoPG(samples=0, prompts=4), resolve(ROWS), micro.fresh(micro.SIZE, seed=0))
    rollout, row = run.collect()
    assert rollout.reward.tolist() == [[1.0, 0.0]] * 4 and rollout.texts == ["1", "0"] * 4 and row == {"batches": 0}
    assert rollout.lengths.tolist() == [[2, 2]] * 4  # with its end
    (term,) = run.method.terms(rollout)
    assert term.sampled is None and term.group.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_it_learns_from_a_file_and_resumes_to_the_same_bits(tmp_path):
    model = micro.at_random(ONE)
    assert 0.3 < micro.written(model, ONE) < 0.7
    method, rows = CoPG(samples=0, prompts=4, epochs=2), resolve(ROWS)
    whole = micro.learner(method, rows, deepcopy(model), total_steps=30)
    seen = [whole.iterate() for _ in range(30)]
    assert micro.written(whole.model, ONE) > 0.9
    on = micro.learner(method, rows, deepcopy(model), total_steps=30)
    cut = micro.learner(method, rows, deepcopy(model), total_steps=30)
    assert [cut.iterate() for _ in range(3)] == seen[:3]
    on.load(cut.state(), cut.iteration, 0)
    assert [on.iterate() for _ in range(2)] == seen[3:5]


def test_a_run_from_a_file(tmp_path):
    file = tmp_path / "scored.jsonl"
    file.write_text("\n".join(map(json.dumps, ROWS)))
    run = sf.train(
        "copg",
        task=file,
        model=micro.fresh(micro.SIZE, seed=0),
        samples=0,
        prompts=4,
        steps=2,
        run_dir=tmp_path / "run",
    )
    assert len(run.metrics()) == 2 and run.metrics()[-1]["contrast"] >= 0


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"completions": "1", "scores": [1.0]}, "row 1: the completions '1' are not allowed"),
        ({"completions": ["1", 0], "scores": [1.0, 0.0]}, "must be a list of texts"),
        ({"completions": ["1", "0"], "scores": [1.0]}, "list of 2 finite numbers"),
        ({"completions": ["1", "0"], "rewards": [1.0, float("nan")]}, "row 1: the scores"),
        ({"completions": ["1"], "rewards": [1.0]}, "has 1 scored completions"),
        ({"completions": ["1", "0"]}, 'columns "completions" and "scores"'),
    ],
)
def test_bad_rows_are_named_before_any_work(row, words):
    with pytest.raises(UsageError, match=words):
        sf.train("copg", task=[{"prompt": "a=", **row}] * 4, model=micro.fresh(micro.SIZE, seed=0), samples=0, steps=1)


def test_rows_with_different_numbers_of_completions_are_refused():
    rows = [*ROWS, {"prompt": "d=", "completions": ["1", "0", "2"], "scores": [1, 0, 0]}]
    with pytest.raises(UsageError, match="'d=' has 3 scored completions, the first one has 2"):
        sf.train("copg", task=rows, test_data=ROWS, model=micro.fresh(micro.SIZE, seed=0), samples=0, steps=1)


def test_a_completion_alone_is_refused():
    with pytest.raises(UsageError, match="samples=1"):
        CoPG(samples=1)
