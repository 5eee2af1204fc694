"""At the door: what uploads become, and that nothing an uploader does comes to more than that."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from botocore.exceptions import ClientError
from django.core.files.storage import default_storage
from django.db import connection
from django.test import override_settings
from django.test.utils import CaptureQueriesContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aggregation.errors import TemporarilyUnavailable
from connectors.intake.registration import IntakeResult, UnknownUpload
from connectors.intake.updates import UpdateIntake
from connectors.runtime.events import MAX_SIZE, Upload
from connectors.workflow.model_data import DjangoModelDataConnector
from models_app.models import Client, FederatedModel, ModelAggregate, ModelUpdate
from tests import factories
from tests.conftest import empty_tables, using_database
from tests.connectors.rounds.test_concurrent_rounds import in_thread
from tests.connectors.workflow.backends import as_npz
from tests.factories import SMALL, client_id, filled, make_model

Status = ModelUpdate.Status

with_database = pytest.mark.usefixtures("database", "shared_cloud")

UUID = "11111111-1111-4111-8111-000000000001"
GOOD = safetensors.numpy.save(dict(SMALL))


@pytest.fixture
def door() -> UpdateIntake:
    return UpdateIntake(DjangoModelDataConnector().objects)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patience without the waiting."""
    monkeypatch.setattr("connectors.storage.retries.FIRST_PAUSE_SECONDS", 0)


def uploaded(
    model: FederatedModel,
    client: int = 1,
    body: Any = GOOD,
    *,
    name: str = "update.safetensors",
    metadata: Mapping[str, str] | None = None,
    **write: Any,
) -> Upload:
    """Store an update as a client does; the upload that S3 announces."""
    key = f"updates/{model.pk}/{client_id(client)}/{name}"
    body = body if isinstance(body, bytes) else safetensors.numpy.save(dict(body))
    stored = default_storage.connection.meta.client.put_object(
        Bucket=default_storage.bucket_name, Key=key, Body=body, Metadata=metadata or {}, **write
    )
    return Upload(
        bucket="federation",
        key=key,
        etag=stored["ETag"].strip('"'),
        version=stored["VersionId"],
        size=len(body),
    )


def rejection_of(door: UpdateIntake, upload: Upload) -> str:
    """The reason for which an upload is rejected; its update is kept, with the reason."""
    before = ModelUpdate.objects.count()
    result = door.register(upload)
    update = ModelUpdate.objects.get(data=upload.key)
    assert ModelUpdate.objects.count() == before + 1
    assert update.status == Status.INVALID
    assert update.rejection_reason == result.reason != ""
    assert result.reason.isascii()
    assert result.reason.isprintable()
    return result.reason


def accepted(door: UpdateIntake, upload: Upload) -> ModelUpdate:
    """The update that an upload became."""
    result = door.register(upload)
    assert result.reason == ""
    update = ModelUpdate.objects.get(data=upload.key)
    assert update.status == Status.PENDING
    return update


def new_aggregate(model: FederatedModel, parent: ModelAggregate | None = None) -> ModelAggregate:
    number = parent.number + 1 if parent else 1
    key = f"aggregates/{model.pk}/{number}.safetensors"
    factories.put(key, GOOD)
    return ModelAggregate.objects.create(
        federated_model=model, parent=parent, number=number, result=key
    )


