"""Faults of S3, injected by a proxy before moto: retried, reported as temporary, or rejections."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from tempfile import TemporaryFile
from typing import Any

import boto3
import pytest
from botocore.config import Config

from aggregation.errors import (
    ProgressLost,
    TemporarilyUnavailable,
    UpdateRejected,
)
from connectors.errors import ServiceRefused
from connectors.storage.retries import TRIES
from connectors.storage.s3 import S3Objects
from tests.connectors.storage.s3_objects import again, get, new_key, put, read, unfinished
from tests.faults.proxy import Fault, Proxy, Request, at_first, refuse, reset, s3_proxy, truncate

PART = 5 << 20


class FaultyS3:
    """S3 behind a proxy, with an SDK that does not retry, so that all retries are ours."""

    def __init__(self, proxy: Proxy, bucket: str) -> None:
        self.proxy = proxy
        config = Config(
            retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=5, proxies={}
        )
        client = boto3.client("s3", endpoint_url=proxy.endpoint, config=config)
        self.objects = S3Objects(client, bucket)


@pytest.fixture(scope="module")
def proxied(shared_cloud: Any) -> Iterator[FaultyS3]:
    with s3_proxy() as proxy:
        yield FaultyS3(proxy, shared_cloud.bucket)


@pytest.fixture
def faulty(proxied: FaultyS3) -> Iterator[FaultyS3]:
    yield proxied
    proxied.proxy.fault = lambda request: None


def garble(handler: Any, request: Request) -> None:
    """Answer with half a document, with the length of that half."""
    handler.answer(200, {"Content-Type": "application/xml"}, b"<?xml version='1.0'?><Broken><")


def no_gets(request: Request) -> Fault | None:
    """Deny each GET, and answer each HEAD."""
    return refuse(403, "AccessDenied") if request.method == "GET" else None


def kms_denied(handler: Any, request: Request) -> None:
    """Answer that the permission to decrypt is missing."""
    message = "User: arn:aws:sts::1:assumed-role/f is not authorized to perform: kms:Decrypt"
    body = f"<Error><Code>AccessDenied</Code><Message>{message}</Message></Error>".encode()
    handler.answer(403, {"Content-Type": "application/xml"}, body)


def lose_the_answer_to_the_completion() -> Callable[[Request], Fault | None]:
    """Cut off the answer to a completion; from then on answer NoSuchUpload, unlike moto."""
    faults = iter([truncate])
    return lambda request: (
        next(faults, refuse(404, "NoSuchUpload")) if request.method == "POST" else None
    )


def lost_uploads(request: Request) -> Fault | None:
    """Answer NoSuchUpload for uploads, and pass on other requests."""
    return refuse(404, "NoSuchUpload") if request.method == "POST" else None


FAULTS: dict[str, Fault] = {
    "500": refuse(500, "InternalError"),
    "503": refuse(503, "SlowDown"),
    "throttled": refuse(429, "TooManyRequests"),
    "timeout": refuse(400, "RequestTimeout"),
    "reset": reset,
    "truncated": truncate,
}


OPERATIONS = ("stat", "read", "put", "put_file", "begin", "go_on", "complete")


class Operations:
    """Operations on S3; each returns something that shows that it was done."""

    def __init__(self, well: S3Objects, bad: S3Objects) -> None:
        self.well, self.bad = well, bad
        self.body = b"0123456789" * 100
        self.key, self.etag = put(well, self.body)

    def stat(self) -> bool:
        return self.bad.stat(self.key, etag=self.etag).size == len(self.body)

    def read(self) -> bool:
        found = read(self.bad, self.key, 10, 900, size=len(self.body), etag=self.etag)
        return found == self.body[10:900]

    def put(self) -> bool:
        sink = self.bad.sink(new_key(), None)
        sink.write_part(1, self.body, last=True)
        return get(self.well, sink.location) == self.body

    def put_file(self) -> bool:
        sink = self.bad.sink(new_key(), None)
        with TemporaryFile() as file:
            file.write(self.body)
            sink.write_part(1, file, last=True)
        return get(self.well, sink.location) == self.body

    def begin(self) -> bool:
        sink = self.bad.sink(new_key(), None)
        sink.write_part(1, b"1")
        return sink.location in unfinished(self.well)

    def go_on(self) -> bool:
        begun = self.well.sink(new_key(), None)
        begun.write_part(1, b"1")
        sink = again(self.bad, begun.state())
        sink.write_part(2, b"2")
        return bool(sink.state()["parts"] == 2)

    def complete(self) -> bool:
        begun = self.well.sink(new_key(), None)
        begun.write_part(1, b"1")
        begun._objects = self.bad
        begun.complete()
        return get(self.well, begun.location) == b"1"


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize(
    ("operation", "fault"),
    # S3 has completed an object when the answer to that breaks off: see below.
    [
        (act, fault)
        for act in OPERATIONS
        for fault in FAULTS
        if (act, fault) != ("complete", "truncated")
    ],
)
def test_a_temporary_fault_is_retried(
    objects: S3Objects, faulty: FaultyS3, operation: str, fault: str
) -> None:
    """An operation succeeds if each request fails fewer times than it is tried."""
    operations = Operations(objects, faulty.objects)
    faulty.proxy.fault = at_first(TRIES - 1, FAULTS[fault])
    assert getattr(operations, operation)()


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("fault", [name for name in FAULTS if name != "truncated"])
def test_a_lasting_fault_is_temporarily_unavailable(
    objects: S3Objects, faulty: FaultyS3, operation: str, fault: str
) -> None:
    """If the requests fail more often than that, the caller must try later."""
    operations = Operations(objects, faulty.objects)
    faulty.proxy.fault = lambda request: FAULTS[fault]
    with pytest.raises(TemporarilyUnavailable):
        getattr(operations, operation)()


def test_a_body_that_ends_early_is_temporarily_unavailable(
    objects: S3Objects, faulty: FaultyS3
) -> None:
    """It is never taken for a shorter object."""
    operations = Operations(objects, faulty.objects)
    faulty.proxy.fault = lambda request: truncate
    with pytest.raises(TemporarilyUnavailable):
        operations.read()


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("operation", ["begin", "go_on", "complete"])
def test_a_garbled_answer_is_retried(objects: S3Objects, faulty: FaultyS3, operation: str) -> None:
    """A document that is cut in the middle is not an answer."""
    operations = Operations(objects, faulty.objects)
    faulty.proxy.fault = at_first(1, garble)
    assert getattr(operations, operation)()


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("parts", [1, 3])
def test_a_completion_whose_answer_was_lost_succeeds(
    objects: S3Objects, faulty: FaultyS3, parts: int
) -> None:
    """The upload does not exist any more, but the object does."""
    sink = faulty.objects.sink(new_key(), None)
    for number in range(1, parts + 1):
        sink.write_part(number, b"%d" % number)
    faulty.proxy.fault = lose_the_answer_to_the_completion()
    sink.complete()
    assert get(objects, sink.location) == b"123"[:parts]


@pytest.mark.usefixtures("small_parts")
def test_an_upload_without_its_object_is_lost_progress(
    objects: S3Objects, faulty: FaultyS3
) -> None:
    """An object with another number of parts is not taken for the result."""
    sink = faulty.objects.sink(new_key(), None)
    sink.write_part(1, b"1")
    faulty.proxy.fault = lost_uploads
    with pytest.raises(ProgressLost):
        sink.complete()
    objects.client.put_object(Bucket=objects.bucket, Key=sink.location, Body=b"1")
    with pytest.raises(ProgressLost):
        sink.complete()


@pytest.mark.parametrize("operation", ["stat", "read"])
@pytest.mark.parametrize(
    "code",
    [
        "InvalidRequest",
        "KMS.DisabledException",
        "KMS.NotFoundException",
        "KMS.KMSInvalidStateException",
    ],
)
def test_an_object_encrypted_with_its_uploaders_key_is_rejected(
    objects: S3Objects, faulty: FaultyS3, operation: str, code: str
) -> None:
    """S3 refuses to read it, and the answer to a HEAD does not say why."""
    operations = Operations(objects, faulty.objects)
    faulty.proxy.fault = lambda request: refuse(400, code)
    with pytest.raises(UpdateRejected, match=f"cannot be read: {code}"):
        getattr(operations, operation)()


def test_an_object_that_answers_a_head_but_not_a_get_is_rejected(
    objects: S3Objects, faulty: FaultyS3
) -> None:
    """A HEAD needs the same permission, so that the object's key must be the reason."""
    key, etag = put(objects, b"abcde")
    faulty.proxy.fault = no_gets
    with pytest.raises(UpdateRejected, match="cannot be read: AccessDenied"):
        read(faulty.objects, key, 0, 5, size=5, etag=etag)


