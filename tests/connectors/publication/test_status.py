"""The documents that tell clients what became of their updates."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.db import connection
from django.test import override_settings
from django.test.utils import CaptureQueriesContext

import federated_client.status
from aggregation.errors import TemporarilyUnavailable
from connectors.publication import status
from connectors.publication.progress import MAX_REFRESHED
from connectors.publication.status import (
    MAX_UPDATES,
    changed_updates,
    models_with_changes,
    write_statuses,
)
from connectors.storage.keys import status_key
from connectors.storage.port import Objects
from connectors.storage.weights import default_objects
from models_app.models import FederatedModel, ModelUpdate
from tests.factories import client_id, filled, get, make_model, ready_update, upload
from tests.test_lambda_handler import invoke, payload

pytestmark = pytest.mark.usefixtures("database", "cloud")


@pytest.fixture
def objects() -> Objects:
    return default_objects()


def document(model: FederatedModel, client: int = 1) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(get(status_key(model.pk, client_id(client))))
    return found


def update_of(model: FederatedModel, client: int, **fields: Any) -> ModelUpdate:
    """Create an update without an object."""
    number = ModelUpdate.objects.count()
    return ModelUpdate.objects.create(
        federated_model=model, client_id=client_id(client), data=f"updates/{number}.npz", **fields
    )


def test_a_ready_update_waits_for_others(objects: Objects) -> None:
    """The document states what a round needs and how many updates are ready."""
    model = make_model(3, requirement="require_x_updates", requirement_args=[3])
    update = ready_update(model, 1, filled(1.0))
    assert write_statuses(objects, model.pk) == 1
    assert document(model) == {
        "format": 1,
        "model": model.pk,
        "client": str(client_id(1)),
        "updates": [
            {
                "key": update.data.name,
                "state": "registered",
                "reason": "",
                "aggregate": None,
                "weight": None,
                "at": update.uploaded_on.isoformat(),
            }
        ],
        "ready": 1,
        "requirement": "3 updates",
        "needed": 3,
        "deadline": None,
    }


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({"status": ModelUpdate.Status.FAILED}, "registered"),
        ({"status": ModelUpdate.Status.RUNNING}, "running"),
        ({"status": ModelUpdate.Status.COMPLETE}, "complete"),
        ({"status": ModelUpdate.Status.INVALID, "rejection_reason": "nan in 'w'"}, "rejected"),
        (
            {"status": ModelUpdate.Status.INVALID, "rejection_reason": "superseded by update 2"},
            "superseded",
        ),
    ],
)
def test_each_status_is_named(objects: Objects, fields: Any, state: str) -> None:
    """A superseded update is not called rejected, since its client has sent a newer one."""
    model = make_model(1)
    update_of(model, 1, **fields)
    write_statuses(objects, model.pk)
    (shown,) = document(model)["updates"]
    assert (shown["state"], shown["reason"]) == (state, fields.get("rejection_reason", ""))


@pytest.mark.parametrize(
    ("fields", "words", "needed"),
    [
        ({}, "1 update", 1),
        ({"requirement": "all_clients"}, "an update from each of the 4 clients", 4),
        (
            {"requirement": "require_fraction", "requirement_args": [0.5]},
            "2 updates: 50 % of 4 clients",
            2,
        ),
        (
            {"requirement": "quorum", "requirement_args": [2, 60]},
            "4 updates, or 2 after 1 hour",
            4,
        ),
    ],
)
def test_the_requirement_is_stated_in_words(
    objects: Objects, fields: Any, words: str, needed: int
) -> None:
    """Whatever the requirement is, the document says how many updates a round needs now."""
    model = make_model(4, **fields)
    update_of(model, 1)
    write_statuses(objects, model.pk)
    assert (document(model)["requirement"], document(model)["needed"]) == (words, needed)


def test_a_document_shows_the_newest_updates(objects: Objects) -> None:
    """Its size does not grow with the history of a client."""
    model = make_model(1)
    updates = [update_of(model, 1) for _ in range(MAX_UPDATES + 3)]
    write_statuses(objects, model.pk)
    shown = [update["key"] for update in document(model)["updates"]]
    assert shown == [update.data.name for update in reversed(updates[3:])]


def test_only_changed_documents_are_written(objects: Objects) -> None:
    """A second call writes nothing; a changed status is found however it was changed."""
    model = make_model(40)
    updates = [update_of(model, client) for client in range(1, 41)]
    assert write_statuses(objects, model.pk) == 40
    assert write_statuses(objects, model.pk) == 0
    ModelUpdate.objects.filter(pk=updates[3].pk).update(status=ModelUpdate.Status.COMPLETE)
    assert models_with_changes() == [model.pk]
    assert write_statuses(objects, model.pk) == 1
    assert document(model, 4)["updates"][0]["state"] == "complete"
    assert models_with_changes() == []


def test_few_waiting_clients_see_how_many_are_ready(objects: Objects) -> None:
    """While few wait, each new update is shown to all of them; among many, only to its client."""
    model = make_model(MAX_REFRESHED + 2, requirement="all_clients")
    for client in range(1, MAX_REFRESHED + 3):
        update_of(model, client)
        assert write_statuses(objects, model.pk) == (client if client <= MAX_REFRESHED else 1)
    assert document(model, 1)["ready"] == MAX_REFRESHED


def test_a_document_that_cannot_be_written_is_written_later(objects: Objects) -> None:
    """The other documents are written, and the error is raised once they are."""
    model = make_model(2)
    for client in (1, 2):
        update_of(model, client)
    failing = status_key(model.pk, client_id(1))

    class Failing:
        """Storage that refuses one document."""

        def put_json(self, key: str, data: bytes) -> None:
            if key == failing:
                raise TemporarilyUnavailable("503 Slow Down")
            objects.put_json(key, data)

    with pytest.raises(TemporarilyUnavailable, match="1 status documents not written: 503"):
        write_statuses(Failing(), model.pk)  # type: ignore[arg-type]
    assert document(model, 2)["updates"]
    assert models_with_changes() == [model.pk]
    assert write_statuses(objects, model.pk) == 2
    assert document(model, 1)["updates"]


def test_a_change_while_documents_are_written_is_not_lost(objects: Objects) -> None:
    """A slow writer may replace a newer document, which is then written again."""
    model = make_model(1)
    update = update_of(model, 1)

    class Overtaken:
        """Storage in which another process settles the update, and writes, before the first write."""

        def put_json(self, key: str, data: bytes) -> None:
            ModelUpdate.objects.filter(pk=update.pk).update(status=ModelUpdate.Status.COMPLETE)
            write_statuses(objects, model.pk)
            objects.put_json(key, data)

    with override_settings(READ_THREADS=1):
        in_this_thread(Overtaken(), model)
    assert document(model)["updates"][0]["state"] == "registered"
    assert models_with_changes() == [model.pk]
    write_statuses(objects, model.pk)
    assert document(model)["updates"][0]["state"] == "complete"


def in_this_thread(objects: Any, model: FederatedModel) -> None:
    """Write the documents without threads, which have database connections of their own."""

    class Pool:
        def __init__(self, *_: Any) -> None: ...
        def __enter__(self) -> Pool:
            return self

        def __exit__(self, *_: Any) -> None: ...
        def map(self, function: Any, items: Any) -> Any:
            return map(function, items)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(status, "ThreadPoolExecutor", Pool)
        write_statuses(objects, model.pk)


def test_the_number_of_statements_is_constant(objects: Objects) -> None:
    """It depends neither on the number of clients nor on that of their updates."""
    counts = []
    for clients in (2, 60):
        model = make_model(clients)
        for client in range(1, clients + 1):
            update_of(model, client)
        ModelUpdate.objects.filter(federated_model=model, client_id=client_id(1)).update(
            status=ModelUpdate.Status.COMPLETE
        )
        with CaptureQueriesContext(connection) as statements:
            assert write_statuses(objects, model.pk) == clients
        counts.append(len(statements))
        assert all(len(each["sql"]) < 20_000 for each in statements)
    assert counts[1] <= counts[0] <= 9


def test_the_client_package_reads_the_document(objects: Objects) -> None:
    """Server and client agree on the format and on the key."""
    model = make_model(3, requirement="all_clients")
    update = ready_update(model, 1, filled(1.0))
    write_statuses(objects, model.pk)
    key = federated_client.status.status_key(model.pk, client_id(1))
    read = federated_client.status.parse_status(get(key))
    assert read
    assert str(read) == "1 of 3 updates are ready"
    own = read.of(str(update.data.name))
    assert own
    assert own.state == "registered"


def test_a_rejected_client_learns_the_reason_at_once() -> None:
    """The invocation that rejects an update writes its client's document."""
    model = make_model(2, requirement="all_clients", initial=filled(0.0))
    invoke({"Records": [upload(model, 1, {"w": filled(0.0)["w"]})]})
    (shown,) = document(model)["updates"]
    assert shown["state"] == "rejected"
    assert "tensor 'b'" in shown["reason"]


