"""The claim on gradient subspaces: few directions of high curvature hold much of the gradient, and they turn slowly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from surefoot.claims.parts import (
    Claim,
    Difference,
    Exact,
    Experiment,
    Gate,
    Less,
    LogRatio,
    Mean,
    Measurements,
    More,
    Part,
    Summary,
    Within,
)
from surefoot.loops.common.run import make_learner
from surefoot.loops.on_policy.method import pick
from surefoot.methods.control.gradient_subspaces import GradientSubspaces
from surefoot.methods.control.gradient_subspaces.subspaces import (
    _anew,
    actor_loss,
    analyse,
    block,
    critic_loss,
    fresh_batches,
    overlap,
    subspace_fraction,
    top_eigenpairs,
)
from surefoot.methods.control.ppo import PPO
from surefoot.seeding import torch_stream

HEADS = ("actor", "critic")

# --- small networks, against dense Hessians --------------------------------------------------------------------------

SMALL: Mapping[str, Any] = {"num_envs": 4, "num_steps": 32, "minibatch_size": 32, "epochs": 2, "hidden": (8, 8)}
LOOKING = GradientSubspaces(**SMALL, analysis_every=2, subspaces=(1, 5))
TARGET = "surefoot/ContinuousTarget-v0"


def dense(seeds: Sequence[int]) -> dict[str, list[float]]:
    """Two iterations, the second with an analysis: the largest difference of the weights from PPO's. Then, on a new batch,
    the analysis against explicit Hessians, the larger error of both heads: of the eigenvalues (over the largest), of
    the subspace of the top 5 (1 − overlap), and of the gradient's fraction in it."""
    looking, plain = (make_learner(method, TARGET, list(seeds), 10**6) for method in (LOOKING, PPO(**SMALL)))
    for _ in range(2):
        looking.iterate()
        plain.iterate()
    found = {"weights": (looking.vector - plain.vector).abs().amax(1).tolist()}
    found |= {name: [] for name in ("eigenvalues", "subspace", "fraction")}
    batch = looking.estimate(looking.collect(looking.vector))
    reports = analyse(looking, batch, batch, 5)
    masks = {name: looking.model.mask(lambda full, name=name: full.startswith(f"{name}.")) for name in HEADS}
    for index, seed in enumerate(reports):
        vector, extra = looking.vector[index].double(), {name: x[index] for name, x in looking.extra.items()}
        own, errors = _anew(looking.model, vector, pick(batch, index)), []
        losses = {"actor": actor_loss(LOOKING, looking.model, extra), "critic": critic_loss(LOOKING, looking.model)}
        for name, loss in losses.items():
            part, start = block(loss, vector, masks[name])
            values, vectors = torch.linalg.eigh(torch.func.hessian(lambda v, part=part, own=own: part(v, own))(start))
            values, vectors = values.flip(0)[:5], vectors.flip(1)[:, :5]
            inside = subspace_fraction(torch.func.grad(part)(start, own), vectors, (5,))
            errors.append(
                (
                    float((seed[name].eigenvalues - values).abs().max() / values[0]),
                    1 - float(overlap(vectors, seed[name].basis)),
                    float((seed[name].true((5,)) - inside).abs()),
                )
            )
        for name, error in zip(("eigenvalues", "subspace", "fraction"), np.max(errors, axis=0), strict=True):
            found[name].append(float(error))
    looking.close()
    plain.close()
    return found


def by_hand(seeds: Sequence[int]) -> dict[str, list[float]]:
    """Fractions of g = (1, 2, ½, ⅕) in the top 1 to 4 directions of diag(10, 5, 1, .1), and overlaps of (e₁, e₂) with
    itself, (e₁, e₃), (e₃, e₄), (e₁+e₂, e₂+e₃)/√2 and ((e₁+e₂)/√2, e₃)."""
    diagonal, e = torch.tensor([10, 5, 1, 0.1], dtype=torch.float64), torch.eye(4, dtype=torch.float64)
    _, basis = top_eigenpairs(lambda v: 0.5 * (diagonal * v * v).sum(), torch.zeros(4, dtype=torch.float64), 4)
    gradient, half = torch.tensor([1, 2, 0.5, 0.2], dtype=torch.float64), 0.5**0.5
    pairs = [(e[0], e[1]), (e[0], e[2]), (e[2], e[3]), (half * (e[0] + e[1]), half * (e[1] + e[2]))]
    pairs.append((half * (e[0] + e[1]), e[2]))
    return {
        "fractions": subspace_fraction(gradient, basis, (1, 2, 3, 4)).tolist(),
        "overlaps": [float(overlap(torch.stack([e[0], e[1]], 1), torch.stack(pair, 1))) for pair in pairs],
    }


