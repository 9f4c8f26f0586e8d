"""The command `surefoot audit`: rate a policy under a battery of perturbations, and fail where it falls short."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from surefoot.errors import printable


def audit(
    run: Annotated[Path, arg(metavar="RUN")],
    /,
    require: str = "",
    families: str = "sensors,actuators,timing,physics",
    format: Literal["text", "markdown", "json"] = "text",
    episodes: int = 10,
    points: int = 5,
    seed: int = 0,
    workers: int = 1,
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
        families: Families to play, some of sensors,actuators,timing,physics.
        format: text for a terminal, markdown for a pull request, json for a program.
        episodes: Episodes per cell; every cell uses the same ones.
        points: Values per dimension of a sweep.
        seed: Random seed of the episodes.
        workers: Number of processes.
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
        workers=workers,
        algo=algo,
        trust=trust,
        out=out,
    )
    print(printable({"text": report.table, "markdown": report.markdown, "json": report.json}[format]()))
    if not report.passed():
        raise SystemExit(1)
