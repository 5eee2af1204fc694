"""SnapStart with the runtime client of AWS. The emulator has no snapshots, so the test implements the
runtime API."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from local.lambda_runtime import PROJECT
from tests.test_lambda_handler import payload

#: The function, with an INIT whose state must not get into a snapshot.
FUNCTION = """
import random, uuid
from django.db import connection
from lambda_handler import handler as function

def backend():
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return cursor.fetchone()[0]

before = backend()
random.seed(1)

def handler(event, context):
    answer = function(event, context)
    return {"answer": answer, "before": before, "after": backend(),
            "random": random.random(), "uuid": uuid.uuid4().hex}
"""

DEADLINE_SECONDS = 60


@dataclass
class Runtime:
    """The Lambda service for one environment: wait for INIT, restore it, and invoke it once.

    Attributes
    ----------
    requested : list of str
        The last segments of the requested paths, in order.
    connections : int
        The connections at the time of the snapshot, except those to the runtime API.
    """

    event: Any
    process: subprocess.Popen[bytes] | None = None
    requested: list[str] = field(default_factory=list)
    connections: int = -1
    answer: Any = None
    responded: threading.Event = field(default_factory=threading.Event)

    def take_snapshot(self, port: int) -> None:
        assert self.process
        links = (os.readlink(each) for each in Path(f"/proc/{self.process.pid}/fd").iterdir())
        sockets = {link for link in links if link.startswith("socket:")}
        self.connections = len(sockets - sockets_to(port))

    def credentials(self) -> dict[str, str]:
        """Return credentials; those of INIT expire soon, as they have after a restore."""
        restored = "restore/next" in self.requested
        ends = datetime.now(UTC) + (timedelta(hours=6) if restored else timedelta(minutes=1))
        return {
            "AccessKeyId": "local",
            "SecretAccessKey": "local",
            "Token": "local",
            "Expiration": f"{ends:%Y-%m-%dT%H:%M:%SZ}",
        }


def sockets_to(port: int) -> set[str]:
    """Return the local sockets that are connected to a local port; see proc(5)."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    fields = (line.split() for line in lines)
    return {f"socket:[{each[9]}]" for each in fields if each[2] == f"0100007F:{port:04X}"}


class Api(BaseHTTPRequestHandler):
    """The runtime API of Lambda, and its endpoint for credentials."""

    protocol_version = "HTTP/1.1"
    runtime: ClassVar[Runtime]

    def do_GET(self) -> None:
        runtime, words = self.runtime, "/".join(self.path.split("/")[-2:])
        if words == "restore/next":
            runtime.take_snapshot(self.server.server_port)  # type: ignore[attr-defined]
        runtime.requested.append(words)
        if words == "function/credentials":
            self._answer(200, runtime.credentials())
        elif words == "invocation/next" and runtime.requested.count(words) > 1:
            runtime.responded.wait()  # There is no other event; the process is killed while it waits.
        else:
            self._answer(200, runtime.event)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.runtime.requested.append(self.path.rpartition("/")[2])
        self.runtime.answer = json.loads(body)
        self._answer(202, {})
        self.runtime.responded.set()

    def _answer(self, status: int, body: Any) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Lambda-Runtime-Aws-Request-Id", "request-1")
        self.send_header("Lambda-Runtime-Deadline-Ms", str(int(time.time() + 300) * 1000))
        self.send_header("Lambda-Runtime-Invoked-Function-Arn", "arn:aws:lambda:a:1:function:f")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing; the test checks the requests."""


def restored(environment: dict[str, str], folder: Path) -> Runtime:
    """Initialise, snapshot and restore an environment, and invoke it with one sweep."""
    (folder / "function.py").write_text(FUNCTION)
    runtime = Runtime(payload("schedule-sweep"))
    api = type("ApiOfOne", (Api,), {"runtime": runtime})
    with ThreadingHTTPServer(("127.0.0.1", 0), api) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"127.0.0.1:{server.server_port}"
        runtime.process = subprocess.Popen(
            [sys.executable, "-m", "awslambdaric", "function.handler"],
            cwd=folder,
            env=environment
            | {
                "AWS_LAMBDA_RUNTIME_API": address,
                "AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start",
                "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"http://{address}/function/credentials",
            },
        )
        try:
            assert runtime.responded.wait(DEADLINE_SECONDS), runtime.requested
        finally:
            runtime.process.kill()
            runtime.process.wait()
            server.shutdown()
    return runtime


@pytest.fixture(scope="module")
def environments(
    migrated_postgres: str,
    shared_cloud: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> list[Runtime]:
    """Return two environments restored from equal snapshots; each one is a process."""
    environment = shared_cloud.environment() | {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(PROJECT),
        "DATABASE_URL": migrated_postgres,
        "EVENT_BUS": "federation",
        "POWERTOOLS_SERVICE_NAME": "tests",
        "POWERTOOLS_METRICS_NAMESPACE": "tests",
        "POWERTOOLS_TRACE_DISABLED": "true",
    }
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        del environment[name]
    folders = [tmp_path_factory.mktemp("function") for _ in range(2)]
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda folder: restored(environment, folder), folders))


def test_a_restored_environment_responds(environments: list[Runtime]) -> None:
    """An environment restored from a snapshot handles an event."""
    for runtime in environments:
        assert "response" in runtime.requested, runtime.answer
        assert runtime.answer["answer"] == {"requested": []}


def test_a_snapshot_contains_no_connection(environments: list[Runtime]) -> None:
    """A snapshot contains no connection to the database, although INIT had opened one."""
    assert [runtime.connections for runtime in environments] == [0, 0]


def test_a_restored_environment_opens_a_new_connection(environments: list[Runtime]) -> None:
    """After the restore, the function uses a new connection to the database."""
    for runtime in environments:
        assert runtime.answer["before"] != runtime.answer["after"]


def test_restored_environments_differ_in_their_random_numbers(environments: list[Runtime]) -> None:
    """Two environments restored from the same generator state produce different random numbers."""
    for name in ("random", "uuid"):
        assert len({runtime.answer[name] for runtime in environments}) == 2


def test_the_clients_in_a_snapshot_fetch_new_credentials(environments: list[Runtime]) -> None:
    """The clients are created before the snapshot, and fetch new credentials after the restore."""
    for runtime in environments:
        restore = runtime.requested.index("restore/next")
        assert "function/credentials" in runtime.requested[:restore]
        assert "function/credentials" in runtime.requested[restore:]
