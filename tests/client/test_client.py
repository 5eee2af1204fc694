"""The client module against the function: what it sends is taken, what it fetches is the aggregate."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import boto3
import numpy as np
import pytest
import safetensors.numpy
from botocore.config import Config

from federated_client import (
    AccessDenied,
    BadScore,
    BadWeights,
    Bucket,
    Client,
    ClientError,
    Latest,
    NoBucket,
    NotThere,
    Posts,
    RoundOverdue,
    StorageUnreachable,
    UploadRefused,
)
from federated_client import storage as client_storage
from federated_client import weights as client_weights
from local.cloud import Cloud
from models_app.models import FederatedModel
from tests.client.conftest import answering
from tests.factories import SMALL, client_id, filled, get, make_model
from tests.faults.proxy import Proxy, Request, outage, refuse, s3_proxy
from tests.test_lambda_handler import invoke, payload

pytestmark = pytest.mark.usefixtures("database", "cloud")

StorageOf = Callable[[FederatedModel, int], Bucket | Posts]
Deliver = Callable[[], int]
Issue = Callable[..., list[Any]]

SCORED = Latest(aggregate_id=1, number=1, key="aggregates/1/x.npz", etag="e", published_on="2026")


def federation(clients: int = 2, **fields: Any) -> FederatedModel:
    model = make_model(clients, initial=filled(0.0), requirement="all_clients", **fields)
    invoke(payload("schedule-sweep"))
    return model


def member(storage: Any, model: FederatedModel, number: int = 1) -> Client:
    return Client(storage, model_id=model.pk, client_id=client_id(number))


def test_a_round_from_the_initial_model_to_a_score(storage_of: StorageOf, deliver: Deliver) -> None:
    """Two clients fetch, upload, wait and report; the function does the rest, by events alone."""
    model = federation(score_metric="accuracy")
    clients = [member(storage_of(model, number), model, number) for number in (1, 2)]
    for value, client in zip((1.0, 4.0), clients, strict=True):
        np.testing.assert_array_equal(client.fetch()["w"], SMALL["w"])
        client.upload(filled(value), num_examples=int(value))
    assert deliver() >= 2  # S3 tries its notifications, too.
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
    """In the second round an update is based on the first one's aggregate, without being told so."""
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
    """A framework's own file goes through unopened, and progress is told to the last byte."""
    model = federation(1)
    client = member(storage_of(model, 1), model)
    fetched = client.fetch_file(tmp_path / "base")
    assert fetched.name == "base.safetensors"
    assert safetensors.numpy.load_file(fetched).keys() == SMALL.keys()
    path = tmp_path / "mine.safetensors"
    safetensors.numpy.save_file(filled(2.0), path)
    told: list[tuple[int, int]] = []
    client.upload_file(path, num_examples=1, progress=lambda sent, size: told.append((sent, size)))
    assert told[-1] == (path.stat().st_size,) * 2
    deliver()
    np.testing.assert_array_equal(client.fetch()["w"], filled(2.0)["w"])


def test_a_large_update_goes_in_parts(cloud: Cloud) -> None:
    """What is larger than a part arrives whole, and its progress is told on the way."""
    model = federation(1)
    client = member(Bucket(cloud.bucket, cloud.client("s3")), model)
    large = {"w": np.arange(5_000_000, dtype=np.float32)}
    told: list[int] = []
    key = client.upload(large, num_examples=1, progress=lambda sent, _: told.append(sent))
    stored = cloud.client("s3").head_object(Bucket=cloud.bucket, Key=key)
    assert stored["ETag"].strip('"').endswith("-3")
    assert told == sorted(told)
    assert len(told) > 3


