"""Settings come from the environment; missing and wrong variables are refused by name."""

from __future__ import annotations

import os
import runpy
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from django.core.exceptions import ImproperlyConfigured

from connectors import limits

PROJECT = Path(__file__).parents[1]

#: The minimal configuration of a function.
ENOUGH = {"DATABASE_URL": "postgres://u:secret@db.example:5432/federation", "BUCKET": "federation"}


@pytest.fixture
def settings_with(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that runs the settings with only the given variables."""

    def run(**variables: str | None) -> dict[str, Any]:
        for name in list(os.environ):
            monkeypatch.delenv(name)
        for name, value in {**ENOUGH, **variables}.items():
            if value is not None:
                monkeypatch.setenv(name, value)
        return runpy.run_path(str(PROJECT / "settings.py"))

    return run


def test_a_database_and_a_bucket_are_enough(settings_with: Any) -> None:
    """Every setting except the database and the bucket has a default."""
    found = settings_with()
    database = found["DATABASES"]["default"]
    assert (database["ENGINE"], database["HOST"]) == (
        "django.db.backends.postgresql",
        "db.example",
    )
    assert found["STORAGES"]["default"]["OPTIONS"]["bucket_name"] == "federation"
    assert (found["ADMIN"], found["DEBUG"], found["SECRET_KEY"]) == (False, False, "")
    assert (found["QUEUE_URL"], found["EVENT_BUS"]) == ("", "")
    assert (found["READ_THREADS"], found["MAX_FAILED_ROUNDS"]) == (16, 3)
    assert (found["MAX_UPDATE_BYTES"], found["MEMORY_BUDGET_MB"]) == (10 << 30, 256)
    assert found["SPOOL_BYTES"] == (512 << 20) // 10 * 9
    assert found["INSTALLED_APPS"] == [
        "django.contrib.contenttypes",
        "django.contrib.auth",
        "models_app",
        "connectors",
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", None),
        ("DATABASE_URL", ""),
        ("DATABASE_URL", "nonsense"),
        ("DATABASE_URL", "mysql://u:secret@db.example/federation"),
        ("DATABASE_URL", "postgres://u:secret@db.example:port/federation"),
        ("DATABASE_IAM_AUTH", "maybe"),
        ("BUCKET", None),
        ("BUCKET", ""),
        ("BUCKET", "s3://federation"),
        ("BUCKET", "federation/updates"),
        ("BUCKET", "arn:aws:s3:::federation"),
        ("STORAGE_ROOT", "/srv/federation"),
        ("ADMIN", "maybe"),
        ("DEBUG", "2"),
        ("QUEUE_URL", "federation-events"),
        ("QUEUE_URL", "arn:aws:sqs:eu-central-1:123456789012:federation-events"),
        ("QUEUE_URL", "https://queue.example/1/x\n"),
        ("MEMORY_BUDGET_MB", "15"),
        ("MEMORY_BUDGET_MB", "1 GB"),
        ("MEMORY_BUDGET_MB", ""),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "much"),
        ("READ_THREADS", "0"),
        ("READ_THREADS", "1000"),
        ("READ_THREADS", "1.5"),
        ("MAX_UPDATE_BYTES", "0"),
        ("MAX_UPDATE_BYTES", "10GiB"),
        ("MAX_NUM_EXAMPLES", "0"),
        ("MAX_FAILED_ROUNDS", "0"),
        ("MAX_FAILED_ROUNDS", "-1"),
        ("LEASE_SECONDS", "0"),
        ("LEASE_SECONDS", "1.5"),
        ("LEASE_SECONDS", "9" * 30),
    ],
)
def test_missing_and_wrong_variables_are_refused_by_name(
    settings_with: Any, name: str, value: str | None
) -> None:
    """The message names the variable and contains no secret."""
    with pytest.raises(ImproperlyConfigured, match=name) as refused:
        settings_with(**{name: value})
    assert "secret" not in str(refused.value)


def test_all_wrong_variables_are_named_at_once(settings_with: Any) -> None:
    """One error names all missing and wrong variables."""
    with pytest.raises(ImproperlyConfigured) as refused:
        settings_with(DATABASE_URL=None, READ_THREADS="none", ADMIN="maybe")
    for name in ("DATABASE_URL", "READ_THREADS", "ADMIN"):
        assert name in str(refused.value)


#: A key of the length that Django requires.
SECRET_KEY = "abcde" * 10


@pytest.mark.parametrize("secret", [None, ""])
def test_the_admin_needs_a_secret(settings_with: Any, secret: str | None) -> None:
    """The admin has no default for the key that signs sessions."""
    with pytest.raises(ImproperlyConfigured, match="SECRET_KEY"):
        settings_with(ADMIN="true", SECRET_KEY=secret)
    found = settings_with(ADMIN="true", SECRET_KEY=SECRET_KEY)
    assert found["SECRET_KEY"] == SECRET_KEY
    assert "models_app.console.apps.ConsoleConfig" in found["INSTALLED_APPS"]


def test_the_admin_needs_its_theme(settings_with: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without django-unfold, which the function does not have, the console is refused."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImproperlyConfigured, match="pip install django-unfold"):
        settings_with(ADMIN="true", SECRET_KEY=SECRET_KEY)


@pytest.mark.parametrize("admin", ["true", "false"])
@pytest.mark.parametrize("secret", ["short", SECRET_KEY[:49], "x" * 50])
def test_a_secret_that_can_be_guessed_is_refused(
    settings_with: Any, admin: str, secret: str
) -> None:
    """A weak secret, with which anyone could sign a session, is refused."""
    with pytest.raises(ImproperlyConfigured, match="at least 50 characters"):
        settings_with(ADMIN=admin, SECRET_KEY=secret)


def test_sessions_of_the_admin_use_https_only(settings_with: Any) -> None:
    """Cookies are secure and browsers must use HTTPS, except in debug mode."""
    served = settings_with(ADMIN="true", SECRET_KEY=SECRET_KEY)
    assert (served["SESSION_COOKIE_SECURE"], served["CSRF_COOKIE_SECURE"]) == (True, True)
    assert served["SECURE_HSTS_SECONDS"] >= 365 * 24 * 3600
    debugged = settings_with(ADMIN="true", SECRET_KEY=SECRET_KEY, DEBUG="true")
    assert "SESSION_COOKIE_SECURE" not in debugged


def test_storage_is_a_bucket_or_a_directory(settings_with: Any) -> None:
    """A directory can replace the bucket."""
    found = settings_with(BUCKET=None, STORAGE_ROOT="/srv/federation")
    assert found["STORAGES"]["default"] == {
        "BACKEND": "django.core.files.storage.FileSystemStorage",
        "OPTIONS": {"location": "/srv/federation"},
    }
    assert settings_with()["STORAGES"]["default"]["OPTIONS"]["file_overwrite"] is False


def test_every_thread_has_a_connection_to_s3(settings_with: Any) -> None:
    """The pool of S3 connections has one for each thread."""
    options = settings_with(READ_THREADS="40")["STORAGES"]["default"]["OPTIONS"]
    assert options["client_config"].max_pool_connections == 44


@pytest.mark.parametrize(
    ("memory", "budget"), [("128", 64), ("512", 256), ("10240", 5120), ("60", 32)]
)
def test_the_budget_follows_the_functions_memory(
    settings_with: Any, memory: str, budget: int
) -> None:
    """The budget is a share of the memory of the function, unless it is set."""
    found = settings_with(AWS_LAMBDA_FUNCTION_MEMORY_SIZE=memory)
    assert found["MEMORY_BUDGET_MB"] == budget
    explicit = settings_with(AWS_LAMBDA_FUNCTION_MEMORY_SIZE=memory, MEMORY_BUDGET_MB="100")
    assert explicit["MEMORY_BUDGET_MB"] == 100


def test_sqlite_transactions_lock_at_their_start(settings_with: Any) -> None:
    """Writers wait at the start of a transaction instead of failing during it."""
    found = settings_with(DATABASE_URL="sqlite:////srv/federation.sqlite3")
    options = found["DATABASES"]["default"]["OPTIONS"]
    assert (options["transaction_mode"], options["timeout"]) == ("IMMEDIATE", 30)


def test_connections_are_reused_and_checked(settings_with: Any) -> None:
    """Connections are kept between invocations and checked before use."""
    database = settings_with()["DATABASES"]["default"]
    assert (database["CONN_MAX_AGE"], database["CONN_HEALTH_CHECKS"]) == (None, True)


def test_a_dead_database_host_is_detected(settings_with: Any) -> None:
    """Unacknowledged data or keepalive probes end a connection within 30 seconds."""
    options = settings_with()["DATABASES"]["default"]["OPTIONS"]
    assert options["connect_timeout"] == 10
    assert options["tcp_user_timeout"] <= 30_000
    probes = options["keepalives_interval"] * options["keepalives_count"]
    assert options["keepalives_idle"] + probes <= 30


@contextmanager
def reached_by_tcp(url: str) -> Iterator[str]:
    """Yield a TCP URL of a PostgreSQL server that listens on a Unix socket."""
    folder = parse_qs(urlsplit(url).query)["host"][0]

    def copy(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def forward() -> None:
        client, _ = listener.accept()
        with client, socket.socket(socket.AF_UNIX) as server:
            server.connect(f"{folder}/.s.PGSQL.5432")
            answers = threading.Thread(target=copy, args=(server, client))
            answers.start()
            copy(client, server)
            answers.join()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        forwarder = threading.Thread(target=forward)
        forwarder.start()
        yield f"postgres://postgres@127.0.0.1:{listener.getsockname()[1]}/postgres"
        forwarder.join()


def test_the_socket_of_a_connection_has_the_limits(
    migrated_postgres: str, settings_with: Any
) -> None:
    """The socket of a connection has the timeouts of the settings."""
    import psycopg

    options = settings_with()["DATABASES"]["default"]["OPTIONS"]
    names = ("TCP_USER_TIMEOUT", "TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT")
    with (
        reached_by_tcp(migrated_postgres) as url,
        psycopg.connect(url, **options) as connection,
        socket.socket(fileno=os.dup(connection.fileno())) as opened,
    ):
        assert opened.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        found = {
            name: opened.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in names
        }
    assert found == {
        "TCP_USER_TIMEOUT": options["tcp_user_timeout"],
        "TCP_KEEPIDLE": options["keepalives_idle"],
        "TCP_KEEPINTVL": options["keepalives_interval"],
        "TCP_KEEPCNT": options["keepalives_count"],
    }


def test_statements_of_the_functions_role_are_limited() -> None:
    """The SQL of the template limits statements of the role, since RDS Proxy rejects options."""
    template = (PROJECT / "template.yaml").read_text()
    assert f"SET statement_timeout = '{limits.DATABASE_STATEMENT_SECONDS}s'" in template


def test_options_of_the_url_are_kept(settings_with: Any) -> None:
    """Driver options in the URL of the database are kept."""
    url = ENOUGH["DATABASE_URL"] + "?sslmode=require&connect_timeout=3"
    options = settings_with(DATABASE_URL=url)["DATABASES"]["default"]["OPTIONS"]
    assert (options["sslmode"], options["connect_timeout"]) == ("require", 3)


def test_iam_authentication_is_for_postgresql(settings_with: Any) -> None:
    """IAM authentication replaces the PostgreSQL engine, and requires it and a certificate."""
    found = settings_with(DATABASE_IAM_AUTH="true")
    assert found["DATABASES"]["default"]["ENGINE"] == "models_app.iam_postgresql"
    with pytest.raises(ImproperlyConfigured, match="DATABASE_IAM_AUTH"):
        settings_with(DATABASE_IAM_AUTH="true", DATABASE_URL="sqlite:////srv/x.sqlite3")
    with pytest.raises(ImproperlyConfigured, match="DATABASE_CA_BUNDLE"):
        settings_with(DATABASE_IAM_AUTH="true", DATABASE_CA_BUNDLE="/nowhere.pem")


def manage(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command with only these environment variables."""
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=PROJECT,
        env={"PATH": os.environ["PATH"], **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_process_with_a_missing_variable_does_not_start() -> None:
    """A process with a missing variable ends at once with its name."""
    done = manage("check", DATABASE_URL=ENOUGH["DATABASE_URL"])
    assert done.returncode != 0
    assert "BUCKET" in done.stderr.splitlines()[-1]
    assert "secret" not in done.stderr


@pytest.mark.parametrize("admin", ["true", "false"])
def test_the_checks_of_django_pass(admin: str) -> None:
    """`manage.py check` reports no issue, with and without the console."""
    done = manage("check", ADMIN=admin, DATABASE_URL="sqlite:///:memory:", BUCKET="federation")
    assert (done.returncode, done.stderr) == (0, "")
    assert "no issues" in done.stdout


@pytest.mark.parametrize(
    "text", ["10737418240", "1.073741824E10", "1.073741824e+10", "10737418240.0"]
)
def test_whole_numbers_are_parsed_in_every_notation(settings_with: Any, text: str) -> None:
    """CloudFormation may write the value of a Number parameter in exponential notation."""
    assert settings_with(MAX_UPDATE_BYTES=text)["MAX_UPDATE_BYTES"] == 10737418240


@pytest.mark.parametrize("text", ["1.5", "1e400", "nan", "1e-3", ""])
def test_numbers_that_are_not_whole_are_refused(settings_with: Any, text: str) -> None:
    """A fraction, an infinite number or no number is refused by the name of its variable."""
    with pytest.raises(ImproperlyConfigured, match="MAX_UPDATE_BYTES"):
        settings_with(MAX_UPDATE_BYTES=text)
