"""Weights and optimiser states in 4 or 8 bits, by bitsandbytes: less memory for what does not learn, and for moments.

A base whose weights are quantised does not learn; an adapter on it does (arXiv:2305.14314). AdamW in 8 bits keeps its
two moments in blocks of 8-bit numbers (arXiv:2110.02861); those of small tensors stay in 32 bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from surefoot.errors import UsageError
from surefoot.models.device import chosen_device
from surefoot.models.language.need import need

BITS = ("load_in_4bit", "load_in_8bit")
OPTIMIZERS = ("adamw", "adamw-8bit")
EXTRA = 'pip install "surefoot[quantized]"'


def quantization(options: Mapping[str, Any], dtype: torch.dtype, device: str) -> dict[str, Any]:
    """The arguments of `from_pretrained` for these options, with 4-bit or 8-bit weights where they ask for them.

    Raises:
        UsageError: they ask for both, for a GGUF file besides, or bitsandbytes is missing.
    """
    given = {name: x for name, x in options.items() if name not in BITS}
    asked = [name for name in BITS if options.get(name)]
    if not asked:
        return given
    check_bits(asked, options)
    settings: dict[str, Any] = {asked[0]: True}
    if asked[0] == "load_in_4bit":
        settings |= {"bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype}
    made = need("transformers").BitsAndBytesConfig(**settings)
    return {**given, "quantization_config": made, "device_map": {"": device}}


def check_quantized(given: Any) -> None:
    """Raise `UsageError` for options of a run that ask for quantised weights or moments where they cannot be."""
    if given.optimizer != "adamw" and given.sharding == "full":
        raise UsageError(f"optimizer={given.optimizer!r} is not allowed with sharding='full'; use optimizer='adamw'.")
    if given.optimizer != "adamw":
        _bitsandbytes(f"optimizer={given.optimizer!r}", "use optimizer='adamw'")
    asked = [name for name in BITS if getattr(given, name)]
    if not asked:
        return
    if not isinstance(given.model, (str, Path)) or given.model == "nano":
        raise UsageError(f"{asked[0]}=True is for a model from a folder or a hub id; leave it out, or give one.")
    if given.lora is None and not (Path(given.model).expanduser() / "adapter_config.json").exists():
        raise UsageError(f"{asked[0]}=True needs an adapter, since quantised weights do not learn; give lora=16.")
    for name, usual in (("sharding", "none"), ("engine", "own")):
        if (value := getattr(given, name)) != usual:
            raise UsageError(f"{asked[0]}=True is not allowed with {name}={value!r}; use {name}={usual!r}.")
    check_bits(asked, given.model_options or {})
    if asked == ["load_in_4bit"] and chosen_device(given.device) == "cpu":
        raise UsageError(
            "load_in_4bit=True needs a GPU to learn: on a CPU bitsandbytes has no gradient through a 4-bit layer. Use "
            "load_in_8bit=True, or device='cuda'."
        )


def check_bits(asked: list[str], options: Mapping[str, Any]) -> None:
    """Raise `UsageError` for a way of loading weights that cannot be."""
    if len(asked) > 1:
        raise UsageError("load_in_4bit and load_in_8bit are both True; give one of them.")
    if other := next((name for name in ("gguf_file", "quantization_config") if name in options), None):
        raise UsageError(f"{asked[0]}=True is not allowed with {other}, which says how weights are stored itself.")
    _bitsandbytes(f"{asked[0]}=True", "leave it out")


def optimizer(name: str, weights: Iterable[Tensor], rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """The optimiser of this name.

    Raises:
        UsageError: bitsandbytes is missing.
    """
    if name == "adamw":
        return torch.optim.AdamW(weights, lr=rate, weight_decay=weight_decay, fused=True)
    made = _bitsandbytes(f"optimizer={name!r}", "use optimizer='adamw'").optim.AdamW8bit
    return made(list(weights), lr=rate, weight_decay=weight_decay)


def _bitsandbytes(what: str, instead: str) -> Any:
    try:
        return import_module("bitsandbytes")
    except ImportError as error:
        raise UsageError(f"{what} needs bitsandbytes, which is not installed: {EXTRA}, or {instead}.") from error
