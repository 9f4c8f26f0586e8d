"""Agents on the Hugging Face Hub: `push` uploads one with its card, and `hf:user/name` names one.

What a repository holds is data from a stranger. Only the agent's files are downloaded, they are read as those of any
folder, and the environment that they name is made under the same rules.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from surefoot.errors import UsageError
from surefoot.loops.common.folder import Run, agent_folder
from surefoot.models.saved import holds_agent

NAME = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"
DOWNLOADED = ["*.json", "*.safetensors", "tokenizer*", "*.txt", "*.jinja"]  # the files of an agent of any kind
RECORDS = ("evaluation*.json", "stress-*.json", "audit.json", "audit.md")
PRIVATE = ("command", "id")  # entries of a configuration that are about the machine of its training


def push(
    run: str | Path | Run,
    repository: str,
    *,
    seed: int | None = None,
    private: bool = False,
    license: str | None = None,
    message: str | None = None,
) -> str:
    """Upload the agent of a run to the Hugging Face Hub, and return the repository's address.

    There are its weights (safetensors), its card, the configuration of its training, the film (`video.mp4` of the run,
    as `replay.mp4`, which the hub shows), and the results of `evaluate`, `stress` and `audit`. Command lines and paths
    are not uploaded.

    Args:
        run: a run or its folder.
        repository: "user/name"; it is made if there is none.
        seed: of the agent, for a run with several.
        private: make a private repository.
        license: licence to state in the card, such as "mit"; none is stated otherwise.
        message: of the commit.

    Raises:
        UsageError: there is no finished agent, no token, or no way to the hub.
    """
    if not re.fullmatch(NAME, repository):
        raise UsageError(f"repository={repository!r} is not allowed; it must be user/name.")
    found = run if isinstance(run, Run) else Run(Path(run))
    seeds = found.config_with("seeds")["seeds"]
    chosen = seeds[0] if seed is None else seed
    if chosen not in seeds:
        raise UsageError(f"seed={seed!r} is not in this run; its seeds are {', '.join(map(str, seeds))}.")
    folder = agent_folder(found.path, seeds, chosen)
    if not holds_agent(folder):
        raise UsageError(f"{found.path} has no agent yet; resume it with: surefoot train --resume {found.path}.")
    hub = _library()
    if hub.get_token() is None:
        raise UsageError("push needs a token of the Hugging Face Hub: run hf auth login, or set HF_TOKEN.")
    from surefoot.evaluate.agent_card import written

    text = written(found, chosen, place=f"hf:{repository}", license=license)
    with tempfile.TemporaryDirectory() as place:
        _gather(found, folder, Path(place), chosen == seeds[0])
        (Path(place) / "README.md").write_text(text, encoding="utf-8")
        said = message or f"{found.config['method']} on {found.config['env']['env']}"
        try:
            api = hub.HfApi(library_name="surefoot")
            made = api.create_repo(repository, private=private or None, exist_ok=True)
            api.upload_folder(repo_id=repository, folder_path=place, commit_message=said)
        except Exception as error:  # errors of its transports share no class
            raise _refused(repository, "pushed to", error) from error
    return str(made)


def _gather(run: Run, agent: Path, place: Path, measured: bool) -> None:
    """Copy what is uploaded into one folder: the agent's files at its top, the run's records under `run`."""
    for file in agent.iterdir():
        if file.is_file() and not file.name.startswith(".") and file.name != "README.md":
            shutil.copyfile(file, place / file.name)
    (place / "run").mkdir()
    config = {name: x for name, x in run.config.items() if name not in PRIVATE}
    (place / "run" / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    if not measured:
        return
    for pattern in RECORDS:
        for file in sorted(run.path.glob(pattern)):
            shutil.copyfile(file, place / "run" / file.name)
    if (run.path / "video.mp4").is_file():
        shutil.copyfile(run.path / "video.mp4", place / "replay.mp4")


def local(policy: str | Path) -> str | Path:
    """The folder of the agent that `hf:user/name` or `hf:user/name@revision` names, downloaded; anything else as it is.

    Raises:
        UsageError: there is no such repository, no agent in it, or no way to the hub.
    """
    match = re.fullmatch(rf"hf:/*({NAME})(?:@([\w./-]+))?", str(policy))
    if match is None:
        return policy
    name, revision = match.groups()
    try:
        folder = _library().snapshot_download(name, revision=revision, allow_patterns=DOWNLOADED)
    except UsageError:
        raise
    except Exception as error:  # errors of its transports share no class
        raise _refused(name, "loaded from", error) from error
    if not holds_agent(folder):
        raise UsageError(
            f"hf:{name} holds no agent of this library (agent.json). Download the file of another library, and give "
            "that: surefoot evaluate model.zip --algo ppo --env ID."
        )
    return Path(folder)


def _library() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise UsageError("the Hugging Face Hub needs pip install 'surefoot[hub]' (huggingface_hub).") from error
    return huggingface_hub


def _refused(name: str, what: str, error: Exception) -> UsageError:
    status = getattr(getattr(error, "response", None), "status_code", None)
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    cure = "Check the connection, and the name."
    if status in (401, 403, 404):
        cure = "Check the name, and that the token (hf auth login, or HF_TOKEN) may read or write it."
    return UsageError(f"hf:{name} cannot be {what}: {said} {cure}")
