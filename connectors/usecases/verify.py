"""Auditing: an aggregate is recomputed from its updates and compared, byte by byte."""

from __future__ import annotations

from typing import Any

from aggregation.counts import capped_examples
from aggregation.engine import DEFAULT_RESOURCES, Combination, Resources, combine
from aggregation.errors import AggregationError, ObjectMissing, UpdateRejected
from aggregation.formats import Spool
from aggregation.layout import TensorLayout
from aggregation.opening import Opener, open_consistent
from aggregation.rules import create_rule
from aggregation.sources import ByteSource
from aggregation.weights import Weights
from connectors.errors import ServiceRefused
from connectors.rounds.selectors import UpdateStatus
from connectors.workflow.model_data import DjangoModelDataConnector
from models_app.models import AggregationRound, FederatedModel, ModelAggregate, ModelUpdate

#: Bytes compared at once where two objects should be the same.
STEP = 8 << 20


class AuditMismatch(AggregationError):
    """The bytes in storage are not those that were computed; the message says where."""


class NotVerifiable(AggregationError):
    """What the aggregate was made from is not known, or no longer there; the message says what."""


def verify(
    model_data: DjangoModelDataConnector,
    aggregate: ModelAggregate,
    resources: Resources = DEFAULT_RESOURCES,
) -> str:
    """Recompute an aggregate under the terms of its round.

    Returns
    -------
    str
        What was found to be true, in words.

    Raises
    ------
    AuditMismatch
    NotVerifiable
    """
    made_by = AggregationRound.objects.filter(aggregate=aggregate).first()
    if made_by is None:
        raise NotVerifiable(f"no round is known that made {aggregate}")
    stored = _source(model_data, str(aggregate.result.name))
    original = made_by.config_snapshot.get("rolled_back_to")
    if original:
        earlier = ModelAggregate.objects.get(pk=original)
        _compare(_source(model_data, str(earlier.result.name)), stored)
        return f"{stored.size} bytes are those of aggregate {original}, as the rollback says"
    if made_by.external:
        raise NotVerifiable(
            f"{aggregate} was computed by a workflow that called the connector step by step: "
            "what it computed is not known here"
        )
    used = list(
        made_by.updates.filter(status=UpdateStatus.COMPLETE, applied_aggregate=aggregate).order_by(
            "client_id"
        )
    )
    try:
        _recompute(model_data, made_by.config_snapshot, used, stored, resources)
    except AuditMismatch as error:
        raise AuditMismatch(f"{error}{_replaced(model_data, used)}") from error
    return (
        f"{stored.size} bytes follow from {len(used)} updates by {made_by.config_snapshot['rule']}"
    )


def _source(model_data: DjangoModelDataConnector, key: str) -> ByteSource:
    try:
        seen = model_data.objects.stat(key)
    except UpdateRejected as error:
        raise NotVerifiable(f"{key}: {error}") from error
    return model_data.objects.source(key, size=seen.size, etag=seen.etag)


def _replaced(model_data: DjangoModelDataConnector, used: list[ModelUpdate]) -> str:
    """Which updates' objects are no longer those that were seen at the door, as a clause."""
    others = []
    for update in used:
        try:
            model_data.objects.stat(
                str(update.data.name), etag=update.etag, version=update.version_id
            )
        except UpdateRejected:
            others.append(update.pk)
    return f"; the objects of updates {others} are not those seen at the door" if others else ""


def _compare(expected: ByteSource, stored: ByteSource) -> None:
    sink = ComparingSink(stored)
    for start in range(0, expected.size, STEP):
        piece = bytearray(min(STEP, expected.size - start))
        expected.read_into(start, memoryview(piece))
        sink.write_part(0, bytes(piece))
    sink.complete()


def _recompute(
    model_data: DjangoModelDataConnector,
    config_snapshot: dict[str, Any],
    used: list[ModelUpdate],
    stored: ByteSource,
    resources: Resources,
) -> None:
    """Do what the round did, but for the storing."""
    cap = config_snapshot["max_num_examples"]
    with Spool() as spool:
        parent = _parent(model_data, config_snapshot["parent"], spool)
        updates = _opened(model_data, used, parent, spool, resources.readers)
        work = Combination(
            rule=create_rule(config_snapshot["rule"], config_snapshot["rule_args"]),
            updates=updates,
            num_examples=[capped_examples(each.num_examples, cap) for each in used],
            parent=parent,
            differences=config_snapshot["update_kind"] == FederatedModel.UpdateKind.DIFFERENCES,
        )
        combine(work, ComparingSink(stored), resources=resources)


def _parent(model_data: DjangoModelDataConnector, key: str | None, spool: Spool) -> Weights | None:
    if key is None:
        return None
    try:
        return model_data.open(key, spool=spool, trusted=True)
    except UpdateRejected as error:
        raise NotVerifiable(
            f"what the aggregate succeeds cannot be read: {key}: {error}"
        ) from error


def _opened(
    model_data: DjangoModelDataConnector,
    used: list[ModelUpdate],
    parent: Weights | None,
    spool: Spool,
    readers: int,
) -> list[Weights]:
    """The updates, opened; all of them, or the aggregate cannot be verified.

    The version that intake saw is read if it is there. Otherwise the key's object is: in a copy of the
    bucket versions and ETags differ, and if the result has the aggregate's bytes, so had the update.
    """

    def opener(update: ModelUpdate) -> Opener:
        key = str(update.data.name)

        def open_version(expected_layout: TensorLayout | None, share: Spool | None) -> Weights:
            version = update.version_id
            if version and not _has_version(model_data, key, version):
                version = ""
            return model_data.open(
                key, version=version, expected_layout=expected_layout, spool=share
            )

        return open_version

    openers = {update.pk: opener(update) for update in used}
    expected_layout = parent.layout if parent else None
    opened, rejected = open_consistent(openers, expected_layout, readers, spool)
    if rejected or not opened:
        why = "; ".join(f"update {pk}: {reason}" for pk, reason in rejected.items())
        raise NotVerifiable(f"its updates are not there any more: {why or 'none is known'}")
    return list(opened.values())


def _has_version(model_data: DjangoModelDataConnector, key: str, version: str) -> bool:
    try:
        model_data.objects.stat(key, version=version)
    except (ObjectMissing, ServiceRefused):  # S3 may refuse to say that a version does not exist.
        return False
    return True


class ComparingSink:
    """Takes the parts of a result, which come in order, and holds them against what is stored.

    Parameters
    ----------
    stored : ByteSource
    """

    def __init__(self, stored: ByteSource) -> None:
        self._stored = stored
        self._position = 0

    def write_part(self, number: int, data: bytes | bytearray, *, last: bool = False) -> None:
        """Compare the next bytes.

        Raises
        ------
        AuditMismatch
        """
        start, stop = self._position, self._position + len(data)
        if stop > self._stored.size:
            raise AuditMismatch(f"{self._stored.size} bytes are stored, and more were computed")
        there = bytearray(len(data))
        self._stored.read_into(start, memoryview(there))
        if there != data:
            pairs = enumerate(zip(there, data, strict=True))
            first = next(position for position, (a, b) in pairs if a != b)
            raise AuditMismatch(
                f"the bytes in storage differ from those computed, from {start + first} on"
            )
        self._position = stop

    def state(self) -> dict[str, Any]:
        """Nothing: a comparison is not gone on with."""
        return {}

    def complete(self) -> None:
        """Nothing may be left that was not computed."""
        if self._position != self._stored.size:
            raise AuditMismatch(
                f"{self._stored.size} bytes are stored, only {self._position} were computed"
            )

    def abort(self) -> None:
        """Nothing is kept."""
