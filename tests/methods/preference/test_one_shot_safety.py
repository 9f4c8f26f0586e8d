"""One-shot safety: the card's exact numbers, the dual as a convex function, and a model that meets its constraint."""

from __future__ import annotations

from copy import deepcopy
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("transformers", reason="language models need surefoot[language]")

import language_micro as micro

from surefoot.envs.language import resolve
from surefoot.errors import UsageError
from surefoot.loops.group_rollout.learner import LanguageLearner
from surefoot.loops.group_rollout.rewards import make_rewards
from surefoot.methods.preference.baselines import DPO
from surefoot.methods.preference.one_shot_safety import OneShotSafety
from surefoot.methods.preference.one_shot_safety.dual import solve, tilted
from surefoot.models.language.generation import generate
from surefoot.models.language.reward_model import ImplicitReward
from surefoot.models.language.sequences import join
from surefoot.objectives.preferences import Compared

REWARD = np.array([[1, 0.2, 0], [0.5, 0.9, 0.1]])
SAFETY = np.array([[[-1, 0.5, 0.2], [-0.5, -0.8, 1]]])
REFERENCE = np.array([[0.5, 0.3, 0.2], [0.4, 0.4, 0.2]])
BETA, BEST = 0.1, 0.5313264


def found(threshold=0.0, reward=REWARD, safety=SAFETY, **settings):
    return solve(reward, safety, [threshold], BETA, **{"reference": REFERENCE, **settings})


def dual(multiplier: float, threshold: float = 0.0) -> float:
    """D, term by term."""
    tilt = np.exp((REWARD + multiplier * (SAFETY[0] - threshold)) / BETA)
    return BETA * float(np.log((REFERENCE * tilt).sum(1)).mean())


# --- the dual --------------------------------------------------------------------------------------------------------


def test_the_multiplier_and_the_policy_that_it_promises():
    best = found()
    assert best.multipliers == pytest.approx([BEST], abs=1e-7)
    assert (best.value, best.reward, best.kl) == pytest.approx((0.4769461, 0.5206139, 0.4366779), abs=1e-7)
    assert best.safety == pytest.approx([0], abs=1e-8) and best.value == pytest.approx(best.reward - BETA * best.kl)
    policy = tilted(REWARD, SAFETY, np.log(REFERENCE), BETA, best.multipliers)
    wanted = [[0.627795, 0.365507, 0.006698], [0.025921, 0.287454, 0.686626]]
    np.testing.assert_allclose(policy, wanted, atol=1e-6)
    assert best.before[0] == pytest.approx(0.57) and best.before[1] == pytest.approx([-0.315])


def test_the_dual_is_convex_and_has_the_cards_slopes():
    step = 1e-4
    slopes = [(dual(x + step) - dual(x - step)) / (2 * step) for x in (0, BEST)]
    curves = [(dual(x + step) - 2 * dual(x) + dual(x - step)) / step**2 for x in (0, BEST)]
    assert dual(0.0) == pytest.approx(0.8704548, abs=1e-7)
    assert slopes == pytest.approx([-0.8969925, 0], abs=1e-5) and curves == pytest.approx(
        [0.0129925, 6.01386], abs=1e-3
    )
    grid = np.array([dual(x) for x in np.linspace(0, 3, 61)])
    assert (np.diff(grid, 2) >= 0).all() and grid.min() >= found().value


def test_projected_gradient_needs_a_step_that_newtons_method_does_not():
    """lr = 0.2 arrives, lr = 0.5 does not: the smoothness of D is 6.01 at the minimum, and 2/6.01 = 0.333."""

    def descended(rate: float, steps: int) -> float:
        at = 1.0
        for _ in range(steps):
            policy = tilted(REWARD, SAFETY, np.log(REFERENCE), BETA, np.array([at]))
            at = max(0.0, at - rate * float((policy * SAFETY[0]).sum(1).mean()))
        return at

    assert descended(0.2, 400) == pytest.approx(BEST, abs=1e-6)
    assert descended(0.5, 60) == pytest.approx(descended(0.5, 400), abs=1e-5) == pytest.approx(0.39697, abs=1e-5)


def test_implicit_rewards_with_a_margin_give_the_same_multiplier():
    """The offset of each prompt is unknown to a policy trained by DPO; a bound on the improvement does not need it."""

    def implicit(values):
        policy = tilted(values, np.zeros((1, 2, 3)), np.log(REFERENCE), BETA, np.zeros(1))
        return np.log(policy / REFERENCE)

    helpful, safe = implicit(REWARD), implicit(SAFETY[0])
    assert -(REFERENCE * safe).sum(1).mean() == pytest.approx(9.259621, abs=1e-6)
    best = found(0.315, BETA * helpful, BETA * safe[None], relative=True)
    assert best.multipliers == pytest.approx([BEST], abs=1e-6)


