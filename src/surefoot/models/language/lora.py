"""Low-rank adapters of a language model: their settings, and a network with a new one (through PEFT)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from surefoot.errors import UsageError
from surefoot.hyperparameters import build, check, hyperparameter
from surefoot.models.language.need import need, quiet


@dataclass(frozen=True)
class LoRA:
    """The settings of a low-rank adapter (arXiv:2106.09685), under the names of PEFT."""

    rank: int = hyperparameter(16, low=1, help="Rank of the adapter's matrices.")
    alpha: float | None = hyperparameter(None, above=0, help="Numerator of the scale alpha/rank; by default 2·rank.")
    target_modules: Any = "all-linear"  # names of layers, or all-linear: all linear layers but the output layer
    dropout: float = hyperparameter(0.0, low=0, high=1, help="Dropout before the adapter, recorded but not applied.")
    rslora: bool = hyperparameter(False, help="Divide by the square root of the rank in place of the rank.")

    def __post_init__(self) -> None:
        check(self)
        names = [self.target_modules] if isinstance(self.target_modules, str) else self.target_modules
        if not isinstance(names, (list, tuple)) or not names or not all(isinstance(x, str) and x for x in names):
            raise UsageError(
                f"target_modules={self.target_modules!r} is not allowed; give names of layers such as "
                "['q_proj', 'v_proj'], or 'all-linear'."
            )

    def named(self) -> dict[str, Any]:
        """The rank, and the other settings that are not the defaults."""
        changed = {name: x for name, x in asdict(self).items() if x != getattr(LoRA(), name)}
        return {"rank": self.rank, **changed}


def lora_of(given: Any) -> LoRA | None:
    """Settings from a rank, a dictionary, or None for no adapter.

    Raises:
        UsageError: a name is unknown, or a value is out of range.
    """
    if given is None or isinstance(given, LoRA):
        return given
    if isinstance(given, Mapping):
        return build(LoRA, given)
    if isinstance(given, bool) or not isinstance(given, int) or given < 1:
        raise UsageError(
            f"lora={given!r} is not allowed; it is the rank of the adapter, a whole number of at least 1, or settings "
            "by name, such as rank=16,alpha=32."
        )
    return LoRA(given)


def with_lora(network: Any, lora: int | LoRA, seed: int = 0, revision: str | None = None) -> Any:
    """The network with a new adapter, the only part that is trained; `revision` is that of the network, recorded for
    loading the adapter elsewhere."""
    peft, settings = need("peft"), lora_of(lora)
    assert settings is not None, "there are settings"
    if hasattr(network, "disable_adapter"):
        raise UsageError(
            f"lora={lora} is not allowed: the model already has an adapter, which is trained further; leave lora out."
        )
    if settings.dropout:
        warnings.warn(
            f"lora has dropout={settings.dropout:g}, which is recorded with the adapter but not applied: the model "
            "learns in evaluation mode, so that likelihoods are those of the policy that wrote.",
            stacklevel=2,
        )
    targets = settings.target_modules
    try:
        config = peft.LoraConfig(
            r=settings.rank,
            lora_alpha=2 * settings.rank if settings.alpha is None else settings.alpha,
            target_modules=targets if isinstance(targets, str) else list(targets),
            lora_dropout=settings.dropout,
            use_rslora=settings.rslora,
            task_type="CAUSAL_LM",
        )
        with torch.random.fork_rng(), quiet(True):
            torch.manual_seed(seed)
            return peft.get_peft_model(network, config, revision=revision)
    except ValueError as error:
        raise UsageError(f"target_modules={targets!r} does not fit {type(network).__name__}: {error}") from error
