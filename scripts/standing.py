"""Write down how every claim stands, so that `surefoot methods` need not judge all records each time."""

from __future__ import annotations

from surefoot.claims import records
from surefoot.claims.page import standing


def standings() -> str:
    """The file `claims/records/standing.toml`."""
    lines = [f'{slug} = "{standing(records.claim(slug))}"' for slug in sorted(records.claimed())]
    return "# Made by scripts/standing.py from the records beside it; a test compares.\n" + "\n".join(lines) + "\n"


if __name__ == "__main__":
    records.SHIPPED.joinpath("standing.toml").write_text(standings(), encoding="utf-8")
