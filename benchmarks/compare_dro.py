"""Linear robust models and their worst distributions: ours and those of `dro`, on the same samples.

    python benchmarks/compare_dro.py --peer PEER/bin/python [--samples 60] [--features 3]

PEER is an environment with `pip install torch cvxpy scikit-learn tqdm` and `pip install --no-deps dro`. Compared are

- CVaR, χ² and KL, squared and log loss: the fits of `drrho` without a reference (objective and coefficients), the
  worst value at their coefficients, and the weights of the worst distribution;
- Wasserstein balls of order 2, squared loss: the bound of our certificate at their coefficients, where points move,
  and the fit of `wafl` at the price of transport at which their ball is tight;
- Wasserstein balls of order 1, log, hinge and absolute loss, with and without labels that may flip: our set on the
  points that they find must have a value between their distribution's and their bound;
- the attack of their neural model with a price on transport, on the same network.

A difference is relative for values and a share of the largest entry for vectors.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench_offline import environment
from peer_sb3 import store
from surefoot.ambiguity import Wasserstein, parse, worst_case
from surefoot.ambiguity.conventions import penalty_of_half
from surefoot.ambiguity.surrogate import ascent_step
from surefoot.data.tables import Table
from surefoot.loops.common.run import make_learner
from surefoot.loops.finite_sum.problem import weigh
from surefoot.methods.supervised.drrho import DRRho
from surefoot.methods.supervised.wafl import WAFL
from surefoot.methods.supervised.wafl.worst import certified
from surefoot.models.row_network import RowModel, RowNetwork
from surefoot.perturbations.ascent import ascend_priced, greatest_curvature

PEER = Path(__file__).with_name("peer_dro.py")
SETS = {"cvar:0.5": ("cvar", {"alpha": 0.5}), "chi2:0.5": ("chi2", {"eps": 0.5}), "kl:0.2": ("kl", {"eps": 0.2})}
LOSSES = {"squared": "ols", "logistic": "logistic"}
RADIUS, FLIP = 0.1, 0.5  # of the Wasserstein balls, and the price of a label that flips
WIDTH, GAMMA, STEPS = 8, 1.0, 400  # of the network that is attacked, the peer's price and its steps


def samples(count: int, features: int) -> dict[str, np.ndarray]:
    """X, y, and labels as −1, 1 and as places."""
    stream = np.random.default_rng(0)
    X = stream.normal(size=(count, features))
    score = X @ np.arange(1, features + 1) / features
    y, labels = score + stream.standard_t(3, size=count), score + 0.5 * stream.normal(size=count) > 0
    return {"X": X, "y": y, "signs": np.where(labels, 1.0, -1.0), "labels": labels.astype(np.int64)}


def layers(features: int) -> dict[str, np.ndarray]:
    """Weights and biases of a network with two classes and one layer of tanh."""
    stream = np.random.default_rng(1)
    sizes = {"layer0": (WIDTH, features), "bias0": (WIDTH,), "layer1": (2, WIDTH), "bias1": (2,)}
    return {name: 0.5 * stream.normal(size=shape) for name, shape in sizes.items()}


def problems() -> dict[str, dict[str, Any]]:
    """What the peer is asked, by name."""
    found: dict[str, dict[str, Any]] = {}
    for text, (kind, settings) in SETS.items():
        for loss, model in LOSSES.items():
            found[f"{text}, {loss}"] = {"kind": kind, "model": model, "settings": settings}
    ball = {"p": 2, "eps": RADIUS}
    found["order 2, squared"] = {"kind": "wasserstein", "model": "ols", "settings": ball}
    for model in ("logistic", "svm", "lad"):
        found[f"order 1, {model}"] = {"kind": "wasserstein", "model": model, "settings": ball}
    for model in ("logistic", "svm"):
        flips = {**ball, "kappa": FLIP}
        found[f"order 1, {model}, flips"] = {"kind": "wasserstein", "model": model, "settings": flips}
    return found | {"attack": {"kind": "attack", "gamma": GAMMA, "steps": STEPS, "size": 0.2}}


def asked(python: str, given: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """What the peer finds, by problem."""
    listed = problems()
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "given.npz"), Path(folder, "found.npz")
        everything: dict[str, Any] = {"problems": json.dumps(list(listed.values())), **given}
        np.savez(source, **everything)
        command = [python, str(PEER), str(source), str(target)]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}\n{done.stderr[-3000:]}")
        raw = dict(np.load(target))
    mine = [{key.partition("/")[2]: x for key, x in raw.items() if key.startswith(f"{i}/")} for i in range(len(listed))]
    return dict(zip(listed, mine, strict=True))


def apart(mine: Any, theirs: Any) -> float:
    """The largest difference, as a share of the largest entry."""
    return float(np.abs(np.asarray(mine) - theirs).max() / np.abs(theirs).max())


# --- what is compared ------------------------------------------------------------------------------------------------


def finite(text: str, loss: str, table: Table, theirs: dict[str, np.ndarray]) -> dict[str, float]:
    """A set on the samples. The peer's squared loss has no half, and its weights of CVaR are equal on all samples from
    the threshold on, so that only those above it are compared."""
    unit = 2 if loss == "squared" else 1
    learner = make_learner(DRRho(ambiguity=text, loss=loss, l2=0.0), table, [0], 300)
    for _ in range(300):
        last = learner.iterate()[0]["objective"]
    scores = table.X @ theirs["theta"] + theirs["b"]
    losses = unit / 2 * (table.y - scores) ** 2 if unit == 2 else np.logaddexp(0, -scores * np.where(table.y, 1, -1))
    at_theirs = weigh(parse(text), losses)
    found = {"value": apart(at_theirs.risk, theirs["objective"]), "fit": unit * last / theirs["objective"] - 1}
    found["coefficients"] = apart(learner.agent().coef[0], theirs["theta"])
    if text.startswith("cvar"):
        count = 0.5 * len(losses)
        ahead = losses > np.sort(losses)[-round(count)] + 1e-4
        found["weights"] = apart(at_theirs.q[ahead], 1 / count)
    else:
        found["weights"] = apart(at_theirs.q, theirs["weights"])
    return {name: float(x) for name, x in found.items()}


def linear_model(theta: np.ndarray, b: float) -> RowModel:
    vector = torch.from_numpy(np.append(theta, b))
    d = len(theta)
    return RowModel(RowNetwork(()), (d,), vector, (np.zeros(d), np.ones(d)), "squared")


def moved(model: RowModel, table: Table, price: float) -> np.ndarray:
    """The rows where they do most damage net of the price, by a long ascent."""
    x, y = model.scaled(table.X), torch.from_numpy(model.encoded(table))
    still = {"x": torch.zeros_like(x)}

    def damage(moves: dict[str, torch.Tensor]) -> torch.Tensor:
        return model.damage(x + moves["x"], y)

    size = ascent_step(price, float(greatest_curvature(damage, still).max()))
    return (x + ascend_priced(damage, still, price, 2000, size)["x"]).numpy()


def order_two(table: Table, theirs: dict[str, np.ndarray]) -> dict[str, float]:
    """The ball of radius ε in the mean of squared distances. Their objective is the root of the worst mean of squares,
    (rmse + √ε·‖θ‖)², whose slope in ε is the price at which the ball is tight."""
    theta, root = theirs["theta"], float(theirs["objective"])
    price = penalty_of_half(root * np.linalg.norm(theta) / np.sqrt(RADIUS) / 2)  # of half the square
    model = linear_model(theta, float(theirs["b"]))
    told = certified(model, table, price)
    found = {"bound": apart(2 * told.bound(np.sqrt(RADIUS)), root**2), "radius": apart(told.radius**2, RADIUS)}
    found["points"] = apart(moved(model, table, price), theirs["points"])
    method = WAFL(loss="squared", penalty=price, ascent_steps=40, scale="none", batch_size=len(table), local_epochs=1)
    learner = make_learner(method, table, [0], 200)
    for _ in range(200):
        learner.iterate()
    return {**found, "fit of wafl": apart(learner.agent().vector.numpy(), np.append(theta, theirs["b"]))}


def order_one(name: str, given: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> dict[str, float]:
    """Our set on the samples and the points that they found, of which one is far away: how far its value is below what
    their distribution attains (at most 0), and above their bound (at most 0)."""
    regression = "lad" in name
    own = np.column_stack([given["X"], given["y" if regression else "signs"]])
    points = np.vstack([own, np.column_stack([theirs["points"], theirs["targets"]])])
    price = np.inf if "flips" not in name else FLIP
    cost = np.linalg.norm(points[:, None, :-1] - points[None, :, :-1], axis=-1)
    cost += np.where(points[:, None, -1] != points[None, :, -1], price, 0.0)
    p = (np.arange(len(points)) < len(own)) / len(own)
    margins = points[:, :-1] @ theirs["theta"] + theirs["b"]
    losses = np.abs(margins - points[:, -1]) if regression else np.logaddexp(0, -margins * points[:, -1])
    losses = np.maximum(0, 1 - margins * points[:, -1]) if "svm" in name else losses
    attained, bound = float(theirs["weights"] @ losses[len(own) :]), float(theirs["objective"])
    ours = float(worst_case(losses, p, Wasserstein(radius=RADIUS, cost=cost), maximise=True).value)
    return {"below what is attained": (attained - ours) / bound, "above the bound": (ours - bound) / bound}


def attacked(given: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> dict[str, float]:
    """The points of the two ascents. Our γ is twice theirs."""
    body = [torch.from_numpy(given[name]) for name in ("layer0", "bias0", "layer1", "bias1")]
    x, labels = torch.from_numpy(given["X"]), torch.from_numpy(given["labels"])

    def damage(moves: dict[str, torch.Tensor]) -> torch.Tensor:
        hidden = torch.tanh((x + moves["x"]) @ body[0].T + body[1])
        return torch.nn.functional.cross_entropy(hidden @ body[2].T + body[3], labels, reduction="none")

    still, price = {"x": torch.zeros_like(x)}, penalty_of_half(GAMMA)
    size = ascent_step(price, float(greatest_curvature(damage, still).max()))
    return {"points": apart(x + ascend_priced(damage, still, price, STEPS, size)["x"], theirs["points"])}


def agreement(python: str, count: int = 60, features: int = 3) -> dict[str, dict[str, float]]:
    """The differences of every problem by name."""
    given = samples(count, features) | layers(features)
    theirs = asked(python, given)
    numbers, classes = Table(given["X"], given["y"]), Table(given["X"], given["labels"])
    found = {}
    for text in SETS:
        for loss in LOSSES:
            table = numbers if loss == "squared" else classes
            found[f"{text}, {loss}"] = finite(text, loss, table, theirs[f"{text}, {loss}"])
    found["order 2, squared"] = order_two(numbers, theirs["order 2, squared"])
    found |= {name: order_one(name, given, theirs[name]) for name in theirs if name.startswith("order 1")}
    return found | {"attack": attacked(given, theirs["attack"])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", required=True)
    parser.add_argument("--samples", type=int, default=60)
    parser.add_argument("--features", type=int, default=3)
    given = parser.parse_args()
    found = agreement(given.peer, given.samples, given.features)
    for name, row in found.items():
        print(f"{name:<24}", "  ".join(f"{key} {x:.1e}" for key, x in row.items()))
    versions = subprocess.run([given.peer, str(PEER), "versions"], env=environment(), capture_output=True, text=True)
    about = {"samples": given.samples, "features": given.features, "peer": json.loads(versions.stdout)}
    store("agreement_dro", {**about, "differences": found})


if __name__ == "__main__":
    main()
