"""Aligning a language model with constraints after it was trained: what that would cost, and the run that does it."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from surefoot import api
from surefoot.configure import make_method, option_names, options_of
from surefoot.envs.names import remember
from surefoot.errors import UsageError
from surefoot.evaluate.statistics import confidence_interval, in_brackets, mean
from surefoot.loops.common.folder import agent_folder
from surefoot.loops.common.kinds import check_trust, loop
from surefoot.loops.common.run import Run, make_learner
from surefoot.loops.group_rollout.iteration import Iteration
from surefoot.loops.group_rollout.language import RATES
from surefoot.models.saved import holds_agent
from surefoot.perturbations.interval import Interval

METHOD = "one-shot-safety"
KEPT = ("test_data", "held_out", "stop", "sampling", "dtype", "chat_template_kwargs", "skip_special_tokens")
EXAMPLES = 200  # held-out prompts on which a model is measured before and after
Measured = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Predicted:
    """The best policy for some thresholds, as the samples of the reference predict it."""

    threshold: tuple[float, ...]
    multipliers: tuple[float, ...]
    rewards: tuple[float, ...]  # the means of the reward and of every constraint
    kl: float  # from the reference, in nats
    effective: float  # effective number of samples per prompt; below ten or so the prediction is rough


@dataclasses.dataclass(frozen=True)
class Alignment:
    """What constraints cost: the front of predictions, and the run that was trained, with its model measured."""

    names: tuple[str, ...]  # of the reward and of the constraints
    reference: tuple[float, ...]  # their means over the samples of the reference
    front: tuple[Predicted, ...]
    samples: tuple[int, int]  # prompts, and samples of the reference of each
    run: Run | None = None
    before: Measured = dataclasses.field(default_factory=dict)  # rewards by name on held-out prompts
    after: Measured = dataclasses.field(default_factory=dict)

    def table(self) -> str:
        """The result as text."""
        prompts, samples = self.samples
        width = max(10, *map(len, self.names)) + 2
        heads = [*(f"≥ {name}" for name in self.names[1:]), *(f"λ {name}" for name in self.names[1:]), *self.names]
        wide = max(width, *(len(head) + 2 for head in heads))
        lines = [f"predicted from {prompts} prompts × {samples} samples of the reference", ""]
        lines.append("".join(f"{head:>{wide}}" for head in [*heads, "KL", "effective"]))
        blank = "".join(f"{'':>{wide}}" for _ in self.names[1:])
        untouched = "".join(f"{x:>{wide}.4g}" for x in self.reference)
        lines.append(f"{blank}{blank}{untouched}{0:>{wide}}{samples:>{wide}}   reference")
        for one in self.front:
            cells = [*one.threshold, *one.multipliers, *one.rewards, one.kl, one.effective]
            lines.append("".join(f"{x:>{wide}.4g}" for x in cells))
        if self.run is not None:
            count = len(next(iter(self.after.values())))
            lines += ["", f"measured on {count} held-out prompts, 95 % intervals; the model is in {self.run.path}", ""]
            for name in self.names:
                lines.append(f"{name:<{width}}{_said(self.before[name])}  →  {_said(self.after[name])}")
            short = [name for name in self.names[1:] if self._short(name)]
            if short:
                lines.append(
                    f"\n{', '.join(short)} is below its threshold still: train for more steps, or align again."
                )
        return "\n".join(lines)

    def _short(self, name: str) -> bool:
        """Whether a constraint does not hold in the trained model, its interval considered."""
        wanted = self.front[0].threshold[self.names.index(name) - 1]
        interval = confidence_interval(self.after[name], mean)
        return (float(self.after[name].mean()) if interval is None else interval.high) < wanted


def align(
    policy: Any,
    constraints: Mapping[Any, Any] | Sequence[str],
    *,
    reward: Any = None,
    task: Any = None,
    steps: int | None = None,
    points: int = 5,
    seed: int = 0,
    run_dir: str | Path | None = None,
    trust: bool = False,
    **settings: Any,
) -> Alignment:
    """Predict what constraints on a language model cost, and train it once to satisfy them (`one-shot-safety`).

    The best policy for any thresholds is known up to a few multipliers, which samples of the model determine; so their
    price is known before training. If a threshold is a range, nothing is trained.

    Args:
        policy: a run or its folder, whose task and reward are then the defaults; or a model as for `train(model=…)`.
        constraints: reward functions and the lower bounds on their means, as a dictionary, or as texts such as
            "module:function=0.5"; a range, (0, 1) or "module:function=0..1", gives `points` predictions.
        reward: the reward to be maximised, a function or its name; by default that of the run.
        task: a task, or a file of prompts; by default that of the run.
        steps: iterations of training.
        seed, run_dir: of the new run; by default its folder is the run's with `-aligned` at its end.
        trust: import and call what the run's folder names as module:name.
        settings: hyperparameters of `one-shot-safety` (`beta`, `relative`, `dual_prompts`, …), options of language
            models (`lora`, …) and of `train`.

    Raises:
        UsageError: before any work, for what cannot be aligned; and if no policy satisfies the constraints.
    """
    asked = _asked(constraints)
    given = {**_source(policy, trust), **settings}
    place = given.pop("task", None) if task is None else task
    maximised = given.pop("reward", None) if reward is None else reward
    if place is None or maximised is None:
        raise UsageError(
            f"align: {'task' if place is None else 'reward'} is missing, and {str(policy)!r} does not name one; give "
            f"{'task=…, a file of prompts' if place is None else 'reward=…, the one function to be maximised'}."
        )
    functions = [maximised, *asked]
    remember(place, functions)
    grid = tuple(itertools.product(*(_values(x, points) for x in asked.values())))
    options = options_of(METHOD, given | {"reward": functions}) | {"reward": functions}
    for name in option_names(METHOD):
        given.pop(name, None)
    own = {field.name for field in dataclasses.fields(type(make_method(METHOD)[0]))}  # type: ignore[arg-type]
    method: Any = make_method(METHOD, threshold=grid[0], **{n: x for n, x in given.items() if n in own})[0]
    learner = make_learner(method, place, [seed], steps or method.default_steps, **options)
    names = tuple(learner.writer.rewards.functions)
    scores = method.scored(Iteration(learner))
    duals = [dataclasses.replace(method, threshold=each).solved(*scores) for each in grid]
    front = [
        Predicted(each, tuple(d.multipliers.tolist()), (d.reward, *d.safety.tolist()), d.kl, d.effective)
        for each, d in zip(grid, duals, strict=True)
    ]
    found = Alignment(names, (duals[0].before[0], *duals[0].before[1]), tuple(front), scores[0].shape)
    if len(grid) > 1:
        return found
    before = _measured(learner.agent(), learner, seed)
    if run_dir is None and _is_run(policy):
        run_dir = f"{policy.path if isinstance(policy, Run) else policy}-aligned"
    rest = {name: x for name, x in given.items() if name not in own}
    run = api.train(method, place, steps, seed=seed, run_dir=run_dir, **options, **rest)
    return dataclasses.replace(found, run=run, before=before, after=_measured(run.agent(), learner, seed))


def _asked(constraints: Mapping[Any, Any] | Sequence[str]) -> dict[Any, Any]:
    """Reward functions and their thresholds: numbers, or pairs of them for ranges."""
    if isinstance(constraints, Mapping):
        found = dict(constraints)
    else:
        texts = [constraints] if isinstance(constraints, str) else constraints
        parts = [str(text).rpartition("=") for text in texts]
        found = {name: _threshold(number, text) for (name, _, number), text in zip(parts, texts, strict=True)}
    if not found or not all(found):
        raise UsageError(
            f"constraints={constraints!r} is not allowed; give reward functions with lower bounds on their means, such "
            "as module:function=0.5."
        )
    return found


def _threshold(text: str, whole: str) -> Any:
    low, dots, high = text.partition("..")
    try:
        return (float(low), float(high)) if dots else float(low)
    except ValueError:
        raise UsageError(
            f"the constraint {whole!r} has no number after its last =; write module:function=0.5, or a range such as "
            "module:function=0..1."
        ) from None


def _values(threshold: Any, points: int) -> list[float]:
    return Interval(*threshold).values(points) if isinstance(threshold, tuple) else [float(threshold)]


def _is_run(policy: Any) -> bool:
    if isinstance(policy, Run):
        return True
    return isinstance(policy, (str, Path)) and (Path(policy) / "config.json").is_file() and not holds_agent(policy)


def _source(policy: Any, trust: bool) -> dict[str, Any]:
    """The model of a run or of its folder, with the task, the reward and the options that it was trained with; or any
    other model by itself."""
    if not _is_run(policy):
        return {"model": policy}
    run = policy if isinstance(policy, Run) else Run(Path(policy))
    described = dict(run.config["env"])
    agent = run.agent()
    if getattr(agent, "loop", "") != "group-rollout":
        raise UsageError(f"{run.path} was not trained as a language model; constraints of this kind are on texts.")
    check_trust(loop(agent.loop), described, trust)
    rewards = described.pop("reward", None) or []
    kept = {name: described[name] for name in KEPT if name in described}
    kept["stop"] = tuple(kept.get("stop", ()))
    folder = agent_folder(run.path, run.config["seeds"], run.config["seeds"][0])
    rate = run.config["hyperparameters"].get("learning_rate") or RATES.get(str(described["model"]))
    found = {"model": str(folder), "task": described["env"], **kept, "max_tokens": agent.facts["max_tokens"]}
    found |= {} if rate is None else {"learning_rate": rate}
    return found | ({"reward": rewards[0]} if len(rewards) == 1 else {})


def _measured(agent: Any, learner: Any, seed: int) -> Measured:
    """The rewards of one completion of each of the first held-out prompts."""
    count = min(EXAMPLES, learner.task.held_out_size or EXAMPLES)
    examples = [learner.task.example(i, "test") for i in range(count)]
    limits = {"max_tokens": learner.method.max_tokens, "temperature": learner.method.temperature}
    found = agent.write([example.prompt for example in examples], seed=seed, **limits)
    components = learner.writer.rewards(examples, agent.model.decode(found.tokens), found.tokens)[1]
    return {name: x.double().numpy() for name, x in components.items()}


def _said(values: np.ndarray) -> str:
    return f"{values.mean():.4g} {in_brackets(confidence_interval(values, mean), '.4g')}".rstrip()
