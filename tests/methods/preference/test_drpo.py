"""DRPO: the card's four cases of right and wrong models, its gradient, and both of its terms on a language model."""

from __future__ import annotations

import math

import pytest
import torch

pytest.importorskip("transformers", reason="language models need surefoot[language]")

from surefoot.envs.language import resolve
from surefoot.errors import UsageError
from surefoot.loops.group_rollout.learner import LanguageLearner
from surefoot.loops.group_rollout.method import Batch
from surefoot.loops.group_rollout.rewards import make_rewards
from surefoot.methods.language.baselines import RLOO
from surefoot.methods.preference.drpo import DRPO, doubly_robust
from surefoot.models.language.generation import generate
from surefoot.models.language.nano import Nano, fresh

F64 = torch.float64
G = torch.tensor([[0.5, 0.8, 0.3], [0.2, 0.5, 0.6], [0.7, 0.4, 0.5]], dtype=F64)  # of the row over the column
WRONG = torch.tensor([[0.5, 0.6, 0.6], [0.4, 0.5, 0.5], [0.4, 0.5, 0.5]], dtype=F64)
REF, PI = torch.tensor([0.5, 0.3, 0.2], dtype=F64), torch.tensor([0.2, 0.3, 0.5], dtype=F64)
UNIFORM = torch.full((3,), 1 / 3, dtype=F64)
FIRST, SECOND = (x.flatten() for x in torch.meshgrid(torch.arange(3), torch.arange(3), indexing="ij"))


def psi(judge, reference, preferred, policy=PI):
    """ψ of every pair of arms, all with the same label."""
    direct = 0.5 * (policy @ judge)[torch.stack([FIRST, SECOND])].sum(0)
    ratio = (policy / reference)[torch.stack([FIRST, SECOND], 1)]
    return doubly_robust(direct, ratio, torch.full((9,), preferred, dtype=F64), judge[FIRST, SECOND])


def population(judge, reference):
    """The mean of ψ over pairs of the true reference and labels of the true preference."""
    wins = G[FIRST, SECOND]
    each = wins * psi(judge, reference, 1.0) + (1 - wins) * psi(judge, reference, 0.0)
    return float((REF[FIRST] * REF[SECOND] * each).sum())


@pytest.mark.parametrize(
    ("judge", "reference", "value"),
    [(G, REF, 0.506), (WRONG, REF, 0.506), (G, UNIFORM, 0.506), (WRONG, UNIFORM, 0.4844)],
    ids=["both right", "wrong judge", "wrong reference", "both wrong"],
)
def test_the_estimate_is_right_if_either_model_is(judge, reference, value):
    assert float(PI @ G @ REF) == pytest.approx(0.506)
    assert population(judge, reference) == pytest.approx(value, abs=1e-4)


def test_what_it_is_made_of_is_wrong_where_its_model_is():
    assert float(PI @ WRONG @ REF) == pytest.approx(0.470)  # the first part alone
    nobody = torch.zeros(3, 3, dtype=F64)  # without a judge only the labels count
    wins = G[FIRST, SECOND]

    def weighted(reference):
        ratio = (PI / reference)[torch.stack([FIRST, SECOND], 1)]
        each = 0.5 * (ratio[:, 0] * wins + ratio[:, 1] * (1 - wins))
        return float((REF[FIRST] * REF[SECOND] * each).sum())

    assert (weighted(REF), weighted(UNIFORM)) == pytest.approx((0.506, 0.4359), abs=1e-5)
    assert psi(nobody, REF, 1.0)[0] == 0  # the same answer twice says nothing


def test_one_pair_and_its_mirror():
    found = psi(WRONG, REF, 0.0)[2]  # arms 0 and 2, the second preferred
    assert float(found) == pytest.approx(1.1)
    assert float(psi(WRONG, REF, 1.0)[6]) == pytest.approx(1.1)  # in the other order


def test_of_the_reference_itself_the_labels_say_nothing_and_an_indifferent_judge_leaves_only_them():
    torch.testing.assert_close(psi(G, REF, 1.0, policy=REF), psi(G, REF, 0.0, policy=REF))
    found = psi(torch.full((3, 3), 0.5, dtype=F64), REF, 1.0)
    ratio = (PI / REF)[torch.stack([FIRST, SECOND], 1)]
    torch.testing.assert_close(found, 0.5 + 0.25 * (ratio[:, 0] - ratio[:, 1]))


# --- the two losses --------------------------------------------------------------------------------------------------


def pair_loss(method, log_prob, reference, advantage):
    """Of answers of one token, each with equal weight."""
    rows = len(log_prob)
    one = torch.ones(rows, 1, dtype=F64)
    extra = {"reference": torch.as_tensor(reference, dtype=F64)}
    batch = Batch(one.bool(), one, advantage[:, None], one / rows, None, torch.arange(rows), extra)
    return method.loss(method.objective(), batch, log_prob[:, None], torch.zeros_like(one))


def test_numbers_of_one_answer():
    log_prob = torch.tensor([-10.2], dtype=F64, requires_grad=True)
    loss, metrics = pair_loss(DRPO(), log_prob, [-10.0], torch.tensor([0.3], dtype=F64))
    assert loss.item() == pytest.approx(2.505316, abs=1e-6)
    assert torch.autograd.grad(loss, log_prob)[0].item() == pytest.approx(-0.3 * 0.818731, abs=1e-6)
    assert metrics["ratio_max"].item() == pytest.approx(0.818731, abs=1e-6)


