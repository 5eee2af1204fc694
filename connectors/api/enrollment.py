"""Enrollment: a one-time token from the operator becomes a client with a secret of its own."""

from __future__ import annotations

import re
from http import HTTPStatus

from django.core.exceptions import ValidationError
from django.db import IntegrityError
from django.db.models import F, Q
from django.db.models.functions import Now

from connectors.api.credentials import Authenticator, Caller
from connectors.api.problems import Problem, invalid
from connectors.errors import translate_database_errors
from connectors.publication.credentials import Credentials, sha256, write_credentials
from connectors.storage.port import Objects
from models_app.models import Client
from models_app.models.client import validate_client_name

_HASH = re.compile(r"[0-9a-f]{64}")


def enroll(objects: Objects, *, token: str, name: str, secret_hash: str) -> Credentials:
    """Make the client of an invitation a member that can authenticate.

    The same request again has the same outcome. Another secret for a token that was used is refused.

    Parameters
    ----------
    objects : Objects
    token : str
        The invitation.
    name : str
        Of the client; empty for none.
    secret_hash : str
        SHA-256 of the secret that the client has generated.

    Raises
    ------
    Problem
    """
    _check_hash(secret_hash)
    _check_name(name)
    invited = Client.objects.filter(invite_hash=sha256(token))
    unused = Q(secret_hash="", invite_expires_on__gt=Now())
    with translate_database_errors():
        try:
            changed = invited.filter(unused | Q(secret_hash=secret_hash)).update(
                name=name,
                secret_hash=secret_hash,
                paused=False,
                credentials_pending=F("credentials_pending") + 1,
            )
        except IntegrityError as error:
            raise Problem(
                HTTPStatus.CONFLICT,
                "name-taken",
                f"another client has the name {name!r}: choose another",
            ) from error
        if not changed:
            raise Problem(
                HTTPStatus.FORBIDDEN,
                "invitation-invalid",
                "the token is unknown, was used with another secret, or has expired: ask the operator "
                "for a new one",
            )
    written = write_credentials(objects, Q(invite_hash=sha256(token)))
    if not written or written[0].secret_hash != secret_hash:
        raise Problem(HTTPStatus.FORBIDDEN, "revoked", "the client was revoked meanwhile")
    return written[0]


def rotate(
    objects: Objects, authenticator: Authenticator, caller: Caller, secret_hash: str
) -> None:
    """Replace a client's secret by the one with another hash.

    Raises
    ------
    Problem
        If the secret was replaced or revoked meanwhile.
    """
    _check_hash(secret_hash)
    own = Client.objects.filter(pk=caller.client_id, paused=False)
    with translate_database_errors():
        changed = own.filter(secret_hash__in=[caller.secret_hash, secret_hash]).update(
            secret_hash=secret_hash, credentials_pending=F("credentials_pending") + 1
        )
    authenticator.forget(caller.client_id)
    if not changed:
        raise Problem(
            HTTPStatus.CONFLICT, "secret-changed", "the secret was replaced or revoked meanwhile"
        )
    write_credentials(objects, Q(pk=caller.client_id))


def _check_hash(secret_hash: str) -> None:
    if not _HASH.fullmatch(secret_hash):
        raise invalid(
            "secret_hash must be the SHA-256 of the client's secret in 64 lower-case hexadecimal digits"
        )


def _check_name(name: str) -> None:
    try:
        Client._meta.get_field("name").run_validators(name)
        if name:
            validate_client_name(name)
    except ValidationError as error:
        raise invalid(f"name: {' '.join(error.messages)}") from error
