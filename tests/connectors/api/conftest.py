"""Fixtures of the API's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture
def fresh_services() -> Iterator[None]:
    """Let a test begin with an environment that remembers nothing, and forget what it has read."""
    from connectors import application

    application.api_services.cache_clear()
    yield
    application.api_services.cache_clear()
