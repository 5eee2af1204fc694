"""Cold starts of the function as it would be deployed, and of one that only imports what it needs."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from local import package
from local.lambda_runtime import ARCHITECTURES, LambdaRuntime

WARM_INVOCATIONS = 5

#: The line of the emulator's log with the duration of INIT.
INIT_REPORT = re.compile(r"INIT REPORT\(durationMs: ([0-9.]+)\)")

#: Calls the measured function and returns the times.
PROBE = """
import os
import time
from importlib import import_module

module, name = os.environ["PROBED"].rsplit(".", 1)
start = time.monotonic()
function = getattr(import_module(module), name)
imported = time.monotonic() - start


def handler(event, context):
    began, cpu = time.monotonic(), time.process_time()
    function(event, context)
    return {"cpu": cpu, "imported": imported, "began": began, "ended": time.monotonic()}
"""

FLOOR = """
import boto3, numpy, psycopg
import django
from django.conf import settings

settings.configure(INSTALLED_APPS=["floor_app"])
django.setup()


def handler(event, context):
    return {}
"""

#: An app as `django-admin startapp` creates it.
FLOOR_APP = {
    "__init__.py": "",
    "apps.py": """
from django.apps import AppConfig


class FloorAppConfig(AppConfig):
    default_auto_field = "django.db.models.BigAutoField"
    name = "floor_app"
""",
    "models.py": "from django.db import models\n",
}

FUNCTIONS = {"function": "lambda_handler.handler", "floor": "floor.handler"}


@dataclass(frozen=True)
class Start:
    """The times of one cold start, in seconds.

    Parameters
    ----------
    init : float
        INIT as the emulator reports it: the interpreter, the runtime client, the function's module.
    cpu : float
        The processor time of INIT, which depends less on the machine's load.
    imported : float
        The part of INIT that imports the function's module.
    first, warm : float
        The handler's first invocation, and the best of the following ones.
    """

    init: float
    cpu: float
    imported: float
    first: float
    warm: float


def build(folder: Path, python: str) -> Path:
    """Build what would be deployed into a folder, and add the probe and the floor."""
    progress("building")
    built, client = folder / "function", folder / "client"
    package.build(ARCHITECTURES[platform.machine().lower()], built)
    (built / "probe.py").write_text(PROBE)
    (built / "floor.py").write_text(FLOOR)
    (built / "floor_app").mkdir()
    for name, text in FLOOR_APP.items():
        (built / "floor_app" / name).write_text(text)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    client_version = f"awslambdaric=={version('awslambdaric')}"
    subprocess.run([*pip, "--target", str(client), client_version], check=True)
    return built


class Starts:
    """Starts the functions.

    Parameters
    ----------
    built : Path
    python : str
    environment : mapping
    event
        An event for which the function has nothing to do.
    """

    def __init__(
        self, built: Path, python: str, environment: Mapping[str, str], event: Any
    ) -> None:
        self._built = built
        self._python = python
        self._environment = {**environment, "PYTHONPATH": str(built.with_name("client"))}
        self._event = event

    def alternate(self, starts: int) -> dict[str, list[Start]]:
        """Measure a number of starts of each function, after one of each that fills the caches."""
        for name in FUNCTIONS:
            self._start(name)
        measured: dict[str, list[Start]] = {name: [] for name in FUNCTIONS}
        for number in range(starts):
            progress(f"start {number + 1} of {starts}")
            for name in FUNCTIONS:
                measured[name].append(self._start(name))
        return measured

    def _start(self, name: str) -> Start:
        log = self._built.with_name("log")
        log.unlink(missing_ok=True)
        with LambdaRuntime(
            "probe.handler",
            environment={**self._environment, "PROBED": FUNCTIONS[name]},
            project=self._built,
            python=self._python,
            log=log,
        ) as runtime:
            cold = runtime.invoke(self._event)  # The emulator starts the runtime for it.
            warm = [runtime.invoke(self._event) for _ in range(WARM_INVOCATIONS)]
        (init,) = INIT_REPORT.findall(log.read_text())
        return Start(
            init=float(init) / 1000,
            cpu=cold["cpu"],
            imported=cold["imported"],
            first=_duration(cold),
            warm=min(map(_duration, warm)),
        )


def _duration(times: Mapping[str, float]) -> float:
    return times["ended"] - times["began"]


def progress(line: str) -> None:
    """Print the current step."""
    print(line, file=sys.stderr, flush=True)
