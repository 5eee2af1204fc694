"""`clients/<client>.json`: the documents by which the API authenticates clients without the database.

Each change of a client's row or its memberships gives its credentials a higher version. The document has
the version that it shows, and is never replaced by an older one: a slow writer cannot let a client in again
that was revoked meanwhile. A document that could not be written is written by the next sweep.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import dataclass
from functools import reduce
from itertools import groupby
from operator import itemgetter, or_

from django.db.models import F, Q

from aggregation.errors import ObjectMissing, TemporarilyUnavailable, UpdateRejected
from connectors.errors import translate_database_errors
from connectors.publication.replacement import replace_document
from connectors.storage.keys import credentials_key
from connectors.storage.port import Objects, read_small
from models_app.models import Client

#: Documents that one call writes: no statement has more than 1,000 parameters.
MAX_DOCUMENTS = 400

#: A document has a hash and the ids of a client's models.
MAX_BYTES = 1 << 20

#: The clients whose documents are out of date.
PENDING = Q(credentials_version__gt=F("credentials_written"))


def sha256(text: str) -> str:
    """Return the SHA-256 of a secret or a token, in hexadecimal digits."""
    # A stranger's text may contain halves of surrogate pairs.
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


@dataclass(frozen=True)
class Credentials:
    """What the document of a client says."""

    client_id: uuid.UUID
    name: str
    secret_hash: str
    models: tuple[int, ...]
    version: int

    def document(self) -> bytes:
        """Return the document."""
        shown = {"secret_hash": self.secret_hash, "models": self.models, "version": self.version}
        return json.dumps(shown).encode()


def write_credentials(objects: Objects, chosen: Q = PENDING) -> list[Credentials]:
    """Write the documents of some clients; by default, of all whose document is out of date.

    Two statements.

    Raises
    ------
    TemporarilyUnavailable
        If a document could not be written: a later call, at the latest the sweep's, writes it.
    """
    with translate_database_errors():
        found = _read(chosen)
        for each in found:
            _write(objects, each)
        if found:
            shown = [Q(pk=each.client_id, credentials_version=each.version) for each in found]
            # A row that has changed meanwhile stays out of date.
            rows = Client.objects.filter(reduce(or_, shown))
            rows.update(credentials_written=F("credentials_version"))
    return found


def _write(objects: Objects, credentials: Credentials) -> None:
    """Write a document, unless a newer one is there."""
    key = credentials_key(credentials.client_id)

    def attempt() -> None:
        version, etag = _written_version(objects, key)
        if not version >= credentials.version > 0:
            objects.replace(key, credentials.document(), etag=etag)

    replace_document(key, attempt)


def _written_version(objects: Objects, key: str) -> tuple[int, str]:
    """Return the version and the ETag of the document that is there; 0 if there is none."""
    try:
        body, etag = read_small(objects, key, max_bytes=MAX_BYTES)
        return int(json.loads(body)["version"]), etag
    except ObjectMissing:
        return 0, ""
    except UpdateRejected as error:  # It was replaced while it was read.
        raise TemporarilyUnavailable(f"{key}: {error}") from error


def _read(chosen: Q) -> list[Credentials]:
    """Read what the documents of clients say, in one statement."""
    first = Client.objects.filter(chosen).order_by("pk").values("pk")[:MAX_DOCUMENTS]
    rows = (
        Client.objects.filter(pk__in=first)
        .order_by("pk", "federated_models")
        .values_list(
            *("pk", "name", "secret_hash", "paused", "credentials_version", "federated_models")
        )
    )
    found = []
    for (pk, name, secret_hash, paused, version), own in groupby(
        rows, key=itemgetter(0, 1, 2, 3, 4)
    ):
        usable = "" if paused else secret_hash
        models = tuple(row[5] for row in own if row[5] is not None) if usable else ()
        found.append(Credentials(pk, name, usable, models, version))
    return found
