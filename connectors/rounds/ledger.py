"""The round protocol of the function in the database: claim with a lease, take over, publish, settle.

A round is held by one attempt at a time. The attempt's number is the fencing token: every change is made
on the condition that the round is RUNNING and still has this number, so that a late attempt changes
nothing. One unique constraint allows a model one RUNNING round, another allows a round number one
aggregate. Leases are judged by the database's clock alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from django.db import transaction
from django.db.models import QuerySet
from django.db.models.functions import Now

from aggregation.errors import LeaseLost
from aggregation.round import Claim, RoundAnswer, RoundCheckpoint, RoundResult
from aggregation.round.values import WorkerSummary
from connectors.errors import translate_database_errors
from connectors.limits import CHECKPOINT_SECONDS
from connectors.rounds import transitions
from connectors.rounds.claims import RoundClaims
from connectors.rounds.private import Noise, charge_after, check_noise, record_release
from connectors.rounds.selectors import ModelSnapshot, State, UpdateStatus, registered_updates
from connectors.rounds.sql import cosines_of, norms_of, scaling_factors_of
from models_app.models import AggregationRound, ModelAggregate


class RoundLedger:
    """The rounds of all models.

    Parameters
    ----------
    lease : callable
        Returns how long an attempt that begins now holds its round; afterwards it is presumed dead.
    request_id : str
        Kept with the rounds that this process begins.
    prepare : callable
        Returns the noise of a round that is about to be claimed, if its model is private.
    """

    def __init__(
        self,
        lease: Callable[[], timedelta],
        request_id: str = "",
        prepare: Callable[[ModelSnapshot], Noise | None] = lambda snapshot: None,
    ) -> None:
        self._claims = RoundClaims(lease, request_id, prepare)
        self._next_checkpoint = -math.inf

    def claim(self, model_id: int) -> Claim | RoundAnswer:
        """Begin a round of a model, or take over one that was left behind: see `RoundClaims.claim`.

        Raises
        ------
        UnknownModel
        """
        self._next_checkpoint = -math.inf
        return self._claims.claim(model_id)

    # Continuing

    def save_checkpoint(self, claim: Claim, checkpoint: RoundCheckpoint) -> None:
        """Save the progress of a round, unless it was saved a moment ago.

        Raises
        ------
        LeaseLost
        """
        now = time.monotonic()
        if now < self._next_checkpoint:
            return
        self._next_checkpoint = now + CHECKPOINT_SECONDS
        self._change(claim, checkpoint=checkpoint, attempts_without_progress=0)

    def release_lease(self, claim: Claim, checkpoint: RoundCheckpoint | None) -> None:
        """End the lease, so that the next attempt may resume the round at once.

        Raises
        ------
        LeaseLost
        """
        progress: dict[str, Any] = {}
        if checkpoint is not None and checkpoint != claim.checkpoint:
            progress = {"checkpoint": checkpoint, "attempts_without_progress": 0}
        self._change(claim, lease_expires_at=Now(), **progress)

    def await_answer(self, claim: Claim, checkpoint: RoundCheckpoint | None) -> None:
        """End the lease of a round that waits for another service, which is not a failed attempt.

        Raises
        ------
        LeaseLost
        """
        self._change(
            claim, checkpoint=checkpoint, lease_expires_at=Now(), attempts_without_progress=0
        )

    def hand_over(
        self, claim: Claim, checkpoint: RoundCheckpoint, seconds: float, *, progress: bool
    ) -> None:
        """Save the checkpoint, and hold the round for as long as other functions may work on it.

        Parameters
        ----------
        claim, checkpoint
        seconds : float
        progress : bool
            Whether earlier attempts have advanced the round; they no longer count as failed then.

        Raises
        ------
        LeaseLost
        """
        self._change(
            claim,
            checkpoint=checkpoint,
            lease_expires_at=Now() + timedelta(seconds=seconds),
            **({"attempts_without_progress": 0} if progress else {}),
        )

    def count_release(self, claim: Claim, digest: str) -> None:
        """Record that a private result is about to become readable: its charge is not returned any more.

        Parameters
        ----------
        claim : Claim
        digest : str
            Of the updates that the result is made of.

        Raises
        ------
        LeaseLost
        BudgetSpent
        """
        with translate_database_errors(), transaction.atomic():
            record_release(_locked(claim), digest)

    def saved_checkpoint(self, claim: Claim) -> RoundCheckpoint | None:
        """Return the checkpoint of a round; None if it has none, or if another attempt holds it."""
        with translate_database_errors():
            return _round_of_lease(claim).values_list("checkpoint", flat=True).first()

    def _change(self, claim: Claim, **changes: Any) -> None:
        with translate_database_errors():
            if not _round_of_lease(claim).update(**changes):
                raise _lease_lost(claim)

    # Ending

    def publish(self, claim: Claim, result: RoundResult) -> RoundAnswer:
        """Create the aggregate and settle the round's updates, in one transaction.

        Raises
        ------
        LeaseLost
        Conflict
            If the model has become private since the claim, and the result has no noise.
        """
        with translate_database_errors(), transaction.atomic():
            round_ = _locked(claim)
            check_noise(round_)
            aggregate = ModelAggregate.objects.create(
                federated_model=round_.federated_model,
                parent_id=round_.parent_id,
                number=round_.number,
                result=result.location,
                **_state_fields(claim, result),
            )
            transitions.reject_updates(registered_updates(round_), result.rejected)
            registered_updates(round_).order_by().update(
                status=UpdateStatus.COMPLETE,
                applied_aggregate=aggregate,
                norm=norms_of(result),
                cosine=cosines_of(result),
                scaling_factor=scaling_factors_of(result),
            )
            transitions.publish_round(
                round_,
                aggregate,
                updates_used=len(result.used),
                updates_rejected=len(result.rejected),
                bytes_read=result.combined.bytes_read,
                workers=result.workers or {},
            )
        return RoundAnswer.published(claim, result, aggregate.pk)

    def reject(self, claim: Claim, rejected: Mapping[int, str], reason: str) -> RoundAnswer:
        """Close a round that has too few usable updates left; those are ready again.

        Raises
        ------
        LeaseLost
        """
        with translate_database_errors(), transaction.atomic():
            round_ = _locked(claim)
            transitions.reject_updates(registered_updates(round_), rejected)
            registered_updates(round_).order_by().update(status=UpdateStatus.PENDING)
            transitions.close_round(
                round_,
                State.REJECTED,
                updates_rejected=len(rejected),
                error=reason,
                **charge_after(round_),
            )
        return RoundAnswer.rejected(claim, rejected, reason)

    def fail(self, claim: Claim, error: Exception) -> None:
        """Close a round that met an error; too many in a row pause its model.

        Raises
        ------
        LeaseLost
        """
        with translate_database_errors(), transaction.atomic():
            transitions.fail_round(_locked(claim), f"{type(error).__name__}: {error}")

    def record_workers(self, claim: Claim, workers: WorkerSummary) -> None:
        """Record what the functions did that shared a round which has ended."""
        ended = AggregationRound.objects.filter(pk=claim.round_id).exclude(state=State.RUNNING)
        with translate_database_errors():
            ended.update(workers=workers)


def _state_fields(claim: Claim, result: RoundResult) -> dict[str, str]:
    """Return the fields of an aggregate that name the optimizer's state, if there is one."""
    if result.optimizer_state is None:
        return {}
    return {
        "server_optimizer": claim.optimizer.name,
        "optimizer_state": result.optimizer_state,
    }


def _round_of_lease(claim: Claim) -> QuerySet[AggregationRound]:
    """Return the round, if this attempt still holds it."""
    return AggregationRound.objects.filter(
        pk=claim.round_id, state=State.RUNNING, attempt=claim.attempt
    )


def _locked(claim: Claim) -> AggregationRound:
    """Lock the model and then the round, in the order of a claim, if this attempt still holds it."""
    transitions.lock_model(claim.model_id)
    round_ = (
        _round_of_lease(claim)
        .select_for_update(of=("self",))
        .select_related("federated_model")
        .first()
    )
    if round_ is None:
        raise _lease_lost(claim)
    return round_


def _lease_lost(claim: Claim) -> LeaseLost:
    return LeaseLost(
        f"attempt {claim.attempt} no longer holds round {claim.number} of model {claim.model_id}: "
        "nothing was changed"
    )
