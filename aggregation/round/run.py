"""One round: claim, read, combine, publish, settle.

Nothing here knows where metadata and bytes are kept; that is the business of the connector a round is
given (`RoundConnector`). No transaction is open while weights are read, and whatever stops a round,
what it claimed is either in its aggregate, ready again, or rejected with a reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Protocol, TypedDict

from aggregation.engine import (
    DEFAULT_RESOURCES,
    Checkpoint,
    Combination,
    Combined,
    Resources,
    combine,
)
from aggregation.engine.output import Sink
from aggregation.errors import (
    AggregationError,
    LeaseLost,
    NotEnoughUpdates,
    OutOfTime,
    ProgressLost,
    TemporarilyUnavailable,
    UpdateRejected,
    UpdatesRejected,
)
from aggregation.formats import Spool, read_metadata
from aggregation.layout import TensorLayout
from aggregation.opening import Opener, first_of_majority, open_consistent
from aggregation.requirements import Readiness, Requirement
from aggregation.rules import Rule
from aggregation.weights import Weights


class Status(StrEnum):
    """How a request for a round ended."""

    PUBLISHED = "published"
    WAITING = "waiting"
    BUSY = "busy"
    PAUSED = "paused"
    REJECTED = "rejected"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class RoundAnswer:
    """What the one who asked for a round is told."""

    model_id: int
    status: Status
    round: int | None = None
    aggregate_id: int | None = None
    updates_used: int = 0
    updates_rejected: int = 0
    bytes_read: int = 0
    reason: str = ""
    #: The round is unfinished, and may be gone on with at once.
    continues: bool = False


@dataclass(frozen=True, kw_only=True)
class ClaimedUpdate:
    """An update that a round has registered for itself.

    Parameters
    ----------
    num_examples : int
        What it counts, capped by the model's setting.
    location, size, etag
        Which object it is, as it was seen at the door; size None and etag empty where it was not.
    """

    id: int
    num_examples: int
    location: str
    size: int | None = None
    etag: str = ""


class RoundCheckpoint(TypedDict):
    """What an attempt leaves to the next; JSON-able.

    The updates it found bad, with the reasons, and how far it was with those that were left.
    """

    rejected: dict[str, str]
    engine: Checkpoint | None


def sink_state(checkpoint: RoundCheckpoint | None) -> dict[str, Any] | None:
    """What goes on with the result that a checkpoint tells of, if some of it is stored."""
    engine = checkpoint["engine"] if checkpoint else None
    progress = engine["progress"] if engine else None
    return progress["sink"] if progress else None


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The updates a round will use, and everything else its result depends on.

    Parameters
    ----------
    updates : tuple of ClaimedUpdate
        In claim order: by client, whatever the order of arrival.
    readiness : Readiness
        As it was when the claim was made.
    attempt : int
        The fencing token.
    parent : str, optional
        Where the aggregate (or initial model) is that the result succeeds.
    checkpoint : RoundCheckpoint, optional
        Left by an earlier attempt.
    spool_bytes : int, optional
        Disk for what must be unpacked: first the parent, then updates in claim order; those for
        which too little is left are rejected. A setting, since what happens to be free on a disk
        must not decide whose updates are used; without one, it does.
    """

    model_id: int
    round_id: int
    number: int
    attempt: int
    rule: Rule
    requirement: Requirement
    readiness: Readiness
    updates: tuple[ClaimedUpdate, ...]
    differences: bool = False
    parent: str | None = None
    checkpoint: RoundCheckpoint | None = None
    spool_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class RoundResult:
    """What a round made of its claim.

    Parameters
    ----------
    used : tuple of int
        Ids of the updates that are part of the aggregate or were weighed by the rule.
    rejected : mapping of int to str
        Ids of the updates left out for good, with the reasons.
    location : str
        Where the aggregate's bytes are.
    """

    used: tuple[int, ...]
    rejected: Mapping[int, str]
    location: str
    combined: Combined


