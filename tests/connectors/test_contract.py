"""One contract for every connector: the Django one on SQLite and PostgreSQL, and its in-memory twin."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from aggregation.errors import LostRound, UpdateRejected
from connectors import BaseAggConnector, DjangoAggConnector
from tests import factories
from tests.factories import SMALL, filled
from tests.twin import InMemoryAggConnector

PENDING, RUNNING, COMPLETE, FAILED, INVALID = range(5)


class World:
    """A connector, and the means to set up what it looks at."""

    def __init__(
        self,
        connector: Any,
        add_model: Callable[..., Any],
        add_update: Callable[..., Any],
        read: Callable[[Any], bytes],
    ) -> None:
        self.connector = connector
        self.add_model = add_model
        self.add_update = add_update
        self.read = read

    def fresh(self, update: Any) -> Any:
        """The update as it is kept now."""
        if isinstance(self.connector, InMemoryAggConnector):
            return update
        update.refresh_from_db()
        return update


def django_world() -> World:
    def add_update(model: Any, client: int, body: bytes, suffix: str, **fields: Any) -> Any:
        return factories.ready_update(model, client, body, suffix=suffix, **fields)

    settings = {"metadata_connector": {"type": "DjangoMetadataConnector"}}
    return World(
        BaseAggConnector.create("djangoaggconnector", settings),
        factories.make_model,
        add_update,
        lambda aggregate: factories.get(aggregate.result.name),
    )


def memory_world() -> World:
    connector = InMemoryAggConnector()

    def add_model(clients: int, **fields: Any) -> Any:
        return connector.add_model(
            [str(factories.client_id(n + 1)) for n in range(clients)], **fields
        )

    def add_update(model: Any, client: int, body: bytes, suffix: str, **fields: Any) -> Any:
        key = f"updates/{len(connector.objects)}.{suffix}"
        return connector.add_update(model, str(factories.client_id(client)), key, body, **fields)

    return World(connector, add_model, add_update, lambda a: connector.objects[a.result])


@pytest.fixture(params=["django on sqlite", "django on postgres", "in memory"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    if request.param == "in memory":
        yield memory_world()
        return
    from tests.conftest import _empty_tables, using_database

    on_sqlite = request.param == "django on sqlite"
    url = request.getfixturevalue("sqlite_url" if on_sqlite else "migrated_postgres")
    request.getfixturevalue("cloud")
    with using_database(url):
        yield django_world()
        if not on_sqlite:
            _empty_tables()


def as_json(layers: Any) -> bytes:
    return json.dumps(layers).encode()


def workflow(world: World, model_id: int) -> Any:
    """A round as third parties wrote it for the original interface."""
    connector = world.connector
    model = connector.pull_federated_model_w_id(model_id)
    parent = connector.pull_latest_model_aggregate(model)
    updates = connector.pull_model_updates_ready_for_aggregation(model, parent)
    if not parent:
        parent = None
    if not model or not updates:
        return None
    name, arguments = connector.pull_model_requirements(model)
    if name == "require_x_updates" and len({u.client for u in updates}) < arguments[0]:
        return None
    connector.register_model_updates_for_aggregation(updates)
    updates = connector.pull_model_updates_registered_for_aggregation(model)
    updates = connector.pull_model_updates_data(updates)
    layers = [
        np.average([update.data[layer] for update in updates], axis=0).tolist()
        for layer in range(len(updates[0].data))
    ]
    results = connector.prep_model_data_for_storage(layers)
    aggregate = connector.post_new_model_aggregate(model, parent, results)
    connector.register_model_update_used_in_aggregate(updates, aggregate)
    connector.register_model_updates_use_in_aggregation_complete(updates, True)
    return aggregate


@pytest.mark.parametrize(
    ("one", "two", "mean"),
    [
        ([[[1, 2], [3, 4]], [5]], [[[3, 4], [5, 6]], [7]], [[[2, 3], [4, 5]], [6]]),
        ([1, 2, 4], [5, 2, 3], [3, 2, 3.5]),
        ([[2], [2]], [[3], [1]], [[2.5], [1.5]]),
    ],
)
def test_a_workflow_written_for_the_original_averages_json(
    world: World, one: Any, two: Any, mean: Any
) -> None:
    """Lists of lists go in, their mean comes out as JSON, and the updates are complete."""
    model = world.add_model(2)
    updates = [world.add_update(model, n, as_json(x), "json") for n, x in ((1, one), (2, two))]
    aggregate = workflow(world, model.id)
    assert json.loads(world.read(aggregate)) == mean
    assert aggregate.parent is None
    for update in map(world.fresh, updates):
        assert (update.status, update.applied_aggregate) == (COMPLETE, aggregate)
    assert workflow(world, model.id) is None


def test_a_second_round_succeeds_the_first(world: World) -> None:
    """Each aggregate's parent is the one before it, and its number the next."""
    model = world.add_model(1)
    for number in (1, 2, 3):
        world.add_update(model, 1, as_json([[float(number)]]), "json")
        aggregate = workflow(world, model.id)
        assert aggregate.number == number
        assert world.connector.pull_latest_model_aggregate(model).id == aggregate.id
        assert (aggregate.parent.number if aggregate.parent else 0) == number - 1


