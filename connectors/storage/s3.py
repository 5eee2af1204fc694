"""Object storage in an S3 bucket: metadata, reads by ranges, conditional writes and listings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from typing import Any, NamedTuple

from botocore.exceptions import ClientError

from aggregation.errors import ObjectMissing, ProgressLost, TemporarilyUnavailable, UpdateRejected
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
from connectors.storage.port import Orphan, PreconditionFailed, StoredObject, known_version
from connectors.storage.retries import retry_if_unavailable
from connectors.storage.s3_sink import S3Sink

#: Bytes of a body that are read at once. urllib3 copies what is read into a buffer, and with many threads
#: the copies of whole ranges took 60 MB; copies of this size stay in the processor's cache.
READ_BYTES = 1 << 18

#: Keys that one DeleteObjects request may name.
MAX_DELETED = 1000


class _Version(NamedTuple):
    """A version of an object, or a delete marker that hides older ones.

    ``id`` is empty in a bucket that has never kept versions.
    """

    id: str
    is_marker: bool


class S3Objects:
    """The objects of one bucket.

    Parameters
    ----------
    client
        boto3's S3 client; shared by threads.
    bucket : str
    write_parameters : mapping, optional
        Added to every write, such as encryption and storage class.
    """

    def __init__(
        self, client: Any, bucket: str, write_parameters: Mapping[str, Any] | None = None
    ) -> None:
        self.client = client
        self.bucket = bucket
        self.write_parameters = dict(write_parameters or {})

    @retry_if_unavailable
    def stat(self, key: str, *, etag: str = "", version: str = "") -> StoredObject:
        with translate_s3_read_errors():
            head = self._head(self._request(key, etag, version))
            _check_etag(head, etag)
        return StoredObject(
            size=head["ContentLength"],
            etag=head["ETag"].strip('"'),
            uploaded_on=head["LastModified"],
            version=known_version(head.get("VersionId", "")),
            metadata={name.lower(): value for name, value in head["Metadata"].items()},
        )

    def _request(self, key: str, etag: str, version: str) -> dict[str, str]:
        """Return the parameters by which a request names an object."""
        named = {"VersionId": version} if version else {}
        return {"Bucket": self.bucket, "Key": key, **named, **_only_if(etag)}

    def _head(self, request: dict[str, str]) -> Any:
        try:
            return self.client.head_object(**request)
        except ClientError as error:
            # The answer to a HEAD has no body that says more; that of a GET has.
            if error_code(error) in ("400", "403"):
                self.client.get_object(**request, Range="bytes=0-0")["Body"].close()
            raise

    def get(self, key: str, *, etag: str, version: str, byte_range: str) -> Any:
        """Return S3's answer to a ranged GET.

        If S3 refuses a GET but not a HEAD, which needs the same permission, then the reason is the
        object itself: it is encrypted with its uploader's key or, on a server without If-Match, was
        replaced by a shorter one. If S3 refuses both, the reason is the policy of the function or of
        the bucket. That is an error rather than a rejection, because the clients would lose their
        updates to a mistake of the operator.
        """
        request = self._request(key, etag, version)
        try:
            answer = self.client.get_object(**request, Range=byte_range)
        except ClientError as error:
            if isinstance(s3_error(error), ServiceRefused) and self._answers_head(request, etag):
                raise unreadable_object(error) from error
            raise
        _check_etag(answer, etag)
        return answer

    def _answers_head(self, request: Mapping[str, str], etag: str) -> bool:
        try:
            _check_etag(self.client.head_object(**request), etag)
        except ClientError:
            return False
        return True

    @retry_if_unavailable
    def read(self, key: str) -> bytes:
        with translate_s3_errors():
            return bytes(self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read())

    @retry_if_unavailable
    def replace(self, key: str, data: bytes, *, etag: str) -> None:
        condition = _only_if(etag) or {"IfNoneMatch": "*"}
        try:
            self._put_json(key, data, **condition)
        except UpdateRejected as error:  # S3 answered 412, or 404 because the object is gone.
            raise PreconditionFailed(key) from error

    @retry_if_unavailable
    def put_json(self, key: str, data: bytes) -> None:
        self._put_json(key, data)

    def _put_json(self, key: str, data: bytes, **extra: Any) -> None:
        with translate_s3_errors():
            self.client.put_object(
                Bucket=self.bucket,
                Key=key,
                Body=data,
                CacheControl="no-cache",
                **{**self.write_parameters, "ContentType": "application/json", **extra},
            )

    @retry_if_unavailable
    def create(self, key: str, data: bytes, *, kms_key: str = "") -> None:
        encryption = (
            {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": kms_key, "BucketKeyEnabled": False}
            if kms_key
            else {}
        )
        try:
            with translate_s3_errors():
                self.client.put_object(
                    Bucket=self.bucket,
                    Key=key,
                    Body=data,
                    IfNoneMatch="*",
                    **{**self.write_parameters, **encryption},
                )
        except UpdateRejected as error:  # S3 answered 412.
            raise PreconditionFailed(key) from error

    def erase(self, key: str) -> bool:
        found = False
        while (version := self._latest_version(key)) is not None:
            found = found or not version.is_marker
            named = {"VersionId": version.id} if version.id else {}
            with translate_s3_errors():
                self.client.delete_object(Bucket=self.bucket, Key=key, **named)
        return found

    @retry_if_unavailable
    def _latest_version(self, key: str) -> _Version | None:
        """Return the latest version of an object; None if there is none, and no delete marker either."""
        try:
            with translate_s3_errors():
                head = self.client.head_object(Bucket=self.bucket, Key=key)
        except ObjectMissing as error:
            cause = error.__cause__
            answer: Any = cause.response if isinstance(cause, ClientError) else {}
            headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
            if headers.get("x-amz-delete-marker") != "true":
                return None
            return _Version(id=headers["x-amz-version-id"], is_marker=True)
        return _Version(id=head.get("VersionId", ""), is_marker=False)

    def listing(self, prefix: str) -> Iterator[Orphan]:
        request = {"Bucket": self.bucket, "Prefix": prefix}
        with translate_s3_errors():
            for page in self.client.get_paginator("list_objects_v2").paginate(**request):
                for stored in page.get("Contents", ()):
                    yield Orphan(key=stored["Key"], since=stored["LastModified"])

    def orphans(self, prefix: str) -> Iterator[Orphan]:
        yield from self.listing(prefix)
        request = {"Bucket": self.bucket, "Prefix": prefix}
        with translate_s3_errors():
            for page in self.client.get_paginator("list_multipart_uploads").paginate(**request):
                for begun in page.get("Uploads", ()):
                    yield Orphan(
                        key=begun["Key"], since=begun["Initiated"], upload_id=begun["UploadId"]
                    )

    def remove_objects(self, keys: Iterable[str]) -> None:
        waiting = iter(keys)
        while batch := list(islice(waiting, MAX_DELETED)):
            named = {"Objects": [{"Key": key} for key in batch], "Quiet": True}
            with translate_s3_errors():
                answer = self.client.delete_objects(Bucket=self.bucket, Delete=named)
            if kept := answer.get("Errors"):
                raise ServiceRefused(f"S3 did not delete {len(kept)} objects, such as {kept[0]}")

    def remove(self, orphan: Orphan) -> None:
        request = {"Bucket": self.bucket, "Key": orphan.key}
        with suppress(ProgressLost), translate_s3_errors():
            if orphan.upload_id:
                self.client.abort_multipart_upload(**request, UploadId=orphan.upload_id)
            else:
                self.client.delete_object(**request)

    def source(self, key: str, *, size: int, etag: str, version: str = "") -> S3Source:
        return S3Source(self, key, size, etag, version)

    def sink(self, key: str, state: Mapping[str, Any] | None) -> S3Sink:
        return S3Sink(self, key, state)


def _only_if(etag: str) -> dict[str, str]:
    return {"IfMatch": f'"{etag}"'} if etag else {}


def _check_etag(answer: Mapping[str, Any], etag: str) -> None:
    """Refuse an object with another ETag: some servers that speak S3 ignore If-Match."""
    if etag and answer["ETag"].strip('"') != etag:
        raise UpdateRejected(OBJECT_REPLACED)


class S3Source:
    """One object, read by ranged GETs. S3 refuses them once the object has been replaced."""

    local = False

    def __init__(self, objects: S3Objects, key: str, size: int, etag: str, version: str) -> None:
        self._objects = objects
        self._key = key
        self._etag = etag
        self._version = version
        self.size = size

    @retry_if_unavailable
    def read_into(self, offset: int, buffer: Buffer) -> None:
        stop = offset + len(buffer)
        if stop > self.size:
            raise UpdateRejected(f"the object ends at byte {self.size}, expected {stop}")
        with translate_s3_read_errors():
            answer = self._objects.get(
                self._key,
                etag=self._etag,
                version=self._version,
                byte_range=f"bytes={offset}-{stop - 1}",
            )
            with answer["Body"] as body:
                if answer["ContentLength"] < len(buffer):
                    raise UpdateRejected("the object is shorter than expected")
                while buffer:
                    count = body.readinto(buffer[:READ_BYTES])
                    if not count:
                        raise TemporarilyUnavailable("S3 ended a body too early")
                    buffer = buffer[count:]