def test_without_safetensors_updates_are_npz(
    storage_of: StorageOf, deliver: Deliver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the package is missing, numpy's own format does; a safetensors model says what to install."""
    from federated_client import federation as client_federation

    model = make_model(1)
    client = member(storage_of(model, 1), model)
    monkeypatch.setattr(client_federation, "FORMAT", "npz")
    monkeypatch.setattr(client_federation, "encode", lambda w: client_weights.encode(w, "npz"))
    monkeypatch.setattr(client_weights, "_safetensors", None)
    client.upload(filled(1.0), num_examples=1)
    deliver()
    assert model.aggregates.get().result.name.endswith(".npz")
    np.testing.assert_array_equal(client.fetch()["w"], filled(1.0)["w"])
    other = federation(1)
    with pytest.raises(BadWeights, match="pip install safetensors"):
        member(storage_of(other, 1), other).fetch()


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        ({}, "there is no tensor"),
        (filled(np.nan), "'w' has nan or infinity in it"),
        ({"w": SMALL["w"]}, r"missing \['b'\], unknown \[\]"),
        ({**SMALL, "c": SMALL["b"]}, r"unknown \['c'\]"),
        ({**SMALL, "w": SMALL["w"].T}, r"'w' is float32 \(3, 2\), the model's is float32 \(2, 3\)"),
        ({**SMALL, "b": np.zeros(3)}, "'b' is float64"),
        ({**SMALL, "b": np.array([None])}, "no tensor of numbers"),
    ],
)
def test_what_would_be_rejected_is_not_sent(
    cloud: Cloud, weights: Mapping[str, Any], reason: str
) -> None:
    """A mistake is told where it is made, with what differs, and nothing is uploaded."""
    model = federation()
    client = member(Bucket(cloud.bucket, cloud.client("s3")), model)
    client.fetch()
    with pytest.raises(BadWeights, match=reason):
        client.upload(weights, num_examples=1)
    assert "Contents" not in cloud.client("s3").list_objects_v2(
        Bucket=cloud.bucket, Prefix="updates/"
    )


@pytest.mark.parametrize("count", [0, -1, 1.5, True])
def test_a_count_must_be_a_whole_number(cloud: Cloud, count: Any) -> None:
    """A count that the function would reject is refused before anything is sent."""
    client = member(Bucket(cloud.bucket, cloud.client("s3")), make_model(1))
    with pytest.raises(BadWeights, match="expected a whole number"):
        client.upload(filled(1.0), num_examples=count)


def test_a_model_without_weights_says_so(storage_of: StorageOf) -> None:
    """Where there is nothing to fetch, the error tells what that may mean; uploading works all the same."""
    model = make_model(2)
    client = member(storage_of(model, 1), model)
    with pytest.raises(NotThere, match="no weights to train from"):
        client.fetch()
    client.upload(filled(1.0), num_examples=1)
    with pytest.raises(RoundOverdue, match="no aggregate after number 0"):
        client.wait(timeout=0.1, poll=0.05)


def through(proxy: Proxy) -> Bucket:
    """The bucket behind a proxy; nothing is tried twice."""
    config = Config(retries={"total_max_attempts": 1})
    return Bucket("federation", boto3.client("s3", endpoint_url=proxy.endpoint, config=config))


def unlisted(handler: Any, request: Request) -> None:
    """What S3 answers to who may read objects and not list the bucket: of what is not there, 403."""
    status, headers, body = handler.ask()
    if status == 404:
        refuse(403, "AccessDenied")(handler, request)
    else:
        handler.answer(status, headers, body)


