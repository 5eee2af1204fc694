"""Arguments that several commands take."""

from __future__ import annotations

import json
import math
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable, Container, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError

#: More rows than a command is useful for.
MAX_ROWS = 1_000_000

#: Nothing in a bucket or a database is older.
MAX_DAYS = 100 * 366


def add_model_argument(parser: ArgumentParser) -> None:
    """Add ``MODEL``, a name or an id."""
    parser.add_argument("model", help="its name, or its id as manage.py models lists it")


def add_client_argument(parser: ArgumentParser) -> None:
    """Add ``CLIENT``, a name or an id."""
    parser.add_argument("client", help="its name, or its id as manage.py clients lists it")


def add_aggregate_argument(parser: ArgumentParser) -> None:
    """Add ``AGGREGATE``, an id."""
    add_id_argument(parser, "aggregate", "manage.py lineage MODEL")


def add_id_argument(parser: ArgumentParser, name: str, listing: str) -> None:
    """Add a positional argument that is the id of a row which the command ``listing`` lists."""

    def row_id(text: str) -> int:
        if not text.isdecimal() or not int(text):
            raise ArgumentTypeError(f"{text!r} is not an id: {listing} lists the ids")
        return int(text)

    parser.add_argument(name, type=row_id, help=f"its id, as {listing} lists it")


def add_limit_argument(parser: ArgumentParser, default: int) -> None:
    """Add ``--limit N``."""
    parser.add_argument(
        "--limit",
        type=count_up_to(MAX_ROWS),
        default=default,
        metavar="N",
        help="rows; default: %(default)s",
    )


def count_up_to(most: int) -> Callable[[str], int]:
    """Return a type for argparse: a whole number from 1 to ``most``."""

    def count(text: str) -> int:
        if not text.isdecimal() or not 1 <= int(text) <= most:
            raise ArgumentTypeError(f"expected a whole number from 1 to {most}; got {text!r}")
        return int(text)

    return count


def add_new_client_arguments(parser: ArgumentParser) -> None:
    """Add ``--clients N`` and ``--client CLIENT``."""
    parser.add_argument("--clients", type=int, default=0, metavar="N", help="create N new clients")
    parser.add_argument(
        "--client",
        action="append",
        default=[],
        metavar="NAME",
        help="an existing client, by its name or id, or a new client with this name or id; "
        "may be repeated",
    )


def add_out_arguments(parser: ArgumentParser, group: Any = None) -> None:
    """Add ``--out FILE`` and ``--force``.

    Parameters
    ----------
    parser : ArgumentParser
    group : optional
        A group of arguments of which one is required; without it, ``--out`` is required.
    """
    (group or parser).add_argument(
        "--out", type=Path, metavar="FILE", required=group is None, help="the file to write"
    )
    parser.add_argument("--force", action="store_true", help="replace an existing file")


def age(text: str) -> timedelta:
    """Parse an age such as ``180d``, ``36h`` or ``90m``, for argparse."""
    units = {"d": "days", "h": "hours", "m": "minutes"}
    try:
        value = float(text[:-1])
        parsed = timedelta(**{units[text[-1:]]: value}) if math.isfinite(value) else None
    except (KeyError, ValueError, OverflowError):
        parsed = None
    if parsed is None or not timedelta(0) < parsed <= timedelta(days=MAX_DAYS):
        raise ArgumentTypeError(f"expected an age such as 180d, 36h or 90m; got {text!r}")
    return parsed


def named_texts(option: str, given: Sequence[str]) -> dict[str, str]:
    """Return what was given for an option, such as ``["beta=0.1"]``, as ``{"beta": "0.1"}``.

    Raises
    ------
    CommandError
        If a value is not given as NAME=VALUE, or a name is given twice.
    """
    texts: dict[str, str] = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not equals or not name:
            raise CommandError(f"{option} must be NAME=VALUE; got {each!r}")
        if name in texts:
            raise CommandError(f"{option}: {name!r} is given twice")
        texts[name] = value
    return texts


def named_values(option: str, given: Sequence[str], text: Container[str] = ()) -> dict[str, Any]:
    """Return what was given for an option, such as ``["beta=0.1"]``, as ``{"beta": 0.1}``.

    Parameters
    ----------
    option : str
    given : sequence of str
    text : container of str
        The names whose values are text, even if they consist of digits.

    Raises
    ------
    CommandError
        As `named_texts`.
    """

    def parse(value: str) -> Any:
        try:
            return json.loads(value)
        except ValueError:
            return value

    named = named_texts(option, given)
    return {name: value if name in text else parse(value) for name, value in named.items()}
