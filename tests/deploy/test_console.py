"""The console on this machine, against a deployed stack: the tunnel, TLS, tokens, the bucket, cookies."""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import psycopg
import pytest
import requests

from benchmarks.certificates import write_certificate
from local.console import (
    ConsoleError,
    Target,
    environment,
    find,
    forwarded,
    main,
    run,
    session_command,
    tunnel_stack,
)
from tests.conftest import using_database
from tests.deploy.stack import ROOT, Stack, template
from tests.factories import filled, make_model

#: The name that the certificate of the database is for.
HOST = "federation.cluster-abc.eu-central-1.rds.amazonaws.com"


def test_what_the_console_needs_is_found(stack: Stack) -> None:
    """The outputs lead to the functions' environment and network, and nothing else is asked for."""
    target = find(stack.name)
    (cluster,) = boto3.client("rds").describe_db_clusters(
        DBClusterIdentifier=stack.physical_ids["Database.Cluster"]
    )["DBClusters"]
    assert target.database == (cluster["Endpoint"], 5432)
    assert target.variables["BUCKET"] == stack.outputs["BucketName"]
    assert urlsplit(target.variables["DATABASE_URL"]).username == "aggregator"
    assert urlsplit(target.owner_variables["DATABASE_URL"]).username == "aggregator_owner"
    assert target.security_group == stack.physical_ids["Network.FunctionSecurityGroup"]
    assert session_command("i-1", target)[-1] == (
        f"host={cluster['Endpoint']},portNumber=5432,localPortNumber=5432"
    )


def test_the_template_of_the_tunnel_is_valid() -> None:
    """cfn-lint accepts it."""
    from cfnlint import lint_file  # Takes a second to import.

    assert lint_file(ROOT / "infra" / "tunnel.yaml") == []


def test_a_stack_of_something_else_is_refused() -> None:
    """The message names the outputs that are missing."""
    queue = {"Resources": {"Queue": {"Type": "AWS::SQS::Queue"}}}
    boto3.client("cloudformation").create_stack(StackName="other", TemplateBody=json.dumps(queue))
    with pytest.raises(ConsoleError, match="no output FunctionAlias and OperatorFunction"):
        find("other")


def test_an_error_of_aws_is_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If there is no stack of the name, the command says so and fails."""
    for program in ("aws", "session-manager-plugin"):
        (tmp_path / program).touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(sys, "argv", ["local.console", "missing"])
    assert main() == 1
    assert "Stack with id missing does not exist" in capsys.readouterr().err


def test_the_tunnel_exists_as_long_as_it_is_used(stack: Stack) -> None:
    """Its instance has the functions' security group and no public address; the stack is deleted."""
    instance = template("infra/tunnel.yaml")["Resources"]["Instance"]["Properties"]
    # moto's instances have no security groups.
    assert [*instance["SecurityGroupIds"]] == [{"Ref": "FunctionSecurityGroup"}]
    cloudformation, name = boto3.client("cloudformation"), f"{stack.name}-tunnel"
    target = find(stack.name)
    with tunnel_stack(stack.name, target, endpoints="on", keep=False) as created_id:
        (reserved,) = boto3.client("ec2").describe_instances(InstanceIds=[created_id])[
            "Reservations"
        ]
        (described,) = reserved["Instances"]
        assert described["SubnetId"] == target.subnet
        assert "KeyName" not in described
        created = cloudformation.describe_stacks(StackName=name)["Stacks"][0]["Parameters"]
        groups = [each["ParameterValue"] for each in created if "Group" in each["ParameterKey"]]
        assert groups == [target.security_group]
    with pytest.raises(cloudformation.exceptions.ClientError, match="does not exist"):
        cloudformation.describe_stacks(StackName=name)


