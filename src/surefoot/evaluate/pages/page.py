"""A page as data, and as one self-contained HTML file: no script, no request, light and dark, from a phone to a desk.

A kind of page (a run, a comparison, …) is a function from its results to a `Page`; only the template writes HTML, and
it escapes whatever it is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import ClassVar

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from surefoot.errors import UsageError
from surefoot.evaluate.plots import to_svg
from surefoot.files import write_whole

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Text:
    """Paragraphs; `faint` for notes."""

    kind: ClassVar[str] = "text"
    paragraphs: Sequence[str]
    faint: bool = False


@dataclass(frozen=True)
class Chart:
    """A figure under its title, with a caption that says what the reader sees. A `wide` one takes both columns."""

    title: str
    figure: Figure
    caption: str = ""
    wide: bool = False

    @property
    def svg(self) -> Markup:
        return Markup(to_svg(self.figure, self.title))


@dataclass(frozen=True)
class Charts:
    """Charts beside each other, as many as fit."""

    kind: ClassVar[str] = "charts"
    charts: Sequence[Chart]


@dataclass(frozen=True)
class Film:
    """An animated picture as a data URI."""

    title: str
    source: str
    caption: str = ""


@dataclass(frozen=True)
class Films:
    """Films beside each other, on phones too: they are there to be compared."""

    kind: ClassVar[str] = "films"
    films: Sequence[Film]


@dataclass(frozen=True)
class Facts:
    """Names and values; `columns` of them beside each other on a desktop."""

    kind: ClassVar[str] = "facts"
    rows: Sequence[tuple[str, str]]
    columns: int = 2


@dataclass(frozen=True)
class Table:
    """A table; columns named in `numeric` are aligned to the right."""

    kind: ClassVar[str] = "table"
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: frozenset[str] = frozenset()
    caption: str = ""


@dataclass(frozen=True)
class Code:
    """Text in its own line breaks: a command, a formula."""

    kind: ClassVar[str] = "code"
    text: str


@dataclass(frozen=True)
class Samples:
    """Prompts with what was written to them: rows of (label, prompt, completion)."""

    kind: ClassVar[str] = "samples"
    rows: Sequence[tuple[str, str, str]]


@dataclass(frozen=True)
class Folded:
    """Blocks that are shown on a click."""

    kind: ClassVar[str] = "folded"
    title: str
    blocks: Sequence[Block]


Block = Text | Charts | Films | Facts | Table | Code | Samples | Folded


@dataclass(frozen=True)
class Section:
    """Blocks under a heading."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Page:
    """A title, what stands above all sections, and the sections; `link` is an address with its text."""

    title: str
    lead: Sequence[str] = ()
    link: tuple[str, str] | None = None
    summary: Facts | None = None
    sections: Sequence[Section] = field(default_factory=tuple)

    def html(self) -> str:
        """The page as HTML; text that is not valid Unicode is written with backslashes."""
        page = _environment().get_template("page.html").render(page=self, policy=POLICY)
        return page.encode(errors="backslashreplace").decode()

    def write(self, path: Path) -> Path:
        """Write the page, and return its path.

        Raises:
            UsageError: the disk is full, or it is not allowed.
        """
        try:
            write_whole(path, self.html().encode())
        except OSError as error:
            words = f"{path} could not be written: {error}. Free disk space or fix the permissions."
            raise UsageError(words) from error
        return path


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
