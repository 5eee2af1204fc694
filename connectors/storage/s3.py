"""S3 as the core sees it: objects read by ranges, and written part by part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from botocore.exceptions import ClientError

from aggregation.errors import (
    ObjectMissing,
    ProgressLost,
    TemporarilyUnavailable,
    UpdateRejected,
)
from aggregation.sources import Buffer
from connectors.errors import (
    OBJECT_REPLACED,
    ServiceRefused,
    error_code,
    s3_error,
    translate_s3_errors,
    translate_s3_read_errors,
    unreadable_object,
)
from connectors.storage.filesystem import Orphan, PreconditionFailed, StoredObject
from connectors.storage.retries import retry_on

#: What the SDK has given up or, as with a body that breaks off, does not try again.
with_retries = retry_on(TemporarilyUnavailable)


class S3Objects:
    """The objects of one bucket.

    Parameters
    ----------
    client
        boto3's S3 client; shared by threads.
    bucket : str
    write_parameters : mapping, optional
        Added to every write: encryption, storage class.
    """

    def __init__(
        self, client: Any, bucket: str, write_parameters: Mapping[str, Any] | None = None
    ) -> None:
        self.client = client
        self.bucket = bucket
        self.write_parameters = dict(write_parameters or {})

    @with_retries
    def stat(self, key: str, *, etag: str = "") -> StoredObject:
        """What S3 says of an object; with an ``etag``, of that one only."""
        with translate_s3_read_errors():
            head = self._head({"Bucket": self.bucket, "Key": key, **_only_if(etag)})
            _check_etag(head, etag)
        return StoredObject(
            size=head["ContentLength"],
            etag=head["ETag"].strip('"'),
            uploaded_on=head["LastModified"],
            metadata={name.lower(): value for name, value in head["Metadata"].items()},
        )

    def _head(self, place: dict[str, str]) -> Any:
        try:
            return self.client.head_object(**place)
        except ClientError as error:
            # The answer to a HEAD cannot tell more.
            if error_code(error) in ("400", "403"):
                self.client.get_object(**place, Range="bytes=0-0")["Body"].close()
            raise

    def get(self, key: str, *, etag: str, **asked: Any) -> Any:
        """S3's answer to a GET of the object with this ``etag``; empty: of whichever is there.

        Where it is refused and a HEAD is not, which needs the same permission, the object itself is
        why: encrypted with its uploader's key, or another by now, and shorter, on a server that heeds
        no If-Match. Where both are refused, it is the function's policy or the bucket's: an error, or
        the members would lose all their updates to an operator's slip.
        """
        place = {"Bucket": self.bucket, "Key": key, **_only_if(etag)}
        try:
            answer = self.client.get_object(**place, **asked)
        except ClientError as error:
            if isinstance(s3_error(error), ServiceRefused) and self._is_seen(place, etag):
                raise unreadable_object(error) from error
            raise
        _check_etag(answer, etag)
        return answer

    def _is_seen(self, place: Mapping[str, str], etag: str) -> bool:
        try:
            _check_etag(self.client.head_object(**place), etag)
        except ClientError:
            return False
        return True

    @with_retries
    def replace(self, key: str, data: bytes, *, etag: str) -> None:
        """Write a small JSON object in place of the one with this ``etag``; empty: of none."""
        condition = _only_if(etag) or {"IfNoneMatch": "*"}
        extra = {**self.write_parameters, "ContentType": "application/json", **condition}
        try:
            with translate_s3_errors():
                self.client.put_object(
                    Bucket=self.bucket, Key=key, Body=data, CacheControl="no-cache", **extra
                )
        except UpdateRejected as error:  # Another object is there, or none any more.
            raise PreconditionFailed(key) from error

    def orphans(self, prefix: str) -> Iterator[Orphan]:
        """All objects and unfinished uploads whose keys begin so."""
        asked = {"Bucket": self.bucket, "Prefix": prefix}
        with translate_s3_errors():
            for page in self.client.get_paginator("list_objects_v2").paginate(**asked):
                for stored in page.get("Contents", ()):
                    yield Orphan(key=stored["Key"], since=stored["LastModified"])
            for page in self.client.get_paginator("list_multipart_uploads").paginate(**asked):
                for begun in page.get("Uploads", ()):
                    yield Orphan(
                        key=begun["Key"], since=begun["Initiated"], upload_id=begun["UploadId"]
                    )

    def remove(self, orphan: Orphan) -> None:
        """Delete an object, or end an unfinished upload. Gone already is as good."""
        place = {"Bucket": self.bucket, "Key": orphan.key}
        with suppress(ProgressLost), translate_s3_errors():
            if orphan.upload_id:
                self.client.abort_multipart_upload(**place, UploadId=orphan.upload_id)
            else:
                self.client.delete_object(**place)

    def source(self, key: str, *, size: int, etag: str) -> S3Source:
        """The object's bytes, as long as it is the one with this ``etag``."""
        return S3Source(self, key, size, etag)

    def sink(self, key: str, state: Mapping[str, Any] | None) -> S3Sink:
        """A new object, or one that was begun."""
        return S3Sink(self, key, state)


