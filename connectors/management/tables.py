"""Rows as text: a table for people, JSON for scripts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

Row = Mapping[str, Any]

#: Cells up to the length of a UUID are never folded.
NEVER_FOLDED = 36

#: Longer cells are folded to this many characters at least.
MIN_FOLDED_WIDTH = 30

#: Wider than any table.
MAX_WIDTH = 100_000


def to_json(value: Any) -> str:
    """Return a value as JSON, with times in ISO 8601."""
    return json.dumps(value, indent=1, default=_json_default)


def _json_default(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def cell(value: Any) -> str:
    """Return a value as it is shown to people: one line, without control characters."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    return "".join(each if each.isprintable() else " " for each in str(value))


def plural(count: int, noun: str) -> str:
    """Return a count with its noun: ``1 client``, ``2 clients``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def terminal_width() -> int:
    """Return the number of columns of the terminal, or the value of COLUMNS."""
    return shutil.get_terminal_size((120, 24)).columns


def table(rows: Sequence[Row], width: int | None) -> str:
    """Return rows as a table in which nothing is truncated.

    Parameters
    ----------
    rows : sequence of mapping
        At least one; all have the same columns.
    width : int or None
        Width of the terminal. The table is drawn by rich if rich is installed (production does not
        need it) and the table fits; otherwise each row is one plain line.
    """
    heads = list(rows[0])
    cells = [[cell(value) for value in row.values()] for row in rows]
    drawn = _rich_table(heads, cells, width) if width else ""
    return drawn or _plain_table([heads, *cells])


def _rich_table(heads: Sequence[str], cells: Sequence[Sequence[str]], width: int) -> str:
    """Return the table drawn by rich; empty if rich is not installed or the table does not fit."""
    try:
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        return ""
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for head, column in zip(heads, zip(*cells, strict=True), strict=True):
        longest = max(map(len, (head, *column)))
        drawn.add_column(
            head,
            overflow="fold",
            no_wrap=longest <= NEVER_FOLDED,  # An id is useless unless it is whole.
            min_width=min(longest, MIN_FOLDED_WIDTH),
        )
    for row in cells:
        drawn.add_row(*(Text(each) for each in row))
    console = Console(width=width)
    if console.measure(drawn, options=console.options.update(width=MAX_WIDTH)).minimum > width:
        return ""
    with console.capture() as captured:
        console.print(drawn)
    return "\n".join(line.rstrip() for line in captured.get().splitlines()) + "\n"


def _plain_table(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "".join(
        "  ".join(f"{each:<{width}}" for each, width in zip(line, widths, strict=True)).rstrip()
        + "\n"
        for line in lines
    )
