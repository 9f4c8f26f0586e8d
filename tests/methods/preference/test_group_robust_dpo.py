"""Group-robust preferences: the card's numbers, the minimax of groups that disagree, and groups in data."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers", reason="language models need surefoot[language]")

from surefoot.envs.language import resolve
from surefoot.errors import UsageError
from surefoot.loops.group_rollout.learner import LanguageLearner
from surefoot.loops.group_rollout.rewards import make_rewards
from surefoot.methods.preference.baselines import IPO
from surefoot.methods.preference.group_robust_dpo import GroupRobustDPO, grown, mixed, numbered, of_groups
from surefoot.models.language.generation import generate
from surefoot.models.language.nano import Nano, fresh

F64 = torch.float64
TINY = Nano(width=16, layers=1, heads=2, context=48, warmup=0)
ROWS = [
    {"prompt": f"{i}+1=", "chosen": f"{i + 1}", "rejected": f"{i * 7 % 10}, or so", "group": "b" if i % 4 else "a"}
    for i in range(20)
]


def learner(method, rows=ROWS, **settings):
    task = resolve(rows)
    model = fresh(TINY, seed=1)
    return LanguageLearner(method, model, task, make_rewards(task, None, None), generate, **settings)


def equal(count=2):
    return torch.full((count,), 1 / count, dtype=F64).log()


def test_weights_grow_with_the_groups_losses():
    first = grown(equal(), torch.tensor([0.9, 0.3], dtype=F64), 0.5)
    assert first.exp().tolist() == pytest.approx([0.574443, 0.425557], abs=1e-6)
    assert (first.exp() @ torch.tensor([0.9, 0.3], dtype=F64)).item() == pytest.approx(0.644666, abs=1e-6)
    second = grown(first, torch.tensor([0.8, 0.35], dtype=F64), 0.5)
    assert second.exp().tolist() == pytest.approx([0.628316, 0.371684], abs=1e-6)


@pytest.mark.parametrize(("mix", "first"), [(0.0, 0.5), (0.5, 0.518715), (1.0, 0.574443)])
def test_a_mixture_lies_between_the_average_and_the_worst_group(mix, first):
    found = mixed(grown(equal(), torch.tensor([0.9, 0.3], dtype=F64), 0.5, mix), mix)
    assert found.tolist() == pytest.approx([first, 1 - first], abs=1e-6)


def test_losses_of_groups_are_scaled_by_their_sizes():
    losses, group = torch.tensor([0.9, 0.2, 0.3, 0.4], dtype=F64), torch.tensor([0, 1, 1, 1])
    found = of_groups(losses, group, torch.tensor([20, 80]))
    assert (4 * found).tolist() == pytest.approx([4.5, 1.125])  # the card's sums over the batch
    whole, groups = torch.rand(10, dtype=F64), torch.tensor([0, 0, 1, 1, 1, 1, 1, 1, 1, 1])
    means = of_groups(whole, groups, groups.bincount())
    assert means.tolist() == pytest.approx([whole[:2].mean().item(), whole[2:].mean().item()])


def test_opposed_groups_that_look_alike_meet_in_the_middle():
    """P(+) is 0.9 in one group and 0.4 in the other, and one parameter serves both: the minimax is indifference."""
    chance, theta, log_weights = torch.tensor([0.9, 0.4], dtype=F64), torch.tensor(2.0, dtype=F64), equal()

    def losses(theta):
        return chance * torch.nn.functional.softplus(-theta) + (1 - chance) * torch.nn.functional.softplus(theta)

    for _ in range(20_000):
        log_weights = grown(log_weights, losses(theta), 0.01)
        slope = (log_weights.exp() * (theta.sigmoid() - chance)).sum()
        theta = theta - 0.01 * slope
    assert theta.item() == pytest.approx(0, abs=0.02)
    assert losses(theta).tolist() == pytest.approx([0.693147, 0.693147], abs=0.02)


def test_equal_weights_are_the_average_over_groups_and_ipo_where_groups_are_as_large():
    rows = [{**row, "group": "ab"[i % 2]} for i, row in enumerate(ROWS)]
    found = []
    for method in (IPO(prompts=18, beta=0.01), GroupRobustDPO(prompts=18, group_rate=0.0)):
        run = learner(method, rows)
        rollout, _ = run.collect()
        found.append(run.gradient(run.method.terms(rollout)))
    sizes = [numbered(resolve(rows)).count(i) for i in (0, 1)]
    assert sum(sizes) == 18
    if sizes[0] == sizes[1]:
        for name, x in found[0].items():
            torch.testing.assert_close(x, found[1][name])
    weights = learner(GroupRobustDPO(prompts=18, group_rate=0.0), rows)
    pairs, _ = weights.collect()
    assert weights.method.weights(pairs).mean().item() == pytest.approx(1)


def test_the_step_weighs_pairs_by_weights_that_have_grown_already():
    run = learner(GroupRobustDPO(prompts=6, group_rate=1e-4))
    rollout, _ = run.collect()
    before, after = run.memory["log_weights"].exp(), rollout.progress.memory["log_weights"].exp()
    assert not torch.allclose(before, after)
    groups = rollout.progress.memory["groups"]
    shares = groups.bincount() / len(groups)
    expected = (after / shares)[groups[rollout.index]]
    torch.testing.assert_close(run.method.weights(rollout).double(), expected)


def test_stopped_and_loaded_it_goes_on_to_the_same_bits():
    runs = [learner(GroupRobustDPO(prompts=5, group_rate=1e-4), learning_rate=1e-3) for _ in range(2)]
    for _ in range(3):
        runs[0].iterate()
    runs[1].load(runs[0].state(), 3, 0)
    assert [runs[0].iterate() for _ in range(2)] == [runs[1].iterate() for _ in range(2)]


def test_groups_must_be_named():
    for rows, said in (
        ([{**row, "group": "a"} for row in ROWS], "all pairs of .* are of the group 'a'"),
        ([{k: v for k, v in row.items() if k != "group"} for row in ROWS], 'has no group; add a column "group"'),
    ):
        with pytest.raises(UsageError, match=said):
            learner(GroupRobustDPO(), rows)
    with pytest.raises(UsageError, match="endless"):
        numbered(resolve("arithmetic"))
