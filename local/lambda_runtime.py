"""The function in the real Lambda runtime: AWS's Runtime Interface Emulator, without Docker.

The emulator is part of `aws-sam-cli`; the runtime client is AWS's `awslambdaric`. Observed behaviour of the
emulators in aws-sam-cli 1.148 and 1.170:

- if the handler raises, the status is 200 and the body has ``errorMessage``, ``errorType``, ``requestId``
  and ``stackTrace``; nothing else distinguishes it from a response;
- after a timeout, the status is 200 and the body is a sentence that is not JSON; the runtime is killed;
- if the runtime died, the status is 502; the next invocation starts a new one;
- the log has the duration of a start as ``INIT REPORT(durationMs: ...)``, while the ``Init Duration`` of a
  ``REPORT`` line is another one;
- a second invocation while one is running crashes the emulator: one environment serves one at a time;
- the runtime has a process group of its own, but stays in the emulator's session.
"""

from __future__ import annotations

import atexit
import http.client
import json
import os
import platform
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
from local.processes import free_port, kill_session, listens

PROJECT = Path(__file__).resolve().parent.parent
ARCHITECTURES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}

#: The variables that the function inherits from this process; the others are passed to it.
INHERITED = ("PATH", "LANG", "LD_LIBRARY_PATH")

START_ATTEMPTS = 5
START_SECONDS = 20
STOP_SECONDS = 5


class LambdaRuntime:
    """An execution environment of the function, which can be invoked.

    Parameters
    ----------
    handler : str
    environment : mapping
        The function's environment variables. It inherits no others than Python itself needs.
    log : Path, optional
        File to which the output of the function and the emulator is appended; by default it is dropped.
    project : Path
        Folder of the function's code, which is its working directory.
    timeout_seconds, memory_mb : int
        As configured on AWS. The timeout is enforced; the memory is only reported to the function.
    python : str, optional
        The interpreter; by default the one of this process.
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
        atexit.register(self.close)  # Ctrl-C may arrive before `with` has the object.
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
        """Stop the function and its runtime; it cannot be invoked again."""
        with self._starting_or_stopping:
            self._open = False
            self._stop()
        atexit.unregister(self.close)

    def invoke(self, event: Any) -> Any:
        """Invoke the function and wait for its response. Calls of several threads run one after another.

        Parameters
        ----------
        event : JSON-able

        Returns
        -------
        JSON-able

        Raises
        ------
        FunctionError
            If the function raised, timed out or died. The next invocation starts it again.
        RuntimeUnavailable
            If the runtime is not open, or cannot be started again.
        """
        with self._one_at_a_time:
            self._ensure_running()
            return _answer(*self._post(json.dumps(event).encode()))

    def _post(self, body: bytes) -> tuple[int, bytes]:
        # Longer than the function's timeout, since a cold start comes first.
        connection = http.client.HTTPConnection(
            "127.0.0.1", self._port, timeout=self._timeout_seconds + 60
        )
        try:
            connection.request("POST", "/2015-03-31/functions/function/invocations", body)
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            with self._starting_or_stopping:
                self._stop()  # It crashed or hangs; the next invocation starts a new one.
            raise FunctionError(
                "Runtime.Unreachable", f"the runtime is unreachable: {error!r}"
            ) from error
        finally:
            connection.close()

    def _ensure_running(self) -> None:
        with self._starting_or_stopping:
            if not self._open:
                raise RuntimeUnavailable(
                    "the Lambda runtime is not open; use it as a context manager"
                )
            if self._process is None or self._process.poll() is not None:
                self._stop()  # The function of a crashed emulator may still be running.
                self._start()

    def _stop(self) -> None:
        """Stop the emulator and every process that it started."""
        if self._process is None:
            return
        with interrupts_postponed():
            self._process.terminate()  # It kills its runtime before it exits.
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            kill_session(self._process.pid)
            self._process = None

    def _start(self) -> None:
        """Start the emulator, and try other ports if another process took one meanwhile."""
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
        """Start the emulator on free ports, and return whether it listens on them."""
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
                start_new_session=True,  # Ctrl-C is handled here; `_stop` finds all processes by it.
            )
        return self._ready(self._port) and self._ready(api_port)

    def _ready(self, port: int) -> bool:
        """Return whether the emulator listens on a port before it exits or takes too long."""
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            if listens(self._process.pid, port):
                return True
            time.sleep(0.01)
        return False


def emulator() -> Path:
    """Return the path of AWS's Runtime Interface Emulator for this machine, from `aws-sam-cli`.

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
            path.chmod(path.stat().st_mode | 0o755)  # Wheels do not always preserve the bit.
        except OSError as error:
            raise RuntimeUnavailable(f"{path} cannot be made executable: {error}") from error
    return path


def _answer(status: int, body: bytes) -> Any:
    """Return the function's response, or raise `FunctionError`."""
    text = body.decode(errors="replace")
    try:
        answer = json.loads(text)
    except ValueError:
        if text.startswith("Task timed out"):
            raise FunctionError("Sandbox.Timedout", text) from None
        answer = {"errorType": "Runtime.ExitError", "errorMessage": text or "no response"}
    if status != http.client.OK or (
        isinstance(answer, dict) and {"errorType", "errorMessage"} <= answer.keys()
    ):
        raise FunctionError(
            str(answer["errorType"]),
            str(answer["errorMessage"]),
            "".join(answer.get("stackTrace") or ()),
        )
    return answer
