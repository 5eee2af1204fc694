"""The metadata connector: models, updates, rounds and aggregates through Django's ORM."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from django.conf import settings as django_settings
from django.core.management import call_command

from aggregation.requirements import positional_arguments
from connectors.errors import translate_database_errors
from connectors.rounds import selectors
from connectors.rounds.external import ExternalRounds
from connectors.rounds.memberships import Memberships
from connectors.rounds.settlement import Settlement
from connectors.workflow.base import BaseMetadataConnector, Settings
from models_app.models import FederatedModel, ModelAggregate, ModelUpdate


class DjangoMetadataConnector(BaseMetadataConnector):
    """Metadata in the database that Django is configured for.

    Parameters
    ----------
    settings : mapping, optional
        ``lease_seconds``: how long a round belongs to its workflow, by default the setting LEASE_SECONDS;
        ``request_id``: kept with the rounds.

    Attributes
    ----------
    rounds : ExternalRounds
    settlement : Settlement
        Of the rounds of the workflow that calls this connector.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        seconds = self.settings.get("lease_seconds", django_settings.LEASE_SECONDS)
        lease = timedelta(seconds=seconds)
        memberships = Memberships()
        self.rounds = ExternalRounds(
            lambda: lease, memberships, str(self.settings.get("request_id", ""))
        )
        self.settlement = Settlement(memberships)

    def pull_federated_model_w_id(self, fed_model_id: int) -> FederatedModel | None:
        """Return the federated model with that id, or None."""
        with translate_database_errors():
            return FederatedModel.objects.filter(pk=fed_model_id).first()

    def pull_latest_model_aggregate(self, model: FederatedModel) -> ModelAggregate | None:
        """Return the model's newest aggregate, or None before its first round."""
        with translate_database_errors():
            return model.aggregates.order_by("-number").first()

    def pull_model_requirements(self, model: FederatedModel) -> list[Any]:
        """Return ``[name, arguments by position]`` of the model's requirement."""
        return [model.requirement or None, positional_arguments(model.requirement_object())]

    def pull_model_updates_pending_aggregation(self, model: FederatedModel) -> list[ModelUpdate]:
        """Return the members' PENDING and FAILED updates in the order of their upload."""
        self.rounds.recover_expired(model.pk)
        with translate_database_errors():
            return list(selectors.pending_updates(model).order_by("uploaded_on", "pk"))

    def pull_model_updates_ready_for_aggregation(
        self, model: FederatedModel, parent_agg: ModelAggregate | None
    ) -> list[ModelUpdate]:
        """Return each member's newest pending update whose base the model allows, by client."""
        self.rounds.recover_expired(model.pk)
        with translate_database_errors():
            return list(selectors.ready_updates(model, parent_agg.number if parent_agg else 0))

    def pull_model_updates_registered_for_aggregation(
        self, model: FederatedModel
    ) -> list[ModelUpdate]:
        """Return the updates that the workflow's round has registered, by client."""
        return self.rounds.registered(model)

    def register_model_updates_for_aggregation(self, model_updates: Sequence[ModelUpdate]) -> None:
        """Open a round with these updates: all of them or none."""
        self.rounds.open(list(model_updates))

    def post_new_model_aggregate(
        self, model: FederatedModel, parent_agg: ModelAggregate | None, results: str
    ) -> ModelAggregate:
        """Create the model's next aggregate, of the weights with the key ``results``."""
        return self.rounds.post(model.pk, parent_agg, results)

    def register_model_update_used_in_aggregate(
        self, model_updates: Sequence[ModelUpdate], aggregate: ModelAggregate
    ) -> None:
        """Settle the round that made the aggregate: these updates are in it."""
        self.settlement.settle_used(list(model_updates), aggregate)

    def register_model_updates_use_in_aggregation_complete(
        self, model_updates: Sequence[ModelUpdate], is_successful: bool
    ) -> None:
        """Register how the aggregation of registered updates ended."""
        settle = self.settlement.complete if is_successful else self.settlement.fail
        settle(list(model_updates))

    def update_database(self) -> None:
        """Apply all migrations."""
        call_command("migrate", interactive=False, verbosity=0)
