"""Fixtures for the tests of intake."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from connectors.intake.updates import UpdateIntake


@pytest.fixture
def intake() -> UpdateIntake:
    """The intake of updates, over the bucket."""
    # Imported here because conftest modules are loaded before Django is set up.
    from connectors.intake.updates import UpdateIntake
    from connectors.workflow.model_data import DjangoModelDataConnector

    return UpdateIntake(DjangoModelDataConnector().objects)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry without pauses."""
    monkeypatch.setattr("connectors.storage.retries.FIRST_PAUSE_SECONDS", 0)