class RoundConnector(Protocol):
    """What a round needs of the world."""

    def claim_round(self, model_id: int) -> Claim | RoundAnswer:
        """Register the ready updates for one round, or answer why there is none."""

    def open_parent(self, claim: Claim, spool: Spool) -> Weights | None:
        """The aggregate (or initial model) that the result succeeds."""

    def open_update(
        self, update: ClaimedUpdate, expected_layout: TensorLayout | None, spool: Spool | None
    ) -> Weights:
        """One claimed update; `UpdateRejected` if it cannot be used, `NeedsSpool` if it needs a spool
        and has none. Called from several threads."""

    def new_result(self, claim: Claim, format: str, state: dict[str, Any] | None) -> ResultSink:
        """Where the result goes; with a state, going on where the one that left it stopped."""

    def save_checkpoint(self, claim: Claim, checkpoint: RoundCheckpoint) -> None:
        """Keep how far the round is, for the next attempt."""

    def suspend_round(self, claim: Claim, checkpoint: RoundCheckpoint | None) -> RoundAnswer:
        """Give up the lease and ask to be continued."""

    def publish_round(self, claim: Claim, result: RoundResult) -> RoundAnswer:
        """Make the aggregate visible and settle the updates, all or nothing.

        Raises
        ------
        LeaseLost
            If this attempt no longer holds the round; nothing was changed.
        """

    def reject_round(self, claim: Claim, rejected: Mapping[int, str], reason: str) -> RoundAnswer:
        """Close a round left with too few usable updates; those that are left are ready again."""

    def fail_round(self, claim: Claim, error: Exception) -> bool:
        """Close a round that met an error, if this attempt still holds it; its updates are ready
        again.

        Returns
        -------
        bool
            Whether it was closed. If not, another attempt may go on with what is stored of it.
        """

    def release_round(self, claim: Claim, checkpoint: RoundCheckpoint | None) -> None:
        """Give up the lease of a round that something passing got in the way of; never raises."""


class ResultSink(Sink, Protocol):
    """A sink that knows where its bytes will be found."""

    @property
    def location(self) -> str:
        """Name of the object."""


def run_round(
    connector: RoundConnector,
    model_id: int,
    *,
    resources: Resources = DEFAULT_RESOURCES,
    out_of_time: Callable[[], bool] = lambda: False,
    on_claim: Callable[[Claim], None] = lambda claim: None,
) -> RoundAnswer:
    """Run one round of a federated model.

    Parameters
    ----------
    connector : RoundConnector
    model_id : int
    resources : Resources
        Change how the work is done, and nothing of what comes out.
    out_of_time : callable
        Asked after every chunk; once it says yes, the round is left for another call to go on with.
    on_claim : callable
        Told the claim, if there is one, before its updates are read.

    Returns
    -------
    RoundAnswer

    Raises
    ------
    TemporarilyUnavailable
        If storage or the database were out of reach: ask again later, the round goes on.
    Exception
        Whatever else went wrong, after the round was closed as failed.
    """
    claim = connector.claim_round(model_id)
    if isinstance(claim, RoundAnswer):
        return claim
    on_claim(claim)
    attempt = Attempt(connector, claim, resources, out_of_time)
    try:
        return _ended(connector, claim, attempt)
    except LeaseLost as error:
        busy = Status.BUSY
        return RoundAnswer(model_id=model_id, status=busy, round=claim.number, reason=str(error))
    except TemporarilyUnavailable:
        connector.release_round(claim, attempt.checkpoint)
        raise
    except Exception as error:
        if connector.fail_round(claim, error):
            attempt.discard()
        raise


def _ended(connector: RoundConnector, claim: Claim, attempt: Attempt) -> RoundAnswer:
    try:
        return connector.publish_round(claim, attempt.aggregate())
    except OutOfTime:
        return connector.suspend_round(claim, attempt.checkpoint)
    except NotEnoughUpdates as error:
        return connector.reject_round(claim, attempt.rejected, str(error))


