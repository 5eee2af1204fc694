"""The function in processes that can be killed, stopped and continued."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local.lambda_runtime import PROJECT

#: Environment variable of `tests.faults.function`: JSON of numbers by dotted name.
CONSTANTS = "TEST_CONSTANTS"

#: Of the model, in one part of a result.
PART_BYTES = 1 << 14


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The outcome of a process.

    Parameters
    ----------
    ended : str or int
        The name of the signal that ended or stopped it, or its exit code.
    answer
        The response of the function, if there is one.
    at : str
        The step before which it was ended or stopped.
    steps : list of str
        The steps that it had started.
    """

    ended: str | int
    answer: Any = None
    at: str = ""
    steps: list[str]


class Invocation:
    """A process that was started."""

    def __init__(self, function: WarmFunction, pid: int, outcome: Path) -> None:
        self._function = function
        self._outcome = outcome
        self.pid = pid

    def wait(self) -> Outcome:
        """Wait until the process has ended or was stopped."""
        ended = self._function.command(wait=self.pid)
        recorded = (
            json.loads(self._outcome.read_text()) if self._outcome.exists() else {"steps": []}
        )
        return Outcome(ended=ended, **recorded)

    def resume(self) -> Outcome:
        """Resume a stopped process, and wait for its end."""
        os.kill(self.pid, signal.SIGCONT)
        return self.wait()


class WarmFunction:
    """A process that forks; see `tests.faults.warm_worker`."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self._process = process
        self._folder = folder
        self._started = 0
        self.log = folder / "function.log"

    def command(self, **command: Any) -> Any:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, f"the warm function died: {self.log.read_text()[-2000:]}"
        return json.loads(answer)

    def start(
        self, do: str, *, at: int | str | None = None, signal: str = "SIGKILL", **arguments: Any
    ) -> Invocation:
        """Start a process; see `tests.faults.warm_worker` for what it can do.

        Parameters
        ----------
        do : str
            ``invoke``, ``settle`` or ``pump``.
        at, signal
            Before which of its steps it sends itself which signal.
        """
        self._started += 1
        outcome = self._folder / f"outcome-{self._started}.json"
        database = os.environ["DATABASE_URL"]
        pid = self.command(
            do=do,
            arguments=arguments,
            at=at,
            signal=signal,
            database=database,
            outcome=str(outcome),
        )
        return Invocation(self, pid, outcome)

    def run(self, do: str, **options: Any) -> Outcome:
        """Start a process and wait for it."""
        return self.start(do, **options).wait()

    def answer(self, do: str, **options: Any) -> Any:
        """Return the response of an undisturbed process."""
        outcome = self.run(do, **options)
        assert outcome.ended == 0, self.log.read_text()[-2000:]
        return outcome.answer

    def logged(self, message: str) -> list[dict[str, Any]]:
        """Return the log records of the function with this message."""
        lines = [line for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in map(json.loads, lines) if line.get("message") == message]


@contextmanager
def warm_function(
    folder: Path, *, constants: Mapping[str, float] | None = None, **environment: str
) -> Iterator[WarmFunction]:
    """Yield a warm function with the given constants and environment variables."""
    variables = {**os.environ, CONSTANTS: json.dumps(dict(constants or {})), **environment}
    with (
        (folder / "function.log").open("ab") as log,
        subprocess.Popen(
            [sys.executable, "-u", "-m", "tests.faults.warm_worker"],
            cwd=PROJECT,
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as process,
    ):
        yield WarmFunction(process, folder)
        assert process.stdin
        process.stdin.close()