def test_a_model_that_does_not_exist_is_none(world: World) -> None:
    """There is no error in asking for a model, and none in there being no aggregate yet."""
    assert world.connector.pull_federated_model_w_id(4711) is None
    assert world.connector.pull_latest_model_aggregate(world.add_model(1)) is None


def test_requirements_are_told_by_name_and_position(world: World) -> None:
    """The requirement comes as its name and a list of arguments; none as None and no arguments."""
    pull = world.connector.pull_model_requirements
    assert pull(world.add_model(1)) == [None, []]
    three = {"requirement": "require_x_updates", "requirement_args": [3]}
    assert pull(world.add_model(1, **three)) == ["require_x_updates", [3]]
    named = {"requirement": "quorum", "requirement_args": {"after_minutes": 5, "x": 2}}
    assert pull(world.add_model(1, **named)) == ["quorum", [2, 5]]


def test_pending_are_all_of_the_members_and_ready_the_newest_of_each(world: World) -> None:
    """Pending counts uploads, ready counts clients; strangers count in neither."""
    model, other = world.add_model(2), world.add_model(3)
    first = world.add_update(model, 1, as_json([1]), "json")
    newest = world.add_update(model, 1, as_json([2]), "json")
    second = world.add_update(model, 2, as_json([3]), "json")
    world.add_update(model, 3, as_json([4]), "json")
    world.add_update(other, 3, as_json([5]), "json")
    connector = world.connector
    pending = connector.pull_model_updates_pending_aggregation(model)
    ready = connector.pull_model_updates_ready_for_aggregation(model, None)
    assert {update.id for update in pending} == {first.id, newest.id, second.id}
    assert [update.id for update in ready] == [newest.id, second.id]
    assert [str(getattr(u.client, "pk", u.client)) for u in ready] == [
        str(factories.client_id(n)) for n in (1, 2)
    ]


def test_a_base_may_be_as_far_back_as_the_model_says(world: World) -> None:
    """With furthest_base_agg 1 only updates of the latest aggregate are ready, before the first those
    of the initial model; with 2, one aggregate further back."""
    for furthest, expected in ((1, [2]), (2, [1, 2]), (None, [0, 1, 2])):
        model = world.add_model(3, furthest_base_agg=furthest)
        bases: list[Any] = [None]
        for value in (1.0, 2.0):
            update = world.add_update(model, 1, as_json([value]), "json", base_aggregate=bases[-1])
            assert world.connector.pull_model_updates_ready_for_aggregation(model, bases[-1])
            bases.append(workflow(world, model.id))
            assert world.fresh(update).status == COMPLETE
        for client, base in enumerate(bases, 1):
            world.add_update(model, client, as_json([3.0]), "json", base_aggregate=base)
        ready = world.connector.pull_model_updates_ready_for_aggregation(model, bases[-1])
        found = [u.base_aggregate.number if u.base_aggregate else 0 for u in ready]
        assert found == expected


def test_registered_updates_are_running_and_nobody_elses(world: World) -> None:
    """What is registered is no longer ready, and a second workflow is told so."""
    model = world.add_model(2)
    updates = [world.add_update(model, n, as_json([n]), "json") for n in (1, 2)]
    connector = world.connector
    connector.register_model_updates_for_aggregation(updates)
    assert [world.fresh(update).status for update in updates] == [RUNNING, RUNNING]
    registered = connector.pull_model_updates_registered_for_aggregation(model)
    assert [update.id for update in registered] == [update.id for update in updates]
    assert not connector.pull_model_updates_ready_for_aggregation(model, None)
    with pytest.raises(LostRound):
        connector.register_model_updates_for_aggregation(updates)


