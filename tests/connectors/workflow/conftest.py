"""Connectors of workflows, as a fixture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.connectors.workflow.backends import DjangoWorld


@pytest.fixture
def world(django_world: DjangoWorld) -> DjangoWorld:
    """Connectors of workflows on SQLite and PostgreSQL."""
    return django_world
