"""Evaluation of reward models: how often the answer that people preferred scores higher."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from surefoot.envs.language.pairs import answers
from surefoot.errors import UsageError
from surefoot.evaluate.periodic import keep
from surefoot.evaluate.player import load
from surefoot.evaluate.statistics import share_interval
from surefoot.loops.common.kinds import check_trust, loop
from surefoot.loops.common.run import Run
from surefoot.loops.group_rollout.language import task_of
from surefoot.models.saved import holds_agent


def evaluate_scores(policy: Any, task: Any = None, *, trust: bool = False) -> dict[str, Any]:
    """The share of held-out pairs whose chosen answer scores higher, with its 95 % interval, and a `table`.

    policy: a `RewardModel`, its folder or that of its run, in which the result is kept; task: None for the pairs of
    training.

    Raises:
        UsageError: no task is given and none is known, or an example has no pair.
    """
    policy = policy.path if isinstance(policy, Run) else policy
    agent = load(policy) if isinstance(policy, (str, Path)) else policy
    trained_in = agent.facts.get("env") if task is None else {"env": task}
    if trained_in is None:
        raise UsageError("task is missing: the reward model does not record its pairs; give task=….")
    if task is None:
        check_trust(loop(agent.loop), trained_in, trust)
    made = task_of(trained_in["env"], trained_in)
    examples = [made.example(i, "test") for i in range(made.held_out_size or 128)]
    prompts, (chosen, rejected) = [e.prompt for e in examples], zip(*map(answers, examples), strict=True)
    right = (agent.scores(prompts, chosen).mean(1) > agent.scores(prompts, rejected).mean(1)).float().tolist()
    (low, high), accuracy = share_interval(right), sum(right) / len(right)
    figures = {"task": str(made), "pairs": len(right), "pair_accuracy": accuracy, "interval": [low, high]}
    said = f"{made} · {len(right)} held-out pairs\naccuracy {accuracy:.3f}  95 % interval [{low:.3f}, {high:.3f}]"
    figures["table"] = said
    if isinstance(policy, (str, Path)) and not holds_agent(policy):
        keep(Path(policy) / "evaluation.json", json.dumps(figures, indent=2))
    return figures
