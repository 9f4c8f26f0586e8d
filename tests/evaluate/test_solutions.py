"""Solutions for people: the tables, pictures and files hold the numbers of the solver, and the command line too."""

from __future__ import annotations

import csv
import sys

import numpy as np
import pytest
import torch

from surefoot import cli
from surefoot.envs.tabular import Successors, TabularMDP, resolve, tabular_from_gym, to_npz
from surefoot.errors import UsageError
from surefoot.evaluate.grids import draw, goal_states
from surefoot.evaluate.solutions import change_table, kernel_difference, save, summary, table, watched
from surefoot.solvers import Progress, solve

TRAP = resolve("trap")


# --- the worst world -------------------------------------------------------------------------------------------------


def test_the_largest_changes_come_first_with_both_probabilities():
    worst = TRAP.rows.clone()
    worst[0, 0] = torch.tensor([0.9, 0.1], dtype=torch.float64)
    worst[1, 1] = torch.tensor([0.0, 1.0])
    changes = kernel_difference(TRAP, worst)
    assert {tuple(c[1:4]) for c in changes[:2]} == {(1, 1, 0), (1, 1, 1)}
    assert {tuple(c[1:4]) for c in changes[2:]} == {(0, 0, 0), (0, 0, 1)}
    assert [round(c.difference, 12) for c in changes if c.next_state == 1] == [0.2, 0.05]
    assert changes[-1].nominal in (0.95, 0.05) and changes[-1].worst in (0.9, 0.1)
    assert len(kernel_difference(TRAP, worst, 1)) == 1 and kernel_difference(TRAP, TRAP.rows) == []


