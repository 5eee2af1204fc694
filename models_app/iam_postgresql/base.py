"""Connect to PostgreSQL with a new IAM token as the password of each connection.

Amazon RDS User Guide, "IAM database authentication": a token is valid for fifteen minutes and only for
connecting; it is computed locally from the function's credentials, without a request. TLS is required, and
verified against RDS' certificates: otherwise an impostor could receive the token.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db.backends.postgresql.base import DatabaseWrapper as PostgresWrapper


class DatabaseWrapper(PostgresWrapper):
    """Connects with a fresh token over verified TLS."""

    def get_connection_params(self) -> dict[str, Any]:
        """Return the parameters of psycopg's connection, with a new token as the password."""
        params: dict[str, Any] = super().get_connection_params()
        missing = [name for name in ("host", "user") if not params.get(name)]
        if missing:
            raise ImproperlyConfigured(
                f"DATABASE_IAM_AUTH needs a {' and a '.join(missing)} in DATABASE_URL"
            )
        params["port"] = int(params.get("port") or 5432)
        params["password"] = self._rds.generate_db_auth_token(
            DBHostname=params["host"], Port=params["port"], DBUsername=params["user"]
        )
        params |= {"sslmode": "verify-full", "sslrootcert": settings.DATABASE_CA_BUNDLE}
        return params

    @cached_property
    def _rds(self) -> Any:
        import boto3

        return boto3.client("rds")
