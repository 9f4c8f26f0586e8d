"""Surefoot from Python: train, resume, load, evaluate, stress, compare, explain."""

from __future__ import annotations

import dataclasses
import inspect
import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surefoot.cluster import spread
from surefoot.configure import (
    callback_list,
    given_table,
    kind_of,
    make_method,
    option_names,
    options_of,
    place_of,
    recorded_method,
    whole_steps,
)
from surefoot.data.tables import Table
from surefoot.envs import make_single
from surefoot.envs.names import remember
from surefoot.errors import UsageError
from surefoot.evaluate.agent_card import keep_result
from surefoot.evaluate.periodic import env_name, evaluations, result_file, seeds_in
from surefoot.evaluate.player import is_reward_model, load, player_of, refuse_language
from surefoot.evaluate.summary import exact_figures, summed_up
from surefoot.hyperparameters import build
from surefoot.loops.common import run as runs
from surefoot.loops.common.folder import short_name
from surefoot.loops.common.kinds import Method, check_trust, loop
from surefoot.loops.common.lock import evaluation
from surefoot.loops.common.run import Run
from surefoot.loops.common.train import Callback

if TYPE_CHECKING:
    from surefoot.evaluate.compare import Comparison
    from surefoot.evaluate.stress import StressReport
    from surefoot.perturbations import Perturbation

__all__ = ["Run", "compare", "evaluate", "explain", "load", "make_method", "resume", "stress", "train"]


