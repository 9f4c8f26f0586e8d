"""Loading language models from folders and hub ids, with or without an adapter.

A model's weights, its tokenizer and the base of its adapter are opened with the same options, now and when it is loaded
again. No code that comes with a model is run, and nothing is asked for on the terminal.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from surefoot.errors import UsageError, message_of
from surefoot.models.device import chosen_device
from surefoot.models.language.lora import LoRA, with_lora
from surefoot.models.language.model import BASE, LOOK, OPENED, LanguageModel, refuse_virtual_tokens
from surefoot.models.language.need import need, quiet
from surefoot.models.language.quantized import BITS, quantization
from surefoot.models.language.text import TextSettings

WHERE = (
    "revision",
    "subfolder",
    "gguf_file",
    "cache_dir",
    "local_files_only",
    "variant",
)  # select the files
ACCESS = ("token", "force_download", "proxies")  # for access to them; not saved
DTYPES = ("float32", "bfloat16", "float16")
INSTEAD = "Give a folder written by transformers, a reachable hub id, or 'nano'."


def load_model(
    name: str | Path,
    *,
    lora: int | LoRA | None = None,
    dtype: str | None = None,
    seed: int = 0,
    device: str = "auto",
    settings: TextSettings | None = None,
    **options: Any,
) -> LanguageModel:
    """A causal language model from a folder, a hub id, or a folder with a PEFT adapter.

    Args:
        lora: rank or settings of a new adapter; None trains all weights (or the loaded adapter).
        dtype: data type of the weights: float32, bfloat16 or float16; by default the one in which Surefoot saved them,
            and float32 for other models.
        seed: random seed of a new adapter.
        device: `auto` (a GPU where there is one), `cpu` or `cuda`.
        settings: how text is encoded and decoded.
        options: passed to `from_pretrained`, such as `revision`, `subfolder`, `gguf_file` or `attn_implementation`;
            those that locate the files are passed to the tokenizer too, and for an adapter to its base. With
            `load_in_4bit` or `load_in_8bit` bitsandbytes quantises the weights, on which only an adapter learns.

    Raises:
        UsageError: there is no loadable model or no such device, the adapter belongs to another base, an option is not
            allowed, or the files are damaged or need their own code.
    """
    device = chosen_device(device)
    check_options(options)
    need("transformers")
    place, options = _place(name, options)
    folder = Path(place)
    recorded = _recorded(folder)
    saved = recorded.pop("dtype", "float32")
    precision = dtype or saved
    if precision not in DTYPES:
        raise UsageError(f"dtype={precision!r} is not allowed; it must be one of {', '.join(DTYPES)}.")
    with _as_usage_errors(str(name)):
        if (folder / "adapter_config.json").exists():
            base, found = _base(folder, recorded)
            base, options = _place(base, {**found, **options})
            network = _adapted(folder, base, precision, options, device)
            tokenizer = _tokenizer([(place, {}), (base, options)])
        else:
            options = {**recorded, **options}
            network = _network(place, precision, options, device)
            root = {key: value for key, value in options.items() if key != "subfolder"}
            tokenizer = _tokenizer([(place, options), (str(name), root)])
    if lora is not None:
        network = with_lora(network, lora, seed, options.get("revision"))
    kept = {key: value for key, value in options.items() if key in (*WHERE, *LOOK, *BITS)}
    return LanguageModel(network, tokenizer, settings=settings or TextSettings(), opened=kept).to(device)


def check_options(options: Any) -> None:
    """Raise `UsageError` for options of `from_pretrained` that are not allowed."""
    if not isinstance(options, Mapping) or not all(isinstance(name, str) for name in options):
        raise UsageError(f"model_options={options!r} is not allowed; give a dictionary of options for from_pretrained.")
    if options.get("trust_remote_code"):
        raise UsageError(
            "trust_remote_code=True is not allowed: no code that comes with a model is run here. Load the model with "
            "transformers yourself, and give a LanguageModel made from it."
        )
    if taken := sorted({"torch_dtype", "output_loading_info", "config", "state_dict"} & {*options}):
        raise UsageError(f"the model option {taken[0]!r} is not allowed; Surefoot sets it (dtype is an argument).")


def _place(name: str | Path, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """A folder as its absolute path, or a hub id; and the remaining options."""
    options = {key: value for key, value in options.items() if key != "trust_remote_code"}
    if "cache_dir" in options:
        options["cache_dir"] = str(Path(options["cache_dir"]).expanduser().absolute())
    folder = Path(name).expanduser()
    if folder.is_dir():
        inner = folder.absolute() / options.pop("subfolder", "")
        if not inner.is_dir():
            raise UsageError(f"model={str(name)!r} could not be loaded: {inner} is not a folder. {INSTEAD}")
        return str(inner), options
    if isinstance(name, Path) or folder.is_absolute() or str(name).startswith((".", "~")) or str(name).count("/") > 1:
        raise UsageError(f"model={str(name)!r} could not be loaded: {folder.absolute()} is not a folder. {INSTEAD}")
    return str(name), options


def whole_path(name: str | Path) -> str:
    """The absolute path of an existing file or folder; any other name unchanged."""
    place = Path(name).expanduser()
    return str(place.absolute()) if place.exists() else str(name)


def _recorded(folder: Path) -> dict[str, Any]:
    """The recorded options for opening a saved model; only known ones, which run no code."""
    try:
        found = dict(json.loads((folder / OPENED).read_text()))
        return {key: found[key] for key in ("dtype", *WHERE, *LOOK, *BITS) if key in found and _plain_value(found[key])}
    except OSError:
        return {}  # not saved by Surefoot
    except (ValueError, TypeError, RecursionError) as error:
        raise UsageError(f"{folder / OPENED} is damaged ({message_of(error)}); restore or remove it.") from error


def _plain_value(value: Any) -> bool:
    return isinstance(value, (str, bool))


def _network(place: str, dtype: str, options: Mapping[str, Any], device: str) -> Any:
    """A network of a transformers class, with all of its weights."""
    transformers, kind = need("transformers"), getattr(torch, dtype)
    given = {"dtype": kind, "trust_remote_code": False, **quantization(options, kind, device)}
    with quiet(Path(place).is_dir()):
        if "gguf_file" in options:
            network = transformers.AutoModelForCausalLM.from_pretrained(place, **given)
            _unmark(network)
            return network
        _refuse_kernels(place, options)
        network, found = transformers.AutoModelForCausalLM.from_pretrained(place, **given, output_loading_info=True)
    if missing := sorted(found["missing_keys"]):
        raise UsageError(
            f"{place} is incomplete: {len(missing)} of its weights are missing ({', '.join(missing[:3])}) and would be "
            "random numbers. Restore the files, or give another model."
        )
    return network


def _refuse_kernels(place: str, options: Mapping[str, Any]) -> None:
    """Raise `UsageError` if a model's configuration names an attention implementation that is code from a hub."""
    where = {key: options[key] for key in (*WHERE, *ACCESS) if key in options and key != "variant"}
    config = need("transformers").AutoConfig.from_pretrained(place, trust_remote_code=False, **where)
    named = getattr(config, "_attn_implementation", None)
    if "attn_implementation" not in options and "/" in str(named):
        raise UsageError(
            f"the configuration of {place} names the attention {named!r}, which is code from a hub; give "
            "attn_implementation yourself, such as 'sdpa'."
        )


