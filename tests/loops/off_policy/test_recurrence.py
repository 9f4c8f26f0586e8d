"""Off-policy networks that remember: what a sequence of the replay is, what is worked out from it, and that it is
learned what nobody can know without a memory."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

import surefoot as sf
from surefoot.data.replay import Replay
from surefoot.envs.micro import MemoryCue
from surefoot.errors import UsageError
from surefoot.loops.common.run import make_learner
from surefoot.methods.control.dqn import DQN
from surefoot.methods.control.sac import SAC
from surefoot.methods.control.sac_discrete import DiscreteSAC
from surefoot.methods.control.td3 import TD3
from surefoot.models.actors import ActorNetwork, CriticNetwork
from surefoot.models.recurrence import History, Recalled, histories, present

SMALL = {"hidden": (16,), "core_size": 16, "sequence_length": 6, "burn_in": 2, "log_every": 250}
BOX = gym.spaces.Box(-1.0, 1.0, (2,))


class ContinuousCue(MemoryCue):
    """The cue for an action in [−1, 1], which pays its product with the sign: 0 on average without a memory."""

    action_space = gym.spaces.Box(-1.0, 1.0, (1,))

    def step(self, action):
        observation, reward, *rest = super().step(1)
        return observation, reward * float(action[0]), *rest


# --- sequences of the replay -----------------------------------------------------------------------------------------


def filled(rows: int, steps: int, length: int, envs: int = 2) -> Replay:
    """A ring of episodes of `length` steps, of which odd ones are cut; the observation counts all steps, an environment
    that only resets itself takes one more."""
    replay = Replay(rows * envs, 1, envs)
    for t in range(steps):
        place = t % (length + 1)
        ended, odd = place == length - 1, (t // (length + 1)) % 2 == 1
        fields = {"reward": np.full(envs, t, np.float32), "action": np.arange(envs) + 10 * t}
        fields |= {"terminated": np.full(envs, ended and not odd), "truncated": np.full(envs, ended and odd)}
        seen = np.stack([np.full(1, t, np.float32) + 1000 * e for e in range(envs)])
        replay.add(seen, seen + 1, **fields, valid=np.full(envs, place != length))
    return replay


def test_a_sequence_by_hand():
    """Episodes of three steps: rows 3, 7, 11 … only reset, 4, 8, 12 … begin an episode, and row 6 is cut."""
    replay = filled(8, 13, 3)
    assert replay.head == 13 % 9 and replay.filled == 8  # rows 5 to 12 are there
    index = np.array([5 % 9, 6 % 9]), np.array([0, 1])
    found = replay.take_sequences(index, 0.9, burn_in=2, steps=4)
    seen = found["observation"].reshape(7, 2)
    assert seen[:, 0].tolist() == [5, 6, 7, 8, 9, 10, 11] and (seen[:, 1] - 1000).tolist() == [6, 7, 8, 9, 10, 11, 12]
    assert found["starts"][:, 0].tolist() == [
        True,
        False,
        False,
        True,
        False,
        False,
        False,
    ]  # 8; and 5, of which no one knows
    assert found["starts"][:, 1].tolist() == [True, False, True, False, False, False, True]  # 8 and 12
    assert found["reward"].reshape(4, 2)[:, 0].tolist() == [7, 8, 9, 10]
    assert found["weight"].reshape(4, 2)[:, 0].tolist() == [0, 1, 1, 1]  # 7 only resets
    assert found["weight"].reshape(4, 2)[:, 1].tolist() == [1, 1, 1, 0]
    np.testing.assert_allclose(found["discount"].reshape(4, 2)[:, 1], [0.9, 0.9, 0, 0.9])  # 10 is terminal
    assert found["action"].reshape(4, 2)[:, 1].tolist() == [81, 91, 101, 111]
    cut = replay.take_sequences((np.array([6]), np.array([0])), 0.9, burn_in=0, steps=1)
    np.testing.assert_allclose(cut["discount"], [0.9])  # a truncated episode bootstraps


@pytest.mark.parametrize("newest", [None, 12])
def test_sequences_are_drawn_uniformly_from_whole_ones(newest):
    replay = filled(8, 13, 3)
    rows, envs = replay.sample_sequences(0, 4000, 4, np.random.default_rng(0), newest)
    wanted = {5, 6, 7, 8, 9} if newest is None else {7, 8, 9}
    assert set(rows.tolist()) == {r % 9 for r in wanted} and set(envs.tolist()) == {0, 1}
    counts = np.bincount(rows * 2 + envs)
    assert counts[counts > 0].min() > 0.8 * 4000 / (2 * len(wanted))


# --- what is remembered ----------------------------------------------------------------------------------------------


def actor(core: str, kind: str = "gaussian"):
    torch.manual_seed(1)
    return ActorNetwork(kind, (8,), core=core, core_size=5).make(BOX, BOX).double()


def sequence(steps: int = 9, count: int = 4, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    starts = torch.rand(steps, count, generator=generator) < 0.3
    return torch.randn(steps, count, 2, generator=generator, dtype=torch.float64), starts


@pytest.mark.parametrize("core", ["gru", "lstm"])
def test_a_history_is_what_step_by_step_acting_remembers(core):
    module, (seen, starts) = actor(core), sequence()
    state, each = torch.zeros(4, module.core_state, dtype=torch.float64), []
    for x, start in zip(seen, starts, strict=True):
        recalled, state = module.advanced(x, state, start)
        each.append(module.params(recalled))
    for burn_in in (0, 3):
        history = History(seen[:burn_in], starts[:burn_in], seen[burn_in:], starts[burn_in:])
        torch.testing.assert_close(module(history), torch.cat(each[burn_in:]))
        assert torch.equal(present(history), seen[burn_in:].flatten(0, 1))
    params, after = module.policy(
        seen[:1], torch.randn(4, module.core_state).double(), torch.ones(1, 4, dtype=torch.bool)
    )
    torch.testing.assert_close(params[0], module(seen[0]))  # a plain observation is the first of an episode
    torch.testing.assert_close(after, module.advanced(seen[0], torch.zeros_like(after), torch.ones(4).bool())[1])
    assert torch.equal(present(Recalled(seen[0], seen[0])), seen[0])


def test_a_start_forgets_and_steps_before_get_no_gradient():
    module, (seen, starts) = actor("gru"), sequence()
    starts[:] = False
    starts[5, 0] = True
    seen.requires_grad_()
    history = History(seen[:3], starts[:3], seen[3:], starts[3:])
    (gradient,) = torch.autograd.grad(module(history).unflatten(0, (6, 4))[-1].sum(), seen)
    assert gradient[:3].abs().max() == 0 and gradient[3:, 1:].abs().amin(-1).min() > 0
    assert gradient[3:5, 0].abs().max() == 0 and gradient[5:, 0].abs().min() > 0


def test_losses_get_the_histories_of_steps_and_of_their_successors():
    seen, starts = (x.unsqueeze(0) for x in sequence(8, 3))
    batch = histories({"observation": seen.flatten(1, 2), "reward": torch.zeros(1, 15)}, starts, burn_in=2)
    now, after = ({k: x[0] for k, x in batch[name]._asdict().items()} for name in ("observation", "next_observation"))
    assert torch.equal(now["now"], seen[0, 2:7]) and torch.equal(after["now"], seen[0, 3:])
    assert torch.equal(after["before"], seen[0, :3]) and torch.equal(after["starts"], starts[0, 3:])
    module = actor("lstm")
    here, there = module(History(**now)), module(History(**after))
    torch.testing.assert_close(here.unflatten(0, (5, 3))[1:], there.unflatten(0, (5, 3))[:-1])


def test_a_critic_remembers_observations_and_judges_the_action_of_the_step():
    torch.manual_seed(2)
    critic = CriticNetwork((8,), core="gru", core_size=5).make(BOX, BOX).double()
    (seen, starts), action = sequence(), torch.rand(24, 2, dtype=torch.float64)
    history = History(seen[:3], starts[:3], seen[3:], starts[3:])
    values = critic(history, action)
    changed = action.clone()
    changed[4:8] *= -1  # all in the second step
    assert (values != critic(history, changed)).nonzero().flatten().tolist() == [4, 5, 6, 7]


@pytest.mark.parametrize("method", [DQN, SAC, TD3, DiscreteSAC])
def test_the_memory_in_training_is_that_of_the_agent(method):
    """The learner's state after a rollout is what the agent has after the same observations."""
    settings = {**SMALL, "learning_starts": 64, "batch_size": 12, "log_every": 40, "num_envs": 2, "core": "gru"}
    env = MemoryCue if method in (DQN, DiscreteSAC) else ContinuousCue
    run = make_learner(method(**settings), lambda: env(3), [0], 10**4)
    run.iterate()
    run.iterate()
    agent, state = run.agent(), run.core_state[0].numpy().copy()
    rollout = run.collector.collect(5, run._acting(), run._keep)
    for x, start in zip(rollout.observation[:-1], rollout.starts[:-1], strict=True):
        state = agent.predict(x.numpy(), state, start.numpy(), deterministic=True)[1]
    np.testing.assert_allclose(run.core_state[0], state, atol=1e-6)
    assert run.core_state.abs().max() > 0


