"""The model-data connector: updates and aggregates in Django's default storage."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from django.conf import settings as django_settings
from django.core.files.base import File
from django.core.files.storage import FileSystemStorage, default_storage
from django.core.files.uploadedfile import SimpleUploadedFile
from numpy.typing import NDArray

from aggregation.errors import UpdateRejected, quoted
from aggregation.formats import Spool, encoder_for, format_of, open_weights
from aggregation.layout import DTYPE_NAMES, Tensor, TensorLayout
from aggregation.opening import Opener, open_consistent
from aggregation.sources import BytesSource
from aggregation.weights import Weights, read_tensors
from connectors.storage.filesystem import FileObjects
from connectors.storage.keys import aggregate_key
from connectors.storage.port import Objects, stored_layout
from connectors.workflow.base import BaseModelDataConnector, Settings
from models_app.models import ModelUpdate


class DjangoModelDataConnector(BaseModelDataConnector):
    """Reads and writes through Django's default storage: a bucket by django-storages, or a directory.

    Weights are read by ranges and written part by part, which Django's file interface does not know:
    for that the storage's own client is used, with the storage's own configuration.

    Attributes
    ----------
    objects : Objects
        The storage's.

    Raises
    ------
    TypeError
        If the storage is neither S3 nor a directory.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        # Here and not where they are first asked for, which is in a reader's thread: the storage
        # makes another client in each thread, which takes longer than a small round.
        self.objects = _objects_of(default_storage)

    def open(
        self,
        key: str,
        *,
        size: int | None = None,
        etag: str = "",
        version: str = "",
        expected_layout: TensorLayout | None = None,
        spool: Spool | None,
        trusted: bool = False,
    ) -> Weights:
        """Open a weights object; its extension tells the format.

        Parameters
        ----------
        key : str
        size, etag, version
            As they were when the object was first seen; size and ETag are asked of storage where they
            are not known.
        expected_layout : TensorLayout, optional
            The model's, for formats that do not tell dtypes.
        spool : Spool or None
        trusted : bool
            Whether the object is no client's (see `open_weights`).

        Raises
        ------
        NeedsSpool
            If it cannot be read where it is, and there is no spool.
        UpdateRejected
            If the object is missing, replaced, or not a well-formed weights object.
        """
        if size is None or not etag:
            seen = self.objects.stat(key, etag=etag, version=version)
            size, etag = seen.size, seen.etag
        source = self.objects.source(key, size=size, etag=etag, version=version)
        return open_weights(
            source, format_of(key), expected_layout=expected_layout, spool=spool, trusted=trusted
        )

    def layout(self, key: str) -> TensorLayout:
        """Return the layout of weights of our own."""
        return stored_layout(self.objects, key)

    def open_update(
        self,
        update: ModelUpdate,
        *,
        expected_layout: TensorLayout | None = None,
        spool: Spool | None,
    ) -> Weights:
        """Open the object of an update, which must be the one seen at the door."""
        key = str(update.data.name)
        return self.open(
            key,
            size=update.size,
            etag=update.etag,
            version=update.version_id,
            expected_layout=expected_layout,
            spool=spool,
        )

    def load(
        self, updates: Sequence[ModelUpdate], expected_layout: TensorLayout | None
    ) -> tuple[list[ModelUpdate], dict[int, str]]:
        """Updates in memory, as workflows that run a round step by step want them.

        Parameters
        ----------
        updates : sequence of ModelUpdate
        expected_layout : TensorLayout, optional
            The model's; without one, the layout that most of the updates have.

        Returns
        -------
        loaded : list of ModelUpdate
            Copies whose ``data`` is a list of arrays, one a layer, in the same order for all.
        rejected : dict of int to str
            Why others cannot be used, by their ids.
        """
        with Spool(django_settings.SPOOL_BYTES) as spool:
            openers = {update.pk: self._opener(update) for update in updates}
            opened, rejected = open_consistent(
                openers, expected_layout, django_settings.READ_THREADS, spool
            )
            layouts = [expected_layout, *(weights.layout for weights in opened.values())]
            order = next((layout for layout in layouts if layout), None)
            loaded = []
            for update in updates:
                if update.pk in opened:
                    twin = copy.copy(update)
                    # The field's descriptor takes any value; a list is what a workflow averages.
                    twin.data = _layers(opened[update.pk], order)
                    loaded.append(twin)
        return loaded, rejected

    def _opener(self, update: ModelUpdate) -> Opener:
        return lambda expected_layout, spool: self.open_update(
            update, expected_layout=expected_layout, spool=spool
        )

    def store_result(
        self, file: File[Any], model_location: str | None, model_id: int, number: int
    ) -> str:
        """Store a result that a workflow computed, in the format and dtype of its model.

        For results that fit in memory, as the workflow that made them had them.

        Parameters
        ----------
        file : File
            Its name tells the format.
        model_location : str, optional
            An object that is laid out as the model is.
        model_id, number : int
            Of the round.

        Returns
        -------
        str
            Where it is.

        Raises
        ------
        UpdateRejected
            If the result is not laid out as the model is, or is not finite.
        """
        with Spool() as spool:
            model = None
            if model_location:
                model = self.open(model_location, spool=spool, trusted=True)
            file.seek(0)
            source = BytesSource(file.read())
            extension = format_of(str(file.name))
            try:
                weights = open_weights(
                    source,
                    extension,
                    expected_layout=_result_layout(model, extension),
                    spool=spool,
                    trusted=True,
                )
            except UpdateRejected as error:
                raise UpdateRejected(f"the result does not fit the model: {error}") from error
            arrays = _checked(weights, model)
        kind = model or weights
        key = aggregate_key(model_id, number, kind.format)
        sink = self.objects.sink(key, None)
        sink.write_part(1, encoded(arrays, kind.format), last=True)
        sink.complete()
        return key

    def prep_model_data_for_storage(
        self, data: Sequence[Any] | Mapping[str, Any]
    ) -> SimpleUploadedFile:
        """A result as an uploaded file: a mapping as safetensors, a list of layers as JSON."""
        if isinstance(data, Mapping):
            arrays = {str(name): np.asarray(array) for name, array in data.items()}
            return SimpleUploadedFile("aggregate.safetensors", encoded(arrays, "safetensors"))
        layers = [np.asarray(layer).tolist() for layer in data]
        text = json.dumps(layers, allow_nan=False)
        return SimpleUploadedFile("aggregate.json", text.encode(), "application/json")


