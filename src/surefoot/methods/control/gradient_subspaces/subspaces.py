"""How much of a gradient lies in the directions of highest curvature, and how fast those directions change.

    fraction(g, U) = ‖Uᵀg‖² / ‖g‖²        overlap(U₁, U₂) = ‖U₁ᵀU₂‖² / k

The columns of U are the top k eigenvectors of a loss's Hessian by *algebraic* value (the actor's loss is not convex;
its large negative eigenvalues do not count), found by Lanczos' method from Hessian-vector products alone. A random
subspace of k of n dimensions has a fraction and an overlap of k/n on average.

After Jan Schneider et al., *Identifying Policy Gradient Subspaces* (2024), arXiv:2401.06604.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from jaxtyping import Float
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor
from torch.utils._pytree import tree_map

from surefoot.errors import UsageError
from surefoot.loops.common.run import make_learner
from surefoot.loops.on_policy.method import Batch, OnPolicy, pick, take
from surefoot.loops.on_policy.trust_region import hessian_product
from surefoot.models.device import computing_on
from surefoot.models.functional import Model
from surefoot.objectives.advantages import standardize
from surefoot.seeding import derive, numpy_stream, torch_stream

if TYPE_CHECKING:
    from surefoot.loops.on_policy.learner import Learner

Loss = Callable[[Tensor, Batch], Tensor]
"""A scalar function of a flat vector of parameters and a batch."""


# --- linear algebra --------------------------------------------------------------------------------------------------


def hvp(
    loss: Callable[[Tensor], Tensor], vector: Float[Tensor, "size"], direction: Float[Tensor, "size"]
) -> Float[Tensor, "size"]:
    """The Hessian of the loss at `vector`, times a direction."""
    return hessian_product(loss, vector)(direction)


def top_eigenpairs(
    loss: Callable[[Tensor], Tensor],
    vector: Float[Tensor, "size"],
    k: int,
    *,
    tolerance: float = 1e-4,
    iterations: int = 500,
) -> tuple[Float[Tensor, "k"], Float[Tensor, "size k"]]:
    """The k largest eigenvalues of the loss's Hessian at `vector`, descending, and orthonormal eigenvectors.

    `tolerance` is relative to each eigenvalue, `iterations` the restarts of Lanczos' method. The Hessian is formed
    explicitly when half of its eigenpairs or more are requested.

    Raises:
        UsageError: k is not in [1, size], or the vector is not float64 (in float32 Lanczos' method loses all but the
            largest eigenpairs).
    """
    size = len(vector)
    if not 1 <= k <= size:
        raise UsageError(f"k={k!r} eigenvectors of {size} parameters is not allowed; k must be in [1, {size}].")
    if vector.dtype != torch.float64:
        raise UsageError(f"vector has dtype {vector.dtype}; eigenvectors need torch.float64, here and in the batch.")
    product = hessian_product(loss, vector)
    start = numpy_stream(0, "lanczos").standard_normal(size)

    def matvec(x: np.ndarray) -> np.ndarray:
        return product(torch.from_numpy(x.reshape(-1).copy()).to(vector.device)).cpu().numpy()

    if 2 * k >= size:
        values, vectors = torch.linalg.eigh(torch.stack([product(row) for row in torch.eye(size, dtype=vector.dtype)]))
    elif not matvec(start).any():  # no curvature at all, from which Lanczos' method cannot start
        values, vectors = torch.zeros(k, dtype=vector.dtype), torch.eye(size, k, dtype=vector.dtype)
    else:
        operator = LinearOperator((size, size), matvec, dtype=np.float64)  # type: ignore[call-arg]
        found = eigsh(operator, k, which="LA", v0=start, tol=tolerance, maxiter=iterations)  # type: ignore[arg-type]
        values, vectors = (torch.from_numpy(x.copy()).to(vector.device) for x in found)
    order = values.argsort(descending=True)[:k]
    return values[order], vectors[:, order]


def merged(
    pairs: Sequence[tuple[Float[Tensor, "_"], Float[Tensor, "_ _"]]], k: int
) -> tuple[Float[Tensor, "k"], Float[Tensor, "size k"]]:
    """The k largest eigenpairs of a block-diagonal matrix from those of its blocks, which share no parameters."""
    values, order = torch.cat([values for values, _ in pairs]).sort(descending=True)
    return values[:k], torch.block_diag(*(vectors for _, vectors in pairs))[:, order[:k]]


def subspace_fraction(
    gradient: Float[Tensor, "... size"], basis: Float[Tensor, "size k"], ks: Sequence[int]
) -> Float[Tensor, "... {len(ks)}"]:
    """The share of the squared gradient in the span of the first k columns, for every k; NaN for a zero gradient."""
    inside = (gradient @ basis).square().cumsum(-1)
    return torch.stack([inside[..., k - 1] for k in ks], -1) / gradient.square().sum(-1, keepdim=True)


def overlap(first: Float[Tensor, "size k"], second: Float[Tensor, "size k"]) -> Float[Tensor, ""]:
    """The mean squared length of one basis' vectors within the span of the other: 1 the same subspace, 0 orthogonal."""
    return (first.T @ second).square().sum() / first.shape[1]


