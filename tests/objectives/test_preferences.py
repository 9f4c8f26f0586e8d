"""Losses of pairs: numbers and slopes of TRL's losses, corrections that vanish in expectation, and TRL's own code."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from surefoot.errors import UsageError
from surefoot.objectives import preferences as P

F64 = torch.float64
LOG, REF, TOKENS = (-12.0, -15.0), (-13.0, -14.0), (4.0, 6.0)

# Of the pair above at β = 0.1: the loss, and its slopes in the two log-probabilities.
KNOWN = [
    ("dpo", P.PairObjective(), 0.598139, -0.045017, 0.045017),
    ("hinge", P.PairObjective(P.hinge()), 0.8, -0.1, 0.1),
    ("ipo", P.PairObjective(P.square()), 9, -6, 6),
    ("ipo per token", P.PairObjective(P.square(), per_token=True), 21.006944, -2.291667, 1.527778),
    ("cdpo", P.PairObjective(labels=P.smoothed(0.2)), 0.638139, -0.025017, 0.025017),
    ("rdpo", P.PairObjective(labels=P.corrected(0.2)), 0.531472, -0.078350, 0.078350),
    ("exo", P.PairObjective(P.exo()), 2.422015, -0.166003, 0.166003),
    ("nca", P.PairObjective(P.nca()), 1.338793, -0.021253, 0.023751),
    ("bco", P.PairObjective(P.bco()), 1.288793, -0.047502, 0.047502),
    ("sppo", P.PairObjective(P.sppo()), 32, -8, 8),
    ("apo zero", P.PairObjective(P.apo_zero()), 0.950042, -0.024938, 0.024938),
    ("apo down", P.PairObjective(P.apo_down()), 0.975145, 0.000186, 0.024752),
    ("dpo per token", P.PairObjective(per_token=True), 0.672531, -0.012240, 0.008160),
    ("discopop", P.PairObjective(P.discopop()), 0.814763, None, None),
    (
        "simpo",
        P.PairObjective(P.logistic(2.5, margin=1.375), referenced=False, per_token=True),
        2.694936,
        -0.582783,
        0.388522,
    ),
    ("cpo", P.PairObjective(referenced=False), 0.554355, None, None),
    ("rpo, summed", P.PairObjective(imitation=0.2 * 0.1), 0.838139, -0.0650166, 0.0450166),
]


def pair(dtype=F64):
    log_prob = torch.tensor([LOG], dtype=dtype, requires_grad=True)
    return P.Compared(log_prob, torch.tensor([REF], dtype=dtype), torch.tensor([TOKENS], dtype=dtype))


@pytest.mark.parametrize(("name", "objective", "loss", "won", "lost"), KNOWN, ids=[k[0] for k in KNOWN])
def test_numbers_and_slopes(name, objective, loss, won, lost):
    found = pair()
    value = objective.losses(found)
    assert value.item() == pytest.approx(loss, abs=1e-6)
    (slope,) = torch.autograd.grad(value.sum(), found.log_prob)
    if won is not None:
        assert slope[0].tolist() == pytest.approx([won, lost], abs=1e-6)


def test_imitation_of_the_chosen_answer_in_three_forms():
    plain = P.PairObjective().losses(pair()).item()
    forms = {form: P.PairObjective(imitation=1, imitated=form).losses(pair()).item() - plain for form in P.IMITATIONS}
    assert forms == pytest.approx({"sum": 12, "mean": 3, "pooled": 3})
    two = P.Compared(*(torch.tensor(x, dtype=F64) for x in ([LOG, (-4.0, -5.0)], [REF, REF], [TOKENS, (1.0, 2.0)])))
    pooled = (P.PairObjective(imitation=1, imitated="pooled").losses(two) - P.PairObjective().losses(two)).mean()
    assert pooled.item() == pytest.approx((12 + 4) / 5)


def losses(labels, z):
    """DPO's losses of pairs whose scaled difference is z."""
    link = P.logistic(beta=0.1)
    z = torch.as_tensor(z, dtype=F64)
    return labels(link, z / link.beta, torch.zeros_like(z))


def test_the_correction_at_the_papers_numbers():
    exact, smoothed, corrected = P.exact(), P.smoothed(0.2), P.corrected(0.2)
    found = [losses(labels, 0.5).item() for labels in (exact, smoothed, corrected)]
    assert found == pytest.approx([0.474077, 0.574077, 0.307410], abs=1e-6)
    assert losses(corrected, -0.5).item() == pytest.approx(1.140744, abs=1e-6)
    assert losses(corrected, [10.0, 50.0]).tolist() == pytest.approx([-3.333288, -16.666667], abs=1e-6)
    for labels, slope in ((exact, -0.377541), (smoothed, -0.177541), (corrected, -0.710874)):
        z = torch.tensor(0.5, dtype=F64, requires_grad=True)
        (found,) = torch.autograd.grad(losses(labels, z), z)
        assert found.item() == pytest.approx(slope, abs=1e-6)


LINKS = [kind(beta=0.3) for kind in (P.logistic, P.square, P.hinge, P.exo, P.nca, P.bco, P.sppo, P.apo_zero)]