@with_database
def test_an_object_under_its_uploaders_key_is_rejected(
    door: UpdateIntake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not delivered again and again, nor left to stop a round."""
    model = make_model(1)
    key = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "alias/the-uploaders"}
    upload = uploaded(model, **key)
    denied = {"Error": {"Code": "AccessDenied"}, "ResponseMetadata": {"HTTPStatusCode": 403}}

    def get_object(**asked: Any) -> None:
        raise ClientError(denied, "GetObject")

    monkeypatch.setattr(default_storage.connection.meta.client, "get_object", get_object)
    assert "cannot be read: AccessDenied" in rejection_of(door, upload)


# Accepted


@with_database
def test_a_good_upload_becomes_a_pending_update(door: UpdateIntake) -> None:
    """What storage and the uploader say of it is kept with it."""
    model = make_model(1, initial=SMALL)
    base = new_aggregate(model)
    before = datetime.now(UTC) - timedelta(seconds=2)
    upload = uploaded(model, metadata={"num-examples": "120", "base-aggregate": str(base.pk)})
    assert door.register(upload) == IntakeResult(model_id=model.pk, client=str(client_id(1)))
    update = model.model_updates.get()
    assert (update.client_id, update.status) == (client_id(1), Status.PENDING)
    assert (update.data.name, update.storage_version) == (upload.key, upload.version)
    assert (update.size, update.etag) == (len(GOOD), upload.etag)
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
def test_every_format_is_accepted(door: UpdateIntake, name: str, body: bytes, initial: Any) -> None:
    """Any format is accepted for a model without weights; with weights, the names must agree."""
    model = make_model(1, initial=initial)
    upload = uploaded(model, body=body, name=name)
    if initial:
        assert re.search("is missing|no names", rejection_of(door, upload))
    else:
        accepted(door, upload)


@with_database
def test_an_update_without_metadata_counts_one_example_of_the_initial_model(
    door: UpdateIntake,
) -> None:
    """A client that says nothing of its update has its weights counted all the same."""
    update = accepted(door, uploaded(make_model(1)))
    assert (update.num_examples, update.base_aggregate) == (1, None)


@with_database
def test_what_is_wrong_with_the_model_is_not_the_clients_fault(door: UpdateIntake) -> None:
    """Where the initial model cannot be read, updates are kept: it is for the round to fail."""
    model = make_model(1, initial=SMALL)
    factories.put(model.current_artifact.values.name, b"broken")
    accepted(door, uploaded(model))


@with_database
def test_an_event_of_a_bucket_without_versions_is_known_by_its_etag(door: UpdateIntake) -> None:
    """Without a version the ETag tells one upload from the next."""
    upload = replace(uploaded(make_model(1)), version="")
    assert accepted(door, upload).storage_version == upload.etag


# Seen before


@with_database
def test_a_second_delivery_registers_nothing(door: UpdateIntake) -> None:
    """The same event again is answered with what was known, though the object has gone since."""
    model = make_model(1)
    good, bad = (
        uploaded(model, name="good.npz", body=as_npz(dict(SMALL))),
        uploaded(model, body=b""),
    )
    door.register(good)
    door.register(bad)
    default_storage.delete(good.key)
    for upload in (good, bad):
        again = IntakeResult(model_id=model.pk, client=str(client_id(1)), seen_before=True)
        assert door.register(upload) == again
    assert model.model_updates.count() == 2


@with_database
def test_the_same_key_again_is_another_update(door: UpdateIntake) -> None:
    """An object that is overwritten is a new upload, were it of the same bytes."""
    model = make_model(1)
    first = uploaded(model)
    door.register(first)
    second = uploaded(model)
    assert (first.key, first.etag) == (second.key, second.etag)
    assert door.register(second) == IntakeResult(model_id=model.pk, client=str(client_id(1)))
    assert model.model_updates.count() == 2


@with_database
def test_deliveries_at_the_same_moment_register_one_update(door: UpdateIntake) -> None:
    """Whoever is second finds the update there, and says nothing."""
    model = make_model(1)
    upload = uploaded(model)
    with ThreadPoolExecutor(4) as pool:
        deliveries = [pool.submit(in_thread(lambda: door.register(upload))) for _ in range(4)]
    assert {each.result().reason for each in deliveries} == {""}
    assert model.model_updates.count() == 1


# No update at all

KEYS = [
    "",
    "updates",
    "updates/",
    f"updates/1/{UUID}",
    f"updates/1/{UUID}/",
    f"/updates/1/{UUID}/u.npz",
    f"UPDATES/1/{UUID}/u.npz",
    f"updates//1/{UUID}/u.npz",
    f"updates/1//{UUID}/u.npz",
    f"updates/0/{UUID}/u.npz",
    f"updates/01/{UUID}/u.npz",
    f"updates/-1/{UUID}/u.npz",
    f"updates/+1/{UUID}/u.npz",
    f"updates/1.0/{UUID}/u.npz",
    f"updates/1e0/{UUID}/u.npz",
    f"updates/ 1/{UUID}/u.npz",
    f"updates/１/{UUID}/u.npz",
    f"updates/١/{UUID}/u.npz",
    f"updates/{10**18}/{UUID}/u.npz",
    f"updates/{10**400}/{UUID}/u.npz",
    f"updates/../updates/1/{UUID}/u.npz",
    f"updates/1/../1/{UUID}/u.npz",
    f"updates/1/{UUID[:-1]}/u.npz",
    f"updates/1/{UUID}0/u.npz",
    f"updates/1/{{{UUID}}}/u.npz",
    f"updates/1/urn:uuid:{UUID}/u.npz",
    f"updates/1/{UUID.replace('-', '')}/u.npz",
    f"updates/1/{UUID.replace('1', 'А', 1)}/u.npz",
    f"updates/1/{'A' + UUID[1:]}/u.npz",
    f"updates/1/{UUID}%2Fu.npz",
    f"updates%2F1%2F{UUID}%2Fu.npz",
    f"updates/1/{UUID}/u\x00.npz",
    f"updates/1/{UUID}/u\n.npz",
    f"updates/1/{UUID}/u\r\nSet-Cookie: x.npz",
    f"updates/1/{UUID}/u\u202ezpn.npz",
    f"updates/1/{UUID}/u\u200b.npz",
    f"updates/1/{UUID}/u\ud800.npz",
    f"updates/1/{UUID}/" + "u" * 2000 + ".npz",
    f"updates/1/{UUID}/" + "ü" * 600 + ".npz",
    f"artifacts/1/{UUID}/u.npz",
    f"aggregates/1/{UUID}/u.npz",
]


@pytest.mark.parametrize("key", KEYS)
def test_a_key_of_another_form_is_no_update(door: UpdateIntake, key: str) -> None:
    """Nobody but the owner of the key could be meant: refused before anything is looked up."""
    upload = Upload(bucket="federation", key=key, etag="x", version="", size=1)
    with pytest.raises(UnknownUpload, match="key is not of the form"):
        door.register(upload)


@pytest.mark.parametrize("bucket", ["", "federation2", "FEDERATION", "federation/", "fédération"])
def test_another_bucket_is_none_of_ours(door: UpdateIntake, bucket: str) -> None:
    """Objects in buckets the function does not serve are not even looked at."""
    upload = Upload(bucket=bucket, key=f"updates/1/{UUID}/u.npz", etag="x", version="", size=1)
    with pytest.raises(UnknownUpload, match="is not served by this function"):
        door.register(upload)


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
def test_an_event_that_tells_no_etag_of_s3_is_no_update(
    door: UpdateIntake, etag: str, version: str
) -> None:
    """Without a version or an ETag an upload cannot be told from the next; and S3 has no such ones."""
    upload = Upload(
        bucket="federation", key=f"updates/1/{UUID}/u.npz", etag=etag, version=version, size=1
    )
    with pytest.raises(UnknownUpload, match="version"):
        door.register(upload)


@with_database
def test_an_unknown_model_or_client_is_no_update(door: UpdateIntake) -> None:
    """Where nobody can be told a reason, nothing is written."""
    model = make_model(1)
    with pytest.raises(UnknownUpload, match=f"no client {client_id(77)}"):
        door.register(uploaded(model, 77))
    elsewhere = replace(uploaded(model), key=f"updates/{model.pk + 1}/{client_id(1)}/u.npz")
    with pytest.raises(UnknownUpload, match=f"no federated model {model.pk + 1}"):
        door.register(elsewhere)
    assert not ModelUpdate.objects.exists()


# Rejected


@with_database
def test_strangers_and_paused_clients_are_rejected(door: UpdateIntake) -> None:
    """A client that exists, but is not of this model or is paused, has its upload kept as INVALID; the
    other model and the other clients are left alone."""
    model, other = make_model(1), make_model(2)
    assert "not a member" in rejection_of(door, uploaded(model, 2))
    Client.objects.filter(pk=client_id(1)).update(paused=True)
    assert "paused" in rejection_of(door, uploaded(model, 1))
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
def test_a_name_of_another_form_is_rejected(door: UpdateIntake, name: str, reason: str) -> None:
    """Path tricks, look-alikes and unknown extensions are rejected by name alone."""
    assert reason in rejection_of(door, uploaded(make_model(1), name=name))


@with_database
def test_the_longest_key_is_kept(door: UpdateIntake) -> None:
    """A key of 1024 bytes is one like any other."""
    model = make_model(1)
    name = "u" * (1024 - len(f"updates/{model.pk}/{client_id(1)}/") - len(".safetensors"))
    upload = uploaded(model, name=f"{name}.safetensors")
    assert len(upload.key) == 1024
    accepted(door, upload)


@with_database
@pytest.mark.parametrize("size", [5 << 40, MAX_SIZE])
def test_a_size_over_the_limit_is_rejected_unread(door: UpdateIntake, size: int) -> None:
    """Five terabytes in the event are believed, and nothing is asked of storage."""
    upload = replace(uploaded(make_model(1)), size=size)
    default_storage.delete(upload.key)
    assert rejection_of(door, upload).startswith(f"{size} bytes, at most")


@with_database
def test_a_size_the_event_lies_about_is_rejected(door: UpdateIntake) -> None:
    """What storage says counts, whatever the event says."""
    upload = uploaded(make_model(1))
    for told in (1, 0, None):
        ModelUpdate.objects.all().delete()
        with override_settings(MAX_UPDATE_BYTES=len(GOOD) - 1):
            reason = rejection_of(door, replace(upload, size=told))
        assert reason == f"{len(GOOD)} bytes, at most {len(GOOD) - 1} are accepted"


@with_database
@pytest.mark.parametrize(
    "told",
    [
        *("0", "-1", "1.5", "1e3", "+5", "5 6", "0x10", "1_000", "ten", "", "NaN", "inf", "true"),
        *(str(10**9 + 1), "1" + "0" * 30, "9" * 1000),
    ],
)
def test_a_count_that_is_none_is_rejected(door: UpdateIntake, told: str) -> None:
    """A whole number from one to a billion, written in digits, or else the update does not count."""
    upload = uploaded(make_model(1), metadata={"num-examples": told})
    assert rejection_of(door, upload).startswith("num-examples is ")


@with_database
def test_the_largest_count_is_accepted(door: UpdateIntake) -> None:
    """A billion is the most examples that a client may claim."""
    upload = uploaded(make_model(1), metadata={"Num-Examples": str(10**9)})
    assert accepted(door, upload).num_examples == 10**9


@with_database
@pytest.mark.parametrize(
    "told", ["0", "-1", "latest", "1.0", "9" * 18, "9" * 30, "1;drop table", "%s"]
)
def test_a_base_that_is_none_is_rejected(door: UpdateIntake, told: str) -> None:
    """A base is the id of an aggregate of this model."""
    upload = uploaded(make_model(1), metadata={"base-aggregate": told})
    assert "is no aggregate of this model" in rejection_of(door, upload)


@with_database
def test_a_base_of_another_model_is_rejected(door: UpdateIntake) -> None:
    """An aggregate that exists, but is another model's, is no base."""
    other = new_aggregate(make_model(1))
    upload = uploaded(make_model(1), metadata={"base-aggregate": str(other.pk)})
    assert "is no aggregate of this model" in rejection_of(door, upload)


@with_database
@pytest.mark.parametrize(
    ("furthest", "allowed"), [(1, {2}), (2, {1, 2}), (3, {0, 1, 2}), (None, {0, 1, 2})]
)
def test_a_base_too_far_back_is_rejected(
    door: UpdateIntake, furthest: int | None, allowed: set[int]
) -> None:
    """With two aggregates there, N allows the N latest; the initial model comes before the first."""
    model = make_model(1, furthest_base_agg=furthest)
    first = new_aggregate(model)
    bases = [None, first, new_aggregate(model, first)]
    for number, base in enumerate(bases):
        upload = uploaded(
            model,
            name=f"{number}.safetensors",
            metadata={"base-aggregate": str(base.pk)} if base else None,
        )
        if number in allowed:
            assert accepted(door, upload).base_aggregate == base
        else:
            assert f"based on aggregate number {number}" in rejection_of(door, upload)


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
def test_a_file_unlike_the_model_is_rejected(door: UpdateIntake, body: bytes, reason: str) -> None:
    """What the header shows is told at the door: in what it differs from the model."""
    assert reason in rejection_of(door, uploaded(make_model(1, initial=SMALL), body=body))


@with_database
def test_an_update_is_held_to_the_latest_aggregate(door: UpdateIntake) -> None:
    """The layout is that of the newest aggregate, as it is when the upload comes."""
    model = make_model(1, initial={"old": SMALL["w"]})
    assert "'old'" in rejection_of(door, uploaded(model, name="before.safetensors"))
    new_aggregate(model)
    accepted(door, uploaded(model, name="after.safetensors"))


# Gone, changed or locked away


@with_database
def test_an_object_that_was_replaced_is_rejected_and_its_successor_counts(
    door: UpdateIntake,
) -> None:
    """The ETag of the event must be that of the object; what replaced it has an event of its own."""
    model = make_model(1)
    first = uploaded(model)
    second = uploaded(model, body=filled(1.0))
    assert "was replaced" in door.register(first).reason
    assert door.register(second).reason == ""
    states = model.model_updates.order_by("pk").values_list("status", flat=True)
    assert list(states) == [Status.INVALID, Status.PENDING]


@with_database
def test_an_object_that_is_not_there_may_come_yet(door: UpdateIntake) -> None:
    """A message may be quicker than its object: nothing is written, and it is delivered again."""
    model = make_model(1)
    upload = uploaded(model)
    default_storage.delete(upload.key)
    with pytest.raises(TemporarilyUnavailable, match="deleted, or not visible yet"):
        door.register(upload)
    assert not model.model_updates.exists()


@with_database
def test_an_object_in_an_archive_is_rejected(door: UpdateIntake) -> None:
    """An upload that S3 would take hours to give back is no update."""
    upload = uploaded(make_model(1), StorageClass="GLACIER")
    assert "stored so that it cannot be read" in rejection_of(door, upload)


@with_database
def test_a_database_that_is_away_is_temporarily_unavailable(door: UpdateIntake) -> None:
    """The message is delivered again once the database is back."""
    upload = uploaded(make_model(1))
    with (
        using_database("postgres://nobody@127.0.0.1:1/nowhere"),
        pytest.raises(TemporarilyUnavailable, match="database"),
    ):
        door.register(upload)


# Statements


@with_database
def test_an_upload_costs_three_statements_at_most(door: UpdateIntake) -> None:
    """One looks everything up, one the base, one writes; a second delivery costs one."""
    model = make_model(3, initial=SMALL)
    base = new_aggregate(model)
    upload = uploaded(model, metadata={"base-aggregate": str(base.pk)})
    for expected in (3, 1):
        with CaptureQueriesContext(connection) as statements:
            door.register(upload)
        found = [each["sql"] for each in statements if each["sql"] not in ("BEGIN", "COMMIT")]
        assert len([sql for sql in found if not sql.startswith("BEGIN")]) == expected


@with_database
def test_the_layout_of_a_model_is_read_once(door: UpdateIntake) -> None:
    """Aggregates never change: uploads after the first take what is known of their model."""
    model = make_model(2, initial=SMALL)
    accepted(door, uploaded(model, 1))
    default_storage.delete(model.current_artifact.values.name)
    assert "is missing" in rejection_of(door, uploaded(model, 2, {"w": SMALL["w"]}))


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
def test_whatever_is_announced_nothing_else_is_raised(
    on_postgres: FederatedModel, **drawn: Any
) -> None:
    """Any names, versions, sizes, metadata and bytes end as an admission, as no update of ours, or as
    an object that may come yet."""
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
