"""A language of three letters and at most three places, in which everything can be written down: the expected gradient
of every method that learns from groups of completions, against the gradient of what it is said to maximise.

The third letter ends a completion; there are fifteen. A method is run on every group of them, weighted by the group's
probability, through its own terms and the estimator. What it maximises is a sum over all completions, differentiated
by itself; the completions that one is compared with are held fixed.
"""

from __future__ import annotations

import math
from collections import Counter
from contextlib import nullcontext
from itertools import combinations_with_replacement, product

import pytest
import torch

pytest.importorskip("transformers", reason="language models need surefoot[language]")

from surefoot import catalogue
from surefoot.envs.language import Example
from surefoot.loops.group_rollout.estimator import LanguageEstimator
from surefoot.methods.language.tbrm import ReferredRollout
from surefoot.models.language.model import TokenStatistics
from surefoot.models.language.sequences import join

END, PLACES = 2, 3
WORDS = [
    w
    for n in range(1, PLACES + 1)
    for w in product(range(3), repeat=n)
    if END not in w[:-1] and (w[-1] == END or n == PLACES)
]
LENGTH = [len(w) for w in WORDS]
REWARD = torch.rand(len(WORDS), generator=torch.Generator().manual_seed(5)).double()
REWARD[4], REWARD[9] = 1.0, REWARD[2]  # one is right, and two are equally good
PROMPT = [[0]]
BETA = 0.3


class Table:
    """A model with its own logits after each of the thirteen beginnings, and another one as its reference."""

    sharded, critic, gradient_scale, adapted, device = False, None, 1.0, False, torch.device("cpu")

    def __init__(self) -> None:
        g = torch.Generator().manual_seed(0)
        self.logits, self.before = (torch.randn(13, 3, generator=g).double() for _ in range(2))
        self.logits.requires_grad_()

    def evaluating(self):
        return nullcontext()

    def head(self):
        return self.logits.detach(), None, None

    def statistics(self, sequences, *, temperature=1.0, reference=False, candidates=0):
        tokens, valid = sequences.tokens, sequences.valid
        columns, begun = [torch.zeros(3, len(tokens), dtype=torch.float64)], torch.zeros(len(tokens), dtype=torch.int64)
        for t in range(1, tokens.shape[1]):
            logits = (self.before if reference else self.logits)[(0, 1, 4)[t - 1] + begun]
            chances = logits.log_softmax(-1)
            figures = (chances.gather(1, tokens[:, t : t + 1])[:, 0], -(chances.exp() * chances).sum(1))
            every = torch.stack([*figures, logits.logsumexp(1)])
            columns.append(torch.where(valid[:, t], every, 0.0))
            begun = 3 * begun + tokens[:, t]
        found = torch.stack(columns, -1)
        return TokenStatistics(
            *(found if torch.is_grad_enabled() and not reference else found.float())
        )  # as it is stored

    def words(self, reference=False):
        """log π of every token of every completion."""
        return self.statistics(join(PROMPT * len(WORDS), WORDS), reference=reference).log_prob


def rollout(model, group):
    """Some completions of the prompt, given by their numbers."""
    sequences = join(PROMPT * len(group), [WORDS[i] for i in group])
    reward = REWARD[list(group)][None]
    known = {"examples": [Example("?")], "index": torch.tensor([0]), "sequences": sequences, "reward": reward}
    known |= {"texts": ["".join("ab."[t] for t in WORDS[i]) for i in group], "components": {"reward": reward}}
    known |= {"truncated": torch.tensor([[WORDS[i][-1] != END for i in group]])}
    known |= {"log_prob": model.statistics(sequences).log_prob.detach()}
    return ReferredRollout(**known, reference=model.statistics(sequences, reference=True))


def expected(method, model):
    """The mean gradient of the method's loss over all groups that the model may write."""
    estimator, chance = LanguageEstimator(method, model), model.words().sum(1).exp().tolist()
    total = torch.zeros_like(model.logits)
    for group in combinations_with_replacement(range(len(WORDS)), method.samples):
        orders = math.factorial(len(group))
        for count in Counter(group).values():
            orders //= math.factorial(count)
        model.logits.grad = None
        for term in method.terms(estimator.judged(rollout(model, group))):
            estimator.backward(term.standardized(), estimator.batch(term.standardized(), False), term.sequences)
        if model.logits.grad is not None:
            total += orders * math.prod(chance[i] for i in group) * model.logits.grad
    return total


# --- what is maximised -----------------------------------------------------------------------------------------------


def in_groups(worth, samples=2):
    """A completion's worth beside the others of its group, times its share of the loss: Σ_y π(y) E_others[n·worth]."""

    def value(model):
        chance = model.words().sum(1).exp()
        fixed = chance.detach().tolist()
        others = list(product(range(len(WORDS)), repeat=samples - 1))
        weight = [math.prod(fixed[j] for j in group) for group in others]
        each = [sum(w * worth(i, *g) for w, g in zip(weight, others, strict=True)) for i in range(len(WORDS))]
        return samples * (chance * torch.tensor(each, dtype=torch.float64)).sum()

    return value


def reward(i):
    return float(REWARD[i])


def standardised(epsilon=1e-4, unbiased=False):
    """The standardised reward of a completion beside one other."""

    def worth(i, j):
        gap = reward(i) - reward(j)
        return gap / 2 / (abs(gap) / (math.sqrt(2) if unbiased else 2) + epsilon)

    return worth


