"""The stress test: its cells against plain rollouts, its figures against their definitions, its refusals."""

from __future__ import annotations

import dataclasses
import functools
import json
from concurrent.futures import ThreadPoolExecutor

import gymnasium
import numpy as np
import pytest
import scipy.stats
from matplotlib.figure import Figure

from surefoot.errors import UsageError
from surefoot.evaluate.readable import number
from surefoot.evaluate.rollout import episode_seeds, returns
from surefoot.evaluate.stress import StressReport, stress
from surefoot.perturbations import Parameters


def lean(observations):
    return (observations[:, 2] + 0.5 * observations[:, 3] > 0).astype(np.int64)


def still(observations):
    return np.zeros((len(observations), 3), np.float32)


def lazy(observations):
    """Holds the pole for a while: short episodes, cheap to play."""
    return (observations[:, 2] > 0).astype(np.int64)


@pytest.fixture(scope="module")
def report() -> StressReport:
    return stress(lazy, "CartPole-v1", "param:length=0.25..2 + observation-noise:0.2", episodes=6, seed=3, points=3)


def made(table, coordinates=None) -> StressReport:
    table = np.asarray(table, float)
    coordinates = np.arange(len(table))[:, None] * 1.0 if coordinates is None else np.asarray(coordinates, float)
    names = tuple("abcdef"[: coordinates.shape[1]])
    seeds = tuple(range(table.shape[1]))
    return StressReport("p", "e", "x", "closed", names, coordinates, table, table.mean(axis=0), seeds)


def test_cells_are_plain_rollouts_under_their_perturbation(report):
    assert report.axes == ("length", "observation-noise")
    assert report.coordinates.tolist() == [[a, b] for a in (0.25, 1.125, 2) for b in (0, 0.1, 0.2)]
    assert report.returns.shape == (9, 6)
    assert report.seeds == tuple(episode_seeds(3, 6))
    np.testing.assert_array_equal(report.nominal_returns, returns(lazy, "CartPole-v1", 6, 3))
    for (length, noise), row in zip(report.coordinates, report.returns):
        attack = f"param:length={length} + observation-noise:{noise}"
        np.testing.assert_array_equal(row, returns(lazy, "CartPole-v1", 6, 3, attack))


def test_nominal_strength_is_the_nominal_return():
    one = stress(lazy, "CartPole-v1", "observation-noise:0.5", episodes=4, points=3)
    np.testing.assert_array_equal(one.returns[0], one.nominal_returns)
    assert one.coordinates[:, 0].tolist() == [0, 0.25, 0.5]


def test_noise_hurts_a_balancing_policy():
    one = stress(lean, "CartPole-v1", "observation-noise:0.6", episodes=5, points=3)
    assert one.nominal == 500
    assert one.worst < 200
    assert one.worst_cell == {"observation-noise": 0.6}


def test_the_same_call_gives_the_same_bits_and_slots_do_not_matter(report):
    again = stress(
        lazy, "CartPole-v1", "param:length=0.25..2 + observation-noise:0.2", episodes=6, seed=3, points=3, slots=4
    )
    np.testing.assert_array_equal(again.returns, report.returns)


CALL = {"env": "CartPole-v1", "perturb": "action-delay:2", "episodes": 3}


@pytest.mark.parametrize("workers", [2, 5, 100])
def test_pieces_for_workers_are_put_together_in_order(workers, monkeypatch):
    monkeypatch.setattr("surefoot.evaluate.stress.ProcessPoolExecutor", lambda n, _: ThreadPoolExecutor(n))
    np.testing.assert_array_equal(stress(lazy, workers=workers, **CALL).returns, stress(lazy, **CALL).returns)


@pytest.mark.slow  # a new process imports torch first
def test_workers_are_processes():
    np.testing.assert_array_equal(stress(lazy, workers=2, **CALL).returns, stress(lazy, **CALL).returns)


def test_rrls_on_hopper():
    one = stress(still, "Hopper-v5", "rrls:2d", episodes=2, points=3)
    assert one.perturbation == "param:worldfriction=0.1..3,torsomass=0.1..3"
    assert one.coordinates[[0, -1]].tolist() == [[0.1, 0.1], [3, 3]]
    # friction below that of the foot is inert, above it is not; the mass matters
    np.testing.assert_array_equal(one.returns[:3], one.returns[3:6])
    assert not np.array_equal(one.returns[:3], one.returns[6:])
    assert len(np.unique(one.cell_means[:3])) == 3
    half_open = stress(still, "rrls/Hopper-v5", "rrls:1d", episodes=1, points=2, grid="rrls")
    np.testing.assert_allclose(half_open.coordinates[:, 0], [0.1, 1.55])