def test_without_a_clip_its_gradient_is_that_of_the_ratio_times_the_residual():
    g = torch.Generator().manual_seed(0)
    log_prob, reference, residual = (torch.randn(6, generator=g, dtype=F64) for _ in range(3))
    log_prob.requires_grad_()
    (found,) = torch.autograd.grad(pair_loss(DRPO(clip=None), log_prob, reference, residual)[0], log_prob)
    (wanted,) = torch.autograd.grad(-((log_prob - reference).exp() * residual).mean(), log_prob)
    torch.testing.assert_close(found, wanted)


def test_the_clip_keeps_the_gradient_and_limits_its_weight():
    log_prob = torch.tensor([3.0, -3.0, 0.0, 900.0], dtype=F64, requires_grad=True)
    loss, metrics = pair_loss(DRPO(clip=2.5), log_prob, [0.0] * 4, torch.ones(4, dtype=F64))
    (slope,) = torch.autograd.grad(loss, log_prob)
    assert (-4 * slope).tolist() == pytest.approx([2.5, 0.4, 1.0, 2.5])
    assert metrics["clip_fraction"].item() == pytest.approx(0.75)
    assert pair_loss(DRPO(clip=None), log_prob, [0.0] * 4, torch.ones(4, dtype=F64))[0].isfinite()


# --- on a language model ---------------------------------------------------------------------------------------------

TINY = Nano(width=16, layers=1, heads=2, context=48, warmup=0)
ROWS = [{"prompt": f"{i}+1=", "chosen": f"{i + 1}", "rejected": f"{i * 7 % 10}?"} for i in range(20)]


def ones(completions, **columns):
    return [float(text.count("1")) for text in completions]


def learner(method, reward=ones, **settings):
    task = resolve(ROWS)
    return LanguageLearner(method, fresh(TINY, seed=1), task, make_rewards(task, reward, None), generate, **settings)


def test_scores_become_probabilities_of_being_preferred_to_both_answers():
    run = learner(DRPO(prompts=4, samples=3, max_tokens=4))
    rollout, _ = run.collect()
    completions, pairs = run.method.terms(rollout)
    assert pairs.name == "pairs" and len(pairs.sequences) == 8 and len(completions.sequences) == 12
    for i, example in enumerate(rollout.examples):
        r = [float(example.fields[name].count("1")) for name in ("chosen", "rejected")]
        assert rollout.answered[i].tolist() == r
        sure = 1 / (1 + math.exp(r[1] - r[0]))
        assert pairs.advantage[2 * i : 2 * i + 2].tolist() == pytest.approx([1 - sure, sure - 1])
        for j in range(3):
            mine = rollout.texts[3 * i + j].count("1")
            mean = sum(1 / (1 + math.exp(a - mine)) for a in r) / 2
            assert float(completions.advantage[3 * i + j]) == pytest.approx(mean - 0.5)


def test_win_rates_may_be_cyclic_and_must_be_probabilities():
    def cyclic(completions, chosen, rejected, **_):
        """The chosen answer beats the rejected one with 0.7, and anything else loses to it and beats the other."""
        known = [{won: 0.6, lost: 0.4} for won, lost in zip(chosen, rejected, strict=True)]
        return [rates.get(text, 0.5) for rates, text in zip(known, completions, strict=True)]

    run = learner(DRPO(prompts=4, samples=2, max_tokens=4, preference="win-rate"), cyclic)
    rollout, _ = run.collect()
    direct, sure = run.method.preferences(rollout)
    torch.testing.assert_close(sure, torch.full((4,), 0.7))
    torch.testing.assert_close(direct, rollout.reward)
    with pytest.raises(UsageError, match="DRPO: the reward 'win-rate' was .* must be in \\[0, 1\\]"):
        learner(
            DRPO(prompts=4, max_tokens=4, preference="win-rate"), lambda completions, **_: [2.0] * len(completions)
        ).iterate()


def test_with_a_judge_that_is_sure_of_every_label_it_is_the_policy_gradient_of_the_judge():
    """The residuals are 0, so the pairs have no gradient, and the completions have REINFORCE's."""

    def sure(completions, chosen, rejected, **_):
        rows = zip(completions, chosen, rejected, strict=True)
        return [100.0 * (text == won) - 100.0 * (text == lost) for text, won, lost in rows]

    run = learner(DRPO(prompts=4, samples=2, max_tokens=4, kl=0.0), sure)
    rollout, _ = run.collect()
    terms = run.method.terms(rollout)
    assert terms[1].advantage.abs().max() < 1e-6
    whole, alone = run.gradient(terms), run.gradient(terms[:1])
    plain = learner(RLOO(prompts=4, samples=2, max_tokens=4, temperature=0.66), sure)
    by_hand = plain.gradient([plain.method.completions(rollout, advantage=terms[0].advantage)])
    for name, x in alone.items():
        torch.testing.assert_close(whole[name], x, atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(by_hand[name], x, atol=1e-6, rtol=1e-4)


def test_stopped_and_loaded_it_knows_the_reference_of_the_pairs_it_has_seen():
    runs = [learner(DRPO(prompts=5, max_tokens=4), learning_rate=1e-3) for _ in range(2)]
    for _ in range(3):
        runs[0].iterate()
    runs[1].load(runs[0].state(), 3, 0)
    assert [runs[0].iterate() for _ in range(2)] == [runs[1].iterate() for _ in range(2)]
    assert not runs[1].memory["reference"].isnan().all()


@pytest.mark.parametrize("setting", [{"clip": 1.0}, {"epochs": 2}, {"preference": "bradley"}, {"informative": 0.5}])
def test_settings_that_are_not_allowed(setting):
    with pytest.raises(UsageError, match=f"DRPO: {next(iter(setting))}="):
        DRPO(**setting)
