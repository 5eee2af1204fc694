"""The port of a round: what its connector must provide."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

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
from aggregation.sources import ByteSource
from aggregation.weights import Weights

if TYPE_CHECKING:
    from aggregation.masks.requests import MaskAnswer
    from aggregation.masks.weights import MaskedWeights

#: What `RoundConnector.new_result` is asked for as the format of an optimizer's state.
OPTIMIZER_STATE = "optimizer.safetensors"

#: The extension of the object with a sum of masked updates: the elements, U32, and nothing more.
MASKED_SUM = "masked.u32"


class ResultSink(Sink, Protocol):
    """A sink that knows the location of its object."""

    @property
    def location(self) -> str:
        """The name of the object."""

    def begin(self) -> dict[str, Any]:
        """Begin a result of several parts, and return the state by which others can write parts of it."""

    def stored_parts(self) -> set[int]:
        """Return the numbers of the parts that are stored, by whichever process."""


class RoundConnector(Protocol):
    """The metadata and the storage of a round."""

    def claim_round(self, model_id: int) -> Claim | RoundAnswer:
        """Register the ready updates for one round, or answer why no round can start."""

    def open_parent(self, claim: Claim, spool: Spool | None) -> Weights | None:
        """Open the aggregate (or initial model) that the result succeeds; None if there is none.

        Raises
        ------
        NeedsSpool
            If it must be unpacked and ``spool`` is None.
        """

    def open_base(self, location: str, spool: Spool | None) -> Weights:
        """Open an earlier aggregate (or the initial model), from which a late update was trained.

        Raises
        ------
        InvalidWeights
            If it cannot be used.
        NeedsSpool
            If it must be unpacked and ``spool`` is None.
        """

    def open_state(self, location: str) -> Weights:
        """Open the state of an optimizer.

        Raises
        ------
        InvalidWeights
            If it cannot be used.
        """

    def open_seed(self, claim: Claim) -> bytes:
        """Return the seed of the noise of a private round, decrypted.

        Raises
        ------
        AggregationError
            If it cannot be decrypted.
        """

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
        """Return a sink for a result; given a saved ``state``, one that continues after it.

        The sink of a private round counts the result as released before it makes it readable. A sum of
        masked updates is no release: it has no information without the sum of their masks.

        Parameters
        ----------
        claim : Claim
            With the updates that the result is made of.
        format : str
            Of the aggregate, `OPTIMIZER_STATE` or `MASKED_SUM`: the extension of the object's name.
        state : dict or None
        """

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


class SecureRoundConnector(RoundConnector, Protocol):
    """What a round of masked updates needs beyond a `RoundConnector`."""

    def open_masked(self, update: ClaimedUpdate, layout: TensorLayout) -> MaskedWeights:
        """Open one claimed update, which is masked. Called from several threads.

        Raises
        ------
        UpdateRejected
            If it cannot be used.
        """

    def store_request(self, key: str, body: bytes) -> None:
        """Store a request for a sum of masks."""

    def masks_answer(self, claim: Claim, key: str) -> MaskAnswer | None:
        """Return the mask keeper's answer to a stored request; ask for it if there is none yet.

        Raises
        ------
        MasksPending
            If the mask keeper cannot be asked; the message says why.
        """

    def open_sum(self, location: str, nbytes: int) -> ByteSource:
        """Open a sum of so many bytes, of masked updates or of masks.

        Raises
        ------
        InvalidWeights
            If the mask keeper's sum is missing or has another size.
        ProgressLost
            If the sum of masked updates is.
        """

    def await_masks(
        self, claim: Claim, checkpoint: RoundCheckpoint | None, reason: str
    ) -> RoundAnswer:
        """Save the progress and release the lease, until the mask keeper has answered."""


class Folder(Protocol):
    """A folder of small objects, in which the tasks of a distributed round leave what they found."""

    def read(self, name: str) -> bytes:
        """Return an object."""

    def write(self, name: str, data: bytes) -> None:
        """Store an object, in place of one of the same name."""

    def names(self) -> set[str]:
        """Return the names of the objects."""


class DistributedRoundConnector(RoundConnector, Protocol):
    """What a round that is spread over several functions needs beyond a `RoundConnector`."""

    def new_folder(self, claim: Claim) -> str:
        """Return the location of a folder that no other round or attempt uses."""

    def folder(self, location: str) -> Folder:
        """Open a folder."""

    def hand_over(self, claim: Claim, checkpoint: RoundCheckpoint, *, progress: bool) -> None:
        """Save the checkpoint, and extend the lease by the time that the tasks may take.

        Parameters
        ----------
        claim, checkpoint
        progress : bool
            Whether the round has advanced since the checkpoint before this one.

        Raises
        ------
        LeaseLost
        """
