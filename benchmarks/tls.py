"""``python -m benchmarks.tls``: processor time for each GB that is received over TLS; writes `tls.md`.

The server is another process, so that only the client's processor time is counted. The figures decide how
much memory, and therefore how much of a processor, the workers of a distributed round need.
"""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from benchmarks.__main__ import progress
from benchmarks.certificates import write_certificate
from benchmarks.children import Outcome, run
from benchmarks.environments import python_with
from benchmarks.measurements import MILLION, S3, TASKS, Size
from benchmarks.report import table
from benchmarks.s3 import BUCKET, server
from costs.duration import NETWORK_MB_A_SECOND
from costs.stack import MB_A_PROCESSOR, Stack

RESULTS = Path(__file__).with_name("tls.md")

SIZE = Size(20, 12_500_000)

#: Memory of a worker, and what of it the engine may use.
WORKER_MB = Stack().worker_memory_mb
BUDGET_MB = WORKER_MB // 2

MEMORY_SIZES_MB = (256, WORKER_MB, 768, 1024, 1769)


class Case(NamedTuple):
    """What is measured, and how."""

    label: str
    task: str
    tls: bool = True
    request: Mapping[str, Any] = {}


RECEIVE, MEAN, KRUM = "receive over TLS", "weighted_mean over TLS", "krum over TLS"
CASES = (
    Case("receive without TLS", "receive", tls=False),
    Case(RECEIVE, "receive"),
    Case(MEAN, "aggregate", request={"memory_mb": BUDGET_MB}),
    Case(
        KRUM,
        "aggregate",
        request={"memory_mb": BUDGET_MB, "rule": "krum", "arguments": {"f": 2}},
    ),
)


def main() -> int:
    """Measure, and write the page."""
    parser = ArgumentParser(prog="python -m benchmarks.tls", description=__doc__)
    parser.add_argument("--repeat", type=int, default=7, help="runs of each task")
    options = parser.parse_args()
    with TemporaryDirectory(prefix="benchmarks-tls-") as folder:
        outcomes = measure(Path(folder), options.repeat)
    RESULTS.write_text(report(outcomes))
    print(RESULTS.read_text())
    return 0


def measure(folder: Path, repeat: int) -> dict[str, list[Outcome]]:
    """Run each case ``repeat`` times, in turns, each in a process of its own."""
    bucket, certificate = folder / BUCKET, folder / "certificate.pem"
    bucket.mkdir()
    write_certificate(certificate)
    os.environ["AWS_CA_BUNDLE"] = str(certificate)
    paths = [str(bucket / f"{number}.safetensors") for number in range(SIZE.updates)]
    parent = str(folder / "parent.safetensors")
    run(TASKS, "make", paths=paths, parent=parent, size=SIZE.parameters, tensors=SIZE.tensors)
    keys = [Path(path).name for path in paths]
    python, readers = python_with("s3"), Stack().read_threads
    outcomes: dict[str, list[Outcome]] = {case.label: [] for case in CASES}
    with server(python, folder) as plain, server(python, folder, certificate) as tls:
        for _ in range(repeat):
            for case in CASES:
                progress(case.label)
                endpoint = tls if case.tls else plain
                request = {"endpoint": endpoint, "keys": keys, "readers": readers, **case.request}
                outcomes[case.label].append(run(S3, case.task, **request))
    return outcomes


def report(outcomes: Mapping[str, list[Outcome]]) -> str:
    """Return the page."""
    machine, busy = run(TASKS, "machine").answer, os.getloadavg()[1]
    peaks = {label: max(each.peak_bytes for each in runs) for label, runs in outcomes.items()}
    return "\n".join(
        [
            "# Processor time over TLS\n",
            f"By `make bench-tls` on {machine['cores']} cores ({machine['processor']}), load {busy:.1f} "
            f"over the last minutes: {SIZE.updates} updates of {SIZE.megabytes / SIZE.updates:.0f} MB "
            "with the tensors of ResNet-50, from a server on this machine, whose processor time is not "
            f"counted. The rounds are those of a function with {WORKER_MB} MB, {Stack().read_threads} "
            "ranges at a time, and each run has a process of its own. Processor seconds, of the system "
            "too: the median, and the least and the most. Krum reads the updates to compare them, and "
            "then the one that it selects.\n",
            table(("", "processor s a GB", "MB/s"), [_row(*each) for each in outcomes.items()]),
            f"Peak memory of a process with boto3, numpy and a budget of {BUDGET_MB} MB: "
            f"{peaks[MEAN] >> 20} MB for the mean, {peaks[KRUM] >> 20} MB for Krum.\n",
            "## Memory of a worker\n",
            f"Lambda gives a function one processor for each {MB_A_PROCESSOR} MB. The share of it that a "
            f"worker needs to receive {NETWORK_MB_A_SECOND:g} MB/s and to combine what it receives, if a "
            "processor of Lambda is as fast as one of this machine, and if it is half as fast:\n",
            table(
                ("MB", "processors", "mean", "half as fast", "Krum", "half as fast"),
                [_share(memory, outcomes) for memory in MEMORY_SIZES_MB],
            ),
        ]
    )


def seconds_a_gb(outcome: Outcome) -> float:
    """Return the processor seconds for each GB that was read."""
    answer = outcome.answer
    return float(answer["processor_seconds"] / answer["bytes"] * 1e9)


def _row(label: str, runs: list[Outcome]) -> tuple[str, str, str]:
    costs = [seconds_a_gb(each) for each in runs]
    rate = median(each.answer["bytes"] / MILLION / each.seconds for each in runs)
    spread = f"{median(costs):.2f} ({min(costs):.2f} to {max(costs):.2f})"
    return label, spread, f"{rate:.0f}"


def _share(memory_mb: int, outcomes: Mapping[str, list[Outcome]]) -> tuple[str, ...]:
    processors = memory_mb / MB_A_PROCESSOR
    cells = [str(memory_mb), f"{processors:.2f}"]
    for label in (MEAN, KRUM):
        needed = median(map(seconds_a_gb, outcomes[label])) * NETWORK_MB_A_SECOND / 1000
        cells += [f"{slower * needed / processors:.0%}" for slower in (1, 2)]
    return tuple(cells)


if __name__ == "__main__":
    sys.exit(main())
