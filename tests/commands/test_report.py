"""`report`: the overview of a model as text, as JSON and as one HTML file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.management import CommandError
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from models_app.models import FederatedModel, ModelAggregate, ModelUpdate
from tests.factories import filled, make_model, ready_update

pytestmark = pytest.mark.usefixtures("database", "cloud")
RunCommand = Callable[..., str]
Lineage = list[ModelAggregate]

#: Attributes by which a document loads something.
LOADING = {"src", "href", "srcset", "data", "action", "background", "poster", "xlink:href"}


class Reader(HTMLParser):
    """The tags, the attributes and the text of a document; checks that its elements are closed."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self._open: list[str] = []
        self.feed(document)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in ("meta", "link", "br"):
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_overview_is_printed(run_command: RunCommand, lineage: Lineage) -> None:
    """The text has the figures and the alerts; the JSON everything that the page shows."""
    model = lineage[0].federated_model
    run_command("pause", model.pk, "--reason", "review")
    text = run_command("report", model.pk)
    assert re.search(r"^Updates +0 of 1 update ready: ", text, re.MULTILINE)
    assert "Paused: review" in text
    document = json.loads(run_command("report", model.pk, "--json"))
    assert [point["number"] for point in document["curve"]["points"]] == [1, 2, 3]
    assert document["card"]["alerts"][0]["text"] == "Paused: review"


def test_the_document_is_self_contained(run_command: RunCommand, lineage: Lineage) -> None:
    """It loads nothing and has no script, and shows what clients wrote as text."""
    model = lineage[0].federated_model
    FederatedModel.objects.filter(pk=model.pk).update(name="a <script>alert(1)</script>")
    ready_update(
        model,
        1,
        filled(1.0),
        status=ModelUpdate.Status.INVALID,
        rejection_reason="<img src=x onerror=alert(1)>",
    )
    document = run_command("report", model.pk, "--html")
    found = Reader(document)
    assert document.startswith("<!doctype html>")
    assert not found.tags & {"script", "link", "img", "iframe", "object", "embed", "image", "use"}
    assert not found.attributes & LOADING
    assert not any(name.startswith("on") for name in found.attributes)
    assert not re.search(r"url\(|@import|https?:", document)
    assert "a <script>alert(1)</script>" in found.text
    assert "<img src=x onerror=alert(1)>" in found.text
    assert {"svg", "table", "figure"} <= found.tags


def test_the_document_is_written_to_a_file(
    run_command: RunCommand, lineage: Lineage, tmp_path: Path
) -> None:
    """A file is replaced with --force only, and --out is for the document."""
    model, out = lineage[0].federated_model, tmp_path / "report.html"
    assert "bytes in" in run_command("report", model.pk, "--html", "--output", out)
    assert "Clients of each round" in out.read_text()
    with pytest.raises(CommandError, match="exists: choose another name"):
        run_command("report", model.pk, "--html", "--out", out)
    run_command("report", model.pk, "--html", "--out", out, "--force")
    with pytest.raises(CommandError, match="add --html"):
        run_command("report", model.pk, "--out", tmp_path / "other")


def test_no_file_is_written_in_the_function(
    run_command: RunCommand, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In the function, the document is printed: a file there cannot be reached."""
    model = make_model(1)
    monkeypatch.setattr(settings, "FUNCTION_MEMORY_MB", 1769)
    with pytest.raises(CommandError, match="report --html"):
        run_command("report", model.pk, "--html", "--out", tmp_path / "report.html")
    assert "No round has ended yet" in run_command("report", model.pk, "--html")


def history(rounds: int, text: str) -> FederatedModel:
    """Return a model with a history in which every text is as long as given."""
    model = make_model(40, aggregator="norm_filtered_mean")
    now = timezone.now()
    parent: Any = None
    for number in range(1, rounds + 1):
        parent = model.aggregates.create(number=number, result=f"{number}", parent=parent)
        times: dict[str, Any] = {"started_on": now, "finished_on": now, "lease_expires_at": now}
        made = {**times, "number": number, "updates_used": 40}
        made_by = model.rounds.create(
            state=1, aggregate=parent, config_snapshot={"rule": f"{text}{number}"}, **made
        )
        model.rounds.create(state=2, error=text, **made)
        ModelUpdate.objects.bulk_create(
            ModelUpdate(
                federated_model=model,
                client=client,
                data=f"{model.pk}/{number}/{client.pk}",
                status=ModelUpdate.Status.COMPLETE if n % 2 else ModelUpdate.Status.INVALID,
                rejection_reason="" if n % 2 else f"{text}{n}",
                norm=n + 1.0,
                round=made_by,
            )
            for n, client in enumerate(model.clients.order_by("pk"))
        )
    return model


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_the_size_and_the_statements_are_bounded(run_command: RunCommand) -> None:
    """However long the history and its texts are, the answer of a function can hold the document."""
    sizes, statements = [], []
    for rounds in (62, 90):
        model = history(rounds, "x" * 20_000)
        with CaptureQueriesContext(connection) as captured:
            sizes.append(len(run_command("report", model.pk, "--html")))
        statements.append(len(captured))
    assert statements[0] == statements[1]
    assert max(sizes) < 1_000_000
