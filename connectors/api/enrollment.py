"""Enrollment: a one-time token from the operator becomes a client with a secret of its own."""

from __future__ import annotations

from http import HTTPStatus

from django.core.exceptions import ValidationError
from django.db import IntegrityError
from django.db.models import Q
from django.db.models.functions import Now

from connectors.api.credentials import Authenticator, Caller
from connectors.api.problems import Problem, invalid
from connectors.errors import translate_database_errors
from connectors.publication.credentials import Credentials, sha256, write_credentials
from connectors.storage.port import Objects
from models_app.models import Client, next_version


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
    _check_name(name)
    invited = Q(invite_hash=sha256(token))
    unused = Client.objects.filter(invited, secret_hash="", invite_expires_on__gt=Now())
    with translate_database_errors():
        try:
            unused.update(
                name=name,
                secret_hash=secret_hash,
                paused=False,
                credentials_version=next_version(),
            )
        except IntegrityError as error:
            raise Problem(
                HTTPStatus.CONFLICT,
                "name-taken",
                f"another client has the name {name!r}: choose another",
            ) from error
    # Whether it enrolled now or before: repeating the request must not undo what an operator did since.
    enrolled = write_credentials(objects, invited & Q(secret_hash=secret_hash))
    if not enrolled:
        raise Problem(
            HTTPStatus.FORBIDDEN,
            "invitation-invalid",
            "the token is unknown, was used with another secret, or has expired: ask the operator "
            "for a new one",
        )
    if not enrolled[0].secret_hash:
        raise Problem(
            HTTPStatus.FORBIDDEN, "paused", "the client is paused: ask the operator to resume it"
        )
    return enrolled[0]


def rotate(
    objects: Objects, authenticator: Authenticator, caller: Caller, secret_hash: str
) -> None:
    """Replace a client's secret by the one with another hash.

    Raises
    ------
    Problem
        If the secret was replaced or revoked meanwhile.
    """
    own = Client.objects.filter(pk=caller.client_id, paused=False)
    with translate_database_errors():
        changed = own.filter(secret_hash__in=[caller.secret_hash, secret_hash]).update(
            secret_hash=secret_hash, credentials_version=next_version()
        )
    authenticator.forget(caller.client_id)
    if not changed:
        raise Problem(
            HTTPStatus.CONFLICT, "secret-changed", "the secret was replaced or revoked meanwhile"
        )
    write_credentials(objects, Q(pk=caller.client_id))


def _check_name(name: str) -> None:
    try:
        Client._meta.get_field("name").run_validators(name)
    except ValidationError as error:
        raise invalid(f"name: {' '.join(error.messages)}") from error
