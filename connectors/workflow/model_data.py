"""The model-data connector: updates and aggregates in Django's default storage."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from django.conf import settings as django_settings
from django.core.files.base import File
from django.core.files.storage import default_storage
from django.core.files.uploadedfile import SimpleUploadedFile
from numpy.typing import NDArray

from aggregation.errors import UpdateRejected, quoted
from aggregation.formats import Spool, encoder_for, format_of, open_weights
from aggregation.layout import DTYPE_NAMES, Tensor, TensorLayout
from aggregation.opening import Opener, open_consistent
from aggregation.policies import TensorPolicies
from aggregation.sources import BytesSource
from aggregation.weights import Weights, read_tensors
from connectors.storage.keys import aggregate_key
from connectors.storage.port import stored_layout
from connectors.storage.weights import WeightStore, objects_in
from connectors.workflow.base import BaseModelDataConnector, Settings
from models_app.models import ModelUpdate


class UnstorableResult(UpdateRejected, ValueError):
    """The result of a workflow has a value that JSON cannot represent, such as NaN."""


class DjangoModelDataConnector(BaseModelDataConnector):
    """Weights in memory, read from and written to Django's default storage: a bucket or a directory.

    Attributes
    ----------
    objects : Objects
        Of the storage.
    weights : WeightStore

    Raises
    ------
    TypeError
        If the storage is neither S3 nor a directory.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        # The storage creates a client per thread, which takes longer than a small round. All readers
        # therefore share the client of the thread that creates the connector.
        self.objects = objects_in(default_storage)
        self.weights = WeightStore(self.objects)

    def load(
        self, updates: Sequence[ModelUpdate], parent_key: str | None, policies: TensorPolicies
    ) -> tuple[list[ModelUpdate], dict[int, str]]:
        """Read updates into memory, for workflows that run a round step by step.

        Parameters
        ----------
        updates : sequence of ModelUpdate
        parent_key : str, optional
            Key of the weights that the result succeeds, whose layout the updates must have; without it,
            the layout that most of the updates have. Tensors that clients do not send are the parent's.
        policies : TensorPolicies

        Returns
        -------
        loaded : list of ModelUpdate
            Copies whose ``data`` is a list of arrays, one a layer, in the same order for all.
        rejected : dict of int to str
            The reasons why the other updates cannot be used, by their ids.
        """
        layout = stored_layout(self.objects, parent_key) if parent_key else None
        expected_layout = policies.expected_layout(layout)
        with Spool(django_settings.SPOOL_BYTES) as spool:
            openers = {update.pk: self._opener(update) for update in updates}
            opened, rejected = open_consistent(
                openers, expected_layout, django_settings.READ_THREADS, spool
            )
            layouts = [expected_layout, *(weights.layout for weights in opened.values())]
            order = next((layout for layout in layouts if layout), None)
            kept: dict[str, NDArray[Any]] = {}
            if parent_key and expected_layout and expected_layout.optional:
                parent = read_tensors(self.weights.open_own(parent_key, spool))
                kept = {name: parent[name] for name in expected_layout.optional}
            loaded = []
            for update in updates:
                if update.pk in opened:
                    twin = copy.copy(update)
                    # The field's descriptor takes any value; a list is what a workflow averages.
                    twin.data = _layers(opened[update.pk], order, kept)
                    loaded.append(twin)
        return loaded, rejected

    def _opener(self, update: ModelUpdate) -> Opener:
        return lambda expected_layout, spool: self.weights.open_update(
            update, expected_layout=expected_layout, spool=spool
        )

    def store_result(
        self,
        file: File[Any],
        parent_key: str | None,
        update: ModelUpdate | None,
        model_id: int,
        number: int,
    ) -> str:
        """Store a result that a workflow computed, in the format and dtype of its model.

        The result must fit in memory, as it did in the workflow's.

        Parameters
        ----------
        file : File
            The extension of its name names the format.
        parent_key : str, optional
            Key of the weights that the result succeeds.
        update : ModelUpdate, optional
            One of the round's, whose layout the result must have if there is no parent.
        model_id, number : int
            Of the round.

        Returns
        -------
        str
            The key of the stored object.

        Raises
        ------
        UpdateRejected
            If the result is not laid out as the model is, or is not finite.
        InvalidWeights
            If the parent cannot be read.
        """
        with Spool() as spool:
            model = None
            if parent_key:
                model = self.weights.open_own(parent_key, spool)
            elif update:
                model = self.weights.open_update(update, spool=spool)
            arrays, extension = _read_result(file, model, spool)
        kind = model.format if model else extension
        key = aggregate_key(model_id, number, kind)
        sink = self.objects.sink(key, None)
        sink.write_part(1, encode_arrays(arrays, kind), last=True)
        sink.complete()
        return key

    def prep_model_data_for_storage(
        self, data: Sequence[Any] | Mapping[str, Any]
    ) -> SimpleUploadedFile:
        """Return a result as an uploaded file: a mapping as safetensors, a list of layers as JSON.

        Raises
        ------
        UnstorableResult
            If a layer is not numeric or not finite.
        """
        if isinstance(data, Mapping):
            arrays = {str(name): np.asarray(array) for name, array in data.items()}
            return SimpleUploadedFile("aggregate.safetensors", encode_arrays(arrays, "safetensors"))
        try:
            layers = [np.asarray(layer).tolist() for layer in data]
            text = json.dumps(layers, allow_nan=False)
        except (TypeError, ValueError, OverflowError) as error:
            raise UnstorableResult(f"the result cannot be stored: {error}") from error
        return SimpleUploadedFile("aggregate.json", text.encode(), "application/json")


