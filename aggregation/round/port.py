"""The port of a round: what its connector must provide."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from aggregation.engine.output import Sink
from aggregation.formats import Spool
from aggregation.layout import TensorLayout
from aggregation.round.values import (
    Claim,
    ClaimedUpdate,
    RoundAnswer,
    RoundCheckpoint,
    RoundResult,
)
from aggregation.weights import Weights


class ResultSink(Sink, Protocol):
    """A sink that knows the location of its object."""

    @property
    def location(self) -> str:
        """The name of the object."""


class RoundConnector(Protocol):
    """The metadata and the storage of a round."""

    def claim_round(self, model_id: int) -> Claim | RoundAnswer:
        """Register the ready updates for one round, or answer why no round can start."""

    def open_parent(self, claim: Claim, spool: Spool) -> Weights | None:
        """Open the aggregate (or initial model) that the result succeeds; None if there is none."""

    def open_update(
        self, update: ClaimedUpdate, expected_layout: TensorLayout | None, spool: Spool | None
    ) -> Weights:
        """Open one claimed update. Called from several threads.

        Raises
        ------
        UpdateRejected
            If it cannot be used.
        NeedsSpool
            If it must be unpacked and ``spool`` is None.
        """

    def new_result(self, claim: Claim, format: str, state: dict[str, Any] | None) -> ResultSink:
        """Return a sink for the result; given a saved ``state``, one that continues after it."""

    def save_checkpoint(self, claim: Claim, checkpoint: RoundCheckpoint) -> None:
        """Save the progress of the round for the next attempt."""

    def suspend_round(self, claim: Claim, checkpoint: RoundCheckpoint | None) -> RoundAnswer:
        """Save the progress, release the lease and request that the round is resumed."""

    def publish_round(self, claim: Claim, result: RoundResult) -> RoundAnswer:
        """Make the aggregate visible and settle the updates, in one transaction.

        Raises
        ------
        LeaseLost
            If this attempt no longer holds the round; nothing was changed.
        """

    def reject_round(self, claim: Claim, rejected: Mapping[int, str], reason: str) -> RoundAnswer:
        """Close a round that has too few usable updates; the usable ones are ready again."""

    def fail_round(self, claim: Claim, error: Exception) -> bool:
        """Close a round because of an error, if this attempt still holds it.

        The updates are ready again.

        Returns
        -------
        bool
            Whether the round was closed. If not, another attempt may use what is stored of it.
        """

    def release_round(self, claim: Claim, checkpoint: RoundCheckpoint | None) -> None:
        """Release the lease after a transient fault, so that the round can be resumed; never raises."""
