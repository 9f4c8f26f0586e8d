"""Reward models as functions of prompts and completions: networks of transformers that give a text one number, and the
implicit rewards of models trained by DPO."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from surefoot.errors import UsageError, message_of
from surefoot.models.device import chosen_device
from surefoot.models.language.model import LanguageModel
from surefoot.models.language.need import need, quiet
from surefoot.models.language.sequences import join
from surefoot.models.language.text import TextSettings, encode

TOGETHER = 32  # texts scored at a time


@dataclass(frozen=True)
class RewardModel:
    """A sequence classifier with one output, and its tokenizer. Called with prompts and completions (as reward
    functions are) it returns one score for each pair; it never learns."""

    network: Any
    tokenizer: Any

    def __post_init__(self) -> None:
        outputs = getattr(self.network.config, "num_labels", None)
        if outputs != 1:
            raise UsageError(f"a reward model has one output, but this one has {outputs}; give one with num_labels=1.")
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        if self.network.config.pad_token_id is None:  # by which it finds the last token
            self.network.config.pad_token_id = self.tokenizer.pad_token_id
        self.network.eval()

    @property
    def __name__(self) -> str:
        return "reward_model"

    @torch.no_grad()
    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **_: Any) -> list[float]:
        rows = [self._tokens(prompt, completion) for prompt, completion in zip(prompts, completions, strict=True)]
        scores: list[float] = []
        for start in range(0, len(rows), TOGETHER):
            some = rows[start : start + TOGETHER]
            width, device = max(map(len, some)), next(self.network.parameters()).device
            tokens = torch.full((len(some), width), int(self.tokenizer.pad_token_id))
            seen = torch.zeros(len(some), width, dtype=torch.int64)
            for i, row in enumerate(some):
                tokens[i, : len(row)], seen[i, : len(row)] = torch.tensor(row), 1
            found = self.network(input_ids=tokens.to(device), attention_mask=seen.to(device)).logits
            scores += found.float().flatten().tolist()
        return scores

    def _tokens(self, prompt: Any, completion: Any) -> list[int]:
        """A conversation by the chat template, or the prompt's text followed by the completion's."""
        if isinstance(prompt, str):
            return encode(self.tokenizer, [prompt + completion], TextSettings())[0]
        answer = [{"role": "assistant", "content": completion}] if isinstance(completion, str) else completion
        if self.tokenizer.chat_template is None:
            raise UsageError("the reward model's tokenizer has no chat template for prompts of messages; set one.")
        return self.tokenizer.apply_chat_template([*prompt, *answer], tokenize=True, return_dict=False)

    def save(self, folder: str | Path) -> Path:
        """Write the files that transformers' AutoModelForSequenceClassification and TRL load."""
        self.network.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        return Path(folder)


@dataclass(frozen=True)
class ImplicitReward:
    """β·log π/π_ref of a completion: the reward that a model has learned by DPO, up to a number for every prompt.
    Called as reward functions are; both models have the same tokenizer, and neither learns here."""

    model: LanguageModel
    reference: LanguageModel
    beta: float = 0.1

    @property
    def __name__(self) -> str:
        return "implicit_reward"

    @torch.no_grad()
    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **_: Any) -> list[float]:
        texts = [text if isinstance(text, str) else text[-1]["content"] for text in completions]
        found = []
        for start in range(0, len(texts), TOGETHER):
            asked, said = prompts[start : start + TOGETHER], texts[start : start + TOGETHER]
            rows = join(self.model.encode(asked), self.model.encode_completions(said, asked))
            ratio = [model.statistics(rows).log_prob.double().sum(1).cpu() for model in (self.model, self.reference)]
            found += (self.beta * (ratio[0] - ratio[1])).tolist()
        return found


def load_reward_model(name: str | Path, device: str = "auto") -> RewardModel:
    """A reward model from a folder or a hub id. No code that comes with it is run.

    Raises:
        UsageError: it cannot be loaded, or has not exactly one output.
    """
    transformers = need("transformers")
    try:
        with quiet(Path(name).is_dir()):
            network = transformers.AutoModelForSequenceClassification.from_pretrained(str(name), use_safetensors=True)
            tokenizer = transformers.AutoTokenizer.from_pretrained(str(name))
    except Exception as error:  # transformers raises many kinds
        raise UsageError(
            f"the reward model {str(name)!r} could not be loaded: {message_of(error)} Give a folder that "
            "AutoModelForSequenceClassification wrote as .safetensors, or a reachable hub id."
        ) from error
    return RewardModel(network.to(chosen_device(device)), tokenizer)
