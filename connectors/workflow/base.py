"""The ports: what a workflow may ask of a connector, whoever keeps metadata and bytes.

`BaseAggConnector` takes over the interface of an existing open-source aggregator: its method names,
arguments and meanings. A third-party workflow calls them in this order: pull the model, its latest
aggregate, the updates that are ready and the requirement; register the updates, pull those registered
and their data; aggregate; prepare the result for storage and post it; register its use, and that it
was completed or failed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Self

from connectors.workflow.registry import Registered

Settings = Mapping[str, Any]


class BaseAggConnector(Registered, ABC):
    """Everything an aggregation workflow needs of the world around it.

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
        """The connector of that class name, in upper or lower case.

        Raises
        ------
        ValueError
            If there is none of that name; the message lists those there are.
        """
        return cls._member(agg_connector_type)(agg_connector_settings or {})

    @abstractmethod
    def pull_federated_model_w_id(self, fed_model_id: int) -> Any:
        """The federated model with that id, or None."""

    @abstractmethod
    def pull_latest_model_aggregate(self, model: Any) -> Any:
        """The model's newest aggregate, or None before its first round."""

    @abstractmethod
    def pull_model_requirements(self, model: Any) -> list[Any]:
        """``[name, arguments]`` of the model's requirement; ``[None, []]`` where it has none.

        The arguments are a list, in the order in which the requirement takes them.
        """

    @abstractmethod
    def pull_model_updates_pending_aggregation(self, model: Any) -> Sequence[Any]:
        """The members' updates that no round has taken yet, or that a failed round gave back."""

    @abstractmethod
    def pull_model_updates_ready_for_aggregation(
        self, model: Any, parent_agg: Any
    ) -> Sequence[Any]:
        """The pending updates a round may take now: the newest of each client, based on an aggregate
        the model still allows when ``parent_agg`` is its latest. Ordered by client."""

    @abstractmethod
    def pull_model_updates_registered_for_aggregation(self, model: Any) -> Sequence[Any]:
        """The updates that the model's running round has registered. Ordered by client."""

    @abstractmethod
    def pull_model_updates_data(self, model_updates: Sequence[Any]) -> Sequence[Any]:
        """Copies of the updates whose ``data`` is a list of arrays, one a layer.

        The layers of all of them come in the same order.

        Raises
        ------
        aggregation.errors.UpdateRejected
            If some cannot be read, or are not laid out as the model is; the message names them. They
            are INVALID from then on, so that the next round goes without them.
        """

    @abstractmethod
    def prep_model_data_for_storage(self, data: Sequence[Any] | Mapping[str, Any]) -> Any:
        """A result as an uploaded file.

        A mapping of names to arrays becomes safetensors, a list of layers JSON.
        """

    @abstractmethod
    def post_new_model_aggregate(self, model: Any, parent_agg: Any, results: Any) -> Any:
        """Store a result as the model's next aggregate.

        Parameters
        ----------
        model, parent_agg
            ``parent_agg`` is the model's latest aggregate, None before the first.
        results
            What `prep_model_data_for_storage` gave, or what it takes.

        Raises
        ------
        aggregation.errors.LeaseLost
            If ``parent_agg`` is not the latest, the function's own round is running, or the workflow's
            round has its aggregate already.
        aggregation.errors.UpdateRejected
            If the result is not laid out as the model is, or is not finite.
        """

    @abstractmethod
    def register_model_updates_for_aggregation(self, model_updates: Sequence[Any]) -> None:
        """Open a round with these updates, which are one model's and ready: all of them or none.

        Raises
        ------
        aggregation.errors.LeaseLost
            If another round of the model is running, or has taken one of them.
        """

    @abstractmethod
    def register_model_update_used_in_aggregate(
        self, model_updates: Sequence[Any], aggregate: Any
    ) -> None:
        """Settle the round that made the aggregate: these updates are in it.

        Others that the round had registered are ready again. Saying it twice changes nothing.

        Raises
        ------
        ValueError
            If an update is already part of another aggregate; nothing is changed then.
        aggregation.errors.LeaseLost
            If one is registered for the function's own round; nothing is changed then.
        """

    @abstractmethod
    def register_model_updates_use_in_aggregation_complete(
        self, model_updates: Sequence[Any], is_successful: bool
    ) -> None:
        """Say how the aggregation of registered updates ended.

        Successful: they are complete. Not successful: they are ready again, but for those that have
        been rejected.

        Raises
        ------
        ValueError
            If they are said to be complete and one is in no aggregate, or to have failed and one is;
            nothing is changed then.
        aggregation.errors.LeaseLost
            If one is registered for the function's own round; nothing is changed then.
        """

    def register_model_updates_use_in_aggregation_failed(
        self, model_updates: Sequence[Any]
    ) -> None:
        """Say that the aggregation of registered updates failed: they are ready again."""
        self.register_model_updates_use_in_aggregation_complete(model_updates, False)

    @abstractmethod
    def update_metadata_database_arch(self) -> None:
        """Bring the metadata database to the newest structure."""


class BaseMetadataConnector(Registered, ABC):
    """Base of what keeps the metadata: models, clients, updates, rounds, aggregates.

    What it is asked for is between it and its aggregation connector: `DjangoAggConnector` takes
    `DjangoMetadataConnector` and what is derived from it, and no other.
    """

    family = "metadata connector"

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or {}

    @classmethod
    def create(cls, name: str, settings: Settings | None = None) -> Self:
        """The metadata connector of that class name."""
        return cls._member(name)(settings)


class BaseModelDataConnector(Registered, ABC):
    """Base of what keeps the bytes: updates and aggregates.

    `DjangoAggConnector` takes `DjangoModelDataConnector` and what is derived from it, and no other.
    """

    family = "model data connector"

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or {}

    @classmethod
    def create(cls, name: str, settings: Settings | None = None) -> Self:
        """The model data connector of that class name."""
        return cls._member(name)(settings)
