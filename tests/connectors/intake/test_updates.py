"""Registration of updates: what uploads become, and that no upload raises an error."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from botocore.exceptions import ClientError
from django.db import connection
from django.test import override_settings
from django.test.utils import CaptureQueriesContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aggregation.errors import TemporarilyUnavailable
from connectors.intake.registration import IntakeResult, UnknownUpload
from connectors.intake.updates import UpdateIntake
from connectors.intake.upload import Upload
from connectors.runtime.events import MAX_SIZE
from connectors.workflow.model_data import DjangoModelDataConnector
from models_app.models import Client, FederatedModel, ModelUpdate
from tests import factories
from tests.conftest import empty_tables, using_database
from tests.connectors.intake.uploads import (
    GOOD,
    Status,
    accepted,
    new_aggregate,
    rejection_of,
    uploaded,
)
from tests.connectors.rounds.test_concurrent_rounds import in_thread
from tests.connectors.workflow.backends import as_npz
from tests.factories import SMALL, client_id, filled, make_model
from tests.untyped import default_storage

with_database = pytest.mark.usefixtures("database", "shared_cloud")

UUID = "11111111-1111-4111-8111-000000000001"

# Accepted


@with_database
def test_a_good_upload_becomes_a_pending_update(intake: UpdateIntake) -> None:
    """Size, ETag, version, count and base are stored with the update."""
    model = make_model(1, initial=SMALL)
    base = new_aggregate(model)
    before = datetime.now(UTC) - timedelta(seconds=2)
    upload = uploaded(model, metadata={"num-examples": "120", "base-aggregate": str(base.pk)})
    assert intake.register(upload) == IntakeResult(model_id=model.pk, client=str(client_id(1)))
    update = model.model_updates.get()
    assert (update.client_id, update.status) == (client_id(1), Status.PENDING)
    assert (update.data.name, update.storage_version) == (upload.key, upload.version)
    assert (update.size, update.etag, update.version_id) == (len(GOOD), upload.etag, upload.version)
    assert (update.num_examples, update.base_aggregate) == (120, base)
    assert before < update.uploaded_on < datetime.now(UTC) + timedelta(seconds=2)


@with_database
@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("u.safetensors", GOOD),
        ("U.SafeTensors", GOOD),
        ("round 1+2 ü.safetensors", GOOD),
        ("u.npz", as_npz(dict(SMALL))),
        ("u.json", b"[[[1, 2, 3], [4, 5, 6]], [7, 8, 9]]"),
    ],
)
@pytest.mark.parametrize("initial", [None, {"a": SMALL["w"], "b": SMALL["b"]}])
def test_every_format_is_accepted(
    intake: UpdateIntake, name: str, body: bytes, initial: Any
) -> None:
    """A model without weights accepts every format; a model with named tensors accepts named ones."""
    model = make_model(1, initial=initial)
    upload = uploaded(model, body=body, name=name)
    if initial:
        assert re.search("is missing|no names", rejection_of(intake, upload))
    else:
        accepted(intake, upload)


@with_database
def test_an_update_without_metadata_counts_one_example_of_the_initial_model(
    intake: UpdateIntake,
) -> None:
    """The metadata of an update are optional."""
    update = accepted(intake, uploaded(make_model(1)))
    assert (update.num_examples, update.base_aggregate) == (1, None)


@with_database
def test_an_unreadable_initial_model_does_not_reject_updates(intake: UpdateIntake) -> None:
    """The updates are kept, and the round fails."""
    model = make_model(1, initial=SMALL)
    assert model.current_artifact is not None
    factories.put(model.current_artifact.values.name, b"broken")
    accepted(intake, uploaded(model))


@with_database
def test_without_a_version_an_upload_is_identified_by_its_etag(intake: UpdateIntake) -> None:
    """The ETag distinguishes the uploads in a bucket without versions."""
    upload = replace(uploaded(make_model(1)), version="")
    assert accepted(intake, upload).storage_version == upload.etag


@with_database
def test_a_suspended_versioning_is_no_versioning(intake: UpdateIntake) -> None:
    """The version "null" is overwritten by the next upload, so it neither identifies nor is read."""
    update = accepted(intake, replace(uploaded(make_model(1)), version="null"))
    assert update.storage_version == update.etag


@with_database
def test_the_time_of_an_upload_is_that_of_its_event(intake: UpdateIntake) -> None:
    """S3's events have milliseconds, the object's own time only seconds."""
    time = datetime(2026, 11, 24, 8, 30, 0, 123000, tzinfo=UTC)
    model = make_model(1)
    assert accepted(intake, replace(uploaded(model), event_time=time)).uploaded_on == time
    rejected = replace(uploaded(model, name="u.txt"), event_time=time)
    rejection_of(intake, rejected)
    assert ModelUpdate.objects.get(data=rejected.key).uploaded_on == time


# Registered before


@with_database
def test_a_second_delivery_registers_nothing(intake: UpdateIntake) -> None:
    """The second delivery of an event changes nothing, although the object is gone."""
    model = make_model(1)
    good, bad = (
        uploaded(model, name="good.npz", body=as_npz(dict(SMALL))),
        uploaded(model, body=b""),
    )
    intake.register(good)
    intake.register(bad)
    default_storage.delete(good.key)
    for upload in (good, bad):
        again = IntakeResult(model_id=model.pk, client=str(client_id(1)), seen_before=True)
        assert intake.register(upload) == again
    assert model.model_updates.count() == 2


@with_database
def test_an_overwritten_object_is_another_update(intake: UpdateIntake) -> None:
    """Each version is an upload of its own, even with the same bytes."""
    model = make_model(1)
    first = uploaded(model)
    intake.register(first)
    second = uploaded(model)
    assert (first.key, first.etag) == (second.key, second.etag)
    assert intake.register(second) == IntakeResult(model_id=model.pk, client=str(client_id(1)))
    assert model.model_updates.count() == 2


@with_database
def test_simultaneous_deliveries_register_one_update(intake: UpdateIntake) -> None:
    """Of four simultaneous deliveries, all succeed and one update exists."""
    model = make_model(1)
    upload = uploaded(model)
    with ThreadPoolExecutor(4) as pool:
        deliveries = [pool.submit(in_thread(lambda: intake.register(upload))) for _ in range(4)]
    assert {each.result().reason for each in deliveries} == {""}
    assert model.model_updates.count() == 1


# Unknown


@pytest.mark.parametrize("key", ["", f"updates/0/{UUID}/u.npz", f"scores/1/{UUID}/1.json"])
def test_a_key_of_another_form_is_unknown(intake: UpdateIntake, key: str) -> None:
    """It is refused before the database is asked; `test_keys.py` has many more keys."""
    upload = Upload(bucket="federation", key=key, etag="x", version="", size=1)
    with pytest.raises(UnknownUpload, match="key is not of the form"):
        intake.register(upload)


@pytest.mark.parametrize("bucket", ["", "federation2", "FEDERATION", "federation/", "fédération"])
def test_another_bucket_is_unknown(intake: UpdateIntake, bucket: str) -> None:
    """Objects in buckets that the function does not serve are not looked at."""
    upload = Upload(bucket=bucket, key=f"updates/1/{UUID}/u.npz", etag="x", version="", size=1)
    with pytest.raises(UnknownUpload, match="is not served by this function"):
        intake.register(upload)


@pytest.mark.parametrize(
    ("etag", "version"),
    [
        ("", ""),
        ("x" * 256, ""),
        ("x", "v" * 256),
        ("x\n", "v"),
        ("x", "v\x00"),
        ("€", ""),
        ("x y", ""),
    ],
)
def test_an_event_without_a_valid_etag_is_unknown(
    intake: UpdateIntake, etag: str, version: str
) -> None:
    """Without a version or an ETag an upload cannot be identified."""
    upload = Upload(
        bucket="federation", key=f"updates/1/{UUID}/u.npz", etag=etag, version=version, size=1
    )
    with pytest.raises(UnknownUpload, match="version"):
        intake.register(upload)


@with_database
def test_an_unknown_model_or_client_is_unknown(intake: UpdateIntake) -> None:
    """If the model or the client does not exist, nothing is written."""
    model = make_model(1)
    with pytest.raises(UnknownUpload, match=f"no client {client_id(77)}"):
        intake.register(uploaded(model, 77))
    elsewhere = replace(uploaded(model), key=f"updates/{model.pk + 1}/{client_id(1)}/u.npz")
    with pytest.raises(UnknownUpload, match=f"no federated model {model.pk + 1}"):
        intake.register(elsewhere)
    assert not ModelUpdate.objects.exists()


@with_database
def test_an_upload_from_before_the_last_pruning_is_unknown(intake: UpdateIntake) -> None:
    """The record that it was counted may have been deleted, so that it must not count again."""
    model = make_model(1)
    FederatedModel.objects.update(pruned_before=datetime.now(UTC) - timedelta(days=180))
    old = replace(uploaded(model), event_time=datetime.now(UTC) - timedelta(days=181))
    with pytest.raises(UnknownUpload, match="were deleted"):
        intake.register(old)
    assert not model.model_updates.exists()
    accepted(intake, uploaded(model))


# Rejected


@with_database
def test_strangers_and_paused_clients_are_rejected(intake: UpdateIntake) -> None:
    """The upload of a client that is paused, or not a member of the model, is recorded as INVALID."""
    model, other = make_model(1), make_model(2)
    assert "not a member" in rejection_of(intake, uploaded(model, 2))
    Client.objects.filter(pk=client_id(1)).update(paused=True)
    assert "paused" in rejection_of(intake, uploaded(model, 1))
    assert not other.model_updates.exists()


@with_database
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("folder/u.npz", "not of the form"),
        ("../u.npz", "not of the form"),
        ("..", "not of the form"),
        (".npz", "not of the form"),
        (".hidden.npz", "not of the form"),
        ("u", "in none of the formats"),
        ("u.pkl", "in none of the formats"),
        ("u.npz.exe", "in none of the formats"),
        ("u.npz ", "in none of the formats"),
        ("u.npz%00", "in none of the formats"),
        ("u%2Enpz", "in none of the formats"),
        ("u.ｎｐｚ", "in none of the formats"),
        ("<script>.html", "in none of the formats"),
    ],
)
def test_a_name_of_another_form_is_rejected(intake: UpdateIntake, name: str, reason: str) -> None:
    """Names with folders, hidden names and unknown extensions are rejected."""
    assert reason in rejection_of(intake, uploaded(make_model(1), name=name))


@with_database
def test_a_key_of_the_greatest_length_is_accepted(intake: UpdateIntake) -> None:
    """S3's keys have at most 1024 bytes."""
    model = make_model(1)
    name = "u" * (1024 - len(f"updates/{model.pk}/{client_id(1)}/") - len(".safetensors"))
    upload = uploaded(model, name=f"{name}.safetensors")
    assert len(upload.key) == 1024
    accepted(intake, upload)


