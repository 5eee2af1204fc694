"""Sign forms with which a client uploads updates and scores without credentials."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from django.conf import settings

from aggregation.errors import Conflict
from aggregation.formats import MAX_JSON_BYTES
from connectors.intake.scores import MAX_SCORE_BYTES
from connectors.rounds.selectors import weights_key
from connectors.storage.keys import SCORES, UPDATES
from connectors.storage.presigning import MAX_MINUTES_IN_A_FUNCTION, Signer
from connectors.storage.weights import default_objects
from models_app.models import Client, FederatedModel

#: A week, the longest time that S3 accepts.
MAX_MINUTES = 7 * 24 * 60

#: The largest body that S3 accepts in a form.
MAX_FORM_BYTES = 5 << 30

MAX_FORMS = 1000


def max_minutes() -> int:
    """Return how long a form may be valid; it ends with the credentials that sign it."""
    return MAX_MINUTES_IN_A_FUNCTION if settings.FUNCTION_MEMORY_MB else MAX_MINUTES


def max_upload_bytes() -> int:
    """Return the largest update that a form may allow."""
    return min(settings.MAX_UPDATE_BYTES, MAX_FORM_BYTES)


def default_upload_bytes(model: FederatedModel) -> int:
    """Return the largest update that a form allows unless the operator says otherwise.

    A form can be used many times until it expires, each time for an object of this size. An update has
    the model's layout, so that twice the size of the model's weights is enough for every binary format;
    JSON is accepted up to `MAX_JSON_BYTES`.
    """
    key = weights_key(model, model.aggregates.order_by("-number").first())
    if key is None:
        return max_upload_bytes()
    size = default_objects().stat(key).size
    return min(max_upload_bytes(), max(2 * size, MAX_JSON_BYTES))


def sign_forms(
    model: FederatedModel,
    client: Client,
    *,
    updates: int,
    scores: bool,
    minutes: int,
    max_bytes: int | None = None,
) -> list[Mapping[str, Any]]:
    """Sign forms for a client of a model.

    Parameters
    ----------
    model : FederatedModel
    client : Client
    updates : int
        Number of forms for updates.
    scores : bool
        Whether to add a form for any number of scores.
    minutes : int
        How long they are valid.
    max_bytes : int, optional
        The largest update; `default_upload_bytes` by default.

    Raises
    ------
    Conflict
        If storage is a directory, or if the client may not upload.
    """
    if not settings.BUCKET:
        raise Conflict("forms are signed for a bucket: set BUCKET instead of STORAGE_ROOT")
    if client.paused:
        raise Conflict(f"client {client} is paused: manage.py resume_client {client} resumes it")
    if not model.clients.filter(pk=client.pk).exists():
        raise Conflict(
            f"client {client} is not a member of model {model.pk}: manage.py add_clients adds it"
        )
    signer, place, seconds = Signer(), f"{model.pk}/{client.pk}", minutes * 60
    fields = _default_metadata(model)
    limit = default_upload_bytes(model) if max_bytes is None else max_bytes
    forms = [
        signer.post(
            # The client completes the name. With a fixed key, a form that is used again would replace
            # the update before.
            f"{UPDATES}{place}/{uuid.uuid4().hex}-${{filename}}",
            max_bytes=limit,
            seconds=seconds,
            fields=fields,
        )
        for _ in range(updates)
    ]
    if scores:
        key = f"{SCORES}{place}/${{filename}}"
        forms.append(signer.post(key, max_bytes=MAX_SCORE_BYTES, seconds=seconds, fields={}))
    return forms


def _default_metadata(model: FederatedModel) -> dict[str, str]:
    """Return the metadata of an update whose client sends the form unchanged.

    S3 refuses a form that lacks a field for which its policy has a condition. Unchanged, it means an update
    of one example and of the model's kind, trained from the aggregate that is the latest now. The client
    package fills in better values.
    """
    latest = model.aggregates.order_by("-number").values_list("pk", flat=True).first()
    steps = {"x-amz-meta-num-steps": ""} if model.rule().needs_steps else {}
    return {
        "x-amz-meta-num-examples": "1",
        "x-amz-meta-base-aggregate": str(latest) if latest else "",
        "x-amz-meta-update-kind": model.update_kind,
        **steps,
    }
