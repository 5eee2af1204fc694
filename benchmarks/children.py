"""Running a task in a process of its own: how long it says it took, how much memory it really took.

Nothing heavy is imported here: on Linux a process inherits the peak memory of the one that started it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """What came of a task.

    Parameters
    ----------
    answer : dict
        What the task printed, as JSON; its ``seconds`` leave starting and importing out.
    peak_bytes : int
        Largest resident memory of the process, as the kernel tells its parent.
    """

    answer: dict[str, Any]
    peak_bytes: int

    @property
    def seconds(self) -> float:
        """How long the work took."""
        return float(self.answer["seconds"])


def run(module: str, task: str, python: str = sys.executable, **arguments: Any) -> Outcome:
    """Run ``python -m module task``, with the arguments as JSON on its standard input."""
    process = subprocess.Popen(
        [python, "-m", module, task], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin as asked, process.stdout as answered:
        asked.write(json.dumps(arguments).encode())
        asked.close()
        printed = answered.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{module} {task} ended with {process.returncode}")
    return Outcome(json.loads(printed.splitlines()[-1]), usage.ru_maxrss << 10)


def answer_to(tasks: dict[str, Any]) -> None:
    """What the module of a task does as ``__main__``."""
    arguments = json.load(sys.stdin)
    print(json.dumps(tasks[sys.argv[1]](**arguments)))