@with_database
@pytest.mark.parametrize("size", [5 << 40, MAX_SIZE])
def test_a_size_over_the_limit_is_rejected_unread(intake: UpdateIntake, size: int) -> None:
    """A size over the limit in the event is enough: the object is not read."""
    upload = replace(uploaded(make_model(1)), size=size)
    default_storage.delete(upload.key)
    assert rejection_of(intake, upload).startswith(f"{size} bytes, at most")


@with_database
def test_a_wrong_size_in_the_event_is_ignored(intake: UpdateIntake) -> None:
    """The size that storage states is the one that counts."""
    for size in (1, 0, None):
        upload = uploaded(make_model(1))
        with override_settings(MAX_UPDATE_BYTES=len(GOOD) - 1):
            reason = rejection_of(intake, replace(upload, size=size))
        assert reason == f"{len(GOOD)} bytes, at most {len(GOOD) - 1} are accepted"


@with_database
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "header"),
        (GOOD[:-1], "bytes"),
        (b"PK\x03\x04", "header"),
        (safetensors.numpy.save({"w": SMALL["w"]}), "tensor 'b' (F32 [3]) is missing"),
        (
            safetensors.numpy.save({**SMALL, "b": np.zeros((1, 3), "f4")}),
            "tensor 'b' is F32 [1, 3]",
        ),
        (safetensors.numpy.save({**SMALL, "c": SMALL["b"]}), "tensor 'c' (F32 [3]) is not in"),
        (safetensors.numpy.save({**SMALL, "b": np.zeros(3, "f8")}), "tensor 'b' is F64 [3]"),
    ],
)
def test_a_file_unlike_the_model_is_rejected(
    intake: UpdateIntake, body: bytes, reason: str
) -> None:
    """The reason names how the file's header differs from the model's layout."""
    assert reason in rejection_of(intake, uploaded(make_model(1, initial=SMALL), body=body))


