"""CDSA: the card's Gaussians and linear systems, its limits, and corrections of other agents."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from micro_data import made, walk_data
from torch import Tensor

import surefoot as sf
from surefoot.errors import UsageError
from surefoot.loops.common.run import make_learner
from surefoot.methods.control.ppo import PPO
from surefoot.methods.offline.baselines import IQL, TD3BC
from surefoot.methods.offline.cdsa import CDSA, corrected, scale_of
from surefoot.methods.offline.cfpi import CFPI
from surefoot.models.acting import Said, box_of
from surefoot.models.corrected import Corrected
from surefoot.models.scores import ScoreNetwork
from surefoot.objectives.scores import denoising, ladder, pulled

SIZES: dict[str, Any] = {"batch_size": 16, "log_every": 20, "hidden": (16,), "score_hidden": (16,)}
SEEN = walk_data().observation[:8]
BOX = box_of(walk_data().action_space)


def learner(method, data=None, iterations: int = 1):
    run = make_learner(method, "", [0], 1000, data=walk_data() if data is None else data)
    for _ in range(iterations):
        run.iterate()
    return run


@pytest.fixture(scope="module")
def corrector():
    return learner(CDSA(**SIZES)).agent()


# --- scores ----------------------------------------------------------------------------------------------------------

MEAN, VARIANCE, POINT = (torch.tensor(x, dtype=torch.float64) for x in ((0.5, 0.1), (0.04, 0.01), (0.8, -0.4)))


def of_gaussian(x: Tensor, sigma: float) -> Tensor:
    """The noise that is predicted best of Gaussian data, which is −σ times the score."""
    return sigma * (x - MEAN) / (VARIANCE + sigma**2)


def test_the_score_of_a_gaussian_by_hand():
    noise = of_gaussian(POINT, 0.1)
    torch.testing.assert_close(-noise / 0.1, torch.tensor([-6.0, 25.0]).double())
    torch.testing.assert_close(POINT + pulled(noise, 0.1), torch.tensor([0.74, -0.15]).double())
    posterior = MEAN + VARIANCE / (VARIANCE + 0.01) * (POINT - MEAN)
    torch.testing.assert_close(POINT + pulled(noise, 0.1), posterior)
    assert (pulled(of_gaussian(MEAN, 0.1), 0.1) == 0).all()  # at the peak


@pytest.mark.parametrize("sigma", [0.01, 0.1, 1.0])
def test_the_least_loss_of_a_gaussian_is_v_over_v_plus_sigma_squared(sigma):
    g = torch.Generator().manual_seed(0)
    e, z = (torch.randn(100_000, 2, generator=g, dtype=torch.float64) for _ in range(2))
    x = MEAN + VARIANCE.sqrt() * z + sigma * e
    loss, wanted = denoising(of_gaussian(x, sigma), e), (VARIANCE / (VARIANCE + sigma**2)).mean()
    assert loss.item() == pytest.approx(wanted.item(), rel=0.02)
    for other in (0.9, 1.1):
        assert denoising(other * of_gaussian(x, sigma), e) > loss


def test_denoising_finds_the_score():
    """A linear network, by least squares on noisy rows."""
    g = torch.Generator().manual_seed(0)
    e, z = (torch.randn(200_000, 2, generator=g, dtype=torch.float64) for _ in range(2))
    x = MEAN + VARIANCE.sqrt() * z + 0.1 * e
    rows = torch.cat([x, torch.ones(len(x), 1)], -1)
    solved = torch.linalg.lstsq(rows, e).solution
    score = -(torch.cat([POINT, torch.ones(1)]) @ solved) / 0.1
    torch.testing.assert_close(score, torch.tensor([-6.0, 25.0]).double(), rtol=0.05, atol=0.0)


def test_the_score_of_an_action_is_that_of_its_density_given_the_state():
    """p(a|s) = N(Ks, R): −(a − Ks)/R for a small level; a large one smooths Ks."""
    k, r, s, a = 0.7, 0.04, 0.5, 0.1
    cov = torch.tensor([[1.0, k], [k, k * k + r]], dtype=torch.float64)
    for sigma, near in ((0.01, True), (0.5, False)):
        score = -torch.linalg.solve(cov + sigma**2 * torch.eye(2), torch.tensor([s, a], dtype=torch.float64))[1]
        assert (abs(score.item() + (a - k * s) / r) < 0.2) == near


def test_levels_are_a_geometric_ladder():
    found = ladder(torch.arange(10) / 10 + 0.05, 1.0, 0.01, 10)
    np.testing.assert_allclose(found, np.geomspace(1.0, 0.01, 10), rtol=1e-5)
    assert ladder(torch.tensor(0.3), 0.5, 0.01, 1).item() == 0.5


def test_a_score_network_learns_a_score():
    box, space = gym.spaces.Box(-1, 1, (1,), np.float32), gym.spaces.Box(-1, 1, (1,), np.float32)
    net, g = ScoreNetwork("action", (32, 32)).make(box, space), torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    mean, deviation = torch.tensor([0.5, 0.1]), torch.tensor([0.2, 0.1])
    for _ in range(400):
        x, e = mean + deviation * torch.randn(256, 2, generator=g), torch.randn(256, 2, generator=g)
        sigma = ladder(torch.rand(256, generator=g), 1.0, 0.1, 4)
        loss = denoising(net(x + sigma[:, None] * e, sigma), e)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    x, sigma = torch.tensor([[0.8, 0.4]]), torch.tensor([0.215])
    with torch.no_grad():
        found = (x + pulled(net(x, sigma), 0.215))[0]
    wanted = mean + deviation**2 / (deviation**2 + 0.215**2) * (x[0] - mean)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.06)


# --- the correction, in a linear system whose models are exact -------------------------------------------------------

B = torch.tensor([[0.5, 0.2], [0.0, 0.4]])
UNITS = torch.tensor([0.3, 0.6])
STATES = torch.tensor([[0.2, -0.3], [0.5, 0.1]])


def linear(name: str, *inputs: Tensor) -> Tensor:
    """s' = s + Ba in units of the data; N(0.1, 0.5) states, N(0, 0.2) changes, and N(0, 1) actions."""
    if name == "units":
        return torch.cat([inputs[0], UNITS.expand_as(inputs[0])], -1)[None]
    if name == "forward":
        return (inputs[1] @ B.T / UNITS)[None]
    if name == "inverse":
        return ((UNITS * inputs[1]) @ torch.linalg.inv(B).T)[None]
    if name == "critic":
        return -(inputs[1] ** 2).sum(-1)[None]
    x, sigma = inputs[0], inputs[1].unsqueeze(-1)
    mean, variance = {"action score": (0.0, 1.0), "change score": (0.0, 0.2), "state score": (0.1, 0.5)}[name]
    return (sigma * (x - mean) / (variance + sigma**2))[None]


