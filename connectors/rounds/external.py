"""Rounds that a workflow opens and settles step by step, under the protocol of the function's own rounds.

A row of the database owns each of them: its updates name it, and every step acts on the round that its
arguments name. One `ExternalRounds` belongs to one workflow. It remembers the round that it opened, so that
a workflow whose lease was lost cannot act on the round of another one; a workflow that opened none may
continue the model's open external round. Everything else raises `Conflict` and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from django.db import IntegrityError, transaction

from aggregation.errors import Conflict, LeaseLost
from connectors.errors import translate_database_errors
from connectors.rounds import transitions
from connectors.rounds.selectors import (
    ModelSnapshot,
    State,
    UpdateStatus,
    expired_external_rounds,
    model_snapshot,
    registered_updates,
)
from connectors.rounds.sql import ids_in
from models_app.models import AggregationRound, FederatedModel, ModelAggregate, ModelUpdate


@dataclass(frozen=True)
class Membership:
    """Which round of a model a workflow belongs to.

    Parameters
    ----------
    round_id : int or None
        None after the workflow was refused a round: it owns none, and may not touch another's.
    continued : bool
        Whether another workflow opened the round.
    """

    round_id: int | None
    continued: bool = False


class ExternalRounds:
    """The external rounds of one workflow, of which a model has at most one open.

    Parameters
    ----------
    lease : callable
        Returns how long a round that begins now belongs to the workflow.
    request_id : str
        Kept with the rounds.
    """

    def __init__(self, lease: Callable[[], timedelta], request_id: str = "") -> None:
        self._lease = lease
        self._request_id = request_id
        self._memberships: dict[int, Membership] = {}

    # Reading

    def recover_expired(self, model_id: int) -> None:
        """Close the model's external round if its lease has expired.

        Raises
        ------
        TemporarilyUnavailable
        """
        with translate_database_errors():
            if not expired_external_rounds(model_id).exists():
                return
            with transaction.atomic():
                transitions.lock_model(model_id)
                _recover_locked(model_id)

    def registered(self, model: FederatedModel) -> list[ModelUpdate]:
        """Return the updates of the workflow's round; of the model's open round, if it opened none.

        A workflow without a round of its own continues the external round that it sees here.
        """
        self.recover_expired(model.pk)
        running = ModelUpdate.objects.filter(federated_model=model, status=UpdateStatus.RUNNING)
        running = running.select_related("client", "round").order_by("client_id")
        membership = self._memberships.get(model.pk)
        with translate_database_errors():
            if membership and not membership.continued:
                return list(running.filter(round_id=membership.round_id))
            updates = list(running)
        if updates and updates[0].round and updates[0].round.external:
            self._memberships[model.pk] = Membership(updates[0].round_id, continued=True)
        return updates

    # Opening

    def open(self, updates: Sequence[ModelUpdate]) -> None:
        """Open a round with these updates of one model: all of them or none.

        Raises
        ------
        ValueError
            If they are not the updates of one model.
        Conflict
            If the model is paused or has a running round, or one of the updates is not ready: taken,
            superseded, of a client that is no member or is paused, or based on too old an aggregate.
        """
        model_ids = {update.federated_model_id for update in updates}
        if len(model_ids) != 1:
            raise ValueError(
                f"expected the updates of one federated model, got those of {len(model_ids)}"
            )
        (model_id,) = model_ids
        try:
            with translate_database_errors(), transaction.atomic():
                transitions.lock_model(model_id)
                _recover_locked(model_id)
                opened = self._open_locked(model_snapshot(model_id), updates)
        except (Conflict, IntegrityError) as error:
            membership = self._memberships.get(model_id)
            if membership is None or membership.continued:
                self._memberships[model_id] = Membership(None)
            if isinstance(error, Conflict):
                raise
            raise Conflict(f"another round of model {model_id} was opened meanwhile") from error
        self._memberships[model_id] = Membership(opened.pk)
        for update in updates:
            update.status, update.round = UpdateStatus.RUNNING, opened

    def _open_locked(
        self, snapshot: ModelSnapshot, updates: Sequence[ModelUpdate]
    ) -> AggregationRound:
        if snapshot.running:
            raise Conflict(f"{snapshot.running} is running: a model has one running round")
        _refuse_paused(snapshot)
        ready = {update.pk for update in snapshot.ready}
        for update in updates:
            if update.pk not in ready:
                raise Conflict(
                    f"update {update.pk} is not ready any more: expected each member's newest "
                    "pending update; pull the updates that are ready again"
                )
        return transitions.open_round(
            snapshot,
            updates,
            lease=self._lease(),
            request_id=self._request_id,
            external=True,
        )

    # Posting

    def check_post(self, model_id: int, parent: ModelAggregate | None) -> None:
        """Raise the `Conflict` that `post` would raise now, before its result is stored."""
        with translate_database_errors():
            snapshot = model_snapshot(model_id)
            transitions.check_parent(snapshot, parent)
            self._round_of_post(snapshot)

    def post(self, model_id: int, parent: ModelAggregate | None, key: str) -> ModelAggregate:
        """Create the model's next aggregate, as the one of the workflow's round.

        A workflow that registers no updates may post an aggregate where no round is open.

        Parameters
        ----------
        model_id : int
        parent : ModelAggregate or None
            The latest aggregate.
        key : str
            Of the stored weights.

        Raises
        ------
        Conflict
            If ``parent`` is not the latest aggregate, the model is paused, the function's round is
            running, the workflow's round has its aggregate already, or it is not known which round the
            result was computed for.
        LeaseLost
            If the workflow's round has ended.
        """
        with translate_database_errors(), transaction.atomic():
            transitions.lock_model(model_id)
            snapshot = model_snapshot(model_id)
            held = self._round_of_post(snapshot)
            aggregate = transitions.append_aggregate(snapshot, parent, key)
            if held:
                AggregationRound.objects.filter(pk=held.pk).update(aggregate=aggregate)
            else:
                transitions.record_external_round(snapshot, aggregate)
        return aggregate

    def _round_of_post(self, snapshot: ModelSnapshot) -> AggregationRound | None:
        """Return the open round that an aggregate is posted for; None if none is open."""
        model, running = snapshot.model, snapshot.running
        _refuse_paused(snapshot)
        if running and not running.external:
            raise Conflict(f"{running} is running: it will make the next aggregate")
        membership = self._memberships.get(model.pk)
        if membership and not membership.continued:
            if running is None or running.pk != membership.round_id:
                raise _not_held(model.pk, membership)
        elif not (running and membership and membership.round_id == running.pk):
            _refuse_ambiguous(snapshot)
        if running and running.aggregate_id:
            raise Conflict(f"{running} has its aggregate already: its updates count once")
        return running

    # Settling

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
            held = AggregationRound.objects.filter(aggregate=aggregate).first()
            found = _found(updates)
            for update in updates:
                self._check_used(update, found.get(update.pk), aggregate, held)
            if held is None or held.state != State.RUNNING:
                return
            if not updates:
                raise Conflict(f"{aggregate} has no updates: name those that are in it")
            self._settle(held, [update.pk for update in updates], aggregate)
        self._memberships.pop(model_id, None)

    def _check_used(
        self,
        given: ModelUpdate,
        found: ModelUpdate | None,
        aggregate: ModelAggregate,
        held: AggregationRound | None,
    ) -> None:
        if found and found.applied_aggregate_id == aggregate.pk:
            return
        if found and found.applied_aggregate_id:
            raise Conflict(f"update {given.pk} is already part of another aggregate")
        is_registered = found and found.status == UpdateStatus.RUNNING
        if not (found and is_registered and held and found.round_id == held.pk):
            raise Conflict(
                f"update {given.pk} is not registered for the round that made {aggregate}"
            )
        self._check_held(held, given)

    def _settle(
        self, held: AggregationRound, used: Sequence[int], aggregate: ModelAggregate
    ) -> None:
        registered = registered_updates(held).order_by()
        registered.exclude(pk__in=ids_in(used)).update(status=UpdateStatus.FAILED)
        count = registered.update(status=UpdateStatus.COMPLETE, applied_aggregate=aggregate)
        transitions.publish_round(held, aggregate, updates_used=count)

    def complete(self, updates: Sequence[ModelUpdate]) -> None:
        """Confirm that updates are in their aggregates; settle a round that has only been posted.

        Raises
        ------
        Conflict
            If one of them is in no aggregate, or the round is not the workflow's.
        """
        with translate_database_errors(), transaction.atomic():
            _lock_models(updates)
            rounds: dict[int, tuple[AggregationRound, list[int]]] = {}
            found = _found(updates)
            for given in updates:
                update = found.get(given.pk)
                if update and update.status == UpdateStatus.COMPLETE:
                    continue
                held = update.round if update and update.status == UpdateStatus.RUNNING else None
                if held is None or not held.aggregate_id:
                    raise Conflict(
                        f"update {given.pk} is in no aggregate and would be lost: register its use "
                        "in one, or that its aggregation failed"
                    )
                self._check_held(held, given)
                rounds.setdefault(held.pk, (held, []))[1].append(given.pk)
            for held, used in rounds.values():
                if held.aggregate:
                    self._settle(held, used, held.aggregate)
        for held, _ in rounds.values():
            self._memberships.pop(held.federated_model_id, None)

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
            given_back: list[int] = []
            rounds: dict[int, AggregationRound] = {}
            found = _found(updates)
            for given in updates:
                update = found.get(given.pk)
                held = update.round if update else None
                if update is None or held is None or held.state != State.RUNNING:
                    _refuse_complete(update)
                    continue
                self._check_held(held, given)
                if held.aggregate_id:
                    raise Conflict(
                        f"update {given.pk} is part of an aggregate: ready again, it would count twice"
                    )
                rounds[held.pk] = held
                if update.status == UpdateStatus.RUNNING:
                    given_back.append(given.pk)
            ModelUpdate.objects.filter(pk__in=ids_in(given_back)).update(status=UpdateStatus.FAILED)
            failed = [each for each in rounds.values() if not registered_updates(each).exists()]
            for held in failed:
                transitions.fail_round(held, reason)
        for held in failed:
            self._memberships.pop(held.federated_model_id, None)

    def reject(self, updates: Iterable[ModelUpdate], reasons: Mapping[int, str]) -> None:
        """Mark updates INVALID that a workflow cannot use, so that the next round goes without them.

        Updates that are registered for a round of the function or of another workflow are left to it.
        """
        bad = [update for update in updates if update.pk in reasons]
        with translate_database_errors(), transaction.atomic():
            _lock_models(bad)
            found = _found(bad)
            mine = {u.pk: reasons[u.pk] for u in bad if self._may_reject(u, found.get(u.pk))}
            transitions.reject_updates(ModelUpdate.objects.all(), mine)

    def _may_reject(self, given: ModelUpdate, found: ModelUpdate | None) -> bool:
        if found is None or found.status not in (*ModelUpdate.READY, UpdateStatus.RUNNING):
            return False
        if found.status != UpdateStatus.RUNNING or found.round is None:
            return True
        try:
            self._check_held(found.round, given)
        except Conflict:
            return False
        return found.round.aggregate_id is None

    def _check_held(self, held: AggregationRound, given: ModelUpdate) -> None:
        """Refuse to act on a round of the function or of another workflow.

        Raises
        ------
        Conflict
        LeaseLost
            If the workflow, or the update that it was given, belongs to a round that has ended.
        """
        if not held.external:
            raise Conflict(f"update {given.pk} is registered for {round}, which settles it itself")
        membership = self._memberships.get(held.federated_model_id)
        if membership and not membership.continued and membership.round_id != held.pk:
            raise _not_held(held.federated_model_id, membership)
        if given.status == UpdateStatus.RUNNING and given.round_id != held.pk:
            raise LeaseLost(
                f"update {given.pk} is registered for {round} by now: the round that it was pulled "
                "with has ended"
            )


def _recover_locked(model_id: int) -> None:
    for held in expired_external_rounds(model_id).select_related("aggregate"):
        transitions.recover_external_round(held)


def _lock_models(updates: Iterable[ModelUpdate]) -> None:
    """Lock the models of these updates, always in the same order."""
    for model_id in sorted({update.federated_model_id for update in updates}):
        transitions.lock_model(model_id)


def _found(updates: Iterable[ModelUpdate]) -> dict[int, ModelUpdate]:
    """Return the updates as they are in the database, with their rounds."""
    chosen = ModelUpdate.objects.filter(pk__in=ids_in(update.pk for update in updates))
    return {update.pk: update for update in chosen.select_related("round__aggregate")}


def _refuse_paused(snapshot: ModelSnapshot) -> None:
    if not snapshot.model.allow_aggregation:
        raise Conflict(f"model {snapshot.model.pk} is paused: {snapshot.model.pause_reason}")


def _refuse_complete(update: ModelUpdate | None) -> None:
    if update and update.applied_aggregate_id:
        raise Conflict(f"update {update.pk} is part of an aggregate: it would count twice")


def _refuse_ambiguous(snapshot: ModelSnapshot) -> None:
    """Refuse an aggregate whose workflow is unknown, after an external round for it has failed.

    It may contain updates of the failed round, which are ready again and would count twice.
    """
    rounds = snapshot.model.rounds.filter(number=snapshot.number, external=True)
    failed = rounds.filter(state=State.FAILED).order_by("pk").last()
    if failed:
        raise Conflict(
            f"{failed} has failed and its updates are ready again: in this aggregate they would count "
            "twice; register the updates that are in it first, or pull the updates registered now"
        )


def _not_held(model_id: int, membership: Membership) -> Conflict:
    if membership.round_id is None:
        return Conflict(f"this workflow has registered no updates of model {model_id}")
    return LeaseLost(
        f"the round that this workflow opened for model {model_id} has ended: its updates are ready "
        "again or were settled"
    )
