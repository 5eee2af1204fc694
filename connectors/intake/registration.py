"""Shared parts of the registration of updates and scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from django.conf import settings
from django.db.models import Exists, Model, OuterRef

from aggregation.errors import ObjectMissing, TemporarilyUnavailable, UpdateRejected, quoted
from connectors.errors import translate_database_errors
from connectors.intake.upload import Upload
from connectors.storage.keys import ScoreKey, UpdateKey
from connectors.storage.port import Objects
from models_app.models import Client, FederatedModel

Key = TypeVar("Key", UpdateKey, ScoreKey)
Row = TypeVar("Row", bound=Model)


class UnknownUpload(Exception):
    """The upload names no model and client that are known; the message says why."""


@dataclass(frozen=True, kw_only=True)
class IntakeResult:
    """The result of the intake of an upload.

    Parameters
    ----------
    model_id : int
    client : str
    reason : str
        Why it was rejected; empty if it was accepted.
    seen_before : bool
        Whether an earlier delivery of the same event has registered it.
    """

    model_id: int
    client: str
    reason: str = ""
    seen_before: bool = False


class Intake(ABC, Generic[Key, Row]):
    """Registers the uploads of one kind. No upload, whatever it contains, raises any other error.

    Parameters
    ----------
    objects : Objects
    """

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def register(self, upload: Upload) -> IntakeResult:
        """Register an upload, or reject it with a reason.

        Raises
        ------
        UnknownUpload
            If its bucket, model or client is unknown. It will never be registered.
        TemporarilyUnavailable
            If storage or the database did not answer, or the object is not visible yet.
        """
        if upload.bucket != settings.BUCKET:
            raise UnknownUpload(f"bucket {quoted(upload.bucket)} is not served by this function")
        key = self._parse_key(upload)
        row = self._new_row(key, upload)
        with translate_database_errors():
            model = self._find_model(key, row)
            if model is None:
                raise UnknownUpload(
                    f"no federated model {key.model_id}, or no client {key.client_id}"
                )
            reason, is_new = "", not model.seen_before
            if is_new:
                reason = self._find_fault(row, model, upload)
                is_new = self._save(row, model, reason)
        return IntakeResult(
            model_id=key.model_id,
            client=str(key.client_id),
            reason=reason,
            seen_before=not is_new,
        )

    def _find_fault(self, row: Row, model: Any, upload: Upload) -> str:
        """Fill in the row from the object; return why it is rejected, or an empty string."""
        try:
            if not model.is_member:
                raise UpdateRejected("the client is paused, or not a member of the model")
            self._examine(row, model, upload)
        except ObjectMissing as error:
            raise TemporarilyUnavailable(f"{quoted(upload.key)}: {error}") from error
        except UpdateRejected as error:
            return str(error)
        return ""

    @abstractmethod
    def _parse_key(self, upload: Upload) -> Key:
        """Return what the upload's key names; raise `UnknownUpload` if it has another form."""

    @abstractmethod
    def _new_row(self, key: Key, upload: Upload) -> Row:
        """Return the unsaved row of the upload."""

    @abstractmethod
    def _find_model(self, key: Key, row: Row) -> Any | None:
        """Return the model, annotated with everything that the examination needs, in one statement.

        None if there is no such model or no such client.
        """

    @abstractmethod
    def _examine(self, row: Row, model: Any, upload: Upload) -> None:
        """Fill in the row from the object; raise `UpdateRejected` for the first fault."""

    @abstractmethod
    def _save(self, row: Row, model: Any, reason: str) -> bool:
        """Save the row, which is rejected if there is a reason; return whether it is new."""


def find_model(key: UpdateKey | ScoreKey, seen_before: Exists, **annotations: Any) -> Any | None:
    """Return the model of an upload with `is_member`, `seen_before` and other annotations."""
    client = Client.objects.filter(pk=key.client_id)
    member = client.filter(paused=False, federated_models=OuterRef("pk"))
    return (
        FederatedModel.objects.filter(Exists(client), pk=key.model_id)
        .select_related("current_artifact")
        .annotate(is_member=Exists(member), seen_before=seen_before, **annotations)
        .first()
    )
