"""Plain HTTPS: presigned posts for uploads and a base URL for downloads. No credentials, no boto3."""

from __future__ import annotations

import errno
import http.client
import io
import re
import ssl
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from email.message import Message
from pathlib import Path
from typing import IO, Any, BinaryIO, ClassVar
from urllib.parse import quote

from . import limits
from .answers import error_of, parse_answer
from .downloads import Download
from .errors import (
    AccessDenied,
    BadArgument,
    DownloadRefused,
    Misconfigured,
    NotThere,
    StorageUnreachable,
    UploadRefused,
)
from .forms import Form, Post, allowing, form_fields, largest_body
from .storage import Progress, complete_file, retry

#: Errors of the file that is read or written, not of the connection.
_OF_THIS_MACHINE = {errno.EACCES, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOSPC, errno.EROFS}

_MD5 = re.compile(r'"?([0-9a-f]{32})"?')

#: ETags of objects that S3 encrypts with these are not MD5.
_ENCRYPTED = ("aws:kms", "aws:kms:dsse")


class HttpsReader(ABC):
    """Reads objects, each from a URL of its own."""

    #: Sent with each request for an object.
    read_headers: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def _url_of(self, key: str) -> str:
        """Return the URL of an object."""

    def get(self, key: str, *, etag: str = "", attempts: int = limits.ATTEMPTS) -> bytes:
        body = io.BytesIO()
        self._receive(body, key, etag, attempts)
        return body.getvalue()

    def get_range(self, key: str, start: int, length: int, *, etag: str) -> tuple[bytes, int]:
        def request() -> tuple[bytes, int]:
            wanted = {"Range": f"bytes={start}-{start + length - 1}"}
            with self._opened(key, etag, wanted) as answer:
                if answer.status == http.client.OK:  # The server does not know ranges.
                    return _part_of_all(answer, start, length, key)
                return _whole_body(answer, key), _size_of_all(answer.headers, key)

        return retry(request)

    def download(self, key: str, path: Path, *, etag: str = "") -> None:
        with complete_file(path) as file:
            self._receive(file, key, etag, limits.ATTEMPTS)

    def _receive(self, file: IO[bytes], key: str, etag: str, attempts: int) -> None:
        """Write an object to a file; after a failure, only what is missing of a known one is requested."""
        download = Download(file, key)

        def request() -> None:
            is_known = etag and download.position
            missing = {"Range": f"bytes={download.position}-"} if is_known else {}
            with self._opened(key, etag, missing) as answer:
                download.receive(answer)

        retry(request, attempts, position=lambda: download.position)

    @contextmanager
    def _opened(
        self, key: str, etag: str, headers: Mapping[str, str] | None = None
    ) -> Iterator[http.client.HTTPResponse]:
        """Open an object for reading; every error in the block is one of this package's."""
        sent = {**self.read_headers, **(headers or {})}
        if etag:
            sent["If-Match"] = f'"{etag}"'
        expected = {http.client.OK, http.client.PARTIAL_CONTENT} if headers else {http.client.OK}
        request = urllib.request.Request(self._url_of(key), headers=sent)  # noqa: S310
        with translated_errors(key, upload=False), opened(request, expected) as answer:
            found = answer.headers.get("ETag", "").removeprefix("W/").strip('"')
            if etag and found and found != etag:
                raise NotThere(f"{key} is no longer the object that was announced")
            yield answer


