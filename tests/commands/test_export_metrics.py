"""`export_metrics`."""

from __future__ import annotations

import csv
import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from django.core.management import CommandError

from models_app.models import (
    ClientAggregateScore,
    ModelAggregate,
)
from tests.factories import (
    client_id,
    filled,
    make_model,
    ready_update,
)

pytestmark = pytest.mark.usefixtures("database", "cloud")
RunCommand = Callable[..., str]
Lineage = list[ModelAggregate]


def test_metrics_are_exported(run_command: RunCommand, lineage: Lineage, tmp_path: Path) -> None:
    """Rounds, updates and scores are exported as CSV, one row each."""
    model = lineage[0].federated_model
    results = {"accuracy": 0.5, "num_examples": 10, "note": "text"}
    ClientAggregateScore.objects.create(
        aggregate=lineage[0], client_id=client_id(1), validation_results=results
    )
    lengths = {}
    for of in ("rounds", "updates", "scores"):
        out = tmp_path / f"{of}.csv"
        run_command("export_metrics", model.pk, "--of", of, "--out", out)
        with out.open(newline="") as file:
            lengths[of] = len(list(csv.DictReader(file)))
    assert lengths == {"rounds": 3, "updates": 3, "scores": 2}


def test_text_of_clients_is_not_a_formula(run_command: RunCommand, tmp_path: Path) -> None:
    """A cell that a spreadsheet would compute is exported as text."""
    model = make_model(1)
    ready_update(model, 1, filled(1.0), rejection_reason="=cmd()")
    out = tmp_path / "updates.csv"
    run_command("export_metrics", model.pk, "--of", "updates", "--out", out)
    assert out.read_text().rstrip().endswith(",'=cmd()")


def test_parquet_has_the_same_columns_of_the_same_types(
    run_command: RunCommand, lineage: Lineage, tmp_path: Path
) -> None:
    """Columns have their types in Parquet, even if they have no value yet."""
    parquet = importlib.import_module("pyarrow.parquet")
    model = lineage[0].federated_model
    results = {"accuracy": 0.5, "num_examples": 10}
    ClientAggregateScore.objects.create(
        aggregate=lineage[0], client_id=client_id(1), validation_results=results
    )
    tables = {}
    for of in ("rounds", "updates", "scores"):
        out = tmp_path / f"{of}.parquet"
        assert f"in {out}" in run_command("export_metrics", model.pk, "--of", of, "--out", out)
        tables[of] = parquet.read_table(out)
    types = {
        name: str(table.schema.field(name).type)
        for table in tables.values()
        for name in table.schema.names
    }
    assert {types[name] for name in ("started", "uploaded")} == {"timestamp[us, tz=UTC]"}
    assert {types[name] for name in ("seconds", "score", "norm", "cosine", "value")} == {"double"}
    assert {types[name] for name in ("state", "client", "reason", "error", "metric")} == {"string"}
    assert {types[name] for name in ("round", "bytes", "base", "aggregate", "number")} == {"int64"}
    assert tables["rounds"].column("score").to_pylist() == [None] * 3
    assert tables["updates"].column("base").to_pylist() == [None, lineage[0].pk, lineage[1].pk]
    assert tables["scores"].column("value").to_pylist() == [0.5, 10.0]


def test_without_pyarrow_parquet_says_what_to_install(
    run_command: RunCommand, lineage: Lineage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If pyarrow is missing, the error names it, and the format that does not need it."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    out = tmp_path / "rounds.parquet"
    with pytest.raises(CommandError, match=r"pip install pyarrow, or export \.csv"):
        run_command("export_metrics", lineage[0].federated_model_id, "--out", out)
    assert not out.exists()
