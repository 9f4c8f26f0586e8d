"""Arguments of the command line, typed from the dataclasses that Python uses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, NoneType
from typing import Annotated, Any, Literal, Optional, get_args, get_type_hints

import tyro
from tyro.conf import arg

from surefoot.errors import UsageError
from surefoot.hyperparameters import MOST_THREADS, allowed, hyperparameter, presets


@dataclasses.dataclass(frozen=True)
class Start:
    """Where and from which random seeds a run starts, besides its settings and its method."""

    seed: int = hyperparameter(0, help="First random seed.")
    num_seeds: int = hyperparameter(1, help="Number of consecutive seeds trained at once, in one process.")
    run_dir: Path | None = hyperparameter(None, help="Folder of the run; runs/METHOD-ENV-SEED-TIME by default.")
    threads: int = hyperparameter(
        1, low=1, high=MOST_THREADS, help="Number of torch threads; small networks are fastest with one."
    )


def typed(method: type, preset: Mapping[str, Any] = MappingProxyType({})) -> type:
    """A dataclass with the settings of a run and the hyperparameters of a method, for tyro to parse; a preset's
    hyperparameters are defaults."""
    from surefoot.ambiguity import Ambiguity
    from surefoot.loops.common.kinds import loop
    from surefoot.loops.common.run import Settings

    kind = loop(getattr(method, "loop"))  # noqa: B009
    place = (kind.env_argument, Annotated[str, arg(help=kind.env_help)])
    default = getattr(method, "default_env", None)
    made: list[Any] = [place if default is None else (*place, dataclasses.field(default=default))]
    if names := tuple(presets(method)):
        help = "Take the settings of another source as defaults; surefoot explain shows them."
        made.append(("preset", Annotated[Optional[Literal[names]], arg(help=help)], dataclasses.field(default=None)))  # noqa: UP045
    for source in (Start, kind.options, Settings, method):
        hints = get_type_hints(source)
        for field in dataclasses.fields(source):
            if source is kind.options and "help" not in field.metadata:
                continue  # can be given only in Python
            if source is method and field.name in (*getattr(method, "without_effect", ()), "parts"):
                continue
            annotation, choices, help = hints[field.name], field.metadata.get("choices"), field.metadata.get("help", "")
            if annotation is Any:
                annotation = Optional[str] if field.default is None else str  # noqa: UP045 (models are named)
            elif Ambiguity in (kinds := get_args(annotation)):  # sets are written as text: kl:0.1
                annotation = Optional[str] if NoneType in kinds else str  # noqa: UP045
            if choices:
                annotation = Literal[choices] if field.default is not None else Optional[Literal[choices]]  # noqa: UP045
            elif set(field.metadata) - {"help"}:
                help = f"{help} Takes {allowed(field.metadata, annotation)}."
            annotation = Annotated[annotation, arg(help=help.replace("%", "%%"))]
            value: Any = getattr(method, "default_steps") if field.name == "steps" else field.default  # noqa: B009
            value = preset.get(field.name, value) if source is method else value
            made.append((field.name, annotation, dataclasses.field(default=value)))
    return dataclasses.make_dataclass(
        method.__name__, made, frozen=True, namespace={"__doc__": (method.__doc__ or "").splitlines()[0]}
    )


def whole(text: str) -> int:
    """A whole number as people write it: 1000000, 1_000_000, 1e6, 300k or 1.5M."""
    try:
        thousands = {"k": 1_000, "m": 1_000_000}.get(text[-1:].lower(), 0)
        number = float(text[:-1]) * thousands if thousands else float(text)
        if number == int(number):
            return int(number) if thousands or "e" in text.lower() else int(text)
    except (ValueError, OverflowError):
        pass
    raise UsageError(f"{text!r} is not a whole number such as 1000, 1_000, 1e3 or 1k")


def parsed(what: Callable[..., Any], arguments: Sequence[str], program: str, *, unknown: bool = False) -> Any:
    """The result of calling `what` with the arguments as tyro parses them; `unknown` also returns those that are not
    its own."""
    from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec

    registry = ConstructorRegistry()

    @registry.primitive_rule
    def whole_number(info: Any) -> Any:
        if info.type is not int:
            return None
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar="INT",
            instance_from_str=lambda words: whole(words[0]),
            is_instance=lambda value: isinstance(value, int) and not isinstance(value, bool),
            str_from_instance=lambda number: [str(number)],
        )

    return tyro.cli(what, args=arguments, prog=program, registry=registry, return_unknown_args=unknown)
