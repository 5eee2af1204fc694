"""The demonstration: the embedded cloud, and a federation that uses it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import django
import numpy as np
from django.core.management import call_command
from rich.console import Console

from local.cloud import REGION, Cloud, embedded_cloud
from local.dataset import deal_digits
from local.function import MISLEADING, function_environment, running_function, sqlite_url
from local.lambda_runtime import LambdaRuntime
from local.network import initial_model
from local.options import Options
from local.participant import EPOCHS
from local.plots import plot_learning_curve
from local.postgres import embedded_postgres
from local.references import measure_references
from local.report import Report
from local.saving import save_bucket, unsaved_message
from local.script import Script
from local.shared_rounds import HANDLER, shared_rounds
from local.step_functions import await_executions

if TYPE_CHECKING:
    from local.mask_keeper import RunningKeeper

N_FEATURES, N_CLASSES = 64, 10

#: EventBridge's shortest interval is a minute, which would be too slow to watch.
SWEEP_SECONDS = 0.5
BATCH_WINDOW_SECONDS = 0.1


def run_demo(options: Options, console: Console, check: Callable[[], None]) -> None:
    """Train a federation, show its progress, and save the results in a folder.

    Parameters
    ----------
    options : Options
        The folder ``options.out`` exists and has no results.
    console : rich.console.Console
    check : callable
        Called between steps; it raises an exception to stop the run.

    Raises
    ------
    local.errors.LocalError
        If a part does not start, or a round has no aggregate in time.
    """
    folder = options.out
    report = Report(
        console,
        options.clients,
        options.rounds,
        with_functions=options.functions > 1,
        with_epsilon=options.privacy == "dp",
    )
    logging.basicConfig(filename=folder / "cloud.log", level=logging.WARNING, force=True)
    rng = np.random.default_rng(options.seed)
    digits = deal_digits(options.clients, rng)
    initial = initial_model(N_FEATURES, N_CLASSES, rng)
    masked = options.privacy == "secure"
    script = Script.for_federation(options.clients, options.rounds, masked=masked)
    with (
        report.status("starting the embedded cloud") as status,
        _functions(options, folder) as cloud,
        _mask_keeper(options, cloud, folder) as keeper,
    ):
        from local.federation import Federation  # Its models need Django, which has started now.

        def progress(step: str) -> None:
            check()
            status.update(step)

        noise = _noise(options)
        keys = folder / "client-keys"
        federation = Federation(cloud, digits, initial, script, rng, keeper, keys, noise)
        report.heading()
        accuracies, spent = [], ""
        for finished in federation.rounds(options.rounds, progress):
            report.round(finished)
            accuracies.append(finished.accuracy)
            spent = finished.spent
        progress("training centrally, and each client alone, for comparison")
        epochs = EPOCHS * options.rounds
        references = measure_references(digits, initial, epochs=epochs, rng=rng)
        plot_learning_curve(folder / "learning-curve.png", accuracies, references, script, spent)
        places = _save(cloud, options.database, folder, console)
        scores = federation.final_scores()
    report.clients(federation.participants, references, scores, script)
    report.outcome(accuracies[-1], references, spent)
    report.places(places)


@contextmanager
def _functions(options: Options, folder: Path) -> Iterator[Cloud]:
    """Run the functions on a migrated database, and start Django in this process with their environment."""
    with ExitStack() as stack:
        cloud = stack.enter_context(embedded_cloud())
        postgres = options.database == "postgres"
        url = stack.enter_context(embedded_postgres()).url if postgres else sqlite_url(folder)
        environment = function_environment(cloud, url)
        if options.privacy == "dp":
            environment["PRIVACY_KEY"] = _new_key(folder)
        _start_django(environment)
        if options.functions > 1:
            stack.enter_context(_sharing_functions(cloud, environment, options.functions, folder))
        else:
            stack.enter_context(_main_function(cloud, environment, folder))
        yield cloud


def _new_key(folder: Path) -> str:
    """Create the key of the seeds of noise, and return its path."""
    from connectors.storage.seeds import create_key_file  # Only private models need cryptography.

    path = folder / "privacy.key"
    create_key_file(path)
    return str(path)


def _noise(options: Options) -> dict[str, Any]:
    """Return the fields that make the model private, if it is to be."""
    if options.privacy != "dp":
        return {}
    from local.noise import private_settings

    return private_settings(options.clients, options.rounds)


@contextmanager
def _mask_keeper(options: Options, cloud: Cloud, folder: Path) -> Iterator[RunningKeeper | None]:
    """Run the mask keeper, if updates are masked."""
    if options.privacy != "secure":
        yield None
        return
    from local.mask_keeper import running_mask_keeper  # Only masked updates need cryptography.

    log = folder / "mask-keeper.log"
    with running_mask_keeper(cloud, cloud.environment(), log=log) as keeper:
        yield keeper


@contextmanager
def _main_function(
    cloud: Cloud, environment: dict[str, str], folder: Path, **options: str
) -> Iterator[LambdaRuntime]:
    """Run the aggregating function."""
    with running_function(
        cloud,
        environment,
        log=folder / "function.log",
        sweep_seconds=SWEEP_SECONDS,
        batch_window_seconds=BATCH_WINDOW_SECONDS,
        **options,
    ) as main:
        yield main


@contextmanager
def _sharing_functions(
    cloud: Cloud, environment: dict[str, str], functions: int, folder: Path
) -> Iterator[None]:
    """Run the aggregating function, and others that share its rounds under the state machine."""
    with shared_rounds(cloud, environment, functions, folder / "workers.log") as shared:
        variables = {**environment, **shared.environment}
        with _main_function(cloud, variables, folder, handler=HANDLER) as shared.main:
            yield
            await_executions(cloud.endpoint, shared.environment["STATE_MACHINE_ARN"], REGION)


def _start_django(environment: dict[str, str]) -> None:
    for name in MISLEADING:
        os.environ.pop(name, None)
    os.environ.update(environment)
    django.setup()
    call_command("migrate", verbosity=0)


def _save(cloud: Cloud, database: str, folder: Path, console: Console) -> dict[str, Path]:
    """Save what would end with the process; return the paths of the results by name."""
    if unsaved := save_bucket(cloud, folder / "bucket"):
        console.print(unsaved_message(unsaved), markup=False, highlight=False)
    rows = folder / "database.sqlite3"
    if database == "postgres":
        rows = folder / "database.json"
        call_command("dumpdata", "models_app", output=str(rows), indent=1, verbosity=0)
    return {
        "learning curve": folder / "learning-curve.png",
        "aggregates": folder / "bucket" / "aggregates",
        "database": rows,
        "function's log": folder / "function.log",
    }
