"""Noise mask's claim: a classifier that learns under masks painted by a policy, and is then tuned, is the better one.

The paper compares with training that has no noise at all. The control here is fixed noise in the same pipeline: if it
does as well, the policy contributes nothing. All arms have the same epochs, those without masks included.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Beta

from surefoot.claims.parts import (
    Claim,
    Difference,
    Exact,
    Experiment,
    Gate,
    Less,
    Mean,
    Measurements,
    More,
    Part,
    Summary,
    Within,
)
from surefoot.data.tables import Table, read
from surefoot.loops.networks.nets import Batch, Weights
from surefoot.loops.supervised.learner import SupervisedLearner
from surefoot.loops.supervised.method import MODEL
from surefoot.methods.supervised.noise_mask import BASE, POLICY, NoiseMask
from surefoot.methods.supervised.noise_mask.masks import drawn, random_numbers
from surefoot.methods.supervised.noise_mask.policy import log_density
from surefoot.seeding import numpy_stream, torch_stream

SIGNALS = 2  # features that say the class, of 16


class Unmasked(NoiseMask):
    """The same stages and steps with no masks."""

    def painted(self, learner: SupervisedLearner, batch: Batch) -> dict[str, Tensor]:
        return super().painted(learner, batch) | {"masked": batch["x"]}


SETTING: dict[str, Any] = {
    "channels": (32, 64),
    "hidden": (64,),
    "grid": 4,
    "blur": 3,
    "masked": 0.8,
    "policy_channels": (16,),
    "policy_hidden": (32,),
}
RATE = 0.05
ARMS: dict[str, NoiseMask] = {
    "noise mask": NoiseMask(**SETTING, learning_rate=RATE / math.log(16)),  # less the factor of its loss, of 16 cells
    "cooperative": NoiseMask(**SETTING, learning_rate=RATE, mask="cooperative"),
    "adversarial": NoiseMask(**SETTING, learning_rate=RATE, mask="adversarial"),
    "fixed noise": NoiseMask(**SETTING, learning_rate=RATE, mask="fixed"),
    "plain": Unmasked(**SETTING, learning_rate=RATE, mask="fixed"),
}
TRAIN, EPOCHS = 600, 50


# --- what is exact -----------------------------------------------------------------------------------------------


def of_one_product(seeds: Sequence[int]) -> float:
    """The greatest error of the gradients of both networks, relative to the greatest gradient, against those of one
    product written out by torch's own Beta distribution."""
    errors = []
    for seed in seeds:
        method = NoiseMask(hidden=(8,), policy_hidden=(8,))
        learner = SupervisedLearner(method, signalling(seed), [seed], 2)
        learner._streams = [torch_stream(seed, "losses")]
        batch = learner.batch(np.arange(32)[None])
        batch |= method.painted(learner, batch)
        one = {name: x[0].double() for name, x in batch.items() if isinstance(x, Tensor)}
        net = {name: x[0].double().requires_grad_() for name, x in learner.weights.items()}
        w = Weights(learner.functions, net, {}, net)
        losses = method.policy_loss(w, one)[0], method.model_loss(w, one, learner.rows)[0]
        found = [torch.autograd.grad(loss, net[name])[0] for loss, name in zip(losses, (POLICY, MODEL), strict=True)]
        a, b = (0.9 * net[BASE].detach() + 0.1 * learner.functions[POLICY](net[POLICY], one["x"])).exp().chunk(2, -1)
        scores = learner.functions[MODEL](net[MODEL], one["masked"]).squeeze(-1)
        entropy = torch.nn.functional.binary_cross_entropy_with_logits(scores, one["y"])
        product = Beta(a, b).log_prob(one["mask"]).logsumexp(-1).mean() * entropy
        wanted = torch.autograd.grad(product, (net[POLICY], net[MODEL]))
        errors += [float((x - y).abs().max() / y.abs().max()) for x, y in zip(found, wanted, strict=True)]
    return max(errors)


def drift(seeds: Sequence[int]) -> dict[str, list[float]]:
    """How the masks' spread is moved where every mask is worth the same: the mean gradient of log-densities along
    d(A + B) of all 16 cells, over 10,000 masks from drawn parameters."""
    found: dict[str, list[float]] = {"log-sum": [], "mean of logs": []}
    for seed in seeds:
        generator = torch_stream(seed, "masks")
        logs = torch.rand(2, 1, 16, generator=generator, dtype=torch.float64).expand(2, 10_000, 16)
        numbers = random_numbers((10_000, 16), generator)
        mask = drawn(logs[0], logs[1], numbers["normal"].double(), numbers["uniform"].double())
        shift = torch.zeros((), dtype=torch.float64, requires_grad=True)
        each = log_density(mask, logs[0] + shift, logs[1] + shift)
        for name, value in (("log-sum", each.logsumexp(-1).mean()), ("mean of logs", each.mean(-1).mean())):
            found[name].append(float(torch.autograd.grad(value, shift, retain_graph=True)[0]))
    return found


# --- where the policy paints -------------------------------------------------------------------------------------


def signalling(seed: int) -> Table:
    """320 rows of 16 normal features, of which two say the class."""
    X = numpy_stream(seed, "rows").normal(size=(320, 16))
    return Table(X, X[:, :SIGNALS].sum(1) > 0)