class Attempt:
    """One attempt to combine a claim's updates.

    Attributes
    ----------
    rejected : dict of int to str
        Updates that turned out bad, with the reasons.
    checkpoint : RoundCheckpoint or None
        What the next attempt may go on from.
    """

    def __init__(
        self,
        connector: RoundConnector,
        claim: Claim,
        resources: Resources,
        out_of_time: Callable[[], bool],
    ) -> None:
        self._connector = connector
        self._claim = claim
        self._resources = resources
        self._out_of_time = out_of_time
        self._sink: ResultSink | None = None
        self.checkpoint = claim.checkpoint
        saved = claim.checkpoint["rejected"] if claim.checkpoint else {}
        self.rejected = {int(update): reason for update, reason in saved.items()}

    def aggregate(self) -> RoundResult:
        """Combine the usable updates into a stored result.

        An update that turns out bad is left out and the work begins anew without it: once, since a
        pass that finds one goes on to the end and finds them all.
        """
        with Spool(self._claim.spool_bytes) as spool:
            parent = self._connector.open_parent(self._claim, spool)
            opened = self._open_updates(parent, spool)
            while True:
                usable = self._usable()
                updates = [opened[update.id] for update in usable]
                model = parent or first_of_majority(updates)
                try:
                    return self._combine(usable, updates, parent, model)
                except UpdatesRejected as error:
                    self.rejected |= {usable[i].id: why for i, why in error.reasons.items()}
                except ProgressLost:
                    pass
                self.checkpoint = self._checkpoint(None)

    def _open_updates(self, parent: Weights | None, spool: Spool) -> dict[int, Weights]:
        """The updates that can be read and are laid out as the model is, by id."""

        def opener(update: ClaimedUpdate) -> Opener:
            return lambda expected_layout, share: self._connector.open_update(
                update, expected_layout, share
            )

        openers = {update.id: opener(update) for update in self._usable()}
        expected_layout = parent.layout if parent else None
        opened, rejected = open_consistent(openers, expected_layout, self._resources.readers, spool)
        self.rejected |= rejected
        if rejected:  # What is stored so far was made with them.
            self.checkpoint = self._checkpoint(None)
        return opened

    def _usable(self) -> list[ClaimedUpdate]:
        """The claim's updates that are left; `NotEnoughUpdates` where the requirement is unmet now."""
        usable = [update for update in self._claim.updates if update.id not in self.rejected]
        readiness = replace(self._claim.readiness, ready=len(usable))
        unmet = self._claim.requirement.unmet(readiness)
        if unmet:
            raise NotEnoughUpdates(f"{len(self.rejected)} updates rejected, {unmet}")
        return usable

    def _combine(
        self,
        usable: Sequence[ClaimedUpdate],
        updates: Sequence[Weights],
        parent: Weights | None,
        model: Weights,
    ) -> RoundResult:
        """Combine into a new object of the model's format, or go on with one that was begun."""
        work = Combination(
            rule=self._claim.rule,
            layout=model.layout,
            updates=updates,
            num_examples=[update.num_examples for update in usable],
            parent=parent,
            differences=self._claim.differences,
        )
        state = sink_state(self.checkpoint)
        self._sink = self._connector.new_result(self._claim, model.format, state)
        try:
            combined = combine(
                work,
                self._sink,
                format=model.format,
                metadata=_free_text(model, updates),
                resources=self._resources,
                resume=self.checkpoint["engine"] if self.checkpoint else None,
                checkpoint=self._keep,
                out_of_time=self._out_of_time,
            )
        except UpdatesRejected:
            self._sink.abort()
            raise
        return RoundResult(
            used=tuple(update.id for update in usable),
            rejected=self.rejected,
            location=self._sink.location,
            combined=combined,
        )

    def discard(self) -> None:
        """Forget what was stored of the result; what cannot be forgotten now, the sweep collects."""
        if self._sink:
            with suppress(AggregationError):
                self._sink.abort()

    def _keep(self, engine: Checkpoint) -> None:
        self.checkpoint = self._checkpoint(engine)
        self._connector.save_checkpoint(self._claim, self.checkpoint)

    def _checkpoint(self, engine: Checkpoint | None) -> RoundCheckpoint:
        rejected = {str(update): reason for update, reason in self.rejected.items()}
        return RoundCheckpoint(rejected=rejected, engine=engine)


def _free_text(model: Weights, updates: Sequence[Weights]) -> dict[str, str] | None:
    """What a safetensors model says beside its tensors.

    Raises
    ------
    UpdatesRejected
        If one of the updates stands for the model, and can no longer be read.
    """
    if model.format != "safetensors":
        return None
    try:
        return read_metadata(model.source)
    except UpdateRejected as error:
        reasons = {i: str(error) for i, each in enumerate(updates) if each is model}
        if not reasons:
            raise
        raise UpdatesRejected(reasons) from error
