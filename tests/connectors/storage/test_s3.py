"""Object storage in S3, against moto over HTTP."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from urllib3 import HTTPResponse

from aggregation.errors import (
    ObjectMissing,
    ProgressLost,
    UpdateRejected,
)
from connectors.storage.port import Orphan, PreconditionFailed, StoredObject, read_small
from connectors.storage.s3 import READ_BYTES, S3Objects
from tests.connectors.storage.s3_objects import again, get, new_key, put, read, unfinished

PART = 5 << 20

# Reading


def test_the_metadata_of_an_object(objects: S3Objects) -> None:
    """Size, ETag, time, and the uploader's metadata by lower-case name."""
    key, etag = put(objects, b"abcde", Metadata={"Num-Examples": "5"})
    found = objects.stat(key)
    assert found == StoredObject(
        size=5,
        etag=etag,
        uploaded_on=found.uploaded_on,
        version=found.version,
        metadata={"num-examples": "5"},
    )
    assert abs(found.uploaded_on - datetime.now(UTC)) < timedelta(minutes=1)
    assert objects.stat(key, etag=etag) == found


def test_a_replaced_object_is_read_in_its_version(objects: S3Objects) -> None:
    """Its metadata and its bytes are those of the version; a version that does not exist is missing."""
    key = "updates/1/versions.npz"
    versions = [
        objects.client.put_object(Bucket=objects.bucket, Key=key, Body=body)["VersionId"]
        for body in (b"first", b"second")
    ]
    found = objects.stat(key, version=versions[0])
    assert (found.size, found.version) == (5, versions[0])
    source = objects.source(key, size=5, etag=found.etag, version=versions[0])
    buffer = bytearray(5)
    source.read_into(0, memoryview(buffer))
    assert buffer == b"first"
    assert objects.stat(key).version == versions[1]
    with pytest.raises(ObjectMissing):
        objects.stat(key, version="of-another-bucket")


def test_a_missing_object_is_reported_as_missing(objects: S3Objects) -> None:
    """An object that was never stored or was deleted can be neither inspected nor read."""
    key, etag = put(objects, b"abcde")
    objects.remove(Orphan(key=key, since=datetime.now(UTC)))
    objects.remove(Orphan(key=key, since=datetime.now(UTC)))
    for gone in (key, "aggregates/1/never.npz"):
        with pytest.raises(ObjectMissing):
            objects.stat(gone, etag=etag)
        with pytest.raises(ObjectMissing):
            read(objects, gone, 0, 5, size=5, etag=etag)


def test_a_replaced_object_is_neither_inspected_nor_read(objects: S3Objects) -> None:
    """With the ETag of the former object, S3 returns nothing of the present one."""
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
    """A read returns exactly the bytes of its range."""
    body = b"0123456789"
    key, etag = put(objects, body)
    assert read(objects, key, start, stop, size=10, etag=etag) == body[start:stop]


