"""Object storage in a directory."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from aggregation.engine.output import FileSink
from aggregation.engine.parts import PartData, pieces_of
from aggregation.errors import ObjectMissing, ProgressLost, UpdateRejected
from aggregation.round import ResultSink
from aggregation.sources import ByteSource, FileSource
from connectors.errors import ServiceRefused
from connectors.storage.port import Orphan, PreconditionFailed, StoredObject

#: Suffix of a folder with the parts of an unfinished file.
PART_FOLDER = ".parts"


class FileObjects:
    """The files below a directory; a key is a relative path."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self._root = Path(root).resolve()

    def _path(self, key: str) -> Path:
        path = (self._root / key).resolve()
        if not path.is_relative_to(self._root):
            raise UpdateRejected("the key leads out of the storage's directory")
        return path

    def stat(self, key: str, *, etag: str = "", version: str = "") -> StoredObject:
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

    def read(self, key: str) -> bytes:
        try:
            return self._path(key).read_bytes()
        except FileNotFoundError as error:
            raise ObjectMissing("the file is not there") from error

    def source(self, key: str, *, size: int, etag: str, version: str = "") -> ByteSource:
        self.stat(key, etag=etag)
        return FileSource(self._path(key))

    def sink(self, key: str, state: Mapping[str, Any] | None) -> ResultSink:
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        if state and str(state["upload_id"]).endswith(PART_FOLDER):
            return _PartFilesSink(self._path(state["key"]), self._path(state["upload_id"]), state)
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
            self.put_json(key, data)

    def put_json(self, key: str, data: bytes) -> None:
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{path.name}.new")
        new.write_bytes(data)
        new.replace(path)

    def create(self, key: str, data: bytes, *, kms_key: str = "") -> None:
        if kms_key:
            raise ServiceRefused(
                "a directory has no KMS keys: PRIVACY_KEY must be the path of a file"
            )
        self.replace(key, data, etag="")

    def erase(self, key: str) -> bool:
        path = self._path(key)
        found = path.exists()
        path.unlink(missing_ok=True)
        return found

    def listing(self, prefix: str) -> Iterator[Orphan]:
        return (each for each in self.orphans(prefix) if not each.upload_id)

    def orphans(self, prefix: str) -> Iterator[Orphan]:
        for path in sorted(self._path(prefix).rglob("*")):
            name = path.relative_to(self._root).as_posix()
            # `FileSink` gives unfinished files the suffix; a folder of parts has the other one.
            if name.endswith((".part", PART_FOLDER)):
                yield Orphan(key=name.rsplit(".", 2)[0], since=_changed_on(path), upload_id=name)
            elif path.is_file() and not path.parent.name.endswith(PART_FOLDER):
                yield Orphan(key=name, since=_changed_on(path))

    def remove_objects(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._path(key).unlink(missing_ok=True)

    def remove(self, orphan: Orphan) -> None:
        path = self._path(orphan.upload_id or orphan.key)
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _changed_on(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that excludes other processes of this machine and ends with this process."""
    import fcntl  # Not imported in the function, which uses S3.

    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class _KeyedFileSink(FileSink):
    """A `FileSink` whose location is a key rather than a path."""

    def __init__(self, key: str, path: Path, state: dict[str, Any] | None) -> None:
        self.location = state["key"] if state else key
        super().__init__(path.with_name(Path(self.location).name), state)

    def state(self) -> dict[str, Any]:
        state = super().state()
        folder = PurePosixPath(self.location).parent
        return {**state, "key": self.location, "upload_id": str(folder / state["partial"])}

    def begin(self) -> dict[str, Any]:
        self.abort()
        folder = f"{self.location}.{uuid.uuid4().hex}{PART_FOLDER}"
        Path(self._path).with_name(Path(folder).name).mkdir()
        return {"key": self.location, "upload_id": folder, "parts": 0}

    def stored_parts(self) -> set[int]:
        return set()


class _PartFilesSink:
    """A file whose parts several processes write, each as a file of its own.

    Raises
    ------
    ProgressLost
        If parts that were stored are missing.
    """

    def __init__(self, path: Path, folder: Path, state: Mapping[str, Any]) -> None:
        self.location = str(state["key"])
        self._path = path
        self._folder = folder
        self._state = dict(state)
        self._count = int(state["parts"])
        complete = self._path.exists() and not self._folder.exists()
        if not complete and not self.stored_parts() >= set(range(1, self._count + 1)):
            raise ProgressLost("parts of the unfinished file are no longer there")

    def begin(self) -> dict[str, Any]:
        return self.state()

    def stored_parts(self) -> set[int]:
        return {int(path.name) for path in self._folder.glob("[0-9]*") if path.suffix == ""}

    def write_part(self, number: int, data: PartData, *, last: bool = False) -> None:
        written = self._folder / f"{number}.{uuid.uuid4().hex}"
        try:
            with written.open("wb") as file:
                file.writelines(pieces_of(data))
            written.replace(self._folder / str(number))
        except FileNotFoundError as error:
            raise ProgressLost("the folder of the unfinished file is no longer there") from error

    def state(self) -> dict[str, Any]:
        return self._state

    def complete(self) -> None:
        if not self._folder.exists():
            return  # Another process has completed it.
        whole = self._folder / "whole"
        with whole.open("wb") as file:
            for number in range(1, self._count + 1):
                with (self._folder / str(number)).open("rb") as part:
                    shutil.copyfileobj(part, file)
            file.flush()
            os.fsync(file.fileno())
        whole.replace(self._path)
        self.abort()

    def abort(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
