"""TBRM: the numbers of its card, and what it finds in trees from data of any policy."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

pytest.importorskip("transformers", reason="language models need surefoot[language]")

from surefoot.claims.language.tree import Tree, minimised, random_tree
from surefoot.envs.language import resolve
from surefoot.errors import UsageError
from surefoot.loops.group_rollout.learner import LanguageLearner
from surefoot.loops.group_rollout.rewards import make_rewards
from surefoot.methods.language.tbrm import TBRM, at_first, residual
from surefoot.models.language.generation import generate
from surefoot.models.language.nano import Nano, fresh

F64 = torch.float64
LOGITS = [torch.tensor([[1.0, 0.5, -0.2]], dtype=F64), torch.tensor([[0.3, -0.4, 0.8]], dtype=F64)]
NEAR = [torch.tensor([x], dtype=F64).log() for x in ([0.5, 0.3, 0.2], [0.2, 0.2, 0.6])]


def worked():
    """The path (1, 2): the second state is the only one that it meets."""
    logits = [x.clone().requires_grad_() for x in LOGITS]
    first, second = (x[0].log_softmax(0) for x in logits)
    near = [x[0].log_softmax(0) for x in NEAR]
    moved = first[1] - near[0][1] + second[2] - near[1][2]
    value = logits[0].logsumexp(1)
    return logits, value, moved, residual(value, moved[None], torch.ones(1, dtype=F64), 0.5)[0]


def test_the_residuals_of_all_steps_add_up():
    logits, value, moved, gap = worked()
    assert value.item() == pytest.approx(1.645911, abs=1e-6)
    later = logits[1].logsumexp(1).item()
    assert later == pytest.approx(1.445911, abs=1e-6)
    delta = gap.item() / 0.5
    assert delta == pytest.approx(-0.431113, abs=1e-6) and delta**2 == pytest.approx(0.185858, abs=1e-6)
    near = [x[0].log_softmax(0) for x in NEAR]
    steps = [0.5 - near[0][1].item() - later, 0.8 - near[1][2].item() - 1 / 0.5]
    assert sum(steps) == pytest.approx(delta)


def test_only_the_first_tokens_own_logit_has_a_gradient():
    logits, _, _, gap = worked()
    ((gap / 0.5) ** 2).backward()
    assert logits[0].grad[0].tolist() == pytest.approx([0, -0.862226, 0], abs=1e-6)
    assert logits[1].grad[0].tolist() == pytest.approx([0.274131, 0.136129, -0.410260], abs=1e-6)


def tree(seed=0, depth=2):
    return random_tree(torch.Generator().manual_seed(seed), depth)


def deltas(one: Tree, logits, beta):
    now, near = one.statistics(logits), one.statistics(one.reference)
    moved = (now.log_prob - near.log_prob).sum(1)
    return residual(now.normaliser[:, 0], moved, one.reward, beta) / beta


def test_a_constant_in_later_logits_is_nothing_and_in_the_first_a_shift():
    one = tree()
    plain = deltas(one, one.reference, 0.5)
    first, later = one.reference
    torch.testing.assert_close(deltas(one, (first, later + 3), 0.5), plain)
    torch.testing.assert_close(deltas(one, (first + 3, later), 0.5), plain + 3)


def raised(one: Tree, log_policy, value):
    """Logits whose policy is given by the log-probabilities of all paths, with this value in the first state."""
    joint = log_policy.view(3, 3)
    return [joint.logsumexp(1)[None].log_softmax(1) + value, joint]


def test_it_is_0_for_the_best_policy_with_the_value_of_the_beginning():
    one, beta = tree(), 0.5
    log_z = (one.policy(one.reference) * (one.reward / beta).exp()).sum().log()
    best = raised(one, one.best(beta).log(), log_z)
    assert deltas(one, best, beta).abs().max().item() < 1e-12
    assert one.loss(TBRM(beta=beta), best).item() < 1e-24
    assert one.loss(TBRM(beta=beta), raised(one, one.best(beta).log(), log_z + 1)).item() == pytest.approx(beta**2)


@pytest.mark.parametrize("depth", [2, 3])
def test_from_data_of_another_policy_it_finds_the_best_one(depth):
    one, beta = tree(1, depth), 0.3
    found = minimised(one, TBRM(beta=beta), one.reference)
    assert (one.policy(found) - one.best(beta)).abs().max().item() < 1e-5
    log_z = (one.policy(one.reference) * (one.reward / beta).exp()).sum().log()
    assert found[0].logsumexp(1).item() == pytest.approx(log_z.item(), abs=1e-5)


def test_the_gradient_in_double_precision():
    one = tree(2)
    leaves = [(x + 0.1).requires_grad_() for x in one.reference]
    assert torch.autograd.gradcheck(lambda *x: one.loss(TBRM(beta=0.5), x), leaves)


def test_without_rewards_only_the_offset_form_stays_where_it_is():
    one = tree()
    one = Tree(0 * one.reward, (one.reference[0] + 15, one.reference[1]))
    leaves = [x.clone().requires_grad_() for x in one.reference]
    start = one.reference[0].logsumexp(1).item()
    still = one.loss(TBRM(beta=0.5, offset=True), leaves, start)
    assert still.item() == 0 and all(not x.any() for x in torch.autograd.grad(still, leaves))
    adam, far = torch.optim.Adam(leaves, lr=0.05), 0.0
    for _ in range(300):
        adam.zero_grad()
        one.loss(TBRM(beta=0.5), leaves).backward()
        adam.step()
        now, near = one.policy(leaves), one.policy(one.reference)
        far = max(far, (now * (now / near).log()).sum().item())
    assert far > 0.2


def test_with_a_large_beta_the_reference_is_best_and_pairs_are_rebels():
    one = tree(3)
    torch.testing.assert_close(one.best(1e6), one.policy(one.reference), atol=1e-6, rtol=0)
    moved = [x + torch.randn(x.shape, generator=torch.Generator().manual_seed(4), dtype=F64) for x in one.reference]
    pair = deltas(one, moved, 0.5)[:2]
    ratio = (one.policy(moved) / one.policy(one.reference)).log()[:2]
    torch.testing.assert_close(pair[0] - pair[1], ratio[0] - ratio[1] - (one.reward[0] - one.reward[1]) / 0.5)


def test_one_token_is_a_regression_of_its_logit():
    one = tree(5, depth=1)
    logits = [torch.tensor([[0.3, -1.0, 2.0]], dtype=F64)]
    wanted = logits[0][0] - one.reference[0][0].log_softmax(0) - one.reward / 0.2
    torch.testing.assert_close(deltas(one, logits, 0.2), wanted)


def test_a_frozen_value_can_be_stuck_and_the_models_own_is_not():
    """Two arms worth 1 and 0 at 1/β = 10 in entropy form, candidates (0, 0) and (10, 0): half the squared residuals."""
    worth, candidates = torch.tensor([10.0, 0.0], dtype=F64), torch.tensor([[0.0, 0.0], [10.0, 0.0]], dtype=F64)

    def loss(q, value):
        return ((value + q - q.logsumexp(0) - worth) ** 2).mean().item()

    frozen = [loss(q, candidates[0].logsumexp(0)) for q in candidates]
    assert frozen == pytest.approx([50, 86.618], abs=1e-3)
    assert [loss(q, q.logsumexp(0)) for q in candidates] == pytest.approx([50, 0])


# --- with a model --------------------------------------------------------------------------------------------------

TASK = resolve("arithmetic:digits=1")
SMALL = {"prompts": 4, "samples": 3, "max_tokens": 5}


def learner(method):
    model = fresh(Nano(width=16, layers=1, heads=2, context=48, warmup=0), seed=1)
    rewards = make_rewards(TASK, lambda completions, **_: [len(c) / 5 for c in completions], None)
    return LanguageLearner(method, model, TASK, rewards, generate, learning_rate=0.01)


@pytest.mark.parametrize("offset", [False, True])
def test_the_value_is_that_of_the_first_tokens_raw_logits(offset):
    run = learner(TBRM(**SMALL, beta=0.5, offset=offset))
    rollout, _ = run.collect()
    (term,) = run.method.terms(rollout)
    batch = run.estimator.batch(term, False)
    row = run.estimator.backward(term, batch, term.sequences)
    value = []
    for tokens, valid in zip(rollout.sequences.tokens, rollout.sequences.valid):
        start = int(valid.int().argmax())
        with torch.no_grad():
            value.append(run.model.network(tokens[None, :start]).logits[0, -1].logsumexp(0))
    value = torch.stack(value)
    torch.testing.assert_close(
        at_first(rollout.reference.normaliser, rollout.sequences.valid), value, rtol=1e-4, atol=1e-4
    )
    shown = 0 if offset else 0.5 * value.mean().item()
    assert row["value"] == pytest.approx(shown, abs=1e-4) and row["moved"] == pytest.approx(0, abs=1e-5)
    gap = (0 if offset else 0.5 * value) - rollout.reward.flatten()
    assert row["residual"] == pytest.approx(gap.abs().mean().item(), abs=1e-4)


def test_it_learns_from_what_a_policy_of_long_ago_wrote():
    """The same batch again and again: the residuals go to 0."""
    run = learner(TBRM(**SMALL, beta=0.5, epochs=1))
    rollout, _ = run.collect()
    stale = deepcopy(rollout)
    rows = [run.update(run.method.terms(stale)) for _ in range(60)]
    assert rows[-1]["residual"] < 0.3 * rows[0]["residual"]


@pytest.mark.parametrize("given", [{"kl": 0.1}, {"beta": 0.0}, {"informative": 1.0}, {"entropy": 0.1}])
def test_what_cannot_be_is_refused(given):
    with pytest.raises(UsageError, match=f"{next(iter(given))}="):
        TBRM(**given)
