"""Arguments of the command line, typed from the dataclasses that Python uses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, NoneType, UnionType
from typing import Annotated, Any, Literal, Optional, Union, get_args, get_origin, get_type_hints

import tyro
from tyro.conf import arg

from surefoot.errors import UsageError
from surefoot.hyperparameters import MOST_THREADS, hyperparameter, presets, span


@dataclasses.dataclass(frozen=True)
class Start:
    """From what a run starts, besides its settings and its method."""

    config: tuple[Path, ...] = hyperparameter(
        (), help="Configuration files (TOML, YAML, JSON, or a run): options given beside them win, later files too."
    )
    start: str | None = hyperparameter(
        None, help="Run or agent whose weights to start from, also of another environment with the same spaces."
    )
    seed: int = hyperparameter(0, help="First random seed.")
    num_seeds: int = hyperparameter(1, help="Number of consecutive seeds trained at once, in one process.")
    run_dir: Path | None = hyperparameter(None, help="Folder of the run; runs/METHOD-ENV-SEED-TIME by default.")
    threads: int = hyperparameter(
        1, low=1, high=MOST_THREADS, help="Number of torch threads; small networks are fastest with one."
    )
    trust: bool = hyperparameter(False, help="Import and call what a configuration file names as module:name.")


def typed(method: type, defaults: Mapping[str, Any] = MappingProxyType({})) -> type:
    """A dataclass with the settings of a run and the hyperparameters of a method, for tyro to parse; `defaults` takes
    the place of declared ones."""
    from surefoot.ambiguity import Ambiguity
    from surefoot.loops.common.kinds import loop
    from surefoot.loops.common.run import Settings

    kind = loop(getattr(method, "loop"))  # noqa: B009
    default = defaults.get(kind.env_argument, getattr(method, "default_env", None))
    place = (kind.env_argument, Annotated[str, _described(kind.env_help, default or None, None, kind.env_aliases)])
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
            if field.metadata.get("words"):  # a mapping or a list of pairs, written as words
                annotation = tuple[str, ...]
            elif annotation is Any:
                annotation = Optional[str] if field.default is None else str  # noqa: UP045 (models are named)
            elif Ambiguity in (kinds := get_args(annotation)):  # sets are written as text: kl:0.1
                annotation = Optional[str] if NoneType in kinds else str  # noqa: UP045
            if choices:
                annotation = Literal[choices] if field.default is not None else Optional[Literal[choices]]  # noqa: UP045
            elif limits := span(field.metadata, annotation):
                help = f"{help} {limits}."
            value: Any = getattr(method, "default_steps") if field.name == "steps" else field.default  # noqa: B009
            value = defaults.get(field.name, value)
            value = () if field.metadata.get("words") and not value else value
            metavar = field.metadata.get("words") or None
            annotation = Annotated[annotation, _described(help, value, metavar)]
            made.append((field.name, annotation, dataclasses.field(default=value)))
    return dataclasses.make_dataclass(
        method.__name__, made, frozen=True, namespace={"__doc__": (method.__doc__ or "").splitlines()[0]}
    )


def _described(help: str, value: Any, metavar: str | None, aliases: tuple[str, ...] = ()) -> Any:
    """tyro's settings of an argument; an option that is not used by default has no "(default: None)"."""
    hint = "" if value is None or value == () else None
    return arg(help=help.replace("%", "%%"), metavar=metavar, help_behavior_hint=hint, aliases=aliases)


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


def _decimal(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{text!r} is not a number such as 0.5 or 1e-3") from None


READERS: dict[Any, tuple[str, Callable[[str], Any]]] = {
    int: ("INT", whole),
    float: ("FLOAT", _decimal),
    str: ("TEXT", str),
    Path: ("PATH", Path),
}
NOTHING = ("None", "none")


def parsed(what: Callable[..., Any], arguments: Sequence[str], program: str, *, unknown: bool = False) -> Any:
    """The result of calling `what` with the arguments as tyro parses them; `unknown` also returns those that are not
    its own. Types are shown as INT, FLOAT, TEXT, PATH and choices; an optional argument takes the word none, which help
    leaves unsaid."""
    from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec

    registry = ConstructorRegistry()

    @registry.primitive_rule
    def plain(info: Any) -> Any:
        kinds = get_args(info.type) if get_origin(info.type) in (Union, UnionType) else (info.type,)
        optional, inner = NoneType in kinds, [kind for kind in kinds if kind is not NoneType]
        if len(inner) != 1:
            return None
        many = get_origin(inner[0]) is tuple and get_args(inner[0])[1:] == (Ellipsis,)
        one = get_args(inner[0])[0] if many else inner[0]
        choices = tuple(map(str, get_args(one))) if get_origin(one) is Literal else None
        if choices is None and one not in READERS:
            return None
        metavar, read = ("{" + ",".join(choices) + "}", str) if choices is not None else READERS[one]

        def value(words: list[str]) -> Any:
            if optional and len(words) == 1 and words[0] in NOTHING:
                return None
            if choices is not None and (wrong := [word for word in words if word not in choices]):
                raise UsageError(f"{wrong[0]!r} is not one of {', '.join(choices)}")
            return tuple(map(read, words)) if many else read(words[0])

        def shown(given: Any) -> list[str]:
            return ["none"] if given is None else [str(x) for x in given] if many else [str(given)]

        return PrimitiveConstructorSpec(
            nargs="*" if many else 1,
            metavar=f"[{metavar} …]" if many else metavar,
            instance_from_str=value,
            is_instance=lambda given: given is None if optional and given is None else _is(given, one, many),
            str_from_instance=shown,
        )

    return tyro.cli(what, args=arguments, prog=program, registry=registry, return_unknown_args=unknown)


def _is(given: Any, kind: Any, many: bool) -> bool:
    """Whether a value has a kind of `READERS` or is one of its choices, or is a tuple of such."""
    if many:
        return isinstance(given, tuple) and all(_is(x, kind, False) for x in given)
    if get_origin(kind) is Literal:
        return given in get_args(kind)
    if kind is float:
        return isinstance(given, (int, float)) and not isinstance(given, bool)
    return isinstance(given, kind) and not isinstance(given, bool)
