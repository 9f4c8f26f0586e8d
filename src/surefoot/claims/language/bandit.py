"""A contextual bandit as the smallest language: prompts are contexts, completions one of ten arms.

12 contexts of 6 numbers, 10 arms of which one is right for each context, a hidden layer of 32; groups of 8. A batch is
used for several steps, as the trust regions of language models are meant for. Nothing else is in the way: no lengths,
no tokenizer, no warm-up.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from surefoot.loops.group_rollout.method import Batch, GroupRollout
from surefoot.seeding import torch_stream

CONTEXTS, INPUTS, HIDDEN, ARMS, GROUP = 12, 6, 32, 10, 8


def play(
    method: GroupRollout, seed: int, steps: int, *, learning_rate: float, optimizer: str = "sgd"
) -> dict[str, list[float]]:
    """Accuracy after every batch, the largest ratio, KL(old ‖ new) and the share of stopped elements in its last step.

    One step of the optimiser a pass, on all contexts at once.
    """
    start = torch_stream(seed, "bandit")
    contexts, right = torch.randn(CONTEXTS, INPUTS, generator=start), torch.randint(ARMS, (CONTEXTS,), generator=start)
    weights = [
        (torch.randn(INPUTS, HIDDEN, generator=start) / INPUTS**0.5).requires_grad_(),
        (torch.randn(HIDDEN, ARMS, generator=start) / HIDDEN**0.5).requires_grad_(),
    ]
    made = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[optimizer](weights, lr=learning_rate)
    found: dict[str, list[float]] = {name: [] for name in ("accuracy", "ratio", "kl", "stopped")}
    objective = method.objective()
    for step in range(steps):
        before = _log_policy(weights, contexts).detach()
        draw = torch_stream(seed, "arms", step)
        arms = torch.multinomial(before.exp(), GROUP, replacement=True, generator=draw)
        reward = (arms == right[:, None]).float()
        batch = _batch(method, before.gather(1, arms), reward)
        metrics = {}
        for _ in range(method.epochs):
            log_prob = _log_policy(weights, contexts).gather(1, arms).reshape(-1, 1)
            loss, metrics = method.loss(objective, batch, log_prob, torch.zeros_like(log_prob))
            made.zero_grad()
            loss.backward()
            made.step()
        after = _log_policy(weights, contexts).detach()
        found["accuracy"].append(float(after.exp().gather(1, right[:, None]).mean()))
        found["ratio"].append(float((after - before).gather(1, arms).exp().max()))
        found["kl"].append(float((before.exp() * (before - after)).sum(1).mean()))
        found["stopped"].append(float(metrics.get("stopped_fraction", torch.zeros(()))))
    return found


def _log_policy(weights: Sequence[Tensor], contexts: Tensor) -> Tensor:
    return (torch.tanh(contexts @ weights[0]) @ weights[1]).log_softmax(-1)


def _batch(method: GroupRollout, old: Tensor, reward: Tensor) -> Batch:
    rows = reward.numel()
    valid = torch.ones(rows, 1, dtype=torch.bool)
    objective = method.objective()
    advantage = objective.advantage(reward).reshape(-1, 1)
    group = torch.arange(len(reward)).repeat_interleave(reward.shape[1])
    weights = objective.aggregation.weights(valid)
    return Batch(valid, old.reshape(-1, 1), advantage, weights, None, group, {"reward": reward.flatten()})


def at_best_rate(
    method: GroupRollout, seeds: Sequence[int], steps: int, rates: Sequence[float], optimizer: str = "sgd"
) -> tuple[float, list[dict[str, list[float]]]]:
    """The runs at that of the rates with the highest mean accuracy in the last tenth, and the rate; every method gets
    the same rates to choose from."""
    runs = {rate: [play(method, s, steps, learning_rate=rate, optimizer=optimizer) for s in seeds] for rate in rates}
    best = max(rates, key=lambda rate: np.mean([last(run["accuracy"]) for run in runs[rate]]))
    return best, runs[best]


def last(curve: Sequence[float]) -> float:
    """The mean over the last tenth."""
    return float(np.mean(curve[-max(1, len(curve) // 10) :]))


def play_together(
    method: GroupRollout, seeds: Sequence[int], steps: int, *, learning_rate: float, noise: float = 0.0
) -> dict[str, list[list[float]]]:
    """As `play` with Adam, all seeds at once, each with weights of its own; a reward is wrong with chance `noise`."""
    worlds = [_world(seed) for seed in seeds]
    contexts, right, first, second = (torch.stack(x) for x in zip(*worlds, strict=True))
    weights = [first.requires_grad_(), second.requires_grad_()]
    objective, rows = method.objective(), len(seeds) * CONTEXTS * GROUP
    valid, group = torch.ones(rows, 1, dtype=torch.bool), torch.arange(rows // GROUP).repeat_interleave(GROUP)
    share = objective.aggregation.weights(valid) * len(seeds)  # the loss is the sum of the seeds' own
    adam = torch.optim.Adam(weights, lr=learning_rate)
    found: dict[str, list[Tensor]] = {name: [] for name in ("accuracy", "ratio", "kl")}
    for step in range(steps):
        before = _log_policy(weights, contexts).detach()
        streams = [torch_stream(seed, "arms", step) for seed in seeds]
        arms = [torch.multinomial(p.exp(), GROUP, replacement=True, generator=g) for p, g in zip(before, streams)]
        drawn = torch.stack(arms)
        wrong = torch.stack([torch.rand(CONTEXTS, GROUP, generator=g) < noise for g in streams])
        reward = ((drawn == right[..., None]) ^ wrong).float()
        old, advantage = before.gather(2, drawn).reshape(-1, 1), objective.advantage(reward).reshape(-1, 1)
        batch = Batch(valid, old, advantage, share, None, group, {"reward": reward.flatten()})
        for _ in range(method.epochs):
            log_prob = _log_policy(weights, contexts).gather(2, drawn).reshape(-1, 1)
            loss, _ = method.loss(objective, batch, log_prob, torch.zeros_like(log_prob))
            adam.zero_grad()
            loss.backward()
            adam.step()
        after = _log_policy(weights, contexts).detach()
        found["accuracy"].append(after.exp().gather(2, right[..., None]).mean((1, 2)))
        found["ratio"].append((after - before).gather(2, drawn).exp().amax((1, 2)))
        found["kl"].append((before.exp() * (before - after)).sum(2).mean(1))
    return {name: torch.stack(x, 1).tolist() for name, x in found.items()}


def _world(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Contexts, their right arms, and the initial weights of a seed, as `play` has them."""
    start = torch_stream(seed, "bandit")
    contexts, right = torch.randn(CONTEXTS, INPUTS, generator=start), torch.randint(ARMS, (CONTEXTS,), generator=start)
    first = torch.randn(INPUTS, HIDDEN, generator=start) / INPUTS**0.5
    return contexts, right, first, torch.randn(HIDDEN, ARMS, generator=start) / HIDDEN**0.5
