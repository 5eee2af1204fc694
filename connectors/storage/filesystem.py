"""What the connectors ask of storage, and the answer of a directory on disk."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from aggregation.engine.output import PART_BYTES, FileSink
from aggregation.errors import ObjectMissing, UpdateRejected
from aggregation.round import ResultSink
from aggregation.sources import ByteSource, FileSource


@dataclass(frozen=True, kw_only=True)
class StoredObject:
    """What storage says of an object.

    Parameters
    ----------
    size : int
        In bytes.
    etag : str
        Changes when the object is written again.
    uploaded_on : datetime
    metadata : mapping
        What the uploader said of it, by lower-case name.
    """

    size: int
    etag: str
    uploaded_on: datetime
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Orphan:
    """An object, or an unfinished upload, as a listing shows it.

    Parameters
    ----------
    key : str
    since : datetime
        When it was stored, or begun.
    upload_id : str
        Empty for an object.
    """

    key: str
    since: datetime
    upload_id: str = ""


class PreconditionFailed(Exception):
    """Somebody else wrote the object first."""


class Objects(Protocol):
    """Objects by key, read by ranges and written part by part."""

    def stat(self, key: str, *, etag: str = "") -> StoredObject:
        """What storage says of an object; with an ``etag``, of that one only.

        Raises
        ------
        ObjectMissing
        UpdateRejected
            If the object was replaced.
        """

    def source(self, key: str, *, size: int, etag: str) -> ByteSource:
        """The object's bytes, as long as it is the one with this ``etag``."""

    def sink(self, key: str, state: Mapping[str, Any] | None) -> ResultSink:
        """A new object; with a state, the one that was begun."""

    def replace(self, key: str, data: bytes, *, etag: str) -> None:
        """Write a small JSON object in place of the one with this ``etag``; empty: of none.

        Raises
        ------
        PreconditionFailed
            If another one is there by now. What was written may be the caller's own, where an
            answer was lost.
        """

    def orphans(self, prefix: str) -> Iterator[Orphan]:
        """All objects and unfinished uploads whose keys begin so."""

    def remove(self, orphan: Orphan) -> None:
        """Delete an object, or end an unfinished upload. Gone already is as good."""


def read_small(objects: Objects, key: str, *, etag: str = "", at_most: int) -> tuple[bytes, str]:
    """A small object as a whole, and its ETag; with an ``etag``, that one only.

    Raises
    ------
    ObjectMissing
    UpdateRejected
        If the object was replaced, or is larger than ``at_most`` bytes.
    """
    stored = objects.stat(key, etag=etag)
    if stored.size > at_most:
        raise UpdateRejected(f"{stored.size} bytes, at most {at_most} are taken")
    body = bytearray(stored.size)
    if body:
        objects.source(key, size=stored.size, etag=stored.etag).read_into(0, memoryview(body))
    return bytes(body), stored.etag


def store(source: ByteSource, sink: ResultSink) -> str:
    """Write a source's bytes to a sink, part by part; the key of the object that they make."""
    try:
        for part, start in enumerate(range(0, source.size, PART_BYTES), 1):
            piece = bytearray(min(PART_BYTES, source.size - start))
            source.read_into(start, memoryview(piece))
            sink.write_part(part, bytes(piece), last=start + len(piece) == source.size)
        sink.complete()
    except Exception:
        sink.abort()
        raise
    return sink.location


class FileObjects:
    """The files below a directory; a key is a path in it."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self._root = Path(root).resolve()

    def _path(self, key: str) -> Path:
        path = (self._root / key).resolve()
        if not path.is_relative_to(self._root):
            raise UpdateRejected("the key leads out of the storage's directory")
        return path

    def stat(self, key: str, *, etag: str = "") -> StoredObject:
        path = self._path(key)
        try:
            status = path.stat()
        except OSError as error:
            raise ObjectMissing("the file is not there") from error
        if not path.is_file():
            raise ObjectMissing("it is a directory")
        found = f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"
        if etag and found != etag:
            raise UpdateRejected("the file was replaced after its upload was announced")
        uploaded_on = datetime.fromtimestamp(status.st_mtime, UTC)
        return StoredObject(size=status.st_size, etag=found, uploaded_on=uploaded_on)

    def source(self, key: str, *, size: int, etag: str) -> ByteSource:
        self.stat(key, etag=etag)
        return FileSource(self._path(key))

    def sink(self, key: str, state: Mapping[str, Any] | None) -> ResultSink:
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        return _KeyedFileSink(key, path, dict(state) if state else None)

    def replace(self, key: str, data: bytes, *, etag: str) -> None:
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path.with_name(f".{path.name}.lock")):
            try:
                found = self.stat(key).etag
            except ObjectMissing:
                found = ""
            if found != etag:
                raise PreconditionFailed(key)
            new = path.with_name(f".{path.name}.new")
            new.write_bytes(data)
            new.replace(path)

    def orphans(self, prefix: str) -> Iterator[Orphan]:
        for path in sorted(self._path(prefix).rglob("*")):
            if path.is_file():
                since = datetime.fromtimestamp(path.stat().st_mtime, UTC)
                name = path.relative_to(self._root).as_posix()
                if name.endswith(".part"):  # as `FileSink` names what is not whole yet
                    yield Orphan(key=name.rsplit(".", 2)[0], since=since, upload_id=name)
                else:
                    yield Orphan(key=name, since=since)

    def remove(self, orphan: Orphan) -> None:
        self._path(orphan.upload_id or orphan.key).unlink(missing_ok=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock among the processes of this machine; it ends with the process at the latest."""
    import fcntl  # Only a directory needs it.

    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class _KeyedFileSink(FileSink):
    """A `FileSink` that tells its key rather than its path."""

    def __init__(self, key: str, path: Path, state: dict[str, Any] | None) -> None:
        self.location = state["key"] if state else key
        super().__init__(path.with_name(Path(self.location).name), state)

    def state(self) -> dict[str, Any]:
        state = super().state()
        folder = PurePosixPath(self.location).parent
        return {**state, "key": self.location, "upload_id": str(folder / state["partial"])}
