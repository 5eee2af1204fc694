"""What a client sees of a model and of its own updates: documents that rounds leave in the bucket."""

from __future__ import annotations

from typing import Any

from connectors.api.credentials import Caller
from connectors.api.problems import not_found
from connectors.storage.keys import UPDATES, pointer_key, progress_key, status_key
from connectors.storage.port import Objects, read_json
from connectors.storage.presigning import Signer

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

    def update(self, model_id: int, caller: Caller, name: str, *, uploaded: bool) -> dict[str, Any]:
        """Return what became of an update.

        Parameters
        ----------
        model_id, caller
        name : str
        uploaded : bool
            Whether its object is complete.
        """
        key = f"{UPDATES}{model_id}/{caller.client_id}/{name}"
        status = read_json(self._objects, status_key(model_id, caller.client_id))
        for update in status["updates"] if status else ():
            if update["key"] == key:
                return {**update, "update": name}
        if not uploaded:
            raise not_found(f"there is no update {name!r} of this client")
        return {
            "update": name,
            "key": key,
            "state": "uploaded",
            "reason": "",
            "aggregate": None,
            "weight": None,
        }