def _layers(weights: Weights, order: TensorLayout | None) -> list[NDArray[Any]]:
    """Return the tensors of a weights object in the given order."""
    arrays = read_tensors(weights)
    return [arrays[tensor.name] for tensor in (order or weights.layout).tensors]


def _checked(weights: Weights, model: Weights | None) -> dict[str, NDArray[Any]]:
    """The tensors of a result, in the model's order and by its names, if they are finite."""
    arrays = read_tensors(weights)
    for name, array in arrays.items():
        if not np.isfinite(array.astype(np.float64)).all():
            raise UpdateRejected(f"the result is not finite in tensor {quoted(name)}")
    if model is None:
        return arrays
    names = [tensor.name for tensor in model.layout.tensors]
    if weights.layout.is_numbered:
        return dict(zip(names, arrays.values(), strict=True))
    return {name: arrays[name] for name in names}


def _result_layout(model: Weights | None, format: str) -> TensorLayout | None:
    """Return how the result of a workflow must be laid out.

    A list of layers is in the model's order, since `load` gave the workflow the updates in that order.
    """
    if model is None:
        return None
    return TensorLayout.of_layers(model.layout.tensors) if format == "json" else model.layout


def _objects_of(storage: Any) -> Objects:
    if isinstance(storage, FileSystemStorage):
        return FileObjects(storage.location)
    if not hasattr(storage, "bucket"):
        raise TypeError(
            "DjangoModelDataConnector reads S3Storage and FileSystemStorage, not "
            f"{storage.__class__.__name__}"
        )
    from connectors.storage.s3 import S3Objects

    return S3Objects(
        storage.connection.meta.client, storage.bucket_name, storage.get_object_parameters("")
    )


def encoded(
    arrays: Mapping[str, NDArray[Any]], format: str, metadata: Mapping[str, str] | None = None
) -> bytes:
    """Arrays as a weights object of that format, in memory."""
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
