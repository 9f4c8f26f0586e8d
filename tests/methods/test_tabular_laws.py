"""The law every tabular method is held to: pure steps, legal policies, finite metrics, the same bits when resumed."""

from __future__ import annotations

import dataclasses
import inspect
import math

import pytest
import torch

from surefoot import api, catalogue
from surefoot.envs.tabular import TabularMDP, resolve, uncertain
from surefoot.errors import UsageError
from surefoot.loops.common.run import Run
from surefoot.loops.tabular.method import NEEDS, Tabular
from surefoot.models.tabular_agent import check_policy

CLASSES = {catalogue.method_class(e.slug): e.slug for e in reversed(catalogue.methods())}  # a class under one slug
METHODS = [slug for method, slug in CLASSES.items() if issubclass(method, Tabular)]
CLOCK = ("time", "steps_per_second")
STEPS = 4
every_method = pytest.mark.parametrize("slug", METHODS)


def candidates() -> list[TabularMDP]:
    """Small MDPs of every kind; the last has pairs that are not legal."""
    garnet = resolve("garnet:4,3,2,seed=1,gamma=0.8")
    legal = torch.ones(4, 3, dtype=torch.bool)
    legal[1, 2] = legal[3, 0] = False
    other = resolve("garnet:4,3,2,seed=2").dense_rows
    one_hot = torch.eye(12, dtype=torch.float64).view(4, 3, 12)
    return [
        resolve("two-state"),
        resolve("trap"),
        uncertain(garnet, torch.stack([garnet.dense_rows, other])),
        dataclasses.replace(garnet, horizon=3, gamma=1.0),
        dataclasses.replace(garnet, features=one_hot),
        dataclasses.replace(garnet, features=one_hot, horizon=3, gamma=1.0),
        dataclasses.replace(garnet, features=one_hot, legal=legal),
        dataclasses.replace(garnet, features=one_hot, legal=legal, horizon=3, gamma=1.0),
    ]


def admitted(method: Tabular) -> list[TabularMDP]:
    """Those that a method can learn in."""

    def fits(mdp: TabularMDP) -> bool:
        try:
            method.admit(mdp)
            method.start(mdp, 0)
        except UsageError:
            return False
        return True

    return [mdp for mdp in candidates() if fits(mdp)]


def made(slug: str) -> Tabular:
    """The method with samples few enough for a test."""
    cls = catalogue.method_class(slug)
    small = {"samples": 300, "episodes": 8, "length": 8, "episodes_per_step": 8, "batch": 8}
    return cls(**{f.name: small[f.name] for f in dataclasses.fields(cls) if f.name in small})


def walk(method: Tabular, mdp: TabularMDP, seed: int, steps: int = STEPS):
    """The states and metrics of the first steps."""
    states, metrics = [method.start(mdp, seed)], []
    for iteration in range(steps):
        state, row = method.step(mdp, states[-1], seed, iteration)
        states.append(state)
        metrics.append(row)
    return states, metrics


def copied(state):
    return {name: x.clone() for name, x in state.items()}


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(
        x.shape == other[name].shape and bool(((x == other[name]) | (x.isnan() & other[name].isnan())).all())
        for name, x in one.items()
    )


# --- steps -----------------------------------------------------------------------------------------------------------


@every_method
def test_it_learns_in_some_small_mdp_and_says_what_it_needs_of_others(slug):
    method = made(slug)
    assert admitted(method) and set(method.needs) <= set(NEEDS)
    for mdp in candidates():
        if any(not NEEDS[name].met(mdp) for name in method.needs):
            with pytest.raises(UsageError, match=f"{type(method).__name__} cannot learn in"):
                method.admit(mdp)


@every_method
def test_a_step_is_a_pure_function_of_state_seed_and_iteration(slug):
    method = made(slug)
    for mdp in admitted(method):
        states, metrics = walk(method, mdp, 3)
        before = copied(states[2])
        again, row = method.step(mdp, states[2], 3, 2)
        torch.manual_seed(99)  # nothing is drawn from torch's own generator
        third, _ = method.step(mdp, copied(before), 3, 2)
        assert same(states[2], before), "a step changed the state that it was given"
        assert same(again, states[3]) and same(third, states[3])
        assert {k: float(v) for k, v in row.items()} == {k: float(v) for k, v in metrics[2].items()}
        assert same(walk(method, mdp, 3)[0][-1], states[-1])


@every_method
def test_the_names_of_the_state_and_of_the_metrics_never_change(slug):
    method = made(slug)
    for mdp in admitted(method):
        states, metrics = walk(method, mdp, 0)
        kinds = [{name: (x.dtype, x.ndim) for name, x in state.items()} for state in states]
        assert all(kind == kinds[0] for kind in kinds)
        assert all(row.keys() == metrics[0].keys() for row in metrics)


