"""`models`, `rounds`, `updates`, `show_round`, `lineage`, `export_metrics`, `download`."""

from __future__ import annotations

import csv
import importlib
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from connectors.management import reports
from models_app.models import ClientAggregateScore, ModelAggregate, ModelUpdate
from tests.factories import client_id, filled, get, make_model, ready_update

pytestmark = pytest.mark.usefixtures("database", "cloud")
Said = Callable[..., str]
Line = list[ModelAggregate]


def in_json(said: Said, *arguments: Any) -> Any:
    return json.loads(said(*arguments, "--json"))


def test_models_are_listed_with_how_they_do(said: Said, line: Line) -> None:
    """`models` tells members, ready updates, aggregates, and why a model is paused."""
    model = line[0].federated_model
    ready_update(model, 1, filled(4.0), base_aggregate=line[-1])
    said("pause", model.pk, "--reason", "review")
    (row,) = in_json(said, "models")
    assert (row["id"], row["clients"], row["ready"], row["aggregates"]) == (model.pk, 1, 1, 3)
    assert row["state"] == "paused: review"
    assert "paused: review" in said("models")


def test_there_may_be_nothing_yet(said: Said) -> None:
    """Empty tables say so, and JSON is empty; not an error."""
    assert "create_model makes one" in said("models")
    assert in_json(said, "models") == []
    model = make_model(1)
    assert "no round yet" in said("rounds", model.pk)
    assert "no invalid update" in said("updates", model.pk, "--status", "invalid")
    assert "no aggregate yet" in said("lineage", model.pk)


def test_rejected_updates_are_listed_with_their_reasons(said: Said) -> None:
    """`updates --status invalid` shows the reason, and nothing a stranger put in it steers a terminal."""
    model = make_model(1)
    ready_update(model, 1, filled(1.0))
    status = ModelUpdate.Status.INVALID
    ready_update(model, 1, filled(2.0), status=status, rejection_reason="bad \x1b[2J tensor")
    (row,) = in_json(said, "updates", model.pk, "--status", "invalid")
    assert row["reason"] == "bad \x1b[2J tensor"
    out = said("updates", model.pk, "--status", "invalid")
    assert "bad  [2J tensor" in out
    assert str(client_id(1)) in out
    assert len(in_json(said, "updates", model.pk)) == 2


def test_a_round_is_shown_with_its_terms_and_updates(said: Said, line: Line) -> None:
    """`rounds` lists the latest first; `show_round` tells one in full."""
    model = line[0].federated_model
    rows = in_json(said, "rounds", model.pk, "--limit", 2)
    assert [(row["round"], row["state"], row["used"]) for row in rows] == [
        (3, "published", 1),
        (2, "published", 1),
    ]
    shown = in_json(said, "show_round", rows[0]["id"])
    assert shown["config_snapshot"]["rule"] == "weighted_mean"
    assert [each["status"] for each in shown["updates"]] == ["complete"]
    assert str(client_id(1)) in said("show_round", rows[0]["id"])


def test_the_lineage_is_a_tree(said: Said, line: Line) -> None:
    """`lineage` draws the line of aggregates, with versions and with what was rolled back to."""
    model = line[0].federated_model
    said("publish", line[1].pk, "--version", "1.0")
    said("rollback", line[0].pk)
    drawn = said("lineage", model.pk).splitlines()
    assert drawn[0] == f"{model.name} (model {model.pk})"
    assert drawn[2].startswith("├─ 2: ")
    assert drawn[2].endswith("version 1.0")
    assert drawn[4].startswith("└─ 4: ")
    assert f"the bytes of aggregate {line[0].pk} again" in drawn[4]
    assert [row["number"] for row in in_json(said, "lineage", model.pk)] == [1, 2, 3, 4]


