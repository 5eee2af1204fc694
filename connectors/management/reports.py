"""What the commands share: tables for people, JSON for scripts, and errors that say what to do."""

from __future__ import annotations

import json
import shutil
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from botocore.exceptions import BotoCoreError, ClientError
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError, models

from aggregation.errors import AggregationError, TemporarilyUnavailable
from connectors import DjangoAggConnector
from connectors.errors import ServiceRefused
from connectors.publication.pointer import try_write_pointer
from connectors.workflow.aggregator import DEFAULT_SETTINGS

Row = Mapping[str, Any]

#: More than anybody reads.
MAX_ROWS = 1_000_000

#: Cells up to the length of a UUID stay on one line.
WHOLE = 36

#: Sentences are folded, but not to less than this.
FOLDED = 30

#: Wider than any table.
MAX_WIDTH = 100_000

M = TypeVar("M", bound=models.Model)


class ReportCommand(BaseCommand):
    """A command that prints rows: as a table, or with ``--json`` as JSON."""

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", dest="as_json", help="for scripts")

    def report(self, rows: Sequence[Row], *, as_json: bool, empty: str = "nothing to show") -> None:
        """Print a table of rows that have the same columns."""
        if as_json:
            self.stdout.write(as_text(rows))
        elif rows:
            width = terminal_width() if self.stdout.isatty() else None
            self.stdout.write(table(rows, width), ending="")
        else:
            self.stdout.write(empty)

    def report_one(self, row: Row, *, as_json: bool) -> None:
        """Print one row, a line for each of its columns."""
        if as_json:
            self.stdout.write(as_text(row))
            return
        width = max(map(len, row))
        for name, value in row.items():
            self.stdout.write(f"{name:<{width}}  {shown(value)}")

    def write_pointer(self, model: int) -> None:
        """Bring the model's `latest.json` up to date; what is done already does not fail by it."""
        why = try_write_pointer(DjangoAggConnector(DEFAULT_SETTINGS).model_data.objects, model)
        if why:
            self.stderr.write(why)


def as_text(value: Any) -> str:
    """JSON; times in ISO 8601."""
    return json.dumps(value, indent=1, default=_plain)


def _plain(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def shown(value: Any) -> str:
    """A value as people read it; on one line, and nothing in it can steer the terminal."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    return "".join(each if each.isprintable() else " " for each in str(value))


def terminal_width() -> int:
    """Columns of the terminal, or what COLUMNS says."""
    return shutil.get_terminal_size((120, 24)).columns


def counted(count: int, what: str) -> str:
    """How many there are of what has a regular plural: ``1 client``, ``2 clients``."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def table(rows: Sequence[Row], width: int | None) -> str:
    """Rows as a table, in which nothing is cut.

    For a terminal of that width it is rich's, where rich is installed, which it need not be in
    production, and where there is room for it. Otherwise it is plain, a line for each row.
    """
    heads = list(rows[0])
    cells = [[shown(value) for value in row.values()] for row in rows]
    drawn = _rich_table(heads, cells, width) if width else ""
    return drawn or _plain_table([heads, *cells])


def _rich_table(heads: Sequence[str], cells: Sequence[Sequence[str]], width: int) -> str:
    """Empty where rich is not installed, or would cut what is in the table to fit the width."""
    try:
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        return ""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for head, column in zip(heads, zip(*cells, strict=True), strict=True):
        # What is short, ids above all, is whole or it is of no use; sentences may be folded.
        longest = max(map(len, (head, *column)))
        made.add_column(
            head, overflow="fold", no_wrap=longest <= WHOLE, min_width=min(longest, FOLDED)
        )
    for row in cells:
        made.add_row(*(Text(cell) for cell in row))
    console = Console(width=width)
    roomy = console.options.update(width=MAX_WIDTH)
    if console.measure(made, options=roomy).minimum > width:
        return ""
    with console.capture() as captured:
        console.print(made)
    return "\n".join(line.rstrip() for line in captured.get().splitlines()) + "\n"


def _plain_table(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
        + "\n"
        for line in lines
    )


def add_row_argument(parser: ArgumentParser, name: str, listing: str) -> None:
    """A positional argument that is a row's id, as another command lists it."""

    def row_id(text: str) -> int:
        if not text.isdecimal() or not int(text):
            raise ArgumentTypeError(f"{text!r} is no id: {listing} lists those there are")
        return int(text)

    parser.add_argument(name, type=row_id, help=f"its id, as {listing} lists it")


def add_model_argument(parser: ArgumentParser) -> None:
    """``MODEL``, by its id."""
    add_row_argument(parser, "model", "manage.py models")


def add_aggregate_argument(parser: ArgumentParser) -> None:
    """``AGGREGATE``, by its id."""
    add_row_argument(parser, "aggregate", "manage.py lineage MODEL")


def add_limit_argument(parser: ArgumentParser, default: int) -> None:
    """``--limit N``."""
    parser.add_argument(
        "--limit", type=_limit, default=default, metavar="N", help="default: %(default)s"
    )


def _limit(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MAX_ROWS:
        raise ArgumentTypeError(f"expected a whole number from 1 to {MAX_ROWS}; got {text!r}")
    return int(text)


def add_out_arguments(parser: ArgumentParser, either: Any = None) -> None:
    """``--out FILE`` and ``--force``; with a group of arguments of which one is required, in that."""
    (either or parser).add_argument("--out", type=Path, metavar="FILE", required=either is None)
    parser.add_argument("--force", action="store_true", help="replace a file that is there")


def check_out(out: Path, *, force: bool) -> None:
    """Refuse to write over what is there, unless that was asked for; and where nobody would find it.

    Raises
    ------
    CommandError
    """
    if settings.FUNCTION_MEMORY_MB:
        raise CommandError(
            "nobody gets at a file in the function: `download --link` and `export_metrics --out -` "
            "answer with what is wanted"
        )
    if out.is_dir():
        raise CommandError(f"{out} is a directory: name a file in it")
    if not out.parent.is_dir():
        raise CommandError(f"{out} cannot be written: there is no directory {out.parent}")
    if out.exists() and not force:
        raise CommandError(f"{out} exists: choose another name, or replace it with --force")


def found(kind: type[M], pk: int, *related: str) -> M:
    """The row with that id.

    Raises
    ------
    CommandError
        If there is none; it names the command that lists those there are.
    """
    rows = kind._default_manager.filter(pk=pk)
    row = (rows.select_related(*related) if related else rows).first()
    if row is None:
        name, listing = _LISTED[kind.__name__]
        raise CommandError(f"there is no {name} with id {pk}: {listing} lists those there are")
    return row


_LISTED = {
    "FederatedModel": ("federated model", "manage.py models"),
    "ModelAggregate": ("aggregate", "manage.py lineage MODEL"),
    "AggregationRound": ("round", "manage.py rounds MODEL"),
}


@contextmanager
def plain_message() -> Iterator[None]:
    """What AWS, storage, the database or the core refuse, as an error of the command."""
    try:
        yield
    except BrokenPipeError:  # Nobody reads on; nothing is wrong.
        raise
    except (
        TemporarilyUnavailable,
        ServiceRefused,
        BotoCoreError,
        ClientError,
        DatabaseError,
        OSError,
    ) as error:
        why = " ".join(str(error).split())
        raise CommandError(f"{why}; `manage.py doctor` tells what is wrong") from error
    except AggregationError as error:
        raise CommandError(str(error)) from error
