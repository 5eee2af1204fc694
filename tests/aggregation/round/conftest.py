"""Fixtures for tests of rounds on the in-memory twin of the connector."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.connectors.workflow.backends import TwinWorld

#: Bytes of a part of a result, so small that a small model has several.
PART_BYTES = 64


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the parts of results small."""
    monkeypatch.setattr("aggregation.engine.ranges.PART_BYTES", PART_BYTES)


@pytest.fixture
def world() -> TwinWorld:
    """Return the twin, in which models, clients and updates are made."""
    from tests.connectors.workflow.backends import TwinWorld  # Django is set up by now.

    return TwinWorld()
