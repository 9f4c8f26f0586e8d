"""From sequences of frames to texts: a GRU encoder, a GRU decoder with attention, and the model that is saved.

Frames of zeros after the last one are padding. Symbol 0 ends a text, and the others are the letters of an alphabet.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from surefoot.data.tables import Table
from surefoot.errors import UsageError
from surefoot.hyperparameters import build, check, hyperparameter
from surefoot.models.functional import Flat
from surefoot.models.layers import GRU, orthogonal
from surefoot.models.networks import one_hot
from surefoot.models.saved import described, read_agent, write_agent
from surefoot.objectives.edits import distances

FORMAT = "surefoot-sequence-model-1"
END = 0


@dataclass(frozen=True)
class SequenceNetwork:
    """The architecture."""

    units: int = hyperparameter(64, low=1, high=2**14, help="Units of the encoder's and of the decoder's GRU.")

    def __post_init__(self) -> None:
        check(self)

    def make(self, features: int, symbols: int) -> Seq2Seq:
        """The module for frames of so many features and texts of so many symbols, the end among them."""
        return Seq2Seq(self.units, features, symbols)


class Seq2Seq(nn.Module):
    """Logits of texts, and texts drawn from them."""

    def __init__(self, units: int, features: int, symbols: int) -> None:
        super().__init__()
        self.units, self.symbols = units, symbols
        self.encoder, self.decoder = GRU(features, units), GRU(symbols + 1 + units, units)
        self.key = orthogonal(nn.Linear(units, units), 1.0)
        self.head = orthogonal(nn.Linear(2 * units, symbols), 1.0)

    def forward(self, x: Tensor, given: Tensor) -> Tensor:
        """Frames `[batch, time, features]`. Given texts, whole numbers `[batch, length]`, the logits `[batch, length,
        symbols]` of each symbol after those before it. Given noise `[batch, length, symbols]`, the texts whose symbols
        have the greatest logit plus noise: Gumbel noise draws them, zeros are greedy."""
        seen, shown = self._encoded(x)
        state, draws = seen[:, -1], given.is_floating_point()
        last = torch.full_like(x[:, 0, 0], self.symbols, dtype=torch.long)  # nothing before the first symbol
        found = []
        for t in range(given.shape[1]):
            logits, state = self._next(last, state, seen, shown)
            last = (logits + given[:, t]).argmax(-1) if draws else given[:, t]
            found.append(last if draws else logits)
        return torch.stack(found, 1)

    def _encoded(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The encoder's states `[batch, time, units]`, which stay as they are over padding, and what is none."""
        shown = (x != 0).any(-1)
        state, states = torch.zeros_like(x[:, 0, :1]).expand(-1, self.units), []
        for t in range(x.shape[1]):
            moved, _ = self.encoder(x[:, t], state)
            state = torch.where(shown[:, t, None], moved, state)
            states.append(state)
        return torch.stack(states, 1), shown

    def _next(self, last: Tensor, state: Tensor, seen: Tensor, shown: Tensor) -> tuple[Tensor, Tensor]:
        """The logits `[batch, symbols]` after a symbol, and the decoder's state."""
        score = (seen * self.key(state).unsqueeze(1)).sum(-1).masked_fill(~shown, -1e9)
        context = (score.softmax(-1).unsqueeze(-1) * seen).sum(1)
        state, _ = self.decoder(torch.cat([one_hot(last, self.symbols + 1).to(seen.dtype), context], -1), state)
        return self.head(torch.cat([state, context], -1)), state


def counted(tokens: Tensor) -> Tensor:
    """Which symbols of texts `[..., length]` belong to them: those up to the first end, and the end."""
    ended = (tokens == END).cumsum(-1)
    return (ended == 0) | ((ended == 1) & (tokens == END))


def alphabet_of(words: np.ndarray) -> str:
    """The letters of some texts, sorted."""
    return "".join(sorted(set("".join(words.tolist()))))


def encoded_texts(words: np.ndarray, alphabet: str, length: int) -> np.ndarray:
    """Texts as symbols `[n, length]`, with ends after the last letter.

    Raises:
        UsageError: a letter is not in the alphabet.
    """
    symbols = np.full((len(words), length), END)
    for row, word in zip(symbols, words.tolist(), strict=True):
        if unknown := sorted(set(word) - set(alphabet)):
            raise UsageError(f"{unknown[0]!r} in {word!r} was not seen in training, whose letters are {alphabet!r}.")
        row[: len(word)] = [alphabet.index(letter) + 1 for letter in word]
    return symbols


