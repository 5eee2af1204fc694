"""Personal tensors: those that a client does not send, and puts back into the weights it fetches."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ._core.errors import AggregationError
from ._core.formats import format_of
from ._core.layout import TensorLayout
from ._core.policies import Policy, TensorPolicies
from ._core.weights import Weights
from .arguments import open_file
from .errors import BadWeights
from .storage import complete_file
from .weights import Arrays, opened, write_tensors


def personal_names(policies: TensorPolicies, layout: TensorLayout) -> tuple[str, ...]:
    """Return the names of the tensors that clients do not send."""
    return policies.names_of(Policy.EXCLUDE, layout) if policies.needs_parent else ()


def personal_arrays(policies: TensorPolicies, weights: Arrays) -> Arrays:
    """Return copies of the tensors that clients do not send."""
    if not policies.needs_parent:
        return {}
    return {
        name: array.copy()
        for name, array in weights.items()
        if policies.of(name, array.dtype) is Policy.EXCLUDE
    }


@contextmanager
def without_personal(file: BinaryIO, name: str, policies: TensorPolicies) -> Iterator[BinaryIO]:
    """Give a file of weights without the tensors that are not sent: a temporary one if it has some.

    Parameters
    ----------
    file : binary file
        Its position changes.
    name : str
        Its extension is the format. A JSON list has no names, and is given as it is.
    policies : TensorPolicies

    Raises
    ------
    BadWeights
        If the file cannot be read.
    """
    if format_of(name) == "json" or not policies.needs_parent:
        yield file
        return
    with _opened(file, name) as weights:
        personal = personal_names(policies, weights.layout)
        sent = [t.name for t in weights.layout.tensors if t.name not in personal]
        if not personal:
            yield file
            return
        with tempfile.TemporaryFile() as rest:
            write_tensors(rest, format_of(name), [(weights, name) for name in sent])
            yield rest


def put_back(target: Path, own: Path, policies: TensorPolicies) -> None:
    """Replace the personal tensors in a file of fetched weights by those of a client's own file.

    Raises
    ------
    BadWeights
        If one of the files cannot be read.
    """
    with (
        target.open("rb") as fetched,
        open_file(own) as mine,
        _opened(fetched, target.name) as weights,
        _opened(mine, own.name) as personal,
    ):
        names = set(personal_names(policies, weights.layout)) & personal.layout.by_name.keys()
        if not names:
            return
        chosen = [
            (personal if tensor.name in names else weights, tensor.name)
            for tensor in weights.layout.tensors
        ]
        with complete_file(target) as file:
            write_tensors(file, format_of(target.name), chosen)


@contextmanager
def _opened(file: BinaryIO, name: str) -> Iterator[Weights]:
    try:
        with opened(file, name) as weights:
            yield weights
    except AggregationError as error:
        raise BadWeights(f"{name}: {error}") from error