@pytest.mark.parametrize("method", ["complete", "failed"])
def test_what_failed_is_ready_again(world: World, method: str) -> None:
    """Said to have failed, in either way, registered updates are FAILED, and ready for another round."""
    model = world.add_model(1)
    update = world.add_update(model, 1, as_json([1]), "json")
    connector = world.connector
    connector.register_model_updates_for_aggregation([update])
    if method == "complete":
        connector.register_model_updates_use_in_aggregation_complete([update], False)
    else:
        connector.register_model_updates_use_in_aggregation_failed([update])
    assert world.fresh(update).status == FAILED
    assert workflow(world, model.id) is not None
    assert world.fresh(update).status == COMPLETE


def test_what_contradicts_the_record_is_refused(world: World) -> None:
    """Complete without an aggregate would lose an update, failed with one would count it twice."""
    model = world.add_model(1)
    update = world.add_update(model, 1, as_json([1]), "json")
    connector = world.connector
    connector.register_model_updates_for_aggregation([update])
    with pytest.raises(ValueError, match="aggregate"):
        connector.register_model_updates_use_in_aggregation_complete([update], True)
    aggregate = connector.post_new_model_aggregate(model, None, [1.0])
    connector.register_model_update_used_in_aggregate([update], aggregate)
    connector.register_model_update_used_in_aggregate([update], aggregate)
    with pytest.raises(ValueError, match="aggregate"):
        connector.register_model_updates_use_in_aggregation_complete([update], False)
    assert world.fresh(update).status == COMPLETE


def test_updates_that_were_not_used_are_ready_again(world: World) -> None:
    """A workflow that leaves one of its updates out does not lose it."""
    model = world.add_model(2)
    used, left_out = (world.add_update(model, n, as_json([n]), "json") for n in (1, 2))
    connector = world.connector
    connector.register_model_updates_for_aggregation([used, left_out])
    aggregate = connector.post_new_model_aggregate(model, None, [1.0])
    connector.register_model_update_used_in_aggregate([used], aggregate)
    ready = connector.pull_model_updates_ready_for_aggregation(model, aggregate)
    assert [update.id for update in ready] == [left_out.id]


def test_the_lineage_does_not_fork(world: World) -> None:
    """An aggregate can only succeed the latest."""
    model = world.add_model(1)
    world.connector.post_new_model_aggregate(model, None, [[1.0]])
    with pytest.raises(LostRound, match="latest"):
        world.connector.post_new_model_aggregate(model, None, [[2.0]])


@pytest.mark.parametrize("format", ["safetensors", "npz", "json"])
def test_loaded_data_is_a_sequence_of_arrays(world: World, format: str) -> None:
    """Every format loads as arrays, a layer each, and the updates pulled are left as they are."""
    tensors = {"b": SMALL["b"] + 2, "w": SMALL["w"] + 1}
    archive = io.BytesIO()
    np.savez_compressed(archive, **tensors)
    bodies = {
        "safetensors": safetensors.numpy.save(tensors),
        "npz": archive.getvalue(),
        "json": as_json([tensor.tolist() for tensor in tensors.values()]),
    }
    model = world.add_model(1)
    update = world.add_update(model, 1, bodies[format], format)
    (loaded,) = world.connector.pull_model_updates_data([update])
    assert sorted(array.shape for array in loaded.data) == [(2, 3), (3,)]
    assert {float(array.sum()) for array in loaded.data} == {6.0}
    assert (loaded.id, loaded.client) == (update.id, update.client)
    assert world.connector.pull_model_updates_data([update])


def test_an_update_that_cannot_be_loaded_is_named(world: World) -> None:
    """Loading a broken update tells which one it is, and why."""
    model = world.add_model(1)
    update = world.add_update(model, 1, b"not safetensors", "safetensors")
    with pytest.raises(UpdateRejected, match=f"update {update.id}: "):
        world.connector.pull_model_updates_data([update])


def test_a_result_that_is_not_finite_is_refused(world: World) -> None:
    """NaN in a result is refused before anybody can read it."""
    with pytest.raises(ValueError, match="JSON compliant"):
        world.connector.prep_model_data_for_storage([[float("nan")]])


def test_the_database_is_migrated(world: World) -> None:
    """Migrating a database that is up to date changes nothing."""
    world.connector.update_metadata_database_arch()


