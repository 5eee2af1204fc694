"""Tests of the Lambda runtime: AWS's Runtime Interface Emulator with a function of the test."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from local import lambda_runtime
from local.errors import FunctionError, RuntimeUnavailable
from local.lambda_runtime import LambdaRuntime
from local.processes import free_port

FUNCTION = """
import os, signal, time

def handler(event, context):
    print("handled", event)
    match event:
        case {"raise": text}:
            raise ValueError(text)
        case {"sleep": seconds}:
            time.sleep(seconds)
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "crash the emulator":
            os.kill(os.getppid(), signal.SIGKILL)
        case "environment":
            return dict(os.environ)
    return {"event": event, "pid": os.getpid(), "memory": context.memory_limit_in_mb,
            "milliseconds": context.get_remaining_time_in_millis()}
"""


@pytest.fixture
def open_runtime(tmp_path: Path) -> Iterator[Callable[..., LambdaRuntime]]:
    """Open runtimes of the test's function, and close them at the end."""
    (tmp_path / "function.py").write_text(FUNCTION)
    opened: list[LambdaRuntime] = []

    def make(handler: str = "function.handler", **options: Any) -> LambdaRuntime:
        runtime = LambdaRuntime(handler, project=tmp_path, log=tmp_path / "function.log", **options)
        opened.append(runtime.__enter__())
        return runtime

    yield make
    for runtime in opened:
        runtime.__exit__(None, None, None)


def alive(pid: int) -> bool:
    """Return whether a process is running; a zombie is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pid: int) -> bool:
    """Return whether a process ends within half a minute."""
    deadline = time.monotonic() + 30
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not alive(pid)


def test_environment_stays_warm(
    open_runtime: Callable[..., LambdaRuntime],
) -> None:
    """The same process responds to one event after another."""
    runtime = open_runtime(timeout_seconds=9, memory_mb=321)
    first, second = runtime.invoke({"a": [1, None, "ä"]}), runtime.invoke(None)
    assert first["event"] == {"a": [1, None, "ä"]}
    assert second["event"] is None
    assert first["pid"] == second["pid"]
    assert first["memory"] == "321"
    assert 0 < first["milliseconds"] <= 9000


def test_function_has_only_the_given_variables(
    open_runtime: Callable[..., LambdaRuntime], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The developer's own variables do not leak into the function."""
    monkeypatch.setenv("AWS_PROFILE", "the developer's own")
    seen = open_runtime(environment={"GIVEN": "1"}).invoke("environment")
    assert seen["GIVEN"] == "1"
    assert "AWS_PROFILE" not in seen
    assert seen["AWS_LAMBDA_FUNCTION_NAME"] == "aggregator"


def test_output_is_in_the_log(open_runtime: Callable[..., LambdaRuntime], tmp_path: Path) -> None:
    """The function's output is appended to the log file."""
    open_runtime().invoke("a word")
    assert "handled a word" in (tmp_path / "function.log").read_text()


def test_error_of_the_function_has_its_traceback(
    open_runtime: Callable[..., LambdaRuntime],
) -> None:
    """The error has the type, the message and the traceback of the function's exception."""
    with pytest.raises(FunctionError, match="ValueError: too many clients") as caught:
        open_runtime().invoke({"raise": "too many clients"})
    assert caught.value.error_type == "ValueError"
    assert caught.value.message == "too many clients"
    assert "raise ValueError(text)" in caught.value.trace
    assert "raise ValueError(text)" in str(caught.value)


def test_timeout_ends_one_invocation(open_runtime: Callable[..., LambdaRuntime]) -> None:
    """A function that takes too long is killed, and the next invocation has a new process."""
    runtime = open_runtime(timeout_seconds=1)
    before = runtime.invoke(1)["pid"]
    with pytest.raises(FunctionError, match=r"timed out after 1\.00 seconds") as caught:
        runtime.invoke({"sleep": 600})
    assert caught.value.error_type == "Sandbox.Timedout"
    assert runtime.invoke(1)["pid"] != before
    assert gone(before)


def test_killed_function_ends_one_invocation(
    open_runtime: Callable[..., LambdaRuntime],
) -> None:
    """If the function's process dies, only that invocation fails."""
    runtime = open_runtime()
    with pytest.raises(FunctionError, match="signal: killed") as caught:
        runtime.invoke("die")
    assert caught.value.error_type == "Runtime.ExitError"
    assert runtime.invoke(2)["event"] == 2


def test_missing_handler_is_an_error(
    open_runtime: Callable[..., LambdaRuntime],
) -> None:
    """The error names the module that cannot be imported."""
    with pytest.raises(FunctionError, match="Unable to import module 'missing'"):
        open_runtime("missing.handler").invoke({})


def test_crashed_emulator_is_started_again(
    open_runtime: Callable[..., LambdaRuntime],
) -> None:
    """After a crash of the emulator the next invocation works, and the old process is gone."""
    runtime = open_runtime()
    before = runtime.invoke(1)["pid"]
    with pytest.raises(FunctionError, match="the runtime is unreachable"):
        runtime.invoke("crash the emulator")
    assert runtime.invoke(2)["event"] == 2
    assert gone(before)


def test_concurrent_invocations_run_one_after_another(
    open_runtime: Callable[..., LambdaRuntime],
) -> None:
    """Concurrent threads each get their own response, though the emulator takes one event at a time."""
    runtime = open_runtime()
    events = [{"sleep": 0.01, "number": number} for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(runtime.invoke, events))
    assert [answer["event"] for answer in answers] == events
    assert len({answer["pid"] for answer in answers}) == 1


def test_occupied_ports_are_replaced(
    open_runtime: Callable[..., LambdaRuntime], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The emulator starts although another process took the port of either of its two interfaces."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        busy = taken.getsockname()[1]
        ports = iter([busy, free_port(), free_port(), busy])
        monkeypatch.setattr(lambda_runtime, "free_port", lambda: next(ports, None) or free_port())
        assert open_runtime().invoke(1)["event"] == 1
        assert next(ports, None) is None


def test_closing_leaves_no_process(tmp_path: Path) -> None:
    """After closing, neither the emulator nor the function is running."""
    (tmp_path / "function.py").write_text(FUNCTION)
    with LambdaRuntime("function.handler", project=tmp_path) as runtime:
        function = runtime.invoke(1)["pid"]
        emulator = os.getsid(function)
        assert alive(emulator)
    assert gone(emulator)
    assert gone(function)


def test_closing_ends_the_function_of_a_killed_emulator(tmp_path: Path) -> None:
    """Closing also ends the function's process if its emulator died before."""
    (tmp_path / "function.py").write_text(FUNCTION)
    with LambdaRuntime("function.handler", project=tmp_path) as runtime:
        function = runtime.invoke(1)["pid"]
        os.kill(function, signal.SIGSTOP)  # Otherwise it would notice and exit by itself.
        os.kill(os.getsid(function), signal.SIGKILL)
    assert gone(function)


def test_closed_runtime_cannot_be_invoked(tmp_path: Path) -> None:
    """A late invocation is refused, so that it leaves no process."""
    (tmp_path / "function.py").write_text(FUNCTION)
    with LambdaRuntime("function.handler", project=tmp_path) as runtime:
        pass
    with pytest.raises(RuntimeUnavailable, match="not open"):
        runtime.invoke(1)