# --- learning, and what it leaves ------------------------------------------------------------------------------------


QUICK = {"learning_rate": 5e-3, "batch_size": 48, "learning_starts": 150, "gamma": 0.9}
STEADY = {**QUICK, "learning_rate": 2e-3, "tau": 0.02}  # an actor that saturates at once does not learn any more


@pytest.mark.parametrize(
    ("method", "env", "steps"),
    [
        (DQN(**SMALL, **QUICK, core="gru", train_every=2, target_every=40, epsilon_fraction=0.5), MemoryCue, 1250),
        (TD3(**SMALL, **STEADY, core="gru", train_every=2, exploration_noise=0.5), ContinuousCue, 750),
        (SAC(**SMALL, **QUICK, core="gru", train_every=2, temperature=0.05, tau=0.05), ContinuousCue, 1000),
    ],
    ids=["dqn", "td3", "sac"],
)
def test_it_learns_what_only_a_memory_can_know(method, env, steps):
    """Without one the mean return is 0: the sign is not in the observation of the step that pays."""
    run = make_learner(method, lambda: env(1), [0], steps)
    while run.steps < steps:
        run.iterate()
    assert sf.evaluate(run.agent(), lambda: env(1), 40)["mean"] > 0.8


def test_the_agent_is_saved_and_exported_with_its_memory(tmp_path):
    method = DQN(**SMALL, core="lstm", learning_starts=20, batch_size=12, train_every=4)
    agent = make_learner(method, "surefoot/MemoryCue-v0", [0], 100).agent()
    agent.save(tmp_path / "agent")
    again, seen = sf.load(tmp_path / "agent"), np.ones((3, 2), np.float32)
    state = agent.predict(seen)[1]
    assert state.shape == (3, 32) and agent.network.core == "lstm"
    for one, other in zip(agent.predict(seen, state), again.predict(seen, state), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(UsageError, match="its critic has a memory"):
        agent.criticise(torch.ones(1, 2), torch.ones(1, 2), None, None)
    sf.export(agent, tmp_path / "policy.onnx")  # is read back and played beside the agent


def test_bad_settings_are_refused():
    with pytest.raises(UsageError, match="batch_size=50 is not allowed with core='gru'.*sequence_length=16"):
        DQN(core="gru", batch_size=50)
    with pytest.raises(UsageError, match="n_step=3 is not allowed with core='gru'"):
        DQN(core="gru", n_step=3)
    with pytest.raises(UsageError, match="prioritized=True is not allowed with core='lstm'"):
        DQN(core="lstm", prioritized=True)
    with pytest.raises(UsageError, match="learning_starts=20 is not allowed with core='gru'.*at least 32"):
        SAC(core="gru", learning_starts=20)
    with pytest.raises(UsageError, match="buffer_size=40 is not allowed with core='gru'.*at least 64"):
        SAC(core="gru", num_envs=2, buffer_size=40)
    with pytest.raises(UsageError, match="core='gru' has no effect"):
        sf.train("m2td3", "Pendulum-v1", 100, core="gru")
    with pytest.raises(UsageError, match="core='gru' is not allowed for an actor that is given its past"):
        ActorNetwork(remembers=True, core="gru")
