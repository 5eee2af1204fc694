"""Fixtures for the tests of storage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from connectors.storage.s3 import S3Objects


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry without pauses."""
    monkeypatch.setattr("connectors.storage.retries.FIRST_PAUSE_SECONDS", 0)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let moto accept parts of any size."""
    monkeypatch.setattr("moto.s3.models.S3_UPLOAD_PART_MIN_SIZE", 1)


@pytest.fixture
def objects(shared_cloud: Any) -> S3Objects:
    # Imported here because conftest modules are loaded before Django is set up.
    from connectors.storage.s3 import S3Objects

    return S3Objects(shared_cloud.client("s3"), shared_cloud.bucket)
