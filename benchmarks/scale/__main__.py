"""``python -m benchmarks.scale``: measure pages and commands, and write `scale.md`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from local.postgres import embedded_postgres

#: As in `benchmarks.scale.seed`, which is imported once Django is booted.
MODELS = 24

RESULTS = Path(__file__).parents[1] / "scale.md"

#: Every page and command answers within this time, and in statements with no more parameters.
MAX_SECONDS, MAX_PARAMETERS = 1.0, 1000


def costs(url: str, clients: int, rounds: int) -> list[dict[str, Any]]:
    """Measure in a process of its own, with the console, on an empty database.

    Parameters
    ----------
    url : str
        Of the database.
    clients, rounds : int
        Size of the federation; every client sends an update in every round.
    """
    environment = {name: value for name, value in os.environ.items() if name != "BUCKET"}
    environment |= {
        "ADMIN": "true",
        "DATABASE_URL": url,
        "DJANGO_SETTINGS_MODULE": "settings",
        "SECRET_KEY": "a key for measurements, which protects nothing at all",
    }
    command = [sys.executable, "-m", "benchmarks.scale.measure", str(clients), str(rounds)]
    with tempfile.TemporaryDirectory() as bucket:
        environment["STORAGE_ROOT"] = bucket
        ended = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False
        )
    if ended.returncode:
        raise RuntimeError(ended.stderr)
    measured: list[dict[str, Any]] = json.loads(ended.stdout)
    return measured


def report(rows: list[dict[str, Any]], clients: int, rounds: int) -> str:
    """Return the page of results."""
    slowest = max(row["seconds"] for row in rows)
    largest = max(row["parameters"] for row in rows)
    lines = [
        "# Scale of pages and commands",
        "",
        f"By `make bench-scale` on {os.cpu_count()} cores: {clients:,} clients and "
        f"{clients * rounds:,} updates of a model in an embedded PostgreSQL, and {MODELS} further models "
        "of which all clients are members. Each page that the console's URLs have is opened once, lists "
        "also with each filter, order and search, and each command runs once, after one page that compiles "
        "templates.",
        "",
        "|  | figure | bar |  |",
        "| --- | --- | --- | --- |",
        _bar("slowest page or command, s", round(slowest, 2), MAX_SECONDS),
        _bar("parameters of a statement", largest, MAX_PARAMETERS),
        "",
        "| page or command | ms | statements | rows read | kB |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| `{row['name']}` | {1000 * row['seconds']:.0f} | {row['statements']} | {row['rows']} | "
        f"{row['size'] / 1000:.1f} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def _bar(figure: str, value: float, most: float) -> str:
    return f"| {figure} | {value:g} | at most {most:g} | {'met' if value <= most else 'missed'} |"


def main() -> int:
    """Measure, write the results, and return 0 if the bars were met."""
    parser = ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--clients", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=100)
    options = parser.parse_args()
    with embedded_postgres() as server:
        rows = costs(server.url, options.clients, options.rounds)
    text = report(rows, options.clients, options.rounds)
    RESULTS.write_text(text)
    print(text)
    return 1 if "missed" in text else 0


if __name__ == "__main__":
    sys.exit(main())
