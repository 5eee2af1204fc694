"""`progress.json`: how many updates are ready, and when fewer are enough."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.utils import timezone

from aggregation.errors import TemporarilyUnavailable
from connectors import application
from connectors.publication import progress
from connectors.publication.progress import read_progress, write_progress
from connectors.storage.garbage import collect_garbage
from connectors.storage.keys import progress_key
from models_app.models import FederatedModel, ModelUpdate
from tests.factories import filled, get, make_model, put, ready_update, upload
from tests.test_lambda_handler import invoke, payload

pytestmark = pytest.mark.usefixtures("database", "cloud")


@pytest.fixture(autouse=True)
def with_api(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("django.conf.settings.CLIENT_API", True)


def document(model: FederatedModel) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(get(progress_key(model.pk)))
    return found


def test_it_follows_uploads_and_rounds() -> None:
    """An upload adds one, and the round that uses it begins again at none."""
    model = make_model(2, requirement="all_clients", initial=filled(0.0))
    seen = []
    for client in (1, 2):
        invoke({"Records": [upload(model, client, filled(1.0))]})
        seen.append(document(model))
    assert seen == [
        {
            "ready": ready,
            "requirement": "an update from each of the 2 clients",
            "needed": 2,
            "deadline": None,
        }
        for ready in (1, 0)
    ]


def test_a_quorum_has_a_deadline() -> None:
    """It is the time from which the oldest ready update has waited long enough."""
    model = make_model(3, requirement="quorum", requirement_args=[2, 30])
    assert read_progress(model.pk)[0].deadline is None
    update = ready_update(model, 1, filled(1.0))
    write_progress(application.objects(), model.pk)
    deadline = datetime.fromisoformat(document(model)["deadline"])
    assert deadline == update.created_on + timedelta(minutes=30)
    ModelUpdate.objects.update(created_on=update.created_on - timedelta(minutes=31))
    late = read_progress(model.pk)[0]
    assert (late.requirement, late.needed) == ("3 updates, or 2 after 30 minutes", 2)


def test_a_sum_of_masked_updates_needs_a_minimum() -> None:
    """Fewer updates than min_cohort start no round, even if they meet the requirement."""
    masked = {"keeper": "a1" * 32, "queue": "https://sqs.example/keeper", "clip_norm": 1.0}
    model = make_model(
        4,
        requirement="require_x_updates",
        requirement_args=[2],
        aggregator="unweighted_mean",
        update_kind="differences",
        initial=filled(0.0),
        secure_aggregation={**masked, "min_cohort": 3},
    )
    found = read_progress(model.pk)[0]
    assert (found.requirement, found.needed) == ("2 updates; min_cohort is 3", 3)


def test_commands_and_the_sweep_write_it() -> None:
    """A new model has the document before its first update, and a changed requirement is shown."""
    model = make_model(3, initial=filled(0.0))
    invoke(payload("schedule-sweep"))
    assert document(model)["needed"] == 1
    arguments = ("--requirement", "all_clients")
    call_command("set_model", str(model.pk), *arguments, stdout=StringIO())
    assert document(model) == {
        "ready": 0,
        "requirement": "an update from each of the 3 clients",
        "needed": 3,
        "deadline": None,
    }


def test_without_the_api_nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """A federation whose clients use the bucket pays nothing for it."""
    monkeypatch.setattr("django.conf.settings.CLIENT_API", False)
    model = make_model(1, initial=filled(0.0), requirement="all_clients")
    invoke(payload("schedule-sweep"))
    invoke({"Records": [upload(model, 1, filled(1.0))]})
    listed = application.objects().listing("aggregates/")
    assert progress_key(model.pk) not in [each.key for each in listed]


def test_a_slow_writer_does_not_restore_older_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that was overtaken reads the database again."""
    model, objects = make_model(2), application.objects()
    read = progress.read_progress

    def slow_read(model_id: int) -> Any:
        found = read(model_id)
        if not ModelUpdate.objects.exists():
            ready_update(model, 1, filled(1.0))
            write_progress(objects, model.pk)
        return found

    monkeypatch.setattr(progress, "read_progress", slow_read)
    write_progress(objects, model.pk)
    assert document(model)["ready"] == 1


def test_a_writer_gives_up_among_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """After some attempts the caller is asked to try again."""
    model = make_model(1)
    read = progress.read_progress

    def overtaken(model_id: int) -> Any:
        put(progress_key(model_id), timezone.now().isoformat().encode())
        return read(model_id)

    monkeypatch.setattr(progress, "read_progress", overtaken)
    with pytest.raises(TemporarilyUnavailable, match="many at once"):
        write_progress(application.objects(), model.pk)


def test_it_is_not_garbage() -> None:
    """No aggregate names it, and it is not collected."""
    model = make_model(1)
    write_progress(application.objects(), model.pk)
    assert collect_garbage(application.objects(), timezone.now() + timedelta(hours=2)) == []
    assert document(model)["ready"] == 0
