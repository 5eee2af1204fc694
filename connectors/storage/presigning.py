"""Leave to read one object, or to write one, without credentials: links and posts, signed for S3.

Whoever has one may do with that object what the signer may, until it ends or the signer's credentials do,
whichever is earlier.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from django.core.files.storage import default_storage

#: What a function's credentials are trusted to last: AWS does not tell when they end.
MAX_MINUTES_IN_A_FUNCTION = 60


class Signer:
    """Signs for objects of the federation's bucket."""

    def __init__(self) -> None:
        storage: Any = default_storage
        self._bucket = str(storage.bucket_name)
        self._client = signing_client(storage.connection.meta.client.meta.endpoint_url)

    def link(self, key: str, *, seconds: int) -> str:
        """A link by which an object is downloaded."""
        place = {"Bucket": self._bucket, "Key": key}
        return str(
            self._client.generate_presigned_url("get_object", Params=place, ExpiresIn=seconds)
        )

    def post(
        self, key: str, *, max_bytes: int, seconds: int, said: Mapping[str, str]
    ) -> Mapping[str, Any]:
        """A form by which one object is uploaded, as boto3's ``generate_presigned_post`` gives it.

        Parameters
        ----------
        key : str
            Where it will be; with ``${filename}`` at its end, the client chooses what stands there.
        max_bytes, seconds : int
        said : mapping
            Fields that the client may fill in.
        """
        signed: Mapping[str, Any] = self._client.generate_presigned_post(
            self._bucket,
            key,
            Fields=dict(said),
            Conditions=[
                ["content-length-range", 1, max_bytes],
                *(["starts-with", f"${name}", ""] for name in said),
            ],
            ExpiresIn=seconds,
        )
        return signed


def signing_client(endpoint: str) -> Any:
    """A client whose signatures are good in every Region.

    Left to itself, boto3 signs links and posts of the older Regions by Signature Version 2, which S3 does
    not take from new buckets, and all of them for ``BUCKET.s3.amazonaws.com``: of a new bucket, that is
    answered with a redirect outside the first Region, and in some Regions always.
    """
    aws = (urlsplit(endpoint).hostname or "").endswith((".amazonaws.com", ".amazonaws.com.cn"))
    config = Config(signature_version="s3v4", s3={"addressing_style": "virtual" if aws else "auto"})
    return boto3.client("s3", endpoint_url=endpoint, config=config)
