"""CFPI: its losses against formulas, its stages, what its rule chooses, and what it works on besides its own agents."""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from micro_data import target_data, walk_data

import surefoot as sf
from surefoot.data.transitions import Transitions
from surefoot.errors import UsageError
from surefoot.hyperparameters import presets
from surefoot.loops.common.run import make_learner
from surefoot.loops.networks.nets import Weights
from surefoot.methods.offline.baselines import IQL, TD3BC
from surefoot.methods.offline.cfpi import CFPI
from surefoot.methods.offline.sac_n import SACN
from surefoot.models.acting import Said, box_of
from surefoot.models.actors import ActorNetwork
from surefoot.models.improved import ClosedForm
from surefoot.models.mixtures import SquashedMixture, before_tanh
from surefoot.models.quantiles import QuantileNetwork, fractions
from surefoot.objectives.bootstrap import implicit_quantile_huber, quantile_huber
from surefoot.objectives.improvement import pessimistic

SIZES: dict[str, Any] = {"batch_size": 16, "log_every": 20, "hidden": (16, 16), "components": 2, "cloning_steps": 20}
BOX = box_of(walk_data().action_space)
SEEN = walk_data().observation[:8]


def learner(method: CFPI, data: Transitions | None = None, iterations: int = 2):
    run = make_learner(method, "", [0], 1000, data=walk_data() if data is None else data)
    for _ in range(iterations):
        run.iterate()
    return run


# --- the rule on given mixtures and critics --------------------------------------------------------------------------

TWO = SquashedMixture(2, (-1, -1), (1, 1), 2)


def params(weights, means, variances) -> torch.Tensor:
    """Parameters of a mixture, of one state."""
    parts = [torch.tensor(weights).log(), torch.tensor(means).flatten(), 0.5 * torch.tensor(variances).log().flatten()]
    return torch.cat(parts)[None]


GIVEN = params((0.7, 0.3), ((0.0, 0.0), (1.0, 0.5)), ((0.04, 0.09), (0.01, 0.04)))


def linear(name, observation, action):
    """Two critics that are linear before the tanh."""
    value = (before_tanh(action) * torch.tensor([1.0, 2.0])).sum(-1)
    return torch.stack([value, value])


def acted(rule: ClosedForm, given=GIVEN, critic=linear, distribution=TWO) -> torch.Tensor:
    count = len(given)
    said = Said(distribution, given, BOX, torch.zeros(count, 2))
    with torch.no_grad():
        return rule(critic, torch.zeros(count, 2), said)


def test_the_card_s_candidates_and_the_one_that_is_chosen():
    by = {name: before_tanh(acted(ClosedForm(by=name)))[0] for name in ("components", "jensen", "both")}
    torch.testing.assert_close(by["components"], torch.tensor([1.024254, 0.694029]), rtol=0, atol=1e-4)
    torch.testing.assert_close(by["both"], by["components"])
    torch.testing.assert_close(by["jensen"], torch.tensor([0.631579, 0.245455]), rtol=0, atol=1e-4)  # infeasible
    far = {name: before_tanh(acted(ClosedForm(by=name, log_tau=10.0)))[0] for name in ("components", "jensen", "both")}
    torch.testing.assert_close(far["jensen"], torch.tensor([0.743487, 0.941321]), rtol=0, atol=1e-4)
    value = {name: (u @ torch.tensor([1.0, 2.0])).item() for name, u in far.items()}
    assert value["both"] == pytest.approx(max(value["components"], value["jensen"]), rel=1e-4)


def test_components_of_little_weight_have_no_say_and_0_is_the_best_mean():
    assert torch.allclose(before_tanh(acted(ClosedForm(log_tau=0.0)))[0], torch.tensor([1.0, 0.5]), atol=1e-4)
    rare = params((0.97, 0.03), ((0.0, 0.0), (1.0, 0.5)), ((0.04, 0.09), (0.01, 0.04)))
    assert torch.allclose(acted(ClosedForm(log_tau=0.0), rare), torch.zeros(1, 2))
    assert torch.allclose(
        before_tanh(acted(ClosedForm(log_tau=0.0, trivial=0.02), rare))[0], torch.tensor([1.0, 0.5]), atol=1e-4
    )
    three = SquashedMixture(2, (-1, -1), (1, 1), 20)  # all weigh less than the threshold: the heaviest still counts
    even = params([0.05] * 20, [(0.1, 0.1)] * 20, [(0.04, 0.04)] * 20)
    assert torch.allclose(
        acted(ClosedForm(log_tau=0.0, trivial=0.06), even, distribution=three), torch.tensor(0.1).tanh()
    )


