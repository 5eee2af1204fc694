"""`DjangoAggConnector`: the interface that was taken over, for workflows that run a round step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django.core.files.base import File
from django.utils import timezone

from aggregation.errors import Conflict, UpdateRejected
from connectors.rounds.selectors import weights_key
from connectors.storage.port import Orphan
from connectors.workflow.base import BaseAggConnector, Settings
from connectors.workflow.metadata import DjangoMetadataConnector
from connectors.workflow.model_data import DjangoModelDataConnector
from models_app.models import FederatedModel, ModelAggregate, ModelUpdate


class DjangoAggConnector(BaseAggConnector):
    """Metadata through Django's ORM, weights through Django's storage.

    One connector belongs to one workflow: it remembers the round that its workflow opened (see
    `connectors.rounds.external`). The function's own rounds use
    `connectors.rounds.connector.DjangoRoundConnector` instead.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        chosen = settings.get("metadata_connector")
        if not chosen or not chosen.get("type"):
            raise ValueError(
                "metadata_connector is not specified in the settings: expected "
                '{"metadata_connector": {"type": '
                f'"{"|".join(DjangoMetadataConnector.known())}"}}}}'
            )
        self.metadata = DjangoMetadataConnector.create(chosen["type"], chosen.get("settings"))
        chosen = settings.get("model_data_connector") or {}
        kind = chosen.get("type") or DjangoModelDataConnector.__name__
        self.model_data = DjangoModelDataConnector.create(kind, chosen.get("settings"))

    def pull_federated_model_w_id(self, fed_model_id: int) -> FederatedModel | None:
        return self.metadata.pull_federated_model_w_id(fed_model_id)

    def pull_latest_model_aggregate(self, model: FederatedModel) -> ModelAggregate | None:
        return self.metadata.pull_latest_model_aggregate(model)

    def pull_model_requirements(self, model: FederatedModel) -> list[Any]:
        return self.metadata.pull_model_requirements(model)

    def pull_model_updates_pending_aggregation(self, model: FederatedModel) -> list[ModelUpdate]:
        return self.metadata.pull_model_updates_pending_aggregation(model)

    def pull_model_updates_ready_for_aggregation(
        self, model: FederatedModel, parent_agg: ModelAggregate | None
    ) -> list[ModelUpdate]:
        return self.metadata.pull_model_updates_ready_for_aggregation(model, parent_agg)

    def pull_model_updates_registered_for_aggregation(
        self, model: FederatedModel
    ) -> list[ModelUpdate]:
        return self.metadata.pull_model_updates_registered_for_aggregation(model)

    def pull_model_updates_data(self, model_updates: Sequence[ModelUpdate]) -> list[ModelUpdate]:
        updates = list(model_updates)
        loaded: list[ModelUpdate] = []
        rejected: dict[int, str] = {}
        for model_id in {update.federated_model_id: None for update in updates}:
            of_model = [update for update in updates if update.federated_model_id == model_id]
            model = of_model[0].federated_model
            parent_key = weights_key(model, self.pull_latest_model_aggregate(model))
            found, bad = self.model_data.load(of_model, parent_key, model.policies())
            loaded += found
            rejected |= bad
        if rejected:
            self.metadata.settlement.reject(updates, rejected)
            reasons = "; ".join(f"update {pk}: {reason}" for pk, reason in rejected.items())
            raise UpdateRejected(reasons)
        return loaded

    def prep_model_data_for_storage(self, data: Sequence[Any] | Mapping[str, Any]) -> Any:
        return self.model_data.prep_model_data_for_storage(data)

    def post_new_model_aggregate(
        self, model: FederatedModel, parent_agg: ModelAggregate | None, results: Any
    ) -> ModelAggregate:
        self.metadata.rounds.check_post(model.pk, parent_agg)
        file = results if isinstance(results, File) else self.prep_model_data_for_storage(results)
        parent_key = weights_key(model, parent_agg)
        update = None if parent_key else next(iter(self.metadata.rounds.registered(model)), None)
        number = parent_agg.number + 1 if parent_agg else 1
        key = self.model_data.store_result(file, parent_key, update, model.pk, number)
        try:
            return self.metadata.post_new_model_aggregate(model, parent_agg, key)
        except Conflict:  # The round ended while the result was stored.
            self.model_data.objects.remove(Orphan(key=key, since=timezone.now()))
            raise

    def register_model_updates_for_aggregation(self, model_updates: Sequence[ModelUpdate]) -> None:
        self.metadata.register_model_updates_for_aggregation(model_updates)

    def register_model_update_used_in_aggregate(
        self, model_updates: Sequence[ModelUpdate], aggregate: ModelAggregate
    ) -> None:
        self.metadata.register_model_update_used_in_aggregate(model_updates, aggregate)

    def register_model_updates_use_in_aggregation_complete(
        self, model_updates: Sequence[ModelUpdate], is_successful: bool
    ) -> None:
        self.metadata.register_model_updates_use_in_aggregation_complete(
            model_updates, is_successful
        )

    def update_metadata_database_arch(self) -> None:
        self.metadata.update_database()
