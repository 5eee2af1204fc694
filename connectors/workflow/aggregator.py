"""`DjangoAggConnector`: the connector that the Lambda function runs its rounds through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from django.conf import settings as django_settings
from django.core.files.base import File

from aggregation.errors import (
    AggregationError,
    LeaseLost,
    TemporarilyUnavailable,
    UpdateRejected,
)
from aggregation.formats import Spool
from aggregation.layout import TensorLayout
from aggregation.round import (
    Claim,
    ClaimedUpdate,
    ResultSink,
    RoundAnswer,
    RoundCheckpoint,
    RoundResult,
    Status,
)
from aggregation.weights import Weights
from connectors.storage.keys import aggregate_key
from connectors.workflow.base import BaseAggConnector, Settings
from connectors.workflow.metadata import DjangoMetadataConnector
from connectors.workflow.model_data import DjangoModelDataConnector
from models_app.models import FederatedModel, ModelAggregate, ModelUpdate

#: What a connector is made with where nothing else is wanted.
DEFAULT_SETTINGS: Settings = {"metadata_connector": {"type": "DjangoMetadataConnector"}}


class DjangoAggConnector(BaseAggConnector):
    """Metadata through Django's ORM, bytes through Django's storage.

    The methods of `BaseAggConnector` are for workflows that run a round step by step; those of
    `aggregation.round.RoundConnector`, below them, are what a round of this project's own calls.
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

    # Step by step

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
            found, bad = self.model_data.load(
                of_model, self._layout_of(of_model[0].federated_model)
            )
            loaded += found
            rejected |= bad
        if rejected:
            with suppress(LeaseLost):  # The round that has it finds that out by itself.
                self.metadata.reject_model_updates(updates, rejected)
            told = "; ".join(f"update {pk}: {reason}" for pk, reason in rejected.items())
            raise UpdateRejected(told)
        return loaded

    def _layout_of(self, model: FederatedModel) -> TensorLayout | None:
        """The layout of a model that has an aggregate or an initial artifact."""
        location = self.metadata.model_weights(model, self.pull_latest_model_aggregate(model))
        try:
            return self.model_data.layout(location) if location else None
        except UpdateRejected as error:
            raise AggregationError(f"{location}, the model, cannot be read: {error}") from error

    def prep_model_data_for_storage(self, data: Sequence[Any] | Mapping[str, Any]) -> Any:
        return self.model_data.prep_model_data_for_storage(data)

    def post_new_model_aggregate(
        self, model: FederatedModel, parent_agg: ModelAggregate | None, results: Any
    ) -> ModelAggregate:
        file = results if isinstance(results, File) else self.prep_model_data_for_storage(results)
        known = self.metadata.model_weights(model, parent_agg)
        if known is None:
            registered = self.pull_model_updates_registered_for_aggregation(model)
            known = str(registered[0].data.name) if registered else None
        number = parent_agg.number + 1 if parent_agg else 1
        location = self.model_data.store_result(file, known, model.pk, number)
        return self.metadata.post_new_model_aggregate(model, parent_agg, location)

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

    # A round of our own: `aggregation.round.RoundConnector`

    def claim_round(self, model_id: int) -> Claim | RoundAnswer:
        claim = self.metadata.rounds.claim(model_id)
        if isinstance(claim, RoundAnswer):
            return claim
        return replace(claim, spool_bytes=django_settings.SPOOL_BYTES)

    def open_parent(self, claim: Claim, spool: Spool | None) -> Weights | None:
        if claim.parent is None:
            return None
        try:
            return self.model_data.open(claim.parent, spool=spool, trusted=True)
        except UpdateRejected as error:
            raise AggregationError(
                f"{claim.parent}, which the aggregate is to succeed, cannot be read: {error}"
            ) from error

    def open_update(
        self, update: ClaimedUpdate, expected_layout: TensorLayout | None, spool: Spool | None
    ) -> Weights:
        return self.model_data.open(
            update.location,
            size=update.size,
            etag=update.etag,
            version=update.version,
            expected_layout=expected_layout,
            spool=spool,
        )

    def new_result(self, claim: Claim, format: str, state: dict[str, Any] | None) -> ResultSink:
        key = aggregate_key(claim.model_id, claim.number, format)
        return self.model_data.objects.sink(key, state)

    def save_checkpoint(self, claim: Claim, checkpoint: RoundCheckpoint) -> None:
        self.metadata.rounds.save_checkpoint(claim, checkpoint)

    def suspend_round(self, claim: Claim, checkpoint: RoundCheckpoint | None) -> RoundAnswer:
        self.metadata.rounds.release_lease(claim, checkpoint)
        return RoundAnswer(
            model_id=claim.model_id,
            status=Status.BUSY,
            round=claim.number,
            reason="out of time: the round goes on in the next invocation",
            continues=True,
        )

    def publish_round(self, claim: Claim, result: RoundResult) -> RoundAnswer:
        return self.metadata.rounds.publish(claim, result)

    def reject_round(self, claim: Claim, rejected: Mapping[int, str], reason: str) -> RoundAnswer:
        return self.metadata.rounds.reject(claim, rejected, reason)

    def fail_round(self, claim: Claim, error: Exception) -> bool:
        # Lost or out of reach, the round is taken over from its lease, so that nothing is owed here.
        with suppress(LeaseLost, TemporarilyUnavailable):
            self.metadata.rounds.fail(claim, error)
            return True
        return False

    def release_round(self, claim: Claim, checkpoint: RoundCheckpoint | None) -> None:
        with suppress(LeaseLost, TemporarilyUnavailable):
            self.metadata.rounds.release_lease(claim, checkpoint)
