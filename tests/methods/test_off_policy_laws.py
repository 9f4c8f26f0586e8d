"""The law every off-policy method is held to: it learns what can be learnt, in every space, to the same bits."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from network_laws import first_pass, numbers, the_seed_decides, together_as_alone

import surefoot as sf
from surefoot import catalogue
from surefoot.errors import UsageError
from surefoot.loops.common.run import Run, make_learner
from surefoot.loops.off_policy.method import OffPolicy

CLASSES = {catalogue.method_class(e.slug): e.slug for e in reversed(catalogue.methods())}
METHODS = [slug for method, slug in CLASSES.items() if issubclass(method, OffPolicy) and method.loop == "off-policy"]
REMEMBERING = [slug for slug in METHODS if "core" not in catalogue.method_class(slug).without_effect]
CORE = {"core": "gru", "core_size": 8, "sequence_length": 4, "burn_in": 4}
every_method = pytest.mark.parametrize("slug", METHODS)
DISCRETE, CONTINUOUS = "CartPole-v1", "surefoot/ContinuousTarget-v0"


def env_of(slug: str) -> str:
    """An environment with the kind of actions that the method takes, and with parameters if it needs a box of them."""
    if hasattr(small(slug), "set"):
        return "Pendulum-v1"
    return CONTINUOUS if small(slug).actor_network().kind in ("deterministic", "gaussian") else DISCRETE


def small(slug: str, **changes) -> OffPolicy:
    """The method at a size for tests."""
    method = catalogue.method_class(slug)
    names = {f.name for f in dataclasses.fields(method)}
    sizes = {"batch_size": 16, "learning_starts": 20, "log_every": 40, "train_every": 2, "hidden": (16,)}
    sizes |= {"buffer_size": 200, "policy_delay": 2, "target_every": 5, "quantiles": 10, "atoms": 11}
    sizes |= {"set": "param:m=0.5..2,l=0.5..2", "base_updates": 20, "denoiser_hidden": (8,), "acting_draws": 9}
    sizes |= {"adversary": "action-mix:0.2", "pairs": 3, "bound": -100.0}
    sizes |= {"members": 2, "default_policy_steps": 80, "member_steps": 80, "population": 4, "generations": 1}
    sizes |= {"reaches": (0.5,)}
    return method(**{k: v for k, v in {**sizes, **changes}.items() if k in names})


def learner(slug: str, seeds=(0,), env: str | None = None, **changes):
    return make_learner(small(slug, **changes), env or env_of(slug), list(seeds), 10**4)


@every_method
def test_same_seed_same_bits_and_another_seed_others(slug):
    the_seed_decides(lambda seeds: learner(slug, seeds))


@every_method
def test_a_seed_among_several_computes_what_it_computes_alone(slug):
    together_as_alone(lambda seeds: learner(slug, seeds))


@pytest.mark.parametrize("slug", REMEMBERING)
def test_a_seed_among_several_remembers_what_it_does_alone(slug):
    """The heads of robust-value-losses begin at 0, so that its actions may tie up to rounding: here none does."""
    together_as_alone(lambda seeds: learner(slug, seeds, num_envs=2, **CORE), (6, 7, 8))


@pytest.mark.parametrize(("slug", "changes"), [*((slug, {}) for slug in METHODS), ("dqn", CORE), ("sac", CORE)])
def test_its_gradient_step_can_be_compiled(slug, changes, monkeypatch):
    monkeypatch.setattr("surefoot.loops.common.compile.compiled", first_pass)
    eager, native = (
        make_learner(small(slug, **changes), env_of(slug), [0], 10**4, compile=compile) for compile in ("off", "on")
    )
    for _ in range(2):
        assert native.iterate()[0] == pytest.approx(eager.iterate()[0], rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    ("slug", "changes"),
    [*((slug, {}) for slug in METHODS), ("td3", {"num_envs": 2, "n_step": 3}), ("dqn", {"prioritized": True}),
     ("sac", {"normalize_observations": True, "buffer_size": 50}), ("tc-rmdp", {"information": "stacked"}),
     *((slug, {**CORE, "num_envs": 2}) for slug in REMEMBERING)],
)  # fmt: skip
def test_stopped_and_resumed_is_the_same_run_to_the_bit(slug, changes, tmp_path):
    """The buffer, which wraps around, is filled again from the logged actions."""
    method, settings = small(slug, **changes), {"steps": 240, "loggers": (), "seed": 7}
    env = env_of(slug)
    sf.train(method, env, run_dir=tmp_path / "whole", **settings)
    sf.train(method, env, run_dir=tmp_path / "cut", callbacks=[lambda one, _: one.iteration == 3], **settings)
    sf.resume(tmp_path / "cut")
    whole, cut = (Run(tmp_path / name) for name in ("whole", "cut"))
    assert numbers([whole.metrics()]) == numbers([cut.metrics()])
    assert torch.equal(whole.agent().vector, cut.agent().vector)


@every_method
def test_the_agent_acts_as_the_network_says_and_is_saved(slug, tmp_path):
    run = learner(slug)
    run.iterate()
    agent = run.agent()
    observation = np.stack([agent.observation_space.sample() for _ in range(3)]).clip(-1, 1).astype(np.float32)
    torch.manual_seed(0)  # for agents that add noise
    action, state = agent.predict(observation, deterministic=True)
    with torch.no_grad():
        params = run.actor(run.weights[run.method.actor][0], torch.from_numpy(observation))
        distribution = agent.module.distribution
        wanted = distribution.to_env(distribution.mode(params)).numpy()
    if not agent.noisy:
        np.testing.assert_allclose(action, wanted, rtol=1e-5, atol=1e-6)
    agent.save(tmp_path)
    again = sf.load(tmp_path)
    torch.manual_seed(0)
    np.testing.assert_array_equal(again.predict(observation, deterministic=True)[0], action)
    assert (state is None) == (not agent.module.core_state) and all(agent.action_space.contains(a) for a in action)


@pytest.mark.parametrize(
    ("slug", "env", "changes"),
    [
        ("dqn", "surefoot/MaskedAction-v0", {}),
        ("dqn", "surefoot/DictContext-v0", {"cnn": "impala", "dueling": True}),
        ("qr-dqn", "surefoot/MaskedAction-v0", {"dueling": True, "double": True}),
        ("c51", "surefoot/MaskedAction-v0", {"double": True}),
        ("sac-discrete", "surefoot/MaskedAction-v0", {}),
        ("dqn", "surefoot/DictContext-v0", CORE),
        *(
            (slug, "surefoot/MaskedAction-v0", {**CORE, "core": "lstm"})
            for slug in REMEMBERING
            if env_of(slug) == DISCRETE
        ),
        ("sac", "Pendulum-v1", {**CORE, "normalize_observations": True}),
        ("td3", "Pendulum-v1", {"num_envs": 3}),
        ("ddpg", "Pendulum-v1", {"num_envs": 3, "hidden": (16, 8)}),
        ("sac", "Pendulum-v1", {"temperature": 0.2, "normalize_observations": True}),
    ],
)
def test_every_kind_of_space_and_network_runs(slug, env, changes):
    run = learner(slug, env=env, **changes)
    before = {name: x.clone() for name, x in run.weights.items()}
    for _ in range(2):
        run.iterate()
    for name, net in run.nets.items():
        assert torch.isfinite(run.weights[name]).all()
        assert torch.equal(before[name], run.weights[name]) != net.trained, name


def test_illegal_actions_are_never_taken():
    run = learner("dqn", env="surefoot/MaskedAction-v0", learning_starts=2, epsilon_fraction=1.0)
    for _ in range(3):
        run.iterate()  # the environment ends with an error where an action is not allowed
    store = run.replay.store
    rows = np.arange(run.replay.filled)
    legal = np.take_along_axis(store["observation"]["action_mask"][rows, 0], store["action"][rows], 1)
    assert legal[store["valid"][rows]].all()


@pytest.mark.parametrize(
    ("slug", "settings"),
    [
        ("td3", {"learning_rate": 3e-3, "exploration_noise": 0.3}),
        ("sac", {"learning_rate": 3e-3}),
        (
            "ddpg",
            {
                "learning_rate": 3e-3,
                "actor_learning_rate": 3e-3,
                "tau": 0.005,
                "exploration_noise": 0.3,
                "hidden": (16, 16),
                "l2": 0.0,
            },
        ),
    ],
)
def test_it_finds_the_target_action(slug, settings):
    """The reward falls with the distance from one action, which is known."""
    run = learner(slug, learning_starts=100, batch_size=64, train_every=1, gamma=0.0, log_every=200, **settings)
    for _ in range(3):
        run.iterate()
    assert sf.evaluate(run.agent(), CONTINUOUS, 20)["mean"] > -0.1


@pytest.mark.parametrize("slug", ["dqn", "qr-dqn", "c51", "sac-discrete", "robust-value-losses"])
def test_it_learns_which_action_is_right(slug):
    env = "surefoot/ContextualAction-v0"
    run = learner(slug, env=env, learning_rate=3e-3, batch_size=64, train_every=1, target_every=20, log_every=500)
    for _ in range(2):
        run.iterate()
    assert sf.evaluate(run.agent(), env, 20)["mean"] > 0.9


@every_method
def test_explain_shows_formula_steps_and_every_hyperparameter(slug):
    text = sf.explain(slug)
    method = catalogue.method_class(slug)
    table = [
        line.split()[0]
        for line in text.partition("HYPERPARAMETERS")[2].partition("\nCLAIM")[0].partition("\nPRESETS")[0].splitlines()
        if line.startswith("  ")
    ]
    for field in dataclasses.fields(method):
        assert (field.name in table) == (field.name not in method.without_effect), field.name
    assert "learning_rate" in table and "uniformly random" in text


def test_what_a_method_cannot_act_in_is_refused_before_any_work():
    with pytest.raises(UsageError, match="needs continuous actions.*dqn"):
        sf.train("td3", "CartPole-v1", 100)
    with pytest.raises(UsageError, match="needs one discrete action.*td3 or sac"):
        sf.train("dqn", "Pendulum-v1", 100)
    with pytest.raises(UsageError, match="learning_starts=1 is not allowed with num_envs=4"):
        sf.train("td3", "Pendulum-v1", 100, num_envs=4, learning_starts=1)
