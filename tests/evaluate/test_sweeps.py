"""The price of robustness holds the solver's numbers, in a table, a file and a picture; runs end with exact figures."""

from __future__ import annotations

import csv

import pytest
import torch

from surefoot import cli
from surefoot.envs.tabular import resolve
from surefoot.errors import UsageError
from surefoot.evaluate import sweeps
from surefoot.evaluate.sweeps import price_of_robustness, swept
from surefoot.evaluate.trained import controller_worth, exact, outcome
from surefoot.methods.tabular.r2pvi import R2PVI
from surefoot.methods.tabular.regularized_rmdp import RegularizedRMDP
from surefoot.models.tabular_agent import TabularAgent
from surefoot.solvers import evaluate_policy, solve

TRAP = resolve("trap")


def start(solution) -> float:
    return float(TRAP.initial @ solution.value)


def test_a_sweep_solves_every_size(tmp_path):
    found = price_of_robustness(TRAP, "kl:0..0.4", 3)
    assert [p.size for p in found.points] == [0, 0.2, 0.4]
    nominal, robust = solve(TRAP), solve(TRAP, "kl:0.2")
    middle = found.points[1]
    assert found.nominal == pytest.approx(start(nominal)) and middle.robust_worst == pytest.approx(start(robust))
    assert middle.robust_nominal == pytest.approx(start(evaluate_policy(TRAP, robust.policy)))
    assert middle.nominal_worst == pytest.approx(start(evaluate_policy(TRAP, nominal.policy, "kl:0.2")))
    assert middle.nominal_worst < middle.robust_worst < found.nominal
    _, csv_file, picture, page = found.save(tmp_path)
    assert page.name == "report.html" and sweeps.read(tmp_path / "sweep.json") == found
    rows = list(csv.DictReader(csv_file.open()))
    assert float(rows[1]["robust_worst"]) == middle.robust_worst and picture.stat().st_size
    assert len(found.plot().axes[0].lines) == 4 and found.table().count("\n") == 5


def test_ranges_are_read_wherever_the_size_stands(capsys):
    before, interval, after = swept("l1:0..0.5,support=nominal")
    assert (before, interval.low, interval.high, after) == ("l1:", 0, 0.5, ",support=nominal")
    assert swept("kl:radius=0..1")[0] == "kl:radius=" and swept("kl:0.1") is None and swept(None) is None
    with pytest.raises(UsageError, match="a..b is not a range of numbers"):
        swept("kl:a..b")
    with pytest.raises(UsageError, match="write a range of sizes"):
        price_of_robustness(TRAP, "kl:0.1")
    cli.main(["solve", "trap", "--ambiguity", "kl:0..0.4", "--points", "2"])
    assert "robust policy" in capsys.readouterr().out


def test_a_policy_is_held_against_the_best_and_the_worst():
    policy = torch.tensor([[0.5, 0.5], [0.5, 0.5]], dtype=torch.float64)
    found = outcome(TRAP, TabularAgent(policy), RegularizedRMDP())
    assert found.worth == pytest.approx(start(evaluate_policy(TRAP, policy)))
    assert found.best == pytest.approx(start(solve(TRAP)))
    assert found.robust == pytest.approx(start(evaluate_policy(TRAP, policy, "kl-penalty:1")))
    assert found.robust_best == pytest.approx(start(solve(TRAP, "kl-penalty:1"))) and "gamma=0.95" in found.lines()[0]
    linear = resolve("simulated-linear")
    acts = torch.full((3, 5, 16), 1 / 16, dtype=torch.float64)
    assert outcome(linear, TabularAgent(acts), R2PVI()).robust is not None


def test_a_controller_is_worth_what_its_policy_is():
    policy = torch.tensor([[0.3, 0.7], [0.6, 0.4]], dtype=torch.float64)
    joint = torch.stack([policy / 2, policy / 2], -1).expand(2, 2, 2, 2)  # the memory is drawn and does not matter
    for mdp in (TRAP, resolve("trap:horizon=3")):
        own = evaluate_policy(mdp, policy)
        worth, value = controller_worth(mdp, joint)
        assert value.numpy() == pytest.approx(own.value.reshape(-1, 2)[0].numpy(), abs=1e-5)
        assert worth == pytest.approx(float(mdp.initial @ value))
    greedy = exact(TabularAgent(policy), TRAP)
    assert greedy["value"] == pytest.approx(start(evaluate_policy(TRAP, [1, 0])), abs=1e-5)
