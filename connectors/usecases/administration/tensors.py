"""The tensors of a model with their policies."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

from aggregation.engine.measure import measures
from aggregation.errors import Conflict, UpdateRejected
from aggregation.formats import format_of, peek_layout
from aggregation.freeze import FreezeSchedule
from aggregation.layout import DTYPE_NAMES, TensorLayout
from aggregation.policies import Policy, PolicyMap
from aggregation.sources import ByteSource
from connectors.rounds.selectors import weights_key
from connectors.storage.port import Objects, stored_layout
from models_app.models import FederatedModel
from models_app.privacy import check_masked_noise, privacy_of

Row = dict[str, Any]

#: Policies under which an aggregate never differs from its parent.
_CONSTANT = (Policy.KEEP, Policy.EXCLUDE, Policy.FROZEN)


def tensor_rows(model: FederatedModel, layout: TensorLayout, number: int = 0) -> list[Row]:
    """Return a row for each tensor of a layout, with its policy in the round after aggregate ``number``."""
    policies = model.policies(number)
    return [
        {
            "tensor": tensor.name,
            "dtype": DTYPE_NAMES[tensor.dtype],
            "shape": "x".join(map(str, tensor.shape)),
            "policy": policies.of(tensor.name, tensor.dtype).value,
        }
        for tensor in layout.tensors
    ]


def stored_tensor_rows(objects: Objects, model: FederatedModel) -> list[Row]:
    """Return the rows of a model's tensors as they are in storage; none if it has no weights yet.

    Raises
    ------
    InvalidWeights
        If its weights cannot be read.
    """
    latest = model.aggregates.order_by("-number").first()
    key = weights_key(model, latest)
    if key is None:
        return []
    return tensor_rows(model, stored_layout(objects, key), latest.number if latest else 0)


def check_policies(model: FederatedModel, layout: TensorLayout, format: str) -> None:
    """Check that the policies of a model fit its tensors.

    Raises
    ------
    Conflict
        If some round would change nothing, if its rule compares updates and no tensor is compared, if
        clients cannot leave out what they are not to send.
    RuleError
        If the model is private and a tensor would be released without noise.
    """
    rule, policies = model.rule(), model.policies()
    for number in (0, 1):
        runs = PolicyMap(layout, model.policies(number)).runs
        parent = f"after an {'odd' if number else 'even'} aggregate"
        if runs and all(run.policy in _CONSTANT for run in runs):
            raise Conflict(
                f"the policies keep, exclude or freeze every tensor {parent}: the round would change "
                "nothing"
            )
        if measures(rule) and not any(run.is_measured for run in runs):
            raise Conflict(
                f"{rule.name} compares updates by their distances, which are those of optimized tensors "
                f"of floating-point numbers, and {parent} there is none"
            )
    if model.differential_privacy is not None:
        _check_private(model, layout, format)
    if format == "json" and policies.names_of(Policy.EXCLUDE, layout):
        raise Conflict(
            "the layers of a JSON list have no names, so that clients cannot leave one out: store the "
            "initial weights as safetensors or npz to exclude tensors"
        )


def _check_private(model: FederatedModel, layout: TensorLayout, format: str) -> None:
    from aggregation.privacy.rule import (  # Private models alone need it.
        check_tensors,
        optimized_elements,
    )

    if format == "json":
        raise Conflict(
            "updates of a private model must not need unpacking, as those of a JSON model do: store the "
            "initial weights as safetensors or npz"
        )
    for number in (0, 1):
        check_tensors(PolicyMap(layout, model.policies(number)))
    if private := privacy_of(model.differential_privacy):
        elements = optimized_elements(PolicyMap(layout, model.policies()))
        check_masked_noise(model, private, elements)


def layout_of(source: ByteSource, format: str) -> TensorLayout:
    """Return the layout of initial weights that were checked before."""
    try:
        return peek_layout(source, format, trusted=True)
    except UpdateRejected as error:
        raise Conflict(f"the initial weights cannot be read: {error}") from error


def check_stored_policies(objects: Objects, model: FederatedModel) -> None:
    """Check that the policies of a model fit the weights that it has; see `check_policies`."""
    key = weights_key(model, model.aggregates.order_by("-number").first())
    if key is not None:
        check_policies(model, stored_layout(objects, key), format_of(key))


def unmatched_globs(model: FederatedModel, layout: TensorLayout) -> list[str]:
    """Return the globs of a model's policies and schedule that match no tensor of a layout."""
    globs = [glob for glob, _ in model.policies().pairs]
    schedule = FreezeSchedule.from_json(model.freeze)
    names = [tensor.name for tensor in layout.tensors]
    return [
        glob
        for glob in [*globs, *schedule.odd, *schedule.even]
        if not any(fnmatchcase(name, glob) for name in names)
    ]
