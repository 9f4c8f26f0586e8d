"""A causal language model as a predictor; apart from the others, because it needs transformers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from surefoot.methods.language.icpi.predictors import Key, Line
from surefoot.models.language.generation import Engine, generate
from surefoot.models.language.model import LanguageModel


@dataclass(frozen=True)
class Continuation:
    """A causal language model that continues the lines `key: target`; the last of them, as many as fit, are shown."""

    model: LanguageModel
    temperature: float = 0.1
    context: int = 2000  # tokens of the prompt and the answer
    answer: int = 8  # tokens
    engine: Engine = generate

    def __call__(self, examples: Sequence[Line], query: Key, rng: np.random.Generator) -> float | None:
        text = "".join(f"{line(key)} {target:g}\n" for key, target in examples) + line(query)
        limit = min(self.context, getattr(self.model.config, "max_position_embeddings", self.context)) - self.answer
        (tokens,) = self.model.encode([text])
        uniform = torch.from_numpy(rng.random((1, 1, self.answer))).float()
        found = self.engine(self.model, [tokens[-limit:]], uniform, temperature=self.temperature, stop=("\n",))
        try:
            return float(self.model.decode(found.tokens)[0].split("\n")[0])
        except ValueError:  # no number
            return None


def line(key: Key) -> str:
    """A key as the beginning of a line."""
    return " ".join(f"{x:g}" for x in key) + ":"
