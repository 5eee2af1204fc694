"""The aggregator's HTTP API as a storage back end: a client needs a URL and its own secret, nothing else.

An upload is divided into parts. What has arrived is not sent again, whether a part, the connection or the
process was lost: the server knows the update by a digest of its content.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import io
import json
import re
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, ClassVar

from . import limits
from .errors import (
    AccessDenied,
    BadArgument,
    ClientError,
    CredentialsInvalid,
    NotThere,
    StorageUnreachable,
    UploadRefused,
)
from .https import HttpsReader, check_url, opened, translated_errors
from .storage import Progress, retry

_POINTER = re.compile(r"aggregates/(\d+)/latest\.json")
_STATUS = re.compile(r"status/(\d+)/[^/]+\.json")
_SCORE = re.compile(r"scores/(\d+)/[^/]+/(\d+)\.json")
_UPDATE = re.compile(r"updates/(\d+)/[^/]+/[^/]+\.(\w+)")

#: Kinds of problems that do not pass within the attempts of a request.
_QUOTAS = ("too-many-open-uploads", "quota-exceeded")

_REFUSED = (
    http.client.BAD_REQUEST,
    http.client.CONFLICT,
    http.client.REQUEST_ENTITY_TOO_LARGE,
)

#: Names of an update's numbers in the body of a request, by their names in metadata.
_NUMBERS = {
    "num-examples": "num_examples",
    "num-steps": "num_steps",
    "base-aggregate": "base_aggregate",
}


class Api(HttpsReader):
    """The API of a federation's aggregator.

    Parameters
    ----------
    url : str
        Of the API.
    client_id : str or uuid.UUID
    secret : str
    """

    #: A presigned link refuses headers of S3 that it was not signed for.
    read_headers: ClassVar[Mapping[str, str]] = {}

    def __init__(self, url: str, client_id: str | uuid.UUID, secret: str) -> None:
        check_url(url)
        self._url = url.rstrip("/")
        self._authorization = f"Bearer {client_id}.{secret}"
        #: Links to weights, by their keys.
        self._links: dict[str, str] = {}

    def get(self, key: str, *, etag: str = "", attempts: int = limits.ATTEMPTS) -> bytes:
        """Return a document, or the weights that `latest.json` named last."""
        if found := _POINTER.fullmatch(key):
            return self._document(int(found[1]), "latest", key, attempts)
        if found := _STATUS.fullmatch(key):
            return self._document(int(found[1]), "status", key, attempts)
        return super().get(key, etag=etag, attempts=attempts)

    def put(
        self, key: str, body: BinaryIO, metadata: Mapping[str, str], progress: Progress | None
    ) -> str:
        """Send an update or a score, and return its key."""
        if found := _SCORE.fullmatch(key):
            return self._report(found[1], int(found[2]), body)
        found = _UPDATE.fullmatch(key)
        if not found:
            raise BadArgument(f"the API stores updates and scores, not {key!r}")
        return _Upload(self, found[1], found[2], body, metadata, progress).send()

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        attempts: int = limits.ATTEMPTS,
    ) -> dict[str, Any]:
        """Make a request of the API, and return its answer.

        Raises
        ------
        CredentialsInvalid, AccessDenied, NotThere, UploadRefused, StorageUnreachable
            With the words of the server.
        """
        sent = {"Authorization": self._authorization, **(headers or {})}
        return request_json(f"{self._url}{path}", method, body, sent, attempts)

    def _url_of(self, key: str) -> str:
        if key not in self._links:
            raise NotThere(f"{key} is not what latest.json names: fetch again")
        return self._links[key]

    def _document(self, model_id: int, name: str, key: str, attempts: int) -> bytes:
        model = self.call("GET", f"/v1/models/{model_id}", attempts=attempts)
        latest = model["latest"]
        if latest:
            self._links = {latest["key"]: latest["url"]}
        if model[name] is None:
            raise NotThere(f"there is no object {key}")
        return json.dumps(model[name]).encode()

    def _report(self, model_id: str, aggregate: int, body: BinaryIO) -> str:
        body.seek(0)
        results = json.loads(body.read())
        examples = results.pop("num_examples")
        score = {"aggregate": aggregate, "num_examples": examples, "results": results}
        return str(self.call("POST", f"/v1/models/{model_id}/scores", score)["key"])


def request_json(
    url: str,
    method: str,
    body: Any = None,
    headers: Mapping[str, str] | None = None,
    attempts: int = limits.ATTEMPTS,
) -> dict[str, Any]:
    """Make a request with a JSON body, again after a pause while the server is unreachable."""
    data = None if body is None else json.dumps(body).encode()
    sent = {"Accept": "application/json", **(headers or {})}
    if data is not None:
        sent["Content-Type"] = "application/json"

    def request() -> dict[str, Any]:
        made = urllib.request.Request(url, data, sent, method=method)  # noqa: S310
        with translated_errors(url, upload=False):
            try:
                with opened(made, {http.client.OK}) as answer:
                    text = answer.read()
            except urllib.error.HTTPError as error:
                raise _error_of_problem(error) from error
        try:
            found: dict[str, Any] = json.loads(text)
        except ValueError as error:
            raise StorageUnreachable(f"{url} did not answer JSON: {error}") from error
        return found

    return retry(request, attempts)


def _error_of_problem(answer: urllib.error.HTTPError) -> ClientError:
    """Return the error that a problem document (RFC 9457) describes, in the words of the server."""
    with answer:
        text = answer.read(limits.ERROR_BYTES).decode(errors="replace")
    try:
        document = json.loads(text)
        detail, kind = str(document["detail"]), str(document["type"]).rpartition(":")[2]
    except (ValueError, KeyError, TypeError):  # Of a proxy, or of API Gateway.
        detail, kind = f"the server answers {answer.code}: {text[:200]}", ""
    if answer.code == http.client.UNAUTHORIZED:
        return CredentialsInvalid(detail)
    if answer.code == http.client.FORBIDDEN:
        return AccessDenied(detail)
    if answer.code == http.client.NOT_FOUND:
        return NotThere(detail)
    if kind in _QUOTAS or answer.code in _REFUSED:
        return UploadRefused(detail)
    error = StorageUnreachable(detail)
    after = answer.headers.get("Retry-After", "")
    error.retry_after = min(float(after), limits.MAX_RETRY_AFTER) if after.isdecimal() else 0.0
    return error


class _Upload:
    """One update on its way.

    Parameters
    ----------
    api : Api
    model_id, format : str
    body : binary file
    metadata : mapping
    progress : callable, optional
    """

    def __init__(
        self,
        api: Api,
        model_id: str,
        format: str,
        body: BinaryIO,
        metadata: Mapping[str, str],
        progress: Progress | None,
    ) -> None:
        self._api = api
        self._path = f"/v1/models/{model_id}/updates"
        self._body = body
        self._progress = progress
        self._size = body.seek(0, io.SEEK_END)
        self._part_bytes = _part_bytes(self._size)
        self._count = max(1, -(-self._size // self._part_bytes))
        self._checksums = [self._checksum(number) for number in range(1, self._count + 1)]
        self._description = {
            "size": self._size,
            "format": format,
            "part_bytes": self._part_bytes,
            "parts": self._checksums,
            "update_kind": metadata["update-kind"],
            **{_NUMBERS[name]: int(metadata[name]) for name in _NUMBERS if metadata.get(name)},
        }

    def send(self) -> str:
        """Send what has not arrived, complete the update, and return its key.

        The same content has the same idempotency key, unless it was sent before and did not count.
        """
        described = json.dumps(self._description, sort_keys=True)
        for again in range(limits.ATTEMPTS):
            digest = hashlib.sha256(f"{described}{again or ''}".encode()).hexdigest()
            state = self._begin(digest)
            if not state["complete"] or not self._is_lost(state["update"]):
                return self._finish(state, digest)
        raise UploadRefused(
            f"the same update was rejected or superseded {limits.ATTEMPTS} times: "
            "federated-client status shows the reasons"
        )

    def _begin(self, digest: str) -> dict[str, Any]:
        key = {"Idempotency-Key": digest}
        return self._api.call("POST", self._path, self._description, key)

    def _is_lost(self, update: str) -> bool:
        """Return whether an update that arrived earlier is in no aggregate and will be in none."""
        state = self._api.call("GET", f"{self._path}/{update}")["state"]
        return state in ("rejected", "superseded")

    def _finish(self, state: dict[str, Any], digest: str) -> str:
        for _ in range(limits.ATTEMPTS * self._count):
            arrived = set(state["arrived"])
            self._report(arrived)
            for part in state["parts"]:
                self._send_part(part, arrived)
            if state["complete"]:
                return str(state["key"])
            if len(arrived) == self._count:
                done = self._api.call("POST", f"{self._path}/{state['update']}/complete")
                return str(done["key"])
            state = self._begin(digest)
        raise StorageUnreachable(f"the update did not arrive in {limits.ATTEMPTS} attempts")

    def _send_part(self, part: Mapping[str, Any], arrived: set[int]) -> None:
        """Send a part; if its link is refused, a new one is requested with those of the others."""
        number = int(part["number"])

        def request() -> None:
            pieces = self._pieces(number, arrived)
            headers = {"Content-Type": "application/octet-stream", **part["headers"]}
            sent = urllib.request.Request(part["url"], pieces, headers, method="PUT")  # noqa: S310
            with translated_errors(f"part {number}", upload=True), opened(sent, {http.client.OK}):
                pass

        try:
            retry(request)
        except AccessDenied:  # The link has expired.
            return
        arrived.add(number)
        self._report(arrived)

    def _pieces(self, number: int, arrived: set[int]) -> Iterator[bytes]:
        """Yield the bytes of a part, and report them."""
        before = sum(self._length(each) for each in arrived)
        start, length = (number - 1) * self._part_bytes, self._length(number)
        self._body.seek(start)
        sent = 0
        while sent < length:
            piece = self._body.read(min(limits.SEND_BYTES, length - sent))
            if not piece:
                raise UploadRefused("the file became shorter while it was sent")
            yield piece
            sent += len(piece)
            if self._progress:
                self._progress(before + sent, self._size)

    def _report(self, arrived: set[int]) -> None:
        if self._progress:
            self._progress(sum(self._length(each) for each in arrived), self._size)

    def _length(self, number: int) -> int:
        return min(self._part_bytes, self._size - (number - 1) * self._part_bytes)

    def _checksum(self, number: int) -> str:
        self._body.seek((number - 1) * self._part_bytes)
        left, digest = self._length(number), hashlib.sha256()
        while left > 0:
            piece = self._body.read(min(limits.COPY_BYTES, left))
            if not piece:
                raise UploadRefused("the file became shorter while it was read")
            digest.update(piece)
            left -= len(piece)
        return base64.b64encode(digest.digest()).decode()


def _part_bytes(size: int) -> int:
    """Return the bytes of a part: few enough to be sent again, and no more than `MAX_PARTS` parts."""
    least = -(-size // limits.MAX_PARTS)
    return max(limits.PART_BYTES, -(-least // limits.COPY_BYTES) * limits.COPY_BYTES)
