"""Memory of off-policy networks: a recurrent core after the encoder, and what it is worked out from.

A network is asked about the steps of replayed sequences (`History`) or about the present step, of which what it
remembers is known (`Recalled`); in both cases its answers have one leading batch axis, as for plain observations.
Steven Kapturowski et al., *Recurrent Experience Replay in Distributed Reinforcement Learning* (R2D2, ICLR 2019); every
sequence starts from a memory of zeros, and its first steps only fill it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from surefoot.models.layers import CORES
from surefoot.models.networks import Encoder, Observation


class History(NamedTuple):
    """Steps of sequences that are asked about, and those before them, which only fill the memory."""

    before: Observation  # [burn-in, sequences, ...]
    before_starts: Tensor  # [burn-in, sequences] True where an episode begins
    now: Observation  # [steps, sequences, ...]
    starts: Tensor  # [steps, sequences]


class Recalled(NamedTuple):
    """Observations `[batch, ...]`, and what comes out of the core for each."""

    observation: Observation
    features: Tensor  # [batch, size]


def present(observation: Any) -> Observation:
    """The observations `[batch, ...]` that are asked about."""
    if isinstance(observation, Recalled):
        return observation.observation
    return tree_map(lambda x: x.flatten(0, 1), observation.now) if isinstance(observation, History) else observation


class Remembering(nn.Module):
    """An encoder with a core after it; a plain observation is the first of an episode."""

    def __init__(self, encoder: Encoder, core: str, size: int) -> None:
        super().__init__()
        self.encoder, self.core = encoder, CORES[core](encoder.features, size)
        self.features, self.state_size = self.core.features, self.core.state_size

    def forward(self, observation: Any, dtype: torch.dtype) -> Tensor:
        """Features `[batch, size]`."""
        if isinstance(observation, Recalled):
            return observation.features
        if not isinstance(observation, History):
            seen = self.encoder(observation, dtype)
            return self.core(seen, seen.new_zeros(*seen.shape[:-1], self.state_size))[0]
        state = self._unrolled(self.encoder(observation.before, dtype), None, observation.before_starts)[1]
        seen = self.encoder(observation.now, dtype)
        return self._unrolled(seen, None if state is None else state.detach(), observation.starts)[0].flatten(0, 1)

    def advanced(
        self, observation: Observation, dtype: torch.dtype, state: Tensor, starts: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Features `[batch, size]` and the new memory after one step `[batch, ...]`, from a memory `[batch, …]`."""
        return self.core(
            self.encoder(observation, dtype), torch.where(starts.unsqueeze(-1), torch.zeros_like(state), state)
        )

    def _unrolled(self, seen: Tensor, state: Tensor | None, starts: Tensor) -> tuple[Tensor, Tensor | None]:
        outputs = []
        for x, start in zip(seen.unbind(0), starts.unbind(0), strict=True):
            state = x.new_zeros(len(x), self.state_size) if state is None else state
            output, state = self.core(x, torch.where(start.unsqueeze(-1), torch.zeros_like(state), state))
            outputs.append(output)
        return (torch.stack(outputs) if outputs else seen), state


def encoder(space: Any, activation: str, cnn: str, core: str | None, size: int) -> Encoder | Remembering:
    """From observations of a space to features, with a core if one is named."""
    plain = Encoder(space, (), activation, cnn)
    return plain if core is None else Remembering(plain, core, size)


def histories(batch: dict[str, Any], starts: Tensor, burn_in: int) -> dict[str, Any]:
    """A batch as losses see it. Its `observation` are those of `starts [seeds, burn-in + steps + 1, sequences]`, flat,
    the last one only a successor; in its place come the histories of all steps and of their successors."""
    window = tree_map(lambda x: x.unflatten(1, starts.shape[1:]), batch["observation"])

    def history(first: int, last: int | None) -> History:
        """Of the steps from `first` to before `last`."""
        cut = lambda x, start, stop: x[:, start:stop]  # noqa: E731
        before, now = (tree_map(lambda x, span=span: cut(x, *span), window) for span in ((0, first), (first, last)))
        return History(before, cut(starts, 0, first), now, cut(starts, first, last))

    return {**batch, "observation": history(burn_in, -1), "next_observation": history(burn_in + 1, None)}
