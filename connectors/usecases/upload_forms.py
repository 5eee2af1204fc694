"""Sign forms with which a client uploads updates and scores without credentials."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from django.conf import settings

from aggregation.errors import Conflict
from connectors.intake.scores import MAX_SCORE_BYTES
from connectors.storage.keys import SCORES, UPDATES
from connectors.storage.presigning import MAX_MINUTES_IN_A_FUNCTION, Signer
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


def sign_forms(
    model: FederatedModel,
    client: Client,
    *,
    updates: int,
    scores: bool,
    minutes: int,
    max_bytes: int,
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
    minutes, max_bytes : int
        How long they are valid, and the largest update.

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
    forms = [
        signer.post(
            # The client completes the name. With a fixed key, a form that is used again would replace
            # the update before.
            f"{UPDATES}{place}/{uuid.uuid4().hex}-${{filename}}",
            max_bytes=max_bytes,
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
    return {
        "x-amz-meta-num-examples": "1",
        "x-amz-meta-base-aggregate": str(latest) if latest else "",
        "x-amz-meta-update-kind": model.update_kind,
    }