def test_the_true_critic_chooses_and_the_critics_disagreement_counts():
    def curved(name, observation, action):
        """Its slope at the first mean is up, but its step overshoots; where x > 0.7 the critics disagree."""
        x = before_tanh(action)[..., 0]
        value = 0.1 * x - 5 * (x - 0.05).abs()
        return torch.stack([value + 8.0 * (x > 0.7), value + 7.0 * (x > 0.7)])

    assert before_tanh(acted(ClosedForm(pessimism=0.0), critic=curved))[0, 0] > 0.7
    assert before_tanh(acted(ClosedForm(pessimism=20.0), critic=curved))[0, 0] < 0.7


def test_the_released_radius_is_larger_by_the_root_of_2():
    one = SquashedMixture(2, (-1, -1), (1, 1), 1)
    given = params((1.0,), ((0.2, -0.1),), ((0.04, 0.09),))
    u = before_tanh(acted(ClosedForm(), given, distribution=one))[0]
    torch.testing.assert_close(u, torch.tensor([0.263246, 0.184605]), rtol=0, atol=1e-5)
    rule = ClosedForm(by="components", **CFPI.presets["released-radius"])
    far = before_tanh(acted(rule, given, distribution=one))[0]
    torch.testing.assert_close(
        far - torch.tensor([0.2, -0.1]), math.sqrt(2) * (u - torch.tensor([0.2, -0.1])), rtol=1e-4, atol=1e-5
    )


def test_states_do_not_depend_on_one_another():
    many = torch.cat([GIVEN, params((0.5, 0.5), ((0.3, -0.2), (-0.4, 0.1)), ((0.2, 0.1), (0.05, 0.3)))])
    for rule in (ClosedForm(), ClosedForm(by="jensen", log_tau=3.0), ClosedForm(proposals=10, log_tau=2.0)):
        torch.testing.assert_close(acted(rule, many), torch.cat([acted(rule, x[None]) for x in many]))


def test_several_proposals_search_the_line():
    def bowl(name, observation, action):
        return -((before_tanh(action) - torch.tensor([0.1, 0.0])) ** 2).sum(-1)[None]

    one, given = SquashedMixture(2, (-1, -1), (1, 1), 1), params((1.0,), ((0.0, 0.0),), ((1.0, 1.0),))
    rule = ClosedForm(log_tau=2.0, proposals=10)
    assert rule.log_taus() == pytest.approx(np.linspace(0.2, 2.0, 10))
    far, near = (before_tanh(acted(r, given, bowl, one))[0] for r in (ClosedForm(log_tau=2.0), rule))
    assert far[0] == pytest.approx(2, abs=1e-3) and near[0] == pytest.approx(math.sqrt(0.4), abs=1e-3)


def test_by_samples_takes_the_best_of_what_is_drawn():
    torch.manual_seed(0)
    few, many = (acted(ClosedForm(by="samples", samples=n), GIVEN.expand(500, -1)) for n in (1, 10))
    value = [(before_tanh(x) @ torch.tensor([1.0, 2.0])).mean().item() for x in (few, many)]
    assert value[0] == pytest.approx(0.6, abs=0.15) and value[1] > 1.8


# --- mixtures and critics --------------------------------------------------------------------------------------------


def test_a_mixture_is_that_of_torch():
    d = torch.distributions
    mixture = TWO.mixture(GIVEN[0])
    base = d.MixtureSameFamily(
        d.Categorical(mixture.log_weights.exp()), d.Independent(d.Normal(mixture.means, mixture.variances.sqrt()), 1)
    )
    u = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    wanted = base.log_prob(u) - torch.log1p(-(u.tanh() ** 2)).sum(-1)
    torch.testing.assert_close(TWO.log_prob(GIVEN.expand(50, -1), u), wanted, rtol=1e-4, atol=1e-4)
    noise = TWO.noise((20_000,), torch.Generator().manual_seed(0))
    drawn = TWO.sample(GIVEN.expand(20_000, -1), noise)
    torch.testing.assert_close(drawn.mean(0), base.mean, rtol=0.03, atol=0.01)
    torch.testing.assert_close(drawn.var(0), base.variance, rtol=0.05, atol=0.01)
    assert torch.equal(TWO.mode(GIVEN)[0], torch.tensor([1.0, 0.5]))  # of the highest weighted peak
    estimate = -TWO.log_prob(GIVEN.expand(20_000, -1), drawn).mean()
    assert estimate - 0.02 <= TWO.entropy(GIVEN).item() <= estimate + math.log(2)
    assert torch.equal(TWO.kl(GIVEN, GIVEN), torch.zeros(1)) and TWO.kl(GIVEN, GIVEN + 0.1 * torch.arange(10)) > 0


