"""Hardening a policy: train on from its weights against what it failed, and audit it before and after."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from surefoot import api, catalogue
from surefoot.configure import make_method
from surefoot.envs.perturbed import make_perturbed
from surefoot.errors import UsageError
from surefoot.evaluate.audit import audited
from surefoot.evaluate.battery import FAMILIES, sweeps
from surefoot.evaluate.hardened import AGAINST, HardenReport
from surefoot.evaluate.player import player_of
from surefoot.evaluate.rollout import resolve
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


def harden(
    run: str | Path | Run,
    against: str | Sequence[str],
    steps: int | None = None,
    *,
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
        run: a run or its folder. Of several seeds all are trained, and the first is audited.
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
    found = _run_of(run)
    config = found.config_with("hyperparameters", "seeds")
    if config["method"] not in {entry.slug for entry in catalogue.methods()}:
        raise UsageError(f"{found.path} was trained with {config['method']!r}, which is not in the catalogue.")
    method = make_method(config["method"], **config["hyperparameters"])[0]
    if method.loop not in ("on-policy", "off-policy"):
        raise UsageError(f"{found.path} was not trained in environments ({method.loop}), so nothing perturbs them.")
    if hasattr(method, "learning_starts"):
        method = dataclasses.replace(method, learning_starts=min(method.learning_starts, WARM_UP))  # type: ignore[type-var]
    texts = texts_of(against)
    _, place, _ = player_of(found.path, None, None, trust)
    swept = {AGAINST: texts, **(sweeps(place, families) if families else {})}
    names = [field.name for field in dataclasses.fields(loop(method.loop).options)]
    options = {name: config["env"][name] for name in names if name in config["env"]}
    if options.get("backend") == "envpool":  # whose environments cannot be perturbed
        options["backend"] = "auto"
    options["perturb"] = " + ".join(dict.fromkeys([*filter(None, [options.get("perturb")]), *texts]))
    _check_against(texts, place, config["env"]["env"], options)
    path = Path(run_dir) if run_dir is not None else found.path.with_name(f"{found.path.name}-hardened")
    new = _earlier(path, found, options["perturb"], steps or method.default_steps)
    played: Any = {"battery": swept, "episodes": episodes, "points": points, "seed": seed, "workers": workers}
    before, _ = audited(found.path, trust=trust, **played)
    if new is None:
        seeds = config["seeds"]
        given = {"start": found, "seed": seeds[0], "num_seeds": len(seeds), "run_dir": path, **options, **settings}
        new = api.train(method, config["env"]["env"], steps, **given)
    elif not new.finished:
        new = api.resume(new, trust=trust, **{k: x for k, x in settings.items() if k in ("callbacks", "time_limit")})
    if not new.finished:
        raise UsageError(f"{path} ended before its {new.config['steps']} steps; give the same command to go on.")
    after, _ = audited(new.path, trust=trust, **played)
    after.save(path)
    report = HardenReport(before, after, texts, str(found.path), str(path), new.config["steps"])
    report.save(path)
    return report


def _run_of(run: Any) -> Run:
    """The run to train on; a `UsageError` that says what to do for anything else."""
    if isinstance(run, Run):
        return run
    if not isinstance(run, (str, Path)):
        raise UsageError(
            f"run={type(run).__name__} is not a run: to harden a policy its weights and its method are needed. Train "
            "one (surefoot.train) and give the run, or its folder."
        )
    if Path(run).is_file():
        raise UsageError(
            f"{run} is the file of a model, which says too little to train on from it. For PPO of Stable-Baselines3: "
            "surefoot.adopt(model, env) makes a run of it that can be hardened."
        )
    if holds_agent(run):
        raise UsageError(
            f"{run} is an agent without its run, which would say how it was trained. Give the run's folder, or train "
            "from it: surefoot.train(method, env, start=…, perturb=…)."
        )
    return Run(Path(run))


def _check_against(texts: Sequence[str], place: Any, env: str, options: dict[str, Any]) -> None:
    """Raise `UsageError` for a perturbation that cannot be trained against in the environment."""
    for text in texts:
        attack = resolve(text, place)
        if "attack" in attack.channels:
            raise UsageError(
                f"against={text!r} attacks a policy while it acts, which training environments cannot: use "
                "observation-noise of the same size with law=linf, such as observation-noise:0..0.1,law=linf."
            )
    make_perturbed(env, options["perturb"], options.get("env_kwargs") or {}, options.get("wrappers") or ()).close()


def _earlier(path: Path, source: Run, perturb: str, steps: int) -> Run | None:
    """The run that an earlier call began in the folder; None if there is none."""
    if not (new := Run(path)).started:
        return None
    begun = new.config_with("steps")
    mine = {"start": str(source.path), "perturb": perturb, "steps": steps}
    theirs = {"start": begun.get("start", {}).get("from"), "perturb": begun["env"].get("perturb"),
              "steps": begun["steps"]}  # fmt: skip
    if mine != theirs:
        raise UsageError(
            f"run_dir={str(path)!r} holds another run ({theirs}, not {mine}); give another folder (--run-dir)."
        )
    return new