@every_method
def test_metrics_are_finite_numbers_and_have_the_return(slug):
    method = made(slug)
    for mdp in admitted(method):
        low, high = bounds(mdp)
        for row in walk(method, mdp, 0)[1]:
            assert all(math.isfinite(float(value)) for value in row.values())
            assert low - 1e-9 <= float(row["return_mean"]) <= high + 1e-9


def bounds(mdp: TabularMDP) -> tuple[float, float]:
    """Between which every return lies: discounted, of an episode, or a mean reward."""
    low, high = float(mdp.reward.min()), float(mdp.reward.max())
    weight = sum(mdp.gamma**t for t in range(mdp.horizon)) if mdp.horizon else 1 / (1 - mdp.gamma)
    return min(low, low * weight), max(high, high * weight)


@every_method
def test_a_policy_is_a_table_of_legal_actions_at_every_step(slug):
    method = made(slug)
    for mdp in admitted(method):
        for state in walk(method, mdp, 1)[0]:
            table = check_policy(method.policy(mdp, state))
            over_actions = table.sum(-1) if table.ndim == 4 else table
            assert over_actions.shape[-2:] == (mdp.states, mdp.actions)
            assert mdp.legal is None or not bool((over_actions * ~mdp.legal > 0).any())


# --- runs ------------------------------------------------------------------------------------------------------------


@every_method
def test_stopped_and_resumed_is_the_same_run_to_the_bit(slug, tmp_path):
    method = made(slug)
    mdp = admitted(method)[-1]
    options = {"steps": STEPS, "seed": 5, "num_seeds": 2, "loggers": ()}
    api.train(method, mdp, run_dir=tmp_path / "whole", **options)
    api.train(method, mdp, run_dir=tmp_path / "cut", callbacks=[lambda learner, _: learner.iteration == 2], **options)
    assert len(Run(tmp_path / "cut").metrics()) == 4
    api.resume(tmp_path / "cut", env=mdp)
    whole, cut = (Run(tmp_path / name) for name in ("whole", "cut"))
    numbers = [[{k: v for k, v in row.items() if k not in CLOCK} for row in run.metrics()] for run in (whole, cut)]
    assert numbers[0] == numbers[1]
    assert all(torch.equal(whole.agent(seed).policy, cut.agent(seed).policy) for seed in (5, 6))


@every_method
def test_the_configuration_makes_the_method_again(slug, tmp_path):
    method = made(slug)
    run = api.train(method, admitted(method)[0], 1, run_dir=tmp_path / "run", loggers=())
    assert run.config["method"] == slug
    again, _ = api.make_method(slug, **run.config["hyperparameters"])
    assert str(again) == str(method) and run.config["objective"] == method.objective()


@every_method
def test_a_run_is_evaluated_as_any_other(slug, tmp_path):
    method = made(slug)
    mdp = admitted(method)[-1]
    run = api.train(method, mdp, 1, run_dir=tmp_path / "run", loggers=())
    short = dataclasses.replace(mdp, horizon=mdp.horizon or 5)
    figures = api.evaluate(run.path, short, episodes=2, deterministic=False)
    assert len(figures["returns"]) == 2 and all(map(math.isfinite, figures["returns"]))


# --- what is shown and refused ---------------------------------------------------------------------------------------


@every_method
def test_explain_shows_formula_steps_and_every_hyperparameter(slug):
    page = api.explain(slug)
    for heading in ("OBJECTIVE", "ALGORITHM", "HYPERPARAMETERS"):
        assert heading in page
    for field in dataclasses.fields(catalogue.method_class(slug)):
        assert field.name in page and field.metadata.get("help"), field.name
    assert len(made(slug).steps()) >= 2 and inspect.getdoc(catalogue.method_class(slug))


@every_method
def test_a_misspelled_hyperparameter_is_refused_before_any_work(slug, tmp_path):
    with pytest.raises(UsageError, match="no hyperparameter 'learning_ratee'"):
        api.train(slug, "two-state", 2, learning_ratee=1, run_dir=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@every_method
def test_a_number_outside_its_range_is_refused(slug):
    cls = catalogue.method_class(slug)
    tried = 0
    for field in dataclasses.fields(cls):
        low = field.metadata.get("low", field.metadata.get("above"))
        if low is not None and isinstance(field.default, (int, float)):
            with pytest.raises(UsageError, match=f"{cls.__name__}: {field.name}="):
                cls(**{field.name: type(field.default)(low - 1)})
            tried += 1
    assert tried
