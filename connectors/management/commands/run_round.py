"""``manage.py run_round MODEL``: run a round in this process, or in several."""

from __future__ import annotations

import signal
import threading
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from django.core.management.base import CommandError

from aggregation.errors import TemporarilyUnavailable
from aggregation.round import Claim, RoundAnswer, Status
from connectors import application
from connectors.management.arguments import add_model_argument, count_up_to
from connectors.management.local_functions import MAX_PROCESSES, LocalFunctions
from connectors.management.lookup import find_model
from connectors.management.reports import ReportCommand
from connectors.management.tables import cell, to_json
from connectors.usecases.observer import Observer

#: Progress is printed this often.
PROGRESS_SECONDS = 1.0


class Command(ReportCommand):
    """Runs one round; after Ctrl-C, the next request resumes it."""

    help = (
        "Run a round of a model in this process, or in several. If it is interrupted with Ctrl-C, the "
        "next request for a round resumes it. Example: manage.py run_round digits --functions 8"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        add_model_argument(parser)
        parser.add_argument(
            "--functions",
            type=count_up_to(MAX_PROCESSES),
            default=1,
            metavar="N",
            help="processes that share the round, each with MEMORY_BUDGET_MB, as functions do on AWS; "
            f"1 to {MAX_PROCESSES}, default: %(default)s",
        )

    def run(self, *args: Any, model: str, functions: int, as_json: bool, **options: Any) -> None:
        model_id = find_model(model).pk
        try:
            with _stop_on_interrupt() as stop:
                answer = self._run_round(model_id, functions, Report(self, stop))
        except TemporarilyUnavailable as error:
            raise CommandError(f"{error}; the next request for a round resumes it") from error
        except Exception as error:
            raise CommandError(
                f"the round failed: {type(error).__name__}: {error}; its updates are ready again, "
                f"and `manage.py rounds {model_id}` shows the error"
            ) from error
        if answer.status is Status.FAILED:
            raise CommandError(f"the round failed: {answer.reason}; its updates are ready again")
        if as_json:
            self.stdout.write(to_json(asdict(answer)))
            return
        self.stdout.write(
            f"{answer.status}"
            + (f": {cell(answer.reason)}" if answer.reason else "")
            + (f", aggregate {answer.aggregate_id}" if answer.aggregate_id else "")
            + f" ({answer.updates_used} updates used, {answer.updates_rejected} rejected)"
        )

    def _run_round(self, model_id: int, functions: int, report: Report) -> RoundAnswer:
        if functions == 1:
            runner = application.round_runner(report, out_of_time=report.is_stopped)
            return runner.run_one(model_id)
        local = LocalFunctions(functions, report.was_interrupted, report.tasks_done)
        runner = application.round_runner(
            report, out_of_time=report.is_stopped, distribute=local.distribute
        )
        answer = runner.run_one(model_id)
        if answer.status is Status.PUBLISHED:
            self.stderr.write(
                f"{local.processes} processes shared the round"
                if local.processes
                else "one process did the round: only a result in safetensors of several parts is shared"
            )
        return answer


class Report(Observer):
    """Prints the progress of a round; is asked after every chunk whether to stop."""

    def __init__(self, command: Command, stop: threading.Event) -> None:
        self._command = command
        self._stop = stop
        self._chunks = 0
        self._next = time.monotonic() + PROGRESS_SECONDS

    def round_claimed(self, claim: Claim) -> None:
        self._command.stderr.write(
            f"round {claim.number}, attempt {claim.attempt}: {len(claim.updates)} updates claimed"
        )

    def step_delayed(self, step: str, error: Exception) -> None:
        self._command.stderr.write(f"{step} failed, the next sweep repeats it: {error}")

    def is_stopped(self) -> bool:
        """Count a chunk, and return whether Ctrl-C was pressed."""
        self._chunks += 1
        self._write_progress(f"{self._chunks} chunks done")
        return self._stop.is_set()

    def was_interrupted(self) -> bool:
        """Return whether Ctrl-C was pressed."""
        return self._stop.is_set()

    def tasks_done(self, kind: str, done: int, total: int) -> None:
        """Report the progress of a distributed round."""
        self._write_progress(f"{kind}: {done} of {total} tasks done")

    def _write_progress(self, text: str) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + PROGRESS_SECONDS
            self._command.stderr.write(text)


@contextmanager
def _stop_on_interrupt() -> Iterator[threading.Event]:
    """Give an event that Ctrl-C sets; outside the main thread, as in the console, nothing sets it."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.signal(signal.SIGINT, lambda *_: stop.set())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
