"""Neur2RO: networks inside programs against themselves, HiGHS against lists, an oracle in the network's place, runs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from network_laws import a_device_changes_no_bit, numbers, the_seed_decides, together_as_alone

import surefoot as sf
import surefoot.supervised as room
from surefoot.data.tables import read
from surefoot.envs.recourse import Family, Knapsack, Problem, Projects
from surefoot.envs.recourse.exact import optimum, subsets, table, worst_case
from surefoot.errors import UsageError
from surefoot.loops.common.run import make_learner
from surefoot.methods.supervised.neur2ro import Neur2RO
from surefoot.methods.supervised.neur2ro.deciding import Search
from surefoot.methods.supervised.neur2ro.generation import (
    Known,
    _predicted,
    ascended_losses,
    known,
    listed_choice,
    solved_choice,
    solved_losses,
)
from surefoot.methods.supervised.neur2ro.program import Program, stacked
from surefoot.models.set_model import SetModel
from surefoot.models.set_value import SetSizes, SetValue

SMALL = SetSizes(6, 4, 8, 3, 4)
STREAM = np.random.default_rng(0)


@pytest.fixture(params=[Family, Projects])
def family(request):
    return request.param


def untrained(problem: Problem, seed: int = 0, sizes: SetSizes = SMALL) -> SetModel:
    """A network of random weights, large enough that ξ matters."""
    torch.manual_seed(seed)
    network = SetValue(len(problem.known), sizes, len(problem.seen))
    network.fit_scales(torch.as_tensor(problem.items()), torch.tensor([problem.bounds()[0], 0.0]).double())
    with torch.no_grad():
        for weights in network.parameters():
            weights.mul_(1.5)
    return SetModel(network)


def seen(family, seed: int, n: int) -> tuple[Known, np.ndarray]:
    """A random instance, a random network, and three ξ."""
    stream = np.random.default_rng(seed)
    problem = family(n).draw(stream)
    return known(untrained(problem, seed).network, problem), problem.scenarios(stream, 3)


class Oracle:
    """The exact second stage in a network's place: embeddings are what they embed."""

    def __init__(self, problem: Problem) -> None:
        self.problem, self.back = problem, np.linalg.pinv(problem.sight())

    def choice(self, x: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        return x

    losses = choice

    def joined(self, x: torch.Tensor, xi: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(table(self.problem, xi.numpy() @ self.back).T)

    def unscaled(self, value: torch.Tensor) -> torch.Tensor:
        return value


# --- networks in programs ----------------------------------------------------------------------------------------


def test_a_network_in_a_program_is_the_network(family):
    for seed in range(3):
        to, scenarios = seen(family, seed, 5)
        for x in subsets(5)[[0, 9, 22, 31]]:
            program = Program()
            choice = program.variables(5, whole=True)
            program.require(choice.plus(-x), least=0.0, most=0.0)
            predicted = stacked(_predicted(program, to, choice, scenarios))
            wanted = to.predicted(torch.as_tensor(x), torch.as_tensor(scenarios)).numpy()
            low, high = program.interval(predicted)
            for sign in (1.0, -1.0):
                solution = program.minimise(predicted.rows([1]).times(sign * np.eye(1)), gap=0.0, time_limit=60)
                found = predicted.matrix @ solution[: predicted.matrix.shape[1]] + predicted.offset
                assert found == pytest.approx(wanted, abs=1e-6)
            assert (low <= wanted + 1e-9).all() and (wanted <= high + 1e-9).all()


@pytest.mark.parametrize("formulation", ["argmax", "max"])
def test_highs_chooses_as_the_list_of_all_choices(family, formulation):
    differ = 0
    for seed, n in enumerate((4, 5, 6, 7, 12), 1):  # of seed 0, the network of projects sees no ξ
        to, scenarios = seen(family, seed, n)
        for some in (scenarios[:0], scenarios[:1], scenarios):
            listed = listed_choice(to, some, formulation)
            assert (solved_choice(to, some, formulation, 0.0, 60.0) == listed).all(), (seed, len(some))
        differ += bool((listed != listed_choice(to, scenarios[:0], formulation)).any())
    assert differ  # or the scenarios would have no say


@pytest.mark.parametrize(("capacity", "chosen"), [(8.0, 1.0), (5.0, 0.0)])
def test_a_repair_takes_the_loss_away_where_there_is_room_for_it(capacity, chosen):
    """7 − 12 with a repair, 7 + 8 − 12 without: with the released sign of the repair, nothing would be chosen."""
    problem = Knapsack([5.0], [8.0], [3.0], [5.0], [12.0], capacity, 1.0)
    to, lost = known(untrained(problem).network, problem), np.ones((1, 1))
    assert listed_choice(to, lost, "argmax") == solved_choice(to, lost, "argmax", 0.0, 60.0) == [chosen]


def test_highs_finds_losses_that_the_network_fears_as_much_as_any(family):
    for seed in range(4):
        to, scenarios = seen(family, seed, 6)
        x = subsets(6)[45]

        def fear(xi: np.ndarray, to=to, x=x) -> np.ndarray:
            return to.predicted(torch.as_tensor(x), torch.as_tensor(xi)).detach().numpy()

        exact = solved_losses(to, x, 0.0, 60.0)
        near = ascended_losses(to, x, np.vstack([scenarios, to.problem.scenarios(STREAM, 20)]), 60, 0.1)
        for found in (exact, near):
            assert found.min() >= 0 and found.max() <= 1 and found.sum() <= to.problem.budget + 1e-6
        assert fear(exact) >= fear(near) - 1e-6 and fear(near) >= fear(scenarios).max()
        assert fear(exact) - fear(near) < 0.02 * abs(fear(exact)) + 1e-6


# --- constraint generation ---------------------------------------------------------------------------------------


def test_with_an_oracle_both_formulations_are_ordinary_constraint_generation_and_find_the_optimum(family):
    for seed in range(2):
        problem = family(5).draw(np.random.default_rng(seed))
        to = Known(Oracle(problem), problem, torch.empty(0))  # type: ignore[arg-type]
        chosen, scenarios = [], np.empty((0, problem.uncertain))
        for _ in range(20):
            x, other = (listed_choice(to, scenarios, kind) for kind in ("argmax", "max"))
            assert (x == other).all()
            worst = worst_case(problem, x)
            chosen.append(worst.value)
            if len(scenarios) and np.abs(scenarios - worst.point).sum(-1).min() < 1e-9:
                break
            scenarios = np.vstack([scenarios, worst.point])
        assert chosen[-1] == pytest.approx(optimum(problem).value, abs=1e-4)


def test_the_cost_of_a_choice_at_the_scenario_ranked_worst_is_a_lower_bound_of_its_worst_case(family):
    for seed in range(4):
        to, scenarios = seen(family, seed, 6)
        x = listed_choice(to, scenarios, "argmax")
        rank = to.predicted(torch.as_tensor(x), torch.as_tensor(scenarios)).argmax()
        at = table(to.problem, scenarios[rank][None])[0, int(x @ (1 << np.arange(6)))]
        assert to.problem.first_stage(x) + at <= worst_case(to.problem, x).value + 1e-6


@pytest.mark.parametrize("search", [Search(), Search(choices_by="highs", losses_by="highs", gap=0.0)])
def test_scenarios_are_added_until_nothing_new_is_feared(family, search):
    for seed in range(3):
        problem = family(5).draw(np.random.default_rng(seed))
        model = untrained(problem, seed)
        found, to = search.decide(model, problem), known(model.network, problem)
        assert 1 <= len(found.scenarios) <= 20 and set(found.choice.tolist()) <= {0.0, 1.0}
        assert len(np.unique(found.scenarios.round(6), axis=0)) == len(found.scenarios)
        x = torch.as_tensor(found.choice)
        fears = to.predicted(x, torch.as_tensor(np.vstack([found.losses, found.scenarios]))).detach()
        assert fears[0] >= fears[1:].max() - 1e-6
        again = search.decide(model, problem)
        assert (again.choice == found.choice).all() and (again.scenarios == found.scenarios).all()
    few = dataclasses.replace(search, scenarios=1, tolerance=0.0)
    assert len(few.decide(model, problem).scenarios) == 1


def test_without_losses_the_choice_is_the_nominal_one():
    problem = dataclasses.replace(Family(5).draw(np.random.default_rng(1)), budget=0.0)
    x = Search().decide(untrained(problem), problem).choice
    assert worst_case(problem, x).value == pytest.approx(optimum(problem).value)


# --- runs --------------------------------------------------------------------------------------------------------

DATA = "knapsack:4,instances=6,choices=3,losses=5"


def learner(seeds=(0,), **options):
    return make_learner(Neur2RO(batch_size=32), read(DATA), list(seeds), 4, **options)


def test_the_common_laws_of_networks():
    the_seed_decides(lambda seeds: learner(seeds))
    together_as_alone(lambda seeds: learner(seeds))
    a_device_changes_no_bit(learner)


def test_stopped_and_resumed_is_the_same_run_to_the_bit(tmp_path):
    options = {"data": DATA, "steps": 4, "num_seeds": 2, "seed": 3, "held_out": 0.2, "loggers": (), "batch_size": 16}
    whole = sf.train("neur2ro", run_dir=tmp_path / "whole", **options)
    options["callbacks"] = lambda learner, _: learner.iteration == 2
    cut = sf.train("neur2ro", run_dir=tmp_path / "cut", **options)
    assert len(cut.metrics()) == 4
    sf.resume(cut)
    assert numbers([whole.metrics()]) == numbers([cut.metrics()])
    X = read(DATA).X
    for seed in (3, 4):
        assert (whole.agent(seed).predict(X) == cut.agent(seed).predict(X)).all()


@pytest.mark.parametrize("name", ["knapsack", "capital-budgeting"])
def test_a_run_learns_the_second_stage_and_its_model_decides(tmp_path, name):
    data = f"{name}:4,instances=40,choices=8,losses=5"
    options = {"batch_size": 64, "learning_rate": 5e-3, "held_out": 0.2, "loggers": ()}
    run = sf.train("neur2ro", data=data, steps=15, run_dir=tmp_path / "run", **options)
    first, last = run.metrics()[0], run.metrics()[-1]
    assert last["held_out_r2"] > 0.7 and last["absolute_error"] < first["absolute_error"] / 2
    figures = sf.evaluate(run)
    assert figures["samples"] == 320 and figures["r2"] > 0.7
    model, table = sf.load(run), read(data)
    assert (model.predict(table.X) == run.agent().predict(table.X)).all()
    assert np.corrcoef(model.predict(table.X), table.y)[0, 1] > 0.9
    problem = {"knapsack": Family, "capital-budgeting": Projects}[name](4).draw(np.random.default_rng(5))
    found = Neur2RO().decide(model, problem)
    assert worst_case(problem, found.choice).value <= 0
    assert (Neur2RO(choices_by="highs", gap=0.0).decide(model, problem).choice == found.choice).all()


def test_other_tables_and_other_losses_are_refused(tmp_path):
    X = np.zeros((9, 5))
    with pytest.raises(UsageError, match="X has 5 features, 5 of them named as choices.*and 0 as xi.*knapsack:8"):
        sf.train("neur2ro", data=(X, X[:, 0]), steps=1, run_dir=tmp_path / "run")
    with pytest.raises(UsageError, match="hidden=.* has no effect"):
        Neur2RO(hidden=(3,))
    with pytest.raises(UsageError, match="formulation='mean' is not allowed"):
        Neur2RO(formulation="mean")
    assert list(tmp_path.iterdir()) == [] and room.Neur2RO is Neur2RO and "Neur2RO" not in dir(room)


def test_a_damaged_model_is_refused(tmp_path):
    problem = Family(4).draw(np.random.default_rng(0))
    model = untrained(problem)
    model.save(tmp_path)
    assert "6 numbers" in repr(SetModel.load(tmp_path))
    text = (tmp_path / "agent.json").read_text()
    for old, new in (('"features": 6', '"features": 7'), ('"item_hidden": 6', '"item_hidden": -6'), ('"sizes"', '"s"')):
        (tmp_path / "agent.json").write_text(text.replace(old, new))
        with pytest.raises(UsageError, match="is damaged"):
            SetModel.load(tmp_path)
