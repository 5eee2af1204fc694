"""Weights objects in storage: updates of clients, and aggregates and initial models of our own."""

from __future__ import annotations

from typing import Any

from django.core.files.storage import FileSystemStorage, default_storage

from aggregation.errors import InvalidWeights, UpdateRejected
from aggregation.formats import Spool, format_of, open_weights
from aggregation.layout import TensorLayout
from aggregation.sources import ByteSource
from aggregation.weights import Weights
from connectors.storage.filesystem import FileObjects
from connectors.storage.port import Objects
from models_app.models import ModelUpdate


class WeightStore:
    """Opens weights objects by their keys.

    Parameters
    ----------
    objects : Objects
    """

    def __init__(self, objects: Objects) -> None:
        self.objects = objects

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
        """Open a weights object; the extension of its key names the format.

        Parameters
        ----------
        key : str
        size, etag
            As intake saw them; without them, storage is asked for what is there now.
        version : str
            Of the object in a bucket that keeps versions; empty for the current one.
        expected_layout : TensorLayout, optional
            The model's layout, for formats that do not state dtypes.
        spool : Spool or None
        trusted : bool
            Whether the object is our own rather than a client's (see `open_weights`). Only those of clients
            may be compressed; intake admits these for models of differences alone.

        Raises
        ------
        NeedsSpool
            If it must be unpacked, and there is no spool.
        UpdateRejected
            If the object is missing, was replaced, or is not a well-formed weights object.
        """
        return open_weights(
            self.source(key, size=size, etag=etag, version=version),
            format_of(key),
            expected_layout=expected_layout,
            spool=spool,
            trusted=trusted,
            compressed=not trusted,
        )

    def source(
        self, key: str, *, size: int | None = None, etag: str = "", version: str = ""
    ) -> ByteSource:
        """Return the bytes of an object, which storage is asked about unless size and ETag are known.

        Raises
        ------
        UpdateRejected
            If the object is missing or was replaced.
        """
        if size is None or not etag:
            stored = self.objects.stat(key, etag=etag, version=version)
            size, etag = stored.size, stored.etag
        return self.objects.source(key, size=size, etag=etag, version=version)

    def open_update(
        self,
        update: ModelUpdate,
        *,
        expected_layout: TensorLayout | None = None,
        spool: Spool | None,
    ) -> Weights:
        """Open the object of an update, which must be the one that intake registered."""
        return self.open(
            str(update.data.name),
            size=update.size,
            etag=update.etag,
            version=update.version_id,
            expected_layout=expected_layout,
            spool=spool,
        )

    def open_own(self, key: str, spool: Spool | None) -> Weights:
        """Open an aggregate or an initial model.

        Raises
        ------
        InvalidWeights
            If it is missing or not well-formed, which is never the fault of a client.
        """
        try:
            return self.open(key, spool=spool, trusted=True)
        except UpdateRejected as error:
            raise InvalidWeights(f"{key}, weights of our own, cannot be read: {error}") from error


def default_objects() -> Objects:
    """Return the objects of the bucket, or of the directory, that Django's default storage uses."""
    return objects_in(default_storage)


def objects_in(storage: Any) -> Objects:
    """Return the objects of one of Django's storages.

    Weights are read by ranges and written part by part, which Django's file interface cannot do, so that
    the storage's own client is used with the storage's own configuration.

    Raises
    ------
    TypeError
        If the storage is neither an S3Storage nor a FileSystemStorage.
    """
    if isinstance(storage, FileSystemStorage):
        return FileObjects(storage.location)
    if not hasattr(storage, "bucket"):
        raise TypeError(
            f"expected an S3Storage or a FileSystemStorage, got {storage.__class__.__name__}"
        )
    from connectors.storage.s3 import S3Objects

    return S3Objects(
        storage.connection.meta.client, storage.bucket_name, storage.get_object_parameters("")
    )
