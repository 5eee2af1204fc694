"""One round in several processes of this machine: what the state machine does, without AWS."""

from __future__ import annotations

import multiprocessing
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from django.conf import settings

from aggregation.errors import OutOfTime, TemporarilyUnavailable
from aggregation.round import Claim, RoundAnswer
from aggregation.round.plan import Execution
from connectors import application
from connectors.management.worker import serve
from connectors.runtime.events import RoundTask
from connectors.usecases.distributed_round import RoundDistributor, TaskFailed, TaskRunner

#: Each process takes MEMORY_BUDGET_MB.
MAX_PROCESSES = 64

#: A task is repeated this often if its process died or a service did not answer, as in the state machine.
MAX_RETRIES = 4
FIRST_RETRY_SECONDS = 1.0

#: Ctrl-C is looked for this often.
POLL_SECONDS = 0.1

#: A process that does not end by itself within this time is killed.
STOP_SECONDS = 10


class LocalFunctions:
    """Has a round done by several processes.

    Parameters
    ----------
    functions : int
        How many processes share the round, if its result has as many parts.
    is_stopped : callable
        Returns whether the user has asked to stop.
    on_progress : callable
        Called with the kind of the tasks, and how many of how many of them are done.

    Attributes
    ----------
    processes : int
        How many processes shared the last round; 0 if it was not distributed.
    """

    def __init__(
        self,
        functions: int,
        is_stopped: Callable[[], bool],
        on_progress: Callable[[str, int, int], None],
    ) -> None:
        # The lease is that of a round in this process: if the process dies, the round is not held longer.
        connector = application.round_connector(execution_seconds=settings.LEASE_SECONDS)
        resources = application.round_resources()
        self._functions = functions
        self._is_stopped = is_stopped
        self._on_progress = on_progress
        self._tasks = TaskRunner(connector, resources)
        self._distributor = RoundDistributor(
            connector,
            resources,
            self,
            bytes_per_second=settings.FUNCTION_BYTES_PER_SECOND,
            max_functions=functions,
        )
        self.processes = 0

    def distribute(self, claim: Claim) -> RoundAnswer | None:
        """Do a claimed round in the given number of processes, whatever its model's target is."""
        chosen = replace(claim, max_functions=self._functions, target_seconds=0.0)
        return self._distributor.distribute(chosen)

    def start(self, name: str, execution: Execution) -> RoundAnswer:
        """Do the tasks of an execution; return the answer of the round."""
        self.processes = min(self._functions, execution.functions)
        with WorkerPool(self.processes, self._is_stopped) as pool:
            while True:
                try:
                    step = self._next(pool, execution)
                except OutOfTime:
                    return self._tasks.suspend(execution.plan, execution.attempt)
                if isinstance(step, RoundAnswer):
                    return step
                execution = step

    def _next(self, pool: WorkerPool, step: Execution) -> Execution | RoundAnswer:
        """Do the tasks that come next, and return what follows them."""
        if step.select:
            pool.run("measure", step, step.measure, self._on_progress)
            return self._tasks.select(step.plan, step.attempt, step.centre)
        pool.run("combine", step, step.combine, self._on_progress)
        return self._tasks.publish(step.plan, step.attempt)


class WorkerPool:
    """Processes that do the tasks of a round.

    Parameters
    ----------
    count : int
    is_stopped : callable
        Asked while tasks run; when it returns True, they stop.
    """

    def __init__(self, count: int, is_stopped: Callable[[], bool]) -> None:
        self._workers = [WorkerProcess() for _ in range(count)]
        self._is_stopped = is_stopped
        self._stopping = threading.Event()
        self._free: queue.Queue[WorkerProcess] = queue.Queue()
        for worker in self._workers:
            self._free.put(worker)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for worker in self._workers:
            worker.close()

    def run(
        self,
        kind: str,
        step: Execution,
        items: Sequence[int],
        on_progress: Callable[[str, int, int], None],
    ) -> None:
        """Do some tasks of an execution, as many at a time as there are processes.

        Raises
        ------
        OutOfTime
            If the user stopped them.
        TemporarilyUnavailable, TaskFailed
            If a task could not be done.
        """
        with ThreadPoolExecutor(len(self._workers)) as threads:
            tasks = [
                RoundTask(kind=kind, plan=step.plan, item=item, centre=step.centre)
                for item in items
            ]
            running = {threads.submit(self._do, task) for task in tasks}
            try:
                while running:
                    done, running = wait(running, POLL_SECONDS, FIRST_EXCEPTION)
                    for each in done:
                        each.result()
                    if done:
                        on_progress(kind, len(tasks) - len(running), len(tasks))
                    if running and self._is_stopped():
                        raise OutOfTime("stopped by the user")
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                self._stopping.set()
                for worker in self._workers:
                    worker.stop()
                raise

    def _do(self, task: RoundTask) -> dict[str, Any]:
        """Do a task in the next free process, and repeat it after a temporary error."""
        for retries in range(MAX_RETRIES + 1):
            worker = self._free.get()
            try:
                return worker.do(replace(task, retries=retries))
            except TemporarilyUnavailable:
                if retries == MAX_RETRIES or self._stopping.is_set():
                    raise
            finally:
                self._free.put(worker)
            self._stopping.wait(FIRST_RETRY_SECONDS * 2**retries)
        raise AssertionError("the last repetition returns or raises")


class WorkerProcess:
    """A process that does one task at a time. It is started for its first task, and again if it died."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._process: Any = None
        self._connection: Any = None

    def do(self, task: RoundTask) -> dict[str, Any]:
        """Return what a task did.

        Raises
        ------
        TemporarilyUnavailable
            If the process died, or a service did not answer it.
        OutOfTime, TaskFailed
        """
        if self._process is None:
            self._start()
        try:
            self._connection.send(task)
            reply: dict[str, Any] = self._connection.recv()
        except (EOFError, OSError) as error:
            self._process.join(STOP_SECONDS)
            code = self._process.exitcode
            self.close()
            raise TemporarilyUnavailable(
                f"a process of the round ended with exit code {code}"
            ) from error
        if "errorType" not in reply:
            return reply
        name, message = reply["errorType"], reply["errorMessage"]
        if name == "OutOfTime":
            raise OutOfTime(message)
        if name == "TemporarilyUnavailable":
            raise TemporarilyUnavailable(message)
        raise TaskFailed(f"{name}: {message}")

    def _start(self) -> None:
        self._connection, other_end = self._context.Pipe()
        self._process = self._context.Process(target=serve, args=(other_end,), daemon=True)
        self._process.start()
        other_end.close()  # So that the death of the process is noticed.

    def stop(self) -> None:
        """Ask the process to stop its task; it then ends."""
        if self._connection is not None:
            with suppress(OSError):
                self._connection.send(None)

    def close(self) -> None:
        """End the process."""
        if self._process is None:
            return
        self._connection.close()
        self._process.join(STOP_SECONDS)
        self._process.kill()
        self._process.join()
        self._process = self._connection = None
