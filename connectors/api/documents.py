"""What a client sees of a model and of its own updates: documents that rounds leave in the bucket."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from aggregation.errors import ObjectMissing
from connectors.api.credentials import Caller
from connectors.api.problems import not_found
from connectors.api.uploads import Upload
from connectors.storage.keys import pointer_key, progress_key, status_key
from connectors.storage.port import Objects, read_json
from connectors.storage.presigning import Signer

#: The status of an update that has arrived and was not looked at yet.
UPLOADED = {"state": "uploaded", "reason": "", "aggregate": None, "weight": None}

#: Seconds for which the link to an aggregate is valid.
LINK_SECONDS = 3600


class Documents:
    """Reads the documents.

    Parameters
    ----------
    objects : Objects
    signer : Signer
    """

    def __init__(self, objects: Objects, signer: Signer) -> None:
        self._objects = objects
        self._signer = signer

    def model(self, model_id: int, caller: Caller) -> dict[str, Any]:
        """Return what a client must know of a model, with a link to the latest weights.

        ``latest`` is None if the model has no weights yet. ``progress`` says how many updates are ready
        and needed; it is None before the first update of a model without weights. ``status`` says what
        became of the client's own updates; it is None before its first one.
        """
        latest = read_json(self._objects, pointer_key(model_id))
        if latest:
            latest["url"] = self._signer.link(latest["key"], seconds=LINK_SECONDS)
        return {
            "model": model_id,
            "latest": latest,
            "progress": read_json(self._objects, progress_key(model_id)),
            "status": read_json(self._objects, status_key(model_id, caller.client_id)),
        }

    def update(self, upload: Upload) -> dict[str, Any]:
        """Return what became of an update.

        The database is needed only if the client has sent so many since that its status document does not
        show this one any more.

        Raises
        ------
        Problem
            404 if its object is not complete.
        """
        status = read_json(self._objects, status_key(upload.model_id, upload.caller.client_id))
        shown = status["updates"] if status else []
        found = next((each for each in shown if each["key"] == upload.key), None)
        if found is None:
            found = self._not_shown(upload, shown) or {**UPLOADED, "key": upload.key}
        return {**found, "update": upload.name}

    def _not_shown(self, upload: Upload, shown: list[dict[str, Any]]) -> dict[str, Any] | None:
        """Return what became of an update before those that are shown; None if nothing has yet."""
        try:
            stored = self._objects.stat(upload.key)
        except ObjectMissing as error:
            raise not_found(f"there is no update {upload.name!r} of this client") from error
        if not shown or datetime.fromisoformat(shown[-1]["at"]) < stored.uploaded_on:
            return None
        # Clients that follow their latest updates do not need it.
        from connectors.publication.status import recorded_status

        return recorded_status(upload.key)
