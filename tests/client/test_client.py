"""The client against the function: what it sends is accepted, what it fetches is the aggregate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from federated_client import (
    AccessDenied,
    BadArgument,
    BadScore,
    BadWeights,
    Bucket,
    Client,
    ClientError,
    Latest,
    NotThere,
    RoundOverdue,
)
from federated_client.weights import encode
from local.cloud import Cloud
from models_app.models import ModelArtifact
from tests.client.members import (
    Deliver,
    StorageOf,
    federation,
    in_the_cloud,
    member,
    through,
)
from tests.factories import SMALL, client_id, filled, get, make_model, put
from tests.faults.proxy import Request, refuse, s3_proxy
from tests.test_lambda_handler import invoke, payload

pytestmark = in_the_cloud

SCORED = Latest(aggregate_id=1, number=1, key="aggregates/1/x.npz", etag="e", published_on="2026")


def test_a_round_from_the_initial_model_to_a_score(storage_of: StorageOf, deliver: Deliver) -> None:
    """Two clients fetch, upload, wait and report; the function does the rest, by events alone."""
    model = federation(score_metric="accuracy")
    clients = [member(storage_of(model, number), model, number) for number in (1, 2)]
    for value, client in zip((1.0, 4.0), clients, strict=True):
        np.testing.assert_array_equal(client.fetch()["w"], SMALL["w"])
        client.upload(filled(value), num_examples=int(value))
    assert deliver() >= 2  # S3 sends a test event, too.
    aggregate = model.aggregates.get()
    for client in clients:
        latest = client.wait(timeout=1)
        assert (latest.aggregate_id, latest.number) == (aggregate.pk, 1)
        np.testing.assert_allclose(client.fetch()["w"], filled(3.4)["w"])
        client.report_score(num_examples=10, accuracy=0.5)
    assert deliver() == 2
    aggregate.refresh_from_db()
    assert aggregate.validation_score == 0.5


def test_an_update_names_the_aggregate_that_was_fetched(
    storage_of: StorageOf, deliver: Deliver
) -> None:
    """In the second round an update is based on the first round's aggregate."""
    model = federation(1, furthest_base_agg=1)
    client = member(storage_of(model, 1), model)
    for _ in range(2):
        client.fetch()
        client.upload(filled(1.0), num_examples=7)
        deliver()
    first, second = model.model_updates.order_by("pk")
    assert (first.base_aggregate, first.num_examples) == (None, 7)
    assert second.base_aggregate == first.applied_aggregate
    assert model.aggregates.count() == 2


def test_files_are_fetched_and_sent_as_they_are(
    storage_of: StorageOf, deliver: Deliver, tmp_path: Path
) -> None:
    """A framework's own file is sent byte for byte, and progress is reported up to the last byte."""
    model = federation(1)
    client = member(storage_of(model, 1), model)
    fetched = client.fetch_file(tmp_path / "base")
    assert fetched.name == "base.safetensors"
    assert safetensors.numpy.load_file(fetched).keys() == SMALL.keys()
    path = tmp_path / "mine.safetensors"
    safetensors.numpy.save_file(filled(2.0), path)
    seen: list[tuple[int, int]] = []
    key = client.upload_file(
        path, num_examples=1, progress=lambda sent, size: seen.append((sent, size))
    )
    assert seen[-1] == (path.stat().st_size,) * 2
    assert get(key) == path.read_bytes()
    deliver()
    np.testing.assert_array_equal(client.fetch()["w"], filled(2.0)["w"])


@pytest.mark.parametrize("name", ["base.npz", "base.xyz"])
def test_weights_are_not_written_with_another_suffix(
    bucket: Bucket, tmp_path: Path, name: str
) -> None:
    """A path with the suffix of no or of another format is refused, with the names that are possible."""
    client = member(bucket, federation(1))
    folder = tmp_path / "of the client"
    folder.mkdir()
    with pytest.raises(BadArgument, match=rf"'{name}' is not: name the file 'base.safetensors'"):
        client.fetch_file(folder / name)
    assert list(folder.iterdir()) == []


