"""The round protocol of the function in the database: claim with a lease, take over, publish, settle.

A round is held by one attempt at a time. The attempt's number is the fencing token: every change is made
on the condition that the round is RUNNING and still has this number, so that a late attempt changes
nothing. One unique constraint allows a model one RUNNING round, another allows a round number one
aggregate. Leases are judged by the database's clock alone.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.db.models.functions import Now
from django.utils import timezone

from aggregation.errors import Conflict, LeaseLost, RuleError
from aggregation.optimizers import create_optimizer
from aggregation.policies import TensorPolicies
from aggregation.requirements import create_requirement
from aggregation.round import (
    Claim,
    RoundAnswer,
    RoundCheckpoint,
    RoundResult,
    Status,
)
from aggregation.round.values import WorkerSummary
from aggregation.staleness import create_staleness
from connectors.errors import translate_database_errors
from connectors.limits import CHECKPOINT_SECONDS, MAX_ATTEMPTS_WITHOUT_PROGRESS
from connectors.rounds import transitions
from connectors.rounds.private import (
    BudgetSpent,
    Noise,
    charge_after,
    private_rule,
    record_release,
    reserve,
)
from connectors.rounds.refusal import refusal
from connectors.rounds.selectors import (
    ModelSnapshot,
    State,
    UpdateStatus,
    model_snapshot,
    registered_updates,
)
from connectors.rounds.snapshot import (
    claimed_update,
    config_snapshot_of,
    rule_of,
    secure_terms_of,
)
from connectors.rounds.sql import cosines_of, norms_of, scaling_factors_of
from models_app.models import (
    AggregationRound,
    FederatedModel,
    ModelAggregate,
    ModelUpdate,
    pause_changes,
)


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
        self._lease = lease
        self._request_id = request_id
        self._prepare = prepare
        self._next_checkpoint = -math.inf

    # Beginning

    def claim(self, model_id: int) -> Claim | RoundAnswer:
        """Register the ready updates of a model for one round, or take over a round left behind.

        Where there is no round to start, nothing is written and no row is locked.

        Raises
        ------
        UnknownModel
        """
        with translate_database_errors():
            snapshot = model_snapshot(model_id)
            answer = refusal(snapshot)
            if answer:
                return answer
            noise = None if snapshot.running else self._prepare(snapshot)
            try:
                with transaction.atomic():
                    transitions.lock_model(model_id)
                    return self._claim_locked(model_id, noise)
            except (IntegrityError, Conflict) as error:
                # Another process was quicker; when its round ends, it looks for ready updates itself.
                return RoundAnswer(model_id=model_id, status=Status.BUSY, reason=str(error))

    def _claim_locked(self, model_id: int, noise: Noise | None) -> Claim | RoundAnswer:
        snapshot = model_snapshot(model_id)
        answer = refusal(snapshot)
        if answer:
            return answer
        if snapshot.running and snapshot.running.external:
            transitions.recover_external_round(snapshot.running)
            return self._claim_locked(model_id, noise)
        if snapshot.running:
            return self._take_over(snapshot, snapshot.running)
        privacy: dict[str, Any] = {}
        if snapshot.model.differential_privacy is not None:
            try:
                privacy = reserve(snapshot.model, noise)
            except BudgetSpent as error:
                return _pause(snapshot, str(error))
        updates = _cohort(snapshot)
        opened = transitions.open_round(
            snapshot, updates, lease=self._lease(), request_id=self._request_id, **privacy
        )
        return self._claim(opened, updates, snapshot)

    def _take_over(self, snapshot: ModelSnapshot, round_: AggregationRound) -> Claim | RoundAnswer:
        if round_.attempts_without_progress + 1 >= MAX_ATTEMPTS_WITHOUT_PROGRESS:
            tries = f"{MAX_ATTEMPTS_WITHOUT_PROGRESS} attempts in a row"
            return _give_up(round_, f"given up: {tries} made no progress")
        round_.attempt += 1
        round_.attempts_without_progress += 1
        round_.lease_expires_at = snapshot.now + self._lease()
        round_.request_id = self._request_id
        round_.save(
            update_fields=["attempt", "attempts_without_progress", "lease_expires_at", "request_id"]
        )
        try:
            return self._claim(round_, list(registered_updates(round_)), snapshot)
        except RuleError as error:  # A deployment may have removed the rule that the round names.
            return _give_up(round_, f"given up: {error}")

    def _claim(
        self, round_: AggregationRound, updates: Sequence[ModelUpdate], snapshot: ModelSnapshot
    ) -> Claim:
        self._next_checkpoint = -math.inf
        config = config_snapshot_of(round_)
        return Claim(
            model_id=round_.federated_model_id,
            round_id=round_.pk,
            number=round_.number,
            attempt=round_.attempt,
            rule=private_rule(round_) or rule_of(config),
            requirement=create_requirement(config["requirement"], config["requirement_args"]),
            readiness=dataclasses.replace(
                snapshot, ready=list(updates), members=config["members"]
            ).readiness(),
            updates=tuple(claimed_update(update, round_.number, config) for update in updates),
            differences=config["update_kind"] == FederatedModel.UpdateKind.DIFFERENCES,
            policies=TensorPolicies.from_json(config["policies"]),
            parent=config["parent"],
            staleness=create_staleness(config["staleness"], config["staleness_args"]),
            optimizer=create_optimizer(config["server_optimizer"], config["server_optimizer_args"]),
            optimizer_state=config["optimizer_state"],
            sealed_seed=round_.sealed_seed,
            checkpoint=round_.checkpoint,
            target_seconds=snapshot.model.target_round_seconds,
            max_functions=snapshot.model.max_functions,
            secure=secure_terms_of(config),
        )

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
            _refuse_without_noise(round_)
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
        return RoundAnswer(
            model_id=claim.model_id,
            status=Status.PUBLISHED,
            round=claim.number,
            aggregate_id=aggregate.pk,
            updates_used=len(result.used),
            updates_rejected=len(result.rejected),
            bytes_read=result.combined.bytes_read,
        )

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
        return RoundAnswer(
            model_id=claim.model_id,
            status=Status.REJECTED,
            round=claim.number,
            updates_rejected=len(rejected),
            reason=reason,
        )

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


def _cohort(snapshot: ModelSnapshot) -> list[ModelUpdate]:
    """Return the updates of a round: the oldest, if a sum of masked updates cannot hold them all.

    A private round takes all of them, since otherwise one client could displace another.
    """
    secure = snapshot.model.secure_terms()
    if secure is None or snapshot.model.differential_privacy is not None:
        return snapshot.ready
    if len(snapshot.ready) <= secure.settings.max_cohort:
        return snapshot.ready
    oldest = sorted(snapshot.ready, key=lambda update: (update.uploaded_on, update.pk))
    return sorted(oldest[: secure.settings.max_cohort], key=lambda update: update.client_id)


def _refuse_without_noise(round_: AggregationRound) -> None:
    if round_.federated_model.differential_privacy is None:
        return
    if round_.differential_privacy is None:
        raise Conflict(f"the model has become private since {round_} was claimed without noise")
    if not round_.privacy_released:
        raise ValueError(f"the result of {round_} was not counted as released")


def _pause(snapshot: ModelSnapshot, reason: str) -> RoundAnswer:
    model_id = snapshot.model.pk
    FederatedModel.objects.filter(pk=model_id).update(**pause_changes(reason, timezone.now()))
    return RoundAnswer(model_id=model_id, status=Status.PAUSED, reason=reason, pauses=True)


def _state_fields(claim: Claim, result: RoundResult) -> dict[str, str]:
    """Return the fields of an aggregate that name the optimizer's state, if there is one."""
    if result.optimizer_state is None:
        return {}
    return {
        "server_optimizer": claim.optimizer.name,
        "optimizer_state": result.optimizer_state,
    }


def _give_up(round_: AggregationRound, reason: str) -> RoundAnswer:
    transitions.fail_round(round_, reason)
    return RoundAnswer(
        model_id=round_.federated_model_id,
        status=Status.FAILED,
        round=round_.number,
        reason=reason,
    )


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
