"""``python -m benchmarks.learning``: train under attack, and write `learning.md` and its plot."""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.environments import python_with
from benchmarks.learning.federation import Federation, Run, start_flower
from benchmarks.learning.report import Results, all_runs, page, plot
from benchmarks.learning.setups import FLOWER, JUDGING, OURS, Setup

PAGE = Path(__file__).parent.with_name("learning.md")


def main() -> int:
    """Run all federations, and return 0 if the recommended set-up meets the bar."""
    parser = ArgumentParser(prog="python -m benchmarks.learning", description=__doc__)
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=list(JUDGING), help="default: %(default)s"
    )
    parser.add_argument("--processes", type=int, default=2, help="default: %(default)s")
    parser.add_argument(
        "--without-flower", action="store_true", help="leave Flower's strategies out"
    )
    options = parser.parse_args()
    start = time.monotonic()
    python = None if options.without_flower else python_with("peers")
    setups: Sequence[Setup] = OURS if python is None else (*OURS, *FLOWER)
    runs = all_runs(setups)
    with ProcessPoolExecutor(options.processes) as pool:
        tasks = [pool.submit(learn, runs, seed, python) for seed in options.seeds]
        found = [task.result() for task in tasks]
    results = Results(
        runs, np.array([each for each, _ in found]), np.array([central for _, central in found])
    )
    text = page(results, setups, time.monotonic() - start)
    print(text)
    if options.seeds == list(JUDGING):
        PAGE.write_text(text)
        plot(PAGE.with_suffix(".png"), results, setups)
    return 0 if results.met else 1


def learn(runs: Sequence[Run], seed: int, python: str | None) -> tuple[NDArray[np.float64], float]:
    """Return the accuracies of all runs with one seed, and that of central training."""
    flower = start_flower(python) if python else None
    try:
        federation = Federation(runs, seed, flower)
        accuracies = federation.learn()
        central = federation.central()
    finally:
        if flower and flower.stdin:
            flower.stdin.close()
            flower.wait()
    print(f"seed {seed} is done", file=sys.stderr, flush=True)
    return accuracies, central


if __name__ == "__main__":
    sys.exit(main())
