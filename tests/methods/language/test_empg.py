"""EMPG: the numbers of its card, and episodes of several turns."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("transformers", reason="language models need surefoot[language]")

import surefoot as sf
from surefoot.errors import UsageError
from surefoot.loops.group_rollout.learner import LanguageLearner
from surefoot.loops.group_rollout.rewards import make_rewards
from surefoot.methods.language.baselines import GRPO
from surefoot.methods.language.empg import EMPG, by_step, modulated
from surefoot.models.language.generation import Completions, generate
from surefoot.models.language.nano import Nano, fresh

F64 = torch.float64
ENTROPY = torch.tensor([[0.2, 0.5, 1.0], [0.4, 0.9, torch.nan]], dtype=F64)
EXISTS = torch.tensor([[True, True, True], [True, True, False]])
WHOLE = torch.tensor([1.0, -1.0], dtype=F64)


def steps(entropy=ENTROPY, whole=WHOLE, k=1.0, zeta=0.05, other=1.0):
    return modulated(whole, entropy, EXISTS, k, zeta, other)[EXISTS].tolist()


def test_two_episodes_of_three_and_two_steps():
    assert steps() == pytest.approx([1.293316, 0.796376, 0.286708, -1.456121, -0.920278], abs=1e-6)
    assert steps(zeta=0.1) == pytest.approx([1.312961, 0.800049, 0.271987, -1.449999, -0.934998], abs=1e-6)


def test_the_scale_and_the_bonus():
    """Of all advantages 1 the differences from the mean are those of g; of all 0 those of f."""
    g = torch.tensor([1.538068, 1.057098, 0.565824, 1.197849, 0.641162], dtype=F64)
    assert steps(whole=torch.ones(2, dtype=F64), zeta=0.0) == pytest.approx((g - 1).tolist(), abs=1e-6)
    f = torch.tensor([0.687289, 0.367879, 0.0, 0.416862, 0.0], dtype=F64)  # of the next step; none follows the last
    assert steps(whole=torch.zeros(2, dtype=F64), zeta=1.0) == pytest.approx((f - f.mean()).tolist(), abs=1e-6)


def test_without_its_two_parts_it_is_the_base_less_its_mean_over_steps():
    assert steps(k=0.0, zeta=0.0) == pytest.approx([0.8, 0.8, 0.8, -1.2, -1.2])


def test_of_equal_entropies_all_but_the_last_steps_get_the_bonus():
    found = steps(entropy=torch.full((2, 3), 0.7, dtype=F64))
    wanted = torch.tensor([1.05, 1.05, 1, -0.95, -1], dtype=F64)
    assert found == pytest.approx((wanted - wanted.mean()).tolist())


entropies = st.lists(st.floats(0, 3), min_size=5, max_size=5).filter(lambda x: max(x) - min(x) > 1e-2)


@given(drawn=entropies, k=st.floats(0.1, 3), c=st.floats(0.5, 3), d=st.floats(0, 2))
def test_weights_fall_with_entropy_have_mean_one_and_are_relative(drawn, k, c, d):
    entropy = torch.full((2, 3), torch.nan, dtype=F64).masked_scatter(EXISTS, torch.tensor(drawn, dtype=F64))
    one = torch.ones(2, dtype=F64)
    g = torch.tensor(steps(entropy, one, k, 0.0), dtype=F64) + 1
    assert g.mean().item() == pytest.approx(1) and g.min() > 0
    order = torch.tensor(drawn, dtype=F64).argsort()
    assert (g[order].diff() <= 1e-12).all() and (g.max() / g.min()).item() <= math.exp(k) * (1 + 1e-6)
    torch.testing.assert_close(
        torch.tensor(steps(c * entropy + d, WHOLE, k)), torch.tensor(steps(entropy, WHOLE, k)), rtol=1e-5, atol=1e-5
    )


def test_means_are_over_steps_whatever_their_length():
    turn = torch.tensor([[-1, 0, 0, -1, 1], [-1, 0, -1, 1, 1]])
    x = torch.tensor([[9.0, 1, 3, 9, 5], [9, 2, 9, 4, 6]])
    mean, exists = by_step(torch.where(turn < 0, torch.nan, x), turn)
    assert mean.tolist() == [[2, 5], [2, 5]] and exists.all()
    mean, exists = by_step(x, torch.tensor([[0, 0, 1, 2, 2], [-1, 0, 0, -1, -1]]))
    assert mean.tolist() == [[5, 3, 7], [1.5 + 4, 0, 0]] and exists.tolist() == [[True] * 3, [True, False, False]]


def rollout(reward, turn, entropy):
    """What the advantages need of episodes of these turns."""
    reward, turn = torch.tensor(reward), torch.tensor(turn)
    sequences = SimpleNamespace(valid=turn >= 0)
    return SimpleNamespace(reward=reward, turn=turn, sequences=sequences, judged=SimpleNamespace(entropy=entropy))


def test_all_tokens_of_a_step_have_its_advantage_and_those_of_the_environment_none():
    turn = [[-1, 0, 0, -1, 1, 2], [-1, 0, -1, 1, 1, -1]]
    entropy = torch.tensor([[torch.nan, 0.1, 0.3, torch.nan, 0.5, 1.0], [torch.nan, 0.4, torch.nan, 1.1, 0.7, 0]])
    found = EMPG().advantages(rollout([[1.0, 0.0]], turn, entropy))[0]
    a, b, c, d, e = steps(whole=GRPO().objective().advantage(torch.tensor([[1.0, 0.0]], dtype=F64))[0])
    torch.testing.assert_close(found, torch.tensor([[0, a, a, 0, b, c], [0, d, 0, e, e, 0]]))


def test_a_single_completion_is_one_step():
    one = rollout([[1.0, 0.0]], [[-1, 0, 0], [-1, 0, -1]], torch.tensor([[0, 0.2, 0.6], [0, 0.4, 0]]))
    one.turn = None  # a task without turns
    found = EMPG(sharpness=0.0).advantages(one)[0]
    torch.testing.assert_close(found, torch.tensor([[0, 1.0, 1.0], [0, -1.0, 0]]), rtol=1e-3, atol=1e-3)


def test_the_gradient_of_a_softmax_grows_with_its_entropy():
    logits = torch.tensor([0.7, 0.2, 0.1], dtype=F64).log()
    scores = torch.func.jacrev(lambda z: z.log_softmax(-1))(logits)
    assert (logits.exp() * scores.square().sum(1)).sum().item() == pytest.approx(0.46)


class Steps:
    """Two, three or four turns that end with a reward for whoever wrote few capitals."""

    def reset(self, seed):
        self.left, self.seen = 2 + seed % 3, ""
        return f"{seed % 7}:"

    def step(self, text):
        self.left, self.seen = self.left - 1, self.seen + text
        done = self.left == 0
        return f"[{self.left}]", float(done and sum(map(str.isupper, self.seen)) < 2), done


def ending(model, prompts, uniform, **settings):
    """Two tokens and an end in every turn, and likelihoods that are made up."""
    found = generate(model, prompts, uniform, **settings)
    tokens = [[token for token in [*row, 20, 20] if token not in model.ends][:2] for row in found.tokens]
    return Completions([[*row, *model.ends] for row in tokens], [[-1.0] * 3] * len(tokens), [True] * len(tokens))


def test_in_a_real_run_of_episodes_what_the_environment_says_gets_no_gradient():
    task = sf.language.Episodes(Steps, max_turns=5)
    method = EMPG(prompts=4, samples=4, max_tokens=4, minibatches=1, max_grad_norm=None)
    model = fresh(Nano(width=16, layers=1, heads=2, context=96, warmup=0), seed=1)
    run = LanguageLearner(method, model, task, make_rewards(task, None, None), ending)
    made = run.estimator.judged(run.collect()[0])
    (term,) = method.terms(made)
    said = (made.turn < 0) & (torch.arange(made.turn.shape[1]) < made.sequences.lengths[:, None])
    assert said.any() and (term.advantage[said] == 0).all()
    each, exists = by_step(term.advantage.double(), made.turn)
    assert exists.sum(1).unique().tolist() == [2, 3, 4] and abs(each[exists].mean().item()) < 1e-6
    plain = run.gradient([term])
    wild = dataclasses.replace(term, advantage=torch.where(made.turn < 0, 1e6, term.advantage))
    assert all(torch.equal(x, plain[name]) for name, x in run.gradient([wild]).items())
    assert any(bool(x.any()) for x in plain.values())


def test_it_trains_from_python_with_as_many_turns_as_are_asked_for(tmp_path):
    model = fresh(Nano(width=16, layers=1, heads=2, context=96, warmup=0), seed=1)
    task = sf.language.Episodes(Steps)
    sizes = {"prompts": 2, "samples": 2, "max_tokens": 2}
    run = sf.train("empg", model=model, task=task, max_turns=6, steps=1, run_dir=tmp_path / "run", **sizes)
    assert "max_turns=6" in run.config["env"]["env"]
    with pytest.raises(UsageError, match="max_turns=6 is not allowed with the task arithmetic"):
        sf.train("empg", model=model, task="arithmetic", max_turns=6, steps=1, run_dir=tmp_path / "other", **sizes)
    assert not (tmp_path / "other").exists()


def test_a_negative_sharpness_is_refused():
    with pytest.raises(UsageError, match="sharpness=-1"):
        EMPG(sharpness=-1.0)
