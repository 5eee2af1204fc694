"""``python -m benchmarks.cold``: measure cold starts of the function, and write `cold.md`.

The zip that would be deployed is built for this machine and started in the Lambda runtime emulator, with
the runtime's Python, alternating with the floor: a function that only imports what every function needs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.cold_starts import FUNCTIONS, Start, Starts, build
from benchmarks.report import Bar, table
from local import package
from local.cloud import embedded_cloud
from local.lambda_runtime import PROJECT
from local.postgres import embedded_postgres

RESULTS = Path(__file__).with_name("cold.md")

#: The most that INIT may take, as a multiple of the floor's.
BAR = 1.3


def main() -> int:
    """Measure, and return 0 if the targets were met."""
    parser = ArgumentParser(prog="python -m benchmarks.cold", description=__doc__)
    parser.add_argument("--starts", type=int, default=15, help="starts of each function")
    options = parser.parse_args()
    python = package.interpreter(package.PYTHON)
    if python is None:
        parser.error(f"the function runs on Python {package.PYTHON}, which is not installed here")
    with (
        TemporaryDirectory(prefix="benchmarks-cold-") as folder,
        embedded_cloud() as cloud,
        embedded_postgres() as database,
    ):
        environment = cloud.environment() | {
            "DATABASE_URL": database.url,
            "DJANGO_SETTINGS_MODULE": "settings",
            "POWERTOOLS_SERVICE_NAME": "benchmarks",
            "POWERTOOLS_METRICS_NAMESPACE": "benchmarks",
            "POWERTOOLS_TRACE_DISABLED": "true",
        }
        event = {"detail-type": "Scheduled Event", "detail": {"model_id": _idle_model(environment)}}
        built = build(Path(folder), python)
        starts = Starts(built, python, environment, event).alternate(options.starts)
    text, met = report(starts)
    RESULTS.write_text(text)
    print(text)
    return 0 if met else 1


def _idle_model(environment: Mapping[str, str]) -> int:
    """Create the tables and a model without updates, and return the model's id."""
    for command in (["migrate", "--verbosity", "0"], ["create_model", "idle", "--json"]):
        done = subprocess.run(
            [sys.executable, "manage.py", *command],
            cwd=PROJECT,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    return int(json.loads(done.stdout)["model"])


def report(starts: Mapping[str, Sequence[Start]]) -> tuple[str, bool]:
    """Return the page, and whether the targets were met."""
    bars = [
        Bar(f"{name}: times the floor's", _ratio(starts, field), BAR, at_least=False)
        for name, field in (("INIT", "init"), ("processor time of INIT", "cpu"))
    ]
    count, busy = len(starts["floor"]), os.getloadavg()[1]
    preface = (
        f"Written by `make bench-cold` on {os.cpu_count()} cores, with load {busy:.1f} over the last "
        f"minutes: {count} alternating starts of each function, of the deployed zip, in the "
        f"Lambda runtime emulator with Python {package.PYTHON}. The floor imports boto3, numpy, psycopg "
        "and Django with an empty app, and does nothing. INIT is what the emulator reports, including the "
        "interpreter and AWS's runtime client. The invocations ask for a round of a model without updates, "
        "with an embedded PostgreSQL; the first one connects to it. The figures are medians in "
        "milliseconds, with the minimum and the maximum.\n"
    )
    rows = [
        ("INIT", *_cells(starts, "init")),
        ("of it, processor time", *_cells(starts, "cpu")),
        ("of it, the function's module", *_cells(starts, "imported")),
        ("first invocation", *_cells(starts, "first")),
        ("warm invocation", *_cells(starts, "warm")),
    ]
    return (
        f"# Cold start\n\n{preface}\n"
        + table(("", "figure", "target", ""), [bar.row() for bar in bars])
        + "\n"
        + table(("ms", *FUNCTIONS), rows)
    ), all(bar.met for bar in bars)


def _ratio(starts: Mapping[str, Sequence[Start]], field: str) -> float:
    function, floor = (median(getattr(each, field) for each in starts[name]) for name in FUNCTIONS)
    return float(function / floor)


def _cells(starts: Mapping[str, Sequence[Start]], field: str) -> Iterator[str]:
    for name in FUNCTIONS:
        times = [getattr(each, field) * 1000 for each in starts[name]]
        yield f"{median(times):.1f} ({min(times):.1f} to {max(times):.1f})"


if __name__ == "__main__":
    sys.exit(main())
