"""Asking a language model for a direction of preference, and whether its neighbours' answers are better than its own.

`steer` answers prompts by the rule of `models.language.steering`: one answer from each of the neighbouring directions,
the best along the direction that was asked for. Beside it stands best-of-k: as many answers, all from that direction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from surefoot.envs.language import Example, Task, resolve
from surefoot.envs.names import remember
from surefoot.errors import UsageError
from surefoot.evaluate.player import load
from surefoot.evaluate.statistics import confidence_interval, in_brackets, mean
from surefoot.hyperparameters import build, check_count
from surefoot.loops.common.kinds import check_trust, loop
from surefoot.loops.common.run import Run
from surefoot.loops.group_rollout.named_rewards import functions_of
from surefoot.loops.group_rollout.rewards import Rewards, make_rewards
from surefoot.models.language.agent import LanguageAgent
from surefoot.models.language.steering import Steering, best, describe, unit
from surefoot.perturbations.interval import Interval
from surefoot.seeding import check_seed, derive, numpy_stream


@dataclass(frozen=True, eq=False)
class Steered:
    """Answers for one direction: those chosen among the neighbours', and those of best-of-k."""

    direction: np.ndarray  # [attributes], of unit length
    attributes: tuple[str, ...]
    prompts: list[Any]
    texts: list[str]  # the chosen answers
    rewards: np.ndarray  # [prompts, attributes] of them
    scores: np.ndarray  # [prompts, 3]: of the chosen answer, of best-of-k, and of one answer to the direction itself

    @property
    def wins(self) -> np.ndarray:
        """By prompt, 1 where the chosen answer scores more than that of best-of-k, ½ where both score the same."""
        return 0.5 + 0.5 * np.sign(self.scores[:, 0] - self.scores[:, 1])

    def row(self) -> str:
        """The line of the table."""
        interval = in_brackets(confidence_interval(self.wins, mean), ".2f") if len(self.wins) > 1 else ""
        cells = [*self.scores.mean(0), self.wins.mean()]
        return f"{describe(self.direction):>18}" + "".join(f"{x:>12.4g}" for x in cells) + f"  {interval}"


def table(found: Sequence[Steered], shown: int = 3) -> str:
    """Directions with their mean scores and win rates, and the first few answers of the last one."""
    attributes = ", ".join(found[0].attributes)
    lines = [f"directions of {attributes} · {len(found[0].prompts)} prompts · scores along the direction asked for", ""]
    heads = ("neighbours", "best-of-k", "one answer", "win rate")
    lines.append(f"{'direction':>18}" + "".join(f"{head:>12}" for head in heads))
    lines += [one.row() for one in found]
    last = found[-1]
    said = zip(last.prompts[:shown], last.texts, last.rewards)
    return "\n".join([*lines, "", *(f"  {np.round(r, 3).tolist()} {p!r} → {text!r}" for p, text, r in said)])


