"""Reward models as functions of prompts and completions: networks of transformers that give a text one number, and the
implicit rewards of models trained by DPO."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from safetensors.torch import load, save
from torch import Tensor, nn

from surefoot.errors import UsageError, message_of
from surefoot.files import read_bytes, write_whole
from surefoot.models.device import chosen_device
from surefoot.models.language.critic import Heads
from surefoot.models.language.model import LanguageModel
from surefoot.models.language.need import need, quiet
from surefoot.models.language.sequences import join
from surefoot.models.language.text import TextSettings, encode
from surefoot.models.saved import described, holds_agent, read_facts

TOGETHER = 32  # texts scored at a time
FORMAT = "surefoot-reward-model-1"
HEADS = "heads.safetensors"  # the heads of an ensemble, beside the network that has their mean


@dataclass(frozen=True, eq=False)
class RewardModel:
    """A sequence classifier with one output, and its tokenizer. Called with prompts and completions (as reward
    functions are) it returns one score for each pair; it never learns.

    An ensemble has several `heads` on one network, whose output is their mean; `members` are reward functions too, one
    of each head. `facts` say how it was trained, if it was trained here.
    """

    loop: ClassVar[str] = "group-rollout"

    network: Any
    tokenizer: Any
    heads: Float[Tensor, "heads width"] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        outputs = getattr(self.network.config, "num_labels", None)
        if outputs != 1:
            raise UsageError(f"a reward model has one output, but this one has {outputs}; give one with num_labels=1.")
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        if self.network.config.pad_token_id is None:  # by which it finds the last token
            self.network.config.pad_token_id = self.tokenizer.pad_token_id
        self.network.eval()

    @classmethod
    def of(cls, model: LanguageModel, facts: Mapping[str, Any] | None = None) -> RewardModel:
        """The reward model that a language model with heads is; an adapter becomes part of the weights.

        Raises:
            UsageError: transformers has no sequence classifier of this architecture with one linear output.
        """
        assert isinstance(model.critic, Heads), "a method on scores gave it heads"
        heads = model.critic.weight.detach().clone()
        base = deepcopy(model.network).merge_and_unload() if model.adapted else model.base
        network, name = classifier(base.config, model.tokenizer.pad_token_id)
        setattr(network, network.base_model_prefix, base.base_model)
        output = nn.Linear(heads.shape[1], 1, bias=False, device=heads.device, dtype=model.head()[0].dtype)
        output.weight.data.copy_(heads.mean(0, keepdim=True))
        setattr(network, name, output)
        return cls(network, model.tokenizer, heads if len(heads) > 1 else None, facts or {})

    @property
    def __name__(self) -> str:
        return "reward_model"

    def __repr__(self) -> str:
        return described(self, f"{1 if self.heads is None else len(self.heads)} scores")

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **_: Any) -> list[float]:
        return self.scores(prompts, completions).mean(1).tolist()

    @torch.no_grad()
    def scores(self, prompts: Sequence[Any], completions: Sequence[Any]) -> Float[Tensor, "rows heads"]:
        """The scores of all heads in float32, on the CPU; those of the network where there is no ensemble."""
        each = zip(prompts, completions, strict=True)
        rows = [whole_text(self.tokenizer, prompt, completion) for prompt, completion in each]
        found = [self._scores(rows[start : start + TOGETHER]) for start in range(0, len(rows), TOGETHER)]
        return torch.cat(found) if found else torch.zeros(0, 1 if self.heads is None else len(self.heads))

    def _scores(self, rows: Sequence[Sequence[int]]) -> Tensor:
        device, lengths = next(self.network.parameters()).device, torch.tensor([len(row) for row in rows])
        tokens = torch.full((len(rows), int(lengths.max())), int(self.tokenizer.pad_token_id))
        for i, row in enumerate(rows):
            tokens[i, : len(row)] = torch.tensor(row)
        seen = (torch.arange(tokens.shape[1]) < lengths[:, None]).long()
        given = {"input_ids": tokens.to(device), "attention_mask": seen.to(device)}
        if self.heads is None:
            return self.network(**given).logits.float().cpu()
        hidden = self.network.base_model(**given).last_hidden_state
        last = hidden[torch.arange(len(rows), device=device), (lengths - 1).to(device)]
        return (last.float() @ self.heads.to(device).T).cpu()

    @property
    def members(self) -> tuple[Member, ...]:
        """A reward function of each head. Asked one after another about the same texts, they read these once."""
        read = Once(self)
        return tuple(Member(read, head) for head in range(1 if self.heads is None else len(self.heads)))

    def save(self, folder: str | Path) -> Path:
        """Write the files that transformers' AutoModelForSequenceClassification and TRL load, and `agent.json`; of an
        ensemble also its heads, which they do not read: to them it is the mean."""
        folder = Path(folder)
        self.network.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        if self.heads is not None:
            write_whole(folder / HEADS, save({"weight": self.heads.cpu().contiguous()}))
        (folder / "agent.json").write_text(json.dumps({"format": FORMAT, **self.facts}, indent=2))
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> RewardModel:
        """The reward model that `save` wrote; see `load_reward_model`."""
        return load_reward_model(folder)


class Once:
    """The scores of the texts that were asked about last."""

    def __init__(self, model: RewardModel) -> None:
        self.model, self.asked, self.scores = model, ((), ()), torch.zeros(0, 1)

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any]) -> Float[Tensor, "rows heads"]:
        if (list(prompts), list(completions)) != self.asked:
            self.scores = self.model.scores(prompts, completions)
            self.asked = (list(prompts), list(completions))
        return self.scores


@dataclass(frozen=True, eq=False)
class Member:
    """The reward function of one head of an ensemble."""

    read: Once
    head: int

    @property
    def __name__(self) -> str:
        return f"reward_model_{self.head}"

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **_: Any) -> list[float]:
        return self.read(prompts, completions)[:, self.head].tolist()


def whole_text(tokenizer: Any, prompt: Any, completion: Any) -> list[int]:
    """The tokens of what a reward model scores: a conversation by the chat template, or the prompt's text followed by
    the completion's."""
    if isinstance(prompt, str):
        return encode(tokenizer, [prompt + completion], TextSettings())[0]
    answer = [{"role": "assistant", "content": completion}] if isinstance(completion, str) else completion
    if tokenizer.chat_template is None:
        raise UsageError("the reward model's tokenizer has no chat template for prompts of messages; set one.")
    return tokenizer.apply_chat_template([*prompt, *answer], tokenize=True, return_dict=False)


