"""Evaluation of language models: how often a task is solved in one attempt and in several."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from surefoot.envs.language import Example, Task, resolve
from surefoot.envs.language.episodes import Conversations
from surefoot.errors import UsageError
from surefoot.evaluate.periodic import keep
from surefoot.evaluate.player import load
from surefoot.evaluate.statistics import share_interval
from surefoot.loops.common.kinds import check_trust, loop
from surefoot.loops.group_rollout.rewards import Judged, Rewards, make_rewards
from surefoot.loops.group_rollout.turns import SAID, converse, earned
from surefoot.models.language.agent import LIMIT, LanguageAgent
from surefoot.models.language.generation import generate, in_pieces
from surefoot.models.language.room import check_room
from surefoot.models.language.sequences import join
from surefoot.models.saved import holds_agent
from surefoot.seeding import MAX_SEED, check_seed, torch_stream

BATCH = 256  # completions generated together
LONG = 100  # maximum number of examples tried per example that fits the model
SUCCESS = 1.0  # a completion with at least this reward is a success


@dataclass(frozen=True)
class LanguageReport:
    """The evaluation of a model on held-out examples. Intervals (95 %) are over the examples: exact for the accuracy,
    and for pass@k with an effective number of trials that matches its variance (`statistics.share_interval`)."""

    task: str
    judge: str  # the source of rewards
    examples: int
    seed: int
    accuracy: float  # share of examples solved by greedy decoding
    accuracy_interval: tuple[float, float]
    pass_at: dict[int, float]  # probability that at least one of k samples succeeds
    pass_at_interval: dict[int, tuple[float, float]]
    reward: float  # mean over the samples
    length: float  # mean tokens per sample
    truncated: float  # share of samples cut off by the token limit
    entropy: float  # entropy of the next token in nats, mean over the samples' tokens
    samples: list[dict[str, Any]]  # the first few: prompt, completion, reward

    def table(self) -> str:
        """The results as text, with a few completions."""
        low, high = self.accuracy_interval
        lines = [
            f"{self.task} · {self.examples} held-out examples, seed {self.seed}",
            f"judged by {self.judge}; a success is a reward of at least {SUCCESS:g}",
            f"{'accuracy':<12}{self.accuracy:>8.3f}  [{low:.3f}, {high:.3f}]",
        ]
        for k, value in self.pass_at.items():
            low, high = self.pass_at_interval[k]
            lines.append(f"{f'pass@{k}':<12}{value:>8.3f}  [{low:.3f}, {high:.3f}]")
        lines.append(
            f"reward {self.reward:.3f} · length {self.length:.1f} · cut off {self.truncated:.1%} · entropy "
            f"{self.entropy:.3f}"
        )
        lines += [f"  {s['reward']:<5.2g} {s['prompt']!r} → {s['completion']!r}" for s in self.samples]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The results as JSON-ready data."""
        return asdict(self)


