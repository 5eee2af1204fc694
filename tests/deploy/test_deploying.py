"""The custom resources of a deployment, on a PostgreSQL server and with the real migrations."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from local.cloud import Cloud
from local.errors import FunctionError
from local.lambda_runtime import LambdaRuntime
from tests.deploy.stack import ROOT, Stack, template

OWNER, ROW_USER, MASTER, DATABASE = "aggregator_owner", "aggregator", "master", "aggregator"

Answer = tuple[int, dict[str, str], Any]


class Endpoint:
    """An HTTP server with given answers, which records what it receives."""

    def __init__(self, answer: Callable[[str, Any], Answer]) -> None:
        self.received: list[tuple[str, Any]] = []
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                endpoint.received.append((self.path, json.loads(body or b"{}")))
                status, headers, payload = answer(*endpoint.received[-1])
                text = json.dumps(payload).encode()
                self.send_response(status)
                for name, value in (headers | {"Content-Length": str(len(text))}).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text)

            do_PUT = do_POST  # noqa: N815  http.server's name

            def log_message(self, format: str, *args: Any) -> None:
                """Tests are quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @contextmanager
    def running(self) -> Iterator[Endpoint]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()


@pytest.fixture
def cloudformation() -> Iterator[Endpoint]:
    """Start the endpoint to which the function sends its answer to CloudFormation."""
    with Endpoint(lambda _path, _body: (200, {}, {})).running() as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def deploying() -> ModuleType:
    """Load the module that the template names as the handler."""
    function = template()["Resources"]["DeployFunction"]["Properties"]
    name, _ = function["Handler"].split(".")
    spec = spec_from_file_location(name, ROOT / function["CodeUri"] / f"{name}.py")
    assert spec
    assert spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def cluster(postgres: Any) -> str:
    """Create a database like Aurora's, whose master may create roles and grant `rds_iam`."""
    with psycopg.connect(postgres.url, autocommit=True) as superuser:
        superuser.execute("CREATE ROLE rds_iam NOLOGIN")
        superuser.execute(f"CREATE ROLE {MASTER} LOGIN CREATEDB CREATEROLE")
        superuser.execute(f"GRANT rds_iam TO {MASTER} WITH ADMIN TRUE, INHERIT FALSE, SET FALSE")
        superuser.execute(f"CREATE DATABASE {DATABASE} OWNER {MASTER}")
    return str(postgres.url)


def connect(cluster: str, user: str) -> psycopg.Connection[Any]:
    """Connect as a database user."""
    return psycopg.connect(make_conninfo(cluster, user=user, dbname=DATABASE), autocommit=True)


