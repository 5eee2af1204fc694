"""Feed the parsers spoiled files, and count what comes of them.

Every file must be read, and then as the format's own library reads it, or be rejected with the
project's own error. Anything else is printed with the file that did it, and fails the run.
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
from fuzz.targets import LIKE, check, inputs

#: Files opened before the disk they were unpacked to is given back.
BATCH = 500

Outcomes = Counter[tuple[str, str]]


def run(seed: str, count: int, found: Path) -> tuple[Outcomes, float]:
    """Check ``count`` inputs; how often each outcome came up, and the longest time one took."""
    random = Random(seed)
    stream = inputs(random)
    outcomes: Outcomes = Counter()
    longest = 0.0
    for start in range(0, count, BATCH):
        with Spool() as spool:
            for kind, data in islice(stream, min(BATCH, count - start)):
                before = time.perf_counter()
                outcomes[kind, _outcome(kind, data, random, spool, found)] += 1
                longest = max(longest, time.perf_counter() - before)
    return outcomes, longest


def _outcome(format: str, data: bytes, random: Random, spool: Spool, found: Path) -> str:
    try:
        return check(format, data, random.choice((None, None, None, LIKE)), spool)
    except Exception as error:  # what must not be
        path = found / f"{type(error).__name__}-{zlib.crc32(data):08x}.{format}"
        found.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        traceback.print_exc()
        print(f"escaped: {path}", file=sys.stderr)
        return f"ESCAPED {type(error).__name__}"


def main() -> int:
    """Run in several processes and print the counts."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", default="0", help="the same seed makes the same inputs")
    parser.add_argument(
        "--found", type=Path, default=Path("run/fuzz"), help="where to keep what must not be"
    )
    options = parser.parse_args()
    start = time.perf_counter()
    outcomes: Outcomes = Counter()
    longest = 0.0
    with ProcessPoolExecutor(options.processes) as pool:
        shares = [
            pool.submit(run, f"{options.seed}-{n}", share, options.found)
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
    return int(any(outcome.startswith("ESCAPED") for _, outcome in outcomes))


def _shares(total: int, parts: int) -> list[int]:
    return [total // parts + (number < total % parts) for number in range(parts)]


if __name__ == "__main__":
    sys.exit(main())