def test_only_pairs_that_the_policy_takes_count():
    worst = TRAP.rows.clone()
    worst[:, 0] = torch.tensor([0.5, 0.5])
    taken = kernel_difference(TRAP, worst, policy=torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    assert {(c.state, c.action) for c in taken} == {(1, 0)}
    legal = torch.tensor([[True, False], [False, True]])
    mdp = TabularMDP(TRAP.rows, TRAP.reward, legal=legal)
    assert {(c.state, c.action) for c in kernel_difference(mdp, worst)} == {(0, 0)}


def test_sparse_kernels_are_compared_by_the_states_they_lead_to():
    """The worst kernel may list the successors in another order, and one more."""
    nominal = Successors(torch.tensor([[[0, 1]], [[1, 0]]]), torch.tensor([[[0.5, 0.5]], [[1.0, 0.0]]]))
    worst = Successors(
        torch.tensor([[[1, 0, 0]], [[1, 0, 0]]]), torch.tensor([[[0.8, 0.2, 0]], [[0.75, 0.25, 0]]]).double()
    )
    sparse = TabularMDP(nominal, np.zeros((2, 1)))
    dense = torch.zeros(2, 1, 2, dtype=torch.float64)
    full = TabularMDP(dense.scatter_add(-1, *(x.double() if i else x for i, x in enumerate(nominal))), np.zeros((2, 1)))
    changed = dense.scatter_add(-1, worst.state, worst.probability)
    key = lambda c: c[1:4]  # noqa: E731
    found, wanted = (sorted(x, key=key) for x in (kernel_difference(sparse, worst), kernel_difference(full, changed)))
    assert [c[:4] for c in found] == [c[:4] for c in wanted] and len(found) == 4
    np.testing.assert_allclose([c[4:] for c in found], [c[4:] for c in wanted])


def test_changes_of_steps_name_their_step():
    mdp = resolve("trap:horizon=3")
    worst = mdp.rows.expand(3, 2, 2, 2).clone()
    worst[2, 0, 0] = torch.tensor([0.5, 0.5])
    worst[1, 1, 0] = torch.tensor([0.1, 0.9])
    changes = kernel_difference(mdp, worst)
    assert [c.step for c in changes] == [2, 2, 1, 1]
    lines = change_table(mdp, changes).splitlines()
    assert lines[0].split() == ["step", "state", "action", "next", "nominal", "worst", "change"]
    assert sorted(line.split()[:4] for line in lines[3:]) == [
        ["1", "pit", "risky", "pit"],
        ["1", "pit", "risky", "work"],
    ]
    assert "step" not in change_table(TRAP, kernel_difference(TRAP, worst[2]))


# --- pictures --------------------------------------------------------------------------------------------------------


def grid(**fields) -> TabularMDP:
    base = resolve("cliff:2,3")
    given = {"grid": (2, 3), "actions_named": base.actions_named, **fields}
    return TabularMDP(base.rows, base.reward, 0.9, **given)


def test_a_picture_shows_values_as_colours_and_the_policy_as_arrows():
    mdp = grid()
    values = torch.arange(6.0, dtype=torch.float64)
    policy = torch.zeros(6, 4, dtype=torch.float64)
    policy[:, 1] = 1  # right
    policy[0] = torch.tensor([0.5, 0, 0.5, 0])  # up, down
    figure = draw(mdp, values, policy, title="a cliff")
    axes = figure.axes[0]
    np.testing.assert_array_equal(axes.images[0].get_array(), values.reshape(2, 3))
    up, right, down, left = axes.collections
    assert up.get_offsets().tolist() == [[0, -0.1]] and up.V.tolist() == [-0.18] and down.V.tolist() == [0.18]
    assert right.get_offsets().tolist() == [
        [1, -0.1],
        [2, -0.1],
        [0, 0.9],
        [1, 0.9],
    ]  # the goal, where it ends, has none
    assert set(right.U) == {0.36} and not len(left.get_offsets())
    assert {text.get_text() for text in axes.texts} == set("012345") and axes.get_title(loc="left") == "a cliff"


def test_a_goal_is_told_from_a_hole():
    lake = tabular_from_gym("FrozenLake-v1", gamma=0.9)
    assert goal_states(lake).nonzero().flatten().tolist() == [15] and lake.ended.sum() == 5
    assert not goal_states(grid()).any()  # a single end is only an end
    names = [text.get_text() for text in draw(lake, torch.zeros(16, dtype=torch.float64)).legends[0].texts]
    assert names == ["start", "goal", "end"]


def test_actions_without_a_direction_are_written_out():
    policy = torch.eye(4, dtype=torch.float64)[[3, 1, 1, 1, 1, 1]]
    axes = draw(grid(actions_named=()), torch.zeros(6, dtype=torch.float64), policy).axes[0]
    assert [t.get_text() for t in axes.texts if t.get_position()[1] in (-0.1, 0.9)] == ["1"] * 4 + ["3"]


@pytest.mark.parametrize(
    ("mdp", "values", "policy", "message"),
    [
        (TRAP, torch.zeros(2), None, "'trap' is not a grid"),
        (grid(), torch.zeros(3, 6), None, "values has shape"),
        (grid(), torch.zeros(6), torch.zeros(3, 6, 4), "policy has shape"),
    ],
)
def test_what_cannot_be_drawn_is_refused(mdp, values, policy, message):
    with pytest.raises(UsageError, match=message):
        draw(mdp, values, policy)


# --- tables and files ------------------------------------------------------------------------------------------------


def test_tables_name_states_and_actions_and_say_what_is_left_out():
    solution = solve(TRAP, "kl:0.05", criterion="average", tolerance=1e-8)
    lines = [line.split() for line in table(TRAP, solution).splitlines()]
    assert lines[0] == ["state", "value", "policy"] and lines[1] == ["work", "0", "safe"]
    assert summary(TRAP, solution).startswith("average reward per step 0.7 · gap")
    many = resolve("river-swim:30")
    assert table(many, solve(many), 4).splitlines()[-1] == "… and 26 more states"
    lake = resolve("gym:FrozenLake-v1")
    assert table(lake, solve(lake)).splitlines()[6].split()[:2] == ["1,1", "0"]  # a hole: row, column


def test_a_mixed_policy_is_shown_with_its_probabilities():
    solution = solve(TRAP)
    object.__setattr__(solution, "policy", torch.tensor([[0.25, 0.75], [1, 0]]))
    assert table(TRAP, solution).splitlines()[1].endswith("safe 0.750, risky 0.250")


@pytest.mark.parametrize("name", ["river-swim", "garnet:2001,1,2", "inventory:horizon=3"])
def test_a_saved_solution_holds_what_was_solved(name, tmp_path):
    mdp = resolve(name)
    solution = solve(mdp, "kl:0.1")
    paths = save(mdp, solution, tmp_path / "new" / "folder")
    assert [path.name for path in paths] == ["solution.npz", "worst_case.csv", "policy.csv", "grid.png"][
        : 3 + (mdp.grid is not None)
    ]
    with np.load(paths[0]) as held:
        np.testing.assert_array_equal(held["value"], solution.value)
        np.testing.assert_array_equal(held["policy"], solution.policy)
        worst = solution.worst_kernel
        if isinstance(worst, Successors):
            np.testing.assert_array_equal(held["worst_successor_probability"], worst.probability)
        else:
            np.testing.assert_array_equal(held["worst_kernel"], worst)
    rows = list(csv.DictReader(paths[1].open()))
    changes = kernel_difference(mdp, worst, 1000, policy=solution.policy)
    assert len(rows) == len(changes) > 0 and float(rows[0]["change"]) == changes[0].difference
    states = list(csv.DictReader(paths[2].open()))
    assert [float(row["value"]) for row in states] == solution.value.flatten().tolist()
    acts = [[float(x) for x in list(row.values())[4:]] for row in states]
    assert acts == solution.policy.reshape(-1, mdp.actions).tolist()


def test_ended_states_have_no_action_and_stand_beside_their_nominal_values():
    lake = tabular_from_gym("FrozenLake-v1", gamma=0.9)
    solution, nominal = solve(lake, "tv:0.05"), solve(lake)
    lines = table(lake, solution, None, nominal).splitlines()
    assert len(lines) == 17 and [i for i, line in enumerate(lines[1:]) if line.endswith("(over)")] == [5, 7, 11, 12, 15]
    assert lines[0].split() == ["state", "value", "nominal", "policy"]
    assert [float(x) for x in lines[15].split()[1:3]] == pytest.approx(
        [float(solution.value[14]), float(nominal.value[14])], rel=1e-5
    )
    assert "and 12 more states" in table(lake, solution, 4)


def test_what_is_summed_is_said_and_an_assumed_discount_is(capsys):
    cli.main(["solve", "gym:FrozenLake-v1", "--ambiguity", "tv:0.05", "--top", "0", "--states", "0"])
    printed = capsys.readouterr().out
    assert "discounted by gamma=0.95 (assumed)" in printed and "more states" not in printed
    assert "the best one there 0.180472" in printed  # 0.95 is not what people know the lake by
    cli.main(["solve", "gym:FrozenLake-v1", "--gamma", "0.9"])
    assert "gamma=0.9 ·" in capsys.readouterr().out
    cli.main(["solve", "gym:FrozenLake-v1,gamma=1"])
    assert "value from the start 0.823529 · sum of rewards, not discounted" in capsys.readouterr().out


# --- progress and the command line -----------------------------------------------------------------------------------


def test_progress_is_silent_outside_a_terminal_and_moves_inside_one(monkeypatch, capsys):
    with watched(1e-6) as show:
        assert show is None
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    with watched(1e-6) as show:
        assert show is not None
        for gap in (1.0, 1e-3, 0.0):
            show(Progress(3, gap, 0.1))
    assert "gap 0 of 1e-06" in capsys.readouterr().err


def test_solve_from_the_shell(tmp_path, capsys):
    path = to_npz(resolve("river-swim:5"), tmp_path / "river.npz")
    cli.main(
        ["solve", str(path), "--ambiguity", "kl:0.1", "--gamma", "0.8", "--top", "2", "--out", str(tmp_path / "out")]
    )
    printed = capsys.readouterr().out
    wanted = solve(resolve("river-swim:5,gamma=0.8"), "kl:0.1")
    lines = printed.splitlines()
    assert lines[0] == f"{path} · 5 states, 2 actions · kl:0.1"
    assert [float(line.split()[1]) for line in lines[3:8]] == pytest.approx(wanted.value.tolist(), rel=1e-5)
    assert f"value from the start {float(wanted.value[0]):.6g}" in printed
    assert printed.count("right") == 5 + 2  # two changes are shown
    for name in ("solution.npz", "worst_case.csv", "grid.png", "report.html"):
        assert (tmp_path / "out" / name).stat().st_size and name in printed


def test_criteria_from_the_shell(capsys):
    cli.main(["solve", "trap", "--ambiguity", "kl:0.05", "--criterion", "average"])
    assert "average reward per step 0.7 " in capsys.readouterr().out
    cli.main(["solve", "inventory", "--horizon", "3"])
    printed = capsys.readouterr().out
    assert [float(x.split()[1]) * 16 for x in printed.splitlines()[3:7]] == [67, 129, 194, 227]
    assert "worst world" not in printed


def test_a_set_that_actions_share_makes_the_policy_mix(capsys):
    cli.main(["solve", "machine-replacement", "--ambiguity", "kl:0.3", "--rectangular", "s", "--top", "0"])
    lines = capsys.readouterr().out.splitlines()
    wanted = solve(resolve("machine-replacement"), "kl:0.3", rectangular="s")
    run, repair = wanted.policy[3].tolist()
    assert 0 < repair < run and lines[6].endswith(f"run {run:.3f}, repair {repair:.3f}")
    assert float(lines[6].removeprefix("wear 3").split()[0]) == pytest.approx(float(wanted.value[3]), rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rivr-swim"], "Did you mean 'river-swim'"),
        (["trap", "--ambiguity", "lk:1"], "ambiguity set 'lk' is unknown"),
        (["trap", "--rectangular", "q"], "rectangular='q'"),
        (["trap", "--top", "-1"], "top=-1"),
        (["gambler", "--criterion", "discounted"], "gamma=1"),
    ],
)
def test_mistakes_end_with_a_paragraph(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["solve", *arguments])
    assert stop.value.code == 2 and message in " ".join(capsys.readouterr().err.split())


def test_the_zoo_is_listed(capsys):
    cli.main(["zoo"])
    printed = capsys.readouterr().out
    assert "river-swim           Drift left" in printed and "states=20, actions=4, branching=5" in printed