# --- one loss --------------------------------------------------------------------------------------------------------


class Report(NamedTuple):
    """The curvature of a loss on a large batch, and its gradients there and on minibatches."""

    eigenvalues: Float[Tensor, "k"]
    basis: Float[Tensor, "size k"]
    gradient: Float[Tensor, "size"]
    estimates: Float[Tensor, "minibatches size"]

    def true(self, ks: Sequence[int]) -> Float[Tensor, "{len(ks)}"]:
        """The subspace fraction of the gradient on all data."""
        return subspace_fraction(self.gradient, self.basis, ks)

    def estimated(self, ks: Sequence[int]) -> Float[Tensor, "{len(ks)}"]:
        """The mean of the minibatches' subspace fractions (not that of their mean), without zero gradients."""
        return subspace_fraction(self.estimates, self.basis, ks).nanmean(0)

    def metrics(self, ks: Sequence[int], previous: Tensor | None = None) -> dict[str, float]:
        """Metrics to log; with the basis of an earlier report also the overlap of the subspaces."""
        k = max(ks)
        found = {f"subspace_fraction_{k}": float(x) for k, x in zip(ks, self.estimated(ks), strict=True)}
        found |= {f"true_subspace_fraction_{k}": float(x) for k, x in zip(ks, self.true(ks), strict=True)}
        found |= {f"eigenvalue_{i}": float(self.eigenvalues[i - 1]) for i in ks}
        if previous is not None:
            found[f"subspace_overlap_{k}"] = float(overlap(previous[:, :k], self.basis[:, :k]))
        return found


def subspace_report(
    loss: Loss, vector: Float[Tensor, "size"], data: Batch, minibatches: Iterable[Batch], k: int
) -> Report:
    """The top k eigenpairs of the loss on `data`, and its gradients there and on the minibatches; all in float64."""
    gradient = torch.func.grad(loss)
    values, basis = top_eigenpairs(lambda v: loss(v, data), vector, k)
    return Report(values, basis, gradient(vector, data), torch.stack([gradient(vector, few) for few in minibatches]))


def combined(reports: Sequence[Report]) -> Report:
    """The report of the sum of losses that share no parameters, with as many eigenpairs as the first has."""
    values, basis = merged([(r.eigenvalues, r.basis) for r in reports], len(reports[0].eigenvalues))
    gradients = (torch.cat([getattr(r, name) for r in reports], -1) for name in ("gradient", "estimates"))
    return Report(values, basis, *gradients)


# --- a learner's losses ----------------------------------------------------------------------------------------------


def actor_loss(method: OnPolicy, model: Model, extra: dict[str, Tensor]) -> Loss:
    """The method's objective as a function that has second derivatives.

    Its gradient is that of `method.loss` in the actor, whose coefficients are constants to autograd: they would leave
    ρÂ·∇log π·∇log πᵀ out of the Hessian. What a method adds in a `loss` of its own is not part of it.
    """
    objective, distribution, changing = method.objective(), model.distribution, method.divergence_weight(extra)

    def loss(vector: Tensor, batch: Batch) -> Tensor:
        params, valid = model.evaluate(vector, batch)[0], batch["valid"]
        log_prob = distribution.log_prob(params, batch["action"])
        advantage = standardize(batch["advantage"], valid) if objective.standardize else batch["advantage"]
        denominator = objective.ratio.log_denominator(log_prob.detach(), batch["old_log_prob"], valid)
        gain = objective.stabilizer(torch.exp(log_prob - denominator), advantage)
        if objective.entropy:
            gain = gain + objective.entropy * distribution.entropy(params)
        if objective.divergence or changing is not None:
            weight = objective.divergence if changing is None else changing
            gain = gain - weight * distribution.kl(batch["old_params"], params)
        return -objective.aggregation(gain, valid)

    return loss


def critic_loss(method: OnPolicy, model: Model) -> Loss:
    """The method's value loss with its coefficient."""

    def loss(vector: Tensor, batch: Batch) -> Tensor:
        error = method.value_loss()(model.evaluate(vector, batch)[1], batch["target"], batch["old_value"])
        return method.value_coefficient * method.objective().aggregation(error, batch["valid"])

    return loss


