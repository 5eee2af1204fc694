"""One contract for every connector: the Django one on SQLite and PostgreSQL, and its in-memory twin.

The fifteen methods of the interface that was taken over, each alone, in the order in which a
third-party workflow calls them, and where such workflows went wrong with the original.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from django.core.files.uploadedfile import UploadedFile

from aggregation.errors import LeaseLost, UpdateRejected
from aggregation.round import Claim, Status, run_round
from tests.connectors.workflow.backends import World, as_npz
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
    """The mean of each layer, as lists; of flat JSON lists, the mean of each number."""
    if np.ndim(updates[0].data[0]) == 0:
        return np.average([update.data for update in updates], axis=0).tolist()
    layers = range(len(updates[0].data))
    return [np.average([update.data[i] for update in updates], axis=0) for i in layers]


def workflow(connector: Any, model_id: int) -> Any:
    """A round as it was written for the original system; the aggregate, or None where it is too soon."""
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
    """What the original called when a workflow had ended."""
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
def test_json_in_is_json_out(world: World, one: Any, two: Any, mean: Any) -> None:
    """Lists go in, their mean comes out as lists, and the updates are part of it, once."""
    model = world.model(2, requirement="all_clients")
    updates = [world.update(model, 1, one), world.update(model, 2, two)]
    aggregate = workflow(world.connector, model.id)
    hook(world.connector, model.id, True)
    assert world.read(aggregate) == mean
    assert aggregate.parent is None
    assert world.states(*updates) == [("COMPLETE", 1), ("COMPLETE", 1)]
    assert workflow(world.connector, model.id) is None


@pytest.mark.parametrize("initial", [None, filled(0.0)])
@pytest.mark.parametrize("encode", [dict, as_npz])
def test_an_aggregate_has_the_names_dtypes_and_format_of_its_model(
    world: World, initial: Any, encode: Any
) -> None:
    """A workflow's lists become the tensors that the clients, or the initial model, have."""
    model = world.model(2, initial=initial)
    suffix = {dict: "safetensors", as_npz: "npz"}[encode]
    for client, value in ((1, 1.0), (2, 2.0)):
        world.update(model, client, encode(filled(value)), suffix)
    aggregate = workflow(world.connector, model.id)
    assert aggregate.result.name.endswith("safetensors" if initial else suffix)
    result = world.read(aggregate)
    assert {name: values.dtype for name, values in result.items()} == {
        "w": np.float32,
        "b": np.float32,
    }
    np.testing.assert_array_equal(result["w"], filled(1.5)["w"])


def test_a_list_of_results_is_stored_as_the_models_tensors(world: World) -> None:
    """A workflow's list of layers is in the order in which it got them, and takes names and dtypes."""
    model = world.model(1, initial=filled(0.0))
    world.update(model, 1, filled(0.1))
    result = world.read(workflow(world.connector, model.id))
    assert {name: values.dtype for name, values in result.items()} == {
        "w": np.float32,
        "b": np.float32,
    }
    np.testing.assert_array_equal(result["w"], filled(0.1)["w"])


def test_a_json_update_of_a_model_with_names_is_refused(world: World) -> None:
    """A list of layers without names is not matched with named tensors by position."""
    model = world.model(1, initial=filled(0.0))
    layers = [values.tolist() for _, values in sorted(filled(0.1).items())]
    update = world.update(model, 1, layers)
    with pytest.raises(UpdateRejected, match="no names"):
        world.connector.pull_model_updates_data([update])


def test_each_aggregate_succeeds_the_one_before(world: World) -> None:
    """The lineage is a line: numbers count up, and each parent is the aggregate before."""
    model = world.model(1)
    for number in (1, 2, 3):
        world.update(model, 1, [[float(number)]])
        aggregate = workflow(world.process(), model.id)
        assert aggregate.number == number
        assert (aggregate.parent.number if aggregate.parent else 0) == number - 1
        assert world.connector.pull_latest_model_aggregate(model).id == aggregate.id


