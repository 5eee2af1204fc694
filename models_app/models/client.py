"""The participants."""

from __future__ import annotations

import uuid

from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Q

#: Long enough for "Department of Radiology, University Hospital of ..." and short enough for a table.
MAX_CLIENT_NAME = 100


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
    created_on = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["name"],
                condition=~Q(name=""),
                name="client_name_is_unique",
                violation_error_message="Another client has this name.",
            )
        ]

    def __str__(self) -> str:
        return self.name or str(self.uuid)
