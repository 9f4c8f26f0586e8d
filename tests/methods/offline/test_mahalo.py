"""MAHALO: the card's numbers, which losses move which network, its scenarios, and stages that survive a stop."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from micro_data import made, walk_data
from network_laws import numbers

import surefoot as sf
from surefoot.errors import UsageError
from surefoot.loops.common.run import Run, make_learner
from surefoot.loops.networks.nets import Function, Net, Weights
from surefoot.methods.offline.mahalo import MAHALO
from surefoot.methods.offline.mahalo.game import shrunk, weighed
from surefoot.methods.offline.mahalo.rewards import SCENARIOS, acted_data, bounds, labelled, without_terminals
from surefoot.methods.offline.mahalo.tabular import pessimistic_mdp
from surefoot.solvers.solve import solve

SIZES = {"batch_size": 16, "log_every": 20, "hidden": (16,), "warm_start": 10, "slow_rate": 1e-3, "rewarded_share": 0.5}


# --- numbers by hand -------------------------------------------------------------------------------------------------


def test_the_chain():
    seen = np.array([[0, 0, 1], [1, 0, 2], [2, 0, 2]])
    found = solve(pessimistic_mdp(seen, [(0, 1, 1.0)], states=3, actions=1, gamma=0.9))
    np.testing.assert_allclose(found.value, [1, 0, 0, 0], atol=1e-6)


def test_what_was_never_seen_is_worth_the_lowest_value_and_frequencies_and_labels_are_averaged():
    """Against a minimum over rewards and critics that is found by a linear program of all that agree with the data."""
    from scipy.optimize import linprog

    rng = np.random.default_rng(0)
    states, actions, gamma, low = 4, 2, 0.8, -5.0
    pairs = [(s, a) for s in range(states) for a in range(actions) if (s, a) != (2, 1)]
    seen = np.array([(s, a, t) for s, a in pairs for t in rng.integers(0, states, 3)])
    labels = [(int(s), int(t), float(rng.normal())) for s, _, t in seen[::4]] + [
        (int(seen[0][0]), int(seen[0][2]), 2.0)
    ]
    mdp = pessimistic_mdp(
        seen, labels, states=states, actions=actions, gamma=gamma, lowest_reward=-0.5, lowest_value=low
    )
    best = -np.inf * np.ones(states)
    size = states * actions
    for number in range(actions**states):
        policy = [(number // actions**s) % actions for s in range(states)]
        # Variables f(s, a) and g(s, t); f obeys the mean Bellman equation of g on what was seen.
        rows, right = [], []
        for s, a in pairs:
            row = np.zeros(size + states**2)
            row[s * actions + a] += 1
            next_states = seen[(seen[:, 0] == s) & (seen[:, 1] == a), 2]
            for t in next_states:
                row[size + s * states + t] -= 1 / len(next_states)
                row[t * actions + policy[t]] -= gamma / len(next_states)
            rows.append(row)
            right.append(0.0)
        limits = [(low, None)] * size + [(-0.5, None)] * states**2
        for s in range(states):
            for t in range(states):
                known = [r for i, j, r in labels if (i, j) == (s, t)]
                if known:
                    limits[size + s * states + t] = (np.mean(known),) * 2
        cost = np.zeros(size + states**2)
        cost[[s * actions + policy[s] for s in range(states)]] = 1
        found = linprog(cost, A_eq=np.array(rows), b_eq=right, bounds=limits)
        assert found.status == 0
        best = np.maximum(best, found.x[[s * actions + policy[s] for s in range(states)]])
    np.testing.assert_allclose(solve(mdp).value[:-1], best, atol=1e-4)


def test_the_weighed_sum_keeps_the_larger_coefficient_at_one():
    two, three = torch.tensor(2.0), torch.tensor(3.0)
    found = [float(weighed(two, three, weight)) for weight in (10.0, 0.5, 1.0)]
    assert found == pytest.approx([3.2, 3.5, 5.0])
    x = torch.tensor([1.0, -2.0], requires_grad=True)
    for weight in (0.3, 1.0, 7.0):
        one, two = x.pow(2).sum(), x.sin().sum()
        slopes = [
            torch.autograd.grad(y, x, retain_graph=True)[0] for y in (weighed(one, two, weight), one + weight * two)
        ]
        torch.testing.assert_close(slopes[0] * max(weight, 1), slopes[1])


def test_large_matrices_are_shrunk_and_biases_stay():
    function = Function(Net(lambda: torch.nn.Linear(3, 3), copies=2))
    parts = [torch.randn(9), torch.full((3,), 500.0), torch.randn(9), torch.full((3,), 400.0)]
    parts[0] *= 250 / parts[0].norm()
    parts[2] *= 50 / parts[2].norm()
    found = shrunk(function, torch.cat(parts), 100.0).split((9, 3, 9, 3))
    assert found[0].norm().item() == pytest.approx(100, rel=1e-5)
    torch.testing.assert_close(found[0] / 100, parts[0] / 250)
    for i in (1, 2, 3):
        torch.testing.assert_close(found[i], parts[i])


# --- losses ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def game():
    """A learner in its game, a batch of its only seed, and its weights; the policy's noise is there by name."""
    run = make_learner(MAHALO(**SIZES), "", [0], 1000, data=walk_data())
    for _ in range(2):
        run.iterate()
    run.draw()
    batch = run.batch()
    batch |= run.method.beforehand(run)(batch, ())
    take = {k: {n: y[0] for n, y in x.items()} if isinstance(x, dict) else x[0] for k, x in batch.items()}
    return run, take