def test_metrics_are_exported(said: Said, line: Line, tmp_path: Path) -> None:
    """Rounds, updates and scores come out as CSV, a row each."""
    model = line[0].federated_model
    results = {"accuracy": 0.5, "num_examples": 10, "note": "text"}
    ClientAggregateScore.objects.create(
        aggregate=line[0], client_id=client_id(1), validation_results=results
    )
    lengths = {}
    for of in ("rounds", "updates", "scores"):
        out = tmp_path / f"{of}.csv"
        said("export_metrics", model.pk, "--of", of, "--out", out)
        with out.open(newline="") as file:
            lengths[of] = len(list(csv.DictReader(file)))
    assert lengths == {"rounds": 3, "updates": 3, "scores": 2}


def test_text_of_strangers_is_no_formula(said: Said, tmp_path: Path) -> None:
    """A cell that a spreadsheet would compute is exported as text."""
    model = make_model(1)
    ready_update(model, 1, filled(1.0), rejection_reason="=cmd()")
    out = tmp_path / "updates.csv"
    said("export_metrics", model.pk, "--of", "updates", "--out", out)
    assert out.read_text().rstrip().endswith(",'=cmd()")


def test_parquet_has_the_same_columns_of_the_same_types(
    said: Said, line: Line, tmp_path: Path
) -> None:
    """What is a number, a time or a text is one in Parquet, also where a column has no value yet."""
    parquet = importlib.import_module("pyarrow.parquet")
    model = line[0].federated_model
    results = {"accuracy": 0.5, "num_examples": 10}
    ClientAggregateScore.objects.create(
        aggregate=line[0], client_id=client_id(1), validation_results=results
    )
    tables = {}
    for of in ("rounds", "updates", "scores"):
        out = tmp_path / f"{of}.parquet"
        assert f"in {out}" in said("export_metrics", model.pk, "--of", of, "--out", out)
        tables[of] = parquet.read_table(out)
    types = {
        name: str(table.schema.field(name).type)
        for table in tables.values()
        for name in table.schema.names
    }
    assert {types[name] for name in ("started", "uploaded")} == {"timestamp[us, tz=UTC]"}
    assert {types[name] for name in ("seconds", "score", "norm", "value")} == {"double"}
    assert {types[name] for name in ("state", "client", "reason", "error", "metric")} == {"string"}
    assert {types[name] for name in ("round", "bytes", "base", "aggregate", "number")} == {"int64"}
    assert tables["rounds"].column("score").to_pylist() == [None] * 3
    assert tables["updates"].column("base").to_pylist() == [None, line[0].pk, line[1].pk]
    assert tables["scores"].column("value").to_pylist() == [0.5, 10.0]


def test_without_pyarrow_parquet_says_what_to_install(
    said: Said, line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where pyarrow is missing, the error names it, and the format that needs nothing."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    out = tmp_path / "rounds.parquet"
    with pytest.raises(CommandError, match=r"pip install pyarrow, or export \.csv"):
        said("export_metrics", line[0].federated_model_id, "--out", out)
    assert not out.exists()


def test_an_aggregate_is_downloaded_whole(said: Said, line: Line, tmp_path: Path) -> None:
    """`download` writes the object's bytes, and replaces a file only when told to."""
    out = tmp_path / "weights" / "model.safetensors"
    out.parent.mkdir()
    said("download", line[0].pk, "--out", out)
    assert out.read_bytes() == get(str(line[0].result.name))
    with pytest.raises(CommandError, match="--force"):
        said("download", line[1].pk, "--out", out)
    said("download", line[1].pk, "--out", out, "--force")
    assert out.read_bytes() == get(str(line[1].result.name))
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["rounds", "999"], "no federated model with id 999: manage.py models"),
        (["updates", "999"], "no federated model with id 999"),
        (["updates", "MODEL", "--status", "lost"], "invalid choice"),
        (["lineage", "999"], "no federated model with id 999"),
        (["lineage", "digits"], "'digits' is no id: manage.py models lists"),
        (["show_round", "999"], "no round with id 999: manage.py rounds"),
        (["export_metrics", "MODEL", "--out", "x.xlsx"], "must end with one of .csv, .parquet"),
        (["export_metrics", "MODEL", "--out", "x.csv"], "has no rounds yet"),
        (["download", "999", "--out", "x"], "no aggregate with id 999: manage.py lineage"),
    ],
)
def test_what_is_not_there_is_named(said: Said, arguments: list[str], why: str) -> None:
    """Wrong input is told with what to do."""
    model = make_model(1)
    with pytest.raises(CommandError, match=why):
        said(*(str(model.pk) if each == "MODEL" else each for each in arguments))


