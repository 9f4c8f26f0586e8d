"""The base of tabular methods and its runs: folders, resuming, several seeds, what is refused before any work."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from surefoot import api
from surefoot.ambiguity import KL, Ambiguity, Box
from surefoot.arguments import parsed, typed
from surefoot.cli import main
from surefoot.configure import revived
from surefoot.envs.tabular import Successors, TabularMDP, to_npz
from surefoot.envs.tabular.adversarial import adversarial
from surefoot.envs.tabular.policies import greedy, uniform_policy
from surefoot.envs.tabular.resolve import digest
from surefoot.errors import UsageError
from surefoot.hyperparameters import hyperparameter
from surefoot.loops.common.run import Run
from surefoot.loops.tabular.method import NEEDS, Tabular, as_ambiguity
from surefoot.seeding import torch_stream

MDP = TabularMDP([[[0.7, 0.3], [0.2, 0.8]], [[0.5, 0.5], [0.9, 0.1]]], [[1, 0.4], [0, 0.6]], 0.9, name="two")
CLOCK = ("time", "steps_per_second")


@dataclass(frozen=True)
class Noisy(Tabular):
    """Value iteration with noise, which shows whose seed it draws from."""

    ambiguity: str | Ambiguity = hyperparameter("kl-penalty:0.5", help="A set.")
    noise: float = hyperparameter(0.1, low=0, help="Its size.")
    breaks_at: int = hyperparameter(-1, help="The iteration after which the state holds NaN.")

    def start(self, mdp, seed):
        return {"value": torch.zeros(mdp.states, dtype=torch.float64)}

    def step(self, mdp, state, seed, iteration):
        drawn = torch.rand(mdp.states, generator=torch_stream(seed, "noise", iteration), dtype=torch.float64)
        value = self.q(mdp, state).amax(-1) + self.noise * drawn
        return {"value": value * (torch.nan if iteration == self.breaks_at else 1)}, {"return_mean": value.mean()}

    def q(self, mdp, state):
        return mdp.expected_reward() + mdp.gamma * mdp.expectation(state["value"])

    def policy(self, mdp, state):
        return greedy(mdp, self.q(mdp, state))

    def objective(self):
        return f"max E[Σ γ^t r] under {as_ambiguity(self.ambiguity)}"

    def steps(self):
        return ["back up", "add noise"]


def rows(run: Run):
    return [{k: v for k, v in row.items() if k not in CLOCK} for row in run.metrics()]


def train(tmp_path, name="run", method=None, env=MDP, steps=12, **options):
    return api.train(method or Noisy(), env, steps, run_dir=tmp_path / name, loggers=(), **options)


# --- runs ------------------------------------------------------------------------------------------------------------


def test_a_run_is_a_folder_as_any_other(tmp_path):
    run = train(tmp_path, num_seeds=2)
    assert run.finished and {p.name for p in run.path.iterdir()} == {
        "config.json",
        "metrics.jsonl",
        "checkpoints",
        "agent",
        "solution.json",
        "policy.csv",
    }
    assert run.config["env"] == {"env": "two", "fingerprint": digest(MDP), "device": "cpu"}
    assert run.config["steps"] == 12
    assert run.config["objective"] == "max E[Σ γ^t r] under min { q·v + 0.5·KL(q‖p) }"
    steps, table = run.curve()
    assert steps.tolist() == list(range(1, 13)) and table.shape == (2, 12) and np.isfinite(table).all()
    assert api.load(run.path, seed=1).policy.tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_without_steps_it_takes_the_methods_own_number(tmp_path):
    assert train(tmp_path, steps=None).config["steps"] == Noisy.default_steps == 100


def test_cut_and_resumed_is_the_same_run_to_the_bit(tmp_path):
    whole = train(tmp_path, "whole", num_seeds=2)
    train(tmp_path, "cut", num_seeds=2, callbacks=[lambda learner, _: learner.iteration == 5])
    cut = api.resume(tmp_path / "cut", method=Noisy(), env=MDP)
    assert rows(whole) == rows(cut) and len(rows(cut)) == 24
    assert torch.equal(whole.agent(1).policy, cut.agent(1).policy)


def test_killed_between_checkpoints_it_goes_on_from_the_last_one_to_the_bit(tmp_path):
    def kill(learner, rows):
        if learner.iteration == 8:
            raise KeyboardInterrupt  # as a kill, it leaves no time

    whole = train(tmp_path, "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, "cut", checkpoint_every=3, callbacks=[kill])
    assert len(Run(tmp_path / "cut").metrics()) == 7  # of which the last is behind the checkpoint
    cut = api.resume(tmp_path / "cut", method=Noisy(), env=MDP)
    assert rows(whole) == rows(cut) and torch.equal(whole.agent().policy, cut.agent().policy)


def test_a_run_evaluates_on_the_way_and_afterwards(tmp_path):
    short = replace(MDP, horizon=5, gamma=1.0, name="short")
    run = train(tmp_path, env=short, evaluate_every=6, evaluate_episodes=3)
    found = {row["step"]: row.get("evaluation_mean") for row in run.metrics()}
    assert [step for step, value in found.items() if value is not None] == [6, 12]
    figures = api.evaluate(run.path, short, episodes=3)
    assert figures["mean"] == found[12] and figures["env"] == "short" and 0 <= figures["min"] <= figures["max"] <= 5
    assert api.evaluate(run.agent(), short, 3)["returns"] == figures["returns"]


def test_the_command_line_trains_resumes_evaluates_and_compares(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["train", "regularized-rmdp", "--env", "two-state", "--steps", "6", "--run-dir", "run", "--loggers"])
    assert "run: 6 iterations, final return " in capsys.readouterr().out
    main(["train", "--resume", "run"])
    main(["evaluate", "run", "--episodes", "2"])
    assert "two-state · 2 episodes from seed 0" in capsys.readouterr().out
    assert api.evaluate("run", episodes=2)["env"] == "two-state"
    main(["compare", "regularized-rmdp", "rfzi", "--env", "two-state", "--seeds", "2", "--steps", "3", "--out", "both"])
    assert "rfzi" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["train", "regularized-rmdp", "--env", "two-stat"])
    assert "Did you mean" in capsys.readouterr().err


def test_a_file_is_an_environment(tmp_path):
    to_npz(MDP, tmp_path / "two.npz")
    run = train(tmp_path, env=str(tmp_path / "two.npz"), callbacks=[lambda learner, _: learner.iteration == 5])
    assert api.resume(run.path, method=Noisy()).finished and run.config["env"]["fingerprint"] == digest(MDP)


def test_a_seed_among_several_computes_what_it_computes_alone(tmp_path):
    several, alone = train(tmp_path, "several", num_seeds=3), train(tmp_path, "alone", seed=1)
    assert [row for row in rows(several) if row["seed"] == 1] == rows(alone)
    assert rows(alone) != [row for row in rows(several) if row["seed"] == 2]


def test_a_state_that_is_not_a_number_ends_the_run_and_names_the_seed(tmp_path):
    with pytest.raises(UsageError, match=r"seed 0 are no longer finite after 4 steps.*checkpoints/00000003"):
        train(tmp_path, method=Noisy(breaks_at=3), checkpoint_every=1)


def test_a_method_that_acts_illegally_is_caught():
    class Wrong(Noisy):
        def policy(self, mdp, state):
            return torch.full((2, 2), 0.5)

    with pytest.raises(UsageError, match="Wrong takes actions that 'two' does not allow"):
        from surefoot.loops.common.run import make_learner

        make_learner(Wrong(), replace(MDP, legal=[[True, True], [True, False]]), [0], 10).agent()


def test_explain_prints_the_steps():
    page = api.explain(Noisy(noise=0.3))
    assert "1. back up" in page and "2. add noise" in page and "0.3" in page and "under min {" in page


def test_methods_are_compared_and_found_again(tmp_path):
    methods = {"plain": Noisy(noise=0.0), "noisy": Noisy(noise=0.5)}
    other = replace(MDP, gamma=0.5, name="short")
    first = api.compare(methods, [MDP, other], seeds=2, steps=8, out=tmp_path, loggers=())
    assert first.envs == ("two", "short") and first.scores["plain"].shape == (2, 2)
    assert (first.scores["noisy"] > first.scores["plain"]).all()
    again = api.compare(methods, [MDP, other], seeds=2, steps=8, out=tmp_path, loggers=())
    np.testing.assert_array_equal(first.scores["noisy"], again.scores["noisy"])


# --- ambiguity sets as hyperparameters -------------------------------------------------------------------------------


def test_a_set_is_kept_in_the_configuration_and_comes_back(tmp_path):
    run = train(tmp_path, method=Noisy(KL(radius=0.2)))
    assert run.config["hyperparameters"]["ambiguity"] == {"ambiguity": "kl", "radius": 0.2, "penalty": None}
    again = revived(Noisy, run.config["hyperparameters"])
    assert Noisy(**again) == Noisy(KL(radius=0.2))
    assert as_ambiguity("kl:0.2") == KL(radius=0.2)


def test_the_command_line_takes_a_set_as_text():
    given = parsed(typed(Noisy), ["--env", "x", "--ambiguity", "tv:0.2"], "surefoot train noisy")
    assert given.ambiguity == "tv:0.2" and given.steps == 100


@pytest.mark.parametrize(("text", "words"), [("kk:1", "'kk' is unknown"), ("kl", "has no size"), (3, "ambiguity=3")])
def test_a_set_that_means_nothing_is_refused_when_the_method_is_made(text, words):
    with pytest.raises(UsageError, match=words):
        Noisy(text)


def test_a_set_with_arrays_survives_the_configuration(tmp_path):
    box = Box(lower=(0.0, 0.1), upper=(0.9, 1.0))
    run = train(tmp_path, method=Noisy(box))
    assert as_ambiguity(revived(Noisy, run.config["hyperparameters"])["ambiguity"]).to_dict() == box.to_dict()


# --- what is refused, before any work --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("need", "mdp"),
    [
        ("horizon", MDP),
        ("no horizon", replace(MDP, horizon=3)),
        ("discount", replace(MDP, gamma=1.0)),
        ("foresight", replace(MDP, gamma=0.0)),
        ("features", MDP),
        ("rewards of pairs", replace(MDP, reward=MDP.rows)),
        ("rewards of at least 0", replace(MDP, reward=[[1, 0.4], [-0.1, 0.6]])),
    ],
)
def test_what_a_method_needs_of_its_mdp_is_said(need, mdp, tmp_path):
    class Needy(Noisy):
        needs = (need,)

    with pytest.raises(UsageError) as caught:
        train(tmp_path, method=Needy(), env=mdp)
    assert str(caught.value) == f"Needy cannot learn in 'two': it {NEEDS[need].otherwise}."
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"compile": "on"}, "compile='on' is not allowed: Noisy has no gradient step"),
        ({"backend": "envpool"}, "'backend'"),
        ({"env": 7}, "env=7 is not allowed; give a TabularMDP, a built-in MDP's name, a file or gym:ID"),
    ],
)
def test_what_only_stepped_environments_have_is_refused(options, words, tmp_path):
    with pytest.raises(UsageError, match=words):
        train(tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_run_goes_on_only_in_the_mdp_it_was_started_with(tmp_path):
    train(tmp_path, callbacks=[lambda learner, _: learner.iteration == 5])
    with pytest.raises(UsageError, match="'two' is not the MDP that this run was started with.*give that one again"):
        api.resume(tmp_path / "run", method=Noisy(), env=replace(MDP, gamma=0.8))
    with pytest.raises(UsageError, match="If the run was given an MDP made in Python, give that one again"):
        api.resume(tmp_path / "run", method=Noisy())


def test_a_fingerprint_sees_everything_that_an_mdp_holds():
    sparse = Successors(torch.tensor([[[0, 1]] * 2] * 2), MDP.rows)
    changes = [
        {"gamma": 0.8}, {"horizon": 3}, {"initial": [1.0, 0.0]}, {"legal": [[True, True], [True, False]]},
        {"reward": MDP.reward + 1}, {"transition": MDP.rows.flip(0)}, {"features": torch.ones(2, 2, 1)},
        {"transition": sparse},
    ]  # fmt: skip
    assert len({digest(replace(MDP, **change)) for change in changes} | {digest(MDP)}) == len(changes) + 1
    assert digest(replace(MDP, name="other")) == digest(MDP)
    finite, one, other = replace(MDP, horizon=2), torch.zeros(2, 2, 2), torch.zeros(2, 2, 2)
    one[0, 0, 0] = other[1, 0, 0] = 1  # of one mean
    settings = [{}, {"noise": "bernoulli"}, {"bounds": (-1, 1)}, {"length": 2}]
    assert len({digest(adversarial(finite, stages, **more)) for stages in (one, other) for more in settings}) == 8


def test_a_checkpoint_of_another_method_is_refused(tmp_path):
    class Other(Noisy):
        def start(self, mdp, seed):
            return {"q": torch.zeros(2, 2)}

    Other.__name__ = Other.__qualname__ = "Noisy"  # the method of a later version
    train(tmp_path, callbacks=[lambda learner, _: learner.iteration == 5])
    with pytest.raises(UsageError, match="does not fit this method or number of seeds: 0/q, 0/value differ"):
        api.resume(tmp_path / "run", method=Other(), env=MDP)


# --- what methods use ------------------------------------------------------------------------------------------------


def test_policies_keep_to_what_is_legal():
    mdp = replace(MDP, legal=[[False, True], [True, True]])
    assert uniform_policy(mdp).tolist() == [[0.0, 1.0], [0.5, 0.5]]
    assert greedy(mdp, torch.tensor([[9.0, 1.0], [2.0, 2.0]])).tolist() == [[0.0, 1.0], [1.0, 0.0]]
    assert greedy(MDP, torch.zeros(3, 2, 2)).shape == (3, 2, 2)
