"""At the door: an upload becomes an update that is ready, one that is rejected with its reason, or a
warning in the log. Nothing an uploader can do makes it an error that is tried again."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db.models import Exists, OuterRef, Subquery

from aggregation.errors import ObjectMissing, TemporarilyUnavailable, UpdateRejected, quoted
from aggregation.formats import format_of, peek_layout
from aggregation.layout import TensorLayout, layout_difference
from connectors.errors import translate_database_errors
from connectors.publication.pointer import invalidate_pointer
from connectors.runtime.events import Upload
from connectors.storage.port import StoredObject
from connectors.storage.retries import retry_on
from connectors.workflow.model_data import DjangoModelDataConnector
from models_app.models import Client, FederatedModel, ModelAggregate, ModelUpdate

_KEY = re.compile(
    r"updates/(?P<model>[1-9][0-9]{0,17})/"
    r"(?P<client>[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})/"
    r"(?P<name>.+)",
    re.ASCII,
)
KEY_FORM = "updates/<federated_model_id>/<client_uuid>/<name>.<ext>"

#: Bytes of the longest key that S3 has.
MAX_KEY = 1024

#: What S3 has for versions and ETags, as long as it can be kept.
_VERSION = re.compile(r"[!-~]{0,255}", re.ASCII)

_COUNT = re.compile(r"[0-9]{1,18}", re.ASCII)


class UnknownUpload(Exception):
    """An upload that belongs to no model and client that are known; the message says why."""


@dataclass(frozen=True, kw_only=True)
class IntakeResult:
    """What became of an upload.

    Parameters
    ----------
    model_id : int
    client : str
    reason : str
        Why it was rejected; empty if it was accepted.
    seen_before : bool
        Whether it had been registered by an earlier delivery of the same event.
    """

    model_id: int
    client: str
    reason: str = ""
    seen_before: bool = False


class UpdateIntake:
    """Registers uploads.

    Parameters
    ----------
    model_data : DjangoModelDataConnector
    """

    def __init__(self, model_data: DjangoModelDataConnector) -> None:
        self._model_data = model_data
        #: Layouts of aggregates by location; aggregates never change. Safe to lose.
        self._layouts: dict[str, TensorLayout] = {}

    def register(self, upload: Upload) -> IntakeResult:
        """Register an upload.

        Raises
        ------
        UnknownUpload
            If it is none of ours; the same upload will never be one.
        TemporarilyUnavailable
            If storage or the database did not answer, or the object cannot be seen yet.
        """
        model_id, client_id, version = _parsed(upload)
        with translate_database_errors():
            model = self._looked_up(model_id, client_id, upload.key, version)
            if model is None:
                raise UnknownUpload(f"no federated model {model_id}, or no client {client_id}")
            if model.seen_before:
                return IntakeResult(model_id=model_id, client=str(client_id), seen_before=True)
            update = ModelUpdate(
                federated_model_id=model_id,
                client_id=client_id,
                data=upload.key,
                storage_version=version,
                size=upload.size,
                etag=upload.etag,
            )
            try:
                self._examine(update, model, upload)
            except ObjectMissing as error:
                raise TemporarilyUnavailable(f"{quoted(upload.key)}: {error}") from error
            except UpdateRejected as error:
                update.status = ModelUpdate.Status.INVALID
                update.rejection_reason = str(error)
            # Of two deliveries at the same time, one writes and the other changes nothing.
            ModelUpdate.objects.bulk_create([update], ignore_conflicts=True)
        return IntakeResult(
            model_id=model_id, client=str(client_id), reason=update.rejection_reason
        )

    def _looked_up(self, model_id: int, client_id: uuid.UUID, key: str, version: str) -> Any | None:
        """The model with what is asked of it, in one statement; None without model or client."""
        member = Client.objects.filter(pk=client_id, paused=False, federated_models=OuterRef("pk"))
        seen = ModelUpdate.objects.filter(data=key, storage_version=version)
        latest = ModelAggregate.objects.filter(federated_model=OuterRef("pk")).order_by("-number")
        return (
            FederatedModel.objects.filter(pk=model_id)
            .filter(Exists(Client.objects.filter(pk=client_id)))
            .select_related("current_artifact")
            .annotate(
                is_member=Exists(member),
                seen_before=Exists(seen),
                latest_number=Subquery(latest.values("number")[:1]),
                latest_result=Subquery(latest.values("result")[:1]),
            )
            .first()
        )

    def _examine(self, update: ModelUpdate, model: Any, upload: Upload) -> None:
        """Fill in what is known of the update, and refuse it for the first thing that is wrong."""
        if not model.is_member:
            raise UpdateRejected("the client is paused, or not a member of the model")
        _check_name(upload.key)
        _check_size(upload.size)
        stored = self._stored(upload)
        update.size, update.etag, update.uploaded_on = stored.size, stored.etag, stored.uploaded_on
        _check_size(stored.size)
        update.num_examples = _num_examples(stored.metadata)
        update.base_aggregate = _base(stored.metadata, model)
        self._check_layout(update, model)

    @retry_on(ObjectMissing)
    def _stored(self, upload: Upload) -> StoredObject:
        return self._model_data.objects.stat(upload.key, etag=upload.etag)

    def _check_layout(self, update: ModelUpdate, model: Any) -> None:
        expected = self._layout_of(model)
        key = str(update.data.name)
        source = self._model_data.objects.source(key, size=update.size or 0, etag=update.etag)
        layout = peek_layout(source, format_of(key), expected_layout=expected)
        difference = layout_difference(expected, layout) if expected else None
        if difference:
            raise UpdateRejected(difference)

    def _layout_of(self, model: Any) -> TensorLayout | None:
        location = model.latest_result
        if location is None and model.current_artifact:
            location = model.current_artifact.values.name
        if location is None:
            return None
        if location not in self._layouts:
            try:
                self._layouts = {location: self._model_data.layout(location)}
            except (
                UpdateRejected
            ):  # Not the client's doing: the round will fail, and keep its update.
                return None
        return self._layouts[location]


def _parsed(upload: Upload) -> tuple[int, uuid.UUID, str]:
    """Model, client and version an upload names, by the form of its key alone."""
    if upload.bucket != settings.BUCKET:
        raise UnknownUpload(f"bucket {quoted(upload.bucket)} is not the one this function serves")
    match = _KEY.fullmatch(upload.key) if upload.key.isprintable() else None
    if not match or len(upload.key.encode()) > MAX_KEY:
        raise UnknownUpload("the key is not of the form " + KEY_FORM)
    version = upload.version or upload.etag
    if not version:
        raise UnknownUpload("the event tells neither a version nor an ETag")
    for told in (upload.version, upload.etag):
        if not _VERSION.fullmatch(told):
            raise UnknownUpload(f"{quoted(told)} is neither a version nor an ETag of S3")
    return int(match["model"]), uuid.UUID(match["client"]), version


def _check_name(key: str) -> None:
    name = key.split("/", 3)[3]
    if "/" in name or name.startswith("."):
        raise UpdateRejected(
            f"the name {quoted(name)} is not of the form <name>.<ext>: see {KEY_FORM}"
        )
    format_of(name)


def _check_size(size: int | None) -> None:
    if size is not None and size > settings.MAX_UPDATE_BYTES:
        raise UpdateRejected(f"{size} bytes, at most {settings.MAX_UPDATE_BYTES} are accepted")


def _num_examples(metadata: Mapping[str, str]) -> int:
    """The count an update claims; 1 if it claims none."""
    told = metadata.get("num-examples", "1")
    count = int(told) if _COUNT.fullmatch(told) else 0
    if not 1 <= count <= settings.MAX_NUM_EXAMPLES:
        raise UpdateRejected(
            f"num-examples is {quoted(told)}, expected a whole number from 1 to "
            f"{settings.MAX_NUM_EXAMPLES}"
        )
    return count


def _base(metadata: Mapping[str, str], model: Any) -> ModelAggregate | None:
    """The aggregate an update says it is based on; None for the initial model."""
    told = metadata.get("base-aggregate", "")
    base = None
    if told:
        if _COUNT.fullmatch(told):
            base = ModelAggregate.objects.filter(pk=int(told), federated_model=model).first()
        if base is None:
            invalidate_pointer(model.pk)
            raise UpdateRejected(f"base-aggregate {quoted(told)} is no aggregate of this model")
    number, latest = base.number if base else 0, model.latest_number or 0
    if model.furthest_base_agg is not None and number <= latest - model.furthest_base_agg:
        raise UpdateRejected(
            f"based on aggregate number {number}; the latest is {latest} and furthest_base_agg is "
            f"{model.furthest_base_agg}"
        )
    return base
