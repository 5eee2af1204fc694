"""`latest.json`: it follows the database, whoever writes it, and states the settings of the model."""

from __future__ import annotations

import json
from datetime import timedelta
from io import StringIO
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import pytest
import safetensors.numpy
from django.conf import settings
from django.core.management import call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from aggregation.errors import TemporarilyUnavailable
from connectors import application
from connectors.publication.pointer import stale_pointers, write_pointer
from connectors.storage.filesystem import FileObjects
from connectors.storage.garbage import collect_garbage
from connectors.storage.keys import pointer_key
from connectors.storage.port import Objects, PreconditionFailed
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
    return application.objects()


def pointer(model: FederatedModel) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(get(pointer_key(model.pk)))
    return content


def with_aggregate(**fields: Any) -> FederatedModel:
    model = make_model(1, **fields)
    publish(model)
    return model


def publish(model: FederatedModel, value: float = 1.0) -> None:
    ready_update(model, 1, filled(value))
    assert invoke(scheduled(model))["status"] == "published"


def test_a_published_round_writes_the_pointer() -> None:
    """It names the aggregate, its number, its key and the ETag of its bytes."""
    model = with_aggregate()
    aggregate = model.aggregates.get()
    content = pointer(model)
    assert content["aggregate_id"] == aggregate.pk
    assert (content["number"], content["key"], content["schema"]) == (1, aggregate.result.name, 1)
    assert content["etag"] == put(content["key"], get(content["key"]))


def test_before_the_first_round_the_pointer_names_the_initial_model(objects: Objects) -> None:
    """The initial model has number 0 and no aggregate id."""
    model = make_model(1, initial=filled(0.5))
    assert stale_pointers() == [model.pk]
    invoke(payload("schedule-sweep"))
    content = pointer(model)
    assert (content["number"], content["aggregate_id"]) == (0, None)
    assert model.current_artifact
    assert content["key"] == model.current_artifact.values.name
    assert stale_pointers() == []


def test_a_model_without_weights_has_no_pointer(objects: Objects) -> None:
    """There is nothing to train from, and no sweep tries to write one."""
    model = make_model(1)
    assert write_pointer(objects, model.pk) is None
    assert stale_pointers() == []


def test_the_sweep_writes_a_pointer_that_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A function that dies between publishing and writing the pointer leaves it to the next sweep."""
    with monkeypatch.context() as patch:
        patch.setattr("connectors.usecases.after_round.write_pointer", lambda *_: 1 / 0)
        model = with_aggregate()
    assert stale_pointers() == [model.pk]
    invoke(payload("schedule-sweep"))
    assert pointer(model)["number"] == 1
    assert stale_pointers() == []


def test_a_command_does_not_fail_because_of_the_pointer(
    objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command that could not write the pointer says so; the next sweep writes it."""
    model = make_model(1)
    ready_update(model, 1, filled(1.0))
    err = StringIO()
    with monkeypatch.context() as patch:
        patch.setattr("connectors.usecases.after_round.write_pointer", unreachable)
        call_command("run_round", str(model.pk), stdout=StringIO(), stderr=err)
    assert "the next sweep repeats it: storage is away" in err.getvalue()
    assert stale_pointers() == [model.pk]
    call_command("sweep", stdout=StringIO())
    assert pointer(model)["number"] == 1


def unreachable(*_: Any) -> None:
    raise TemporarilyUnavailable("storage is away")


def test_the_sweep_command_writes_missing_pointers() -> None:
    """With --dry-run it only says so."""
    model = make_model(1, initial=filled(0.5))
    call_command("sweep", "--dry-run")
    assert stale_pointers() == [model.pk]
    call_command("sweep")
    assert pointer(model)["number"] == 0


