"""S3 as the core sees it, against moto over HTTP; on bad days through a proxy that fails."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from botocore.config import Config

from aggregation.errors import (
    ObjectMissing,
    ProgressLost,
    TemporarilyUnavailable,
    UpdateRejected,
)
from connectors.errors import ServiceRefused
from connectors.storage.port import Orphan, PreconditionFailed, StoredObject, read_small
from connectors.storage.retries import TRIES
from connectors.storage.s3 import S3Objects
from tests.faults.proxy import Fault, Proxy, Request, at_first, refuse, reset, s3_proxy, truncate

PART = 5 << 20
_numbers = itertools.count(1)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patience without the waiting."""
    monkeypatch.setattr("connectors.storage.retries.FIRST_PAUSE_SECONDS", 0)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if S3 took parts of any size."""
    monkeypatch.setattr("moto.s3.models.S3_UPLOAD_PART_MIN_SIZE", 1)


@pytest.fixture
def objects(shared_cloud: Any) -> S3Objects:
    return S3Objects(shared_cloud.client("s3"), shared_cloud.bucket)


def new_key() -> str:
    return f"aggregates/1/{next(_numbers)}.npz"


def put(objects: S3Objects, body: bytes, **extra: Any) -> tuple[str, str]:
    """Store an object as somebody else does; its key and ETag."""
    key = new_key()
    stored = objects.client.put_object(Bucket=objects.bucket, Key=key, Body=body, **extra)
    return key, stored["ETag"].strip('"')


def get(objects: S3Objects, key: str) -> bytes:
    return bytes(objects.client.get_object(Bucket=objects.bucket, Key=key)["Body"].read())


def read(objects: S3Objects, key: str, start: int, stop: int, *, size: int, etag: str) -> bytes:
    buffer = bytearray(stop - start)
    objects.source(key, size=size, etag=etag).read_into(start, memoryview(buffer))
    return bytes(buffer)


# Looking at objects


def test_what_s3_says_of_an_object(objects: S3Objects) -> None:
    """Size, ETag, when it was stored, and the uploader's metadata by lower-case name."""
    key, etag = put(objects, b"abcde", Metadata={"Num-Examples": "5"})
    found = objects.stat(key)
    assert found == StoredObject(
        size=5, etag=etag, uploaded_on=found.uploaded_on, metadata={"num-examples": "5"}
    )
    assert abs(found.uploaded_on - datetime.now(UTC)) < timedelta(minutes=1)
    assert objects.stat(key, etag=etag) == found


def test_an_object_that_is_not_there_is_missing(objects: S3Objects) -> None:
    """Never stored or deleted, looked at or read, it is missing."""
    key, etag = put(objects, b"abcde")
    objects.remove(Orphan(key=key, since=datetime.now(UTC)))
    objects.remove(Orphan(key=key, since=datetime.now(UTC)))
    for gone in (key, "aggregates/1/never.npz"):
        with pytest.raises(ObjectMissing):
            objects.stat(gone, etag=etag)
        with pytest.raises(ObjectMissing):
            read(objects, gone, 0, 5, size=5, etag=etag)


def test_an_object_that_was_replaced_is_not_looked_at_or_read(objects: S3Objects) -> None:
    """With the ETag of what was there before, S3 gives nothing of what is there now."""
    key, etag = put(objects, b"abcde")
    source = objects.source(key, size=5, etag=etag)
    source.read_into(0, memoryview(bytearray(2)))
    objects.client.put_object(Bucket=objects.bucket, Key=key, Body=b"ABCDE")
    with pytest.raises(UpdateRejected, match="was replaced"):
        objects.stat(key, etag=etag)
    with pytest.raises(UpdateRejected, match="was replaced"):
        source.read_into(2, memoryview(bytearray(2)))


@pytest.mark.parametrize(("start", "stop"), [(0, 10), (0, 1), (9, 10), (3, 7)])
def test_ranges_are_read(objects: S3Objects, start: int, stop: int) -> None:
    """The bytes asked for, and no other."""
    body = b"0123456789"
    key, etag = put(objects, body)
    assert read(objects, key, start, stop, size=10, etag=etag) == body[start:stop]


