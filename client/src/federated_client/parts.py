"""An update sent in parts through the API.

What has arrived is not sent again, whether a part, an answer, the connection or the process was lost: the
server knows the update by a digest of its content, and lists its parts.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import io
import json
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, BinaryIO

from . import limits
from .errors import AccessDenied, StorageUnreachable, UploadRefused
from .https import opened, translated_errors
from .storage import Progress, retry

#: Names of an update's numbers in the body of a request, by their names in metadata.
_NUMBERS = {
    "num-examples": "num_examples",
    "num-steps": "num_steps",
    "base-aggregate": "base_aggregate",
}


class PartedUpload:
    """One update on its way.

    Parameters
    ----------
    call : callable
        Makes one request of the API: method, path, body, headers.
    path : str
        Of the model's updates.
    format : str
    body : binary file
    metadata : mapping
    progress : callable, optional
    """

    def __init__(
        self,
        call: Callable[..., dict[str, Any]],
        path: str,
        format: str,
        body: BinaryIO,
        metadata: Mapping[str, str],
        progress: Progress | None,
    ) -> None:
        self._call = call
        self._path = path
        self._body = body
        self._progress = progress
        self._size = body.seek(0, io.SEEK_END)
        self._part_bytes = _part_bytes(self._size)
        self._count = max(1, -(-self._size // self._part_bytes))
        self._arrived: set[int] = set()
        self._description = {
            "size": self._size,
            "format": format,
            "part_bytes": self._part_bytes,
            "parts": [self._checksum(number) for number in range(1, self._count + 1)],
            "update_kind": metadata["update-kind"],
            **{_NUMBERS[name]: int(metadata[name]) for name in _NUMBERS if metadata.get(name)},
        }

    def send(self) -> str:
        """Send what has not arrived, complete the update, and return its key.

        The same content has the same idempotency key, unless it was sent before and did not count.

        Raises
        ------
        StorageUnreachable
            After `UPLOAD_ATTEMPTS` in a row in which no part arrived.
        UploadRefused, CredentialsInvalid, AccessDenied, NotThere
        """
        described = json.dumps(self._description, sort_keys=True)
        for again in range(limits.ATTEMPTS):
            digest = hashlib.sha256(f"{described}{again or ''}".encode()).hexdigest()
            deliver = partial(self._deliver, digest)
            key = retry(deliver, limits.UPLOAD_ATTEMPTS, position=lambda: len(self._arrived))
            if key:
                return key
        raise UploadRefused(
            f"the same update was rejected or superseded {limits.ATTEMPTS} times: "
            "federated-client status shows the reasons"
        )

    def _deliver(self, digest: str) -> str:
        """Find out which parts have arrived, and send the others.

        Returns
        -------
        str
            The key; empty if the update arrived earlier, but is in no aggregate and will be in none.
        """
        while True:
            key = {"Idempotency-Key": digest}
            state = self._call("POST", self._path, self._description, key)
            update = f"{self._path}/{state['update']}"
            if state["complete"]:
                return "" if self._is_lost(update) else str(state["key"])
            self._arrived = set(state["arrived"])
            self._report(0)
            for part in state["parts"]:
                self._send_part(part)
            if len(self._arrived) == self._count:
                return str(self._call("POST", f"{update}/complete")["key"])

    def _is_lost(self, update: str) -> bool:
        return self._call("GET", update)["state"] in ("rejected", "superseded")

    def _send_part(self, part: Mapping[str, Any]) -> None:
        """Send a part once: whether one whose answer was lost has arrived, the server knows."""
        number = int(part["number"])
        headers = {"Content-Type": "application/octet-stream", **part["headers"]}
        request = urllib.request.Request(  # noqa: S310
            part["url"], self._pieces(number), headers, method="PUT"
        )
        try:
            with (
                translated_errors(f"part {number}", upload=True),
                opened(request, {http.client.OK}),
            ):
                pass
        except AccessDenied as error:  # The link has expired: the next attempt has a new one.
            raise StorageUnreachable(str(error)) from error
        self._arrived.add(number)
        self._report(0)

    def _pieces(self, number: int) -> Iterator[bytes]:
        """Yield the bytes of a part, and report them."""
        length, sent = self._length(number), 0
        self._body.seek((number - 1) * self._part_bytes)
        while sent < length:
            piece = self._body.read(min(limits.SEND_BYTES, length - sent))
            if not piece:
                raise UploadRefused("the file became shorter while it was sent")
            yield piece
            sent += len(piece)
            self._report(sent)

    def _report(self, of_part: int) -> None:
        if self._progress:
            self._progress(sum(map(self._length, self._arrived)) + of_part, self._size)

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
