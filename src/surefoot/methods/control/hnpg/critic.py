"""The hybrid critic: Monte-Carlo returns of the policy's own steps, and one-step backups of a data set, in one fit.

    f_h ← argmin_f  (1 − α)·mean_on (f(s, a) − y)²  +  α·mean_off (f(s, a) − r − γ·f_{h+1}(s', a'))²     h = H − 1 … 0

y is the return to go, so the first part never bootstraps; a' is drawn from the policy that is judged, so the second
part is fitted Q evaluation of that policy and not of what made the data. After Zhou et al., arXiv:2311.08384.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.func import functional_call

from surefoot.loops.common.optimizer import Adam
from surefoot.models.functional import Model
from surefoot.models.layers import Stacked
from surefoot.objectives.advantages import discounted_sum


class Own(NamedTuple):
    """The policy's own steps, with the returns that followed them."""

    observation: Float[Tensor, "rows size"]
    action: Float[Tensor, "rows dim"]
    target: Float[Tensor, "rows"]


class Logged(NamedTuple):
    """Transitions of a data set; after `ended` there is nothing to be had."""

    observation: Float[Tensor, "rows size"]
    action: Float[Tensor, "rows dim"]
    reward: Float[Tensor, "rows"]
    next_observation: Float[Tensor, "rows size"]
    ended: Bool[Tensor, "rows"]


def hybrid_loss(own: Tensor | None, logged: Tensor | None, share: float) -> Tensor:
    """(1 − α)·mean own² + α·mean logged² of the errors in the two sets, so that their sizes do not matter."""
    loss = torch.zeros(())
    if own is not None and own.numel() and share < 1:
        loss = loss + (1 - share) * (own**2).mean()
    if logged is not None and logged.numel() and share > 0:
        loss = loss + share * (logged**2).mean()
    return loss


def returns_to_go(
    reward: Float[Tensor, "time ..."], ended: Bool[Tensor, "time ..."], gamma: float
) -> tuple[Float[Tensor, "time ..."], Bool[Tensor, "time ..."]]:
    """The discounted rewards from each step to the end of its episode, and whether that end was seen."""
    seen = ended.flip(0).int().cummax(0).values.flip(0).bool()
    return discounted_sum(reward, gamma * (~ended).to(reward.dtype)), seen


class Judge:
    """The critics f_h and the policies π_h of one seed, with all weights in one vector."""

    def __init__(self, model: Model, vector: Float[Tensor, "size"]) -> None:
        self.model, self.net = model, model.module.critic
        assert isinstance(self.net, Stacked)
        named = model.unflatten(vector)
        self.actor = {name.removeprefix("actor."): x for name, x in named.items() if name.startswith("actor.")}
        layers = range(len(self.net.weights))
        self.layers = [named[f"critic.{kind}.{i}"].clone() for kind in ("weights", "biases") for i in layers]
        self.vector = vector

    def params(self, observation: Tensor) -> Tensor:
        """The distributions of actions `[..., 2·dim]`."""
        return functional_call(self.model.module.actor, self.actor, (observation,))[0]

    def value(self, observation: Float[Tensor, "rows size"], action: Float[Tensor, "draws rows dim"]) -> Tensor:
        """f_h(s, a) `[draws, rows]`, each row by the critic of its own step."""
        which, found = self.net.step(observation), observation.new_zeros(action.shape[:-1])
        for h in which.unique().tolist():
            rows = which == h
            found[:, rows] = self._one(self.of(h), observation[rows], action[:, rows])
        return found

    def of(self, h: int) -> list[Tensor]:
        """The weights, then the biases, of the critic of a step."""
        return [x[h] for x in self.layers]

    def _one(self, layers: list[Tensor], observation: Tensor, action: Tensor) -> Tensor:
        seen = observation[..., :-1].expand(*action.shape[:-1], -1)
        half = len(layers) // 2
        return self.net.one(layers[:half], layers[half:], torch.cat([seen, action], -1)).squeeze(-1)

    def fit(self, h: int, own: Own | None, logged: Logged | None, noise: Tensor, setting: Fit) -> Tensor:
        """Fit the critic of a step to its rows of both sets, with fresh moments of Adam; the loss before. `noise` draws
        the actions that follow in the data."""
        backup = None
        if logged is not None:
            action = self.model.distribution.sample(self.params(logged.next_observation), noise)
            following = self.value(logged.next_observation, action[None])[0]
            backup = logged.reward + setting.gamma * torch.where(logged.ended, torch.zeros(()), following)
        start = self.of(h)
        shapes, sizes = [x.shape for x in start], [x.numel() for x in start]

        def loss(flat: Tensor) -> Tensor:
            layers = [x.view(shape) for x, shape in zip(flat.split(sizes), shapes, strict=True)]
            errors = None if own is None else self._one(layers, own.observation, own.action) - own.target
            logged_errors = None
            if logged is not None and backup is not None:
                logged_errors = self._one(layers, logged.observation, logged.action) - backup
            return hybrid_loss(errors, logged_errors, setting.share)

        flat = torch.cat([x.reshape(-1) for x in start])
        adam, slope, before = Adam.start(flat), torch.func.grad_and_value(loss), torch.zeros(())
        for number in range(setting.steps):
            gradient, value = slope(flat)
            before = value if number == 0 else before
            flat, adam = adam.step(flat, gradient, setting.learning_rate)
        for x, part, shape in zip(self.layers, flat.split(sizes), shapes, strict=True):
            x[h] = part.view(shape)
        return before

    def whole(self) -> Tensor:
        """The vector of all weights with the critics as they are now."""
        named = self.model.unflatten(self.vector)
        count = len(self.layers) // 2
        names = [f"critic.{kind}.{i}" for kind in ("weights", "biases") for i in range(count)]
        return self.model.flatten({**named, **dict(zip(names, self.layers, strict=True))})


class Fit(NamedTuple):
    """How critics are fitted: α, γ, the gradient steps of each, and their size."""

    share: float
    gamma: float
    steps: int
    learning_rate: float


def drawn_rows(
    step: Int[Tensor, "rows"], h: int, count: int, generator: torch.Generator
) -> Int[Tensor, "count"] | None:
    """`count` rows of the data that belong to step h, uniformly with replacement; `step` is in ascending order. None if
    the data have none."""
    first, past = torch.searchsorted(step, torch.tensor([h, h + 1])).tolist()
    return None if first == past else torch.randint(first, past, (count,), generator=generator)
