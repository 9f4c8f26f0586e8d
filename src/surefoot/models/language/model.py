"""A causal language model from transformers as a policy: its completions and their likelihoods."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from surefoot.errors import UsageError
from surefoot.models.device import chosen_device
from surefoot.models.language import text
from surefoot.models.language.critic import Critic, Heads
from surefoot.models.language.head import likeliest, logits_of, token_log_probs
from surefoot.models.language.sequences import Sequences
from surefoot.models.language.states import evaluating, split_weight, written_states
from surefoot.models.language.text import TextSettings

BASE = "base"  # sub-folder of an adapter's folder for a base that is saved nowhere else
FLOAT16_SCALE = 1024.0  # raises 1e-5 times a probability of 1e-4 above 6e-8, and keeps 64 below 65504
OPENED = "opened.json"  # the options for opening the weights that a saved model is based on
LOOK = ("attn_implementation",)  # those that apply to saved weights too, whatever their origin


class TokenStatistics(NamedTuple):
    """Statistics of every token `[batch, length]`; 0 where `valid` is False."""

    log_prob: Float[Tensor, "batch length"]
    entropy: Float[Tensor, "batch length"]
    normaliser: Float[Tensor, "batch length"]  # log Σ exp of the logits, divided by the temperature
    # Of the state before the token, if the model has a critic; one number a head, if it is a reward model.
    value: Float[Tensor, "batch length *heads"] | None = None
    # Where candidates are asked for: the last hidden state, scaled so that its product with the output layer is
    # the logits divided by the temperature (but for a bias or a cap), and the likeliest tokens in its place.
    hidden: Float[Tensor, "batch length width"] | None = None
    candidate: Int[Tensor, "batch length candidates"] | None = None
    candidate_log_prob: Float[Tensor, "batch length candidates"] | None = None

    @staticmethod
    def blank(
        shape: Sequence[int],
        outputs: tuple[int, ...] | None = None,
        width: int = 0,
        candidates: int = 0,
        device: Any = "cpu",
    ) -> TokenStatistics:
        """Zeros for `[batch, length]` tokens, with the optional fields that are asked for: `outputs` are those of a
        critic for a token."""
        a, b, c = (torch.zeros(*shape, device=device) for _ in range(3))
        found = TokenStatistics(a, b, c, None if outputs is None else torch.zeros(*shape, *outputs, device=device))
        if not candidates:
            return found
        chances = torch.zeros(*shape, candidates, device=device)
        return found._replace(
            hidden=torch.zeros(*shape, width, device=device), candidate=chances.long(), candidate_log_prob=chances
        )

    @property
    def known(self) -> list[Tensor]:
        """The fields that are not None."""
        return [x for x in self if x is not None]

    def each(self, function: Callable[[Tensor], Tensor]) -> TokenStatistics:
        """The function applied to every field that is not None."""
        changed: dict[str, Any] = {
            name: None if x is None else function(x) for name, x in zip(self._fields, self, strict=True)
        }
        return TokenStatistics(**changed)


@dataclass
class LanguageModel:
    """A model, its tokenizer, its reference and its critic.

    `network` is a `PreTrainedModel` or a PEFT model around one; it is put into evaluation mode, also for training,
    because with dropout or random routing no likelihood would be that of the acting policy. `reference` is a frozen
    copy; a PEFT model with a fresh adapter needs none: it is its own reference with the adapter off. `critic` is
    present if a method needs one, or the heads of a reward model; it is trained with the network and is in checkpoints,
    but not among the files that `save` writes. `settings` say how text is encoded and decoded, and `opened` are the
    options with which the weights were opened: `save` records them, so that the same weights are found again.
    """

    sharded: ClassVar[bool] = False  # whether its weights are sharded over processes

    network: Any
    tokenizer: Any
    reference: Any = None
    critic: Critic | Heads | None = None
    settings: TextSettings = field(default_factory=TextSettings)
    opened: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        tokenizer = self.tokenizer
        self.network.eval()
        if self.adapted:
            refuse_virtual_tokens(self.network.peft_config.values())
        if tokenizer.eos_token_id is None:
            raise UsageError(
                f"the tokenizer {tokenizer.name_or_path!r} has no end-of-sequence token, so completions could never "
                "end; set one: tokenizer.eos_token = '…'."
            )
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        size, largest = len(self.head()[0]), max(tokenizer.eos_token_id, tokenizer.pad_token_id)
        if largest >= size:
            raise UsageError(
                f"the tokenizer's token {largest} is outside the model's vocabulary of {size}; tokenizer and model do "
                "not match."
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
        """The configuration of the text part of the model, or of the whole model."""
        return self.base.config.get_text_config()

    @property
    def ends(self) -> list[int]:
        """Every token that ends a completion: the tokenizer's end of sequence, and the ends that the model declares for
        generation, such as the end of a turn."""
        generation, config = self._declared()
        return sorted({self.tokenizer.eos_token_id, *(generation or config)})

    def _declared(self) -> tuple[list[int], list[int]]:
        """The end tokens in the model's generation configuration, and in its configuration."""
        both = (getattr(self.base, "generation_config", None), self.config)
        found = [getattr(config, "eos_token_id", None) for config in both]
        generation, config = (_listed(ids) for ids in found)
        return generation, config

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def to(self, device: str) -> LanguageModel:
        """The model moved to `auto` (a GPU if there is one), `cpu` or `cuda`."""
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
                f"the adapter changes the output layer of {type(base).__name__}, whose weight is used separately here; "
                "leave the output layer out of its target_modules (as all-linear does)."
            )
        softcap = getattr(base.config.get_text_config(), "final_logit_softcapping", None)
        return layer.weight, getattr(layer, "bias", None), softcap

    @property
    def gradient_scale(self) -> float:
        """The factor by which a loss is multiplied before its gradient in the weights is computed, and the gradient
        divided
        afterwards: 1024 for float16 weights, where the gradient of a token's share of a large batch would be 0."""
        return FLOAT16_SCALE if self.head()[0].dtype == torch.float16 else 1.0

    @property
    def scale(self) -> float:
        """The factor of the last layer's outputs, in models that scale them; 1 in others."""
        up, down = (getattr(self.config, name, None) for name in ("logit_scale", "logits_scaling"))
        return (1.0 if up is None else up) / (1.0 if down is None else down)

    def check(self) -> LanguageModel:
        """The model, once it is checked that this package scores and generates with it, with the same likelihoods as
        the network itself.

        Raises:
            UsageError: its architecture is not supported, or it changes its logits in an unknown way.
        """
        from surefoot.models.language.fit import check_fit  # imports this module

        check_fit(self)
        return self

    def parameters(self) -> dict[str, nn.Parameter]:
        """The trained parameters by name."""
        critic = {} if self.critic is None else dict(self.critic.named_parameters(prefix="critic"))
        return {name: p for name, p in self.network.named_parameters() if p.requires_grad} | critic

    def whole(self) -> LanguageModel:
        """The model with all of its weights in this process."""
        return self

    @contextmanager
    def as_reference(self) -> Iterator[Any]:
        """The reference network: the frozen copy, or the model without its adapter."""
        if self.reference is not None:
            yield self.reference
        elif self.adapted:
            with self.network.disable_adapter():
                yield self.base
        else:
            raise UsageError("there is no reference model: call keep_reference() before training starts.")

    def keep_reference(self) -> None:
        """Freeze a copy of the current network, or of its adapter on the same base; not needed if the adapter has no
        effect yet and can be switched off."""
        if self.reference is not None or (self.adapted and _idle(self.network)):
            return
        kept = {id(w): w for w in self.network.parameters() if self.adapted and not w.requires_grad}
        self.reference = deepcopy(self.base, kept).requires_grad_(False).eval()

    def add_critic(self) -> None:
        """Give the model an untrained critic."""
        weight, _, _ = self.head()
        self.critic = Critic(weight.shape[1], weight.device)

    def add_heads(self, heads: int) -> None:
        """Give the model the untrained heads of a reward model, drawn from torch's generator."""
        weight, _, _ = self.head()
        self.critic = Heads(weight.shape[1], heads, weight.device)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """The network in evaluation mode, without dropout or random routing; its mode is restored afterwards."""
        with evaluating(self.network):
            yield

    # --- likelihood --------------------------------------------------------------------------------------------------

    def statistics(
        self, sequences: Sequences, *, temperature: float = 1.0, reference: bool = False, candidates: int = 0
    ) -> TokenStatistics:
        """Log-probabilities, entropies and normalisers of the valid tokens, and values if the model has a critic; with
        `reference=True` those of the reference, which has none. They do not depend on the mode of the network. With
        `candidates`, also the last hidden state and as many of the likeliest tokens in each place, without a
        gradient."""
        with self.evaluating():
            if reference:
                with torch.no_grad(), self.as_reference() as network:
                    return self._statistics(network, None, sequences, temperature, candidates)
            return self._statistics(self.base, self.critic, sequences, temperature, candidates)

    def _statistics(
        self, network: Any, critic: Critic | Heads | None, sequences: Sequences, temperature: float, candidates: int
    ) -> TokenStatistics:
        tokens, valid = sequences.tokens.to(self.device), sequences.valid.to(self.device)
        weight, bias, softcap = self.head(network)
        if not self.sharded and not bool(valid.any()):  # all processes must run a sharded model
            outputs = None if critic is None else critic.outputs
            return TokenStatistics.blank(
                tokens.shape, outputs, weight.shape[1], min(candidates, len(weight)), tokens.device
            )
        with split_weight(network, weight) as weight:
            hidden = written_states(network, tokens, valid)
        heat = temperature / self.scale
        known = token_log_probs(hidden, weight, tokens[valid], bias=bias, temperature=heat, softcap=softcap)
        found = TokenStatistics(*known, None if critic is None else critic(hidden))
        if candidates:
            logit, token = likeliest(
                hidden, weight, min(candidates, len(weight)), bias=bias, temperature=heat, softcap=softcap
            )
            seen = {"hidden": hidden.detach().float() / heat, "candidate": token}
            found = found._replace(**seen, candidate_log_prob=logit - found.normaliser.detach()[:, None])
        place = valid.nonzero(as_tuple=True)
        return found.each(lambda x: x.new_zeros(*tokens.shape, *x.shape[1:]).index_put(place, x))

    def next_logits(self, hidden: Tensor, temperature: float) -> Float[Tensor, "batch vocabulary"]:
        """The logits of the next token divided by the temperature, in float32, from the last hidden states."""
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
        """Completions as tokens, each with one end token: that of the assistant's turn if the prompt is a list of
        messages, the tokenizer's end of sequence if it is text or not given."""
        turns = [False for _ in texts] if prompts is None else [not isinstance(prompt, str) for prompt in prompts]
        return text.encode_completions(self.tokenizer, texts, self.ends, turns, self.settings)

    def encode_answer(self, said: Any, chat: bool, after: int) -> list[int]:
        """What an environment says between two turns of the model as tokens, after the token `after`: plain text, or
        with `chat` the messages as the chat template writes them, up to the beginning of the model's next turn.

        Raises:
            UsageError: the messages do not suit the chat template.
        """
        return text.encode_answer(self.tokenizer, said, chat, after, self.ends, self.settings)

    def decode(self, tokens: Sequence[Sequence[int]]) -> list[str]:
        """Completions as texts, without the tokens that begin, end or pad a text; see `TextSettings`."""
        return text.decode(self.tokenizer, tokens, self.ends, self.settings)

    # --- files -------------------------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> Path:
        """Write files that transformers (or PEFT, for an adapter) loads, and `opened.json`; for an adapter also its
        base, if that was made in Python and is saved nowhere."""
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
    """Raise `UsageError` for adapters that prepend learned vectors to the text instead of changing layers."""
    for config in configs:
        if getattr(config, "is_prompt_learning", False):
            raise UsageError(
                f"an adapter of the kind {_kind(config)} prepends learned vectors to the text, which is not supported; "
                "give an adapter that changes layers, such as LoRA."
            )


def _kind(config: Any) -> str:
    """PEFT's name of a kind of adapter."""
    return str(getattr(config.peft_type, "value", config.peft_type))


def _listed(ids: Any) -> list[int]:
    """Token ids as a list; transformers stores None, one or several."""
    return [] if ids is None else list(ids) if isinstance(ids, (list, tuple)) else [ids]


def _idle(network: Any) -> bool:
    """Whether an adapter has no effect: the second of its two factors is 0, as in a new one."""
    second = [w for name, w in network.named_parameters() if "lora_B" in name]
    return bool(second) and not any(bool(w.any()) for w in second)
