"""How a round begins: an attempt claims the ready updates of a model, or takes over a round left behind."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from django.db import IntegrityError, transaction
from django.utils import timezone

from aggregation.errors import Conflict, RuleError
from aggregation.optimizers import create_optimizer
from aggregation.policies import TensorPolicies
from aggregation.requirements import create_requirement
from aggregation.round import Claim, RoundAnswer, Status
from aggregation.staleness import create_staleness
from connectors.errors import translate_database_errors
from connectors.limits import MAX_ATTEMPTS_WITHOUT_PROGRESS
from connectors.rounds import transitions
from connectors.rounds.private import BudgetSpent, Noise, private_rule, reserve
from connectors.rounds.refusal import refusal
from connectors.rounds.selectors import ModelSnapshot, model_snapshot, registered_updates
from connectors.rounds.snapshot import (
    claimed_update,
    config_snapshot_of,
    rule_of,
    secure_terms_of,
)
from models_app.models import AggregationRound, FederatedModel, ModelUpdate, pause_changes


class RoundClaims:
    """Begins the attempts at rounds.

    Parameters
    ----------
    lease, request_id, prepare
        As for `connectors.rounds.ledger.RoundLedger`.
    """

    def __init__(
        self,
        lease: Callable[[], timedelta],
        request_id: str,
        prepare: Callable[[ModelSnapshot], Noise | None],
    ) -> None:
        self._lease = lease
        self._request_id = request_id
        self._prepare = prepare

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


def _pause(snapshot: ModelSnapshot, reason: str) -> RoundAnswer:
    model_id = snapshot.model.pk
    FederatedModel.objects.filter(pk=model_id).update(**pause_changes(reason, timezone.now()))
    return RoundAnswer(model_id=model_id, status=Status.PAUSED, reason=reason, pauses=True)


def _give_up(round_: AggregationRound, reason: str) -> RoundAnswer:
    transitions.fail_round(round_, reason)
    return RoundAnswer(
        model_id=round_.federated_model_id,
        status=Status.FAILED,
        round=round_.number,
        reason=reason,
    )