@pytest.mark.parametrize(
    ("requirement", "arguments"), [("all_clients", []), ("require_x_updates", [2])]
)
def test_a_workflow_that_waits_changes_nothing(
    world: World, requirement: str, arguments: Any
) -> None:
    """Until the requirement is met a workflow sees the same updates again and again."""
    model = world.model(2, requirement=requirement, requirement_args=arguments)
    update = world.update(model, 1, [1])
    assert workflow(world.connector, model.id) is None
    assert world.states(update) == [("PENDING", None)]
    world.update(model, 2, [2])
    assert workflow(world.connector, model.id)


def test_one_client_is_no_quorum(world: World) -> None:
    """A client that uploads three times is one update of three."""
    model = world.model(3, requirement="require_x_updates", requirement_args=[3])
    for value in (1, 2, 3):
        world.update(model, 1, [value])
    assert workflow(world.connector, model.id) is None


# Each method alone


def test_a_model_that_does_not_exist_is_none(world: World) -> None:
    """There is no error in asking for a model that is not there."""
    assert world.connector.pull_federated_model_w_id(4711) is None


def test_a_model_is_found_by_its_id(world: World) -> None:
    """The model with that id is given, whatever others there are."""
    model = [world.model(1), world.model(1)][0]
    assert world.connector.pull_federated_model_w_id(model.id).id == model.id


def test_before_the_first_round_there_is_no_aggregate(world: World) -> None:
    """The latest aggregate of a model without any is None, whatever others have."""
    other = world.model(1)
    world.connector.post_new_model_aggregate(other, None, [[1.0]])
    assert world.connector.pull_latest_model_aggregate(world.model(1)) is None


