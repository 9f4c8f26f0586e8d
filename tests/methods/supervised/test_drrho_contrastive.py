"""DRRho for pairs: the paper's numbers, gradients against the plain formula, moving normalisers, references, runs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from network_laws import a_device_changes_no_bit, numbers, the_seed_decides, together_as_alone

import surefoot as sf
from surefoot import api
from surefoot.data.tables import Table
from surefoot.errors import UsageError
from surefoot.evaluate.pages.folder import report
from surefoot.loops.common.run import make_learner
from surefoot.loops.networks.nets import Batch
from surefoot.loops.supervised.learner import SupervisedLearner
from surefoot.loops.supervised.method import Rows
from surefoot.methods.supervised.drrho.contrastive import METHOD, DRRhoContrastive
from surefoot.models.row_network import RowNetwork
from surefoot.models.two_views import GALLERY, PairModel, TwoViews
from surefoot.objectives.contrastive import averaged, log_means, margins, of_others

EXACT = torch.float64
S = torch.tensor([[0.8, 0.1, 0.3], [0.2, 0.6, 0.4], [0.0, 0.5, 0.7]], dtype=EXACT)
REFERENCE = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.5, 0.45], [0.1, 0.2, 0.6]], dtype=EXACT)
ROWS = Rows((4,), None, 3, 1, 1, ("a", "b", "c", "d"))
STREAM = np.random.default_rng(0)
HIDDEN = STREAM.normal(size=(40, 3))
X = np.hstack([HIDDEN @ STREAM.normal(size=(3, 5)), np.tanh(HIDDEN @ STREAM.normal(size=(3, 3)))])
X += 0.05 * STREAM.normal(size=X.shape)
PAIRS = Table(X, [f"pair {i}" for i in range(40)], name="pairs", groups=np.arange(40) % 2)


def learner(seeds=(0,), steps: int = 4, device: str = "cpu", table: Table = PAIRS, **changes) -> SupervisedLearner:
    sizes = {"hidden": (8,), "width": 4, "batch_size": 16, "first": 5, "inner_rate": 0.5}
    return make_learner(DRRhoContrastive(**{**sizes, **changes}), table, list(seeds), steps, device=device)


def embeddings(similarity: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors, not of length 1, with these similarities."""
    return similarity, torch.eye(len(similarity), dtype=similarity.dtype)


def of_batch(similarity: torch.Tensor, rate: float = 1.0, kept: float = -math.inf, reference=None, **changes):
    """The loss of a batch with these similarities, and its metrics."""
    batch: Batch = {"x": None, "inner_rate": torch.tensor(rate, dtype=similarity.dtype)}
    batch["memory"] = {"log_normaliser": torch.full((len(similarity), 2), kept, dtype=similarity.dtype)}
    if reference is not None:
        batch |= dict(zip(("reference_one", "reference_other"), embeddings(reference)))
    return DRRhoContrastive(**changes).model_loss(lambda name, x: embeddings(similarity), batch, ROWS)  # type: ignore[arg-type]


# --- the paper's formulas --------------------------------------------------------------------------------------------


def test_the_numbers_of_the_paper():
    excess = margins(S) - margins(REFERENCE)
    rows = [[excess[0, i, j].item() for j in range(3) if j != i] for i in range(3)]
    np.testing.assert_allclose(rows, [[-0.2, 0.1], [0, -0.15], [-0.2, 0.2]], atol=1e-12)
    found = 0.1 * log_means(excess / 0.1)
    np.testing.assert_allclose(found[0], [0.035544, -0.049173, 0.132500], atol=1e-6)
    np.testing.assert_allclose(found[1], [-0.056622, 0.132500, 0.038574], atol=1e-6)
    _, metrics = of_batch(S, reference=REFERENCE, temperature=0.1, floor=0.0)
    assert metrics["objective"].item() == pytest.approx(0.0388872, abs=1e-7)
    weights = of_others((excess / 0.1 - log_means(excess / 0.1).unsqueeze(-1)).exp(), 0.0)[0] / 2
    wanted = [[0, 0.047426, 0.952574], [0.817574, 0, 0.182426], [0.017986, 0.982014, 0]]
    np.testing.assert_allclose(weights, wanted, atol=1e-6)


@pytest.mark.parametrize("floor", [0.0, 1e-4, 0.1])
@pytest.mark.parametrize("temperature", [0.01, 0.1, 1.0])
def test_at_rate_one_the_gradient_is_that_of_the_objective(floor, temperature):
    """τ·mean log(ε + G), written anchor by anchor."""

    def plain(s: torch.Tensor) -> torch.Tensor:
        each = []
        for i in range(3):
            for row, ref in ((s[i], REFERENCE[i]), (s[:, i], REFERENCE[:, i])):
                others = [j for j in range(3) if j != i]
                terms = [((row[j] - row[i] - ref[j] + ref[i]) / temperature).exp() for j in others]
                each.append(temperature * (floor + sum(terms) / 2).log())
        return sum(each) / 6

    known = {"reference": REFERENCE, "temperature": temperature, "floor": floor}
    ours, theirs = S.clone().requires_grad_(), S.clone().requires_grad_()
    loss, metrics = of_batch(ours, **known)
    loss.backward()
    value = plain(theirs)
    value.backward()
    assert metrics["objective"].item() == pytest.approx(value.item(), abs=1e-12)
    np.testing.assert_allclose(ours.grad, theirs.grad, rtol=1e-9, atol=1e-12)


