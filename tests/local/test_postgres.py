"""The embedded PostgreSQL."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import dj_database_url
import psycopg
import pytest

from local.postgres import EmbeddedPostgres, embedded_postgres


def test_data_survives_an_outage_and_nothing_survives_the_end() -> None:
    """While stopped it refuses connections; started again it has its data under the same URL; closed,
    its folder is gone."""
    with embedded_postgres() as server:
        with psycopg.connect(server.url) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 7 AS value")
        server.stop()
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(server.url)
        url = server.url
        server.start()
        assert server.url == url
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT value FROM kept").fetchone() == (7,)
        folder = Path(parse_qs(urlsplit(url).query)["host"][0])
        assert folder.exists()
    assert not folder.exists()


def test_a_connection_is_broken_by_an_outage() -> None:
    """A connection that was open when the server stopped is of no use afterwards."""
    with embedded_postgres() as server, psycopg.connect(server.url) as connection:
        server.stop()
        server.start()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")


def test_its_url_is_one_that_django_understands(postgres: EmbeddedPostgres) -> None:
    """The URL goes through dj-database-url, as settings.py reads it."""
    config = dj_database_url.parse(postgres.url)
    options = {**config.get("OPTIONS", {})}
    with psycopg.connect(dbname=config["NAME"], user=config["USER"], **options) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