def test_a_range_is_read_in_small_pieces(
    objects: S3Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No read of a body is larger than `READ_BYTES`, because urllib3 copies each of them."""
    body = bytes(range(256)) * (3 * READ_BYTES // 256) + b"end"
    key, etag = put(objects, body)
    sizes = []
    readinto = HTTPResponse.readinto

    def recorded(response: HTTPResponse, buffer: memoryview) -> Any:
        sizes.append(len(buffer))
        return readinto(response, buffer)

    monkeypatch.setattr(HTTPResponse, "readinto", recorded)
    assert read(objects, key, 0, len(body), size=len(body), etag=etag) == body
    assert max(sizes) == READ_BYTES


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
def test_a_range_beyond_the_end_is_rejected(
    objects: S3Objects, start: int, stop: int, size: int
) -> None:
    """A range beyond the end of the object, or beyond its stated size, is rejected."""
    key, etag = put(objects, b"0123456789")
    with pytest.raises(UpdateRejected, match=r"ends at byte 10|shorter than expected"):
        read(objects, key, start, stop, size=size, etag=etag)


def test_an_archived_object_is_rejected(objects: S3Objects) -> None:
    """S3 would need hours to make it readable."""
    key, etag = put(objects, b"abcde", StorageClass="DEEP_ARCHIVE")
    with pytest.raises(UpdateRejected, match="cannot be read: InvalidObjectState"):
        read(objects, key, 0, 5, size=5, etag=etag)


def test_a_small_object_is_read_whole(objects: S3Objects) -> None:
    """It is returned with its ETag, unless it is too large; an empty object is empty."""
    key, etag = put(objects, b"abcde")
    assert read_small(objects, key, max_bytes=5) == (b"abcde", etag)
    with pytest.raises(UpdateRejected, match="5 bytes, at most 4"):
        read_small(objects, key, max_bytes=4)
    assert read_small(objects, put(objects, b"")[0], max_bytes=4)[0] == b""


def test_a_small_object_is_replaced_only_if_it_is_the_known_one(objects: S3Objects) -> None:
    """A writer that knows the present ETag, or that there is no object, succeeds; others fail."""
    key = new_key()
    objects.replace(key, b"1", etag="")
    first = objects.stat(key).etag
    with pytest.raises(PreconditionFailed):
        objects.replace(key, b"2", etag="")
    objects.replace(key, b"2", etag=first)
    with pytest.raises(PreconditionFailed):
        objects.replace(key, b"3", etag=first)
    assert get(objects, key) == b"2"


# Writing results


def test_a_result_of_one_part_is_one_request(objects: S3Objects) -> None:
    """A small result is written by one PUT, without a multipart upload."""
    sink = objects.sink(new_key(), None)
    sink.write_part(1, b"whole", last=True)
    sink.complete()
    assert get(objects, sink.location) == b"whole"
    assert sink.location not in unfinished(objects)


def test_a_result_of_several_parts_is_visible_when_complete(objects: S3Objects) -> None:
    """Until it is complete, nothing of it can be read."""
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
def test_another_process_continues_after_the_last_saved_part(objects: S3Objects, kept: int) -> None:
    """Parts that were written after the state was saved are written again."""
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
def test_an_aborted_upload_is_lost_progress(objects: S3Objects) -> None:
    """An upload that the bucket's lifecycle has aborted cannot be continued."""
    sink = objects.sink(new_key(), None)
    sink.write_part(1, b"1")
    state = sink.state()
    objects.remove(Orphan(key=sink.location, since=datetime.now(UTC), upload_id=state["upload_id"]))
    with pytest.raises(ProgressLost):
        again(objects, state)
    sink.abort()


@pytest.mark.usefixtures("small_parts")
def test_a_missing_part_is_lost_progress(objects: S3Objects) -> None:
    """S3 is asked whether it has all parts that the state counts."""
    sink = objects.sink(new_key(), None)
    sink.write_part(1, b"1")
    with pytest.raises(ProgressLost, match="parts of the unfinished result"):
        again(objects, {**sink.state(), "parts": 2})


@pytest.mark.usefixtures("small_parts")
def test_an_aborted_result_leaves_nothing(objects: S3Objects) -> None:
    """Neither an object nor an upload is left; aborting twice, or before the first part, is allowed."""
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
def test_results_are_written_with_the_parameters_of_the_storage(
    objects: S3Objects, parts: int
) -> None:
    """Encryption applies to results of one part and of several."""
    encrypted = S3Objects(objects.client, objects.bucket, {"ServerSideEncryption": "AES256"})
    sink = encrypted.sink(new_key(), None)
    for number in range(1, parts + 1):
        sink.write_part(number, b"x", last=number == parts)
    sink.complete()
    head = objects.client.head_object(Bucket=objects.bucket, Key=sink.location)
    assert head["ServerSideEncryption"] == "AES256"


@pytest.mark.usefixtures("small_parts")
def test_a_result_that_another_process_completed_is_complete(objects: S3Objects) -> None:
    """The upload is gone, but the object has as many parts; with another number, it is not the same."""
    key = new_key()
    state = {**objects.sink(key, None).begin(), "parts": 2}
    for number in (1, 2):
        objects.sink(key, {**state, "parts": 0}).write_part(number, b"x")
    for _ in range(2):
        objects.sink(key, state).complete()
    with pytest.raises(ProgressLost):
        objects.sink(key, {**state, "parts": 3})


def test_many_objects_are_deleted(objects: S3Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are deleted in batches, and those that are gone are no error."""
    monkeypatch.setattr("connectors.storage.s3.MAX_DELETED", 2)
    keys = [new_key("many") for _ in range(3)]
    for key in keys:
        objects.client.put_object(Bucket=objects.bucket, Key=key, Body=b"x")
    objects.remove_objects([*keys, new_key("many")])
    assert list(objects.listing("aggregates/many/")) == []


@pytest.mark.usefixtures("small_parts")
def test_orphans_are_objects_and_unfinished_uploads(objects: S3Objects) -> None:
    """Both are listed below the prefix, and both can be removed."""
    stored = new_key("orphans")
    objects.client.put_object(Bucket=objects.bucket, Key=stored, Body=b"x")
    sink = objects.sink(new_key("orphans"), None)
    sink.write_part(1, b"1")
    found = list(objects.orphans("aggregates/orphans/"))
    assert [(each.key, each.upload_id) for each in found] == [
        (stored, ""),
        (sink.location, sink.state()["upload_id"]),
    ]
    for orphan in found:
        objects.remove(orphan)
    assert list(objects.orphans("aggregates/orphans/")) == []
