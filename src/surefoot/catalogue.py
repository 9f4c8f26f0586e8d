"""The catalogue: the papers in scope and the status of each.

`papers.toml` describes the papers. Whether a paper is built and has a claim is not stored but derived from the modules
that exist. This imports neither methods nor torch; only `method_class` imports a module.

Methods of other packages are named as `module:Class`, or by the name of an entry point in the group `surefoot.methods`:

    [project.entry-points."surefoot.methods"]
    my-method = "my_package.my_module:MyMethod"
"""

from __future__ import annotations

import importlib
import tomllib
from dataclasses import dataclass
from functools import cache, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surefoot.errors import UsageError, nearest

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

_PACKAGE = Path(__file__).parent
GROUP = "surefoot.methods"  # of the entry points by which other packages offer methods


def _exists(module: str) -> bool:
    place = _PACKAGE.joinpath(*module.split(".")[1:])
    return place.with_suffix(".py").is_file() or (place / "__init__.py").is_file()


@dataclass(frozen=True)
class Paper:
    """A paper in scope; `module` is the module of its method, whether built yet or not. `source` says what the method
    is built from: the paper's "text" (and its code where that is public), its "code" alone, or a "reconstruction" from
    an abstract or from what others say of it."""

    slug: str
    title: str
    year: int
    arxiv: str
    setting: str
    summary: str
    module: str
    attribute: str = "METHOD"
    source: str = "text"

    @property
    def claim_module(self) -> str:
        """The module of the experiment on the paper's headline claim."""
        return self.module.replace(".methods.", ".claims.", 1)

    @property
    def built(self) -> bool:
        return _exists(self.module)

    @property
    def claimed(self) -> bool:
        return _exists(self.claim_module)

    @property
    def standing(self) -> str:
        """How the paper's claim stands, tier by tier; `scripts/standing.py` writes it down when records change."""
        return _standings().get(self.slug, "not run yet") if self.claimed else "no claim yet"


@dataclass(frozen=True)
class Baseline:
    """A method that is not one of the papers in scope: `attribute` of `module`."""

    slug: str
    title: str
    module: str
    attribute: str = "METHOD"

    @property
    def built(self) -> bool:
        return _exists(self.module)


@dataclass(frozen=True)
class Plugin:
    """A method that another installed package offers as an entry point."""

    slug: str
    title: str
    module: str
    attribute: str
    built: bool = True

    @classmethod
    def of(cls, point: EntryPoint) -> Plugin:
        package = point.module.partition(".")[0] if point.dist is None else point.dist.name
        return cls(point.name, f"{point.attr} of the package {package}", point.module, point.attr)


@cache
def _data() -> dict[str, list[dict[str, Any]]]:
    return tomllib.loads(_PACKAGE.joinpath("papers.toml").read_text(encoding="utf-8"))


@cache
def _standings() -> dict[str, str]:
    return tomllib.loads(_PACKAGE.joinpath("claims", "records", "standing.toml").read_text(encoding="utf-8"))


@cache
def papers() -> tuple[Paper, ...]:
    """Every paper in scope, grouped by setting."""
    return tuple(Paper(**row) for row in _data()["paper"])


@cache
def baselines() -> tuple[Baseline, ...]:
    """The methods without a paper in scope."""
    return tuple(Baseline(**row) for row in _data().get("baseline", ()))


@cache
def plugins() -> tuple[Plugin, ...]:
    """The methods of other installed packages; one with the slug of a paper or a baseline is left out."""
    from importlib.metadata import entry_points  # only here: it is half of what importing this module would take

    own = {entry.slug for entry in (*papers(), *baselines())}
    return tuple(Plugin.of(point) for point in entry_points(group=GROUP) if point.name not in own)


def paper(slug: str) -> Paper:
    """The paper with this slug; a `UsageError` with the nearest slugs if there is none."""
    known = {p.slug: p for p in papers()}
    if slug not in known:
        raise UsageError(f"No paper is called {slug!r}. {nearest(slug, known)}")
    return known[slug]


def methods() -> tuple[Paper | Baseline | Plugin, ...]:
    """The methods that can be trained: the papers and baselines whose method is built, and those of other packages."""
    return tuple(entry for entry in (*papers(), *baselines(), *plugins()) if entry.built)


def method_class(slug: str) -> type:
    """The dataclass of a method, by its slug or as `module:Class`, imported on demand; a `UsageError` if it is unknown
    or not built yet."""
    if ":" in slug:
        return _own(slug, *slug.split(":", 1))
    entries = {entry.slug: entry for entry in (*papers(), *baselines(), *plugins())}
    built = [entry.slug for entry in methods()]
    if slug not in entries:
        raise UsageError(
            f"No method is called {slug!r}. {nearest(slug, built)} A method of your own is named module:Class."
        )
    entry = entries[slug]
    if isinstance(entry, Plugin):
        return _own(slug, entry.module, entry.attribute)
    if not entry.built:
        raise UsageError(
            f"{slug!r} ({entry.title}) is in the catalogue, but its method is not built yet. Built: {', '.join(built)}."
        )
    return getattr(importlib.import_module(entry.module), entry.attribute)


def _own(name: str, module: str, attribute: str) -> type:
    """The method that another module defines."""
    try:
        found = reduce(getattr, attribute.split("."), importlib.import_module(module))
    except Exception as error:  # a module may raise anything when it is imported
        raise UsageError(
            f"method={name!r} cannot be imported ({type(error).__name__}: {error}). Give it as module:Class, with the "
            "module in the working directory or in an installed package."
        ) from error
    if not isinstance(found, type) or not hasattr(found, "loop"):
        raise UsageError(
            f"method={name!r} is no method: name a class that extends one, such as surefoot.methods.control.ppo.PPO."
        )
    return found
