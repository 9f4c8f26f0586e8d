"""The hybrid critic: Monte-Carlo returns of the policy's own steps, and one-step backups of a data set, in one fit.

    f_h ← argmin_f  (1 − α)·mean_on (f(s, a) − y)²  +  α·mean_off (f(s, a) − r − γ·f_{h+1}(s', a'))²     h = H − 1 … 0

y is the return to go, so the first part never bootstraps; a' is drawn from the policy that is judged, so the second
part is fitted Q evaluation of that policy and not of what made the data. After Zhou et al., arXiv:2311.08384.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.func import functional_call

from surefoot.loops.common.optimizer import Adam
from surefoot.methods.control.hnpg.logged import Logged
from surefoot.models.functional import Model
from surefoot.models.layers import Stacked
from surefoot.objectives.advantages import discounted_sum


class Targets(NamedTuple):
    """Steps and what a critic is to say of them: for the policy's own ones the return that followed."""

    observation: Float[Tensor, "rows size"]
    action: Float[Tensor, "rows dim"]
    target: Float[Tensor, "rows"]


def row_weights(own: int, logged: int, share: float) -> Float[Tensor, "rows"]:
    """The weights of the rows of both sets, own ones first: (1 − α)/own and α/logged, so that the sizes of the sets do
    not matter. Where one is empty, or has no weight, the other has all."""
    if not own or not logged:
        share = float(not own)
    return torch.cat([torch.full((own,), (1 - share) / max(own, 1)), torch.full((logged,), share / max(logged, 1))])


def set_weights(own: int, logged: int, share: float) -> tuple[float, float]:
    """The weights of a row of each set with which a mean over all rows is the mean of both sets in their shares."""
    if not own or not logged:
        return 1.0, 1.0
    return (1 - share) * (own + logged) / own, share * (own + logged) / logged


def returns_to_go(
    reward: Float[Tensor, "time ..."], ended: Bool[Tensor, "time ..."], gamma: float
) -> tuple[Float[Tensor, "time ..."], Bool[Tensor, "time ..."]]:
    """The discounted rewards from each step to the end of its episode, and whether that end was seen."""
    seen = ended.flip(0).int().cummax(0).values.flip(0).bool()
    return discounted_sum(reward, gamma * (~ended).to(reward.dtype)), seen


class Judge:
    """The critics f_h and the policies π_h of one seed, with all weights in one vector."""

    def __init__(self, model: Model, vector: Float[Tensor, "size"]) -> None:
        self.model = model
        self.net: Stacked = model.module.critic  # type: ignore[assignment]
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
            found[:, rows] = self._one(self.of(h), judged(observation[rows], action[:, rows]))
        return found

    def of(self, h: int) -> list[Tensor]:
        """The weights, then the biases, of the critic of a step."""
        return [x[h] for x in self.layers]

    def _one(self, layers: Sequence[Tensor], inputs: Tensor) -> Tensor:
        half = len(layers) // 2
        return self.net.one(layers[:half], layers[half:], inputs).squeeze(-1)

    def acted(self, observation: Float[Tensor, "rows size"], draws: int, generator: torch.Generator) -> Tensor:
        """Actions of the policy `[draws, rows, dim]`."""
        params = self.params(observation)
        return self.model.distribution.sample(params, self.model.distribution.noise((draws, len(params)), generator))

    def state_value(self, observation: Float[Tensor, "rows size"], draws: int, generator: torch.Generator) -> Tensor:
        """V_h(s), the mean of f_h(s, a) over so many actions of the policy."""
        return self.value(observation, self.acted(observation, draws, generator)).mean(0)

    def backup(self, logged: Logged, generator: torch.Generator, gamma: float) -> Float[Tensor, "rows"]:
        """r + γ·f_{h+1}(s', a') of transitions, a' drawn from the policy."""
        action = self.acted(logged.next_observation, 1, generator)
        following = self.value(logged.next_observation, action)[0]
        return logged.reward + gamma * torch.where(logged.ended, torch.zeros(()), following)

    def fit(self, h: int, own: Targets, logged: Targets, setting: Fit) -> Tensor:
        """Fit the critic of a step to its rows of both sets, with their targets, by a fresh Adam; the first loss."""
        rows = [part for part in (own, logged) if len(part.target)]
        if not rows:
            return torch.zeros(())
        weight = row_weights(len(own.target), len(logged.target), setting.share)
        inputs = torch.cat([judged(part.observation, part.action) for part in rows])
        target, start = torch.cat([part.target for part in rows]), self.of(h)
        flat = torch.cat([x.reshape(-1) for x in start])
        adam, losses = Adam.start(flat), []
        for _ in range(setting.steps):
            with torch.enable_grad():
                flat = flat.detach().requires_grad_()
                loss = (weight * (self._one(_shaped(flat, start), inputs) - target) ** 2).sum()
                (gradient,) = torch.autograd.grad(loss, flat)
            losses.append(loss.detach())
            flat, adam = adam.step(flat.detach(), gradient, setting.learning_rate)
        for x, part in zip(self.layers, _shaped(flat, start), strict=True):
            x[h] = part
        return losses[0]

    def whole(self) -> Tensor:
        """The vector of all weights with the critics as they are now."""
        named = self.model.unflatten(self.vector)
        count = len(self.layers) // 2
        names = [f"critic.{kind}.{i}" for kind in ("weights", "biases") for i in range(count)]
        return self.model.flatten({**named, **dict(zip(names, self.layers, strict=True))})


def judged(observation: Tensor, action: Tensor) -> Tensor:
    """What a critic gets: the observation without the number of its step, and the action."""
    return torch.cat([observation[..., :-1].expand(*action.shape[:-1], -1), action], -1)


def _shaped(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    return [x.view(one.shape) for x, one in zip(flat.split([x.numel() for x in like]), like, strict=True)]


class Fit(NamedTuple):
    """How critics are fitted: α, and number and size of the gradient steps of each."""

    share: float
    steps: int
    learning_rate: float
