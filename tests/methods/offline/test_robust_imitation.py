"""Robust cloning: worked numbers, the limit in which it is plain cloning, and what wrong blocks cannot do."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from micro_data import target_data, walk_data

import surefoot as sf
from surefoot.errors import UsageError
from surefoot.loops.common.run import make_learner
from surefoot.loops.networks.nets import Weights
from surefoot.methods.offline.baselines import BC
from surefoot.methods.offline.robust_imitation import RobustImitation, in_blocks, median_block

SIZES: dict[str, Any] = {"batch_size": 45, "log_every": 20, "hidden": (16,), "normalize_observations": False}
LOSSES = torch.tensor([[0.11, 0.12, 0.10, 900, 0.13, 0.09, 1e6]], dtype=torch.float64)


def chosen(losses: torch.Tensor) -> float:
    return losses.gather(-1, median_block(losses)).item()


# --- the selection ---------------------------------------------------------------------------------------------------


def test_three_of_seven_blocks_may_be_anything_and_four_may_not():
    assert chosen(LOSSES) == 0.12 and LOSSES.mean().item() == pytest.approx(142_985.79, abs=0.01)
    further = LOSSES.clone()
    further[0, [3, 6]] = torch.inf
    assert chosen(further) == 0.12
    further[0, 0] = 1e9
    assert chosen(further) == 0.13  # the third: still a clean block
    further[0, 1] = 1e9
    assert chosen(further) == 1e9


def test_the_choice_is_a_block_and_of_two_middle_ones_the_lower():
    assert chosen(torch.tensor([[4.0, 1.0, 900.0, 2.0]])) == 2.0


def test_neither_the_order_of_rows_and_blocks_nor_a_common_constant_matters():
    g = torch.manual_seed(0)
    losses, rival = (torch.rand(2 * 5 * 3, generator=g, dtype=torch.float64) for _ in range(2))
    apart = in_blocks(losses, 5, 3) - in_blocks(rival, 5, 3)
    index = median_block(apart)
    wanted = apart.gather(-1, index)
    rows = losses.view(2, 5, 3)[:, torch.randperm(5, generator=g)][..., torch.randperm(3, generator=g)]
    same = in_blocks(rows.reshape(-1), 5, 3)
    assert sorted(same.flatten().tolist()) == pytest.approx(sorted(in_blocks(losses, 5, 3).flatten().tolist()))
    order = torch.randperm(5, generator=g)
    torch.testing.assert_close(apart[:, order].gather(-1, median_block(apart[:, order])), wanted)
    shifted = in_blocks(losses + 7, 5, 3) - in_blocks(rival + 7, 5, 3)
    assert torch.equal(median_block(shifted), index)
    assert torch.equal(median_block(apart / (2 * 0.3**2)), index)  # the likelihood of a Gaussian of deviation 0.3
    np.testing.assert_allclose(in_blocks(losses, 5, 3), losses.view(2, 5, 3).mean(-1))
    assert in_blocks(losses, 4, 3).shape == (2, 4)  # rows beyond two whole rounds are left out


@pytest.mark.parametrize(
    ("contamination", "rows", "clean"), [(0.1, 3, 0.729), (0.2, 1, 0.8), (0.05, 6, 0.735092), (0.01, 33, 0.717731)]
)
def test_the_largest_block_of_a_contamination(contamination, rows, clean):
    method = RobustImitation(contamination=contamination, batch_size=4096)
    assert method.size == rows and (1 - contamination) ** rows == pytest.approx(clean, abs=1e-6) and clean > 2 / 3


def test_the_largest_block_is_exact_where_a_third_is_a_whole_number_of_shares():
    for rows in range(1, 40):
        assert RobustImitation(contamination=1 / (3 * rows), batch_size=4096).size == rows


def test_with_one_state_only_the_action_of_the_majority_beats_every_rival():
    """0-1 losses, blocks of one row: the min-max value is 0, and any other action is worth 1 to the best rival."""
    acted = torch.tensor([0] * 6 + [1] * 3 + [2] * 2)
    wrong = {a: (acted != a).double() for a in range(3)}

    def value(a: int) -> float:
        return max(chosen(in_blocks(wrong[a], 11, 1) - in_blocks(wrong[b], 11, 1)) for b in range(3))

    assert [value(a) for a in range(3)] == [0, 1, 1]


# --- a learner against formulas --------------------------------------------------------------------------------------


def learner(method, data=None, seeds=(0,)):
    return make_learner(method, "", list(seeds), 1000, data=walk_data() if data is None else data)


def first_batch(run) -> tuple[Weights, dict[str, Any]]:
    """The weights and the first batch of a run's first seed."""
    now = {name: x[0] for name, x in run.weights.items()}
    run.draw()
    batch = {k: {} if isinstance(x, dict) else x[0] for k, x in run.batch().items()}
    return Weights(run.functions, now, {}, now), batch


def test_with_one_block_it_is_plain_cloning_and_the_rival_does_not_matter():
    plain = learner(BC(**SIZES, learning_rate=1e-3, anneal="cosine"))
    robust = learner(RobustImitation(**SIZES, blocks=1))
    robust.weights["actor"] = plain.weights["actor"].clone()
    robust.weights["rival"] = robust.weights["rival"] * 3
    for run in (plain, robust):
        run.iterate()
    torch.testing.assert_close(robust.weights["actor"], plain.weights["actor"], rtol=0, atol=1e-5)