def test_a_replaced_object_is_rejected_without_if_match(
    objects: S3Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some servers ignore If-Match, so that the ETag of the answer is compared as well."""
    key, etag = put(objects, b"abcde")
    objects.client.put_object(Bucket=objects.bucket, Key=key, Body=b"ABCDE")
    monkeypatch.setattr("connectors.storage.s3._only_if", lambda etag: {})
    with pytest.raises(UpdateRejected, match="was replaced"):
        objects.stat(key, etag=etag)
    with pytest.raises(UpdateRejected, match="was replaced"):
        read(objects, key, 0, 5, size=5, etag=etag)


@pytest.mark.parametrize("operation", ["stat", "read"])
def test_a_denial_that_names_kms_is_a_rejection(
    objects: S3Objects, faulty: FaultyS3, operation: str
) -> None:
    """The permission to use the uploader's key is missing."""
    operations = Operations(objects, faulty.objects)
    faulty.proxy.fault = lambda request: kms_denied
    with pytest.raises(UpdateRejected, match="cannot be read: AccessDenied"):
        getattr(operations, operation)()


def test_a_throttled_key_service_is_retried(objects: S3Objects, faulty: FaultyS3) -> None:
    """The object itself is not the reason."""
    operations = Operations(objects, faulty.objects)
    faulty.proxy.fault = at_first(1, refuse(400, "KMS.ThrottlingException"))
    assert operations.read()


def test_an_expired_token_is_not_a_rejection(objects: S3Objects, faulty: FaultyS3) -> None:
    """The answer to a HEAD does not say so, and S3 is asked by a GET."""
    operations = Operations(objects, faulty.objects)
    faulty.proxy.fault = lambda request: refuse(400, "ExpiredToken")
    with pytest.raises(ServiceRefused, match="ExpiredToken"):
        operations.stat()


def test_denied_access_is_not_temporary(objects: S3Objects, faulty: FaultyS3) -> None:
    """A function without permission gets an error, and no update is rejected for it."""
    key, etag = put(objects, b"abcde")
    faulty.proxy.fault = lambda request: refuse(403, "AccessDenied")
    with pytest.raises(ServiceRefused, match="AccessDenied"):
        read(faulty.objects, key, 0, 5, size=5, etag=etag)
    with pytest.raises(ServiceRefused, match="AccessDenied"):
        faulty.objects.stat(key)


@pytest.mark.usefixtures("small_parts")
def test_an_upload_that_is_aborted_while_it_is_written_is_lost_progress(
    objects: S3Objects, faulty: FaultyS3
) -> None:
    """S3 answers NoSuchUpload, unlike moto; aborting such an upload succeeds."""
    sink = faulty.objects.sink(new_key(), None)
    sink.write_part(1, b"1")
    faulty.proxy.fault = lambda request: refuse(404, "NoSuchUpload")
    with pytest.raises(ProgressLost):
        sink.write_part(2, b"2")
    with pytest.raises(ProgressLost):
        sink.complete()
    sink.abort()
    assert sink.state()["upload_id"] is None