def train(
    method: str | Method,
    env: Any = None,
    steps: int | None = None,
    *,
    task: Any = None,
    data: Any = None,
    start: Any = None,
    seed: int = 0,
    num_seeds: int = 1,
    run_dir: str | Path | None = None,
    compile: str = "auto",
    loggers: Sequence[str] = ("tensorboard",),
    callbacks: Callback | Sequence[Callback] = (),
    evaluate_every: int | None = None,
    evaluate_episodes: int = 10,
    keep_best: bool = False,
    checkpoint_every: int | None = None,
    time_limit: float | None = None,
    **hyperparameters: Any,
) -> Run:
    """Train a method and save everything in a folder.

    Args:
        method: a slug from the catalogue, `"module:Class"`, or a method instance.
        env: a Gymnasium or EnvPool id, a factory, an Env class, or a ready next-step `VectorEnv`; for a tabular method
            a `TabularMDP`, the name of a built-in MDP, a file or `gym:ID`.
        task, data: names of the same argument for language models: a task, or a file of prompts. For an offline method
            data is its data set, `Transitions` or a name (`surefoot.dataset`), and env is optional, for evaluations.
            For a model of tables data is a pair (X, y), a data frame, a .csv, .txt or .parquet file, or sklearn:NAME.
        steps: environment steps per seed, iterations for a tabular method or a language model, or epochs over a table;
            the method's `default_steps` if not given.
        start: a run or an agent, or its folder, whose weights and normaliser the new run starts from.
        num_seeds: number of consecutive random seeds trained at once, in one process.
        compile: "on", "off" or "auto" (on where it saves time).
        callbacks: called after each iteration with the learner and its metrics; True ends the run.
        loggers: any of "tensorboard", "wandb" and "trackio", in addition to `metrics.jsonl`.
        evaluate_every: steps between evaluations of `evaluate_episodes` deterministic episodes; their mean return is
            `evaluation_mean` in the metrics.
        keep_best: keep the agent with the best evaluation in the folder `best`, for `load(run, best=True)`; evaluations
            are then every tenth of the run if `evaluate_every` is not given.
        checkpoint_every: steps between checkpoints; by default a tenth of the run.
        time_limit: seconds after which the run ends with a checkpoint; a signal does the same and then ends the script.
        hyperparameters: fields of the method; `objective`, a `PolicyObjective` in place of the method's own; and the
            options of its kind of loop: `device` ("cpu", "cuda" or "auto") to train on; for environments `backend`,
            `env_kwargs`, `wrappers` (see `surefoot.envs.make`) and `perturb` (a perturbation or its text, as for
            `stress`; a range is sampled anew in every episode, and evaluations use the unperturbed environment); for
            language models the fields of `surefoot.loops.group_rollout.language.LanguageOptions`.
    """
    places = {"env": env, "task": task, "data": data}
    taken = [name for name in places if name in option_names(method)]
    options = options_of(method, hyperparameters | {name: places.pop(name) for name in taken})
    made, slug = make_method(method, **{k: x for k, x in hyperparameters.items() if k not in options})
    env = place_of(made, **places)
    if keep_best and evaluate_every is None:
        evaluate_every = max(1, whole_steps(steps or made.default_steps) // 10)
    remember(env, options.get("reward"), method if isinstance(method, str) else type(method))
    settings = runs.Settings(
        steps=whole_steps(steps),
        compile=compile,
        loggers=(loggers,) if isinstance(loggers, str) else tuple(loggers),
        evaluate_every=whole_steps(evaluate_every),
        evaluate_episodes=evaluate_episodes,
        keep_best=keep_best,
        checkpoint_every=whole_steps(checkpoint_every),
        time_limit=time_limit,
    )
    own = evaluations(made, env, options, settings.evaluate_every, settings.evaluate_episodes)
    seeds, every = runs.seeds_from(seed, num_seeds), [*own, *callback_list(callbacks)]
    more: Any = {"run_dir": run_dir, "callbacks": every, "env_options": options, "source": start}
    return summed_up(runs.start(made, slug, env, settings, seeds=seeds, **more), made, env)


def resume(
    run: str | Path | Run,
    *,
    method: str | Method | None = None,
    env: Any = None,
    steps: int | None = None,
    callbacks: Callback | Sequence[Callback] = (),
    time_limit: float | None = None,
    trust: bool = False,
    **options: Any,
) -> Run:
    """Resume an unfinished run, bit for bit as if it had not been interrupted. `steps=+100_000` adds as many to a
    run, finished or not, which then goes on as one longer run would: to the bit, except for what follows the length of
    a run, such as `anneal`, of which a warning tells.

    `method`, `env` and `options` are needed only where the run's folder cannot name what the run was given (a method
    outside the catalogue, a ready vector environment, a lambda, arrays, an MDP or a model made in Python), or names it
    as `module:name` and this process has not been given it: nothing that only a folder names is imported or called
    unless `trust=True`. On another `device` results are the same up to rounding. Callbacks are not saved and must be
    given again. Raises `UsageError` if the run cannot be resumed.
    """
    found = run if isinstance(run, Run) else Run(Path(run))
    config = runs.checked(found)
    method = recorded_method(found, config, method, trust)
    names, env = option_names(method), given_table(method, options).get("data", env)
    if unknown := sorted(set(options) - {*names}):
        raise UsageError(
            f"{unknown[0]} is not allowed: a run is resumed with its original hyperparameters. The arguments are "
            f"method, env, steps, callbacks and time_limit there are {', '.join(names)}."
        )
    build(kind_of(method).options, options)  # refuses invalid options
    remember(env, options.get("reward"))
    described = {**config["env"], **options}
    name = described.pop("env")
    folder = {key: value for key, value in described.items() if key not in options}
    check_trust(kind_of(method), {"env": name if env is None else None, **folder}, trust)
    own = evaluations(method, env or name, described, config["evaluate_every"], config["evaluate_episodes"])
    every = [*own, *callback_list(callbacks)]
    given = {"env": env, "steps": whole_steps(steps), "callbacks": every, "time_limit": time_limit}
    return summed_up(runs.resume(method, found, env_options=options, **given), method, env or name)


@evaluation
def evaluate(
    policy: Any,
    env: Any = None,
    episodes: int = 20,
    *,
    task: Any = None,
    data: Any = None,
    k: int | Sequence[int] = (),
    judge: Any = None,
    seed: int = 0,
    deterministic: bool = True,
    perturb: Perturbation | str | None = None,
    video: str | Path | None = None,
    algo: str | None = None,
    trust: bool = False,
) -> dict[str, Any]:
    """Play episodes and report their undiscounted returns: mean and interquartile mean with intervals, and all values.

    An interval is `None` for a single episode and for returns that do not differ (`surefoot.evaluate.statistics`).

    `policy` is an agent, a run or its folder (whose environment is then the default; the results are saved there as
    `evaluation.json`), a Stable-Baselines3 model or its file (`algo` names its algorithm), an ONNX or TorchScript file,
    weights of a named module (`surefoot.evaluate.outside`), a PyTorch module, "hf:user/name", anything with `predict`,
    or a callable. For a language model `env` may be called `task`, episodes are held-out examples, each used at most
    once, and `k=(1, 4, 16)` adds pass@k (the probability that at least one of k samples succeeds), entropy, lengths
    and sample completions. They are scored by the run's reward functions if it has any, otherwise by the task's
    verifier. `judge` compares the model of a run with what it was before training (`surefoot.evaluate.judged`): win
    rate, also by group, and KL, by `"task"`, `"reward:FOLDER"` or a function. Of a reward model it is the share of
    held-out pairs that it puts in the right order. For a model of tables `data` is a table, by default that of its run:
    the result has losses, also in the tail and by group, and a `table`. For an agent it is held-out transitions:
    nothing is played, its value is fitted (`surefoot.evaluate.fitted_q`).

    `perturb` is as for `stress`, a range is drawn anew in every episode, and results are kept as `evaluation-….json`.
    An environment or a reward function that the folder names as `module:name` is not imported unless it was given in
    this process: give it again as `env`, or pass `trust=True`, which also allows a model's file to be unpickled or
    run, and so to do anything. `success_rate` is reported for environments whose `info` has it, and
    `info/<name>` is the mean of any other number in the last step's `info`.
    """
    env = env if task is None else task
    if is_reward_model(policy):
        from surefoot.evaluate.scoring import evaluate_scores

        return evaluate_scores(policy, env if data is None else data, trust=trust)
    if judge is not None:
        from surefoot.evaluate.judged import evaluate_judged

        given: Any = {"trust": trust, "video": video, "perturb": perturb, "k": k or None}
        return evaluate_judged(policy, judge, make_method, env if data is None else data, episodes, seed, **given)
    if not isinstance(k, (tuple, list)) or k:
        from surefoot.evaluate.language import check_unused, evaluated

        check_unused("k", video=video, perturb=perturb)
        return evaluated(policy, env, episodes, k, seed, trust)
    from surefoot.envs.entrance import named_figures
    from surefoot.evaluate.rollout import played, record
    from surefoot.evaluate.statistics import summary
    from surefoot.evaluate.tables import measured, on_rows

    if data is not None:
        from surefoot.evaluate.fitted_q import evaluated as by_data

        return by_data(policy, data, seed) or on_rows(policy, data)
    player, env, folder = player_of(policy, env, algo, trust)
    if isinstance(env, Table):
        return measured(player, env, folder)
    if video is not None:
        refuse_language(player, "video", "there is nothing to film; k=(1,) shows some of what it writes")
        record(player, env, video, 1, seed, perturb)  # first, because it is the step most likely to fail
    if perturb is not None:
        refuse_language(player, "perturb", "perturbations apply to environments; evaluate it on another task")
    seeds = seeds_in(env, episodes, seed)
    scores, lengths, infos = played(player, env, len(seeds), seeds, perturb, deterministic=deterministic)
    figures: dict[str, Any] = {"env": env_name(env), "episodes": len(seeds), "seed": int(seed)}
    figures |= {"deterministic": deterministic, "agent_seed": getattr(player, "facts", {}).get("seed")}
    exact = exact_figures(player, env, deterministic) if perturb is None else {"perturb": str(perturb)}
    figures |= {**summary(scores), **exact, **({} if video is None else {"video": str(video)})}
    figures |= {"length_mean": float(lengths.mean()), "lengths": lengths.tolist(), **named_figures(infos)}
    if folder is not None:
        name = "evaluation" if perturb is None else f"evaluation-{perturb}"
        keep_result(folder, name, json.dumps(figures, indent=2))
    return figures


@evaluation
def stress(
    policy: Any,
    env: Any = None,
    perturb: Perturbation | str = "rrls:2d",
    *,
    data: Any = None,
    algo: str | None = None,
    trust: bool = False,
    video: bool = False,
    on: str = "",
    **settings: Any,
) -> StressReport:
    """Play a policy across a sweep of perturbations; see `surefoot.evaluate.stress.stress`, and `evaluate` for `algo`
    and `trust`.

    In a run's folder, its environment is the default, and `stress-….json` (`stress-ENV-….json` with `env`) is saved.
    `video` films the first episode undisturbed and in the worst cell. `on` is a cluster (see `surefoot.cluster`).

    Under `label-flip:0..0.4` a run that learned from pairs is trained again at every strength, and each model orders
    the held-out pairs; under `group-shift` those of one group become more. The report of either is a
    `surefoot.evaluate.pairs.PairsReport`; `env` is the data, if the folder does not name them. Under `input-pgd:0.1` or
    `input-search:0.1` the rows of `data` are attacked, a pair (X, y) or what `train` takes, for a model of tables: ours
    or any with scikit-learn's `predict` (a `surefoot.evaluate.attacked_rows.RowStressReport`).
    """
    from surefoot.evaluate.attacked_rows import of_rows, stressed_rows
    from surefoot.evaluate.pairs import is_of_labels, stressed
    from surefoot.evaluate.stress import film_worst
    from surefoot.evaluate.stress import stress as sweep

    if is_of_labels(perturb):
        return stressed(policy, perturb, train, make_method, settings.get("points", 5), task=env, trust=trust)
    if data is not None or of_rows(perturb):
        return stressed_rows(policy, data if env is None else env, perturb, trust=trust, **settings)
    player, place, folder = player_of(policy, env, algo, trust)
    refuse_language(player, "perturb", "perturbations apply to environments; evaluate it on another task")
    report = dataclasses.replace(sweep(player, place, perturb, on=on, **settings), env=env_name(place))
    if folder is not None:
        text = str(perturb) if env is None else f"{report.env}-{perturb}"
        keep_result(folder, f"stress-{text}", report.to_json())
        if video:
            stem = result_file(folder, f"stress-{text}").with_suffix("")
            film_worst(player, place, report, perturb, stem, **settings)
    elif video:
        raise UsageError("video=True needs the folder of a run as policy: the films are kept there.")
    return report


def compare(
    methods: Sequence[str | Method] | Mapping[str, Method],
    env: Any = None,
    *,
    task: Any = None,
    seed: int = 0,
    seeds: int = 10,
    steps: int | None = None,
    out: str | Path | None = None,
    progress: Callable[[str], None] | None = None,
    on: str = "",
    **options: Any,
) -> Comparison:
    """Train several methods on the same environments and seeds, and compare their returns.

    `env` is an environment as for `train` (a name, an MDP), or a list of them; for language models it may be called
    `task`, for models of tables `data`. `methods` are slugs, `"module:Class"` or instances; a mapping names them, so
    that two settings of one method can be compared. There are `seeds` consecutive random seeds starting at `seed`,
    trained in one run, or in one run per seed for language models. The runs, `comparison.json` and its page,
    `scores.csv` and `table.tex` are saved under `out`; finished runs found there are reused, unfinished ones are
    resumed, and additional seeds are trained in further runs. `on` is a cluster for the runs (see `surefoot.cluster`),
    where `out` is on a disk that its machines share; `progress` is called with a line now and then, if runs are trained
    here; `options` are passed to `train`; hyperparameters among them apply to every method given by its slug.

    Raises `UsageError` if methods or environments are missing or not distinct, a method has no return, a run found
    there has other settings, or one ended early.
    """
    from surefoot.evaluate.compare import check_comparable, compare_runs, shares, told_of

    for name, instead in (("num_seeds", "seeds"), ("run_dir", "out")):
        if name in options:
            raise UsageError(f"{name}={options[name]!r} is not allowed: compare sets it; use {instead}=….")
    pairs = methods.items() if isinstance(methods, Mapping) else [(short_name(make_method(m)[1]), m) for m in methods]
    beside = {*inspect.signature(train).parameters, *chain.from_iterable(option_names(m) for _, m in pairs)}
    shared = {name: options.pop(name) for name in [*options] if name not in beside}
    named = [(name, make_method(m, **shared)[0]) for name, m in pairs]
    env = place_of(named[0][1], env=env, task=task, **given_table(named[0][1], options)) if named else env
    envs = list(env) if isinstance(env, (list, tuple)) else [env]
    names, called = [name for name, _ in named], [runs.env_name(each) for each in envs]
    if not names or not envs or len({*names}) < len(names) or len({*called}) < len(envs):
        raise UsageError(
            f"A comparison needs methods and environments without repeats; got the methods {names} and the "
            f"environments {called}. To compare two settings of one method, name them: "
            "compare({'one': PPO(…), 'two': PPO(…)}, …)."
        )
    check_comparable(named)
    every = runs.seeds_from(seed, seeds)
    own = callback_list(options.pop("callbacks", ()))  # not recorded in a run
    described = {method.loop: options_of(method, dict(options)) for _, method in named}
    for kind, each in product(described, envs):
        if not isinstance(place := loop(kind).single(each, **described[kind]), Table):
            make_single(place).close()
    folder = Path(out or Path("runs") / runs.dated("compare")).absolute()
    runs_of: dict[str, list[Run]] = {}
    pieces: list[tuple[Any, ...]] = []
    for (name, method), each in product(named, envs):
        place = folder / f"{name}-{runs.env_name(each).replace('/', '-')}"
        for run, share in shares(place, every, loop(method.loop)):
            told = told_of(run.path.name, steps or method.default_steps, None if on else progress)
            pieces.append((run.path, method, each, steps, share, [*told, *own], options))
            runs_of.setdefault(name, []).append(run)
    spread(_compared, pieces, on)
    command = shlex.join(["surefoot", *sys.argv[1:]]) if sys.argv[1:2] == ["compare"] else ""
    comparison = dataclasses.replace(compare_runs(runs_of), command=command)
    comparison.save(folder)
    return comparison


def _compared(
    path: Path, method: Method, env: Any, steps: int | None, seeds: list[int], callbacks: list[Any], options: Any
) -> None:
    """One run of a comparison: trained, resumed, or found finished.

    Raises:
        UsageError: the run found there has other settings, or it ended early.
    """
    from surefoot.evaluate.compare import check_same

    run, kind, given = Run(path), loop(method.loop), options_of(method, dict(options))
    if not run.started:
        train(method, env, steps, callbacks=callbacks, seed=seeds[0], num_seeds=len(seeds), run_dir=path, **options)
    else:
        asked = {"method": make_method(method)[1], "hyperparameters": runs.as_json(method)}
        place = {k: x for k, x in kind.describe(env, **given).items() if k in run.config["env"]}
        check_same(run, asked | {"env": place, "steps": steps or method.default_steps, "seeds": seeds})
        if not run.finished:
            again, limit = None if isinstance(env, str) else env, options.get("time_limit")  # which no run records
            resume(path, method=method, env=again, callbacks=callbacks, time_limit=limit, **given)
    if not run.finished:
        raise UsageError(
            f"{path} ended before its {run.config['steps']} steps, so there is nothing to compare yet; run the same "
            f"comparison with out={str(path.parent)!r} to continue."
        )


def explain(method: str | Method, **hyperparameters: Any) -> str:
    """The method on one screen: what it is for, its objective as a formula, its steps, its hyperparameters."""
    from surefoot.evaluate.explain import explain as page

    return page(*make_method(method, **hyperparameters))
