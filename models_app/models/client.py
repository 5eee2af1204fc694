"""The participants."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable
from typing import Any

from django.core.exceptions import ValidationError
from django.db import models, transaction
from django.db.models import F, Q, Value
from django.db.models.expressions import Combinable
from django.db.models.functions import Greatest

#: Long enough for "Department of Radiology, University Hospital of ..." and short enough for a table.
MAX_CLIENT_NAME = 100

#: No statement has more than 1,000 parameters.
MARKED_AT_ONCE = 500


def validate_client_name(name: str) -> None:
    """Check that a name can stand for a client on a command line and in a table.

    Raises
    ------
    ValidationError
        If it is not printable, begins or ends with a space, or could be taken for an id.
    """
    if not name.isprintable() or name != name.strip():
        raise ValidationError("expected printable characters without spaces at the ends")
    try:
        uuid.UUID(name)
    except ValueError:
        return
    raise ValidationError("a name must not look like an id (a UUID)")


class Client(models.Model):
    """One participant."""

    uuid = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(
        max_length=MAX_CLIENT_NAME,
        blank=True,
        validators=[validate_client_name],
        help_text="Shown instead of the id, and accepted by every command; unique.",
    )
    paused = models.BooleanField(
        default=False, help_text="Uploads are rejected, and no round waits for this client."
    )
    invite_hash = models.CharField(
        max_length=64, blank=True, editable=False, help_text="SHA-256 of its one-time token."
    )
    invite_expires_on = models.DateTimeField(null=True, blank=True, editable=False)
    secret_hash = models.CharField(
        max_length=64,
        blank=True,
        editable=False,
        help_text="SHA-256 of its secret; empty: it has none, or it was revoked.",
    )
    credentials_version = models.PositiveBigIntegerField(
        default=0,
        editable=False,
        help_text="Grows with each change of what the document by which it is authenticated says.",
    )
    credentials_written = models.PositiveBigIntegerField(
        default=0, editable=False, help_text="The version that the document has."
    )
    created_on = models.DateTimeField(auto_now_add=True)

    class Meta:
        indexes = [
            # "Clients whose credentials are out of date."
            models.Index(
                fields=["uuid"],
                condition=Q(credentials_version__gt=F("credentials_written")),
                name="clients_with_credentials",
            ),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["invite_hash"], condition=~Q(invite_hash=""), name="one_client_per_token"
            ),
            models.UniqueConstraint(
                fields=["name"],
                condition=~Q(name=""),
                name="client_name_is_unique",
                violation_error_message="Another client has this name.",
            ),
        ]

    @property
    def state(self) -> str:
        """The state in a word: ``invited`` until the client has enrolled, ``paused`` or ``active``."""
        if self.paused:
            return "invited" if self.invite_hash and not self.secret_hash else "paused"
        return "active"

    def __str__(self) -> str:
        return self.name or str(self.uuid)

    def save(self, *args: Any, **kwargs: Any) -> None:
        with transaction.atomic():
            super().save(*args, **kwargs)
            if self.secret_hash:
                mark_credentials([self.pk])


def next_version() -> Combinable:
    """Return the version of a client's credentials after a change.

    It follows the clock, so that a database that was restored from a backup has higher versions than the
    documents that were written before.
    """
    return Greatest(F("credentials_version") + 1, Value(time.time_ns() // 1000))


def mark_credentials(client_ids: Iterable[uuid.UUID]) -> None:
    """Mark the documents by which clients are authenticated as out of date, if they have any."""
    ids = list(client_ids)
    for start in range(0, len(ids), MARKED_AT_ONCE):
        chosen = Client.objects.filter(pk__in=ids[start : start + MARKED_AT_ONCE])
        chosen.exclude(secret_hash="").update(credentials_version=next_version())