def test_after_a_round_clients_see_what_became_of_their_updates() -> None:
    """Used and superseded updates are shown, with the aggregate that contains the update and its
    weight there."""
    model = make_model(2, requirement="all_clients", initial=filled(0.0))
    records = [upload(model, client, filled(1.0), num_examples=client) for client in (1, 1, 2)]
    invoke({"Records": records[:2]})
    assert [update["state"] for update in document(model)["updates"]] == [
        "registered",
        "registered",
    ]
    invoke({"Records": records[2:]})
    aggregate = model.aggregates.get()
    newest, oldest = document(model)["updates"]
    assert (newest["state"], newest["aggregate"]) == ("complete", aggregate.pk)
    assert (oldest["state"], oldest["aggregate"]) == ("superseded", None)
    assert document(model, 2)["updates"][0]["aggregate"] == aggregate.pk
    weights = [document(model, client)["updates"][0]["weight"] for client in (1, 2)]
    assert weights == [1 / 3, 2 / 3]
    assert oldest["weight"] is None


def test_an_update_that_the_rule_left_out_has_no_weight(objects: Objects) -> None:
    """It is part of the round, and its client sees that it did not count."""
    arguments = {"aggregator": "krum", "aggregator_args": {"f": 1}}
    model = make_model(5, requirement="all_clients", initial=filled(0.0), **arguments)
    values = {1: 1.0, 2: 1.0, 3: 1.0, 4: 100.0, 5: 1.0}
    invoke({"Records": [upload(model, client, filled(each)) for client, each in values.items()]})
    (shown,) = document(model, 4)["updates"]
    assert (shown["state"], shown["weight"]) == ("complete", 0.0)


def test_the_sweep_writes_what_was_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """An invocation that dies, or whose storage fails, leaves the documents to the sweep."""
    model = make_model(2, requirement="all_clients")
    with monkeypatch.context() as patch:
        patch.setattr("connectors.usecases.after_round.write_statuses", lambda *_: 1 / 0)
        invoke({"Records": [upload(model, 1, filled(1.0))]})
    assert models_with_changes() == [model.pk]
    invoke(payload("schedule-sweep"))
    assert document(model)["updates"][0]["state"] == "registered"


def test_switched_off_nothing_is_written(objects: Objects) -> None:
    """Updates that were registered while the setting was off never get a document."""
    model = make_model(1)
    with override_settings(CLIENT_STATUS=False):
        update_of(model, 1)
    assert not changed_updates().exists()
    assert write_statuses(objects, model.pk) == 0
