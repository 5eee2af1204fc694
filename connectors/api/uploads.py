"""Updates that clients upload in parts: begun, continued after an interruption, completed.

The key of an update's object is derived from the client and its ``Idempotency-Key``, so that the same
request finds the same upload again, and from its sizes, so that no state but S3's is needed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus
from typing import Any

from django.conf import settings

from aggregation.errors import ProgressLost
from connectors.api.credentials import Caller
from connectors.api.problems import Problem, invalid, not_found
from connectors.storage.keys import UPDATES
from connectors.storage.multipart import MAX_PARTS, ClientUploads, OpenUpload, StoredPart

#: Links that one response contains.
MAX_LINKS = 100

#: Seconds for which a link is valid.
LINK_SECONDS = 3600

_NAME = re.compile(r"([0-9a-f]{32})-([1-9][0-9]{0,14})-([1-9][0-9]{0,9})\.([a-z]+)", re.ASCII)


@dataclass(frozen=True)
class Upload:
    """An update that a client uploads.

    Parameters
    ----------
    model_id : int
    caller : Caller
    name : str
        The last part of its key.
    size, part_bytes : int
        Bytes of the object, and of every part but the last.
    """

    model_id: int
    caller: Caller
    name: str
    size: int
    part_bytes: int

    @property
    def key(self) -> str:
        """The key of the object."""
        return f"{_folder(self.model_id, self.caller)}{self.name}"

    @property
    def count(self) -> int:
        """The number of parts."""
        return -(-self.size // self.part_bytes)

    def part_size(self, number: int) -> int:
        """Return the bytes of a part, counted from 1."""
        return min(self.part_bytes, self.size - (number - 1) * self.part_bytes)


def _folder(model_id: int, caller: Caller) -> str:
    return f"{UPDATES}{model_id}/{caller.client_id}/"


def upload_of(model_id: int, caller: Caller, name: str) -> Upload:
    """Return the upload of a name that `begin` returned.

    Raises
    ------
    Problem
        404
    """
    match = _NAME.fullmatch(name)
    if not match:
        raise not_found(
            f"there is no update {name!r}: begin one with POST /v1/models/{model_id}/updates"
        )
    upload = Upload(model_id, caller, name, int(match[2]), int(match[3]))
    if upload.count > MAX_PARTS:  # A client with AWS credentials may have invented the name.
        raise not_found(f"there is no update {name!r}: it would have {upload.count} parts")
    return upload


class Uploads:
    """The uploads of clients.

    Parameters
    ----------
    storage : ClientUploads
    """

    def __init__(self, storage: ClientUploads) -> None:
        self._storage = storage

    def begin(
        self, model_id: int, caller: Caller, idempotency_key: str, body: dict[str, Any]
    ) -> dict[str, Any]:
        """Begin an upload, or find the one that the same request has begun.

        Returns
        -------
        dict
            With links for the first parts that have not arrived.
        """
        name = _name_of(idempotency_key, body)
        upload = Upload(model_id, caller, name, body["size"], body["part_bytes"])
        _check_sizes(upload, body["parts"])
        _check_counts(body)
        folder = _folder(model_id, caller)
        opened = self._storage.open_uploads(folder)
        upload_id = _oldest(opened, upload.key)
        if upload_id is None:
            if self._storage.is_complete(upload.key):
                return self._state(upload, None, {}, [])
            self._check_quota(folder, opened, upload)
            upload_id = self._begin(upload, body)
        arrived = self._parts(upload, upload_id)
        missing = [number for number in range(1, upload.count + 1) if number not in arrived]
        checksums = {number: body["parts"][number - 1] for number in missing[:MAX_LINKS]}
        return self._state(upload, upload_id, arrived, list(checksums.items()))

    def _begin(self, upload: Upload, body: dict[str, Any]) -> str:
        """Begin an upload, and return the id of the one that counts.

        The same request may have begun another at the same time. The oldest counts, since it is the one
        that every later request finds.
        """
        begun = self._storage.begin(upload.key, _metadata(body))
        opened = self._storage.open_uploads(upload.key)
        upload_id = _oldest(opened, upload.key) or begun
        for each in opened:
            if each.upload_id == begun != upload_id:
                self._storage.abort(each)
        return upload_id

    def links(self, upload: Upload, wanted: list[dict[str, Any]]) -> dict[str, Any]:
        """Return links for further parts."""
        upload_id = self._find(upload)
        if upload_id is None:
            raise _gone(upload)
        for each in wanted:
            if each["number"] > upload.count:
                raise invalid(f"part {each['number']}: the update has {upload.count} parts")
        arrived = self._parts(upload, upload_id)
        pairs = [(each["number"], each["checksum"]) for each in wanted]
        return self._state(upload, upload_id, arrived, pairs)

    def complete(self, upload: Upload) -> dict[str, Any]:
        """Make an object of the parts; it is then registered like any other upload."""
        upload_id = self._find(upload)
        if upload_id is not None:
            self._complete(upload, upload_id)
        elif not self._storage.is_complete(upload.key):
            raise _gone(upload)
        return {"update": upload.name, "key": upload.key, "complete": True}

    def _complete(self, upload: Upload, upload_id: str) -> None:
        arrived = self._parts(upload, upload_id)
        missing = [number for number in range(1, upload.count + 1) if number not in arrived]
        if missing:
            raise Problem(
                HTTPStatus.CONFLICT,
                "parts-missing",
                f"{len(missing)} of {upload.count} parts have not arrived: send them, then complete again",
                missing=missing[:MAX_LINKS],
            )
        try:
            self._storage.complete(upload.key, upload_id, arrived)
        except ProgressLost as error:
            if not self._storage.is_complete(upload.key):
                raise _gone(upload) from error

    def _find(self, upload: Upload) -> str | None:
        return _oldest(self._storage.open_uploads(upload.key), upload.key)

    def _parts(self, upload: Upload, upload_id: str) -> dict[int, StoredPart]:
        """Return the parts that have arrived with the right size."""
        try:
            found = self._storage.parts(upload.key, upload_id)
        except ProgressLost as error:
            raise _gone(upload) from error
        return {
            number: part
            for number, part in found.items()
            if number <= upload.count and part.size == upload.part_size(number)
        }

    def _check_quota(self, folder: str, opened: Sequence[OpenUpload], upload: Upload) -> None:
        if len(opened) >= settings.API_OPEN_UPLOADS:
            raise Problem(
                HTTPStatus.TOO_MANY_REQUESTS,
                "too-many-open-uploads",
                f"{len(opened)} uploads are unfinished, at most {settings.API_OPEN_UPLOADS} may be: "
                "complete one, or wait: those that stay unfinished are removed after a week",
                retry_after=3600,
            )
        names = (each.key.rpartition("/")[2] for each in opened)
        pending = sum(int(match[2]) for match in map(_NAME.fullmatch, names) if match)
        sent = self._storage.bytes_since(folder, timedelta(days=1)) + pending
        if sent + upload.size > settings.API_BYTES_PER_DAY:
            raise Problem(
                HTTPStatus.TOO_MANY_REQUESTS,
                "quota-exceeded",
                f"{sent} bytes were sent within a day and this update has {upload.size}; a client may "
                f"send {settings.API_BYTES_PER_DAY}: try again tomorrow, or ask the operator",
                retry_after=3600,
            )

    def _state(
        self,
        upload: Upload,
        upload_id: str | None,
        arrived: dict[int, StoredPart],
        wanted: list[tuple[int, str]],
    ) -> dict[str, Any]:
        return {
            "update": upload.name,
            "key": upload.key,
            "complete": upload_id is None,
            "arrived": sorted(arrived),
            "parts": [
                {
                    "number": number,
                    "url": self._storage.link(
                        upload.key,
                        upload_id or "",
                        number,
                        size=upload.part_size(number),
                        checksum=checksum,
                        seconds=LINK_SECONDS,
                    ),
                    "headers": {
                        "Content-Length": str(upload.part_size(number)),
                        "x-amz-checksum-sha256": checksum,
                    },
                }
                for number, checksum in wanted
            ],
        }


def _oldest(opened: Sequence[OpenUpload], key: str) -> str | None:
    """Return the id of the oldest unfinished upload with a key."""
    return next((each.upload_id for each in opened if each.key == key), None)


def _name_of(idempotency_key: str, body: dict[str, Any]) -> str:
    """Return the name of an update. It follows from the whole request: with a key that is used again for
    another update, parts of the two cannot become one object.
    """
    request = json.dumps([idempotency_key, body], sort_keys=True)
    digest = hashlib.sha256(request.encode()).hexdigest()[:32]
    return f"{digest}-{body['size']}-{body['part_bytes']}.{body['format']}"


def _check_sizes(upload: Upload, parts: list[str]) -> None:
    size, part_bytes = upload.size, upload.part_bytes
    if size > settings.MAX_UPDATE_BYTES:
        raise Problem(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            "update-too-large",
            f"{size} bytes, at most {settings.MAX_UPDATE_BYTES} are accepted",
        )
    if upload.count > MAX_PARTS:
        raise invalid(f"{size} bytes are {upload.count} parts of {part_bytes}: at most {MAX_PARTS}")
    if len(parts) != upload.count:
        raise invalid(
            f"{size} bytes in parts of {part_bytes} are {upload.count} parts; got {len(parts)} checksums"
        )


def _check_counts(body: dict[str, Any]) -> None:
    """Refuse counts that intake would reject, before anything is sent."""
    for member in ("num_examples", "num_steps"):
        if body.get(member, 0) > settings.MAX_NUM_EXAMPLES:
            raise invalid(
                f"{member} is {body[member]}, expected a whole number from 1 to {settings.MAX_NUM_EXAMPLES}"
            )


def _metadata(body: dict[str, Any]) -> dict[str, str]:
    """Return the metadata that intake reads."""
    names = {
        "num_examples": "num-examples",
        "num_steps": "num-steps",
        "base_aggregate": "base-aggregate",
        "update_kind": "update-kind",
    }
    return {
        name: str(body[member]) for member, name in names.items() if body.get(member) is not None
    }


def _gone(upload: Upload) -> Problem:
    return not_found(
        f"the upload of {upload.name} was not begun or has expired: begin it again with "
        f"POST /v1/models/{upload.model_id}/updates"
    )
