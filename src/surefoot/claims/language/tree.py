"""A tree as the smallest language of several tokens: every completion is a path, and every state has logits of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from surefoot.loops.group_rollout.method import Batch, GroupRollout
from surefoot.models.language.model import TokenStatistics
from surefoot.objectives import PolicyObjective, aggregation

F64 = torch.float64


@dataclass(frozen=True)
class Tree:
    """All paths of `depth` tokens from a vocabulary, their rewards, and the reference's logits of every state.

    The states at depth h are numbered as the paths of h tokens are; `logits[h]` is `[states, vocabulary]`.
    """

    reward: Tensor  # [paths]
    reference: tuple[Tensor, ...]

    @property
    def paths(self) -> Tensor:
        """`[paths, depth]`, the last token running fastest."""
        sizes = [x.shape[1] for x in self.reference]
        return torch.tensor(list(product(*map(range, sizes))))

    def statistics(self, logits: Sequence[Tensor]) -> TokenStatistics:
        """Of every token of every path, under these logits."""
        state, found = torch.zeros(len(self.paths), dtype=torch.int64), []
        for token, table in zip(self.paths.unbind(1), logits, strict=True):
            log = table.log_softmax(1)[state]
            entropy = -(log.exp() * log).sum(1)
            found.append((log.gather(1, token[:, None])[:, 0], entropy, table.logsumexp(1)[state]))
            state = state * table.shape[1] + token
        return TokenStatistics(*(torch.stack(x, 1) for x in zip(*found, strict=True)))

    def policy(self, logits: Sequence[Tensor]) -> Tensor:
        """The probability of every path."""
        return self.statistics(logits).log_prob.sum(1).exp()

    def best(self, beta: float) -> Tensor:
        """π_ref·exp(R/β)/Z for every path."""
        return (self.policy(self.reference).log() + self.reward / beta).softmax(0)

    def loss(self, method: GroupRollout, logits: Sequence[Tensor], start: float | Tensor = 0.0) -> Tensor:
        """A method's loss on all paths alike; `start` is the value to count from."""
        now, near = self.statistics(logits), self.statistics(self.reference)
        valid = torch.ones(self.paths.shape, dtype=torch.bool)
        weights = aggregation.constant_length(1.0).weights(valid, F64)
        start = torch.as_tensor(start, dtype=F64).expand(len(valid))
        extra = {"reward": self.reward, "reference": near.log_prob, "start": start}
        blank, group = torch.zeros(self.paths.shape, dtype=F64), torch.arange(len(valid))
        batch = Batch(valid, now.log_prob.detach(), blank, weights, None, group, extra, now=now)
        return method.loss(PolicyObjective(), batch, now.log_prob, now.entropy)[0]


def random_tree(stream: torch.Generator, depth: int = 2, vocabulary: int = 3) -> Tree:
    """Uniform rewards in [0, 1] and normal logits of the reference."""
    sizes = [vocabulary**h for h in range(depth + 1)]
    tables = tuple(torch.randn(n, vocabulary, generator=stream, dtype=F64) for n in sizes[:-1])
    return Tree(torch.rand(sizes[-1], generator=stream, dtype=F64), tables)


def minimised(tree: Tree, method: GroupRollout, logits: Sequence[Tensor]) -> list[Tensor]:
    """The logits at a minimum of the loss of all paths, by L-BFGS."""
    leaves = [x.clone().requires_grad_() for x in logits]
    settings = {"max_iter": 200, "tolerance_grad": 1e-12, "tolerance_change": 1e-16}
    optimiser = torch.optim.LBFGS(leaves, line_search_fn="strong_wolfe", **settings)

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = tree.loss(method, leaves)
        loss.backward()
        return loss

    optimiser.step(closure)  # type: ignore[arg-type]
    return [x.detach() for x in leaves]
