"""A language model against the one that it was before training: how often a judge prefers it, and how far it went.

Both answer the same held-out prompts with the same random numbers, so that a model that has not moved wins half of the
time, to the bit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from surefoot.errors import UsageError
from surefoot.evaluate.language import check_unused
from surefoot.evaluate.pairs import Begun, Make
from surefoot.evaluate.periodic import keep, result_file, seeds_in
from surefoot.evaluate.statistics import confidence_interval, in_brackets, mean, share_interval
from surefoot.hyperparameters import check_count
from surefoot.loops.common.run import Run
from surefoot.loops.group_rollout.named_rewards import MODELS, REWARD_MODEL, functions_of
from surefoot.loops.group_rollout.rewards import Rewards, make_rewards
from surefoot.models.language.agent import LanguageAgent
from surefoot.models.language.sequences import join
from surefoot.seeding import check_seed

SHORT = "reward:"  # before the folder of a reward model, as a judge
OWN = "task"
BATCH = 256  # answers scored together


@dataclass(frozen=True, eq=False)
class Judged:
    """Answers of a model and of its reference to the same prompts, by one judge."""

    task: str
    judge: str
    seed: int
    scores: NDArray[np.float64]  # [prompts, 2], of the model's answer and of the reference's
    divergence: NDArray[np.float64]  # [prompts], log π(y) − log π_ref(y) of the model's answer, in nats
    groups: tuple[str, ...] = ()  # of every prompt, if the data name them

    @property
    def wins(self) -> NDArray[np.float64]:
        """1 where the model's answer scores more, ½ where both score the same, 0 else; `[prompts]`."""
        return 0.5 + 0.5 * np.sign(self.scores[:, 0] - self.scores[:, 1])

    def figures(self) -> dict[str, Any]:
        """All figures as JSON-ready data; intervals are 95 % over the prompts."""
        own, theirs = self.scores.mean(0).tolist()
        found: dict[str, Any] = {"task": self.task, "judge": self.judge, "prompts": len(self.scores), "seed": self.seed}
        found |= _share("win_rate", self.wins)
        found |= {"kl": float(self.divergence.mean()), "kl_interval": _ends(confidence_interval(self.divergence, mean))}
        found |= {"score": own, "reference_score": theirs}
        if self.groups:
            group = np.array(self.groups)
            each = {name: _share("win_rate", self.wins[group == name]) for name in sorted({*self.groups})}
            found["groups"] = {name: {**one, "prompts": int((group == name).sum())} for name, one in each.items()}
            found["worst_group"] = min(each, key=lambda name: each[name]["win_rate"])
        return {**found, "table": table(found)}


def table(found: Mapping[str, Any]) -> str:
    """The figures as text."""

    def line(name: str, value: float, ends: Any, remark: str = "") -> str:
        return f"{name:<16}{value:>8.3f}  {in_brackets(ends, '.3f'):<16}{remark}".rstrip()

    lines = [
        f"{found['task']} · {found['prompts']} held-out prompts, seed {found['seed']} · judged by {found['judge']}",
        line("win rate", found["win_rate"], found["win_rate_interval"], "against the model before training"),
        line("KL", found["kl"], found["kl_interval"], "to it, nats per answer"),
        line("score", found["score"], None, f"reference {found['reference_score']:.3f}"),
    ]
    for name, one in found.get("groups", {}).items():
        worst = ", the worst" if name == found["worst_group"] else ""
        remark = f"{one['prompts']} prompts{worst}"
        lines.append(line(f"group {name}", one["win_rate"], one["win_rate_interval"], remark))
    return "\n".join(lines)


def _share(name: str, values: NDArray[np.float64]) -> dict[str, Any]:
    return {name: float(values.mean()), f"{name}_interval": list(share_interval(values))}


def _ends(interval: Any) -> list[float] | None:
    return None if interval is None else [float(x) for x in interval]