def seen(run, **changed):
    now = {name: x[0] for name, x in run.weights.items()} | changed
    return Weights(run.functions, now, {name: x[0] for name, x in run.targets.items()}, now)


def slope(run, loss, name):
    """The gradient of a loss of the weights in one network."""
    vector = run.weights[name][0].clone().requires_grad_()
    value = loss(seen(run, **{name: vector}))
    found = torch.autograd.grad(value, vector, allow_unused=True)[0] if value.requires_grad else None
    return torch.zeros(1) if found is None else found


def test_every_loss_moves_its_own_network_only(game):
    run, batch = game
    method = run.method

    def error(kind):
        return lambda w: getattr(method, kind)(w, batch)[0]

    assert slope(run, error("critic_loss"), "critic").abs().sum() > 0
    assert slope(run, error("reward_loss"), "reward").abs().sum() > 0
    assert slope(run, error("critic_loss"), "reward").abs().sum() == 0
    assert slope(run, error("reward_loss"), "critic").abs().sum() == 0
    assert slope(run, lambda w: method.lowered(w, batch), "actor").abs().sum() == 0
    assert slope(run, lambda w: method.lowered(w, batch), "critic").abs().sum() > 0


def test_pessimism_is_zero_for_the_behaviour_and_knows_no_constant(game):
    run, batch = game
    method, w = run.method, seen(run)
    acted = torch.tanh(w.module("actor").distribution.sample(w("actor", batch["observation"]), batch["noise"]["now"]))
    assert method.lowered(w, {**batch, "action": acted}) == 0
    moved = run.weights["critic"][0].clone().view(2, -1)
    moved[:, -1] += 7  # the last bias
    shifted = seen(run, critic=moved.view(-1))
    torch.testing.assert_close(method.lowered(shifted, batch), method.lowered(w, batch), atol=1e-4, rtol=1e-4)
    absolute = dataclasses.replace(method, pessimism="absolute")
    assert float(absolute.lowered(shifted, batch) - absolute.lowered(w, batch)) == pytest.approx(14, abs=1e-3)

    def actor(critic):
        return lambda one: method.actor_loss(Weights(one.functions, {**one.now, "critic": critic}, {}, w.now), batch)[0]

    plain, other = (slope(run, actor(x), "actor") for x in (run.weights["critic"][0], moved.view(-1)))
    torch.testing.assert_close(plain, other, atol=1e-5, rtol=1e-4)


def by_hand(run, batch):
    """The pieces of a Bellman error: values, own next values, the lowest target, and g."""
    w = seen(run)
    act = torch.tanh(
        w.module("actor").distribution.sample(w("actor", batch["next_observation"]), batch["noise"]["next"])
    )
    low, high, least, most = batch["limits"]
    values, own = w("critic", batch["observation"], batch["action"]), w("critic", batch["next_observation"], act)
    target = w.target("critic", batch["next_observation"], act).min(0).values
    reward = w("reward", batch["observation"], batch["next_observation"], batch["terminated"])
    return values, own.clamp(least, most), target.clamp(least, most), reward, reward.clamp(low, high)