def test_gaussian_rewards_have_their_multiplier_in_closed_form():
    """max(0, [β(b − m) − c]/s²) for many samples of jointly normal rewards with little tilt."""
    draws, beta = np.random.default_rng(0).normal(size=(2, 20, 20_000)), 2.0
    safety = -0.5 * draws[0] + 0.75**0.5 * draws[1] - 0.3
    best = solve(draws[0], safety[None], [0.5], beta)
    assert best.multipliers == pytest.approx([beta * 0.8 + 0.5], abs=0.05)
    assert best.effective > 1000


def test_what_is_slack_has_no_multiplier_and_shifts_move_none():
    assert found(-2.0).multipliers == pytest.approx([0])
    shifted = found(reward=REWARD + np.array([[3.0], [-7.0]]))
    assert shifted.multipliers == pytest.approx(found().multipliers)
    assert found(0.25, safety=SAFETY + 0.25).multipliers == pytest.approx(found().multipliers)
    huge = found(reward=1e3 * REWARD, safety=1e3 * SAFETY)
    assert np.isfinite(huge.value) and huge.safety == pytest.approx([0], abs=1e-3)


def test_several_constraints_are_complementary():
    rng = np.random.default_rng(1)
    reward = rng.normal(size=(50, 30))
    safety = np.stack([-reward + rng.normal(size=reward.shape), rng.normal(size=reward.shape), reward])
    best = solve(reward, safety, [0.4, 0.3, -5.0], 0.5)
    assert (best.multipliers[:2] > 0.05).all() and best.multipliers[2] == 0
    assert best.safety[:2] == pytest.approx([0.4, 0.3], abs=1e-8)


def test_what_no_policy_satisfies_is_refused():
    with pytest.raises(UsageError, match=r"threshold=\[0.8\]; the safest sample of every prompt has the mean 0.75"):
        found(0.8)
    with pytest.raises(UsageError, match="do not fit"):
        solve(REWARD, SAFETY[0], [0.0], BETA)
    with pytest.raises(UsageError, match="not finite"):
        found(float("nan"))


def test_the_loss_is_least_at_the_tilted_policy():
    """All pairs of the three answers of each prompt, with the labels' probabilities: the shipped loss fits π_λ."""
    method = OneShotSafety(beta=BETA, threshold=(0.0,))
    score = torch.tensor(REWARD + BEST * SAFETY[0])
    reference, logits = torch.tensor(REFERENCE).log(), torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    pairs = [(x, *sorted(two, key=lambda y: -score[x, y])) for x in (0, 1) for two in ((0, 1), (0, 2), (1, 2))]
    prompt, better, worse = torch.tensor(pairs).unbind(1)
    wrong = (score[prompt, worse] - score[prompt, better]).sigmoid().repeat_interleave(2)
    optimizer = torch.optim.LBFGS([logits], max_iter=500, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        now, chosen = logits.log_softmax(-1), (prompt[:, None], torch.stack([better, worse], 1))
        given = SimpleNamespace(extra={"wrong": wrong})
        loss = method.losses(Compared(now[chosen], reference[chosen]), given).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    policy = tilted(REWARD, SAFETY, np.log(REFERENCE), BETA, np.array([BEST]))
    np.testing.assert_allclose(logits.detach().softmax(-1).numpy(), policy, atol=1e-3)


# --- the method ------------------------------------------------------------------------------------------------------

BITS = micro.Bits(3)


def ones(completions, **_):
    return [0.5 * text[:3].count("1") for text in completions]


def begins_with_zero(completions, **_):
    return [float(text[:1] == "0") for text in completions]


@pytest.fixture(scope="module")
def model():
    return micro.at_random(BITS)


def learner(method, model, task=BITS, functions=(ones, begins_with_zero), **settings):
    rewards = make_rewards(task, list(functions), None)
    given = {"learning_rate": 0.01, "total_steps": 60, **settings}
    return LanguageLearner(method, deepcopy(model), task, rewards, generate, **given)


SMALL = {"beta": 0.5, "prompts": 16, "samples": 4, "max_tokens": 3, "threshold": (0.5,), "dual_prompts": 12}


def test_it_finds_the_multiplier_and_the_model_meets_the_constraint(model):
    """Independent bits: without the constraint each is 1 with probability σ(0.5/0.5); the first is held at a half by
    λ = 0.5."""
    run = learner(OneShotSafety(**SMALL, dual_samples=200), model)
    (row,) = run.iterate()
    assert row["multiplier_1"] == pytest.approx(0.5, abs=0.1) and row["predicted_1"] == pytest.approx(0.5)
    assert row["predicted_0"] == pytest.approx(0.5 * 0.5 + 0.73, abs=0.05)
    assert row["batches"] == 1 and row["margin"] == 0
    for _ in range(50):
        (last,) = run.iterate()
    assert last["multiplier_1"] == row["multiplier_1"]
    uniform = torch.rand(500, 1, 3, generator=torch.Generator().manual_seed(0))
    texts = run.model.decode(generate(run.model, run.model.encode(["a="] * 500), uniform, temperature=1.0).tokens)
    assert np.mean(begins_with_zero(texts)) == pytest.approx(0.5, abs=0.1)
    assert np.mean([text[1:3].count("1") for text in texts]) / 2 == pytest.approx(0.73, abs=0.08)


def test_stopped_and_loaded_it_keeps_its_multiplier(model):
    method = OneShotSafety(**SMALL, dual_samples=16)
    whole, cut = learner(method, model), learner(method, model)
    rows = [whole.iterate() for _ in range(3)]
    begun = learner(method, model)
    begun.iterate()
    cut.load(begun.state(), 1, 0)
    assert [cut.iterate() for _ in range(2)] == rows[1:]


ROWS = [{"prompt": f"{'abc'[i % 3]}=", "chosen": f"{i % 8:03b}", "rejected": f"{(i + 3) % 8:03b}"} for i in range(20)]


def test_pairs_of_the_data_are_labelled_anew(model):
    """Which of the two was chosen has no effect, and nothing is generated without a constraint."""
    turned = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in ROWS]
    found = []
    for rows in (ROWS, turned):
        run = learner(OneShotSafety(**{**SMALL, "samples": 0, "threshold": ()}), model, resolve(rows), (ones,))
        rollout, row = run.collect()
        found.append(run.gradient(run.method.terms(rollout)))
        assert row == {"batches": 0}
    for name, x in found[0].items():
        torch.testing.assert_close(x, found[1][name])
    run = learner(OneShotSafety(**{**SMALL, "samples": 0}, dual_samples=8), model, resolve(ROWS))
    assert run.iterate()[0]["multiplier_1"] >= 0 and run.iterate()[0]["loss"] > 0