def test_a_stable_baselines3_model_is_stressed():
    sb3 = pytest.importorskip("stable_baselines3")
    model = sb3.PPO("MlpPolicy", "CartPole-v1", seed=0, device="cpu")
    one = stress(model, "CartPole-v1", "param:masspole=0.1..1", episodes=2, points=3)
    assert one.policy == "PPO"
    assert one.returns.min() >= 8


def test_figures_by_hand():
    one = made([[4, 6], [1, 3], [10, 10], [7, 9]])
    assert one.cell_means.tolist() == [5, 2, 10, 8]
    assert (one.worst, one.best, one.mean, one.nominal) == (2, 10, 6.25, 6.25)
    assert one.worst_cell == {"a": 1.0}
    assert one.cvar(0.25) == 2
    assert one.cvar(0.5) == 3.5
    assert one.cvar(1) == one.mean
    scaled = one.normalised(2, 10)
    assert (scaled.worst, scaled.best, scaled.mean) == (0, 1, pytest.approx(4.25 / 8))


def test_figures_are_ordered(report):
    assert report.worst <= report.cvar(0.1) <= report.cvar(0.5) <= report.mean <= report.best


def test_intervals_are_students_over_episodes():
    """Cells share their seeds, so the mean over cells has one value an episode, and changes are paired."""
    rng = np.random.default_rng(0)
    luck = rng.normal(0, 50, 5)  # of an episode, the same in every cell
    one = made(luck + rng.normal([[10.0], [20.0], [30.0]], 1, (3, 5)))
    one = dataclasses.replace(one, nominal_returns=luck + rng.normal(40, 1, 5))
    bounds = one.intervals(level=0.9)
    oracle = functools.partial(scipy.stats.ttest_1samp, popmean=0)
    for name, values in {
        "nominal": one.nominal_returns,
        "mean": one.returns.mean(axis=0),
        "mean change": one.returns.mean(axis=0) - one.nominal_returns,
    }.items():
        assert bounds[name] == pytest.approx(oracle(values).confidence_interval(0.9))
    cells = oracle(one.returns, axis=1).confidence_interval(0.9)
    np.testing.assert_allclose(bounds["cells"], (cells.low, cells.high))
    assert np.diff(bounds["mean change"])[0] < 5 < 20 < np.diff(bounds["mean"])[0]
    # the lower end is the worst cell's own, the upper one that of three cells at once
    each = oracle(one.returns, axis=1).confidence_interval(1 - 0.1 / 3)
    assert bounds["worst"] == pytest.approx((cells.low.min(), each.high.min()))
    assert bounds["best"] == pytest.approx((each.low.max(), cells.high.max()))
    assert bounds["cvar"] == pytest.approx(bounds["worst"])  # a tenth of three cells is the worst of them
    each = oracle(one.changes, axis=1).confidence_interval(1 - 0.1 / 3)
    assert bounds["worst change"][1] == pytest.approx(each.high.min())


def test_the_worst_cell_is_covered_though_it_was_picked():
    """Nine equal cells: the least mean lies below the truth, its interval does not."""
    rng = np.random.default_rng(1)
    reports = [made(rng.normal(size=(9, 5))) for _ in range(300)]
    bounds = [one.intervals() for one in reports]
    assert np.mean([one.worst for one in reports]) < -0.5
    for name in ("worst", "best", "cvar", "mean"):
        assert np.mean([b[name].low <= 0 <= b[name].high for b in bounds]) >= 0.94


def test_cells_that_are_one_experiment_count_once_where_the_worst_is_picked():
    rng = np.random.default_rng(2)
    two = rng.normal([[0.0], [1.0]], 1, (2, 6))
    assert made(two).intervals()["worst"] == pytest.approx(made(two[[0, 0, 0, 1, 1]]).intervals()["worst"])
    assert made(np.full((3, 4), 7.0)).intervals()["worst"] is None


# --- cells that are one experiment --------------------------------------------------------------------------------


def swept(table, nominal=None, axes=("worldfriction", "torsomass")):
    """A report over a grid `[len(first), len(second), episodes]`, or `[len(first), episodes]` of one dimension."""
    table = np.asarray(table, float)
    grid = np.indices(table.shape[:-1]).reshape(table.ndim - 1, -1).T * 1.0
    flat = table.reshape(-1, table.shape[-1])
    nominal = flat.mean(axis=0) + 0.5 if nominal is None else np.asarray(nominal, float)
    return StressReport("p", "e", "x", "closed", axes[: table.ndim - 1], grid, flat, nominal, (0, 1))


def remarks(report):
    return report.notes[3:]  # after what is said of every sweep


