"""How rows are printed."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable

import pytest
from django.core.management import call_command

from connectors.management import tables
from models_app.models import (
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


def test_tables_need_no_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without rich, which production does not need, or without a terminal, a table is plain text."""
    rows = [{"id": 1, "name": "digits"}]
    assert tables.table(rows, None) == "id  name\n1   digits\n"
    assert "─" in tables.table(rows, 80)
    monkeypatch.setitem(sys.modules, "rich", None)
    assert tables.table(rows, 80) == tables.table(rows, None)


REASON = "tensor 'fc.weight' is F32 [3, 4], the model's is F32 [3, 5], and so it cannot be averaged"


@pytest.mark.parametrize("width", [40, 80, 100, 120, 137, 144, 150, 200])
def test_nothing_is_cut_on_a_narrow_terminal(width: int) -> None:
    """Ids and heads stay on one line, and no word of a reason is lost, whatever the width."""
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
    table = tables.table(rows, width)
    for whole in ("client", "reason", "123456", str(client_id(1)), "2026-11-24 13:00:00"):
        assert whole in table
    assert all(word in table for word in REASON.split())
    drawn_to_fit = all(len(line) <= width for line in table.splitlines())
    assert drawn_to_fit is ("─" in table)


class Terminal(io.StringIO):
    """Standard output that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("columns", "drawn"), [("60", False), ("200", True)])
def test_a_table_is_drawn_if_it_fits(
    monkeypatch: pytest.MonkeyPatch, columns: str, drawn: bool
) -> None:
    """A command draws its table if the terminal is wide enough."""
    model = make_model(1)
    ready_update(model, 1, filled(1.0))
    monkeypatch.setenv("COLUMNS", columns)
    out = Terminal()
    call_command("updates", str(model.pk), stdout=out)
    assert ("─" in out.getvalue()) is drawn
    assert str(client_id(1)) in out.getvalue()
