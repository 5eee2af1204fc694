"""Tests of the embedded PostgreSQL."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import dj_database_url
import psycopg
import pytest

from local.postgres import EmbeddedPostgres, embedded_postgres


def test_data_survive_an_outage_but_not_the_end() -> None:
    """A stopped server refuses connections and keeps its data; closing deletes them."""
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


def test_outage_breaks_connections() -> None:
    """A connection that was open when the server stopped cannot be used afterwards."""
    with embedded_postgres() as server, psycopg.connect(server.url) as connection:
        server.stop()
        server.start()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")


def test_url_is_understood_by_django(postgres: EmbeddedPostgres) -> None:
    """dj-database-url, which settings.py uses, parses the URL."""
    config = dj_database_url.parse(postgres.url)
    options = {**config.get("OPTIONS", {})}
    with psycopg.connect(dbname=config["NAME"], user=config["USER"], **options) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