def test_both_players_learn_from_the_median_blocks_of_the_step_and_from_nothing_else():
    run = learner(RobustImitation(**SIZES, blocks=5))
    w, batch = first_batch(run)
    batch["action"][:4] = 1e3  # two wrong blocks of five in the first round
    losses = {}
    with torch.no_grad():
        for name in ("actor", "rival"):
            rows = ((w(name, batch["observation"]) - batch["action"]) ** 2).mean(1).numpy()
            losses[name] = rows.reshape(3, 5, 3).mean(2)
    middle = np.argsort(losses["actor"] - losses["rival"], 1)[:, 2]
    assert middle[0] > 1
    for name in ("actor", "rival"):
        loss, _ = run.nets[name].loss(w, batch)
        assert loss.item() == pytest.approx(losses[name][range(3), middle].mean(), rel=1e-5)
        assert loss.item() < 10
    changed = dict(batch, action=batch["action"].clone())
    others = np.setdiff1d(np.arange(15), np.arange(3) * 5 + middle)
    outside = torch.from_numpy(others[:, None] * 3 + np.arange(3)).flatten()
    far = run.nets["actor"].loss(w, batch)[0]
    changed["action"][outside[:3]] *= 1.0001  # too little to change a median
    assert run.nets["actor"].loss(w, changed)[0] == far


def test_the_rival_is_selected_with_the_actor_as_it_was():
    run = learner(RobustImitation(**SIZES, blocks=5))
    w, batch = first_batch(run)
    moved = Weights(run.functions, {**w.now, "actor": w.now["actor"] * 5}, {}, w.start)
    assert run.nets["rival"].loss(w, batch)[0] == run.nets["rival"].loss(moved, batch)[0]


def test_the_players_start_apart_and_equal_players_have_no_difference():
    run = learner(RobustImitation(**SIZES, blocks=5))
    assert not torch.equal(run.weights["actor"], run.weights["rival"])
    w, batch = first_batch(run)
    equal = {"actor": w.now["actor"], "rival": w.now["actor"]}
    _, found = run.nets["actor"].loss(Weights(run.functions, equal, {}, equal), batch)
    assert found["median_difference"] == 0


def test_the_gradient_is_that_of_the_selected_rows():
    method = RobustImitation(batch_size=30, blocks=5)
    g = torch.manual_seed(0)
    acted = torch.randn(30, 2, generator=g, dtype=torch.float64)
    action = torch.randn(30, 2, generator=g, dtype=torch.float64).requires_grad_()
    index = torch.tensor([[1], [4]])

    def loss(x: torch.Tensor) -> torch.Tensor:
        return method.by_block(x, {"action": acted}).gather(-1, index).mean()

    (slope,) = torch.autograd.grad(loss(action), action)
    wanted = torch.zeros(30, 2, dtype=torch.float64)
    for rows in (slice(3, 6), slice(27, 30)):
        wanted[rows] = 2 * (action - acted).detach()[rows] / (2 * 3 * 2)
    torch.testing.assert_close(slope, wanted)
    assert torch.autograd.gradcheck(loss, (action,))


def test_it_is_moved_less_by_wrong_actions_than_plain_cloning():
    data = target_data(spread=0.05)
    wrong = np.random.default_rng(0).random(len(data)) < 0.2
    action = np.where(wrong[:, None], np.float32(1), data.action)
    data, errors = dataclasses.replace(data, action=action), []
    sizes: dict[str, Any] = {"hidden": (16,), "log_every": 400, "learning_rate": 3e-3}
    robust = RobustImitation(**sizes, batch_size=310, contamination=0.2)
    for method in (BC(**sizes, batch_size=64), robust):
        run = learner(method, data)
        run.iterate()
        acted = run.agent().predict(data.observation, deterministic=True)[0]
        errors.append(float(((acted - data.observation / 2) ** 2).mean()))
    assert errors[1] < errors[0] / 3


# --- settings --------------------------------------------------------------------------------------------------------


def test_settings_without_sense_are_refused_and_the_formula_says_what_runs():
    wrong: tuple[tuple[dict[str, Any], str], ...] = (
        ({"contamination": 0.5}, "RobustImitation: contamination=0.5 is not allowed"),
        ({"contamination": 0.0}, "RobustImitation: contamination=0.0 is not allowed"),
        (
            {"block": 8},
            r"block=8 is not allowed with contamination=0.1: .* give block=3 or fewer, or contamination=0.04",
        ),
        ({"blocks": 4}, "blocks=4 has no middle one; give an odd number, such as 5"),
        ({"batch_size": 92}, "batch_size=92 holds no round of 31 blocks of 3; give batch_size=93 or more"),
    )
    for values, said in wrong:
        with pytest.raises(UsageError, match=said):
            RobustImitation(**values)
    assert RobustImitation(block=8, contamination=1 / 24).rounds == 9
    assert "over the 1 rows" in RobustImitation(contamination=0.2).objective()
    text = sf.explain("robust-imitation")
    assert "argmedian_j (l_j(π) − l_j(rival))" in text and "24 rounds of 31 blocks of 3" in text