def classifier(config: Any, pad: int | None) -> tuple[Any, str]:
    """A sequence classifier of transformers without weights for this configuration of a causal model, with one output,
    and the name of its output layer.

    Raises:
        UsageError: there is none, or its output is not one linear layer.
    """
    config = deepcopy(config)
    config.num_labels, config.pad_token_id = 1, pad
    kind = type(config).__name__.removesuffix("Config")
    try:
        with torch.device("meta"):
            network = need("transformers").AutoModelForSequenceClassification.from_config(config)
    except ValueError as error:
        raise UsageError(
            f"transformers has no sequence classifier for {kind}, so it cannot become a reward model; give a model of "
            "another architecture, such as Llama, Qwen or Gemma."
        ) from error
    others = {name: module for name, module in network.named_children() if name != network.base_model_prefix}
    linear = [name for name, x in others.items() if isinstance(x, nn.Linear) and x.out_features == 1 and x.bias is None]
    if len(linear) != 1 or any(list(module.parameters()) for name, module in others.items() if name not in linear):
        raise UsageError(
            f"the sequence classifier of {kind} has more than one linear output, so it cannot become a reward model; "
            "give a model of another architecture, such as Llama, Qwen or Gemma."
        )
    return network, linear[0]


@dataclass(frozen=True, eq=False)
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
    """A reward model from a folder, from that of its run, or from a hub id. No code that comes with it is run.

    Raises:
        UsageError: it cannot be loaded, or has not exactly one output.
    """
    transformers, folder = need("transformers"), Path(name)
    if not holds_agent(folder) and holds_agent(folder / "agent"):
        folder = folder / "agent"
    place = str(folder) if folder.is_dir() else str(name)
    try:
        with quiet(folder.is_dir()):
            network = transformers.AutoModelForSequenceClassification.from_pretrained(place, use_safetensors=True)
            tokenizer = transformers.AutoTokenizer.from_pretrained(place)
        heads = load(read_bytes(folder / HEADS))["weight"] if (folder / HEADS).exists() else None
        if heads is not None and heads.shape[1:] != (network.config.get_text_config().hidden_size,):
            raise ValueError(f"{HEADS} has the shape {list(heads.shape)}")
    except Exception as error:  # transformers raises many kinds
        raise UsageError(
            f"the reward model {str(name)!r} could not be loaded: {message_of(error)} Give a folder that "
            "AutoModelForSequenceClassification wrote as .safetensors, or a reachable hub id."
        ) from error
    facts = read_facts(folder) if holds_agent(folder) else {}
    facts.pop("format", None)
    return RewardModel(network.to(chosen_device(device)), tokenizer, heads, facts)
