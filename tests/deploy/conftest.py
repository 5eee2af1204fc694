"""The application in moto."""

from __future__ import annotations

import pytest

from tests.deploy.stack import Stack, create


@pytest.fixture(scope="package")
def stack() -> Stack:
    """Create the application with the default parameters."""
    return create()
