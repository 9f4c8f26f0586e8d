"""The value of a choice and of losses for a set of items: two embeddings that meet only in a small network.

    value(x, ξ) = V([e_x, e_ξ]),   e_x = Ψ_x(Σ_k Φ_x([x_k, f_k])),   e_ξ = Ψ_ξ(Σ_k Φ_ξ([ξ_k, f_k]))

f_k is what is known of an item, and ξ_k what of ξ concerns it, one number or several. Φ and Ψ have no biases, so that
items of zeros add nothing. With ξ given, only V and e_x are left to optimise over
choices, and with x given only V and e_ξ over losses. For x of 0 and 1 the sum inside e_x is affine in x.

Dumouchelle, Julien, Kurtz, Khalil, *Neur2RO* (ICLR 2024), arXiv:2310.04345.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from surefoot.hyperparameters import check, hyperparameter


@dataclass(frozen=True)
class SetSizes:
    """The sizes of the parts."""

    item_hidden: int = hyperparameter(32, low=1, help="Hidden units of Φ, which sees one item.")
    item_size: int = hyperparameter(16, low=1, help="Outputs of Φ, which are summed over items.")
    set_hidden: int = hyperparameter(64, low=1, help="Hidden units of Ψ, which sees the sum.")
    set_size: int = hyperparameter(8, low=1, help="Outputs of Ψ: the size of an embedding.")
    value_hidden: int = hyperparameter(8, low=1, help="Hidden units of V, of which every scenario has a copy.")

    def __post_init__(self) -> None:
        check(self)


class Embedding(nn.Module):
    """Ψ(Σ Φ) of one kind of entries, some for every item, beside what is known of the items."""

    def __init__(self, entries: int, features: int, sizes: SetSizes) -> None:
        super().__init__()
        self.entries = entries

        def two(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
            return nn.Sequential(nn.Linear(inputs, hidden, False), nn.ReLU(), nn.Linear(hidden, outputs, False))

        self.item = two(entries + features, sizes.item_hidden, sizes.item_size)
        self.whole = two(sizes.item_size, sizes.set_hidden, sizes.set_size)

    def forward(self, entries: Tensor, items: Tensor) -> Tensor:
        """`[..., set_size]` of entries `[..., n·entries]`, item by item, and items `[..., n, features]`."""
        own = entries.unflatten(-1, (-1, self.entries))
        return self.whole(self.item(torch.cat([own, items.expand(*own.shape[:-1], items.shape[-1])], -1)).sum(-2))


class SetValue(nn.Module):
    """A value for items of `features` known numbers each, beside each of which `entries` numbers of ξ are seen.

    The buffers scale: `low` and `width` `[features]` bring what is known of the items to [0, 1], `least` and `spread`
    are those of the value. `forward` returns the scaled value.
    """

    low: Tensor
    width: Tensor
    least: Tensor
    spread: Tensor

    def __init__(self, features: int, sizes: SetSizes, entries: int = 1) -> None:
        super().__init__()
        self.sizes, self.features, self.entries = sizes, features, entries
        self.choice, self.losses = Embedding(1, features, sizes), Embedding(entries, features, sizes)
        self.value = nn.Sequential(
            nn.Linear(2 * sizes.set_size, sizes.value_hidden), nn.ReLU(), nn.Linear(sizes.value_hidden, 1)
        )
        for name, start in (("low", 0.0), ("width", 1.0)):
            self.register_buffer(name, torch.full((features,), start))
        for name, start in (("least", 0.0), ("spread", 1.0)):
            self.register_buffer(name, torch.tensor(start))

    def forward(self, x: Tensor, xi: Tensor, items: Tensor) -> Tensor:
        """`[...]` for choices `[..., n]`, what is seen of ξ `[..., n·entries]`, scaled items `[..., n, features]`."""
        return self.joined(self.choice(x, items), self.losses(xi, items))

    def joined(self, choice: Tensor, losses: Tensor) -> Tensor:
        """The scaled value of two embeddings `[..., set_size]`, whose leading axes broadcast."""
        return self.value(torch.cat(torch.broadcast_tensors(choice, losses), -1)).squeeze(-1)

    def scaled(self, items: Tensor) -> Tensor:
        """What is known of items `[..., n, features]`, scaled as in training."""
        return (items - self.low) / self.width

    def unscaled(self, value: Tensor) -> Tensor:
        """A scaled value in the units of the problem."""
        return self.least + self.spread * value

    def fit_scales(self, items: Tensor, values: Tensor) -> None:
        """Set the buffers by the least and greatest entries of items `[..., features]` and values."""
        flat = items.reshape(-1, items.shape[-1])
        self.low, self.width = flat.amin(0), (flat.amax(0) - flat.amin(0)).clamp(min=1e-12)
        self.least, self.spread = values.amin(), (values.amax() - values.amin()).clamp(min=1e-12)