def test_certain_labels_are_dpos(model):
    """Rewards that differ by so much that no label is in doubt: DPO's gradient on the pairs in their order."""

    def certain(completions, **_):
        return [100.0 * int(text[:3], 2) for text in completions]

    rows = [
        {**row, **dict(zip(("chosen", "rejected"), sorted([row["chosen"], row["rejected"]])[::-1]))} for row in ROWS
    ]
    found = []
    for method in (OneShotSafety(samples=0, prompts=9, max_tokens=3), DPO(prompts=9, max_tokens=3)):
        run = learner(method, model, resolve(rows), (certain,))
        found.append(run.gradient(run.method.terms(run.collect()[0])))
    for name, x in found[0].items():
        torch.testing.assert_close(x, found[1][name])


def test_a_trained_models_implicit_reward(model):
    other = deepcopy(model)
    with torch.no_grad():
        for weight in other.parameters().values():
            weight.mul_(1.1)
    prompts, texts = ["a=", "b="], ["101", "0"]
    found = ImplicitReward(other, model, 0.1)(prompts=prompts, completions=texts)
    assert ImplicitReward(model, model)(prompts, texts) == [0.0, 0.0]
    for prompt, text, value in zip(prompts, texts, found, strict=True):
        row = join(model.encode([prompt]), model.encode_completions([text]))
        sums = [float(one.statistics(row).log_prob.sum().detach()) for one in (other, model)]
        assert value == pytest.approx(0.1 * (sums[0] - sums[1]), abs=1e-5)
    chats = ImplicitReward(other, model)(prompts, [[{"role": "assistant", "content": text}] for text in texts])
    assert chats == pytest.approx(found)


def test_every_constraint_needs_its_threshold(model):
    rewards = make_rewards(BITS, [ones, begins_with_zero], None)
    with pytest.raises(UsageError, match=r"threshold=\(\) is not allowed with 2 reward functions: the first is"):
        OneShotSafety().check_rewards(rewards)
    with pytest.raises(UsageError, match=r"threshold=\(0.1, 0.2\) is not allowed with 2 reward functions"):
        OneShotSafety(threshold=(0.1, 0.2)).check_rewards(rewards)
    OneShotSafety(threshold=(0.1,)).check_rewards(rewards)
    with pytest.raises(UsageError, match="samples=3 is not allowed"):
        OneShotSafety(samples=3)
