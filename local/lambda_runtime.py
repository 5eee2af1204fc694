"""The function in the real Lambda runtime: AWS's Runtime Interface Emulator, without Docker.

The emulator comes with `aws-sam-cli`, the runtime client is AWS's `awslambdaric`. What the emulator does,
as observed of those in aws-sam-cli 1.148 and 1.170:

- what the handler raises is answered with status 200 and a body of ``errorMessage``, ``errorType``,
  ``requestId`` and ``stackTrace``; nothing else tells it from an answer;
- a timeout is answered with status 200 and a sentence that is not JSON; the runtime is killed;
- a runtime that died is answered with status 502; the next invocation starts a new one;
- how long a start took is told in the log as ``INIT REPORT(durationMs: ...)``; the ``Init Duration`` of a
  ``REPORT`` line is not it;
- a second invocation while one runs makes the emulator crash: one environment serves one at a time;
- the runtime gets a process group of its own, but stays in the emulator's session.
"""

from __future__ import annotations

import atexit
import http.client
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import samcli

from local.errors import FunctionError, RuntimeUnavailable
from local.interrupts import interrupts_postponed

PROJECT = Path(__file__).resolve().parent.parent
ARCHITECTURES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}

#: What a function inherits from the machine; everything else it is given.
INHERITED = ("PATH", "LANG", "LD_LIBRARY_PATH")

START_ATTEMPTS = 5
START_SECONDS = 20
STOP_SECONDS = 5


