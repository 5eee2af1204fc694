"""Create federated models, change them, pause and resume them."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from django.db import transaction
from django.utils import timezone

from aggregation.errors import Conflict
from aggregation.requirements import Readiness
from aggregation.sources import ByteSource
from connectors.storage.keys import ARTIFACTS
from connectors.storage.port import copy_to_sink
from connectors.storage.weights import default_objects
from connectors.usecases.administration.clients import add_clients
from connectors.usecases.administration.tensors import (
    check_policies,
    check_stored_policies,
    layout_of,
)
from models_app.models import Client, FederatedModel, ModelArtifact, pause_changes
from models_app.scores import DECIDES_SCORES, rescore

#: The version of a model's initial weights.
INITIAL_VERSION = "initial"


def create_model(
    model: FederatedModel,
    *,
    new_clients: int = 0,
    clients: Sequence[str] = (),
    initial: tuple[ByteSource, str] | None = None,
) -> list[Client]:
    """Create a federated model with its clients and initial weights: all of it, or nothing.

    Parameters
    ----------
    model : FederatedModel
        Not saved yet.
    new_clients, clients
        As for `add_clients`.
    initial : (ByteSource, str), optional
        The initial weights and their format.

    Raises
    ------
    Conflict
        If another model has its name, if it needs initial weights and has none, or if its policies do
        not fit them.
    ValidationError
        If a field is not valid.
    """
    _check_name_is_new(model)
    model.full_clean()
    if model.update_kind == FederatedModel.UpdateKind.DIFFERENCES and initial is None:
        raise Conflict("a model that takes differences needs initial weights: give --initial")
    if model.differential_privacy is not None and initial is None:
        raise Conflict("a private model needs initial weights: give --initial")
    if initial is None and (model.policies().needs_parent or model.freeze):
        raise Conflict("excluded and frozen tensors need initial weights: give --initial")
    if initial is not None:
        check_policies(model, layout_of(*initial), initial[1])
    with transaction.atomic():
        model.save()
        members = add_clients(model, new_clients, clients)
        if initial is not None:
            model.current_artifact = _store_initial(model, *initial)
            model.save(update_fields=["current_artifact"])
    return members


def change_model(model: FederatedModel, changes: Mapping[str, Any]) -> None:
    """Change settings of a federated model; rounds that are running keep those they were claimed with.

    Parameters
    ----------
    model : FederatedModel
    changes : mapping
        Values by field; no other field is written.

    Raises
    ------
    Conflict
        If another model has the new name, or if the policies of tensors do not fit the weights.
    ValidationError
        If a field is not valid.
    """
    for field, value in changes.items():
        setattr(model, field, value)
    if "name" in changes:
        _check_name_is_new(model)
    model.full_clean(validate_unique=False)
    decisive = {
        *("tensor_policies", "freeze", "aggregator"),
        *("differential_privacy", "secure_aggregation"),
    }
    if changes.keys() & decisive and _has_policies(model):
        check_stored_policies(default_objects(), model)
    with transaction.atomic():
        model.save(update_fields=[*changes, "last_modified"])
        if DECIDES_SCORES & changes.keys():
            rescore(model)


def _has_policies(model: FederatedModel) -> bool:
    return bool(model.tensor_policies or model.freeze or model.differential_privacy)


def _check_name_is_new(model: FederatedModel) -> None:
    other = FederatedModel.objects.filter(name=model.name).exclude(pk=model.pk).first()
    if other:
        raise Conflict(f"model {other.pk} already has the name {model.name!r}: choose another")


def _store_initial(model: FederatedModel, source: ByteSource, format: str) -> ModelArtifact:
    objects = default_objects()
    key = f"{ARTIFACTS}{model.pk}/initial-{uuid.uuid4().hex}.{format}"
    stored = copy_to_sink(source, objects.sink(key, None))
    return ModelArtifact.objects.create(
        federated_model=model, values=stored, version=INITIAL_VERSION
    )


def pause_model(model: FederatedModel, reason: str) -> None:
    """Let no round of a model start until it is resumed."""
    FederatedModel.objects.filter(pk=model.pk).update(**pause_changes(reason, timezone.now()))


def resume_model(model: FederatedModel) -> None:
    """Let rounds of a model start again."""
    FederatedModel.objects.filter(pk=model.pk).update(
        allow_aggregation=True, pause_reason="", failed_rounds=0, event_pending=None
    )


def model_warnings(model: FederatedModel, members: int) -> list[str]:
    """Return what is likely to be wrong with a model's settings, a sentence each.

    Parameters
    ----------
    model : FederatedModel
    members : int
        Clients of the model; with 0, nothing is said of their number.
    """
    warnings = []
    requirement, rule = model.requirement_object(), model.rule()
    needed, name = max(
        (requirement.needed(Readiness(members=members, ready=members)), model.requirement),
        (rule.min_updates, rule.name),
    )
    if members and needed > members:
        warnings.append(
            f"no round will start yet: {name} needs {needed} updates, and the model has {members} "
            f"client{'' if members == 1 else 's'}; manage.py add_clients {model.pk} adds more"
        )
    if lacks_cap(model):
        warnings.append(
            f"{model.aggregator} weighs updates by the numbers of examples that clients claim; "
            "without a cap, each counts at most "
            f"{'the' if rule.max_hostile(members) else 'ten times the'} median of its round. "
            f"Set a cap: manage.py set_model {model.pk} --max-num-examples N"
        )
    return warnings


def lacks_cap(model: FederatedModel) -> bool:
    """Return whether clients' claims weigh in a model that does not cap them itself."""
    return model.max_num_examples is None and model.rule().weighs_by_examples
