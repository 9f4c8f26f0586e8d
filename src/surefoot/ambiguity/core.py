"""The base of ambiguity sets, and the two forms of a divergence: a ball and a penalty.

A set is a frozen dataclass that prints as a formula, converts to JSON and back, and solves one problem: minimise
`q·values` over the distributions q that it allows. Everything else (the maximum, NumPy, dtypes, gradients, checks) is
done once, in `surefoot.ambiguity.operator`.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from surefoot.ambiguity.arrays import tensor
from surefoot.ambiguity.contract import Array, Problem, Solution, T
from surefoot.ambiguity.operator import WorstCase, worst_case
from surefoot.errors import UsageError, nearest
from surefoot.hyperparameters import build, check, hyperparameter

REGISTRY: dict[str, type[Ambiguity]] = {}


@dataclasses.dataclass(frozen=True)
class Ambiguity(Problem):
    """Base of ambiguity sets and risk measures. `name` is what `parse` reads, `formula` a format string over fields.

    A set is a risk measure and a risk measure a set (each is the other's dual), so both are called in the same way:
    `KL(0.1)(values, probabilities)` and `worst_case(values, probabilities, KL(0.1))` are equivalent.
    """

    name: ClassVar[str] = ""
    aliases: ClassVar[tuple[str, ...]] = ()
    formula: ClassVar[str] = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in cls.__dict__:
            return
        first = REGISTRY.setdefault(cls.name, cls)
        # A second definition from the same place is the same set: a reloaded module, or a notebook cell run again.
        if (first.__module__, first.__qualname__) != (cls.__module__, cls.__qualname__):
            raise UsageError(f"the name {cls.name!r} is already used by {first}; give {cls} another one.")
        REGISTRY[cls.name] = cls

    def __post_init__(self) -> None:
        check(self)

    def __call__(self, values: T, probabilities: T | None = None, *, maximise: bool = False) -> WorstCase[T]:
        """The worst case of `values` under `probabilities`; None weighs the samples of the last axis equally."""
        return worst_case(values, probabilities, self, maximise=maximise)

    def __str__(self) -> str:
        return self.formula.format(**{f.name: printed(getattr(self, f.name)) for f in dataclasses.fields(self)})

    def to_dict(self) -> dict[str, Any]:
        """The set as JSON-ready data: its name and its fields."""
        return {
            "ambiguity": self.name,
            **{f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self) if f.init},
        }

    @staticmethod
    def from_dict(data: Any) -> Ambiguity:
        """The set that `to_dict` wrote."""
        if not isinstance(data, dict) or not isinstance(data.get("ambiguity"), str):
            raise UsageError(f'{data!r} is not an ambiguity set; write it as {{"ambiguity": name, field: value, …}}.')
        fields = {key: _revived(value) for key, value in data.items() if key != "ambiguity"}
        for key in ("radius", "penalty"):
            if isinstance(given := fields.get(key), tuple):
                try:
                    fields[key] = torch.tensor(given, dtype=torch.float64)
                except (TypeError, ValueError, RuntimeError) as error:
                    raise UsageError(
                        f"{key}={given!r} of an ambiguity set is not an array of numbers ({error})."
                    ) from error
        return build(find(data["ambiguity"]), fields)


@dataclasses.dataclass(frozen=True)
class Divergence(Ambiguity):
    """A divergence D(q ‖ p) from the nominal p, as a ball `{q : D ≤ radius}` or as a penalty `q·v + penalty·D`.

    Exactly one of the two is given; a tensor or array of them broadcasts over the leading axes of the values.
    """

    radius: float | Tensor | np.ndarray | None = hyperparameter(None, low=0, help="Radius of the ball.")
    penalty: float | Tensor | np.ndarray | None = hyperparameter(
        None, low=0, help="Penalty weight per unit of divergence."
    )
    symbol: ClassVar[str] = "D"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("radius", "penalty"):
            if isinstance(given := getattr(self, name), np.ndarray):
                object.__setattr__(self, name, tensor(given, name))
        if (self.radius is None) == (self.penalty is None):
            raise UsageError(
                f"{type(self).__name__}: radius={self.radius!r} and penalty={self.penalty!r} are not allowed together; "
                f"give exactly one: {type(self).__name__}(radius=…) for a ball, {type(self).__name__}(penalty=…) for "
                "a price on each unit of divergence."
            )

    def check_strength(self, strength: Tensor) -> None:
        """Raise `UsageError` for the first entry of a tensor of radii or penalties that is outside the range."""
        name = "radius" if self.penalty is None else "penalty"
        limits = {"high": torch.inf, **next(f for f in dataclasses.fields(self) if f.name == name).metadata}
        wrong = ~((strength >= limits["low"]) & (strength <= limits["high"]))
        if wrong.any():
            place = tuple(int(i) for i in wrong.nonzero()[0])
            where = f"[{', '.join(map(str, place))}]" if place else ""
            raise UsageError(
                f"{type(self).__name__}: {name}{where} = {strength[place].item():g} is not allowed; every entry must "
                f"be in [{limits['low']:g}, {limits['high']:g}]. {limits['help']}"
            )

    @property
    def strength(self) -> float | Array:
        given = self.radius if self.penalty is None else self.penalty
        assert given is not None
        return given

    @property
    def priced(self) -> bool:
        return self.penalty is not None

    def solve(self, values: Tensor, nominal: Tensor, strength: Tensor | None) -> Solution:
        assert strength is not None
        return (self.ball if self.penalty is None else self.penalised)(values, nominal, strength)

    def ball(self, values: Tensor, nominal: Tensor, radius: Tensor) -> Solution:
        """min q·values over D(q ‖ nominal) ≤ radius."""
        raise NotImplementedError

    def penalised(self, values: Tensor, nominal: Tensor, penalty: Tensor) -> Solution:
        """min q·values + penalty·D(q ‖ nominal)."""
        raise NotImplementedError

    def divergence(self, distribution: Tensor, nominal: Tensor) -> Tensor:
        """D(distribution ‖ nominal) over the last axis; infinite if no radius includes the distribution."""
        raise NotImplementedError

    def __str__(self) -> str:
        if self.penalty is None:
            return f"min {{ q·v : {self.symbol} ≤ {printed(self.radius)} }}"
        return f"min {{ q·v + {printed(self.penalty)}·{self.symbol} }}"


def find(name: Any) -> type[Ambiguity]:
    """The set of this name or alias."""
    known = {alias: cls for cls in REGISTRY.values() for alias in (cls.name, *cls.aliases)}
    if name not in known:
        raise UsageError(f"ambiguity set {name!r} is unknown. {nearest(str(name), known)}")
    return known[name]


def printed(value: Any) -> Any:
    if isinstance(value, (Tensor, np.ndarray)):
        return f"{value.item():g}" if value.ndim == 0 else f"[{'×'.join(map(str, value.shape))}]"
    return f"{value:g}" if isinstance(value, float) else value


def _plain(value: Any) -> Any:
    if isinstance(value, Ambiguity):
        return value.to_dict()
    if isinstance(value, (Tensor, np.ndarray)):
        return value.tolist()
    return [_plain(one) for one in value] if isinstance(value, tuple) else value


def _revived(value: Any) -> Any:
    if isinstance(value, dict):
        return Ambiguity.from_dict(value)
    return tuple(_revived(one) for one in value) if isinstance(value, list) else value