class Posts(HttpsReader):
    """A federation's bucket, for a client without credentials.

    Parameters
    ----------
    posts : sequence of Post
        Those that allow an object's folder and any name in it are tried in their order.
    read_url : str
        The URL in front of a key for reading it, such as ``https://weights.example.org/``.
    """

    read_headers: ClassVar[Mapping[str, str]] = {"x-amz-checksum-mode": "ENABLED"}

    def __init__(self, posts: Sequence[Post], read_url: str) -> None:
        self._posts = list(posts)
        self._read_url = read_url.rstrip("/")
        for url in (self._read_url, *(post["url"] for post in self._posts)):
            check_url(url)

    def _url_of(self, key: str) -> str:
        return f"{self._read_url}/{quote(key)}"

    def put(
        self, key: str, body: BinaryIO, metadata: Mapping[str, str], progress: Progress | None
    ) -> str:
        choices = allowing(self._posts, key)
        for post, stored_key in choices:
            try:
                self._post(post, stored_key, body, metadata, progress)
            except AccessDenied:  # It has expired, for example: the next one may not have.
                self._posts.remove(post)
                if post is choices[-1][0]:
                    raise
            else:
                return stored_key
        raise AssertionError("allowing() returns at least one post")

    def _post(
        self,
        post: Post,
        key: str,
        body: BinaryIO,
        metadata: Mapping[str, str],
        progress: Progress | None,
    ) -> None:
        size, most = body.seek(0, io.SEEK_END), largest_body(post)
        if most is not None and size > most:
            raise UploadRefused(
                f"{key} is larger than its presigned post allows: {size} bytes, at most {most}"
            )
        fields = form_fields(post, key, metadata)
        success = {int(fields.get("success_action_status", "204")), http.client.NO_CONTENT}

        def request() -> None:
            form = Form(fields, key.rpartition("/")[2], body, progress)
            headers = {"Content-Type": form.content_type, "Content-Length": str(form.size)}
            sent = urllib.request.Request(post["url"], form, headers)  # noqa: S310
            with translated_errors(key, upload=True), opened(sent, success) as answer:
                _check_stored(answer.headers, form.md5, key)

        retry(request)


def check_url(url: str) -> None:
    """Refuse what is not a URL of a web server."""
    if not url.startswith(("https://", "http://")):
        raise BadArgument(f"expected a URL that begins with https://, got {url!r}")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Refuse redirects of uploads: urllib would follow with a GET and take its answer for success."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: Any,
        newurl: str,
    ) -> urllib.request.Request | None:
        if req.data is not None:
            return None
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_OPENER = urllib.request.build_opener(_NoRedirect)


@contextmanager
def opened(
    request: urllib.request.Request, success: set[int]
) -> Iterator[http.client.HTTPResponse]:
    """Make a request, and raise an HTTPError for each status but those that mean success."""
    with _OPENER.open(request, timeout=limits.READ_SECONDS) as answer:
        if answer.status not in success:
            body = io.BytesIO(answer.read(limits.ERROR_BYTES))
            raise urllib.error.HTTPError(
                request.full_url, answer.status, "unexpected", answer.headers, body
            )
        yield answer


def _whole_body(answer: http.client.HTTPResponse, key: str) -> bytes:
    expected, body = answer.length, answer.read()
    if expected is None and not answer.chunked:
        raise DownloadRefused(f"the server does not say how long {key} is")
    if expected is not None and len(body) != expected:
        raise StorageUnreachable(f"{key} broke off after {len(body)} of {expected} bytes")
    return body


def _part_of_all(
    answer: http.client.HTTPResponse, start: int, length: int, key: str
) -> tuple[bytes, int]:
    if answer.length is None:
        raise DownloadRefused(f"the server does not say how long {key} is")
    size, body = answer.length, answer.read(start + length)[start:]
    if len(body) < min(length, max(size - start, 0)):
        raise StorageUnreachable(f"{key} broke off after {start + len(body)} bytes")
    return body, size


def _size_of_all(headers: Message, key: str) -> int:
    total = headers.get("Content-Range", "").rpartition("/")[2]
    if not total.isdigit():
        raise DownloadRefused(f"the server does not say how long {key} is")
    return int(total)


def _check_stored(headers: Message, md5: str, key: str) -> None:
    """Compare the ETag of what was stored with what was sent, where it is an MD5."""
    found = _MD5.fullmatch(headers.get("ETag", ""))
    encrypted = headers.get("x-amz-server-side-encryption", "") in _ENCRYPTED
    if found and not encrypted and found[1] != md5:
        raise StorageUnreachable(f"{key} was damaged on its way: its ETag differs")


@contextmanager
def translated_errors(key: str, *, upload: bool) -> Iterator[None]:
    """Raise this package's errors for those of a connection and of S3."""
    try:
        yield
    except urllib.error.HTTPError as error:
        with error:
            body = error.read(limits.ERROR_BYTES).decode(errors="replace")
        raise error_of(parse_answer(error.code, body), key, upload=upload) from error
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, OSError) and error.errno in _OF_THIS_MACHINE:
            raise
        if isinstance(getattr(error, "reason", error), ssl.SSLCertVerificationError):
            raise Misconfigured(f"the server's certificate is not trusted: {error}") from error
        raise StorageUnreachable(f"{key} cannot be reached: {error}") from error
    except ValueError as error:  # Of http.client: a URL with a port or a host that is none.
        raise Misconfigured(f"{key} cannot be reached: {error}") from error
