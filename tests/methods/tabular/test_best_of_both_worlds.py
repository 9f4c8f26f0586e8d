"""BoBW-PO: its estimates by enumeration, the bandits that it becomes, its rates, and that it learns."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq

import surefoot as sf
from surefoot.envs.tabular import TabularMDP
from surefoot.envs.tabular.adversarial import adversarial, layers
from surefoot.errors import UsageError
from surefoot.loops.tabular.episodes import Episodic, Visits, episodic
from surefoot.loops.tabular.learner import TabularLearner
from surefoot.methods.tabular.best_of_both_worlds import BestOfBothWorlds, Plan

KINDS = ["tsallis", "shannon", "log-barrier"]
every_kind = pytest.mark.parametrize("kind", KINDS)


def f64(x) -> torch.Tensor:
    return torch.as_tensor(x, dtype=torch.float64)


def run(method, mdp, episodes, seed=0):
    learner = TabularLearner(method, mdp, [seed])
    return learner, [learner.iterate()[0] for _ in range(episodes)]


# --- one state, one step: bandits ------------------------------------------------------------------------------------


def bandit(*means: float) -> TabularMDP:
    one = TabularMDP(torch.ones(1, len(means), 1), torch.zeros(1, len(means)), 1.0, horizon=1)
    return adversarial(one, -f64([[means]]), noise="bernoulli", bounds=(-1.0, 0.0))


def bandit_policy(kind: str, losses: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """The leader by a bracketing search of its multiplier."""
    if kind == "shannon":
        weights = np.exp(-(losses - losses.min()) / rate)
        return weights / weights.sum()
    power = 2 if kind == "tsallis" else 1
    scale = rate**power

    def total(t):
        return (scale / (losses - losses.min() + t) ** power).sum() - 1

    t = brentq(total, 1e-9, 10 * len(losses) * np.max(rate), xtol=1e-14)
    return scale / (losses - losses.min() + t) ** power


@every_kind
def test_one_state_and_step_is_the_bandit_of_that_regulariser(kind):
    method = BestOfBothWorlds(regularizer=kind, offset=0.5, growth=0.4, bonus=0.0)
    mdp, n = bandit(0.5, 0.2, 0.7), 3
    state = method.start(mdp, 0)
    losses, rate = np.zeros(n), np.full(n, 0.5 * math.sqrt(n))
    entropies = 0.0
    for t in range(60):
        if kind == "tsallis":
            rate = np.full(n, 0.5 * math.sqrt(n) + 0.4 * math.sqrt(t + 1))
        expected = bandit_policy(kind, losses, rate)
        np.testing.assert_allclose(method.policy(mdp, state)[0, 0].numpy(), expected, atol=1e-9)
        before = state["losses"]
        state, metrics = method.step(mdp, state, 3, t)
        estimate = (state["losses"] - before)[0, 0].numpy()
        played = np.flatnonzero(estimate)
        assert len(played) <= 1  # a loss of 0 leaves none
        assert all(estimate[a] * expected[a] == pytest.approx(1.0, rel=1e-8) for a in played)
        losses = losses + estimate
        if kind == "shannon":
            entropies += -(expected * np.log(expected)).sum() / math.log(n)
            rate = rate + 0.4 / math.sqrt(1 + entropies) / math.sqrt(t + 1)
        if kind == "log-barrier":
            spread = expected * (estimate - (expected * estimate).sum())
            rate = rate + 0.4 * spread**2 / rate / math.log(t + 3)
    assert metrics["virtual_episodes"] == 0


# --- estimates -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Doubled(BestOfBothWorlds):
    """Visits as if every state were come through twice as often."""

    def plan(self, mdp, state) -> Plan:
        plan = super().plan(mdp, state)
        return plan._replace(visits=Visits(2 * plan.visits.most, plan.visits.least))


@pytest.mark.parametrize(("method", "share"), [(BestOfBothWorlds, 1.0), (Doubled, 0.5)])
def test_the_mean_of_the_estimate_is_q_or_its_share_under_optimistic_visits(method, share, monkeypatch):
    draw = np.random.default_rng(4)
    mdp = TabularMDP(draw.dirichlet([1, 1], (2, 2, 2)), -draw.random((2, 2, 2)), 1.0, [0.3, 0.7], horizon=2)
    world, made = episodic(mdp), method(bonus=0.0)
    state = made.start(mdp, 0) | {"losses": f64(draw.normal(size=(2, 2, 2))), "rate": torch.full((2, 2), 50.0).double()}
    policy, losses = made.policy(mdp, state), world.losses(0)[0]
    mean = torch.zeros(2, 2, 2, dtype=torch.float64)
    for states, actions in itertools.product(itertools.product(range(2), repeat=2), repeat=2):
        chance = float(mdp.initial[states[0]] * mdp.rows[0, states[0], actions[0], states[1]])
        chance *= float(policy[0, states[0], actions[0]] * policy[1, states[1], actions[1]])
        felt = losses[torch.arange(2), list(states), list(actions)]
        met = torch.tensor([states]), torch.tensor([actions]), felt[None]
        monkeypatch.setattr(Episodic, "play", lambda *args, met=met: met)
        after, _ = made.step(mdp, state, 0, 0)
        mean += chance * (after["losses"] - state["losses"])
    last = losses[1]
    first = losses[0] + mdp.rows[0] @ (policy[1] * last).sum(-1)
    torch.testing.assert_close(mean, share * torch.stack([first, last]))


# --- rates, bonuses, virtual episodes --------------------------------------------------------------------------------


def test_the_bonus_of_tsallis_is_what_its_formula_says():
    mdp = layers(depth=1, states=2, actions=2)
    method = BestOfBothWorlds(offset=0.25, growth=0.25, bonus=0.2)
    state = method.start(mdp, 0)
    settled = method.settled(mdp, state, 0)
    assert float(settled[1]["virtual"]) == 0
    after, _ = method.step(mdp, state, 0, 0)
    rate = 0.25 * math.sqrt(2) + 0.25 * math.sqrt(2)  # a state is visited with probability ½
    torch.testing.assert_close(after["rate"], torch.full((1, 2), rate).double())
    paid = 0.2 * 0.25 * math.sqrt(2) * (2 * math.sqrt(0.5) * 0.5 + 2 / 1)
    unmet = (after["losses"][0] > -2 * paid).all(-1) & (after["losses"][0] < 0).all(-1)
    torch.testing.assert_close(after["losses"][0][unmet][0], torch.full((2,), -paid).double())


@pytest.mark.parametrize("kind", ["tsallis", "shannon"])
def test_no_rate_grows_by_more_than_its_share_and_virtual_episodes_are_few(kind):
    draw = np.random.default_rng(0)
    kernel = draw.dirichlet([0.02] * 4, (4, 4, 2))  # some states are hardly ever reached
    mdp = TabularMDP(kernel, draw.random((4, 4, 2)), 1.0, [1.0, 0, 0, 0], horizon=4)
    method = BestOfBothWorlds(regularizer=kind, offset=0.05, growth=1.0)
    state, grown = method.start(mdp, 0), []
    first = method.settled(mdp, state, 0)[1]
    raised = first["rate"] > state["rate"]
    assert bool(raised.any()) and bool((first["losses"][raised] < 0).all())  # and a bonus has paid for it
    for t in range(30):
        plan, settled = method.settled(mdp, state, t)
        before = settled["rate"]
        state, metrics = method.step(mdp, state, 0, t)
        grown.append(float((state["rate"] / before).max()))
    assert max(grown) < 1 + 1 / 4
    assert 0 < float(metrics["virtual_episodes"]) <= math.ceil(math.log(1e8 / 0.05) / math.log(1.25))


def test_unknown_kernels_are_paid_for_until_they_are_known():
    method = BestOfBothWorlds(transitions="unknown")
    mdp = layers()
    state = method.start(mdp, 0)
    for t in range(40):
        state, _ = method.step(mdp, state, 0, t)
    assert float(state["counts"].sum()) == 40 * 2  # the last step leads nowhere
    assert bool((state["epoch"].sum(-1) <= state["counts"].sum(-1)).all())
    assert bool((state["counts"].sum(-1) < 2 * state["epoch"].sum(-1).clamp(min=0.5)).all())
    plan = method.plan(mdp, state)
    true = BestOfBothWorlds().plan(mdp, {**state, "rate": plan.rate})
    assert bool((plan.visits.most[0] == true.visits.most[0]).all())
    sure, unsure = (
        dataclasses.replace(method, transitions=kind).advance(mdp, state, plan, state["rate"], 40)
        for kind in ("known", "unknown")
    )
    assert float(unsure.min()) >= 0 and float(unsure[0].max()) > float(sure[0].max())


# --- the whole -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "kernel"), [*((kind, "known") for kind in KINDS), ("tsallis", "unknown")])
def test_it_learns_the_better_action(kind, kernel):
    method = BestOfBothWorlds(regularizer=kind, transitions=kernel, offset=0.25, growth=0.25)
    episodes = 300 if kernel == "known" else 500
    learner, rows = run(method, layers(depth=2, states=2, gap=0.45, seed=1), episodes)
    policy = learner.method.policy(learner.mdp, learner.states[0])
    assert float(policy[..., 1].min()) > 0.6
    regret = np.diff([row["regret"] for row in rows], prepend=0)
    assert regret[-50:].mean() < 0.5 * regret[:50].mean()
    # what is reported is the gap times the other actions taken, added up
    assert rows[-1]["return_mean"] == pytest.approx(-2 * 0.05 - regret[-1], abs=1e-9)


def test_it_stays_within_the_legal_actions_and_any_rewards():
    legal = torch.tensor([[True, False, True], [True, True, True]])
    draw = np.random.default_rng(1)
    mdp = TabularMDP(draw.dirichlet([1, 1], (2, 3)), 50 + 100 * draw.random((2, 3)), 0.9, None, 3, legal=legal)
    for kind in KINDS:
        learner, rows = run(BestOfBothWorlds(regularizer=kind), mdp, 20)
        assert float(learner.agent().policy[:, 0, 1].max()) == 0
        assert all(50 * 2.71 <= row["return_mean"] <= 150 * 2.71 for row in rows)
        assert rows[-1]["regret"] > 0


@every_kind
def test_resumed_is_the_same_run_to_the_bit(kind):
    method, mdp = BestOfBothWorlds(regularizer=kind), layers()
    whole, rows = run(method, mdp, 12)
    cut, first = run(method, mdp, 5)
    other = TabularLearner(method, mdp, [0])
    other.load(cut.state(), 5, 0)
    assert rows == first + [other.iterate()[0] for _ in range(7)]
    assert all(torch.equal(x, other.state()[name]) for name, x in whole.state().items())
    assert run(method, mdp, 12, seed=1)[1] != rows


def test_what_it_cannot_learn_in_and_what_it_does_not_know():
    with pytest.raises(UsageError, match="horizon"):
        TabularLearner(BestOfBothWorlds(), TabularMDP(torch.ones(1, 1, 1), torch.zeros(1, 1)), [0])
    with pytest.raises(UsageError, match="regularizer"):
        BestOfBothWorlds(regularizer="entropy")


@every_kind
def test_explain_names_the_regulariser_and_the_rate(kind):
    text = "\n".join(BestOfBothWorlds(regularizer=kind, transitions="unknown").algorithm())
    assert {"tsallis": "√(Σ", "shannon": "h_k", "log-barrier": "log t"}[kind] in text and "Bernstein" in text


def test_from_outside(tmp_path):
    done = sf.train("best-of-both-worlds", env="river-swim:4,horizon=4", steps=5, seed=0, run_dir=tmp_path, loggers=())
    assert [row["step"] for row in done.metrics()] == [1, 2, 3, 4, 5]
    assert done.agent().policy.shape == (4, 4, 2)
