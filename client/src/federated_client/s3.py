"""A bucket with credentials, by boto3."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from . import limits
from .answers import Answer, error_of
from .errors import ClientError, CredentialsInvalid, Misconfigured, NoBucket, StorageUnreachable
from .storage import Progress, complete_file, retry

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]|arn:[!-~]+")


class Bucket:
    """A federation's bucket, for a client with credentials.

    Large uploads are sent in parts, several at a time, and a part that fails is sent again.

    Parameters
    ----------
    name : str
        Its name, or the ARN of an access point.
    s3 : optional
        boto3's S3 client; by default one that boto3's own settings describe.

    Raises
    ------
    NoBucket
        If it cannot be a bucket's name.
    Misconfigured
        If boto3 is not installed, or its settings cannot be used.
    """

    def __init__(self, name: str, s3: Any = None) -> None:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise NoBucket(f"{name!r} is not the name of a bucket{_name_in(name)}")
        self.name = name
        self._s3 = s3 if s3 is not None else _new_client()

    def get(self, key: str, *, etag: str = "", attempts: int = limits.ATTEMPTS) -> bytes:
        def request() -> bytes:
            with self._translated_errors(key, upload=False):
                answer = self._s3.get_object(Bucket=self.name, Key=key, **_if_match(etag))
                return bytes(answer["Body"].read())  # botocore checks length and checksum.

        return retry(request, attempts)

    def get_range(self, key: str, start: int, length: int, *, etag: str) -> tuple[bytes, int]:
        wanted = {"Range": f"bytes={start}-{start + length - 1}"}

        def request() -> tuple[bytes, int]:
            with self._translated_errors(key, upload=False):
                answer = self._s3.get_object(Bucket=self.name, Key=key, **wanted, **_if_match(etag))
                size = int(answer["ContentRange"].rpartition("/")[2])
                return bytes(answer["Body"].read()), size

        return retry(request)

    def download(self, key: str, path: Path, *, etag: str = "") -> None:
        def request() -> None:
            with self._translated_errors(key, upload=False), complete_file(path) as file:
                answer = self._s3.get_object(Bucket=self.name, Key=key, **_if_match(etag))
                for chunk in answer["Body"].iter_chunks(limits.COPY_BYTES):
                    file.write(chunk)

        retry(request)

    def put(
        self, key: str, body: BinaryIO, metadata: Mapping[str, str], progress: Progress | None
    ) -> str:
        size = body.seek(0, os.SEEK_END)

        def request() -> None:
            body.seek(0)
            with self._translated_errors(key, upload=True):
                self._s3.upload_fileobj(
                    _NotClosed(body),
                    self.name,
                    key,
                    ExtraArgs={"Metadata": dict(metadata)},
                    Callback=_counter(progress, size) if progress else None,
                )

        retry(request)
        return key

    @contextmanager
    def _translated_errors(self, key: str, *, upload: bool) -> Iterator[None]:
        from botocore import exceptions

        try:
            yield
        except (exceptions.ClientError, exceptions.BotoCoreError) as error:
            raise self._error_of(error, key, upload=upload) from error

    def _error_of(self, error: Any, key: str, *, upload: bool) -> ClientError:
        from botocore import exceptions

        if isinstance(error, exceptions.ClientError):
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            found = error.response.get("Error", {})
            answer = Answer(status, found.get("Code") or "", found.get("Message") or "")
            return error_of(answer, key, bucket=self.name, upload=upload)
        return _of_the_sdk(error, key)


def _of_the_sdk(error: Any, key: str) -> ClientError:
    """Return the error for one that boto3 raised without an answer of S3."""
    from botocore import exceptions as sdk

    if isinstance(
        error,
        sdk.NoCredentialsError
        | sdk.PartialCredentialsError
        | sdk.CredentialRetrievalError
        | sdk.TokenRetrievalError
        | sdk.SSOError,
    ):
        return CredentialsInvalid(
            f"boto3 has no valid credentials: set AWS_PROFILE or AWS_ACCESS_KEY_ID, or ask for presigned "
            f"posts ({error})"
        )
    if isinstance(error, sdk.SSLError):
        return Misconfigured(f"a secure connection cannot be established: {error}")
    if isinstance(
        error,
        sdk.HTTPClientError
        | sdk.ConnectionError
        | sdk.IncompleteReadError
        | sdk.ChecksumError
        | sdk.FlexibleChecksumError,
    ):
        return StorageUnreachable(f"S3 cannot be reached for {key}: {error}")
    return Misconfigured(f"boto3 cannot use its settings: {error}")


def _new_client() -> Any:
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError as error:
        raise Misconfigured(
            "Bucket needs boto3: pip install 'serverless-federated-client[s3]'"
        ) from error
    config = Config(
        retries={"mode": "standard", "total_max_attempts": limits.BOTO_ATTEMPTS},
        connect_timeout=limits.CONNECT_SECONDS,
        read_timeout=limits.READ_SECONDS,
    )
    try:
        return boto3.client("s3", config=config)
    except (BotoCoreError, ValueError) as error:
        raise Misconfigured(f"boto3 cannot use its settings: {error}") from error


def _name_in(name: object) -> str:
    """Return what the name probably is, for a URI of a bucket."""
    found = urlsplit(name).netloc if isinstance(name, str) else ""
    return f": use {found!r}" if found else ""


class _NotClosed:
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


def _if_match(etag: str) -> dict[str, str]:
    return {"IfMatch": f'"{etag}"'} if etag else {}
