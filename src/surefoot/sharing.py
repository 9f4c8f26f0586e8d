"""The commands that hand a trained policy on: `surefoot export` to a file, `surefoot push` to the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from surefoot.errors import printable


def export(
    run: Annotated[Path, arg(metavar="RUN")],
    path: Annotated[Path, arg(metavar="PATH")],
    /,
    sample: bool = False,
    states: int = 1000,
    seed: int | None = None,
    env: str | None = None,
    trust: bool = False,
) -> None:
    """Write the agent of RUN to PATH, policy.onnx or policy.pt (TorchScript), and compare the file with it.

    Args:
        run: Folder of a run or of an agent.
        path: File to write; its ending decides the format.
        sample: Sample actions by an input for noise, instead of taking the most likely one.
        states: Number of states in which the file is compared with the agent, half of them random.
        seed: Training seed of the agent, for a run with several.
        env: Environment of the states, if not the one it was trained in.
        trust: Import and call what RUN names as module:name.
    """
    from surefoot.evaluate import export as exporting

    print(printable(str(exporting.export(run, path, env, sample=sample, states=states, seed=seed, trust=trust))))


def push(
    run: Annotated[Path, arg(metavar="RUN")],
    repository: Annotated[str, arg(metavar="REPOSITORY")],
    /,
    seed: int | None = None,
    private: bool = False,
    license: str | None = None,
    message: str | None = None,
) -> None:
    """Upload the agent of RUN to the Hugging Face Hub: weights, model card, configuration, film and stress tests.

    Args:
        run: Folder of a run.
        repository: Name of the repository, user/name, which is made if there is none.
        seed: Training seed of the agent, for a run with several.
        private: Make a private repository.
        license: Licence to state in the model card, such as mit; none is stated otherwise.
        message: Message of the commit.
    """
    from surefoot.evaluate import hub

    print(hub.push(run, repository, seed=seed, private=private, license=license, message=message))
