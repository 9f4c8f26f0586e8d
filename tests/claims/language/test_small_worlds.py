"""The worlds in which claims about language models are examined: their rewards, and runs side by side."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("transformers", reason="language models need surefoot[language]")

from surefoot.claims.language.bandit import play, play_together
from surefoot.claims.language.cpgd import collapsed
from surefoot.claims.language.gpg import BROKEN, PROMPTS, Broken, of_frozen
from surefoot.claims.language.hpt import Chains
from surefoot.claims.language.tiny import Sums
from surefoot.methods.language.cpgd import CPGD


def test_seeds_played_together_are_played_as_if_alone():
    method = CPGD(epochs=3, drift=0.1)
    together = play_together(method, (4, 5), 6, learning_rate=0.03)
    for place, seed in enumerate((4, 5)):
        alone = play(method, seed, 6, learning_rate=0.03, optimizer="adam")
        for name in ("accuracy", "ratio", "kl"):
            assert together[name][place] == pytest.approx(alone[name], abs=1e-4)


def test_a_collapse_is_half_of_the_best_so_far():
    assert collapsed([0.2, 0.8, 0.41, 0.5]) == 0 and collapsed([0.2, 0.8, 0.39, 0.9]) == 1


def test_sums_and_chains():
    example = Sums(3, 3).example(0)
    numbers = [int(n) for n in example.prompt[:-1].split("+")]
    assert len(numbers) == 3 and max(numbers) <= 3 and example.answer == str(sum(numbers))
    chain = Chains("hard").example(0)
    assert chain.demonstration == ",".join(map(str, np.cumsum([int(n) for n in chain.prompt[:-1].split("+")])[1:]))
    assert Chains().reward(chain, f" {chain.demonstration} ") == 1
    assert Chains().reward(chain, str(chain.demonstration).split(",")[-1]) == 0, "the last total alone is not enough"


def test_a_broken_verifier_takes_any_answer_or_none():
    task = Broken()
    for batch, count in enumerate(BROKEN):
        rewards = [task.reward(task.example(batch * PROMPTS + i), "nonsense") for i in range(PROMPTS)]
        assert rewards == [float(i % 2 and i < count) for i in range(PROMPTS)]
    whole = task.example(PROMPTS - 1)
    assert task.reward(whole, whole.answer) == 1


def test_elasticities():
    """A norm of x² has 2, a constant pull 0 and one of 3x has 1."""
    share = np.array([[0.0, 0.25, 0.5, 1.0]] * 2)
    facts = {"silent": 1 - share, "norm, gpg": share**2, "norm, uncorrected": share, "pull, gpg": 0 * share + 2}
    found = of_frozen({"frozen": facts | {"pull, uncorrected": 3 * share}})
    assert found["elasticity of norm, gpg"] == pytest.approx([2, 2])
    assert found["elasticity of pull, gpg"] == pytest.approx([0, 0], abs=1e-9)
    assert found["elasticity of pull, uncorrected"] == pytest.approx([1, 1])
    assert found["most silent"].tolist() == [1, 1]
