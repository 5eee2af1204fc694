"""`python -m local.shell FOLDER`: a shell with the embedded cloud, for a federation of your own.

Leaving the shell ends the cloud; the bucket and the database stay in the folder.
"""

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

from local.api_front import api_front
from local.cloud import Cloud, embedded_cloud
from local.errors import FolderUnusable, LocalError
from local.function import MISLEADING, function_environment, running_function, sqlite_url
from local.lambda_runtime import LambdaRuntime
from local.saving import save_bucket, unsaved_message

#: The shortest interval that EventBridge has.
SWEEP_SECONDS = 60.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Open the shell and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m local.shell",
        description="Open a shell with a bucket, a queue, a database and the function, on this machine.",
    )
    parser.add_argument("folder", type=Path, help="a new folder, in which the results are saved")
    parser.add_argument(
        "command", nargs="*", default=[], help="a command to run instead of your shell, after --"
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
    """Create the folder. An existing one is refused: it may hold a federation that is still needed.

    Raises
    ------
    FolderUnusable
    """
    folder = path.resolve()
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise FolderUnusable(f"cannot create the folder {folder}: {error.strerror}") from error
    return folder


@contextmanager
def embedded_function(folder: Path) -> Iterator[dict[str, str]]:
    """Run the function and the API on a migrated SQLite database, and save the bucket at the end.

    Yields
    ------
    dict
        The environment in which commands and clients find the cloud; ``FEDERATION_URL`` is the API.
    """
    logging.basicConfig(filename=folder / "cloud.log", level=logging.WARNING, force=True)
    with embedded_cloud() as cloud:
        try:
            with running_services(cloud, folder) as environment:
                yield environment
        finally:
            _save(cloud, folder / "bucket")


@contextmanager
def running_services(cloud: Cloud, folder: Path) -> Iterator[dict[str, str]]:
    """Run the function and the API on a migrated SQLite database, and yield their environment."""
    environment = function_environment(cloud, sqlite_url(folder)) | {"CLIENT_API": "on"}
    migrate = [sys.executable, "manage.py", "migrate", "--verbosity", "0"]
    subprocess.run(migrate, env=in_shell(environment), check=True)
    with ExitStack() as stack:
        stack.enter_context(
            running_function(
                cloud, environment, log=folder / "function.log", sweep_seconds=SWEEP_SECONDS
            )
        )
        api = stack.enter_context(
            LambdaRuntime("lambda_handler.api", environment=environment, log=folder / "api.log")
        )
        url = stack.enter_context(api_front(api.invoke))
        yield {**environment, "FEDERATION_URL": url}


def _save(cloud: Cloud, folder: Path) -> None:
    if unsaved := save_bucket(cloud, folder):
        print(unsaved_message(unsaved), file=sys.stderr)


def in_shell(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the user's own environment, overridden by the given one."""
    inherited = {name: value for name, value in os.environ.items() if name not in MISLEADING}
    return {**inherited, **environment}


def run(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a command and wait for it. Ctrl-C is left to the command."""
    # A handler is not inherited by the command, as SIG_IGN would be.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        with subprocess.Popen(command, env=in_shell(environment)) as process:
            return process.wait()
    finally:
        signal.signal(signal.SIGINT, before)


if __name__ == "__main__":
    sys.exit(main())