def block(loss: Loss, vector: Float[Tensor, "size"], mask: Tensor) -> tuple[Loss, Float[Tensor, "_"]]:
    """The loss as a function of the parameters that the mask selects, and their present values."""
    index = mask.nonzero().squeeze(-1)
    return (lambda part, batch: loss(vector.index_copy(0, index, part), batch)), vector[index]


def refuse_shared(method: OnPolicy) -> None:
    """Raise `UsageError` if actor and critic share parameters."""
    if method.shared:
        raise UsageError(
            "shared=True is not allowed: with a shared encoder neither actor nor critic has its own Hessian. Use "
            "shared=False."
        )


def check_own(
    method: OnPolicy, model: Model, vector: Tensor, batch: Batch, extra: dict[str, Tensor], loss: Loss, mask: Tensor
) -> None:
    """Raise `UsageError` if the gradient of `loss` differs from that of the method's loss in the masked parameters."""
    theirs = torch.func.grad(lambda v: method.loss(model, v, batch, extra)[0])(vector)[mask]
    ours = torch.func.grad(loss)(vector, batch)[mask]
    if not torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6 * float(theirs.abs().max())):
        raise UsageError(
            f"{type(method).__name__} does not step along the gradient of its objective, and only the objective's "
            "curvature is known, so the subspaces would be wrong. Analyse a method whose loss is its objective, such "
            "as PPO."
        )


def analyse(learner: Learner, data: Batch, estimation: Batch, k: int) -> list[dict[str, Report]]:
    """Reports on "actor", "critic" and "combined" for every seed at its present weights; the learner is unchanged.

    The Hessians are those of `data`, the minibatches (shuffled, of the method's size) those of `estimation`. Everything
    is in float64, old log-probabilities included, so that the ratio is 1 exactly.
    """
    refuse_shared(learner.method)
    method, model = learner.method, learner.model
    samples = learner.samples(estimation)
    size = method.minibatch_size if method.core is None else max(1, method.minibatch_size // method.num_steps)
    size = min(size, samples)
    masks = {name: model.mask(lambda full, name=name: full.startswith(f"{name}.")) for name in ("actor", "critic")}
    found = []
    for index, seed in enumerate(learner.seeds):
        vector = learner.vector[index].detach().double()
        extra = {name: x[index] for name, x in learner.extra.items()}
        everything, some = (_anew(model, vector, pick(batch, index)) for batch in (data, estimation))
        order = torch.randperm(samples, generator=torch_stream(seed, "subspaces", learner.iteration))
        minibatches = [take(some, few) for few in order[: samples - samples % size].split(size)]
        losses = {"actor": actor_loss(method, model, extra), "critic": critic_loss(method, model)}
        check_own(method, model, vector, everything, extra, losses["actor"], masks["actor"])
        reports = {}
        for name, loss in losses.items():
            own, start = block(loss, vector, masks[name])
            reports[name] = subspace_report(own, start, everything, minibatches, k)
        found.append({**reports, "combined": combined(list(reports.values()))})
    return found


def _anew(model: Model, vector: Tensor, batch: Batch) -> Batch:
    """The batch in float64, its old log-probabilities, parameters and values those of the given weights."""
    batch = tree_map(lambda x: x.double() if x.is_floating_point() else x, batch)
    with torch.no_grad():
        params, value = model.evaluate(vector, batch)
        log_prob = model.distribution.log_prob(params, batch["action"])
    return {**batch, "old_params": params, "old_log_prob": log_prob, "old_value": value}


def fresh_batches(learner: Learner, env: Any, steps: int, **options: Any) -> tuple[Batch, Batch]:
    """New data of the present policy: at least `steps` steps per seed, then one rollout of the method's own length.

    It is collected in separate environments (`env` and `options` as in `envs.make`), made for this call, with the
    present statistics of the normalisers.

    Raises:
        UsageError: `env` is a ready vector environment, which could be used only once.
    """
    if isinstance(env, VectorEnv):
        raise UsageError(
            f"env={env!r} is a ready vector environment; give its id or a factory, so that it can be made again."
        )
    method, seeds = learner.method, [derive(seed, "subspaces", learner.iteration) for seed in learner.seeds]
    probe = make_learner(method, env, seeds, steps, device=learner.device.type, **options)
    try:
        with computing_on(learner.device):
            probe.moments, probe.reward_moments = dict(learner.moments), learner.reward_moments
            data = probe.estimate(probe.collect(learner.vector, -(-steps // method.num_envs)))
            probe.moments, probe.reward_moments = dict(learner.moments), learner.reward_moments
            probe.iteration += 1  # other action noise
            return data, probe.estimate(probe.collect(learner.vector))
    finally:
        probe.collector.close()