@pytest.mark.parametrize(
    ("fields", "told"),
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
def test_a_requirement_is_told_by_name_and_position(world: World, fields: Any, told: Any) -> None:
    """However the arguments were given, they come in the order in which a workflow splats them."""
    assert list(world.connector.pull_model_requirements(world.model(1, **fields))) == told


def test_pending_counts_uploads_and_ready_counts_clients(world: World) -> None:
    """Pending are all uploads of members, ready the newest of each, by client; strangers are neither."""
    model, other = world.model(2), world.model(3)
    second = world.update(model, 2, [3])
    first = world.update(model, 1, [1])
    newest = world.update(model, 1, [2])
    world.update(model, 3, [4])
    world.update(other, 1, [5])
    pending = world.connector.pull_model_updates_pending_aggregation(model)
    ready = world.connector.pull_model_updates_ready_for_aggregation(model, None)
    assert sorted(ids(pending)) == sorted(ids([first, newest, second]))
    assert ids(ready) == ids([newest, second])
    assert len(ready) == 2
    assert [str(update.client) for update in ready] == [str(client_id(n)) for n in (1, 2)]


@pytest.mark.parametrize(
    ("furthest", "allowed"), [(1, [2]), (2, [1, 2]), (3, [0, 1, 2]), (None, [0, 1, 2])]
)
def test_a_base_may_be_as_far_back_as_the_model_says(
    world: World, furthest: int | None, allowed: list[int]
) -> None:
    """furthest_base_agg N allows the N latest aggregates; an update without a base counts as based on
    the initial model, which comes before the first."""
    model = world.model(3, furthest_base_agg=furthest)
    bases: list[Any] = [None]
    for value in (1.0, 2.0):
        bases.append(world.connector.post_new_model_aggregate(model, bases[-1], [[value]]))
    updates = [
        world.update(model, client, [[3.0]], base_aggregate=base)
        for client, base in enumerate(bases, 1)
    ]
    ready = world.connector.pull_model_updates_ready_for_aggregation(model, bases[-1])
    assert ids(ready) == [updates[number].id for number in allowed]


@pytest.mark.parametrize("furthest", [1, 2, None])
def test_the_first_round_takes_updates_of_the_initial_model(
    world: World, furthest: int | None
) -> None:
    """Before there is an aggregate, an update without a base is as fresh as can be."""
    model = world.model(1, furthest_base_agg=furthest)
    update = world.update(model, 1, [1])
    assert ids(world.connector.pull_model_updates_ready_for_aggregation(model, None)) == [update.id]


def test_a_stale_upload_does_not_hide_a_fresh_one(world: World) -> None:
    """Of a client's uploads the newest with an allowed base is ready, though a stale one came later."""
    model = world.model(1, furthest_base_agg=1)
    latest = world.connector.post_new_model_aggregate(model, None, [[1.0]])
    fresh = world.update(model, 1, [[2.0]], base_aggregate=latest)
    world.update(model, 1, [[3.0]])
    ready = world.connector.pull_model_updates_ready_for_aggregation(model, latest)
    assert ids(ready) == [fresh.id]


def test_registered_updates_are_running_and_ready_no_more(world: World) -> None:
    """Registering is all that makes an update running; they are told by client."""
    model = world.model(2)
    second, first = (world.update(model, n, [n]) for n in (2, 1))
    assert list(world.connector.pull_model_updates_registered_for_aggregation(model)) == []
    world.connector.register_model_updates_for_aggregation([second, first])
    assert world.states(first, second) == [("RUNNING", None), ("RUNNING", None)]
    registered = world.process().pull_model_updates_registered_for_aggregation(model)
    assert ids(registered) == ids([first, second])
    assert list(world.connector.pull_model_updates_ready_for_aggregation(model, None)) == []
    assert list(world.connector.pull_model_updates_pending_aggregation(model)) == []


def test_all_updates_are_registered_or_none(world: World) -> None:
    """Where one of them has been taken, the others are as ready as before, and no round is open."""
    model = world.model(2)
    taken, free = world.update(model, 1, [1]), world.update(model, 2, [2])
    world.connector.register_model_updates_for_aggregation([taken])
    aggregate = world.connector.post_new_model_aggregate(model, None, [1])
    world.connector.register_model_update_used_in_aggregate([taken], aggregate)
    with pytest.raises(LeaseLost):
        world.connector.register_model_updates_for_aggregation([free, taken])
    assert world.states(taken, free) == [("COMPLETE", 1), ("PENDING", None)]
    world.connector.register_model_updates_for_aggregation([free])


@pytest.mark.parametrize("count", [0, 2])
def test_a_round_is_of_one_model(world: World, count: int) -> None:
    """Updates of two models, or of none, are refused before anything is registered."""
    updates = [world.update(world.model(1), 1, [1]) for _ in range(count)]
    with pytest.raises(ValueError, match="one federated model"):
        world.connector.register_model_updates_for_aggregation(updates)
    assert world.states(*updates) == [("PENDING", None)] * count


@pytest.mark.parametrize(
    ("data", "suffix"),
    [
        (filled(1.0), "safetensors"),
        (as_npz(filled(1.0)), "npz"),
        ([values.tolist() for values in filled(1.0).values()], "json"),
    ],
)
def test_loaded_data_is_a_list_of_arrays(world: World, data: Any, suffix: str) -> None:
    """Every format loads as arrays, a layer each, in copies: what was pulled is left as it was."""
    update = world.update(world.model(1), 1, data, suffix)
    (loaded,) = world.connector.pull_model_updates_data([update])
    assert sorted(np.shape(layer) for layer in loaded.data) == [(2, 3), (3,)]
    assert sum(float(np.sum(layer)) for layer in loaded.data) == 9.0
    assert (loaded.id, loaded.client) == (update.id, update.client)
    (again,) = world.connector.pull_model_updates_data([update])
    assert len(again.data) == 2


def test_no_updates_load_as_none(world: World) -> None:
    """Loading nothing gives nothing."""
    assert list(world.connector.pull_model_updates_data([])) == []


def test_an_update_that_cannot_be_loaded_is_named(world: World) -> None:
    """Loading a broken update tells which one it is, and why."""
    update = world.update(world.model(1), 1, b"not safetensors")
    with pytest.raises(UpdateRejected, match=f"^update {update.id}: "):
        world.connector.pull_model_updates_data([update])


def test_an_update_that_cannot_be_loaded_fails_one_round(world: World) -> None:
    """A workflow that met a bad update goes without it from then on, though it says that all failed."""
    model = world.model(2)
    good, bad = world.update(model, 1, filled(1.0)), world.update(model, 2, b"not safetensors")
    with pytest.raises(UpdateRejected, match=f"^update {bad.id}: "):
        workflow(world.connector, model.id)
    hook(world.connector, model.id, False)
    assert world.states(good, bad) == [("FAILED", None), ("INVALID", None)]
    assert "header" in world.now(bad).rejection_reason
    assert workflow(world.connector, model.id)
    assert world.states(good, bad) == [("COMPLETE", 1), ("INVALID", None)]


@pytest.mark.parametrize("initial", [None, SMALL])
@pytest.mark.parametrize(
    ("other", "difference"),
    [
        ({**SMALL, "c": SMALL["b"]}, "'c' .* is not in the model"),
        ({"w": SMALL["w"]}, "'b' .* is missing"),
        ({**SMALL, "b": np.zeros((1, 3), np.float32)}, r"\[1, 3\]"),
    ],
)
def test_layers_that_others_do_not_have_are_not_dropped(
    world: World, initial: Any, other: Any, difference: str
) -> None:
    """Without a model to compare with, what most clients have is the model's; one who differs, be it
    the first, is told in what."""
    model = world.model(3, initial=initial)
    updates = [
        world.update(model, n, tensors) for n, tensors in enumerate((other, SMALL, SMALL), 1)
    ]
    with pytest.raises(UpdateRejected, match=f"^update {updates[0].id}: .*{difference}"):
        world.connector.pull_model_updates_data(updates)


@pytest.mark.parametrize("initial", [None, filled(0.0)])
def test_layers_come_in_one_order(world: World, initial: Any) -> None:
    """Files that hold the same tensors in another order load in the same order, so that a workflow can
    average them layer by layer, and the result has them under their names."""
    model = world.model(2, initial=initial)
    one = {"w": np.full((2, 3), 1.0, np.float32), "b": np.full(3, 10.0, np.float32)}
    two = {"b": np.full(3, 20.0, np.float32), "w": np.full((2, 3), 2.0, np.float32)}
    for client, tensors in ((1, one), (2, two)):
        world.update(model, client, as_npz(tensors), "npz")
    result = world.read(workflow(world.connector, model.id))
    assert {name: values.flat[0] for name, values in result.items()} == {"w": 1.5, "b": 15.0}


def test_lists_are_prepared_as_json_and_tensors_as_safetensors(world: World) -> None:
    """A result becomes an uploaded file, whose name tells the format."""
    layers = world.connector.prep_model_data_for_storage([np.ones((2, 1)), [0.5]])
    tensors = world.connector.prep_model_data_for_storage(SMALL)
    assert isinstance(layers, UploadedFile)
    assert layers.read() == b"[[[1.0], [1.0]], [0.5]]"
    assert [str(file.name).rsplit(".")[-1] for file in (layers, tensors)] == ["json", "safetensors"]


def test_a_result_of_tensors_keeps_its_names(world: World) -> None:
    """A mapping of arrays is posted as the model's tensors, whatever their order."""
    model = world.model(1, initial=filled(0.0))
    results = world.connector.prep_model_data_for_storage(dict(reversed(filled(2.0).items())))
    aggregate = world.connector.post_new_model_aggregate(model, None, results)
    np.testing.assert_array_equal(world.read(aggregate)["w"], filled(2.0)["w"])


def test_a_list_that_is_not_finite_is_not_prepared(world: World) -> None:
    """NaN is no JSON: it is refused before it becomes a file nobody can read."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        world.connector.prep_model_data_for_storage([[float("nan")]])


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (filled(np.nan), "not finite in tensor"),
        (filled(-np.inf), "not finite in tensor"),
        ({"w": SMALL["w"]}, "'b' .* is missing"),
        ({**SMALL, "c": SMALL["b"]}, "'c' .* is not in the model"),
        ({**SMALL, "b": np.zeros((1, 3), np.float32)}, r"\[1, 3\]"),
        ([[1.0, 2.0], [3.0]], r"'arr_0' is F32"),
    ],
)
def test_a_result_unlike_its_model_is_not_posted(world: World, result: Any, reason: str) -> None:
    """A result that is not finite, or laid out otherwise, is refused and the lineage stays as it is."""
    model = world.model(1, initial=SMALL)
    with pytest.raises(UpdateRejected, match=reason):
        world.connector.post_new_model_aggregate(model, None, result)
    assert world.connector.pull_latest_model_aggregate(model) is None


def test_the_lineage_does_not_fork(world: World) -> None:
    """An aggregate can only succeed the latest: two with the same parent are impossible."""
    model = world.model(1)
    first = world.connector.post_new_model_aggregate(model, None, [[1.0]])
    with pytest.raises(LeaseLost, match="latest"):
        world.connector.post_new_model_aggregate(model, None, [[2.0]])
    world.connector.post_new_model_aggregate(model, first, [[2.0]])
    with pytest.raises(LeaseLost, match="latest"):
        world.connector.post_new_model_aggregate(model, first, [[3.0]])


def posted_round(world: World) -> tuple[Any, list[Any], Any]:
    """A model, two updates registered for a round, and the aggregate it has posted."""
    model = world.model(2)
    updates = [world.update(model, n, [n]) for n in (1, 2)]
    world.connector.register_model_updates_for_aggregation(updates)
    return model, updates, world.connector.post_new_model_aggregate(model, None, [1.5])


def test_saying_twice_that_updates_were_used_changes_nothing(world: World) -> None:
    """Settling is idempotent, in whichever order the closing calls come again."""
    _, updates, aggregate = posted_round(world)
    for _ in range(2):
        world.connector.register_model_update_used_in_aggregate(updates, aggregate)
        world.connector.register_model_updates_use_in_aggregation_complete(updates, True)
        assert world.states(*updates) == [("COMPLETE", 1), ("COMPLETE", 1)]


def test_an_update_is_used_in_one_aggregate(world: World) -> None:
    """An update that is part of an aggregate cannot become part of another, nor can those with it."""
    model, updates, aggregate = posted_round(world)
    world.connector.register_model_update_used_in_aggregate(updates[:1], aggregate)
    second = world.connector.post_new_model_aggregate(model, aggregate, [2])
    with pytest.raises(ValueError, match="another aggregate"):
        world.connector.register_model_update_used_in_aggregate(updates, second)
    assert world.states(*updates) == [("COMPLETE", 1), ("FAILED", None)]


def test_updates_that_were_left_out_are_ready_again(world: World) -> None:
    """A workflow that leaves an update out does not lose it."""
    model, (used, left_out), aggregate = posted_round(world)
    world.connector.register_model_update_used_in_aggregate([used], aggregate)
    ready = world.connector.pull_model_updates_ready_for_aggregation(model, aggregate)
    assert ids(ready) == [left_out.id]
    assert world.states(left_out) == [("FAILED", None)]


@pytest.mark.parametrize("say", ["complete", "failed"])
def test_what_failed_is_ready_again(world: World, say: str) -> None:
    """Said to have failed, in either way, updates are FAILED, and the next workflow takes them."""
    model = world.model(1)
    update = world.update(model, 1, [1])
    connector = world.connector
    connector.register_model_updates_for_aggregation([update])
    if say == "complete":
        connector.register_model_updates_use_in_aggregation_complete([update], False)
    else:
        connector.register_model_updates_use_in_aggregation_failed([update])
    assert world.states(update) == [("FAILED", None)]
    assert ids(connector.pull_model_updates_ready_for_aggregation(model, None)) == [update.id]
    assert workflow(connector, model.id)
    assert world.states(update) == [("COMPLETE", 1)]


def test_what_was_never_registered_can_be_said_to_have_failed(world: World) -> None:
    """A pending update that is said to have failed is as ready as before."""
    model = world.model(1)
    update = world.update(model, 1, [1])
    world.connector.register_model_updates_use_in_aggregation_failed([update])
    assert ids(world.connector.pull_model_updates_ready_for_aggregation(model, None)) == [update.id]


def test_a_rejected_update_stays_rejected(world: World) -> None:
    """What is INVALID does not become ready again because a workflow failed."""
    model = world.model(1)
    update = world.update(model, 1, [1], status=4)
    world.connector.register_model_updates_use_in_aggregation_failed([update])
    assert world.states(update) == [("INVALID", None)]


def test_updates_in_no_aggregate_are_not_complete(world: World) -> None:
    """Complete without an aggregate would lose the update: refused, and nothing is changed."""
    model = world.model(1)
    update = world.update(model, 1, [1])
    world.connector.register_model_updates_for_aggregation([update])
    with pytest.raises(ValueError, match="aggregate"):
        hook(world.connector, model.id, True)
    assert world.states(update) == [("RUNNING", None)]


def test_updates_in_an_aggregate_have_not_failed(world: World) -> None:
    """Failed though in an aggregate would count the update twice: refused, and nothing is changed."""
    _, updates, aggregate = posted_round(world)
    world.connector.register_model_update_used_in_aggregate(updates, aggregate)
    with pytest.raises(ValueError, match="aggregate"):
        world.connector.register_model_updates_use_in_aggregation_failed(updates)
    assert world.states(*updates) == [("COMPLETE", 1), ("COMPLETE", 1)]


def test_the_database_can_be_migrated_at_any_time(world: World) -> None:
    """Bringing a database that is up to date to the newest structure changes nothing."""
    model = world.model(1)
    world.connector.update_metadata_database_arch()
    assert world.connector.pull_federated_model_w_id(model.id).id == model.id


# What went wrong with the original


def test_killed_before_posting_its_updates_are_ready_again(world: World) -> None:
    """A workflow that died made no aggregate, so that none of its updates is complete: the next one
    takes them all, once its lease is over."""
    model = world.model(2)
    updates = [world.update(model, 1, [1]), world.update(model, 2, [3])]
    world.connector.register_model_updates_for_aggregation(updates)
    world.clock.pass_lease()
    claim = world.process().claim_round(model.id)
    assert [each.id for each in claim.updates] == ids(updates)
    assert world.states(*updates) == [("RUNNING", None), ("RUNNING", None)]


def taken_from_its_workflow(world: World, initial: Any = None) -> tuple[Any, list[Any]]:
    """A model of three clients, and two updates whose workflow was late: they are ready again."""
    model = world.model(3, requirement="require_x_updates", requirement_args=[3], initial=initial)
    updates = [world.update(model, n, [[float(n)]]) for n in (1, 2)]
    world.connector.register_model_updates_for_aggregation(updates)
    world.clock.pass_lease()
    assert world.process().claim_round(model.id).status is Status.WAITING
    assert world.states(*updates) == [("FAILED", None)] * 2
    return model, updates


def test_what_was_taken_from_a_workflow_is_not_posted_late(world: World) -> None:
    """After its lease a workflow's updates went back, to wait for a third: its aggregate comes too late,
    and each of the three is counted once, in the function's."""
    model, updates = taken_from_its_workflow(world)
    with pytest.raises(LeaseLost, match="count"):
        world.connector.post_new_model_aggregate(model, None, [[1.5]])
    assert world.connector.pull_latest_model_aggregate(model) is None
    updates.append(world.update(model, 3, [[6.0]]))
    assert run_round(world.process(), model.id).status is Status.PUBLISHED
    assert world.states(*updates) == [("COMPLETE", 1)] * 3
    assert world.read(world.connector.pull_latest_model_aggregate(model)) == [[3.0]]


def test_what_was_taken_is_not_posted_after_a_round_that_failed(world: World) -> None:
    """A round of the function that took the updates and failed has not given them to the workflow."""
    model, updates = taken_from_its_workflow(world)
    world.update(model, 3, [[6.0]])
    other = world.process()
    other.fail_round(other.claim_round(model.id), RuntimeError("no luck"))
    with pytest.raises(LeaseLost):
        world.connector.post_new_model_aggregate(model, None, [[1.5]])
    assert world.states(*updates) == [("FAILED", None)] * 2


def test_what_was_taken_may_be_registered_and_posted_again(world: World) -> None:
    """A workflow that registers its updates anew holds them again, and its aggregate is taken; the next
    may be posted by one that never registers."""
    model, updates = taken_from_its_workflow(world)
    world.connector.register_model_updates_for_aggregation(updates)
    aggregate = world.connector.post_new_model_aggregate(model, None, [[1.5]])
    world.connector.register_model_update_used_in_aggregate(updates, aggregate)
    assert world.states(*updates) == [("COMPLETE", 1)] * 2
    assert world.connector.post_new_model_aggregate(model, aggregate, [[2.0]]).number == 2


def test_a_paused_model_is_not_registered_for(world: World) -> None:
    """No round of a paused model starts, by hand or otherwise; its updates stay as they are."""
    model = world.model(1, allow_aggregation=False)
    update = world.update(model, 1, [1])
    with pytest.raises(LeaseLost, match="paused"):
        world.connector.register_model_updates_for_aggregation([update])
    assert world.states(update) == [("PENDING", None)]


def test_killed_after_posting_its_updates_are_counted_once(world: World) -> None:
    """An aggregate that was posted has its updates, though nobody said so: 9.0 stays 9.0."""
    model = world.model(1)
    update = world.update(model, 1, [[9.0]])
    world.connector.register_model_updates_for_aggregation([update])
    aggregate = world.connector.post_new_model_aggregate(model, None, [[9.0]])
    world.clock.pass_lease()
    connector = world.process()
    assert run_round(connector, model.id).status is Status.WAITING
    assert world.states(update) == [("COMPLETE", 1)]
    assert world.read(connector.pull_latest_model_aggregate(model)) == [[9.0]]
    connector.register_model_update_used_in_aggregate([update], aggregate)


def test_a_workflow_takes_over_from_one_that_died(world: World) -> None:
    """Registering settles what a dead workflow left, too."""
    model = world.model(1)
    update = world.update(model, 1, [[9.0]])
    world.connector.register_model_updates_for_aggregation([update])
    world.clock.pass_lease()
    other = world.process()
    other.register_model_updates_for_aggregation([update])
    aggregate = other.post_new_model_aggregate(model, None, [[9.0]])
    other.register_model_update_used_in_aggregate([update], aggregate)
    assert world.states(update) == [("COMPLETE", 1)]


def test_a_round_makes_one_aggregate(world: World) -> None:
    """A workflow that begins anew after it has posted cannot count the same updates again."""
    model, updates, aggregate = posted_round(world)
    with pytest.raises(LeaseLost):
        world.process().post_new_model_aggregate(model, aggregate, [1.5])
    world.connector.register_model_update_used_in_aggregate(updates, aggregate)
    assert world.states(*updates) == [("COMPLETE", 1), ("COMPLETE", 1)]


def test_of_two_overlapping_workflows_one_makes_the_aggregate(world: World) -> None:
    """The second is told that another is running; no client is counted twice or dropped."""
    model = world.model(2)
    updates = [world.update(model, n, [n]) for n in (1, 2)]
    other = world.process()
    seen = other.pull_model_updates_ready_for_aggregation(model, None)
    world.connector.register_model_updates_for_aggregation(updates)
    with pytest.raises(LeaseLost):
        other.register_model_updates_for_aggregation(seen)
    aggregate = world.connector.post_new_model_aggregate(model, None, [1.5])
    world.connector.register_model_update_used_in_aggregate(updates, aggregate)
    with pytest.raises(LeaseLost):
        other.register_model_updates_for_aggregation(seen)
    with pytest.raises(LeaseLost):
        other.post_new_model_aggregate(model, None, [1.5])
    assert world.states(*updates) == [("COMPLETE", 1), ("COMPLETE", 1)]


def test_a_failing_hook_does_not_take_back_an_aggregate(world: World) -> None:
    """A workflow that fails after it has posted has used its updates: they are not ready again."""
    model, updates, _ = posted_round(world)
    with pytest.raises(ValueError, match="aggregate"):
        hook(world.connector, model.id, False)
    world.clock.pass_lease()
    assert run_round(world.process(), model.id).status is Status.WAITING
    assert world.states(*updates) == [("COMPLETE", 1), ("COMPLETE", 1)]


def own_round(world: World) -> tuple[Any, list[Any]]:
    """A model, and its updates, which a round of the function has claimed."""
    model = world.model(2)
    updates = [world.update(model, n, [float(n)]) for n in (1, 2)]
    assert isinstance(world.process().claim_round(model.id), Claim)
    return model, updates


@pytest.mark.parametrize("is_successful", [True, False])
def test_a_hook_does_not_settle_the_updates_of_another_round(
    world: World, is_successful: bool
) -> None:
    """While a round of the function runs, a workflow's hook changes none of its updates."""
    model, updates = own_round(world)
    with pytest.raises((LeaseLost, ValueError)):
        hook(world.connector, model.id, is_successful)
    assert world.states(*updates) == [("RUNNING", None), ("RUNNING", None)]


def test_a_workflow_does_not_use_the_updates_of_another_round(world: World) -> None:
    """Updates that a round of the function holds cannot be said to be in some other aggregate."""
    model = world.model(2)
    aggregate = world.connector.post_new_model_aggregate(model, None, [1.5])
    updates = [world.update(model, n, [float(n)]) for n in (1, 2)]
    world.process().claim_round(model.id)
    with pytest.raises(LeaseLost):
        world.connector.register_model_update_used_in_aggregate(updates, aggregate)
    assert world.states(*updates) == [("RUNNING", None), ("RUNNING", None)]


def test_a_workflow_neither_registers_nor_posts_while_another_round_runs(world: World) -> None:
    """The round that runs makes the next aggregate, and no workflow gets in its way."""
    model, updates = own_round(world)
    with pytest.raises(LeaseLost):
        world.connector.register_model_updates_for_aggregation(updates)
    with pytest.raises(LeaseLost):
        world.connector.post_new_model_aggregate(model, None, [1.0])
    assert world.connector.pull_latest_model_aggregate(model) is None


def test_a_workflow_that_wakes_up_late_changes_nothing(world: World) -> None:
    """After its lease its updates went to the function's round; what it has computed is refused."""
    model = world.model(1)
    update = world.update(model, 1, [9.0])
    world.connector.register_model_updates_for_aggregation([update])
    world.clock.pass_lease()
    other = world.process()
    answer = run_round(other, model.id)
    assert answer.status is Status.PUBLISHED
    with pytest.raises(LeaseLost):
        world.connector.post_new_model_aggregate(model, None, [9.0])
    with pytest.raises(ValueError, match="aggregate"):
        world.connector.register_model_updates_use_in_aggregation_failed([update])
    assert world.states(update) == [("COMPLETE", 1)]
