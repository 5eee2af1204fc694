"""The model-data connector with several Django storages and all formats."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from django.test import override_settings

from aggregation.errors import UpdateRejected
from aggregation.formats.limits import TRUSTED, Limits
from aggregation.policies import DEFAULT
from aggregation.round import Status, run_round
from connectors import DjangoModelDataConnector, application
from connectors.storage.port import stored_layout
from connectors.usecases.verify import verify
from connectors.workflow.model_data import encode_arrays
from models_app.models import FederatedModel, ModelUpdate
from tests import factories
from tests.aggregation.formats.compressed_updates import compressed, sparse_update
from tests.connectors.workflow.backends import decoded
from tests.factories import SMALL, client_id, filled, make_model, ready_update
from tests.untyped import default_storage

STATIC = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}


def storage(backend: str, **options: Any) -> Any:
    """Return settings with another default storage."""
    chosen = {"BACKEND": backend, "OPTIONS": options}
    return override_settings(STORAGES={"default": chosen, "staticfiles": STATIC})


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """Use a directory as the default storage of Django."""
    with storage("django.core.files.storage.FileSystemStorage", location=str(tmp_path)):
        yield tmp_path


@pytest.mark.usefixtures("database")
def test_rounds_run_on_a_directory(directory: Path) -> None:
    """On a directory, rounds read updates from files, and store aggregates as files."""
    model = make_model(2)
    for number in (1, 2):
        for client in (1, 2):
            key = f"updates/{model.pk}/{client_id(client)}/{number}.safetensors"
            path = directory / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(safetensors.numpy.save(filled(float(number * client))))
            ModelUpdate.objects.create(federated_model=model, client_id=client_id(client), data=key)
        answer = run_round(application.round_connector(), model.pk)
        assert answer.status is Status.PUBLISHED
        aggregate = model.aggregates.get(number=number)
        stored = safetensors.numpy.load_file(directory / str(aggregate.result.name))
        np.testing.assert_array_equal(stored["w"], filled(1.5 * number)["w"])
        with aggregate.result.open() as file:
            assert safetensors.numpy.load(file.read()).keys() == {"w", "b"}


@pytest.mark.usefixtures("database")
def test_a_workflow_runs_on_a_directory(directory: Path) -> None:
    """On a directory, a workflow posts its result as a file."""
    model = make_model(1)
    aggregate = application.workflow_connector().post_new_model_aggregate(model, None, [[1.0]])
    assert json.loads((directory / str(aggregate.result.name)).read_text()) == [[1.0]]


def test_a_storage_of_another_kind_is_refused() -> None:
    """A storage without ranges and parts is refused when the connector is created."""
    with (
        storage("django.core.files.storage.InMemoryStorage"),
        pytest.raises(TypeError, match="InMemoryStorage"),
    ):
        DjangoModelDataConnector()


@pytest.mark.usefixtures("database", "shared_cloud")
def test_results_are_stored_with_the_options_of_the_storage() -> None:
    """Object parameters of django-storages are also applied to aggregates."""
    with storage(
        "storages.backends.s3.S3Storage",
        bucket_name="federation",
        object_parameters={"ServerSideEncryption": "AES256", "CacheControl": "max-age=5"},
    ):
        model = make_model(1)
        ready_update(model, 1, filled(1.0))
        run_round(application.round_connector(), model.pk)
        client = default_storage.connection.meta.client
        head = client.head_object(Bucket="federation", Key=model.aggregates.get().result.name)
    assert (head["ServerSideEncryption"], head["CacheControl"]) == ("AES256", "max-age=5")


@pytest.mark.usefixtures("database", "shared_cloud")
class TestUnpacking:
    """Compressed updates, with disk space for one of them."""

    TENSORS = {"w": np.zeros(1000, np.float32)}
    ROOM = 6000

    def update(self, model: FederatedModel, client: int, *, compressed: bool) -> ModelUpdate:
        file = io.BytesIO()
        tensors = filled(float(client), self.TENSORS)
        (np.savez_compressed if compressed else np.savez)(file, **tensors)
        return ready_update(model, client, file.getvalue(), suffix="npz")

    def test_a_round_rejects_an_update_that_does_not_fit(self) -> None:
        """An update that exceeds the disk space is rejected with a fix, and the round publishes."""
        model = make_model(10)
        updates = [self.update(model, n, compressed=n in (3, 7)) for n in range(1, 11)]
        with override_settings(SPOOL_BYTES=self.ROOM):
            answer = run_round(application.round_connector(), model.pk)
        assert (answer.status, answer.updates_used) == (Status.PUBLISHED, 9)
        updates[6].refresh_from_db()
        assert "store it uncompressed" in updates[6].rejection_reason
        expected = np.mean([n for n in range(1, 11) if n != 7])
        key = str(model.aggregates.get().result.name)
        stored = decoded(factories.get(key), key)["w"]
        np.testing.assert_array_equal(stored, np.full(1000, expected, np.float32))

    def test_a_workflow_has_the_same_limit_of_disk_space(self) -> None:
        """A workflow rejects updates by the configured space, not by the free space."""
        model = make_model(2)
        updates = [self.update(model, n, compressed=True) for n in (1, 2)]
        with override_settings(SPOOL_BYTES=self.ROOM):
            loaded, rejected = DjangoModelDataConnector().load(updates, None, DEFAULT)
        assert [update.pk for update in loaded] == [updates[0].pk]
        assert list(rejected) == [updates[1].pk]


@pytest.mark.usefixtures("database", "shared_cloud")
def test_an_aggregate_may_be_longer_than_any_update(monkeypatch: pytest.MonkeyPatch) -> None:
    """The size limit of updates does not apply to aggregates, wherever they are read."""
    monkeypatch.setattr(
        "aggregation.formats.limits_for",
        lambda layout, trusted: TRUSTED if trusted else Limits(json_bytes=1000),
    )
    model = make_model(3)
    connector = application.round_connector()
    for number in (1, 2):
        for client, value in enumerate((0.1, 0.2, 0.4), 1):
            ready_update(model, client, json.dumps([[value] * 100]).encode(), suffix="json")
        answer = run_round(connector, model.pk)
        assert (answer.status, answer.updates_used) == (Status.PUBLISHED, 3)
        aggregate = model.aggregates.get(number=number)
        assert aggregate.result.size > 1000
        assert verify(application.weights(), aggregate)
    key = str(aggregate.result.name)
    assert stored_layout(application.objects(), key).tensors[0].shape == (100,)
    model_data = DjangoModelDataConnector()
    file = model_data.prep_model_data_for_storage([np.full(100, 0.1 + 0.2)])
    assert model_data.store_result(file, key, None, model.pk, 3).endswith(".json")


@pytest.mark.parametrize("format", ["safetensors", "npz", "json"])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i1", "i8", "u4"])
def test_encoded_data_is_readable_by_the_library_of_the_format(format: str, dtype: str) -> None:
    """Scalars, empty tensors and every memory layout survive encoding."""
    arrays: dict[str, Any] = {
        "matrix": np.asfortranarray(np.arange(6).reshape(2, 3).astype(dtype)),
        "strided": np.arange(10).astype(dtype)[::3],
        "scalar": np.asarray(7, dtype),
        "empty": np.zeros((0, 2), dtype),
    }
    found = decoded(encode_arrays(arrays, format), f"x.{format}")
    if format == "json":
        assert found == [array.tolist() for array in arrays.values()]
        return
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_bfloat16_is_kept() -> None:
    """A tensor in bfloat16, which numpy lacks, is written as bfloat16."""
    array = np.asarray([1.5, -2.0], ml_dtypes.bfloat16)
    ((name, found),) = safetensors.deserialize(  # type: ignore[no-untyped-call]
        encode_arrays({"w": array}, "safetensors")
    )
    assert (name, found["dtype"], found["shape"]) == ("w", "BF16", [2])
    assert found["data"] == array.tobytes()


@pytest.mark.parametrize("array", [np.zeros(1, complex), np.array([None])])
def test_an_unsupported_dtype_is_refused(array: Any) -> None:
    """The error names the unsupported dtype and the supported ones."""
    with pytest.raises(UpdateRejected, match=re.escape(f"'w' has dtype {array.dtype}; known are")):
        encode_arrays({"w": array}, "safetensors")


def test_a_prepared_result_is_a_file(directory: Path) -> None:
    """A prepared result can be read repeatedly, like an uploaded file."""
    file = DjangoModelDataConnector().prep_model_data_for_storage(SMALL)
    with io.BytesIO(file.read()) as copy:
        assert safetensors.numpy.load(copy.read()).keys() == {"w", "b"}
    assert (file.name, bool(file.size)) == ("aggregate.safetensors", True)


@pytest.mark.usefixtures("database", "cloud")
def test_excluded_tensors_of_a_workflow_are_those_of_the_parent() -> None:
    """A workflow gets the parent's values of the tensors that clients do not send."""
    model = make_model(2, initial=filled(7.0), tensor_policies=[["b", "exclude"]])
    ready_update(model, 1, {"w": filled(1.0)["w"]})
    ready_update(model, 2, filled(2.0))
    connector = application.workflow_connector()
    updates = connector.pull_model_updates_ready_for_aggregation(model, None)
    found = connector.pull_model_updates_data(updates)
    by_shape = [{layer.shape: float(layer.flat[0]) for layer in each.data} for each in found]
    assert by_shape == [{(2, 3): 1, (3,): 7}, {(2, 3): 2, (3,): 7}]


@pytest.mark.usefixtures("database", "cloud")
@pytest.mark.parametrize("compress", [compressed, sparse_update])
def test_compressed_updates_are_loaded_and_verified(compress: Any) -> None:
    """A workflow loads their elements, and an aggregate that was made of them can be verified."""
    model = make_model(1, initial=filled(1.0), update_kind="differences")
    update = ready_update(model, 1, compress(filled(127.0)))
    assert model.current_artifact
    parent = str(model.current_artifact.values.name)
    (loaded,), rejected = DjangoModelDataConnector().load([update], parent, DEFAULT)
    assert not rejected
    assert all((layer == 127).all() for layer in loaded.data)
    assert run_round(application.round_connector(), model.pk).status is Status.PUBLISHED
    aggregate = model.aggregates.get()
    key = str(aggregate.result.name)
    assert (decoded(factories.get(key), key)["w"] == 128).all()
    assert verify(application.weights(), aggregate)