def test_files_that_cannot_be_written_are_named(said: Said, line: Line) -> None:
    """A folder that does not exist is told as such."""
    with pytest.raises(CommandError, match="cannot be written: there is no directory"):
        said("download", line[0].pk, "--out", "/nonexistent/x")
    model = line[0].federated_model_id
    with pytest.raises(CommandError, match="cannot be written: there is no directory"):
        said("export_metrics", model, "--out", "/nonexistent/x.csv")


def test_tables_need_no_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without rich, which production need not have, and without a terminal, a table is plain text."""
    rows = [{"id": 1, "name": "digits"}]
    assert reports.table(rows, None) == "id  name\n1   digits\n"
    assert "─" in reports.table(rows, 80)
    monkeypatch.setitem(sys.modules, "rich", None)
    assert reports.table(rows, 80) == reports.table(rows, None)


REASON = "tensor 'fc.weight' is F32 [3, 4], the model's is F32 [3, 5], and so it cannot be averaged"


@pytest.mark.parametrize("width", [40, 80, 100, 120, 137, 144, 150, 200])
def test_no_terminal_is_too_narrow_for_a_table(width: int) -> None:
    """Ids and heads are whole on one line, and of a reason every word, however wide the terminal is."""
    rows = [
        {
            "id": number,
            "client": str(client_id(1)),
            "status": "invalid",
            "uploaded": "2026-11-24 13:00:00",
            "reason": REASON,
        }
        for number in (7, 123456)
    ]
    table = reports.table(rows, width)
    for whole in ("client", "reason", "123456", str(client_id(1)), "2026-11-24 13:00:00"):
        assert whole in table
    assert all(word in table for word in REASON.split())
    drawn_to_fit = all(len(line) <= width for line in table.splitlines())
    assert drawn_to_fit is ("─" in table)


class Terminal(io.StringIO):
    """What a command writes to, as if somebody looked at it."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("columns", "drawn"), [("60", False), ("200", True)])
def test_a_terminal_gets_what_fits_it(
    monkeypatch: pytest.MonkeyPatch, columns: str, drawn: bool
) -> None:
    """A command draws its table where there is a terminal with room for it."""
    model = make_model(1)
    ready_update(model, 1, filled(1.0))
    monkeypatch.setenv("COLUMNS", columns)
    out = Terminal()
    call_command("updates", str(model.pk), stdout=out)
    assert ("─" in out.getvalue()) is drawn
    assert str(client_id(1)) in out.getvalue()


def test_what_was_not_accepted_counts_nothing(said: Said) -> None:
    """An update rejected at the door shows no count it never had; one that waits shows its own."""
    model = make_model(1)
    ready_update(model, 1, filled(1.0))
    ready_update(model, 1, filled(1.0), status=ModelUpdate.Status.INVALID)
    listed = in_json(said, "updates", model.pk)
    assert [(row["status"], row["examples"]) for row in listed] == [
        ("invalid", None),
        ("pending", 1),
    ]


@pytest.mark.parametrize("name", ["model.json", "model.NPZ"])
def test_a_file_is_not_named_like_another_format(
    said: Said, line: Line, tmp_path: Path, name: str
) -> None:
    """`download` refuses a suffix that says what the file is not, and tells the one that fits."""
    with pytest.raises(CommandError, match=r"name it model\.safetensors"):
        said("download", line[0].pk, "--out", tmp_path / name)
    assert not (tmp_path / name).exists()
    said("download", line[0].pk, "--out", tmp_path / "model")