def test_a_slow_writer_does_not_restore_an_older_pointer(
    objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that has read the database before a newer pointer was written must read it again."""
    from connectors.publication import pointer as module

    model = with_aggregate()
    read_pointer, read_state = module._read_pointer, module._model_state
    states: list[Any] = []

    def slow_read(model_id: int) -> Any:
        states.append(read_state(model_id))
        if len(states) == 1:  # Meanwhile, another writer publishes and writes the pointer.
            with monkeypatch.context() as patch:
                patch.setattr(module, "_model_state", read_state)
                publish(model, 2.0)
        return states[-1]

    put(pointer_key(model.pk), b"{}")
    monkeypatch.setattr(module, "_model_state", slow_read)
    assert read_pointer(objects, model.pk)
    assert write_pointer(objects, model.pk)
    assert [state["number"] for state in states] == [1, 2]
    assert pointer(model)["number"] == 2
    assert stale_pointers() == []


def test_a_writer_that_was_overtaken_tries_again(objects: Objects) -> None:
    """If another writes between reading and writing, the loser reads again, and both agree."""
    from connectors.publication import pointer as latest

    model = with_aggregate()
    key = pointer_key(model.pk)
    older = get(key)
    publish(model, 2.0)
    newer = get(key)
    raced: list[str] = []

    class Racing:
        """Storage in which another writer publishes just before the first write."""

        def __getattr__(self, name: str) -> Any:
            return getattr(objects, name)

        def replace(self, key: str, data: bytes, *, etag: str) -> None:
            if not raced:
                raced.append(key)
                put(key, newer)
            objects.replace(key, data, etag=etag)

    put(key, older)
    racing: Any = Racing()
    assert latest.write_pointer(racing, model.pk)
    assert raced
    assert pointer(model)["number"] == 2


def write_foreign_pointer(model: FederatedModel, **fields: Any) -> None:
    """Replace the pointer by one that another database has written to the same bucket."""
    body = pointer(model) | {"number": 50, "aggregate_id": 10**6, "key": "aggregates/x"} | fields
    put(pointer_key(model.pk), json.dumps(body).encode())


@pytest.mark.parametrize(
    "fields", [{}, {"number": 10**30}, {"number": 1}, {"aggregate_id": None}, {"aggregate_id": [1]}]
)
def test_a_pointer_of_another_database_is_replaced(fields: Any) -> None:
    """However high its number is, and whatever its fields contain."""
    model = with_aggregate()
    write_foreign_pointer(model, **fields)
    write_pointer(application.objects(), model.pk)
    aggregate, now = model.aggregates.get(), pointer(model)
    assert (now["number"], now["aggregate_id"]) == (1, aggregate.pk)
    assert now["key"] == aggregate.result.name


@pytest.mark.parametrize("field", ["aggregate_id", "key"])
def test_a_pointer_with_one_wrong_field_is_replaced(objects: Objects, field: str) -> None:
    """The right number with another aggregate's id or key is not enough."""
    model = with_aggregate()
    right = pointer(model)
    write_foreign_pointer(
        model, **{**right, field: 10**6 if field == "aggregate_id" else "aggregates/x"}
    )
    write_pointer(objects, model.pk)
    assert pointer(model) == right


def test_the_pointer_of_another_model_is_replaced(objects: Objects) -> None:
    """A pointer must name an aggregate of its own model."""
    model, other = with_aggregate(), with_aggregate()
    publish(other, 2.0)
    put(pointer_key(model.pk), get(pointer_key(other.pk)))
    write_pointer(objects, model.pk)
    assert pointer(model)["aggregate_id"] == model.aggregates.get().pk


def test_after_a_restore_the_sweep_corrects_the_pointer() -> None:
    """The first update that is rejected for an unknown base lets the next sweep compare them."""
    model = with_aggregate()
    write_foreign_pointer(model)
    assert stale_pointers() == []
    body = safetensors.numpy.save(filled(1.0))
    key = f"updates/{model.pk}/{client_id(1)}/a.safetensors"
    record = s3_record(key, put(key, body, {"base-aggregate": str(10**6)}), len(body))
    invoke({"Records": [record]})
    assert "is no aggregate" in model.model_updates.latest("pk").rejection_reason
    invoke(payload("schedule-sweep"))
    assert pointer(model)["number"] == 1
    assert stale_pointers() == []


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[1]", b"\xff", b'{"number": "7"}', b"[" * (3 << 20)]
)
def test_an_object_that_is_no_pointer_is_replaced(objects: Objects, body: bytes) -> None:
    """Whatever object has the pointer's key is replaced."""
    model = with_aggregate()
    put(pointer_key(model.pk), body)
    write_pointer(objects, model.pk)
    assert pointer(model)["number"] == 1


def test_the_pointer_states_what_the_model_expects(objects: Objects) -> None:
    """A client learns from it what to send, and under which conditions it counts."""
    model = make_model(
        1,
        initial=filled(0.5),
        aggregator="trimmed_mean",
        aggregator_args={"beta": 0.1},
        requirement="require_x_updates",
        requirement_args=[1],
        max_num_examples=100,
        furthest_base_agg=3,
    )
    write_pointer(objects, model.pk)
    assert pointer(model) == {
        **pointer(model),
        "update_kind": "weights",
        "dtypes": ["F32"],
        "layout": [
            {"name": "b", "dtype": "F32", "shape": [3]},
            {"name": "w", "dtype": "F32", "shape": [2, 3]},
        ],
        "rule": "trimmed_mean",
        "rule_args": {"beta": 0.1},
        "requirement": "require_x_updates",
        "requirement_args": [1],
        "max_num_examples": 100,
        "furthest_base_agg": 3,
        "max_update_bytes": settings.MAX_UPDATE_BYTES,
    }


def test_a_layout_of_very_many_tensors_is_left_out(
    objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients that poll would otherwise fetch megabytes each time."""
    monkeypatch.setattr("connectors.publication.pointer.MAX_LAYOUT_BYTES", 50)
    model = make_model(1, initial=filled(0.5))
    write_pointer(objects, model.pk)
    assert (pointer(model)["layout"], pointer(model)["dtypes"]) == (None, ["F32"])


@pytest.mark.parametrize(
    ("field", "name", "value"),
    [
        ("aggregator", "rule", "coordinate_median"),
        ("requirement", "requirement", "all_clients"),
        ("update_kind", "update_kind", "differences"),
        ("max_num_examples", "max_num_examples", 5),
        ("furthest_base_agg", "furthest_base_agg", 2),
    ],
)
def test_changed_settings_make_the_pointer_stale(field: str, name: str, value: Any) -> None:
    """However a setting is changed, the next sweep writes it into the pointer."""
    model = with_aggregate()
    assert stale_pointers() == []
    FederatedModel.objects.filter(pk=model.pk).update(**{field: value})
    assert stale_pointers() == [model.pk]
    invoke(payload("schedule-sweep"))
    assert pointer(model)[name] == value
    assert stale_pointers() == []


def test_stale_pointers_are_found_in_one_statement() -> None:
    """The number of statements depends neither on the number of models nor on their aggregates."""
    for _ in range(3):
        with_aggregate()
    with CaptureQueriesContext(connection) as statements:
        assert stale_pointers() == []
    assert len(statements) == 1


def test_the_pointer_is_not_garbage(objects: Objects) -> None:
    """No aggregate names the pointer, and it is not collected."""
    model = with_aggregate()
    assert collect_garbage(objects, timezone.now() + timedelta(hours=2)) == []
    assert pointer(model)["number"] == 1


def test_an_object_is_replaced_only_if_it_is_the_one_that_was_read(objects: Objects) -> None:
    """S3 refuses a conditional write if the object has appeared, is gone or has other bytes."""
    _check_conditional_writes(objects)


def test_a_file_is_replaced_only_if_it_is_the_one_that_was_read(tmp_path: Path) -> None:
    """A directory refuses a conditional write as S3 does."""
    _check_conditional_writes(FileObjects(tmp_path))


def _check_conditional_writes(objects: Objects) -> None:
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


def test_one_of_many_writers_to_a_directory_succeeds(tmp_path: Path) -> None:
    """Of eight writers that have read the same file, one writes and the others fail."""
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
