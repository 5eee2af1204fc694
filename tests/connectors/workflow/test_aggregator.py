"""`DjangoAggConnector` beyond the contract, as workflows written for Django use it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.test.utils import CaptureQueriesContext

from aggregation.errors import Conflict, InvalidWeights, UpdateRejected
from connectors import DjangoAggConnector, application
from connectors.usecases.rollback import roll_back
from models_app.models import ModelUpdate
from tests import factories
from tests.conftest import using_database
from tests.connectors.workflow.backends import decoded
from tests.factories import SMALL, filled, make_model, ready_update, statuses

pytestmark = pytest.mark.usefixtures("database", "shared_cloud")

Status = ModelUpdate.Status


@pytest.fixture
def connector() -> DjangoAggConnector:
    return application.workflow_connector()


def test_querysets_are_accepted_like_lists(connector: Any) -> None:
    """Every step accepts lazy querysets."""
    model = make_model(2)
    for client in (1, 2):
        ready_update(model, client, b"[[1.0]]", suffix="json")
    updates = ModelUpdate.objects.filter(federated_model=model)
    connector.register_model_updates_for_aggregation(updates.filter(status=Status.PENDING))
    running = updates.filter(status=Status.RUNNING)
    loaded = connector.pull_model_updates_data(running)
    assert len(loaded) == running.count() == 2
    aggregate = connector.post_new_model_aggregate(model, None, [[1.0]])
    connector.register_model_update_used_in_aggregate(running, aggregate)
    connector.register_model_updates_use_in_aggregation_complete(running, True)
    connector.register_model_updates_use_in_aggregation_complete(updates, True)
    assert statuses(updates) == ["COMPLETE", "COMPLETE"]


def test_the_names_of_the_original_exist(connector: Any) -> None:
    """Statuses and clients are available under the names of the original system."""
    model = make_model(2)
    update = ready_update(model, 1, b"[1]", suffix="json")
    (pulled,) = connector.pull_model_updates_ready_for_aggregation(model, None)
    assert pulled.status == ModelUpdate.TaskStatus.PENDING
    with CaptureQueriesContext(connection) as queries:
        assert pulled.client in model.clients.all()
    assert len(queries) == 1, "pulled updates come with their clients"
    assert pulled == update


def test_loading_reads_every_model_with_its_own_layout(connector: Any) -> None:
    """Updates of two models load together, and each is checked against the layout of its own model."""
    one, other = make_model(1, initial=SMALL), make_model(1, initial={"a": SMALL["b"]})
    updates = [ready_update(one, 1, filled(1.0)), ready_update(other, 1, {"a": SMALL["b"]})]
    assert [len(each.data) for each in connector.pull_model_updates_data(updates)] == [2, 1]


def test_loading_does_not_change_the_updates_of_another_round(connector: Any) -> None:
    """Loading a bad update of a round of the function raises an error and does not reject it."""
    model = make_model(1)
    update = ready_update(model, 1, b"not safetensors")
    application.round_connector().claim_round(model.pk)
    with pytest.raises(UpdateRejected, match=f"update {update.pk}: "):
        connector.pull_model_updates_data([update])
    assert statuses([update]) == ["RUNNING"]


def test_an_unreadable_model_does_not_reject_updates(connector: Any) -> None:
    """If the initial model is broken, no update is rejected."""
    model = make_model(1, initial=SMALL)
    assert model.current_artifact is not None
    factories.put(model.current_artifact.values.name, b"broken")
    update = ready_update(model, 1, filled(1.0))
    with pytest.raises(InvalidWeights, match="weights of our own, cannot be read") as error:
        connector.pull_model_updates_data([update])
    assert not isinstance(error.value, UpdateRejected)
    assert statuses([update]) == ["PENDING"]


def test_a_large_result_of_lists_fits_into_a_model_of_tensors(connector: Any) -> None:
    """The size limit on JSON applies to uploads, not to results of a workflow."""
    weights = {"w": np.random.default_rng(0).normal(size=900_000).astype(np.float32)}
    model = make_model(1, initial=weights)
    results = connector.prep_model_data_for_storage(list(weights.values()))
    assert results.size > 16 << 20
    aggregate = connector.post_new_model_aggregate(model, None, results)
    stored = decoded(factories.get(aggregate.result.name), aggregate.result.name)
    np.testing.assert_array_equal(stored["w"], weights["w"])


def test_statements_do_not_grow_with_updates(connector: Any) -> None:
    """The steps of a workflow take as many statements for thirty updates as for three."""
    counts = []
    for clients in (3, 30):
        model = make_model(clients)
        for client in range(1, clients + 1):
            ModelUpdate.objects.create(
                federated_model=model,
                client_id=factories.client_id(client),
                data=f"{model}/{client}",
            )
        with CaptureQueriesContext(connection) as queries:
            updates = connector.pull_model_updates_ready_for_aggregation(model, None)
            connector.register_model_updates_for_aggregation(updates)
            updates = connector.pull_model_updates_registered_for_aggregation(model)
            aggregate = connector.metadata.post_new_model_aggregate(model, None, f"{model}.json")
            connector.register_model_update_used_in_aggregate(updates, aggregate)
            connector.register_model_updates_use_in_aggregation_complete(updates, True)
            with pytest.raises(Conflict, match="part of an aggregate"):
                connector.register_model_updates_use_in_aggregation_failed(updates)
        counts.append(len(queries))
    assert counts[0] == counts[1]


def test_a_failed_workflow_leaves_no_round_open(connector: Any) -> None:
    """After all updates of an external round have failed, another round can start at once."""
    model = make_model(2)
    updates = [ready_update(model, n, b"[1]", suffix="json") for n in (1, 2)]
    connector.register_model_updates_for_aggregation(updates)
    connector.register_model_updates_use_in_aggregation_failed(updates[:1])
    with pytest.raises(Conflict):
        connector.register_model_updates_for_aggregation(updates[:1])
    connector.register_model_updates_use_in_aggregation_failed(updates[1:])
    connector.register_model_updates_for_aggregation(updates)


def test_an_empty_database_is_migrated(connector: Any, tmp_path: Any) -> None:
    """Updating an empty database applies every migration."""
    with using_database(f"sqlite:///{tmp_path / 'empty.sqlite3'}"):
        connector.update_metadata_database_arch()
        executor = MigrationExecutor(connection)
        assert executor.migration_plan(executor.loader.graph.leaf_nodes()) == []


def test_a_failed_workflow_does_not_prevent_a_rollback(connector: Any) -> None:
    """A rollback after a failed external round creates the next aggregate; the updates stay ready."""
    model = make_model(1)
    first = connector.post_new_model_aggregate(model, None, [[1.0]])
    connector.post_new_model_aggregate(model, first, [[2.0]])
    update = ready_update(model, 1, b"[[3.0]]", suffix="json")
    connector.register_model_updates_for_aggregation([update])
    connector.register_model_updates_use_in_aggregation_failed([update])
    assert roll_back(application.objects(), first).number == 3
    assert statuses([update]) == ["FAILED"]
