"""SRPO: the card's numbers on a bandit of three answers, its solution whoever wrote the pairs, and revisions."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers", reason="language models need surefoot[language]")

from surefoot.envs.language import Example, resolve
from surefoot.errors import UsageError
from surefoot.loops.group_rollout.learner import LanguageLearner
from surefoot.loops.group_rollout.rewards import make_rewards
from surefoot.methods.preference.baselines import IPO
from surefoot.methods.preference.srpo import SRPO, improving, revised
from surefoot.models.language.agent import LanguageAgent
from surefoot.models.language.generation import generate
from surefoot.models.language.nano import Nano, fresh
from surefoot.objectives.preferences import Compared

F64 = torch.float64
P = torch.tensor([[0.5, 0.99, 0.3], [0.01, 0.5, 0.25], [0.7, 0.75, 0.5]], dtype=F64)  # of the row over the column
UNIFORM = torch.full((3,), 1 / 3, dtype=F64)
WRITERS = [[1 / 3, 1 / 3, 1 / 3], [0.2, 0.6, 0.2], [0.1, 0.1, 0.8]]


def solved(beta, preference=P):
    """The closed form: the policy, and the improver's row for every given answer."""
    raised = UNIFORM * (preference.T / beta).exp()
    policy = UNIFORM / raised.sum(1)
    return policy / policy.sum(), raised / raised.sum(1, keepdim=True)


def expected(beta, writer, log_policy, log_improver, mix=0.5):
    """The mean of the shipped loss over pairs of a writer, with replacement, and their labels."""
    rho, improver = log_policy - UNIFORM.log(), log_improver - UNIFORM.log()
    writer = torch.as_tensor(writer, dtype=F64)
    won, lost = (x.flatten() for x in torch.meshgrid(torch.arange(3), torch.arange(3), indexing="ij"))

    def read(y, other):
        return torch.stack([rho[y], improver[other, y], improver[y, y]], -1)

    values = torch.stack([read(won, lost), read(lost, won)], 1)
    losses = SRPO(beta=beta, mix=mix).pair_objective().losses(Compared(values, torch.zeros_like(values)))
    return 2 * (writer[won] * writer[lost] * P[won, lost] * losses).sum()  # either of the two was shown first


@pytest.mark.parametrize(
    ("beta", "policy"),
    [
        (0.5, [0.357285, 0.192801, 0.449914]),
        (1.0, [0.355279, 0.257095, 0.387626]),
        (0.1, [0.125725, 0.007158, 0.867117]),
    ],
)
def test_the_solution(beta, policy):
    found, improver = solved(beta)
    assert found.tolist() == pytest.approx(policy, abs=1e-6)
    kept = improver.diagonal() / UNIFORM  # what the improver leaves as it is
    torch.testing.assert_close(found, UNIFORM * kept / (UNIFORM * kept).sum())