def at_random(seeds: Sequence[int]) -> list[float]:
    """Mean fraction of 200 random gradients of 2000 parameters in a random subspace of 20, over k/n."""
    found = []
    for seed in seeds:
        stream = torch_stream(seed, "random subspace")
        basis, _ = torch.linalg.qr(torch.randn(2000, 20, generator=stream, dtype=torch.float64))
        gradients = torch.randn(200, 2000, generator=stream, dtype=torch.float64)
        found.append(float(subspace_fraction(gradients, basis, (20,)).mean()) * 2000 / 20)
    return found


def of_small(found: Measurements) -> Summary:
    hand = found["by hand"]
    wanted = {"fractions": (0.189036, 0.945180, 0.992439, 1), "overlaps": (1, 0.5, 0, 0.75, 0.5)}
    return {
        **{f"error, {name}": max(values) for name, values in found["dense"].items()},
        "error, by hand": max(float(np.abs(np.subtract(hand[name], x)).max()) for name, x in wanted.items()),
        "excess of chance": [times - 1 for times in found["at random"]],
    }


# --- Pendulum --------------------------------------------------------------------------------------------------------

ENV, DATA, KS = "Pendulum-v1", 8192, (10, 25, 50)
CHECKPOINTS, WINDOW = (0, 20, 40, 60), 5
METHOD = GradientSubspaces(hidden=(32, 32), learning_rate=1e-3, gamma=0.95, lam=0.9, analysis_every=10**6)


def pendulum(seeds: Sequence[int]) -> Measurements:
    """Every list under a name is `[checkpoints][seeds]`; fractions have a number for each k within."""
    learner = make_learner(
        METHOD, ENV, list(seeds), METHOD.num_envs * METHOD.num_steps * max(CHECKPOINTS), compile="on"
    )
    names = ("estimated", "true", "eigenvalues", "overlap")
    found: Measurements = {head: {name: [] for name in names} for head in HEADS}
    returns: list[list[float]] = []
    previous = None
    try:
        for iteration in range(max(CHECKPOINTS) + 1):
            if iteration in CHECKPOINTS:
                reports = analyse(learner, *fresh_batches(learner, ENV, DATA), max(KS))
                for head in HEADS:
                    mine, row = [seed[head] for seed in reports], found[head]
                    row["size"] = len(mine[0].gradient)
                    row["estimated"].append([report.estimated(KS).tolist() for report in mine])
                    row["true"].append([report.true(KS).tolist() for report in mine])
                    row["eigenvalues"].append(
                        [report.eigenvalues[[0, *(k - 1 for k in KS)]].tolist() for report in mine]
                    )
                    if previous is not None:
                        pairs = zip((seed[head].basis[:, : KS[0]] for seed in previous), mine, strict=True)
                        row["overlap"].append([float(overlap(old, new.basis[:, : KS[0]])) for old, new in pairs])
                previous = reports
            if iteration < max(CHECKPOINTS):
                returns.append([row.get("return", float("nan")) for row in learner.iterate()])
    finally:
        learner.collector.close()
    # An iteration in which no episode ends has no return.
    ends = [WINDOW, *CHECKPOINTS[1:]]
    found["return"] = [np.nanmean(returns[end - WINDOW : end], axis=0).tolist() for end in ends]
    return found


def of_pendulum(found: Measurements) -> Summary:
    """Per seed, means over the checkpoints after the first; overlaps are those of the checkpoints after it."""
    seen = found[ENV]
    series = {"last return": seen["return"][-1]}
    for head in HEADS:
        of = {name: np.array(seen[head][name])[1:] for name in ("estimated", "true", "eigenvalues", "overlap")}
        series[f"fraction, {head}"] = of["estimated"][..., 0].mean(0)
        series[f"true fraction, {head}"] = of["true"][..., 0].mean(0)
        series[f"overlap, {head}"] = of["overlap"].mean(0)
        series[f"chance, {head}"] = [KS[0] / seen[head]["size"]] * len(series["last return"])
        first, tenth = (np.exp(np.log(of["eigenvalues"][..., i]).mean(0)) for i in (0, 1))
        series |= {f"first eigenvalue, {head}": first, f"tenth eigenvalue, {head}": tenth}
    return series


def learns(summary: Summary) -> bool:
    """Whether PPO learns the task, on the mean over seeds."""
    return float(np.mean(summary["last return"])) > -300


LEARNS = Gate("control", learns, "the return comes above −300 (random actions: −1,200)")
TEN = More(float(np.log(10)))

