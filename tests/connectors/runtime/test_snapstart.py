"""SnapStart: AWS's own runtime client, started as it is where a snapshot is taken. The emulator knows no
snapshots, so that the runtime API it talks to is the test's."""

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

#: The function, after an INIT that does what must not get into a snapshot.
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
    """What Lambda does for one environment: it waits for INIT, restores it, and invokes it once.

    Attributes
    ----------
    asked : list of str
        The last words of the paths that were asked for, in order.
    connections : int
        Those the environment had when the snapshot was taken, but for those to the runtime itself.
    """

    event: Any
    process: subprocess.Popen[bytes] | None = None
    asked: list[str] = field(default_factory=list)
    connections: int = -1
    answer: Any = None
    told: threading.Event = field(default_factory=threading.Event)

    def take_snapshot(self, port: int) -> None:
        assert self.process
        links = (os.readlink(each) for each in Path(f"/proc/{self.process.pid}/fd").iterdir())
        sockets = {link for link in links if link.startswith("socket:")}
        self.connections = len(sockets - sockets_to(port))

    def credentials(self) -> dict[str, str]:
        """Those of INIT are nearly over, as they are when a snapshot is restored."""
        restored = "restore/next" in self.asked
        ends = datetime.now(UTC) + (timedelta(hours=6) if restored else timedelta(minutes=1))
        return {
            "AccessKeyId": "local",
            "SecretAccessKey": "local",
            "Token": "local",
            "Expiration": f"{ends:%Y-%m-%dT%H:%M:%SZ}",
        }


def sockets_to(port: int) -> set[str]:
    """The sockets of this machine that are connected to a port of it; see proc(5)."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    fields = (line.split() for line in lines)
    return {f"socket:[{each[9]}]" for each in fields if each[2] == f"0100007F:{port:04X}"}


class Api(BaseHTTPRequestHandler):
    """Lambda's runtime API, and its endpoint for credentials."""

    protocol_version = "HTTP/1.1"
    runtime: ClassVar[Runtime]

    def do_GET(self) -> None:
        runtime, words = self.runtime, "/".join(self.path.split("/")[-2:])
        if words == "restore/next":
            runtime.take_snapshot(self.server.server_port)  # type: ignore[attr-defined]
        runtime.asked.append(words)
        if words == "function/credentials":
            self._answer(200, runtime.credentials())
        elif words == "invocation/next" and runtime.asked.count(words) > 1:
            runtime.told.wait()  # There is no other event: the process is ended meanwhile.
        else:
            self._answer(200, runtime.event)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.runtime.asked.append(self.path.rpartition("/")[2])
        self.runtime.answer = json.loads(body)
        self._answer(202, {})
        self.runtime.told.set()

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
        """Nothing: the test looks at what was asked."""


def restored(environment: dict[str, str], folder: Path) -> Runtime:
    """An environment that was initialised, taken a snapshot of, restored, and swept with once."""
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
            assert runtime.told.wait(DEADLINE_SECONDS), runtime.asked
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
    """Two environments that are restored from the same snapshot, as far as two processes can be."""
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


def test_a_restored_environment_answers(environments: list[Runtime]) -> None:
    """What is restored from a snapshot does what the function does."""
    for runtime in environments:
        assert "response" in runtime.asked, runtime.answer
        assert runtime.answer["answer"] == {"requested": []}


def test_no_connection_is_in_a_snapshot(environments: list[Runtime]) -> None:
    """When the snapshot is taken, the environment is connected to nothing but the runtime, though its INIT
    had a connection to the database."""
    assert [runtime.connections for runtime in environments] == [0, 0]


def test_a_restored_environment_makes_its_own_connection(environments: list[Runtime]) -> None:
    """After the restore the database is spoken to over a new connection."""
    for runtime in environments:
        assert runtime.answer["before"] != runtime.answer["after"]


def test_restored_environments_differ_in_their_random_numbers(environments: list[Runtime]) -> None:
    """Whatever the generator's state in the snapshot, no two environments go on from it alike."""
    for name in ("random", "uuid"):
        assert len({runtime.answer[name] for runtime in environments}) == 2


def test_the_clients_in_a_snapshot_fetch_new_credentials(environments: list[Runtime]) -> None:
    """The clients are made before the snapshot, by INIT's credentials, and do not go on with those."""
    for runtime in environments:
        restore = runtime.asked.index("restore/next")
        assert "function/credentials" in runtime.asked[:restore]
        assert "function/credentials" in runtime.asked[restore:]
