"""A language model as an agent: text in, text out, saved in a folder that transformers can load."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from surefoot.errors import UsageError, message_of
from surefoot.hyperparameters import build, check_count
from surefoot.models.language.generation import Completions, Engine, generate, in_pieces
from surefoot.models.language.loading import load_model
from surefoot.models.language.model import LanguageModel
from surefoot.models.language.room import room_of
from surefoot.models.language.sampling import Sampling
from surefoot.models.language.text import TextSettings
from surefoot.models.saved import described
from surefoot.seeding import check_seed, torch_stream

FORMAT = "surefoot-language-agent-1"
LIMIT = 256  # default limit of tokens per completion, if the agent's facts have none; at most the model's context
TOGETHER = 256  # completions generated at a time


class LanguageAgent:
    """A model and the sampling settings of its training; `predict` has the form that evaluations expect."""

    loop: ClassVar[str] = "group-rollout"

    def __init__(self, model: LanguageModel, facts: dict[str, Any] | None = None) -> None:
        self.model, self.facts = model, facts or {}

    def __repr__(self) -> str:
        return described(self, f"{sum(w.numel() for w in self.model.network.parameters()):,} weights")

    def write(
        self,
        prompts: Sequence[Any],
        samples: int = 1,
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        seed: int = 0,
        engine: Engine = generate,
    ) -> Completions:
        """`samples` completions of every prompt; `temperature=0` is greedy decoding. Settings not given are those
        of training.

        Raises:
            UsageError: there is no prompt or an empty one, or a number is out of range; raised before generation.
        """
        heat = self.facts.get("temperature", 1.0) if temperature is None else temperature
        if isinstance(prompts, str) or not len(prompts):
            raise UsageError(f"prompts={prompts!r} is not allowed; it must be a list of at least one prompt.")
        rows = self.model.encode(prompts)
        left = room_of(self.model) - max(map(len, rows))
        usual = self.facts.get("max_tokens", max(1, min(LIMIT, left)))
        limit = usual if max_tokens is None else max_tokens
        check_count("samples", samples)
        check_count("max_tokens", limit)
        if isinstance(heat, bool) or not isinstance(heat, (int, float, np.number)) or not 0 <= heat < math.inf:
            raise UsageError(f"temperature={heat!r} is not allowed; it must be a number in [0, inf).")
        check_seed(seed)
        uniform = torch.rand(len(prompts), samples, limit, generator=torch_stream(seed, "evaluation"))
        stop = self.facts.get("stop", ())
        return in_pieces(engine, TOGETHER)(
            self.model, rows, uniform, temperature=float(heat), stop=stop, sampling=self.sampling
        )

    @property
    def sampling(self) -> Sampling:
        """How the distribution that tokens are drawn from is truncated."""
        return Sampling(**self.facts.get("sampling", {}))

    def texts(self, prompts: Sequence[Any], samples: int = 1, **settings: Any) -> list[str]:
        """The completions as texts, the samples of a prompt adjacent."""
        return self.model.decode(self.write(prompts, samples, **settings).tokens)

    def predict(
        self, observation: np.ndarray | str, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[np.ndarray, None]:
        """Completions of a batch of prompts (or of one)."""
        given = np.asarray(observation)
        prompts = [_prompt(str(text)) for text in given.reshape(-1)]
        seed = int(torch.randint(2**31 - 1, ()))
        texts = self.texts(prompts, temperature=0.0 if deterministic else None, seed=0 if deterministic else seed)
        return np.array(texts).reshape(given.shape), None

    def save(self, folder: str | Path) -> Path:
        """Write the model as transformers (or PEFT) does, and `agent.json`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.model.save(folder)
        facts = {"format": FORMAT, **self.facts, **asdict(self.model.settings)}
        (folder / "agent.json").write_text(json.dumps(facts, indent=2))
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> LanguageAgent:
        """The agent that `save` wrote. No code from the folder is run.

        Raises:
            UsageError: a file is missing or damaged.
        """
        file = Path(folder) / "agent.json"
        try:
            facts = dict(json.loads(file.read_text()))
            settings = TextSettings(**{x.name: facts.pop(x.name) for x in fields(TextSettings) if x.name in facts})
            stop = facts.get("stop", [])
            if not isinstance(stop, list) or not all(isinstance(one, str) and one for one in stop):
                raise ValueError(f"stop={stop!r} is not a list of texts")
            build(Sampling, facts.get("sampling", {}))
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise UsageError(
                f"{file} cannot be read as that of a language model ({message_of(error)}); restore the original file."
            ) from error
        facts.pop("format", None)
        return cls(load_model(folder, settings=settings), facts)


def _prompt(text: str) -> Any:
    """A prompt from its text; chat messages are given as JSON."""
    if not text.startswith("[{"):
        return text
    try:
        found = json.loads(text)
    except ValueError:
        return text
    return found if all(isinstance(one, dict) and {"role", "content"} <= one.keys() for one in found) else text