def test_many_threads_read_one_source(objects: S3Objects) -> None:
    """A source may be read from several threads at once."""
    body = bytes(range(256)) * 16
    key, etag = put(objects, body)
    source = objects.source(key, size=len(body), etag=etag)

    def part(start: int) -> bytes:
        buffer = bytearray(256)
        source.read_into(start, memoryview(buffer))
        return bytes(buffer)

    with ThreadPoolExecutor(8) as pool:
        assert b"".join(pool.map(part, range(0, len(body), 256))) == body


@pytest.mark.parametrize(("start", "stop"), [(0, 11), (9, 11), (10, 11), (50, 60)])
@pytest.mark.parametrize("size", [10, 100])
def test_bytes_that_are_not_there_are_no_update(
    objects: S3Objects, start: int, stop: int, size: int
) -> None:
    """Beyond the end, be it that of the object or the one believed in, there is nothing to wait for."""
    key, etag = put(objects, b"0123456789")
    with pytest.raises(UpdateRejected, match=r"ends at byte 10|shorter than expected"):
        read(objects, key, start, stop, size=size, etag=etag)


def test_an_object_in_an_archive_is_no_update(objects: S3Objects) -> None:
    """What its uploader had S3 put away for hours cannot be read."""
    key, etag = put(objects, b"abcde", StorageClass="DEEP_ARCHIVE")
    with pytest.raises(UpdateRejected, match="cannot be read: InvalidObjectState"):
        read(objects, key, 0, 5, size=5, etag=etag)


def test_small_objects_are_read_whole(objects: S3Objects) -> None:
    """With their ETags, and only if they are small; an empty one is empty."""
    key, etag = put(objects, b"abcde")
    assert read_small(objects, key, max_bytes=5) == (b"abcde", etag)
    with pytest.raises(UpdateRejected, match="5 bytes, at most 4"):
        read_small(objects, key, max_bytes=4)
    assert read_small(objects, put(objects, b"")[0], max_bytes=4)[0] == b""


def test_a_small_object_is_replaced_if_it_is_the_one_known(objects: S3Objects) -> None:
    """Whoever knows what is there, or that nothing is, writes; anybody else is outrun."""
    key = new_key()
    objects.replace(key, b"1", etag="")
    first = objects.stat(key).etag
    with pytest.raises(PreconditionFailed):
        objects.replace(key, b"2", etag="")
    objects.replace(key, b"2", etag=first)
    with pytest.raises(PreconditionFailed):
        objects.replace(key, b"3", etag=first)
    assert get(objects, key) == b"2"


def test_what_is_not_allowed_is_not_taken_for_passing(objects: S3Objects, bad_day: BadDay) -> None:
    """A function without the rights is told so, and no update is blamed for it."""
    key, etag = put(objects, b"abcde")
    bad_day.proxy.fault = lambda request: refuse(403, "AccessDenied")
    with pytest.raises(ServiceRefused, match="AccessDenied"):
        read(bad_day.objects, key, 0, 5, size=5, etag=etag)
    with pytest.raises(ServiceRefused, match="AccessDenied"):
        bad_day.objects.stat(key)


# Writing results


def unfinished(objects: S3Objects) -> list[str]:
    found = objects.client.list_multipart_uploads(Bucket=objects.bucket)
    return [each["Key"] for each in found.get("Uploads", ())]


def again(objects: S3Objects, state: dict[str, Any]) -> Any:
    """A sink of another process, which goes on with what a database kept."""
    return objects.sink(new_key(), json.loads(json.dumps(state)))


def test_a_result_of_one_part_is_one_request(objects: S3Objects) -> None:
    """A small result is put as a whole: no upload is begun for it."""
    sink = objects.sink(new_key(), None)
    sink.write_part(1, b"whole", last=True)
    sink.complete()
    assert get(objects, sink.location) == b"whole"
    assert sink.location not in unfinished(objects)


def test_a_result_of_several_parts_shows_when_it_is_complete(objects: S3Objects) -> None:
    """Until the last part is there, nothing of it can be read; parts are as large as S3 wants them."""
    sink = objects.sink(new_key(), None)
    parts = [b"1" * PART, b"2" * PART, b"3"]
    for number, part in enumerate(parts, 1):
        sink.write_part(number, part, last=part is parts[-1])
        with pytest.raises(ObjectMissing):
            objects.stat(sink.location)
    sink.complete()
    assert get(objects, sink.location) == b"".join(parts)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("kept", [1, 2])
