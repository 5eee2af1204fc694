"""Registration of updates: an upload becomes a ready update, or a rejected one with its reason."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from django.conf import settings
from django.db.models import Exists, OuterRef, Subquery
from django.utils import timezone

from aggregation.errors import InvalidWeights, ObjectMissing, UpdateRejected, quoted
from aggregation.formats import format_of, peek_layout
from aggregation.layout import TensorLayout, layout_difference
from aggregation.policies import TensorPolicies
from aggregation.round import SecureTerms
from connectors.intake.metadata import (
    BASE_AGGREGATE,
    check_kind,
    check_names,
    num_examples,
    num_steps,
    whole_number,
)
from connectors.intake.registration import Intake, UnknownUpload, find_model
from connectors.intake.upload import Upload
from connectors.publication.pointer import invalidate_pointer
from connectors.storage.keys import UPDATE_KEY_FORM, UpdateKey, parse_update_key
from connectors.storage.port import Objects, StoredObject, known_version, stored_layout
from connectors.storage.retries import retry_on
from models_app.models import FederatedModel, ModelAggregate, ModelUpdate

#: Versions and ETags as S3 forms them, no longer than the database's columns.
_VERSION = re.compile(r"[!-~]{0,255}", re.ASCII)


class UpdateIntake(Intake[UpdateKey, ModelUpdate]):
    """Registers updates.

    Parameters
    ----------
    objects : Objects
    """

    def __init__(self, objects: Objects) -> None:
        super().__init__(objects)
        #: The layout that was read last, by its location; aggregates never change.
        self._layouts: dict[str, TensorLayout] = {}

    def _parse_key(self, upload: Upload) -> UpdateKey:
        key = parse_update_key(upload.key)
        if key is None:
            raise UnknownUpload("the key is not of the form " + UPDATE_KEY_FORM)
        return key

    def _new_row(self, key: UpdateKey, upload: Upload) -> ModelUpdate:
        version_id = known_version(upload.version)
        if not (version_id or upload.etag):
            raise UnknownUpload("the event has neither a version nor an ETag")
        for name in (upload.version, upload.etag):
            if not _VERSION.fullmatch(name):
                raise UnknownUpload(f"{quoted(name)} is neither a version nor an ETag of S3")
        return ModelUpdate(
            federated_model_id=key.model_id,
            client_id=key.client_id,
            data=upload.key,
            storage_version=version_id or upload.etag,
            version_id=version_id,
            size=upload.size,
            etag=upload.etag,
            uploaded_on=upload.event_time or timezone.now(),
        )

    def _find_model(self, key: UpdateKey, row: ModelUpdate) -> Any | None:
        seen = ModelUpdate.objects.filter(data=row.data.name, storage_version=row.storage_version)
        latest = ModelAggregate.objects.filter(federated_model=OuterRef("pk")).order_by("-number")
        return find_model(
            key,
            Exists(seen),
            latest_number=Subquery(latest.values("number")[:1]),
            latest_result=Subquery(latest.values("result")[:1]),
        )

    def _examine(self, row: ModelUpdate, model: Any, upload: Upload) -> None:
        _check_name(upload.key)
        _check_size(upload.size)
        stored = self._stat(upload)
        row.size, row.etag, row.version_id = stored.size, stored.etag, stored.version
        row.uploaded_on = upload.event_time or stored.uploaded_on
        _check_not_pruned(row, model)
        _check_size(stored.size)
        check_names(stored.metadata)
        check_kind(stored.metadata, model.update_kind)
        row.num_examples = num_examples(stored.metadata)
        row.num_steps = num_steps(stored.metadata, model.rule())
        row.base_aggregate = _base_aggregate(stored.metadata, model)
        secure = model.secure_terms()
        if secure:
            self._check_masked(row, model, secure)
        else:
            self._check_layout(row, model)

    def _save(self, row: ModelUpdate, model: Any, reason: str) -> bool:
        if reason:
            row.status = ModelUpdate.Status.INVALID
            row.rejection_reason = reason
        # Of two deliveries at the same time, one writes and the other changes nothing.
        ModelUpdate.objects.bulk_create([row], ignore_conflicts=True)
        return True

    @retry_on(ObjectMissing)
    def _stat(self, upload: Upload) -> StoredObject:
        version = known_version(upload.version)
        return self._objects.stat(upload.key, etag=upload.etag, version=version)

    def _check_layout(self, row: ModelUpdate, model: Any) -> None:
        expected = self._model_layout(model)
        key = str(row.data.name)
        source = self._objects.source(
            key, size=row.size or 0, etag=row.etag, version=row.version_id
        )
        layout = peek_layout(
            source,
            format_of(key),
            expected_layout=expected,
            compressed=model.update_kind == FederatedModel.UpdateKind.DIFFERENCES,
            readers=settings.READ_THREADS,
        )
        difference = layout_difference(expected, layout) if expected else None
        if difference:
            raise UpdateRejected(difference)

    def _check_masked(self, row: ModelUpdate, model: Any, secure: SecureTerms) -> None:
        """Check the signed header of a masked update; only the mask keeper can verify its signature."""
        # Few models have masked updates, and a cold start does not pay for them.
        from connectors.intake.masked import check_header, open_update

        layout = self._model_layout(model)
        if layout is None:
            raise UpdateRejected("the model has no weights that can be read")
        source = self._objects.source(
            str(row.data.name), size=row.size or 0, etag=row.etag, version=row.version_id
        )
        header = open_update(source, str(row.data.name), layout, model.policies())
        check_header(header, row, secure)

    def _model_layout(self, model: Any) -> TensorLayout | None:
        location = model.latest_result
        if location is None and model.current_artifact:
            location = model.current_artifact.values.name
        if location is None:
            return None
        if location not in self._layouts:
            try:
                self._layouts = {location: stored_layout(self._objects, location)}
            except InvalidWeights:
                return None  # The weights are our own: the round will fail and keep the update.
        policies: TensorPolicies = model.policies()
        return policies.expected_layout(self._layouts[location])


def _check_not_pruned(row: ModelUpdate, model: Any) -> None:
    """Ignore an upload from before the last pruning: the record that it was counted may be deleted."""
    if model.pruned_before and row.uploaded_on < model.pruned_before:
        raise UnknownUpload(
            f"uploaded on {row.uploaded_on:%Y-%m-%d}: records of uploads from before "
            f"{model.pruned_before:%Y-%m-%d} were deleted"
        )


def _check_name(key: str) -> None:
    name = key.split("/", 3)[3]
    if "/" in name or name.startswith("."):
        raise UpdateRejected(
            f"the name {quoted(name)} is not of the form <name>.<ext>: see {UPDATE_KEY_FORM}"
        )
    format_of(name)


def _check_size(size: int | None) -> None:
    if size is not None and size > settings.MAX_UPDATE_BYTES:
        raise UpdateRejected(f"{size} bytes, at most {settings.MAX_UPDATE_BYTES} are accepted")


def _base_aggregate(metadata: Mapping[str, str], model: Any) -> ModelAggregate | None:
    """Return the aggregate that an update was trained from; None for the initial model."""
    text = metadata.get(BASE_AGGREGATE, "")
    base = None
    if text:
        pk = whole_number(text)
        if pk is not None:
            base = ModelAggregate.objects.filter(pk=pk, federated_model=model).first()
        if base is None:
            # The client may have read a pointer from before the database was restored.
            invalidate_pointer(model.pk)
            raise UpdateRejected(f"{BASE_AGGREGATE} {quoted(text)} is no aggregate of this model")
    number, latest = base.number if base else 0, model.latest_number or 0
    if model.furthest_base_agg is not None and number <= latest - model.furthest_base_agg:
        raise UpdateRejected(
            f"based on aggregate number {number}; the latest is {latest} and furthest_base_agg is "
            f"{model.furthest_base_agg}"
        )
    return base
