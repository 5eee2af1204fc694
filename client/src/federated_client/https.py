"""Plain HTTPS: presigned posts to upload by, and a base URL to read from. No credentials, no boto3."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypedDict
from urllib.parse import quote

from .errors import (
    AccessDenied,
    ClientError,
    NotThere,
    StorageUnreachable,
    UploadRefused,
)
from .storage import Progress, patiently

TIMEOUT_SECONDS = 60

#: What an object's metadata is named by, in a form and in a header.
METADATA = "x-amz-meta-"

#: In a post's key: here goes the name of the file.
FILENAME = "${filename}"


class Post(TypedDict):
    """A presigned post, as boto3's ``generate_presigned_post`` gives it."""

    url: str
    fields: dict[str, str]


class Posts:
    """A federation's bucket, for a client without credentials.

    Parameters
    ----------
    posts : sequence of Post
        The one is used whose key is, or begins like, that of the object to store. A post whose key is
        an update's own carries one update.
    read_url : str
        What a key is appended to for reading it, such as ``https://weights.example.org/``.
    """

    def __init__(self, posts: Sequence[Post], read_url: str) -> None:
        self._posts = list(posts)
        self._read_url = read_url.rstrip("/")
        for url in (self._read_url, *(post["url"] for post in self._posts)):
            if not url.startswith(("https://", "http://")):
                raise ValueError(f"expected a URL that begins with https://, got {url!r}")

    def get(self, key: str, *, etag: str = "") -> bytes:
        def request() -> bytes:
            with _translated(key), self._opened(key, etag) as answer:
                return bytes(answer.read())

        return patiently(request)

    def download(self, key: str, path: Path, *, etag: str = "") -> None:
        def request() -> None:
            with _translated(key), self._opened(key, etag) as answer, path.open("wb") as file:
                shutil.copyfileobj(answer, file, 1 << 20)

        patiently(request)

    def _opened(self, key: str, etag: str) -> Any:
        headers = {"If-Match": f'"{etag}"'} if etag else {}
        return _answer(f"{self._read_url}/{quote(key)}", headers)

    def put(
        self, key: str, body: BinaryIO, metadata: Mapping[str, str], progress: Progress | None
    ) -> str:
        post, key = self._post_for(key)
        # What the form says already is for who has nothing else; who has more to say says all of it.
        blank = dict.fromkeys((name for name in post["fields"] if name.startswith(METADATA)), "")
        told = {METADATA + name: value for name, value in metadata.items()}
        fields = post["fields"] | blank | told | {"key": key}

        def request() -> None:
            form = _Form(fields, key.rsplit("/", 1)[1], body, progress)
            headers = {"Content-Type": form.content_type, "Content-Length": str(form.size)}
            with _translated(key), _answer(post["url"], headers, form):
                pass

        try:
            patiently(request)
        except AccessDenied:
            self._spend(post)  # It has expired, say: the next upload goes by the next post.
            raise
        self._spend(post)
        return key

    def _spend(self, post: Post) -> None:
        """A post for one update goes once that is stored: what failed may be sent by it again."""
        key = post["fields"]["key"]
        if key.startswith("updates/") and not key.endswith(FILENAME):
            self._posts.remove(post)

    def _post_for(self, key: str) -> tuple[Post, str]:
        """A post that allows the key, or one of the same folder with a name of its own."""
        folder, is_update = key.rsplit("/", 1)[0] + "/", key.startswith("updates/")
        for post in self._posts:
            allowed = post["fields"]["key"]
            if allowed == key:
                return post, key
            if allowed.endswith(FILENAME) and key.startswith(allowed.removesuffix(FILENAME)):
                return post, key
            if is_update and allowed.startswith(folder) and _extension(allowed) == _extension(key):
                return post, allowed
        raise AccessDenied(f"no presigned post is left that allows {key}: ask for new ones")


def _answer(url: str, headers: dict[str, str], data: Any = None) -> Any:
    request = urllib.request.Request(url, data, headers)  # noqa: S310 - the scheme is known
    return urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)  # noqa: S310


class _Form:
    """A form with a file, read piece by piece: the file is never held in memory."""

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

    def __iter__(self) -> Iterator[bytes]:
        yield self._head
        self._body.seek(0)
        sent = 0
        while piece := self._body.read(1 << 18):
            yield piece
            sent += len(piece)
            if self._progress:
                self._progress(sent, self._body_size)
        yield self._tail


def _extension(key: str) -> str:
    return key.rsplit(".", 1)[-1]


@contextmanager
def _translated(key: str) -> Iterator[None]:
    try:
        yield
    except urllib.error.HTTPError as error:
        with error:
            raise _of_answer(error.code, error.read(4096).decode(errors="replace"), key) from error
    except (OSError, http.client.HTTPException) as error:
        raise StorageUnreachable(f"{key} cannot be reached: {error}") from error


_CODE = re.compile(r"<Code>(\w+)</Code>(?:\s*<Message>([^<]*)</Message>)?")


def _of_answer(status: int, body: str, key: str) -> ClientError:
    told = _CODE.search(body)
    code, message = told.groups(default="") if told else ("", "")
    if status >= 500 or status == 429 or code in ("RequestTimeout", "SlowDown"):
        return StorageUnreachable(f"storage answers {status} {code}")
    if status == 404:
        return NotThere(f"there is no object {key}")
    if status == 412:
        return NotThere(f"{key} is no longer the object that was announced")
    if "expired" in message.lower():
        return AccessDenied(f"the presigned post for {key} has expired: ask for a new one")
    if status == 403:
        return AccessDenied(f"not allowed to reach {key}: {code} {message}".rstrip())
    if code == "EntityTooLarge":
        return UploadRefused(f"{key} is larger than its presigned post allows")
    return UploadRefused(f"storage refuses {key}: {status} {code} {message}".rstrip())
