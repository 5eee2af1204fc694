"""Fixtures for all tests: moto's S3 and SQS over HTTP, SQLite and PostgreSQL."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# There are no deadlines, since the time of a case depends on the machine. The examples are repeated, so
# that it passes again if it passed. To search for new examples: pytest --hypothesis-profile searching.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.register_profile("quick", deadline=None, derandomize=True, max_examples=10)
settings.register_profile("searching", deadline=None, max_examples=1000)
settings.load_profile("repeatable")

#: Records every AWS call of the suite, for the comparison with the function's policy.
pytest_plugins = ["tests.deploy.aws_calls"]

_session = ExitStack()


def pytest_configure(config: pytest.Config) -> None:
    """Start Django in the function's environment before a test module imports it."""
    from local.cloud import embedded_cloud

    cloud = _session.enter_context(embedded_cloud())
    folder = Path(_session.enter_context(tempfile.TemporaryDirectory(prefix="federation-tests-")))
    os.environ.pop("STORAGE_ROOT", None)
    os.environ.update(
        cloud.environment(),
        DATABASE_URL=f"sqlite:///{folder / 'unused.sqlite3'}",
        DJANGO_SETTINGS_MODULE="settings",
        POWERTOOLS_SERVICE_NAME="tests",
        POWERTOOLS_METRICS_NAMESPACE="tests",
        POWERTOOLS_TRACE_DISABLED="true",
    )
    config.stash[_CLOUD], config.stash[_FOLDER] = cloud, folder
    import django

    django.setup()


#: Folders whose tests run on SQLite in `make test-all` only: PostgreSQL is what is deployed, and the
#: rows that these tests check are written by code whose own tests run on both.
MAINLY_POSTGRES = ("admin", "client", "commands", "costs", "deploy", "faults", "secure")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark a test on SQLite as exhaustive if it is in such a folder and runs on PostgreSQL as well."""
    names = {item.nodeid for item in items}
    for item in items:
        folder = item.path.relative_to(item.config.rootpath).parts[1]
        twin = re.sub(r"\bsqlite\b", "postgres", item.nodeid)
        if folder in MAINLY_POSTGRES and twin != item.nodeid and twin in names:
            item.add_marker(pytest.mark.exhaustive)


def pytest_unconfigure() -> None:
    _session.close()


_CLOUD = pytest.StashKey[Any]()
_FOLDER = pytest.StashKey[Path]()


@pytest.fixture
def cloud(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The embedded cloud with an empty bucket and empty queues."""
    cloud = request.config.stash[_CLOUD]
    yield cloud
    empty_cloud(cloud)


@pytest.fixture(scope="module")
def shared_cloud(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The embedded cloud, emptied once per module, for quick tests that read their own keys only."""
    cloud = request.config.stash[_CLOUD]
    yield cloud
    empty_cloud(cloud)


def empty_cloud(cloud: Any) -> None:
    """Delete everything in the bucket and the queues.

    It is done in the memory of moto, which runs in this process: requests would take ten times as long,
    and SQS purges a queue only once a minute.
    """
    from moto.core.models import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends
    from moto.sqs.models import sqs_backends

    from local.cloud import REGION

    bucket = s3_backends[DEFAULT_ACCOUNT_ID]["aws"].buckets[cloud.bucket]
    for key in bucket.keys:
        for version in bucket.keys.getlist(key):
            if hasattr(version, "dispose"):  # A delete marker has nothing to dispose of.
                version.dispose()
    bucket.keys.clear()
    for upload in bucket.multiparts.values():
        upload.dispose()
    bucket.multiparts.clear()
    for url in (cloud.dead_letter_url, cloud.queue_url):
        queue = sqs_backends[DEFAULT_ACCOUNT_ID][REGION].get_queue(url.rsplit("/", 1)[1])
        with queue._messages_lock:
            queue._messages.clear()
            queue.pending_messages.clear()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Any]:
    """An embedded PostgreSQL."""
    from local.postgres import embedded_postgres

    with embedded_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def migrated_sqlite(request: pytest.FixtureRequest) -> Path:
    """A SQLite file with all tables and no rows."""
    from django.core.management import call_command

    path = request.config.stash[_FOLDER] / "template.sqlite3"
    with using_database(f"sqlite:///{path}"):
        call_command("migrate", verbosity=0)
    return path


@pytest.fixture(scope="session")
def migrated_postgres(postgres: Any) -> str:
    """The URL of a PostgreSQL database with all tables and no rows."""
    from django.core.management import call_command

    with using_database(postgres.url):
        call_command("migrate", verbosity=0)
    return str(postgres.url)


@pytest.fixture
def sqlite_url(migrated_sqlite: Path, tmp_path: Path) -> str:
    """The URL of an empty SQLite database."""
    path = tmp_path / "test.sqlite3"
    shutil.copyfile(migrated_sqlite, path)
    return f"sqlite:///{path}"


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> Iterator[str]:
    """An empty database for Django: the test runs on SQLite and on PostgreSQL."""
    if request.param == "sqlite":
        with using_database(request.getfixturevalue("sqlite_url")) as url:
            yield url
    else:
        with using_database(request.getfixturevalue("migrated_postgres")) as url:
            yield url
            empty_tables()


@contextmanager
def using_database(url: str) -> Iterator[str]:
    """Let Django, and the processes that a test starts, use another database."""
    import dj_database_url
    from django.db import connections

    import settings as project

    before = connections.settings["default"], os.environ["DATABASE_URL"]
    config = project.database({**dj_database_url.parse(url)})
    _switch({**before[0], "NAME": "", "OPTIONS": {}, **config})
    os.environ["DATABASE_URL"] = url
    try:
        yield url
    finally:
        _switch(before[0])
        os.environ["DATABASE_URL"] = before[1]


def _switch(config: dict[str, Any]) -> None:
    from django.db import connections

    connections["default"].close()
    connections.settings["default"] = config
    del connections["default"]


def empty_tables() -> None:
    """Delete every row, in one transaction, at the end of which foreign keys are checked.

    TRUNCATE would take fifty times as long for as few rows as these.
    """
    from django.apps import apps
    from django.db import connection, transaction

    tables = [
        connection.ops.quote_name(model._meta.db_table)
        for model in apps.get_models(include_auto_created=True)
    ]
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("; ".join(f"DELETE FROM {table}" for table in tables))
