"""Hardening a policy: train on from its weights against what it failed, and audit it before and after."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from surefoot import api, catalogue
from surefoot.configure import make_method
from surefoot.envs import make_single
from surefoot.envs.perturbed import make_perturbed
from surefoot.errors import UsageError
from surefoot.evaluate.audit import audited
from surefoot.evaluate.battery import FAMILIES, sweeps
from surefoot.evaluate.hardened import AGAINST, HardenReport
from surefoot.evaluate.player import player_of
from surefoot.evaluate.rollout import fitted, resolve
from surefoot.loops.common.begin import name_of
from surefoot.loops.common.kinds import loop
from surefoot.loops.common.run import Run
from surefoot.models.saved import holds_agent

WARM_UP = 1_000  # steps before an off-policy method learns again: its replay starts empty, its policy does not


def texts_of(against: str | Sequence[str]) -> tuple[str, ...]:
    """The texts of perturbations, from a list or from one text: "rrls:2d,observation-noise:0..0.1".

    A comma before `name:` separates two perturbations, any other one belongs to a perturbation's options.
    """
    parts = re.split(r",(?=\s*[a-z][a-z0-9-]*:)", against) if isinstance(against, str) else map(str, against)
    if not (found := tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))):
        raise UsageError("against is missing: name what to train against, such as action-delay:0..3,param:mass=0.5..2.")
    return found


class Source(NamedTuple):
    """What is trained on: a run, or a model of Stable-Baselines3 as an agent with PPO's hyperparameters."""

    name: str
    start: Any  # whose weights the new run begins with
    method: Any
    env: Any
    options: dict[str, Any]  # of its environments
    seeds: Sequence[int]
    place: Any  # in which it is audited
    audited: dict[str, Any]  # the arguments of its audit


def harden(
    run: Any,
    against: str | Sequence[str],
    steps: int | None = None,
    *,
    env: Any = None,
    algo: str | None = None,
    families: Sequence[str] = FAMILIES,
    episodes: int = 10,
    points: int = 5,
    seed: int = 0,
    workers: int = 1,
    run_dir: str | Path | None = None,
    trust: bool = False,
    **settings: Any,
) -> HardenReport:
    """Train on from a run against perturbations, and audit it before and after with the same episodes.

    The new run has the method, the hyperparameters and the environments of `run`, whose folder is left alone. It starts
    from its weights and normaliser, with a fresh optimiser (and an empty replay), and every episode is played under all
    of the perturbations, each with a strength drawn uniformly from its range (domain randomisation), beside those that
    `run` was trained under. The same call goes on where an earlier one was interrupted.

    Args:
        run: a run or its folder, of whose seeds all are trained and the first is audited; or PPO's MlpPolicy of
            Stable-Baselines3, as a model or its file (with `env`, and `algo` and `trust` as for `evaluate`), which is
            trained on by our PPO with the hyperparameters that it names.
        against: perturbations with ranges, as for `stress`, in a list or a text: "rrls:2d,observation-noise:0..0.1".
        steps: environment steps per seed; the method's own number if not given.
        families, episodes, points, seed, workers: of both audits, as for `audit`. What is trained against is a family
            of its own, "against".
        run_dir: folder of the new run; by default that of `run` with `-hardened` at its end.
        trust: import and call what the folder names as module:name.
        settings: `checkpoint_every`, `time_limit`, `callbacks` and `loggers`, as for `train`.

    Raises:
        UsageError: before any work, for what cannot be trained on or against.
    """
    texts = texts_of(against)
    source = _run(run, env, trust) if _is_run(run) else _model(run, env, algo, trust)
    method, options = source.method, dict(source.options)
    if hasattr(method, "learning_starts"):
        method = dataclasses.replace(method, learning_starts=min(method.learning_starts, WARM_UP))
    if options.get("backend") == "envpool":  # whose environments cannot be perturbed
        options["backend"] = "auto"
    options["perturb"] = " + ".join(dict.fromkeys([*filter(None, [options.get("perturb")]), *texts]))
    _check_against(texts, source.place, source.env, options)
    path = _beside(Path(source.name)) if run_dir is None else Path(run_dir)
    new = _earlier(path, source, options["perturb"], steps or method.default_steps)
    battery = {AGAINST: texts, **(sweeps(source.place, families) if families else {})}
    played: Any = {"battery": battery, "episodes": episodes, "points": points, "seed": seed, "workers": workers}
    before, _ = audited(**source.audited, trust=trust, **played)
    if new is None:
        given = {"start": source.start, "seed": source.seeds[0], "num_seeds": len(source.seeds), "run_dir": path}
        new = api.train(method, source.env, steps, **given, **options, **settings)
    elif not new.finished:
        same = {name: x for name, x in settings.items() if name in ("callbacks", "time_limit")}
        new = api.resume(new, env=env, trust=trust, **same)
    if not new.finished:
        raise UsageError(f"{path} ended before its {new.config['steps']} steps; give the same command to go on.")
    after, _ = audited(new.path, env, trust=trust, **played)
    after.save(path)
    report = HardenReport(before, after, texts, source.name, str(path), new.config["steps"])
    report.save(path)
    return report


