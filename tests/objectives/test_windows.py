"""Credit by windows and edit distances: numbers by hand, matrices, padding, and what is unbiased."""

from __future__ import annotations

import itertools

import pytest
import torch

from surefoot.errors import UsageError
from surefoot.objectives.edits import distances, increments
from surefoot.objectives.windows import windowed

R = torch.tensor([0.0, 1, 0, -1, 1, 1]).double()
LOG = torch.tensor([0.5, 0.8, 0.4, 0.3, 0.9, 0.7]).double().log()


def letters(text: str, width: int) -> torch.Tensor:
    return torch.tensor([[ord(c) for c in text.ljust(width, "\0")]])


@pytest.mark.parametrize(
    ("text", "reached", "rewards"),
    [
        ("cat", [3, 2, 1, 0], [1, 1, 1]),
        ("cut", [3, 2, 2, 1], [1, 0, 1]),
        ("catt", [3, 2, 1, 0, 1], [1, 1, 1, -1]),
        ("at", [3, 2, 1], [1, 1]),
    ],
)
def test_the_distances_of_beginnings_to_cat(text, reached, rewards):
    tokens, count = letters(text, 6), torch.tensor([len(text)])
    target, length = letters("cat", 5), torch.tensor([3])
    assert distances(tokens[:, : len(text)], target, length)[0].tolist() == reached
    found = increments(tokens, count, target, length)[0].tolist()
    assert found == rewards + [0] * (6 - len(text)) and sum(found) == 3 - reached[-1]


def test_distances_are_those_of_the_recursion():
    generator = torch.Generator().manual_seed(0)
    tokens, target = (torch.randint(3, (40, n), generator=generator) for n in (7, 6))
    length = torch.randint(1, 7, (40,), generator=generator)

    def slow(a: list[int], b: list[int]) -> int:
        if not a or not b:
            return len(a) + len(b)
        return min(slow(a[:-1], b) + 1, slow(a, b[:-1]) + 1, slow(a[:-1], b[:-1]) + (a[-1] != b[-1]))

    found = distances(tokens[:, :4], target, length)
    for row in range(40):
        for t in range(5):
            assert found[row, t] == slow(tokens[row, :t].tolist(), target[row, : length[row]].tolist())


@pytest.mark.parametrize(
    ("part", "loss", "windows"),
    [
        (windowed(1, 1, 0), -0.518794, 6),
        (windowed(3, 1, 1), 5.338951, 6),
        (windowed(3, 2, 1), 2.582299, 3),
        (windowed(6, 1, 0), 6.997179, 1),
        (windowed(99, 1, 0), 6.997179, 1),
    ],
)
def test_the_losses_of_the_papers_windows(part, loss, windows):
    assert float(-(part(R) * LOG).sum()) == pytest.approx(loss, abs=1e-6)
    assert int(part.windows_in(torch.ones(6, 1))) == windows == len(part.windows_of(6))
    padded = torch.cat([R, torch.tensor([7.0, torch.nan])])  # what comes after the end has no say
    found = part(padded, valid=torch.arange(8) < 6)
    assert found.tolist() == [*part(R).tolist(), 0, 0]


def test_the_credit_of_three_steps_is_a_triangle_and_the_extremes_are_known():
    assert windowed(3, 1, 1)(R).tolist() == [2, 2, 1, 1, 3, 3]
    assert windowed(1, 1, 0)(R).tolist() == R.tolist()
    assert windowed(6, 1, 0)(R).tolist() == [2.0] * 6
    C = windowed(3, 2, 1).windows_of(6).double()
    assert torch.equal(windowed(3, 2, 1)(R), C.T @ C @ R)
    scaled = C / C.sum(1, keepdim=True)
    torch.testing.assert_close(windowed(3, 2, 1, average=True)(R), scaled.T @ scaled @ R)


def test_rewards_scale_the_credit_and_a_constant_changes_it():
    part = windowed(3, 1, 1)
    torch.testing.assert_close(part(2.5 * R), 2.5 * part(R))
    assert (part(R + 1) - part(R)).min() > 0


def test_sequences_of_a_batch_have_their_own_windows():
    rewards = torch.stack([R, R.flip(0)], 1)
    valid = torch.arange(6)[:, None] < torch.tensor([6, 4])
    found = windowed(3, 2, 1)(rewards, valid=valid)
    torch.testing.assert_close(found[:, 0], windowed(3, 2, 1)(R))
    torch.testing.assert_close(found[:4, 1], windowed(3, 2, 1)(R.flip(0)[:4]))


def test_earlier_rewards_have_no_expectation_and_later_ones_that_are_left_out_have():
    """Three dependent steps of two tokens: the policy's gradient from each pair of a log-probability and a reward."""
    generator = torch.Generator().manual_seed(1)
    logits = [torch.randn(2**t, 2, generator=generator, dtype=torch.float64).requires_grad_() for t in range(3)]
    paths = list(itertools.product((0, 1), repeat=3))
    rewards = torch.randn(8, 3, generator=generator, dtype=torch.float64)
    before = rewards.view(2, 2, 2, 3)
    rewards = torch.stack(
        [before[:, :1, :1, 0].expand(2, 2, 2), before[:, :, :1, 1].expand(2, 2, 2), before[..., 2]], -1
    )
    places = [[path[:t] for t in range(3)] for path in paths]
    chosen = torch.stack(
        [
            torch.stack(
                [logits[t].log_softmax(-1)[sum(b << i for i, b in enumerate(h)), p[t]] for t, h in enumerate(hs)]
            )
            for p, hs in zip(paths, places, strict=True)
        ]
    )
    weight = chosen.sum(1).exp().detach()

    def gradient(credit: torch.Tensor) -> torch.Tensor:
        found = torch.autograd.grad((weight[:, None] * credit * chosen).sum(), logits, retain_graph=True)
        return torch.cat([x.flatten() for x in found])

    flat = rewards.view(8, 3)
    togo = flat.flip(1).cumsum(1).flip(1)
    past = flat.cumsum(1) - flat
    assert gradient(past).abs().max() < 1e-12
    whole = windowed(3, 1, 0)(flat.T).T
    torch.testing.assert_close(gradient(whole), gradient(togo))
    near = windowed(2, 1, 1)(flat.T).T  # a window leaves out the reward two steps later
    assert (gradient(near) / 2 - gradient(togo)).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kernel": 2, "stride": 3}, "steps between two windows would get no credit"),
        ({"kernel": 3, "stride": 3, "padding": 0}, r"padding=0 is not allowed.*\[2, 2\]"),
        ({"kernel": 3, "stride": 1, "padding": 3}, r"\[0, 2\]"),
        ({"kernel": 0}, "kernel=0"),
    ],
)
def test_windows_that_leave_steps_out_are_refused(options, words):
    with pytest.raises(UsageError, match=words):
        windowed(**options)
    assert str(windowed(5, 2)) == "CᵀC r, windows of sums over 5 steps every 2, padded by 2"
