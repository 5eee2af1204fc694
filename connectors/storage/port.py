"""The interface of object storage, which a bucket and a directory implement."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import IO, Any, Protocol

from aggregation.engine import ranges
from aggregation.engine.parts import data_of, new_part
from aggregation.errors import InvalidWeights, ObjectMissing, UpdateRejected
from aggregation.formats import format_of, peek_layout
from aggregation.layout import TensorLayout
from aggregation.round import ResultSink
from aggregation.sources import ByteSource


@dataclass(frozen=True, kw_only=True)
class StoredObject:
    """The metadata of an object.

    Parameters
    ----------
    size : int
        In bytes.
    etag : str
        Changes when the object is written again.
    uploaded_on : datetime
    version : str
        Empty if storage keeps no versions.
    metadata : mapping
        The uploader's own metadata, by lower-case name.
    """

    size: int
    etag: str
    uploaded_on: datetime
    version: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Orphan:
    """An object or an unfinished upload in a listing, which may belong to no aggregate.

    Parameters
    ----------
    key : str
    since : datetime
        When it was stored or begun.
    upload_id : str
        Empty for an object.
    """

    key: str
    since: datetime
    upload_id: str = ""

    @property
    def kind(self) -> str:
        """The kind of the orphan, in words."""
        return "unfinished upload" if self.upload_id else "orphaned object"


class PreconditionFailed(Exception):
    """The object is not the one that the write was to replace."""


class Objects(Protocol):
    """Objects by key. They are read by ranges and written part by part.

    Where a method takes an ``etag``, an object with another ETag is rejected. Where it takes a
    ``version``, that version is read even if the object has been replaced; a directory keeps no
    versions and ignores it.
    """

    def stat(self, key: str, *, etag: str = "", version: str = "") -> StoredObject:
        """Return the metadata of an object.

        Raises
        ------
        ObjectMissing
        UpdateRejected
            If the object was replaced.
        """

    def read(self, key: str) -> bytes:
        """Return a small object of our own.

        Raises
        ------
        ObjectMissing
        """

    def source(self, key: str, *, size: int, etag: str, version: str = "") -> ByteSource:
        """Return the bytes of an object, to be read by ranges."""

    def sink(self, key: str, state: Mapping[str, Any] | None) -> ResultSink:
        """Return a sink for a new object; with a state, one that continues an unfinished upload."""

    def replace(self, key: str, data: bytes, *, etag: str) -> None:
        """Write a small JSON object in place of the one with this ETag, or of none if it is empty.

        Raises
        ------
        PreconditionFailed
            If another object is there. It may be the caller's own, if the answer to an earlier try
            was lost.
        """

    def put_json(self, key: str, data: bytes) -> None:
        """Write a small JSON object, whether or not there is one."""

    def create(self, key: str, data: bytes, *, kms_key: str = "") -> None:
        """Write a small object under a key that has none.

        Parameters
        ----------
        key, data
        kms_key : str
            The ARN of the KMS key with which S3 encrypts the object; empty for the bucket's encryption.

        Raises
        ------
        PreconditionFailed
            If there is one.
        """

    def erase(self, key: str) -> bool:
        """Delete an object with all its versions; return whether there was one."""

    def listing(self, prefix: str) -> Iterator[Orphan]:
        """Yield all objects whose keys begin with the prefix."""

    def orphans(self, prefix: str) -> Iterator[Orphan]:
        """Yield all objects and unfinished uploads whose keys begin with the prefix."""

    def remove_objects(self, keys: Iterable[str]) -> None:
        """Delete objects; do nothing for those that are already gone."""

    def remove(self, orphan: Orphan) -> None:
        """Delete an object or end an unfinished upload; do nothing if it is already gone."""


def read_json(objects: Objects, key: str) -> dict[str, Any] | None:
    """Return a small JSON object; None if there is none under this key."""
    try:
        document: dict[str, Any] = json.loads(objects.read(key))
    except ObjectMissing:
        return None
    return document


def known_version(version_id: str) -> str:
    """Return a version that stays: "null", in a bucket without versioning, is overwritten."""
    return "" if version_id == "null" else version_id


def read_small(
    objects: Objects, key: str, *, etag: str = "", version: str = "", max_bytes: int
) -> tuple[bytes, str]:
    """Return the bytes of a small object and its ETag.

    Raises
    ------
    ObjectMissing
    UpdateRejected
        If the object was replaced or is larger than ``max_bytes``.
    """
    stored = objects.stat(key, etag=etag, version=version)
    if stored.size > max_bytes:
        raise UpdateRejected(f"{stored.size} bytes, at most {max_bytes} are accepted")
    body = bytearray(stored.size)
    if body:
        source = objects.source(key, size=stored.size, etag=stored.etag, version=version)
        source.read_into(0, memoryview(body))
    return bytes(body), stored.etag


def copy_to_sink(source: ByteSource, sink: ResultSink) -> str:
    """Write the bytes of a source to a sink, part by part, and return the key of the new object."""
    try:
        part_bytes = ranges.part_bytes_of(source.size)
        for number, start in enumerate(range(0, source.size, part_bytes), 1):
            stop = min(start + part_bytes, source.size)
            with new_part(part_bytes) as part:
                _copy_range(source, start, stop, part)
                sink.write_part(number, data_of(part), last=stop == source.size)
        sink.complete()
    except Exception:
        sink.abort()
        raise
    return sink.location


def _copy_range(source: ByteSource, start: int, stop: int, file: IO[bytes]) -> None:
    for begin in range(start, stop, ranges.PART_BYTES):
        piece = bytearray(min(ranges.PART_BYTES, stop - begin))
        source.read_into(begin, memoryview(piece))
        file.write(piece)


def stored_layout(objects: Objects, key: str, stored: StoredObject | None = None) -> TensorLayout:
    """Return the layout of weights of our own; ``stored`` saves asking for their metadata.

    Raises
    ------
    InvalidWeights
        If the object is missing or not well formed, which is never the fault of a client.
    """
    try:
        stored = stored or objects.stat(key)
        source = objects.source(key, size=stored.size, etag=stored.etag)
        return peek_layout(source, format_of(key), trusted=True)
    except UpdateRejected as error:
        raise InvalidWeights(f"{key}, weights of our own, cannot be read: {error}") from error
