"""Implement `aggregation.round.RoundConnector` with the ledger and object storage."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from aggregation.errors import LeaseLost, TemporarilyUnavailable
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
)
from aggregation.weights import Weights
from connectors.limits import EXECUTION_SECONDS, LEASE_SLACK_SECONDS
from connectors.rounds.ledger import RoundLedger
from connectors.storage.folder import ObjectFolder
from connectors.storage.keys import aggregate_key, plan_folder
from connectors.storage.weights import WeightStore


class DjangoRoundConnector:
    """The connector of the function's own rounds.

    Parameters
    ----------
    ledger : RoundLedger
    weights : WeightStore
    spool_bytes : int
        Disk space for updates that must be unpacked.
    execution_seconds : float
        How long other functions may work on a round that is handed over to them.
    """

    def __init__(
        self,
        ledger: RoundLedger,
        weights: WeightStore,
        spool_bytes: int,
        execution_seconds: float = EXECUTION_SECONDS + LEASE_SLACK_SECONDS,
    ) -> None:
        self.ledger = ledger
        self.weights = weights
        self._spool_bytes = spool_bytes
        self._execution_seconds = execution_seconds

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

    def new_result(self, claim: Claim, format: str, state: dict[str, Any] | None) -> ResultSink:
        key = aggregate_key(claim.model_id, claim.number, format)
        return self.weights.objects.sink(key, state)

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

    # A round of several functions: `aggregation.round.port.DistributedRoundConnector`

    def new_folder(self, claim: Claim) -> str:
        return plan_folder(claim.model_id, claim.round_id)

    def folder(self, location: str) -> ObjectFolder:
        return ObjectFolder(self.weights.objects, location)

    def hand_over(self, claim: Claim, checkpoint: RoundCheckpoint, *, progress: bool) -> None:
        self.ledger.hand_over(claim, checkpoint, self._execution_seconds, progress=progress)
