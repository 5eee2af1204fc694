"""Presigned posts: which one allows a key, and the form that sends a file by it."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, TypedDict

from . import limits
from .errors import AccessDenied
from .storage import Progress

#: The prefix of metadata in a form and in a header.
METADATA = "x-amz-meta-"

#: In a post's key, the place of the file's name.
FILENAME = "${filename}"


class Post(TypedDict):
    """A presigned post, as boto3's ``generate_presigned_post`` returns it."""

    url: str
    fields: dict[str, str]


def allowing(posts: Sequence[Post], key: str) -> list[tuple[Post, str]]:
    """Return the posts by which an object can be stored, each with the key that it has then.

    Raises
    ------
    AccessDenied
        If there is none.
    """
    folder, _, name = key.rpartition("/")
    found = []
    for post in posts:
        allowed = post["fields"]["key"]
        prefix = allowed.removesuffix(FILENAME)
        if allowed == key:
            found.append((post, key))
        elif allowed != prefix and prefix.rpartition("/")[0] == folder:
            found.append((post, prefix + name))
    if not found:
        raise AccessDenied(
            f"no presigned post allows {key}: ask for new ones{_hint(posts, folder)}"
        )
    return found


def _hint(posts: Sequence[Post], folder: str) -> str:
    """Say why posts for one key each, which used to be signed, are of no use for updates."""
    if any(post["fields"]["key"].startswith(f"{folder}/") for post in posts):
        return (
            f", whose key ends with {FILENAME}. A post for a single key is not used for an update, since "
            "the next one would take its place"
        )
    return ""


def form_fields(post: Post, key: str, metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the fields of a form that stores an object by a post.

    The metadata in the post are defaults for clients that know nothing else. This client knows all of its
    own: what it does not say is sent empty, since S3 refuses a form without a field of the post's policy.
    The kind of the update and its steps are left out where the post's policy does not allow them.
    """
    fields = post["fields"]
    blank = {name: "" for name in fields if name.startswith(METADATA)}
    own = {METADATA + name: value for name, value in metadata.items()}
    for optional in ("update-kind", "num-steps"):
        if METADATA + optional not in fields:
            own.pop(METADATA + optional, None)
    return fields | blank | own | {"key": key}


def largest_body(post: Post) -> int | None:
    """Return how many bytes a post's policy allows; None if it does not say."""
    try:
        policy: Any = json.loads(base64.b64decode(post["fields"]["policy"]))
        for condition in policy["conditions"]:
            if isinstance(condition, list) and condition[0] == "content-length-range":
                return int(condition[2])
    except (ValueError, KeyError, TypeError, IndexError):
        return None
    return None


class Form:
    """A form with a file, read piece by piece: the file is never held in memory.

    Parameters
    ----------
    fields : mapping of str to str
    name : str
        The file's name.
    body : binary file
    progress : callable, optional

    Attributes
    ----------
    md5 : str
        The checksum of the file, once the form has been read.
    """

    def __init__(
        self, fields: Mapping[str, str], name: str, body: BinaryIO, progress: Progress | None
    ) -> None:
        boundary = uuid.uuid4().hex
        self.content_type = f"multipart/form-data; boundary={boundary}"
        head = "".join(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n{value}\r\n'
            for field, value in fields.items()
        )
        head += (
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        )
        self._head, self._tail = head.encode(), f"\r\n--{boundary}--\r\n".encode()
        self._body, self._progress = body, progress
        self._body_size = body.seek(0, os.SEEK_END)
        self.size = len(self._head) + self._body_size + len(self._tail)
        self.md5 = ""

    def __iter__(self) -> Iterator[bytes]:
        digest = hashlib.md5(usedforsecurity=False)
        yield self._head
        self._body.seek(0)
        sent = 0
        while piece := self._body.read(limits.SEND_BYTES):
            digest.update(piece)
            yield piece
            sent += len(piece)
            if self._progress:
                self._progress(sent, self._body_size)
        self.md5 = digest.hexdigest()
        yield self._tail