def test_actions_at_the_ends_of_the_box_have_a_density():
    u = before_tanh(torch.tensor([[1.0, -1.0]]))
    assert torch.isfinite(u).all() and torch.isfinite(TWO.log_prob(GIVEN, u)).all()


def test_quantiles_by_hand():
    at, lengths = fractions(torch.tensor([0.1, 0.3, 0.2]))
    torch.testing.assert_close(lengths, torch.tensor([2.0, 4.0, 3.0]) / 9)
    torch.testing.assert_close(at, torch.tensor([1.0, 4.0, 7.5]) / 9)
    theta, z = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.5, 3.0]])
    loss = implicit_quantile_huber(theta, torch.tensor([[0.25, 0.75]]), z, torch.tensor([[0.4, 0.6]]))
    wanted = (0.4 * 0.25 * 0.125 + 0.6 * 0.25 * 2.5 + 0.4 * 0.25 * 0.125 + 0.6 * 0.75 * 1.5) / 2
    assert loss.item() == pytest.approx(wanted)
    middle, even = torch.tensor([[0.25, 0.75]]), torch.tensor([[0.5, 0.5]])
    both = implicit_quantile_huber(theta, middle, z, even), quantile_huber(theta, z) / 2
    torch.testing.assert_close(*both)


def test_a_critic_of_quantiles_learns_a_distribution():
    box = walk_data().observation_space
    net = QuantileNetwork((32, 32)).make(box, walk_data().action_space)
    g, optimiser = torch.Generator().manual_seed(0), torch.optim.Adam(net.parameters(), 3e-3)
    s, a = torch.zeros(64, 2), torch.zeros(64, 2)
    for _ in range(300):
        at, _ = fractions(torch.rand(64, 8, generator=g))
        z = torch.rand(64, 1, generator=g)
        loss = implicit_quantile_huber(net(s, a, at), at, z, torch.ones_like(z)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        found = net(s[:1], a[:1], torch.tensor([[0.1, 0.5, 0.9]]))[0]
        assert found.tolist() == pytest.approx([0.25, 0.5, 0.75], abs=0.05)  # of errors below 1 it finds expectiles
        assert net(s[:1], a[:1]).item() == pytest.approx(0.5, abs=0.05)


# --- the method ------------------------------------------------------------------------------------------------------


def test_the_losses_are_their_formulas():
    run = learner(CFPI(**SIZES))
    run.draw()
    batch = {k: {n: y[0] for n, y in x.items()} if isinstance(x, dict) else x[0] for k, x in run.batch().items()}
    now = {name: x[0] for name, x in run.weights.items()}
    w = Weights(run.functions, now, {name: x[0] for name, x in run.targets.items()}, now)
    method, s, a = run.method, batch["observation"], batch["action"]
    with torch.no_grad():
        own, given = w.module("actor").distribution, w("actor", s)
        assert method.actor_loss(w, batch)[0] == pytest.approx(-own.log_prob(given, before_tanh(a)).mean().item())
        at, _ = fractions(batch["noise"]["fractions"])
        then, shares = fractions(batch["noise"]["next fractions"])
        rows, data = batch["index"], run.data
        total = 0.0
        for k in range(2):
            later = w.target("critic", batch["next_observation"], batch["next_action"], then)[k]
            z = batch["reward"][:, None] + 0.99 * torch.from_numpy(~data.terminated)[rows][:, None] * later
            each = implicit_quantile_huber(w("critic", s, a, at)[k], at, z, shares)
            total += each[torch.from_numpy(~data.truncated)[rows]].mean()
        assert method.critic_loss(w, batch)[0] == pytest.approx(total.item(), rel=1e-5)
    inner = rows[torch.from_numpy(~data.ended)[rows]]
    np.testing.assert_array_equal(run.columns["next_action"][inner], data.action[inner + 1])


def test_it_clones_and_then_judges():
    run = learner(CFPI(**SIZES), iterations=0)
    first = {name: x.clone() for name, x in run.weights.items()}
    row = run.iterate()[0]
    cloned = run.weights["actor"].clone()
    assert "critic_loss" not in row and torch.equal(first["critic"], run.weights["critic"])
    row = run.iterate()[0]
    assert "actor_loss" not in row and torch.equal(cloned, run.weights["actor"])
    assert not torch.equal(first["critic"], run.weights["critic"])


def test_data_of_several_kinds_are_told_apart():
    """Two actions in every state, the rarer one better: one Gaussian lies between them, a mixture chooses."""
    rng = np.random.default_rng(0)
    good = rng.random(800) < 0.3
    action = (np.where(good, 0.6, -0.6) + 0.1 * rng.normal(size=800))[:, None].clip(-1, 1)
    x, ends = rng.uniform(-1, 1, (800, 1)), np.ones(800, bool)
    data = Transitions(x, action, -((action[:, 0] - 0.8) ** 2), x, ends, ~ends, action_space=target_data().action_space)
    sizes = {
        **SIZES,
        "batch_size": 64,
        "log_every": 100,
        "cloning_steps": 300,
        "cloning_rate": 5e-3,
        "learning_rate": 3e-3,
    }
    agent = learner(CFPI(**sizes), data, 6).agent()
    seen = x[:50].astype(np.float32)
    for log_tau in (0.0, 0.5):
        assert (np.abs(agent.acting(log_tau=log_tau).predict(seen, deterministic=True)[0] - 0.7) < 0.2).all()
    assert (agent.ruled().predict(seen, deterministic=True)[0] < 0).mean() > 0.9  # the clone alone


def test_knobs_turn_on_what_was_saved(tmp_path):
    run = sf.train(CFPI(**SIZES), data=walk_data(), steps=60, run_dir=tmp_path / "run", loggers=())
    agent = sf.load(run.path)
    near, far = (agent.acting(log_tau=t).predict(SEEN, deterministic=True)[0] for t in (0.0, 2.0))
    assert not np.array_equal(near, far) and agent.knobs["log_tau"] == 0.5
    again = sf.load(agent.acting(log_tau=2.0, proposals=3).save(tmp_path / "turned"))
    assert again.knobs["proposals"] == 3
    x = torch.from_numpy(SEEN).requires_grad_()
    assert torch.autograd.grad(agent.respond(x)[1].sum(), x)[0].abs().sum() > 0


@pytest.mark.slow  # the exporter takes seconds to start
def test_it_is_exported_with_its_gradient(tmp_path):
    agent = learner(CFPI(**SIZES)).agent()
    found = sf.export(agent, tmp_path / "policy.onnx", states=40)
    assert found.differences.action < 1e-4
    with pytest.raises(UsageError, match="cannot be exported as it acts: its rule ClosedForm draws"):
        sf.export(agent.acting(by="samples"), tmp_path / "policy.pt")


@pytest.mark.parametrize("method", [IQL, TD3BC, SACN])
def test_the_rule_improves_other_agents_by_their_own_critics(method):
    run = make_learner(method(batch_size=16, log_every=20, hidden=(16,)), "", [0], 1000, data=walk_data())
    run.iterate()
    agent = run.agent()
    x, own = torch.from_numpy(SEEN), agent.predict(SEEN, deterministic=True)[0]
    valued = partial(pessimistic, beta=1.0)
    for log_tau in (0.0, 1e-3):
        moved = agent.ruled(ClosedForm(log_tau=log_tau)).predict(SEEN, deterministic=True)[0]
        gain = valued(agent.judge(x, torch.from_numpy(moved))) - valued(agent.judge(x, torch.from_numpy(own)))
        assert (gain > 0).all() if log_tau else np.allclose(moved, own, atol=1e-5)


def test_bad_input_is_refused_and_explained():
    with pytest.raises(UsageError, match=r"steps=20 leaves none for the critics: the first 20 clone.*cloning_steps=10"):
        make_learner(CFPI(**SIZES), "", [0], 20, data=walk_data())
    data = target_data()
    cut = dataclasses.replace(data, terminated=~data.terminated, truncated=data.terminated)
    with pytest.raises(UsageError, match="target says nowhere what was done next"):
        learner(CFPI(**SIZES), cut)
    for name, value in (("log_tau", -1.0), ("by", "all"), ("components", 0), ("trivial", 1.0), ("cloning_steps", 0)):
        with pytest.raises(UsageError, match=f"CFPI: {name}="):
            CFPI(**{name: value})
    with pytest.raises(UsageError, match="asks networks that the agent does not keep"):
        make_learner(sf.methods.offline.baselines.BC(hidden=(8,)), "", [0], 9, data=walk_data()).agent().ruled(
            ClosedForm()
        )
    for changes in presets(CFPI).values():
        CFPI(**changes)
    text = CFPI(log_tau=2.0, proposals=10, components=1).objective()
    assert "log τ = 0.2 … 10 values … 2" in text and "1 component\n" in text
    assert ActorNetwork("mixture", components=3).distribution(walk_data().action_space).size == 15