@pytest.mark.usefixtures("database", "cloud")
class TestOfDjangoAlone:
    """What only a real connector has."""

    settings = {"metadata_connector": {"type": "DjangoMetadataConnector"}}

    def test_an_unknown_connector_is_refused_with_the_known(self) -> None:
        """A type that does not exist is refused with the names of those that do."""
        with pytest.raises(ValueError, match="DjangoAggConnector"):
            BaseAggConnector.create("NoSuchConnector")

    @pytest.mark.parametrize("settings", [{}, {"metadata_connector": {}}, None])
    def test_a_missing_metadata_connector_is_named(self, settings: Any) -> None:
        """Without metadata_connector in the settings there is no connector."""
        with pytest.raises(ValueError, match="metadata_connector is not specified"):
            BaseAggConnector.create("DjangoAggConnector", settings)

    def test_types_are_refused_by_name(self) -> None:
        """Unknown types of metadata and model data connectors are refused."""
        with pytest.raises(ValueError, match="DjangoMetadataConnector"):
            DjangoAggConnector({"metadata_connector": {"type": "Nope"}})
        with pytest.raises(ValueError, match="DjangoModelDataConnector"):
            DjangoAggConnector({**self.settings, "model_data_connector": {"type": "Nope"}})

    def test_the_aggregate_has_the_models_format_and_dtype(self) -> None:
        """A workflow's lists become safetensors in float32, named as the model's tensors are."""
        model = factories.make_model(2, initial=filled(0.0))
        for client, value in ((1, 1.0), (2, 2.0)):
            factories.ready_update(model, client, filled(value))
        aggregate = workflow(django_world(), model.pk)
        result = safetensors.numpy.load(factories.get(aggregate.result.name))
        assert {name: array.dtype.name for name, array in result.items()} == {
            "b": "float32",
            "w": "float32",
        }
        np.testing.assert_array_equal(result["w"], filled(1.5)["w"])

    def test_a_result_laid_out_otherwise_is_refused(self) -> None:
        """A result of other shapes than the model's is refused with what differs."""
        model = factories.make_model(1, initial=filled(0.0))
        connector = DjangoAggConnector(self.settings)
        with pytest.raises(UpdateRejected, match="does not fit the model"):
            connector.post_new_model_aggregate(model, None, [[1.0, 2.0], [3.0]])

    def test_querysets_are_taken_where_lists_are(self) -> None:
        """A workflow may pass the querysets it filters for itself."""
        model = factories.make_model(1)
        factories.ready_update(model, 1, as_json([[1.0]]), suffix="json")
        connector = DjangoAggConnector(self.settings)
        connector.register_model_updates_for_aggregation(model.model_updates.all())
        aggregate = connector.post_new_model_aggregate(model, None, [[1.0]])
        connector.register_model_update_used_in_aggregate(model.model_updates.all(), aggregate)
        connector.register_model_updates_use_in_aggregation_complete(
            model.model_updates.all(), True
        )
        assert model.model_updates.get().status == COMPLETE

    def test_a_workflow_that_died_after_posting_is_settled_once(self) -> None:
        """Killed between posting and settling, its updates are in its aggregate and nowhere else."""
        model = factories.make_model(1)
        update = factories.ready_update(model, 1, as_json([[9.0]]), suffix="json")
        dying = DjangoAggConnector(
            {
                "metadata_connector": {
                    **self.settings["metadata_connector"],
                    "settings": {"lease_seconds": -1},
                }
            }
        )
        dying.register_model_updates_for_aggregation([update])
        aggregate = dying.post_new_model_aggregate(model, None, [[9.0]])
        answer: Any = DjangoAggConnector(self.settings).claim_round(model.pk)
        assert answer.status == "waiting"
        update.refresh_from_db()
        assert (update.status, update.applied_aggregate) == (COMPLETE, aggregate)

    def test_a_workflow_that_died_before_posting_gives_its_updates_back(self) -> None:
        """Killed before an aggregate was made, nothing is complete, and the next round takes them."""
        model = factories.make_model(1)
        update = factories.ready_update(model, 1, as_json([[9.0]]), suffix="json")
        dying = DjangoAggConnector(
            {
                "metadata_connector": {
                    **self.settings["metadata_connector"],
                    "settings": {"lease_seconds": -1},
                }
            }
        )
        dying.register_model_updates_for_aggregation([update])
        claim: Any = DjangoAggConnector(self.settings).claim_round(model.pk)
        assert [each.id for each in claim.updates] == [update.pk]