def _unmark(network: Any) -> None:
    """Allow a network that was read from a GGUF file to be saved: its weights are no longer quantized, but transformers
    takes them to be, and refuses."""
    network.hf_quantizer = None
    if hasattr(network.config, "quantization_config"):
        del network.config.quantization_config


def _tokenizer(places: Sequence[tuple[str, Mapping[str, Any]]]) -> Any:
    """The tokenizer from the first of these places that has one."""
    made, failed = need("transformers").AutoTokenizer, list[Exception]()
    for i, (place, options) in enumerate(places):
        given = {key: options[key] for key in (*WHERE, *ACCESS) if key in options and key != "variant"}
        if (place, options) in places[:i]:
            continue
        try:
            return made.from_pretrained(place, trust_remote_code=False, **given)
        except Exception as error:  # the next place may have one
            failed.append(error)
    raise failed[0]


def _base(folder: Path, recorded: Mapping[str, Any]) -> tuple[str | Path, dict[str, Any]]:
    """The base model of the adapter in a folder, and the options for opening it."""
    file = folder / "adapter_config.json"
    try:
        config = need("peft").PeftConfig.from_pretrained(str(folder))
        base, revision = config.base_model_name_or_path, getattr(config, "revision", None)
        if not isinstance(base, (str, type(None))) or not isinstance(revision, (str, type(None))):
            raise ValueError(f"base_model_name_or_path={base!r}, revision={revision!r}")
    except Exception as error:
        raise UsageError(f"{file} is damaged or of a kind unknown to PEFT ({message_of(error)}).") from error
    refuse_virtual_tokens([config])
    if not base and not (folder / BASE).is_dir():
        raise UsageError(
            f"the adapter in {folder} names no base; put its folder or hub id into base_model_name_or_path."
        )
    return base or folder / BASE, {**({"revision": revision} if revision else {}), **recorded}


def _adapted(folder: Path, base: str, dtype: str, options: Mapping[str, Any], device: str) -> Any:
    """A PEFT network: the base with the adapter in a folder, which is trained further."""
    try:
        network = _network(base, dtype, options, device)
    except OSError as error:
        raise UsageError(
            f"the base {base!r} of the adapter in {folder} could not be opened: {message_of(error)} It is neither a "
            f"folder in {Path.cwd()} nor a reachable hub id. A relative path is relative to the folder in which "
            "the adapter was made; put the absolute path into base_model_name_or_path in its adapter_config.json."
        ) from error
    try:
        with quiet(True):
            warnings.filterwarnings("error", message="Found missing adapter keys")
            return need("peft").PeftModel.from_pretrained(network, str(folder), is_trainable=True)
    except (RuntimeError, ValueError, UserWarning) as error:
        raise UsageError(
            f"the adapter in {folder} does not fit its base {base!r} ({message_of(error)}); it was made for another "
            "model, or is incomplete. Put the right base at that path, or name it in adapter_config.json."
        ) from error


@contextmanager
def _as_usage_errors(name: str) -> Iterator[None]:
    """Turn errors of other libraries, and of files from elsewhere, into a `UsageError` of one paragraph."""
    try:
        yield
    except (UsageError, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        if type(error).__name__ == "UnpicklingError":
            raise UsageError(
                f"model={name!r} could not be loaded: its weights are pickled Python objects that would run code, or "
                f"are damaged. Give a model whose weights are .safetensors files. ({message_of(error)})"
            ) from error
        said = message_of(error)
        if "trust_remote_code" in said:
            said = "it needs its own code, and no code that comes with a model is run here."
        raise UsageError(f"model={name!r} could not be loaded: {said} {INSTEAD}") from error