def test_another_process_goes_on_after_the_last_part_that_was_kept(
    objects: S3Objects, kept: int
) -> None:
    """Parts that were written and not kept any more are written again, to the same object."""
    sink = objects.sink(new_key(), None)
    for number in range(1, kept + 1):
        sink.write_part(number, b"%d" % number)
    state = sink.state()
    sink.write_part(kept + 1, b"lost")
    other = again(objects, state)
    assert (other.location, other.state()) == (sink.location, state)
    for number in range(kept + 1, 4):
        other.write_part(number, b"%d" % number, last=number == 3)
    other.complete()
    assert get(objects, sink.location) == b"123"


@pytest.mark.usefixtures("small_parts")
def test_an_upload_that_is_gone_is_lost_progress(objects: S3Objects) -> None:
    """An upload that was ended, as by the bucket's lifecycle, cannot be gone on with, in any way."""
    sink = objects.sink(new_key(), None)
    sink.write_part(1, b"1")
    state = sink.state()
    objects.remove(Orphan(key=sink.location, since=datetime.now(UTC), upload_id=state["upload_id"]))
    with pytest.raises(ProgressLost):
        again(objects, state)
    sink.abort()


@pytest.mark.usefixtures("small_parts")
def test_an_upload_that_goes_while_it_is_written_is_lost_progress(
    objects: S3Objects, bad_day: BadDay
) -> None:
    """As S3 tells it, of which moto knows nothing; aborting what is gone is as good as done."""
    sink = bad_day.objects.sink(new_key(), None)
    sink.write_part(1, b"1")
    bad_day.proxy.fault = lambda request: refuse(404, "NoSuchUpload")
    with pytest.raises(ProgressLost):
        sink.write_part(2, b"2")
    with pytest.raises(ProgressLost):
        sink.complete()
    sink.abort()
    assert sink.state()["upload_id"] is None


@pytest.mark.usefixtures("small_parts")
def test_a_part_that_is_not_there_is_lost_progress(objects: S3Objects) -> None:
    """The state says how many parts there are; that S3 has them all is asked."""
    sink = objects.sink(new_key(), None)
    sink.write_part(1, b"1")
    with pytest.raises(ProgressLost, match="parts of the unfinished result"):
        again(objects, {**sink.state(), "parts": 2})


@pytest.mark.usefixtures("small_parts")
def test_an_aborted_result_leaves_nothing(objects: S3Objects) -> None:
    """Neither an object nor an upload, and aborting again, or before a part, is as good."""
    sink = objects.sink(new_key(), None)
    sink.abort()
    sink.write_part(1, b"1")
    assert sink.location in unfinished(objects)
    sink.abort()
    sink.abort()
    assert sink.location not in unfinished(objects)
    with pytest.raises(ObjectMissing):
        objects.stat(sink.location)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("parts", [1, 2])
def test_results_are_written_as_the_storage_says(objects: S3Objects, parts: int) -> None:
    """Encryption and the like hold for results however they are written."""
    encrypted = S3Objects(objects.client, objects.bucket, {"ServerSideEncryption": "AES256"})
    sink = encrypted.sink(new_key(), None)
    for number in range(1, parts + 1):
        sink.write_part(number, b"x", last=number == parts)
    sink.complete()
    head = objects.client.head_object(Bucket=objects.bucket, Key=sink.location)
    assert head["ServerSideEncryption"] == "AES256"


@pytest.mark.usefixtures("small_parts")
def test_leftovers_are_objects_and_unfinished_uploads(objects: S3Objects) -> None:
    """A listing shows both, below the prefix, and each can be removed."""
    stored = f"aggregates/leftovers/{next(_numbers)}.npz"
    objects.client.put_object(Bucket=objects.bucket, Key=stored, Body=b"x")
    sink = objects.sink(f"aggregates/leftovers/{next(_numbers)}.npz", None)
    sink.write_part(1, b"1")
    found = list(objects.orphans("aggregates/leftovers/"))
    assert [(each.key, each.upload_id) for each in found] == [
        (stored, ""),
        (sink.location, sink.state()["upload_id"]),
    ]
    for orphan in found:
        objects.remove(orphan)
    assert list(objects.orphans("aggregates/leftovers/")) == []


# Bad days


class BadDay:
    """S3 through a proxy, by an SDK that tries each request once: what is tried again is our doing."""

    def __init__(self, proxy: Proxy, bucket: str) -> None:
        self.proxy = proxy
        config = Config(
            retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=5, proxies={}
        )
        client = boto3.client("s3", endpoint_url=proxy.endpoint, config=config)
        self.objects = S3Objects(client, bucket)


