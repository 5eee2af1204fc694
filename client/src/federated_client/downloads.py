"""A download that continues where its connection broke."""

from __future__ import annotations

import http.client
from email.message import Message
from typing import IO

from . import limits
from .checksums import Checksums
from .errors import DownloadRefused, StorageUnreachable


class Download:
    """The bytes of one object, received in one or several answers.

    Parameters
    ----------
    file : binary file
        Receives the bytes.
    key : str

    Attributes
    ----------
    position : int
        Bytes received so far.
    """

    def __init__(self, file: IO[bytes], key: str) -> None:
        self._file = file
        self._key = key
        self._checksums = Checksums(Message())
        self.position = 0

    def receive(self, answer: http.client.HTTPResponse) -> None:
        """Write the body of an answer to the file; check its length, and its checksum where there is one.

        Raises
        ------
        DownloadRefused, StorageUnreachable
        """
        if answer.length is None and not answer.chunked:
            raise DownloadRefused(f"the server does not say how long {self._key} is")
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            raise DownloadRefused(
                f"the server sends {self._key} in an encoding that was not requested"
            )
        self._begin(answer)
        end = None if answer.length is None else self.position + answer.length
        while piece := answer.read(limits.COPY_BYTES):
            self._checksums.update(piece)
            self._file.write(piece)
            self.position += len(piece)
        if end is not None and self.position != end:
            raise StorageUnreachable(f"{self._key} broke off after {self.position} of {end} bytes")
        if name := self._checksums.mismatch():
            self._restart(Message())
            raise StorageUnreachable(
                f"{self._key} was damaged on its way: its {name} checksum differs"
            )

    def _begin(self, answer: http.client.HTTPResponse) -> None:
        """Continue at the position, or begin again if the server sends the whole object."""
        if answer.status == http.client.OK:
            self._restart(answer.headers)
            return
        sent = answer.headers.get("Content-Range", "")
        if not sent.startswith(f"bytes {self.position}-"):
            raise DownloadRefused(
                f"the server sends {sent!r} of {self._key}, expected the bytes from {self.position} on"
            )

    def _restart(self, headers: Message) -> None:
        self._file.seek(0)
        self._file.truncate()
        self.position = 0
        self._checksums = Checksums(headers)
