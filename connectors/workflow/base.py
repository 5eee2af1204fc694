"""The interface that third-party workflows call to run a round step by step.

`BaseAggConnector` has the method names, arguments and meanings of an existing open-source aggregator. A
workflow calls them in this order: pull the model, its latest aggregate, the ready updates and the
requirement; register the updates, pull those registered and their data; aggregate; prepare the result for
storage and post it; register its use, and that it completed or failed.

A step that contradicts the state of the model raises `aggregation.errors.Conflict` and changes nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Self

from connectors.workflow.registry import Registered

Settings = Mapping[str, Any]


class BaseAggConnector(Registered, ABC):
    """Everything that an aggregation workflow needs.

    Parameters
    ----------
    settings : mapping
        ``{"metadata_connector": {"type": ...}, "model_data_connector": {"type": ...}}``; each may
        have ``"settings"`` of its own.

    Raises
    ------
    ValueError
        If ``metadata_connector`` is not given, or a type is unknown.
    """

    family = "aggregation connector"

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @classmethod
    def create(
        cls, agg_connector_type: str, agg_connector_settings: Settings | None = None
    ) -> BaseAggConnector:
        """Return a connector of that class name, in upper or lower case.

        Raises
        ------
        ValueError
            If there is none of that name; the message lists the known ones.
        """
        return cls._member(agg_connector_type)(agg_connector_settings or {})

    @abstractmethod
    def pull_federated_model_w_id(self, fed_model_id: int) -> Any:
        """Return the federated model with that id, or None."""

    @abstractmethod
    def pull_latest_model_aggregate(self, model: Any) -> Any:
        """Return the model's newest aggregate, or None before its first round."""

    @abstractmethod
    def pull_model_requirements(self, model: Any) -> list[Any]:
        """Return ``[name, arguments]`` of the model's requirement; ``[None, []]`` if it has none.

        The arguments are a list, in the order in which the requirement takes them.
        """

    @abstractmethod
    def pull_model_updates_pending_aggregation(self, model: Any) -> Sequence[Any]:
        """Return the members' updates that no round has taken yet, or that a failed round gave back.

        A round whose workflow did not finish it before its lease expired is recovered first.
        """

    @abstractmethod
    def pull_model_updates_ready_for_aggregation(
        self, model: Any, parent_agg: Any
    ) -> Sequence[Any]:
        """Return the pending updates that a round may take now, ordered by client.

        They are the newest of each client that is based on an aggregate which the model still allows when
        ``parent_agg`` is its latest. An expired round is recovered first.
        """

    @abstractmethod
    def pull_model_updates_registered_for_aggregation(self, model: Any) -> Sequence[Any]:
        """Return the updates that the workflow's round has registered, ordered by client.

        A workflow that registered none itself gets those of the model's running round, which it continues
        from then on. An expired round is recovered first.
        """

    @abstractmethod
    def pull_model_updates_data(self, model_updates: Sequence[Any]) -> Sequence[Any]:
        """Return copies of the updates whose ``data`` is a list of arrays, one for each layer.

        The layers of all of them are in the same order.

        Raises
        ------
        aggregation.errors.UpdateRejected
            If some cannot be read, or are not laid out as the model is; the message names them. They
            become INVALID, so that the next round excludes them.
        """

    @abstractmethod
    def prep_model_data_for_storage(self, data: Sequence[Any] | Mapping[str, Any]) -> Any:
        """Return a result as an uploaded file.

        A mapping of names to arrays becomes safetensors, a list of layers JSON.

        Raises
        ------
        aggregation.errors.UpdateRejected
            If it cannot be represented, for example because it is not finite.
        """

    @abstractmethod
    def post_new_model_aggregate(self, model: Any, parent_agg: Any, results: Any) -> Any:
        """Store a result as the model's next aggregate, the one of the workflow's round.

        Parameters
        ----------
        model, parent_agg
            ``parent_agg`` is the model's latest aggregate, None before the first.
        results
            What `prep_model_data_for_storage` returned, or what it takes.

        Raises
        ------
        aggregation.errors.Conflict
            If ``parent_agg`` is not the latest, the model is paused, the function's own round is running,
            or the workflow's round has its aggregate already.
        aggregation.errors.LeaseLost
            If the workflow's round has ended, or its updates were changed by another. It is a `Conflict`.
        aggregation.errors.UpdateRejected
            If the result is not laid out as the model is, or is not finite.
        """

    @abstractmethod
    def register_model_updates_for_aggregation(self, model_updates: Sequence[Any]) -> None:
        """Open a round with these updates of one model: all of them or none.

        Older updates of the same clients are superseded.

        Raises
        ------
        ValueError
            If they are not the updates of one model.
        aggregation.errors.Conflict
            If the model is paused, another round of it is running, or one of the updates is not ready.
        """

    @abstractmethod
    def register_model_update_used_in_aggregate(
        self, model_updates: Sequence[Any], aggregate: Any
    ) -> None:
        """Settle the round that made the aggregate: these updates are in it.

        Others that the round had registered are ready again. Repeating the call changes nothing.

        Raises
        ------
        aggregation.errors.Conflict
            If an update is not registered for this round, or is part of another aggregate.
        """

    @abstractmethod
    def register_model_updates_use_in_aggregation_complete(
        self, model_updates: Sequence[Any], is_successful: bool
    ) -> None:
        """Register how the aggregation of registered updates ended.

        Successful: they are complete. Not successful: they are ready again, except those that have been
        rejected, and their round has failed.

        Raises
        ------
        aggregation.errors.Conflict
            If one is said to be complete and is in no aggregate, or to have failed and is in one; or if
            one is registered for a round that is not the workflow's.
        """

    def register_model_updates_use_in_aggregation_failed(
        self, model_updates: Sequence[Any]
    ) -> None:
        """Register that the aggregation of registered updates failed: they are ready again."""
        self.register_model_updates_use_in_aggregation_complete(model_updates, False)

    @abstractmethod
    def update_metadata_database_arch(self) -> None:
        """Migrate the metadata database to the newest structure."""


class BaseMetadataConnector(Registered, ABC):
    """Base of connectors that keep the metadata: models, clients, updates, rounds, aggregates.

    An aggregation connector determines what it needs of its metadata connector: `DjangoAggConnector`
    accepts `DjangoMetadataConnector` and its subclasses only.
    """

    family = "metadata connector"

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or {}

    @classmethod
    def create(cls, name: str, settings: Settings | None = None) -> Self:
        """Return a metadata connector of that class name."""
        return cls._member(name)(settings)


class BaseModelDataConnector(Registered, ABC):
    """Base of connectors that keep the bytes of updates and aggregates.

    `DjangoAggConnector` accepts `DjangoModelDataConnector` and its subclasses only.
    """

    family = "model data connector"

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or {}

    @classmethod
    def create(cls, name: str, settings: Settings | None = None) -> Self:
        """Return a model data connector of that class name."""
        return cls._member(name)(settings)
