"""External rounds: a workflow opens them and posts their aggregates step by step.

A row of the database owns each of them, under the protocol of the function's own rounds: its updates name
it, and every step acts on the round that its arguments name. `connectors.rounds.settlement` settles them.
A request that contradicts the state of the model raises `Conflict` and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta

from django.db import IntegrityError, transaction

from aggregation.errors import Conflict
from connectors.errors import translate_database_errors
from connectors.rounds import transitions
from connectors.rounds.memberships import Memberships
from connectors.rounds.selectors import (
    ModelSnapshot,
    State,
    UpdateStatus,
    expired_external_rounds,
    model_snapshot,
)
from models_app.models import AggregationRound, FederatedModel, ModelAggregate, ModelUpdate


class ExternalRounds:
    """The external rounds of one workflow, of which a model has at most one open.

    Parameters
    ----------
    lease : callable
        Returns how long a round that begins now belongs to the workflow.
    memberships : Memberships
        Of the workflow; shared with its `Settlement`.
    request_id : str
        Kept with the rounds.
    """

    def __init__(
        self, lease: Callable[[], timedelta], memberships: Memberships, request_id: str = ""
    ) -> None:
        self._lease = lease
        self._memberships = memberships
        self._request_id = request_id

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
        own = self._memberships.own(model.pk)
        if own:
            running = running.filter(round_id=own.round_id)
        with translate_database_errors():
            updates = list(running.select_related("client", "round").order_by("client_id"))
        if updates and updates[0].round:
            self._memberships.see(updates[0].round)
        return updates

    # Opening

    def open(self, updates: Sequence[ModelUpdate]) -> None:
        """Open a round with these updates of one model: all of them or none.

        Raises
        ------
        ValueError
            If they are not the updates of one model.
        Conflict
            If the model is paused, is private or has a running round, or one of the updates is not ready:
            taken, superseded, of a client that is no member or is paused, or based on too old an aggregate.
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
        except IntegrityError as error:
            self._memberships.refuse(model_id)
            raise Conflict(f"another round of model {model_id} was opened meanwhile") from error
        except Conflict:
            self._memberships.refuse(model_id)
            raise
        self._memberships.open(opened)
        for update in updates:
            update.status, update.round = UpdateStatus.RUNNING, opened

    def _open_locked(
        self, snapshot: ModelSnapshot, updates: Sequence[ModelUpdate]
    ) -> AggregationRound:
        if snapshot.running:
            raise Conflict(f"{snapshot.running} is running: a model has one running round")
        _refuse_paused(snapshot)
        if snapshot.model.secure_aggregation:
            raise Conflict(
                f"the updates of model {snapshot.model.pk} are masked: only the function's own rounds can "
                "ask the mask keeper for the sum of their masks"
            )
        _refuse_private(snapshot)
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
            If ``parent`` is not the latest aggregate, the model is paused or private, the function's round
            is running, the workflow's round has its aggregate already, or it is not known which round the
            result was computed for.
        LeaseLost
            If the workflow's round has ended.
        """
        with translate_database_errors(), transaction.atomic():
            transitions.lock_model(model_id)
            snapshot = model_snapshot(model_id)
            round_ = self._round_of_post(snapshot)
            aggregate = transitions.append_aggregate(snapshot, parent, key)
            if round_:
                AggregationRound.objects.filter(pk=round_.pk).update(aggregate=aggregate)
            else:
                transitions.record_external_round(snapshot, aggregate)
        return aggregate

    def _round_of_post(self, snapshot: ModelSnapshot) -> AggregationRound | None:
        """Return the open round that an aggregate is posted for; None if none is open."""
        model, running = snapshot.model, snapshot.running
        _refuse_paused(snapshot)
        _refuse_private(snapshot)
        if running and not running.external:
            raise Conflict(f"{running} is running: it will make the next aggregate")
        self._memberships.check(model.pk, running)
        if not (running and self._memberships.knows(running)):
            _refuse_ambiguous(snapshot)
        if running and running.aggregate_id:
            raise Conflict(f"{running} has its aggregate already: its updates count once")
        return running


def _recover_locked(model_id: int) -> None:
    for round_ in expired_external_rounds(model_id).select_related("aggregate"):
        transitions.recover_external_round(round_)


def _refuse_private(snapshot: ModelSnapshot) -> None:
    if snapshot.model.differential_privacy is not None:
        raise Conflict(
            f"model {snapshot.model.pk} is private: only rounds of the function itself add noise, and are "
            "part of its account"
        )


def _refuse_paused(snapshot: ModelSnapshot) -> None:
    if not snapshot.model.allow_aggregation:
        raise Conflict(f"model {snapshot.model.pk} is paused: {snapshot.model.pause_reason}")


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