@pytest.mark.parametrize(("writer", "least"), [*zip(WRITERS, (0.173867, 0.174176, 0.228798), strict=True)])
@pytest.mark.parametrize("mix", [0.2, 0.5])
def test_at_the_solution_the_loss_is_the_variance_of_the_labels_and_stationary(writer, least, mix):
    policy, improver = solved(0.5)
    logits = [policy.log().requires_grad_(), improver.log().requires_grad_()]
    found = expected(0.5, writer, *(x.log_softmax(-1) for x in logits), mix=mix)
    if mix == 0.5:
        assert found.item() == pytest.approx(least, abs=1e-6)
    for slope in torch.autograd.grad(found, logits):
        torch.testing.assert_close(slope, torch.zeros_like(slope), atol=1e-12, rtol=0)
    torch.testing.assert_close(
        improver[0].detach(), torch.tensor([0.348780, 0.130901, 0.520319], dtype=F64), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("writer", WRITERS)
def test_whoever_wrote_the_pairs_it_is_found_from_zeros(writer):
    logits = [torch.zeros(3, dtype=F64, requires_grad=True), torch.zeros(3, 3, dtype=F64, requires_grad=True)]
    optimizer = torch.optim.LBFGS(
        logits, max_iter=500, tolerance_grad=1e-11, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        loss = expected(0.5, writer, *(x.log_softmax(-1) for x in logits))
        loss.backward()
        return loss

    optimizer.step(closure)
    for found, wanted in zip(logits, solved(0.5), strict=True):
        torch.testing.assert_close(found.detach().softmax(-1), wanted, atol=1e-6, rtol=0)


def test_what_ipo_prefers_depends_on_who_wrote_the_pairs():
    """Its closed form at τ = ½: π ∝ π_ref·exp(P(y ≻ μ)/τ)."""
    found = [(UNIFORM.log() + P @ torch.tensor(mu, dtype=F64) / 0.5).softmax(-1).tolist() for mu in WRITERS[:2]]
    assert found[0] == pytest.approx([0.38229, 0.192388, 0.425322], abs=1e-5)
    assert found[1] == pytest.approx([0.429666, 0.192291, 0.378043], abs=1e-5)


def triples(w, w_l, w_w, l, l_w, l_l):  # noqa: E741
    return torch.tensor([[[w, w_l, w_w], [l, l_w, l_l]]], dtype=F64, requires_grad=True)


def test_one_pair():
    values, nothing = triples(0.5, 0.4, 0.2, -0.1, -0.3, 0.1), torch.zeros(1, 2, 3, dtype=F64)
    found = {
        mix: SRPO(beta=0.5, mix=mix).pair_objective().losses(Compared(values, nothing)).item() for mix in (0.25, 0.5)
    }
    assert found == pytest.approx({0.25: 0.75 * 0.030625 + 0.25 * 0.0925, 0.5: 0.0615625})
    objective = SRPO(beta=0.5, mix=0.3).pair_objective()
    assert torch.autograd.gradcheck(lambda x: objective.losses(Compared(x, nothing)), values)


def test_with_an_improver_that_stays_at_the_reference_it_is_ipo_of_half_beta():
    values, nothing = triples(0.5, 0.0, 0.0, -0.1, 0.0, 0.0), torch.zeros(1, 2, 3, dtype=F64)
    beta, mix = 0.5, 0.2
    found = SRPO(beta=beta, mix=mix).pair_objective().losses(Compared(values, nothing))
    ipo = IPO(beta=beta / 2).pair_objective().losses(Compared(values[..., 0], nothing[..., 0]))
    torch.testing.assert_close(found, (1 - mix) * (beta / 2) ** 2 * ipo + mix * 0.25)


def test_where_no_answer_is_preferred_or_the_reference_is_strong_nothing_moves():
    for beta, preference in ((0.5, torch.full((3, 3), 0.5, dtype=F64)), (1e9, P)):
        policy, improver = solved(beta, preference)
        torch.testing.assert_close(policy, UNIFORM)
        torch.testing.assert_close(improver, UNIFORM.expand(3, 3))


def test_the_game_is_worth_least_at_the_policy_that_can_be_improved_least():
    beta = 0.1

    def worth(policy):
        """Against the improver's best response, whose part is worth β·log Z(x, y)."""
        improved = beta * (UNIFORM * (P.T / beta).exp()).sum(1).log()
        return float((policy * (improved + beta * (policy / UNIFORM).log())).sum())

    assert worth(solved(beta)[0]) == pytest.approx(0.505415, abs=1e-6)
    assert worth(UNIFORM) == pytest.approx(0.634078, abs=1e-6)
    assert worth(torch.tensor([0.2, 0.2, 0.6], dtype=F64)) == pytest.approx(0.559206, abs=1e-6)


# --- language models -------------------------------------------------------------------------------------------------

TINY = Nano(width=16, layers=1, heads=2, context=48, warmup=0)
ROWS = [{"prompt": f"{i}+1=", "chosen": f"{i + 1}", "rejected": f"{i * 7 % 10}?"} for i in range(20)]


def learner(method, rows=ROWS, **settings):
    task = resolve(rows)
    return LanguageLearner(method, fresh(TINY, seed=1), task, make_rewards(task, None, None), generate, **settings)


def test_the_improver_is_asked_in_the_form_of_the_prompt():
    example = Example("2+2=", fields={"chosen": "4", "rejected": "5"})
    assert SRPO(request="Better?").learned(example) == [
        ("2+2=", "4"),
        ("2+2=5\nBetter?\n", "4"),
        ("2+2=4\nBetter?\n", "4"),
        ("2+2=", "5"),
        ("2+2=4\nBetter?\n", "5"),
        ("2+2=5\nBetter?\n", "5"),
    ]
    chat = improving([{"role": "user", "content": "2+2?"}], "5")
    assert [turn["role"] for turn in chat] == ["user", "assistant", "user"]
    assert chat[2]["content"] == "Improve this answer."


def test_a_step_learns_both_from_their_own_contexts():
    """After a few steps on one pair, both the policy and the improver of either answer prefer the chosen one."""
    run = learner(SRPO(prompts=4, beta=0.1, request="!"), ROWS[:2], learning_rate=1e-2)
    first = run.iterate()[0]
    assert first["loss"] == pytest.approx(0.25)  # all log-ratios are 0
    for _ in range(20):
        row = run.iterate()[0]
    assert row["loss"] < 0.1 and row["accuracy"] == 1 and row["margin"] > 0
    rollout, _ = run.collect()
    with torch.no_grad():
        now = run.model.statistics(rollout.pairs).log_prob.sum(1).view(-1, 2, 3)
    moved = now - rollout.reference.view(-1, 2, 3)
    assert (moved[:, 0, 1] > moved[:, 1, 2]).all() and (moved[:, 0, 2] > moved[:, 1, 1]).all()


def test_a_prompt_that_is_too_long_once_it_holds_an_answer_is_refused_before_training():
    from surefoot.loops.group_rollout.lengths import check_task

    run = learner(SRPO(request="?"))
    check_task(run.model, run.task, run.method)
    long = SRPO(request="Improve this answer, and be sure that it is better.")
    with pytest.raises(UsageError, match=r"row 1: the prompt '0\+1=0\?\\nImprove.* the model reads 48"):
        check_task(run.model, run.task, long)


def test_answers_are_revised_one_after_another():
    agent = LanguageAgent(fresh(TINY, seed=1), {"max_tokens": 3})
    texts = revised(agent, ["1+1=", "2+1="], 2, request="?", temperature=0.0)
    assert [len(row) for row in texts] == [2, 2, 2]
    asked = [improving(p, t, "?") for p, t in zip(["1+1=", "2+1="], texts[0], strict=True)]
    assert texts[1] == agent.texts(asked, temperature=0.0)
    with pytest.raises(UsageError, match="revisions=0"):
        revised(agent, ["1+1="], 0)


@pytest.mark.parametrize("setting", [{"mix": 0.0}, {"mix": 1.0}, {"beta": 0.0}, {"samples": 2}])
def test_settings_that_leave_a_policy_unlearned_are_refused(setting):
    with pytest.raises(UsageError, match=f"SRPO: {next(iter(setting))}="):
        SRPO(**setting)
