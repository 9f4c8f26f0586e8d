"""Small worlds of preferences whose truth is known: pairs to learn from, and the regret of any policy.

    12 prompts, 6 answers, features φ(x,a) of 8 numbers, utilities r = φ·θ, labels by Bradley and Terry

Everything is finite, so optima are closed forms: π* ∝ π_ref·exp(r/β) for a utility, and a probability of ½ against
every answer where preferences go in a circle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from surefoot.claims.preference.tilted import divergence, plain
from surefoot.seeding import torch_stream

F64 = torch.float64
PROMPTS, ANSWERS, FEATURES, NORM, BETA = 12, 6, 8, 3.0, 1.0
PEOPLE = 40  # who labelled equally many pairs each
HALVES = torch.arange(PROMPTS) * 2 // PROMPTS
SETTINGS = {
    "clean": "labels as Bradley and Terry have them",
    "20 % flipped": "a fifth of the labels turned",
    "40 % flipped": "two fifths turned",
    "minority": "a tenth of the people has a utility of its own",
    "wrong reward": "reward models see half of the features",
    "circular": "preferences that go in circles",
}


@dataclass(frozen=True)
class Pairs:
    """What people said: one row for each pair."""

    prompt: Tensor
    chosen: Tensor
    rejected: Tensor
    group: Tensor  # of the person who was asked
    person: Tensor

    def __len__(self) -> int:
        return len(self.prompt)

    def counts(self, rows: Tensor | slice = slice(None)) -> Tensor:
        """How often (w, l) was said of each prompt, `[prompts, answers, answers]`, as shares."""
        index = (self.prompt * ANSWERS + self.chosen) * ANSWERS + self.rejected
        found = torch.bincount(index[rows], minlength=PROMPTS * ANSWERS**2).to(F64)
        return found.view(PROMPTS, ANSWERS, ANSWERS) / found.sum()


@dataclass(frozen=True)
class World:
    """The truth of one setting and seed."""

    features: Tensor  # [prompts, answers, features]
    reference: Tensor  # [prompts, answers], who wrote the answers
    utilities: Tensor  # [groups, prompts, answers] of the people; their mean is 0 under the reference
    circle: Tensor  # [prompts, answers, answers], what is added to the difference of two utilities
    share: Tensor  # [groups] of the people
    flips: float
    judged: int  # features that reward models see

    @staticmethod
    def of(setting: str, seed: int) -> World:
        stream = torch_stream(seed, f"world: {setting}")

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=stream, dtype=F64)

        features = normal(PROMPTS, ANSWERS, FEATURES) / FEATURES**0.5
        reference = normal(PROMPTS, ANSWERS).mul(0.5).softmax(-1)
        tastes = normal(2, FEATURES)
        minority = setting == "minority"
        tastes = NORM * tastes / tastes.norm(dim=1, keepdim=True) if minority else NORM * tastes[:1] / tastes[0].norm()
        utilities = (features @ tastes.expand(2, -1).T).movedim(-1, 0)
        utilities = utilities - (utilities * reference).sum(-1, keepdim=True)
        turn = normal(FEATURES, FEATURES)
        circle = features @ (turn - turn.T) @ features.mT * (NORM if setting == "circular" else 0.0)
        return World(
            features,
            reference,
            utilities,
            circle,
            torch.tensor([0.9, 0.1] if minority else [0.5, 0.5], dtype=F64),
            {"20 % flipped": 0.2, "40 % flipped": 0.4}.get(setting, 0.0),
            FEATURES // 2 if setting == "wrong reward" else FEATURES,
        )

    def preference(self) -> Tensor:
        """The probability that the first answer is preferred to the second, `[groups, prompts, answers, answers]`."""
        return (self.utilities[..., :, None] - self.utilities[..., None, :] + self.circle).sigmoid()

    def pairs(self, seed: int, count: int) -> Pairs:
        """Pairs of different answers that the reference wrote, each labelled by one person, some labels turned."""
        stream = torch_stream(seed, "pairs")
        person = torch.arange(count) % PEOPLE
        group = (person >= round(PEOPLE * float(self.share[0]))).long()
        prompt = torch.randint(PROMPTS, (count,), generator=stream)
        both = self.reference[:, :, None] * self.reference[:, None, :] * (1 - torch.eye(ANSWERS, dtype=F64))
        drawn = torch.multinomial(both.flatten(1)[prompt], 1, generator=stream).squeeze(1)
        first, second = drawn // ANSWERS, drawn % ANSWERS
        wins = torch.rand(count, generator=stream, dtype=F64) < self.preference()[group, prompt, first, second]
        wins ^= torch.rand(count, generator=stream, dtype=F64) < self.flips
        won, lost = torch.where(wins, first, second), torch.where(wins, second, first)
        return Pairs(prompt, won, lost, group, person)

    def regret(self, policy: Tensor) -> tuple[float, float]:
        """What a policy `[prompts, answers]` loses to the best one: on average, and in the group that loses most, each
        against its own best policy. Groups are those of people with utilities of their own, or else two halves of the
        prompts. The value is E[r] − β·KL; in circles it is the probability against the strongest other answer, of
        which ½ can be had."""
        if self.circle.any():
            beaten = (self.preference()[0] @ policy[:, :, None]).squeeze(-1).amax(-1) - 0.5
            return float(beaten.mean()), max(float(beaten[half == HALVES].mean()) for half in (0, 1))
        mean = torch.tensordot(self.share, self.utilities, 1)
        lost = self._lost(mean, policy)
        if not torch.equal(*self.utilities):
            return float(lost.mean()), max(float(self._lost(one, policy).mean()) for one in self.utilities)
        return float(lost.mean()), max(float(lost[half == HALVES].mean()) for half in (0, 1))

    def unavoidable(self) -> float:
        """The least that the worse of two groups with utilities of their own loses; 0 if they have the same."""
        if torch.equal(*self.utilities):
            return 0.0

        def worst(weight: float) -> float:
            mixed = weight * self.utilities[0] + (1 - weight) * self.utilities[1]
            return self.regret(plain(self.reference, mixed, BETA))[1]

        found: Any = minimize_scalar(worst, bounds=(0, 1), method="bounded")
        return float(found.fun)

    def _lost(self, utility: Tensor, policy: Tensor) -> Tensor:
        best = BETA * (self.reference.log() + utility / BETA).logsumexp(-1)
        return best - (policy * utility).sum(-1) + BETA * divergence(policy, self.reference)
