"""The round protocol in the database: claim with a lease, take over, publish, settle.

A round is held by one attempt at a time. Its number is the fencing token: every change is made on the
condition that the round is RUNNING and the attempt still the one that makes it, so that whoever comes
late changes nothing. One unique constraint lets no model have two RUNNING rounds, another no round
number two aggregates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings as django_settings
from django.db import IntegrityError, transaction
from django.db.models import Case, F, FloatField, QuerySet, Value, When

from aggregation.counts import capped_examples
from aggregation.errors import LeaseLost, RuleError
from aggregation.requirements import create_requirement
from aggregation.round import (
    Claim,
    ClaimedUpdate,
    RoundAnswer,
    RoundCheckpoint,
    RoundResult,
    Status,
)
from aggregation.rules import create_rule
from connectors.errors import translate_database_errors
from connectors.rounds import selectors
from connectors.rounds.selectors import ModelSnapshot, State, UpdateStatus
from models_app.models import (
    AggregationRound,
    FederatedModel,
    ModelAggregate,
    ModelUpdate,
    pause_changes,
)

#: Attempts in a row that may end no further than they began before their round is given up.
MAX_ATTEMPTS_WITHOUT_PROGRESS = 5

#: A checkpoint is kept this often at most: redoing ten seconds costs less than writing all the time.
CHECKPOINT_EVERY = timedelta(seconds=10)


class RoundLedger:
    """The rounds of all models.

    Parameters
    ----------
    lease : timedelta or datetime
        How long an attempt holds a round, or until when: that of a process which ends at a known
        moment ends with it, however late the attempt began. After it, the attempt is taken for dead.
    clock : callable
        Tells the time, with its zone.
    request_id : str
        Kept with the rounds this process begins.
    """

    def __init__(
        self, lease: timedelta | datetime, clock: Callable[[], datetime], request_id: str = ""
    ) -> None:
        self._lease = lease
        self._clock = clock
        self._request_id = request_id
        self._kept_on: datetime | None = None

    def _lease_end(self) -> datetime:
        return self._lease if isinstance(self._lease, datetime) else self._clock() + self._lease

    # Beginning

    def claim(self, model_id: int) -> Claim | RoundAnswer:
        """Register the ready updates of a model for one round, or take over a round left behind.

        Where there is no round to start, nothing is written and no row is locked.

        Raises
        ------
        UnknownModel
        """
        with translate_database_errors():
            answer = self._refusal(selectors.model_snapshot(model_id))
            if answer:
                return answer
            try:
                with transaction.atomic():
                    selectors.lock_model(model_id)
                    return self._claim_locked(model_id)
            except (IntegrityError, LeaseLost) as error:
                # Somebody was quicker; when their round ends they look for what is ready, as ever.
                return RoundAnswer(model_id=model_id, status=Status.BUSY, reason=str(error))

    def _claim_locked(self, model_id: int) -> Claim | RoundAnswer:
        now = selectors.model_snapshot(model_id)
        answer = self._refusal(now)
        if answer:
            return answer
        if now.running and now.running.external:
            self.recover(now.running)
            return self._claim_locked(model_id)
        if now.running:
            return self._take_over(now, now.running)
        opened = self.open(now, now.ready)
        selectors.reject_superseded(opened)
        return self._claim(opened, now.ready, now)

    def _refusal(self, now: ModelSnapshot) -> RoundAnswer | None:
        """The answer to a request for a round that cannot start; None if one can."""

        def answer(status: Status, reason: str, number: int | None = None) -> RoundAnswer:
            return RoundAnswer(model_id=now.model.pk, status=status, round=number, reason=reason)

        if not now.model.allow_aggregation:
            return answer(Status.PAUSED, now.model.pause_reason or "aggregation is not allowed")
        if now.running:
            if now.running.lease_expires_at <= self._clock():
                return None
            return answer(Status.BUSY, f"{now.running} is running", now.running.number)
        if not now.ready:
            return answer(Status.WAITING, "no update is ready")
        unmet = now.model.requirement_object().unmet(now.readiness(self._clock()))
        if unmet:
            return answer(Status.WAITING, unmet)
        needed = now.model.rule().min_updates
        if len(now.ready) < needed:
            reason = f"{now.model.aggregator} needs {needed} updates, {len(now.ready)} are ready"
            return answer(Status.WAITING, reason)
        return None

    def open(
        self, now: ModelSnapshot, updates: Sequence[ModelUpdate], *, external: bool = False
    ) -> AggregationRound:
        """Begin a round with these updates; the caller holds the model's lock.

        Raises
        ------
        LeaseLost
            If one of them is no longer ready.
        """
        opened = AggregationRound.objects.create(
            federated_model=now.model,
            number=now.number,
            parent=now.parent,
            config_snapshot=_config_snapshot(now),
            external=external,
            lease_expires_at=self._lease_end(),
            started_on=self._clock(),
            request_id=self._request_id,
        )
        ids = [update.pk for update in updates]
        taken = ModelUpdate.objects.filter(pk__in=ids, status__in=ModelUpdate.READY).update(
            status=UpdateStatus.RUNNING, round=opened
        )
        if taken != len(ids):
            raise LeaseLost(f"{len(ids) - taken} of {len(ids)} updates are not ready any more")
        return opened

    def _take_over(self, now: ModelSnapshot, held: AggregationRound) -> Claim | RoundAnswer:
        if held.attempts_without_progress + 1 >= MAX_ATTEMPTS_WITHOUT_PROGRESS:
            tries = f"{MAX_ATTEMPTS_WITHOUT_PROGRESS} attempts in a row"
            return self._give_up(held, f"given up: {tries} got no further")
        held.attempt += 1
        held.attempts_without_progress += 1
        held.lease_expires_at = self._lease_end()
        held.request_id = self._request_id
        held.save(
            update_fields=["attempt", "attempts_without_progress", "lease_expires_at", "request_id"]
        )
        try:
            return self._claim(held, list(selectors.registered_updates(held)), now)
        except RuleError as error:  # As after a deployment without the rule that its terms name.
            return self._give_up(held, f"given up: {error}")

    def _give_up(self, held: AggregationRound, reason: str) -> RoundAnswer:
        self._fail(held, reason)
        return RoundAnswer(
            model_id=held.federated_model_id,
            status=Status.FAILED,
            round=held.number,
            reason=reason,
        )

    def _claim(
        self, held: AggregationRound, updates: Sequence[ModelUpdate], now: ModelSnapshot
    ) -> Claim:
        self._kept_on = None
        config_snapshot = held.config_snapshot
        cap = config_snapshot["max_num_examples"]
        return Claim(
            model_id=held.federated_model_id,
            round_id=held.pk,
            number=held.number,
            attempt=held.attempt,
            rule=create_rule(config_snapshot["rule"], config_snapshot["rule_args"]),
            requirement=create_requirement(
                config_snapshot["requirement"], config_snapshot["requirement_args"]
            ),
            readiness=dataclasses.replace(
                now, ready=list(updates), members=config_snapshot["members"]
            ).readiness(self._clock()),
            updates=tuple(_claimed(update, cap) for update in updates),
            differences=config_snapshot["update_kind"] == FederatedModel.UpdateKind.DIFFERENCES,
            parent=config_snapshot["parent"],
            checkpoint=held.checkpoint,
        )

    # Going on

    def save_checkpoint(self, claim: Claim, checkpoint: RoundCheckpoint) -> None:
        """Keep how far a round is, unless that was done a moment ago.

        Raises
        ------
        LeaseLost
        """
        now = self._clock()
        if self._kept_on and now - self._kept_on < CHECKPOINT_EVERY:
            return
        self._kept_on = now
        self._change(claim, checkpoint=checkpoint, attempts_without_progress=0)

    def release_lease(self, claim: Claim, checkpoint: RoundCheckpoint | None) -> None:
        """End the lease, so that the next attempt may begin at once, where this one stopped.

        Raises
        ------
        LeaseLost
        """
        if checkpoint is None or checkpoint == claim.checkpoint:
            self._change(claim, lease_expires_at=self._clock())
            return
        self._change(
            claim,
            lease_expires_at=self._clock(),
            checkpoint=checkpoint,
            attempts_without_progress=0,
        )

    def _change(self, claim: Claim, **changes: Any) -> None:
        with translate_database_errors():
            if not _held(claim).update(**changes):
                raise _lease_lost(claim)

    # Ending

    def publish(self, claim: Claim, result: RoundResult) -> RoundAnswer:
        """Create the aggregate and settle the round's updates, in one transaction.

        Raises
        ------
        LeaseLost
        """
        with translate_database_errors(), transaction.atomic():
            held = _locked(claim)
            aggregate = ModelAggregate.objects.create(
                federated_model=held.federated_model,
                parent_id=held.parent_id,
                number=held.number,
                result=result.location,
            )
            selectors.reject_updates(selectors.registered_updates(held), result.rejected)
            selectors.registered_updates(held).order_by().update(
                status=UpdateStatus.COMPLETE, applied_aggregate=aggregate, norm=_norms(result)
            )
            self.close(
                held,
                State.PUBLISHED,
                aggregate=aggregate,
                updates_used=len(result.used),
                updates_rejected=len(result.rejected),
                bytes_read=result.combined.bytes_read,
            )
            _forget_failures(held.federated_model_id)
            selectors.reject_stale(held.federated_model, held.number)
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
        """Close a round left with too few usable updates; those that are left wait on.

        Raises
        ------
        LeaseLost
        """
        with translate_database_errors(), transaction.atomic():
            held = _locked(claim)
            selectors.reject_updates(selectors.registered_updates(held), rejected)
            selectors.registered_updates(held).order_by().update(status=UpdateStatus.PENDING)
            self.close(held, State.REJECTED, updates_rejected=len(rejected), error=reason)
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
            self._fail(_locked(claim), f"{type(error).__name__}: {error}")

    def _fail(self, held: AggregationRound, reason: str) -> None:
        selectors.registered_updates(held).order_by().update(status=UpdateStatus.FAILED)
        self.close(held, State.FAILED, error=reason)
        model = FederatedModel.objects.filter(pk=held.federated_model_id)
        model.update(failed_rounds=F("failed_rounds") + 1)
        model.filter(
            failed_rounds__gte=django_settings.MAX_FAILED_ROUNDS, allow_aggregation=True
        ).update(
            **pause_changes(
                f"{django_settings.MAX_FAILED_ROUNDS} rounds failed in a row; the last: {reason}",
                self._clock(),
            )
        )

    def recover(self, left: AggregationRound) -> None:
        """Close a round by hand whose workflow did not finish it before its lease ended.

        If it had posted its aggregate, its updates are in it; else they are ready again.
        """
        updates = selectors.registered_updates(left).order_by()
        if left.aggregate_id:
            used = updates.update(
                status=UpdateStatus.COMPLETE, applied_aggregate_id=left.aggregate_id
            )
            self.close(left, State.PUBLISHED, updates_used=used)
        else:
            updates.update(status=UpdateStatus.FAILED)
            self.close(left, State.FAILED, error="not finished before its lease ended")

    def close(self, held: AggregationRound, state: int, **outcome: Any) -> None:
        """End a round."""
        AggregationRound.objects.filter(pk=held.pk).update(
            state=state, finished_on=self._clock(), checkpoint=None, **outcome
        )


def _held(claim: Claim) -> QuerySet[AggregationRound]:
    """The round, if this attempt still holds it."""
    return AggregationRound.objects.filter(
        pk=claim.round_id, state=State.RUNNING, attempt=claim.attempt
    )


def _locked(claim: Claim) -> AggregationRound:
    """The round, if this attempt still holds it, locked; as by whoever claims, after its model."""
    selectors.lock_model(claim.model_id)
    held = _held(claim).select_for_update(of=("self",)).select_related("federated_model").first()
    if held is None:
        raise _lease_lost(claim)
    return held


def _lease_lost(claim: Claim) -> LeaseLost:
    return LeaseLost(
        f"attempt {claim.attempt} no longer holds round {claim.number} of model {claim.model_id}: "
        "nothing was changed"
    )


def _config_snapshot(now: ModelSnapshot) -> dict[str, Any]:
    """What the result depends on besides the updates, as it is now."""
    model, artifact = now.model, now.model.current_artifact
    initial = artifact.values.name if artifact else None
    return {
        "rule": model.aggregator,
        "rule_args": model.aggregator_args,
        "requirement": model.requirement,
        "requirement_args": model.requirement_args,
        "members": now.members,
        "update_kind": model.update_kind,
        "max_num_examples": model.max_num_examples,
        "parent": now.parent.result.name if now.parent else initial,
    }


def _claimed(update: ModelUpdate, cap: int | None) -> ClaimedUpdate:
    return ClaimedUpdate(
        id=update.pk,
        num_examples=capped_examples(update.num_examples, cap),
        location=str(update.data.name),
        size=update.size,
        etag=update.etag,
        version=update.version_id,
    )


def _norms(result: RoundResult) -> Case | Value:
    """The norm of each update that was used, where norms were measured."""
    norms = result.combined.norms
    if not norms:
        return Value(None, output_field=FloatField())
    cases = [When(pk=pk, then=Value(n)) for pk, n in zip(result.used, norms, strict=True)]
    return Case(*cases, output_field=FloatField())


def _forget_failures(model_id: int) -> None:
    FederatedModel.objects.filter(pk=model_id, failed_rounds__gt=0).update(failed_rounds=0)