def test_a_perturbation_without_effect_is_no_robustness():
    class Deaf(gymnasium.Env):
        """Computes its gain when it is made, and so never hears of another mass."""

        observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)
        action_space = gymnasium.spaces.Box(-1, 1, (1,))

        def __init__(self):
            self.mass, self.gain = 2.0, 0.5

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.x = self.np_random.normal(size=1).astype(np.float32)
            return self.x, {}

        def step(self, action):
            return self.x, float(self.gain * self.x[0]), True, False, {}

    one = stress(lambda o: np.zeros((len(o), 1)), Deaf, "param:mass=1..4", points=3, episodes=3)
    (words,) = [note for note in one.notes if "no effect" in note]
    assert words.startswith("The perturbation had no effect: every episode in every cell has exactly")
    assert words in one.table() and one.nominal_point == (2.0,)
    assert not [note for note in swept([[1, 2], [1, 3]]).notes if "effect" in note]


def test_an_axis_that_changes_nothing_is_named():
    table = np.random.default_rng(0).normal(size=(1, 3, 2)).repeat(4, axis=0)
    (words, cause) = remarks(swept(table))
    assert words.startswith("worldfriction changed nothing: all its 4 values give identical returns in every episode.")
    assert "larger friction" in cause
    (words,) = remarks(swept(table.swapaxes(0, 1), axes=("x", "mass")))
    assert words.startswith("mass changed nothing: all its 4 values")


def test_columns_that_are_one_experiment_are_counted():
    """As on Hopper, where friction below that of the foot is inert: columns 0, 1 and 2 are one."""
    columns = np.random.default_rng(0).normal(size=(3, 5, 2))
    words, cause = remarks(swept(columns[[0, 0, 0, 1, 2]]))
    assert words.startswith("worldfriction: 3 of 5 values (0, 1, 2) give identical returns in every episode")
    assert "mean and the cvar count 3 times" in words and "larger friction" in cause
    nearly = columns[[0, 0, 0, 1, 2]]
    nearly[1, 4, 1] += 1e-3  # in one episode of one cell
    assert remarks(swept(nearly))[0].startswith("worldfriction: 2 of 5 values (0, 2)")
    assert remarks(swept(columns)) == []
    first, second = remarks(swept(columns[[0, 1, 0, 1, 2]], axes=("x", "y")))
    assert "(0, 2)" in first and "(1, 3)" in second


def test_cells_that_are_the_nominal_one_are_counted():
    table = np.random.default_rng(0).normal(size=(5, 2))
    table[1] = table[3]
    words = remarks(swept(table, nominal=table[1], axes=("x",)))
    assert words[-1] == "2 of 5 cells have the unperturbed return in every episode." and len(words) == 2
    assert remarks(swept(table[:3], nominal=table[1])) == []  # one cell is the nominal strength itself


def test_what_the_sweep_was_of_is_said():
    one = stress(lazy, "CartPole-v1", "param:length=0.25..2 + observation-noise:0.2", episodes=2, points=2)
    assert one.nominal_point == (0.5, 0.0)
    assert one.units == ("absolute value", "standard deviation (gaussian) or radius (linf, l2)")
    assert (
        "at length=0.5, observation-noise=0" in one.table()
        and "Axes: length (absolute value), observation-noise (standard" in one.table()
    )
    assert "2 episodes per cell with deterministic actions" in one.table()
    drawn = stress(lazy, "CartPole-v1", "observation-noise:0.2", episodes=1, points=2, deterministic=False)
    assert "1 episode per cell with sampled actions" in drawn.table()
    assert "not a bound for the whole range" in drawn.table() and "there are no intervals" in drawn.table()


def test_the_parameters_of_a_robust_task_have_units():
    one = stress(still, "Hopper-v5", "rrls:2d", episodes=1, points=2)
    assert one.units == ("absolute coefficient", "kg") and one.nominal_point == pytest.approx((1, 3.665191))
    axes = one.plot().axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("worldfriction (absolute coefficient)", "torsomass (kg)")


def test_the_nominal_point_is_marked_where_it_is_in_the_picture():
    coordinates = [[x, y] for x in (0, 1, 2) for y in (0, 1, 2)]
    one = made(np.random.default_rng(0).normal(size=(9, 2)), coordinates)
    for point, marked in (((1.0, 0.5), True), ((5.0, 0.5), False), ((None, 1.0), False), ((), False)):
        figure = dataclasses.replace(one, nominal_point=point).plot()
        assert ("nominal" in [text.get_text() for text in figure.legends[0].texts]) is marked
        if marked:
            assert ([1.0], [0.5]) in [(list(x.get_xdata()), list(x.get_ydata())) for x in figure.axes[0].lines]
    line = dataclasses.replace(made([[4.0], [1.0], [3.0]]), nominal_point=(1.5,)).plot().axes[0].lines
    assert ([1.5], [pytest.approx(8 / 3)]) in [(list(x.get_xdata()), list(x.get_ydata())) for x in line]


