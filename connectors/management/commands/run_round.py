"""``manage.py run_round MODEL``: what the function does, here and now."""

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
from aggregation.round import Claim, Status, run_round
from connectors import DjangoAggConnector
from connectors.limits import round_resources
from connectors.management.reports import (
    ReportCommand,
    add_model_argument,
    found,
    plain_message,
    shown,
)
from connectors.workflow.aggregator import DEFAULT_SETTINGS
from models_app.models import FederatedModel

#: Progress is told this often.
TELL_EVERY_SECONDS = 1.0


class Command(ReportCommand):
    """Runs one round; Ctrl-C leaves it for whoever asks for it next."""

    help = (
        "Run a round of a model in this process. Stopped with Ctrl-C, it is gone on with by the next "
        "who asks. Example: manage.py run_round 3"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        add_model_argument(parser)

    def handle(self, *args: Any, model: int, as_json: bool, **options: Any) -> None:
        connector = DjangoAggConnector(DEFAULT_SETTINGS)
        with plain_message():
            found(FederatedModel, model)
        try:
            with _stop_on_interrupt() as stop:
                answer = run_round(
                    connector,
                    model,
                    resources=round_resources(),
                    out_of_time=_Progress(self, stop).tell,
                    on_claim=self._tell_claim,
                )
        except TemporarilyUnavailable as error:
            raise CommandError(f"{error}; the round goes on when it is asked for again") from error
        except Exception as error:
            raise CommandError(
                f"the round failed: {type(error).__name__}: {error}; its updates are ready again, "
                f"and `manage.py rounds {model}` keeps the error"
            ) from error
        if answer.status is Status.FAILED:
            raise CommandError(f"the round failed: {answer.reason}; its updates are ready again")
        if answer.status is Status.PUBLISHED:
            self.write_pointer(model)
        if as_json:
            self.report_one(asdict(answer), as_json=True)
            return
        self.stdout.write(
            f"{answer.status}"
            + (f": {shown(answer.reason)}" if answer.reason else "")
            + (f", aggregate {answer.aggregate_id}" if answer.aggregate_id else "")
            + f" ({answer.updates_used} updates used, {answer.updates_rejected} rejected)"
        )

    def _tell_claim(self, claim: Claim) -> None:
        self.stderr.write(
            f"round {claim.number}, attempt {claim.attempt}: {len(claim.updates)} updates claimed"
        )


class _Progress:
    """Tells how far a round is; asked after every chunk whether to stop."""

    def __init__(self, command: Command, stop: threading.Event) -> None:
        self._command = command
        self._stop = stop
        self._chunks = 0
        self._next = time.monotonic() + TELL_EVERY_SECONDS

    def tell(self) -> bool:
        self._chunks += 1
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + TELL_EVERY_SECONDS
            self._command.stderr.write(f"{self._chunks} chunks done")
        return self._stop.is_set()


@contextmanager
def _stop_on_interrupt() -> Iterator[threading.Event]:
    """An event that Ctrl-C sets. Only the main thread can ask for that: the admin runs elsewhere."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.signal(signal.SIGINT, lambda *_: stop.set())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
