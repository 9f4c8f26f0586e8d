"""Language models from folders and hub ids, as they are or with an adapter."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from surefoot.errors import UsageError
from surefoot.models.language.model import BASE, LanguageModel, chosen_device

EXTRA = 'pip install "surefoot[language]"'
LORA_TARGETS = "all-linear"


def load_model(
    name: str | Path,
    *,
    lora: int | None = None,
    dtype: str = "float32",
    seed: int = 0,
    device: str = "auto",
    **options: Any,
) -> LanguageModel:
    """A causal language model from a folder, a hub id, or a folder that holds a PEFT adapter.

    Args:
        lora: rank of a new adapter on all linear layers; None learns all weights (or the adapter that was loaded).
        dtype: of the weights.
        seed: of a new adapter.
        device: `auto` (a GPU where there is one), `cpu` or `cuda`.
        options: go to `from_pretrained`, such as `gguf_file` or `attn_implementation`.

    Raises:
        UsageError: nothing that can be loaded or no such device is there, or the adapter belongs to another base.
    """
    device, transformers = chosen_device(device), need("transformers")
    folder = Path(name)
    try:
        if (folder / "adapter_config.json").exists():
            network = _adapted(folder, dtype, options)
        else:
            network = transformers.AutoModelForCausalLM.from_pretrained(name, dtype=getattr(torch, dtype), **options)
        keep = {key: options[key] for key in ("gguf_file",) if key in options}
        if keep:
            _plain(network)
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, **keep)
    except (OSError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"model={str(name)!r} could not be loaded: {str(error).splitlines()[0]} Give a folder that transformers "
            "wrote, a hub id that is reachable, or 'nano'."
        ) from error
    if lora is not None:
        network = with_lora(network, lora, seed)
    return LanguageModel(network, tokenizer).to(device)


def _plain(network: Any) -> None:
    """Let a network that was read from a GGUF file be saved: its weights are quantized no more, but transformers takes
    it for a network that is, and refuses."""
    network.hf_quantizer = None
    if hasattr(network.config, "quantization_config"):
        del network.config.quantization_config


def _adapted(folder: Path, dtype: str, options: dict[str, Any]) -> Any:
    peft = need("peft")
    base = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] or folder / BASE
    if base == folder / BASE and not base.exists():
        raise UsageError(
            f"the adapter in {folder} names no base; put its folder or hub id into base_model_name_or_path."
        )
    network = need("transformers").AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, dtype), **options)
    try:
        return peft.PeftModel.from_pretrained(network, folder, is_trainable=True)
    except (RuntimeError, ValueError) as error:
        raise UsageError(
            f"the adapter in {folder} does not fit its base {base!r} ({str(error).splitlines()[0]}); it was made for "
            "another model. Put the right base at that path, or name it in adapter_config.json."
        ) from error


def with_lora(network: Any, rank: int, seed: int = 0) -> Any:
    """The network with a fresh adapter of this rank on all linear layers, the only part that is learned."""
    peft = need("peft")
    if rank < 1:
        raise UsageError(f"lora={rank} is not allowed; it is the rank of the adapter, a whole number of at least 1.")
    if hasattr(network, "disable_adapter"):
        raise UsageError(
            f"lora={rank} is not allowed: the model has an adapter already, which goes on; leave lora out."
        )
    config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=LORA_TARGETS, task_type="CAUSAL_LM")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return peft.get_peft_model(network, config)


def need(module: str) -> Any:
    """An optional module.

    Raises:
        UsageError: it is not installed; the message says how.
    """
    try:
        found = import_module(module)
        if module == "transformers" and not sys.stderr.isatty():
            found.utils.logging.disable_progress_bar()
        return found
    except ImportError as error:
        raise UsageError(f"language models need {module}, which is not installed: {EXTRA}.") from error