def test_bellman_errors_are_half_with_targets_and_half_residual_and_only_the_critics_see_a_clipped_reward(game):
    run, batch = game
    batch = {**batch, "limits": torch.tensor([0.0, 0.1, -3.0, 3.0])}  # rewards of the walk are negative
    values, own, target, reward, clipped = by_hand(run, batch)
    assert (reward != clipped).any()

    def error(r, share):
        parts = [(values - r - batch["discount"] * x) ** 2 for x in (target, own)]
        return ((1 - share) * parts[0] + share * parts[1]).mean(1).sum()

    heavy = dataclasses.replace(run.method, bellman_weight=1e6)  # nearly a plain actor-critic
    torch.testing.assert_close(heavy.critic_loss(seen(run), batch)[0], error(clipped, 0.5), atol=1e-4, rtol=1e-4)
    plain = dataclasses.replace(heavy, residual_share=0.0)
    torch.testing.assert_close(plain.critic_loss(seen(run), batch)[0], error(clipped, 0.0), atol=1e-4, rtol=1e-4)
    light = dataclasses.replace(run.method, reward_weight=1e-6)
    torch.testing.assert_close(light.reward_loss(seen(run), batch)[0], error(reward, 0.5), atol=1e-4, rtol=1e-4)
    assert slope(run, lambda w: light.reward_loss(w, batch)[0], "reward").abs().sum() > 0  # though all of it is clipped
    assert (clipped == 0).float().mean() > 0.5


def test_with_all_the_weight_on_labels_the_reward_is_a_regression_and_the_rest_is_atac(game):
    run, batch = game
    method = dataclasses.replace(run.method, reward_weight=1e30)
    both = [slope(run, lambda w, f=f: f(w, batch)[0], "reward") for f in (method.reward_loss, method.regression)]
    torch.testing.assert_close(*both)
    plain = seen(run)
    w, values = run.method, by_hand(run, batch)[0]
    state = batch["observation"]
    acted = torch.tanh(plain.module("actor").distribution.sample(plain("actor", state), batch["noise"]["now"]))
    lowered = (plain("critic", state, acted) - values).mean(1).sum()
    error = run.method.evaluation(plain, batch)[0]
    torch.testing.assert_close(w.critic_loss(plain, batch)[0], lowered / 10 + error)


def test_the_actor_climbs_the_first_critic_and_is_paid_for_its_entropy(game):
    run, batch = game
    w = seen(run)
    action, log_prob = run.method.act(w, batch["observation"], batch["noise"]["now"])
    value, alpha = w("critic", batch["observation"], action)[0].mean(), w("temperature").exp()
    wanted = (alpha * log_prob.mean() - value) / max(1.0, float(alpha))
    torch.testing.assert_close(run.method.actor_loss(w, batch)[0], wanted)


# --- data ------------------------------------------------------------------------------------------------------------


def test_terminations_are_dropped_and_leave_a_cut():
    data = made((4, 1, 3))  # the first and the last end, the second is cut
    left = without_terminals(data)
    assert len(left) == 3 + 1 + 2 and not left.terminated.any()
    assert left.truncated.tolist() == [False, False, True, True, False, True]
    np.testing.assert_array_equal(left.observation, data.observation[[0, 1, 2, 4, 5, 6]])
    with pytest.raises(UsageError, match="every episode is one step that terminates"):
        without_terminals(made((1,)))


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scenarios_say_whose_rewards_and_actions_are_used(scenario):
    data, expert = walk_data(10), walk_data(4, seed=1)
    second = None if scenario == "rl-sample" else expert
    other, imitation, acted = SCENARIOS[scenario]
    assert len(acted_data(data, second, scenario)) == len(data) + acted * len(expert)
    rows = labelled(data, second, scenario, 0.25, seed=3)
    assert len(rows) == (len(expert) if other else 30)
    assert (rows.reward == 1).all() == imitation
    low, high, least, most = bounds(rows, scenario, 0.9)
    assert (low, high) == ((0, 1) if imitation else (rows.reward.min(), rows.reward.max()))
    assert (least, most) == pytest.approx((min(-10, 20 * low), max(10, 20 * high)))


