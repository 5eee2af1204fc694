"""The number of statements and of S3 requests of a round."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from django.conf import settings
from django.db import connection
from django.test import override_settings
from django.test.utils import CaptureQueriesContext

from aggregation.round import run_round
from connectors import application
from models_app.models import Client, FederatedModel, ModelUpdate
from tests.factories import client_id, filled, make_model, ready_update, upload
from tests.faults.federation import tensors
from tests.faults.processes import PART_BYTES
from tests.test_lambda_handler import invoke, scheduled
from tests.untyped import default_storage

pytestmark = pytest.mark.usefixtures("database", "cloud")


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """Use a directory as storage, which does not change the statements."""
    folder = tmp_path / "storage"
    storage = {
        "BACKEND": "django.core.files.storage.FileSystemStorage",
        "OPTIONS": {"location": str(folder)},
    }
    with override_settings(STORAGES={**settings.STORAGES, "default": storage}):
        yield folder


def model_with(updates: int, folder: Path) -> FederatedModel:
    """Create a model with a ready update of each client; one in ten is bad."""
    model = make_model(0, requirement="require_fraction", requirement_args=[0.5])
    clients = [Client(pk=client_id(n)) for n in range(1, updates + 1)]
    Client.objects.bulk_create(clients, ignore_conflicts=True)
    model.clients.set(clients)
    good, bad = (safetensors.numpy.save(filled(value)) for value in (1.0, np.nan))
    made = []
    for number, client in enumerate(clients):
        path = folder / f"updates/{model.pk}/{client.pk}/update.safetensors"
        path.parent.mkdir(parents=True)
        path.write_bytes(good if number % 10 else bad)
        key = path.relative_to(folder).as_posix()
        made.append(ModelUpdate(federated_model=model, client=client, data=key))
    ModelUpdate.objects.bulk_create(made)
    return model


def statements_of_a_round(model: FederatedModel) -> list[str]:
    """Return the verb and the table of each statement of a round."""
    with CaptureQueriesContext(connection) as captured:
        answer = run_round(application.round_connector(), model.pk)
    assert answer.updates_rejected == answer.updates_used // 9
    assert answer.updates_used
    return [query["sql"][:50] for query in captured.captured_queries]


def test_the_statements_of_a_round_do_not_grow_with_its_updates(directory: Path) -> None:
    """A round of 500 updates, 50 of them bad, makes the statements of a round of 10."""
    few = statements_of_a_round(model_with(10, directory))
    many = statements_of_a_round(model_with(500, directory))
    assert few == many
    assert len(many) < 25


@contextmanager
def counted_requests() -> Iterator[Counter[str]]:
    """Count the S3 requests of the SDK by operation."""
    events = default_storage.connection.meta.client.meta.events
    counts: Counter[str] = Counter()

    def count(model: Any, **_: Any) -> None:
        counts[model.name] += 1

    events.register("before-call.s3", count)
    try:
        yield counts
    finally:
        events.unregister("before-call.s3", count)


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize("updates", [2, 5])
def test_the_requests_of_a_round_follow_from_its_chunks(
    updates: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each header and chunk of an update is read once, and each part of the result is stored once."""
    parts = 3
    monkeypatch.setattr("aggregation.engine.ranges.PART_BYTES", PART_BYTES)
    model = make_model(updates, initial=tensors(0), allow_aggregation=False)
    for client in range(1, updates + 1):
        invoke({"Records": [upload(model, client, tensors(client))]})
    FederatedModel.objects.update(allow_aggregation=True)
    with counted_requests() as counts:
        assert run_round(application.round_connector(), model.pk).updates_used == updates
    assert counts == {
        "HeadObject": 1,
        "GetObject": updates * (1 + parts) + 2,
        "CreateMultipartUpload": 1,
        "UploadPart": parts,
        "CompleteMultipartUpload": 1,
    }


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_result_of_one_part_is_stored_in_one_request() -> None:
    """A small result needs no multipart upload."""
    model = make_model(1, initial=filled(0.0))
    ready_update(model, 1, filled(1.0))
    with counted_requests() as counts:
        run_round(application.round_connector(), model.pk)
    assert {
        name: count for name, count in counts.items() if name not in ("GetObject", "HeadObject")
    } == {"PutObject": 1}


def duplicate() -> Any:
    """Return a message that was delivered before."""
    model = make_model(2, requirement="all_clients")
    event = {"Records": [upload(model, 1, filled(1.0))]}
    invoke(event)
    return event


def busy() -> Any:
    """Return a request for a model whose round is running."""
    model = make_model(1)
    ready_update(model, 1, filled(1.0))
    application.round_connector().claim_round(model.pk)
    return scheduled(model)


def waiting() -> Any:
    """Return a request for a model that misses an update of a client."""
    model = make_model(2, requirement="all_clients")
    ready_update(model, 1, filled(1.0))
    return scheduled(model)


def idle() -> Any:
    """Return a request for a model without ready updates."""
    return scheduled(make_model(1))


def paused() -> Any:
    """Return a request for a paused model."""
    model = make_model(1, allow_aggregation=False)
    ready_update(model, 1, filled(1.0))
    return scheduled(model)


@pytest.mark.parametrize("event", [duplicate, busy, waiting, idle, paused])
def test_an_event_without_effect_takes_at_most_three_statements(event: Any) -> None:
    """An event without effect takes at most three statements, none of which writes."""
    nothing = event()
    with CaptureQueriesContext(connection) as captured:
        invoke(nothing)
    asked = [query["sql"] for query in captured.captured_queries]
    assert 0 < len(asked) <= 3
    assert all(sql.startswith("SELECT") for sql in asked)
