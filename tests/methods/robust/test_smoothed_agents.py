"""S-PPO and S-DQN: the card's exact checks of training, the limits, the frozen network, resumption, agents in files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces

import surefoot as sf
from surefoot.errors import UsageError
from surefoot.loops.common.run import make_learner
from surefoot.methods.control.dqn import DQN
from surefoot.methods.control.ppo import PPO
from surefoot.methods.robust.smoothed_agents import START, SmoothedPPO
from surefoot.methods.robust.smoothed_agents.denoised import SmoothedDQN
from surefoot.methods.robust.smoothed_agents.median import MedianActorCritic, noise_of
from surefoot.models.agent import Network
from surefoot.models.denoiser import Denoiser, DenoiserNetwork
from surefoot.models.distributions import Categorical, Gaussian
from surefoot.models.smoothing import Smoothing, draw, median, noisy_copies, votes
from surefoot.seeding import torch_stream

BOX = spaces.Box(-1, 1, (3,))
WORLD = "surefoot/ContextualAction-v0"
PPO_SIZES = {"num_envs": 2, "num_steps": 16, "minibatch_size": 16, "epochs": 2, "hidden": (8,)}
DQN_SIZES = {"batch_size": 16, "learning_starts": 20, "log_every": 40, "train_every": 2, "hidden": (16,)}
DENOISED = {**DQN_SIZES, "denoiser_hidden": (8,), "base_updates": 20, "buffer_size": 200}


def learner(method, env="CartPole-v1", seeds=(0,)):
    return make_learner(method, env, list(seeds), 10_000)


# --- medians and votes -----------------------------------------------------------------------------------------------


def test_medians_and_votes_by_hand():
    answers = torch.tensor([[[1.0, 5.0]], [[3.0, 4.0]], [[2.0, 0.0]], [[9.0, 1.0]]], requires_grad=True)
    found = median(answers)
    assert found.tolist() == [[2.0, 1.0]]  # the lower of the two in the middle, in each coordinate by itself
    (slope,) = torch.autograd.grad(found.sum(), answers)
    assert slope[2, 0].tolist() == [1.0, 0.0] and slope[3, 0].tolist() == [0.0, 1.0] and slope.sum() == 2
    assert votes(answers, Categorical((2,))).tolist() == [[0.5, 0.5]]
    rule = Smoothing("vote", 0.1, 4)
    assert torch.equal(rule(answers, Categorical((2,))), votes(answers, Categorical((2,))))


def test_every_sample_has_its_own_noise_of_its_deviation():
    drawn = draw(BOX, (500, 40), 0.3, torch_stream(0, "noise"))[""]
    assert drawn.shape == (500, 40, 3) and float(drawn.std()) == pytest.approx(0.3, rel=0.02)
    assert float((drawn[:, 0] * drawn[:, 1]).mean().abs()) < 0.01
    image = spaces.Box(0, 255, (4, 9, 9), np.uint8)
    assert float(draw(image, (50,), 0.1)[""].std()) == pytest.approx(25.5, rel=0.05)
    both = noisy_copies({"a": torch.zeros(2, 3), "n": torch.arange(2)}, {"a": torch.ones(5, 2, 3)})
    assert both["a"].shape == (5, 2, 3) and both["n"].tolist() == [[0, 1]] * 5


@pytest.mark.parametrize("draws", [1, 5])
def test_without_noise_it_is_the_plain_policy(draws):
    """Exact check 5: σ → 0; and the critic never sees the noise."""
    network = Network(hidden=(8,))
    smooth = network.make(BOX, spaces.Box(-1, 1, (2,)), MedianActorCritic)
    plain = network.make(BOX, spaces.Box(-1, 1, (2,)))
    plain.load_state_dict(smooth.state_dict())
    x = torch.randn(4, 7, 3)
    for sigma, near in ((1e-7, True), (1.0, False)):
        seen = {"": x} | noise_of(BOX, (4, 7), draws, sigma, torch_stream(0, "noise"))
        params, values, _ = smooth(seen)
        assert torch.allclose(params, plain(x)[0], atol=1e-5) == near
        torch.testing.assert_close(values, plain(x)[1])


def test_the_median_of_a_linear_policy_is_the_policy():
    """Exact check 6, for the module that learns."""
    module = Network(hidden=()).make(BOX, spaces.Box(-1, 1, (1,)), MedianActorCritic)
    with torch.no_grad():
        module.actor.output.weight.normal_()
    x = torch.randn(1, 3)
    seen = {"": x} | noise_of(BOX, (1,), 20_001, 0.2, torch_stream(0, "noise"))
    with torch.no_grad():
        found = module(seen)[0][0, 0].item()
    scale = 0.2 * float(module.actor.output.weight.norm())
    assert found == pytest.approx(float(module.actor.output(x)), abs=4 * 1.2533 * scale / 20_001**0.5)


# --- S-PPO -----------------------------------------------------------------------------------------------------------


def test_old_log_probabilities_are_those_of_the_noise_it_acted_under_and_epochs_draw_anew():
    run = learner(SmoothedPPO(**PPO_SIZES, draws=3), "surefoot/ContinuousTarget-v0")
    rollout = run.collect(run.vector)
    scales = {key: tuple(part[0] for part in pair) for key, pair in run.scales().items()}
    batch = run.estimate(rollout)
    module = run.model
    x = (rollout.observation[:-1, 0] - scales[""][0]) * scales[""][1]
    noise = run._perception["noise of "][0, :-1]
    with torch.no_grad():
        params = module(run.vector[0], {"": x.clamp(-10, 10), "noise of ": noise})[0]
        wanted = module.distribution.log_prob(params, rollout.action[:, 0])
    torch.testing.assert_close(batch["old_log_prob"][0], wanted.flatten(), rtol=1e-4, atol=1e-5)
    epochs = [run.perceived(batch, k)["observation"]["noise of "] for k in (0, 1, 0)]
    assert torch.equal(epochs[0], epochs[2]) and not torch.equal(epochs[0], epochs[1])
    assert not torch.equal(epochs[0], batch["observation"]["noise of "])


def test_with_next_to_no_noise_it_learns_what_ppo_learns():
    ours = learner(SmoothedPPO(**PPO_SIZES, sigma=1e-9, draws=3), seeds=(1, 2))
    theirs = learner(PPO(**PPO_SIZES), seeds=(1, 2))
    for _ in range(2):
        ours.iterate()
        theirs.iterate()
    torch.testing.assert_close(ours.vector, theirs.vector, rtol=0, atol=1e-4)


def test_the_regulariser_is_the_distance_of_the_worst_change_of_a_linear_policy():
    """δ = radius·sign(w): KL = (radius·‖w‖₁)²/(2σ_π²), whatever the noise."""
    method = SmoothedPPO(**{**PPO_SIZES, "hidden": ()}, kappa=0.5, radius=0.1, draws=3)
    run = learner(method, "surefoot/ContinuousTarget-v0")
    g, space = torch_stream(0, "one"), run.observation_space
    vector = torch.randn(run.vector.shape[1], generator=g)
    seen = {"": torch.randn(5, 1, generator=g)} | method.perception(space, (5,), g)
    assert START.format("") in seen
    params = run.model.unflatten(vector)
    weight, log_std = params["actor.output.weight"], params["actor.log_std"]
    wanted = (0.1 * weight.abs().sum()) ** 2 / (2 * (2 * log_std).exp().item())
    torch.testing.assert_close(method.moved(run.model, vector, seen), wanted.expand(5), rtol=1e-3, atol=1e-6)


def test_its_agent_acts_by_medians_and_is_saved(tmp_path):
    run = learner(SmoothedPPO(**PPO_SIZES, sigma=0.4, draws=2, acting_draws=25), "surefoot/ContinuousTarget-v0")
    run.iterate()
    agent = run.agent()
    x = np.linspace(-1, 1, 6, dtype=np.float32)[:, None]
    again = sf.load(agent.save(tmp_path))
    assert again.rule == Smoothing("median", 0.4, 25) and again.noisy
    with pytest.raises(UsageError, match="by the median of 25 noisy copies"):
        sf.export(again, tmp_path / "policy.pt")
    torch.manual_seed(0)
    action = again.predict(x, deterministic=True)[0]
    torch.manual_seed(0)
    answers = agent.respond_noisy(torch.from_numpy(x), 25)[1]
    np.testing.assert_allclose(action, answers.sort(0).values[12, :, :1].detach().numpy().clip(-1, 1), rtol=1e-5)
    assert isinstance(agent.module.distribution, Gaussian) and agent.with_draws(1).rule.draws == 1
    text = (tmp_path / "agent.json").read_text()
    for damaged in ('"draws": 0', '"draws": "many"'):
        (tmp_path / "agent.json").write_text(text.replace('"draws": 25', damaged))
        with pytest.raises(UsageError, match="draws="):
            sf.load(tmp_path)


# --- S-DQN -----------------------------------------------------------------------------------------------------------


def test_a_fresh_denoiser_changes_nothing():
    """Exact check 5."""
    x, image = torch.randn(4, 5, 3), torch.randint(0, 255, (2, 6, 8, 4), dtype=torch.uint8)
    assert torch.equal(DenoiserNetwork((8,)).make(BOX, spaces.Discrete(2))(x), x)
    last = Denoiser(spaces.Box(0, 255, (6, 8, 4), np.uint8), (), "relu", 3)
    assert torch.equal(last(image), image.float())
    with torch.no_grad():
        last.network[-1].bias.fill_(0.1)
    torch.testing.assert_close(last(image), image.float() - 25.5)


def test_the_base_learns_as_dqn_does_and_is_frozen_afterwards():
    """Exact check 7: only ψ changes once it learns."""
    ours, theirs = (
        learner(SmoothedDQN(**DENOISED)),
        learner(DQN(**{k: DENOISED[k] for k in DQN_SIZES}, buffer_size=200)),
    )
    ours.iterate()
    theirs.iterate()  # the first 20 steps are random, then 10 updates
    torch.testing.assert_close(ours.weights["critic"], theirs.weights["critic"])
    assert ours.weights["sigma"].item() == 0 and (
        ours.functions["denoiser"].flat.unflatten(ours.weights["denoiser"][0])
    )
    ours.iterate()
    base, before = ours.weights["critic"].clone(), ours.weights["denoiser"].clone()
    assert ours.updates > 20 and ours.weights["sigma"].item() == pytest.approx(0.1)
    ours.iterate()
    assert torch.equal(ours.weights["critic"], base) and not torch.equal(ours.weights["denoiser"], before)


def test_the_loss_by_hand():
    method = SmoothedDQN(**DENOISED, sigma=0.5, reconstruction=0.3)
    run = learner(method)
    run.iterate()
    run.weights["denoiser"] += 0.1 * torch.randn(run.weights["denoiser"].shape, generator=torch_stream(0, "d"))
    batch, _ = run.batch()
    one = {k: {n: x[0] for n, x in v.items()} if isinstance(v, dict) else v[0] for k, v in batch.items()}
    critic, denoiser = (lambda x, n=n: run.functions[n](run.weights[n][0], x) for n in ("critic", "denoiser"))
    s, clean = one["observation"], denoiser(one["observation"] + 0.5 * one["noise"]["observation"])
    y = one["reward"] + one["discount"] * critic(one["next_observation"]).max(-1).values
    error = critic(clean).gather(1, one["action"][:, None])[:, 0] - y
    huber = torch.where(error.abs() <= 1, 0.5 * error**2, error.abs() - 0.5).mean()
    from surefoot.loops.networks.nets import Weights

    w = Weights(run.functions, {n: x[0] for n, x in run.weights.items()}, {}, {})
    loss, found = method.denoiser_loss(w, one)
    torch.testing.assert_close(loss, huber + 0.3 * ((clean - s) ** 2).sum())
    torch.testing.assert_close(found["td_errors"], error.detach())


def test_adversarial_batches_stay_within_their_radius():
    method = SmoothedDQN(**DENOISED, adversarial=0.5, radius=0.2)
    run = learner(method)
    run.iterate()
    batch, _ = run.batch()
    one = {k: {n: x[0] for n, x in v.items()} if isinstance(v, dict) else v[0] for k, v in batch.items()}
    from surefoot.loops.networks.nets import Weights

    w = Weights(run.functions, {n: x[0] for n, x in run.weights.items()}, {}, {})
    for drawn, moved in ((0.4, True), (0.6, False)):
        one["noise"]["attacked"] = torch.full_like(one["noise"]["attacked"], drawn)
        change = method.attacked(w, one) - one["observation"]
        assert float(change.abs().max()) <= 0.2 + 1e-6 and (float(change.abs().max()) > 0.1) == moved


def test_a_given_base_is_kept_as_it_is_and_another_is_refused(tmp_path):
    base = learner(DQN(**DQN_SIZES))
    base.iterate()
    folder = str(base.agent().save(tmp_path / "base"))
    run = learner(SmoothedDQN(**DENOISED, base=folder), seeds=(0, 1))
    assert torch.equal(run.weights["critic"][0], base.weights["critic"][0]) and run.weights["sigma"][0] > 0
    run.iterate()
    assert torch.equal(run.weights["critic"][1], base.weights["critic"][0])
    agent = run.agent(1)
    again = sf.load(agent.save(tmp_path / "new"))
    assert again.rule.by == "vote" and torch.equal(again.companions["denoiser"].vector, run.weights["denoiser"][1])
    x = torch.randn(5, 4)
    wanted = run.functions["critic"](
        base.weights["critic"][0], run.functions["denoiser"](run.weights["denoiser"][1], x)
    )
    torch.testing.assert_close(again.respond(x)[1], wanted)
    with pytest.raises(UsageError, match="it was trained for"):
        learner(SmoothedDQN(**DENOISED, base=folder), "Acrobot-v1")
    other = learner(PPO(**PPO_SIZES)).agent().save(tmp_path / "ppo")
    with pytest.raises(UsageError, match="is not allowed: a denoiser is learned for the Q-network"):
        learner(SmoothedDQN(**DENOISED, base=str(other)))


def test_observations_of_several_entries_are_refused():
    with pytest.raises(UsageError, match="a denoiser needs observations that are one Box"):
        learner(SmoothedDQN(**DENOISED), "surefoot/MaskedAction-v0")