class LambdaRuntime:
    """A function that can be invoked, in one execution environment.

    Parameters
    ----------
    handler : str
    environment : mapping
        The function's environment variables. Apart from what Python itself needs, it sees no others.
    log : Path, optional
        Where the function's and the emulator's output is appended; by default it is dropped.
    project : Path
        Folder of the function's code, its working directory.
    timeout_seconds, memory_mb : int
        As configured on AWS. The timeout is enforced, the memory only announced.
    python : str, optional
        The interpreter, by default this one.
    """

    def __init__(
        self,
        handler: str = "lambda_handler.handler",
        *,
        environment: Mapping[str, str] | None = None,
        log: Path | None = None,
        project: Path = PROJECT,
        timeout_seconds: int = 60,
        memory_mb: int = 512,
        python: str | None = None,
    ) -> None:
        self._handler = handler
        self._log = log or Path(os.devnull)
        self._project = project
        self._python = python or sys.executable
        self._timeout_seconds = timeout_seconds
        self._environment = {
            **{name: os.environ[name] for name in INHERITED if name in os.environ},
            **(environment or {}),
            "AWS_LAMBDA_FUNCTION_NAME": "aggregator",
            "AWS_LAMBDA_FUNCTION_TIMEOUT": str(timeout_seconds),
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(memory_mb),
        }
        self._one_at_a_time = threading.Lock()
        self._starting_or_stopping = threading.RLock()
        self._open = False
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0

    def __enter__(self) -> Self:
        self._open = True
        atexit.register(self.close)  # Ctrl-C may come before the `with` statement holds it.
        self._ensure_running()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the function and its runtime, for good."""
        with self._starting_or_stopping:
            self._open = False
            self._stop()
        atexit.unregister(self.close)

    def invoke(self, event: Any) -> Any:
        """Invoke the function and wait for its answer. Several threads may call; they take turns.

        Parameters
        ----------
        event : JSON-able

        Returns
        -------
        JSON-able

        Raises
        ------
        FunctionError
            If the function raised, timed out or died. The next invocation finds it alive again.
        RuntimeUnavailable
            If the runtime is not open, or cannot be started again.
        """
        with self._one_at_a_time:
            self._ensure_running()
            return _answer(*self._post(json.dumps(event).encode()))

    def _post(self, body: bytes) -> tuple[int, bytes]:
        # Longer than the function may run, and a cold start comes before that.
        connection = http.client.HTTPConnection(
            "127.0.0.1", self._port, timeout=self._timeout_seconds + 60
        )
        try:
            connection.request("POST", "/2015-03-31/functions/function/invocations", body)
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            with self._starting_or_stopping:
                self._stop()  # It crashed, or hangs: either way the next invocation needs another.
            raise FunctionError(
                "Runtime.Unreachable", f"the runtime went away: {error!r}"
            ) from error
        finally:
            connection.close()

    def _ensure_running(self) -> None:
        with self._starting_or_stopping:
            if not self._open:
                raise RuntimeUnavailable(
                    "the Lambda runtime is not open: use it as a context manager"
                )
            if self._process is None or self._process.poll() is not None:
                self._stop()  # A crashed emulator's function would go on working.
                self._start()

    def _stop(self) -> None:
        """End the emulator and all that it started."""
        if self._process is None:
            return
        with interrupts_postponed():
            self._process.terminate()  # It kills its runtime before it ends.
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            _kill_session(self._process.pid)
            self._process = None

    def _start(self) -> None:
        """Start the emulator; anew with other ports if someone took one in the meantime."""
        for _ in range(START_ATTEMPTS):
            try:
                if self._launch():
                    return
            except BaseException:
                self._stop()
                raise
            self._stop()
        raise RuntimeUnavailable(
            f"the Lambda runtime did not start in {START_ATTEMPTS} attempts; see {self._log}"
        )

    def _launch(self) -> bool:
        """Start the emulator on free ports; whether it came to listen on them."""
        self._port, api_port = free_port(), free_port()
        command = [
            str(emulator()),
            *("--runtime-interface-emulator-address", f"127.0.0.1:{self._port}"),
            *("--runtime-api-address", f"127.0.0.1:{api_port}"),
            *(self._python, "-m", "awslambdaric", self._handler),
        ]
        with interrupts_postponed(), self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self._project,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is ours to handle, and `_stop` finds them all.
            )
        return self._ready(self._port) and self._ready(api_port)

    def _ready(self, port: int) -> bool:
        """Whether the emulator came to listen on a port; not if it ended, or takes too long."""
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            if _listens(self._process.pid, port):
                return True
            time.sleep(0.01)
        return False


def emulator() -> Path:
    """AWS's Runtime Interface Emulator for this machine, as `aws-sam-cli` brings it along.

    Raises
    ------
    RuntimeUnavailable
        If there is none for this machine.
    """
    system, machine = platform.system(), platform.machine().lower()
    if system != "Linux" or machine not in ARCHITECTURES:
        raise RuntimeUnavailable(
            f"the Lambda runtime emulator runs on Linux on x86_64 and arm64; this is {system} on {machine}"
        )
    name = f"aws-lambda-rie-{ARCHITECTURES[machine]}"
    path = Path(samcli.__file__).parent / "local" / "rapid" / name
    if not os.access(path, os.X_OK):
        try:
            path.chmod(path.stat().st_mode | 0o755)  # Wheels do not always keep the bit.
        except OSError as error:
            raise RuntimeUnavailable(f"{path} cannot be made executable: {error}") from error
    return path


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _listens(pid: int, port: int) -> bool:
    """Whether it is that process, and no other, that listens on a port of this machine.

    A connection would be accepted by whoever took the port in the meantime; see proc(5) for the files.
    """
    sockets = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, address, _, state, *_, inode = line.split()[:10]
        if state == "0A" and int(address.partition(":")[2], 16) == port:
            sockets.add(f"socket:[{inode}]")
    try:
        return any(os.readlink(each) in sockets for each in Path(f"/proc/{pid}/fd").iterdir())
    except FileNotFoundError:
        return False  # The process ended, or closed one of its files.


def _answer(status: int, body: bytes) -> Any:
    """What the function returned; `FunctionError` if that is not what came back."""
    text = body.decode(errors="replace")
    try:
        answer = json.loads(text)
    except ValueError:
        if text.startswith("Task timed out"):
            raise FunctionError("Sandbox.Timedout", text) from None
        answer = {"errorType": "Runtime.ExitError", "errorMessage": text or "no answer"}
    if status != http.client.OK or (
        isinstance(answer, dict) and {"errorType", "errorMessage"} <= answer.keys()
    ):
        raise FunctionError(
            str(answer["errorType"]),
            str(answer["errorMessage"]),
            "".join(answer.get("stackTrace") or ()),
        )
    return answer


def _kill_session(session: int) -> None:
    """Kill what is left of a session, such as a runtime whose emulator crashed."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if os.getsid(int(entry.name)) == session:
                    os.kill(int(entry.name), signal.SIGKILL)
            except ProcessLookupError:
                pass  # It ended by itself.