@pytest.fixture(scope="module")
def proxied(shared_cloud: Any) -> Iterator[BadDay]:
    with s3_proxy() as proxy:
        yield BadDay(proxy, shared_cloud.bucket)


@pytest.fixture
def bad_day(proxied: BadDay) -> Iterator[BadDay]:
    yield proxied
    proxied.proxy.fault = lambda request: None


def garble(handler: Any, request: Request) -> None:
    """S3 answers with half a document, whose length is said to be just that."""
    handler.answer(200, {"Content-Type": "application/xml"}, b"<?xml version='1.0'?><Broken><")


def no_gets(request: Request) -> Fault | None:
    """A HEAD is answered, a GET is denied."""
    return refuse(403, "AccessDenied") if request.method == "GET" else None


def kms_denied(handler: Any, request: Request) -> None:
    """S3 tells which right is missing."""
    told = "User: arn:aws:sts::1:assumed-role/f is not authorized to perform: kms:Decrypt"
    body = f"<Error><Code>AccessDenied</Code><Message>{told}</Message></Error>".encode()
    handler.answer(403, {"Content-Type": "application/xml"}, body)


def completed_unheard() -> Callable[[Request], Fault | None]:
    """The answer to a completion breaks off; from then on, S3 knows no such upload (moto does)."""
    faults = iter([truncate])
    return lambda request: (
        next(faults, refuse(404, "NoSuchUpload")) if request.method == "POST" else None
    )


def lost_uploads(request: Request) -> Fault | None:
    """No upload is known, objects are."""
    return refuse(404, "NoSuchUpload") if request.method == "POST" else None


FAULTS: dict[str, Fault] = {
    "500": refuse(500, "InternalError"),
    "503": refuse(503, "SlowDown"),
    "throttled": refuse(429, "TooManyRequests"),
    "timeout": refuse(400, "RequestTimeout"),
    "reset": reset,
    "truncated": truncate,
}


ACTS = ("stat", "read", "put", "begin", "go_on", "complete")


class Acts:
    """What is asked of S3; each returns something that shows it was done."""

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

    def begin(self) -> bool:
        sink = self.bad.sink(new_key(), None)
        sink.write_part(1, b"1")
        return sink.location in unfinished(self.well)

    def go_on(self) -> bool:
        begun = self.well.sink(new_key(), None)
        begun.write_part(1, b"1")
        sink = again(self.bad, begun.state())
        sink.write_part(2, b"2")
        return sink.state()["parts"] == 2

    def complete(self) -> bool:
        begun = self.well.sink(new_key(), None)
        begun.write_part(1, b"1")
        begun._objects = self.bad
        begun.complete()
        return get(self.well, begun.location) == b"1"


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize(
    ("act", "fault"),
    # S3 has completed an object when the answer to that breaks off: see below.
    [(act, fault) for act in ACTS for fault in FAULTS if (act, fault) != ("complete", "truncated")],
)
def test_what_passes_is_tried_again(
    objects: S3Objects, bad_day: BadDay, act: str, fault: str
) -> None:
    """Where each request fails as often as we are patient, it is done all the same."""
    acts = Acts(objects, bad_day.objects)
    bad_day.proxy.fault = at_first(TRIES - 1, FAULTS[fault])
    assert getattr(acts, act)()


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("fault", [name for name in FAULTS if name != "truncated"])
def test_what_lasts_is_temporarily_unavailable(
    objects: S3Objects, bad_day: BadDay, act: str, fault: str
) -> None:
    """Where requests fail for longer than that, it is left for later."""
    acts = Acts(objects, bad_day.objects)
    bad_day.proxy.fault = lambda request: FAULTS[fault]
    with pytest.raises(TemporarilyUnavailable):
        getattr(acts, act)()


def test_bytes_that_break_off_are_never_taken_for_all(objects: S3Objects, bad_day: BadDay) -> None:
    """A body that ends too early, again and again, is no short update: it is left for later."""
    acts = Acts(objects, bad_day.objects)
    bad_day.proxy.fault = lambda request: truncate
    with pytest.raises(TemporarilyUnavailable):
        acts.read()


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("act", ["begin", "go_on", "complete"])
def test_answers_that_make_no_sense_pass(objects: S3Objects, bad_day: BadDay, act: str) -> None:
    """A document that is cut in the middle is no answer: the request is made again."""
    acts = Acts(objects, bad_day.objects)
    bad_day.proxy.fault = at_first(1, garble)
    assert getattr(acts, act)()


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("parts", [1, 3])
def test_a_completion_whose_answer_was_lost_is_done(
    objects: S3Objects, bad_day: BadDay, parts: int
) -> None:
    """That the upload is no longer there is no loss if the object is: nothing is read anew."""
    sink = bad_day.objects.sink(new_key(), None)
    for number in range(1, parts + 1):
        sink.write_part(number, b"%d" % number)
    bad_day.proxy.fault = completed_unheard()
    sink.complete()
    assert get(objects, sink.location) == b"123"[:parts]


