"""Workflows that run rounds step by step, and may stop or die between any two calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from aggregation.errors import Conflict, UpdateRejected
from connectors import DjangoAggConnector
from models_app.models import FederatedModel, ModelAggregate, ModelUpdate

Tensors = dict[str, Any]


class Workflow:
    """One workflow of a model, whose steps are taken one call at a time.

    Parameters
    ----------
    connector : DjangoAggConnector
        Its own: each process has another one.
    model_id : int
    read : callable
        Returns the tensors of an update.
    partial : bool
        Whether it gives one of its updates back before it posts.
    continues : bool
        Whether it continues an open round rather than opening one.
    """

    def __init__(
        self,
        connector: DjangoAggConnector,
        model_id: int,
        read: Callable[[ModelUpdate], Tensors],
        *,
        partial: bool = False,
        continues: bool = False,
    ) -> None:
        self.connector = connector
        self._model_id = model_id
        self._read = read
        self._partial = partial
        self._steps = self._continue() if continues else self._run()

    def step(self) -> bool:
        """Make the next call; return whether there may be another."""
        try:
            next(self._steps)
        except (StopIteration, Conflict, UpdateRejected):
            return False
        return True

    def finish(self) -> None:
        """Make all remaining calls."""
        while self.step():
            pass

    def _run(self) -> Iterator[None]:
        model: Any = self.connector.pull_federated_model_w_id(self._model_id)
        parent = self.connector.pull_latest_model_aggregate(model)
        yield
        ready = self.connector.pull_model_updates_ready_for_aggregation(model, parent)
        if not ready:
            return
        yield
        self.connector.register_model_updates_for_aggregation(ready)
        yield
        yield from self._aggregate(model, parent)

    def _continue(self) -> Iterator[None]:
        model: Any = self.connector.pull_federated_model_w_id(self._model_id)
        parent = self.connector.pull_latest_model_aggregate(model)
        yield
        yield from self._aggregate(model, parent)

    def _aggregate(self, model: FederatedModel, parent: ModelAggregate | None) -> Iterator[None]:
        registered = self.connector.pull_model_updates_registered_for_aggregation(model)
        if not registered:  # The round has ended, or there is none to continue.
            return
        yield
        if self._partial and len(registered) > 1:
            self.connector.register_model_updates_use_in_aggregation_failed(registered[:1])
            registered = registered[1:]
            yield
        try:
            self.connector.pull_model_updates_data(registered)
        except UpdateRejected:
            self.connector.register_model_updates_use_in_aggregation_failed(registered)
            return
        result = mean([(self._read(each), each.num_examples) for each in registered])
        yield
        aggregate = self.connector.post_new_model_aggregate(model, parent, result)
        yield
        self.connector.register_model_update_used_in_aggregate(registered, aggregate)
        yield
        self.connector.register_model_updates_use_in_aggregation_complete(registered, True)


def call_closing_hook(connector: DjangoAggConnector, model_id: int, *, is_successful: bool) -> None:
    """Call the closing hook, as the original system does with only the id of a model."""
    model: Any = connector.pull_federated_model_w_id(model_id)
    registered = connector.pull_model_updates_registered_for_aggregation(model)
    connector.register_model_updates_use_in_aggregation_complete(registered, is_successful)


def mean(weighted: list[tuple[Tensors, int]]) -> Tensors:
    """Return the weighted mean in float64, without the code under test."""
    total = sum(count for _, count in weighted)
    return {
        name: (
            sum(tensors[name].astype(np.float64) * count for tensors, count in weighted) / total
        ).astype(np.float32)
        for name in weighted[0][0]
    }
