"""IAM database authentication: a fresh token for each connection, over verified TLS."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlparse

import pytest
from django.core.exceptions import ImproperlyConfigured

from models_app.iam_postgresql.base import DatabaseWrapper


def wrapper(**changes: object) -> DatabaseWrapper:
    config = {
        "NAME": "federation",
        "USER": "aggregator",
        "PASSWORD": "",
        "HOST": "db.cluster.eu-central-1.rds.amazonaws.com",
        "PORT": "5432",
        "OPTIONS": {},
        "TIME_ZONE": None,
        "CONN_MAX_AGE": None,
        **changes,
    }
    return DatabaseWrapper(config)


def test_the_password_is_a_token_for_this_host_port_and_user() -> None:
    """The password is a signed request to connect as this user, and to nothing else."""
    params = wrapper().get_connection_params()
    token = urlparse("https://" + params["password"])
    assert token.netloc == "db.cluster.eu-central-1.rds.amazonaws.com:5432"
    query = parse_qs(token.query)
    assert (query["Action"], query["DBUser"]) == (["connect"], ["aggregator"])
    assert query["X-Amz-Expires"] == ["900"]


def test_tls_is_verified_against_the_bundle() -> None:
    """The connection is refused unless the server proves with RDS' certificates who it is."""
    params = wrapper(OPTIONS={"sslmode": "disable"}).get_connection_params()
    assert params["sslmode"] == "verify-full"
    assert params["sslrootcert"].endswith("rds-global-bundle.pem")


def test_each_connection_gets_its_own_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token is made when a connection is, not kept: it is good for fifteen minutes."""
    database = wrapper()
    made = []

    def generate(**request: Any) -> str:
        made.append(request)
        return "token"

    monkeypatch.setattr(database._rds, "generate_db_auth_token", generate)
    database.get_connection_params()
    database.get_connection_params()
    assert len(made) == 2


def test_a_url_without_a_user_is_refused() -> None:
    """A missing user is named before anything is signed."""
    with pytest.raises(ImproperlyConfigured, match="user"):
        wrapper(USER="").get_connection_params()
