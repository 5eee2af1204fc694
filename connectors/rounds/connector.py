"""Implement `aggregation.round.RoundConnector` with the ledger and object storage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from aggregation.errors import (
    InvalidWeights,
    LeaseLost,
    MasksPending,
    ObjectMissing,
    ProgressLost,
    TemporarilyUnavailable,
)
from aggregation.formats import Spool
from aggregation.layout import TensorLayout
from aggregation.round import (
    Claim,
    ClaimedUpdate,
    ResultSink,
    RoundAnswer,
    RoundCheckpoint,
    RoundResult,
    Status,
    updates_digest,
)
from aggregation.round.port import MASKED_SUM
from aggregation.sources import ByteSource
from aggregation.weights import Weights
from connectors.errors import ServiceRefused
from connectors.limits import EXECUTION_SECONDS, LEASE_SLACK_SECONDS
from connectors.rounds.ledger import RoundLedger
from connectors.rounds.private import CountedSink, PrivateRounds
from connectors.storage.folder import ObjectFolder
from connectors.storage.keys import MASKS, aggregate_key, plan_folder
from connectors.storage.weights import WeightStore

if TYPE_CHECKING:
    from aggregation.masks.requests import MaskAnswer
    from aggregation.masks.weights import MaskedWeights


class AsksForMasks(Protocol):
    """The way to the mask keeper."""

    def ask(self, request: str) -> None:
        """Ask the mask keeper to answer the request that is stored under a key.

        Raises
        ------
        TemporarilyUnavailable, ServiceRefused
        """


class DjangoRoundConnector:
    """The connector of the function's own rounds.

    Parameters
    ----------
    ledger : RoundLedger
    weights : WeightStore
    spool_bytes : int
        Disk space for updates that must be unpacked.
    private : PrivateRounds
    execution_seconds : float
        How long other functions may work on a round that is handed over to them.
    mask_keeper : callable, optional
        Returns what asks the mask keeper whose queue has a URL.
    """

    def __init__(
        self,
        ledger: RoundLedger,
        weights: WeightStore,
        spool_bytes: int,
        private: PrivateRounds,
        execution_seconds: float = EXECUTION_SECONDS + LEASE_SLACK_SECONDS,
        mask_keeper: Callable[[str], AsksForMasks] | None = None,
    ) -> None:
        self.ledger = ledger
        self.weights = weights
        self._spool_bytes = spool_bytes
        self._private = private
        self._execution_seconds = execution_seconds
        self._mask_keeper = mask_keeper

    def claim_round(self, model_id: int) -> Claim | RoundAnswer:
        claim = self.ledger.claim(model_id)
        if isinstance(claim, RoundAnswer):
            return claim
        return replace(claim, spool_bytes=self._spool_bytes)

    def open_parent(self, claim: Claim, spool: Spool | None) -> Weights | None:
        return None if claim.parent is None else self.weights.open_own(claim.parent, spool)

    def open_base(self, location: str, spool: Spool | None) -> Weights:
        return self.weights.open_own(location, spool)

    def open_state(self, location: str) -> Weights:
        return self.weights.open_own(location, None)

    def open_update(
        self, update: ClaimedUpdate, expected_layout: TensorLayout | None, spool: Spool | None
    ) -> Weights:
        return self.weights.open(
            update.location,
            size=update.size,
            etag=update.etag,
            version=update.version,
            expected_layout=expected_layout,
            spool=spool,
        )

    def open_seed(self, claim: Claim) -> bytes:
        return self._private.vault.open(claim.model_id, claim.sealed_seed)

    def new_result(self, claim: Claim, format: str, state: dict[str, Any] | None) -> ResultSink:
        key = aggregate_key(claim.model_id, claim.number, format)
        sink = self.weights.objects.sink(key, state)
        if not claim.rule.is_private or format == MASKED_SUM:
            return sink
        digest = updates_digest(claim.updates).hex()
        return CountedSink(sink, lambda: self.ledger.count_release(claim, digest))

    def save_checkpoint(self, claim: Claim, checkpoint: RoundCheckpoint) -> None:
        self.ledger.save_checkpoint(claim, checkpoint)

    def suspend_round(self, claim: Claim, checkpoint: RoundCheckpoint | None) -> RoundAnswer:
        self.ledger.release_lease(claim, checkpoint)
        return RoundAnswer(
            model_id=claim.model_id,
            status=Status.BUSY,
            round=claim.number,
            reason="out of time: the next invocation resumes the round",
            continues=True,
        )

    def publish_round(self, claim: Claim, result: RoundResult) -> RoundAnswer:
        return self.ledger.publish(claim, result)

    def reject_round(self, claim: Claim, rejected: Mapping[int, str], reason: str) -> RoundAnswer:
        return self.ledger.reject(claim, rejected, reason)

    def fail_round(self, claim: Claim, error: Exception) -> bool:
        # If the lease is lost or the database cannot be reached, the round is taken over later.
        with suppress(LeaseLost, TemporarilyUnavailable):
            self.ledger.fail(claim, error)
            return True
        return False

    def release_round(self, claim: Claim, checkpoint: RoundCheckpoint | None) -> None:
        with suppress(LeaseLost, TemporarilyUnavailable):
            self.ledger.release_lease(claim, checkpoint)

    # A round of masked updates: `aggregation.round.port.SecureRoundConnector`

    def open_masked(self, update: ClaimedUpdate, layout: TensorLayout) -> MaskedWeights:
        from aggregation.masks.weights import open_masked

        source = self.weights.source(
            update.location, size=update.size, etag=update.etag, version=update.version
        )
        return open_masked(source, layout)

    def store_request(self, key: str, body: bytes) -> None:
        self.weights.objects.put_json(key, body)

    def masks_answer(self, claim: Claim, key: str) -> MaskAnswer | None:
        from aggregation.masks.requests import MaskAnswer, MaskKeys

        try:
            return MaskAnswer.decode(self.weights.objects.read(MaskKeys.of(key).answer))
        except ObjectMissing:
            self._ask_for_masks(claim, key)
        return None

    def _ask_for_masks(self, claim: Claim, key: str) -> None:
        if self._mask_keeper is None or claim.secure is None:
            raise MasksPending("this process cannot ask the mask keeper")
        try:
            self._mask_keeper(claim.secure.settings.queue).ask(key)
        except (TemporarilyUnavailable, ServiceRefused) as error:
            raise MasksPending(f"the mask keeper cannot be asked: {error}") from error

    def open_sum(self, location: str, nbytes: int) -> ByteSource:
        try:
            source = self.weights.source(location)
        except ObjectMissing as error:
            if location.startswith(MASKS):
                raise InvalidWeights(f"the sum of the masks, {location}, is missing") from error
            raise ProgressLost("the sum of the masked updates is no longer there") from error
        if source.size != nbytes:
            raise InvalidWeights(f"{location} has {source.size} bytes, expected {nbytes}")
        return source

    def await_masks(
        self, claim: Claim, checkpoint: RoundCheckpoint | None, reason: str
    ) -> RoundAnswer:
        self.ledger.await_answer(claim, checkpoint)
        return RoundAnswer(
            model_id=claim.model_id, status=Status.BUSY, round=claim.number, reason=reason
        )

    # A round of several functions: `aggregation.round.port.DistributedRoundConnector`

    def new_folder(self, claim: Claim) -> str:
        return plan_folder(claim.model_id, claim.round_id)

    def folder(self, location: str) -> ObjectFolder:
        return ObjectFolder(self.weights.objects, location)

    def hand_over(self, claim: Claim, checkpoint: RoundCheckpoint, *, progress: bool) -> None:
        self.ledger.hand_over(claim, checkpoint, self._execution_seconds, progress=progress)
