"""An update, from what a client trained to what is sent."""

from __future__ import annotations

import logging
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ._core.formats import only_differences
from ._core.layout import TensorLayout
from ._core.policies import DEFAULT, TensorPolicies
from .checks import check_base, check_file, check_size
from .compression import compressed_file
from .differences import difference_file
from .errors import BadWeights
from .personal import without_personal
from .pointer import Latest
from .private import Masking, check_privacy, masked_file
from .sources import layout_of_object
from .storage import Storage
from .weights import FORMAT, Arrays

logger = logging.getLogger(__name__)


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
    compression : {'', 'int8', 'topk'}
        Empty for none.
    residual : dict of str to array
        What compression left out so far.
    masking : Masking or None
        What a masked update says of itself; None if the update is not masked.
    """

    body: BinaryIO
    name: str
    are_differences: bool
    compression: str
    residual: Arrays
    masking: Masking | None = None


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
    policies : TensorPolicies
        Of the model's tensors.
    residual : dict of str to array
        What compression left out, if the update arrives.
    """

    body: BinaryIO
    suffix: str
    kind: str
    max_num_examples: int | None
    policies: TensorPolicies
    residual: Arrays


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
    latest, layout = _model_of(storage, lookup, base, layout, update)
    secure = check_privacy(update.masking, latest)
    policies = latest.policies if latest else DEFAULT
    expected = policies.expected_layout(layout)
    kind = latest.update_kind if latest else "weights"
    with without_personal(update.body, update.name, policies) as body, ExitStack() as stack:
        check_file(body, update.name, expected)
        _check_kind(update, kind)
        if kind == "differences" and not update.are_differences:
            difference = _difference(storage, base, body, update.name, policies)
            body = stack.enter_context(difference)
            check_file(body, update.name, expected)
        name, residual = update.name, update.residual
        if update.compression:
            body, residual = compressed_file(update.compression, body, name, expected, residual)
            stack.enter_context(body)
            name = f"update.{FORMAT}"
            check_file(body, name, expected, compressed=True)
        if secure and update.masking and latest and expected:
            body = masked_file(body, name, expected, latest, secure, update.masking)
            stack.enter_context(body)
            name = f"update.{FORMAT}"
        check_size(body.seek(0, os.SEEK_END), latest)
        yield PreparedUpdate(
            body=body,
            suffix=Path(name).suffix.lower(),
            kind=kind,
            max_num_examples=latest.max_num_examples if latest else None,
            policies=policies,
            residual=residual,
        )


def _check_kind(update: Update, kind: str) -> None:
    if kind != "weights":
        return
    if update.are_differences:
        raise BadWeights("update-kind is 'differences', and updates of this model are 'weights'")
    if update.compression:
        raise BadWeights(only_differences(update.compression))


def _model_of(
    storage: Storage,
    lookup: Callable[[], Latest | None],
    base: Latest | None,
    layout: TensorLayout | None,
    update: Update,
) -> tuple[Latest | None, TensorLayout | None]:
    """Return what is known of an update's model: the pointer and the layout."""
    if layout is None:  # Invalid for any model: refused without a request to storage.
        check_file(update.body, update.name, None, any_size=True)
    latest = lookup() or base
    check_base(base, latest)
    if layout is None and latest is not None:
        layout = layout_of_object(storage, latest.key, latest.etag)
    return latest, layout


def _difference(
    storage: Storage, base: Latest | None, body: BinaryIO, name: str, policies: TensorPolicies
) -> BinaryIO:
    """Subtract the base, which is downloaded again: the caller may have trained in its arrays."""
    if base is None:
        raise BadWeights(
            "the model takes differences from the weights that were trained further: fetch them first"
        )
    with tempfile.TemporaryDirectory(prefix="federated-client-") as folder:
        path = Path(folder) / f"base{Path(base.key).suffix}"
        storage.download(base.key, path, etag=base.etag)
        return difference_file(body, name, path, policies)


def warn_if_capped(update: PreparedUpdate, num_examples: int) -> None:
    """Log that an update counts fewer examples than it states."""
    if update.max_num_examples and num_examples > update.max_num_examples:
        logger.warning(
            "the update counts %d examples, not %d: the model's max_num_examples",
            update.max_num_examples,
            num_examples,
        )


def new_name(update: PreparedUpdate, base: Latest | None) -> str:
    """Return a name of an object that no other update has, so that none overwrites another."""
    number = base.number + 1 if base else 1
    return f"round-{number:06d}-{uuid.uuid4().hex[:12]}{update.suffix}"


def metadata_of(
    update: PreparedUpdate, base: Latest | None, stated: Mapping[str, int]
) -> dict[str, str]:
    """Return the metadata of an update's object, of which the given numbers are part."""
    metadata = {name: str(count) for name, count in stated.items()}
    metadata["update-kind"] = update.kind
    if base and base.aggregate_id is not None:
        metadata["base-aggregate"] = str(base.aggregate_id)
    return metadata
