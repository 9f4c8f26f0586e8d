"""Networks of sets: nothing added by items of zeros, the order of items, and embeddings that meet in the last part."""

from __future__ import annotations

import torch

from surefoot.models.set_value import SetSizes, SetValue

G = torch.Generator().manual_seed(0)
X, XI, ITEMS = (torch.rand(4, 5, *more, generator=G) for more in ((), (), (6,)))


def network() -> SetValue:
    torch.manual_seed(1)
    return SetValue(6, SetSizes())


def test_items_of_zeros_add_nothing_and_the_order_of_items_is_nothing():
    made, padded = network(), torch.zeros(4, 3)
    value = made(X, XI, ITEMS)
    wide = [torch.cat([x, padded], -1) for x in (X, XI)]
    more = made(*wide, torch.cat([ITEMS, torch.zeros(4, 3, 6)], 1))
    order = torch.tensor([3, 1, 4, 0, 2])
    assert value.shape == (4,) and torch.allclose(more, value, atol=1e-6)
    assert torch.allclose(made(X[:, order], XI[:, order], ITEMS[:, order]), value, atol=1e-6)


def test_embeddings_of_many_losses_meet_those_of_many_choices():
    made, items = network(), ITEMS[0]
    together = made.joined(made.choice(X, items)[:, None], made.losses(XI, items))
    assert together.shape == (4, 4) and torch.allclose(together[1, 2], made(X[1], XI[2], items), atol=1e-6)


def test_scales_bring_what_is_known_to_the_unit_box():
    made, known = network(), 100 * ITEMS - 30
    made.fit_scales(known, torch.tensor([-50.0, -10.0]))
    scaled = made.scaled(known)
    assert scaled.amin((0, 1)).abs().max() < 1e-6 and (scaled.amax((0, 1)) - 1).abs().max() < 1e-6
    assert made.unscaled(torch.tensor([0.0, 1.0])).tolist() == [-50, -10]
