"""Uploads of clients in parts, each by a link that is signed for its length and its checksum.

The state of an upload is in S3 alone: its key is derived from the request, so that the same request finds
the same upload again, and S3 lists the parts that have arrived.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from aggregation.errors import ObjectMissing
from connectors.errors import translate_s3_errors
from connectors.storage.port import Orphan
from connectors.storage.presigning import signing_client
from connectors.storage.retries import retry_if_unavailable
from connectors.storage.s3 import S3Objects

#: Limits of S3.
MIN_PART_BYTES = 5 << 20
MAX_PARTS = 10_000


@dataclass(frozen=True)
class StoredPart:
    """A part that has arrived."""

    number: int
    size: int
    etag: str
    checksum: str


@dataclass(frozen=True, order=True)
class OpenUpload:
    """An unfinished upload."""

    begun_on: datetime
    upload_id: str
    key: str


class ClientUploads:
    """The unfinished uploads of clients.

    Parameters
    ----------
    objects : S3Objects
    """

    def __init__(self, objects: S3Objects) -> None:
        self._objects = objects
        self._client = objects.client
        self._signer = signing_client(str(objects.client.meta.endpoint_url))
        self._bucket = objects.bucket

    @retry_if_unavailable
    def begin(self, key: str, metadata: Mapping[str, str]) -> str:
        """Begin an upload, and return its id."""
        with translate_s3_errors():
            begun = self._client.create_multipart_upload(
                Bucket=self._bucket,
                Key=key,
                Metadata=dict(metadata),
                ChecksumAlgorithm="SHA256",
                **self._objects.write_parameters,
            )
        return str(begun["UploadId"])

    @retry_if_unavailable
    def open_uploads(self, prefix: str) -> list[OpenUpload]:
        """Return the unfinished uploads whose keys begin with a prefix, the oldest first."""
        pages = self._client.get_paginator("list_multipart_uploads")
        with translate_s3_errors():
            found = [
                OpenUpload(each["Initiated"], each["UploadId"], each["Key"])
                for page in pages.paginate(Bucket=self._bucket, Prefix=prefix)
                for each in page.get("Uploads", ())
            ]
        return sorted(found)

    def abort(self, upload: OpenUpload) -> None:
        """End an unfinished upload; do nothing if it is gone."""
        self._objects.remove(
            Orphan(key=upload.key, since=upload.begun_on, upload_id=upload.upload_id)
        )

    @retry_if_unavailable
    def bytes_since(self, prefix: str, age: timedelta) -> int:
        """Return the bytes of the objects below a prefix that were stored within this time."""
        since = datetime.now(UTC) - age
        pages = self._client.get_paginator("list_objects_v2")
        with translate_s3_errors():
            return sum(
                int(each["Size"])
                for page in pages.paginate(Bucket=self._bucket, Prefix=prefix)
                for each in page.get("Contents", ())
                if each["LastModified"] >= since
            )

    @retry_if_unavailable
    def parts(self, key: str, upload_id: str) -> dict[int, StoredPart]:
        """Return the parts that have arrived, by number.

        Raises
        ------
        ProgressLost
            If there is no such upload.
        """
        pages = self._client.get_paginator("list_parts")
        with translate_s3_errors():
            return {
                int(each["PartNumber"]): StoredPart(
                    number=int(each["PartNumber"]),
                    size=int(each["Size"]),
                    etag=str(each["ETag"]),
                    checksum=str(each.get("ChecksumSHA256", "")),
                )
                for page in pages.paginate(Bucket=self._bucket, Key=key, UploadId=upload_id)
                for each in page.get("Parts", ())
            }

    def link(
        self, key: str, upload_id: str, number: int, *, size: int, checksum: str, seconds: int
    ) -> str:
        """Return a link by which one part of this size and SHA-256 (base64) is uploaded."""
        return str(
            self._signer.generate_presigned_url(
                "upload_part",
                Params={
                    "Bucket": self._bucket,
                    "Key": key,
                    "UploadId": upload_id,
                    "PartNumber": number,
                    "ContentLength": size,
                    "ChecksumSHA256": checksum,
                },
                ExpiresIn=seconds,
            )
        )

    @retry_if_unavailable
    def complete(self, key: str, upload_id: str, parts: Mapping[int, StoredPart]) -> None:
        """Make the object of these parts.

        Raises
        ------
        ProgressLost
            If there is no such upload.
        """
        listed = [
            {
                "PartNumber": number,
                "ETag": parts[number].etag,
                **({"ChecksumSHA256": parts[number].checksum} if parts[number].checksum else {}),
            }
            for number in sorted(parts)
        ]
        with translate_s3_errors():
            self._client.complete_multipart_upload(
                Bucket=self._bucket,
                Key=key,
                UploadId=upload_id,
                MultipartUpload={"Parts": listed},
            )

    def is_complete(self, key: str) -> bool:
        """Return whether the object is there."""
        try:
            self._objects.stat(key)
        except ObjectMissing:
            return False
        return True
