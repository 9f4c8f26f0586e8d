"""A causal language model of transformers as a policy: what it would write, and how likely it is to write it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from surefoot.errors import UsageError
from surefoot.models.language.critic import Critic
from surefoot.models.language.head import logits_of, token_log_probs
from surefoot.models.language.sequences import Sequences
from surefoot.models.language.states import split_weight, written_states

BASE = "base"  # where in the folder of an adapter its base lies that is nowhere else
LOGITS_AGREE = 0.1  # nats: far above the rounding of bfloat16, far below a scale that was overlooked


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

    `network` is a `PreTrainedModel` or a PEFT model around one. `reference` is a frozen copy; a PEFT model with a fresh
    adapter needs none: it is its own reference with the adapter off. `critic` is there where a method needs one; it
    learns with the network and is in checkpoints, but not among the files that `save` writes.
    """

    sharded: ClassVar[bool] = False  # whether its weights lie in parts, one in each process

    network: Any
    tokenizer: Any
    reference: Any = None
    critic: Critic | None = None

    def __post_init__(self) -> None:
        tokenizer = self.tokenizer
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
        ends = self._ends()
        if ends and tokenizer.eos_token_id not in ends:
            raise UsageError(
                f"the tokenizer ends with token {tokenizer.eos_token_id}, the model's configuration with "
                f"{', '.join(map(str, sorted(ends)))}; make them agree: set tokenizer.eos_token, or eos_token_id in "
                "the model's config.json."
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

    def _ends(self) -> set[int]:
        """The tokens that end a text by the configuration of the model."""
        configs = (self.base.config, getattr(self.base, "generation_config", None))
        found = [getattr(config, "eos_token_id", None) for config in configs]
        return {one for ids in found if ids is not None for one in (ids if isinstance(ids, list) else [ids])}

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
        return layer.weight, getattr(layer, "bias", None), getattr(base.config, "final_logit_softcapping", None)

    @property
    def scale(self) -> float:
        """What the outputs of the last layer are multiplied by, in the models that do so."""
        config = self.base.config
        up, down = (getattr(config, name, None) for name in ("logit_scale", "logits_scaling"))
        return (1.0 if up is None else up) / (1.0 if down is None else down)

    @torch.no_grad()
    def check(self) -> LanguageModel:
        """The model, if what it says of tokens here is what it says by itself.

        Raises:
            UsageError: it changes its logits in a way that is not known here, or cannot share what it has read.
        """
        from transformers import DynamicCache

        layers = getattr(DynamicCache(config=self.base.config), "layers", [])
        if not all(hasattr(layer, "batch_select_indices") for layer in layers):
            raise UsageError(
                f"{type(self.base).__name__} keeps a running state where others keep keys and values, and the samples "
                "of a prompt cannot share it yet; give a model with attention in all layers."
            )
        tokens = torch.arange(8, device=self.device)[None] % len(self.head()[0])
        with self.evaluating():
            wanted = self.base(input_ids=tokens, use_cache=False).logits.float().log_softmax(-1)
            hidden = self.base.base_model(input_ids=tokens, use_cache=False).last_hidden_state
            off = float((self.next_logits(hidden, 1.0).log_softmax(-1) - wanted).abs().max())
        if not off < LOGITS_AGREE:
            raise UsageError(
                f"{type(self.base).__name__} changes its logits in a way that is not known here: log-probabilities are "
                f"{off:.2g} away from its own. Give another model."
            )
        return self

    def disable_dropout(self) -> None:
        """Let the model learn as it writes: with dropout no likelihood would be that of the policy that acted, and
        nothing could be repeated."""
        for module in self.network.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            for name, value in vars(module).items():
                if name.endswith("dropout") and isinstance(value, float):
                    setattr(module, name, 0.0)

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
        """The network without dropout, as it writes; afterwards it is as it was before."""
        training = self.network.training
        self.network.eval()
        try:
            yield
        finally:
            self.network.train(training)

    # --- likelihood --------------------------------------------------------------------------------------------------

    def statistics(self, sequences: Sequences, *, temperature: float = 1.0, reference: bool = False) -> TokenStatistics:
        """Log-probabilities and entropies of the valid tokens, and values where the model has a critic; with
        `reference=True` those of the reference, which has none."""
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
        """Prompts as tokens: texts as they are, lists of messages through the tokenizer's chat template."""
        rows = []
        for i, prompt in enumerate(prompts):
            if isinstance(prompt, str):
                rows.append(self.tokenizer(prompt).input_ids)
            elif self.tokenizer.chat_template is None:
                raise UsageError(
                    f"prompt {i} is a list of messages, but the tokenizer has no chat template; give text."
                )
            else:
                rows.append(
                    self.tokenizer.apply_chat_template(
                        list(prompt), add_generation_prompt=True, tokenize=True, return_dict=False
                    )
                )
        return rows

    def encode_completions(self, texts: Sequence[str]) -> list[list[int]]:
        """Texts to be written, each with its end of sequence."""
        end = self.tokenizer.eos_token_id
        return [[*self.tokenizer(text, add_special_tokens=False).input_ids, end] for text in texts]

    def decode(self, tokens: Sequence[Sequence[int]]) -> list[str]:
        """What was written, without special tokens."""
        if not len(tokens):
            return []  # which some versions of transformers take for one text without tokens
        return self.tokenizer.batch_decode(tokens, skip_special_tokens=True)

    # --- files -------------------------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> Path:
        """Write what transformers (or PEFT, of an adapter) loads; beside an adapter its base, where that was made in
        Python and lies nowhere."""
        folder = Path(folder)
        if self.adapted and not self.base.name_or_path:
            deepcopy(self.network).unload().save_pretrained(folder / BASE)
        self.network.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        return folder


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
