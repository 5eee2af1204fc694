"""Feed the parsers mutated files, and count the outcomes.

Every file must either be read, with the same values as the format's own library reads, or be rejected with
`UpdateRejected`. Any other outcome is printed with the file, and fails the run.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
import zlib
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path
from random import Random

from aggregation.formats import Spool
from fuzz.targets import EXPECTED_LAYOUT, check, inputs

#: Files that are opened before the spool with the unpacked ones is deleted.
BATCH = 500

Outcomes = Counter[tuple[str, str]]


def run(seed: str, count: int, failures: Path) -> tuple[Outcomes, float]:
    """Check ``count`` inputs; return how often each outcome occurred, and the longest time of an input."""
    random = Random(seed)
    stream = inputs(random)
    outcomes: Outcomes = Counter()
    longest = 0.0
    for start in range(0, count, BATCH):
        with Spool() as spool:
            for kind, data in islice(stream, min(BATCH, count - start)):
                before = time.perf_counter()
                outcomes[kind, _outcome(kind, data, random, spool, failures)] += 1
                longest = max(longest, time.perf_counter() - before)
    return outcomes, longest


def _outcome(format: str, data: bytes, random: Random, spool: Spool, failures: Path) -> str:
    try:
        return check(format, data, random.choice((None, None, None, EXPECTED_LAYOUT)), spool)
    except Exception as error:  # The fault that is looked for.
        path = failures / f"{type(error).__name__}-{zlib.crc32(data):08x}.{format}"
        failures.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        traceback.print_exc()
        print(f"not rejected: {path}", file=sys.stderr)
        return f"FAILED {type(error).__name__}"


def main() -> int:
    """Run in several processes, print the counts, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", default="0", help="the same seed gives the same inputs")
    parser.add_argument(
        "--failures", type=Path, default=Path("run/fuzz"), help="folder for the inputs that failed"
    )
    options = parser.parse_args()
    start = time.perf_counter()
    outcomes: Outcomes = Counter()
    longest = 0.0
    with ProcessPoolExecutor(options.processes) as pool:
        shares = [
            pool.submit(run, f"{options.seed}-{n}", share, options.failures)
            for n, share in enumerate(_shares(options.inputs, options.processes))
        ]
        for share in shares:
            counted, slowest = share.result()
            outcomes += counted
            longest = max(longest, slowest)
    seconds = time.perf_counter() - start
    for (kind, outcome), count in sorted(outcomes.items()):
        print(f"{kind:12} {outcome:28} {count:>9,}")
    print(
        f"{outcomes.total():,} inputs in {seconds:.0f} s, the slowest took {longest * 1e3:.0f} ms"
    )
    return int(any(outcome.startswith("FAILED") for _, outcome in outcomes))


def _shares(total: int, parts: int) -> list[int]:
    return [total // parts + (number < total % parts) for number in range(parts)]


if __name__ == "__main__":
    sys.exit(main())
