"""Runs a task in a process of its own, with its time and its peak memory.

This module imports nothing large: on Linux, a process inherits the peak memory of its parent.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from time import perf_counter, process_time
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """The result of a task.

    Parameters
    ----------
    answer : dict
        What the task printed, as JSON. Its ``seconds`` and ``processor_seconds`` exclude start-up and
        imports.
    peak_bytes : int
        Peak resident memory of the process, as the kernel reports it to the parent.
    process_seconds : float
        How long the process took, with start-up and imports.
    """

    answer: dict[str, Any]
    peak_bytes: int
    process_seconds: float

    @property
    def seconds(self) -> float:
        """Return how long the task took."""
        return float(self.answer["seconds"])


def run(module: str, task: str, python: str = sys.executable, **arguments: Any) -> Outcome:
    """Run ``python -m module task`` with the arguments as JSON on its standard input."""
    start = perf_counter()
    process = subprocess.Popen(
        [python, "-m", module, task], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin as request, process.stdout as response:
        request.write(json.dumps(arguments).encode())
        request.close()
        printed = response.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{module} {task} ended with {process.returncode}")
    seconds = perf_counter() - start
    return Outcome(json.loads(printed.splitlines()[-1]), usage.ru_maxrss << 10, seconds)


def answer_to(tasks: dict[str, Any]) -> None:
    """Run the task that the parent names, and print its answer with its processor time.

    For the ``__main__`` of a module.
    """
    arguments = json.load(sys.stdin)
    start = process_time()
    answer = tasks[sys.argv[1]](**arguments)
    print(json.dumps({**answer, "processor_seconds": process_time() - start}))
