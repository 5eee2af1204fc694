"""The aggregator's HTTP API as a storage back end: a client needs a URL and its own secret, nothing else.

An update is sent in parts (`parts`).
"""

from __future__ import annotations

import http.client
import json
import re
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping
from functools import partial
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
from .parts import PartedUpload
from .status import UpdateStatus, parse_update
from .storage import Progress, retry

_POINTER = re.compile(r"aggregates/(\d+)/latest\.json")
_PROGRESS = re.compile(r"aggregates/(\d+)/progress\.json")
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
        if found := _PROGRESS.fullmatch(key):
            return self._document(int(found[1]), "progress", key, attempts)
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
        path = f"/v1/models/{found[1]}/updates"
        call = partial(self.call, attempts=1)  # The upload counts its attempts itself.
        return PartedUpload(call, path, found[2], body, metadata, progress).send()

    def update(self, key: str) -> UpdateStatus:
        """Return what became of an update, however many were sent since.

        Raises
        ------
        NotThere
            If it did not arrive.
        """
        found = _UPDATE.fullmatch(key)
        if not found:
            raise BadArgument(f"{key!r} is not the key of an update")
        name = key.rpartition("/")[2]
        return parse_update(self.call("GET", f"/v1/models/{found[1]}/updates/{name}"))

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
