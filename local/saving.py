"""The bucket as files: what would end with the process is saved for the console, or for a look at it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from local.cloud import Cloud


class UnsuitableKey(Exception):
    """The key of an object is no path of a file below a folder."""


def save_bucket(cloud: Cloud, folder: Path) -> dict[str, str]:
    """Save the bucket's objects as files.

    A key is any text, and not every key can be the path of a file: an object may be named ``../x`` or
    ``a//b``, or ``a`` beside ``a/b``. Such an object is left out and the others are saved. A key that
    ends in ``/`` and has no content, as S3's console creates it for a folder, becomes a folder.

    Returns
    -------
    dict of str to str
        The keys of the objects that could not be saved, with the reasons.
    """
    s3 = cloud.client("s3")
    unsaved = {}
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=cloud.bucket):
        for stored in page.get("Contents", ()):
            key = stored["Key"]
            try:
                _save(s3, cloud.bucket, key, stored["Size"], folder)
            except OSError as error:
                unsaved[key] = error.strerror or str(error)
            except (UnsuitableKey, BotoCoreError, ClientError) as error:
                unsaved[key] = str(error)
    return unsaved


def _save(s3: Any, bucket: str, key: str, size: int, folder: Path) -> None:
    """Save one object below a folder.

    Raises
    ------
    UnsuitableKey
    OSError
        If another object's file or folder is in the way, or a name is too long.
    """
    is_folder = key.endswith("/") and size == 0
    parts = key.removesuffix("/").split("/") if is_folder else key.split("/")
    if "\0" in key or any(part in ("", ".", "..") for part in parts):
        raise UnsuitableKey("the key is not a path below the folder")
    path = folder.joinpath(*parts)
    if is_folder:
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    s3.download_file(bucket, key, str(path))


def unsaved_message(unsaved: dict[str, str]) -> str:
    """Return a line for each object that could not be saved."""
    return "\n".join(f"not saved: {key!r}: {reason}" for key, reason in unsaved.items())
