"""A causal language model of transformers as a policy: what it would write, and how likely it is to write it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from surefoot.errors import UsageError
from surefoot.models.language import text
from surefoot.models.language.critic import Critic
from surefoot.models.language.head import logits_of, token_log_probs
from surefoot.models.language.sequences import Sequences
from surefoot.models.language.states import evaluating, split_weight, written_states
from surefoot.models.language.text import TextSettings

BASE = "base"  # where in the folder of an adapter its base lies that is nowhere else
FLOAT16_SCALE = 1024.0  # brings 1e-5 times a probability of 1e-4 above 6e-8, and leaves 64 below 65504
OPENED = "opened.json"  # with which options the weights that a saved model rests on are to be opened
LOOK = ("attn_implementation",)  # those of them that hold for saved weights too, wherever they came from


class TokenStatistics(NamedTuple):
    """Of every token `[batch, length]`; 0 where `valid` is False."""

    log_prob: Float[Tensor, "batch length"]
    entropy: Float[Tensor, "batch length"]
    value: Float[Tensor, "batch length"] | None = None  # of the state before the token, where the model has a critic

    @property
    def known(self) -> list[Tensor]:
        """The fields that are there."""
        return [x for x in self if x is not None]

    def each(self, function: Callable[[Tensor], Tensor]) -> TokenStatistics:
        """The same of every field that is there."""
        return TokenStatistics(*map(function, self.known))


@dataclass
class LanguageModel:
    """A model, its tokenizer, what it is compared with, and who judges it.

    `network` is a `PreTrainedModel` or a PEFT model around one; it is put into evaluation mode, in which it learns too,
    because with dropout or random routing no likelihood would be that of the policy that acted. `reference` is a frozen
    copy; a PEFT model with a fresh adapter needs none: it is its own reference with the adapter off. `critic` is there
    where a method needs one; it learns with the network and is in checkpoints, but not among the files that `save`
    writes. `settings` say how text is read and written, and `opened` are the options with which the weights were found:
    `save` writes them down, so that the same weights are found again.
    """

    sharded: ClassVar[bool] = False  # whether its weights lie in parts, one in each process

    network: Any
    tokenizer: Any
    reference: Any = None
    critic: Critic | None = None
    settings: TextSettings = field(default_factory=TextSettings)
    opened: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        tokenizer = self.tokenizer
        self.network.eval()
        if self.adapted:
            refuse_virtual_tokens(self.network.peft_config.values())
        if tokenizer.eos_token_id is None:
            raise UsageError(
                f"the tokenizer {tokenizer.name_or_path!r} has no end-of-sequence token, so the model could never "
                "finish; set one: tokenizer.eos_token = '…'."
            )
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        size, largest = len(self.head()[0]), max(tokenizer.eos_token_id, tokenizer.pad_token_id)
        if largest >= size:
            raise UsageError(
                f"the tokenizer's token {largest} is outside the model's vocabulary of {size}; tokenizer and model do "
                "not belong together."
            )
        declared = {end for ends in self._declared() for end in ends}
        if declared and tokenizer.eos_token_id not in declared:
            named = ", ".join(map(str, sorted(declared)))
            raise UsageError(
                f"the tokenizer ends with token {tokenizer.eos_token_id}, the model's configuration with {named}; make "
                "them agree: set tokenizer.eos_token, or eos_token_id in the model's config.json."
            )

    # --- the parts of the network ------------------------------------------------------------------------------------

    @property
    def adapted(self) -> bool:
        """Whether the network is a PEFT model."""
        return hasattr(self.network, "disable_adapter")

    @property
    def base(self) -> Any:
        """The transformers model, inside its adapter if it has one."""
        return self.network.get_base_model() if self.adapted else self.network

    @property
    def config(self) -> Any:
        """The configuration of the text part of the model, which may be all of it."""
        return self.base.config.get_text_config()

    @property
    def ends(self) -> list[int]:
        """Every token that ends a completion: the tokenizer's end of sequence, and the ends that the model declares for
        generation, such as the end of a turn."""
        generation, config = self._declared()
        return sorted({self.tokenizer.eos_token_id, *(generation or config)})

    def _declared(self) -> tuple[list[int], list[int]]:
        """The ends of a text by the model's generation configuration, and by its configuration."""
        both = (getattr(self.base, "generation_config", None), self.config)
        found = [getattr(config, "eos_token_id", None) for config in both]
        generation, config = (_listed(ids) for ids in found)
        return generation, config

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def to(self, device: str) -> LanguageModel:
        """The model moved to `auto` (a GPU where there is one), `cpu` or `cuda`."""
        device = chosen_device(device)
        if device != self.device.type:
            for part in filter(None, (self.network, self.reference, self.critic)):
                part.to(device)
        return self

    def head(self, network: Any = None) -> tuple[Tensor, Tensor | None, float | None]:
        """Weight and bias of the output layer, and the cap on logits that some models have."""
        base = self.base if network is None else network
        layer = base.get_output_embeddings()
        if layer is None:
            raise UsageError(f"{type(base).__name__} has no output layer; give a causal language model.")
        if hasattr(layer, "lora_A"):
            raise UsageError(
                f"the adapter changes the output layer of {type(base).__name__}, whose weight is read apart here; "
                "leave the output layer out of its target_modules (all-linear does)."
            )
        softcap = getattr(base.config.get_text_config(), "final_logit_softcapping", None)
        return layer.weight, getattr(layer, "bias", None), softcap

    @property
    def gradient_scale(self) -> float:
        """What a loss is multiplied by before its gradient is taken in the weights, and the gradient divided by
        afterwards: 1024 for weights in float16, where the gradient of a token's share of a large batch would be 0."""
        return FLOAT16_SCALE if self.head()[0].dtype == torch.float16 else 1.0

    @property
    def scale(self) -> float:
        """What the outputs of the last layer are multiplied by, in the models that do so."""
        up, down = (getattr(self.config, name, None) for name in ("logit_scale", "logits_scaling"))
        return (1.0 if up is None else up) / (1.0 if down is None else down)

    def check(self) -> LanguageModel:
        """The model, if it can be read and written with as is done here, and what it says of tokens is then what it
        says by itself.

        Raises:
            UsageError: its architecture does not fit, or it changes its logits in a way that is not known here.
        """
        from surefoot.models.language.fit import check_fit  # which writes with it, and so knows this module

        check_fit(self)
        return self

    def parameters(self) -> dict[str, nn.Parameter]:
        """What is learned, by name."""
        critic = {} if self.critic is None else dict(self.critic.named_parameters(prefix="critic"))
        return {name: p for name, p in self.network.named_parameters() if p.requires_grad} | critic

    def whole(self) -> LanguageModel:
        """The model with all of its weights in this process."""
        return self

    @contextmanager
    def as_reference(self) -> Iterator[Any]:
        """The network to compare with: the frozen copy, or the model without its adapter."""
        if self.reference is not None:
            yield self.reference
        elif self.adapted:
            with self.network.disable_adapter():
                yield self.base
        else:
            raise UsageError("there is no reference model: keep_reference() makes one, before learning starts.")

    def keep_reference(self) -> None:
        """Freeze a copy of the network as it stands, of an adapter beside the same base; nothing to do where the
        adapter does nothing yet and can be switched off."""
        if self.reference is not None or (self.adapted and _idle(self.network)):
            return
        kept = {id(w): w for w in self.network.parameters() if self.adapted and not w.requires_grad}
        self.reference = deepcopy(self.base, kept).requires_grad_(False).eval()

    def add_critic(self) -> None:
        """Give the model a critic that has learned nothing."""
        weight, _, _ = self.head()
        self.critic = Critic(weight.shape[1], weight.device)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """The network in evaluation mode, without dropout or random routing; afterwards it is as it was before."""
        with evaluating(self.network):
            yield

    # --- likelihood --------------------------------------------------------------------------------------------------

    def statistics(self, sequences: Sequences, *, temperature: float = 1.0, reference: bool = False) -> TokenStatistics:
        """Log-probabilities and entropies of the valid tokens, and values where the model has a critic; with
        `reference=True` those of the reference, which has none. The same in whatever mode the network is."""
        with self.evaluating():
            if reference:
                with torch.no_grad(), self.as_reference() as network:
                    return self._statistics(network, None, sequences, temperature)
            return self._statistics(self.base, self.critic, sequences, temperature)

    def _statistics(
        self, network: Any, critic: Critic | None, sequences: Sequences, temperature: float
    ) -> TokenStatistics:
        tokens, valid = sequences.tokens.to(self.device), sequences.valid.to(self.device)
        blank = torch.zeros(tokens.shape, dtype=torch.float32, device=tokens.device)
        if not self.sharded and not bool(valid.any()):  # what is sharded is read by all processes at a time
            return TokenStatistics(blank, blank, None if critic is None else blank)
        weight, bias, softcap = self.head(network)
        with split_weight(network, weight) as weight:
            hidden = written_states(network, tokens, valid)
        log_prob, entropy = token_log_probs(
            hidden, weight, tokens[valid], bias=bias, temperature=temperature / self.scale, softcap=softcap
        )
        found = TokenStatistics(log_prob, entropy, None if critic is None else critic(hidden))
        place = valid.nonzero(as_tuple=True)
        return found.each(lambda x: blank.index_put(place, x))

    def next_logits(self, hidden: Tensor, temperature: float) -> Float[Tensor, "batch vocabulary"]:
        """The logits of the next token over the temperature, in float32, from the last hidden states."""
        weight, bias, softcap = self.head()
        return logits_of(hidden, weight, bias, temperature / self.scale, softcap)

    # --- text --------------------------------------------------------------------------------------------------------

    def encode(self, prompts: Sequence[Any]) -> list[list[int]]:
        """Prompts as tokens: texts, or lists of messages through the tokenizer's chat template; see `text.encode`.

        Raises:
            UsageError: a prompt is neither, has no token, or does not suit the chat template.
        """
        return text.encode(self.tokenizer, prompts, self.settings)

    def encode_completions(self, texts: Sequence[str], prompts: Sequence[Any] | None = None) -> list[list[int]]:
        """Texts to be written, each with one end: that of the assistant's turn where the prompt is a list of messages,
        the tokenizer's end of sequence where it is text, or not given."""
        turns = [False for _ in texts] if prompts is None else [not isinstance(prompt, str) for prompt in prompts]
        return text.encode_completions(self.tokenizer, texts, self.ends, turns, self.settings)

    def decode(self, tokens: Sequence[Sequence[int]]) -> list[str]:
        """What was written, without the tokens that begin, end or pad a text; see `TextSettings`."""
        return text.decode(self.tokenizer, tokens, self.ends, self.settings)

    # --- files -------------------------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> Path:
        """Write what transformers (or PEFT, of an adapter) loads, and `opened.json`; beside an adapter its base, where
        that was made in Python and lies nowhere."""
        folder = Path(folder)
        if self.adapted and not self.base.name_or_path:
            deepcopy(self.network).unload().save_pretrained(folder / BASE)
        self.network.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        found = {name: value for name, value in self.opened.items() if self.adapted or name in LOOK}
        dtype = str(self.head()[0].dtype).removeprefix("torch.")
        (folder / OPENED).write_text(json.dumps({"dtype": dtype, **found}, indent=2))
        return folder


