"""A small language model made here: a Llama of about a million weights that reads and writes characters."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import string
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from surefoot.errors import UsageError
from surefoot.hyperparameters import check, hyperparameter
from surefoot.models.language.loading import load_model
from surefoot.models.language.model import LanguageModel
from surefoot.models.language.need import need
from surefoot.models.language.room import check_demonstrations
from surefoot.models.language.sequences import join

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")
ALPHABET = tuple(string.ascii_letters + string.digits + string.punctuation + " \n")
VERSION = 1  # of the cache's format

Example = tuple[str, str]
"""A prompt and its desired completion."""


@dataclass(frozen=True)
class Nano:
    """The size of a nano model, and its supervised warm-up."""

    width: int = hyperparameter(192, low=8, help="Width of the hidden states.")
    layers: int = hyperparameter(3, low=1, help="Number of transformer blocks.")
    heads: int = hyperparameter(6, low=1, help="Number of attention heads; must divide the width.")
    context: int = hyperparameter(512, low=8, help="Context length in tokens.")
    warmup: int = hyperparameter(400, low=0, help="Supervised steps.")
    batch: int = hyperparameter(64, low=1, help="Examples per step.")
    learning_rate: float = hyperparameter(3e-3, above=0, help="Peak learning rate of the supervised steps.")

    def __post_init__(self) -> None:
        check(self)
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise UsageError(f"heads={self.heads} must divide width={self.width} into an even number per head.")


def characters() -> Any:
    """A tokenizer with one token per character."""
    tokenizers, transformers = need("tokenizers"), need("transformers")
    vocabulary = {token: i for i, token in enumerate((*SPECIAL, *ALPHABET))}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), "isolated")
    inner.decoder = tokenizers.decoders.Fuse()
    inner.post_processor = tokenizers.processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )


def fresh(size: Nano = Nano(), seed: int = 0) -> LanguageModel:
    """A nano model with random weights."""
    transformers = need("transformers")
    tokenizer = characters()
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.width,
        intermediate_size=8 * size.width // 3 // 8 * 8,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        max_position_embeddings=size.context,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = transformers.LlamaForCausalLM(config)
    return LanguageModel(network, tokenizer)


def imitate(
    model: LanguageModel, example: Callable[[int], Example], size: Nano, seed: int = 0, on_step: Any = None
) -> list[float]:
    """Train the model on the examples `example(0), example(1), …` by imitation; returns the loss of every step.

    The learning rate rises over the first tenth of the steps and then decays to 0 along a cosine.
    """
    weights = list(model.parameters().values())
    optimizer = torch.optim.AdamW(weights, lr=size.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    losses = []
    for step in range(size.warmup):
        risen = min(1.0, (step + 1) / max(1, size.warmup // 10))
        for group in optimizer.param_groups:
            group["lr"] = size.learning_rate * risen * 0.5 * (1 + math.cos(math.pi * step / size.warmup))
        prompts, texts = zip(*(example(step * size.batch + i) for i in range(size.batch)))
        read, written = model.encode(prompts), model.encode_completions(texts)
        check_demonstrations(model, read, written)
        batch = join(read, written)
        log_prob = model.statistics(batch).log_prob
        loss = -log_prob.sum() / batch.valid.sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        losses.append(loss.item())
        if on_step is not None:
            on_step(step + 1, losses[-1])
    return losses


def nano(
    example: Callable[[int], Example] | None, task: str, *, size: Nano = Nano(), seed: int = 0, on_step: Any = None
) -> LanguageModel:
    """A nano model trained on the examples of a task (not if `size.warmup` is 0), from the cache if it is there.

    `task` identifies the examples: the same name must mean the same ones. The cache is `$SUREFOOT_CACHE`, by default
    `~/.cache/surefoot`.

    Raises:
        UsageError: the task has no demonstrations.
    """
    if size.warmup and example is None:
        raise UsageError(f"the task {task!r} has no demonstrations, so a nano model cannot learn it; give a model.")
    made_of = {"version": VERSION, "task": task, "seed": seed, "threads": torch.get_num_threads(), **asdict(size)}
    key = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]
    place = cache_folder() / "nano" / key
    if not place.exists():
        model = fresh(size, seed)
        if size.warmup and example is not None:
            imitate(model, example, size, seed, on_step)
        place.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=place.parent))
        try:
            model.save(draft)
            (draft / "made-of.json").write_text(json.dumps(made_of, indent=2))
            if not place.exists():  # another process may have been faster
                os.replace(draft, place)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return load_model(place)


def cache_folder() -> Path:
    """The folder of cached models."""
    return Path(os.environ.get("SUREFOOT_CACHE") or Path.home() / ".cache" / "surefoot")