def test_gradients_of_the_parts_in_float64():
    s = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: log_means(margins(x) / 0.2, 1e-3), s)
    assert torch.autograd.gradcheck(lambda x: log_means(margins(x) / 0.2), s)


def test_a_model_like_its_reference_has_no_excess_and_equal_weights():
    s = S.clone().requires_grad_()
    loss, metrics = of_batch(s, reference=S, temperature=0.1, floor=1e-4)
    loss.backward()
    assert metrics["objective"].item() == pytest.approx(0.1 * math.log(1 + 1e-4), abs=1e-12)
    plain = S.clone().requires_grad_()
    (of_others(margins(plain), 0.0).sum(-1).mean() / 2).backward()
    np.testing.assert_allclose(s.grad, plain.grad / (1 + 1e-4), atol=1e-12)


def test_a_reference_that_knows_nothing_is_the_global_contrastive_loss():
    constant = torch.full((3, 3), 0.4, dtype=EXACT)
    with_it, without = (of_batch(S, reference=r, temperature=0.2) for r in (constant, None))
    assert with_it[0].item() == without[0].item() and with_it[1]["objective"] == without[1]["objective"]
    info = -torch.stack([(s / 0.2).log_softmax(-1).diagonal() for s in (S, S.T)]).mean()
    _, metrics = of_batch(S, temperature=0.2, floor=0.5)  # Σ_{j≠i} + 1 = (B − 1)·(mean + 1/(B − 1))
    assert metrics["objective"].item() / 0.2 == pytest.approx(info.item() - math.log(2), abs=1e-12)


def test_normalisers_are_moving_averages_that_begin_with_the_first_batch():
    rate = torch.tensor(0.25, dtype=EXACT)
    new = torch.tensor([0.3, -2.0, 500.0], dtype=EXACT)
    kept = torch.tensor([-math.inf, 1.0, math.nan], dtype=EXACT)
    found = averaged(kept, new, rate)
    np.testing.assert_allclose(found, [0.3, math.log(0.75 * math.e + 0.25 * math.exp(-2)), 500], atol=1e-12)
    assert averaged(torch.tensor(1.0), torch.tensor(2.0), torch.tensor(1.0)) == 2.0
    first, later = (of_batch(S, rate=0.25, kept=x, temperature=0.1, floor=0.0) for x in (-math.inf, 2.0))
    mean = log_means(margins(S) / 0.1)
    np.testing.assert_allclose(first[1]["memory/log_normaliser"], mean.T, atol=1e-12)
    mixed = (0.75 * math.exp(2) + 0.25 * mean.exp()).log()
    np.testing.assert_allclose(later[1]["memory/log_normaliser"], mixed.T, atol=1e-12)
    assert abs(later[0]) < abs(first[0])  # greater normalisers, smaller weights


def test_at_a_low_temperature_nothing_overflows_in_single_precision():
    s = S.float().clone().requires_grad_()
    loss, metrics = of_batch(s, reference=-REFERENCE.float(), temperature=1e-3)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(metrics["objective"]) and torch.isfinite(s.grad).all()


def test_the_rate_falls_from_one_by_half_a_cosine():
    method = DRRhoContrastive(inner_rate=0.2)
    assert [method.rate(e, 10) for e in (0, 5, 10)] == pytest.approx([1.0, 0.6, 0.2])
    assert DRRhoContrastive().rate(50, 50) == pytest.approx(4.177 * 50**-0.7265) and DRRhoContrastive().rate(5, 5) == 1


# --- runs ------------------------------------------------------------------------------------------------------------


def test_the_common_laws_of_networks():
    the_seed_decides(lambda seeds: learner(seeds))
    together_as_alone(lambda seeds: learner(seeds))
    a_device_changes_no_bit(learner)