def test_a_large_update_goes_in_parts(cloud: Cloud, bucket: Bucket) -> None:
    """An update larger than a part arrives whole, and its progress is reported on the way."""
    client = member(bucket, make_model(1))
    large = {"w": np.arange(5_000_000, dtype=np.float32)}
    seen: list[int] = []
    key = client.upload(large, num_examples=1, progress=lambda sent, _: seen.append(sent))
    stored = cloud.client("s3").head_object(Bucket=cloud.bucket, Key=key)
    assert stored["ETag"].strip('"').endswith("-3")
    assert seen == sorted(seen)
    assert len(seen) > 3


@pytest.mark.parametrize("extension", ["npz", "json"])
def test_a_model_of_numbered_layers_takes_what_was_fetched(
    bucket: Bucket, deliver: Deliver, extension: str
) -> None:
    """Layers without names of their own are fetched and sent by number, also beyond the tenth."""
    layers = {f"arr_{n}": np.full(2, float(n)) for n in range(12)}
    model = make_model(1, requirement="all_clients")
    key = f"artifacts/{model.pk}/initial.{extension}"
    put(key, encode(layers, extension).getvalue())
    artifacts = ModelArtifact.objects
    model.current_artifact = artifacts.create(federated_model=model, values=key, version="initial")
    model.save()
    invoke(payload("schedule-sweep"))
    client = member(bucket, model)
    client.upload({name: layer + 1 for name, layer in client.fetch().items()}, num_examples=1)
    deliver()
    assert model.model_updates.get().rejection_reason == ""
    found = client.fetch()
    assert found.keys() == layers.keys()
    for name, layer in layers.items():
        np.testing.assert_array_equal(found[name], layer + 1)


def test_a_model_without_weights_says_so(storage_of: StorageOf) -> None:
    """Where there is nothing to fetch, the error says what that may mean; an upload works all the same."""
    model = make_model(2)
    client = member(storage_of(model, 1), model)
    with pytest.raises(NotThere, match="no weights to train from"):
        client.fetch()
    client.upload(filled(1.0), num_examples=1)
    with pytest.raises(RoundOverdue, match="no aggregate after number 0"):
        client.wait(timeout=0.1, poll=0.05)


def test_the_first_round_starts_from_weights_of_the_clients_own(
    storage_of: StorageOf, deliver: Deliver
) -> None:
    """Initial weights are returned until there is an aggregate."""
    model = make_model(1)
    client = member(storage_of(model, 1), model)
    weights = client.fetch(initial={"w": [1.0, 2.0]})
    np.testing.assert_array_equal(weights["w"], [1.0, 2.0])
    client.upload(weights, num_examples=1)
    deliver()
    np.testing.assert_array_equal(client.fetch(initial={"w": [0.0]})["w"], [1.0, 2.0])


def test_a_count_above_the_models_cap_is_mentioned(
    bucket: Bucket, caplog: pytest.LogCaptureFixture
) -> None:
    """A client that claims more examples than the cap is warned."""
    client = member(bucket, federation(max_num_examples=100))
    client.upload(filled(1.0), num_examples=100)
    assert "max_num_examples" not in caplog.text
    client.upload(filled(1.0), num_examples=101)
    assert "counts 100 examples, not 101" in caplog.text


def unlisted(handler: Any, request: Request) -> None:
    """Answer 403 for what is not there, as S3 does to clients that may read objects and not list them."""
    status, headers, body = handler.ask()
    if status == 404:
        refuse(403, "AccessDenied")(handler, request)
    else:
        handler.answer(status, headers, body)