@with_database
def test_an_update_must_have_the_layout_of_the_latest_aggregate(intake: UpdateIntake) -> None:
    """The layout is that of the newest aggregate at the time of the upload."""
    model = make_model(1, initial={"old": SMALL["w"]})
    assert "'old'" in rejection_of(intake, uploaded(model, name="before.safetensors"))
    new_aggregate(model)
    accepted(intake, uploaded(model, name="after.safetensors"))


# Gone, replaced or unreadable


def delete(upload: Upload) -> None:
    """Delete the version that was uploaded."""
    default_storage.connection.meta.client.delete_object(
        Bucket=upload.bucket, Key=upload.key, VersionId=upload.version
    )


@with_database
def test_a_replaced_object_is_read_in_its_own_version(intake: UpdateIntake) -> None:
    """Both versions of a key are accepted, each with the bytes that were announced."""
    model = make_model(1)
    first = uploaded(model)
    second = uploaded(model, body=filled(1.0), metadata={"num-examples": "2"})
    assert [intake.register(upload).reason for upload in (first, second)] == ["", ""]
    counts = model.model_updates.order_by("pk").values_list("num_examples", "version_id")
    assert list(counts) == [(1, first.version), (2, second.version)]


@with_database
def test_without_versions_a_replaced_object_is_rejected(intake: UpdateIntake) -> None:
    """Only the ETag identifies the object then; what replaced it has an event of its own."""
    model = make_model(1)
    first, second = uploaded(model), uploaded(model, body=filled(1.0))
    assert "was replaced" in intake.register(replace(first, version="")).reason
    assert intake.register(second).reason == ""