def evaluate_judged(
    run: Any,
    judge: Any,
    make: Make,
    task: Any = None,
    prompts: int = 20,
    seed: int = 0,
    *,
    trust: bool = False,
    **unused: Any,
) -> dict[str, Any]:
    """The win rate of a run's model against its reference, by group, and its divergence from it; kept in the folder.

    Args:
        run: a run of a language model, or its folder.
        judge: `task` for the verifier of the task, `reward:FOLDER` for a reward model, or a reward function.
        make: makes the method that the folder names.
        task: where held-out prompts come from, if not the task of training.
        prompts: number of held-out prompts, each answered once by both.
        seed: of prompts and answers.
        trust: import and call what the folder names as module:name.
        unused: arguments of other evaluations, which must be None.

    Raises:
        UsageError: before anything is generated.
    """
    check_unused("judge", **unused)
    if not isinstance(run, (str, Path, Run)):
        raise UsageError(
            f"judge={judge!r} needs the folder of a run: the model is compared with what it was before training, which "
            f"{type(run).__name__} does not know."
        )
    check_count("episodes", prompts)
    check_seed(seed)
    found = run if isinstance(run, Run) else Run(Path(run))
    begun = Begun.of(found, make, task=task, trust=trust)
    agent, learner = found.agent(), begun.learner()
    if not isinstance(agent, LanguageAgent):
        raise UsageError(f"{found.path} does not hold a language model that writes; judge={judge!r} needs one.")
    rewards = judge_of(judge, learner.task)
    numbers = seeds_in(learner.task, prompts, seed)
    examples = [learner.task.example(i, "test") for i in numbers]
    before = LanguageAgent(learner.model, agent.facts)
    asked, scores = [example.prompt for example in examples], []
    for one in (agent, before):
        written = one.write(asked, seed=seed)
        texts = one.model.decode(written.tokens)
        scores.append(rewards(examples, texts, written.tokens)[0].double().numpy())
        if one is agent:
            divergence = _divergence(agent, before, asked, written.tokens)
    groups = [example.fields.get("group") for example in examples]
    named = () if None in groups else tuple(map(str, groups))
    figures = Judged(str(learner.task), str(rewards), seed, np.stack(scores, 1), divergence, named).figures()
    keep(result_file(found.path, f"judged-{judge if isinstance(judge, str) else 'function'}"), json.dumps(figures))
    return figures


def judge_of(judge: Any, task: Any) -> Rewards:
    """The judge of a text, or of a function."""
    if isinstance(judge, str) and judge == OWN:
        if not task.verified:
            raise UsageError(
                f"judge='task' is not allowed: {task} has no verifier; give judge='reward:FOLDER' with a reward model, "
                "or a reward function as module:function."
            )
        return make_rewards(task, None, None)
    if isinstance(judge, str) and judge.startswith(SHORT):
        judge = REWARD_MODEL + judge.removeprefix(SHORT)
    elif isinstance(judge, str) and not judge.startswith(MODELS) and ":" not in judge:
        raise UsageError(
            f"judge={judge!r} is not allowed; it is task, reward:FOLDER for a reward model, or module:function."
        )
    return make_rewards(task, functions_of(judge), None).check()


def _divergence(agent: LanguageAgent, before: LanguageAgent, asked: list[Any], tokens: Any) -> NDArray[np.float64]:
    """log π(y) − log π_ref(y) of answers, whose mean estimates KL(π ‖ π_ref) without a bias."""
    sequences, heat = join(agent.model.encode(asked), tokens), float(agent.facts.get("temperature", 1.0)) or 1.0
    sums = [np.zeros(0), np.zeros(0)]
    with torch.no_grad():
        for start in range(0, len(asked), BATCH):
            some = sequences[slice(start, start + BATCH)]
            for place, one in enumerate((agent, before)):
                log_prob = one.model.statistics(some, temperature=heat).log_prob.double().sum(1)
                sums[place] = np.concatenate([sums[place], log_prob.cpu().numpy()])
    return sums[0] - sums[1]
