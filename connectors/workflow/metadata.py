"""The metadata connector: models, updates, rounds and aggregates through Django's ORM."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from django.conf import settings as django_settings
from django.core.management import call_command
from django.db import transaction
from django.db.models import Q, QuerySet
from django.utils import timezone

from aggregation.errors import LeaseLost
from aggregation.requirements import positional_arguments
from connectors.errors import translate_database_errors
from connectors.rounds import selectors
from connectors.rounds.ledger import RoundLedger
from connectors.rounds.selectors import ModelSnapshot, State, UpdateStatus
from connectors.workflow.base import BaseMetadataConnector, Settings
from models_app.models import AggregationRound, FederatedModel, ModelAggregate, ModelUpdate


class DjangoMetadataConnector(BaseMetadataConnector):
    """Metadata in the database that Django is configured for.

    Parameters
    ----------
    settings : mapping, optional
        ``lease_seconds``: how long a round is this process's own, by default the setting
        LEASE_SECONDS; ``lease_until``: the moment at which it ends, whenever the round begins;
        ``request_id``: kept with the rounds; ``clock``: tells the time.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        self._clock = self.settings.get("clock", timezone.now)
        seconds = self.settings.get("lease_seconds", django_settings.LEASE_SECONDS)
        self.rounds = RoundLedger(
            self.settings.get("lease_until") or timedelta(seconds=seconds),
            self._clock,
            str(self.settings.get("request_id", "")),
        )

    def pull_federated_model_w_id(self, fed_model_id: int) -> FederatedModel | None:
        """The federated model with that id, or None."""
        with translate_database_errors():
            return FederatedModel.objects.filter(pk=fed_model_id).first()

    def pull_latest_model_aggregate(self, model: FederatedModel) -> ModelAggregate | None:
        """The model's newest aggregate, or None before its first round."""
        with translate_database_errors():
            return model.aggregates.order_by("-number").first()

    def pull_model_requirements(self, model: FederatedModel) -> list[Any]:
        """``[name, arguments by position]`` of the model's requirement."""
        return [model.requirement or None, positional_arguments(model.requirement_object())]

    def pull_model_updates_pending_aggregation(self, model: FederatedModel) -> list[ModelUpdate]:
        """The members' updates that are PENDING or FAILED, in the order of their upload."""
        with translate_database_errors():
            return list(selectors.pending_updates(model).order_by("uploaded_on", "pk"))

    def pull_model_updates_ready_for_aggregation(
        self, model: FederatedModel, parent_agg: ModelAggregate | None
    ) -> list[ModelUpdate]:
        """The newest pending update of each member whose base the model allows; by client."""
        with translate_database_errors():
            return list(selectors.ready_updates(model, parent_agg.number if parent_agg else 0))

    def pull_model_updates_registered_for_aggregation(
        self, model: FederatedModel
    ) -> list[ModelUpdate]:
        """The updates that the model's running round has registered; by client."""
        with translate_database_errors():
            registered = model.model_updates.filter(status=UpdateStatus.RUNNING)
            return list(registered.select_related("client").order_by("client_id"))

    def register_model_updates_for_aggregation(self, model_updates: Sequence[ModelUpdate]) -> None:
        """Open a round by hand with these updates: all of them or none.

        Raises
        ------
        ValueError
            If they are not the updates of one model.
        LeaseLost
            If the model is paused or has a round that runs, or one of the updates is not ready.
        """
        updates = list(model_updates)
        named = {update.federated_model_id for update in updates}
        if len(named) != 1:
            raise ValueError(
                f"expected the updates of one federated model, got those of {len(named)}"
            )
        with translate_database_errors(), transaction.atomic():
            (model_id,) = named
            selectors.lock_model(model_id)
            now = selectors.model_snapshot(model_id)
            if (
                now.running
                and now.running.external
                and now.running.lease_expires_at <= self._clock()
            ):
                self.rounds.recover(now.running)
                now = selectors.model_snapshot(model_id)
            if now.running:
                raise LeaseLost(f"{now.running} is running: its model can have no other")
            if not now.model.allow_aggregation:
                raise LeaseLost(f"model {model_id} is paused: no round of it starts")
            self.rounds.open(now, updates, external=True)

    def model_weights(self, model: FederatedModel, parent_agg: ModelAggregate | None) -> str | None:
        """The object that the model's next aggregate succeeds: its parent, or the initial artifact."""
        if parent_agg:
            return str(parent_agg.result.name)
        return str(model.current_artifact.values.name) if model.current_artifact else None

    def post_new_model_aggregate(
        self, model: FederatedModel, parent_agg: ModelAggregate | None, results: str
    ) -> ModelAggregate:
        """Create the model's next aggregate.

        Parameters
        ----------
        model, parent_agg
        results : str
            Where the bytes are in storage.

        Raises
        ------
        LeaseLost
            If ``parent_agg`` is not the latest aggregate, a round that is not by hand is running,
            the one that is by hand has an aggregate already, or one that was to make this aggregate
            was taken from its workflow, whose updates are ready again.
        """
        with translate_database_errors(), transaction.atomic():
            selectors.lock_model(model.pk)
            now = selectors.model_snapshot(model.pk)
            if now.running and not now.running.external:
                raise LeaseLost(f"{now.running} is running: it will make the next aggregate")
            if now.running and now.running.aggregate_id:
                raise LeaseLost(f"{now.running} has made its aggregate: its updates count once")
            if not now.running:
                self._refuse_late(now)
            aggregate = self.append_aggregate(now, parent_agg, results)
            if now.running:
                AggregationRound.objects.filter(pk=now.running.pk).update(aggregate=aggregate)
            return aggregate

    @staticmethod
    def _refuse_late(now: ModelSnapshot) -> None:
        """Refuse an aggregate that may hold updates which its workflow has lost.

        Whoever posts does not say of which round. A model whose workflows never register has no round
        by hand, and none that failed.
        """
        failed = now.model.rounds.filter(number=now.number, external=True, state=State.FAILED)
        lost = failed.order_by("pk").last()
        if lost:
            raise LeaseLost(
                f"{lost} has failed, and its updates are ready again: in this aggregate they would "
                "count twice; register the updates that are in it first"
            )

    @staticmethod
    def append_aggregate(
        now: ModelSnapshot, parent: ModelAggregate | None, results: str
    ) -> ModelAggregate:
        """Create the aggregate after the latest; the caller holds the model's lock.

        Raises
        ------
        LeaseLost
            If ``parent`` is not the latest.
        """
        latest = now.parent.pk if now.parent else None
        given = parent.pk if parent else None
        if latest != given:
            raise LeaseLost(
                f"aggregate {given} is not the latest of model {now.model.pk}, {latest} is: "
                "the lineage is a line"
            )
        return ModelAggregate.objects.create(
            federated_model=now.model, parent=parent, number=now.number, result=results
        )

    def register_model_update_used_in_aggregate(
        self, model_updates: Sequence[ModelUpdate], aggregate: ModelAggregate
    ) -> None:
        """Settle the round that made the aggregate: these updates are in it, its others wait on."""
        updates = list(model_updates)
        with translate_database_errors(), transaction.atomic():
            chosen = self._held_still(updates, aggregate.federated_model_id)
            self._refuse(
                chosen.exclude(applied_aggregate=None).exclude(applied_aggregate=aggregate),
                "is already part of another aggregate",
            )
            chosen.update(applied_aggregate=aggregate, status=UpdateStatus.COMPLETE)
            made_by = AggregationRound.objects.filter(aggregate=aggregate, state=State.RUNNING)
            for held in made_by:
                selectors.registered_updates(held).order_by().update(status=UpdateStatus.FAILED)
                self.rounds.close(held, State.PUBLISHED, updates_used=len(updates))

    def register_model_updates_use_in_aggregation_complete(
        self, model_updates: Sequence[ModelUpdate], is_successful: bool
    ) -> None:
        """Say how the aggregation of registered updates ended."""
        with translate_database_errors(), transaction.atomic():
            chosen = self._held_still(model_updates)
            if is_successful:
                self._refuse(
                    chosen.filter(applied_aggregate=None),
                    "is in no aggregate, so that it would be lost: register its use in one, or that "
                    "its aggregation failed",
                )
                chosen.update(status=UpdateStatus.COMPLETE)
                return
            posted = Q(status=UpdateStatus.RUNNING, round__aggregate__isnull=False)
            self._refuse(
                chosen.filter(posted | Q(applied_aggregate__isnull=False)),
                "is part of an aggregate: ready again, it would be counted twice",
            )
            self._give_back(chosen.exclude(status=UpdateStatus.INVALID))

    def reject_model_updates(
        self, model_updates: Sequence[ModelUpdate], reasons: Mapping[int, str]
    ) -> None:
        """Mark updates INVALID that a workflow cannot use, so that its next round goes without them.

        Parameters
        ----------
        model_updates
        reasons : mapping of int to str
            By the ids of those that cannot be used.

        Raises
        ------
        LeaseLost
            If one of them is registered for a round that is not by hand.
        """
        bad = [update for update in model_updates if update.pk in reasons]
        with translate_database_errors(), transaction.atomic():
            unsettled = (*ModelUpdate.READY, UpdateStatus.RUNNING)
            selectors.reject_updates(self._held_still(bad).filter(status__in=unsettled), reasons)

    def _held_still(
        self, model_updates: Iterable[ModelUpdate], *model_ids: int
    ) -> QuerySet[ModelUpdate]:
        """These updates, while no round of their models, or of those given, begins or ends.

        Raises
        ------
        LeaseLost
            If one of them is registered for a round that is not by hand.
        """
        updates = list(model_updates)
        for model_id in sorted({*model_ids, *(update.federated_model_id for update in updates)}):
            selectors.lock_model(model_id)
        chosen = ModelUpdate.objects.filter(pk__in=[update.pk for update in updates])
        running = Q(status=UpdateStatus.RUNNING, round__state=State.RUNNING, round__external=False)
        held = chosen.filter(running).select_related("round__federated_model").first()
        if held:
            raise LeaseLost(
                f"update {held.pk} is registered for {held.round}, which settles it itself"
            )
        return chosen

    def _give_back(self, chosen: QuerySet[ModelUpdate]) -> None:
        """Make updates ready again, and close the rounds by hand that have none left."""
        held_by = list(chosen.exclude(round=None).values_list("round", flat=True))
        chosen.update(status=UpdateStatus.FAILED)
        emptied = AggregationRound.objects.filter(
            pk__in=held_by, state=State.RUNNING, external=True
        ).exclude(updates__status=UpdateStatus.RUNNING)
        for held in emptied:
            self.rounds.close(held, State.FAILED, error="its workflow said that it failed")

    @staticmethod
    def _refuse(contradicting: Any, why: str) -> None:
        first = contradicting.order_by("pk").values_list("pk", flat=True).first()
        if first is not None:
            raise ValueError(f"update {first} {why}")

    def update_database(self) -> None:
        """Apply all migrations."""
        call_command("migrate", interactive=False, verbosity=0)
