"""SRPO: an answer is good if it can be improved little, by an improver that is learned from the same pairs.

    min_π max_π†  E_{y ~ π, y' ~ π†(·|x,y)} P(y' ≻ y)  −  β·KL(π†(·|x,y) ‖ π_ref)  +  β·KL(π(·|x) ‖ π_ref)

What IPO converges to depends on who wrote the pairs, and so does DPO wherever preferences are not Bradley and Terry's.
The solution of this game does not: it depends on π_ref, β and the preference alone, and two regressions on pairs find
it. ρ and ρ† are log-ratios of model and reference in the same context: the prompt, or the prompt with an answer that is
to be improved. Use it where the pairs are not the model's own, or where answers may be revised: `revised` asks an agent
to improve its answers.

One network is both policies. The improver reads the prompt, the given answer and `request`; each answer of a pair is
read three times: alone, after the other one, and after itself.

Eugene Choi, Arash Ahmadian, Matthieu Geist, Olivier Pietquin and Mohammad Gheshlaghi Azar, *Self-Improving Robust
Preference Optimization* (2024), arXiv:2406.01660. β, the mixture and the wording of the request are ours: the paper's
are not known to us.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from surefoot.envs.language import Example
from surefoot.envs.language.pairs import answers
from surefoot.hyperparameters import check_count, hyperparameter
from surefoot.loops.group_rollout.pairs import Pairwise
from surefoot.models.language.agent import LanguageAgent
from surefoot.objectives.preferences import Link, PairObjective

REQUEST = "Improve this answer."


@dataclass(frozen=True)
class improvement(Link):
    """The two regressions of SRPO on log-ratios `[..., 3]` of each answer: alone, after the other one, after itself."""

    mix: float = hyperparameter(0.5, low=0, high=1, help="Weight α of the improver's own regression.")
    formula = (
        "(1 − {mix:g})·J + {mix:g}·J†\n"
        "  J  = (½ − ½·{beta:g}[ρ†(w|l) − ρ†(l|w) + ρ(w) − ρ(l)])²\n"
        "  J† = ½[(½ − {beta:g}[ρ†(w|l) − ρ†(l|l)])² + (½ + {beta:g}[ρ†(l|w) − ρ†(w|w)])²]\n"
        "  ρ†(y|y') = log π/π_ref of y, given the prompt and y' to be improved"
    )

    def __call__(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        (won, better, kept), (lost, worse, repeated) = chosen.unbind(-1), rejected.unbind(-1)
        both = (0.5 - 0.5 * self.beta * (better - worse + won - lost)) ** 2
        improver = (0.5 - self.beta * (better - repeated)) ** 2 + (0.5 + self.beta * (worse - kept)) ** 2
        return (1 - self.mix) * both + self.mix * 0.5 * improver


def improving(prompt: Any, answer: str, request: str = REQUEST) -> Any:
    """The prompt that asks for something better than an answer: another turn of a chat, or more text."""
    if isinstance(prompt, str):
        return f"{prompt}{answer}\n{request}\n"
    return [*prompt, {"role": "assistant", "content": answer}, {"role": "user", "content": request}]


def revised(
    agent: LanguageAgent, prompts: Sequence[Any], revisions: int = 1, *, request: str = REQUEST, **settings: Any
) -> list[list[str]]:
    """An agent's answers to the prompts, and its revisions of them one after another: `revisions` + 1 lists of texts.

    `request` is that of training, `settings` are those of `agent.write`.

    Raises:
        UsageError: there is no prompt, or a prompt with its answer is longer than the model reads.
    """
    check_count("revisions", revisions)
    found = [agent.texts(prompts, **settings)]
    for _ in range(revisions):
        asked = [improving(prompt, text, request) for prompt, text in zip(prompts, found[-1], strict=True)]
        found.append(agent.texts(asked, **settings))
    return found


@dataclass(frozen=True)
class SRPO(Pairwise):
    """Regression of preferences on a policy and its improver."""

    unit: ClassVar[int] = 6
    rows: ClassVar[int] = 6

    beta: float = hyperparameter(0.01, above=0, help="Strength β of the reference, for the policy and its improver.")
    mix: float = hyperparameter(
        0.5, above=0, below=1, help="Weight α of the improver's own regression; the joint one has the rest."
    )
    request: str = hyperparameter(REQUEST, help="What the improver is asked after the prompt and the given answer.")

    def pair_objective(self) -> PairObjective:
        return PairObjective(improvement(self.beta, self.mix))

    def learned(self, example: Example) -> list[tuple[Any, str]]:
        won, lost = answers(example)

        def after(given: str) -> Any:
            return improving(example.prompt, given, self.request)

        alone = example.prompt
        first = [(alone, won), (after(lost), won), (after(won), won)]
        return [*first, (alone, lost), (after(won), lost), (after(lost), lost)]

    def steps(self) -> list[str]:
        take, learn = super().steps()
        return [take, f"read each answer alone, and after either answer of the pair and {self.request!r}", learn]


METHOD = SRPO
