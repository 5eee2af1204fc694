"""`clients/<client>.json`: the documents by which the API authenticates clients without the database.

Each change of a client's row or its memberships that its document does not show yet adds one to
`credentials_pending`. A document that could not be written is written by the next sweep.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

from django.db.models import Q

from connectors.errors import translate_database_errors
from connectors.storage.keys import credentials_key
from connectors.storage.port import Objects
from models_app.models import Client

#: Documents that one call writes.
MAX_DOCUMENTS = 500

#: The clients whose documents are out of date.
PENDING = Q(credentials_pending__gt=0)


def sha256(text: str) -> str:
    """Return the SHA-256 of a secret or a token, in hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Credentials:
    """What the document of a client says, and the mark of its row when it was read."""

    client_id: uuid.UUID
    name: str
    secret_hash: str
    models: tuple[int, ...]
    mark: int

    def document(self) -> bytes:
        """Return the document."""
        return json.dumps({"secret_hash": self.secret_hash, "models": self.models}).encode()


def write_credentials(objects: Objects, chosen: Q = PENDING) -> list[Credentials]:
    """Write the documents of some clients; by default, of all whose document is out of date.

    Two statements, and a further one for each different mark.

    Raises
    ------
    TemporarilyUnavailable
        If a document could not be written: a later call, at the latest the sweep's, writes it.
    """
    with translate_database_errors():
        found = _read(chosen)
        for each in found:
            objects.put_json(credentials_key(each.client_id), each.document())
        for mark in {
            each.mark for each in found
        }:  # A row that has changed meanwhile keeps its mark.
            written = [each.client_id for each in found if each.mark == mark]
            rows = Client.objects.filter(pk__in=written, credentials_pending=mark)
            rows.update(credentials_pending=0)
    return found


def _read(chosen: Q) -> list[Credentials]:
    """Read what the documents of clients say, in one statement."""
    first = Client.objects.filter(chosen).order_by("pk").values("pk")[:MAX_DOCUMENTS]
    rows = (
        Client.objects.filter(pk__in=first)
        .order_by("pk", "federated_models")
        .values_list(
            *("pk", "name", "secret_hash", "paused", "credentials_pending", "federated_models")
        )
    )
    found = []
    for (pk, name, secret_hash, paused, mark), own in groupby(rows, key=itemgetter(0, 1, 2, 3, 4)):
        usable = "" if paused else secret_hash
        models = tuple(row[5] for row in own if row[5] is not None) if usable else ()
        found.append(Credentials(pk, name, usable, models, mark))
    return found
