"""Settling external rounds: which updates are in an aggregate, which are ready again or rejected.

A request that contradicts the state of the model raises `Conflict` and changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from django.db import transaction

from aggregation.errors import Conflict
from connectors.errors import translate_database_errors
from connectors.rounds import transitions
from connectors.rounds.memberships import Memberships
from connectors.rounds.selectors import State, UpdateStatus, registered_updates
from connectors.rounds.sql import ids_in
from models_app.models import AggregationRound, ModelAggregate, ModelUpdate


class Settlement:
    """Settles the external rounds of one workflow.

    Parameters
    ----------
    memberships : Memberships
        Of the workflow.
    """

    def __init__(self, memberships: Memberships) -> None:
        self._memberships = memberships

    def settle_used(self, updates: Sequence[ModelUpdate], aggregate: ModelAggregate) -> None:
        """Settle the round that made the aggregate: these updates are in it, its others ready again.

        Repeating the call changes nothing.

        Raises
        ------
        Conflict
            If an update is not registered for this round, or the round is not the workflow's.
        """
        model_id = aggregate.federated_model_id
        with translate_database_errors(), transaction.atomic():
            transitions.lock_model(model_id)
            round_ = AggregationRound.objects.filter(aggregate=aggregate).first()
            stored = _stored_updates(updates)
            for update in updates:
                self._check_used(update, stored.get(update.pk), aggregate, round_)
            if round_ is None or round_.state != State.RUNNING:
                return
            if not updates:
                raise Conflict(f"{aggregate} has no updates: name those that are in it")
            self._settle(round_, [update.pk for update in updates], aggregate)
        self._memberships.leave(round_)

    def _check_used(
        self,
        given: ModelUpdate,
        stored: ModelUpdate | None,
        aggregate: ModelAggregate,
        round_: AggregationRound | None,
    ) -> None:
        if stored and stored.applied_aggregate_id == aggregate.pk:
            return
        if stored and stored.applied_aggregate_id:
            raise Conflict(f"update {given.pk} is already part of another aggregate")
        is_registered = stored and stored.status == UpdateStatus.RUNNING
        if not (stored and is_registered and round_ and stored.round_id == round_.pk):
            raise Conflict(
                f"update {given.pk} is not registered for the round that made {aggregate}"
            )
        self._memberships.check_update(round_, given)

    def _settle(
        self, round_: AggregationRound, used: Sequence[int], aggregate: ModelAggregate
    ) -> None:
        registered = registered_updates(round_).order_by()
        registered.exclude(pk__in=ids_in(used)).update(status=UpdateStatus.FAILED)
        count = registered.update(status=UpdateStatus.COMPLETE, applied_aggregate=aggregate)
        transitions.publish_round(round_, aggregate, updates_used=count)

    def complete(self, updates: Sequence[ModelUpdate]) -> None:
        """Confirm that updates are in their aggregates; settle a round that has only been posted.

        Raises
        ------
        Conflict
            If one of them is in no aggregate, or the round is not the workflow's.
        """
        with translate_database_errors(), transaction.atomic():
            _lock_models(updates)
            posted: dict[AggregationRound, list[int]] = {}
            stored = _stored_updates(updates)
            for given in updates:
                update = stored.get(given.pk)
                if update and update.status == UpdateStatus.COMPLETE:
                    continue
                round_ = _running_round(update)
                if round_ is None or not round_.aggregate_id:
                    raise Conflict(
                        f"update {given.pk} is in no aggregate and would be lost: register its use "
                        "in one, or that its aggregation failed"
                    )
                self._memberships.check_update(round_, given)
                posted.setdefault(round_, []).append(given.pk)
            for round_, used in posted.items():
                if registered_updates(round_).exclude(pk__in=ids_in(used)).exists():
                    raise Conflict(
                        f"{round_} has other updates: register which are in its aggregate"
                    )
                if round_.aggregate:
                    self._settle(round_, used, round_.aggregate)
                    self._memberships.leave(round_)

    def fail(self, updates: Sequence[ModelUpdate], reason: str = "its workflow failed") -> None:
        """Make registered updates ready again, and close rounds that have none left as failed.

        Updates that are not registered stay as they are.

        Raises
        ------
        Conflict
            If one of them is part of an aggregate, or is registered for a round that is not the
            workflow's.
        """
        with translate_database_errors(), transaction.atomic():
            _lock_models(updates)
            stored = _stored_updates(updates)
            rounds = {self._round_to_fail(given, stored.get(given.pk)) for given in updates}
            chosen = ModelUpdate.objects.filter(pk__in=ids_in(update.pk for update in updates))
            chosen.filter(status=UpdateStatus.RUNNING).update(status=UpdateStatus.FAILED)
            for round_ in filter(None, rounds):
                self._close_or_fence(round_, reason)

    def _round_to_fail(
        self, given: ModelUpdate, stored: ModelUpdate | None
    ) -> AggregationRound | None:
        """Return the running round of an update that failed; None if it is not registered."""
        if stored and stored.applied_aggregate_id:
            raise Conflict(f"update {given.pk} is part of an aggregate: it would count twice")
        round_ = stored.round if stored else None
        if round_ is None or round_.state != State.RUNNING:
            return None
        self._memberships.check_update(round_, given)
        if round_.aggregate_id:
            raise Conflict(f"update {given.pk} is part of an aggregate: it would count twice")
        return round_

    def _close_or_fence(self, round_: AggregationRound, reason: str) -> None:
        """Close a round without updates as failed; otherwise fence off other processes that hold it."""
        if registered_updates(round_).exists():
            self._memberships.fence_off_others(round_)
        else:
            transitions.fail_round(round_, reason)
            self._memberships.leave(round_)

    def reject(self, updates: Iterable[ModelUpdate], reasons: Mapping[int, str]) -> None:
        """Mark updates INVALID that a workflow cannot use, so that the next round excludes them.

        Updates that are registered for a round of the function or of another workflow are left to it.
        """
        bad = [update for update in updates if update.pk in reasons]
        with translate_database_errors(), transaction.atomic():
            _lock_models(bad)
            stored = _stored_updates(bad)
            mine = {u.pk: reasons[u.pk] for u in bad if self._may_reject(u, stored.get(u.pk))}
            transitions.reject_updates(ModelUpdate.objects.all(), mine)
            for round_ in filter(None, {_running_round(stored[pk]) for pk in mine}):
                self._memberships.fence_off_others(round_)

    def _may_reject(self, given: ModelUpdate, stored: ModelUpdate | None) -> bool:
        if stored is None or stored.status not in (*ModelUpdate.READY, UpdateStatus.RUNNING):
            return False
        round_ = _running_round(stored)
        if round_ is None:
            return True
        try:
            self._memberships.check_update(round_, given)
        except Conflict:
            return False
        return round_.aggregate_id is None


def _lock_models(updates: Iterable[ModelUpdate]) -> None:
    """Lock the models of these updates, always in the same order."""
    for model_id in sorted({update.federated_model_id for update in updates}):
        transitions.lock_model(model_id)


def _stored_updates(updates: Iterable[ModelUpdate]) -> dict[int, ModelUpdate]:
    """Return the updates as they are in the database, with their rounds."""
    chosen = ModelUpdate.objects.filter(pk__in=ids_in(update.pk for update in updates))
    return {update.pk: update for update in chosen.select_related("round__aggregate")}


def _running_round(update: ModelUpdate | None) -> AggregationRound | None:
    """Return the round that an update is registered for, if it is."""
    return update.round if update and update.status == UpdateStatus.RUNNING else None
