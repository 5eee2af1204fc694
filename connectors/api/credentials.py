"""Clients' secrets: a secret is known to its client only; the aggregator keeps its SHA-256.

A secret has 256 random bits, so that a fast hash is enough. A client is authenticated by a document in the
bucket, ``clients/<client>.json``, which follows the client's row (`connectors.publication.credentials`).
"""

from __future__ import annotations

import hmac
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus

from connectors.api.problems import Problem
from connectors.publication.credentials import sha256
from connectors.storage.keys import credentials_key
from connectors.storage.port import Objects, read_json

#: Seconds for which an environment trusts what it has read: a revoked client is out after them.
CACHE_SECONDS = 30

#: Seconds after which a document is read again for a secret that it does not match: the secret may have
#: been replaced in another environment.
RECHECK_SECONDS = 1

#: Clients that an environment remembers.
CACHE_CLIENTS = 10_000

#: What the secret of a client that does not exist is compared with, so that it takes the same time.
_NOBODY = "0" * 64


@dataclass(frozen=True)
class Caller:
    """A client that was authenticated.

    Parameters
    ----------
    client_id : UUID
    secret_hash : str
    models : frozenset of int
        Ids of the models it is a member of.
    """

    client_id: uuid.UUID
    secret_hash: str
    models: frozenset[int]


@dataclass
class Authenticator:
    """Authenticates clients by their documents, which it keeps for `CACHE_SECONDS`.

    Parameters
    ----------
    objects : Objects
    clock : callable
        Returns seconds.
    """

    objects: Objects
    clock: Callable[[], float] = time.monotonic
    _known: dict[uuid.UUID, tuple[float, Caller | None]] = field(default_factory=dict)

    def authenticate(self, authorization: str | None) -> Caller:
        """Return the client of an ``Authorization`` header: ``Bearer <client id>.<secret>``.

        Raises
        ------
        Problem
            401; it does not say whether there is such a client.
        """
        client_id, secret = _parse(authorization)
        secret_hash = sha256(secret)
        for max_age in (CACHE_SECONDS, RECHECK_SECONDS):
            caller = self._find(client_id, max_age)
            expected = caller.secret_hash if caller else _NOBODY
            if hmac.compare_digest(secret_hash, expected) and caller:
                return caller
        raise _unauthorized("the client's id or its secret is wrong, or it was revoked")

    def forget(self, client_id: uuid.UUID) -> None:
        """Read a client's document again when it is needed next."""
        self._known.pop(client_id, None)

    def _find(self, client_id: uuid.UUID, max_age: float) -> Caller | None:
        known = self._known.get(client_id)
        if known and self.clock() - known[0] < max_age:
            return known[1]
        if len(self._known) >= CACHE_CLIENTS:
            self._known.clear()
        caller = _read_credentials(self.objects, client_id)
        self._known[client_id] = self.clock(), caller
        return caller


def _parse(authorization: str | None) -> tuple[uuid.UUID, str]:
    scheme, _, token = (authorization or "").partition(" ")
    name, _, secret = token.strip().partition(".")
    try:
        client_id = uuid.UUID(name)
    except ValueError:
        client_id = None
    if scheme.lower() != "bearer" or client_id is None or not secret:
        raise _unauthorized("expected the header Authorization: Bearer <client id>.<secret>")
    return client_id, secret


def _unauthorized(detail: str) -> Problem:
    return Problem(HTTPStatus.UNAUTHORIZED, "unauthorized", detail)


def _read_credentials(objects: Objects, client_id: uuid.UUID) -> Caller | None:
    document = read_json(objects, credentials_key(client_id))
    if not document or not document["secret_hash"]:
        return None
    return Caller(client_id, document["secret_hash"], frozenset(document["models"]))
