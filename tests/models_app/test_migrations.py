"""Migrations lead to the models as they are, and back."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.core.management import call_command
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from tests.conftest import using_database


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_no_migration_is_missing(database: str) -> None:
    """What the models say is what the migrations make."""
    said = io.StringIO()
    call_command("makemigrations", check=True, dry_run=True, stdout=said)
    assert said.getvalue().strip() == "No changes detected"


@pytest.mark.usefixtures("database")
def test_a_migrated_database_is_at_the_newest_structure() -> None:
    """Nothing is left to apply, on either database, and every table is there."""
    executor = MigrationExecutor(connection)
    assert executor.migration_plan(executor.loader.graph.leaf_nodes()) == []
    tables = {model._meta.db_table for model in apps.get_app_config("models_app").get_models()}
    assert tables <= set(connection.introspection.table_names())


def test_migrations_can_be_taken_back(tmp_path: Path) -> None:
    """To nothing, and forward again: an operator can undo a deployment."""
    with using_database(f"sqlite:///{tmp_path / 'empty.sqlite3'}"):
        for target in (None, "zero", None):
            arguments: list[Any] = ["models_app", target] if target else []
            call_command("migrate", *arguments, verbosity=0)
            tables = connection.introspection.table_names()
            assert any(name.startswith("models_app_") for name in tables) is (target is None)
