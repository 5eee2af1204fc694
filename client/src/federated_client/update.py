"""An update, from what a client trained to what is sent."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ._core.formats import format_of
from ._core.layout import TensorLayout
from .checks import check_base, check_file, check_size
from .differences import difference_file
from .errors import BadWeights
from .pointer import Latest
from .sources import layout_of_object
from .storage import Storage


@dataclass(frozen=True, kw_only=True)
class Update:
    """An update before it is checked and sent.

    Parameters
    ----------
    body : binary file
    name : str
        Its extension is the format.
    are_differences : bool
        Whether the tensors are differences from the base, rather than trained weights.
    """

    body: BinaryIO
    name: str
    are_differences: bool


@dataclass(frozen=True, kw_only=True)
class PreparedUpdate:
    """An update that the aggregator accepts.

    Parameters
    ----------
    body : binary file
    suffix : str
        Of the object's name.
    kind : {'weights', 'differences'}
    max_num_examples : int or None
        It counts at most this many examples.
    """

    body: BinaryIO
    suffix: str
    kind: str
    max_num_examples: int | None


@contextmanager
def prepare(
    storage: Storage,
    lookup: Callable[[], Latest | None],
    base: Latest | None,
    layout: TensorLayout | None,
    update: Update,
) -> Iterator[PreparedUpdate]:
    """Check an update as the aggregator does, and turn weights into differences where the model has them.

    Parameters
    ----------
    storage : Storage
    lookup : callable
        Returns the latest weights of the model, or None.
    base : Latest or None
        What the update was trained from.
    layout : TensorLayout or None
        The layout of the base, if it was fetched.
    update : Update

    Raises
    ------
    BadWeights
        If the aggregator would reject it.
    """
    latest, layout = _check(storage, lookup, base, layout, update)
    kind = latest.update_kind if latest else "weights"
    if update.are_differences and kind == "weights":
        raise BadWeights("update-kind is 'differences', and updates of this model are 'weights'")
    body = update.body
    try:
        if kind == "differences" and not update.are_differences:
            body = _difference(storage, base, update)
            check_file(body, update.name, layout)
        check_size(body.seek(0, os.SEEK_END), latest)
        suffix = Path(update.name).suffix.lower()
        most = latest.max_num_examples if latest else None
        yield PreparedUpdate(body=body, suffix=suffix, kind=kind, max_num_examples=most)
    finally:
        if body is not update.body:
            body.close()


def _check(
    storage: Storage,
    lookup: Callable[[], Latest | None],
    base: Latest | None,
    layout: TensorLayout | None,
    update: Update,
) -> tuple[Latest | None, TensorLayout | None]:
    """Check an update as it is; return what is known of its model: the pointer and the layout."""
    if layout is None:  # Invalid for any model: refused without a request to storage.
        check_file(update.body, update.name, None, any_size=True)
    latest = lookup() or base
    check_base(base, latest)
    if layout is None and latest is not None:
        layout = layout_of_object(storage, latest.key, latest.etag)
    check_file(update.body, update.name, layout)
    return latest, layout


def _difference(storage: Storage, base: Latest | None, update: Update) -> BinaryIO:
    """Subtract the base, which is downloaded again: the caller may have trained in its arrays."""
    if base is None:
        raise BadWeights(
            "the model takes differences from the weights that were trained further: fetch them first"
        )
    with tempfile.TemporaryDirectory(prefix="federated-client-") as folder:
        path = Path(folder) / f"base{Path(base.key).suffix}"
        storage.download(base.key, path, etag=base.etag)
        return difference_file(update.body, format_of(update.name), path)
