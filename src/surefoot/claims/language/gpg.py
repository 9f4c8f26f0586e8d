"""GPG's claim: the factor B/(B−M) frees the gradient from the number of silent groups, and nothing else is needed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from surefoot.loops.group_rollout.method import Batch, GroupRollout
from surefoot.methods.language.gpg import GPG
from surefoot.seeding import torch_stream

# --- one batch -----------------------------------------------------------------------------------------------------

GROUPS, SAMPLES, LENGTH, WEIGHTS = 16, 8, 6, 64
SILENT = (0, 4, 8, 12)
F64 = torch.float64


def one_batch(seeds: Sequence[int]) -> dict[str, list]:
    """Gradients on batches of which more and more groups are silent, of a model that is linear in its weights.

    Norms where every group has the same completions and rewards ("signal") and where all differ ("noise"); how far the
    gradient is from that of the informative groups alone, completions being equally long or the silent ones longer.
    """
    methods = {"corrected": GPG(), "uncorrected": GPG(corrected=False)}
    found: dict[str, list] = {f"{kind}, {name}": [] for kind in ("signal", "noise") for name in methods}
    found |= {"apart, equal lengths": [], "long silent": [], "informative alone": [], "all silent": []}
    for seed in seeds:
        stream = torch_stream(seed, "one batch")
        features = torch.randn(GROUPS, SAMPLES, LENGTH, WEIGHTS, generator=stream, dtype=F64)
        reward = torch.rand(GROUPS, SAMPLES, generator=stream, dtype=F64)
        even, long = torch.full((GROUPS, SAMPLES), LENGTH // 2), torch.full((GROUPS, SAMPLES), LENGTH)
        for name, method in methods.items():
            same = features[:1].expand_as(features), reward[:1].expand_as(reward)
            for kind, (x, r) in {"signal": same, "noise": (features, reward)}.items():
                norms = [float(gradient(method, x, silenced(r, m), even).norm()) for m in SILENT]
                found[f"{kind}, {name}"].append(norms)
        informative = GROUPS - SILENT[2]
        alone = gradient(methods["uncorrected"], features[:informative], reward[:informative], even[:informative])
        mute = silenced(reward, SILENT[2])
        off = gradient(GPG(), features, mute, even) - alone
        found["apart, equal lengths"].append(float(off.norm() / alone.norm()))
        lengths = torch.cat([even[:informative], long[informative:]])
        found["long silent"].append(float(gradient(GPG(), features, mute, lengths).norm()))
        found["informative alone"].append(float(alone.norm()))
        found["all silent"].append(float(gradient(GPG(), features, silenced(reward, GROUPS), even).norm()))
    return found


def silenced(reward: Tensor, count: int) -> Tensor:
    """The rewards with the last `count` groups all right and all wrong, in turn."""
    reward = reward.clone()
    for group in range(len(reward) - count, len(reward)):
        reward[group] = group % 2
    return reward


def gradient(method: GroupRollout, features: Tensor, reward: Tensor, lengths: Tensor) -> Tensor:
    """Of the shipped loss in the weights, where log π of a token is the product of its features and the weights."""
    valid = (torch.arange(LENGTH) < lengths[..., None]).flatten(0, 1)
    weights = torch.full((WEIGHTS,), -0.01, dtype=F64, requires_grad=True)
    log_prob = (features @ weights).flatten(0, 1)
    objective, group = method.objective(), torch.arange(len(reward)).repeat_interleave(SAMPLES)
    advantage = objective.advantage(reward).flatten()[:, None].expand(valid.shape)
    share = objective.aggregation.weights(valid).to(F64)
    batch = Batch(valid, log_prob.detach(), advantage, share, None, group, {})
    loss, _ = method.loss(objective, batch, log_prob, torch.zeros_like(log_prob))
    return torch.autograd.grad(loss, weights)[0]