def refuse_virtual_tokens(configs: Iterable[Any]) -> None:
    """Raise `UsageError` for adapters that put learned vectors before the text instead of changing layers."""
    for config in configs:
        if getattr(config, "is_prompt_learning", False):
            raise UsageError(
                f"an adapter of the kind {_kind(config)} puts learned vectors before the text, which is not supported; "
                "give an adapter that changes layers, such as LoRA."
            )


def _kind(config: Any) -> str:
    """What PEFT calls a kind of adapter."""
    return str(getattr(config.peft_type, "value", config.peft_type))


def _listed(ids: Any) -> list[int]:
    """Token numbers as transformers writes them: none, one or several."""
    return [] if ids is None else list(ids) if isinstance(ids, (list, tuple)) else [ids]


def _idle(network: Any) -> bool:
    """Whether an adapter changes nothing: the second of its two factors is 0, as in a fresh one."""
    second = [w for name, w in network.named_parameters() if "lora_B" in name]
    return bool(second) and not any(bool(w.any()) for w in second)


def chosen_device(name: str) -> str:
    """`cpu` or `cuda`; `auto` is a GPU where there is one.

    Raises:
        UsageError: there is no GPU that could be used.
    """
    found = torch.cuda.is_available()
    if name == "cuda" and not found:
        raise UsageError("device='cuda' is not allowed: PyTorch sees no GPU here; use device='auto' or 'cpu'.")
    return ("cuda" if found else "cpu") if name == "auto" else name
