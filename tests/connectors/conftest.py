"""The worlds, as fixtures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.connectors.workflow.backends import World


@pytest.fixture(params=["twin", "sqlite", "postgres"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """A connector and what it finds: the test runs on the twin, on SQLite and on PostgreSQL."""
    from tests.conftest import empty_tables, using_database
    from tests.connectors.workflow.backends import DjangoWorld, TwinWorld

    if request.param == "twin":
        yield TwinWorld()
        return
    on_sqlite = request.param == "sqlite"
    url = request.getfixturevalue("sqlite_url" if on_sqlite else "migrated_postgres")
    request.getfixturevalue("shared_cloud")
    with using_database(url):
        yield DjangoWorld()
        if not on_sqlite:
            empty_tables()
