"""The law of one objective: what `objective()` says is what is optimised, printed and kept."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from test_laws import METHODS, every_method, small

import surefoot as sf
from surefoot import catalogue
from surefoot.configure import make_method
from surefoot.errors import UsageError
from surefoot.hyperparameters import presets
from surefoot.loops.common.run import make_learner
from surefoot.loops.on_policy.method import OnPolicy, pick
from surefoot.methods.control.ppo import PPO
from surefoot.objectives import PolicyObjective, advantages, aggregation, likelihoods, ratios, stabilizers

OWN_OBJECTIVE = {"definitive-guide", "polyak-pg"}
ONE_STEP = {"trpo", "gae", "polyak-pg"}  # the ratio is 1 where their gradient is taken


def varied(own: PolicyObjective) -> dict[str, PolicyObjective]:
    """The objective with one thing changed, by the name of that thing."""
    steps = {
        "advantage": -1.0 * own.advantage,
        "another advantage": 0.5 * own.advantage + 0.5 * advantages.n_step(2, gamma=0.99),
        "ratio": ratios.current() if isinstance(own.ratio, ratios.old) else ratios.old(),
        "stabilizer": stabilizers.quadratic(0.01),
        "aggregation": aggregation.constant_length(1),
        "likelihood": likelihoods.saturating(),
        "standardize": not own.standardize,
        "entropy": own.entropy + 0.5,
        "divergence": own.divergence + 5.0,
    }
    return {name: dataclasses.replace(own, **{name.split()[-1]: value}) for name, value in steps.items()}


def same_gradient(one: PolicyObjective, other: PolicyObjective) -> bool:
    """Whether two objectives differ in parts that come to the same: the ratio of a plain weighted likelihood."""
    log_prob, old, advantage = torch.randn(3, 50, generator=torch.manual_seed(0)).unbind()
    return torch.allclose(*(o.coefficient(log_prob, old, advantage)[1] for o in (one, other)))


def weights(method: OnPolicy) -> torch.Tensor:
    """What a method has learned from its first batch."""
    run = make_learner(method, "CartPole-v1", [0], 10**6)
    run.iterate()
    return torch.cat([run.vector.flatten(), *(x.flatten().float() for x in run.extra.values())])


@every_method
def test_whatever_is_changed_in_the_objective_changes_the_weights(slug):
    own = small(slug, gamma=0.99)  # that of the parts in `varied`
    before = weights(own)
    for name, objective in varied(own.objective()).items():
        if name in ("ratio", "stabilizer") and (slug in ONE_STEP or same_gradient(objective, own.objective())):
            continue
        changed = dataclasses.make_dataclass(
            "Changed", [], bases=(type(own),), frozen=True, namespace={"objective": lambda self, o=objective: o}
        )
        method = changed(**{f.name: getattr(own, f.name) for f in dataclasses.fields(own)})
        assert not torch.equal(weights(method), before), name
        assert str(objective.advantage) in "\n".join(method.algorithm())


@every_method
def test_a_ready_objective_is_optimised_or_refused(slug):
    own = small(slug)
    objective = dataclasses.replace(own.objective(), advantage=-1.0 * own.objective().advantage)
    if slug in OWN_OBJECTIVE:
        with pytest.raises(UsageError, match="defined by its own objective"):
            dataclasses.replace(own, parts=objective)
        return
    method = dataclasses.replace(own, parts=objective)
    assert method.objective() is objective
    assert not torch.equal(weights(method), weights(own))


def test_a_ready_objective_is_kept_by_the_run_and_resumed(tmp_path):
    objective = PolicyObjective(
        advantage=0.5 * advantages.gae() + 0.5 * advantages.monte_carlo(), stabilizer=stabilizers.quadratic(0.1)
    )
    settings = {"steps": 1024, "num_envs": 4, "num_steps": 64, "epochs": 1, "loggers": (), "compile": "off"}
    whole = sf.train("ppo", "CartPole-v1", objective=objective, run_dir=tmp_path / "whole", **settings)
    cut = {"run_dir": tmp_path / "cut", "callbacks": lambda learner, _: learner.iteration == 2}
    sf.train("ppo", "CartPole-v1", objective=objective, **cut, **settings)
    resumed = sf.resume(tmp_path / "cut")
    assert torch.equal(whole.agent().vector, resumed.agent().vector)
    config = json.loads((tmp_path / "whole" / "config.json").read_text(encoding="utf-8"))
    assert config["objective"] == str(objective)
    assert PolicyObjective.from_dict(config["hyperparameters"]["parts"]) == objective


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"clip": 0.3}, "clip=0.3 has no effect"),
        ({"entropy": 0.01}, "entropy=0.01 has no effect"),
        ({"standardize": False}, "standardize=False has no effect"),
        ({"penalty": "adaptive"}, "penalty='adaptive' has no effect"),
        ({"gamma": 0.9}, "gamma=0.9 is not the discount.*GAE"),
    ],
)
def test_what_would_have_no_effect_beside_an_objective_is_refused(given, words):
    with pytest.raises(UsageError, match=words):
        PPO(parts=PolicyObjective(), **given)


def test_the_critic_keeps_its_own_target_beside_an_objective():
    assert PPO(parts=PolicyObjective(), lam=0.5, num_envs=4).target() == advantages.gae(0.99, 0.5)


def test_a_discount_deep_within_an_objective_is_found():
    inner = 0.5 * (advantages.gae() + 2.0 * advantages.monte_carlo(gamma=0.9))
    with pytest.raises(UsageError, match=r"G\(γ=0.9\)"):
        PPO(parts=PolicyObjective(advantage=inner))


@pytest.mark.parametrize("slug", ["polyak-pg", "gae"])
def test_hyperparameters_without_effect_are_neither_taken_nor_shown(slug):
    method = catalogue.method_class(slug)
    assert "learning_rate" in method.without_effect
    assert "learning_rate" not in sf.explain(slug)
    with pytest.raises(UsageError, match="learning_rate=0.5 has no effect"):
        method(learning_rate=0.5)


@pytest.mark.parametrize("slug", METHODS)
def test_who_replaces_the_update_says_what_it_does_instead(slug):
    """`explain` prints what runs: who replaces a step of the loop replaces the words for it as well."""
    for kind in catalogue.method_class(slug).__mro__:
        if not issubclass(kind, OnPolicy) or kind is OnPolicy:
            continue
        replaced = {"update", "iterate", "policy_step", "fit_critic", "loss", "estimate"} & set(vars(kind))
        if replaced - {"loss"} or "loss" in replaced and kind.__name__ == "VMPO":
            assert {"steps", "critic_steps"} & set(vars(kind)), f"{kind.__name__} replaces {sorted(replaced)}"


def test_explain_of_a_trust_region_is_not_that_of_minibatches():
    for slug in ("trpo", "gae"):
        algorithm = sf.explain(slug).partition("ALGORITHM")[2].partition("HYPERPARAMETERS")[0]
        assert "conjugate gradient" in algorithm and "KL(π_old ‖ π) ≤ 0.01" in algorithm
    assert "Adam" not in sf.explain("gae").partition("ALGORITHM")[2].partition("HYPERPARAMETERS")[0]


# --- over which samples advantages are standardised, and presets ------------------------------------------------------


def test_advantages_are_standardised_within_the_minibatch_or_over_the_batch(monkeypatch):
    seen = {}
    for over in ("minibatch", "batch"):
        learner = make_learner(small("ppo", standardize_over=over), "CartPole-v1", [0, 1], 1000)
        step, given = learner.gradient_step, []
        monkeypatch.setattr(
            learner, "gradient_step", lambda *x, step=step, given=given: (given.append(x[1]), step(*x))[1]
        )
        learner.iterate()
        seen[over] = [given[0]["advantage"][i][given[0]["valid"][i]] for i in range(2)]
    for advantage in seen["batch"]:
        assert abs(advantage.mean()) < 1e-6 and advantage.std(correction=0) == pytest.approx(1, abs=1e-5)
    assert all(abs(advantage.mean()) > 1e-3 for advantage in seen["minibatch"])


@pytest.mark.parametrize("slug", ["ppo", "spo", "fixpo", "definitive-guide"])
def test_a_loss_does_not_standardise_again_what_the_batch_has(slug):
    learner = make_learner(small(slug), "CartPole-v1", [0], 1000)
    batch = pick(learner.estimate(learner.collect(learner.vector)), 0)
    extra = {name: x[0] for name, x in learner.extra.items()}

    def loss(**changes):
        return small(slug, **changes).loss(learner.model, learner.vector[0], batch, extra)[0]

    assert torch.equal(loss(standardize=True, standardize_over="batch"), loss(standardize=False))
    assert not torch.equal(loss(standardize=True), loss(standardize=False))
    assert "over the batch" in "\n".join(small(slug, standardize=True, standardize_over="batch").steps())


@pytest.mark.parametrize(
    ("slug", "name"),
    [(e.slug, p) for e in catalogue.methods() for p in presets(catalogue.method_class(e.slug))],
)
def test_a_preset_is_a_setting_of_its_own(slug, name):
    made, default = make_method(slug, preset=name)[0], make_method(slug)[0]
    for key, value in type(made).presets[name].items():
        assert getattr(made, key) == value
    assert made != default
    assert f"{name}: " in sf.explain(slug)
