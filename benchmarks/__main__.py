"""``python -m benchmarks``: measure, compare with the targets, and write `results.md`.

With peers, the table in the README is written as well.
"""

from __future__ import annotations

import shutil
import sys
from argparse import ArgumentParser
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.environments import python_with
from benchmarks.measurements import Measurements
from benchmarks.report import report

RESULTS = Path(__file__).with_name("results.md")
README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- written by make bench-peers -->\n", "<!-- end -->\n"

#: The largest set of files, and the 10 GB result of the sparse model.
DISK_BYTES = 16 << 30


def main() -> int:
    """Measure everything, and return 0 if all targets were met."""
    parser = ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--peers", action="store_true", help="also measure Flower and NVFlare")
    parser.add_argument("--runs", type=int, default=7, help="runs of each task; the median counts")
    parser.add_argument("--directory", help="folder for the files (default: the temporary folder)")
    options = parser.parse_args()
    with TemporaryDirectory(prefix="benchmarks-", dir=options.directory) as directory:
        if shutil.disk_usage(directory).free < DISK_BYTES:
            parser.error(f"{directory} needs {DISK_BYTES >> 30} GiB of free disk space")
        peers = python_with("peers") if options.peers else None
        measurements = Measurements(
            Path(directory),
            options.runs,
            peer_python=peers,
            server_python=python_with("s3"),
            progress=progress,
        )
        found = report(measurements)
    RESULTS.write_text(found.page)
    if options.peers:
        README.write_text(with_table(README.read_text(), found.highlights))
    print(found.page)
    return 0 if found.met else 1


def with_table(text: str, table: str) -> str:
    """Return a text with its table between the two comments replaced."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}{table}{END}{after}"


def progress(line: str) -> None:
    """Print the current step."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
