"""CAPO: the numbers of its card, Taylor polynomials against exact softmaxes, Adam's own steps, and the base method."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("transformers", reason="language models need surefoot[language]")

from surefoot.envs.language import resolve
from surefoot.errors import UsageError
from surefoot.loops.group_rollout.learner import LanguageLearner
from surefoot.loops.group_rollout.method import GroupRollout
from surefoot.loops.group_rollout.rewards import make_rewards
from surefoot.methods.language.capo import CAPO, last_layer
from surefoot.methods.language.capo.last_layer import Moments, Written, alone, shifts, together
from surefoot.models.language.generation import generate
from surefoot.models.language.model import TokenStatistics
from surefoot.models.language.nano import Nano, fresh
from surefoot.models.language.sequences import join

F64 = torch.float64
HIDDEN, LOGITS = torch.tensor([[0.6, -0.8]], dtype=F64), torch.tensor([[0.2, -0.1, 0.4]], dtype=F64)


def written(hidden=HIDDEN, logits=LOGITS, action=0, advantage=1.5, row=None):
    policy = logits.softmax(-1)
    row = torch.arange(logits.shape[1]).repeat(len(logits), 1) if row is None else row
    chosen = torch.nn.functional.one_hot(torch.as_tensor(action).expand(len(logits)), logits.shape[1])
    return Written(hidden, row, policy, chosen - policy, torch.as_tensor(advantage, dtype=F64).expand(len(logits)))


def drawn(seed, tokens=5, candidates=4, width=3):
    g = torch.Generator().manual_seed(seed)
    hidden, logits = (
        torch.randn(tokens, width, generator=g, dtype=F64),
        torch.randn(tokens, candidates, generator=g, dtype=F64),
    )
    action = torch.randint(candidates, (tokens,), generator=g)
    return written(hidden, logits, action, torch.randn(tokens, generator=g, dtype=F64)), g


def test_the_worked_example():
    one = written()
    u = alone(one, None)
    assert one.policy[0].tolist() == pytest.approx([0.337585, 0.250089, 0.412327], abs=1e-6)
    assert u[0].tolist() == pytest.approx([0.993623, -0.375133, -0.618490], abs=1e-6)
    objective, policy = shifts(one, u, 0.05)
    assert objective.item() == pytest.approx(0.076442, abs=1e-6) and policy.item() == pytest.approx(
        0.00126763, abs=1e-8
    )


def test_the_change_of_the_objective_is_its_second_order_polynomial():
    one = written()
    u, errors = alone(one, None), []
    for rate in (0.1, 0.05, 0.025):
        exact = 1.5 * ((LOGITS + rate * u).softmax(-1)[0, 0] / one.policy[0, 0] - 1)
        errors.append((exact - shifts(one, u, rate)[0]).item())
    assert errors == pytest.approx([-2.140e-4, -2.603e-5, -3.208e-6], rel=1e-3)


def test_the_change_of_the_policy_is_on_average_a_kl():
    u = alone(written(), None)
    each = torch.stack([shifts(written(action=a), u, 0.05)[1] for a in range(3)]).squeeze(1)
    p, new = written().policy[0], (LOGITS + 0.05 * u).softmax(-1)[0]
    assert (p * each).sum().item() == pytest.approx(0.00065754, abs=1e-8)
    assert (p * (p / new).log()).sum().item() == pytest.approx(0.00066246, abs=1e-8)


@given(seed=st.integers(0, 10**6), rate=st.floats(1e-3, 1))
def test_with_sgd_both_have_a_closed_form_and_their_parities(seed, rate):
    some, _ = drawn(seed)
    size, v, a = some.hidden.square().sum(1), some.score.square().sum(1), some.advantage
    objective, policy = shifts(some, alone(some, None), rate)
    torch.testing.assert_close(policy, rate**2 / 2 * a**2 * size**2 * v**2)
    other = dataclasses.replace(some, advantage=-a)
    minus, same = shifts(other, alone(other, None), rate)
    torch.testing.assert_close(same, policy)
    torch.testing.assert_close((objective + minus) / 2, rate * a**2 * size * v)  # the rest is odd in Â


@given(seed=st.integers(0, 10**6))
def test_they_are_the_quadratic_forms_of_hessian_and_fisher(seed):
    """With every matrix written out: H = Â(vvᵀ − F) ⊗ hhᵀ, F̃ = vvᵀ ⊗ hhᵀ, and any direction D."""
    some, g = drawn(seed, tokens=1)
    direction = torch.randn(4, 3, generator=g, dtype=F64)
    u = (direction @ some.hidden[0])[None]
    v, p, h, a = some.score[0], some.policy[0], some.hidden[0], some.advantage[0]
    outer, flat = torch.outer(h, h), direction.flatten()
    hessian = a * torch.kron(torch.outer(v, v) - p.diag() + torch.outer(p, p), outer)
    fisher = torch.kron(torch.outer(v, v), outer)
    gradient = (a * torch.outer(v, h)).flatten()
    objective, policy = shifts(some, u, 0.3)
    torch.testing.assert_close(objective[0], 0.3 * gradient @ flat + 0.045 * flat @ hessian @ flat)
    torch.testing.assert_close(policy[0], 0.045 * flat @ fisher @ flat)
    assert u[0] @ (p.diag() - torch.outer(p, p)) @ u[0] >= 0


# --- Adam ------------------------------------------------------------------------------------------------------------


def test_the_predicted_step_is_the_one_that_adam_takes():
    """Tokens one at a time, all rows among their candidates: D is what torch's Adam then does, by unit of step size."""
    weight = torch.nn.Parameter(torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=F64))
    adam, moments = torch.optim.Adam([weight], lr=1e-3), Moments.start(3)
    for seed in range(6):
        one, _ = drawn(seed, tokens=1)
        predicted, logits, before = moments.direction(one)[0], alone(one, moments)[0], weight.detach().clone()
        weight.grad = -(one.advantage[:, None] * one.score).T @ one.hidden
        adam.step()
        moments = moments.after(one)
        step = (weight.detach() - before) / 1e-3
        torch.testing.assert_close(together(one, moments)[0], step @ one.hidden[0], rtol=1e-5, atol=1e-6)
        wanted = step if seed else -weight.grad  # before the first step there is only the gradient
        torch.testing.assert_close(predicted, wanted, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(logits, wanted @ one.hidden[0], rtol=1e-5, atol=1e-6)


def test_a_gradient_that_repeats_itself_has_its_sign_as_direction():
    one, moments = written(), Moments.start(2)
    for _ in range(3):
        moments = moments.after(one)
    gradient = (one.advantage[:, None] * one.score)[..., None] * one.hidden[:, None]
    torch.testing.assert_close(moments.direction(one), gradient.sign(), rtol=1e-5, atol=1e-5)


def test_a_row_has_the_mean_gradient_of_the_tokens_that_meet_it():
    row = torch.tensor([[7, 2, 9], [2, 4, 7]])
    both = written(HIDDEN.repeat(2, 1), LOGITS.repeat(2, 1), torch.tensor([0, 1]), torch.tensor([1.0, -2.0]), row)
    moments = Moments.start(2).after(both)
    assert moments.row.tolist() == [2, 4, 7, 9] and int(moments.count) == 1
    pull = both.advantage[:, None] * both.score
    wanted = [(pull[0, 1] + pull[1, 0]) / 2, pull[1, 1], (pull[0, 0] + pull[1, 2]) / 2, pull[0, 2]]
    torch.testing.assert_close(moments.first, 0.1 * torch.stack(wanted)[:, None] * HIDDEN, check_dtype=False)
    later = moments.after(written(row=torch.tensor([[4, 5, 2]])))
    assert later.row.tolist() == [2, 4, 5, 7, 9] and torch.equal(later.first[3:], moments.first[2:])  # 7, 9 unmet
    assert torch.equal(moments.after(both[torch.tensor([], dtype=torch.int64)]).first, moments.first)


def test_without_an_advantage_sgd_changes_nothing_but_adams_momentum_does():
    none = written(advantage=0.0)
    assert all(x.item() == 0 for x in shifts(none, alone(none, None), 0.1))
    moments = Moments.start(2).after(written())
    assert shifts(none, alone(none, moments), 0.1)[1] > 0


def test_pieces_change_nothing(monkeypatch):
    some, _ = drawn(1, tokens=9)
    moments = Moments.start(3).after(drawn(2)[0])
    found = alone(some, moments), together(some, moments)
    monkeypatch.setattr(last_layer, "AT_A_TIME", 24)
    assert len(some.pieces()) == 5
    for x, y in zip(found, (alone(some, moments), together(some, moments)), strict=True):
        torch.testing.assert_close(x, y)


def test_a_token_outside_the_likeliest_takes_the_place_of_the_last():
    sequences = join([[1]], [[5, 8]])
    log_prob = torch.tensor([[0.0, 0.5, 0.1]]).log()
    candidate = torch.tensor([[[0, 0], [5, 3], [3, 5]]])
    chances = torch.tensor([[[1.0, 1.0], [0.5, 0.3], [0.6, 0.3]]]).log()
    blank = torch.zeros(1, 3)
    judged = TokenStatistics(log_prob, blank, blank, None, torch.ones(1, 3, 2), candidate, chances)
    found = Written.of(sequences, judged, torch.ones(1, 3))
    assert found.row.tolist() == [[5, 3], [3, 8]]
    torch.testing.assert_close(found.policy, torch.tensor([[5 / 8, 3 / 8], [6 / 7, 1 / 7]]))
    torch.testing.assert_close(found.score, torch.tensor([[3 / 8, -3 / 8], [-6 / 7, 6 / 7]]))


# --- in the loop -----------------------------------------------------------------------------------------------------

TASK = resolve("arithmetic:digits=1")
SMALL = {"prompts": 4, "samples": 4, "max_tokens": 5}
OPEN = {"policy_limit": float("inf"), "objective_limit": float("inf")}


def spread(completions, **fields):
    return [sum(map(ord, c)) % 17 / 17 for c in completions]


def learner(method):
    model = fresh(Nano(width=16, layers=1, heads=2, context=48, warmup=0), seed=1)
    return LanguageLearner(method, model, TASK, make_rewards(TASK, spread, None), generate, learning_rate=1e-3)


@pytest.fixture(scope="module")
def made():
    run = learner(CAPO(**SMALL))
    return run, run.estimator.judged(run.collect()[0])


@pytest.mark.parametrize("base", ["grpo", "dr-grpo", "reinforce"])
def test_without_limits_it_is_its_base_to_the_bit_and_with_limits_of_zero_nothing(made, base):
    run, rollout = made
    method = CAPO(**SMALL, **OPEN, base=base)
    ours = run.gradient(method.terms(rollout))
    plain = run.gradient(GroupRollout.terms(method, rollout))
    assert any(bool(x.any()) for x in plain.values()) and all(torch.equal(x, plain[name]) for name, x in ours.items())
    with pytest.warns(UserWarning, match="CAPO rejects 100% of the tokens"):
        (term,) = CAPO(**SMALL, policy_limit=0.0, base=base).terms(rollout)
    assert all(not x.any() and x.isfinite().all() for x in run.gradient([term]).values())


def test_the_mask_drops_exactly_what_is_beyond_a_limit_and_rows_without_tokens_still_count(made):
    run, rollout = made
    method = CAPO(**SMALL, **OPEN)
    _, _, found = method.examined(rollout)
    limit = float(found["policy_shift"].median())
    _, kept, _ = (narrow := dataclasses.replace(method, policy_limit=limit)).examined(rollout)
    assert torch.equal(kept, found["policy_shift"] < limit) and 0.3 < kept.float().mean() < 0.7
    (term,) = narrow.terms(rollout)
    weights = run.estimator.batch(term, again=False).weights
    each = term.kept / term.kept.sum(1, keepdim=True).clamp(min=1) / 16
    torch.testing.assert_close(weights, each)
    limit = float(found["objective_shift"].abs().median())
    _, kept, _ = dataclasses.replace(method, objective_limit=limit).examined(rollout)
    assert torch.equal(kept, found["objective_shift"].abs() < limit)


def test_what_is_rejected_is_logged_and_only_kept_tokens_move_the_moments(made):
    run, rollout = made
    _, _, found = CAPO(**SMALL).examined(rollout)
    run.method = CAPO(**SMALL, policy_limit=float(found["policy_shift"].quantile(0.6)), objective_limit=float("inf"))
    run.estimator = dataclasses.replace(run.estimator, method=run.method)
    wanted, kept, found = run.method.examined(rollout)
    row = run.update(run.method.terms(rollout))
    assert row["rejected"] == pytest.approx(1 - kept.float().mean().item(), abs=1e-5)
    assert row["rejected_advantage"] == pytest.approx(wanted.advantage[~kept].mean().item(), abs=1e-5)
    assert row["policy_shift"] == pytest.approx(found["policy_shift"].mean().item(), rel=1e-4)
    memory = run.method.remember(rollout, None)
    assert memory["row"].tolist() == wanted.row[kept].unique().tolist() and int(memory["count"]) == 1


def test_several_steps_on_a_batch_are_refused():
    for name in ("epochs", "minibatches"):
        with pytest.raises(UsageError, match=f"{name}=2"):
            CAPO(**{name: 2})
    with pytest.raises(UsageError, match="policy_limit=-1"):
        CAPO(policy_limit=-1.0)