@with_database
def test_a_missing_object_is_temporarily_unavailable(intake: UpdateIntake) -> None:
    """The event may be faster than the object: nothing is written, and the event is delivered again."""
    model = make_model(1)
    upload = uploaded(model)
    delete(upload)
    with pytest.raises(TemporarilyUnavailable, match="deleted, or not visible yet"):
        intake.register(upload)
    assert not model.model_updates.exists()


@with_database
def test_an_archived_object_is_rejected(intake: UpdateIntake) -> None:
    """S3 would need hours to make it readable."""
    upload = uploaded(make_model(1), StorageClass="GLACIER")
    assert "stored so that it cannot be read" in rejection_of(intake, upload)


@with_database
def test_an_object_encrypted_with_its_uploaders_key_is_rejected(
    intake: UpdateIntake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not delivered again and again, and does not stop a round."""
    model = make_model(1)
    key: dict[str, Any] = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "alias/the-uploaders"}
    upload = uploaded(model, **key)
    denied: Any = {"Error": {"Code": "AccessDenied"}, "ResponseMetadata": {"HTTPStatusCode": 403}}

    def get_object(**asked: Any) -> None:
        raise ClientError(denied, "GetObject")

    monkeypatch.setattr(default_storage.connection.meta.client, "get_object", get_object)
    assert "cannot be read: AccessDenied" in rejection_of(intake, upload)


@with_database
def test_an_unavailable_database_is_temporarily_unavailable(intake: UpdateIntake) -> None:
    """The event is delivered again once the database is back."""
    upload = uploaded(make_model(1))
    with (
        using_database("postgres://nobody@127.0.0.1:1/nowhere"),
        pytest.raises(TemporarilyUnavailable, match="database"),
    ):
        intake.register(upload)


# Statements


@with_database
def test_an_upload_costs_three_statements_at_most(intake: UpdateIntake) -> None:
    """One statement looks everything up, one the base, one writes; a second delivery costs one."""
    model = make_model(3, initial=SMALL)
    base = new_aggregate(model)
    upload = uploaded(model, metadata={"base-aggregate": str(base.pk)})
    for expected in (3, 1):
        with CaptureQueriesContext(connection) as statements:
            intake.register(upload)
        found = [each["sql"] for each in statements if each["sql"] not in ("BEGIN", "COMMIT")]
        assert len([sql for sql in found if not sql.startswith("BEGIN")]) == expected


@with_database
def test_the_layout_of_a_model_is_read_once(intake: UpdateIntake) -> None:
    """An aggregate never changes, so its layout is cached."""
    model = make_model(2, initial=SMALL)
    accepted(intake, uploaded(model, 1))
    assert model.current_artifact is not None
    default_storage.delete(model.current_artifact.values.name)
    assert "is missing" in rejection_of(intake, uploaded(model, 2, {"w": SMALL["w"]}))


# Anything at all


@pytest.fixture(scope="module")
def on_postgres(migrated_postgres: str, shared_cloud: Any) -> Iterator[FederatedModel]:
    """PostgreSQL, which is the stricter of the two, and a model in it."""
    with using_database(migrated_postgres):
        yield make_model(1, initial=SMALL)
        empty_tables()


PRINTABLE = st.text(st.characters(exclude_categories=["C", "Z"]), max_size=20)


@given(
    name=PRINTABLE.map(lambda text: text + ".npz") | st.text(max_size=20),
    etag=st.text("0123456789abcdef-", max_size=40) | st.text(max_size=20),
    version=PRINTABLE | st.just(""),
    size=st.none() | st.integers(0, MAX_SIZE),
    stored=st.booleans(),
    metadata=st.dictionaries(
        st.sampled_from(["num-examples", "base-aggregate"]), st.text("0123456789-. aZ", max_size=20)
    ),
    body=st.binary(max_size=40),
)
@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_upload_raises_another_error(on_postgres: FederatedModel, **drawn: Any) -> None:
    """Whatever an upload contains, it is registered, rejected, unknown or temporarily unavailable."""
    key = f"updates/{on_postgres.pk}/{client_id(1)}/{drawn['name']}"
    etag = drawn["etag"]
    if drawn["stored"] and key.isprintable():
        etag = factories.put(key, drawn["body"], drawn["metadata"])
    upload = Upload(
        bucket="federation", key=key, etag=etag, version=drawn["version"], size=drawn["size"]
    )
    with suppress(UnknownUpload, TemporarilyUnavailable):
        assert (
            UpdateIntake(DjangoModelDataConnector().objects).register(upload).model_id
            == on_postgres.pk
        )