def test_what_does_not_fit_is_refused_before_any_work(tmp_path):
    data, settings = walk_data(), {"steps": 40, "loggers": (), "run_dir": tmp_path / "run"}
    cases = [
        (MAHALO(**SIZES, scenario="ilfo"), {}, "reward_data is missing: in scenario='ilfo'"),
        (MAHALO(**SIZES), {"reward_data": data}, "reward_data has no effect in scenario='rl-sample'"),
        (MAHALO(**SIZES, scenario="rlfo"), {"reward_data": made()}, "has observations of the shape"),
        (MAHALO(**{**SIZES, "warm_start": 20}), {}, "steps=40 is not allowed with warm_start=20"),
        ("bc", {"reward_data": data}, "reward_data has no effect on this method"),
    ]
    for method, more, said in cases:
        with pytest.raises(UsageError, match=said):
            sf.train(method, data=data, **more, **settings)
        assert not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match="gamma=1.0 is not allowed"):
        MAHALO(gamma=1.0)


# --- stages ----------------------------------------------------------------------------------------------------------


def test_stages_move_what_they_should():
    run = make_learner(MAHALO(**{**SIZES, "warm_start": 5, "log_every": 5}), "", [0, 1], 100, data=walk_data())
    moved = []
    for _ in range(3):
        before = {name: x.clone() for name, x in run.weights.items()}
        run.iterate()
        moved.append({name for name, x in run.weights.items() if not torch.equal(x, before[name])})
    assert moved == [
        {"reward"},
        {"reward", "critic", "actor", "temperature"},
        {"reward", "critic", "actor", "temperature"},
    ]
    assert set(run.weights) == {"reward", "critic", "actor", "temperature"} and set(run.targets) == {"critic"}


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_stop_in_every_stage_changes_no_bit(at, tmp_path):
    method = MAHALO(**{**SIZES, "warm_start": 7, "log_every": 5, "scenario": "ilfo"})
    sf.write_dataset(walk_data(), place := tmp_path / "walk.npz")
    sf.write_dataset(walk_data(3, seed=5), expert := tmp_path / "expert.npz")
    settings = {"data": place, "reward_data": expert, "steps": 20, "loggers": (), "num_seeds": 2}
    sf.train(method, run_dir=tmp_path / "whole", **settings)
    sf.train(method, run_dir=tmp_path / "cut", callbacks=[lambda one, _: one.iteration == at], **settings)
    if at == 1:
        sf.write_dataset(walk_data(3, seed=6), expert)
        with pytest.raises(UsageError, match="reward_data=.*have changed since this run was started"):
            sf.resume(tmp_path / "cut")
        sf.write_dataset(walk_data(3, seed=5), moved := tmp_path / "moved.npz")
        sf.resume(tmp_path / "cut", reward_data=str(moved))
    else:
        sf.resume(tmp_path / "cut")
    whole, cut = (Run(tmp_path / name) for name in ("whole", "cut"))
    assert numbers([whole.metrics()]) == numbers([cut.metrics()])
    assert torch.equal(whole.agent(1).vector, cut.agent(1).vector)


def test_rewards_without_labels_follow_critics_down(game):
    """With critics that pessimism has lowered everywhere, a step of g lowers it, unless labels have all the weight."""
    run, batch = game
    lower = run.weights["critic"][0].clone().view(2, -1)
    lower[:, -1] -= 5
    run.weights, kept = {**run.weights, "critic": lower.view(1, -1)}, run.weights
    batch = {**batch, "limits": torch.tensor([-1.0, 1.0, 0.0, 0.0])}  # no next values: g is to be Q(s, a)
    method = run.method
    loose, tight = (dataclasses.replace(method, reward_weight=x) for x in (1e-3, 1e30))
    pulled, held, fitted = (
        slope(run, lambda w, f=f: f(w, batch)[0], "reward")[-1]  # of the last bias
        for f in (loose.reward_loss, tight.reward_loss, method.regression)
    )
    run.weights = kept
    assert pulled > 10 and held == pytest.approx(float(fitted), rel=1e-4)
