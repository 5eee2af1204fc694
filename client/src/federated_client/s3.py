"""A bucket, with credentials, by boto3."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from .errors import (
    AccessDenied,
    ClientError,
    NoBucket,
    NotThere,
    StorageUnreachable,
    UploadRefused,
)
from .storage import Progress, patiently


class Bucket:
    """A federation's bucket, for a client with credentials.

    Large uploads go in parts, side by side, and a part that fails is sent again.

    Parameters
    ----------
    name : str
    s3 : optional
        boto3's S3 client; by default the one that boto3's own settings describe.
    """

    def __init__(self, name: str, s3: Any = None) -> None:
        self.name = name
        if s3 is None:
            import boto3
            from botocore.config import Config

            s3 = boto3.client(
                "s3", config=Config(retries={"mode": "standard", "total_max_attempts": 6})
            )
        self._s3 = s3

    def get(self, key: str, *, etag: str = "") -> bytes:
        def request() -> bytes:
            with self._translated(key):
                answer = self._s3.get_object(Bucket=self.name, Key=key, **_only_if(etag))
                return bytes(answer["Body"].read())

        return patiently(request)

    def download(self, key: str, path: Path, *, etag: str = "") -> None:
        def request() -> None:
            with self._translated(key), path.open("wb") as file:
                answer = self._s3.get_object(Bucket=self.name, Key=key, **_only_if(etag))
                for chunk in answer["Body"].iter_chunks(1 << 20):
                    file.write(chunk)

        patiently(request)

    def put(
        self, key: str, body: BinaryIO, metadata: Mapping[str, str], progress: Progress | None
    ) -> str:
        size = body.seek(0, os.SEEK_END)

        def request() -> None:
            body.seek(0)
            with self._translated(key):
                self._s3.upload_fileobj(
                    _Unclosed(body),
                    self.name,
                    key,
                    ExtraArgs={"Metadata": dict(metadata)},
                    Callback=_counter(progress, size) if progress else None,
                )

        patiently(request)
        return key

    @contextmanager
    def _translated(self, key: str) -> Iterator[None]:
        """The SDK's errors as this package's own."""
        from boto3.exceptions import S3UploadFailedError
        from botocore import exceptions

        try:
            yield
        except exceptions.ClientError as error:
            raise _translated(error, self.name, key) from error
        except S3UploadFailedError as error:
            cause = error.__context__
            if isinstance(cause, exceptions.ClientError):
                raise _translated(cause, self.name, key) from error
            raise StorageUnreachable(f"{key} could not be uploaded: {error}") from error
        except exceptions.NoCredentialsError as error:
            raise AccessDenied(
                "boto3 finds no credentials: set AWS_PROFILE or AWS_ACCESS_KEY_ID, or ask for "
                "presigned posts"
            ) from error
        except exceptions.BotoCoreError as error:
            raise StorageUnreachable(f"S3 cannot be reached: {error}") from error


def _translated(error: Any, bucket: str, key: str) -> ClientError:
    code = error.response.get("Error", {}).get("Code", "")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code == "NoSuchBucket":
        return NoBucket(f"there is no bucket {bucket!r}")
    if code in ("NoSuchKey", "404"):
        return NotThere(f"there is no object {key} in bucket {bucket}")
    if code in ("PreconditionFailed", "412"):
        return NotThere(f"{key} is no longer the object that was announced")
    if status == 403:
        return AccessDenied(f"not allowed to reach {key} in bucket {bucket}: {code}")
    if status >= 500 or status == 429 or code in ("SlowDown", "RequestTimeout"):
        return StorageUnreachable(f"S3 answers {code}")
    return UploadRefused(f"S3 refuses {key}: {error}")


class _Unclosed:
    """A file that stays open: boto3 closes what it has uploaded, and a retry reads it again."""

    def __init__(self, file: BinaryIO) -> None:
        self.read, self.seek, self.tell = file.read, file.seek, file.tell

    def close(self) -> None:
        """Stay open."""


def _counter(progress: Progress, size: int) -> Any:
    sent = 0

    def count(more: int) -> None:
        nonlocal sent
        sent += more
        progress(sent, size)

    return count


def _only_if(etag: str) -> dict[str, str]:
    return {"IfMatch": f'"{etag}"'} if etag else {}
