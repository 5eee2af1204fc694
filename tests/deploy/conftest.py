"""Stacks in moto, and databases to deploy to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from local.postgres import embedded_postgres
from tests.deploy.stack import Stack, create


@pytest.fixture(scope="package")
def stack() -> Stack:
    """The stack with the template's default parameters."""
    return create()


@pytest.fixture(scope="module")
def server_url() -> Iterator[str]:
    """A PostgreSQL server whose roles are no other test's."""
    with embedded_postgres() as server:
        yield server.url