@pytest.mark.parametrize("link", LINKS, ids=lambda x: type(x).__name__)
@given(won=st.floats(-5, 5), lost=st.floats(-5, 5), rate=st.floats(0, 0.45))
def test_flips_vanish_in_expectation_for_every_link(link, won, lost, rate):
    chosen, rejected = torch.tensor(won, dtype=F64), torch.tensor(lost, dtype=F64)
    labels = P.corrected(rate)
    kept, flipped = labels(link, chosen, rejected), labels(link, rejected, chosen)
    torch.testing.assert_close((1 - rate) * kept + rate * flipped, link(chosen, rejected), rtol=1e-8, atol=1e-8)


@given(z=st.floats(-10, 10), rate=st.floats(0, 0.45))
def test_the_correction_of_dpo_is_smoothing_with_a_negative_rate(z, rate):
    found = losses(P.corrected(rate), z)
    assert found.item() == pytest.approx(math.log1p(math.exp(-z)) - rate / (1 - 2 * rate) * z, abs=1e-9)


def test_the_correction_of_ipo_is_a_larger_margin():
    link = P.square(beta=0.5)
    found = P.corrected(0.2)(link, torch.tensor(1.7, dtype=F64), torch.tensor(0.0, dtype=F64))
    wider, half = 1 / (2 * 0.5) / (1 - 0.4), 1.0
    assert found.item() == pytest.approx((1.7 - wider) ** 2 + half**2 - wider**2)
    assert found.item() == pytest.approx(-1.776667, abs=1e-6)


def test_no_flips_change_nothing():
    for labels in (P.smoothed(0.0), P.corrected(0.0)):
        torch.testing.assert_close(losses(labels, [-1.0, 2.0]), losses(P.exact(), [-1.0, 2.0]))


def test_scores_of_a_reward_model_with_and_without_a_margin():
    scores = P.Compared(torch.tensor([(1.2, 0.5)], dtype=F64))
    for margin, loss in ((0, 0.403186), (0.5, 0.598139)):
        objective = P.PairObjective(P.logistic(1.0, margin=margin), referenced=False)
        assert objective.losses(scores).item() == pytest.approx(loss, abs=1e-6)


def test_a_reward_models_margins_and_its_pull_towards_0():
    for margin, centring, loss, slopes in (
        (0.0, 0.0, 0.403186, (-0.331812, 0.331812)),
        (0.5, 0.0, 0.598139, None),
        (0.0, 0.01, 0.432086, (-0.297812, 0.365812)),
    ):
        scores = torch.tensor([(1.2, 0.5)], dtype=F64, requires_grad=True)
        objective = P.ScoreObjective(centring=centring)
        found = objective.losses(P.Compared(scores, margin=torch.tensor([margin], dtype=F64)))
        assert found.item() == pytest.approx(loss, abs=1e-6)
        if slopes:
            (slope,) = torch.autograd.grad(found.sum(), scores)
            assert slope[0].tolist() == pytest.approx(slopes, abs=1e-6)
    assert "0.01·(r_w + r_l)²" in str(P.ScoreObjective(centring=0.01))
    with pytest.raises(UsageError, match="referenced"):
        P.ScoreObjective(referenced=True)


def test_single_answers_and_odds():
    ratio = torch.tensor([1.0, -1.0], dtype=F64, requires_grad=True)
    found = P.kto(ratio, torch.tensor([True, False]), 0.4)
    assert found.tolist() == pytest.approx([0.485004, 0.465057], abs=1e-6)
    (slope,) = torch.autograd.grad(found.sum(), ratio)
    assert slope.tolist() == pytest.approx([-0.024978, 0.024878], abs=1e-6)
    log_prob = torch.tensor(LOG, dtype=F64, requires_grad=True)
    mean = log_prob / torch.tensor(TOKENS, dtype=F64)
    term = 0.1 * P.odds(mean[:1], mean[1:]).sum()
    assert term.item() == pytest.approx(0.099574, abs=1e-6)
    (slope,) = torch.autograd.grad(term, log_prob)
    assert slope.tolist() == pytest.approx([-0.016590, 0.011449], abs=1e-6)


@pytest.mark.parametrize("rate", [0.5, 0.7, -0.1])
def test_labels_that_say_nothing_are_refused(rate):
    for kind in (P.smoothed, P.corrected):
        with pytest.raises(UsageError, match="rate="):
            kind(rate)


def test_what_is_missing_is_named():
    bare = P.Compared(torch.tensor([LOG]))
    with pytest.raises(UsageError, match="no reference"):
        P.PairObjective().losses(bare)
    with pytest.raises(UsageError, match="numbers of tokens"):
        P.PairObjective(referenced=False, per_token=True).losses(bare)
    with pytest.raises(UsageError, match="link="):
        P.PairObjective(link=P.exact())


def test_objectives_print_as_formulas_and_parts_are_read_back():
    said = str(P.PairObjective(P.logistic(0.1), P.corrected(0.2), imitation=0.5))
    assert "−log σ(0.1(ρ_w − ρ_l) − 0)" in said and "(1 − 2·0.2)" in said and "0.5·log π(w)" in said
    for part, kind in [(link, P.Link) for link in LINKS] + [(P.corrected(0.3), P.Labels)]:
        assert kind.from_dict(part.to_dict()) == part
