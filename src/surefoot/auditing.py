"""The commands `surefoot audit`, which rates a policy under a battery of perturbations and fails where it falls short,
and `surefoot harden`, which trains on against what it failed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import arg

from surefoot.errors import printable


def audit(
    run: Annotated[Path, arg(metavar="RUN")],
    /,
    require: str = "",
    families: str = "sensors,actuators,timing,physics,adversarial",
    format: Literal["text", "markdown", "json"] = "text",
    episodes: int = 10,
    points: int = 5,
    seed: int = 0,
    width: float | None = None,
    max_episodes: int = 100,
    workers: int = 1,
    video: bool = False,
    env: str | None = None,
    algo: str | None = None,
    trust: bool = False,
    out: Path | None = None,
) -> None:
    """Rate the agent of RUN under a battery of perturbations; exit code 1 where --require is not met.

    Args:
        run: Folder of a run or of an agent, hf:user/name, or a policy of another library, with --env: model.zip of
            Stable-Baselines3, policy.onnx, policy.pt, WEIGHTS@module:Class, module:function.
        require: Least shares of the nominal return that must be kept, by interval, such as worst=0.7,delay=0.8. A name
            is worst, a family, a perturbation, a parameter, or a word of one.
        families: Families to play, some of sensors,actuators,timing,physics,adversarial.
        format: text for a terminal, markdown for a pull request, json for a program.
        episodes: Episodes per cell; every cell uses the same ones.
        points: Values per dimension of a sweep.
        seed: Random seed of the episodes.
        width: Greatest width of the 95 % interval of a cell's share, such as 0.1. A pilot of EPISODES other episodes
            per cell then chooses how many are played, at most MAX-EPISODES.
        max_episodes: Most episodes per cell with --width.
        workers: Number of processes.
        video: Film one episode in the nominal environment and in the worst cell.
        env: Environment, if not the one it was trained in.
        algo: Algorithm of a Stable-Baselines3 model file, such as ppo.
        trust: Import and call what RUN names as module:name, and unpickle a model file, which can run any code.
        out: Folder for audit.json, audit.md and audit.html; a run keeps them in its own folder too.
    """
    from surefoot.evaluate.audit import audit as played

    chosen = [name.strip() for name in families.split(",") if name.strip()]
    report = played(
        run,
        env,
        require,
        families=chosen,
        episodes=episodes,
        points=points,
        seed=seed,
        width=width,
        max_episodes=max_episodes,
        workers=workers,
        video=video,
        algo=algo,
        trust=trust,
        out=out,
    )
    print(printable({"text": report.table, "markdown": report.markdown, "json": report.json}[format]()))
    if not report.passed():
        raise SystemExit(1)


def harden(
    run: Annotated[Path, arg(metavar="RUN")],
    /,
    against: str,
    steps: int | None = None,
    families: str = "sensors,actuators,timing,physics,adversarial",
    format: Literal["text", "markdown", "json"] = "text",
    episodes: int = 10,
    points: int = 5,
    seed: int = 0,
    workers: int = 1,
    run_dir: Path | None = None,
    threads: int = 1,
    env: str | None = None,
    algo: str | None = None,
    trust: bool = False,
) -> None:
    """Train on from the weights of RUN against what it failed, and audit it before and after with the same episodes.

    The new run has the method and the hyperparameters of RUN, which is left as it is. Every episode is played under all
    that it is trained against, with strengths drawn anew. If it is interrupted, the same command goes on.

    Args:
        run: Folder of a run, or the .zip of a Stable-Baselines3 PPO with an MlpPolicy (with --env).
        against: Perturbations with ranges, as for stress, such as rrls:2d,observation-noise:0..0.1.
        steps: Environment steps to train, such as 300k; by default the method's own number.
        families: Families to audit besides what it is trained against; "" for none.
        format: text for a terminal, markdown for a pull request, json for a program.
        episodes: Episodes per cell of the audits; every cell uses the same ones.
        points: Values per dimension of a sweep.
        seed: Random seed of the episodes.
        workers: Number of processes of the audits.
        run_dir: Folder of the new run; RUN-hardened by default. It keeps both audits as harden.json, .md and .html.
        threads: Number of torch threads.
        env: Environment of a Stable-Baselines3 model file.
        algo: Algorithm of a Stable-Baselines3 model file, such as ppo.
        trust: Import and call what RUN names as module:name, and unpickle a model file, which can run any code.
    """
    import torch

    from surefoot.hardening import harden as hardened
    from surefoot.hyperparameters import check_threads

    check_threads(threads)
    torch.set_num_threads(threads)
    chosen = [name.strip() for name in families.split(",") if name.strip()]
    given: Any = {"episodes": episodes, "points": points, "seed": seed, "workers": workers, "trust": trust}
    report = hardened(run, against, steps, env=env, algo=algo, families=chosen, run_dir=run_dir, **given)
    print(printable({"text": report.table, "markdown": report.markdown, "json": report.json}[format]()))