CLAIM = Claim(
    slug="gradient-subspaces",
    sentence="A large share of actor's and critic's gradients lies in the small subspace of highest curvature, more of "
    "the critic's than of the actor's, and the subspace turns slowly: PPO's half of the paper's claim.",
    source="Schneider et al. 2024, abstract, Fig. 2 and 3",
    method=GradientSubspaces,
    experiments={
        "small networks": Experiment(
            "mechanism",
            {"dense": dense, "by hand": by_hand, "at random": at_random},
            seeds=8,
            minutes=0.05,
            setting="networks of two tanh layers of 8 on a task of one step: two iterations of 128 steps, top 5 "
            "eigenvectors by Lanczos against explicit Hessians; random subspaces of 20 of 2000 dimensions",
            arms={"PPO that looks": LOOKING, "PPO": PPO(**SMALL)},
            summary=of_small,
        ),
        "Pendulum": Experiment(
            "miniature",
            {ENV: pendulum},
            seeds=3,
            minutes=9.2,
            setting="PPO on Pendulum-v1, 60 iterations of 2048 steps; top 10 eigenvectors on 8192 fresh steps at "
            "iterations 20, 40 and 60, mean fraction of the gradients of minibatches of 64 of another fresh rollout, "
            "and overlap of neighbouring checkpoints. A random subspace has k/n = 0.0082 of both",
            arms={"PPO that looks": METHOD},
            summary=of_pendulum,
            differs=(
                "networks of 32-32 units (n = 1218) and k = 10 in place of 64-64 (n = 4482) and 100",
                "8,192 steps in place of a million for the Hessian and the true gradient",
                "eight environments of 256 steps and a step size of 0.001 in place of one of 4096 and 0.003",
                "Gaussian noise without state-dependent exploration (gSDE)",
                "one environment of twelve, 123k steps of 300k, 3 seeds; PPO without SAC, which this library has not",
            ),
        ),
    },
    parts=(
        Part(
            "Lanczos finds the eigenvalues of the dense Hessian",
            "primary",
            "small networks",
            Exact("error, eigenvalues"),
            Less(1e-3, 1e-3),
        ),
        Part(
            "Lanczos finds the subspace of the dense Hessian",
            "primary",
            "small networks",
            Exact("error, subspace"),
            Less(1e-3, 1e-3),
        ),
        Part(
            "the gradient's fraction is that in the dense subspace",
            "primary",
            "small networks",
            Exact("error, fraction"),
            Less(1e-3, 1e-3),
        ),
        Part("looking changes no weight", "primary", "small networks", Exact("error, weights"), Less(1e-9, 1e-9)),
        Part(
            "fractions and overlaps are those by hand",
            "primary",
            "small networks",
            Exact("error, by hand"),
            Less(1e-6, 1e-6),
        ),
        Part(
            "a random subspace holds k/n of a random gradient",
            "primary",
            "small networks",
            Mean("excess of chance"),
            Within(0.1),
        ),
        *(
            Part(
                f"the {head}'s gradient: over ten times chance in the top 10",
                "primary",
                "Pendulum",
                LogRatio(f"fraction, {head}", f"chance, {head}"),
                TEN,
                (LEARNS,),
                says="abstract: gradients lie in a small, slowly changing subspace",
            )
            for head in HEADS
        ),
        *(
            Part(
                f"the {head}'s subspace: overlap over ten times chance",
                "primary",
                "Pendulum",
                LogRatio(f"overlap, {head}", f"chance, {head}"),
                TEN,
                (LEARNS,),
            )
            for head in HEADS
        ),
        *(
            Part(
                f"the {head}'s gradient on all data: over ten times chance in the top 10",
                "secondary",
                "Pendulum",
                LogRatio(f"true fraction, {head}", f"chance, {head}"),
                TEN,
                (LEARNS,),
            )
            for head in HEADS
        ),
        *(
            Part(
                f"the {head}'s first eigenvalue: over ten times the tenth",
                "secondary",
                "Pendulum",
                LogRatio(f"first eigenvalue, {head}", f"tenth eigenvalue, {head}"),
                TEN,
                (LEARNS,),
            )
            for head in HEADS
        ),
        Part(
            "the critic's share is larger than the actor's",
            "secondary",
            "Pendulum",
            Difference("fraction, critic", "fraction, actor"),
            More(),
            (LEARNS,),
        ),
        Part(
            "the critic's subspace turns more slowly than the actor's",
            "secondary",
            "Pendulum",
            Difference("overlap, critic", "overlap, actor"),
            More(),
            (LEARNS,),
        ),
    ),
    not_run="the paper's values are bars and curves, not numbers. PPO on Pendulum (64-64, k = 100, a million samples a "
    "checkpoint, 300k steps) would need gSDE, and without it about two hours of two cores for 5 seeds at 100,000 "
    "samples a checkpoint; SAC is missing here",
    amended=(
        "The parts of the miniature were declared on 2026-11-30 over measurements of 2026-11-24, which an earlier judge "
        "had summed up in one word.",
    ),
)
