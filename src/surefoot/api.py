"""Surefoot from Python: train, resume, load, evaluate, stress, compare, claim, explain."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gymnasium.vector import VectorEnv

from surefoot import catalogue
from surefoot.errors import UsageError
from surefoot.hyperparameters import build
from surefoot.loops import run as runs
from surefoot.loops.on_policy import OnPolicy
from surefoot.loops.run import Run
from surefoot.loops.train import Callback
from surefoot.models.agent import Agent

if TYPE_CHECKING:
    from surefoot.evaluate.compare import Comparison
    from surefoot.evaluate.stress import StressReport

__all__ = ["Run", "claim", "compare", "evaluate", "explain", "load", "make_method", "resume", "stress", "train"]


def make_method(method: str | OnPolicy, **hyperparameters: Any) -> tuple[OnPolicy, str]:
    """The method with these hyperparameters, and its slug. A method given as an instance is taken as it is."""
    if isinstance(method, str):
        return build(catalogue.method_class(method), _tuples(hyperparameters)), method
    if hyperparameters:
        raise UsageError(f"{sorted(hyperparameters)} come beside a ready {type(method).__name__}; put them into it.")
    here = [entry.slug for entry in catalogue.methods() if entry.module == type(method).__module__]
    known = [slug for slug in here if catalogue.method_class(slug) is type(method)]
    return method, known[0] if known else type(method).__name__.lower()


def train(
    method: str | OnPolicy,
    env: Any,
    steps: int = 100_000,
    *,
    seed: int = 0,
    num_seeds: int = 1,
    run_dir: str | Path | None = None,
    backend: str = "auto",
    env_kwargs: dict[str, Any] | None = None,
    wrappers: Sequence[Any] = (),
    compile: str = "auto",
    loggers: Sequence[str] = ("tensorboard",),
    callbacks: Sequence[Callback] = (),
    evaluate_every: int | None = None,
    evaluate_episodes: int = 10,
    checkpoint_every: int | None = None,
    time_limit: float | None = None,
    **hyperparameters: Any,
) -> Run:
    """Train a method on an environment, and keep everything in a folder.

    Args:
        method: a slug of the catalogue, or an instance of a method.
        env: a Gymnasium or EnvPool id, a factory, an Env class, or a ready next-step `VectorEnv`.
        steps: environment steps of each seed.
        num_seeds: that many consecutive seeds at once, in one process.
        backend, env_kwargs, wrappers: see `surefoot.envs.make`.
        compile: "on", "off" or "auto" (where it pays off).
        callbacks: called after each iteration with the learner and its metrics; True ends the run.
        evaluate_every: every so many steps, play `evaluate_episodes` deterministic episodes.
        time_limit: seconds after which the run ends, with a checkpoint.
        hyperparameters: fields of the method.
    """
    made, slug = make_method(method, **hyperparameters)
    options = {"backend": backend, "env_kwargs": env_kwargs or {}, "wrappers": wrappers}
    if evaluate_every:
        callbacks = [*callbacks, _Evaluation(env, options, evaluate_every, evaluate_episodes)]
    return runs.start(
        made,
        slug,
        env,
        steps,
        seeds=runs.seeds_from(seed, num_seeds),
        run_dir=run_dir,
        compile=compile,
        loggers=loggers,
        callbacks=callbacks,
        checkpoint_every=checkpoint_every,
        time_limit=time_limit,
        env_options=options,
    )


def resume(
    run: str | Path, *, env: Any = None, callbacks: Sequence[Callback] = (), time_limit: float | None = None
) -> Run:
    """Go on with an unfinished run; what follows is bit for bit what would have followed."""
    found = Run(Path(run))
    config = found.config
    method, _ = make_method(config["method"], **config["hyperparameters"])
    return runs.resume(method, found, env=env, callbacks=callbacks, time_limit=time_limit)


def load(path: str | Path, seed: int | None = None) -> Agent:
    """The agent of a run's folder (of one of its seeds), or of an agent's folder."""
    folder = Path(path)
    return Agent.load(folder) if (folder / "agent.json").exists() else Run(folder).agent(seed)


def evaluate(
    policy: Any,
    env: Any = None,
    episodes: int = 20,
    *,
    seed: int = 0,
    deterministic: bool = True,
    video: str | Path | None = None,
) -> dict[str, Any]:
    """Play episodes and say what they returned: mean and interquartile mean with intervals, and each return.

    `policy` is an agent, the folder of a run (whose environment is then the default; the figures are kept there as
    `evaluation.json`), anything with `predict`, or a callable.
    """
    from surefoot.evaluate.rollout import record, returns
    from surefoot.evaluate.statistics import bootstrap_interval, interquartile_mean, mean

    player, env, folder = _player(policy, env)
    scores = returns(player, env, episodes, seed, deterministic=deterministic)
    figures: dict[str, Any] = {"env": str(env), "episodes": episodes, "seed": seed, "deterministic": deterministic}
    for name, statistic in (("mean", mean), ("interquartile_mean", interquartile_mean)):
        figures[name] = float(statistic(scores))
        figures[f"{name}_interval"] = [float(x) for x in bootstrap_interval(scores, statistic, seed=seed)]
    figures |= {"min": float(scores.min()), "max": float(scores.max()), "returns": scores.tolist()}
    if video is not None:
        figures["video"] = str(record(player, env, video, episodes=1, seeds=seed))
    if folder is not None:
        (folder / "evaluation.json").write_text(json.dumps(figures, indent=2))
    return figures


def stress(policy: Any, env: Any = None, perturb: str = "rrls:2d", **settings: Any) -> StressReport:
    """Play a policy across a sweep of perturbations; see `surefoot.evaluate.stress.stress`.

    Of a run's folder the environment is the default, and the report is kept there as `stress-….json`.
    """
    from surefoot.evaluate.stress import stress as sweep

    player, env, folder = _player(policy, env)
    report = sweep(player, env, perturb, **settings)
    if folder is not None:
        name = "".join(c if c.isalnum() or c in "-." else "-" for c in perturb)
        (folder / f"stress-{name}.json").write_text(report.to_json())
    return report


def compare(
    methods: Sequence[str | OnPolicy],
    env: str | Sequence[str],
    *,
    seeds: int = 5,
    steps: int = 100_000,
    out: str | Path | None = None,
    **options: Any,
) -> Comparison:
    """Train several methods on the same environments and seeds, and compare what they reach.

    The runs and `comparison.json` are kept under `out`; finished runs found there are used again, unfinished ones
    are gone on with. `options` go to `train`.
    """
    from surefoot.evaluate.compare import compare_runs

    envs = [env] if isinstance(env, str) else list(env)
    folder = Path(out or Path("runs") / f"compare-{time.strftime('%Y%m%d-%H%M%S')}")
    runs_of: dict[str, list[Run]] = {}
    for method in methods:
        made, slug = make_method(method)
        for name in envs:
            place = folder / f"{slug}-{name.replace('/', '-')}"
            if (place / "checkpoints").exists():
                run = resume(place)
            else:
                run = train(made, name, steps, num_seeds=seeds, run_dir=place, **options)
            runs_of.setdefault(slug, []).append(run)
    comparison = compare_runs(runs_of)
    comparison.save(folder / "comparison.json")
    return comparison


def claim(slug: str, seeds: int | None = None) -> dict[str, Any]:
    """Run a paper's headline claim as an experiment; the result with its verdict is stored and returned."""
    from surefoot.claims.claim import run_claim

    return run_claim(slug, seeds)


