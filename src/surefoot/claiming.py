"""The command `surefoot claim`: how a paper's claim stands, and running its experiments."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import arg

from surefoot.errors import UsageError


def claim(
    slug: Annotated[str, arg(metavar="[SLUG]")] = "",
    /,
    tier: Literal["mechanism", "miniature", "instance"] | None = None,
    experiment: str | None = None,
    seeds: str | None = None,
    out: Path | None = None,
    status: bool = False,
    on: str = "",
    data: Path | None = None,
) -> None:
    """Show how a paper's claim stands, part by part; --tier, --experiment and --seeds run its experiments.

    Without a slug, --tier runs what no record in the folder covers yet, for all papers.

    Args:
        slug: Slug of the paper, or module:NAME of a claim of your own.
        tier: Run the experiments of one tier: mechanism (seconds), miniature (ours, minutes), instance (the paper's
            own, hours).
        experiment: Run the experiment of this name alone, such as "table 1".
        seeds: Random seeds, if not the experiments' own: 20 for 0 to 19, 100:120 for 100 to 119.
        out: Folder for the records of a run; surefoot-claims by default. Without a run, show the records in it.
        status: List what is stale, unstable, void, underpowered or not run, and why.
        on: Where to compute: ray for a Ray cluster on this machine, ray:ADDRESS for another; else in this process.
        data: Folder with data that an experiment reads and that do not come with the package.
    """
    from surefoot.claims import given, records, running
    from surefoot.claims.page import text

    if on and data:
        raise UsageError(f"--data {data} is not allowed with --on {on}: other machines do not have this folder.")
    slugs = [slug] if slug else records.claimed()
    if status:
        if tier or experiment or seeds:
            raise UsageError("--status shows records and runs nothing; leave out --tier, --experiment and --seeds.")
        return _claims_status([records.claim(each) for each in slugs], out or records.SHIPPED)
    if not slug and not tier:
        raise UsageError("give the slug of a paper, or --tier for all papers, or --status.")
    if experiment and not slug:
        raise UsageError(f"--experiment {experiment} needs the slug of its paper.")
    if not (tier or experiment or seeds):
        found = records.claim(slug)
        return print(text(found, records.read(found, out or records.SHIPPED)[0]))
    numbers, broken = None if seeds is None else running.seeds_of(seeds), []
    for each in slugs:
        found = records.claim(each)
        if not slug and not running.missing(found, out or running.HOME, tier, numbers):
            continue
        try:
            with given.folder(data):
                made = running.run(found, out or running.HOME, tier=tier, experiment=experiment, seeds=numbers, on=on)
            print(text(found, made) + "\n", flush=True)
        except Exception as error:
            if slug:
                raise
            broken.append(f"{each} ({type(error).__name__}: {error})")  # costs none of the others
    print(f"Records: {out or running.HOME}")
    if broken:
        raise UsageError(f"{len(broken)} claims broke off: {'; '.join(broken)}. The same command runs what is missing.")


def _claims_status(claims: Sequence[Any], folder: Path) -> None:
    """Per claim its line and limits; exit code 1 where something must be mended."""
    from surefoot.claims import records
    from surefoot.claims.judge import line

    wrong = 0
    for one in claims:
        kept, stale = records.read(one, folder)
        defects = records.defects(one, kept, stale)
        wrong += len(defects)
        print(f"{one.slug}  {line(one, records.findings(one, kept))}")
        for label, notes in (("  MEND ", defects), ("  ", records.limits(one, kept))):
            for note in notes:
                print(textwrap.fill(note, 110, initial_indent=label, subsequent_indent="    "))
    print(f"\n{len(claims)} claims, {wrong} to mend.")
    if wrong:
        raise SystemExit(1)
