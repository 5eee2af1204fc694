"""The interface of the original system, on SQLite and PostgreSQL.

The fifteen methods of the interface that was taken over, each alone, in the order in which a
third-party workflow calls them, and where such workflows went wrong with the original.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from django.core.files.uploadedfile import UploadedFile

from aggregation.errors import Conflict, UpdateRejected
from tests.connectors.workflow.backends import DjangoWorld, as_npz
from tests.factories import SMALL, client_id, filled


def all_clients(model: Any, updates: Any) -> bool:
    present = {update.client for update in updates}
    return all(client in present for client in model.clients.all())


def require_x_updates(model: Any, updates: Any, x: int) -> bool:
    return len(updates) >= x


REQUIREMENTS: dict[str, Callable[..., bool]] = {
    "all_clients": all_clients,
    "require_x_updates": require_x_updates,
}


def average(updates: Any) -> Any:
    """Return the mean of each layer as lists, or of each number of flat JSON lists."""
    if np.ndim(updates[0].data[0]) == 0:
        return np.average([update.data for update in updates], axis=0).tolist()
    layers = range(len(updates[0].data))
    return [np.average([update.data[i] for update in updates], axis=0) for i in layers]


def workflow(connector: Any, model_id: int) -> Any:
    """Run a workflow of the original system; return the aggregate, or None if none is due."""
    model = connector.pull_federated_model_w_id(model_id)
    parent = connector.pull_latest_model_aggregate(model)
    updates = connector.pull_model_updates_ready_for_aggregation(model, parent)
    name, arguments = connector.pull_model_requirements(model)
    if not updates or (name and not REQUIREMENTS[name](model, updates, *arguments)):
        return None
    connector.register_model_updates_for_aggregation(updates)
    updates = connector.pull_model_updates_registered_for_aggregation(model)
    updates = connector.pull_model_updates_data(updates)
    results = connector.prep_model_data_for_storage(average(updates))
    aggregate = connector.post_new_model_aggregate(model, parent, results)
    connector.register_model_update_used_in_aggregate(updates, aggregate)
    return aggregate


def hook(connector: Any, model_id: int, is_successful: bool) -> None:
    """Call the closing hook, as the original system does after a workflow."""
    model = connector.pull_federated_model_w_id(model_id)
    registered = connector.pull_model_updates_registered_for_aggregation(model)
    connector.register_model_updates_use_in_aggregation_complete(registered, is_successful)


def ids(updates: Any) -> list[int]:
    return [update.id for update in updates]


# A whole workflow


@pytest.mark.parametrize(
    ("one", "two", "mean"),
    [
        ([[[1, 2], [3, 4]], [5]], [[[3, 4], [5, 6]], [7]], [[[2, 3], [4, 5]], [6]]),
        ([1, 2, 4], [5, 2, 3], [3, 2, 3.5]),
        ([[2], [2]], [[3], [1]], [[2.5], [1.5]]),
    ],
)
def test_json_in_is_json_out(world: DjangoWorld, one: Any, two: Any, mean: Any) -> None:
    """JSON updates produce a JSON aggregate, and each update is used once."""
    model = world.model(2, requirement="all_clients")
    updates = [world.update(model, 1, one), world.update(model, 2, two)]
    aggregate = workflow(world.workflow, model.id)
    hook(world.workflow, model.id, True)
    assert world.read(aggregate) == mean
    assert aggregate.parent is None
    assert world.states(*updates) == [("COMPLETE", 1), ("COMPLETE", 1)]
    assert workflow(world.workflow, model.id) is None


@pytest.mark.parametrize("initial", [None, filled(0.0)])
@pytest.mark.parametrize("encode", [dict, as_npz])
def test_an_aggregate_has_the_names_dtypes_and_format_of_its_model(
    world: DjangoWorld, initial: Any, encode: Any
) -> None:
    """Lists of a workflow become the tensors of the clients or of the initial model."""
    model = world.model(2, initial=initial)
    suffix = {dict: "safetensors", as_npz: "npz"}[encode]
    for client, value in ((1, 1.0), (2, 2.0)):
        world.update(model, client, encode(filled(value)), suffix)
    aggregate = workflow(world.workflow, model.id)
    assert aggregate.result.name.endswith("safetensors" if initial else suffix)
    result = world.read(aggregate)
    assert {name: values.dtype for name, values in result.items()} == {
        "w": np.float32,
        "b": np.float32,
    }
    np.testing.assert_array_equal(result["w"], filled(1.5)["w"])


def test_a_list_of_results_is_stored_as_the_models_tensors(world: DjangoWorld) -> None:
    """A list of layers, in the order of loading, gets the names and dtypes of the model."""
    model = world.model(1, initial=filled(0.0))
    world.update(model, 1, filled(0.1))
    result = world.read(workflow(world.workflow, model.id))
    assert {name: values.dtype for name, values in result.items()} == {
        "w": np.float32,
        "b": np.float32,
    }
    np.testing.assert_array_equal(result["w"], filled(0.1)["w"])


def test_a_json_update_of_a_model_with_names_is_refused(world: DjangoWorld) -> None:
    """A list of layers without names is not matched with named tensors by position."""
    model = world.model(1, initial=filled(0.0))
    layers = [values.tolist() for _, values in sorted(filled(0.1).items())]
    update = world.update(model, 1, layers)
    with pytest.raises(UpdateRejected, match="no names"):
        world.workflow.pull_model_updates_data([update])


def test_each_aggregate_follows_the_previous_one(world: DjangoWorld) -> None:
    """Aggregate numbers increase by one, and each parent is the previous aggregate."""
    model = world.model(1)
    for number in (1, 2, 3):
        world.update(model, 1, [[float(number)]])
        aggregate = workflow(world.another_workflow(), model.id)
        assert aggregate.number == number
        assert (aggregate.parent.number if aggregate.parent else 0) == number - 1
        latest = world.workflow.pull_latest_model_aggregate(model)
    assert latest is not None
    assert latest.id == aggregate.id


@pytest.mark.parametrize(
    ("requirement", "arguments"), [("all_clients", []), ("require_x_updates", [2])]
)
def test_a_workflow_that_waits_changes_nothing(
    world: DjangoWorld, requirement: str, arguments: Any
) -> None:
    """A workflow whose requirement is not met leaves the updates pending."""
    model = world.model(2, requirement=requirement, requirement_args=arguments)
    update = world.update(model, 1, [1])
    assert workflow(world.workflow, model.id) is None
    assert world.states(update) == [("PENDING", None)]
    world.update(model, 2, [2])
    assert workflow(world.workflow, model.id)


def test_uploads_of_one_client_count_once(world: DjangoWorld) -> None:
    """Three uploads of one client count as one update of three."""
    model = world.model(3, requirement="require_x_updates", requirement_args=[3])
    for value in (1, 2, 3):
        world.update(model, 1, [value])
    assert workflow(world.workflow, model.id) is None


# Single methods


def test_a_model_that_does_not_exist_is_none(world: DjangoWorld) -> None:
    """Pulling an unknown model returns None."""
    assert world.workflow.pull_federated_model_w_id(4711) is None


def test_a_model_is_found_by_its_id(world: DjangoWorld) -> None:
    """Pulling a model returns the one with the id, also if there are others."""
    model = [world.model(1), world.model(1)][0]
    found = world.workflow.pull_federated_model_w_id(model.id)
    assert found is not None
    assert found.id == model.id


def test_before_the_first_round_there_is_no_aggregate(world: DjangoWorld) -> None:
    """The latest aggregate is None before the first round, also if other models have one."""
    other = world.model(1)
    world.workflow.post_new_model_aggregate(other, None, [[1.0]])
    assert world.workflow.pull_latest_model_aggregate(world.model(1)) is None


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, [None, []]),
        ({"requirement": "all_clients"}, ["all_clients", []]),
        (
            {"requirement": "require_x_updates", "requirement_args": [3]},
            ["require_x_updates", [3]],
        ),
        (
            {"requirement": "quorum", "requirement_args": {"after_minutes": 5, "x": 2}},
            ["quorum", [2, 5]],
        ),
    ],
)
def test_a_requirement_is_returned_by_name_and_position(
    world: DjangoWorld, fields: Any, expected: Any
) -> None:
    """The arguments are returned in positional order, also if they were saved by name."""
    assert list(world.workflow.pull_model_requirements(world.model(1, **fields))) == expected


def test_pending_counts_uploads_and_ready_counts_clients(world: DjangoWorld) -> None:
    """All uploads of members are pending, and the newest of each is ready; nonmembers have none."""
    model, other = world.model(2), world.model(3)
    second = world.update(model, 2, [3])
    first = world.update(model, 1, [1])
    newest = world.update(model, 1, [2])
    world.update(model, 3, [4])
    world.update(other, 1, [5])
    pending = world.workflow.pull_model_updates_pending_aggregation(model)
    ready = world.workflow.pull_model_updates_ready_for_aggregation(model, None)
    assert sorted(ids(pending)) == sorted(ids([first, newest, second]))
    assert ids(ready) == ids([newest, second])
    assert len(ready) == 2
    assert [str(update.client) for update in ready] == [str(client_id(n)) for n in (1, 2)]


@pytest.mark.parametrize(
    ("furthest", "allowed"), [(1, [2]), (2, [1, 2]), (3, [0, 1, 2]), (None, [0, 1, 2])]
)
def test_furthest_base_agg_limits_the_age_of_a_base(
    world: DjangoWorld, furthest: int | None, allowed: list[int]
) -> None:
    """The N latest aggregates are allowed; an update without a base is based on the initial model."""
    model = world.model(3, furthest_base_agg=furthest)
    bases: list[Any] = [None]
    for value in (1.0, 2.0):
        bases.append(world.workflow.post_new_model_aggregate(model, bases[-1], [[value]]))
    updates = [
        world.update(model, client, [[3.0]], base_aggregate=base)
        for client, base in enumerate(bases, 1)
    ]
    ready = world.workflow.pull_model_updates_ready_for_aggregation(model, bases[-1])
    assert ids(ready) == [updates[number].id for number in allowed]


@pytest.mark.parametrize("furthest", [1, 2, None])
def test_the_first_round_accepts_updates_of_the_initial_model(
    world: DjangoWorld, furthest: int | None
) -> None:
    """Before the first aggregate, an update without a base is not stale."""
    model = world.model(1, furthest_base_agg=furthest)
    update = world.update(model, 1, [1])
    assert ids(world.workflow.pull_model_updates_ready_for_aggregation(model, None)) == [update.id]


def test_a_stale_upload_does_not_hide_a_fresh_one(world: DjangoWorld) -> None:
    """The newest update with an allowed base is ready, even if a stale one came later."""
    model = world.model(1, furthest_base_agg=1)
    latest = world.workflow.post_new_model_aggregate(model, None, [[1.0]])
    fresh = world.update(model, 1, [[2.0]], base_aggregate=latest)
    world.update(model, 1, [[3.0]])
    ready = world.workflow.pull_model_updates_ready_for_aggregation(model, latest)
    assert ids(ready) == [fresh.id]


def test_registered_updates_are_running_and_no_longer_ready(world: DjangoWorld) -> None:
    """Registered updates are RUNNING and are returned in client order."""
    model = world.model(2)
    second, first = (world.update(model, n, [n]) for n in (2, 1))
    assert list(world.workflow.pull_model_updates_registered_for_aggregation(model)) == []
    world.workflow.register_model_updates_for_aggregation([second, first])
    assert world.states(first, second) == [("RUNNING", None), ("RUNNING", None)]
    registered = world.another_workflow().pull_model_updates_registered_for_aggregation(model)
    assert ids(registered) == ids([first, second])
    assert list(world.workflow.pull_model_updates_ready_for_aggregation(model, None)) == []
    assert list(world.workflow.pull_model_updates_pending_aggregation(model)) == []


def test_all_updates_are_registered_or_none(world: DjangoWorld) -> None:
    """If one update is not available, the others stay ready and no round is opened."""
    model = world.model(2)
    used, free = world.update(model, 1, [1]), world.update(model, 2, [2])
    world.workflow.register_model_updates_for_aggregation([used])
    aggregate = world.workflow.post_new_model_aggregate(model, None, [1])
    world.workflow.register_model_update_used_in_aggregate([used], aggregate)
    with pytest.raises(Conflict):
        world.workflow.register_model_updates_for_aggregation([free, used])
    assert world.states(used, free) == [("COMPLETE", 1), ("PENDING", None)]
    world.workflow.register_model_updates_for_aggregation([free])


@pytest.mark.parametrize("count", [0, 2])
def test_a_round_has_updates_of_one_model(world: DjangoWorld, count: int) -> None:
    """Updates of two models, or no updates, are refused and not registered."""
    updates = [world.update(world.model(1), 1, [1]) for _ in range(count)]
    with pytest.raises(ValueError, match="one federated model"):
        world.workflow.register_model_updates_for_aggregation(updates)
    assert world.states(*updates) == [("PENDING", None)] * count


@pytest.mark.parametrize(
    ("data", "suffix"),
    [
        (filled(1.0), "safetensors"),
        (as_npz(filled(1.0)), "npz"),
        ([values.tolist() for values in filled(1.0).values()], "json"),
    ],
)
def test_loaded_data_is_a_list_of_arrays(world: DjangoWorld, data: Any, suffix: str) -> None:
    """Every format loads as a list of arrays, and pulled objects are not changed."""
    update = world.update(world.model(1), 1, data, suffix)
    (loaded,) = world.workflow.pull_model_updates_data([update])
    assert sorted(np.shape(layer) for layer in loaded.data) == [(2, 3), (3,)]
    assert sum(float(np.sum(layer)) for layer in loaded.data) == 9.0
    assert (loaded.id, loaded.client) == (update.id, update.client)
    (again,) = world.workflow.pull_model_updates_data([update])
    assert len(again.data) == 2


def test_loading_no_updates_returns_an_empty_list(world: DjangoWorld) -> None:
    """Loading no updates returns no data."""
    assert list(world.workflow.pull_model_updates_data([])) == []


def test_an_update_that_cannot_be_loaded_is_named(world: DjangoWorld) -> None:
    """Loading a broken update raises an error with its id and the reason."""
    update = world.update(world.model(1), 1, b"not safetensors")
    with pytest.raises(UpdateRejected, match=f"^update {update.id}: "):
        world.workflow.pull_model_updates_data([update])


def test_an_update_that_cannot_be_loaded_fails_one_round(world: DjangoWorld) -> None:
    """After a bad update fails one workflow, the next one runs without it."""
    model = world.model(2)
    good, bad = world.update(model, 1, filled(1.0)), world.update(model, 2, b"not safetensors")
    with pytest.raises(UpdateRejected, match=f"^update {bad.id}: "):
        workflow(world.workflow, model.id)
    hook(world.workflow, model.id, False)
    assert world.states(good, bad) == [("FAILED", None), ("INVALID", None)]
    assert "header" in world.now(bad).rejection_reason
    assert workflow(world.workflow, model.id)
    assert world.states(good, bad) == [("COMPLETE", 1), ("INVALID", None)]


@pytest.mark.parametrize("initial", [None, SMALL])
@pytest.mark.parametrize(
    ("other", "difference"),
    [
        ({**SMALL, "c": SMALL["b"]}, "'c'.* is not in the model"),
        ({"w": SMALL["w"]}, "'b'.* is missing"),
        ({**SMALL, "b": np.zeros((1, 3), np.float32)}, r"\[1, 3\]"),
    ],
)
def test_an_update_with_a_differing_layout_is_rejected(
    world: DjangoWorld, initial: Any, other: Any, difference: str
) -> None:
    """An update whose layout differs from the model or the majority is rejected with the difference."""
    model = world.model(3, initial=initial)
    updates = [
        world.update(model, n, tensors) for n, tensors in enumerate((other, SMALL, SMALL), 1)
    ]
    with pytest.raises(UpdateRejected, match=f"^update {updates[0].id}: .*{difference}"):
        world.workflow.pull_model_updates_data(updates)


@pytest.mark.parametrize("initial", [None, filled(0.0)])
def test_layers_are_loaded_in_the_same_order(world: DjangoWorld, initial: Any) -> None:
    """Files with the same tensors in different orders load their layers in the same order."""
    model = world.model(2, initial=initial)
    one = {"w": np.full((2, 3), 1.0, np.float32), "b": np.full(3, 10.0, np.float32)}
    two = {"b": np.full(3, 20.0, np.float32), "w": np.full((2, 3), 2.0, np.float32)}
    for client, tensors in ((1, one), (2, two)):
        world.update(model, client, as_npz(tensors), "npz")
    result = world.read(workflow(world.workflow, model.id))
    assert {name: values.flat[0] for name, values in result.items()} == {"w": 1.5, "b": 15.0}


def test_lists_are_prepared_as_json_and_tensors_as_safetensors(world: DjangoWorld) -> None:
    """A prepared result is an uploaded file whose extension is the format."""
    layers = world.workflow.prep_model_data_for_storage([np.ones((2, 1)), [0.5]])
    tensors = world.workflow.prep_model_data_for_storage(SMALL)
    assert isinstance(layers, UploadedFile)
    assert layers.read() == b"[[[1.0], [1.0]], [0.5]]"
    assert [str(file.name).rsplit(".")[-1] for file in (layers, tensors)] == ["json", "safetensors"]


def test_a_result_of_tensors_keeps_its_names(world: DjangoWorld) -> None:
    """A mapping of arrays is posted under its names, in any order."""
    model = world.model(1, initial=filled(0.0))
    results = world.workflow.prep_model_data_for_storage(dict(reversed(filled(2.0).items())))
    aggregate = world.workflow.post_new_model_aggregate(model, None, results)
    np.testing.assert_array_equal(world.read(aggregate)["w"], filled(2.0)["w"])


def test_a_list_with_nan_is_rejected(world: DjangoWorld) -> None:
    """A list with NaN is rejected, since it is not valid JSON."""
    with pytest.raises(UpdateRejected, match="not JSON compliant"):
        world.workflow.prep_model_data_for_storage([[float("nan")]])


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (filled(np.nan), "not finite in tensor"),
        (filled(-np.inf), "not finite in tensor"),
        ({"w": SMALL["w"]}, "'b'.* is missing"),
        ({**SMALL, "c": SMALL["b"]}, "'c'.* is not in the model"),
        ({**SMALL, "b": np.zeros((1, 3), np.float32)}, r"\[1, 3\]"),
        ([[1.0, 2.0], [3.0]], r"'arr_0' is F32"),
    ],
)
def test_a_result_that_does_not_fit_its_model_is_rejected(
    world: DjangoWorld, result: Any, reason: str
) -> None:
    """A result that is not finite or has another layout is rejected and creates no aggregate."""
    model = world.model(1, initial=SMALL)
    with pytest.raises(UpdateRejected, match=reason):
        world.workflow.post_new_model_aggregate(model, None, result)
    assert world.workflow.pull_latest_model_aggregate(model) is None


def test_the_lineage_does_not_fork(world: DjangoWorld) -> None:
    """Posting an aggregate whose parent is not the latest one raises a conflict."""
    model = world.model(1)
    first = world.workflow.post_new_model_aggregate(model, None, [[1.0]])
    with pytest.raises(Conflict, match="latest"):
        world.workflow.post_new_model_aggregate(model, None, [[2.0]])
    world.workflow.post_new_model_aggregate(model, first, [[2.0]])
    with pytest.raises(Conflict, match="latest"):
        world.workflow.post_new_model_aggregate(model, first, [[3.0]])


def test_the_database_can_be_migrated_at_any_time(world: DjangoWorld) -> None:
    """Updating a current database changes nothing."""
    model = world.model(1)
    world.workflow.update_metadata_database_arch()
    found = world.workflow.pull_federated_model_w_id(model.id)
    assert found is not None
    assert found.id == model.id
