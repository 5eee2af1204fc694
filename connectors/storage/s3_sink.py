"""Results written to S3 by multipart uploads."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Protocol

from aggregation.engine.parts import PartData, body_of
from aggregation.errors import ObjectMissing, ProgressLost
from connectors.errors import translate_s3_errors
from connectors.storage.port import StoredObject
from connectors.storage.retries import retry_if_unavailable

#: The fields of S3's answer to a part that it expects again when the upload is completed.
_PART_FIELDS = ("ETag", "ChecksumCRC32", "ChecksumCRC32C", "ChecksumCRC64NVME", "ChecksumSHA256")


class Bucket(Protocol):
    """The parts of a bucket's interface that a sink uses."""

    client: Any
    bucket: str
    write_parameters: dict[str, Any]

    def stat(self, key: str) -> StoredObject:
        """Return the metadata of an object."""


class S3Sink:
    """One object, written by a multipart upload, or by a single request if it has only one part.

    Its state names the upload. When the upload is continued, S3 is asked which parts it has, so that
    the state never claims more than S3 has stored.
    """

    def __init__(self, objects: Bucket, key: str, state: Mapping[str, Any] | None) -> None:
        self._objects = objects
        self.location = key
        self._upload_id: str | None = None
        self._parts: dict[int, dict[str, Any]] = {}
        if state:
            self.location = state["key"]
            self._upload_id = state["upload_id"]
            self._parts = self._stored_parts(state["parts"]) if state["parts"] else {}

    @property
    def _object(self) -> dict[str, Any]:
        return {"Bucket": self._objects.bucket, "Key": self.location}

    @property
    def _upload(self) -> dict[str, Any]:
        return {**self._object, "UploadId": self._upload_id}

    def begin(self) -> dict[str, Any]:
        self._create_upload()
        return self.state()

    def stored_parts(self) -> set[int]:
        return set(self._list_parts())

    def write_part(self, number: int, data: PartData, *, last: bool = False) -> None:
        if last and number == 1:
            self._put_object(data)
            return
        if self._upload_id is None:
            self._create_upload()
        self._put_part(number, data)

    @retry_if_unavailable
    def _put_object(self, data: PartData) -> None:
        with translate_s3_errors():
            self._objects.client.put_object(
                **self._object, Body=body_of(data), **self._objects.write_parameters
            )

    @retry_if_unavailable
    def _create_upload(self) -> None:
        extra = {**self._objects.write_parameters, "ChecksumAlgorithm": "CRC32"}
        with translate_s3_errors():
            begun = self._objects.client.create_multipart_upload(**self._object, **extra)
        self._upload_id = begun["UploadId"]

    @retry_if_unavailable
    def _put_part(self, number: int, data: PartData) -> None:
        with translate_s3_errors():
            self._parts[number] = self._objects.client.upload_part(
                PartNumber=number, Body=body_of(data), ChecksumAlgorithm="CRC32", **self._upload
            )

    def state(self) -> dict[str, Any]:
        return {"key": self.location, "upload_id": self._upload_id, "parts": len(self._parts)}

    @retry_if_unavailable
    def complete(self) -> None:
        if self._upload_id is None:
            return
        parts = [
            {"PartNumber": number, **{k: v for k, v in part.items() if k in _PART_FIELDS}}
            for number, part in sorted(self._parts.items())
        ]
        try:
            with translate_s3_errors():
                self._objects.client.complete_multipart_upload(
                    MultipartUpload={"Parts": parts}, **self._upload
                )
        except ProgressLost:
            if not self._is_complete(len(self._parts)):
                raise

    def _is_complete(self, count: int) -> bool:
        """Return whether the object is there, with so many parts, although its upload is gone.

        No other upload has this key, and the ETag ends with the number of parts.
        """
        try:
            return self._objects.stat(self.location).etag.endswith(f"-{count}")
        except ObjectMissing:
            return False

    def abort(self) -> None:
        if self._upload_id is None:
            return
        with suppress(ProgressLost), translate_s3_errors():
            self._objects.client.abort_multipart_upload(**self._upload)
        self._upload_id = None
        self._parts = {}

    def _stored_parts(self, count: int) -> dict[int, dict[str, Any]]:
        try:
            stored = self._list_parts()
        except ProgressLost:
            if not self._is_complete(count):
                raise
            self._upload_id = None  # A process that has died since has completed it.
            return {}
        if not all(number in stored for number in range(1, count + 1)):
            raise ProgressLost("parts of the unfinished result are no longer in S3")
        return {number: part for number, part in stored.items() if number <= count}

    @retry_if_unavailable
    def _list_parts(self) -> dict[int, dict[str, Any]]:
        with translate_s3_errors():
            pages = self._objects.client.get_paginator("list_parts").paginate(**self._upload)
            return {part["PartNumber"]: part for page in pages for part in page.get("Parts", ())}
