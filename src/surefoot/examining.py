"""The commands that examine a trained policy beyond its return: `surefoot generalize` and `surefoot diagnose`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from surefoot.errors import printable


def generalize(
    run: Annotated[Path, arg(metavar="RUN")],
    /,
    train: tuple[str, ...],
    test: tuple[str, ...] = (),
    contexts: int = 20,
    episodes: int = 5,
    seed: int = 0,
    env: str | None = None,
    algo: str | None = None,
    trust: bool = False,
) -> None:
    """Play the frozen agent of RUN in contexts of its training, fresh ones, and others: returns and gaps.

    Args:
        run: Folder of a run or of an agent, hf:user/name, or a policy of another library, with --env: model.zip of
            Stable-Baselines3, policy.onnx, policy.pt, WEIGHTS@module:Class, module:function.
        train: The contexts of training, a perturbation a box, such as param:length=0.3..0.7.
        test: Further boxes of the same coordinates, inside, between or beyond those of training.
        contexts: Number of contexts drawn from every box.
        episodes: Episodes per context.
        seed: Random seed of contexts and episodes; every context has the same episodes.
        env: Environment, if not the one it was trained in.
        algo: Algorithm of a Stable-Baselines3 model file, such as ppo.
        trust: Import and call what RUN names as module:name, and unpickle a model file, which can run any code.
    """
    from surefoot.evaluate import generalization

    given = {"train": train, "test": test, "contexts": contexts, "episodes": episodes, "seed": seed}
    print(printable(generalization.generalize(run, env, **given, algo=algo, trust=trust).table()))


def diagnose(
    run: Annotated[Path, arg(metavar="RUN")],
    /,
    perturb: tuple[str, ...] = ("observation-noise:0.1",),
    episodes: int = 10,
    seed: int = 0,
    env: str | None = None,
    trust: bool = False,
) -> None:
    """Find the directions of observations along which the agent of RUN is unstable, as it is and under perturbations.

    Args:
        run: Folder of a run or of an agent, hf:user/name, or weights of a PyTorch module, with --env:
            WEIGHTS@module:Class, a TorchScript file, or a file of CleanRL.
        perturb: Perturbations under which the agent is played, each compared with its states without any.
        episodes: Episodes of every set of states.
        seed: Random seed of the episodes.
        env: Environment, if not the one it was trained in.
        trust: Import and call what RUN names as module:name.
    """
    from surefoot.evaluate import diagnose as diagnosing

    print(printable(diagnosing.diagnose(run, env, perturb, episodes=episodes, seed=seed, trust=trust).table()))