def test_a_client_that_may_not_list_waits_for_the_first_aggregate(
    deliver: Deliver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Denied access may mean "not yet": the client waits, and mentions it if nothing comes."""
    model = make_model(1)
    with s3_proxy() as proxy:
        proxy.fault = lambda request: unlisted
        client = member(through(proxy), model)
        client.upload(filled(1.0), num_examples=1)
        with pytest.raises(AccessDenied, match="may not list the bucket"):
            client.fetch()
        with pytest.raises(RoundOverdue, match=r"after number 0 .* not allowed .* may not list"):
            client.wait(timeout=0.1, poll=0.05)
        monkeypatch.setattr("time.sleep", lambda seconds: deliver())
        assert client.wait(timeout=60).number == 1


def test_the_initial_model_is_not_scored(storage_of: StorageOf) -> None:
    """Scores belong to aggregates."""
    model = federation()
    client = member(storage_of(model, 1), model)
    client.fetch()
    with pytest.raises(ClientError, match="only an aggregate is scored"):
        client.report_score(num_examples=1, accuracy=0.5)


@pytest.mark.parametrize(
    "value", [float("nan"), np.float32("inf"), np.zeros(3), object(), {1, 2}, 1e301, ["x" * 70_000]]
)
def test_a_score_that_would_be_rejected_is_not_sent(
    cloud: Cloud, bucket: Bucket, value: Any
) -> None:
    """A score that is not a finite number is refused where it is measured, and nothing is uploaded."""
    client = member(bucket, make_model(1))
    with pytest.raises(BadScore):
        client.report_score(num_examples=1, aggregate=SCORED, accuracy=value)
    found = cloud.client("s3").list_objects_v2(Bucket=cloud.bucket, Prefix="scores/")
    assert "Contents" not in found


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), np.float64(0.5), np.array([0.5])])
def test_a_score_may_be_a_number_of_numpy(bucket: Bucket, value: Any) -> None:
    """A mean that numpy computed needs no conversion."""
    client = member(bucket, make_model(1))
    key = client.report_score(num_examples=np.int64(7), aggregate=SCORED, accuracy=value)
    assert json.loads(get(key)) == {"num_examples": 7, "accuracy": 0.5}


@pytest.mark.parametrize(
    "pointer",
    [b"{}", b"[]", b"<html>", b'{"number": "1"}', b"", b"\xff"],
)
def test_a_pointer_that_is_none_is_named(storage_of: StorageOf, pointer: bytes) -> None:
    """What is not a pointer is an error with its key, not a traceback of json."""
    model = federation()
    key = f"aggregates/{model.pk}/latest.json"
    put(key, pointer)
    with pytest.raises(ClientError, match=key):
        member(storage_of(model, 1), model).fetch()


def test_an_update_kind_of_the_future_is_refused(bucket: Bucket) -> None:
    """A client that does not know what the model takes sends nothing."""
    model = federation()
    key = f"aggregates/{model.pk}/latest.json"
    put(key, json.dumps(json.loads(get(key)) | {"update_kind": "signs"}).encode())
    with pytest.raises(ClientError, match="updates of kind 'signs'"):
        member(bucket, model).upload(filled(1.0), num_examples=1)


def test_an_aggregate_that_was_replaced_is_not_used(storage_of: StorageOf) -> None:
    """The bytes that are fetched are those that the pointer names."""
    model = federation()
    client = member(storage_of(model, 1), model)
    put(client.latest().key, b"other")
    with pytest.raises(NotThere, match="no longer the object"):
        client.fetch()


@pytest.mark.parametrize(
    ("ids", "reason"),
    [
        ({"client_id": "alice"}, "client_id is 'alice', expected a UUID"),
        ({"client_id": None}, "client_id is None, expected a UUID"),
        ({"model_id": "three"}, "model_id is 'three', expected a whole number"),
        ({"model_id": None}, "model_id is None, expected a whole number"),
        ({"model_id": 1.5}, "model_id is 1.5, expected a whole number"),
        ({"model_id": True}, "model_id is True, expected a whole number"),
    ],
)
def test_an_id_that_cannot_be_one_is_refused(ids: dict[str, Any], reason: str) -> None:
    """A wrong id is named at once, with what was expected."""
    with pytest.raises(BadArgument, match=reason):
        Client(None, **{"model_id": 1, "client_id": client_id(1), **ids})  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [0, -1, 1.5, True, None, "many", float("nan"), 10**9 + 1])
def test_a_count_must_be_a_whole_number(bucket: Bucket, count: Any) -> None:
    """A count that the aggregator would reject is refused before anything is sent."""
    client = member(bucket, make_model(1))
    with pytest.raises(BadWeights, match="expected a whole number from 1 to 1000000000"):
        client.upload(filled(1.0), num_examples=count)