def evaluate_language(
    agent: LanguageAgent,
    task: Any,
    examples: int = 128,
    k: int | Sequence[int] = (1,),
    *,
    seed: int = 0,
    temperature: float | None = None,
    shown: int = 5,
) -> LanguageReport:
    """Evaluate the greedy completion and max(k) samples of each of the first held-out examples. Examples of an endless
    task that are too long for the model are skipped.

    Raises:
        UsageError: a number is out of range, before anything is generated.
    """
    made, attempts = resolve(task), tuple(k) if isinstance(k, Iterable) else (k,)
    numbers = [*attempts, examples]
    if not attempts or any(isinstance(x, bool) or not isinstance(x, (int, np.integer)) or x < 1 for x in numbers):
        raise UsageError(
            f"k={k!r}, examples={examples!r} is not allowed; they are whole numbers of at least 1, and k may be "
            "several, such as (1, 4)."
        )
    check_seed(seed)
    examples = min(examples, made.held_out_size or examples)  # repeated examples would add no information
    problems = _problems(agent, made, examples)
    samples = max(attempts)
    heat = (agent.facts.get("temperature", 1.0) if temperature is None else temperature) or 1.0
    best, rewards, lengths, finished, entropies, texts = [], [], [], [], [], []
    for start in range(0, examples, BATCH):
        part = problems[start : start + BATCH]
        best += [one.reward for one in _answers(agent, made, part, 1, 0.0, 0)]
    for start in range(0, examples, max(1, BATCH // samples)):
        part = problems[start : start + max(1, BATCH // samples)]
        found = _answers(agent, made, part, samples, temperature, (seed + start) % (MAX_SEED + 1))
        sequences = join([one.prompt for one in found], [one.tokens for one in found])
        mine = sequences.valid.clone()
        mine[sequences.valid] = torch.tensor([x for one in found for x in one.mine])
        sequences = replace(sequences, valid=mine)
        with torch.no_grad():
            found_by = agent.model.statistics(sequences, temperature=heat)
            entropies += found_by.entropy[sequences.valid].tolist()
        rewards += [one.reward for one in found]
        texts += [one.text for one in found]
        lengths += [sum(one.mine) for one in found]
        finished += [one.finished for one in found]
    right = [one >= SUCCESS for one in best]
    _check_scale(made, [*best, *rewards])
    solved = (np.array(rewards).reshape(examples, samples) >= SUCCESS).sum(1)
    passed = {one: pass_at_k(solved, samples, one) for one in attempts}
    rows = zip(texts[::samples], rewards[::samples], problems)
    return LanguageReport(
        task=str(made),
        judge=made.judge,
        examples=examples,
        seed=seed,
        accuracy=float(np.mean(right)),
        accuracy_interval=tuple(share_interval(right)),
        pass_at={one: float(x.mean()) for one, x in passed.items()},
        pass_at_interval={one: tuple(share_interval(x)) for one, x in passed.items()},
        reward=float(np.mean(rewards)),
        length=float(np.mean(lengths)),
        truncated=1 - float(np.mean(finished)),
        entropy=float(np.mean(entropies)),
        samples=[{"prompt": p.prompt, "completion": t, "reward": r} for (t, r, p), _ in zip(rows, range(shown))],
    )


def _check_scale(task: Any, rewards: Sequence[float]) -> None:
    """Warn of rewards on a scale on which the threshold of a success separates nothing."""
    low, high, successes = min(rewards), max(rewards), sum(one >= SUCCESS for one in rewards)
    if (low >= 0 and high <= SUCCESS) or 0 < successes < len(rewards):
        return
    warnings.warn(
        f"The rewards of {task.judge} were between {low:.4g} and {high:.4g}: "
        f"{'all of them are' if successes else 'none of them is'} at least {SUCCESS:g}, which counts as a success, so "
        "accuracy and pass@k say nothing here. Rescale them so that a success is 1 and less is below, or look at the "
        "mean reward.",
        stacklevel=3,
    )


def check_unused(beside: str, **given: Any) -> None:
    """Raise `UsageError` for an argument of other evaluations, which those with `beside` do not have."""
    whys = {"video": "there is nothing to film", "perturb": "nothing is perturbed", "k": "each prompt is answered once"}
    for name, value in given.items():
        if value is not None:
            raise UsageError(f"{name} is not allowed with {beside}, which is for language models: {whys[name]}.")


def evaluated(policy: Any, task: Any, examples: int, k: int | Sequence[int], seed: int, trust: bool) -> dict[str, Any]:
    """The evaluation of an agent, or of a run's folder, in which it is kept; `task`: None for that of training."""
    agent = load(policy) if isinstance(policy, (str, Path)) else policy
    if getattr(agent, "loop", "") != "group-rollout":
        raise UsageError(f"k={k!r} is for language models; {str(policy)!r} is not one.")
    trained_in = agent.facts.get("env") if task is None else {"env": task}
    if trained_in is None:
        raise UsageError("task is missing: the agent does not record its task; give task=….")
    if task is None:
        check_trust(loop(agent.loop), trained_in, trust)
    made = loop(agent.loop).single(**trained_in)().task
    report = evaluate_language(agent, made, examples, k, seed=seed)
    figures = {**report.to_dict(), "table": report.table()}
    if isinstance(policy, (str, Path)) and not holds_agent(policy):
        keep(Path(policy) / "evaluation.json", json.dumps(figures, indent=2))
    return figures


def _problems(agent: LanguageAgent, task: Task, count: int) -> list[Example]:
    """The first held-out examples; for an endless task those that fit the model, as in training."""
    if task.held_out_size is not None:
        return [task.example(i, "test") for i in range(count)]
    found, index, limit = list[Example](), 0, agent.facts.get("max_tokens", LIMIT)
    while len(found) < count:
        example = task.example(index, "test")
        prompt, index = agent.model.encode([example.prompt]), index + 1
        try:
            check_room(agent.model, prompt, limit, f"{task}, example {index}: ")
            found.append(example)
        except UsageError:
            if index > LONG * (len(found) + 1):
                raise
    return found


class Answer(NamedTuple):
    """A completion, or an episode of several turns: its tokens, and which of them the model wrote."""

    prompt: list[int]
    tokens: list[int]
    mine: list[bool]
    text: str
    finished: bool
    reward: float


def _answers(
    agent: LanguageAgent, task: Task, examples: Sequence[Example], samples: int, temperature: float | None, seed: int
) -> list[Answer]:
    """Completions of examples, the samples of each adjacent, and their rewards: from reward functions, which get all
    completions and their tokens at once, or from the task."""
    rewards = task.rewards if isinstance(task, Judged) else make_rewards(task, None, None)
    each = [example for example in examples for _ in range(samples)]
    if isinstance(rewards.task, Conversations):
        return _episodes(agent, rewards.task, rewards, examples, samples, temperature, seed)
    found = agent.write([e.prompt for e in examples], samples, temperature=temperature, seed=seed)
    texts = agent.model.decode(found.tokens)
    worth = rewards(each, texts, found.tokens)[0].tolist()
    prompts = [row for row in agent.model.encode([e.prompt for e in examples]) for _ in range(samples)]
    mine = [[True] * len(row) for row in found.tokens]
    columns = zip(prompts, found.tokens, mine, texts, found.finished, worth, strict=True)
    return [Answer(*row) for row in columns]


def _episodes(
    agent: LanguageAgent,
    task: Conversations,
    rewards: Rewards,
    examples: Sequence[Example],
    samples: int,
    temperature: float | None,
    seed: int,
) -> list[Answer]:
    limit, heat = agent.facts.get("max_tokens", LIMIT), agent.facts.get("temperature", 1.0)

    def uniform(turn: int) -> torch.Tensor:
        return torch.rand(len(examples), samples, limit, generator=torch_stream(seed, "evaluation", turn))

    talks = converse(
        task,
        agent.model,
        in_pieces(generate, BATCH),
        examples,
        uniform,
        temperature=heat if temperature is None else temperature,
        stop=agent.facts.get("stop", ()),
        sampling=agent.sampling,
    )
    return [
        Answer(t.prompt, t.tokens, [x != SAID for x in t.turn], agent.model.decode([t.tokens])[0], t.finished, worth)
        for t, worth in zip(talks, earned(rewards, examples, samples, talks)[0].tolist(), strict=True)
    ]


def pass_at_k(solved: np.ndarray, samples: int, k: int) -> np.ndarray:
    """The probability that at least one of k completions succeeds, given that `solved` of `samples` did:
    1 − C(n−c, k)/C(n, k), unbiased (arXiv:2107.03374)."""
    if not 1 <= k <= samples:
        raise UsageError(f"k={k!r} is not allowed with {samples} samples per problem; it must be in [1, {samples}].")
    failed = np.asarray(samples - solved, float)
    factors = 1 - k / np.arange(1, samples + 1)
    # C(n−c, k)/C(n, k) = Π_{i=n−c+1}^{n} (1 − k/i)
    product = np.array([np.prod(factors[int(f) :]) if f >= k else 0.0 for f in failed])
    return 1 - product