def test_a_report_of_before_has_no_nominal_point():
    text = json.loads(made([[1.0, 2.0]]).to_json())
    old = {name: value for name, value in text.items() if name not in ("nominal_point", "units", "deterministic")}
    one = StressReport.from_json(json.dumps(old))
    assert (one.nominal_point, one.units, one.deterministic) == ((), (), True) and "nominal" in one.table()


# --- figures ------------------------------------------------------------------------------------------------------


def test_intervals_contain_their_figures(report):
    bounds = report.intervals()
    for name in ("worst", "mean", "best", "nominal"):
        assert bounds[name].low < getattr(report, name) <= bounds[name].high
    assert bounds["cvar"].low <= report.cvar(0.1) <= bounds["cvar"].high
    assert (bounds["cells"].low <= report.cell_means).all()
    assert (report.cell_means <= bounds["cells"].high).all()


def test_the_table_says_what_the_figures_rest_on(report):
    text = report.table()
    for part in (
        "lazy on CartPole-v1",
        f"{report.worst:.6g}",
        "6 episodes",
        str(report.seeds[0]),
        "minimum of 9 noisy means",
    ):
        assert part in text
    assert "[" not in made([[1.0], [2.0]]).table().split("\n\n")[1], "one episode has no interval"


def test_json_round_trip_is_exact(report):
    again = StressReport.from_json(report.to_json())
    assert again.to_json() == report.to_json()
    np.testing.assert_array_equal(again.returns, report.returns)
    assert (again.axes, again.seeds, again.worst_cell) == (report.axes, report.seeds, report.worst_cell)
    assert json.loads(report.to_json())["env"] == "CartPole-v1"


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_every_grid_has_a_picture(dimensions, tmp_path):
    coordinates = np.array(np.meshgrid(*[[0, 1, 2]] * dimensions)).reshape(dimensions, -1).T
    one = made(np.random.default_rng(0).normal(size=(3**dimensions, 4)), coordinates)
    path = tmp_path / "stress.png"
    figure = one.plot(path)
    assert isinstance(figure, Figure)
    assert path.stat().st_size > 5000
    labels = [
        text.get_text() for legend in (*figure.legends, figure.axes[0].get_legend()) if legend for text in legend.texts
    ]
    assert f"worst: {number(one.worst)}" in labels


def test_the_heat_map_puts_cells_where_they_belong():
    coordinates = [[x, y] for y in (0, 1, 2) for x in (5, 7)]  # another order than the grid's
    one = made([[10 * x + y] for x, y in coordinates], coordinates)
    mesh = one.plot().axes[0].collections[0].get_array()
    np.testing.assert_array_equal(mesh, [[50, 70], [51, 71], [52, 72]])


BAD = {
    "no episodes": (lambda: stress(lean, "CartPole-v1", "observation-noise:1", episodes=0), "episodes"),
    "rrls on CartPole": (lambda: stress(lean, "CartPole-v1"), "Hopper-v5"),
    "unknown": (lambda: stress(lean, "CartPole-v1", "observation-nois:1"), "observation-noise"),
    "misfit": (lambda: stress(lean, "CartPole-v1", "force:1"), "MuJoCo"),
    "misspelled parameter": (lambda: stress(lean, "CartPole-v1", "param:lenght=1..2"), "length"),
    "no policy": (lambda: stress(3, "CartPole-v1", "observation-noise:1"), "predict"),
    "points": (lambda: stress(lean, "CartPole-v1", "observation-noise:1", points=1), "points"),
    "grid": (lambda: stress(lean, "CartPole-v1", "observation-noise:1", grid="open"), "rrls"),
    "seed": (lambda: stress(lean, "CartPole-v1", "observation-noise:1", seed=-1), "seed"),
    "workers": (lambda: stress(lean, "CartPole-v1", "observation-noise:1", workers=0), "workers"),
    "a lambda in workers": (lambda: stress(lambda o: o, "CartPole-v1", "observation-noise:1", workers=2), "pickled"),
    "shape": (lambda: stress(lambda o: o @ np.zeros((9, 1)), "CartPole-v1", "observation-noise:1"), r"\(16, 4\)"),
    "reward": (lambda: stress(lean, "CartPole-v1", "reward-noise:1"), "rewards"),
    "references": (lambda: made([[1.0]]).normalised(2, 2), "reference"),
    "one episode": (lambda: made([[1.0]]).intervals(), "2 episodes"),
    "percent": (lambda: made([[1.0, 2.0]]).intervals(level=95), "level=95 is not allowed"),
    "tail": (lambda: made([[1.0, 2.0]]).intervals(tail=0), "level"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused(case):
    call, match = BAD[case]
    with pytest.raises(UsageError, match=match):
        call()


def test_a_box_is_a_perturbation_too():
    box = Parameters.of({"length": (0.5, 1.0)})
    assert stress(lazy, "CartPole-v1", box, episodes=1, points=2).perturbation == "param:length=0.5..1"