def explain(method: str | OnPolicy, **hyperparameters: Any) -> str:
    """The method on one screen: what it is for, its objective as a formula, its steps, its hyperparameters."""
    from surefoot.evaluate.explain import explain as page

    return page(*make_method(method, **hyperparameters))


class _Evaluation:
    """A callback that plays deterministic episodes with every seed's agent each `every` steps."""

    def __init__(self, env: Any, options: dict[str, Any], every: int, episodes: int) -> None:
        if isinstance(env, VectorEnv):
            raise UsageError("evaluate_every needs an id or a factory as env: a ready environment is busy training.")
        self._env: Any = env
        self._options, self._every, self._episodes = options, every, episodes

    def __call__(self, learner: Any, rows: list[dict[str, Any]]) -> None:
        pace = learner.method.num_envs * learner.method.num_steps
        if learner.steps // self._every == (learner.steps - pace) // self._every:
            return
        from functools import partial

        from surefoot.envs import make_single
        from surefoot.evaluate.rollout import returns

        single: Any = partial(make_single, self._env, self._options["env_kwargs"], self._options["wrappers"])
        for index, row in enumerate(rows):
            row["evaluation_mean"] = float(returns(learner.agent(index), single, self._episodes).mean())


def _player(policy: Any, env: Any) -> tuple[Any, Any, Path | None]:
    """Something that acts, the environment to act in, and the run's folder if one was given."""
    if not isinstance(policy, (str, Path)):
        if env is None:
            raise UsageError(
                "env is missing; only a run's folder brings its own environment, other policies need env=."
            )
        return policy, env, None
    folder = Path(policy)
    if (folder / "agent.json").exists():
        return load(folder), env or load(folder).facts["env"]["env"], None
    run = Run(folder)
    return run.agent(), env or run.config["env"]["env"], folder


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    """Lists (as JSON has them) as the tuples that hyperparameters are."""
    return {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
