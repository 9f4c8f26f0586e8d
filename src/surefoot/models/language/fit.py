"""Checking that a model works with this package's way of scoring and generating, on a few tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from surefoot.errors import UsageError, message_of
from surefoot.models.language.generation import generate
from surefoot.models.language.model import LanguageModel
from surefoot.models.language.sequences import join

AGREE = {torch.float32: 0.01}  # nats between two ways to compute a number: far above rounding errors
HALF_AGREE = 0.1  # the same for numbers with 8 or 11 bits of precision
SHARED = [0, 1, 2, 3]  # tokens of a prompt shared by two completions
WRITTEN = [[4, 5, 6], [7]]


@torch.no_grad()
def check_fit(model: LanguageModel) -> None:
    """Compare the likelihoods of completions that share a prompt, and those of a generation step, with the likelihoods
    of the same tokens under the network as a whole.

    Raises:
        UsageError: the architecture is not supported, or changes its logits in an unknown way.
    """
    kind = type(model.base).__name__
    try:
        with model.evaluating():
            _check_cache(model, kind)
            off = float(torch.stack([_likelihoods_off(model), _writing_off(model)]).max())
    except (UsageError, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # an unsuitable architecture may raise anything
        raise UsageError(
            f"the architecture {kind} is not supported: a trial on a few tokens failed ({message_of(error)}). Give "
            "another causal language model from transformers, with attention in all layers."
        ) from error
    if not off < AGREE.get(model.head()[0].dtype, HALF_AGREE):
        raise UsageError(
            f"{kind} changes its logits in an unsupported way: log-probabilities differ by {off:.2g} from its "
            "own. Give another model."
        )


def _check_cache(model: LanguageModel, kind: str) -> None:
    from transformers import DynamicCache

    layers = getattr(DynamicCache(config=model.base.config), "layers", [])
    if not all(hasattr(layer, "batch_select_indices") for layer in layers):
        raise UsageError(
            f"{kind} has a recurrent state instead of keys and values, which the samples of a prompt cannot share "
            "yet; give a model with attention in all layers."
        )


def _likelihoods_off(model: LanguageModel) -> Tensor:
    """The largest difference between the likelihoods computed with a shared prompt and the network's own."""
    prompt, completions = _known(model, SHARED), [_known(model, row) for row in WRITTEN]
    batch = join([prompt] * len(completions), completions)
    found = model.statistics(batch).log_prob
    off = torch.zeros(())
    for i, row in enumerate(completions):
        wanted = _log_probs(model, [*prompt, *row])[len(prompt) - 1 : -1]
        mine = found[i, len(prompt) : len(prompt) + len(row)]
        chosen = wanted.gather(1, torch.tensor(row, device=wanted.device)[:, None]).squeeze(1)
        off = torch.maximum(off, (mine - chosen).abs().max().cpu())
    return off


def _writing_off(model: LanguageModel) -> Tensor:
    """The same for the two most likely next tokens of two prompts, one of them longer."""
    prompts = [_known(model, SHARED), _known(model, SHARED[:2])]
    written = generate(model, prompts, torch.rand(2, 1, 2), temperature=0.0)
    off = torch.zeros(())
    for prompt, row, log_prob in zip(prompts, written.tokens, written.log_prob, strict=True):
        wanted = _log_probs(model, [*prompt, *row])[len(prompt) - 1 : -1]
        off = torch.maximum(off, (torch.tensor(log_prob) - wanted.amax(1).cpu()).abs().max())
    return off


def _known(model: LanguageModel, tokens: list[int]) -> list[int]:
    """Tokens of the model's vocabulary."""
    size = len(model.head()[0])
    return [token % size for token in tokens]


def _log_probs(model: LanguageModel, tokens: list[int]) -> Tensor:
    """The network's log-probabilities of the tokens after each of these, in float32."""
    network: Any = model.network
    row = torch.tensor([tokens], device=model.device)
    return network(input_ids=row, use_cache=False).logits[0].float().log_softmax(-1)
