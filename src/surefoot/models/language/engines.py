"""Engines of other libraries behind the interface of `generation`; training treats their completions like our own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from surefoot.errors import UsageError
from surefoot.models.language.generation import WHOLE, Completions, Engine, generate
from surefoot.models.language.model import LanguageModel
from surefoot.models.language.need import need
from surefoot.models.language.room import check_room
from surefoot.models.language.sampling import Sampling
from surefoot.models.language.vllm_engine import VLLM
from surefoot.models.language.vllm_server import VLLMServer

PAGE = 32  # tokens per page of the cache


def continuous_batching(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    uniform: Float[Tensor, "prompts samples tokens"],
    *,
    temperature: float,
    stop: Sequence[str] = (),
    sampling: Sampling = WHOLE,
) -> Completions:
    """Completions by the continuous batching of transformers, with the model's own weights in this process.

    Rows that end make room for others, which saves time on a GPU and if lengths vary widely. The same `uniform` gives
    the same text, as it determines the seed; a sample also depends on the others in its batch. Stop strings are applied
    afterwards, so they save no work.
    """
    transformers = need("transformers")
    samples, limit = uniform.shape[1:]
    check_room(model, prompts, limit)
    config = transformers.GenerationConfig(
        max_new_tokens=limit,
        do_sample=temperature > 0,
        temperature=temperature or 1.0,
        top_k=sampling.top_k or 0,
        top_p=sampling.top_p,
        min_p=sampling.min_p or None,
        repetition_penalty=sampling.repetition_penalty,
        eos_token_id=model.ends,
        pad_token_id=model.tokenizer.pad_token_id,
    )
    rows = [list(prompt) for prompt in prompts for _ in range(samples)]
    with model.evaluating():
        found = model.base.generate_batch(
            rows, generation_config=config, continuous_batching_config=_batching(model, rows, uniform), warmup=False
        )
    written = list(found.values())
    broken = [x.error for x in written if x.error is not None] + ["no answer"] * (len(rows) - len(written))
    if broken:
        raise UsageError(
            f"engine='transformers' failed to generate {len(broken)} of {len(rows)} completions ({broken[0]}); fewer "
            "prompts, samples or max_tokens need less memory, or use engine='own'."
        )
    return cut(model, [x.generated_tokens for x in written], [x.logprobs for x in written], stop)


def _batching(model: LanguageModel, rows: Sequence[Sequence[int]], uniform: Tensor) -> Any:
    """The settings of continuous batching. On a GPU transformers sizes the cache; on a CPU it holds all rows."""
    made = need("transformers.generation.configuration_utils").ContinuousBatchingConfig
    seed = int(uniform.flatten()[0].double() * 2**31)
    longest = max(map(len, rows))
    pages = -(-(longest + uniform.shape[2]) // PAGE)
    sizes = {} if model.device.type == "cuda" else {
        "page_size": PAGE,
        "num_blocks": 1 + pages * len(rows),
        "max_batch_tokens": max(longest, len(rows), 256),
    }  # fmt: skip
    return made(return_logprobs=True, seed=seed, **sizes)


def cut(model: LanguageModel, tokens: list[list[int]], log_prob: list[list[float]], stop: Sequence[str]) -> Completions:
    """Completions truncated at the end of the first stop string in each."""
    finished, ends = [], model.ends
    for i, row in enumerate(tokens):
        lengths = range(1, len(row) + 1) if stop else ()
        end = next((n for n in lengths if any(s in model.tokenizer.decode(row[:n]) for s in stop)), None)
        if end is not None:
            tokens[i], log_prob[i] = row[:end], log_prob[i][:end]
        finished.append(end is not None or row[-1] in ends)
    return Completions(tokens, log_prob, finished)


ENGINES: dict[str, Callable[[str | None], Engine]] = {  # the argument is the URL of a server
    "own": lambda _: generate,
    "transformers": lambda _: continuous_batching,
    "vllm": lambda _: VLLM(),
    "vllm-server": VLLMServer,
}