def moved(rule: Corrected, action: Tensor) -> Tensor:
    return rule(linear, STATES, Said(BOX, action, BOX, STATES))


ACTION = torch.tensor([[0.1, -0.2], [0.3, 0.05]])


def test_the_auxiliary_action_leads_where_it_is_denser():
    free = moved(Corrected(action_gain=0.0), ACTION)
    change = ACTION @ B.T / UNITS
    better = -0.4 * (0.4 * change / (0.2 + 0.16))  # σ²·Ψ, in units of changes
    torch.testing.assert_close(free, ACTION + (UNITS * better) @ torch.linalg.inv(B).T)
    restoring = moved(Corrected(action_gain=0.0, landing="state"), ACTION)
    after = STATES + ACTION @ B.T
    wanted = ACTION - 0.16 / (0.5 + 0.16) * (after - 0.1) @ torch.linalg.inv(B).T  # a proportional controller
    torch.testing.assert_close(restoring, wanted)


def test_without_gains_it_is_the_agent_s_own_action():
    assert torch.equal(moved(Corrected(action_gain=0.0, weight=0.0), ACTION), ACTION)
    torch.testing.assert_close(moved(Corrected(action_gain=0.0, state_gain=0.0), ACTION), ACTION)
    only = moved(Corrected(state_gain=0.0), ACTION)
    torch.testing.assert_close(only, ACTION * (1 - 0.16 / 1.16))
    torch.testing.assert_close(moved(Corrected(state_gain=0.0, repeats=3), ACTION), ACTION * (1 - 0.16 / 1.16) ** 3)
    assert moved(Corrected(action_gain=10.0, state_gain=10.0), torch.ones(2, 2)).abs().max() <= 1
    torch.testing.assert_close(moved(Corrected(), torch.zeros(2, 2)), torch.zeros(2, 2))  # at the peaks


def test_a_correction_that_the_critic_does_not_allow_is_not_made():
    """The critic likes small actions, to which the pull leads, and an overly large one overshoots."""
    near, far = {"weight": 0.0}, {"weight": 0.0, "action_gain": 10.0, "level": 1.0}
    for pull, allowed in ((near, True), (far, False)):
        free = moved(Corrected(**pull), ACTION)
        kept = moved(Corrected(**pull, allowance=0.0), ACTION)
        assert not torch.allclose(free, ACTION) and torch.equal(kept, free if allowed else ACTION)
    assert torch.equal(moved(Corrected(**far, allowance=10.0), ACTION), moved(Corrected(**far), ACTION))


# --- agents ----------------------------------------------------------------------------------------------------------


