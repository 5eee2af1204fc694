"""Step Functions on this machine: moto executes the state machine, Lambda runtimes do its tasks.

moto's interpreter invokes functions through boto3. Its clients of Lambda are led to a front over a pool
of runtime emulators here, so that the real handler runs in the real runtime under the real definition.
"""

from __future__ import annotations

import json
import queue
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import boto3
from botocore.config import Config
from moto.core.config import default_user_config
from moto.stepfunctions.parser.asl.component.state.exec.state_task import lambda_eval_utils

from local.errors import FunctionError

DEFINITION = Path(__file__).resolve().parent.parent / "statemachines" / "round.asl.json"

#: Any role: moto does not check permissions.
ROLE = "arn:aws:iam::123456789012:role/round"

#: Executions that take longer are not waited for.
PATIENCE_SECONDS = 60

#: A function of AWS runs for 900 seconds at most. By default botocore would repeat an invocation that takes
#: longer than a minute, while the first one is still running.
INVOCATION = Config(read_timeout=1000, retries={"total_max_attempts": 1}, proxies={})

#: Invokes the function of a name with an event and returns its response.
Invoke = Callable[[str, Any], Any]

_INVOCATIONS = re.compile(r"/2015-03-31/functions/([^/]+)/invocations")


class FunctionPool:
    """Runtimes that take events as they become free.

    Parameters
    ----------
    runtimes : sequence
        Each with a method ``invoke``, which serves one event at a time.
    """

    def __init__(self, runtimes: Sequence[Any]) -> None:
        self._free: queue.Queue[Any] = queue.Queue()
        for runtime in runtimes:
            self._free.put(runtime)

    def invoke(self, name: str, event: Any) -> Any:
        """Invoke the next free runtime, whatever the name of the function."""
        runtime = self._free.get()
        try:
            return runtime.invoke(event)
        finally:
            self._free.put(runtime)


@contextmanager
def state_machine(endpoint: str, invoke: Invoke, region: str) -> Iterator[str]:
    """Create the round's state machine in moto's server, and do its tasks.

    Parameters
    ----------
    endpoint : str
        Of a moto server in this process.
    invoke : callable
    region : str

    Yields
    ------
    str
        The ARN of the state machine.
    """
    with functions_served(invoke):
        yield _create(endpoint, region)


@contextmanager
def functions_served(invoke: Invoke) -> Iterator[None]:
    """Let moto execute state machines, and do their tasks.

    Parameters
    ----------
    invoke : callable
        Its first argument is the name or the ARN by which the state machine invokes a function.
    """
    default_user_config["stepfunctions"] = {"execute_state_machine": True}
    with _lambda_front(invoke) as front:
        interpreter: Any = lambda_eval_utils
        original = interpreter.boto_client_for

        def client_for(region: str, service: str, state_credentials: Any = None) -> Any:
            if service != "lambda":
                return original(region, service, state_credentials)
            return boto3.client(
                "lambda",
                region_name=region,
                endpoint_url=front,
                aws_access_key_id="local",
                aws_secret_access_key="local",
                config=INVOCATION,
            )

        interpreter.boto_client_for = client_for
        try:
            yield
        finally:
            interpreter.boto_client_for = original


def definition() -> str:
    """Return the definition of the state machine, with the names of the local functions.

    moto knows only standard workflows as children of a distributed map.
    """
    text = DEFINITION.read_text()
    substitutions = {
        "MainFunction": "main",
        "WorkerFunction": "worker",
        "ChildExecutionType": "STANDARD",
        "Partition": "aws",
    }
    for name, value in substitutions.items():
        text = text.replace(f"${{{name}}}", value)
    return text


def await_executions(endpoint: str, arn: str, region: str) -> None:
    """Wait until no execution is running, so that none meets functions that have been stopped."""
    running: dict[str, Any] = {"stateMachineArn": arn, "statusFilter": "RUNNING"}
    client = _client(endpoint, region)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while client.list_executions(**running)["executions"] and time.monotonic() < deadline:
        time.sleep(0.1)


def _client(endpoint: str, region: str) -> Any:
    return boto3.client(
        "stepfunctions",
        region_name=region,
        endpoint_url=endpoint,
        aws_access_key_id="local",
        aws_secret_access_key="local",
    )


def _create(endpoint: str, region: str) -> str:
    client = _client(endpoint, region)
    # A name of its own: moto forgets neither machines nor executions before its process ends.
    name = f"round-{uuid.uuid4().hex}"
    created = client.create_state_machine(name=name, definition=definition(), roleArn=ROLE)
    return str(created["stateMachineArn"])


@contextmanager
def _lambda_front(invoke: Invoke) -> Iterator[str]:
    """Serve Lambda's Invoke operation on a free port of this machine."""

    class Front(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            found = _INVOCATIONS.fullmatch(self.path)
            event = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or "{}")
            headers = {}
            if not found:
                self.send_error(404)
                return
            try:
                response = invoke(unquote(found[1]), event)
            except FunctionError as error:
                response = {"errorType": error.error_type, "errorMessage": error.message}
                headers = {"X-Amz-Function-Error": "Unhandled"}
            body = json.dumps(response).encode()
            self.send_response(200)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Front)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