def test_a_session_that_does_not_open_the_port_is_an_error() -> None:
    """The message comes when the command ends; a port that is in use is not taken for the tunnel."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
        with pytest.raises(ConsoleError, match="in use"), forwarded(["true"], port):
            pass
    with pytest.raises(ConsoleError, match="did not open"), forwarded(["false"], port):
        pass


class TlsFront:
    """Terminates TLS in front of PostgreSQL's Unix socket, as the servers of RDS do on TCP.

    The embedded PostgreSQL is built without TLS. A client that does not ask for TLS is refused.
    """

    #: A request for TLS: its length, and a code in the place of a version.
    REQUEST = (8).to_bytes(4, "big") + (80877103).to_bytes(4, "big")

    def __init__(self, socket_path: str, certificate: Path) -> None:
        self._path = socket_path
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self.names: list[str | None] = []
        self._context.sni_callback = lambda _socket, name, _context: self.names.append(name)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            if client.recv(8) != self.REQUEST:
                return
            client.sendall(b"S")
            try:
                secured = self._context.wrap_socket(client, server_side=True)
            except (ssl.SSLError, OSError):  # The client refused the certificate.
                return
            with secured, socket.socket(socket.AF_UNIX) as database:
                database.connect(self._path)
                back = threading.Thread(target=_pump, args=(database, secured), daemon=True)
                back.start()
                _pump(secured, database)
                back.join()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    """Copy bytes until one of two connections ends."""
    try:
        while data := source.recv(65536):
            sink.sendall(data)
    except (OSError, ValueError):
        pass
    for each in (source, sink):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def front(postgres: Any, tmp_path: Path) -> Iterator[TlsFront]:
    """TLS in front of the embedded PostgreSQL, with a certificate for the name of the cluster."""
    certificate = tmp_path / "server.pem"
    write_certificate(certificate, HOST)
    with psycopg.connect(postgres.url) as connection:
        folder = connection.info.host
    with closing(TlsFront(f"{folder}/.s.PGSQL.5432", certificate)) as front:
        yield front


#: What docs/deploy.md grants to the two users, without `rds_iam`, which only RDS has.
GRANTS = (
    "CREATE ROLE console_owner LOGIN",
    "CREATE ROLE console_rows LOGIN",
    "GRANT USAGE, CREATE ON SCHEMA public TO console_owner",
    "GRANT USAGE ON SCHEMA public TO console_rows",
    "SET ROLE console_owner",
    "ALTER DEFAULT PRIVILEGES IN SCHEMA public"
    " GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO console_rows",
    "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE, SELECT ON SEQUENCES TO console_rows",
)


@pytest.fixture
def target(postgres: Any, front: TlsFront, cloud: Any, tmp_path: Path) -> Iterator[Target]:
    """A deployed stack: its database has the tables of the functions, and a model with weights."""
    from django.core.management import call_command

    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE console")
    url = postgres.url.replace("/postgres?", "/console?", 1)
    try:
        with psycopg.connect(url, autocommit=True) as connection:
            for statement in GRANTS:
                connection.execute(statement)
        with using_database(url.replace("postgres:@", "console_owner:@", 1)):
            call_command("migrate", verbosity=0)
            make_model(2, initial=filled(0.0))

        def variables(user: str) -> dict[str, str]:
            return {
                "DATABASE_URL": f"postgres://{user}@{HOST}:{front.port}/console",
                "DATABASE_IAM_AUTH": "true",
                "DATABASE_CA_BUNDLE": str(tmp_path / "server.pem"),
                "BUCKET": cloud.bucket,
                "QUEUE_URL": cloud.queue_url,
                "STATE_MACHINE_ARN": "arn:aws:states:eu-central-1:123456789012:stateMachine:rounds",
            }

        yield Target(
            variables=variables("console_rows"),
            owner_variables=variables("console_owner"),
            subnet="subnet-1",
            security_group="sg-1",
        )
    finally:
        with psycopg.connect(postgres.url, autocommit=True) as connection:
            connection.execute("DROP DATABASE console WITH (FORCE)")
            connection.execute("DROP ROLE IF EXISTS console_owner, console_rows")


@contextmanager
def served(target: Target) -> Iterator[str]:
    """Serve the console as `make console` does, on a free port."""
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    serve = [sys.executable, "manage.py", "runserver", "--noreload", "--insecure", address]
    with forwarded_server(serve, target, int(address.rsplit(":", 1)[1])):
        yield f"http://{address}"


@contextmanager
def forwarded_server(serve: list[str], target: Target, port: int) -> Iterator[None]:
    """Run a server of manage.py until its port is open, and stop it at the end."""
    command = ["env", *(f"{k}={v}" for k, v in environment(target.variables).items()), *serve]
    with forwarded(command, port):
        yield


def test_the_console_runs_against_the_stack(
    target: Target, front: TlsFront, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over TLS that is verified for the cluster's name, with its tables, users, bucket and safe cookies."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("DJANGO_SUPERUSER_PASSWORD", "a long enough secret")
    assert (
        run(target, ["createsuperuser", "--noinput", "--username=me", "--email=me@a.example"]) == 0
    )
    assert set(front.names) == {HOST}
    with served(target) as site:
        login = requests.get(f"{site}/login/", timeout=30)
        cookies = {each.name: each for each in login.cookies}
        assert cookies["csrftoken"].secure
        token = cookies["csrftoken"].value or ""
        form = {"username": "me", "password": "a long enough secret", "csrfmiddlewaretoken": token}
        headers = {"Cookie": f"csrftoken={token}"}
        answer = requests.post(
            f"{site}/login/", form, headers=headers, timeout=30, allow_redirects=False
        )
        assert answer.status_code == 302
        (session,) = (each for each in answer.cookies if each.name == "sessionid")
        assert session.secure
        assert session.has_nonstandard_attr("HttpOnly")
        headers = {"Cookie": f"sessionid={session.value}"}
        listing = requests.get(f"{site}/models_app/federatedmodel/", headers=headers, timeout=30)
        (page,) = set(re.findall(r'href="(/models_app/federatedmodel/\d+/[a-z/]*)"', listing.text))
        shown = requests.get(f"{site}{page}?tensors=1", headers=headers, timeout=30)
        assert re.search(">(w, b|b, w)<", " ".join(shown.text.split()))  # From the bucket.


def test_a_server_with_another_name_is_refused(target: Target) -> None:
    """A certificate for another host does not receive the token."""
    url = target.variables["DATABASE_URL"].replace("cluster-abc", "cluster-xyz")
    other = {**target.variables, "DATABASE_URL": url}
    command = [sys.executable, "manage.py", "models"]
    ran = subprocess.run(
        command, cwd=ROOT, env=environment(other), capture_output=True, text=True, check=False
    )
    assert ran.returncode == 1
    assert "does not match host name" in ran.stderr


def test_a_stack_of_another_version_is_refused(target: Target) -> None:
    """If its tables are not those of this version, nothing is migrated."""
    with pytest.raises(ConsoleError, match="check out the version that is deployed"):
        run(_without_tables(target), ["check"])


def _without_tables(target: Target) -> Target:
    empty = {**target.variables, "DATABASE_URL": target.variables["DATABASE_URL"][:-7] + "postgres"}
    return Target(variables=empty, owner_variables=empty, subnet="subnet-1", security_group="sg-1")
