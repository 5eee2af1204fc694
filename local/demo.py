"""The demonstration: the parts of the embedded cloud put together, and a federation that uses it."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote

import django
import numpy as np
from django.core.management import call_command
from rich.console import Console

from local.cloud import MISLEADING, REGION, Cloud, embedded_cloud, save_bucket
from local.dataset import deal_digits
from local.errors import FolderUnusable
from local.event_pump import EventPump
from local.lambda_runtime import LambdaRuntime
from local.network import initial_model
from local.options import Options
from local.participant import EPOCHS
from local.plots import plot_learning_curve
from local.postgres import embedded_postgres
from local.references import measure_references
from local.report import Report
from local.schedule import Schedule, scheduled_event
from local.script import Script

N_FEATURES, N_CLASSES = 64, 10

#: EventBridge ticks once a minute at most; nobody would want to watch that.
SWEEP_SECONDS = 0.5
BATCH_WINDOW_SECONDS = 0.1


def run_demo(options: Options, console: Console, check: Callable[[], None]) -> None:
    """Train a federation, show how it goes, and leave what came of it in a folder.

    Parameters
    ----------
    options : Options
    console : rich.console.Console
    check : callable
        Called now and then; raises where the run is to stop.

    Raises
    ------
    local.errors.LocalError
        If a part does not start, or a round's aggregate does not come.
    """
    folder = _prepared(options.out)
    report = Report(console, options.clients, options.rounds)
    rng = np.random.default_rng(options.seed)
    digits = deal_digits(options.clients, rng)
    initial = initial_model(N_FEATURES, N_CLASSES, rng)
    script = Script.for_federation(options.clients, options.rounds)
    with (
        report.doing("the embedded cloud starts") as doing,
        _function(options.database, folder) as cloud,
    ):
        from local.federation import Federation  # Django is up only now.

        def progress(what: str) -> None:
            check()
            doing.update(what)

        federation = Federation(cloud, digits, initial, script, rng)
        report.heading()
        accuracies = []
        for finished in federation.rounds(options.rounds, progress):
            report.round(finished)
            accuracies.append(finished.accuracy)
        progress("training centrally, and each client alone, to compare")
        epochs = EPOCHS * options.rounds
        references = measure_references(digits, initial, epochs=epochs, rng=rng)
        plot_learning_curve(folder / "learning-curve.png", accuracies, references, script)
        places = _keep(cloud, options.database, folder)
        scores = federation.final_scores()
    report.clients(federation.participants, references, scores, script)
    report.outcome(accuracies[-1], references)
    report.places(places)


@contextmanager
def _function(database: str, folder: Path) -> Iterator[Cloud]:
    """The function in its runtime, fed by its queue and its schedule, on a migrated database; and
    Django booted in this process as it is in the function."""
    with ExitStack() as stack:
        cloud = stack.enter_context(embedded_cloud())
        if database == "postgres":
            url = stack.enter_context(embedded_postgres()).url
        else:
            url = f"sqlite:///{quote(str(folder / 'database.sqlite3'))}"
        environment = {
            **cloud.environment(),
            "DATABASE_URL": url,
            "DJANGO_SETTINGS_MODULE": "settings",
            "POWERTOOLS_SERVICE_NAME": "aggregator",
            "POWERTOOLS_METRICS_NAMESPACE": "aggregator",
            "POWERTOOLS_TRACE_DISABLED": "true",
        }
        _boot_django(environment)
        runtime = LambdaRuntime(environment=environment, log=folder / "function.log")
        stack.enter_context(runtime)
        runtime.invoke(scheduled_event(REGION))  # A function that does not boot says so here.
        pump = EventPump(
            cloud.queue_url,
            runtime.invoke,
            sqs=cloud.client("sqs"),
            batch_window_seconds=BATCH_WINDOW_SECONDS,
            retry_seconds=1,
        )
        stack.enter_context(pump)
        sweep = Schedule(runtime.invoke, every_seconds=SWEEP_SECONDS, region=REGION)
        stack.enter_context(sweep)
        yield cloud


def _boot_django(environment: dict[str, str]) -> None:
    for name in MISLEADING:
        os.environ.pop(name, None)
    os.environ.update(environment)
    django.setup()
    call_command("migrate", verbosity=0)


def _prepared(folder: Path) -> Path:
    """The folder, without what an earlier run left in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder / "bucket", ignore_errors=True)
        for pattern in ("database.*", "*.log", "learning-curve.png"):
            for left in folder.glob(pattern):
                left.unlink()
        logging.basicConfig(filename=folder / "cloud.log", level=logging.WARNING, force=True)
    except OSError as error:
        raise FolderUnusable(f"cannot write to the folder {folder}: {error.strerror}") from error
    return folder


def _keep(cloud: Cloud, database: str, folder: Path) -> dict[str, Path]:
    """Save what would end with the process; says where everything is."""
    save_bucket(cloud, folder / "bucket")
    if database == "postgres":
        rows = folder / "database.json"
        call_command("dumpdata", "models_app", output=str(rows), indent=1, verbosity=0)
    else:
        rows = folder / "database.sqlite3"
    return {
        "learning curve": folder / "learning-curve.png",
        "aggregates": folder / "bucket" / "aggregates",
        "database": rows,
        "function's log": folder / "function.log",
    }
