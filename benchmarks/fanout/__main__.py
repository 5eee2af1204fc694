"""``python -m benchmarks.fanout``: measure rounds over several functions, and write `fanout.md`."""

from __future__ import annotations

import os
import shutil
import sys
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from benchmarks.__main__ import progress
from benchmarks.children import run
from benchmarks.environments import python_with
from benchmarks.measurements import MILLION, TASKS
from benchmarks.report import Bar, table
from benchmarks.s3 import ACCESS_KEY, BUCKET, SECRET_KEY, server
from local.cloud import REGION

RESULTS = Path(__file__).parents[1] / "fanout.md"

ROUNDS = "benchmarks.fanout.rounds"

#: Parameters of a float32 model in the round that is not measured: enough for eight parts.
FIRST_PARAMETERS = 16 * MILLION

#: The least speed-up of eight functions.
BAR_FUNCTIONS, BAR = 8, 6.5


class Rounds(NamedTuple):
    """What is measured."""

    updates: int
    megabytes: int
    rate: float
    counts: Sequence[int]
    repeat: int

    @property
    def gigabytes(self) -> float:
        """What a round reads."""
        return self.updates * self.megabytes / 1000


def main() -> int:
    """Measure, and return 0 if the target was met."""
    parser = ArgumentParser(prog="python -m benchmarks.fanout", description=__doc__)
    parser.add_argument("--functions", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--updates", type=int, default=20, help="in each round")
    parser.add_argument("--megabytes", type=int, default=256, help="of an update")
    parser.add_argument("--rate", type=float, default=20, help="MB/s of a function")
    parser.add_argument(
        "--repeat", type=int, default=3, help="rounds with each number of functions"
    )
    parser.add_argument("--directory", help="folder for the files (default: the temporary folder)")
    options = parser.parse_args()
    rounds = Rounds(
        options.updates, options.megabytes, options.rate, options.functions, options.repeat
    )
    with TemporaryDirectory(prefix="benchmarks-fanout-", dir=options.directory) as folder:
        if shutil.disk_usage(folder).free < 8 * rounds.megabytes * MILLION:
            parser.error(f"{folder} needs {8 * rounds.megabytes} MB of free disk space")
        measured = measure(Path(folder), rounds)
    text, met = report(rounds, measured)
    RESULTS.write_text(text)
    print(text)
    return 0 if met else 1


def measure(folder: Path, rounds: Rounds) -> list[dict[str, float]]:
    """Run the rounds, in a process of its own."""
    bucket = folder / BUCKET
    bucket.mkdir()
    sizes = {"first": FIRST_PARAMETERS, "measured": rounds.megabytes * MILLION // 4}
    files = {name: str(folder / f"{name}.safetensors") for name in sizes}
    for name, size in sizes.items():
        progress(f"{4 * size // MILLION} MB: file")
        run(TASKS, "make", paths=[], parent=files[name], size=size, tensors=None)
    with server(python_with("s3"), folder) as endpoint:
        os.environ.update(_environment(folder, endpoint))
        answer = run(
            ROUNDS,
            "measure",
            bucket=str(bucket),
            files=files,
            updates=rounds.updates,
            counts=rounds.counts,
            repeat=rounds.repeat,
            s3_port=urlsplit(endpoint).port,
            rate=rounds.rate * MILLION,
        ).answer
    measured: list[dict[str, float]] = answer["rounds"]
    return measured


def _environment(folder: Path, endpoint: str) -> dict[str, str]:
    """Return the variables of the process that runs the rounds; functions inherit them."""
    return {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_REGION": REGION,
        "AWS_ENDPOINT_URL_S3": endpoint,
        "BUCKET": BUCKET,
        "CLIENT_STATUS": "false",
        "DATABASE_URL": f"sqlite:///{folder}/database.sqlite3",
        "DJANGO_SETTINGS_MODULE": "settings",
        "NO_PROXY": "127.0.0.1",
        "POWERTOOLS_METRICS_NAMESPACE": "benchmarks",
        "POWERTOOLS_SERVICE_NAME": "benchmarks",
        "POWERTOOLS_TRACE_DISABLED": "true",
    }


def report(rounds: Rounds, measured: Sequence[Mapping[str, float]]) -> tuple[str, bool]:
    """Return the page, and whether the target was met."""
    by_count = {
        count: [each for each in measured if each["functions"] == count] for count in rounds.counts
    }
    seconds = {count: _median(each, "seconds") for count, each in by_count.items()}
    one = seconds[rounds.counts[0]]
    bars = []
    if BAR_FUNCTIONS in seconds:
        speed_up = one / seconds[BAR_FUNCTIONS]
        what = f"{BAR_FUNCTIONS} functions: times as fast as one, overhead included"
        bars.append(Bar(what, speed_up, BAR))
    machine, busy = run(TASKS, "machine").answer, os.getloadavg()[2]
    text = "\n".join(
        [
            "# A round over several functions\n",
            f"By `make bench-fanout` on {machine['cores']} cores ({machine['processor']}), load "
            f"{busy:.1f} over the last minutes: weighted_mean of {rounds.updates} updates of "
            f"{rounds.megabytes} MB in the 267 tensors of a scaled ResNet-50, {rounds.gigabytes:.2f} GB in "
            "all. Each function is the real handler in the Lambda runtime emulator, and reaches a server "
            f"of S3 on this machine through a proxy that transfers {rounds.rate:g} MB/s in both "
            "directions together. moto executes the state machine. Medians of "
            f"{rounds.repeat} rounds, in turns, with the least and the most. One round comes before, so "
            "that no cold start is measured: eight of them would share two cores here.\n",
            table(("", "figure", "target", ""), [bar.row() for bar in bars]),
            "From the request of a round until its result is published. *Before*: the claim, the plan and "
            "the start of the state machine. *Reading*: from the first task's start until the last one's "
            "end, with the upload of the result. *After*: completing the upload, and the transaction.\n",
            table(
                (
                    "functions",
                    "s",
                    "times as fast",
                    "before, s",
                    "reading, s",
                    "after, s",
                    "overhead",
                ),
                [_row(count, each, one) for count, each in by_count.items()],
            ),
        ]
    )
    return text, all(bar.met for bar in bars)


def _row(count: int, rounds: Sequence[Mapping[str, float]], one: float) -> tuple[str, ...]:
    taken = [each["seconds"] for each in rounds]
    before, reading, after = (_median(rounds, name) for name in ("before", "reading", "after"))
    overhead = f"{(before + after) / median(taken):.0%}"
    phases = (f"{before:.1f}", f"{reading:.1f}", f"{after:.1f}", overhead)
    spread = f"{median(taken):.1f} ({min(taken):.1f} to {max(taken):.1f})"
    alone = count == 1
    return (
        str(count),
        spread,
        f"{one / median(taken):.2f}",
        *(("",) * len(phases) if alone else phases),
    )


def _median(rounds: Sequence[Mapping[str, Any]], name: str) -> float:
    return float(median(each[name] for each in rounds))


if __name__ == "__main__":
    sys.exit(main())