def _only_if(etag: str) -> dict[str, str]:
    return {"IfMatch": f'"{etag}"'} if etag else {}


def _check_etag(answer: Mapping[str, Any], etag: str) -> None:
    """Refuse another object than the one with this ``etag``: not every S3 heeds If-Match."""
    if etag and answer["ETag"].strip('"') != etag:
        raise UpdateRejected(OBJECT_REPLACED)


class S3Source:
    """One object, read by ranged GETs that S3 refuses once the object is another one."""

    local = False

    def __init__(self, objects: S3Objects, key: str, size: int, etag: str) -> None:
        self._objects = objects
        self._key = key
        self._etag = etag
        self.size = size

    @with_retries
    def read_into(self, offset: int, buffer: Buffer) -> None:
        if offset + len(buffer) > self.size:
            raise UpdateRejected(
                f"the object ends at byte {self.size}, expected {offset + len(buffer)}"
            )
        with translate_s3_read_errors():
            last = offset + len(buffer) - 1
            response = self._objects.get(self._key, etag=self._etag, Range=f"bytes={offset}-{last}")
            with response["Body"] as body:
                if response["ContentLength"] < len(buffer):
                    raise UpdateRejected("the object is shorter than expected")
                while buffer:
                    count = body.readinto(buffer)
                    if not count:
                        raise TemporarilyUnavailable("S3 ended a body too early")
                    buffer = buffer[count:]


class S3Sink:
    """One object, written by a multipart upload; in a single request if one part is all of it.

    Its state names the upload. The parts that are in it are asked of S3 when the upload is gone on
    with, so that the state says no more than S3 does.
    """

    def __init__(self, objects: S3Objects, key: str, state: Mapping[str, Any] | None) -> None:
        self._objects = objects
        self.location = key
        self._upload_id: str | None = None
        self._parts: dict[int, dict[str, Any]] = {}
        if state:
            self.location = state["key"]
            self._upload_id = state["upload_id"]
            self._parts = self._stored_parts(state["parts"])

    @property
    def _upload(self) -> dict[str, Any]:
        return {"Bucket": self._objects.bucket, "Key": self.location, "UploadId": self._upload_id}

    def write_part(self, number: int, data: bytes | bytearray, *, last: bool = False) -> None:
        if last and number == 1:
            self._put(data)
            return
        if self._upload_id is None:
            self._begin()
        self._put_part(number, data)

    @with_retries
    def _put(self, data: bytes | bytearray) -> None:
        bucket, extra = self._objects.bucket, self._objects.write_parameters
        with translate_s3_errors():
            self._objects.client.put_object(Bucket=bucket, Key=self.location, Body=data, **extra)

    @with_retries
    def _begin(self) -> None:
        bucket = self._objects.bucket
        extra = {**self._objects.write_parameters, "ChecksumAlgorithm": "CRC32"}
        with translate_s3_errors():
            begun = self._objects.client.create_multipart_upload(
                Bucket=bucket, Key=self.location, **extra
            )
        self._upload_id = begun["UploadId"]

    @with_retries
    def _put_part(self, number: int, data: bytes | bytearray) -> None:
        with translate_s3_errors():
            self._parts[number] = self._objects.client.upload_part(
                PartNumber=number, Body=data, ChecksumAlgorithm="CRC32", **self._upload
            )

    def state(self) -> dict[str, Any]:
        return {"key": self.location, "upload_id": self._upload_id, "parts": len(self._parts)}

    @with_retries
    def complete(self) -> None:
        if self._upload_id is None:
            return
        parts = [
            {"PartNumber": number, **{k: v for k, v in part.items() if k in _OF_A_PART}}
            for number, part in sorted(self._parts.items())
        ]
        try:
            with translate_s3_errors():
                self._objects.client.complete_multipart_upload(
                    MultipartUpload={"Parts": parts}, **self._upload
                )
        except ProgressLost:
            if not self._is_complete():
                raise

    def _is_complete(self) -> bool:
        """Whether the object is there, though the answer to its completion was lost: no other upload
        has its key, and its ETag ends with how many parts it was made from."""
        try:
            return self._objects.stat(self.location).etag.endswith(f"-{len(self._parts)}")
        except ObjectMissing:
            return False

    def abort(self) -> None:
        if self._upload_id is None:
            return
        try:
            with translate_s3_errors():
                self._objects.client.abort_multipart_upload(**self._upload)
        except ProgressLost:
            pass
        self._upload_id = None
        self._parts = {}

    @with_retries
    def _stored_parts(self, count: int) -> dict[int, dict[str, Any]]:
        with translate_s3_errors():
            pages = self._objects.client.get_paginator("list_parts").paginate(**self._upload)
            stored = {part["PartNumber"]: part for page in pages for part in page.get("Parts", ())}
        if not all(number in stored for number in range(1, count + 1)):
            raise ProgressLost("parts of the unfinished result are no longer in S3")
        return {number: part for number, part in stored.items() if number <= count}


#: What of S3's answer to a part it wants to hear again when the object is completed.
_OF_A_PART = ("ETag", "ChecksumCRC32", "ChecksumCRC32C", "ChecksumCRC64NVME", "ChecksumSHA256")
