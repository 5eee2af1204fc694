"""Presigned links and posts, by which somebody without credentials reads or writes one object.

They end at the time they name, or with the signer's credentials if those end earlier.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from django.core.files.storage import default_storage

#: AWS does not say when a function's credentials end; they are assumed to last this long.
MAX_MINUTES_IN_A_FUNCTION = 60


class Signer:
    """Signs requests for objects of the federation's bucket."""

    def __init__(self) -> None:
        storage: Any = default_storage
        self._bucket = str(storage.bucket_name)
        self._client = signing_client(storage.connection.meta.client.meta.endpoint_url)

    def link(self, key: str, *, seconds: int) -> str:
        """Return a link by which an object is downloaded."""
        return str(
            self._client.generate_presigned_url(
                "get_object", Params={"Bucket": self._bucket, "Key": key}, ExpiresIn=seconds
            )
        )

    def post(
        self, key: str, *, max_bytes: int, seconds: int, fields: Mapping[str, str]
    ) -> Mapping[str, Any]:
        """Return a form by which an object is uploaded, as boto3's ``generate_presigned_post`` does.

        Parameters
        ----------
        key : str
            With ``${filename}`` at its end, the client chooses the last part of the key.
        max_bytes, seconds : int
        fields : mapping
            Default values of the fields that the client may change.
        """
        signed: Mapping[str, Any] = self._client.generate_presigned_post(
            self._bucket,
            key,
            Fields=dict(fields),
            Conditions=[
                ["content-length-range", 1, max_bytes],
                *(["starts-with", f"${name}", ""] for name in fields),
            ],
            ExpiresIn=seconds,
        )
        return signed


def signing_client(endpoint: str) -> Any:
    """Return a client whose signatures are accepted in every Region.

    By default boto3 signs links and posts for older Regions with Signature Version 2, which S3 does
    not accept for new buckets, and signs all of them for ``BUCKET.s3.amazonaws.com``, which is
    redirected for new buckets outside the first Region, and always in some Regions.
    """
    host = urlsplit(endpoint).hostname or ""
    aws = host.endswith((".amazonaws.com", ".amazonaws.com.cn"))
    config = Config(signature_version="s3v4", s3={"addressing_style": "virtual" if aws else "auto"})
    return boto3.client("s3", endpoint_url=endpoint, config=config)