def _layers(
    weights: Weights, order: TensorLayout | None, kept: Mapping[str, NDArray[Any]]
) -> list[NDArray[Any]]:
    """Return the tensors of a weights object in the given order, with the values of those it keeps."""
    arrays = {**read_tensors(weights), **kept}
    return [arrays[tensor.name] for tensor in (order or weights.layout).tensors]


def _read_result(
    file: File[Any], model: Weights | None, spool: Spool
) -> tuple[dict[str, NDArray[Any]], str]:
    """Return the tensors of a result, in the model's order and by its names, and its format."""
    extension = format_of(str(file.name))
    file.seek(0)
    try:
        weights = open_weights(
            BytesSource(file.read()),
            extension,
            expected_layout=_result_layout(model, extension),
            spool=spool,
            trusted=True,
        )
        arrays = read_tensors(weights)
    except (UpdateRejected, ValueError, OverflowError) as error:
        raise UpdateRejected(f"the result does not fit the model: {error}") from error
    for name, array in arrays.items():
        if not np.isfinite(array.astype(np.float64)).all():
            raise UpdateRejected(f"the result is not finite in tensor {quoted(name)}")
    if model is None:
        return arrays, extension
    names = [tensor.name for tensor in model.layout.tensors]
    if weights.layout.is_numbered:
        return dict(zip(names, arrays.values(), strict=True)), extension
    return {name: arrays[name] for name in names}, extension


def _result_layout(model: Weights | None, extension: str) -> TensorLayout | None:
    """Return how the result of a workflow must be laid out.

    A list of layers is in the model's order, since `load` gave the workflow the updates in that order.
    """
    if model is None:
        return None
    return TensorLayout.of_layers(model.layout.tensors) if extension == "json" else model.layout


def encode_arrays(
    arrays: Mapping[str, NDArray[Any]], format: str, metadata: Mapping[str, str] | None = None
) -> bytes:
    """Return arrays encoded in memory as a weights object of a format."""
    tensors = []
    for name, array in arrays.items():
        if array.dtype not in DTYPE_NAMES:
            known = ", ".join(str(dtype) for dtype in DTYPE_NAMES)
            raise UpdateRejected(f"tensor {name!r} has dtype {array.dtype}; known are {known}")
        tensors.append(Tensor(name, array.dtype, array.shape))
    layout = TensorLayout(tuple(tensors))
    encoder = encoder_for(format, layout, metadata)
    pieces: list[bytes | memoryview] = [encoder.header()]
    for tensor, start, array in zip(tensors, layout.starts, arrays.values(), strict=False):
        if tensor.size:
            flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            pieces += encoder.encode(layout.bytes_before(start), flat.data)
    return b"".join([*pieces, encoder.footer()])