def _beside(source: Path) -> Path:
    """The folder of the new run beside what it is trained on."""
    source = source.resolve() if source.name in ("", "..") else source
    return source.with_name(f"{source.stem if source.is_file() else source.name}-hardened")


def _is_run(run: Any) -> bool:
    return isinstance(run, Run) or (isinstance(run, (str, Path)) and not Path(run).is_file())


def _run(run: Any, env: Any, trust: bool) -> Source:
    """A run as a source; a `UsageError` that says what to do if it cannot be trained on."""
    found = run if isinstance(run, Run) else Run(Path(run))
    if env is not None:
        raise UsageError(f"env={env!r} is for a model's file; {found.path} is trained on in its own environment.")
    if holds_agent(found.path):
        raise UsageError(
            f"{found.path} is an agent without its run, which would say how it was trained. Give the run's folder, or "
            "train from it: surefoot.train(method, env, start=…, perturb=…)."
        )
    config = found.config_with("hyperparameters", "seeds")
    if config["method"] not in {entry.slug for entry in catalogue.methods()}:
        raise UsageError(f"{found.path} was trained with {config['method']!r}, which is not in the catalogue.")
    method = make_method(config["method"], **config["hyperparameters"])[0]
    if method.loop not in ("on-policy", "off-policy"):
        raise UsageError(f"{found.path} was not trained in environments ({method.loop}), so nothing perturbs them.")
    _, place, _ = player_of(found.path, None, None, trust)
    names = [field.name for field in dataclasses.fields(loop(method.loop).options)]
    options = {name: config["env"][name] for name in names if name in config["env"]}
    name = config["env"]["env"]
    return Source(str(found.path), found, method, name, options, config["seeds"], place, {"policy": found.path})


def _model(model: Any, env: Any, algo: str | None, trust: bool) -> Source:
    """A model of Stable-Baselines3, or its file, as a source."""
    from surefoot.evaluate.foreign import SB3Policy, recorded
    from surefoot.evaluate.foreign_agent import architecture_of, cloned, settings_of

    player, place, _ = player_of(model, env, algo, trust)
    with closing(make_single(place)) as single:
        policy, _ = fitted(player, single)
    if not isinstance(policy, SB3Policy):
        raise UsageError(
            f"run={type(model).__name__} is neither a run nor a model of Stable-Baselines3: to harden a policy, its "
            "weights and its method are needed. Train one (surefoot.train) and give the run, or its folder."
        )
    agent, said = cloned(policy), recorded(model)
    method = make_method("ppo", **settings_of(said, bool(policy.wrappers)), **architecture_of(agent))[0]
    name = str(model) if isinstance(model, (str, Path)) else type(model).__name__
    given = {"policy": model, "env": env, "algo": algo}
    return Source(name, agent, method, env, {}, (0,), place, given)


def _check_against(texts: Sequence[str], place: Any, env: Any, options: dict[str, Any]) -> None:
    """Raise `UsageError` for a perturbation that cannot be trained against in the environment."""
    for text in texts:
        attack = resolve(text, place)
        if "attack" in attack.channels:
            raise UsageError(
                f"against={text!r} attacks a policy while it acts, which training environments cannot: use "
                "observation-noise of the same size with law=linf, such as observation-noise:0..0.1,law=linf."
            )
    make_perturbed(env, options["perturb"], options.get("env_kwargs") or {}, options.get("wrappers") or ()).close()


def _earlier(path: Path, source: Source, perturb: str, steps: int) -> Run | None:
    """The run that an earlier call began in the folder; None if there is none."""
    if not (new := Run(path)).started:
        return None
    begun = new.config_with("steps")
    mine = {"start": name_of(source.start), "perturb": perturb, "steps": steps}
    theirs = {"start": begun.get("start", {}).get("from"), "perturb": begun["env"].get("perturb")}
    if mine != (theirs := {**theirs, "steps": begun["steps"]}):
        raise UsageError(
            f"run_dir={str(path)!r} holds another run ({theirs}, not {mine}); give another folder (--run-dir)."
        )
    return new