def steer(
    policy: Any,
    direction: Any,
    prompts: Sequence[Any] | None = None,
    *,
    task: Any = None,
    reward: Any = None,
    judge: Any = None,
    examples: int = 64,
    seed: int = 0,
    trust: bool = False,
    **rule: Any,
) -> Steered:
    """Answer prompts for a direction of preference: the best of one answer from each of its neighbours.

    Args:
        policy: a run, an agent or its folder; a model that reads directions in its prompt, such as one of `rps`.
        direction: an angle in degrees between the first and the second attribute, or a weight for each.
        prompts: what is asked; by default the first `examples` held-out ones of the task.
        task: a task, if not the one that the agent was trained on.
        reward: the attributes, reward functions (or their names) on one scale; by default those of its training.
        judge: the same attributes by other reward functions, which judge what was chosen: a reward that both chooses
            and judges overstates what is gained.
        seed: random seed of neighbours and answers.
        trust: import and call what the agent's folder names as module:name.
        rule: fields of `Steering` (`candidates`, `max_angle`, `grid`, `include_target`, `template`), if not the agent's
            own.

    Raises:
        UsageError: before anything is generated.
    """
    agent = load(policy) if isinstance(policy, (str, Path, Run)) else policy
    if not isinstance(agent, LanguageAgent):
        raise UsageError(f"{policy!r} is not a language model; directions of preference are asked for in a prompt.")
    check_seed(seed)
    check_count("examples", examples)
    made, rewards, names = _judged(agent, task, reward, prompts is None, trust)
    target = unit(direction, len(names))
    own = {name: x for name, x in agent.facts.get("steering", {}).items() if name in {f.name for f in fields(Steering)}}
    choice = build(Steering, {**own, **rule})
    if prompts is None:
        asked = [made.example(i, "test") for i in range(min(examples, made.held_out_size or examples))]
    elif isinstance(prompts, str) or not len(prompts):
        raise UsageError(f"prompts={prompts!r} is not allowed; it must be a list of at least one prompt.")
    else:
        asked = [Example(prompt) for prompt in prompts]
    near = [choice.neighbours(target, numpy_stream(seed, "neighbours", i)) for i in range(len(asked))]
    alone = [np.repeat(target[None], choice.candidates, 0)] * len(asked)
    texts, values = _answers(agent, rewards, asked, near, choice, names, derive(seed, "neighbours"))
    others, rivals = _answers(agent, rewards, asked, alone, choice, names, seed)
    places = best(values, target)[0], best(rivals, target)[0], np.zeros(len(asked), int)
    rows = np.arange(len(asked))
    picked = np.stack([x[rows, i] for x, i in zip((values, rivals, rivals), places)], 1)  # [prompts, 3, attributes]
    chosen = [group[i] for group, i in zip(texts, places[0], strict=True)]
    if judge is not None:
        second = make_rewards(made, functions_of(judge), None)
        answers = [chosen, *([group[i] for group, i in zip(others, place)] for place in places[1:])]
        judged = [_values(second, asked, one) for one in answers]
        if judged[0].shape[1] != len(names):
            raise UsageError(f"judge={judge!r} has {judged[0].shape[1]} attributes, reward has {len(names)}: {names}.")
        picked = np.stack(judged, 1)
    return Steered(target, tuple(names), [e.prompt for e in asked], chosen, picked[:, 0], picked @ target)


def sweep(text: str, points: int) -> list[Any]:
    """The directions in a text: an angle, a range of angles such as 10..45, or weights such as 0.7,0.7,0.2."""
    try:
        if ".." in text:
            low, _, high = text.partition("..")
            return list(Interval(float(low), float(high)).values(points))
        weights = [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(
            f"direction={text!r} is not allowed; write an angle in degrees such as 30, a range of them such as 10..45, "
            "or weights such as 0.7,0.7,0.2."
        ) from None
    return [weights[0] if len(weights) == 1 else weights]


def _judged(agent: LanguageAgent, task: Any, reward: Any, needs: bool, trust: bool) -> tuple[Task, Rewards, list[str]]:
    """The task whose prompts are asked, the attributes as rewards, and their names."""
    recorded = agent.facts.get("env") or {}
    if reward is None and recorded.get("reward"):
        check_trust(loop(agent.loop), recorded, trust)
    remember(reward, task)
    functions = functions_of(recorded.get("reward") if reward is None else reward)
    place = recorded.get("env") if task is None else task
    if place is None and needs:
        raise UsageError("prompts is missing, and the agent does not record its task; give prompts=[…] or task=….")
    made = resolve([{"prompt": "-"}] * 2 if place is None or not needs else place)
    rewards = make_rewards(made, functions, None)
    names = list(rewards.functions)
    if len(names) < 2:
        raise UsageError(
            f"reward={reward!r} is not allowed: directions are between two or more attributes; give a reward function "
            "for each, on the same scale, such as reward=[helpful, brief]."
        )
    return made, rewards, names


def _answers(
    agent: LanguageAgent,
    rewards: Rewards,
    asked: Sequence[Example],
    directions: Sequence[np.ndarray],
    choice: Steering,
    names: Sequence[str],
    seed: int,
) -> tuple[list[list[str]], np.ndarray]:
    """One answer from each of the directions of every prompt, and its rewards `[prompts, candidates, attributes]`."""
    count = choice.candidates
    prompts = [choice.ask(e.prompt, v, names) for e, near in zip(asked, directions, strict=True) for v in near]
    found = agent.write(prompts, seed=seed)
    texts = agent.model.decode(found.tokens)
    values = _values(rewards, [example for example in asked for _ in range(count)], texts, found.tokens)
    return [texts[i : i + count] for i in range(0, len(texts), count)], values.reshape(len(asked), count, -1)


def _values(rewards: Rewards, examples: Sequence[Example], texts: Sequence[str], tokens: Any = None) -> np.ndarray:
    """The rewards of texts, `[texts, attributes]`."""
    components = rewards(examples, texts, tokens)[1]
    return np.stack([np.nan_to_num(x.double().numpy()) for x in components.values()], 1)