def test_stopped_and_resumed_is_the_same_run_to_the_bit(tmp_path):
    """With a reference, and also what is kept of every sample."""
    method = DRRhoContrastive(hidden=(), width=3, batch_size=16, first=5)
    options = {"data": PAIRS, "steps": 4, "num_seeds": 2, "seed": 3, "loggers": (), "held_out": 0.25}
    first = api.train(method, run_dir=tmp_path / "first", **{**options, "num_seeds": 1})
    method = DRRhoContrastive(hidden=(8,), width=4, batch_size=16, first=5, inner_rate=0.3, reference=first)
    assert method.reference == str(first.path)
    whole = api.train(method, run_dir=tmp_path / "whole", **options)
    cut = api.train(method, run_dir=tmp_path / "cut", callbacks=lambda one, _: one.iteration == 2, **options)
    api.resume(cut, data=PAIRS)
    assert numbers([whole.metrics()]) == numbers([cut.metrics()])
    assert all(torch.equal(whole.agent(seed).vector, cut.agent(seed).vector) for seed in (3, 4))
    figures = sf.evaluate(whole, data=PAIRS)
    assert 0 <= figures["retrieval"] <= 1 and set(figures["groups"]) == {"0", "1"} and "r2" not in figures
    assert "held_out_retrieval" in whole.metrics()[-1] and "other view found first" in figures["table"]
    assert "other view found first" in report(whole).read_text()
    with pytest.raises(UsageError, match="PairModel does not predict the target of a row"):
        sf.stress(whole, data=PAIRS, perturb="input-pgd:0.1")
    wrong = sf.train("prospect", data=Table(X, X[:, 0]), steps=1, run_dir=tmp_path / "other", loggers=())
    with pytest.raises(UsageError, match="holds a LinearModel, which does not embed two views"):
        learner(reference=str(wrong.path))


def test_it_learns_to_match_and_keeps_a_normaliser_of_every_row():
    run = learner(steps=40, hidden=(16,), learning_rate=0.01)
    retrieval = [run.iterate()[0]["retrieval"] for _ in range(40)]
    assert retrieval[-1] > 0.35 > 0.15 > retrieval[0]  # by chance: 1 in 40
    kept = run.results()["log_normaliser"]
    assert kept.shape == (40, 2) and np.isfinite(kept).all()
    excess = margins(torch.from_numpy(np.matmul(*_embedded(run.agent())))) / 0.1
    exact = log_means(excess, 1e-4).numpy().T
    assert np.corrcoef(kept.ravel(), exact.ravel())[0, 1] > 0.8  # of the whole table, though batches are of 16


def _embedded(model: PairModel) -> tuple[np.ndarray, np.ndarray]:
    one, other = model.embed(X)
    np.testing.assert_allclose(np.linalg.norm(one, axis=1), 1)
    return one, other.T


def test_the_model_counts_within_galleries():
    model = learner().agent()
    table = Table(np.tile(X, (GALLERY // 20, 1)), np.arange(2 * GALLERY))
    assert len(model.losses(table)) == 2 * GALLERY and model.figures(table)["retrieval"] <= 1
    assert (model.predict(X) == (np.matmul(*_embedded(model))).argmax(1)).all()
    assert model.probabilities(X).sum(1) == pytest.approx(1)
    lone = PAIRS.rows(np.arange(1))
    assert model.losses(lone) == [0] and model.figures(lone) == {"retrieval": 1}


def test_a_damaged_model_is_refused(tmp_path):
    torch.manual_seed(0)
    network = RowNetwork((3,))
    vector = torch.cat([p.detach().flatten() for p in TwoViews(network, (2, 1), 4).parameters()])
    made = PairModel(network, (2, 1), 4, vector, (np.zeros(3), np.ones(3)), 0.1)
    made.save(tmp_path)
    loaded, rows = PairModel.load(tmp_path), STREAM.normal(size=(6, 3))
    assert (loaded.embed(rows)[0] == made.embed(rows)[0]).all() and "views of 2 and 1 features" in repr(loaded)
    text = (tmp_path / "agent.json").read_text()
    for old, new in (
        ('"temperature": 0.1', '"temperature": -1.0'),
        ('"width": 4', '"width": 5'),
        ('"width": 4', '"width": "4"'),
        ('"sizes"', '"size"'),
    ):
        assert old in text
        (tmp_path / "agent.json").write_text(text.replace(old, new))
        with pytest.raises(UsageError, match="is damaged"):
            PairModel.load(tmp_path)
    with pytest.raises(UsageError, match=r"X has the shape \[6, 2\]; this model was trained on views of 2 and 1"):
        loaded.embed(rows[:, :2])


@pytest.mark.parametrize(
    ("table", "changes", "words"),
    [
        (PAIRS, {"first": 8}, "first=8 is not allowed: rows have 8 features"),
        (Table(X[:, :1], np.arange(40)), {"first": None}, "of which each view needs one"),
        (PAIRS.rows(np.arange(1)), {}, "one row"),
        (PAIRS, {"reference": "nowhere"}, "nowhere"),
    ],
)
def test_tables_and_settings_that_do_not_fit_are_refused(table, changes, words):
    with pytest.raises(UsageError, match=words):
        learner(table=table, **changes)


def test_settings_are_checked():
    assert METHOD is DRRhoContrastive
    assert DRRhoContrastive().sizes(64) == (32, 32) and DRRhoContrastive(first=5).sizes(8) == (5, 3)
    for changes, words in (
        ({"batch_size": 1}, "batch_size=1"),
        ({"hidden": (8,), "loss": "squared"}, "loss=.* has no effect"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"inner_rate": 0.0}, "inner_rate=0.0"),
        ({"reference": 3}, "reference=3"),
    ):
        with pytest.raises(UsageError, match=words):
            DRRhoContrastive(**changes)