@pytest.mark.usefixtures("small_parts")
def test_an_upload_that_is_gone_without_its_object_is_lost_progress(
    objects: S3Objects, bad_day: BadDay
) -> None:
    """An object of other parts under the key is not taken for the result either."""
    sink = bad_day.objects.sink(new_key(), None)
    sink.write_part(1, b"1")
    bad_day.proxy.fault = lost_uploads
    with pytest.raises(ProgressLost):
        sink.complete()
    objects.client.put_object(Bucket=objects.bucket, Key=sink.location, Body=b"1")
    with pytest.raises(ProgressLost):
        sink.complete()


@pytest.mark.parametrize("act", ["stat", "read"])
@pytest.mark.parametrize(
    "code",
    [
        "InvalidRequest",
        "KMS.DisabledException",
        "KMS.NotFoundException",
        "KMS.KMSInvalidStateException",
    ],
)
def test_an_object_encrypted_with_its_uploaders_key_is_no_update(
    objects: S3Objects, bad_day: BadDay, act: str, code: str
) -> None:
    """S3 refuses to give it to anybody else; that a HEAD cannot say so makes no difference."""
    acts = Acts(objects, bad_day.objects)
    bad_day.proxy.fault = lambda request: refuse(400, code)
    with pytest.raises(UpdateRejected, match=f"cannot be read: {code}"):
        getattr(acts, act)()


def test_an_object_that_is_seen_and_not_given_is_no_update(
    objects: S3Objects, bad_day: BadDay
) -> None:
    """Denied as if the function lacked the right to read it, which a HEAD needs as well: the object is
    under a key that its uploader has kept."""
    key, etag = put(objects, b"abcde")
    bad_day.proxy.fault = no_gets
    with pytest.raises(UpdateRejected, match="cannot be read: AccessDenied"):
        read(bad_day.objects, key, 0, 5, size=5, etag=etag)


def test_another_object_is_refused_where_a_server_heeds_no_condition(
    objects: S3Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not every S3 knows If-Match: the ETag of what came is looked at, too."""
    key, etag = put(objects, b"abcde")
    objects.client.put_object(Bucket=objects.bucket, Key=key, Body=b"ABCDE")
    monkeypatch.setattr("connectors.storage.s3._only_if", lambda etag: {})
    with pytest.raises(UpdateRejected, match="was replaced"):
        objects.stat(key, etag=etag)
    with pytest.raises(UpdateRejected, match="was replaced"):
        read(objects, key, 0, 5, size=5, etag=etag)


@pytest.mark.parametrize("act", ["stat", "read"])
def test_a_denial_that_names_kms_is_the_uploaders_doing(
    objects: S3Objects, bad_day: BadDay, act: str
) -> None:
    """Where S3 says which right is missing, that is enough."""
    acts = Acts(objects, bad_day.objects)
    bad_day.proxy.fault = lambda request: kms_denied
    with pytest.raises(UpdateRejected, match="cannot be read: AccessDenied"):
        getattr(acts, act)()


def test_a_key_service_that_is_busy_passes(objects: S3Objects, bad_day: BadDay) -> None:
    """KMS asking for patience says nothing of the object."""
    acts = Acts(objects, bad_day.objects)
    bad_day.proxy.fault = at_first(1, refuse(400, "KMS.ThrottlingException"))
    assert acts.read()


def test_a_token_that_has_expired_is_not_the_uploaders_doing(
    objects: S3Objects, bad_day: BadDay
) -> None:
    """The answer to a HEAD is the same; S3 is asked for the reason before an update is blamed."""
    acts = Acts(objects, bad_day.objects)
    bad_day.proxy.fault = lambda request: refuse(400, "ExpiredToken")
    with pytest.raises(ServiceRefused, match="ExpiredToken"):
        acts.stat()
