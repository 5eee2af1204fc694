"""Write rows as CSV or Parquet, as they come: memory does not depend on how many there are."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from aggregation.errors import AggregationError

Row = Mapping[str, Any]

#: Rows of one batch of a Parquet file.
BATCH = 10_000


class ExportUnavailable(AggregationError):
    """A package that a format needs is not installed."""


def write_csv(columns: Iterable[str], rows: Iterable[Row], file: TextIO) -> int:
    """Write rows as CSV, and return how many."""
    writer = csv.DictWriter(file, list(columns))
    writer.writeheader()
    count = 0
    for row in rows:
        writer.writerow({name: _csv_value(value) for name, value in row.items()})
        count += 1
    return count


def _csv_value(value: Any) -> Any:
    """Return a value that no spreadsheet takes for a formula: some text comes from clients."""
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return f"'{value}" if isinstance(value, str) and value[:1] in tuple("=+-@\t\r") else value


def write_parquet(columns: Iterable[str], rows: Iterable[Row], path: Path) -> int:
    """Write rows as Parquet, and return how many.

    Raises
    ------
    ExportUnavailable
        If pyarrow is not installed.
    """
    try:
        pyarrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        raise ExportUnavailable(
            "Parquet needs pyarrow, which is not installed: pip install pyarrow, or export .csv"
        ) from error
    schema = pyarrow.schema([(name, _parquet_type(pyarrow, name)) for name in columns])
    count = 0
    with parquet.ParquetWriter(path, schema) as writer:
        for batch in _batches(rows):
            writer.write_table(pyarrow.Table.from_pylist(batch, schema))
            count += len(batch)
    return count


def _batches(rows: Iterable[Row]) -> Iterator[list[dict[str, Any]]]:
    iterator = iter(rows)
    while batch := [dict(row) for row in islice(iterator, BATCH)]:
        yield batch


def _parquet_type(pyarrow: Any, column: str) -> Any:
    """Return a column's type, which is the same in every export, even if the column has no value."""
    if column in ("started", "uploaded"):
        return pyarrow.timestamp("us", tz="UTC")
    if column in ("seconds", "norm", "cosine", "scaling_factor", "score", "value"):
        return pyarrow.float64()
    if column in ("state", "status", "client", "name", "error", "reason", "metric"):
        return pyarrow.string()
    return pyarrow.int64()