def test_who_may_not_list_waits_for_the_first_aggregate(
    cloud: Cloud, deliver: Deliver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Access denied may mean "not yet": it is waited for, and told where nothing comes."""
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


def test_an_outage_does_not_end_the_waiting(
    cloud: Cloud, deliver: Deliver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Storage that is away for a while is waited for like the round; one that stays away is told."""
    monkeypatch.setattr(client_storage, "TRIES", 1)
    model = federation(1)
    with s3_proxy() as proxy:
        client = member(through(proxy), model)
        client.fetch()
        client.upload(filled(1.0), num_examples=1)
        deliver()
        proxy.fault = lambda request: refuse(503, "SlowDown")
        with pytest.raises(RoundOverdue, match=r"after number 0 .* S3 answers SlowDown"):
            client.wait(timeout=0.1, poll=0.05)
        proxy.fault = outage(2, refuse(503, "SlowDown"), only="aggregates/")
        assert client.wait(timeout=60, poll=0.01).number == 1


def test_the_initial_model_is_not_scored(storage_of: StorageOf) -> None:
    """Scores belong to aggregates."""
    model = federation()
    client = member(storage_of(model, 1), model)
    client.fetch()
    with pytest.raises(ClientError, match="only an aggregate is scored"):
        client.report_score(num_examples=1, accuracy=0.5)


@pytest.mark.parametrize("told", [float("nan"), np.float32("inf"), np.zeros(3), object(), {1, 2}])
def test_a_score_that_would_be_rejected_is_not_sent(cloud: Cloud, told: Any) -> None:
    """What is no finite number is told where it is measured, and nothing is uploaded."""
    client = member(Bucket(cloud.bucket, cloud.client("s3")), make_model(1))
    with pytest.raises(BadScore, match="cannot be told as JSON"):
        client.report_score(num_examples=1, aggregate=SCORED, accuracy=told)
    assert "Contents" not in cloud.client("s3").list_objects_v2(
        Bucket=cloud.bucket, Prefix="scores/"
    )


@pytest.mark.parametrize("told", [0.5, np.float32(0.5), np.float64(0.5), np.array([0.5])])
def test_a_score_may_be_a_number_of_numpy(cloud: Cloud, told: Any) -> None:
    """A mean that numpy computed needs no conversion."""
    client = member(Bucket(cloud.bucket, cloud.client("s3")), make_model(1))
    key = client.report_score(num_examples=np.int64(7), aggregate=SCORED, accuracy=told)
    assert json.loads(get(key)) == {"num_examples": 7, "accuracy": 0.5}


def test_a_pointer_of_another_kind_is_told(storage_of: StorageOf, cloud: Cloud) -> None:
    """What is no pointer this client knows is an error that names it, not a traceback of json."""
    model = federation()
    key = f"aggregates/{model.pk}/latest.json"
    cloud.client("s3").put_object(Bucket=cloud.bucket, Key=key, Body=b"{}")
    with pytest.raises(ClientError, match=key):
        member(storage_of(model, 1), model).fetch()


def test_an_aggregate_that_was_replaced_is_not_taken(storage_of: StorageOf, cloud: Cloud) -> None:
    """The bytes that are fetched are those the pointer tells of."""
    model = federation()
    client = member(storage_of(model, 1), model)
    cloud.client("s3").put_object(Bucket=cloud.bucket, Key=client.latest().key, Body=b"other")
    with pytest.raises(NotThere, match="no longer the object"):
        client.fetch()


def test_a_bucket_that_is_not_there_is_named(cloud: Cloud) -> None:
    """A wrong name is told as what it is."""
    client = member(Bucket("no-such-bucket", cloud.client("s3")), make_model(1))
    with pytest.raises(NoBucket, match="there is no bucket 'no-such-bucket'"):
        client.fetch()
    with pytest.raises(NoBucket, match="there is no bucket 'no-such-bucket'"):
        client.upload(filled(1.0), num_examples=1)


def test_posts_with_keys_of_their_own_are_used_once_each(issue: Issue, read_url: str) -> None:
    """Each post that allows one key carries one update; then the client asks for new ones."""
    model = federation(1)
    posts = issue(model, 1, "--count", 2)
    client = member(Posts(posts, read_url), model)
    keys = [client.upload(filled(1.0), num_examples=1) for _ in range(2)]
    assert keys == [post["fields"]["key"] for post in posts]
    with pytest.raises(AccessDenied, match="no presigned post is left"):
        client.upload(filled(1.0), num_examples=1)


def test_a_post_that_stored_nothing_is_not_spent(
    issue: Issue, read_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An update that did not get through is sent again by the same post."""
    monkeypatch.setattr(client_storage, "TRIES", 1)
    model = federation(1)
    (post,) = issue(model, 1)
    client, url = member(Posts([post], read_url), model), post["url"]
    post["url"] = "http://127.0.0.1:9"
    with pytest.raises(StorageUnreachable):
        client.upload(filled(1.0), num_examples=1)
    post["url"] = url
    assert client.upload(filled(1.0), num_examples=1) == post["fields"]["key"]
    with pytest.raises(AccessDenied, match="no presigned post is left"):
        client.upload(filled(1.0), num_examples=1)


def test_a_post_that_has_expired_gives_way_to_the_next(issue: Issue, read_url: str) -> None:
    """What is denied once is not tried again as long as there are other posts."""
    model = federation(1)
    expired, good = issue(model, 1, "--count", 2)
    client = member(Posts([expired, good], read_url), model)
    told = "<Code>AccessDenied</Code><Message>Policy expired.</Message>"
    with answering(403, told.encode()) as expired["url"]:
        with pytest.raises(AccessDenied, match="has expired"):
            client.upload(filled(1.0), num_examples=1)
        assert client.upload(filled(1.0), num_examples=1) == good["fields"]["key"]


def test_a_client_knows_better_than_its_post(issue: Issue, read_url: str, deliver: Deliver) -> None:
    """A form that says "based on the latest" is not believed of an update that is based on nothing."""
    model = federation(1)
    early = member(Posts(issue(model, 1), read_url), model)
    early.fetch()
    early.upload(filled(1.0), num_examples=1)
    deliver()
    (post,) = issue(model, 1)
    latest = model.aggregates.get()
    assert post["fields"]["x-amz-meta-base-aggregate"] == str(latest.pk)
    member(Posts([post], read_url), model).upload(filled(2.0), num_examples=3)
    deliver()
    update = model.model_updates.get(num_examples=3)
    assert (update.base_aggregate, update.rejection_reason) == (None, "")


def test_what_a_post_does_not_allow_is_refused(issue: Issue, read_url: str) -> None:
    """Storage refuses an update that is too large for its post, and a folder the posts are not for."""
    model = federation(2)
    client = member(Posts(issue(model, 1, "--max-bytes", 10), read_url), model)
    with pytest.raises(UploadRefused, match="larger than its presigned post allows"):
        client.upload(filled(1.0), num_examples=1)
    other = member(Posts(issue(model, 1), read_url), model, 2)
    with pytest.raises(AccessDenied, match="no presigned post is left"):
        other.upload(filled(1.0), num_examples=1)


def test_a_post_cannot_be_bent_to_another_key(issue: Issue, read_url: str) -> None:
    """Who changes the key in the form breaks its policy."""
    (post,) = issue(federation(1), 1)
    post["fields"]["key"] = post["fields"]["key"].replace("updates/", "aggregates/")
    storage = Posts([post], read_url)
    with pytest.raises(AccessDenied, match="Policy Condition failed"):
        storage.put(post["fields"]["key"], io.BytesIO(b"x"), {}, None)


@pytest.mark.parametrize(
    ("status", "body", "error", "reason"),
    [
        (
            400,
            "<Code>EntityTooLarge</Code>",
            UploadRefused,
            "larger than its presigned post allows",
        ),
        (
            403,
            "<Code>AccessDenied</Code><Message>Invalid according to Policy: Policy expired.</Message>",
            AccessDenied,
            "has expired: ask for a new one",
        ),
        (403, "<Code>AccessDenied</Code><Message>no</Message>", AccessDenied, "AccessDenied no"),
        (400, "<Code>InvalidArgument</Code>", UploadRefused, "400 InvalidArgument"),
        (503, "<Code>SlowDown</Code>", StorageUnreachable, "503 SlowDown"),
        (400, "<Code>RequestTimeout</Code>", StorageUnreachable, "RequestTimeout"),
    ],
)
def test_what_s3_answers_to_a_post_is_told_in_plain_words(
    status: int,
    body: str,
    error: type[ClientError],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The errors of S3's POST Object, as S3's reference prints them."""
    monkeypatch.setattr(client_storage, "FIRST_PAUSE_SECONDS", 0.001)
    model = make_model(1)
    with answering(status, f"<Error>{body}</Error>".encode()) as url:
        own = f"updates/{model.pk}/{client_id(1)}/${{filename}}"
        client = member(Posts([{"url": url, "fields": {"key": own}}], url), model)
        with pytest.raises(error, match=reason):
            client.upload(filled(1.0), num_examples=1)


def test_only_web_addresses_are_opened() -> None:
    """A post that leads to a file of this machine is refused."""
    with pytest.raises(ValueError, match="begins with https"):
        Posts([], "file:///etc")


def test_what_is_out_of_reach_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Storage that comes back in time is no error; one that stays away is one, with its cause."""
    monkeypatch.setattr(client_storage, "FIRST_PAUSE_SECONDS", 0.001)
    model = make_model(1)

    class Flaky:
        """Storage that fails some times, then takes what it is given."""

        def __init__(self, failures: int) -> None:
            self.failures = failures

        def put(self, key: str, body: BinaryIO, metadata: Any, progress: Any) -> str:
            def request() -> str:
                self.failures -= 1
                if self.failures >= 0:
                    raise StorageUnreachable("connection reset")
                return key

            return client_storage.with_retries(request)

    assert member(Flaky(client_storage.TRIES - 1), model).upload(filled(1.0), num_examples=1)
    with pytest.raises(StorageUnreachable, match="connection reset"):
        member(Flaky(client_storage.TRIES), model).upload(filled(1.0), num_examples=1)


@pytest.mark.parametrize("kind", ["credentials", "presigned"])
def test_a_server_that_is_away_is_told(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listening is an error in a sentence, after some tries."""
    monkeypatch.setattr(client_storage, "FIRST_PAUSE_SECONDS", 0.001)
    nobody = "http://127.0.0.1:9"
    model = make_model(1)
    storage: Bucket | Posts
    if kind == "credentials":
        config = Config(retries={"total_max_attempts": 1})
        storage = Bucket("federation", boto3.client("s3", endpoint_url=nobody, config=config))
    else:
        own = f"updates/{model.pk}/{client_id(1)}/${{filename}}"
        storage = Posts([{"url": nobody, "fields": {"key": own}}], nobody)
    client = member(storage, model)
    with pytest.raises(StorageUnreachable, match="reached"):
        client.fetch()
    with pytest.raises(StorageUnreachable):
        client.upload(filled(1.0), num_examples=1)


def test_an_upload_that_broke_off_is_sent_again_from_its_beginning(cloud: Cloud) -> None:
    """After a failure half-way, the whole body is stored."""
    s3 = cloud.client("s3")

    class Breaking:
        """boto3's client, whose first upload reads half the body and loses its connection."""

        broke = False

        def upload_fileobj(self, file: Any, *args: Any, **kwargs: Any) -> None:
            from botocore.exceptions import ConnectionClosedError

            if not self.broke:
                self.broke = True
                file.read(10)
                raise ConnectionClosedError(endpoint_url="http://127.0.0.1")
            s3.upload_fileobj(file, *args, **kwargs)

    storage = Bucket(cloud.bucket, Breaking())
    storage.put("updates/x", io.BytesIO(b"0123456789abcdef"), {}, None)
    assert s3.get_object(Bucket=cloud.bucket, Key="updates/x")["Body"].read() == b"0123456789abcdef"