@pytest.fixture
def data_api(cluster: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    """Start a Data API of the database, which runs statements as the master user."""

    def execute(_path: str, body: Any) -> Answer:
        try:
            with connect(cluster, MASTER) as master:
                master.execute(body["sql"])
        except psycopg.Error as error:
            return 400, {"x-amzn-errortype": "DatabaseErrorException"}, {"message": str(error)}
        return 200, {}, {"numberOfRecordsUpdated": 0}

    with Endpoint(execute).running() as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL_RDS_DATA", endpoint.url)
        yield endpoint


def ask(
    deploying: ModuleType, cloudformation: Endpoint, properties: Any, request: str = "Create"
) -> Any:
    """Send a request of CloudFormation to the function, and return its answer."""
    event = {
        "RequestType": request,
        "ResponseURL": f"{cloudformation.url}/answer?signature=abc",
        "StackId": "arn:aws:cloudformation:eu-central-1:123456789012:stack/federation/1",
        "RequestId": str(uuid4()),
        "LogicalResourceId": "Migration",
        "ResourceProperties": properties,
    }
    deploying.handler(event, None)
    path, answer = cloudformation.received[-1]
    assert path == "/answer?signature=abc"
    assert answer["RequestId"] == event["RequestId"]
    return answer


def users_request(stack: Stack) -> Any:
    """Return the properties of the request that creates the database users."""
    return stack.custom_requests[0]


def test_the_users_get_the_privileges_they_need(
    deploying: ModuleType,
    cloudformation: Endpoint,
    data_api: Endpoint,
    cluster: str,
    stack: Stack,
) -> None:
    """The owner may create tables, the row user may only use rows, both sign in by IAM, and a second
    deployment changes nothing."""
    for _ in range(2):
        answer = ask(deploying, cloudformation, users_request(stack))
        assert (answer["Status"], answer["Reason"]) == ("SUCCESS", "done")
    with connect(cluster, OWNER) as owner:
        owner.execute("CREATE TABLE weights (id int GENERATED ALWAYS AS IDENTITY, name text)")
    with connect(cluster, ROW_USER) as user:
        user.execute("INSERT INTO weights (name) VALUES ('a')")
        user.execute("UPDATE weights SET name = 'b'")
        assert user.execute("DELETE FROM weights RETURNING name").fetchall() == [("b",)]
        for forbidden in ("CREATE TABLE mine ()", "DROP TABLE weights", "TRUNCATE weights"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                user.execute(forbidden)
        for signed_in in (OWNER, ROW_USER):
            question = f"SELECT pg_has_role('{signed_in}', 'rds_iam', 'USAGE')"
            assert user.execute(question).fetchone() == (True,)
    with connect(cluster, OWNER) as owner:
        owner.execute("DROP TABLE weights")


def test_no_statement_of_the_row_user_waits_forever(
    deploying: ModuleType,
    cloudformation: Endpoint,
    data_api: Endpoint,
    cluster: str,
    stack: Stack,
) -> None:
    """A statement ends after a minute, and so does a transaction in which nothing happens."""
    ask(deploying, cloudformation, users_request(stack))
    with connect(cluster, ROW_USER) as user:
        for setting in ("statement_timeout", "idle_in_transaction_session_timeout"):
            assert user.execute(f"SHOW {setting}").fetchone() == ("1min",)


def test_the_master_keeps_its_privileges(
    deploying: ModuleType,
    cloudformation: Endpoint,
    data_api: Endpoint,
    cluster: str,
    stack: Stack,
) -> None:
    """The master does not stay a member of the owner, since a member of `rds_iam` cannot use a password."""
    ask(deploying, cloudformation, users_request(stack))
    with connect(cluster, MASTER) as master:
        for role in (OWNER, ROW_USER, "rds_iam"):
            question = f"SELECT pg_has_role('{role}', 'USAGE'), pg_has_role('{role}', 'SET')"
            assert master.execute(question).fetchone() == (False, False)


def test_a_refused_statement_fails_the_deployment(
    deploying: ModuleType, cloudformation: Endpoint, data_api: Endpoint, stack: Stack
) -> None:
    """CloudFormation shows the error of the database."""
    request = users_request(stack) | {"Statement": "SELECT 1 / 0"}
    answer = ask(deploying, cloudformation, request)
    assert answer["Status"] == "FAILED"
    assert "division by zero" in answer["Reason"]


def test_a_resuming_database_is_waited_for(
    deploying: ModuleType,
    cloudformation: Endpoint,
    monkeypatch: pytest.MonkeyPatch,
    stack: Stack,
) -> None:
    """The statement is repeated while a paused database resumes."""
    monkeypatch.setattr(deploying, "RETRY_SECONDS", 0.01)
    answers: list[Answer] = [
        (400, {"x-amzn-errortype": "DatabaseResumingException"}, {"message": "resuming"}),
        (200, {}, {"numberOfRecordsUpdated": 0}),
    ]
    with Endpoint(lambda _path, _body: answers.pop(0)).running() as paused:
        monkeypatch.setenv("AWS_ENDPOINT_URL_RDS_DATA", paused.url)
        answer = ask(deploying, cloudformation, users_request(stack))
    assert answer["Status"] == "SUCCESS"
    assert answers == []


def test_deleting_the_stack_changes_nothing(
    deploying: ModuleType, cloudformation: Endpoint, data_api: Endpoint, stack: Stack
) -> None:
    """When the stack is deleted, users and tables stay, and CloudFormation receives an answer."""
    answer = ask(deploying, cloudformation, users_request(stack), "Delete")
    assert answer["Status"] == "SUCCESS"
    assert data_api.received == []


@contextmanager
def migrating(
    cloud: Cloud, database_url: str, monkeypatch: pytest.MonkeyPatch, log: Path
) -> Iterator[Endpoint]:
    """Start an API of Lambda that runs `lambda_handler.migrate` in the real runtime."""
    environment = cloud.environment() | {"DATABASE_URL": database_url}
    runtime = LambdaRuntime("lambda_handler.migrate", environment=environment, log=log)

    def invoke(_path: str, body: Any) -> Answer:
        try:
            return 200, {}, runtime.invoke(body)
        except FunctionError as error:
            return 200, {"X-Amz-Function-Error": "Unhandled"}, {"errorMessage": str(error)}

    with runtime, Endpoint(invoke).running() as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL_LAMBDA", endpoint.url)
        yield endpoint


def url_of(cluster: str, user: str, database: str = DATABASE) -> str:
    """Return DATABASE_URL of a user; the embedded server listens on a socket in a folder."""
    folder = psycopg.conninfo.conninfo_to_dict(cluster)["host"]
    return f"postgres://{user}@{str(folder).replace('/', '%2F')}/{database}"


def test_the_row_user_can_work_after_the_migration(
    deploying: ModuleType,
    cloudformation: Endpoint,
    data_api: Endpoint,
    cloud: Cloud,
    cluster: str,
    stack: Stack,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """The migrating function creates the tables as their owner, and the row user can write to them."""
    ask(deploying, cloudformation, users_request(stack))
    with migrating(cloud, url_of(cluster, OWNER), monkeypatch, tmp_path / "log") as called:
        answer = ask(deploying, cloudformation, stack.custom_requests[1])
    assert answer["Status"] == "SUCCESS", (tmp_path / "log").read_text()
    (path, _) = called.received[0]
    assert path.startswith("/2015-03-31/functions/")
    with connect(cluster, ROW_USER) as user:
        user.execute("INSERT INTO auth_group (name) VALUES ('sees a sequence')")
        tables = user.execute(
            "SELECT tablename, tableowner, bool_and(has_table_privilege(tablename, privilege))"
            " FROM pg_tables, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS privilege"
            " WHERE schemaname = 'public' GROUP BY 1, 2"
        ).fetchall()
    assert "models_app_aggregationround" in [name for name, _, _ in tables]
    assert {(owner, usable) for _, owner, usable in tables} == {(OWNER, True)}


def test_a_failed_migration_fails_the_deployment(
    deploying: ModuleType,
    cloudformation: Endpoint,
    cloud: Cloud,
    cluster: str,
    stack: Stack,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """CloudFormation receives the error of the migrating function, and rolls back."""
    nowhere = url_of(cluster, MASTER, database="no_such_database")
    with migrating(cloud, nowhere, monkeypatch, tmp_path / "log"):
        answer = ask(deploying, cloudformation, stack.custom_requests[1])
    assert answer["Status"] == "FAILED"
    assert "no_such_database" in answer["Reason"]