class SequenceModel:
    """Texts of sequences of frames. `longest` is the most symbols of a text, the end among them."""

    loop: ClassVar[str] = "supervised"  # the kind of what it was trained in

    def __init__(
        self,
        network: SequenceNetwork,
        shape: tuple[int, int],
        vector: Tensor,
        alphabet: str,
        longest: int,
        facts: dict[str, Any] | None = None,
    ) -> None:
        self.network, self.shape, self.vector, self.alphabet = network, shape, vector, alphabet
        self.longest, self.facts = longest, facts or {}
        self.classes = np.array(list(alphabet))
        self._flat = Flat(network.make(shape[1], len(alphabet) + 1))

    def __repr__(self) -> str:
        frames, features = self.shape
        return described(self, f"{frames} frames of {features} → texts of {self.alphabet!r}")

    def frames(self, X: Any) -> Tensor:
        """Frames `[n, time, features]` of rows in any shape, if they are as many as it was trained on."""
        X = np.asarray(X, dtype=np.float32)
        if X.ndim < 2 or X[0].size != self.shape[0] * self.shape[1]:
            raise UsageError(
                f"X has the shape {list(X.shape)}; this model was trained on {self.shape[0]} frames of {self.shape[1]} "
                f"features, so it must be [samples, {self.shape[0]}, {self.shape[1]}], with zeros after the last frame."
            )
        return torch.from_numpy(X.reshape(len(X), *self.shape))

    def symbols(self, X: Any) -> Tensor:
        """The likeliest symbols one after another, `[n, longest]`."""
        with torch.no_grad():
            x = self.frames(X)
            return self._flat(self.vector, x, torch.zeros(len(x), self.longest, len(self.alphabet) + 1))

    def predict(self, X: Any) -> np.ndarray:
        """The text of every row, `[n]`."""
        letters = ("", *self.alphabet)
        rows = torch.where(counted(found := self.symbols(X)), found, END).tolist()
        return np.array(["".join(letters[i] for i in row) for row in rows])

    def log_probabilities(self, X: Any, words: np.ndarray) -> Tensor:
        """The log-probability of texts, per symbol `[n, length]`; 0 after the end."""
        length = max(map(len, words.tolist())) + 1
        tokens = torch.from_numpy(encoded_texts(words, self.alphabet, length))
        with torch.no_grad():
            log = self._flat(self.vector, self.frames(X), tokens).log_softmax(-1)
        return log.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) * counted(tokens)

    def probabilities(self, X: Any) -> np.ndarray:
        """The chance of the text that it predicts, `[n, 1]`."""
        return self.log_probabilities(X, self.predict(X)).sum(-1, keepdim=True).exp().numpy()

    def losses(self, table: Table) -> np.ndarray:
        """Minus the log-probability of every row's text, per symbol, `[n]`."""
        log = self.log_probabilities(table.X, table.y)
        return (-log.sum(-1) / torch.tensor([len(word) + 1 for word in table.y.tolist()])).numpy()

    def character_error(self, table: Table) -> float:
        """The edit distance of predicted texts by the letters of the true ones."""
        words, found = table.y, self.predict(table.X)
        letters = alphabet_of(np.concatenate([words, found]))
        lengths = [torch.tensor([len(word) for word in x.tolist()]) for x in (found, words)]
        texts = [
            torch.from_numpy(encoded_texts(x, letters, int(n.max()) or 1))
            for x, n in zip((found, words), lengths, strict=True)
        ]
        reached = distances(texts[0], texts[1], lengths[1])
        return float(reached.gather(1, lengths[0][:, None]).sum() / lengths[1].sum())

    def save(self, folder: str | Path) -> Path:
        """Write `agent.safetensors` and `agent.json` into a folder."""
        about = {"network": dataclasses.asdict(self.network), "shape": list(self.shape)}
        about |= {"alphabet": self.alphabet, "longest": self.longest}
        return write_agent(folder, {"format": FORMAT, **about, **self.facts}, {"weights": self.vector.contiguous()})

    @classmethod
    def load(cls, folder: str | Path) -> SequenceModel:
        """The model that `save` wrote. Reads tensors and JSON only; no code is run.

        Raises:
            UsageError: the folder has no such model, or a damaged one.
        """
        about, tensors = read_agent(folder, FORMAT)
        try:
            network, shape, alphabet, longest = (
                about.pop(name) for name in ("network", "shape", "alphabet", "longest")
            )
            whole = [*shape, longest] if isinstance(shape, list) and len(shape) == 2 else []
            if not whole or not all(type(n) is int and 0 < n < 2**20 for n in whole):
                raise ValueError(f"shape={shape!r} with longest={longest!r} is not allowed")
            if not isinstance(alphabet, str) or alphabet != "".join(sorted(set(alphabet))) or not alphabet:
                raise ValueError(f"alphabet={alphabet!r} is not a sorted alphabet")
            made, weights = build(SequenceNetwork, network), tensors["weights"]
            with torch.device("meta"):
                size = sum(p.numel() for p in made.make(shape[1], len(alphabet) + 1).parameters())
            if weights.shape != (size,) or not bool(torch.isfinite(weights).all()):
                raise ValueError(f"{list(weights.shape)} weights do not fit the network of {size}")
            return cls(made, (shape[0], shape[1]), weights, alphabet, longest, about)
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            raise UsageError(f"{folder} is damaged: it does not hold the model in agent.json ({error}).") from error
