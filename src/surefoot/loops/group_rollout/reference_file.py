"""The reference's log-probabilities of a set of pairs, in a file beside the data, for all runs with that reference.

What a file holds is right for one model and for one list of tokens. It names both by a hash, so a file of another
model, tokenizer, chat template or set of pairs is refused, never used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from surefoot.errors import UsageError, message_of
from surefoot.files import read_bytes, write_whole
from surefoot.loops.common import distributed
from surefoot.loops.group_rollout.learner import LanguageLearner
from surefoot.models.language.model import LanguageModel
from surefoot.models.language.sequences import Sequences, join

TOGETHER = 256  # rows read at a time
REFERENCE = "reference"  # in a method's memory, and in the file
SAME = {
    "model": "another model",
    "pairs": "other pairs, or of other tokens of them",
    "temperature": "another temperature",
}


def kept(learner: LanguageLearner, path: str | Path | None) -> LanguageLearner:
    """A fresh learner that knows all log-probabilities of its reference: those in the file, or new ones, then kept in
    it; without a file as it is.

    Raises:
        UsageError: the method has none to keep, or the file is of another model or of other pairs.
    """
    if path is None:
        return learner
    known = learner.memory.get(REFERENCE)
    if known is None:
        raise UsageError(
            f"reference_cache={str(path)!r} has no effect: {type(learner.method).__name__} on {learner.task} compares "
            "no finite set of pairs with a reference; leave it out."
        )
    pieces = list(_rows(learner, len(known)))
    now = {
        "model": _of_weights(learner.model),
        "pairs": _hash(row.tobytes() for piece in pieces for row in (piece.tokens.numpy(), piece.valid.numpy())),
        "temperature": torch.tensor(learner.method.temperature, dtype=torch.float64),
    }
    if Path(path).exists():
        learner.memory = {**learner.memory, REFERENCE: _checked(path, now, known)}
        return learner
    found = [learner.estimator.statistics(piece, reference=True).log_prob.sum(1) for piece in pieces]
    learner.memory = {**learner.memory, REFERENCE: torch.cat(found).view(known.shape)}
    if not distributed.rank():
        write_whole(path, safetensors.torch.save({**now, REFERENCE: learner.memory[REFERENCE]}))
    return learner


def _rows(learner: LanguageLearner, count: int) -> Iterable[Sequences]:
    """The tokens of all pairs in their order, some at a time."""
    asked, texts = [], []
    for index in range(count):
        for prompt, text in learner.method.learned(learner.task.example(index)):
            asked.append(prompt)
            texts.append(text)
    model = learner.model
    for start in range(0, len(asked), TOGETHER):
        some = slice(start, start + TOGETHER)
        yield join(model.encode(asked[some]), model.encode_completions(texts[some], asked[some]))


def _checked(path: str | Path, now: dict[str, Tensor], known: Tensor) -> Tensor:
    """The log-probabilities in a file that is of this model and of these pairs."""
    try:
        held = safetensors.torch.load(read_bytes(path))
        found = held[REFERENCE]
        differ = [name for name in now if not torch.equal(held[name], now[name])]
    except (OSError, KeyError, safetensors.SafetensorError) as error:
        raise UsageError(
            f"reference_cache={str(path)!r} cannot be read ({message_of(error)}); remove the file, so that it is "
            "written again."
        ) from error
    if differ:
        raise UsageError(
            f"reference_cache={str(path)!r} holds log-probabilities of {SAME[differ[0]]}, not of this run's; name "
            "another file, which is then written, or train with what this one was written for."
        )
    if found.shape != known.shape or not bool(found.isfinite().all()):
        raise UsageError(f"reference_cache={str(path)!r} is damaged; remove the file, so that it is written again.")
    return found.to(known.dtype)


def _of_weights(model: LanguageModel) -> Tensor:
    """The hash of the reference's weights: of the frozen copy, or of the network without its adapter, which is the same
    model."""
    adapter = {id(weight) for weight in model.network.parameters() if weight.requires_grad and model.reference is None}

    def weights() -> Iterable[bytes]:
        with model.as_reference() as network:
            for name, weight in sorted(network.named_parameters()):
                if id(weight) not in adapter:
                    weight = distributed.whole(weight.detach()).cpu().contiguous()
                    plain = name.replace(".base_layer.", ".")  # as it is called without an adapter
                    yield f"{plain} {weight.dtype} {tuple(weight.shape)}".encode()
                    yield weight.flatten().view(torch.uint8).numpy().tobytes()

    return _hash(weights())


def _hash(parts: Iterable[bytes]) -> Tensor:
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return torch.frombuffer(bytearray(found.digest()), dtype=torch.uint8)
