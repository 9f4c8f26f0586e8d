"""DRRho for pairs, as its claim measures it: linear encoders of two noisy views of hidden causes, of which a fifth of the
pairs to learn from do not belong together."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from surefoot.data.tables import Table
from surefoot.loops.common.run import make_learner
from surefoot.loops.supervised.learner import SupervisedLearner
from surefoot.methods.supervised.drrho.contrastive import DRRhoContrastive
from surefoot.models.two_views import PairModel
from surefoot.objectives.contrastive import averaged, log_means, margins, of_others
from surefoot.seeding import numpy_stream

CAUSES, FEATURES, NOISE, WRONG = 8, 16, 1.0, 0.2
EPOCHS, OF_REFERENCE, TESTED = 40, 500, 500
WIDTH, WEAK = 16, 8  # of the embeddings of the model, and of its reference
SIZES = (100, 400)


def pairs(seed: int, count: int, name: str, wrong: float = WRONG) -> Table:
    """Pairs side by side, of which a share is wrong."""
    world, stream = numpy_stream(seed, "views"), numpy_stream(seed, name)
    one, other = world.normal(size=(2, CAUSES, FEATURES))
    cause = stream.normal(size=(count, CAUSES))
    second = np.where(stream.random(count)[:, None] < wrong, stream.normal(size=(count, CAUSES)), cause)
    X = np.hstack([cause @ one, second @ other])
    return Table(X + NOISE * stream.normal(size=X.shape), np.arange(count))


def trained(seed: int, table: Table, epochs: int = EPOCHS, **changes: Any) -> SupervisedLearner:
    """Linear encoders."""
    method = DRRhoContrastive(**{"hidden": (), "width": WIDTH, **changes})
    learner = make_learner(method, table, [seed], epochs)
    for _ in range(epochs):
        learner.iterate()
    return learner


# --- what is exact -----------------------------------------------------------------------------------------------


def gradients(seeds: Sequence[int]) -> float:
    """How far the gradient of detached weights is from that of τ·mean log(ε + G), the greatest of the seeds."""
    errors = []
    for seed in seeds:
        stream = torch.Generator().manual_seed(seed)
        s = torch.rand(12, 12, dtype=torch.float64, generator=stream).requires_grad_()
        excess = (margins(s) - margins(torch.rand(12, 12, dtype=torch.float64, generator=stream))) / 0.1
        now = averaged(torch.tensor(2.0), log_means(excess, 1e-4), torch.tensor(1.0)).detach()
        weights = of_others((excess.detach() - now.unsqueeze(-1)).exp(), 0.0) / 11
        both = [(weights * excess).sum(-1).mean(), log_means(excess, 1e-4).mean()]
        ours, theirs = (torch.autograd.grad(one, s, retain_graph=True)[0] for one in both)
        errors.append(float((ours - theirs).abs().max() / theirs.abs().max()))
    return max(errors)


def normalisers(seeds: Sequence[int]) -> dict[str, float]:
    """The root mean squared error of the log normalisers that are kept, for batches of 16 among 400 rows, at the end:
    those of single batches, and moving averages at a last rate of 0.2."""
    found: dict[str, list[float]] = {"batch": [], "moving": []}
    for seed in seeds:
        table = pairs(seed, 400, "pairs")
        for name, rate in (("batch", 1.0), ("moving", 0.2)):
            learner = trained(seed, table, 20, batch_size=16, inner_rate=rate)
            one, other = learner.agent().embed(table.X)
            whole = log_means(margins(torch.from_numpy(one @ other.T)) / 0.1, 1e-4).numpy().T
            found[name].append(float(np.sqrt(np.mean((learner.results()["log_normaliser"] - whole) ** 2))))
    return {name: float(np.mean(values)) for name, values in found.items()}


# --- from few pairs ----------------------------------------------------------------------------------------------


def matched(n: int, seeds: Sequence[int]) -> dict[str, list[float]]:
    """The share of 500 new pairs, all of them right, that are found: by the reference, which is narrow and learned from
    500 other pairs; by encoders of n pairs with it and without; and by encoders of all n + 500 pairs without it."""
    found: dict[str, list[float]] = {"reference": [], "with": [], "without": [], "pooled": []}
    for seed in seeds:
        table, old = pairs(seed, n, "pairs"), pairs(seed, OF_REFERENCE, "pairs of the reference")
        reference: PairModel = trained(seed, old, width=WEAK).agent()
        with tempfile.TemporaryDirectory() as folder:
            models = {
                "reference": reference,
                "with": trained(seed, table, reference=str(reference.save(folder))).agent(),
            }
        models["without"] = trained(seed, table).agent()
        both = Table(np.vstack([table.X, old.X]), np.arange(len(table) + len(old)))
        models["pooled"] = trained(seed, both).agent()
        new = pairs(seed, TESTED, "new pairs", wrong=0.0)
        for name, model in models.items():
            found[name].append(model.figures(new)["retrieval"])
    return found
