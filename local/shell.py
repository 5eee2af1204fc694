"""`python -m local.shell FOLDER`: a shell in which the embedded cloud is there, for a federation of one's
own. Leaving the shell ends it; what was in the bucket and the database stays in the folder."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote

from local.cloud import MISLEADING, REGION, Cloud, embedded_cloud, save_bucket
from local.errors import FolderUnusable, LocalError
from local.event_pump import EventPump
from local.lambda_runtime import LambdaRuntime
from local.schedule import Schedule, scheduled_event

#: As often as EventBridge can.
SWEEP_SECONDS = 60.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Open the shell; its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m local.shell",
        description="Open a shell with a bucket, a queue, a database and the function, on this machine.",
    )
    parser.add_argument("folder", type=Path, help="a new folder, for what is left in the end")
    parser.add_argument(
        "command", nargs="*", default=[], help="what to run instead of your shell; put -- before it"
    )
    options = parser.parse_args(arguments)
    command = options.command or [os.environ.get("SHELL", "/bin/sh")]
    try:
        with embedded_function(new_folder(options.folder)) as environment:
            print(f"The bucket is {environment['BUCKET']}. Leave this shell with exit.", flush=True)
            return run(command, environment)
    except LocalError as error:
        print(error, file=sys.stderr)
        return 1


def new_folder(path: Path) -> Path:
    """Make the folder; one that is there might hold a federation that is still wanted.

    Raises
    ------
    FolderUnusable
    """
    folder = path.resolve()
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise FolderUnusable(f"cannot make the folder {folder}: {error.strerror}") from error
    return folder


@contextmanager
def embedded_function(folder: Path) -> Iterator[dict[str, str]]:
    """The function in its runtime, fed by its queue and its schedule, on a migrated database.

    Yields
    ------
    dict
        The environment in which commands and clients find all of it.
    """
    logging.basicConfig(filename=folder / "cloud.log", level=logging.WARNING, force=True)
    with ExitStack() as stack:
        cloud = stack.enter_context(embedded_cloud())
        environment = _environment(cloud, folder)
        _manage(environment, "migrate", "--verbosity", "0")
        runtime = LambdaRuntime(environment=environment, log=folder / "function.log")
        stack.enter_context(runtime)
        runtime.invoke(scheduled_event(REGION))  # A function that does not boot says so here.
        pump = EventPump(cloud.queue_url, runtime.invoke, sqs=cloud.client("sqs"), retry_seconds=1)
        stack.enter_context(pump)
        stack.enter_context(Schedule(runtime.invoke, every_seconds=SWEEP_SECONDS, region=REGION))
        stack.callback(save_bucket, cloud, folder / "bucket")
        yield environment


def _environment(cloud: Cloud, folder: Path) -> dict[str, str]:
    return {
        **cloud.environment(),
        "DATABASE_URL": f"sqlite:///{quote(str(folder / 'database.sqlite3'))}",
        "DJANGO_SETTINGS_MODULE": "settings",
        "POWERTOOLS_SERVICE_NAME": "aggregator",
        "POWERTOOLS_METRICS_NAMESPACE": "aggregator",
        "POWERTOOLS_TRACE_DISABLED": "true",
    }


def _manage(environment: Mapping[str, str], *arguments: str) -> None:
    subprocess.run([sys.executable, "manage.py", *arguments], env=in_shell(environment), check=True)


def in_shell(environment: Mapping[str, str]) -> dict[str, str]:
    """The user's own environment with that one in it."""
    inherited = {name: value for name, value in os.environ.items() if name not in MISLEADING}
    return {**inherited, **environment}


def run(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a command and wait for it. Ctrl-C is for the command: it ends by it, or does not."""
    # A handler, unlike SIG_IGN, is not handed on to the command.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        with subprocess.Popen(command, env=in_shell(environment)) as process:
            return process.wait()
    finally:
        signal.signal(signal.SIGINT, before)


if __name__ == "__main__":
    sys.exit(main())
