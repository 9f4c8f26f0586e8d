"""Generating completions: a group's prompt is read once, then all of its samples are continued together.

Every sample has its own row of uniform numbers, so it does not depend on the other samples in the batch, and the same
numbers give the same text. Samples that have finished leave the batch. The probabilities of all rows never exist at
once; `in_pieces` limits the keys and values that do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from surefoot.hyperparameters import check_count
from surefoot.models.language.head import TILE
from surefoot.models.language.model import LanguageModel
from surefoot.models.language.remembered import Memory, read
from surefoot.models.language.room import check_room
from surefoot.models.language.sampling import Sampling
from surefoot.models.language.states import cache_name

WHOLE = Sampling()  # tokens are drawn from the model's whole distribution


@dataclass(frozen=True)
class Completions:
    """Completions, prompt by prompt: `samples` consecutive ones for each."""

    tokens: list[list[int]]
    log_prob: list[list[float]]  # of every token, under the distribution that it was sampled from
    finished: list[bool]  # False if the limit stopped it


class Engine(Protocol):
    """The interface of a generation engine."""

    def __call__(
        self,
        model: LanguageModel,
        prompts: Sequence[Sequence[int]],
        uniform: Float[Tensor, "prompts samples tokens"],
        *,
        temperature: float,
        stop: Sequence[str] = (),
        sampling: Sampling = WHOLE,
    ) -> Completions: ...


@torch.no_grad()
def generate(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    uniform: Float[Tensor, "prompts samples tokens"],
    *,
    temperature: float,
    stop: Sequence[str] = (),
    sampling: Sampling = WHOLE,
) -> Completions:
    """Completions of every prompt, `uniform.shape[1]` each, of at most `uniform.shape[2]` tokens.

    `temperature=0` is greedy decoding. A completion ends with any of the model's `ends`, or with the first of the
    `stop` strings that it contains; both remain part of it.
    """
    check_room(model, prompts, uniform.shape[2])
    with model.evaluating():
        return _written(model, prompts, uniform, temperature, stop, sampling)


def conversing(engine: Engine) -> Engine:
    """The engine for the turns of some conversations: our own one then reads in each turn only what is new. One that
    writes in pieces, to limit the keys and values in memory, keeps none, and others have their own ways."""
    return partial(_remembering, Memory()) if engine is generate else engine


@torch.no_grad()
def _remembering(
    memory: Memory,
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    uniform: Float[Tensor, "prompts samples tokens"],
    *,
    temperature: float,
    stop: Sequence[str] = (),
    sampling: Sampling = WHOLE,
) -> Completions:
    check_room(model, prompts, uniform.shape[2])
    with model.evaluating():
        found = _written(model, prompts, uniform, temperature, stop, sampling, memory)
    memory.turn()
    return found


def _written(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    uniform: Tensor,
    temperature: float,
    stop: Sequence[str],
    sampling: Sampling,
    memory: Memory | None = None,
) -> Completions:
    from surefoot.models.language.roomy import make_roomy  # it loads transformers

    samples, limit = uniform.shape[1:]
    base, remembered = model.base, cache_name(model.base)
    draws, ends = uniform.flatten(0, 1).to(model.device), torch.tensor(model.ends, device=model.device)
    tokens, seen, position, hidden, cache = read(base, prompts, model.device, memory)
    cache.batch_repeat_interleave(samples)
    make_roomy(cache)
    hidden, seen, position = (x.repeat_interleave(samples, 0) for x in (hidden, seen, position))
    padded = not bool(seen.all())
    rows = torch.arange(len(hidden), device=model.device)
    written = torch.zeros(len(rows), limit, dtype=torch.int64, device=model.device)
    log_prob = torch.zeros(len(rows), limit, device=model.device)
    asked = tokens.repeat_interleave(samples, 0)  # the prompts, which a repetition penalty looks at
    lengths, done = torch.full((len(rows),), limit), torch.zeros_like(rows, dtype=torch.bool)
    for t in range(limit):
        before = torch.cat([asked[rows], written[rows, :t]], 1) if sampling.repetition_penalty != 1 else asked[rows]
        choice, chosen = _drawn(model, hidden, draws[rows, t], temperature, sampling, before, seen)
        written[rows, t], log_prob[rows, t] = choice, chosen
        done = torch.isin(choice, ends)
        if stop:
            done |= _stopped(model, written[rows, : t + 1], stop)
        lengths[rows[done].cpu()] = t + 1
        last = bool(done.all()) or t + 1 == limit
        if memory is not None and (last or bool(done.any())):
            leaving = torch.arange(len(rows)) if last else done.nonzero().squeeze(-1).cpu()
            places = rows[leaving].tolist()
            read_so_far = [[*prompts[i // samples], *written[i, :t].tolist()] for i in places]  # not the last token
            memory.keep(cache, leaving, seen, read_so_far)
        if last:
            break
        if bool(done.any()):
            keep = _remaining(done)
            rows, choice, seen, position = rows[keep], choice[keep], seen[keep], position[keep]
            cache.batch_select_indices(keep)
        position = position + 1
        seen = torch.cat([seen, seen.new_ones(len(seen), 1)], 1)
        out = base.base_model(
            input_ids=choice[:, None],
            attention_mask=seen.long() if padded else None,
            position_ids=position,
            use_cache=True,
            **{remembered: cache},
        )
        hidden = out.last_hidden_state[:, -1]
    finished = torch.ones(len(lengths), dtype=torch.bool)
    finished[rows[~done].cpu()] = False
    return Completions(
        [row[:n] for row, n in zip(written.tolist(), lengths.tolist())],
        [row[:n] for row, n in zip(log_prob.tolist(), lengths.tolist())],
        finished.tolist(),
    )


def _remaining(done: Tensor) -> Tensor:
    """The rows that are not done: those at the end take the places of the ones that are, and the others stay."""
    kept = int((~done).sum())
    rows = torch.arange(kept, device=done.device)
    rows[done[:kept]] = kept + (~done[kept:]).nonzero().squeeze(-1)
    return rows


def in_pieces(engine: Engine, rows: int) -> Engine:
    """An engine that generates at most `rows` completions at a time, keeping those of a prompt together if they fit.

    Raises:
        UsageError: `rows` is not a whole number of at least 1.
    """
    check_count("generation_batch", rows)
    return partial(_in_pieces, engine, rows)


def _in_pieces(
    engine: Engine,
    rows: int,
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    uniform: Float[Tensor, "prompts samples tokens"],
    *,
    temperature: float,
    stop: Sequence[str] = (),
    sampling: Sampling = WHOLE,
) -> Completions:
    check_room(model, prompts, uniform.shape[2])  # for all of them, before any is generated
    samples = uniform.shape[1]
    size = max(1, rows // samples)
    found = [
        engine(
            model,
            prompts[i : i + size],
            uniform[i : i + size, k : k + rows],
            temperature=temperature,
            stop=stop,
            sampling=sampling,
        )
        for i in range(0, len(prompts), size)
        for k in range(0, samples, rows)
    ]
    return Completions(
        [row for part in found for row in part.tokens],
        [row for part in found for row in part.log_prob],
        [one for part in found for one in part.finished],
    )


def _drawn(
    model: LanguageModel,
    hidden: Tensor,
    uniform: Tensor,
    temperature: float,
    sampling: Sampling,
    before: Tensor,
    valid: Tensor,
) -> tuple[Tensor, Tensor]:
    """A sampled token for every row and its log-probability, for as many rows at a time as have `TILE` logits. `before`
    are the tokens so far, where `valid`."""
    size, parts = max(1, TILE // len(model.head()[0])), []
    for some, numbers, tokens, known in zip(*(x.split(size) for x in (hidden, uniform, before, valid)), strict=True):
        logits = model.next_logits(some, temperature or 1.0)
        logits = logits if sampling.whole else sampling.logits(logits, tokens, known)
        parts.append(draw(logits, numbers, temperature == 0))
    choice, chosen = zip(*parts, strict=True)
    return torch.cat(choice), torch.cat(chosen)


def draw(logits: Tensor, uniform: Tensor, greedy: bool = False) -> tuple[Tensor, Tensor]:
    """A token for every row by inverse transform sampling from a uniform number, and its log-probability."""
    log_probs = logits.log_softmax(-1)
    if greedy:
        chosen, choice = log_probs.max(-1)
        return choice, chosen
    cumulative = log_probs.exp().cumsum(-1, dtype=torch.float64)
    choice = torch.searchsorted(cumulative, uniform[:, None].double() * cumulative[:, -1:], right=True).squeeze(-1)
    choice = choice.clamp(max=logits.shape[-1] - 1)
    return choice, log_probs.gather(-1, choice[:, None]).squeeze(-1)


def _stopped(model: LanguageModel, written: Tensor, stop: Sequence[str]) -> Tensor:
    """The rows that have just completed one of the stop strings."""
    reach = 2 + max(len(text.encode()) for text in stop)  # most tokens that can be part of it: one byte each
    texts = model.tokenizer.batch_decode(written[:, -reach:].tolist())  # a stop string may be a special token
    return torch.tensor([any(s in text for s in stop) for text in texts], device=written.device)
