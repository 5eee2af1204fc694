"""``python -m benchmarks.cold``: what a cold start of the function takes; writes `cold.md`.

The zip that would be deployed is built for this machine and started in the Lambda runtime emulator, on
the runtime's Python, in turns with a function that only imports what any such function has to: the floor.
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

#: INIT, in times of the floor's.
BAR = 1.3


def main() -> int:
    """Measure; the exit code tells whether the bars were met."""
    parser = ArgumentParser(prog="python -m benchmarks.cold", description=__doc__)
    parser.add_argument("--starts", type=int, default=15, help="of either function")
    options = parser.parse_args()
    python = package.interpreter(package.PYTHON)
    if python is None:
        parser.error(f"the function is deployed on Python {package.PYTHON}, which is not here")
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
        starts = Starts(built, python, environment, event).in_turns(options.starts)
    text, met = report(starts)
    RESULTS.write_text(text)
    print(text)
    return 0 if met else 1


def _idle_model(environment: Mapping[str, str]) -> int:
    """Make the tables, and a model with nothing ready; its id."""
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
    """The page, and whether the bars were met."""
    bars = [
        Bar(f"{what}: times the floor's", _ratio(starts, field), BAR, at_least=False)
        for what, field in (("INIT", "init"), ("work of the processor in INIT", "cpu"))
    ]
    count, busy = len(starts["floor"]), os.getloadavg()[1]
    preface = (
        f"By `make bench-cold` on {os.cpu_count()} cores, load {busy:.1f} over the last minutes: "
        f"{count} fresh starts of either function, in turns, in the Lambda runtime emulator on Python "
        f"{package.PYTHON}, of the zip that would be deployed. The floor imports boto3, numpy, psycopg "
        "and Django with an empty app, and answers nothing. INIT is what the emulator reports, with the "
        "interpreter and AWS's runtime client. The invocations are of a model with nothing ready, "
        "against an embedded PostgreSQL; the first one connects. Milliseconds: the median, and the "
        "least and the most.\n"
    )
    rows = [
        ("INIT", *_cells(starts, "init")),
        ("of it, work of the processor", *_cells(starts, "cpu")),
        ("of it, the function's module", *_cells(starts, "imported")),
        ("first invocation", *_cells(starts, "first")),
        ("warm invocation", *_cells(starts, "warm")),
    ]
    return (
        f"# Cold start\n\n{preface}\n"
        + table(("", "figure", "bar", ""), [bar.row() for bar in bars])
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
