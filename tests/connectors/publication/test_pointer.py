"""`latest.json`: what a client reads instead of the database."""

from __future__ import annotations

import json
from datetime import timedelta
from io import StringIO
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import pytest
import safetensors.numpy
from django.core.management import call_command
from django.utils import timezone

from aggregation.errors import TemporarilyUnavailable
from connectors.publication.pointer import stale_pointers, write_pointer
from connectors.storage.filesystem import FileObjects
from connectors.storage.garbage import collect_garbage
from connectors.storage.keys import pointer_key
from connectors.storage.port import Objects, PreconditionFailed
from connectors.workflow.aggregator import DEFAULT_SETTINGS, DjangoAggConnector
from models_app.models import FederatedModel
from tests.factories import (
    client_id,
    filled,
    get,
    make_model,
    put,
    ready_update,
    s3_record,
)
from tests.test_lambda_handler import invoke, payload, scheduled

pytestmark = pytest.mark.usefixtures("database", "cloud")


@pytest.fixture
def objects() -> Objects:
    return DjangoAggConnector(DEFAULT_SETTINGS).model_data.objects


def pointer(model: FederatedModel) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(get(pointer_key(model.pk)))
    return told


def with_aggregate(**fields: Any) -> FederatedModel:
    model = make_model(1, **fields)
    publish(model)
    return model


def publish(model: FederatedModel, value: float = 1.0) -> None:
    ready_update(model, 1, filled(value))
    assert invoke(scheduled(model))["status"] == "published"


def test_a_published_round_tells_its_aggregate() -> None:
    """After a round, the pointer names the aggregate, its number, its key and the ETag of its bytes."""
    model = with_aggregate()
    aggregate = model.aggregates.get()
    told = pointer(model)
    assert told["aggregate_id"] == aggregate.pk
    assert (told["number"], told["key"], told["schema"]) == (1, aggregate.result.name, 1)
    assert told["etag"] == put(told["key"], get(told["key"]))


def test_a_model_without_rounds_tells_its_initial_weights(objects: Objects) -> None:
    """Before the first round, the pointer names the initial model as number 0 without an aggregate."""
    model = make_model(1, initial=filled(0.5))
    assert stale_pointers() == [model.pk]
    invoke(payload("schedule-sweep"))
    told = pointer(model)
    assert (told["number"], told["aggregate_id"]) == (0, None)
    assert model.current_artifact
    assert told["key"] == model.current_artifact.values.name
    assert stale_pointers() == []


def test_a_model_without_any_weights_tells_nothing(objects: Objects) -> None:
    """Where there is nothing to train from there is no pointer, and no sweep looks for one."""
    model = make_model(1)
    assert write_pointer(objects, model.pk) is None
    assert stale_pointers() == []