def spared(mask: str, seeds: Sequence[int]) -> list[float]:
    """How much lighter the mean mask is on the features that say the class than on the others, after training."""
    method = NoiseMask(mask=mask, hidden=(16,), masked=1.0, learning_rate=RATE, policy_rate=PAINTING)
    learner = SupervisedLearner(method, signalling(seeds[0]), seeds, 10)
    for _ in range(10):
        learner.iterate()
    masks = [learner.results(place)["mean_mask"] for place in range(len(seeds))]
    return [float(m[:SIGNALS].mean() - m[SIGNALS:].mean()) for m in masks]


PAINTING = 5.0  # the policy's step here, which lets it move within 100 gradient steps


def of_mechanism(found: Measurements) -> Summary:
    of_cells = {f"drift, {name}": x for name, x in found["drift"].items()}
    return {"error of the gradients": found["product"], **of_cells} | {
        f"spared, {name}": found[name] for name in ("cooperative", "adversarial", "paper")
    }


# --- digits from three sources -----------------------------------------------------------------------------------


@cache
def sources() -> Table:
    """Digits at twice their size as three sources see them: as they are, inverted, and at a third of the contrast."""
    table = read("sklearn:digits")
    images = np.repeat(np.repeat(table.X.reshape(-1, 8, 8), 2, 1), 2, 2)
    source = np.arange(len(table)) % 3
    seen = np.stack([images, 16 - images, 8 + (images - 8) / 3])[source, np.arange(len(table))]
    return Table(seen[:, None], 10 * source + table.y)


def arm(name: str, seeds: Sequence[int]) -> list[float]:
    """The accuracy on clean rows held out, after tuning, seed by seed."""
    found = []
    for seed in seeds:
        order = numpy_stream(seed, "split").permutation(len(sources()))
        train, test = sources().rows(order[:TRAIN]), sources().rows(order[TRAIN:])
        learner = SupervisedLearner(ARMS[name], train, [seed], EPOCHS)
        for _ in range(EPOCHS):
            learner.iterate()
        found.append(float((learner.agent().predict(test.X) == test.y).mean()))
    return found


def of_sources(found: Measurements) -> Summary:
    return {f"accuracy, {name}": x for name, x in found.items()}


def room(summary: Summary) -> bool:
    return 0.6 < float(np.mean(summary["accuracy, plain"])) < 0.97


ROOM = Gate("room", room, "plain training is right on 60 to 97 % of the rows")


def apart(name: str, role: Any, better: str, other: str, test: Any) -> Part:
    """A part: the accuracy of one arm less that of another."""
    contrast = Difference(f"accuracy, {better}", f"accuracy, {other}")
    return Part(name, role, "sources", contrast, test, gates=(ROOM,))


CLAIM = Claim(
    slug="noise-mask",
    sentence="A classifier that learns under masks of noise painted by a policy, and is then tuned on clean images, is "
    "better than one trained as usual, at the same inference cost.",
    source="2024, abstract",
    method=NoiseMask,
    experiments={
        "masks": Experiment(
            "mechanism",
            {"product": of_one_product, "drift": drift}
            | {name: partial(spared, name) for name in ("cooperative", "adversarial", "paper")},
            seeds=8,
            minutes=0.06,
            setting="drawn networks, masks and parameters; 320 rows of 16 features, two of which say the class, for 10 "
            "epochs with a policy that steps by 5",
            arms={"noise mask": NoiseMask()},
            summary=of_mechanism,
        ),
        "sources": Experiment(
            "miniature",
            {name: partial(arm, name) for name in ARMS},
            seeds=8,
            minutes=24.0,
            setting="digits of scikit-learn at 16×16 as three sources see them, 30 classes; 600 images to learn from, "
            "1,197 held out; convolutions of 32 and 64 channels; 40 epochs of every arm's own and 10 of tuning; steps of 0.05, divided "
            "by the log of 16 cells where the paper's loss multiplies by it",
            arms=dict(ARMS),
            summary=of_sources,
            differs=(
                "digits in place of radiographs",
                "small networks in place of ResNets",
                "a grid of 4 cells a side",
            ),
        ),
    },
    parts=(
        Part(
            "both networks descend the released product",
            "primary",
            "masks",
            Exact("error of the gradients"),
            Less(1e-6, 1e-3),
        ),
        Part(
            "REINFORCE leaves masks alone where all are worth the same",
            "primary",
            "masks",
            Mean("drift, mean of logs"),
            Within(0.01),
        ),
        Part(
            "the paper's density moves them even then",
            "secondary",
            "masks",
            Mean("drift, log-sum"),
            More(0.01),
        ),
        Part(
            "a cooperative policy spares what says the class",
            "primary",
            "masks",
            Mean("spared, cooperative"),
            More(),
        ),
        Part(
            "an adversarial policy hides it",
            "primary",
            "masks",
            Mean("spared, adversarial"),
            Less(),
        ),
        Part("the paper's policy spares it", "exploratory", "masks", Mean("spared, paper"), More()),
        apart("half a point more than plain training", "primary", "noise mask", "plain", More(0.005, against=0.0)),
        apart("more than fixed noise", "primary", "noise mask", "fixed noise", More()),
        apart("cooperative: more than fixed noise", "secondary", "cooperative", "fixed noise", More()),
        apart("adversarial: more than fixed noise", "secondary", "adversarial", "fixed noise", More()),
        apart("fixed noise: more than plain training", "secondary", "fixed noise", "plain", More()),
    ),
    not_run="RadImageNet is given on request only; 100 epochs of its 1.35 million images at 224 pixels with a ResNet-50 "
    "take days on one GPU. On its page the authors give macro F1 .5468 against .5226 without masks, one run each.",
)