def scored(factor, beta=0.0):
    """The expected reward, less the divergence from the reference."""

    def value(model):
        log = model.words().sum(1)
        divergence = log.exp() * (log - model.words(reference=True).sum(1).detach())
        return factor * ((log.exp() * REWARD).sum() - beta * divergence.sum())

    return value


def near_the_reference(model):
    """The expected reward, and k3 of every token with the completions held fixed."""
    log, before = model.words(), model.words(reference=True)
    k3 = torch.expm1(before - log) - (before - log)
    return scored(1 / 6)(model) - BETA * (log.sum(1).exp().detach() * k3.sum(1)).sum() / PLACES


def residuals(model):
    """TBRM's squared residuals of what the model writes."""
    log, before, start = model.words().sum(1), model.words(reference=True).sum(1), model.logits[0].logsumexp(0)
    return -(log.exp().detach() * (BETA * (start + log - before) - REWARD) ** 2).sum()


def lens(i, j):
    """LENS with a success (the fifth completion) in the group, or none."""
    log = Table().words().sum(1).tolist()
    sure = {k: math.exp(log[k] / LENGTH[k]) for k in (i, j)}
    floor, known = 2 * max(sure.values()), sum(reward(k) / math.exp(log[k]) for k in (i, j))
    top = max(floor, 2 / known)
    found = {k: reward(k) - (1 - reward(k)) / 2 * sure[k] / (top - sure[k]) for k in (i, j)}
    gap = found[i] - found[j]
    if reward(i) == reward(j):
        return 0.25 * gap / 2 if reward(i) < 1 else 0.0
    return gap / 2 / (abs(gap) / math.sqrt(2) + 1e-6)


def best_of_two(i, *others):
    """Max@2's standardised R̃ of three completions."""
    best = [max(reward(i), reward(j)) for j in others], [max(map(reward, others))]
    mine, rest = sum(best[0]) / 3, [(best[1][0] + best[0][k]) / 3 for k in (0, 1)]
    mean = (mine + sum(rest)) / 3
    deviation = math.sqrt(sum((x - mean) ** 2 for x in (mine, *rest)) / 3)
    return (mine - mean) / (deviation + 1e-4)


def per_sequence(worth):
    return in_groups(lambda i, j: worth(i, j) / (2 * LENGTH[i]))


def per_token(worth):
    return in_groups(lambda i, j: worth(i, j) / (LENGTH[i] + LENGTH[j]))


def half_gap(i, j):
    return (reward(i) - reward(j)) / 2


def shared(i, j):
    """ΔL: shares of the two by the inverse of their lengths."""
    share = 1 / LENGTH[i] / (1 / LENGTH[i] + 1 / LENGTH[j])
    return standardised(1e-6, unbiased=True)(i, j) * share / PLACES


GRPO, TOKENS = per_sequence(standardised()), per_token(standardised())
CASES = [
    # What is maximised is the expected reward itself.
    ("rloo", {}, scored(1)),
    ("dr-grpo", {}, scored(1 / 6)),
    ("dr-grpo", {"kl": BETA}, near_the_reference),
    ("bnpo", {}, scored(1 / 2)),
    ("copg", {"kl": BETA}, scored(2, BETA)),
    ("rebel", {"kl": BETA}, scored(4, BETA)),
    # Rewards are compared in other ways, or completions have other weights.
    ("grpo", {}, GRPO),
    ("grpo", {"unbiased": True}, per_sequence(standardised(unbiased=True))),
    ("gspo", {}, GRPO),
    ("empg", {}, GRPO),
    ("rps", {}, GRPO),
    ("pspo", {}, per_sequence(lambda i, j: 0.9 * standardised()(i, j))),
    ("dynamic-reward-weighting", {}, per_sequence(standardised(1e-6, unbiased=True))),
    ("pcl", {}, per_sequence(half_gap)),
    ("lens", {}, per_sequence(lens)),
    ("dapo", {}, TOKENS),
    ("cispo", {}, TOKENS),
    ("cpgd", {}, per_token(standardised(1e-6, unbiased=True))),
    ("ghpo", {}, per_token(standardised(unbiased=True))),
    ("gpg", {}, per_token(half_gap)),
    ("rpg-kl", {}, per_token(half_gap)),
    ("rpg-kl", {"form": "differentiable", "divergence": "reverse", "beta": BETA},
     per_token(lambda i, j: half_gap(i, j) - BETA)),
    ("rft", {}, per_token(lambda i, j: reward(i))),
    ("delta-l", {}, in_groups(shared)),
    ("max-at-k", {"k": 2, "samples": 3}, in_groups(lambda i, *others: best_of_two(i, *others) / 3, 3)),
    ("tbrm", {"beta": BETA}, residuals),
]  # fmt: skip


@pytest.mark.parametrize(("slug", "changes", "value"), CASES, ids=[f"{i}-{case[0]}" for i, case in enumerate(CASES)])
def test_the_expected_gradient_is_that_of_what_is_maximised(slug, changes, value):
    model, made = Table(), catalogue.method_class(slug)
    plain = {"kl": 0.0, "k": 2} if hasattr(made, "k") else {"kl": 0.0}
    method = made(**{"samples": 2, "max_tokens": PLACES, **plain, **changes})
    (wanted,) = torch.autograd.grad(-value(model), model.logits)
    found = expected(method, model)
    assert wanted.abs().max() > 1e-3
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_the_language_is_whole():
    assert len(WORDS) == 15 and float(Table().words().sum(1).exp().sum()) == pytest.approx(1)