def test_the_losses_are_their_formulas():
    run = learner(CDSA(**SIZES))
    data = walk_data()
    mean, deviation, units = scale_of(data)
    change = (data.next_observation - data.observation) / deviation / units
    np.testing.assert_allclose(run.columns["change"].numpy(), change, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(run.columns["change"].numpy().std(0), 1, rtol=0.01)
    agent = run.agent()
    state, c = agent.ask("units", torch.from_numpy(SEEN))[0].chunk(2, -1)
    np.testing.assert_allclose(state.numpy(), (SEEN - mean) / deviation, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(c[0].numpy(), units, rtol=1e-5)
    assert torch.equal(agent.companions["action score"].vector, run.targets["action score"][0])  # averages act


BASES = {
    "td3-bc": lambda: learner(TD3BC(batch_size=16, log_every=20, hidden=(16,))),
    "iql": lambda: learner(IQL(batch_size=16, log_every=20, hidden=(16,), normalize_observations=False)),
    "cfpi": lambda: learner(CFPI(batch_size=16, log_every=20, hidden=(16, 16), cloning_steps=10)),
}


@pytest.mark.parametrize("base", BASES)
def test_any_agent_is_corrected_and_is_itself_without_gains(base, corrector, tmp_path):
    agent = BASES[base]().agent()
    own = agent.predict(SEEN, deterministic=True)[0]
    free = corrected(agent, corrector, action_gain=0.0, weight=0.0)
    np.testing.assert_array_equal(free.predict(SEEN, deterministic=True)[0], own)
    made_ = corrected(agent, corrector)
    again = sf.load(made_.save(tmp_path))
    action = again.predict(SEEN, deterministic=True)[0]
    np.testing.assert_array_equal(action, made_.predict(SEEN, deterministic=True)[0])
    assert not np.array_equal(action, own) and all(agent.action_space.contains(a) for a in action)
    assert again.knobs["weight"] == 1.0 and ("log_tau" in again.knobs) == (base == "cfpi")
    assert corrected(again, corrector).knobs == again.knobs  # corrected once
    careful = again.acting(allowance=0.0)
    x = torch.from_numpy(SEEN)
    gain = careful.judge(x, torch.from_numpy(careful.predict(SEEN, deterministic=True)[0])).min(0).values
    assert (gain >= agent.judge(x, torch.from_numpy(own)).min(0).values - 1e-5).all()


def test_the_same_action_gets_the_same_correction_from_any_agent(corrector):
    """By agents with normalisers of their own."""
    first = corrected(BASES["td3-bc"]().agent(), corrector)
    unit = torch.tensor([[0.1, -0.4]]).expand(8, -1)
    x = torch.from_numpy(SEEN)
    rule = first.acting_rules[-1]
    wanted = rule(first.ask, x, Said(BOX, unit, BOX, x))
    torch.testing.assert_close(rule(corrector.ask, 7 * x, Said(BOX, unit, BOX, x)), wanted)


def test_an_agent_with_a_memory_keeps_it(corrector):
    method = PPO(num_envs=2, num_steps=8, core="gru", core_size=4, hidden=(8,))
    env = "Pendulum-v1"
    run = make_learner(method, env, [0], 100)
    agent = run.agent()
    run.close()
    rng = np.random.default_rng(0)
    seen = rng.normal(size=(40, 3)).astype(np.float32)
    action = rng.uniform(-2, 2, (40, 1)).astype(np.float32)
    ends = np.arange(40) % 10 == 9
    data = sf.data.transitions.Transitions(
        seen, action, np.zeros(40), seen + 0.1, ends, ~ends, action_space=agent.action_space
    )
    own = corrected(agent, learner(CDSA(**SIZES), data).agent())
    state, plain = None, None
    for t in range(3):
        start = np.array([t == 0])
        a, state = own.predict(seen[:1], state, start, deterministic=True)
        b, plain = agent.predict(seen[:1], plain, start, deterministic=True)
        np.testing.assert_allclose(state, plain, rtol=1e-5)
        assert agent.action_space.contains(a[0]) and not np.array_equal(a, b)


def test_it_is_attacked_and_exported(corrector, tmp_path):
    agent = corrected(BASES["td3-bc"]().agent(), corrector)
    x = torch.from_numpy(SEEN).requires_grad_()
    assert torch.autograd.grad(agent.respond(x)[1].sum(), x)[0].abs().sum() > 0
    assert sf.export(agent, tmp_path / "policy.pt", states=40).differences.action < 1e-4


def test_bad_input_is_refused_and_explained(corrector):
    agent = BASES["td3-bc"]().agent()
    with pytest.raises(UsageError, match="must be an agent of cdsa"):
        corrected(agent, agent)
    other = learner(CDSA(**SIZES), made((5, 6))).agent()
    with pytest.raises(UsageError, match=r"is for observations of the shape \(3,\).*the agent has \(2,\)"):
        corrected(agent, other)
    with pytest.raises(UsageError, match=r"asks networks that the agent does not keep: \['state score'\]"):
        corrector.acting(landing="state")
    with pytest.raises(UsageError, match=r"asks networks that the agent does not keep: \['critic'\]"):
        corrector.acting(allowance=0.1)
    with pytest.raises(UsageError, match="level=2 is not allowed; it must be one that is trained"):
        CDSA(level=2.0)
    assert learner(CDSA(**SIZES, landing="state")).agent().knobs["landing"] == "state"
    images = made((3, 3))
    pictures = np.zeros((6, 36, 36, 3), np.uint8)
    data = type(images)(pictures, images.action, images.reward, pictures, images.terminated, images.truncated)
    with pytest.raises(UsageError, match="scores need states that are vectors"):
        learner(CDSA(**SIZES), data, 0)
