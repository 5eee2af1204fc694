"""The worlds, as fixtures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.connectors.workflow.backends import DjangoWorld, World


@pytest.fixture(params=["twin", "sqlite", "postgres"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """A round connector and what it finds: the test runs on the twin, SQLite and PostgreSQL."""
    from tests.connectors.workflow.backends import TwinWorld

    if request.param == "twin":
        yield TwinWorld()
    else:
        yield from _django_world(request, request.param)


@pytest.fixture(params=["sqlite", "postgres"])
def django_world(request: pytest.FixtureRequest) -> Iterator[DjangoWorld]:
    """Connectors of workflows and of rounds over both databases."""
    yield from _django_world(request, request.param)


def _django_world(request: pytest.FixtureRequest, database: str) -> Iterator[DjangoWorld]:
    from tests.conftest import empty_tables, using_database
    from tests.connectors.workflow.backends import DjangoWorld

    on_sqlite = database == "sqlite"
    url = request.getfixturevalue("sqlite_url" if on_sqlite else "migrated_postgres")
    request.getfixturevalue("shared_cloud")
    with using_database(url):
        yield DjangoWorld()
        if not on_sqlite:
            empty_tables()