def test_a_pointer_that_was_not_written_is_written_by_the_sweep(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A function that dies between publishing and telling leaves the telling to the next sweep."""
    with monkeypatch.context() as patch:
        patch.setattr("connectors.usecases.after_round.write_pointer", lambda *_: 1 / 0)
        model = with_aggregate()
    assert stale_pointers() == [model.pk]
    invoke(payload("schedule-sweep"))
    assert pointer(model)["number"] == 1
    assert stale_pointers() == []


def test_what_is_done_does_not_fail_by_its_pointer(
    objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command that could not write the pointer says so; the next sweep writes it."""
    from connectors.publication import pointer as latest

    model = make_model(1)
    ready_update(model, 1, filled(1.0))
    err = StringIO()
    with monkeypatch.context() as patch:
        patch.setattr(latest, "write_pointer", unreachable)
        call_command("run_round", str(model.pk), stdout=StringIO(), stderr=err)
    assert "is written by the next sweep, for now: storage is away" in err.getvalue()
    assert stale_pointers() == [model.pk]
    call_command("sweep", stdout=StringIO())
    assert pointer(model)["number"] == 1


def unreachable(*_: Any) -> None:
    raise TemporarilyUnavailable("storage is away")


def test_the_sweep_by_hand_tells_what_was_not_told() -> None:
    """`manage.py sweep` writes the pointers that are missing; with --dry-run it only says so."""
    model = make_model(1, initial=filled(0.5))
    call_command("sweep", "--dry-run")
    assert stale_pointers() == [model.pk]
    call_command("sweep")
    assert pointer(model)["number"] == 0


def test_who_comes_late_does_not_turn_the_pointer_back(
    objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that was prepared for an older aggregate loses to the newer one that is there."""
    from connectors.publication import pointer as latest

    model = with_aggregate()
    old = latest._read(objects, model.pk)
    publish(model, 2.0)
    monkeypatch.setattr(latest, "_read", lambda *_: old)
    write_pointer(objects, model.pk)
    assert pointer(model)["number"] == 2
    model.refresh_from_db()
    assert model.pointer_number == 2


def test_a_write_that_was_outrun_is_tried_against_what_is_there(objects: Objects) -> None:
    """Between reading and writing another may write: the loser reads again, and both agree."""
    from connectors.publication import pointer as latest

    model = with_aggregate()
    key = pointer_key(model.pk)
    older = get(key)
    publish(model, 2.0)
    newer, raced = get(key), []

    class Racing:
        """Storage in which somebody writes the newer pointer just before the first write."""

        def __getattr__(self, name: str) -> Any:
            return getattr(objects, name)

        def replace(self, key: str, data: bytes, *, etag: str) -> None:
            if not raced:
                raced.append(key)
                put(key, newer)
            objects.replace(key, data, etag=etag)

    put(key, older)
    assert latest.write_pointer(Racing(), model.pk)  # type: ignore[arg-type]
    assert raced
    assert pointer(model)["number"] == 2


def from_before(model: FederatedModel, **told: Any) -> None:
    """The pointer is one that another database had written to the same bucket."""
    body = pointer(model) | {"number": 50, "aggregate_id": 10**6, "key": "aggregates/x"} | told
    put(pointer_key(model.pk), json.dumps(body).encode())


@pytest.mark.parametrize(
    "told", [{}, {"number": 10**30}, {"number": 1}, {"aggregate_id": None}, {"aggregate_id": [1]}]
)
def test_a_number_that_the_database_does_not_know_is_not_believed(told: Any) -> None:
    """A pointer left in the bucket by another database gives way, however high its number is."""
    model = with_aggregate()
    from_before(model, **told)
    write_pointer(DjangoAggConnector(DEFAULT_SETTINGS).model_data.objects, model.pk)
    aggregate, now = model.aggregates.get(), pointer(model)
    assert (now["number"], now["aggregate_id"]) == (1, aggregate.pk)
    assert now["key"] == aggregate.result.name


@pytest.mark.parametrize("field", ["aggregate_id", "key"])
def test_a_number_is_that_of_its_own_aggregate(objects: Objects, field: str) -> None:
    """The number of the model's latest aggregate with another's id, or another's weights, gives way."""
    model = with_aggregate()
    right = pointer(model)
    from_before(model, **{**right, field: 10**6 if field == "aggregate_id" else "aggregates/x"})
    write_pointer(objects, model.pk)
    assert pointer(model) == right


def test_the_number_of_another_model_is_not_believed(objects: Objects) -> None:
    """What is told must be an aggregate of this model."""
    model, other = with_aggregate(), with_aggregate()
    publish(other, 2.0)
    put(pointer_key(model.pk), get(pointer_key(other.pk)))
    write_pointer(objects, model.pk)
    assert pointer(model)["aggregate_id"] == model.aggregates.get().pk


def test_after_a_restore_the_pointer_is_put_right_by_the_sweep() -> None:
    """The database says that its latest is told, while the pointer is ahead: the first update that is
    refused for its unknown base has the next sweep look."""
    model = with_aggregate()
    from_before(model)
    assert stale_pointers() == []
    body = safetensors.numpy.save(filled(1.0))
    key = f"updates/{model.pk}/{client_id(1)}/a.safetensors"
    record = s3_record(key, put(key, body, {"base-aggregate": str(10**6)}), len(body))
    invoke({"Records": [record]})
    assert "is no aggregate" in model.model_updates.latest("pk").rejection_reason
    invoke(payload("schedule-sweep"))
    assert pointer(model)["number"] == 1
    assert stale_pointers() == []


@pytest.mark.parametrize("body", [b"", b"{}", b"[1]", b"\xff", b'{"number": "7"}', b"[" * 70_000])
def test_a_pointer_that_is_none_is_replaced(objects: Objects, body: bytes) -> None:
    """Whatever else is found at the pointer's place gives way to a pointer."""
    model = with_aggregate()
    put(pointer_key(model.pk), body)
    write_pointer(objects, model.pk)
    assert pointer(model)["number"] == 1


def test_the_pointer_is_no_leftover(objects: Objects) -> None:
    """No aggregate names the pointer, and still nobody collects it."""
    model = with_aggregate()
    assert collect_garbage(objects, timezone.now() + timedelta(hours=2)) == []
    assert pointer(model)["number"] == 1


def test_an_object_is_replaced_only_where_it_is_what_was_read(objects: Objects) -> None:
    """S3 refuses a conditional write to a place that was empty, or was not, or holds other bytes."""
    _outruns(objects)


def test_a_file_is_replaced_only_where_it_is_what_was_read(tmp_path: Path) -> None:
    """A directory refuses a conditional write just as S3 does."""
    _outruns(FileObjects(tmp_path))


def _outruns(objects: Objects) -> None:
    key = "aggregates/9/latest.json"
    with pytest.raises(PreconditionFailed):
        objects.replace(key, b"0", etag="absent")
    objects.replace(key, b"1", etag="")
    with pytest.raises(PreconditionFailed):
        objects.replace(key, b"22", etag="")
    first = objects.stat(key).etag
    objects.replace(key, b"333", etag=first)
    with pytest.raises(PreconditionFailed):
        objects.replace(key, b"4444", etag=first)
    assert objects.stat(key).size == 3


def test_of_many_writers_to_a_directory_one_wins(tmp_path: Path) -> None:
    """Of writers who all read the same, one writes and the others are told that they were outrun."""
    objects, start, won = FileObjects(tmp_path), Barrier(8), []
    objects.replace("a/latest.json", b"0", etag="")
    read = objects.stat("a/latest.json").etag

    def write(number: int) -> None:
        start.wait()
        try:
            objects.replace("a/latest.json", b"x" * (number + 2), etag=read)
        except PreconditionFailed:
            return
        won.append(number)

    writers = [Thread(target=write, args=[number]) for number in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(won) == 1
    assert objects.stat("a/latest.json").size == won[0] + 2
