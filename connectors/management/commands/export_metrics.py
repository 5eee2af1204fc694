"""``manage.py export_metrics MODEL``: rounds, updates or scores, for other tools to plot."""

from __future__ import annotations

import csv
import io
from argparse import ArgumentParser
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from connectors.management.commands import rounds, updates
from connectors.management.reports import (
    Row,
    add_model_argument,
    add_out_arguments,
    check_out,
    found,
    plain_message,
)
from models_app.models import ClientAggregateScore, FederatedModel

FORMATS = (".csv", ".parquet")

#: As a file's name.
STANDARD_OUTPUT = Path("-")


class Command(BaseCommand):
    """Exports what is known of a model's training."""

    help = (
        "Export a model's rounds, updates or scores as CSV, or Parquet where pyarrow is installed; "
        "with --out - print the CSV. "
        "Example: manage.py export_metrics 3 --of rounds --out rounds.csv"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_model_argument(parser)
        parser.add_argument("--of", choices=sorted(_ROWS), default="rounds")
        add_out_arguments(parser)

    def handle(
        self, *args: Any, model: int, of: str, out: Path, force: bool, **options: Any
    ) -> None:
        printed = out == STANDARD_OUTPUT
        if not printed:
            _check_name(out)
            check_out(out, force=force)
        with plain_message():
            rows = _ROWS[of](found(FederatedModel, model))
        if not rows:
            raise CommandError(f"model {model} has no {of} yet: there is nothing to export")
        if printed:
            self.stdout.write(_csv(rows), ending="")
            return
        try:
            if out.suffix == ".csv":
                out.write_text(_csv(rows), encoding="utf-8", newline="")
            else:
                _write_parquet(rows, out)
        except OSError as error:
            raise CommandError(f"{out} cannot be written: {error.strerror}") from error
        self.stdout.write(f"{len(rows)} {of} in {out}")


def _check_name(out: Path) -> None:
    if out.suffix not in FORMATS:
        raise CommandError(f"{out} must end with one of {', '.join(FORMATS)}")


def _round_rows(model: FederatedModel) -> list[Row]:
    rows: list[Row] = []
    for each in model.rounds.select_related("aggregate").order_by("pk"):
        score = each.aggregate.validation_score if each.aggregate else None
        rows.append(rounds.row_of(each) | {"score": score})
    return rows


def _update_rows(model: FederatedModel) -> list[Row]:
    return [updates.row_of(each) for each in model.model_updates.order_by("pk")]


def _score_rows(model: FederatedModel) -> list[Row]:
    """A row for each number that a client reported."""
    scores = ClientAggregateScore.objects.filter(aggregate__federated_model=model)
    return [
        {
            "number": each.aggregate.number,
            "aggregate": each.aggregate_id,
            "client": str(each.client_id),
            "metric": metric,
            "value": float(value),
        }
        for each in scores.select_related("aggregate").order_by("aggregate__number", "client_id")
        for metric, value in each.validation_results.items()
        if type(value) in (int, float)
    ]


_ROWS: dict[str, Callable[[FederatedModel], list[Row]]] = {
    "rounds": _round_rows,
    "updates": _update_rows,
    "scores": _score_rows,
}


def _csv(rows: list[Row]) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    """A value that no spreadsheet takes for a formula; some text comes from strangers."""
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return f"'{value}" if isinstance(value, str) and value[:1] in tuple("=+-@\t\r") else value


def _write_parquet(rows: list[Row], out: Path) -> None:
    try:
        pyarrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        raise CommandError(
            "Parquet needs pyarrow, which is not installed: pip install pyarrow, or export .csv"
        ) from error
    types = [(name, _type(pyarrow, name)) for name in rows[0]]
    table = pyarrow.Table.from_pylist([dict(row) for row in rows], pyarrow.schema(types))
    parquet.write_table(table, out)


def _type(pyarrow: Any, column: str) -> Any:
    """A column's type: the same in every export, also where a column has no value yet."""
    if column in ("started", "uploaded"):
        return pyarrow.timestamp("us", tz="UTC")
    if column in ("seconds", "norm", "score", "value"):
        return pyarrow.float64()
    if column in ("state", "status", "client", "error", "reason", "metric"):
        return pyarrow.string()
    return pyarrow.int64()
